"""Label sets: what may be annotated, read from conf/labels. Knows nothing of CVAT."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from casebook.config import read_config
from casebook.documents import Document
from casebook.errors import DataError


class Label(Document):
    """One thing that can be annotated."""

    name: str
    kind: Literal["mask", "tag"] = "mask"
    role: Literal["segment", "lesion", "tree", "reject", "object"] = "object"
    """segment: a part of the vessel; lesion: found by concept, its box prompts the model;
    tree: everything at once; reject: the frame is unusable; object: anything else."""
    code: int | None = None
    """The code in the field's own scheme (CASS number for coronary segments)."""
    color: str = Field(default="#33ddff", pattern=r"^#[0-9a-f]{6}$")
    aliases: tuple[str, ...] = ()
    """Other spellings a source may use."""
    confusable: tuple[str, ...] = ()
    """Names of similar labels: the hard negatives."""


class LabelSet(Document):
    """All labels of a project, in order; COCO category ids are positions from 1."""

    name: str
    labels: tuple[Label, ...] = Field(min_length=1)
    reject_reasons: tuple[str, ...] = ("unusable frame", "wrong vessel", "other")

    @model_validator(mode="after")
    def _unique(self) -> "LabelSet":
        names = [label.name for label in self.labels]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"label names are repeated: {', '.join(repeated)}")
        return self

    @property
    def masks(self) -> tuple[Label, ...]:
        """Labels drawn as masks."""
        return tuple(label for label in self.labels if label.kind == "mask")

    def of_role(self, role: str) -> tuple[Label, ...]:
        """Labels with a role, in order."""
        return tuple(label for label in self.labels if label.role == role)

    def lesion_of(self, segment: str, lesion: Label) -> str:
        """A segment's lesion in words: `mid RCA stenosis`.

        Raises:
            DataError: no label has the segment's name.
        """
        return f"{self.find(segment).name} {lesion.name}"

    def find(self, name: str) -> Label:
        """The label of this name or alias, whatever the case of its letters.

        Raises:
            DataError: no label has that name; the names there are listed.
        """
        wanted = " ".join(name.replace("_", " ").split()).casefold()
        for label in self.labels:
            if wanted in {label.name.casefold(), *(alias.casefold() for alias in label.aliases)}:
                return label
        known = ", ".join(label.name for label in self.labels)
        raise DataError(f"label {name!r} is not in label set {self.name!r}; it has: {known}")

    def category_id(self, name: str) -> int:
        """COCO category id of a label, from 1."""
        return self.labels.index(self.find(name)) + 1


def read_labels(path: Path) -> LabelSet:
    """Read a label set from YAML.

    Raises:
        ConfigError: the file is missing or not a label set.
    """
    return read_config(path, LabelSet)

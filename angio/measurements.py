"""What our own QCA finds on the masks experts drew, beside what the lab wrote down for them.

Stored bits are measured where the catalogue keeps them, else the rendered frame. Knows no file
format and no statistics.
"""

import io
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image
from pydantic import Field

from angio.qca import Lesion, measure
from casebook.annotations import CocoAnnotation, Origin
from casebook.cases import Case
from casebook.catalogue import Catalogue
from casebook.documents import Document
from casebook.errors import DataError, QcaError, StateError
from casebook.masks import decode

GIVEN = ("mld_mm", "interpolated_rvd_mm", "diameter_stenosis_pct", "lesion_length_mm")
"""Measurements of a lab that have a counterpart here."""
_BY_EXPERTS = frozenset({Origin.HUMAN, Origin.HUMAN_BOX, Origin.MODEL_REVIEWED})
_TREE = "tree"


class Measurement(Document):
    """One segment an expert drew, measured by us."""

    case_id: str
    label: str
    pixels: str
    """What was measured besides the mask: `stored` or `rendered`."""
    lesion: Lesion | None = None
    reason: str | None = None
    """Why it could not be measured."""
    given: dict[str, float] = Field(default_factory=dict)
    """What the lab measured, by its name in lower case."""

    def ours(self, name: str) -> float | None:
        """Our value for a measurement the lab names; none without a lesion, or without mm."""
        if self.lesion is None:
            return None
        return {
            "mld_mm": self.lesion.mld_mm,
            "interpolated_rvd_mm": self.lesion.rvd_mm,
            "diameter_stenosis_pct": self.lesion.stenosis_pct,
            "lesion_length_mm": self.lesion.length_mm,
        }[name]


def _pixels(
    catalogue: Catalogue, case: Case
) -> tuple[str, UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"]]:
    path = catalogue.stored_path(case.ref)
    try:
        payload = path.read_bytes()
    except FileNotFoundError:
        return "rendered", catalogue.frame(case.ref).pixels
    try:
        with Image.open(io.BytesIO(payload), formats=("PNG",)) as image:
            stored = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as problem:
        raise DataError(
            f"case {case.case_id}: its stored bits cannot be read ({type(problem).__name__}); "
            "import the case again"
        ) from None
    if stored.shape != (case.height_px, case.width_px):
        raise DataError(
            f"case {case.case_id}: its stored bits have shape {stored.shape}; expected "
            f"{(case.height_px, case.width_px)}; import the case again"
        )
    return "stored", stored.astype(np.uint16)


def _given(entry: CocoAnnotation) -> dict[str, float]:
    """The lab's own numbers, those that are numbers."""
    found = {}
    for name in GIVEN:
        try:
            value = float(entry.attributes[name])
        except (KeyError, ValueError):
            continue
        if np.isfinite(value):
            found[name] = value
    return found


def measure_case(catalogue: Catalogue, case: Case) -> tuple[Measurement, ...]:
    """Every segment that experts drew on a case; the whole tree is none.

    Raises:
        StateError: no expert drew a segment on it.
        DataError: its stored bits are damaged.
    """
    expert = catalogue.expert_annotations(case.case_id)
    trees = {c.id for c in expert.categories if c.supercategory == _TREE} if expert else set()
    entries = [
        entry
        for entry in (expert.annotations if expert else ())
        if entry.origin in _BY_EXPERTS and entry.category_id not in trees
    ]
    if expert is None or not entries:
        raise StateError(
            f"case {case.case_id} has no segment drawn by an expert; `casebook list --annotated` "
            "shows cases that have"
        )
    kind, pixels = _pixels(catalogue, case)
    found = []
    for entry in entries:
        told = Measurement(
            case_id=case.case_id, label=expert.label_of(entry), pixels=kind, given=_given(entry)
        )
        try:
            lesion = measure(pixels, decode(entry.mask), case.spacing)
        except QcaError as problem:
            found.append(told.with_(reason=str(problem)))
        else:
            found.append(told.with_(lesion=lesion))
    return tuple(found)


def measured_by_the_lab(catalogue: Catalogue) -> Iterator[Case]:
    """Annotated cases on which the lab wrote down at least one measurement."""
    for case in catalogue.cases(annotated=True):
        expert = catalogue.expert_annotations(case.case_id)
        if expert and any(_given(entry) for entry in expert.annotations):
            yield case

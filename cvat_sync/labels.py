"""A label set as CVAT's labels: what a project lacks of it, and what was renamed there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from casebook.errors import DataError
from casebook.labels import LabelSet
from cvat_sync.remote import (
    CONFIDENCE,
    MLD,
    MODEL_ID,
    REASON,
    STENOSIS_PCT,
    LabelSpec,
    RemoteLabel,
)


def _text(name: str) -> LabelSpec:
    return {
        "name": name,
        "mutable": True,
        "input_type": "text",
        "values": [""],
        "default_value": "",
    }


def _mask_attributes() -> list[LabelSpec]:
    # A number attribute holds integers only: CVAT answers 500 to a fraction.
    confidence: LabelSpec = {
        "name": CONFIDENCE,
        "mutable": True,
        "input_type": "number",
        "values": ["0", "100", "1"],
        "default_value": "0",
    }
    return [_text(MODEL_ID), confidence, _text(STENOSIS_PCT), _text(MLD)]


def label_specs(labels: LabelSet) -> list[LabelSpec]:
    """The labels a project of this label set has in CVAT.

    A lesion may also be drawn as a rectangle, so its label takes any shape.
    """
    specs: list[LabelSpec] = []
    for label in labels.labels:
        is_tag = label.kind == "tag"
        kind = "tag" if is_tag else "any" if label.role == "lesion" else "mask"
        attributes = [_text(REASON)] if is_tag else _mask_attributes()
        specs.append(
            {"name": label.name, "color": label.color, "type": kind, "attributes": attributes}
        )
    return specs


def missing_labels(labels: LabelSet, remote: Sequence[RemoteLabel]) -> tuple[str, ...]:
    """Names of the labels a project lacks, in the order of the label set."""
    there = {label.name for label in remote}
    return tuple(label.name for label in labels.labels if label.name not in there)


@dataclass(frozen=True)
class LabelChanges:
    """What a project's labels need to serve a label set; nothing is ever taken away."""

    specs: tuple[LabelSpec, ...] = ()
    """As CVAT's API takes them: new labels, and labels by id with the attributes they lack."""
    words: tuple[str, ...] = ()
    """Each of them in words."""


def label_changes(labels: LabelSet, remote: Sequence[RemoteLabel]) -> LabelChanges:
    """The labels and attributes a project lacks of a label set.

    Raises:
        DataError: a label there takes another kind of shape than we draw.
    """
    there = {label.name: label for label in remote}
    specs: list[LabelSpec] = []
    words: list[str] = []
    wrong: list[str] = []
    for spec in label_specs(labels):
        name, wanted = str(spec["name"]), cast("list[LabelSpec]", spec["attributes"])
        found = there.get(name)
        if found is None:
            specs.append(spec)
            words.append(f"label {name!r}")
            continue
        kind = "tag" if spec["type"] == "tag" else "mask"
        if found.type not in {kind, "any"}:
            wrong.append(f"{name!r} takes {found.type} and must take {kind}")
        lacking = [one for one in wanted if one["name"] not in found.attributes]
        if lacking:
            specs.append({"id": found.id, "name": name, "attributes": lacking})
            words += [f"attribute {one['name']!r} of label {name!r}" for one in lacking]
    if wrong:
        raise DataError(
            f"labels in CVAT have another type: {'; '.join(wrong)}. Set it to `any` on the "
            "project's page, then push again"
        )
    return LabelChanges(tuple(specs), tuple(words))


def check_renamed(known: Mapping[str, int], remote: Sequence[RemoteLabel]) -> None:
    """Refuse to add a label beside the one that was renamed.

    Args:
        known: Ids of the labels by name, as earlier pushes found them.
        remote: The labels there now.

    Raises:
        DataError: a label of ours has another name now.
    """
    now = {label.id: label.name for label in remote}
    renamed = [
        f"{name!r} is called {now[number]!r}"
        for name, number in known.items()
        if number in now and now[number] != name
    ]
    if renamed:
        raise DataError(
            f"labels were renamed in CVAT: {'; '.join(renamed)}. Name them back on the project's "
            "page, or name them so in conf/labels too, then push again"
        )


def check_there(pushed: Mapping[str, int], remote: Sequence[RemoteLabel]) -> None:
    """Refuse to take masks that went with their label for ones people have deleted.

    Args:
        pushed: Ids of the labels by name, as the push found them.
        remote: The labels there now.

    Raises:
        DataError: a label was deleted in CVAT, and all that was drawn with it.
    """
    now = {label.id for label in remote}
    gone = [repr(name) for name, number in pushed.items() if number not in now]
    if gone:
        raise DataError(
            "labels were deleted in CVAT since the push, and all that was drawn with them: "
            f"{', '.join(gone)}. Restore the project there from a backup; or pull (or collect) "
            "with --force, which takes these masks as deleted by the annotators"
        )


def named_as_pushed(
    labels: Sequence[RemoteLabel], pushed: Mapping[str, int]
) -> tuple[tuple[RemoteLabel, ...], tuple[str, ...]]:
    """Labels under the names they were pushed with, and a line for each that was renamed since."""
    names = {number: name for name, number in pushed.items()}
    ours, lines = [], []
    for label in labels:
        name = names.get(label.id, label.name)
        if name != label.name:
            lines.append(f"label {label.name!r} was {name!r} when pushed, and is read as such")
        ours.append(replace(label, name=name))
    return tuple(ours), tuple(lines)

"""A label set as CVAT's labels, and what a project lacks of it."""

from collections.abc import Sequence

from casebook.labels import LabelSet
from cvat_sync.remote import CONFIDENCE, MLD, MODEL_ID, REASON, STENOSIS_PCT, RemoteLabel

LabelSpec = dict[str, object]
"""A label as CVAT's API takes it."""


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

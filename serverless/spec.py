"""How our labels are described to CVAT: the attributes every mask carries.

`python -m serverless.spec LABELS.yaml` prints the JSON that a detector's function.yaml holds under
`annotations.spec`. Knows no server.
"""

import json
import sys
from pathlib import Path

from casebook.documents import Document
from casebook.labels import LabelSet, read_labels


class AttributeSpec(Document):
    """An attribute of a label, as CVAT declares it."""

    name: str
    input_type: str
    values: tuple[str, ...] = ()


ATTRIBUTES = (
    AttributeSpec(name="model_id", input_type="text"),
    AttributeSpec(name="confidence", input_type="number", values=("0", "100", "1")),
    AttributeSpec(name="stenosis_pct", input_type="text"),
    AttributeSpec(name="mld", input_type="text"),
)
"""CVAT takes whole numbers only where the type is number; a measurement is therefore text."""


class LabelSpec(Document):
    """A label a detector may answer."""

    id: int
    name: str
    type: str = "mask"
    attributes: tuple[AttributeSpec, ...] = ATTRIBUTES


def label_specs(labels: LabelSet) -> tuple[LabelSpec, ...]:
    """The labels a detector answers, numbered as their COCO categories."""
    return tuple(
        LabelSpec(id=labels.category_id(label.name), name=label.name) for label in labels.masks
    )


def spec_json(labels: LabelSet) -> str:
    """The labels as the text of `annotations.spec`, one label a line."""
    lines = ",\n".join(
        "  " + json.dumps(entry.model_dump(mode="json")) for entry in label_specs(labels)
    )
    return f"[\n{lines}\n]\n"


if __name__ == "__main__":
    sys.stdout.write(spec_json(read_labels(Path(sys.argv[1]))))

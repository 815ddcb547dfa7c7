"""A released student: three ONNX graphs and the manifest that says how to run them.

Written so that a program in another language could run it. Knows no torch and no ONNX runtime.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from casebook.documents import Document, read_document, sha256_of_file
from casebook.errors import DataError, ModelError, StateError
from casebook.labels import LabelSet
from casebook.registry import ModelCard
from export.gates import Gates

D = TypeVar("D", bound=Document)
ENCODER, DECODER, AUTOMATIC = "encoder.onnx", "decoder.onnx", "automatic.onnx"
MANIFEST = "manifest.json"
SCHEMA = 3
"""1 and 2 had fewer gates; their manifests are read as they are, figures they lack are absent."""
NORMALISATION = (
    "grey values 0 to 255 as float32; mean and deviation are removed inside the encoder's graph"
)
PROMPTS = (
    "points in px of the square, x before y, a pixel's centre has whole coordinates; labels: 1 "
    "inside, 0 outside, 2 and 3 first and last corner of the box, -1 nothing; previous: logits of "
    "the last answer, zero when there is none"
)


class TensorSpec(Document):
    """One input or output of a graph."""

    name: str
    dtype: Literal["float32", "int64"]
    axes: tuple[str, ...]
    """`b` batch, `n` points, `s` px of the square, `k` maps; others are fixed numbers."""
    meaning: str


class GraphSpec(Document):
    """One ONNX file."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class WindowRule(Document):
    """How the square around a prompt is chosen, in px of the image."""

    box_margin: float = Field(gt=0)
    smallest_px: int = Field(gt=0)
    click_px: int = Field(gt=0)
    step_px: int = Field(gt=0)


class AutomaticMap(Document):
    """One map of the automatic head."""

    label: str
    role: Literal["tree", "lesion"]
    threshold: float = 0.0
    """Logit above which a pixel belongs to the mask."""


class Bundle(Document):
    """The manifest."""

    schema_: Literal[1, 2, 3] = Field(default=3, alias="schema", serialization_alias="schema")
    version: str
    created: datetime
    opset: int
    graphs: tuple[GraphSpec, ...]
    side_px: int = Field(gt=0)
    """Side of the square a prompt is answered in."""
    whole_px: int = Field(gt=0)
    """Side of the square a whole image is read in: longer side fitted, the rest repeated edge."""
    window: WindowRule
    normalisation: str = NORMALISATION
    prompts: str = PROMPTS
    threshold: float = 0.0
    """Logit above which a pixel belongs to a prompted mask."""
    labels: LabelSet
    maps: tuple[AutomaticMap, ...]
    """The automatic head's maps, in order."""
    card: ModelCard
    gates: Gates
    files: dict[str, str]
    """SHA-256 of every file beside the manifest."""
    licence: str


def read_bundle(folder: Path) -> Bundle:
    """The manifest of a bundle, after every file was found whole.

    Raises:
        ModelError: no bundle, damaged, or written by a newer version.
    """
    path = folder / MANIFEST
    try:
        schema = json.loads(path.read_bytes()).get("schema")
    except FileNotFoundError:
        raise ModelError(f"{folder}: no {MANIFEST}; give the folder of a released bundle") from None
    except (OSError, ValueError, AttributeError):
        raise ModelError(f"{path}: not a bundle's manifest; copy the bundle again") from None
    if isinstance(schema, int) and schema > SCHEMA:
        raise ModelError(
            f"{path}: schema {schema}, this program reads up to {SCHEMA}; install a newer angioloop"
        )
    try:
        bundle = read_document(path, Bundle)
    except (DataError, StateError) as problem:
        raise ModelError(str(problem)) from None
    for name, digest in bundle.files.items():
        file = folder / name
        if Path(name).name != name:
            raise ModelError(f"{path}: file name {name!r} leaves the bundle; copy the bundle again")
        if not file.is_file():
            raise ModelError(f"{folder}: {name} is missing; copy the bundle again")
        if sha256_of_file(file) != digest:
            raise ModelError(f"{folder}: {name} is damaged (hash differs); copy the bundle again")
    missing = {ENCODER, DECODER, AUTOMATIC} - set(bundle.files)
    if missing:
        raise ModelError(f"{path}: lists no {sorted(missing)[0]}; copy the bundle again")
    return bundle


def read_part(folder: Path, files: dict[str, str], name: str, kind: type[D]) -> D | None:
    """A document that lies in a whole bundle; nothing when it has none.

    Args:
        folder: of the bundle.
        files: those its manifest lists, found whole.
        name: of the file.
        kind: of the document.

    Raises:
        ModelError: it cannot be read by this program.
    """
    if name not in files:
        return None
    try:
        return read_document(folder / name, kind)
    except (DataError, StateError) as problem:
        raise ModelError(f"{problem}; install a newer angioloop or copy the bundle again") from None

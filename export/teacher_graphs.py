"""The teacher itself as ONNX: image encoder and prompt decoder, for a runtime without torch.

`teacher-encoder.onnx`: pixels → embedding, fine, middle. `teacher-decoder.onnx`: those, points,
point_labels, previous, has_previous → logits, quality.

The model's square is fixed when it is built; the number of points is free. The concept path does
not export as a whole. Training side only.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import torch
from pydantic import Field
from torch import Tensor, nn

from casebook.documents import Document, sha256_of_file, write_bytes, write_document
from casebook.errors import ModelError
from segmenter.interactive import is_ambiguous, likeliest
from segmenter.sam3 import Features, Sam3

ENCODER, DECODER, MANIFEST = "teacher-encoder.onnx", "teacher-decoder.onnx", "teacher.json"
OPSET = 18
MAX_ABS = 1e-3
"""Largest difference of a logit, relative to the largest logit where that is above 1."""
_COMPARED = (((2,), False), ((0, 1), False), ((0, 1, 2), True), ((0, 1, 2, 3, 4), True))
"""Prompts the two runtimes are compared with: which points, and whether they correct an answer. A
click, a box, then with clicks."""
_INPUTS = (
    "embedding", "fine", "middle", "points", "point_labels", "previous", "has_previous",
)  # fmt: skip
PIXELS = "grey square of side_px, three times, brought from 0–255 to -1–1 (mean and deviation 0.5)"
STANDARDISED = "grey square of side_px, three times, brought to mean 0 and deviation 1"
PROMPTS = (
    "points in px of the square, x before y; labels: 1 inside, 0 outside, 2 and 3 first and last "
    "corner of the box, -1 nothing; previous: logits of the last answer, counted where "
    "has_previous is true"
)


class TeacherGraphs(Document):
    """What was exported, and how near torch it comes."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    model_id: str
    opset: int
    side_px: int = Field(gt=0)
    mask_side_px: int = Field(gt=0)
    pixels: str = PIXELS
    prompts: str = PROMPTS
    max_abs: float
    """Largest difference of a logit between torch and the ONNX runtime."""
    mask_iou: float
    """Smallest overlap of their masks."""
    files: dict[str, str]
    """SHA-256 of each graph."""
    licence: str


class _Encoder(nn.Module):
    """Normalised pixels to features."""

    def __init__(self, model: Sam3) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.model.encode(pixels)
        return features.embedding, features.fine, features.middle


class _Decoder(nn.Module):
    """Features and a prompt to one mask and its expected IoU.

    One click alone is answered by the best of three masks where the teacher does so.
    """

    def __init__(self, model: Sam3, multimask: bool) -> None:
        super().__init__()
        self.model, self.multimask = model, multimask

    def forward(
        self,
        embedding: Tensor,
        fine: Tensor,
        middle: Tensor,
        points: Tensor,
        point_labels: Tensor,
        previous: Tensor,
        has_previous: Tensor,
    ) -> tuple[Tensor, Tensor]:
        asked = Features(embedding, fine, middle), points, point_labels, previous, has_previous
        if not self.multimask:
            return self.model.decode(*asked)
        masks, quality = self.model.candidates(*asked)
        return likeliest(masks, quality, is_ambiguous(point_labels) & ~has_previous)


def _turned(values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    pairs = values.float().unflatten(-1, (-1, 2))
    real, imaginary = pairs[..., 0], pairs[..., 1]
    turned = torch.stack(
        [real * cosine - imaginary * sine, real * sine + imaginary * cosine], dim=-1
    )
    return turned.flatten(-2).type_as(values)


@contextmanager
def real_rotation(model: nn.Module) -> Iterator[int]:
    """Rotary embeddings in real numbers for the time of the block: ONNX has no complex ones.

    The same rotation as `apply_rotary_enc` of sam3/model/vitdet.py, whose attention blocks are told
    by their `_apply_rope`. How many were changed is given.
    """
    changed: list[Any] = []
    for block in model.modules():
        frequencies = getattr(block, "freqs_cis", None)
        if not hasattr(block, "_apply_rope") or not isinstance(frequencies, Tensor):
            continue
        cosine, sine = frequencies.real.contiguous(), frequencies.imag.contiguous()

        def rotate(
            q: Tensor, k: Tensor, cosine: Tensor = cosine, sine: Tensor = sine
        ) -> tuple[Tensor, Tensor]:
            return _turned(q, cosine, sine), _turned(k, cosine, sine)

        block.__dict__["_apply_rope"] = rotate
        changed.append(block)
    try:
        yield len(changed)
    finally:
        for block in changed:
            del block.__dict__["_apply_rope"]


def _write(
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    path: Path,
    names: tuple[tuple[str, ...], tuple[str, ...]],
    shapes: tuple[dict[int, object], ...],
) -> None:
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # The exporter's own use of torch warns about torch's coming changes.
        warnings.simplefilter("ignore")
        written = Path(scratch) / path.name
        torch.onnx.export(
            module,
            arguments,
            str(written),
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            input_names=list(names[0]),
            output_names=list(names[1]),
            dynamic_shapes=shapes,
            verbose=False,
        )
        onnx.checker.check_model(str(written), full_check=True)
        write_bytes(path, written.read_bytes())


def _prompt(side: int, taken: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Some of a box's corners, and of clicks beside and inside it."""
    points = torch.tensor([[0.2, 0.3], [0.7, 0.8], [0.5, 0.5], [0.1, 0.1], [0.6, 0.4]]) * side
    kinds = torch.tensor([2, 3, 1, 0, 1], dtype=torch.int32)
    return points[None, list(taken)], kinds[None, list(taken)]


def _compare(decoder: _Decoder, folder: Path) -> tuple[float, float]:
    """The largest difference of a logit and the smallest overlap of masks, over a few prompts."""
    model = decoder.model
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    encoder, graph = (
        onnxruntime.InferenceSession(str(folder / name), options, ["CPUExecutionProvider"])
        for name in (ENCODER, DECODER)
    )
    side, mask_side = model.config.side_px, model.config.mask_side
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(1, 3, side, side, generator=generator) * 2 - 1
    wanted = model.encode(pixels)
    found = encoder.run(None, {"pixels": pixels.numpy()})
    largest, smallest = 0.0, 1.0
    previous = torch.zeros(1, 1, mask_side, mask_side)
    for taken, corrects in _COMPARED:
        points, labels = _prompt(side, taken)
        has = torch.tensor([corrects])
        logits, _ = decoder(*wanted, points, labels, previous, has)
        given = (*found, points.numpy(), labels.numpy(), previous.numpy(), has.numpy())
        answer = graph.run(None, dict(zip(_INPUTS, given, strict=True)))[0]
        reach = max(1.0, float(logits.abs().max()))
        largest = max(largest, float(np.abs(answer - logits.numpy()).max()) / reach)
        ours, theirs = answer > 0, logits.numpy() > 0
        union = int((ours | theirs).sum())
        smallest = min(smallest, int((ours & theirs).sum()) / union if union else 1.0)
        previous = logits[:, None]
    return largest, smallest


def export_teacher(
    model: Sam3, model_id: str, folder: Path, licence: str, *, multimask: bool = False
) -> TeacherGraphs:
    """Write the teacher's two graphs and what they are; the manifest comes last.

    Args:
        model: on the CPU, with the adapter that shall be in the graphs.
        model_id: what it is called.
        folder: made when it is not there.
        licence: of the weights.
        multimask: whether one click alone is answered by the best of three masks.

    Raises:
        ModelError: the ONNX runtime answers otherwise than torch.
    """
    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    side, mask_side = model.config.side_px, model.config.mask_side
    model.eval()
    decoder = _Decoder(model, multimask)
    with torch.no_grad(), real_rotation(model):
        pixels = torch.zeros(1, 3, side, side)
        features = model.encode(pixels)
        _write(_Encoder(model), (pixels,), folder / ENCODER, (("pixels",), _INPUTS[:3]), ({},))
        points, labels = _prompt(side, range(4))
        previous = torch.zeros(1, 1, mask_side, mask_side)
        many = torch.export.Dim("n", min=1, max=64)
        _write(
            decoder,
            (*features, points, labels, previous, torch.tensor([True])),
            folder / DECODER,
            (_INPUTS, ("logits", "quality")),
            ({}, {}, {}, {1: many}, {1: many}, {}, {}),
        )
    with torch.no_grad():
        max_abs, mask_iou = _compare(decoder, folder)
    if not max_abs <= MAX_ABS:
        raise ModelError(
            f"{model_id}: torch and the ONNX runtime differ by {max_abs:.2g} of the largest logit; "
            f"expected {MAX_ABS:g} at most; do not use {folder}, report the versions of both"
        )
    made = TeacherGraphs(
        model_id=model_id,
        opset=OPSET,
        side_px=side,
        mask_side_px=mask_side,
        pixels=STANDARDISED if model.config.standardised else PIXELS,
        max_abs=max_abs,
        mask_iou=mask_iou,
        files={name: sha256_of_file(folder / name) for name in (ENCODER, DECODER)},
        licence=licence,
    )
    write_document(folder / MANIFEST, made)
    return made

"""The student as ONNX graphs, opset pinned, with named and dynamic axes. Training side only.

| graph     | inputs                                   | outputs           |
|-----------|------------------------------------------|-------------------|
| encoder   | grey                                     | map0 … map3       |
| decoder   | map0 … map3, points, point_labels, previous | logits, quality |
| automatic | map0 … map3                              | logits            |
"""

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from casebook.documents import write_bytes
from export.bundle import AUTOMATIC, DECODER, ENCODER, GraphSpec, TensorSpec
from export.student import COARSEST, Decoder, Features, Student

OPSET = 18
_SCALES = (2, 4, 8, 16)


class _DecoderGraph(nn.Module):
    """The decoder with its maps as separate inputs."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self,
        map0: Float[Tensor, "b c0 h0 w0"],
        map1: Float[Tensor, "b c1 h1 w1"],
        map2: Float[Tensor, "b c2 h2 w2"],
        map3: Float[Tensor, "b c3 h3 w3"],
        points: Float[Tensor, "b n 2"],
        point_labels: Int[Tensor, "b n"],
        previous: Float[Tensor, "b 1 s s"],
    ) -> tuple[Tensor, Tensor]:
        logits, quality = self.decoder((map0, map1, map2, map3), points, point_labels, previous)
        return logits, quality


class _AutomaticGraph(nn.Module):
    """The automatic head with its maps as separate inputs."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(
        self,
        map0: Float[Tensor, "b c0 h0 w0"],
        map1: Float[Tensor, "b c1 h1 w1"],
        map2: Float[Tensor, "b c2 h2 w2"],
        map3: Float[Tensor, "b c3 h3 w3"],
    ) -> Tensor:
        logits: Tensor = self.head((map0, map1, map2, map3))
        return logits


def _map_specs(student: Student) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=f"map{index}",
            dtype="float32",
            axes=("b", str(width), f"s/{scale}", f"s/{scale}"),
            meaning=f"features at 1/{scale} of the square",
        )
        for index, (scale, width) in enumerate(zip(_SCALES, student.config.widths, strict=True))
    )


def graph_specs(student: Student) -> tuple[GraphSpec, ...]:
    """Names, axes and meanings of every input and output."""
    maps = _map_specs(student)
    square = ("b", "s", "s")
    return (
        GraphSpec(
            file=ENCODER,
            inputs=(
                TensorSpec(
                    name="grey", dtype="float32", axes=("b", "1", "s", "s"), meaning="0 to 255"
                ),
            ),
            outputs=maps,
        ),
        GraphSpec(
            file=DECODER,
            inputs=(
                *maps,
                TensorSpec(
                    name="points", dtype="float32", axes=("b", "n", "2"), meaning="x, y in px"
                ),
                TensorSpec(
                    name="point_labels", dtype="int64", axes=("b", "n"), meaning="1 0 2 3 or -1"
                ),
                TensorSpec(
                    name="previous",
                    dtype="float32",
                    axes=("b", "1", "s", "s"),
                    meaning="logits of the last answer, or zero",
                ),
            ),
            outputs=(
                TensorSpec(name="logits", dtype="float32", axes=square, meaning="the mask"),
                TensorSpec(name="quality", dtype="float32", axes=("b",), meaning="expected IoU"),
            ),
        ),
        GraphSpec(
            file=AUTOMATIC,
            inputs=maps,
            outputs=(
                TensorSpec(
                    name="logits",
                    dtype="float32",
                    axes=("b", str(student.config.channels), "s", "s"),
                    meaning="one map a label, see `maps`",
                ),
            ),
        ),
    )


def _map_shapes(batch: Any, coarse: Any) -> tuple[dict[int, object], ...]:
    """The dynamic axes of the four maps, from the side of the coarsest."""
    sides = (8 * coarse, 4 * coarse, 2 * coarse, coarse)
    return tuple({0: batch, 2: each, 3: each} for each in sides)


def _example(student: Student, side: int) -> tuple[Tensor, Features]:
    grey = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        features: Features = student.encoder(grey)
    return grey, features


def _write(
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    spec: GraphSpec,
    shapes: tuple[dict[int, object], ...],
    folder: Path,
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / spec.file
        with warnings.catch_warnings():
            # The exporter's own use of torch warns about torch's coming changes.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                arguments,
                str(path),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=[one.name for one in spec.inputs],
                output_names=[one.name for one in spec.outputs],
                dynamic_shapes=shapes,
                verbose=False,
            )
        onnx.checker.check_model(str(path), full_check=True)
        write_bytes(folder / spec.file, path.read_bytes())


def export_student(student: Student, folder: Path) -> tuple[GraphSpec, ...]:
    """Write the three graphs; weights are inside each file."""
    student.eval()
    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    encoder, decoder, automatic = graph_specs(student)
    side = student.config.side_px
    grey, features = _example(student, side)
    batch, points = torch.export.Dim("b", min=1, max=256), torch.export.Dim("n", min=1, max=256)
    coarse = torch.export.Dim("s16", min=2, max=256)
    full = 16 * coarse
    maps = _map_shapes(batch, coarse)
    _write(student.encoder, (grey,), encoder, ({0: batch, 2: full, 3: full},), folder)
    _write(
        _DecoderGraph(student.decoder),
        (
            *features,
            torch.rand(2, 3, 2) * side,
            torch.tensor([[2, 3, 1], [2, 3, 0]]),
            torch.zeros(2, 1, side, side),
        ),
        decoder,
        (*maps, {0: batch, 1: points}, {0: batch, 1: points}, {0: batch, 2: full, 3: full}),
        folder,
    )
    step = student.config.whole_step_px // COARSEST
    if step > 1:
        coarse = step * torch.export.Dim("s", min=1, max=256 // step)
        whole_side = max(2, side // student.config.whole_step_px) * student.config.whole_step_px
        _, features = _example(student, whole_side)
    _write(
        _AutomaticGraph(student.automatic),
        features,
        automatic,
        _map_shapes(batch, coarse),
        folder,
    )
    return encoder, decoder, automatic

"""Float16 and int8 graphs of a released bundle: made, measured, shipped only where of use.

int8 is static, QDQ, per channel, calibrated on training frames. It is shipped when it is faster on
this machine's CPU and its masks stay within the gate of parity; float16 is for a GPU: it is shipped
when its masks stay within the gate, and measured for speed where there is a GPU. Training side.
"""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import onnx
from jaxtyping import Float32, Int64
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.transformers.float16 import convert_float_to_float16

from casebook.documents import sha256_of_file, write_bytes, write_document
from casebook.errors import DataError
from casebook.protocols import Frame, Prompt
from export.answers import Graphs, Maps, StudentSegmenter
from export.bundle import AUTOMATIC, DECODER, ENCODER, MANIFEST, Bundle, read_bundle
from export.parity import compare
from export.precision import FILE, GRAPHS, Precision, Precisions, Trial, file_of
from export.runtime import OnnxGraphs, load_graphs, providers, segmenter_of
from export.signature import SIGNATURE

Asked = Sequence[tuple[Frame, Prompt]]
FASTER = 1.05
"""int8 must be this much faster: less is noise."""
_MB = 2**20
_ROUNDS = 3


@dataclass
class _Recorder:
    """Graphs that remember what each was fed."""

    graphs: OnnxGraphs
    fed: dict[str, list[dict[str, np.ndarray]]] = field(
        default_factory=lambda: {name: [] for name in GRAPHS}
    )

    def encode(self, square: Float32[np.ndarray, "1 1 s s"]) -> Maps:
        """The square's maps."""
        self.fed[ENCODER].append({"grey": square})
        return self.graphs.encode(square)

    def decode(
        self,
        maps: Maps,
        points_xy: Float32[np.ndarray, "1 n 2"],
        point_labels: Int64[np.ndarray, "1 n"],
        previous: Float32[np.ndarray, "1 1 s s"],
    ) -> tuple[Float32[np.ndarray, "s s"], float]:
        """Logits on the square and the expected IoU."""
        named = {"points": points_xy, "point_labels": point_labels, "previous": previous}
        self.fed[DECODER].append({**_named(maps), **named})
        return self.graphs.decode(maps, points_xy, point_labels, previous)

    def automatic(self, maps: Maps) -> Float32[np.ndarray, "k s s"]:
        """Logits of the automatic maps."""
        self.fed[AUTOMATIC].append(_named(maps))
        return self.graphs.automatic(maps)


def _named(maps: Maps) -> dict[str, np.ndarray]:
    return {f"map{index}": value for index, value in enumerate(maps)}


class _Feeds(CalibrationDataReader):  # type: ignore[misc]  # the quantiser asks for its subclass
    """What a graph was fed, once through."""

    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self._left: Iterator[dict[str, np.ndarray]] = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next feed; nothing at the end."""
        return next(self._left, None)


def _same_graphs(one: StudentSegmenter, graphs: Graphs) -> StudentSegmenter:
    return StudentSegmenter(
        one.model_id, graphs, one.side_px, one.whole_px, one.labels, one.maps, one.threshold
    )


def make_int8(folder: Path, bundle: Bundle, calibration: Asked, target: Path) -> None:
    """Write the three graphs in int8, calibrated on frames with a box each.

    Raises:
        DataError: there is no frame to calibrate on.
    """
    if not calibration:
        raise DataError("no training frame with a box to calibrate int8 on; pull a round first")
    recorder = _Recorder(load_graphs(folder, provider="cpu"))
    segmenter = _same_graphs(segmenter_of(bundle, recorder.graphs), recorder)
    for frame, prompt in calibration:
        embedding = segmenter.embed(frame)
        segmenter.automatic_logits(embedding)
        first = segmenter.predict(embedding, prompt)[0]
        segmenter.predict(embedding, Prompt(box_xyxy=prompt.box_xyxy, mask_logits=first.logits))
    logging.disable(logging.WARNING)  # the quantiser gives advice through the root logger
    try:
        for graph in GRAPHS:
            quantize_static(
                str(folder / graph),
                str(target / file_of(graph, "int8")),
                _Feeds(recorder.fed[graph]),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            )
    finally:
        logging.disable(logging.NOTSET)


def _before_first_convolution(model: Any) -> list[str]:
    """Nodes that see grey values and coordinates, too large for float16 when squared."""
    names = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            break
        names.append(node.name)
    return names


def _drop_repeated_casts(model: Any) -> None:
    """The converter writes a cast once for each blocked node that reads a value, all alike."""
    known: set[str] = set()
    repeated = []
    for number, node in enumerate(model.graph.node):
        node.name = f"node{number}"
        if node.output[0] in known:
            repeated.append(node)
        known.update(node.output)
    for node in repeated:
        model.graph.node.remove(node)


def make_fp16(folder: Path, target: Path) -> None:
    """Write the three graphs in float16; inputs and outputs stay float32."""
    for graph in GRAPHS:
        model = onnx.load(str(folder / graph))
        lighter = convert_float_to_float16(
            model, keep_io_types=True, node_block_list=_before_first_convolution(model)
        )
        _drop_repeated_casts(lighter)
        onnx.save(lighter, str(target / file_of(graph, "fp16")))


def _seconds(segmenter: StudentSegmenter, frame: Frame, prompt: Prompt) -> float:
    started = perf_counter()
    embedding = segmenter.embed(frame)
    segmenter.automatic_logits(embedding)
    segmenter.predict(embedding, prompt)
    return perf_counter() - started


def speed_ratio(full: StudentSegmenter, lighter: StudentSegmenter, asked: Asked) -> float:
    """Time of the first over the second's: a whole frame and a box, by both in turn."""
    spent: tuple[list[float], list[float]] = ([], [])
    for number in range(_ROUNDS + 1):
        for frame, prompt in asked:
            for one, into in zip((full, lighter), spent, strict=True):
                taken = _seconds(one, frame, prompt)
                if number:  # the first round warms up
                    into.append(taken)
    return median(spent[0]) / median(spent[1])


def _size_mb(folder: Path, precision: Precision) -> float:
    return sum((folder / file_of(graph, precision)).stat().st_size for graph in GRAPHS) / _MB


def try_precision(
    folder: Path, bundle: Bundle, made: Path, precision: Precision, asked: Asked
) -> Trial:
    """Measure graphs that were made, against float32 on the same frames."""
    wanted = "cuda" if precision == "fp16" and "CUDA" in providers()[0] else "cpu"
    full = segmenter_of(bundle, load_graphs(folder, provider=wanted))
    graphs = load_graphs(made, provider=wanted, precision=precision)
    parity = compare(full, graphs, asked)
    ratio = None
    if precision == "int8" or wanted == "cuda":
        ratio = speed_ratio(full, _same_graphs(full, graphs), asked)
    required = bundle.gates.mask_iou_required
    size, size_full = _size_mb(made, precision), _size_mb(folder, "fp32")
    wrong = []
    if not parity.mask_iou >= required:
        wrong.append(f"its masks overlap float32's by {parity.mask_iou:.4f}; {required:g} needed")
    if ratio is not None and ratio < FASTER:
        wrong.append(f"it takes 1/{ratio:.2f} of float32's time; 1/{FASTER:g} or less needed")
    speed = "its speed was not measured: no GPU here" if ratio is None else f"{ratio:.2f}× as fast"
    return Trial(
        precision=precision,
        shipped=not wrong,
        reason=" and ".join(wrong) or f"masks within the gate; {speed}",
        max_abs=min(parity.max_abs, 1e9),
        mask_iou=parity.mask_iou,
        mask_iou_required=required,
        prompts=parity.prompts,
        speed_ratio=ratio,
        provider=wanted,
        size_mb=size,
        size_fp32_mb=size_full,
    )


def add_precisions(folder: Path, calibration: Asked, asked: Asked) -> Precisions:
    """Try float16 and int8 for a released bundle, ship what is of use, record all.

    The manifest, which lists the graphs shipped, is written last; a signature of the old one is
    removed. What an earlier trial shipped is not listed while this one is at work.

    Args:
        folder: of a whole bundle.
        calibration: training frames with a box each.
        asked: frozen frames with a box each, to judge on.

    Raises:
        ModelError: the bundle is damaged.
        DataError: there is no frame to calibrate or to judge on.
    """
    bundle = read_bundle(folder)
    if not asked:
        raise DataError("no validation frame with a box to judge on; annotate one")
    files = {graph: bundle.files[graph] for graph in GRAPHS}
    files |= {n: h for n, h in bundle.files.items() if not n.endswith(".onnx") and n != FILE}
    (folder / SIGNATURE).unlink(missing_ok=True)
    write_document(folder / MANIFEST, bundle.with_(files=files))  # whole, wherever this is killed
    trials = []
    with tempfile.TemporaryDirectory() as place:
        made = Path(place)
        make_fp16(folder, made)
        make_int8(folder, bundle, calibration, made)
        precisions: tuple[Precision, ...] = ("fp16", "int8")
        for precision in precisions:
            trial = try_precision(folder, bundle, made, precision, asked)
            trials.append(trial)
            for name in (file_of(graph, precision) for graph in GRAPHS):
                if trial.shipped:
                    write_bytes(folder / name, (made / name).read_bytes())
                    files[name] = sha256_of_file(folder / name)
    found = Precisions(trials=tuple(trials))
    write_document(folder / FILE, found)
    files[FILE] = sha256_of_file(folder / FILE)
    write_document(folder / MANIFEST, bundle.with_(files=files))
    for left in set(bundle.files) - set(files):
        (folder / left).unlink(missing_ok=True)
    return found

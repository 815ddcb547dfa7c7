"""The student on the ONNX runtime: what runs on the deployment machine. Never loads torch."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from jaxtyping import Float32, Int64

from casebook.errors import ModelError
from export.answers import Maps, StudentSegmenter
from export.bundle import AUTOMATIC, DECODER, ENCODER, Bundle, read_bundle


def providers() -> tuple[str, ...]:
    """The providers of this machine that are used, best first."""
    known = onnxruntime.get_available_providers()
    return tuple(
        name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in known
    )


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers()))
    except Exception as problem:  # noqa: BLE001 - the runtime's own errors share no narrower class
        line = str(problem).splitlines()[0]
        raise ModelError(f"{path}: the ONNX runtime cannot load it: {line}") from None


@dataclass(frozen=True)
class OnnxGraphs:
    """The three graphs as ONNX sessions."""

    encoder: onnxruntime.InferenceSession
    decoder: onnxruntime.InferenceSession
    automatic_head: onnxruntime.InferenceSession

    def encode(self, square: Float32[np.ndarray, "1 1 s s"]) -> Maps:
        """The square's maps; grey values 0–255."""
        return tuple(self.encoder.run(None, {"grey": square}))

    def decode(
        self,
        maps: Maps,
        points_xy: Float32[np.ndarray, "1 n 2"],
        point_labels: Int64[np.ndarray, "1 n"],
        previous: Float32[np.ndarray, "1 1 s s"],
    ) -> tuple[Float32[np.ndarray, "s s"], float]:
        """Logits on the square and the expected IoU."""
        named = {f"map{index}": value for index, value in enumerate(maps)}
        logits, quality = self.decoder.run(
            None,
            {**named, "points": points_xy, "point_labels": point_labels, "previous": previous},
        )
        return logits[0], float(quality[0])

    def automatic(self, maps: Maps) -> Float32[np.ndarray, "k s s"]:
        """Logits of the automatic maps on the square."""
        named = {f"map{index}": value for index, value in enumerate(maps)}
        found: np.ndarray = self.automatic_head.run(None, named)[0][0]
        return found


def load_graphs(folder: Path, threads: int | None = None) -> OnnxGraphs:
    """The three graphs of a bundle's folder.

    Raises:
        ModelError: a file is missing or the ONNX runtime cannot load it.
    """
    count = threads or min(os.cpu_count() or 1, 4)
    return OnnxGraphs(*(_session(folder / name, count) for name in (ENCODER, DECODER, AUTOMATIC)))


def segmenter_of(bundle: Bundle, graphs: OnnxGraphs) -> StudentSegmenter:
    """The student a manifest describes, on loaded graphs."""
    return StudentSegmenter(
        bundle.version,
        graphs,
        bundle.side_px,
        bundle.whole_px,
        bundle.labels,
        bundle.maps,
        bundle.threshold,
    )


def load_student(folder: Path, threads: int | None = None) -> StudentSegmenter:
    """A released student, after every file was found whole.

    Raises:
        ModelError: no bundle, damaged, newer than this program, or not loadable.
    """
    return segmenter_of(read_bundle(folder), load_graphs(folder, threads))

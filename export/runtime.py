"""The student on the ONNX runtime: what runs on the deployment machine. Never loads torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from jaxtyping import Float32, Int64

from casebook.errors import ConfigError, ModelError
from export.answers import Maps, StudentSegmenter
from export.bundle import Bundle, read_bundle
from export.estimator import Estimator, read_estimator
from export.machine import cores, keep_freed_memory
from export.namer import Names, read_names
from export.precision import GRAPHS, Precision, file_of, precision_for

PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""Those the ONNX runtime may be asked for, by the names of `--provider`."""
_UNASKED = ("cuda", "openvino", "coreml", "cpu")
"""Best first. TensorRT builds an engine for minutes at its first start: only when asked for."""


def providers(wanted: str | None = None) -> tuple[str, ...]:
    """The providers that are used, best first; the CPU is always behind.

    Args:
        wanted: a name of `PROVIDERS`; else the best installed.

    Raises:
        ConfigError: it is not installed here.
    """
    installed = onnxruntime.get_available_providers()
    if wanted is not None and PROVIDERS.get(wanted) not in installed:
        here = ", ".join(name for name, full in PROVIDERS.items() if full in installed)
        raise ConfigError(
            f"provider {wanted} is not installed; here are: {here}; install the ONNX runtime that "
            "has it (docs/deployment.md) or choose one of these"
        )
    names = (wanted, "cpu") if wanted else _UNASKED
    return tuple(dict.fromkeys(PROVIDERS[n] for n in names if n and PROVIDERS[n] in installed))


def check_taken(wanted: str | None, taken: tuple[str, ...]) -> None:
    """Make sure that the provider asked for computes: the runtime goes on without one that fails.

    Raises:
        ConfigError: it does not, though it is installed.
    """
    if wanted is not None and PROVIDERS[wanted] not in taken:
        raise ConfigError(
            f"provider {wanted} is installed but does not start here: a driver or a library is "
            "missing or of another version (docs/deployment.md); mend that or give --provider cpu"
        )


_ENTRIES = {"session.force_spinning_stop": "1", "session.dynamic_block_base": "4"}
"""A graph's threads wait for work by spinning, by default also after its answer: then three graphs'
threads hold the cores that the next graph, or the measurement, needs. They stop with the answer,
and take their parts of a layer in smaller pieces, so that one that is held up delays less.

Source: ONNX Runtime, onnxruntime_session_options_config_keys.h."""


def _session(path: Path, threads: int, names: tuple[str, ...]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for entry, value in _ENTRIES.items():
        options.add_session_config_entry(entry, value)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(names))
    except Exception as problem:  # noqa: BLE001 - the runtime's own errors share no narrower class
        line = str(problem).splitlines()[0]
        raise ModelError(f"{path}: the ONNX runtime cannot load it: {line}") from None


@dataclass(frozen=True)
class OnnxGraphs:
    """The three graphs as ONNX sessions."""

    encoder: onnxruntime.InferenceSession
    decoder: onnxruntime.InferenceSession
    automatic_head: onnxruntime.InferenceSession

    @property
    def providers(self) -> tuple[str, ...]:
        """The providers that were really taken, in the order in which they are asked."""
        return tuple(self.encoder.get_providers())

    @property
    def threads(self) -> int:
        """Of the CPU, that each graph uses."""
        return int(self.encoder.get_session_options().intra_op_num_threads)

    @property
    def engine(self) -> str:
        """What computes, in words."""
        return f"{self.providers[0]}, {self.threads} thread{'s' if self.threads > 1 else ''}"

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


def load_graphs(
    folder: Path,
    threads: int | None = None,
    provider: str | None = None,
    precision: Precision = "fp32",
) -> OnnxGraphs:
    """The three graphs of a bundle's folder.

    Args:
        folder: of the bundle.
        threads: of the CPU; by default the cores the process may use, at most 4.
        provider: a name of `PROVIDERS`; else the best installed.
        precision: the arithmetic of the graphs taken.

    Raises:
        ModelError: a file is missing or the ONNX runtime cannot load it.
        ConfigError: the provider is not installed here, or does not start.
    """
    keep_freed_memory()
    count = threads or min(cores(), 4)
    names = providers(provider)
    graphs = OnnxGraphs(
        *(_session(folder / file_of(graph, precision), count, names) for graph in GRAPHS)
    )
    check_taken(provider, graphs.providers)
    return graphs


def segmenter_of(
    bundle: Bundle,
    graphs: OnnxGraphs,
    names: Names | None = None,
    estimator: Estimator | None = None,
) -> StudentSegmenter:
    """The student a manifest describes, on loaded graphs, with what else it learnt when given."""
    return StudentSegmenter(
        bundle.version,
        graphs,
        bundle.side_px,
        bundle.whole_px,
        bundle.labels,
        bundle.maps,
        bundle.threshold,
        names,
        estimator,
    )


def load_released(
    folder: Path,
    bundle: Bundle,
    threads: int | None = None,
    provider: str | None = None,
    precision: Precision | None = None,
) -> tuple[StudentSegmenter, OnnxGraphs]:
    """The student of a bundle found whole, in the arithmetic that suits what computes.

    Raises:
        ModelError: a graph, the classifiers or what was learnt of lesions cannot be loaded.
        ConfigError: the provider is not installed or does not start, or the bundle has no such
            graphs.
    """
    full = providers(provider)[0]
    computes = next(name for name, its in PROVIDERS.items() if its == full)
    taken = precision_for(bundle.files, computes, precision)
    graphs = load_graphs(folder, threads, provider, taken)
    names, estimator = read_names(folder, bundle.files), read_estimator(folder, bundle.files)
    return segmenter_of(bundle, graphs, names, estimator), graphs


@dataclass(frozen=True)
class Crew:
    """The student for frames that need not wait for one another."""

    segmenter: StudentSegmenter
    """May be asked by several threads at once."""
    at_once: int
    """So many frames are worth taking at a time."""


def load_crew(
    folder: Path,
    bundle: Bundle,
    segmenter: StudentSegmenter,
    graphs: OnnxGraphs,
    precision: Precision | None = None,
) -> Crew:
    """The student for a film: on the CPU a frame for each thread, else one after the other.

    Two frames by one thread each take less time than one after the other by two: nothing waits for
    a layer's slower half. What is answered is the same.

    Args:
        folder: of the bundle.
        bundle: its manifest.
        segmenter: the student as loaded for single frames …
        graphs: … with its graphs, which say how many threads there are.
        precision: the arithmetic asked for, as at that loading.

    Raises:
        ModelError: a graph cannot be loaded.
    """
    on_cpu = graphs.providers == (PROVIDERS["cpu"],)
    if not on_cpu or graphs.threads == 1:
        return Crew(segmenter, 1)
    taken = precision_for(bundle.files, "cpu", precision)
    alone = load_graphs(folder, 1, "cpu", taken)
    spare = segmenter_of(bundle, alone, segmenter.names, segmenter.estimator)
    return Crew(spare, graphs.threads)


def load_student(folder: Path, threads: int | None = None) -> StudentSegmenter:
    """A released student, after every file was found whole.

    Raises:
        ModelError: no bundle, damaged, newer than this program, or not loadable.
    """
    return segmenter_of(read_bundle(folder), load_graphs(folder, threads))

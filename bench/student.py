"""The released student on two CPU threads, beside the same student in torch.

Measured on the bundle of the workspace ($ANGIOLOOP_HOME) that is in use; without one all figures
are absent. `frame_ms_median`: one 512 px frame in memory to tree, candidates, masks and QCA.
`prompt_ms_median`: a later click on a frame that was asked before. `ort_ratio_vs_torch`: times of
the automatic maps of one frame, torch eager over the ONNX runtime, turn by turn. `cine_s`: the
whole `angioinfer run`, from its start as a new process, over a run of 60 frames of 12 bits to
tables, SEG, overlays and film; `cine_no_film_s` without the film; `peak_rss_mb` is the greatest of
both. `cold_start_s`: a new process until the graphs are loaded (`angioinfer verify`). `install_mb`:
files of all packages of the extra `infer`, dependencies of dependencies too, as installed here.
The ratios to the teacher are those of the bundle's gates; the figures that need the real-size
teacher, a student taught without one, or one trained on ARCADE are absent.
"""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from statistics import median

import numpy as np
import torch
from packaging.requirements import Requirement

from angio.dicom.write import XaHeader, write_xa
from angio.phantoms.bolus import draw_bolus
from angio.phantoms.render import render_cine
from angio.rendering import render
from bench.harness import run
from casebook.errors import ModelError
from casebook.home import Home
from casebook.protocols import Frame, Prompt
from casebook.registry import Registry
from export.answers import StudentSegmenter
from export.bundle import Bundle, read_bundle
from export.infer import analyse
from export.release import as_segmenter
from export.runtime import load_graphs, segmenter_of
from export.student_base import FILE, read_student

AIMS = {
    "frame_ms_median": "<= 100",
    "prompt_ms_median": "<= 15",
    "encoder_ratio_vs_teacher": ">= 100",
    "ort_ratio_vs_torch": ">= 2",
    "iou_ratio_vs_teacher": ">= 0.95",
    "cldice_ratio_vs_teacher": ">= 0.95",
    "arcade_auto_dice": ">= 0.78",
    "cine_s": "<= 6",
    "peak_rss_mb": "<= 600",
    "install_mb": "<= 400",
    "bundle_mb": "<= 40",
    "cold_start_s": "<= 2",
}
OTHERS = ("iou_without_teacher", "arcade_auto_cldice", "cine_no_film_s")
THREADS = 2
MB = 2**20
ROOT = Path(__file__).resolve().parents[1]


def _header() -> XaHeader:
    return XaHeader(
        study_uid="2.25.1", series_uid="2.25.2", instance_uid="2.25.3",
        patient_name="Bench^Ada", patient_id="1", birth_date="19500101", sex="F",
        study_date="20200101", study_time="101010", accession="A1", institution="I",
        physician="P", station="S", series_number=1, primary_deg=30.0, secondary_deg=-20.0,
        source_detector_mm=1000.0, source_patient_mm=750.0, imager_spacing_mm=0.3, frame_ms=66.7,
    )  # fmt: skip


def _ms(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def prompt_ms(segmenter: StudentSegmenter, frames: list[Frame], clicks: int) -> float:
    """Median of a click on a window that was encoded before."""
    spent = []
    for frame in frames:
        embedding = segmenter.embed(frame)
        segmenter.predict(embedding, Prompt(box_xyxy=(200.0, 200.0, 290.0, 300.0)))
        for number in range(clicks):
            box = (200.0, 200.0, 290.0, 300.0)
            point = np.array([[240.0 + number % 8, 250.0]])
            prompt = Prompt(point, np.array([1]), box)
            spent.append(_ms(lambda p=prompt, e=embedding: segmenter.predict(e, p)))  # type: ignore[misc]
    return median(spent)


def ort_ratio(ours: StudentSegmenter, plain: StudentSegmenter, frames: list[Frame]) -> float:
    """Torch's time over ours for the automatic maps, each frame by both in turn."""
    spent: tuple[list[float], list[float]] = ([], [])
    for frame in [frames[0], *frames]:
        for segmenter, into in ((ours, spent[0]), (plain, spent[1])):
            embedding = segmenter.embed(frame)
            into.append(_ms(lambda s=segmenter, e=embedding: s.automatic_logits(e)))  # type: ignore[misc]
    return median(spent[1][1:]) / median(spent[0][1:])


def command(*arguments: str | Path) -> tuple[float, float | None]:
    """Seconds and peak memory in MB of one `angioinfer` command in a new process.

    Memory is what the process itself says (Linux): that of children as the parent is told counts
    the parent's own before the start.

    Raises:
        SystemExit: it failed.
    """
    program = (
        "import sys; from pathlib import Path; from export.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "status = Path('/proc/self/status')\n"
        "print(status.read_text() if status.exists() else '')"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, *(str(one) for one in arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    spent = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    peak = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    return spent, int(peak[1]) * 1024 / MB if peak else None


def installed_mb(extra: str) -> float:
    """Size of our own dependencies with an extra, and of theirs, as installed here."""
    sizes: dict[str, int] = {}
    waiting = [("angioloop", frozenset({extra}))]
    while waiting:
        name, extras = waiting.pop()
        try:
            found = distribution(name)
        except PackageNotFoundError:  # for another system, by a marker that is not read here
            continue
        if name != "angioloop":
            paths = {Path(str(file.locate())).resolve() for file in found.files or ()}
            sizes[name] = sum(path.stat().st_size for path in paths if path.is_file())
        for text in found.requires or ():
            wanted = Requirement(text)
            known = wanted.name.lower() in sizes
            named = [
                wanted.marker is None or wanted.marker.evaluate({"extra": one})
                for one in (*extras, "")
            ]
            if any(named) and not known:
                sizes[wanted.name.lower()] = 0
                waiting.append((wanted.name.lower(), frozenset(wanted.extras)))
    return sum(sizes.values()) / MB


def _bundle() -> tuple[Home, Path, Bundle] | None:
    home = Home.resolve()
    version = Registry(home).released()
    if version is None:
        return None
    folder = home.models / "released" / version
    return home, folder, read_bundle(folder)


def measure(quick: bool) -> dict[str, float | None]:
    """The figures; absent where no student is released."""
    figures: dict[str, float | None] = dict.fromkeys((*AIMS, *OTHERS))
    found = _bundle()
    if found is None:
        return figures
    home, folder, bundle = found
    n_frames, n_shown, clicks = (6, 2, 3) if quick else (60, 20, 20)
    rng = np.random.default_rng(20261121)
    pixels = render_cine(rng, draw_bolus(rng, n_frames).scene)
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    segmenter = segmenter_of(bundle, load_graphs(folder, THREADS))
    shown = [Frame(render(pixels[at])) for at in np.linspace(0, n_frames - 1, n_shown).astype(int)]
    figures["prompt_ms_median"] = prompt_ms(segmenter, shown, clicks)
    figures["ort_ratio_vs_torch"] = _torch_ratio(home, bundle, segmenter, shown)
    torch.set_num_threads(before)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "run.dcm"
        write_xa(path, _header(), pixels, syntax="raw")
        frames = np.linspace(0, n_frames - 1, n_shown).astype(int).tolist()
        spent = [analyse(segmenter, path, "run", frame=at).result.analyse_ms for at in frames]
        figures["frame_ms_median"] = median(spent)
        given = ("run", path, "--bundle", folder, "--threads", str(THREADS), "--out")
        figures["cine_s"], film_mb = command(*given, Path(place) / "film")
        figures["cine_no_film_s"], plain_mb = command(*given, Path(place) / "plain", "--no-gif")
        figures["peak_rss_mb"] = max(film_mb, plain_mb) if film_mb and plain_mb else None
    starts = [command("verify", folder)[0] for _ in range(1 if quick else 5)]
    figures["cold_start_s"] = median(starts)
    figures["bundle_mb"] = sum(one.stat().st_size for one in folder.iterdir()) / MB
    figures["install_mb"] = installed_mb("infer")
    figures["iou_ratio_vs_teacher"] = bundle.gates.iou_ratio
    figures["cldice_ratio_vs_teacher"] = bundle.gates.cldice_ratio
    return figures


def _torch_ratio(
    home: Home, bundle: Bundle, ours: StudentSegmenter, frames: list[Frame]
) -> float | None:
    """The ratio; absent where the weights in torch are not kept."""
    registry = Registry(home)
    try:
        registry.verify(bundle.version)
        student = read_student(registry.folder(bundle.version) / FILE)
    except ModelError:
        return None
    return ort_ratio(ours, as_segmenter(student, bundle.version, bundle.labels), frames)


if __name__ == "__main__":
    run("student", measure, AIMS)

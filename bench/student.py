"""The released student on two CPU threads, beside the same student in torch and its teacher.

Parts, which `--part` measures apart (with `--keep` the others' figures stay as they were):

`speed`: `frame_ms_median`, one 512 px frame in memory to tree, candidates, masks and QCA;
`prompt_ms_median`, a later click on a frame that was asked before; `ort_ratio_vs_torch`, times of
the automatic maps of one frame, torch eager over the ONNX runtime, turn by turn; `cine_s`, the
whole `angioinfer run`, from its start as a new process, over a run of 60 frames of 12 bits to
tables, SEG, overlays and film; `cine_no_film_s` without the film; `peak_rss_mb`, the greatest of
both; `cold_start_s`, a new process until the graphs are loaded (`angioinfer verify`).
`encoder`: `encoder_ratio_vs_teacher`, one pass of the real-size SAM 3's image encoder with random
weights over one of the student's encoder, each at the resolution it works in, which are printed.
`gates`: the ratios to the teacher as the bundle tells them; `iou_without_teacher`, a student taught
as many steps on the experts' masks alone, on the same frozen frames; taught now, from the exercises
the distillation left in the workspace, when the bundle does not tell. `bundle_mb`. `learnt_…`, what
the bundle learnt of lesions, beside `qca_…` of the student's masks on the same frozen lesions,
`ds` in points and `rvd` in px; also where it was left out for not being nearer.
`tree`: `arcade_…`, student_tree.py on the folder $ANGIOLOOP_ARCADE_DIR; killed, it goes on from its
last checkpoint in the workspace.
`size`: `install_mb`, files of all packages of the extra `infer`, dependencies of dependencies too,
as installed here; `install_no_bytecode_mb`, without the byte-code of them, which the manual's
`pip install --no-compile` does not write (tests/unit/export/test_installed.py installs it so).

All but the last two are measured on the bundle of the workspace ($ANGIOLOOP_HOME) that is in use,
and are absent without one. `…_threads` are those really had: two, or fewer where the process is
held to fewer cores. With --quick only what takes seconds is measured.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch
from jaxtyping import UInt16
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from angio.dicom.write import XaHeader, write_xa
from angio.phantoms.bolus import draw_bolus
from angio.phantoms.render import render_cine
from angio.rendering import render
from bench.harness import run_parts
from bench.student_tree import train_and_score
from casebook.errors import ModelError
from casebook.home import Home
from casebook.protocols import Frame, Prompt
from casebook.registry import Registry
from export.answers import StudentSegmenter
from export.bundle import Bundle, read_bundle
from export.distil import EXERCISES, scores_without_teacher
from export.exercises import read_exercises
from export.infer import analyse
from export.machine import cores
from export.release import as_segmenter
from export.runtime import load_graphs, segmenter_of
from export.settings import DistilConfig
from export.student_base import FILE, read_student
from export.syllabus import read_syllabus
from export.windows import whole

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
THREADS = min(2, cores())
TURNS = 20
TEACHER_GB = 8
"""Memory that must be free for the real-size teacher's encoder in float32."""
MB = 2**20
Figures = dict[str, float | None]
ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "conf" / "tiny-base" / FILE


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


def teacher_ratio(segmenter: StudentSegmenter, frame: Frame) -> float | None:
    """The real-size teacher's seconds for a picture over the student's; absent without memory."""
    if psutil.virtual_memory().available < TEACHER_GB * 2**30:
        return None
    side = segmenter.whole_px
    square = whole(frame.hw).cut(frame.pixels, side)[None, None].astype(np.float32)
    segmenter.graphs.encode(square)
    before = [_ms(lambda: segmenter.graphs.encode(square)) for _ in range(TURNS)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.student_teacher", str(THREADS)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    after = [_ms(lambda: segmenter.graphs.encode(square)) for _ in range(TURNS)]
    teacher_ms, teacher_px = 1000 * float(done.stdout.split()[-2]), int(done.stdout.split()[-1])
    ours = median((*before, *after))
    print(f"encoders: teacher {teacher_px} px {teacher_ms:.0f} ms, student {side} px {ours:.1f} ms")
    return teacher_ms / ours


def alone_iou(home: Home, bundle: Bundle, base: Path | None = BASE) -> float | None:
    """What a student without the teacher reaches; absent where the exercises are gone.

    Args:
        home: the workspace.
        bundle: the student with a teacher; its card says how it was taught.
        base: weights it started from.
    """
    scratch = home.root / "distil" / bundle.version
    if not (scratch / EXERCISES).is_file():
        return None
    known = {**bundle.card.config, "teacher_base": BASE.parent, "student_base": base}
    config = DistilConfig.model_validate(known)
    syllabus = read_syllabus(home, neighbours=0, unannotated=0)
    exercises = read_exercises(scratch / EXERCISES)
    scores = scores_without_teacher(
        home, syllabus, exercises, config, scratch, int(bundle.card.figures["steps"]),
        lambda share: print(f"  without the teacher: {share:.0%}", flush=True),
    )  # fmt: skip
    return scores.iou if scores else None


def tree_figures(quick: bool) -> Figures:
    """The automatic tree on real angiograms; absent where there are none."""
    names = ("auto_dice", "auto_cldice", "held_out_dice", "train_minutes", "train_core_minutes")
    figures: Figures = dict.fromkeys(f"arcade_{name}" for name in (*names, "train_threads"))
    folder = os.environ.get("ANGIOLOOP_ARCADE_DIR")
    if not folder:
        print("ARCADE: not measured; set ANGIOLOOP_ARCADE_DIR to its folder")
        return figures
    with tempfile.TemporaryDirectory() as place, _torch_threads():
        kept = Home.resolve().root / "bench" / "student-tree"
        found = train_and_score(Path(folder), Path(place) if quick else kept, quick=quick)
    print(
        f"ARCADE: {found.n_params:,} weights taught on {found.taught} pictures, cut at logit "
        f"{found.cut:.2f}, scored on {found.scored}"
    )
    told = (found.dice, found.cldice, found.held_out_dice, found.minutes, found.core_minutes)
    return dict(zip(figures, (*told, float(found.threads)), strict=True))


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


def installed_mb(extra: str, *, byte_code: bool = True) -> float:
    """Size of our own dependencies with an extra, and of theirs, as installed here.

    Ours are those of pyproject.toml: what an editable installation noted of them may be older.

    Args:
        extra: of the distribution.
        byte_code: whether what Python compiled of them counts, too.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [*project["dependencies"], *project["optional-dependencies"].get(extra, ())]
    sizes: dict[str, int] = {}
    known: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = Requirement(waiting.pop())
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
        applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if not applies or (name, extras) in known:
            continue
        known.add((name, extras))
        try:
            found = distribution(name)
        except PackageNotFoundError:  # another runtime of the same extra, or not installed here
            continue
        paths = {Path(str(file.locate())).resolve() for file in found.files or ()}
        counted = (path for path in paths if byte_code or path.suffix != ".pyc")
        sizes[name] = sum(path.stat().st_size for path in counted if path.is_file())
        for text in found.requires or ():
            needed = Requirement(text)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": one}) for one in (*extras, "")):
                needed.marker = None
                waiting.append(str(needed))
    return sum(sizes.values()) / MB


def _released() -> tuple[Home, Path, Bundle] | None:
    home = Home.resolve()
    version = Registry(home).released()
    if version is None:
        print("no student is released in this workspace")
        return None
    folder = home.models / "released" / version
    return home, folder, read_bundle(folder)


@contextmanager
def _torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cine(quick: bool) -> tuple[UInt16[np.ndarray, "t h w"], list[int]]:
    """A generated run, and which of its frames are shown."""
    n_frames, n_shown = (6, 2) if quick else (60, 20)
    rng = np.random.default_rng(20261121)
    pixels = render_cine(rng, draw_bolus(rng, n_frames).scene)
    return pixels, np.linspace(0, n_frames - 1, n_shown).astype(int).tolist()


def speed_figures(quick: bool) -> Figures:
    """Times and memory of the bundle in use."""
    names = ("frame_ms_median", "prompt_ms_median", "ort_ratio_vs_torch", "cine_s")
    others = ("cine_no_film_s", "peak_rss_mb", "cold_start_s", "timed_threads")
    figures: Figures = dict.fromkeys((*names, *others))
    found = _released()
    if found is None:
        return figures
    home, folder, bundle = found
    pixels, at = _cine(quick)
    segmenter = segmenter_of(bundle, load_graphs(folder, THREADS))
    shown = [Frame(render(pixels[frame])) for frame in at]
    figures["timed_threads"] = float(THREADS)
    figures["prompt_ms_median"] = prompt_ms(segmenter, shown, 3 if quick else 20)
    with _torch_threads():
        figures["ort_ratio_vs_torch"] = _torch_ratio(home, bundle, segmenter, shown)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "run.dcm"
        write_xa(path, _header(), pixels, syntax="raw")
        spent = [analyse(segmenter, path, "run", frame=one).result.analyse_ms for one in at]
        figures["frame_ms_median"] = median(spent)
        given = ("run", path, "--bundle", folder, "--threads", str(THREADS), "--out")
        figures["cine_s"], film_mb = command(*given, Path(place) / "film")
        figures["cine_no_film_s"], plain_mb = command(*given, Path(place) / "plain", "--no-gif")
        figures["peak_rss_mb"] = max(film_mb, plain_mb) if film_mb and plain_mb else None
    starts = [command("verify", folder)[0] for _ in range(1 if quick else 5)]
    figures["cold_start_s"] = median(starts)
    return figures


def encoder_figures(quick: bool) -> Figures:
    """The student's encoder beside the real-size teacher's; absent with --quick."""
    found = None if quick else _released()
    if found is None:
        return {"encoder_ratio_vs_teacher": None}
    _, folder, bundle = found
    pixels, at = _cine(quick=True)
    segmenter = segmenter_of(bundle, load_graphs(folder, THREADS))
    return {"encoder_ratio_vs_teacher": teacher_ratio(segmenter, Frame(render(pixels[at[0]])))}


def gate_figures(quick: bool) -> Figures:
    """What the bundle in use reaches beside its teacher, and its size."""
    names = ("iou_ratio_vs_teacher", "cldice_ratio_vs_teacher", "iou_without_teacher", "bundle_mb")
    lesions = ("learnt_ds_mae_points", "qca_ds_mae_points", "learnt_rvd_mae_px", "qca_rvd_mae_px")
    found = _released()
    if found is None:
        return dict.fromkeys((*names, *lesions))
    home, folder, bundle = found
    alone = bundle.gates.iou_without_teacher
    if alone is None and not quick:
        with _torch_threads():
            alone = alone_iou(home, bundle)
    size_mb = sum(one.stat().st_size for one in folder.iterdir()) / MB
    told = (bundle.gates.iou_ratio, bundle.gates.cldice_ratio, alone, size_mb)
    learnt = {one.figure: one for one in bundle.gates.learnt}
    both = [
        error
        for gate in (learnt.get("stenosis_pct"), learnt.get("rvd_px"))
        for error in ((gate.error_where_measured, gate.error_of_qca) if gate else (None, None))
    ]
    return dict(zip((*names, *lesions), (*told, *both), strict=True))


def size_figures(quick: bool) -> Figures:
    """What the deployment machine installs."""
    return {
        "install_mb": installed_mb("infer"),
        "install_no_bytecode_mb": installed_mb("infer", byte_code=False),
    }


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


PARTS: dict[str, Callable[[bool], Figures]] = {
    "speed": speed_figures,
    "encoder": encoder_figures,
    "gates": gate_figures,
    "size": size_figures,
    "tree": tree_figures,
}


if __name__ == "__main__":
    run_parts("student", PARTS, AIMS)

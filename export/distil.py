"""Promoted teacher → student → ONNX → gates → released bundle.

The teacher's probabilities and the experts' masks teach together, with corrections in the loop, on
annotated frames and on their unlabelled neighbours. A killed run resumes; a finished one is found.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from casebook.catalogue import Catalogue
from casebook.documents import sha256_of, sha256_of_file
from casebook.errors import ModelError, StateError
from casebook.home import Home
from casebook.registry import ModelCard, Registry
from export.bundle import MANIFEST, Bundle, read_bundle
from export.comparison import BoxScores, box_scores
from export.exercises import Exercises, prepare
from export.gates import Gates
from export.release import Teaching, as_segmenter, automatic_maps, calibrated, write_bundle
from export.settings import DistilConfig
from export.syllabus import Syllabus, read_syllabus
from export.training import start_student, torch_threads, train_student, untaught
from segmenter.fit import Progress
from segmenter.teacher import load_teacher

EXERCISES = "exercises.safetensors"
"""In the folder of a distillation, `distil/<version>/` of the workspace."""
Tell = Callable[[str, float | None], None]
"""Called with what goes on and how much is done, 0 to 1."""
_NO_MATTER = {"teacher_base", "student_base", "gate", "threads"}
"""Settings that do not make another student, or are named by what they hold."""
LICENCE = (
    "Apache-2.0 for the student's code and weights; it was taught by a SAM 3 with adapters, so the "
    "SAM License's terms of use go with it."
)


def run(home: Home, config: DistilConfig, progress: Tell) -> str:
    """Distil the promoted teacher, release the bundle if it passes the gates, give its version.

    Raises:
        StateError: no teacher is promoted or no round has annotations.
        ModelError: a gate is not met; the bundle stays beside the released one, not in use.
    """
    with torch_threads(config.threads):
        return _run(home, config, progress)


def _run(home: Home, config: DistilConfig, progress: Tell) -> str:
    registry = Registry(home)
    teacher_id = registry.promoted()
    if teacher_id is None:
        raise StateError("no teacher is promoted; run `make train ROUND=1` first")
    syllabus = read_syllabus(home, neighbours=config.neighbours, unannotated=config.unannotated)
    version = version_of(teacher_id, syllabus, config)
    if not (home.models / "released" / version / MANIFEST).is_file():
        progress("loading the teacher", 0.0)
        teacher = load_teacher(home.models, teacher_id, base=config.teacher_base)
        n_params = sum(parameter.numel() for parameter in teacher.model.parameters())
        teach(home, version, teacher_id, Teaching(teacher, n_params), syllabus, config, progress)
    release(registry, version, config, f"distilled from {teacher_id}; all gates met")
    progress(f"released {version}", 1.0)
    return version


def release(registry: Registry, version: str, config: DistilConfig, reason: str) -> Bundle:
    """Point to a bundle, if it is whole and meets the gates as configured now.

    Raises:
        ModelError: it is damaged, or a gate is not met.
    """
    folder = registry.home.models / "released" / version
    bundle = read_bundle(folder)
    failures = judged(bundle.gates, config).failures()
    if failures:
        raise ModelError(
            f"student {version} is not released: {'; '.join(failures)}. It stays in {folder}; "
            "train longer, or set `gate` in student.yaml if less is acceptable"
        )
    if registry.released() != version:
        registry.release(version, reason)
    return bundle


def judged(gates: Gates, config: DistilConfig) -> Gates:
    """Measured figures under the gate as configured now."""
    gate = config.gate
    return gates.with_(
        max_abs_allowed=gate.max_abs,
        mask_iou_required=gate.mask_iou,
        iou_ratio_required=gate.iou_ratio,
        cldice_ratio_required=gate.cldice_ratio,
        vessels=tuple(one.with_(is_judged=one.cases >= gate.vessel_cases) for one in gates.vessels),
        qca=gates.qca.with_(
            is_judged=gates.qca.compared >= gate.qca_lesions,
            ds_worse_allowed=gate.ds_worse_points,
            mld_worse_allowed_mm=gate.mld_worse_mm,
        )
        if gates.qca
        else None,
    )


def version_of(teacher_id: str, syllabus: Syllabus, config: DistilConfig) -> str:
    """The version a distillation will have: same teacher, frames and settings, same name."""
    base = config.student_base
    settings = config.model_dump(mode="json", exclude=_NO_MATTER)
    if not config.weights.features:  # as before there was such a weight
        del settings["weights"]["features"]
    what = {
        "teacher": teacher_id,
        "config": settings,
        "base": None if base is None or not base.is_file() else sha256_of_file(base),
        "pages": [
            [page.ref.file_name, [[one.label, one.mask.counts] for one in page.drawn], page.boxes]
            for page in (*syllabus.pages, *syllabus.val)
        ],
    }
    digest = sha256_of(json.dumps(what, sort_keys=True).encode())
    return f"student-{teacher_id[:44]}-{digest[:8]}"


def teach(
    home: Home,
    version: str,
    teacher_id: str,
    teaching: Teaching,
    syllabus: Syllabus,
    config: DistilConfig,
    progress: Tell,
) -> Bundle:
    """Make the bundle of one version; nothing is released yet.

    Raises:
        DataError: there is nothing to learn from.
        TrainingError: the loss is not finite.
    """
    labels = syllabus.labels
    scratch = home.root / "distil" / version
    student = start_student(config, labels)
    exercises = prepare(
        scratch / EXERCISES,
        syllabus.pages,
        Catalogue(home),
        teaching.model,
        labels,
        config,
        lambda share: progress("asking the teacher", 0.02 + 0.18 * share),
    )

    def tell(at: Progress) -> None:
        shown = [f"{name} {at.figures[name]:.3f}" for name in _SHOWN if name in at.figures]
        progress(f"step {at.step}: {', '.join(shown)}", 0.2 + 0.65 * share * at.fraction)

    share = 0.5 if config.without_teacher else 1.0
    fitted = train_student(student, exercises, config, scratch / "checkpoints", tell)
    alone = None
    if config.without_teacher:
        alone = scores_without_teacher(
            home, syllabus, exercises, config, scratch, fitted.steps,
            lambda done: progress("teaching one without the teacher", 0.2 + 0.65 * (1 + done) / 2),
        )  # fmt: skip
    progress("exporting to ONNX and measuring", 0.87)
    card = ModelCard(
        model_id=version,
        kind="student",
        architecture="promptable U-shape, export/student.py",
        parents=(teacher_id,),
        created=datetime.now(UTC),
        n_params=student.n_params,
        n_trainable=student.n_params,
        data={
            "frames": len(syllabus.pages),
            "squares": len(exercises.squares),
            "whole_frames": len(exercises.whole),
        },
        config=config.model_dump(mode="json", exclude={"teacher_base", "student_base"}),
        seed=config.train.seed,
        figures={"seconds": fitted.seconds, "steps": float(fitted.steps)},
        licence=LICENCE,
    )
    return write_bundle(
        Registry(home),
        student,
        card,
        labels,
        calibrated(student, exercises, automatic_maps(labels)),
        syllabus.pages,
        syllabus.val,
        teaching,
        config.gate,
        config.parity_frames,
        alone,
    )


def scores_without_teacher(
    home: Home,
    syllabus: Syllabus,
    exercises: Exercises,
    config: DistilConfig,
    scratch: Path,
    steps: int,
    progress: Callable[[float], None],
) -> BoxScores | None:
    """What a student reaches on the frozen frames that was taught as long without the teacher.

    Args:
        home: the workspace.
        syllabus: frames and labels.
        exercises: as made with the teacher.
        config: as of the student with a teacher.
        scratch: the distillation's folder; a finished training found there is not repeated.
        steps: as many as the student with a teacher had.
        progress: told how much is done, 0 to 1.
    """
    student = untaught(
        exercises,
        syllabus.labels,
        config,
        scratch / "without-teacher",
        steps,
        lambda at: progress(at.fraction),
    )
    if student is None:
        return None
    model = as_segmenter(student, "without-teacher", syllabus.labels)
    return box_scores(model, Catalogue(home), syllabus.val)


_SHOWN = ("loss", "iou", "unlike", "dice_auto")

"""Promoted teacher → student → ONNX → gates → released bundle.

The teacher's probabilities and the experts' masks teach together, with corrections in the loop, on
annotated frames and on their unlabelled neighbours. A killed run resumes; a finished one is found.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from casebook.catalogue import Catalogue
from casebook.documents import sha256_of, sha256_of_file
from casebook.errors import ModelError, StateError
from casebook.home import Home
from casebook.labels import LabelSet
from casebook.registry import ModelCard, Registry
from export.bundle import MANIFEST, Bundle, Gates, read_bundle
from export.exercises import Exercises, lesson_of, map_labels, prepare
from export.lessons import Lesson, lesson_loss
from export.release import Teaching, automatic_maps, calibrated, write_bundle
from export.settings import DistilConfig
from export.student import Student, StudentConfig
from export.student_base import read_student
from export.syllabus import Syllabus, read_syllabus
from segmenter.fit import FitResult, Progress, fit
from segmenter.teacher import load_teacher

Tell = Callable[[str, float | None], None]
"""Called with what goes on and how much is done, 0 to 1."""
LICENCE = (
    "Apache-2.0 for the student's code and weights; it was taught by a SAM 3 with adapters, so the "
    "SAM License's terms of use go with it."
)
_NEW_MASKS = "automatic.masks."
"""Weights that depend on how many automatic maps there are."""


def run(home: Home, config: DistilConfig, progress: Tell) -> str:
    """Distil the promoted teacher, release the bundle if it passes the gates, give its version.

    Raises:
        StateError: no teacher is promoted or no round has annotations.
        ModelError: a gate is not met; the bundle stays beside the released one, not in use.
    """
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
    )


def version_of(teacher_id: str, syllabus: Syllabus, config: DistilConfig) -> str:
    """The version a distillation will have: same teacher, frames and settings, same name."""
    base = config.student_base
    what = {
        "teacher": teacher_id,
        "config": config.model_dump(mode="json", exclude={"teacher_base", "student_base", "gate"}),
        "base": None if base is None or not base.is_file() else sha256_of_file(base),
        "pages": [
            [page.ref.file_name, [[one.label, one.mask.counts] for one in page.drawn], page.boxes]
            for page in (*syllabus.pages, *syllabus.val)
        ],
    }
    digest = sha256_of(json.dumps(what, sort_keys=True).encode())
    return f"student-{teacher_id[:44]}-{digest[:8]}"


def start_student(config: DistilConfig, labels: LabelSet) -> Student:
    """The student before its first lesson: the base, else random.

    Raises:
        ModelError: the base is missing, damaged or of other sizes.
    """
    torch.manual_seed(config.train.seed)
    maps = max(1, len(map_labels(labels)))
    sizes: StudentConfig = config.student.model_copy(update={"channels": maps})
    if config.student_base is None:
        return Student(sizes)
    based = read_student(config.student_base)
    same = {"side_px", "whole_px", "channels"}
    if based.config.model_dump(exclude=same) != sizes.model_dump(exclude=same):
        raise ModelError(
            f"{config.student_base}: has other sizes than configured; leave `student` out or set "
            "`student_base` to null"
        )
    fresh = Student(sizes)
    kept = based.state_dict()
    if based.config.channels != maps:
        kept = {name: value for name, value in kept.items() if not name.startswith(_NEW_MASKS)}
    fresh.load_state_dict({**fresh.state_dict(), **kept})
    return fresh


def train_student(
    student: Student,
    exercises: Exercises,
    config: DistilConfig,
    directory: Path,
    progress: Callable[[Progress], None],
) -> FitResult:
    """Teach a student all lessons; resumes what the directory holds."""
    student.train()

    def loss(lesson: Lesson, generator: torch.Generator) -> Mapping[str, Tensor]:
        return lesson_loss(
            student, lesson, config.mix, generator, centreline=config.weights.centreline
        )

    steps = config.train.steps
    if steps is None and config.train.minutes is None:
        per_epoch = len(exercises.squares) / config.train.batch
        every = config.whole_every
        share = (every - 1) / every if every > 1 and len(exercises.whole) else 1.0
        steps = max(1, round(config.train.epochs * per_epoch / share))
    result = fit(
        student,
        loss,
        lambda step: lesson_of(exercises, step, config),
        config.train,
        steps=steps,
        directory=directory,
        progress=progress,
    )
    student.eval()
    return result


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
        scratch / "exercises.safetensors",
        syllabus.pages,
        Catalogue(home),
        teaching.model,
        labels,
        config,
        lambda share: progress("asking the teacher", 0.02 + 0.18 * share),
    )

    def tell(at: Progress) -> None:
        shown = [f"{name} {at.figures[name]:.3f}" for name in _SHOWN if name in at.figures]
        progress(f"step {at.step}: {', '.join(shown)}", 0.2 + 0.65 * at.fraction)

    fitted = train_student(student, exercises, config, scratch / "checkpoints", tell)
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
    )


_SHOWN = ("loss", "iou", "dice_auto")

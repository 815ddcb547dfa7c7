"""The training of a student: where it starts, how it is taught, and the same without its teacher.

A killed training goes on from its last checkpoint.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from casebook.errors import ModelError
from casebook.labels import LabelSet
from export.exercises import Exercises, lesson_of, map_labels
from export.hints import Projection
from export.lessons import Lesson, lesson_loss
from export.settings import DistilConfig
from export.student import Student, StudentConfig
from export.student_base import read_student
from segmenter.fit import FitResult, Progress, fit

_NEW_MASKS = "automatic.masks."
"""Weights that depend on how many automatic maps there are."""


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch compute on so many threads meanwhile; on as many as before when none is given."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    if not based.config.context:  # new, it adds nothing before the first lesson
        same.add("context")
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
    projection, trained = None, nn.ModuleDict({"student": student})
    if exercises.hints is not None:
        channels = exercises.hints.shape[1]
        projection = Projection(student.config, channels, config.train.seed)
        trained["projection"] = projection

    def loss(lesson: Lesson, generator: torch.Generator) -> Mapping[str, Tensor]:
        return lesson_loss(
            student,
            lesson,
            config.mix,
            generator,
            centreline=config.weights.centreline,
            projection=projection,
            likeness=config.weights.features,
        )

    steps = config.train.steps
    if steps is None and config.train.minutes is None:
        per_epoch = len(exercises.squares) / config.train.batch
        every = config.whole_every
        share = (every - 1) / every if every > 1 and len(exercises.whole) else 1.0
        steps = max(1, round(config.train.epochs * per_epoch / share))
    result = fit(
        student if projection is None else trained,
        loss,
        lambda step: lesson_of(exercises, step, config),
        config.train,
        steps=steps,
        directory=directory,
        progress=progress,
    )
    student.eval()
    return result


def without_teacher(exercises: Exercises) -> Exercises | None:
    """What the experts alone explain of the exercises; nothing when they drew none of it."""
    squares, whole = exercises.weights[:, 0] > 0, (exercises.whole_weights[..., 0] > 0).any(axis=1)
    if not squares.any():
        return None
    weights, whole_weights = exercises.weights[squares], exercises.whole_weights[whole]
    return Exercises(
        exercises.squares[squares],
        exercises.truth[squares],
        exercises.taught[squares],
        np.stack([weights[:, 0], np.zeros_like(weights[:, 1])], axis=1),
        exercises.whole[whole],
        exercises.whole_truth[whole],
        exercises.whole_taught[whole],
        np.stack([whole_weights[..., 0], np.zeros_like(whole_weights[..., 1])], axis=2),
    )


def untaught(
    exercises: Exercises,
    labels: LabelSet,
    config: DistilConfig,
    directory: Path,
    steps: int,
    progress: Callable[[Progress], None],
) -> Student | None:
    """A student of the same sizes and start, taught as many steps on the experts' masks alone.

    Args:
        exercises: as made with the teacher; what it said is left out.
        labels: what may be annotated.
        config: as of the student with a teacher.
        directory: of checkpoints, its own.
        steps: as many as the student with a teacher had.
        progress: told how far it is.

    Returns:
        Nothing when experts drew no mask of these exercises.
    """
    known = without_teacher(exercises)
    if known is None:
        return None
    train = config.train.model_copy(update={"steps": steps, "minutes": None})
    alone = config.model_copy(update={"train": train})
    student = start_student(alone, labels)
    train_student(student, known, alone, directory, progress)
    return student

"""Exercises: squares of the syllabus with the teacher's answers, kept on disk, dealt as lessons.

The teacher is asked once for every frame; afterwards a lesson is a function of the step alone.
Knows no network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float16, Float32, UInt8
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from casebook.catalogue import Catalogue
from casebook.documents import write_bytes
from casebook.errors import DataError
from casebook.labels import LabelSet
from casebook.protocols import Embedding, Frame, Prompt, Segmenter
from export.hints import CELL_PX, Hint, at_cells, hint_of, shower, standardised
from export.lessons import Lesson, PromptLesson, WholeLesson
from export.settings import DistilConfig
from export.syllabus import Drawn, Page
from export.variation import greyed, places, sampled
from export.windows import Window, whole, window_of

_CONTEXT = 1.5
"""A kept square reaches this much further than its window, for rotation and shift."""
_SURE = 0.5


@dataclass(frozen=True)
class Exercises:
    """All squares, as they lie on disk; grey values, masks and probabilities as 0–255."""

    squares: UInt8[np.ndarray, "m c c"]
    truth: UInt8[np.ndarray, "m c c"]
    taught: UInt8[np.ndarray, "m c c"]
    weights: Float32[np.ndarray, "m 2"]
    """Of the expert's mask and of the teacher's."""
    whole: UInt8[np.ndarray, "p s s"]
    whole_truth: UInt8[np.ndarray, "p k s s"]
    whole_taught: UInt8[np.ndarray, "p k s s"]
    whole_weights: Float32[np.ndarray, "p k 2"]
    hints: Float16[np.ndarray, "m d g g"] | None = None
    """The teacher's embedding, standardised, where it shall be learnt from …"""
    hinted: Bool[np.ndarray, "m g g"] | None = None
    """… and the cells it saw."""


@dataclass
class _Sheets:
    """Squares being collected."""

    squares: list[np.ndarray]
    truth: list[np.ndarray]
    taught: list[np.ndarray]
    weights: list[tuple[float, float]]
    hints: list[Hint]


def map_labels(labels: LabelSet) -> tuple[tuple[str, str], ...]:
    """Label and role of each automatic map: the tree, then the lesions, where the set has them."""
    found = []
    for role in ("tree", "lesion"):
        named = labels.of_role(role)
        if named:
            found.append((named[0].name, role))
    return tuple(found)


def _grey(values: np.ndarray) -> UInt8[np.ndarray, "h w"]:
    return np.clip(np.rint(values * 255.0), 0, 255).astype(np.uint8)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    value: np.ndarray = 1.0 / (1.0 + np.exp(-np.clip(logits, -30, 30)))
    return value


def _kept_px(config: DistilConfig) -> int:
    return round(config.student.side_px * _CONTEXT)


def _ask(
    sheets: _Sheets,
    teacher: Segmenter,
    embedding: Embedding,
    box: tuple[float, float, float, float],
    expert: Drawn | None,
    config: DistilConfig,
) -> None:
    """One box: the teacher's probabilities and the expert's mask in a window around it."""
    frame = embedding.frame
    prompt = Prompt(box_xyxy=box)
    window = window_of(prompt.checked(frame.hw), frame.hw)
    size = round(window.side * _CONTEXT)
    margin = (size - window.side) // 2
    context = Window(window.x - margin, window.y - margin, size)
    answer = teacher.predict(embedding, prompt)[0] if config.weights.teacher else None
    taught = np.zeros(frame.hw, dtype=np.float32)
    teacher_weight = 0.0
    if answer is not None and answer.logits is not None and answer.score >= config.teacher_score:
        taught = _sigmoid(answer.logits).astype(np.float32)
        teacher_weight = config.weights.teacher
    expert_weight = 0.0
    if expert is not None:
        scale = 1.0 if expert.is_reviewed else config.weights.pseudo
        expert_weight = config.weights.expert * scale
        truth = expert.bitmap.astype(np.float32)
    else:
        truth = (taught > _SURE).astype(np.float32)
    if expert_weight + teacher_weight == 0 or not truth.any():
        return
    kept = _kept_px(config)
    sheets.squares.append(context.cut(frame.pixels, kept))
    sheets.truth.append(_grey(context.cut_values(truth, kept, 0.0)))
    sheets.taught.append(_grey(context.cut_values(taught, kept, 0.0)))
    sheets.weights.append((expert_weight, teacher_weight))
    shown = shower(teacher, config.weights.features)
    if shown is not None:
        sheets.hints.append(hint_of(shown, frame, prompt, context, kept // CELL_PX))


def _union(drawn: Sequence[Drawn]) -> Bool[np.ndarray, "h w"] | None:
    return np.logical_or.reduce([one.bitmap for one in drawn]) if drawn else None


def _whole_of(
    teacher: Segmenter,
    embedding: Embedding,
    page: Page,
    labels: LabelSet,
    config: DistilConfig,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A whole frame: its square, the maps known, the maps taught, and their weights."""
    frame = embedding.frame
    window, side = whole(frame.hw), config.student.whole_px
    maps = map_labels(labels)
    truth = np.zeros((len(maps), side, side), dtype=np.uint8)
    taught = np.zeros_like(truth)
    weights = np.zeros((len(maps), 2), dtype=np.float32)
    for index, (label, role) in enumerate(maps):
        drawn = page.tree if role == "tree" else page.lesions
        known = _union(drawn)
        is_reviewed = all(one.is_reviewed for one in drawn)
        if known is not None:
            truth[index] = _grey(window.cut_values(known.astype(np.float32), side, 0.0))
            weights[index, 0] = config.weights.expert * (
                1.0 if is_reviewed else config.weights.pseudo
            )
        if not config.weights.teacher_whole:
            continue
        answers = teacher.predict(embedding, Prompt(concept=label))
        sure = [a for a in answers if a.logits is not None and a.score >= config.teacher_score]
        if sure:
            logits = np.max([a.logits for a in sure if a.logits is not None], axis=0)
            probability = _sigmoid(logits).astype(np.float32)
            taught[index] = _grey(window.cut_values(probability, side, 0.0))
            weights[index, 1] = config.weights.teacher_whole
            if known is None:
                truth[index] = np.where(taught[index] > 127, 255, 0)
    return window.cut(frame.pixels, side), truth, taught, weights


def _collect(
    pages: Sequence[Page],
    catalogue: Catalogue,
    teacher: Segmenter,
    labels: LabelSet,
    config: DistilConfig,
    progress: Callable[[float], None],
) -> Exercises:
    shower(teacher, config.weights.features)
    sheets = _Sheets([], [], [], [], [])
    wholes: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    for number, page in enumerate(pages):
        if number % max(1, len(pages) // 20) == 0:
            progress(number / len(pages))
        frame: Frame = catalogue.frame(page.ref)
        embedding = teacher.embed(frame)
        for one in page.prompted:
            _ask(sheets, teacher, embedding, one.box, one, config)
        for box in page.boxes:
            _ask(sheets, teacher, embedding, box, None, config)
        if config.whole_every and map_labels(labels) and page.drawn:
            found = _whole_of(teacher, embedding, page, labels, config)
            if found[3].any():
                wholes.append(found)
    if not sheets.squares:
        raise DataError("no mask to learn from; pull annotations of a round first")
    side, count = config.student.whole_px, len(map_labels(labels))
    return Exercises(
        np.stack(sheets.squares),
        np.stack(sheets.truth),
        np.stack(sheets.taught),
        np.array(sheets.weights, dtype=np.float32),
        np.array([w[0] for w in wholes], dtype=np.uint8).reshape(-1, side, side),
        np.array([w[1] for w in wholes], dtype=np.uint8).reshape(-1, count, side, side),
        np.array([w[2] for w in wholes], dtype=np.uint8).reshape(-1, count, side, side),
        np.array([w[3] for w in wholes], dtype=np.float32).reshape(-1, count, 2),
        *(standardised(sheets.hints) if sheets.hints else ()),
    )


def read_exercises(path: Path) -> Exercises:
    """The exercises kept at a path.

    Raises:
        DataError: there are none, or the file is damaged.
    """
    try:
        return Exercises(**load_file(path))
    except (OSError, SafetensorError, TypeError):
        raise DataError(f"{path}: no exercises; distil again, they are made anew") from None


def prepare(
    path: Path,
    pages: Sequence[Page],
    catalogue: Catalogue,
    teacher: Segmenter,
    labels: LabelSet,
    config: DistilConfig,
    progress: Callable[[float], None],
) -> Exercises:
    """The exercises kept at a path, else those made now and kept there.

    Raises:
        DataError: there is nothing to learn from.
    """
    if path.is_file():
        try:
            return read_exercises(path)
        except DataError:
            path.unlink()
    made = _collect(pages, catalogue, teacher, labels, config, progress)
    write_bytes(path, save({name: one for name, one in vars(made).items() if one is not None}))
    return made


def _order(count: int, wanted: int, turn: int, seed: int) -> np.ndarray:
    """Indices of a turn: epochs are permutations laid end to end."""
    chosen = []
    for position in range(turn * wanted, (turn + 1) * wanted):
        epoch, offset = divmod(position, count)
        chosen.append(np.random.default_rng((seed, epoch)).permutation(count)[offset])
    return np.array(chosen)


def lesson_of(exercises: Exercises, step: int, config: DistilConfig) -> Lesson:
    """The lesson of a step: a function of the step, the settings and the exercises."""
    seed, every = config.train.seed, config.whole_every
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    if every and len(exercises.whole) and step % every == every - 1:
        index = _order(len(exercises.whole), config.whole_batch, step // every, seed)
        early = config.early_px if step < config.early_steps else None
        side = early or config.student.whole_px
        grid = places(len(index), side, 1.0, config.vary, generator)
        weights = torch.from_numpy(exercises.whole_weights[index])
        return Lesson(
            whole=WholeLesson(
                greyed(sampled(exercises.whole[index], grid, "border"), config.vary, generator),
                sampled(exercises.whole_truth[index], grid, "zeros") > 127.0,
                weights[..., 0],
                sampled(exercises.whole_taught[index], grid, "zeros") / 255.0,
                weights[..., 1],
            )
        )
    turn = step - step // every if every else step
    index = _order(len(exercises.squares), config.train.batch, turn, seed)
    grid = places(len(index), config.student.side_px, 1 / _CONTEXT, config.vary, generator)
    truth = sampled(exercises.truth[index], grid, "zeros")[:, 0] > 127.0
    # A square the object was shifted out of teaches nothing.
    seen = truth.flatten(1).any(dim=1).float()
    weights = torch.from_numpy(exercises.weights[index])
    hints = hinted = None
    if exercises.hints is not None and exercises.hinted is not None:
        cells = at_cells(grid)
        hints = sampled(exercises.hints[index], cells, "border")
        hinted = sampled(exercises.hinted[index], cells, "zeros")[:, 0]
    return Lesson(
        prompts=PromptLesson(
            greyed(sampled(exercises.squares[index], grid, "border"), config.vary, generator),
            torch.arange(len(index)),
            truth,
            weights[:, 0] * seen,
            sampled(exercises.taught[index], grid, "zeros")[:, 0] / 255.0,
            weights[:, 1] * seen,
            hints,
            hinted,
        )
    )

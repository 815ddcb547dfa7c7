"""Pre-trains the shipped student base from nothing, on generic synthetic shapes, without a teacher.

``python -m export.student_base --minutes 35``. Distillation starts from it.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from casebook.documents import sha256_of, write_bytes, write_document
from casebook.errors import ModelError
from casebook.registry import ModelCard
from export.lessons import Lesson, PromptLesson, WholeLesson, lesson_loss, prompt_loss, whole_loss
from export.student import Student, StudentConfig
from segmenter.fit import Progress, TrainConfig
from segmenter.interactive import PromptMix
from segmenter.pretraining import HELD_OUT_SEED, PICTURES, command, commit, fit_base
from segmenter.shapes import Picture, draw_picture

FILE = "student.safetensors"
LICENCE = "Apache-2.0; trained by the angioloop project from random initialisation."
_TARGETS_PER_PICTURE = 3
_MAPS = ("line", "narrowing")
"""What the automatic head's channels learn first: everything long, and where it narrows."""


def _whole_truth(picture: Picture) -> np.ndarray:
    side = picture.pixels.shape[0]
    maps = np.zeros((len(_MAPS), side, side), dtype=bool)
    for index, word in enumerate(_MAPS):
        for thing in picture.things:
            if word in thing.words:
                maps[index] |= thing.bitmap
    return maps


def shapes_lesson(seed: int, step: int, batch: int, side: int) -> Lesson:
    """The lesson of a step: a function of its arguments alone."""
    rng = np.random.default_rng((seed, step))
    pictures = [draw_picture(rng, side) for _ in range(batch)]
    squares = torch.from_numpy(np.stack([p.pixels for p in pictures])).float()[:, None]
    chosen: list[np.ndarray] = []
    owner: list[int] = []
    for index, picture in enumerate(pictures):
        order = rng.permutation(len(picture.targets))
        for k in range(_TARGETS_PER_PICTURE):
            chosen.append(picture.targets[order[k % len(order)]])
            owner.append(index)
    truth = torch.from_numpy(np.stack(chosen))
    whole = torch.from_numpy(np.stack([_whole_truth(picture) for picture in pictures]))
    nobody = torch.zeros(len(truth))
    return Lesson(
        PromptLesson(
            squares,
            torch.tensor(owner, dtype=torch.int64),
            truth,
            torch.ones(len(truth)),
            truth.float(),
            nobody,
        ),
        WholeLesson(
            squares, whole, torch.ones(whole.shape[:2]), whole.float(), torch.zeros(whole.shape[:2])
        ),
    )


def held_out(student: Student, pictures: int = 96, batch: int = 16) -> dict[str, float]:
    """Mean IoU by box and by one click, and Dice of the automatic maps, on pictures never seen."""
    sums: dict[str, list[float]] = {}
    student.eval()
    with torch.inference_mode():
        for part in range(max(1, pictures // batch)):
            lesson = shapes_lesson(HELD_OUT_SEED, part, batch, student.config.side_px)
            for name, mix in (
                ("box_iou", PromptMix(box=1, box_and_click=0, click=0, corrections=0)),
                ("click_iou", PromptMix(box=0, box_and_click=0, click=1, corrections=0)),
            ):
                if lesson.prompts is not None:
                    generator = torch.Generator().manual_seed(part)
                    terms = prompt_loss(student, lesson.prompts, mix, generator)
                    sums.setdefault(name, []).append(float(terms["iou"]))
            if lesson.whole is not None:
                dice = whole_loss(student, lesson.whole)["dice"]
                sums.setdefault("automatic_dice", []).append(float(dice))
    student.train()
    return {name: float(np.mean(values)) for name, values in sums.items()}


def write_base(
    student: Student,
    out: Path,
    config: TrainConfig,
    progress: Progress,
    figures: Mapping[str, float],
) -> ModelCard:
    """Write weights (half precision), sizes and card; each file atomically."""
    state = {name: value.half().contiguous() for name, value in student.state_dict().items()}
    payload = save(state, {"config": student.config.model_dump_json()})
    write_bytes(out / FILE, payload)
    card = ModelCard(
        model_id="student-base",
        kind="base",
        architecture="promptable U-shape, export/student.py",
        created=datetime.now(UTC),
        n_params=student.n_params,
        n_trainable=student.n_params,
        data={
            "pictures": PICTURES,
            "steps": progress.step,
            "pictures_drawn": progress.step * config.batch,
        },
        config=config.model_dump(mode="json"),
        seed=config.seed,
        commit=commit(),
        figures={**figures, "seconds": progress.seconds},
        files={FILE: sha256_of(payload)},
        licence=LICENCE,
        intended_use="A starting point for distillation; not a medical device.",
    )
    write_document(out / "student.card.json", card)
    return card


def read_student(path: Path, config: StudentConfig | None = None) -> Student:
    """A student from its safetensors file, strictly.

    Args:
        path: the file.
        config: sizes expected; `whole_px` may differ, as no weight depends on it.

    Raises:
        ModelError: missing, damaged, or of other sizes.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            state = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as problem:
        raise ModelError(f"{path}: not a student's weights: {problem}") from None
    if "config" not in metadata:
        raise ModelError(f"{path}: no sizes are stored in it; expected a student's weights")
    sizes = StudentConfig.model_validate_json(metadata["config"])
    student = Student(config or sizes)
    try:
        student.load_state_dict(state)
    except RuntimeError as problem:
        line = str(problem).splitlines()[-1].strip()
        raise ModelError(f"{path}: weights of other sizes than configured: {line}") from None
    return student


def pretrain(config: TrainConfig, sizes: StudentConfig, *, directory: Path, out: Path) -> ModelCard:
    """Train the base, writing it at every checkpoint; resumes what the directory holds."""
    torch.manual_seed(config.seed)
    student = Student(sizes).train()
    kept = Student(sizes)
    mix = PromptMix()

    def batches(step: int) -> Lesson:
        return shapes_lesson(config.seed, step, config.batch, sizes.side_px)

    def loss(lesson: Lesson, generator: torch.Generator) -> dict[str, Tensor]:
        return lesson_loss(student, lesson, mix, generator)

    def write(student: Student, progress: Progress) -> ModelCard:
        return write_base(student, out, config, progress, held_out(student))

    return fit_base((student, kept), loss, batches, config, directory, write)


main = command(
    lambda config, directory, out: pretrain(config, StudentConfig(), directory=directory, out=out),
    "Pre-train the student base on generic synthetic shapes.",
    "python -m export.student_base --minutes 35 --out conf/tiny-base",
    Path("workspace/student-base"),
    minutes=35.0,
    lr=2e-3,
    warmup=0.02,
    ema=0.995,
    checkpoint_every=250,
)


if __name__ == "__main__":
    main()

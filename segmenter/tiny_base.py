"""Pre-trains the shipped tiny SAM 3 from nothing, on generic synthetic shapes only.

``python -m segmenter.tiny_base --minutes 60`` is what ``make tiny-base`` runs. Uses both paths:
boxes, clicks and corrections on most steps, concepts on every few.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from casebook.documents import write_document
from casebook.masks import box_of
from casebook.registry import ModelCard
from segmenter.concept import ConceptQuery, concept_loss, detection_loss
from segmenter.fit import Progress, TrainConfig
from segmenter.interactive import PromptMix, draw_prompts, interactive_loss, upsampled
from segmenter.losses import iou
from segmenter.pretraining import HELD_OUT_SEED, PICTURES, command, commit, fit_base
from segmenter.prompts import Window, crop, normalised
from segmenter.sam3 import Sam3, Sam3Config, build
from segmenter.shapes import WORDS, Picture, draw_picture
from segmenter.weights import save_base

LICENCE = (
    "Weights: Apache-2.0, trained by the angioloop project from random initialisation. The model "
    "code they run in is sam3's, under the SAM License."
)
_PICTURE_PX = 176
"""Side of the pictures that windows are cut from."""
_PER_PICTURE = 2
"""Targets taken from one picture."""
_SMALLEST_PX = 56
"""Smallest window: a target is never blown up more than about twice."""
_CONCEPT_PICTURES = 4


@dataclass(frozen=True)
class ShapesBatch:
    """Pictures with single masks to ask for, or with concept queries."""

    pixels: Float[Tensor, "i 3 s s"]
    image_index: Int[Tensor, " b"]
    truth: Bool[Tensor, "b s s"]
    queries: tuple[ConceptQuery, ...]


def _queries(
    index: int, picture: Picture, rng: np.random.Generator, most: int
) -> list[ConceptQuery]:
    """Up to two words the picture shows, and sometimes one it does not."""
    side = picture.pixels.shape[0]
    shown = sorted({word for thing in picture.things for word in thing.words})
    absent = [word for word in WORDS if word not in shown]
    words = list(rng.permutation(shown)[:2])
    if absent and (rng.random() < 0.5 or not words):
        words.append(str(rng.choice(absent)))
    queries = []
    for word in words:
        bitmaps = [thing.bitmap for thing in picture.things if word in thing.words][:most]
        instances = np.stack(bitmaps) if bitmaps else np.zeros((0, side, side), dtype=bool)
        queries.append(ConceptQuery(index, str(word), torch.from_numpy(instances)))
    return queries


def shapes_batch(
    seed: int, step: int, config: TrainConfig, model: Sam3Config, *, is_concept: bool
) -> ShapesBatch:
    """The batch of a step: a function of its arguments alone."""
    rng = np.random.default_rng((seed, step))
    count = _CONCEPT_PICTURES if is_concept else config.batch
    if not is_concept:
        return _windows(rng, count, model)
    pictures = [draw_picture(rng, model.side_px) for _ in range(count)]
    grey = torch.from_numpy(np.stack([picture.pixels for picture in pictures]))
    pixels = normalised(grey, standardised=model.standardised)
    queries: list[ConceptQuery] = []
    for index, picture in enumerate(pictures):
        queries += _queries(index, picture, rng, model.queries)
    nothing = torch.zeros(0, dtype=torch.int64)
    truth = torch.zeros(0, model.side_px, model.side_px, dtype=torch.bool)
    return ShapesBatch(pixels, nothing, truth, tuple(queries))


def _windows(rng: np.random.Generator, count: int, model: Sam3Config) -> ShapesBatch:
    """Single targets, each in a window around it as a prompt's would be, a little off centre."""
    squares: list[np.ndarray] = []
    truths: list[np.ndarray] = []
    while len(squares) < count:
        picture = draw_picture(rng, _PICTURE_PX)
        for k in rng.permutation(len(picture.targets))[: min(_PER_PICTURE, count - len(squares))]:
            target = picture.targets[k]
            x1, y1, x2, y2 = box_of(target)
            longer = max(x2 - x1, y2 - y1) + 1
            size = round(min(max(longer * rng.uniform(1.25, 2.0), _SMALLEST_PX), _PICTURE_PX))
            shift = rng.uniform(-0.08, 0.08, size=2) * size
            room = _PICTURE_PX - size
            x = int(np.clip(round((x1 + x2) / 2 + shift[0] - size / 2), 0, room))
            y = int(np.clip(round((y1 + y2) / 2 + shift[1] - size / 2), 0, room))
            window = Window(x, y, size)
            squares.append(crop(picture.pixels, window, model.side_px))
            truths.append(
                crop(target.astype(np.uint8) * np.uint8(255), window, model.side_px) > 127
            )
    return ShapesBatch(
        normalised(torch.from_numpy(np.stack(squares)), standardised=model.standardised),
        torch.arange(count),
        torch.from_numpy(np.stack(truths)),
        (),
    )


def held_out(model: Sam3, pictures: int = 96) -> dict[str, float]:
    """Mean IoU on fixed pictures never trained on: by box, and by one click."""
    config = TrainConfig(batch=32)
    figures: dict[str, list[Tensor]] = {}
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for part in range(max(1, pictures // config.batch)):
            batch = shapes_batch(HELD_OUT_SEED, part, config, model.config, is_concept=False)
            features = model.encode(batch.pixels).rows(batch.image_index)
            for name, mix in (
                ("box_iou", PromptMix(box=1, box_and_click=0, click=0)),
                ("click_iou", PromptMix(box=0, box_and_click=0, click=1)),
            ):
                generator = torch.Generator().manual_seed(part)
                points, labels = draw_prompts(batch.truth, mix, generator)
                low, _ = model.decode(features, points, labels)
                found = upsampled(low, model.config.side_px) > 0
                figures.setdefault(name, []).append(iou(found, batch.truth))
    model.train(was_training)
    return {name: float(torch.cat(values).mean()) for name, values in figures.items()}


def write_base(
    model: Sam3, out: Path, config: TrainConfig, progress: Progress, figures: Mapping[str, float]
) -> ModelCard:
    """Write weights, sizes and card of the base; each file atomically."""
    files = save_base(model, out)
    card = ModelCard(
        model_id="tiny-base",
        kind="base",
        architecture="SAM 3 (tiny): the classes of sam3 0.1.4 at small sizes",
        created=datetime.now(UTC),
        n_params=sum(p.numel() for p in model.parameters()),
        n_trainable=sum(p.numel() for p in model.parameters()),
        data={
            "pictures": PICTURES,
            "steps": progress.step,
            "pictures_drawn": progress.step * config.batch,
        },
        config=config.model_dump(mode="json"),
        seed=config.seed,
        commit=commit(),
        figures={**figures, "seconds": progress.seconds},
        files=files,
        licence=LICENCE,
        intended_use="A starting point for LoRA training in demos and tests; not a medical device.",
    )
    write_document(out / "card.json", card)
    return card


def pretrain(config: TrainConfig, sizes: Sam3Config, *, directory: Path, out: Path) -> ModelCard:
    """Train the tiny base, writing it at every checkpoint; resumes what the directory holds."""
    torch.manual_seed(config.seed)
    model = build(sizes).train()
    kept = build(sizes)
    criterion = detection_loss(sizes.queries)
    mix = PromptMix(correction_share=0.2)

    def batches(step: int) -> ShapesBatch:
        is_concept = bool(config.concept_every) and step % config.concept_every == 0
        return shapes_batch(config.seed, step, config, sizes, is_concept=is_concept)

    def loss(batch: ShapesBatch, generator: torch.Generator) -> dict[str, Tensor]:
        if batch.queries:
            concept = concept_loss(model, criterion, batch.pixels, batch.queries)["loss"]
            # Brought to the size of the mask losses, so that one clip serves both.
            return {"loss": concept / 40.0, "concept": concept}
        terms = interactive_loss(
            model, batch.pixels, batch.image_index, batch.truth, mix, generator
        )
        return {**terms, "mask": terms["loss"]}

    def write(model: Sam3, progress: Progress) -> ModelCard:
        return write_base(model, out, config, progress, held_out(model))

    return fit_base((model, kept), loss, batches, config, directory, write)


main = command(
    lambda config, directory, out: pretrain(config, Sam3Config(), directory=directory, out=out),
    "Pre-train the tiny base on generic synthetic shapes.",
    "python -m segmenter.tiny_base --minutes 60 --out conf/tiny-base",
    Path("workspace/tiny-base"),
    minutes=60.0,
    lr=1e-3,
    warmup=0.03,
    ema=0.998,
    checkpoint_every=500,
    concept_every=10,
)


if __name__ == "__main__":
    main()

"""Goes on from the tiny base: trees of thin lines, by their name, and three masks for one click.

``python -m segmenter.tree_base --minutes 50`` is the second half of what ``make tiny-base`` runs.
Every third step asks by name, in squares as fine as those a frame is later looked at in; the others
go on with boxes and clicks. Names that mean nothing are taught to mean the trees: what is asked for
by a name nobody taught is most likely what stands out.
"""

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from casebook.documents import read_document, write_document
from casebook.registry import ModelCard
from segmenter.concept import SCALE, ConceptQuery, concept_loss, detection_loss
from segmenter.fit import Progress, TrainConfig
from segmenter.interactive import PromptMix, draw_prompts, interactive_loss, likeliest, upsampled
from segmenter.losses import iou
from segmenter.pretraining import HELD_OUT_SEED, PICTURES, command, commit, fit_base
from segmenter.prompts import normalised
from segmenter.sam3 import Sam3, Sam3Config, build
from segmenter.shapes import Picture, draw_picture
from segmenter.tiny_base import LICENCE, ShapesBatch, held_out, queries_of, windows_batch
from segmenter.trees import TREE_WORDS, draw_trees, made_up_name
from segmenter.weights import base_sha256, load_base, read_sizes, save_base

TILE = 0.55
"""Share of a frame that a concept is looked for in at a time: four tiles of a square frame."""
_CONCEPT_PICTURES = 4
_TREES = 0.75
"""Share of pictures with trees in a step that asks by name …"""
_TREES_PROMPTED = 0.5
"""… and of those that boxes and clicks ask in."""
_MADE_UP = 0.7
"""Share of the askings for trees by a name that means nothing."""
_NOISE = 0.3
"""Deviation of the three masks' tokens at the start, over the single mask's."""


def three_masks(model: Sam3, generator: torch.Generator) -> None:
    """Let the three masks of an ambiguous prompt begin where the single one is, a little apart."""
    decoder = model.tracker.sam_mask_decoder
    mlps = decoder.output_hypernetworks_mlps
    with torch.no_grad():
        tokens, last = decoder.mask_tokens.weight, decoder.iou_prediction_head.layers[-1]
        for index in range(1, len(mlps)):
            mlps[index].load_state_dict(mlps[0].state_dict())
            noise = torch.randn(tokens[0].shape, generator=generator) * tokens[0].std()
            tokens[index] = tokens[0] + _NOISE * noise
            last.weight[index], last.bias[index] = last.weight[0], last.bias[0]


def _draw(rng: np.random.Generator, side: int) -> Picture:
    return draw_trees(rng, side) if rng.random() < _TREES_PROMPTED else draw_picture(rng, side)


def trees_batch(
    seed: int, step: int, config: TrainConfig, model: Sam3Config, *, is_concept: bool
) -> ShapesBatch:
    """The batch of a step: a function of its arguments alone."""
    rng = np.random.default_rng((seed, step))
    if not is_concept:
        return windows_batch(rng, config.batch, model, _draw)
    pictures, queries = [], []
    for index in range(_CONCEPT_PICTURES):
        has_trees = rng.random() < _TREES
        picture = (draw_trees if has_trees else draw_picture)(rng, model.side_px)
        pictures.append(picture)
        if has_trees:
            named = made_up_name(rng) if rng.random() < _MADE_UP else str(rng.choice(TREE_WORDS))
            queries.append(ConceptQuery(index, named, _trees_of(picture, model.queries)))
        queries += queries_of(index, picture, rng, model.queries)
    grey = torch.from_numpy(np.stack([picture.pixels for picture in pictures]))
    side = model.side_px
    return ShapesBatch(
        normalised(grey, standardised=model.standardised),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, side, side, dtype=torch.bool),
        tuple(queries),
    )


def _trees_of(picture: Picture, most: int) -> Tensor:
    trees = [thing.bitmap for thing in picture.things if TREE_WORDS[0] in thing.words]
    return torch.from_numpy(np.stack(trees[:most]))


def held_out_trees(model: Sam3, pictures: int = 48) -> dict[str, float]:
    """Mean Dice of the dense map on fixed trees never trained on, and IoU in them by prompt.

    `tree_dice`: asked for by its name, `named_dice`: by a name that means nothing. `tree_box_iou`
    and `tree_click_iou`: stretches of their lines; a click is answered by the best of three.
    """
    was_training = model.training
    model.eval()
    rng = np.random.default_rng(HELD_OUT_SEED)
    sizes = model.config
    drawn = [draw_trees(rng, sizes.side_px) for _ in range(pictures)]
    grey = torch.from_numpy(np.stack([picture.pixels for picture in drawn]))
    pixels = normalised(grey, standardised=sizes.standardised)
    truth = torch.stack([_trees_of(picture, sizes.queries).any(dim=0) for picture in drawn])
    asked = windows_batch(rng, pictures, sizes, draw_trees)
    index = torch.arange(pictures)
    figures = {}
    with torch.inference_mode():
        vision = model.concept_features(model.trunk(pixels))
        for figure, name in (("tree_dice", TREE_WORDS[0]), ("named_dice", made_up_name(rng))):
            text = model.text_features([name])
            out = model.ground(vision, text, index, torch.zeros_like(index))
            found = upsampled(out["semantic_seg"][:, 0], sizes.side_px) > 0
            both, sizes_px = (found & truth).sum(dim=(1, 2)), found.sum(dim=(1, 2))
            dice = 2 * both / (sizes_px + truth.sum(dim=(1, 2)))
            figures[figure] = float(dice.mean())
        features = model.encode(asked.pixels)
        for figure, mix in (
            ("tree_box_iou", PromptMix(box=1, box_and_click=0, click=0)),
            ("tree_click_iou", PromptMix(box=0, box_and_click=0, click=1)),
        ):
            prompt = draw_prompts(asked.truth, mix, torch.Generator().manual_seed(0))
            masks, quality = model.candidates(features, *prompt)
            several = torch.full((pictures,), sizes.multimask and figure == "tree_click_iou")
            low, _ = likeliest(masks, quality, several)
            figures[figure] = float(iou(upsampled(low, sizes.side_px) > 0, asked.truth).mean())
    model.train(was_training)
    return figures


def write_base(
    model: Sam3,
    out: Path,
    config: TrainConfig,
    progress: Progress,
    start: Path,
) -> ModelCard:
    """Write weights, sizes and card of the base, with what it was before; each file atomically."""
    before = read_document(start / "card.json", ModelCard)
    files = save_base(model, out)
    count = sum(p.numel() for p in model.parameters())
    card = before.with_(
        created=datetime.now(UTC),
        n_params=count,
        n_trainable=count,
        data={
            "pictures": f"{PICTURES}; trees of segmenter/trees.py",
            "steps": progress.step,
            "start_sha256": base_sha256(start),
            "start_commit": before.commit,
            "start_steps": before.data.get("steps"),
            "start_seconds": before.figures.get("seconds"),
        },
        config=config.model_dump(mode="json"),
        seed=config.seed,
        commit=commit(),
        figures={**held_out(model), **held_out_trees(model), "seconds": progress.seconds},
        files=files,
        licence=LICENCE,
    )
    write_document(out / "card.json", card)
    return card


def pretrain(config: TrainConfig, *, directory: Path, out: Path) -> ModelCard:
    """Go on from the base in `out`, writing it at every checkpoint; resumes what is in `directory`.

    Raises:
        ModelError: there is no base.
    """
    start = directory / "start"
    if not (start / "card.json").is_file():
        load_base(out)
        start.mkdir(parents=True, exist_ok=True)
        # The card last: with it the copy is whole.
        for name in ("model.safetensors", "config.json", "card.json"):
            shutil.copyfile(out / name, start / name)
    torch.manual_seed(config.seed)
    sizes = read_sizes(start).model_copy(update={"multimask": True, "tile": TILE})
    model, kept = build(sizes), build(sizes)
    model.load_state_dict(load_base(start).state_dict())
    if not read_sizes(start).multimask:
        three_masks(model, torch.Generator().manual_seed(config.seed))
    model.train()
    criterion = detection_loss(sizes.queries)
    mix = PromptMix(box=0.55, box_and_click=0.15, click=0.3, correction_share=0.2)

    def batches(step: int) -> ShapesBatch:
        is_concept = step % config.concept_every == config.concept_every - 1
        return trees_batch(config.seed, step, config, sizes, is_concept=is_concept)

    def loss(batch: ShapesBatch, generator: torch.Generator) -> Mapping[str, Tensor]:
        if batch.queries:
            terms = concept_loss(model, criterion, batch.pixels, batch.queries)
            return {**terms, "loss": terms["loss"] / SCALE}
        terms = interactive_loss(
            model,
            batch.pixels,
            batch.image_index,
            batch.truth,
            mix,
            generator,
            multimask=True,
        )
        return {**terms, "mask": terms["loss"]}

    def write(model: Sam3, progress: Progress) -> ModelCard:
        return write_base(model, out, config, progress, start)

    return fit_base((model, kept), loss, batches, config, directory, write)


main = command(
    lambda config, directory, out: pretrain(config, directory=directory, out=out),
    "Go on from the tiny base: trees by name, three masks for one click.",
    "python -m segmenter.tree_base --minutes 50 --out conf/tiny-base",
    Path("workspace/tree-base"),
    minutes=50.0,
    lr=5e-4,
    warmup=0.03,
    ema=0.998,
    checkpoint_every=400,
    concept_every=3,
)


if __name__ == "__main__":
    main()

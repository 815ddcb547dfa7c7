"""Does choosing cases pay? Cases needed to reach a given IoU, for each strategy of selection.

Each seed is a pool of phantom patients (two views of two lesions, rendered as everywhere), the same
test patients for all. Every strategy starts from the same cases drawn at random and the model
trained on them; then it chooses some more, an expert draws them (the truth), and training goes on
from the last model on all cases so far, the same steps for all. Selection, proposals, descriptors
and training are the rounds' own; the promotion gate and CVAT are left out. The base is the shipped
tiny one with its encoder frozen, and steps are few: what is compared is the order of cases, not how
good a model gets.

`target_iou` is what random selection reaches with the whole budget, mean over seeds.
`cases_to_iou_*`: cases at which the IoU with box on the test cases passes it, between two rounds by
a straight line, mean over seeds with the 95 % t interval; a seed that never gets there counts the
whole budget, so that the mean is a lower bound where `seeds_short_*` is not 0.
`gain_over_random_*`: IoU over random's, averaged over the rounds after the first, mean over seeds
with its interval. No seed was used for development (that was 9001).
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from angio.evaluation import evaluate
from angio.phantoms import PHANTOM_VERSION
from angio.phantoms.reader import rough_box
from angio.phantoms.render import render_cine
from angio.phantoms.scene import draw_patient
from angio.rendering import render
from bench.harness import run
from casebook import masks
from casebook.annotations import AnnotationSet, AnnotationSetBuilder, Origin, write_annotations
from casebook.cases import Case, DeidRecord, Split
from casebook.catalogue import Catalogue, png_bytes
from casebook.documents import sha256_of
from casebook.home import Home
from casebook.labels import Label, LabelSet
from casebook.rounds import RoundFolder
from trainer.samples import training_set
from trainer.select import expert_set, select
from trainer.teachers import incumbent_id, load_incumbent
from trainer.train import card_of, register
from trainer.train import run as train
from trainer.work import Work

STRATEGIES = {
    "random": (),
    "uncertainty": (),
    "diversity": (),
    "uncertainty+diversity": ("select.per_patient=2",),
}
"""Each with the settings it is meant to be used with."""
TEST_SEED = 20261125
AIMS = {"gain_over_random_uncertainty+diversity": ">= 0"}
"""Choosing should not be worse than chance; no more is promised."""
LABEL = "vessel segment"
LABELS = LabelSet(name="phantoms", labels=(Label(name=LABEL, role="segment"),))
BASE = Path(__file__).parents[1] / "conf" / "tiny-base"
ROUND = """\
labels: labels.yaml
base: {base}
select: {{strategy: random, cases: {cases}, seed: {seed}}}
train:
  steps: {steps}
  batch: 8
  lr: 1.0e-3
  concept_every: 0
  ema: 0.9
  seed: {seed}
  checkpoint_every: 1000
  processes: 1
  lora: {{rank: 8, alpha: 16, targets: [mask_decoder], whole: [neck, mask_heads]}}
"""


@dataclass(frozen=True)
class Size:
    """How large a bench is."""

    seeds: tuple[int, ...]
    patients: int
    """Of each seed's pool; four cases each."""
    test_patients: int
    start: int
    """Cases before any choice …"""
    more: int
    """… and those chosen in each round after it."""
    rounds: int
    """In all."""
    steps: int

    @property
    def budget(self) -> int:
        """Cases in the end."""
        return self.start + self.more * (self.rounds - 1)


FULL = Size(seeds=(1, 2, 3), patients=16, test_patients=8, start=8, more=8, rounds=3, steps=30)
QUICK = Size(seeds=(1,), patients=3, test_patients=1, start=3, more=2, rounds=2, steps=1)


Drawn = tuple[Case, bytes, AnnotationSet]
"""A case, its picture, and the truth, which only who draws and who scores may read."""


def draw_cases(seed: int, numbers: Sequence[int], split: Split) -> list[Drawn]:
    """Four cases of each patient."""
    found = []
    for number in numbers:
        rng = np.random.default_rng([PHANTOM_VERSION, 77, seed, number])
        for order, view in enumerate(draw_patient(rng)):
            cine = render_cine(rng, view.scene, [seen.frame for seen in view.outlines])
            for which, seen in enumerate(view.outlines):
                payload = png_bytes(render(cine[which]))
                x1, y1, x2, y2 = rough_box(rng, masks.box_of(seen.bitmap), seen.bitmap.shape)
                case = Case(
                    case_id=f"{split.value}-{seed}-{number:03d}-{order}{which}",
                    patient=f"{split.value}-{seed}-{number:03d}",
                    split=split,
                    source="images",
                    frame=0,
                    n_frames=1,
                    stored_frames=(0,),
                    height_px=seen.bitmap.shape[0],
                    width_px=seen.bitmap.shape[1],
                    segment=LABEL,
                    lesion_box_xyxy=(float(x1), float(y1), float(x2), float(y2)),
                    image_sha256=sha256_of(payload),
                    deid=DeidRecord(method="synthetic", pixel_text="not applicable"),
                )
                builder = AnnotationSetBuilder(LABELS)
                image_id = builder.add_image(case.ref, seen.bitmap.shape, status="ok")
                builder.add_mask(image_id, LABEL, masks.encode(seen.bitmap), Origin.HUMAN)
                found.append((case, payload, builder.build()))
    return found


def scored_cases(size: Size) -> list[Drawn]:
    """The test patients of all seeds, and the one validation patient a round must have."""
    test = draw_cases(TEST_SEED, range(size.test_patients), Split.TEST)
    return [*test, *draw_cases(TEST_SEED, [size.test_patients], Split.VAL)]


def write_conf(folder: Path, size: Size, seed: int) -> Path:
    """The configuration of all rounds of a seed; the strategy is set from outside."""
    folder.mkdir(parents=True)
    (folder / "labels.yaml").write_text(LABELS.model_dump_json())
    for number in range(1, size.rounds + 1):
        text = ROUND.format(
            base=BASE,
            cases=size.start if number == 1 else size.more,
            steps=size.steps,
            seed=1000 * seed + number,
        )
        (folder / f"round-{number:02d}.yaml").write_text(text)
    return folder


def one_round(home: Home, conf: Path, number: int, overrides: tuple[str, ...]) -> float:
    """Choose, draw, train and promote; the IoU with box on the test cases."""
    work = Work(RoundFolder(home, number), conf, overrides)
    select(work)
    manifest = work.folder.manifest()
    write_annotations(
        work.folder.file("annotations.coco.json"), expert_set(manifest, work.catalogue)
    )
    rounds = tuple(range(1, number + 1))
    config, before = work.config, incumbent_id(work)
    data = training_set(home, work.catalogue, rounds, manifest.labels, config.weights)
    model_id = f"model-{number:02d}"
    directory = work.folder.file(f"training/{model_id}")
    result = train(work, rounds, data, config.train, before, directory)
    register(work, card_of(work, model_id, result, data, parents=(before,)), result)
    work.registry.promote(model_id, "the bench's only candidate")
    cases = list(work.catalogue.cases(split=Split.TEST))
    found = evaluate(
        load_incumbent(work), work.catalogue, cases, LABELS, concepts=False, baseline=False
    ).mean("iou_box")
    if found is None:
        raise AssertionError("no test case was scored")
    return found


def curves_of(
    seed: int, size: Size, scored: Sequence[Drawn], root: Path
) -> Iterator[tuple[str, list[float]]]:
    """The IoU after each round, for each strategy."""
    conf = write_conf(root / "conf", size, seed)
    start = Home(root / "start")
    catalogue = Catalogue(start)
    for case, payload, truth in (*draw_cases(seed, range(size.patients), Split.TRAIN), *scored):
        catalogue.add(case, {0: payload}, annotations=truth)
    first = one_round(start, conf, 1, ())
    for strategy, settings in STRATEGIES.items():
        home = Home(root / strategy)
        shutil.copytree(start.root, home.root)
        overrides = (f"select.strategy={strategy}", *settings)
        later = [one_round(home, conf, n, overrides) for n in range(2, size.rounds + 1)]
        shutil.rmtree(home.root)
        shown = " ".join(f"{iou:.4f}" for iou in (first, *later))
        sys.stderr.write(f"seed {seed} {strategy:<22} {shown}\n")
        yield strategy, [first, *later]


def cases_to(target: float, curve: Sequence[float], size: Size) -> float | None:
    """Cases at which a curve first passes an IoU; none when it never does."""
    cases = [size.start + size.more * n for n in range(size.rounds)]
    if curve[0] >= target:
        return float(cases[0])
    for n in range(1, size.rounds):
        if curve[n] >= target:
            along = (target - curve[n - 1]) / (curve[n] - curve[n - 1])
            return cases[n - 1] + along * size.more
    return None


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The 95 % t interval of a mean; none of a single value."""
    if len(values) < 2:
        return None, None
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def figures_of(curves: Mapping[str, list[list[float]]], size: Size) -> dict[str, float | None]:
    """All figures from each strategy's curves by seed."""
    target = float(np.mean([curve[-1] for curve in curves["random"]]))
    figures: dict[str, float | None] = {
        "target_iou": target,
        "seeds": float(len(size.seeds)),
        "budget_cases": float(size.budget),
    }
    for strategy, by_seed in curves.items():
        found = [cases_to(target, curve, size) for curve in by_seed]
        needed = [float(size.budget) if one is None else one for one in found]
        figures[f"cases_to_iou_{strategy}"] = float(np.mean(needed))
        low, high = interval(needed)
        figures[f"cases_to_iou_{strategy}_low"] = low
        figures[f"cases_to_iou_{strategy}_high"] = high
        figures[f"seeds_short_{strategy}"] = float(found.count(None))
    for strategy, by_seed in curves.items():
        if strategy != "random":
            gains = [
                float(np.mean(np.subtract(ours[1:], theirs[1:])))
                for ours, theirs in zip(by_seed, curves["random"], strict=True)
            ]
            figures[f"gain_over_random_{strategy}"] = float(np.mean(gains))
            low, high = interval(gains)
            figures[f"gain_over_random_{strategy}_low"] = low
            figures[f"gain_over_random_{strategy}_high"] = high
    for strategy, by_seed in curves.items():
        for n, iou in enumerate(np.mean(by_seed, axis=0).tolist()):
            figures[f"iou_{strategy}_{size.start + size.more * n}"] = iou
    return figures


def measure(quick: bool) -> dict[str, float | None]:
    """All figures."""
    torch.set_num_threads(1)
    size = QUICK if quick else FULL
    curves: dict[str, list[list[float]]] = {name: [] for name in STRATEGIES}
    scored = scored_cases(size)
    for seed in size.seeds:
        with tempfile.TemporaryDirectory() as root:
            for strategy, curve in curves_of(seed, size, scored, Path(root)):
                curves[strategy].append(curve)
    return figures_of(curves, size)


if __name__ == "__main__":
    run("selection", measure, AIMS)

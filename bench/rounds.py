"""Rounds on phantoms: what they bring, what they forget, and whether a killed one ends the same.

`iou`: 20 + 40 + 20 cases, an expert who corrects proposals, over 5 seeds of patients and training;
the figures are the candidates' on frozen test cases, means over seeds with 95 % t intervals.
`forgetting`: round 1 shows right coronary arteries only, rounds 2 and 3 left ones only; the drop
is that of the candidates' IoU on the right ones' test cases from round 1 to 3, by patient over 3
seeds, with a 95 % bootstrap interval over patients. `kills`: 100 workers killed at random moments
over chains of a round 1 on small pictures; each chain must end as one nobody disturbed. `resume`: a
training of the demo's model killed twice against one in peace. `data`: the share of a step that
waits for its batch.

The trainings are the demo's with fewer steps (`steps_round_N`). `--part` measures some parts; with
`--keep` the other parts' figures stay as they were, and `commit` names each part's.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from scipy import stats

from bench.harness import run_parts
from bench.rounds_cases import Drawn, Plan, Side, correct, draw, fill, is_right
from bench.rounds_kills import killed_chains, resumed_training
from casebook.cases import Split
from casebook.home import Home
from casebook.labels import read_labels
from casebook.metrics import bootstrap_mean
from casebook.rounds import RoundFolder
from segmenter.rounds import train_adapter
from segmenter.samples import Augmentation, RoundData
from segmenter.teacher import default_windows
from segmenter.weights import load_base
from trainer.chain import steps_of
from trainer.evaluate import read_evaluation
from trainer.rounds_config import read_round_config
from trainer.samples import training_set
from trainer.scores import RoundEvaluation
from trainer.tasks import run_step
from trainer.work import Work

CONF = Path(__file__).parents[1] / "conf" / "demo"
BASE = CONF.parent / "tiny-base"
LABELS = read_labels(CONF.parent / "labels" / "coronary.yaml")
AIMS = {
    "iou_gain_3_over_1_low": ">= 0",
    "forgetting_upper": "<= 0.02",
    "resume_max_abs_diff": "<= 0",
    "kills": ">= 100",
    "wrong_end_states": "<= 0",
    "data_wait_fraction": "<= 0.05",
}
SEEDS = (1, 2, 3, 4, 5)
FORGETTING_SEEDS = (11, 12, 13)
CASES = (20, 40, 20)
STEPS = (30, 40, 40)
KILLS = 100
DATA_STEPS = 30
QUICK_CASES = (3, 3, 2)
QUICK_STEPS = (2, 2, 2)
QUICK_KILLS = 2
Figures = dict[str, float | None]


def _plan(quick: bool) -> Plan:
    """Patients of four cases each."""
    counts = (2, 1, 1) if quick else (20, 5, 10)
    train, val, test = ((None,) * count for count in counts)
    return Plan(train, val, test)


def _one_sided(quick: bool) -> Plan:
    """Right coronaries enough for round 1, left ones for the rest, both scored."""
    right, left, val, test = (1, 1, 1, 1) if quick else (5, 15, 3, 6)

    one: tuple[Side, ...] = ("right",)
    other: tuple[Side, ...] = ("left",)
    return Plan(one * right + other * left, one * val + other * val, one * test + other * test)


def _walk(
    home: Home, drawn: Sequence[Drawn], rounds: Mapping[str, int], seed: int, quick: bool
) -> tuple[RoundEvaluation, ...]:
    """Three rounds in a workspace; the evaluation of each."""
    fill(home, drawn, rounds, LABELS)
    known = {one.case.case_id: one for one in drawn}
    found = []
    for number, steps in enumerate(QUICK_STEPS if quick else STEPS, start=1):
        folder = RoundFolder(home, number)
        settings = (
            f"train.steps={steps}",
            f"train.seed={10 * seed + number}",
            "evaluate.details=false",
        )
        if number > 1:
            for step in ("select", "propose"):
                run_step(step, Work(folder, CONF, settings))
            accepted = correct(folder, known)
            print(f"  round {number}: {accepted} proposals accepted", flush=True)
        for step in steps_of(number):
            if step != "report":
                run_step(step, Work(folder, CONF, settings))
        found.append(read_evaluation(folder))
    return tuple(found)


def _rounds_by_chance(drawn: Sequence[Drawn], seed: int, quick: bool) -> dict[str, int]:
    """The round of every training case."""
    names = sorted(one.case.case_id for one in drawn if one.case.split is Split.TRAIN)
    np.random.default_rng([22, seed]).shuffle(names)
    counts = QUICK_CASES if quick else CASES
    numbers = [number for number, count in enumerate(counts, start=1) for _ in range(count)]
    return dict(zip(names, numbers, strict=False))


def _rounds_by_side(drawn: Sequence[Drawn], quick: bool) -> dict[str, int]:
    """Right coronaries in round 1, left ones in rounds 2 and 3."""
    train = [one for one in drawn if one.case.split is Split.TRAIN]
    right = [one.case.case_id for one in train if is_right(one)]
    left = [one.case.case_id for one in train if not is_right(one)]
    second = 2 if quick else CASES[1]
    return {
        **dict.fromkeys(right, 1),
        **dict.fromkeys(left[:second], 2),
        **dict.fromkeys(left[second:], 3),
    }


def _over_seeds(name: str, values: Sequence[float]) -> Figures:
    """A mean over seeds with its 95 % t interval; none of one seed."""
    figures: Figures = {name: mean(values), f"{name}_low": None, f"{name}_high": None}
    if len(values) > 1:
        reach = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
        figures[f"{name}_low"] = mean(values) - reach
        figures[f"{name}_high"] = mean(values) + reach
    return figures


def iou_by_round(quick: bool) -> Figures:
    """IoU of each round's candidate on the test cases, over seeds."""
    box: dict[int, list[float]] = {0: [], 1: [], 2: [], 3: []}
    auto: dict[int, list[float]] = {1: [], 2: [], 3: []}
    seeds = SEEDS[:1] if quick else SEEDS
    for seed in seeds:
        started = time.monotonic()
        drawn = draw(seed, _plan(quick), LABELS)
        with tempfile.TemporaryDirectory(prefix="bench-rounds-") as folder:
            rounds = _rounds_by_chance(drawn, seed, quick)
            found = _walk(Home(Path(folder)), drawn, rounds, seed, quick)
        box[0].append(found[0].incumbent.test.mean("iou_box") or 0.0)
        for number, evaluation in enumerate(found, start=1):
            box[number].append(evaluation.candidate.test.mean("iou_box") or 0.0)
            auto[number].append(evaluation.candidate.test.mean("iou_auto") or 0.0)
        shown = " ".join(f"{box[number][-1]:.3f}" for number in box)
        print(f"  seed {seed}: base and rounds {shown}, {time.monotonic() - started:.0f} s",
              flush=True)  # fmt: skip
    figures: Figures = {"seeds": float(len(seeds))}
    for number, count in enumerate(QUICK_CASES if quick else CASES, start=1):
        figures[f"cases_round_{number}"] = float(count)
        figures[f"steps_round_{number}"] = float((QUICK_STEPS if quick else STEPS)[number - 1])
    figures |= _over_seeds("iou_base", box[0])
    for number in (1, 2, 3):
        figures |= _over_seeds(f"iou_by_round_{number}", box[number])
        figures |= _over_seeds(f"iou_auto_by_round_{number}", auto[number])
    gains = [third - first for first, third in zip(box[1], box[3], strict=True)]
    return figures | _over_seeds("iou_gain_3_over_1", gains)


def forgetting(quick: bool) -> Figures:
    """How much of round 1's IoU on right coronaries the left ones of later rounds cost."""
    drops: dict[str, list[float]] = {}
    for seed in FORGETTING_SEEDS[:1] if quick else FORGETTING_SEEDS:
        drawn = draw(seed, _one_sided(quick), LABELS)
        patients = {one.case.case_id: one.case.patient for one in drawn if is_right(one)}
        with tempfile.TemporaryDirectory(prefix="bench-rounds-") as folder:
            found = _walk(Home(Path(folder)), drawn, _rounds_by_side(drawn, quick), seed, quick)
        first, third = found[0].candidate.test.iou_by_case(), found[2].candidate.test.iou_by_case()
        for case_id, patient in patients.items():
            if case_id in first:
                drops.setdefault(patient, []).append(first[case_id] - third[case_id])
        shown = mean(mean(values) for values in drops.values())
        print(f"  seed {seed}: mean drop so far {shown:+.4f}", flush=True)
    found_drop = bootstrap_mean([mean(values) for values in drops.values()])
    return {
        "forgetting": found_drop.mean,
        "forgetting_low": found_drop.low,
        "forgetting_upper": found_drop.high,
        "forgetting_patients": float(found_drop.n),
    }


def data_wait(quick: bool) -> Figures:
    """Seconds spent drawing batches over seconds of the steps that trained on them."""
    steps = 3 if quick else DATA_STEPS
    drawn = draw(1, _plan(quick=True), LABELS)
    config = read_round_config(CONF, 1, (f"train.steps={steps}",))
    with tempfile.TemporaryDirectory(prefix="bench-rounds-") as folder:
        home = Home(Path(folder))
        fill(home, drawn, _rounds_by_chance(drawn, 1, quick=True), LABELS)
        work = Work(RoundFolder(home, 1), CONF, ())
        run_step("select", work)
        samples = training_set(home, work.catalogue, (1,), LABELS, config.weights).samples
        result = train_adapter(
            samples, config.train, base=BASE, init_adapter=None, directory=Path(folder) / "run"
        )
    model = load_base(BASE, matching=True)
    side, queries = model.config.side_px, model.config.queries
    data = RoundData(samples, config.train, default_windows(model), Augmentation(), side, queries)
    started = time.monotonic()
    for step in range(steps):
        data.batch(step)
    spent = time.monotonic() - started
    return {
        "data_wait_fraction": spent / result.fit.seconds,
        "batch_ms": 1000 * spent / steps,
        "step_ms": 1000 * result.fit.seconds / steps,
    }


def kills(quick: bool) -> Figures:
    """Workers killed over whole chains."""
    return killed_chains(QUICK_KILLS if quick else KILLS)


def resume(quick: bool) -> Figures:
    """The largest difference of a weight between a killed training and one in peace."""
    drawn = draw(1, _plan(quick=True), LABELS)

    def prepare(home: Home) -> None:
        fill(home, drawn, _rounds_by_chance(drawn, 1, quick=True), LABELS)

    return resumed_training(prepare, CONF, steps=8 if quick else 40, every=2 if quick else 5)


PARTS: dict[str, Callable[[bool], Figures]] = {
    "resume": resume,
    "data": data_wait,
    "kills": kills,
    "forgetting": forgetting,
    "iou": iou_by_round,
}


def measure(quick: bool) -> Figures:
    """All figures."""
    figures: Figures = {}
    for part in PARTS.values():
        figures |= part(quick)
    return figures


if __name__ == "__main__":
    run_parts("rounds", PARTS, AIMS)

"""The teacher on phantoms: clicks and box, concepts and views, measurements, ways to train.

One small training of each kind from the shipped tiny base, on the same patients, steps and seed;
all scored on the same frozen patients, who never train. `--keep` also writes docs/results.md, the
figures kept as tables. Figures begin with the model's name: `base` is the base alone; `lora`
low-rank updates with heads that are not told the view; `view` the same with heads that are;
`decoder` and `full` the other strategies. `names`, `names_text` and `names_view` learn names alone,
for longer and from more patients: without the view, with its angles in the text, and with what its
angles as numbers add to the text.

`iou_box`, `iou_click_N`: the analysed segment by its box and after N simulated clicks.
`concept_iou`: the segment asked for by its name. `concept_right`: share of segments whose own
name, of all 14, answers them best. `head_right`: the same by the heads. `exemplar_*`: with the box
of the same segment in the training frame of the nearest view as an exemplar. `ds_error`,
`mld_error`: the heads' mean absolute error, in points and mm. `usual_*`: what always saying the
mean of the training segments, or their commonest code, would give. `doubt_*`: rank correlation of
each measure of doubt with what is missing of the IoU. `*_low`, `*_high`: 95 % intervals over
segments.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from scipy.stats import spearmanr

from angio.clicks import click_curve
from angio.phantoms.study import LESIONS, VIEWS
from angio.qca import measure as measure_lesion
from bench.harness import RESULTS, BenchResult, run_parts
from bench.phantom_cases import FIRST_TEST, FIRST_TRAIN, PhantomCase, phantom_cases
from bench.study_page import PAGE, page
from casebook.documents import write_bytes
from casebook.errors import QcaError
from casebook.labels import LabelSet, read_labels
from casebook.masks import box_of
from casebook.metrics import bootstrap_mean, iou
from casebook.protocols import Prompt
from segmenter.doubt import doubt
from segmenter.fit import HeadsConfig, LoraConfig, TrainConfig
from segmenter.heads import Targets
from segmenter.rounds import train_adapter
from segmenter.samples import Sample, TrainMask
from segmenter.teacher import Teacher, load_teacher

ROOT = Path(__file__).resolve().parents[1]
BASE, LABELS = ROOT / "conf" / "tiny-base", ROOT / "conf" / "labels" / "coronary.yaml"
TRAIN_PATIENTS, TEST_PATIENTS, STEPS, CLICKS = 6, 6, 40, 5
SHOWN_CLICKS = (1, 2, 3, 5)
SEGMENT_PX = 40
"""Named segments of fewer visible px are not taught."""
Figures = dict[str, float | None]
WHOLE = ("neck", "mask_heads", "concept_neck", "concept_heads")
PLAIN = TrainConfig(
    steps=STEPS, lr=1e-3, ema=0.95, concept_every=3, seed=1, lora=LoraConfig(whole=WHOLE),
    heads=HeadsConfig(uses_view=False),
)  # fmt: skip
TRAININGS: dict[str, TrainConfig | None] = {
    "base": None,
    "lora": PLAIN,
    "view": PLAIN.model_copy(update={"heads": HeadsConfig()}),
    "decoder": PLAIN.model_copy(update={"strategy": "decoder"}),
    "full": PLAIN.model_copy(update={"strategy": "full", "lr": 3e-4}),
}
NAME_PATIENTS, NAME_STEPS = 12, 100
NAMES = TrainConfig(
    steps=NAME_STEPS, lr=3e-3, ema=0.95, concept_every=1, apart=4.0, seed=1,
    lora=LoraConfig(
        targets=("vit", "text", "detector"), whole=("concept_neck", "concept_heads", "fusion")
    ),
)  # fmt: skip
NAMINGS: dict[str, TrainConfig] = {
    "names": NAMES,
    "names_text": NAMES.model_copy(update={"view_in_text": True}),
    "names_view": NAMES.model_copy(update={"view_embedding": True}),
}
AIMS: dict[str, str] = {}
"""What is shown is compared, not held to a limit; the plan's own limits are for true angiograms."""


@cache
def labels() -> LabelSet:
    """The labels of the coronary set."""
    return read_labels(LABELS)


@cache
def _cases(first: int, count: int) -> tuple[PhantomCase, ...]:
    return tuple(phantom_cases(range(first, first + count)))


def names() -> dict[int, str]:
    """Names of segments by CASS number."""
    return {
        label.code: label.name for label in labels().of_role("segment") if label.code is not None
    }


def sample_of(case: PhantomCase) -> Sample:
    """A frame to train on: the analysed segment by prompts, every named segment by its name."""
    targets = Targets(code=case.code)
    try:
        found = measure_lesion(case.frame.pixels, case.bitmap)
        targets = Targets(case.code, found.stenosis_pct, found.mld_px, found.rvd_px)
    except QcaError:  # as in a round: taught without measurements
        pass
    named = names()
    shown = {code: case.codes == code for code in named}
    by_name = tuple(
        TrainMask(named[code], bitmap, prompted=False)
        for code, bitmap in shown.items()
        if np.count_nonzero(bitmap) >= SEGMENT_PX
    )
    absent = tuple(named[code] for code, bitmap in shown.items() if not bitmap.any())
    # What a reader analyses may be less than the segment, or go beyond it: its name asks for all.
    own = TrainMask(named[case.code], case.bitmap, targets=targets, named=False)
    return Sample(case.frame, (own, *by_name), absent, f"patient {case.patient}")


def trained(
    config: TrainConfig | None, cases: Sequence[PhantomCase], folder: Path
) -> tuple[Teacher, float]:
    """A teacher, and the share of its weights that were trained."""
    teacher = load_teacher(folder, None, base=BASE, device="cpu")
    if config is None:
        return teacher, 0.0
    result = train_adapter(
        [sample_of(case) for case in cases],
        config,
        base=BASE,
        init_adapter=None,
        directory=folder,
        device="cpu",
    )
    teacher.switch(result.folder, "trained")
    return teacher, result.n_trainable / result.n_params


def prompted(teacher: Teacher, cases: Sequence[PhantomCase]) -> dict[str, list[float]]:
    """What boxes and clicks give, segment by segment."""
    told: dict[str, list[float]] = {}
    for case in cases:
        embedding = teacher.embed(case.frame)
        answer = teacher.predict(embedding, case.box)[0]
        told.setdefault("iou_box", []).append(iou(answer.bitmap, case.bitmap))
        curve = click_curve(teacher, embedding, case.bitmap, limit=CLICKS, enough=1.0)
        for number in SHOWN_CLICKS:
            told.setdefault(f"iou_click_{number}", []).append(curve[min(number, len(curve)) - 1])
        if "code" not in answer.heads:
            continue
        heads, truth = answer.heads, case.lesion
        found = {
            "head_right": float(round(heads["code"]) == case.code),
            "ds_error": abs(heads["stenosis_pct"] - truth.stenosis_pct),
            "mld_error": abs(heads["mld_px"] - truth.mld_px) / truth.px_per_mm,
        }
        for name, value in found.items():
            told.setdefault(name, []).append(value)
    return told


def usual(train: Sequence[PhantomCase], test: Sequence[PhantomCase]) -> dict[str, list[float]]:
    """Errors of always saying what is usual of the training segments, segment by segment."""
    taught = [(sample_of(case).masks[0].targets, case.lesion.px_per_mm) for case in train]
    stenosis = [told.stenosis_pct for told, _ in taught if told.stenosis_pct is not None]
    mld_mm = [told.mld_px / scale for told, scale in taught if told.mld_px is not None]
    code = Counter(case.code for case in train).most_common(1)[0][0]
    truths = [case.lesion for case in test]
    return {
        "head_right": [float(case.code == code) for case in test],
        "ds_error": [abs(mean(stenosis) - truth.stenosis_pct) for truth in truths],
        "mld_error": [abs(mean(mld_mm) - truth.mld_px / truth.px_per_mm) for truth in truths],
    }


def exemplar_for(
    case: PhantomCase, code: int, known: Sequence[PhantomCase]
) -> tuple[tuple[float, float, float, float], ...]:
    """The box of a segment in the training frame of the nearest view that shows it."""
    there = [one for one in known if np.count_nonzero(one.codes == code) >= SEGMENT_PX]
    if not there:
        return ()

    def apart_deg(other: PhantomCase) -> float:
        a, b = case.frame.view, other.frame.view
        if a is None or b is None:
            return math.inf
        return math.hypot(a.primary_deg - b.primary_deg, a.secondary_deg - b.secondary_deg)

    x1, y1, x2, y2 = box_of(min(there, key=apart_deg).codes == code)
    return ((float(x1), float(y1), float(x2), float(y2)),)


def asked_by_name(
    teacher: Teacher,
    cases: Sequence[PhantomCase],
    exemplars: Sequence[PhantomCase] | None = None,
) -> dict[str, list[float]]:
    """What concepts give, segment by segment, with or without exemplars of other patients."""
    told: dict[str, list[float]] = {"concept_iou": [], "concept_right": []}
    for case in cases:
        embedding = teacher.embed(case.frame)
        fits: dict[int, float] = {}
        for code, name in names().items():
            boxes = () if exemplars is None else exemplar_for(case, code, exemplars)
            found = teacher.predict(embedding, Prompt(concept=name, exemplars_xyxy=boxes))
            fits[code] = max((iou(one.bitmap, case.bitmap) for one in found), default=0.0)
            if code == case.code:
                best = found[0].bitmap if found else np.zeros(case.frame.hw, dtype=bool)
                told["concept_iou"].append(iou(best, case.codes == code))
        # A name is right when it answers the segment better than every other; equal answers to
        # several names tell none of them.
        right = all(fits[case.code] > fit for code, fit in fits.items() if code != case.code)
        told["concept_right"].append(float(right))
    return told


def doubts(teacher: Teacher, cases: Sequence[PhantomCase]) -> Figures:
    """Rank correlation of each measure of doubt with what is missing of the IoU."""
    rows = []
    for case in cases:
        answer = teacher.predict(teacher.embed(case.frame), case.box)[0]
        found = doubt(teacher, case.frame, case.box)
        missing = 1 - iou(answer.bitmap, case.bitmap)
        parts = (found.said, found.entropy, found.prompts or 0.0, found.contrast)
        rows.append((missing, *parts, answer.uncertainty, found.total))
    table = np.array(rows).T
    kinds = ("said", "entropy", "prompts", "contrast", "answer", "asked_again")
    return {
        f"doubt_{kind}": float(spearmanr(table[0], column).statistic)
        if np.ptp(column) > 0
        else None
        for kind, column in zip(kinds, table[1:], strict=True)
    }


def _told(part: str, told: dict[str, list[float]], prefix: str = "") -> Figures:
    figures: Figures = {}
    for name, values in told.items():
        found = bootstrap_mean(values)
        key = f"{part}_{prefix}{name}"
        figures |= {key: found.mean, f"{key}_low": found.low, f"{key}_high": found.high}
    return figures


def one_model(part: str, quick: bool) -> Figures:
    """All figures of one model."""
    torch.set_num_threads(1)
    config = TRAININGS[part]
    if config is not None and quick:
        config = config.model_copy(update={"steps": 2, "batch": 2})
    train = _cases(FIRST_TRAIN, 1 if quick else TRAIN_PATIENTS)
    test = _cases(FIRST_TEST, 1 if quick else TEST_PATIENTS)
    with tempfile.TemporaryDirectory() as folder:
        teacher, share = trained(config, train, Path(folder))
        figures: Figures = {f"{part}_trained_share": share}
        figures |= _told(part, prompted(teacher, test))
        if part == "lora":
            figures |= doubts(teacher, test)
    return figures


def one_naming(part: str, quick: bool) -> Figures:
    """What names give after one training of names; `base` is the base alone."""
    torch.set_num_threads(1)
    config = NAMINGS.get(part)
    if config is not None and quick:
        config = config.model_copy(update={"steps": 2, "batch": 2})
    train = _cases(FIRST_TRAIN, 1 if quick else NAME_PATIENTS)
    test = _cases(FIRST_TEST, 1 if quick else TEST_PATIENTS)
    test = test[:1] if quick else test[::2]  # one segment a view
    with tempfile.TemporaryDirectory() as folder:
        teacher, _ = trained(config, train, Path(folder))
        figures = _told(part, asked_by_name(teacher, test))
        if part == "names":
            figures |= _told(part, asked_by_name(teacher, test, train), "exemplar_")
    return figures


def measure(quick: bool) -> Figures:
    """Boxes, clicks, measurements and doubt."""
    figures: Figures = {
        "segments_train": float(VIEWS * LESIONS * TRAIN_PATIENTS),
        "segments_test": float(VIEWS * LESIONS * TEST_PATIENTS),
        "steps": float(STEPS),
    }
    train, test = (
        _cases(first, 1 if quick else count)
        for first, count in ((FIRST_TRAIN, TRAIN_PATIENTS), (FIRST_TEST, TEST_PATIENTS))
    )
    figures |= _told("usual", usual(train, test))
    for part in TRAININGS:
        print(f"{part} …", flush=True)
        figures |= one_model(part, quick)
    return figures


def measure_names(quick: bool) -> Figures:
    """Names and views."""
    figures: Figures = {
        "names_segments_train": float(VIEWS * LESIONS * NAME_PATIENTS),
        "names_segments_test": float(VIEWS * TEST_PATIENTS),
        "names_steps": float(NAME_STEPS),
    }
    for part in ("base", *NAMINGS):
        print(f"{part} …", flush=True)
        figures |= one_naming(part, quick)
    return figures


def main() -> None:
    """Measure, and where the result is kept write the page."""
    result = run_parts("study", {"prompts": measure, "names": measure_names}, AIMS)
    kept = RESULTS / "study.json"
    if kept.exists() and BenchResult.model_validate_json(kept.read_bytes()) == result:
        write_bytes(PAGE, page(result).encode())


if __name__ == "__main__":
    main()

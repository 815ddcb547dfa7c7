"""docs/results.md: the figures of bench/study.py as tables. Measures nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.harness import BenchResult

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results.md"
MODELS = {
    "base": "the base alone",
    "lora": "LoRA and small modules whole",
    "view": "the same, told the view",
    "decoder": "prompt encoder and decoders",
    "full": "all weights",
}
PROMPTED = {
    "iou_box": "box", "iou_click_1": "1 click", "iou_click_2": "2", "iou_click_3": "3",
    "iou_click_5": "5",
}  # fmt: skip
VIEWS = {
    "without the angle": ("names_concept_iou", "names_concept_right", "lora_head_right"),
    "angle in the text": ("names_text_concept_iou", "names_text_concept_right", None),
    "exemplar of a similar view": (
        "names_exemplar_concept_iou", "names_exemplar_concept_right", None,
    ),
    "angle as numbers": ("names_view_concept_iou", "names_view_concept_right", "view_head_right"),
    "the base alone": ("base_concept_iou", "base_concept_right", None),
    "always the commonest code": (None, None, "usual_head_right"),
}  # fmt: skip
SIZES = ("segments_train", "segments_test", "steps")
MEASURES = {"ds_error": "stenosis, points", "mld_error": "MLD, mm"}
DOUBTS = {
    "said": "expected IoU", "entropy": "entropy", "answer": "both: with every answer",
    "prompts": "shifted boxes", "contrast": "contrast", "asked_again": "all: `ask_again`",
}  # fmt: skip


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows), ""]


def _cell(figures: Mapping[str, float | None], name: str | None, digits: int = 3) -> str:
    """A mean with its interval; a dash where it was not measured."""
    value = figures.get(name) if name is not None else None
    if name is None or value is None:
        return "–"
    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    if low is None or high is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def page(result: BenchResult) -> str:
    """The page of a result."""
    f = result.figures
    kinds = [f"{of}{name}" for of in ("", "names_") for name in SIZES]
    sizes = {kind: f"{f.get(kind) or 0:.0f}" for kind in kinds}
    lines = [
        "# Results: the teacher on phantoms",
        "Written by `python -m bench.study --keep`; do not edit. Means over the segments of frozen "
        "test patients, with 95 % intervals over segments.",
        f"Tiny base; each training {sizes['steps']} steps on {sizes['segments_train']} segments, "
        f"{sizes['segments_test']} tested. Measured: {result.commit}.",
        "These are small trainings, to compare ways with one another; what rounds reach is in "
        "[the log](log.md).",
        "",
        "## Boxes and clicks, by what is trained (IoU)",
        *_table(
            ["", "weights trained", *PROMPTED.values()],
            [
                [
                    title,
                    f"{100 * (f.get(f'{part}_trained_share') or 0):.1f} %",
                    *(_cell(f, f"{part}_{name}") for name in PROMPTED),
                ]
                for part, title in MODELS.items()
            ],
        ),
        "## Names and views",
        f"By name: trainings of {sizes['names_steps']} steps of names alone on "
        f"{sizes['names_segments_train']} segments; {sizes['names_segments_test']} tested."
        if f.get("names_steps")
        else "Trainings of names: not measured.",
        "",
        *_table(
            ["", "IoU by name", "right name of 14, by name", "right code, by heads"],
            [[title, *(_cell(f, name) for name in names)] for title, names in VIEWS.items()],
        ),
        "## Measurements by the heads (mean absolute error)",
        *_table(
            ["", *MEASURES.values()],
            [
                [MODELS[part], *(_cell(f, f"{part}_{name}", 2) for name in MEASURES)]
                for part in ("lora", "view", "decoder", "full")
            ]
            + [
                [
                    "always the training segments' mean",
                    *(_cell(f, f"usual_{name}", 2) for name in MEASURES),
                ]
            ],
        ),
        "## Doubt (rank correlation with what is missing of the IoU by box)",
        *_table(
            list(DOUBTS.values()),
            [[_cell(f, f"doubt_{kind}", 2) for kind in DOUBTS]],
        ),
    ]
    return "\n".join(lines).rstrip() + "\n"

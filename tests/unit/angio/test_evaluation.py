"""Evaluation of small segmenters whose scores are known beforehand, and the ridge filter."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from angio import frangi
from angio.clicks import MAX_CLICKS
from angio.evaluation import Evaluation, evaluate, truth_of
from angio.naming import Naming
from angio.phantoms.truth import StudyTruth
from casebook.annotations import AnnotationSetBuilder, Origin
from casebook.cases import Case
from casebook.catalogue import Catalogue
from casebook.errors import DataError, PromptError
from casebook.labels import LabelSet
from casebook.masks import decode, encode
from casebook.metrics import dice
from casebook.protocols import Frame, Prediction, Prompt


@dataclass(frozen=True)
class _Look:
    """An embedding that is the frame itself."""

    frame: Frame


class Oracle:
    """Knows the masks of some frames by digest; answers a box with the mask that box belongs to."""

    model_id = "oracle"

    def __init__(self, known: dict[str, dict[str, np.ndarray]], *, finds_lesions: bool) -> None:
        self._known = known
        self._finds_lesions = finds_lesions

    def embed(self, frame: Frame) -> _Look:
        return _Look(frame)

    def predict(self, embedding: _Look, prompt: Prompt) -> tuple[Prediction, ...]:
        masks = self._known[embedding.frame.digest]
        if prompt.concept == "stenosis":
            if not self._finds_lesions:
                return ()
            return tuple(Prediction(m, 0.9) for n, m in masks.items() if n != "coronary artery")
        if prompt.concept is not None:
            if prompt.concept not in masks:
                return ()
            return (Prediction(masks[prompt.concept], 0.9), Prediction(~masks[prompt.concept], 0.1))
        for name, bitmap in masks.items():
            rows, columns = np.nonzero(bitmap)
            box = (columns.min(), rows.min(), columns.max(), rows.max())
            if name != "coronary artery" and box == prompt.box_xyxy:
                return (Prediction(bitmap, 0.9),)
        return (Prediction(np.zeros(embedding.frame.hw, dtype=bool), 0.1),)


def _known(catalogue: Catalogue, cases: list[Case]) -> dict[str, dict[str, np.ndarray]]:
    known = {}
    for case in cases:
        annotations = catalogue.expert_annotations(case.case_id)
        assert annotations is not None
        known[catalogue.frame(case.ref).digest] = {
            annotations.label_of(entry): decode(entry.mask) for entry in annotations.annotations
        }
    return known


def _distinct(catalogue: Catalogue, count: int | None = 3) -> list[Case]:
    """Annotated cases, one a picture; the same ones whatever the workspace's key calls them."""
    pictures: dict[str, Case] = {}
    for case in catalogue.cases(annotated=True):
        pictures.setdefault(catalogue.frame(case.ref).digest, case)
    return [pictures[digest] for digest in sorted(pictures)][:count]


def test_a_perfect_model_scores_one(workspace: Catalogue, coronary: LabelSet) -> None:
    cases = _distinct(workspace)
    oracle = Oracle(_known(workspace, cases), finds_lesions=True)
    steps: list[tuple[int, int]] = []
    found = evaluate(
        oracle, workspace, cases, coronary, progress=lambda done, total: steps.append((done, total))
    )
    assert found.model_id == "oracle"
    for figure in ("iou_box", "dice", "cldice", "iou_auto", "tree_dice", "tree_cldice"):
        assert found.mean(figure) == pytest.approx(1.0)
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert set(found.by_label().values()) == {1.0}
    assert set(found.by_vessel().values()) == {1.0}


def test_details_are_measurements_of_both_masks_and_clicks(
    workspace: Catalogue, coronary: LabelSet
) -> None:
    cases = _distinct(workspace, None)
    oracle = Oracle(_known(workspace, cases), finds_lesions=False)
    plain = evaluate(oracle, workspace, cases, coronary, concepts=False, baseline=False)
    for segment in (segment for case in plain.cases for segment in case.segments):
        assert (segment.clicks, segment.by_expert, segment.named) == ((), None, None)
    found = evaluate(
        oracle, workspace, cases, coronary, concepts=False, baseline=False, details=True
    )
    silent = evaluate(
        oracle,
        workspace,
        cases[:1],
        coronary,
        concepts=False,
        baseline=False,
        details=True,
        names=False,
    )
    assert {segment.named for case in silent.cases for segment in case.segments} == {None}
    doubted: list[float] = []
    for case, row in zip(cases, found.cases, strict=True):
        assert row.phase == case.phase
        assert (row.view is None) == (case.view is None)
        for segment in row.segments:
            if segment.by_model is not None and segment.by_expert is not None:
                more = segment.by_model.stenosis_pct - segment.by_expert.stenosis_pct
                doubted.append(abs(more))
            assert segment.clicks == (0.0,) * MAX_CLICKS, "the oracle knows no clicks"
            assert segment.named == Naming(by="names", label=segment.label)
        degrees = [s.by_expert.stenosis_pct for s in row.segments if s.by_expert]
        assert row.stenosis_pct == (max(degrees) if degrees else None)
    # The same masks: only what a model draws is doubted where the frame shows less, and of these
    # the mildest lesion alone is.
    assert len(doubted) == 9
    assert sorted(doubted)[:-1] == pytest.approx([0.0] * 8, abs=1e-6)
    assert max(doubted) < 20


def test_a_model_that_finds_no_lesion_has_no_automatic_iou(
    workspace: Catalogue, coronary: LabelSet
) -> None:
    cases = _distinct(workspace)[:1]
    oracle = Oracle(_known(workspace, cases), finds_lesions=False)
    found = evaluate(oracle, workspace, cases, coronary, baseline=False)
    assert found.mean("iou_box") == 1.0
    assert found.mean("iou_auto") == 0.0
    assert found.mean("frangi_dice") is None


def test_the_ridge_filter_is_neither_blind_nor_perfect(
    workspace: Catalogue, coronary: LabelSet
) -> None:
    cases = _distinct(workspace)
    oracle = Oracle(_known(workspace, cases), finds_lesions=False)
    found = evaluate(oracle, workspace, cases, coronary, concepts=False)
    mean = found.mean("frangi_dice")
    assert mean is not None
    assert 0.2 < mean < 0.9
    assert found.mean("iou_auto") is None


def test_cases_without_annotations_are_refused(workspace: Catalogue, coronary: LabelSet) -> None:
    blank = next(iter(workspace.cases(annotated=False)))
    with pytest.raises(DataError, match="no expert annotations"):
        evaluate(Oracle({}, finds_lesions=False), workspace, [blank], coronary)


def test_masks_of_other_programs_are_no_truth(coronary: LabelSet, workspace: Catalogue) -> None:
    case = next(iter(workspace.cases()))
    builder = AnnotationSetBuilder(coronary)
    image = builder.add_image(case.ref, (8, 8))
    square = np.zeros((8, 8), dtype=bool)
    square[2:5, 2:5] = True
    builder.add_mask(image, "mid RCA", encode(square), Origin.PSEUDO)
    with pytest.raises(DataError, match="no expert drew"):
        truth_of(builder.build(), coronary)
    builder.add_mask(image, "mid RCA", encode(square), Origin.HUMAN)
    builder.add_mask(image, "coronary artery", encode(square), Origin.PSEUDO)
    truth = truth_of(builder.build(), coronary)
    assert [label for label, _ in truth.segments] == ["mid RCA"]
    assert not truth.tree_is_expert


def test_unknown_figures_are_refused() -> None:
    with pytest.raises(DataError, match="expected a field"):
        Evaluation(model_id="m", cases=()).mean("accuracy")


def test_a_dark_line_is_found_and_a_bright_one_is_not() -> None:
    y, x = np.mgrid[:120, :120]
    line = np.abs(y - 60) <= 3
    rng = np.random.default_rng(1)
    for sign in (-1, 1):
        pixels = np.clip(128 + sign * 60 * line + rng.normal(0, 4, line.shape), 0, 255)
        response = frangi.vesselness(pixels.astype(np.uint8))
        score = dice(
            frangi.in_box(response, (5.0, 45.0, 115.0, 75.0)), line & (x >= 5) & (x <= 115)
        )
        assert (score > 0.7) == (sign < 0)


def test_an_even_picture_has_no_lines() -> None:
    response = frangi.vesselness(np.full((40, 40), 90, dtype=np.uint8))
    assert not frangi.tree(response).any()
    assert not frangi.in_box(response, (0.0, 0.0, 39.0, 39.0)).any()
    with pytest.raises(PromptError, match="outside"):
        frangi.in_box(response, (50.0, 50.0, 60.0, 60.0))


def test_the_truth_folder_agrees_with_the_imported_masks(
    study: tuple[Path, StudyTruth], workspace: Catalogue
) -> None:
    annotated = sum(case.annotated for case in study[1].cases)
    assert annotated == sum(1 for _ in workspace.cases(annotated=True)) == 9

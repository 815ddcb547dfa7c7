"""Proposals by a model without weights: where the box comes from, and what is recorded."""

from pathlib import Path

import pytest

from casebook.cases import Case, Split
from casebook.catalogue import Catalogue
from casebook.home import Home
from casebook.labels import Label, LabelSet
from casebook.metrics import iou
from casebook.protocols import Embedding, Prediction, Prompt
from tests.fakes.threshold_model import ThresholdSegmenter
from tests.unit.trainer.workspace import LABELS, add_case, picture
from trainer.propose import proposals
from trainer.rounds_config import ProposeConfig


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return add_case(Catalogue(Home(tmp_path)), 5, Split.TRAIN, is_annotated=False)


def propose(
    case: Case, tmp_path: Path, labels: LabelSet = LABELS, threshold: float = 0.5
) -> list[tuple[str, str, float]]:
    frame = Catalogue(Home(tmp_path)).frame(case.ref)
    truth = picture(5)[1]
    found = proposals(
        ThresholdSegmenter(level=120), frame, case, labels, ProposeConfig(threshold=threshold)
    )
    return [(one.label, one.prompt_source, iou(one.bitmap, truth)) for one in found]


def test_a_sure_concept_gives_the_box(case: Case, tmp_path: Path) -> None:
    ((label, source, agreement),) = propose(case, tmp_path)
    assert (label, source) == ("tube", "concept")
    assert agreement > 0.8


def test_the_lesion_of_a_known_segment_is_asked_for_by_both_names_first(
    case: Case, tmp_path: Path
) -> None:
    asked: list[str | None] = []

    class Listening(ThresholdSegmenter):
        def predict(self, embedding: Embedding, prompt: Prompt) -> tuple[Prediction, ...]:
            asked.append(prompt.concept)
            return super().predict(embedding, prompt)

    model, frame = Listening(level=120), Catalogue(Home(tmp_path)).frame(case.ref)
    for sure in (0.5, 0.95):
        config = ProposeConfig(threshold=sure)
        assert proposals(model, frame, case, LABELS, config, lesion_in_text=True)
    # Sure of it at once, then a box; never sure, so both names, then the reader's rectangle.
    assert asked == ["tube stenosis", None, "tube stenosis", "stenosis", None]


def test_the_readers_rectangle_is_used_when_the_concept_is_unsure(
    case: Case, tmp_path: Path
) -> None:
    ((label, source, agreement),) = propose(case, tmp_path, threshold=0.95)
    assert (label, source) == ("tube", "case")
    assert agreement > 0.8


def test_without_any_box_each_label_is_asked_for_by_name(case: Case, tmp_path: Path) -> None:
    labels = LabelSet(name="plain", labels=(Label(name="tube"), Label(name="all", role="tree")))
    bare = case.with_(lesion_box_xyxy=None, segment=None)
    assert {entry[:2] for entry in propose(bare, tmp_path, labels)} == {
        ("tube", "concept"),
        ("all", "concept"),
    }


def test_nothing_is_proposed_below_the_threshold(case: Case, tmp_path: Path) -> None:
    bare = case.with_(lesion_box_xyxy=None)
    assert propose(bare, tmp_path, threshold=0.95) == []


def test_a_rectangle_outside_the_image_proposes_nothing(case: Case, tmp_path: Path) -> None:
    odd = case.with_(lesion_box_xyxy=(500.0, 500.0, 520.0, 520.0))
    assert propose(odd, tmp_path, threshold=0.95) == []

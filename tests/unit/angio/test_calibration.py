"""Calibration of models whose worth is known, on a small workspace."""

from pathlib import Path

import pytest

from angio.calibration import calibrate
from casebook.cases import Split
from casebook.catalogue import Catalogue
from casebook.errors import DataError
from casebook.home import Home
from casebook.protocols import Prediction, Prompt
from tests.fakes.threshold_model import DarkPixels, ThresholdSegmenter
from tests.unit.trainer.workspace import LABELS, add_case

CASES = 22


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    found = Catalogue(Home(tmp_path_factory.mktemp("calibration")))
    for number in range(CASES):
        add_case(found, number, Split.VAL)
    add_case(found, CASES, Split.TEST)
    add_case(found, CASES + 1, Split.VAL, is_annotated=False)
    return found


class Sure(ThresholdSegmenter):
    """Says 0.9 of every mask, and is wrong on every other image when asked by a concept."""

    def predict(self, embedding: DarkPixels, prompt: Prompt) -> tuple[Prediction, ...]:
        if prompt.concept is None:
            return tuple(Prediction(one.bitmap, 0.9) for one in super().predict(embedding, prompt))
        is_right = self.embedded.index(embedding.frame.digest) % 2
        found = embedding.bitmap if is_right else ~embedding.bitmap
        return (Prediction(found, 0.9, prompt.concept),)


def test_each_path_is_measured_on_its_own(catalogue: Catalogue) -> None:
    told: list[tuple[int, int]] = []
    model = Sure("sure")
    found = calibrate(model, catalogue, LABELS, progress=lambda *said: told.append(said))
    assert (found.model_id, found.cases) == ("sure", CASES)
    assert len(model.embedded) == CASES
    assert found.box is not None
    assert found.concept is not None
    assert (found.box.masks, found.box.right) == (CASES, CASES)
    assert found.box.confidence(0.9) > 0.9
    assert (found.concept.masks, found.concept.right) == (CASES, CASES // 2)
    assert found.concept.confidence(0.9) == pytest.approx(0.5, abs=0.02)
    assert told[-1] == (CASES, CASES)


def test_a_path_with_too_few_masks_has_no_curve(catalogue: Catalogue) -> None:
    class Silent(ThresholdSegmenter):
        def predict(self, embedding: DarkPixels, prompt: Prompt) -> tuple[Prediction, ...]:
            return () if prompt.concept else super().predict(embedding, prompt)

    found = calibrate(Silent(), catalogue, LABELS)
    assert found.box is not None
    assert found.concept is None


def test_too_few_cases_are_refused_with_their_number(tmp_path: Path) -> None:
    few = Catalogue(Home(tmp_path))
    for number in range(3):
        add_case(few, number, Split.VAL)
    with pytest.raises(DataError, match="3 masks with a known truth on 3 validation cases"):
        calibrate(Sure(), few, LABELS)


def test_a_case_without_an_experts_segment_does_not_count(tmp_path: Path) -> None:
    mixed = Catalogue(Home(tmp_path))
    for number in range(CASES):
        add_case(mixed, number, Split.VAL)
    drawn_by_others = LABELS.with_(
        labels=(LABELS.labels[1], LABELS.labels[0].with_(name="tubule"), LABELS.labels[2])
    )
    with pytest.raises(DataError, match="0 masks with a known truth on 0 validation cases"):
        calibrate(Sure(), mixed, drawn_by_others)

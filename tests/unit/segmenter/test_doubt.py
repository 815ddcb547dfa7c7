from dataclasses import dataclass, replace

import numpy as np
import pytest

from casebook.errors import PromptError
from casebook.protocols import Embedding, Frame, Prediction, Prompt
from segmenter.doubt import NO_ANSWER, doubt, mask_entropy, uncertainty_of

BOX = Prompt(box_xyxy=(20.0, 20.0, 59.0, 39.0))
CLICK = Prompt(points_xy=np.array([[30.0, 30.0]]), point_labels=np.array([1]))
RNG = np.random.default_rng(0)
FRAME = Frame(RNG.integers(60, 200, (64, 96)).astype(np.uint8))


@dataclass(frozen=True)
class Held:
    frame: Frame


@dataclass
class Boxes:
    """Answers with the box itself, or with a fixed one: as sure as told."""

    follows_box: bool = False
    follows_grey: bool = False
    score: float = 1.0
    sharpness: float = 50.0
    empty: bool = False
    asked: int = 0
    model_id: str = "boxes"

    def embed(self, frame: Frame) -> Embedding:
        return Held(frame)

    def predict(self, embedding: Embedding, prompt: Prompt) -> tuple[Prediction, ...]:
        prompt = prompt.checked(embedding.frame.hw)
        self.asked += 1
        if self.empty:
            return ()
        bitmap = np.zeros(embedding.frame.hw, dtype=bool)
        bitmap[22:38, 22:58] = True
        if self.follows_box and prompt.box_xyxy is not None:
            x1, y1, x2, y2 = (round(value) for value in prompt.box_xyxy)
            bitmap[:] = False
            bitmap[y1 : y2 + 1, x1 : x2 + 1] = True
        if self.follows_grey:
            bitmap &= embedding.frame.pixels > 128
        logits = np.where(bitmap, self.sharpness, -self.sharpness).astype(np.float32)
        return (Prediction(bitmap, self.score, logits=logits),)


def test_a_model_that_is_sure_and_answers_alike_leaves_no_doubt() -> None:
    found = doubt(Boxes(), FRAME, BOX)
    assert found.total == pytest.approx(0, abs=1e-4)
    assert doubt(Boxes(), FRAME, CLICK).total == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("model", "part"),
    [
        (Boxes(score=0.4), "said"),
        (Boxes(sharpness=0.5), "entropy"),
        (Boxes(follows_box=True), "prompts"),
        (Boxes(follows_grey=True), "contrast"),
    ],
    ids=["low score", "soft logits", "answers move with the box", "answers move with the grey"],
)
def test_each_part_of_the_doubt_is_seen_alone(model: Boxes, part: str) -> None:
    found = doubt(model, FRAME, BOX)
    parts = {name: getattr(found, name) for name in ("said", "entropy", "prompts", "contrast")}
    assert parts.pop(part) > 0.05
    assert max(parts.values()) == pytest.approx(0, abs=1e-4)
    assert 0 < found.total < 1


def test_a_concept_has_no_prompt_to_move() -> None:
    found = doubt(Boxes(score=0.5), FRAME, Prompt(concept="tube"))
    assert found.prompts is None
    assert found.total == pytest.approx(0.5 / 3, abs=1e-4)


def test_no_answer_is_the_greatest_doubt_and_a_bad_prompt_is_refused() -> None:
    assert doubt(Boxes(empty=True), FRAME, BOX) == NO_ANSWER
    assert NO_ANSWER.total == 1
    with pytest.raises(PromptError, match="outside"):
        doubt(Boxes(), FRAME, Prompt(box_xyxy=(200.0, 0.0, 220.0, 9.0)))


@pytest.mark.parametrize(
    "box", [(0.0, 0.0, 95.0, 63.0), (5.0, 5.0, 5.0, 5.0), (94.0, 62.0, 95.0, 63.0)]
)
def test_shifted_boxes_stay_in_the_image(box: tuple[float, float, float, float]) -> None:
    model = Boxes(follows_box=True)
    assert 0 <= doubt(model, FRAME, Prompt(box_xyxy=box)).total <= 1
    assert model.asked >= 5


def test_what_is_asked_again_is_asked_without_the_earlier_answer() -> None:
    logits = np.zeros(FRAME.hw, dtype=np.float32)
    assert doubt(Boxes(), FRAME, replace(BOX, mask_logits=logits)).total < 1e-4


@pytest.mark.parametrize(("logit", "bits"), [(0.0, 1.0), (100.0, 0.0), (2.0, 0.527)])
def test_entropy_is_in_bits_over_pixels_that_may_belong_to_the_mask(
    logit: float, bits: float
) -> None:
    logits = np.full((8, 8), -20.0, dtype=np.float32)
    logits[2:4] = logit
    assert mask_entropy(logits) == pytest.approx(bits, abs=1e-3)


def test_an_empty_mask_is_wholly_undecided() -> None:
    nothing = np.full((8, 8), -20.0, dtype=np.float32)
    assert mask_entropy(nothing) == 1
    assert uncertainty_of(0.0, nothing) == 1
    assert uncertainty_of(1.0, nothing) == 0.5

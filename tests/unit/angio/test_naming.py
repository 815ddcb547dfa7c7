"""What a model calls a segment, with answers written by hand."""

from dataclasses import dataclass

import numpy as np
import pytest

from angio.naming import NAMED_SCORE_MIN, Naming, ask_names, by_heads, by_names, coded
from casebook.errors import PromptError
from casebook.labels import Label, LabelSet
from casebook.protocols import Frame, Prediction, Prompt

LABELS = LabelSet(
    name="two",
    labels=(
        Label(name="mid", role="segment", code=2),
        Label(name="distal", role="segment", code=3),
        Label(name="other", role="segment"),
        Label(name="tree", role="tree"),
    ),
)
FRAME = Frame(np.zeros((10, 10), dtype=np.uint8))


@dataclass(frozen=True)
class Look:
    frame: Frame = FRAME


class Told:
    """Answers each name with what it was told to, and refuses the others."""

    model_id = "told"

    def __init__(self, answers: dict[str, Prediction]) -> None:
        self.answers = answers
        self.asked: list[str | None] = []

    def embed(self, frame: Frame) -> Look:
        return Look(frame)

    def predict(self, embedding: Look, prompt: Prompt) -> tuple[Prediction, ...]:
        self.asked.append(prompt.concept)
        if prompt.concept not in self.answers:
            raise PromptError("this model takes no such name; give a box")
        return (self.answers[prompt.concept],)


def square(first: int, last: int) -> np.ndarray:
    found = np.zeros((10, 10), dtype=bool)
    found[first:last, first:last] = True
    return found


def test_the_heads_code_is_a_label_and_an_unknown_one_is_none() -> None:
    mask = square(2, 6)
    assert by_heads(Prediction(mask, 0.9), LABELS) is None
    said = [by_heads(Prediction(mask, 0.9, heads={"code": code}), LABELS) for code in (3.0, 0.0)]
    assert said == [Naming(by="heads", label="distal"), Naming(by="heads", label=None)]


@pytest.mark.parametrize(
    ("mid", "distal", "expected"),
    [
        pytest.param((square(2, 6), 0.7), (square(2, 6), 0.8), "distal", id="the surer"),
        pytest.param((square(2, 6), 0.7), (square(5, 9), 0.9), "mid", id="where it is"),
        pytest.param((square(5, 9), 0.9), (square(5, 9), 0.9), None, id="elsewhere"),
        pytest.param(
            (square(2, 6), NAMED_SCORE_MIN - 0.01), (square(5, 9), 0.9), None, id="unsure"
        ),
    ],
)
def test_the_surest_name_on_the_mask_is_taken(
    mid: tuple[np.ndarray, float], distal: tuple[np.ndarray, float], expected: str | None
) -> None:
    model = Told({"mid": Prediction(*mid), "distal": Prediction(*distal)})
    asked = ask_names(model, Look(), LABELS)
    assert model.asked == ["mid", "distal"], "labels without a code, and no segments, are not asked"
    assert asked is not None
    assert by_names(asked, square(2, 6)) == Naming(by="names", label=expected)


def test_a_model_that_takes_no_names_is_not_counted_as_wrong() -> None:
    assert ask_names(Told({}), Look(), LABELS) is None
    assert ask_names(Told({"mid": Prediction(square(2, 6), 0.9)}), Look(), LABELS) is not None


def test_one_segment_leaves_no_choice() -> None:
    assert coded(LabelSet(name="one", labels=LABELS.labels[:1])) == {}

from dataclasses import dataclass, field

import numpy as np
import pytest

from casebook.errors import PromptError
from casebook.protocols import Frame, Prompt, Segmenter
from export.answers import StudentSegmenter, square_points
from export.bundle import AutomaticMap
from export.windows import Window
from tests.unit.export.workshop import LABELS

MAPS = (AutomaticMap(label="web", role="tree"), AutomaticMap(label="narrowing", role="lesion"))


@dataclass
class Painter:
    """Graphs with memory: the box filled for a prompt, a stripe and two dots automatically."""

    encoded: int = 0
    decoded: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)

    def encode(self, square: np.ndarray) -> tuple[np.ndarray, ...]:
        self.encoded += 1
        return (square,)

    def decode(
        self,
        maps: tuple[np.ndarray, ...],
        points_xy: np.ndarray,
        point_labels: np.ndarray,
        previous: np.ndarray,
    ) -> tuple[np.ndarray, float]:
        self.decoded.append((points_xy, point_labels, previous))
        side = maps[0].shape[-1]
        rows, columns = np.mgrid[0:side, 0:side]
        x1, y1 = points_xy[0].min(axis=0)
        x2, y2 = points_xy[0].max(axis=0)
        inside = (columns >= x1) & (columns <= x2) & (rows >= y1) & (rows <= y2)
        return np.where(inside, 4.0, -4.0).astype(np.float32), 1.2

    def automatic(self, maps: tuple[np.ndarray, ...]) -> np.ndarray:
        side = maps[0].shape[-1]
        found = np.full((2, side, side), -4.0, dtype=np.float32)
        found[0, side // 4] = 3.0
        found[1, 4:9, 4:9] = 1.0
        found[1, 30:36, 30:36] = 5.0
        return found


def student(painter: Painter) -> StudentSegmenter:
    return StudentSegmenter("painter", painter, 64, 64, LABELS, MAPS)


@pytest.fixture
def painter() -> Painter:
    return Painter()


FRAME = Frame(np.arange(128 * 128, dtype=np.int64).reshape(128, 128).astype(np.uint8))


def test_the_student_is_a_segmenter(painter: Painter) -> None:
    assert isinstance(student(painter), Segmenter)


def test_a_box_comes_back_at_its_place_in_the_image(painter: Painter) -> None:
    segmenter = student(painter)
    found = segmenter.predict(segmenter.embed(FRAME), Prompt(box_xyxy=(30.0, 40.0, 60.0, 80.0)))
    rows, columns = np.nonzero(found[0].bitmap)
    assert abs(columns.min() - 30) <= 1
    assert abs(columns.max() - 60) <= 1
    assert abs(rows.min() - 40) <= 1
    assert abs(rows.max() - 80) <= 1
    assert found[0].score == 1.0


def test_ten_clicks_in_one_window_encode_once(painter: Painter) -> None:
    segmenter = student(painter)
    embedding = segmenter.embed(FRAME)
    points = [(64.0, 64.0)]
    logits = None
    for number in range(10):
        points.append((60.0 + number, 70.0))
        prompt = Prompt(np.array(points), np.ones(len(points), dtype=np.int64), mask_logits=logits)
        logits = segmenter.predict(embedding, prompt)[0].logits
    assert painter.encoded == 1
    assert painter.decoded[0][2].max() == 0.0
    assert painter.decoded[-1][2].max() == pytest.approx(4.0)


def test_a_concept_of_the_tree_gives_one_mask_and_of_lesions_each_best_first(
    painter: Painter,
) -> None:
    segmenter = student(painter)
    embedding = segmenter.embed(FRAME)
    assert len(segmenter.predict(embedding, Prompt(concept="All_tubes"))) == 1
    lesions = segmenter.predict(embedding, Prompt(concept="narrowing"))
    assert lesions[0].score > lesions[1].score > 0.5
    assert lesions[0].bitmap[66, 66]
    assert painter.encoded == 1


def test_only_as_many_lesions_as_wanted_are_drawn_and_they_are_the_best(painter: Painter) -> None:
    segmenter = student(painter)
    embedding = segmenter.embed(FRAME)
    every = segmenter.predict(embedding, Prompt(concept="narrowing"))
    (best,) = segmenter.lesions(embedding, 1)
    assert len(every) == len(segmenter.lesions(embedding, 5)) == 2
    assert (best.label, best.score) == ("narrowing", every[0].score)
    assert best.score > every[1].score
    np.testing.assert_array_equal(best.bitmap, every[0].bitmap)
    np.testing.assert_array_equal(best.logits, every[0].logits)


def test_an_unknown_concept_finds_nothing(painter: Painter) -> None:
    segmenter = student(painter)
    assert segmenter.predict(segmenter.embed(FRAME), Prompt(concept="tube")) == ()


def test_an_empty_prompt_is_refused(painter: Painter) -> None:
    segmenter = student(painter)
    with pytest.raises(PromptError, match="empty"):
        segmenter.predict(segmenter.embed(FRAME), Prompt())


def test_only_so_many_windows_are_kept(painter: Painter) -> None:
    segmenter = student(painter)
    embedding = segmenter.embed(FRAME)
    for x in range(12):
        segmenter.predict(embedding, Prompt(box_xyxy=(5.0 * x, 10.0, 5.0 * x + 20.0, 40.0)))
    assert len(embedding.windows) <= 8


def test_a_prompt_becomes_corners_then_clicks() -> None:
    prompt = Prompt(np.array([[12.0, 13.0]]), np.array([0]), (10.0, 10.0, 20.0, 22.0))
    points, labels = square_points(prompt, Window(0, 0, 128), 64)
    assert labels.tolist() == [[2, 3, 0]]
    assert points[0, 0].tolist() == pytest.approx([4.75, 4.75])

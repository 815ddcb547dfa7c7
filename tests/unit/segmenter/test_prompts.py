import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from casebook.protocols import Prompt
from segmenter.interactive import BOX_END, BOX_START, INSIDE, OUTSIDE
from segmenter.prompts import (
    FAR_OUTSIDE,
    Window,
    WindowConfig,
    crop,
    from_grey,
    paste,
    prompt_points,
    to_image,
    to_square,
    whole_window,
    window_of,
    zoomed_window,
)
from segmenter.sam3 import REAL
from segmenter.upstream import import_upstream

HW = (512, 480)
CONFIG = WindowConfig()

coordinate = st.floats(0, 479, allow_nan=False)


def clicks(*points: tuple[float, float], labels: tuple[int, ...] | None = None) -> Prompt:
    return Prompt(
        points_xy=np.array(points, dtype=np.float64).reshape(-1, 2),
        point_labels=np.array(labels or (1,) * len(points), dtype=np.int64),
    )


@given(coordinate, coordinate, st.integers(1, 512), st.integers(8, 1024))
def test_a_point_goes_to_the_square_and_back(x: float, y: float, size: int, side: int) -> None:
    window = Window(-3, 7, size)
    points = np.array([[x, y]])
    assert np.allclose(to_image(to_square(points, window, side), window, side), points, atol=1e-6)


@given(coordinate, coordinate, coordinate, coordinate)
def test_the_window_of_a_box_holds_the_box(x1: float, y1: float, x2: float, y2: float) -> None:
    prompt = Prompt(box_xyxy=(x1, y1, x2, y2)).checked(HW)
    assert prompt.box_xyxy is not None
    window = window_of(prompt, HW, CONFIG)
    left, top, right, bottom = prompt.box_xyxy
    assert window.contains(left, top)
    assert window.contains(right, bottom)
    assert window.size_px <= max(HW)


def test_a_small_move_of_the_box_reuses_the_window() -> None:
    one = window_of(Prompt(box_xyxy=(200.0, 200.0, 260.0, 260.0)), HW, CONFIG)
    assert one == window_of(Prompt(box_xyxy=(201.0, 199.0, 261.0, 259.0)), HW, CONFIG)


def test_later_clicks_reuse_the_window_of_the_first() -> None:
    first = window_of(clicks((240, 250)), HW, CONFIG)
    later = clicks((240, 250), (260, 240), (230, 270), labels=(1, 0, 1))
    assert window_of(later, HW, CONFIG) == first


@given(coordinate, coordinate, coordinate, coordinate)
def test_a_click_outside_enlarges_the_window_to_hold_it(
    x: float, y: float, far_x: float, far_y: float
) -> None:
    prompt = clicks((x, y), (far_x, far_y))
    window = window_of(prompt, HW, CONFIG)
    assert window.contains(x, y)
    assert window.contains(far_x, far_y)
    assert window == window_of(prompt, HW, CONFIG)


def test_a_concept_and_the_whole_image_setting_use_the_whole_image() -> None:
    assert window_of(Prompt(concept="thing"), HW, CONFIG) == whole_window(HW)
    everything = WindowConfig(whole_image=True)
    assert window_of(Prompt(box_xyxy=(1.0, 1.0, 9.0, 9.0)), HW, everything) == whole_window(HW)


ZOOMING = WindowConfig(whole_image=True, zoom=True)


def test_a_second_look_is_laid_around_the_box_or_the_first_answer_and_its_clicks() -> None:
    box = (100.0, 120.0, 160.0, 150.0)
    around_box = zoomed_window(Prompt(box_xyxy=box), (0.0, 0.0, 400.0, 400.0), HW, ZOOMING)
    assert around_box == window_of(Prompt(box_xyxy=box), HW, CONFIG)
    around_answer = zoomed_window(clicks((130, 130), (300, 140)), box, HW, ZOOMING)
    assert around_answer is not None
    for x, y in ((100.0, 120.0), (160.0, 150.0), (130.0, 130.0), (300.0, 140.0)):
        assert around_answer.contains(x, y)


def test_there_is_no_second_look_that_would_show_little_more() -> None:
    box = (100.0, 120.0, 160.0, 150.0)
    wide = (2.0, 2.0, HW[1] - 3.0, HW[0] - 3.0)
    assert zoomed_window(Prompt(box_xyxy=box), None, HW, CONFIG) is None
    assert zoomed_window(clicks((130, 130)), None, HW, ZOOMING) is None
    assert zoomed_window(Prompt(box_xyxy=wide), None, HW, ZOOMING) is None
    # A window laid around the box already is not laid again.
    closely = WindowConfig(zoom=True)
    assert zoomed_window(Prompt(box_xyxy=box), box, HW, closely) is None


def test_a_crop_repeats_the_edge_beyond_the_image() -> None:
    pixels = np.full((4, 6), 9, dtype=np.uint8)
    pixels[:, 0] = 200
    found = crop(pixels, Window(-2, 0, 4), 4)
    assert found.shape == (4, 4)
    assert found[:, 0].tolist() == [200] * 4


def test_a_mask_pasted_back_covers_what_was_cropped() -> None:
    window = Window(100, 200, 64)
    logits = torch.full((16, 16), -5.0)
    logits[4:12, 4:12] = 5.0
    found = paste(logits, window, HW)
    assert found.shape == HW
    ys, xs = np.nonzero(found > 0)
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (116, 147, 216, 247)
    assert found[0, 0] == pytest.approx(FAR_OUTSIDE)


def test_a_window_over_the_edge_is_pasted_inside_the_image_only() -> None:
    found = paste(torch.full((8, 8), 3.0), Window(-16, -16, 32), (24, 20))
    assert (found[:16, :16] > 0).all()
    assert (found[16:] == FAR_OUTSIDE).all()


def test_box_corners_come_before_clicks_with_their_kinds() -> None:
    prompt = Prompt(
        points_xy=np.array([[5.0, 5.0], [6.0, 6.0]]),
        point_labels=np.array([1, 0]),
        box_xyxy=(1.0, 2.0, 9.0, 10.0),
    )
    points, kinds = prompt_points(prompt, Window(0, 0, 32), 64)
    assert kinds.tolist() == [BOX_START, BOX_END, INSIDE, OUTSIDE]
    assert points[0].tolist() == [2.5, 4.5]


def test_what_the_model_reads_does_not_depend_on_exposure() -> None:
    rng = np.random.default_rng(0)
    square = rng.integers(40, 120, (1, 32, 32)).astype(np.uint8)
    one, other = from_grey(square), from_grey((square * 2).astype(np.uint8))
    assert torch.allclose(one, other, atol=1e-5)


def test_the_released_weights_read_grey_as_they_were_trained() -> None:
    square = np.random.default_rng(0).integers(0, 256, (1, 1008, 1008)).astype(np.uint8)
    processor = import_upstream(("sam3.model.sam3_image_processor",))
    theirs = processor["sam3.model.sam3_image_processor"].Sam3Processor(None, device="cpu")
    expected = theirs.transform(torch.from_numpy(square).expand(3, -1, -1))
    found = from_grey(square, standardised=REAL.standardised)
    assert torch.allclose(found[0], expected, atol=1e-6)

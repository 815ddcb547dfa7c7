import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from casebook.protocols import Prompt
from export.windows import CLICK_PX, SMALLEST_PX, STEP_PX, Window, whole, window_of


def boxed(*box: float) -> Prompt:
    x1, y1, x2, y2 = map(float, box)
    return Prompt(box_xyxy=(x1, y1, x2, y2))


def clicked(*points: tuple[float, float], labels: tuple[int, ...] | None = None) -> Prompt:
    kinds = np.array(labels or (1,) * len(points), dtype=np.int64)
    return Prompt(np.array(points, dtype=np.float64), kinds)


@pytest.mark.parametrize(
    ("prompt", "hw", "expected"),
    [
        pytest.param(boxed(240, 240, 260, 250), (512, 512), SMALLEST_PX, id="small box"),
        pytest.param(boxed(100, 200, 199, 260), (512, 512), 176, id="margin around a box"),
        pytest.param(boxed(0, 0, 511, 511), (512, 512), 512, id="whole image"),
        pytest.param(clicked((250, 250)), (512, 512), CLICK_PX, id="one click"),
    ],
)
def test_a_window_has_the_side_the_rule_says(
    prompt: Prompt, hw: tuple[int, int], expected: int
) -> None:
    assert window_of(prompt, hw).side == expected


def test_later_clicks_inside_keep_the_window() -> None:
    first = window_of(clicked((250, 250)), (512, 512))
    assert window_of(clicked((250, 250), (300, 220), labels=(1, 0)), (512, 512)) == first


def test_a_click_outside_grows_the_window_until_it_holds_it() -> None:
    window = window_of(clicked((100, 100), (400, 120)), (512, 512))
    assert window.holds(400.0, 120.0)
    assert window.holds(100.0, 100.0)


@given(
    x=st.integers(0, 299),
    y=st.integers(0, 199),
    w=st.integers(1, 150),
    h=st.integers(1, 150),
)
def test_a_window_always_holds_its_box_and_stays_in_a_wide_enough_image(
    x: int, y: int, w: int, h: int
) -> None:
    hw = (200, 300)
    box = (float(x), float(y), float(min(x + w, 299)), float(min(y + h, 199)))
    window = window_of(Prompt(box_xyxy=box), hw)
    assert window.holds(box[0], box[1])
    assert window.holds(box[2], box[3])
    if window.side <= 200:
        assert window.x >= 0
        assert window.x + window.side <= 300
        assert window.y >= 0
        assert window.y + window.side <= 200
    assert window.side % STEP_PX == 0 or window.side == max(hw)


def test_what_is_cut_and_placed_again_comes_back_at_the_same_place() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (120, 90), dtype=np.uint8)
    window = Window(10, 40, 64)
    square = window.cut(pixels, 64)
    placed = window.place(square.astype(np.float32), (120, 90), -1.0)
    assert np.array_equal(placed[40:104, 10:74], pixels[40:104, 10:74])
    assert (placed[:40] == -1).all()


def test_beyond_the_image_pixels_are_repeated_and_maps_are_filled() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    square = Window(-1, -1, 6).cut(pixels, 6)
    assert square[0, 0] == pixels[0, 0]
    assert square[5, 5] == pixels[2, 3]
    values = Window(-1, -1, 6).cut_values(pixels.astype(np.float32), 6, -9.0)
    assert values[0, 0] == -9.0
    assert values[1, 1] == 0.0


def test_a_point_and_the_pixel_under_it_move_together() -> None:
    pixels = np.zeros((200, 200), dtype=np.uint8)
    pixels[96:104, 56:64] = 255
    window = Window(20, 60, 128)
    square = window.cut(pixels, 64)
    centre = window.to_square(np.array([[59.5, 99.5]]), 64)[0]
    rows, columns = np.nonzero(square > 127)
    assert np.allclose([columns.mean(), rows.mean()], centre, atol=0.01)


def test_the_whole_image_fits_its_window() -> None:
    assert whole((300, 200)) == Window(0, 0, 300)

"""Burned-in text is found wherever it stands, painted over where sure, and vessels are not text."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from angio.burned_text import find_text, merged, paint_over
from angio.pixel_check import check, full_range
from casebook.catalogue import Catalogue
from casebook.errors import DeidError

SIDE_PX = 256


def ground(seed: int, noise: float = 9.0) -> np.ndarray:
    """Something smooth with noise, without anything drawn."""
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    smooth = 120 + 40 * np.sin(x / 40) + 30 * np.cos(y / 60)
    noisy = smooth + np.random.default_rng(seed).normal(0, noise, smooth.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def written(
    pixels: np.ndarray, text: str, at_xy: tuple[int, int], level: int, size: int = 14
) -> tuple[np.ndarray, np.ndarray]:
    """The picture with a text, and where its ink is."""
    ink = Image.new("L", (SIDE_PX, SIDE_PX), 0)
    ImageDraw.Draw(ink).text(at_xy, text, fill=255, font=ImageFont.load_default(size))
    share = np.array(ink, dtype=np.float32) / 255
    drawn = pixels * (1 - share) + level * share
    return np.rint(drawn).astype(np.uint8), share > 0.15


def covered(boxes: list[tuple[int, int, int, int]], ink: np.ndarray) -> bool:
    inside = np.zeros(ink.shape, dtype=bool)
    for x1, y1, x2, y2 in boxes:
        inside[y1 : y2 + 1, x1 : x2 + 1] = True
    return bool(inside[ink].all())


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("at_xy", [(6, 6), (120, 8), (8, 234), (118, 234)])
def test_a_name_in_a_corner_is_painted_over_whole(level: int, at_xy: tuple[int, int]) -> None:
    frame, ink = written(ground(1), "DOE^JANE 1950", at_xy, level)
    found = find_text(frame[None])
    assert all(entry.certain for entry in found)
    assert covered([entry.box_xyxy for entry in found], ink)
    result = check({0: frame}, {}, None)
    assert result.pixel_text == "masked"
    painted = paint_over(frame, result.boxes_xyxy)
    assert find_text(painted[None]) == ()


def test_a_name_in_the_middle_is_for_a_person_to_look_at() -> None:
    frame, _ = written(ground(2), "DOE^JANE 1950", (70, 120), 255)
    with pytest.raises(DeidError, match="burned-in text"):
        check({0: frame}, {}, None)


def test_words_that_stand_apart_are_one_line() -> None:
    frame, ink = written(ground(3), "ID: 55", (8, 8), 255)
    assert covered([entry.box_xyxy for entry in find_text(frame[None])], ink)


def test_faint_text_shows_in_the_mean_of_a_run() -> None:
    """One noisy frame hides it; it stands still over nine."""
    frames = [ground(seed, noise=24.0) for seed in range(9)]
    both = [written(frame, "MILLER, ANN", (8, 8), 255, size=16) for frame in frames]
    assert find_text(both[0][0][None]) == ()
    found = find_text(np.stack([frame for frame, _ in both]))
    assert covered([entry.box_xyxy for entry in found], both[0][1])


def test_text_on_one_frame_of_a_run_is_found() -> None:
    frames = np.stack([ground(seed) for seed in range(3)])
    frames[2], ink = written(frames[2], "SMITH 12/03/1950", (8, 8), 255)
    assert covered([entry.box_xyxy for entry in find_text(frames)], ink)


def test_text_that_the_rendering_clips_is_found_in_the_stored_bits() -> None:
    """White on white in eight bits, and still there in twelve."""
    level = (ground(4).astype(np.float32) * 8 + 1500).astype(np.uint16)
    _, ink = written(np.zeros((SIDE_PX, SIDE_PX), np.uint8), "DOE^JANE 1950", (6, 6), 255)
    level[ink] = 4095
    rendered = np.full((SIDE_PX, SIDE_PX), 255, dtype=np.uint8)
    assert find_text(rendered[None]) == ()
    assert find_text(full_range(level)[None]) != ()
    result = check({0: rendered}, {0: level}, None)
    assert result.pixel_text == "masked"
    assert np.unique(paint_over(level, result.boxes_xyxy)[ink]).max() < 4095


@pytest.mark.parametrize("seed", range(8))
def test_pictures_without_letters_pass(seed: int) -> None:
    plain = ground(seed, noise=3.0 * (seed + 1))
    assert find_text(plain[None]) == ()
    plain[:, :7] = 0
    plain[:6] = 0
    plain[-20:] = 0
    assert find_text(plain[None]) == ()


def test_phantoms_have_no_text(workspace: Catalogue) -> None:
    cases = list(workspace.cases())
    assert len(cases) == 12
    assert {case.deid.pixel_text for case in cases if case.deid} == {"none found"}


def test_real_angiograms_are_seldom_taken_for_text(arcade_dir: Path) -> None:
    paths = sorted(arcade_dir.rglob("*.png"))[:40]
    assert len(paths) == 40
    flagged = sum(
        bool(find_text(np.array(Image.open(path).convert("L"), dtype=np.uint8)[None]))
        for path in paths
    )
    assert flagged <= 8


@settings(max_examples=40, deadline=None)
@given(
    boxes=st.lists(
        st.tuples(*[st.integers(0, 60)] * 4).map(
            lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
        ),
        min_size=1,
        max_size=6,
    ),
    seed=st.integers(0, 99),
)
def test_nothing_inside_a_box_survives_painting(
    boxes: list[tuple[int, int, int, int]], seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 4096, (64, 64)).astype(np.uint16)
    joined = merged(boxes)
    painted = paint_over(pixels, joined)
    inside = np.zeros(pixels.shape, dtype=bool)
    for x1, y1, x2, y2 in joined:
        inside[y1 : y2 + 1, x1 : x2 + 1] = True
        assert np.unique(painted[y1 : y2 + 1, x1 : x2 + 1]).size == 1
    assert all(inside[y1 : y2 + 1, x1 : x2 + 1].all() for x1, y1, x2, y2 in boxes)
    assert np.array_equal(painted[~inside], pixels[~inside])


@pytest.mark.parametrize("hw", [(1, 1), (3, 200), (200, 4), (49, 97)])
def test_pictures_of_any_size_are_looked_at(hw: tuple[int, int]) -> None:
    noise = np.random.default_rng(5).integers(0, 255, (2, *hw)).astype(np.uint8)
    assert isinstance(find_text(noise), tuple)

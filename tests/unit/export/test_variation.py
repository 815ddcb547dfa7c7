import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.variation import Variation, greyed, places, sampled

STILL = Variation(rotation_deg=0, scale=0, shift=0, contrast=0, noise=0)
WILD = Variation(
    rotation_deg=20, scale=0.25, aspect=0.1, shift=0.1, bend=0.03, contrast=0.35, gamma=0.5,
    shade=0.15, blur_share=0.5, noise=10,
)  # fmt: skip


def _squares(count: int = 2, side: int = 48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side), dtype=np.uint8)


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_variation_gives_the_squares_as_they_are() -> None:
    squares = _squares()
    same = sampled(squares, places(2, 48, 1.0, STILL, _seeded()), "border")
    assert torch.allclose(same[:, 0], torch.from_numpy(squares).float(), atol=0.05)
    assert torch.allclose(greyed(same, STILL, _seeded()), same, atol=0.05)


@pytest.mark.parametrize(
    "change",
    [{"rotation_deg": 10}, {"scale": 0.2}, {"aspect": 0.2}, {"shift": 0.2}, {"bend": 0.1}],
    ids=str,
)
def test_each_place_setting_moves_the_square(change: dict[str, float]) -> None:
    still = places(2, 48, 1.0, STILL, _seeded())
    moved = places(2, 48, 1.0, STILL.model_copy(update=change), _seeded())
    assert float((moved - still).abs().max()) > 0.02


@pytest.mark.parametrize(
    "change",
    [{"contrast": 0.3}, {"gamma": 0.3}, {"shade": 0.3}, {"blur_share": 1.0}, {"noise": 8}],
    ids=str,
)
def test_each_grey_setting_changes_the_square(change: dict[str, float]) -> None:
    squares = torch.from_numpy(_squares()).float()[:, None]
    shown = greyed(squares, STILL.model_copy(update=change), _seeded())
    assert float((shown - squares).abs().mean()) > 0.5


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_square_is_never_mirrored_and_grey_values_stay_in_range(seed: int) -> None:
    grid = places(3, 32, 1.0, WILD, _seeded(seed))
    across = grid[:, :, 1:] - grid[:, :, :-1]
    down = grid[:, 1:] - grid[:, :-1]
    area = across[:, :-1, :, 0] * down[:, :, :-1, 1] - across[:, :-1, :, 1] * down[:, :, :-1, 0]
    assert float(area.mean(dim=(1, 2)).min()) > 0
    squares = torch.from_numpy(_squares(3, 32)).float()[:, None]
    shown = greyed(squares, WILD, _seeded(seed))
    assert float(shown.min()) >= 0.0
    assert float(shown.max()) <= 255.0
    assert torch.equal(shown, greyed(squares, WILD, _seeded(seed)))

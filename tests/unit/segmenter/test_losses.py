import math

import pytest
import torch

from segmenter.losses import (
    apart_loss,
    centreline_loss,
    dice_loss,
    focal_loss,
    iou,
    mask_loss,
    soft_skeleton,
)


def bars(*rows: int) -> torch.Tensor:
    mask = torch.zeros(1, 16, 16)
    for row in rows:
        mask[:, row, 2:14] = 1.0
    return mask


def test_a_perfect_mask_costs_next_to_nothing_and_its_opposite_the_most() -> None:
    truth = bars(5, 6, 7)
    good, bad = (truth - 0.5) * 60, (0.5 - truth) * 60
    assert float(dice_loss(good, truth)) == pytest.approx(0.0, abs=1e-4)
    assert float(dice_loss(bad, truth)) > 0.97
    assert float(focal_loss(good, truth)) < 1e-6
    assert float(centreline_loss(good, truth)) == pytest.approx(0.0, abs=1e-3)
    assert float(mask_loss(good, truth, centreline=1.0)) < float(mask_loss(bad, truth))


def test_dice_of_known_overlap_has_the_known_value() -> None:
    # 24 px found, 24 px true, 12 shared: Dice 0.5; the smoothing adds 1 to both sides.
    loss = dice_loss((bars(5, 6) - 0.5) * 200, bars(6, 7))
    assert float(loss) == pytest.approx(1 - 25 / 49, abs=1e-4)


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    logits, truth = torch.randn(2, 8, 8), (torch.rand(2, 8, 8) > 0.5).float()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
    assert float(focal_loss(logits, truth, gamma=0.0).mean()) == pytest.approx(float(entropy))
    assert (focal_loss(logits, truth) < focal_loss(logits, truth, gamma=0.0)).all()


def test_the_skeleton_of_a_bar_is_its_middle_row() -> None:
    skeleton = soft_skeleton(bars(5, 6, 7))[0]
    assert (skeleton[6, 3:13] > 0.5).all()
    assert skeleton[5].max() < 0.5


def test_centreline_loss_sees_a_gap_that_dice_hardly_sees() -> None:
    truth = bars(4, 5, 6, 7, 8)
    broken = truth.clone()
    broken[:, :, 7:9] = 0
    logits = (broken - 0.5) * 60
    assert float(centreline_loss(logits, truth)) > 0.05


def test_iou_of_halves_and_of_nothing() -> None:
    a, b = bars(5, 6).bool(), bars(6, 7).bool()
    empty = torch.zeros_like(a)
    assert float(iou(a, b)) == pytest.approx(1 / 3)
    assert float(iou(a, empty)) == 0.0
    assert float(iou(empty, empty)) == 1.0


def test_names_are_told_apart_where_one_of_them_is_meant_alone() -> None:
    truth = torch.zeros(4, 6, 6, dtype=torch.bool)
    truth[0, :3] = True
    truth[1, 2:] = True  # shares a row with the first
    truth[3, 0] = True  # of another image
    images = torch.tensor([0, 0, 0, 1])
    alike = torch.zeros(4, 6, 6)
    assert apart_loss(alike, truth, images).item() == pytest.approx(math.log(2))
    right = torch.where(truth, 9.0, -9.0)
    assert apart_loss(right, truth, images).item() < 1e-6
    assert apart_loss(right[[1, 0, 2, 3]], truth, images).item() > 9
    both = right.clone()
    both[1, 2] = 50.0  # what both names mean says nothing of either
    assert apart_loss(both, truth, images).item() < 1e-6
    absent = right.clone()
    absent[2] = 20.0  # a name of nothing is above what the others mean
    assert apart_loss(absent, truth, images).item() > 5
    assert apart_loss(right[3:], truth[3:], images[3:]).item() == 0.0

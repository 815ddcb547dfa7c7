import numpy as np
import pytest
import torch

from segmenter.interactive import (
    INSIDE,
    OUTSIDE,
    PADDING,
    PromptMix,
    boxes_of,
    correction_clicks,
    draw_prompts,
    interactive_loss,
    is_ambiguous,
    likeliest,
    upsampled,
)
from segmenter.losses import iou
from segmenter.prompts import from_grey
from segmenter.sam3 import Sam3
from segmenter.shapes import draw_picture

NO_JITTER = {"jitter_fraction": 0.0, "jitter_px": 0.0}


def square(x1: int, y1: int, x2: int, y2: int) -> torch.Tensor:
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, y1 : y2 + 1, x1 : x2 + 1] = True
    return mask


def test_boxes_are_the_outermost_pixels() -> None:
    masks = torch.cat([square(3, 5, 20, 9), torch.zeros(1, 64, 64, dtype=torch.bool)])
    assert boxes_of(masks).tolist() == [[3, 5, 20, 9], [0, 0, 0, 0]]


def test_a_box_prompt_without_jitter_is_the_box() -> None:
    mix = PromptMix(box=1, box_and_click=0, click=0, **NO_JITTER)
    points, labels = draw_prompts(square(3, 5, 20, 9), mix, torch.Generator().manual_seed(0))
    assert points[0, :2].tolist() == [[3, 5], [20, 9]]
    assert labels[0].tolist() == [2, 3, PADDING]


def test_a_click_prompt_lies_inside_the_object() -> None:
    mix = PromptMix(box=0, box_and_click=0, click=1)
    truth = square(10, 40, 14, 60).repeat(50, 1, 1)
    points, labels = draw_prompts(truth, mix, torch.Generator().manual_seed(0))
    assert labels[0].tolist() == [PADDING, PADDING, INSIDE]
    x, y = points[:, 2].long().unbind(dim=1)
    assert truth[torch.arange(50), y, x].all()


@pytest.mark.parametrize(
    ("found", "label", "inside"),
    [
        (square(0, 0, 9, 9), INSIDE, (30, 50)),
        (square(20, 20, 60, 60), OUTSIDE, (20, 30)),
    ],
    ids=["what was missed", "what was invented"],
)
def test_a_correction_clicks_into_the_largest_error(
    found: torch.Tensor, label: int, inside: tuple[int, int]
) -> None:
    truth = torch.zeros_like(found) if label == OUTSIDE else square(30, 30, 50, 50) | found
    points, labels = correction_clicks((found.float() - 0.5) * 10, truth)
    assert labels.tolist() == [[label]]
    wrong = found ^ truth
    x, y = points[0, 0].long().tolist()
    assert bool(wrong[0, y, x])


def test_a_right_answer_is_not_corrected() -> None:
    truth = square(30, 30, 50, 50)
    _, labels = correction_clicks((truth.float() - 0.5) * 10, truth)
    assert labels.tolist() == [[PADDING]]


def test_a_few_steps_on_one_picture_learn_it(small: Sam3) -> None:
    picture = draw_picture(np.random.default_rng(5), 64)
    pixels = from_grey(picture.pixels[None])
    truth = torch.from_numpy(np.stack(picture.targets[:2]))
    index = torch.zeros(len(truth), dtype=torch.long)
    small.train()
    optimizer = torch.optim.AdamW(small.parameters(), lr=3e-3)
    mix = PromptMix(corrections=1, correction_share=1.0)
    losses = []
    for step in range(60):
        generator = torch.Generator().manual_seed(step)
        terms = interactive_loss(small, pixels, index, truth, mix, generator, centreline=0.2)
        optimizer.zero_grad()
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(small.parameters(), 1.0)
        optimizer.step()
        losses.append(float(terms["loss"].detach()))
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])


def test_a_mask_of_no_weight_does_not_count(small: Sam3) -> None:
    truth = torch.cat([square(3, 5, 20, 9), square(30, 30, 50, 50)])
    pixels = from_grey(np.random.default_rng(0).integers(0, 255, (2, 64, 64)).astype(np.uint8))
    index = torch.arange(2)
    mix = PromptMix(corrections=0, **NO_JITTER, box=1, box_and_click=0, click=0)

    def loss_of(keep: list[int], weights: list[float]) -> float:
        terms = interactive_loss(
            small,
            pixels,
            index[keep],
            truth[keep],
            mix,
            torch.Generator().manual_seed(0),
            weights=torch.tensor(weights),
        )
        return float(terms["loss"].detach())

    assert loss_of([0, 1], [1.0, 0.0]) == pytest.approx(loss_of([0], [1.0]), rel=1e-4)


ONE_CLICK = PromptMix(box=0, box_and_click=0, click=1, corrections=0)


def nested() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A light field with a dark one inside it: a click into the dark may mean either."""
    grey = np.full((1, 64, 64), 120, dtype=np.uint8)
    grey[:, 20:44, 20:44] = 200
    grey[:, 24:40, 24:40] = 40
    truth = torch.cat([square(24, 24, 39, 39), square(20, 20, 43, 43)])
    return from_grey(grey), torch.zeros(4, dtype=torch.long), truth.repeat(2, 1, 1)


def test_only_a_click_without_box_or_second_click_is_ambiguous() -> None:
    labels = torch.tensor(
        [[PADDING, PADDING, INSIDE], [2, 3, PADDING], [2, 3, INSIDE], [PADDING, INSIDE, OUTSIDE]]
    )
    assert is_ambiguous(labels).tolist() == [True, False, False, False]


def test_an_ambiguous_prompt_is_answered_by_the_mask_expected_to_overlap_most() -> None:
    masks = torch.arange(8.0)[:, None, None].expand(8, 2, 2).reshape(2, 4, 2, 2)
    quality = torch.tensor([[0.9, 0.1, 0.6, 0.3]] * 2)
    found, expected = likeliest(masks, quality, torch.tensor([True, False]))
    assert found[:, 0, 0].tolist() == [2.0, 4.0]
    assert expected.tolist() == pytest.approx([0.6, 0.9])


def test_three_masks_learn_both_meanings_of_a_click_where_one_mask_cannot(small: Sam3) -> None:
    pixels, index, truth = nested()
    small.train()
    optimizer = torch.optim.AdamW(small.parameters(), lr=2e-3)
    for step in range(70):
        generator = torch.Generator().manual_seed(step)
        terms = interactive_loss(small, pixels, index, truth, ONE_CLICK, generator, multimask=True)
        optimizer.zero_grad()
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(small.parameters(), 1.0)
        optimizer.step()
    small.eval()
    centre = torch.tensor([[[31.0, 31.0]]]), torch.tensor([[INSIDE]])
    with torch.no_grad():
        masks, quality = small.candidates(small.encode(pixels), *centre)
    found = torch.stack([upsampled(masks[:, k], 64)[0] > 0 for k in range(4)])
    overlaps = torch.stack([iou(found, meant.expand(4, -1, -1)) for meant in truth[:2]])
    several, single = overlaps[:, 1:].max(dim=1).values, overlaps[:, 0]
    assert float(several.min()) > 0.8
    assert float(several.min()) > float(single.min()) + 0.2
    # What is expected of each is its overlap with the one or the other, on average.
    assert float((quality[0] - overlaps.mean(dim=0)).abs().max()) < 0.15


def test_without_clicks_three_masks_cost_and_change_nothing(small: Sam3) -> None:
    pixels, index, truth = nested()
    boxes = PromptMix(box=1, box_and_click=0, click=0, corrections=1, correction_share=1.0)

    def loss_of(*, multimask: bool) -> float:
        generator = torch.Generator().manual_seed(3)
        terms = interactive_loss(small, pixels, index, truth, boxes, generator, multimask=multimask)
        return float(terms["loss"].detach())

    assert loss_of(multimask=True) == loss_of(multimask=False)


def test_weights_of_the_three_masks_get_a_gradient_even_when_nobody_clicks(small: Sam3) -> None:
    pixels, index, truth = nested()
    boxes = PromptMix(box=1, box_and_click=0, click=0, corrections=0)
    generator = torch.Generator().manual_seed(0)
    interactive_loss(small, pixels, index, truth, boxes, generator, multimask=True)[
        "loss"
    ].backward()
    mlps = small.tracker.sam_mask_decoder.output_hypernetworks_mlps
    assert all(p.grad is not None for k in (1, 2, 3) for p in mlps[k].parameters())

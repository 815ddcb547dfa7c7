import pytest
import torch
from pydantic import ValidationError

from export.lessons import Lesson, lesson_loss, line_loss, soft_loss
from export.student import Student, StudentConfig, prompt_maps
from export.student_base import shapes_lesson
from segmenter.interactive import PromptMix
from segmenter.losses import dice_loss
from tests.unit.export.workshop import SMALL


def test_a_box_is_drawn_where_its_corners_are_and_a_click_where_it_is() -> None:
    points = torch.tensor([[[10.0, 20.0], [29.0, 39.0], [41.0, 5.0]]])
    square = torch.zeros(1, 1, 64, 64)
    maps = prompt_maps(points, torch.tensor([[2, 3, 0]]), square, 3.0)[0]
    assert float(maps[0].sum() * 4) == pytest.approx(20 * 20)
    assert float(maps[0, 15, 10]) == 1.0
    assert float(maps[1].sum()) == 0.0
    row, column = divmod(int(maps[2].argmax()), 32)
    assert (column, row) == (20, 2)


def test_padding_points_change_nothing() -> None:
    torch.manual_seed(0)
    student = Student(SMALL).eval()
    grey = torch.rand(1, 1, 64, 64) * 255
    previous = torch.zeros(1, 1, 64, 64)
    with torch.inference_mode():
        features = student.encoder(grey)
        one = student.decoder(
            features, torch.tensor([[[20.0, 30.0]]]), torch.tensor([[1]]), previous
        )
        two = student.decoder(
            features,
            torch.tensor([[[20.0, 30.0], [5.0, 5.0]]]),
            torch.tensor([[1, -1]]),
            previous,
        )
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


def test_brighter_and_flatter_pictures_give_the_same_maps() -> None:
    student = Student(SMALL).eval()
    grey = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 100 + 20
    with torch.inference_mode():
        one, two = student.encoder(grey)[3], student.encoder(grey * 1.5 + 30)[3]
    assert torch.allclose(one, two, atol=1e-4)


def test_sizes_that_do_not_fit_are_all_named() -> None:
    with pytest.raises(ValidationError, match="not a multiple of 16"):
        StudentConfig(side_px=100)
    with pytest.raises(ValidationError, match="multiples of 8"):
        StudentConfig(widths=(8, 12, 16, 16))


def test_a_lesson_reaches_every_weight() -> None:
    torch.manual_seed(0)
    student = Student(SMALL)
    lesson = shapes_lesson(0, 0, 2, 64)
    mix = PromptMix(corrections=1, correction_share=1.0)
    terms = lesson_loss(student, lesson, mix, torch.Generator().manual_seed(0), centreline=0.3)
    terms["loss"].backward()
    without = [name for name, p in student.named_parameters() if p.grad is None]
    assert without == []


def test_a_few_steps_on_one_lesson_lower_its_loss() -> None:
    torch.manual_seed(0)
    student = Student(SMALL)
    lesson = Lesson(prompts=shapes_lesson(0, 0, 2, 64).prompts)
    mix = PromptMix(box=1, box_and_click=0, click=0, corrections=0, jitter_px=0, jitter_fraction=0)
    optimizer = torch.optim.AdamW(student.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        loss = lesson_loss(student, lesson, mix, torch.Generator().manual_seed(0))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_the_soft_loss_of_a_certain_teacher_is_the_hard_loss() -> None:
    wanted = (torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    logits = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(1))
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits[0], wanted[0])
    expected = entropy + dice_loss(logits, wanted)[0]
    assert float(soft_loss(logits, wanted)[0]) == pytest.approx(float(expected), rel=1e-5)


def test_the_same_step_gives_the_same_shapes_lesson() -> None:
    one, two = shapes_lesson(3, 5, 2, 64), shapes_lesson(3, 5, 2, 64)
    assert one.prompts is not None
    assert two.prompts is not None
    assert torch.equal(one.prompts.truth, two.prompts.truth)
    assert torch.equal(one.prompts.squares, two.prompts.squares)


def test_context_adds_nothing_before_the_first_lesson_and_then_looks_around() -> None:
    torch.manual_seed(0)
    wide = Student(SMALL.model_copy(update={"context": (16, 16)})).eval()
    plain = Student(SMALL).eval()
    plain.load_state_dict(wide.state_dict(), strict=False)
    grey = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    with torch.inference_mode():
        features = wide.encoder(grey)
        assert torch.equal(wide.automatic(features), plain.automatic(features))
        assert wide.automatic.context is not None
        wide.automatic.context.added.weight.fill_(0.1)
        assert not torch.equal(wide.automatic(features), plain.automatic(features))


def test_a_whole_square_the_context_cannot_halve_is_refused() -> None:
    with pytest.raises(ValidationError, match="whole_px 96 is not a multiple of 64"):
        StudentConfig(whole_px=96, context=(16, 16))


def test_a_missed_branch_costs_more_than_a_missed_border() -> None:
    truth = torch.zeros(1, 48, 48, dtype=torch.bool)
    truth[:, 20:28] = True
    truth[:, 28:44, 22:26] = True
    thin, broken = truth.clone(), truth.clone()
    thin[:, 20:22] = False
    broken[:, 28:44] = False
    assert int((truth ^ thin).sum()) > int((truth ^ broken).sum())
    losses = [
        float(line_loss(torch.where(found, 9.0, -9.0), truth)) for found in (truth, thin, broken)
    ]
    assert losses[0] < 0.01
    assert losses[1] < 0.01
    assert losses[2] > 0.2

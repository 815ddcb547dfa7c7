import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file, save_file

from casebook.cases import View
from casebook.errors import ModelError
from casebook.protocols import Frame, Prompt
from segmenter.fit import HeadsConfig, LoraConfig, TrainConfig
from segmenter.heads import (
    FILE,
    HeadAnswers,
    Heads,
    Targets,
    head_sizes,
    heads_loss,
    load_heads,
    save_heads,
    targets_of,
    told,
    view_numbers,
)
from segmenter.prompts import Window, WindowConfig, place_of
from segmenter.rounds import train_adapter
from segmenter.sam3 import Features, Sam3
from segmenter.samples import Augmentation, RoundData, Sample, TrainMask
from segmenter.teacher import load_teacher

LORA = LoraConfig(rank=2, alpha=4, dropout=0.0, targets=("vit", "mask_decoder"))
CONFIG = TrainConfig(
    steps=60, lr=5e-3, batch=4, concept_every=0, lora=LORA,
    heads=HeadsConfig(weight=1.0, hidden=32, lr_factor=1.0),
)  # fmt: skip
CALM = Augmentation(rotation_deg=0, scale=0, shift=0, contrast=0, gamma=0, noise=0)


def bar(seed: int, thick: bool) -> Sample:
    """A dark bar; thick ones are code 2 from the left, thin ones code 13 from the right."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(120, 200, (96, 96)).astype(np.uint8)
    bitmap = np.zeros((96, 96), dtype=bool)
    width = 14 if thick else 5
    bitmap[30 : 30 + width, 20:70] = True
    pixels[bitmap] = 40
    targets = Targets(
        code=2 if thick else 13,
        stenosis_pct=20.0 if thick else 70.0,
        mld_px=float(width) * 0.5,
        rvd_px=float(width),
    )
    view = View(primary_deg=30 if thick else -30, secondary_deg=10)
    return Sample(Frame(pixels, view=view), (TrainMask("bar", bitmap, targets=targets),))


SAMPLES = [bar(seed, seed % 2 == 0) for seed in range(6)]
BOX = Prompt(box_xyxy=(19.0, 28.0, 71.0, 46.0))


def test_the_heads_learn_what_sets_masks_apart_and_come_back_with_the_adapter(
    base: Path, tmp_path: Path
) -> None:
    result = train_adapter(
        SAMPLES, CONFIG, base=base, init_adapter=None, directory=tmp_path, augmentation=CALM
    )
    assert {"code", "stenosis", "log_mld", "log_rvd"} <= result.fit.figures.keys()
    teacher = load_teacher(base.parent, None, base=base)
    assert teacher.predict(teacher.embed(SAMPLES[0].frame), BOX)[0].heads == {}
    teacher.switch(result.folder, "taught")
    thick, thin = (
        teacher.predict(teacher.embed(bar(seed, kind).frame), BOX)[0].heads
        for seed, kind in ((10, True), (11, False))
    )
    assert (thick["code"], thin["code"]) == (2.0, 13.0)
    assert thick["stenosis_pct"] < 45 < thin["stenosis_pct"]
    assert thick["rvd_px"] > thin["rvd_px"] > 0
    teacher.switch(None, "base")
    assert teacher.predict(teacher.embed(SAMPLES[0].frame), BOX)[0].heads == {}


def test_a_further_round_goes_on_with_the_incumbents_heads(base: Path, tmp_path: Path) -> None:
    short = CONFIG.model_copy(update={"steps": 2})
    first = train_adapter(
        SAMPLES, short, base=base, init_adapter=None, directory=tmp_path / "1", augmentation=CALM
    )
    second = train_adapter(
        SAMPLES,
        short.model_copy(update={"lr": 1e-9}),
        base=base,
        init_adapter=first.folder,
        directory=tmp_path / "2",
        augmentation=CALM,
    )
    one, other = (load_file(result.folder / FILE) for result in (first, second))
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_heads_that_were_told_no_place_are_begun_anew_where_places_are_told(
    base: Path, tmp_path: Path
) -> None:
    told = []
    before = None
    for turn, uses_place in enumerate((False, False, True)):
        heads = HeadsConfig(hidden=32, uses_place=uses_place)
        config = CONFIG.model_copy(update={"steps": 1, "batch": 2, "heads": heads})
        before = train_adapter(
            SAMPLES[:2], config, base=base, init_adapter=before, directory=tmp_path / str(turn)
        ).folder
        kept = load_file(before / FILE)
        told.append(any(name.startswith("where.") for name in kept))
    assert told == [False, False, True]


def test_lengths_are_learnt_in_px_of_the_square() -> None:
    config = CONFIG.model_copy(update={"batch": 2})
    wide = Augmentation(rotation_deg=0, scale=0.5, shift=0, contrast=0, gamma=0, noise=0)
    held = RoundData(SAMPLES[:2], config, WindowConfig(), wide, 64, 4)
    for step in range(4):
        batch = held.batch(step)
        assert batch.truth is not None
        assert batch.heads is not None
        seen_px = batch.truth.sum(dim=1).amax(dim=1).float()
        told_px = batch.heads.log_rvd.exp()
        # The bar is as wide in the square as its reference diameter says, to a pixel's rounding.
        assert (seen_px - told_px).abs().max() < 1.6


def told_of(small: Sam3, heads: Heads, mask: torch.Tensor, places: torch.Tensor) -> HeadAnswers:
    """What heads answer of masks over features that say nothing."""
    width, fine_width = head_sizes(small)
    count = len(mask)
    blank = Features(
        torch.zeros(count, width, 8, 8),
        torch.zeros(count, fine_width, 32, 32),
        torch.zeros(count, width, 16, 16),
    )
    answers: HeadAnswers = heads(blank, mask, view_numbers([None] * count), places)
    return answers


def test_where_a_mask_lies_in_its_frame_is_told_however_its_window_is_laid(small: Sam3) -> None:
    assert place_of(Window(0, 0, 512), (512, 512)) == (0.0, 0.0, 1.0)
    assert place_of(Window(256, 0, 256), (512, 512)) == (0.5, -0.5, 0.5)
    assert place_of(Window(0, -100, 400), (200, 400)) == (0.0, 0.0, 1.0)
    moved = Augmentation(rotation_deg=0, scale=0.3, shift=0.08, contrast=0, gamma=0, noise=0)
    config = CONFIG.model_copy(update={"batch": 2})
    held = RoundData(SAMPLES[:2], config, WindowConfig(), moved, 64, 4)
    rows, columns = np.nonzero(SAMPLES[0].masks[0].bitmap)
    wanted = [(columns.mean() + 0.5) / 48 - 1, (rows.mean() + 0.5) / 48 - 1]
    for step in range(4):
        batch = held.batch(step)
        assert batch.truth is not None
        assert batch.places is not None
        thick = batch.truth.flatten(1).sum(dim=1).argmax()
        ys, xs = (at.float() + 0.5 for at in batch.truth[thick].nonzero(as_tuple=True))
        x, y, half = batch.places[thick].tolist()
        seen = [x + half * (float(xs.mean()) / 32 - 1), y + half * (float(ys.mean()) / 32 - 1)]
        assert seen == pytest.approx(wanted, abs=0.02)


def test_the_heads_tell_masks_apart_by_their_place_alone(small: Sam3) -> None:
    torch.manual_seed(0)
    heads = Heads(HeadsConfig(hidden=32), *head_sizes(small))
    mask = torch.full((2, 32, 32), -9.0)
    mask[:, 12:20, 4:28] = 9.0
    places = torch.tensor([[-0.5, 0.2, 0.2], [0.5, 0.2, 0.2]])
    truth = targets_of([Targets(code=3), Targets(code=19)], torch.ones(2))
    optimizer = torch.optim.AdamW(heads.parameters(), lr=3e-3)
    for _ in range(60):
        answers = told_of(small, heads, mask, places)
        loss = heads_loss(answers, truth, torch.ones(2))["heads"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert told_of(small, heads.eval(), mask, places).code.argmax(dim=1).tolist() == [3, 19]
    blind = Heads(HeadsConfig(hidden=32, uses_place=False), *head_sizes(small)).eval()
    one, other = told_of(small, blind, mask, places).code
    assert torch.allclose(one, other)


def test_heads_begin_with_what_is_usual(small: Sam3) -> None:
    torch.manual_seed(0)
    heads = Heads(HeadsConfig(hidden=32), *head_sizes(small)).eval()
    known = [Targets(13, 40.0, 2.0, 4.0), Targets(13, 60.0, 2.0, 4.0), Targets(2), Targets()]
    heads.begin_at(targets_of(known, torch.full((4,), 3.0)), 32)
    mask = torch.randn(5, 32, 32)
    places = torch.rand(5, 3) + 0.1
    answers = told_of(small, heads, mask, places)
    assert answers.code.argmax(dim=1).tolist() == [13] * 5
    assert torch.allclose(answers.stenosis, torch.full((5,), 0.5), atol=0.05)
    assert torch.allclose(answers.log_mld.exp(), torch.full((5,), 6.0), rtol=0.15)
    assert torch.allclose(answers.log_rvd.exp(), torch.full((5,), 12.0), rtol=0.15)
    before = {name: value.clone() for name, value in heads.state_dict().items()}
    heads.begin_at(targets_of([Targets()], torch.ones(1)), 32)  # nothing is known
    biases = heads.state_dict()["join.4.bias"]
    assert torch.equal(biases, before["join.4.bias"])


def test_heads_kept_before_they_were_told_places_are_read_as_they_were(
    small: Sam3, tmp_path: Path
) -> None:
    heads = Heads(HeadsConfig(hidden=32, uses_place=False), *head_sizes(small))
    save_heads(heads, tmp_path)
    older = heads.config.model_dump(exclude={"uses_place"})
    save_file(dict(heads.state_dict()), tmp_path / FILE, {"config": json.dumps(older)})
    found = load_heads(tmp_path, *head_sizes(small))
    assert found is not None
    assert not found.config.uses_place
    assert found.state_dict().keys() == heads.state_dict().keys()


def test_what_is_unknown_of_a_mask_teaches_nothing() -> None:
    unknown = targets_of([Targets(), Targets(code=5)], torch.ones(2))
    answers = HeadAnswers(
        torch.zeros(2, 30, requires_grad=True), torch.zeros(2), torch.zeros(2), torch.zeros(2)
    )
    terms = heads_loss(answers, unknown, torch.ones(2))
    assert set(terms) == {"code", "code_right", "heads"}
    assert terms["heads"].item() == pytest.approx(math.log(30))
    nothing = heads_loss(answers, targets_of([Targets(), Targets()], torch.ones(2)), torch.ones(2))
    assert nothing["heads"].item() == 0.0
    unweighted = heads_loss(answers, unknown, torch.zeros(2))
    assert unweighted["heads"].item() == 0.0


def test_answers_are_told_in_px_of_the_image() -> None:
    answers = HeadAnswers(
        torch.eye(30)[[7]] * 9,
        torch.tensor([0.5]),
        torch.tensor([0.0]),
        torch.tensor([math.log(4)]),
    )
    said = told(answers, 2.5)
    assert said["code"] == 7.0
    assert said["stenosis_pct"] == 50.0
    assert (said["mld_px"], said["rvd_px"]) == pytest.approx((2.5, 10.0))


def test_angles_are_told_without_a_jump_at_180_degrees() -> None:
    one, other, unknown = view_numbers(
        [View(primary_deg=180, secondary_deg=0), View(primary_deg=-180, secondary_deg=0), None]
    )
    assert torch.allclose(one, other, atol=1e-6)
    assert unknown.tolist() == [0.0] * 5


def test_damaged_heads_are_refused_and_the_old_model_answers_on(base: Path, tmp_path: Path) -> None:
    short = CONFIG.model_copy(update={"steps": 1})
    folder = train_adapter(
        SAMPLES[:2], short, base=base, init_adapter=None, directory=tmp_path, augmentation=CALM
    ).folder
    teacher = load_teacher(base.parent, None, base=base)
    before = teacher.predict(teacher.embed(SAMPLES[0].frame), BOX)[0]
    state = load((folder / FILE).read_bytes())
    name = next(iter(state))
    for damage in (b"", b"broken"):
        (folder / FILE).write_bytes(damage)
        with pytest.raises(ModelError, match="not this model's heads"):
            teacher.switch(folder, "damaged")
    save_file({**state, name: torch.full_like(state[name], math.nan)}, folder / FILE,
              {"config": HeadsConfig(weight=1.0, hidden=32).model_dump_json()})  # fmt: skip
    with pytest.raises(ModelError, match="NaN"):
        teacher.switch(folder, "damaged")
    after = teacher.predict(teacher.embed(SAMPLES[0].frame), BOX)[0]
    np.testing.assert_array_equal(before.bitmap, after.bitmap)

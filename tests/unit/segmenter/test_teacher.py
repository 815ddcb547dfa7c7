import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from casebook.documents import write_document
from casebook.errors import ModelError, PromptError
from casebook.protocols import Frame, Prompt
from segmenter import adapter as adapters
from segmenter.descriptors import descriptor
from segmenter.fit import LoraConfig
from segmenter.prompts import (
    WindowConfig,
    crop,
    from_grey,
    paste,
    prompt_points,
    whole_window,
    window_of,
)
from segmenter.sam3 import REAL, SMALLEST, Sam3Config, build
from segmenter.teacher import Teacher, load_teacher
from segmenter.tiles import blended, tiles_of
from segmenter.tracking import MemoryTracker
from segmenter.weights import SIZES, base_sha256, load_base, save_base

BOX = Prompt(box_xyxy=(30.0, 40.0, 70.0, 60.0))


@pytest.fixture
def frame() -> Frame:
    rng = np.random.default_rng(0)
    return Frame(rng.integers(0, 255, (120, 150)).astype(np.uint8))


@pytest.fixture
def models(base: Path, tmp_path: Path) -> Path:
    """A registry folder with two adapters and a damaged one."""
    lora = LoraConfig(rank=2, alpha=4, dropout=0.0, targets=("vit", "mask_decoder"))
    model = load_base(base)
    for name, seed in (("one", 1), ("two", 2)):
        adapters.inject(model, lora, name)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in adapters.trainable(model).values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        adapters.save_adapter(model, name, lora, tmp_path / name, base_sha256=base_sha256(base))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / adapters.SETTINGS).write_bytes(
        (tmp_path / "one" / adapters.SETTINGS).read_bytes()
    )
    (tmp_path / "damaged" / adapters.WEIGHTS).write_bytes(b"no tensors")
    return tmp_path


def logits(teacher: Teacher, frame: Frame) -> np.ndarray:
    found = teacher.predict(teacher.embed(frame), BOX)[0].logits
    assert found is not None
    return found


def test_ten_prompts_in_one_window_run_the_encoder_once(base: Path, frame: Frame) -> None:
    teacher = load_teacher(base.parent, None, base=base)
    embedding = teacher.embed(frame)
    for shift in range(10):
        prompt = Prompt(
            points_xy=np.array([[60.0, 60.0], [61.0 + shift, 58.0]]),
            point_labels=np.array([1, shift % 2]),
        )
        teacher.predict(embedding, prompt)
    assert teacher.n_embeds == 1


def test_a_second_look_costs_one_embedding_and_is_kept_like_the_first(
    base: Path, frame: Frame
) -> None:
    whole = WindowConfig(whole_image=True)
    closely = load_teacher(base.parent, None, base=base)
    once = load_teacher(base.parent, None, base=base, windows=whole)
    zooming = load_teacher(
        base.parent, None, base=base, windows=whole.model_copy(update={"zoom": True})
    )
    for _ in range(3):
        seen = logits(zooming, frame)
    assert (once.n_embeds, zooming.n_embeds) == (0, 2)
    # What is answered is the second look's, which a teacher that looks closely takes at once;
    # where that finds nothing the first look's stays.
    second, first = logits(closely, frame), logits(once, frame)
    assert not np.array_equal(first, second)
    assert np.array_equal(seen, second if (second > 0).any() else first)


def test_an_adapter_brings_its_second_look_and_takes_it_away(
    base: Path, models: Path, frame: Frame
) -> None:
    settings = adapters.read_settings(models / "one")
    write_document(models / "one" / adapters.SETTINGS, settings.with_(zoom=True))
    teacher = load_teacher(models, None, base=base, windows=WindowConfig(whole_image=True))
    asked = [teacher.windows.zoom]
    for name in ("one", "two", "one"):
        teacher.switch(models / name, name)
        asked.append(teacher.windows.zoom)
    teacher.switch(None, "bare")
    asked.append(teacher.windows.zoom)
    assert asked == [False, True, False, True, False]


def test_the_earlier_answer_is_taken_into_account(base: Path, frame: Frame) -> None:
    teacher = load_teacher(base.parent, None, base=base)
    embedding = teacher.embed(frame)
    first = teacher.predict(embedding, BOX)[0]
    again = teacher.predict(embedding, Prompt(box_xyxy=BOX.box_xyxy, mask_logits=first.logits))[0]
    assert not np.array_equal(first.logits, again.logits)


def test_an_adapter_is_switched_while_the_teacher_answers(
    base: Path, models: Path, frame: Frame
) -> None:
    teacher = load_teacher(models, None, base=base)
    bare = logits(teacher, frame)
    teacher.switch(models / "one", "one")
    one = logits(teacher, frame)
    assert teacher.model_id == "one"
    assert not np.allclose(one, bare)
    teacher.switch(models / "two", "two")
    assert not np.allclose(logits(teacher, frame), one)
    teacher.switch(models / "one", "one")
    assert np.allclose(logits(teacher, frame), one, atol=1e-4)
    teacher.switch(None, "bare")
    assert np.allclose(logits(teacher, frame), bare, atol=1e-4)


def test_modules_trained_whole_are_the_new_adapters_after_a_switch(
    base: Path, models: Path, frame: Frame
) -> None:
    lora = LoraConfig(rank=2, alpha=4, dropout=0.0, whole=("neck", "mask_heads", "concept_neck"))
    model = load_base(base)
    for name, seed in (("first", 1), ("second", 2)):
        adapters.inject(model, lora, name)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in adapters.trainable(model).values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        adapters.save_adapter(model, name, lora, models / name)
    alone = load_teacher(models, "second", base=base)
    switched = load_teacher(models, "first", base=base)
    before = logits(switched, frame)
    switched.switch(models / "second", "second")
    assert not np.allclose(logits(switched, frame), before)
    assert np.allclose(logits(switched, frame), logits(alone, frame), atol=1e-5)


def test_the_old_adapter_stays_when_the_new_one_cannot_be_loaded(
    base: Path, models: Path, frame: Frame
) -> None:
    teacher = load_teacher(models, "one", base=base)
    before = logits(teacher, frame)
    with pytest.raises(ModelError, match="cannot be read"):
        teacher.switch(models / "damaged", "damaged")
    assert teacher.model_id == "one"
    assert np.array_equal(logits(teacher, frame), before)


def test_a_model_that_is_not_there_is_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="r07 is not in"):
        load_teacher(tmp_path, "r07", base=base)
    with pytest.raises(ModelError, match="holds no base"):
        load_teacher(tmp_path, None, base=tmp_path)


def test_a_concept_gives_scored_masks_best_first(base: Path, frame: Frame) -> None:
    teacher = Teacher(
        load_base(base),
        "t",
        windows=load_teacher(base, None, base=base).windows,
        concept_threshold=0.0,
    )
    found = teacher.predict(
        teacher.embed(frame),
        Prompt(concept="anything", exemplars_xyxy=((10.0, 10.0, 40.0, 40.0),)),
    )
    scores = [prediction.score for prediction in found]
    assert scores == sorted(scores, reverse=True)
    assert all(prediction.label == "anything" for prediction in found)
    assert all(0 <= prediction.heads["presence"] <= 1 for prediction in found)


def test_bad_prompts_are_refused(base: Path, frame: Frame) -> None:
    teacher = load_teacher(base.parent, None, base=base)
    with pytest.raises(PromptError, match="outside"):
        teacher.predict(teacher.embed(frame), Prompt(box_xyxy=(500.0, 500.0, 600.0, 600.0)))


def test_a_small_base_answers_a_concept_with_the_parts_of_its_dense_map(
    base: Path, frame: Frame
) -> None:
    model = load_base(base)
    windows = load_teacher(base, None, base=base).windows
    prompt = Prompt(concept="anything")
    strict = Teacher(model, "t", windows=windows, concept_threshold=1.1)
    assert strict.predict(strict.embed(frame), prompt) == ()
    dense = Teacher(model, "t", windows=windows, concept_threshold=1.1, dense=True)
    found = dense.predict(dense.embed(frame), prompt)
    together = np.sum([part.bitmap for part in found], axis=0)
    assert together.max() <= 1
    for part in found:
        assert part.logits is not None
        assert np.array_equal(part.logits > 0, part.bitmap)
        assert part.score > 0.5
    assert [part.score for part in found] == sorted((p.score for p in found), reverse=True)


def test_a_model_of_the_released_kind_sees_grey_from_minus_one_to_one(frame: Frame) -> None:
    torch.manual_seed(0)
    model = build(SMALLEST.model_copy(update={"standardised": False}), matching=False)
    seen: list[torch.Tensor] = []
    trunk = model.image.backbone.vision_backbone.trunk
    trunk.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    teacher = Teacher(model, "real", windows=WindowConfig(whole_image=True))
    black = np.zeros_like(frame.pixels)
    for pixels in (black, black + 255):
        shown = Frame(pixels)
        teacher.predict(teacher.embed(shown), BOX)
        teacher.predict(teacher.embed(shown), Prompt(concept="bar"))
        MemoryTracker(teacher).start(shown, np.ones(shown.hw, dtype=bool))
        descriptor(teacher, shown, whole_window(shown.hw))
    assert [float(given.unique()) for given in seen] == [-1.0] * 4 + [1.0] * 4


CLICK = Prompt(points_xy=np.array([[60.0, 60.0]]), point_labels=np.array([1]))


@pytest.fixture
def doubting(tmp_path: Path) -> Path:
    """A base that answers one click by the best of three masks."""
    torch.manual_seed(3)
    save_base(build(SMALLEST.model_copy(update={"multimask": True})), tmp_path / "doubting")
    return tmp_path / "doubting"


def test_a_base_trained_for_it_answers_one_click_by_the_best_of_three_masks(
    doubting: Path, frame: Frame
) -> None:
    teacher = load_teacher(doubting.parent, None, base=doubting)
    embedding = teacher.embed(frame)
    (found,) = teacher.predict(embedding, CLICK)
    window = window_of(CLICK, frame.hw, teacher.windows)
    points, kinds = prompt_points(CLICK, window, SMALLEST.side_px)
    asked = torch.from_numpy(points)[None].float(), torch.from_numpy(kinds)[None]
    with torch.inference_mode():
        masks, quality = teacher.model.candidates(teacher.features(frame, window), *asked)
    expected = [paste(mask, window, frame.hw) for mask in masks[0]]
    best = 1 + int(quality[0, 1:].argmax())
    assert found.logits is not None
    assert np.allclose(found.logits, expected[best], atol=1e-4)
    assert not np.allclose(found.logits, expected[0], atol=1e-3)
    assert found.score == pytest.approx(float(quality[0, best].clamp(0, 1)), abs=1e-5)


@pytest.mark.parametrize("kind", ["box", "two clicks", "an earlier answer"])
def test_a_prompt_that_leaves_no_doubt_is_answered_by_the_single_mask(
    doubting: Path, frame: Frame, kind: str
) -> None:
    sizes = doubting / SIZES
    teacher = load_teacher(doubting.parent, None, base=doubting)
    said = sizes.read_text()
    sizes.write_text(said.replace('"multimask": true', '"multimask": false'))
    plain = load_teacher(doubting.parent, None, base=doubting)
    (first,) = plain.predict(plain.embed(frame), CLICK)
    prompt = {
        "box": BOX,
        "two clicks": Prompt(
            points_xy=np.array([[60.0, 60.0], [70.0, 60.0]]), point_labels=np.array([1, 0])
        ),
        "an earlier answer": replace(CLICK, mask_logits=first.logits),
    }[kind]
    found, single = (one.predict(one.embed(frame), prompt)[0] for one in (teacher, plain))
    assert np.array_equal(found.logits, single.logits)
    assert found.score == single.score


def test_an_adapter_says_whether_one_click_has_three_masks(
    base: Path, models: Path, frame: Frame
) -> None:
    settings = adapters.read_settings(models / "one")
    write_document(models / "one" / adapters.SETTINGS, settings.with_(multimask=True))
    teacher = load_teacher(models, None, base=base)

    def clicked() -> np.ndarray:
        found = teacher.predict(teacher.embed(frame), CLICK)[0].logits
        assert found is not None
        return found

    bare = clicked()
    teacher.switch(models / "one", "one")
    several = clicked()
    write_document(models / "one" / adapters.SETTINGS, settings)
    teacher.switch(None, "bare")
    assert np.allclose(clicked(), bare, atol=1e-4)
    teacher.switch(models / "one", "one, as before there were three")
    assert not np.allclose(clicked(), several, atol=1e-3)


def test_the_sizes_of_an_older_base_mean_one_mask(base: Path) -> None:
    older = json.loads((base / SIZES).read_text())
    del older["multimask"]
    assert Sam3Config.model_validate(older) == SMALLEST
    assert not SMALLEST.multimask
    assert REAL.multimask


def test_in_tiles_a_concept_is_looked_for_in_every_part_of_the_frame(
    base: Path, frame: Frame
) -> None:
    windows = WindowConfig(tile=0.5)
    teacher = Teacher(load_base(base), "t", windows=windows)
    found = teacher.predict(teacher.embed(frame), Prompt(concept="anything"))
    tiles = tiles_of(frame.hw, 0.5)
    model = teacher.model
    with torch.inference_mode():
        alone = []
        for tile in tiles:
            pixels = from_grey(crop(frame.pixels, tile, SMALLEST.side_px)[None])
            zero = torch.zeros(1, dtype=torch.long)
            vision = model.concept_features(model.trunk(pixels))
            out = model.ground(vision, model.text_features(["anything"]), zero, zero)
            alone.append(out["semantic_seg"][0, 0])
    expected = blended(torch.stack(alone), tiles, frame.hw) > 0
    together = np.zeros(frame.hw, dtype=bool)
    for part in found:
        assert part.label == "anything"
        assert 0.5 < part.score <= 1
        together |= part.bitmap
    assert 0 < expected.sum() < expected.size
    assert not (together & ~expected).any()
    # Specks are left out: what is missing is little.
    assert (expected & ~together).sum() < 0.5 * expected.sum()


def test_the_tiles_of_a_frame_are_seen_once_whatever_is_asked(base: Path, frame: Frame) -> None:
    teacher = Teacher(load_base(base), "t", windows=WindowConfig(tile=0.5))
    seen: list[int] = []
    trunk = teacher.model.image.backbone.vision_backbone.trunk
    trunk.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    embedding = teacher.embed(frame)
    for name in ("one", "another", "one"):
        teacher.predict(embedding, Prompt(concept=name))
    assert seen == [len(tiles_of(frame.hw, 0.5))]
    boxes = ((10.0, 10.0, 40.0, 40.0),)
    teacher.predict(embedding, Prompt(concept="one", exemplars_xyxy=boxes))
    assert seen[1:] == [1]  # an example's box means nothing in another tile


def test_a_base_says_in_which_tiles_concepts_are_looked_for(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_base(build(SMALLEST.model_copy(update={"tile": 0.4})), tmp_path / "tiled")
    assert load_teacher(tmp_path, None, base=tmp_path / "tiled").windows.tile == 0.4


def test_boxes_and_names_of_an_image_are_computed_together(base: Path, frame: Frame) -> None:
    teacher = Teacher(load_base(base), "t", windows=WindowConfig())
    model, runs = teacher.model, dict.fromkeys(("trunk", "decoder", "text", "detector"), 0)
    parts = {
        "trunk": model.image.backbone.vision_backbone.trunk,
        "decoder": model.tracker.sam_mask_decoder,
        "text": model.image.backbone.language_backbone,
        "detector": model.image.segmentation_head,
    }

    def counted(name: str) -> None:
        runs[name] += 1

    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: counted(name))
    boxes = [Prompt(box_xyxy=(x, 10.0, x + 60.0, 80.0)) for x in (0.0, 30.0, 60.0, 80.0)]
    names = [Prompt(concept=name) for name in ("one", "two", "three")]
    embedding = teacher.embed(frame)
    teacher.predict_all(embedding, [*boxes, *names])
    assert runs == {"trunk": 2, "decoder": 1, "text": 3, "detector": 1}
    assert teacher.n_embeds == 4
    teacher.predict_all(embedding, [*reversed(boxes), *names])
    assert runs == {"trunk": 2, "decoder": 2, "text": 3, "detector": 2}
    assert teacher.n_embeds == 4


def test_another_adapter_reads_and_sees_anew(base: Path, models: Path, frame: Frame) -> None:
    teacher = load_teacher(models, None, base=base)
    read: list[object] = []
    teacher.model.image.backbone.language_backbone.register_forward_hook(
        lambda *given: read.append(given)
    )
    for name in (None, "one", "one"):
        teacher.switch(None if name is None else models / name, name or "base")
        teacher.predict(teacher.embed(frame), Prompt(concept="something"))
    assert len(read) == 2

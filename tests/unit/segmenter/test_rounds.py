from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from casebook.cases import View
from casebook.errors import ConfigError, DataError, ModelError, TrainingError
from casebook.protocols import Frame, Prompt
from segmenter import adapter as adapters
from segmenter.fit import LoraConfig, Progress, TrainConfig
from segmenter.prompts import WindowConfig
from segmenter.rounds import train_adapter
from segmenter.sam3 import SMALLEST, build
from segmenter.samples import Augmentation, RoundData, Sample, TrainMask
from segmenter.teacher import load_teacher
from segmenter.views import FILE
from segmenter.weights import load_base, save_base

CONFIG = TrainConfig(
    steps=6,
    lr=2e-3,
    batch=2,
    seed=1,
    log_every=1,
    checkpoint_every=2,
    concept_every=3,
    lora=LoraConfig(rank=2, alpha=4, whole=("neck", "mask_heads")),
)
CALM = Augmentation(rotation_deg=0, scale=0, shift=0, contrast=0, gamma=0, noise=0)


def sample(seed: int, weight: float = 1.0) -> Sample:
    """A dark bar on noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(120, 200, (96, 96)).astype(np.uint8)
    bitmap = np.zeros((96, 96), dtype=bool)
    top = 20 + 8 * seed % 50
    bitmap[top : top + 8, 20:70] = True
    pixels[bitmap] = 40
    tree = np.zeros_like(bitmap)
    tree[top : top + 8] = True
    return Sample(
        Frame(pixels),
        (
            TrainMask("lesion", bitmap, weight),
            TrainMask("everything", tree, prompted=False),
        ),
        absent=("other",),
    )


SAMPLES = [sample(seed) for seed in range(4)]


def data(config: TrainConfig = CONFIG, augmentation: Augmentation = CALM) -> RoundData:
    return RoundData(SAMPLES, config, WindowConfig(), augmentation, 64, 4)


def test_an_unaugmented_crop_shows_the_object_where_its_mask_is() -> None:
    batch = data().batch(0)
    assert batch.truth is not None
    assert batch.pixels.shape == (2, 3, 64, 64)
    for pixels, truth in zip(batch.pixels, batch.truth, strict=True):
        assert truth.any()
        assert pixels[0][truth].mean() < pixels[0][~truth].mean() - 1
        ys, xs = torch.nonzero(truth, as_tuple=True)
        # The window is laid around the box, moved where it would leave the image.
        assert abs(float(xs.float().mean()) - 32) < 8
        assert abs(float(ys.float().mean()) - 32) < 20


def test_a_batch_depends_on_its_step_alone() -> None:
    one, other = data(augmentation=Augmentation()), data(augmentation=Augmentation())
    assert torch.equal(one.batch(4).pixels, other.batch(4).pixels)
    assert not torch.equal(one.batch(4).pixels, one.batch(3).pixels)


def test_every_mask_is_seen_once_in_an_epoch() -> None:
    held = data()
    interactive = [step for step in range(3) if not held.is_concept(step)]
    assert len(interactive) == 2
    seen = torch.cat([held.batch(step).pixels for step in interactive])
    assert len({tuple(picture.flatten().tolist()) for picture in seen}) == held.n_masks == 4


def test_concept_steps_ask_for_what_is_there_and_for_what_is_not() -> None:
    held = data()
    words: dict[str, set[int]] = {}
    for step in range(2, 60, 3):
        assert held.is_concept(step)
        for query in held.batch(step).queries:
            words.setdefault(query.concept, set()).add(len(query.instances))
    assert words == {"lesion": {1}, "everything": {1}, "other": {0}}


def test_with_a_second_look_each_mask_is_learnt_in_both_windows(base: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"zoom": True, "steps": 2})
    small = sample(1)
    corner = np.zeros_like(small.masks[0].bitmap)
    corner[10:16, 10:30] = True
    asked = Sample(small.frame, (TrainMask("lesion", corner),), absent=("other",))
    both = WindowConfig(whole_image=True, zoom=True)
    held = RoundData([asked], config, both, CALM, 64, 4)
    batch = held.batch(0)
    assert held.n_masks == 1
    assert batch.truth is not None
    near, far = sorted((int(truth.sum()) for truth in batch.truth), reverse=True)
    assert near > 3 * far > 0
    result = train_adapter([asked], config, base=base, init_adapter=None, directory=tmp_path)
    assert adapters.read_settings(result.folder).zoom


def test_with_the_view_in_the_text_concepts_are_learnt_and_asked_for_so(
    base: Path, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"view_in_text": True, "steps": 3})
    view = View(primary_deg=-30, secondary_deg=20)
    seen = [replace(one, frame=replace(one.frame, view=view)) for one in SAMPLES[:2]]
    held = RoundData([*seen, SAMPLES[2]], config, WindowConfig(), CALM, 64, 4)
    asked = {query.concept for step in range(2, 60, 3) for query in held.batch(step).queries}
    told = ", RAO 30 cranial 20"
    assert {f"lesion{told}", f"other{told}", "lesion", "other"} <= asked
    result = train_adapter(seen, config, base=base, init_adapter=None, directory=tmp_path / "one")
    assert adapters.read_settings(result.folder).view_in_text
    teacher = load_teacher(tmp_path / "one", None, base=base)
    prompt = Prompt(concept="lesion", exemplars_xyxy=((20.0, 20.0, 60.0, 40.0),))

    def answers(frame: Frame, concept: str) -> list[bytes]:
        asked_for = replace(prompt, concept=concept)
        found = teacher.predict(teacher.embed(frame), asked_for)
        return [one.logits.tobytes() for one in found if one.logits is not None]

    teacher.switch(result.folder, "adapter")
    plain = replace(seen[0].frame, view=None)
    assert answers(seen[0].frame, "lesion") == answers(plain, f"lesion{told}")
    teacher.switch(None, "base")
    assert answers(seen[0].frame, "lesion") == answers(plain, "lesion")


def test_nothing_to_train_on_is_said() -> None:
    empty = Sample(SAMPLES[0].frame, ())
    with pytest.raises(DataError, match="no mask to train on"):
        RoundData([empty], CONFIG, WindowConfig(), CALM, 64, 4)


def test_a_round_writes_an_adapter_and_the_next_continues_from_it(
    base: Path, tmp_path: Path
) -> None:
    reports: list[Progress] = []
    first = train_adapter(
        SAMPLES,
        CONFIG,
        base=base,
        init_adapter=None,
        directory=tmp_path / "1",
        progress=reports.append,
    )
    assert [report.step for report in reports] == [1, 2, 3, 4, 5, 6]
    assert {"mask", "iou", "concept"} <= {name for r in reports for name in r.figures}
    assert 0 < first.n_trainable < first.n_params
    assert (first.n_frames, first.n_masks) == (4, 4)
    settings = adapters.read_settings(first.folder)
    assert settings.base_sha256 == first.base_sha256
    second = train_adapter(
        SAMPLES,
        CONFIG.model_copy(update={"lr": 1e-9}),
        base=base,
        init_adapter=first.folder,
        directory=tmp_path / "2",
    )
    one, other = (load_file(r.folder / adapters.WEIGHTS) for r in (first, second))
    assert one.keys() == other.keys()
    # At next to no learning rate the second round is the first's adapter still.
    assert all(torch.allclose(one[key], other[key], atol=1e-5) for key in one)


def test_an_interrupted_round_ends_with_the_same_adapter(base: Path, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 5:
            raise KeyboardInterrupt

    whole = train_adapter(
        SAMPLES, CONFIG, base=base, init_adapter=None, directory=tmp_path / "whole"
    )
    with pytest.raises(KeyboardInterrupt):
        train_adapter(
            SAMPLES,
            CONFIG,
            base=base,
            init_adapter=None,
            directory=tmp_path / "cut",
            progress=stop,
        )
    resumed = train_adapter(
        SAMPLES, CONFIG, base=base, init_adapter=None, directory=tmp_path / "cut"
    )
    assert resumed.fit.resumed_from == 4
    one, other = (load_file(r.folder / adapters.WEIGHTS) for r in (whole, resumed))
    assert max(float((one[key] - other[key]).abs().max()) for key in one) == 0.0


def test_a_target_no_path_trains_is_refused(base: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"concept_every": 0})
    with pytest.raises(TrainingError, match="get no gradient"):
        train_adapter(SAMPLES, config, base=base, init_adapter=None, directory=tmp_path)


def test_what_views_add_is_learnt_kept_beside_the_adapter_and_gone_with_it(
    base: Path, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"view_embedding": True, "concept_every": 1, "steps": 4})
    config = config.model_copy(update={"lora": LoraConfig(rank=2, alpha=4, targets=("detector",))})
    views = (View(primary_deg=-30, secondary_deg=20), View(primary_deg=40, secondary_deg=0))
    seen = [
        replace(one, frame=replace(one.frame, view=view))
        for one, view in zip(SAMPLES, views, strict=False)
    ]
    first = train_adapter(seen, config, base=base, init_adapter=None, directory=tmp_path / "one")
    assert (first.folder / FILE).is_file()
    teacher = load_teacher(tmp_path / "one", None, base=base)
    frame = seen[0].frame

    def heat(view: View | None) -> np.ndarray:
        asked = Prompt(concept="lesion", exemplars_xyxy=((20.0, 20.0, 60.0, 40.0),), view=view)
        found = teacher.predict(teacher.embed(replace(frame, view=None)), asked)
        logits = [one.logits for one in found if one.logits is not None]
        assert len(logits) == len(found) > 0
        return np.stack(logits).max(axis=0)

    assert np.array_equal(heat(views[0]), heat(views[1]))  # the base knows nothing of views
    teacher.switch(first.folder, "one")
    state = load_file(first.folder / FILE)
    assert state["join.weight"].abs().max() > 0
    save_file({name: 1e3 * value for name, value in state.items()}, first.folder / FILE)
    teacher.switch(None, "base")
    teacher.switch(first.folder, "louder")
    assert not np.array_equal(heat(views[0]), heat(views[1]))
    teacher.switch(None, "base")
    assert np.array_equal(heat(views[0]), heat(views[1]))
    (first.folder / FILE).write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="not this model's"):
        teacher.switch(first.folder, "damaged")


def test_the_next_round_goes_on_with_what_views_add(base: Path, tmp_path: Path) -> None:
    lora = LoraConfig(rank=2, alpha=4, targets=("detector",))
    config = CONFIG.model_copy(
        update={"view_embedding": True, "concept_every": 1, "steps": 1, "lr": 1e-9, "lora": lora}
    )
    seen = [
        replace(
            SAMPLES[0], frame=replace(SAMPLES[0].frame, view=View(primary_deg=10, secondary_deg=20))
        )
    ]
    first = train_adapter(seen, config, base=base, init_adapter=None, directory=tmp_path / "one")
    kept = {"join.weight": torch.full((SMALLEST.width, 5), 0.25)}
    save_file(kept, first.folder / FILE)
    after = train_adapter(
        seen, config, base=base, init_adapter=first.folder, directory=tmp_path / "two"
    )
    assert torch.allclose(load_file(after.folder / FILE)["join.weight"], kept["join.weight"])


def test_a_model_of_the_released_kind_learns_from_grey_between_minus_one_and_one() -> None:
    held = RoundData(SAMPLES, CONFIG, WindowConfig(), CALM, 64, 4, standardised=False)
    for step in (0, 2):
        pixels = held.batch(step).pixels
        assert held.is_concept(step) == (step == 2)
        assert -1 <= float(pixels.min()) < float(pixels.max()) <= 1
        # The bar is grey 40: three fifths of the way to black.
        assert float(pixels.min()) == pytest.approx(40 / 127.5 - 1, abs=0.02)


def test_a_round_on_a_base_that_doubts_teaches_the_three_masks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = tmp_path / "doubting"
    save_base(build(SMALLEST.model_copy(update={"multimask": True})), folder)
    lora = LoraConfig(rank=2, alpha=4, whole=("neck", "mask_heads", "multimask_heads"))
    config = CONFIG.model_copy(update={"steps": 2, "lora": lora})
    made = train_adapter(SAMPLES, config, base=folder, init_adapter=None, directory=tmp_path)
    assert adapters.read_settings(made.folder).multimask
    assert any("hypernetworks_mlps.2" in key for key in load_file(made.folder / adapters.WEIGHTS))


def test_three_masks_can_be_learnt_on_a_base_that_has_one(base: Path, tmp_path: Path) -> None:
    lora = LoraConfig(rank=2, alpha=4, whole=("neck", "mask_heads", "multimask_heads"))
    config = CONFIG.model_copy(update={"steps": 2, "lora": lora})
    with pytest.raises(ConfigError, match=r"set train\.multimask"):
        train_adapter(SAMPLES, config, base=base, init_adapter=None, directory=tmp_path / "one")
    asked = config.model_copy(update={"multimask": True})
    made = train_adapter(SAMPLES, asked, base=base, init_adapter=None, directory=tmp_path / "three")
    assert adapters.read_settings(made.folder).multimask
    plain = config.model_copy(update={"lora": CONFIG.lora})
    made = train_adapter(SAMPLES, plain, base=base, init_adapter=None, directory=tmp_path / "as")
    assert not adapters.read_settings(made.folder).multimask


TILED = WindowConfig(tile=0.5)


def test_in_tiles_concepts_are_learnt_in_parts_of_frames_as_fine_as_they_are_asked_in() -> None:
    held = RoundData(SAMPLES, CONFIG, TILED, CALM, 64, 4)
    whole = data()
    fine, coarse, none_there = [], [], 0
    for step in range(2, 60, 3):
        batch = held.batch(step)
        assert batch.pixels.shape[1:] == (3, 64, 64)
        for query in batch.queries:
            pixels = batch.pixels[query.image_index, 0]
            none_there += query.concept != "other" and len(query.instances) == 0
            for instance in query.instances:
                if instance.sum() > 40:
                    assert pixels[instance].mean() < pixels[~instance].mean() - 1
            if query.concept == "everything" and len(query.instances):
                fine.append(float(query.instances[0].any(dim=1).sum()))
        for query in whole.batch(step).queries:
            if query.concept == "everything":
                coarse.append(float(query.instances[0].any(dim=1).sum()))
    assert max(fine) == pytest.approx(2 * max(coarse), abs=2)
    assert none_there > 0  # what lies elsewhere in the frame is asked for in vain


def test_in_tiles_a_batch_depends_on_its_step_alone() -> None:
    one, other = (RoundData(SAMPLES, CONFIG, TILED, Augmentation(), 64, 4) for _ in range(2))
    assert torch.equal(one.batch(5).pixels, other.batch(5).pixels)
    asked = [[query.concept for query in held.batch(5).queries] for held in (one, other)]
    assert asked[0] == asked[1]


def test_an_adapter_looks_in_the_tiles_it_was_trained_in(base: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"tile": 0.5, "steps": 3})
    made = train_adapter(SAMPLES, config, base=base, init_adapter=None, directory=tmp_path / "t")
    assert adapters.read_settings(made.folder).tile == 0.5
    plain = CONFIG.model_copy(update={"steps": 3})
    other = train_adapter(SAMPLES, plain, base=base, init_adapter=None, directory=tmp_path / "p")
    teacher = load_teacher(tmp_path, None, base=base)
    said = [teacher.windows.tile]
    for folder in (made.folder, other.folder, made.folder, None):
        teacher.switch(folder, "other" if folder == other.folder else "made")
        said.append(teacher.windows.tile)
    assert said == [None, 0.5, None, 0.5, None]


def test_words_are_learnt_and_where_they_meet_the_picture(base: Path, tmp_path: Path) -> None:
    lora = LoraConfig(
        rank=2, targets=("detector", "text"), whole=("concept_neck", "concept_heads", "fusion")
    )
    config = CONFIG.model_copy(update={"steps": 2, "concept_every": 1, "lora": lora})
    result = train_adapter(SAMPLES, config, base=base, init_adapter=None, directory=tmp_path)
    taught, before = load_file(result.folder / adapters.WEIGHTS), load_base(base).state_dict()
    words = [name for name in taught if "language_backbone.encoder" in name and "lora_B" in name]
    assert words
    assert all(taught[name].abs().max() > 0 for name in words)
    meeting = [name for name in taught if "encoder.layers.0.cross_attn_image" in name]
    # The tracker has layers of the same names, which no name is asked of.
    assert meeting
    assert all(name.startswith("image.transformer") for name in meeting)
    assert any(not torch.equal(taught[name], before[name]) for name in meeting)
    teacher = load_teacher(base.parent, None, base=base)
    teacher.switch(result.folder, "taught")
    assert teacher.model_id == "taught"


@pytest.mark.parametrize("tile", [None, 0.5], ids=["whole", "tiles"])
def test_a_name_asks_for_all_it_means_and_never_for_a_part(tile: float | None) -> None:
    part, *others = SAMPLES[0].masks
    unnamed = replace(SAMPLES[0], masks=(replace(part, named=False), *others))
    empty = np.zeros((96, 96), dtype=bool)
    nothing = replace(SAMPLES[1], masks=(TrainMask("lesion", empty),))
    config = CONFIG.model_copy(update={"concept_every": 1})
    windows = WindowConfig(tile=tile)
    held = RoundData((unnamed, nothing), config, windows, CALM, 64, 4)
    asked = {query.concept for step in range(12) for query in held.batch(step).queries}
    assert asked == {"everything", "other"}
    boxes = CONFIG.model_copy(update={"concept_every": 0})
    assert RoundData((unnamed, nothing), boxes, windows, CALM, 64, 4).n_masks == 1

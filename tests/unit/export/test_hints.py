"""The teacher's embedding as hints: where it lies, what it teaches, and that none of it ships."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from casebook.catalogue import Catalogue
from casebook.errors import ConfigError
from casebook.protocols import Frame, Prompt
from export.distil import version_of
from export.exercises import Exercises, lesson_of, prepare, read_exercises
from export.hints import Hint, Projection, at_cells, hint_loss, hint_of, standardised
from export.settings import DistilConfig, LessonWeights
from export.student import Student
from export.syllabus import read_syllabus
from export.training import start_student, train_student, without_teacher
from export.variation import Variation, places
from export.windows import Window
from segmenter.fit import Progress, TrainConfig
from segmenter.interactive import PromptMix
from segmenter.prompts import WindowConfig, window_of
from segmenter.sam3 import SMALLEST, build
from segmenter.teacher import Teacher
from tests.unit.export.workshop import LABELS, SMALL, draw_tube, make_home, small_config

STILL = Variation(rotation_deg=0, scale=0, shift=0, contrast=0, noise=0)


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    """A SAM 3 of the smallest size; what it sees is real, though nobody has taught it."""
    torch.manual_seed(0)
    return Teacher(build(SMALLEST), "small", windows=WindowConfig())


def _config(weight: float = 1.0, **changes: object) -> DistilConfig:
    weights = LessonWeights(features=weight, teacher_whole=0)
    return small_config(**{"weights": weights, "whole_every": 0, **changes})


def _exercises(root: Path, teacher: Teacher, config: DistilConfig) -> Exercises:
    home, _ = make_home(root, n_train=2, n_val=1)
    syllabus = read_syllabus(home, neighbours=1, unannotated=0)
    return prepare(
        root / "exercises.safetensors",
        syllabus.pages,
        Catalogue(home),
        teacher,
        LABELS,
        config,
        lambda _share: None,
    )


def test_a_hint_is_the_embedding_where_the_square_lies(teacher: Teacher) -> None:
    frame = Frame(draw_tube(0).pixels)
    prompt = Prompt(box_xyxy=(50.0, 50.0, 108.0, 108.0))
    asked = window_of(prompt, frame.hw, teacher.windows)
    embedding = teacher.features(frame, asked).embedding[0].numpy()
    cells = embedding.shape[-1]
    same = hint_of(teacher, frame, prompt, Window(asked.x, asked.y, asked.size_px), cells)
    assert same.is_seen.all()
    assert np.allclose(same.values, embedding, atol=2e-3, rtol=2e-3)
    step, rest = divmod(asked.size_px, cells)
    assert rest == 0
    moved = hint_of(teacher, frame, prompt, Window(asked.x + step, asked.y, asked.size_px), cells)
    assert np.allclose(moved.values[:, :, :-1], embedding[:, :, 1:], atol=2e-2)
    assert moved.is_seen[:, :-1].all()
    assert not moved.is_seen[:, -1].any()
    lower = hint_of(teacher, frame, prompt, Window(asked.x, asked.y + step, asked.size_px), cells)
    assert np.allclose(lower.values[:, :-1], embedding[:, 1:], atol=2e-2)
    assert not lower.is_seen[-1].any()


def test_channels_are_brought_to_mean_0_and_deviation_1_where_they_were_seen() -> None:
    rng = np.random.default_rng(0)
    is_seen = rng.random((5, 4, 4)) < 0.7
    values = rng.normal(3.0, (0.1, 20.0), (5, 4, 4, 2)).transpose(0, 3, 1, 2)
    values[:, 1][~is_seen] = 900.0
    found, seen = standardised(
        [Hint(one.astype(np.float16), shown) for one, shown in zip(values, is_seen, strict=True)]
    )
    assert np.array_equal(seen, is_seen)
    for channel in range(2):
        shown = found[:, channel].astype(np.float64)[is_seen]
        assert shown.mean() == pytest.approx(0, abs=2e-2)
        assert shown.std() == pytest.approx(1, abs=2e-2)
    assert np.abs(found).max() <= 6.0


def test_the_places_of_cells_are_the_middles_of_their_pixels() -> None:
    grid = places(1, 32, 1.0, STILL, torch.Generator().manual_seed(0))
    cells = at_cells(grid)
    assert cells.shape == (1, 4, 4, 2)
    wanted = torch.tensor([-0.75, -0.25, 0.25, 0.75])
    assert torch.allclose(cells[0, 0, :, 0], wanted, atol=1e-6)
    assert torch.allclose(cells[0, :, 0, 1], wanted, atol=1e-6)


def test_hints_are_kept_with_the_exercises_and_cost_no_second_embedding(
    teacher: Teacher, tmp_path: Path
) -> None:
    before = teacher.n_embeds
    without = _exercises(tmp_path / "without", teacher, _config(0.0))
    plain = teacher.n_embeds - before
    made = _exercises(tmp_path / "with", teacher, _config())
    # The frames are the same ones, so that nothing at all is embedded again.
    assert (plain, teacher.n_embeds - before) == (4, 4)
    assert without.hints is None
    assert lesson_of(without, 0, _config(0.0)).prompts is not None
    assert made.hints is not None
    assert made.hints.shape[:2] == (4, SMALLEST.width)
    kept = read_exercises(tmp_path / "with" / "exercises.safetensors")
    assert kept.hints is not None
    assert np.array_equal(kept.hints, made.hints)
    alone = without_teacher(made)
    assert alone is not None
    assert alone.hints is None


def test_the_hint_of_a_lesson_lies_where_its_square_does(teacher: Teacher, tmp_path: Path) -> None:
    config = _config(vary=STILL)
    made = _exercises(tmp_path, teacher, config)
    lesson = lesson_of(made, 0, config).prompts
    assert lesson is not None
    assert lesson.hints is not None
    assert lesson.hinted is not None
    assert made.hints is not None
    assert lesson.hints.shape[-1] == SMALL.side_px // 8
    # The kept square is half as large again: its middle third of cells is what a lesson shows.
    sizes = {one.shape[-1] for one in (made.hints, made.hinted) if one is not None}
    assert sizes == {12}
    kept = torch.from_numpy(made.hints[:, :, 2:-2, 2:-2]).float()
    known = [any(torch.allclose(one, other, atol=1e-2) for other in kept) for one in lesson.hints]
    assert all(known)
    assert float(lesson.hinted.mean()) > 0.5


def test_a_model_that_shows_no_embedding_is_refused_before_it_is_asked(tmp_path: Path) -> None:
    home, rememberer = make_home(tmp_path, n_train=1, n_val=1)
    syllabus = read_syllabus(home, neighbours=0, unannotated=0)
    with pytest.raises(ConfigError, match=r"rememberer is no SAM 3.*Set weights\.features to 0"):
        prepare(
            tmp_path / "e.safetensors",
            syllabus.pages,
            Catalogue(home),
            rememberer,
            LABELS,
            _config(),
            lambda _share: None,
        )
    assert rememberer.asked == 0


def test_the_loss_counts_direction_alone_and_only_where_the_teacher_saw() -> None:
    wanted = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    share = torch.ones(2, 4, 4)
    assert float(hint_loss(3 * wanted, wanted, share)) == pytest.approx(0, abs=1e-5)
    assert float(hint_loss(-wanted, wanted, share)) == pytest.approx(2, abs=1e-5)
    told = wanted.clone()
    told[:, :, 0] *= -1
    share[:, 0] = 0
    assert float(hint_loss(told, wanted, share)) == pytest.approx(0, abs=1e-5)
    assert float(hint_loss(told, wanted, torch.zeros(2, 4, 4))) == 0.0


def test_the_encoder_comes_to_imitate_what_the_teacher_saw(
    teacher: Teacher, tmp_path: Path
) -> None:
    train = TrainConfig(steps=16, batch=4, lr=1e-2, checkpoint_every=16, log_every=4)
    mix = PromptMix(box=1, box_and_click=0, click=0, corrections=0)
    config = _config(train=train, vary=STILL, mix=mix)
    made = _exercises(tmp_path, teacher, config)
    told: list[float] = []
    student = start_student(config, LABELS)
    train_student(
        student, made, config, tmp_path / "run", lambda at: told.append(at.figures["unlike"])
    )
    assert told[-1] < 0.7 * told[0]


def test_a_killed_training_with_hints_ends_with_the_same_weights(
    teacher: Teacher, tmp_path: Path
) -> None:
    config = _config(train=TrainConfig(steps=4, batch=2, lr=1e-3, checkpoint_every=2, log_every=1))
    made = _exercises(tmp_path, teacher, config)

    class KilledError(RuntimeError):
        pass

    def kill(progress: Progress) -> None:
        if progress.step == 3:
            raise KilledError

    straight, killed, resumed = (start_student(config, LABELS) for _ in range(3))
    train_student(straight, made, config, tmp_path / "straight", lambda _progress: None)
    with pytest.raises(KilledError):
        train_student(killed, made, config, tmp_path / "killed", kill)
    again = train_student(resumed, made, config, tmp_path / "killed", lambda _progress: None)
    assert again.resumed_from == 2
    wanted = straight.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in resumed.state_dict().items())
    one, two = (Projection(SMALL, 8, 5).state_dict() for _ in range(2))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_hints_change_the_student_and_add_nothing_to_it(teacher: Teacher, tmp_path: Path) -> None:
    config, plain = _config(), _config(0.0)
    made = _exercises(tmp_path, teacher, config)
    taught, other = start_student(config, LABELS), start_student(plain, LABELS)
    train_student(taught, made, config, tmp_path / "taught", lambda _progress: None)
    alone = dataclasses.replace(made, hints=None, hinted=None)
    train_student(other, alone, plain, tmp_path / "plain", lambda _progress: None)
    assert set(taught.state_dict()) == set(Student(SMALL).state_dict())
    assert not torch.equal(taught.encoder.stem.weight, other.encoder.stem.weight)


def test_a_version_with_hints_is_another_one(tmp_path: Path) -> None:
    home, _ = make_home(tmp_path, n_train=1, n_val=1)
    syllabus = read_syllabus(home, neighbours=0, unannotated=0)
    plain = small_config(weights=LessonWeights(features=0))
    assert version_of("small", syllabus, plain) == version_of("small", syllabus, small_config())
    hinted = small_config(weights=LessonWeights(features=0.5))
    assert version_of("small", syllabus, hinted) != version_of("small", syllabus, plain)

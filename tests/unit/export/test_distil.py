import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from casebook.catalogue import Catalogue
from casebook.errors import ConfigError, ModelError, StateError
from casebook.home import Home
from casebook.protocols import Frame, Prompt
from casebook.registry import Registry
from export.bundle import read_bundle
from export.comparison import box_scores
from export.distil import release, run, teach, version_of
from export.exercises import Exercises, lesson_of, map_labels, prepare
from export.parity import TorchGraphs, compare
from export.release import Teaching, as_segmenter, automatic_maps, calibrated
from export.runtime import load_graphs, load_student
from export.settings import StudentGate, read_distil_config
from export.student import Student
from export.student_base import FILE, read_student
from export.syllabus import read_syllabus
from export.training import start_student, torch_threads, train_student, untaught, without_teacher
from segmenter.fit import Progress
from tests.unit.export.conftest import Workshop
from tests.unit.export.workshop import LABELS, SMALL, draw_tube, make_home, small_config, unchecked


def test_the_syllabus_has_expert_frames_and_their_neighbours_but_no_frozen_one(
    workshop: Workshop,
) -> None:
    syllabus = read_syllabus(workshop.home, neighbours=1, unannotated=0)
    assert [page.ref.case_id for page in syllabus.pages if page.drawn] == [
        "case0",
        "case1",
        "case2",
        "case3",
    ]
    only_boxes = [page for page in syllabus.pages if not page.drawn]
    assert {(page.ref.case_id, page.ref.frame) for page in only_boxes} == {
        (f"case{number}", 1) for number in range(4)
    }
    assert {page.ref.case_id for page in syllabus.val} == {"case4", "case5"}


def test_rejected_frames_teach_nothing(workshop: Workshop) -> None:
    syllabus = read_syllabus(workshop.home, neighbours=0, unannotated=0)
    assert all(page.ref.frame == 0 for page in syllabus.pages)


def test_a_workspace_without_rounds_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="make train ROUND=1"):
        read_syllabus(Home(tmp_path), neighbours=0, unannotated=0)


def test_distilling_without_a_promoted_teacher_says_what_to_run(tmp_path: Path) -> None:
    home, _ = make_home(tmp_path, n_train=1, n_val=1)
    with pytest.raises(StateError, match="no teacher is promoted"):
        run(home, small_config(), lambda _message, _share: None)


def test_exercises_are_made_once_and_hold_expert_and_teacher(tmp_path: Path) -> None:
    home, teacher = make_home(tmp_path, n_train=2, n_val=1)
    config = small_config()
    shares: list[float] = []
    syllabus = read_syllabus(home, neighbours=1, unannotated=0)
    path = tmp_path / "exercises.safetensors"

    def make() -> int:
        made = prepare(
            path, syllabus.pages, Catalogue(home), teacher, LABELS, config, shares.append
        )
        assert made.weights.tolist() == [[1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
        assert made.whole_weights[0, 0].tolist() == pytest.approx([0.5, 0.3])
        assert made.whole_weights[0, 1].tolist() == [0.0, 0.0]
        return teacher.asked

    assert make() == make()
    assert shares


def test_an_unsure_teacher_is_not_learnt_from(tmp_path: Path) -> None:
    home, teacher = make_home(tmp_path, n_train=2, n_val=1)
    teacher.score = 0.1
    syllabus = read_syllabus(home, neighbours=1, unannotated=0)
    path = tmp_path / "exercises.safetensors"
    made = prepare(
        path, syllabus.pages, Catalogue(home), teacher, LABELS, small_config(), lambda _share: None
    )
    assert made.weights.tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_the_square_of_an_exercise_shows_the_mask_it_asks_for(tmp_path: Path) -> None:
    home, teacher = make_home(tmp_path, n_train=2, n_val=1)
    config = small_config(whole_every=0)
    syllabus = read_syllabus(home, neighbours=0, unannotated=0)
    made = prepare(
        tmp_path / "exercises.safetensors",
        syllabus.pages,
        Catalogue(home),
        teacher,
        LABELS,
        config,
        lambda _share: None,
    )
    lesson = lesson_of(made, 0, config).prompts
    assert lesson is not None
    inside = lesson.squares[:, 0][lesson.truth].mean()
    outside = lesson.squares[:, 0][~lesson.truth].mean()
    assert float(inside) < float(outside) - 20
    assert float((lesson.taught[lesson.truth]).mean()) > 0.9


def test_the_lesson_of_a_step_is_always_the_same(tmp_path: Path) -> None:
    home, teacher = make_home(tmp_path, n_train=2, n_val=1)
    config = small_config()
    syllabus = read_syllabus(home, neighbours=0, unannotated=0)
    made = prepare(
        tmp_path / "e.safetensors",
        syllabus.pages,
        Catalogue(home),
        teacher,
        LABELS,
        config,
        lambda _share: None,
    )
    for step in range(4):
        one, two = lesson_of(made, step, config), lesson_of(made, step, config)
        assert (one.whole is None) == (step % 2 == 0)
        if one.prompts is not None and two.prompts is not None:
            assert torch.equal(one.prompts.squares, two.prompts.squares)


def test_torch_and_the_onnx_runtime_agree(workshop: Workshop) -> None:
    gates = workshop.bundle.gates
    assert gates.max_abs <= 1e-3
    assert gates.mask_iou >= 0.999
    assert gates.parity_prompts == 4


def test_a_changed_weight_breaks_parity(workshop: Workshop) -> None:
    weights = workshop.home.models / workshop.bundle.version / FILE
    student = read_student(weights)
    with torch.no_grad():
        student.decoder.mask.weight.mul_(1.5)
    changed = as_segmenter(student, "changed", LABELS)
    frame = Frame(draw_tube(0).pixels)
    box = Prompt(box_xyxy=(40.0, 60.0, 110.0, 100.0))
    apart = compare(changed, load_graphs(workshop.folder, 1), [(frame, box)])
    assert apart.max_abs > 1e-3


def test_the_manifest_tells_sizes_gates_and_hashes(workshop: Workshop) -> None:
    bundle = read_bundle(workshop.folder)
    assert bundle.gates.n_params == Student(SMALL).n_params
    assert bundle.gates.teacher_n_params == 7
    assert bundle.gates.iou_teacher == 1.0
    assert bundle.card.parents == ("rememberer",)
    assert set(bundle.files) == {"encoder.onnx", "decoder.onnx", "automatic.onnx"}
    assert [one.label for one in bundle.maps] == ["web", "narrowing"]
    assert -3.0 <= bundle.maps[0].threshold <= 2.0
    assert bundle.maps[1].threshold == 0.0
    assert Registry(workshop.home).released() == bundle.version
    Registry(workshop.home).verify(bundle.version)


def test_a_student_below_its_teacher_is_not_released_and_says_why(
    workshop: Workshop, tmp_path: Path
) -> None:
    home = Home(tmp_path)
    shutil.copytree(workshop.folder, home.models / "released" / workshop.bundle.version)
    strict = small_config(gate=StudentGate(iou_ratio=1.01))
    with pytest.raises(ModelError, match=r"of the teacher's IoU; 1\.01 needed"):
        release(Registry(home), workshop.bundle.version, strict, "a test")
    assert Registry(home).released() is None


def test_the_version_follows_teacher_frames_and_settings(workshop: Workshop) -> None:
    syllabus = read_syllabus(workshop.home, neighbours=1, unannotated=200)
    same = version_of("rememberer", syllabus, workshop.config)
    assert same == workshop.bundle.version
    assert version_of("another", syllabus, workshop.config) != same
    fewer = read_syllabus(workshop.home, neighbours=0, unannotated=200)
    assert version_of("rememberer", fewer, workshop.config) != same
    looser = small_config(gate=StudentGate(iou_ratio=0.5))
    assert version_of("rememberer", syllabus, looser) == same


def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    home, teacher = make_home(tmp_path, n_train=2, n_val=1)
    config = small_config()
    syllabus = read_syllabus(home, neighbours=1, unannotated=0)
    made = prepare(
        tmp_path / "e.safetensors",
        syllabus.pages,
        Catalogue(home),
        teacher,
        LABELS,
        config,
        lambda _share: None,
    )

    class KilledError(RuntimeError):
        pass

    def kill(progress: Progress) -> None:
        if progress.step == 3:
            raise KilledError

    steps: list[int] = []
    straight, killed, resumed = (start_student(config, LABELS) for _ in range(3))
    train_student(straight, made, config, tmp_path / "straight", lambda _progress: None)
    with pytest.raises(KilledError):
        train_student(killed, made, config, tmp_path / "killed", kill)
    train_student(
        resumed, made, config, tmp_path / "killed", lambda progress: steps.append(progress.step)
    )
    assert steps == [3, 4]
    wanted = straight.state_dict()
    assert all(
        torch.allclose(value, wanted[name], atol=1e-6)
        for name, value in resumed.state_dict().items()
    )


def test_without_the_teacher_only_the_experts_masks_teach(tmp_path: Path) -> None:
    home, teacher = make_home(tmp_path, n_train=2, n_val=1)
    config = small_config()
    syllabus = read_syllabus(home, neighbours=1, unannotated=0)
    path = tmp_path / "e.safetensors"
    made = prepare(
        path, syllabus.pages, Catalogue(home), teacher, LABELS, config, lambda _share: None
    )
    known = without_teacher(made)
    assert known is not None
    assert (len(made.squares), len(known.squares)) == (4, 2)
    assert known.weights.tolist() == [[1.0, 0.0], [1.0, 0.0]]
    assert not known.whole_weights[..., 1].any()
    steps: list[int] = []
    student = untaught(
        made, LABELS, config, tmp_path / "alone", 3, lambda at: steps.append(at.step)
    )
    assert student is not None
    assert steps[-1] == 3
    nobody = dataclasses.replace(made, weights=made.weights * np.array([0, 1], dtype=np.float32))
    assert without_teacher(nobody) is None


def test_a_distillation_may_tell_what_a_student_without_the_teacher_reaches(
    tmp_path: Path,
) -> None:
    home, teacher = make_home(tmp_path, n_train=2, n_val=1)
    config = small_config(
        without_teacher=True, student=SMALL.model_copy(update={"context": (16, 16)})
    )
    syllabus = read_syllabus(home, neighbours=0, unannotated=0)
    with unchecked():
        bundle = teach(
            home, "beside", "rememberer", Teaching(teacher, 7), syllabus, config,
            lambda _message, _share: None,
        )  # fmt: skip
    assert bundle.gates.iou_without_teacher is not None
    assert bundle.gates.max_abs <= 1e-3
    segmenter = load_student(home.models / "released" / "beside", 1)
    assert segmenter.embed(Frame(draw_tube(1).pixels)) is not None


def test_the_first_steps_read_smaller_squares(tmp_path: Path) -> None:
    home, teacher = make_home(tmp_path, n_train=2, n_val=1)
    config = small_config(early_px=32, early_steps=2)
    syllabus = read_syllabus(home, neighbours=0, unannotated=0)
    path = tmp_path / "e.safetensors"
    made = prepare(
        path, syllabus.pages, Catalogue(home), teacher, LABELS, config, lambda _share: None
    )
    shown = [lesson_of(made, step, config).whole for step in (1, 3)]
    assert [one.squares.shape[-1] for one in shown if one is not None] == [32, 64]
    with pytest.raises(ValidationError, match="early_px 40 is not a multiple of 16"):
        small_config(early_px=40)


def test_an_automatic_map_is_cut_where_it_overlaps_best() -> None:
    torch.manual_seed(0)
    student = Student(SMALL).eval()
    square = np.random.default_rng(0).integers(0, 255, (1, 64, 64), dtype=np.uint8)
    with torch.inference_mode():
        features = student.encoder(torch.from_numpy(square).float()[None])
        shown = student.automatic(features)[0].numpy()
    level = float(np.quantile(shown[0], 0.9))
    truth = np.where(shown > level, 255, 0).astype(np.uint8)[None]
    weights = np.array([[[1.0, 0.0], [0.0, 0.0]]], dtype=np.float32)
    none = np.zeros((0, 96, 96), dtype=np.uint8)
    exercises = Exercises(
        none, none, none, np.zeros((0, 2), np.float32), square, truth, truth, weights
    )
    cut = calibrated(student, exercises, automatic_maps(LABELS))
    assert cut[0].threshold == pytest.approx(level, abs=0.26)
    assert cut[1].threshold == 0.0


def test_a_perfect_model_scores_one_on_the_frozen_frames(workshop: Workshop) -> None:
    syllabus = read_syllabus(workshop.home, neighbours=0, unannotated=0)
    scores = box_scores(workshop.teacher, Catalogue(workshop.home), syllabus.val)
    assert scores is not None
    assert (scores.iou, scores.cldice, len(scores.cases)) == (1.0, 1.0, 2)


def test_the_released_student_answers_as_in_torch(workshop: Workshop) -> None:
    student = read_student(workshop.home.models / workshop.bundle.version / FILE)
    onnx, in_torch = load_student(workshop.folder, 1), as_segmenter(student, "torch", LABELS)
    assert isinstance(in_torch.graphs, TorchGraphs)
    frame = Frame(draw_tube(3).pixels)
    clicks = Prompt(np.array([[80.0, 80.0], [20.0, 20.0]]), np.array([1, 0]))
    one = onnx.predict(onnx.embed(frame), clicks)[0]
    two = in_torch.predict(in_torch.embed(frame), clicks)[0]
    assert one.logits is not None
    assert two.logits is not None
    assert np.allclose(one.logits, two.logits, atol=1e-3)
    assert one.score == pytest.approx(two.score, abs=1e-4)


def test_a_base_of_other_sizes_is_refused(workshop: Workshop) -> None:
    base = workshop.home.models / workshop.bundle.version / FILE
    wide = SMALL.model_copy(update={"widths": (16, 16, 16, 16)})
    with pytest.raises(ModelError, match="other sizes"):
        start_student(small_config(student_base=base, student=wide), LABELS)


def test_a_base_with_other_maps_gives_all_but_the_maps(workshop: Workshop) -> None:
    base = workshop.home.models / workshop.bundle.version / FILE
    only_tree = LABELS.with_(labels=[one for one in LABELS.labels if one.role != "lesion"])
    assert map_labels(only_tree) == (("web", "tree"),)
    student = start_student(small_config(student_base=base), only_tree)
    kept = read_student(base)
    assert torch.equal(student.encoder.stem.weight, kept.encoder.stem.weight)
    assert student.automatic.masks.weight.shape[0] == 4


def test_damaged_student_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(b"not tensors")
    with pytest.raises(ModelError, match="not a student's weights"):
        read_student(path)


@pytest.mark.parametrize(
    "name", ["student.yaml", "demo/student.yaml", "arcade/student.yaml", "arcade/tree.yaml"]
)
def test_the_shipped_configurations_are_valid(name: str) -> None:
    config = read_distil_config(Path(__file__).parents[3] / "conf" / name)
    assert config.gate.iou_ratio >= 0.95
    assert config.teacher_base.is_absolute()


def test_three_mistakes_in_a_configuration_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "student.yaml"
    path.write_text("teacher_base: x\nwhole_batch: 0\nspeed: 3\ngate: {mask_iou: 2}\n")
    with pytest.raises(ConfigError, match="3 problems"):
        read_distil_config(path)


def test_the_threads_of_a_distillation_are_given_back() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with torch_threads(None):
        assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), torch_threads(before + 2):
        raise ZeroDivisionError
    assert torch.get_num_threads() == before

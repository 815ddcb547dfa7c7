"""The steps on a small workspace with a small random SAM 3: what they write, and only once."""

from pathlib import Path

import numpy as np
import pytest

from casebook.annotations import Origin, read_annotations, write_annotations
from casebook.cases import Split
from casebook.corrections import Corrections, Effort, JobEffort, MaskChange
from casebook.documents import read_document, sha256_of_file, write_document
from casebook.errors import BusyError, DataError, ModelError, StateError
from casebook.home import Home, locked
from casebook.rounds import RoundFolder
from segmenter.heads import Targets
from tests.unit.trainer.workspace import LABELS, add_case, make_conf, make_workspace, pull_truth
from trainer.app import app
from trainer.arms import ArmComparison
from trainer.chain import STEP_FILES, check_ready, steps_left, steps_of
from trainer.overview import Overview
from trainer.page import render
from trainer.propose import uncertainty
from trainer.requests import failure, pending
from trainer.results import Candidate, Decision
from trainer.rounds_config import OriginWeights
from trainer.samples import training_set
from trainer.scores import Mean, RoundEvaluation
from trainer.summary import RoundReport
from trainer.tasks import STEPS, run_step
from trainer.work import Work


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Path]:
    """A workspace after rounds 1 and 2 and the control."""
    root = tmp_path_factory.mktemp("steps")
    home, conf = make_workspace(root), make_conf(root)
    for step in steps_of(1):
        run_step(step, work(home, conf, 1))
    for step in ("select", "propose"):
        run_step(step, work(home, conf, 2))
    pull_truth(home, 2)
    pull_figures(home, 2)
    for step in (*steps_of(2), "control"):
        run_step(step, work(home, conf, 2))
    return home, conf


def pull_figures(home: Home, number: int) -> None:
    """What a pull writes about the experts' work."""
    folder = RoundFolder(home, number)
    first, second = (case.at for case in folder.manifest().cases)
    changes = (MaskChange(at=first, label="tube", outcome="refined", iou=0.5, changed_px=9),)
    write_document(
        folder.file("corrections.json"),
        Corrections(round=number, changes=changes, rejected=(second,)),
    )
    jobs = (JobEffort(job_id=1, cases=2, seconds=240.0),)
    write_document(
        folder.file("effort.json"),
        Effort(round=number, jobs=jobs, source="job dates", is_simulated=True),
    )


def work(home: Home, conf: Path, number: int, *overrides: str) -> Work:
    return Work(RoundFolder(home, number), conf, overrides)


def test_every_step_leaves_its_file(place: tuple[Home, Path]) -> None:
    home, _ = place
    for number in (1, 2):
        folder = RoundFolder(home, number)
        assert steps_left(folder) == ()
        assert pending(folder) is None
        assert all(folder.has(STEP_FILES[step]) for step in steps_of(number))


@pytest.mark.parametrize("step", ["select", "propose", *steps_of(2)[:-1]])
def test_a_step_run_again_changes_nothing(place: tuple[Home, Path], step: str) -> None:
    home, conf = place
    folder = RoundFolder(home, 2)
    before = sha256_of_file(folder.file(STEP_FILES[step]))
    run_step(step, work(home, conf, 2))
    assert sha256_of_file(folder.file(STEP_FILES[step])) == before


def test_the_candidate_continues_from_the_incumbent_on_all_cases_so_far(
    place: tuple[Home, Path],
) -> None:
    home, conf = place
    first = read_document(RoundFolder(home, 1).file("candidate.json"), Candidate)
    second = read_document(RoundFolder(home, 2).file("candidate.json"), Candidate)
    decision = read_document(RoundFolder(home, 1).file("decision.json"), Decision)
    assert (first.init_from, first.incumbent) == ("small", "small")
    assert second.init_from == (first.model_id if decision.promote else "small")
    assert (first.images, second.images) == (4, 6)
    card = work(home, conf, 2).registry.verify(second.model_id)
    assert card.parents == (second.init_from,)
    assert card.base_sha256 == sha256_of_file(conf / "small" / "model.safetensors")


def test_proposals_name_their_model_score_and_prompt(place: tuple[Home, Path]) -> None:
    home, _ = place
    found = read_annotations(RoundFolder(home, 2).file("proposals.coco.json"))
    assert len(found.images) == 2
    for entry in found.annotations:
        assert entry.origin is Origin.MODEL
        assert entry.model_id
        assert entry.score is not None
        assert entry.prompt_source in {"concept", "case"}


def test_the_reports_are_self_contained(place: tuple[Home, Path]) -> None:
    home, _ = place
    report = read_document(RoundFolder(home, 2).file("report.json"), RoundReport)
    assert report.corrections is not None
    assert (report.corrections.refined, report.corrections.rejected_frames) == (1, 1)
    assert [row.iou for row in report.clicks] == [0.8, 0.9]
    assert report.clicks[0].incumbent is not None
    assert report.qca.segments > 0
    assert {group.name for group in report.segments} == {"tube"}
    assert sum(group.candidate.n for group in report.degrees) == report.qca.segments
    assert report.effort is not None
    assert report.effort.hours_saved == pytest.approx((2 * 300 - 240) / 3600)
    page = RoundFolder(home, 2).file("report.html").read_text()
    assert "Clicks a person would need" in page
    assert "the model's masks against the experts'" in page
    assert "Selection against chance" not in page, "one case an arm says nothing"
    arms = ArmComparison(
        strategy="uncertainty",
        chosen=Mean(mean=0.4, low=0.3, high=0.5, n=4),
        control=Mean(mean=0.1, low=0.0, high=0.2, n=4),
        difference=Mean(mean=0.3, low=0.2, high=0.4, n=8),
    )
    compared = report.with_(arm_comparison=arms.model_dump())
    page = render("report.html.j2", report=compared, charts={"cases": ""}, gallery=())
    assert "Uncertainty chose cases on which the model was more wrong" in page
    overview = read_document(home.root / "rounds" / "report.json", Overview)
    assert [report.round for report in overview.rounds] == [1, 2]
    assert overview.control is not None
    for path in (RoundFolder(home, 2).file("report.html"), home.root / "rounds" / "report.html"):
        page = path.read_text()
        assert "<svg" in page
        assert "simulated" in page
        assert "<script" not in page
        assert 'src="http' not in page
        assert "<link" not in page


def test_the_control_repeats_the_steps_on_round_1_alone(place: tuple[Home, Path]) -> None:
    home, conf = place
    overview = read_document(home.root / "rounds" / "report.json", Overview)
    assert overview.control is not None
    second = read_document(RoundFolder(home, 2).file("candidate.json"), Candidate)
    assert overview.control.steps == second.steps
    card = work(home, conf, 2).registry.card(overview.control.model_id)
    assert card.data["images"] == 4
    first = read_document(RoundFolder(home, 1).file("candidate.json"), Candidate)
    assert card.parents == (first.model_id,)


def test_a_promotion_undone_by_hand_is_not_repeated(place: tuple[Home, Path]) -> None:
    home, conf = place
    registry = work(home, conf, 2).registry
    first = read_document(RoundFolder(home, 1).file("candidate.json"), Candidate)
    registry.promote(first.model_id, "by hand")
    run_step("promote", work(home, conf, 2))
    assert registry.promoted() == first.model_id


def test_other_annotations_than_those_trained_on_are_noticed(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    for step in ("select", "train"):
        run_step(step, work(home, conf, 1))
    path = RoundFolder(home, 1).file("annotations.coco.json")
    write_annotations(path, read_annotations(path).with_(info={"changed": "yes"}))
    with pytest.raises(StateError, match="--force"):
        run_step("train", work(home, conf, 1))


@pytest.mark.parametrize(
    ("step", "missing"),
    [
        ("train", r"no train case|manifest\.json|annotations"),
        ("evaluate", r"candidate\.json is not there"),
        ("decide", r"evaluation\.json is not there"),
        ("promote", r"decision\.json is not there"),
        ("report", r"decision\.json is not there"),
        ("control", "0 rounds are decided"),
        ("distil", "no teacher"),
    ],
)
def test_a_step_without_its_predecessor_says_what_to_run(
    tmp_path: Path, step: str, missing: str
) -> None:
    home, conf = make_workspace(tmp_path, bootstrap=0), make_conf(tmp_path)
    with pytest.raises(StateError, match=missing) as problem:
        run_step(step, work(home, conf, 1))
    assert "make train" in str(problem.value) or "import" in str(problem.value)
    failed = failure(RoundFolder(home, 1))
    assert failed is not None
    assert failed.message == str(problem.value)


def test_round_3_is_not_trained_before_it_is_pulled(place: tuple[Home, Path]) -> None:
    home, _ = place
    with pytest.raises(StateError, match="cvatsync pull --round 3"):
        check_ready(RoundFolder(home, 3))


def test_a_missing_base_says_how_to_get_it(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    run_step("select", work(home, conf, 1))
    with pytest.raises(ModelError, match="make weights"):
        run_step("train", work(home, conf, 1, "base=nowhere"))


def test_rejected_pending_and_unreviewed_masks_never_train(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    one = work(home, conf, 1)
    run_step("select", one)
    path = RoundFolder(home, 1).file("annotations.coco.json")
    annotations = read_annotations(path)
    statuses = ("rejected", "pending", "corrected", "ok")
    images = [
        image.with_(status=status)
        for image, status in zip(annotations.images, statuses, strict=True)
    ]
    entries = [
        entry.with_(origin=Origin.MODEL) if entry.image_id == annotations.images[3].id else entry
        for entry in annotations.annotations
    ]
    write_annotations(
        path,
        annotations.with_(
            images=[image.model_dump() for image in images],
            annotations=[entry.model_dump() for entry in entries],
        ),
    )
    found = training_set(home, one.catalogue, (1,), LABELS, OriginWeights())
    assert (len(found.samples), found.rejected) == (1, 1)
    assert found.masks_by_origin == {"human": 1}
    assert [mask.label for mask in found.samples[0].masks] == ["tube", "stenosis"]
    with pytest.raises(DataError, match="no reviewed mask"):
        training_set(home, one.catalogue, (1,), LABELS, OriginWeights(human=0))


def test_a_lesion_is_learnt_by_its_segments_name_too_where_a_round_says_so(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    one = work(home, conf, 1)
    run_step("select", one)
    plain = training_set(home, one.catalogue, (1,), LABELS, OriginWeights())
    found = training_set(home, one.catalogue, (1,), LABELS, OriginWeights(), lesion_in_text=True)
    for without, with_both in zip(plain.samples, found.samples, strict=True):
        *before, more = with_both.masks
        assert [mask.label for mask in before] == ["tube", "stenosis"]
        assert [mask.label for mask in without.masks] == ["tube", "stenosis"]
        assert (more.label, more.prompted) == ("tube stenosis", False)
        assert np.array_equal(more.bitmap, before[1].bitmap)


def test_segments_are_measured_for_a_model_whose_heads_learn_it(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    one = work(home, conf, 1)
    run_step("select", one)
    coded = LABELS.with_(
        labels=[label.with_(code=7 * (label.role == "segment")) for label in LABELS.labels]
    )
    plain = training_set(home, one.catalogue, (1,), coded, OriginWeights())
    found = training_set(home, one.catalogue, (1,), coded, OriginWeights(), measured=True)
    assert all(m.targets == Targets() for sample in plain.samples for m in sample.masks)
    tubes = [m for sample in found.samples for m in sample.masks if m.label == "tube"]
    assert tubes
    for tube in tubes:
        assert tube.targets.code == 7
        # The tubes are drawn 6 to 10 px wide and hardly vary.
        assert tube.targets.rvd_px is not None
        assert 5 < tube.targets.rvd_px < 12
    others = [m for sample in found.samples for m in sample.masks if m.label != "tube"]
    assert all(m.targets == Targets() for m in others)


def test_a_test_case_in_the_annotations_stops_the_training(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    one = work(home, conf, 1)
    run_step("select", one)
    path = RoundFolder(home, 1).file("annotations.coco.json")
    annotations = read_annotations(path)
    stranger = RoundFolder(home, 1).manifest().test[0].at
    moved = annotations.images[0].with_(case_id=stranger.case_id, file_name=stranger.file_name)
    write_annotations(
        path,
        annotations.with_(
            images=[image.model_dump() for image in (moved, *annotations.images[1:])]
        ),
    )
    with pytest.raises(DataError, match=f"case {stranger.case_id} is of split test"):
        run_step("train", one)


def test_pixels_that_are_scored_as_well_stop_the_training(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    one = work(home, conf, 1)
    run_step("select", one)
    add_case(one.catalogue, 60, Split.TEST, picture_of=0)
    with pytest.raises(DataError, match="pixels in two splits"):
        run_step("train", one)
    assert not RoundFolder(home, 1).has("training")


def test_a_patient_who_is_scored_as_well_stops_the_training(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    one = work(home, conf, 1)
    run_step("select", one)
    folder = RoundFolder(home, 1)
    manifest = folder.manifest()
    scored = manifest.test[0].with_(patient=manifest.cases[0].patient)
    write_document(
        folder.file("manifest.json"),
        manifest.with_(test=[scored.model_dump(), *(c.model_dump() for c in manifest.test[1:])]),
    )
    with pytest.raises(DataError, match="patients in two splits: p000"):
        run_step("train", one)
    assert not folder.has("training")


def test_only_one_worker_works_on_a_round(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    folder = RoundFolder(home, 1)
    with (
        locked(folder.file(".lock"), "round 01"),
        pytest.raises(BusyError, match="round 01 is already running"),
    ):
        run_step("select", work(home, conf, 1))
    assert not folder.has("manifest.json")


def test_the_uncertain_cases_come_first_when_asked_for(place: tuple[Home, Path]) -> None:
    home, conf = place
    overrides = ("select.strategy=uncertainty", "select.control_fraction=0.5")
    run_step("select", work(home, conf, 3, *overrides))
    strategy, control = RoundFolder(home, 3).manifest().cases
    assert (strategy.arm, control.arm) == ("strategy", "control")
    assert strategy.score is not None
    assert 0 <= strategy.score <= 1


def test_uncertainty_counts_what_the_model_answers_when_asked_again(
    place: tuple[Home, Path],
) -> None:
    home, conf = place
    once, again = (work(home, conf, 2, f"select.ask_again={word}") for word in ("false", "true"))
    cases = [once.catalogue.get(line.at.case_id) for line in once.folder.manifest().cases]
    cheap, thorough = uncertainty(once), uncertainty(again)
    assert [cheap(case) for case in cases] != [thorough(case) for case in cases]
    assert all(0 <= unsure(case) <= 1 for unsure in (cheap, thorough) for case in cases)
    away = cases[0].with_(lesion_box_xyxy=(9e4, 9e4, 9.1e4, 9.1e4))
    assert thorough(away) == 1


def test_the_ridge_filter_runs_once_for_a_set_of_cases(place: tuple[Home, Path]) -> None:
    home, _ = place
    found = read_document(RoundFolder(home, 2).file("evaluation.json"), RoundEvaluation)
    ours, theirs = found.candidate.test, found.incumbent.test
    assert len(ours.values("frangi_dice")) == 3
    assert ours.values("frangi_dice") == theirs.values("frangi_dice")
    assert found.candidate.val.values("frangi_dice") == []


def test_all_steps_have_a_task() -> None:
    assert {f"angioloop.{step}" for step in STEPS} <= set(app.tasks)

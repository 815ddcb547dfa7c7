"""Student against teacher on frozen frames: who is judged, and by what."""

from dataclasses import replace

import pytest

from angio.qca import Lesion, measure
from casebook.cases import PixelSpacing
from casebook.catalogue import Catalogue
from export.comparison import BoxScores, CaseScore, MaskScore, box_scores, gates_of
from export.gates import Gates
from export.parity import Parity
from export.settings import StudentGate
from export.syllabus import read_syllabus
from tests.unit.export.conftest import Workshop
from tests.unit.export.workshop import draw_tube

SAME = Parity(max_abs=1e-6, mask_iou=1.0, prompts=2)


@pytest.fixture(scope="module")
def lesion() -> Lesion:
    """A measured tube, in mm."""
    tube = draw_tube(0)
    spacing = PixelSpacing(row_mm=0.3, col_mm=0.3, source="isocentre")
    return measure(tube.pixels, tube.stretch, spacing)


def _gates(student: BoxScores, teacher: BoxScores, gate: StudentGate | None = None) -> Gates:
    return gates_of(SAME, student, teacher, gate or StudentGate(), n_params=1, teacher_n_params=2)


def _scores(ious: dict[str, list[float]], lesions: tuple[Lesion | None, ...] = ()) -> BoxScores:
    """Cases by vessel; all have the same lesions."""
    by_expert, by_model = lesions if lesions else (None, None)
    return BoxScores(
        tuple(
            CaseScore(
                f"{vessel}-{number}", vessel, (MaskScore("x", iou, 1.0, by_expert, by_model),)
            )
            for vessel, values in ious.items()
            for number, iou in enumerate(values)
        )
    )


def test_a_vessel_that_is_significantly_worse_is_outside_though_the_mean_is_inside() -> None:
    teacher = _scores({"RCA": [0.7] * 30, "LAD": [0.7, 0.71, 0.69, 0.7]})
    student = _scores({"RCA": [0.72] * 30, "LAD": [0.6, 0.61, 0.59, 0.6]})
    gates = _gates(student, teacher)
    assert gates.iou_ratio is not None
    assert gates.iou_ratio > 0.95
    assert [one.vessel for one in gates.vessels] == ["LAD", "RCA"]
    (failure,) = gates.failures()
    assert "vessel LAD is significantly worse" in failure
    assert _gates(student, teacher, StudentGate(vessel_cases=5)).failures() == ()


def test_a_vessel_that_may_be_worse_by_chance_is_inside() -> None:
    teacher = _scores({"RCA": [0.7] * 30, "LAD": [0.4, 0.9, 0.7]})
    student = _scores({"RCA": [0.7] * 30, "LAD": [0.5, 0.7, 0.6]})
    assert _gates(student, teacher).failures() == ()


def test_where_cases_name_no_vessel_each_label_is_judged_on_its_own() -> None:
    def scores(diagonal: float) -> BoxScores:
        masks = (
            MaskScore("mid LAD", 0.8, 1.0, None, None),
            MaskScore("D1", diagonal, 1.0, None, None),
        )
        return BoxScores(tuple(CaseScore(str(number), None, masks) for number in range(4)))

    gates = _gates(scores(0.6), scores(0.7), StudentGate(iou_ratio=0.9))
    assert [(one.vessel, one.cases) for one in gates.vessels] == [("D1", 4), ("mid LAD", 4)]
    (failure,) = gates.failures()
    assert "vessel D1 is significantly worse" in failure


def test_errors_are_told_against_the_expert_and_unmeasured_masks_are_counted(
    lesion: Lesion,
) -> None:
    assert lesion.mld_mm is not None
    near = lesion.with_(stenosis_pct=lesion.stenosis_pct + 2, mld_mm=lesion.mld_mm + 0.1)
    far = lesion.with_(stenosis_pct=lesion.stenosis_pct + 5, mld_mm=lesion.mld_mm + 0.2)
    teacher = _scores({"LAD": [0.7] * 4}, (lesion, near))
    student = _scores({"LAD": [0.7] * 4}, (lesion, far))
    assert _gates(student, teacher).failures() == ()  # four lesions are too few
    gates = _gates(student, teacher, StudentGate(qca_lesions=4))
    assert gates.qca is not None
    assert gates.qca.ds_error_student == pytest.approx(5.0)
    assert gates.qca.ds_error_teacher == pytest.approx(2.0)
    assert gates.qca.mld_error_student_mm == pytest.approx(0.2)
    assert len(gates.failures()) == 2
    lost = replace(student.cases[0], masks=(MaskScore("x", 0.7, 1.0, lesion, None),))
    partly = _gates(BoxScores((lost, *student.cases[1:])), teacher).qca
    assert partly is not None
    assert (partly.lesions, partly.measured_student, partly.measured_teacher) == (4, 3, 4)
    assert partly.compared == 3


def test_frozen_frames_are_measured_on_both_masks(workshop: Workshop) -> None:
    syllabus = read_syllabus(workshop.home, neighbours=0, unannotated=0)
    scores = box_scores(workshop.teacher, Catalogue(workshop.home), syllabus.val)
    assert scores is not None
    for case in scores.cases:
        assert case.vessel is None
        for mask in case.masks:
            assert mask.label == "tube"
            assert mask.by_expert is not None
            assert mask.by_model == mask.by_expert

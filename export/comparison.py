"""Student and teacher on the same frozen frames: overlap, centrelines and measurements.

Each mask an expert drew is asked for by its own box. Training side only; knows no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from angio.qca import Lesion, measure
from casebook.catalogue import Catalogue
from casebook.errors import QcaError
from casebook.metrics import bootstrap_mean, cldice, iou
from casebook.protocols import Frame, Prompt, Segmenter
from export.gates import Gates, QcaGate, VesselGate
from export.parity import Parity
from export.settings import StudentGate
from export.syllabus import Page


@dataclass(frozen=True)
class MaskScore:
    """One expert mask and a model's answer to its box."""

    label: str
    iou: float
    cldice: float
    by_expert: Lesion | None
    """QCA of the expert's mask; none where it is refused, or the mask is no vessel segment."""
    by_model: Lesion | None
    """QCA of the answer, where the expert's mask could be measured."""


@dataclass(frozen=True)
class CaseScore:
    """A frozen frame."""

    case_id: str
    vessel: str | None
    masks: tuple[MaskScore, ...]

    @property
    def iou(self) -> float:
        """Mean over its masks."""
        return float(np.mean([one.iou for one in self.masks]))

    @property
    def cldice(self) -> float:
        """Mean over its masks."""
        return float(np.mean([one.cldice for one in self.masks]))


@dataclass(frozen=True)
class BoxScores:
    """Frozen frames; means are over cases."""

    cases: tuple[CaseScore, ...]

    @property
    def iou(self) -> float:
        """Mean of the cases."""
        return float(np.mean([one.iou for one in self.cases]))

    @property
    def cldice(self) -> float:
        """Mean of the cases."""
        return float(np.mean([one.cldice for one in self.cases]))


def box_scores(model: Segmenter, catalogue: Catalogue, pages: Sequence[Page]) -> BoxScores | None:
    """How well a model does on frozen frames; nothing when none has a mask to ask for."""
    found = []
    for page in pages:
        if not page.prompted:
            continue
        case = catalogue.get(page.ref.case_id)
        frame = catalogue.frame(page.ref)
        embedding = model.embed(frame)
        masks = []
        for one in page.prompted:
            answer = model.predict(embedding, Prompt(box_xyxy=one.box))[0].bitmap
            truth = one.bitmap
            by_expert = _measured(frame, truth, by_model=False) if one.role == "segment" else None
            by_model = _measured(frame, answer, by_model=True) if by_expert is not None else None
            masks.append(
                MaskScore(one.label, iou(answer, truth), cldice(answer, truth), by_expert, by_model)
            )
        found.append(CaseScore(page.ref.case_id, case.vessel, tuple(masks)))
    return BoxScores(tuple(found)) if found else None


def _measured(frame: Frame, bitmap: Bool[np.ndarray, "h w"], *, by_model: bool) -> Lesion | None:
    try:
        return measure(frame.pixels, bitmap, frame.spacing, by_model=by_model)
    except QcaError:
        return None


def gates_of(
    parity: Parity,
    student: BoxScores | None,
    teacher: BoxScores | None,
    gate: StudentGate,
    *,
    n_params: int,
    teacher_n_params: int,
    without_teacher: BoxScores | None = None,
) -> Gates:
    """Everything measured beside what is asked.

    Args:
        parity: of torch and the ONNX runtime.
        student: on the frozen frames, as it is shipped.
        teacher: on the same frames.
        gate: what is asked.
        n_params: weights of the student.
        teacher_n_params: weights of the teacher.
        without_teacher: on the same frames, a student of the same sizes taught without one.
    """
    return Gates(
        max_abs=min(parity.max_abs, 1e9),
        max_abs_allowed=gate.max_abs,
        mask_iou=parity.mask_iou,
        mask_iou_required=gate.mask_iou,
        parity_prompts=parity.prompts,
        iou_student=student.iou if student else None,
        iou_teacher=teacher.iou if teacher else None,
        iou_ratio=_ratio(student.iou, teacher.iou) if student and teacher else None,
        iou_ratio_required=gate.iou_ratio,
        iou_without_teacher=without_teacher.iou if without_teacher else None,
        cldice_student=student.cldice if student else None,
        cldice_teacher=teacher.cldice if teacher else None,
        cldice_ratio=_ratio(student.cldice, teacher.cldice) if student and teacher else None,
        cldice_ratio_required=gate.cldice_ratio,
        cases=len(student.cases) if student else 0,
        vessels=_vessels(student, teacher, gate) if student and teacher else (),
        qca=_qca(student, teacher, gate) if student and teacher else None,
        n_params=n_params,
        teacher_n_params=teacher_n_params,
    )


def _ratio(ours: float, theirs: float) -> float | None:
    return ours / theirs if theirs > 0 else None


def _by_vessel(case: CaseScore) -> dict[str, float]:
    """Mean IoU of the case's vessel; of each label where the case names none."""
    groups: dict[str, list[float]] = {}
    for mask in case.masks:
        groups.setdefault(case.vessel or mask.label, []).append(mask.iou)
    return {vessel: float(np.mean(values)) for vessel, values in groups.items()}


def _vessels(student: BoxScores, teacher: BoxScores, gate: StudentGate) -> tuple[VesselGate, ...]:
    groups: dict[str, list[tuple[float, float]]] = {}
    for ours, theirs in zip(student.cases, teacher.cases, strict=True):
        known = _by_vessel(theirs)
        for vessel, value in _by_vessel(ours).items():
            groups.setdefault(vessel, []).append((value, known[vessel]))
    return tuple(
        VesselGate(
            vessel=vessel,
            cases=len(pairs),
            iou_student=float(np.mean([ours for ours, _ in pairs])),
            iou_teacher=float(np.mean([theirs for _, theirs in pairs])),
            behind=bootstrap_mean([a - gate.iou_ratio * b for a, b in pairs]).high,
            is_judged=len(pairs) >= gate.vessel_cases,
        )
        for vessel, pairs in sorted(groups.items())
    )


def _qca(student: BoxScores, teacher: BoxScores, gate: StudentGate) -> QcaGate:
    ours = [mask for case in student.cases for mask in case.masks]
    theirs = [mask for case in teacher.cases for mask in case.masks]
    shown: list[tuple[Lesion, Lesion, Lesion]] = []
    for a, b in zip(ours, theirs, strict=True):
        if a.by_expert is not None and a.by_model is not None and b.by_model is not None:
            shown.append((a.by_expert, a.by_model, b.by_model))
    in_mm = [
        (abs(a.mld_mm - truth.mld_mm), abs(b.mld_mm - truth.mld_mm))
        for truth, a, b in shown
        if truth.mld_mm is not None and a.mld_mm is not None and b.mld_mm is not None
    ]
    degrees = [
        (abs(a.stenosis_pct - truth.stenosis_pct), abs(b.stenosis_pct - truth.stenosis_pct))
        for truth, a, b in shown
    ]
    return QcaGate(
        lesions=sum(mask.by_expert is not None for mask in ours),
        measured_student=sum(mask.by_model is not None for mask in ours),
        measured_teacher=sum(mask.by_model is not None for mask in theirs),
        compared=len(shown),
        is_judged=len(shown) >= gate.qca_lesions,
        ds_error_student=_mean([a for a, _ in degrees]),
        ds_error_teacher=_mean([b for _, b in degrees]),
        ds_worse_allowed=gate.ds_worse_points,
        mld_error_student_mm=_mean([a for a, _ in in_mm]),
        mld_error_teacher_mm=_mean([b for _, b in in_mm]),
        mld_worse_allowed_mm=gate.mld_worse_mm,
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None

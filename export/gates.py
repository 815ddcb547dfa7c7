"""What a student must reach before it is released, and what it reached. Knows no model.

Differences of lengths are judged in mm and so only where cases have a pixel spacing.
"""

from typing import Literal

from pydantic import Field

from casebook.documents import Document


class VesselGate(Document):
    """One vessel of the frozen cases, by box prompt."""

    vessel: str
    """As the cases say, else the label of the mask."""
    cases: int = Field(gt=0)
    iou_student: float
    iou_teacher: float
    behind: float
    """Upper end of the 95 % interval of student − required share × teacher, over cases …"""
    is_judged: bool
    """… which is judged where there are cases enough: below 0 the vessel is significantly worse."""


class QcaGate(Document):
    """QCA of the masks both gave, each against QCA of the expert's mask; mean absolute errors."""

    lesions: int = Field(ge=0)
    """Segments whose expert mask can be measured."""
    measured_student: int = Field(ge=0)
    measured_teacher: int = Field(ge=0)
    compared: int = Field(ge=0)
    """Measured in all three masks: the errors below are of these."""
    is_judged: bool
    """Of enough lesions; fewer are told only."""
    ds_error_student: float | None = None
    """Diameter stenosis, points of per cent."""
    ds_error_teacher: float | None = None
    ds_worse_allowed: float
    mld_error_student_mm: float | None = None
    """Minimal lumen diameter; none without a pixel spacing."""
    mld_error_teacher_mm: float | None = None
    mld_worse_allowed_mm: float

    def failures(self) -> tuple[str, ...]:
        """What is outside, in words."""
        if not self.is_judged:
            return ()
        found = []
        pairs = (
            ("%DS", "points", self.ds_error_student, self.ds_error_teacher, self.ds_worse_allowed),
            (
                "MLD",
                "mm",
                self.mld_error_student_mm,
                self.mld_error_teacher_mm,
                self.mld_worse_allowed_mm,
            ),
        )
        for name, unit, ours, theirs, allowed in pairs:
            if ours is not None and theirs is not None and not ours <= theirs + allowed:
                found.append(
                    f"{name} is off by {ours:.3g} {unit}, the teacher's by {theirs:.3g}; at most "
                    f"{allowed:g} more over {self.compared} lesions"
                )
        return tuple(found)


class LearntGate(Document):
    """A figure of a lesion as it was learnt, beside always saying the usual and beside QCA.

    Each against QCA of the expert's mask on the frozen lesions; mean absolute errors.
    """

    figure: Literal["stenosis_pct", "mld_px", "rvd_px"]
    unit: Literal["points", "px"]
    lesions: int = Field(gt=0)
    error: float
    error_of_usual: float
    """Of the median of what was learnt from."""
    beyond_usual: float
    """Upper end of the 95 % interval of their difference, over cases; below 0 it is nearer."""
    measured: int = Field(ge=0)
    """Lesions that QCA could measure on the student's masks: what follows is of these."""
    error_where_measured: float | None = None
    error_of_qca: float | None = None
    beyond_qca: float | None = None
    """As `beyond_usual`."""
    is_shipped: bool
    """Nearer than both, on lesions enough; otherwise the bundle has no such figure."""

    @property
    def text(self) -> str:
        """In words."""
        of_qca = "which QCA measures on none"
        if self.error_where_measured is not None and self.error_of_qca is not None:
            of_qca = (
                f"{self.error_where_measured:.2f} on the {self.measured} that QCA measures, QCA "
                f"{self.error_of_qca:.2f}"
            )
        return (
            f"learnt {self.figure}: off by {self.error:.2f} {self.unit} on {self.lesions} lesions, "
            f"always the usual {self.error_of_usual:.2f}; {of_qca}: "
            f"{'nearer than both' if self.is_shipped else 'not shown to be nearer than both'}"
        )


class Gates(Document):
    """What was measured before the release, beside what was asked."""

    max_abs: float
    """Largest difference of a logit between torch and ONNX runtime …"""
    max_abs_allowed: float
    mask_iou: float
    """… and the smallest overlap of their masks."""
    mask_iou_required: float
    parity_prompts: int = Field(ge=0)
    iou_student: float | None = None
    """Mean IoU by box prompt on the frozen validation cases."""
    iou_teacher: float | None = None
    iou_ratio: float | None = None
    iou_ratio_required: float
    iou_without_teacher: float | None = None
    """Of a student taught as long on the experts' masks alone; none where none was taught."""
    cldice_student: float | None = None
    cldice_teacher: float | None = None
    cldice_ratio: float | None = None
    cldice_ratio_required: float = 0.0
    cases: int = Field(default=0, ge=0)
    vessels: tuple[VesselGate, ...] = ()
    """Empty in bundles of schema 1, as is the next."""
    qca: QcaGate | None = None
    learnt: tuple[LearntGate, ...] = ()
    """Figures nobody is refused for; empty in bundles before schema 3, and of few lesions."""
    n_params: int = Field(ge=0)
    teacher_n_params: int = Field(default=0, ge=0)

    def failures(self) -> tuple[str, ...]:
        """What is outside, in words; empty when everything holds."""
        found = []
        if not self.max_abs <= self.max_abs_allowed:
            found.append(f"logits differ by {self.max_abs:.2g}; at most {self.max_abs_allowed:g}")
        if not self.mask_iou >= self.mask_iou_required:
            found.append(f"masks overlap by {self.mask_iou:.4f}; {self.mask_iou_required:g} needed")
        if self.iou_ratio is None:
            found.append("no annotated validation case to compare student and teacher on")
        elif not self.iou_ratio >= self.iou_ratio_required:
            found.append(
                f"the student has {self.iou_ratio:.3f} of the teacher's IoU; "
                f"{self.iou_ratio_required:g} needed"
            )
        if self.cldice_ratio is not None and not self.cldice_ratio >= self.cldice_ratio_required:
            found.append(
                f"the student has {self.cldice_ratio:.3f} of the teacher's clDice; "
                f"{self.cldice_ratio_required:g} needed"
            )
        found += [
            f"vessel {one.vessel} is significantly worse: IoU {one.iou_student:.3f}, the teacher's "
            f"{one.iou_teacher:.3f} on {one.cases} cases"
            for one in self.vessels
            if one.is_judged and one.behind < 0
        ]
        if self.qca is not None:
            found += self.qca.failures()
        return tuple(found)

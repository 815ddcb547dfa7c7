"""How a distillation runs: `conf/student.yaml`. Importing this loads torch, as training does."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from casebook.config import read_config
from export.student import StudentConfig
from export.variation import Variation
from segmenter.fit import TrainConfig
from segmenter.interactive import PromptMix


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LessonWeights(_Settings):
    """What counts how much; 0 leaves it out."""

    expert: float = Field(1.0, ge=0)
    """The mask a person drew or reviewed."""
    teacher: float = Field(1.0, ge=0)
    """The teacher's probabilities, by prompt."""
    teacher_whole: float = Field(0.3, ge=0)
    """The teacher's automatic answer on a whole frame."""
    pseudo: float = Field(0.5, ge=0)
    """Masks of another program, reviewed by nobody."""
    centreline: float = Field(0.3, ge=0)
    """The tree's centrelines that are missed."""
    features: float = Field(0.0, ge=0)
    """The teacher's image embedding, which the student's encoder imitates (`export/hints.py`)."""


class StudentGate(_Settings):
    """What a student must reach to be released."""

    max_abs: float = Field(1e-3, gt=0)
    """Largest difference of a logit between torch and the ONNX runtime."""
    mask_iou: float = Field(0.999, ge=0, le=1)
    """Smallest overlap of their masks."""
    iou_ratio: float = Field(0.95, ge=0)
    """Student's over teacher's mean IoU by box, on the frozen validation cases; no vessel may lie
    significantly below it."""
    cldice_ratio: float = Field(0.95, ge=0)
    """The same of clDice, over all cases."""
    vessel_cases: int = Field(3, gt=0)
    """Vessels with fewer cases are not judged on their own."""
    qca_lesions: int = Field(20, gt=0)
    """Measurements of fewer lesions are told, not judged."""
    ds_worse_points: float = Field(1.0, ge=0)
    """How much further the student's diameter stenosis may lie from the experts' than the
    teacher's, points of per cent …"""
    mld_worse_mm: float = Field(0.05, ge=0)
    """… and its minimal lumen diameter."""


class DistilConfig(_Settings):
    """One distillation."""

    teacher_base: Path
    """Folder of the teacher's base, relative to the configuration's folder."""
    student_base: Path | None = None
    """Weights to start from, relative to the configuration's folder; none starts from nothing."""
    student: StudentConfig = StudentConfig()
    train: TrainConfig = TrainConfig()
    mix: PromptMix = PromptMix()
    vary: Variation = Variation()
    """How squares are varied, prompted and whole ones alike."""
    weights: LessonWeights = LessonWeights()
    neighbours: int = Field(2, ge=0)
    """Unlabelled frames of each training cine that only the teacher explains."""
    unannotated: int = Field(200, ge=0)
    """Training cases nobody annotated, at most, that only the teacher explains."""
    teacher_score: float = Field(0.4, ge=0, le=1)
    """Answers the teacher is less sure of are not learnt from."""
    whole_every: int = Field(4, ge=0)
    """Every n-th step trains the automatic head; 0 never."""
    whole_batch: int = Field(2, gt=0)
    early_px: int | None = Field(None, gt=0)
    """Side of whole squares in the first steps, smaller than `whole_px`: more of them in less time;
    none for the whole size from the start."""
    early_steps: int = Field(0, ge=0)
    """How many steps those are."""
    without_teacher: bool = False
    """Whether a second student is taught as long on the experts' masks alone, to be told beside."""
    threads: int | None = Field(None, gt=0)
    """Of the CPU, for torch: so small a network gains little from a second, which another training
    may take; all there are when absent."""
    parity_frames: int = Field(6, gt=0)
    """Validation frames on which torch and the ONNX runtime are compared."""
    gate: StudentGate = StudentGate()

    @model_validator(mode="after")
    def _early_fits(self) -> "DistilConfig":
        step_px = self.student.whole_step_px
        if self.early_px is not None and self.early_px % step_px:
            raise ValueError(f"early_px {self.early_px} is not a multiple of {step_px}")
        return self


def read_distil_config(path: Path, overrides: Sequence[str] = ()) -> DistilConfig:
    """A distillation's configuration, its paths resolved.

    Raises:
        ConfigError: every problem of the file at once.
    """
    config = read_config(path, DistilConfig, overrides)
    base = config.student_base
    return config.model_copy(
        update={
            "teacher_base": (path.parent / config.teacher_base).resolve(),
            "student_base": None if base is None else (path.parent / base).resolve(),
        }
    )

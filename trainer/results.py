"""What the steps of a round leave: the candidate, the decision, the promotion. Knows no model."""

from datetime import datetime
from typing import Literal

from pydantic import Field, JsonValue

from casebook.documents import Document


class Candidate(Document):
    """The model a round trained, and from what."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    round: int = Field(ge=1)
    model_id: str
    incumbent: str
    """The model it is compared with: the promoted one, or the bare base."""
    init_from: str
    """The model training continued from."""
    base: str
    """As the configuration names it: `tiny`, `sam3` or a folder."""
    manifest_sha256: str
    annotations_sha256: tuple[str, ...]
    """Of annotations.coco.json of every round trained on, in order."""
    rounds: tuple[int, ...]
    images: int = Field(ge=0)
    rejected: int = Field(ge=0)
    masks_by_origin: dict[str, int]
    steps: int = Field(ge=0)
    seconds: float = Field(ge=0)
    figures: dict[str, float] = Field(default_factory=dict)
    """Means of the last stretch of training."""
    config: dict[str, JsonValue]
    created: datetime


class VesselGain(Document):
    """The candidate against the incumbent on the cases of one vessel."""

    vessel: str
    cases: int
    mean: float
    low: float
    high: float
    is_worse: bool
    """The whole interval lies below 0."""


class Decision(Document):
    """Whether the candidate replaces the incumbent, and why."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    candidate: str
    incumbent: str
    promote: bool
    reasons: tuple[str, ...]
    cases: int
    mean_gain: float
    """Mean IoU difference on the frozen validation cases, candidate minus incumbent."""
    gain_low: float
    gain_high: float
    vessels: tuple[VesselGain, ...] = ()
    manifest_sha256: str = ""


class Promotion(Document):
    """That the decision was carried out."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    candidate: str
    promoted: bool
    at: datetime

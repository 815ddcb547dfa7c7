"""Everything that may differ between rounds: `round-NN.yaml` in a configuration folder.

Importing this loads torch, for the training settings are declared beside the training loop.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from casebook.annotations import Origin
from casebook.config import read_config
from casebook.errors import ConfigError
from casebook.labels import LabelSet, read_labels
from segmenter.fit import TrainConfig

_FILE = re.compile(r"^round-(\d{2,})\.yaml$")


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Strategy = Literal["order", "random", "uncertainty", "diversity", "uncertainty+diversity"]


class SelectConfig(_Settings):
    """Which cases a round works on."""

    strategy: Strategy = "order"
    """order: by case id; random: by seeded hash; uncertainty: what the promoted model is least
    sure of first; diversity: what its encoder sees differ most; uncertainty+diversity: of the least
    sure those that differ most."""
    source: Literal["expert", "pseudo"] = "expert"
    """Whose masks round 1 trains on: experts', or those of another program, which nobody reviewed
    (the trees of the lab's pseudo-labels). Validation and test cases have experts' always."""
    cases: int = Field(200, gt=0)
    """At most this many new training cases."""
    ask_again: bool = False
    """Uncertainty counts how far answers to shifted boxes and other contrasts differ, too: three
    embeddings a case instead of one."""
    control_fraction: float = Field(0.0, ge=0, lt=1)
    """Share drawn at random whatever the strategy, to show whether the strategy helps."""
    per_patient: int | None = Field(None, gt=0)
    """Cases of one patient at most, beside planned ones; more only when no others are left."""
    seed: int = 0


class ProposeConfig(_Settings):
    """How the promoted model proposes masks."""

    threshold: float = Field(0.5, ge=0, le=1)
    """Concept answers below this score are not used."""
    max_per_label: int = Field(1, gt=0)
    """Masks proposed at most for one concept."""


class PropagateConfig(_Settings):
    """How a corrected mask is carried through its cine."""

    tracker: Literal["follow", "memory"] = "follow"
    """follow: each answer prompts the next frame, with any model; memory: SAM 3's own, which the
    tiny base never learned."""
    threshold: float = Field(0.3, ge=0, le=1)
    """A mask less sure than this is lost, and not looked for on later frames."""
    reach: int = Field(30, gt=0)
    """Frames at most, either way."""


class OriginWeights(_Settings):
    """How much a mask counts in training, by who made it; 0 leaves it out."""

    human: float = Field(1.0, ge=0, le=1)
    human_box: float = Field(0.9, ge=0, le=1)
    model_reviewed: float = Field(0.8, ge=0, le=1)
    tracked: float = Field(0.5, ge=0, le=1)
    pseudo: float = Field(0.3, ge=0, le=1)

    def of(self, origin: Origin) -> float:
        """The weight of an origin; a model's unreviewed mask never trains."""
        weights = {
            Origin.HUMAN: self.human,
            Origin.HUMAN_BOX: self.human_box,
            Origin.MODEL: 0.0,
            Origin.MODEL_REVIEWED: self.model_reviewed,
            Origin.TRACKED: self.tracked,
            Origin.PSEUDO: self.pseudo,
        }
        return weights[origin]


class EvaluateConfig(_Settings):
    """What is measured on the frozen test cases."""

    details: bool = True
    """Measurements of masks and simulated clicks: more than doubles the time."""
    names: bool = True
    """With them, what a model without heads calls each segment: every name is asked for."""


class GateConfig(_Settings):
    """When a candidate replaces the incumbent."""

    lower_bound: float = Field(-0.01, ge=-1, le=1)
    """The interval of the mean gain must lie above this IoU difference."""
    level: float = Field(0.95, gt=0, lt=1)
    """Confidence of the bootstrap intervals."""
    resamples: int = Field(10_000, ge=100)
    seed: int = 0
    min_cases_per_vessel: int = Field(3, ge=1)
    """Vessels with fewer validation cases are not judged on their own."""


class RoundConfig(_Settings):
    """One round."""

    labels: Path
    """The label set, relative to the configuration folder."""
    base: str = "sam3"
    """A base's folder: relative to the configuration folder, else one in the workspace's models."""
    init: Literal["incumbent", "base"] = "incumbent"
    """What training continues from; round 1 always starts from the base."""
    select: SelectConfig = SelectConfig()
    propose: ProposeConfig = ProposeConfig()
    propagate: PropagateConfig = PropagateConfig()
    weights: OriginWeights = OriginWeights()
    replay: float = Field(1.0, ge=0, le=1)
    """How much the masks of earlier rounds count beside this round's, against forgetting; 0 leaves
    them out."""
    lesion_in_text: bool = False
    """Learn, and ask for, the lesion of an analysed segment by both names too: mid RCA stenosis."""
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    gate: GateConfig = GateConfig()

    def label_set(self) -> LabelSet:
        """The label set the file names."""
        return read_labels(self.labels)


def config_path(conf: Path, number: int) -> Path:
    """The file of a round: its own, else that of the last round before it.

    Raises:
        ConfigError: the folder has no file for this round or an earlier one.
    """
    found = {
        int(match[1]): path
        for path in conf.glob("round-*.yaml")
        if (match := _FILE.match(path.name))
    }
    earlier = [known for known in found if known <= number]
    if not earlier:
        raise ConfigError(
            f"{conf}: no round-{number:02d}.yaml or one of an earlier round; give another --conf"
        )
    return found[max(earlier)]


def read_round_config(conf: Path, number: int, overrides: Sequence[str] = ()) -> RoundConfig:
    """A round's configuration, with its label set's path resolved.

    Raises:
        ConfigError: every problem of the file at once.
    """
    config = read_config(config_path(conf, number), RoundConfig, overrides)
    return config.model_copy(update={"labels": (conf / config.labels).resolve()})

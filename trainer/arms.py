"""Did the selection find cases worth correcting, more than chance does? One round's two arms.

Compared is how much of the model's proposals the experts had to change, case by case. That says
where the model had most to learn, and not what it learnt: for that, train on either arm alone.
Knows no model.
"""

from collections.abc import Sequence

import numpy as np

from casebook.corrections import Corrections, MaskChange
from casebook.documents import Document
from casebook.rounds import Manifest
from trainer.scores import Mean, mean_of

_RESAMPLES = 10_000
_SEED = 0


class ArmComparison(Document):
    """How far experts changed the proposals, 0 not at all to 1 wholly, by arm of the selection."""

    strategy: str
    chosen: Mean
    """Cases the strategy chose."""
    control: Mean
    """Cases drawn at random."""
    difference: Mean
    """Chosen minus random; `n` is the number of both. Above 0: the strategy found the harder."""

    @property
    def verdict(self) -> str:
        """What the interval says, in a sentence."""
        if self.difference.low > 0:
            return f"{self.strategy} chose cases on which the model was more wrong than on random"
        if self.difference.high < 0:
            return f"{self.strategy} chose cases on which the model was less wrong than on random"
        return "the interval contains 0: not to be told from drawing at random"


def compare_arms(manifest: Manifest, corrections: Corrections) -> ArmComparison | None:
    """The two arms of a round; nothing where one has fewer than two cases with a mask.

    Frames the experts rejected are left out: there is nothing to learn from them.
    """
    if manifest.strategy == "random":
        return None
    changed: dict[str, list[float]] = {}
    for change in corrections.changes:
        changed.setdefault(change.at.case_id, []).append(_share(change))
    rejected = {at.case_id for at in corrections.rejected}
    arms: dict[str, list[float]] = {"strategy": [], "control": []}
    for line in manifest.cases:
        shares = changed.get(line.at.case_id)
        if shares and line.at.case_id not in rejected:
            arms[line.arm].append(sum(shares) / len(shares))
    if min(map(len, arms.values())) < 2:
        return None
    return ArmComparison(
        strategy=manifest.strategy,
        chosen=mean_of(arms["strategy"]),
        control=mean_of(arms["control"]),
        difference=_difference(arms["strategy"], arms["control"]),
    )


def _share(change: MaskChange) -> float:
    """How much of a proposal had to be changed; all of one that was missed or deleted."""
    if change.outcome == "accepted":
        return 0.0
    return 1.0 if change.iou is None else 1.0 - change.iou


def _difference(ours: Sequence[float], theirs: Sequence[float]) -> Mean:
    """Difference of two means with its 95 % percentile bootstrap interval, each side drawn anew.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13.
    """
    generator = np.random.default_rng(_SEED)
    a, b = (np.asarray(side, dtype=np.float64) for side in (ours, theirs))
    draws = [
        side[generator.integers(0, side.size, size=(_RESAMPLES, side.size))].mean(axis=1)
        for side in (a, b)
    ]
    low, high = np.quantile(draws[0] - draws[1], [0.025, 0.975])
    return Mean(
        mean=float(a.mean() - b.mean()), low=float(low), high=float(high), n=int(a.size + b.size)
    )

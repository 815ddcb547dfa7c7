"""What an expert changed: results of one frame matched with its proposals, label by label.

Knows masks and labels; knows nothing of CVAT.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from casebook import metrics
from casebook.cases import FrameRef
from casebook.corrections import MaskChange


@dataclass(frozen=True)
class Drawn:
    """A mask with its label and, when a model made it, the model."""

    label: str
    bitmap: Bool[np.ndarray, "h w"]
    model_id: str | None = None
    score: float | None = None


@dataclass(frozen=True)
class Match:
    """A result beside the proposal it came from, if any; both are never absent."""

    result: int | None
    """Position among the results."""
    proposal: int | None
    """Position among the proposals."""
    change: MaskChange


def compare(
    at: FrameRef, proposals: Sequence[Drawn], results: Sequence[Drawn]
) -> tuple[Match, ...]:
    """Every result and every proposal of a frame, each exactly once.

    Within a label the pairs that agree best are matched first; a pair without a common pixel is
    not one: the proposal was deleted and the result added.
    """
    pairs = sorted(
        (
            (-metrics.iou(proposal.bitmap, result.bitmap), i, j)
            for i, result in enumerate(results)
            for j, proposal in enumerate(proposals)
            if result.label == proposal.label and (result.bitmap & proposal.bitmap).any()
        ),
    )
    matches: list[Match] = []
    used_results: set[int] = set()
    used_proposals: set[int] = set()
    for negative_iou, i, j in pairs:
        if i in used_results or j in used_proposals:
            continue
        used_results.add(i)
        used_proposals.add(j)
        changed_px = int(np.count_nonzero(results[i].bitmap ^ proposals[j].bitmap))
        change = MaskChange(
            at=at,
            label=results[i].label,
            outcome="refined" if changed_px else "accepted",
            iou=-negative_iou,
            changed_px=changed_px,
            model_id=proposals[j].model_id,
        )
        matches.append(Match(i, j, change))
    for i, result in enumerate(results):
        if i not in used_results:
            area = int(np.count_nonzero(result.bitmap))
            change = MaskChange(at=at, label=result.label, outcome="added", changed_px=area)
            matches.append(Match(i, None, change))
    for j, proposal in enumerate(proposals):
        if j not in used_proposals:
            change = MaskChange(
                at=at,
                label=proposal.label,
                outcome="deleted",
                changed_px=int(np.count_nonzero(proposal.bitmap)),
                model_id=proposal.model_id,
            )
            matches.append(Match(None, j, change))
    return tuple(matches)

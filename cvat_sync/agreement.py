"""How far people agree who did the same job: CVAT's consensus replicas, pair by pair.

Knows masks and labels; knows nothing of CVAT.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Bool

from casebook import masks, metrics
from casebook.cases import FrameRef
from casebook.catalogue import Catalogue
from casebook.corrections import Agreement
from casebook.errors import DataError
from casebook.rounds import RoundFolder
from cvat_sync.pulled import PulledJob
from cvat_sync.pushed import Pushed

_Drawn = dict[str, Bool[np.ndarray, "h w"]]


def agreement(
    folder: RoundFolder, pushed: Pushed, replicas: Sequence[PulledJob]
) -> tuple[Agreement, ...]:
    """Mean and lowest Dice by label over all pairs of replicas of a job, frame by frame.

    A frame on which neither of two people drew a label says nothing about it; one on which only
    one of them did counts as no agreement. Masks that are damaged are left out.
    """
    catalogue = Catalogue(folder.home)
    frames = {task.task_id: task.frames for task in pushed.tasks}
    by_parent: dict[int, list[PulledJob]] = {}
    for job in replicas:
        if job.parent_id is not None:
            by_parent.setdefault(job.parent_id, []).append(job)
    scores: dict[str, list[float]] = {}
    for same in by_parent.values():
        for position in same[0].positions:
            at = FrameRef.from_file_name(frames[same[0].task_id][position])
            if at is None:
                continue
            case = catalogue.get(at.case_id)
            hw = (case.height_px, case.width_px)
            drawn = [_drawn(job, position, hw) for job in same]
            for one, other in combinations(drawn, 2):
                for label in set(one) | set(other):
                    nothing = np.zeros(hw, dtype=bool)
                    pair = one.get(label, nothing), other.get(label, nothing)
                    scores.setdefault(label, []).append(metrics.dice(*pair))
    return tuple(
        Agreement(
            label=label,
            pairs=len(found),
            dice_mean=float(np.mean(found)),
            dice_min=min(found),
        )
        for label, found in sorted(scores.items())
    )


def _drawn(job: PulledJob, position: int, hw: tuple[int, int]) -> _Drawn:
    """What a person drew on a frame, by label."""
    found: _Drawn = {}
    for shape in job.shapes:
        if shape.frame != position or shape.type != "mask" or not shape.label:
            continue
        try:
            bitmap = masks.from_cvat(shape.points, hw)
        except DataError:
            continue
        found[shape.label] = found[shape.label] | bitmap if shape.label in found else bitmap
    return found

"""Frames CVAT keeps for its quality page: a ground truth job, or honeypots among all jobs.

Pure: from file names to the order of frames, the cut into jobs and the frames an expert annotates.
Source: cvat-ai/cvat, cvat/apps/engine/task.py.
"""

import random
from dataclasses import dataclass

from demo.standin.replies import RefusalError
from demo.standin.store import Record

_MODES = {"gt", "gt_pool"}


@dataclass(frozen=True)
class Layout:
    """How a task's files become frames and jobs."""

    names: tuple[str, ...]
    """File of each frame; with honeypots some appear several times."""
    cuts: tuple[tuple[int, int], ...]
    """First and last frame of each ordinary job."""
    truth: tuple[int, ...] = ()
    """Frames of the ground truth job, if there is one."""


def check(params: Record, fields: Record) -> None:
    """Refuse what CVAT refuses before it reads a file.

    Raises:
        RefusalError: an unknown mode, or honeypots in an order that is not random.
    """
    mode = params.get("mode")
    if mode not in _MODES:
        raise RefusalError(400, {"validation_params": [f'"{mode}" is not a valid choice.']})
    if mode == "gt_pool" and fields.get("sorting_method") != "random":
        raise RefusalError(
            400,
            'validation mode "gt_pool" can only be used with sorting method "random"',
        )


def _count(params: Record, n: int) -> int:
    if params.get("frame_count"):
        return int(params["frame_count"])
    if params.get("frame_share"):
        return max(1, int(n * float(params["frame_share"])))
    raise RefusalError(400, "The number of validation frames is not specified")


def ground_truth(names: list[str], cuts: list[tuple[int, int]], params: Record) -> Layout:
    """Some frames are annotated once more, in a job of their own."""
    generator = random.Random(params.get("random_seed"))  # noqa: S311 - not for secrets
    chosen = generator.sample(range(len(names)), _count(params, len(names)))
    return Layout(tuple(names), tuple(cuts), tuple(sorted(chosen)))


def honeypots(names: list[str], segment_size: int, params: Record) -> Layout:
    """Some frames go to an expert alone and are hidden, as copies, among those of each job."""
    generator = random.Random(params.get("random_seed"))  # noqa: S311 - not for secrets
    names = sorted(names)
    pool = sorted(generator.sample(names, _count(params, len(names))))
    others = [name for name in names if name not in set(pool)]
    if not others:
        raise RefusalError(
            400,
            "Cannot create task: too few non-honeypot frames left after selecting validation"
            " frames",
        )
    generator.shuffle(others)
    per_job = min(int(params.get("frames_per_job_count") or 1), len(pool))
    size = segment_size or len(others)
    order: list[str] = []
    cuts: list[tuple[int, int]] = []
    for start in range(0, len(others), size):
        frames = [*others[start : start + size], *generator.sample(pool, per_job)]
        generator.shuffle(frames)
        cuts.append((len(order), len(order) + len(frames) - 1))
        order += frames
    truth = tuple(range(len(order), len(order) + len(pool)))
    return Layout((*order, *pool), tuple(cuts), truth)

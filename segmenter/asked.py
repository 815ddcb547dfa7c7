"""Whole frames of a round, and what a training step asks of them by name, and where.

Knows no model, and no label beyond its name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from casebook.cases import View
from segmenter.prompts import worded

NAME_FIRST = 0.75
"""Share of the frames of a step in tiles that are drawn for a name boxes never ask for."""
ON_TARGET = 0.7
"""Share of tiles laid where what is asked for is."""


@dataclass(frozen=True)
class Whole:
    """A decoded whole frame with the instances of each of its concepts."""

    pixels: UInt8[np.ndarray, "s s"]
    instances: Mapping[str, Bool[np.ndarray, "n s s"]]
    absent: tuple[str, ...]
    view: View | None
    similar: tuple[str, ...] = ()

    def worded(self, concept: str, *, with_view: bool) -> str:
        """What is asked for a concept in this frame."""
        return worded(concept, self.view if with_view else None)

    def missing(self, rng: np.random.Generator, hard: float) -> str:
        """Something to ask for that is not there.

        Args:
            hard: Share of what is easily taken for what is there.
        """
        is_hard = bool(hard and self.similar) and rng.random() < hard
        return str(rng.choice(self.similar if is_hard else self.absent))


@dataclass(frozen=True)
class Glance:
    """A tile of a frame and the names asked for in it."""

    whole: Whole
    labels: tuple[str, ...]
    centre_xy: Float64[np.ndarray, " 2"]
    """Middle of the tile; -1 and 1 are the frame's edges."""


def glances(
    wholes: Sequence[Whole],
    by_name: frozenset[str],
    count: int,
    share: float,
    rng: np.random.Generator,
) -> list[Glance]:
    """Tiles to learn concepts in.

    What boxes never ask for is learnt by its name alone, so most frames are drawn for such a name,
    each as often as another however few frames show it; another name of the frame is asked too.

    Args:
        by_name: Names that boxes never ask for.
        share: Side of a tile over the frame's.
    """
    holders = {
        name: [whole for whole in wholes if name in whole.instances] for name in sorted(by_name)
    }
    known = [name for name, there in holders.items() if there]
    found = []
    for _ in range(count):
        if known and rng.random() < NAME_FIRST:
            first = str(rng.choice(known))
            whole = holders[first][int(rng.integers(len(holders[first])))]
        else:
            whole = wholes[int(rng.integers(len(wholes)))]
            first = str(rng.choice(sorted(whole.instances)))
        others = [name for name in sorted(whole.instances) if name != first]
        labels = (first, str(rng.choice(others))) if others else (first,)
        found.append(Glance(whole, labels, _centre(whole, first, share, rng)))
    return found


def _centre(
    whole: Whole, label: str, share: float, rng: np.random.Generator
) -> Float64[np.ndarray, " 2"]:
    """Where a tile is laid: near a pixel of what is asked for, or anywhere."""
    ys, xs = np.nonzero(whole.instances[label].any(axis=0))
    if len(ys) and rng.random() < ON_TARGET:
        index = int(rng.integers(len(ys)))
        side = whole.pixels.shape[0]
        at = (np.array([xs[index], ys[index]]) + 0.5) / side * 2 - 1
        at += rng.uniform(-0.5, 0.5, size=2) * share
    else:
        at = rng.uniform(-1, 1, size=2)
    return np.asarray(at.clip(share - 1, 1 - share))

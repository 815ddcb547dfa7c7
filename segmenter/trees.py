"""Generic synthetic trees: thin tubes that branch and cross, over bands, spots and grain.

What rivers, roots, cracks and veins have in common; nothing here is taken from, or made to look
like, any medical image. Knows nothing of models.
"""

import math
import string

import numpy as np
from jaxtyping import Float

from segmenter.shapes import (
    EDGE_OPACITY,
    Line,
    Picture,
    Thing,
    draw_ground,
    draw_line,
    finished,
    line_words,
    outline_of,
    paint_line,
    paint_outline,
    smooth_field,
    stretch_of,
)

TREE_WORDS = ("tree", "branching lines")
"""What a tree is called, beside the words of `segmenter/shapes.py` for its lines."""
_TWIG_PX = 1.2
_MOST_LINES = 14


def made_up_name(rng: np.random.Generator) -> str:
    """One to three words that mean nothing."""
    letters = list(string.ascii_letters[:26])
    words = [
        "".join(rng.choice(letters, size=int(rng.integers(2, 11))))
        for _ in range(int(rng.integers(1, 4)))
    ]
    return " ".join(words)


def _grow(rng: np.random.Generator, side: int, width_px: float) -> list[tuple[Line, bool]]:
    """The lines of one tree, its root first, each with whether it is a branch of another."""
    # Often only a part of the tree is in the picture.
    start = rng.uniform(-0.35, 1.35, size=2) * side
    aim = rng.uniform(0.25, 0.75, size=2) * side - start
    root = draw_line(rng, side, start, math.atan2(aim[1], aim[0]) + rng.normal(0, 0.3), width_px)
    lines, young = [(root, False)], [root]
    while young and len(lines) < _MOST_LINES:
        parent = young.pop(0)
        for _ in range(int(rng.choice([0, 1, 2, 3, 4], p=[0.15, 0.25, 0.3, 0.2, 0.1]))):
            at = int(rng.integers(2, max(3, len(parent.points_xy) - 2)))
            width = float(parent.width_px[at]) * rng.uniform(0.5, 0.9)
            if width < _TWIG_PX:
                continue
            ahead = parent.points_xy[at] - parent.points_xy[at - 1]
            turn = rng.uniform(0.25, 1.3) * (1 if rng.random() < 0.5 else -1)
            heading = math.atan2(ahead[1], ahead[0]) + turn
            branch = draw_line(rng, side, parent.points_xy[at], heading, width)
            lines.append((branch, True))
            young.append(branch)
    return lines


def _band(rng: np.random.Generator, side: int) -> Float[np.ndarray, "s s"]:
    """A wide stripe with soft edges across the picture, straight or a little bent."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    turn = rng.uniform(0, math.pi)
    along = (x - side / 2) * math.cos(turn) + (y - side / 2) * math.sin(turn)
    across = (y - side / 2) * math.cos(turn) - (x - side / 2) * math.sin(turn)
    across = across - rng.uniform(-0.5, 0.5) * side + rng.uniform(-0.004, 0.004) * along**2
    half, soft = rng.uniform(0.04, 0.2) * side, rng.uniform(1.0, 8.0)
    return np.asarray(1 / (1 + np.exp(np.clip((np.abs(across) - half) / soft, -30, 30))))


def _distract(rng: np.random.Generator, ground: np.ndarray) -> list[Thing]:
    """Paint bands and shapes, which are no lines, into the ground; the shapes come back."""
    side = ground.shape[0]
    for _ in range(int(rng.choice([0, 1, 2, 4], p=[0.3, 0.3, 0.25, 0.15]))):
        ground += rng.uniform(-0.15, 0.15) * _band(rng, side)
    things = []
    for _ in range(int(rng.choice([0, 1, 2], p=[0.5, 0.35, 0.15]))):
        kind = str(rng.choice(["blob", "ring", "polygon"]))
        opacity = paint_outline(rng, side, outline_of(rng, side, kind), kind)
        is_dark = bool(rng.random() < 0.5)
        ground += (-1 if is_dark else 1) * rng.uniform(0.03, 0.25) * opacity
        if (opacity > 0.5).sum() >= 40:
            things.append(Thing(opacity > 0.5, (kind, "dark shape" if is_dark else "bright shape")))
    return things


def draw_trees(rng: np.random.Generator, side: int = 128) -> Picture:
    """A picture with one to three trees; the same generator state draws the same one.

    Thin lines are fainter than thick ones, as tubes filled with a dye are.

    Args:
        side: Side of the square, px.
    """
    ground = draw_ground(rng, side)
    things = _distract(rng, ground)
    is_dark = bool(rng.random() < 0.85)
    contrast = rng.uniform(0.12, 0.5)
    targets: list[np.ndarray] = []
    widest = float(np.exp(rng.uniform(math.log(2.0), math.log(9.0))))
    for _ in range(int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))):
        lines = _grow(rng, side, widest * rng.uniform(0.6, 1.2))
        whole = np.zeros((side, side), dtype=np.float32)
        seen = np.zeros_like(whole)
        # Dye thins out along a tree, and from place to place.
        uneven = 1 + rng.uniform(0, 0.25) * smooth_field(rng, side, 4)
        for line, is_branch in lines:
            opacity = paint_line(side, line, 0, len(line.points_xy) - 1)
            fill = math.sqrt(min(1.0, float(np.median(line.width_px)) / widest))
            seen = np.maximum(seen, fill * opacity)
            bitmap = opacity > EDGE_OPACITY
            if bitmap.sum() < 15:
                continue
            whole = np.maximum(whole, opacity)
            words = line_words(line, is_branch=is_branch, is_dark=is_dark)
            things.append(Thing(bitmap, words))
            if line.narrow is not None:
                narrow = paint_line(side, line, *line.narrow) > EDGE_OPACITY
                if narrow.sum() >= 8:
                    things.append(Thing(narrow, ("narrowing",)))
            stretch = stretch_of(rng, side, line)
            if stretch is not None:
                targets.append(stretch)
        ground += (-contrast if is_dark else contrast) * seen * uneven
        if (whole > EDGE_OPACITY).sum() >= 60:
            things.append(Thing(whole > EDGE_OPACITY, TREE_WORDS))
    if not targets or not any(TREE_WORDS[0] in thing.words for thing in things):
        return draw_trees(rng, side)
    return Picture(finished(rng, ground, contrast), tuple(things), tuple(targets))

"""Generic synthetic pictures for pre-training: lines, blobs, rings and polygons on textured ground.

Nothing here is taken from, or made to look like, any medical image. Knows nothing of models.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFilter

WORDS = (
    "line",
    "thin line",
    "thick line",
    "branch",
    "narrowing",
    "blob",
    "ring",
    "polygon",
    "dark line",
    "bright line",
    "dark shape",
    "bright shape",
)
"""Every concept a picture may be asked for."""

_SUPERSAMPLING = 2


@dataclass(frozen=True)
class Thing:
    """One object of a picture with the words that describe it."""

    bitmap: Bool[np.ndarray, "s s"]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A grey square with its objects and with the single masks a box or click may ask for."""

    pixels: UInt8[np.ndarray, "s s"]
    things: tuple[Thing, ...]
    targets: tuple[Bool[np.ndarray, "s s"], ...]
    """At least one; stretches of lines, or whole objects."""


@dataclass(frozen=True)
class _Line:
    """A curve with its local width; both at the picture's scale."""

    points_xy: Float[np.ndarray, "n 2"]
    width_px: Float[np.ndarray, " n"]
    narrow: tuple[int, int] | None


def _walk(rng: np.random.Generator, side: int, start_xy: np.ndarray, heading: float) -> np.ndarray:
    """A smooth path: a heading that drifts, sampled every few pixels."""
    step_px = 3.0
    count = int(rng.uniform(0.35, 1.5) * side / step_px)
    knots = rng.normal(0.0, rng.uniform(0.02, 0.13), size=max(4, count // 6))
    bend = np.interp(np.linspace(0, len(knots) - 1, count), np.arange(len(knots)), knots)
    headings = heading + np.cumsum(bend)
    moves = step_px * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    return np.asarray(start_xy + np.cumsum(moves, axis=0))


def _widths(
    rng: np.random.Generator, count: int, width_px: float
) -> tuple[np.ndarray, tuple[int, int] | None]:
    """Width along a line, tapering and wavy, sometimes with one local narrowing."""
    along = np.linspace(0.0, 1.0, count)
    widths = width_px * (1.0 - rng.uniform(0.0, 0.6) * along)
    widths *= 1.0 + rng.uniform(0.0, 0.12) * np.sin(
        along * rng.uniform(5, 40) + rng.uniform(0, 2 * math.pi)
    )
    narrow = None
    if count >= 14 and rng.random() < 0.45:
        centre = rng.integers(5, count - 5)
        half = rng.uniform(1.2, 4.0)
        depth = rng.uniform(0.25, 0.85)
        widths *= 1.0 - depth * np.exp(-(((np.arange(count) - centre) / half) ** 2))
        if depth > 0.4:
            reach = round(1.6 * half) + 1
            narrow = (max(0, int(centre) - reach), min(count - 1, int(centre) + reach))
    return np.maximum(widths, 1.0), narrow


def _line(
    rng: np.random.Generator, side: int, start_xy: np.ndarray, heading: float, width_px: float
) -> _Line:
    points = _walk(rng, side, start_xy, heading)
    widths, narrow = _widths(rng, len(points), width_px)
    return _Line(points, widths, narrow)


def _edges(line: _Line, scale: float) -> tuple[np.ndarray, np.ndarray]:
    tangent = np.gradient(line.points_xy, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-6)
    offset = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) * line.width_px[:, None] / 2 * scale
    return line.points_xy + offset, line.points_xy - offset


def _paint_line(side: int, line: _Line, first: int, last: int) -> np.ndarray:
    """Opacity 0..1 of a stretch, thicker in its middle as a tube seen through is."""
    big = side * _SUPERSAMPLING
    layer = Image.new("L", (big, big))
    draw = ImageDraw.Draw(layer)
    for scale, value in ((1.0, 130), (0.75, 200), (0.45, 255)):
        left, right = _edges(line, scale)
        quads = np.concatenate(
            [
                left[first:last],
                left[first + 1 : last + 1],
                right[first + 1 : last + 1],
                right[first:last],
            ],
            axis=1,
        )
        for quad in ((quads + 0.5) * _SUPERSAMPLING - 0.5).tolist():
            draw.polygon(quad, fill=value)
    return _reduced(layer)


def _reduced(layer: Image.Image) -> np.ndarray:
    return np.asarray(layer.reduce(_SUPERSAMPLING), dtype=np.float32) / 255.0


_EDGE_OPACITY = 0.25  # half of the outermost tube value


def _stretch(rng: np.random.Generator, side: int, line: _Line) -> Bool[np.ndarray, "s s"] | None:
    """The mask of a random stretch that lies in the picture."""
    inside = np.flatnonzero(((line.points_xy > 2) & (line.points_xy < side - 3)).all(axis=1))
    if len(inside) < 6:
        return None
    # The longest run of consecutive samples inside.
    runs = np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1)
    run = runs[int(np.argmax([len(part) for part in runs]))]
    if len(run) < 6:
        return None
    length = min(len(run), int(rng.integers(9, 44)))
    offset = int(rng.integers(0, len(run) - length + 1))
    first, last = int(run[offset]), int(run[offset + length - 1])
    bitmap = _paint_line(side, line, first, last) > _EDGE_OPACITY
    return bitmap if bitmap.sum() >= 12 else None


def _outline(rng: np.random.Generator, side: int, kind: str) -> np.ndarray:
    centre = rng.uniform(0.12, 0.88, size=2) * side
    radius = rng.uniform(0.05, 0.28) * side
    if kind == "polygon":
        angles = np.sort(rng.uniform(0, 2 * math.pi, size=int(rng.integers(3, 7))))
        radii = radius * rng.uniform(0.6, 1.1, size=len(angles))
    else:
        angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
        radii = np.full(40, radius)
        if kind == "blob":
            for order in (2, 3, 4):
                radii *= 1 + rng.uniform(0, 0.25) / order * 2 * np.sin(
                    order * angles + rng.uniform(0, 2 * math.pi)
                )
    squeeze = rng.uniform(0.5, 1.0)
    turn = rng.uniform(0, math.pi)
    x, y = radii * np.cos(angles), squeeze * radii * np.sin(angles)
    return np.asarray(
        centre
        + np.stack(
            [x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)],
            axis=1,
        )
    )


def _paint_outline(
    rng: np.random.Generator, side: int, outline_xy: np.ndarray, kind: str
) -> np.ndarray:
    big = side * _SUPERSAMPLING
    layer = Image.new("L", (big, big))
    draw = ImageDraw.Draw(layer)
    draw.polygon((outline_xy * _SUPERSAMPLING).ravel().tolist(), fill=255)
    if kind == "ring":
        centre = outline_xy.mean(axis=0)
        hole = centre + (outline_xy - centre) * rng.uniform(0.45, 0.85)
        draw.polygon((hole * _SUPERSAMPLING).ravel().tolist(), fill=0)
    return _reduced(layer)


def _field(rng: np.random.Generator, side: int, cells: int) -> np.ndarray:
    """A smooth random field with the given number of cells along a side, about unit variance."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)


def _ground(rng: np.random.Generator, side: int) -> np.ndarray:
    ground = np.full((side, side), rng.uniform(0.25, 0.8), dtype=np.float32)
    ground += rng.uniform(0.0, 0.10) * _field(rng, side, 3)
    ground += rng.uniform(0.0, 0.06) * _field(rng, side, int(rng.integers(5, 10)))
    if rng.random() < 0.5:
        ground += rng.uniform(0.0, 0.05) * _field(rng, side, int(rng.integers(14, 40)))
    return ground


def _line_words(line: _Line, *, is_branch: bool, is_dark: bool) -> tuple[str, ...]:
    width = float(np.median(line.width_px))
    words = ["line", "dark line" if is_dark else "bright line"]
    words.append("thin line" if width < 5 else "thick line")
    if is_branch:
        words.append("branch")
    return tuple(words)


def draw_picture(rng: np.random.Generator, side: int = 128) -> Picture:
    """A random picture; the same generator state draws the same one.

    Lines cross and hide one another, and shapes lie over and under them, so that a box around a
    stretch usually holds something else as well.

    Args:
        side: Side of the square, px.
    """
    ground = _ground(rng, side)
    # Most lines of a picture share a sign of contrast; some do not.
    dark = rng.random() < 0.85
    contrast = rng.uniform(0.08, 0.45)
    things: list[Thing] = []
    targets: list[Bool[np.ndarray, "s s"]] = []

    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.45, 0.3, 0.15, 0.1]))):
        kind = str(rng.choice(["blob", "ring", "polygon"]))
        opacity = _paint_outline(rng, side, _outline(rng, side, kind), kind)
        is_dark = bool(rng.random() < 0.5)
        strength = rng.uniform(0.05, 0.4)
        ground += (-strength if is_dark else strength) * opacity
        bitmap = opacity > 0.5
        if bitmap.sum() >= 40:
            things.append(Thing(bitmap, (kind, "dark shape" if is_dark else "bright shape")))
            if rng.random() < 0.6:
                targets.append(bitmap)

    lines: list[tuple[_Line, bool]] = []
    base_width = float(np.exp(rng.uniform(math.log(2.0), math.log(10.0))))
    for _ in range(int(rng.choice([1, 2, 3, 4], p=[0.3, 0.35, 0.2, 0.15]))):
        start = rng.uniform(-0.05, 1.05, size=2) * side
        heading = math.atan2(*(rng.uniform(0.25, 0.75, size=2) * side - start)[::-1])
        width = base_width * rng.uniform(0.5, 1.4)
        trunk = _line(rng, side, start, heading + rng.normal(0, 0.35), width)
        lines.append((trunk, False))
        for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.35, 0.3, 0.2, 0.15]))):
            at = int(rng.integers(2, max(3, len(trunk.points_xy) - 4)))
            ahead = trunk.points_xy[at] - trunk.points_xy[at - 1]
            turn = rng.uniform(0.3, 1.3) * (1 if rng.random() < 0.5 else -1)
            branch = _line(
                rng,
                side,
                trunk.points_xy[at],
                math.atan2(ahead[1], ahead[0]) + turn,
                float(trunk.width_px[at]) * rng.uniform(0.5, 0.95),
            )
            lines.append((branch, True))

    for line, is_branch in lines:
        opacity = _paint_line(side, line, 0, len(line.points_xy) - 1)
        is_dark = dark if rng.random() < 0.9 else not dark
        strength = contrast * rng.uniform(0.6, 1.2)
        if rng.random() < 0.3:
            opacity_seen = (opacity > _EDGE_OPACITY).astype(np.float32)
        else:
            opacity_seen = opacity
        ground += (-strength if is_dark else strength) * opacity_seen
        bitmap = opacity > _EDGE_OPACITY
        if bitmap.sum() < 20:
            continue
        things.append(Thing(bitmap, _line_words(line, is_branch=is_branch, is_dark=is_dark)))
        if line.narrow is not None:
            narrow = _paint_line(side, line, *line.narrow) > _EDGE_OPACITY
            if narrow.sum() >= 8:
                things.append(Thing(narrow, ("narrowing",)))

    for index in rng.permutation(len(lines))[:4]:
        stretch = _stretch(rng, side, lines[index][0])
        if stretch is not None:
            targets.append(stretch)

    if not targets:
        return draw_picture(rng, side)
    return Picture(_finished(rng, ground, contrast), tuple(things), tuple(targets))


def _finished(
    rng: np.random.Generator, ground: np.ndarray, contrast: float
) -> UInt8[np.ndarray, "s s"]:
    """Blur, noise that leaves the weakest line visible, and quantisation."""
    side = ground.shape[0]
    picture = Image.fromarray(np.clip(ground * 255.0, 0, 255).astype(np.uint8))
    if rng.random() < 0.8:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.6)))
    values = np.asarray(picture, dtype=np.float32)
    amount = rng.uniform(0.0, min(18.0, 110.0 * contrast))
    noise = rng.standard_normal((side, side), dtype=np.float32)
    if rng.random() < 0.5:
        noise = 0.5 * (noise + np.roll(noise, 1, axis=0))
        noise = noise + np.roll(noise, 1, axis=1)
    values = values + amount * noise
    return np.clip(values, 0, 255).astype(np.uint8)

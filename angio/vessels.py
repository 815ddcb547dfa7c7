"""From a vessel's mask to its centreline and diameters, in px.

Knows nothing of millimetres, lesions or images.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from angio.thinning import thinned
from casebook.errors import QcaError

STEP_PX = 0.5
"""Distance between neighbouring centreline points."""
SMOOTH_PX = 2.5
"""Standard deviation of the centreline's smoothing."""
LENGTH_MIN_PX = 12.0
"""Shorter vessels have no direction to measure across."""
REACH_PX = 40.0
"""How far from the centreline a mask's edge is looked for."""
SECTION_MAX = 4.0
"""Longest half of a section, in half widths of the vessel where it is widest."""
ACROSS_PX = 0.25
"""Distance between samples across the vessel."""
TAIL_PX = 1.5
"""How far beyond its edge a mask, interpolated between pixels, can still be above 0."""
FIRST_SHARE = 0.4
"""Part of a section that is looked at first."""
CENTRINGS = 2
"""How often the line is moved to the middle between the edges."""
SHIFT_MAX_PX = 2.0
"""Most that it moves each time: at a branch the middle of the mask is not the vessel's."""

_EIGHT = np.ones((3, 3), dtype=bool)
_ALL_SET = np.uint8(15)
"""A bit for each of four pixels."""
_SOME_SET = np.uint8(14)
"""What of that number plus one is set unless all four pixels are, or none is."""


@dataclass(frozen=True)
class Centreline:
    """The middle of one vessel, from end to end, in even steps."""

    points_xy: Float64[np.ndarray, "n 2"]
    normals_xy: Float64[np.ndarray, "n 2"]
    """Unit vectors across the vessel."""

    @property
    def along_px(self) -> Float64[np.ndarray, " n"]:
        """Distance from the first point."""
        steps = np.linalg.norm(np.diff(self.points_xy, axis=0), axis=1)
        return np.concatenate([[0.0], np.cumsum(steps)])

    @property
    def length_px(self) -> float:
        """Length of the vessel."""
        return float(self.along_px[-1])


def _largest(bitmap: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    numbered, count = ndimage.label(bitmap, structure=_EIGHT)
    if count <= 1:
        return bitmap
    return np.asarray(numbered == int(np.argmax(np.bincount(numbered.ravel())[1:])) + 1)


def _longest_path(skeleton: Bool[np.ndarray, "h w"]) -> Int64[np.ndarray, "k 2"]:
    """Rows and columns of the longest shortest path through a skeleton."""
    ys, xs = np.nonzero(skeleton)
    number = np.full(skeleton.shape, -1, dtype=np.int64)
    number[ys, xs] = np.arange(len(ys))
    sources, targets, lengths = [], [], []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        y, x = ys + dy, xs + dx
        inside = (y < skeleton.shape[0]) & (x >= 0) & (x < skeleton.shape[1])
        other = np.full(len(ys), -1, dtype=np.int64)
        other[inside] = number[y[inside], x[inside]]
        linked = other >= 0
        sources.append(np.flatnonzero(linked))
        targets.append(other[linked])
        lengths.append(np.full(int(linked.sum()), np.hypot(dy, dx)))
    graph = coo_matrix(
        (np.concatenate(lengths), (np.concatenate(sources), np.concatenate(targets))),
        shape=(len(ys), len(ys)),
    ).tocsr()
    far = dijkstra(graph, directed=False, indices=0)
    start = int(np.argmax(np.where(np.isfinite(far), far, -1)))
    far, before = dijkstra(graph, directed=False, indices=start, return_predecessors=True)
    at = int(np.argmax(np.where(np.isfinite(far), far, -1)))
    path = [at]
    while at != start:
        at = int(before[at])
        path.append(at)
    return np.stack([ys[path], xs[path]], axis=1)


def _even(points_xy: Float64[np.ndarray, "k 2"]) -> Float64[np.ndarray, "n 2"]:
    """The same line in steps of `STEP_PX`."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points_xy, axis=0), axis=1))])
    wanted = np.arange(0.0, along[-1] + 1e-9, STEP_PX)
    return np.stack([np.interp(wanted, along, points_xy[:, axis]) for axis in (0, 1)], axis=1)


def _smoothed(points_xy: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
    """The line smoothed, its ends kept: beyond them it is continued by its mirror point."""
    return np.asarray(
        ndimage.gaussian_filter1d(
            np.concatenate([2 * points_xy[:1] - points_xy[:0:-1], points_xy,
                            2 * points_xy[-1:] - points_xy[-2::-1]]),
            SMOOTH_PX / STEP_PX, axis=0,
        )[len(points_xy) - 1 : 2 * len(points_xy) - 1]
    )  # fmt: skip


def _to_the_edge(
    points_xy: Float64[np.ndarray, "n 2"], bitmap: Bool[np.ndarray, "h w"]
) -> Float64[np.ndarray, "m 2"]:
    """The line continued straight at both ends until it leaves the mask: skeletons stop short."""
    height, width = bitmap.shape
    ends = []
    for end, inner in ((points_xy[0], points_xy[:16]), (points_xy[-1], points_xy[:-17:-1])):
        direction = end - inner[-1]
        direction = direction / max(float(np.linalg.norm(direction)), 1e-9)
        more = []
        for step in range(1, 80):
            x, y = end + direction * step * STEP_PX
            column, row = round(float(x)), round(float(y))
            if not (0 <= row < height and 0 <= column < width and bitmap[row, column]):
                break
            more.append((float(x), float(y)))
        ends.append(np.array(more, dtype=np.float64).reshape(-1, 2))
    return np.concatenate([ends[0][::-1], points_xy, ends[1]])


def _tangents(points_xy: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
    """Unit vectors along a line, smoothed."""
    along = ndimage.gaussian_filter1d(np.gradient(points_xy, axis=0), SMOOTH_PX / STEP_PX, axis=0)
    return np.asarray(along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9))


def _line(points_xy: Float64[np.ndarray, "n 2"]) -> Centreline:
    tangents = _tangents(points_xy)
    return Centreline(points_xy, np.stack([tangents[:, 1], -tangents[:, 0]], axis=1))


def _centred(line: Centreline, bitmap: Bool[np.ndarray, "h w"], reach_px: float) -> Centreline:
    """The line moved to the middle between the mask's edges, as far as it is that smooth.

    A skeleton jumps by whole pixels, and its slope with it; a slanting section is too wide.
    """
    one, other = _sides_px(bitmap, line, reach_px)
    shift = ndimage.gaussian_filter1d((one - other) / 2, SMOOTH_PX / STEP_PX)
    shift = np.clip(shift, -SHIFT_MAX_PX, SHIFT_MAX_PX)
    return _line(_even(_smoothed(line.points_xy + shift[:, None] * line.normals_xy)))


def course(bitmap: Bool[np.ndarray, "h w"]) -> tuple[Centreline, Float64[np.ndarray, " n"]]:
    """The middle of the largest vessel in a mask, and how wide the mask is across it, in px.

    Where it branches, its longest course. Widths are told at each point, below the size of a pixel.

    Raises:
        QcaError: nothing is set, or the vessel is too short to have a direction.
    """
    if not bitmap.any():
        raise QcaError("the mask is empty; there is no vessel to measure")
    rows, columns = ndimage.find_objects(bitmap.astype(np.uint8))[0]
    top, left = max(rows.start - 1, 0), max(columns.start - 1, 0)
    crop = solid(_largest(bitmap[top : rows.stop + 1, left : columns.stop + 1]))
    path = _longest_path(thinned(crop))
    if len(path) < 3:
        raise QcaError(f"the vessel is {len(path)} px long; expected at least {LENGTH_MIN_PX:.0f}")
    line = _smoothed(_even(path[:, ::-1].astype(np.float64)))
    found = _line(_even(_to_the_edge(line, crop)))
    if found.length_px < LENGTH_MIN_PX:
        raise QcaError(
            f"the vessel is {found.length_px:.0f} px long; expected at least {LENGTH_MIN_PX:.0f}"
        )
    reach_px = _section_px(crop, REACH_PX)
    for _ in range(CENTRINGS):
        found = _centred(found, crop, reach_px)
    one, other = _sides_px(crop, found, reach_px)
    corner_xy = np.array([left, top], dtype=np.float64)
    return Centreline(found.points_xy + corner_xy, found.normals_xy), one + other


def solid(bitmap: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The mask without pinholes: contours that fold over themselves leave some.

    What `scipy.ndimage.binary_fill_holes` gives, by numbering what lies around rather than by
    growing it from the border step by step.
    """
    numbered, _ = ndimage.label(np.pad(~bitmap, 1, constant_values=True))
    return np.asarray((numbered != numbered[0, 0])[1:-1, 1:-1])


def _section_px(bitmap: Bool[np.ndarray, "h w"], most_px: float) -> float:
    """Half the length of a section that shows the vessel's edges wherever they can be."""
    widest_px = 0.0
    for box in ndimage.find_objects(bitmap.astype(np.uint8)):
        part = tuple(slice(max(span.start - 1, 0), span.stop + 1) for span in box)
        widest_px = float(ndimage.distance_transform_edt(bitmap[part]).max())
    return min(most_px, float(np.ceil(SECTION_MAX * widest_px + TAIL_PX)))


def _between_pixels(
    bitmap: Bool[np.ndarray, "h w"], x: Float64[np.ndarray, "n k"], y: Float64[np.ndarray, "n k"]
) -> Float64[np.ndarray, "n k"]:
    """The mask between its pixels' centres, bilinear; 0 beyond the outermost.

    As `scipy.ndimage.map_coordinates` of order 1 does it, many times sooner: most places lie
    between four pixels that are all set or all not, and only the others are computed.
    """
    height, width = bitmap.shape
    framed = np.pad(bitmap, 1).astype(np.uint8)
    around = framed[:-1, :-1] | framed[:-1, 1:] << 1 | framed[1:, :-1] << 2 | framed[1:, 1:] << 3
    column, row = (x + 1).astype(np.intp), (y + 1).astype(np.intp)
    np.clip(column, 0, width, out=column)
    np.clip(row, 0, height, out=row)
    row *= width + 1
    row += column
    four = around.ravel()[row.ravel()]
    values = (four == _ALL_SET).astype(np.float64)
    edge = np.flatnonzero(four + 1 & _SOME_SET)
    x, y, four = x.ravel()[edge], y.ravel()[edge], four[edge]
    right, down = x - np.floor(x), y - np.floor(y)
    above = (four & 1) * (1 - right) + (four >> 1 & 1) * right
    below = (four >> 2 & 1) * (1 - right) + (four >> 3) * right
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    values[edge] = (above * (1 - down) + below * down) * inside
    return np.asarray(values.reshape(row.shape))


def _along_sections(
    values: Float64[np.ndarray, "n k"],
) -> tuple[Float64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Distance to the edge along each section, and whether the section was long enough to tell."""
    n, count = values.shape
    outside = values < 0.5
    outside[:, 0] = False
    leaves = outside.argmax(axis=1)
    leaves[leaves == 0] = count
    tail_px = round(TAIL_PX / ACROSS_PX)
    # Beyond the edge the sum ends where the mask rises again: that is another vessel.
    padded = np.zeros((n, count + tail_px + 1))
    padded[:, :count] = values
    tail = padded[np.arange(n)[:, None], leaves[:, None] + np.arange(tail_px + 1)]
    rises = np.logical_or.accumulate(np.diff(tail, axis=1) > 0, axis=1)
    sums = np.where(np.arange(count) < leaves[:, None], values, 0.0).sum(axis=1)
    sums += tail[:, 0] + np.where(rises[:, :-1], 0.0, tail[:, 1:-1]).sum(axis=1)
    return sums * ACROSS_PX, leaves + tail_px < count


def _sides_px(
    bitmap: Bool[np.ndarray, "h w"], line: Centreline, reach_px: float
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Distance from the line to the mask's edge on either side.

    The mask is summed along the section rather than followed to its last pixel: what a section
    gains at one pixel's corner it loses at the next, so that the mean width is the true one. Most
    sections end soon: the whole reach is looked at only where the first part of it does not show
    the edge.
    """
    offsets = np.arange(ACROSS_PX / 2, reach_px, ACROSS_PX)
    start_x, start_y = np.concatenate([line.points_xy, line.points_xy]).T
    step_x, step_y = np.concatenate([line.normals_xy, -line.normals_xy]).T
    sums, unsure = np.zeros(len(start_x)), np.arange(len(start_x))
    for count in (int(np.ceil(len(offsets) * FIRST_SHARE)), len(offsets)):
        x = start_x[unsure, None] + offsets[:count] * step_x[unsure, None]
        y = start_y[unsure, None] + offsets[:count] * step_y[unsure, None]
        sums[unsure], known = _along_sections(_between_pixels(bitmap, x, y))
        unsure = unsure[~known]
        if not len(unsure):
            break
    one, other = sums.reshape(2, -1)
    return one, other

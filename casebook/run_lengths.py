"""Where pixels change along rows and columns of a bitmap, and bitmaps from such runs.

Knows no encoding: casebook/masks.py dresses these numbers. All runs start with the zeros.
"""

import numpy as np
from jaxtyping import Bool, Int32, Int64

from casebook.errors import MaskError

Box = tuple[int, int, int, int]
"""x1, y1, x2, y2 in px, inclusive."""

_DENSE = 1 / 16
"""Changes a pixel of the image above which sorting them costs more than transposing it."""
_WORDS_PX = 4096
"""From this many pixels on, eight at a time are looked at before one."""
_DIGITS = 6
"""Characters of one number in COCO's text: 30 bits, more than any image has pixels."""


def set_at(flat: Bool[np.ndarray, "n"]) -> Int64[np.ndarray, "k"]:
    """Positions of the set pixels; several times quicker than numpy where few are set."""
    n_words = flat.size // 8
    if flat.size < _WORDS_PX:
        return np.flatnonzero(flat)
    words = np.flatnonzero(flat[: 8 * n_words].view(np.uint64).astype(bool))
    inside = np.flatnonzero(flat[: 8 * n_words].view(np.uint64)[words].view(bool))
    found = (words[inside >> 3] << 3) + (inside & 7)
    rest = np.flatnonzero(flat[8 * n_words :])
    return np.concatenate((found, rest + 8 * n_words)) if rest.size else found


def bounds(bitmap: Bool[np.ndarray, "h w"]) -> Box | None:
    """The smallest box around the set pixels; nothing when none is set.

    Rows are found by searching bytes from both ends, columns by or-ing only the rows between.

    Raises:
        MaskError: True is written as another byte than 1, as in arrays that share another
            library's memory; numpy itself counts those wrongly.
    """
    width = bitmap.shape[1]
    flat = np.ascontiguousarray(bitmap).reshape(-1)
    first = int(flat.argmax()) if flat.size else 0
    if not flat.size or not flat[first]:
        return None
    if flat[first : first + 1].view(np.uint8)[0] != 1:
        raise MaskError("bitmap holds bytes other than 0 and 1; give `array.astype(np.uint8) != 0`")
    top = first // width
    last = first + flat[first:].tobytes().rfind(b"\x01")
    bottom = last // width
    rows = flat[top * width : (bottom + 1) * width]
    if width % 8 == 0:
        words = rows.view(np.uint64).reshape(-1, width // 8)
        columns = np.bitwise_or.reduce(words, axis=0).tobytes()
    else:
        columns = rows.reshape(-1, width).any(axis=0).tobytes()
    return columns.find(b"\x01"), top, columns.rfind(b"\x01"), bottom


def of_flat(flat: Bool[np.ndarray, "n"]) -> Int32[np.ndarray, "r"]:
    """Run lengths of at least one pixel in a row."""
    changes = set_at(flat[1:] != flat[:-1])
    begin = 2 if flat[0] else 1
    edges = np.empty(changes.size + begin + 1, dtype=np.int32)
    edges[:begin] = 0
    np.add(changes, 1, out=edges[begin:-1], casting="unsafe")
    edges[-1] = flat.size
    return edges[1:] - edges[:-1]


def of_rows(bitmap: Bool[np.ndarray, "h w"], box: Box) -> Int32[np.ndarray, "r"]:
    """Run lengths along the rows of a box."""
    x1, y1, x2, y2 = box
    return of_flat(bitmap[y1 : y2 + 1, x1 : x2 + 1].reshape(-1))


def of_columns(bitmap: Bool[np.ndarray, "h w"]) -> Int32[np.ndarray, "r"]:
    """Run lengths down the columns of the whole bitmap.

    Only the box around the set pixels is looked at, row by row as it lies in memory; the few
    places where a column changes are then put into the columns' order.
    """
    height, width = bitmap.shape
    box = bounds(bitmap)
    if box is None:
        return np.array([height * width], dtype=np.int32)
    x1, y1, x2, y2 = box
    crop = bitmap[y1 : y2 + 1, x1 : x2 + 1]
    changes = np.empty((crop.shape[0] + 1, crop.shape[1]), dtype=bool)
    changes[0], changes[-1] = crop[0], crop[-1]
    np.not_equal(crop[1:], crop[:-1], out=changes[1:-1])
    if np.count_nonzero(changes) > _DENSE * bitmap.size:
        return of_flat(np.ascontiguousarray(bitmap.T).reshape(-1))
    rows, columns = np.divmod(set_at(changes.reshape(-1)), crop.shape[1])
    edges = np.empty(rows.size + 2, dtype=np.int32)
    edges[0], edges[-1] = 0, height * width
    np.add((columns + x1) * height, rows + y1, out=edges[1:-1], casting="unsafe")
    edges[1:-1].sort(kind="stable")
    if y1 == 0 and y2 == height - 1:
        edges = _without_seams(edges)
    runs = edges[1:] - edges[:-1]
    return runs[:-1] if runs[-1] == 0 else runs


def _without_seams(edges: Int32[np.ndarray, "e"]) -> Int32[np.ndarray, "f"]:
    """Edges without those at which one column's run goes on at the top of the next."""
    kept = np.ones(edges.size, dtype=bool)
    seams = np.flatnonzero(edges[2:-1] == edges[1:-2]) + 1
    kept[seams] = kept[seams + 1] = False
    return np.asarray(edges[kept])


def filled(runs: Int32[np.ndarray, "r"], n: int) -> Bool[np.ndarray, "n"]:
    """The pixels of runs along a line.

    Raises:
        MaskError: a run is negative, or they do not add up to `n`.
    """
    total = int(runs.sum()) if runs.size else 0
    if not runs.size or total != n or int(runs.min()) < 0:
        raise MaskError(f"mask runs add up to {total} px; expected {n}")
    return np.repeat(np.arange(runs.size) & 1 == 1, runs)


def column_box(runs: Int32[np.ndarray, "r"], hw: tuple[int, int]) -> Box | None:
    """The smallest box around the set pixels of runs down the columns; nothing when none is.

    The runs must fill the image.
    """
    height = hw[0]
    edges = np.cumsum(runs, dtype=np.int32)[: runs.size // 2 * 2]
    starts, stops = edges[::2], edges[1::2] - np.int32(1)
    if not runs[1:].all():
        held = stops >= starts
        starts, stops = starts[held], stops[held]
    if not starts.size:
        return None
    left, right = starts // np.int32(height), stops // np.int32(height)
    if (left != right).any():
        return int(left[0]), 0, int(right[-1]), height - 1
    tops, bottoms = starts - left * np.int32(height), stops - right * np.int32(height)
    return int(left[0]), int(tops.min()), int(right[-1]), int(bottoms.max())


def from_columns(
    runs: Int32[np.ndarray, "r"], hw: tuple[int, int], box: Box | None
) -> Bool[np.ndarray, "h w"]:
    """The bitmap of runs down the columns of the whole image.

    Args:
        runs: They must fill the image.
        hw: Height and width of the image.
        box: What `column_box` says of these runs.
    """
    bitmap = np.zeros(hw, dtype=bool)
    if box is not None:
        x1, y1, x2, y2 = box
        bitmap[y1 : y2 + 1, x1 : x2 + 1] = crop_of_columns(runs, hw, box)
    return bitmap


def crop_of_columns(
    runs: Int32[np.ndarray, "r"], hw: tuple[int, int], box: Box
) -> Bool[np.ndarray, "b c"]:
    """What lies in the box of runs down the columns of the whole image.

    Every edge is marked where it lies and the marks are carried down, eight columns at a time;
    this never holds the picture on its side.

    Args:
        runs: They must fill the image.
        hw: Height and width of the image.
        box: What `column_box` says of these runs.
    """
    height, width = hw
    x1, y1, x2, y2 = box
    edges = np.cumsum(runs, dtype=np.int32)[: runs.size // 2 * 2].reshape(-1, 2)
    columns = edges[:, 0] // np.int32(height)
    last_columns = (edges[:, 1] - np.int32(1)) // np.int32(height)
    if (columns != last_columns).any() or not runs[1:].all():
        # A run goes on in the next column, or two marks would fall in one place.
        whole = filled(runs, height * width).reshape(width, height).T
        return whole[y1 : y2 + 1, x1 : x2 + 1]
    stride = (x2 - x1 + 8) // 8 * 8
    # Pixel (row, column) of the box lies at row × stride + column of the marks.
    offsets = columns.astype(np.int64) * (height * stride - 1) + (y1 * stride + x1)
    marks = np.zeros((y2 - y1 + 2, stride), dtype=bool)
    marks.reshape(-1)[edges.astype(np.int64) * stride - offsets[:, None]] = True
    words = marks.view(np.uint64)
    np.bitwise_xor.accumulate(words, axis=0, out=words)
    return marks[:-1, : x2 - x1 + 1]


def from_text(text: str) -> Int64[np.ndarray, "r"]:
    """The runs of COCO's compressed text. Source: cocoapi, common/maskApi.c rleFrString.

    Each number is written five bits a character, lowest first; from the fourth on it is the
    difference to the last but one. Written out because pycocotools trusts its input and reads
    outside memory on damaged text.

    Raises:
        MaskError: a character no mask has, or an unfinished number.
    """
    try:
        codes = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        raise MaskError("mask text has a character no mask has") from None
    if not codes.size:
        return codes
    if int(codes.min()) < 0 or int(codes.max()) > 63:
        raise MaskError("mask text has a character no mask has")
    stops = np.flatnonzero((codes & 0x20) == 0)
    starts = np.concatenate(([0], stops + 1))
    lengths = np.diff(np.append(starts, codes.size))
    if int(lengths.max()) > _DIGITS:
        raise MaskError(f"mask text has a number of over {_DIGITS} characters, which no mask has")
    if lengths[-1]:
        raise MaskError("mask text ends in the middle of a run")
    starts, lengths = starts[:-1], lengths[:-1]
    digit = np.arange(codes.size) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 0x1F) << (5 * digit), starts)
    values -= np.where(codes[stops] & 0x10, np.int64(1) << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values

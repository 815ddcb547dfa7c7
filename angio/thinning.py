"""A mask thinned to lines one pixel wide. Knows nothing of vessels.

scikit-image has the same (`skimage.morphology.thin`, to which the tests hold this), but is 50 MB
that the deployment machine would install for it alone.
"""

import numpy as np
from jaxtyping import Bool, UInt8

_EVEN, _ODD = 1, 2
"""The two passes of a round."""


def _table() -> UInt8[np.ndarray, "256"]:
    """Whether the middle of a neighbourhood goes, for each pass.

    Bits of a neighbourhood run clockwise from the pixel above.
    """
    table = np.zeros(256, dtype=np.uint8)
    for code in range(256):
        n, ne, e, se, s, sw, w, nw = ((code >> bit) & 1 for bit in range(8))
        crossings = (
            ((not n) & (ne | e))
            + ((not e) & (se | s))
            + ((not s) & (sw | w))
            + ((not w) & (nw | n))
        )
        neighbours = min(
            (nw | n) + (ne | e) + (se | s) + (sw | w), (n | ne) + (e | se) + (s | sw) + (w | nw)
        )
        if crossings != 1 or not 2 <= neighbours <= 3:
            continue
        if not (n | ne | (not se)) & e:
            table[code] |= _EVEN
        if not (s | sw | (not nw)) & w:
            table[code] |= _ODD
    return table


_GOES = _table()


def thinned(bitmap: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The mask's lines, connected as the mask is; what lies beyond the image is empty.

    Source: Guo and Hall, Parallel thinning with two-subiteration algorithms, CACM 32, 1989, doi
    10.1145/62065.62074, algorithm A1.
    """
    framed = np.pad(bitmap, 1).astype(np.uint8)
    width = framed.shape[1]
    around = (-width, -width + 1, 1, width + 1, width, width - 1, -1, -width - 1)
    flat = framed.reshape(-1)
    at = np.flatnonzero(flat)
    while True:
        before = len(at)
        for which in (_EVEN, _ODD):
            code = np.zeros(len(at), dtype=np.uint8)
            for bit, step in enumerate(around):
                code |= flat[at + step] << bit
            goes = (_GOES[code] & which) != 0
            flat[at[goes]] = 0
            at = at[~goes]
        if len(at) == before:
            return framed[1:-1, 1:-1].astype(bool)

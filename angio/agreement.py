"""How far two ways of measuring the same lesions agree: the Bland–Altman table and its plot.

Lesions count as independent; where patients have several, the intervals are a little too narrow.
Knows no images.
"""

from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import Float64
from pydantic import Field
from scipy.special import stdtrit

from casebook.documents import Document
from casebook.errors import DataError

PAIRS_MIN = 3
"""Fewer pairs have no limits worth the name."""
LIMITS_SD = 1.96
"""Limits of agreement hold 95 % of differences that are normal."""

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 640, 420, 70, 40, 150, 50


class Estimate(Document):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class Agreement(Document):
    """One measurement, ours against theirs."""

    name: str
    unit: str
    n: int = Field(ge=PAIRS_MIN)
    bias: Estimate
    """Mean of ours minus theirs."""
    sd: float = Field(ge=0)
    """Standard deviation of the differences."""
    lower_limit: Estimate
    upper_limit: Estimate
    mean_abs: float = Field(ge=0)
    """Mean of the absolute differences."""
    pearson_r: float | None = Field(default=None, ge=-1, le=1)
    """None where one side does not vary."""
    icc: float | None = Field(default=None, le=1)
    """Absolute agreement of single measurements; none where nothing varies."""


def _icc(ours: Float64[np.ndarray, " n"], theirs: Float64[np.ndarray, " n"]) -> float | None:
    """ICC(2,1): two-way random effects, absolute agreement, single measurements.

    Source: Shrout and Fleiss, Psychological Bulletin 86 (1979) 420–428, page 423.
    """
    values = np.stack([ours, theirs], axis=1)
    n, k = values.shape
    rows, columns, whole = values.mean(axis=1), values.mean(axis=0), values.mean()
    between = k * float(((rows - whole) ** 2).sum()) / (n - 1)
    raters = n * float(((columns - whole) ** 2).sum()) / (k - 1)
    residual = values - rows[:, None] - columns[None] + whole
    error = float((residual**2).sum()) / ((n - 1) * (k - 1))
    total = between + (k - 1) * error + k * (raters - error) / n
    return (between - error) / total if total > 0 else None


def agreement(name: str, unit: str, ours: Sequence[float], theirs: Sequence[float]) -> Agreement:
    """Bias, limits of agreement and their intervals, correlation and ICC.

    Source: Bland and Altman, Statistical Methods in Medical Research 8 (1999) 135–160: limits and
    their standard errors in section 2.

    Args:
        name: What was measured.
        unit: mm, points …
        ours: One value for every lesion.
        theirs: The other value for the same lesions, in the same order.

    Raises:
        DataError: fewer than `PAIRS_MIN` pairs, unequal numbers, or a value that is no number.
    """
    if len(ours) != len(theirs) or len(ours) < PAIRS_MIN:
        raise DataError(
            f"{name}: {len(ours)} and {len(theirs)} values; expected as many of each, at least "
            f"{PAIRS_MIN}; measure more lesions"
        )
    a, b = np.array(ours, dtype=np.float64), np.array(theirs, dtype=np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError(f"{name}: a value is no number; leave that lesion out")
    difference = a - b
    n, bias, sd = len(a), float(difference.mean()), float(difference.std(ddof=1))
    t = float(stdtrit(n - 1, 0.975))
    off_bias = t * sd / np.sqrt(n)
    off_limit = t * sd * np.sqrt(1 / n + LIMITS_SD**2 / (2 * (n - 1)))

    def estimate(value: float, off: float) -> Estimate:
        return Estimate(value=value, low=value - float(off), high=value + float(off))

    varies = a.std() > 0 and b.std() > 0
    return Agreement(
        name=name,
        unit=unit,
        n=n,
        bias=estimate(bias, off_bias),
        sd=sd,
        lower_limit=estimate(bias - LIMITS_SD * sd, off_limit),
        upper_limit=estimate(bias + LIMITS_SD * sd, off_limit),
        mean_abs=float(np.abs(difference).mean()),
        pearson_r=float(np.clip(np.corrcoef(a, b)[0, 1], -1, 1)) if varies else None,
        icc=_icc(a, b),
    )


def _ticks(low: float, high: float) -> list[float]:
    """Some four round numbers between two values."""
    rough = (high - low) / 4
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(min((m * power for m in (1, 2, 5, 10)), key=lambda value: abs(value - rough)))
    first = float(np.ceil(low / step)) * step
    return [first + step * k for k in range(int((high - first) / step + 1e-9) + 1)]


def bland_altman_svg(
    found: Agreement, ours: Sequence[float], theirs: Sequence[float], *, title: str
) -> str:
    """The differences over the means, with bias and limits and their intervals, as one SVG.

    Args:
        found: The table of the same values.
        ours: As given to `agreement`.
        theirs: Likewise.
        title: Above the plot; plain text.
    """
    a, b = np.array(ours, dtype=np.float64), np.array(theirs, dtype=np.float64)
    mean, difference = (a + b) / 2, a - b
    spread_x = max(float(np.ptp(mean)), 1e-6)
    x1, x2 = float(mean.min()) - 0.05 * spread_x, float(mean.max()) + 0.05 * spread_x
    edges = [found.lower_limit.low, found.upper_limit.high, *difference.tolist(), 0.0]
    margin = 0.05 * max(max(edges) - min(edges), 1e-6)
    y1, y2 = min(edges) - margin, max(edges) + margin

    def x(value: float) -> float:
        return float(_LEFT + (value - x1) / (x2 - x1) * (_WIDTH - _LEFT - _RIGHT))

    def y(value: float) -> float:
        return float(_TOP + (y2 - value) / (y2 - y1) * (_HEIGHT - _TOP - _BOTTOM))

    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)} (n = {found.n})</text>',
    ]
    for value in _ticks(y1, y2):
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.4g}</text>'
        )
    for value in _ticks(x1, x2):
        parts.append(
            f'<text x="{x(value):.1f}" y="{bottom + 18}" text-anchor="middle">{value:.4g}</text>'
        )
    for name, line, colour in (
        ("bias", found.bias, "#1f4e8c"),
        ("−1.96 SD", found.lower_limit, "#8c2f1f"),
        ("+1.96 SD", found.upper_limit, "#8c2f1f"),
    ):
        parts.append(
            f'<rect x="{_LEFT}" y="{y(line.high):.1f}" width="{right - _LEFT}" '
            f'height="{max(y(line.low) - y(line.high), 0):.1f}" fill="{colour}" opacity="0.12"/>'
            f'<line x1="{_LEFT}" x2="{right}" y1="{y(line.value):.1f}" y2="{y(line.value):.1f}" '
            f'stroke="{colour}"/>'
            f'<text x="{right + 8}" y="{y(line.value) + 4:.1f}" fill="{colour}">{name} '
            f"{line.value:+.3g}</text>"
        )
    parts.append(
        f'<line x1="{_LEFT}" x2="{right}" y1="{y(0.0):.1f}" y2="{y(0.0):.1f}" stroke="#888" '
        f'stroke-dasharray="3 3"/>'
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="black"/>'
    )
    parts += [
        f'<circle cx="{x(float(m)):.1f}" cy="{y(float(d)):.1f}" r="3" fill="#333" opacity="0.6"/>'
        for m, d in zip(mean, difference, strict=True)
    ]
    middle_x, middle_y = (_LEFT + right) / 2, (_TOP + bottom) / 2
    parts += [
        f'<text x="{middle_x}" y="{_HEIGHT - 12}" text-anchor="middle">mean of both, '
        f"{escape(found.unit)}</text>",
        f'<text transform="translate(16 {middle_y}) rotate(-90)" text-anchor="middle">ours − '
        f"theirs, {escape(found.unit)}</text>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"

"""Growing healthy coronary trees: the usual courses of the vessels, with a patient's own variation.

Knows nothing of lesions, X-rays or files.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from scipy.interpolate import make_interp_spline
from scipy.ndimage import gaussian_filter1d

from angio.phantoms.tree import NO_CASS, STEP_MM, CoronaryTree, HeartFrame, Side, Vessel

Knot = tuple[float | int, float | int, float | int]
"""Degrees round the long axis, degrees towards the apex, radius factor."""


def _unit(vector: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "3"]:
    return np.asarray(vector / np.linalg.norm(vector))


def _heart(rng: np.random.Generator) -> HeartFrame:
    long_axis = _unit(np.array([0.60, -0.55, -0.58]) + rng.normal(0, 0.07, 3))
    head = np.array([0.0, 0.0, 1.0])
    anterior = _unit(head - (head @ long_axis) * long_axis)
    right = _unit(np.cross(long_axis, anterior))
    return HeartFrame(long_axis, anterior, right, rng.uniform(82, 100), rng.uniform(38, 46))


def _resample(points_mm: Float64[np.ndarray, "k 3"]) -> Float64[np.ndarray, "n 3"]:
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points_mm, axis=0), axis=1))])
    wanted = np.arange(0.0, along[-1], STEP_MM)
    return np.stack([np.interp(wanted, along, points_mm[:, axis]) for axis in range(3)], axis=1)


def _wander(rng: np.random.Generator, n: int, tortuosity: float) -> Float64[np.ndarray, "n 3"]:
    """Smooth sideways offsets in mm, zero at the origin of the vessel."""
    along = np.arange(n) * STEP_MM
    offset = np.zeros((n, 3))
    for wavelength_mm in rng.uniform(14, 55, 3):
        amplitude = rng.normal(0, tortuosity * wavelength_mm / 35, 3)
        offset += (
            np.sin(2 * np.pi * along[:, None] / wavelength_mm + rng.uniform(0, 6.28, 3)) * amplitude
        )
    fade: Float64[np.ndarray, "n 1"] = np.clip(along / 12.0, 0, 1)[:, None] ** 2
    return np.asarray((offset - offset[0]) * fade)


def _diameters(
    rng: np.random.Generator, n: int, start_mm: float, end_mm: float
) -> Float64[np.ndarray, " n"]:
    """A tapering lumen with slight irregularity."""
    share = np.linspace(0, 1, n)
    taper = start_mm + (end_mm - start_mm) * share ** rng.uniform(0.8, 1.2)
    along = np.arange(n) * STEP_MM
    ripple = sum(
        rng.normal(0, 0.012) * np.sin(2 * np.pi * along / rng.uniform(9, 40) + rng.uniform(0, 6.28))
        for _ in range(3)
    )
    return np.asarray(taper * (1 + ripple), dtype=np.float64)


def _course(rng: np.random.Generator, rows: Sequence[Knot]) -> Float64[np.ndarray, "k 3"]:
    course = np.array(rows, dtype=np.float64)
    jitter = rng.normal(0, 1.0, course.shape) * np.array([2.5, 1.8, 0.012])
    jitter[0] = 0.0
    return np.asarray(course + jitter)


def _run(
    rng: np.random.Generator,
    frame: HeartFrame,
    rows: Sequence[Knot],
    *,
    origin_mm: Float64[np.ndarray, "3"] | None,
    tortuosity: float,
) -> Float64[np.ndarray, "n 3"]:
    knots = frame.place(_course(rng, rows))
    if origin_mm is not None:
        knots = np.vstack([origin_mm, knots])
    spans = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
    spline = make_interp_spline(spans, knots, k=min(3, len(knots) - 1))
    dense = _resample(np.asarray(spline(np.linspace(0, spans[-1], 400))))
    bent = dense + _wander(rng, len(dense), tortuosity)
    rounded = gaussian_filter1d(bent, 3.5 / STEP_MM, axis=0, mode="nearest")
    pull = np.exp(-np.arange(len(bent)) * STEP_MM / 6.0)[:, None]
    return np.asarray(rounded + (bent[0] - rounded[0]) * pull)


def _branch(
    rng: np.random.Generator,
    frame: HeartFrame,
    parent: Vessel,
    at: int,
    name: str,
    cass: int,
    rows: Sequence[Knot],
    *,
    share: tuple[float, float] = (0.55, 0.78),
    end_mm: tuple[float, float] = (0.9, 1.25),
    tortuosity: float = 1.0,
) -> Vessel:
    points = _run(rng, frame, rows, origin_mm=parent.points_mm[at], tortuosity=tortuosity)
    start = max(parent.diameter_mm[at] * rng.uniform(*share), end_mm[0] + 0.05)
    n = len(points)
    return Vessel(
        name,
        points,
        _diameters(rng, n, start, min(rng.uniform(*end_mm), start)),
        np.full(n, cass, dtype=np.int64),
        parent.path_mm[at] + np.arange(n) * STEP_MM,
    )


def _trunk(
    rng: np.random.Generator,
    name: str,
    points_mm: Float64[np.ndarray, "n 3"],
    diameters_mm: tuple[float, float],
    parts: list[tuple[float, int]],
    path_from_mm: float = 0.0,
) -> Vessel:
    """A main vessel whose CASS number changes at given shares of its length."""
    n = len(points_mm)
    share = np.linspace(0, 1, n)
    cass = np.full(n, parts[0][1], dtype=np.int64)
    for begins, number in parts:
        cass[share >= begins] = number
    return Vessel(
        name,
        points_mm,
        _diameters(rng, n, *diameters_mm),
        cass,
        path_from_mm + np.arange(n) * STEP_MM,
    )


def _near(vessel: Vessel, share: float) -> int:
    return int(np.clip(share, 0, 0.98) * len(vessel.points_mm))


def _grow_right(rng: np.random.Generator, frame: HeartFrame) -> tuple[Vessel, ...]:
    groove = rng.uniform(-4, 5)
    points = _run(
        rng,
        frame,
        [
            (34, -9, 0.42),
            (48, -8, 0.78),
            (72, -4, 1.02),
            (100, groove, 1.06),
            (130, groove + 1, 1.04),
            (157, 2, 1.0),
            (176, 3, 0.98),
            (182, 16, 0.97),
            (181, 34, 1.0),
            (180, rng.uniform(48, 66), 1.0),
        ],
        origin_mm=None,
        tortuosity=1.2,
    )
    crux = rng.uniform(0.60, 0.66)
    main = _trunk(
        rng,
        "RCA",
        points,
        (rng.uniform(3.0, 4.5), rng.uniform(1.1, 1.35)),
        [(0.0, 1), (rng.uniform(0.20, 0.25), 2), (rng.uniform(0.38, 0.44), 3), (crux, 4)],
    )
    vessels = [main]
    reach = rng.uniform(212, 240)
    vessels.append(
        _branch(
            rng, frame, main, _near(main, crux), "RPL", NO_CASS,
            [(195, 4, 0.99), (207, 9, 1.0), (reach, rng.uniform(18, 34), 1.0)], share=(0.7, 0.9),
        )
    )  # fmt: skip
    vessels.append(
        _branch(
            rng, frame, main, _near(main, crux + 0.05), "RPL2", NO_CASS,
            [(188, 14, 0.98), (200, 26, 1.0), (reach - 16, 42, 1.0)], share=(0.4, 0.6),
        )
    )  # fmt: skip
    for share, name, around in (
        (0.12, "conus", 52.0),
        (0.27, "RV", 84.0),
        (0.40, "acute marginal", 112.0),
    ):
        if rng.random() < 0.8:
            vessels.append(
                _branch(
                    rng, frame, main, _near(main, share + rng.uniform(-0.03, 0.03)), name, NO_CASS,
                    [(around - 6, 12, 1.04),
                 (around - 14, 24, 1.03),
                 (around - 18, rng.uniform(32, 52), 1.0)],
                    share=(0.35, 0.55), end_mm=(0.7, 1.0),
                )
            )  # fmt: skip
    return tuple(vessels)


def _grow_left(rng: np.random.Generator, frame: HeartFrame) -> tuple[Vessel, ...]:
    stem = _run(
        rng,
        frame,
        [(-34, -8, 0.38), (-24, -5, 0.60), (-16, -3, 0.80)],
        origin_mm=None,
        tortuosity=0.2,
    )
    left_main = _trunk(
        rng, "LM", stem, (rng.uniform(3.8, 4.7), rng.uniform(3.6, 4.4)), [(0.0, NO_CASS)]
    )
    fork = left_main.points_mm[-1]
    path = float(left_main.path_mm[-1])
    tip = rng.uniform(72, 98)
    lad_points = _run(
        rng,
        frame,
        [(-7, 6, 0.97), (0, 18, 1.02), (3, 34, 1.02), (4, 52, 1.02), (1, tip, 1.02)],
        origin_mm=fork,
        tortuosity=1.0,
    )
    d1, d2 = rng.uniform(0.20, 0.30), rng.uniform(0.42, 0.54)
    lad = _trunk(
        rng, "LAD", lad_points, (rng.uniform(3.0, 4.1), rng.uniform(1.1, 1.4)),
        [(0.0, 12), (d1, 13), (d2, 14)], path,
    )  # fmt: skip
    om1 = rng.uniform(0.26, 0.40)
    lcx_points = _run(
        rng,
        frame,
        [
            (-34, -1, 0.97),
            (-58, 0, 1.04),
            (-86, 3, 1.06),
            (-112, 7, 1.04),
            (-138, rng.uniform(9, 26), 1.0),
        ],
        origin_mm=fork,
        tortuosity=1.1,
    )
    lcx = _trunk(
        rng,
        "LCX",
        lcx_points,
        (rng.uniform(2.8, 3.9), rng.uniform(1.2, 1.7)),
        [(0.0, 18), (om1, 19)],
        path,
    )
    swing = rng.uniform(-6, 6)
    vessels = [left_main, lad, lcx]
    vessels.append(
        _branch(rng, frame, lad, _near(lad, d1), "D1", 15,
                [(-12 + swing, 22, 1.03),
                 (-24 + swing, 38, 1.03),
                 (-32 + swing, rng.uniform(52, 66), 1.0)])
    )  # fmt: skip
    vessels.append(
        _branch(rng, frame, lad, _near(lad, d2), "D2", 16,
                [(-6 + swing, 44, 1.03),
                 (-16 + swing, 56, 1.02),
                 (-24 + swing, rng.uniform(66, 78), 1.0)],
                share=(0.45, 0.7))
    )  # fmt: skip
    vessels.append(
        _branch(rng, frame, lcx, _near(lcx, om1), "OM1", 20,
                [(-64 + swing, 15, 1.05),
                 (-72 + swing, 32, 1.04),
                 (-74 + swing, rng.uniform(46, 64), 1.0)],
                share=(0.6, 0.85))
    )  # fmt: skip
    vessels.append(
        _branch(rng, frame, lcx, _near(lcx, om1 + rng.uniform(0.25, 0.35)), "OM2", 21,
                [(-96 + swing, 19, 1.05),
                 (-103 + swing, 33, 1.03),
                 (-104 + swing, rng.uniform(44, 58), 1.0)],
                share=(0.5, 0.75))
    )  # fmt: skip
    if rng.random() < 0.3:
        vessels.append(
            _branch(rng, frame, left_main, len(stem) - 1, "ramus", 28,
                    [(-24, 10, 1.01), (-38, 26, 1.04), (-46, rng.uniform(44, 60), 1.0)],
                    share=(0.5, 0.7))
        )  # fmt: skip
    for number, share in enumerate(np.sort(rng.uniform(0.15, 0.7, rng.integers(2, 5)))):
        down = float(share) * 62
        vessels.append(
            _branch(rng, frame, lad, _near(lad, float(share)), f"septal{number + 1}", NO_CASS,
                    [(10, down + 9, 0.86), (16, down + 18, 0.66), (20, down + 26, 0.5)],
                    share=(0.25, 0.4), end_mm=(0.6, 0.8), tortuosity=0.3)
        )  # fmt: skip
    return tuple(vessels)


def grow_tree(rng: np.random.Generator, side: Side) -> CoronaryTree:
    """A random healthy tree of one coronary artery."""
    frame = _heart(rng)
    vessels = _grow_right(rng, frame) if side == "RCA" else _grow_left(rng, frame)
    return CoronaryTree(side, frame, vessels)

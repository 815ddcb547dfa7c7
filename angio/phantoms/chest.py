"""The static background of a cine: soft tissue, lungs, ribs, spine, diaphragm and stray wires.

Knows nothing of vessels or counts; everything here is attenuation.
"""

import numpy as np
from jaxtyping import Float64
from scipy.ndimage import gaussian_filter, zoom

from angio.phantoms.gantry import Gantry


def _clouds(
    rng: np.random.Generator, hw: tuple[int, int], cells: int, strength: float
) -> Float64[np.ndarray, "h w"]:
    coarse = rng.normal(0, strength, (cells + 3, cells + 3))
    grown = zoom(coarse, (hw[0] / cells, hw[1] / cells), order=2)
    return np.asarray(grown[: hw[0], : hw[1]], dtype=np.float64)


def _ribs(
    rng: np.random.Generator,
    gantry: Gantry,
    y: Float64[np.ndarray, "h w"],
    x: Float64[np.ndarray, "h w"],
) -> Float64[np.ndarray, "h w"]:
    """Curved strips with denser edges, tilting with the view."""
    px_per_mm = 1 / gantry.isocentre_spacing_mm
    tilt = np.radians(rng.uniform(10, 30) * (1 if gantry.primary_deg < 0 else -1))
    bend = rng.uniform(0.0004, 0.0012) * rng.choice([-1, 1])
    run = np.cos(tilt) * x + np.sin(tilt) * y
    across = -np.sin(tilt) * x + np.cos(tilt) * y + bend * run * run
    total = np.zeros_like(x)
    gap, width = rng.uniform(24, 34) * px_per_mm, rng.uniform(9, 14) * px_per_mm
    for number in range(-3, 4):
        inside = (across - number * gap - rng.uniform(-6, 6)) / (width / 2)
        square = inside * inside
        within = square < 1
        profile = 0.35 * np.sqrt(np.clip(1 - square, 0, 1)) + 0.65 * within * square * square
        total += rng.uniform(0.08, 0.22) * profile
    return np.asarray(gaussian_filter(total, 0.9))


def _wires(
    rng: np.random.Generator, y: Float64[np.ndarray, "h w"], x: Float64[np.ndarray, "h w"]
) -> Float64[np.ndarray, "h w"]:
    """Leads and guide wires that cross the picture."""
    total = np.zeros_like(x)
    for _ in range(int(rng.integers(0, 3))):
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-220, 220)
        across = np.cos(angle) * x + np.sin(angle) * y - offset
        along = np.cos(angle) * y - np.sin(angle) * x
        across += 12 * np.sin(along / rng.uniform(40, 110))
        width = rng.uniform(1.2, 3.0)
        total += rng.uniform(0.1, 0.35) * np.clip(1 - (across / width) ** 2, 0, 1)
    return total


def attenuation(rng: np.random.Generator, gantry: Gantry) -> Float64[np.ndarray, "h w"]:
    """Attenuation of everything but contrast and catheter; smooth parts are drawn at half size."""
    height, width = gantry.hw
    half = (height // 2, width // 2)
    y, x = np.meshgrid(
        2.0 * np.arange(half[0]) - height / 2, 2.0 * np.arange(half[1]) - width / 2, indexing="ij"
    )
    px_per_mm = 1 / gantry.isocentre_spacing_mm
    total = 1.0 + _clouds(rng, half, 3, 0.18) + _clouds(rng, half, 9, 0.08)
    total += _clouds(rng, half, 32, 0.030) + _clouds(rng, half, 85, 0.018)
    total += _ribs(rng, gantry, y, x)
    shift = gantry.primary_deg * 1.5 * px_per_mm
    spine = np.exp(-(((x - shift - rng.uniform(-20, 20)) / (19 * px_per_mm)) ** 4))
    discs = 1 + 0.18 * np.sin(2 * np.pi * y / (rng.uniform(28, 36) * px_per_mm) + rng.uniform(0, 6))
    total += rng.uniform(0.15, 0.4) * spine * discs
    dome = rng.uniform(0.1, 0.55) * height
    dome = dome + ((x - rng.uniform(-150, 150)) / rng.uniform(18, 30)) ** 2
    total += rng.uniform(0.25, 0.6) / (1 + np.exp(-(y - dome) / rng.uniform(2.5, 6)))
    grown = zoom(total, (height / half[0], width / half[1]), order=1)
    y, x = np.meshgrid(np.arange(height) - height / 2, np.arange(width) - width / 2, indexing="ij")
    return np.asarray(grown + _wires(rng, y, x))

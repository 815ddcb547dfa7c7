"""A whole injection: empty frames, contrast flowing in, a filled tree, contrast washed out again.

The runs of a study are filled almost from their start; these are what a frame is chosen from, with
what is true of every frame. Knows no files.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from angio.phantoms.render import Motion, Scene
from angio.phantoms.scene import draw_patient

FULL_SHARE = 0.9
"""A tree counts as filled where this share of its volume holds contrast."""


@dataclass(frozen=True)
class Injection(Motion):
    """A motion whose contrast has an end: clear blood follows it."""

    tail_start_mm: float = 0.0
    """Where clear blood stands at frame 0, behind the contrast."""
    tail_width_mm: float = 40.0

    def concentration(
        self, path_mm: Float64[np.ndarray, " n"], frame: int
    ) -> Float64[np.ndarray, " n"]:
        """Share of full contrast at each point: come in, and not yet washed out."""
        behind = self.tail_start_mm + frame * self.front_mm_per_frame - path_mm
        washed = 1.0 / (1.0 + np.exp(np.clip(-behind / self.tail_width_mm, -40, 40)))
        return np.asarray(super().concentration(path_mm, frame) * (1.0 - washed))


@dataclass(frozen=True)
class Bolus:
    """One run and what is true of its frames."""

    scene: Scene
    filled: Float64[np.ndarray, " t"]
    """Share of the tree's volume that holds contrast."""
    contraction: Float64[np.ndarray, " t"]
    """How far the heart is contracted, in [0, 1]."""

    @property
    def plateau(self) -> frozenset[int]:
        """Frames on which the tree is filled."""
        return frozenset(int(frame) for frame in np.flatnonzero(self.filled >= FULL_SHARE))


def _filled(scene: Scene, frame: int) -> float:
    volume = shown = 0.0
    for vessel in scene.tree.vessels:
        cross = vessel.diameter_mm**2
        volume += float(cross.sum())
        shown += float((cross * scene.motion.concentration(vessel.path_mm, frame)).sum())
    return shown / volume


def draw_bolus(rng: np.random.Generator, n_frames: int = 36) -> Bolus:
    """A run of one random patient from before the injection until most of it is washed out.

    Args:
        rng: Source of all chance.
        n_frames: Frames; contrast arrives in the second quarter at the latest.
    """
    scene = draw_patient(rng, views=1, lesions=1)[0].scene
    motion, longest = scene.motion, max(float(v.path_mm[-1]) for v in scene.tree.vessels)
    speed = motion.front_mm_per_frame
    arrives = rng.uniform(0.1, 0.3) * n_frames
    lasts = longest / speed + rng.uniform(0.25, 0.4) * n_frames
    still = {name: value for name, value in vars(motion).items()} | {
        "front_start_mm": -arrives * speed,
        "drift_mm": tuple(value / 3 for value in motion.drift_mm),
    }
    injection = Injection(**still, tail_start_mm=-(arrives + lasts) * speed)
    scene = replace(scene, motion=injection, n_frames=n_frames)
    return Bolus(
        scene,
        np.array([_filled(scene, frame) for frame in range(n_frames)]),
        np.array([injection.contraction(frame) for frame in range(n_frames)]),
    )

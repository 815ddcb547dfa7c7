"""What phantoms must show to be trusted: usual views that differ, and everything in the way."""

from dataclasses import replace

import numpy as np
import pytest

from angio.phantoms.anatomy import grow_tree
from angio.phantoms.chest import attenuation
from angio.phantoms.gantry import Gantry
from angio.phantoms.render import Scene, contrast_path, render_cine
from angio.phantoms.scene import VIEWS_DEG, draw_patient, tree_mask
from angio.phantoms.tree import Side

PATIENTS = 24


def _scene(seed: int = 6) -> Scene:
    return draw_patient(np.random.default_rng(seed), views=1, lesions=1)[0].scene


@pytest.mark.parametrize("side", ["RCA", "LCA"])
def test_both_arteries_are_seen_from_either_side_and_from_head_and_feet(side: Side) -> None:
    primary, secondary = np.array(VIEWS_DEG[side]).T
    assert primary.min() <= -25 <= 25 <= primary.max()
    assert secondary.max() >= 20
    if side == "LCA":
        assert secondary.min() <= -20


def _shapes(side: Side, view_deg: tuple[float, float], seed: int) -> dict[int, np.ndarray]:
    """The course of every named segment in one view: 16 places, centred, of unit size."""
    shapes = {}
    for patient in range(PATIENTS):
        tree = grow_tree(np.random.default_rng([seed, patient]), side)
        gantry = Gantry(*view_deg, 1080.0, 750.0, 0.36, (0.0, 0.0, 0.0))
        for vessel in tree.vessels:
            xy = gantry.project(vessel.points_mm)[0]
            for cass in np.unique(vessel.cass[vessel.cass > 0]):
                course = xy[vessel.cass == cass]
                places = course[np.linspace(0, len(course) - 1, 16).round().astype(int)]
                centred = places - places.mean(axis=0)
                shapes[patient * 100 + int(cass)] = (centred / np.linalg.norm(centred)).ravel()
    return shapes


def _found(known: dict[int, np.ndarray], asked: dict[int, np.ndarray]) -> float:
    """Share of segments whose nearest known shape bears the same name."""
    names = np.array([key % 100 for key in known])
    table = np.stack(list(known.values()))
    right = [
        names[np.linalg.norm(table - shape, axis=1).argmin()] == key % 100
        for key, shape in asked.items()
    ]
    return float(np.mean(right))


@pytest.mark.parametrize(
    ("side", "one", "other"),
    [
        pytest.param("RCA", (38.0, 0.0), (-30.0, 0.0), id="RCA: LAO and RAO"),
        pytest.param("LCA", (-10.0, 36.0), (42.0, -26.0), id="left: cranial and spider"),
    ],
)
def test_a_segment_known_by_its_shape_in_one_view_is_not_known_in_another(
    side: Side, one: tuple[float, float], other: tuple[float, float]
) -> None:
    """Other patients' segments, named by their nearest shape."""
    known = _shapes(side, one, seed=1)
    same, across = (
        _found(known, _shapes(side, one, seed=2)),
        _found(known, _shapes(side, other, seed=2)),
    )
    assert same > 0.5
    assert across < same - 0.2


def test_contrast_runs_in_from_the_ostium() -> None:
    scene = _scene()
    filled = [int(tree_mask(scene, frame).sum()) for frame in range(scene.n_frames)]
    assert filled[0] < 0.7 * max(filled)
    trunk = scene.tree.vessels[0]
    ahead = scene.motion.concentration(trunk.path_mm, 0)
    assert (np.diff(ahead) <= 1e-12).all()


def test_the_heart_moves_within_a_beat_and_comes_back() -> None:
    scene = _scene()
    points = scene.tree.vessels[0].points_mm
    beating = replace(scene.motion, drift_mm=(0.0, 0.0, 0.0), beat_offset=0.0, beat_ms=1000.0)
    beating = replace(beating, frame_ms=100.0)
    away = [
        float(
            np.linalg.norm(beating.displace(points, scene.tree.frame, frame) - points, axis=1).max()
        )
        for frame in range(11)
    ]
    assert max(away[1:4]) > 4
    assert max(away[5:10]) < 1e-6
    assert away[10] == pytest.approx(away[0])


def test_noise_grows_as_photons_become_few() -> None:
    scene = _scene()
    spreads = []
    for photons in (200.0, 800.0):
        dim = replace(scene, n_frames=1, optics=replace(scene.optics, photons=photons))
        one, other = (
            render_cine(_same_chest_other_noise(seed), dim)[0].astype(float) for seed in (1, 2)
        )
        spreads.append(float((one - other)[100:400, 100:400].std()))
    assert spreads[0] / spreads[1] == pytest.approx(2.0, rel=0.15)


class _SplitNoise(np.random.Generator):
    """Chest and noise from two sources, so that pictures differ by their noise alone."""

    def __init__(self, seed: int) -> None:
        super().__init__(np.random.PCG64(99))
        self._noise = np.random.default_rng(seed)

    def poisson(self, lam: object = 1.0, size: object = None) -> object:
        return self._noise.poisson(lam, size)


def _same_chest_other_noise(seed: int) -> np.random.Generator:
    return _SplitNoise(seed)


def test_scatter_lifts_the_darkest_places() -> None:
    scene = _scene()
    contrasts = []
    for scatter in (0.0, 0.4):
        optics = replace(scene.optics, scatter=scatter, photons=1e6)
        frame = render_cine(np.random.default_rng(3), replace(scene, n_frames=6, optics=optics))[5]
        vessel = tree_mask(scene, 5)
        contrasts.append(float(frame[~vessel].mean() - frame[vessel].mean()))
    assert contrasts[1] < 0.8 * contrasts[0]


def test_ribs_spine_and_diaphragm_shade_the_picture_more_than_a_vessel_does() -> None:
    scene = _scene()
    chest = attenuation(np.random.default_rng(5), scene.gantry)
    vessels = scene.optics.iodine_per_mm * contrast_path(
        scene.gantry, scene.tree, scene.motion, scene.n_frames - 1
    )
    assert np.ptp(chest) > vessels.max() * 0.5
    rows = np.abs(np.diff(chest, axis=0))
    assert rows.max() > 10 * np.median(rows)  # edges of bones and of the dome, not only clouds


def test_the_catheter_is_in_the_picture_and_in_no_truth() -> None:
    scene = replace(_scene(), n_frames=1)
    optics = replace(scene.optics, photons=1e6)
    thick, thin = (
        render_cine(np.random.default_rng(3), replace(scene, catheter_mm=mm, optics=optics))[0]
        for mm in (2.3, 0.1)
    )
    darker = thin.astype(float) - thick > 0.02 * thin.mean()
    assert 300 < darker.sum() < 0.2 * darker.size
    assert (darker & ~tree_mask(scene, 0)).sum() > 0.5 * darker.sum()

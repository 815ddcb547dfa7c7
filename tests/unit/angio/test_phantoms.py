"""Phantoms are known anatomy: their pictures, outlines and files must agree with it, for good."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from angio.phantoms import PHANTOM_VERSION
from angio.phantoms.anatomy import grow_tree
from angio.phantoms.gantry import Gantry
from angio.phantoms.render import render_cine, splat_tube
from angio.phantoms.scene import draw_patient, tree_mask
from angio.phantoms.study import COLUMNS, write_study
from angio.phantoms.tree import add_lesion
from angio.phantoms.truth import StudyTruth, read_truth
from casebook.errors import ConfigError, StateError

VERSION_1_MEANS = (
    2079.589, 1886.062, 2481.063, 2493.326,
    2119.914, 1875.890, 2552.108, 2449.937,
    2395.878, 1626.802, 2174.892, 2447.092,
    2307.108, 1499.572, 1824.921, 2105.344,
)  # fmt: skip
"""Mean stored value of each 128 px square of one frame, by row."""


def _gantry(primary_deg: float = 0.0, secondary_deg: float = 0.0) -> Gantry:
    return Gantry(primary_deg, secondary_deg, 1000.0, 750.0, 0.4, (0.0, 0.0, 0.0))


def test_version_1_draws_the_recorded_picture() -> None:
    rng = np.random.default_rng(20)
    view = draw_patient(rng)[0]
    frame = view.outlines[0].frame
    picture = render_cine(rng, view.scene)[frame].astype(np.float64)
    means = picture.reshape(4, 128, 4, 128).mean(axis=(1, 3)).ravel()
    assert PHANTOM_VERSION == 1
    np.testing.assert_allclose(means, VERSION_1_MEANS, atol=0.05)


def test_the_isocentre_has_the_derived_spacing() -> None:
    gantry = _gantry()
    xy, px_per_mm, depth = gantry.project(np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]]))
    assert gantry.isocentre_spacing_mm == pytest.approx(0.3)
    assert xy[1, 0] - xy[0, 0] == pytest.approx(10.0)
    assert px_per_mm[0] == pytest.approx(1 / 0.3)
    assert depth[0] == 0.0


@pytest.mark.parametrize(
    ("primary_deg", "secondary_deg", "point_mm", "moves"),
    [
        pytest.param(0, 0, (10, 0, 0), (1, 0), id="AP: the patient's left is on the right"),
        pytest.param(0, 0, (0, 0, 10), (0, -1), id="AP: the head is up"),
        pytest.param(90, 0, (0, 10, 0), (1, 0), id="LAO: the spine moves to the right"),
        pytest.param(-90, 0, (0, 10, 0), (-1, 0), id="RAO: the spine moves to the left"),
        pytest.param(0, 60, (0, -10, 0), (0, 1), id="cranial: what lies in front moves down"),
    ],
)
def test_views_turn_the_right_way(
    primary_deg: int,
    secondary_deg: int,
    point_mm: tuple[int, int, int],
    moves: tuple[int, int],
) -> None:
    points = np.array([(0.0, 0.0, 0.0), point_mm], dtype=np.float64)
    xy, _, _ = _gantry(float(primary_deg), float(secondary_deg)).project(points)
    step = np.where(np.abs(xy[1] - xy[0]) > 1, np.sign(xy[1] - xy[0]), 0)
    assert tuple(step) == moves


def test_a_straight_tube_is_as_thick_as_its_diameter() -> None:
    along = np.arange(-20, 20, 0.4)
    points = np.stack([along, np.zeros_like(along), np.zeros_like(along)], axis=1)
    tube = splat_tube(_gantry(), points, np.full(len(along), 3.0))
    assert tube.thickness_mm.max() == pytest.approx(3.0, abs=0.05)
    column = tube.pixel[tube.pixel % 512 == 256]
    assert len(column) == pytest.approx(10, abs=1)


@pytest.mark.parametrize("side", ["RCA", "LCA"])
def test_vessels_taper_and_branches_start_on_their_parent(side: str) -> None:
    tree = grow_tree(np.random.default_rng(5), "RCA" if side == "RCA" else "LCA")
    trunk = tree.vessels[0]
    assert 3.0 * 0.9 <= trunk.diameter_mm[0] <= 4.7 * 1.1
    for vessel in tree.vessels[1:]:
        others = np.concatenate([v.points_mm for v in tree.vessels if v is not vessel])
        assert np.linalg.norm(others - vessel.points_mm[0], axis=1).min() < 0.5
        assert vessel.diameter_mm[-1] < vessel.diameter_mm[0]


def test_a_lesion_is_as_narrow_as_it_says() -> None:
    rng = np.random.default_rng(8)
    tree = add_lesion(rng, grow_tree(rng, "LCA"), stenosis=(0.5, 0.7))
    lesion = tree.lesions[0]
    vessel = tree.vessel(lesion.vessel)
    inside = (vessel.along_mm >= lesion.start_mm) & (vessel.along_mm <= lesion.end_mm)
    assert vessel.diameter_mm[inside].min() == lesion.mld_mm
    assert 45 < lesion.stenosis_pct < 75
    assert lesion.segment_start_mm < lesion.start_mm < lesion.mld_at_mm < lesion.end_mm
    assert lesion.end_mm < lesion.segment_end_mm


def test_two_lesions_of_one_vessel_keep_apart() -> None:
    rng = np.random.default_rng(11)
    tree = grow_tree(rng, "RCA")
    for _ in range(2):
        tree = add_lesion(rng, tree, stenosis=(0.3, 0.6))
    first, second = sorted(tree.lesions, key=lambda lesion: lesion.segment_start_mm)
    assert first.segment_end_mm < second.segment_start_mm


def test_an_outline_lies_on_the_dark_vessel() -> None:
    rng = np.random.default_rng(2)
    view = draw_patient(rng, views=1, lesions=1)[0]
    seen = view.outlines[0]
    picture = render_cine(rng, view.scene)[seen.frame].astype(float)
    grown = np.zeros_like(seen.bitmap)
    for dy, dx in ((0, 9), (0, -9), (9, 0), (-9, 0)):
        grown |= np.roll(seen.bitmap, (dy, dx), axis=(0, 1))
    around = grown & ~tree_mask(view.scene, seen.frame)
    assert picture[seen.bitmap].mean() < 0.93 * picture[around].mean()


def test_contrast_arrives_during_the_cine() -> None:
    view = draw_patient(np.random.default_rng(4), views=1, lesions=1)[0]
    filled = [int(tree_mask(view.scene, frame).sum()) for frame in (0, view.outlines[0].frame)]
    assert filled[0] < filled[1]


def test_a_patient_is_in_one_split_only(study: tuple[Path, StudyTruth]) -> None:
    _, truth = study
    splits: dict[str, set[str]] = {}
    for case in truth.cases:
        splits.setdefault(case.patient_id, set()).add(case.split)
    assert len(splits) == 4
    assert all(len(found) == 1 for found in splits.values())
    assert set().union(*splits.values()) == {"train", "val", "test", "unseen"}


def test_training_cases_are_spread_over_three_rounds(study: tuple[Path, StudyTruth]) -> None:
    rounds = sorted(case.round for case in study[1].cases if case.split == "train")
    assert rounds == [1, 2, 2, 3]


def test_only_annotated_rows_give_contours_and_measurements(
    study: tuple[Path, StudyTruth],
) -> None:
    folder, truth = study
    with (folder / "cases.csv").open(newline="") as stream:
        rows = {row["row_id"]: row for row in csv.DictReader(stream)}
    assert len(rows) == 12
    for case in truth.cases:
        if case.split == "unseen":
            assert case.row_id not in rows
            continue
        row = rows[case.row_id]
        assert tuple(row) == COLUMNS
        for column in ("contours_path", "deepsa_pseudo_label_path", "MLD_mm"):
            assert bool(row[column]) == case.annotated
        assert (folder / row["dicom_path"]).is_file()
        assert not row["contours_path"] or (folder / row["contours_path"]).is_file()


def test_files_are_multi_frame_angiograms_of_12_bits(study: tuple[Path, StudyTruth]) -> None:
    folder, truth = study
    for case in truth.cases:
        ds = pydicom.dcmread(folder / case.dicom)
        pixels = ds.pixel_array
        assert ds.SOPClassUID.name == "X-Ray Angiographic Image Storage"
        assert pixels.shape == (ds.NumberOfFrames, 512, 512)
        assert 8 <= ds.NumberOfFrames <= 12
        assert (ds.BitsAllocated, ds.BitsStored) == (16, 12)
        assert 1000 < pixels.max() < 4096
        spacing = ds.ImagerPixelSpacing[0] * ds.DistanceSourceToPatient
        spacing /= ds.DistanceSourceToDetector
        assert spacing == pytest.approx(case.spacing_mm, rel=1e-3)
        assert 0.20 <= spacing <= 0.35


def test_the_truth_can_be_read_back(study: tuple[Path, StudyTruth]) -> None:
    folder, truth = study
    assert read_truth(folder) == truth
    for case in truth.cases:
        segment = np.asarray(Image.open(folder / case.segment)) > 0
        x1, y1, x2, y2 = case.box_xyxy
        assert segment[y1 : y2 + 1, x1 : x2 + 1].sum() == segment.sum() > 200
        numbers = np.asarray(Image.open(folder / case.cass_map))
        assert case.cass in numbers[segment]
        tree = np.asarray(Image.open(folder / case.tree)) > 0
        assert (segment & tree).sum() > 0.9 * segment.sum()


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    def digest(folder: Path) -> str:
        write_study(folder, seed=9, patients=3, unseen=0)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        assert len(files) > 30
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_a_stopped_run_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    folder = tmp_path / "study"

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_study(folder, seed=2, patients=3, unseen=0, progress=stop)
    assert not folder.exists()
    write_study(folder, seed=2, patients=3, unseen=0, workers=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study"]
    assert len(read_truth(folder).cases) == 12


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        write_study(tmp_path, seed=1)
    with pytest.raises(ConfigError, match="at least 3"):
        write_study(tmp_path / "new", seed=1, patients=2)
    with pytest.raises(StateError, match="not there"):
        read_truth(tmp_path)

"""CT slices of three planes through one round, and their masks back on the volume's grid."""

from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from angio.cli import main as casebook
from angio.nifti import read_record
from casebook.cases import Split
from casebook.catalogue import Catalogue
from casebook.home import Home
from tests.flow.domains import CONF, need_tiny_base, run, stop_workers, take_in, train, write_conf

LABELS = CONF / "labels" / "ct-heart.yaml"
SHAPE = (72, 64, 56)
AFFINE = np.diag([-1.0, -1.0, 1.5, 1.0])
SPLITS = {"p1": "train", "p2": "val", "p3": "test"}


def volume(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hounsfield units and codes of two chambers with a wall around the left one."""
    rng = np.random.default_rng(seed)
    x, y, z = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]].astype(float)

    def inside(at: tuple[float, float, float], half: float) -> np.ndarray:
        shift = rng.uniform(-2, 2, 3)
        distance = sum(
            ((axis - centre - moved) / half) ** 2
            for axis, centre, moved in zip((x, y, z), at, shift, strict=True)
        )
        return np.asarray(distance < 1)

    codes = np.zeros(SHAPE, dtype=np.uint8)
    codes[inside((26, 30, 28), 17)] = 5
    codes[inside((26, 30, 28), 11)] = 1
    codes[inside((54, 32, 28), 10)] = 2
    values = np.select([codes == 5, codes > 0], [90.0, 220.0], 10.0)
    return (values + rng.normal(0, 6, SHAPE)).astype(np.int16), codes


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    need_tiny_base()
    place = Home(tmp_path / "workspace")
    yield place
    stop_workers(place)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_ct_slices_of_three_planes_walk_through_a_round(home: Home, tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    drawn = []
    for seed, name in enumerate(SPLITS):
        values, codes = volume(seed)
        nibabel.save(nibabel.Nifti1Image(values, AFFINE), images / f"{name}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(codes, AFFINE), masks / f"{name}.nii.gz")
        drawn.append(codes)
    table = tmp_path / "patients.csv"
    rows = [f"{name}.nii.gz,{name},{split}" for name, split in SPLITS.items()]
    table.write_text("\n".join(["file,patient_id,split", *rows]) + "\n")
    for plane in ("axial", "coronal", "sagittal"):
        take_in(
            home,
            *("nifti", images, "--masks", masks, "--labels", LABELS, "--plane", plane),
            *("--window", "100,400", "--every", "14", "--assume-mm", "--patients", table),
            "--ruled-clean",
        )
    catalogue = Catalogue(home)
    for split in Split:
        planes = {case.extra["plane"] for case in catalogue.cases(split=split, annotated=True)}
        assert planes == {"axial", "coronal", "sagittal"}
    found = train(home, write_conf(tmp_path / "conf", LABELS), 1)
    names = {score.label for case in found.candidate.test.cases for score in case.segments}
    assert names == {"left ventricle", "right ventricle", "myocardium"}
    assert all(case.iou_auto is None for case in found.candidate.test.cases)
    assert all(case.frangi_dice is None for case in found.candidate.test.cases)
    for options, count in (((), 9), (("--round", "1"), 3)):
        out = tmp_path / f"out-{count}"
        places = ("--labels", LABELS, "--out", out, "--home", home.root)
        run(casebook, "export", "nifti", *options, *places)
        written = sorted(out.iterdir())
        assert len(written) == count, "a volume for each plane of each patient"
        for path in written:
            record = read_record(home, path.name.removesuffix(".nii.gz"))
            back = nibabel.load(path)
            np.testing.assert_array_equal(back.affine, AFFINE)
            assert any(_agree(np.asarray(back.dataobj), codes, record.plane) for codes in drawn)


def _agree(back: np.ndarray, codes: np.ndarray, plane: str) -> bool:
    """Whether every slice that was drawn holds the codes it came with."""
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    slices = np.flatnonzero(back.any(axis=tuple({0, 1, 2} - {axis})))
    taken = [np.take(values, slices, axis) for values in (back, codes)]
    return len(slices) >= 2 and np.array_equal(*taken)

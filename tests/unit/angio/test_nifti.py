"""NIfTI volumes: upright slices, spacing with its source, masks back on the very same grid."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner

from angio.cli import main
from angio.drawings import expert_drawings
from angio.intake import ImportReport
from angio.nifti import NiftiOptions, import_nifti, read_record, write_masks
from angio.volumes import Plane, open_volume
from casebook.catalogue import Catalogue
from casebook.errors import ConfigError, DataError, StateError, TooLargeError
from casebook.home import Home
from casebook.labels import LabelSet, read_labels

CONF = Path(__file__).parents[3] / "conf" / "labels"
SHAPE = (24, 20, 6)


@pytest.fixture(scope="module")
def labels() -> LabelSet:
    return read_labels(CONF / "ct-heart.yaml")


def oblique() -> np.ndarray:
    """Left-posterior voxels of 0.5 × 0.75 × 2.5 mm, turned by 10 degrees about the long axis."""
    turn = np.deg2rad(10)
    spin = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(spin) @ np.diag([-0.5, -0.75, 2.5])
    affine[:3, 3] = [12.25, -7.5, 101.125]
    return affine


def hounsfield() -> np.ndarray:
    x, y, z = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return (-160 + 10 * x + 5 * y + z).astype(np.int16)


def drawn() -> np.ndarray:
    values = np.zeros(SHAPE, dtype=np.uint8)
    values[2:9, 3:7, 1:4] = 1
    values[12:15, 4:16, 2:6] = 5
    return values


def save(
    path: Path, values: np.ndarray, affine: np.ndarray | None = None, unit: str = "mm"
) -> Path:
    image = nibabel.Nifti1Image(values, oblique() if affine is None else affine)
    image.header.set_xyzt_units(unit)
    image.header["descrip"] = b"Doe^Jane 1950"
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "in" / "a_0000.nii.gz", hounsfield())
    save(tmp_path / "masks" / "a.nii.gz", drawn())
    return tmp_path


def taken(folder: Path, labels: LabelSet, **options: Any) -> tuple[ImportReport, Catalogue, Home]:
    home = Home(folder / "home")
    settings = NiftiOptions(ruled_clean=True).with_(**options)
    masks = folder / "masks"
    report = import_nifti(
        folder / "in", home, labels, settings, masks=masks if masks.exists() else None
    )
    return report, Catalogue(home), home


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_masks_come_back_on_the_same_grid_from_every_plane(
    plane: Plane, folder: Path, labels: LabelSet
) -> None:
    report, catalogue, home = taken(folder, labels, plane=plane)
    across = {"axial": SHAPE[2], "coronal": SHAPE[1], "sagittal": SHAPE[0]}[plane]
    assert (report.imported, report.problems) == (across, ())
    volume_id = next(catalogue.cases()).extra["volume"]
    told = write_masks(home, volume_id, labels, expert_drawings(catalogue), folder / "out")
    assert told.overlaps_px == 0
    assert told.drawn == report.annotated
    back, original = nibabel.load(told.file), nibabel.load(folder / "in" / "a_0000.nii.gz")
    np.testing.assert_array_equal(np.asarray(back.dataobj), drawn())
    np.testing.assert_array_equal(back.affine, original.affine)
    assert back.shape == original.shape
    assert back.header.get_xyzt_units() == original.header.get_xyzt_units()
    for field in ("sform_code", "qform_code", "srow_x", "quatern_b", "qoffset_z", "pixdim"):
        np.testing.assert_array_equal(back.header[field], original.header[field])
    assert back.get_data_dtype() == np.uint8


def test_slices_are_upright_windowed_and_measured(folder: Path, labels: LabelSet) -> None:
    _, catalogue, _ = taken(folder, labels, window=(0.0, 510.0))
    case = next(case for case in catalogue.cases() if case.frame == 3)
    # The voxels run to the left and to the back, as radiologists look at them: nothing is turned.
    wanted = np.clip((hounsfield()[:, :, 3].T + 255) / 2, 0, 255)
    assert np.abs(catalogue.frame(case.ref).pixels - wanted).max() <= 0.5
    assert case.spacing is not None
    assert case.spacing.source == "affine"
    assert (case.spacing.row_mm, case.spacing.col_mm) == pytest.approx((0.75, 0.5), abs=1e-6)
    assert (case.n_frames, case.stored_frames) == (SHAPE[2], (3,))


def test_a_volume_stored_the_other_way_round_gives_the_same_pictures(
    folder: Path, tmp_path: Path, labels: LabelSet
) -> None:
    _, first, _ = taken(folder, labels)
    flipped = oblique() @ np.diag([-1, -1, 1, 1])
    flipped[:3, 3] = (oblique() @ [SHAPE[0] - 1, SHAPE[1] - 1, 0, 1])[:3]
    other = tmp_path / "other"
    save(other / "in" / "a_0000.nii", hounsfield()[::-1, ::-1], flipped)
    save(other / "masks" / "a.nii", drawn()[::-1, ::-1], flipped)
    _, second, _ = taken(other, labels)
    for one, two in zip(first.cases(), second.cases(), strict=False):
        assert one.frame == two.frame
        np.testing.assert_array_equal(first.frame(one.ref).pixels, second.frame(two.ref).pixels)


def test_all_slices_of_a_volume_are_of_one_patient_and_text_is_dropped(
    folder: Path, labels: LabelSet
) -> None:
    report, catalogue, home = taken(folder, labels)
    assert len({case.patient for case in catalogue.cases()}) == 1
    assert len(report.splits) == 1
    assert "each volume stands for itself" in report.notes[0]
    for path in home.cases.rglob("*"):
        if path.is_file():
            assert b"Jane" not in path.read_bytes()
    volume_id = next(catalogue.cases()).extra["volume"]
    assert b"Jane" not in base64.b64decode(read_record(home, volume_id).header_base64)


def test_without_a_unit_slices_have_px(tmp_path: Path, labels: LabelSet) -> None:
    save(tmp_path / "in" / "a.nii.gz", hounsfield(), unit="unknown")
    report, catalogue, _ = taken(tmp_path, labels)
    assert next(catalogue.cases()).spacing is None
    assert "--assume-mm" in report.notes[-1]
    report, catalogue, _ = taken(tmp_path, labels, assume_mm=True)
    spacing = next(catalogue.cases()).spacing
    assert spacing is not None
    assert spacing.mean_mm == pytest.approx(0.625, abs=1e-6)
    save(tmp_path / "in" / "a.nii.gz", hounsfield(), oblique() @ np.diag([1e-3] * 3 + [1]), "meter")
    _, catalogue, _ = taken(tmp_path, labels)
    assert any(c.spacing and abs(c.spacing.mean_mm - 0.625) < 1e-6 for c in catalogue.cases())


def test_every_second_slice_and_a_second_run(folder: Path, labels: LabelSet) -> None:
    report, _, _ = taken(folder, labels, every=2)
    assert report.imported == 3
    report, _, _ = taken(folder, labels)
    assert (report.imported, report.unchanged) == (3, 3)


def test_label_volumes_must_fit(folder: Path, labels: LabelSet) -> None:
    save(folder / "masks" / "a.nii.gz", drawn() * 20)
    report, _, _ = taken(folder, labels)
    assert {group.count for group in report.groups} == {5}
    assert "codes of no label" in report.groups[0].kind
    save(folder / "masks" / "a.nii.gz", drawn()[:-1])
    report, _, _ = taken(folder, labels)
    assert "grid of its volume" in report.problems[0].message
    shifted = oblique()
    shifted[0, 3] += 1
    save(folder / "masks" / "a.nii.gz", drawn(), shifted)
    report, _, _ = taken(folder, labels)
    assert "1 mm off" in report.problems[0].message


def broken(block: bytearray, name: str) -> bytes:
    if name == "cut":
        return bytes(block[:-100])
    if name == "longer":
        return bytes(block) + b"0"
    if name == "huge":
        block[42:48] = np.array([4000, 4000, 32000], dtype="<i2").tobytes()
    if name == "magic":
        block[344:348] = b"ni1\0"
    if name == "type":
        block[70:74] = np.array([1792, 128], dtype="<i2").tobytes()
    if name == "offset":
        block[108:112] = np.array([100], dtype="<f4").tobytes()
    if name == "affine":
        block[280:296] = bytes(16)
    if name == "spacing":
        block[80:84] = np.array([3.0], dtype="<f4").tobytes()
    if name == "nan":
        block[280:284] = np.array([np.nan], dtype="<f4").tobytes()
    if name == "axes":
        block[40:42] = np.array([2], dtype="<i2").tobytes()
    return bytes(block)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut", "needs"), ("longer", "more than"), ("huge", "at most"), ("magic", "one file"),
        ("type", "plain numbers"), ("offset", "begin at byte"), ("affine", "fits no space"),
        ("spacing", "expected the same"), ("nan", "fits no space"), ("axes", "three axes"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("packed", [True, False], ids=["gz", "plain"])
def test_damaged_volumes_are_refused(name: str, message: str, packed: bool, tmp_path: Path) -> None:
    whole = save(tmp_path / "a.nii", hounsfield()).read_bytes()
    path = tmp_path / "b.nii"
    bad = broken(bytearray(whole), name)
    path.write_bytes(gzip.compress(bad) if packed else bad)
    with pytest.raises(DataError, match=message), open_volume(path, "the volume"):
        pass


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    block = bytearray(save(tmp_path / "a.nii", hounsfield()).read_bytes())
    block[42:48] = np.array([4000, 4000, 32000], dtype="<i2").tobytes()
    with gzip.open(tmp_path / "b.nii.gz", "wb") as stream:
        stream.write(bytes(block[:352]) + bytes(50_000_000))
    with pytest.raises(TooLargeError), open_volume(tmp_path / "b.nii.gz", "the volume"):
        pass


def test_a_flipped_byte_in_a_compressed_volume_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", hounsfield())
    stored = bytearray(path.read_bytes())
    stored[-6] ^= 1  # in the checksum of the whole
    path.write_bytes(bytes(stored))
    with pytest.raises(DataError, match="damaged"), open_volume(path, "the volume"):
        pass


def test_settings_and_places_are_checked(folder: Path, labels: LabelSet) -> None:
    with pytest.raises(ConfigError, match="width"):
        taken(folder, labels, window=(40.0, 0.0))
    with pytest.raises(DataError, match=r"no \.nii"):
        import_nifti(folder, Home(folder / "h"), labels)
    with pytest.raises(StateError):
        read_record(Home(folder / "h"), "n12")
    with pytest.raises(DataError, match="no volume id"):
        read_record(Home(folder / "h"), "../n12")


def test_the_commands_go_there_and_back(folder: Path) -> None:
    def run(*arguments: object) -> Any:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    home, file = folder / "home", CONF / "ct-heart.yaml"
    dry = run(
        "import", "nifti", folder / "in", "--masks", folder / "masks", "--labels", file,
        "--home", home, "--dry-run", "--ruled-clean",
    )  # fmt: skip
    assert "6 cases would be imported" in dry
    assert not home.exists()
    run("import", "nifti", folder / "in", "--masks", folder / "masks", "--labels", file,
        "--home", home, "--ruled-clean")  # fmt: skip
    told = json.loads(
        run("export", "nifti", "--home", home, "--labels", file, "--out", folder / "o", "--json")
    )
    assert [entry["drawn"] for entry in told] == [5]
    np.testing.assert_array_equal(np.asarray(nibabel.load(told[0]["file"]).dataobj), drawn())

"""Import of DICOM files that nobody has annotated: angiograms, and clips of ultrasound."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import JPEGBaseline8Bit, UltrasoundMultiFrameImageStorage

from angio.cli import main
from angio.dicom.read import read_cine
from angio.dicom.write import write_xa
from angio.dicom_folder import DicomOptions, import_dicom
from angio.phantoms.study import write_study
from casebook.catalogue import Catalogue
from casebook.home import Home
from tests.unit.angio.test_dicom import HEADER


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unannotated file of a small study."""
    folder = tmp_path_factory.mktemp("dicom") / "study"
    write_study(folder, seed=8, patients=3, unseen=1)
    return next((folder / "unseen").glob("*.dcm"))


def test_the_frame_is_chosen_and_its_score_is_shown(unseen: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    report = import_dicom(unseen, home)
    assert (report.imported, report.problems) == (1, ())
    assert any("frame chosen" in note for note in report.notes)
    (case,) = Catalogue(home).cases()
    assert case.extra["frame_choice"].startswith("chosen (")
    assert f"frame {case.frame}, score" in case.extra["frame_choice"]
    assert len(case.extra["frame_times_ms"].split()) == len(case.stored_frames)
    told = CliRunner().invoke(main, ["show", case.case_id, "--home", str(home.root)])
    assert told.exit_code == 0, told.output
    assert "frame_choice: chosen (" in told.output
    assert "rendering: percentile" in told.output


def test_a_given_frame_is_kept_and_one_beyond_the_run_refused(unseen: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    report = import_dicom(unseen, home, DicomOptions(frame=2, neighbours=0))
    assert report.imported == 1
    (case,) = Catalogue(home).cases()
    assert (case.frame, case.stored_frames) == (2, (2,))
    assert case.extra["frame_choice"] == "given"
    report = import_dicom(unseen, home, DicomOptions(frame=200), dry_run=True)
    assert "frame 200 was asked for" in report.problems[0].message


def test_the_stored_bits_stay_reachable(unseen: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    import_dicom(unseen, home)
    catalogue = Catalogue(home)
    (case,) = catalogue.cases()
    stored = np.asarray(Image.open(catalogue.stored_path(case.ref)))
    np.testing.assert_array_equal(stored, read_cine(unseen, [case.frame]).pixels[0])


def test_subtraction_is_an_option_and_says_where_there_is_no_mask(
    unseen: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    cine = read_cine(unseen)
    write_xa(folder / "plain.dcm", HEADER, cine.pixels)
    write_xa(folder / "masked.dcm", HEADER, cine.pixels)
    ds = dcmread(folder / "masked.dcm")
    item = Dataset()
    item.MaskOperation, item.MaskFrameNumbers = "AVG_SUB", [1]
    item.ApplicableFrameRange = [4, cine.n_frames]
    ds.MaskSubtractionSequence = Sequence([item])
    ds.SOPInstanceUID = "2.25.77"
    ds.save_as(folder / "masked.dcm")
    home = Home(tmp_path / "home")
    report = import_dicom(folder, home, DicomOptions(subtract=True))
    assert (report.imported, report.problems) == (2, ())
    assert any("names no mask to subtract" in note for note in report.notes)
    found = {case.extra["rendering"]: case for case in Catalogue(home).cases()}
    (taken,) = [case for name, case in found.items() if name.startswith("mask subtracted")]
    assert min(taken.stored_frames) >= 3
    report = import_dicom(folder, home, DicomOptions(subtract=True, frame=1), dry_run=True)
    assert "no mask to subtract" in report.problems[0].message


def _clip(path: Path, *, banner: bool) -> np.ndarray:
    """An echo clip of colour JPEG, and the grey its frames had before coding."""
    y, x = np.mgrid[:128, :160]
    clip = []
    for number in range(5):
        speckle = np.random.default_rng(number).normal(0, 4, (128, 160))
        beat = 70 + 40 * np.sin((x - 80) / 17) * np.cos((y - 4 * number) / 23) + speckle
        grey = np.clip(beat, 0, 255).astype(np.uint8)
        if banner:
            for letter in range(9):
                at = 10 + 9 * letter
                grey[6:18, at : at + 2] = grey[6:8, at : at + 6] = grey[16:18, at : at + 6] = 255
        clip.append(np.repeat(grey[:, :, None], 3, axis=2))
    write_xa(path, HEADER, np.zeros((1, 128, 160), dtype=np.uint16), syntax="raw")
    ds = dcmread(path)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.Modality, ds.NumberOfFrames, ds.SamplesPerPixel = "US", 5, 3
    ds.PhotometricInterpretation, ds.PlanarConfiguration = "YBR_FULL_422", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    region = Dataset()
    region.RegionSpatialFormat = region.RegionDataType = 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = region.PhysicalDeltaY = 0.045
    ds.SequenceOfUltrasoundRegions = Sequence([region])
    ds.PixelData = encapsulate([imagecodecs.jpeg8_encode(frame, 95) for frame in clip])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path)
    return np.stack(clip)[:, :, :, 0]


def test_an_echo_clip_comes_in_grey_and_calibrated(tmp_path: Path) -> None:
    grey = _clip(tmp_path / "echo.dcm", banner=False)
    cine = read_cine(tmp_path / "echo.dcm")
    assert np.abs(cine.pixels.astype(int) - grey).mean() < 2
    home = Home(tmp_path / "home")
    report = import_dicom(tmp_path / "echo.dcm", home)
    assert (report.imported, report.problems) == (1, ())
    (case,) = Catalogue(home).cases()
    assert case.spacing is not None
    assert (case.spacing.row_mm, case.spacing.source) == (pytest.approx(0.45), "calibrated")
    assert (case.extra["modality"], case.frame) == ("US", 2)


def test_an_echo_clip_with_a_banner_does_not_come_in_unmasked(tmp_path: Path) -> None:
    _clip(tmp_path / "echo.dcm", banner=True)
    home = Home(tmp_path / "home")
    report = import_dicom(tmp_path / "echo.dcm", home)
    if report.imported:
        (case,) = Catalogue(home).cases()
        assert case.deid is not None
        assert case.deid.masked_boxes_xyxy
    else:
        assert len(report.problems) == 1


@pytest.mark.parametrize("planar", [0, 1], ids=["by pixel", "by plane"])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_raw_colour_becomes_its_luma(tmp_path: Path, photometric: str, planar: int) -> None:
    colour = np.random.default_rng(2).integers(0, 256, (2, 9, 12, 3), dtype=np.uint8)
    path = tmp_path / "clip.dcm"
    write_xa(path, HEADER, np.zeros((1, 9, 12), dtype=np.uint16), syntax="raw")
    ds = dcmread(path)
    ds.NumberOfFrames, ds.SamplesPerPixel, ds.PlanarConfiguration = 2, 3, planar
    ds.PhotometricInterpretation = photometric
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = (colour.transpose(0, 3, 1, 2) if planar else colour).tobytes()
    ds.save_as(path)
    found = read_cine(path, [1]).pixels[0]
    luma = colour[1, :, :, 0] if photometric == "YBR_FULL" else colour[1] @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(found, luma, atol=0.51)

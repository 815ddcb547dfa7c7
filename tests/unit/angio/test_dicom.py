"""Reading cines: every transfer syntax, geometry from the header, and refusals by name."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import RLELossless

from angio.dicom.geometry import spacing_of
from angio.dicom.identity import KEPT, strip
from angio.dicom.read import cine_of, open_dataset, read_cine
from angio.dicom.write import Syntax, XaHeader, write_xa
from angio.rendering import render, render_frame, upright
from casebook.errors import DataError

HEADER = XaHeader(
    study_uid="2.25.11", series_uid="2.25.12", instance_uid="2.25.13",
    patient_name="Quill^Ada", patient_id="104-0031", birth_date="19510203", sex="F",
    study_date="20220314", study_time="101500", accession="ACC12345678",
    institution="St. Invented Heart Centre", physician="Novak^Bruno", station="CATHLAB2",
    series_number=1, primary_deg=-30.0, secondary_deg=20.5, source_detector_mm=1000.0,
    source_patient_mm=750.0, imager_spacing_mm=0.4, frame_ms=66.67,
    comments="Ask for Ada", vendor={0x10: "Quill^Ada"},
)  # fmt: skip


def _pixels(n_frames: int = 3) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.integers(0, 4096, (n_frames, 24, 32), dtype=np.uint16)


def _file(folder: Path, syntax: Syntax = "raw", **changes: object) -> Path:
    """A small run, with header elements changed after writing."""
    path = folder / "run.dcm"
    write_xa(path, HEADER, _pixels(), syntax=syntax)
    if changes:
        ds = dcmread(path)
        for keyword, value in changes.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)
        ds.save_as(path)
    return path


@pytest.mark.parametrize("syntax", ["raw", "deflated", "jpeg-ls"])
def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path, syntax: str) -> None:
    chosen: Syntax = "raw" if syntax == "raw" else "deflated" if syntax == "deflated" else "jpeg-ls"
    cine = read_cine(_file(tmp_path, chosen))
    np.testing.assert_array_equal(cine.pixels, _pixels())
    assert (cine.n_frames, cine.bits, cine.photometric) == (3, 12, "MONOCHROME2")
    assert cine.frame_ms == pytest.approx(66.67)
    assert cine.rate_fps == pytest.approx(15.0, abs=0.01)


def test_rle_is_read_frame_by_frame(tmp_path: Path) -> None:
    path = _file(tmp_path)
    ds = dcmread(path)
    ds.compress(RLELossless, _pixels(), generate_instance_uid=False)
    ds.save_as(path)
    cine = read_cine(path, frames=[2, 0])
    assert cine.frames == (2, 0)
    np.testing.assert_array_equal(cine.pixels, _pixels()[[2, 0]])


def test_spacing_is_carried_to_the_isocentre(tmp_path: Path) -> None:
    spacing = read_cine(_file(tmp_path)).spacing
    assert spacing is not None
    assert spacing.row_mm == pytest.approx(0.3)
    assert spacing.source == "isocentre"


@pytest.mark.parametrize(
    ("changes", "source", "row_mm"),
    [
        pytest.param(
            {"DistanceSourceToPatient": None}, "detector", 0.4, id="no geometry: the detector's"
        ),
        pytest.param(
            {"DistanceSourceToPatient": "1200"}, "detector", 0.4, id="patient behind the detector"
        ),
        pytest.param(
            {"PixelSpacing": [0.25, 0.25], "PixelSpacingCalibrationType": "FIDUCIAL"},
            "calibrated", 0.25, id="fiducial",
        ),
        pytest.param({"PixelSpacing": [0.25, 0.25]}, "calibrated", 0.25, id="differs from imager"),
        pytest.param({"PixelSpacing": [0.4, 0.4]}, "isocentre", 0.3, id="a copy of the imager's"),
        pytest.param(
            {"PixelSpacing": [0.27, 0.27], "PixelSpacingCalibrationType": "GEOMETRY"},
            "isocentre", 0.27, id="geometry",
        ),
        pytest.param(
            {"DistanceSourceToPatient": None, "EstimatedRadiographicMagnificationFactor": "1.6"},
            "isocentre", 0.25, id="stated magnification",
        ),
    ],
)  # fmt: skip
def test_spacing_names_its_source(
    tmp_path: Path, changes: dict[str, object], source: str, row_mm: float
) -> None:
    spacing = read_cine(_file(tmp_path, **changes)).spacing
    assert spacing is not None
    assert (spacing.source, spacing.row_mm) == (source, pytest.approx(row_mm))


def test_without_any_spacing_there_is_none(tmp_path: Path) -> None:
    ds = dcmread(_file(tmp_path, ImagerPixelSpacing=None))
    assert spacing_of(ds) is None
    ds.ImagerPixelSpacing = [0.0, 0.0]
    assert spacing_of(ds) is None


def test_a_moving_positioner_adds_its_increments(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        PositionerMotion="DYNAMIC",
        PositionerPrimaryAngleIncrement=[0, 2, 3],
        PositionerSecondaryAngleIncrement=[0, 0, 1],
    )
    views = read_cine(path).views
    assert [view.primary_deg for view in views if view] == [-30.0, -28.0, -25.0]
    assert [view.secondary_deg for view in views if view] == [20.5, 20.5, 21.5]


def test_a_file_without_angles_has_no_views(tmp_path: Path) -> None:
    assert read_cine(_file(tmp_path, PositionerPrimaryAngle=None)).views == (None, None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE", id="colour"),
        pytest.param({"PixelRepresentation": 1}, "signed", id="signed"),
        pytest.param({"BitsStored": 0}, "0 of 16 bits", id="no bits"),
        pytest.param({"Rows": 0}, "0 rows", id="no rows"),
        pytest.param({"PixelData": None}, "no pixel data", id="header only"),
        pytest.param({"Rows": 48}, "cannot be decoded", id="fewer pixels than the header says"),
    ],
)
def test_unusable_files_are_refused_by_name(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = _file(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        read_cine(path)


def test_a_syntax_nobody_decodes_is_named(tmp_path: Path) -> None:
    ds = open_dataset(_file(tmp_path))
    assert isinstance(ds, FileDataset)
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.94"
    with pytest.raises(DataError, match=r"run\.dcm: transfer syntax JPIP .* convert the file"):
        cine_of(ds, "run.dcm")


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        read_cine(tmp_path / "absent.dcm")
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(DataError, match="not a DICOM file"):
        read_cine(tmp_path / "notes.txt")


@pytest.mark.parametrize("syntax", ["raw", "deflated", "jpeg-ls"])
def test_truncated_files_are_refused(tmp_path: Path, syntax: str) -> None:
    chosen: Syntax = "raw" if syntax == "raw" else "deflated" if syntax == "deflated" else "jpeg-ls"
    path = _file(tmp_path, chosen)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError):
        read_cine(path)


def test_a_frame_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="frames 0 to 2; frame 3"):
        read_cine(_file(tmp_path), frames=[3])


def test_stripping_keeps_only_the_list(tmp_path: Path) -> None:
    ds = open_dataset(_file(tmp_path))
    clean = strip(ds, pseudonym="p1", remap_uid=lambda uid: f"{uid}.9", shift_days=14)
    text = str(clean.dataset)
    for secret in ("Quill", "104-0031", "19510203", "ACC12345678", "Invented", "Novak", "CATHLAB"):
        assert secret in str(ds)
        assert secret not in text
    assert clean.dataset.PatientID == "p1"
    assert clean.dataset.StudyDate == "20220228"
    assert clean.dataset.StudyInstanceUID == "2.25.11.9"
    assert set(clean.kept) <= KEPT
    assert clean.removed >= 20
    np.testing.assert_array_equal(cine_of(clean.dataset, "clean").pixels, _pixels())
    assert ds.PatientID == "104-0031"


def test_rendering_spreads_a_frame_over_8_bits() -> None:
    ramp = np.arange(1000, 2024, dtype=np.uint16).reshape(32, 32)
    rendered = render(ramp)
    assert (rendered.min(), rendered.max()) == (0, 255)
    assert (np.diff(rendered.astype(int).ravel()) >= 0).all()
    assert render(np.full((4, 4), 7, dtype=np.uint16)).max() == 0


def test_monochrome1_is_turned_upright(tmp_path: Path) -> None:
    path = _file(tmp_path)
    plain = read_cine(path)
    ds = dcmread(path)
    ds.PhotometricInterpretation = "MONOCHROME1"
    ds.PixelData = (4095 - _pixels()).astype("<u2").tobytes()
    ds.save_as(path)
    turned = read_cine(path)
    np.testing.assert_array_equal(render_frame(turned), render_frame(plain))
    flat = upright(turned.pixels[0], inverted=True, bits=12)
    np.testing.assert_array_equal(flat, plain.pixels[0])


REAL = {
    "XA1_RLE": 0, "XA1_JPLL": 0, "XA1_JLSL": 0, "XA1_J2KR": 0,
    "XA1_JLSN": 4, "XA1_J2KI": 8, "XA1_JPLY": 120,
}  # fmt: skip
"""Greatest difference from the raw file, 0 where the syntax is lossless."""


@pytest.mark.parametrize("name", sorted(REAL))
def test_a_real_angiogram_decodes_in_every_syntax(xa_dir: Path, name: str) -> None:
    raw = read_cine(xa_dir / "XA1_UNC").pixels.astype(int)
    other = read_cine(xa_dir / name)
    assert raw.shape == (1, 1024, 1024)
    assert np.abs(other.pixels - raw).max() <= REAL[name]
    assert (other.spacing, other.views) == (None, (None,))

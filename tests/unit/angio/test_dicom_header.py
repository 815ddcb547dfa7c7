"""What a header says of grey, time, motion, masks and size, and what is refused for it."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence

from angio.dicom.opening import MAX_INFLATED_BYTES
from angio.dicom.read import open_dataset, read_cine, subtractable_frames
from angio.dicom.write import Syntax, write_xa
from angio.rendering import HIGH_PCT, LOW_PCT, render, render_frame, rendering_of, upright_frame
from casebook.errors import DataError, TooLargeError
from tests.unit.angio.test_dicom import HEADER

N_FRAMES = 6


def _pixels(bits: int = 12) -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.integers(0, 1 << bits, (N_FRAMES, 20, 26), dtype=np.uint16)


def _file(
    folder: Path,
    change: Callable[[FileDataset], None] | None = None,
    pixels: np.ndarray | None = None,
    syntax: Syntax = "raw",
) -> Path:
    """A run with its header changed after writing."""
    path = folder / "run.dcm"
    write_xa(path, HEADER, _pixels() if pixels is None else pixels, syntax=syntax)
    if change is not None:
        ds = dcmread(path)
        change(ds)
        ds.save_as(path)
    return path


def _set(**values: object) -> Callable[[FileDataset], None]:
    def change(ds: FileDataset) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return change


def _item(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _sorted_render(pixels: np.ndarray) -> np.ndarray:
    """The rendering by its definition, pixel by pixel."""
    low, high = np.percentile(pixels, [LOW_PCT, HIGH_PCT])
    if high <= low:
        return np.zeros(pixels.shape, dtype=np.uint8)
    scaled = (pixels.astype(np.float32) - np.float32(low)) * np.float32(255.0 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


@settings(max_examples=150, deadline=None)
@given(
    arrays(
        np.uint16, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.integers(0, 65535)
    )
)
def test_rendering_by_counting_equals_rendering_by_sorting(pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(render(pixels), _sorted_render(pixels))


def test_a_modality_table_is_applied_before_rendering_and_stored_values_stay(
    tmp_path: Path,
) -> None:
    curve = np.round(np.sqrt(np.arange(4096)) * 1000).astype(np.uint16)
    table = _item(LUTDescriptor=[4096, 0, 16], ModalityLUTType="US")
    table.add_new(0x00283006, "US", curve.tolist())
    path = _file(tmp_path, _set(ModalityLUTSequence=Sequence([table])))
    cine = read_cine(path)
    np.testing.assert_array_equal(upright_frame(cine), _pixels()[0])
    off = render_frame(cine).astype(int) - _sorted_render(curve[_pixels()[0]])
    assert np.abs(off).max() <= 1
    assert (off != 0).mean() < 0.01
    assert rendering_of(cine, "contrast").startswith("Modality LUT")


@pytest.mark.parametrize(
    "text", [b"1000.0", b"750.0 ", b"0.40000"], ids=["detector", "patient", "spacing"]
)
def test_a_damaged_distance_is_refused_rather_than_left_out(tmp_path: Path, text: bytes) -> None:
    path = _file(tmp_path)
    whole = path.read_bytes()
    assert text in whole
    path.write_bytes(whole.replace(text, b"1PN\x08" + text[4:]))
    with pytest.raises(DataError, match="export it again"):
        read_cine(path, [0])


def test_a_falling_rescale_turns_the_picture_round(tmp_path: Path) -> None:
    plain = render_frame(read_cine(_file(tmp_path)))
    turned = render_frame(
        read_cine(_file(tmp_path, _set(RescaleSlope=-1, RescaleIntercept=4095, RescaleType="US")))
    )
    assert np.abs(turned.astype(int) - (255 - plain.astype(int))).max() <= 1


@pytest.mark.parametrize(
    ("function", "stored", "grey"),
    [
        # PS3.3 C.11.2.1.2.1, example 1: centre 2048, width 4096 is the identity on 12 bits.
        pytest.param("LINEAR", [0, 2048, 4095], [0, 128, 255], id="linear, whole range"),
        pytest.param("LINEAR_EXACT", [0, 2048, 4095], [0, 128, 255], id="exact"),
        pytest.param("SIGMOID", [0, 2048, 4095], [30, 128, 225], id="sigmoid"),
    ],
)
def test_a_window_is_applied_when_asked_for(
    tmp_path: Path, function: str, stored: list[int], grey: list[int]
) -> None:
    pixels = np.zeros((1, 4, 4), dtype=np.uint16)
    pixels[0, 0, :3] = stored
    change = _set(WindowCenter=2048, WindowWidth=4096, VOILUTFunction=function)
    cine = read_cine(_file(tmp_path, change, pixels))
    np.testing.assert_allclose(render_frame(cine, look="window")[0, :3], grey, atol=1)
    values = {"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTFunction": function}
    inverse = _set(PhotometricInterpretation="MONOCHROME1", **values)
    turned = read_cine(_file(tmp_path, inverse, pixels))
    np.testing.assert_allclose(
        render_frame(turned, look="window")[0, :3], [255 - value for value in grey], atol=1
    )


def test_a_voi_table_wins_over_the_window(tmp_path: Path) -> None:
    table = _item(LUTDescriptor=[4, 1000, 8])
    table.add_new(0x00283006, "US", [10, 20, 30, 250])
    pixels = np.full((1, 4, 4), 500, dtype=np.uint16)
    pixels[0, 0] = [1000, 1001, 1002, 4000]
    cine = read_cine(_file(tmp_path, _set(VOILUTSequence=Sequence([table])), pixels))
    shown = render_frame(cine, look="window")
    assert shown[0].tolist() == [10, 20, 30, 250]
    assert shown[1, 0] == 10
    assert rendering_of(cine, "window") == "VOI look-up table, 1"


def test_a_table_shorter_than_declared_is_refused(tmp_path: Path) -> None:
    table = _item(LUTDescriptor=[4096, 0, 16])
    table.add_new(0x00283006, "US", [1, 2, 3])
    with pytest.raises(DataError, match="look-up tables; export it again"):
        read_cine(_file(tmp_path, _set(ModalityLUTSequence=Sequence([table]))))


@pytest.mark.parametrize(
    ("values", "times"),
    [
        pytest.param({"FrameTime": 40}, [0, 40, 80, 120, 160, 200], id="constant"),
        pytest.param(
            {"FrameTimeVector": [0, 10, 20, 30, 40, 50], "FrameIncrementPointer": 0x00181065},
            [0, 10, 30, 60, 100, 150], id="vector, named",
        ),
        pytest.param(
            {"FrameTimeVector": [0, 10, 20], "FrameIncrementPointer": 0x00181065}, [],
            id="vector of another length",
        ),
        pytest.param({"FrameTime": 0, "CineRate": 25}, [0, 40, 80, 120, 160, 200], id="rate"),
        pytest.param({"FrameTime": 0}, [], id="not said"),
    ],
)  # fmt: skip
def test_every_frame_has_its_time(
    tmp_path: Path, values: dict[str, object], times: list[float]
) -> None:
    path = _file(tmp_path, _set(**values))
    assert list(read_cine(path).times_ms) == times
    if times:
        assert read_cine(path, [4, 1]).times_ms == (times[4], times[1])


def test_a_positioner_that_moves_unsaid_has_a_view_on_its_first_frame_only(
    tmp_path: Path,
) -> None:
    views = read_cine(_file(tmp_path, _set(PositionerMotion="DYNAMIC"))).views
    assert views[0] is not None
    assert views[1:] == (None,) * (N_FRAMES - 1)


def _masked(**changes: object) -> Callable[[FileDataset], None]:
    values: dict[str, object] = {
        "MaskOperation": "AVG_SUB", "MaskFrameNumbers": [1, 2], "ApplicableFrameRange": [3, 6],
    }  # fmt: skip
    item = _item(**{**values, **changes})
    return _set(MaskSubtractionSequence=Sequence([item]))


def test_the_mean_of_the_mask_frames_is_taken_away_after_the_logarithm(tmp_path: Path) -> None:
    path = _file(tmp_path, _masked())
    cine = read_cine(path, [3], subtract=True)
    logs = np.log(np.maximum(_pixels().astype(np.float64), 1))
    assert cine.subtracted is not None
    np.testing.assert_allclose(cine.subtracted[0], logs[3] - logs[:2].mean(axis=0), atol=1e-5)
    np.testing.assert_array_equal(cine.pixels[0], _pixels()[3])
    assert subtractable_frames(open_dataset(path), "run") == {2, 3, 4, 5}
    assert rendering_of(cine, "contrast").startswith("mask subtracted")


def test_logarithmic_pixels_are_subtracted_as_they_are(tmp_path: Path) -> None:
    def change(ds: FileDataset) -> None:
        _masked(MaskSubPixelShift=[1.0, -2.0])(ds)
        ds.PixelIntensityRelationship = "LOG"

    cine = read_cine(_file(tmp_path, change), [3], subtract=True)
    assert cine.subtracted is not None
    mask = _pixels()[:2].mean(axis=0)
    moved = np.roll(mask, (1, -2), axis=(0, 1))
    inside = np.s_[2:-2, 3:-3]
    np.testing.assert_allclose(
        cine.subtracted[0][inside], (_pixels()[3] - moved)[inside], atol=1e-2
    )


def test_subtraction_brings_out_a_vessel_in_front_of_ribs(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64]
    ribs = 1500 + 900 * np.sin(y / 3.0)
    vessel = np.abs(x - y) < 2
    run = np.stack([ribs, ribs, np.where(vessel, 0.9 * ribs, ribs)])
    run = np.random.default_rng(1).poisson(run).astype(np.uint16)
    path = _file(tmp_path, _masked(MaskFrameNumbers=[1], ApplicableFrameRange=[2, 3]), run)

    def apart(shown: np.ndarray) -> float:
        return float((shown[~vessel].mean() - shown[vessel].mean()) / shown[~vessel].std())

    plain, taken = read_cine(path, [2]), read_cine(path, [2], subtract=True)
    assert apart(render_frame(plain)) < 1
    assert apart(render_frame(taken)) > 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"MaskOperation": "TID"}, "TID is not known", id="time interval difference"),
        pytest.param({"MaskFrameNumbers": [9]}, "names frame 8", id="mask beyond the run"),
        pytest.param({"ApplicableFrameRange": [3]}, "half a range", id="half a range"),
        pytest.param({"ContrastFrameAveraging": 2}, "averaged contrast", id="averaging"),
    ],
)
def test_a_subtraction_nobody_does_is_refused_only_when_asked_for(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = _file(tmp_path, _masked(**changes))
    assert read_cine(path).subtracted is None
    with pytest.raises(DataError, match=message):
        read_cine(path, subtract=True)


def test_a_file_without_masks_is_read_as_it_is(tmp_path: Path) -> None:
    assert read_cine(_file(tmp_path), subtract=True).subtracted is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"Rows": 19}, "bytes of pixel data", id="fewer rows"),
        pytest.param({"Columns": 27}, "bytes of pixel data", id="more columns"),
        pytest.param({"NumberOfFrames": 5}, "bytes of pixel data", id="fewer frames"),
        pytest.param({"NumberOfFrames": 0}, "declares 0 frames", id="no frames"),
        pytest.param({"NumberOfFrames": 2_000_000_000}, "declares 2000000000", id="frames bomb"),
        pytest.param(
            {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "bytes of pixel data", id="8 bits"
        ),
        pytest.param({"BitsStored": 10, "HighBit": 9}, "the header says 10 bits", id="10 bits"),
        pytest.param({"HighBit": 15}, "highest bit at 15", id="high bit"),
        pytest.param({"SamplesPerPixel": 3}, "3 samples", id="grey of three samples"),
    ],
)
@pytest.mark.parametrize("syntax", ["raw", "deflated"])
def test_a_header_that_does_not_fit_its_pixels_is_refused(
    tmp_path: Path, values: dict[str, object], message: str, syntax: Syntax
) -> None:
    path = _file(tmp_path, _set(**values), syntax=syntax)
    with pytest.raises(DataError, match=message):
        read_cine(path)


@pytest.mark.parametrize("syntax", ["rle", "jpeg-ls", "jpeg-lossless", "jpeg-2000"])
@pytest.mark.parametrize(
    "values",
    [{"Rows": 19}, {"Columns": 27}, {"NumberOfFrames": 5}, {"BitsStored": 10, "HighBit": 9}],
    ids=["rows", "columns", "frames", "bits"],
)
def test_a_header_that_does_not_fit_its_codestreams_is_refused(
    tmp_path: Path, values: dict[str, object], syntax: Syntax
) -> None:
    path = _file(tmp_path, _set(**values), syntax=syntax)
    with pytest.raises(DataError, match="cannot be decoded"):
        read_cine(path)


def test_more_than_memory_is_meant_for_is_refused_and_single_frames_still_read(
    tmp_path: Path,
) -> None:
    path = _file(tmp_path, _set(Rows=8192, Columns=8192, NumberOfFrames=9))
    with pytest.raises(TooLargeError, match="ask for fewer"):
        read_cine(path)
    with pytest.raises(DataError, match="bytes of pixel data"):
        read_cine(path, [0])


def test_a_deflated_bomb_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, syntax="deflated")
    whole = path.read_bytes()
    meta = dcmread(path, stop_before_pixels=True).file_meta
    start = 144 + int(meta.FileMetaInformationGroupLength)
    header = zlib.decompressobj(-zlib.MAX_WBITS).decompress(whole[start:])
    bomb = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    zeros = bytes(2**20)
    coded = [bomb.compress(header)]
    coded += [bomb.compress(zeros) for _ in range(MAX_INFLATED_BYTES // len(zeros) + 1)]
    path.write_bytes(whole[:start] + b"".join(coded) + bomb.flush())
    assert path.stat().st_size < 2_000_000
    with pytest.raises(TooLargeError, match="inflates to more than"):
        read_cine(path, [0])


def test_an_overlay_in_the_upper_bits_is_cleared(tmp_path: Path) -> None:
    def change(ds: FileDataset) -> None:
        ds.add_new((0x6000, 0x0102), "US", 12)
        ds.PixelData = (_pixels() | 0x1000).astype("<u2").tobytes()

    np.testing.assert_array_equal(read_cine(_file(tmp_path, change)).pixels, _pixels())


def test_a_name_in_a_damaged_element_is_not_warned_of(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = _file(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"19510203", b"Quill^Ad"))
    ds = open_dataset(path)
    assert "Quill" in str(ds.PatientBirthDate)
    assert not list(recwarn)


def _region(**changes: object) -> Dataset:
    values: dict[str, object] = {
        "RegionSpatialFormat": 1, "RegionDataType": 1, "RegionFlags": 0,
        "PhysicalUnitsXDirection": 3, "PhysicalUnitsYDirection": 3,
        "PhysicalDeltaX": 0.05, "PhysicalDeltaY": -0.04,
    }  # fmt: skip
    return _item(**{**values, **changes})


@pytest.mark.parametrize(
    ("regions", "spacing"),
    [
        pytest.param([_region()], (0.4, 0.5), id="one"),
        pytest.param(
            [_region(), _region(RegionSpatialFormat=3, PhysicalDeltaX=1)], (0.4, 0.5),
            id="spectral beside",
        ),
        pytest.param([_region(), _region(PhysicalDeltaX=0.06)], None, id="two that differ"),
        pytest.param([_region(PhysicalUnitsXDirection=4)], None, id="seconds"),
    ],
)  # fmt: skip
def test_ultrasound_is_calibrated_by_its_regions(
    tmp_path: Path, regions: list[Dataset], spacing: tuple[float, float] | None
) -> None:
    found = read_cine(_file(tmp_path, _set(SequenceOfUltrasoundRegions=Sequence(regions)))).spacing
    if spacing is None:
        assert found is None
    else:
        assert found is not None
        assert (found.row_mm, found.col_mm) == pytest.approx(spacing)
        assert found.source == "calibrated"

"""Every transfer syntax: what an encoder wrote comes back, bit for bit where it is lossless."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG2MPML, MPEG4HP41, UID, AllTransferSyntaxes

from angio.dicom.read import read_cine
from angio.dicom.write import Syntax, write_xa
from casebook.errors import ConfigError, DataError
from tests.unit.angio.test_dicom import HEADER

LOSSLESS: tuple[Syntax, ...] = (
    "raw", "big-endian", "deflated", "rle", "jpeg-ls", "jpeg-lossless", "jpeg-2000", "htj2k",
)  # fmt: skip
HW = (24, 33)


def _pixels(bits: int, n_frames: int = 3) -> np.ndarray:
    rng = np.random.default_rng(bits)
    return rng.integers(0, 1 << bits, (n_frames, *HW), dtype=np.uint16)


def _coded_file(
    folder: Path, uid: str, frames: Sequence[bytes], *, bits: int, allocated: int, **changes: object
) -> Path:
    """A file whose frames somebody else has coded."""
    path = folder / "coded.dcm"
    write_xa(path, HEADER, np.zeros((1, *HW), dtype=np.uint16), syntax="raw")
    ds = dcmread(path)
    ds.file_meta.TransferSyntaxUID = UID(uid)
    ds.NumberOfFrames = len(frames)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, bits, bits - 1
    ds.PixelData = encapsulate(list(frames))
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    ds.save_as(path)
    return path


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("syntax", LOSSLESS)
def test_a_lossless_syntax_comes_back_bit_for_bit(
    tmp_path: Path, syntax: Syntax, bits: int
) -> None:
    path = tmp_path / "run.dcm"
    write_xa(path, HEADER, _pixels(bits), syntax=syntax, bits=bits)
    cine = read_cine(path)
    assert cine.bits == bits
    np.testing.assert_array_equal(cine.pixels, _pixels(bits))
    np.testing.assert_array_equal(read_cine(path, [2, 0]).pixels, _pixels(bits)[[2, 0]])
    write_xa(path, HEADER, _pixels(bits, 1), syntax=syntax, bits=bits)
    np.testing.assert_array_equal(read_cine(path).pixels, _pixels(bits, 1))


def _lj92(picture: np.ndarray, bits: int) -> bytes:
    coded: bytes = imagecodecs.ljpeg_encode(picture, bitspersample=bits)
    return coded


def _turbo(predictor: int) -> Callable[[np.ndarray, int], bytes]:
    def encode(picture: np.ndarray, bits: int) -> bytes:
        coded: bytes = imagecodecs.jpeg8_encode(
            picture, lossless=True, predictor=predictor, bitspersample=bits
        )
        return coded

    return encode


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize(
    "encode",
    [_lj92, *(_turbo(number) for number in range(1, 8))],
    ids=["liblj92", *(f"predictor {number}" for number in range(1, 8))],
)
def test_lossless_jpeg_of_every_predictor_agrees_with_another_decoder(
    tmp_path: Path, encode: Callable[[np.ndarray, int], bytes], bits: int
) -> None:
    kind = np.uint8 if bits == 8 else np.uint16
    frames = [encode(picture.astype(kind), bits) for picture in _pixels(bits)]
    path = _coded_file(
        tmp_path, "1.2.840.10008.1.2.4.57", frames, bits=bits, allocated=8 if bits == 8 else 16
    )
    ours = read_cine(path).pixels
    np.testing.assert_array_equal(ours, _pixels(bits))
    np.testing.assert_array_equal(ours, [imagecodecs.jpegsof3_decode(coded) for coded in frames])


def test_htj2k_agrees_with_another_decoder(tmp_path: Path) -> None:
    frames = [imagecodecs.htj2k_encode(picture) for picture in _pixels(16)]
    ours = read_cine(
        _coded_file(tmp_path, "1.2.840.10008.1.2.4.201", frames, bits=16, allocated=16)
    ).pixels
    np.testing.assert_array_equal(ours, [imagecodecs.htj2k_decode(coded) for coded in frames])


@pytest.mark.parametrize(
    ("uid", "bits"),
    [
        pytest.param("1.2.840.10008.1.2.4.50", 8, id="baseline"),
        pytest.param("1.2.840.10008.1.2.4.51", 12, id="extended, 12 bits"),
    ],
)
def test_lossy_jpeg_is_near_what_was_coded(tmp_path: Path, uid: str, bits: int) -> None:
    y, x = np.mgrid[: HW[0], : HW[1]]
    smooth = ((np.sin(x / 9) + np.cos(y / 7) + 2) / 4 * ((1 << bits) - 1)).astype(
        np.uint8 if bits == 8 else np.uint16
    )
    coded = imagecodecs.jpeg8_encode(smooth, 97, bitspersample=bits)
    path = _coded_file(tmp_path, uid, [coded], bits=bits, allocated=8 if bits == 8 else 16)
    off = np.abs(read_cine(path).pixels[0].astype(int) - smooth)
    assert off.max() <= (1 << bits) // 100


def test_eight_bit_big_endian_words_are_swapped_back(tmp_path: Path) -> None:
    pixels = _pixels(8).astype(np.uint8)
    path = tmp_path / "big.dcm"
    write_xa(path, HEADER, _pixels(8), syntax="big-endian", bits=8)
    ds = dcmread(path)
    ds.BitsAllocated = 8
    flat = pixels.tobytes()
    flat += b"\0" * (len(flat) % 2)
    ds.PixelData = np.frombuffer(flat, "<u2").byteswap().tobytes()
    ds.save_as(path)
    np.testing.assert_array_equal(read_cine(path, [1]).pixels[0], pixels[1])


@pytest.mark.parametrize(
    ("frames", "n_frames", "works"),
    [
        pytest.param(2, 2, True, id="as declared"),
        pytest.param(2, 1, False, id="one too many"),
        pytest.param(2, 3, False, id="one missing"),
    ],
)
def test_fragments_must_make_the_frames_declared(
    tmp_path: Path, frames: int, n_frames: int, works: bool
) -> None:
    coded = [imagecodecs.jpegls_encode(picture) for picture in _pixels(16, frames)]
    path = _coded_file(
        tmp_path, "1.2.840.10008.1.2.4.80", coded, bits=16, allocated=16, NumberOfFrames=n_frames
    )
    for has_bot in (True, False):
        ds = dcmread(path)
        ds.PixelData = encapsulate(coded, has_bot=has_bot)
        ds.save_as(path)
        if works:
            assert read_cine(path).n_frames == n_frames
        else:
            with pytest.raises(DataError, match="cannot be decoded"):
                read_cine(path)


def test_a_frame_in_several_fragments_is_joined(tmp_path: Path) -> None:
    coded = [imagecodecs.jpegls_encode(picture) for picture in _pixels(16, 2)]
    path = _coded_file(tmp_path, "1.2.840.10008.1.2.4.80", coded, bits=16, allocated=16)
    for has_bot in (True, False):
        ds = dcmread(path)
        ds.PixelData = encapsulate(coded, fragments_per_frame=3, has_bot=has_bot)
        ds.save_as(path)
        np.testing.assert_array_equal(read_cine(path, [1]).pixels[0], _pixels(16, 2)[1])


def test_a_damaged_frame_does_not_keep_the_others_from_being_read(tmp_path: Path) -> None:
    coded = [imagecodecs.jpegls_encode(picture) for picture in _pixels(16)]
    coded[1] = coded[1][: len(coded[1]) // 2]
    path = _coded_file(tmp_path, "1.2.840.10008.1.2.4.80", coded, bits=16, allocated=16)
    np.testing.assert_array_equal(read_cine(path, [0, 2]).pixels, _pixels(16)[[0, 2]])
    with pytest.raises(DataError, match="frame 1 of 3 cannot be decoded"):
        read_cine(path)


def test_a_progressive_jpeg_is_refused(tmp_path: Path) -> None:
    grey = Image.fromarray(_pixels(8, 1)[0].astype(np.uint8))
    stream = BytesIO()
    grey.save(stream, "JPEG", progressive=True)
    path = _coded_file(tmp_path, "1.2.840.10008.1.2.4.50", [stream.getvalue()], bits=8, allocated=8)
    with pytest.raises(DataError, match="JPEG process 2"):
        read_cine(path)


def test_a_codestream_larger_than_the_header_says_is_refused_before_decoding(
    tmp_path: Path,
) -> None:
    coded = bytearray(imagecodecs.jpegls_encode(_pixels(16, 1)[0]))
    at = coded.index(b"\xff\xf7") + 5
    coded[at : at + 4] = b"\xff\xff\xff\xff"
    path = _coded_file(tmp_path, "1.2.840.10008.1.2.4.80", [bytes(coded)], bits=16, allocated=16)
    with pytest.raises(DataError, match=r"coded as \(65535, 65535\) px"):
        read_cine(path)


def _video(codec: str, n_frames: int) -> tuple[bytes, list[int]]:
    """A clip of growing brightness, and the grey of each frame."""
    av = pytest.importorskip("av", reason="the extra `video` is not installed")
    stream, greys = BytesIO(), [40 + 12 * number for number in range(n_frames)]
    with av.open(stream, "w", format="mpegts") as container:
        track = container.add_stream(codec, rate=Fraction(15))
        track.height, track.width, track.pix_fmt = 48, 64, "yuv420p"
        for grey in greys:
            picture = av.VideoFrame.from_ndarray(
                np.full((48, 64), grey, dtype=np.uint8), format="gray"
            )
            container.mux(track.encode(picture.reformat(format="yuv420p")))
        container.mux(track.encode())
    return stream.getvalue(), greys


@pytest.mark.parametrize(
    ("codec", "uid"),
    [("mpeg2video", MPEG2MPML), ("libx264", MPEG4HP41)],
    ids=["MPEG-2", "H.264"],
)
def test_video_gives_its_luma_and_its_number_of_frames_is_checked(
    tmp_path: Path, codec: str, uid: UID
) -> None:
    coded, greys = _video(codec, 9)
    shape = {
        "Rows": 48, "Columns": 64, "NumberOfFrames": 9, "SamplesPerPixel": 3,
        "PhotometricInterpretation": "YBR_PARTIAL_420", "PlanarConfiguration": 0,
    }  # fmt: skip
    path = _coded_file(tmp_path, uid, [coded], bits=8, allocated=8, **shape)
    cine = read_cine(path, [7, 2])
    shown = cine.pixels.reshape(2, -1).mean(axis=1)
    np.testing.assert_allclose(shown, [greys[7], greys[2]], atol=3)
    path = _coded_file(
        tmp_path, uid, [coded], bits=8, allocated=8, **{**shape, "NumberOfFrames": 8}
    )
    with pytest.raises(DataError, match="frames"):
        read_cine(path)


def test_video_without_its_extra_is_refused_by_the_name_of_the_extra(tmp_path: Path) -> None:
    path = _coded_file(
        tmp_path, MPEG4HP41, [b"\0" * 64], bits=8, allocated=8, SamplesPerPixel=3,
        PhotometricInterpretation="YBR_PARTIAL_420",
    )  # fmt: skip
    script = (
        "import sys; sys.modules['av'] = None\n"
        "from pathlib import Path\n"
        "from angio.dicom.read import read_cine\n"
        "from casebook.errors import ConfigError\n"
        "try:\n    read_cine(Path(sys.argv[1]))\n"
        "except ConfigError as problem:\n    print(problem)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert "angioloop[video]" in told.stdout


def test_every_syntax_is_read_or_refused_by_name(tmp_path: Path) -> None:
    refused = []
    for uid in AllTransferSyntaxes:
        order: Syntax = "big-endian" if not uid.is_little_endian else "raw"
        path = tmp_path / "run.dcm"
        write_xa(path, HEADER, _pixels(12, 1), syntax=order)
        ds = dcmread(path)
        ds.file_meta.TransferSyntaxUID = uid
        ds.NumberOfFrames = 2
        if uid.is_encapsulated:
            ds.PixelData = encapsulate([b"\0\0"])
            ds["PixelData"].VR = "OB"
            ds["PixelData"].is_undefined_length = True
        ds.save_as(path)
        with pytest.raises((DataError, ConfigError)) as problem:
            read_cine(path)
        if isinstance(problem.value, ConfigError):  # video, and nothing here to play it
            assert importlib.util.find_spec("av") is None
            assert "angioloop[video]" in str(problem.value)
        elif "transfer syntax" in str(problem.value):
            assert uid.name in str(problem.value)
            refused.append(uid.name)
    assert any("JPIP" in name for name in refused)
    assert not any("JPEG-LS" in name or "RLE Lossless" in name for name in refused)

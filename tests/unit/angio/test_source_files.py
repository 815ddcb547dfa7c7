"""What comes from outside is refused before it is believed: arrays, pictures, CSV, JSON."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from angio.arrays import open_array
from angio.csv_files import open_csv
from angio.json_files import read_json
from angio.picture_files import read_bitmap, read_index, read_picture
from angio.source_files import below, size_of
from casebook.errors import DataError, TooLargeError


def npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def header(text: str, body: bytes = b"") -> bytes:
    packed = text.encode("latin-1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(packed)) + packed + body


@pytest.mark.parametrize(
    "values",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.asfortranarray(np.arange(12, dtype=">f4").reshape(3, 4)),
        np.ones((2, 2), dtype=bool),
    ],
    ids=["bytes", "columns first, big end", "bool"],
)
def test_plain_arrays_are_mapped(values: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy(values))
    np.testing.assert_array_equal(open_array(tmp_path / "a.npy", "it"), values)


WHOLE = npy(np.zeros((4, 4), dtype=np.uint8))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "not NPY"),
        (b"PK\x03\x04" + bytes(60), "not NPY"),
        (WHOLE[:-1], "needs 16"),
        (WHOLE + b"x", "needs 16"),
        (WHOLE[:20], "header"),
        (npy(np.array([{"a": 1}], dtype=object)), "plain numbers|header"),
        (npy(np.zeros(3, dtype=[("a", "u1")])), "header"),
        (npy(np.zeros(3, dtype=complex)), "plain numbers"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 100000)}"), "at most"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}"), "header"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (True,)}", b"x"), "header"),
        (header("{'descr': '|u1', 'fortran_order': 0, 'shape': (1,)}", b"x"), "header"),
        (header("{'descr': '|u1', 'shape': (1,)}", b"x"), "header"),
        (header("(" * 3000), "header"),
        (header("__import__('os').getcwd()"), "header"),
        (WHOLE.replace(b"\x01\x00", b"\x07\x00", 1), "header"),
    ],
)
def test_arrays_in_doubt_are_refused(payload: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(payload)
    with pytest.raises(DataError, match=message):
        open_array(tmp_path / "a.npy", "it")


def png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def test_a_changed_byte_of_a_png_is_refused_wherever_it_is(tmp_path: Path) -> None:
    payload = png(np.random.default_rng(1).integers(0, 255, (16, 16), dtype=np.uint8))
    path = tmp_path / "a.png"
    for at in range(len(payload)):
        changed = bytearray(payload)
        changed[at] ^= 0x10
        path.write_bytes(bytes(changed))
        with pytest.raises(DataError):
            read_picture(path, "it")


def claiming(width: int, height: int) -> bytes:
    stored = bytearray(png(np.zeros((4, 4), dtype=np.uint8)))
    stored[16:24] = struct.pack(">II", width, height)
    stored[29:33] = struct.pack(">I", zlib.crc32(stored[12:29]))
    return bytes(stored)


@pytest.mark.parametrize("reader", [read_picture, read_index, read_bitmap])
@pytest.mark.parametrize("size", [(5000, 5000), (60_000, 60_000)])
def test_a_png_that_claims_too_much_is_refused_unread(
    reader: object, size: tuple[int, int], tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(claiming(*size))
    with pytest.raises(TooLargeError):
        reader(tmp_path / "a.png", "it")  # type: ignore[operator]


def test_pictures_of_several_pages_and_odd_kinds_are_refused(tmp_path: Path) -> None:
    grey = Image.fromarray(np.zeros((4, 4), dtype=np.uint8))
    grey.save(tmp_path / "a.tif", save_all=True, append_images=[grey])
    with pytest.raises(DataError, match="pages"):
        read_picture(tmp_path / "a.tif", "it")
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(DataError, match="float32"):
        read_picture(tmp_path / "b.tif", "it")
    grey.save(tmp_path / "c.png", "GIF")
    with pytest.raises(DataError, match="cannot be read"):
        read_picture(tmp_path / "c.png", "it")
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "d.png", "JPEG")
    with pytest.raises(DataError, match="expected PNG, BMP, TIFF"):
        read_bitmap(tmp_path / "d.png", "it")


def test_colours_become_luma_and_transparency_is_no_ink(tmp_path: Path) -> None:
    for mode in ("RGB", "RGBA", "LA", "P", "L"):
        colour = Image.new("RGB", (6, 4), (90, 90, 90))
        shown = colour.quantize(4) if mode == "P" else colour.convert(mode)
        shown.save(tmp_path / f"{mode}.png")
        pixels, stored = read_picture(tmp_path / f"{mode}.png", "it")
        assert stored is None
        assert np.abs(pixels.astype(int) - 90).max() <= 2
        assert pixels.shape == (4, 6)


@pytest.mark.parametrize(
    "name", ["../a", "/a", "a/../../b", "C:\\a", "\\\\host\\a", "", ".", "a\0"]
)
def test_names_that_leave_their_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leaves the data set"):
        below(tmp_path, name)


def test_names_below_their_folder_are_taken(tmp_path: Path) -> None:
    assert below(tmp_path, "a\\b.png") == tmp_path / "a" / "b.png"


def test_pipes_and_folders_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(DataError, match="plain file"):
            size_of(path, "it")
    with pytest.raises(DataError, match="not there"):
        size_of(tmp_path / "a\0", "it")


def test_json_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1, 2, 3]")
    assert read_json(tmp_path / "a.json", "it") == [1, 2, 3]
    with pytest.raises(TooLargeError, match="split it"):
        read_json(tmp_path / "a.json", "it", most=5)


def rows(text: str, tmp_path: Path, encoding: str = "utf-8") -> list[tuple[int, dict[str, str]]]:
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    table = open_csv(tmp_path / "a.csv", "patient_id")
    return [(line, table.values(cells)) for line, cells in table.rows()]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_of_any_delimiter_with_messy_names(delimiter: str, tmp_path: Path) -> None:
    text = '\ufeffPatient-ID,MLD mm, Phase \r\n1,2.5,PRE\r\n\r\n2,,"a, b"\r\n'.replace(
        ",", delimiter
    )
    wanted = {"patient_id": "2", "mld_mm": "", "phase": f"a{delimiter} b"}
    assert rows(text, tmp_path) == [
        (2, {"patient_id": "1", "mld_mm": "2.5", "phase": "PRE"}),
        (4, wanted),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "none of them patient_id"),
        ("", "0 columns"),
        ("patient_id,split,Split\n", "split twice"),
        ("patient_id,b\n1,2,3\n", "has 3 values; expected 2"),
        ("patient_id,b\n1\n", "has 1 values; expected 2"),
        ('patient_id,b\n1,"2\n', "not a readable CSV"),
        ('patient_id,b\n1,"2"x\n', "not a readable CSV"),
        ("patient_id,b\n1," + "x" * 1_100_000 + "\n", "longer than"),
    ],
    ids=["column", "empty", "twice", "long", "short", "open", "quote", "line"],
)
def test_csv_in_doubt_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        rows(text, tmp_path)
    with pytest.raises(DataError, match="not UTF-8"):
        rows("patient_id,b\n1,\xe9\n", tmp_path, "latin-1")

"""What is fuzzed beside DICOM: a sound file of each format, its reader, and another way to read it.

`agrees` compares what a reader makes of a damaged file with what plain tools (json, NumPy, nibabel,
splitting at commas) find in the very same bytes, or with the sound file where checksums protect it.
"""

import gzip
import io
import json
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image
from pycocotools import mask as cocoapi

from angio import coco, yolo
from angio.arrays import open_array
from angio.contours import read_contours
from angio.csv_files import open_csv
from angio.lab_csv import CsvOptions, parse_row
from angio.picture_files import read_picture
from angio.volumes import open_volume
from casebook.errors import AngioloopError
from casebook.labels import LabelSet, read_labels

HW = (48, 64)
LABELS = Path(__file__).parents[1] / "conf" / "labels" / "coronary.yaml"


@dataclass(frozen=True)
class Format:
    """A format with a sound file and the judge of what its reader says of a damaged one."""

    name: str
    suffix: str
    payload: bytes
    read: Callable[[Path], Any]
    """What our reader makes of a file; raises our errors when it refuses."""
    agrees: Callable[[Any, bytes], bool]
    """Whether that is true to the bytes of the file."""
    is_text: bool = False


def _ramp() -> "np.ndarray[Any, np.dtype[np.uint8]]":
    down, along = np.mgrid[: HW[0], : HW[1]]
    return np.asarray(60 + (down * 3 + along * 2) % 120, dtype=np.uint8)


def _png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(_ramp()).save(stream, "PNG")
    return stream.getvalue()


def _png_agrees(found: Any, payload: bytes) -> bool:
    pixels, stored = found
    if payload[8:33] == _png()[8:33]:  # the header is whole: checksums protect the rest
        return stored is None and np.array_equal(pixels, _ramp())
    width, height = (int.from_bytes(payload[at : at + 4], "big") for at in (16, 20))
    return bool(pixels.shape == (height, width))


def _npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.stack([_ramp(), _ramp() + 1]))
    return stream.getvalue()


def _npy_agrees(found: Any, payload: bytes) -> bool:
    wanted = np.load(io.BytesIO(payload), allow_pickle=False)
    return (
        found.dtype == wanted.dtype
        and found.shape == wanted.shape
        and np.asarray(found).tobytes("A") == np.asarray(wanted).tobytes("A")
    )


def _nii() -> bytes:
    affine = np.diag([0.5, 0.75, 2.0, 1.0])
    affine[:3, 3] = [3, 4, 5]
    values = np.stack([_ramp().astype(np.int16) * 8 - 500] * 4, axis=2)
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(1.0, 0.0)
    return bytes(image.to_bytes())


def _nii_read(path: Path) -> Any:
    with open_volume(path, "it") as volume:
        return volume, np.array(volume.raw)


def _nii_agrees(found: Any, payload: bytes) -> bool:
    volume, raw = found
    plain = gzip.decompress(payload) if payload[:2] == b"\x1f\x8b" else payload
    wanted: Any = nibabel.Nifti1Image.from_bytes(plain)
    stored = np.asarray(wanted.dataobj.get_unscaled()).reshape(raw.shape)
    return (
        np.array_equal(volume.affine, wanted.affine)
        and volume.unit == wanted.header.get_xyzt_units()[0]
        and (volume.slope, volume.inter) == (wanted.dataobj.slope, wanted.dataobj.inter)
        and raw.dtype == stored.dtype
        and stored.tobytes("F") == raw.tobytes("F")
    )


def _contours() -> bytes:
    steps = np.linspace(8, 50, 15)
    return json.dumps(
        {
            "segment_name": "MID RCA", "frame_num": 3,
            "left_edge": [[float(s), 20.25] for s in steps],
            "right_edge": [[float(s), 26.5] for s in steps],
            "measurements": {"MLD_mm": 1.35, "diameter_stenosis_pct": 57.3},
            "calibration": {"scale_factor": 4.0, "catheter_diameter_mm": 2.0},
            "view_angles": {"primary_angle": "RAO 30", "secondary_angle": 20},
        }
    ).encode()  # fmt: skip


def _contours_read(path: Path) -> Any:
    found = read_contours(path)
    return found, found.bitmap(HW)


def _contours_agree(answer: Any, payload: bytes) -> bool:
    (found, bitmap), plain = answer, json.loads(payload)
    rows = np.flatnonzero(bitmap.any(axis=1))
    highs = np.concatenate([found.left_xy, found.right_xy])[:, 1]
    angle = plain.get("view_angles", {}).get("primary_angle")
    turned = not (isinstance(angle, str) and angle.startswith("RAO ") and found.view)
    return (
        found.left_xy.tolist() == [[float(v) for v in p] for p in plain["left_edge"]]
        and found.right_xy.tolist() == [[float(v) for v in p] for p in plain["right_edge"]]
        and found.frame == plain.get("frame_num")
        and all(value == plain["measurements"][name] for name, value in found.measurements.items())
        and (
            found.spacing is None
            or found.spacing.row_mm == 1 / float(plain["calibration"]["scale_factor"])
        )
        and (turned or found.view is None or found.view.primary_deg == -float(angle[4:]))
        and bool(highs.min() - 1 <= rows[0] and rows[-1] <= highs.max() + 1)
    )


def _coco() -> bytes:
    runs = [5, 7, HW[0] * HW[1] - 12]
    blob = np.zeros(HW, dtype=np.uint8, order="F")
    blob[20:30, 10:40] = 1
    packed = cocoapi.encode(blob)["counts"].decode()
    square: dict[str, Any] = {"segmentation": [[4, 5, 30, 5, 30, 12, 4, 12]], "bbox": [4, 5, 26, 7]}
    rle: dict[str, Any] = {"segmentation": {"counts": runs, "size": list(HW)}, "bbox": [0, 5, 1, 7]}
    text: dict[str, Any] = {"segmentation": {"counts": packed, "size": list(HW)}}
    return json.dumps(
        {
            "images": [{"id": 1, "file_name": "a.png", "height": HW[0], "width": HW[1]}],
            "categories": [{"id": 1, "name": "mid RCA"}],
            "annotations": [
                {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, **one}
                for number, one in enumerate((square, rle, text), start=1)
            ],
        }
    ).encode()


def _coco_read(path: Path) -> Any:
    found = []
    for one in coco.annotations_of_file(path)[0]:
        with suppress(AngioloopError):
            found.append((one, one.bitmap(HW)))
    return found


def _coco_agrees(answer: Any, payload: bytes) -> bool:
    plain = [one for one in json.loads(payload)["annotations"] if isinstance(one, dict)]
    for found, bitmap in answer:
        if bitmap is None:
            continue
        given = [
            one["segmentation"]
            for one in plain
            if one.get("id", 0) == found.id and one.get("segmentation")
        ]
        if not any(_covers(bitmap, segmentation) for segmentation in given):
            return False
    return True


def _covers(bitmap: "np.ndarray[Any, np.dtype[np.bool_]]", segmentation: Any) -> bool:
    """Whether a bitmap is what COCO's counts say, or within a polygon's reach."""
    if isinstance(segmentation, list):
        xs = [value for part in segmentation for value in part[::2]]
        columns = np.flatnonzero(bitmap.any(axis=0))
        return bool(min(xs) - 1 <= columns[0] and columns[-1] <= max(xs) + 1)
    counts = segmentation["counts"]
    if isinstance(counts, str):
        text = {"counts": counts.encode(), "size": segmentation["size"]}
        return np.array_equal(bitmap, cocoapi.decode(text).astype(bool))
    flat = np.repeat(np.arange(len(counts)) % 2, counts)
    return np.array_equal(bitmap, flat.reshape(HW[::-1]).T.astype(bool))


_YOLO = b"0 0.5 0.5 0.25 0.125\n1 0.1 0.1 0.4 0.1 0.4 0.35 0.1 0.4\n"


def _yolo_agrees(found: Any, payload: bytes) -> bool:
    plain = [line.split() for line in payload.decode("utf-8").split("\n") if line.strip()]
    return [(number, *shares) for number, shares in found] == [
        (int(first), *(float(value) for value in rest)) for first, *rest in plain
    ]


_CSV = (
    b"row_id,patient_id,cine_path,frame_index,cass_segment,primary_angle,secondary_angle,split\r\n"
    + b"".join(
        f"r{n},ALL RISE 101-{n:04d},cine/{n}.npy,{n},2,RAO 30,{n},train\r\n".encode()
        for n in range(8)
    )
)


def _csv_read(path: Path) -> Any:
    table, labels = open_csv(path, "patient_id"), _labels()
    found = []
    for line, cells in table.rows():
        with suppress(AngioloopError):
            values = table.values(cells)
            found.append(
                (line, cells, values, parse_row(values, line, path.parent, labels, CsvOptions()))
            )
    return table.delimiter, found


def _csv_agrees(answer: Any, payload: bytes) -> bool:
    delimiter, found = answer
    text = payload.decode("utf-8-sig")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for line, cells, values, row in found:
        if '"' not in text and lines[line - 1].split(delimiter) != list(cells):
            return False
        if row.frame is not None and float(values["frame_index"]) != row.frame:
            return False
        split = values.get("split", "").strip().casefold()
        if row.split is not None and not row.split.value.startswith(split[:3]):
            return False
    return True


def _yolo_read(path: Path) -> Any:
    return yolo.shares_of_file(path, 3)


def _npy_read(path: Path) -> Any:
    return np.array(open_array(path, "it"))


def _png_read(path: Path) -> Any:
    return read_picture(path, "it")


@cache
def _labels() -> LabelSet:
    return read_labels(LABELS)


def formats() -> tuple[Format, ...]:
    """Every format with a sound file."""
    return (
        Format("csv", ".csv", _CSV, _csv_read, _csv_agrees, is_text=True),
        Format("contours", ".json", _contours(), _contours_read, _contours_agree, is_text=True),
        Format("coco", ".json", _coco(), _coco_read, _coco_agrees, is_text=True),
        Format("yolo", ".txt", _YOLO, _yolo_read, _yolo_agrees, is_text=True),
        Format("npy", ".npy", _npy(), _npy_read, _npy_agrees),
        Format("png", ".png", _png(), _png_read, _png_agrees),
        Format("nifti", ".nii", _nii(), _nii_read, _nii_agrees),
        Format("nifti gz", ".nii.gz", gzip.compress(_nii(), mtime=0), _nii_read, _nii_agrees),
    )


def with_checksum(payload: bytes) -> bytes:
    """A PNG whose first chunk has a fitting checksum again: damage that checksums do not show."""
    crc = zlib.crc32(payload[12:29]).to_bytes(4, "big")
    return payload[:29] + crc + payload[33:]

"""NIfTI volumes: opened without trusting them, cut into upright pictures, and put together again.

The only importer of nibabel. A volume is mapped from disk, a compressed one through a temporary
file, so that memory holds one slice. Source: NIfTI-1 and NIfTI-2, nifti.nimh.nih.gov.
"""

import base64
import gzip
import hashlib
import io
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np
from jaxtyping import Float64
from nibabel.spatialimages import HeaderDataError
from pydantic import Field

from angio.source_files import size_of
from casebook.cases import PixelSpacing
from casebook.catalogue import MAX_IMAGE_PX
from casebook.documents import Document
from casebook.errors import DataError, TooLargeError

Plane = Literal["axial", "coronal", "sagittal"]

_WORLD: dict[Plane, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The world axis (right, anterior, superior) that runs across the slices of a plane."""
_ROWS: dict[Plane, int] = {"sagittal": 2, "coronal": 2, "axial": 1}
"""The world axis that runs down a picture; it goes towards the feet or the back."""
_UNIT_MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001}
MAX_BYTES = 2 * 1024**3
"""Largest volume, decompressed."""
MAX_EXTENSION = 16 * 1024**2
"""Largest space between header and data."""
CHUNK = 1024 * 1024
SPACING_AGREES = 0.01
"""How far the affine's spacing may lie from the header's own, as a share."""
_KINDS = "buif"


class VolumeRecord(Document):
    """What is kept of a volume, to put masks of its slices back together: geometry, no text."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    volume_id: str
    header_base64: str
    """The header, its free text emptied; affine, units and shape are as they were."""
    shape: tuple[int, int, int]
    plane: Plane
    slice_axis: int = Field(ge=0, le=2)
    row_axis: int = Field(ge=0, le=2)
    column_axis: int = Field(ge=0, le=2)
    flip_rows: bool
    flip_columns: bool

    @property
    def n_slices(self) -> int:
        """Number of slices across the plane."""
        return self.shape[self.slice_axis]

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width of a slice's picture, in px."""
        return self.shape[self.row_axis], self.shape[self.column_axis]

    def upright(
        self, volume: "np.ndarray[Any, np.dtype[Any]]", index: int
    ) -> "np.ndarray[Any, np.dtype[Any]]":
        """A view of one slice as the picture people look at."""
        axes = (self.slice_axis, self.row_axis, self.column_axis)
        cut = np.moveaxis(volume, axes, (0, 1, 2))[index]
        down, along = -1 if self.flip_rows else 1, -1 if self.flip_columns else 1
        return np.asanyarray(cut[::down, ::along])

    def assembled(self, values: "np.ndarray[Any, np.dtype[Any]]") -> bytes:
        """A NIfTI file of label numbers on this volume's grid, with its affine and shape."""
        header = _parse(base64.b64decode(self.header_base64), "the volume's record")
        header.set_data_dtype(values.dtype)
        header.set_slope_inter(1, 0)
        header["cal_max"] = header["cal_min"] = 0
        stream = io.BytesIO()
        with gzip.GzipFile(fileobj=stream, mode="wb", mtime=0, compresslevel=6) as packed:
            packed.write(header.binaryblock)
            packed.write(bytes(int(header["vox_offset"]) - len(header.binaryblock)))
            packed.write(values.astype(header.get_data_dtype()).tobytes(order="F"))
        return stream.getvalue()


@dataclass(frozen=True)
class Volume:
    """An open volume."""

    raw: "np.ndarray[Any, np.dtype[Any]]"
    """Stored values, mapped from disk: first, second, third axis."""
    slope: float
    inter: float
    affine: Float64[np.ndarray, "4 4"]
    """Voxel indices to mm, as the file has it."""
    unit: str
    """mm, meter, micron or unknown."""
    header: bytes
    """The header without free text."""
    sha256: str
    """Of the decompressed file."""

    def record(self, volume_id: str, plane: Plane) -> VolumeRecord:
        """How its slices lie in a plane: feet, back and the patient's left at the ends."""
        axes = nibabel.io_orientation(self.affine)
        of_world = {int(world): axis for axis, (world, _) in enumerate(axes)}
        row = of_world[_ROWS[plane]]
        across = of_world[_WORLD[plane]]
        column = ({0, 1, 2} - {row, across}).pop()
        return VolumeRecord(
            volume_id=volume_id,
            header_base64=base64.b64encode(self.header).decode("ascii"),
            shape=(self.raw.shape[0], self.raw.shape[1], self.raw.shape[2]),
            plane=plane,
            slice_axis=across,
            row_axis=row,
            column_axis=column,
            flip_rows=bool(axes[row][1] > 0),
            flip_columns=bool(axes[column][1] > 0),
        )

    def spacing(self, record: VolumeRecord, *, assume_mm: bool = False) -> PixelSpacing | None:
        """Spacing of a slice's picture from the affine; nothing where no unit is stated."""
        scale = _UNIT_MM.get(self.unit, 1.0 if assume_mm else None)
        if scale is None:
            return None
        lengths = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)) * scale
        return PixelSpacing(
            row_mm=float(lengths[record.row_axis]),
            col_mm=float(lengths[record.column_axis]),
            source="affine",
        )

    def values(self, record: VolumeRecord, index: int) -> Float64[np.ndarray, "h w"]:
        """The values of one slice, scaled as the header says.

        Raises:
            DataError: some are not finite.
        """
        scaled = record.upright(self.raw, index).astype(np.float64) * self.slope + self.inter
        if not np.isfinite(scaled).all():
            raise DataError("has values that are not finite; mend the volume")
        return scaled


def _parse(block: bytes, name: str) -> Any:
    kind: Any = (
        nibabel.Nifti2Header if len(block) >= 540 and _is_second(block) else nibabel.Nifti1Header
    )
    length = 540 if kind is nibabel.Nifti2Header else 348
    if len(block) < length:
        raise DataError(f"{name} is not NIfTI; expected .nii or .nii.gz; convert it again")
    try:
        header = kind(block[:length], check=False)
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
        magic = bytes(header["magic"]).rstrip(b"\0")
        affine, _ = header.get_best_affine(), header.get_xyzt_units()
    except (HeaderDataError, ValueError, KeyError, TypeError, OverflowError, IndexError):
        raise DataError(
            f"{name} is not NIfTI; expected .nii or .nii.gz; convert it again"
        ) from None
    if magic not in {b"n+1", b"n+2\r\n\x1a\n"} or int(header["sizeof_hdr"]) != length:
        raise DataError(f"{name} is not NIfTI in one file; expected .nii or .nii.gz; convert it")
    _check(header, shape, dtype, affine, name)
    return header


def _is_second(block: bytes) -> bool:
    return block[:4] in {(540).to_bytes(4, "little"), (540).to_bytes(4, "big")}


def _check(
    header: Any, shape: tuple[int, ...], dtype: "np.dtype[Any]", affine: Any, name: str
) -> None:
    if len(shape) < 3 or any(side != 1 for side in shape[3:]) or min(shape[:3], default=0) < 1:
        raise DataError(f"{name} has shape {shape}; expected three axes; give one volume a file")
    if (
        max(a * b for a, b in ((shape[0], shape[1]), (shape[1], shape[2]), (shape[0], shape[2])))
        > MAX_IMAGE_PX
    ):
        raise TooLargeError(f"{name} has shape {shape}; a slice has at most {MAX_IMAGE_PX} px")
    if dtype.kind not in _KINDS or dtype.itemsize > 8:
        raise DataError(f"{name} holds {dtype}; expected plain numbers; convert it")
    if int(header["bitpix"]) != 8 * dtype.itemsize:
        raise DataError(f"{name} says {int(header['bitpix'])} bits for {dtype}; it is damaged")
    if not all(0 <= int(header[code]) <= 5 for code in ("sform_code", "qform_code")):
        raise DataError(f"{name} says its affine is of an unknown kind; it is damaged")
    offset = float(header["vox_offset"])
    if not (offset.is_integer() and len(header.binaryblock) <= offset <= MAX_EXTENSION):
        raise DataError(f"{name} says its data begin at byte {offset:g}; it is damaged")
    linear = np.asarray(affine, dtype=np.float64)[:3, :3]
    lengths = np.sqrt((linear**2).sum(axis=0))
    zooms = np.abs(np.asarray(header["pixdim"], dtype=np.float64)[1:4])
    if not (
        np.isfinite(affine).all()
        and (lengths > 1e-6).all()
        and (lengths < 1e6).all()
        and abs(np.linalg.det(linear / lengths)) > 1e-3
    ):
        raise DataError(f"{name} has an affine that fits no space; convert it again")
    if (np.abs(lengths - zooms) > SPACING_AGREES * lengths).any():
        raise DataError(
            f"{name} has spacing {np.round(zooms, 4).tolist()} in its header and "
            f"{np.round(lengths, 4).tolist()} in its affine; expected the same; convert it again"
        )


def _scaling(header: Any, name: str) -> tuple[float, float]:
    try:
        slope, inter = header.get_slope_inter()
    except HeaderDataError:
        raise DataError(f"{name} has a damaged scaling of values; convert it again") from None
    slope, inter = 1.0 if slope is None else float(slope), 0.0 if inter is None else float(inter)
    if not (np.isfinite([slope, inter]).all() and slope):
        raise DataError(f"{name} has a damaged scaling of values; convert it again")
    return slope, inter


def _without_text(header: Any) -> bytes:
    clean = header.copy()
    for field in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        if field in clean.template_dtype.names:
            clean[field] = b""
    clean["vox_offset"] = len(clean.binaryblock) + 4
    return bytes(clean.binaryblock)


@contextmanager
def open_volume(path: Path, name: str) -> Iterator[Volume]:
    """A volume, as long as it is needed.

    Args:
        path: .nii or .nii.gz.
        name: What messages call it; file names often carry the patient's number.

    Raises:
        DataError: missing, not NIfTI, damaged, of a kind that is no volume, or longer or shorter
            than its header says.
        TooLargeError: it declares more than any volume has; nothing is decompressed then.
    """
    size_of(path, name)
    with path.open("rb") as plain, tempfile.TemporaryFile() as scratch:
        packed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        stream: Any = gzip.GzipFile(fileobj=plain) if packed else plain
        try:
            block = stream.read(540)
            header = _parse(block, name)
            shape, dtype = header.get_data_shape()[:3], header.get_data_dtype()
            slope, inter = _scaling(header, name)
            offset = int(header["vox_offset"])
            declared = offset + dtype.itemsize * int(np.prod(shape, dtype=object))
            if declared > MAX_BYTES:
                raise TooLargeError(
                    f"{name} declares {declared} bytes; expected at most {MAX_BYTES}"
                )
            digest = _copied(block, stream, scratch if packed else None, declared, name)
        except (EOFError, zlib.error, OSError):
            raise DataError(f"{name} is damaged or cut short; copy it again") from None
        yield Volume(
            np.memmap(
                scratch if packed else plain,
                dtype,
                "r",
                offset=offset,
                shape=tuple(shape),
                order="F",
            ),
            slope,
            inter,
            np.asarray(header.get_best_affine(), dtype=np.float64),
            str(header.get_xyzt_units()[0]),
            _without_text(header),
            digest,
        )


def _copied(
    block: bytes,
    stream: io.BufferedIOBase,
    scratch: io.BufferedIOBase | None,
    declared: int,
    name: str,
) -> str:
    """SHA-256 of the whole file, which is copied where it came compressed.

    Raises:
        DataError: more or fewer bytes than declared.
    """
    digest = hashlib.sha256()
    total, piece = 0, block
    while piece and total <= declared:
        digest.update(piece)
        total += len(piece)
        if scratch is not None:
            scratch.write(piece)
        piece = stream.read(min(CHUNK, declared + 1 - total)) if total <= declared else b""
    if total != declared:
        more = "more than " if total > declared else ""
        raise DataError(
            f"{name} holds {more}{min(total, declared)} bytes; its header needs {declared}; copy "
            "or convert it again"
        )
    if scratch is not None:
        scratch.flush()
    return digest.hexdigest()

"""Writing multi-frame X-ray angiograms. Knows nothing of what they show."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import imagecodecs
import numpy as np
from jaxtyping import UInt16
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    XRayAngiographicImageStorage,
)

Syntax = Literal[
    "raw", "big-endian", "deflated", "rle", "jpeg-ls", "jpeg-lossless", "jpeg-2000", "htj2k",
    "jpeg-12-bit",
]  # fmt: skip
"""All but the last are lossless."""

_NATIVE: dict[Syntax, UID] = {
    "raw": ExplicitVRLittleEndian,
    "big-endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}
_LOSSY_LEVEL = 98


def _jpeg2000(picture: UInt16[np.ndarray, "h w"], bits: int) -> bytes:
    return bytes(
        imagecodecs.jpeg2k_encode(
            picture, level=0, codecformat="J2K", bitspersample=bits, reversible=True
        )
    )


def _jpeg(picture: UInt16[np.ndarray, "h w"], bits: int, *, lossless: bool) -> bytes:
    narrow = picture.astype(np.uint8) if bits <= 8 else picture
    return bytes(
        imagecodecs.jpeg8_encode(
            narrow,
            None if lossless else _LOSSY_LEVEL,
            bitspersample=bits,
            lossless=lossless,
            predictor=1 if lossless else None,
        )
    )


def _htj2k(picture: UInt16[np.ndarray, "h w"], bits: int) -> bytes:
    return bytes(imagecodecs.htj2k_encode(picture))


def _rle(picture: UInt16[np.ndarray, "h w"], bits: int) -> bytes:
    height, width = picture.shape
    # 16 bits, whatever is stored: pydicom narrows 8 stored of 16 allocated to half the segments
    return get_encoder(RLELossless).encode(
        picture,
        rows=height,
        columns=width,
        number_of_frames=1,
        samples_per_pixel=1,
        bits_allocated=16,
        bits_stored=16,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
    )


_CODED: dict[Syntax, tuple[UID, Callable[[UInt16[np.ndarray, "h w"], int], bytes]]] = {
    "rle": (RLELossless, _rle),
    "jpeg-lossless": (JPEGLosslessSV1, partial(_jpeg, lossless=True)),
    "jpeg-12-bit": (JPEGExtended12Bit, partial(_jpeg, lossless=False)),
    "jpeg-2000": (JPEG2000Lossless, _jpeg2000),
    "htj2k": (HTJ2KLossless, _htj2k),
}

_IMPLEMENTATION_UID = "2.25.147219048305771602834016470223764913417"
_VENDOR_GROUP = 0x0019


@dataclass(frozen=True)
class XaHeader:
    """What a written file says of itself; identity fields are free text."""

    study_uid: str
    series_uid: str
    instance_uid: str
    patient_name: str
    patient_id: str
    birth_date: str
    sex: str
    study_date: str
    study_time: str
    accession: str
    institution: str
    physician: str
    station: str
    series_number: int
    primary_deg: float
    """LAO positive."""
    secondary_deg: float
    """Cranial positive."""
    source_detector_mm: float
    source_patient_mm: float
    imager_spacing_mm: float
    frame_ms: float
    kvp: float = 80.0
    comments: str = ""
    vendor: dict[int, str] = field(default_factory=dict)
    """Private elements: offset in the vendor's block and text."""


def _identify(ds: Dataset, header: XaHeader) -> None:
    ds.SOPClassUID = XRayAngiographicImageStorage
    ds.SOPInstanceUID = header.instance_uid
    ds.StudyInstanceUID = header.study_uid
    ds.SeriesInstanceUID = header.series_uid
    ds.PatientName = header.patient_name
    ds.PatientID = header.patient_id
    ds.PatientBirthDate = header.birth_date
    ds.PatientSex = header.sex
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = header.study_date
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = header.study_time
    ds.AccessionNumber = header.accession
    ds.StudyID = header.accession[-6:]
    ds.InstitutionName = header.institution
    ds.ReferringPhysicianName = ds.PerformingPhysicianName = header.physician
    ds.StationName = header.station
    ds.PatientComments = header.comments
    if header.vendor:
        block = ds.private_block(_VENDOR_GROUP, "ANGIO VENDOR 01", create=True)
        for offset, text in sorted(header.vendor.items()):
            block.add_new(offset, "LO", text)


def _describe(ds: Dataset, header: XaHeader, n_frames: int) -> None:
    ds.Modality = "XA"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "SINGLE PLANE"]
    ds.SeriesNumber = header.series_number
    ds.InstanceNumber = 1
    ds.PositionerMotion = "STATIC"
    ds.PositionerPrimaryAngle = f"{header.primary_deg:.1f}"
    ds.PositionerSecondaryAngle = f"{header.secondary_deg:.1f}"
    ds.DistanceSourceToDetector = f"{header.source_detector_mm:.1f}"
    ds.DistanceSourceToPatient = f"{header.source_patient_mm:.1f}"
    ds.ImagerPixelSpacing = [f"{header.imager_spacing_mm:.5f}"] * 2
    ds.KVP = f"{header.kvp:.0f}"
    ds.RadiationSetting = "GR"
    ds.PixelIntensityRelationship = "LIN"
    ds.FrameIncrementPointer = 0x00181063
    ds.FrameTime = f"{header.frame_ms:.2f}"
    ds.NumberOfFrames = n_frames


def write_xa(
    path: Path,
    header: XaHeader,
    pixels: UInt16[np.ndarray, "t h w"],
    *,
    syntax: Syntax = "jpeg-ls",
    bits: int = 12,
) -> None:
    """Write a cine as X-Ray Angiographic Image Storage, MONOCHROME2.

    Args:
        path: The file to write.
        header: What the file says of itself.
        pixels: Stored values; at most `bits` bits each.
        syntax: How pixels are compressed.
        bits: Bits stored, of 16 allocated.

    Source: DICOM PS3.3 A.14 (IOD), C.8.7.5 (positioner).
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = XRayAngiographicImageStorage
    meta.MediaStorageSOPInstanceUID = UID(header.instance_uid)
    meta.ImplementationClassUID = UID(_IMPLEMENTATION_UID)
    meta.TransferSyntaxUID = _NATIVE.get(syntax, ExplicitVRLittleEndian)
    ds = FileDataset(
        path, {}, preamble=b"\0" * 128, file_meta=meta, is_implicit_VR=False,
        is_little_endian=syntax != "big-endian",
    )  # fmt: skip
    _identify(ds, header)
    _describe(ds, header, len(pixels))
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape[1:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits, bits - 1
    ds.PixelRepresentation = 0
    ds.WindowCenter, ds.WindowWidth = str(2 ** (bits - 1)), str(2**bits)
    if syntax == "jpeg-ls":
        run = pixels if len(pixels) > 1 else pixels[0]
        ds.compress(JPEGLSLossless, run, encoding_plugin="pyjpegls", generate_instance_uid=False)
    elif syntax in _CODED:
        meta.TransferSyntaxUID, encode = _CODED[syntax]
        ds.PixelData = encapsulate([encode(picture, bits) for picture in pixels])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    else:
        ds.PixelData = pixels.astype(">u2" if syntax == "big-endian" else "<u2").tobytes()
        ds["PixelData"].VR = "OW"
    ds.save_as(path, enforce_file_format=True)

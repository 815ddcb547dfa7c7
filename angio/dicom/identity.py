"""Removing identity from a DICOM header: a list of what is kept, everything else is gone.

Knows no keys' storage and no pixels.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

METHOD = "keep-list 2 (after DICOM PS3.15 Annex E, basic profile)"

KEPT = frozenset(
    {
        "SOPClassUID", "Modality", "ImageType", "InstanceNumber", "SeriesNumber",
        "PositionerMotion", "PositionerPrimaryAngle", "PositionerSecondaryAngle",
        "PositionerPrimaryAngleIncrement", "PositionerSecondaryAngleIncrement",
        "DistanceSourceToDetector", "DistanceSourceToPatient",
        "EstimatedRadiographicMagnificationFactor", "ImagerPixelSpacing", "PixelSpacing",
        "PixelSpacingCalibrationType", "FieldOfViewShape", "FieldOfViewDimensions",
        "IntensifierSize", "KVP", "ExposureTime", "XRayTubeCurrent", "RadiationSetting",
        "FrameTime", "FrameTimeVector",
        "FrameIncrementPointer", "CineRate", "RecommendedDisplayFrameRate", "NumberOfFrames",
        "PixelIntensityRelationship", "SamplesPerPixel", "PhotometricInterpretation", "Rows",
        "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "WindowCenter",
        "WindowWidth", "LossyImageCompression", "PixelData",
    }
)  # fmt: skip
"""Geometry, timing and pixels: what measurement needs, and nothing that names or dates anybody."""
PIXELS = 0x7FE00010
TERMS = frozenset(
    {
        "XA", "RF", "US", "OT", "DX", "CR", "MR", "CT", "ORIGINAL", "DERIVED", "PRIMARY",
        "SECONDARY", "SINGLE PLANE", "SINGLE A", "SINGLE B", "BIPLANE A", "BIPLANE B", "STATIC",
        "DYNAMIC", "FIDUCIAL", "GEOMETRY", "RECTANGLE", "ROUND", "HEXAGONAL", "SC", "GR", "LIN",
        "LOG", "DISP", "SQRT", "MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422",
        "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "PALETTE COLOR", "00", "01", "",
    }
)  # fmt: skip
"""Words a kept element may hold: the standard's own. A name typed into one of them is no such word.

Source: DICOM PS3.3 C.7.3.1.1.1, C.7.6.3.1.2, C.8.7.1, C.8.7.5, C.8.7.8.
"""
REMAPPED = frozenset({"SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"})
SHIFTED = frozenset({"StudyDate"})


@dataclass(frozen=True)
class Stripped:
    """A header without identity."""

    dataset: FileDataset
    kept: tuple[str, ...]
    """Keywords of the elements that stayed as they were."""
    removed: int
    """Elements dropped, private and nested ones included."""


def patient_key(ds: Dataset) -> str:
    """What identifies the patient in this file, for the keyed pseudonym; empty when absent."""
    return str(ds.get("PatientID") or ds.get("PatientName") or "").strip()


def instance_key(ds: Dataset) -> str:
    """What identifies the file among all files; empty when absent."""
    return str(ds.get("SOPInstanceUID") or "").strip()


def _is_plain(element: DataElement) -> bool:
    """Whether a kept element holds what it should: numbers, the standard's words, or pixels."""
    if element.tag == PIXELS:
        return True
    if element.VR in ("SQ", "UN", "OB", "OW"):
        return False
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    return all(_is_word_or_number(value) for value in values)


def _is_word_or_number(value: object) -> bool:
    if value is None or isinstance(value, (int, float)):
        return True
    text = str(value).strip()
    if text.upper() in TERMS or _is_known_uid(value):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_known_uid(value: object) -> bool:
    """Whether it is a UID of the standard, which has a name."""
    return isinstance(value, UID) and value.name != str(value)


def _count(ds: Dataset) -> int:
    return sum(1 for _ in ds.iterall())


def _shifted(text: str, days: int) -> str:
    try:
        moved = datetime.strptime(text[:8], "%Y%m%d") - timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    return moved.strftime("%Y%m%d")


def strip(
    ds: FileDataset,
    *,
    pseudonym: str,
    remap_uid: Callable[[str], str],
    shift_days: int,
) -> Stripped:
    """A copy of a data set with kept elements, remapped UIDs, a shifted study date and a pseudonym.

    Args:
        ds: The original; it is not changed.
        pseudonym: Becomes patient name and id.
        remap_uid: Gives the same new UID for the same old one.
        shift_days: How far dates move into the past, the same for all files of a patient.
    """
    clean = Dataset()
    kept = []
    for element in ds:
        keyword = keyword_for_tag(element.tag)
        if keyword in KEPT and _is_plain(element):
            clean.add(element)
            kept.append(keyword)
        elif keyword in REMAPPED:
            clean.add(DataElement(element.tag, "UI", remap_uid(str(element.value))))
        elif keyword in SHIFTED:
            clean.add(DataElement(element.tag, "DA", _shifted(str(element.value), shift_days)))
    clean.PatientName = clean.PatientID = pseudonym
    clean.PatientIdentityRemoved = "YES"
    clean.DeidentificationMethod = METHOD
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ds.file_meta.TransferSyntaxUID
    if "SOPClassUID" in clean:
        meta.MediaStorageSOPClassUID = clean.SOPClassUID
    if "SOPInstanceUID" in clean:
        meta.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
    copy = FileDataset("", clean, file_meta=meta, preamble=b"\0" * 128)
    remaining = len(kept) + sum(1 for element in clean if element.keyword in REMAPPED | SHIFTED)
    return Stripped(copy, tuple(kept), max(_count(ds) - remaining, 0))


_WORD = re.compile(r"[^\W_]+")
_NAMING = ("PatientID", "OtherPatientIDs", "AccessionNumber", "PatientBirthDate", "PatientAddress")
"""Attributes beside all person names whose words tell who a patient is."""
_WORD_MIN = 3


def naming_words(ds: Dataset) -> frozenset[str]:
    """Words of a header that tell who somebody is, in small letters, at any depth.

    For finding the same words in what comes beside the file. Words of one or two letters, such as
    titles and initials, are left out.
    """
    found: set[str] = set()
    for element in ds.iterall():
        if element.VR == "PN" or element.keyword in _NAMING:
            found.update(word.casefold() for word in _WORD.findall(str(element.value)))
    return frozenset(word for word in found if len(word) >= _WORD_MIN)


def names_somebody(text: str, words: frozenset[str]) -> bool:
    """Whether a text holds one of these words."""
    return any(word.casefold() in words for word in _WORD.findall(text))

"""DICOM Segmentation objects: masks of a frame with coded names, beside the frame they are of.

The frame goes out as a secondary capture of the de-identified picture, so that a viewer has what
the segmentation refers to. Knows neither cases nor label sets.
"""

import warnings
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import highdicom
import numpy as np
from jaxtyping import Bool, UInt8
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from casebook.cases import PixelSpacing
from casebook.errors import DataError

METHOD = "angioloop: picture without its header (after PS3.15 Annex E)"
MANUFACTURER = "angioloop"
_PRIVATE_SCHEME = "99ANGIOLOOP"
_CALIBRATIONS = {"calibrated": "FIDUCIAL", "isocentre": "GEOMETRY"}

CID_3014: dict[int, tuple[str, str]] = {
    1: ("91083009", "Proximal Right Coronary Artery"),
    2: ("450960006", "Mid Right Coronary Artery"),
    3: ("41879009", "Distal Right Coronary Artery"),
    4: ("53655008", "Posterior Descending Right Coronary Artery"),
    5: ("12800002", "Right posterior AV Coronary Artery"),
    6: ("91761002", "1st Right posterolateral Coronary Artery"),
    7: ("91762009", "2nd Right posterolateral Coronary Artery"),
    8: ("91763004", "3rd Right posterolateral Coronary Artery"),
    11: ("3227004", "Left Main Coronary Artery"),
    12: ("68787002", "Proximal Left Anterior Descending Coronary Artery"),
    13: ("91748002", "Mid Left Anterior Descending Coronary Artery"),
    14: ("36672000", "Distal Left Anterior Descending Coronary Artery"),
    15: ("91750005", "1st Diagonal Coronary Artery"),
    16: ("91751009", "2nd Diagonal Coronary Artery"),
    17: ("244251006", "1st Septal Coronary Artery"),
    18: ("52433000", "Proximal Circumflex Coronary Artery"),
    19: ("6511003", "Distal Circumflex Coronary Artery"),
    20: ("91754001", "1st Marginal Coronary Artery"),
    21: ("91755000", "2nd Marginal Coronary Artery"),
    22: ("91756004", "3rd Marginal Coronary Artery"),
    23: ("75902001", "AV groove continuation of Circumflex Artery"),
    24: ("91757008", "1st Left Posterolateral Coronary Artery"),
    25: ("91758003", "2nd Left Posterolateral Coronary Artery"),
    26: ("91759006", "3rd Left Posterolateral Coronary Artery"),
    27: ("91760001", "Left Posterior Descending Circumflex Coronary Artery"),
    28: ("244252004", "Intermediate Artery (Ramus)"),
    29: ("91752002", "3rd diagonal Coronary Artery"),
}
"""CASS number to SNOMED CT code and meaning. Source: DICOM PS3.16 CID 3014."""


@dataclass(frozen=True)
class Identity:
    """Who and what the objects say they are: pseudonym and keyed UIDs only."""

    pseudonym: str
    study_uid: str
    image_series_uid: str
    image_uid: str
    seg_series_uid: str
    seg_uid: str


@dataclass(frozen=True)
class Segment:
    """One mask of a segmentation."""

    name: str
    """The label's name."""
    kind: Literal["segment", "lesion", "tree", "other"]
    cass: int | None
    """The CASS number, where the label has one."""
    bitmap: Bool[np.ndarray, "h w"]
    made: Literal["MANUAL", "SEMIAUTOMATIC", "AUTOMATIC"]
    model_id: str | None
    """What made it, when not a person alone."""


def _concept(segment: Segment) -> tuple[Code, Code]:
    """Category and type of what a segment shows."""
    if segment.kind == "lesion":
        return codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Stenosis
    anatomy = codes.SCT.AnatomicalStructure
    if segment.kind == "tree":
        return anatomy, codes.SCT.CoronaryArtery
    if segment.kind == "segment" and segment.cass in CID_3014:
        value, meaning = CID_3014[segment.cass]
        return anatomy, Code(value, "SCT", meaning)
    value = segment.name.upper().replace(" ", "_")[:16]
    return anatomy, Code(value, _PRIVATE_SCHEME, segment.name[:64])


def _description(number: int, segment: Segment, version: str) -> highdicom.seg.SegmentDescription:
    category, kind = _concept(segment)
    algorithm = None
    if segment.made != "MANUAL":
        algorithm = highdicom.AlgorithmIdentificationSequence(
            name=segment.model_id or "unknown",
            family=codes.cid7162.ArtificialIntelligence,
            version=version,
            source=MANUFACTURER,
        )
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name[:64],
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=segment.made,
        algorithm_identification=algorithm,
    )


def write_frame(
    path: Path,
    pixels: UInt8[np.ndarray, "h w"],
    spacing: PixelSpacing | None,
    identity: Identity,
) -> FileDataset:
    """Write a frame as a secondary capture with nothing of a patient, and give it back.

    Source: DICOM PS3.3 A.8.1 (IOD), 10.7 (spacing and its calibration).
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = UID(identity.image_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, identity.image_uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = identity.study_uid, identity.image_series_uid
    ds.PatientName = ds.PatientID = identity.pseudonym
    ds.PatientBirthDate = ds.PatientSex = ds.StudyDate = ds.StudyTime = ""
    ds.AccessionNumber = ds.StudyID = ds.ReferringPhysicianName = ""
    ds.PatientIdentityRemoved, ds.DeidentificationMethod = "YES", METHOD
    ds.Modality, ds.ConversionType, ds.Manufacturer = "XA", "WSD", MANUFACTURER
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.SeriesNumber, ds.InstanceNumber = 1, 1
    ds.PatientOrientation = ds.Laterality = ""
    if spacing is not None:
        pair = [f"{spacing.row_mm:.6g}", f"{spacing.col_mm:.6g}"]
        if spacing.source in _CALIBRATIONS:
            ds.PixelSpacing = pair
            ds.PixelSpacingCalibrationType = _CALIBRATIONS[spacing.source]
            ds.PixelSpacingCalibrationDescription = f"angioloop: {spacing.source}"
        else:
            ds.ImagerPixelSpacing = pair
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    payload = pixels.tobytes()
    ds.PixelData = payload + b"\0" * (len(payload) % 2)
    ds["PixelData"].VR = "OB"
    ds.save_as(path, enforce_file_format=True)
    return ds


def write_seg(
    path: Path, frame: FileDataset, segments: tuple[Segment, ...], identity: Identity, version: str
) -> None:
    """Write masks as a BINARY segmentation that refers to the frame.

    Args:
        path: The file to write.
        frame: The picture, as `write_frame` gives it.
        segments: What was drawn; masks may overlap.
        identity: The UIDs.
        version: Ours, for whom it concerns.

    Raises:
        DataError: a mask of another size than the frame, or none.

    Source: DICOM PS3.3 A.51 (IOD), C.8.20.
    """
    hw = (int(frame.Rows), int(frame.Columns))
    other = [one.name for one in segments if one.bitmap.shape != hw or not one.bitmap.any()]
    if other or not segments:
        raise DataError(
            f"masks of {', '.join(other) or 'nothing'} do not fit a frame of {hw[0]}×{hw[1]} px or "
            "are empty; import or pull them again"
        )
    source = copy(frame)
    if "PixelSpacing" in source:
        # highdicom 0.28 would write pixel measures without a slice thickness, which it then
        # refuses to read; a projection has no slices. The frame itself carries the spacing.
        del source.PixelSpacing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names without caret: pseudonyms are not person names
        seg = highdicom.seg.Segmentation(
            source_images=[source],
            pixel_array=np.stack([one.bitmap for one in segments], axis=-1)[None],
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _description(number, one, version) for number, one in enumerate(segments, start=1)
            ],
            series_instance_uid=identity.seg_series_uid,
            series_number=2,
            sop_instance_uid=identity.seg_uid,
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MANUFACTURER,
            software_versions=version,
            device_serial_number="none",
            content_label="MASKS",
            content_description="Masks of coronary angiography",
        )
    seg.PatientIdentityRemoved, seg.DeidentificationMethod = "YES", METHOD
    seg.PatientOrientation = ""
    seg.save_as(path)

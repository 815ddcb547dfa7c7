"""A phantom study on disk: the lab's own CSV, cines and contours, and the truth in a folder apart.

Only the simulated expert and final scoring may read the truth folder.
"""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, UInt8
from PIL import Image

from angio.dicom.write import Syntax, XaHeader, write_xa
from angio.phantoms import PHANTOM_VERSION
from angio.phantoms.render import render_cine
from angio.phantoms.scene import (
    Outline,
    PhantomView,
    cass_picture,
    draw_patient,
    pseudo_label,
    tree_mask,
)
from angio.phantoms.tree import Lesion
from angio.phantoms.truth import TRUTH_FILE, CaseTruth, LesionTruth, StudyTruth
from casebook.documents import write_bytes, write_document
from casebook.errors import ConfigError
from casebook.masks import box_of

Split = Literal["train", "val", "test", "unseen"]

VIEWS, LESIONS = 2, 2
SHARES = {"train": 20, "val": 8, "test": 16}
"""Patients of each split, of 44; other numbers keep the proportion."""
ROUND_SHARES = (0.25, 0.5, 0.25)
"""Training cases of rounds 1, 2 and 3."""

COLUMNS = (
    "row_id", "patient_id", "vessel_pattern", "vessel_name", "phase", "frame_index", "cass_segment",
    "cass_segment_original", "primary_angle", "secondary_angle", "deepsa_pseudo_label_path",
    "dicom_path", "contours_path", "MLD_mm", "diameter_stenosis_pct", "lesion_length_mm",
    "lesion_box", "split", "round",
)  # fmt: skip

_NAMES = {
    1: "PROX RCA", 2: "MID RCA", 3: "DIST RCA", 4: "PDA", 12: "PROX LAD", 13: "MID LAD",
    14: "DIST LAD", 15: "D1", 16: "D2", 18: "PROX LCX", 19: "DIST LCX", 20: "OM1", 21: "OM2",
    28: "RAMUS",
}  # fmt: skip
_VESSELS = {4: "PDA", 15: "D1", 16: "D2", 20: "OM1", 21: "OM2", 28: "RAMUS"}
_SURNAMES = (
    "Marlowe", "Okafor", "Lindqvist", "Tanaka", "Moreau",
    "Castellan", "Novak", "Abara", "Quill", "Hartog",
)  # fmt: skip
_FORENAMES = ("Ada", "Bruno", "Celia", "Dmitri", "Esme", "Farid", "Greta", "Hugo", "Ines", "Joram")
_SYNTAXES: tuple[Syntax, ...] = ("jpeg-ls", "jpeg-ls", "deflated", "raw")


@dataclass(frozen=True)
class _Patient:
    number: int
    split: Split
    patient_id: str
    name: str


def _patients(rng: np.random.Generator, n_patients: int, n_unseen: int) -> list[_Patient]:
    total = sum(SHARES.values())
    n_val = max(1, round(n_patients * SHARES["val"] / total))
    n_test = max(1, round(n_patients * SHARES["test"] / total))
    splits: list[Split] = ["train"] * (n_patients - n_val - n_test)
    splits.extend(["val"] * n_val)
    splits.extend(["test"] * n_test)
    rng.shuffle(splits)
    splits.extend(["unseen"] * n_unseen)
    return [
        _Patient(
            number,
            split,
            f"{101 + number % 4}-{number + 1:04d}",
            f"{rng.choice(_SURNAMES)}^{rng.choice(_FORENAMES)}",
        )
        for number, split in enumerate(splits)
    ]


def _uid(rng: np.random.Generator) -> str:
    return f"2.25.{int.from_bytes(rng.bytes(15), 'big')}"


def _header(
    rng: np.random.Generator, patient: _Patient, view: PhantomView, number: int, study_uid: str
) -> XaHeader:
    gantry = view.scene.gantry
    day = f"20{rng.integers(18, 25):02d}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}"
    return XaHeader(
        study_uid=study_uid,
        series_uid=_uid(rng),
        instance_uid=_uid(rng),
        patient_name=patient.name,
        patient_id=patient.patient_id,
        birth_date=f"19{rng.integers(35, 80)}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}",
        sex=str(rng.choice(["F", "M"])),
        study_date=day,
        study_time=f"{rng.integers(7, 19):02d}{rng.integers(0, 60):02d}12",
        accession=f"ACC{rng.integers(10**7, 10**8)}",
        institution="St. Invented Heart Centre",
        physician=f"{rng.choice(_SURNAMES)}^{rng.choice(_FORENAMES)}^^Dr",
        station=f"CATHLAB{rng.integers(1, 5)}",
        series_number=number + 1,
        primary_deg=gantry.primary_deg,
        secondary_deg=gantry.secondary_deg,
        source_detector_mm=gantry.source_detector_mm,
        source_patient_mm=gantry.source_patient_mm,
        imager_spacing_mm=gantry.imager_spacing_mm,
        frame_ms=view.scene.motion.frame_ms,
        comments=f"Referred by phone, ask for {patient.name.split('^')[1]}",
        vendor={0x10: patient.name, 0x11: f"EXAM {patient.patient_id}"},
    )


def _png(picture: UInt8[np.ndarray, "h w"]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", compress_level=6)
    return stream.getvalue()


def _grey(bitmap: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    return bitmap.astype(np.uint8) * np.uint8(255)


def _rounded(points_xy: Float64[np.ndarray, "n 2"]) -> list[list[float]]:
    rows: list[list[float]] = np.round(points_xy, 3).tolist()
    return rows


def _lesion_truth(lesion: Lesion, seen: Outline) -> LesionTruth:
    at = [
        int(np.argmin(np.abs(seen.along_mm - place)))
        for place in (lesion.mld_at_mm, lesion.start_mm, lesion.end_mm)
    ]
    scale = float(seen.px_per_mm[at[0]])
    mld_xy, start_xy, end_xy = (
        (float(seen.centre_xy[place, 0]), float(seen.centre_xy[place, 1])) for place in at
    )
    return LesionTruth(
        mld_mm=lesion.mld_mm,
        rvd_mm=lesion.rvd_mm,
        stenosis_pct=lesion.stenosis_pct,
        lesion_length_mm=lesion.end_mm - lesion.start_mm,
        mld_px=lesion.mld_mm * scale,
        rvd_px=lesion.rvd_mm * scale,
        px_per_mm=scale,
        mld_xy=mld_xy,
        start_xy=start_xy,
        end_xy=end_xy,
    )


def _contours(view: PhantomView, lesion: Lesion, seen: Outline) -> bytes:
    gantry, truth = view.scene.gantry, _lesion_truth(lesion, seen)
    spacing = gantry.isocentre_spacing_mm
    shown = np.concatenate(
        [[0.0], np.cumsum(np.linalg.norm(np.diff(seen.centre_xy, axis=0), axis=1))]
    )
    ends = np.linalg.norm(seen.ideal_left_xy - seen.ideal_right_xy, axis=1) * spacing
    places = np.interp((lesion.start_mm, lesion.end_mm), seen.along_mm, shown)
    payload = {
        "segment_name": _NAMES[lesion.cass],
        "frame_num": seen.frame,
        "centerline": _rounded(seen.centre_xy),
        "left_edge": _rounded(seen.left_xy),
        "right_edge": _rounded(seen.right_xy),
        "ideal_left_edge": _rounded(seen.ideal_left_xy),
        "ideal_right_edge": _rounded(seen.ideal_right_xy),
        "measurements": {
            "MLD_mm": round(truth.mld_px * spacing, 3),
            "interpolated_RVD_mm": round(truth.rvd_px * spacing, 3),
            "diameter_stenosis_pct": round(truth.stenosis_pct, 1),
            "area_stenosis_pct": round(100 * (1 - (lesion.mld_mm / lesion.rvd_mm) ** 2), 1),
            "lesion_length_mm": round(float(places[1] - places[0]) * spacing, 2),
            "segment_length_mm": round(float(shown[-1]) * spacing, 2),
            "proximal_normal_diameter_mm": round(float(ends[0]), 3),
            "distal_normal_diameter_mm": round(float(ends[-1]), 3),
            "MLD_x_coord": round(truth.mld_xy[0], 2),
            "MLD_y_coord": round(truth.mld_xy[1], 2),
            "MLD_centerline_index": int(np.argmin(np.abs(seen.along_mm - lesion.mld_at_mm))),
            "lesion_start_x_coord": round(truth.start_xy[0], 2),
            "lesion_start_y_coord": round(truth.start_xy[1], 2),
            "lesion_end_x_coord": round(truth.end_xy[0], 2),
            "lesion_end_y_coord": round(truth.end_xy[1], 2),
        },
        "calibration": {
            "scale_factor": round(1 / spacing, 5),
            "catheter_diameter_mm": round(view.scene.catheter_mm, 3),
            "imager_pixel_spacing_mm": gantry.imager_spacing_mm,
        },
        "view_angles": {
            "primary_angle": gantry.primary_deg,
            "secondary_angle": gantry.secondary_deg,
        },
    }
    return (json.dumps(payload) + "\n").encode()


def _rough_box(
    rng: np.random.Generator, box: tuple[int, int, int, int], hw: tuple[int, int]
) -> tuple[int, int, int, int]:
    """A reader's quick rectangle: each side off by up to 15 % of the box, mostly outwards."""
    x1, y1, x2, y2 = box
    slip = rng.uniform(0, 0.15, 4) * np.where(rng.random(4) < 0.75, 1, -1)
    slip *= np.array([x2 - x1, y2 - y1, x2 - x1, y2 - y1]) + 1
    height, width = hw
    return (
        int(np.clip(x1 - slip[0], 0, width - 1)),
        int(np.clip(y1 - slip[1], 0, height - 1)),
        int(np.clip(x2 + slip[2], 0, width - 1)),
        int(np.clip(y2 + slip[3], 0, height - 1)),
    )


def _rounds(rng: np.random.Generator, n_train: int) -> list[int]:
    first = round(n_train * ROUND_SHARES[0])
    second = round(n_train * ROUND_SHARES[1])
    rounds = [1] * first + [2] * second + [3] * (n_train - first - second)
    rng.shuffle(rounds)
    return rounds


@dataclass(frozen=True)
class _Case:
    patient: _Patient
    view: PhantomView
    lesion: Lesion
    seen: Outline
    row_id: str
    dicom: str
    round_number: int

    @property
    def is_annotated(self) -> bool:
        return self.patient.split in ("val", "test") or self.round_number == 1


def _write_truth(directory: Path, case: _Case) -> CaseTruth:
    scene, seen = case.view.scene, case.seen
    files = {part: f"truth/{case.row_id}_{part}.png" for part in ("segment", "tree", "cass")}
    write_bytes(directory / files["segment"], _png(_grey(seen.bitmap)))
    write_bytes(directory / files["tree"], _png(_grey(tree_mask(scene, seen.frame))))
    write_bytes(directory / files["cass"], _png(cass_picture(scene, seen.frame)))
    return CaseTruth(
        row_id=case.row_id,
        patient_id=case.patient.patient_id,
        dicom=case.dicom,
        frame=seen.frame,
        split=case.patient.split,
        round=case.round_number,
        annotated=case.is_annotated,
        cass=case.lesion.cass,
        vessel=_vessel_name(case.lesion),
        box_xyxy=box_of(seen.bitmap),
        primary_deg=scene.gantry.primary_deg,
        secondary_deg=scene.gantry.secondary_deg,
        spacing_mm=scene.gantry.isocentre_spacing_mm,
        lesion=_lesion_truth(case.lesion, seen),
        segment=files["segment"],
        tree=files["tree"],
        cass_map=files["cass"],
    )


def _vessel_name(lesion: Lesion) -> str:
    if lesion.cass in _VESSELS:
        return _VESSELS[lesion.cass]
    return "RCA" if lesion.cass < 4 else "LAD" if lesion.cass < 15 else "LCX"


def _write_row(
    directory: Path, rng: np.random.Generator, case: _Case
) -> dict[str, str | int | float]:
    """One line of the CSV, with the contours and pseudo-label of a case that comes annotated."""
    scene, lesion, seen = case.view.scene, case.lesion, case.seen
    phase = "FINAL" if lesion.stenosis_pct < 25 else str(rng.choice(["INDEX BASELINE", "PRE"]))
    pattern = _NAMES[lesion.cass] + (f" {phase}" if rng.random() < 0.5 else "")
    row: dict[str, str | int | float] = {
        "row_id": case.row_id,
        "patient_id": ("ALL RISE " if rng.random() < 0.5 else "") + case.patient.patient_id,
        "vessel_pattern": pattern if rng.random() < 0.6 else pattern.replace(" ", "_"),
        "vessel_name": _vessel_name(lesion),
        "phase": phase,
        "frame_index": seen.frame,
        "cass_segment": lesion.cass,
        "cass_segment_original": lesion.cass,
        "primary_angle": scene.gantry.primary_deg,
        "secondary_angle": scene.gantry.secondary_deg,
        "dicom_path": case.dicom,
        "lesion_box": " ".join(
            str(side) for side in _rough_box(rng, box_of(seen.bitmap), scene.gantry.hw)
        ),
        "split": case.patient.split,
        "round": case.round_number,
    }
    label = pseudo_label(rng, scene, seen.frame)
    if case.is_annotated:
        truth = _lesion_truth(lesion, seen)
        spacing = scene.gantry.isocentre_spacing_mm
        row["contours_path"] = f"contours/{case.row_id}.json"
        row["deepsa_pseudo_label_path"] = f"pseudo/{case.row_id}.png"
        row["MLD_mm"] = round(truth.mld_px * spacing, 3)
        row["diameter_stenosis_pct"] = round(truth.stenosis_pct, 1)
        row["lesion_length_mm"] = round(truth.lesion_length_mm, 2)
        write_bytes(directory / str(row["contours_path"]), _contours(case.view, lesion, seen))
        write_bytes(directory / str(row["deepsa_pseudo_label_path"]), _png(label.astype(np.uint8)))
    return row


def _write_patient(
    directory: Path, seed: int, patient: _Patient, rounds: list[int]
) -> tuple[list[dict[str, str | int | float]], list[CaseTruth]]:
    rng = np.random.default_rng([PHANTOM_VERSION, seed, patient.number])
    study_uid = _uid(rng)
    rows, truths = [], []
    unseen = patient.split == "unseen"
    views = draw_patient(rng, views=1 if unseen else VIEWS, lesions=1 if unseen else LESIONS)
    for number, view in enumerate(views):
        stem = f"{patient.patient_id}_{number + 1}"
        dicom = f"{'unseen' if unseen else 'dicom'}/{stem}.dcm"
        header = _header(rng, patient, view, number, study_uid)
        (directory / dicom).parent.mkdir(parents=True, exist_ok=True)
        syntax = _SYNTAXES[(patient.number + number) % len(_SYNTAXES)]
        write_xa(directory / dicom, header, render_cine(rng, view.scene), syntax=syntax)
        for which, seen in enumerate(view.outlines):
            lesion = view.scene.tree.lesions[which]
            row_id = f"r{patient.number + 1:03d}-{number + 1}{which + 1}"
            round_number = rounds.pop() if patient.split == "train" else 0
            case = _Case(patient, view, lesion, seen, row_id, dicom, round_number)
            truths.append(_write_truth(directory, case))
            if not unseen:
                rows.append(_write_row(directory, rng, case))
    return rows, truths


def write_study(
    directory: Path,
    seed: int,
    patients: int = 44,
    unseen: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> StudyTruth:
    """Write a whole study; the same seed and numbers give the same files.

    Args:
        directory: A folder that is empty or not there yet.
        seed: Source of all chance.
        patients: Patients of train, val and test together, each with 2 views of 2 lesions.
        unseen: Further patients of whom only one DICOM file is given.
        progress: Told how many patients of how many are written.

    Raises:
        ConfigError: the folder is not empty, or there are too few patients for three splits.
    """
    if patients < 3:
        raise ConfigError(f"{patients} patients; expected at least 3, one for each split")
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"{directory} is not empty; give a new folder or empty it")
    rng = np.random.default_rng([PHANTOM_VERSION, seed])
    people = _patients(rng, patients, unseen)
    n_train = sum(person.split == "train" for person in people)
    rounds = _rounds(rng, n_train * VIEWS * LESIONS)
    rows, truths = [], []
    for done, person in enumerate(people):
        some_rows, some_truths = _write_patient(directory, seed, person, rounds)
        rows += some_rows
        truths += some_truths
        if progress is not None:
            progress(done + 1, len(people))
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    study = StudyTruth(phantom_version=PHANTOM_VERSION, seed=seed, cases=tuple(truths))
    write_document(directory / "truth" / TRUTH_FILE, study)
    write_bytes(directory / "cases.csv", text.getvalue().encode())
    return study

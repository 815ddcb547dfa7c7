"""A phantom study on disk: the lab's own CSV, cines and contours, and the truth in a folder apart.

Only the simulated expert and final scoring may read the truth folder.
"""

import csv
import io
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from angio.dicom.write import Syntax, XaHeader, write_xa
from angio.phantoms import PHANTOM_VERSION
from angio.phantoms.reader import (
    SEGMENT_NAMES,
    contours_json,
    lesion_truth,
    rough_box,
    vessel_name,
)
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
from angio.phantoms.truth import TRUTH_FILE, CaseTruth, StudyTruth
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
        vessel=vessel_name(case.lesion),
        box_xyxy=box_of(seen.bitmap),
        primary_deg=scene.gantry.primary_deg,
        secondary_deg=scene.gantry.secondary_deg,
        spacing_mm=scene.gantry.isocentre_spacing_mm,
        lesion=lesion_truth(case.lesion, seen),
        segment=files["segment"],
        tree=files["tree"],
        cass_map=files["cass"],
    )


def _write_row(
    directory: Path, rng: np.random.Generator, case: _Case
) -> dict[str, str | int | float]:
    """One line of the CSV, with the contours and pseudo-label of a case that comes annotated."""
    scene, lesion, seen = case.view.scene, case.lesion, case.seen
    phase = "FINAL" if lesion.stenosis_pct < 25 else str(rng.choice(["INDEX BASELINE", "PRE"]))
    pattern = SEGMENT_NAMES[lesion.cass] + (f" {phase}" if rng.random() < 0.5 else "")
    row: dict[str, str | int | float] = {
        "row_id": case.row_id,
        "patient_id": ("ALL RISE " if rng.random() < 0.5 else "") + case.patient.patient_id,
        "vessel_pattern": pattern if rng.random() < 0.6 else pattern.replace(" ", "_"),
        "vessel_name": vessel_name(lesion),
        "phase": phase,
        "frame_index": seen.frame,
        "cass_segment": lesion.cass,
        "cass_segment_original": lesion.cass,
        "primary_angle": scene.gantry.primary_deg,
        "secondary_angle": scene.gantry.secondary_deg,
        "dicom_path": case.dicom,
        "lesion_box": " ".join(
            str(side) for side in rough_box(rng, box_of(seen.bitmap), scene.gantry.hw)
        ),
        "split": case.patient.split,
        "round": case.round_number,
    }
    label = pseudo_label(rng, scene, seen.frame)
    if case.is_annotated:
        truth = lesion_truth(lesion, seen)
        spacing = scene.gantry.isocentre_spacing_mm
        row["contours_path"] = f"contours/{case.row_id}.json"
        row["deepsa_pseudo_label_path"] = f"pseudo/{case.row_id}.png"
        row["MLD_mm"] = round(truth.mld_px * spacing, 3)
        row["diameter_stenosis_pct"] = round(truth.stenosis_pct, 1)
        row["lesion_length_mm"] = round(truth.lesion_length_mm, 2)
        write_bytes(directory / str(row["contours_path"]), contours_json(case.view, lesion, seen))
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
            round_number = rounds.pop(0) if rounds else 0
            case = _Case(patient, view, lesion, seen, row_id, dicom, round_number)
            truths.append(_write_truth(directory, case))
            if not unseen:
                rows.append(_write_row(directory, rng, case))
    return rows, truths


def _write_job(
    directory: Path, seed: int, job: tuple[_Patient, list[int]]
) -> tuple[list[dict[str, str | int | float]], list[CaseTruth]]:
    return _write_patient(directory, seed, *job)


@contextmanager
def _pool(workers: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """A `map` over so many processes, in order; the built-in one for a single worker."""
    if workers <= 1:
        yield map
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool.map


def write_study(
    directory: Path,
    seed: int,
    patients: int = 44,
    unseen: int = 3,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> StudyTruth:
    """Write a whole study, or nothing; the same seed and numbers give the same files.

    Args:
        directory: A folder that is empty or not there yet.
        seed: Source of all chance.
        patients: Patients of train, val and test together, each with 2 views of 2 lesions.
        unseen: Further patients of whom only one DICOM file is given.
        progress: Told how many patients of how many are written.
        workers: Processes that write patients side by side; the files are the same for any number.

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
    jobs = [
        (person, [rounds.pop() for _ in range(VIEWS * LESIONS)] if person.split == "train" else [])
        for person in people
    ]
    partly = directory.with_name(f".{directory.name}.partly")
    shutil.rmtree(partly, ignore_errors=True)  # of a run that was stopped
    write = partial(_write_job, partly, seed)
    with _pool(workers) as spread:
        for done, (some_rows, some_truths) in enumerate(spread(write, jobs), start=1):
            rows += some_rows
            truths += some_truths
            if progress is not None:
                progress(done, len(people))
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    study = StudyTruth(phantom_version=PHANTOM_VERSION, seed=seed, cases=tuple(truths))
    write_document(partly / "truth" / TRUTH_FILE, study)
    write_bytes(partly / "cases.csv", text.getvalue().encode())
    if directory.exists():
        directory.rmdir()
    partly.rename(directory)
    return study

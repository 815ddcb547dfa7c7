"""The lab's form at full size with faults of every kind: does the import report exactly those?

`python -m bench.lab_faults` writes 800 rows of 270 patients, 2 % of them faulty, imports them and
compares the report with what was broken. Truth is what was written here, never what was read.
"""

import csv
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from angio.importing import import_csv
from angio.lab_csv import CsvOptions
from bench.harness import run
from casebook.catalogue import Catalogue
from casebook.home import Home
from casebook.labels import read_labels

AIMS = {"missed": "<= 0", "invented": "<= 0", "misnamed": "<= 0", "lost_cases": "<= 0"}
LABELS = Path(__file__).parents[1] / "conf" / "labels" / "coronary.yaml"
SIDE = 96
DRIVE = "E:\\study\\"
Row = dict[str, str]
Break = Callable[[Path, Row], None]


@dataclass(frozen=True)
class Fault:
    """What was done to a row."""

    kind: str
    says: str
    """Words its problem must have."""
    part: bool
    """Whether the case still comes in, without a part."""


@dataclass(frozen=True)
class Lab:
    """A study on disk, with what is wrong in it by line of the CSV."""

    table: Path
    rows: int
    faults: dict[int, Fault]


@dataclass(frozen=True)
class Outcome:
    """The report against the truth, by line."""

    missed: dict[int, str]
    invented: dict[int, str]
    misnamed: dict[int, str]
    imported: int
    expected_cases: int


def _local(folder: Path, row: Row, column: str) -> Path:
    return folder / row[column].removeprefix(DRIVE).replace("\\", "/")


def _cut(column: str) -> Break:
    def breaking(folder: Path, row: Row) -> None:
        path = _local(folder, row, column)
        path.write_bytes(path.read_bytes()[:-40])

    return breaking


def _gone(column: str) -> Break:
    return lambda folder, row: _local(folder, row, column).unlink()


def _put(column: str, value: str) -> Break:
    return lambda folder, row: row.__setitem__(column, value)


def _edit(change: Callable[[dict[str, list[list[float]]]], object]) -> Break:
    def breaking(folder: Path, row: Row) -> None:
        path = _local(folder, row, "medis_contour_path")
        found = json.loads(path.read_text())
        change(found)
        path.write_text(json.dumps(found))

    return breaking


def _values(folder: Path, row: Row) -> None:
    path = _local(folder, row, "cine_path")
    np.save(path, np.load(path).astype(np.float32) / 100)


def _objects(folder: Path, row: Row) -> None:
    with _local(folder, row, "cine_path").open("wb") as stream:
        np.savez(stream, a=np.zeros(3))


def _no_segment(folder: Path, row: Row) -> None:
    row.update({"cass_segment": "99", "vessel_pattern": "MID GRAFT"})


def _pseudo_size(folder: Path, row: Row) -> None:
    path = _local(folder, row, "deepsa_pseudo_label_path")
    Image.fromarray(np.ones((64, 32), dtype=np.uint8)).save(path)


def _pseudo_empty(folder: Path, row: Row) -> None:
    path = _local(folder, row, "deepsa_pseudo_label_path")
    Image.fromarray(np.zeros((64, 64), dtype=np.uint8)).save(path)


FAULTS: tuple[tuple[str, Break, str], ...] = (
    ("no patient", _put("Patient ID", ""), "patient_id is empty"),
    ("cine gone", _gone("cine_path"), "the cine file is not there"),
    ("cine cut short", _cut("cine_path"), "the cine file holds"),
    ("cine of other values", _values, "outside 0..1"),
    ("cine is an archive", _objects, "is not NPY"),
    ("frame beyond the end", _put("frame_index", "40"), "correct frame_index"),
    ("frame is a word", _put("frame_index", "last"), "expected a whole number"),
    ("contours gone", _gone("medis_contour_path"), "the contour file is not there"),
    ("contours cut short", _cut("medis_contour_path"), "is not JSON"),
    ("contours of another image", _edit(lambda c: c["left_edge"].append([400.0, 400.0])),
     "never resized"),
    ("contours turned", _edit(lambda c: c["right_edge"].reverse()), "opposite directions"),
    ("edge missing", _edit(lambda c: c.pop("left_edge")), "left_edge unusable"),
    ("angle is a word", _put("primary_angle", "steep"), "expected degrees"),
    ("unknown split", _put("split", "holdout"), "expected train, val or test"),
    ("unmapped drive", _put("cine_path", "Q:\\elsewhere\\a.npy"), "--path-map"),
    ("path climbs out", _put("cine_path", "..\\..\\a.npy"), "'..'"),
    ("unknown segment", _no_segment, "not one of the labels"),
    ("pseudo-label gone", _gone("deepsa_pseudo_label_path"), "the pseudo-label file is not there"),
    ("pseudo-label cut short", _cut("deepsa_pseudo_label_path"), "the pseudo-label file"),
    ("pseudo-label of other shape", _pseudo_size, "proportions of the image"),
    ("pseudo-label empty", _pseudo_empty, "the pseudo-label file is empty"),
)  # fmt: skip
"""Kind, how a row is broken, and words its problem must have."""


def _sound(folder: Path, number: int, patient: int, rng: np.random.Generator) -> Row:
    """Write the files of a sound row, and give the row."""
    down, along = np.mgrid[:SIDE, :SIDE]
    cine = np.stack([70 + (down + along + 5 * frame) // 3 for frame in range(4)])
    noise = rng.normal(0, 1.5, cine.shape)
    np.save(folder / f"cine/{number}.npy", np.clip(cine + noise, 0, 255).astype(np.uint8))
    top, along_xy = float(rng.uniform(20, 60)), np.linspace(15, 75, 20)
    contours = {
        "segment_name": "MID RCA", "frame_num": 2,
        "left_edge": [[float(x), top] for x in along_xy],
        "right_edge": [[float(x), top + 8] for x in along_xy],
        "measurements": {"MLD_mm": 1.35, "diameter_stenosis_pct": 57.3},
        "calibration": {"scale_factor": 4.0, "catheter_diameter_mm": 2.0},
        "view_angles": {"primary_angle": "RAO 30", "secondary_angle": "CRA 20"},
    }  # fmt: skip
    (folder / f"contours/{number}.json").write_text(json.dumps(contours))
    label = np.zeros((SIDE // 2, SIDE // 2), dtype=np.uint8)
    label[10:20, 5:40] = 1
    Image.fromarray(label).save(folder / f"pseudo/{number}.png")
    return {
        "Patient ID": f"ALL RISE 101-{patient:04d}" if number % 2 else f"101-{patient:04d}",
        "vessel_pattern": "MID RCA FINAL" if number % 3 else "MID_RCA",
        "cass_segment": "2", "frame_index": "2", "primary_angle": "-30", "secondary_angle": "20",
        "cine_path": f"{DRIVE}cine\\{number}.npy",
        "medis_contour_path": f"{DRIVE}contours\\{number}.json",
        "deepsa_pseudo_label_path": f"{DRIVE}pseudo\\{number}.png",
        "split": "", "operator_grade": "B",
    }  # fmt: skip


def write_lab(folder: Path, rows: int, patients: int, faults: int, seed: int = 1) -> Lab:
    """Write a study of so many rows with so many faults, every kind as often as possible."""
    rng = np.random.default_rng([22, seed])
    for name in ("cine", "contours", "pseudo"):
        (folder / name).mkdir(parents=True)
    table = [_sound(folder, number, number % patients, rng) for number in range(rows)]
    broken: dict[int, Fault] = {}
    for turn, number in enumerate(rng.choice(rows, faults, replace=False)):
        kind, breaking, says = FAULTS[turn % len(FAULTS)]
        breaking(folder, table[number])
        broken[int(number) + 2] = Fault(kind, says, kind.startswith("pseudo"))
    path = folder / "cases.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return Lab(path, rows, broken)


def check(lab: Lab, home: Path) -> Outcome:
    """Import the study and hold the report against what was broken."""
    place = Home(home)
    options = CsvOptions(path_map=(("E:/study", "."),))
    report = import_csv(lab.table, place, read_labels(LABELS), options, neighbours=0)
    told = {int(problem.where.split()[-1]): problem for problem in report.problems}
    faults = lab.faults
    wrong = {
        line: f"{fault.kind}: {told[line].message}"
        for line, fault in faults.items()
        if line in told and (fault.says not in told[line].message or told[line].part != fault.part)
    }
    return Outcome(
        missed={line: fault.kind for line, fault in faults.items() if line not in told},
        invented={line: one.message for line, one in told.items() if line not in faults},
        misnamed=wrong,
        imported=Catalogue(place).count(),
        expected_cases=lab.rows - sum(not fault.part for fault in faults.values()),
    )


def measure(quick: bool) -> dict[str, float | None]:
    """The figures at full size, or of 120 rows when quick."""
    rows, patients = (120, 40) if quick else (800, 270)
    with tempfile.TemporaryDirectory() as folder:
        lab = write_lab(Path(folder) / "lab", rows, patients, max(round(0.02 * rows), len(FAULTS)))
        outcome = check(lab, Path(folder) / "home")
    for lines in (outcome.missed, outcome.invented, outcome.misnamed):
        for line, text in lines.items():
            print(f"line {line}: {text}")
    return {
        "rows": float(rows),
        "faults": float(len(lab.faults)),
        "missed": float(len(outcome.missed)),
        "invented": float(len(outcome.invented)),
        "misnamed": float(len(outcome.misnamed)),
        "lost_cases": float(outcome.expected_cases - outcome.imported),
    }


if __name__ == "__main__":
    run("lab_faults", measure, AIMS)

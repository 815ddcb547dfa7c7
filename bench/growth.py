"""Memory of an import that grows: peak RSS of importing and listing many rows over that of few.

Rows share one small cine, so that what grows is what is kept of the rows and nothing else. Each run
is a process of its own. `bench.ingest` reports the ratio as `rss_100k_over_1k`.
"""

import argparse
import csv
import resource
import shutil
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

from angio.cli import main as casebook
from angio.importing import import_csv
from casebook.home import Home
from casebook.labels import read_labels

LABELS = Path(__file__).parents[1] / "conf" / "labels" / "coronary.yaml"
ROWS = (1_000, 100_000)
QUICK_ROWS = (100, 600)
FRAMES = 100
ROWS_A_PATIENT = 3


def write_rows(folder: Path, rows: int) -> Path:
    """A CSV of so many rows beside the one cine they share."""
    down, along = np.mgrid[:16, :16]
    ramp = np.stack([60 + (down + 2 * along + frame) % 90 for frame in range(FRAMES)])
    np.save(folder / "cine.npy", ramp.astype(np.uint8))
    path = folder / f"rows-{rows}.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["row_id", "patient_id", "cine_path", "frame_index", "cass_segment"])
        for row in range(rows):
            patient = f"{row // ROWS_A_PATIENT:06d}"
            writer.writerow([f"r{row}", patient, "cine.npy", row % FRAMES, 1 + row % 3])
    return path


def peak_kb() -> int:
    """Largest resident memory of this process so far, in kB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss also counts the process this one was forked from
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run_one(table: Path, home: Path, rows: int) -> int:
    """Import and list in this process; its peak in kB."""
    report = import_csv(table, Home(home), read_labels(LABELS), neighbours=0)
    if (report.imported, report.problems) != (rows, ()):
        raise AssertionError(f"{report.imported} of {rows} rows came in")
    listing = home / "list.json"
    with listing.open("w", encoding="utf-8") as stream, redirect_stdout(stream):
        casebook(["list", "--home", str(home), "--json"], standalone_mode=False)
    with listing.open(encoding="utf-8") as stream:
        listed = sum(1 for _ in stream)
    if listed != rows:
        raise AssertionError(f"{listed} of {rows} cases are listed")
    return peak_kb()


def peak_of(rows: int) -> int:
    """Peak RSS in kB of importing and listing so many rows, in a process of its own."""
    folder = Path(tempfile.mkdtemp(prefix="growth-"))
    try:
        table = write_rows(folder, rows)
        told = subprocess.run(
            [sys.executable, "-m", "bench.growth", str(table), str(folder / "home"), str(rows)],
            cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
        )  # fmt: skip
        if told.returncode:
            raise RuntimeError(f"import of {rows} rows failed: {told.stderr[-500:]}")
        return int(told.stdout.split()[-1])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def rss_ratio(quick: bool) -> float:
    """Peak RSS of many rows over that of few: 100 000 over 1 000, or 600 over 100 when quick."""
    few, many = (peak_of(rows) for rows in (QUICK_ROWS if quick else ROWS))
    return many / few


def main() -> None:
    """One import of a table; prints its peak in kB."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth")
    parser.add_argument("table", type=Path)
    parser.add_argument("home", type=Path)
    parser.add_argument("rows", type=int)
    options = parser.parse_args()
    print(run_one(options.table, options.home, options.rows))


if __name__ == "__main__":
    main()

"""What every bench shares: arguments, the table, the JSON line. Measures nothing itself."""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

from casebook.documents import Document

RESULTS = Path(__file__).with_name("results")


class BenchResult(Document):
    """The outcome of one bench."""

    bench: str
    figures: dict[str, float | None]
    """None where the part the figure needs is absent here."""
    aims: dict[str, str]
    """For instance `>= 5`."""
    met: bool | None
    device: str
    commit: str


def is_met(figure: float | None, aim: str) -> bool | None:
    """Whether a figure reaches its aim; nothing when the figure is absent.

    Raises:
        ValueError: the aim is not `>= number` or `<= number`.
    """
    relation, _, limit = aim.partition(" ")
    if relation not in {">=", "<="}:
        raise ValueError(f"aim {aim!r}: expected '>= number' or '<= number'")
    if figure is None:
        return None
    return figure >= float(limit) if relation == ">=" else figure <= float(limit)


def device() -> str:
    """The machine in words: processor, cores and, where there is one, the GPU."""
    cores = f"{os.cpu_count()} cores"
    return f"{platform.machine()} {platform.system()}, {cores}, Python {platform.python_version()}"


def commit() -> str:
    """The commit measured, `-dirty` when the tree has changes."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    told = subprocess.run(
        [git, "describe", "--always", "--dirty", "--exclude", "*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "unknown"


def seconds(work: Callable[[], object], *, repeats: int = 5) -> float:
    """Median seconds of one call, after one that is not counted."""
    work()
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return median(spent)


def run(
    name: str, measure: Callable[[bool], dict[str, float | None]], aims: dict[str, str]
) -> BenchResult:
    """Measure, print a table, then one JSON line; keep the result when asked to."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}")
    parser.add_argument("--quick", action="store_true", help="small counts, for the tests")
    parser.add_argument("--keep", action="store_true", help="write bench/results/NAME.json")
    options = parser.parse_args()
    return _tell(name, measure(options.quick), aims, commit(), keep=options.keep)


def run_parts(
    name: str,
    parts: Mapping[str, Callable[[bool], dict[str, float | None]]],
    aims: dict[str, str],
) -> BenchResult:
    """As `run`, for a bench whose parts can be measured apart.

    With `--part` the figures of the others are those kept before, and `commit` names each part's.
    """
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}")
    parser.add_argument("--quick", action="store_true", help="small counts, for the tests")
    parser.add_argument("--keep", action="store_true", help="write bench/results/NAME.json")
    parser.add_argument("--part", action="append", choices=list(parts), help="only this one")
    options = parser.parse_args()
    figures: dict[str, float | None] = {}
    commits: dict[str, str] = {}
    kept = RESULTS / f"{name}.json"
    if options.part and kept.exists():
        before = BenchResult.model_validate_json(kept.read_bytes())
        figures.update(before.figures)
        commits = dict.fromkeys(parts, before.commit)
        if " " in before.commit:
            commits = dict(entry.split(" ") for entry in before.commit.split(", "))
    for part in options.part or parts:
        print(f"{part}:", flush=True)
        figures |= parts[part](options.quick)
        commits[part] = commit()
    measured = ", ".join(f"{part} {commits[part]}" for part in parts if part in commits)
    return _tell(name, figures, aims, measured, keep=options.keep)


def _tell(
    name: str,
    figures: dict[str, float | None],
    aims: dict[str, str],
    measured: str,
    *,
    keep: bool,
) -> BenchResult:
    outcomes = [is_met(figures.get(figure), aim) for figure, aim in aims.items()]
    met = None if None in outcomes else all(outcomes)
    result = BenchResult(
        bench=name, figures=figures, aims=aims, met=met, device=device(), commit=measured
    )
    for figure, value in figures.items():
        shown = "absent here" if value is None else f"{value:.4g}"
        print(f"{figure:<32} {shown:>14}   {aims.get(figure, '')}")
    line = result.model_dump_json()
    print(line)
    if keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(line + "\n", encoding="utf-8")
    sys.stdout.flush()
    return result

"""`angioinfer run`: files and folders once, or a drop folder for as long as it is watched.

Results go to stdout and to the folder given; progress to stderr.
"""

import signal
import sys
import threading
import time
from pathlib import Path

import click
from tqdm import tqdm

from casebook.errors import ConfigError, DataError
from casebook.home import locked
from export.findings import FrameResult
from export.options import (
    bundle_folder,
    bundle_option,
    checked_bundle,
    json_option,
    key_option,
    precision_option,
    provider_option,
    threads_option,
)
from export.pointer import point_of, shown_of
from export.precision import Precision
from export.records import FileProblem, FileRecord
from export.runs import DropFolder, Run, Wish, check_writable, find_files
from export.runtime import load_crew, load_released

POLL_S = 1.0
"""A watched folder is looked at this often."""
TABLES_SHARE = 10.0
"""A watch writes its tables anew after this many times as long as writing them took: with ten
thousand files done that is seconds, and each new file would pay for all before it."""


@click.command(epilog="Example: angioinfer run study/ --out results/ --json")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--watch", type=click.Path(path_type=Path), help="A folder to take files from, ever.")
@click.option("--settle", type=click.FloatRange(min=0), default=3.0, show_default=True,
              help="Seconds a file of --watch must stand still before it is read.")  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for results.")
@bundle_option
@key_option
@click.option("--prompt", "prompts", multiple=True,
              help="x1,y1,x2,y2 or x,y: short for --box and --point; repeatable.")  # fmt: skip
@click.option("--box", help="x1,y1,x2,y2 in px around the vessel to measure, in every file.")
@click.option("--point", "points", multiple=True, help="x,y in px on that vessel; repeatable.")
@click.option("--outside", multiple=True, help="x,y in px beside it; repeatable.")
@click.option("--segment", help="What the vessel shown is, a label of the bundle.")
@click.option("--frame", type=click.IntRange(min=0), help="Frame, from 0; else the best filled.")
@click.option("--gif/--no-gif", default=True, show_default=True, help="The run as a film.")
@click.option("--mp4", is_flag=True, help="The film as MP4 (extra video), not as GIF.")
@click.option("--seg/--no-seg", default=True, show_default=True, help="Masks as DICOM SEG.")
@threads_option
@provider_option
@precision_option
@json_option
def run(
    files: tuple[Path, ...],
    watch: Path | None,
    settle: float,
    out: Path,
    bundle: Path | None,
    key: Path | None,
    prompts: tuple[str, ...],
    box: str | None,
    points: tuple[str, ...],
    outside: tuple[str, ...],
    segment: str | None,
    frame: int | None,
    gif: bool,
    mp4: bool,
    seg: bool,
    threads: int | None,
    provider: str | None,
    precision: Precision | None,
    as_json: bool,
) -> None:
    """Masks, overlays and QCA of DICOM FILES or folders of them.

    What is done is kept in OUT/records: a run that was killed goes on where it was.
    """
    if bool(files) == (watch is not None):
        raise ConfigError("give FILES or --watch FOLDER, one of them")
    box_xyxy, inside_xy = shown_of(box, points, prompts)
    folder = bundle_folder(bundle)
    manifest = checked_bundle(folder, key)
    wish = Wish(
        box_xyxy=box_xyxy,
        inside_xy=inside_xy,
        outside_xy=tuple(point_of(text) for text in outside),
        frame=frame,
        segment=segment,
        film=gif or mp4,
        mp4=mp4,
        seg=seg,
    )
    segmenter, graphs = load_released(folder, manifest, threads, provider, precision)
    crew = load_crew(folder, manifest, segmenter, graphs, precision) if wish.film else None
    check_writable(out)
    with locked(out / ".lock", "this folder of results"):
        work = Run.open(segmenter, manifest, graphs, out, wish, crew)
        problems = 0
        try:
            if watch is not None:
                _watch(work, watch, settle)
            else:
                problems = _once(work, files, as_json=as_json)
        except OSError:
            check_writable(out)
            raise
    if problems:
        sys.exit(DataError.exit_code)


def _once(work: Run, given: tuple[Path, ...], *, as_json: bool) -> int:
    """Take every file; how many could not be used comes back."""
    started = time.perf_counter()
    found, problems = find_files(given, work.out)
    taken: list[Path] = []
    failed = resumed = 0
    for path in tqdm(found, desc="angiograms", unit="file", disable=None):
        record = _take(work, path)
        if record is None:
            problems.append(_gone(path))
            continue
        taken.append(path)
        resumed += record == "done"
        failed += isinstance(record, FileRecord) and record.problem is not None
    spent = time.perf_counter() - started
    work.write_tables(taken, problems, spent)
    if as_json:
        click.echo((work.out / "qca.json").read_text(encoding="utf-8"))
        return failed + len(problems)
    for path in taken:
        _say(work.book.of(path))
    for problem in problems:
        click.echo(f"{problem.file}: left out: {problem.message}")
    if resumed:
        click.echo(f"{resumed} files were done before")
    click.echo(
        f"{len(taken) - failed} of {len(taken) + len(problems)} files in {spent:.1f} s on "
        f"{work.graphs.engine}; results in {work.out}"
    )
    return failed + len(problems)


def _take(work: Run, path: Path, *, failed_too: bool = False) -> FileRecord | str | None:
    """The record of a file, `done` when it was done before, nothing when it has vanished."""
    try:
        if work.book.is_done(path, failed_too=failed_too):
            return "done"
    except OSError:
        return None
    record = work.take(path)
    if record is not None and record.problem is not None:
        click.echo(f"{path.name}: {record.problem.message}", err=True)
    return record


def _gone(path: Path) -> FileProblem:
    return FileProblem(file=path.name, message=f"{path.name} vanished before it was read")


def _watch(work: Run, folder: Path, settle_s: float) -> None:
    """Take what is put into a folder until a signal ends it; the file at work is finished."""
    if not folder.is_dir():
        raise ConfigError(f"--watch {folder}: no such folder; make it or correct the path")
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    drop = DropFolder(folder, work.out, settle_s)
    started = time.perf_counter()
    click.echo(f"watching {folder} on {work.graphs.engine}; results in {work.out}")
    behind, away, due = True, False, 0.0
    while not ended.is_set():
        try:
            ready, away = drop.ready(time.monotonic()), False
        except DataError as problem:
            if not away:
                click.echo(str(problem), err=True)
            ready, away = [], True
        for path in ready:
            if ended.is_set():
                break
            record = _take(work, path, failed_too=True)
            if record is None:
                click.echo(_gone(path).message, err=True)
            elif isinstance(record, FileRecord):
                _say(record)
                behind = True
        if behind and time.perf_counter() >= due:
            due = _write_tables(work, started)
            behind = False
        sys.stdout.flush()
        ended.wait(min(POLL_S, max(settle_s, 0.05)))
    if behind:
        _write_tables(work, started)


def _write_tables(work: Run, started: float) -> float:
    """Write the tables of a watch; when they may be written again comes back."""
    before = time.perf_counter()
    work.write_tables(None, [], before - started)
    after = time.perf_counter()
    return after + TABLES_SHARE * (after - before)


def _say(record: FileRecord) -> None:
    if record.problem is not None:
        click.echo(f"{record.problem.file}: left out: {record.problem.message}")
    elif record.result is not None:
        _say_result(record.result)


def _say_result(result: FrameResult) -> None:
    coronary = f", {result.coronary} coronary" if result.coronary else ""
    click.echo(f"{result.file} frame {result.frame}: tree {result.tree_area_px} px{coronary}")
    for vessel in result.vessels:
        known = vessel.label or vessel.artery
        name = f"vessel {vessel.number}" + (f" ({known})" if known else "")
        if vessel.lesion is None:
            click.echo(f"  {name}: not measured: {vessel.problem}")
        else:
            click.echo(
                f"  {name}: MLD {vessel.lesion.mld_text}, "
                f"{vessel.lesion.stenosis_pct:.0f} %DS (score {vessel.score:.2f})"
            )
    for note in result.notes:
        click.echo(f"  {note}")

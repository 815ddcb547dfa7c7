"""The `angioinfer` command: a released student on DICOM files, without torch.

Results go to stdout and to the folder given; progress to stderr.
"""

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from casebook.documents import sha256_of
from casebook.errors import AngioloopError, ConfigError, DataError, ModelError
from casebook.home import Home
from casebook.protocols import Frame, Prompt
from casebook.registry import Registry
from export.bundle import Bundle, read_bundle
from export.infer import Box, analyse
from export.outputs import CocoWriter, FileProblem, InferReport, write_pictures, write_tables
from export.runtime import load_graphs, providers, segmenter_of

_NOT_NAMES = re.compile(r"[^A-Za-z0-9_-]+")
_DICOM_SUFFIXES = {"", ".dcm", ".dicom", ".ima", ".xa"}
_MAGIC_AT = 128


class Commands(click.Group):
    """A group whose expected failures are one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and turn our errors into a message."""
        try:
            return super().invoke(ctx)
        except AngioloopError as problem:
            click.echo(f"Error: {problem}", err=True)
            sys.exit(problem.exit_code)


_bundle = click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Folder of a released bundle; else the workspace's released one.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
_threads = click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")


@click.group(cls=Commands)
def main() -> None:
    """Segment and measure angiograms with a released student. Research use."""


def bundle_folder(given: Path | None) -> Path:
    """The bundle given, else the workspace's released one.

    Raises:
        ModelError: none is given and none is released.
    """
    if given is not None:
        return given
    home = Home.resolve()
    version = Registry(home).released()
    if version is None:
        raise ModelError(f"no student is released in {home.models}; give --bundle DIR")
    return home.models / "released" / version


def _box(text: str | None) -> Box | None:
    if text is None:
        return None
    try:
        x1, y1, x2, y2 = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--box {text!r}; expected x1,y1,x2,y2 in px") from None
    return x1, y1, x2, y2


def _may_be_dicom(path: Path) -> bool:
    """By its name, or by the four letters every DICOM file carries."""
    if path.suffix.lower() in _DICOM_SUFFIXES:
        return True
    with path.open("rb") as stream:
        return stream.read(_MAGIC_AT + 4)[_MAGIC_AT:] == b"DICM"


def find_files(given: tuple[Path, ...]) -> tuple[list[Path], list[FileProblem]]:
    """The files named and those in the folders named, in order; what is missing is a problem."""
    files: list[Path] = []
    problems: list[FileProblem] = []
    for path in given:
        if path.is_dir():
            inside = [
                one
                for one in sorted(path.rglob("*"))
                if one.is_file() and not one.name.startswith(".") and _may_be_dicom(one)
            ]
            files += inside
            if not inside:
                problems.append(FileProblem(file=path.name, message="the folder has no DICOM file"))
        elif path.is_file():
            files.append(path)
        else:
            message = f"{path.name} is not there; correct the path or restore it"
            problems.append(FileProblem(file=path.name, message=message))
    return files, problems


def _named(files: list[Path]) -> Iterator[tuple[Path, str]]:
    """Each file with a flat, unique name for its results."""
    used: set[str] = set()
    for path in files:
        name = (_NOT_NAMES.sub("-", path.stem).strip("-_") or "file")[:48]
        if name in used:
            name = f"{name}-{sha256_of(str(path).encode())[:8]}"
        used.add(name)
        yield path, name


@main.command(epilog="Example: angioinfer run study/ --out results/ --json")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for results.")
@_bundle
@click.option("--box", help="x1,y1,x2,y2 in px around the vessel to measure, in every file.")
@click.option("--frame", type=click.IntRange(min=0), help="Frame, from 0; else the best filled.")
@_threads
@_json
def run(
    files: tuple[Path, ...],
    out: Path,
    bundle: Path | None,
    box: str | None,
    frame: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Masks, overlays and QCA of DICOM FILES or folders of them."""
    started = time.perf_counter()
    folder = bundle_folder(bundle)
    manifest = read_bundle(folder)
    asked = _box(box)
    segmenter = segmenter_of(manifest, load_graphs(folder, threads))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise DataError(
            f"{out}: cannot be written ({problem.strerror}); give another --out"
        ) from None
    found, problems = find_files(files)
    coco = CocoWriter(manifest.labels, manifest.version)
    results = []
    for path, name in tqdm(list(_named(found)), desc="angiograms", unit="file", disable=None):
        try:
            analysis = analyse(segmenter, path, name, box_xyxy=asked, frame=frame)
        except (AngioloopError, OSError) as problem:
            message = str(problem)
            problems.append(FileProblem(file=path.name, message=message))
            click.echo(f"{path.name}: {message}", err=True)
            continue
        write_pictures(analysis, out)
        coco.add(analysis)
        results.append(analysis.result)
    report = InferReport(
        model_id=manifest.version,
        bundle=folder.name,
        providers=providers(),
        results=tuple(results),
        problems=tuple(problems),
        seconds=time.perf_counter() - started,
    )
    coco.write(out / "annotations.coco.json")
    write_tables(report, out)
    _say(report, out, as_json=as_json)
    if problems:
        sys.exit(DataError.exit_code)


def _say(report: InferReport, out: Path, *, as_json: bool) -> None:
    if as_json:
        click.echo(report.model_dump_json(indent=1))
        return
    for result in report.results:
        click.echo(f"{result.file} frame {result.frame}: tree {result.tree_area_px} px")
        for vessel in result.vessels:
            if vessel.lesion is None:
                click.echo(f"  vessel {vessel.number}: not measured: {vessel.problem}")
            else:
                click.echo(
                    f"  vessel {vessel.number}: MLD {vessel.lesion.mld_text}, "
                    f"{vessel.lesion.stenosis_pct:.0f} %DS (score {vessel.score:.2f})"
                )
        for note in result.notes:
            click.echo(f"  {note}")
    for problem in report.problems:
        click.echo(f"{problem.file}: left out: {problem.message}")
    click.echo(
        f"{len(report.results)} of {len(report.results) + len(report.problems)} files in "
        f"{report.seconds:.1f} s on {report.providers[0]}; results in {out}"
    )


@main.command(epilog="Example: angioinfer verify models/released/student-r03-1a2b3c4d")
@click.argument("bundle", type=click.Path(path_type=Path))
@_json
def verify(bundle: Path, as_json: bool) -> None:
    """Check a bundle: every file whole, the manifest readable, the graphs loadable."""
    manifest = read_bundle(bundle)
    load_graphs(bundle, 1)
    if as_json:
        click.echo(manifest.model_dump_json(indent=1))
        return
    click.echo(f"{manifest.version}: {len(manifest.files)} files whole, opset {manifest.opset}")
    click.echo(
        f"  {manifest.gates.n_params:,} weights; teacher {manifest.gates.teacher_n_params:,}"
    )
    failures = manifest.gates.failures()
    for failure in failures:
        click.echo(f"  gate not met: {failure}")
    if not failures:
        click.echo("  all gates met")


@main.command(epilog="Example: angioinfer bench --threads 2 --json")
@_bundle
@_threads
@click.option("--repeat", type=click.IntRange(min=3), default=20, show_default=True)
@_json
def bench(bundle: Path | None, threads: int | None, repeat: int, as_json: bool) -> None:
    """Time the student on this machine, on a generated 512 px frame."""
    folder = bundle_folder(bundle)
    figures = time_bundle(folder, read_bundle(folder), threads, repeat)
    if as_json:
        click.echo(json.dumps(figures))
        return
    for name, value in figures.items():
        click.echo(f"{name:18} {value:8.1f}")


def time_bundle(
    folder: Path, manifest: Bundle, threads: int | None, repeat: int
) -> dict[str, float]:
    """Milliseconds: loading, a whole frame automatically, a first box, later clicks."""
    started = time.perf_counter()
    segmenter = segmenter_of(manifest, load_graphs(folder, threads))
    load_ms = 1000 * (time.perf_counter() - started)
    rng = np.random.default_rng(0)
    concept = Prompt(concept=manifest.maps[0].label) if manifest.maps else None
    whole: list[float] = []
    first: list[float] = []
    later: list[float] = []
    for _ in range(repeat):
        frame = Frame(rng.integers(0, 256, (512, 512), dtype=np.uint8))
        embedding = segmenter.embed(frame)
        box = Prompt(box_xyxy=(200.0, 200.0, 290.0, 300.0))
        for prompt, into in ((concept, whole), (box, first), (box, later)):
            if prompt is not None:
                started = time.perf_counter()
                segmenter.predict(embedding, prompt)
                into.append(1000 * (time.perf_counter() - started))
    figures = {"load_ms": load_ms}
    for name, values in (
        ("frame_ms_median", whole),
        ("first_prompt_ms", first),
        ("prompt_ms_median", later),
    ):
        if values:
            figures[name] = float(np.median(values))
    return figures


if __name__ == "__main__":
    main()

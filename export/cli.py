"""The `angioinfer` command: a released student on DICOM files, without torch."""

import json
import time
from pathlib import Path

import click
import numpy as np

from casebook.protocols import Frame, Prompt
from export.answers import StudentSegmenter
from export.bundle import read_bundle
from export.namer import read_names
from export.options import (
    Commands,
    bundle_folder,
    bundle_option,
    checked_bundle,
    json_option,
    key_option,
    precision_option,
    provider_option,
    threads_option,
)
from export.precision import Precision, shipped
from export.release_commands import release, releases, rollback, sign
from export.run_command import run
from export.runtime import load_released
from export.serve_command import serve
from export.signature import SIGNATURE


@click.group(cls=Commands)
def main() -> None:
    """Segment and measure angiograms with a released student. Research use."""


for _command in (run, serve, releases, release, rollback, sign):
    main.add_command(_command)


@main.command(epilog="Example: angioinfer verify models/released/student-r03-1a2b3c4d")
@click.argument("bundle", type=click.Path(path_type=Path))
@key_option
@json_option
def verify(bundle: Path, key: Path | None, as_json: bool) -> None:
    """Check a bundle: every file whole, the manifest readable, the graphs loadable, the key's."""
    manifest = checked_bundle(bundle, key)
    for precision in shipped(manifest.files):
        load_released(bundle, manifest, 1, "cpu", precision)
    if as_json:
        click.echo(manifest.model_dump_json(indent=1))
        return
    click.echo(f"{manifest.version}: {len(manifest.files)} files whole, opset {manifest.opset}")
    signed = (bundle / SIGNATURE).is_file()
    if key is not None:
        click.echo("  signed with the key given")
    else:
        click.echo("  signed: give --key to check it" if signed else "  not signed")
    click.echo(
        f"  {manifest.gates.n_params:,} weights; teacher {manifest.gates.teacher_n_params:,}"
    )
    names = read_names(bundle, manifest.files)
    for what, accuracy in (names.figures if names else {}).items():
        click.echo(f"  {what.replace('_', ' ')} {accuracy:.3f}")
    for learnt in manifest.gates.learnt:
        click.echo(f"  {learnt.text}")
    failures = manifest.gates.failures()
    for failure in failures:
        click.echo(f"  gate not met: {failure}")
    if not failures:
        click.echo("  all gates met")


@main.command(epilog="Example: angioinfer bench --threads 2 --json")
@bundle_option
@threads_option
@provider_option
@precision_option
@click.option("--repeat", type=click.IntRange(min=3), default=20, show_default=True)
@json_option
def bench(
    bundle: Path | None,
    threads: int | None,
    provider: str | None,
    precision: Precision | None,
    repeat: int,
    as_json: bool,
) -> None:
    """Time the student on this machine, on a generated 512 px frame."""
    folder = bundle_folder(bundle)
    manifest = read_bundle(folder)
    started = time.perf_counter()
    segmenter, graphs = load_released(folder, manifest, threads, provider, precision)
    figures = {"load_ms": 1000 * (time.perf_counter() - started)}
    figures |= time_student(segmenter, repeat)
    if as_json:
        computes = {"providers": graphs.providers, "threads": graphs.threads}
        click.echo(json.dumps({**computes, **figures}))
        return
    click.echo(f"{manifest.version} on {graphs.engine}")
    for name, value in figures.items():
        click.echo(f"{name:18} {value:8.1f}")


def time_student(segmenter: StudentSegmenter, repeat: int) -> dict[str, float]:
    """Milliseconds: a whole frame automatically, a first box, later clicks."""
    rng = np.random.default_rng(0)
    concept = Prompt(concept=segmenter.maps[0].label) if segmenter.maps else None
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
    figures = {}
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

"""`python -m export check`: a released bundle against torch and against its teacher, again.

Training side: loads torch.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from casebook.catalogue import Catalogue
from casebook.errors import AngioloopError, ModelError
from casebook.home import Home
from casebook.registry import Registry
from export.bundle import read_bundle
from export.comparison import box_scores, gates_of
from export.distil import judged
from export.estimator import read_estimator
from export.estimator_fit import judged_again
from export.gates import Gates, QcaGate
from export.parity import compare
from export.precision_command import precisions
from export.release import as_segmenter, parity_prompts
from export.runtime import load_graphs, segmenter_of
from export.settings import DistilConfig, read_distil_config
from export.student_base import FILE, read_student
from export.syllabus import read_syllabus
from export.teacher_command import teacher
from segmenter.teacher import load_teacher


class Commands(click.Group):
    """A group whose expected failures are one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and turn our errors into a message."""
        try:
            return super().invoke(ctx)
        except AngioloopError as problem:
            click.echo(f"Error: {problem}", err=True)
            sys.exit(problem.exit_code)


@click.group(cls=Commands)
def main() -> None:
    """The student's gates, on the training side."""


main.add_command(precisions)
main.add_command(teacher)


def measure_again(home: Home, version: str, config: DistilConfig) -> Gates:
    """The gates' figures of a bundle, measured now.

    Raises:
        ModelError: the bundle, its weights or its teacher is missing or damaged.
        StateError: no round has annotations.
    """
    registry = Registry(home)
    folder = home.models / "released" / version
    bundle = read_bundle(folder)
    registry.verify(version)
    student = read_student(registry.folder(version) / FILE)
    syllabus = read_syllabus(home, neighbours=0, unannotated=0)
    catalogue = Catalogue(home)
    runtime = load_graphs(folder)
    asked = parity_prompts(catalogue, syllabus.val or syllabus.pages, config.parity_frames)
    in_torch = replace(as_segmenter(student, version, bundle.labels), maps=bundle.maps)
    teacher_id = bundle.card.parents[0]
    teacher = load_teacher(home.models, teacher_id, base=config.teacher_base)
    shipped = segmenter_of(bundle, runtime, estimator=read_estimator(folder, bundle.files))
    gates = gates_of(
        compare(in_torch, runtime, asked),
        box_scores(shipped, catalogue, syllabus.val),
        box_scores(teacher, catalogue, syllabus.val),
        config.gate,
        n_params=student.n_params,
        teacher_n_params=sum(p.numel() for p in teacher.model.parameters()),
    )
    return gates.with_(
        iou_without_teacher=bundle.gates.iou_without_teacher,
        learnt=judged_again(
            bundle.gates.learnt, shipped, catalogue, syllabus.val, config.gate.qca_lesions
        ),
    )


def _told(qca: QcaGate) -> list[str]:
    """The measurements in words."""
    lines = [
        f"QCA: {qca.lesions} segments, measured on the student's masks {qca.measured_student}, on "
        f"the teacher's {qca.measured_teacher}"
    ]
    if qca.ds_error_student is not None:
        lines.append(
            f"diameter stenosis off by {qca.ds_error_student:.1f} points, the teacher's "
            f"{qca.ds_error_teacher:.1f}, on {qca.compared}"
            f"{'' if qca.is_judged else ' (too few lesions to be judged)'}"
        )
    if qca.mld_error_student_mm is not None:
        lines.append(
            f"minimal lumen diameter off by {qca.mld_error_student_mm:.3f} mm, the teacher's "
            f"{qca.mld_error_teacher_mm:.3f} mm"
        )
    return lines


@main.command(epilog="Example: python -m export check --conf conf")
@click.option("--home", type=click.Path(path_type=Path), help="The workspace.")
@click.option(
    "--conf",
    type=click.Path(path_type=Path),
    default=Path("conf"),
    show_default=True,
    help="Folder of student.yaml.",
)
@click.option("--version", help="A bundle in models/released; else the released one.")
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
def check(home: Path | None, conf: Path, version: str | None, as_json: bool) -> None:
    """Measure a bundle's gates again; exit code 4 when one is not met."""
    workspace = Home.resolve(home)
    chosen = version or Registry(workspace).released()
    if chosen is None:
        raise ModelError(f"no student is released in {workspace.models}; run `make distil` first")
    config = read_distil_config(conf / "student.yaml")
    gates = judged(measure_again(workspace, chosen, config), config)
    failures = gates.failures()
    if as_json:
        click.echo(gates.model_dump_json(indent=1))
    else:
        click.echo(f"{chosen} on {gates.cases} validation cases")
        click.echo(
            f"  torch and ONNX: logits within {gates.max_abs:.2g}, masks {gates.mask_iou:.4f}"
        )
        if gates.iou_ratio is not None:
            click.echo(
                f"  IoU {gates.iou_student:.3f} of the teacher's {gates.iou_teacher:.3f}: "
                f"ratio {gates.iou_ratio:.3f}"
            )
        if gates.cldice_ratio is not None:
            click.echo(
                f"  clDice {gates.cldice_student:.3f} of {gates.cldice_teacher:.3f}: "
                f"ratio {gates.cldice_ratio:.3f}"
            )
        if gates.iou_without_teacher is not None:
            click.echo(f"  IoU of a student without the teacher {gates.iou_without_teacher:.3f}")
        for one in gates.vessels:
            shown = "" if one.is_judged else " (too few cases to be judged)"
            click.echo(
                f"  {one.vessel}: IoU {one.iou_student:.3f} of {one.iou_teacher:.3f} on "
                f"{one.cases} cases{shown}"
            )
        if gates.qca is not None:
            for line in _told(gates.qca):
                click.echo(f"  {line}")
        for learnt in gates.learnt:
            click.echo(f"  {learnt.text}")
        click.echo(f"  weights {gates.n_params:,}, teacher {gates.teacher_n_params:,}")
    if failures:
        raise ModelError(f"{chosen}: {'; '.join(failures)}")


if __name__ == "__main__":
    main()

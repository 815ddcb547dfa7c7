"""`python -m export teacher`: the promoted teacher as ONNX. Training side."""

from pathlib import Path

import click

from casebook.errors import StateError
from casebook.home import Home
from casebook.registry import Registry
from export.settings import read_distil_config
from export.teacher_graphs import export_teacher
from segmenter.teacher import load_teacher


@click.command(epilog="Example: python -m export teacher --out teacher-onnx")
@click.option("--home", type=click.Path(path_type=Path), help="The workspace.")
@click.option("--conf", type=click.Path(path_type=Path), default=Path("conf"), show_default=True,
              help="Folder of student.yaml, which names the teacher's base.")  # fmt: skip
@click.option("--model", help="A teacher of the workspace; else the promoted one.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
def teacher(home: Path | None, conf: Path, model: str | None, out: Path) -> None:
    """Write the teacher's image encoder and prompt decoder as ONNX, compared with torch."""
    workspace = Home.resolve(home)
    registry = Registry(workspace)
    chosen = model or registry.promoted()
    if chosen is None:
        raise StateError("no teacher is promoted; run `make train ROUND=1`, or give --model")
    config = read_distil_config(conf / "student.yaml")
    card = registry.card(chosen)
    loaded = load_teacher(workspace.models, chosen, base=config.teacher_base, device="cpu")
    made = export_teacher(loaded.model, chosen, out, card.licence, multimask=loaded.multimask)
    click.echo(
        f"{chosen}: {out}: square {made.side_px} px, opset {made.opset}; logits within "
        f"{made.max_abs:.2g} of torch, masks {made.mask_iou:.4f}"
    )

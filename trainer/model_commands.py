"""Commands about the models of a workspace: list, compare, choose the teacher, prune the others.

Knows no weights.
"""

import json
from pathlib import Path

import click

from casebook.errors import StateError
from casebook.home import Home
from casebook.registry import PRUNED, ModelCard, Registry
from trainer import comparison
from trainer.lineage import previous_teacher
from trainer.options import home_option, json_option, reason_option
from trainer.retention import KEEP, plan_for
from trainer.retention import prune as prune_models


@click.command()
@home_option
@json_option
def models(home: Path | None, as_json: bool) -> None:
    """List the models of the workspace, oldest first.

    * is the teacher in use; - has no weights left (`trainer prune`).

    Example: trainer models
    """
    registry = Registry(Home.resolve(home))
    cards, promoted = registry.cards(), registry.promoted()
    pruned = {card.model_id for card in cards if (registry.folder(card.model_id) / PRUNED).exists()}
    if as_json:
        entries = [
            {
                **card.model_dump(mode="json"),
                "promoted": card.model_id == promoted,
                "pruned": card.model_id in pruned,
            }
            for card in cards
        ]
        click.echo(json.dumps(entries))
        return
    for card in cards:
        click.echo(
            _model_line(
                card,
                is_promoted=card.model_id == promoted,
                is_pruned=card.model_id in pruned,
            )
        )


@click.command()
@click.option("--model", required=True, help="One model's id …")
@click.option("--other", required=True, help="… and the one it is compared with.")
@click.option(
    "--other-home",
    type=click.Path(path_type=Path),
    help="The other's workspace, when it is another one with the same cases.",
)
@home_option
@json_option
def compare(
    model: str, other: str, other_home: Path | None, home: Path | None, as_json: bool
) -> None:
    """Compare two models on the frozen cases both were scored on, pair by pair.

    Gains are model minus other, with 95 % bootstrap intervals over cases.

    Example: trainer compare --model round-02-1a2b3c4d --other round-01-5e6f7a8b
    """
    place = Home.resolve(home)
    found = comparison.compare(place, model, Home.resolve(other_home or place.root), other)
    if as_json:
        click.echo(found.model_dump_json(indent=1, by_alias=True))
        return
    for row in found.contrasts:
        name = f"{row.figure}, {row.vessel}" if row.vessel else row.figure
        click.echo(
            f"{row.split:5}{name:18} {row.model.mean:.3f} against {row.other.mean:.3f}, gain "
            f"{row.gain.mean:+.3f} [{row.gain.low:+.3f}, {row.gain.high:+.3f}] on {row.gain.n} "
            f"cases: {row.verdict}"
        )


@click.command()
@click.argument("model_id")
@reason_option
@home_option
def promote(model_id: str, reason: str, home: Path | None) -> None:
    """Take a model as the teacher by hand.

    Example: trainer promote round-02-1a2b3c4d --reason "visual review"
    """
    registry = Registry(Home.resolve(home))
    if registry.card(model_id).kind != "teacher":
        raise StateError(f"{model_id} is a {registry.card(model_id).kind}, not a teacher")
    registry.promote(model_id, reason)
    click.echo(f"{model_id} is the teacher now")


@click.command()
@reason_option
@home_option
def rollback(reason: str, home: Path | None) -> None:
    """Go back to the teacher that was in use before the present one.

    Example: trainer rollback --reason "misses the LCX"
    """
    place = Home.resolve(home)
    model_id = previous_teacher(place)
    Registry(place).promote(model_id, f"rollback: {reason}")
    click.echo(f"{model_id} is the teacher again")


@click.command()
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    default=KEEP,
    show_default=True,
    help="The newest teachers and students to keep in any case.",
)
@click.option("--reason", default="", help="Kept in audit.jsonl.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@home_option
@json_option
def prune(keep: int, reason: str, dry_run: bool, home: Path | None, as_json: bool) -> None:
    """Take away the weights of models nobody needs; their cards stay.

    The teacher, student and specialists in use stay, with everything they come from; so do the
    teacher a rollback goes to, what a round under way needs, and the newest.

    Example: trainer prune --keep 3 --dry-run
    """
    place = Home.resolve(home)
    found = plan_for(place, keep) if dry_run else prune_models(place, keep, reason)
    if as_json:
        click.echo(found.model_dump_json())
        return
    verb = "would go" if dry_run else "went"
    for kept in found.kept:
        click.echo(f"stays     {kept.model_id}  {kept.reason}")
    for entry in found.leaving:
        click.echo(f"{verb:9} {entry.model_id}  {entry.kind}, {entry.size_bytes / 1e6:.1f} MB")
    click.echo(f"{len(found.leaving)} models, {found.size_bytes / 1e6:.1f} MB {verb}", err=True)


def _model_line(card: ModelCard, *, is_promoted: bool, is_pruned: bool) -> str:
    mark = "*" if is_promoted else "-" if is_pruned else " "
    figures = "  ".join(f"{name} {value:.3f}" for name, value in sorted(card.figures.items()))
    return f"{mark} {card.model_id}  {card.kind}  {card.architecture}  {figures}".rstrip()

"""`cvatsync comment`, `review` and `propagate`: what is worth a second piece of work."""

from collections.abc import Mapping
from pathlib import Path

import click

from casebook.errors import ConfigError, StateError
from casebook.home import locked
from casebook.rounds import RoundFolder
from cvat_sync.commands.options import (
    Bar,
    answer,
    as_json,
    dry_run,
    in_round,
    show,
    stopping_at_once,
    workspace,
)
from cvat_sync.errands import Errand
from cvat_sync.pushed import need_pushed
from cvat_sync.settings import ExchangeConfig, read_access, read_exchange

collecting = click.option(
    "--collect", "is_collecting", is_flag=True, help="Bring the outcome of completed jobs back."
)
incomplete = click.option(
    "--allow-incomplete", is_flag=True, help="Collect without the jobs that are not completed."
)
forced = click.option(
    "--force",
    is_flag=True,
    help="Collect though the round is trained already, or a label was deleted in CVAT.",
)


@click.command()
@in_round
@dry_run
@as_json
def comment(number: int, home: Path | None, conf: Path, dry_run: bool, as_json: bool) -> None:
    """Tell annotators what is odd about finished masks, as issues on the frames in CVAT.

    Masks in several pieces, specks, little agreement with the proposal, proposals that were
    deleted, vessels that cannot be measured. Each is told once; limits are in cvat.yaml.

    Example: cvatsync comment --round 2 --dry-run
    """
    folder = RoundFolder(workspace(home), number)
    pushed = need_pushed(folder)
    config, access = read_exchange(conf), read_access()
    from cvat_sync.comment import post
    from cvat_sync.gateway import CvatGateway, retrying
    from cvat_sync.quality import plan_quality

    with (
        stopping_at_once(f"the comment on round {number:02d}"),
        locked(folder.file(".comment.lock"), f"a comment on round {number:02d}"),
        CvatGateway(access) as gateway,
    ):
        plan = plan_quality(folder, pushed, gateway, gateway, config)
        answer(plan, plan.lines(), as_json)
        if not dry_run:
            click.echo(f"{post(plan, gateway, retrying)} comments posted", err=True)


@click.command()
@in_round
@dry_run
@as_json
@collecting
@incomplete
@forced
def review(
    number: int,
    home: Path | None,
    conf: Path,
    dry_run: bool,
    as_json: bool,
    is_collecting: bool,
    allow_incomplete: bool,
    force: bool,
) -> None:
    """Send the frames where expert and model disagree most back to CVAT for a second look.

    They become tasks of their own, with the expert's masks and the reason on each frame. With
    --collect what was changed there replaces the round's annotations of those frames.

    Example: cvatsync review --round 2
    """
    folder = RoundFolder(workspace(home), number)
    config = read_exchange(conf)
    from cvat_sync.review import KIND, keep_review, plan_review

    _check_options(is_collecting, {"--dry-run": dry_run}, allow_incomplete, force)
    if is_collecting:
        _collect(folder, KIND, config, as_json, allow_incomplete, force)
        return
    need_pushed(folder)
    errand = plan_review(folder, config.quality, config.frames_per_task)
    if dry_run:
        answer(errand, errand.lines(), as_json)
        return
    with locked(folder.file(f".{KIND}.lock"), f"a review of round {number:02d}"):
        keep_review(folder, errand)
        _send(folder, KIND, config, as_json)


@click.command()
@in_round
@dry_run
@as_json
@click.option("--case", "cases", multiple=True, help="Only this case; may be repeated.")
@collecting
@incomplete
@forced
def propagate(
    number: int,
    home: Path | None,
    conf: Path,
    dry_run: bool,
    as_json: bool,
    cases: tuple[str, ...],
    is_collecting: bool,
    allow_incomplete: bool,
    force: bool,
) -> None:
    """Carry the corrected masks of a round through their cines, for experts to look at in CVAT.

    A worker follows each mask forward and back until it is lost; each cine becomes a task whose
    frames are the run in order. With --collect the reviewed frames join the round's annotations.

    Example: cvatsync propagate --round 2 --case case-0001
    """
    folder = RoundFolder(workspace(home), number)
    config = read_exchange(conf)
    from cvat_sync.propagate import KIND, TRACKED, keep_cines, plan_cines

    sending = {"--dry-run": dry_run, "--case": bool(cases)}
    _check_options(is_collecting, sending, allow_incomplete, force)
    if is_collecting:
        _collect(folder, KIND, config, as_json, allow_incomplete, force)
        return
    need_pushed(folder)
    folder.need("annotations.coco.json", f"Run `cvatsync pull --round {number}` first.")
    if not folder.has(TRACKED):
        from cvat_sync.dispatch import PROPAGATION, Asking, request

        if dry_run:
            asking = Asking(round=number, steps=tuple(PROPAGATION))
            answer(asking, asking.lines(), as_json)
            return
        read_access()
        with stopping_at_once(f"the propagation of round {number:02d}"):
            request(folder, PROPAGATION, conf, show)
    errand, given = plan_cines(folder, cases)
    if dry_run:
        answer(errand, errand.lines(), as_json)
        return
    with locked(folder.file(f".{KIND}.lock"), f"a propagation of round {number:02d}"):
        keep_cines(folder, errand, given)
        _send(folder, KIND, config, as_json)


def _check_options(
    is_collecting: bool, sending: Mapping[str, bool], allow_incomplete: bool, force: bool
) -> None:
    """Refuse an option that would be passed over.

    Raises:
        ConfigError: an option of sending with --collect, or one of collecting without.
    """
    collecting = {"--allow-incomplete": allow_incomplete, "--force": force}
    strange = [
        name for name, is_set in (sending if is_collecting else collecting).items() if is_set
    ]
    if strange:
        side, advice = ("with", "give one") if is_collecting else ("without", "give both or none")
        raise ConfigError(
            f"{' and '.join(strange)} would be passed over {side} --collect, which brings the "
            f"outcome back; {advice}"
        )


def _send(folder: RoundFolder, kind: str, config: ExchangeConfig, as_json: bool) -> None:
    access = read_access()
    from cvat_sync.comment import post
    from cvat_sync.errands import send
    from cvat_sync.gateway import CvatGateway, retrying
    from cvat_sync.quality import plan_reasons

    errand = _kept(folder, kind)
    bar = Bar(kind)
    try:
        with (
            stopping_at_once(f"the {kind} of round {folder.number:02d}"),
            CvatGateway(access) as gateway,
        ):
            sent = send(folder, errand, gateway, url=access.url, retrying=retrying, progress=bar)
            post(plan_reasons(folder, sent, gateway, gateway, config.parallel), gateway, retrying)
    finally:
        bar.close()
    answer(sent, sent.lines(), as_json)


def _collect(
    folder: RoundFolder,
    kind: str,
    config: ExchangeConfig,
    as_json: bool,
    allow_incomplete: bool,
    force: bool,
) -> None:
    errand, access = _kept(folder, kind), read_access()
    from cvat_sync.collecting import collect
    from cvat_sync.gateway import CvatGateway

    with (
        stopping_at_once(f"the {kind} of round {folder.number:02d}"),
        locked(folder.file(".pull.lock"), f"a pull of round {folder.number:02d}"),
        CvatGateway(access) as gateway,
    ):
        found = collect(
            folder,
            errand,
            gateway,
            parallel=config.parallel,
            allow_incomplete=allow_incomplete,
            force=force,
        )
    answer(found, found.lines(), as_json)


def _kept(folder: RoundFolder, kind: str) -> Errand:
    from cvat_sync.errands import kept

    errand = kept(folder, kind)
    if errand is None:
        verb = "propagate" if kind == "cines" else kind
        raise StateError(
            f"round {folder.number:02d} has no {kind} to collect; send one with "
            f"`cvatsync {verb} --round {folder.number}` first"
        )
    return errand

"""`cvatsync watch`: the service that pulls a round when it is annotated, and has it trained."""

import logging
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from casebook.errors import ConfigError
from casebook.home import locked
from cvat_sync.commands.options import STOPPED_EXIT, any_round, in_home, with_conf, workspace
from cvat_sync.deliveries import Inbox, read_secret
from cvat_sync.pushed import need_pushed
from cvat_sync.settings import read_access, read_exchange

if TYPE_CHECKING:  # it loads the queue's library, which showing help does not need
    from cvat_sync.watch import Place

PORT = 8070


@click.command()
@any_round
@in_home
@with_conf
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=PORT,
    show_default=True,
    help="0 picks a free port.",
)
@click.option(
    "--poll",
    "poll_s",
    type=click.FloatRange(min=0.1),
    help="Ask CVAT every so many seconds, and take no deliveries: for when CVAT cannot reach us.",
)
@click.option(
    "--register",
    "address",
    metavar="ADDRESS",
    help="Make or correct the webhook in CVAT first, for instance https://lab:8070/cvat.",
)
def watch(
    number: int | None,
    home: Path | None,
    conf: Path,
    host: str,
    port: int,
    poll_s: float | None,
    address: str | None,
) -> None:
    """Pull a round as soon as it is annotated in CVAT, then have it trained.

    CVAT's webhook sends to /cvat, signed with ANGIOLOOP_WEBHOOK_SECRET; /healthz tells how the
    round stands. Watches the last round that was pushed, or the one of --round. A watch that was
    killed goes on where it was.

    Example: cvatsync watch --host 0.0.0.0 --port 8070
    """
    if poll_s is not None and address is not None:
        raise ConfigError("--poll takes no deliveries and --register asks for them; give one")
    from cvat_sync.watch import Place

    place = Place(workspace(home), conf, read_exchange(conf), number)
    secret = None if poll_s is not None else read_secret()
    read_access()
    try:
        with locked(place.home.root / "watch" / ".lock", "a watch of this workspace"):
            if address is not None and secret is not None:
                _register(place, address, secret)
            _serve(place, host, port, poll_s, secret)
    except KeyboardInterrupt:
        click.echo("the watch is stopped; what was begun goes on at its next start", err=True)
        sys.exit(STOPPED_EXIT)


def _register(place: "Place", address: str, secret: str) -> None:
    from cvat_sync.gateway import CvatGateway
    from cvat_sync.watch import watched
    from cvat_sync.webhooks import register

    folder = watched(place.home, place.number)
    if folder is None:
        raise ConfigError("no round is pushed yet; push one, then register its project's webhook")
    pushed = need_pushed(folder)
    with CvatGateway(read_access()) as gateway:
        made = register(gateway, pushed.project_id, address, secret)
    click.echo(f"webhook {made.id} of project {pushed.project_id} sends to {address}", err=True)


def _serve(place: "Place", host: str, port: int, poll_s: float | None, secret: str | None) -> None:
    import uvicorn

    from cvat_sync.gateway import CvatGateway
    from cvat_sync.receiver import PATH, create_app
    from cvat_sync.watch import SAFETY_S, Watch, tasks_by_project

    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    inbox = None
    if secret is not None:
        inbox = Inbox(
            place.home.root / "watch" / "deliveries.jsonl",
            secret,
            lambda: tasks_by_project(place.home, place.number),
            window_s=place.config.watch.window_s,
        )
    watch_ = Watch(
        place,
        # Logged in anew for each look: a token that was renewed is read again.
        lambda: CvatGateway(read_access()),
        poll_s=poll_s if poll_s is not None else SAFETY_S,
    )
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as problem:
            raise ConfigError(
                f"cannot listen on {host}:{port} ({problem.strerror}); give another --port"
            ) from None
        listener.listen(64)
        bound = listener.getsockname()[1]
        how = f"deliveries to {PATH}" if inbox else f"every {poll_s:g} s"
        click.echo(f"watching, {how}, health at http://{host}:{bound}/healthz", err=True)
        watch_.start()
        config = uvicorn.Config(
            create_app(watch_, inbox),
            loop="asyncio",  # the same loop and parser wherever it runs: as tested
            http="h11",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=3,
        )
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            watch_.stop()

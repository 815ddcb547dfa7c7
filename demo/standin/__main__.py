"""The command that runs the stand-in server: `python -m demo.standin`."""

import logging
import os
import signal
import socket
from pathlib import Path

import click
import uvicorn

from demo.standin.app import NAME, Settings, create_app
from demo.standin.functions import KINDS, Function, function_from_yaml


def _pair(text: str, separator: str, what: str) -> tuple[str, str]:
    left, found, right = text.partition(separator)
    if not found or not left or not right:
        raise click.BadParameter(f"{text!r}: expected {what}")
    return left, right


def read_functions(urls: tuple[str, ...], yamls: tuple[str, ...]) -> tuple[Function, ...]:
    """Functions from `NAME=URL` options, described by `NAME=function.yaml` where given.

    Without a yaml the kind is the word (interactor, detector, tracker) the name ends in.
    """
    described = dict(_pair(text, "=", "NAME=PATH") for text in yamls)
    found = []
    for text in urls:
        name, url = _pair(text, "=", "NAME=URL")
        if name in described:
            found.append(function_from_yaml(Path(described[name]), url))
            continue
        kind = next((kind for kind in KINDS if name.endswith(kind)), None)
        if kind is None:
            raise click.BadParameter(f"{name!r}: expected a name that ends in {', '.join(KINDS)}")
        notes = {"type": kind, "version": "2"}
        if kind == "interactor":
            notes |= {"startswith_box": "true", "startswith_box_optional": "true"}
        found.append(Function(name, kind, url, notes, f"{kind} at {url}"))
    return tuple(found)


def listening(host: str, port: int) -> socket.socket:
    """A socket that waits for clients at an address.

    Its protocol is named: without, asyncio leaves Nagle's algorithm on, which holds the second
    half of most answers back for 40 ms.

    Raises:
        click.ClickException: the address is taken, or not ours.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from None
    listener.listen(128)
    return listener


@click.command(
    help=f"""{NAME}: an HTTP server that cvat-sdk logs into.

    Example: python -m demo.standin --port 0 --data ./standin --port-file ./standin/port
    --user expert:secret --function interactor=http://127.0.0.1:8101
    """
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True, help="0 picks a free port.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Kept between runs.")
@click.option("--port-file", type=click.Path(path_type=Path), help="The port is written here.")
@click.option("--user", "users", multiple=True, help="NAME:PASSWORD; the first is superuser.")
@click.option(
    "--token",
    envvar="ANGIOLOOP_STANDIN_TOKEN",
    help="A personal access token of the first user; else $ANGIOLOOP_STANDIN_TOKEN.",
)
@click.option("--function", "urls", multiple=True, help="NAME=URL of a running function.")
@click.option("--function-yaml", "yamls", multiple=True, help="NAME=PATH of its function.yaml.")
@click.option("--latency-ms", default=0.0, show_default=True, help="Added to each request.")
@click.option("--work-ms", default=0.0, show_default=True, help="Of each background job.")
@click.option("--fault-rate", default=0.0, show_default=True, help="Fraction of failed requests.")
@click.option("--hang-rate", default=0.0, show_default=True, help="Fraction never answered.")
@click.option("--fault-seed", default=0, show_default=True)
@click.option(
    "--certificate", type=click.Path(path_type=Path), help="PEM file: serve HTTPS with it."
)
@click.option("--private-key", type=click.Path(path_type=Path), help="PEM file of its key.")
@click.option(
    "--webhook-disorder",
    default=0.0,
    show_default=True,
    help="Fraction of webhook deliveries sent twice, and too late.",
)
@click.option("--function-timeout-s", default=120.0, show_default=True)
def main(
    host: str,
    port: int,
    data: Path,
    port_file: Path | None,
    users: tuple[str, ...],
    token: str | None,
    urls: tuple[str, ...],
    yamls: tuple[str, ...],
    latency_ms: float,
    work_ms: float,
    fault_rate: float,
    hang_rate: float,
    fault_seed: int,
    certificate: Path | None,
    private_key: Path | None,
    webhook_disorder: float,
    function_timeout_s: float,
) -> None:
    """Serve until interrupted, then close what is open."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    defaults = Settings(data)
    settings = Settings(
        data_dir=data,
        users=tuple(_pair(user, ":", "NAME:PASSWORD") for user in users) or defaults.users,
        token=token,
        functions=read_functions(urls, yamls),
        function_timeout_s=function_timeout_s,
        latency_ms=latency_ms,
        work_ms=work_ms,
        fault_rate=fault_rate,
        hang_rate=hang_rate,
        fault_seed=fault_seed,
        webhook_disorder=webhook_disorder,
    )
    listener = listening(host, port)
    bound = int(listener.getsockname()[1])

    def announce() -> None:
        scheme = "http" if certificate is None else "https"
        click.echo(f"{NAME} at {scheme}://{host}:{bound}", err=True)
        if port_file is not None:
            port_file.parent.mkdir(parents=True, exist_ok=True)
            partial = port_file.with_name(f"{port_file.name}.{os.getpid()}")
            partial.write_text(f"{bound}\n")
            partial.replace(port_file)

    def stop(*_: object) -> None:
        raise SystemExit(0)

    # uvicorn closes in order, then raises the signal again for the handler it found here.
    signal.signal(signal.SIGTERM, stop)
    config = uvicorn.Config(
        create_app(settings, announce),
        log_level="warning",
        server_header=False,
        headers=[("Server", "angioloop-standin")],
        timeout_graceful_shutdown=3,
        ssl_certfile=certificate,
        ssl_keyfile=private_key,
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        if port_file is not None:
            port_file.unlink(missing_ok=True)


if __name__ == "__main__":
    main()

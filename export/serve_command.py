"""`angioinfer serve`: the student behind a small HTTP API on this machine."""

import ipaddress
import os
import socket
from pathlib import Path

import click

from casebook.errors import ConfigError
from export.options import (
    bundle_folder,
    bundle_option,
    checked_bundle,
    key_option,
    precision_option,
    provider_option,
    threads_option,
)
from export.precision import Precision
from export.runtime import load_released

TOKEN = "ANGIOINFER_TOKEN"  # noqa: S105 - the variable's name
_MB = 2**20


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def token_for(host: str, *, is_open: bool) -> str | None:
    """The token callers must send, from the environment.

    Raises:
        ConfigError: others can reach the address, and there is no token or a short one.
    """
    token = os.environ.get(TOKEN) or None
    if token is not None and len(token) < 16:
        raise ConfigError(f"{TOKEN} has {len(token)} characters; expected 16 or more; make it long")
    if token is None and not is_local(host) and not is_open:
        raise ConfigError(
            f"--host {host} can be reached by others and {TOKEN} is not set; set it, or pass "
            "--no-token where a firewall or a proxy decides who may ask"
        )
    return token


@click.command(epilog="Example: angioinfer serve --port 8070")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8070, show_default=True)
@click.option("--no-token", "is_open", is_flag=True, help="Let everybody who reaches it ask.")
@click.option("--max-mb", type=click.IntRange(min=1), default=256, show_default=True,
              help="Largest body.")  # fmt: skip
@bundle_option
@key_option
@threads_option
@provider_option
@precision_option
def serve(
    host: str,
    port: int,
    is_open: bool,
    max_mb: int,
    bundle: Path | None,
    key: Path | None,
    threads: int | None,
    provider: str | None,
    precision: Precision | None,
) -> None:
    """Answer CVAT's interactor and whole DICOM files over HTTP; the API is described at /docs.

    Callers send the token of ANGIOINFER_TOKEN, when it is set, as Authorization: Bearer TOKEN.
    """
    try:
        import uvicorn

        from export.service import Rules, create_app
    except ImportError as problem:
        raise ConfigError(
            f"{problem.name} is not installed; `pip install angioloop[infer,http]` brings it"
        ) from None
    token = token_for(host, is_open=is_open)
    folder = bundle_folder(bundle)
    manifest = checked_bundle(folder, key)
    segmenter, graphs = load_released(folder, manifest, threads, provider, precision)
    app = create_app(
        segmenter,
        manifest,
        graphs,
        Rules(token=token, max_body_bytes=max_mb * _MB),
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        if os.name == "posix":  # elsewhere it would let two programs share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen()
        except OSError as problem:
            raise ConfigError(
                f"{host}:{port} cannot be listened on ({problem.strerror}); give another --port"
            ) from None
        click.echo(
            f"{manifest.version} on http://{host}:{listener.getsockname()[1]}/ (docs: /docs)"
        )
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                loop="asyncio",  # the same loop and parser wherever it runs: as tested
                http="h11",
                limit_concurrency=32,
                server_header=False,
                log_level="info",
            )
        )
        server.run(sockets=[listener])

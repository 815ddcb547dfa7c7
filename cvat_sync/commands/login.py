"""`cvatsync login` and `logout`: a token in the keyring of the operating system."""

import click

from cvat_sync.credentials import forget_token, store_token
from cvat_sync.settings import read_access, read_address


@click.command()
@click.option(
    "--token",
    prompt="Personal access token (CVAT: your name, Profile, Access tokens)",
    hide_input=True,
    help="Asked for when not given; a command line is seen by others.",
)
def login(token: str) -> None:
    """Keep a personal access token in the keyring, once CVAT has accepted it.

    Example: cvatsync login
    """
    url = read_address()
    from cvat_sync.gateway import CvatGateway

    with CvatGateway(read_access(token.strip())) as gateway:
        who = gateway.about()
    store_token(url, token.strip())
    click.echo(f"the keyring holds a token for {url}: {who}")


@click.command()
def logout() -> None:
    """Remove the token from the keyring.

    Example: cvatsync logout
    """
    url = read_address()
    there = forget_token(url)
    click.echo(f"the keyring holds {'no' if not there else 'no longer a'} token for {url}")

"""`angioinfer releases`, `release`, `rollback`, `sign`: the student in use, and whose it is.

Before another student is taken its bundle is found whole and within its gates.
"""

import json
from pathlib import Path

import click

from casebook.documents import read_lines
from casebook.errors import ConfigError, ModelError, StateError
from casebook.home import AuditEntry, Home
from casebook.registry import Registry
from export.bundle import MANIFEST, read_bundle
from export.options import checked_bundle, json_option, key_option
from export.signature import make_key, read_key
from export.signature import sign as sign_bundle

_home = click.option("--home", type=click.Path(path_type=Path), help="The workspace.")
_reason = click.option("--reason", required=True, help="Kept in audit.jsonl.")


def previous_release(home: Home) -> str:
    """The student that was in use before the present one, by the audit log.

    Raises:
        StateError: there was none.
    """
    current = Registry(home).released()
    used: list[str] = []
    for entry in read_lines(home.root / "audit.jsonl", AuditEntry):
        if entry.action != "release":
            continue
        if entry.subject in used:  # released again, as by a rollback: what came after is undone
            del used[used.index(entry.subject) + 1 :]
        else:
            used.append(entry.subject)
    if current not in used or used.index(current) == 0:
        raise StateError(
            f"no student was in use before {current or 'none'}; `angioinfer releases` lists what "
            "there is, `angioinfer release VERSION --reason TEXT` takes one"
        )
    return used[used.index(current) - 1]


def _take(home: Home, version: str, reason: str, key: Path | None) -> None:
    """Point to another bundle.

    Raises:
        ModelError: it is not there, damaged, not signed with the key, or outside its gates.
    """
    registry = Registry(home)
    registry.folder(version)  # refuses what is no id
    bundle = checked_bundle(home.models / "released" / version, key)
    failures = bundle.gates.failures()
    if failures:
        raise ModelError(f"{version} is outside its gates: {'; '.join(failures)}; distil it again")
    registry.release(version, reason)


@click.command(epilog="Example: angioinfer releases --json")
@_home
@json_option
def releases(home: Path | None, as_json: bool) -> None:
    """List the bundles of the workspace, oldest first; * is the student in use."""
    place = Home.resolve(home)
    current = Registry(place).released()
    entries = []
    for path in sorted((place.models / "released").glob(f"*/{MANIFEST}")):
        try:
            bundle = read_bundle(path.parent)
        except ModelError as damage:
            entries.append(("", path.parent.name, str(damage)))
            continue
        entries.append(
            (bundle.created.isoformat(), bundle.version, "; ".join(bundle.gates.failures()))
        )
    for created, version, wrong in sorted(entries):
        line = {"version": version, "created": created, "problem": wrong}
        if as_json:
            click.echo(json.dumps({**line, "released": version == current}))
        else:
            mark = "*" if version == current else " "
            click.echo(f"{mark} {version}  {created[:19]}  {wrong or 'within its gates'}")


@click.command(epilog='Example: angioinfer release student-r03-1a2b3c4d --reason "visual review"')
@click.argument("version")
@_reason
@key_option
@_home
def release(version: str, reason: str, key: Path | None, home: Path | None) -> None:
    """Take a bundle of the workspace as the student in use."""
    _take(Home.resolve(home), version, reason, key)
    click.echo(f"{version} is the student now")


@click.command(epilog='Example: angioinfer rollback --reason "misses the LCX"')
@_reason
@key_option
@_home
def rollback(reason: str, key: Path | None, home: Path | None) -> None:
    """Go back to the student that was in use before the present one."""
    place = Home.resolve(home)
    version = previous_release(place)
    _take(place, version, f"rollback: {reason}", key)
    click.echo(f"{version} is the student now")


@click.command(
    epilog="Example: angioinfer sign models/released/student-r03-1a2b3c4d --key site.key"
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--key", required=True, type=click.Path(path_type=Path), help="File of the key both sides have."
)
@click.option("--new-key", is_flag=True, help="Make the key first.")
def sign(bundle: Path, key: Path, new_key: bool) -> None:
    """Sign a whole bundle (HMAC-SHA-256): `verify`, `run` and `serve` check it with --key."""
    manifest = read_bundle(bundle)
    if new_key:
        make_key(key)
    elif not key.is_file():
        raise ConfigError(f"key {key} is not there; correct --key, or make one with --new-key")
    sign_bundle(bundle, read_key(key))
    click.echo(f"{manifest.version} is signed; give the key to the site by another way")

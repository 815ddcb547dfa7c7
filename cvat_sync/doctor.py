"""Whether CVAT can be used with this workspace: each thing looked at, and what to do about it."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Literal

from pydantic import Field

from casebook.documents import Document
from casebook.embedded import worker_alive
from casebook.errors import AngioloopError, ConfigError
from casebook.home import Home
from casebook.labels import LabelSet
from casebook.rounds import RoundFolder
from cvat_sync.labels import label_specs
from cvat_sync.plan import project_key
from cvat_sync.pushed import need_pushed
from cvat_sync.remote import Gateway
from cvat_sync.rest import Answer, Rest, listed, parsed, unpaged
from cvat_sync.settings import ORGANISATION_VARIABLE, read_access
from cvat_sync.webhooks import ours, ping

Level = Literal["ok", "warn", "fail"]
TRIED = (2, 73)
"""The server's version all this was seen on."""
_KINDS = ("interactor", "detector", "tracker")


class Finding(Document):
    """One thing the doctor looked at."""

    what: str
    level: Level
    text: str
    """What was found, and what to do unless it is well."""


class Diagnosis(Document):
    """Everything the doctor looked at."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    findings: tuple[Finding, ...]

    @property
    def is_well(self) -> bool:
        """Whether nothing failed; a warning is no failure."""
        return all(finding.level != "fail" for finding in self.findings)

    def lines(self) -> tuple[str, ...]:
        """A line for each finding."""
        return tuple(f"{one.level:4} {one.what}: {one.text}" for one in self.findings)


class _About(Answer):
    name: str
    version: str


class _User(Answer):
    username: str
    is_superuser: bool = False


class _Organisation(Answer):
    slug: str


class _Function(Answer):
    id: str
    kind: str


class _Attribute(Answer):
    name: str
    input_type: str


class _Label(Answer):
    name: str
    type: str
    attributes: tuple[_Attribute, ...] = ()


Check = Callable[[], tuple[Level, str]]


def look(what: str, check: Check) -> Finding:
    """One finding; what the check raises is a failure in its own words."""
    try:
        level, text = check()
    except AngioloopError as problem:
        return Finding(what=what, level="fail", text=str(problem))
    return Finding(what=what, level=level, text=text)


def check_settings() -> Finding:
    """Whether the environment names a server and credentials."""

    def check() -> tuple[Level, str]:
        access = read_access()
        kind = "a token" if access.token is not None else f"user {access.user}"
        if access.url.startswith("http://"):
            return "warn", f"{access.url} with {kind}, unencrypted; use https outside one machine"
        return "ok", f"{access.url} with {kind}"

    return look("settings", check)


def check_server(rest: Rest) -> Finding:
    """Whether the server answers, and in a version this was tried with."""

    def check() -> tuple[Level, str]:
        about = parsed("about", rest.read("about", "/api/server/about"), _About)
        text = f"{about.name} {about.version}, cvat-sdk {version('cvat-sdk')}"
        number = about.version.split(".")[:2]
        is_number = len(number) == 2 and all(part.isdigit() for part in number)
        if not is_number or (int(number[0]), int(number[1])) < TRIED:
            tried = ".".join(map(str, TRIED))
            return "warn", f"{text}; tried with {tried} and later. Bring CVAT up to date"
        return "ok", text

    return look("server", check)


def check_account(rest: Rest) -> Finding:
    """Who we are there."""

    def check() -> tuple[Level, str]:
        me = parsed("who am I", rest.read("who am I", "/api/users/self"), _User)
        return "ok", f"{me.username}{', a superuser' if me.is_superuser else ''}"

    return look("account", check)


def check_organisation(rest: Rest, wanted: str | None) -> Finding:
    """Whether we belong to the organisation the settings name."""

    def check() -> tuple[Level, str]:
        if wanted is None:
            return "ok", "none: the personal workspace"
        found = listed(rest, "list organisations", "/api/organizations", _Organisation)
        slugs = sorted(one.slug for one in found)
        if wanted not in slugs:
            known = ", ".join(slugs) or "none"
            return "fail", (
                f"{wanted} is not among those of this user ({known}); correct "
                f"{ORGANISATION_VARIABLE}, or have the user invited"
            )
        return "ok", wanted

    return look("organisation", check)


def check_functions(rest: Rest) -> Finding:
    """Whether CVAT lists serverless functions for annotators."""

    def check() -> tuple[Level, str]:
        payload = rest.read("list functions", "/api/lambda/functions")
        found = unpaged("list functions", payload, _Function)
        names = ", ".join(f"{one.id} ({one.kind})" for one in found) or "none"
        lacking = [kind for kind in _KINDS if kind not in {one.kind for one in found}]
        if lacking:
            return "warn", f"{names}; annotators have no {', no '.join(lacking)}. Run `make deploy`"
        return "ok", names

    return look("functions", check)


def check_project(folder: RoundFolder, gateway: Gateway, rest: Rest) -> Finding:
    """Whether the round's project has the labels and attributes of the schema."""

    def check() -> tuple[Level, str]:
        labels = folder.manifest().labels
        project_id = _project_id(folder, gateway, labels)
        if project_id is None:
            return "ok", "not made yet; the first push makes it"
        path = f"/api/labels?project_id={project_id}"
        missing, wrong, poor = _compare(labels, listed(rest, "list labels", path, _Label))
        where = f"project {project_id}"
        if wrong:
            found = f"{where} has {', '.join(wrong)}"
            return "fail", f"{found}; set their type to `any` on the project's page"
        is_pushed = folder.has("pushed.json")
        adds = "the next round's push adds them" if is_pushed else "the push adds them"
        if missing:
            found = f"{where} lacks {', '.join(missing)}; {adds}"
            also = ", or do so on the project's page" if is_pushed else ""
            return "fail" if is_pushed else "warn", found + also
        if poor:
            text = f"{where}: labels without the attributes {', '.join(poor)}"
            return "warn", f"{text}, whose values are not shown; {adds}"
        return "ok", f"{where}, {len(labels.labels)} labels"

    return look("labels", check)


def _project_id(folder: RoundFolder, gateway: Gateway, labels: LabelSet) -> int | None:
    if folder.has("pushed.json"):
        return need_pushed(folder).project_id
    keyed = [one.id for one in gateway.projects() if _is_ours(one.key, labels)]
    return min(keyed) if keyed else None


def _compare(labels: LabelSet, there: Sequence[_Label]) -> tuple[list[str], list[str], list[str]]:
    """Names missing, labels of a wrong type, attributes missing or of a wrong type."""
    known = {label.name: label for label in there}
    missing, wrong, poor = [], [], []
    for spec in label_specs(labels):
        wanted = _Label.model_validate(spec)
        found = known.get(wanted.name)
        if found is None:
            missing.append(wanted.name)
            continue
        if found.type not in {wanted.type, "any"}:
            wrong.append(f"{wanted.name} as {found.type} instead of {wanted.type}")
        types = {entry.name: entry.input_type for entry in found.attributes}
        poor += [
            f"{wanted.name}/{entry.name}"
            for entry in wanted.attributes
            if types.get(entry.name) != entry.input_type
        ]
    return missing, wrong, poor


def check_webhook(folder: RoundFolder, rest: Rest) -> Finding:
    """Whether a watch is told of finished jobs, tried by a delivery."""

    def check() -> tuple[Level, str]:
        if not folder.has("pushed.json"):
            return "ok", "none yet; a round is pushed first"
        project_id = need_pushed(folder).project_id
        found = ours(rest, project_id)
        if not found:
            return "warn", (
                f"project {project_id} has none; run `cvatsync watch --register ADDRESS`, or "
                "`cvatsync watch --poll 60`, or pull by hand"
            )
        webhook = found[0]
        if not webhook.is_active:
            return "fail", f"{webhook.target_url} is switched off; switch it on in CVAT"
        answer = ping(rest, webhook)
        if not answer.is_well:
            return "fail", (
                f"{webhook.target_url} answered a ping with {answer.status}; expected 200. "
                "Is `cvatsync watch` running there, reachable from CVAT, with the same secret?"
            )
        return "ok", f"{webhook.target_url} answers"

    return look("webhook", check)


def check_worker(home: Home) -> Finding:
    """Who would make proposals and train."""
    if not home.embedded:
        return Finding(what="worker", level="ok", text="a broker of your own")
    text = "embedded, running" if worker_alive(home) else "embedded, started when needed"
    return Finding(what="worker", level="ok", text=text)


def check_workspace(home: Home) -> Finding:
    """Whether the workspace is there and can be written."""

    def check() -> tuple[Level, str]:
        if not home.root.is_dir():
            return "fail", f"{home.root} is not there; import cases first, or give --home"
        try:
            home.queue.mkdir(parents=True, exist_ok=True)
            probe = home.queue / ".doctor"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as problem:
            raise ConfigError(
                f"{home.root} cannot be written ({problem.strerror}); give this user the right to"
            ) from None
        return "ok", str(home.root)

    return look("workspace", check)


def examine(
    home: Home,
    folder: RoundFolder | None,
    gateway: Gateway,
    rest: Rest,
    organisation: str | None = None,
) -> tuple[Finding, ...]:
    """What can be looked at with a server that may or may not answer."""
    server = check_server(rest)
    found = [server]
    if server.level != "fail":
        found.append(check_account(rest))
    if found[-1].level != "fail":
        found += [check_organisation(rest, organisation), check_functions(rest)]
        if folder is not None:
            found += [check_project(folder, gateway, rest), check_webhook(folder, rest)]
    return (*found, check_worker(home), check_workspace(home))


def _is_ours(key: str, labels: LabelSet) -> bool:
    """Whether a project's key is of a label set, under its own name or one from cvat.yaml."""
    ours = project_key(labels)
    return key == ours or key.startswith(f"{ours}:")

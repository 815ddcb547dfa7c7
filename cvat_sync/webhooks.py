"""The webhook of a project in CVAT that tells a watch of finished jobs.

Knows CVAT's field names; knows nothing of what a delivery leads to.
"""

from urllib.parse import urlsplit

from casebook.documents import Document
from casebook.errors import ConfigError
from cvat_sync.rest import Answer, Rest, listed, parsed

DESCRIPTION = "cvatsync watch"
"""How a webhook of ours is found again; its address may be anything."""
_EVENTS = ("update:job",)
_OK = range(200, 300)


class Webhook(Answer):
    """A webhook of a project."""

    id: int
    target_url: str
    description: str = ""
    is_active: bool = True
    events: tuple[str, ...] = ()


class _Ping(Answer):
    status_code: int | None = None
    response: str = ""


class Ping(Document):
    """What came of a delivery made to see whether it arrives."""

    status: int
    """HTTP status of the receiver; 502 when CVAT could not connect, 504 without an answer."""

    @property
    def is_well(self) -> bool:
        """Whether the receiver took it."""
        return self.status in _OK


def ours(rest: Rest, project_id: int) -> tuple[Webhook, ...]:
    """Our webhooks of a project, by id."""
    found = listed(
        rest, "list webhooks", f"/api/webhooks?type=project&project_id={project_id}", Webhook
    )
    mine = [webhook for webhook in found if webhook.description == DESCRIPTION]
    return tuple(sorted(mine, key=lambda webhook: webhook.id))


def register(rest: Rest, project_id: int, url: str, secret: str) -> Webhook:
    """Our webhook of a project, made or brought to this address and secret.

    Raises:
        ConfigError: the address is not one CVAT could send to.
        RemoteError: CVAT refused; a local address needs CVAT's SMOKESCREEN_OPTS.
    """
    parts = urlsplit(url)
    is_address = parts.scheme in {"http", "https"} and bool(parts.hostname)
    if not is_address or parts.path in {"", "/"}:
        raise ConfigError(
            f"--register {url!r}; expected an address with the path deliveries are taken at, "
            "such as https://lab:8070/cvat"
        )
    spec: dict[str, object] = {
        "target_url": url,
        "description": DESCRIPTION,
        "type": "project",
        "content_type": "application/json",
        "secret": secret,
        "is_active": True,
        "enable_ssl": parts.scheme == "https",
        "project_id": project_id,
        "events": list(_EVENTS),
    }
    known = ours(rest, project_id)
    what = f"register the webhook of project {project_id}"
    if known:
        return parsed(what, rest.send(what, "PATCH", f"/api/webhooks/{known[0].id}", spec), Webhook)
    return parsed(what, rest.send(what, "POST", "/api/webhooks", spec), Webhook)


def ping(rest: Rest, webhook: Webhook) -> Ping:
    """Let CVAT send a delivery now, and say what came of it."""
    what = f"ping webhook {webhook.id}"
    answer = parsed(what, rest.send(what, "POST", f"/api/webhooks/{webhook.id}/ping", {}), _Ping)
    return Ping(status=answer.status_code or 0)

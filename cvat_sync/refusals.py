"""What a server's refusal means: CVAT's status and body as an error that says what to do.

Knows HTTP's statuses; knows neither the SDK nor what was asked.
"""

from collections.abc import Collection, Mapping
from http import HTTPStatus

from casebook.errors import AccessError, RemoteError, UnreachableError

_SHOWN = 200
_DENIED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


def refusal(
    what: str,
    url: str,
    status: int,
    body: object,
    headers: Mapping[str, str],
    transient: Collection[int],
) -> RemoteError:
    """A server's refusal in our words.

    Args:
        what: What was asked, for the message.
        url: The server's address.
        status: HTTP's.
        body: What the server said, as bytes or text.
        headers: Of its answer.
        transient: Statuses after which trying again may help.
    """
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")
    said = " ".join(text.split())[:_SHOWN]
    if status in _DENIED or "Unable to log in" in said:
        return AccessError(
            f"{what}: CVAT at {url} refused the credentials ({status}); check "
            "ANGIOLOOP_CVAT_TOKEN, or ANGIOLOOP_CVAT_USER and ANGIOLOOP_CVAT_PASSWORD, or "
            "`cvatsync login` again; what was done so far is kept"
        )
    if status in transient:
        return UnreachableError(f"{what}: CVAT at {url} is busy ({status}); try again")
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return RemoteError(
            f"{what}: {url} answered {status}, which sends on to "
            f"{headers.get('Location') or 'nowhere'}; set ANGIOLOOP_CVAT_URL to CVAT's own address"
        )
    return RemoteError(
        f"{what}: CVAT at {url} answered {status}: {said or 'no reason given'}; "
        "`cvatsync doctor` looks for the cause"
    )


def untrusted(what: str, url: str, reason: object) -> AccessError:
    """The error for a server whose certificate nobody vouches for."""
    return AccessError(
        f"{what}: the certificate of {url} is not trusted ({' '.join(str(reason).split())}); give "
        "the authority's certificate in ANGIOLOOP_CVAT_CA_FILE"
    )


def not_cvat(what: str, url: str) -> RemoteError:
    """The error for an answer that CVAT never gives."""
    return RemoteError(
        f"{what}: what {url} answered cannot be read as CVAT's; check that ANGIOLOOP_CVAT_URL is "
        "CVAT's own address, and its version with `cvatsync doctor`"
    )

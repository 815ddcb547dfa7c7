"""Credentials in the keyring of the operating system, so that none need lie in a file or shell.

Knows where secrets are kept; asks no server whether they hold.
"""

from collections.abc import Callable
from typing import TypeVar

from casebook.errors import ConfigError

T = TypeVar("T")
SERVICE = "angioloop"
"""The name under which the keyring lists our entries."""
_INSTEAD = "set ANGIOLOOP_CVAT_TOKEN in the environment instead; see docs/cvat.md"


def _entry(url: str) -> str:
    return f"CVAT token for {url}"


def stored_token(url: str) -> str | None:
    """The token kept for a server; nothing where there is none, or no keyring at all."""
    from keyring import get_password
    from keyring.errors import KeyringError, NoKeyringError

    try:
        return get_password(SERVICE, _entry(url)) or None
    except NoKeyringError:
        return None
    except KeyringError as problem:
        raise ConfigError(
            f"the keyring does not open ({type(problem).__name__}); unlock it, or {_INSTEAD}"
        ) from None


def store_token(url: str, token: str) -> None:
    """Keep a token for a server.

    Raises:
        ConfigError: this machine has no keyring, or it is locked.
    """
    from keyring import set_password

    _changed(lambda: set_password(SERVICE, _entry(url), token))


def forget_token(url: str) -> bool:
    """Remove the token kept for a server; whether there was one.

    Raises:
        ConfigError: the keyring is locked.
    """
    from keyring import delete_password

    if stored_token(url) is None:
        return False
    _changed(lambda: delete_password(SERVICE, _entry(url)))
    return True


def _changed(change: Callable[[], T]) -> T:
    from keyring.errors import KeyringError

    try:
        return change()
    except KeyringError as problem:
        raise ConfigError(
            f"the keyring cannot be written ({type(problem).__name__}); unlock it or install one, "
            f"or {_INSTEAD}"
        ) from None

"""A token kept in the keyring is used and never shown; without one, what to do is told."""

from collections.abc import Iterator

import keyring
import pytest
from click.testing import CliRunner
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as NoKeyring
from keyring.errors import KeyringLocked

from casebook.errors import ConfigError
from cvat_sync.cli import main
from cvat_sync.credentials import forget_token, store_token, stored_token
from cvat_sync.settings import read_access

URL = "https://cvat.lab"


class Drawer(KeyringBackend):
    """A keyring in memory, which can be locked."""

    priority = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}
        self.is_locked = False

    def _open(self) -> None:
        if self.is_locked:
            raise KeyringLocked("locked")

    def get_password(self, service: str, username: str) -> str | None:
        self._open()
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._open()
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._open()
        del self.kept[service, username]


@pytest.fixture
def drawer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Drawer]:
    for name in ("TOKEN", "USER", "PASSWORD"):
        monkeypatch.delenv(f"ANGIOLOOP_CVAT_{name}", raising=False)
    monkeypatch.setenv("ANGIOLOOP_CVAT_URL", URL)
    before, found = keyring.get_keyring(), Drawer()
    keyring.set_keyring(found)
    yield found
    keyring.set_keyring(before)


@pytest.mark.usefixtures("drawer")
def test_a_kept_token_logs_in_where_the_environment_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store_token(URL, "kept-secret")
    assert read_access().token == "kept-secret"
    assert "kept-secret" not in repr(read_access())
    monkeypatch.setenv("ANGIOLOOP_CVAT_TOKEN", "from the environment")
    assert read_access().token == "from the environment"


@pytest.mark.usefixtures("drawer")
def test_logging_out_forgets_and_says_whether_there_was_one() -> None:
    store_token(URL, "kept-secret")
    assert "no longer a token" in CliRunner().invoke(main, ["logout"]).stdout
    assert stored_token(URL) is None
    assert "holds no token" in CliRunner().invoke(main, ["logout"]).stdout
    assert not forget_token(URL)


def test_a_locked_keyring_is_told(drawer: Drawer) -> None:
    drawer.is_locked = True
    with pytest.raises(ConfigError, match="unlock it, or set ANGIOLOOP_CVAT_TOKEN"):
        read_access()
    with pytest.raises(ConfigError, match="cannot be written"):
        store_token(URL, "kept-secret")


@pytest.mark.usefixtures("drawer")
def test_a_machine_without_a_keyring_is_told_what_to_set() -> None:
    keyring.set_keyring(NoKeyring())
    with pytest.raises(ConfigError, match="run `cvatsync login`, or set ANGIOLOOP_CVAT_TOKEN"):
        read_access()
    with pytest.raises(ConfigError, match="install one"):
        store_token(URL, "kept-secret")

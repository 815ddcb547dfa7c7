"""Settings come from the environment when used, with messages that say what to set."""

from pathlib import Path

import pytest

from casebook.errors import ConfigError
from cvat_sync.settings import ExchangeConfig, read_access, read_exchange

NAMES = ("URL", "TOKEN", "USER", "PASSWORD", "ORGANISATION", "CA_FILE")


def set_only(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name in NAMES:
        monkeypatch.delenv(f"ANGIOLOOP_CVAT_{name}", raising=False)
    for name, value in values.items():
        monkeypatch.setenv(f"ANGIOLOOP_CVAT_{name}", value)


def test_a_token_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    set_only(monkeypatch, URL="https://cvat/", TOKEN="t", USER="u", PASSWORD="p")
    access = read_access()
    assert (access.url, access.token, access.user) == ("https://cvat", "t", None)


def test_an_organisation_is_worked_in_when_named(monkeypatch: pytest.MonkeyPatch) -> None:
    set_only(monkeypatch, URL="https://cvat", TOKEN="t", ORGANISATION="heart-lab")
    assert read_access().organisation == "heart-lab"


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    set_only(monkeypatch, URL="https://cvat", USER="u", PASSWORD="secret-word")
    assert "secret-word" not in repr(read_access())


@pytest.mark.parametrize(
    ("values", "says"),
    [
        pytest.param({}, "ANGIOLOOP_CVAT_URL is not set", id="no address"),
        pytest.param({"URL": "cvat"}, "expected an address", id="no scheme"),
        pytest.param({"URL": "https://cvat"}, "no credentials", id="no credentials"),
        pytest.param({"URL": "https://me:secret@cvat"}, "the address alone", id="user in address"),
        pytest.param(
            {"URL": "https://cvat", "TOKEN": "t", "CA_FILE": "/no/such.pem"},
            "not a file of certificates",
            id="no certificate",
        ),
        pytest.param(
            {"URL": "https://cvat", "TOKEN": "t", "CA_FILE": __file__},
            "not a file of certificates",
            id="a file of something else",
        ),
        pytest.param({"URL": "https://cvat", "USER": "u"}, "no credentials", id="no password"),
    ],
)
def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], says: str
) -> None:
    set_only(monkeypatch, **values)
    with pytest.raises(ConfigError, match=says):
        read_access()


def test_a_folder_without_cvat_yaml_has_the_defaults(tmp_path: Path) -> None:
    assert read_exchange(tmp_path) == ExchangeConfig()


def test_a_folder_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"folder .*/cnof is not there; correct --conf"):
        read_exchange(tmp_path / "cnof")


def test_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cvat.yaml").write_text("frames_per_taks: 5\n")
    with pytest.raises(ConfigError, match="frames_per_taks"):
        read_exchange(tmp_path)

"""The shared process as a command: it says why it cannot start, and logs no more than it should."""

import logging
import socket

import pytest
from click.testing import CliRunner

from casebook.home import Home
from serverless import shared


def test_a_taken_port_is_named(home: Home) -> None:
    assert not home.models.exists()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        result = CliRunner().invoke(shared.main, ["--port", str(port)])
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in result.output
    assert "give another --port" in result.output


def test_a_wrong_setting_stops_the_start(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not home.models.exists()
    monkeypatch.setenv("ANGIOLOOP_MODEL", "oracle")
    result = CliRunner().invoke(shared.main, ["--port", "0"])
    assert result.exit_code == 1
    assert "'oracle'; expected teacher, student, or an installed" in result.output


def test_the_model_in_use_is_logged(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    assert not home.models.exists()
    with caplog.at_level(logging.INFO), shared.open_server("127.0.0.1", 0) as server:
        assert server.live.handler().model_id == "small"
    assert '{"message": "model in use", "model": "small"}' in caplog.text

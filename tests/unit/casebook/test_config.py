"""Settings: read, overridden, and every problem in one message."""

from pathlib import Path

import pytest

from casebook.config import environment, parse_config, read_config
from casebook.documents import Document
from casebook.errors import ConfigError


class Train(Document):
    lr: float
    steps: int = 10


class Settings(Document):
    name: str = "plain"
    train: Train


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return path


def test_a_file_becomes_a_model_after_overrides(tmp_path: Path) -> None:
    path = written(tmp_path, "train:\n  lr: 0.1\n")
    found = read_config(path, Settings, ["train.lr=1.0e-4", "name=other", "train.steps=3"])
    assert found == Settings(name="other", train=Train(lr=1e-4, steps=3))


def test_an_override_may_open_a_group(tmp_path: Path) -> None:
    assert read_config(written(tmp_path, ""), Settings, ["train.lr=2"]).train.lr == 2


def test_three_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, "nam: x\ntrain:\n  lr: fast\n  steps: 1.5\n")
    with pytest.raises(ConfigError, match="3 problems") as caught:
        read_config(path, Settings)
    assert all(word in str(caught.value) for word in ("nam", "train.lr", "train.steps"))


def test_one_mistake_is_one_problem() -> None:
    with pytest.raises(ConfigError, match="here: 1 problem\n  train: Field required"):
        parse_config({}, Settings, "here")


@pytest.mark.parametrize(
    ("text", "reason"), [("a: [", "not YAML"), ("[1]", "found list"), ("text", "found str")]
)
def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_config(written(tmp_path, text), Settings)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read"):
        read_config(tmp_path / "gone.yaml", Settings)


@pytest.mark.parametrize(
    ("override", "reason"),
    [("train.lr", "NAME=VALUE"), ("=3", "NAME=VALUE"), ("train.lr.deep=3", "not a group")],
)
def test_an_override_that_fits_nowhere_is_refused(
    tmp_path: Path, override: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_config(written(tmp_path, "train: {lr: 1}"), Settings, [override])


def test_a_required_variable_says_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANGIOLOOP_TEST", raising=False)
    with pytest.raises(ConfigError, match=r"ANGIOLOOP_TEST is not set \(a test\); see docs"):
        environment("ANGIOLOOP_TEST", "a test", "docs/x.md")
    monkeypatch.setenv("ANGIOLOOP_TEST", " value ")
    assert environment("ANGIOLOOP_TEST", "a test", "docs/x.md") == "value"

"""Going back to the teacher before."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from casebook.errors import StateError
from casebook.home import Home
from casebook.registry import ModelCard, Registry
from trainer.cli import main
from trainer.lineage import previous_teacher


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(Home(tmp_path))
    for name in ("a", "b", "c"):
        card = ModelCard(
            model_id=name,
            kind="teacher",
            architecture="tiny",
            created=datetime.now(UTC),
            n_params=1,
            licence="Apache-2.0",
        )
        registry.add(card, {"adapter.safetensors": name.encode()})
    return registry


def test_rolling_back_goes_to_the_one_before_and_then_further(registry: Registry) -> None:
    for name in ("a", "b", "c"):
        registry.promote(name, "better")
    assert previous_teacher(registry.home) == "b"
    registry.promote("b", "rollback")
    assert previous_teacher(registry.home) == "a"
    registry.promote("a", "rollback")
    with pytest.raises(StateError, match="no teacher was in use before a"):
        previous_teacher(registry.home)


def test_a_promotion_after_a_rollback_goes_back_to_what_was_rolled_back_to(
    registry: Registry,
) -> None:
    for name in ("a", "b", "a", "c"):
        registry.promote(name, "by hand")
    assert previous_teacher(registry.home) == "a"


@pytest.mark.parametrize("command", [("promote", "b"), ("rollback",)])
def test_a_change_by_hand_wants_a_reason_in_words(
    registry: Registry, tmp_path: Path, command: tuple[str, ...]
) -> None:
    registry.promote("a", "first")
    registry.promote("c", "second")
    options = ["--home", str(tmp_path), "--reason", "  "]
    told = CliRunner().invoke(main, [*command, *options])
    assert told.exit_code == 2
    assert "say in a few words why" in told.output
    assert registry.promoted() == "c"
    assert CliRunner().invoke(main, [*command, *options[:3], " misses the LCX "]).exit_code == 0
    assert (tmp_path / "audit.jsonl").read_text().rstrip().endswith('misses the LCX"}')

"""The registry: models with cards, and pointers to those in use."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from casebook.errors import ModelError
from casebook.home import Home
from casebook.registry import ModelCard, Registry


def card(model_id: str, day: int = 1) -> ModelCard:
    return ModelCard(
        model_id=model_id,
        kind="teacher",
        architecture="test",
        created=datetime(2026, 1, day, tzinfo=UTC),
        n_params=3,
        licence="test",
    )


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(Home(tmp_path))


def test_a_model_is_its_files_and_a_card_with_their_hashes(registry: Registry) -> None:
    sealed = registry.add(card("m1"), {"weights": b"abc", "sub/more": b"d"})
    assert set(sealed.files) == {"weights", "sub/more"}
    assert registry.card("m1") == registry.verify("m1") == sealed


@pytest.mark.parametrize("model_id", ["", "../m", "M1", "promoted", "released", "a" * 65])
def test_an_id_a_registry_cannot_hold_is_refused(registry: Registry, model_id: str) -> None:
    with pytest.raises(ModelError, match="not valid"):
        registry.folder(model_id)


def test_an_absent_model_is_named(registry: Registry) -> None:
    with pytest.raises(ModelError, match="model m9 is not in"):
        registry.card("m9")


def test_a_damaged_or_missing_file_is_found(registry: Registry) -> None:
    registry.add(card("m1"), {"weights": b"abc"})
    path = registry.folder("m1") / "weights"
    path.write_bytes(b"abd")
    with pytest.raises(ModelError, match="weights is missing or damaged"):
        registry.verify("m1")
    path.unlink()
    with pytest.raises(ModelError, match="weights is missing or damaged"):
        registry.promote("m1", "try")
    assert registry.promoted() is None


def test_cards_come_oldest_first(registry: Registry) -> None:
    for model_id, day in (("b", 2), ("a", 3), ("c", 1)):
        registry.add(card(model_id, day), {})
    assert [found.model_id for found in registry.cards()] == ["c", "b", "a"]


def test_promotion_moves_the_pointer_and_is_audited(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANGIOLOOP_USER", "dr.x")
    registry.add(card("m1"), {"weights": b"abc"})
    registry.promote("m1", "better on val")
    assert registry.promoted() == "m1"
    entry = json.loads((registry.home.root / "audit.jsonl").read_text())
    assert (entry["who"], entry["action"], entry["subject"]) == ("dr.x", "promote", "m1")
    assert entry["reason"] == "better on val"


def test_only_an_exported_bundle_is_released(registry: Registry) -> None:
    with pytest.raises(ModelError, match="bundle 0001 is not in models/released"):
        registry.release("0001", "try")
    folder = registry.home.models / "released" / "0001"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    registry.release("0001", "passed the gates")
    assert registry.released() == "0001"


def test_a_pointer_that_is_no_id_is_refused(registry: Registry) -> None:
    registry.home.models.mkdir(parents=True)
    (registry.home.models / "promoted").write_text("../../etc\n")
    with pytest.raises(ModelError, match="expected a model id"):
        registry.promoted()

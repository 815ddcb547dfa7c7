"""Specialists of a small workspace: trained on their vessel, compared, adopted only when better."""

from pathlib import Path

import pytest

from casebook.cases import View
from casebook.documents import read_document, write_document
from casebook.errors import StateError
from casebook.home import Home
from casebook.registry import ModelCard, Registry
from casebook.rounds import RoundFolder
from casebook.specialists import read_specialists
from tests.unit.trainer.workspace import make_conf, make_workspace
from trainer.scores import Mean
from trainer.specialists import FILE, adopt, read_comparisons
from trainer.tasks import run_step
from trainer.work import Work


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A workspace with a promoted round and its comparison of specialists."""
    root = tmp_path_factory.mktemp("specialists")
    home, conf = make_workspace(root, bootstrap=8, new=0, scored=8), make_conf(root, steps=2)
    work = Work(RoundFolder(home, 1), conf)
    for step in ("select", "train"):
        run_step(step, work)
    with pytest.raises(StateError, match="no teacher is promoted"):
        run_step("specialists", work)
    registry = Registry(home)
    (trained,) = (card.model_id for card in registry.cards() if card.kind == "teacher")
    registry.promote(trained, "for the test")
    run_step("specialists", work)
    return home


def test_every_vessel_gets_an_adapter_of_its_own_cases(place: Home) -> None:
    found = read_comparisons(place)
    assert [row.vessel for row in found.vessels] == ["LAD", "RCA"]
    for row in found.vessels:
        assert (row.cases, row.val_gain.n, row.test_gain.n) == (4, 4, 4)
        difference = row.val_specialist.mean - row.val_generalist.mean
        assert row.val_gain.mean == pytest.approx(difference)
        path = Registry(place).folder(row.model_id) / "card.json"
        card = read_document(path, ModelCard)
        assert card.parents == (found.generalist,)
        assert card.data["images"] == 4


def test_only_clearly_better_specialists_with_views_of_their_own_are_adopted(place: Home) -> None:
    found = read_comparisons(place)
    path = place.root / "rounds" / FILE
    clear = Mean(mean=0.1, low=0.05, high=0.15, n=4)

    def outcome(**changes: object) -> tuple[list[str], list[str]]:
        rows = [row.with_(val_gain=clear, **changes) for row in found.vessels[:1]]
        unsure = Mean(mean=0.1, low=-0.05, high=0.2, n=4)
        rows.append(
            found.vessels[1].with_(
                val_gain=unsure, primary_deg=(20.0, 50.0), secondary_deg=(-20.0, 20.0)
            )
        )
        write_document(path, found.with_(vessels=rows))
        adopted, refused = adopt(place)
        assert [entry.model_id for entry in read_specialists(place).specialists] == [
            entry.model_id for entry in adopted
        ]
        return [entry.vessel for entry in adopted], refused

    assert outcome(primary_deg=None, secondary_deg=None)[0] == []
    adopted, refused = outcome(primary_deg=(-40.0, -10.0), secondary_deg=(-30.0, 30.0))
    assert adopted == ["LAD"]
    assert refused[0].startswith("RCA: gain +0.100 [-0.050, +0.200]")
    inside = View(primary_deg=-20, secondary_deg=0)
    chosen = read_specialists(place).choose(inside)
    assert chosen is not None
    assert chosen.vessel == "LAD"
    adopted, refused = outcome(primary_deg=(10.0, 30.0), secondary_deg=(0.0, 5.0))
    assert adopted == []
    assert "its views also show RCA" in refused[0]
    assert "adopt" in (place.root / "audit.jsonl").read_text()
    write_document(path, found)


def test_too_few_cases_are_said(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path, bootstrap=2, new=0, scored=1), make_conf(tmp_path)
    work = Work(RoundFolder(home, 1), conf)
    for step in ("select", "train"):
        run_step(step, work)
    (trained,) = (card.model_id for card in Registry(home).cards() if card.kind == "teacher")
    Registry(home).promote(trained, "for the test")
    with pytest.raises(StateError, match=r"no vessel has 4 cases in every split: LAD has train 1"):
        run_step("specialists", work)
    with pytest.raises(StateError, match="Run `trainer specialists` first"):
        read_comparisons(home)

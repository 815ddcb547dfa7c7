"""Frames of the demo that are wrongly held as possible text are ruled on by the real command."""

from pathlib import Path

import numpy as np

from angio.review import Desk, read_held, read_rulings
from casebook.home import Home
from demo.walk import ROOT, Walk


def test_the_walk_rules_on_every_held_case(tmp_path: Path) -> None:
    walk = Walk(tmp_path, ROOT / "conf" / "demo", 3, 1, None)
    home = Home(tmp_path)
    frames = np.random.default_rng(1).integers(0, 255, size=(2, 3, 64, 64), dtype=np.uint8)
    for pictures in frames:
        Desk.open(home).hold(pictures, [(4, 4, 20, 12)], ["looks like letters"], patient="p1")
    assert len(read_held(home)) == 2
    walk._rule()
    assert read_held(home) == []
    assert {ruling.outcome for ruling in read_rulings(home).values()} == {"clean"}

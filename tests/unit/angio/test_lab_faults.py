"""A study of the lab's form with faults of every kind: the import reports exactly those faults.

The full size, 800 rows of 270 patients with 2 % faults, is one command:
`python -m bench.lab_faults`.
"""

from pathlib import Path

import pytest

from bench.lab_faults import FAULTS, check, write_lab


@pytest.mark.parametrize("seed", [1, 2])
def test_exactly_the_faults_are_reported(seed: int, tmp_path: Path) -> None:
    study = write_lab(tmp_path / "lab", rows=3 * len(FAULTS), patients=2 * len(FAULTS),
                      faults=len(FAULTS), seed=seed)  # fmt: skip
    assert {fault.kind for fault in study.faults.values()} == {name for name, _, _ in FAULTS}
    outcome = check(study, tmp_path / "home")
    assert outcome.missed == {}
    assert outcome.invented == {}
    assert outcome.misnamed == {}
    assert outcome.imported == outcome.expected_cases

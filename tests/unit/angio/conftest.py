"""A small phantom study, written once a session, and the labels it uses."""

from pathlib import Path

import pytest

from angio.importing import import_csv
from angio.phantoms.study import write_study
from angio.phantoms.truth import StudyTruth
from casebook.catalogue import Catalogue
from casebook.home import Home
from casebook.labels import LabelSet, read_labels

CONF = Path(__file__).parents[3] / "conf" / "labels"


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyTruth]:
    """Three patients with two views of two lesions, and one unseen file."""
    folder = tmp_path_factory.mktemp("phantoms") / "study"
    return folder, write_study(folder, seed=3, patients=3, unseen=1)


@pytest.fixture(scope="session")
def coronary() -> LabelSet:
    """The lab's labels."""
    return read_labels(CONF / "coronary.yaml")


@pytest.fixture(scope="session")
def arcade_labels() -> LabelSet:
    """ARCADE's labels."""
    return read_labels(CONF / "arcade.yaml")


@pytest.fixture(scope="session")
def workspace(
    tmp_path_factory: pytest.TempPathFactory,
    study: tuple[Path, StudyTruth],
    coronary: LabelSet,
) -> Catalogue:
    """The study, imported."""
    home = Home(tmp_path_factory.mktemp("home"))
    report = import_csv(study[0] / "cases.csv", home, coronary)
    assert (report.imported, report.problems) == (12, ())
    return Catalogue(home)

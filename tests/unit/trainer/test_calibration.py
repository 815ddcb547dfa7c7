"""A model is calibrated once, before it is served; too few cases stop nothing."""

from pathlib import Path

from casebook.calibration import calibration_path, read_calibration
from casebook.cases import Split
from casebook.catalogue import Catalogue
from casebook.home import Home
from casebook.protocols import Segmenter
from casebook.rounds import RoundFolder
from tests.fakes.threshold_model import ThresholdSegmenter
from tests.unit.trainer.workspace import LABELS, add_case
from trainer.calibration import calibrated
from trainer.work import Work


def work_of(root: Path, n_val: int) -> Work:
    home = Home(root)
    catalogue = Catalogue(home)
    for number in range(n_val):
        add_case(catalogue, number, Split.VAL)
    return Work(RoundFolder(home, 1), root / "conf")


def test_a_model_is_measured_once(tmp_path: Path) -> None:
    work, loads = work_of(tmp_path, 20), []

    def load() -> Segmenter:
        loads.append(1)
        return ThresholdSegmenter("m1")

    assert calibrated(work, "m1", load, LABELS) == "calibrated on 20 validation cases"
    found = read_calibration(work.folder.home, "m1")
    assert found is not None
    assert found.box is not None
    assert calibrated(work, "m1", load, LABELS) == "calibrated already"
    assert len(loads) == 1


def test_too_few_cases_are_said_and_nothing_is_written(tmp_path: Path) -> None:
    work = work_of(tmp_path, 3)
    said = calibrated(work, "m1", lambda: ThresholdSegmenter("m1"), LABELS)
    assert said.startswith("not calibrated: 3 masks with a known truth")
    assert not calibration_path(work.folder.home, "m1").exists()

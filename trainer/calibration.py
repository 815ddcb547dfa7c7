"""What a model's scores are worth, measured before it is served. Decides nothing."""

from collections.abc import Callable

from angio.calibration import calibrate
from casebook.calibration import read_calibration, write_calibration
from casebook.errors import DataError
from casebook.labels import LabelSet
from casebook.protocols import Segmenter
from trainer.work import Work


def calibrated(work: Work, model_id: str, load: Callable[[], Segmenter], labels: LabelSet) -> str:
    """Measure a model on the frozen validation cases, once; one line on how it went.

    With too few masks nothing is written, and the functions show the bare score as before.
    """
    home = work.folder.home
    if read_calibration(home, model_id) is not None:
        return "calibrated already"
    try:
        found = calibrate(load(), work.catalogue, labels)
    except DataError as problem:
        return f"not calibrated: {problem}"
    write_calibration(home, found)
    return f"calibrated on {found.cases} validation cases"

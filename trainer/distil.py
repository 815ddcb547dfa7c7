"""The distillation step: the promoted teacher into the ONNX student, released if it passes."""

from casebook.errors import StateError
from trainer.calibration import calibrated
from trainer.work import Work

CONFIG = "student.yaml"


def distil(work: Work) -> str:
    """Distil the promoted teacher; the released version comes back."""
    home = work.folder.home
    if work.registry.promoted() is None:
        raise StateError("no teacher has been promoted yet. Run `make train ROUND=1` first.")
    from export.bundle import read_bundle
    from export.distil import run  # onnx is only needed here
    from export.runtime import load_student
    from export.settings import read_distil_config

    config = read_distil_config(work.conf / CONFIG, work.overrides)

    def tell(message: str, fraction: float | None) -> None:
        work.progress("distil", message, None if fraction is None else min(fraction, 0.99))

    version = run(home, config, tell)
    folder = home.models / "released" / version
    said = calibrated(work, version, lambda: load_student(folder), read_bundle(folder).labels)
    return f"student {version}; {said}"

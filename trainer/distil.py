"""The distillation step: the promoted teacher into the ONNX student, released if it passes."""

from casebook.errors import StateError
from trainer.work import Work

CONFIG = "student.yaml"


def distil(work: Work) -> str:
    """Distil the promoted teacher; the released version comes back."""
    home = work.folder.home
    if work.registry.promoted() is None:
        raise StateError("no teacher has been promoted yet. Run `make train ROUND=1` first.")
    from export.distil import run  # onnx is only needed here
    from export.settings import read_distil_config

    config = read_distil_config(work.conf / CONFIG, work.overrides)

    def tell(message: str, fraction: float | None) -> None:
        work.progress("distil", message, None if fraction is None else min(fraction, 0.99))

    return f"student {run(home, config, tell)}"

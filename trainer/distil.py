"""The distillation step: the promoted teacher into the ONNX student, released if it passes."""

from casebook.config import read_config
from casebook.errors import StateError
from trainer.work import Work

CONFIG = "student.yaml"


def distil(work: Work) -> str:
    """Distil the promoted teacher; the released version comes back."""
    from export.distil import DistilConfig, run  # onnx is only needed here

    home = work.folder.home
    if work.registry.promoted() is None:
        raise StateError("no teacher has been promoted yet. Run `make train ROUND=1` first.")
    config = read_config(work.conf / CONFIG, DistilConfig, work.overrides)

    def tell(message: str, fraction: float | None) -> None:
        work.progress("distil", message, None if fraction is None else min(fraction, 0.99))

    return f"student {run(home, config, tell)}"

"""The student's base: what its pre-training writes, and its command."""

from pathlib import Path

from click.testing import CliRunner

from casebook.documents import read_document
from casebook.registry import ModelCard
from export.student import StudentConfig
from export.student_base import FILE, main, pretrain, read_student
from segmenter.fit import TrainConfig

SIZES = StudentConfig(side_px=64, whole_px=64, widths=(8, 8, 16, 16), blocks=(1, 1, 1, 1))
CONFIG = TrainConfig(steps=2, lr=1e-3, batch=2, checkpoint_every=1, log_every=1, ema=0.5)


def test_pretraining_writes_a_base_and_goes_on_where_it_was(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "base"
    shorter = CONFIG.model_copy(update={"log_every": 2})  # settings that do not decide the weights
    card = pretrain(CONFIG, SIZES, directory=run, out=out)
    assert read_document(out / "student.card.json", ModelCard) == card
    assert card.data["steps"] == 2
    assert {"box_iou", "click_iou", "automatic_dice", "seconds"} <= set(card.figures)
    assert read_student(out / FILE).config == SIZES
    before = (out / FILE).read_bytes()
    again = pretrain(shorter, SIZES, directory=run, out=out)
    assert again.figures == card.figures  # it was over
    assert (out / FILE).read_bytes() == before


def test_the_command_says_how_it_is_used() -> None:
    told = CliRunner().invoke(main, ["--help"])
    assert told.exit_code == 0
    assert "Example: python -m export.student_base" in told.output
    assert "0.002" in told.output


def test_the_command_refuses_checkpoints_of_other_settings(tmp_path: Path) -> None:
    pretrain(CONFIG, SIZES, directory=tmp_path, out=tmp_path / "base")
    given = ["--steps", "1", "--directory", str(tmp_path), "--out", str(tmp_path / "base")]
    refused = CliRunner().invoke(main, given)
    assert refused.exit_code == 1
    assert "holds a training with other settings" in refused.output

"""Round configurations: the plan's numbers, and every mistake at once."""

from pathlib import Path

import pytest

from casebook.annotations import Origin
from casebook.catalogue import Catalogue
from casebook.documents import read_document
from casebook.errors import ConfigError
from casebook.rounds import RoundFolder
from tests.unit.trainer.workspace import LABELS, make_conf, make_workspace, pull_truth
from trainer.results import Candidate
from trainer.rounds_config import OriginWeights, config_path, read_round_config
from trainer.samples import training_set
from trainer.tasks import run_step
from trainer.work import Work

CONF = Path(__file__).resolve().parents[3] / "conf"


@pytest.mark.parametrize(
    ("number", "cases", "epochs", "lr"),
    [(1, 200, 20, 1e-4), (2, 400, 15, 5e-5), (3, 200, 10, 1e-5)],
)
def test_the_rounds_have_the_numbers_of_the_plan(
    number: int, cases: int, epochs: int, lr: float
) -> None:
    config = read_round_config(CONF, number)
    assert (config.select.cases, config.train.epochs, config.train.lr) == (cases, epochs, lr)
    lora = config.train.lora
    assert (config.train.batch, lora.rank, lora.alpha, lora.dropout) == (8, 16, 32, 0.05)
    assert config.gate.lower_bound == -0.01


@pytest.mark.parametrize("folder", ["conf", "conf/demo", "conf/arcade"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_shipped_round_reads_and_names_an_existing_label_set(
    folder: str, number: int
) -> None:
    assert read_round_config(CONF.parent / folder, number).label_set().masks


def test_the_smoke_recipe_trains_ten_images_and_is_scored(tmp_path: Path) -> None:
    conf = CONF / "recipes" / "smoke"
    assert read_round_config(conf, 4).label_set().masks, "later rounds use the same file"
    home = make_workspace(tmp_path, bootstrap=12)
    labels = tmp_path / "labels.yaml"
    labels.write_text(LABELS.model_dump_json())
    work = Work(RoundFolder(home, 1), conf, (f"labels={labels}",))
    for step in ("select", "train", "evaluate", "decide"):
        run_step(step, work)
    candidate = read_document(work.folder.file("candidate.json"), Candidate)
    assert (candidate.images, candidate.steps) == (10, 10)


def test_masks_of_earlier_rounds_count_as_much_as_the_replay_says(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    for number in (1, 2):
        run_step("select", Work(RoundFolder(home, number), conf))
    pull_truth(home, 2)
    rounds, catalogue = (1, 2), Catalogue(home)

    def weights(replay: float) -> list[float]:
        found = training_set(home, catalogue, rounds, LABELS, OriginWeights(), replay=replay)
        return [sample.masks[0].weight for sample in found.samples]

    assert weights(1.0) == [1.0] * 6
    assert weights(0.25) == [0.25] * 4 + [1.0] * 2
    assert weights(0.0) == [1.0] * 2


def test_three_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "round-01.yaml").write_text(
        "labels: labels.yaml\nselect: {cases: 0, strategy: hope}\ntrain: {lerning_rate: 1}\n"
    )
    with pytest.raises(ConfigError) as problem:
        read_round_config(tmp_path, 1)
    text = str(problem.value)
    assert "3 problems" in text
    for name in ("select.cases", "select.strategy", "train.lerning_rate"):
        assert name in text


def test_a_setting_on_the_command_line_wins(tmp_path: Path) -> None:
    config = read_round_config(CONF, 2, ["train.lr=2e-4", "select.cases=7"])
    assert (config.train.lr, config.select.cases) == (2e-4, 7)


def test_later_rounds_use_the_last_file_before_them(tmp_path: Path) -> None:
    for name in ("round-01.yaml", "round-03.yaml"):
        (tmp_path / name).write_text("labels: labels.yaml\n")
    assert config_path(tmp_path, 2).name == "round-01.yaml"
    assert config_path(tmp_path, 7).name == "round-03.yaml"
    with pytest.raises(ConfigError, match=r"no round-01\.yaml"):
        config_path(tmp_path / "nowhere", 1)


def test_an_unreviewed_mask_of_a_model_never_trains() -> None:
    weights = OriginWeights()
    assert weights.of(Origin.MODEL) == 0.0
    assert weights.of(Origin.HUMAN) == 1.0
    assert 0 < weights.of(Origin.MODEL_REVIEWED) < 1.0

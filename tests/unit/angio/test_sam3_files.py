"""The data set for SAM 3's own trainer, read by its own loader and transforms."""

import ast
import importlib
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from angio.cli import main
from angio.datasets import Phase, Selection
from angio.sam3_files import CONFIG, write_sam3
from casebook.cases import Split
from casebook.errors import DataError
from casebook.home import Home
from segmenter.upstream import import_upstream
from tests.unit.angio.small_study import CORONARY, add_case, bar, study

LABELS = Path(__file__).parents[3] / "conf" / "labels" / "coronary.yaml"


def resolved(config: dict[str, Any], value: Any) -> Any:
    """A setting with its ${…} replaced, as OmegaConf does it."""
    if isinstance(value, dict):
        return {key: resolved(config, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [resolved(config, inner) for inner in value]
    if not isinstance(value, str):
        return value

    def look_up(name: str) -> Any:
        found: Any = config
        for part in name.split("."):
            found = found[part]
        return resolved(config, found)

    whole = re.fullmatch(r"\$\{([^}]+)\}", value)
    if whole:
        return look_up(whole[1])
    return re.sub(r"\$\{([^}]+)\}", lambda found: str(look_up(found[1])), value)


def made(settings: Any) -> Any:
    """What hydra's instantiate makes of settings."""
    if isinstance(settings, list):
        return [made(inner) for inner in settings]
    if not isinstance(settings, dict):
        return settings
    inner = {key: made(value) for key, value in settings.items() if key != "_target_"}
    if "_target_" not in settings:
        return inner
    module, _, name = settings["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**inner)


def targets(settings: Any) -> Iterator[tuple[str, set[str]]]:
    """Every class or function named, with the arguments it is given."""
    if isinstance(settings, list):
        for inner in settings:
            yield from targets(inner)
    elif isinstance(settings, dict):
        if "_target_" in settings:
            yield settings["_target_"], {key for key in settings if not key.startswith("_")}
        for inner in settings.values():
            yield from targets(inner)


def parameters(module: str, name: str) -> tuple[set[str], bool]:
    """Parameters of a class or function by its source, and whether it takes any other."""
    root = importlib.util.find_spec("sam3")
    assert root is not None
    assert root.submodule_search_locations is not None
    path = Path(root.submodule_search_locations[0], *module.split(".")[1:]).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    node = next(one for one in tree.body if getattr(one, "name", None) == name)
    if isinstance(node, ast.ClassDef):
        makers = [one for one in node.body if getattr(one, "name", None) == "__init__"]
        if not makers:  # a dataclass or a class without arguments of its own
            return set(), False
        node = makers[0]
    assert isinstance(node, ast.FunctionDef)
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return {one.arg for one in every}, node.args.kwarg is not None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_sam3(study(tmp_path / "home"), tmp_path / "out", Selection(Phase.SEGMENTS, CORONARY))
    return tmp_path / "out"


def test_every_class_the_configuration_names_exists_upstream_with_these_arguments() -> None:
    named = [one for one in targets(yaml.safe_load(CONFIG.read_text())) if "sam3." in one[0]]
    assert len(named) > 20
    for target, given in named:
        module, _, name = target.rpartition(".")
        known, takes_more = parameters(module, name)
        assert takes_more or given <= known, f"{target}: {given - known}"


def test_only_train_and_val_are_given_out(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "dataset.json", "sam3.yaml", "train", "val",
    ]  # fmt: skip
    names = {path.name for path in folder.rglob("*.png")}
    assert names == {"one.f00000.png", "all.f00000.png", "val.f00000.png"}


# pycocotools 2.0 asks numpy for a view in a way numpy 2 will stop answering.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_sam3s_own_loader_asks_what_was_drawn_what_is_similar_and_nothing_else(
    folder: Path,
) -> None:
    filters = "sam3.train.transforms.filter_query_transforms"
    names = ("basic_for_api", "segmentation")
    import_upstream(
        [
            "sam3.train.data.sam3_image_dataset",
            filters,
            *(f"sam3.train.transforms.{name}" for name in names),
        ]
    )
    config = yaml.safe_load((folder / "sam3.yaml").read_text(encoding="utf-8"))
    config["scratch"]["resolution"] = 56
    settings = resolved(config, config["trainer"]["data"]["train"]["dataset"])
    dataset = made(settings)
    assert len(dataset) == 2
    asked = {}
    for index in range(2):
        point = dataset[index]
        assert point.images[0].data.shape == (3, 56, 56)
        asked[index] = {
            query.query_text: [point.images[0].objects[one] for one in query.object_ids_output]
            for query in point.find_queries
        }
    complete, single = asked[0], asked[1]
    assert {name for name, objects in single.items() if objects} == {"mid LAD"}
    assert set(single) == {"mid LAD", "proximal LAD", "distal LAD", "D1", "D2"}
    assert {name for name, objects in complete.items() if objects} == {
        "proximal RCA", "mid RCA", "D1",
    }  # fmt: skip
    assert len(complete) == 14
    (drawn,) = single["mid LAD"]
    truth = bar(4).mean()
    assert float(drawn.segment.float().mean()) == pytest.approx(truth, rel=0.1)
    box = drawn.bbox.tolist()  # centre and size, as shares of the picture
    assert np.allclose(box, [23 / 48, 6 / 40, 34 / 48, 4 / 40], atol=0.03)


def test_a_study_without_validation_cases_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    add_case(home, "one", Split.TRAIN, {"mid LAD": 4})
    with pytest.raises(DataError, match="no val frame has a mask"):
        write_sam3(home, tmp_path / "out", Selection(Phase.SEGMENTS, CORONARY))
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    home = study(tmp_path / "home")
    options = ["export", "sam3", "--home", str(home.root), "--labels", str(LABELS)]
    options += ["--out", str(tmp_path / "out"), "--json"]
    told = CliRunner().invoke(main, [*options, "--phase", "tree"])
    # No validation case has a whole tree: one analysed segment is no tree.
    assert told.exit_code == 3
    assert "no val frame has a mask for phase tree" in told.stderr
    told = CliRunner().invoke(main, options)
    assert told.exit_code == 0
    assert json.loads(told.stdout)["splits"]["val"]["masks_by_label"]["stenosis"] == 1

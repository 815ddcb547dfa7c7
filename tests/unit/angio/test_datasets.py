"""Which masks each phase gives out, and the folders they are written to."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from pycocotools.coco import COCO

from angio.cli import main
from angio.coco_files import whole_folder, write_coco
from angio.datasets import Phase, Selection, frames
from casebook.annotations import Origin, write_annotations
from casebook.cases import Split
from casebook.catalogue import Catalogue
from casebook.documents import sha256_of_file, write_document
from casebook.errors import ConfigError, DataError, DeidError
from casebook.home import Home
from casebook.labels import Label, LabelSet, read_labels
from casebook.rounds import Manifest, RoundFolder
from tests.unit.angio.small_study import CORONARY, add_case, bar, drawn, study

LABELS = Path(__file__).parents[3] / "conf" / "labels" / "coronary.yaml"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return study(tmp_path / "home")


def selection(phase: Phase, **changes: object) -> Selection:
    return replace(Selection(phase, CORONARY), **changes)


def test_the_tree_comes_from_pseudo_labels_or_is_the_union_of_all_segments(home: Home) -> None:
    found = {one.case.case_id: one.drawn for one in frames(home, selection(Phase.TREE))}
    assert set(found) == {"one", "all"}
    (pseudo,) = found["one"]
    assert (pseudo.label.name, pseudo.origin) == ("coronary artery", Origin.PSEUDO)
    (union,) = found["all"]
    assert union.mask.area_px == 3 * bar(0).sum()


def test_similar_segments_are_hard_negatives_and_absence_is_only_claimed_where_known(
    home: Home,
) -> None:
    found = {one.case.case_id: one for one in frames(home, selection(Phase.SEGMENTS))}
    assert found["one"].similar == ("proximal LAD", "distal LAD", "D1", "D2")
    assert found["one"].absent == ()
    assert found["all"].similar == ("distal RCA", "mid LAD", "D2", "ramus")
    assert len(found["all"].absent) == 14 - 3
    assert {one.label.role for frame in found.values() for one in frame.drawn} == {"segment"}


def test_every_similar_label_of_the_shipped_files_is_a_label_there() -> None:
    paths = sorted(LABELS.parent.glob("*.yaml"))
    assert len(paths) >= 2
    for path in paths:
        labels = read_labels(path)
        for label in labels.labels:
            assert label.name not in [labels.find(name).name for name in label.confusable]


def test_the_expert_phase_leaves_out_what_nobody_reviewed(home: Home) -> None:
    case = Catalogue(home).get("one")
    write_annotations(
        Catalogue(home).folder("one") / "expert.coco.json",
        drawn(case, {"mid LAD": 4}, Origin.MODEL),
    )
    found = {one.case.case_id: one for one in frames(home, selection(Phase.EXPERT))}
    assert set(found) == {"all", "val", "tst"}
    assert [one.label.name for one in found["val"].drawn] == ["proximal LCX", "stenosis"]


def test_a_round_gives_out_what_it_annotated_and_nothing_rejected(home: Home) -> None:
    case = Catalogue(home).get("one")
    folder = RoundFolder(home, 2)
    write_annotations(
        folder.file("annotations.coco.json"), drawn(case, {"D2": 9}, Origin.MODEL_REVIEWED)
    )
    wanted = selection(Phase.EXPERT, round=2)
    (only,) = frames(home, wanted)
    assert [one.label.name for one in only.drawn] == ["D2"]
    rejected = drawn(case, {"D2": 9}, Origin.HUMAN)
    images = (rejected.images[0].with_(status="rejected"),)
    write_annotations(folder.file("annotations.coco.json"), rejected.with_(images=images))
    assert list(frames(home, wanted)) == []


def test_frames_without_a_record_or_changed_since_are_refused(home: Home) -> None:
    add_case(home, "bad", Split.TRAIN, {"D1": 3}, deid=None)
    with pytest.raises(DeidError, match="case bad has no de-identification record"):
        list(frames(home, selection(Phase.EXPERT)))
    case = add_case(home, "bad", Split.TRAIN, {"D1": 3})
    Catalogue(home).frame_path(case.ref).write_bytes(b"another")
    with pytest.raises(DataError, match="has changed since the import"):
        list(frames(home, selection(Phase.EXPERT)))


def test_a_phase_without_labels_is_refused(home: Home) -> None:
    other = LabelSet(name="chips", labels=(Label(name="chip"),))
    with pytest.raises(DataError, match="no label for phase tree"):
        list(frames(home, Selection(Phase.TREE, other)))


# pycocotools 2.0 asks numpy for a view in a way numpy 2 will stop answering.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_coco_folder_is_read_by_pycocotools_with_the_same_masks(
    home: Home, tmp_path: Path
) -> None:
    out = tmp_path / "coco"
    manifest = write_coco(home, out, selection(Phase.SEGMENTS))
    assert {split: one.images for split, one in manifest.splits.items()} == {
        "train": 2, "val": 1, "test": 1,
    }  # fmt: skip
    theirs = COCO(str(out / "train" / "annotations.json"))
    names = {one["id"]: one["name"] for one in theirs.loadCats(theirs.getCatIds())}
    rows = {"mid LAD": 4, "proximal RCA": 2, "mid RCA": 10, "D1": 30}
    assert len(theirs.anns) == 4
    for entry in theirs.anns.values():
        truth = bar(rows[names[entry["category_id"]]])
        assert np.array_equal(theirs.annToMask(entry).astype(bool), truth)
        assert entry["area"] == truth.sum()
    for image in theirs.imgs.values():
        path = out / "train" / "images" / image["file_name"]
        with Image.open(path) as picture:
            assert picture.size == (image["width"], image["height"])
        assert image["sha256"] == sha256_of_file(path)
    for name, digest in manifest.files.items():
        assert sha256_of_file(out / name) == digest


def test_the_same_data_have_the_same_content_and_others_another(home: Home, tmp_path: Path) -> None:
    wanted = selection(Phase.SEGMENTS)
    first = write_coco(home, tmp_path / "a", wanted)
    assert write_coco(home, tmp_path / "b", wanted).content_sha256 == first.content_sha256
    add_case(home, "one", Split.TRAIN, {"mid LAD": 5}, segment="mid LAD")
    assert write_coco(home, tmp_path / "c", wanted).content_sha256 != first.content_sha256


def test_a_folder_that_is_there_is_left_alone_and_a_failed_one_leaves_nothing(
    home: Home, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ConfigError, match="is there already"):
        write_coco(home, tmp_path / "out", selection(Phase.TREE))
    with pytest.raises(DataError, match="no frame has a mask for phase tree"):
        write_coco(home, tmp_path / "new", selection(Phase.TREE, splits=(Split.TEST,)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"]


def test_of_two_exports_into_one_folder_the_second_is_refused_in_words(tmp_path: Path) -> None:
    slower = whole_folder(tmp_path / "out")
    (slower.__enter__() / "second").touch()
    with whole_folder(tmp_path / "out") as place:
        (place / "first").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        slower.__exit__(None, None, None)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["first"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_writes_and_tells(home: Home, tmp_path: Path) -> None:
    options = ["--home", home.root, "--labels", LABELS]
    told = _run("export", "coco", *options, "--split", "val", "--out", tmp_path / "v", "--json")
    assert told.exit_code == 0, told.stderr
    assert list(json.loads(told.stdout)["splits"]) == ["val"]
    assert '"export coco"' in (home.root / "audit.jsonl").read_text()
    again = _run("export", "coco", *options, "--out", tmp_path / "v")
    assert again.exit_code == 2
    assert again.stderr.count("\n") == 1
    plain = _run("export", "coco", *options, "--phase", "tree", "--out", tmp_path / "t")
    assert plain.stdout.startswith("train  2 images, 2 masks\n")
    case = Catalogue(home).get("one")
    folder = RoundFolder(home, 1)
    write_annotations(folder.file("annotations.coco.json"), drawn(case, {"D2": 9}, Origin.HUMAN))
    write_document(
        folder.file("manifest.json"),
        Manifest(
            round=1, labels=CORONARY, strategy="order", seed=1, cases=(), val=(), test=(),
            created="2026-01-01T00:00:00Z",
        ),
    )  # fmt: skip
    of_round = _run("export", "coco", "--home", home.root, "--round", 1, "--out", tmp_path / "r")
    assert of_round.stdout.startswith("train  1 images, 1 masks\n")
    assert _run("export", "coco", *options, "--round", 3, "--out", tmp_path / "x").exit_code == 6

"""The data set for nnU-Net: read by a reader of our own, and by nnU-Net's where it is installed."""

import contextlib
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from angio.cli import main
from angio.datasets import Phase, Selection
from angio.nnunet_files import MANIFEST, SPLITS, NnunetManifest, write_nnunet
from casebook import masks
from casebook.annotations import AnnotationSetBuilder, Origin, write_annotations
from casebook.cases import FrameRef, Split
from casebook.catalogue import Catalogue, png_bytes, read_png
from casebook.documents import read_document, sha256_of_file
from casebook.errors import ConfigError, DataError
from casebook.home import Home
from casebook.labels import Label, LabelSet
from casebook.rounds import RoundFolder
from segmenter.nnunet_weights import READER
from tests.unit.angio.small_study import CORONARY, HW, add_case, bar, drawn

LABELS = Path(__file__).parents[3] / "conf" / "labels"
NAME = "Dataset501_vessels"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Whole drawings in every split, and one training case with the analysed segment alone."""
    home = Home(tmp_path / "home")
    add_case(home, "all", Split.TRAIN, {"proximal RCA": 2, "mid RCA": 10, "stenosis": 12})
    add_case(home, "next", Split.TRAIN, {"D1": 30}, pseudo={"coronary artery": 20})
    add_case(home, "one", Split.TRAIN, {"mid LAD": 4}, segment="mid LAD")
    add_case(home, "val", Split.VAL, {"proximal LCX": 8})
    add_case(home, "tst", Split.TEST, {"OM1": 5})
    return home


@pytest.fixture(autouse=True)
def _no_preprocessed_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)


def read(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Picture and labels of each training name, read as the format's documentation says."""
    dataset = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    ending = dataset["file_ending"]
    found = {}
    for path in sorted((folder / "labelsTr").iterdir()):
        name = path.name.removesuffix(ending)
        channels = sorted((folder / "imagesTr").glob(f"{name}_????{ending}"))
        assert len(channels) == len(dataset["channel_names"]) == 1
        with Image.open(channels[0]) as picture, Image.open(path) as labels:
            assert picture.mode == labels.mode == "L"
            found[name] = np.asarray(picture), np.asarray(labels)
        assert set(np.unique(found[name][1])) <= set(dataset["labels"].values())
    assert len(found) == dataset["numTraining"] == len(list((folder / "imagesTr").iterdir()))
    return found


def test_frames_and_masks_come_back_with_every_case_in_its_place(
    home: Home, tmp_path: Path
) -> None:
    folder = tmp_path / NAME
    manifest = write_nnunet(home, folder, Selection(Phase.EXPERT, CORONARY))
    found, labels = read(folder), manifest.labels
    assert set(found) == {"all_f00000", "next_f00000", "val_f00000"}
    assert list(labels.values()) == list(range(1, len(CORONARY.masks) + 1))
    frame = Catalogue(home).frame(Catalogue(home).get("all").ref)
    picture, values = found["all_f00000"]
    assert np.array_equal(picture, frame.pixels)
    # The lesion is painted over its segment, whichever has the higher number.
    assert np.array_equal(values == labels["stenosis"], bar(12))
    assert np.array_equal(values == labels["mid RCA"], bar(10) & ~bar(12))
    assert np.array_equal(values == labels["proximal RCA"], bar(2))
    assert manifest.overlaps_px == (bar(10) & bar(12)).sum()
    assert sorted(path.name for path in (folder / "imagesTs").iterdir()) == ["tst_f00000_0000.png"]
    with Image.open(folder / "labelsTs" / "tst_f00000.png") as test:
        assert np.array_equal(np.asarray(test) == labels["OM1"], bar(5))
    dataset = json.loads((folder / "dataset.json").read_text())
    assert dataset["labels"] == {"background": 0, **labels}
    assert dataset["overwrite_image_reader_writer"] == READER


def test_the_split_is_ours_and_spacing_is_kept(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / NAME
    manifest = write_nnunet(home, folder, Selection(Phase.EXPERT, CORONARY))
    assert json.loads((folder / SPLITS).read_text()) == [
        {"train": ["all_f00000", "next_f00000"], "val": ["val_f00000"]}
    ]
    catalogue = Catalogue(home)
    for picture in manifest.pictures:
        case = catalogue.get(picture.case_id)
        assert (picture.split, picture.spacing) == (case.split, case.spacing)
        ending = "Ts" if picture.split is Split.TEST else "Tr"
        stored = folder / f"images{ending}" / f"{picture.name}_0000.png"
        assert read_png(stored.read_bytes()).spacing == case.spacing
    assert read_document(folder / MANIFEST, NnunetManifest) == manifest
    assert len(manifest.files) == 2 * 4 + 2
    for name, digest in manifest.files.items():
        assert sha256_of_file(folder / name) == digest
    again = write_nnunet(home, tmp_path / "again" / NAME, Selection(Phase.EXPERT, CORONARY))
    assert again.content_sha256 == manifest.content_sha256


def test_what_was_drawn_in_part_is_left_out_unless_asked_for(home: Home, tmp_path: Path) -> None:
    wanted = Selection(Phase.SEGMENTS, CORONARY)
    manifest = write_nnunet(home, tmp_path / "a" / NAME, wanted)
    assert manifest.left_out == 1
    partial = write_nnunet(home, tmp_path / "b" / NAME, wanted, partial=True)
    assert partial.left_out == 0
    assert {one.case_id for one in partial.pictures} - {
        one.case_id for one in manifest.pictures
    } == {"one"}


def test_whole_trees_are_taken_of_cases_with_one_analysed_segment(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    for name, split in (("one", Split.TRAIN), ("val", Split.VAL)):
        tree = {"coronary artery": 20}
        add_case(home, name, split, {"mid LAD": 4}, pseudo=tree, segment="mid LAD")
    manifest = write_nnunet(home, tmp_path / NAME, Selection(Phase.TREE, CORONARY))
    assert (manifest.labels, manifest.left_out) == ({"coronary artery": 1}, 0)
    assert {name: values.sum() for name, (_, values) in read(tmp_path / NAME).items()} == {
        "one_f00000": bar(20).sum(), "val_f00000": bar(20).sum(),
    }  # fmt: skip
    said = "no train frame .*1 were left out, since of each one segment alone .*--partial .*tree"
    with pytest.raises(DataError, match=said):
        write_nnunet(home, tmp_path / "Dataset502_x", Selection(Phase.SEGMENTS, CORONARY))
    assert not (tmp_path / "Dataset502_x").exists()


def test_a_round_trains_and_the_frozen_cases_validate(home: Home, tmp_path: Path) -> None:
    case = Catalogue(home).get("next")
    write_annotations(
        RoundFolder(home, 2).file("annotations.coco.json"),
        drawn(case, {"D2": 9}, Origin.MODEL_REVIEWED),
    )
    manifest = write_nnunet(home, tmp_path / NAME, Selection(Phase.EXPERT, CORONARY, round=2))
    assert [(one.name, one.split) for one in manifest.pictures] == [
        ("next_f00000", Split.TRAIN), ("val_f00000", Split.VAL), ("tst_f00000", Split.TEST),
    ]  # fmt: skip
    values = read(tmp_path / NAME)["next_f00000"][1]
    assert np.array_equal(values, bar(9) * manifest.labels["D2"])


def test_what_a_round_found_empty_is_background_and_teaches_nothing_alone(
    home: Home, tmp_path: Path
) -> None:
    catalogue, folder = Catalogue(home), RoundFolder(home, 2)
    builder = AnnotationSetBuilder(CORONARY)
    for name, status in (("next", "ok"), ("all", "rejected"), ("one", "pending")):
        builder.add_image(catalogue.get(name).ref, HW, status=status)
    write_annotations(folder.file("annotations.coco.json"), builder.build())
    wanted = Selection(Phase.EXPERT, CORONARY, round=2)
    with pytest.raises(DataError, match="no train frame has masks"):
        write_nnunet(home, tmp_path / NAME, wanted)
    image = builder.add_image(FrameRef(case_id="next", frame=7), HW, status="corrected")
    builder.add_mask(image, "D2", masks.encode(bar(9)), Origin.HUMAN)
    payload = png_bytes(np.full(HW, 90, dtype=np.uint8))
    case = catalogue.get("next")
    frames = {0: catalogue.frame_path(case.ref).read_bytes(), 7: payload}
    catalogue.add(case.with_(stored_frames=(0, 7), n_frames=8), frames)
    write_annotations(folder.file("annotations.coco.json"), builder.build())
    write_nnunet(home, tmp_path / NAME, wanted)
    found = {name: values for name, (_, values) in read(tmp_path / NAME).items()}
    assert set(found) == {"next_f00000", "next_f00007", "val_f00000"}
    assert not found["next_f00000"].any()
    assert np.array_equal(found["next_f00007"] > 0, bar(9))


def test_a_patient_in_two_splits_stops_everything(home: Home, tmp_path: Path) -> None:
    case = add_case(home, "leak", Split.VAL, {"D1": 3})
    # The catalogue takes no such case; one of another hand's making may lie there all the same.
    document = case.with_(patient="p-all").model_dump_json(by_alias=True)
    with closing(sqlite3.connect(home.catalogue)) as connection, connection:
        connection.execute("UPDATE cases SET document=? WHERE case_id='leak'", (document,))
    with pytest.raises(DataError, match=r"patient p-all is in train and in val \(case leak\)"):
        write_nnunet(home, tmp_path / NAME, Selection(Phase.EXPERT, CORONARY))
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_nnunets_own_folder_gets_the_split_and_another_one_there_is_kept(
    home: Home, tmp_path: Path
) -> None:
    wanted, prepared = Selection(Phase.EXPERT, CORONARY), tmp_path / "prepared"
    write_nnunet(home, tmp_path / "a" / NAME, wanted, preprocessed=prepared)
    theirs = prepared / NAME / SPLITS
    assert theirs.read_bytes() == (tmp_path / "a" / NAME / SPLITS).read_bytes()
    write_nnunet(home, tmp_path / "b" / NAME, wanted, preprocessed=prepared)
    theirs.write_text("[]")
    with pytest.raises(ConfigError, match="is another split than this one; remove it"):
        write_nnunet(home, tmp_path / "c" / NAME, wanted, preprocessed=prepared)
    assert theirs.read_text() == "[]"
    assert not (tmp_path / "c" / NAME).exists()


@pytest.mark.parametrize("name", ["vessels", "Dataset51_vessels", "Dataset501_", "Dataset501_a b"])
def test_a_name_nnunet_does_not_find_is_refused(home: Home, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"expects Dataset, three digits.*Dataset501_vessels"):
        write_nnunet(home, tmp_path / name, Selection(Phase.EXPERT, CORONARY))


def test_a_label_called_background_is_refused(home: Home, tmp_path: Path) -> None:
    labels = LabelSet(name="x", labels=(Label(name="background"),))
    with pytest.raises(DataError, match="called background"):
        write_nnunet(home, tmp_path / NAME, Selection(Phase.EXPERT, labels))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_names_what_comes_next(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--home", home.root, "--labels", LABELS / "coronary.yaml"]
    told = run("export", "nnunet", "--out", tmp_path / NAME, *options)
    assert told.exit_code == 0, told.output
    assert "train  2 pictures" in told.stdout
    assert "1 frames with one analysed segment were left out" in told.stdout
    assert "$nnUNet_preprocessed is not set; copy" in told.stdout
    assert told.stdout.splitlines()[-3:] == [
        "then: nnUNetv2_plan_and_preprocess -d 501 -c 2d --verify_dataset_integrity",
        "then: nnUNetv2_train 501 2d 0",
        "then: python -m segmenter.nnunet_weights --trained "
        f"$nnUNet_results/{NAME}/nnUNetTrainer__nnUNetPlans__2d",
    ]
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "prepared"))
    second = tmp_path / "more" / NAME
    told = run("export", "nnunet", "--out", second, *options, "--json")
    assert json.loads(told.stdout)["left_out"] == 1
    assert (tmp_path / "prepared" / NAME / SPLITS).is_file()
    assert "export nnunet" in (home.root / "audit.jsonl").read_text()
    assert run("export", "nnunet", "--out", second, *options).exit_code == 2


def test_ct_slices_go_from_a_volume_to_nnunet(tmp_path: Path) -> None:
    home, file = tmp_path / "home", LABELS / "ct-heart.yaml"
    for split in Split:
        values = np.full((24, 20, 3), 40 + 10 * len(split.value), dtype=np.int16)
        organ = np.zeros(values.shape, dtype=np.uint8)
        organ[4:12, 5:9, :2], organ[14:20, 5:9, 0] = 1, 6
        for folder, stored in (("in", values), ("masks", organ)):
            image = nibabel.Nifti1Image(stored, np.diag([0.5, 0.75, 2.0, 1.0]))
            image.header.set_xyzt_units("mm")
            (tmp_path / split.value / folder).mkdir(parents=True)
            nibabel.save(image, tmp_path / split.value / folder / f"{split.value}.nii.gz")
        told = run(
            "import", "nifti", tmp_path / split.value / "in", "--labels", file, "--home", home,
            "--masks", tmp_path / split.value / "masks", "--split", split.value, "--ruled-clean",
        )  # fmt: skip
        assert told.exit_code == 0, told.output
    folder = tmp_path / NAME
    told = run("export", "nnunet", "--out", folder, "--labels", file, "--home", home, "--json")
    assert told.exit_code == 0, told.output
    manifest = json.loads(told.stdout)
    # The third slice of each volume has nothing drawn on it.
    assert [one["split"] for one in manifest["pictures"]] == ["train"] * 2 + ["val"] * 2 + [
        "test"
    ] * 2
    assert manifest["pictures"][0]["spacing"] == {
        "row_mm": 0.75, "col_mm": 0.5, "source": "affine",
    }  # fmt: skip
    areas = {
        name: np.bincount(values.ravel()).tolist() for name, (_, values) in read(folder).items()
    }
    numbers = manifest["labels"]
    assert numbers["ascending aorta"] == 6
    assert all(counts[numbers["left ventricle"]] == 8 * 4 for counts in areas.values())


@pytest.fixture
def nnunet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """nnU-Net's own check of data sets; it reads its folders from the environment at import."""
    pytest.importorskip("nnunetv2", reason="the extra `nnunet` is not installed")
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    with contextlib.redirect_stdout(sys.stderr):
        from nnunetv2.experiment_planning import verify_dataset_integrity
    return verify_dataset_integrity


# nnU-Net opens pictures through libraries that warn of their own ways.
@pytest.mark.filterwarnings("ignore")
def test_nnunets_own_check_finds_nothing_wrong_and_its_reader_the_same_numbers(
    home: Home, tmp_path: Path, nnunet: Any
) -> None:
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    folder = tmp_path / "raw" / NAME
    manifest = write_nnunet(home, folder, Selection(Phase.EXPERT, CORONARY))
    nnunet.verify_dataset_integrity(str(folder), num_processes=1)
    dataset = json.loads((folder / "dataset.json").read_text())
    reader = determine_reader_writer_from_dataset_json(dataset, verbose=False)()
    assert type(reader).__name__ == READER
    for name, (picture, values) in read(folder).items():
        images, properties = reader.read_images([str(folder / "imagesTr" / f"{name}_0000.png")])
        labels, _ = reader.read_seg(str(folder / "labelsTr" / f"{name}.png"))
        assert images.shape == labels.shape == (1, 1, *HW)
        assert np.array_equal(images[0, 0], picture)
        assert np.array_equal(labels[0, 0], values)
        assert tuple(properties["spacing"]) == (999.0, 1.0, 1.0)
    assert set(manifest.labels) | {"background"} == set(dataset["labels"])

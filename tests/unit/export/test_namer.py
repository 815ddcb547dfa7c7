"""Names of coronary and segment: learnt from frames, judged on others, said only when sure."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from casebook import masks
from casebook.annotations import read_annotations
from casebook.cases import Case, DeidRecord, FrameRef, Split, View
from casebook.catalogue import Catalogue, png_bytes
from casebook.documents import read_document, sha256_of, sha256_of_file, write_document
from casebook.errors import ModelError
from casebook.home import Home
from casebook.labels import Label, LabelSet
from export.answers import StudentSegmenter
from export.bundle import read_bundle
from export.cli import main
from export.namer import FILE, Linear, Names, Sight, artery_of, name_segment, name_side, side_of
from export.namer_fit import Examples, examples_of, fit_linear, fit_names, judged
from export.outputs import InferReport
from export.release import as_segmenter
from export.runtime import load_graphs, segmenter_of
from export.student import Student
from export.syllabus import Drawn, Page
from export.windows import whole
from tests.unit.export.conftest import Workshop
from tests.unit.export.workshop import SMALL, draw_tube, write_run

TWO = LabelSet(
    name="two",
    labels=(
        Label(name="mid RCA", role="segment", code=2),
        Label(name="mid LAD", role="segment", code=13),
        Label(name="coronary artery", role="tree"),
    ),
)
BOX = "40,50,115,110"


def flat(classes: tuple[str, ...], width: int, bias: tuple[float, ...]) -> Linear:
    """A classifier that answers the same whatever it sees."""
    return Linear(
        classes=classes,
        mean=(0.0,) * width,
        deviation=(1.0,) * width,
        weights=((0.0,) * width,) * len(classes),
        bias=bias,
    )


@pytest.mark.parametrize(
    ("code", "side", "artery"),
    [
        pytest.param(2, "right", "RCA", id="mid RCA"),
        pytest.param(4, "right", "RCA", id="PDA"),
        pytest.param(11, "left", "LM", id="left main"),
        pytest.param(15, "left", "LAD", id="D1"),
        pytest.param(29, "left", "LAD", id="D3"),
        pytest.param(21, "left", "LCX", id="OM2"),
        pytest.param(27, "left", "LCX", id="left PDA"),
        pytest.param(28, "left", "ramus", id="ramus"),
    ],
)
def test_a_segment_belongs_to_its_artery(code: int, side: str, artery: str) -> None:
    assert (side_of(code), artery_of(code)) == (side, artery)


def test_a_classifier_learns_what_separates_and_takes_the_unknown_for_the_mean() -> None:
    rng = np.random.default_rng(5)
    taught, frozen = Examples(), Examples()
    for into in (taught, frozen):
        for number in range(40):
            numbers = rng.normal(0, 1, 6)
            numbers[2] += 4.0 * (number % 2)
            numbers[4] = np.nan
            into.add(numbers, "odd" if number % 2 else "even")
    linear = judged(fit_linear(taught), frozen)
    assert linear is not None
    assert linear.accuracy >= 0.9
    assert (linear.commonest, linear.cases) == (0.5, 40)
    assert linear == judged(fit_linear(taught), frozen)
    unknown = linear.probabilities(np.full(6, np.nan))
    assert unknown["odd"] == pytest.approx(0.5, abs=0.15)
    with pytest.raises(ModelError, match="reads 6 numbers"):
        linear.probabilities(np.zeros(5))


def test_a_classifier_no_better_than_the_commonest_answer_is_left_out() -> None:
    rng = np.random.default_rng(1)
    taught, frozen = Examples(), Examples()
    for number in range(40):
        taught.add(rng.normal(0, 1, 3), "a" if number % 2 else "b")
        frozen.add(np.full(3, np.nan), "a" if number % 4 else "b")
    assert judged(fit_linear(taught), frozen) is None
    assert judged(fit_linear(taught), Examples()) is None


def test_too_few_examples_or_one_class_make_no_classifier() -> None:
    few, one = Examples(), Examples()
    for number in range(12):
        one.add(np.zeros(2), "same")
        if number < 6:
            few.add(np.zeros(2), "a" if number % 2 else "b")
    assert fit_linear(few) is None
    assert fit_linear(one) is None


def test_the_segments_of_a_coronary_share_what_the_coronary_has() -> None:
    bitmap = np.zeros((32, 32), dtype=bool)
    bitmap[10:14, 5:20] = True
    sight = Sight((np.ones((1, 4, 16, 16), dtype=np.float32),), 32, bitmap, View(
        primary_deg=30, secondary_deg=0
    ))  # fmt: skip
    width, own = len(sight.frame_numbers), len(sight.mask_numbers(bitmap))
    side = flat(("left", "right"), width, (np.log(9.0), 0.0))
    segment = flat(("mid LAD", "mid RCA"), own, (0.0, np.log(3.0)))
    found, artery = name_segment(Names(side=side, segment=segment), sight, bitmap, TWO)
    assert found is not None
    assert artery is not None
    assert (found.name, found.score) == ("mid LAD", pytest.approx(0.9))
    assert (artery.name, artery.score) == ("LAD", pytest.approx(0.9))
    alone, _ = name_segment(Names(segment=segment), sight, bitmap, TWO)
    assert alone is not None
    assert (alone.name, alone.score) == ("mid RCA", pytest.approx(0.75))
    unsure = Names(side=flat(("left", "right"), width, (0.0, 0.0)))
    assert name_side(unsure, sight) is not None
    three = flat(("a", "b", "c"), width, (0.0, 0.0, 0.0))
    assert name_side(Names(side=three), sight) is None
    empty = np.zeros_like(bitmap)
    assert name_segment(Names(segment=segment), sight, empty, TWO) == (None, None)


def test_what_is_not_known_of_a_frame_is_not_a_number() -> None:
    maps = (np.ones((1, 4, 16, 16), dtype=np.float32),)
    bare = Sight(maps, 32, None, None).frame_numbers
    seen = Sight(maps, 32, np.ones((32, 32), dtype=bool), View(primary_deg=-30, secondary_deg=20))
    assert len(bare) == len(seen.frame_numbers)
    assert np.isnan(bare).sum() == 4 + 5 + 4
    assert np.isfinite(seen.frame_numbers).all()
    assert seen.frame_numbers[-4] == pytest.approx(-0.5)


def test_a_mask_is_known_by_its_maps_its_place_and_its_place_in_the_tree() -> None:
    rng = np.random.default_rng(3)
    maps = tuple(rng.normal(size=(1, 4, side, side)).astype(np.float32) for side in (16, 8, 4))
    tree, own = rng.random((64, 48)) < 0.3, np.zeros((64, 48), dtype=bool)
    own[20:40, 8:15] = True
    numbers = Sight(maps, 32, tree, None).mask_numbers(own)
    square = whole(own.shape).cut_values(own.astype(np.float32), 32, 0.0)
    for index, one in enumerate(maps):
        step = 32 // one.shape[-1]
        share = square.reshape(one.shape[-1], step, -1, step).mean(axis=(1, 3))
        over = (one[0] * share).sum(axis=(1, 2)) / share.sum()
        np.testing.assert_allclose(numbers[4 * index : 4 * index + 4], over, rtol=1e-5)
    (rows, columns), (tree_rows, tree_columns) = np.nonzero(own), np.nonzero(tree)
    x, y = columns / 64, rows / 64
    slant = np.cov(x, y, bias=True)[0, 1]
    np.testing.assert_allclose(numbers[12:17], [x.mean(), y.mean(), x.std(), y.std(), slant])
    beside = [
        (columns.mean() - tree_columns.min()) / (np.ptp(tree_columns) + 1),
        (rows.mean() - tree_rows.min()) / (np.ptp(tree_rows) + 1),
        (columns.mean() - tree_columns.mean()) / 64,
        (rows.mean() - tree_rows.mean()) / 64,
        own.sum() / tree.sum(),
        np.sqrt(own.sum()) / 64,
    ]
    np.testing.assert_allclose(numbers[17:23], beside)


def _pages(home: Home, split: Split, seeds: range) -> list[Page]:
    """Tubes: high ones are the right coronary's, low ones the left's."""
    catalogue, pages = Catalogue(home), []
    for seed in seeds:
        tube, is_right = draw_tube(seed), seed % 2 == 0
        shift = -40 if is_right else 40
        pixels, stretch = np.roll(tube.pixels, shift, axis=0), np.roll(tube.stretch, shift, axis=0)
        png = png_bytes(pixels)
        case = Case(
            case_id=f"case{seed}", patient=f"p{seed}", split=split, source="images", frame=0,
            n_frames=1, stored_frames=(0,), height_px=pixels.shape[0], width_px=pixels.shape[1],
            image_sha256=sha256_of(png),
            deid=DeidRecord(method="generated", pixel_text="not applicable"),
            view=View(primary_deg=40.0 if is_right else -30.0, secondary_deg=0.0),
        )  # fmt: skip
        catalogue.add(case, {0: png})
        label = "mid RCA" if is_right else "mid LAD"
        drawn = (Drawn(label, "segment", masks.encode(stretch), True),)
        pages.append(Page(FrameRef(case_id=case.case_id, frame=0), drawn))
    return pages


@pytest.fixture(scope="module")
def untaught() -> StudentSegmenter:
    torch.manual_seed(3)
    return as_segmenter(Student(SMALL), "untaught", TWO)


def test_names_are_fitted_on_training_frames_and_judged_on_frozen_ones(
    untaught: StudentSegmenter, tmp_path: Path
) -> None:
    home = Home(tmp_path)
    train, val = _pages(home, Split.TRAIN, range(12)), _pages(home, Split.VAL, range(20, 26))
    names = fit_names(untaught, Catalogue(home), train, val, TWO)
    assert names is not None
    assert names.figures == {"side_accuracy": 1.0, "segment_accuracy": 1.0}
    frames, segments = examples_of(untaught, Catalogue(home), val, TWO)
    assert frames.classes == ["right", "left"] * 3
    assert segments.classes == ["mid RCA", "mid LAD"] * 3
    assert fit_names(untaught, Catalogue(home), train, [], TWO) is None


def test_masks_nobody_reviewed_and_labels_without_codes_name_nothing(
    untaught: StudentSegmenter, tmp_path: Path
) -> None:
    home = Home(tmp_path)
    pages = _pages(home, Split.TRAIN, range(2))
    pseudo = [
        Page(page.ref, tuple(Drawn(o.label, o.role, o.mask, False) for o in page.drawn))
        for page in pages
    ]
    assert examples_of(untaught, Catalogue(home), pseudo, TWO)[0].classes == []
    plain = LabelSet(name="plain", labels=(Label(name="liver"),))
    assert fit_names(untaught, Catalogue(home), pages, pages, plain) is None


@pytest.fixture
def named_bundle(workshop: Workshop, tmp_path: Path) -> Path:
    """The workshop's bundle with classifiers that always say the same."""
    folder = Path(shutil.copytree(workshop.folder, tmp_path / "bundle"))
    maps = segmenter_of(workshop.bundle, load_graphs(folder, 1)).graphs.encode(
        np.zeros((1, 1, 64, 64), dtype=np.float32)
    )
    sight = Sight(maps, 64, None, None)
    frame, own = len(sight.frame_numbers), len(sight.mask_numbers(np.ones((64, 64), dtype=bool)))
    segment = flat(("tube", "web"), own, (3.0, 0.0))
    write_document(
        folder / FILE, Names(side=flat(("left", "right"), frame, (3.0, 0.0)), segment=segment)
    )
    _list(folder)
    return folder


def _list(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][FILE] = sha256_of_file(folder / FILE)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    read_bundle(folder)


def test_one_command_names_coronary_artery_and_segment(named_bundle: Path, tmp_path: Path) -> None:
    path, out = write_run(tmp_path / "run.dcm"), tmp_path / "out"
    given = ("run", path, "--out", out, "--bundle", named_bundle, "--no-gif", "--box", BOX)
    done = CliRunner().invoke(main, [str(one) for one in given])
    assert done.exit_code == 0, done.output
    assert "left coronary" in done.output
    assert "vessel 1 (tube)" in done.output
    result = read_document(out / "qca.json", InferReport).results[0]
    assert (result.coronary, result.coronary_score) == ("left", pytest.approx(0.953, abs=0.01))
    vessel = result.vessels[0]
    assert (vessel.label, vessel.label_source, vessel.cass) == ("tube", "classifier", 13)
    assert vessel.artery == "LAD"
    row = next(csv.DictReader((out / "qca.csv").read_text().splitlines()))
    assert (row["coronary"], row["artery"], row["label_source"]) == ("left", "LAD", "classifier")
    coco = read_annotations(out / "annotations.coco.json")
    assert "tube" in {coco.label_of(one) for one in coco.annotations}
    named = CliRunner().invoke(main, [*(str(one) for one in given), "--segment", "tube"])
    assert named.exit_code == 0
    vessel = read_document(out / "qca.json", InferReport).results[0].vessels[0]
    assert (vessel.label_source, vessel.label_score, vessel.artery) == ("given", None, "LAD")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('{"schema": 2}', "install a newer angioloop", id="newer"),
        pytest.param("half", "not a valid Names", id="torn"),
    ],
)
def test_names_this_program_cannot_read_are_refused(
    named_bundle: Path, tmp_path: Path, text: str, message: str
) -> None:
    (named_bundle / FILE).write_text(text)
    _list(named_bundle)
    path = write_run(tmp_path / "run.dcm")
    given = ("run", path, "--out", tmp_path / "out", "--bundle", named_bundle)
    done = CliRunner().invoke(main, [str(one) for one in given])
    assert done.exit_code == ModelError.exit_code
    assert message in done.output


def test_classifiers_of_another_encoder_are_refused(named_bundle: Path, tmp_path: Path) -> None:
    write_document(named_bundle / FILE, Names(side=flat(("left", "right"), 3, (0.0, 0.0))))
    _list(named_bundle)
    path = write_run(tmp_path / "run.dcm")
    given = ("run", path, "--out", tmp_path / "out", "--bundle", named_bundle)
    done = CliRunner().invoke(main, [str(one) for one in given])
    assert done.exit_code != 0
    assert "copy the bundle again" in done.output

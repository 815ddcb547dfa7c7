"""Learnt figures of lesions: what they read, that they learn, and that only better ones ship."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from angio.qca import Lesion, measure
from casebook import masks
from casebook.cases import Case, DeidRecord, FrameRef, PixelSpacing, Split
from casebook.catalogue import Catalogue, png_bytes
from casebook.documents import read_document, sha256_of, sha256_of_file, write_document
from casebook.errors import ModelError
from casebook.home import Home
from casebook.protocols import Embedding, Frame, Prediction, Prompt
from export.answers import StudentSegmenter
from export.bundle import read_bundle
from export.cli import main
from export.estimator import (
    FIGURES,
    FILE,
    Estimator,
    Figure,
    Look,
    Regression,
    from_scale,
    to_scale,
)
from export.estimator_fit import fit_estimator, judged, judged_again, kept, learn
from export.gates import Gates, LearntGate
from export.lesions import Example, examples_of, speaks
from export.outputs import InferReport
from export.release import as_segmenter
from export.student import Student
from export.syllabus import Drawn, Page
from tests.unit.export.conftest import Workshop
from tests.unit.export.workshop import (
    LABELS,
    SMALL,
    Rememberer,
    draw_tube,
    write_run,
)

SIDE = 64
N_NUMBERS = 26
N_SEEN = sum(SMALL.widths)
BOX = "40,50,115,110"


@pytest.fixture(scope="module")
def lesion() -> Lesion:
    tube = draw_tube(0)
    return measure(tube.pixels, tube.stretch)


def tube_look(narrow: float, lesion: Lesion | None = None) -> Look:
    """A dark horizontal vessel 12 px wide, narrowed and paler by a share in its middle."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
    half = 6.0 * (1 - narrow * np.exp(-(((columns - 32) / 5) ** 2)))
    inside = (np.abs(rows - 32) <= half) & (columns > 4) & (columns < 60)
    depth = np.sqrt(np.clip(half**2 - (rows - 32) ** 2, 0, None)) / 6.0
    grey = np.clip(180 * np.exp(-0.7 * depth), 0, 255).astype(np.uint8)
    logits = np.where(inside, np.float32(5), np.float32(-5))
    maps = (np.ones((1, 3, 32, 32), dtype=np.float32), np.ones((1, 2, 16, 16), dtype=np.float32))
    return Look(grey, inside, logits, maps, 1.5, lesion, 0.8, 0.1)


def test_the_numbers_of_a_look_tell_widths_darkness_and_measurement(lesion: Lesion) -> None:
    even, tight = tube_look(0.0, lesion), tube_look(0.6)
    assert len(even.numbers) == len(tight.numbers) == N_NUMBERS
    assert np.isfinite(even.numbers).all()
    measured = [even.numbers[at] for at in range(3)]
    assert measured == [to_scale(name, getattr(lesion, name)) for name in FIGURES]
    assert (even.numbers[4], tight.numbers[4]) == (0.0, 1.0)
    assert np.isnan(tight.numbers[:4]).all()
    assert even.numbers[7] == pytest.approx(np.log(1.5))
    thinnest, usual_width, palest = 8, 13, 16
    assert tight.numbers[thinnest] < 0.6 < even.numbers[thinnest] <= 1.0
    assert np.exp(even.numbers[usual_width]) == pytest.approx(1.5 * 6.5, rel=0.15)
    assert tight.numbers[palest] < 0.75 * even.numbers[palest]
    assert even.seen.tolist() == [1.0] * 5
    nothing = replace(even, inside=np.zeros_like(even.inside))
    assert np.isnan(nothing.numbers[8:]).all()
    assert np.isfinite(nothing.seen).all()


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_is_told_in_the_unit_it_is_measured_in(figure: Figure) -> None:
    assert from_scale(figure, to_scale(figure, 37.5)) == pytest.approx(37.5)
    assert to_scale("mld_px", 0.0) == to_scale("mld_px", 0.5)


def flat(value: float, share: float = 0.0, **changes: object) -> Regression:
    """A regression that says the same whatever it sees."""
    said = Regression(
        weights=(0.0,) * N_NUMBERS, bias=value, qca_share=share, low=-9, high=9, usual=0.0
    )
    return said.with_(**changes)


def estimator(**figures: Regression) -> Estimator:
    return Estimator.model_validate(
        {"mean": (0.0,) * N_NUMBERS, "deviation": (1.0,) * N_NUMBERS, **figures}
    )


def test_an_estimate_is_a_share_of_qca_and_cut_to_what_was_learnt(lesion: Lesion) -> None:
    look, refused = tube_look(0.3, lesion), tube_look(0.3)
    half = estimator(stenosis_pct=flat(0.4, 0.5))
    assert half.of("stenosis_pct", look) == pytest.approx(20 + lesion.stenosis_pct / 2)
    assert half.of("stenosis_pct", refused) == pytest.approx(40)
    assert half.of("mld_px", look) is None
    cut = estimator(rvd_px=flat(np.log(50.0), low=np.log(4.0), high=np.log(12.0)))
    assert cut.of("rvd_px", look) == pytest.approx(12.0)
    spacing = PixelSpacing(row_mm=0.3, col_mm=0.3, source="isocentre")
    told = cut.learnt(look, spacing)
    assert told.rvd_mm == pytest.approx(3.6)
    assert (told.stenosis_pct, told.mld_px, told.mld_mm) == (None, None, None)
    assert cut.learnt(look, None).rvd_mm is None


def test_numbers_of_another_encoder_are_refused() -> None:
    few = Estimator(mean=(0.0,), deviation=(1.0,), stenosis_pct=flat(0.4, weights=(0.0,)))
    with pytest.raises(ModelError, match="reads 1 numbers and this encoder gives 26"):
        few.of("stenosis_pct", tube_look(0.3))
    with pytest.raises(ValueError, match="the weights of mld_px are not as many"):
        estimator(mld_px=flat(0.4, weights=(0.0,)))


def known_examples(count: int, seed: int, *, truth_is_seen: bool) -> list[Example]:
    """Lesions whose depth the picture shows, or does not; QCA is off by 20 points or so."""
    rng = np.random.default_rng(seed)
    tube = draw_tube(0)
    one = measure(tube.pixels, tube.stretch)
    found = []
    for number in range(count):
        narrow = rng.uniform(0.1, 0.8)
        wrong = float(np.clip(100 * narrow + rng.normal(0, 20), 0, 100))
        look = tube_look(narrow if truth_is_seen else 0.3, one.with_(stenosis_pct=wrong))
        known = np.array([narrow, np.nan, np.nan])
        found.append(Example(look, known, 1.0, f"p{number % 10}", f"case{number}"))
    return found


def test_what_the_picture_shows_is_learnt_and_ships() -> None:
    fitted = fit_estimator(known_examples(60, 1, truth_is_seen=True))
    assert fitted is not None
    assert fitted == fit_estimator(known_examples(60, 1, truth_is_seen=True))
    assert (fitted.mld_px, fitted.rvd_px) == (None, None)  # nobody knew them
    gate = judged(fitted, known_examples(30, 2, truth_is_seen=True), "stenosis_pct", 20)
    assert gate is not None
    assert gate.is_shipped
    assert gate.error < 5
    assert gate.error_of_qca is not None
    assert gate.error_of_qca > 10
    assert gate.text.endswith("nearer than both")
    assert kept(fitted, [gate]) is not None
    assert judged(fitted, known_examples(30, 2, truth_is_seen=True), "mld_px", 20) is None


def test_what_is_no_nearer_than_qca_is_left_out_and_says_so() -> None:
    taught = known_examples(60, 1, truth_is_seen=False)
    # QCA is right here: nothing can be nearer.
    frozen = [
        replace(one, look=replace(one.look, lesion=one.look.lesion.with_(stenosis_pct=share)))
        for one in known_examples(30, 2, truth_is_seen=False)
        if one.look.lesion is not None and (share := 100 * float(one.known[0]))
    ]
    fitted = fit_estimator(taught)
    assert fitted is not None
    gate = judged(fitted, frozen, "stenosis_pct", 20)
    assert gate is not None
    assert gate.error_of_qca == pytest.approx(0)
    assert gate.beyond_qca is not None
    assert gate.beyond_qca > 0
    assert not gate.is_shipped
    assert "not shown to be nearer" in gate.text
    assert kept(fitted, [gate]) is None


def test_too_few_lesions_are_neither_learnt_from_nor_judged_on() -> None:
    assert fit_estimator([]) is None
    assert fit_estimator(known_examples(30, 1, truth_is_seen=True)) is None
    few_patients = [
        replace(one, patient=f"p{number % 3}")
        for number, one in enumerate(known_examples(60, 1, truth_is_seen=True))
    ]
    assert fit_estimator(few_patients) is None
    fitted = fit_estimator(known_examples(60, 1, truth_is_seen=True))
    assert fitted is not None
    gate = judged(fitted, known_examples(19, 2, truth_is_seen=True), "stenosis_pct", 20)
    assert gate is not None
    assert not gate.is_shipped
    refused = [
        replace(one, look=replace(one.look, lesion=None))
        for one in known_examples(30, 2, truth_is_seen=True)
    ]
    unmeasured = judged(fitted, refused, "stenosis_pct", 20)
    assert unmeasured is not None
    assert (unmeasured.measured, unmeasured.error_of_qca) == (0, None)
    assert not unmeasured.is_shipped
    assert "QCA measures on none" in unmeasured.text


class Headed(Rememberer):
    """A teacher that tells of lesions, too."""

    def predict(self, embedding: Embedding, prompt: Prompt) -> tuple[Prediction, ...]:
        found = super().predict(embedding, prompt)
        return tuple(replace(one, heads={"stenosis_pct": 55.0, "code": 2.0}) for one in found)


@pytest.fixture(scope="module")
def untaught() -> StudentSegmenter:
    torch.manual_seed(3)
    return as_segmenter(Student(SMALL), "untaught", LABELS)


def _page(catalogue: Catalogue, number: int) -> Page:
    tube = draw_tube(number)
    png = png_bytes(tube.pixels)
    case = Case(
        case_id=f"case{number}", patient=f"p{number}", split=Split.TRAIN, source="images", frame=0,
        n_frames=1, stored_frames=(0,), height_px=160, width_px=160, image_sha256=sha256_of(png),
        deid=DeidRecord(method="generated", pixel_text="not applicable"),
    )  # fmt: skip
    catalogue.add(case, {0: png})
    drawn = (Drawn("tube", "segment", masks.encode(tube.stretch), True),)
    return Page(FrameRef(case_id=case.case_id, frame=0), drawn)


def test_lesions_are_known_from_experts_from_their_cine_and_from_heads(
    untaught: StudentSegmenter, tmp_path: Path
) -> None:
    catalogue = Catalogue(Home(tmp_path))
    drawn, other = _page(catalogue, 0), _page(catalogue, 1)
    tube = draw_tube(0)
    truth = measure(tube.pixels, tube.stretch)
    beside = Page(drawn.ref, boxes=drawn.prompted_boxes)
    elsewhere = Page(other.ref, boxes=other.prompted_boxes)
    headed, silent = Headed(), Rememberer()
    for teacher in (headed, silent):
        teacher.known = {Frame(draw_tube(seed).pixels).digest: draw_tube(seed) for seed in (0, 1)}
    pages = [drawn, beside, elsewhere]
    assert speaks(headed, catalogue, pages)
    assert not speaks(silent, catalogue, pages)
    assert not speaks(silent, catalogue, [])
    found = examples_of(untaught, catalogue, pages, headed, is_taught=True)
    assert [(one.case_id, one.weight) for one in found] == [
        ("case0", 1.0),
        ("case0", 1.0),
        ("case0", 1.0),
        ("case1", 0.5),
    ]
    wanted = [to_scale(figure, getattr(truth, figure)) for figure in FIGURES]
    assert found[0].known.tolist() == found[2].known.tolist() == wanted
    assert found[3].known[0] == pytest.approx(0.55)
    assert np.isnan(found[3].known[1:]).all()
    assert len(found[0].look.numbers) == N_NUMBERS
    assert len(found[0].look.seen) == N_SEEN
    assert len(examples_of(untaught, catalogue, pages)) == 1
    unreviewed = Page(drawn.ref, tuple(replace(one, is_reviewed=False) for one in drawn.drawn))
    assert examples_of(untaught, catalogue, [unreviewed]) == []
    assert learn(untaught, silent, catalogue, pages, [], 20) == (None, ())
    assert learn(untaught, silent, catalogue, [beside], [], 20) == (None, ())


def test_a_distillation_learns_judges_and_measures_again(
    untaught: StudentSegmenter, tmp_path: Path
) -> None:
    catalogue = Catalogue(Home(tmp_path))
    pages = [_page(catalogue, number) for number in range(26)]
    taught, val = pages[:22], pages[22:]
    first = draw_tube(0)
    teacher = Rememberer(known={Frame(first.pixels).digest: first})
    fitted, gates = learn(untaught, teacher, catalogue, taught, val, 2)
    assert [one.figure for one in gates] == list(FIGURES)
    passed = {one.figure for one in gates if one.is_shipped}
    assert passed == {name for name in FIGURES if fitted and getattr(fitted, name) is not None}
    strict, same = learn(untaught, teacher, catalogue, taught, val, 5)
    assert strict is None  # of too few lesions
    assert [one.error for one in same] == [one.error for one in gates]
    said = estimator(stenosis_pct=flat(0.42))
    with_one = replace(untaught, estimator=said)
    again = judged_again(gates, with_one, catalogue, val, 2)
    assert again[1:] == gates[1:]
    known = [one.known[0] for one in examples_of(untaught, catalogue, val)]
    assert again[0].error == pytest.approx(100 * np.abs(np.array(known) - 0.42).mean())
    assert judged_again(gates, untaught, catalogue, val, 2) == gates


@pytest.fixture
def learnt_bundle(workshop: Workshop, tmp_path: Path) -> Path:
    """The workshop's bundle with an estimator that always says the same."""
    folder = Path(shutil.copytree(workshop.folder, tmp_path / "bundle"))
    said = estimator(stenosis_pct=flat(0.42), rvd_px=flat(np.log(9.0), low=0.0, high=3.0))
    write_document(folder / FILE, said)
    _list(folder)
    return folder


def _list(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][FILE] = sha256_of_file(folder / FILE)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    read_bundle(folder)


def _run(bundle: Path, tmp_path: Path) -> tuple[int, str]:
    path = write_run(tmp_path / "run.dcm")
    given = ("run", path, "--out", tmp_path / "out", "--bundle", bundle, "--no-gif", "--box", BOX)
    done = CliRunner().invoke(main, [str(one) for one in given])
    return done.exit_code, done.output


def test_tables_tell_what_was_learnt_in_columns_of_its_own(
    learnt_bundle: Path, tmp_path: Path
) -> None:
    exit_code, output = _run(learnt_bundle, tmp_path)
    assert exit_code == 0, output
    vessel = read_document(tmp_path / "out" / "qca.json", InferReport).results[0].vessels[0]
    assert vessel.learnt is not None
    assert vessel.learnt.stenosis_pct == pytest.approx(42.0)
    assert vessel.learnt.rvd_px == pytest.approx(9.0)
    assert vessel.learnt.rvd_mm == pytest.approx(9.0 * 0.3)
    row = next(csv.DictReader((tmp_path / "out" / "qca.csv").read_text().splitlines()))
    assert (row["stenosis_pct_learnt"], row["mld_learnt"]) == ("42.0", "")
    assert (row["rvd_learnt"], row["unit"]) == ("2.700", "mm")
    assert row["spacing_source"] == "isocentre"
    if vessel.lesion is None:
        assert row["stenosis_pct"] == ""
    else:
        assert row["stenosis_pct"] == f"{vessel.lesion.stenosis_pct:.1f}"


def test_a_bundle_without_it_leaves_those_columns_empty(workshop: Workshop, tmp_path: Path) -> None:
    exit_code, output = _run(workshop.folder, tmp_path)
    assert exit_code == 0, output
    row = next(csv.DictReader((tmp_path / "out" / "qca.csv").read_text().splitlines()))
    assert {row[name] for name in ("stenosis_pct_learnt", "mld_learnt", "rvd_learnt")} == {""}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('{"schema": 2}', "install a newer angioloop", id="newer"),
        pytest.param("half", "not a valid Estimator", id="torn"),
    ],
)
def test_an_estimator_this_program_cannot_read_is_refused(
    learnt_bundle: Path, tmp_path: Path, text: str, message: str
) -> None:
    (learnt_bundle / FILE).write_text(text)
    _list(learnt_bundle)
    exit_code, output = _run(learnt_bundle, tmp_path)
    assert exit_code == ModelError.exit_code
    assert message in output


def test_verify_tells_how_every_figure_did(workshop: Workshop, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(workshop.folder, tmp_path / "bundle"))
    gate = LearntGate(
        figure="rvd_px", unit="px", lesions=32, error=0.97, error_of_usual=1.83, beyond_usual=-0.3,
        measured=26, error_where_measured=1.03, error_of_qca=1.61, beyond_qca=-0.23,
        is_shipped=True,
    )  # fmt: skip
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["gates"]["learnt"] = [gate.model_dump(mode="json")]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    done = CliRunner().invoke(main, ["verify", str(folder)])
    assert done.exit_code == 0, done.output
    assert gate.text in done.output
    assert Gates.model_validate(manifest["gates"]).failures() == ()


def test_a_manifest_of_schema_2_is_read_without_learnt_figures(
    workshop: Workshop, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(workshop.folder, tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["schema"] == 3
    manifest["schema"] = 2
    del manifest["gates"]["learnt"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert read_bundle(folder).gates.learnt == ()

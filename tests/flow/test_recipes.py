"""The recipes of the plan's phases, each from its own file, on a few tubes with a small base."""

from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Bool

from casebook import masks
from casebook.annotations import AnnotationSet, AnnotationSetBuilder, Origin, read_annotations
from casebook.cases import Case, DeidRecord, Split, View
from casebook.catalogue import Catalogue, png_bytes
from casebook.documents import read_document, sha256_of
from casebook.errors import StateError
from casebook.home import Home
from casebook.labels import LabelSet, read_labels
from casebook.registry import Registry
from casebook.rounds import RoundFolder
from segmenter.prompts import WindowConfig
from segmenter.samples import Augmentation, RoundData
from tests.unit.trainer.workspace import SIDE_PX, make_base, picture
from trainer.chain import check_ready
from trainer.results import Candidate
from trainer.samples import training_set
from trainer.select import select
from trainer.tasks import run_step
from trainer.work import Work

RECIPES = Path(__file__).parents[2] / "conf" / "recipes"
LABELS = read_labels(RECIPES.parent / "labels" / "coronary.yaml")
SHORT = ("train.steps=4", "train.batch=2", "train.log_every=1")
SEGMENTS = ("mid RCA", "distal RCA")


def _add(
    catalogue: Catalogue, number: int, split: Split, *, pseudo: bool = False, whole: bool = False
) -> None:
    """One tube, an expert's segment (or all of them) or another program's tree."""
    pixels, bitmap = picture(number)
    payload = png_bytes(pixels)
    case = Case(
        case_id=f"case-{number:03d}",
        patient=f"p{number:03d}",
        split=split,
        source="images",
        frame=0,
        n_frames=1,
        stored_frames=(0,),
        height_px=SIDE_PX,
        width_px=SIDE_PX,
        vessel="RCA",
        view=View(primary_deg=30.0, secondary_deg=-10.0),
        segment=None if whole else SEGMENTS[number % 2],
        image_sha256=sha256_of(payload),
        deid=DeidRecord(method="synthetic", pixel_text="not applicable"),
    )
    tree = _drawn(case, "coronary artery", bitmap, Origin.PSEUDO)
    expert = _drawn(case, SEGMENTS[number % 2], bitmap, Origin.HUMAN)
    catalogue.add(
        case,
        {0: payload},
        annotations=None if pseudo else expert,
        pseudo=tree if pseudo else None,
    )


def _drawn(case: Case, label: str, bitmap: Bool[np.ndarray, "h w"], by: Origin) -> AnnotationSet:
    builder = AnnotationSetBuilder(LABELS)
    image_id = builder.add_image(case.ref, (SIDE_PX, SIDE_PX), status="ok")
    builder.add_mask(image_id, label, masks.encode(bitmap), by)
    return builder.build()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "small")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Four cases experts drew, two of them whole, three with a pseudo-label; scored ones."""
    place = Home(tmp_path / "workspace")
    catalogue = Catalogue(place)
    for number in range(4):
        _add(catalogue, number, Split.TRAIN, whole=number > 1)
    for number in range(4, 7):
        _add(catalogue, number, Split.TRAIN, pseudo=True)
    for number, split in ((7, Split.VAL), (8, Split.VAL), (9, Split.TEST)):
        _add(catalogue, number, split)
    return place


def trained(home: Home, base: Path, recipe: str, *overrides: str) -> tuple[Work, Candidate]:
    """Select and train round 1 by a recipe's file, shortened."""
    work = Work(RoundFolder(home, 1), RECIPES / recipe, (f"base={base}", *SHORT, *overrides))
    select(work)
    run_step("train", work)
    return work, read_document(work.folder.file("candidate.json"), Candidate)


def test_every_recipe_is_tried_here() -> None:
    found = {path.parent.name for path in RECIPES.glob("*/round-01.yaml")}
    assert found == {"smoke", "vessel-tree", "segments", "expert", "views-told", "views-untold"}


def test_the_tree_is_learnt_from_pseudo_labels_alone(home: Home, base: Path) -> None:
    work, candidate = trained(home, base, "vessel-tree")
    manifest = work.folder.manifest()
    assert [line.at.case_id for line in manifest.cases] == [f"case-00{n}" for n in (4, 5, 6)]
    assert len(manifest.val) == 2
    assert candidate.masks_by_origin == {"pseudo": 3}
    assert candidate.steps == 4
    assert "concept" in candidate.figures
    assert "mask" not in candidate.figures
    drawn = read_annotations(work.folder.file("annotations.coco.json"))
    assert {drawn.label_of(entry) for entry in drawn.annotations} == {"coronary artery"}
    # The whole of a round: the report has the tree's figures beside the others.
    for step in ("evaluate", "decide", "promote", "report"):
        run_step(step, work)
    assert work.folder.has("report.html")


def test_a_workspace_without_experts_training_cases_is_ready_for_pseudo_labels(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path / "workspace")
    catalogue = Catalogue(home)
    _add(catalogue, 4, Split.TRAIN, pseudo=True)
    folder = RoundFolder(home, 1)
    check_ready(folder, "pseudo")
    with pytest.raises(StateError, match="no train case with expert annotations"):
        check_ready(folder)
    for number, split in ((7, Split.VAL), (8, Split.TEST), (9, Split.TRAIN)):
        _add(catalogue, number, split)
    work = Work(folder, RECIPES / "vessel-tree")
    select(work)
    assert [line.at.case_id for line in folder.manifest().cases] == ["case-004"]
    folder.file("manifest.json").unlink()
    catalogue.remove(["case-004"])
    with pytest.raises(StateError, match="no train case with pseudo-label annotations"):
        select(work)


def test_segments_are_learnt_with_negatives_that_are_easily_taken_for_them(
    home: Home, base: Path
) -> None:
    work, candidate = trained(home, base, "segments", "train.stop={every: 2, patience: 1}")
    assert candidate.masks_by_origin == {"human": 4}
    assert "val" in candidate.figures
    config = work.config
    assert config.train.hard_negatives == 0.5
    samples = training_set(home, work.catalogue, (1,), LABELS, config.weights).samples
    # Where one analysed segment was drawn nothing is known to be absent.
    assert [bool(sample.absent) for sample in samples] == [False, False, True, True]
    assert samples[2].similar == ("proximal RCA", "distal RCA")
    assert samples[3].similar == ("mid RCA", "PDA")

    def asked(share: float) -> list[str]:
        train = config.train.model_copy(update={"hard_negatives": share, "batch": 8})
        data = RoundData(samples, train, WindowConfig(), Augmentation(), 64, 4)
        batches = [data.batch(step) for step in range(1, 200, 2)]
        return [
            query.concept
            for batch in batches
            for query in batch.queries
            if not len(query.instances)
        ]

    similar = {"proximal RCA", "distal RCA", "mid RCA", "PDA"}
    shares = [np.mean([name in similar for name in asked(share)]) for share in (0.0, 0.5, 1.0)]
    assert shares[0] < 0.35
    assert 0.4 < shares[1] < 0.8
    assert shares[2] == 1.0


@pytest.mark.parametrize(("recipe", "told"), [("views-told", True), ("views-untold", False)])
def test_the_view_experiment_differs_in_what_the_heads_are_told(
    home: Home, base: Path, recipe: str, told: bool
) -> None:
    _, candidate = trained(home, base, recipe, "train.log_every=4")  # all steps as one
    assert "heads" in candidate.figures
    card = Registry(home).card(candidate.model_id)
    heads = card.config["heads"]
    assert isinstance(heads, dict)
    assert heads["uses_view"] is told
    ours, theirs = (
        (RECIPES / name / "round-01.yaml").read_text().split("labels:", 1)[1]
        for name in ("views-told", "views-untold")
    )
    assert ours.replace("uses_view: true", "") == theirs.replace("uses_view: false", "")


def test_experts_masks_alone_train(home: Home, base: Path) -> None:
    work, candidate = trained(home, base, "expert", "train.stop={every: 2, patience: 1}")
    assert candidate.masks_by_origin == {"human": 4}
    assert 0 <= candidate.figures["val"] <= 1
    weights = work.config.weights
    assert (weights.of(Origin.PSEUDO), weights.of(Origin.TRACKED)) == (0.0, 0.0)


def test_labels_of_the_recipes_are_the_coronary_ones() -> None:
    assert isinstance(LABELS, LabelSet)
    assert set(SEGMENTS) <= {label.name for label in LABELS.of_role("segment")}

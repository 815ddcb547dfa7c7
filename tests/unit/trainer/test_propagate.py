"""Masks carried through a cine: both ways, until they are lost, by a model without weights."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Bool

from casebook import masks
from casebook.annotations import (
    AnnotationSetBuilder,
    Origin,
    read_annotations,
    write_annotations,
)
from casebook.cases import Case, FrameRef, Split
from casebook.catalogue import Catalogue, png_bytes
from casebook.documents import sha256_of, write_document
from casebook.errors import StateError
from casebook.following import Follower
from casebook.home import Home
from casebook.metrics import iou
from casebook.rounds import Manifest, RoundFolder
from tests.fakes.threshold_model import ThresholdSegmenter
from tests.unit.trainer.workspace import LABELS, add_case, make_conf
from trainer.propagate import TRACKED, carried, propagate
from trainer.rounds_config import PropagateConfig
from trainer.tasks import STEPS
from trainer.work import Work

SIDE = 96
START = 3


def bar(row: int) -> Bool[np.ndarray, "h w"]:
    bitmap = np.zeros((SIDE, SIDE), dtype=bool)
    bitmap[row : row + 6, 20:70] = True
    return bitmap


def truth(frame: int) -> Bool[np.ndarray, "h w"]:
    """The vessel moves down by two pixels a frame, and has no contrast on the last frame."""
    return bar(30 + 2 * frame) if frame < 6 else np.zeros((SIDE, SIDE), dtype=bool)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Seven frames, the fourth is the annotated one."""
    catalogue = Catalogue(Home(tmp_path))
    pixels = [np.where(truth(i), np.uint8(60), np.uint8(180)) for i in range(7)]
    frames = {i: png_bytes(picture) for i, picture in enumerate(pixels)}
    one = add_case(catalogue, 5, Split.TRAIN, is_annotated=False)
    run = one.with_(
        case_id="run",
        frame=START,
        n_frames=7,
        stored_frames=tuple(range(7)),
        image_sha256=sha256_of(frames[START]),
    )
    catalogue.add(run, frames)
    return run


@pytest.fixture
def work(case: Case, tmp_path: Path) -> Work:
    conf = make_conf(tmp_path, cases=5)
    return Work(RoundFolder(Home(tmp_path), 2), conf)


def carry(work: Work, case: Case, **settings: float) -> dict[int, float]:
    config = PropagateConfig(threshold=0.3).model_copy(update=settings)
    tracker = Follower(ThresholdSegmenter(level=120))
    found = carried(work, tracker, case, START, truth(START), config)
    return {one.frame: iou(one.bitmap, truth(one.frame)) for one in found}


def test_a_mask_is_carried_both_ways_until_it_is_lost(work: Work, case: Case) -> None:
    found = carry(work, case)
    assert sorted(found) == [0, 1, 2, 4, 5]
    assert min(found.values()) > 0.9


def test_a_mask_goes_no_further_than_it_may(work: Work, case: Case) -> None:
    assert sorted(carry(work, case, reach=1)) == [2, 4]
    assert carry(work, case, threshold=0.999) == {}


def seal(work: Work, case: Case, status: str = "corrected") -> None:
    builder = AnnotationSetBuilder(LABELS)
    image = builder.add_image(case.ref, (SIDE, SIDE), status=status)  # type: ignore[arg-type]
    builder.add_mask(image, "tube", masks.encode(truth(START)), Origin.HUMAN)
    write_annotations(work.folder.file("annotations.coco.json"), builder.build())


def test_the_step_writes_the_other_frames_once(work: Work, case: Case) -> None:
    manifest = Manifest(
        round=2,
        labels=LABELS,
        strategy="order",
        seed=0,
        cases=(),
        val=(),
        test=(),
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )
    write_document(work.folder.file("manifest.json"), manifest)
    seal(work, case)
    assert STEPS["propagate"] is propagate
    said = propagate(work)
    assert "through 1 cines" in said
    tracked = read_annotations(work.folder.file(TRACKED))
    assert [image.ref for image in tracked.images] == [
        FrameRef(case_id="run", frame=frame) for frame in (0, 1, 2, 4, 5, 6)
    ]
    assert {entry.origin for entry in tracked.annotations} <= {Origin.TRACKED}
    assert propagate(work) == f"{TRACKED} is there"


@pytest.mark.parametrize("spoil", ["rejected", "one frame"])
def test_a_round_without_a_reviewed_cine_is_refused(work: Work, case: Case, spoil: str) -> None:
    if spoil == "one frame":
        case = Catalogue(work.folder.home).get("case-005")
    seal(work, case, "rejected" if spoil == "rejected" else "ok")
    with pytest.raises(StateError, match="import whole cines"):
        propagate(work)


def test_a_round_that_is_not_pulled_is_refused(work: Work) -> None:
    with pytest.raises(StateError, match="cvatsync pull --round 2"):
        propagate(work)

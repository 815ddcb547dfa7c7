"""A propagation asked for by name is done by a real worker on the embedded queue."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from casebook import masks
from casebook.annotations import (
    AnnotationSetBuilder,
    Origin,
    read_annotations,
    write_annotations,
)
from casebook.catalogue import Catalogue, png_bytes
from casebook.documents import write_document
from casebook.rounds import Event, Manifest, RoundFolder
from cvat_sync.dispatch import PROPAGATION, RequestedStepError, request
from tests.flow.test_rounds_worker import workers
from tests.unit.trainer.workspace import LABELS, SIDE_PX, make_conf, make_workspace, picture


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RoundFolder]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("ANGIOLOOP_BROKER", raising=False)
    home = make_workspace(tmp_path)
    yield RoundFolder(home, 2)
    for process in workers(home):
        process.kill()
        process.wait(timeout=60)


def seal(folder: RoundFolder, frames: tuple[int, ...]) -> None:
    """A pulled round of one case that keeps these frames, all the same picture."""
    catalogue = Catalogue(folder.home)
    case = catalogue.get("case-004")
    pixels, bitmap = picture(4)
    payload = catalogue.frame_path(case.ref).read_bytes()
    run = {frame: payload if frame == case.frame else png_bytes(pixels) for frame in frames}
    catalogue.add(case.with_(stored_frames=frames, n_frames=len(frames)), run)
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
    write_document(folder.file("manifest.json"), manifest)
    builder = AnnotationSetBuilder(LABELS)
    image = builder.add_image(case.ref, (SIDE_PX, SIDE_PX), status="corrected")
    builder.add_mask(image, "tube", masks.encode(bitmap), Origin.HUMAN)
    write_annotations(folder.file("annotations.coco.json"), builder.build())


# Kombu's SQLAlchemy transport uses a loader that SQLAlchemy 2.1 will drop.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_a_worker_carries_the_masks_and_says_why_when_it_cannot(
    folder: RoundFolder, tmp_path: Path
) -> None:
    conf = make_conf(tmp_path)
    seal(folder, (0,))
    with pytest.raises(RequestedStepError, match="import whole cines") as caught:
        request(folder, PROPAGATION, conf, lambda _event: None)
    assert caught.value.exit_code == 6
    seal(folder, (0, 1, 2))
    shown: list[Event] = []
    request(folder, PROPAGATION, conf, shown.append)
    tracked = read_annotations(folder.file("tracked.coco.json"))
    assert [image.frame for image in tracked.images] == [1, 2]
    assert {entry.origin for entry in tracked.annotations} <= {Origin.TRACKED}
    assert all(np.any(masks.decode(entry.mask)) for entry in tracked.annotations)
    assert shown[-1].step == "propagate"

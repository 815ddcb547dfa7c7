"""Leaks across catalogue and rounds, rounds' hashes, and how rounds differ."""

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from casebook import masks
from casebook.annotations import AnnotationSet, AnnotationSetBuilder, Origin, write_annotations
from casebook.cases import Case, Split
from casebook.catalogue import Catalogue, png_bytes
from casebook.content import content_of
from casebook.differences import diff_rounds
from casebook.documents import sha256_of, write_document
from casebook.home import Home
from casebook.labels import Label, LabelSet
from casebook.leaks import find_leaks
from casebook.registry import ModelCard, Registry
from casebook.rounds import Manifest, ManifestCase, RoundFolder

LABELS = LabelSet(name="two", labels=(Label(name="a"), Label(name="b")))
HW = (16, 16)


def block(size: int) -> np.ndarray:
    bitmap = np.zeros(HW, dtype=bool)
    bitmap[2 : 2 + size, 2 : 2 + size] = True
    return bitmap


def add(home: Home, name: str, patient: str, split: Split, *, grey: int | None = None) -> Case:
    shade = grey if grey is not None else int.from_bytes(name.encode(), "big") % 251
    payload = png_bytes(np.full(HW, shade, dtype=np.uint8))
    case = Case(
        case_id=name, patient=patient, split=split, source="test", frame=0, n_frames=1,
        height_px=HW[0], width_px=HW[1], image_sha256=sha256_of(payload), phase="INDEX",
    )  # fmt: skip
    Catalogue(home).add(case, {0: payload})
    return case


def entry(case: Case) -> ManifestCase:
    return ManifestCase(
        at=case.ref, patient=case.patient, split=case.split, image_sha256=case.image_sha256
    )


def write_round(
    home: Home,
    number: int,
    train: tuple[Case, ...],
    val: tuple[Case, ...],
    test: tuple[Case, ...] = (),
    labels: LabelSet = LABELS,
) -> RoundFolder:
    folder = RoundFolder(home, number)
    manifest = Manifest(
        round=number, labels=labels, strategy="order", seed=1,
        cases=tuple(map(entry, train)), val=tuple(map(entry, val)), test=tuple(map(entry, test)),
        created=datetime(2026, 1, number, tzinfo=UTC),
    )  # fmt: skip
    write_document(folder.file("manifest.json"), manifest)
    return folder


def drawn(*frames: tuple[Case, dict[str, tuple[int, Origin]]]) -> AnnotationSet:
    builder = AnnotationSetBuilder(LABELS)
    for case, by_label in frames:
        image = builder.add_image(case.ref, HW, status="ok")
        for label, (size, origin) in by_label.items():
            model = "m1" if origin is not Origin.HUMAN else None
            builder.add_mask(image, label, masks.encode(block(size)), origin, model_id=model)
    return builder.build()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def cases(home: Home) -> dict[str, Case]:
    given = {"t1": Split.TRAIN, "t2": Split.TRAIN, "v1": Split.VAL, "x1": Split.TEST}
    return {name: add(home, name, f"p-{name}", split) for name, split in given.items()}


def kinds(home: Home) -> list[str]:
    return [leak.kind for leak in find_leaks(home).leaks]


def test_a_sound_workspace_has_no_leak(home: Home, cases: dict[str, Case]) -> None:
    write_round(home, 1, (cases["t1"],), (cases["v1"],), (cases["x1"],))
    write_round(home, 2, (cases["t2"],), (cases["v1"],), (cases["x1"],))
    report = find_leaks(home)
    assert report.leaks == ()
    assert (report.cases, report.patients, report.rounds) == (4, 4, (1, 2))


def test_an_empty_workspace_has_nothing_to_leak(home: Home) -> None:
    assert find_leaks(home).leaks == ()


def test_pre_and_post_of_one_patient_in_two_rounds_splits_are_a_leak(
    home: Home, cases: dict[str, Case]
) -> None:
    pre = add(home, "pre", "p-same", Split.TRAIN, grey=11)
    post = add(home, "post", "p-other", Split.VAL, grey=12)
    write_round(home, 1, (pre,), (cases["v1"],))
    write_round(home, 2, (), (cases["v1"], post.with_(patient="p-same")))
    (leak, changed) = find_leaks(home).leaks
    assert leak.kind == "patient in two splits"
    assert leak.subject == "p-same"
    assert leak.cases == ("pre in train", "post in val")
    assert "round 02" in leak.where
    assert changed.kind == "frozen cases changed"


def test_a_patient_the_catalogue_itself_has_in_two_splits_is_found(
    home: Home, cases: dict[str, Case]
) -> None:
    # The catalogue refuses this at import; a restored or edited file may still hold it.
    case = cases["v1"].with_(patient="p-t1")
    with sqlite3.connect(home.catalogue) as connection:
        connection.execute(
            "UPDATE cases SET document=?, patient='p-t1' WHERE case_id='v1'",
            (case.model_dump_json(),),
        )
    connection.close()
    assert kinds(home) == ["patient in two splits"]


def test_the_same_pixels_under_two_patients_are_found(home: Home, cases: dict[str, Case]) -> None:
    add(home, "twin", "p-twin", Split.TRAIN, grey=7)
    add(home, "copy", "p-copy", Split.TRAIN, grey=7)
    assert kinds(home) == ["pixels of two patients"]
    add(home, "last", "p-last", Split.TEST, grey=7)
    assert kinds(home) == ["pixels in two splits", *["pixels of two patients"] * 2]


def test_frozen_cases_that_change_between_rounds_are_found(
    home: Home, cases: dict[str, Case]
) -> None:
    other = add(home, "v2", "p-v2", Split.VAL)
    write_round(home, 1, (cases["t1"],), (cases["v1"],), (cases["x1"],))
    write_round(home, 2, (cases["t2"],), (cases["v1"], other), (cases["x1"],))
    (leak,) = find_leaks(home).leaks
    assert (leak.kind, leak.where, leak.subject) == ("frozen cases changed", "round 02", "val")
    assert leak.cases == (other.ref.file_name,)
    assert str(leak) == "round 02: frozen cases changed: val (v2.f00000.png)"


def test_annotations_of_a_test_case_are_a_leak(home: Home, cases: dict[str, Case]) -> None:
    folder = write_round(home, 1, (cases["t1"],), (cases["v1"],))
    write_annotations(
        folder.file("annotations.coco.json"), drawn((cases["x1"], {"a": (3, Origin.HUMAN)}))
    )
    (leak,) = find_leaks(home).leaks
    assert (leak.kind, leak.cases) == ("case trains that must not", ("x1",))


def test_the_content_of_a_round_is_its_pixels_and_masks_alone(
    home: Home, cases: dict[str, Case]
) -> None:
    folder = write_round(home, 1, (cases["t1"], cases["t2"]), (cases["v1"],))
    path = folder.file("annotations.coco.json")
    one, two = {"a": (3, Origin.HUMAN)}, {"b": (4, Origin.HUMAN)}
    before = content_of(folder)
    assert before.annotations_sha256 is None
    write_annotations(path, drawn((cases["t1"], one), (cases["t2"], two)))
    first = content_of(folder)
    assert first.content_sha256 != before.content_sha256
    write_annotations(path, drawn((cases["t2"], two), (cases["t1"], one)))
    assert content_of(folder).content_sha256 == first.content_sha256
    assert content_of(folder).annotations_sha256 != first.annotations_sha256
    write_annotations(path, drawn((cases["t1"], two), (cases["t2"], two)))
    assert content_of(folder).content_sha256 != first.content_sha256
    assert first.changed == ()
    Catalogue(home).frame_path(cases["t2"].ref).write_bytes(b"other")
    Catalogue(home).frame_path(cases["v1"].ref).unlink()
    assert content_of(folder).changed == ("t2.f00000.png", "v1.f00000.png")


def test_rounds_differ_by_cases_labels_masks_origins_and_models(
    home: Home, cases: dict[str, Case]
) -> None:
    t3 = add(home, "t3", "p-t3", Split.TRAIN)
    first = write_round(home, 1, (cases["t1"], cases["t2"]), (cases["v1"],))
    other = LabelSet(name="more", labels=(Label(name="a"), Label(name="b"), Label(name="c")))
    second = write_round(home, 2, (cases["t1"], t3), (cases["v1"],), labels=other)
    kept, human = (3, Origin.HUMAN), (4, Origin.HUMAN)
    write_annotations(
        first.file("annotations.coco.json"),
        drawn((cases["t1"], {"a": kept, "b": human}), (cases["t2"], {"a": kept})),
    )
    write_annotations(
        second.file("annotations.coco.json"),
        drawn((cases["t1"], {"a": kept, "b": (8, Origin.MODEL_REVIEWED)}), (t3, {"b": human})),
    )
    registry = Registry(home)
    folder = registry.folder("m2")
    folder.mkdir(parents=True)
    registry.seal(
        ModelCard(
            model_id="m2", kind="teacher", architecture="x", round=2, n_params=1, licence="x",
            created=datetime(2026, 1, 1, tzinfo=UTC),
        )
    )  # fmt: skip
    found = diff_rounds(home, 1, 2)
    assert (found.only_first, found.only_second, found.both) == (("t2",), ("t3",), ("t1",))
    assert found.frozen_equal
    assert (found.labels_added, found.labels_removed) == (("c",), ())
    assert found.unchanged == 1
    (change,) = found.changes
    assert (change.label, change.change) == ("b", "redrawn")
    assert change.origins == ("human", "model_reviewed")
    assert change.iou == pytest.approx(16 / 64)
    assert found.sides[0].origins == {"human": 3}
    assert found.sides[1].proposed_by == {"m1": 1}
    assert (found.sides[0].trained, found.sides[1].trained) == ((), ("m2",))
    back = diff_rounds(home, 2, 1)
    assert back.only_first == found.only_second


def test_masks_of_one_side_are_added_or_removed(home: Home, cases: dict[str, Case]) -> None:
    human = (4, Origin.HUMAN)
    for number, by_label in ((1, {"a": human}), (2, {"b": human})):
        folder = write_round(home, number, (cases["t1"],), (cases["v1"],))
        write_annotations(folder.file("annotations.coco.json"), drawn((cases["t1"], by_label)))
    changes = {one.label: one.change for one in diff_rounds(home, 1, 2).changes}
    assert changes == {"a": "removed", "b": "added"}


def test_a_round_that_is_not_annotated_yet_can_be_compared(
    home: Home, cases: dict[str, Case]
) -> None:
    write_round(home, 1, (cases["t1"],), (cases["v1"],))
    write_round(home, 2, (cases["t2"],), ())
    found = diff_rounds(home, 1, 2)
    assert (found.changes, found.unchanged, found.frozen_equal) == ((), 0, False)
    assert found.sides[0].annotated == 0

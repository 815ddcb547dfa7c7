"""Proposals are read piece by piece, and say the same as when read whole."""

from pathlib import Path

import pytest

from casebook.annotations import read_annotations
from casebook.errors import DataError, StateError
from cvat_sync import pieces as module
from cvat_sync.proposals import Proposals
from tests.fakes.cvat_round import make_round


@pytest.mark.parametrize("piece", [1, 7, 1 << 18])
def test_pieces_of_any_size_say_the_same(
    tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PIECE_BYTES", piece)
    path = make_round(tmp_path, 4).file("proposals.coco.json")
    whole, found = read_annotations(path), Proposals(path)
    names = [image.file_name for image in whole.images]
    assert found.file_names == set(names)
    assert found.labels == {"LAD"}
    assert [found.count(name) for name in names] == [{"LAD": 1}] * 3 + [{}]
    assert tuple(mask.annotation for mask in found.of(names)) == whole.annotations
    assert [mask.file_name for mask in found.of(names)] == names[:3]


def test_letters_of_any_alphabet_keep_their_place(tmp_path: Path) -> None:
    path = make_round(tmp_path, 3).file("proposals.coco.json")
    whole = read_annotations(path)
    changed = [one.with_(attributes={"mld": "½ mm – größer"}) for one in whole.annotations]
    path.write_text(whole.with_(annotations=changed).model_dump_json(), encoding="utf-8")
    found = Proposals(path).of([image.file_name for image in whole.images])
    assert [mask.annotation for mask in found] == changed


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(lambda text: text[: len(text) // 2], "damaged", id="cut off"),
        pytest.param(lambda _: "", "expected '{'", id="empty"),
        pytest.param(lambda _: "[]", "expected '{'", id="a list"),
        pytest.param(
            lambda text: text.replace('"image_id": 1', '"image_id": 99'),
            "unknown image",
            id="of no image",
        ),
        pytest.param(
            lambda text: text.replace('"category_id": 1', '"category_id": 99'),
            "category 99",
            id="of no label",
        ),
        pytest.param(
            lambda text: text.replace('"area"', '"aera"'), "area|required|Extra", id="another field"
        ),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: object, says: str) -> None:
    path = make_round(tmp_path, 3).file("proposals.coco.json")
    assert callable(change)
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=says):
        Proposals(path)


def test_a_mask_of_another_size_than_its_image_is_refused(tmp_path: Path) -> None:
    path = make_round(tmp_path, 3).file("proposals.coco.json")
    whole = read_annotations(path)
    first, *others = whole.annotations
    wrong = first.segmentation.with_(size=(48, 40))
    changed = (first.with_(segmentation=wrong), *others)
    path.write_text(whole.with_(annotations=changed).model_dump_json())
    with pytest.raises(DataError, match=r"1 is of 48×40 px and its image case-000\.f.* of 40×48"):
        Proposals(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="has not run"):
        Proposals(tmp_path / "proposals.coco.json")

"""Rectangles become masks of the model in use, once."""

from pathlib import Path

import pytest

from casebook.boxes import ASKED, BoxMasks, DrawnBox, DrawnBoxes, answer_name, answers
from casebook.documents import read_document, write_document
from casebook.errors import StateError
from casebook.rounds import RoundFolder
from tests.fakes.cvat_round import HW, make_round, ref
from trainer.boxes import boxes
from trainer.work import Work


def work(folder: RoundFolder) -> Work:
    return Work(folder, Path("conf/demo").resolve())


def ask(folder: RoundFolder, *drawn: tuple[float, float, float, float]) -> Path:
    made = tuple(
        DrawnBox(key=f"5:{number}", at=ref(number), label="stenosis", box_xyxy=box)
        for number, box in enumerate(drawn)
    )
    write_document(folder.file(ASKED), DrawnBoxes(round=2, boxes=made))
    return folder.file(ASKED)


def test_every_rectangle_gets_an_answer_of_the_model_in_use(tmp_path: Path) -> None:
    folder = make_round(tmp_path)
    asked = ask(folder, (5, 8, 34, 16), (-90, -90, -80, -80))
    assert "for 2 rectangles by tiny-base" in boxes(work(folder))
    made = read_document(folder.file(answer_name(asked)), BoxMasks).masks
    assert [one.key for one in made] == ["5:0", "5:1"]
    assert {one.model_id for one in made} == {"tiny-base"}
    assert made[1].mask is None, "a rectangle beside the image has no mask"
    for one in made:
        if one.mask is not None:
            assert one.mask.hw == HW
    assert tuple(answers(folder)) == made


def test_asking_again_changes_nothing_and_other_rectangles_are_another_request(
    tmp_path: Path,
) -> None:
    folder = make_round(tmp_path)
    asked = ask(folder, (5, 8, 34, 16))
    boxes(work(folder))
    path = folder.file(answer_name(asked))
    before = path.stat().st_mtime_ns
    assert boxes(work(folder)).endswith("is there")
    assert path.stat().st_mtime_ns == before
    assert folder.file(answer_name(ask(folder, (6, 8, 34, 16)))) != path


def test_nothing_asked_is_told(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cvatsync pull --round 2"):
        boxes(work(make_round(tmp_path)))

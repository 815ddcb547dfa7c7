from collections import Counter

import numpy as np

from segmenter.asked import NAME_FIRST, Whole, glances

SHARE = 0.4


def whole(*labels: str, at: int = 10) -> Whole:
    bitmap = np.zeros((1, 80, 80), dtype=bool)
    bitmap[0, at : at + 8, at : at + 30] = True
    return Whole(np.zeros((80, 80), dtype=np.uint8), dict.fromkeys(labels, bitmap), (), None)


# One frame of twenty shows the tree.
WHOLES = [whole("part", "lesion"), *(whole("part", "lesion") for _ in range(18))]
WHOLES.append(whole("lesion", "tree", at=45))
BY_NAME = frozenset({"lesion", "tree"})


def test_names_boxes_never_ask_for_are_asked_as_often_however_few_frames_show_them() -> None:
    rng = np.random.default_rng(0)
    first = Counter(one.labels[0] for one in glances(WHOLES, BY_NAME, 2000, SHARE, rng))
    assert first["tree"] / 2000 > NAME_FIRST / 2 * 0.9
    assert first["lesion"] / 2000 > NAME_FIRST / 2 * 0.9
    assert first["part"] > 0


def test_a_frame_is_asked_for_another_of_its_names_too() -> None:
    for one in glances(WHOLES, BY_NAME, 50, SHARE, np.random.default_rng(1)):
        assert len(set(one.labels)) == 2
        assert set(one.labels) <= one.whole.instances.keys()


def test_tiles_lie_inside_the_frame_and_mostly_on_what_is_asked_for() -> None:
    shown = 0
    for one in glances(WHOLES, BY_NAME, 400, SHARE, np.random.default_rng(2)):
        assert np.abs(one.centre_xy).max() <= 1 - SHARE + 1e-9
        middle = (one.centre_xy + 1) / 2 * 80
        x, y = (middle - SHARE * 40).round().astype(int)
        side = round(SHARE * 80)
        shown += one.whole.instances[one.labels[0]][0, y : y + side, x : x + side].any()
    assert 0.7 * 400 < shown < 400


def test_where_boxes_ask_for_everything_frames_are_drawn_alike() -> None:
    found = glances(WHOLES, frozenset(), 400, SHARE, np.random.default_rng(3))
    assert {label for one in found for label in one.labels} == {"part", "lesion", "tree"}


def test_a_name_too_small_to_see_can_still_be_asked_for() -> None:
    speck = Whole(
        np.zeros((80, 80), dtype=np.uint8),
        {"lesion": np.zeros((1, 80, 80), dtype=bool)},
        (),
        None,
    )
    assert len(glances([speck], BY_NAME, 5, SHARE, np.random.default_rng(4))) == 5

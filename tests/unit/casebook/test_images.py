"""What was prepared for an image is prepared once, whoever asks and when."""

import threading

import pytest

from casebook.images import RecentImages


def test_who_asks_while_it_is_made_waits_for_the_same_one() -> None:
    images: RecentImages[object] = RecentImages(4)
    begun, go_on = threading.Event(), threading.Event()
    made: list[object] = []

    def make() -> object:
        begun.set()
        assert go_on.wait(10)
        made.append(object())
        return made[-1]

    found: list[tuple[object, bool]] = []
    first = threading.Thread(target=lambda: found.append(images.get("a", make)))
    first.start()
    assert begun.wait(10)
    others = [
        threading.Thread(target=lambda: found.append(images.get("a", make))) for _ in range(3)
    ]
    for thread in others:
        thread.start()
    go_on.set()
    for thread in (first, *others):
        thread.join(10)
    assert len(made) == 1
    assert [value for value, _ in found] == made * 4
    assert sorted(was_there for _, was_there in found) == [False, True, True, True]


def test_an_error_is_not_kept() -> None:
    images: RecentImages[int] = RecentImages(4)

    def broken() -> int:
        raise ValueError("no image")

    with pytest.raises(ValueError, match="no image"):
        images.get("a", broken)
    assert len(images) == 0
    assert images.get("a", lambda: 7) == (7, False)


def test_an_error_after_it_was_crowded_out_leaves_its_successor() -> None:
    images: RecentImages[int] = RecentImages(1)

    def crowded_out() -> int:
        images.get("b", lambda: 2)
        raise ValueError("no image")

    with pytest.raises(ValueError, match="no image"):
        images.get("a", crowded_out)
    assert images.get("b", lambda: 3) == (2, True)


def test_the_last_used_are_kept() -> None:
    images: RecentImages[int] = RecentImages(2)
    images.get("a", lambda: 1)
    images.get("b", lambda: 2)
    images.get("a", lambda: 9)
    images.get("c", lambda: 3)
    assert images.get("a", lambda: 9) == (1, True)
    assert images.get("b", lambda: 9) == (9, False)

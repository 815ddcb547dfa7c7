"""The simulated expert clicks where a person would."""

import numpy as np

from demo.expert import worst_point


def square(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    bitmap = np.zeros((40, 50), dtype=bool)
    bitmap[y1 : y2 + 1, x1 : x2 + 1] = True
    return bitmap


def test_a_missed_part_gets_a_positive_click_in_its_middle() -> None:
    truth = square(10, 10, 30, 30)
    x, y, positive = worst_point(square(10, 10, 14, 30), truth)
    assert positive
    assert truth[y, x]
    assert 20 <= x <= 26


def test_an_invented_part_gets_a_negative_click() -> None:
    x, y, positive = worst_point(square(10, 10, 40, 30), square(10, 10, 20, 30))
    assert not positive
    assert 25 <= x <= 36
    assert 14 <= y <= 26


def test_the_larger_of_two_errors_is_clicked() -> None:
    truth = square(0, 0, 20, 20)
    answer = square(0, 0, 17, 20) | square(30, 5, 45, 25)
    x, _, positive = worst_point(answer, truth)
    assert not positive
    assert x > 30

import numpy as np
import pytest

from segmenter.shapes import WORDS, draw_picture


@pytest.mark.parametrize("seed", range(12))
def test_a_picture_has_objects_where_it_says(seed: int) -> None:
    picture = draw_picture(np.random.default_rng(seed), 96)
    assert picture.pixels.shape == (96, 96)
    assert picture.pixels.dtype == np.uint8
    assert picture.targets
    for bitmap in (*picture.targets, *(thing.bitmap for thing in picture.things)):
        assert bitmap.shape == (96, 96)
        assert bitmap.any()
        assert not bitmap.all()
    assert {word for thing in picture.things for word in thing.words} <= set(WORDS)


def test_the_same_seed_draws_the_same_picture() -> None:
    one, other = (draw_picture(np.random.default_rng(3)) for _ in range(2))
    assert (one.pixels == other.pixels).all()
    assert len(one.targets) == len(other.targets)


def test_lines_differ_from_the_ground_beside_them() -> None:
    differences = []
    for seed in range(40):
        picture = draw_picture(np.random.default_rng(seed))
        for thing in picture.things:
            if "dark line" in thing.words:
                inside = picture.pixels[thing.bitmap].mean()
                differences.append(picture.pixels[~thing.bitmap].mean() - inside)
    assert len(differences) > 10
    assert np.median(differences) > 0

import numpy as np
import pytest
from scipy.ndimage import label

from segmenter.shapes import WORDS
from segmenter.trees import TREE_WORDS, draw_trees, made_up_name


@pytest.mark.parametrize("seed", range(8))
def test_a_picture_of_trees_shows_them_where_it_says(seed: int) -> None:
    picture = draw_trees(np.random.default_rng(seed), 96)
    assert picture.pixels.shape == (96, 96)
    assert picture.pixels.dtype == np.uint8
    trees = [thing for thing in picture.things if TREE_WORDS[0] in thing.words]
    assert trees
    assert picture.targets
    for bitmap in (*picture.targets, *(thing.bitmap for thing in picture.things)):
        assert bitmap.shape == (96, 96)
        assert bitmap.any()
        assert not bitmap.all()
    assert {word for thing in picture.things for word in thing.words} <= {*WORDS, *TREE_WORDS}


def test_the_same_seed_draws_the_same_trees() -> None:
    one, other = (draw_trees(np.random.default_rng(3)) for _ in range(2))
    assert (one.pixels == other.pixels).all()
    assert len(one.things) == len(other.things)


def test_trees_are_thin_and_branch() -> None:
    branches, shares, pieces = 0, [], []
    for seed in range(30):
        picture = draw_trees(np.random.default_rng(seed))
        branches += sum("branch" in thing.words for thing in picture.things)
        for thing in picture.things:
            if TREE_WORDS[0] in thing.words:
                shares.append(thing.bitmap.mean())
                pieces.append(label(thing.bitmap, np.ones((3, 3)))[1])
    assert branches > 60
    assert np.median(shares) < 0.1
    # Where a tree leaves the picture and comes back it is in pieces; mostly it does not.
    assert np.median(pieces) == 1


def test_lines_of_a_tree_differ_from_the_ground_beside_them() -> None:
    differences = []
    for seed in range(40):
        picture = draw_trees(np.random.default_rng(seed))
        for thing in picture.things:
            if TREE_WORDS[0] in thing.words:
                inside = picture.pixels[thing.bitmap].mean()
                differences.append(abs(float(picture.pixels[~thing.bitmap].mean() - inside)))
    assert np.median(differences) > 10


def test_made_up_names_differ_and_are_none_that_is_taught() -> None:
    rng = np.random.default_rng(0)
    names = {made_up_name(rng) for _ in range(500)}
    assert len(names) > 490
    assert not names & {*WORDS, *TREE_WORDS}
    assert all(1 <= len(name.split()) <= 3 for name in names)

"""Specimens are what their recipe says."""

import numpy as np
import pytest

from angio.phantoms.specimens import Recipe, draw_specimen


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(Recipe(1.5, 0.3, 0.15, 200.0, 0.5), id="thin, enlarged, noisy"),
        pytest.param(Recipe(4.4, 0.8, 0.35, 1500.0, 1.5), id="wide, small, blurred"),
    ],
)
def test_a_specimen_is_what_its_recipe_says(recipe: Recipe) -> None:
    specimen = draw_specimen(np.random.default_rng(4), recipe)
    truth = specimen.truth
    assert truth.rvd_mm == pytest.approx(recipe.rvd_mm)
    assert truth.stenosis_pct == pytest.approx(100 * recipe.severity, abs=4)
    assert specimen.scene.gantry.isocentre_spacing_mm == pytest.approx(recipe.spacing_mm)
    assert truth.px_per_mm == pytest.approx(1 / recipe.spacing_mm, rel=0.06)
    assert specimen.pixels.shape == specimen.seen.bitmap.shape == (512, 512)
    inside = specimen.pixels[specimen.seen.bitmap].mean()
    assert inside < specimen.pixels[~specimen.seen.bitmap].mean()


def test_the_same_source_of_chance_draws_the_same_specimen() -> None:
    recipe = Recipe(3.0, 0.5, 0.25, 500.0, 1.0)
    one, again = (draw_specimen(np.random.default_rng(5), recipe) for _ in range(2))
    np.testing.assert_array_equal(one.pixels, again.pixels)
    assert one.truth == again.truth

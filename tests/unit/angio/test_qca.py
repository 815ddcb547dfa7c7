"""Measurements against phantoms, whose millimetres are known by construction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.signal import savgol_filter

from angio.phantoms.render import render_cine
from angio.phantoms.scene import draw_patient
from angio.phantoms.specimens import Recipe, draw_specimen
from angio.qca import (
    PLACE_REACH_PX,
    Lesion,
    Profile,
    area_stenosis_pct,
    find_lesion,
    measure,
    profile,
    reference_px,
    smooth,
    stenosis_pct,
)
from angio.rendering import render
from angio.vessels import STEP_PX, Centreline
from bench import qca as bench
from casebook.cases import PixelSpacing
from casebook.errors import QcaError
from tests.unit.angio.test_vessels import bar

WORKED_EXAMPLE = (1.35, 3.16, 57.3)
"""MLD and RVD in mm, %DS: one of the lab's own reports."""


def narrowed(depth: float, hw: int = 200) -> np.ndarray:
    """A straight vessel 12 px wide, narrowed in the middle by a share of its width."""
    y, x = np.mgrid[:hw, :hw] - (hw - 1) / 2
    width = 12 * (1 - depth * np.exp(-((x / 12) ** 2)))
    return (np.abs(x) <= 80) & (np.abs(y) <= width / 2)


def test_the_labs_worked_example() -> None:
    mld, rvd, expected = WORKED_EXAMPLE
    assert stenosis_pct(mld, rvd) == pytest.approx(expected, abs=0.05)


@given(rvd=st.floats(0.1, 100), share=st.floats(0, 1))
def test_stenosis_is_the_missing_share(rvd: float, share: float) -> None:
    assert stenosis_pct(rvd * share, rvd) == pytest.approx(100 * (1 - share), abs=1e-6)


@pytest.mark.parametrize(("mld", "rvd"), [(1.0, 0.0), (-1.0, 3.0), (1.0, float("nan"))])
def test_lengths_that_are_none_are_refused(mld: float, rvd: float) -> None:
    with pytest.raises(QcaError, match="expected lengths"):
        stenosis_pct(mld, rvd)


def test_the_reference_bridges_the_narrowing() -> None:
    along = np.arange(0.0, 100.0, 0.5)
    healthy = 12 - 0.03 * along
    narrowed = healthy * (1 - 0.6 * np.exp(-(((along - 50) / 8) ** 2)))
    assert np.abs(reference_px(along, narrowed) - healthy).max() < 0.5


@pytest.mark.parametrize("count", [2, 5, 20, 21, 22, 160])
def test_widths_are_smoothed_as_scipy_does(count: int) -> None:
    line = Centreline(np.zeros((count, 2)), np.zeros((count, 2)))
    widths = np.random.default_rng(count).uniform(2, 12, count)
    along = np.arange(count) * STEP_PX
    reach = min(round(PLACE_REACH_PX / STEP_PX), (count - 1) // 2)
    expected = savgol_filter(widths, 2 * reach + 1, 2) if reach else widths
    found = smooth(Profile(line, along, widths, widths))
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("depth", [0.3, 0.5, 0.7])
def test_a_drawn_narrowing_is_measured_from_its_mask(depth: float) -> None:
    lesion = measure(
        None, narrowed(depth), PixelSpacing(row_mm=0.25, col_mm=0.25, source="isocentre")
    )
    assert lesion.stenosis_pct == pytest.approx(100 * depth, abs=6)
    assert lesion.mld_xy[0] == pytest.approx(99.5, abs=3)
    assert lesion.start_xy[0] != lesion.end_xy[0]
    assert lesion.mld_mm == pytest.approx(lesion.mld_px * 0.25)
    assert lesion.mld_text.endswith("mm (isocentre)")


def test_without_spacing_there_are_no_millimetres() -> None:
    lesion = measure(None, narrowed(0.5))
    assert (lesion.mld_mm, lesion.rvd_mm, lesion.length_mm) == (None, None, None)
    assert lesion.mld_text.endswith(" px")


@pytest.mark.parametrize(
    "bitmap",
    [
        pytest.param(bar(30, 40), id="hardly longer than wide"),
        pytest.param(np.zeros((50, 50), dtype=bool), id="empty"),
        pytest.param(narrowed(0.6)[:, 88:], id="no healthy vessel on one side"),
    ],
)
def test_vessels_that_cannot_be_measured_are_refused(bitmap: np.ndarray) -> None:
    with pytest.raises(QcaError):
        measure(None, bitmap)


def test_a_mask_beside_the_vessel_is_refused() -> None:
    rng = np.random.default_rng(1)
    noise = rng.poisson(2000, (200, 200)).astype(np.uint16)
    for empty in (noise, np.full((200, 200), 2000, dtype=np.uint16)):
        with pytest.raises(QcaError, match="no dark vessel"):
            measure(empty, bar(8, 120))


def test_phantom_lesions_are_measured_in_the_picture() -> None:
    errors: dict[str, list[tuple[float, float]]] = {"stored": [], "rendered": []}
    lesions = refused = 0
    for seed in range(3):
        rng = np.random.default_rng([seed, 77])
        for view in draw_patient(rng):
            cine = render_cine(rng, view.scene)
            for lesion, seen in zip(view.scene.tree.lesions, view.outlines, strict=True):
                at = int(np.argmin(np.abs(seen.along_mm - lesion.mld_at_mm)))
                px_per_mm = float(seen.px_per_mm[at])
                if lesion.mld_mm * px_per_mm < 2:
                    continue
                lesions += 1
                stored = cine[seen.frame]
                for name, pixels in (("stored", stored), ("rendered", render(stored))):
                    try:
                        found = measure(pixels, seen.bitmap)
                    except QcaError:
                        refused += 1
                        continue
                    errors[name].append(
                        (
                            found.mld_px / px_per_mm - lesion.mld_mm,
                            found.stenosis_pct - lesion.stenosis_pct,
                        )
                    )
    assert lesions >= 9
    assert refused <= lesions // 2
    for name in ("stored", "rendered"):
        mld_mm, points = np.array(errors[name]).T
        assert abs(mld_mm.mean()) < 0.15
        assert mld_mm.std() < 0.30
        assert np.abs(points).mean() < 9


def test_a_profile_is_as_long_as_its_vessel() -> None:
    found = profile(None, narrowed(0.5))
    assert len(found.along_px) == len(found.diameter_px) == len(found.reference_px)
    assert found.along_px[-1] == pytest.approx(160 - 12, abs=8)
    assert find_lesion(found).rvd_px == pytest.approx(12, abs=1)


def test_area_stenosis_is_that_of_circles() -> None:
    assert area_stenosis_pct(1.0, 2.0) == pytest.approx(75.0)
    assert area_stenosis_pct(2.0, 2.0) == 0.0
    lesion = measure(None, narrowed(0.5))
    expected = 100 * (1 - (lesion.mld_px / lesion.rvd_px) ** 2)
    assert lesion.area_stenosis_pct == pytest.approx(expected)


def test_a_lesion_written_before_areas_were_measured_is_read() -> None:
    written = measure(None, narrowed(0.5)).model_dump(exclude={"area_stenosis_pct"})
    assert Lesion.model_validate(written).area_stenosis_pct is None


@pytest.mark.parametrize("depth", [0.2, 0.5, 0.8])
def test_the_throat_is_measured_below_the_size_of_a_pixel(depth: float) -> None:
    """A slanting vessel, drawn with pixels set by their centres."""
    y, x = np.mgrid[:240, :240] - 119.5
    along, across = 0.9 * x + 0.43589 * y, -0.43589 * x + 0.9 * y
    width = 14 * (1 - depth * np.exp(-((along / 12) ** 2)))
    bitmap = (np.abs(along) <= 90) & (np.abs(across) <= width / 2)
    lesion = measure(None, bitmap)
    assert lesion.mld_px == pytest.approx(14 * (1 - depth), abs=0.4)
    assert lesion.stenosis_pct == pytest.approx(100 * depth, abs=3)


def test_a_side_branch_in_the_mask_leaves_the_measurement_as_it_is() -> None:
    alone = narrowed(0.5)
    branched = alone.copy()
    branched[100:130, 136:141] = True
    bare, found = measure(None, alone), measure(None, branched)
    assert found.mld_px == pytest.approx(bare.mld_px, abs=0.3)
    assert found.rvd_px == pytest.approx(bare.rvd_px, abs=0.5)


def test_a_pinhole_in_the_mask_is_no_narrowing() -> None:
    bitmap = narrowed(0.3)
    whole = measure(None, bitmap)
    bitmap[99, 60] = False
    assert measure(None, bitmap) == whole


def test_an_outline_that_folds_over_the_narrowest_place_is_refused() -> None:
    folded, elsewhere = narrowed(0.3), narrowed(0.3)
    folded[98:102, 98:101] = False
    elsewhere[98:102, 50:53] = False
    with pytest.raises(QcaError, match=r"a hole \d+ px from the narrowest place"):
        measure(None, folded)
    assert measure(None, elsewhere) == measure(None, narrowed(0.3))


def test_an_end_that_stays_a_little_below_its_reference_is_healthy() -> None:
    """One end at 92 % of the other: above what counts as healthy there, below where lesions end."""
    found = profile(None, narrowed(0.5))
    share = np.where(found.along_px > found.along_px[-1] / 2, 0.92, 1.0)
    level = Profile(
        found.line,
        found.along_px,
        np.minimum(found.diameter_px, 12.0) * share,
        np.full(len(share), 12.0),
    )
    lesion = find_lesion(level)
    assert lesion.mld_px == pytest.approx(6 * 0.92, abs=0.6)
    assert lesion.end_xy[0] > lesion.mld_xy[0] or lesion.start_xy[0] > lesion.mld_xy[0]


def test_the_bench_measures_its_lesions_and_counts_what_it_refuses() -> None:
    figures = bench.measure(quick=True)
    assert figures["lesions"] == bench.QUICK_COUNT - (figures["small_lesions"] or 0)
    assert (figures["refused"] or 0) <= 3
    for figure, limit in (("mld_abs_bias_mm", 0.1), ("mld_sd_mm", 0.15), ("ds_mae_points", 5)):
        assert (figures[figure] or 0) < limit


def test_recipes_cover_their_ranges() -> None:
    drawn = list(bench.recipes(100, 1))
    for name, (low, high) in (
        ("rvd_mm", bench.RVD_MM), ("severity", bench.SEVERITY), ("spacing_mm", bench.SPACING_MM),
        ("photons", bench.PHOTONS), ("blur_px", bench.BLUR_PX),
    ):  # fmt: skip
        values = [getattr(recipe, name) for recipe in drawn]
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(values) <= high


def test_a_models_mask_as_wide_as_the_vessel_hides_few_lesions() -> None:
    hidden, off = [], []
    for seed in range(5, 11):
        specimen = draw_specimen(np.random.default_rng(seed), Recipe(3.4, 0.7, 0.25, 1200.0, 0.8))
        truth = specimen.truth
        line = profile(specimen.pixels, specimen.seen.bitmap).line.points_xy.round().astype(int)
        middle = np.zeros_like(specimen.seen.bitmap)
        middle[line[:, 1], line[:, 0]] = True
        away_px = ndimage.distance_transform_edt(~middle)
        wide = away_px <= truth.rvd_mm * truth.px_per_mm / 2
        hidden.append(truth.stenosis_pct - measure(specimen.pixels, wide).stenosis_pct)
        by_model = measure(specimen.pixels, wide, by_model=True)
        off.append(abs(by_model.stenosis_pct - truth.stenosis_pct))
    assert min(hidden) > 50  # what a person drew is believed
    assert np.median(off) < 10
    assert sum(error < 15 for error in off) >= 5


def test_the_reference_keeps_to_both_ends() -> None:
    along = np.arange(0.0, 120.0, 0.5)
    widths = np.where(along < 60, 10 + 0.05 * along, 8.0)
    widths -= 4 * np.exp(-(((along - 75) / 6) ** 2))
    reference = reference_px(along, widths)
    assert reference[-1] == pytest.approx(8.0, abs=1.0)

"""Bands for ranks: exact coverage, published constants, another library's band, and brute force."""

import itertools

import numpy as np
import pytest
from scipy.stats import binom

import uqms as uq
from uqms.diagnostics.bands import path_probability, pointwise_level, rank_band

POINTS = np.arange(1, 100) / 100


@pytest.mark.parametrize("n", [30, 200])
@pytest.mark.parametrize("probability", [0.8, 0.95])
def test_simulated_ranks_stay_inside_as_often_as_the_recursion_says(n: int, probability: float) -> None:
    band = rank_band(n, POINTS, probability)
    ranks = np.random.default_rng(1).integers(0, 100, (20_000, n))
    counts = np.cumsum(np.apply_along_axis(np.bincount, 1, ranks, minlength=100), axis=1)[:, :-1]
    inside = np.mean(np.all((counts >= band.lower) & (counts <= band.upper), axis=1))
    error = np.sqrt(band.probability * (1 - band.probability) / 20_000)
    assert abs(inside - band.probability) < 3.5 * error
    assert probability <= band.probability < probability + 0.005


@pytest.mark.parametrize(
    ("n", "probability", "gamma"),
    [(100, 0.95, 0.00411), (200, 0.95, 0.00353), (200, 0.99, 0.00057), (500, 0.95, 0.00301), (1000, 0.95, 0.00267)],
)
def test_pointwise_levels_are_those_that_were_found_before(n: int, probability: float, gamma: float) -> None:
    assert round(rank_band(n, POINTS, probability).gamma, 5) == gamma


@pytest.mark.parametrize(("n", "half"), [(100, 0.140), (200, 0.105), (500, 0.066), (1000, 0.047)])
def test_half_widths_in_the_middle(n: int, half: float) -> None:
    band = rank_band(n, POINTS, 0.95)
    assert band.upper[49] / n - 0.5 == pytest.approx(half, abs=5e-4)


def test_the_recursion_equals_the_sum_over_all_multinomial_counts() -> None:
    n, points = 5, np.array([0.2, 0.5, 0.9])
    lower, upper = np.array([0, 1, 3]), np.array([2, 4, 5])
    pieces = np.diff([0.0, *points, 1.0])
    total = 0.0
    for where in itertools.product(range(4), repeat=n):
        counts = np.cumsum(np.bincount(where, minlength=4))[:3]
        total += np.prod(pieces[list(where)]) * bool(np.all((counts >= lower) & (counts <= upper)))
    assert path_probability(n, points, lower, upper) == pytest.approx(total, rel=1e-12)


def test_another_library_finds_the_level_by_simulation() -> None:
    ecdf = pytest.importorskip("arviz_stats.ecdf_utils")
    n = 100
    points = np.arange(1, n) / n
    level = ecdf.simulate_confidence_bands(n, 1, points, 0.95, 4000, np.random.default_rng(2))
    # Theirs is one minus ours. How often paths stay within their level is 0.95, up to the error of 4000 simulations.
    tails = 2.0 * np.minimum(
        binom.cdf(np.arange(n + 1), n, points[:, None]), binom.sf(np.arange(-1, n), n, points[:, None])
    )
    inside = tails >= 1.0 - level
    theirs = path_probability(n, points, inside.argmax(axis=1), n - inside[:, ::-1].argmax(axis=1))
    assert abs(theirs - 0.95) < 3.5 * np.sqrt(0.95 * 0.05 / 4000)
    ours = rank_band(n, points, 0.95)
    lower, upper = ecdf.get_pointwise_confidence_band(1.0 - ours.gamma, n, points)
    assert np.abs(np.round(lower * n) - ours.lower).max() <= 1
    assert np.abs(np.round(upper * n) - ours.upper).max() <= 1


def test_counts_are_in_the_band_exactly_when_their_p_value_says_so() -> None:
    rng = np.random.default_rng(3)
    points = np.arange(1, 20) / 20
    band = rank_band(40, points, 0.7)
    seen = set()
    for _ in range(300):
        counts = np.cumsum(np.bincount(rng.integers(0, 20, 40), minlength=20))[:-1]
        inside = band.contains(counts)
        seen.add(inside)
        assert inside == (pointwise_level(40, points, counts)[1] > 0.3)
    assert seen == {True, False}


def test_p_values_are_uniform_or_larger() -> None:
    rng = np.random.default_rng(4)
    points = np.arange(1, 20) / 20
    p = [
        pointwise_level(60, points, np.cumsum(np.bincount(rng.integers(0, 20, 60), minlength=20))[:-1])[1]
        for _ in range(400)
    ]
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(p) <= level) == pytest.approx(
            level, abs=3.5 * np.sqrt(level * (1 - level) / 400) + 0.01
        )


@pytest.mark.parametrize(
    ("n", "points", "probability"),
    [(0, POINTS, 0.9), (10, POINTS[::-1], 0.9), (10, np.array([0.0, 0.5]), 0.9), (10, POINTS, 1.0)],
)
def test_what_cannot_be_meant_is_refused(n: int, points: np.ndarray, probability: float) -> None:
    with pytest.raises(uq.errors.InputError, match="rank_band"):
        rank_band(n, points, probability)

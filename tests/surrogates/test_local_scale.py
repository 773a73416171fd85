"""The local scale of the stated error: against its definition, dense algebra, finite differences and known scales."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from surrogates.test_adapted import runs_of

import uqms as uq
from uqms._typing import Array
from uqms.diagnostics.verification import with_runs
from uqms.errors import UqmsError
from uqms.surrogates import GaussianProcessSurrogate
from uqms.surrogates.function_draws import paths
from uqms.surrogates.fused import block_size
from uqms.surrogates.fused_scores import scores_flat, scores_flat_reverse
from uqms.surrogates.kernels import correlation, hyperparameter_count
from uqms.surrogates.left_out import left_out_scores, own_jitter, with_held_out
from uqms.surrogates.local_scale import (
    CLEAR,
    LEVEL,
    OWN,
    SPREAD,
    _around,
    _Found,
    _found,
    _limit,
    _mode,
    _of_scores,
    _reordered,
    _wide,
    changes_over_box,
    scales_at_runs,
    with_local_scale,
)
from uqms.surrogates.process import (
    ScoreProcess,
    average,
    condition,
    local_features,
    local_size,
    root_at,
    score_reverse,
    scores_at,
)
from uqms.surrogates.training import Hyperparameters

D = 2
M = 6  # coefficients: 1, two inputs, their squares, their product
KERNELS = (
    uq.Matern52(),
    uq.Matern52() + uq.SquaredExponential(),
    uq.surrogates.Adapted(uq.Matern32()),
    uq.MainEffects(uq.Matern32()),
)


def scaled(kernel: uq.surrogates.Kernel, n: int = 15, d: int = D) -> ScoreProcess:
    """Return a process of two scores and two draws with scales drawn at random."""
    x = np.random.default_rng(1).random((n, d))
    y = np.column_stack([np.sin(3.0 * (x[:, 0] - x[:, -1] ** 2)), x[:, 0] ** 2 - x[:, -1]])
    draws = []
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        ells = [np.exp(0.4 * rng.standard_normal(hyperparameter_count(kernel, d))) for _ in range(2)]
        draws.append(condition(kernel, x, y, 3, [Hyperparameters(ell, 0.0, 1e-12, 0.0, 1, False) for ell in ells]))
    c = np.random.default_rng(7).standard_normal((2, 2, local_size(d)))
    c[..., -1] = 1e-5 * np.abs(c[..., -1])  # R from 4 to 6
    return average(draws).with_local(c)


def by_definition(u: Array, c: Array) -> Array:
    """Return s from its formula, input by input."""
    out = np.empty(len(u))
    for a, row in enumerate(u):
        v = np.minimum(np.maximum(row, 0.0), 1.0) - 0.5
        out[a] = c[0] + sum(c[1 + i] * v[i] + c[1 + D + i] * (2.0 * v[i] ** 2 - 1.0 / 6.0) for i in range(D))
        out[a] = np.exp(out[a] + c[5] * np.sqrt(8.0) * v[0] * v[1])
    return np.asarray((out**-8 + c[6]) ** (-1.0 / 8.0))


U = np.random.default_rng(2).uniform(-0.1, 1.1, (4, D))


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_errors_are_multiplied_and_means_are_not(kernel: uq.surrogates.Kernel) -> None:
    process = scaled(kernel)
    plain = process.with_local(np.zeros((2, 2, 0)))
    found, before = scores_at(process, U), scores_at(plain, U)
    np.testing.assert_array_equal(found.mean, before.mean)
    for h, j in np.ndindex(2, 2):
        s = by_definition(U, process.local[h, j])
        assert s.max() / s.min() > 1.2
        np.testing.assert_allclose(found.covariance[h, j], before.covariance[h, j] * np.outer(s, s), rtol=1e-12)
        root = root_at(process, h, j, U)
        np.testing.assert_allclose(root @ root.T, found.covariance[h, j], atol=1e-6 * found.covariance[h, j].max())
    within = np.einsum("hqkk->hqk", found.covariance)
    np.testing.assert_allclose(scores_at(process, U, diagonal=True).covariance, within, rtol=1e-9)


@pytest.mark.parametrize(("k", "d"), [(1, 2), (4, 2), (3, 1), (3, 4)])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_compiled_code_has_it_with_its_derivative(kernel: uq.surrogates.Kernel, k: int, d: int) -> None:
    process, u = scaled(kernel, 15 if d < 4 else 25, d), np.random.default_rng(2).uniform(-0.1, 1.1, (k, d))
    block = process.flat()
    assert block_size(np.append(block, 0.0)) == len(block)
    mean, covariance = scores_flat(block, u)
    found = scores_at(process, u)
    np.testing.assert_allclose(mean, found.mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(covariance, found.covariance, rtol=1e-7, atol=1e-9)
    rng = np.random.default_rng(3)
    mean_bar, covariance_bar = rng.standard_normal(mean.shape), rng.standard_normal(covariance.shape)

    def value(v: Array) -> float:
        at = scores_at(process, v)
        return float(np.sum(at.mean * mean_bar) + np.sum(at.covariance * covariance_bar))

    compiled = scores_flat_reverse(block, u, mean_bar, covariance_bar)
    arrays = sum(score_reverse(process, h, j, u, mean_bar[h, :, j], covariance_bar[h, j]) for h, j in np.ndindex(2, 2))
    np.testing.assert_allclose(compiled, arrays, rtol=1e-6, atol=1e-8)
    step = 1e-6
    for a, c in np.ndindex(*u.shape):
        moved = np.zeros_like(u)
        moved[a, c] = step
        slope = (value(u + moved) - value(u - moved)) / (2.0 * step)
        assert compiled[a, c] == pytest.approx(slope, rel=1e-5, abs=1e-5)


def test_left_out_runs_have_it() -> None:
    """Against processes of the other runs, with the variance of all."""
    process = scaled(uq.Matern52())
    error, variance, _ = left_out_scores(process, 1, 0)
    for i in (0, 6):
        rest = np.delete(np.arange(len(process.x)), i)
        one = Hyperparameters(process.ell[1, 0], 0.0, 1e-12, 0.0, 1, False)
        without = condition(uq.Matern52(), process.x[rest], process.y[rest, :1], 3, [one], [process.variance[1, 0]])
        told = scores_at(without.with_local(process.local[1:, :1]), process.x[i : i + 1])
        assert process.y[i, 0] - told.mean[0, 0, 0] == pytest.approx(error[i], rel=1e-5)
        assert told.covariance[0, 0, 0, 0] == pytest.approx(variance[i], rel=1e-5)


def test_the_jitter_of_a_left_out_run_is_not_scaled() -> None:
    """With a jitter of a tenth of the variance: what is said of a new input is scaled, and the jitter is added."""
    x = np.random.default_rng(1).random((15, D))
    nugget = Hyperparameters(np.full(D, 0.5), 0.1, 0.0, 0.0, 1, False)
    process = condition(uq.Matern52(), x, np.sin(5.0 * x[:, :1]), 1, [nugget])
    process = replace(process, jitter=process.nugget, nugget=np.zeros((1, 1)))
    _, before, _ = left_out_scores(process, 0, 0)
    own = own_jitter(process, 0, 0, before)
    c = np.array([[[0.5, 1.0, -1.0, 0.4, 0.2, -0.6, 0.1]]])
    _, after, root = left_out_scores(process.with_local(c), 0, 0)
    r = by_definition(x, c[0, 0])
    np.testing.assert_allclose(own, 0.1 * process.variance[0, 0])
    np.testing.assert_allclose(after, r**2 * (before - own) + own, rtol=1e-12)
    np.testing.assert_allclose(np.sum(root**2, axis=1), after, rtol=1e-9)


def test_the_jitter_of_a_left_out_run_does_not_count_in_its_square() -> None:
    """Found from errors over what is said of a new input, not of the run itself."""
    x = np.random.default_rng(1).random((40, D))
    nugget = Hyperparameters(np.full(D, 0.5), 0.1, 0.0, 0.0, 1, False)
    process = condition(uq.Matern52(), x, np.sin(2.0 * x[:, :1]), 1, [nugget])
    process = replace(process, jitter=process.nugget, nugget=np.zeros((1, 1)))
    error, variance, _ = left_out_scores(process, 0, 0)
    z2 = error**2 / (variance - own_jitter(process, 0, 0, variance))
    expected = _of_scores(local_features(x), z2[:, None], D)[0]
    assert expected is not None
    np.testing.assert_allclose(
        with_local_scale(process, [1]).local[0, 0, : len(expected.mode)], expected.mode, atol=1e-5
    )


def test_the_limit_is_the_largest_scale_of_the_runs_or_keeps_their_sum() -> None:
    """Of 50 runs whose scales vary a thousandfold; runs without a value do not count."""
    rng = np.random.default_rng(1)
    g, v = np.append(rng.uniform(-3.0, 4.0, 50), 20.0), np.append(rng.uniform(0.5, 1.5, 50), np.nan)
    for z2 in (np.ones(50), np.exp(2.0 * g[:50])):
        e2 = np.append(z2 * v[:50], np.nan)
        stated = np.exp(2.0 * g[:50]) * v[:50]
        runs = stated.sum() ** 2 / np.sum(stated**2)
        most = 2.0 * v[:50].sum() * (e2[:50].sum() / v[:50].sum()) ** (runs / (runs + 2.0))
        limit = _limit(g, e2, v)
        r = (np.exp(-8.0 * g[:50]) + limit) ** -0.125
        assert np.sum(r**2 * v[:50]) == pytest.approx(most, rel=1e-6)
        assert limit > np.exp(-8.0 * g[:50].max())
    few = 0.1 * g
    assert _limit(few, np.append(v[:50], np.nan), v) == pytest.approx(np.exp(-8.0 * few[:50].max()))


def test_errors_of_the_whole_box_are_not_those_of_a_corner() -> None:
    """A corner that few runs reach, where errors are a thousand times as large: stated and actual sums of squares.

    In the mean of their logarithms over 12 functions the sums agree within a factor of 2.5, and no stated one is more
    than 4 times the actual one. Without a limit they are up to 6 times as large.
    """
    ratios = []
    for seed in range(12):
        a, b = np.random.default_rng(seed).uniform(3.0, 5.0, 2)

        def function(x: Array, a: float = a, b: float = b) -> Array:
            return np.exp(1.5 * a * x[:, 0] * x[:, 1]) * np.sin(2.0 * b * x[:, 0]) + np.cos(a * x[:, 1])

        surrogate = fitted(function, 50)
        new = np.random.default_rng([seed, 1]).random((2000, 2))
        told = surrogate.predict({"a": new[:, 0], "b": new[:, 1]})
        actual = np.sum((told.mean["y"].values - function(new)) ** 2)
        ratios.append(float(np.log(told.variance["y"].values.sum() / actual)))
    assert abs(np.mean(ratios)) < np.log(2.5)
    assert max(ratios) < np.log(4.0)


def test_scores_draws_and_some_runs_keep_it() -> None:
    process = scaled(uq.Matern52())
    np.testing.assert_array_equal(process.select(np.array([1])).local, process.local[:, 1:])
    np.testing.assert_array_equal(process.member(1).local, process.local[1:])
    bigger = process.scaled(np.full((2, 2), 4.0))
    np.testing.assert_allclose(
        scores_at(bigger, U).covariance, 4.0 * scores_at(process, U).covariance, rtol=1e-6, atol=1e-12
    )


def squares(c: Array, n: int, seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    f = local_features(rng.random((n, D)))
    return f, np.exp(2.0 * f @ c) * rng.standard_normal(n) ** 2


def test_coefficients_are_found_within_their_errors() -> None:
    c = np.array([-0.4, 1.2, -0.7, 0.5, 0.9, -0.8])
    off = []
    for seed in range(60):
        found = _found(*squares(c, 400, seed), _wide(M))
        root = np.linalg.inv(found.root)
        off.append(root @ (found.mode - c))
    # 360 standard errors: mean 0, sd 1, both within 4 of their Monte Carlo errors and the pull of the prior
    assert np.abs(np.mean(off, axis=0)).max() < 4.0 / np.sqrt(60) + 0.15
    assert np.std(off) == pytest.approx(1.0, abs=4.0 / np.sqrt(720))


def test_evidence_is_that_of_quadrature() -> None:
    """In one dimension, three coefficients, on a grid; the approximation of Laplace is within 0.4 nats."""
    sd = np.array([LEVEL, SPREAD, SPREAD])
    for seed in range(6):
        rng = np.random.default_rng(seed)
        f = local_features(rng.random((30, 1)))
        z2 = np.exp(2.0 * f @ np.array([0.2, 1.5, 0.4])) * rng.standard_normal(30) ** 2
        grid = np.linspace(-4.0, 4.0, 61)
        c = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), axis=-1).reshape(-1, 3)
        size = c @ f.T
        log = -np.sum(size + 0.5 * z2 * (np.exp(-2.0 * size) - 1.0), axis=1) - 0.5 * np.sum((c / sd) ** 2, axis=1)
        exact = np.logaddexp.reduce(log) + np.sum(np.log((grid[1] - grid[0]) / np.sqrt(2.0 * np.pi) / sd))
        assert _mode(f, z2, _wide(3), np.ones(30), 1.0).evidence == pytest.approx(exact, abs=0.4)


def test_sums_of_squares_say_what_the_squares_say() -> None:
    """Three sets of squares at the same runs as one set of three times as many, and as sums of three each."""
    c = np.array([0.2, 1.0, -0.6, 0.4, 0.3, 0.9])
    f, _ = squares(c, 50, 1)
    z2 = np.exp(2.0 * f @ c) * np.random.default_rng(2).standard_normal((3, 50)) ** 2
    one = _mode(np.tile(f, (3, 1)), z2.ravel(), _wide(M), np.ones(150), 0.7)
    summed = _mode(f, z2.sum(axis=0), _wide(M), np.full(50, 3.0), 0.7)
    np.testing.assert_allclose(summed.mode, one.mode, atol=1e-6)
    np.testing.assert_allclose(summed.root @ summed.root.T, one.root @ one.root.T, rtol=1e-9)
    assert summed.evidence == pytest.approx(one.evidence, abs=1e-6)


def test_squares_that_vary_together_over_the_scores_count_less() -> None:
    """Six scores with the same squares say as much as one: sums of six scatter six times as much as the model says."""
    z2 = np.random.default_rng(5).standard_normal(400) ** 2
    f = local_features(np.random.default_rng(6).random((400, D)))
    alone, same = _found(f, z2, _wide(M)), _found(f, 6.0 * z2, _wide(M), np.full(400, 6.0))
    ratio = np.sum(same.root**2, axis=1) / np.sum(alone.root**2, axis=1)
    np.testing.assert_allclose(ratio, 1.0, atol=0.15)


def test_the_prior_from_other_scores_has_its_moments() -> None:
    root = 0.1 * np.random.default_rng(3).standard_normal((M, M))
    prior = _around(_Found(np.arange(1.0, 7.0), root, 9.0))
    np.testing.assert_array_equal(prior.centre, [0.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert prior.covariance[0, 0] == LEVEL**2
    np.testing.assert_array_equal(prior.covariance[0, 1:], 0.0)
    np.testing.assert_allclose(prior.covariance[1:, 1:], (root @ root.T)[1:, 1:] + OWN**2 * np.eye(M - 1))


def of_several(q: int, c: Array, level: Array, n: int, seed: int) -> tuple[Array, Array]:
    """Return features and squares of q scores with the same coefficients but for their levels."""
    rng = np.random.default_rng([seed, 8])
    f = local_features(rng.random((n, D)))
    return f, np.exp(2.0 * (f @ c)[:, None] + 2.0 * level) * rng.standard_normal((n, q)) ** 2


def test_scores_that_are_calm_in_the_same_place_share_what_they_say() -> None:
    """With 24 runs one score shows its scale in half of all cases, 8 together nearly always, whatever their levels."""
    c, level = np.array([0.0, 2.0, -1.0, 0.0, 0.0, 0.5]), np.linspace(-0.3, 0.3, 8)
    alone, together, off = 0, 0, [[], []]
    for seed in range(20):
        f, z2 = of_several(8, c, level, 24, seed)
        every = _of_scores(f, z2, D)
        for j, found in enumerate(every):
            one = _of_scores(f, z2[:, j : j + 1], D)[0]
            alone, together = alone + (one is not None), together + (found is not None)
            for kept, some in zip(off, (one, found), strict=True):
                size = f[:, : len(some.mode)] @ some.mode if some else np.zeros(24)
                kept.append(np.mean((size - f @ c - level[j]) ** 2))
    assert together > 140
    assert alone < 110
    assert np.mean(off[1]) < 0.5 * np.mean(off[0])


def test_scores_that_are_wild_in_other_places_are_left_alone() -> None:
    """Nine scores without a scale say nothing of a tenth, and one with a scale says little of nine without."""
    wrong = 0
    for seed in range(60):
        f, z2 = of_several(10, np.zeros(M), np.zeros(10), 40, seed)
        wrong += sum(found is not None for found in _of_scores(f, z2, D))
        z2[:, 9] *= np.exp(2.0 * f @ np.array([0.0, 3.0, 0.0, 0.0, 0.0, 0.0]))
        every = _of_scores(f, z2, D)
        assert every[9] is not None
        assert every[9].mode[1] == pytest.approx(3.0, abs=1.5)
        wrong += sum(found is not None for found in every[:9])
    assert wrong <= 2  # of 1140


def test_scores_with_larger_errors_say_no_more_than_others() -> None:
    """One score of nine has another scale and errors that are 30 times as large: the others share theirs."""
    c, level = np.array([0.0, 2.0, -1.0, 0.0, 0.0, 0.0]), np.append(np.zeros(8), np.log(30.0))
    for seed in range(10):
        f, z2 = of_several(9, c, level, 40, seed)
        z2[:, 8] *= np.exp(-4.0 * f @ c)
        z2[:, 8] *= 900.0 / z2[:, 8].mean()
        slopes = [found.mode[1] for found in _of_scores(f, z2, D)[:8] if found is not None]
        assert len(slopes) >= 6
        assert 1.0 < np.mean(slopes) < 3.0


def test_runs_without_a_value_do_not_count() -> None:
    """Some scores lack some runs: the same as from the runs that have them, of one score."""
    f, z2 = of_several(3, np.array([0.0, 2.0, -1.0, 0.0, 0.0, 0.5]), np.zeros(3), 60, 1)
    z2[:20, 0] = np.nan
    found = _of_scores(f, z2[:, :1], D)[0]
    same = _of_scores(f[20:], z2[20:, :1], D)[0]
    assert found is not None
    assert same is not None
    np.testing.assert_allclose(found.mode, same.mode, atol=1e-9)
    some = _of_scores(f, z2, D)
    assert all(one is not None and np.isfinite(one.mode).all() for one in some)
    z2[:, 2] = np.nan
    assert _of_scores(f, z2, D)[2] is None


def test_scales_at_the_runs_are_those_of_the_process() -> None:
    """What decides about more scores is what the surrogate states."""
    process = scaled(uq.Matern52(), 40).member(0)
    process = with_local_scale(process.with_local(np.zeros((1, 2, 0))), [1, 2])
    plain = process.with_local(np.zeros((1, 2, 0)))
    left = [left_out_scores(plain, 0, j) for j in range(2)]
    jitter = [own_jitter(plain, 0, j, left[j][1]) for j in range(2)]
    error, variance = (np.stack([one[i] for one in left], axis=1) for i in (0, 1))
    found = scales_at_runs(process.x, error, variance - np.stack(jitter, axis=1))
    expected = np.stack([process.local_scale(0, j, process.x) for j in range(2)], axis=1)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_without_a_local_scale_the_evidence_is_rarely_for_one() -> None:
    """Of 400 sets of squares that have none; by Markov's inequality at most exp(-3) of all, and far fewer in truth."""

    def found(c: Array, seed: int) -> bool:
        return _found(*squares(c, 40, seed), _wide(M)).evidence >= CLEAR

    assert sum(found(np.zeros(M), seed) for seed in range(400)) <= 400 * np.exp(-CLEAR)
    assert sum(found(np.array([0.0, 3.0, 0.0, 0.0, 0.0, 0.0]), seed) for seed in range(50)) >= 45


@pytest.mark.parametrize("size", [1e-6, 1e-2, 1.0, 1e3, 1e4, 1e8])
def test_errors_of_any_size_are_found(size: float) -> None:
    """Where stated errors are wrong by powers of ten, the scale is too: its level, and a slope of zero at the mode."""
    f, z2 = squares(np.zeros(M), 60, 4)
    found = _mode(f, size * z2, _wide(M), np.ones(60), 1.0)
    assert found.mode[0] == pytest.approx(0.5 * np.log(size), abs=0.5)
    slope = f.T @ (size * z2 * np.exp(-2.0 * f @ found.mode) - 1.0)
    slope -= found.mode / np.array([LEVEL, *[SPREAD] * (M - 1)]) ** 2
    np.testing.assert_allclose(slope, 0.0, atol=1e-5)


def test_runs_that_are_predicted_exactly_keep_an_error() -> None:
    """Left-out errors of zero: the stated error becomes a thousandth, not nothing."""
    process = scaled(uq.Matern52()).with_local(np.zeros((2, 2, 0)))
    exact = replace(process, target=np.zeros(process.target.shape))
    found = with_local_scale(exact, [1, 2])
    s = np.array([found.local_scale(h, j, process.x) for h, j in np.ndindex(2, 2)])
    assert s.max() < 1e-2
    assert s.min() > 1e-4


def test_dispersed_squares_count_less() -> None:
    """Squares of Student's t with 6 degrees of freedom, which vary more than those of normals: errors are wider."""
    c = np.array([0.3, 1.0, -0.8, 0.6, 0.0, 0.4])
    off = []
    for seed in range(60):
        f, _ = squares(c, 400, seed)
        z2 = np.exp(2.0 * f @ c) * np.random.default_rng([seed, 1]).standard_t(6.0, 400) ** 2 * (4.0 / 6.0)
        found, whole = _found(f, z2, _wide(M)), _mode(f, z2, _wide(M), np.ones(400), 1.0)
        assert np.all(np.diag(found.root @ found.root.T) >= np.diag(whole.root @ whole.root.T))
        off.append(np.linalg.solve(found.root, found.mode - c)[1:])
    assert np.std(off) == pytest.approx(1.0, abs=0.3)


def calm_and_wild(x: Array) -> Array:
    """A wave in the middle of the first input, a plane at its ends."""
    return np.asarray(np.exp(-(((x[:, 0] - 0.5) / 0.15) ** 2)) * np.sin(20.0 * x[:, 0] + 9.0 * x[:, 1]) + x[:, 1])


def fitted(function: object = calm_and_wild, n: int = 60, **settings: object) -> GaussianProcessSurrogate:
    return uq.GaussianProcess(**settings).fit(runs_of(n, 2, 3, function=function))


def test_it_follows_errors_that_vary_over_the_box() -> None:
    """Ratios of actual to stated error at the calm ends and in the wild middle, with the local scale and without."""
    surrogate = fitted()
    assert "local scale" in repr(surrogate)
    plain = surrogate.process.with_local(np.zeros((surrogate.process.draws, 1, 0)))
    new = np.random.default_rng(4).random((4000, 2))
    calm, wild = np.abs(new[:, 0] - 0.5) > 0.35, np.abs(new[:, 0] - 0.5) < 0.15
    ratios, scores = [], []
    for one in (surrogate, GaussianProcessSurrogate(surrogate.domain, plain, surrogate.bases)):
        told = one.predict({"a": new[:, 0], "b": new[:, 1]})
        square = (told.mean["y"].values - calm_and_wild(new)) ** 2 / told.variance["y"].values
        ratios.append([float(np.sqrt(square[part].mean())) for part in (calm, wild)])
        scores.append(float(-0.5 * np.mean(np.log(told.variance["y"].values) + square)))
    assert scores[0] > scores[1] + 0.2
    assert ratios[0][0] > 2.0 * ratios[1][0]
    assert 0.4 < min(ratios[0])
    assert max(ratios[0]) < 1.6


def test_functions_of_a_stationary_process_have_none() -> None:
    """Functions drawn from the process itself: at most one of ten is given a local scale by chance."""
    found = 0
    for seed in range(10):

        def function(x: Array, seed: int = seed) -> Array:
            root = np.linalg.cholesky(correlation(uq.Matern52(), x, x, np.full(2, 0.5)) + 1e-9 * np.eye(len(x)))
            return root @ np.random.default_rng(seed).standard_normal(len(x))

        found += bool(fitted(function, 30).process.local.size)
    assert found <= 1


def test_settings_and_noise_have_none() -> None:
    assert local_size(D) == M + 1
    assert not fitted(scales="given").process.local.size
    assert not fitted(noise="fitted").process.local.size


def test_coefficients_follow_the_order_of_the_inputs() -> None:
    """Of three inputs in every order: the same scale at the same place."""
    rng = np.random.default_rng(3)
    c, x = rng.standard_normal((2, 2, local_size(3) - 1)), rng.random((5, 3))
    expected = np.einsum("km,hqm->hqk", local_features(x), c)
    for order in itertools.permutations(range(3)):
        back = _reordered(c, np.array(order))
        np.testing.assert_allclose(np.einsum("km,hqm->hqk", local_features(x[:, order]), back), expected, rtol=1e-12)


def test_order_of_inputs_and_runs_does_not_matter() -> None:
    runs = runs_of(60, 2, 3, function=calm_and_wild)
    first, sds = uq.GaussianProcess().fit(runs), []
    assert first.process.local.size
    order = np.random.default_rng(1).permutation(60)
    space = uq.ParameterSpace(b=uq.Uniform(0.0, 1.0), a=uq.Uniform(0.0, 1.0))
    inputs = {name: runs[name].values[order] for name in ("b", "a")}
    second = uq.GaussianProcess().fit(
        uq.ensemble.build(inputs, {"y": runs["y"].values[order]}, space=space, box=space.box())
    )
    assert second.domain.names == first.domain.names[::-1]
    for one in (first, second):
        sds.append(one.predict({"a": [0.1, 0.6, 0.9], "b": [0.4, 0.2, 0.7]}).sd["y"].values)
    np.testing.assert_allclose(sds[1], sds[0], rtol=1e-3)


def test_each_hyperparameter_draw_has_its_own_coefficients() -> None:
    """Their mean over the draws is the mode, their sds are those of the normal approximation."""
    process = fitted().process
    plain = process.with_local(np.zeros((process.draws, 1, 0)))
    z2 = np.zeros(len(process.x))
    for h in range(process.draws):
        error, variance, _ = left_out_scores(plain, h, 0)
        z2 += error**2 / (variance - own_jitter(plain, h, 0, variance)) / process.draws
    several = [_found(local_features(process.x)[:, :m], z2, _wide(m)) for m in (5, M)]
    found = max(several, key=lambda one: one.evidence)
    m = len(found.mode)
    np.testing.assert_allclose(process.local[:, 0, :m].mean(axis=0), found.mode, atol=1e-4)
    np.testing.assert_array_equal(process.local[:, 0, m:-1], 0.0)
    ratio = process.local[:, 0, :m].std(axis=0) / np.sqrt(np.sum(found.root**2, axis=1))
    assert 0.4 < ratio.min()
    assert ratio.max() < 2.5


def test_draws_of_the_function_have_its_covariance() -> None:
    """Draws of whole functions against the covariance between inputs, within 5 standard errors."""
    surrogate = fitted(n=24, hyperparameters="point")
    process = surrogate.process.with_local(np.array([[[0.3, 1.0, -1.5, 0.8, 0.4, 0.7, 0.01]]]))
    surrogate = GaussianProcessSurrogate(surrogate.domain, process, surrogate.bases)
    u = np.random.default_rng(2).random((5, 2))
    found, n = surrogate.scores(u), 4000
    mean, covariance = found.mean[0, :, 0], found.covariance[0, 0]
    sd = np.sqrt(np.diag(covariance))
    each = {
        "functions": surrogate.functions(n, rng=1, anchors=16)(u)[:, :, 0],
        "paths": paths(surrogate, u, n, rng=1)(u)[:, :, 0],
        "what paths leave out": paths(surrogate, u[:1], n, rng=1).with_rest(u, (1,))[:, :, 0],
    }
    for name, draws in each.items():
        assert np.all(np.abs(draws.mean(axis=0) - mean) < 5.0 * sd / np.sqrt(n)), name
        size = np.sqrt((np.outer(sd, sd) ** 2 + covariance**2) / n)
        off = np.abs(np.cov(draws.T) - covariance) / size
        assert (off if name != "what paths leave out" else np.diag(off)).max() < 5.0, name
    pairs = u[None, :3]
    few = paths(surrogate, u[3:], n, rng=1, pairs=pairs)
    lacking = covariance[:3, :3] - np.cov(few(pairs[0])[:, :, 0].T)
    np.testing.assert_allclose(few.rest[0, 0], lacking, atol=5.0 * np.sqrt(2.0 / n) * covariance.max())


def test_more_runs_leave_it_as_it_is() -> None:
    """What `uq.verify` and `uq.correct` condition on runs states errors with the same local scale."""
    surrogate = fitted()
    design = uq.sobol(uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0)), 8, rng=9)
    x = np.column_stack([design["a"].values, design["b"].values])
    more = with_runs(surrogate, uq.ensemble.build(design, {"y": calm_and_wild(x)}))
    assert isinstance(more, GaussianProcessSurrogate)
    np.testing.assert_array_equal(more.process.local, surrogate.process.local)
    assert more.predict(dict(zip("ab", x.T, strict=True))).sd["y"].values.max() < 1e-3


def test_saved_and_loaded_it_predicts_the_same(tmp_path: Path) -> None:
    surrogate = fitted()
    surrogate.save(tmp_path / "s.npz")
    new = {"a": [0.2, 0.7], "b": [0.5, 0.1]}
    same = uq.load_surrogate(tmp_path / "s.npz")
    np.testing.assert_array_equal(same.predict(new).sd["y"], surrogate.predict(new).sd["y"])
    assert repr(same) == repr(surrogate)
    wrong = surrogate.process.with_local(np.ones((*surrogate.process.local.shape[:2], 3)))
    GaussianProcessSurrogate(surrogate.domain, wrong, surrogate.bases, surrogate.attrs).save(tmp_path / "w.npz")
    with pytest.raises(UqmsError, match="local"):
        uq.load_surrogate(tmp_path / "w.npz")


def test_products_of_inputs_are_left_out_where_they_are_more_than_the_runs() -> None:
    """Of 8 inputs there are 45 features: 44 runs use 17 of them."""
    rng = np.random.default_rng(4)
    c = np.zeros(45)
    c[[1, -1]] = 3.0, 6.0  # the first input, and the product of the last two
    found = {}
    for n in (44, 400):
        f = local_features(rng.random((n, 8)))
        found[n] = _of_scores(f, np.exp(2.0 * f @ c)[:, None] * rng.standard_normal((n, 1)) ** 2, 8)[0]
    assert found[44] is not None
    assert found[400] is not None
    assert len(found[44].mode) == 17
    assert len(found[400].mode) == 45
    assert found[400].mode[-1] == pytest.approx(6.0, abs=2.0)


def test_errors_that_change_over_the_box_are_found() -> None:
    """Of 200 sets of squares of normals nearly none; of those with a factor of 20 between two sides nearly all."""
    rng = np.random.default_rng(4)
    x = rng.random((24, 2))
    square = rng.standard_normal((24, 200)) ** 2
    assert changes_over_box(x, square).mean() < 0.03
    sides = square * np.exp(2.0 * np.log(20.0) * (x[:, :1] - 0.5)) ** 2
    assert changes_over_box(x, sides).mean() > 0.95
    np.testing.assert_array_equal(changes_over_box(x, 1e3 * square), changes_over_box(x, square))


def test_values_in_held_out_runs_are_left_out_errors() -> None:
    """Their mean square is what is stated of left-out runs; means are as before, errors of other scores too."""
    process = scaled(uq.Matern52()).with_local(np.zeros((2, 2, 0)))
    held = np.zeros((2, 15))
    held[1] = 30.0 * np.random.default_rng(3).standard_normal(15)
    found = with_held_out(process, held)
    for h in range(2):
        error, variance, root = left_out_scores(found, h, 1)
        own = own_jitter(found, h, 1, variance)
        np.testing.assert_array_equal(error, held[1])
        assert np.mean(error**2 / (variance - own)) == pytest.approx(1.0, rel=1e-9)
        np.testing.assert_allclose(root @ root.T, np.diag(variance), rtol=1e-12)
        for told, before in zip(left_out_scores(found, h, 0), left_out_scores(process, h, 0), strict=True):
            np.testing.assert_array_equal(told, before)
    after, first = scores_at(found, U), scores_at(process, U)
    np.testing.assert_allclose(after.mean, first.mean, rtol=1e-9, atol=1e-9)
    ratio = after.covariance[:, 1] / first.covariance[:, 1]
    np.testing.assert_allclose(ratio, ratio[:, :1, :1] * np.ones_like(ratio), rtol=1e-6)
    assert ratio.min() > 10.0
    np.testing.assert_array_equal(found.select(np.array([1])).held_out, held[1:])
    np.testing.assert_array_equal(found.member(1).held_out, held)


def test_the_local_scale_of_an_unpredicted_score_is_that_of_held_out_runs() -> None:
    """A score whose own left-out errors are alike everywhere, and whose held-out ones grow by a factor of e⁴."""
    rng = np.random.default_rng(5)
    x = rng.random((60, 2))
    one = Hyperparameters(np.full(2, 0.2), 0.0, 1e-12, 0.0, 1, False)
    process = condition(uq.Matern32(), x, rng.standard_normal((60, 1)), 1, [one])
    held = np.exp(4.0 * (x[:, 0] - 0.5)) * rng.standard_normal(60)
    u = np.array([[0.1, 0.5], [0.9, 0.5]])
    without = with_local_scale(process, [1])
    found = with_local_scale(with_held_out(process, held[None]), [1])
    ends = found.local_scale(0, 0, u)
    assert np.log(ends[1] / ends[0]) == pytest.approx(3.2, abs=0.6)
    ends = without.local_scale(0, 0, u)
    assert abs(np.log(ends[1] / ends[0])) < 1.0


def test_held_out_errors_are_saved_and_conditioned_on_more_runs(tmp_path: Path) -> None:
    design = uq.sobol(uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0)), 24, rng=5)
    more = uq.sobol(uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0)), 6, rng=8)
    t, ensembles = np.linspace(0.2, 2.0, 12), []
    for one in (design, more):
        a, b = (one[name].values[:, None] for name in ("a", "b"))
        curves = np.log(np.exp(-np.exp(3.0 * a) * t) + 1e-4 * np.exp(-b * t))
        ensembles.append(uq.ensemble.build(one, {"y": ("t", curves, t)}))
    first, new = ensembles
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(first)
    held = surrogate.process.held_out
    assert held.any(axis=1).sum() >= 1
    surrogate.save(tmp_path / "surrogate.npz")
    loaded = uq.load_surrogate(tmp_path / "surrogate.npz")
    assert isinstance(loaded, GaussianProcessSurrogate)
    np.testing.assert_array_equal(loaded.process.held_out, held)
    told, before = (one.predict({"a": 0.3, "b": 0.2}).variance["y"].values for one in (loaded, surrogate))
    np.testing.assert_allclose(told, before, rtol=1e-13)
    conditioned = with_runs(surrogate, new)
    assert isinstance(conditioned, GaussianProcessSurrogate)
    np.testing.assert_array_equal(conditioned.process.held_out[:, :24], held)
    unpredicted = held.any(axis=1)[:, None]
    np.testing.assert_array_equal(conditioned.process.held_out[:, 24:], unpredicted * conditioned.process.y[24:].T)
    # At the new runs the scores are known, those that were not predicted too.
    at = {name: new[name].values for name in ("a", "b")}
    told, before = conditioned.predict(at), surrogate.predict(at)
    assert np.mean(told.variance["y"].values) < 0.01 * np.mean(before.variance["y"].values)
    np.testing.assert_allclose(told.mean["y"].values, new["y"].values, atol=1e-3)

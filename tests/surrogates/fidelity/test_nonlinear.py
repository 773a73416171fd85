"""Nonlinear levels: derivatives by differences, the law against sampled functions, and what every surrogate must do."""

import numpy as np
import pytest

import uqms as uq
from uqms.surrogates.cokriging import WithLower, expanded, second_slope
from uqms.surrogates.fidelity import nonlinear
from uqms.surrogates.fidelity.ladder import _Slope
from uqms.surrogates.kernels import Matern32, Matern52, SquaredExponential
from uqms.surrogates.plugging import reverse_by_differences
from uqms.surrogates.process import condition, draw_at, score_at
from uqms.surrogates.training import Hyperparameters, objective, trend_basis

KERNELS = [SquaredExponential(), Matern32(), Matern52()]
LINE = uq.ParameterSpace(x=uq.Uniform(0.0, 1.0))
SQUARE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 2.0))


def line(counts, seed=1, nested=True):
    """Return runs of sin 8 pi x and of a square of it (and of a cube of that)."""
    parts = []
    for i, (level, n) in enumerate(counts.items()):
        design = uq.sobol(LINE, n, rng=seed if nested else seed + i)
        x = design["x"].values
        low = np.sin(4.0 * np.pi * x)
        middle = (x - np.sqrt(2.0)) * low**2
        y = {"low": low, "middle": middle, "high": middle**2 - 0.3 * x}[level]
        parts.append(uq.ensemble.build(design, {"y": y}, fidelity=level))
    return uq.ensemble.combine(*parts)


@pytest.mark.parametrize("kernel", KERNELS)
def test_slopes_of_kernels_of_one_distance(kernel):
    t, step = np.linspace(-3.0, 3.0, 13) + 0.01, 1e-5
    value, first, second = second_slope(kernel, t)
    above, below = second_slope(kernel, t + step), second_slope(kernel, t - step)
    np.testing.assert_allclose(first, (above[0] - below[0]) / (2.0 * step), atol=1e-9)
    np.testing.assert_allclose(second, (above[1] - below[1]) / (2.0 * step), atol=1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_gradient_of_the_objective_over_inputs_and_a_level(kernel):
    rng = np.random.default_rng(1)
    both = WithLower(SquaredExponential(), kernel)
    x, y = rng.standard_normal((9, 3)), rng.standard_normal(9)
    trend, p = trend_basis(x, 1), rng.normal(0.0, 0.4, 6)

    def value(p):
        return objective(p, x, y, trend, both, False)

    slopes = [(value(p + e)[0] - value(p - e)[0]) / 2e-6 for e in 1e-6 * np.eye(6)]
    np.testing.assert_allclose(value(p)[1], slopes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("cheap", [True, False])
def test_the_slope_by_the_level_below_and_its_derivative(kernel, cheap):
    rng = np.random.default_rng(2)
    both = WithLower(SquaredExponential(), kernel)
    x, y = rng.standard_normal((8, 3)), rng.standard_normal((8, 1))
    ell = expanded(both, 3, np.array([0.8, 1.1, 0.7, 0.9, 1.3, 0.4]))
    process = condition(both.full, x, y, 2, [Hyperparameters(ell, 0.0, 0.0, 0.0, 0, False, cheap=cheap)])
    slope = _Slope(process, 0, 0)
    rows, step = rng.standard_normal((5, 3)), 1e-6

    def mean(rows):
        return score_at(process, 0, 0, rows[None], True)[0][0]

    e = step * np.eye(3)
    np.testing.assert_allclose(slope.value(rows), (mean(rows + e[0]) - mean(rows - e[0])) / (2 * step), atol=1e-7)
    by = np.column_stack([(slope.value(rows + one) - slope.value(rows - one)) / (2 * step) for one in e])
    np.testing.assert_allclose(slope.derivative(rows), by, atol=1e-6)


def test_the_law_is_that_of_sampled_functions(monkeypatch):
    monkeypatch.setattr(nonlinear, "MEMBERS", 200)
    settings = uq.NonlinearMultiFidelity(levels=("low", "middle"), hyperparameters="point")
    surrogate = settings.fit(line({"low": 9, "middle": 6}))
    steps = surrogate.ladder.steps
    # With the same hyperparameters: functions of the low level drawn densely, then the level above given each of them.
    runs = 9
    process = steps[0].process
    u = np.array([[0.13], [0.32], [0.61], [0.93]])
    one = Hyperparameters(process.ell[0, 0], 0.0, 0.0, 0.0, 0, False)
    first = condition(process.kernel, process.x[:runs], process.y[:runs], 1, [one], [process.variance[0, 0]])
    rng = np.random.default_rng(3)
    draws = draw_at(first, 0, 0, u, rng.standard_normal((4000, 4)), rng.standard_normal((4000, 1)))
    p, h, j = steps[1].own(0, 0)
    means, variances = np.empty((4000, 4)), np.empty((4000, 4))
    for i, c in enumerate(draws):
        mean, variance = score_at(p, h, j, np.column_stack([c, u])[None], True)
        means[i], variances[i] = mean[0], variance[0]
    mean, variance = means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0)
    found = surrogate.scores(u)
    weights = np.exp(found.log_weights)
    own = np.diagonal(found.covariance[:, 0], axis1=1, axis2=2)
    centre = weights @ found.mean[..., 0]
    spread = weights @ (own + (found.mean[..., 0] - centre) ** 2)
    assert (means.var(axis=0) > 0.05 * variance).any()  # what is open of the low level matters
    np.testing.assert_allclose(centre, mean, atol=4.0 * np.sqrt(variance / 200).max())
    np.testing.assert_allclose(spread, variance, rtol=0.4)


CASES = {
    "two levels": ({"low": 12, "middle": 8}, True),
    "three levels": ({"low": 12, "middle": 8, "high": 6}, True),
    "not nested": ({"low": 10, "middle": 7}, False),
}


@pytest.mark.parametrize("case", ["two levels", *(pytest.param(c, marks=pytest.mark.slow) for c in list(CASES)[1:])])
def test_it_does_what_is_asked_of_a_surrogate(case, monkeypatch, tmp_path):
    monkeypatch.setattr(nonlinear, "MEMBERS", 4)
    counts, nested = CASES[case]
    settings = uq.NonlinearMultiFidelity(levels=tuple(counts))
    surrogate = settings.fit(line(counts, nested=nested))
    assert surrogate.ladder.draws == 4
    assert surrogate.nested == nested
    assert (np.ptp(surrogate.ladder.log_weights) > 0.0) != nested
    uq.testing.check_surrogate(surrogate, draws=500).raise_failed()
    surrogate.save(tmp_path / "s.npz")
    same = uq.load_surrogate(tmp_path / "s.npz")
    u = np.random.default_rng(5).random((4, 1))
    for one, other in zip(surrogate.scores(u), same.scores(u), strict=True):
        assert np.array_equal(one, other)
    bars = np.full((4, 4, 1), 0.3), np.random.default_rng(1).standard_normal((4, 1, 4, 4))
    by = reverse_by_differences(surrogate.scores, u, *bars)
    np.testing.assert_allclose(surrogate.scores_reverse(u, *bars), by, rtol=1e-3, atol=1e-4 * np.abs(by).max())

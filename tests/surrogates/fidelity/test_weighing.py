"""How probable it is that a lower level says something, against integrals written out."""

import numpy as np
import pytest

from uqms.surrogates import averaging
from uqms.surrogates.fidelity.nonlinear import _counts
from uqms.surrogates.fitting import Fitting
from uqms.surrogates.kernels import Matern52, correlation
from uqms.surrogates.training import log_posterior, prior_of, train, trend_basis


def data(factor, n=9, seed=1):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.random(n))[:, None]
    cheap = np.sin(6.0 * x[:, 0])
    cheap = (cheap - cheap.mean()) / cheap.std()
    y = factor * cheap + np.cos(4.0 * x[:, 0]) + 0.1 * rng.standard_normal(n)
    return x, (y - y.mean()) / y.std(), cheap


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0])
def test_the_share_without_the_lower_level_is_the_ratio_of_integrals(factor):
    x, y, cheap = data(factor)
    p = np.log([0.3])
    point = averaging.Sample(p[None], np.ones(1), 1.0)
    share, rest, _ = averaging.without_cheap(point, x, y, Matern52(), 2, False, cheap)
    k = correlation(Matern52(), x, x, np.exp(p)) + 1e-12 * np.eye(len(x))
    inverse, ones = np.linalg.inv(k), np.ones(len(x))
    q = inverse - np.outer(inverse @ ones, inverse @ ones) / (ones @ inverse @ ones)
    rho = np.linspace(-8.0, 9.0, 200001)
    residual = y[:, None] - rho * cheap[:, None]
    # The constant has a flat prior and the variance 1 / s2: both integrated out.
    log = -0.5 * (len(x) - 1) * np.log(np.sum(residual * (q @ residual), axis=0))
    log_zero = -0.5 * (len(x) - 1) * np.log(y @ q @ y)
    location, scale = averaging.CHEAP
    prior = np.exp(-0.5 * ((rho - location) / scale) ** 2) / (scale * np.sqrt(2.0 * np.pi))
    other = np.log(np.sum(np.exp(log - log_zero) * prior) * (rho[1] - rho[0]))
    assert share == pytest.approx(1.0 / (1.0 + np.exp(other)), rel=0.08)
    assert rest.points is point.points


def test_the_evidence_is_the_integral_over_the_length_scale():
    x, y, _ = data(0.5)
    trend, location, scale = trend_basis(x, 1), *prior_of(Matern52(), 1, False)
    grid = np.linspace(np.log(1e-2), np.log(1e3), 4001)
    values = np.array([log_posterior(np.array([p]), x, y, trend, Matern52(), False) for p in grid])
    prior_mass = np.exp(-0.5 * ((grid - location[0]) / scale[0]) ** 2).sum()
    wanted = np.logaddexp.reduce(values) - np.log(prior_mass)
    found = train(x, y, Matern52(), trend, False)
    sampled = averaging.sample(x, y, Matern52(), 1, False, found)
    assert sampled.log_evidence == pytest.approx(wanted, abs=0.05)
    at = averaging.at_mode(x, y, Matern52(), 1, False, averaging.logarithms(found, False))
    assert at.log_evidence == pytest.approx(wanted, abs=0.3)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0])
def test_evidence_counts_both_cases(factor):
    x, y, cheap = data(factor)
    fitting = Fitting(x, Matern52(), 2, False, "point", cheap[:, None], doubted=True)
    (found,) = fitting.log_evidence(y[:, None], fitting.trained(y[:, None]))
    without = averaging.sample(
        x, y, Matern52(), 1, False, Fitting(x, Matern52(), 1, False, "point").trained(y[:, None])[0]
    )
    points = averaging.sample(x, y, Matern52(), 2, False, fitting.trained(y[:, None])[0], cheap)
    share = averaging.without_cheap(points, x, y, Matern52(), 2, False, cheap).share
    assert found == pytest.approx(without.log_evidence - np.log(share), abs=0.3)


def test_one_hyperparameter_at_zero():
    rng = np.random.default_rng(2)
    points = np.column_stack([rng.standard_normal(4000), 1.0 + 0.5 * rng.standard_normal(4000)])
    sample = averaging.Sample(points, np.full(4000, 1.0 / 4000), 4000.0)
    share, rest, _ = averaging.at_zero(sample, 1, 0.5, 1.0)
    after = np.exp(-0.5 * 2.0**2) / 0.5
    before = np.exp(-0.5 * 0.5**2)
    assert share == pytest.approx(after / (after + before), rel=0.15)
    assert (rest.points[:, 1] == 0.0).all()
    assert rest.weights.sum() == pytest.approx(1.0)


def test_members_are_shared_by_largest_remainders():
    assert _counts(np.array([0.5, 0.3, 0.2])) == [16, 10, 6]
    assert sum(_counts(np.array([1e-9, 1.0 - 2e-9, 1e-9]))) == 32

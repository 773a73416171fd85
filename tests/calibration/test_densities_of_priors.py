"""Densities of priors as arrays and as expressions: SciPy's and PyMC's to 1e-12, in tails and at ends; derivatives."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from scipy import stats

import uqms as uq
from uqms.calibration import _target, compiled
from uqms.calibration.bridge import PyTensorFunctions
from uqms.parameters.priors import typical_sd
from uqms.parameters.scale import SCALES, Interval

LEVELS = np.array([1e-12, 1e-6, 0.01, 0.2, 0.5, 0.8, 0.99, 1.0 - 1e-9])


def half_t(nu: float, sigma: float) -> SimpleNamespace:
    return SimpleNamespace(logpdf=lambda x: np.log(2.0) + stats.t(nu, scale=sigma).logpdf(x))


CASES = [
    (uq.Uniform(-2, 5), stats.uniform(-2, 7), lambda a: pm.Uniform.dist(a(-2), a(5))),
    (uq.LogUniform(0.01, 50), stats.loguniform(0.01, 50), None),
    (uq.Normal(3, 0.4), stats.norm(3, 0.4), lambda a: pm.Normal.dist(a(3), a(0.4))),
    (uq.LogNormal(2, 0.3), stats.lognorm(0.3, scale=2), lambda a: pm.LogNormal.dist(a(np.log(2)), a(0.3))),
    (uq.LogitNormal(0.3, 0.5), None, lambda a: pm.LogitNormal.dist(a(np.log(3.0 / 7.0)), a(0.5))),
    # PyMC's normal distribution function is in single precision in part (1e-8): SciPy is the reference of what is cut.
    (uq.TruncatedNormal(1, 2, low=0), stats.truncnorm(-0.5, np.inf, 1, 2), None),
    (uq.TruncatedNormal(1, 2, low=-1, high=4), stats.truncnorm(-1, 1.5, 1, 2), None),
    (uq.TruncatedNormal(0, 1, low=5, high=6), stats.truncnorm(5, 6), None),
    (uq.TruncatedNormal(0, 1, low=-9, high=-5), stats.truncnorm(-9, -5), None),
    (uq.TruncatedNormal(0, 1, low=30), stats.truncnorm(30, np.inf), None),
    (uq.HalfNormal(2), stats.halfnorm(scale=2), lambda a: pm.HalfNormal.dist(a(2))),
    (uq.HalfCauchy(2), stats.halfcauchy(scale=2), lambda a: pm.HalfCauchy.dist(a(2))),
    (uq.HalfStudentT(3, 2), half_t(3, 2), lambda a: pm.HalfStudentT.dist(a(3), a(2))),
    (uq.HalfStudentT(0.7, 0.5), half_t(0.7, 0.5), lambda a: pm.HalfStudentT.dist(a(0.7), a(0.5))),
    (uq.Exponential(2.5), stats.expon(scale=0.4), lambda a: pm.Exponential.dist(a(2.5))),
    (uq.Beta(2, 5), stats.beta(2, 5), lambda a: pm.Beta.dist(a(2), a(5))),
    (uq.Beta(1, 1), stats.beta(1, 1), lambda a: pm.Beta.dist(a(1), a(1))),
    (uq.Beta(0.5, 0.7), stats.beta(0.5, 0.7), lambda a: pm.Beta.dist(a(0.5), a(0.7))),
    (uq.Gamma(4, 2.5), stats.gamma(4, scale=0.4), lambda a: pm.Gamma.dist(a(4), a(2.5))),
    (uq.Gamma(0.7, 2.5), stats.gamma(0.7, scale=0.4), lambda a: pm.Gamma.dist(a(0.7), a(2.5))),
    (uq.InverseGamma(3, 4), stats.invgamma(3, scale=4), lambda a: pm.InverseGamma.dist(a(3), a(4))),
]
PRIORS = [prior for prior, *_ in CASES]


def double(value: float) -> Any:
    """Return an argument in double precision, which PyTensor does not make of a number that has few digits."""
    return pt.constant(np.float64(value))


def as_function(prior: uq.Prior) -> Any:
    v = pt.dvector("v")
    density = prior.log_density(v, PyTensorFunctions)
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        return pytensor.function([v], [density, pytensor.grad(density.sum(), v)])


@pytest.mark.parametrize(("prior", "reference", "distribution"), CASES, ids=[prior.label for prior in PRIORS])
def test_densities_equal_scipy_and_pymc(prior: uq.Prior, reference: Any, distribution: Any) -> None:
    x = prior.quantile(LEVELS)
    low, high = prior.support
    beyond = np.array([low - 1.0, high + 1.0, -np.inf, np.inf, np.nan])
    value, expression = prior.log_density(x), as_function(prior)
    np.testing.assert_allclose(expression(x)[0], value, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(expression(beyond)[0][:4], -np.inf)
    np.testing.assert_array_equal(prior.log_density(beyond)[:4], -np.inf)
    assert np.isnan(prior.log_density(np.nan))
    if reference is not None:
        np.testing.assert_allclose(value, reference.logpdf(x), rtol=1e-12, atol=1e-11)
    if distribution is not None:
        with pytensor.config.change_flags(mode="FAST_COMPILE"):
            theirs = pm.logp(distribution(double), pt.constant(x)).eval()
        # PyMC has the constants of the two in single precision: SciPy is the reference to all digits.
        rounding = 1e-8 if isinstance(prior, uq.HalfCauchy | uq.HalfStudentT) else 1e-12
        np.testing.assert_allclose(value, theirs, rtol=1e-12, atol=rounding)


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: prior.label)
def test_derivatives_of_the_expression(prior: uq.Prior) -> None:
    x, function = prior.quantile(np.linspace(0.02, 0.98, 13)), as_function(prior)
    h = 1e-5 * np.minimum(np.abs(x - prior.support[0]), np.abs(prior.support[1] - x))
    h = np.where(np.isfinite(h), h, 1e-5 * typical_sd(prior))
    finite = (prior.log_density(x + h) - prior.log_density(x - h)) / (2.0 * h)
    np.testing.assert_allclose(function(x)[1], finite, rtol=1e-6, atol=1e-5 / typical_sd(prior))


def test_far_tails_keep_value_and_derivative() -> None:
    for prior, x, value, slope in (
        (uq.Normal(0, 1), 1e10, -5e19, -1e10),
        (uq.HalfNormal(1), 1e8, -5e15, -1e8),
        (uq.HalfCauchy(1), 1e200, -400 * np.log(10), -2e-200),
        (uq.HalfStudentT(3, 1), 1e100, -400 * np.log(10), -4e-100),
        (uq.Exponential(1), 1e8, -1e8, -1.0),
        (uq.LogNormal(1, 1), 1e-300, -0.5 * (300 * np.log(10)) ** 2, None),
        (uq.TruncatedNormal(0, 1, low=1e3), 1e3 + 1.0, -1e3, -1e3 - 1.0),
    ):
        found, derivative = as_function(prior)(np.array([x]))
        assert found[0] == pytest.approx(float(prior.log_density(x)), rel=1e-14)
        assert found[0] == pytest.approx(value, rel=0.02)
        if slope is not None:
            assert derivative[0] == pytest.approx(slope, rel=1e-12)


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: prior.label)
def test_the_compiled_density_is_the_same(prior: uq.Prior) -> None:
    """What a prior says of its compiled density, against its own density, whole and cut."""
    for low, high in (prior.support, tuple(prior.quantile([0.01, 0.93]))):
        row = compiled._prior(prior, float(low), float(high))
        if isinstance(prior, uq.LogitNormal):
            assert row is None
            continue
        assert row is not None
        interval = Interval.of(float(low), float(high), SCALES[prior.scale])
        x = prior.quantile(prior.cdf(low) + (prior.cdf(high) - prior.cdf(low)) * np.linspace(0.02, 0.98, 9))
        mass = float(prior.cdf(high) - prior.cdf(low))
        for one in x:
            z = float(interval.to_real(one))
            _, theta, value, slope, *_ = _target._parameter(np.array(row), z)
            assert theta == pytest.approx(one, rel=1e-9)
            expected = float(prior.log_density(one) + interval.log_jacobian(z)) - np.log(mass)
            assert value == pytest.approx(expected, rel=1e-8, abs=1e-8)
            h = 1e-5

            def at(v: float, interval: Interval = interval) -> float:
                return float(prior.log_density(interval.from_real(v)) + interval.log_jacobian(v))

            assert slope == pytest.approx((at(z + h) - at(z - h)) / (2.0 * h), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    "block",
    [
        uq.MultivariateNormal(
            ("a", "b", "c"),
            [0.1, 0.2, -0.3],
            [[0.09, 0.04, 0.01], [0.04, 0.04, 0.01], [0.01, 0.01, 0.05]],
            scale=("identity", "log", "logit"),
        ),
        uq.NormalMixture(
            ("a", "b", "c"),
            (0.3, 0.7),
            ((0.1, 0.2, -0.3), (1.0, -0.5, 0.4)),
            (
                ((0.09, 0.04, 0.01), (0.04, 0.04, 0.01), (0.01, 0.01, 0.05)),
                ((0.05, 0.0, 0.0), (0.0, 0.1, 0.02), (0.0, 0.02, 0.3)),
            ),
            scale=("identity", "log", "logit"),
        ),
    ],
    ids=lambda block: type(block).__name__,
)
def test_conditional_densities_of_blocks(block: Any) -> None:
    x = block.draw(3, 6)
    terms = block.log_terms(x)
    scalars = [pt.dscalar(name) for name in block.names]
    for j in range(3):
        found = block.conditional_log_density(list(x.T[: j + 1]))
        np.testing.assert_allclose(found, terms[:, j], rtol=1e-12, atol=1e-12)
        expression = block.conditional_log_density(scalars[: j + 1], PyTensorFunctions)
        with pytensor.config.change_flags(mode="FAST_COMPILE"):
            function = pytensor.function(scalars[: j + 1], expression)
        for i in range(6):
            assert float(np.squeeze(function(*x[i, : j + 1]))) == pytest.approx(terms[i, j], rel=1e-12, abs=1e-12)

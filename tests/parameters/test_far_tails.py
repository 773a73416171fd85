"""Survival probabilities, their inverse and normal scores far in the tails: closed forms, there and back to 30 sds."""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
from parameters.own_priors import OwnLogNormal, Triangular, Weibull
from scipy import stats
from scipy.special import log_ndtr, ndtr, ndtri

import uqms as uq
from uqms.calibration.conditioned import ConditionedPrior
from uqms.errors import NumericalWarning

Z = np.linspace(-30.0, 30.0, 121)
UP = np.array([0.5, 2.0, 5.0, 8.0, 9.0, 12.0, 20.0, 30.0, 37.0])
Q = ndtr(-UP)
BLOCK = uq.MultivariateNormal(("a", "b"), (1.0, -1.0), ((4.0, 1.2), (1.2, 1.0)), ("identity", "log"))
MIXTURE = uq.NormalMixture(
    ("a", "b"),
    (0.3, 0.7),
    ((-1.0, 0.0), (2.0, 1.0)),
    (((0.25, 0.1), (0.1, 0.5)), ((1.0, -0.3), (-0.3, 0.3))),
    ("identity", "log"),
)


@dataclass(frozen=True, repr=False)
class OwnMixture(uq.Prior):
    """Two normals of weights 1 - small and small, the second far above the first."""

    small: float
    far: float

    def _log_density(self, x, xp):
        first = xp.exp(-0.5 * x**2) * (1.0 - self.small)
        tail = math.log(self.small) - 0.5 * (x - self.far) ** 2
        near = math.log(1.0 - self.small) - 0.5 * x**2
        return xp.where(first > 0.0, near + xp.softplus(tail - near), tail) - 0.9189385332046727


@dataclass(frozen=True, repr=False)
class OwnNormal(uq.Prior):
    """A normal distribution with functions that end where a difference from 1 has no digits."""

    mean: float

    def _log_density(self, x, xp):
        return -0.5 * (x - self.mean) ** 2 - 0.9189385332046727

    def _cdf(self, x):
        return stats.norm.cdf(x, self.mean)

    def _quantile(self, p):
        return stats.norm.ppf(p, self.mean)


@dataclass(frozen=True, repr=False)
class Underflowing(uq.Prior):
    """A standard normal whose density is computed by a square that underflows beyond 27 sds."""

    def _log_density(self, x, xp):
        return 0.5 * xp.log(xp.exp(-(x**2))) - 0.9189385332046727


CLOSED = [
    (uq.Normal(3.0, 0.4), lambda q: 3.0 - 0.4 * ndtri(q)),
    (uq.LogNormal(1.8, 0.3), lambda q: 1.8 * np.exp(-0.3 * ndtri(q))),
    (uq.HalfNormal(0.1), lambda q: -0.1 * ndtri(0.5 * q)),
    (uq.HalfCauchy(0.5), lambda q: 0.5 / np.tan(0.5 * np.pi * q)),
    (uq.HalfStudentT(1.0, 0.5), lambda q: 0.5 / np.tan(0.5 * np.pi * q)),
    (uq.HalfStudentT(2.0, 3.0), lambda q: 3.0 * np.sqrt(2.0) * (1.0 - q) / np.sqrt(q * (2.0 - q))),
    (uq.Exponential(4.0), lambda q: -np.log(q) / 4.0),
    (uq.Gamma(1.0, 3.0), lambda q: -np.log(q) / 3.0),
    (uq.InverseGamma(1.0, 4.0), lambda q: -4.0 / np.log1p(-q)),
    (uq.Uniform(-2.0, 5.0), lambda q: 5.0 - 7.0 * q),
    (uq.LogUniform(0.01, 50.0), lambda q: 50.0 * np.exp(-q * np.log(5000.0))),
    (uq.Beta(1.0, 3.0), lambda q: 1.0 - q ** (1.0 / 3.0)),
    (uq.TruncatedNormal(1.0, 2.0, low=-1.0), lambda q: 1.0 - 2.0 * ndtri(q * ndtr(1.0))),
    (Weibull(1.5, 2.0), lambda q: 2.0 * (-np.log(q)) ** (1.0 / 1.5)),
    (Weibull(0.4, 2.0), lambda q: 2.0 * (-np.log(q)) ** 2.5),
    (OwnLogNormal(2.0, 0.3), lambda q: 2.0 * np.exp(-0.3 * ndtri(q))),
    (OwnNormal(7.0), lambda q: 7.0 - ndtri(q)),
]


@pytest.mark.parametrize(("prior", "exact"), CLOSED, ids=[prior.label for prior, _ in CLOSED])
def test_values_exceeded_with_tiny_probabilities_equal_closed_forms(prior, exact):
    x = exact(Q)
    np.testing.assert_allclose(prior.isf(Q), x, rtol=1e-11)
    np.testing.assert_allclose(prior.isf(1.0 - Q[:2]), prior.quantile(Q[:2]), rtol=1e-9)
    digits = Q > 1e-3 if math.isfinite(prior.support[1]) else Q > 0.0  # below, values are next to an end
    np.testing.assert_allclose(np.log(prior.sf(x[digits])), np.log(Q[digits]), rtol=1e-11)


@pytest.mark.parametrize(
    ("prior", "log_survival"),
    [
        (uq.Gamma(2.0, 3.0), lambda x: -3.0 * x + np.log1p(3.0 * x)),
        (uq.Gamma(3.0, 3.0), lambda x: -3.0 * x + np.log1p(3.0 * x * (1.0 + 1.5 * x))),
        (uq.InverseGamma(2.0, 4.0), lambda x: 2.0 * np.log(4.0 / x) - np.log(2.0) + np.log1p(-8.0 / (3.0 * x))),
        (uq.TruncatedNormal(0.0, 1.0, low=5.0), lambda x: log_ndtr(-x) - log_ndtr(-5.0)),
        (uq.HalfStudentT(4.0, 2.0), lambda x: np.log(2.0) + stats.t(4.0).logsf(0.5 * x)),
        (uq.HalfStudentT(60.0, 2.0), lambda x: np.log(2.0) + stats.t(60.0).logsf(0.5 * x)),
    ],
    ids=lambda one: getattr(one, "label", ""),
)
def test_log_survival_equals_closed_forms(prior, log_survival):
    q = Q[UP >= 8.0]
    np.testing.assert_allclose(log_survival(prior.isf(q)), np.log(q), rtol=1e-11)


@pytest.mark.parametrize(
    ("prior", "exact"),
    [
        (uq.Beta(2.0, 6.0), lambda p: np.sqrt(p / 21.0)),  # B(2, 6) = 1 / 42; SciPy's inverse is NaN here
        (uq.Beta(0.5, 1.0), lambda p: p**2),
        (Weibull(1.5, 2.0), lambda p: 2.0 * p ** (1.0 / 1.5)),
        (OwnLogNormal(2.0, 0.3), lambda p: 2.0 * np.exp(0.3 * ndtri(p))),
        (uq.Gamma(3.0, 2.0), lambda p: 0.5 * (6.0 * p) ** (1.0 / 3.0)),
        (uq.InverseGamma(1.0, 4.0), lambda p: -4.0 / np.log(p)),
    ],
    ids=lambda one: getattr(one, "label", ""),
)
def test_lower_tails_equal_closed_forms(prior, exact):
    p = ndtr(-np.array([20.0, 25.0]) if prior == uq.Beta(0.5, 1.0) else -np.array([20.0, 30.0, 37.0]))
    np.testing.assert_allclose(prior.quantile(p), exact(p), rtol=1e-11)
    np.testing.assert_allclose(np.log(prior.cdf(exact(p))), np.log(p), rtol=1e-11)


def conditioned(prior, limits=None):
    return ConditionedPrior({"x": prior}, {"x": limits or prior.support})


UNBOUNDED = [  # a prior, and the sides on which there and back has to be exact
    (uq.Normal(3.0, 0.4), (-30, 30)),
    (uq.LogNormal(1.8, 0.3), (-30, 30)),
    (uq.LogitNormal(0.3, 0.5), (-30, 9)),  # beyond that it is 1 - 1e-3, and digits are lost to 1
    (uq.TruncatedNormal(1.0, 2.0, low=0.0), (-4, 30)),
    (uq.TruncatedNormal(1.0, 2.0, high=0.5), (-30, 4)),
    (uq.TruncatedNormal(0.0, 1.0, low=5.0), (-4, 30)),
    (uq.TruncatedNormal(0.0, 1.0, high=-5.0), (-30, 4)),
    (uq.HalfNormal(0.1), (-30, 30)),
    (uq.HalfCauchy(0.5), (-30, 30)),
    (uq.HalfStudentT(4.0, 2.0), (-30, 30)),
    (uq.HalfStudentT(1.5, 0.3), (-30, 30)),
    (uq.HalfStudentT(200.0, 1.0), (-30, 30)),
    (uq.Exponential(4.0), (-30, 30)),
    (uq.Beta(2.0, 6.0), (-30, 4)),
    (uq.Gamma(4.0, 2.5), (-30, 30)),
    (uq.Gamma(200.0, 3.0), (-30, 30)),
    (uq.InverseGamma(3.0, 4.0), (-30, 30)),
    (Weibull(1.5, 2.0), (-30, 30)),
    (OwnLogNormal(2.0, 0.3), (-30, 30)),
    (OwnNormal(0.0), (-30, 30)),
    (OwnMixture(1e-4, 20.0), (-30, 30)),
    (Triangular(0.0, 1.0, 3.0), (-30, 4)),
    (MIXTURE.priors["a"], (-30, 30)),
    (MIXTURE.priors["b"], (-30, 30)),
]


@pytest.mark.parametrize(("prior", "sides"), UNBOUNDED, ids=[prior.label for prior, _ in UNBOUNDED])
def test_normal_scores_are_those_of_before(prior, sides):
    z = Z[(sides[0] <= Z) & (sides[1] >= Z)]
    law = conditioned(prior)
    x = law.from_normal(z[:, None])["x"]
    assert np.all(np.diff(x) > 0.0)
    np.testing.assert_allclose(law.to_normal({"x": x})[:, 0], z, rtol=0, atol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ends = law.from_normal(np.array([[-37.0], [37.0]]))["x"]
    assert np.all(np.isfinite(ends))
    assert ends[0] <= x[0] < x[-1] <= ends[1]


def test_values_beyond_the_range_of_floats_are_infinite():
    """Of half-Student t with 0.7 degrees of freedom the value at 31 sds is 1e300, that at 33 sds above 1e308."""
    prior = uq.HalfStudentT(0.7, 0.3)
    x = conditioned(prior).from_normal(np.array([[31.0], [33.0]]))["x"]
    assert 1e299 < x[0] < 1e301
    assert x[1] == np.inf


@pytest.mark.parametrize("high", [1.5, 3.0, 20.0, np.inf])
@pytest.mark.parametrize("low", [-np.inf, -20.0, -3.0, 0.5])
def test_limits_leave_the_tails_exact(low, high):
    """A normal between two limits: theta by the log of its masses on either side."""
    law = conditioned(uq.Normal(0.0, 1.0), (low, high))
    z = np.array([-30.0, -12.0, -3.0, 0.0, 3.0, 12.0, 30.0])
    x = law.from_normal(z[:, None])["x"]
    assert np.all((x >= low) & (x <= high))
    mass = ndtr(high) - ndtr(low)
    below, above = ndtr(low) + ndtr(z) * mass, ndtr(-high) + ndtr(-z) * mass
    np.testing.assert_allclose(x, np.where(below < above, ndtri(below), -ndtri(above)), rtol=1e-10, atol=1e-15)
    free = (np.isneginf(low) & (z < 0.0)) | (np.isposinf(high) & (z > 0.0)) | (np.abs(z) < 4.0)
    np.testing.assert_allclose(law.to_normal({"x": x})[free, 0], z[free], rtol=0, atol=1e-9)


def test_limits_in_the_upper_tail_are_those_of_the_lower_mirrored():
    above, below = conditioned(uq.Normal(0.0, 1.0), (12.0, 15.0)), conditioned(uq.Normal(0.0, 1.0), (-15.0, -12.0))
    z = np.linspace(-5.0, 5.0, 21)[:, None]
    x = above.from_normal(z)["x"]
    np.testing.assert_allclose(x, -below.from_normal(-z)["x"], rtol=1e-13)
    np.testing.assert_allclose(above.to_normal({"x": x}), z, rtol=0, atol=1e-8)


def test_bounded_priors_keep_their_ends():
    for prior in (uq.Uniform(-2.0, 5.0), uq.LogUniform(0.01, 50.0), uq.Beta(2.0, 3.0), Triangular(0.0, 1.0, 3.0)):
        low, high = prior.support
        x = conditioned(prior).from_normal(np.array([-40.0, -37.0, -9.0, 9.0, 37.0, 40.0])[:, None])["x"]
        assert x[0] == low
        assert x[-1] == high
        assert np.all((x >= low) & (x <= high))
        np.testing.assert_allclose(x[3:], high, rtol=1e-6)
        np.testing.assert_array_equal(prior.isf([0.0, 1.0]), [high, low])
        np.testing.assert_array_equal(prior.sf([low, high]), [1.0, 0.0])
        assert np.all(np.isnan(prior.isf([np.nan, -0.1, 1.1])))


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("block", [BLOCK, MIXTURE], ids=lambda block: type(block).__name__)
def test_blocks_are_exact_in_both_tails(block, box):
    """Without a box, there and back to 30 sds; in a wide one, as far as it does not cut."""
    limits = {"a": (-70.0, 70.0), "b": (1e-9, 1e9)} if box else {name: p.support for name, p in block.priors.items()}
    law = ConditionedPrior(block.priors, limits, (block,))
    reach = 12.0 if box else 30.0
    z = np.random.default_rng(1).uniform(-reach, reach, (200, 2))
    z[:4] = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * reach
    theta = law.from_normal(z)
    np.testing.assert_allclose(law.to_normal(theta), z, rtol=0, atol=1e-9)
    assert len(np.unique(theta["a"])) == len(z) - 2  # corners share their first


def test_a_multivariate_normal_is_its_factor_times_the_scores():
    z = np.random.default_rng(1).uniform(-30.0, 30.0, (100, 2))
    theta = ConditionedPrior(BLOCK.priors, {n: p.support for n, p in BLOCK.priors.items()}, (BLOCK,)).from_normal(z)
    expected = np.array([1.0, -1.0]) + z @ np.linalg.cholesky(np.array(BLOCK.covariance)).T
    np.testing.assert_allclose(theta["a"], expected[:, 0], rtol=1e-11)
    np.testing.assert_allclose(np.log(theta["b"]), expected[:, 1], rtol=1e-11)


def test_a_small_part_far_out_is_seen_by_the_numeric_tail():
    prior = OwnMixture(1e-4, 20.0)
    x = np.array([3.5, 10.0, 20.0, 25.0, 45.0])
    exact = (1.0 - 1e-4) * ndtr(-x) + 1e-4 * ndtr(20.0 - x)
    np.testing.assert_allclose(prior.sf(x), exact, rtol=1e-9)


def test_a_density_that_underflows_is_reported_and_bounded():
    prior = Underflowing()
    with pytest.warns(NumericalWarning, match=r"Underflowing\(\): _log_density is not finite beyond 27\.2.*give _sf"):
        x = prior.isf(ndtr(-np.array([12.0, 20.0, 26.0, 30.0, 37.0])))
    np.testing.assert_allclose(x[:3], [12.0, 20.0, 26.0], rtol=1e-9)
    np.testing.assert_allclose(x[3:], 27.3, atol=0.1)

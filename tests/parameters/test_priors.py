"""Priors against scipy.stats, against closed forms in the tails, and against quantiles that were asked for."""

import json
import math
import pickle
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
from scipy import integrate, stats

import uqms as uq
from uqms.errors import InputError
from uqms.parameters.priors import Moments, prior_from_dict, typical_sd


class HalfT:
    """The half-Student t distribution from SciPy's t distribution, without cancellation in either tail."""

    def __init__(self, nu, sigma):
        self.nu, self.sigma = nu, sigma

    def ppf(self, p):
        # Far below the median by the density at zero, since SciPy has the quantile of 1/2 + p / 2 only.
        near = np.asarray(p) / (2.0 * stats.t(self.nu).pdf(0.0))
        return self.sigma * np.where(near < 1e-5, near, stats.t(self.nu).isf(0.5 * (1.0 - np.asarray(p))))

    def cdf(self, x):
        t = np.asarray(x) / self.sigma
        near = 2.0 * stats.t(self.nu).pdf(0.0) * t
        return np.where(t < 1e-5, near, 1.0 - 2.0 * stats.t(self.nu).sf(t))

    def logpdf(self, x):
        return np.log(2.0 / self.sigma) + stats.t(self.nu).logpdf(np.asarray(x) / self.sigma)

    def support(self):
        return 0.0, np.inf

    def mean(self):
        return (
            np.inf if self.nu <= 1 else integrate.quad(lambda x: x * np.exp(self.logpdf(x)), 0, np.inf, epsrel=1e-10)[0]
        )

    def std(self):
        # E x^2 is that of the whole t distribution.
        return np.inf if self.nu <= 2 else math.sqrt(self.sigma**2 * stats.t(self.nu).var() - self.mean() ** 2)


PAIRS = [
    (uq.Uniform(-2, 5), stats.uniform(-2, 7)),
    (uq.LogUniform(0.01, 50), stats.loguniform(0.01, 50)),
    (uq.Normal(3, 0.4), stats.norm(3, 0.4)),
    (uq.LogNormal(1.8, 0.3), stats.lognorm(0.3, scale=1.8)),
    (uq.TruncatedNormal(1, 2, low=0), stats.truncnorm(-0.5, np.inf, 1, 2)),
    (uq.TruncatedNormal(1, 2, high=0.5), stats.truncnorm(-np.inf, -0.25, 1, 2)),
    (uq.TruncatedNormal(1, 2, low=-1, high=4), stats.truncnorm(-1, 1.5, 1, 2)),
    (uq.TruncatedNormal(0, 1, low=5, high=6), stats.truncnorm(5, 6)),
    (uq.TruncatedNormal(0, 1, low=-9, high=-5), stats.truncnorm(-9, -5)),
    (uq.TruncatedNormal(0.5, 0.2), stats.norm(0.5, 0.2)),
    (uq.HalfNormal(2), stats.halfnorm(scale=2)),
    (uq.HalfCauchy(0.5), HalfT(1, 0.5)),  # SciPy's own quantile loses half of the digits above 1 - 1e-8
    (uq.HalfStudentT(4, 2), HalfT(4, 2)),
    (uq.HalfStudentT(1.5, 0.3), HalfT(1.5, 0.3)),
    (uq.HalfStudentT(0.7, 2), HalfT(0.7, 2)),
    (uq.HalfStudentT(200, 1), HalfT(200, 1)),
    (uq.Exponential(4), stats.expon(scale=0.25)),
    (uq.Beta(2, 5), stats.beta(2, 5)),
    (uq.Beta(0.5, 0.7), stats.beta(0.5, 0.7)),
    (uq.Gamma(4, 2.5), stats.gamma(4, scale=0.4)),
    (uq.Gamma(0.7, 2.5), stats.gamma(0.7, scale=0.4)),
    (uq.Gamma(1, 3), stats.expon(scale=1 / 3)),
    (uq.InverseGamma(3, 4), stats.invgamma(3, scale=4)),
]
IDS = [prior.label for prior, _ in PAIRS]
P = np.array([1e-12, 1e-6, 0.01, 0.3, 0.5, 0.9, 0.999, 1 - 1e-9])


@pytest.mark.parametrize(("prior", "reference"), PAIRS, ids=IDS)
def test_density_cdf_and_quantile_equal_scipy(prior, reference):
    x = reference.ppf(P)
    np.testing.assert_allclose(prior.quantile(P), x, rtol=1e-8, atol=1e-13)
    np.testing.assert_allclose(prior.cdf(x), reference.cdf(x), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(prior.log_density(x), reference.logpdf(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("prior", "reference"), PAIRS, ids=IDS)
def test_moments_and_support_equal_scipy(prior, reference):
    assert prior.moments.mean == pytest.approx(reference.mean(), rel=1e-8)
    assert prior.moments.sd == pytest.approx(reference.std(), rel=1e-7)
    np.testing.assert_allclose(prior.support, reference.support(), atol=1e-12)
    np.testing.assert_array_equal(prior.quantile([0.0, 1.0]), prior.support)


@pytest.mark.parametrize(("prior", "reference"), PAIRS, ids=IDS)
def test_outside_of_the_support_nan_and_ends(prior, reference):
    low, high = prior.support
    outside = [v for v in (low - 1.0, high + 1.0, -np.inf, np.inf) if not low < v < high]
    assert np.all(prior.log_density(outside) == -np.inf)
    np.testing.assert_array_equal(prior.cdf([-np.inf, np.inf]), [0.0, 1.0])
    assert np.isnan(prior.log_density(np.nan))
    assert np.isnan(prior.cdf(np.nan))
    assert np.all(np.isnan(prior.quantile([np.nan, -0.1, 1.1])))
    ends = [v for v in (low, high) if np.isfinite(v)]
    if ends:
        np.testing.assert_allclose(prior.log_density(ends), reference.logpdf(ends), rtol=1e-12)


@pytest.mark.parametrize(("prior", "reference"), PAIRS, ids=IDS)
def test_draws_follow_the_distribution(prior, reference):
    draws = prior.draw(7, 4000)
    assert stats.kstest(draws, reference.cdf).pvalue > 1e-3
    np.testing.assert_array_equal(draws, prior.draw(np.random.default_rng(7), 4000))
    assert prior.draw(1, (2, 3)).shape == (2, 3)
    assert np.ndim(prior.draw(1)) == 0


def test_draws_stay_finite_when_the_generator_returns_zero():
    class Zero(np.random.Generator):
        def random(self, size=None, dtype=np.float64, out=None):
            return np.zeros(size)

    assert np.isfinite(uq.Normal(0, 1).draw(Zero(np.random.PCG64(1)), 1)).all()


@pytest.mark.parametrize(("low", "mean", "sd"), [(10.0, 0.0, 1.0), (1e3, 0.0, 1.0), (50.0, 1.0, 0.01), (2e6, 0.0, 2.0)])
def test_truncated_normal_far_in_the_tail(low, mean, sd):
    # With a = (low - mean) / sd, (x - low) a / sd is exponential(1) up to 1 / a^2, with known next terms.
    prior, mirror = uq.TruncatedNormal(mean, sd, low=low), uq.TruncatedNormal(-mean, sd, high=-low)
    a = (low - mean) / sd
    t = np.array([0.1, 1.0, 3.0])
    x = low + t * sd / a
    t = (x - low) * a / sd  # as far as x can hold it
    mills = integrate.quad(lambda s: np.exp(-s - 0.5 * (s / a) ** 2), 0, 60, epsrel=1e-13)[0]
    log_density = -t - 0.5 * (t / a) ** 2 - math.log(mills) + math.log(a / sd)
    tolerance = 1e-10 + 4 * np.finfo(float).eps * a * a
    np.testing.assert_allclose(prior.log_density(x), log_density, rtol=0, atol=tolerance)
    np.testing.assert_allclose(mirror.log_density(-x), log_density, rtol=0, atol=tolerance)
    above = [integrate.quad(lambda s: np.exp(-s - 0.5 * (s / a) ** 2), v, 60, epsrel=1e-13)[0] / mills for v in t]
    np.testing.assert_allclose(1 - prior.cdf(x), above, rtol=1e-9, atol=tolerance)
    np.testing.assert_allclose(mirror.cdf(-x), above, rtol=1e-9, atol=tolerance)
    np.testing.assert_allclose(prior.quantile(1 - np.array(above)) - low, x - low, rtol=1e-9, atol=4 * math.ulp(low))
    first = integrate.quad(lambda s: s * np.exp(-s - 0.5 * (s / a) ** 2), 0, 60, epsrel=1e-13)[0] / mills
    second = (
        integrate.quad(lambda s: (s - first) ** 2 * np.exp(-s - 0.5 * (s / a) ** 2), 0, 60, epsrel=1e-13)[0] / mills
    )
    assert prior.moments.mean == pytest.approx(low + first * sd / a, rel=1e-14)
    assert prior.moments.sd == pytest.approx(math.sqrt(second) * sd / a, rel=1e-10)
    assert mirror.moments == (-prior.moments.mean, prior.moments.sd)


def test_tails_do_not_underflow():
    assert uq.Normal(0, 1).log_density(1e10) == pytest.approx(-5e19, rel=1e-12)
    assert uq.Normal(0, 1).quantile(1e-300) == pytest.approx(-37.0471, abs=1e-3)
    assert uq.LogNormal(1, 1).log_density(0.0) == -np.inf
    assert uq.InverseGamma(3, 4).log_density([0.0, 1e-310]).tolist() == [-np.inf, -np.inf]
    assert uq.Gamma(0.5, 1).log_density(0.0) == np.inf
    assert uq.Gamma(2, 1).log_density(0.0) == -np.inf
    assert uq.LogNormal(1, 40).moments == (math.inf, math.inf)
    assert uq.InverseGamma(1, 1).moments == (math.inf, math.inf)
    assert uq.InverseGamma(2, 1).moments == (1.0, math.inf)
    assert uq.HalfStudentT(1, 1).moments == (math.inf, math.inf)
    assert uq.HalfStudentT(2, 1).moments == (pytest.approx(math.sqrt(2.0), rel=1e-14), math.inf)
    for prior in (uq.HalfCauchy(2), uq.HalfStudentT(0.3, 2), uq.HalfStudentT(3, 2), uq.Exponential(2)):
        peak = math.exp(prior.log_density(0.0))
        assert prior.cdf(1e-300) == pytest.approx(peak * 1e-300, rel=1e-12)
        assert prior.quantile(1e-300) == pytest.approx(1e-300 / peak, rel=1e-12)
        assert prior.quantile(1.0) == math.inf
    # P(x > t) is 2 / (pi t) up to 1 / t^2, and the density falls as its derivative, also where t^2 overflows.
    t = np.array([1e6, 1e9])
    np.testing.assert_allclose(1.0 - uq.HalfCauchy(1).cdf(t), 2.0 / (math.pi * t), rtol=2e-7)
    np.testing.assert_allclose(uq.HalfCauchy(1).quantile(1.0 - 2.0**-40), 2.0 / math.pi * 2.0**40, rtol=1e-12)
    for prior in (uq.HalfCauchy(1), uq.HalfStudentT(1, 1)):
        far = np.array([1e10, 1e200, 1e300])
        np.testing.assert_allclose(prior.log_density(far), math.log(2.0 / math.pi) - 2.0 * np.log(far), rtol=1e-14)
    wide, normal = uq.HalfStudentT(1e10, 2), uq.HalfNormal(2)
    np.testing.assert_allclose(wide.quantile([0.001, 0.5, 0.9999]), normal.quantile([0.001, 0.5, 0.9999]), rtol=1e-8)
    np.testing.assert_allclose(wide.log_density([0.1, 3, 9]), normal.log_density([0.1, 3, 9]), rtol=0, atol=1e-7)
    assert uq.HalfNormal(1).cdf(1e-300) == pytest.approx(math.sqrt(2 / math.pi) * 1e-300, rel=1e-12)


@pytest.mark.parametrize("width", [1e-6, 0.01, 0.0299, 0.0301, 1.0, 20.0])
def test_moments_of_log_uniform_for_every_width(width):
    nodes, weights = np.polynomial.legendre.leggauss(60)
    relative = np.expm1(width * 0.5 * (nodes + 1.0))  # x / low - 1
    mean = 0.5 * weights @ relative
    sd = math.sqrt(0.5 * weights @ (relative - mean) ** 2)
    moments = uq.LogUniform(2.0, 2.0 * math.exp(width)).moments
    assert moments.mean == pytest.approx(2.0 * (1.0 + mean), rel=1e-9)
    assert moments.sd == pytest.approx(2.0 * sd, rel=1e-9)


MEMBERS = [
    uq.Uniform(-3, 7),
    uq.LogUniform(1e-6, 1e3),
    uq.Normal(5, 1e-3),
    uq.LogNormal(1e-8, 2),
    uq.Beta(2, 5),
    uq.Beta(0.3, 0.2),
    uq.Beta(400, 3),
    uq.Beta(1, 1),
    uq.Gamma(0.2, 5),
    uq.Gamma(3, 1e-4),
    uq.Gamma(1e5, 2),
    uq.InverseGamma(0.5, 3),
    uq.InverseGamma(40, 1e6),
    uq.HalfStudentT(0.5, 2),
    uq.HalfStudentT(4, 1e-6),
    uq.HalfStudentT(30, 1e6),
    uq.TruncatedNormal(1, 2, low=0),
    uq.TruncatedNormal(-30, 5, low=0),
    uq.TruncatedNormal(5, 2, high=4.0),
    uq.TruncatedNormal(0.3, 0.2, low=0, high=1),
    uq.TruncatedNormal(3.0, 1.0, low=0, high=1),
    uq.TruncatedNormal(2, 3),
]


@pytest.mark.parametrize("prior", MEMBERS, ids=[m.label for m in MEMBERS])
@pytest.mark.parametrize("p", [(0.05, 0.95), (0.5, 0.75), (0.001, 0.3)])
def test_from_quantiles_finds_the_member_again(prior, p):
    family, bounds = type(prior), {}
    if isinstance(prior, uq.TruncatedNormal):
        bounds = {"low": prior.low, "high": prior.high}
    x = prior.quantile(p)
    found = family.from_quantiles(dict(zip(p, x, strict=True)), unit="mm", description="words", **bounds)
    np.testing.assert_allclose(found.cdf(x), p, rtol=1e-8)
    np.testing.assert_allclose(found.quantile(p), x, rtol=1e-8)
    # The quantile function agrees elsewhere, too: the solution is unique.
    np.testing.assert_allclose(found.quantile([0.2, 0.6]), prior.quantile([0.2, 0.6]), rtol=1e-5)
    assert (found.unit, found.description) == ("mm", "words")


def test_from_quantiles_far_from_zero_up_to_the_last_digit_of_the_values():
    prior = uq.Uniform(1e9, 1e9 + 1)
    found = uq.Uniform.from_quantiles(dict(zip((0.001, 0.3), prior.quantile([0.001, 0.3]), strict=True)))
    np.testing.assert_allclose([found.low, found.high], [1e9, 1e9 + 1], rtol=1e-15)


def test_from_quantiles_in_closed_form():
    assert uq.Uniform.from_quantiles({0.25: 1, 0.75: 3}) == uq.Uniform(0, 4)
    z = stats.norm.ppf(0.975)
    normal = uq.Normal.from_quantiles({0.975: 3.0, 0.025: 1.0})
    assert (normal.mean, normal.sd) == (pytest.approx(2.0, rel=1e-14), pytest.approx(1 / z, rel=1e-14))
    assert uq.HalfCauchy.from_quantiles({0.5: 4.0}).beta == pytest.approx(4.0, rel=1e-14)
    assert uq.Exponential.from_quantiles({0.95: 4.0}).rate == pytest.approx(-math.log(0.05) / 4.0, rel=1e-14)
    assert uq.HalfNormal.from_quantiles({0.95: 4.0}).sd == pytest.approx(4.0 / stats.halfnorm.ppf(0.95), rel=1e-14)
    log_normal = uq.LogNormal.from_quantiles({0.1: 1.0, 0.9: 4.0})
    assert log_normal.median == pytest.approx(2.0, rel=1e-14)


@pytest.mark.parametrize(
    ("family", "quantiles", "message"),
    [
        (uq.Normal, {0.05: 3, 0.95: 1}, "swap them"),
        (uq.Normal, {0.05: 1, 0.95: 1}, "has to be above"),
        (uq.Normal, {0.05: 1}, "give 2 quantiles"),
        (uq.HalfNormal, {0.05: 1, 0.9: 2}, "give 1 quantile as"),
        (uq.HalfCauchy, {0.05: 1, 0.9: 2}, "give 1 quantile as"),
        (uq.HalfStudentT, {0.5: 1.0, 0.95: 2.0}, "No HalfStudentT has the quantiles"),
        (uq.Normal, {5: 1, 95: 2}, "write 0.05 for 5 %"),
        (uq.Normal, {0.0: 1, 0.5: 2}, "not between 0 and 1"),
        (uq.Normal, {0.1: math.nan, 0.5: 2}, "a value is NaN"),
        (uq.Normal, {0.1: "1", 0.5: 2}, "give a number"),
        (uq.Normal, [(0.1, 1), (0.5, 2)], "give 2 quantiles"),
        (uq.LogNormal, {0.1: -1, 0.5: 2}, "-1 is not between 0 and inf"),
        (uq.Beta, {0.1: 0.5, 0.5: 2}, "2 is not between 0 and 1"),
        (uq.Normal, {0.1: 1e16, 0.9: 1e16 + 2}, "to double precision"),
        (uq.LogUniform, {0.5: 1, 0.5001: 1e300}, "No LogUniform"),
        (uq.Gamma, {0.5: 1, 0.5000001: 1e300}, "No Gamma"),
    ],
)
def test_from_quantiles_that_cannot_be_meant(family, quantiles, message):
    with pytest.raises(InputError, match=message):
        family.from_quantiles(quantiles)


def test_truncated_normal_with_more_spread_than_an_exponential_is_refused():
    exponential = stats.expon.ppf([0.5, 0.95])
    with pytest.raises(InputError, match="No TruncatedNormal has the quantiles .* use another family"):
        uq.TruncatedNormal.from_quantiles({0.5: exponential[0], 0.95: 1.05 * exponential[1]}, low=0)
    found = uq.TruncatedNormal.from_quantiles({0.5: exponential[0], 0.95: 0.95 * exponential[1]}, low=0)
    assert found.cdf(exponential[0]) == pytest.approx(0.5, rel=1e-8)
    with pytest.raises(InputError, match="is not between 0 and 1"):
        uq.TruncatedNormal.from_quantiles({0.5: 0.5, 0.95: 2.0}, low=0, high=1)
    with pytest.raises(InputError, match="low has to be below high"):
        uq.TruncatedNormal.from_quantiles({0.5: 0.5, 0.95: 2.0}, low=1, high=0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: uq.Uniform(2, 1), r"Uniform: low is 2 and high is 1; low has to be below high \(swap them\)"),
        (lambda: uq.Uniform(1, 1), "a value that is known needs no prior"),
        (lambda: uq.Uniform(math.nan, 1), "Uniform: low is NaN"),
        (lambda: uq.Uniform(0, math.inf), "Uniform: high is inf; give a finite number"),
        (lambda: uq.Uniform(-1e308, 1e308), "beyond the range of a float"),
        (lambda: uq.Uniform(0, 10**400), "too large for a float"),
        (lambda: uq.Uniform(True, 2), "low is True .bool.; give a number"),
        (lambda: uq.Uniform(np.True_, 2), "give a number"),
        (lambda: uq.Uniform("0", 1), "low is '0' .str.; give a number"),
        (lambda: uq.Uniform(None, 1), "NoneType"),
        (lambda: uq.Uniform(1j, 1), "complex"),
        (lambda: uq.Uniform(0, 1, unit=1), "Uniform: unit is 1 .int.; give a str"),
        (lambda: uq.Uniform(0, 1, description=None), "description"),
        (lambda: uq.LogUniform(0, 1), "LogUniform: low is 0; it has to be above 0"),
        (lambda: uq.LogUniform(-1, 1), "above 0"),
        (lambda: uq.LogUniform(2, 1), "low has to be below high"),
        (lambda: uq.Normal(0, 0), "Normal: sd is 0; it has to be above 0"),
        (lambda: uq.Normal(0, -1), "sd is -1"),
        (lambda: uq.Normal(math.inf, 1), "mean is inf"),
        (lambda: uq.LogNormal(0, 1), "LogNormal: median is 0"),
        (lambda: uq.LogNormal(1, -0.1), "sigma is -0.1"),
        (lambda: uq.TruncatedNormal(0, 1, 2, 1), "low has to be below high"),
        (lambda: uq.TruncatedNormal(0, 1, math.nan), "low is NaN"),
        (lambda: uq.TruncatedNormal(0, -1), "sd is -1"),
        (lambda: uq.TruncatedNormal(0, 1e12, 0, 1), "use Uniform"),
        (lambda: uq.TruncatedNormal(0, 1e-300, 1, 2), "use Uniform"),
        (lambda: uq.HalfNormal(0), "HalfNormal: sd is 0"),
        (lambda: uq.HalfNormal(math.inf), "sd is inf"),
        (lambda: uq.HalfCauchy(0), "HalfCauchy: beta is 0"),
        (lambda: uq.HalfStudentT(0, 1), "HalfStudentT: nu is 0"),
        (lambda: uq.HalfStudentT(3, -1), "sigma is -1"),
        (lambda: uq.Exponential(math.nan), "Exponential: rate is NaN"),
        (lambda: uq.Exponential(scale=2.0), "its inverse is 'rate' .rate = 1 / scale"),
        (lambda: uq.Exponential(lam=2.0), "it is called 'rate'"),
        (lambda: uq.HalfCauchy(scale=2.0), "it is called 'beta'"),
        (lambda: uq.HalfCauchy(sd=2.0), "its standard deviation is infinite; give the scale 'beta'"),
        (lambda: uq.HalfStudentT(df=3, scale=2.0), "it is called 'nu'; .* it is called 'sigma'"),
        (lambda: uq.Beta(0, 1), "Beta: alpha is 0"),
        (lambda: uq.Gamma(1, 0), "Gamma: rate is 0"),
        (lambda: uq.InverseGamma(1, math.nan), "InverseGamma: beta is NaN"),
    ],
)
def test_arguments_that_cannot_be_meant(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_arrays_that_are_not_numbers():
    prior = uq.Normal(0, 1)
    for bad in ([True], ["1"], [None], [1j], [[1.0], [1.0, 2.0]]):
        with pytest.raises(InputError):
            prior.log_density(bad)
    with pytest.raises(InputError, match="give a whole number >= 0"):
        prior.draw(-1)


def test_values_are_frozen_floats_and_compare_by_content():
    prior = uq.Uniform(np.float32(1), 2, unit="mm")
    assert [type(v) for v in (prior.low, prior.high)] == [float, float]
    assert prior == uq.Uniform(1.0, 2.0, unit="mm") != uq.Uniform(1.0, 2.0)
    assert uq.Gamma(1, 2) != uq.InverseGamma(1, 2)
    assert len({prior, uq.Uniform(1, 2, unit="mm")}) == 1
    assert pickle.loads(pickle.dumps(prior)) == prior
    with pytest.raises(FrozenInstanceError):
        prior.low = 0.0
    with pytest.raises(InputError, match="got 3 arguments by position, it takes 2"):
        uq.Uniform(0, 1, "mm")


def test_repr_is_code_and_label_is_short():
    prior = uq.LogNormal(median=1 / 3, sigma=0.3, unit="1/day")
    assert repr(prior) == "LogNormal(median=0.3333333333333333, sigma=0.3, unit='1/day')"
    assert prior.label == "LogNormal(median=0.333333, sigma=0.3)"
    assert eval(repr(prior), {"LogNormal": uq.LogNormal}) == prior


@pytest.mark.parametrize("prior", [prior for prior, _ in PAIRS], ids=IDS)
def test_strict_json_round_trip(prior):
    text = json.dumps(prior.to_dict(), allow_nan=False)
    assert prior_from_dict(json.loads(text)) == prior


def test_json_of_other_things():
    good = uq.Uniform(0, 1).to_dict()
    for bad in ({**good, "prior": "Cauchy"}, {**good, "prior": ["Uniform"]}, [], None):
        with pytest.raises(InputError, match="There is no prior"):
            prior_from_dict(bad)
    with pytest.raises(InputError, match="has unknown colour"):
        prior_from_dict({**good, "colour": 1})
    with pytest.raises(InputError, match="lacks high"):
        prior_from_dict({key: value for key, value in good.items() if key != "high"})
    with pytest.raises(InputError, match="high is 'much'"):
        prior_from_dict({**good, "high": "much"})


def test_scales_of_the_families():
    scales = {type(prior).__name__: prior.scale for prior, _ in PAIRS}
    assert scales == {
        "Uniform": "identity",
        "LogUniform": "log",
        "Normal": "identity",
        "LogNormal": "log",
        "TruncatedNormal": "identity",
        "HalfNormal": "identity",
        "HalfCauchy": "identity",
        "HalfStudentT": "identity",
        "Exponential": "identity",
        "Beta": "logit",
        "Gamma": "log",
        "InverseGamma": "log",
    }
    # No argument of a family hides what every prior says of itself.
    for prior, _ in PAIRS:
        assert not {f.name for f in fields(prior)} & {"scale", "support", "moments", "label"}
        assert isinstance(prior.moments, Moments)


def test_width_of_a_prior_without_a_standard_deviation():
    assert typical_sd(uq.HalfNormal(2)) == uq.HalfNormal(2).moments.sd
    low, high = stats.halfcauchy(scale=2).ppf(stats.norm.cdf([-1, 1]))
    assert typical_sd(uq.HalfCauchy(2)) == pytest.approx(0.5 * (high - low), rel=1e-12)

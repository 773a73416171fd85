"""The conformance suite of priors passes right ones and finds every planted bug by the check that is meant for it."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from parameters.own_priors import OwnLogNormal, Triangular, Weibull

import uqms as uq
from uqms.errors import ConformanceError, InputError
from uqms.testing import check_prior

VALUE = "it is a value"
SUPPORT = "the support is that of density and quantiles"
MASS = "the density integrates to one"
CDF = "the distribution function is the integral of the density"
QUANTILE = "quantiles invert the distribution function"
MOMENTS = "moments are those of the density"
SAME = "expressions equal arrays"
SLOPE = "the derivative is that of the density"
FILE = "a file can name it"

RIGHT = [
    Weibull(1.7, 3.0),
    Triangular(-1.0, 0.5, 4.0),
    OwnLogNormal(1.8, 0.3),
    uq.Uniform(-2, 5),
    uq.LogUniform(0.01, 50),
    uq.Normal(1e5, 1e-2),
    uq.LogNormal(1.8, 0.3),
    uq.LogitNormal(0.3, 0.5),
    uq.TruncatedNormal(1, 2, low=0),
    uq.TruncatedNormal(0, 1, low=5, high=6),
    uq.TruncatedNormal(0, 1, low=-9, high=-5),
    uq.HalfNormal(2),
    uq.HalfCauchy(2),
    uq.HalfStudentT(3, 2),
    uq.HalfStudentT(0.7, 2),
    uq.HalfStudentT(1.5, 2),
    uq.Exponential(0.5),
    uq.Beta(2, 5),
    uq.Gamma(0.7, 2.5),
    uq.InverseGamma(1.5, 4),
]


@pytest.mark.parametrize("prior", RIGHT, ids=lambda prior: prior.label)
def test_right_priors_pass(prior: uq.Prior) -> None:
    found = check_prior(prior)
    found.raise_failed()
    assert str(found).startswith("prior: 9 of 9 checks passed, 0 failed")


@dataclass(frozen=True, repr=False)
class Constant(uq.Prior):
    """A density without its constant, with its own distribution function, so that nothing is computed from it."""

    median: float = 1.8
    sigma: float = 0.3
    scale = "log"

    def _log_density(self, x, xp):
        return -0.5 * ((xp.log(x) - xp.log(self.median)) / self.sigma) ** 2 - xp.log(x)

    def _cdf(self, x):
        return uq.LogNormal(self.median, self.sigma).cdf(x)

    def _quantile(self, p):
        return uq.LogNormal(self.median, self.sigma).quantile(p)

    @property
    def moments(self):
        return uq.LogNormal(self.median, self.sigma).moments


@dataclass(frozen=True, repr=False)
class OtherCdf(OwnLogNormal):
    def _cdf(self, x):
        return uq.LogNormal(self.median, 1.01 * self.sigma).cdf(x)


@dataclass(frozen=True, repr=False)
class OtherQuantile(OwnLogNormal):
    def _quantile(self, p):
        return 1.001 * super()._quantile(p)


@dataclass(frozen=True, repr=False)
class Variance(OwnLogNormal):
    @property
    def moments(self):
        mean, sd = super().moments
        return uq.parameters.Moments(mean, sd**2)


@dataclass(frozen=True, repr=False)
class Single(OwnLogNormal):
    """PyTensor's functions in the place of those of xp, which are in single precision for numbers."""

    def _log_density(self, x, xp):
        constant = (
            np.log(self.sigma) if isinstance(x, np.ndarray | float) else np.float64(np.float32(np.log(self.sigma)))
        )
        return super()._log_density(x, xp) + float(np.log(self.sigma)) - constant


@dataclass(frozen=True, repr=False)
class Stepped(uq.Prior):
    """Its expression is right in value, and has no derivative."""

    sd: float = 1.0

    def _log_density(self, x, xp):
        from pytensor.gradient import disconnected_grad

        z = (x if isinstance(x, np.ndarray | float) else disconnected_grad(x)) / self.sd
        return -0.5 * z**2 - xp.log(self.sd) - 0.9189385332046727 + 0.0 * x


@dataclass(frozen=True, repr=False)
class NumPyOnly(OwnLogNormal):
    def _log_density(self, x, xp):
        from scipy import stats

        return stats.lognorm.logpdf(x, self.sigma, scale=self.median)


@dataclass(frozen=True, repr=False)
class OutsideOfTheScale(uq.Prior):
    high: float = 1.0
    scale = "log"

    @property
    def support(self):
        return -1.0, self.high

    def _log_density(self, x, xp):
        return 0.0 * x - xp.log(2.0)

    def _cdf(self, x):
        return 0.5 * (x + 1.0)

    def _quantile(self, p):
        return 2.0 * p - 1.0


@dataclass(frozen=True, eq=False, repr=False)
class NoValue(OwnLogNormal):
    __eq__, __hash__ = object.__eq__, object.__hash__


@dataclass(frozen=True, repr=False)
class Unsaved(OwnLogNormal):
    """An argument that its constructor does not take."""

    settings: dict = field(default_factory=dict)

    def _check(self):
        pass

    def __hash__(self):
        return 1


BUGS = [
    (Constant(), MASS),
    (OtherCdf(1.8, 0.3), CDF),
    (OtherQuantile(1.8, 0.3), QUANTILE),
    (Variance(1.8, 0.3), MOMENTS),
    (Single(1.8, 0.3), SAME),
    (NumPyOnly(1.8, 0.3), SAME),
    (Stepped(), SLOPE),
    (OutsideOfTheScale(), SUPPORT),
    (NoValue(1.8, 0.3), VALUE),
    (Unsaved(1.8, 0.3), FILE),
]


@pytest.mark.parametrize(("prior", "name"), BUGS, ids=[type(prior).__name__ for prior, _ in BUGS])
def test_a_planted_bug_is_found(prior: uq.Prior, name: str) -> None:
    found = check_prior(prior)
    assert name in found.failed
    with pytest.raises(ConformanceError, match="checks of the prior are failed"):
        found.raise_failed()
    assert found.table.loc[name, "reason"]


def test_a_class_within_a_function_cannot_be_stored() -> None:
    @dataclass(frozen=True, repr=False)
    class Local(OwnLogNormal):
        pass

    assert check_prior(Local(1.8, 0.3)).failed == (FILE,)


def test_what_is_no_prior_is_refused() -> None:
    with pytest.raises(InputError, match="give an instance of a uqms.Prior"):
        check_prior(uq.Normal)

"""A user's kernel in every kind of surrogate, against a built-in one of the same formula; what `check_kernel` finds."""

import math
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import xarray as xr

import uqms as uq
from uqms._typing import Array
from uqms.errors import ConformanceError, InputError
from uqms.surrogates import RadialKernel, kernels
from uqms.surrogates.cokriging import WithLower, expanded
from uqms.surrogates.fidelity.ladder import _Slope
from uqms.surrogates.function_draws import mean_path, paths
from uqms.surrogates.kernels import Stationary
from uqms.surrogates.process import condition
from uqms.surrogates.training import Hyperparameters

SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 2.0))


@dataclass(frozen=True)
class Mine(RadialKernel):
    """Matérn 5/2 as a user writes it."""

    def radial(self, r2: float) -> tuple[float, float]:
        a = math.sqrt(5.0 * r2)
        return (1.0 + a + a * a / 3.0) * math.exp(-a), -(5.0 / 3.0) * (1.0 + a) * math.exp(-a)


def table(n: int, level: str | None = None, seed: int = 1) -> xr.Dataset:
    design = uq.sobol(SPACE, n, rng=seed)
    a, b = design["a"].values, design["b"].values
    y = np.sin(5.0 * a) + b * np.cos(3.0 * a)
    y = 1.5 * y + 0.2 * a * b if level == "fine" else y
    return uq.ensemble.build(design, {"y": y}, space=SPACE, **({} if level is None else {"fidelity": level}))


def levels(seed: int) -> xr.Dataset:
    return uq.ensemble.combine(table(12, "coarse"), table(8, "fine", seed))


FITS: dict[str, Callable[[Stationary], object]] = {
    "exact": lambda k: uq.GaussianProcess(k, scales="given").fit(table(20)),
    "sum of products": lambda k: uq.GaussianProcess(uq.SquaredExponential() + k * uq.Matern32()).fit(table(24)),
    "fitted noise": lambda k: uq.GaussianProcess(k, noise="fitted", hyperparameters="point", scales="given").fit(
        table(20)
    ),
    "cheap model": lambda k: uq.GaussianProcess(
        k,
        mean=uq.Physics(
            lambda p: {"y": np.sin(5.0 * p["a"])}, derivative=lambda p: {"y": {"a": 5.0 * np.cos(5.0 * p["a"])}}
        ),
        hyperparameters="point",
        scales="given",
    ).fit(table(20)),
    "many runs": lambda k: uq.LocalGaussianProcess(k, neighbours=24).fit(table(64)),
    "many runs, a sum": lambda k: uq.LocalGaussianProcess(k + uq.Matern32(), neighbours=24).fit(table(64)),
    "two levels": lambda k: uq.MultiFidelity(("coarse", "fine"), k, hyperparameters="point", scales="given").fit(
        levels(1)
    ),
    "two levels, not nested": lambda k: uq.MultiFidelity(("coarse", "fine"), k, hyperparameters="point").fit(levels(2)),
}


@pytest.mark.parametrize("kind", FITS)
@pytest.mark.filterwarnings("ignore::uqms.errors.DesignWarning")
def test_each_kind_of_surrogate_is_that_of_the_built_in_kernel(kind: str) -> None:
    own, built_in = FITS[kind](Mine()), FITS[kind](uq.Matern52())
    rng = np.random.default_rng(2)
    u = rng.random((4, 2))
    ours, theirs = own.scores(u), built_in.scores(u)  # type: ignore[attr-defined]
    size = np.abs(theirs.covariance).max()
    np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.covariance, theirs.covariance, rtol=1e-2, atol=1e-2 * size)
    bars = rng.standard_normal(ours.mean.shape), rng.standard_normal(ours.covariance.shape)
    slopes = own.scores_reverse(u, *bars)  # type: ignore[attr-defined]
    for c in range(2):
        step = 1e-5 * np.eye(2)[c]
        high, low = (own.scores(u + s * step)[:2] for s in (1.0, -1.0))  # type: ignore[attr-defined]
        numeric = sum(float(np.sum((p - q) * bar)) for p, q, bar in zip(high, low, bars, strict=True)) / 2e-5
        assert slopes[:, c].sum() == pytest.approx(numeric, rel=1e-4, abs=1e-4 * np.abs(slopes).max())


def test_a_nonlinear_level_has_its_slope_by_the_level_below() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((8, 3)), rng.standard_normal((8, 1))
    rows, found = rng.standard_normal((5, 3)), []
    for kernel in (Mine(), uq.Matern52()):
        both = WithLower(uq.SquaredExponential(), kernel)
        ell = expanded(both, 3, np.array([0.8, 1.1, 0.7, 0.9, 1.3, 0.4]))
        process = condition(both.full, x, y, 2, [Hyperparameters(ell, 0.0, 0.0, 0.0, 0, False)])
        slope = _Slope(process, 0, 0)
        found.append((slope.value(rows), slope.derivative(rows)))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_paths_are_those_of_the_scores() -> None:
    surrogate = uq.GaussianProcess(Mine() + uq.SquaredExponential() * Mine(), hyperparameters="point").fit(table(20))
    u = np.random.default_rng(5).random((40, 2))
    np.testing.assert_allclose(mean_path(surrogate, 0)(u)[0], surrogate.scores(u).mean[0], atol=1e-8)
    draws = paths(surrogate, u, 4000, 1)(u)[..., 0]
    exact = surrogate.scores(u).covariance[0, 0]
    sd = np.sqrt(np.diag(exact))
    off = np.abs(np.cov(draws.T) - exact) / np.outer(sd, sd)
    assert off.max() < 6.0 * np.sqrt(2.0 / 4000)


def test_the_probability_of_an_event_has_the_slope_of_the_built_in_kernel() -> None:
    runs = table(30)
    fits = [
        uq.EventProbability(lambda one: one["y"].values > 0.8, kernel=kernel, hyperparameters="point").fit(runs)
        for kernel in (Mine(), uq.Matern52())
    ]
    u = np.random.default_rng(0).random((4, 2))
    np.testing.assert_allclose(fits[0].log_probability_at(u), fits[1].log_probability_at(u), rtol=1e-4)
    steps = 1e-5 * np.eye(2)
    plus, minus = (np.stack([fits[0].log_probability_at(u + s * e) for e in steps], -1) for s in (1.0, -1.0))
    np.testing.assert_allclose(fits[0].log_slope(u), (plus - minus) / 2e-5, rtol=1e-5, atol=1e-7)


def test_left_out_runs_are_those_of_the_built_in_kernel() -> None:
    tables = [uq.leave_one_out(FITS["exact"](kernel)).table for kernel in (Mine(), uq.Matern52())]
    for column in tables[0].columns:
        assert tables[0].loc["y", column] == pytest.approx(tables[1].loc["y", column], rel=1e-3, abs=1e-6, nan_ok=True)


def test_no_address_goes_to_another_process() -> None:
    surrogate = FITS["two levels"](Mine())
    address = float(Mine().code)
    for step in surrogate.ladder.steps:  # type: ignore[attr-defined]
        assert any((block == address).any() for row in step.blocks for block in row)
        assert np.float64(address).tobytes() in pickle.dumps(step.blocks)
        assert np.float64(address).tobytes() not in pickle.dumps(step)
        assert pickle.loads(pickle.dumps(step)).blocks[0][0].tolist() == step.blocks[0][0].tolist()


def test_a_function_that_raises_gives_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    x, raised = np.array([[0.0], [0.5]]), []
    monkeypatch.setattr(sys, "unraisablehook", lambda hook: raised.append(str(hook.exc_value)))
    kappa = kernels.correlation(Raises(), x, x.copy(), np.ones(1))
    assert np.isnan(kappa[0, 1])
    assert kappa[0, 0] == 1.0
    assert raised == ["beyond", "beyond"]


# ------------------------------------------------------------------------------------------------------ check_kernel
@pytest.mark.parametrize(
    "kernel",
    [
        uq.SquaredExponential(),
        uq.Matern32(),
        uq.Matern52(),
        uq.RationalQuadratic(0.3),
        uq.RationalQuadratic(40),
        Mine(),
    ],
    ids=str,
)
def test_kernels_that_keep_their_promises(kernel: RadialKernel) -> None:
    found = uq.testing.check_kernel(kernel)
    assert found.ok, str(found)
    assert len(found.checks) == 7
    assert str(found).startswith("kernel: 7 of 7 checks passed, 0 failed")
    assert found.table.loc["slope", "measured"] < 1e-9
    assert found.table.loc["positive definite", "measured"] < 1e-11
    found.raise_failed()


@dataclass(frozen=True)
class WrongSign(RadialKernel):
    def radial(self, r2: float) -> tuple[float, float]:
        return math.exp(-0.5 * r2), math.exp(-0.5 * r2)


@dataclass(frozen=True)
class HalfSlope(RadialKernel):
    """The derivative by r2 in the place of g."""

    def radial(self, r2: float) -> tuple[float, float]:
        return math.exp(-0.5 * r2), -0.5 * math.exp(-0.5 * r2)


@dataclass(frozen=True)
class TwoAtZero(RadialKernel):
    def radial(self, r2: float) -> tuple[float, float]:
        return 2.0 * math.exp(-0.5 * r2), -2.0 * math.exp(-0.5 * r2)


@dataclass(frozen=True)
class FourthPower(RadialKernel):
    """exp(-r^4) is the correlation of no process."""

    def radial(self, r2: float) -> tuple[float, float]:
        return math.exp(-r2 * r2), -4.0 * r2 * math.exp(-r2 * r2)


@dataclass(frozen=True)
class Cosine(RadialKernel):
    """A correlation in one input, in no more."""

    def radial(self, r2: float) -> tuple[float, float]:
        r = math.sqrt(r2)
        return math.cos(r), -(math.sin(r) / r if r > 0.0 else 1.0)


@dataclass(frozen=True)
class Exponential(RadialKernel):
    """Has no slope at zero."""

    def radial(self, r2: float) -> tuple[float, float]:
        r = math.sqrt(r2)
        return math.exp(-r), -math.exp(-r) / r


@dataclass(frozen=True)
class Overflows(RadialKernel):
    """Infinity over infinity, far away."""

    def radial(self, r2: float) -> tuple[float, float]:
        a = math.exp(min(0.5 * r2, 800.0))
        return 1.0 / a, -a / (a * a)


@dataclass(frozen=True)
class Raises(RadialKernel):
    def radial(self, r2: float) -> tuple[float, float]:
        if r2 > 0.1:
            raise ValueError("beyond")
        return 1.0, 0.0


@dataclass(frozen=True)
class OneNumber(RadialKernel):
    def radial(self, r2: float) -> tuple[float, float]:
        return math.exp(-0.5 * r2)  # type: ignore[return-value]


@dataclass(frozen=True)
class NotCompiled(RadialKernel):
    def radial(self, r2: float) -> tuple[float, float]:
        return float(str(1.0 / (1.0 + r2))), float(np.linalg.norm([open, r2]))  # type: ignore[list-item]


@dataclass
class NotFrozen(RadialKernel):
    def radial(self, r2: float) -> tuple[float, float]:
        return math.exp(-0.5 * r2), -math.exp(-0.5 * r2)


class NoDataclass(RadialKernel):
    def radial(self, r2: float) -> tuple[float, float]:
        return math.exp(-0.5 * r2), -math.exp(-0.5 * r2)


@dataclass(frozen=True)
class Named(RadialKernel):
    name: str = "x"

    def radial(self, r2: float) -> tuple[float, float]:
        return math.exp(-0.5 * r2), -math.exp(-0.5 * r2)


@dataclass(frozen=True)
class Forgets(RadialKernel):
    """A setting that does not count for equality."""

    alpha: float = 1.0

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 1

    def radial(self, r2: float) -> tuple[float, float]:
        return math.exp(-0.5 * r2), -math.exp(-0.5 * r2)


@pytest.mark.parametrize(
    ("kernel", "failed", "why"),
    [
        (WrongSign(), "slope", "where kappa falls it is negative"),
        (HalfSlope(), "slope", "which is not 2 d kappa / d r2"),
        (TwoAtZero(), "one at zero", r"kappa\(0\) is 2; a correlation is 1 there"),
        (FourthPower(), "positive definite", "no process has that correlation"),
        (Cosine(), "positive definite", "no process has that correlation"),
        (Exponential(), "finite", "not finite at r2 = 0"),
        (Overflows(), "finite", r"not finite at r2 = 3\.16e[+]03"),
        (OneNumber(), "compiled", "return two numbers"),
        (NotCompiled(), "compiled", "cannot be compiled by numba"),
        (NotFrozen(), "value", r"write @dataclass\(frozen=True\) above `class NotFrozen`"),
        (NoDataclass(), "value", r"write @dataclass\(frozen=True\) above `class NoDataclass`"),
        (Named(), "value", "fields are finite numbers"),
        (Forgets(), "value", "not equal"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, RadialKernel) else None,
)
def test_planted_bugs_are_found(kernel: RadialKernel, failed: str, why: str) -> None:
    found = uq.testing.check_kernel(kernel)
    assert found.failed == (failed,), str(found)
    with pytest.raises(ConformanceError, match=why):
        found.raise_failed()


def test_kernels_that_are_none_are_refused() -> None:
    for wrong in (Mine() + Mine(), "Matern52", Mine):
        with pytest.raises(InputError, match="derives from uqms.RadialKernel"):
            uq.testing.check_kernel(wrong)  # type: ignore[arg-type]
    for kernel, why in (
        (NotFrozen(), "is no frozen dataclass"),
        (NoDataclass(), "is no frozen dataclass"),
        (Named(), "fields are finite numbers"),
        (OneNumber(), "cannot be compiled by numba"),
        (Mine() + OneNumber(), "cannot be compiled by numba"),
    ):
        with pytest.raises(InputError, match=why):
            uq.GaussianProcess(kernel)


def test_prior_variance_and_scale_are_free_of_the_kernel() -> None:
    """The log marginal likelihood by brute force in NumPy."""
    from uqms.surrogates.training import marginal_log_likelihood

    rng = np.random.default_rng(1)
    x, y, ell = rng.random((15, 2)), rng.standard_normal(15), np.array([0.3, 0.6])

    def brute(kappa: Array) -> float:
        covariance = 1.7 * kappa + 0.01 * np.eye(15)
        return float(
            -0.5 * (y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(covariance)[1] + 15 * np.log(2.0 * np.pi))
        )

    squares = np.sum(((x[:, None] - x) / ell) ** 2, axis=2)
    kappa = (1.0 + squares / 3.0) ** -1.5
    found = marginal_log_likelihood(x, y, uq.RationalQuadratic(1.5), ell, 1.7, 0.01, np.zeros(15))
    assert found == pytest.approx(brute(kappa), rel=1e-10)
    a = np.sqrt(5.0 * squares / 4.0)
    both = 0.25 * kappa + 0.75 * kappa * (1.0 + a + a * a / 3.0) * np.exp(-a)
    kernel = uq.RationalQuadratic(1.5) + uq.RationalQuadratic(1.5) * Mine()
    found = marginal_log_likelihood(x, y, kernel, np.concatenate([ell, ell, 2.0 * ell, [3.0]]), 1.7, 0.01, np.zeros(15))
    assert found == pytest.approx(brute(both), rel=1e-10)

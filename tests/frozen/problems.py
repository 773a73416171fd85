"""The frozen problems, built through the public interface from stored surrogates and data that are written down.

Each builder returns a calibration. `CURVES`, `COUNTS` and the like are formulas, not draws, so that no generator's
stream is part of a frozen value.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

import uqms as uq
from tests.frozen import fits
from uqms.parameters import Box
from uqms.surrogates.outputs import Decoder, Layout
from uqms.surrogates.process import Scores

TIMES = fits.TIMES
SD = uq.HalfNormal(0.2)  # as large as the surrogates' errors, so that these matter
NORMAL = uq.GaussianNoise(sd=SD)
PROBLEMS: dict[str, Callable[[], Any]] = {}


def problem(build: Callable[[], Any]) -> Callable[[], Any]:
    PROBLEMS[build.__name__] = build
    return build


def wave(count: int, seed: float = 0.0) -> np.ndarray:
    """Return numbers in (-1, 1) that look drawn and are the same everywhere: parts of multiples of the golden ratio."""
    return 2.0 * np.mod((np.arange(count) + 1.0 + seed) * 0.6180339887498949, 1.0) - 1.0


def calibrated(surrogate: str | Any, observations: Any, noise: Any, **settings: Any) -> Any:
    """Return the calibration; how far these data lie from the prior's predictions is of no concern here."""
    found = fits.load(surrogate) if isinstance(surrogate, str) else surrogate
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", uq.errors.UqmsWarning)
        return uq.Calibration(found, observations, noise, **settings)


# ----------------------------------------------------------------------------------------------------------------- data
def curves(conditions: tuple[float, ...] = (0.4,), replicates: int = 1, seed: float = 0.0, **columns: Any) -> Any:
    """Return measured curves "y" over t, a row a value; one is missing where there are replicates."""
    index = pd.MultiIndex.from_product([range(len(conditions)), range(replicates), range(len(TIMES))])
    frame = index.to_frame(index=False, name=["k", "replicate", "i"])
    frame["t"], frame["x"] = TIMES[frame["i"]], np.array(conditions)[frame["k"]]
    frame["y"] = 0.5 * np.exp(-0.4 * frame["t"]) + 0.2 * wave(len(frame), seed) + 0.1 * frame["x"]
    frame["visit"] = "v" + frame["k"].astype(str)
    for name, function in columns.items():
        frame[name] = function(frame)
    return frame.drop(index=3).reset_index(drop=True) if replicates > 1 else frame


def observed(frame: pd.DataFrame, **settings: Any) -> uq.Observations:
    given = {"output": "y", "value": "y", "coords": {"t": "t"}, "conditions": ["x"], "replicate": "replicate"}
    return uq.Observations.from_table(frame, **(given | settings))


def numbers(values: Any, conditions: Any, output: str = "y", **settings: Any) -> uq.Observations:
    """Return measured scalars, a row a value; values under one condition are replicates."""
    frame = pd.DataFrame({"v": values, "x": conditions})
    frame["replicate"] = frame.groupby("x").cumcount()
    for name in ("sd", "xsd", "side"):
        if name in settings:
            frame[name] = settings.pop(name)
            key = {"sd": "sd", "xsd": "conditions_sd", "side": "censored"}[name]
            settings[key] = {"x": name} if name == "xsd" else name
    return uq.Observations.from_table(
        frame, output=output, value="v", conditions=["x"], replicate="replicate", **settings
    )


VALUES = [0.9, 1.1, 0.7, 1.6]
PLACES = [0.2, 0.2, 0.6, 0.9]


# ------------------------------------------------------------------------------------ scalars, kernels, hyperparameters
@problem
def scalar_one() -> Any:
    return calibrated("scalar", numbers([0.8], [0.3]), uq.GaussianNoise(sd=0.2))


@problem
def scalar_replicates() -> Any:
    return calibrated("scalar", numbers(VALUES, PLACES), NORMAL)


@problem
def scalar_sd_column() -> Any:
    return calibrated("scalar", numbers(VALUES, PLACES, sd=[0.1, 0.2, 0.15, 0.3]), uq.GaussianNoise())


@problem
def scalar_averaged() -> Any:
    return calibrated("scalar_averaged", numbers(VALUES, PLACES), NORMAL)


@problem
def scalar_sum_of_kernels_linear_trend() -> Any:
    return calibrated("scalar_linear", numbers(VALUES, PLACES), NORMAL)


@problem
def scalar_product_of_kernels() -> Any:
    return calibrated("scalar_product", numbers(VALUES, PLACES), NORMAL)


@problem
def scalar_fitted_noise_run() -> Any:
    return calibrated("scalar_noisy", numbers(VALUES, PLACES), NORMAL)


@problem
def scalar_fitted_noise_mean() -> Any:
    return calibrated("scalar_noisy", numbers(VALUES, PLACES), NORMAL, realisation="none")


@problem
def scalar_fixed() -> Any:
    return calibrated("scalar", numbers(VALUES, PLACES), NORMAL, fixed={"b": 1.1})


@problem
def scalar_constraints() -> Any:
    return calibrated("scalar", numbers(VALUES, PLACES), NORMAL, constraints=["b > 0.5 + a / 4", "log(b) < a + 0.2"])


@problem
def scalar_censored() -> Any:
    return calibrated("scalar", numbers(VALUES, PLACES, side=["", "left", "right", ""]), NORMAL)


@problem
def scalar_conditions_with_error() -> Any:
    return calibrated("scalar", numbers(VALUES, PLACES, xsd=[0.05, 0.05, 0.0, 0.03]), NORMAL)


@problem
def scalar_conditions_with_error_averaged_student() -> Any:
    data = numbers(VALUES, PLACES, xsd=[0.05, 0.05, 0.0, 0.03])
    return calibrated("scalar_averaged", data, uq.StudentTNoise(scale=SD, df=4.0))


@problem
def scalar_student_unknown_df() -> Any:
    return calibrated("scalar", numbers(VALUES, PLACES), uq.StudentTNoise(scale=SD, df=uq.Gamma(2.0, 0.1)))


# --------------------------------------------------------------------------------------------------------------- curves
@problem
def curve_one() -> Any:
    return calibrated("curve", observed(curves()), NORMAL)


@problem
def curve_conditions_replicates() -> Any:
    return calibrated("curve", observed(curves((0.2, 0.5, 0.9), 2)), NORMAL)


@problem
def curve_averaged() -> Any:
    return calibrated("curve_averaged", observed(curves((0.2, 0.7), 2)), NORMAL)


@problem
def curve_sd_column() -> Any:
    frame = curves((0.2, 0.7), 2, sd=lambda f: 0.1 + 0.05 * np.abs(wave(len(f), 7.0)))
    return calibrated("curve", observed(frame, sd="sd"), uq.GaussianNoise())


@problem
def curve_between_coordinates() -> Any:
    frame = curves((0.2, 0.7)).assign(t=lambda f: np.minimum(f["t"] + 0.3, 4.9))
    return calibrated("curve", observed(frame), NORMAL)


@problem
def curve_one_run_under_two_labels() -> Any:
    frame = pd.concat([curves((0.4,)).assign(label="p"), curves((0.4,), seed=9.0).assign(label="q")])
    return calibrated("curve", observed(frame.reset_index(drop=True), experiment="label"), NORMAL)


@problem
def curve_student() -> Any:
    return calibrated("curve", observed(curves((0.2, 0.7), 2)), uq.StudentTNoise(scale=SD, df=4.0))


@problem
def curve_student_averaged() -> Any:
    return calibrated("curve_averaged", observed(curves((0.2, 0.7))), uq.StudentTNoise(scale=0.2, df=5.0))


@problem
def curve_custom_noise() -> Any:
    noise = uq.CustomNoise(
        logp=lambda z, y, p, xp: -xp.abs(z - y) / p["scale"] - xp.log(2.0 * p["scale"]),
        random=lambda y, p, rng: y + p["scale"] * rng.laplace(size=y.shape),
        parameters={"scale": SD},
    )
    return calibrated("curve", observed(curves((0.2, 0.7))), noise)


@problem
def curve_custom_noise_of_all_rows() -> Any:
    noise = uq.CustomNoise(
        logp=lambda z, y, p, xp: -xp.sum(((z - y) / p["s"]) ** 2) / 2.0 - 5.0 * xp.log(p["s"][..., 0]),
        random=lambda y, p, rng: y + p["s"] * rng.normal(size=y.shape),
        parameters={"s": SD},
    )
    return calibrated("curve_averaged", observed(curves()), noise)


@problem
def curve_censored() -> Any:
    side = {"side": lambda f: np.where(f["y"] < 0.05, "left", np.where(f["y"] > 0.6, "right", ""))}
    return calibrated("curve", observed(curves((0.2, 0.7), 2, **side), censored="side"), NORMAL)


@problem
def curve_autocorrelated() -> Any:
    noise = uq.AutocorrelatedNoise(sd=SD, length=uq.LogNormal(median=1.5, sigma=0.4), white=0.1)
    return calibrated("curve", observed(curves((0.2, 0.7), 2)), noise)


@problem
def curve_autocorrelated_averaged_unknown_white() -> Any:
    noise = uq.AutocorrelatedNoise(sd=0.2, length=1.5, white=uq.HalfNormal(0.1))
    return calibrated("curve_averaged", observed(curves((0.2, 0.7))), noise)


@problem
def curve_autocorrelated_censored() -> Any:
    side = {"side": lambda f: np.where(f["y"] < 0.05, "left", "")}
    noise = uq.AutocorrelatedNoise(sd=SD, length=1.5, white=0.1)
    return calibrated("curve", observed(curves((0.2, 0.7), **side), censored="side"), noise)


# ---------------------------------------------------------------------------------------------------------- discrepancy
TWO = (0.2, 0.7)


def with_discrepancy(discrepancy: Any, surrogate: str = "curve", noise: Any = NORMAL, replicates: int = 2) -> Any:
    return calibrated(surrogate, observed(curves(TWO, replicates)), noise, discrepancy=discrepancy)


@problem
def discrepancy_gp_over_all() -> Any:
    return with_discrepancy(
        uq.GPDiscrepancy(sd=SD, length={"x": uq.InverseGamma(45.63190460885205, 31.39969753736655)})
    )


@problem
def discrepancy_gp_over_time() -> Any:
    small = uq.HalfNormal(0.019198169225624562)
    return with_discrepancy(uq.GPDiscrepancy(sd=small, over=["t"], length=uq.InverseGamma(3.0, 4.0)))


@problem
def discrepancy_gp_unshared() -> Any:
    return with_discrepancy(uq.GPDiscrepancy(sd=SD, length=1.5, shared=False))


@problem
def discrepancy_gp_averaged() -> Any:
    return with_discrepancy(uq.GPDiscrepancy(sd=SD, over=["t"]), "curve_averaged", replicates=1)


@problem
def discrepancy_gp_orthogonal() -> Any:
    return with_discrepancy(uq.GPDiscrepancy(sd=SD, length=1.5, over=["t"], orthogonal=True))


@problem
def discrepancy_gp_orthogonal_averaged() -> Any:
    return with_discrepancy(uq.GPDiscrepancy(sd=SD, over=["t"], orthogonal=True), "curve_averaged", replicates=1)


@problem
def discrepancy_offset() -> Any:
    return with_discrepancy(uq.OffsetDiscrepancy(sd=uq.HalfNormal(0.019198169225624562)))


@problem
def discrepancy_offset_unshared() -> Any:
    return with_discrepancy(uq.OffsetDiscrepancy(sd=SD, shared=False))


@problem
def discrepancy_scale() -> Any:
    return with_discrepancy(uq.ScaleDiscrepancy(sd=0.2))


@problem
def discrepancy_scale_averaged() -> Any:
    return with_discrepancy(uq.ScaleDiscrepancy(sd=0.2), "curve_averaged", replicates=1)


@problem
def discrepancy_basis() -> Any:
    return with_discrepancy(uq.BasisDiscrepancy([lambda at: at["t"] / 5.0, lambda at: at["x"] ** 2], sd=SD))


@problem
def discrepancy_several_autocorrelated() -> Any:
    several = [uq.GPDiscrepancy(sd=0.3, length=1.5, over=["t"]), uq.OffsetDiscrepancy(sd=SD), uq.ScaleDiscrepancy(0.1)]
    return with_discrepancy(several, noise=uq.AutocorrelatedNoise(sd=0.2, length=1.0, white=SD))


@problem
def discrepancy_gp_student() -> Any:
    return with_discrepancy(uq.GPDiscrepancy(sd=SD, over=["t"]), noise=uq.StudentTNoise(scale=SD, df=4.0), replicates=1)


# ------------------------------------------------------------------------------------------------------ several outputs
def three_outputs() -> uq.Observations:
    frame = curves(TWO, 2)
    e = numbers([0.9, 1.2, 1.4], [0.2, 0.2, 0.7], output="e")
    f = numbers([0.3, 0.1], [0.2, 0.9], output="f")  # under a condition of its own too
    return uq.Observations.concat([observed(frame), e, f])


def each(y: Any = NORMAL, e: Any = NORMAL, f: Any = None) -> dict[str, Any]:
    return {"y": y, "e": e, "f": uq.GaussianNoise(sd=0.1) if f is None else f}


@problem
def several_outputs() -> Any:
    return calibrated("several", three_outputs(), each())


@problem
def several_outputs_averaged() -> Any:
    return calibrated("several_averaged", three_outputs(), each())


@problem
def several_outputs_discrepancy_of_one() -> Any:
    delta = {"y": uq.GPDiscrepancy(sd=SD, over=["t"]), "e": uq.OffsetDiscrepancy(sd=0.3)}
    return calibrated("several", three_outputs(), each(), discrepancy=delta)


@problem
def several_outputs_several_noises() -> Any:
    noise = each(uq.AutocorrelatedNoise(sd=SD, length=1.5, white=0.1), uq.StudentTNoise(scale=0.2, df=4.0))
    return calibrated("several", three_outputs(), noise)


@problem
def correlated_scalars() -> Any:
    data = [numbers([2.6, 2.4], TWO, "full"), numbers([2.2], [0.2], "rest"), numbers([0.4, 0.5], [0.2, 0.9], "stroke")]
    names = ("full", "rest", "stroke")
    return calibrated("jointly", uq.Observations.concat(data), {name: uq.GaussianNoise(sd=SD) for name in names})


# --------------------------------------------------------------------------------------------------- log, logit, counts
def positive(replicates: int = 1) -> pd.DataFrame:
    return curves(TWO, replicates).assign(y=lambda f: np.exp(1.0 + f["y"]))


def counted(replicates: int = 1) -> pd.DataFrame:
    return positive(replicates).assign(y=lambda f: np.round(f["y"]))


@problem
def log_lognormal() -> Any:
    return calibrated("log", observed(positive(2)), uq.LogNormalNoise(sigma=SD))


@problem
def log_lognormal_averaged_discrepancy() -> Any:
    noise, delta = uq.LogNormalNoise(sigma=0.2), uq.GPDiscrepancy(sd=SD, over=["t"])
    return calibrated("log_averaged", observed(positive()), noise, discrepancy=delta)


@problem
def log_lognormal_censored() -> Any:
    frame = positive().assign(side=lambda f: np.where(f["y"] < 3.0, "left", ""))
    return calibrated("log", observed(frame, censored="side"), uq.LogNormalNoise(sigma=SD))


@problem
def log_gaussian() -> Any:
    return calibrated("log", observed(positive(2)), NORMAL, expansion="none")


@problem
def log_gaussian_first_order() -> Any:
    return calibrated("log", observed(positive(2)), NORMAL, expansion="first-order")


@problem
def log_gaussian_first_order_averaged_discrepancy() -> Any:
    delta = [uq.GPDiscrepancy(sd=SD, length=2.0, over=["t"]), uq.ScaleDiscrepancy(sd=0.1)]
    data = observed(positive(2))
    return calibrated("log_averaged", data, NORMAL, discrepancy=delta, expansion="first-order")


@problem
def log_autocorrelated_first_order() -> Any:
    noise = uq.AutocorrelatedNoise(sd=uq.HalfNormal(0.4), length=1.3, white=SD)
    return calibrated("log", observed(positive(2)), noise, expansion="first-order")


@problem
def log_poisson() -> Any:
    return calibrated("log", observed(counted(2)), uq.PoissonNoise())


@problem
def log_negative_binomial_averaged() -> Any:
    return calibrated("log_averaged", observed(counted()), uq.NegativeBinomialNoise(dispersion=uq.HalfNormal(0.3)))


@problem
def logit_gaussian() -> Any:
    frame = curves(TWO).assign(y=lambda f: 1.0 / (1.0 + np.exp(-2.0 * f["y"])))
    return calibrated("logit", observed(frame), uq.GaussianNoise(sd=uq.HalfNormal(0.1)), expansion="none")


@problem
def logit_gaussian_first_order() -> Any:
    frame = curves(TWO).assign(y=lambda f: 1.0 / (1.0 + np.exp(-2.0 * f["y"])))
    return calibrated("logit", observed(frame), uq.GaussianNoise(sd=uq.HalfNormal(0.1)), expansion="first-order")


@problem
def logit_binomial() -> Any:
    frame = curves(TWO).assign(n=lambda f: 20 + 5 * f["i"], y=lambda f: np.round(f["n"] * (0.5 + 0.2 * f["y"])))
    return calibrated("logit", observed(frame, trials="n"), uq.BinomialNoise())


# ------------------------------------------------------------------------------------------------ stochastic simulators
@problem
def realisation_of_each_experiment() -> Any:
    return calibrated("stochastic", observed(curves(TWO, 2)), NORMAL)


@problem
def realisation_of_each_replicate() -> Any:
    return calibrated("stochastic", observed(curves(TWO, 2)), NORMAL, realisation="replicate")


@problem
def realisation_of_the_mean() -> Any:
    return calibrated("stochastic", observed(curves(TWO, 2)), NORMAL, realisation="none")


@problem
def realisation_student() -> Any:
    return calibrated("stochastic", observed(curves(TWO)), uq.StudentTNoise(scale=SD, df=4.0))


@problem
def realisation_discrepancy() -> Any:
    return calibrated("stochastic", observed(curves(TWO, 2)), NORMAL, discrepancy=uq.GPDiscrepancy(sd=SD, over=["t"]))


# -------------------------------------------------------------------------------------------------- kinds of surrogates
def one_curve() -> uq.Observations:
    return observed(curves().drop(columns="x"), conditions=[])


@problem
def fidelity() -> Any:
    return calibrated("fidelity", one_curve(), NORMAL)


@problem
def fidelity_nonlinear() -> Any:
    return calibrated("nonlinear", one_curve(), NORMAL)


@problem
def local() -> Any:
    return calibrated("local", xr.DataArray(0.8, name="y"), NORMAL)


@problem
def regimes() -> Any:
    return calibrated("regimes", xr.DataArray(0.8, name="y"), NORMAL)


@problem
def success_reported() -> Any:
    return calibrated("failing", xr.DataArray(0.6, name="y"), NORMAL, success=fits.load("success"))


@problem
def success_impossible() -> Any:
    settings = {"success": fits.load("success"), "failures": "impossible"}
    return calibrated("failing", xr.DataArray(0.6, name="y"), NORMAL, **settings)


@dataclass(frozen=True)
class Own:
    """A user's surrogate: sin(3 a) + b x on the unit cube, with a stationary error of two scores."""

    sd: tuple[float, float] = (0.2, 0.1)
    length: float = 0.4

    @property
    def domain(self) -> Box:
        return Box(("a", "b", "x"), (0.0, 0.5, 0.0), (1.0, 2.0, 1.0), ("identity",) * 3, ((True, True),) * 3)

    @property
    def layouts(self) -> Mapping[str, Layout]:
        return {"y": Layout(("t",), {"t": TIMES})}

    def mean(self, u: np.ndarray) -> np.ndarray:
        return np.stack([np.sin(3.0 * u[..., 0]) + u[..., 1] * u[..., 2], u[..., 1] ** 2], axis=-1)

    def scores(self, u: np.ndarray) -> Scores:
        u = np.asarray(u)
        r2 = np.sum((u[..., :, None, :] - u[..., None, :, :]) ** 2, axis=-1)
        kernel = np.exp(-0.5 * r2 / self.length**2) + 1e-6 * (r2 == 0.0)
        return Scores(self.mean(u)[None], np.stack([sd**2 * kernel for sd in self.sd], axis=-3)[None], np.zeros(1))

    def scores_reverse(self, u: np.ndarray, mean_bar: np.ndarray, covariance_bar: np.ndarray) -> np.ndarray:
        first, second = mean_bar[0, :, 0], mean_bar[0, :, 1]
        out = np.stack([3.0 * np.cos(3.0 * u[:, 0]) * first, u[:, 2] * first + 2.0 * u[:, 1] * second], axis=-1)
        out = np.concatenate([out, (u[:, 1] * first)[:, None]], axis=-1)
        step = u[:, None, :] - u[None, :, :]
        kernel = np.exp(-0.5 * np.sum(step**2, axis=-1) / self.length**2)
        for j, sd in enumerate(self.sd):
            both = covariance_bar[0, j] + covariance_bar[0, j].T
            out -= np.sum((both * sd**2 * kernel)[..., None] * step, axis=1) / self.length**2
        return out

    def decode(self, output: str, coords: Mapping[str, Any] | None = None) -> Decoder:
        t = TIMES if coords is None else np.asarray(coords["t"], dtype=float)
        basis = np.column_stack([np.exp(-0.3 * t), np.cos(t)])
        return Decoder(0.1 * t, basis, 0.05 * np.column_stack([np.ones_like(t), t / 5.0]))

    def functions(self, n: int, rng: Any) -> Any:
        generator = np.random.default_rng(rng)
        return lambda u: self.mean(u) + np.array(self.sd) * generator.standard_normal((n, 1, 2))


OWN = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.5, 2.0), conditions={"x": uq.Condition(0.0, 1.0)})


@problem
def own_surrogate() -> Any:
    return calibrated(Own(), observed(curves(TWO, 2)), NORMAL, space=OWN)


@problem
def own_surrogate_discrepancy() -> Any:
    delta = uq.GPDiscrepancy(sd=SD, over=["t"], orthogonal=True)
    return calibrated(Own(), observed(curves(TWO)), NORMAL, space=OWN, discrepancy=delta)


@problem
def own_surrogate_student() -> Any:
    return calibrated(Own(), observed(curves(TWO)), uq.StudentTNoise(scale=SD, df=4.0), space=OWN)


# ------------------------------------------------------------------------------------------------- the simulator itself
def simulated(a: Any, b: Any, x: Any) -> Any:
    return {"y": a * np.exp(-b * TIMES / 2.0) + 0.3 * x * np.sin(TIMES)}


def expressions(a: Any, b: Any, x: Any) -> Any:
    import pytensor.tensor as pt

    return {"y": a * pt.exp(-b * TIMES / 2.0) + 0.3 * x * np.sin(TIMES)}


def direct(backend: str, noise: Any = NORMAL, shift: float = 0.0, **settings: Any) -> Any:
    function = expressions if backend == "pytensor" else simulated
    layout = {"outputs": {"y": ("t",)}, "coords": {"t": TIMES}}
    simulator = uq.DirectSimulator(function, space=fits.SPACE, backend=backend, **layout)  # type: ignore[arg-type]
    frame = curves(TWO, 2).assign(t=lambda f: np.minimum(f["t"] + shift, 5.0))
    return calibrated(simulator, observed(frame), noise, **settings)


@problem
def direct_numpy() -> Any:
    return direct("numpy")


@problem
def direct_between_coordinates() -> Any:
    return direct("numpy", uq.GaussianNoise(sd=uq.HalfNormal(0.05)), shift=0.4)


@problem
def direct_pytensor_between_coordinates() -> Any:
    return direct("pytensor", uq.GaussianNoise(sd=uq.HalfNormal(0.05)), shift=0.4)


@problem
def direct_numpy_student() -> Any:
    return direct("numpy", uq.StudentTNoise(scale=SD, df=4.0))


@problem
def direct_pytensor() -> Any:
    return direct("pytensor")


@problem
def direct_pytensor_autocorrelated() -> Any:
    return direct("pytensor", uq.AutocorrelatedNoise(sd=SD, length=1.5, white=0.1))


@problem
def direct_pytensor_discrepancy() -> Any:
    return direct("pytensor", discrepancy=uq.GPDiscrepancy(sd=SD, over=["t"], orthogonal=True))


# --------------------------------------------------------------------------------------------------------------- priors
def of_priors(*blocks: Any, outside: str = "extrapolate", **priors: uq.Prior) -> Any:
    space = uq.ParameterSpace(*blocks, **priors)
    data = xr.DataArray(0.9, name="y")
    return calibrated("five", data, NORMAL, space=space, outside=outside)


@problem
def priors_first() -> Any:
    return of_priors(
        p=uq.Uniform(0.1, 0.9),
        q=uq.LogUniform(0.05, 1.0),
        r=uq.Normal(0.5, 0.2),
        s=uq.LogNormal(median=0.4, sigma=0.5),
        t=uq.LogitNormal(median=0.6, sigma=0.8),
    )


@problem
def priors_second() -> Any:
    return of_priors(
        p=uq.TruncatedNormal(0.4, 0.3, 0.1, 0.8),
        q=uq.HalfNormal(0.5),
        r=uq.Beta(2.0, 3.0),
        s=uq.Gamma(3.0, 8.0),
        t=uq.InverseGamma(4.0, 1.5),
    )


@problem
def priors_cut_by_the_box() -> Any:
    return of_priors(
        outside="error",
        p=uq.Normal(0.5, 0.17),
        q=uq.LogNormal(median=0.3, sigma=0.4),
        r=uq.TruncatedNormal(0.5, 0.15, -1.0, 2.0),
        s=uq.HalfNormal(0.33),
        t=uq.Gamma(4.0, 14.0),
    )


@problem
def priors_of_a_joint_normal() -> Any:
    covariance = [[0.01, 0.006, 0.0], [0.006, 0.02, -0.01], [0.0, -0.01, 0.09]]
    block = uq.MultivariateNormal(
        ("p", "q", "r"), [0.5, 0.45, np.log(0.4)], covariance, scale=("identity", "identity", "log")
    )
    return of_priors(block, outside="error", s=uq.Uniform(0.0, 1.0), t=uq.Beta(2.0, 2.0))


@problem
def priors_of_a_joint_normal_cut() -> Any:
    block = uq.MultivariateNormal(("p", "q"), [0.5, 0.48], [[0.03, 0.02], [0.02, 0.028]])
    return of_priors(block, outside="error", r=uq.Uniform(0.0, 1.0), s=uq.Uniform(0.0, 1.0), t=uq.Beta(2.0, 2.0))


@problem
def priors_of_a_mixture() -> Any:
    block = uq.NormalMixture(
        ("p", "q", "r"),
        (0.3, 0.7),
        [[0.3, np.log(0.5), 0.5], [0.6, np.log(0.3), -0.5]],
        [
            [[0.01, 0.0, 0.0], [0.0, 0.04, 0.01], [0.0, 0.01, 0.2]],
            [[0.01, 0.01, 0.0], [0.01, 0.05, 0.0], [0.0, 0.0, 0.3]],
        ],
        ("identity", "log", "logit"),
    )
    return of_priors(block, outside="extrapolate", s=uq.Uniform(0.0, 1.0), t=uq.Beta(2.0, 2.0))


# --------------------------------------------------------------------------------------------------- several simulators
@problem
def parts() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", uq.errors.UqmsWarning)
        return uq.Calibration(
            {
                "first": (fits.load("curve_averaged"), observed(curves(TWO, 2))),
                "second": (fits.load("log"), observed(counted())),
                "third": (fits.load("scalar"), numbers(VALUES, PLACES, xsd=[0.05, 0.05, 0.0, 0.03])),
            },
            noise={"first": NORMAL, "second": uq.PoissonNoise(), "third": uq.GaussianNoise(sd=0.2)},
            discrepancy={"first": uq.OffsetDiscrepancy(sd=SD)},
        )


# ---------------------------------------------------------------------------------------------------------- populations
PATIENTS = uq.ParameterSpace(
    a=uq.Normal(0.5, 0.05), b=uq.LogNormal(median=1.0, sigma=0.1), conditions={"x": uq.Condition(0.0, 1.0)}
)


def patients(count: int, visits: int = 1) -> pd.DataFrame:
    """Return curves of several subjects: each lacks another time, conditions differ, the first has two."""
    rows = []
    for j in range(count):
        for visit in range(visits):
            for k, x in enumerate((0.2, 0.7) if j == 0 else (0.1 + 0.8 * float(np.mod(j * 0.618, 1.0)),)):
                for i, t in enumerate(TIMES):
                    if i != (j + k) % len(TIMES):
                        rows.append({"id": f"s{j}", "visit": f"v{visit}", "x": x, "t": t})
    frame = pd.DataFrame(rows)
    return frame.assign(y=0.5 * np.exp(-0.4 * frame["t"]) + 0.15 * wave(len(frame), 3.0))


def covariates(count: int) -> pd.DataFrame:
    j = np.arange(count)
    return pd.DataFrame({"weight": 60.0 + 7.0 * (j % 5), "female": j % 2}, index=[f"s{i}" for i in j])


def populated(
    count: int = 4,
    surrogate: Any = "curve",
    noise: Any = NORMAL,
    data: Any = None,
    subjects: pd.DataFrame | None = None,
    settings: Mapping[str, Any] | None = None,
    **population: Any,
) -> Any:
    visits = 2 if "occasions" in population else 1
    given: dict[str, Any] = {"coords": {"t": "t"}, "conditions": ["x"], "subject": "id", "experiment": "visit"}
    if data is None:
        data = uq.Observations.from_table(patients(count, visits), output="y", value="y", **given)
    people = uq.Population(
        **{"space": PATIENTS, "individual": ("a", "b"), "spread": {"a": uq.HalfNormal(0.1), "b": 0.2}, **population}
    )
    more = {"outside": "extrapolate", **(settings or {})}
    return calibrated(surrogate, data, noise, population=people, subjects=subjects, **more)


@problem
def population_few() -> Any:
    return populated()


@problem
def population_walls() -> Any:
    return populated(settings={"outside": "error"}, spread={"a": 0.05, "b": 0.1})


@problem
def population_averaged() -> Any:
    return populated(surrogate="curve_averaged")


@problem
def population_centred() -> Any:
    return populated(centred=True)


@problem
def population_correlated_covariates() -> Any:
    effects = {"b": {"log(weight / 70)": uq.Normal(0.0, 0.3), "female": 0.1}}
    return populated(5, subjects=covariates(5), covariates=effects, correlated=True)


@problem
def population_occasions() -> Any:
    return populated(3, occasions=("a",))


@problem
def population_tails_and_shared() -> Any:
    return populated(individual=("a",), tails={"a": 4.0}, spread=uq.HalfNormal(0.1))


@problem
def population_without_data() -> Any:
    return populated(4, subjects=covariates(6), settings={"without_data": "predict"})


@problem
def population_without_data_walls() -> Any:
    settings = {"without_data": "predict", "outside": "error"}
    return populated(3, subjects=covariates(5), spread={"a": 0.1, "b": 0.15}, settings=settings)


@problem
def population_discrepancy() -> Any:
    return populated(3, settings={"discrepancy": uq.OffsetDiscrepancy(sd=SD, shared=False)})


@problem
def population_autocorrelated() -> Any:
    return populated(3, noise=uq.AutocorrelatedNoise(sd=SD, length=1.5, white=0.1))


@problem
def population_student() -> Any:
    return populated(3, noise=uq.StudentTNoise(scale=SD, df=4.0))


@problem
def population_lognormal() -> Any:
    frame = patients(4).assign(y=lambda f: np.exp(1.0 + f["y"]))
    given = {"coords": {"t": "t"}, "conditions": ["x"], "subject": "id", "experiment": "visit"}
    data = uq.Observations.from_table(frame, output="y", value="y", **given)
    return populated(surrogate="log", noise=uq.LogNormalNoise(sigma=SD), data=data)


@problem
def population_realisation() -> Any:
    return populated(3, surrogate="stochastic")


@problem
def population_own_surrogate() -> Any:
    return populated(3, surrogate=Own())


@problem
def population_direct() -> Any:
    layout = {"outputs": {"y": ("t",)}, "coords": {"t": TIMES}}
    simulator = uq.DirectSimulator(expressions, space=PATIENTS, backend="pytensor", **layout)  # type: ignore[arg-type]
    return populated(3, surrogate=simulator)


def outputs_of_patients(count: int) -> uq.Observations:
    given = {"conditions": ["x"], "subject": "id"}
    frame = patients(count)
    curve = uq.Observations.from_table(frame, output="y", value="y", coords={"t": "t"}, **given)
    first = frame.drop_duplicates(["id", "x"]).iloc[1::2].assign(e=lambda f: 0.8 + f["y"])
    return uq.Observations.concat([curve, uq.Observations.from_table(first, output="e", value="e", **given)])


@problem
def population_several_outputs() -> Any:
    return populated(
        surrogate="several", noise={"y": NORMAL, "e": uq.GaussianNoise(sd=0.1)}, data=outputs_of_patients(4)
    )


@problem
def population_many() -> Any:
    return populated(55)


@problem
def population_many_averaged() -> Any:
    return populated(16, surrogate="curve_averaged", settings={"surrogate_error": "low-rank"})


@problem
def population_many_several_outputs() -> Any:
    noise = {"y": NORMAL, "e": uq.GaussianNoise(sd=0.1)}
    settings = {"surrogate_error": "low-rank"}
    return populated(surrogate="several", noise=noise, data=outputs_of_patients(12), settings=settings)


@problem
def population_many_occasions_covariates() -> Any:
    effects = {"b": "log(weight / 70)"}
    settings = {"surrogate_error": "low-rank"}
    return populated(
        12, subjects=covariates(12), covariates=effects, correlated=True, occasions=("a",), settings=settings
    )


@problem
def scalar_physics() -> Any:
    return calibrated(replace(fits.load("physics"), physics=fits.PHYSICS), numbers(VALUES, PLACES), NORMAL)

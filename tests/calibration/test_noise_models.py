"""Each noise model: its density against SciPy, its draws against its density, its PyMC model against the arrays."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytensor
import pytest
import xarray as xr
from calibration.own_noise import Laplace, ZeroInflatedPoisson
from calibration.problems import given_surrogate
from scipy import stats

import uqms as uq
from uqms.calibration.density import noise_sd
from uqms.calibration.noise import NoiseModel, Rows
from uqms.parameters.functions import NumPyFunctions
from uqms.surrogates import GaussianProcessSurrogate, Layout
from uqms.surrogates.outputs import OutputBasis
from uqms.surrogates.transforms import IDENTITY, Transform

T = 4
COUNTS = np.array([3.0, 0.0, 7.0, 2.0])
REALS = np.array([0.3, -1.2, 2.2, 0.7])


def curve(transform: Transform = IDENTITY, unit: str = "", seed: int = 3) -> GaussianProcessSurrogate:
    """Return a surrogate of a curve over t = 0..3 in theta, on the scale of a transform."""
    rng = np.random.default_rng(seed)
    plain = given_surrogate(
        np.linspace(0.1, 0.9, 4)[:, None],
        rng.standard_normal((4, 2)),
        basis=0.5 * rng.standard_normal((T, 2)),
        truncation=0.2 * rng.standard_normal((T, 1)),
        offset=np.full(T, 1.0),
    )
    layout = Layout(("t",), {"t": np.arange(T, dtype=float)}, unit=unit, transform=transform)
    (old,) = plain.bases
    output = OutputBasis("y", layout, old.offset, old.basis, old.truncation, np.zeros(T - 1), np.zeros((4, 1)))
    return GaussianProcessSurrogate(plain.domain, plain.process, (output,), plain.attrs)


def observed(values: np.ndarray, **coords: Any) -> xr.DataArray:
    return xr.DataArray(
        values, dims="t", name="y", coords={"t": np.arange(T, dtype=float), **{k: ("t", v) for k, v in coords.items()}}
    )


SCIPY = [
    (uq.GaussianNoise(0.7), REALS, {"sigma": 0.7}, lambda z, y: stats.norm(y, 0.7).logpdf(z)),
    (uq.LogNormalNoise(0.7), REALS, {"sigma": 0.7}, lambda z, y: stats.norm(y, 0.7).logpdf(z)),
    (uq.StudentTNoise(0.7, 3.0), REALS, {"sigma": 0.7, "df": 3.0}, lambda z, y: stats.t(3.0, y, 0.7).logpdf(z)),
    (uq.PoissonNoise(), COUNTS, {}, lambda z, y: stats.poisson(y).logpmf(z)),
    (
        uq.NegativeBinomialNoise(0.4),
        COUNTS,
        {"dispersion": 0.4},
        lambda z, y: stats.nbinom(2.5, 2.5 / (2.5 + y)).logpmf(z),
    ),
    (uq.BinomialNoise(9), COUNTS, {}, lambda z, y: stats.binom(9, y).logpmf(z)),
]


def rows(z: np.ndarray) -> Rows:
    return Rows(z, np.full(len(z), np.nan), np.zeros(len(z)))


def outputs(model: NoiseModel) -> np.ndarray:
    return np.array([0.2, 0.5, 0.7, 0.9]) if isinstance(model, uq.BinomialNoise) else np.array([1.5, 0.4, 6.0, 2.0])


@pytest.mark.parametrize(("model", "z", "parameters", "expected"), SCIPY)
def test_densities(model: NoiseModel, z: np.ndarray, parameters: Mapping[str, float], expected: Any) -> None:
    y = outputs(model)
    found = model.log_density(y, rows(z), parameters, NumPyFunctions)
    np.testing.assert_allclose(found, expected(z, y), rtol=1e-12)


@pytest.mark.parametrize("dispersion", [2e-5, 1e-5, 5e-6, 1e-8, 1e-12, 1e-16])
def test_negative_binomial_next_to_poisson_keeps_its_digits(dispersion: float) -> None:
    """To second order in the dispersion: log p = log p of Poisson + dispersion / 2 ((z - y)^2 - z) + ..."""
    z, y = np.array([0.0, 3.0, 40.0]), np.array([1.5, 4.0, 30.0])
    found = uq.NegativeBinomialNoise(1.0).log_density(y, rows(z), {"dispersion": dispersion}, NumPyFunctions)
    first = 0.5 * ((z - y) ** 2 - z)
    second = y**2 * (0.5 * z - y / 3.0) - z * (z - 1.0) * (2.0 * z - 1.0) / 12.0
    expected = stats.poisson(y).logpmf(z) + dispersion * first + dispersion**2 * second
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-10 + 1e6 * dispersion**3)


@pytest.mark.parametrize(("model", "z", "parameters", "expected"), SCIPY)
def test_draws_have_the_density(
    model: NoiseModel, z: np.ndarray, parameters: Mapping[str, float], expected: Any
) -> None:
    """E[d log p / d y] is zero under the density's own draws (Bartlett), within 4 Monte Carlo standard errors."""
    count, y, step = 20_000, outputs(model), 1e-4
    named = {name: np.full((count, 1), value) for name, value in parameters.items()}
    drawn = model.draw(np.broadcast_to(y, (count, T)), rows(z), named, np.random.default_rng(1))
    slope = (expected(drawn, y + step) - expected(drawn, y - step)) / (2 * step)
    error = slope.std(axis=0) / math.sqrt(count)
    assert (np.abs(slope.mean(axis=0)) < 4 * error).all()
    curvature = (expected(drawn, y + step) - 2 * expected(drawn, y) + expected(drawn, y - step)) / step**2
    both = slope**2 + curvature  # of mean zero: Fisher's information in its two forms
    assert (np.abs(both.mean(axis=0)) < 4 * both.std(axis=0) / math.sqrt(count)).all()


LAPLACE = uq.CustomNoise(
    logp=lambda z, y, p, xp: -xp.abs(z - y) / p["b"] - xp.log(2 * p["b"]),
    random=lambda y, p, rng: y + p["b"] * rng.laplace(size=y.shape),
    parameters={"b": uq.HalfNormal(1.0)},
)
JOINT = uq.CustomNoise(
    logp=lambda z, y, p, xp: -0.5 * xp.sum((z - y) ** 2) - 0.1 * xp.sum(z - y) ** 2,
    random=lambda y, p, rng: y + rng.standard_normal(y.shape),
)
HALF = uq.HalfNormal(1.0)
LEFT = ["left", "", "", "right"]
MODELS: dict[str, tuple[NoiseModel, Transform, xr.DataArray, str]] = {
    "student": (uq.StudentTNoise(HALF, uq.Gamma(2.0, 0.1)), IDENTITY, observed(REALS), "latent"),
    "poisson": (uq.PoissonNoise(), uq.Log(), observed(COUNTS), "latent"),
    "negative binomial": (uq.NegativeBinomialNoise(HALF), uq.Log(), observed(COUNTS), "latent"),
    "binomial": (uq.BinomialNoise(9), uq.Logit(), observed(COUNTS), "latent"),
    "trials": (uq.BinomialNoise(), uq.Logit(), observed(COUNTS, trials=[3.0, 4.0, 9.0, 2.0]), "latent"),
    "log-normal": (uq.LogNormalNoise(HALF), uq.Log(), observed(COUNTS + 1.0), "independent"),
    "normal of a logarithm": (uq.GaussianNoise(HALF), uq.Log(), observed(REALS), "correlated"),
    "normal of a shifted logarithm": (uq.GaussianNoise(HALF), uq.Log(0.4), observed(REALS), "correlated"),
    "counts of a shifted logarithm": (uq.PoissonNoise(), uq.Log(-0.1), observed(COUNTS), "latent"),
    "censored": (uq.GaussianNoise(HALF), IDENTITY, observed(REALS, censored=LEFT), "latent"),
    "censored log-normal": (uq.LogNormalNoise(HALF), uq.Log(), observed(COUNTS + 1.0, censored=LEFT), "latent"),
    "autocorrelated": (uq.AutocorrelatedNoise(HALF, HALF, HALF), IDENTITY, observed(REALS), "correlated"),
    "censored autocorrelated": (
        uq.AutocorrelatedNoise(HALF, HALF, HALF),
        IDENTITY,
        observed(REALS, censored=LEFT),
        "latent",
    ),
    "custom": (LAPLACE, IDENTITY, observed(REALS), "latent"),
    "joint": (JOINT, IDENTITY, observed(REALS), "latent"),
    "own": (Laplace(HALF), IDENTITY, observed(REALS), "latent"),
    "own censored": (Laplace(HALF), IDENTITY, observed(REALS, censored=LEFT), "latent"),
    "own counts": (ZeroInflatedPoisson(uq.Beta(2.0, 5.0)), uq.Log(), observed(COUNTS), "latent"),
}


@pytest.mark.filterwarnings("ignore::uqms.errors.PriorConflictWarning")  # the data lie in the prior's tail
@pytest.mark.parametrize("name", list(MODELS))
def test_the_pymc_model_is_the_density_of_the_arrays(name: str) -> None:
    noise, transform, data, form = MODELS[name]
    problem = uq.Calibration(curve(transform), data, noise)
    assert problem.data_model.form == form
    rng = np.random.default_rng(2)
    theta = {key: float(values[0]) for key, values in problem.prior_draws(1, 5).items()}
    eta = rng.standard_normal(problem.latents)
    expected = float(problem.log_likelihood(theta, eta))
    assert np.isfinite(expected)
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        model = problem.model()
        point = model.initial_point()
        for variable in model.free_RVs:
            value = model.rvs_to_values[variable]
            if variable.name == "latents":
                point[value.name] = eta
                continue
            transform_of = model.rvs_to_transforms[variable]
            point[value.name] = np.asarray(transform_of.point(theta[variable.name], NumPyFunctions))
        found = model.compile_logp(vars=[model["observations"]])
        # PyTensor's erfcx has eight digits
        assert float(found(point)) == pytest.approx(expected, rel=1e-8 if "censored" in name else 1e-9)
        slope = model.compile_dlogp(vars=model.free_RVs)(point)
        density = model.compile_logp()
    at = 0
    for value in (model.rvs_to_values[one] for one in model.free_RVs):
        flat = np.atleast_1d(np.asarray(point[value.name], dtype=float))
        for i in range(flat.size):
            ends = []
            for sign in (1, -1):
                moved = flat.copy()
                moved[i] += sign * 1e-5
                ends.append(float(density({**point, value.name: moved.reshape(np.shape(point[value.name]))})))
            assert slope[at] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=2e-4, abs=2e-4)
            at += 1


@pytest.mark.filterwarnings("ignore::uqms.errors.PriorConflictWarning")  # the data lie in the prior's tail
@pytest.mark.parametrize(
    "name",
    [name if name in ("student", "poisson") else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
)
def test_new_observations_have_the_mean_slope_zero(name: str) -> None:
    """E[d log p(z | theta) / d theta] = 0 under data simulated at fixed latents: they belong together."""
    noise, transform, data, form = MODELS[name]
    if name in ("joint", "custom") or "censored" in name or form != "latent":
        pytest.skip("not smooth, not its own draws, or in closed form and tested elsewhere")
    problem = uq.Calibration(curve(transform), data, noise)
    count, step = 200, 1e-4
    theta = {key: np.full(count, values[0]) for key, values in problem.prior_draws(1, 5).items()}
    eta = np.broadcast_to(np.random.default_rng(4).standard_normal(problem.latents), (count, problem.latents))
    drawn = problem.simulate(theta, 1, eta)
    slopes = []
    for values in drawn:
        other = problem.with_values(values)
        ends = [
            float(
                other.log_likelihood(
                    {**{k: v[0] for k, v in theta.items()}, "theta": theta["theta"][0] + s * step}, eta[0]
                )
            )
            for s in (1, -1)
        ]
        slopes.append((ends[0] - ends[1]) / (2 * step))
    assert abs(np.mean(slopes)) < 4 * np.std(slopes) / math.sqrt(len(slopes))


@pytest.mark.filterwarnings("ignore::uqms.errors.PriorConflictWarning")  # the data lie in the prior's tail
@pytest.mark.parametrize("name", [name for name, row in MODELS.items() if row[3] == "latent"])
def test_slopes_of_many_draws_are_those_of_each(name: str) -> None:
    """Each draw with measured values of its own; for a Poisson law the slope by a log-output is z - y."""
    from uqms.calibration.density import slope_of_density

    noise, transform, data, _ = MODELS[name]
    problem = uq.Calibration(curve(transform), data, noise)
    theta = problem.prior_draws(6, 3)
    phi = problem.noise.phi(theta, (6,))
    y, _ = problem.data_model.latent_outputs(
        problem.unit_inputs(theta), phi, np.zeros((6, len(problem.data_model.free)))
    )
    several = np.maximum(
        problem.observations.value - np.arange(6.0)[:, None] % 2, 0.0 if transform is IDENTITY else 1.0
    )
    z = problem.cells.linked(several if name != "trials" else np.minimum(several, [3.0, 4.0, 9.0, 2.0]))
    together = slope_of_density(problem.data_model, y[0], phi, z)
    for s in range(6):
        np.testing.assert_allclose(
            together[s],
            slope_of_density(problem.data_model, y[0, s : s + 1], phi[s : s + 1], z[s : s + 1])[0],
            rtol=1e-4,
        )
    if name == "poisson" and problem.cells.responses[0].name == "log":
        np.testing.assert_allclose(together, z - np.exp(y[0]), rtol=1e-4, atol=1e-6)


def test_a_limit_censors_what_is_beyond_it() -> None:
    problem = uq.Calibration(curve(), observed(REALS, censored=LEFT), uq.GaussianNoise(0.5))
    other = problem.with_values(np.array([0.1, -3.0, 1.0, 0.2]))  # limits: below 0.3, above 0.7
    assert list(other.observations.censored) == ["left", "", "", ""]
    np.testing.assert_allclose(other.observations.value, [0.3, -3.0, 1.0, 0.2])
    theta, eta = {"theta": 0.4}, np.random.default_rng(1).standard_normal(problem.latents)
    y = other.data_model.latent_outputs(other.unit_inputs({"theta": np.array([0.4])}), np.array([[0.5]]), eta[None])[0][
        0, 0
    ]
    expected = stats.norm(y[0], 0.5).logcdf(0.3) + stats.norm(y[1:], 0.5).logpdf([-3.0, 1.0, 0.2]).sum()
    assert float(other.log_likelihood(theta, eta)) == pytest.approx(expected, rel=1e-12)


def test_an_exact_simulator_has_no_latents_under_any_noise() -> None:
    """With nothing to be sampled beside the parameters, the density is that of the noise around the outputs."""
    t = np.arange(T, dtype=float)
    simulator = uq.DirectSimulator(
        lambda a: a * t, space=uq.ParameterSpace(a=uq.Uniform(-1.0, 1.0)), outputs={"y": ("t",)}, coords={"t": t}
    )
    problem = uq.Calibration(simulator, observed(REALS), JOINT)
    assert (problem.data_model.form, problem.latents) == ("latent", 0)
    a = np.array([[-0.5, 0.1], [0.4, 0.9]])
    wanted = [float(JOINT.logp(REALS, value * t, {}, NumPyFunctions)) for value in a.ravel()]
    np.testing.assert_allclose(problem.log_likelihood({"a": a}), np.reshape(wanted, a.shape), rtol=1e-12)
    assert float(problem.log_likelihood({"a": 0.4})) == pytest.approx(wanted[2], rel=1e-12)


@pytest.mark.filterwarnings("ignore::uqms.errors.PriorConflictWarning")  # what is drawn lies at the end only
def test_the_end_of_a_support_says_nothing_of_the_information() -> None:
    """z - y is exponential, half of the draws lie just above its end: the slope is 1, or infinite and left out."""
    noise = uq.CustomNoise(
        logp=lambda z, y, p, xp: xp.where(z > y, y - z, -np.inf),
        random=lambda y, p, rng: y + np.where(rng.random(y.shape) < 0.5, 1e-12, 1.0),
    )
    problem = uq.Calibration(curve(), observed(REALS), noise)
    sd = noise_sd(problem.data_model, np.ones((200, T)), np.ones((200, 1)))
    assert np.mean(sd**-2) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(32 * 200 * T))


def test_simulation_wants_every_quantity_and_its_latents() -> None:
    problem = uq.Calibration(curve(), observed(REALS), uq.StudentTNoise(HALF))
    with pytest.raises(uq.errors.InputError, match="simulate: got"):
        problem.simulate({"theta": np.array([0.5])}, 1)
    with pytest.raises(uq.errors.InputError, match="latents has the shape"):
        problem.simulate({"theta": np.full(3, 0.5), "sigma": np.ones(3)}, 1, np.zeros((1, problem.latents)))


REFUSED = [
    (uq.PoissonNoise(), observed(REALS), "no count"),
    (uq.BinomialNoise(5), observed(COUNTS), "of 5 trials"),
    (uq.BinomialNoise(), observed(COUNTS), "number of trials is not known"),
    (uq.LogNormalNoise(0.1), observed(COUNTS + 1.0), "not one of the logarithm"),
    (uq.LogNormalNoise(0.1), observed(REALS), "has no logarithm"),
    (uq.StudentTNoise(1.0), observed(REALS, censored=LEFT), "censored"),
    (uq.StudentTNoise(1.0), observed(REALS, sd=[1.0] * 4), "known sds"),
    (uq.AutocorrelatedNoise(1.0, 1.0, 1.0, along="x"), observed(REALS), "along"),
]


@pytest.mark.parametrize(("noise", "data", "said"), REFUSED)
def test_what_cannot_be_meant_is_refused(noise: NoiseModel, data: xr.DataArray, said: str) -> None:
    with pytest.raises(uq.errors.InputError, match=said):
        uq.Calibration(curve(), data, noise)


@pytest.mark.parametrize(
    "make",
    [
        lambda: uq.StudentTNoise(-1.0),
        lambda: uq.StudentTNoise(1.0, uq.Normal(0.0, 1.0)),
        lambda: uq.NegativeBinomialNoise(0.0),
        lambda: uq.BinomialNoise(0),
        lambda: uq.LogNormalNoise(math.nan),
        lambda: uq.AutocorrelatedNoise(1.0, 0.0, 1.0),
        lambda: uq.CustomNoise(logp=1.0, random=lambda y, p, rng: y),  # type: ignore[arg-type]
        lambda: uq.GPDiscrepancy(sd=-1.0),
        lambda: uq.GPDiscrepancy(over="t"),
        lambda: uq.ScaleDiscrepancy(uq.HalfNormal(1.0)),  # type: ignore[arg-type]
        lambda: uq.BasisDiscrepancy([]),
    ],
)
def test_bad_settings_are_refused(make: Any) -> None:
    with pytest.raises(uq.errors.InputError):
        make()


@pytest.mark.parametrize(
    ("noise", "transform", "units"),
    [
        (uq.GaussianNoise(HALF), IDENTITY, {"sigma": "mg/L", "delta_sd": "mg/L", "delta_length_t": ""}),
        (uq.LogNormalNoise(HALF), uq.Log(), {"sigma": "", "delta_sd": "", "delta_length_t": ""}),
        (uq.GaussianNoise(HALF), uq.Log(), {"sigma": "mg/L", "delta_sd": "", "delta_length_t": ""}),
    ],
)
def test_what_is_on_a_transformed_scale_has_no_unit(
    noise: uq.GaussianNoise | uq.LogNormalNoise, transform: Transform, units: dict[str, str]
) -> None:
    problem = uq.Calibration(
        curve(transform, "mg/L"), observed(1.0 + 0.1 * COUNTS), noise, discrepancy=uq.GPDiscrepancy()
    )
    assert {name: problem.unit_of(name) for name in problem.noise.unknown} == units

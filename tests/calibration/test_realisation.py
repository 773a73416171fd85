"""Data that are one run of a stochastic simulator, against dense normals, quadrature and finite differences."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from calibration.problems import given_surrogate
from scipy.stats import kstest, multivariate_normal

import uqms as uq
from uqms.calibration.predict import conditional_moments, own_cells
from uqms.errors import DataWarning, InputError
from uqms.surrogates import GaussianProcessSurrogate
from uqms.surrogates.kernels import Matern52
from uqms.surrogates.process import condition
from uqms.surrogates.run_noise import SimulatorNoise
from uqms.surrogates.training import Hyperparameters

CORRELATION = np.array([[1.0, 0.6], [0.6, 1.0]])


def noise_of(x: np.ndarray, logs: np.ndarray, correlation: np.ndarray, residual: np.ndarray) -> SimulatorNoise:
    """Return noise whose log variances at the inputs are given, between them with an error of their own."""
    one = Hyperparameters(np.full(x.shape[1], 0.5), 0.0, 1e-12, 0.0, 1, False)
    process = condition(Matern52(), x, logs, 1, [one] * logs.shape[1], [0.3] * logs.shape[1])
    return SimulatorNoise(process, np.zeros(logs.shape[1]), correlation, (residual,), (np.zeros((len(residual), 0)),))


def stochastic(names: tuple[str, ...] = ("theta", "x"), m: int = 4) -> GaussianProcessSurrogate:
    """Return a surrogate of a curve with two scores whose correlated noise has a variance that changes over the box."""
    rng = np.random.default_rng(3)
    grid = np.linspace(0.0, 1.0, 4)
    x = np.stack(np.meshgrid(*[grid] * len(names), indexing="ij"), axis=-1).reshape(-1, len(names))
    scores = np.column_stack([np.sin(2.0 * x.sum(axis=1)), 2.0 * x[:, 0] - 1.0])
    basis = np.column_stack([np.linspace(0.5, 1.5, m), np.linspace(1.0, -1.0, m)])
    truncation = 0.05 * rng.standard_normal((m, 2))
    space = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0))
    surrogate = given_surrogate(x, scores, basis=basis, truncation=truncation, names=names, variance=0.3, space=space)
    logs = np.column_stack([-2.0 + 1.5 * x[:, 0], -1.0 - x[:, 0] ** 2])
    residual = 0.1 * rng.standard_normal((m, 2))
    return replace(surrogate, noise=noise_of(x, logs, CORRELATION, residual))


def table(experiments: int = 2, runs: int = 1, replicates: int = 2, m: int = 4) -> pd.DataFrame:
    """Return observations of a curve in several experiments, runs and replicates."""
    index = pd.MultiIndex.from_product([range(experiments), range(runs), range(replicates), range(m)])
    frame = index.to_frame(index=False, name=["k", "run", "replicate", "t"])
    rng = np.random.default_rng(5)
    return frame.assign(y=rng.normal(0.5, 0.8, len(frame)), x=0.2 + 0.5 * frame["k"], t=frame["t"].astype(float))


def observed(frame: pd.DataFrame) -> uq.Observations:
    frame = frame.assign(label=frame["k"].astype(str) + "-" + frame["run"].astype(str))
    return uq.Observations.from_table(
        frame,
        output="y",
        value="y",
        coords={"t": "t"},
        conditions={"x": "x"},
        experiment="label",
        replicate="replicate",
    )


def dense(problem: uq.Calibration, theta: float, sigma: float, frame: pd.DataFrame, run: pd.Series) -> tuple:
    """Return mean and covariance (R, R) of the measured rows from the definition of the likelihood, row by row."""
    surrogate = problem.surrogate
    u = np.column_stack([np.full(len(frame), theta), frame["x"]])
    scores = surrogate.scores(u)
    _, basis, truncation = surrogate.decode("y", {"t": frame["t"].to_numpy()})
    residual = surrogate.noise.residuals[0][frame["t"].astype(int)]
    mean = np.sum(basis * scores.mean[0], axis=1)
    covariance = np.einsum("aj,jab,bj->ab", basis, scores.covariance[0], basis)
    same = frame["k"].to_numpy()[:, None] == frame["k"].to_numpy()
    covariance += same * (truncation @ truncation.T)
    noisy = basis * np.sqrt(surrogate.noise.variance(u))
    one = run.to_numpy()[:, None] == run.to_numpy()
    covariance += one * (noisy @ CORRELATION @ noisy.T + residual @ residual.T)
    return mean, covariance + sigma**2 * np.eye(len(frame))


@pytest.mark.parametrize("mode", ["experiment", "replicate"])
@pytest.mark.parametrize("runs", [1, 2])
def test_likelihood_is_that_of_the_dense_normal(mode: str, runs: int) -> None:
    frame = table(runs=runs)
    problem = uq.Calibration(
        stochastic(), observed(frame), noise=uq.GaussianNoise(sd=uq.HalfNormal(1.0)), realisation=mode
    )
    run = frame["k"].astype(str) + "-" + frame["run"].astype(str)
    run = run + "-" + frame["replicate"].astype(str) if mode == "replicate" else run
    for theta, sigma in ((0.13, 0.4), (0.8, 0.2)):
        mean, covariance = dense(problem, theta, sigma, frame, run)
        wanted = multivariate_normal(mean, covariance).logpdf(frame["y"])
        found = problem.log_likelihood({"theta": theta, "sigma": sigma})
        np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.filterwarnings("ignore::uqms.errors.PriorConflictWarning")  # the data lie in the prior's tail
def test_none_is_the_likelihood_of_a_surrogate_without_noise() -> None:
    frame, surrogate = table(), stochastic()
    settings = {"noise": uq.GaussianNoise(sd=0.3)}
    mean = uq.Calibration(surrogate, observed(frame), realisation="none", **settings)
    silent = uq.Calibration(replace(surrogate, noise=None), observed(frame), **settings)
    theta = {"theta": np.linspace(0.1, 0.9, 5)}
    assert mean.data_model.form == silent.data_model.form == "independent"
    np.testing.assert_array_equal(mean.log_likelihood(theta), silent.log_likelihood(theta))
    run = uq.Calibration(surrogate, observed(frame), **settings)
    assert np.abs(run.log_likelihood(theta) - mean.log_likelihood(theta)).min() > 0.1


def central(function: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-5) -> np.ndarray:
    out = np.empty_like(at)
    for index in np.ndindex(at.shape):
        shift = np.zeros_like(at)
        shift[index] = step
        out[index] = (function(at + shift) - function(at - shift)) / (2.0 * step)
    return out


@pytest.mark.slow
def test_expected_variance_has_its_derivative() -> None:
    noise = stochastic().noise
    rng = np.random.default_rng(0)
    u, bar = rng.random((3, 2)), rng.standard_normal((3, 2))
    for shift in (0.0, 3.0):  # near the largest variance, where the expectation is cut, as well
        other = replace(noise, process=replace(noise.process, beta=noise.process.beta + shift))
        found = other.variance_reverse(u, bar)
        wanted = central(lambda at, one=other: float(np.sum(one.variance(at) * bar)), u)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("mode", ["experiment", "replicate"])
def test_gradient_of_the_marginal_likelihood(mode: str) -> None:
    import pytensor
    import pytensor.tensor as pt

    from uqms.calibration.bridge import joint_density

    problem = uq.Calibration(stochastic(), observed(table(runs=2)), noise=uq.GaussianNoise(sd=0.3), realisation=mode)
    u = problem.unit_inputs({"theta": np.array(0.4)}) + np.array([[0.0, 0.0], [0.03, 0.0]])
    inputs = pt.dmatrix("u")
    density = joint_density(problem.data_model)(inputs, np.array([0.3]), problem.cells.z)
    value = pytensor.function([inputs], [density, pytensor.grad(density, inputs)], mode="FAST_COMPILE")

    np.testing.assert_allclose(value(u)[1], central(lambda at: float(value(at)[0]), u), rtol=1e-5, atol=1e-6)
    wanted = central(lambda at: float(problem.log_likelihood({"theta": at[0]})), np.array([0.4]))
    at = problem.unit_inputs({"theta": np.array(0.4)})
    np.testing.assert_allclose(value(at)[1][:, 0].sum(), wanted[0], rtol=1e-5)


def counts(mode: str = "experiment") -> uq.Calibration:
    """Return a problem with sampled latents: Student's noise is not normal."""
    frame = table(runs=2)
    return uq.Calibration(stochastic(), observed(frame), noise=uq.StudentTNoise(scale=0.3, df=5.0), realisation=mode)


def test_latents_make_the_covariance_and_have_derivatives() -> None:
    from uqms.calibration.bridge import PluggedOutputs

    problem = counts()
    u = problem.unit_inputs({"theta": np.array([0.4])})
    phi = problem.noise.phi({"theta": np.array([0.4])}, (1,))
    n, size = len(problem.cells.offset), problem.latents
    eta = np.vstack([np.zeros(size), np.eye(size)])
    y = problem.data_model.latent_outputs(np.repeat(u, size + 1, axis=0), np.repeat(phi, size + 1, axis=0), eta)[0][0]
    root = y[1:] - y[0]
    y0, B, _ = problem.data_model.latent_map(u, phi)
    np.testing.assert_allclose(y0[0, 0], y[0], rtol=1e-12)
    np.testing.assert_allclose(B[0, 0].T, root, rtol=0, atol=1e-12)
    frame = table(runs=2).query("replicate == 0").reset_index(drop=True)
    run = frame["k"].astype(str) + "-" + frame["run"].astype(str)
    cells = problem.cells
    order = np.lexsort((frame["t"], frame["run"], frame["k"]))  # cells stand by experiment; runs and times within
    place = np.lexsort((cells.coords["t"], cells.run, cells.experiment))
    _, wanted = dense(problem, 0.4, 0.0, frame.iloc[order], run.iloc[order])
    np.testing.assert_allclose((root.T @ root)[np.ix_(place, place)], wanted, rtol=1e-8, atol=1e-10)

    rng = np.random.default_rng(1)
    bar, eta = rng.standard_normal((1, n)), rng.standard_normal(size)
    plugged = PluggedOutputs(problem.data_model)
    slopes = plugged.reverse(u[0], phi[0], eta, bar)

    def value(at: np.ndarray, xi: np.ndarray) -> float:
        return float(np.sum(plugged(at, phi[0], xi)[0] * bar))

    np.testing.assert_allclose(slopes[0], central(lambda at: value(at, eta), u[0]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slopes[2], central(lambda xi: value(u[0], xi), eta), rtol=1e-6, atol=1e-8)


def test_new_observations_have_the_covariance_of_the_likelihood() -> None:
    frame = table(runs=2)
    problem = uq.Calibration(stochastic(), observed(frame), noise=uq.GaussianNoise(sd=0.3))
    count = 40_000
    draws = problem.simulate({"theta": np.full(count, 0.4)}, rng=1)
    run = frame["k"].astype(str) + "-" + frame["run"].astype(str)
    mean, covariance = dense(problem, 0.4, 0.3, frame, run)
    sd = np.sqrt(np.diag(covariance))
    assert np.abs((draws.mean(axis=0) - mean) / sd).max() < 5.0 / np.sqrt(count)
    off = (np.cov(draws.T) - covariance) / np.outer(sd, sd)
    assert np.abs(off).max() < 5.0 * np.sqrt(2.0 / count)


@pytest.mark.parametrize("realisation", ["same", "new", "none"])
def test_prediction_of_the_observed_run_of_a_new_one_and_of_the_mean(realisation: str) -> None:
    frame = table(replicates=1)
    problem = uq.Calibration(stochastic(), observed(frame), noise=uq.GaussianNoise(sd=0.3))
    theta = {"theta": np.array([0.4])}
    targets = replace(own_cells(problem.cells), run=None)
    _, found = next(conditional_moments(problem, theta, np.zeros(1, dtype=np.int64), targets, realisation=realisation))
    n = len(frame)
    both = pd.concat([frame, frame], ignore_index=True)
    data, other = frame["k"].astype(str), frame["k"].astype(str)
    run = pd.concat([data, other if realisation == "same" else other + " new"], ignore_index=True)
    mean, covariance = dense(problem, 0.4, 0.0, both, run)
    own = covariance[n:, n:]
    if realisation == "none":
        silent = pd.Series([f"{i} none" for i in range(2 * n)])  # a run each: what is off the diagonal has no runs
        own = dense(problem, 0.4, 0.0, both, silent)[1][n:, n:]
        u = np.column_stack([np.full(n, 0.4), frame["x"]])
        _, basis, _ = problem.surrogate.decode("y", {"t": frame["t"].to_numpy()})
        noisy = basis * np.sqrt(problem.surrogate.noise.variance(u))
        alone = np.einsum("nj,jl,nl->n", noisy, CORRELATION, noisy)
        own[np.arange(n), np.arange(n)] -= alone + np.sum(
            problem.surrogate.noise.residuals[0][frame["t"].astype(int)] ** 2, axis=1
        )
    inside = covariance[:n, :n] + 0.09 * np.eye(n)
    gain = np.linalg.solve(inside, covariance[:n, n:])
    np.testing.assert_allclose(found.mean[0], mean[n:] + gain.T @ (frame["y"] - mean[:n]), rtol=1e-8)
    np.testing.assert_allclose(found.covariance[0], own - gain.T @ covariance[:n, n:], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("realisation", ["same", "new"])
def test_prediction_given_latents_averages_to_that_given_nothing(realisation: str) -> None:
    """Over standard normal latents, mean and covariance given them are those of the prediction before the data."""
    problem = counts("replicate")
    count = 4000
    rng = np.random.default_rng(2)
    eta = rng.standard_normal((count, problem.latents))
    theta = {"theta": np.full(count, 0.4)}
    targets = own_cells(problem.cells)
    found = [
        moments
        for _, moments in conditional_moments(
            problem, theta, np.zeros(count, dtype=np.int64), targets, eta, realisation=realisation
        )
    ]
    mean, left = np.concatenate([one.mean for one in found]), found[0].covariance[0]
    y = problem.data_model.latent_outputs(problem.unit_inputs(theta), problem.noise.phi(theta, (count,)), eta)[0][0]
    if realisation == "same":  # the latents say everything of the observed runs
        np.testing.assert_allclose(mean, y, atol=1e-6)
        return
    whole = np.cov(mean.T) + left
    sd = np.sqrt(np.diag(np.cov(y.T)))
    same = problem.cells.experiment[:, None] == problem.cells.experiment
    gap = (whole - np.cov(y.T)) / np.outer(sd, sd)
    assert np.abs(np.diag(gap)).max() < 6.0 * np.sqrt(2.0 / count)
    assert np.abs(gap[~same]).max() < 6.0 * np.sqrt(2.0 / count)


def test_realisation_that_cannot_be() -> None:
    frame, surrogate = table(), stochastic()
    noise = uq.GaussianNoise(sd=0.3)
    with pytest.raises(InputError, match="'experiment'"):
        uq.Calibration(surrogate, observed(frame), noise=noise, realisation="run")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="knows no noise"):
        uq.Calibration(replace(surrogate, noise=None), observed(frame), noise=noise, realisation="replicate")
    single = uq.Observations.from_table(
        frame.query("replicate == 0"), output="y", value="y", coords={"t": "t"}, conditions={"x": "x"}
    )
    with pytest.raises(InputError, match="no replicates"):
        uq.Calibration(surrogate, single, noise=noise, realisation="replicate")


# --- an autoregressive curve, whose likelihood is known exactly -------------------------------------------------------

STEPS = np.arange(8.0)
SHOCKS = np.array([[0.7 ** (i - j) if j <= i else 0.0 for j in range(8)] for i in range(8)])
FALL = 0.7 ** (STEPS + 1.0)
NOISE = 0.1
UNIT = np.linspace(0.005, 0.995, 80)


def walks(k: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one curve for each k: level -> 0.7 level + 0.3 k + 0.1 k times a shock, from 10 on."""
    k = np.asarray(k)[:, None]
    return 10.0 * FALL + k * (1.0 - FALL) + 0.1 * k * rng.standard_normal((len(k), 8)) @ SHOCKS.T


def exact_log_likelihood(k: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return log p(y | k) (grid, datasets) of the autoregressive curve with measurement noise."""
    out = np.empty((len(k), len(y)))
    for i, one in enumerate(k):
        covariance = (0.1 * one) ** 2 * SHOCKS @ SHOCKS.T + NOISE**2 * np.eye(8)
        out[i] = multivariate_normal(10.0 * FALL + one * (1.0 - FALL), covariance).logpdf(y)
    return out


def autoregressive(realisation: str) -> uq.Calibration:
    """Return a problem whose surrogate knows mean and noise: scores along eigenvectors of the shocks' covariance."""
    x = np.linspace(0.0, 1.0, 12)[:, None]
    k = 2.0 + 10.0 * x
    power, basis = np.linalg.eigh(SHOCKS @ SHOCKS.T)
    surrogate = given_surrogate(
        x, k * ((1.0 - FALL) @ basis), basis=basis, offset=10.0 * FALL, columns=2, variance=1e-6
    )
    logs = np.log((0.1 * k) ** 2 * power)
    noise = noise_of(x, logs, np.eye(8), np.zeros((8, 0)))
    frame = pd.DataFrame({"t": STEPS, "y": 10.0 * FALL + 5.0 * (1.0 - FALL)})
    data = uq.Observations.from_table(frame, output="y", value="y", coords={"t": "t"})
    return uq.Calibration(
        replace(surrogate, noise=noise), data, noise=uq.GaussianNoise(sd=NOISE), realisation=realisation
    )


def moments(log_density: np.ndarray) -> tuple[float, float, np.ndarray]:
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    mean = float(weight @ UNIT)
    return mean, float(np.sqrt(weight @ (UNIT - mean) ** 2)), np.cumsum(weight)


def test_posterior_of_an_autoregressive_curve_is_the_exact_one() -> None:
    problem = autoregressive("experiment")
    rng = np.random.default_rng(3)
    y = walks(rng.uniform(3.0, 11.0, 10), rng) + NOISE * rng.standard_normal((10, 8))
    exact = exact_log_likelihood(2.0 + 10.0 * UNIT, y)
    for i, values in enumerate(y):
        mean, sd, _ = moments(problem.with_values(values).log_likelihood({"theta": UNIT}))
        wanted, spread, _ = moments(exact[:, i])
        assert abs(mean - wanted) < 0.02 * spread
        assert abs(sd / spread - 1.0) < 0.02


@pytest.mark.slow
def test_truths_rank_evenly_among_posterior_draws_only_with_the_realisation() -> None:
    """Data of the simulator itself, not of the law that the problem assumes: ranks are uniform, and far off without."""
    rng = np.random.default_rng(4)
    truth = rng.random(150)
    y = walks(2.0 + 10.0 * truth, rng) + NOISE * rng.standard_normal((150, 8))
    level = {}
    for mode in ("experiment", "none"):
        problem, ranks = autoregressive(mode), []
        for one, values in zip(truth, y, strict=True):
            _, _, below = moments(problem.with_values(values).log_likelihood({"theta": UNIT}))
            ranks.append(float(np.interp(one, UNIT, below)))
        level[mode] = float(kstest(ranks, "uniform").pvalue)
    assert level["experiment"] > 1e-3
    assert level["none"] < 1e-8


def test_laplace_and_prediction_hold_the_realisation() -> None:
    problem = autoregressive("experiment")
    exact = exact_log_likelihood(2.0 + 10.0 * UNIT, problem.observations.value[None])[:, 0]
    _, spread, _ = moments(exact)
    posterior = problem.sample(uq.Laplace(), rng=1)
    assert abs(float(posterior.draws["theta"].std()) / spread - 1.0) < 0.2
    sd = {
        which: float(posterior.predict(realisation=which, coords={"t": [7.0]}).sd["y"][0])
        for which in ("same", "new", "none")
    }
    k = 2.0 + 10.0 * float(posterior.draws["theta"].mean())
    assert sd["same"] < 1.05 * NOISE  # measured, with noise of sd 0.1
    assert abs(sd["new"] / np.sqrt((0.1 * k) ** 2 * np.sum(SHOCKS[7] ** 2) + sd["none"] ** 2) - 1.0) < 0.1
    holds = [posterior.predict(realisation=which, draws=5).holds for which in ("same", "new", "none")]
    assert holds == [
        ("parameters", "surrogate", "realisation"),
        ("parameters", "surrogate", "new realisation"),
        ("parameters", "surrogate"),
    ]
    with pytest.raises(InputError, match="'same'"):
        posterior.predict(realisation="mean")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::uqms.errors.PriorConflictWarning")  # the data lie in the prior's tail
def test_noise_that_is_not_normal_is_warned_of() -> None:
    attrs = {"output": "y", "skewness": 1.1, "kurtosis": 2.0, "p": 1e-9}
    surrogate = stochastic()
    skewed = replace(surrogate, attrs={**surrogate.attrs, "noise_normality": json.dumps(attrs)})
    settings = {"noise": uq.GaussianNoise(sd=0.3)}
    with pytest.warns(DataWarning, match=r"not normal.*skewness 1\.10.*to_sbi"):
        uq.Calibration(skewed, observed(table()), **settings)
    uq.Calibration(skewed, observed(table()), realisation="none", **settings)
    small = replace(skewed, attrs={**surrogate.attrs, "noise_normality": json.dumps({**attrs, "p": 0.01})})
    uq.Calibration(small, observed(table()), **settings)


@pytest.mark.filterwarnings("ignore::uqms.errors.PriorConflictWarning")  # the data lie in the prior's tail
def test_noise_whose_correlation_changes_over_the_box_is_warned_of() -> None:
    found = {"outputs": ["y", "y"], "low": -0.4, "high": 0.7, "p": 1e-9}
    surrogate = stochastic()
    drifting = replace(surrogate, attrs={**surrogate.attrs, "noise_drift": json.dumps(found)})
    settings = {"noise": uq.GaussianNoise(sd=0.3)}
    with pytest.warns(DataWarning, match=r"changes over the design box, from -0\.40 to 0\.70.*refine"):
        uq.Calibration(drifting, observed(table()), **settings)
    uq.Calibration(drifting, observed(table()), realisation="none", **settings)
    for harmless in ({"p": 0.01}, {"low": 0.4}):
        other = replace(drifting, attrs={**surrogate.attrs, "noise_drift": json.dumps({**found, **harmless})})
        uq.Calibration(other, observed(table()), **settings)


# --- an epidemic, compared with a synthetic likelihood by brute force -------------------------------------------------

DAYS = np.arange(1.0, 9.0)
PEOPLE = 2000
BETAS = np.linspace(1.0, 2.0, 26)


def outbreaks(beta: float, runs: int, rng: np.random.Generator) -> np.ndarray:
    """Return the square root of the infected (runs, 8 days) of a chain-binomial epidemic."""
    susceptible, infected, out = np.full(runs, PEOPLE - 40), np.full(runs, 40), []
    for _ in DAYS:
        new = rng.binomial(susceptible, -np.expm1(-beta * infected / PEOPLE))
        recovered = rng.binomial(infected, -np.expm1(-0.5))
        susceptible, infected = susceptible - new, infected + new - recovered
        out.append(np.sqrt(infected))
    return np.stack(out, axis=1)


def test_epidemic_agrees_with_a_synthetic_likelihood_by_brute_force() -> None:
    """Mean and covariance of 1000 runs at each of 26 points, against a surrogate of 16 x 40 runs."""
    rng, space, sd = np.random.default_rng(0), uq.ParameterSpace(beta=uq.Uniform(0.9, 2.1)), 0.3
    design = uq.sobol(space, 16, rng=1)
    curves = np.concatenate([outbreaks(float(beta), 40, rng) for beta in design["beta"].values])
    runs = uq.ensemble.build(
        xr.Dataset({"beta": ("run", np.repeat(design["beta"].values, 40))}, attrs=design.attrs),
        {"y": xr.DataArray(curves, dims=("run", "day"), coords={"day": DAYS})},
        space=space,
    )
    surrogate = uq.GaussianProcess(noise="heteroscedastic").fit(runs)
    forced = []
    for beta in BETAS:
        many = outbreaks(float(beta), 1000, rng)
        forced.append(multivariate_normal(many.mean(axis=0), np.cov(many.T) + sd**2 * np.eye(8)))
    off, ratio, without = [], [], []
    for beta in (1.3, 1.5, 1.7):
        values = outbreaks(beta, 1, rng)[0] + sd * rng.standard_normal(8)
        data = xr.DataArray(values, dims="day", coords={"day": DAYS}, name="y")
        wanted = posterior_of(np.array([one.logpdf(values) for one in forced]))
        found = {}
        for mode in ("experiment", "none"):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", DataWarning)
                problem = uq.Calibration(surrogate, data, noise=uq.GaussianNoise(sd=sd), realisation=mode)
            assert any("changes over the design box" in str(w.message) for w in caught) == (mode == "experiment")
            found[mode] = posterior_of(problem.log_likelihood({"beta": BETAS}))
        off.append((found["experiment"][0] - wanted[0]) / wanted[1])
        ratio.append(found["experiment"][1] / wanted[1])
        without.append(found["none"][1] / wanted[1])
    assert np.abs(off).max() < 0.6  # the correlation of the noise changes over the box, which is told
    assert np.abs(np.log(ratio)).max() < 0.25
    assert max(without) < 0.5  # taken as the mean of all outbreaks, one outbreak says far too much


@pytest.mark.parametrize("kind", ["scaled", "rotated"])
def test_normal_noise_of_the_models_own_law_gives_the_exact_posterior(kind: str) -> None:
    """Noise of three shapes whose size grows tenfold over the box; and, for contrast, shapes that turn.

    Mean and covariance are known, so the exact posterior is. 32 x 50 runs: the surrogate's own part is small.
    """
    rng, sd, space = np.random.default_rng(1), 0.05, uq.ParameterSpace(beta=uq.Uniform(0.9, 2.1))
    shapes = np.linalg.qr(np.cos(np.outer(DAYS - 0.5, np.arange(3)) * np.pi / 8))[0]
    root = np.array([[0.5, 0.0, 0.0], [0.2, 0.25, 0.0], [0.0, 0.0, 0.1]])

    def mean(beta: float) -> np.ndarray:
        return shapes[:, :2] @ np.array([3.0 * np.sin(beta), 1.5 * beta**2])

    def factor(beta: float) -> np.ndarray:
        if kind == "scaled":
            return shapes @ root * np.exp(2.0 * (beta - 1.5))
        c, s = np.cos(1.3 * (beta - 1.5)), np.sin(1.3 * (beta - 1.5))
        return shapes[:, :2] @ np.array([[c, -s], [s, c]]) * np.array([0.5, 0.1])

    def run(beta: float, count: int) -> np.ndarray:
        return mean(beta) + rng.standard_normal((count, factor(beta).shape[1])) @ factor(beta).T

    design = uq.sobol(space, 32, rng=1)
    betas = design["beta"].values
    runs = uq.ensemble.build(
        xr.Dataset({"beta": ("run", np.repeat(betas, 50))}, attrs=design.attrs),
        {"y": xr.DataArray(np.concatenate([run(b, 50) for b in betas]), dims=("run", "day"), coords={"day": DAYS})},
        space=space,
    )
    surrogate = uq.GaussianProcess(noise="heteroscedastic").fit(runs)
    drift = json.loads(surrogate.attrs["noise_drift"])
    assert (drift["p"] < 1e-9 and drift["high"] - drift["low"] > 0.8) == (kind == "rotated"), drift
    if kind == "rotated":
        return
    exact = [multivariate_normal(mean(b), factor(b) @ factor(b).T + sd**2 * np.eye(8)) for b in BETAS]
    off, ratio = [], []
    data = xr.DataArray(mean(1.5), dims="day", coords={"day": DAYS}, name="y")
    problem = uq.Calibration(surrogate, data, noise=uq.GaussianNoise(sd=sd))
    for beta in np.linspace(1.1, 1.9, 9):
        values = run(beta, 1)[0] + sd * rng.standard_normal(8)
        wanted = posterior_of(np.array([one.logpdf(values) for one in exact]))
        found = posterior_of(problem.with_values(values).log_likelihood({"beta": BETAS}))
        off.append((found[0] - wanted[0]) / wanted[1])
        ratio.append(found[1] / wanted[1])
    assert np.sqrt(np.mean(np.square(off))) < 0.1, off
    assert np.abs(np.log(ratio)).max() < 0.15, ratio


def posterior_of(log_density: np.ndarray) -> tuple[float, float]:
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    mean = float(weight @ BETAS)
    return mean, float(np.sqrt(weight @ (BETAS - mean) ** 2))

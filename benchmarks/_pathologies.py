"""Calibrations that should not be believed, and some that should, small enough to be judged by the hundred.

Checks that do not look at how draws came about are given exact ones (importance resampling), which costs a fraction of
the time. Only the funnel is sampled: what tells it are the sampler's own statistics.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.special import ndtr
from scipy.stats import multivariate_t

import uqms as uq
from uqms.calibration.posterior import Posterior, build_posterior
from uqms.calibration.starts import starting_points
from uqms.surrogates import GaussianProcessSurrogate, Layout
from uqms.surrogates.outputs import OutputBasis
from uqms.surrogates.process import ScoreProcess

CHAINS, DRAWS = 4, 500
PROPOSALS = 8_000
FREEDOM = 5


@dataclass(frozen=True)
class Judged:
    """Names of the checks that warn or fail; what was raised instead of a posterior stands among them."""

    flags: tuple[str, ...]
    text: str = ""


def exact_draws(problem: uq.Calibration, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return nearly independent posterior draws of everything inferred, (count,) each.

    A t law around tempered particles, on the scale where priors are standard normal, is weighted exactly and resampled.
    """
    cloud = starting_points(problem, 200, rng)
    names = list(problem.priors)
    z = np.column_stack([_normal(problem, name, cloud[name]) for name in names])
    spread = 1.3 * np.atleast_2d(np.cov(z.T)) + 1e-10 * np.eye(len(names))
    law = multivariate_t(z.mean(axis=0), spread, FREEDOM, seed=rng)
    proposed = np.reshape(law.rvs(PROPOSALS), (PROPOSALS, len(names)))
    theta = {name: _own(problem, name, column) for name, column in zip(names, proposed.T, strict=True)}
    weight = problem.log_likelihood(theta) - 0.5 * np.sum(proposed**2, axis=1) - law.logpdf(proposed)
    weight = np.exp(np.nan_to_num(weight - np.nanmax(weight), nan=-np.inf))
    picked = rng.choice(PROPOSALS, count, p=weight / weight.sum())
    return {name: values[picked] for name, values in theta.items()}


def _own(problem: uq.Calibration, name: str, z: np.ndarray) -> np.ndarray:
    prior = problem.priors[name]
    low, high = (float(prior.cdf(end)) for end in problem.limits(name))
    return np.asarray(prior.quantile(low + (high - low) * ndtr(np.clip(z, -6.0, 6.0))))


def _normal(problem: uq.Calibration, name: str, values: np.ndarray) -> np.ndarray:
    from scipy.special import ndtri

    prior = problem.priors[name]
    low, high = (float(prior.cdf(end)) for end in problem.limits(name))
    return np.clip(ndtri((prior.cdf(values) - low) / (high - low)), -6.0, 6.0)


def posterior_of(
    problem: uq.Calibration, theta: dict[str, np.ndarray], seed: int, chains: int = CHAINS, draws: int | None = None
) -> Posterior:
    """Return the posterior around draws (chains * draws,) that are given; `draws` a chain were asked for."""
    dims, shape = ("chain", "draw"), (chains, len(next(iter(theta.values()))) // chains)
    data = xr.Dataset({name: (dims, values.reshape(shape)) for name, values in theta.items()})
    data = data.assign_coords(chain=np.arange(chains), draw=np.arange(shape[1]))
    trace = xr.DataTree.from_dict({"posterior": data, "sample_stats": xr.Dataset()})
    sampler = uq.NUTS(draws=draws or shape[1], chains=chains)
    starts = starting_points(problem, 64, np.random.default_rng([seed, 1]))
    trace["starts"] = xr.Dataset(
        {name: (("start", "latent")[: values.ndim], values) for name, values in starts.items()}
    )
    return build_posterior(problem, sampler, trace, seed)


def judged(posterior: Posterior) -> Judged:
    """Return what the verdict objects to."""
    return Judged(tuple(check.name for check in posterior.verdict.warnings), str(posterior.verdict))


def fitted(
    space: uq.ParameterSpace, n: int, function: Callable[..., np.ndarray], times: np.ndarray, seed: int
) -> uq.surrogates.GaussianProcessSurrogate:
    """Return a surrogate of a function of the parameters (n, 1) and times, from n runs."""
    design = uq.sobol(space, n, rng=seed)
    curves = function(*(design[name].values[:, None] for name in space.names), times)
    output = xr.DataArray(curves, dims=("run", "t"), coords={"t": times})
    return uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": output}, space=space))


def _one(rate: np.ndarray, t: np.ndarray) -> np.ndarray:
    return np.exp(-rate * t)


def _two(rate: np.ndarray, size: np.ndarray, t: np.ndarray) -> np.ndarray:
    return size * np.exp(-rate * t)


def _three(rate: np.ndarray, size: np.ndarray, level: np.ndarray, t: np.ndarray) -> np.ndarray:
    return level + size * np.exp(-rate * t)


SPACES = (
    uq.ParameterSpace(rate=uq.Uniform(0.2, 2.0)),
    uq.ParameterSpace(rate=uq.LogNormal(0.7, 0.5), size=uq.Uniform(0.5, 2.0)),
    uq.ParameterSpace(rate=uq.Uniform(0.4, 2.0), size=uq.Normal(1.5, 0.3), level=uq.Normal(0.0, 0.5)),
)
CURVES: tuple[Callable[..., np.ndarray], ...] = (_one, _two, _three)


def clean_problem(seed: int) -> uq.Calibration:
    """Return a right calibration: 1 to 3 parameters from the prior, 6 to 40 times, noise of 2 to 10 %, known or not."""
    rng = np.random.default_rng([seed, 7])
    d = seed % 3
    space, curve = SPACES[d], CURVES[d]
    times = np.linspace(0.1, 4.0, int(rng.choice([8, 15, 40])))
    surrogate = fitted(space, 15 * (d + 1), curve, times, seed)
    sd = float(rng.choice([0.02, 0.05, 0.1])) * (0.5 if d == 2 else 1.0)
    box = surrogate.domain
    truth = [float(space.priors[name].quantile(rng.uniform(0.05, 0.95))) for name in box.names]
    count = int(rng.choice([1, 3]))
    values = curve(*truth, times)[:, None] + sd * rng.standard_normal((len(times), count))
    data = xr.DataArray(values, dims=("t", "replicate"), coords={"t": times}, name="y")
    noise = uq.GaussianNoise(sd=sd if rng.random() < 0.5 else uq.HalfNormal(0.2))
    return uq.Calibration(surrogate, data, noise)


def clean(seed: int) -> Judged:
    """Judge a right calibration with exact draws."""
    problem = clean_problem(seed)
    theta = exact_draws(problem, CHAINS * DRAWS, np.random.default_rng([seed, 8]))
    return judged(posterior_of(problem, theta, seed))


def unidentified_pair(seed: int) -> Judged:
    """Judge data that depend on a product, a sum or a ratio of two parameters alone."""
    rng = np.random.default_rng([seed, 9])
    times = np.linspace(0.1, 3.0, 12)
    log = uq.ParameterSpace(a=uq.LogUniform(0.3, 3.0), b=uq.LogUniform(0.3, 3.0))
    flat = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
    kinds: tuple[tuple[uq.ParameterSpace, Callable[..., np.ndarray]], ...] = (
        (log, lambda a, b, t: np.exp(-a * b * t)),
        (flat, lambda a, b, t: np.exp(-(a + b) * t)),
        (log, lambda a, b, t: a / b * t / (1.0 + t)),
    )
    space, curve = kinds[seed % 3]
    surrogate = fitted(space, 60, curve, times, seed)
    truth = [float(space.priors[name].quantile(rng.uniform(0.25, 0.75))) for name in space.names]
    data = curve(*truth, times) + 0.02 * rng.standard_normal(len(times))
    problem = uq.Calibration(
        surrogate, xr.DataArray(data, dims="t", coords={"t": times}, name="y"), uq.GaussianNoise(sd=0.02)
    )
    chains = [exact_draws(problem, CHAINS * DRAWS, rng)]
    return judged(posterior_of(problem, chains[0], seed))


def bimodal_problem(seed: int) -> uq.Calibration:
    """Return data that two values of the first parameter fit alike."""
    rng = np.random.default_rng([seed, 10])
    space = uq.ParameterSpace(a=uq.Uniform(-1.0, 1.0), b=uq.Uniform(0.5, 1.5))
    times = np.linspace(0.1, 2.0, 10)
    surrogate = fitted(space, 60, lambda a, b, t: a**2 * t + b, times, seed)
    truth = rng.uniform(0.4, 0.8), rng.uniform(0.7, 1.3)
    data = truth[0] ** 2 * times + truth[1] + 0.03 * rng.standard_normal(len(times))
    values = xr.DataArray(data, dims="t", coords={"t": times}, name="y")
    return uq.Calibration(surrogate, values, uq.GaussianNoise(sd=0.03))


def bimodal(seed: int) -> Judged:
    """Judge chains each of which stays in the mode of its start: exact draws within that mode."""
    problem = bimodal_problem(seed)
    rng = np.random.default_rng([seed, 11])
    starts = starting_points(problem, 64, np.random.default_rng([seed, 1]))
    theta = exact_draws(problem, 20_000, rng)
    chains = []
    for _ in range(CHAINS):
        side = starts["a"][rng.integers(64)] > 0
        chains.append(rng.choice(np.flatnonzero((theta["a"] > 0) == side), DRAWS))
    picked = np.concatenate(chains)
    return judged(posterior_of(problem, {name: values[picked] for name, values in theta.items()}, seed))


def prior_wider_than_box(seed: int) -> Judged:
    """Ask for a prior that reaches beyond what was simulated: refused, and warned of when it is insisted on."""
    rng = np.random.default_rng([seed, 12])
    times = np.linspace(0.1, 4.0, 12)
    surrogate = fitted(SPACES[0], 15, _one, times, seed)
    wide = uq.ParameterSpace(rate=uq.Uniform(0.05, rng.uniform(2.5, 4.0)))
    data = _one(np.array(rng.uniform(0.4, 1.8)), times) + 0.05 * rng.standard_normal(len(times))
    values = xr.DataArray(data, dims="t", coords={"t": times}, name="y")
    noise = uq.GaussianNoise(sd=0.05)
    try:
        uq.Calibration(surrogate, values, noise, space=wide)
    except uq.errors.ExtrapolationError:
        problem = uq.Calibration(surrogate, values, noise, space=wide, outside="extrapolate")
        return judged(posterior_of(problem, exact_draws(problem, CHAINS * DRAWS, rng), seed))
    return Judged(("not refused",))


def five_runs(seed: int) -> Judged:
    """Judge a surrogate of five runs of a curve that turns more often than they can show, with little noise."""
    rng = np.random.default_rng([seed, 13])
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0))
    times = np.linspace(0.0, 1.0, 10)

    def curve(a: np.ndarray, t: np.ndarray) -> np.ndarray:
        return np.sin(7.0 * a + 2.0 * t) + a * t

    surrogate = fitted(space, 5, curve, times, seed)
    data = curve(np.array(rng.uniform(0.1, 0.9)), times) + 0.02 * rng.standard_normal(len(times))
    values = xr.DataArray(data, dims="t", coords={"t": times}, name="y")
    problem = uq.Calibration(surrogate, values, uq.GaussianNoise(sd=0.02))
    return judged(posterior_of(problem, exact_draws(problem, CHAINS * DRAWS, rng), seed))


def aborted_chain(seed: int) -> Judged:
    """Judge a right problem whose last chain broke off: the rest of it is NaN, or all chains were cut short."""
    problem, rng = clean_problem(seed), np.random.default_rng([seed, 14])
    theta = exact_draws(problem, CHAINS * DRAWS, rng)
    if seed % 2:
        return judged(posterior_of(problem, theta, seed, draws=2 * DRAWS))
    for values in theta.values():
        values[-int(rng.integers(1, DRAWS)) :] = np.nan
    try:
        return judged(posterior_of(problem, theta, seed))
    except uq.errors.ConformanceError as error:  # draws that are not finite never become a posterior
        return Judged(("finite draws",) if "not finite" in str(error) else ())


def one_chain(seed: int) -> Judged:
    """Judge a right problem of which there is one chain."""
    problem = clean_problem(seed)
    theta = exact_draws(problem, 2 * DRAWS, np.random.default_rng([seed, 15]))
    return judged(posterior_of(problem, theta, seed, chains=1))


def wrong_units(seed: int) -> Judged:
    """Judge measurements in a unit a thousand times smaller, with the draws of the right ones."""
    problem, rng = clean_problem(seed), np.random.default_rng([seed, 17])
    other = problem.with_values(1000.0 * problem.observations.value)
    return judged(posterior_of(other, exact_draws(problem, CHAINS * DRAWS, rng), seed))


def refuted_noise_prior(seed: int) -> Judged:
    """Judge a noise prior whose scale is a seventh of the residuals' sd."""
    rng = np.random.default_rng([seed, 18])
    times = np.linspace(0.1, 4.0, int(rng.choice([15, 40])))
    surrogate = fitted(SPACES[0], 15, _one, times, seed)
    data = _one(np.array(rng.uniform(0.4, 1.8)), times) + 0.14 * rng.standard_normal(len(times))
    values = xr.DataArray(data, dims="t", coords={"t": times}, name="y")
    problem = uq.Calibration(surrogate, values, uq.GaussianNoise(sd=uq.HalfNormal(0.02)))
    return judged(posterior_of(problem, exact_draws(problem, CHAINS * DRAWS, rng), seed))


def stuck_chain(seed: int) -> Judged:
    """Judge a right problem of which one chain stayed at its start, a prior draw."""
    problem, rng = clean_problem(seed), np.random.default_rng([seed, 19])
    theta = exact_draws(problem, CHAINS * DRAWS, rng)
    for name, values in problem.prior_draws(1, seed).items():
        values = values[0] + 0.1 * (theta[name][-DRAWS:] - theta[name].mean())
        low, high = problem.limits(name)
        theta[name][-DRAWS:] = np.clip(values, low + 1e-9, high - 1e-9)
    return judged(posterior_of(problem, theta, seed))


def funnel_problem(seed: int) -> uq.Calibration:
    """Return a funnel: as many unknown levels as measurements, with a noise that is hardly known (Neal 2003).

    The surrogate is given, not fitted: each output is its level, with a tiny error that is constant over the box.
    """
    rng = np.random.default_rng([seed, 16])
    d, half_width, error = 6, 12.0, 1e-3
    names = tuple(f"level_{i}" for i in range(d))
    space = uq.ParameterSpace(**{name: uq.Normal(0.0, 3.0) for name in names})
    process = ScoreProcess(
        kernel=uq.Matern52(),
        x=np.full((1, d), 1e12),
        y=np.zeros((1, d)),
        ell=np.full((1, d, d), 1e7),
        variance=np.full((1, d), error**2),
        nugget=np.zeros((1, d)),
        jitter=np.zeros((1, d)),
        beta=np.column_stack([np.full(d, -half_width), 2.0 * half_width * np.eye(d)])[None],
        target=np.zeros((1, d, 1)),
        inverse_factor=np.full((1, d, 1, 1), 1.0 / error),
        trend_factor=np.zeros((1, d, 1, d + 1)),
        trend_root=np.zeros((1, d, d + 1, d + 1)),
        log_weights=np.zeros(1),
    )
    box = uq.Box(names, (-half_width,) * d, (half_width,) * d, ("identity",) * d, ((False, False),) * d)
    times = np.arange(float(d))
    output = OutputBasis("y", Layout(("t",), {"t": times}), np.zeros(d), np.eye(d), np.zeros((d, 0)), np.zeros(d))
    surrogate = GaussianProcessSurrogate(box, process, (output,), {"space": space.to_json()})
    values = xr.DataArray(rng.standard_normal(d), dims="t", coords={"t": times}, name="y")
    return uq.Calibration(surrogate, values, uq.GaussianNoise(sd=uq.LogNormal(0.3, 1.5)))


def funnel(seed: int) -> Judged:
    """Sample a funnel with the default settings."""
    return judged(funnel_problem(seed).sample(uq.NUTS(draws=500, tune=500), rng=seed))


# What each raises: any one of the names counts as caught.
PATHOLOGIES: dict[str, tuple[Callable[[int], Judged], tuple[str, ...]]] = {
    "funnel": (funnel, ("divergences", "energy")),
    "bimodal": (bimodal, ("R-hat", "other modes")),
    "unidentified pair": (unidentified_pair, ("confounded",)),
    "prior wider than the box": (prior_wider_than_box, ("prior mass cut",)),
    "surrogate of five runs": (five_runs, ("surrogate error", "surrogate validation")),
    "aborted chain": (aborted_chain, ("finite draws",)),
    "one chain": (one_chain, ("R-hat",)),
    "stuck chain": (stuck_chain, ("R-hat", "other modes")),
    "wrong units": (wrong_units, ("prior predictions",)),
    "refuted noise prior": (refuted_noise_prior, ("prior against data",)),
}

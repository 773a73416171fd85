"""Posteriors of one or two parameters by quadrature: draws without a sampler."""

import numpy as np
import xarray as xr

import uqms as uq
from uqms.calibration.judging import judge
from uqms.calibration.posterior import Posterior
from uqms.calibration.verdict import Sampled

CHAINS = 4


def grid_of(problem: uq.Calibration, size: int) -> dict[str, np.ndarray]:
    """Return the middles of the cells of a grid over the design box, flattened."""
    middles = (np.arange(size) + 0.5) / size
    axes = []
    for name in problem.parameters:
        low, high = problem.limits(name)
        axes.append(low + (high - low) * middles)
    return {
        name: axis.ravel() for name, axis in zip(problem.parameters, np.meshgrid(*axes, indexing="ij"), strict=True)
    }


def log_prior(problem: uq.Calibration, grid: dict[str, np.ndarray]) -> np.ndarray:
    """Return the log-density of the prior, up to a constant."""
    return problem.space.log_density(grid)


def weights_of(log_density: np.ndarray) -> np.ndarray:
    """Return weights that sum to one."""
    weights = np.exp(log_density - log_density.max())
    return weights / weights.sum()


def moments(grid: dict[str, np.ndarray], weights: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return mean and sd by parameter."""
    out = {}
    for name, values in grid.items():
        mean = float(weights @ values)
        out[name] = (mean, float(np.sqrt(weights @ (values - mean) ** 2)))
    return out


def posterior_of(problem: uq.Calibration, theta: dict[str, np.ndarray], r_hat: float = 1.0) -> Posterior:
    """Return the posterior with these independent draws."""
    count = len(next(iter(theta.values())))
    shape = (CHAINS, count // CHAINS)
    draws = {name: values[: shape[0] * shape[1]] for name, values in theta.items()}
    h = np.zeros(shape[0] * shape[1], dtype=np.int64)
    one = dict.fromkeys(theta, r_hat)
    ess = dict.fromkeys(theta, float(count))
    verdict, share = judge(problem, Sampled(draws, h, shape, shape, one, ess, divergences=0))
    data = xr.Dataset({name: (("chain", "draw"), values.reshape(shape)) for name, values in draws.items()})
    return Posterior(xr.DataTree.from_dict({"posterior": data}), problem, verdict, share)


def sampled(problem: uq.Calibration, count: int, seed: int, size: int = 200) -> Posterior:
    """Return a posterior of draws from a grid, each spread over its cell."""
    grid = grid_of(problem, size)
    rng = np.random.default_rng(seed)
    weights = weights_of(problem.log_likelihood(grid) + log_prior(problem, grid))
    cells = rng.choice(len(weights), size=count, p=weights)
    theta = {}
    for name in problem.parameters:
        low, high = problem.limits(name)
        theta[name] = grid[name][cells] + (high - low) / size * (rng.random(count) - 0.5)
    return posterior_of(problem, theta)

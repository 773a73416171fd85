"""Linear problems with exact posteriors, and posteriors around draws that are given, without a sampler."""

import numpy as np
import xarray as xr

import uqms as uq
from uqms.calibration.posterior import build_posterior
from uqms.parameters import Box
from uqms.surrogates import GaussianProcessSurrogate, Layout, Matern52
from uqms.surrogates.outputs import OutputBasis
from uqms.surrogates.process import ScoreProcess


def linear_problem(
    jacobian: np.ndarray, data: np.ndarray, sd: float, *, error: float = 1e-6, half_width: float = 6.0
) -> uq.Calibration:
    """Return data (m,) = jacobian (m, d) @ theta + noise, theta ~ N(0, 1); every output has an error of its own.

    The one run lies far away, and length scales are long: the error is constant over the box, with a sd of `error`.
    """
    m, d = jacobian.shape
    names = tuple("abcdefgh"[:d])
    width = 2.0 * half_width
    beta = np.column_stack([-0.5 * width * jacobian.sum(axis=1), width * jacobian])[None]
    process = ScoreProcess(
        kernel=Matern52(),
        x=np.full((1, d), 1e12),
        y=np.zeros((1, m)),
        ell=np.full((1, m, d), 1e7),
        variance=np.full((1, m), error**2),
        nugget=np.zeros((1, m)),
        jitter=np.zeros((1, m)),
        beta=beta,
        target=np.zeros((1, m, 1)),
        inverse_factor=np.full((1, m, 1, 1), 1.0 / error),
        trend_factor=np.zeros((1, m, 1, d + 1)),
        trend_root=np.zeros((1, m, d + 1, d + 1)),
        log_weights=np.zeros(1),
    )
    box = Box(names, (-half_width,) * d, (half_width,) * d, ("identity",) * d, ((False, False),) * d)
    layout = Layout(("t",), {"t": np.arange(float(m))})
    output = OutputBasis("y", layout, np.zeros(m), np.eye(m), np.zeros((m, 0)), np.zeros(m))
    space = uq.ParameterSpace(**{name: uq.Normal(0.0, 1.0) for name in names})
    surrogate = GaussianProcessSurrogate(box, process, (output,), {"space": space.to_json()})
    values = xr.DataArray(data, dims="t", coords={"t": np.arange(float(m))}, name="y")
    return uq.Calibration(surrogate, values, uq.GaussianNoise(sd=sd))


def exact_draws(jacobian: np.ndarray, data: np.ndarray, sd: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return draws (n, d) from the posterior of `linear_problem`."""
    precision = jacobian.T @ jacobian / sd**2 + np.eye(jacobian.shape[1])
    mean = np.linalg.solve(precision, jacobian.T @ data / sd**2)
    root = np.linalg.cholesky(np.linalg.inv(precision))
    return mean + rng.standard_normal((n, len(mean))) @ root.T


def given_posterior(
    problem: uq.Calibration, theta: np.ndarray, chains: int = 4, stats: xr.Dataset | None = None, **options: object
) -> uq.Posterior:
    """Return the posterior around draws (chains * draws, p) of everything inferred, in the problem's order."""
    dims = ("chain", "draw")
    shape = (chains, len(theta) // chains)
    columns = zip(problem.priors, theta.T, strict=True)
    data = xr.Dataset({name: (dims, column.reshape(shape)) for name, column in columns})
    data = data.assign_coords(chain=np.arange(chains), draw=np.arange(shape[1]))
    stats = xr.Dataset({"diverging": (dims, np.zeros(shape, dtype=bool))}) if stats is None else stats
    trace = xr.DataTree.from_dict({"posterior": data, "sample_stats": stats})
    sampler = uq.NUTS(draws=shape[1], chains=chains)
    return build_posterior(problem, sampler, trace, 1, **options)

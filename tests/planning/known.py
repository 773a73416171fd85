"""Surrogates with known hyperparameters: functions are drawn from the very process that the surrogate states."""

import numpy as np

import uqms as uq
from uqms._typing import Array
from uqms.surrogates import GaussianProcessSurrogate, Matern52
from uqms.surrogates.kernels import correlation
from uqms.surrogates.outputs import Layout, OutputBasis
from uqms.surrogates.process import average, condition
from uqms.surrogates.training import Hyperparameters

NAMES = "abcdefgh"


def space_of(d: int, conditions: int = 0) -> uq.ParameterSpace:
    names = NAMES[:d]
    known = {name: uq.Condition(0.0, 1.0) for name in names[d - conditions :]}
    return uq.ParameterSpace(**{name: uq.Uniform(0.0, 1.0) for name in names[: d - conditions]}, conditions=known)


def known_process(
    x: Array, y: Array, ells: list[float], conditions: int = 0, variance: float = 1.0
) -> GaussianProcessSurrogate:
    """Return the surrogate of outputs y0, y1, ... (n, q) with one hyperparameter draw for each length scale."""
    d, q = x.shape[1], y.shape[1]
    processes = [
        condition(
            Matern52(), x, y, 1, [Hyperparameters(np.full(d, ell), 0.0, 1e-12, 0.0, 1, False)] * q, [variance] * q
        )
        for ell in ells
    ]
    box = uq.Box(tuple(NAMES[:d]), (0.0,) * d, (1.0,) * d, ("identity",) * d, ((True, True),) * d)
    outputs = tuple(OutputBasis(f"y{j}", Layout(), np.zeros(1), np.eye(1), np.zeros((1, 0))) for j in range(q))
    return GaussianProcessSurrogate(box, average(processes), outputs, {"space": space_of(d, conditions).to_json()})


def drawn(rng: np.random.Generator, runs: int, points: int, d: int, ell: float, q: int) -> tuple[Array, Array]:
    """Return inputs (runs + points, d) and q functions there, drawn from the process."""
    x = rng.random((runs + points, d))
    kappa = correlation(Matern52(), x, x, np.full(d, ell))
    y = np.linalg.cholesky(kappa + 1e-10 * np.eye(len(x))) @ rng.standard_normal((len(x), q))
    return x, y

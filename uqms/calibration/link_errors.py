"""Errors of the links of a chain: what their first-order expansion loses, in nats, at values of the parameters.

The likelihood of a chain expands a member in the error of what it takes. The exact one is an integral over these
errors eta, standard normal in `SampledChain`, taken here by importance sampling around what they are given the data:

    p(z | theta) = E_q[ p(z | theta, eta) N(eta) / q(eta) ],      q = N(m, (WIDER)² V)

with m and V from a few Gauss-Newton steps. It is compared with the likelihood that expands them.

==========  ==========================================================================  =============
symbol      meaning                                                                     shape
==========  ==========================================================================  =============
eta         errors of the links                                                         (S, E)
G           derivative of the outputs by eta                                            (S, N, E)
m, V        mean and covariance of eta given the data, linearised                       (S, E), (S, E, E)
==========  ==========================================================================  =============
"""

import logging
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from uqms._typing import Array
from uqms.calibration.checks import Check
from uqms.calibration.context import evenly
from uqms.calibration.density import noise_sd
from uqms.calibration.expansion import LOSS_LIMIT, Loss, plausible
from uqms.errors import ConformanceError

if TYPE_CHECKING:
    from uqms.calibration.single import SingleCalibration

__all__ = ["check_links_expansion", "link_loss", "measured_link_loss", "with_sampled_links"]

_logger = logging.getLogger(__name__)
POINTS, DRAWS = 16, 256
STEPS, STEP = 3, 1e-2  # of Gauss-Newton; of a difference, in sds of an error
WIDER = 1.15


def with_sampled_links(problem: "SingleCalibration") -> "SingleCalibration | None":
    """Return the same problem with the errors of its chain's links sampled; None where they are not, or cannot be."""
    able = problem.samples_links and problem.data_model.closed_form and hasattr(problem.surrogate, "sampled")
    if not able or problem.observations.conditions_sd or problem.inside_of_a_whole or problem.members:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they were given of the problem itself
            return type(problem)(
                problem.surrogate, problem.observations, **(problem.settings | {"expansion": "outputs"})
            )
    except ConformanceError as error:
        _logger.info("errors of links are taken to first order: %s", error)
        return None


def check_links_expansion(problem: "SingleCalibration", theta: Mapping[str, Array]) -> Check | None:
    """Measure the loss at posterior draws; None where errors of links are sampled, or there are none."""
    sampled = with_sampled_links(problem)
    if sampled is None:
        return None
    picked = evenly(len(next(iter(theta.values()))), POINTS)
    loss = measured_link_loss(problem, sampled, {name: theta[name][picked] for name in problem.priors})
    message = f"of links: the mean error of the log-likelihood is {loss.nats:.2g} nats, limit {LOSS_LIMIT:g}"
    remedy = (
        "Calibrate again with expansion='outputs', which samples the errors of the chain's links, or run more points "
        "of the member that passes them on. Its error is too large for a first-order expansion of what takes it."
    )
    return Check("first-order expansion", "pass" if loss.nats < LOSS_LIMIT else "warn", loss.nats, message, remedy)


def link_loss(problem: "SingleCalibration", sampled: "SingleCalibration") -> Loss:
    """Return the loss at parameters that the data leave plausible; not finite where that cannot be judged."""
    theta = plausible(problem, POINTS)
    if theta is None:
        return Loss(np.inf, np.inf, np.inf)
    return measured_link_loss(problem, sampled, theta)


def measured_link_loss(problem: "SingleCalibration", sampled: "SingleCalibration", theta: Mapping[str, Array]) -> Loss:
    """Return the mean of |log p - log p1| over values (S,) of the parameters; the seed is fixed."""
    first = np.asarray(problem.log_likelihood({name: theta[name] for name in problem.priors}))
    exact, error = _integrated(sampled, {name: theta[name] for name in problem.priors})
    with np.errstate(all="ignore"):
        nats = float(np.mean(np.abs(exact - first)))
    if not np.isfinite(nats):
        return Loss(np.inf, np.inf, np.inf)
    return Loss(nats, float(np.sqrt(np.mean(error**2) / len(error))), float(np.mean(error)))


def _integrated(sampled: "SingleCalibration", theta: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return log p(z | theta), (S,), and its Monte Carlo standard error."""
    rng = np.random.default_rng(0)
    mean, root = _given_data(sampled, theta)
    S, E = mean.shape
    half = rng.standard_normal((DRAWS // 2, E))
    z = np.concatenate([half, -half])  # (D, E); what is odd in the errors cancels
    eta = mean[:, None] + WIDER * np.einsum("sij,dj->sdi", root, z)
    every = {name: np.repeat(values, DRAWS) for name, values in theta.items()}
    every |= {name: eta[..., i].ravel() for i, name in enumerate(sampled.link_errors)}
    values = np.asarray(sampled.log_likelihood(every)).reshape(S, DRAWS)
    log_q = -0.5 * np.sum(z**2, axis=1) - E * np.log(WIDER) - np.log(np.abs(np.linalg.det(root)))[:, None]
    logs = values - 0.5 * np.sum(eta**2, axis=2) - log_q
    top = logs.max(axis=1, keepdims=True)
    weights = np.exp(logs - top)
    total = weights.mean(axis=1)
    error = weights.std(axis=1) / total / np.sqrt(DRAWS)
    return top[:, 0] + np.log(total), error


def _given_data(sampled: "SingleCalibration", theta: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return mean (S, E) and a root (S, E, E) of the covariance of the errors given the data, linearised."""
    names, cells = sampled.link_errors, sampled.cells
    S, E = len(next(iter(theta.values()))), len(names)
    phi = sampled.noise.phi(theta, (S,))
    h = np.zeros(S, dtype=np.int64)
    eta, root = np.zeros((S, E)), np.tile(np.eye(E), (S, 1, 1))

    def outputs(eta: Array) -> tuple[Array, Array]:
        u = sampled.unit_inputs({**theta, **{name: eta[:, i] for i, name in enumerate(names)}})
        law = sampled.data_model.joint_error(u).given(h)
        return law.mean, law.factor

    for _ in range(STEPS):
        mean, factor = outputs(eta)
        value, slope = sampled.data_model.responded(mean)
        G = np.empty((*mean.shape, E))
        for i in range(E):
            shift = STEP * np.eye(E)[i]
            G[..., i] = (outputs(eta + shift)[0] - outputs(eta - shift)[0]) / (2.0 * STEP)
        sd = noise_sd(sampled.data_model, mean, phi)
        scaled = slope[..., None] * np.concatenate([G, factor], axis=2) / sd[..., None]
        r = (cells.cell_mean - value) / sd + np.einsum("sne,se->sn", scaled[..., :E], eta)
        own = np.eye(mean.shape[1]) + scaled[..., E:] @ np.swapaxes(scaled[..., E:], 1, 2)
        solved = np.linalg.solve(own, np.concatenate([scaled[..., :E], r[..., None]], axis=2))
        transposed = np.swapaxes(scaled[..., :E], 1, 2)
        precision = np.eye(E) + transposed @ solved[..., :E]
        root = np.linalg.cholesky(np.linalg.inv(precision))
        eta = np.linalg.solve(precision, transposed @ solved[..., E:])[..., 0]
    return eta, root

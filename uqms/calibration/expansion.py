"""The loss of the first-order expansion of transformed outputs, and of noise that grows with them, in nats.

Where the surrogate models the logarithm or logit of an output and noise is normal in the output's own unit, the closed
form expands the output to first order around the mean of the surrogate; where noise grows with the output, it takes its
variance there. How much that changes the log-likelihood is known from draws of the errors given the data, which are
normal under the expansion:

    p(z | theta) / p1(z | theta) = E1[ p(z | s) / p1(z | s) ],

and the ratio is next to one wherever the expansion can be used, so that a few draws tell.

The mean of a row is that of the inverse transform at the mean of s, without a shift of second order, f'' Var(s) / 2:
where the loss is near its limit, that makes it 1.3 to 3 times as large (`benchmarks/first_order.py`).

==========  =====================================================================  ======
symbol      meaning                                                                shape
==========  =====================================================================  ======
s           latent outputs, on the scale of the surrogate                          (S, N)
p, p1       densities, exact and to first order; E1 is over s given z under p1
==========  =====================================================================  ======
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from uqms._typing import Array, Ints
from uqms.calibration.checks import Check
from uqms.calibration.context import evenly
from uqms.calibration.density import expected_outputs
from uqms.calibration.likelihood import Cells
from uqms.calibration.markov import Chains, noise_of
from uqms.calibration.predict import conditional_moments, own_cells
from uqms.calibration.tempering import temper
from uqms.calibration.whitened import Whitened
from uqms.errors import InitError

if TYPE_CHECKING:
    from uqms.calibration.single import SingleCalibration

__all__ = ["LOSS_LIMIT", "Loss", "check_expansion", "log_ratios", "measured_loss", "pilot_loss", "plausible"]

LOSS_LIMIT = 0.05  # nats
PAIRS = 64  # of draws of the errors
POINTS = 32  # values of the parameters
PARTICLES, LEAST, MOST = 16, 64, 256  # of the pilot: for each dimension, and bounds
CORRELATION, MOVES = 0.5, 2


class Loss(NamedTuple):
    """The mean of |log p - log p1| over values of the parameters.

    Attributes
    ----------
    nats, error
        The mean and its Monte Carlo standard error.
    each
        Monte Carlo standard error of the loss at one value of the parameters, a mean.
    """

    nats: float
    error: float
    each: float

    @property
    def small(self) -> bool:
        """Whether the expansion can be used: below the limit, and known to be."""
        return bool(self.nats + 2.0 * self.error < LOSS_LIMIT and self.each < LOSS_LIMIT)


def log_ratios(problem: "SingleCalibration", theta: Mapping[str, Array], h: Ints) -> Iterator[tuple[Array, Array]]:
    """Yield log p - log p1 (s,) and its Monte Carlo standard error, a block of values of the parameters (S,) at a time.

    The draws of the errors have a fixed seed: the same problem has the same loss.
    """
    cells, noise, rng = problem.cells, noise_of(problem.data_model), np.random.default_rng(0)
    for rows, moments in conditional_moments(problem, theta, h, own_cells(cells)):
        now = {name: values[rows] for name, values in theta.items()}
        phi = problem.noise.phi(now, (len(moments.mean),))
        centre = expected_outputs(problem.data_model, problem.unit_inputs(now), phi, h[rows])
        value, slope = cells.responded(centre)
        at_mean = noise.at(phi, value)
        with np.errstate(all="ignore"):  # an expansion that is far off gives what is no number, and is not used
            pairs = []
            for s in moments.draws(PAIRS, rng):
                both = []
                for one in (s, 2.0 * moments.mean - s):  # what is odd in the errors cancels
                    exact, first = cells.responded(one)[0], value + slope * (one - centre)
                    chains = noise.at(phi, exact) if problem.noise.growth else at_mean
                    both.append(_log_density(chains, cells, exact) - _log_density(at_mean, cells, first))
                pairs.append(np.logaddexp(*both) - np.log(2.0))
            logs = np.stack(pairs)
            top = logs.max(axis=0)
            ratios = np.exp(logs - top)
            mean = ratios.mean(axis=0)
            yield top + np.log(mean), ratios.std(axis=0) / mean / np.sqrt(PAIRS)


def _log_density(chains: Chains, cells: Cells, outputs: Array) -> Array:
    """Return log p(cell means | outputs) (S,) without its constant, of outputs (S, N) in the noise's unit."""
    residual = chains.whiten((cells.cell_mean - outputs)[..., None])[..., 0]
    return np.asarray(-0.5 * (np.sum(residual**2, axis=1) + chains.log_determinant))


def measured_loss(problem: "SingleCalibration", theta: Mapping[str, Array], h: Ints) -> Loss:
    """Return the loss in the mean over values of the parameters and their hyperparameter draws, each (S,)."""
    ratios, errors = (np.concatenate(one) for one in zip(*log_ratios(problem, theta, h), strict=True))
    with np.errstate(all="ignore"):
        error = float(np.sqrt(np.mean(errors**2) / len(errors)))
    return Loss(float(np.mean(np.abs(ratios))), error, float(np.mean(errors)))


def plausible(problem: "SingleCalibration", points: int) -> dict[str, Array] | None:
    """Return parameters that the data leave plausible, of a short tempered run with a fixed seed; None if it fails."""
    rng, space = np.random.default_rng(0), Whitened(problem)
    count = int(np.clip(PARTICLES * (space.dimension + 1), LEAST, MOST))
    try:
        found = temper(space.log_likelihood, space.dimension, count, rng, correlation=CORRELATION, most_moves=MOVES)
    except (InitError, np.linalg.LinAlgError):
        return None
    return space.theta(found.z[:points])


def pilot_loss(problem: "SingleCalibration") -> Loss:
    """Return the loss at parameters that the data leave plausible, of a short tempered run with a fixed seed.

    It is not finite where that cannot be judged.
    """
    theta = plausible(problem, POINTS)
    if theta is None:
        return Loss(np.inf, np.inf, np.inf)
    values = np.concatenate(list(problem.log_likelihood_values(theta)), axis=1)
    below = np.cumsum(np.exp(values - np.logaddexp.reduce(values, axis=0)), axis=0)[:-1]
    h = (((np.arange(POINTS) + 0.5) / POINTS) > below).sum(axis=0)
    return measured_loss(problem, theta, h)


def check_expansion(problem: "SingleCalibration", theta: Mapping[str, Array], h: Ints) -> Check | None:
    """Measure the loss at posterior draws; None where nothing is expanded."""
    if not problem.data_model.closed_form or not problem.data_model.expanded:
        return None
    picked = evenly(len(h), POINTS)
    loss = measured_loss(problem, {name: values[picked] for name, values in theta.items()}, h[picked])
    message = f"the mean error of the log-likelihood is {loss.nats:.2g} nats, limit {LOSS_LIMIT:g}"
    remedy = (
        "Calibrate again with expansion='none', which samples the surrogate's error, or run more points near the "
        "posterior (uq.refine(posterior, n)). The surrogate's error is too large for the first-order expansion of "
        "outputs, or of the noise that grows with them."
    )
    return Check("first-order expansion", "pass" if loss.nats < LOSS_LIMIT else "warn", loss.nats, message, remedy)

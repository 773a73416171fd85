"""Outputs of subjects given the data where `subject_prediction` has no closed form through features.

Of the simulator itself the outputs of a subject follow from its parameters. With a surrogate whose errors are sampled
(noise that is not normal, detection limits) or that has a discrepancy, the outputs of all measured inputs and of those
asked for are jointly normal given the latents: a dense distribution for each draw.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np

from uqms._typing import Array, Ints
from uqms.calibration.density import row_terms, total
from uqms.calibration.likelihood import Cells
from uqms.calibration.population.subject_prediction import Asked, row_sums
from uqms.calibration.predict import Realised, Targets, conditional_moments
from uqms.errors import InputError
from uqms.parameters.functions import NumPyFunctions
from uqms.surrogates.outputs import Decoder, InputDecoder

if TYPE_CHECKING:
    from uqms.calibration.population.calibration import PopulationCalibration
    from uqms.calibration.population.subject import NewData

__all__ = ["Jointly", "Simulated"]

NUMBERS = 200_000_000  # of one draw's joint covariance


@final
@dataclass(frozen=True, eq=False)
class Simulated:
    """Posterior draws of a population with the simulator itself, which has no error; attributes as those of `Shared`.

    Attributes
    ----------
    w
        Nothing, (S, 0).
    """

    problem: "PopulationCalibration"
    theta: Mapping[str, Array]
    own: Mapping[str, Array]
    z: Array
    h: Ints
    w: Array

    def some(self, draws: Ints) -> "Simulated":
        """Return some of the draws."""
        theta, own = ({name: values[draws] for name, values in one.items()} for one in (self.theta, self.own))
        return replace(self, theta=theta, own=own, z=self.z[draws], h=self.h[draws], w=self.w[draws])

    def measured(self, cells: Cells, inputs: Ints, u: Array) -> None:
        """Return nothing: measurements say nothing of an error that is not there."""

    def means(self, u: Array, decoder: InputDecoder | Decoder) -> Array:
        """Return a latent output (S, n, P) at inputs (S, n, d)."""
        m = self.problem.surrogate.scores(u).mean[0]
        if isinstance(decoder, InputDecoder):  # each subject under its own regimen
            rows = decoder.at(u)
            return np.asarray(rows.offset[0] + row_sums(rows.basis[0], m))
        return np.asarray(decoder.offset + m @ decoder.basis.T)

    def given(self, asked: Asked, decoder: Any, targets: Targets, rng: np.random.Generator) -> tuple[Array, ...]:
        """Return mean, variance and draws (S, n, P) of a latent output at the inputs asked for."""
        mean = self.means(asked.u, decoder)
        return mean, np.zeros_like(mean), mean

    def log_density(self, data: "NewData", u: Array) -> Array:
        """Return log p(measurements of a new subject) (S,) at inputs u (S, n, d)."""
        cells, noise = data.cells, self.problem.data.noise
        m = self.problem.surrogate.scores(u).mean[0]
        y = cells.offset + np.einsum("snq,nq->sn", m[:, cells.experiment], cells.basis)
        phi = noise.phi(self.own, (len(u),))
        with np.errstate(all="ignore"):
            return np.asarray(total(row_terms(cells, noise, y, phi, cells.z, NumPyFunctions), 2))


@final
@dataclass(frozen=True, eq=False)
class Jointly:
    """Posterior draws of a population, whose outputs at measured and other inputs have a dense distribution.

    Attributes
    ----------
    problem
        The calibration.
    own
        What the data see: shared quantities and noise (S,), individual parameters (S, U).
    theta, z
        Draws of everything in `priors`, each (S,), and standard normals (S, latents).
    h
        Draw of the surrogate's hyperparameters (S,).
    discrepancy, realisation
        What predictions hold, see `conditional_moments`.
    """

    problem: "PopulationCalibration"
    theta: Mapping[str, Array]
    own: Mapping[str, Array]
    z: Array
    h: Ints
    discrepancy: bool = True
    realisation: Realised = "same"

    def some(self, draws: Ints) -> "Jointly":
        """Return some of the draws."""
        theta, own = ({name: values[draws] for name, values in one.items()} for one in (self.theta, self.own))
        return replace(self, theta=theta, own=own, z=self.z[draws], h=self.h[draws])

    def measured(self, cells: Cells, inputs: Ints, u: Array) -> None:
        """Return nothing: all measurements are part of the joint distribution."""

    def means(self, u: Array, decoder: InputDecoder | Decoder) -> Array:
        """Return what the surrogate says of a latent output (S, n, P) at inputs (S, n, d), without its error."""
        at = np.arange(len(u))
        m = self.problem.surrogate.scores(u).mean[self.h, at]
        if isinstance(decoder, InputDecoder):
            decoder = Decoder(*(one[self.h if len(one) > 1 else 0, at] for one in decoder.at(u)))
            return np.asarray(decoder.offset + row_sums(decoder.basis, m))
        return np.asarray(decoder.offset + m @ decoder.basis.T)

    def given(self, asked: Asked, decoder: Any, targets: Targets, rng: np.random.Generator) -> tuple[Array, ...]:
        """Return mean, variance and joint draws (S, n, P) of a latent output at the inputs asked for.

        Raises
        ------
        InputError
            When the joint distribution of all points has too many numbers.
        """
        data = self.problem.data
        cells, n = data.cells, len(asked.inputs)
        points = len(cells.offset) + len(targets.offset)
        if points**2 > NUMBERS:
            raise InputError(
                f"predict: the joint distribution of {points} measured and predicted points is too large. Predict "
                "fewer subjects (subjects=) or fewer coordinates (coords=) at a time."
            )
        # An input that was measured is that of its unit, with all that is new with each input; others are new units.
        units = max((np.shape(values)[1] for values in self.own.values() if np.ndim(values) == 2), default=0)
        unit = np.where(asked.inputs >= 0, cells.unit[asked.inputs], units + np.arange(n))
        own = {
            name: np.concatenate([values, np.broadcast_to(asked.own[name], (len(self.h), n))], axis=1)
            if np.ndim(values) == 2
            else values
            for name, values in self.own.items()
        }
        wanted = replace(targets, unit=unit, observed=asked.inputs)
        eta = self.z[:, self.problem.layout.size :]
        S = len(self.h)
        mean, variance, drawn = (np.empty((S, len(targets.offset))) for _ in range(3))
        found = conditional_moments(data, own, self.h, wanted, eta, self.discrepancy, self.realisation)
        for rows, moments in found:
            mean[rows], variance[rows], drawn[rows] = moments.mean, moments.variance, moments.draw(rng)
        shape = (S, n, -1)
        return mean.reshape(shape), variance.reshape(shape), drawn.reshape(shape)

"""What calibration, prediction and sensitivity need of a surrogate; a user's own plugs in here."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from numpy.typing import ArrayLike

from uqms._typing import Array, RandomState
from uqms.parameters import Box
from uqms.surrogates.outputs import Decoder, InputDecoder, Layout
from uqms.surrogates.process import Scores

__all__ = ["FunctionDraws", "Surrogate"]


@runtime_checkable
class FunctionDraws(Protocol):
    """Draws of the whole function: calling them evaluates every draw at any inputs."""

    def __call__(self, u: Array) -> Array:
        """Return the scores (draws, k, q) at inputs `u` (k, d)."""
        ...


@runtime_checkable
class Surrogate(Protocol):
    """A random function from the unit cube of a design box to scores, and the linear map from scores to outputs.

    The error of a surrogate is one random function: the same input has one error, different inputs have correlated
    errors. That is why `scores` returns covariances *between inputs* and not variances:

        y(u) = offset(u) + basis(u) [mean(u) + error(u)] + truncation(u) omega

    Mostly the errors of different scores are independent, and offset, basis and truncation are the same over the box.
    Where errors are correlated between scores, `scores` returns the joint covariance, see `Scores`; where offset, basis
    or truncation depend on the input, `decode` returns an `InputDecoder`.

    `uqms.testing.check_surrogate` tells whether a surrogate of your own does all of this. A model that knows its
    variance at each input but no covariance between inputs returns NaN there: it serves a calibration of one experiment
    and is refused for several. Zeros would say that errors at neighbouring inputs are independent.

    Two attributes may be there beside: ``differentiable = False`` says that `scores_reverse` cannot be asked for, so
    that samplers with gradients are refused; ``exact = True``, that this is the simulator itself, without an error and
    also right outside of `domain`.
    """

    @property
    def domain(self) -> Box:
        """The design box, with the map from the inputs' own units to the unit cube."""
        ...

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """Dims, coordinates and unit of every output."""
        ...

    def scores(self, u: Array) -> Scores:
        """Return mean (H, ..., k, q) and covariance (H, ..., q, k, k) or (H, ..., k, q, k, q) at `u` (..., k, d)."""
        ...

    def scores_reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return the derivative (k, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar) at `u` (k, d)."""
        ...

    def decode(self, output: str, coords: Mapping[str, ArrayLike] | None = None) -> Decoder | InputDecoder:
        """Return the rows of an output at pointwise coordinates (all simulated ones when None)."""
        ...

    def functions(self, n: int, rng: RandomState) -> FunctionDraws:
        """Return n draws of the whole function.

        Where hyperparameter draws have rows of their own (an `InputDecoder`), the draws say which each belongs to: an
        attribute `hyperparameters` (n,).
        """
        ...

"""What calibration, prediction and sensitivity need of a surrogate; a user's own plugs in here."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from uqms._typing import Array, RandomState
from uqms.errors import ConformanceError
from uqms.parameters import Box
from uqms.surrogates.outputs import Decoder, InputDecoder, Layout
from uqms.surrogates.process import Scores

__all__ = ["FunctionDraws", "Surrogate", "check_fixed_rows", "depends_on_input", "fixed_rows", "inputs_of"]


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


def depends_on_input(surrogate: Surrogate, output: str) -> bool:
    """Return whether rows of an output depend on the input; the first coordinate tells."""
    if hasattr(surrogate, "sparse_decode"):  # a matrix of numbers, whatever the input
        return False
    layout = surrogate.layouts[output]
    first = {dim: np.asarray(layout.coords[dim], dtype=np.float64)[:1] for dim in layout.dims}
    return isinstance(surrogate.decode(output, first or None), InputDecoder)


def inputs_of(surrogate: Surrogate, output: str) -> tuple[str, ...]:
    """Return the inputs that an output depends on: all, unless the surrogate says otherwise, as a chain does."""
    found: tuple[str, ...] = getattr(surrogate, "inputs_of", lambda _: surrogate.domain.names)(output)
    return found


def fixed_rows(surrogate: Surrogate, output: str, coords: Mapping[str, ArrayLike] | None = None) -> Decoder:
    """Return the rows of an output of a surrogate whose rows are the same over the box, see `check_fixed_rows`.

    Raises
    ------
    ConformanceError
        When they depend on the input.
    """
    decoder = surrogate.decode(output, coords)
    if isinstance(decoder, InputDecoder):
        raise ConformanceError(f"The rows of {output!r} of this {type(surrogate).__name__} depend on the input.")
    return decoder


def check_fixed_rows(surrogate: Surrogate, asked: str, *, independent: bool = True) -> None:
    """Refuse a surrogate whose rows depend on the input, or (`independent`) scores are correlated, before work starts.

    Raises
    ------
    ConformanceError
        With what to ask instead.
    """
    names = [name for name in surrogate.layouts if depends_on_input(surrogate, name)]
    exact = getattr(surrogate, "exact", False)
    correlated = independent and not exact and surrogate.scores(np.full((1, surrogate.domain.d), 0.5)).correlated
    if names or correlated:
        what = f"rows of {names} depend on the input" if names else "scores have errors that are correlated"
        raise ConformanceError(
            f"{asked} takes independent scores and rows that are the same over the box, but this "
            f"{type(surrogate).__name__}'s {what}. Calibration, prediction and uqms.propagate take it; fit a "
            "uqms.GaussianProcess to runs of it for the rest."
        )

"""A cheap physics model as the mean of a surrogate: what runs teach is its scale and what it leaves out.

==========  =====================================================================  =============
symbol      meaning                                                                shape
==========  =====================================================================  =============
c           the cheap model's outputs, in the basis of the simulator's: its scores  (k, q)
rho         scale factor of each score, a coefficient of the trend                  (q,)
==========  =====================================================================  =============

Score j is beta + rho_j c_j(u) + a Gaussian process. To what predicts, c_j is one more input, before the others, of
which the trend is linear and on which the kernel does not depend (its length scale is `NEVER`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from uqms._teaching import taught
from uqms._typing import Array
from uqms.errors import InputError
from uqms.parameters import Box
from uqms.surrogates.outputs import OutputBasis
from uqms.surrogates.process import ScoreProcess

__all__ = ["Physics", "lifted"]

Inputs = Mapping[str, Array]


@taught
@final
@dataclass(frozen=True, eq=False)
class Physics:
    """A cheap model of the same outputs, as the mean of a surrogate.

    Use it when a formula, a coarse mesh or a lumped model follows the simulator's trends: the runs then have to teach
    the difference only. Do not use it for a model that takes seconds: it is called wherever the surrogate predicts.

    Parameters
    ----------
    function
        Takes a mapping of input name to values (k,) in the inputs' own units; returns a mapping of every output's name
        to its values, of shape (k,) or (k, ...) with the output's dims, in its own unit. It is called with many
        points at once.
    derivative
        Takes the same; returns for every output a mapping of input name to the derivative of the output by that input,
        of the output's shape; inputs that are left out have derivative zero. Gradients and NUTS need it.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> cheap = Physics(lambda at: {"y": at["k"] ** 2}, derivative=lambda at: {"y": {"k": 2.0 * at["k"]}})
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 8, rng=1)
    >>> k = design["k"].values
    >>> surrogate = uq.GaussianProcess(mean=cheap).fit(uq.ensemble.build(design, {"y": 3.0 * k**2 + 0.1 * np.sin(k)}))
    >>> bool(abs(surrogate.predict({"k": 1.0}).mean["y"].item() - 3.0 - 0.1 * np.sin(1.0)) < 1e-2)
    True
    """

    function: Callable[[Inputs], Mapping[str, ArrayLike]]
    derivative: Callable[[Inputs], Mapping[str, Mapping[str, ArrayLike]]] | None = None

    def __post_init__(self) -> None:
        for name, one in (("function", self.function), ("derivative", self.derivative)):
            if not callable(one) and (one is not None or name == "function"):
                raise InputError(f"Physics: {name} is {one!r}; give a function of a mapping of input name to values.")

    def scores(self, box: Box, bases: Sequence[OutputBasis], u: Float[np.ndarray, "k d"]) -> Float[np.ndarray, "k q"]:
        """Return c at `u`.

        Raises
        ------
        InputError
            When the function does not return every output, finite and of its shape.
        """
        values = self.function(_named(box, u))
        if not isinstance(values, Mapping):
            raise InputError(f"The cheap model gives a {type(values).__name__}; give a mapping of output to values.")
        columns = []
        for basis in bases:
            if basis.name not in values:
                raise InputError(
                    f"The cheap model gives {sorted(values)}, not {basis.name!r}; it must give every output."
                )
            columns.append(_project(basis, _checked("gives", basis, values[basis.name], len(u)) - basis.offset))
        return np.hstack(columns)

    def pull_back(
        self, box: Box, bases: Sequence[OutputBasis], u: Float[np.ndarray, "k d"], bar: Float[np.ndarray, "k q"]
    ) -> Float[np.ndarray, "k d"]:
        """Return the derivative of sum(c * bar) by u.

        Raises
        ------
        InputError
            When there is no derivative, or it is not finite or of another shape.
        """
        if self.derivative is None:
            raise InputError(
                "The cheap model has no derivative, which gradients and NUTS need: give Physics(function, derivative=)."
            )
        slopes = self.derivative(_named(box, u))
        names = [basis.name for basis in bases]
        if not isinstance(slopes, Mapping) or set(slopes) != set(names):
            given = sorted(slopes) if isinstance(slopes, Mapping) else type(slopes).__name__
            raise InputError(
                f"The cheap model's derivative gives {given}; give a mapping for each of the outputs {names}, an empty "
                "one where it does not depend on any input."
            )
        out, at = np.zeros_like(u), 0
        for basis in bases:
            width = basis.basis.shape[1]
            for name, values in slopes[basis.name].items():
                if name not in box.names:
                    raise InputError(f"The cheap model has a derivative by {name!r}; the inputs are {list(box.names)}.")
                slope = _project(basis, _checked(f"has a derivative by {name!r} of", basis, values, len(u)))
                out[:, box.names.index(name)] += np.sum(slope * bar[:, at : at + width], axis=1)
            at += width
        return np.asarray(out / box.unit_gradient(np.asarray(box.from_unit(u))))


def _named(box: Box, u: Array) -> Inputs:
    return dict(zip(box.names, np.asarray(box.from_unit(u)).T.copy(), strict=True))


def _checked(what: str, basis: OutputBasis, values: ArrayLike, k: int) -> Array:
    array = np.asarray(values, dtype=np.float64)
    wanted = (k, *basis.layout.shape)
    if array.shape != wanted or not np.isfinite(array).all():
        raise InputError(
            f"The cheap model {what} {basis.name!r} with shape {array.shape} at {k} points; give {wanted}, all finite."
        )
    return array.reshape(k, -1)


def _project(basis: OutputBasis, values: Array) -> Array:
    """Return scores of values (k, m), by least squares: the columns of the basis are orthogonal."""
    return np.asarray(values @ basis.basis / np.maximum(np.sum(basis.basis**2, axis=0), 1e-300))


def lifted(process: ScoreProcess, j: int) -> ScoreProcess:
    """Return the process of score j as one of the inputs (c_j, u)."""
    n, d = process.x.shape
    one = process.select(np.array([j]))
    ell = np.stack([process.kernel.lifted(own, d) for own in one.ell[:, 0]])[:, None]
    return replace(one, x=np.column_stack([np.zeros(n), one.x]), ell=ell)

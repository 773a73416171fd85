"""What a surrogate says at given points: mean, sd, covariance and draws of every output, in the output's own unit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import xarray as xr

from uqms._typing import Array, Bools, RandomState, as_generator
from uqms.errors import InputError
from uqms.surrogates.process import Scores
from uqms.surrogates.protocol import Surrogate

__all__ = ["Prediction", "mix"]


def mix(scores: Scores) -> tuple[Array, Array]:
    """Return mean (..., k, q) and variance (..., q, k) over the hyperparameter draws of diagonal scores."""
    weights = np.exp(scores.log_weights - np.logaddexp.reduce(scores.log_weights))
    mean = np.tensordot(weights, scores.mean, 1)
    spread = np.moveaxis((scores.mean - mean) ** 2, -1, -2)
    return mean, np.tensordot(weights, scores.covariance + spread, 1)


@final
@dataclass(frozen=True, eq=False)
class Prediction:
    """Prediction of every output at k points, jointly.

    The uncertainty is that of the surrogate: few runs, and what the scores leave out of a curve. It holds no
    measurement noise.

    Attributes
    ----------
    u
        The points in the unit cube of the design box, shape (k, d).
    inside
        Which points lie in the design box, shape (k,).
    """

    surrogate: Surrogate
    u: Array
    scores: Scores
    inside: Bools

    def _labelled(self, name: str, values: Array, lead: tuple[str, ...] = ("point",)) -> xr.DataArray:
        layout = self.surrogate.layouts[name]
        shape = values.shape[: len(lead)] + layout.shape
        return xr.DataArray(
            values.reshape(shape), dims=(*lead, *layout.dims), coords=dict(layout.coords), attrs={"unit": layout.unit}
        )

    @property
    def mean(self) -> xr.Dataset:
        """Mean of every output, dims ("point", ...)."""
        mean, _ = mix(self.scores)
        out = {}
        for name in self.surrogate.layouts:
            offset, basis, _ = self.surrogate.decode(name)
            out[name] = self._labelled(name, offset + mean @ basis.T)
        return xr.Dataset(out)

    @property
    def variance(self) -> xr.Dataset:
        """Variance of every output: the scores' and the truncation's, dims ("point", ...)."""
        _, variance = mix(self.scores)
        out = {}
        for name in self.surrogate.layouts:
            _, basis, truncation = self.surrogate.decode(name)
            values = variance.T @ (basis**2).T + np.sum(truncation**2, axis=1)
            out[name] = self._labelled(name, values).assign_attrs(unit="")
        return xr.Dataset(out)

    @property
    def sd(self) -> xr.Dataset:
        """Standard deviation of every output, dims ("point", ...)."""
        variance = self.variance
        out = {}
        for name, layout in self.surrogate.layouts.items():
            out[name] = variance[name].copy(data=np.sqrt(variance[name].values)).assign_attrs(unit=layout.unit)
        return xr.Dataset(out)

    def covariance(self, output: str) -> Array:
        """Return the joint covariance of an output over points and coordinates, shape (k, m, k, m).

        Points share their scores' errors as their inputs say; the truncation is shared within a point only.
        """
        decoder = self.surrogate.decode(output)
        joint = self.surrogate.scores(self.u)
        weights = np.exp(joint.log_weights - np.logaddexp.reduce(joint.log_weights))
        mean = np.tensordot(weights, joint.mean, 1)
        off = joint.mean - mean
        total = np.tensordot(weights, joint.covariance, 1)
        k = len(self.u)
        out = np.einsum("mj,jab,nj->ambn", decoder.basis, total, decoder.basis, optimize=True)
        if len(weights) > 1:
            shifts = off @ decoder.basis.T
            out += np.einsum("h,ham,hbn->ambn", weights, shifts, shifts, optimize=True)
        index = np.arange(k)
        out[index, :, index, :] += decoder.truncation @ decoder.truncation.T
        return np.asarray(out)

    def draws(self, n: int, rng: RandomState) -> xr.Dataset:
        """Return n joint draws of every output at the points, dims ("draw", "point", ...).

        Raises
        ------
        InputError
            When n is below 1.
        """
        if n < 1:
            raise InputError(f"draws: n is {n!r}; ask for at least one draw.")
        generator = as_generator(rng)
        scores = self.surrogate.functions(n, generator)(self.u)
        out: dict[str, xr.DataArray] = {}
        latent = None
        for name in self.surrogate.layouts:
            decoder = self.surrogate.decode(name)
            if latent is None:
                latent = generator.standard_normal((n, len(self.u), decoder.truncation.shape[1]))
            values = decoder.offset + scores @ decoder.basis.T + latent @ decoder.truncation.T
            out[name] = self._labelled(name, values, ("draw", "point"))
        return xr.Dataset(out)


def _numbers(name: str, values: object) -> Array:
    try:
        numbers = np.atleast_1d(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(f"Point input {name!r} is {values!r}; give real numbers.") from error
    if not np.isfinite(numbers).all():
        raise InputError(f"Point input {name!r} holds {numbers[~np.isfinite(numbers)][0]}; give finite numbers.")
    return numbers


def named_points(names: tuple[str, ...], points: Mapping[str, object] | xr.Dataset) -> Array:
    """Return points (k, d) in the order of `names` from a mapping or a Dataset; scalars are repeated.

    Raises
    ------
    InputError
        When a name is missing or unknown, or lengths differ.
    """
    if not isinstance(points, Mapping):
        raise InputError(f"Points are a {type(points).__name__}; give a mapping of input name to numbers.")
    given = {str(name): _numbers(str(name), values) for name, values in points.items() if name in names}
    missing, unknown = [name for name in names if name not in given], sorted({str(n) for n in points} - set(names))
    if missing or (unknown and not isinstance(points, xr.Dataset)):
        raise InputError(f"Points need {list(names)}; missing {missing}, unknown {unknown}.")
    sizes = {given[name].shape for name in names} - {(1,)}
    if len(sizes) > 1 or any(len(size) != 1 for size in sizes):
        shapes = {name: given[name].shape for name in names}
        raise InputError(f"Points are one-dimensional and of one length (or a single number), got shapes {shapes}.")
    count = sizes.pop()[0] if sizes else 1
    return np.column_stack([np.broadcast_to(given[name], count) for name in names])

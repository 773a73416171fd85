"""A surrogate as a model of named numbers: its mean at one point, and the derivative of the mean.

Notation: x (1, d) the point in its own units, u (1, d) in the unit cube; H hyperparameter draws.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike

from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array
from uqms.errors import ExtrapolationError, InputError
from uqms.parameters import Box
from uqms.surrogates.archive import Stored, write
from uqms.surrogates.outputs import Decoder, Layout, OutputBasis, decoded
from uqms.surrogates.prediction import Mixture, Prediction, mixture, named_points, predicted_at
from uqms.surrogates.process import Scores
from uqms.surrogates.protocol import Surrogate, fixed_rows
from uqms.surrogates.stored import FORMAT

__all__ = ["NamedSurrogate", "mean_at", "mean_reverse"]


@taught
class NamedSurrogate(ABC):
    """What surrogates on a design box with output bases have in common: names, decoding, predictions, files."""

    domain: Box
    bases: tuple[OutputBasis, ...]

    @abstractmethod
    def marginal_scores(self, u: Array) -> Scores:
        """Return mean (H, ..., k, q) and variance (H, ..., q, k) at `u` (..., k, d), for many unrelated inputs."""

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """Dims, coordinates and unit of every output."""
        return {basis.name: basis.layout for basis in self.bases}

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return self.domain.names

    @property
    def outputs(self) -> Mapping[str, tuple[str, ...]]:
        """Name of each output and its dims."""
        return {basis.name: basis.layout.dims for basis in self.bases}

    @property
    def coords(self) -> Mapping[str, Array]:
        """Coordinate values of every dim, shape (m,)."""
        return {dim: values for basis in self.bases for dim, values in basis.layout.coords.items()}

    def decode(self, output: str, coords: Mapping[str, ArrayLike] | None = None) -> Decoder:
        """Return the rows of an output at pointwise coordinates (all simulated ones when None).

        Raises
        ------
        InputError
            When there is no such output.
        """
        return decoded(self.bases, output, coords)

    @single_threaded
    def predict(self, points: Mapping[str, object] | xr.Dataset | pd.DataFrame) -> Prediction:
        """Predict every output at points given in the inputs' own units.

        Parameters
        ----------
        points
            Mapping (Dataset, pandas table) of input name to numbers of shape (k,); single numbers are repeated.

        Returns
        -------
        Prediction
            Mean, sd, covariance and draws; the uncertainty is the surrogate's, without measurement noise.

        Warns
        -----
        ExtrapolationWarning
            When a point lies outside of the design box.
        """
        return predicted_at(cast(Surrogate, self), points, self.marginal_scores)

    @single_threaded
    def evaluate(self, point: Mapping[str, float]) -> dict[str, Array]:
        """Return the mean of every output at one point, as a simulator would return its outputs.

        Use it to put the surrogate where a simulator is expected, such as behind UM-Bridge; `predict` also says how
        uncertain the mean is.

        Parameters
        ----------
        point
            One number for each input, in its own unit.

        Returns
        -------
        dict
            Output -> float64 array in the output's own unit, shaped by its dims.

        Raises
        ------
        InputError
            When a name is missing or unknown.
        ExtrapolationError
            When the point lies outside of the design box.
        """
        return mean_at(cast(Surrogate, self), point)

    @single_threaded
    def gradient(self, point: Mapping[str, float], sensitivity: Mapping[str, ArrayLike]) -> dict[str, float]:
        """Return the derivative of sum(outputs * sensitivity) of the mean by each input, at one point.

        Parameters
        ----------
        point
            One number for each input, in its own unit.
        sensitivity
            Output -> weights of its entries, shaped by its dims; outputs that are left out have weight 0.

        Returns
        -------
        dict
            Input -> derivative.

        Raises
        ------
        InputError
            When a name is missing or unknown, or weights have another shape than the output.
        ExtrapolationError
            When the point lies outside of the design box.
        """
        return mean_reverse(cast(Surrogate, self), point, sensitivity)

    @abstractmethod
    def stored(self) -> Stored:
        """Return what a file holds of it: a header of JSON and arrays.

        Raises
        ------
        InputError
            When there is code in it, such as a cheap model in Python as its mean.
        """

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the surrogate to one .npz file of arrays and JSON (no pickle); `load_surrogate` reads it.

        The file appears whole or not at all, and gives the same surrogate bit for bit.

        Parameters
        ----------
        path
            Where to write; the name is taken as it is.

        Raises
        ------
        InputError
            When there is code in it, such as a cheap model in Python as its mean.
        StorageError
            When the file cannot be written.
        """
        return write(FORMAT, self.stored(), path)


def mean_at(surrogate: Surrogate, point: Mapping[str, object]) -> dict[str, Array]:
    """Return the posterior mean of every output at one point, shaped by its dims, in its own unit.

    Raises
    ------
    InputError
        When a name is missing or unknown, or an input is not one number.
    ExtrapolationError
        When the point lies outside of the design box.
    """
    scores = surrogate.scores(np.asarray(surrogate.domain.to_unit(_inside(surrogate, point))))
    return {
        name: _law(surrogate, name, scores).moments()[0].reshape(layout.shape)
        for name, layout in surrogate.layouts.items()
    }


def _law(surrogate: Surrogate, output: str, scores: Scores) -> Mixture:
    # One point: its variances, or the covariance of correlated scores.
    only = scores._replace(covariance=scores.covariance[..., 0, :] if scores.correlated else scores.covariance[..., 0])
    return mixture(only, fixed_rows(surrogate, output), surrogate.layouts[output].transform)


def mean_reverse(
    surrogate: Surrogate, point: Mapping[str, object], sensitivity: Mapping[str, ArrayLike]
) -> dict[str, float]:
    """Return the derivative of sum(mean * sensitivity) by each input, in the inputs' own units.

    Outputs that `sensitivity` leaves out have weight 0.

    Raises
    ------
    InputError
        As in `mean_at`, and when an output is unknown or its weights are not finite or of another shape.
    ExtrapolationError
        When the point lies outside of the design box.
    """
    x = _inside(surrogate, point)
    u = np.asarray(surrogate.domain.to_unit(x))
    unknown = sorted(set(sensitivity) - set(surrogate.layouts))
    if unknown:
        raise InputError(f"sensitivity names {unknown}; the outputs are {', '.join(surrogate.layouts)}.")
    scores = surrogate.scores(u)
    mean_bar, covariance_bar = np.zeros_like(scores.mean), np.zeros_like(scores.covariance)
    for name, given in sensitivity.items():
        layout, weights = surrogate.layouts[name], np.asarray(given, dtype=np.float64)
        if weights.shape != layout.shape or not np.isfinite(weights).all():
            wanted = layout.shape or "one number"
            raise InputError(f"sensitivity of {name!r} has shape {weights.shape}; give {wanted}, all finite.")
        law, basis = _law(surrogate, name, scores), fixed_rows(surrogate, name).basis
        by_mean, by_variance = layout.transform.slopes(law.mean[:, 0], law.variance[:, 0])
        each = law.weights[:, None] * weights.ravel()
        mean_bar[:, 0] += (each * by_mean) @ basis
        if scores.correlated:
            covariance_bar[:, 0, :, 0, :] += np.einsum("hm,mi,mj->hij", each * by_variance, basis, basis)
        else:
            covariance_bar[:, :, 0, 0] += (each * by_variance) @ basis**2
    slope = surrogate.scores_reverse(u, mean_bar, covariance_bar)
    slope = slope * surrogate.domain.unit_gradient(x)
    return dict(zip(surrogate.domain.names, slope[0].tolist(), strict=True))


def _inside(surrogate: Surrogate, point: Mapping[str, object]) -> Array:
    box = surrogate.domain
    x = named_points(box.names, point)
    if len(x) != 1:
        raise InputError(f"the point has {len(x)} values of an input; give one number each, or use predict.")
    if not box.contains(x).all():
        u = np.asarray(box.to_unit(x))[0]
        out = [j for j in range(box.d) if not -1e-9 <= u[j] <= 1.0 + 1e-9]
        said = ", ".join(f"{box.names[j]} = {x[0, j]:g} not in [{box.lower[j]:g}, {box.upper[j]:g}]" for j in out)
        raise ExtrapolationError(
            f"The point lies outside of the design box ({said}), where "
            "the surrogate has no runs. Simulate there and fit again, or evaluate it inside."
        )
    return x

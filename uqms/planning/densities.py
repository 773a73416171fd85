"""Noise that is not Gaussian: what measurements would show, from draws of the outputs that they are measurements of.

==========  ===================================================================  ============
symbol      meaning                                                              shape
==========  ===================================================================  ============
S, K        draws; draws of the surrogate's error beside each                    ()
J, G        draws of nuisance quantities beside each; of the error beside those  ()
N           outer draws, at which measurements are drawn                         ()
y           latent outputs, on the scale of the surrogate                        (S, K, P)
z           measurements with their replicates                                   (S, R) by point
==========  ===================================================================  ============

The density of measurements given a draw has no closed form with the surrogate's error. It is the mean over draws of the
error of the density given the outputs, in which all points and replicates are independent:

    p(z | draw) = mean_k prod_p prod_r p(z_pr | y_kp).

The equivalent Gaussian noise of a point has the variance 1 / (replicates times the mean Fisher information about y).
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
from scipy.special import ndtri

from uqms._typing import Array, Bools, Ints
from uqms.calibration.context import evenly
from uqms.calibration.joint_error import joint_root
from uqms.calibration.noise import GaussianNoise, NoiseModel, Rows
from uqms.errors import InputError
from uqms.parameters.functions import NumPyFunctions
from uqms.surrogates.process import sobol_points
from uqms.surrogates.transforms import Identity, Transform

__all__ = ["Density", "Sampled", "equivalent_variance", "together"]

INNER, OWN_ERRORS = 4000, 128  # draws with an error each, at least; draws of all that is not asked about
PAIRS = 10_000_000  # of measurements and draws of outputs, in one matrix
TRIES = 100  # of errors for which the means of counts are possible
FISHER = 32  # measurements of which Fisher information is the mean
KEPT = 400_000_000  # bytes of densities that are kept


@final
@dataclass(frozen=True, eq=False)
class Density:
    """The density of one measurement given the latent output.

    Attributes
    ----------
    model, response
        The noise, and the transform to the output that it is added to.
    parameters
        Of the noise by role, each (S,) or (S, J).
    replicates
        Measurements of the same output.
    """

    model: NoiseModel
    response: Transform
    parameters: Mapping[str, Array]
    replicates: int

    @classmethod
    def gaussian(cls, sd: Array) -> "Density":
        """Return that of a mean with standard deviations (S, J), on the scale that noise is added on."""
        return cls(GaussianNoise(1.0), Identity(), {"sigma": sd}, 1)

    def at(self, rows: Any) -> "Density":
        """Return the density with the parameters at some of the draws."""
        return replace(self, parameters={role: values[rows] for role, values in self.parameters.items()})

    def shaped(self, *shape: int) -> "Density":
        """Return the density with parameters of another shape."""
        return replace(self, parameters={role: values.reshape(shape) for role, values in self.parameters.items()})

    def spread(self, count: int) -> "Density":
        """Return the density with parameters (S, count), of which there may be one for all."""
        return replace(
            self,
            parameters={role: np.broadcast_to(v, (len(v), count)) for role, v in self.parameters.items()},
        )

    def possible(self, y: Array) -> Bools:
        """Return where latent outputs can be the mean of the noise."""
        return self.model.possible(np.asarray(self.response.inverse(y)))

    def draw(self, y: Array, rng: np.random.Generator) -> Array:
        """Return measurements (S, replicates) of latent outputs (S,)."""
        own = {role: values[None] for role, values in self.parameters.items()}
        value, rows = np.asarray(self.response.inverse(y))[None], _rows(np.zeros(len(y)))
        every = [np.asarray(self.model.draw(value, rows, own, rng))[0] for _ in range(self.replicates)]
        return np.stack(every, axis=1)

    def log(self, y: Array, z: Array) -> Array:
        """Return log p(z | y) of measurements (N, replicates) for latent outputs (..., N), or (..., 1) for all.

        Raises
        ------
        InputError
            When the noise model has one joint density for all measurements.
        """
        shape = (*y.shape[:-1], len(z))
        value = np.asarray(self.response.inverse(y))
        value = value if self.model.broadcasts else np.broadcast_to(value, shape)
        out, often, columns = np.zeros(shape), 1.0, z.T
        if self.model.mean_suffices:  # up to a factor that measurements have under all outputs
            often, columns = float(z.shape[1]), z.mean(axis=1)[None]
        with np.errstate(all="ignore"):
            for column in columns:
                part = np.asarray(self.model.log_density(value, _rows(column), self.parameters, NumPyFunctions))
                if part.shape != shape:
                    raise InputError(
                        f"next_experiment: the density of {type(self.model).__name__} is one of all measurements "
                        "together, so that a new one's is not known. Give the standard deviation of Gaussian noise of "
                        "about the same size: uq.candidates(..., noise=sd)."
                    )
                out += often * part
        return np.where(np.isnan(out), -np.inf, out)


def together(several: Sequence[Density | None]) -> Density | None:
    """Return the density of which several have the parameters (S,) of each nuisance draw."""
    known = [one for one in several if one is not None]
    if not known:
        return None
    roles = known[0].parameters
    return replace(
        known[0], parameters={role: np.stack([one.parameters[role] for one in known], axis=1) for role in roles}
    )


def _rows(z: Array) -> Rows:
    return Rows(z, np.full(len(z), np.nan), np.zeros(len(z)))


def equivalent_variance(density: Density, y: Array) -> Array:
    """Return variances (P,) of Gaussian noise with the information of one measurement of latent outputs (S, P)."""
    S, P = y.shape
    flat = y.ravel()
    possible = density.possible(flat)
    parameters = {role: np.repeat(values, P)[possible] for role, values in density.parameters.items()}
    flat, rng = flat[possible], np.random.default_rng(0)
    once = replace(density, replicates=1, parameters=parameters)
    single = replace(once, parameters={role: values[None] for role, values in parameters.items()})
    step, found = 1e-5 * (np.abs(flat) + flat.std() + 1e-12) if len(flat) else flat, np.zeros(len(flat))
    for _ in range(FISHER):
        z = once.draw(flat, rng)
        slope = (single.log((flat + step)[None], z) - single.log((flat - step)[None], z))[0] / (2.0 * step)
        found += np.where(np.isfinite(slope), slope, 0.0) ** 2 / FISHER
    information = np.zeros((S, P))
    information.ravel()[possible] = found
    return np.asarray(1.0 / np.maximum(information.mean(axis=0), 1e-300))


@final
@dataclass(frozen=True, eq=False)
class Sampled:
    """Draws of latent outputs and of measurements, and the densities of these.

    Attributes
    ----------
    densities
        By point, with parameters (S, J).
    y
        Shape (S, K, P).
    own
        Latent outputs (S, G, P) given what is asked about of each draw, with the nuisance draw (G,) that they are of;
        None where the rest follows by regression.
    z, shown
        Measurements by point, (S, replicates), and the latent outputs (S, P) that they are of.
    """

    densities: tuple[Density, ...]
    y: Array
    own: tuple[Array, Ints] | None
    z: tuple[Array, ...]
    shown: Array
    _kept: OrderedDict[tuple[int, bytes, bool], Array] = field(default_factory=OrderedDict)

    @classmethod
    def of(
        cls,
        densities: Sequence[Density],
        mean: Array,
        error: Array,
        everything: bool,
        rng: np.random.Generator,
    ) -> "Sampled":
        """Return draws from means (S, J, P) and covariances of errors (S, J, P, P), the first the draw's own."""
        S, J, P = mean.shape
        certain = not np.any(error)
        errors = 1 if certain else -(-INNER // S)
        first = [one.at((slice(None), 0)) for one in densities]
        y = _latent(densities, np.zeros(errors, dtype=np.int64), mean, error, rng)
        shown = _latent(densities, np.zeros(1, dtype=np.int64), mean, error, rng)[:, 0]
        z = tuple(one.draw(shown[:, p], rng) for p, one in enumerate(first))
        if not everything:
            return cls(tuple(densities), y, None, z, shown)
        of = np.repeat(np.arange(J), 1 if certain else OWN_ERRORS // J)
        return cls(tuple(densities), y, (_latent(densities, of, mean, error, rng), of), z, shown)

    def outer(self, rows: Ints, outer: Ints) -> Ints:
        """Return as many of the outer draws as there is room for."""
        often = max(1 if one.model.mean_suffices else one.replicates for one in (self.densities[p] for p in rows))
        return outer[evenly(len(outer), max(100, 4 * PAIRS // (self.y[..., 0].size * max(often, 4))))]

    def of_pairs(self, rows: Ints, outer: Ints, moved: Array | None = None) -> Array:
        """Return log p(z_n | draw m), shape (N, S), of some of the points; outputs `moved` by b_n - b_m, b (S, P)."""
        total = sum(self._pair(int(p), outer, None if moved is None else moved[:, p]) for p in rows)
        S, K = self.y.shape[:2]
        whole = np.asarray(total).reshape(S, K, len(outer))
        top = whole.max(axis=1, keepdims=True)
        top = np.where(np.isfinite(top), top, 0.0)
        with np.errstate(divide="ignore"):
            return np.asarray((np.log(np.exp(whole - top).mean(axis=1)) + top[:, 0]).T)

    def given(self, rows: Ints, outer: Ints) -> Array:
        """Return log p(z_n | what is asked about of draw n), shape (N,)."""
        assert self.own is not None
        y, of = self.own
        total = np.zeros((y.shape[1], len(outer)))
        for p in rows:
            one = self.densities[p]
            own = replace(one, parameters={role: v[outer][:, of].T for role, v in one.parameters.items()})
            total += own.log(y[outer, :, p].T, self.z[p][outer])
        return np.asarray(np.logaddexp.reduce(total, axis=0) - np.log(len(total)))

    def of_outputs(self, rows: Ints, outer: Ints) -> Array:
        """Return log p(z_n | y_n), shape (N,), of the outputs that measurements are of."""
        total = np.zeros(len(outer))
        for p in rows:
            own = self.densities[p].at((outer, 0))
            own = replace(own, parameters={role: values[None] for role, values in own.parameters.items()})
            total += own.log(self.shown[None, outer, p], self.z[p][outer])[0]
        return total

    def _pair(self, p: int, outer: Ints, moved: Array | None) -> Array:
        """Return log p(z_np | y_mkp), shape (S K, N)."""
        key = (p, outer.tobytes(), moved is not None)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        S, K = self.y.shape[:2]
        one = self.densities[p]
        own = replace(one, parameters={role: np.repeat(v[:, 0], K)[:, None] for role, v in one.parameters.items()})
        y = self.y[:, :, p].reshape(S * K, 1)
        if moved is not None:
            y = y + (moved[outer] - np.repeat(moved, K)[:, None])
        found = own.log(y, self.z[p][outer])
        while self._kept and sum(kept.nbytes for kept in self._kept.values()) + found.nbytes > KEPT:
            self._kept.popitem(last=False)
        self._kept[key] = found
        return found


def _latent(densities: Sequence[Density], of: Ints, mean: Array, error: Array, rng: np.random.Generator) -> Array:
    """Return latent outputs (S, G, P) with the nuisance draws `of` (G,), all of them possible means of the noise.

    Normals are those of a Sobol sequence, shifted for each draw; outputs that are not possible are drawn again.
    """
    S, _, P = mean.shape
    G = len(of)
    root = joint_root(error)
    uniform = (sobol_points(G, P)[rng.permutation(G)] + rng.random((S, 1, P))) % 1.0
    normals = ndtri(np.clip(uniform, 1e-12, 1.0 - 1e-12))
    y = mean[:, of]
    for j in np.unique(of):
        y[:, of == j] += normals[:, of == j] @ np.swapaxes(root[:, j], -1, -2)
    for _ in range(TRIES):
        inside = np.ones((S, G), dtype=np.bool_)
        for p, one in enumerate(densities):
            inside &= one.possible(y[:, :, p])
        s, g = np.nonzero(~inside)
        if not len(s):
            break
        y[s, g] = mean[s, of[g]] + np.einsum("npq,nq->np", root[s, of[g]], rng.standard_normal((len(s), P)))
    return np.asarray(y)

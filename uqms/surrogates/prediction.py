"""What a surrogate says at given points: mean, sd, covariance and draws of every output, in the output's own unit."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, final

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import logsumexp, ndtr, ndtri

from uqms._teaching import missing, taught
from uqms._threads import single_threaded
from uqms._typing import Array, Bools, RandomState, as_generator
from uqms.errors import PACKAGE, ConformanceError, ExtrapolationWarning, InputError, UnknownKeyError
from uqms.surrogates.outputs import Decoder, InputDecoder
from uqms.surrogates.process import Scores
from uqms.surrogates.protocol import FunctionDraws, Surrogate
from uqms.surrogates.transforms import IDENTITY, Identity, Logit, Transform

__all__ = [
    "ELSEWHERE",
    "Mixture",
    "Prediction",
    "asked_by_key",
    "decoded_scores",
    "mixture",
    "named_points",
    "noise_variance",
    "predicted_at",
    "rows_of_draws",
    "shown",
]

HALVINGS = 60
CRPS_NODES, CRPS_REACH = 48, 7.0
BLOCK = 2**24  # numbers of a mixture that are held at once
TINY = 1e-300  # where the variance is zero, the law is a step


class Mixture(NamedTuple):
    """Laws of an output at k points and m coordinates, one a hyperparameter draw: normal on the scale of the transform.

    What the methods take and return is in the output's own unit.

    Attributes
    ----------
    mean, variance
        Of the normal laws, shape (H, k, m).
    weights
        Shape (H,), they sum to 1.
    transform
        From the output to the scale on which it is normal.
    """

    mean: Array
    variance: Array
    weights: Array
    transform: Transform = IDENTITY

    def moments(self) -> tuple[Array, Array]:
        """Return mean and variance over the draws, both (k, m)."""
        means, variances = self.transform.moments(self.mean, self.variance)
        first = means[0]  # weights sum to 1 up to rounding, which would move a constant
        mean = first + np.tensordot(self.weights, means - first, 1)
        return mean, np.tensordot(self.weights, variances + (means - mean) ** 2, 1)

    def quantile(self, level: float) -> Array:
        """Return the quantile of the mixture, (k, m), by bisection between those of the draws."""
        each = self.mean + ndtri(level) * np.sqrt(self.variance)
        low, high = each.min(axis=0), each.max(axis=0)
        if len(self.weights) == 1:
            return np.asarray(self.transform.inverse(low))
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            below = self._cdf(middle) < level
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.asarray(self.transform.inverse(0.5 * (low + high)))

    def interval(self, mass: float) -> tuple[Array, Array]:
        """Return the ends of the equal-tailed interval, both (k, m)."""
        return self.quantile(0.5 - 0.5 * mass), self.quantile(0.5 + 0.5 * mass)

    def cdf(self, values: Array) -> Array:
        """Return the probability of less than `values` (k, m)."""
        return self._cdf(self.transform.forward(values))

    def _cdf(self, z: Array) -> Array:
        total = np.zeros(z.shape)
        for weight, mean, variance in zip(self.weights, self.mean, self.variance, strict=True):
            total += weight * ndtr((z - mean) / np.sqrt(variance + TINY))
        return np.asarray(total)

    def log_density(self, values: Array) -> Array:
        """Return the log density at `values` (k, m), minus infinity where there is no such output."""
        outside = self.transform.outside(values)
        variance = self.variance + TINY
        z = np.where(outside, 0.0, self.transform.forward(values))
        each = -0.5 * (np.log(2.0 * np.pi * variance) + (z - self.mean) ** 2 / variance)
        slope = np.where(outside, -np.inf, self.transform.log_slope(values))
        return np.asarray(logsumexp(each, axis=0, b=self.weights[:, None, None]) + slope)

    def crps(self, values: Array) -> Array:
        """Return the continuous ranked probability score at `values` (k, m), in their unit; small is good.

        Closed form of Grimit et al. (2006), doi:10.1256/qj.05.235. With a transform it is the integral of
        the squared distance between the distribution function and the step at the value, by a Gauss rule on either side
        of the step, on the scale of the transform.
        """
        if self.transform is not IDENTITY:
            return self._crps_by_quadrature(self.transform.forward(values))
        total = np.zeros(values.shape)
        for i, (weight, mean, variance) in enumerate(zip(self.weights, self.mean, self.variance, strict=True)):
            total += weight * _mean_distance(values - mean, variance) - 0.5 * weight**2 * _mean_distance(
                0.0 * mean, 2.0 * variance
            )
            for j in range(i):
                both = _mean_distance(mean - self.mean[j], variance + self.variance[j])
                total -= weight * self.weights[j] * both
        return np.asarray(total)

    def _crps_by_quadrature(self, z: Array) -> Array:
        sd = np.sqrt(self.variance)
        # Squared tails of a log-normal law, times its slope, reach as far as its variance to the right.
        low = (self.mean - CRPS_REACH * sd).min(axis=0)
        high = (self.mean + CRPS_REACH * sd + self.variance).max(axis=0)
        step = np.clip(z, low, high)
        total = np.abs(self.transform.inverse(z) - self.transform.inverse(step))
        for node, weight in zip(*np.polynomial.legendre.leggauss(CRPS_NODES), strict=True):
            for start, end, above in ((low, step, 0.0), (step, high, 1.0)):
                at = start + 0.5 * (node + 1.0) * (end - start)
                slope = np.exp(-self.transform.log_slope(self.transform.inverse(at)))
                total += 0.5 * weight * (end - start) * (self._cdf(at) - above) ** 2 * slope
        return np.asarray(total)


def _mean_distance(shift: Array, variance: Array) -> Array:
    """Return E|X| of X ~ N(shift, variance)."""
    sd = np.sqrt(variance + TINY)
    z = shift / sd
    density = np.exp(-0.5 * np.minimum(z * z, 1e3)) / np.sqrt(2.0 * np.pi)
    return np.asarray(2.0 * sd * density + shift * (2.0 * ndtr(z) - 1.0))


def mixture(scores: Scores, decoder: Decoder, transform: Transform = IDENTITY, noise: Array | None = None) -> Mixture:
    """Return the laws of an output at k points from scores whose covariance holds no covariances between points.

    Variances (H, q, k) of the scores, or covariances (H, k, q, q) of correlated ones. Rows are fixed, or those of an
    `InputDecoder` at the points. `noise` (levels, k, m) are equally likely variances of noise, as many as
    hyperparameter draws if there are several.
    """
    rest = np.sum(decoder.truncation**2, axis=-1)
    mean = decoded_scores(decoder, scores.mean)
    if scores.covariance.ndim == 4:
        basis = np.broadcast_to(decoder.basis, (*mean.shape, decoder.basis.shape[-1]))
        variance = np.einsum("hkmi,hkij,hkmj->hkm", basis, scores.covariance, basis, optimize=True) + rest
    elif decoder.basis.ndim == 2:
        variance = np.swapaxes(scores.covariance, -1, -2) @ (decoder.basis**2).T + rest
    else:
        variance = np.einsum("hqk,hkmq->hkm", scores.covariance, decoder.basis**2) + rest
    weights = np.exp(scores.log_weights - np.logaddexp.reduce(scores.log_weights))
    if noise is not None:
        variance = variance + noise
        if len(noise) > len(mean):
            mean, weights = np.repeat(mean, len(noise), axis=0), np.full(len(noise), 1.0 / len(noise))
    return Mixture(mean, variance, weights, transform)


def decoded_scores(rows: Decoder, scores: Array) -> Array:
    """Return offset + basis times scores (H, k, q) at k points, (H, k, m)."""
    if rows.basis.ndim == 2:
        return np.asarray(rows.offset + scores @ rows.basis.T)
    return np.asarray(rows.offset + np.einsum("hkq,hkmq->hkm", scores, rows.basis))


def noise_variance(
    levels: Float[np.ndarray, "levels k q"], basis: Float[np.ndarray, "m q"], correlation: Array | None
) -> Float[np.ndarray, "levels k m"]:
    """Return the variances of the noise in coordinates from those in scores, whose noise may be correlated."""
    own = np.flatnonzero(basis.any(axis=0))
    if correlation is None or len(own) < 2:
        return np.asarray(levels @ (basis**2).T)
    root = np.linalg.cholesky(correlation[np.ix_(own, own)] + 1e-12 * np.eye(len(own)))
    sd = np.sqrt(levels[..., own])
    total = np.zeros((*sd.shape[:-1], len(basis)))
    for column in root.T:
        total += ((sd * column) @ basis[:, own].T) ** 2
    return total


OUTPUTS, PLACES = 7, 3  # lines of a printed prediction, and entries of each output

ELSEWHERE = {
    "std": "the standard deviation is .sd",
    "stddev": "the standard deviation is .sd",
    "var": "it is .variance",
    "cov": "joint draws are .draws(n, rng=1)",
    "quantile": "intervals are .interval(0.95)",
    "ci": "intervals are .interval(0.95)",
    "samples": "joint draws are .draws",
    "sample": "joint draws are .draws",
    "values": "the mean is .mean[output].values",
    "plot": "figures are in uq.plots",
}


def asked_by_key(what: str, name: object, outputs: Iterable[str]) -> UnknownKeyError:
    """Return the error of an output that was asked for by `prediction[name]`."""
    known = list(outputs)
    right = name if name in known else known[0]
    return UnknownKeyError(
        f"{what}[{name!r}]: which of it? Use {what}.mean[{right!r}], {what}.sd[{right!r}] or "
        f"{what}.interval()[{right!r}]; the outputs are {', '.join(known)}."
    )


def shown(head: str, mean: xr.Dataset, sd: xr.Dataset) -> str:
    """Return at most ten lines: mean ± sd of the first, a middle and the last entry of each output."""
    lines = [head]
    names = [str(name) for name in mean.data_vars]
    for name in names[:OUTPUTS]:
        one, spread = mean[name], sd[name]
        unit = str(one.attrs.get("unit", ""))
        places = sorted({0, (one.size - 1) // 2, one.size - 1}) if one.size > PLACES else range(one.size)
        entries = []
        for place in places:
            at = np.unravel_index(place, one.shape) if one.ndim else ()
            where = [
                f"{dim} = {_short(one[dim].values[i]) if dim in one.coords else i}"
                for dim, i in zip(one.dims, at, strict=True)
                if one.sizes[dim] > 1
            ]
            value = f"{float(one.values[at]):.4g} ± {float(spread.values[at]):.2g}"
            entries.append(f"{value} at {', '.join(where)}" if where else value)
        more = f" ({one.size} values)" if one.size > PLACES else ""
        lines.append(f"  {name}{f' [{unit}]' if unit else ''}{more}: {'; '.join(entries)}")
    if len(names) > OUTPUTS:
        lines.append(f"  and {len(names) - OUTPUTS} more outputs: {', '.join(names[OUTPUTS:])}"[:200])
    return "\n".join(lines)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


@taught
@final
@dataclass(frozen=True, eq=False)
class Prediction:
    """Prediction of every output at k points, jointly.

    The uncertainty is that of the surrogate (epistemic): few runs, and what the scores leave out of a curve. That of
    the next run of a stochastic simulator holds its noise too (aleatory): ask for it with ``noise=True``. A surrogate
    that was fitted with noise="none" takes its simulator as deterministic: both are the same then. No measurement noise
    is in either.

    With a transform, noise is learned on its scale: `mean` and all that is without ``noise=True`` are then of the
    simulator's *median*, and the mean of its runs is that of ``draws(n, rng, noise=True)``.

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

    def __repr__(self) -> str:
        k = len(self.u)
        outside = "" if self.inside.all() else f", {int((~self.inside).sum())} of them outside of the design box"
        head = f"Prediction at {k} point{'s' if k > 1 else ''}{outside}: mean ± sd of the surrogate"
        return shown(head, self.mean, self.sd)

    def __getitem__(self, name: str) -> NoReturn:
        """Raise: a prediction has a mean, an sd and draws of each output.

        Raises
        ------
        UnknownKeyError
            Always.
        """
        raise asked_by_key("prediction", name, self.surrogate.layouts)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise missing(type(self), "A prediction", name, ELSEWHERE)

    def _labelled(self, name: str, values: Array, lead: tuple[str, ...] = ("point",)) -> xr.DataArray:
        layout = self.surrogate.layouts[name]
        shape = values.shape[: len(lead)] + layout.shape
        return xr.DataArray(
            values.reshape(shape), dims=(*lead, *layout.dims), coords=dict(layout.coords), attrs={"unit": layout.unit}
        )

    def law(self, output: str, *, noise: bool = False) -> Mixture:
        """Return the law of each entry of an output: a mixture, one normal (on its transform's scale) a draw.

        With `noise` it is that of the simulator's next run (the same with a surrogate of a deterministic one).

        Raises
        ------
        InputError
            When there is no such output, or with `noise` of a surrogate that does not know it.
        """
        rows = self._rows(output)
        variances = self._noise(output, rows, slice(None)) if noise else None
        return mixture(self.scores, rows, self._transform(output), variances)

    def _rows(self, output: str) -> Decoder:
        """Return the rows of an output, those of an `InputDecoder` at the points."""
        decoder = self.surrogate.decode(output)
        return decoder.at(self.u) if isinstance(decoder, InputDecoder) else decoder

    @cached_property
    def _score_noise(self) -> Array:
        """Equally likely variances (levels, k, q) of the simulator's noise in the scores."""
        return np.asarray(self._of_noise("noise_at")(self.u))

    def _of_noise(self, method: str) -> Callable[..., Array]:
        """Return a method of the surrogate that says what its simulator's noise is."""
        if not hasattr(self.surrogate, method):
            raise InputError(
                f"noise: a {type(self.surrogate).__name__} does not know the noise of its simulator. Leave "
                "noise=True out (what remains is the uncertainty of the mean), or fit "
                "GaussianProcess(noise='heteroscedastic') to replicates."
            )
        return getattr(self.surrogate, method)  # type: ignore[no-any-return]

    def _noise(self, output: str, decoder: Decoder, rows: slice) -> Array:
        """Return those (levels, k, m) in some coordinates of an output."""
        if decoder.basis.ndim > 2:
            raise InputError(
                f"noise: the rows of {output!r} depend on the input, and a simulator's noise is learned for rows that "
                "do not. Leave noise=True out: what remains is the uncertainty of the mean."
            )
        correlation = getattr(self.surrogate, "noise_correlation", None)
        total = noise_variance(self._score_noise, decoder.basis[rows], correlation)
        return np.asarray(total + np.sum(self._residual(output)[rows] ** 2, axis=1))

    def _residual(self, output: str) -> Array:
        """Return the factor (m, t) of what the noise does outside of the basis."""
        of = getattr(self.surrogate, "noise_residual", None)
        return np.zeros((self._rows(output).offset.shape[-1], 0)) if of is None else np.asarray(of(output))

    def _transform(self, output: str) -> Transform:
        return self.surrogate.layouts[output].transform

    def _by_coordinates(self, output: str, ask: Callable[[Mixture], Array], noise: bool = False) -> Array:
        """Return what `ask` gives, some coordinates at a time: the laws of all need H times the room of the answer."""
        decoder, transform = self._rows(output), self._transform(output)
        levels = len(self._score_noise) if noise else 1
        size = max(1, BLOCK // max(1, levels * self.scores.mean[..., 0].size))
        blocks = [slice(start, start + size) for start in range(0, decoder.offset.shape[-1], size)]

        def law(rows: slice) -> Mixture:
            part = Decoder(decoder.offset[..., rows], decoder.basis[..., rows, :], decoder.truncation[..., rows, :])
            return mixture(self.scores, part, transform, self._noise(output, decoder, rows) if noise else None)

        return np.concatenate([ask(law(rows)) for rows in blocks], -1)

    @cached_property
    def _moments(self) -> dict[str, Array]:
        return {
            name: self._by_coordinates(name, lambda law: np.stack(law.moments())) for name in self.surrogate.layouts
        }

    @property
    def mean(self) -> xr.Dataset:
        """Mean of every output, dims ("point", ...)."""
        return xr.Dataset({name: self._labelled(name, mean) for name, (mean, _) in self._moments.items()})

    @property
    def variance(self) -> xr.Dataset:
        """Variance of every output: the scores', the truncation's and the hyperparameters', dims ("point", ...)."""
        labelled = {name: self._labelled(name, variance) for name, (_, variance) in self._moments.items()}
        return xr.Dataset({name: values.assign_attrs(unit="") for name, values in labelled.items()})

    @cached_property
    def aleatory_variance(self) -> xr.Dataset:
        """Variance that the simulator's noise adds to every output of its next run, dims ("point", ...).

        It is zero for a deterministic simulator. `variance` is the other part, the epistemic one: more runs lower that,
        but not this. Together they are the variance of a new run.

        Raises
        ------
        InputError
            When the surrogate does not say what its simulator's noise is.
        """
        out = {}
        for name in self.surrogate.layouts:
            total = self._by_coordinates(name, lambda law: law.moments()[1], noise=True)
            out[name] = self._labelled(name, np.maximum(total - self._moments[name][1], 0.0)).assign_attrs(unit="")
        return xr.Dataset(out)

    @property
    def sd(self) -> xr.Dataset:
        """Standard deviation of every output, dims ("point", ...)."""
        return xr.Dataset({name: self._labelled(name, np.sqrt(both[1])) for name, both in self._moments.items()})

    def quantile(self, q: ArrayLike, *, noise: bool = False) -> xr.Dataset:
        """Return quantiles of every output, dims ("quantile", "point", ...).

        Averaged hyperparameters make the law a mixture of normals, with longer tails than its sd tells; transformed
        outputs are skewed. The quantiles are exact.

        Parameters
        ----------
        q
            Probabilities between 0 and 1, both excluded.
        noise
            Of the simulator's next run, which has its noise, instead of its mean; the same for a surrogate that was
            fitted with noise="none", whose simulator is taken as deterministic.

        Raises
        ------
        InputError
            When a probability is not between 0 and 1, or with `noise` of a surrogate that does not know it.
        """
        levels = np.atleast_1d(np.asarray(q, dtype=np.float64))
        if levels.ndim != 1 or not ((levels > 0.0) & (levels < 1.0)).all():
            raise InputError(f"q is {q!r}; give probabilities between 0 and 1, such as [0.025, 0.975].")
        out = {}
        for name in self.surrogate.layouts:
            values = self._by_coordinates(
                name, lambda law: np.stack([law.quantile(float(each)) for each in levels]), noise
            )
            out[name] = self._labelled(name, values, ("quantile", "point"))
        return xr.Dataset(out, coords={"quantile": levels})

    def interval(self, mass: float = 0.95, *, noise: bool = False) -> xr.Dataset:
        """Return the equal-tailed interval of every output, dims ("bound", "point", ...), bounds "lower" and "upper".

        With `noise` it is that of the simulator's next run (the same with a surrogate of a deterministic one).

        Raises
        ------
        InputError
            When `mass` is not between 0 and 1, or with `noise` of a surrogate that does not know it.
        """
        if isinstance(mass, bool) or not isinstance(mass, int | float) or not 0.0 < mass < 1.0:
            raise InputError(f"mass is {mass!r}; give a number between 0 and 1, such as 0.95.")
        ends = self.quantile([0.5 - 0.5 * mass, 0.5 + 0.5 * mass], noise=noise).rename({"quantile": "bound"})
        return ends.assign_coords(bound=["lower", "upper"])

    @single_threaded
    def covariance(self, output: str) -> Array:
        """Return the joint covariance of an output over points and coordinates, shape (k, m, k, m).

        Points share their scores' errors as their inputs say; the truncation is shared within a point only.

        Raises
        ------
        InputError
            When there is no such output, or its transform is a logit: that has no closed form.
        """
        rows, transform = self._rows(output), self._transform(output)
        joint = self.surrogate.scores(self.u)
        weights = np.exp(joint.log_weights - np.logaddexp.reduce(joint.log_weights))
        if isinstance(transform, Logit):
            raise InputError(
                f"covariance: {output!r} is the image of a normal distribution under {transform}, and covariances of "
                "that are not in closed form. Take them from draws: prediction.draws(2000, rng=1)."
            )
        plain = isinstance(transform, Identity)
        if plain and rows.basis.ndim == 2:
            out = _covariance(rows, np.tensordot(weights, joint.covariance, 1))
            shifts = (joint.mean - np.tensordot(weights, joint.mean, 1)) @ rows.basis.T
        else:
            means = decoded_scores(rows, joint.mean)
            out = np.zeros(means.shape[1:] * 2)
            for h, weight in enumerate(weights):
                own = Decoder(*(one[h % len(one)] for one in rows)) if rows.basis.ndim > 2 else rows
                normal = _covariance(own, joint.covariance[h])
                if not plain:
                    latent, own_variance = means[h].copy(), np.einsum("amam->am", normal)
                    means[h] = transform.moments(latent, own_variance)[0]
                    slope = transform.slopes(latent, own_variance)[0]  # the mean of exp(z)
                    normal = np.multiply.outer(slope, slope) * np.expm1(normal)
                out += weight * normal
            shifts = means - np.tensordot(weights, means, 1)
        if len(weights) > 1:
            out += np.einsum("h,ham,hbn->ambn", weights, shifts, shifts, optimize=True)
        return np.asarray(out)

    @single_threaded
    def draws(self, n: int, rng: RandomState, *, noise: bool = False) -> xr.Dataset:
        """Return n joint draws of every output at the points, dims ("draw", "point", ...).

        With `noise` each is one new run of the simulator at every point, with noise of its own.

        Raises
        ------
        InputError
            When n is below 1, or with `noise` of a surrogate that does not know it.
        """
        if n < 1:
            raise InputError(f"draws: n is {n!r}; ask for at least one draw.")
        generator = as_generator(rng)
        functions = self.surrogate.functions(n, generator)
        scores = functions(self.u)
        own = self._of_noise("noise_draws") if noise else None
        scores = scores if own is None else scores + own(self.u, n, generator)
        out: dict[str, xr.DataArray] = {}
        latent = None
        for name in self.surrogate.layouts:
            rows = rows_of_draws(self._rows(name), functions)
            if latent is None:
                latent = generator.standard_normal((n, len(self.u), rows.truncation.shape[-1]))
            values = decoded_scores(rows, scores) + decoded_scores(
                Decoder(np.zeros(1), rows.truncation, rows.truncation), latent
            )
            if own is not None:
                rest = self._residual(name)
                values += generator.standard_normal((n, len(self.u), rest.shape[1])) @ rest.T
            out[name] = self._labelled(name, self._transform(name).inverse(values), ("draw", "point"))
        return xr.Dataset(out)


def predicted_at(
    surrogate: Surrogate, points: Mapping[str, object] | xr.Dataset | pd.DataFrame, marginal: Callable[[Array], Scores]
) -> Prediction:
    """Return the prediction at points in the inputs' own units, from scores whose covariance holds variances only.

    Warns
    -----
    ExtrapolationWarning
        When a point lies outside of the design box.
    """
    x = named_points(surrogate.domain.names, points)
    inside = np.asarray(surrogate.domain.contains(x))
    if not inside.all():
        first = int(np.flatnonzero(~inside)[0])
        values = ", ".join(f"{n} = {v:g}" for n, v in zip(surrogate.domain.names, x[first], strict=True))
        warnings.warn(
            f"{int((~inside).sum())} of {len(x)} points lie outside of the design box, first point {first} "
            f"({values}): the surrogate extrapolates there. Simulate there, or restrict the points.",
            ExtrapolationWarning,
            skip_file_prefixes=PACKAGE,
        )
    u = np.asarray(surrogate.domain.to_unit(x))
    return Prediction(surrogate, u, marginal(u), inside)


def rows_of_draws(rows: Decoder, functions: FunctionDraws) -> Decoder:
    """Return rows with those (n, k, m, ...) of every function draw where hyperparameter draws have their own.

    Raises
    ------
    ConformanceError
        When the draws do not say which hyperparameters they have.
    """
    if rows.basis.ndim == 2 or len(rows.offset) == 1:
        return rows
    which = getattr(functions, "hyperparameters", None)
    if which is None:
        raise ConformanceError(
            "Rows differ between hyperparameter draws, and the function draws lack theirs: give them an "
            "attribute `hyperparameters` (n,), places among the log weights."
        )
    return Decoder(*(one[which] for one in rows))


def _covariance(rows: Decoder, scores: Array) -> Array:
    """Return the covariance (k, m, k, m) of normal outputs from that of the scores (q, k, k) or (k, q, k, q).

    Rows are fixed, or those of each point, (k, m, ...).
    """
    k = scores.shape[-2] if scores.ndim == 3 else len(scores)
    basis, truncation = rows.basis, rows.truncation
    if scores.ndim == 3 and basis.ndim == 2:
        out = np.einsum("mj,jab,nj->ambn", basis, scores, basis, optimize=True)
    else:
        basis = np.broadcast_to(basis, (k, *basis.shape[-2:]))
        spelled = "amj,jab,bnj->ambn" if scores.ndim == 3 else "ami,aibj,bnj->ambn"
        out = np.einsum(spelled, basis, scores, basis, optimize=True)
    index = np.arange(k)
    out[index, :, index, :] += truncation @ np.swapaxes(truncation, -1, -2)
    return np.asarray(out)


def _numbers(name: str, values: object) -> Array:
    try:
        numbers = np.atleast_1d(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(f"Point input {name!r} is {values!r}; give real numbers.") from error
    if not np.isfinite(numbers).all():
        raise InputError(f"Point input {name!r} holds {numbers[~np.isfinite(numbers)][0]}; give finite numbers.")
    return numbers


def named_points(names: tuple[str, ...], points: object) -> Array:
    """Return points (k, d) in the order of `names` from a mapping, a table or a Dataset; scalars are repeated.

    Raises
    ------
    InputError
        When a name is missing or unknown, or lengths differ.
    """
    if isinstance(points, pd.DataFrame):
        points = {str(name): points[name].to_numpy() for name in points.columns}
    if not isinstance(points, Mapping):
        example = ", ".join(f"{name!r}: ..." for name in names)
        raise InputError(
            f"Points are a {type(points).__name__}; give numbers by the name of each input, {{{example}}}, or a table "
            "with these columns."
        )
    given = {str(name): _numbers(str(name), values) for name, values in points.items() if name in names}
    missing, unknown = [name for name in names if name not in given], sorted({str(n) for n in points} - set(names))
    if missing or (unknown and not isinstance(points, xr.Dataset)):
        wrong = [f"{', '.join(map(repr, missing))} missing"] * bool(missing)
        wrong += [f"{', '.join(map(repr, unknown))} unknown"] * bool(unknown)
        example = ", ".join(f"{name!r}: ..." for name in names)
        raise InputError(f"Points: {' and '.join(wrong)}; give numbers of each input, {{{example}}}.")
    sizes = {given[name].shape for name in names} - {(1,)}
    if len(sizes) > 1 or any(len(size) != 1 for size in sizes):
        shapes = {name: given[name].shape for name in names}
        raise InputError(f"Points are one-dimensional and of one length (or a single number), got shapes {shapes}.")
    count = sizes.pop()[0] if sizes else 1
    return np.column_stack([np.broadcast_to(given[name], count) for name in names])

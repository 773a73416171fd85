"""What follows from uncertain inputs: means, parts of the variance, quantiles, densities, probabilities.

A result keeps joint draws: of quantities for each function of the surrogate at each draw of the inputs. Everything is
computed from these, so that errors of a curve's points, of several outputs and of different inputs go together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast, final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike
from scipy.special import ndtri

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, RandomState, as_generator
from uqms.calibration import Posterior, SubjectPosterior
from uqms.calibration.capabilities import refuse
from uqms.calibration.predict import Realised
from uqms.errors import InputError
from uqms.propagation.decisions import Decision, decided
from uqms.propagation.drawing import (
    LEAD,
    Drawn,
    derived,
    drawn_from_posterior,
    drawn_from_surrogate,
    flat_table,
    read_noise,
)
from uqms.propagation.intervals import (
    crossed_probability,
    crossed_quantile,
    functions_given_data,
    nested_probability,
    nested_quantile,
)
from uqms.propagation.one_function import OneFunction, one_function
from uqms.propagation.variance_parts import PARTS, Parts, Sampling, crossed, nested
from uqms.surrogates import Surrogate

__all__ = ["Propagation", "propagate"]

FUNCTIONS, NESTED_FUNCTIONS, POSTERIOR_DRAWS = 64, 8, 500
SHIFTED = 400  # functions given the data, of densities
GRID, CUT, MARGIN = 256, 0.0005, 3.0  # of densities: points, tail of the draws, bandwidths beyond


@taught
@final
@dataclass(frozen=True, eq=False)
class Propagation:
    """Joint draws of quantities, with their means, intervals and probabilities; `propagate` returns it.

    Attributes
    ----------
    draws
        By quantity, dims ("function", "sample", ...): functions of the surrogate and draws of the inputs, then
        "discrepancy" and "noise" when they are drawn, "condition" when there are several, and coordinates.
    inputs
        The draws of the inputs, dim "sample".
    holds
        Which uncertainties are in the draws.
    nested
        False: every function is evaluated at all draws of the inputs (of a prior). True: functions belong to one draw
        each, since the data inform the surrogate's error differently under each (of a posterior).
    outside
        Fraction of the prior's mass outside of the design box, which was left out; or of the draws that lie there.
    sampling
        How the draws of the inputs go together, from which the Monte Carlo errors come: "repeated" Sobol sequences of a
        prior, "ordered" draws that may depend on those before (batch means), or "independent" ones.
    one_function
        After a calibration: the quantities if the surrogate's mean were the simulator itself, from which the
        surrogate's part of errors comes. None before, and where the surrogate has no error.
    """

    draws: xr.Dataset
    inputs: xr.Dataset
    holds: tuple[str, ...]
    nested: bool
    outside: float
    sampling: Sampling
    one_function: OneFunction | None = None

    def __repr__(self) -> str:
        """Show the table of all single numbers, and which curves there are."""
        sizes = " x ".join(f"{self.draws.sizes[dim]} {dim}s" for dim in LEAD[:2])
        head = f"<Propagation: {sizes}; holds {', '.join(self.holds)}"
        table = self.table()
        curves = [str(name) for name in self.draws if self._rest(str(name)) - {"condition"}]
        lines = [head, *([f"curves: {', '.join(curves)}"] if curves else [])]
        return "\n".join([*lines, *([table.to_string(float_format=lambda v: f"{v:.4g}")] if len(table) else [])]) + ">"

    # ----------------------------------------------------------------------------------------------- what it is made of
    def _rest(self, name: str) -> set[str]:
        return {str(dim) for dim in self.draws[name].dims} - set(LEAD)

    def full(self, name: str) -> tuple[Array, xr.DataArray]:
        """Return the draws (F, S, D, N, ...) of a quantity, and an array of its other dims to label results by.

        Raises
        ------
        InputError
            When there is no such quantity.
        """
        if name not in self.draws:
            raise InputError(f"There is no quantity {name!r}; the quantities are {[str(one) for one in self.draws]}.")
        array = self.draws[name]
        missing = [dim for dim in LEAD if dim not in array.dims]
        array = array.expand_dims(missing).transpose(*LEAD, ...)
        return np.asarray(array.values), array.isel(dict.fromkeys(LEAD, 0), drop=True)

    def _each(
        self, function: Callable[[Array, Parts], Array], lead: tuple[str, ...] = (), squared: bool = False
    ) -> xr.Dataset:
        found = {}
        for name in map(str, self.draws):
            y, like = self.full(name)
            unit = like.attrs.get("unit", "")
            out = xr.DataArray(function(y, self._parts[name]), dims=(*lead, *like.dims), coords=like.coords)
            found[name] = out.assign_attrs(unit=f"({unit})²" if squared and unit else unit)
        return xr.Dataset(found)

    def _left(self, name: str) -> Array | None:
        """Return the variance of a quantity over the inputs if the simulator were known."""
        if self.one_function is None:
            return None
        values = self.one_function.quantities[name].transpose(*LEAD, ...).values
        return self.one_function.left(np.asarray(values)[0, :, 0, 0])

    @cached_property
    def _parts(self) -> dict[str, Any]:
        out = {}
        for name in map(str, self.draws):
            y, _ = self.full(name)
            out[name] = nested(y, self._left(name)) if self.nested else crossed(y, self.sampling)
        return out

    def one(self, output: str | None) -> str:
        """Return the name of a quantity; `output` may be left out when there is only one.

        Raises
        ------
        InputError
            When it is unknown, or there are several and none is named.
        """
        names = [str(name) for name in self.draws]
        if output is None and len(names) > 1:
            raise InputError(f"Which quantity? There are {names}; pass output=...")
        if output is not None and output not in names:
            raise InputError(f"There is no quantity {output!r}; there are {names}.")
        return names[0] if output is None else output

    # ------------------------------------------------------------------------------------------------------ the answers
    @property
    def mean(self) -> xr.Dataset:
        """Mean of every quantity."""
        return self._each(lambda y, _: np.asarray(y.mean(axis=(0, 1, 2, 3))))

    @property
    def sd(self) -> xr.Dataset:
        """Standard deviation of every quantity, the root of the sum of the parts of its variance."""
        total = self.variance.sum("part")
        return xr.Dataset({name: (total[name] ** 0.5).assign_attrs(array.attrs) for name, array in self.mean.items()})

    @cached_property
    def variance(self) -> xr.Dataset:
        """Parts of the variance of every quantity, dim "part": they sum to it.

        "parameter" is what varies with the inputs; "surrogate" its error at one input, of which one share is common to
        all inputs (`mean_error`) and the rest averages out; then "discrepancy" and "noise", when drawn. By the law of
        total variance in this order, each part given those before.
        """
        kept = [i for i, part in enumerate(PARTS) if i < 2 or part in self.holds]
        found = {}
        for name in map(str, self.draws):
            _, like = self.full(name)
            values = self._parts[name].variance[kept]
            found[name] = xr.DataArray(values, dims=("part", *like.dims), coords=like.coords)
        return xr.Dataset(found, coords={"part": [PARTS[i] for i in kept]})

    @property
    def mean_error(self) -> xr.Dataset:
        """Standard deviations of the error of `mean`, dim "source": "surrogate" and "Monte Carlo".

        That of the surrogate is how far the mean would move if the simulator itself took its place: more runs lower
        it. More draws lower the other. After a calibration the data would then say something else of the parameters,
        too, which is a part of the first, as far as the problem is linear within the posterior.
        """
        found = {}
        for name in map(str, self.draws):
            _, like = self.full(name)
            parts = self._parts[name]
            both = np.stack([parts.shared, parts.monte_carlo])
            found[name] = xr.DataArray(both, dims=("source", *like.dims), coords=like.coords, attrs=like.attrs)
        return xr.Dataset(found, coords={"source": ["surrogate", "Monte Carlo"]})

    def quantile(self, q: ArrayLike, prob: float = 0.95) -> xr.Dataset:
        """Return quantiles of every quantity with intervals, dims ("quantile", "bound", ...).

        Parameters
        ----------
        q
            Probabilities between 0 and 1.
        prob
            Of the intervals, bounds "lower" and "upper" beside the "estimate": they hold the surrogate's error (after
            a calibration that given the data, which shifts all draws of a quantity) and the Monte Carlo error.

        Raises
        ------
        InputError
            When a probability is not between 0 and 1.

        Examples
        --------
        ``result.quantile([0.05, 0.95]).sel(bound="estimate")``
        """
        levels = _levels(q)
        check.probability("quantile", "prob", prob)

        def each(y: Array, parts: Parts) -> Array:
            if self.nested:
                return np.stack([np.stack(nested_quantile(y, level, parts, prob)) for level in levels])
            return np.stack([np.stack(crossed_quantile(y, level, self.sampling, prob)) for level in levels])

        found = self._each(each, ("quantile", "bound"))
        return found.assign_coords(quantile=levels, bound=["estimate", "lower", "upper"])

    def interval(self, prob: float = 0.95) -> xr.Dataset:
        """Return equal-tailed intervals of every quantity, dim "bound" with "lower" and "upper".

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        check.probability("interval", "prob", prob)
        ends = [0.5 - 0.5 * prob, 0.5 + 0.5 * prob]
        found = self._each(lambda y, _: np.asarray(np.quantile(y, ends, axis=(0, 1, 2, 3))), ("bound",))
        return found.assign_coords(bound=["lower", "upper"])

    def exceedance(
        self, threshold: ArrayLike, output: str | None = None, *, below: bool = False, prob: float = 0.95
    ) -> xr.Dataset:
        """Return the probability that a quantity exceeds a threshold, with an interval.

        Parameters
        ----------
        threshold
            A number, or several: then there is a dim "threshold".
        output
            Which quantity; may be left out when there is one.
        below
            Whether the probability of less than the threshold is meant.
        prob
            Of the interval.

        Returns
        -------
        xarray.Dataset
            "probability"; "lower" and "upper", which hold the surrogate's error and the Monte Carlo error; and these
            two as standard deviations, "surrogate" and "monte_carlo". Where an interval reaches from near zero to many
            times the probability, ask `uq.rare_event`.

        Raises
        ------
        InputError
            When the quantity is unknown or must be named, a threshold is not finite, or `prob` is not between 0 and 1.
        """
        name = self.one(output)
        check.probability("exceedance", "prob", prob)
        levels = np.atleast_1d(np.asarray(threshold, dtype=np.float64))
        if levels.ndim != 1 or not np.isfinite(levels).all():
            raise InputError(
                f"exceedance: threshold is {threshold!r}; give a finite number, or several in one dimension."
            )
        y, like = self.full(name)
        rows = []
        for level in levels:
            if self.nested:
                found = nested_probability(y, level, below, self._parts[name], prob)
            else:
                found = crossed_probability(y < level if below else y > level, self.sampling, prob)
            rows.append(np.stack(found))
        keys = ("probability", "lower", "upper", "surrogate", "monte_carlo")
        values = np.stack(rows, axis=1)
        coords = {**like.coords, "threshold": levels}
        out = xr.Dataset(
            {key: xr.DataArray(values[i], dims=("threshold", *like.dims), coords=coords) for i, key in enumerate(keys)},
            attrs={"output": name, "side": "below" if below else "above", "prob": prob},
        )
        out["threshold"].attrs["unit"] = like.attrs.get("unit", "")
        return out if np.ndim(threshold) else out.isel(threshold=0)

    def density(self, output: str | None = None, prob: float = 0.95, **at: float) -> xr.Dataset:
        """Return the density of a scalar quantity, along the dim "value".

        Parameters
        ----------
        output
            Which quantity; may be left out when there is one.
        prob
            Of the band "lower" to "upper": the densities under different functions of the surrogate, after a
            calibration those that are likely given the data (which shift all draws). Without an error there is none.
        **at
            Where along its other dims: the nearest coordinate, ``hour=3.0``; the number of a condition.

        Raises
        ------
        InputError
            When the quantity is a curve and `at` does not say where.
        """
        name = self.one(output)
        check.probability("density", "prob", prob)
        unknown = sorted(set(at) - self._rest(name))
        missing = sorted(self._rest(name) - set(at))
        if unknown or missing:
            raise InputError(
                f"density: {name!r} has the dims {sorted(self._rest(name))}, at has {sorted(at)}; give at= a value "
                "for each of these dims."
            )
        y, like = self.full(name)
        index = tuple(_nearest(like, str(dim), at[str(dim)]) for dim in like.dims)
        where: Any = (..., *index)
        values = y[where].reshape(len(y), -1)
        grid, each = _densities(values.reshape(1, -1) if self.nested else values)
        if self.nested and self._parts[name].shared[index] > 0.0:
            _, centred, shift = functions_given_data(y, self._parts[name])
            x, (one,) = _densities(centred[where].reshape(1, -1))
            z = ndtri((np.arange(SHIFTED) + 0.5) / SHIFTED)
            each = np.interp(grid - z[:, None] * shift[index], x, one, 0.0, 0.0)
        tail = 0.5 * (1.0 - prob)
        found = {"density": ("value", each.mean(axis=0))}
        if len(each) > 1:
            low, high = np.quantile(each, [tail, 1.0 - tail], axis=0)
            found |= {"lower": ("value", low), "upper": ("value", high)}
        out = xr.Dataset(found, coords={"value": grid}, attrs={"output": name, "prob": prob})
        out["value"].attrs["unit"] = like.attrs.get("unit", "")
        return out

    def decide(self, loss: Callable[[xr.Dataset, Any], Any], actions: Sequence[Any]) -> Decision:
        """Return the expected loss of each action, the best action, and the probability that it is the best.

        Use it when the answer is not a number but what to do: treat or not, which dose, which device.

        Parameters
        ----------
        loss
            Function of a table and an action: the table is a Dataset with the dim "draw" that holds quantities and
            inputs (and "condition", when there are several: an action may be one of them). It returns the loss of each
            draw, a DataArray with the dim "draw" only, small is good. A utility is a negative loss.
        actions
            What may be done, at least one: names, numbers, anything.

        Returns
        -------
        Decision
            Print it; `value_of_information()` and `value_of_measurement()` say what knowing more would be worth.

        Raises
        ------
        InputError
            When there is no action, or the loss is something else than one finite number per draw.

        Examples
        --------
        ``result.decide(lambda table, dose: (table["peak"] * dose / 100 - 2.0) ** 2, actions=[50, 100, 200])``
        """
        if isinstance(actions, str) or not len(actions) or len(set(map(str, actions))) < len(actions):
            raise InputError(f"decide: actions is {actions!r}; give a sequence of different ones.")
        table = flat_table(self.draws, self.inputs)
        shape = tuple(self.draws.sizes.get(dim, 1) for dim in LEAD)
        losses = np.stack([_loss_of(loss, table, action).reshape(shape) for action in actions])
        known = None
        if self.one_function is not None:
            of_one = flat_table(self.one_function.quantities, self.inputs)
            known = np.stack([_loss_of(loss, of_one, action) for action in actions])
        return decided(losses, list(actions), self.inputs, table, self.nested, self.sampling, known, self.one_function)

    def table(self, prob: float = 0.95) -> pd.DataFrame:
        """Return one row per scalar quantity (by condition): mean, its error, sd, interval, fractions of the variance.

        `error_surrogate` and `error_monte_carlo` are errors of the mean, as standard deviations. The columns
        ``fraction from ...`` hold the parts of the variance, divided by their sum.

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        tables = (self.mean, self.variance, self.mean_error, self.interval(prob))
        tail = 50.0 * (1.0 - prob)
        rows: dict[str, dict[str, Any]] = {}
        for name in map(str, self.draws):
            if self._rest(name) - {"condition"}:
                continue
            several = "condition" in tables[0][name].dims
            for i in range(tables[0][name].sizes["condition"] if several else 1):
                at = {"condition": i} if several else {}
                mean, variance, error, ends = (table[name].isel(at) for table in tables)
                known = [f"{key}={value.item():g}" for key, value in mean.coords.items()] if several else []
                total = float(variance.sum())
                rows[", ".join([name, *known])] = {
                    "mean": float(mean),
                    "error_surrogate": float(error[0]),
                    "error_monte_carlo": float(error[1]),
                    "sd": np.sqrt(total),
                    f"{tail:g}%": float(ends[0]),
                    f"{100 - tail:g}%": float(ends[1]),
                    **{
                        f"fraction from {part}": float(value) / total if total > 0.0 else np.nan
                        for part, value in zip(variance["part"].values, variance.values, strict=True)
                    },
                    "unit": mean.attrs.get("unit", ""),
                }
        return pd.DataFrame.from_dict(rows, orient="index")


def _loss_of(loss: Callable[[xr.Dataset, Any], Any], table: xr.Dataset, action: Any) -> Array:
    """Return the loss of an action at every draw of a table."""
    value = loss(table, action)
    if not isinstance(value, xr.DataArray) or value.dims != ("draw",) or value.size != table.sizes["draw"]:
        got = value.dims if isinstance(value, xr.DataArray) else type(value).__name__
        raise InputError(
            f"decide: the loss of {action!r} is {got}; return a DataArray with the dim 'draw' only, such as "
            "0.0 * table['y'] + cost."
        )
    if not np.isfinite(value.values).all():
        raise InputError(f"decide: the loss of {action!r} is not finite at every draw.")
    return np.asarray(value.values, dtype=np.float64)


def _levels(q: ArrayLike) -> Array:
    levels = np.atleast_1d(np.asarray(q, dtype=np.float64))
    if levels.ndim != 1 or not ((levels > 0.0) & (levels < 1.0)).all():
        raise InputError(f"q is {q!r}; give probabilities between 0 and 1, such as [0.05, 0.95].")
    return levels


def _nearest(like: xr.DataArray, dim: str, value: float) -> int:
    if dim == "condition":
        if not 0 <= int(value) < like.sizes[dim]:
            raise InputError(f"density: condition is {value!r}; give a number from 0 to {like.sizes[dim] - 1}.")
        return int(value)
    return int(np.argmin(np.abs(np.asarray(like[dim].values, dtype=np.float64) - value)))


def _densities(values: Array) -> tuple[Array, Array]:
    """Return a grid (GRID,) and the densities (F, GRID) of values (F, n).

    Gaussian kernels on a histogram of four bins a point, with Silverman's bandwidth.
    """
    spread = float(min(values.std(), np.subtract(*np.quantile(values, [0.75, 0.25])) / 1.349) or values.std())
    width = 0.9 * (spread or 1e-12 * max(1.0, float(np.abs(values).max()))) * values.shape[1] ** -0.2
    low, high = np.quantile(values, [CUT, 1.0 - CUT]) + np.array([-MARGIN, MARGIN]) * width
    bins = 4 * GRID
    at = np.clip(((values - low) / (high - low) * bins).astype(np.int64), -1, bins) + 1
    flat = at + (bins + 2) * np.arange(len(values))[:, None]
    counts = np.bincount(flat.ravel(), minlength=(bins + 2) * len(values)).reshape(len(values), -1)[:, 1:-1]
    centres = low + (np.arange(bins) + 0.5) * (high - low) / bins
    grid = np.linspace(low, high, GRID)
    kernel = np.exp(-0.5 * ((grid[:, None] - centres) / width) ** 2) / (width * np.sqrt(2.0 * np.pi))
    return grid, np.asarray(counts @ kernel.T / values.shape[1])


# --------------------------------------------------------------------------------------------------------- the function
@taught
@single_threaded
def propagate(
    source: Surrogate | Posterior | SubjectPosterior,
    inputs: Any = None,
    *,
    of: str | Sequence[str] | Mapping[str, str | Callable[[xr.Dataset], Any]] | None = None,
    conditions: Mapping[str, object] | None = None,
    coords: Mapping[str, object] | None = None,
    noise: Any = None,
    discrepancy: bool = True,
    realisation: Realised = "none",
    draws: int | None = None,
    functions: int | None = None,
    outside: str = "error",
    rng: RandomState = 0,
) -> Propagation:
    """Propagate uncertain inputs through a surrogate to its outputs, and to functions of them.

    Use it with a surrogate for the prior (a population, a tolerance, what is not known yet) or for draws of your own,
    and with a posterior for what is known after a calibration. Joint draws of the whole surrogate carry its error into
    every number.

    Parameters
    ----------
    source
        A surrogate, or the posterior of a calibration; its error then is the one given the data.
    inputs
        Of a surrogate: a `ParameterSpace` (by default its own), or draws by name, each (S,): a mapping, a DataFrame, or
        a Dataset such as ``posterior.draws`` of another calibration.
    of
        What to return: names of outputs (all by default), or by name plain functions, each of a Dataset with the dim
        "draw" that holds outputs, inputs and the functions before it, and returns a DataArray with the dim "draw".
    conditions
        Known inputs, numbers or arrays of one length; of a posterior those that were observed when left out.
    coords
        By dim, one-dimensional; all simulated ones when left out.
    noise
        Measurement noise, for what a new measurement would show. Of a surrogate by output: a standard deviation or a
        noise model such as `uq.GaussianNoise`. Of a posterior: True, that which was inferred.
    discrepancy
        Of a posterior whether reality is predicted (default) or the simulator at its best parameters.
    realisation
        Of a posterior of a stochastic simulator: "none" (default), the mean of its runs, "same" or "new", as in
        `Posterior.predict`; then it is part of the surrogate's share.
    draws
        Of the inputs: 1024 of a prior (a Sobol sequence), all of yours, 500 of a posterior.
    functions
        Of the surrogate: 64 at all draws of a prior; 8 for each draw of a posterior.
    outside
        What to do when more than 1 % of the prior or of the draws lie outside of the design box: "error" (default) or
        "extrapolate". A prior is otherwise conditioned on the box.
    rng
        Whole number or generator.

    Returns
    -------
    Propagation
        Print it; mean, parts of the variance, quantiles, densities, probabilities, decisions.

    Raises
    ------
    InputError
        Unknown outputs, inputs, conditions or dims; a function that returns something else; too many numbers.
    DataError
        Draws that are not finite or differ in length; a function that has no value for some draws.
    ExtrapolationError
        When more than 1 % of the prior or of the draws lie outside of the design box.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> space = uq.ParameterSpace(k=uq.LogNormal(median=1.0, sigma=0.3))
    >>> design = uq.sobol(space, 16, rng=1)
    >>> surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": np.sqrt(design["k"].values)}, space=space))
    >>> result = uq.propagate(surrogate, of={"half": lambda table: 0.5 * table["y"]}, rng=1)
    >>> bool(abs(result.mean["half"] - 0.5 * np.exp(0.3**2 / 8)) < 0.002)
    True
    """
    if isinstance(source, SubjectPosterior):
        refuse(source.population.problem, "propagate")
    after = isinstance(source, Posterior)
    if not after and not isinstance(source, Surrogate):
        raise InputError(f"propagate: got a {type(source).__name__}; give a surrogate or a posterior.")
    for key, count in (("draws", draws), ("functions", functions)):
        least = 2 if key == "draws" or not after else 1
        check.whole("propagate", key, count, least=least, optional=True)
    generator = as_generator(rng)
    if after:
        posterior = cast(Posterior, source)
        refuse(posterior.problem, "propagate")
        if inputs is not None:
            raise InputError("propagate: a posterior has draws of its own; leave inputs out, or give its surrogate.")
        layouts = posterior.single.surrogate.layouts
    else:
        layouts = cast(Surrogate, source).layouts
    wanted, names = _wanted(of, list(layouts))
    if after:
        if noise is not None and not isinstance(noise, bool):
            raise InputError(f"propagate: noise is {noise!r}; of a posterior give True for what was inferred.")
        drawn = drawn_from_posterior(
            posterior,
            names,
            conditions,
            coords,
            bool(noise),
            discrepancy,
            realisation,
            draws or POSTERIOR_DRAWS,
            functions or NESTED_FUNCTIONS,
            generator,
        )
    else:
        drawn = drawn_from_surrogate(
            cast(Surrogate, source),
            names,
            inputs,
            conditions,
            coords,
            read_noise(noise, names),
            draws,
            functions or FUNCTIONS,
            outside,
            generator,
        )
    return _result(drawn, wanted, cast(Posterior, source) if after else None)


def _wanted(of: Any, outputs: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the quantities by name, and the outputs that they need: all when there are functions."""
    if of is None:
        of = outputs
    given = {of: of} if isinstance(of, str) else of
    given = dict(given) if isinstance(given, Mapping) else {str(name): name for name in given}
    wrong = [name for name, one in given.items() if not callable(one) and one not in outputs]
    if wrong or not given:
        raise InputError(f"propagate: of has {wrong}; give functions by name, or some of the outputs {outputs}.")
    functions = any(callable(one) for one in given.values())
    return given, outputs if functions else list(dict.fromkeys(given.values()))


def _result(drawn: Drawn, wanted: Mapping[str, Any], posterior: Posterior | None) -> Propagation:
    found = _quantities(drawn, wanted)
    one = None
    if posterior is not None and drawn.known is not None:
        theta = {str(name): column.values for name, column in drawn.inputs.items()}
        one = one_function(posterior, theta, _quantities(drawn._replace(outputs=drawn.known), wanted))
    single = [dim for dim in LEAD[2:] if found.sizes[dim] == 1]
    found = found.isel(dict.fromkeys(single, 0), drop=True)
    return Propagation(found, drawn.inputs, drawn.holds, drawn.nested, drawn.outside, drawn.sampling, one)


def _quantities(drawn: Drawn, wanted: Mapping[str, Any]) -> xr.Dataset:
    if any(callable(one) for one in wanted.values()):
        return derived(drawn, wanted)
    return xr.Dataset({name: drawn.outputs[one] for name, one in wanted.items()})

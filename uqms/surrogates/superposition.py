"""A surrogate of the response to a unit dose as one of the responses to any doses of a linear system.

Scores are those of the unit response. Rows at a time t of a regimen are sums of rows of the unit response,

    row(t) = sum_j a_j row_unit(t - t_j),

with the mean of row_unit over an infusion in its place, so that offset, basis and truncation are superposed alike: the
error of the unit response is one function for all doses and all patients.

==========  ===================================================================================  ==========
symbol      meaning                                                                              shape
==========  ===================================================================================  ==========
N           points: times of regimens                                                            ()
tau         nodes, times since a dose at which rows of the unit response are required            (M,)
W           weight of each node in each point                                                    (N, M)
==========  ===================================================================================  ==========
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import sparse

from uqms import _checks as check
from uqms._teaching import missing, taught
from uqms._threads import single_threaded
from uqms._typing import Array, Ints, RandomState
from uqms.errors import ConformanceError, DataError, ExtrapolationError, InputError, UnitError
from uqms.parameters import Box, ParameterSpace
from uqms.parameters.regimen import Dose, Regimen, counts, elapsed, joined
from uqms.surrogates.outputs import Decoder, Layout, spline_weights
from uqms.surrogates.prediction import Prediction, predicted_at
from uqms.surrogates.process import Scores, sobol_points
from uqms.surrogates.protocol import FunctionDraws, Surrogate, depends_on_input, fixed_rows, inputs_of
from uqms.surrogates.transforms import Identity

__all__ = ["REGIMEN", "OwnRegimens", "RowsByPlace", "Superposition", "check_superposition"]

REGIMEN = "regimen"  # dim with the number of each row's regimen
MEASURED = 64  # points over the box at which the end of the unit response is measured
NODES = 3  # of the Gauss-Legendre rule between two simulated times: exact for the cubic interpolation there
CHUNK = 8192  # nodes whose rows are held at once
SHOWN = 201  # times of predictions that name none
FORWARDED = frozenset(
    {
        "attrs",
        "compiled_error",
        "compiled_process",
        "differentiable",
        "exact",
        "inputs",
        "marginal_scores",
        "point_estimated",
        "process",
        "runs",
        "scales",
    }
)


class _Nodes(NamedTuple):
    """Nodes of one output of the unit response: which point each belongs to, time since the dose, and weight."""

    point: Ints
    tau: Array
    weight: Array


@taught
@final
@dataclass(frozen=True, eq=False)
class Superposition:
    """A surrogate of the response to a unit dose, for patients with any regimens: of systems linear in the dose.

    Use it where the concentration doubles with the dose, as in compartment models with first-order processes: runs are
    needed for the unit dose only, and one surrogate serves all patients, whatever they were given. It goes where the
    surrogate goes. Outputs get a second dim "regimen", the number of a regimen (`Regimen.number`), as observations of
    `Observations.from_events` have it. `check_superposition` measures whether a simulator is linear.

    Parameters
    ----------
    response
        Fitted surrogate, or a `DirectSimulator`, of the response to an amount of 1 at time 0: outputs with one dim, the
        time since the dose, simulated from 0 on.
    regimens
        Those that are asked for: `Observations.regimens`, or regimens in a list. More of them:
        ``superposition.with_regimens(...)``; predictions of a posterior add theirs.
    outputs
        Name of each output → output of `response`, or with several routes a mapping from route to output:
        ``{"conc": {"oral": "conc_oral", "iv": "conc_iv"}}``. By default all outputs with one dim, under their names.
    tolerance
        After the last simulated time the unit response counts as 0 where it is there at most this fraction of its
        maximum, at each of 64 points over the box; `tails` has the measured fractions. Where it is more, times that
        reach further are an error.

    Raises
    ------
    InputError
        No regimens, unknown outputs, an output with a transform (a sum of logarithms is not the logarithm of the sum),
        a unit response that was not simulated from 0 on, a route without an output.
    UnitError
        When outputs of two routes have different units.
    ConformanceError
        A stochastic simulator, a surrogate whose rows depend on the input.

    Notes
    -----
    The result is exact for the surrogate: infusions are integrals of its interpolation between simulated times. Save
    the surrogate of the unit response by itself; a posterior is saved with both.

    Examples
    --------
    >>> import numpy as np, xarray as xr, uqms as uq
    >>> hours = np.linspace(0.0, 24.0, 25)
    >>> space = uq.ParameterSpace(k=uq.Uniform(0.3, 0.6))
    >>> design = uq.sobol(space, 16, rng=1)
    >>> unit = xr.DataArray(np.exp(-np.outer(design["k"], hours)), dims=("run", "time"), coords={"time": hours})
    >>> runs = uq.ensemble.build(design, {"conc": unit}, space=space)
    >>> twice = uq.Regimen.repeated(100.0, every=6.0, doses=2)
    >>> uq.Superposition(uq.GaussianProcess().fit(runs), [twice])
    <Superposition of conc over 1 regimen; the unit response was simulated up to 24>
    """

    response: Surrogate
    regimens: tuple[Regimen, ...]
    outputs: Mapping[str, Any] | None = None
    tolerance: float = 1e-3

    def __init__(
        self,
        response: Surrogate,
        regimens: Mapping[str, Regimen] | Iterable[Regimen] | Regimen,
        *,
        outputs: Mapping[str, str | Mapping[str, str]] | None = None,
        tolerance: float = 1e-3,
    ) -> None:
        if hasattr(regimens, "regimens"):
            raise InputError(
                f"Superposition: regimens is {type(regimens).__name__}; give its doses: uq.Superposition(response, "
                "data.regimens)."
            )
        given = (regimens,) if isinstance(regimens, Regimen) else regimens
        found = joined(given.values() if isinstance(given, Mapping) else given)
        if not found:
            raise InputError("Superposition: there are no regimens; give observations.regimens, or a list of them.")
        if not isinstance(response, Surrogate) or isinstance(response, type | Superposition):
            raise InputError(
                f"Superposition: response is a {type(response).__name__}; give the fitted surrogate of the response to "
                "a unit dose, or a uq.DirectSimulator."
            )
        if not 0.0 <= check.number("Superposition", "tolerance", tolerance) < 1.0:
            raise InputError(f"Superposition: tolerance is {tolerance}; give a fraction from 0 to below 1.")
        object.__setattr__(self, "response", response)
        object.__setattr__(self, "regimens", found)
        object.__setattr__(self, "tolerance", float(tolerance))
        routes = {route for one in found for route in one.routes}
        read = _read_outputs(response, outputs, routes)
        object.__setattr__(self, "outputs", MappingProxyType(read))
        for name in {source for of_route in self._sources.values() for source in of_route.values()}:
            _check_output(response, name)
        if getattr(response, "noise", None) is not None or self.attrs.get("noise", "none") != "none":
            raise ConformanceError(
                "Superposition: this is the surrogate of a stochastic simulator, whose doses would share one "
                "realisation. Emulate the mean of replicates, GaussianProcess(noise='none'), or the whole regimen."
            )
        _ = self.layouts

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in FORWARDED and "response" in self.__dict__:
                return getattr(self.response, name)
            advice = {"save": "save the surrogate of the unit response, superposition.response.save(path)"}
            raise missing(type(self), "A superposition", name, advice)

    def __repr__(self) -> str:
        count = len(self.regimens)
        ends = " and ".join(f"{one:g}" for one in sorted({self._grid(source)[-1] for source in self._used}))
        return (
            f"<Superposition of {', '.join(self.layouts)} over {count} regimen{'s' * (count > 1)}; the unit response "
            f"was simulated up to {ends}>"
        )

    def with_regimens(self, *more: Regimen) -> "Superposition":
        """Return the same with further regimens; those that are known already count once.

        Raises
        ------
        InputError
            When something else is given, or a route has no output.
        """
        whole = joined([*self.regimens, *more])
        return self if whole == self.regimens else replace(self, regimens=whole)

    @property
    def attrs(self) -> Mapping[str, str]:
        """Those of the unit response: the space, where a calibration looks for the priors."""
        found: Mapping[str, str] = getattr(self.response, "attrs", {})
        return found

    @property
    def noise(self) -> None:
        """Simulators of a superposition are deterministic."""
        return None

    @property
    def domain(self) -> Box:
        """The design box of the unit response."""
        return self.response.domain

    @cached_property
    def _sources(self) -> dict[str, dict[str, str]]:
        """By output and route: output of the unit response; the route "*" stands for all."""
        given = self.outputs or {}
        return {name: {"*": one} if isinstance(one, str) else dict(one) for name, one in given.items()}

    @property
    def _used(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(source for one in self._sources.values() for source in one.values()))

    @cached_property
    def layouts(self) -> Mapping[str, Layout]:
        """Dims (time, "regimen"), coordinates and unit of every output."""
        numbers = np.array([one.number for one in self.regimens])
        out = {}
        for name, of_route in self._sources.items():
            layouts = [self.response.layouts[source] for source in of_route.values()]
            units = sorted({one.unit for one in layouts if one.unit})
            if len(units) > 1:
                raise UnitError(f"Superposition: outputs of {name!r} have the units {units}. Convert one of them.")
            dims = {one.dims for one in layouts}
            if len(dims) > 1:
                raise InputError(f"Superposition: outputs of {name!r} have the dims {sorted(dims)}; name both alike.")
            (dim,) = layouts[0].dims
            coords = {dim: self._shown(tuple(of_route.values())), REGIMEN: numbers}
            out[name] = Layout((dim, REGIMEN), coords, units[0] if units else "")
        return MappingProxyType(out)

    def _grid(self, source: str) -> Array:
        layout = self.response.layouts[source]
        return np.sort(np.asarray(layout.coords[layout.dims[0]], dtype=np.float64))

    def _shown(self, sources: tuple[str, ...]) -> Array:
        """Return times of predictions that name none, from the first dose to where the response ends."""
        grid = self._grid(sources[0])
        end = min(float(self._grid(source)[-1]) for source in sources)
        first = min(one.times[0] for one in self.regimens)
        decayed = all(self.tails[source] <= self.tolerance for source in sources)
        last = max(one.times[-1] for one in self.regimens) if decayed else first
        if first == last == 0.0:
            return grid[grid <= end]
        return np.linspace(first, last + end, SHOWN)

    @cached_property
    def tails(self) -> Mapping[str, float]:
        """By output of the unit response: its size at the last simulated time, relative to its maximum.

        It is the largest fraction at 64 points over the design box.
        """
        u = sobol_points(MEASURED, self.domain.d)
        found = [self.response.scores(u[i : i + 1]) for i in range(len(u))]
        out = {}
        for source in self._used:
            rows = fixed_rows(self.response, source)
            layout = self.response.layouts[source]
            order = np.argsort(layout.coords[layout.dims[0]])
            sizes = []
            for scores in found:
                weights = np.exp(scores.log_weights - np.logaddexp.reduce(scores.log_weights))
                y = np.abs(rows.offset + rows.basis @ np.einsum("h,hq->q", weights, scores.mean[:, 0]))
                if np.isfinite(y).all() and y.max() > 0.0:
                    sizes.append(float(y[order[-1]] / y.max()))
            out[source] = max(sizes, default=1.0)
        return MappingProxyType(out)

    @property
    def simulated(self) -> tuple[str, ...]:
        """Outputs of the unit response that are superposed."""
        return self._used

    @single_threaded
    def predict(self, points: Mapping[str, object] | xr.Dataset | pd.DataFrame) -> Prediction:
        """Predict every output at points given in the inputs' own units, under all regimens.

        Raises
        ------
        ConformanceError
            When the unit response is no fitted surrogate of the library.

        Warns
        -----
        ExtrapolationWarning
            When a point lies outside of the design box.
        """
        if not hasattr(self.response, "marginal_scores"):
            raise ConformanceError(
                f"predict: the unit response is a {type(self.response).__name__}. Evaluate it, and use "
                "regimen.superpose(...), or predict with a posterior."
            )
        return predicted_at(self, points, self.response.marginal_scores)

    def inputs_of(self, output: str) -> tuple[str, ...]:
        """Return the inputs that an output depends on.

        Raises
        ------
        InputError
            When there is no such output.
        """
        used = {name for source in self._known(output).values() for name in inputs_of(self.response, source)}
        return tuple(name for name in self.domain.names if name in used)

    def _known(self, output: str) -> dict[str, str]:
        if output not in self._sources:
            raise InputError(f"The surrogate has no output {output!r}; it has {list(self._sources)}.")
        return self._sources[output]

    def scores(self, u: Array) -> Scores:
        """Return mean and covariance of the scores at `u`, those of the unit response."""
        return self.response.scores(u)

    def scores_reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return the derivative (k, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar) at `u` (k, d)."""
        return self.response.scores_reverse(u, mean_bar, covariance_bar)

    def functions(self, n: int, rng: RandomState) -> FunctionDraws:
        """Return n draws of the whole function."""
        return self.response.functions(n, rng)

    def decode(self, output: str, coords: Mapping[str, ArrayLike] | None = None) -> Decoder:
        """Return the rows of an output at pointwise times and regimens (all of `layouts` when None).

        Raises
        ------
        InputError
            When there is no such output, or a regimen is unknown.
        DataError
            When a dim is missing.
        ExtrapolationError
            When a time is longer after a dose than was simulated and the unit response has not decayed there.
        """
        return self._superposed(*self._all_nodes(output, coords))

    def superposed(
        self, output: str, coords: Mapping[str, ArrayLike], curves: Mapping[str, Array]
    ) -> Float[np.ndarray, "n N"]:
        """Return an output at N times of regimens, from runs: curves (n, m) of each output of the unit response.

        Between simulated times runs are interpolated by the spline that the surrogate uses.

        Raises
        ------
        InputError, DataError, ExtrapolationError
            As for `decode`.
        """
        parts, count = self._all_nodes(output, coords)
        total = np.zeros((count, len(next(iter(curves.values())))))
        for source, pieces in parts.items():
            layout, nodes = self.response.layouts[source], _joined(pieces)
            tau, place = np.unique(nodes.tau, return_inverse=True)
            weights = sparse.csr_array((nodes.weight, (nodes.point, place.reshape(-1))), shape=(count, len(tau)))
            between = spline_weights(np.asarray(layout.coords[layout.dims[0]], dtype=np.float64), tau)
            total += weights @ (between @ curves[source].T)
        return np.ascontiguousarray(total.T)

    def _all_nodes(self, output: str, coords: Mapping[str, ArrayLike] | None) -> tuple[dict[str, list[_Nodes]], int]:
        """Return the nodes of points of an output by output of the unit response, and the number of points."""
        of_route = self._known(output)
        layout = self.layouts[output]
        dim = layout.dims[0]
        if coords is None:
            mesh = np.meshgrid(layout.coords[dim], layout.coords[REGIMEN], indexing="ij")
            coords = dict(zip(layout.dims, (one.ravel() for one in mesh), strict=True))
        if set(coords) != set(layout.dims):
            raise DataError(
                f"Output {output!r} has coordinates {list(layout.dims)}, got {sorted(coords)}. Give one value of each "
                "a point; the regimen is a uq.Regimen, or its number."
            )
        times, numbers = np.broadcast_arrays(
            *(np.atleast_1d(np.asarray(coords[name], dtype=np.float64)) for name in layout.dims)
        )
        parts: dict[str, list[_Nodes]] = {source: [] for source in of_route.values()}
        for number in np.unique(numbers):
            of_regimen, regimen = np.flatnonzero(numbers == number), self._regimen(float(number))
            for dose, window in zip(regimen.doses, regimen.windows, strict=True):
                points = of_regimen[counts(times[of_regimen], window)]
                source = of_route.get("*") or of_route[dose.route]
                parts[source].append(self._nodes(source, dose, points, times[points], dim))
        return parts, len(times)

    def _regimen(self, number: float) -> Regimen:
        if number not in self._by_number:
            raise InputError(
                f"The surrogate has no regimen of the number {number:.0f}; it has {len(self.regimens)} others. Name it "
                "beforehand: posterior.with_regimens(regimen), or superposition.with_regimens(regimen). "
                "posterior.predict(..., coords={'regimen': regimen}) does that itself."
            )
        return self._by_number[number]

    @cached_property
    def _by_number(self) -> dict[float, Regimen]:
        return {one.number: one for one in self.regimens}

    def _nodes(self, source: str, dose: Dose, points: Ints, times: Array, dim: str) -> _Nodes:
        """Return the nodes of a dose, and of those before it at steady state."""
        grid = self._grid(source)
        end = float(grid[-1])
        latest = float(times.max(initial=dose.time) - dose.time)
        decayed = self.tails[source] <= self.tolerance
        if not decayed and (dose.interval or latest > end * (1.0 + 1e-9)):
            self._refuse(source, dose, latest, dim)
        past = 0
        if dose.interval:
            earliest = float(times.min(initial=dose.time) - dose.time)
            past = max(0, int(np.ceil((end + dose.duration - earliest) / dose.interval)))
        found = []
        for k in range(past + 1):
            tau = elapsed(times, dose.time - k * dose.interval)
            tau = np.where(np.abs(tau - end) <= 1e-9 * max(1.0, end), end, tau)
            if dose.duration:
                found.append(_infusion(tau, dose, points, grid))
                continue
            keep = (tau >= 0.0) & (tau <= end)
            found.append(_Nodes(points[keep], tau[keep], np.full(int(keep.sum()), dose.amount)))
        return _joined(found)

    def _refuse(self, source: str, dose: Dose, latest: float, dim: str) -> None:
        end = float(self._grid(source)[-1])
        what = (
            f"a steady state adds up all doses every {dose.interval:g} before"
            if dose.interval
            else f"{latest:g} after a dose is asked for"
        )
        need = (
            "Simulate the unit response until it has decayed"
            if dose.interval
            else f"Simulate the unit response up to {latest:g}"
        )
        raise ExtrapolationError(
            f"Output {source!r}: {what}, but {dim} was simulated up to {end:g}, where up to {self.tails[source]:.2g} "
            f"of the maximum is left over the design box. {need}, narrow the design box, or accept that this is cut: "
            f"uq.Superposition(..., tolerance={np.ceil(100.0 * self.tails[source]) / 100.0:g})."
        )

    def _superposed(self, parts: Mapping[str, list[_Nodes]], count: int) -> Decoder:
        """Return the sums of rows of the unit response over nodes."""
        empty = [fixed_rows(self.response, source, self._first(source)) for source in parts]
        total = Decoder(
            np.zeros(count), np.zeros((count, empty[0].basis.shape[1])), np.zeros((count, empty[0].truncation.shape[1]))
        )
        for source, pieces in parts.items():
            nodes = _joined(pieces)
            tau, place = np.unique(nodes.tau, return_inverse=True)
            weights = sparse.csc_array((nodes.weight, (nodes.point, place.reshape(-1))), shape=(count, len(tau)))
            (dim,) = self.response.layouts[source].dims
            for start in range(0, len(tau), CHUNK):
                rows = fixed_rows(self.response, source, {dim: tau[start : start + CHUNK]})
                part = sparse.csr_array(weights[:, start : start + CHUNK])
                for whole, unit in zip(total, rows, strict=True):
                    whole += part @ unit
        return total

    def _first(self, source: str) -> dict[str, Array]:
        return {self.response.layouts[source].dims[0]: self._grid(source)[:1]}


@final
@dataclass(frozen=True, eq=False)
class OwnRegimens:
    """A superposition in which each input of a prediction has a regimen of its own, without the dim "regimen".

    Attributes
    ----------
    whole
        The superposition.
    numbers
        Number of the regimen of each input, (n,).
    """

    whole: Superposition
    numbers: Array

    @property
    def domain(self) -> Box:
        """The design box."""
        return self.whole.domain

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """Layouts without the regimen."""
        return {
            name: Layout(one.dims[:1], {one.dims[0]: one.coords[one.dims[0]]}, one.unit)
            for name, one in self.whole.layouts.items()
        }

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__") or "whole" not in self.__dict__:
                raise AttributeError(name)
            return getattr(self.whole, name)

    def scores(self, u: Array) -> Scores:
        """Return mean and covariance of the scores at `u`."""
        return self.whole.scores(u)

    def scores_reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return the derivative (k, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar) at `u` (k, d)."""
        return self.whole.scores_reverse(u, mean_bar, covariance_bar)

    def functions(self, n: int, rng: RandomState) -> FunctionDraws:
        """Return n draws of the whole function."""
        return self.whole.functions(n, rng)

    def decode(self, output: str, coords: Mapping[str, ArrayLike] | None = None) -> "RowsByPlace":
        """Return the rows of an output at times, for each input those of its regimen."""
        layout = self.layouts[output]
        (dim,) = layout.dims
        times = np.atleast_1d(np.asarray((coords or layout.coords)[dim], dtype=np.float64))
        n, p = len(self.numbers), len(times)
        rows = self.whole.decode(output, {dim: np.tile(times, n), REGIMEN: np.repeat(self.numbers, p)})
        return RowsByPlace(Decoder(*(one.reshape(n, p, *one.shape[1:]) for one in rows)))


@final
@dataclass(frozen=True, eq=False)
class RowsByPlace:
    """Rows of each of n inputs, whatever their values: an `InputDecoder` for these inputs in their order."""

    rows: Decoder  # (n, P), (n, P, q), (n, P, t)

    def at(self, u: Array) -> Decoder:
        """Return the rows (1, ..., n, P, ...) at inputs `u` (..., n, d); of one input, the first ones.

        Raises
        ------
        InputError
            For another number of inputs.
        """
        k, n = u.shape[-2], len(self.rows.offset)
        if k not in (1, n):
            raise InputError(f"predict: there are {k} inputs and {n} regimens; name the regimen in coords.")
        place = np.arange(k)
        lead = (1, *u.shape[:-2], k)
        return Decoder(*(np.broadcast_to(one[place], (*lead, *one.shape[1:])) for one in self.rows))

    def reverse(self, u: Array, bar: Decoder) -> Array:
        """Return zeros: the rows do not depend on the values of the inputs."""
        return np.zeros_like(u)


def _joined(nodes: list[_Nodes]) -> _Nodes:
    if not nodes:
        return _Nodes(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0))
    return _Nodes(*(np.concatenate([getattr(one, name) for one in nodes]) for name in _Nodes._fields))


def _infusion(tau: Array, dose: Dose, points: Ints, grid: Array) -> _Nodes:
    """Return the nodes of an infusion: Gauss-Legendre between simulated times, where the interpolation is a cubic."""
    at, weight = np.polynomial.legendre.leggauss(NODES)
    upper = np.clip(tau, 0.0, grid[-1])
    lower = np.clip(tau - dose.duration, 0.0, grid[-1])
    begin = np.maximum(lower[:, None], grid[:-1])
    half = 0.5 * np.maximum(np.minimum(upper[:, None], grid[1:]) - begin, 0.0)
    row, interval = np.nonzero(half)
    halves = half[row, interval]
    nodes = (begin[row, interval] + halves)[:, None] + halves[:, None] * at
    weights = dose.amount / dose.duration * halves[:, None] * weight
    return _Nodes(np.repeat(points[row], NODES), nodes.ravel(), weights.ravel())


def _read_outputs(
    response: Surrogate, given: Mapping[str, str | Mapping[str, str]] | None, routes: set[str]
) -> dict[str, str | dict[str, str]]:
    known = response.layouts
    if given is None:
        curves = [name for name, layout in known.items() if len(layout.dims) == 1]
        if not curves:
            raise InputError(f"Superposition: no output has one dim, the time since the dose; there are {list(known)}.")
        given = {name: name for name in curves}
    if not isinstance(given, Mapping) or not given:
        raise InputError(f"Superposition: outputs is {given!r}; give a mapping, {{'conc': 'conc'}}.")
    out: dict[str, str | dict[str, str]] = {}
    for name, source in given.items():
        sources = list(source.values()) if isinstance(source, Mapping) else [source]
        unknown = [one for one in sources if one not in known]
        if unknown:
            raise InputError(f"Superposition: the unit response has no output {unknown[0]!r}; it has {list(known)}.")
        if isinstance(source, Mapping):
            lost = sorted(routes - set(source))
            if lost:
                raise InputError(
                    f"Superposition: regimens have the route {lost[0]!r}, but {name!r} is given for {list(source)}. "
                    f"Give the unit response by that route too, outputs={{{name!r}: {{{lost[0]!r}: ...}}}}."
                )
        elif len(routes) > 1:
            raise InputError(
                f"Superposition: regimens have the routes {sorted(routes)}. Give one unit response for each: "
                f"outputs={{{name!r}: {{{', '.join(f'{one!r}: ...' for one in sorted(routes))}}}}}."
            )
        out[str(name)] = dict(source) if isinstance(source, Mapping) else source
    return out


def _check_output(response: Surrogate, name: str) -> None:
    layout = response.layouts[name]
    if not isinstance(layout.transform, Identity):
        raise InputError(
            f"Superposition: {name!r} is modelled by its {layout.transform.name}, and a sum over doses of that is not "
            f"the {layout.transform.name} of the sum. Fit it without a transform, GaussianProcess(outputs={{{name!r}: "
            "Curve()})."
        )
    if len(layout.dims) != 1:
        raise InputError(
            f"Superposition: {name!r} has the dims {list(layout.dims)}; the unit response is a curve over one, the "
            "time since the dose."
        )
    grid = np.sort(np.asarray(layout.coords[layout.dims[0]], dtype=np.float64))
    if len(grid) < 3 or abs(grid[0]) > 1e-9 * max(1.0, grid[-1]):
        raise InputError(
            f"Superposition: {name!r} was simulated at {len(grid)} times from {grid[0]:g} on; at least 3, from the "
            "dose at 0 on, are needed. Add the time 0 to the simulation."
        )
    if depends_on_input(response, name):
        raise ConformanceError(
            f"Superposition: rows of {name!r} depend on the input of this {type(response).__name__}. The unit response "
            "needs rows that are the same over the box."
        )


def _check_simulates(function: object, names: Sequence[str]) -> None:
    """Raise unless it is a function of a regimen, times and the parameters.

    Raises
    ------
    InputError
        The message shows such a function.
    """
    arguments = ", ".join(["regimen", "times", *names])
    how = f"give a function, def simulate({arguments}): ..., that returns a number for each time"
    if not callable(function) or isinstance(function, type):
        raise InputError(f"check_superposition: function is a {type(function).__name__}; {how}.")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of compiled functions
        return
    try:
        signature.bind(None, None, **dict.fromkeys(names))
    except TypeError:
        raise InputError(f"check_superposition: the arguments of the function are {signature}; {how}.") from None


@taught
def check_superposition(
    function: Callable[..., ArrayLike],
    space: ParameterSpace,
    *,
    regimen: Regimen,
    times: ArrayLike,
    points: int = 8,
    tolerance: float = 1e-6,
) -> pd.DataFrame:
    """Measure whether a simulator is linear in its doses, so that superposition holds.

    Use it before `Superposition`, with a function that simulates any regimen: it is run with one dose, with the double
    amount, with the regimen, and compared with sums of its response to a unit dose. Absorption or elimination that
    saturates shows as an error that grows with the amount.

    Parameters
    ----------
    function
        Called as ``function(regimen, times, **point)``; returns the output at the times, shape (n,).
    space
        Its inputs; points fill the central 99.9 % of the priors.
    regimen
        A regimen of the study, with the largest amounts of it.
    times
        When outputs are compared, shape (n,).
    points
        How many points of the space.
    tolerance
        Largest relative error that is accepted; the simulator's own error has to be smaller.

    Returns
    -------
    pandas.DataFrame
        By check, "double amount", "two doses" and "regimen": the largest error relative to the largest output.

    Raises
    ------
    ConformanceError
        When an error is above the tolerance; the message has the errors.
    InputError
        When outputs have another shape, or are not finite.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> space = uq.ParameterSpace(k=uq.Uniform(0.1, 0.5))
    >>> def drug(regimen, times, k):
    ...     return regimen.superpose(lambda t: np.exp(-k * t), times)
    >>> twice = uq.Regimen.repeated(100.0, every=6.0, doses=2)
    >>> bool((uq.check_superposition(drug, space, regimen=twice, times=[1.0, 7.0, 20.0])["error"] < 1e-12).all())
    True
    """
    check.whole("check_superposition", "points", points)
    at = np.asarray(times, dtype=np.float64)
    limit = check.positive("check_superposition", "tolerance", tolerance)
    box = space.box()
    _check_simulates(function, box.names)
    draws = np.asarray(box.from_unit(sobol_points(int(points), box.d)))
    largest = max(regimen.amounts)
    first = regimen.doses[0]
    gap = float(np.ptp(at)) / 3.0 or 1.0
    single = Regimen.single(largest, time=first.time, duration=first.duration, route=first.route)
    cases = {
        "double amount": single.scaled(2.0),
        "two doses": single + single.shifted(gap),
        "regimen": regimen,
    }
    errors = dict.fromkeys(cases, 0.0)
    for i in range(int(points)):
        point = dict(zip(box.names, draws[i].tolist(), strict=True))

        def run(one: Regimen, when: Array, point: Mapping[str, float] = point) -> Array:
            y = np.asarray(function(one, when, **point), dtype=np.float64)
            if y.shape != when.shape or not np.isfinite(y).all():
                raise InputError(
                    f"check_superposition: the function returns shape {y.shape} for {len(when)} times at "
                    f"{dict(point)}; return one finite number for each."
                )
            return y

        def unit(route: str, run: Callable[..., Array] = run) -> Callable[[Array], Array]:
            one = Regimen.single(1.0, route=route)

            def response(tau: Array) -> Array:
                order, inverse = np.unique(tau, return_inverse=True)
                return run(one, order)[inverse.reshape(-1)]

            return response

        for name, case in cases.items():
            expected = case.superpose({route: unit(route) for route in set(case.routes)}, at, tolerance=limit / 10.0)
            got = run(case, at)
            scale = max(float(np.abs(got).max(initial=0.0)), float(np.abs(expected).max(initial=0.0)), 1e-300)
            errors[name] = max(errors[name], float(np.abs(got - expected).max(initial=0.0)) / scale)
    table = pd.DataFrame({"error": errors})
    table.index.name = "check"
    if (table["error"] > limit).any():
        said = ", ".join(f"{name} {error:.2g}" for name, error in errors.items())
        raise ConformanceError(
            f"check_superposition: the simulator is not linear in its doses, relative errors are {said} and {limit:g} "
            "is accepted. Train the surrogate on the regimen, Observations.with_regimen_conditions(); or raise "
            "tolerance= to the simulator's own error if that is larger."
        )
    return table

"""Chains: surrogates of several scales, linked by outputs of one that are inputs of another.

A chain is one surrogate of all its members' outputs. `linked` has the mathematics; here is the graph, what may be in
it, and what a chain is to the rest of the library.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, cast, final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from uqms import _checks as check
from uqms._teaching import missing, taught
from uqms._threads import single_threaded
from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.errors import ConformanceError, InputError, UnitError, UnknownKeyError
from uqms.parameters import Box, Condition, ParameterSpace, Prior
from uqms.parameters.scale import SCALES
from uqms.surrogates.archive import VERSION, Stored
from uqms.surrogates.by_draw import ByDraw, pairing
from uqms.surrogates.fused_chain import chain_block, chain_scores, chain_scores_reverse
from uqms.surrogates.gp import GaussianProcessSurrogate
from uqms.surrogates.linked import Graph, Own, Port, Use
from uqms.surrogates.outputs import Decoder, InputDecoder, Layout, OutputBasis, spline_weights
from uqms.surrogates.pointwise import NamedSurrogate
from uqms.surrogates.process import Scores, normals_at
from uqms.surrogates.protocol import FunctionDraws, Surrogate
from uqms.surrogates.push_forward import PushForward
from uqms.surrogates.run_value import ErrorPart, RunKind, error_parts, joined
from uqms.surrogates.sampled_chain import SampledChain, sampled_chain
from uqms.surrogates.transforms import Identity

__all__ = ["Chain", "ChainDraws", "Link", "link_from_dict"]

ANCHORS = 128  # of draws of members that take links
SEED = 28  # of the order in which members' hyperparameter draws are put together


@taught
@final
@dataclass(frozen=True)
class Link:
    """A number that is taken from a curve or field and passed on: its value at one place, or a weighted sum.

    Parameters
    ----------
    output
        "member.output".
    at
        Of a curve or field, the value at these coordinates: ``{"time": 3.0}``.
    weights
        Or the sum of its values times these weights, a DataArray over its dims: equal ones give the mean, those of a
        quadrature rule the integral. Other functions of a curve, such as its maximum, are not linear: compute them from
        the runs, and let the member learn them as outputs of their own.

    Raises
    ------
    InputError
        When both or neither are given.

    Examples
    --------
    >>> import uqms as uq
    >>> uq.Link("cell.voltage", at={"time": 3.0}).output
    'cell.voltage'
    """

    output: str
    at: Mapping[str, float] | None = None
    weights: xr.DataArray | None = None

    def __post_init__(self) -> None:
        check.text("Link", "output", self.output)
        if (self.at is None) == (self.weights is None):
            raise InputError(
                f"Link({self.output!r}): give at={{dim: value}} or weights=DataArray, one of them. A number that is an "
                f"output by itself needs no Link: links={{'child.input': {self.output!r}}}."
            )


@taught
@final
class Chain(NamedSurrogate):
    """Fitted surrogates of several scales as one: outputs of some are inputs of others, with their errors.

    Use it where a model of a fine scale (a channel, a cell) gives inputs to one of a coarse scale (a tissue, an organ),
    and data are there of either or of both. It goes where any surrogate goes: `Calibration` takes measurements of all
    scales at once, ``noise={"cell.peak": ..., "tissue.speed": ...}``. The error of a member is one random function: all
    that takes an output of it has the same error.

    Parameters
    ----------
    links
        "member.input" → "member.output", or `Link("member.output", at=...)` of a curve. Links form no loop.
    **members
        Fitted surrogates by name. Inputs of the same name are the same input, unless they are linked. The same
        surrogate under two names is one function that is used twice.

    Raises
    ------
    InputError
        Unknown names, links in a loop, priors of one parameter that differ, design boxes without common part, a dim of
        two members with different coordinates.
    UnitError
        When an output has another unit than the input that takes it.
    ConformanceError
        A member that cannot be linked: a stochastic simulator, one whose rows depend on the input, a simulator.

    Notes
    -----
    Errors are passed on to first order, jointly over all inputs. For marginal moments of linked Gaussian processes see
    Kyzyurova, Berger & Wolpert (2018), doi:10.1137/17M1157702, and Ming & Guillas (2021), doi:10.1137/20M1323771.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> cell = uq.ParameterSpace(g=uq.Uniform(0.0, 1.0))
    >>> design = uq.sobol(cell, 12, rng=1)
    >>> apd = uq.GaussianProcess().fit(uq.ensemble.build(design, {"apd": np.exp(design["g"].values)}, space=cell))
    >>> tissue = uq.ParameterSpace(apd=uq.Uniform(0.9, 3.0), conditions={"rate": uq.Condition(0.0, 1.0)})
    >>> design = uq.sobol(tissue, 20, rng=1)
    >>> speed = {"speed": design["rate"].values / design["apd"].values}
    >>> wave = uq.GaussianProcess().fit(uq.ensemble.build(design, speed, space=tissue))
    >>> chain = uq.Chain(cell=apd, tissue=wave, links={"tissue.apd": "cell.apd"})
    >>> chain.inputs, tuple(chain.outputs)
    (('g', 'rate'), ('cell.apd', 'tissue.speed'))
    """

    def __init__(self, *, links: Mapping[str, "str | Link"], **members: Surrogate) -> None:
        _check_members(members)
        self.members: Mapping[str, Surrogate] = MappingProxyType(dict(members))
        self.links: Mapping[str, str | Link] = MappingProxyType(_read(links, members))
        order = _ordered(members, self.links)
        self.domain, self.attrs = _shared_inputs(order, members, self.links)
        self._graph, self._starts = _built(order, members, self.links, self.domain)
        self.order = order
        _check_dims(self.layouts)

    def __setattr__(self, name: str, value: object) -> None:
        """Set a part once: a chain does not change.

        Raises
        ------
        AttributeError
            When it is set already.
        """
        if name in self.__dict__:
            raise AttributeError(f"A Chain does not change; make another one: uq.Chain(..., links=...). ({name})")
        object.__setattr__(self, name, value)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            members = self.__dict__.get("members", {})
            own = {key: f"members are in chain.members[{key!r}]" for key in members}
            own["member_share"] = "it is posterior.member_share()"
            own["fit"] = "fit the members, then make the chain: uq.Chain(cell=..., tissue=..., links=...)"
            raise missing(type(self), "A chain", name, own)

    def __getitem__(self, name: str) -> NoReturn:
        """Raise: members are in `members`.

        Raises
        ------
        UnknownKeyError
            Always.
        """
        raise UnknownKeyError(f"chain[{name!r}]: members are in chain.members, by name: {', '.join(self.members)}.")

    def __repr__(self) -> str:
        each = [f"{name}: {', '.join(one.layouts)}" for name, one in self.members.items()]
        linked = [f"{target} from {_output(source)}" for target, source in self.links.items()]
        inputs = "; ".join(f"{', '.join(names)} ({scale})" for scale, names in self.scales.items())
        draws = self._graph.draws
        estimated = f"{draws} hyperparameter draws" if draws > 1 else "hyperparameters point-estimated"
        return (
            f"<Chain of {len(self.members)} surrogates ({'; '.join(each)}); {', '.join(linked)}; "
            f"inputs {inputs}; {estimated}>"
        )

    # ------------------------------------------------------------------------------------------------- what is in it
    @cached_property
    def layouts(self) -> Mapping[str, Layout]:
        """Dims, coordinates and unit of every output, "member.output"."""
        return {f"{name}.{output}": one for name in self.order for output, one in self.members[name].layouts.items()}

    @property
    def bases(self) -> tuple[OutputBasis, ...]:  # type: ignore[override]
        """None of its own: members have them."""
        return ()

    @property
    def outputs(self) -> Mapping[str, tuple[str, ...]]:
        """Name of each output and its dims."""
        return {name: layout.dims for name, layout in self.layouts.items()}

    @property
    def coords(self) -> Mapping[str, Array]:
        """Coordinate values of every dim, shape (m,)."""
        return {dim: values for layout in self.layouts.values() for dim, values in layout.coords.items()}

    @property
    def runs(self) -> int:
        """Number of runs that the members were trained on, together."""
        return sum(int(getattr(one.surrogate, "runs", 0)) for one in self._graph.functions)

    @property
    def differentiable(self) -> bool:
        """Whether samplers with gradients can be used: all members have derivatives."""
        return all(getattr(one.surrogate, "differentiable", True) for one in self._graph.functions)

    @property
    def point_estimated(self) -> bool:
        """Whether hyperparameters of a member are single values although its runs are few."""
        return any(getattr(one.surrogate, "point_estimated", False) for one in self._graph.functions)

    def sampled(self, conditions: Mapping[str, ArrayLike]) -> SampledChain:
        """Return the chain with the errors of its links as inputs, for experiments under the given conditions.

        Parameters
        ----------
        conditions
            Values (K,) of each known input, one for each experiment.

        Raises
        ------
        ConformanceError
            When a surrogate is used twice, or errors of scores of a member that passes some on are correlated.
        """
        return sampled_chain(self, self._graph, conditions)

    def inputs_of(self, output: str) -> tuple[str, ...]:
        """Return the inputs of the chain that an output depends on, those of the scales below it included.

        Raises
        ------
        InputError
            When there is no such output.
        """
        self._known(output)
        decided = self._graph.uses[self.order.index(output.split(".")[0])].decided
        return tuple(self.domain.names[int(j)] for j in decided)

    @property
    def scales(self) -> Mapping[str, tuple[str, ...]]:
        """Inputs that enter at each member; those that enter at several are under their names, joined by "+"."""
        out: dict[str, list[str]] = {}
        for j, name in enumerate(self.domain.names):
            uses = zip(self.order, self._graph.uses, strict=True)
            at = [member for member, use in uses if any(own.of_chain == j for own in use.own)]
            out.setdefault("+".join(at), []).append(name)
        return {name: tuple(inputs) for name, inputs in out.items()}

    def _known(self, output: str) -> None:
        if output not in self.layouts:
            raise InputError(f"The surrogate has no output {output!r}; it has {list(self.layouts)}.")

    def decode(self, output: str, coords: Mapping[str, ArrayLike] | None = None) -> Decoder:
        """Return the rows of an output at pointwise coordinates (all simulated ones when None).

        Raises
        ------
        InputError
            When there is no such output.
        """
        self._known(output)
        name, own = output.split(".", 1)
        rows = cast(Decoder, self.members[name].decode(own, coords))
        m = self.order.index(name)
        basis = np.zeros((len(rows.offset), self._graph.size))
        basis[:, self._graph.uses[m].scores] = rows.basis
        truncation = np.zeros((len(rows.offset), self._starts[-1]))
        truncation[:, self._starts[m] : self._starts[m + 1]] = rows.truncation
        return Decoder(rows.offset, basis, truncation)

    # -------------------------------------------------------------------------------------------------- joint error
    @cached_property
    def compiled_error(self) -> "ChainError | None":
        """What compiled code reads; None where a member is not the library's own Gaussian process."""
        known = all(getattr(one.surrogate, "compiled_process", None) is not None for one in self._graph.functions)
        return ChainError(self._graph, self.domain.d, np.arange(self._graph.size)) if known else None

    @cached_property
    def _block(self) -> Array | None:
        return None if self.compiled_error is None else self.compiled_error.flat()

    @property
    def _log_weights(self) -> Array:
        return np.full(self._graph.draws, -math.log(self._graph.draws))

    def scores(self, u: Array) -> Scores:
        """Return mean (H, ..., k, q) and covariance (H, ..., k, q, k, q) of all members' scores at `u` (..., k, d)."""
        u = np.asarray(u, dtype=np.float64)
        lead, (k, d), q = u.shape[:-2], u.shape[-2:], self._graph.size
        if self._block is not None and math.prod(lead) == 1:
            return Scores(
                *_with(lead, *chain_scores(self._block, np.ascontiguousarray(u).reshape(k, d))), self._log_weights
            )
        mean, covariance = self._graph.scores(u.reshape(-1, k, d))
        h = self._graph.draws
        return Scores(mean.reshape(h, *lead, k, q), covariance.reshape(h, *lead, k, q, k, q), self._log_weights)

    def marginal_scores(self, u: Array) -> Scores:
        """Return mean (H, ..., k, q) and covariance between scores (H, ..., k, q, q) at unrelated `u` (..., k, d)."""
        u = np.asarray(u, dtype=np.float64)
        lead, h, q = u.shape[:-1], self._graph.draws, self._graph.size
        mean, covariance = self._graph.marginals(u.reshape(-1, u.shape[-1]))
        return Scores(mean.reshape(h, *lead, q), covariance.reshape(h, *lead, q, q), self._log_weights)

    def scores_reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return the derivative (k, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar) at `u` (k, d)."""
        u = np.ascontiguousarray(u, dtype=np.float64)
        if self._block is not None:
            bars = (np.ascontiguousarray(one) for one in (mean_bar, covariance_bar))
            return np.asarray(chain_scores_reverse(self._block, u, *bars))
        return self._graph.reverse(u, mean_bar, covariance_bar)

    def functions(self, n: int, rng: RandomState) -> "ChainDraws":
        """Return n draws of the whole function: draws of the members' functions, one put into the other.

        They are joint within one call; of members that take links, between calls as far as the runs and anchors
        determine them.
        """
        if not check.is_whole(n, 1):
            raise InputError(f"functions: n is {n!r}; give a whole number of at least 1.")
        generator = as_generator(rng)
        drawn: dict[int, list[FunctionDraws]] = {}
        for f, one in enumerate(self._graph.functions):
            if all(not use.ports for use in self._graph.uses if use.function == f):
                drawn[f] = [one.surrogate.functions(n, generator)]
            else:
                drawn[f] = [_functions(one.surrogate, 1, generator) for _ in range(n)]
        return ChainDraws(self._graph, drawn, n, int(generator.integers(2**63)))

    @property
    def undrawn(self) -> "Chain":
        """The chain of members given their simulated runs only; see `MultiFidelitySurrogate.undrawn`."""
        members = {name: getattr(one, "undrawn", one) for name, one in self.members.items()}
        same = all(members[name] is one for name, one in self.members.items())
        return self if same else Chain(links=self.links, **members)

    def error_parts(self, u: Array, h: Ints) -> tuple[list[ErrorPart], list[RunKind]]:
        """Return the members' errors as parts of that of the chain at u (S, K, d), draws h (S,), and kinds of runs.

        What the bases of linked curves leave out is no part: runs do not reduce it.
        """
        inputs, T = self._graph.own_errors(u, h)
        found = []
        for f, one in enumerate(self._graph.functions):
            uses = [m for m, use in enumerate(self._graph.uses) if use.function == f]
            parts, kinds = error_parts(one.surrogate, np.concatenate([inputs[m] for m in uses], axis=1), one.draws[h])
            places = [self._graph.uses[m].scores for m in uses]
            own = np.stack([T[..., place] for place in places], axis=1)  # (S, x, K, Q, q)
            linked = []
            for part in parts:
                rows = part.rows.reshape(len(u), len(uses), u.shape[1], *part.rows.shape[2:])
                linked.append(replace(part, rows=np.einsum("sxkQq,sxkqPr->skQPr", own, rows, optimize=True)))
            found.append((self.order[uses[0]], (linked, kinds)))
        return joined(found)

    def member_inputs(self, member: str, u: Array) -> Array:
        """Return equally likely inputs (H, N, P, d) of a member in its unit cube at inputs u (N, d) of the chain.

        Of L links they have the law of these, by the P = 2 L points of a rule of third degree: means of cubic functions
        of the links are exact. A member without links has H = P = 1.
        """
        m, links = self.order.index(member), {m: (y, S) for m, y, S in self._graph.links(u)}
        use = self._graph.uses[m]
        y, covariance = links.get(m, (np.empty((1, len(u), 0)), np.empty((1, len(u), 0, 0))))
        L = len(use.ports)
        root = math.sqrt(L) * np.linalg.cholesky(covariance + np.diag([port.least**2 for port in use.ports]))
        out = np.empty((*y.shape[:2], max(2 * L, 1), use.d))
        for own in use.own:
            out[..., own.column] = own.at(u[:, own.of_chain])[:, None]
        for i, port in enumerate(use.ports):
            ends = (y[..., i, None] + root[..., i, :], y[..., i, None] - root[..., i, :])
            out[..., port.column] = port.at(np.concatenate(ends, axis=-1))
        return out

    def run_inputs(self, u: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Return inputs (N, d) of each member in its unit cube at inputs u (N, d) of the chain; links are drawn."""
        x, links, out = np.asarray(self.domain.from_unit(u)), self.link_draws(u, rng), {}
        for name, one in self.members.items():
            own = [
                links[f"{name}.{key}"] if f"{name}.{key}" in links else x[:, self.domain.names.index(key)]
                for key in one.domain.names
            ]
            out[name] = np.asarray(one.domain.to_unit(np.column_stack(own)))
        return out

    def with_variances(self, factors: Mapping[str, float]) -> "Chain":
        """Return the chain with the variances of some members multiplied, for fractions by member.

        It is computed in arrays, not by compiled code. Two names of one surrogate have one factor.

        Raises
        ------
        InputError
            When a name is none of a member.
        """
        if unknown := [name for name in factors if name not in self.members]:
            raise InputError(f"with_variances: {unknown} are no members; they are {', '.join(self.members)}.")
        scales = [1.0] * len(self._graph.functions)
        for name, factor in factors.items():
            scales[self._graph.uses[self.order.index(name)].function] = float(factor)
        other = object.__new__(Chain)
        kept = {key: value for key, value in self.__dict__.items() if key not in ("compiled_error", "_block")}
        other.__dict__.update(kept | {"_graph": replace(self._graph, scales=tuple(scales)), "compiled_error": None})
        return other

    def simulator(self, **functions: Callable[..., Mapping[str, ArrayLike]]) -> "LinkedSimulators":
        """Return the simulators of the members, linked as they are here, as one function for `uqms.run`.

        Use it to run the whole chain at one point, as for ``uq.verify``: ``uq.run(chain.simulator(cell=f, tissue=g),
        uq.verification_design(posterior, 50))``.

        Parameters
        ----------
        **functions
            Simulator of each member: a function of its inputs that returns its outputs by name.

        Raises
        ------
        InputError
            When a member has none, or a name is no member.
        """
        if set(functions) != set(self.members) or not all(callable(one) for one in functions.values()):
            raise InputError(
                f"simulator: got {', '.join(functions) or 'nothing'}; give a function for each member: "
                f"{', '.join(f'{name}=...' for name in self.members)}."
            )
        inputs = {name: self.members[name].domain.names for name in self.order}
        layouts = {name: self.members[name].layouts for name in self.order}
        return LinkedSimulators(self.order, inputs, layouts, dict(self.links), dict(functions))

    def member_runs(self, runs: xr.Dataset, member: str) -> xr.Dataset:
        """Return runs of the whole chain, as `simulator` gives them, as runs of one member: its inputs and outputs.

        Raises
        ------
        InputError
            When the name is no member, or the runs lack an output.
        """
        if member not in self.members:
            raise InputError(f"member_runs: {member!r} is no member; they are {', '.join(self.members)}.")
        lost = [name for name in self.layouts if name not in runs]
        if lost:
            raise InputError(
                f"member_runs: the runs have no output {', '.join(lost)}. Run the members as they are linked: "
                "uqms.run(chain.simulator(...), design)."
            )
        linked = LinkedSimulators(self.order, {}, {n: s.layouts for n, s in self.members.items()}, {}, {})
        out = runs.drop_vars(
            [str(name) for name in runs.data_vars if name in self.layouts or name in self.domain.names]
        )
        for name in self.members[member].domain.names:
            source = self.links.get(f"{member}.{name}")
            if source is None:
                out[name] = runs[name]
                continue
            output, dims = _output(source), self.layouts[_output(source)].dims
            every = runs[output].transpose("run", *dims).values
            values = [linked.passed_on(source, {output: one}) for one in every]
            out[name] = ("run", np.array(values), {"role": "input", "kind": "condition"})
        return out.assign({output: runs[f"{member}.{output}"] for output in self.members[member].layouts})

    def design_of(self, design: xr.Dataset, member: str, rng: RandomState = 0) -> xr.Dataset:
        """Return the points of a design of the chain's inputs as points at which to run one member.

        Linked inputs are draws of what is passed on there, the error of the surrogates included; the box reaches as far
        as they do, and may leave that of the member's former runs; of a single point it is theirs and the point.

        Raises
        ------
        InputError
            When the name is no member.
        """
        if member not in self.members:
            raise InputError(f"design_of: {member!r} is no member; they are {', '.join(self.members)}.")
        x = np.column_stack([design[name].values for name in self.domain.names])
        links = self.link_draws(np.asarray(self.domain.to_unit(x)), as_generator(rng))
        box, space = self.members[member].domain, _space(self.members[member])
        given = Box.from_dict(json.loads(design.attrs["box"])) if "box" in design.attrs else self.domain
        data, rows = {}, []
        for j, name in enumerate(box.names):
            low, high, hard, scale = box.lower[j], box.upper[j], box.hard[j], box.scale[j]
            if (values := links.get(f"{member}.{name}")) is not None:
                low, high, hard = float(values.min()), float(values.max()), (False, False)
                if not low < high:  # one point has no range: that of the former runs, as far as the point
                    low, high = min(low, box.lower[j]), max(high, box.upper[j])
                first, last = SCALES[scale].domain
                scale = scale if first < low and high < last else "identity"  # errors may pass the scale's end
            else:
                at = given.names.index(name)
                values, low, high = design[name].values, max(low, given.lower[at]), min(high, given.upper[at])
            attrs = {"role": "input", "kind": "condition", "unit": "", "description": ""}
            data[name] = ("run", np.asarray(values), attrs if space is None else space.attributes(name))
            rows.append((low, high, scale, hard))
        lower, upper, scales, hard_ends = zip(*rows, strict=True)
        recipe = json.loads(design.attrs.get("design", "{}")) | {"member": member}
        attrs = {"box": json.dumps(Box(box.names, lower, upper, scales, hard_ends).to_dict(), allow_nan=False)}
        attrs["design"] = json.dumps(recipe, allow_nan=False)
        if space is not None:
            attrs["space"] = space.to_json()
            data = {name: data[name] for name in space.inputs}
        return xr.Dataset(data, attrs=attrs)

    # ---------------------------------------------------------------------------------------------------- the links
    def push_forward(
        self, draws: Mapping[str, ArrayLike] | xr.Dataset | None = None, *, n: int = 2048, rng: RandomState = 0
    ) -> PushForward:
        """Return the distribution of what links pass on, and how much of it lies outside of what was simulated.

        Use it before calibration, over the prior, and after it, ``chain.push_forward(posterior.draws)``.

        Parameters
        ----------
        draws
            Values of the parameters, arrays of one size; by default n draws of the prior. Conditions that are not among
            them are uniform over their range.
        n
            Number of draws.
        rng
            Whole number or generator.

        Raises
        ------
        InputError
            When a parameter is missing, or the priors are unknown.
        """
        generator = as_generator(rng)
        if draws is None:
            if "space" not in self.attrs:
                raise InputError("push_forward: the priors are unknown; give draws={name: values}.")
            draws = ParameterSpace.from_json(self.attrs["space"]).draw(n, generator)
        if not isinstance(draws, Mapping | xr.Dataset):
            raise InputError(
                f"push_forward: draws is a {type(draws).__name__}; give posterior.draws, or {{name: values}}."
            )
        values = {str(name): np.asarray(column, dtype=np.float64).ravel() for name, column in draws.items()}
        x = self._points(values, generator)
        if len(x) > n:
            x = x[np.sort(generator.choice(len(x), n, replace=False))]
        return PushForward(
            self.link_draws(np.asarray(self.domain.to_unit(x)), generator),
            {name: one.domain for name, one in self.members.items()},
            {name: _space(one) for name, one in self.members.items()},
        )

    def _points(self, values: Mapping[str, Array], generator: np.random.Generator) -> Array:
        size = max((len(one) for name, one in values.items() if name in self.domain.names), default=0)
        space = _joined_space(self.attrs)
        conditions = () if space is None else tuple(space.conditions)
        lost = [name for name in self.domain.names if name not in values and name not in conditions]
        if lost or not size:
            raise InputError(
                f"push_forward: draws lack {', '.join(lost)}; give values of {', '.join(self.domain.names)}."
            )
        columns = []
        for j, name in enumerate(self.domain.names):
            low, high = self.domain.lower[j], self.domain.upper[j]
            columns.append(values[name] if name in values else generator.uniform(low, high, size))
        return np.column_stack(np.broadcast_arrays(*columns))

    def link_draws(self, u: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Return a draw (N,) of every link, "member.input", in its own unit, at inputs u (N, d)."""
        out = {}
        rows = np.arange(len(u))
        h = rng.integers(self._graph.draws, size=len(u))
        for m, y, covariance in self._graph.links(u):
            root = np.linalg.cholesky(
                covariance[h, rows] + np.diag([one.least**2 for one in self._graph.uses[m].ports])
            )
            drawn = y[h, rows] + np.einsum("nij,nj->ni", root, rng.standard_normal((len(u), root.shape[-1])))
            name, child = self.order[m], self.members[self.order[m]].domain
            for i, port in enumerate(self._graph.uses[m].ports):
                out[f"{name}.{child.names[port.column]}"] = np.asarray(port.transform.inverse(drawn[:, i]))
        return out

    # -------------------------------------------------------------------------------------------------------- files
    def stored(self) -> Stored:
        """Return what a file holds of it: a header of JSON and arrays.

        Raises
        ------
        InputError
            When there is code in a member, such as a cheap model in Python as its mean.
        """
        headers: list[dict[str, Any]] = []
        arrays: dict[str, Array] = {}
        for f, one in enumerate(self._graph.functions):
            inner = getattr(one.surrogate, "stored", None)
            if inner is None:
                raise InputError(
                    f"save: a member is a {type(one.surrogate).__name__}, which has no file. Save it as you save your "
                    "other Python objects, and make the chain again."
                )
            stored = inner()
            headers.append({"version": VERSION, **stored.header})
            arrays |= {f"function{f}.{name}": values for name, values in stored.arrays.items()}
        uses = {name: use.function for name, use in zip(self.order, self._graph.uses, strict=True)}
        members = {name: uses[name] for name in self.members}
        links = {target: _link_to_dict(source) for target, source in self.links.items()}
        return Stored({"chain": {"members": members, "links": links, "functions": headers}}, arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (dict(self.links), dict(self.members))


def _with(lead: tuple[int, ...], mean: Array, covariance: Array) -> tuple[Array, Array]:
    """Return arrays with axes of a batch after that of the draws."""
    return mean.reshape(len(mean), *lead, *mean.shape[1:]), covariance.reshape(len(mean), *lead, *covariance.shape[1:])


def _rebuilt(links: Mapping[str, "str | Link"], members: Mapping[str, Surrogate]) -> Chain:
    return Chain(links=links, **members)


def _functions(surrogate: Surrogate, n: int, rng: np.random.Generator) -> FunctionDraws:
    """Return draws with few anchors: each draw is at inputs of its own, so that it costs the cube of all its points."""
    if isinstance(surrogate, GaussianProcessSurrogate):
        return surrogate.functions(n, rng, anchors=ANCHORS)
    return surrogate.functions(n, rng)


@final
@dataclass(frozen=True, eq=False)
class LinkedSimulators:
    """The simulators of a chain's members as one function: of the chain's inputs, it returns "member.output"."""

    order: tuple[str, ...]
    inputs: Mapping[str, tuple[str, ...]]
    layouts: Mapping[str, Mapping[str, Layout]]
    links: Mapping[str, str | Link]
    functions: Mapping[str, Callable[..., Mapping[str, ArrayLike]]]

    def __call__(self, **inputs: float) -> dict[str, Array]:
        """Return all outputs of all members at one point."""
        out: dict[str, Array] = {}
        for name in self.order:
            own = {}
            for key in self.inputs[name]:
                source = self.links.get(f"{name}.{key}")
                own[key] = float(inputs[key]) if source is None else self.passed_on(source, out)
            found = self.functions[name](**own)
            out |= {f"{name}.{output}": np.asarray(values, dtype=np.float64) for output, values in found.items()}
        return out

    def passed_on(self, source: str | Link, out: Mapping[str, Array]) -> float:
        """Return what a link passes on of the outputs of one run."""
        text = _output(source)
        values = out[text]
        if isinstance(source, str):
            return float(values)
        parent, _, output = text.partition(".")
        layout = self.layouts[parent][output]
        if source.weights is not None:
            weights = source.weights.transpose(*layout.dims)
            return float(np.sum(np.asarray(weights) * values.reshape(layout.shape)))
        at, grid = cast(Mapping[str, float], source.at), [layout.coords[dim] for dim in layout.dims]
        if len(grid) == 1:
            return float((spline_weights(grid[0], np.array([at[layout.dims[0]]])) @ values)[0])
        # Between coordinates of several dims a chain links nothing.
        place = tuple(int(np.argmin(np.abs(axis - at[dim]))) for axis, dim in zip(grid, layout.dims, strict=True))
        return float(values.reshape(layout.shape)[place])


@final
@dataclass(frozen=True, eq=False)
class ChainError:
    """Mean and joint error of some scores of a chain, for compiled code."""

    graph: Graph
    d: int
    used: Ints
    together: bool = False

    def select(self, scores: Ints) -> "ChainError":
        """Return that of some of these scores."""
        return replace(self, used=self.used[scores])

    def with_rows_together(self) -> "ChainError":
        """Return it for a caller that sums derivatives over rows, see `fused_chain.chain_block`."""
        return replace(self, together=True)

    def flat(self) -> Array:
        """Return everything as one block of numbers, see `fused_chain`."""
        block = chain_block(self.graph, self.used, self.d, self.together)
        assert block is not None
        return block


@final
@dataclass(frozen=True, eq=False)
class ChainDraws:
    """Draws of the whole function; calling them evaluates every draw at any inputs."""

    graph: Graph
    drawn: Mapping[int, Sequence[FunctionDraws]]  # by function: one object for all draws, or one for each
    n: int
    seed: int  # of what the truncation of members passes on

    @single_threaded
    def __call__(self, u: Array) -> Array:
        """Return the scores (n, k, q) at inputs `u` (k, d)."""
        u, place = np.unique(np.asarray(u, dtype=np.float64), axis=0, return_inverse=True)
        out = np.empty((self.n, len(u), self.graph.size))
        left_out = {
            pair: omega @ row
            for omega, rows, of in zip(self._omega(u), self.graph.truncations, self.graph.receivers, strict=True)
            for row, pair in zip(rows, of, strict=True)
        }
        for m, use in enumerate(self.graph.uses):
            v = np.empty((self.n if use.ports else 1, len(u), use.d))
            for own in use.own:
                v[..., own.column] = own.at(u[:, own.of_chain])
            for i, port in enumerate(use.ports):
                y = port.offset + out[..., self.graph.uses[port.source].scores] @ port.basis
                v[..., port.column] = port.at(y + left_out.get((m, i), 0.0))
            drawn = self.drawn[use.function]
            if len(drawn) == 1 and not use.ports:
                out[..., use.scores] = drawn[0](v[0])
            else:
                for i in range(self.n):
                    out[i, :, use.scores] = drawn[i](v[min(i, len(v) - 1)])[0]
        return out[:, place.reshape(-1)]

    def _omega(self, u: Array) -> list[Array]:
        """Return the omegas (n, k, t) of each source's truncation: the same where its input is the same."""
        generator, out = np.random.default_rng(self.seed), []
        for source, rows in zip(self.graph.sources, self.graph.truncations, strict=True):
            at = u[:, self.graph.uses[source].decided]
            keys = [int(generator.integers(2**63)) for _ in range(rows.shape[1])]
            out.append(np.stack([normals_at(at, self.n, key) for key in keys], axis=-1))
        return out


# ------------------------------------------------------------------------------------------------------ what is refused
def _check_members(members: Mapping[str, object]) -> None:
    if len(members) < 2:
        raise InputError(
            f"Chain: {len(members)} member(s); give at least two fitted surrogates by name, uq.Chain(cell=s1, "
            "tissue=s2, links={'tissue.apd': 'cell.apd'})."
        )
    for name, one in members.items():
        if isinstance(one, type) or not isinstance(one, Surrogate):
            called = one.__name__ if isinstance(one, type) else type(one).__name__
            raise InputError(
                f"Chain: {name} is a {called}; give a fitted surrogate, uq.GaussianProcess().fit(runs of {name})."
            )
        if isinstance(one, Chain):
            raise InputError(
                f"Chain: {name} is a chain itself; name its members here: uq.Chain(**{name}.members, ..., links=...)."
            )
        if getattr(one, "exact", False):
            raise ConformanceError(
                f"Chain: {name} is the simulator itself. Members are fitted surrogates; where a simulator is cheap, "
                "call it in the simulator of the scale that takes its output, and emulate the two together."
            )
        if getattr(one, "noise", None) is not None or getattr(one, "attrs", {}).get("noise", "none") != "none":
            raise ConformanceError(
                f"Chain: {name} is the surrogate of a stochastic simulator. What is passed on would be one realisation "
                "of it; emulate the two scales together, or the mean of replicates with noise='none'."
            )
        if any(isinstance(one.decode(output), InputDecoder) for output in one.layouts):
            raise ConformanceError(
                f"Chain: rows of {name} depend on its input. Members need rows that are the same over the box."
            )


def _read(links: object, members: Mapping[str, Surrogate]) -> dict[str, "str | Link"]:
    if not isinstance(links, Mapping) or not links:
        raise InputError(f"Chain: links is {links!r}; give a mapping, {{'tissue.apd': 'cell.apd'}}.")
    out: dict[str, str | Link] = {}
    for target, source in links.items():
        if not isinstance(source, str | Link):
            raise InputError(
                f"Chain: {target!r} takes {source!r}; give 'member.output' or uq.Link('member.output', ...)."
            )
        for text, what in ((str(target), "input"), (_output(source), "output")):
            name, _, own = text.partition(".")
            if name not in members:
                raise InputError(
                    f"Chain: {text!r} in links names no member; give 'member.{what}' with one of {', '.join(members)}."
                )
            known = members[name].domain.names if what == "input" else tuple(members[name].layouts)
            if own not in known:
                raise InputError(
                    f"Chain: {name} has no {what} {own!r}; it has {', '.join(known)}."
                    + (_turned(str(target), source, members) if what == "input" else "")
                )
        out[str(target)] = source
    linked = {end.partition(".")[0] for pair in out.items() for end in (pair[0], _output(pair[1]))}
    if alone := [name for name in members if name not in linked]:
        raise InputError(
            f"Chain: {', '.join(alone)} is linked to nothing. Leave it out: data of simulators that only share "
            "parameters go into uq.Calibration({name: (surrogate, observations), ...})."
        )
    return out


def _turned(target: str, source: "str | Link", members: Mapping[str, Surrogate]) -> str:
    """Return advice for a link that is an output with its input in the place of an input with its output."""
    (giving, output), (taking, own) = (text.partition(".")[::2] for text in (target, _output(source)))
    turned = taking in members and own in members[taking].domain.names and output in members[giving].layouts
    return f" Links map inputs to outputs: {{{_output(source)!r}: {target!r}}}." if turned else ""


def _output(source: "str | Link") -> str:
    return source if isinstance(source, str) else source.output


def _ordered(members: Mapping[str, Surrogate], links: Mapping[str, "str | Link"]) -> tuple[str, ...]:
    """Return the members, each after those that it takes outputs of.

    Raises
    ------
    InputError
        When links form a loop.
    """
    needs = {name: {_output(s).split(".")[0] for t, s in links.items() if t.split(".")[0] == name} for name in members}
    order: list[str] = []
    while len(order) < len(members):
        ready = [name for name in members if name not in order and needs[name] <= set(order)]
        if not ready:
            loop = [name for name in members if name not in order]
            raise InputError(
                f"Chain: links between {', '.join(loop)} form a loop, so that none can be computed first. A feedback "
                "is one simulator: iterate the members to their fixed point in it, and emulate that."
            )
        order += ready
    return tuple(order)


def _shared_inputs(
    order: Sequence[str], members: Mapping[str, Surrogate], links: Mapping[str, "str | Link"]
) -> tuple[Box, Mapping[str, str]]:
    """Return the box of the chain's inputs, and its space where the members have theirs.

    Raises
    ------
    InputError
        When boxes have no common part, or priors of one parameter differ.
    """
    rows: dict[str, list[Any]] = {}
    for name in order:
        box = members[name].domain
        for j, key in enumerate(box.names):
            if f"{name}.{key}" in links:
                continue
            one = [box.lower[j], box.upper[j], box.scale[j], box.hard[j]]
            if key not in rows:
                rows[key] = one
                continue
            low, high = max(rows[key][0], one[0]), min(rows[key][1], one[1])
            if not low < high:
                raise InputError(
                    f"Chain: {key!r} of {name} was simulated between {one[0]:g} and {one[1]:g}, elsewhere between "
                    f"{rows[key][0]:g} and {rows[key][1]:g}: there is no common part. Rename one, or link it."
                )
            sides: list[list[Any]] = [rows[key], one]
            closed = (
                any(side[3][0] and side[0] == low for side in sides),
                any(side[3][1] and side[1] == high for side in sides),
            )
            rows[key] = [low, high, rows[key][2], closed]
    lower, upper, scale, hard = zip(*rows.values(), strict=True)
    spaces = {name: _space(members[name]) for name in order}
    attrs = {"noise": "none"}
    if all(one is not None for one in spaces.values()):
        attrs["space"] = _joined({name: cast(ParameterSpace, one) for name, one in spaces.items()}, links).to_json()
    return Box(tuple(rows), lower, upper, scale, hard), MappingProxyType(attrs)


def _space(surrogate: Surrogate) -> ParameterSpace | None:
    text = getattr(surrogate, "attrs", {}).get("space")
    return None if text is None else ParameterSpace.from_json(text)


def _joined_space(attrs: Mapping[str, str]) -> ParameterSpace | None:
    return ParameterSpace.from_json(attrs["space"]) if "space" in attrs else None


def _joined(spaces: Mapping[str, ParameterSpace], links: Mapping[str, "str | Link"]) -> ParameterSpace:
    """Return the parameters and conditions of all members, without linked inputs."""
    blocks: list[Any] = []
    priors: dict[str, Prior] = {}
    conditions: dict[str, Condition] = {}
    whose: dict[str, str] = {}
    for name, space in spaces.items():
        free = [key for key in space.inputs if f"{name}.{key}" not in links]
        for block in space.blocks:
            lost = [key for key in block.names if key not in free]
            if lost:
                raise InputError(
                    f"Chain: {lost[0]!r} of {name} is linked, but its design gave it a joint prior with {block.names}. "
                    "Give it a range of its own in the design of the member."
                )
            if block not in blocks:
                blocks.append(block)
        joint = {key for block in space.blocks for key in block.names}
        for key in free:
            if key in joint:
                continue
            if key in space.conditions:
                conditions.setdefault(key, space.conditions[key])
                continue
            prior = space.priors[key]
            if priors.setdefault(key, prior) != prior:
                raise InputError(
                    f"Chain: {key!r} has the prior {priors[key]!r} in {whose[key]} and {prior!r} in {name}. Fit the "
                    "members to ensembles of one space, uq.ensemble.build(..., space=space), or rename one of the two."
                )
            whose.setdefault(key, name)
    taken = {key for block in blocks for key in block.names} | set(priors)
    own = {key: one for key, one in priors.items() if key not in {k for block in blocks for k in block.names}}
    return ParameterSpace(*blocks, conditions={k: c for k, c in conditions.items() if k not in taken}, **own)


def _check_dims(layouts: Mapping[str, Layout]) -> None:
    """Refuse a dim that has other coordinates in another output: tables of several outputs would not fit together."""
    seen: dict[str, tuple[str, Array]] = {}
    for output, layout in layouts.items():
        for dim, values in layout.coords.items():
            first, known = seen.setdefault(dim, (output, values))
            if not np.array_equal(known, values):
                raise InputError(
                    f"Chain: {first!r} and {output!r} have different coordinates along {dim!r}. Rename one in the "
                    f"runs, ensemble.rename({dim}='{output.split('.')[0]}_{dim}'), and fit again."
                )


# ------------------------------------------------------------------------------------------------------------ the graph
def _built(
    order: Sequence[str], members: Mapping[str, Surrogate], links: Mapping[str, "str | Link"], box: Box
) -> tuple[Graph, tuple[int, ...]]:
    """Return the graph, and where the truncation of each member begins among all."""
    functions: list[Surrogate] = []
    for name in order:
        if not any(members[name] is one for one in functions):
            functions.append(members[name])
    middle = [one.scores(np.full((1, one.domain.d), 0.5)) for one in functions]
    draws = max(len(one.log_weights) for one in middle)
    uses: list[Use] = []
    ports: dict[str, list[tuple[int, int, Array]]] = {}  # by source: which use and port, and its truncation
    start, starts = 0, [0]
    for m, name in enumerate(order):
        surrogate = members[name]
        f = next(i for i, one in enumerate(functions) if one is surrogate)
        own: list[Own] = []
        own_ports: list[Port] = []
        decided: set[int] = set()
        for column, key in enumerate(surrogate.domain.names):
            source = links.get(f"{name}.{key}")
            if source is None:
                j = box.names.index(key)
                inside, outside = surrogate.domain.maps[column], box.maps[j]
                same = inside == outside
                own.append(Own(column, j, None if same else inside, None if same else outside))
                decided.add(j)
                continue
            parent = _output(source).split(".")[0]
            port = _port(name, key, column, source, members, order.index(parent))
            ports.setdefault(parent, []).append((m, len(own_ports), port.truncation))
            own_ports.append(port)
            decided |= {int(j) for j in uses[order.index(parent)].decided}
        q = middle[f].mean.shape[-1]
        place = slice(start, start + q)
        at = np.array(sorted(decided), dtype=np.int64)
        uses.append(Use(f, tuple(own), tuple(own_ports), surrogate.domain.d, place, at))
        start += q
        starts.append(starts[-1] + _latents(surrogate))
    passed = {parent: of for parent, of in ports.items() if any(one.any() for _, _, one in of)}
    graph = Graph(
        functions=tuple(
            ByDraw(one, pairing(scores.log_weights, draws, SEED + f))
            for f, (one, scores) in enumerate(zip(functions, middle, strict=True))
        ),
        uses=tuple(uses),
        size=start,
        sources=tuple(order.index(parent) for parent in passed),
        truncations=tuple(np.linalg.qr(np.stack([one for _, _, one in of]).T)[1].T for of in passed.values()),
        receivers=tuple(tuple((m, i) for m, i, _ in of) for of in passed.values()),
        correlated=tuple(scores.correlated for scores in middle),
    )
    return graph, tuple(starts)


def _latents(surrogate: Surrogate) -> int:
    """Return the number of latents of a surrogate's truncation."""
    return max(int(cast(Decoder, surrogate.decode(output)).truncation.shape[1]) for output in surrogate.layouts)


def _port(name: str, key: str, column: int, source: "str | Link", members: Mapping[str, Surrogate], place: int) -> Port:
    parent, _, output = _output(source).partition(".")
    layout, child = members[parent].layouts[output], members[name].domain
    offset, basis, truncation = _linear(source, members[parent], output, layout)
    space = _space(members[name])
    unit = "" if space is None or key not in space else space[key].unit
    if unit and layout.unit and unit != layout.unit and not (isinstance(source, Link) and source.weights is not None):
        raise UnitError(
            f"Chain: {parent}.{output} is in {layout.unit!r}, but {name} takes {key!r} in {unit!r}. Convert one of "
            "them in its runs, and fit again."
        )
    return Port(column, place, offset, basis, truncation, layout.transform, child.maps[column])


def _linear(source: "str | Link", surrogate: Surrogate, output: str, layout: Layout) -> tuple[float, Array, Array]:
    """Return offset, basis and truncation of what is passed on."""
    text = _output(source)
    if isinstance(source, str) or source.at is not None:
        at = None if isinstance(source, str) else dict(cast(Mapping[str, float], source.at))
        if layout.dims and (at is None or set(at) != set(layout.dims)):
            where = ", ".join(f"{dim!r}: ..." for dim in layout.dims)
            raise InputError(
                f"Chain: {text!r} has the dims {', '.join(layout.dims)}, and an input is one number. Say which: "
                f"uq.Link({text!r}, at={{{where}}}) for a value, uq.Link({text!r}, weights=DataArray) for a mean."
            )
        if not layout.dims and at:
            raise InputError(f"Chain: {text!r} is a number without dims; link it by its name, {text!r}.")
        rows = cast(Decoder, surrogate.decode(output, at))
        return float(rows.offset[0]), rows.basis[0], rows.truncation[0]
    weights = cast(xr.DataArray, source.weights)
    if not isinstance(layout.transform, Identity):
        raise InputError(
            f"Chain: {text!r} is modelled by its {layout.transform.name}, of which a weighted sum is no linear "
            "function. Compute the sum from the runs, as an output of its own, or fit without a transform."
        )
    wanted = dict(zip(layout.dims, layout.shape, strict=True))
    if {str(dim): size for dim, size in weights.sizes.items()} != wanted:
        raise InputError(f"Chain: weights of {text!r} have the sizes {dict(weights.sizes)}; give {wanted}.")
    rows = cast(Decoder, surrogate.decode(output))
    w = np.asarray(weights.transpose(*layout.dims), dtype=np.float64).ravel()
    return float(w @ rows.offset), w @ rows.basis, w @ rows.truncation


def _link_to_dict(source: "str | Link") -> dict[str, Any]:
    if isinstance(source, str):
        return {"output": source}
    if source.at is not None:
        return {"output": source.output, "at": {dim: float(value) for dim, value in source.at.items()}}
    weights = cast(xr.DataArray, source.weights)
    return {"output": source.output, "dims": list(weights.dims), "weights": weights.values.tolist()}


def link_from_dict(data: Mapping[str, Any]) -> "str | Link":
    """Return the link that a file holds."""
    if "at" in data:
        return Link(str(data["output"]), at={str(dim): float(value) for dim, value in data["at"].items()})
    if "weights" in data:
        return Link(str(data["output"]), weights=xr.DataArray(np.array(data["weights"], float), dims=data["dims"]))
    return str(data["output"])

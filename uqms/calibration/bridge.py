"""The one bridge to PyMC and PyTensor: priors, surrogates and the likelihood as parts of a PyTensor graph."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, final, runtime_checkable

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.distributions.transforms import Transform
from pytensor.gradient import disconnected_type, grad_not_implemented
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.op import Op
from pytensor.link.numba.dispatch.basic import numba_funcify, register_funcify_default_op_cache_key

from uqms._compiled import version
from uqms._teaching import taught
from uqms._typing import Array, ScaleName
from uqms.calibration import _latent_outputs
from uqms.calibration.conditioned import ConditionedPrior
from uqms.calibration.constraints import Bounds, Constraint, evaluate, solved
from uqms.calibration.data_model import DataModel
from uqms.calibration.density import row_terms, simulate, total
from uqms.calibration.direct import DirectSimulator, has_derivative, is_exact
from uqms.calibration.gaussian import cell_means
from uqms.calibration.joint_error import compiled_process
from uqms.calibration.likelihood import Cells, check_scale
from uqms.calibration.success import Success
from uqms.calibration.user_errors import in_python
from uqms.errors import InputError
from uqms.parameters import Box, Prior
from uqms.parameters.scale import SCALES, Interval
from uqms.surrogates.outputs import Decoder, InputDecoder
from uqms.surrogates.process import Scores
from uqms.surrogates.protocol import Surrogate

if TYPE_CHECKING:
    from uqms.calibration.population.lowrank import LowRank

__all__ = ["SurrogateTensor", "as_tensor", "likelihood", "prior_variable"]


NO_DERIVATIVE = "the surrogate's outputs jump, so that its likelihood has no derivative everywhere"


# --- priors -----------------------------------------------------------------------------------------------------------


@final
class RealLine(Transform):  # type: ignore[misc]
    """From unconstrained space to an interval, through the surrogate-input scale.

    A log-scale parameter between 1e-6 and 1 is sampled as a logit of its logarithm, not of itself.
    """

    name = "realline"
    ndim_supp = 0

    def __init__(
        self,
        lower: float,
        upper: float,
        scale: ScaleName,
        bounds: Bounds | None = None,
        fixed: Mapping[str, float] | None = None,
        others: Sequence[str] = (),
    ) -> None:
        self.lower, self.upper, self.interval = lower, upper, Interval.of(lower, upper, SCALES[scale])
        self.bounds, self.fixed, self.others = bounds, fixed or {}, tuple(others)

    def forward(self, value: Any, *inputs: Any) -> Any:
        """Return the unconstrained point."""
        return self.point(value, PyTensorFunctions, self._given(inputs))

    def point(self, value: Any, xp: Any, given: Mapping[str, Any] | None = None) -> Any:
        """Return the unconstrained point, with the functions of `xp`.

        `given` are the parameters that bounds depend on.
        """
        return self._between(xp, given or {}).to_real(value, xp)

    def backward(self, value: Any, *inputs: Any) -> Any:
        """Return the parameter in its own unit."""
        return self._between(PyTensorFunctions, self._given(inputs)).from_real(value, PyTensorFunctions)

    def log_jac_det(self, value: Any, *inputs: Any) -> Any:
        """Return log |d parameter / d value|."""
        return self._between(PyTensorFunctions, self._given(inputs)).log_jacobian(value, PyTensorFunctions)

    def _given(self, inputs: Sequence[Any]) -> dict[str, Any]:
        """Return the parameters before by name: the last inputs of the variable."""
        return dict(zip(self.others, inputs[len(inputs) - len(self.others) :], strict=True))

    def _between(self, xp: Any, given: Mapping[str, Any]) -> Interval:
        """Return the interval that the bounds leave."""
        if self.bounds is None:
            return self.interval
        values, scale = {**self.fixed, **given}, self.interval.scale
        low, high = self.interval.low, self.interval.high
        if self.bounds.lower:
            ends = [evaluate(one, values, xp) for one in self.bounds.lower]
            low = scale.forward(reduce(xp.maximum, [*ends, self.lower] if low is not None else ends), xp)
        if self.bounds.upper:
            ends = [evaluate(one, values, xp) for one in self.bounds.upper]
            high = scale.forward(reduce(xp.minimum, [*ends, self.upper] if high is not None else ends), xp)
        return Interval(low, high, scale)


def prior_variable(name: str, prior: Prior, lower: float, upper: float) -> Any:
    """Add a parameter with its prior, conditioned on [lower, upper], to the PyMC model in context."""
    low_p, high_p = float(prior.cdf(lower)), float(prior.cdf(upper))
    log_mass = np.log(high_p - low_p)

    def logp(value: Any, low: Any, high: Any) -> Any:
        inside = pt.and_(pt.ge(value, low), pt.le(value, high))
        return pt.switch(inside, prior.log_density(value, PyTensorFunctions) - log_mass, -np.inf)

    def random(low: Any, high: Any, rng: np.random.Generator, size: Any = None) -> Any:
        return prior.quantile(low_p + (high_p - low_p) * rng.random(size))

    transform = RealLine(lower, upper, prior.scale)
    start = float(prior.quantile(0.5 * (low_p + high_p)))
    return pm.CustomDist(
        name, lower, upper, logp=logp, random=random, default_transform=transform, initval=start, dtype="float64"
    )


def real_lines(law: ConditionedPrior) -> dict[str, RealLine]:
    """Return each quantity's transform from unconstrained space, with bounds that depend on those before it."""
    limits = {**law.limits, **{name: (value, value) for name, value in (law.fixed or {}).items()}}
    scales = {name: prior.scale for name, prior in law.priors.items()}
    bounds = solved(law.constraints, limits, scales) if law.constraints else {}
    return {name: RealLine(*law.limits[name], scale, bounds.get(name), law.fixed) for name, scale in scales.items()}


def prior_variables(law: ConditionedPrior) -> dict[str, Any]:
    """Add everything that is inferred, with its joint prior, to the PyMC model in context.

    A parameter of a block has its density given those before it; a constraint is part of the density of the last
    parameter that it mentions, and so is the probability of success. Where constraints can be solved for one parameter
    after the other, each is unconstrained between the bounds that those before it leave, and chains never meet the
    wall.
    """
    lines = real_lines(law)
    names, values = list(law.priors), {}
    places = {name: (one, j) for one in law.joint for j, name in enumerate(one.block.names)}
    last = [max((n for n in c.names if n in law.priors), key=names.index, default=names[-1]) for c in law.constraints]
    success_at = "" if law.success is None else max(law.success.names, key=names.index)
    share_at = max([*last, *([success_at] if success_at else [])], key=names.index, default="")
    for name, prior in law.priors.items():
        own = [constraint for constraint, at in zip(law.constraints, last, strict=True) if at == name]
        if name not in places and not own and name != success_at and lines[name].bounds is None:
            values[name] = prior_variable(name, prior, *law.limits[name])
        else:
            success = law.success if name == success_at else None
            values[name] = _dependent_variable(
                name, law, places.get(name), own, success, values, name == share_at, lines[name]
            )
    return values


def _dependent_variable(
    name: str,
    law: ConditionedPrior,
    place: Any,
    constraints: list[Constraint],
    success: Success | None,
    values: Mapping[str, Any],
    with_share: bool,
    line: RealLine,
) -> Any:
    """Add a parameter whose prior depends on those before it."""
    prior, (lower, upper) = law.priors[name], law.limits[name]
    before = place[0].block.names[: place[1]] if place is not None else ()
    mentioned = [n for c in constraints for n in c.names] + list(() if success is None else success.names)
    needed = list(dict.fromkeys([*before, *(n for n in mentioned if n in values)]))
    if line.bounds is not None:
        needed += [n for n in values if n in line.bounds.names and n not in needed]
    log_share = np.log(law.allowed.share) if with_share else 0.0

    def density(now: Mapping[str, Any]) -> Any:
        if place is None:
            return prior.log_density(now[name], PyTensorFunctions) - np.log(law.levels[name].inside)
        (_, block, _, _, log_mass), j = place
        before = [now[n] for n in block.names[: j + 1]]
        return block.conditional_log_density(before, PyTensorFunctions) - (log_mass if j == 0 else 0.0)

    def logp(value: Any, low: Any, high: Any, *others: Any) -> Any:
        now = {**(law.fixed or {}), **dict(zip(needed, others, strict=True)), name: value}
        inside = pt.and_(pt.ge(value, low), pt.le(value, high))
        for constraint in constraints:
            inside = pt.and_(inside, constraint.allows(now, PyTensorFunctions))
        total = density(now) - log_share
        if success is not None:
            total += PythonOp(LogSuccess(success))(pt.stack([now[n] for n in success.names]))[0]
        return pt.switch(inside, total, -np.inf)

    def random(*_: Any, rng: np.random.Generator, size: Any = None) -> Any:
        raise InputError(
            f"The prior of {name!r} is part of a joint one that PyMC cannot draw from one variable at a time. Use "
            "problem.prior_draws(n, rng)."
        )

    return pm.CustomDist(
        name,
        lower,
        upper,
        *(values[n] for n in needed),
        logp=logp,
        random=random,
        default_transform=RealLine(lower, upper, prior.scale, line.bounds, law.fixed, needed),
        initval=law.centre[name],
        dtype="float64",
    )


def _tensor(ndim: int) -> Any:
    return pt.tensor(dtype="float64", shape=(None,) * ndim)


def _bars(outputs: Any, cotangents: Any) -> list[Any]:
    """Return derivatives by all outputs, zeros where nothing depends on one."""
    return [
        out.zeros_like() if isinstance(bar.type, pytensor.gradient.DisconnectedType) else bar
        for out, bar in zip(outputs, cotangents, strict=True)
    ]


# --- operations -------------------------------------------------------------------------------------------------------


class Evaluation(Protocol):
    """What `PythonOp` evaluates: arrays to arrays, with derivatives; compared by what it holds.

    Attributes
    ----------
    outputs
        Number of dimensions of each output.
    by
        Places of the inputs by which it is differentiated.
    no_derivative
        Why it has no derivative; empty where it has one.
    """

    @property
    def outputs(self) -> tuple[int, ...]: ...
    @property
    def by(self) -> tuple[int, ...]: ...
    @property
    def no_derivative(self) -> str: ...
    def __call__(self, *inputs: Any, **nothing: Any) -> Sequence[Any]: ...


@runtime_checkable
class WithReverse(Protocol):
    """An `Evaluation` with a reverse derivative; others return a value and its derivatives by the inputs `by`."""

    def reverse(self, *inputs_and_bars: Array) -> Sequence[Any]:
        """Return derivatives by the inputs `by`, given all inputs and the derivatives by all outputs."""


@dataclass(frozen=True)
class _Reverse:
    """The reverse derivative of an evaluation, as an evaluation."""

    of: Any
    outputs: tuple[int, ...]
    by: ClassVar[tuple[int, ...]] = ()
    no_derivative: ClassVar[str] = "second derivatives are not implemented"

    def __call__(self, *inputs: Array) -> Sequence[Any]:
        return tuple(self.of.reverse(*inputs))


@final
class PythonOp(Op):  # type: ignore[misc]
    """A function of arrays that is written in Python, with its derivative, as an operation.

    Parameters
    ----------
    of
        The function, an `Evaluation`.
    """

    __props__ = ("of",)

    def __init__(self, of: Evaluation) -> None:
        self.of = of

    def make_node(self, *inputs: Any) -> Apply:
        """Describe inputs and outputs."""
        return Apply(self, [pt.as_tensor(v, dtype="float64") for v in inputs], [_tensor(n) for n in self.of.outputs])

    def perform(self, node: Apply, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        for place, value in zip(outputs, self.of(*(np.ascontiguousarray(v) for v in inputs)), strict=True):
            place[0] = np.array(value, order="C")

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        """Say by what each output is differentiated: derivatives that are outputs themselves by nothing."""
        return _connections(self.of.by, len(node.inputs), len(self.of.outputs), isinstance(self.of, WithReverse))

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> Any:
        """Return the reverse derivative, or scale the derivatives that the evaluation returned beside the value."""
        by = self.of.by
        if self.of.no_derivative:  # PyMC then chooses a sampler without gradients
            slopes = [grad_not_implemented(self, i, inputs[i], self.of.no_derivative) for i in by]
        elif isinstance(self.of, WithReverse):
            reverse = PythonOp(_Reverse(self.of, tuple(inputs[i].ndim for i in by)))
            slopes = reverse(*inputs, *_bars(outputs, cotangents), return_list=True)
        else:
            slopes = [cotangents[0] * slope for slope in outputs[1:]]
        return _by_place(by, slopes, len(inputs))


def _connections(by: Sequence[int], inputs: int, outputs: int, with_reverse: bool) -> list[list[bool]]:
    return [[i in by and (with_reverse or o == 0) for o in range(outputs)] for i in range(inputs)]


def _by_place(by: Sequence[int], slopes: Sequence[Any], inputs: int) -> list[Any]:
    found = dict(zip(by, slopes, strict=True))
    return [found[i] if i in found else disconnected_type() for i in range(inputs)]


@final
class CompiledOp(Op):  # type: ignore[misc]
    """A compiled function of arrays as an operation: compiled models call it without Python.

    It is described by names and numbers alone, of which PyTensor makes the key of what it keeps on disk.

    Parameters
    ----------
    module, function
        Where the function is below `uqms`, and its name. The module is imported when it is needed.
    outputs
        Number of dimensions of each output.
    by
        Places of the inputs by which it is differentiated.
    reverse
        Name of the function of the same module that returns derivatives by these inputs, given all inputs and the
        derivatives by all outputs. Without it the outputs are a value, and its derivatives by these inputs.
    """

    __props__ = ("module", "function", "outputs", "by", "reverse")

    def __init__(
        self, module: str, function: str, outputs: tuple[int, ...], by: tuple[int, ...] = (), reverse: str = ""
    ) -> None:
        self.module, self.function, self.outputs, self.by, self.reverse = module, function, outputs, by, reverse

    def compiled(self) -> tuple[Callable[..., Any], int]:
        """Return the function, and the version of its code."""
        module = importlib.import_module(f"uqms.{self.module}")
        return getattr(module, self.function), version(str(module.__file__))

    def make_node(self, *inputs: Any) -> Apply:
        """Describe inputs and outputs."""
        return Apply(self, [pt.as_tensor(v, dtype="float64") for v in inputs], [_tensor(n) for n in self.outputs])

    def perform(self, node: Apply, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        found = self.compiled()[0](*(np.ascontiguousarray(v) for v in inputs))
        for place, value in zip(outputs, found if len(outputs) > 1 else [found], strict=True):
            place[0] = np.asarray(value)

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        """Say by what each output is differentiated: derivatives that are outputs themselves by nothing."""
        return _connections(self.by, len(node.inputs), len(self.outputs), bool(self.reverse))

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> Any:
        """Return the reverse derivative, or scale the derivatives that the evaluation returned beside the value."""
        if self.reverse:
            reverse = CompiledOp(self.module, self.reverse, tuple(inputs[i].ndim for i in self.by))
            slopes = reverse(*inputs, *_bars(outputs, cotangents), return_list=True)
        else:
            slopes = [cotangents[0] * slope for slope in outputs[1:]]
        return _by_place(self.by, slopes, len(inputs))


# From a block of a Gaussian process and inputs (k, d) to `ScoresAt`'s mean and covariance.
SCORES = CompiledOp("surrogates.fused_scores", "scores_flat", (3, 4), by=(1,), reverse="scores_flat_reverse")
# From data, parts (H, size), log weights (H,), hyperparameters and measured values, see `GaussianLikelihood`, to the
# Gaussian log-likelihood with its derivatives by parts and hyperparameters.
GAUSSIAN = CompiledOp("calibration._gaussian", "mixed", (0, 2, 1), by=(1, 3))
# The same with the library's own Gaussian process in front of it: from a block, inputs (K, d), hyperparameters and
# measured values.
PROCESS_GAUSSIAN = CompiledOp("calibration._process_gaussian", "at", (0, 2, 1), by=(1, 2))
# From a block, inputs (K, d), hyperparameters and latents to the latent output (H, N) of the cells.
OUTPUTS = CompiledOp(
    "calibration._latent_outputs", "fused_outputs", (2,), by=(1, 2, 3), reverse="fused_outputs_reverse"
)


# --- what is evaluated in Python --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogSuccess:
    """Log probability of success at parameters (P,), and its derivative (P,)."""

    success: Success
    outputs: ClassVar = (0, 1)
    by: ClassVar = (0,)
    no_derivative: ClassVar = ""

    def __call__(self, x: Array) -> Sequence[Any]:
        return self.success.log_and_slope(x)


@dataclass(frozen=True)
class ScoresAt:
    """Mean (H, k, q) and covariance (H, q, k, k) of a surrogate's scores at inputs (k, d), any surrogate.

    Of correlated scores the covariance has the shape (H, k, q, k, q).
    """

    surrogate: Surrogate
    correlated: bool = False
    by: ClassVar = (0,)

    @property
    def outputs(self) -> tuple[int, ...]:
        return 3, 5 if self.correlated else 4

    @property
    def no_derivative(self) -> str:
        return "" if has_derivative(self.surrogate) else "the simulator is a black box without a derivative"

    def __call__(self, u: Array) -> Sequence[Any]:
        scores = self.surrogate.scores(u)
        return scores.mean, scores.covariance

    def reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Sequence[Any]:
        """Return the derivative by inputs."""
        return (self.surrogate.scores_reverse(u, mean_bar, covariance_bar),)


@dataclass(frozen=True)
class RowsAt:
    """Offset (H, k, N), basis (H, k, N, q) and truncation (H, k, N, t) of rows that depend on inputs (k, d)."""

    decoder: InputDecoder
    outputs: ClassVar = (3, 4, 4)
    by: ClassVar = (0,)
    no_derivative: ClassVar = ""

    def __call__(self, u: Array) -> Sequence[Any]:
        return tuple(self.decoder.at(u))

    def reverse(self, u: Array, *bars: Array) -> Sequence[Any]:
        """Return the derivative by inputs."""
        return (self.decoder.reverse(u, Decoder(*bars)),)


@dataclass(frozen=True)
class JointErrorParts:
    """Parts (H, size) of the joint error of any surrogate at inputs (K, d), for `GAUSSIAN`."""

    model: DataModel
    outputs: ClassVar = (2,)
    by: ClassVar = (0,)

    @property
    def no_derivative(self) -> str:
        return "" if has_derivative(self.model.surrogate) else NO_DERIVATIVE

    def __call__(self, u: Array) -> Sequence[Any]:
        return (self.model.parts(u[None])[0][:, 0],)

    def reverse(self, u: Array, parts_bar: Array) -> Sequence[Any]:
        """Return the derivative by inputs."""
        return (self.model.parts_reverse(u, parts_bar),)


@dataclass(frozen=True)
class LowRankGaussian:
    """`GAUSSIAN` with the features of any surrogate's error in front of it, `LowRank`, from inputs (K, d).

    Features and data come as blocks of numbers, so that others take their place in a compiled model.
    """

    lowrank: "LowRank"
    outputs: ClassVar = (0, 2, 1)
    by: ClassVar = (2, 3)

    @property
    def no_derivative(self) -> str:
        return "" if self.lowrank.differentiable else NO_DERIVATIVE

    def __call__(self, features: Array, data: Array, u: Array, phi: Array, z: Array) -> Sequence[Any]:
        with np.errstate(all="ignore"):  # a search may try inputs beyond all numbers: there is no density then
            return self.lowrank.with_blocks(features, data).value_and_slopes(u, phi, z)


@dataclass(frozen=True)
class PluggedOutputs:
    """`OUTPUTS` for a surrogate of the user's own, through its protocol."""

    model: DataModel
    outputs: ClassVar = (2,)
    by: ClassVar = (0, 1, 2)

    @property
    def no_derivative(self) -> str:
        return "" if has_derivative(self.model.surrogate) else NO_DERIVATIVE

    def __call__(self, u: Array, phi: Array, eta: Array) -> Sequence[Any]:
        eta = eta[None][:, self.model.free]
        return (self.model.latent_outputs(u[None], phi[None], eta)[0][:, 0],)

    def reverse(self, u: Array, phi: Array, eta: Array, bar: Array) -> Sequence[Any]:
        """Return derivatives by inputs, hyperparameters and latents."""
        model, y_bar = self.model, bar
        found = model.joint_error(u[None])
        scores = Scores(found.scores.mean[:, 0], found.scores.covariance[:, 0], found.scores.log_weights)
        means, covariances, phis, slopes, own, *rows = model.latent_parts(found, u[None], phi[None])
        bars = [np.zeros_like(one) for one in (means[:, 0], covariances[:, 0], slopes[:, 0])]
        phi_bar, eta_bar, own_bar = np.zeros_like(phi), np.zeros_like(eta), np.zeros_like(own[0])
        q, t = (one.shape[-1] for one in rows[1:])
        rows_bar = np.zeros((len(means), y_bar.shape[1] if model.cells.by_input is not None else 0, 1 + q + t))
        for h in range(len(means)):
            _latent_outputs.outputs_reverse(
                model.structure,
                means[h, 0],
                covariances[h, 0],
                phis[0],
                slopes[h, 0],
                own[0],
                *(one[h % len(one), 0] for one in rows),
                eta,
                y_bar[h],
                bars[0][h],
                bars[1][h],
                phi_bar,
                bars[2][h],
                own_bar,
                rows_bar[h],
                eta_bar,
            )
        u_bar = model.slopes_reverse(u, bars[2], scores)
        if model.realisation is not None:
            u_bar += model.realisation.reverse(u, own_bar)
        u_bar = u_bar + model.joint_error_reverse(
            u,
            model.all_scores(scores, *bars[:2]),
            Decoder(rows_bar[..., 0], rows_bar[..., 1 : 1 + q], rows_bar[..., 1 + q :]),
        )
        return u_bar, phi_bar, eta_bar


@register_funcify_default_op_cache_key(CompiledOp)  # type: ignore[untyped-decorator]
def _numba(op: CompiledOp, node: Apply, **_: Any) -> Any:
    return op.compiled()


numba_funcify.register(PythonOp)(in_python)


# --- the surrogate as an expression -----------------------------------------------------------------------------------


class SurrogateTensor(NamedTuple):
    """A surrogate at k inputs, as PyTensor expressions.

    Attributes
    ----------
    mean
        Output points, shape (k, N).
    variance
        Of the surrogate, truncation included, shape (k, N).
    covariance
        Joint over inputs and points, shape (k, N, k, N): the same input shares its errors, others are correlated.
    """

    mean: Any
    variance: Any
    covariance: Any


def unit_inputs(box: Box, theta: Mapping[str, Any], rows: int | None = None) -> Any:
    """Return inputs (k, d) in the unit cube from named tensors or numbers of shape () or (k,)."""
    columns = []
    for name, one in zip(box.names, box.maps, strict=True):
        columns.append(one.forward(pt.as_tensor(theta[name], dtype="float64"), PyTensorFunctions))
    if all(column.ndim == 0 for column in columns):  # a join of columns would take seconds to compile
        return pt.stack(columns)[None, :] if rows in (None, 1) else pt.ones((rows, 1)) * pt.stack(columns)[None, :]
    ones = pt.ones(rows) if rows is not None else pt.ones_like(next(c for c in columns if c.ndim))
    return pt.stack([column * ones for column in columns], axis=1)


def conditions(model: DataModel, uncertain: Mapping[str, tuple[int, int]], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return by condition the values of all experiments (K,): measured ones, or tensors where they are inferred.

    `uncertain` are the inferred ones, see `SingleCalibration.uncertain`.
    """
    out: dict[str, Any] = dict(zip(model.condition_names, model.cells.conditions.T, strict=True))
    for key, (k, column) in uncertain.items():
        name = model.condition_names[column]
        if key not in values:  # a model of the user's own has something else in the place of the condition
            continue
        out[name] = pt.set_subtensor(pt.as_tensor(out[name], dtype="float64")[k], values[key])
    return out


def exact_scores(surrogate: Surrogate, u: Any) -> Any:
    """Return the outputs (k, q) of a simulator that is used directly, at inputs (k, d) in the unit cube."""
    if not isinstance(surrogate, DirectSimulator) or surrogate.backend != "pytensor":
        return PythonOp(ScoresAt(surrogate))(u)[0][0]
    columns = [one.inverse(u[:, j], PyTensorFunctions) for j, one in enumerate(surrogate.domain.maps)]
    return surrogate.expression(columns)


@taught
def as_tensor(
    surrogate: Surrogate, theta: Mapping[str, Any], output: str | None = None, coords: Mapping[str, Any] | None = None
) -> SurrogateTensor:
    """Return a surrogate as an ordinary differentiable PyTensor expression, for a `pymc.Model` of your own.

    In a likelihood, use the covariance (or sample the error once for each input): adding the variance to each
    observation independently counts the surrogate's error as if it were noise that averages out. Keep the parameters
    inside of `surrogate.domain` (`pymc.Truncated`): outside of it the surrogate knows nothing and chains wander off.
    For observations at coordinates and conditions of their own, with discrepancy, or of an output with a transform, use
    `observe` or `latent_output`.

    Parameters
    ----------
    surrogate
        A fitted surrogate.
    theta
        Input name to tensor or number, shape () or (k,), in the inputs' own units.
    output
        Which output; may be left out when there is one.
    coords
        Pointwise coordinates of the output; all simulated ones when left out.

    Returns
    -------
    SurrogateTensor
        `mean` (k, N), `variance` (k, N) and `covariance` (k, N, k, N).

    Raises
    ------
    InputError
        When inputs are missing or unknown, the output must be named, or it has a transform.

    Examples
    --------
    >>> import numpy as np, pymc as pm, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": np.sin(design["k"].values)})
    >>> surrogate = uq.GaussianProcess().fit(runs)
    >>> with pm.Model():
    ...     k = pm.Uniform("k", 0.0, 2.0)
    ...     y = uq.as_tensor(surrogate, {"k": k})
    >>> y.mean.ndim
    2
    """
    names = surrogate.domain.names
    if set(theta) != set(names):
        raise InputError(f"as_tensor: got inputs {sorted(theta)}, the surrogate has {list(names)}.")
    outputs = list(surrogate.layouts)
    if output is None:
        if len(outputs) > 1:
            raise InputError(f"as_tensor: which output? The surrogate has {outputs}; pass output=.")
        output = outputs[0]
    if output in outputs:
        check_scale(surrogate, output, "as_tensor")
    decoder = surrogate.decode(output, coords)
    u = unit_inputs(surrogate.domain, theta)
    process = compiled_process(surrogate)
    if process is not None:
        log_weights = process.log_weights
        means, covariances = SCORES(pytensor.shared(process.flat()), u)
    else:
        found = surrogate.scores(np.full((1, len(names)), 0.5))
        log_weights = found.log_weights
        means, covariances = PythonOp(ScoresAt(surrogate, found.correlated))(u)
    weights = np.exp(log_weights - np.logaddexp.reduce(log_weights))
    if isinstance(decoder, InputDecoder) or covariances.ndim == 5:
        return _joint_tensor(decoder, u, means, covariances, weights)
    offset, basis, truncation = decoder
    score_mean = pt.tensordot(weights, means, [[0], [0]])
    joint = pt.tensordot(weights, covariances, [[0], [0]])  # (q, k, k)
    mean = offset + score_mean @ basis.T
    rest = truncation @ truncation.T
    # (k, N, q) x (q, k, k) x (N, q): cov[a, m, b, n] = sum_j B[m, j] S_j[a, b] B[n, j]
    left = basis[None, :, :, None] * joint.transpose(1, 0, 2)[:, None, :, :]  # (k, N, q, k)
    covariance = pt.tensordot(left, pt.as_tensor(basis), [[2], [1]])  # (k, N, k, N)
    k = u.shape[0]
    eye = pt.eye(k)
    covariance += eye[:, None, :, None] * rest[None, :, None, :]
    diagonal = pt.sum(joint * eye, axis=2)  # (q, k); that of pt.diagonal has a derivative that compiles slowly
    variance = diagonal.T @ (basis**2).T + np.diag(rest)
    if len(weights) > 1:
        shift = (means - score_mean) @ basis.T  # (H, k, N)
        spread = pt.tensordot((weights[:, None, None] * shift), shift, [[0], [0]])
        covariance += spread
        variance += pt.tensordot(weights, shift**2, [[0], [0]])
    return SurrogateTensor(mean, variance, covariance)


def _joint_tensor(
    decoder: Decoder | InputDecoder, u: Any, means: Any, covariances: Any, weights: Array
) -> SurrogateTensor:
    """Return a surrogate whose rows depend on the input, or whose scores are correlated, as expressions."""
    if isinstance(decoder, InputDecoder):
        offset, basis, truncation = PythonOp(RowsAt(decoder))(u)  # (H or 1, k, N, ...)
    else:
        offset, basis, truncation = (pt.as_tensor(one)[None, None] for one in decoder)
        basis, truncation = (pt.repeat(one, u.shape[0], axis=1) for one in (basis, truncation))
    k, q, N = u.shape[0], means.shape[2], offset.shape[2]
    eye = pt.eye(k)
    if covariances.ndim == 4:  # (H, q, k, k), of scores that are independent
        covariances = covariances.transpose(0, 2, 1, 3)[..., None] * pt.eye(q)[None, None, :, None, :]
    each = offset + pt.sum(basis * means[:, :, None, :], axis=3)  # (H, k, N)
    spread = (eye[None, :, None, :, None] * basis[:, :, :, None, :]).reshape((-1, k * N, k * q))
    of_scores = pt.matmul(pt.matmul(spread, covariances.reshape((-1, k * q, k * q))), spread.transpose(0, 2, 1))
    rest = pt.matmul(truncation, truncation.transpose(0, 1, 3, 2))  # (H, k, N, N)
    covariance = of_scores.reshape((-1, k, N, k, N)) + eye[None, :, None, :, None] * rest[:, :, :, None, :]
    mean = pt.tensordot(weights, each, [[0], [0]])
    shift = each - mean
    covariance = pt.tensordot(weights, covariance + shift[:, :, :, None, None] * shift[:, None, None], [[0], [0]])
    variance = pt.sum(covariance * eye[:, None, :, None] * pt.eye(N)[None, :, None, :], axis=(2, 3))
    return SurrogateTensor(mean, variance, covariance)


# --- the likelihood ---------------------------------------------------------------------------------------------------


SQRT_2 = float(np.sqrt(2.0))


def _float64(x: Any) -> Any:
    """Return an expression; PyTensor itself takes a number such as 0.5 as float32, and so its logarithm."""
    return x if isinstance(x, Variable) else pt.constant(np.asarray(x, dtype=np.float64))


def _double(function: Callable[[Any], Any]) -> Any:
    return staticmethod(lambda x: function(_float64(x)))


class PyTensorFunctions:
    """The functions that a formula may use, for expressions: those of `uqms.parameters.functions.NumPyFunctions`."""

    exp, log, log1p, sqrt, abs = map(_double, (pt.exp, pt.log, pt.log1p, pt.sqrt, pt.abs))
    gammaln, expit, softplus, zeros_like = map(_double, (pt.gammaln, pt.sigmoid, pt.softplus, pt.zeros_like))
    where, maximum, minimum, isinf = pt.where, pt.maximum, pt.minimum, pt.isinf

    @staticmethod
    def asarray(x: Any) -> Any:
        """Return an expression of float64."""
        return _float64(x)

    @staticmethod
    def clip(x: Any, low: float, high: float) -> Any:
        """Return x within two bounds, of which infinite ones leave no trace in the graph."""
        x = pt.maximum(x, low) if np.isfinite(low) else x
        return pt.minimum(x, high) if np.isfinite(high) else x

    @staticmethod
    def logit(x: Any) -> Any:
        """Return log(x / (1 - x))."""
        x = _float64(x)
        return pt.log(x) - pt.log1p(-x)

    @staticmethod
    def xlogy(x: Any, y: Any) -> Any:
        """Return x log y, 0 where x is 0."""
        x, y = _float64(x), _float64(y)
        nothing = pt.eq(x, 0)
        return pt.switch(nothing, 0.0, x * pt.log(pt.switch(nothing, 1.0, y)))

    @staticmethod
    def xlog1py(x: Any, y: Any) -> Any:
        """Return x log(1 + y), 0 where x is 0."""
        x, y = _float64(x), _float64(y)
        nothing = pt.eq(x, 0)
        return pt.switch(nothing, 0.0, x * pt.log1p(pt.switch(nothing, 0.0, y)))

    @staticmethod
    def log_ndtr(x: Any) -> Any:
        """Return the log of the standard normal distribution function; PyMC's is in single precision in part."""
        x = _float64(x)
        below, above = pt.minimum(x, 0.0) / SQRT_2, pt.maximum(x, 0.0) / SQRT_2  # neither overflows, nor its derivative
        return pt.switch(x < 0.0, pt.log(0.5 * pt.erfcx(-below)) - below**2, pt.log1p(-0.5 * pt.erfc(above)))

    @staticmethod
    def between(low: Any, high: Any, z: Any) -> Any:
        """Return low + (high - low) expit(z), from the nearer end: values near either end keep their digits."""
        low, high, z = _float64(low), _float64(high), _float64(z)
        return pt.switch(z < 0.0, low + (high - low) * pt.sigmoid(z), high - (high - low) * pt.sigmoid(-z))

    @staticmethod
    def sum(x: Any) -> Any:
        """Return the sum over the last axis."""
        return x.sum(axis=-1)

    @staticmethod
    def logsumexp(x: Any) -> Any:
        """Return the log of the sum of exponentials over the last axis."""
        return pt.logsumexp(x, axis=-1)


def likelihood(
    model: DataModel,
    u: Any,
    values: Mapping[str, Any],
    name: str = "observations",
    latents: Any = "latents",
    density: Any = None,
    replicate: Any = None,
) -> Any:
    """Add the observed variable, a `CustomDist`, to the PyMC model in context.

    `density` (u, phi, z) and `replicate` (u, phi, rng) take the place of the joint density, and of draws from it, of a
    problem whose errors are all normal and independent given the inputs.

    Where errors are not all normal, a standard normal variable is added too: the surrogate's error and the discrepancy,
    given which the observations are independent. `latents` is its name, or an expression that stands in its place.
    """
    cells = model.cells
    phi = hyperparameters(model, values)
    if not model.closed_form:
        return _latent_likelihood(model, u, phi, name, latents)
    of_data = joint_density(model) if density is None else density

    def logp(value: Any, u: Any, phi: Any, rows: Any) -> Any:
        z, jacobian = _linked(cells, value)
        return of_data(u, phi, z) + jacobian

    def random(u: Any, phi: Any, rows: Any, rng: np.random.Generator, size: Any = None) -> Any:
        return _replicate(model, u, phi, None, rng) if replicate is None else replicate(u, phi, rng)

    return pm.CustomDist(
        name,
        u,
        phi,
        cells.row_variance,  # only tells PyMC how many rows there are
        logp=logp,
        random=random,
        observed=cells.own(cells.z),
        signature="(k,d),(g),(r)->(r)",
        dtype="float64",
    )


def joint_density(model: DataModel) -> Callable[[Any, Any, Any], Any]:
    """Return log p(z | u, phi) as a function of expressions."""
    block = shared_block(model)
    if block is not None:
        return lambda u, phi, z: PROCESS_GAUSSIAN(block, u, phi, z)[0]
    surrogate, likelihood, cells = model.surrogate, model.gaussian, model.cells
    data = pytensor.shared(likelihood.data, name="data")
    log_weights = np.asarray(surrogate.scores(np.full((1, surrogate.domain.d), 0.5)).log_weights, dtype=np.float64)
    if is_exact(surrogate) and not likelihood.slopes:
        fixed = np.concatenate([np.ravel(part) for part in likelihood.rows_of(cells, 1)[1:]])

        def parts(u: Any) -> Any:
            return pt.concatenate([cell_means(cells, exact_scores(surrogate, u)), fixed])[None]

    else:
        parts = PythonOp(JointErrorParts(model))
    return lambda u, phi, z: GAUSSIAN(data, parts(u), log_weights, phi, z)[0]


def _linked(cells: Cells, value: Any) -> tuple[Any, Any]:
    """Return measured values on the scale of the links, and the log-density that the change of scale adds."""
    at = np.flatnonzero([cells.links[g].name == "log" for g in cells.row_group])
    if not len(at):
        return value, 0.0
    logs = pt.log(value[at])
    return pt.set_subtensor(value[at], logs), -pt.sum(logs)


def hyperparameters(model: DataModel, values: Mapping[str, Any]) -> Any:
    """Return phi: given entries where there is a prior, known numbers for the others."""
    noise = model.noise
    columns = [
        values[key] if isinstance(one, Prior) else one for key, one in zip(noise.keys, noise.settings, strict=True)
    ]
    return pt.stack([pt.as_tensor(column, dtype="float64") for column in columns])


def shared_block(model: DataModel) -> Any:
    """Return surrogate and data as one shared array for `PROCESS_GAUSSIAN`; None where that does not serve."""
    if model.compiled_error is None:
        return None
    return pytensor.shared(model.block(), name="surrogate_and_data")


def _block(model: DataModel, data: Array) -> Any:
    """Return surrogate and data as one shared array for `OUTPUTS`; None where that does not serve."""
    if model.compiled_error is None or model.correlated_scores:  # of a chain
        return None
    flat = np.concatenate([model.compiled_error.select(model.cells.used).flat(), data])
    return pytensor.shared(flat, name="surrogate_and_data")


def latent_variable(model: DataModel, name: str) -> Any:
    """Add the standard normal latents of a problem to the PyMC model in context."""
    return pm.Normal(name, 0.0, 1.0, shape=len(model.free)) if len(model.free) else pt.zeros(0)


def latent_outputs(model: DataModel) -> tuple[Callable[[Any, Any, Any], Any], Array]:
    """Return a function from inputs (K, d), phi and latents to the latent outputs (H, N), and log weights (H,)."""
    free, block = model.free, _block(model, model.structure)
    size = model.latent_count
    operation = PythonOp(PluggedOutputs(model)) if block is None else OUTPUTS

    def outputs(u: Any, phi: Any, eta: Any) -> Any:
        whole = eta if len(free) == size else pt.set_subtensor(pt.zeros(size)[free], eta)
        return operation(u, phi, whole) if block is None else operation(block, u, phi, whole)

    log_weights = np.asarray(model.surrogate.scores(np.full((1, model.surrogate.domain.d), 0.5)).log_weights)
    return outputs, log_weights


def _latent_likelihood(model: DataModel, u: Any, phi: Any, name: str, latents: Any) -> Any:
    cells, noise = model.cells, model.noise
    eta = latent_variable(model, latents) if isinstance(latents, str) else latents
    outputs, log_weights = latent_outputs(model)

    def logp(value: Any, u: Any, phi: Any, eta: Any, rows: Any) -> Any:
        y = outputs(u, phi, eta)
        z, _ = _linked(cells, value)
        terms = row_terms(cells, noise, y, pt.repeat(phi[None, :], len(log_weights), axis=0), z, PyTensorFunctions)
        return pt.logsumexp(total(terms, 2) + log_weights)

    def random(u: Any, phi: Any, eta: Any, rows: Any, rng: np.random.Generator, size: Any = None) -> Any:
        return _replicate(model, u, phi, eta, rng)

    return pm.CustomDist(
        name,
        u,
        phi,
        eta,
        cells.row_variance,
        logp=logp,
        random=random,
        observed=cells.own(cells.z),
        signature="(k,d),(g),(l),(r)->(r)",
        dtype="float64",
    )


def _replicate(model: DataModel, u: Array, phi: Array, eta: Array | None, rng: np.random.Generator) -> Array:
    """Draw new observations (..., R) for inputs (..., K, d): `problem.simulate`, with PyMC's axes."""
    u = np.asarray(u)
    lead = u.shape[:-2]
    flat_u = u.reshape(-1, *u.shape[-2:])
    known = np.broadcast_to(phi, (*lead, np.shape(phi)[-1])).reshape(len(flat_u), -1)
    given = None if eta is None else np.broadcast_to(eta, (*lead, np.shape(eta)[-1])).reshape(len(flat_u), -1)
    out = simulate(model, flat_u, np.ascontiguousarray(known), rng, given)
    return np.asarray(out.reshape(*lead, -1))

"""The one bridge to PyMC and PyTensor: priors, surrogates and the likelihood as parts of a PyTensor graph."""

import warnings
from collections.abc import Mapping
from functools import singledispatch
from typing import Any, NamedTuple, final

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.distributions.transforms import Transform
from pytensor.gradient import disconnected_type
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.link.numba.dispatch.basic import (
    generate_fallback_impl,
    numba_funcify,
    register_funcify_default_op_cache_key,
)

from uqms._typing import Scale
from uqms.calibration import _marginal
from uqms.calibration.likelihood import Cells, NoiseGroups, check_scale
from uqms.calibration.simulation import replicate
from uqms.errors import InputError
from uqms.parameters import (
    Beta,
    Box,
    Gamma,
    HalfNormal,
    InverseGamma,
    LogNormal,
    LogUniform,
    Normal,
    Prior,
    TruncatedNormal,
    Uniform,
)
from uqms.surrogates import _fused
from uqms.surrogates.gp import GaussianProcessSurrogate
from uqms.surrogates.process import Scores
from uqms.surrogates.protocol import Surrogate

__all__ = ["SurrogateTensor", "as_tensor", "likelihood", "prior_variable"]


# --- priors -----------------------------------------------------------------------------------------------------------


@singledispatch
def log_density(prior: Prior, x: Any) -> Any:
    """Return the log-density of a prior as a PyTensor expression."""
    raise InputError(f"No PyTensor density for the prior {prior!r}; use one of the families of uqms.parameters.")


@log_density.register
def _(prior: Uniform, x: Any) -> Any:
    return pm.logp(pm.Uniform.dist(prior.low, prior.high), x)


@log_density.register
def _(prior: LogUniform, x: Any) -> Any:
    inside = pt.and_(pt.ge(x, prior.low), pt.le(x, prior.high))
    return pt.switch(inside, -pt.log(x) - np.log(np.log(prior.high / prior.low)), -np.inf)


@log_density.register
def _(prior: Normal, x: Any) -> Any:
    return pm.logp(pm.Normal.dist(prior.mean, prior.sd), x)


@log_density.register
def _(prior: LogNormal, x: Any) -> Any:
    return pm.logp(pm.LogNormal.dist(np.log(prior.median), prior.sigma), x)


@log_density.register
def _(prior: TruncatedNormal, x: Any) -> Any:
    return pm.logp(pm.TruncatedNormal.dist(prior.mean, prior.sd, lower=prior.low, upper=prior.high), x)


@log_density.register
def _(prior: HalfNormal, x: Any) -> Any:
    return pm.logp(pm.HalfNormal.dist(prior.sd), x)


@log_density.register
def _(prior: Beta, x: Any) -> Any:
    return pm.logp(pm.Beta.dist(prior.alpha, prior.beta), x)


@log_density.register
def _(prior: Gamma, x: Any) -> Any:
    return pm.logp(pm.Gamma.dist(prior.shape, prior.rate), x)


@log_density.register
def _(prior: InverseGamma, x: Any) -> Any:
    return pm.logp(pm.InverseGamma.dist(prior.alpha, prior.beta), x)


def scaled(x: Any, scale: Scale) -> Any:
    """Return x on the surrogate-input scale."""
    if scale == "log":
        return pt.log(x)
    return pt.log(x) - pt.log1p(-x) if scale == "logit" else x


def _number(x: float, scale: Scale) -> float:
    with np.errstate(divide="ignore"):
        if scale == "log":
            return float(np.log(x))
        return float(np.log(x) - np.log1p(-x)) if scale == "logit" else float(x)


@final
class RealLine(Transform):  # type: ignore[misc]
    """From the real line to an interval, through the surrogate-input scale.

    A log-scale parameter between 1e-6 and 1 is sampled as a logit of its logarithm, not of itself.
    """

    name = "realline"
    ndim_supp = 0

    def __init__(self, lower: float, upper: float, scale: Scale) -> None:
        self.low, self.high, self.scale = _number(lower, scale), _number(upper, scale), scale

    def forward(self, value: Any, *inputs: Any) -> Any:
        """Return the point of the real line."""
        return self.point(value, pt)

    def point(self, value: Any, xp: Any) -> Any:
        """Return the point of the real line, with the functions of `xp`: pytensor.tensor or numpy."""
        v = value
        if self.scale != "identity":
            v = xp.log(value) - (xp.log1p(-value) if self.scale == "logit" else 0.0)
        if np.isfinite(self.low) and np.isfinite(self.high):
            return xp.log(v - self.low) - xp.log(self.high - v)
        if np.isfinite(self.low):
            return xp.log(v - self.low)
        return -xp.log(self.high - v) if np.isfinite(self.high) else v

    def _scaled_value(self, z: Any) -> tuple[Any, Any]:
        """Return the value on the surrogate-input scale and the log of its derivative."""
        if np.isfinite(self.low) and np.isfinite(self.high):
            width = self.high - self.low
            return self.low + width * pt.sigmoid(z), np.log(width) - pt.softplus(-z) - pt.softplus(z)
        if np.isfinite(self.low):
            return self.low + pt.exp(z), z
        if np.isfinite(self.high):
            return self.high - pt.exp(-z), -z
        return z, pt.zeros_like(z)

    def backward(self, value: Any, *inputs: Any) -> Any:
        """Return the parameter in its own unit."""
        v, _ = self._scaled_value(value)
        if self.scale == "log":
            return pt.exp(v)
        return pt.sigmoid(v) if self.scale == "logit" else v

    def log_jac_det(self, value: Any, *inputs: Any) -> Any:
        """Return log |d parameter / d value|."""
        v, log_slope = self._scaled_value(value)
        if self.scale == "log":
            return log_slope + v
        return log_slope - pt.softplus(-v) - pt.softplus(v) if self.scale == "logit" else log_slope


def prior_variable(name: str, prior: Prior, lower: float, upper: float) -> Any:
    """Add a parameter with its prior, conditioned on [lower, upper], to the PyMC model in context."""
    low_p, high_p = float(prior.cdf(lower)), float(prior.cdf(upper))
    log_mass = np.log(high_p - low_p)

    def logp(value: Any, low: Any, high: Any) -> Any:
        inside = pt.and_(pt.ge(value, low), pt.le(value, high))
        return pt.switch(inside, log_density(prior, value) - log_mass, -np.inf)

    def random(low: Any, high: Any, rng: np.random.Generator, size: Any = None) -> Any:
        return prior.quantile(low_p + (high_p - low_p) * rng.random(size))

    transform = RealLine(lower, upper, prior.scale)
    start = float(prior.quantile(0.5 * (low_p + high_p)))
    return pm.CustomDist(
        name, lower, upper, logp=logp, random=random, default_transform=transform, initval=start, dtype="float64"
    )


# --- the surrogate as an expression -----------------------------------------------------------------------------------


@final
class ScoresOp(Op):  # type: ignore[misc]
    """Mean (H, k, q) and covariance (H, q, k, k) of a surrogate's scores at inputs (k, d), any surrogate."""

    __props__ = ("surrogate",)

    def __init__(self, surrogate: Surrogate) -> None:
        self.surrogate = surrogate

    def make_node(self, u: Any) -> Apply:
        """Describe inputs and outputs."""
        u = pt.as_tensor(u, dtype="float64")
        return Apply(
            self, [u], [pt.tensor(dtype="float64", shape=(None,) * 3), pt.tensor(dtype="float64", shape=(None,) * 4)]
        )

    def perform(self, node: Apply, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        scores = self.surrogate.scores(np.asarray(inputs[0]))
        outputs[0][0], outputs[1][0] = np.ascontiguousarray(scores.mean), np.ascontiguousarray(scores.covariance)

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> Any:
        """Return the reverse derivative."""
        bars = [
            out.zeros_like() if isinstance(bar.type, pytensor.gradient.DisconnectedType) else bar
            for out, bar in zip(outputs, cotangents, strict=True)
        ]
        return [ScoresReverseOp(self.surrogate)(inputs[0], *bars)]


@final
class ScoresReverseOp(Op):  # type: ignore[misc]
    """Reverse derivative of `ScoresOp`."""

    __props__ = ("surrogate",)

    def __init__(self, surrogate: Surrogate) -> None:
        self.surrogate = surrogate

    def make_node(self, u: Any, mean_bar: Any, covariance_bar: Any) -> Apply:
        """Describe inputs and outputs."""
        return Apply(self, [pt.as_tensor(v) for v in (u, mean_bar, covariance_bar)], [pt.dmatrix()])

    def perform(self, node: Apply, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        outputs[0][0] = self.surrogate.scores_reverse(*(np.ascontiguousarray(v) for v in inputs))


class FlatScoresOp(Op):  # type: ignore[misc]
    """`ScoresOp` of a Gaussian process whose arrays come as one flat block: compiled, without a call to Python."""

    __props__ = ()

    def make_node(self, block: Any, u: Any) -> Apply:
        """Describe inputs and outputs."""
        shapes = [pt.tensor(dtype="float64", shape=(None,) * n) for n in (3, 4)]
        return Apply(self, [pt.as_tensor(block), pt.as_tensor(u, dtype="float64")], shapes)

    def perform(self, node: Apply, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        outputs[0][0], outputs[1][0] = _fused.scores_flat(*(np.ascontiguousarray(v) for v in inputs))

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        """Nothing is differentiated by the block."""
        return [[False, False], [True, True]]

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> Any:
        """Return the reverse derivative."""
        bars = [
            out.zeros_like() if isinstance(bar.type, pytensor.gradient.DisconnectedType) else bar
            for out, bar in zip(outputs, cotangents, strict=True)
        ]
        return [disconnected_type(), FlatScoresReverseOp()(*inputs, *bars)]


class FlatScoresReverseOp(Op):  # type: ignore[misc]
    """Reverse derivative of `FlatScoresOp`."""

    __props__ = ()

    def make_node(self, block: Any, u: Any, mean_bar: Any, covariance_bar: Any) -> Apply:
        """Describe inputs and outputs."""
        return Apply(self, [pt.as_tensor(v) for v in (block, u, mean_bar, covariance_bar)], [pt.dmatrix()])

    def perform(self, node: Apply, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        outputs[0][0] = _fused.scores_flat_reverse(*(np.ascontiguousarray(v) for v in inputs))


class MarginalOp(Op):  # type: ignore[misc]
    """Log-likelihood of the observations, with its derivatives by inputs (K, d) and noise sds as further outputs."""

    __props__ = ()

    def make_node(self, block: Any, u: Any, sigma: Any, z: Any) -> Apply:
        """Describe inputs and outputs."""
        inputs = [pt.as_tensor(v) for v in (block, u, sigma, z)]
        return Apply(self, inputs, [pt.dscalar(), pt.dmatrix(), pt.dvector()])

    def perform(self, node: Apply, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        block, u, sigma, z = (np.ascontiguousarray(v) for v in inputs)
        value, u_bar, sigma_bar = _marginal.fused(block, u, sigma, z)
        outputs[0][0], outputs[1][0], outputs[2][0] = np.asarray(value), u_bar, sigma_bar

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        """Only the value is differentiated, by inputs and noise."""
        return [[False] * 3, [True, False, False], [True, False, False], [False] * 3]

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> Any:
        """Scale the derivatives that the evaluation returned beside the value."""
        bar = cotangents[0]
        return [disconnected_type(), bar * outputs[1], bar * outputs[2], disconnected_type()]


@final
class PluggedMarginalOp(Op):  # type: ignore[misc]
    """`MarginalOp` for a surrogate of the user's own, through its protocol."""

    __props__ = ("surrogate", "cells")

    def __init__(self, surrogate: Surrogate, cells: Cells) -> None:
        self.surrogate, self.cells, self.data = surrogate, cells, cells.flat()

    def make_node(self, u: Any, sigma: Any, z: Any) -> Apply:
        """Describe inputs and outputs."""
        return Apply(self, [pt.as_tensor(v) for v in (u, sigma, z)], [pt.dscalar(), pt.dmatrix(), pt.dvector()])

    def perform(self, node: Apply, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        u, sigma, z = (np.ascontiguousarray(v) for v in inputs)
        scores: Scores = self.surrogate.scores(u)
        used = self.cells.used
        mean_bar, cov_bar = np.zeros_like(scores.mean), np.zeros_like(scores.covariance)
        value, mean_bar[..., used], cov_bar[:, used], sigma_bar = _marginal.mixed(
            self.data,
            np.ascontiguousarray(scores.mean[..., used]),
            np.ascontiguousarray(scores.covariance[:, used]),
            np.asarray(scores.log_weights, dtype=np.float64),
            sigma,
            z,
        )
        outputs[0][0] = np.asarray(value)
        outputs[1][0] = self.surrogate.scores_reverse(u, mean_bar, cov_bar)
        outputs[2][0] = sigma_bar

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        """Only the value is differentiated, by inputs and noise."""
        return [[True, False, False], [True, False, False], [False] * 3]

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> Any:
        """Scale the derivatives that the evaluation returned beside the value."""
        return [cotangents[0] * outputs[1], cotangents[0] * outputs[2], disconnected_type()]


KERNEL_VERSION = 3  # raise it when a compiled kernel changes: graphs cached on disk do not look inside


@register_funcify_default_op_cache_key(FlatScoresOp)  # type: ignore[untyped-decorator]
def _numba_scores(op: FlatScoresOp, node: Apply, **_: Any) -> Any:
    return _fused.scores_flat, KERNEL_VERSION


@register_funcify_default_op_cache_key(FlatScoresReverseOp)  # type: ignore[untyped-decorator]
def _numba_scores_reverse(op: FlatScoresReverseOp, node: Apply, **_: Any) -> Any:
    return _fused.scores_flat_reverse, KERNEL_VERSION


@register_funcify_default_op_cache_key(MarginalOp)  # type: ignore[untyped-decorator]
def _numba_marginal(op: MarginalOp, node: Apply, **_: Any) -> Any:
    return _marginal.fused_as_arrays, KERNEL_VERSION


def _in_python(op: Any, node: Any = None, **options: Any) -> Any:
    """Evaluate in Python from compiled code, without the warning: these operations are meant to run there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Numba will use object mode")
        return generate_fallback_impl(op, node, **options)


for _operation in (ScoresOp, ScoresReverseOp, PluggedMarginalOp):
    numba_funcify.register(_operation)(_in_python)


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
    for name, low, high, scale in zip(box.names, box.lower, box.upper, box.scale, strict=True):
        a, b = _number(low, scale), _number(high, scale)
        columns.append((scaled(pt.as_tensor(theta[name], dtype="float64"), scale) - a) / (b - a))
    if rows is None and all(column.ndim == 0 for column in columns):
        return pt.stack(columns)[None, :]
    ones = pt.ones(rows) if rows is not None else pt.ones_like(next(c for c in columns if c.ndim))
    return pt.stack([column * ones for column in columns], axis=1)


def as_tensor(
    surrogate: Surrogate, theta: Mapping[str, Any], output: str | None = None, coords: Mapping[str, Any] | None = None
) -> SurrogateTensor:
    """Return a surrogate as an ordinary differentiable PyTensor expression, for a `pymc.Model` of your own.

    In a likelihood, use the covariance (or sample the error once for each input): adding the variance to each
    observation independently counts the surrogate's error as if it were noise that averages out. Keep the parameters
    inside of `surrogate.domain` (`pymc.Truncated`): outside of it the surrogate knows nothing and chains wander off.

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
            raise InputError(f"as_tensor: which output? The surrogate has {outputs}; say output=.")
        output = outputs[0]
    if output in outputs:
        check_scale(surrogate, output, "as_tensor")
    offset, basis, truncation = surrogate.decode(output, coords)
    u = unit_inputs(surrogate.domain, theta)
    if isinstance(surrogate, GaussianProcessSurrogate) and surrogate.physics is None:
        log_weights = surrogate.process.log_weights
        means, covariances = FlatScoresOp()(pytensor.shared(surrogate.process.flat()), u)
    else:
        log_weights = surrogate.scores(np.full((1, len(names)), 0.5)).log_weights
        means, covariances = ScoresOp(surrogate)(u)
    weights = np.exp(log_weights - np.logaddexp.reduce(log_weights))
    score_mean = pt.tensordot(weights, means, [[0], [0]])
    joint = pt.tensordot(weights, covariances, [[0], [0]])  # (q, k, k)
    mean = offset + score_mean @ basis.T
    rest = truncation @ truncation.T
    # (k, N, q) x (q, k, k) x (N, q): cov[a, m, b, n] = sum_j B[m, j] S_j[a, b] B[n, j]
    left = basis[None, :, :, None] * joint.transpose(1, 0, 2)[:, None, :, :]  # (k, N, q, k)
    covariance = pt.tensordot(left, pt.as_tensor(basis), [[2], [1]])  # (k, N, k, N)
    k = u.shape[0]
    covariance += pt.eye(k)[:, None, :, None] * rest[None, :, None, :]
    diagonal = pt.diagonal(joint, axis1=1, axis2=2)  # (q, k)
    variance = diagonal.T @ (basis**2).T + np.diag(rest)
    if len(weights) > 1:
        shift = (means - score_mean) @ basis.T  # (H, k, N)
        spread = pt.tensordot((weights[:, None, None] * shift), shift, [[0], [0]])
        covariance += spread
        variance += pt.tensordot(weights, shift**2, [[0], [0]])
    return SurrogateTensor(mean, variance, covariance)


# --- the likelihood ---------------------------------------------------------------------------------------------------


def likelihood(surrogate: Surrogate, cells: Cells, groups: NoiseGroups, u: Any, noise: Mapping[str, Any]) -> Any:
    """Add the observed variable to the PyMC model in context: an observed `CustomDist` named "observations"."""
    sds = [noise[name] if isinstance(sd, Prior) else sd for name, sd in zip(groups.names, groups.sds, strict=True)]
    sigma = pt.stack([pt.as_tensor(sd, dtype="float64") for sd in sds])
    if isinstance(surrogate, GaussianProcessSurrogate) and surrogate.physics is None:
        block = pytensor.shared(
            np.concatenate([surrogate.process.select(cells.used).flat(), cells.flat()]), name="surrogate_and_data"
        )

        def logp(value: Any, u: Any, sigma: Any, rows: Any) -> Any:
            return MarginalOp()(block, u, sigma, value)[0]
    else:
        plugged = PluggedMarginalOp(surrogate, cells)

        def logp(value: Any, u: Any, sigma: Any, rows: Any) -> Any:
            return plugged(u, sigma, value)[0]

    def random(u: Any, sigma: Any, rows: Any, rng: np.random.Generator, size: Any = None) -> Any:
        return replicate(surrogate, cells, u, sigma, rng)

    return pm.CustomDist(
        "observations",
        u,
        sigma,
        cells.row_variance,  # only tells PyMC how many rows there are
        logp=logp,
        random=random,
        observed=cells.z,
        signature="(k,d),(g),(r)->(r)",
        dtype="float64",
    )

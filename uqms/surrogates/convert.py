"""Trained GPyTorch and BoTorch models as surrogates: the same posterior, as plain arrays.

==========  =====================================================================  =========
symbol      meaning                                                                shape
==========  =====================================================================  =========
u           inputs in the unit cube of the design box                              (n, d)
x           inputs as the kernel sees them, x = shift + stretch * u                (n, d)
ell         length scales for u: those for x divided by the stretch                (d,)
c, w        mean function c + w' x = (c + w' shift) + (w * stretch)' u             (), (d,)
K           kappa + (noise / variance) I                                           (n, n)
==========  =====================================================================  =========

The trained mean is kept as it is: it has no uncertainty (R of `process` is zero), as in the model itself.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.linalg import lapack, solve_triangular
from scipy.stats import qmc

from uqms._teaching import taught
from uqms._typing import Array
from uqms.errors import InputError
from uqms.parameters import Box
from uqms.surrogates.gp import GaussianProcessSurrogate
from uqms.surrogates.kernels import Kernel, Matern32, Matern52, SquaredExponential, correlation
from uqms.surrogates.outputs import Layout, OutputBasis
from uqms.surrogates.process import ScoreProcess, scores_at
from uqms.surrogates.training import factorise, trend_basis

__all__ = ["from_gpytorch"]

SUPPORTED = (
    "What converts: an ExactGP or SingleTaskGP with ConstantMean, ZeroMean or LinearMean; RBFKernel or MaternKernel "
    "(nu 1.5 or 2.5), bare or in a ScaleKernel; GaussianLikelihood, or FixedNoiseGaussianLikelihood with one noise for "
    "all runs; BoTorch's Normalize and Standardize."
)
AGREEMENT = 1e-6  # in prior sds; what is asked of the converted posterior before it is handed over


@taught
def from_gpytorch(
    model: Any,
    *,
    box: Box,
    outputs: str | Sequence[str] = "y",
    units: Mapping[str, str] | None = None,
    inputs: Literal["own", "unit"] = "own",
) -> GaussianProcessSurrogate:
    """Convert a trained GPyTorch or BoTorch model to a surrogate with the same posterior.

    Use it when you have trained a Gaussian process yourself. Hyperparameters and mean function are kept as point
    estimates; the surrogate's uncertainty is that of the latent function, without the likelihood's noise. The converted
    posterior is compared with the model's own at a few points before it is returned.

    Parameters
    ----------
    model
        A `gpytorch.models.ExactGP` with attributes `mean_module`, `covar_module` and `likelihood`, or BoTorch's
        `SingleTaskGP`, in float64. It is left as it is.
    box
        Names and range of the inputs, in the order of the model's columns.
    outputs
        Name of the output, or one name for each output of a batch model.
    units
        Units of the outputs by name.
    inputs
        In what the model was trained: "own" units of the inputs (the box must then have the identity scale), or "unit",
        the unit cube of the box.

    Raises
    ------
    InputError
        When the model has a part that does not convert, is in float32, or its `forward` does something else.

    Examples
    --------
    >>> import gpytorch, torch
    >>> import uqms as uq
    >>> class Model(gpytorch.models.ExactGP):
    ...     def __init__(self, x, y, likelihood):
    ...         super().__init__(x, y, likelihood)
    ...         self.mean_module = gpytorch.means.ConstantMean()
    ...         self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=2.5))
    ...     def forward(self, x):
    ...         return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))
    >>> x = torch.linspace(0.0, 2.0, 9, dtype=torch.float64)[:, None]
    >>> model = Model(x, torch.sin(x[:, 0]), gpytorch.likelihoods.GaussianLikelihood()).double()
    >>> surrogate = from_gpytorch(model, box=uq.Box(("k",), lower=(0.0,), upper=(2.0,)))
    >>> surrogate.predict({"k": 0.3}).mean["y"].shape
    (1,)
    """
    if inputs not in ("own", "unit"):
        raise InputError(
            f"inputs is {inputs!r}; give 'own' (the inputs' own units) or 'unit' (the unit cube of the box)."
        )
    if inputs == "own" and set(box.scale) != {"identity"}:
        raise InputError(
            f"The box has the scales {box.scale}, but a model of the inputs' own units is stationary in those. Give a "
            "box with identity scales, or train the model on box.to_unit(x) and pass inputs='unit'."
        )
    parts = _parts(model, box, inputs)
    names = (outputs,) if isinstance(outputs, str) else tuple(outputs)
    if len(names) != parts.y.shape[1] or len(set(names)) < len(names):
        raise InputError(f"outputs is {list(names)}; the model has {parts.y.shape[1]} outputs: give each its own name.")
    process = _process(parts)
    given = dict(units or {})
    if set(given) - set(names):
        raise InputError(f"units are given for {sorted(set(given) - set(names))}; the outputs are {list(names)}.")
    bases = tuple(
        OutputBasis(
            name=name,
            layout=Layout(unit=given.get(name, "")),
            offset=parts.offset[j : j + 1],
            basis=parts.spread[j].reshape(1, 1),
            truncation=np.zeros((1, 0)),
            left_out=np.zeros((len(parts.u), 0)),
        )
        for j, name in enumerate(names)
    )
    source = "botorch" if hasattr(model, "posterior") else "gpytorch"
    attrs = MappingProxyType({"runs_left_out": "0", "noise": "fitted", "converted_from": source})
    surrogate = GaussianProcessSurrogate(box, process, bases, attrs)
    _compare(surrogate, model, parts, inputs)
    return surrogate


class _Parts(NamedTuple):
    """A model taken apart, q outputs."""

    kernel: Kernel
    u: Array  # (n, d)
    y: Array  # (n, q)
    ell: Array  # (q, d)
    variance: Array  # (q,)
    noise: Array  # (q,)
    beta: Array  # (q, b)
    offset: Array  # (q,)
    spread: Array  # (q,)


# --------------------------------------------------------------------------------------------------------- taking apart
def _refuse(what: str) -> InputError:
    return InputError(f"{what}. {SUPPORTED}")


def _numbers(tensor: Any) -> Array:
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float64)


def _parts(model: Any, box: Box, inputs: str) -> _Parts:
    from gpytorch.models import ExactGP

    if not isinstance(model, ExactGP) or model.train_inputs is None or model.train_targets is None:
        raise _refuse(f"The model is a {type(model).__name__} without training data or not an ExactGP")
    _check_precision(model)
    missing = [name for name in ("mean_module", "covar_module") if not hasattr(model, name)]
    if missing:
        raise _refuse(f"The model {type(model).__name__} has no {missing[0]}")
    raw, y = _training_data(model, box)
    q, d = y.shape[1], box.d
    shift, stretch = _input_map(model, box, inputs)
    kernel, ell, variance = _kernel(model.covar_module, q, d)
    constant, slope = _mean(model.mean_module, q, d)
    offset, spread = _outcome(model, q)
    return _Parts(
        kernel=kernel,
        u=raw if inputs == "unit" else np.asarray(box.to_unit(raw)),
        y=y,
        ell=ell / stretch,
        variance=variance,
        noise=_noise(model.likelihood, q, len(raw)),
        beta=constant[:, None] if slope is None else np.column_stack([constant + slope @ shift, slope * stretch]),
        offset=offset,
        spread=spread,
    )


def _check_precision(model: Any) -> None:
    import torch

    tensors = [*model.parameters(), *model.train_inputs, model.train_targets]
    low = {str(t.dtype) for t in tensors if t.is_floating_point() and t.dtype != torch.float64}
    if low:
        raise InputError(
            f"The model is in {sorted(low)[0]}; a posterior variance needs float64. Convert it and its training data "
            "with `model.double()` before training (and train again: its optimum moves)."
        )


def _training_data(model: Any, box: Box) -> tuple[Array, Array]:
    """Return the inputs before any transform (n, d) and the targets as the model holds them (n, q)."""
    held = model.train_inputs
    if getattr(model, "input_transform", None) is not None and not model.training:
        # In evaluation mode BoTorch keeps the transformed inputs there and the others apart.
        original = getattr(model, "_original_train_inputs", None)
        held = held if original is None else (original,)
    if len(held) != 1:
        raise _refuse(f"The model has {len(held)} input tensors, not one")
    x, y = _numbers(held[0]), _numbers(model.train_targets)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim == 3:
        if not (x == x[:1]).all():
            raise _refuse("The outputs of the model have different training inputs")
        x = x[0]
    y = y[None] if y.ndim == 1 else y
    if x.ndim != 2 or y.ndim != 2 or y.shape[1] != len(x):
        raise _refuse(f"The model has training inputs of shape {x.shape} and targets of shape {y.shape}")
    if x.shape[1] != box.d:
        raise InputError(
            f"The model has {x.shape[1]} inputs, the box {box.d} ({', '.join(box.names)}); name each column."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError(
            "The model's training data hold numbers that are not finite; remove those runs and train again."
        )
    return x, np.ascontiguousarray(y.T)


def _input_map(model: Any, box: Box, inputs: str) -> tuple[Array, Array]:
    """Return shift and stretch (d,) of what the kernel sees: x = shift + stretch * u."""
    if inputs == "unit":
        shift, stretch = np.zeros(box.d), np.ones(box.d)
    else:
        shift = np.asarray(box.lower)
        stretch = np.asarray(box.upper) - shift
    transform = getattr(model, "input_transform", None)
    if transform is None:
        return shift, stretch
    from botorch.models.transforms.input import Normalize

    if type(transform) is not Normalize or getattr(transform, "reverse", False):
        raise _refuse(f"The model has the input transform {type(transform).__name__}")
    low, width = np.zeros(box.d), np.ones(box.d)
    columns = getattr(transform, "indices", None)
    picked = np.arange(box.d) if columns is None else np.asarray(columns.cpu().numpy(), dtype=int)
    for target, name in ((low, "offset"), (width, "coefficient")):
        values = _numbers(getattr(transform, name)).reshape(-1, _numbers(getattr(transform, name)).shape[-1])
        if not (values == values[:1]).all():
            raise _refuse("The outputs of the model have different input transforms")
        target[picked] = values[0] if values.shape[1] == len(picked) else values[0][picked]
    return (shift - low) / width, stretch / width


def _spread_over(values: Array, q: int, what: str) -> Array:
    flat = values.reshape(-1)
    if flat.size not in (1, q):
        raise _refuse(f"The model has {flat.size} {what} for {q} outputs")
    return np.broadcast_to(flat, (q,)).copy()


def _kernel(kernel: Any, q: int, d: int) -> tuple[Kernel, Array, Array]:
    from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel

    variance = np.ones(q)
    while True:
        columns = getattr(kernel, "active_dims", None)
        if columns is not None and columns.tolist() != list(range(d)):
            raise _refuse(f"The model's {type(kernel).__name__} acts on the inputs {columns.tolist()} alone")
        if type(kernel) is not ScaleKernel:
            break
        variance = variance * _spread_over(_numbers(kernel.outputscale), q, "output scales")
        kernel = kernel.base_kernel
    kinds: dict[float, Kernel] = {1.5: Matern32(), 2.5: Matern52()}
    if type(kernel) is RBFKernel:
        ours: Kernel = SquaredExponential()
    elif type(kernel) is MaternKernel and kernel.nu in kinds:
        ours = kinds[kernel.nu]
    else:
        nu = f" with nu = {kernel.nu}" if hasattr(kernel, "nu") else ""
        raise _refuse(f"The model has the kernel {type(kernel).__name__}{nu}")
    ell = _numbers(kernel.lengthscale)
    ell = ell.reshape(-1, ell.shape[-1])
    if ell.shape[0] not in (1, q) or ell.shape[1] not in (1, d):
        raise _refuse(f"The model has length scales of shape {ell.shape} for {q} outputs of {d} inputs")
    return ours, np.broadcast_to(ell, (q, d)).copy(), variance


def _mean(mean: Any, q: int, d: int) -> tuple[Array, Array | None]:
    """Return the constant (q,) and, for a linear mean, the slopes (q, d)."""
    from gpytorch.means import ConstantMean, LinearMean, ZeroMean

    if type(mean) is ZeroMean:
        return np.zeros(q), None
    if type(mean) is ConstantMean:
        return _spread_over(_numbers(mean.constant), q, "constants"), None
    if type(mean) is not LinearMean:
        raise _refuse(f"The model has the mean {type(mean).__name__}")
    slope = _numbers(mean.weights)[..., 0].reshape(-1, d)
    if len(slope) not in (1, q):
        raise _refuse(f"The model has {len(slope)} linear means for {q} outputs")
    constant = np.zeros(q) if mean.bias is None else _spread_over(_numbers(mean.bias), q, "constants")
    return constant, np.broadcast_to(slope, (q, d)).copy()


def _noise(likelihood: Any, q: int, n: int) -> Array:
    from gpytorch.likelihoods import FixedNoiseGaussianLikelihood, GaussianLikelihood

    if type(likelihood) is GaussianLikelihood:
        return _spread_over(_numbers(likelihood.noise), q, "noise variances")
    if type(likelihood) is not FixedNoiseGaussianLikelihood:
        raise _refuse(f"The model has the likelihood {type(likelihood).__name__}")
    noise = _numbers(likelihood.noise).reshape(-1, n)
    if np.ptp(noise, axis=1).max() > 1e-9 * noise.max():
        raise _refuse(f"The model's noise differs between runs ({noise.min():g} to {noise.max():g})")
    return _spread_over(noise[:, 0], q, "noise variances")


def _outcome(model: Any, q: int) -> tuple[Array, Array]:
    transform = getattr(model, "outcome_transform", None)
    if transform is None:
        return np.zeros(q), np.ones(q)
    from botorch.models.transforms.outcome import Standardize

    if type(transform) is not Standardize:
        raise _refuse(f"The model has the outcome transform {type(transform).__name__}")
    means, sds = (_spread_over(_numbers(getattr(transform, name)), q, name) for name in ("means", "stdvs"))
    chosen = getattr(transform, "_outputs", None)
    if chosen is not None:
        rest = np.setdiff1d(np.arange(q), np.asarray(chosen) % q)
        means[rest], sds[rest] = 0.0, 1.0
    return means, sds


# ----------------------------------------------------------------------------------------------------- putting together
def _process(parts: _Parts) -> ScoreProcess:
    n, q = parts.y.shape
    trend = trend_basis(parts.u, parts.beta.shape[1])
    target, inverses, factors = [], [], []
    nugget, jitter = parts.noise / parts.variance, np.zeros(q)
    for j in range(q):
        lower, jitter[j] = _factorise(correlation(parts.kernel, parts.u, parts.u, parts.ell[j]), nugget[j])
        scale = np.sqrt(parts.variance[j])
        inverse = solve_triangular(lower, np.eye(n), lower=True, check_finite=False) / scale
        inverses.append(inverse)
        factors.append(inverse @ trend)
        target.append(inverse @ (parts.y[:, j] - trend @ parts.beta[j]))
    b = trend.shape[1]
    return ScoreProcess(
        kernel=parts.kernel,
        x=np.ascontiguousarray(parts.u),
        y=parts.y,
        ell=parts.ell[None],
        variance=parts.variance[None],
        nugget=nugget[None],
        jitter=jitter[None],
        beta=parts.beta[None],
        target=np.stack(target)[None],
        inverse_factor=np.stack(inverses)[None],
        trend_factor=np.stack(factors)[None],
        trend_root=np.zeros((1, q, b, b)),
        log_weights=np.zeros(1),
    )


def _factorise(kappa: Array, nugget: float) -> tuple[Array, float]:
    """Return the factor without a jitter where the noise allows it: the model has none either."""
    matrix = kappa.copy()
    matrix.flat[:: len(matrix) + 1] += nugget
    lower, info = lapack.dpotrf(matrix, lower=1, clean=1)
    return (np.ascontiguousarray(lower), 0.0) if info == 0 else factorise(kappa, nugget)


def _compare(surrogate: GaussianProcessSurrogate, model: Any, parts: _Parts, inputs: str) -> None:
    """Raise unless the surrogate agrees with the model's own posterior: its `forward` may do anything."""
    u = np.vstack([qmc.Sobol(surrogate.domain.d, scramble=False).random(8), parts.u[:8]])
    scores = scores_at(surrogate.process, u, diagonal=True)
    mean = parts.offset + scores.mean[0] * parts.spread
    variance = scores.covariance[0].T * parts.spread**2
    theirs = _posterior(model, u if inputs == "unit" else np.asarray(surrogate.domain.from_unit(u)))
    prior = parts.variance * parts.spread**2
    size = np.sqrt(prior) + np.abs(parts.y - parts.y.mean(axis=0)).max(axis=0) * parts.spread
    off = float(np.max(np.abs(mean - theirs[0]) / size)), float(np.max(np.abs(variance - theirs[1]) / prior))
    if not max(off) <= AGREEMENT:
        raise InputError(
            f"The model's own posterior differs from that of its mean, kernel and noise (mean by {off[0]:.1e}, "
            f"variance by {off[1]:.1e} of the prior): its forward() does more than these parts. {SUPPORTED}"
        )


def _posterior(model: Any, x: Array) -> tuple[Array, Array]:
    """Return the model's mean and latent variance (k, q) at x (k, d), and leave the model as it was."""
    import gpytorch
    import torch

    training, cache = model.training, model.prediction_strategy
    at = torch.as_tensor(x, dtype=torch.float64, device=model.train_targets.device)
    settings = gpytorch.settings
    try:
        model.eval()
        model.prediction_strategy = None  # hyperparameters may have changed since it was made
        size = settings.max_cholesky_size(model.train_targets.shape[-1] + len(x) + 1)
        exact = settings.fast_computations(covar_root_decomposition=False, log_prob=False, solves=False)
        with torch.no_grad(), size, exact, settings.fast_pred_var(False):
            if hasattr(model, "posterior"):
                posterior = model.posterior(at)
                return _numbers(posterior.mean), _numbers(posterior.variance)
            law = model(at)
            mean, variance = _numbers(law.mean), _numbers(law.variance)
            return (mean[:, None], variance[:, None]) if mean.ndim == 1 else (mean.T, variance.T)
    finally:
        model.train(training)
        model.prediction_strategy = cache

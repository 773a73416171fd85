"""The calibration problem: a surrogate, observations, noise, and the priors conditioned on the design box."""

import importlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import xarray as xr

from uqms._typing import Array, ArrayLike, RandomState, as_generator
from uqms.calibration import _marginal
from uqms.calibration.likelihood import arrange, check_errors_between
from uqms.calibration.noise import GaussianNoise
from uqms.calibration.observations import Observations
from uqms.calibration.samplers import NUTS
from uqms.errors import ExtrapolationError, InputError, PriorConflictWarning
from uqms.parameters import ParameterSpace, Prior
from uqms.surrogates.protocol import Surrogate

__all__ = ["Calibration", "Derived"]

_logger = logging.getLogger(__name__)
MASS_CUT_LIMIT = 0.01
CONFLICT_SD = 6.0
STARTS = 256  # points of which each chain takes one
SCORE_CHUNK = 2_000_000  # numbers in one cross-covariance block


@final
@dataclass(frozen=True)
class Derived:
    """A quantity computed from the parameters, with its unit.

    Parameters
    ----------
    function
        From a mapping of parameter name to draws (an array) to an array of the same shape.
    unit, description
        For tables and figures.

    Examples
    --------
    >>> Derived(lambda p: p["beta"] / p["gamma"], description="basic reproduction number").unit
    ''
    """

    function: Callable[[Mapping[str, Any]], Any]
    unit: str = ""
    description: str = ""


@final
class Calibration:
    """Infer parameters from observations through a surrogate, with the surrogate's error in the likelihood.

    The likelihood holds the joint error of the surrogate (the same input shares one error, different inputs have
    correlated ones), what its basis leaves out of a curve, and the measurement noise.

    Parameters
    ----------
    surrogate
        A fitted surrogate.
    observations
        `Observations`, or a DataArray named like the output.
    noise
        `GaussianNoise(...)`, or one an output in a mapping.
    space
        Parameters with their priors; by default those of the ensemble that the surrogate was trained on.
    derived
        Name → `Derived(...)` or a plain function of the parameters.
    outside
        What to do when more than 1 % of the prior's mass lies outside of the design box: "error" (default), or
        "extrapolate" to use the whole prior, where the surrogate knows little and chains may wander off. With "error"
        the prior is conditioned on the box; `mass_cut` says how much that cuts.

    Raises
    ------
    InputError
        Unknown outputs, missing conditions, a parameter that the surrogate does not have, an output with a transform.
    ConformanceError
        Several experiments, and a surrogate of your own that knows no covariance of its errors between inputs.
    ExtrapolationError
        More than 1 % of the prior's mass, a condition or a coordinate outside of what was simulated.
    DataError
        NaN among the observations.

    Warns
    -----
    PriorConflictWarning
        When an observation is more than 6 prior-predictive standard deviations away.

    References
    ----------
    Kennedy & O'Hagan (2001), doi:10.1111/1467-9868.00294; Bayarri et al. (2007), doi:10.1198/004017007000000092.

    Examples
    --------
    >>> import numpy as np, xarray as xr, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": np.sin(design["k"].values)})
    >>> surrogate = uq.GaussianProcess().fit(runs)
    >>> problem = uq.Calibration(surrogate, xr.DataArray(0.5, name="y"), noise=uq.GaussianNoise(sd=0.1))
    >>> problem.parameters
    ('k',)
    """

    def __init__(
        self,
        surrogate: Surrogate,
        observations: Observations | xr.DataArray,
        noise: GaussianNoise | Mapping[str, GaussianNoise],
        *,
        space: ParameterSpace | None = None,
        derived: Mapping[str, Derived | Callable[[Mapping[str, Any]], Any]] | None = None,
        outside: Literal["error", "extrapolate"] = "error",
    ) -> None:
        if outside not in ("error", "extrapolate"):
            raise InputError(f"outside is {outside!r}; give 'error' or 'extrapolate'.")
        self.surrogate = surrogate
        self.space = space if space is not None else _space_of(surrogate)
        self.outside = outside
        self.condition_names = tuple(name for name in surrogate.domain.names if name not in self.space.names)
        if isinstance(observations, xr.DataArray):
            names = tuple(name for name in self.condition_names if name in observations.coords)
            observations = Observations.from_xarray(observations, conditions=names)
        if not isinstance(observations, Observations):
            raise InputError(
                f"observations is a {type(observations).__name__}; give Observations.from_table(...) or a DataArray."
            )
        self.observations = observations
        self._check_parameters()
        self.cells, self.noise = arrange(surrogate, observations, noise, self.condition_names)
        self._check_names()
        self.derived = _derived(derived or {}, (*self.parameters, *self.noise.unknown))
        self.mass_cut = self._mass_cut()
        self.check_errors_between(self.cells.conditions, "Calibration of several experiments")
        self._warn_of_conflict()

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the inferred parameters (without the noise)."""
        return self.space.names

    @property
    def priors(self) -> dict[str, Prior]:
        """Priors of everything that is inferred, noise included."""
        return {**{name: self.space.priors[name] for name in self.parameters}, **self.noise.unknown}

    def limits(self, name: str) -> tuple[float, float]:
        """Interval that the prior of a parameter is conditioned on."""
        prior = self.priors[name]
        if name not in self.parameters or self.outside == "extrapolate":
            return prior.support
        box = self.surrogate.domain
        index = box.names.index(name)
        low, high = prior.support
        return max(low, box.lower[index]), min(high, box.upper[index])

    def __repr__(self) -> str:
        noise = ", ".join(self.noise.unknown) or "known"
        return (
            f"<Calibration of {', '.join(self.parameters)} (noise: {noise}) from {self.observations!r}; "
            f"{self.cells.experiments} experiment(s); prior mass outside of the design box: {self.mass_cut:.2%}>"
        )

    def unit_inputs(self, theta: Mapping[str, Array], conditions: Array | None = None) -> Array:
        """Return inputs (..., K, d) in the unit cube for parameters of shape (...) and conditions (K, c)."""
        box = self.surrogate.domain
        conditions = self.cells.conditions if conditions is None else conditions
        lead = np.broadcast_shapes(*(np.shape(theta[name]) for name in self.parameters))
        x = np.empty((*lead, len(conditions), box.d))
        for column, name in enumerate(box.names):
            if name in self.parameters:
                x[..., column] = np.broadcast_to(theta[name], lead)[..., None]
            else:
                x[..., column] = conditions[:, self.condition_names.index(name)]
        return np.asarray(box.to_unit(x))

    def check_errors_between(self, conditions: Array, asked: str) -> None:
        """Raise ConformanceError when the surrogate knows no covariance of its errors between conditions (K, c)."""
        u = self.unit_inputs(self.prior_draws(4, 0), conditions[:2])
        check_errors_between(self.surrogate, u, self.cells.used, asked)

    def model(self) -> Any:
        """Return the PyMC model: parameters with their priors and the observed variable "observations"."""
        import pymc as pm

        from uqms.calibration import bridge

        with pm.Model() as model:
            values = {
                name: bridge.prior_variable(name, prior, *self.limits(name)) for name, prior in self.priors.items()
            }
            theta: dict[str, Any] = {name: values[name] for name in self.parameters}
            theta |= dict(zip(self.condition_names, self.cells.conditions.T, strict=True))
            u = bridge.unit_inputs(self.surrogate.domain, theta, self.cells.experiments)
            bridge.likelihood(self.surrogate, self.cells, self.noise, u, values)
        return model

    def log_likelihood(self, theta: Mapping[str, ArrayLike]) -> Array:
        """Return log p(observations | parameters), every error source included, for many parameter values at once.

        Use it for a grid or an optimiser of your own; `sample` needs none of it.

        Parameters
        ----------
        theta
            Every inferred quantity, noise included, in its own unit: numbers or arrays of one shape (...).

        Returns
        -------
        numpy.ndarray
            Shape (...), in the data's own units (a log-density).

        Raises
        ------
        InputError
            When a quantity is missing or unknown.
        """
        if set(theta) != set(self.priors):
            raise InputError(f"log_likelihood: got {sorted(theta)}, wanted {sorted(self.priors)}.")
        arrays = np.broadcast_arrays(*(np.asarray(theta[name], dtype=np.float64) for name in self.priors))
        flat = {name: np.ascontiguousarray(array.ravel()) for name, array in zip(self.priors, arrays, strict=True)}
        with np.errstate(invalid="ignore"):  # data that are off by more than numbers can say give NaN, not a warning
            parts = [np.logaddexp.reduce(values, axis=0) for _, values, _, _ in self.log_likelihood_terms(flat)]
        return np.concatenate(parts).reshape(arrays[0].shape)

    def log_likelihood_terms(self, theta: Mapping[str, Array]) -> Iterator[tuple[Array, Array, Array, Array]]:
        """Yield, a block of the S values of `theta` at a time, what the likelihood is made of.

        Noise sds (s, groups); log w_h + log p(z | theta, h), shape (H, s); C^-1 (cell means - prediction) and the
        diagonal of C^-1, shape (H, s, N), with C the covariance of the cell means.
        """
        data, used = self.cells.flat(), self.cells.used
        count = len(next(iter(theta.values())))
        runs = int(getattr(self.surrogate, "runs", 100))
        largest = max(self.cells.experiments * max(runs, self.cells.experiments), len(self.cells.z))
        size = max(1, SCORE_CHUNK // largest)
        for start in range(0, count, size):
            now = {name: values[start : start + size] for name, values in theta.items()}
            scores = self.surrogate.scores(self.unit_inputs(now))
            means, covariances = scores.mean[..., used], scores.covariance[..., used, :, :]
            sigma = np.ascontiguousarray(self.noise.values(now, (scores.mean.shape[1],)))
            found = [
                _marginal.evaluate(data, np.ascontiguousarray(mean), np.ascontiguousarray(cov), sigma, self.cells.z)
                for mean, cov in zip(means, covariances, strict=True)
            ]
            values, alpha, precision = (np.stack([one[i] for one in found]) for i in range(3))
            yield sigma, scores.log_weights[:, None] + values, alpha, precision

    def prior_draws(self, n: int, rng: RandomState) -> dict[str, Array]:
        """Return n draws of every inferred quantity from its prior, conditioned as in the calibration."""
        generator = as_generator(rng)
        out = {}
        for name, prior in self.priors.items():
            low, high = (float(prior.cdf(end)) for end in self.limits(name))
            out[name] = np.asarray(prior.quantile(low + (high - low) * generator.random(n)))
        return out

    def sample(self, sampler: NUTS | None = None, *, rng: RandomState | None = None) -> Any:
        """Draw from the posterior.

        Parameters
        ----------
        sampler
            `NUTS(...)`; its defaults when left out.
        rng
            Whole number or generator; stored with the result.

        Returns
        -------
        Posterior
            Draws, predictions, tables and the verdict.

        Raises
        ------
        InputError
            When the sampler is not `NUTS(...)`, or a derived quantity cannot be computed.
        InitError, SamplingInterrupted, SamplingError
            When there is no posterior that could be used.
        """
        from uqms.calibration import compiled
        from uqms.calibration.posterior import build_posterior, check_derived

        # Two seconds of imports, beside the work that comes before the sampler. A new thread also has a short
        # stack, through which ArviZ walks when it is imported.
        threading.Thread(target=importlib.import_module, args=("nutpie",), daemon=True).start()
        check_derived(self)
        sampler = NUTS() if sampler is None else sampler
        if not isinstance(sampler, NUTS):
            raise InputError(f"sample: sampler is {sampler!r}; give NUTS(...), e.g. NUTS(draws=2000).")
        generator = as_generator(rng)
        seed = int(generator.integers(2**31))
        if self.mass_cut > 0:
            _logger.info("the prior is conditioned on the design box, which cuts %.2g of its mass", self.mass_cut)
        target = compiled.target(self)
        model = self.model() if target is None else target
        trace = sampler.run(model, seed, self._starts(np.random.default_rng([seed, 1])))
        return build_posterior(self, sampler, trace, seed)

    def _starts(self, rng: np.random.Generator) -> Array:
        """Return starting points of the chains on the real line, in the order of `priors`."""
        from uqms.calibration.compiled import on_the_line
        from uqms.calibration.starts import starting_points

        return on_the_line(self, starting_points(self, STARTS, rng))

    def _check_names(self) -> None:
        taken = {*self.space.names, *self.condition_names, "observations"}
        clash = sorted(taken & set(self.noise.unknown)) + sorted({"observations"} & set(self.space.names))
        if clash:
            raise InputError(
                f"{clash} are names of the calibration's own noise or data as well as of an input. Rename the "
                "parameter in the space and in the simulator."
            )

    def _check_parameters(self) -> None:
        box = self.surrogate.domain
        lost = [name for name in self.parameters if name not in box.names]
        if lost:
            raise InputError(
                f"Parameters {lost} are no inputs of the surrogate, which has {list(box.names)}. Leave them out of the "
                "space, or vary them in the runs."
            )

        for name in self.parameters if self.outside == "extrapolate" else ():
            scale = box.scale[box.names.index(name)]
            low, high = self.space.priors[name].support
            if (scale != "identity" and low < 0) or (scale == "logit" and high > 1):
                raise InputError(
                    f"outside='extrapolate': the prior of {name!r} admits [{low:g}, {high:g}], but the surrogate "
                    f"takes its {scale}. Use a prior within that, or a design whose prior is on the same scale."
                )

    def _mass_cut(self) -> float:
        inside = float(self.space.mass_inside(self.surrogate.domain.select(self.parameters)))
        cut = max(0.0, 1.0 - inside)
        if cut > MASS_CUT_LIMIT and self.outside == "error":
            box = self.surrogate.domain
            worst = min(self.parameters, key=lambda name: float(self.space.mass_inside(box.select((name,)))))
            index = box.names.index(worst)
            raise ExtrapolationError(
                f"{cut:.1%} of the prior's mass lies outside of the design box, most of it along {worst!r} (box "
                f"[{box.lower[index]:g}, {box.upper[index]:g}], prior {self.space.priors[worst]!r}). Run a design over "
                "the prior, narrow the prior, or say outside='extrapolate'."
            )
        return cut

    def _warn_of_conflict(self) -> None:
        """Compare each observation with the prior predictive mean and sd (fixed seed: a check, no result)."""
        theta = self.prior_draws(256, 0)
        u = self.unit_inputs(theta)
        scores = self.surrogate.scores(u)
        weights = np.exp(scores.log_weights)
        mean = np.tensordot(weights, scores.mean, 1)[:, self.cells.experiment, :]
        predicted = self.cells.offset + np.einsum("snq,nq->sn", mean, self.cells.basis)
        variance = np.einsum("h,hsqkk->skq", weights, scores.covariance)[:, self.cells.experiment, :]
        surrogate = np.einsum("snq,nq->sn", variance, self.cells.basis**2) + np.sum(self.cells.truncation**2, axis=1)
        sigma = self.noise.values(theta, (256,))[:, self.cells.group]
        total = predicted.var(axis=0) + (surrogate + sigma**2 / self.cells.weight).mean(axis=0)
        off = (self.cells.cell_mean - predicted.mean(axis=0)) / np.sqrt(total)
        worst = int(np.argmax(np.abs(off)))
        if abs(off[worst]) > CONFLICT_SD:
            place = {dim: column[worst] for dim, column in self.cells.coords.items() if not np.isnan(column[worst])}
            place |= zip(self.condition_names, self.cells.conditions[self.cells.experiment[worst]], strict=True)
            where = f" at ({', '.join(f'{name} = {value:g}' for name, value in place.items())})" if place else ""
            warnings.warn(
                f"The observation of {str(self.cells.output[worst])!r}{where} lies {abs(off[worst]):.1f} "
                f"prior-predictive standard deviations {'above' if off[worst] > 0 else 'below'} what the prior "
                "expects. Check units and scale, or widen the prior.",
                PriorConflictWarning,
                stacklevel=3,
            )


def _space_of(surrogate: Surrogate) -> ParameterSpace:
    text = getattr(surrogate, "attrs", {}).get("space")
    if text is None:
        raise InputError("The surrogate does not know its priors; give Calibration(..., space=ParameterSpace(...)).")
    return ParameterSpace.from_json(text)


def _derived(
    given: Mapping[str, Derived | Callable[[Mapping[str, Any]], Any]], taken: tuple[str, ...]
) -> dict[str, Derived]:
    out = {}
    for name, value in given.items():
        if name in taken:
            raise InputError(f"derived: {name!r} is the name of a parameter. Choose another.")
        if not isinstance(value, Derived) and not callable(value):
            raise InputError(f"derived: {name!r} is {value!r}; give a function of the parameters or Derived(...).")
        out[name] = value if isinstance(value, Derived) else Derived(value)
    return out

"""What is known before any measurement: draws of the prior, for the choice of the first experiment."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, final

import numpy as np
import xarray as xr

from uqms._teaching import taught
from uqms._typing import Ints, RandomState, as_generator
from uqms.calibration.construction import space_of
from uqms.calibration.likelihood import decoded_at, dense
from uqms.calibration.noise import GaussianNoise, NoiseModel
from uqms.calibration.problem import Calibration
from uqms.errors import InputError, UqmsWarning
from uqms.planning.forecasts import OfParts, OneSubject

if TYPE_CHECKING:
    from uqms.calibration.base import Problem
    from uqms.calibration.parts import JointCalibration
    from uqms.calibration.single import SingleCalibration

__all__ = ["PriorDraws", "prior_of", "without_data"]


@taught
@final
@dataclass(frozen=True, eq=False)
class PriorDraws:
    """The prior of a calibration without its data, in the place of a posterior; `uqms.prior_of` makes it.

    Attributes
    ----------
    problem
        The calibration, whose measured values are not looked at.
    seed
        Of the draws.
    """

    problem: "Problem"
    seed: int

    def forecaster(self, draws: int) -> OneSubject | OfParts:
        """Return that many draws, and what measurements would show at each."""
        rng = np.random.default_rng(self.seed)
        theta = {name: np.asarray(values) for name, values in self.problem.prior_draws(draws, rng).items()}
        known = dict(theta)
        for name, derived in self.problem.derived.items():
            known[name] = np.asarray(derived.function({**self.problem.fixed, **theta}), dtype=np.float64)
        latents = np.zeros((draws, self.problem.latents))
        pieces = self.problem.pieces(theta, latents)
        h = {part: _hyperparameters(piece.problem, draws, rng) for piece in pieces for part in piece.parts[:1]}
        if self.problem.kind != "parts":
            (piece,) = pieces
            (own,) = h.values() if h else (_hyperparameters(piece.problem, draws, rng),)
            return OneSubject(piece.problem, piece.theta, own, latents, known, given_data=False)
        joint = cast("JointCalibration", self.problem)
        first = {part: piece.parts[0] for piece in pieces for part in piece.parts}
        every = np.stack([h[first[part]] for part in joint.parts], axis=1)
        return OfParts.of(joint, theta, every, latents, known, given_data=False)


def _hyperparameters(problem: "SingleCalibration", draws: int, rng: np.random.Generator) -> Ints:
    """Return draws of the surrogate's hyperparameters by their weights."""
    surrogate = problem.surrogate
    logs = surrogate.scores(np.full((1, surrogate.domain.d), 0.5)).log_weights
    return rng.choice(len(logs), draws, p=np.exp(logs - np.logaddexp.reduce(logs)))


@taught
def prior_of(
    calibration: Any,
    noise: NoiseModel | Mapping[str, NoiseModel] | float | None = None,
    *,
    rng: RandomState = 0,
    **settings: Any,
) -> PriorDraws:
    """Return the prior in the place of a posterior, to choose the first experiment.

    Parameters
    ----------
    calibration
        A `Calibration`, whose measured values are not looked at; or a surrogate.
    noise
        With a surrogate: noise of its outputs, for candidates that have none of their own. May be left out when
        `uqms.candidates` has the noise.
    rng
        Whole number or generator of the draws.
    **settings
        With a surrogate: further settings of `Calibration`, such as `space` or `outside`.

    Returns
    -------
    PriorDraws
        For `uqms.next_experiment`.

    Raises
    ------
    InputError
        When it is a population, or neither a calibration nor a surrogate.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": design["k"].values}))
    >>> best = uq.next_experiment(uq.prior_of(surrogate), uq.candidates(outputs="y", noise=0.1), size=1)
    >>> round(float(best.quantities["sd"]["k"]), 1)
    0.6
    """
    seed = int(as_generator(rng).integers(2**31))
    if hasattr(calibration, "prior_draws"):
        if calibration.kind == "population":
            raise InputError(
                "prior_of: for the sampling times of a trial before any data use uq.trial_information(...)."
            )
        return PriorDraws(calibration, seed)
    if not (hasattr(calibration, "scores") and hasattr(calibration, "layouts")):
        raise InputError(f"prior_of: got a {type(calibration).__name__}; give a Calibration or a fitted surrogate.")
    return PriorDraws(without_data(calibration, noise, settings), seed)


def without_data(surrogate: Any, noise: Any, settings: Mapping[str, Any]) -> "SingleCalibration":
    """Return a calibration with one value of each output, which nobody looks at: the surrogate's own."""
    box = surrogate.domain
    middle = np.full((1, box.d), 0.5)
    space = settings["space"] if settings.get("space") is not None else space_of(surrogate)
    held = {*space.names, *(settings.get("fixed") or {})}
    centre = dict(zip(box.names, box.from_unit(middle)[0].tolist(), strict=True))
    conditions = {name: value for name, value in centre.items() if name not in held}
    scores = surrogate.scores(middle).mean[0, 0]
    models = noise if isinstance(noise, Mapping) else None
    parts = []
    for name, layout in surrogate.layouts.items():
        if models is not None and name not in models:
            continue
        coords = {dim: np.atleast_1d(np.asarray(layout.coords[dim], dtype=np.float64))[:1] for dim in layout.dims}
        offset, basis, _ = decoded_at(surrogate, name, coords or None, as_sparse=False)
        value = np.nan_to_num(layout.transform.inverse(np.atleast_1d(offset)[:1] + dense(basis)[:1] @ scores))
        array = xr.DataArray(value.reshape((1,) * len(coords)), dims=tuple(coords), coords=coords, name=name)
        parts.append(array.assign_coords(conditions))
    own = noise if isinstance(noise, NoiseModel) else GaussianNoise(1.0 if noise is None else float(noise))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UqmsWarning)
        given = dict(models) if models is not None else {str(one.name): own for one in parts}
        made: Any = Calibration
        return cast("SingleCalibration", made(surrogate, parts, given, **settings))

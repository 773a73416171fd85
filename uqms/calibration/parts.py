"""Several experiments, each with a surrogate of its own, that share parameters.

==========  ===================================================================  ===========
symbol      meaning                                                              shape
==========  ===================================================================  ===========
theta       all parameters; each is an input of one surrogate at least           by name (S,)
phi_i       hyperparameters of part i, named "part_hyperparameter"               by name (S,)
z_i         observations of part i                                               (R_i,)
==========  ===================================================================  ===========

Errors of different surrogates are independent, and so are noise and discrepancy of different parts: given theta and
the phi_i, log p(z) = sum_i log p(z_i | theta, phi_i), each averaged over the hyperparameter draws of its surrogate.
Parts with one surrogate share its error and are one term of this sum, see `sharing`.
"""

import copy
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, final

import numpy as np

from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, ArrayLike, Ints, RandomState, as_generator
from uqms.calibration.base import MASS_CUT_LIMIT, DerivedQuantities, Expansion, Piece
from uqms.calibration.capabilities import Kind
from uqms.calibration.conditioned import ConditionedPrior
from uqms.calibration.construction import named_derived, space_of
from uqms.calibration.direct import design_box
from uqms.calibration.discrepancy import Discrepancies
from uqms.calibration.noise import NoiseModel
from uqms.calibration.observations import Measured
from uqms.calibration.problem import Calibration
from uqms.calibration.samplers import Sampler
from uqms.calibration.sharing import by_surrogate, together
from uqms.calibration.single import SingleCalibration
from uqms.errors import ExtrapolationError, InputError
from uqms.parameters import ParameterSpace, Prior
from uqms.surrogates.protocol import Surrogate

if TYPE_CHECKING:
    import pymc as pm

    from uqms.calibration.checks import Sampled
    from uqms.calibration.constraints import Constraint
    from uqms.calibration.context import Linearised
    from uqms.calibration.posterior import Posterior

__all__ = ["JointCalibration"]


class FirstOrderLinks(SingleCalibration):
    """One part: errors of the links of a chain are not sampled beside other parts, which may be of the same chain."""

    samples_links = False


@taught
@final
class JointCalibration(Calibration):
    """Infer parameters from several experiments that have surrogates of their own; made by `Calibration({...})`.

    For a cell model that is clamped in one experiment and beats freely in another, a device that is tested on two
    benches, a fine-scale and a coarse-scale measurement of a material. Parameters are shared by name.

    Parts may have the same surrogate, when measurements of one simulator differ in their noise or discrepancy: they
    share its error, as experiments in one `Calibration` do. The same are one object, and equal ones, such as a
    surrogate that was loaded twice from a file. Errors of different surrogates are independent.

    Parameters
    ----------
    surrogate
        The parts: name → (surrogate, observations).
    noise
        Name → what `Calibration` takes as noise.
    discrepancy
        Name → what `Calibration` takes as discrepancy; parts may be left out.
    space
        Priors of all parameters. By default those of the surrogates; a name that two of them have must have the same
        prior in both.
    derived
        As in `Calibration`.
    outside
        As in `Calibration`. The design box is where all surrogates that have a parameter were trained.
    expansion
        As in `Calibration`, one for all parts or by name. It is measured at parameters that a part's own data leave
        plausible.

    Attributes
    ----------
    parts
        Name → `SingleCalibration` of that part alone, its priors conditioned as those of the whole.

    Raises
    ------
    InputError
        Priors that contradict each other, parts without noise, names that are unknown or taken, and what `Calibration`
        raises for a part.
    ExtrapolationError
        When design boxes do not overlap, or more than 1 % of the prior's mass lies outside of what they share.

    Examples
    --------
    >>> import numpy as np, xarray as xr, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> fit = lambda values: uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": values}))
    >>> clamp, beat = fit(np.sin(design["k"].values)), fit(np.exp(-design["k"].values))
    >>> problem = uq.Calibration(
    ...     {"clamp": (clamp, xr.DataArray(0.5, name="y")), "beat": (beat, xr.DataArray(0.6, name="y"))},
    ...     noise={"clamp": uq.GaussianNoise(sd=0.1), "beat": uq.GaussianNoise(sd=uq.HalfNormal(0.1))},
    ... )
    >>> list(problem.priors)
    ['k', 'beat_sigma']
    """

    kind: ClassVar[Kind] = "parts"

    @single_threaded
    def __init__(
        self,
        surrogate: Mapping[str, tuple[Surrogate, Measured]],
        *,
        noise: Mapping[str, NoiseModel | Mapping[str, NoiseModel]],
        discrepancy: Mapping[str, Discrepancies] | None = None,
        space: ParameterSpace | None = None,
        derived: DerivedQuantities | None = None,
        outside: Literal["error", "extrapolate", "refined"] = "error",
        expansion: Expansion | Mapping[str, Expansion] = "measured",
    ) -> None:
        _check_parts(surrogate, noise, discrepancy or {}, expansion if isinstance(expansion, Mapping) else {})
        self.settings: dict[str, Any] = {"space": space, "derived": derived, "outside": outside}
        self.space = _merged({name: part for name, (part, _) in surrogate.items()}) if space is None else space
        self.outside = outside
        self.fixed: dict[str, float] = {}
        self.constraints: tuple[Constraint, ...] = ()
        found = {}
        for name, (part, observations) in surrogate.items():
            own = part.domain.names if space is not None else space_of(part).names
            priors = {key: prior for key, prior in self.space.priors.items() if key in own}
            if not priors:
                raise InputError(f"The surrogate of part {name!r} has none of the parameters {list(self.space.names)}.")
            found[name] = FirstOrderLinks(
                part,
                observations,
                noise[name],
                discrepancy=(discrepancy or {}).get(name),
                space=_space(priors),
                outside=outside,
                expansion=_expansion(
                    name, part, expansion.get(name, "measured") if isinstance(expansion, Mapping) else expansion
                ),
            )
        self._check_used(found)
        self._limits = {name: self._shared(name, found) for name in self.parameters}
        self.mass_cut = self._mass_cut(found)
        self.parts: dict[str, SingleCalibration] = {
            name: part.within({key: self._limits[key] for key in part.parameters}, self.mass_cut)
            for name, part in found.items()
        }
        self._sharing = by_surrogate({name: part.surrogate for name, part in self.parts.items()})
        self._check_views()
        self._wholes = self._together()
        taken = {key for part in self.parts.values() for key in part.priors}  # as posterior.part(name) calls them
        self.derived = named_derived(derived or {}, (*self.priors, *sorted(taken)))

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the inferred parameters (without noise and discrepancy)."""
        return self.space.names

    @property
    def priors(self) -> dict[str, Prior]:
        """Priors of everything that is inferred; hyperparameters are named "part_hyperparameter"."""
        out = {name: self.space.priors[name] for name in self.parameters}
        for names, whole in zip(self._sharing, self._wholes, strict=True):
            before = _before(names)
            out |= {f"{before}{key}": prior for key, prior in {**whole.noise.unknown, **whole.true_conditions}.items()}
        return out

    @cached_property
    def conditioned_prior(self) -> ConditionedPrior:
        """The joint prior, restricted to what all design boxes share; joint blocks of a space are kept."""
        limits = {name: self.limits(name) for name in self.priors}
        return ConditionedPrior(self.priors, limits, self.space.blocks)

    @property
    def latents(self) -> int:
        """Number of standard normal latents that are sampled beside the parameters, of all parts."""
        return sum(whole.latents for whole in self._wholes)

    def limits(self, name: str) -> tuple[float, float]:
        """Interval that the prior of a quantity is conditioned on."""
        if name in self._limits:
            return self._limits[name]
        return self.priors[name].support

    def linearised(self, sampled: "Sampled") -> "Linearised":
        """Return the problem linearised at a few draws, as the checks of a verdict look at it."""
        from uqms.calibration.verdict import linearised

        return linearised(self, sampled)

    def unit_of(self, name: str) -> str:
        """Return the unit of an inferred quantity."""
        for part, one in self.parts.items():
            for key in one.priors:
                if name == (key if key in one.parameters else f"{part}_{key}"):
                    return one.unit_of(key)
        raise InputError(f"unit_of: {name!r} is not inferred; there are {list(self.priors)}.")

    def __repr__(self) -> str:
        parts = "; ".join(f"{name}: {part.observations!r}" for name, part in self.parts.items())
        return f"<JointCalibration of {', '.join(self.parameters)} from {parts}>"

    @property
    def named_parts(self) -> Mapping[str, SingleCalibration]:
        """The parts by name, each with its own data alone."""
        return self.parts

    def pieces(self, theta: Mapping[str, Any], latents: Any = None, h: Any = None) -> list[Piece]:
        """Return what belongs to each surrogate: quantities by name, latents (S, latents) and h (S, parts)."""
        out: list[Piece] = []
        every = list(self.parts)
        starts = np.cumsum([0, *(len(part.observations) for part in self.parts.values())])
        start = 0
        for names, whole in zip(self._sharing, self._wholes, strict=True):
            before = _before(names)
            own = {key: theta[key if key in whole.parameters else f"{before}{key}"] for key in whole.priors}
            columns: Ints = np.array([self.parameters.index(key) for key in whole.parameters])
            eta = None if latents is None else latents[..., start : (start := start + whole.latents)]
            at = [every.index(name) for name in names]
            rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in at])
            of_one = None if h is None else h[..., at[0]]
            out.append(Piece(", ".join(names), whole, own, eta, of_one, columns, rows, names))
        return out

    def seen_from(self, name: str) -> SingleCalibration:
        """Return the problem of a part, with the data of the others that have its surrogate."""
        (names,) = (names for names in self._sharing if name in names)
        return self.parts[name] if len(names) == 1 else together({one: self.parts[one] for one in names}, name)

    def _together(self) -> tuple[SingleCalibration, ...]:
        """Return the problem of each surrogate."""
        groups = [{name: self.parts[name] for name in names} for names in self._sharing]
        return tuple(next(iter(group.values())) if len(group) == 1 else together(group) for group in groups)

    @single_threaded
    def log_likelihood(self, theta: Mapping[str, ArrayLike], latents: ArrayLike | None = None) -> Array:
        """Return log p(observations | parameters), the sum over the parts; see `SingleCalibration.log_likelihood`.

        Raises
        ------
        InputError
            When a quantity is missing or unknown, or latents have another shape.
        """
        if set(theta) != set(self.priors):
            raise InputError(f"log_likelihood: got {sorted(theta)}, expected {sorted(self.priors)}.")
        arrays = np.broadcast_arrays(*(np.asarray(theta[name], dtype=np.float64) for name in self.priors))
        eta = None if latents is None else np.asarray(latents, dtype=np.float64)
        wanted = (*arrays[0].shape, self.latents)
        if self.latents and (eta is None or eta.shape != wanted):
            raise InputError(
                f"log_likelihood: {self.latents} latents are part of the density: latents has the shape "
                f"{None if eta is None else eta.shape}, expected {wanted}."
            )
        pieces = self.pieces(dict(zip(self.priors, arrays, strict=True)), eta)
        values = [one.problem.log_likelihood(one.theta, one.latents if one.problem.latents else None) for one in pieces]
        return np.asarray(np.sum(values, axis=0))

    @single_threaded
    def simulate(self, theta: Mapping[str, ArrayLike], rng: RandomState, latents: ArrayLike | None = None) -> Array:
        """Draw new observations (S, R), those of all parts after each other; see `SingleCalibration.simulate`."""
        generator = as_generator(rng)
        given = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in theta.values()))
        arrays = dict(zip(theta, given, strict=True))
        pieces = self.pieces(arrays, None if latents is None else np.asarray(latents))
        out = np.empty((len(given[0]), sum(len(part.observations) for part in self.parts.values())))
        for one in pieces:
            out[:, one.rows] = one.problem.simulate(one.theta, generator, one.latents if one.problem.latents else None)
        return out

    def with_values(self, values: Array) -> Self:
        """Return the same problem with other measured values (R,), those of all parts after each other."""
        other = copy.copy(self)
        ends = np.cumsum([len(part.observations) for part in self.parts.values()])[:-1]
        split = np.split(np.asarray(values, dtype=np.float64), ends)
        other.parts = {name: part.with_values(own) for (name, part), own in zip(self.parts.items(), split, strict=True)}
        other._wholes = other._together()
        return other

    def with_parts(self, parts: Mapping[str, SingleCalibration]) -> Self:
        """Return the same problem with other parts in the place of those of the same names; their data are the same."""
        other = copy.copy(self)
        other.__dict__.pop("conditioned_prior", None)
        other.parts = {**self.parts, **parts}
        other._wholes = other._together()
        return other

    def with_wider_noise(self, factor: float) -> Self:
        """Return the problem with noise sds of all parts that are `factor` times as large."""
        other = copy.copy(self)
        other._wholes = tuple(whole.with_wider_noise(factor) for whole in self._wholes)
        return other

    def model(self) -> "pm.Model":
        """Return the PyMC model: quantities with their priors and an observed variable "part_observations" each.

        Parts with one surrogate have one of theirs together, "first_second_observations".
        """
        import pymc as pm

        from uqms.calibration import bridge

        with pm.Model() as model:
            values = bridge.prior_variables(self.conditioned_prior)
            eta = pm.Normal("latents", 0.0, 1.0, shape=self.latents) if self.latents else None
            for piece in self.pieces(values, eta):
                part, own = piece.problem, piece.theta
                theta = {key: own[key] for key in part.parameters}
                theta |= bridge.conditions(part.data_model, part.uncertain, own)
                u = bridge.unit_inputs(part.surrogate.domain, theta, part.cells.experiments)
                bridge.likelihood(part.data_model, u, own, f"{'_'.join(piece.parts)}_observations", piece.latents)
        return model

    @single_threaded
    def sample(
        self, sampler: Sampler | None = None, *, rng: RandomState | None = None, refit_discrepancy: bool = True
    ) -> "Posterior":
        """Draw from the posterior; see `SingleCalibration.sample`.

        Returns
        -------
        Posterior
            Draws and the verdict on all parts; `posterior.part(name)` is that of one part, for predictions and figures.

        Raises
        ------
        InputError, ConformanceError, InitError, SamplingInterrupted, SamplingError
            As `SingleCalibration.sample`.
        """
        from uqms.calibration.posterior import sample

        return sample(self, sampler, rng, refit_discrepancy)

    def _check_used(self, parts: Mapping[str, SingleCalibration]) -> None:
        idle = [name for name in self.parameters if not any(name in part.parameters for part in parts.values())]
        if idle:
            raise InputError(
                f"Parameters {idle} are inputs of none of the surrogates. Leave them out of the space, or vary them in "
                "the runs."
            )
        names = [f"{part}_{key}" for part, one in parts.items() for key in (*one.noise.unknown, *one.uncertain)]
        own = [*self.parameters, "latents", *(f"{part}_observations" for part in parts)]
        clash = sorted({name for name in names if (names + own).count(name) > 1} | ({"latents"} & set(self.parameters)))
        if clash:
            raise InputError(f"{clash} would name two quantities. Rename the parts or the parameters.")

    def _check_views(self) -> None:
        """Refuse a name that two quantities would have in `posterior.part(name)`."""
        for names in self._sharing:
            own = {name: {*self.parts[name].noise.unknown, *self.parts[name].uncertain} for name in names}
            for name in names:
                others = {f"{other}_{key}" for other in names if other != name for key in own[other]}
                if clash := sorted(others & own[name]):
                    raise InputError(f"{clash} would name two quantities of part {name!r}. Rename the parts.")

    def _shared(self, name: str, parts: Mapping[str, SingleCalibration]) -> tuple[float, float]:
        """Return the interval of a parameter that lies in the boxes of all surrogates that have it."""
        limits = {part: one.limits(name) for part, one in parts.items() if name in one.parameters}
        low, high = max(one[0] for one in limits.values()), min(one[1] for one in limits.values())
        if low >= high:
            raise ExtrapolationError(
                f"The design boxes have no {name!r} in common: {limits}. Run designs over the same prior."
            )
        return low, high

    def _mass_cut(self, parts: Mapping[str, SingleCalibration]) -> float:
        """Return the prior mass outside of what the boxes share."""
        inside = {}
        for name in self.parameters:
            every = [design_box(part.surrogate) for part in parts.values() if name in part.parameters]
            boxes = [box for box in every if box is not None]
            low = max([float(box.lower[box.names.index(name)]) for box in boxes], default=-np.inf)
            high = min([float(box.upper[box.names.index(name)]) for box in boxes], default=np.inf)
            prior = self.space.priors[name]
            inside[name] = float(prior.cdf(high) - prior.cdf(low))
        cut = max(0.0, 1.0 - float(np.prod(list(inside.values()))))
        if cut > MASS_CUT_LIMIT and self.outside == "error":
            worst = min(inside, key=lambda name: inside[name])
            raise ExtrapolationError(
                f"{cut:.1%} of the prior's mass lies outside of the intersection of the design boxes, most along "
                f"{worst!r}, which they share in [{self._limits[worst][0]:g}, {self._limits[worst][1]:g}]. Run "
                "designs over the same prior, narrow the prior, or pass outside='extrapolate'."
            )
        return cut


def _before(names: tuple[str, ...]) -> str:
    """Return what stands before the names of one part; those of several with one surrogate are those of the whole."""
    return f"{names[0]}_" if len(names) == 1 else ""


def _expansion(name: str, surrogate: Surrogate, given: Expansion) -> Expansion:
    """Return how errors of a part are expanded: those of a chain's links to first order.

    Raises
    ------
    InputError
        When they are to be sampled.
    """
    if hasattr(surrogate, "sampled") and given in ("none", "outputs"):
        raise InputError(
            f"expansion={given!r}: errors of the links of the chain {name!r} are not sampled beside other parts. Put "
            "all members into one chain, or leave it out."
        )
    return given


def _check_parts(parts: Mapping[str, Any], noise: Any, discrepancy: Any, expansion: Any) -> None:
    wrong = [name for name, one in parts.items() if not isinstance(one, tuple) or len(one) != 2]
    if wrong or not parts or not all(isinstance(name, str) and name for name in parts):
        raise InputError(
            f"Calibration of several parts: {wrong or list(parts)}; give name: (surrogate, observations) for each."
        )
    for what, given in (("noise", noise), ("discrepancy", discrepancy), ("expansion", expansion)):
        if not isinstance(given, Mapping) or set(given) - set(parts) or (what == "noise" and set(parts) - set(given)):
            shown = sorted(given) if isinstance(given, Mapping) else type(given).__name__
            raise InputError(
                f"Calibration of several parts: {what} is {shown}; give it by name of the part, {list(parts)}."
            )


def _merged(surrogates: Mapping[str, Surrogate]) -> ParameterSpace:
    """Return the space of all parameters that the surrogates were trained on.

    Raises
    ------
    InputError
        When two of them have different priors of the same name, or one has priors that are joint.
    """
    found: dict[str, tuple[str, Prior]] = {}
    for part, surrogate in surrogates.items():
        if space_of(surrogate).blocks:
            raise InputError(
                f"The surrogate of part {part!r} was trained on a space with joint priors; give "
                "those of the whole: space=ParameterSpace(...)."
            )
        for name, prior in space_of(surrogate).priors.items():
            first, theirs = found.setdefault(name, (part, prior))
            if theirs != prior:
                raise InputError(
                    f"Parts {first!r} and {part!r} have different priors of {name!r}: {theirs!r} and {prior!r}. A "
                    "shared parameter has one prior: give space=ParameterSpace(...), or rename it in one of the "
                    "simulators if it is not the same quantity."
                )
    return _space({name: prior for name, (_, prior) in found.items()})


def _space(priors: dict[str, Prior]) -> ParameterSpace:
    return ParameterSpace(**priors)  # type: ignore[arg-type]

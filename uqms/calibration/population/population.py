"""How the subjects of a population differ: typical values, omegas, covariates, correlations, occasions."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

import numpy as np
import pandas as pd
from scipy.stats import qmc

from uqms import _checks as check
from uqms._teaching import taught
from uqms._typing import Array, ScaleName
from uqms.calibration.constraints import Expression
from uqms.calibration.noise import check_positive
from uqms.calibration.population.layout import Layout, from_natural, read_subjects
from uqms.errors import InputError
from uqms.parameters import Beta, Box, HalfNormal, Normal, ParameterSpace, Prior
from uqms.parameters.priors import LONG_TAIL, has_long_tail, long_tail_message, typical_sd
from uqms.parameters.scale import SCALES
from uqms.parameters.space import checked_range

__all__ = ["Covariate", "Population"]

SPREAD = 0.5  # scale of the half-normal prior of omega, on the log and logit scales
OCCASION_SPREAD = 0.2
EFFECT = 1.0  # sd of the prior of a covariate effect, on the log and logit scales
POINTS = 2**17


class Covariate(NamedTuple):
    """One covariate effect: on which parameter, of which expression of the subjects' columns, how large."""

    parameter: str
    name: str  # of its size, "beta_CL_weight"
    expression: Expression
    prior: Prior | float


@taught
@final
@dataclass(frozen=True)
class Population:
    """A population: which parameters differ between subjects, and the priors of how they differ.

    Use it for measurements of several patients, animals or samples that one simulator describes: what all share and
    how they differ is learned together, and each subject's own values borrow from the others.

    Parameters
    ----------
    space
        Priors. Of an individual parameter it is the prior of its typical value (the population's median for a subject
        whose covariates are all zero), in its own unit; of the others that of the value that all subjects share.
    individual
        Names of the parameters that differ between subjects.
    covariates
        By individual parameter, expressions of the subjects' columns that move it, on its natural scale, with the prior
        of the effect or its known number: ``{"CL": "log(weight / 70)"}``,
        ``{"CL": {"log(weight / 70)": 0.75, "female": uq.Normal(0, 0.3)}}``. Numbers + - * / ** and log, exp, sqrt, abs.
    spread
        Prior of the standard deviation between subjects on the natural scale, for all or by parameter; a number when it
        is known. By default half-normal: 0.5 on the log and logit scales, half of the prior's sd on the identity (of a
        prior without one, of half the width of its central 68 %).
    correlated
        Whether random effects of different parameters are correlated: all (True), or the parameters that are. Their
        correlation matrix has the prior LKJ(`lkj`).
    lkj
        Its concentration: 1 is uniform, larger ones prefer small correlations.
    tails
        By individual parameter, the degrees of freedom of Student-t random effects, for populations with outliers.
    occasions
        Individual parameters that also change within a subject, between occasions (the observations' `experiment`).
    occasion_spread
        As `spread`, between occasions. By default half-normal 0.2 on the log and logit scales.
    scale
        By individual parameter "log", "logit" or "identity", its natural scale; by default that of its prior.
    centred
        How it is sampled; the posterior is the same. None (default): between the two, each effect as its data ask, once
        the posterior's mode is known (in a model of your own as False). False: standardised effects, for few
        measurements a subject. True: the individual parameters themselves, for many.

    Raises
    ------
    InputError
        Names that are unknown or used twice, settings that cannot be read, an individual parameter in a joint block.

    References
    ----------
    Lewandowski, Kurowicka & Joe (2009), doi:10.1016/j.jmva.2009.04.008; for `centred`, Papaspiliopoulos, Roberts &
    Sköld (2007), doi:10.1214/088342307000000014.

    Examples
    --------
    >>> import uqms as uq
    >>> space = uq.ParameterSpace(
    ...     ka=uq.LogNormal(median=1.5, sigma=0.5, unit="1/h"), CL=uq.LogNormal(median=3.0, sigma=0.5, unit="L/h")
    ... )
    >>> population = uq.Population(space, individual=("ka", "CL"), covariates={"CL": "log(weight / 70)"})
    >>> list(population.priors)
    ['ka', 'CL', 'omega_ka', 'omega_CL', 'beta_CL_weight']
    """

    space: ParameterSpace
    individual: Sequence[str]
    covariates: Mapping[str, Any] = field(default_factory=dict)
    spread: Any = None
    correlated: bool | Sequence[str] = False
    lkj: float = 2.0
    tails: Mapping[str, float] = field(default_factory=dict)
    occasions: Sequence[str] = ()
    occasion_spread: Any = None
    scale: Mapping[str, ScaleName] = field(default_factory=dict)
    centred: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.space, ParameterSpace):
            raise InputError(f"Population: space is a {type(self.space).__name__}; give a uq.ParameterSpace.")
        individual = _names("individual", self.individual)
        if not individual:
            raise InputError("Population: individual is empty; name the parameters that differ between subjects.")
        self._check_known("individual", individual, self.space.names)
        joint = [name for block in self.space.blocks for name in block.names if name in individual]
        if joint:
            raise InputError(
                f"Population: {joint} are in a joint block of the space. Give individual parameters priors of their "
                "own; correlated=True is for what differs between subjects."
            )
        object.__setattr__(self, "individual", individual)
        object.__setattr__(self, "occasions", _names("occasions", self.occasions))
        self._check_known("occasions", self.occasions, individual)
        for key in ("covariates", "tails", "scale"):
            if not isinstance(getattr(self, key), Mapping):
                raise InputError(f"Population: {key} is {getattr(self, key)!r}; give a mapping by parameter.")
            self._check_known(key, tuple(getattr(self, key)), individual)
        for key, known in (("spread", individual), ("occasion_spread", self.occasions)):
            given = getattr(self, key)
            if key == "occasion_spread" and given is not None and not self.occasions:
                raise InputError(
                    "Population: occasion_spread is given, but no parameter changes between occasions; name those that "
                    "do, occasions=(...)."
                )
            if isinstance(given, Mapping):
                self._check_known(key, tuple(given), known)
        self._check_scales()
        if not isinstance(self.correlated, bool):
            object.__setattr__(self, "correlated", _names("correlated", self.correlated))
            self._check_known("correlated", self.correlated, individual)
            if len(self.correlated) == 1:
                raise InputError(
                    f"Population: correlated names {self.correlated[0]!r} alone; name two parameters or more, or True."
                )
        if isinstance(self.lkj, bool) or not isinstance(self.lkj, int | float) or not 0.0 < self.lkj < np.inf:
            raise InputError(f"Population: lkj is {self.lkj!r}; give a positive number.")
        for name, freedom in self.tails.items():
            if isinstance(freedom, bool) or not isinstance(freedom, int | float) or not 2.0 < freedom < np.inf:
                raise InputError(
                    f"Population: tails of {name!r} is {freedom!r}; give degrees of freedom above 2, such as 4."
                )
        mixed = sorted(set(self.tails) & set(self.together))
        if mixed:
            raise InputError(f"Population: {mixed} have tails and are correlated; correlated effects are normal.")
        if self.centred is not None and not isinstance(self.centred, bool):
            raise InputError(f"Population: centred is {self.centred!r}; give None, True or False.")
        _ = self.priors, self.known  # what cannot be read is refused now
        self._check_taken()

    def _check_known(self, key: str, names: Sequence[str], known: Sequence[str]) -> None:
        lost = [name for name in names if name not in known]
        if lost:
            what = "parameters of the space" if key == "individual" else "individual parameters"
            if key == "occasion_spread":
                what = "occasions"
            raise InputError(f"Population: {key} names {lost}; the {what} are {list(known)}.")

    def _check_taken(self) -> None:
        """Refuse parameters with names that describe the population or its subjects."""
        made = [*(f"omega_{name}" for name in self.individual), *(f"omega_{name}_occasion" for name in self.occasions)]
        made += [*(f"effect_{name}" for name in self.individual), *(f"occasion_{name}" for name in self.occasions)]
        made += [one.name for one in self.effects]
        made += [f"{kind}_{one}_{other}" for kind in ("lkj", "corr") for one, other in self.pairs]
        clash = sorted({name for name in made if name in self.space.names or made.count(name) > 1})
        if clash:
            raise InputError(
                f"Population: {clash} would name a parameter of the space and what describes the population. Rename "
                "the parameter."
            )

    def _check_scales(self) -> None:
        for name, scale in self.scale.items():
            low, high = self.space.priors[name].support
            if scale not in SCALES:
                raise InputError(f"Population: scale of {name!r} is {scale!r}; give one of {list(SCALES)}.")
            if not SCALES[scale].takes(low, high):
                raise InputError(
                    f"Population: the prior of {name!r} admits [{low:g}, {high:g}], which has no {scale}. Give it "
                    "another prior or scale."
                )

    @property
    def shared(self) -> tuple[str, ...]:
        """Names of the parameters that all subjects share."""
        return tuple(name for name in self.space.names if name not in self.individual)

    @property
    def scales(self) -> tuple[ScaleName, ...]:
        """Natural scale of each individual parameter."""
        return tuple(self.scale.get(name, self.space.priors[name].scale) for name in self.individual)

    @property
    def together(self) -> tuple[str, ...]:
        """Individual parameters whose random effects are correlated."""
        chosen: Sequence[str] = ()
        if not isinstance(self.correlated, bool):
            chosen = self.correlated
        elif self.correlated:
            chosen = self.individual
        return tuple(name for name in self.individual if name in chosen) if len(chosen) > 1 else ()

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Pairs of correlated parameters, by rows of the lower triangle of their correlation matrix."""
        names = self.together
        return tuple((names[i], names[j]) for i in range(len(names)) for j in range(i))

    @property
    def effects(self) -> tuple[Covariate, ...]:
        """All covariate effects."""
        out: list[Covariate] = []
        for name in self.individual:
            given = self.covariates.get(name, ())
            if isinstance(given, str):
                given = {given: None}
            elif not isinstance(given, Mapping | list | tuple):
                raise InputError(
                    f"Population: covariates of {name!r} is {given!r}; give expressions of the subjects' columns, with "
                    "priors or numbers where they are known: {'log(weight / 70)': 0.75}."
                )
            elif not isinstance(given, Mapping):
                given = dict.fromkeys(given)
            for text, prior in given.items():
                expression = Expression(text, "covariates")
                size = self._default(name, EFFECT, signed=True) if prior is None else prior
                key = f"beta_{name}_{'_'.join(expression.names)}"
                if any(key == one.name for one in out):
                    raise InputError(
                        f"Population: {name!r} has two effects of {list(expression.names)}, {text!r} and "
                        f"{next(one.expression.text for one in out if one.name == key)!r}. Make a column of one."
                    )
                out.append(Covariate(name, key, expression, _setting(f"covariates of {name!r}", size, signed=True)))
        return tuple(out)

    @property
    def settings(self) -> dict[str, Prior | float]:
        """Priors, or known numbers, of everything that describes the population."""
        out: dict[str, Prior | float] = {name: self.space.priors[name] for name in self.individual}
        for name in self.individual:
            given = self.spread.get(name) if isinstance(self.spread, Mapping) else self.spread
            value = self._default(name, SPREAD) if given is None else given
            out[f"omega_{name}"] = _setting(f"spread of {name!r}", value)
        for name in self.occasions:
            given = self.occasion_spread
            given = given.get(name) if isinstance(given, Mapping) else given
            value = self._default(name, OCCASION_SPREAD) if given is None else given
            out[f"omega_{name}_occasion"] = _setting(f"occasion_spread of {name!r}", value)
        out |= {one.name: one.prior for one in self.effects}
        size = len(self.together)
        for one, other in self.pairs:
            level = self.lkj + 0.5 * (size - 2 - self.together.index(other))
            out[f"lkj_{one}_{other}"] = Beta(
                level, level, description=f"(1 + partial correlation) / 2 of the random effects of {one} and {other}"
            )
        out |= {name: self.space.priors[name] for name in self.shared}
        return out

    @property
    def priors(self) -> dict[str, Prior]:
        """Priors of everything about the population that is inferred, by name."""
        return {name: one for name, one in self.settings.items() if isinstance(one, Prior)}

    @property
    def known(self) -> dict[str, float]:
        """Known values of the population, by name."""
        return {name: one for name, one in self.settings.items() if not isinstance(one, Prior)}

    def _default(self, name: str, size: float, *, signed: bool = False) -> Prior:
        if self.scale.get(name, self.space.priors[name].scale) == "identity":
            size *= typical_sd(self.space.priors[name])
        return Normal(0.0, size) if signed else HalfNormal(size)

    def box(
        self,
        subjects: pd.DataFrame | None = None,
        mass: float = 0.999,
        *,
        ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> Box:
        """Return the box that holds the central part of the population's prior predictive: where to run the simulator.

        ``uq.sobol(population.box(), n, rng=1)`` is a design over it. It is wider than the box of the space, since
        subjects differ from the typical one.

        Parameters
        ----------
        subjects
            Their covariates, as `Calibration` takes them; without it the box is that of subjects whose covariates are
            zero, and the calibration tells when others lie outside.
        mass
            Prior mass inside, jointly.
        ranges
            Ends for some of the parameters, in their own unit, as `ParameterSpace.box` takes them. Parameters require
            them whose typical value or between-subject standard deviation has a prior with a long tail.

        Raises
        ------
        InputError
            When mass is not between 0 and 1, a covariate is missing, or a range is missing or cannot be meant.
        """
        stated = {} if ranges is None else ranges
        outer = self._outer_box(mass, stated)
        cut = 0.5 * (1.0 - mass ** (1.0 / len(self.space.names)))
        layout = Layout.of(self, None if subjects is None else read_subjects(self, subjects))
        names = list(self.priors)
        count = max(1, len(self.individual) + len(self.occasions))
        points = qmc.Sobol(len(names) + count + 1, scramble=True, rng=np.random.default_rng(0)).random(POINTS)
        theta = {n: np.asarray(self.priors[n].quantile(points[:, j])) for j, n in enumerate(names)}
        z = np.asarray(Normal(0.0, 1.0).quantile(points[:, len(names) : len(names) + count]))
        subject = (points[:, -1] * len(layout.covariates)).astype(int)
        natural = layout.one(theta, z, subject)
        ends = {name: (low, high) for name, low, high in zip(outer.names, outer.lower, outer.upper, strict=True)}
        scales, hard = dict(zip(outer.names, outer.scale, strict=True)), dict(zip(outer.names, outer.hard, strict=True))
        for j, (name, scale) in enumerate(zip(self.individual, self.scales, strict=True)):
            hard[name], scales[name] = (False, False), scale
            if name in stated:
                ends[name] = checked_range(name, stated[name], *SCALES[scale].domain, f"{scale} scale of the subjects")
                continue
            low, high = np.quantile(natural[:, j], [cut, 1.0 - cut])
            self._check_tails(name, natural[:, j], float(high - low), mass)
            ends[name] = float(from_natural(low, scale)), float(from_natural(high, scale))
        lower, upper = zip(*ends.values(), strict=True)
        return Box(outer.names, lower, upper, tuple(scales.values()), tuple(hard.values()))

    def _outer_box(self, mass: float, stated: Any) -> Box:
        """Return the box of the space with stated ranges; ends of other individual parameters are those of subjects."""
        known = isinstance(stated, Mapping) and all(name in self.space.names for name in stated)
        if not known or not check.is_number(mass) or not 0.0 < mass < 1.0:
            return self.space.box(mass, ranges=stated)  # it raises
        long = {n: one for n, one in self.space.priors.items() if n not in stated and has_long_tail(one, mass)}
        shared = {name: prior for name, prior in long.items() if name not in self.individual}
        if shared:
            raise InputError(long_tail_message(shared, mass, stated, call="population.box"))
        own = {n: ends for n, ends in stated.items() if n not in self.individual}
        within = [n for n in self.individual if n in stated or n in long]
        ends = {n: tuple(self.space.priors[n].quantile([0.05, 0.95]).tolist()) for n in within}
        return self.space.box(mass, ranges={**own, **ends})

    def _check_tails(self, name: str, natural: Array, width: float, mass: float) -> None:
        """Refuse a box that the long tail of a prior makes too wide to be simulated."""
        own = {f"omega_{name}", f"omega_{name}_occasion", *(one.name for one in self.effects if one.parameter == name)}
        long = [one for key, one in self.priors.items() if key in {name, *own} and has_long_tail(one, mass)]
        low, first, third, high = np.quantile(natural, [0.025, 0.25, 0.75, 0.975])
        if not long or width <= LONG_TAIL * (third - first):
            return
        scale = self.scales[self.individual.index(name)]
        low, high = (float(f"{float(from_natural(end, scale)):.3g}") for end in (low, high))
        raise InputError(
            f"population.box: {long[0].label} has a long tail. The central {100.0 * mass:g} % of the subjects' "
            f"{name!r} are {width / (third - first):.0f} times as wide as their central half, so {name!r} has no "
            f"default range. State the range that is simulated: population.box(ranges={{{name!r}: ({low!r}, "
            f"{high!r})}}) keeps 95 % of the subjects that the prior admits. If more than 1 % lie outside, "
            "the calibration needs outside='extrapolate'. Or take a prior with a lighter tail, such as "
            "uq.HalfStudentT(4, sigma) or uq.HalfNormal(sd)."
        )

    def __repr__(self) -> str:
        said = [
            f"{name} = {one:g}" if isinstance(one, float) else f"{name} ~ {one!r}"
            for name, one in self.settings.items()
        ]
        return f"<Population: individual {', '.join(self.individual)}; {'; '.join(said)}>"


def _names(key: str, given: Any) -> tuple[str, ...]:
    if not isinstance(given, Sequence | Set):
        raise InputError(f"Population: {key} is {given!r}; give names of parameters, such as ('CL', 'V').")
    names = (given,) if isinstance(given, str) else tuple(given)
    if len(set(names)) < len(names):
        raise InputError(f"Population: {key} names a parameter twice: {list(names)}.")
    return names


def _setting(what: str, given: Any, *, signed: bool = False) -> Prior | float:
    """Return a prior, or a known number; sds are positive."""
    if not signed:
        check_positive("Population", what, given, what, "a prior such as HalfNormal(0.3), or a positive number")
    elif not (isinstance(given, Prior) or check.is_number(given)):
        raise InputError(f"Population: {what} is {given!r}; give a prior or a finite number.")
    return given if isinstance(given, Prior) else float(given)

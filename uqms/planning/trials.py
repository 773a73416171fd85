"""Sampling times of a trial: the Fisher information of a population, and the times with the most of it.

==========  ===================================================================  ============
symbol      meaning                                                              shape
==========  ===================================================================  ============
beta        typical values of individual parameters, and shared parameters       (p,)
f           output of the typical subject at the samples of one arm              (P,)
J_b, J      derivatives of f by random effects and by beta                       (P, i), (P, p)
V           covariance of one subject's samples: J_b Omega J_b' + noise          (P, P)
S           covariance of the surrogate's error, which all subjects share        (P, P)
n           subjects of the arm                                                  ()
==========  ===================================================================  ============

The output is linear in the random effects around the typical subject (first order), and the information matrix has
separate blocks for beta and for variances (reduced):

    J' (V / n + S)^-1 J          n tr(V^-1 V_i V^-1 V_j) / 2,    V_i the derivative of V by a variance

V / n + S is the covariance of the subjects' mean, the sufficient statistic for beta. Without an error of the surrogate
it is the matrix of the optimal-design literature.

It screens designs at one value of the parameters. The best of them are compared by their gain over the draws of the
posterior or of the prior, `trial_gain`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, final

import numpy as np
import pandas as pd

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.calibration.population.layout import from_natural, to_natural
from uqms.calibration.population.population import Population
from uqms.errors import InputError
from uqms.planning.candidate_table import COST, Candidates
from uqms.planning.forecasts import Points, joined, points_of
from uqms.planning.gain import Gain
from uqms.planning.trial_gain import SimulatedTrials
from uqms.planning.trial_setting import PopulationDraws, Setting, error_at, noise_terms, outputs_at

__all__ = ["NextTrial", "TrialInformation", "next_trial", "trial_information"]

STEP = 1e-3  # of the natural scale, of differences of fourth order
ROUNDS = 5
DRAWS, SHORT = 1000, 8  # of the population; designs whose gains are compared
CLEAR = 3.0  # standard errors by which another design than that of the screen has to be better
RIDGE = 1e-6


@taught
@final
@dataclass(frozen=True, eq=False)
class TrialInformation:
    """What a trial would tell of a population; `uqms.trial_information` makes it.

    Attributes
    ----------
    table
        By parameter: `value`, `se` and `rse` (in percent) from the trial alone, and `se_exact` if the surrogate were
        exact. ``omega2_CL`` is the variance of the random effect of CL, ``sigma2`` and ``proportional2`` are the
        variances of the noise. After data: `sd` now and `expected_sd` with the trial.
    matrix
        The Fisher information matrix.
    log_determinant, log_determinant_exact
        Of the matrix, with the surrogate's error and without.
    gain
        Expected information gain in nats about the population, in the linear form; NaN before any data.
    subjects
        Of each arm.
    """

    table: pd.DataFrame
    matrix: pd.DataFrame
    log_determinant: float
    log_determinant_exact: float
    gain: float
    subjects: tuple[int, ...]

    def __repr__(self) -> str:
        head = f"TrialInformation: {' + '.join(map(str, self.subjects))} subjects, log-determinant "
        gain = f", {self.gain:.2f} nats" if np.isfinite(self.gain) else ""
        return f"{head}{self.log_determinant:.5g}{gain}\n{self.table.to_string(float_format=lambda v: f'{v:.3g}')}"


@taught
@final
@dataclass(frozen=True, eq=False)
class NextTrial:
    """The sampling times of a trial with the most information; `uqms.next_trial` makes it.

    Attributes
    ----------
    best
        The chosen samples of each subject.
    information
        What the trial with them would tell.
    path
        By number of samples: `log_determinant` (of the parameters asked about) and the samples' `total_cost`.
    short_list
        The designs of the screen with the largest `log_determinant`: `samples`, places among the candidates, and for
        each `gain` in nats with its Monte Carlo standard error `mcse`, "expected_sd <quantity>", and `chosen`. Gains
        are NaN for given values (`at`).
    gain, mcse
        Of the chosen samples, in nats.
    method
        "nested" Monte Carlo, the "linear" form where draws are too few for it, or "" for given values.
    """

    best: pd.DataFrame
    information: TrialInformation
    path: pd.DataFrame
    short_list: pd.DataFrame
    gain: float
    mcse: float
    method: str

    def __repr__(self) -> str:
        gain = f", {self.gain:.2f} nats ({self.method})" if self.method else ""
        rows = self.best.to_string(index=False)
        lines = [f"NextTrial: {len(self.best)} samples per subject{gain}", rows, repr(self.information)]
        if self.method and len(self.short_list) > 1:
            place = int(np.flatnonzero(self.short_list["chosen"])[0]) + 1
            others = self.short_list["gain"][~self.short_list["chosen"]]
            lines.append(
                f"The gains of {len(self.short_list)} designs were compared; the chosen one is number {place} by "
                f"log-determinant. The others have {others.min():.2f} to {others.max():.2f} nats."
            )
        return "\n".join(lines)


@taught
@single_threaded
def trial_information(
    model: Any,
    arms: Candidates | Sequence[Candidates],
    subjects: int | Sequence[int],
    *,
    population: Population | None = None,
    at: Mapping[str, float] | None = None,
) -> TrialInformation:
    """Return the Fisher information of a trial: the standard errors that its sampling times allow.

    Use it before a trial to compare sampling times and numbers of subjects, in milliseconds and without simulated
    trials.

    Parameters
    ----------
    model
        The posterior of a population, which gives values, noise and what is known already; or a surrogate or
        `DirectSimulator`, with `population`.
    arms
        The samples that are taken from every subject, `uqms.candidates`; one table per arm, for example one per dose.
    subjects
        How many, of every arm or one number per arm.
    population
        With a surrogate or simulator: which parameters differ between subjects.
    at
        Values by name, ``{"CL": 0.15, "omega_CL": 0.26}``: typical values, shared parameters and between-subject
        standard deviations. What is left out has the median of its prior, or its posterior mean.

    Returns
    -------
    TrialInformation
        Standard errors and the information matrix.

    Raises
    ------
    InputError
        Unknown names; noise that is not Gaussian or not known; correlated random effects, occasions, covariates or
        tails, which this matrix does not have.

    Notes
    -----
    The matrix is the first-order, reduced one (block-diagonal), as in PopED's default. Random effects far from linear
    or large make it optimistic: check a final choice by simulated trials.

    References
    ----------
    Mentré, Mallet & Baccar (1997), doi:10.1093/biomet/84.2.429; Nyberg et al. (2015), doi:10.1111/bcp.12352.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> hours = np.array([0.5, 1.0, 2.0, 6.0, 24.0, 72.0])
    >>> space = uq.ParameterSpace(k=uq.LogNormal(median=0.1, sigma=0.3), V=uq.LogNormal(median=8.0, sigma=0.3))
    >>> bolus = uq.DirectSimulator(
    ...     lambda k, V: np.exp(-k * hours) / V, space=space, outputs={"conc": ("hour",)}, coords={"hour": hours}
    ... )
    >>> samples = uq.candidates(outputs="conc", coords={"hour": [0.5, 6.0, 24.0]}, noise=uq.CombinedNoise(0.001, 0.1))
    >>> population = uq.Population(space, individual=("k", "V"))
    >>> found = trial_information(bolus, samples, 30, population=population, at={"omega_k": 0.2, "omega_V": 0.2})
    >>> round(float(found.table["rse"]["k"]), 1)
    3.9
    """
    setting = Setting.of(model, population, at)
    every, counts = _arms(arms, subjects)
    samples = _Samples.of(setting, every)
    return _information(setting, samples, np.arange(len(samples.f)), counts)


@taught
@single_threaded
def next_trial(
    model: Any,
    ideas: Candidates,
    size: int,
    subjects: int,
    *,
    population: Population | None = None,
    at: Mapping[str, float] | None = None,
    about: Sequence[str] | None = None,
    draws: int = DRAWS,
    rng: RandomState = 0,
) -> NextTrial:
    """Choose the sampling times of a trial: those with the largest information about the population.

    Designs are screened by their Fisher information at one value of the parameters, with what the posterior knows, or
    before any data the prior. The eight best are then compared by their expected information gain over its draws.

    Parameters
    ----------
    model, subjects, population, at
        As for `trial_information`; all subjects have the same samples.
    ideas
        Samples that could be taken. Each is taken at most once, and costs count per subject.
    size
        Samples of each subject.
    about
        Names of the table of `trial_information`, such as ``["CL"]``: the others are then nuisance parameters. All by
        default.
    draws
        Draws of the population for the gain, of which nested Monte Carlo can show log(draws) - 3 nats. With values to
        design for (`at`) there is no gain, and the screen alone decides.
    rng
        Whole number or generator of draws and simulated trials.

    Returns
    -------
    NextTrial
        The samples, and what the trial would tell.

    Raises
    ------
    InputError
        As `trial_information`; an unknown quantity; a `size` that leaves some parameter without information.

    Notes
    -----
    The log-determinant of the information is maximised (D-optimality; about some parameters, Ds-optimality), greedily
    and then by exchanges of one sample. It is that of the information and of the precision of the draws together. With
    values to design for it is that of the information alone, and after data of the posterior's precision.

    For the gain, trials are simulated with their random effects. Their density is that of normal distributions with the
    same mean and covariance, which is exact for linear models; elsewhere the gain is a lower bound. Another design
    replaces the best one of the screen if its gain is larger by three standard errors of their difference.

    References
    ----------
    Barber & Agakov (2003), NIPS 16, for the bound; Ryan (2003), doi:10.1198/1061860032012, for the gain.
    """
    setting = Setting.of(model, population, at)
    check.whole("next_trial", "size", size)
    check.whole("next_trial", "subjects", subjects)
    check.whole("next_trial", "draws", draws, least=50)
    if size > len(ideas):
        raise InputError(f"next_trial: size is {size}, but there are {len(ideas)} candidates.")
    samples = _Samples.of(setting, [ideas])
    asked = [] if about is None else [about] if isinstance(about, str) else list(about)
    unknown = [name for name in asked if name not in samples.names]
    if unknown or (about is not None and not asked):
        raise InputError(f"next_trial: about has {unknown or 'nothing'}; name some of {list(samples.names)}.")
    generator = as_generator(rng)
    drawn = setting.draws(samples.points, int(draws), generator) if at is None else None
    if drawn is not None and not set(asked) <= set(drawn.inferred):
        drawn = None  # about what is known: what the samples alone tell of it
    search = _Search.of(setting, samples, drawn, int(subjects), asked)
    cost = ideas.table[COST].to_numpy(dtype=np.float64)
    chosen = search.chosen(int(size))
    if not np.isfinite(search.value(chosen)):
        raise InputError(
            f"next_trial: {size} samples leave some of {search.names} without information. Take more samples, or name "
            "what is asked about: about=[...]."
        )
    listed = search.short_list(SHORT)
    gains = None if drawn is None else _gains(setting, samples, drawn, listed, search, generator)
    place = 0 if gains is None else gains.chosen
    chosen = search.ordered(listed[place])
    path = [search.value(chosen[:count]) for count in range(1, size + 1)]
    columns = {"log_determinant": path, "total_cost": np.cumsum(cost[chosen])}
    index = pd.RangeIndex(1, len(path) + 1, name="samples")
    information = _information(setting, samples, np.array(chosen), [int(subjects)])
    table = pd.DataFrame(
        {"samples": listed, "log_determinant": [search.value(one) for one in listed]},
        index=pd.RangeIndex(1, len(listed) + 1, name="design"),
    )
    of_each = [Gain(np.nan, np.nan, np.zeros(0), np.nan, "")] * len(listed) if gains is None else gains.of_each
    table["gain"], table["mcse"] = [one.nats for one in of_each], [one.mcse for one in of_each]
    for k, name in enumerate([] if gains is None else search.names):
        table[f"expected_sd {name}"] = [one.sds[k] for one in of_each]
    table["chosen"] = np.arange(len(listed)) == place
    best = of_each[place]
    whole = pd.DataFrame(columns, index=index)
    return NextTrial(ideas.table.iloc[chosen], information, whole, table, best.nats, best.mcse, best.method)


class _Gains(NamedTuple):
    """Gains of the designs on the short list, and which one is chosen."""

    of_each: list[Gain]
    chosen: int


def _gains(
    setting: Setting,
    samples: "_Samples",
    drawn: PopulationDraws,
    listed: Sequence[Sequence[int]],
    search: "_Search",
    rng: np.random.Generator,
) -> _Gains:
    """Return the gains of designs over draws of the population."""
    union = np.unique(np.concatenate([np.array(one) for one in listed]))
    trials = SimulatedTrials.of(setting, samples.points.at(union), drawn, search.subjects, search.names, rng)
    found = [trials.gain(np.searchsorted(union, one)) for one in listed]
    if not all(one.gain.resolved for one in found):
        return _Gains([_linear(search, one, drawn) for one in listed], 0)
    best = max(range(len(found)), key=lambda i: found[i].gain.nats)
    apart = found[best].each - found[0].each
    apart = apart[np.isfinite(apart)]
    clear = apart.mean() > CLEAR * apart.std(ddof=1) / np.sqrt(len(apart)) if best else False
    return _Gains([one.gain for one in found], best if clear else 0)


def _linear(search: "_Search", rows: Sequence[int], drawn: PopulationDraws) -> Gain:
    """Return the gain in the linear form: what is known as a normal distribution, and the information at one value."""
    before = np.linalg.inv(search.precision)
    after = np.linalg.inv(search.matrix(rows))
    pick = np.ix_(search.places, search.places)
    nats = 0.5 * float(np.linalg.slogdet(before[pick])[1] - np.linalg.slogdet(after[pick])[1])
    return Gain(nats, 0.0, np.sqrt(np.diagonal(after)[search.places]), float("nan"), "linear")


@final
@dataclass(frozen=True, eq=False)
class _Search:
    """The samples with the largest information about some parameters.

    Attributes
    ----------
    samples, subjects
        Of the trial.
    free
        Places of the parameters that are not known, among those of the information.
    precision
        What is known of these before the trial.
    places
        Of those that are asked about, among these.
    """

    samples: "_Samples"
    subjects: int
    free: Ints
    precision: Array
    places: Ints
    _known: dict[tuple[int, ...], float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        setting: Setting,
        samples: "_Samples",
        drawn: PopulationDraws | None,
        subjects: int,
        asked: Sequence[str],
    ) -> "_Search":
        """Return the search about some parameters, about all that are not known where none is named.

        With draws, what differs between these is not known, and its prior information counts.
        """
        free = [name for name in samples.names if drawn is None or name in drawn.inferred]
        at = np.array([samples.names.index(name) for name in free])
        if drawn is None:
            precision = setting.precision_of(samples.names)
        else:
            precision = np.linalg.inv(np.atleast_2d(np.cov(np.stack([drawn.inferred[name] for name in free]))))
        places = np.array([free.index(name) for name in asked or free])
        return cls(samples, subjects, at, precision, places)

    @property
    def names(self) -> list[str]:
        """What is asked about."""
        return [self.samples.names[self.free[place]] for place in self.places]

    def matrix(self, rows: Sequence[int]) -> Array:
        """Return the information of samples and before them."""
        whole = self.samples.matrix(np.array(rows), [self.subjects], True)
        return whole[np.ix_(self.free, self.free)] + self.precision

    def value(self, rows: Sequence[int], ridge: float = 0.0) -> float:
        """Return the log-determinant of the information, with a ridge relative to that of all candidates together."""
        return _criterion(self.matrix(rows) + np.diag(ridge * self._most), self.places)

    @cached_property
    def _most(self) -> Array:
        """Information of all candidates about each parameter, the others known."""
        return np.diagonal(self.matrix(range(len(self.samples.f))))

    def _compared(self, rows: Sequence[int]) -> float:
        """Few samples leave parameters without information: a small ridge compares them all the same."""
        key = tuple(sorted(rows))
        if key not in self._known:
            self._known[key] = self.value(key, RIDGE)
        return self._known[key]

    def short_list(self, count: int) -> list[tuple[int, ...]]:
        """Return the best of the designs of full size that were compared."""
        size = max(map(len, self._known))
        full = {key: value for key, value in self._known.items() if len(key) == size and np.isfinite(self.value(key))}
        return sorted(full, key=lambda key: -full[key])[:count]

    def chosen(self, size: int) -> list[int]:
        """Return the places of the samples, each the best one after those before it."""
        chosen: list[int] = []
        every = range(len(self.samples.f))
        while len(chosen) < size:
            chosen.append(max((i for i in every if i not in chosen), key=lambda i: self._compared([*chosen, i])))
        best = self._compared(chosen)
        for _ in range(ROUNDS):
            before = best
            for place in range(size):
                for i in every:
                    other = [*chosen[:place], i, *chosen[place + 1 :]]
                    if i not in chosen and (found := self._compared(other)) > best + 1e-9:
                        chosen, best = other, found
            if best == before:
                break
        return self.ordered(chosen)

    def ordered(self, chosen: Sequence[int]) -> list[int]:
        """Return the places such that each is the best one after those before it."""
        out: list[int] = []
        while len(out) < len(chosen):
            rest = [i for i in chosen if i not in out]
            out.append(max(rest, key=lambda i: self._compared([*out, i])))
        return out


def _criterion(matrix: Array, places: Ints) -> float:
    """Return the log-determinant of the information about some parameters, the others unknown; -inf without any."""
    others = np.setdiff1d(np.arange(len(matrix)), places)
    scale = np.sqrt(np.maximum(np.diagonal(matrix), 0.0))
    if (scale <= 0.0).any():
        return -np.inf
    scaled = matrix / (scale[:, None] * scale)
    values = np.linalg.eigvalsh(scaled)
    if values[0] < 1e-14 * values[-1]:
        return -np.inf
    whole = float(np.linalg.slogdet(scaled)[1]) + 2.0 * float(np.log(scale).sum())
    if not len(others):
        return whole
    inner = scaled[np.ix_(others, others)]
    return whole - float(np.linalg.slogdet(inner)[1]) - 2.0 * float(np.log(scale[others]).sum())


def _arms(arms: Any, subjects: Any) -> tuple[list[Candidates], list[int]]:
    every = [arms] if isinstance(arms, Candidates) else list(arms)
    if not every or not all(isinstance(one, Candidates) for one in every):
        raise InputError("trial_information: arms is uq.candidates(...), or several in a list.")
    counts = [subjects] * len(every) if isinstance(subjects, int) else list(subjects)
    if len(counts) != len(every) or not all(check.is_whole(one, 1) for one in counts):
        raise InputError(f"trial_information: subjects is {subjects!r}; give a whole number, or one per arm.")
    return every, counts


@final
@dataclass(frozen=True, eq=False)
class _Samples:
    """The samples of all arms at the typical subject."""

    points: Points
    arm: Ints  # (P,)
    f: Array  # (P,)
    J: Array  # (P, p)
    J_b: Array  # (P, i)
    grown: Array  # (P, k), derivatives of the variance by the noise's parameters
    S: Array  # (P, P)
    names: tuple[str, ...]  # of beta, variances of random effects and of the noise
    values: Array

    @classmethod
    def of(cls, setting: Setting, arms: Sequence[Candidates]) -> "_Samples":
        problem, population = setting.problem, setting.population
        points = [points_of(problem, one, True, None) for one in arms]
        for one in points[1:]:
            if dict(one.noise) != dict(points[0].noise):
                raise InputError("trial_information: the arms have different noise; give all the same.")
        arm = np.repeat(np.arange(len(points)), [len(one) for one in points])
        both = joined(points) if len(points) > 1 else points[0]
        names = (*population.individual, *population.shared)
        scales = [*population.scales, *(population.space.priors[name].scale for name in population.shared)]
        value = np.array([setting.at[name] for name in names])
        centre = np.array([float(to_natural(v, s)) for v, s in zip(value, scales, strict=True)])
        d = len(centre)
        x = np.repeat(centre[None], 1 + 4 * d, axis=0)
        for i in range(d):
            x[1 + 4 * i : 5 + 4 * i, i] += STEP * np.array([-2.0, -1.0, 1.0, 2.0])
        theta = {n: np.asarray(from_natural(x[:, i], s)) for i, (n, s) in enumerate(zip(names, scales, strict=True))}
        f, slopes = outputs_at(problem, both, theta)
        S = error_at(problem, both, {name: values[:1] for name, values in theta.items()}, slopes[:1])[0]
        by_natural = np.einsum("k,ikp->pi", [1.0, -8.0, 8.0, -1.0], f[1:].reshape(d, 4, -1)) / (12.0 * STEP)
        moved = np.stack([theta[name][1 + 4 * i : 5 + 4 * i] for i, name in enumerate(names)])
        slope = moved @ np.array([1.0, -8.0, 8.0, -1.0]) / (12.0 * STEP)  # of the own unit by the natural scale
        J_b = by_natural[:, : len(population.individual)]
        roles, sizes, grown = noise_terms(setting, both, f[0])
        every = (*names, *(f"omega2_{name}" for name in population.individual), *roles)
        omega2 = [setting.at[f"omega_{name}"] ** 2 for name in population.individual]
        return cls(both, arm, f[0], by_natural / slope, J_b, grown, S, every, np.concatenate([value, omega2, sizes]))

    def matrix(self, rows: Ints, subjects: Sequence[int], errors: bool) -> Array:
        """Return the Fisher information of some samples, with the surrogate's error or without."""
        p, i = self.J.shape[1], self.J_b.shape[1]
        omega2, sizes = self.values[p : p + i], self.values[p + i :]
        total = self.S[np.ix_(rows, rows)].copy() if errors else np.zeros((len(rows), len(rows)))
        out = np.zeros((len(self.values), len(self.values)))
        for g, n in enumerate(subjects):
            at = np.flatnonzero(self.arm[rows] == g)
            if not len(at):
                continue
            J_b, grown = self.J_b[rows[at]], self.grown[rows[at]]
            V = (J_b * omega2) @ J_b.T + np.diag(grown @ sizes)
            total[np.ix_(at, at)] += V / n
            inverse = np.linalg.inv(V)
            # tr(V^-1 j j' V^-1 k k') = (j' V^-1 k)²; of diagonals, sums over squared entries of the inverse.
            half = J_b.T @ inverse
            out[p : p + i, p : p + i] += 0.5 * n * (half @ J_b) ** 2
            out[p : p + i, p + i :] += 0.5 * n * half**2 @ grown
            out[p + i :, p + i :] += 0.5 * n * grown.T @ inverse**2 @ grown
        out[p + i :, p : p + i] = out[p : p + i, p + i :].T
        J = self.J[rows]
        out[:p, :p] = J.T @ np.linalg.solve(total, J)
        return out


def _information(setting: Setting, samples: _Samples, rows: Ints, subjects: Sequence[int]) -> TrialInformation:
    every = np.arange(len(samples.values))
    matrices = [samples.matrix(rows, subjects, errors) for errors in (True, False)]
    logs = [_criterion(one, every) for one in matrices]
    with np.errstate(all="ignore"):
        ses = [_standard_errors(one, log) for one, log in zip(matrices, logs, strict=True)]
        table = pd.DataFrame(
            {"value": samples.values, "se": ses[0], "rse": 100.0 * ses[0] / np.abs(samples.values), "se_exact": ses[1]},
            index=pd.Index(samples.names, name="parameter"),
        )
    gain, precision = float("nan"), setting.precision_of(samples.names)
    known = np.flatnonzero(np.diagonal(precision) > 0.0)
    if len(known):
        total = matrices[0] + precision
        others = np.setdiff1d(every, known)
        left = total[np.ix_(known, known)]
        if len(others):
            cross = total[np.ix_(known, others)]
            left = left - cross @ np.linalg.pinv(total[np.ix_(others, others)], hermitian=True) @ cross.T
        own = precision[np.ix_(known, known)]
        gain = 0.5 * float(np.linalg.slogdet(left)[1] - np.linalg.slogdet(own)[1])
        for column, one in (("sd", own), ("expected_sd", left)):
            table[column] = np.nan
            table.loc[[samples.names[k] for k in known], column] = np.sqrt(np.diagonal(np.linalg.inv(one)))
    matrix = pd.DataFrame(matrices[0], index=samples.names, columns=samples.names)
    return TrialInformation(table, matrix, logs[0], logs[1], gain, tuple(subjects))


def _standard_errors(matrix: Array, log_determinant: float) -> Array:
    """Return standard errors, NaN where the samples do not determine all parameters."""
    if not np.isfinite(log_determinant):
        return np.full(len(matrix), np.nan)
    scale = np.sqrt(np.diagonal(matrix))
    return np.asarray(np.sqrt(np.diagonal(np.linalg.inv(matrix / (scale[:, None] * scale)))) / scale)

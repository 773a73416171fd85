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
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import numpy as np
import pandas as pd

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Ints
from uqms.calibration.by_input import rows_by_input
from uqms.calibration.direct import is_exact
from uqms.calibration.joint_error import JointError
from uqms.calibration.noise import NoiseModel
from uqms.calibration.population.layout import from_natural, to_natural
from uqms.calibration.population.population import Population
from uqms.errors import InputError
from uqms.parameters import Prior
from uqms.planning.before_data import without_data
from uqms.planning.candidate_table import COST, Candidates
from uqms.planning.forecasts import Points, joined, points_of
from uqms.surrogates.transforms import Identity

__all__ = ["NextTrial", "TrialInformation", "next_trial", "trial_information"]

STEP = 1e-3  # of the natural scale, of differences of fourth order
ROUNDS = 5
TINY, RIDGE = 1e-12, 1e-6


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
    """

    best: pd.DataFrame
    information: TrialInformation
    path: pd.DataFrame

    def __repr__(self) -> str:
        return (
            f"NextTrial: {len(self.best)} samples per subject\n{self.best.to_string(index=False)}\n{self.information!r}"
        )


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
    setting = _Setting.of(model, population, at)
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
) -> NextTrial:
    """Choose the sampling times of a trial: those with the largest information about the population.

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
    and then by exchanges of one sample. After data it is that of information and posterior precision together.
    """
    setting = _Setting.of(model, population, at)
    check.whole("next_trial", "size", size)
    check.whole("next_trial", "subjects", subjects)
    if size > len(ideas):
        raise InputError(f"next_trial: size is {size}, but there are {len(ideas)} candidates.")
    samples = _Samples.of(setting, [ideas])
    wanted = list(samples.names) if about is None else [about] if isinstance(about, str) else list(about)
    unknown = [name for name in wanted if name not in samples.names]
    if unknown or not wanted:
        raise InputError(f"next_trial: about has {unknown or 'nothing'}; name some of {list(samples.names)}.")
    places = np.array([samples.names.index(name) for name in wanted])
    cost = ideas.table[COST].to_numpy(dtype=np.float64)
    search = _Search(samples, setting.precision_of(samples), int(subjects), places)
    chosen = search.chosen(int(size))
    path = [search.value(chosen[:count]) for count in range(1, size + 1)]
    if not np.isfinite(path[-1]):
        raise InputError(
            f"next_trial: {size} samples leave some of {wanted} without information. Take more samples, or name "
            "what is asked about: about=[...]."
        )
    columns = {"log_determinant": path, "total_cost": np.cumsum(cost[chosen])}
    index = pd.RangeIndex(1, len(path) + 1, name="samples")
    information = _information(setting, samples, np.array(chosen), [int(subjects)])
    return NextTrial(ideas.table.iloc[chosen], information, pd.DataFrame(columns, index=index))


@final
@dataclass(frozen=True, eq=False)
class _Search:
    """The samples with the largest information about some parameters."""

    samples: "_Samples"
    precision: Array
    subjects: int
    places: Ints

    def value(self, rows: Sequence[int], ridge: float = 0.0) -> float:
        """Return the log-determinant of the information, with a ridge relative to the parameters' sizes."""
        matrix = self.samples.matrix(np.array(rows), [self.subjects], True) + self.precision
        scale = np.maximum(np.abs(self.samples.values), TINY)
        return _criterion(matrix + np.diag(ridge / scale**2), self.places)

    def _compared(self, rows: Sequence[int]) -> float:
        """Few samples leave parameters without information: a small ridge compares them all the same."""
        return self.value(rows, RIDGE)

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
        ordered: list[int] = []
        while len(ordered) < size:
            rest = [i for i in chosen if i not in ordered]
            ordered.append(max(rest, key=lambda i: self._compared([*ordered, i])))
        return ordered


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


# --------------------------------------------------------------------------------------------------- where it is taken
@final
@dataclass(frozen=True, eq=False)
class _Setting:
    """A population at given values.

    Attributes
    ----------
    problem
        A calibration of the surrogate, for its outputs and conditions.
    population
        How subjects differ.
    at
        Values by name.
    noise
        By output; of a posterior. Candidates' own noise goes first.
    phi
        Values of its parameters by output.
    posterior
        None before any data.
    """

    problem: Any
    population: Population
    at: Mapping[str, float]
    noise: Mapping[str, NoiseModel]
    phi: Mapping[str, Mapping[str, float]]
    posterior: Any

    @classmethod
    def of(cls, model: Any, population: Population | None, at: Mapping[str, float] | None) -> "_Setting":
        posterior = model if hasattr(model, "tree") else None
        if posterior is not None:
            if posterior.problem.kind != "population":
                raise InputError(
                    "trial_information: this posterior has no population. For one subject use uq.next_experiment(...)."
                )
            population, problem = posterior.problem.population, posterior.problem.data
        elif not isinstance(population, Population):
            raise InputError("trial_information: give population=uq.Population(space, individual=(...)) too.")
        else:
            problem = without_data(model, None, {"space": population.space, "outside": "extrapolate"})
        for what, there in (
            ("correlated random effects", population.together),
            ("occasions", population.occasions),
            ("covariates", population.effects),
            ("Student-t effects", population.tails),
        ):
            if there:
                raise InputError(
                    f"trial_information: the first-order matrix here has no {what}. Leave them out of uq.Population "
                    "for the choice of sampling times."
                )
        values = {name: _middle(one) for name, one in population.settings.items()}
        if posterior is not None:
            values |= {name: float(posterior.draws[name].mean()) for name in population.priors}
        unknown = sorted(set(at or {}) - set(values))
        if unknown:
            raise InputError(f"trial_information: at has {unknown}; the population has {list(values)}.")
        values |= {name: float(value) for name, value in (at or {}).items()}
        noise: dict[str, NoiseModel] = {}
        phi: dict[str, dict[str, float]] = {}
        if posterior is not None:
            draws = {name: float(posterior.draws[name].mean()) for name in posterior.draws.data_vars}
            known = problem.noise.phi(draws, ())
            for output, one, roles in zip(
                problem.noise.outputs, problem.noise.models, problem.noise.roles, strict=True
            ):
                noise[output], phi[output] = one, {role: float(known[place]) for role, place in roles.items()}
        return cls(problem, population, values, noise, phi, posterior)

    def precision_of(self, samples: "_Samples") -> Array:
        """Return the inverse covariance of what the posterior knows, zeros for the noise and before any data."""
        out = np.zeros((len(samples.values), len(samples.values)))
        if self.posterior is None:
            return out
        population, draws = self.population, self.posterior.draws
        keys = [*population.individual, *population.shared, *(f"omega_{name}" for name in population.individual)]
        at = [i for i, key in enumerate(keys) if key in draws]
        columns = [draws[keys[i]].values.ravel() ** (2 if keys[i].startswith("omega_") else 1) for i in at]
        out[np.ix_(at, at)] = np.linalg.inv(np.atleast_2d(np.cov(np.stack(columns))))
        return out


def _middle(one: Prior | float) -> float:
    if not isinstance(one, Prior):
        return float(one)
    return float(np.asarray(cast(Any, one).quantile(0.5)))


@final
@dataclass(frozen=True, eq=False)
class _Samples:
    """The samples of all arms at the typical subject."""

    arm: Ints  # (P,)
    f: Array  # (P,)
    J: Array  # (P, p)
    J_b: Array  # (P, i)
    grown: Array  # (P, k), derivatives of the variance by the noise's parameters
    S: Array  # (P, P)
    names: tuple[str, ...]  # of beta, variances of random effects and of the noise
    values: Array

    @classmethod
    def of(cls, setting: _Setting, arms: Sequence[Candidates]) -> "_Samples":
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
        f, S = _outputs(problem, both, theta)
        by_natural = np.einsum("k,ikp->pi", [1.0, -8.0, 8.0, -1.0], f[1:].reshape(d, 4, -1)) / (12.0 * STEP)
        moved = np.stack([theta[name][1 + 4 * i : 5 + 4 * i] for i, name in enumerate(names)])
        slope = moved @ np.array([1.0, -8.0, 8.0, -1.0]) / (12.0 * STEP)  # of the own unit by the natural scale
        J_b = by_natural[:, : len(population.individual)]
        roles, sizes, grown = _noise_terms(setting, both, f[0])
        every = (*names, *(f"omega2_{name}" for name in population.individual), *roles)
        omega2 = [setting.at[f"omega_{name}"] ** 2 for name in population.individual]
        return cls(arm, f[0], by_natural / slope, J_b, grown, S, every, np.concatenate([value, omega2, sizes]))

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


def _information(setting: _Setting, samples: _Samples, rows: Ints, subjects: Sequence[int]) -> TrialInformation:
    every = np.arange(len(samples.values))
    matrices = [samples.matrix(rows, subjects, errors) for errors in (True, False)]
    logs = [_criterion(one, every) for one in matrices]
    with np.errstate(all="ignore"):
        ses = [_standard_errors(one, log) for one, log in zip(matrices, logs, strict=True)]
        table = pd.DataFrame(
            {"value": samples.values, "se": ses[0], "rse": 100.0 * ses[0] / np.abs(samples.values), "se_exact": ses[1]},
            index=pd.Index(samples.names, name="parameter"),
        )
    gain, precision = float("nan"), setting.precision_of(samples)
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


def _noise_terms(setting: _Setting, points: Points, f: Array) -> tuple[tuple[str, ...], Array, Array]:
    """Return names and values of the noise's variances (k,), and derivatives of each sample's variance (P, k)."""
    roles: list[str] = []
    sizes: list[float] = []
    columns: list[Array] = []
    outputs = list(dict.fromkeys(points.targets.output.tolist()))
    for output in outputs:
        at = points.targets.output == output
        model = points.noise.get(output, setting.noise.get(output))
        if model is None or not model.gaussian or model.process is not None or model.columns:
            what = "not known" if model is None else f"{type(model).__name__}"
            raise InputError(
                f"trial_information: the noise of {output!r} is {what}; give known Gaussian noise: uq.candidates(..., "
                "noise=uq.CombinedNoise(0.5, 0.1))."
            )
        own = setting.phi.get(output, {}) if output not in points.noise else {}
        numbers = {role: float(own.get(role, cast(Any, value))) for role, value in model.parameters.items()}
        suffix = "" if len(outputs) == 1 else f"_{output}"
        if numbers.get("sigma", 0.0) > 0.0:
            roles.append(f"sigma2{suffix}")
            sizes.append(numbers["sigma"] ** 2)
            columns.append(at / points.replicates)
        growth = model.growth
        if growth is not None:
            roles.append(f"{growth.factor}2{suffix}")
            sizes.append(numbers[growth.factor] ** 2)
            columns.append(at * np.abs(f) ** (2.0 * numbers[growth.power]) / points.replicates)
    return tuple(roles), np.array(sizes), np.column_stack(columns)


def _outputs(problem: Any, points: Points, theta: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return outputs (n, P) in the unit of the noise, and the covariance (P, P) of the error at the first."""
    targets, surrogate = points.targets, problem.surrogate
    u = _inputs(problem, points, theta)
    sites = dict(targets.coords)
    sites |= {name: targets.conditions[targets.experiment, i] for i, name in enumerate(problem.condition_names)}
    by_input = rows_by_input(surrogate, targets.output, sites, targets.experiment)
    rows = _Rows(targets.offset, targets.basis, targets.truncation, by_input)
    used = np.zeros(0, dtype=np.int64) if is_exact(surrogate) else np.arange(targets.basis.shape[1])
    joint = JointError.of(surrogate, rows, targets.experiment, u, used)
    weights = np.exp(joint.scores.log_weights - np.logaddexp.reduce(joint.scores.log_weights))
    latent = np.tensordot(weights, joint.mean, 1)
    value, slope = latent.copy(), np.ones(latent.shape[1])
    for output in np.unique(targets.output):
        at = np.flatnonzero(targets.output == output)
        model = points.noise.get(str(output))
        transform = surrogate.layouts[str(output)].transform
        response = Identity() if model is not None and model.link == "log" else transform
        value[:, at], slope[at] = response.inverse(latent[:, at]), response.inverse_slope(latent[:1, at])[0]
    P = len(slope)
    S = np.zeros((P, P))
    if len(used):
        first = JointError.of(surrogate, rows, targets.experiment, u[:1], used)
        for h, w in enumerate(weights):
            apart = first.mean[h, 0] - latent[0]
            S += w * (first.given(np.array([h])).covariance[0] + np.outer(apart, apart))
    return value, slope[:, None] * slope * S


def _inputs(problem: Any, points: Points, theta: Mapping[str, Array]) -> Array:
    box, conditions = problem.surrogate.domain, points.targets.conditions
    n, K = len(next(iter(theta.values()))), len(conditions)
    x = np.empty((n, K, box.d))
    for column, name in enumerate(box.names):
        x[..., column] = theta[name][:, None] if name in theta else conditions[:, problem.condition_names.index(name)]
    return np.asarray(box.to_unit(x))


class _Rows:
    """Rows of samples, as `JointError.of` reads them."""

    def __init__(self, offset: Array, basis: Any, truncation: Array, by_input: Any) -> None:
        self.offset, self.basis, self.truncation, self.by_input = offset, basis, truncation, by_input

"""Verification on the simulator: whether the surrogate is right where the posterior is, and what a simulator says.

==========  ====================================================================  ===========
symbol      meaning                                                               shape
==========  ====================================================================  ===========
theta       posterior draws that were run, each at all observed conditions        (D,)
y           simulated outputs at the observed coordinates, without any error      (D, N)
r           log p(z | theta, simulator) - log p(z | theta, surrogate)             (D,)
w           weights of the draws, smoothed exp(r) (PSIS)                          (D,)
==========  ====================================================================  ===========

The errors at the draws are judged together, against the joint distribution of a correct surrogate's errors, on both
sides; see `uqms.surrogates.reference`. Whether errors matter follows from r: the mean of a parameter moves by
Cov(theta, r), which is at most sd(r) posterior sds as long as r is small. Draws with the weights w are draws from the
posterior of the simulator itself; few draws, or a heavy tail of the weights, say nothing of it.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import final

import numpy as np
import pandas as pd
import xarray as xr
from scipy.interpolate import make_interp_spline
from scipy.spatial import KDTree

from uqms import ensemble as table
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Bools, Ints, RandomState, as_generator
from uqms.calibration.capabilities import refuse
from uqms.calibration.context import Context
from uqms.calibration.dense_gaussian import LOG_TWO_PI, given_data
from uqms.calibration.density import covariance_of
from uqms.calibration.judging import OF_RUNS, verdict_of
from uqms.calibration.posterior import Posterior, check_posterior
from uqms.calibration.refinement import design_of, finite_draws
from uqms.calibration.reweighting import smoothed
from uqms.calibration.simulator_runs import K_HAT, LEAST_DRAWS, MOST_POINTS, SPREAD, SimulatorRuns
from uqms.calibration.single import SingleCalibration
from uqms.calibration.verdict import Verdict
from uqms.errors import DataError, InputError
from uqms.surrogates import Chain, GaussianProcessSurrogate, Validation, held_out
from uqms.surrogates.process import average, condition
from uqms.surrogates.superposition import Superposition
from uqms.surrogates.training import Hyperparameters

__all__ = ["Verification", "verification_design", "verify", "with_runs", "with_simulator"]

STOCHASTIC = "the simulator is stochastic, so that runs have its noise"
LATENT = "noise is not normal here, and the likelihood of the surrogate in no closed form"
LINKED = "errors of the chain's links are sampled, and the likelihood without them is in no closed form"
SAME = 1e-9  # of the unit cube
PRIOR_RUNS, FEWEST = 0.5, 4  # runs that a surrogate's own variances are worth beside new ones; of which so many
ROUNDING, LOST = 1e-9, 1e-14  # of the largest variance of a contrast, and of the process's, that is rounding
TARGETS = 24  # of the estimate of how many more runs are needed


@taught
@single_threaded
def verification_design(posterior: Posterior, n: int, rng: RandomState | None = None) -> xr.Dataset:
    """Return n posterior draws at all observed conditions, as a design for `uqms.run`.

    Use it when a posterior matters: run these points, and `verify` tells whether the surrogate is right there. Of a
    population each draw is one of all subjects, with the parameters and the conditions of each.

    Parameters
    ----------
    posterior
        The posterior to verify.
    n
        Number of draws. From 20 on the surrogate's error is tested well; from 100 on draws can be reweighted.
    rng
        Whole number or generator.

    Returns
    -------
    xarray.Dataset
        n rows times the number of observed conditions; of a population, times that of its subjects' experiments.

    Raises
    ------
    InputError
        When n is no whole number above zero, or more than the posterior has different draws.

    Examples
    --------
    ::

        points = uq.verification_design(posterior, 100, rng=1)
        print(uq.verify(posterior, uq.run(simulator, points)))
    """
    check_posterior(posterior, "verification_design")
    verified = _Verified.of(posterior)
    problem = verified.data
    refuse(posterior.problem, "verification_design")
    every = [np.reshape(verified.own[name], (verified.count, -1)) for name in problem.parameters]
    different = np.unique(np.hstack(every), axis=0, return_index=True)[1]
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 1 <= n <= len(different):
        raise InputError(
            f"verification_design: n is {n!r}; give a whole number from 1 to {len(different)}, the number of different "
            "posterior draws."
        )
    seed = int(as_generator(rng).integers(2**31))
    rows = different[np.random.default_rng(seed).choice(len(different), size=int(n), replace=False)]
    recipe = {"method": "verification", "n": int(n), "seed": seed, "over": "posterior", "of": _earlier(problem)}
    theta = verified.at_experiments(rows)
    return design_of(
        problem,
        problem.simulated.domain,
        theta.reshape(-1, theta.shape[-1]),
        np.tile(problem.cells.conditions, (int(n), 1)),
        recipe,
    )


@final
@dataclass(frozen=True, eq=False)
class _Verified:
    """A posterior as its data see it: one subject, or all subjects of a population.

    Attributes
    ----------
    data
        Cells, surrogate and noise.
    theta
        Finite draws of everything that has a prior, by name (S,).
    own
        What the data see: parameters and noise (S,), of a population individual parameters (S, U).
    log_likelihood
        Of some of the draws, with the surrogate.
    subjects
        Of a population; 0 of one subject.
    """

    data: SingleCalibration
    theta: Mapping[str, Array]
    own: Mapping[str, Array]
    log_likelihood: Callable[[Ints], Array]
    subjects: int = 0

    @classmethod
    def of(cls, posterior: Posterior) -> "_Verified":
        if not posterior.subjects:
            problem, draws = posterior.single, finite_draws(posterior)

            def density(rows: Ints) -> Array:
                return problem.log_likelihood({name: values[rows] for name, values in draws.items()})

            return cls(problem, draws, draws, density)
        population = posterior.hierarchy.problem
        every, latents = posterior.flat(), posterior.latents
        finite = np.all([np.isfinite(values) for values in every.values()], axis=0)
        own = population.individuals({name: values[finite] for name, values in every.items()}, latents[finite])
        eta = latents[finite][:, population.layout.size :]

        def of_subjects(rows: Ints) -> Array:
            some = {name: values[rows] for name, values in own.items()}
            return population.of_individuals(some, eta[rows]) - population.data.wall(some)

        measured = int(population.subjects.measured.sum())
        return cls(population.data, finite_draws(posterior), own, of_subjects, measured)

    @property
    def count(self) -> int:
        """Number of draws S."""
        return len(next(iter(self.theta.values())))

    def some(self, rows: Ints) -> dict[str, Array]:
        """Return what the data see in some of the draws."""
        return {name: values[rows] for name, values in self.own.items()}

    def at_experiments(self, rows: Ints) -> Array:
        """Return the simulator's parameters (s, K, d) of some of the draws, in their own units."""
        cells, found = self.data.cells, self.some(rows)
        shape = len(rows), len(cells.conditions)
        columns = [found[name] for name in self.data.parameters]
        return np.stack(
            [one[:, cells.unit] if one.ndim == 2 else np.broadcast_to(one[:, None], shape) for one in columns], axis=-1
        )


def _earlier(problem: SingleCalibration) -> object:
    """Return how the surrogate's runs were designed."""
    text = getattr(problem.surrogate, "attrs", {}).get("design")
    design = None if text is None else json.loads(text)
    return design.get("of") if isinstance(design, dict) and design.get("method") == "verification" else design


@taught
@final
@dataclass(frozen=True, eq=False)
class Verification:
    """Checks of a posterior against runs of the simulator; `verify` returns it.

    Attributes
    ----------
    verdict
        Whether the surrogate, and with it the posterior, holds on the simulator: pass, warn or fail, with reasons.
    errors
        The `Validation` of the new runs: errors, coverage and joint checks with the ranges of a right surrogate.
    draws
        The posterior draws that were run at every condition, each inferred quantity with dim "draw"; `log_ratio` is
        the log-likelihood with the simulator less that with the surrogate.
    k_hat
        Tail index of the weights; NaN with fewer than 100 draws.
    weights
        Of the draws, summing to one: with them they are draws from the posterior of the simulator itself. None with
        fewer than 100 draws, or where k_hat is 0.7 or more and the weights are worth less than half of the draws.
    more_runs
        About how many more runs, beyond these, where the posterior is, until weights can be used; 0 when they can, or
        when a surrogate that is fitted with these runs is enough. None when it is more than 240, or not known.
    surrogate
        The surrogate conditioned on the new runs too, hyperparameters and bases as they were; None where it cannot be.
    failed
        Number of runs that did not complete.
    posterior
        The posterior that was verified, with these checks in its verdict, by which `another_round` and
        `MultivariateNormal.from_posterior` go too.
    """

    verdict: Verdict
    errors: Validation
    draws: xr.Dataset
    k_hat: float
    weights: Array | None
    more_runs: int | None
    surrogate: GaussianProcessSurrogate | Chain | None
    failed: int
    posterior: Posterior

    @property
    def conclusion(self) -> str:
        """Whether the surrogate agrees with the simulator; where not, what that means for the intervals."""
        passed = self.verdict.status == "pass"
        return "The surrogate agrees with the simulator near the posterior." if passed else self.verdict.conclusion

    def __str__(self) -> str:
        head = f"Verified: {self.verdict.status.upper()}. {self.conclusion}"
        return "\n".join([head, *str(self.verdict).split("\n")[1:]])

    def summary(self) -> pd.DataFrame:
        """Return mean and sd of each inferred quantity, with the surrogate and (weighted) with the simulator.

        Raises
        ------
        InputError
            When there are no weights.
        """
        if self.weights is None:
            raise InputError(
                f"summary: there are no weights (k-hat {self.k_hat:.2f}, {self.draws.sizes['draw']} draws); weights "
                f"need {LEAST_DRAWS} draws and k-hat below {K_HAT}. Fit again with the new runs, and calibrate again."
            )
        rows = {}
        for name, values in self.draws.drop_vars("log_ratio").data_vars.items():
            x = values.values
            mean = float(self.weights @ x)
            rows[str(name)] = {
                "mean": float(x.mean()),
                "sd": float(x.std()),
                "mean_simulator": mean,
                "sd_simulator": math.sqrt(float(self.weights @ (x - mean) ** 2)),
            }
        return pd.DataFrame.from_dict(rows, orient="index")


@taught
@single_threaded
def verify(posterior: Posterior, ensemble: xr.Dataset, *, rng: int = 0) -> Verification:
    """Check a surrogate near the posterior against runs of the simulator at posterior draws.

    Use it before a posterior is used for anything that matters.

    Parameters
    ----------
    posterior
        The posterior to verify.
    ensemble
        Runs of ``uqms.verification_design(posterior, n)``. Those that did not complete are counted and told.
    rng
        Seed of the simulated reference ranges.

    Returns
    -------
    Verification
        Verdict, errors, weights and the surrogate with the new runs in it.

    Raises
    ------
    InputError
        When runs are no posterior draws at observed conditions, or outputs differ from the surrogate's.
    DataError
        When fewer than two runs completed.

    References
    ----------
    Bastos & O'Hagan (2009), doi:10.1198/TECH.2009.08019; Vehtari et al. (2024), JMLR 25(72), Pareto smoothed importance
    sampling.

    Examples
    --------
    ::

        verification = uq.verify(posterior, uq.run(simulator, uq.verification_design(posterior, 100, rng=1)))
        print(verification)
    """
    check_posterior(posterior, "verify")
    if not isinstance(ensemble, xr.Dataset):
        raise InputError(
            f"verify: got a {type(ensemble).__name__} as runs; give "
            "uq.run(simulator, uq.verification_design(posterior, 50, rng=1))."
        )
    table.check(ensemble)
    verified = _Verified.of(posterior)
    problem = verified.data
    runs = table.completed(ensemble)
    failed = ensemble.sizes["run"] - runs.sizes["run"]
    if runs.sizes["run"] < 2:
        raise DataError(
            f"verify: {runs.sizes['run']} of {ensemble.sizes['run']} runs completed; at least two are needed. "
            "uq.ensemble.failures(ensemble) lists why the others did not."
        )
    of_draw, of_condition = _matched(verified, runs)
    errors = held_out(problem.simulated, runs, rng=rng)
    whole, place = _whole_draws(of_draw, of_condition, len(problem.cells.conditions))
    theta = {name: values[whole] for name, values in verified.theta.items()}
    exact = getattr(problem.surrogate, "attrs", {}).get("noise", "none") == "none"
    # Where errors are sampled as latents, the likelihood with the surrogate is not in closed form.
    known = exact and problem.data_model.closed_form and not problem.link_errors
    ratio = np.full(len(whole), np.nan)
    if len(whole) and known:
        ratio = with_simulator(problem, verified.some(whole), runs, place) - verified.log_likelihood(whole)
    given = problem.surrogate
    own = given.simulated if isinstance(given, Superposition) else problem.noise.own_outputs
    outputs = tuple(str(name) for name in own)
    k_hat, weights = _weights(ratio)
    refitted = with_runs(problem.simulated, runs)
    more = None
    if known and not verified.subjects:
        more = _more_runs(problem, refitted, theta, ratio, errors.table.loc[list(outputs)], weights)
    unknown = "" if known else STOCHASTIC if not exact else LINKED if problem.link_errors else LATENT
    judged = SimulatorRuns(ensemble, errors, outputs, theta, ratio, k_hat, weights, more, unknown, verified.subjects)
    data = {name: ("draw", values) for name, values in theta.items()}
    verdict = verdict_of(Context.of(posterior, judged), OF_RUNS)
    return Verification(
        verdict=verdict,
        errors=errors,
        draws=xr.Dataset({**data, "log_ratio": ("draw", ratio)}),
        k_hat=k_hat,
        weights=weights,
        more_runs=more,
        surrogate=refitted,
        failed=failed,
        posterior=posterior.with_checks(verdict.checks),
    )


# ------------------------------------------------------------------------------------------------------ which draw ran
def _matched(verified: _Verified, runs: xr.Dataset) -> tuple[Ints, Ints]:
    """Return of every run its posterior draw and its observed condition, of a population its experiment."""
    problem, draws = verified.data, verified.own
    box = problem.simulated.domain
    lacking = [name for name in box.names if name not in table.input_names(runs)]
    if lacking:
        raise InputError(f"verify: the runs have no input {lacking}; run uq.verification_design(posterior, n).")
    if verified.subjects:
        inputs = problem.unit_inputs(draws)
        experiments = inputs.shape[1]
        at_runs = box.to_unit(table.input_array(runs, box.names))
        place = _nearest(inputs.reshape(-1, box.d), np.asarray(at_runs), "is no subject of a posterior draw")
        return place // experiments, place % experiments
    near = box.select(problem.parameters)
    known = np.asarray(near.to_unit(np.column_stack([draws[name] for name in problem.parameters])))
    of_draw = _nearest(known, near.to_unit(table.input_array(runs, near.names)), "is no posterior draw")
    if not problem.condition_names:
        return of_draw, np.zeros(len(of_draw), dtype=np.int64)
    at = box.select(problem.condition_names)
    inputs = at.to_unit(table.input_array(runs, at.names))
    return of_draw, _nearest(at.to_unit(problem.cells.conditions), inputs, "is at no observed condition")


def _nearest(known: Array, points: Array, otherwise: str) -> Ints:
    """Return which of the known ones each point is."""
    distance, place = KDTree(known).query(points, p=np.inf)
    _refuse(np.asarray(distance) > SAME, otherwise)
    return np.asarray(place, dtype=np.int64)


def _refuse(bad: Bools, what: str) -> None:
    if bad.any():
        raise InputError(
            f"verify: {int(bad.sum())} of {len(bad)} runs cannot be used; completed run {int(np.argmax(bad))} {what}. "
            "Run uq.verification_design(posterior, n) of this posterior; uq.held_out takes runs anywhere else."
        )


def _whole_draws(of_draw: Ints, of_condition: Ints, count: int) -> tuple[Ints, Ints]:
    """Return the draws that ran at every condition, and the position of these runs (D, count)."""
    found = {draw: np.full(count, -1) for draw in dict.fromkeys(of_draw.tolist())}
    for run, (draw, k) in enumerate(zip(of_draw.tolist(), of_condition.tolist(), strict=True)):
        found[draw][k] = run
    whole = [draw for draw, rows in found.items() if (rows >= 0).all()]
    place = np.array([found[draw] for draw in whole], dtype=np.int64).reshape(len(whole), count)
    return np.array(whole, dtype=np.int64), place


# ------------------------------------------------------------------------------------------------- simulator likelihood
def with_simulator(problem: SingleCalibration, theta: Mapping[str, Array], runs: xr.Dataset, place: Ints) -> Array:
    """Return the log-likelihood of draws (D,) with the simulator: the runs at place (D, K) in the surrogate's place."""
    cells = problem.cells
    y = _at_observed(problem, runs, place)
    phi = problem.noise.phi(theta, (len(place),))
    y, gain = cells.responded(y * problem.noise.scales(cells.group, phi))
    sd = problem.noise.sds(cells.group, phi, y)
    n = len(cells.offset)
    if problem.noise.terms:
        slopes = problem.data_model.mean_slopes(problem.unit_inputs(theta)).mean(axis=0)
        covariance = covariance_of(problem.data_model, phi, slopes, gain)
        covariance[:, np.arange(n), np.arange(n)] += sd**2 / cells.weight
        between = given_data(covariance, cells.cell_mean - y).log_density
    else:
        of_means = sd / np.sqrt(cells.weight)
        between = np.sum(-0.5 * ((cells.cell_mean - y) / of_means) ** 2 - np.log(of_means) - 0.5 * LOG_TWO_PI, axis=1)
    exact = between + cells.log_density_within(sd).sum(axis=1)
    return np.asarray(exact + cells.jacobian.sum())


def _at_observed(problem: SingleCalibration, runs: xr.Dataset, place: Ints) -> Array:
    """Return what was simulated at every observed cell (D, N); between simulated coordinates by the same spline."""
    cells = problem.cells
    out = np.empty((len(place), len(cells.offset)))
    for name in dict.fromkeys(map(str, cells.output)):
        surrogate = problem.surrogate
        if isinstance(surrogate, Superposition):
            of_runs = {source: runs[source].transpose("run", ...).values for source in surrogate.simulated}
            for k in range(cells.experiments):
                rows = np.flatnonzero((cells.output == name) & (cells.experiment == k))
                where = {dim: cells.coords[dim][rows] for dim in surrogate.layouts[name].dims}
                own = {source: values[place[:, k]] for source, values in of_runs.items()}
                out[:, rows] = surrogate.superposed(name, where, own)
            continue
        layout = surrogate.layouts[name]
        values = layout.transform.forward(runs[name].transpose("run", *layout.dims).values)
        for k in range(cells.experiments):
            rows = np.flatnonzero((cells.output == name) & (cells.experiment == k))
            curves = values[place[:, k]]
            if not layout.dims:
                out[:, rows] = curves[:, None]
            elif len(layout.dims) == 1:
                dim = layout.dims[0]
                grid = layout.coords[dim]
                order = np.argsort(grid)
                spline = make_interp_spline(grid[order], curves[:, order], k=min(3, len(grid) - 1), axis=1)
                out[:, rows] = spline(cells.coords[dim][rows])
            else:
                at = [np.abs(layout.coords[d][:, None] - cells.coords[d][rows]).argmin(axis=0) for d in layout.dims]
                flat = np.ravel_multi_index(at, layout.shape)
                out[:, rows] = curves.reshape(len(curves), -1)[:, flat]
    return out


def _weights(ratio: Array) -> tuple[float, Array | None]:
    """Return k-hat and the smoothed weights, where there are enough draws and the tail is light enough."""
    if len(ratio) < LEAST_DRAWS or not np.isfinite(ratio).all():
        return float("nan"), None
    found = smoothed(ratio)
    return found.k_hat, found.weights if found.trusted else None


# ------------------------------------------------------------------------------------------------ with the new runs
def with_runs(
    surrogate: object, runs: xr.Dataset, *, rescaled: bool = False
) -> GaussianProcessSurrogate | Chain | None:
    """Return the surrogate conditioned on more runs, with its hyperparameters and bases; None where it cannot be.

    That is the case of noisy simulators, of cheap models, and of runs that are used in part. With `rescaled` variances
    are those that the errors of the new runs show, see `_scales`: then it is a surrogate for where these are. Of a
    chain each member is conditioned on what it was given and gave in the runs, in which its error is seen by itself.
    """
    if isinstance(surrogate, Chain):
        return _chain_with_runs(surrogate, runs, rescaled)
    return _process_with_runs(surrogate, runs, rescaled)


def _chain_with_runs(chain: Chain, runs: xr.Dataset, rescaled: bool) -> Chain | None:
    found: dict[str, GaussianProcessSurrogate] = {}
    for name, member in chain.members.items():
        same = [one for one, other in chain.members.items() if other is member]
        if same[0] in found:
            found[name] = found[same[0]]
            continue
        own = xr.concat([chain.member_runs(runs, one) for one in same], "run", combine_attrs="override")
        conditioned = _process_with_runs(member, own, rescaled)
        if conditioned is None:
            return None
        found[name] = conditioned
    return Chain(links=chain.links, **found)


def _process_with_runs(surrogate: object, runs: xr.Dataset, rescaled: bool) -> GaussianProcessSurrogate | None:
    if not isinstance(surrogate, GaussianProcessSurrogate) or surrogate.physics or surrogate.noise:
        return None
    process = surrogate.process
    if process.noise.any() or process.nugget.any():
        return None
    u = np.asarray(surrogate.domain.to_unit(table.input_array(runs, surrogate.domain.names)))
    distance = np.asarray(KDTree(process.x).query(u, p=np.inf)[0])
    first = np.unique(np.round(u / SAME), axis=0, return_index=True)[1]
    rows = np.sort(first[distance[first] > SAME])
    full, values = [], []
    for name, layout in surrogate.layouts.items():
        offset, basis, _ = surrogate.decode(name)
        seen = layout.transform.forward(runs[name].transpose("run", *layout.dims).values[rows].reshape(len(rows), -1))
        full.append(basis)
        values.append(seen - offset)
    scores = np.linalg.lstsq(np.vstack(full), np.hstack(values).T, rcond=None)[0].T
    scale = _scales(surrogate, u[rows], scores) if rescaled else np.ones((process.draws, process.q))
    bases = []
    for one, every, value in zip(surrogate.bases, full, values, strict=True):
        rest = value - scores @ every.T
        size, factor = float(np.sum(one.truncation**2)), 1.0
        if rescaled and size:
            factor = math.sqrt(_scale(float(np.sum(rest**2)) / size, len(rest)))
        left = np.vstack([one.left_out, rest @ np.linalg.pinv(one.truncation).T]) / factor
        bases.append(replace(one, truncation=factor * one.truncation, left_out=left))
    y = process.y.copy()
    for j in range(process.q):
        y[~process.known(j), j] = np.nan
    x, y = np.vstack([process.x, u[rows]]), np.vstack([y, scores])
    columns = process.beta.shape[2]
    draws = [
        condition(
            process.kernel,
            x,
            y,
            columns,
            [
                Hyperparameters(process.ell[h, j], float(process.nugget[h, j]), 0.0, 0.0, 0, False)
                for j in range(process.q)
            ],
            list(scale[h] * process.variance[h]),
        )
        for h in range(process.draws)
    ]
    attrs = {**surrogate.attrs, "runs_verified": str(len(rows))}
    held_out = np.hstack([process.held_out, np.where(process.held_out.any(axis=1)[:, None], scores.T, 0.0)])
    conditioned = replace(average(draws), log_weights=process.log_weights, local=process.local, held_out=held_out)
    return replace(surrogate, process=conditioned, bases=tuple(bases), attrs=MappingProxyType(attrs))


def _scales(surrogate: GaussianProcessSurrogate, u: Array, scores: Array) -> Array:
    """Return by how much variances (H, q) are off, from scores (m, q) at new inputs (m, d).

    It is the mean of an inverse-gamma law, from the squares of the errors along the eigenvectors of their covariance,
    in sds: what is left when the new runs are known is an error between such points. Contrasts that are known to
    rounding say nothing, and fewer than `FEWEST` do not change the variances.
    """
    found = np.ones((surrogate.process.draws, surrogate.process.q))
    if not len(u):
        return found
    told = surrogate.scores(u)
    for h, j in np.ndindex(*found.shape):
        size, along = np.linalg.eigh(told.covariance[h, j])
        seen = size > max(ROUNDING * size[-1], LOST * len(u) * surrogate.process.variance[h, j])
        z = along[:, seen].T @ (scores[:, j] - told.mean[h, :, j]) / np.sqrt(size[seen])
        found[h, j] = _scale(float(z @ z), len(z))
    return found


def _scale(square: float, count: int) -> float:
    """Return by how much a variance is off, from the sum of squares of standard errors that it states."""
    return 1.0 if count < FEWEST else (PRIOR_RUNS + square) / (PRIOR_RUNS + count - 2.0)


def _more_runs(
    problem: SingleCalibration,
    surrogate: GaussianProcessSurrogate | Chain | None,
    theta: Mapping[str, Array],
    ratio: Array,
    judged: pd.DataFrame,
    weights: Array | None,
) -> int | None:
    """Return about how many more runs it takes until draws can be reweighted.

    With few draws those that are missing; otherwise so many that the sd of r where the simulator's posterior is falls
    to 1, foretold by the surrogate's variance given these runs and still more of them (variances need no outputs).
    Errors that were larger than the surrogate says are taken to stay so.
    """
    if weights is not None:
        return 0
    if len(ratio) < LEAST_DRAWS:
        return LEAST_DRAWS - len(ratio)
    if not isinstance(surrogate, GaussianProcessSurrogate) or not np.isfinite(ratio).all():
        return None
    cells = problem.cells
    most = max(1, MOST_POINTS // cells.experiments)
    rng = np.random.default_rng(0)
    likely = _tempered(ratio, TARGETS)
    rows, others = (rng.choice(len(ratio), size=size, p=likely) for size in (TARGETS, most))
    at = {name: values[rows] for name, values in theta.items()}
    u, pool = (_beside(problem, theta, picked, likely, rng) for picked in (rows, others))
    inflation = float(np.nanmax(np.append(judged["mahalanobis"].to_numpy(dtype=np.float64), 1.0)))
    steps = [step for step in (0, 10, 20, 40, 80, 160, 240) if step <= most]
    for step in steps:
        if math.sqrt(inflation * _foretold(problem, surrogate, at, u, pool[:step])) <= SPREAD:
            return step * cells.experiments
    return None


def _tempered(ratio: Array, least: int) -> Array:
    """Return weights exp(p r) of the draws, with the largest p <= 1 that leaves an effective sample of `least`."""
    for power in 0.5 ** np.arange(40):
        weights = np.exp(power * (ratio - ratio.max()))
        weights /= weights.sum()
        if 1.0 / np.sum(weights**2) >= least:
            break
    return np.asarray(weights)


def _beside(
    problem: SingleCalibration, theta: Mapping[str, Array], rows: Ints, weights: Array, rng: np.random.Generator
) -> Array:
    """Return inputs (n, K, d) in the unit cube beside draws, as new draws of the simulator's posterior would lie."""
    u = problem.unit_inputs({name: theta[name] for name in problem.parameters})
    columns = [problem.surrogate.domain.names.index(name) for name in problem.parameters]
    inner = u[:, 0, columns]
    spread = np.sqrt(weights @ (inner - weights @ inner) ** 2)
    out = u[rows].copy()
    gap = spread * len(weights) ** (-1.0 / len(columns))  # about that between neighbouring draws
    out[:, :, columns] += gap * rng.standard_normal((len(rows), 1, len(columns)))
    return out


def _foretold(
    problem: SingleCalibration, surrogate: GaussianProcessSurrogate, theta: Mapping[str, Array], u: Array, pool: Array
) -> float:
    """Return the variance of r at inputs u (T, K, d) when the pool (M, K, d) has been run too."""
    cells = problem.cells
    targets, experiments, d = u.shape
    points = np.vstack([u.reshape(-1, d), pool.reshape(-1, d)])
    scores = surrogate.scores(points)
    h = int(np.argmax(scores.log_weights))
    known = targets * experiments
    mean = scores.mean[h, :known].reshape(targets, experiments, -1)
    covariance = np.zeros((targets, len(cells.offset), len(cells.offset)))
    e = cells.experiment
    for j in cells.used:
        joint = scores.covariance[h, j]
        between, within = joint[:known, known:], joint[known:, known:]
        jitter = 1e-9 * (float(np.trace(within)) / max(len(within), 1) + 1e-300) * np.eye(len(within))
        left = joint[:known, :known] - between @ np.linalg.solve(within + jitter, between.T)
        for t in range(targets):
            own = left[t * experiments : (t + 1) * experiments, t * experiments : (t + 1) * experiments]
            covariance[t] += own[np.ix_(e, e)] * np.outer(cells.basis[:, j], cells.basis[:, j])
    predicted, gain = cells.responded(cells.offset + np.einsum("snq,nq->sn", mean[:, e], cells.basis))
    covariance *= gain[:, :, None] * gain[:, None, :]
    sigma = problem.noise.sds(cells.group, problem.noise.phi(theta, (targets,)), predicted)
    noise = sigma**2 / cells.weight
    slope = (cells.cell_mean - predicted) / noise
    scaled = covariance / noise[:, :, None]
    linear = np.einsum("tn,tnm,tm->t", slope, covariance, slope)
    square = 0.5 * np.einsum("tnm,tmn->t", scaled, scaled)
    return float(np.median(linear + square))

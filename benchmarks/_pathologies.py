"""Calibrations that should not be believed: 28 kinds of faults, each drawn anew from a seed on one of five bases.

The bases, with their numbers of measurements, noise and effective degrees of freedom, are those of `_bases.py`. Faults
of draws, data and model are here, with the list of all; those of surrogates and runs are in `_pathologies_runs.py`.

| kind | what is wrong |
|---|---|
| error overstated, understated, by 2 and by 4 | the process is scaled; the simulator is a draw of the right one |
| truncation | a basis of one score leaves out as much as the noise |
| rough simulator | the solver scatters by half to one noise sd |
| box too small, prior wider than the box, five runs | where and how much was run |
| missed mode, stuck chain, runaway chain, aborted chain, one chain, few effective draws, funnel | the draws |
| structured misfit of 1 and 2 noise sds | a smooth function is added to the data |
| correlated residuals | errors with a correlation length of three spacings |
| outliers | two measurements are off by 8 noise sds |
| noise sd too small, too large | stated a third, and three times, of what it is |
| wrong units | measurements are a thousand times too large or too small |
| refuted noise prior, refuted parameter prior | scale a seventh; 6 sds off |
| prior-dominated parameter, unidentified pair | the data do not tell |
| one subject with another simulator | in a population of eight |

Even seeds are ``seen``: checks may be mended on them; odd ones are ``unseen``.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from _bases import (
    BASES,
    CHAINS,
    CURVES,
    DRAWS,
    SINGLE,
    TWO,
    Array,
    Base,
    Part,
    Study,
    exact_draws,
    exact_posterior,
    posterior_of,
    study_of,
)
from _faults import Case, Fault, faulty, likelihood_ratio, of_squares, with_draws
from _pathologies_runs import RUNS
from scipy.stats import t as student

import uqms as uq
from uqms.surrogates import GaussianProcessSurrogate, Layout
from uqms.surrogates.outputs import OutputBasis
from uqms.surrogates.process import ScoreProcess


def _base(seed: int, among: tuple[Base, ...] = BASES) -> Base:
    return among[seed // 2 % len(among)]


# ---------------------------------------------------------------------------------------------------------------- clean
def clean_study(seed: int) -> Study:
    """Return a right calibration of any base: with and without a surrogate, 1 or 3 replicates, noise known or not."""
    rng = np.random.default_rng([seed, 7])
    base = BASES[seed % 5]
    runs = 15 * (1 + len(base.space.names)) if rng.random() < 0.5 else 0
    replicates = int(rng.choice([1, 3]))
    return study_of(base, seed, rng, known=bool(rng.random() < 0.5), runs=runs, replicates=replicates)[0]


# ---------------------------------------------------------------------------------------------------------------- draws
def missed_mode(seed: int) -> Case:
    """Judge chains that each stay in the mode of their start: the rate is the square of the first parameter."""
    rng = np.random.default_rng([seed, 30])
    base = _base(seed, CURVES)
    space = uq.ParameterSpace(root=uq.Uniform(-1.5, 1.5), **{k: v for k, v in base.space.priors.items() if k != "rate"})

    def function(theta: Mapping[str, Any], t: Any) -> Array:
        others = {name: value for name, value in theta.items() if name != "root"}
        return base.parts[0].function({**others, "rate": theta["root"] ** 2}, t)

    two = Base(base.name, space, (base.parts[0]._replace(function=function),))
    study, truth = study_of(two, seed, rng, known=bool(rng.random() < 0.5))
    while abs(truth["root"]) < 0.5:
        study, truth = study_of(two, seed, rng, known=bool(rng.random() < 0.5))
    study, problem, _ = with_draws(study, seed)
    theta = exact_draws(problem, rng, 20_000)
    first = rng.random() < 0.5  # whether all chains are in one mode
    sides = np.full(CHAINS, rng.random() < 0.5) if first else rng.permutation([True, False, False, False])
    rows = np.concatenate([rng.choice(np.flatnonzero((theta["root"] > 0) == side), DRAWS) for side in sides])
    some = {name: values[rows] for name, values in theta.items()}
    return Case(study, posterior_of(problem, some, seed), theta, truth=truth)


def stuck_chain(seed: int) -> Case:
    """Judge a right problem of which one chain stayed at its start, a prior draw."""
    rng = np.random.default_rng([seed, 19])
    study, truth = study_of(_base(seed), seed, rng, known=False)
    study, problem, right = with_draws(study, seed)
    theta = {name: values.copy() for name, values in right.items()}
    for name, values in problem.prior_draws(1, seed).items():
        at = values[0] + 0.1 * (theta[name][-DRAWS:] - theta[name].mean())
        low, high = problem.limits(name)
        theta[name][-DRAWS:] = np.clip(at, low + 1e-9, high - 1e-9)
    return Case(study, posterior_of(problem, theta, seed), right, truth=truth)


def runaway_chain(seed: int) -> Case:
    """Judge a right problem of which one chain ran to a noise sd of nearly zero, in a corner of the prior."""
    rng = np.random.default_rng([seed, 31])
    study, truth = study_of(_base(seed), seed, rng, known=False)
    study, problem, right = with_draws(study, seed)
    theta = {name: values.copy() for name, values in right.items()}
    for name in problem.priors:
        if name in problem.parameters:
            low, high = (float(problem.priors[name].quantile(q)) for q in (1e-4, 1.0 - 1e-4))
            theta[name][-DRAWS:] = (low if rng.random() < 0.5 else high) + 1e-6 * (high - low) * rng.standard_normal(
                DRAWS
            )
            theta[name][-DRAWS:] = np.clip(theta[name][-DRAWS:], low, high)
        else:
            theta[name][-DRAWS:] = 1e-11 * np.exp(0.1 * rng.standard_normal(DRAWS))
    return Case(study, posterior_of(problem, theta, seed), right, truth=truth)


def aborted_chain(seed: int) -> Case:
    """Judge a right problem whose last chain broke off: the rest of it is NaN, or all chains were cut short."""
    rng = np.random.default_rng([seed, 14])
    study, truth = study_of(_base(seed), seed, rng, known=False)
    study, problem, right = with_draws(study, seed)
    if rng.random() < 0.5:
        return Case(study, posterior_of(problem, right, seed, asked=2 * DRAWS), right, truth=truth)
    theta = {name: values.copy() for name, values in right.items()}
    for values in theta.values():
        values[-int(rng.integers(1, DRAWS)) :] = np.nan
    try:
        return Case(study, posterior_of(problem, theta, seed), right, truth=truth)
    except uq.errors.ConformanceError as error:  # draws that are not finite never become a posterior
        return Case(study, None, right, raised=str(error), truth=truth)


def one_chain(seed: int) -> Case:
    """Judge a right problem of which there is one chain."""
    rng = np.random.default_rng([seed, 15])
    study, truth = study_of(_base(seed), seed, rng, known=False)
    study, problem, right = with_draws(study, seed)
    some = {name: values[: 2 * DRAWS] for name, values in right.items()}
    return Case(study, posterior_of(problem, some, seed, chains=1), right, truth=truth)


def few_draws(seed: int) -> Case:
    """Judge chains that move slowly: an autoregression in normal scores, of correlation 0.95 to 0.99."""
    rng = np.random.default_rng([seed, 32])
    study, truth = study_of(_base(seed), seed, rng, known=False)
    study, problem, right = with_draws(study, seed)
    rho = 1.0 - np.exp(rng.uniform(np.log(0.01), np.log(0.05)))
    names = list(right)
    order = np.argsort(right[names[0]])
    theta = {name: values.copy() for name, values in right.items()}
    for chain in range(CHAINS):
        state = np.empty(DRAWS)
        state[0] = rng.standard_normal()
        for i in range(1, DRAWS):
            state[i] = rho * state[i - 1] + np.sqrt(1.0 - rho**2) * rng.standard_normal()
        from scipy.special import ndtr

        rows = order[np.minimum((ndtr(state) * len(order)).astype(int), len(order) - 1)]
        for name in names:
            theta[name][chain * DRAWS : (chain + 1) * DRAWS] = right[name][rows]
    return Case(study, posterior_of(problem, theta, seed), right, truth=truth)


def funnel_problem(seed: int) -> Any:
    """Return a funnel: as many unknown levels as measurements, with a noise that is hardly known (Neal 2003).

    The surrogate is given, not fitted: each output is its level, with a tiny error that is constant over the box.
    """
    rng = np.random.default_rng([seed, 16])
    d, half_width, error = 6, 12.0, 1e-3
    names = tuple(f"level_{i}" for i in range(d))
    space = uq.ParameterSpace(**{name: uq.Normal(0.0, 3.0) for name in names})
    process = ScoreProcess(
        kernel=uq.Matern52(),
        x=np.full((1, d), 1e12),
        y=np.zeros((1, d)),
        ell=np.full((1, d, d), 1e7),
        variance=np.full((1, d), error**2),
        nugget=np.zeros((1, d)),
        jitter=np.zeros((1, d)),
        beta=np.column_stack([np.full(d, -half_width), 2.0 * half_width * np.eye(d)])[None],
        target=np.zeros((1, d, 1)),
        inverse_factor=np.full((1, d, 1, 1), 1.0 / error),
        trend_factor=np.zeros((1, d, 1, d + 1)),
        trend_root=np.zeros((1, d, d + 1, d + 1)),
        log_weights=np.zeros(1),
    )
    box = uq.Box(names, (-half_width,) * d, (half_width,) * d, ("identity",) * d, ((False, False),) * d)
    times = np.arange(float(d))
    output = OutputBasis("y", Layout(("t",), {"t": times}), np.zeros(d), np.eye(d), np.zeros((d, 0)), np.zeros(d))
    surrogate = GaussianProcessSurrogate(box, process, (output,), {"space": space.to_json()})
    values = xr.DataArray(rng.standard_normal(d), dims="t", coords={"t": times}, name="y")
    return uq.Calibration(surrogate, values, uq.GaussianNoise(sd=uq.LogNormal(0.3, 1.5)))


def funnel(seed: int) -> Case:
    """Sample a funnel with the default settings; reference: particles."""
    problem = funnel_problem(seed)
    posterior = problem.sample(uq.NUTS(draws=500, tune=500), rng=seed)
    reference = problem.sample(uq.SMC(particles=4000), rng=seed).flat()
    study = Study((), posterior.problem.space, seed, (), ())
    return Case(study, posterior, reference)


# ------------------------------------------------------------------------------------------------------- data and model
def _smooth(part: Part, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return a draw of a smooth function of sd 1 at a part's places, and its covariance."""
    at = (part.at - part.at.min()) / np.ptp(part.at)
    covariance = np.exp(-0.5 * ((at[:, None] - at) / rng.uniform(0.2, 0.5)) ** 2)
    root = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(at)))
    return root @ rng.standard_normal(len(at)), covariance


def _block(blocks: list[Array]) -> Array:
    from scipy.linalg import block_diag

    return np.asarray(block_diag(*blocks))


def structured(size: float) -> Callable[[int], Case]:
    """Return the kind whose data have a smooth misfit of `size` noise sds, the noise being known."""

    def draw(seed: int) -> Case:
        rng = np.random.default_rng([seed, 33])
        study, truth = study_of(_base(seed), seed, rng)
        values, blocks = [], []
        for part, one in zip(study.parts, study.values, strict=True):
            delta, covariance = _smooth(part, rng)
            values.append(one + size * part.sd * delta[:, None])
            blocks.append((size * part.sd) ** 2 * covariance)
        wrong = replace(study, values=tuple(values))
        oracle = likelihood_ratio(wrong, truth, _block(blocks))
        return faulty(wrong, study, seed, truth=truth, oracle=oracle)

    return draw


def correlated(seed: int) -> Case:
    """Judge errors that are correlated over three spacings, taken as independent; their sd is known or inferred."""
    rng = np.random.default_rng([seed, 34])
    base = _base(seed, (*CURVES, BASES[4]))
    study, truth = study_of(base, seed, rng, known=bool(rng.random() < 0.5))
    values, blocks, noise = [], [], []
    for part in study.parts:
        length = 3.0 * float(part.at[1] - part.at[0])
        covariance = part.sd**2 * np.exp(-np.abs(part.at[:, None] - part.at) / length)
        errors = np.linalg.cholesky(covariance) @ rng.standard_normal(len(part.at))
        values.append((part.function(truth, part.at) + errors)[:, None])
        blocks.append(covariance - part.sd**2 * np.eye(len(part.at)))
        noise.append(uq.AutocorrelatedNoise(sd=part.sd, length=length, white=0.01 * part.sd))
    wrong = replace(study, values=tuple(values))
    return faulty(
        wrong,
        replace(wrong, noise=tuple(noise)),
        seed,
        truth=truth,
        oracle=likelihood_ratio(wrong, truth, _block(blocks)),
    )


def outliers(seed: int) -> Case:
    """Judge two measurements that are off by 8 noise sds; the noise is known or inferred."""
    rng = np.random.default_rng([seed, 35])
    study, truth = study_of(_base(seed), seed, rng, known=bool(rng.random() < 0.5))
    part, values = study.parts[0], [one.copy() for one in study.values]
    rows = rng.choice(len(part.at), 2, replace=False)
    values[0][rows, 0] += 8.0 * part.sd * rng.choice([-1.0, 1.0], 2)
    wrong = replace(study, values=tuple(values))
    return faulty(wrong, study, seed, truth=truth, oracle=_largest(wrong, truth))


def _largest(study: Study, truth: Mapping[str, float]) -> float:
    """Return p of the largest residual of the first part, the two largest left out of the scatter (Bonferroni)."""
    part = study.parts[0]
    residual = np.sort(np.abs(study.values[0][:, 0] - part.function(truth, part.at)))
    freedom = len(residual) - 2 - len(study.space.names)
    sd = np.sqrt(np.sum(residual[:-2] ** 2) / freedom)
    return float(min(1.0, 2.0 * len(residual) * student.sf(residual[-1] / sd, freedom)))


def noise_sd(factor: float) -> Callable[[int], Case]:
    """Return the kind that states `factor` times the noise sd."""

    def draw(seed: int) -> Case:
        rng = np.random.default_rng([seed, 36])
        study, truth = study_of(_base(seed), seed, rng)
        wrong = replace(study, noise=tuple(uq.GaussianNoise(sd=factor * part.sd) for part in study.parts))
        return faulty(wrong, study, seed, truth=truth, oracle=of_squares(study, truth, factor))

    return draw


def wrong_units(seed: int) -> Case:
    """Judge measurements in a unit a thousand times smaller or larger than that of the simulator."""
    rng = np.random.default_rng([seed, 17])
    study, truth = study_of(_base(seed), seed, rng, known=bool(rng.random() < 0.5))
    factor = float(rng.choice([1000.0, 0.001]))
    wrong = replace(study, values=tuple(factor * one for one in study.values))
    return faulty(wrong, study, seed, truth=truth, unit=factor)


def refuted_noise_prior(seed: int) -> Case:
    """Judge a noise prior whose scale is a seventh of the residuals' sd."""
    rng = np.random.default_rng([seed, 18])
    study, truth = study_of(_base(seed), seed, rng, known=False)
    noise = tuple(uq.GaussianNoise(sd=uq.HalfNormal(part.sd / 7.0)) for part in study.parts)
    return faulty(replace(study, noise=noise), study, seed, truth=truth)


def refuted_prior(seed: int) -> Case:
    """Judge a normal or log-normal prior of the first parameter whose centre is 6 of its sds from the truth."""
    rng = np.random.default_rng([seed, 37])
    base = _base(seed)
    study, truth = study_of(base, seed, rng)
    name = base.space.names[0]
    sd = float(exact_draws(study.problem(), rng)[name].std()) * rng.uniform(1.5, 3.0)
    centre = truth[name] + 6.0 * sd  # upwards: the range of these parameters is positive
    prior = (
        uq.Normal(centre, sd)
        if rng.random() < 0.5
        else uq.LogNormal(truth[name] * np.exp(6.0 * sd / truth[name]), sd / truth[name])
    )
    space = uq.ParameterSpace(**{**base.space.priors, name: prior})
    return faulty(replace(study, space=space), study, seed, truth=truth)


def prior_dominated(seed: int) -> Case:
    """Judge a parameter whose effect is a twentieth of the noise; it could be measured by itself."""
    rng = np.random.default_rng([seed, 38])
    base = _base(seed, SINGLE)
    part = base.parts[0]

    def function(theta: Mapping[str, Any], places: Any) -> Array:
        return part.function(theta, places) + 0.02 * part.sd * theta["drift"] * np.asarray(places)

    space = uq.ParameterSpace(**base.space.priors, drift=uq.Normal(0.0, 1.0))
    weak = Base(base.name, space, (part._replace(function=function),))
    study, truth = study_of(weak, seed, rng)
    extra = Part("direct", lambda theta, at: np.asarray(theta["drift"] * at), np.linspace(0.8, 1.2, 4), False, 0.2)
    return faulty(study, study, seed, truth=truth, extra=(extra,))


def unidentified_pair(seed: int) -> Case:
    """Judge data that depend on a product, a sum or a ratio of two parameters; one could be measured by itself."""
    rng = np.random.default_rng([seed, 9])
    log = uq.ParameterSpace(a=uq.LogUniform(0.3, 3.0), b=uq.LogUniform(0.3, 3.0))
    flat = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
    kinds: tuple[tuple[uq.ParameterSpace, Any], ...] = (
        (log, lambda theta, t: np.exp(-theta["a"] * theta["b"] * t)),
        (flat, lambda theta, t: np.exp(-(theta["a"] + theta["b"]) * t)),
        (log, lambda theta, t: theta["a"] / theta["b"] * t / (1.0 + t)),
    )
    space, curve = kinds[seed // 2 % 3]
    base = Base("pair", space, (Part("", curve, np.linspace(0.1, 3.0, 12), False, 0.02),))
    study, truth = study_of(base, seed, rng, runs=40)
    extra = Part("direct", lambda theta, at: np.asarray(theta["b"] * at), np.linspace(0.9, 1.1, 4), False, 0.02)
    return faulty(study, study, seed, truth=truth, extra=(extra,))


def one_subject(seed: int) -> Case:
    """Sample a population of eight of which one eliminates at a constant speed in the place of a constant rate."""
    rng = np.random.default_rng([seed, 39])
    times, sd = np.linspace(0.3, 4.0, 8), 0.05
    rates = 0.7 * np.exp(0.25 * rng.standard_normal(8))
    right = np.exp(-rates[:, None] * times) + sd * rng.standard_normal((8, 8))
    wrong = right.copy()
    other = int(rng.integers(8))
    wrong[other] += np.maximum(1.0 - 0.5 * rates[other] * times, 0.0) - np.exp(-rates[other] * times)
    posteriors = [_population(values, times, sd).sample(uq.NUTS(), rng=seed) for values in (wrong, right)]
    study = Study((), TWO, seed, (), ())

    def without(name: str) -> Any:
        others = np.delete(wrong, int(name.removeprefix("s")), axis=0)
        return _population(others, times, sd).sample(uq.NUTS(), rng=seed)

    return Case(study, posteriors[0], posteriors[1].flat(), truth={}, without=without)


def _population(values: Array, times: Array, sd: float) -> Any:
    import pytensor.tensor as pt

    space = uq.ParameterSpace(rate=uq.LogNormal(0.7, 0.5))
    drug = uq.DirectSimulator(
        lambda rate: pt.exp(-rate * times), space=space, outputs={"y": ("t",)}, coords={"t": times}, backend="pytensor"
    )
    who = np.repeat([f"s{i}" for i in range(len(values))], len(times))
    table = pd.DataFrame({"who": who, "t": np.tile(times, len(values)), "y": values.ravel()})
    data = uq.Observations.from_table(table, output="y", value="y", coords={"t": "t"}, subject="who")
    population = uq.Population(space, individual=("rate",), spread=uq.HalfNormal(0.5))
    return uq.Calibration(drug, data, uq.GaussianNoise(sd=sd), population=population)


RESIDUALS = ("autocorrelated residuals", "predictive misfit", "outliers")
PATHOLOGIES: dict[str, Fault] = {
    **RUNS,
    "missed mode": Fault(missed_mode, ("R-hat", "other modes")),
    "stuck chain": Fault(stuck_chain, ("R-hat", "other modes")),
    "runaway chain": Fault(runaway_chain, ("R-hat", "other modes")),
    "aborted chain": Fault(aborted_chain, ("finite draws", "refused")),
    "one chain": Fault(one_chain, ("R-hat",)),
    "few effective draws": Fault(few_draws, ("R-hat", "ESS")),
    "funnel": Fault(funnel, ("divergences", "energy", "R-hat", "ESS")),
    "structured misfit of 1 sd": Fault(structured(1.0), RESIDUALS, "likelihood ratio"),
    "structured misfit of 2 sds": Fault(structured(2.0), RESIDUALS, "likelihood ratio"),
    "correlated residuals": Fault(correlated, RESIDUALS, "likelihood ratio"),
    "outliers": Fault(outliers, RESIDUALS, "largest residual"),
    "noise sd too small": Fault(noise_sd(1.0 / 3.0), RESIDUALS, "sum of squares"),
    "noise sd too large": Fault(noise_sd(3.0), RESIDUALS, "sum of squares"),
    "wrong units": Fault(wrong_units, ("prior predictions", "prior against data", "end of a prior")),
    "refuted noise prior": Fault(refuted_noise_prior, ("prior against data",)),
    "refuted parameter prior": Fault(refuted_prior, ("prior against data", "end of a prior", "prior predictions")),
    "prior-dominated parameter": Fault(prior_dominated, ("prior-dominated",)),
    "unidentified pair": Fault(unidentified_pair, ("confounded",)),
    "one subject with another simulator": Fault(one_subject, RESIDUALS),
}


def clean(seed: int) -> Case:
    """Judge a right calibration with exact draws."""
    study = clean_study(seed).fitted()
    return Case(study, exact_posterior(study.problem(), seed), None)

"""Five small calibrations of known size, what a user has of one (`Study`), and exact draws of its posterior.

| base | parameters | measurements | noise sd | effective degrees of freedom |
|---|---|---|---|---|
| one rate | rate | curve, 12 times | 0.05 of 1 | 1 |
| two parameters | rate, size | curve, 15 times | 0.05 of 1 | 2 |
| three parameters | rate, size, level | curve, 25 times | 0.03 of 1.5 | 2.9 |
| condition | most, half | scalar under 12 conditions | 0.05 of 1 | 2 |
| two parts | rate, size | curves of 8 times of two surrogates | 0.05, 0.04 | 2 |

Effective degrees of freedom are the trace of I (1 + I)^-1, I being the Fisher information in units of the prior's sds,
in the median over the prior. Each base is calibrated with the simulator itself (`runs` = 0) or through a surrogate.
Draws are exact (importance resampling), which costs a fraction of sampling and leaves no doubt about them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy.special import ndtr, ndtri
from scipy.stats import multivariate_t

import uqms as uq
from uqms.calibration.posterior import Posterior, build_posterior
from uqms.calibration.starts import starting_points

Array = np.ndarray
type Function = Callable[[Mapping[str, Any], Any], Array]

CHAINS, DRAWS = 4, 500
PROPOSALS, CLOUD, STARTS = 6_000, 256, 64
FREEDOM = 5


class Part(NamedTuple):
    """What is measured of one simulator: parameters by name (n, 1) and places (m,) to outputs (n, m)."""

    name: str  # "" where it is the only one
    function: Function
    at: Array
    conditional: bool  # whether the places are conditions of a scalar; otherwise they are the coordinate of a curve
    sd: float


class Base(NamedTuple):
    """A row of the table above."""

    name: str
    space: uq.ParameterSpace
    parts: tuple[Part, ...]


def _decay(theta: Mapping[str, Any], t: Any) -> Array:
    return np.asarray(theta.get("level", 0.0) + theta.get("size", 1.0) * np.exp(-theta["rate"] * t))


def _excreted(theta: Mapping[str, Any], t: Any) -> Array:
    return np.asarray(theta["size"] * (1.0 - np.exp(-theta["rate"] * t)))


def _saturating(theta: Mapping[str, Any], x: Any) -> Array:
    return np.asarray(theta["most"] * x / (theta["half"] + x))


def _times(count: int, last: float = 4.0) -> Array:
    return np.linspace(0.1, last, count)


TWO = uq.ParameterSpace(rate=uq.LogNormal(0.7, 0.5), size=uq.Uniform(0.5, 2.0))
BASES = (
    Base(
        "one rate",
        uq.ParameterSpace(rate=uq.Uniform(0.2, 2.0)),
        (Part("", _decay, _times(12), False, 0.05),),
    ),
    Base("two parameters", TWO, (Part("", _decay, _times(15), False, 0.05),)),
    Base(
        "three parameters",
        uq.ParameterSpace(rate=uq.Uniform(0.4, 2.0), size=uq.Normal(1.5, 0.3), level=uq.Normal(0.0, 0.5)),
        (Part("", _decay, _times(25), False, 0.03),),
    ),
    Base(
        "condition",
        uq.ParameterSpace(most=uq.Uniform(0.5, 2.0), half=uq.LogNormal(1.0, 0.4)),
        (Part("", _saturating, np.linspace(0.2, 6.0, 12), True, 0.05),),
    ),
    Base(
        "two parts",
        TWO,
        (Part("plasma", _decay, _times(8), False, 0.05), Part("urine", _excreted, _times(8), False, 0.04)),
    ),
)
SINGLE, CURVES = BASES[:4], BASES[:3]


@dataclass(frozen=True, eq=False)
class Study:
    """What a user has: simulators, priors, measurements, a noise model of each part, and runs or the simulator itself.

    Attributes
    ----------
    parts, space, seed
        Simulators with their places; priors; the design's seed.
    values
        Measurements by part, (m, replicates).
    noise
        By part.
    runs
        Of each design; 0 where the simulator itself is used.
    process
        Settings of the surrogate.
    surrogates
        By part, made already; `fitted` makes them.
    tables
        Their runs by part.
    narrow
        Priors that the design was made for, where they are others.
    options
        More arguments of `uq.Calibration`.
    """

    parts: tuple[Part, ...]
    space: uq.ParameterSpace
    seed: int
    values: tuple[Array, ...]
    noise: tuple[Any, ...]
    runs: int = 0
    process: uq.GaussianProcess = uq.GaussianProcess()
    surrogates: tuple[Any, ...] = ()
    tables: tuple[xr.Dataset, ...] = ()
    narrow: uq.ParameterSpace | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def space_of(self, part: Part) -> uq.ParameterSpace:
        """Return priors, and the condition's range where there is one."""
        space = self.narrow or self.space
        if not part.conditional:
            return space
        low, high = float(part.at.min()), float(part.at.max())
        return uq.ParameterSpace(**space.priors, conditions={"x": uq.Condition(low, high)})

    def table(self, part: Part, design: xr.Dataset) -> xr.Dataset:
        """Return the runs of a design."""
        theta = {name: design[name].values[:, None] for name in self.space.names}
        if part.conditional:
            output = xr.DataArray(part.function(theta, design["x"].values[:, None])[:, 0], dims="run")
        else:
            output = xr.DataArray(part.function(theta, part.at), dims=("run", "t"), coords={"t": part.at})
        return uq.ensemble.build(design, {"y": output})

    def fitted(self) -> "Study":
        """Return the study with its surrogates, or the simulators in their place."""
        if self.surrogates:
            return self
        if not self.runs:
            return replace(self, surrogates=tuple(self._direct(part) for part in self.parts))
        designs = [uq.sobol(self.space_of(part), self.runs, rng=self.seed + i) for i, part in enumerate(self.parts)]
        tables = tuple(self.table(part, design) for part, design in zip(self.parts, designs, strict=True))
        return replace(self, tables=tables, surrogates=tuple(self.process.fit(table) for table in tables))

    def _direct(self, part: Part) -> uq.DirectSimulator:
        def function(**theta: Any) -> Array:
            columns = {name: np.asarray(values)[..., None] for name, values in theta.items()}
            found = part.function(columns, columns.pop("x") if part.conditional else part.at)
            return found[..., 0] if part.conditional else found

        space, coords = self.space_of(part), {} if part.conditional else {"t": part.at}
        return uq.DirectSimulator(
            function, space=space, outputs={"y": tuple(coords)}, coords=coords, vectorized=True, backend="numpy"
        )

    def problem(self) -> Any:
        """Return the calibration."""
        one = self.fitted()
        data = [_observations(part, values) for part, values in zip(one.parts, one.values, strict=True)]
        if len(one.parts) == 1:
            return uq.Calibration(one.surrogates[0], data[0], one.noise[0], space=one.space, **one.options)
        names = [part.name for part in one.parts]
        pairs = dict(zip(names, zip(one.surrogates, data, strict=True), strict=True))
        noise = dict(zip(names, one.noise, strict=True))
        return uq.Calibration(pairs, noise=noise, space=one.space, **one.options)


def _observations(part: Part, values: Array) -> Any:
    if not part.conditional:
        return xr.DataArray(values, dims=("t", "replicate"), coords={"t": part.at}, name="y")
    table = xr.DataArray(values, dims=("experiment", "replicate"), name="y").assign_coords(x=("experiment", part.at))
    return uq.Observations.from_xarray(table, conditions=("x",))


def truth_of(space: uq.ParameterSpace, rng: np.random.Generator, inner: float = 0.1) -> dict[str, float]:
    """Return a draw of the priors between their quantiles `inner` and 1 - `inner`."""
    return {name: float(prior.quantile(rng.uniform(inner, 1.0 - inner))) for name, prior in space.priors.items()}


def study_of(
    base: Base, seed: int, rng: np.random.Generator, *, known: bool = True, runs: int = 0, replicates: int = 1
) -> tuple[Study, dict[str, float]]:
    """Return a right study and the true parameters: noise known, or with a half-normal prior of four times its sd."""
    truth = truth_of(base.space, rng)
    values = tuple(
        part.function(truth, part.at).reshape(-1, 1) + part.sd * rng.standard_normal((len(part.at), replicates))
        for part in base.parts
    )
    noise = tuple(uq.GaussianNoise(sd=part.sd if known else uq.HalfNormal(4.0 * part.sd)) for part in base.parts)
    return Study(base.parts, base.space, seed, values, noise, runs), truth


def exact_draws(
    problem: Any, rng: np.random.Generator, count: int = CHAINS * DRAWS, cloud: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Return nearly independent posterior draws of everything inferred, (count,) each.

    A t law around tempered particles, on the scale where priors are standard normal, is weighted exactly and resampled.
    """
    cloud = starting_points(problem, CLOUD, rng) if cloud is None else cloud
    names = list(problem.priors)
    z = np.column_stack([_normal(problem, name, cloud[name]) for name in names])
    spread = 1.3 * np.atleast_2d(np.cov(z.T)) + 1e-10 * np.eye(len(names))
    law = multivariate_t(z.mean(axis=0), spread, FREEDOM, allow_singular=True, seed=rng)
    proposed = np.reshape(law.rvs(PROPOSALS), (PROPOSALS, len(names)))
    theta = {name: _own(problem, name, column) for name, column in zip(names, proposed.T, strict=True)}
    weight = problem.log_likelihood(theta) - 0.5 * np.sum(proposed**2, axis=1) - law.logpdf(proposed)
    weight = np.exp(np.nan_to_num(weight - np.nanmax(weight), nan=-np.inf))
    picked = rng.choice(PROPOSALS, count, p=weight / weight.sum())
    return {name: values[picked] for name, values in theta.items()}


def _own(problem: Any, name: str, z: Array) -> Array:
    prior = problem.priors[name]
    low, high = (float(prior.cdf(end)) for end in problem.limits(name))
    return np.asarray(prior.quantile(low + (high - low) * ndtr(np.clip(z, -6.0, 6.0))))


def _normal(problem: Any, name: str, values: Array) -> Array:
    prior = problem.priors[name]
    low, high = (float(prior.cdf(end)) for end in problem.limits(name))
    return np.clip(ndtri((prior.cdf(values) - low) / (high - low)), -6.0, 6.0)


def posterior_of(
    problem: Any,
    theta: Mapping[str, Array],
    seed: int,
    *,
    chains: int = CHAINS,
    asked: int | None = None,
    cloud: Mapping[str, Array] | None = None,
) -> Posterior:
    """Return the posterior around draws (chains * draws,) that are given; `asked` draws a chain were asked for."""
    dims, shape = ("chain", "draw"), (chains, len(next(iter(theta.values()))) // chains)
    data = xr.Dataset({name: (dims, np.reshape(values, shape)) for name, values in theta.items()})
    data = data.assign_coords(chain=np.arange(chains), draw=np.arange(shape[1]))
    trace = xr.DataTree.from_dict({"posterior": data, "sample_stats": xr.Dataset()})
    sampler = uq.NUTS(draws=asked or shape[1], chains=chains)
    starts = starting_points(problem, CLOUD, np.random.default_rng([seed, 1])) if cloud is None else cloud
    some = {name: values[:STARTS] for name, values in starts.items()}
    trace["starts"] = xr.Dataset({name: (("start", "latent")[: values.ndim], values) for name, values in some.items()})
    return build_posterior(problem, sampler, trace, seed)


def exact_posterior(problem: Any, seed: int) -> Posterior:
    """Return the posterior with exact draws."""
    rng = np.random.default_rng([seed, 2])
    cloud = starting_points(problem, CLOUD, rng)
    return posterior_of(problem, exact_draws(problem, rng, cloud=cloud), seed, cloud=cloud)


def refined(study: Study, posterior: Posterior, seed: int) -> Study:
    """Return the study after a round of runs near the posterior, ten for each parameter."""
    part = study.parts[0]
    places = len(part.at) if part.conditional else 1
    design = uq.refine(posterior, max(10 * len(study.space.names), 2 * places), rng=seed)
    table = uq.ensemble.combine(study.tables[0], study.table(part, design))
    surrogate = study.process.fit(uq.ensemble.inside(table))
    return replace(study, tables=(table,), surrogates=(surrogate,), options={**study.options, "outside": "refined"})


def moved(found: Mapping[str, Array], reference: Mapping[str, Array], names: tuple[str, ...]) -> float:
    """Return how far an end of a parameter's 95 % interval is from that of the reference, in the reference's sds."""
    far = 0.0
    for name in names:
        ends, right = (np.nanquantile(one[name], (0.025, 0.975)) for one in (found, reference))
        far = max(far, float(np.max(np.abs(ends - right)) / np.std(reference[name])))
    return far

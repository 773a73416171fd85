"""Simulation-based calibration: whether posteriors of a whole pipeline contain the truth as often as they say.

Parameters are drawn from the prior, data from the law that the likelihood claims, and the posterior given these data is
computed as usual. The rank of the truth among L nearly independent posterior draws is then uniform on 0...L, for every
parameter and every function of parameters and data. Ranks of parameters alone miss whole classes of mistakes (a
likelihood that ignores data gives back the prior, whose ranks are perfect): the joint log-likelihood is ranked too, and
the misfit, which knows nothing of the likelihood: the squared distance between data and new data simulated at the same
parameters. Of a population the parameters of its first subject are ranked beside; its random effects are drawn with the
data, and are latents of the posterior.

==========  =====================================================================  ======
symbol      meaning                                                                shape
==========  =====================================================================  ======
n           repeats, each with its own truth and data
L           posterior draws of a repeat
u           (rank + 1/2) / (L + 1)                                                 (n,)
==========  =====================================================================  ======

Talts et al. (2018), arXiv:1804.06788; Modrák et al. (2023), doi:10.1214/23-BA1404.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

import numpy as np
import pandas as pd
import xarray as xr

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, ArrayLike, Ints, RandomState, as_generator
from uqms.calibration import NUTS, Calibration, PopulationCalibration
from uqms.calibration.latents import has_conditional
from uqms.calibration.summary import summary_table
from uqms.diagnostics.bands import RankBand, pointwise_level, rank_band
from uqms.diagnostics.importance import FewDraws, ImportanceSampler
from uqms.diagnostics.tempered import TemperedSampler
from uqms.errors import DataError, InputError, SamplingError

__all__ = ["RankStatistics", "rank_statistics", "simulation_based_calibration"]

LOG_LIKELIHOOD, MISFIT, LATENTS = "log_likelihood", "misfit", "latents"
MOST_WEIGHTED = 6  # quantities that importance weights are good for
COPIES = 4  # simulated data sets of each draw behind the misfit
MISSING = -1
TRIES = 1000
DOUBTFUL = 0.02  # share of the fits
NOTABLE = 2.5  # standard errors beyond which a mean or spread is named as the way in which ranks fail
R_HAT = 1.01
BY_CHANCE = 8.0  # / effective draws: what R-hat may be off by chance, twice what four halved chains give on average
INTERVALS = (0.5, 0.9)

Quantity = Callable[[Mapping[str, Array], Any], ArrayLike]


@taught
@final
@dataclass(frozen=True, eq=False)
class RankStatistics:
    """Ranks of truths among posterior draws, and whether they are uniform.

    Attributes
    ----------
    ranks
        One variable a quantity, dims ("repeat",): how many of the posterior draws are below the truth, 0...draws; -1
        where there was no posterior.
    truths
        True parameters of each repeat.
    fits
        One row a repeat: effective sample size, and `doubt`, empty when nothing speaks against the fit.
    draws
        Posterior draws of each repeat, L.
    alpha
        Chance that a right pipeline fails, over all quantities together.
    """

    ranks: xr.Dataset
    truths: xr.Dataset
    fits: pd.DataFrame
    draws: int
    alpha: float

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names of what was ranked."""
        return tuple(str(name) for name in self.ranks.data_vars)

    @cached_property
    def band(self) -> RankBand:
        """The exact band that counts of ranks leave with a chance of alpha / number of quantities."""
        ranked = int(np.count_nonzero(self._ranks(self.quantities[0]) >= 0))
        points = np.arange(1, self.draws + 1) / (self.draws + 1.0)
        return rank_band(ranked, points, 1.0 - self.alpha / len(self.quantities))

    def counts(self, quantity: str) -> Ints:
        """Return how many ranks lie below i at the band's points i / (L + 1), shape (L,)."""
        ranks = self._ranks(quantity)
        found = np.bincount(ranks[ranks >= 0], minlength=self.draws + 1)
        return np.asarray(np.cumsum(found)[:-1], dtype=np.int64)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per quantity: whether it passed, exact p-value, coverage of central intervals, what fails.

        The p-value is that of one quantity, to be compared with alpha / number of quantities.
        """
        rows = {name: self._row(name) for name in self.quantities}
        return pd.DataFrame.from_dict(rows, orient="index")

    @property
    def passed(self) -> bool:
        """Whether all quantities stay in the band, every fit gave a posterior, and at most 2 % of fits are doubtful."""
        return not self.failures

    @property
    def failures(self) -> tuple[str, ...]:
        """What failed and how, in words; empty when all is right."""
        out = [f"{name}: {row['how']}" for name, row in self.table.iterrows() if not row["passed"]]
        n = len(self.fits)
        missing = int(np.count_nonzero(self._ranks(self.quantities[0]) < 0))
        doubtful = self.fits["doubt"][self.fits["doubt"] != ""]
        if missing:
            out.append(f"{missing} of {n} fits gave no posterior, and have no ranks")
        if len(doubtful) > DOUBTFUL * n:
            out.append(f"{len(doubtful)} of {n} fits are doubtful, e.g. repeat {doubtful.index[0]}: {doubtful.iloc[0]}")
        return tuple(out)

    def __str__(self) -> str:
        n, k = len(self.fits), len(self.quantities)
        head = f"Simulation-based calibration, {n} repeats of {self.draws} draws: {'PASS' if self.passed else 'FAIL'}"
        formats: dict[str, Any] = {column: "{:.1%}".format for column in self._covers}
        table = self.table.to_string(formatters={"p_value": "{:.2g}".format, **formats})
        doubtful = int(np.count_nonzero(self.fits["doubt"] != ""))
        foot = f"band of {1 - self.alpha / k:.3%} for each of {k} quantities; {doubtful} doubtful fit(s), none left out"
        return "\n".join([head, table, foot, *(f"FAIL  {text}" for text in self.failures)])

    def __repr__(self) -> str:
        verdict = "passed" if self.passed else f"failed ({'; '.join(self.failures)})"
        return f"<RankStatistics of {', '.join(self.quantities)}: {len(self.fits)} repeats, {verdict}>"

    def _ranks(self, quantity: str) -> Ints:
        if quantity not in self.ranks:
            raise InputError(f"{quantity!r} was not ranked; there are {list(self.quantities)}.")
        return np.asarray(self.ranks[quantity].values)

    @property
    def _covers(self) -> dict[str, int]:
        """Columns of the table about central intervals, and how many ranks lie outside of each on either side."""
        level = self.draws + 1
        cuts = [round(0.5 * (1.0 - inside) * level) for inside in INTERVALS]
        return {f"{1 - 2 * cut / level:.0%} covers": cut for cut in cuts}

    def _row(self, quantity: str) -> dict[str, object]:
        ranks = self._ranks(quantity)
        ranks = ranks[ranks >= 0]
        counts = self.counts(quantity)
        level = self.draws + 1
        row: dict[str, object] = {"passed": self.band.contains(counts)}
        row["p_value"] = pointwise_level(self.band.n, self.band.points, counts)[1]
        for column, cut in self._covers.items():
            row[column] = float(np.mean((ranks >= cut) & (ranks < level - cut)))
        row["how"] = "" if row["passed"] else _how(ranks, level)
        return row


def _how(ranks: Ints, level: int) -> str:
    """Say in words how ranks differ from uniform ones on 0...level - 1."""
    grid = (np.arange(level) + 0.5) / level
    n = len(ranks)

    def off(values: Array) -> float:
        return float((values[ranks].mean() - values.mean()) / (values.std() / np.sqrt(n)))

    shift, spread = off(grid), off(np.abs(2.0 * grid - 1.0))
    words = {
        f"too {'narrow' if spread > 0 else 'wide'}": abs(spread),
        f"too {'low' if shift > 0 else 'high'}": abs(shift),
    }
    named = [text for text, size in sorted(words.items(), key=lambda item: -item[1]) if size > NOTABLE]
    tails = off((np.abs(2.0 * grid - 1.0) > 0.9).astype(np.float64))
    if not named and abs(tails) > NOTABLE:
        named = [f"too {'narrow' if tails > 0 else 'wide'} in the tails"]
    return f"draws {' and '.join(named)}" if named else "ranks uneven, but neither shifted nor too wide or too narrow"


@taught
@single_threaded
def simulation_based_calibration(
    problem: Calibration,
    n: int = 200,
    *,
    sampler: Any = None,
    rng: RandomState | None = None,
    quantities: Mapping[str, Quantity] | None = None,
    draws: int = 99,
    alpha: float = 0.01,
) -> RankStatistics:
    """Check the posterior of a calibration on n data sets of which the truth is known.

    Use it before you believe intervals, with the layout of your own measurements: it sees mistakes of likelihood,
    priors and sampler. Data come from the surrogate's own law (parameters from the prior, conditioned on the design
    box; one joint draw of the surrogate's error over all inputs; truncation; discrepancy; noise), so it does *not* see
    a surrogate that is wrong about the simulator: `leave_one_out` and `held_out` do. The measured values of `problem`
    play no role; rows with a detection limit are censored when new values are beyond it. Where errors are not all
    normal, the log-likelihood that is ranked is that given the latents, with the truth's own.

    Parameters
    ----------
    problem
        The calibration, also one of several parts, or of a population.
    n
        Repeats; 200 see a posterior whose sd is 0.7 of the right one, or that is off by half an sd.
    sampler
        `ImportanceSampler()` (default, for up to six parameters) or `TemperedSampler()` (default for more, and where
        errors are not all normal, so that latents are drawn beside the parameters, and weights do not suffice);
        anything that `problem.sample` takes, such as `NUTS(...)`, which takes a second or more each (for a population
        it compiles once for all repeats); or an object of your own with a method ``draw(problem, count, rng)`` that
        returns `FewDraws`.
    rng
        Whole number or generator.
    quantities
        Name to function of (draws by name, problem with its data), ranked beside the parameters, the joint
        log-likelihood and the misfit. Each more costs a little power. Where there are latents, such as the effects of
        subjects, draws have them as "latents" (n, latents).
    draws
        Nearly independent posterior draws of each repeat.
    alpha
        Chance that a right pipeline fails, all quantities together.

    Returns
    -------
    RankStatistics
        Ranks, exact band, `passed`, and what failed and how; print it.

    Raises
    ------
    InputError
        Numbers out of range, a quantity whose name is taken, or one that returns the wrong shape.
    DataError
        When a quantity is NaN at some draws.
    SamplingError
        When no fit at all gave a posterior; single ones that do not are reported in the result.

    References
    ----------
    Talts et al. (2018), arXiv:1804.06788; Modrák et al. (2023), doi:10.1214/23-BA1404; Säilynoja et al. (2022),
    doi:10.1007/s11222-022-10090-6.

    Examples
    --------
    >>> import numpy as np, xarray as xr, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 8, rng=1)
    >>> surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": np.sin(design["k"].values)}))
    >>> problem = uq.Calibration(surrogate, xr.DataArray(0.5, name="y"), noise=uq.GaussianNoise(sd=0.1))
    >>> found = simulation_based_calibration(problem, 50, rng=1)
    >>> found.passed
    True
    """
    _check_problem(problem, "simulation_based_calibration")

    def draw_problem(generator: np.random.Generator) -> tuple[dict[str, Array], Calibration]:
        for _ in range(TRIES):
            truth = problem.prior_draws(1, generator)
            if not problem.latents:
                return truth, problem.with_values(problem.simulate(truth, generator)[0])
            eta = generator.standard_normal((1, problem.latents))
            if _outside(problem, truth, eta, generator):
                continue
            values = problem.simulate(truth, generator, eta)[0]
            if np.isfinite(
                values
            ).all():  # counts of a negative mean have the density zero: parameters and errors again
                break
        return {**truth, LATENTS: eta}, problem.with_values(values)

    return rank_statistics(draw_problem, n, sampler=sampler, rng=rng, quantities=quantities, draws=draws, alpha=alpha)


@taught
@single_threaded
def rank_statistics(
    draw_problem: Callable[[np.random.Generator], tuple[Mapping[str, ArrayLike], Calibration]],
    n: int = 200,
    *,
    sampler: Any = None,
    rng: RandomState | None = None,
    quantities: Mapping[str, Quantity] | None = None,
    draws: int = 99,
    alpha: float = 0.01,
) -> RankStatistics:
    """Return simulation-based calibration of your own pipeline, from true parameters to posterior draws.

    Use it to have design, runs and the fit of the surrogate inside of what is checked: `draw_problem` draws a new
    function, runs the design, fits, draws parameters and data, and returns both. Ranks are uniform only if functions,
    parameters and data come from the law that the pipeline assumes (the kernel and hyperparameter prior of the
    surrogate, which averages over its hyperparameters; scalar outputs, or a basis that is fixed). With *one* fixed
    simulator they are not, though every step is right: compare coverage over many designs then, not ranks with a band.

    Parameters
    ----------
    draw_problem
        From a generator to (truth by name, `Calibration` with its data); names are those of `problem.priors`, and
        "latents" (problem.latents,) where errors are not all normal.
    n, sampler, rng, quantities, draws, alpha
        As for `simulation_based_calibration`.

    Returns
    -------
    RankStatistics
        Ranks, exact band, `passed`, and what failed and how; print it.

    Raises
    ------
    InputError, DataError, SamplingError
        As for `simulation_based_calibration`; also when truths are not those of the problem's parameters.

    References
    ----------
    Talts et al. (2018), arXiv:1804.06788; Modrák et al. (2023), doi:10.1214/23-BA1404.

    Examples
    --------
    >>> import numpy as np, xarray as xr, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": np.sin(design["k"].values)}))
    >>> def draw_problem(rng):
    ...     k = 2.0 * rng.random()
    ...     y = xr.DataArray(np.sin(k) + 0.1 * rng.standard_normal(), name="y")
    ...     return {"k": k}, uq.Calibration(surrogate, y, noise=uq.GaussianNoise(sd=0.1))
    >>> rank_statistics(draw_problem, 20, rng=1).ranks.sizes["repeat"]
    20
    """
    _check_numbers(n, draws, alpha)
    own = dict(quantities or {})
    rows, truths, fits = [], [], []
    for generator in as_generator(rng).spawn(n):
        truth, problem = draw_problem(generator)
        _check_problem(problem, "draw_problem")
        values, eta = _truth(truth, problem)
        try:
            few = _few_draws(sampler, problem, draws, generator)
        except SamplingError as error:
            names = _names(problem, own)
            rows.append(dict.fromkeys(names, MISSING))
            fits.append({"ess": 0.0, "doubt": f"{type(error).__name__}: {error}"})
        else:
            rows.append(_ranked(problem, values, few.theta, np.vstack([eta, few.latents]), own, generator))
            fits.append({"ess": few.ess, "doubt": few.doubt})
        truths.append({name: float(value[0]) for name, value in values.items()})
    if all(row[LOG_LIKELIHOOD] == MISSING for row in rows):
        raise SamplingError(f"None of the {n} fits gave a posterior. The first: {fits[0]['doubt']}")
    if any(set(row) != set(rows[0]) for row in rows):
        raise InputError("rank_statistics: draw_problem returned problems with different parameters; give one kind.")
    repeat = np.arange(n)
    return RankStatistics(
        xr.Dataset({name: ("repeat", np.array([row[name] for row in rows])) for name in rows[0]}, {"repeat": repeat}),
        xr.Dataset(
            {name: ("repeat", np.array([row[name] for row in truths])) for name in truths[0]}, {"repeat": repeat}
        ),
        pd.DataFrame(fits, index=pd.Index(repeat, name="repeat")),
        int(draws),
        float(alpha),
    )


def _outside(problem: Calibration, truth: Mapping[str, Array], eta: Array, rng: np.random.Generator) -> bool:
    """Tell whether the wall around the design box keeps this draw of a population (1,) out."""
    if not isinstance(problem, PopulationCalibration):
        return False
    return bool(np.log(rng.random()) > problem.data.wall(problem.individuals(truth, eta))[0])


def _of_first_subject(problem: Calibration, theta: Mapping[str, Array], eta: Array) -> dict[str, Array]:
    """Return the parameters of a population's first subject that has data, each (n,), by "parameter[subject]"."""
    if not isinstance(problem, PopulationCalibration):
        return {}
    subjects = problem.subjects
    j = int(np.argmax(subjects.measured))
    own = problem.layout.parameters(theta, eta[:, : problem.layout.size])
    unit = int(np.argmax(subjects.subject == j))
    return {f"{name}[{subjects.labels[j]}]": values[:, unit] for name, values in own.items()}


def _check_problem(problem: object, asked: str) -> None:
    if not isinstance(problem, Calibration):
        raise InputError(f"{asked}: the problem is a {type(problem).__name__}; give a uq.Calibration.")


def _check_numbers(n: int, draws: int, alpha: float) -> None:
    for name, value, least in (("n", n, 10), ("draws", draws, 9)):
        if not check.is_whole(value, least):
            raise InputError(f"{name} is {value!r}; give a whole number of at least {least}.")
    if not 0.0 < alpha < 1.0:
        raise InputError(f"alpha is {alpha!r}; give the chance of a false alarm, e.g. 0.01.")


def _names(problem: Calibration, own: Mapping[str, Quantity]) -> list[str]:
    """Return the names of what is ranked."""
    names = [*problem.priors, LOG_LIKELIHOOD, MISFIT]
    if isinstance(problem, PopulationCalibration):
        label = problem.subjects.labels[int(np.argmax(problem.subjects.measured))]
        names[len(problem.priors) : len(problem.priors)] = [f"{p}[{label}]" for p in problem.population.individual]
    taken = [name for name in own if name in names]
    if taken or len(set(names)) < len(names):
        raise InputError(f"quantities: the names {taken or [LOG_LIKELIHOOD, MISFIT]} are taken; choose others.")
    return [*names, *own]


def _default_draws(problem: Calibration, count: int, rng: np.random.Generator) -> FewDraws:
    """Return draws by importance weights, or by tempering where those do not suffice."""
    few_parameters = len(problem.priors) <= MOST_WEIGHTED
    if few_parameters and (not problem.latents or has_conditional(problem)):
        few = _few_draws(ImportanceSampler(), problem, count, rng)
        if not (few.doubt and problem.latents):
            return few
    return _few_draws(TemperedSampler(), problem, count, rng)


def _truth(truth: Mapping[str, ArrayLike], problem: Calibration) -> tuple[dict[str, Array], Array]:
    """Return the true parameters, each (1,), and latents (1, latents)."""
    wanted = [*problem.priors, *([LATENTS] if problem.latents else [])]
    if set(truth) != set(wanted):
        raise InputError(f"draw_problem: truths of {sorted(truth)}, but the problem infers {sorted(wanted)}.")
    eta = np.asarray(truth.get(LATENTS, ()), dtype=np.float64).reshape(1, -1)
    if eta.shape[1] != problem.latents:
        raise InputError(f"draw_problem: {eta.shape[1]} true latents, but the problem has {problem.latents}.")
    return {name: np.asarray(truth[name], dtype=np.float64).reshape(1) for name in problem.priors}, eta


def _few_draws(sampler: Any, problem: Calibration, count: int, rng: np.random.Generator) -> FewDraws:
    if sampler is None:
        return _default_draws(problem, count, rng)
    if callable(getattr(sampler, "draw", None)):
        few = sampler.draw(problem, count, rng)
        if not isinstance(few, FewDraws) or any(len(few.theta.get(name, ())) != count for name in problem.priors):
            raise InputError(f"The sampler's draw(...) has to return FewDraws with {count} draws of each parameter.")
        if problem.latents and few.latents.shape != (count, problem.latents):
            raise InputError(
                f"The sampler's draw(...) has to return FewDraws with latents of shape {(count, problem.latents)}; got "
                f"{few.latents.shape}."
            )
        return few if problem.latents else replace(few, latents=np.zeros((count, 0)))
    if isinstance(problem, PopulationCalibration) and isinstance(sampler, NUTS):
        return _of_nuts(sampler, problem, count, int(rng.integers(2**31)))
    posterior = problem.sample(sampler, rng=rng)
    table = summary_table(posterior.draws[list(problem.priors)], 0.95)
    total = posterior.draws.sizes["chain"] * posterior.draws.sizes["draw"]
    if total < count:
        raise InputError(f"The sampler gives {total} draws, {count} are ranked. Ask it for more, or for fewer ranks.")
    ess = float(table[["ess_bulk", "ess_tail"]].to_numpy().min())
    picked = _spread(total, count)
    theta = {name: posterior.draws[name].values.ravel()[picked] for name in problem.priors}
    stats = posterior.tree["sample_stats"].dataset if "sample_stats" in posterior.tree.children else {}
    divergent = int(stats["diverging"].sum()) if "diverging" in stats else 0
    doubt = _doubt(divergent, ess, total, count, float(table["r_hat"].max()))
    return FewDraws(theta, ess, doubt, posterior.latents[picked])


def _of_nuts(sampler: NUTS, problem: PopulationCalibration, count: int, seed: int) -> FewDraws:
    """Return draws of a population without what `sample` computes beside them; its density is compiled once."""
    import arviz_stats

    trace = sampler.run(problem, seed)
    draws, names = trace["posterior"].dataset, list(problem.priors)
    total = draws.sizes["chain"] * draws.sizes["draw"]
    if total < count:
        raise InputError(f"The sampler gives {total} draws, {count} are ranked. Ask it for more, or for fewer ranks.")
    sizes = [arviz_stats.ess(draws[names], method=method) for method in ("bulk", "tail")]
    ess = min(float(one[name]) for one in sizes for name in names)
    r_hat = max(float(one) for one in arviz_stats.rhat(draws[names]).data_vars.values())
    doubt = _doubt(int(trace["sample_stats"]["diverging"].sum()), ess, total, count, r_hat)
    picked = _spread(total, count)
    latents = draws["latents"].values.reshape(total, -1)
    return FewDraws({name: draws[name].values.ravel()[picked] for name in names}, ess, doubt, latents[picked])


def _spread(total: int, count: int) -> Ints:
    return np.linspace(0, total - 1, count).round().astype(np.int64)


def _doubt(divergent: int, ess: float, total: int, count: int, r_hat: float) -> str:
    """Say what speaks against draws of chains."""
    doubts = [f"{divergent} divergent draws"] if divergent else []
    if not ess >= count:
        doubts.append(f"{ess:.0f} effective draws of {total}, {count} required")
    if not r_hat <= R_HAT + BY_CHANCE / max(ess, 1.0):
        doubts.append(f"R-hat {r_hat:.3f}")
    return "; ".join(doubts)


def _ranked(
    problem: Calibration,
    truth: Mapping[str, Array],
    theta: Mapping[str, Array],
    eta: Array,
    own: Mapping[str, Quantity],
    rng: np.random.Generator,
) -> dict[str, int]:
    """Return the rank of the truth for every quantity."""
    names = _names(problem, own)
    both = {name: np.concatenate([truth[name], theta[name]]) for name in problem.priors}
    values = both | _of_first_subject(problem, both, eta)
    log_likelihood = problem.log_likelihood(both, eta) if problem.latents else problem.log_likelihood(both)
    values[LOG_LIKELIHOOD] = np.nan_to_num(log_likelihood, nan=-np.inf, neginf=-np.inf)
    values[MISFIT] = _misfit(problem, both, eta, rng)
    given = both | {LATENTS: eta} if problem.latents else both
    for name, function in own.items():
        found = np.asarray(function(given, problem), dtype=np.float64)
        if found.shape != values[MISFIT].shape:
            raise InputError(f"quantities: {name!r} returned shape {found.shape}; give one number per draw.")
        values[name] = found
    for name in names:
        if np.isnan(values[name]).any():
            raise DataError(f"quantities: {name!r} is NaN at some draws, which have no rank. Return finite numbers.")
    return {name: _rank(values[name], rng) for name in names}


def _rank(values: Array, rng: np.random.Generator) -> int:
    """Return how many of the values but the first are below it; where they are equal, a random part of them."""
    below, equal = np.count_nonzero(values[1:] < values[0]), np.count_nonzero(values[1:] == values[0])
    return int(below + rng.integers(equal + 1))


def _misfit(problem: Calibration, theta: Mapping[str, Array], eta: Array, rng: np.random.Generator) -> Array:
    """Return squared distances between data and the mean of a few simulated data sets, for each draw.

    Distances are relative to the spread of data at given parameters and latents, averaged over truth and draws alike:
    nothing in it tells which of them is the truth, so that ranks of a right posterior are uniform.
    """
    count = len(next(iter(theta.values())))
    repeated = {name: np.repeat(values, COPIES) for name, values in theta.items()}
    latents = np.repeat(eta, COPIES, axis=0) if problem.latents else None
    total, simulated = np.zeros(count), problem.simulate(repeated, rng, latents)
    for piece in problem.pieces(dict.fromkeys(problem.priors)):
        cells = piece.problem.cells
        made = cells.linked(simulated[:, piece.rows]).reshape(count, COPIES, -1)
        limit = cells.linked(cells.limit)  # NaN, which fmin and fmax pass over, where there is none
        made = np.where(cells.side == 1, np.fmax(made, limit), np.where(cells.side == -1, np.fmin(made, limit), made))
        spread = made.var(axis=1, ddof=1).mean(axis=0)
        spread = np.where(spread > 0.0, spread, 1.0)
        total += np.sum((cells.z - made.mean(axis=1)) ** 2 / spread, axis=1)
    return total

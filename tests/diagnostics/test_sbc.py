"""Simulation-based calibration: right pipelines pass, every planted mistake fails, and the words say how."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from calibration.problems import dense_covariance, given_surrogate, linear_surrogate, matern52, replicates
from scipy.stats import norm

import uqms as uq
from uqms.diagnostics import (
    FewDraws,
    ImportanceSampler,
    RankStatistics,
    importance,
    rank_statistics,
    simulation_based_calibration,
)
from uqms.diagnostics.sbc import _few_draws
from uqms.errors import InputError, SamplingError
from uqms.testing import LIKELIHOOD_BUGS, LikelihoodBug

SMALL = ImportanceSampler(particles=100, proposals=400)
NOISES = np.array([0.1, 0.05])
SUBTLE = ("determinant left out", "surrogate variance doubled")


@pytest.fixture(scope="module")
def problem() -> uq.Calibration:
    """Two parameters, two outputs, three conditions, two replicates; the surrogate's sd is above the noise's."""
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
    design = uq.sobol(space, 10, rng=1)
    a, b, x = (design[name].values for name in ("a", "b", "x"))
    runs = uq.ensemble.build(design, {"first": np.sin(3 * a + x) + b * x, "second": np.cos(2 * b + x) + a * b})
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(runs)
    tables = [
        uq.Observations.from_xarray(
            xr.DataArray(
                level + np.linspace(-0.2, 0.2, 6).reshape(3, 2),
                dims=("experiment", "replicate"),
                coords={"x": ("experiment", [0.1, 0.5, 0.9])},
                name=name,
            ),
            conditions=("x",),
        )
        for name, level in (("first", 0.8), ("second", 0.5))
    ]
    noise = {"first": uq.GaussianNoise(sd=NOISES[0]), "second": uq.GaussianNoise(sd=NOISES[1])}
    return uq.Calibration(surrogate, uq.Observations.concat(tables), noise)


def test_the_surrogate_matters_in_the_problem(problem: uq.Calibration) -> None:
    scores = problem.surrogate.scores(problem.unit_inputs(problem.prior_draws(200, 1)))
    variance = np.diagonal(scores.covariance[0], axis1=-2, axis2=-1).mean(axis=(0, 2))
    assert (np.sqrt(problem.cells.basis**2 @ variance) > NOISES[problem.cells.group]).all()


@pytest.mark.slow
def test_a_right_pipeline_passes(problem: uq.Calibration) -> None:
    found = simulation_based_calibration(problem, 200, rng=1, alpha=0.001)
    assert found.passed, str(found)
    assert found.quantities == ("a", "b", "log_likelihood", "misfit")
    assert (found.fits["doubt"] == "").all()
    assert found.fits["ess"].min() > 99
    for name, inside in (("50% covers", 0.5), ("90% covers", 0.9)):
        error = np.sqrt(inside * (1 - inside) / 200)
        assert np.abs(found.table[name] - inside).max() < 3.5 * error


@pytest.mark.slow
def test_an_unknown_noise_sd_is_ranked_too() -> None:
    x = np.linspace(0.0, 1.0, 4)[:, None]
    surrogate = given_surrogate(x, np.sin(4.0 * x))
    problem = uq.Calibration(surrogate, replicates(np.zeros((1, 4))), uq.GaussianNoise(sd=uq.HalfNormal(0.5)))
    found = simulation_based_calibration(
        problem, 100, sampler=SMALL, rng=1, alpha=0.001, quantities={"ratio": lambda p, _: p["theta"] / p["sigma"]}
    )
    assert found.passed, str(found)
    assert found.quantities == ("theta", "sigma", "log_likelihood", "misfit", "ratio")


@pytest.mark.parametrize(
    "bug",
    [  # the subtle ones want 200 repeats and more: `benchmarks/sbc.py --only bugs` has all of them, twenty times
        pytest.param(bug, id=bug.name, marks=() if bug.name == "data ignored" else pytest.mark.slow)
        for bug in LIKELIHOOD_BUGS
        if bug.name not in SUBTLE
    ],
)
def test_planted_bugs_are_found(problem: uq.Calibration, bug: LikelihoodBug) -> None:
    with bug.planted():
        found = simulation_based_calibration(problem, 80, sampler=SMALL, rng=1)
    assert not found.passed, str(found)
    assert any(not passed for passed in found.table["passed"])


def test_only_what_depends_on_data_sees_data_that_are_ignored(problem: uq.Calibration) -> None:
    bug = next(bug for bug in LIKELIHOOD_BUGS if bug.name == "data ignored")
    with bug.planted():
        found = simulation_based_calibration(problem, 60, sampler=SMALL, rng=1)
    assert found.table.loc[["a", "b"], "passed"].all()
    assert not found.table.loc["misfit", "passed"]


def test_a_planted_bug_is_gone_afterwards(problem: uq.Calibration) -> None:
    theta = {"a": np.array([0.3]), "b": np.array([0.6])}
    before = problem.log_likelihood(theta)
    for bug in LIKELIHOOD_BUGS:
        with bug.planted():
            assert problem.log_likelihood(theta)[0] != pytest.approx(before[0], rel=1e-6)
        assert problem.log_likelihood(theta) == pytest.approx(before)


def test_the_determinant_left_out_is_exactly_that(problem: uq.Calibration) -> None:
    theta = {"a": 0.3, "b": 0.6}
    mean, covariance = dense_covariance(problem, theta, NOISES)
    off = problem.cells.z - mean
    bug = next(bug for bug in LIKELIHOOD_BUGS if bug.name == "determinant left out")
    with bug.planted():
        assert problem.log_likelihood(theta) == pytest.approx(-0.5 * off @ np.linalg.solve(covariance, off), rel=1e-8)


# ------------------------------------------------------------------------------------ a posterior that is exactly known
SLOPE, ERROR, NOISE = 2.0, 0.5, 1.0


def linear() -> uq.Calibration:
    """Return y = 2 theta + error, theta ~ N(0, 1): eight replicates at one condition."""
    data = replicates(np.linspace(-1.0, 1.0, 8)[None], np.array([0.5]))
    return uq.Calibration(linear_surrogate(SLOPE, ERROR), data, uq.GaussianNoise(sd=NOISE))


def exact(problem: uq.Calibration) -> tuple[float, float]:
    """Return mean and sd of the posterior of theta."""
    variance = ERROR**2 + NOISE**2 / 8
    precision = 1.0 + SLOPE**2 / variance
    return SLOPE * problem.cells.z.mean() / variance / precision, precision**-0.5


@dataclass(frozen=True)
class Known:
    """The exact posterior, changed by a mistake."""

    stretch: float = 1.0
    shift: float = 0.0
    doubt: str = ""
    fails_below: float = -np.inf

    def draw(self, problem: uq.Calibration, count: int, rng: np.random.Generator) -> FewDraws:
        mean, sd = exact(problem)
        if mean < self.fails_below:
            raise SamplingError("no draws")
        theta = mean + self.shift * sd + self.stretch * sd * rng.standard_normal(count)
        return FewDraws({"theta": theta}, float(count), self.doubt)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "how"),
    [
        (Known(stretch=0.6), "draws too narrow"),
        (Known(stretch=1.8), "draws too wide"),
        (Known(shift=0.6), "draws too high"),
        (Known(shift=-0.6), "draws too low"),
    ],
)
def test_what_is_wrong_is_said(sampler: Known, how: str) -> None:
    found = simulation_based_calibration(linear(), 200, sampler=sampler, rng=1)
    assert str(found.table.loc["theta", "how"]).startswith(how)
    assert f"theta: {how}" in str(found)
    assert f"theta: {how}" in repr(found)


@pytest.mark.slow
def test_false_alarms_are_as_rare_as_said() -> None:
    problem = linear()
    alarms = sum(
        not simulation_based_calibration(problem, 30, sampler=Known(), rng=seed, alpha=0.2).passed for seed in range(20)
    )
    assert alarms <= 9  # 4 expected at most; more than 9 have a chance of 0.003


def test_the_importance_sampler_gives_the_exact_posterior() -> None:
    problem = linear().with_values(np.linspace(0.0, 3.0, 8))
    mean, sd = exact(problem)
    few = ImportanceSampler(particles=400, proposals=8000).draw(problem, 2000, np.random.default_rng(1))
    assert few.doubt == ""
    assert few.ess > 4000
    error = sd * np.sqrt(1.0 / 2000 + 1.0 / few.ess)
    assert few.theta["theta"].mean() == pytest.approx(mean, abs=4 * error)
    assert few.theta["theta"].std() == pytest.approx(sd, rel=4 * np.sqrt(0.5 / 2000 + 0.5 / few.ess))


def test_two_modes_keep_their_mass() -> None:
    x = np.linspace(0.0, 1.0, 9)[:, None]
    surrogate = given_surrogate(x, (x - 0.4) ** 2 * 10.0, ell=0.5)
    problem = uq.Calibration(surrogate, replicates(np.full((1, 1), 0.6)), uq.GaussianNoise(sd=0.02))
    few = ImportanceSampler().draw(problem, 2000, np.random.default_rng(1))
    grid = np.linspace(0.0, 1.0, 20_001)
    value = problem.log_likelihood({"theta": grid})
    weight = np.exp(value - value.max())
    share = weight[grid < 0.4].sum() / weight.sum()
    assert 0.3 < share < 0.7
    error = np.sqrt(share * (1 - share) * (1 / 2000 + 1 / few.ess))
    assert np.mean(few.theta["theta"] < 0.4) == pytest.approx(share, abs=4 * error)


@pytest.mark.parametrize("seed", [67, 3, 4])
def test_particles_of_the_importance_sampler_stay_different(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a funnel few moves are accepted: with two moves a stage, seed 67 ended with one particle, many times."""
    rng = np.random.default_rng(seed)
    middle, n = rng.standard_normal(3), 6

    def funnel(_: object, x: np.ndarray) -> np.ndarray:
        sd = np.exp(1.5 * x[:, 3] - 2.0)
        return np.asarray(-0.5 * np.sum((x[:, :3] - middle) ** 2, axis=1) * n / 3 / sd**2 - n * np.log(sd))

    monkeypatch.setattr(importance, "_log_likelihood", funnel)
    x = importance._tempered(SimpleNamespace(priors=dict.fromkeys("abcs")), 100, rng)  # type: ignore[arg-type]
    assert len(np.unique(x, axis=0)) >= 70


def test_draws_of_nuts_are_thinned_to_nearly_independent_ones() -> None:
    problem = linear().with_values(np.linspace(0.0, 3.0, 8))
    mean, sd = exact(problem)
    few = _few_draws(uq.NUTS(draws=300, tune=300, chains=2), problem, 99, np.random.default_rng(1))
    assert few.theta["theta"].shape == (99,)
    assert few.ess > 99
    assert abs(few.theta["theta"].mean() - mean) < 4 * sd / np.sqrt(99)


# ------------------------------------------------------------------------------------------ nothing is silently dropped
def test_fits_without_a_posterior_are_counted_and_fail() -> None:
    found = simulation_based_calibration(linear(), 50, sampler=Known(fails_below=-1.0), rng=1)
    missing = found.ranks["theta"].values < 0
    assert 0 < missing.sum() < 25
    assert len(found.fits) == 50
    assert (found.fits["doubt"][missing] == "SamplingError: no draws").all()
    assert not found.passed
    assert any(f"{missing.sum()} of 50 fits gave no posterior" in text for text in found.failures)


def test_doubtful_fits_keep_their_ranks_and_fail() -> None:
    found = simulation_based_calibration(linear(), 50, sampler=Known(doubt="3 divergent draws"), rng=1)
    assert (found.ranks["theta"] >= 0).all()
    assert found.table["passed"].all()
    assert found.failures == ("50 of 50 fits are doubtful, e.g. repeat 0: 3 divergent draws",)


def test_weights_that_say_little_are_a_doubt() -> None:
    problem = linear()
    sampler = ImportanceSampler(particles=50, proposals=50)
    few = sampler.draw(problem, 2000, np.random.default_rng(1))
    assert few.doubt.endswith("of 800 weighted points, 2000 draws required")


@pytest.mark.slow
def test_equal_values_share_their_ranks() -> None:
    quantities = {"constant": lambda p, _: np.zeros_like(p["theta"])}
    found = simulation_based_calibration(linear(), 200, sampler=Known(), rng=1, quantities=quantities)
    assert found.table.loc["constant", "passed"]


# ---------------------------------------------------------------------------------------------- a pipeline of one's own
def function_problem(ell: float) -> Callable[[np.random.Generator], tuple[dict[str, float], uq.Calibration]]:
    """Return what draws a function of a Matérn process, runs five points, and calibrates with length scale `ell`."""
    x = np.linspace(0.0, 1.0, 5)

    def draw(rng: np.random.Generator) -> tuple[dict[str, float], uq.Calibration]:
        theta = rng.random()
        points = np.append(x, theta)
        cov = matern52(points[:, None] - points, 0.3) + 1e-10 * np.eye(6)
        values = np.linalg.cholesky(cov) @ rng.standard_normal(6)
        surrogate = given_surrogate(x[:, None], values[:5, None], ell=ell)
        data = replicates(values[5] + 0.1 * rng.standard_normal((1, 2)))
        return {"theta": theta}, uq.Calibration(surrogate, data, uq.GaussianNoise(sd=0.1))

    return draw


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::uqms.errors.PriorConflictWarning")
def test_new_functions_in_every_repeat() -> None:
    right = rank_statistics(function_problem(0.3), 100, sampler=SMALL, rng=1, alpha=0.001)
    assert right.passed, str(right)
    assert right.truths["theta"].values.std() == pytest.approx(12**-0.5, rel=0.25)
    wrong = rank_statistics(function_problem(3.0), 100, sampler=SMALL, rng=1)
    assert wrong.table.loc["theta", "how"] == "draws too narrow in the tails", str(wrong)


@pytest.mark.slow
def test_a_seed_gives_the_same_ranks() -> None:
    first, second, other = (simulation_based_calibration(linear(), 10, sampler=SMALL, rng=rng) for rng in (1, 1, 2))
    xr.testing.assert_identical(first.ranks, second.ranks)
    assert not first.ranks.equals(other.ranks)


def test_what_cannot_be_meant_is_refused() -> None:
    problem = linear()
    for arguments, match in (
        ({"n": 5}, "n is 5"),
        ({"draws": 3}, "draws is 3"),
        ({"alpha": 1.0}, "alpha is 1.0"),
        ({"quantities": {"misfit": lambda p, _: p["theta"]}}, "taken"),
        ({"quantities": {"sum": lambda p, _: p["theta"].sum()}}, "returned shape"),
        ({"sampler": "NUTS"}, "give NUTS"),
    ):
        with pytest.raises(InputError, match=match):
            simulation_based_calibration(problem, **{"n": 10, "rng": 1, "sampler": Known(), **arguments})
    with pytest.raises(InputError, match="truths of"):
        rank_statistics(lambda rng: ({"k": 1.0}, problem), 10, sampler=Known(), rng=1)
    with pytest.raises(InputError, match="give a uq.Calibration"):
        simulation_based_calibration(problem.surrogate, 10, rng=1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="was not ranked"):
        simulation_based_calibration(problem, 10, sampler=Known(), rng=1).counts("k")


# ------------------------------------------------------------------------------------------ what it asks of the problem
def test_simulated_data_have_the_law_of_the_likelihood(problem: uq.Calibration) -> None:
    theta = {"a": 0.3, "b": 0.6}
    mean, covariance = dense_covariance(problem, theta, NOISES)
    n = 40_000
    made = problem.simulate({name: np.full(n, value) for name, value in theta.items()}, 1)
    sd = np.sqrt(np.diag(covariance))
    assert np.abs((made.mean(axis=0) - mean) / sd).max() < 4.5 / np.sqrt(n)
    assert np.abs((np.cov(made.T) - covariance) / np.outer(sd, sd)).max() < 4.5 * np.sqrt(2.0 / n)


def test_other_values_make_the_problem_that_is_built_with_them() -> None:
    z = np.linspace(0.0, 2.0, 8)
    old = linear()
    new = old.with_values(z)
    built = uq.Calibration(
        linear_surrogate(SLOPE, ERROR), replicates(z[None], np.array([0.5])), uq.GaussianNoise(sd=1.0)
    )
    theta = {"theta": np.linspace(-1.0, 1.0, 5)}
    assert new.log_likelihood(theta) == pytest.approx(built.log_likelihood(theta), rel=1e-12)
    assert (new.observations.value == z).all()
    assert old.cells.z.max() == old.observations.value.max() == 1.0
    mean, sd = exact(new)
    grid = np.linspace(-6.0, 6.0, 4001)
    density = np.exp(new.log_likelihood({"theta": grid}) + norm.logpdf(grid))
    assert np.sum(grid * density) / density.sum() == pytest.approx(mean, abs=1e-6 * sd)
    with pytest.raises(uq.errors.DataError, match="row 0 .*is nan"):
        old.with_values(np.full(8, np.nan))
    with pytest.raises(InputError, match="one value per row"):
        old.with_values(z[:3])


def test_the_result_says_what_it_is() -> None:
    found = simulation_based_calibration(linear(), 20, sampler=Known(), rng=1)
    assert isinstance(found, RankStatistics)
    assert str(found).startswith("Simulation-based calibration, 20 repeats of 99 draws: PASS")
    assert repr(found) == "<RankStatistics of theta, log_likelihood, misfit: 20 repeats, passed>"


@pytest.mark.slow
def test_the_figure_shows_the_distance_from_uniform_ranks() -> None:
    found = simulation_based_calibration(linear(), 200, sampler=Known(stretch=0.5), rng=1)
    figure = uq.plots.ranks(found, labels={"theta": "slope"})
    axes = figure.axes
    assert [ax.get_title(loc="left") for ax in axes] == ["slope", "log_likelihood", "misfit"]
    drawn = axes[0].lines[1].get_xydata()
    expected = found.counts("theta") / 200 - found.band.points
    assert drawn[1:-1] == pytest.approx(np.column_stack([found.band.points, expected]))
    red = axes[0].lines[2].get_xydata()
    outside = (found.counts("theta") < found.band.lower) | (found.counts("theta") > found.band.upper)
    assert red[:, 0] == pytest.approx(found.band.points[outside])
    assert red.shape[0] > 0
    right = uq.plots.ranks(simulation_based_calibration(linear(), 50, sampler=Known(), rng=1), names=["theta"])
    assert [len(ax.lines) for ax in right.axes] == [2]
    right._repr_png_()  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="plots.ranks: names is"):
        uq.plots.ranks(found, names=["k"])
    with pytest.raises(InputError, match="plots.ranks: got"):
        uq.plots.ranks(found.ranks)  # type: ignore[arg-type]


def test_no_posterior_at_all_is_an_error() -> None:
    with pytest.raises(SamplingError, match="None of the 10 fits gave a posterior"):
        simulation_based_calibration(linear(), 10, sampler=Known(fails_below=np.inf), rng=1)

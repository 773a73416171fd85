"""The Fisher information of a trial against the optimal-design literature, brute force and the surrogate's limit."""

from dataclasses import replace
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from _what_next_trial import AT, COMBINED, DOSE, PROPORTIONAL, SUBJECTS, TIMES, example, information
from scipy.stats import chi2, multivariate_normal, spearmanr

import uqms as uq
from uqms.errors import InputError
from uqms.planning.candidate_table import Candidates
from uqms.planning.forecasts import points_of
from uqms.planning.trial_gain import SimulatedTrials
from uqms.planning.trial_setting import Setting
from uqms.planning.trials import _criterion


@pytest.mark.parametrize(
    ("noise", "wanted"), [(uq.CombinedNoise(0.5, 0.1), COMBINED), (uq.CombinedNoise(0, 0.1), PROPORTIONAL)]
)
def test_the_standard_example(noise: Any, wanted: Any) -> None:
    found = information(noise)
    determinant, errors = wanted
    assert found.log_determinant == pytest.approx(determinant, abs=1e-4)
    np.testing.assert_allclose(found.table["rse"], errors, rtol=5e-4)
    assert found.log_determinant_exact == found.log_determinant


def samples(times: Any, noise: Any = None) -> Any:
    return uq.candidates(outputs="conc", coords={"hour": times}, noise=noise or uq.CombinedNoise(0.5, 0.1))


def test_two_arms_add_up_and_more_subjects_tell_more() -> None:
    simulator, population = example()
    one = uq.trial_information(simulator, samples(TIMES), 32, population=population, at=AT)
    two = uq.trial_information(simulator, [samples(TIMES), samples(TIMES)], [10, 22], population=population, at=AT)
    np.testing.assert_allclose(two.matrix, one.matrix, rtol=1e-9)
    twice = uq.trial_information(simulator, samples(TIMES), 64, population=population, at=AT)
    np.testing.assert_allclose(twice.matrix, 2.0 * one.matrix, rtol=1e-9)


def test_the_best_times_are_those_of_a_search_over_all() -> None:
    hours = np.array([0.5, 1.0, 3.0, 8.0, 24.0, 48.0, 96.0])
    simulator, population = example(hours)
    noise = uq.CombinedNoise(0, 0.1)
    best = uq.next_trial(simulator, samples(hours, noise), 4, 20, population=population, at=AT)
    every = {
        rows: uq.trial_information(simulator, samples(hours[list(rows)], noise), 20, population=population, at=AT)
        for rows in combinations(range(len(hours)), 4)
    }
    largest = max(every.values(), key=lambda one: one.log_determinant)
    assert best.information.log_determinant == pytest.approx(largest.log_determinant, abs=1e-6)
    about = uq.next_trial(simulator, samples(hours, noise), 4, 20, population=population, at=AT, about=["CL"])
    least = min(one.table["se"]["CL"] for one in every.values())
    assert about.information.table["se"]["CL"] == pytest.approx(least, rel=1e-6)


def test_the_criterion_about_some_is_the_inverse_of_their_variance() -> None:
    root = np.random.default_rng(1).standard_normal((4, 5))
    M = root @ root.T
    wanted = -np.linalg.slogdet(np.linalg.inv(M)[:2, :2])[1]
    assert _criterion(M, np.array([0, 1])) == pytest.approx(wanted)
    assert _criterion(np.zeros((2, 2)), np.array([0])) == -np.inf


@cache
def through_a_surrogate(runs: int) -> Any:
    """Return a surrogate of the example of a few runs."""
    simulator, population = example()
    design = uq.sobol(population.space, runs, rng=1)
    hours = np.array(TIMES)
    function = uq.FunctionSimulator(
        lambda CL, V, ka: DOSE * ka / (V * (ka - CL / V)) * (np.exp(-CL / V * hours) - np.exp(-ka * hours)),
        outputs={"conc": ("hour",)},
        coords={"hour": hours},
    )
    return uq.GaussianProcess().fit(uq.run(function, design, workers=0)), population


def test_the_error_of_a_surrogate_is_shared_by_all_subjects() -> None:
    surrogate, population = through_a_surrogate(12)
    found = {
        n: uq.trial_information(surrogate, samples(TIMES), n, population=population, at=AT) for n in (8, 512, 32768)
    }
    ratio = {n: float(one.table["se"]["V"] / one.table["se_exact"]["V"]) for n, one in found.items()}
    assert 1.0 < ratio[8] < ratio[512] < ratio[32768]
    # More subjects do not average the error away: the standard error ends, that of an exact surrogate does not.
    assert found[32768].table["se"]["V"] > 0.5 * found[512].table["se"]["V"]
    assert found[32768].table["se_exact"]["V"] == pytest.approx(found[512].table["se_exact"]["V"] / 8.0, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": None}, "give population="),
        ({"at": {"Q": 1.0}}, "at has"),
    ],
)
def test_what_cannot_be_is_refused(settings: Any, message: str) -> None:
    simulator, population = example()
    with pytest.raises(InputError, match=message):
        uq.trial_information(simulator, samples(TIMES), SUBJECTS, **({"population": population} | settings))


def test_correlated_effects_and_noise_that_is_not_known_are_refused() -> None:
    simulator, population = example()
    correlated = uq.Population(population.space, individual=("CL", "V"), correlated=True)
    with pytest.raises(InputError, match="correlated random effects"):
        uq.trial_information(simulator, samples(TIMES), 8, population=correlated)
    ideas = uq.candidates(outputs="conc", coords={"hour": TIMES})
    with pytest.raises(InputError, match="noise of 'conc' is not known"):
        uq.trial_information(simulator, ideas, 8, population=population)
    with pytest.raises(InputError, match="without information"):
        uq.next_trial(simulator, samples(TIMES), 1, 8, population=population, at={"CL": 0.15})


# ------------------------------------------------------------------------------------------------------------ the gain
TAU, OMEGA, SIGMA, PEOPLE = np.array([1.0, 0.8]), np.array([0.5, 0.3]), 0.4, 6
LINE = np.array([0.0, 0.5, 1.0, 2.0])


def line(spread: Any = None) -> tuple[Any, Any, Candidates]:
    """Return subjects with straight lines, of which all is normal where omegas are known."""
    space = uq.ParameterSpace(a=uq.Normal(0.0, TAU[0]), b=uq.Normal(0.0, TAU[1]))
    simulator = uq.DirectSimulator(
        lambda a, b: a[:, None] + b[:, None] * LINE,
        space=space,
        outputs={"y": ("t",)},
        coords={"t": LINE},
        vectorized=True,
    )
    spread = {"a": OMEGA[0], "b": OMEGA[1]} if spread is None else spread
    population = uq.Population(space, individual=("a", "b"), spread=spread)
    return simulator, population, uq.candidates(outputs="y", coords={"t": LINE}, noise=SIGMA)


def trials_of(
    simulator: Any, population: Any, ideas: Candidates, about: list[str], draws: int, seed: int = 1
) -> SimulatedTrials:
    setting = Setting.of(simulator, population, None)
    points = points_of(setting.problem, ideas, True, None)
    drawn = setting.draws(points, draws, np.random.default_rng(seed))
    return SimulatedTrials.of(setting, points, drawn, PEOPLE, about, np.random.default_rng(seed + 100))


def left(rows: list[int], about: list[int], prior: Any = None) -> float:
    """Return the gain about a and b, or one of them, in closed form."""
    J = np.column_stack([np.ones(len(rows)), LINE[rows]])
    V = (J * OMEGA**2) @ J.T + SIGMA**2 * np.eye(len(rows))
    after = np.linalg.inv(np.diag(1.0 / TAU**2) + PEOPLE * J.T @ np.linalg.solve(V, J))
    pick = np.ix_(about, about)
    return 0.5 * float(np.linalg.slogdet(np.diag(TAU**2)[pick])[1] - np.linalg.slogdet(after[pick])[1])


@pytest.mark.parametrize("rows", [[0, 1], [0, 3], [1, 2, 3]])
@pytest.mark.parametrize("about", [[0, 1], [0], [1]])
def test_the_gain_of_a_linear_population_is_the_closed_form(rows: list[int], about: list[int]) -> None:
    trials = trials_of(*line(), ["ab"[i] for i in about], 3000)
    found = trials.gain(np.array(rows)).gain
    assert found.resolved
    assert found.mcse < 0.08
    assert abs(found.nats - left(rows, about)) < 3.0 * found.mcse + 0.02  # draws of the prior are not exactly normal


def test_few_draws_bias_the_gain_about_some_quantities_by_little() -> None:
    rows, off = [0, 3], []
    for seed in range(12):
        off.append(trials_of(*line(), ["a"], 200, seed).gain(np.array(rows)).gain.nats - left(rows, [0]))
    # Weights amount to 10 draws; treated as independent ones they would call for another 0.09 nats.
    assert abs(np.mean(off)) < 3.0 * np.std(off) / np.sqrt(12) + 0.01


def test_the_density_of_a_trial_is_that_of_all_its_measurements() -> None:
    """Subjects share the error of the surrogate; mean and products of the subjects are sufficient."""
    surrogate, population = through_a_surrogate(12)
    trials = trials_of(surrogate, population, samples(TIMES), ["CL", "V", "ka"], 60)
    rows, rng = np.array([1, 4, 6]), np.random.default_rng(3)
    y = trials.mean[0, rows] * (1.0 + 0.3 * rng.standard_normal((PEOPLE, 3)))
    off = y - y.mean(axis=0)
    average, products = np.zeros((1, len(TIMES))), np.zeros((1, len(TIMES), len(TIMES)))
    average[0, rows], products[(0, *np.ix_(rows, rows))] = y.mean(axis=0), off.T @ off
    one = replace(trials, average=average, products=products, outer=np.array([0]))
    found = one.log_densities(rows)[0]
    pick = np.ix_(rows, rows)
    wanted = [
        multivariate_normal.logpdf(
            y.ravel(),
            np.tile(f, PEOPLE),
            np.kron(np.eye(PEOPLE), V[pick]) + np.kron(np.ones((PEOPLE, PEOPLE)), E[pick]),
        )
        for f, V, E in zip(trials.mean[:, rows], trials.covariance, trials.error, strict=True)
    ]
    assert trials.error.max() > 1e-4
    np.testing.assert_allclose(found - found[0], np.array(wanted) - wanted[0], rtol=1e-8, atol=1e-6)
    # With an error that each subject has anew the densities are others.
    fresh = replace(one, covariance=trials.covariance + trials.error, error=0.0 * trials.error).log_densities(rows)[0]
    assert np.abs(fresh - fresh[0] - found + found[0]).max() > 1e-2


def test_the_gain_about_what_varies_between_subjects_is_that_of_a_grid() -> None:
    """One parameter whose typical value is known in practice: the information about omega, by quadrature."""
    space = uq.ParameterSpace(a=uq.Normal(0.0, 1e-6))
    simulator = uq.DirectSimulator(
        lambda a: np.full(1, a), space=space, outputs={"y": ("t",)}, coords={"t": np.zeros(1)}
    )
    population = uq.Population(space, individual=("a",), spread=uq.HalfNormal(1.0))
    ideas = uq.candidates(outputs="y", coords={"t": [0.0]}, noise=0.5)
    found = trials_of(simulator, population, ideas, ["a", "omega2_a"], 3000).gain(np.array([0])).gain
    omega = (np.arange(800) + 0.5) / 200.0
    prior = np.exp(-0.5 * omega**2)
    prior /= prior.sum()
    # Sums of squares are (omega² + noise²) chi²: the mutual information of omega and log of the sum.
    grid = np.linspace(-9.0, 9.0, 3000)
    scale = np.log(omega**2 + 0.25)
    density = chi2.pdf(np.exp(grid[None] - scale[:, None]), PEOPLE) * np.exp(grid[None] - scale[:, None])
    marginal = prior @ density
    with np.errstate(all="ignore"):
        ratio = np.where(density > 0.0, density * np.log(density / marginal), 0.0)
    wanted = float(prior @ ratio.sum(axis=1)) * (grid[1] - grid[0])
    assert abs(found.nats - wanted) < 3.0 * found.mcse + 0.01
    assert wanted > 0.3


def test_the_short_list_has_the_design_of_the_screen_unless_another_is_clearly_better() -> None:
    simulator, population, ideas = line()
    best = uq.next_trial(simulator, ideas, 2, PEOPLE, population=population, draws=3000, rng=1)
    table = best.short_list
    assert len(table) >= 4  # of six pairs
    assert table["chosen"].sum() == 1
    wanted = [left(list(rows), [0, 1]) for rows in table["samples"]]
    assert (abs(table["gain"] - wanted) < 3.0 * table["mcse"] + 0.02).all()
    assert spearmanr(table["log_determinant"], table["gain"]).statistic > 0.8
    assert best.gain == pytest.approx(max(wanted), abs=3.0 * best.mcse + 0.02)
    assert best.method == "nested"
    assert f"{len(table)} designs were compared" in repr(best)
    assert best.short_list["expected_sd b"].iloc[0] == pytest.approx(0.22, rel=0.4)
    few = uq.next_trial(simulator, ideas, 2, 400, population=population, draws=200, rng=1)
    assert few.method == "linear"  # 200 draws can show 2.3 nats
    given = uq.next_trial(simulator, ideas, 2, PEOPLE, population=population, at={"a": 0.0})
    assert given.method == ""
    assert np.isnan(given.gain)

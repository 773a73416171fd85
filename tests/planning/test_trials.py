"""The Fisher information of a trial against the optimal-design literature, brute force and the surrogate's limit."""

from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from _what_next_trial import AT, COMBINED, DOSE, PROPORTIONAL, SUBJECTS, TIMES, example, information

import uqms as uq
from uqms.errors import InputError
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
        uq.next_trial(simulator, samples(TIMES), 1, 8, population=population)

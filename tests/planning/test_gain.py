"""Expected information gains against closed forms, with the usual mistakes planted."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from _what_next_measurement import (
    closed_form,
    flip,
    random_problem,
    replicates,
    rows_of,
    state_of,
    with_exact_draws,
)

import uqms as uq
from uqms.planning.gain import State, gain_of_each, linear_gain, log_densities, spread_out

Array = np.ndarray
SIZE = 1000


@cache
def solved(seed: int) -> tuple[Any, Any, dict[str, Array], Any]:
    """Return a random linear-Gaussian problem with its posterior, and a forecaster with the exact covariance."""
    rng = np.random.default_rng(seed)
    made, ideas, truth = random_problem(rng)
    posterior = made.sample(uq.Laplace(draws=SIZE), rng=seed)
    return made, ideas, truth, with_exact_draws(posterior, truth, rng, SIZE)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("chosen", [[0], [1, 3], [0, 2, 5]])
def test_the_linear_form_is_the_closed_form(seed: int, chosen: list[int], rng: np.random.Generator) -> None:
    _, ideas, truth, source = solved(seed)
    state = state_of(source, ideas, rng)
    wanted = closed_form(**rows_of(truth, np.array(chosen)))
    assert state.linear(np.array(chosen)).nats == pytest.approx(wanted, rel=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_nested_monte_carlo_agrees_within_its_error(seed: int, rng: np.random.Generator) -> None:
    _, ideas, truth, source = solved(seed)
    state = state_of(source, ideas, rng)
    rows = np.array([0, 3])
    found, linear = state.nested(rows, np.arange(SIZE)), state.linear(rows)
    assert abs(found.nats - closed_form(**rows_of(truth, rows))) < 4.0 * found.mcse
    np.testing.assert_allclose(found.sds, linear.sds, rtol=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_planted_mistakes_are_seen(seed: int, rng: np.random.Generator) -> None:
    made, ideas, truth, source = solved(seed)
    rows = np.array([0, 1, 4])
    wanted = closed_form(**rows_of(truth, rows))

    def fresh(joint: Any) -> Any:
        scale = 1.0 / np.sqrt(truth["repeats"][:, None] * truth["repeats"])
        noise = joint.exact_covariance
        return joint._replace(covariance=noise + (joint.covariance - noise) * scale)

    before = uq.prior_of(made, rng=seed).forecaster(SIZE)
    for state in (
        state_of(source, ideas, rng, fresh),  # error new with each replicate
        state_of(replace(source, given_data=False), ideas, rng),  # error not given the data
        state_of(replace(before, given_data=True), ideas, rng),  # draws of the prior for those of the posterior
    ):
        assert state.linear(rows).nats != pytest.approx(wanted, rel=1e-2)


def test_the_prior_alone_has_its_closed_form(rng: np.random.Generator) -> None:
    made, ideas, truth, _ = solved(1)
    found = state_of(uq.prior_of(made, rng=1).forecaster(4000), ideas, rng).linear(np.array([0, 1]))
    wanted = closed_form(**(rows_of(truth, np.array([0, 1])) | without_data(truth, [0, 1])))
    assert found.nats == pytest.approx(wanted, rel=0.02)


def without_data(truth: dict[str, Array], chosen: list[int]) -> dict[str, Any]:
    """Return what differs where there are no data."""
    rows = int(truth["data"]) + np.array(chosen)
    return {
        "J": truth["J"][rows],
        "error": truth["error"][np.ix_(rows, rows)],
        "noise": truth["noise"][rows],
        "data": 0,
    }


def test_replicates_share_the_error_of_the_surrogate() -> None:
    missed = [one for one in replicates() if not one["ok"]]
    assert not missed


def test_the_ranking_of_replicates_and_a_new_condition_flips() -> None:
    missed = [one for one in flip() if not one["ok"]]
    assert not missed


def test_the_gain_about_some_parameters_is_the_closed_form(rng: np.random.Generator) -> None:
    _, ideas, truth, source = solved(2)
    whole = state_of(source, ideas, rng)
    rows = np.array([1, 2])
    n = int(truth["data"])
    at = rows_of(truth, rows)
    C = at["J"] @ truth["prior"] @ at["J"].T + at["error"] + np.diag(at["noise"])
    cross = np.vstack([at["J"] @ truth["prior"][:, :1]])
    joint = np.block([[C, cross], [cross.T, truth["prior"][:1, :1]]])
    d, z = np.arange(n), np.arange(n, n + 2)
    given_theta = np.append(d, n + 2)

    def left(given: Array) -> Array:
        K = joint[np.ix_(z, given)]
        return joint[np.ix_(z, z)] - K @ np.linalg.solve(joint[np.ix_(given, given)], K.T)

    wanted = 0.5 * (np.linalg.slogdet(left(d))[1] - np.linalg.slogdet(left(given_theta))[1])
    state = replace(whole, psi=whole.psi[:, :1], everything=False)
    assert state.linear(rows).nats == pytest.approx(wanted, rel=0.02)  # squares among the regressors fit a little noise
    nested = state.nested(rows, np.arange(SIZE))
    assert abs(nested.nats - wanted) < 4.0 * nested.mcse + 0.02 * wanted


def test_the_linear_gain_of_covariances() -> None:
    signal, noise = np.array([[4.0]]), np.array([[1.0 + 0.01]])
    assert linear_gain(signal, noise) == pytest.approx(0.8007, abs=1e-4)
    assert linear_gain(1e-18 * signal, 1e-18 * noise) == pytest.approx(0.8007, abs=1e-4)


def test_densities_of_all_pairs(rng: np.random.Generator) -> None:
    from scipy.stats import multivariate_normal

    z, mean = 1e3 + rng.standard_normal((5, 3)), 1e3 + rng.standard_normal((7, 3))
    root = rng.standard_normal((7, 3, 4))
    C = root @ root.transpose(0, 2, 1)
    wanted = [[multivariate_normal(m, c).logpdf(x) for m, c in zip(mean, C, strict=True)] for x in z]
    np.testing.assert_allclose(log_densities(z, mean, C), wanted, rtol=1e-9)


def test_the_screen_is_the_linear_form_of_each(rng: np.random.Generator) -> None:
    _, ideas, _, source = solved(0)
    state = state_of(source, ideas, rng)
    at = np.arange(len(ideas))
    variance = state.covariance[:, at, at].mean(axis=0)
    for everything, psi in ((True, state.psi), (False, state.psi[:, :1])):
        some = np.arange(0, SIZE, 20)
        gains, sds = gain_of_each(state.mean[some], variance, psi[some], everything, state.psi, some)
        own = replace(state, psi=psi, everything=everything)
        wanted = [own.linear(np.array([i])) for i in at]
        np.testing.assert_allclose(gains, [one.nats for one in wanted], rtol=1e-2)
        np.testing.assert_allclose(sds, [one.sds for one in wanted], rtol=1e-2)


def test_a_short_list_has_what_no_two_candidates_share() -> None:
    rng = np.random.default_rng(0)
    theta = rng.standard_normal((500, 2))
    mean = np.column_stack([np.repeat(theta[:, :1], 30, axis=1), 0.5 * theta[:, 1:]])
    picked = spread_out(mean, np.full(31, 0.1), theta, True, np.ones(31), 3)
    assert 30 in picked[:2]


def test_a_gain_beyond_the_draws_is_refused(rng: np.random.Generator) -> None:
    mean = rng.standard_normal((200, 1))
    C = np.full((200, 1, 1), 1e-8)
    state = State(mean, C, mean[:, None], C[:, None], mean, True, np.zeros((200, 0)), rng.standard_normal((200, 1)))
    assert state.nested(np.array([0]), np.arange(200)).nats > state.limit
    assert state.linear(np.array([0])).nats == pytest.approx(0.5 * np.log(mean.var(ddof=1) / 1e-8 + 1.0), rel=1e-9)

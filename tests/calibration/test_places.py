"""Chains that sit in several places, posteriors wider than their priors, and notes of checks that nearly fail."""

import numpy as np
import pytest
from calibration.problems import linear_surrogate, replicates

import uqms as uq
from uqms.calibration import verdict
from uqms.calibration.answer import prior_dominated
from uqms.calibration.checks import Check, Sampled
from uqms.calibration.computation import check_places, places
from uqms.calibration.context import Context
from uqms.calibration.misfit import explained

SHAPE = (4, 250)


def chains(centres: list[float], sds: float | list[float] = 1.0, *, log_sigma: list[float] | None = None) -> Sampled:
    """Return normal draws of `a` with a centre a chain, and of a noise sd."""
    rng = np.random.default_rng(1)
    a = np.array(centres)[:, None] + np.broadcast_to(sds, 4)[:, None] * rng.standard_normal(SHAPE)
    sigma = np.exp(np.array([0.0] * 4 if log_sigma is None else log_sigma)[:, None] + 0.1 * rng.standard_normal(SHAPE))
    count = a.size
    return Sampled({"a": a.ravel(), "sigma": sigma.ravel()}, np.zeros(count, dtype=np.int64), SHAPE, SHAPE)


def judged(sampled: Sampled, density: np.ndarray | None = None) -> Check:
    """Return the check."""
    return check_places(places(sampled, ["sigma"], ["sigma"], density))


@pytest.mark.parametrize("centres", [[0.0] * 4, [0.0, 3.0, 0.0, 0.0], [0.0, 3.0, 6.0, 9.0]])
def test_chains_that_overlap_are_in_one_place(centres: list[float]) -> None:
    found = places(chains(centres), ["sigma"], ["sigma"], None)
    assert found.groups == ((0, 1, 2, 3),)  # the last: through chains between them


def test_two_modes_ask_for_smc() -> None:
    found = judged(chains([0.0, 10.0, 0.0, 10.0]), np.repeat([1.0, 0.5, 1.0, 0.5], 250))
    assert found.status == "fail"
    assert "chains are in 2 separate places: 2 of 4 at a = " in found.message
    assert "the log posterior density is 0.5 nats lower" in found.message
    assert "SMC(), which weights modes by their mass" in found.remedy


def test_a_chain_that_is_stuck_far_below_asks_for_another_seed() -> None:
    found = judged(chains([0.0, 0.0, 10.0, 0.0]), np.repeat([0.0, 0.0, -33.0, 0.0], 250))
    assert "33.0 nats lower" in found.message
    assert found.remedy.startswith("Sample again with another seed (rng=) or longer tuning")
    assert found.remedy.endswith("Stuck where the posterior has almost no mass: chain 2.")


def test_a_noise_that_vanishes_asks_for_another_seed_or_a_floor() -> None:
    found = judged(
        chains([0.0, 0.0, 0.0, 10.0], log_sigma=[0.0, 0.0, 0.0, -25.0]), np.repeat([0.0, 0.0, 0.0, 50.0], 250)
    )
    assert "50.0 nats higher" in found.message
    assert found.remedy.endswith("In chain 3 the noise sd sigma is close to zero, which is not a mode.")
    assert "another seed (rng=)" in found.remedy
    assert "a prior that excludes zero, GaussianNoise(sd=uq.LogNormal" in found.remedy
    assert "refine" not in found.remedy


def test_chains_of_right_posteriors_are_in_one_place() -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(200):
        # slow chains, of 12 effective draws each, in 5 quantities
        steps = rng.standard_normal((5, 4, 250)) * np.sqrt(1.0 - 0.92**2)
        steps[:, :, 0] = rng.standard_normal((5, 4))
        for i in range(1, 250):
            steps[:, :, i] += 0.92 * steps[:, :, i - 1]
        theta = {f"q{j}": steps[j].ravel() for j in range(5)}
        found = places(Sampled(theta, np.zeros(1000, dtype=np.int64), SHAPE, SHAPE), [], [], None)
        alarms += len(found.groups) > 1
    assert alarms == 0


def problem() -> uq.Calibration:
    """Return y = theta + noise with theta ~ N(0, 1) on a box [-8, 8] that counts as refined."""
    space = uq.ParameterSpace(theta=uq.Normal(0.0, 1.0))
    return uq.Calibration(
        linear_surrogate(1.0, 1e-3),
        replicates(np.array([[0.0, 0.1]]), np.array([0.5])),
        uq.GaussianNoise(sd=uq.HalfNormal(1.0)),
        space=space,
    )


def test_an_edge_that_lost_chains_alone_lean_on_is_no_reason_to_refine() -> None:
    one = problem()
    rng = np.random.default_rng(1)
    theta = 0.1 * rng.standard_normal(SHAPE)
    name = next(key for key in one.priors if key != "theta")
    sigma = np.full(SHAPE, 0.5) * np.exp(0.1 * rng.standard_normal(SHAPE))
    theta[3], sigma[3] = 7.999, 1e-11 * np.exp(0.1 * rng.standard_normal(250))
    count = theta.size

    def context(at: np.ndarray) -> Context:
        draws = {"theta": at.ravel(), name: sigma.ravel()}
        return Context(one, Sampled(draws, np.zeros(count, dtype=np.int64), SHAPE, SHAPE))

    found = verdict.edge(context(theta), 0)
    assert found is not None
    assert found.status == "warn"
    assert "see 'other modes' first" in found.remedy
    (modes,) = verdict.other_modes(context(theta))
    assert "In chain 3 the noise sd" in modes.remedy
    found = verdict.edge(context(7.9 + 0.01 * rng.standard_normal(SHAPE)), 0)  # all of them
    assert found is not None
    assert "widen the prior there" in found.remedy


def contracted(theta: np.ndarray) -> Check:
    """Return the check of contraction for draws of theta ~ N(0, 1)."""
    one, count = problem(), len(theta)
    name = next(key for key in one.priors if key != "theta")
    draws = {"theta": theta, name: np.full(count, 0.5)}
    (check,) = prior_dominated(Context(one, Sampled(draws, np.zeros(count, dtype=np.int64), (1, count), (1, count))))
    return check


def test_a_posterior_that_is_wider_than_its_prior_is_no_pass() -> None:
    normal = np.random.default_rng(1).standard_normal(4000)
    modes = np.where(np.arange(4000) % 2, 1.55, -1.55)
    wide = contracted(modes + 0.1 * normal)
    assert wide.value == pytest.approx(1.0 - (1.55**2 + 0.01), abs=0.15)
    assert wide.status == "warn"
    assert "wider than its prior" in wide.remedy
    assert "SMC()" in wide.remedy
    assert contracted(0.97 * np.sign(modes) + 0.05 * normal).status == "note"  # as wide, elsewhere
    assert contracted(normal).status == "warn"  # the prior itself
    assert contracted(0.3 * normal + 2.0).status == "pass"


@pytest.mark.parametrize(("p", "status"), [(0.012, "note"), (0.049, "note"), (0.051, "pass")])
def test_a_fit_as_bad_as_few_right_ones_is_a_note(p: float, status: str) -> None:
    found = explained(p, p)
    assert found.status == status
    assert "limit 0.005" in found.message

"""Compiled scores of chains against those in arrays, and both against finite differences."""

import numpy as np
import pytest
from surrogates.members import GRAPHS, diamond, of_a_curve

import uqms as uq
from uqms._typing import Array
from uqms.surrogates.fused_chain import chain_scores, chain_scores_reverse

STEP = 1e-5


def points(chain: uq.Chain, k: int = 3, seed: int = 3) -> Array:
    """Return inputs (k, d), of which the second differs from the first in the last column only."""
    u = np.random.default_rng(seed).uniform(0.1, 0.9, (k, chain.domain.d))
    u[1, :-1] = u[0, :-1]
    return u


def close(found: Array, expected: Array) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())


def bars(chain: uq.Chain, k: int, seed: int = 4) -> tuple[Array, Array]:
    """Return derivatives by mean and covariance that are not symmetric."""
    rng, (h, q) = np.random.default_rng(seed), (chain._graph.draws, chain._graph.size)
    return rng.standard_normal((h, k, q)), rng.standard_normal((h, k, q, k, q))


@pytest.mark.parametrize("name", GRAPHS)
def test_compiled_scores_are_those_in_arrays(name: str) -> None:
    chain = GRAPHS[name]()
    assert chain._block is not None
    u = points(chain)
    found = chain.scores(u)
    mean, covariance = chain._graph.scores(u[None])
    close(found.mean, mean[:, 0])
    close(found.covariance, covariance[:, 0])
    assert found.correlated
    # A batch goes through the arrays, one input at a time through either.
    batch = chain.scores(np.stack([u, u[::-1]]))
    close(batch.mean[:, 1], found.mean[:, ::-1])
    close(batch.covariance[:, 0], found.covariance)
    alone = chain.marginal_scores(u)
    close(alone.mean, found.mean)
    close(alone.covariance, np.stack([found.covariance[:, a, :, a] for a in range(len(u))], axis=1))


@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
def test_both_derivatives_are_finite_differences(name: str) -> None:
    chain = GRAPHS[name]()
    u = points(chain)
    mean_bar, covariance_bar = bars(chain, len(u))
    found = chain.scores_reverse(u, mean_bar, covariance_bar)
    close(found, chain._graph.reverse(u, mean_bar, covariance_bar))

    def value(at: Array) -> float:
        scores = chain.scores(at)
        return float(np.sum(scores.mean * mean_bar) + np.sum(scores.covariance * covariance_bar))

    # Two inputs with the same truncation move together: apart, they would have two.
    together = name in ("curve", "positive curve")
    for place in np.ndindex(u.shape):
        direction = np.zeros_like(u)
        direction[place] = 1.0
        if together and place[0] < 2 and place[1] < u.shape[1] - 1:
            direction[:2, place[1]] = 1.0
        expected = (value(u + STEP * direction) - value(u - STEP * direction)) / (2.0 * STEP)
        assert np.sum(found * direction) == pytest.approx(expected, rel=1e-5, abs=1e-6 * np.abs(found).max())


def test_compiled_scores_of_some_of_a_chain() -> None:
    """A likelihood asks for the scores of the measured outputs only."""
    chain = diamond()
    u, used = points(chain), np.array([3, 0])
    error = chain.compiled_error
    assert error is not None
    mean, covariance = chain_scores(error.select(used).flat(), u)
    whole = chain.scores(u)
    close(mean, whole.mean[..., used])
    close(covariance, whole.covariance[:, :, used][..., used])
    mean_bar, covariance_bar = bars(chain, len(u))
    some = np.zeros_like(mean_bar), np.zeros_like(covariance_bar)
    some[0][..., used] = mean_bar[..., used]
    places = np.ix_(range(len(mean_bar)), range(len(u)), used, range(len(u)), used)
    some[1][places] = covariance_bar[places]
    part = chain_scores_reverse(error.select(used).flat(), u, mean_bar[..., used].copy(), covariance_bar[places].copy())
    close(part, chain.scores_reverse(u, *some))


def test_the_truncation_of_a_curve_is_passed_on_once_for_one_input_of_its_member() -> None:
    chain = of_a_curve()
    u = points(chain)
    found = chain.scores(u).covariance
    apart = u.copy()
    apart[1, :2] += 1e-7  # another input of the cell, as good as the same: its truncation is a new one
    other = chain.scores(apart).covariance
    speed = found.shape[2] - 1
    shared = found[:, 0, speed, 1, speed] - other[:, 0, speed, 1, speed]
    # J b b' J' of the two links, J by differences of the child's mean.
    child = chain.members["tissue"]
    rows = [
        chain.members["cell"].decode("trace", {"t": 0.9}).truncation[0],
        np.full(5, 0.2) @ chain.members["cell"].decode("trace").truncation,
    ]
    links = chain._graph.links(u)[0][1]  # (H, N, 2) in the order of the child's inputs: mean, end
    expected = []
    for draw in range(chain._graph.draws):
        slopes = []
        for k in (0, 1):
            point = {"mean": links[draw, k, 0], "end": links[draw, k, 1], "x": u[k, -1]}
            parts = []
            for name in ("mean", "end"):
                ends = [child.predict(point | {name: point[name] + s * 1e-4}).mean["speed"].item() for s in (1, -1)]
                parts.append((ends[0] - ends[1]) / 2e-4)
            slopes.append(parts)
        passed = [slopes[k][0] * rows[1] + slopes[k][1] * rows[0] for k in (0, 1)]
        expected.append(passed[0] @ passed[1])
    spread = child.bases[0].basis[0, 0] ** 2
    np.testing.assert_allclose(shared * spread, expected, rtol=0.05)

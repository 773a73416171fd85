import numpy as np
import pytest
from scipy.special import gamma

from uqms.planning.remaining import remaining


def ellipsoid(rng, d, volume):
    """Return |A (v - 1/2)|² with this volume inside of one, in a random orientation, axes of different length."""
    q, _ = np.linalg.qr(rng.standard_normal((d, d)))
    axes = np.exp(rng.uniform(-1.5, 0.0, d))
    axes *= (volume / (np.pi ** (d / 2) / gamma(d / 2 + 1)) / axes.prod()) ** (1 / d)
    assert axes.max() < 0.5
    return lambda v: np.sum(((v - 0.5) @ (q / axes)) ** 2, axis=1)


def test_the_volume_of_small_ellipsoids():
    off, scores = [], []
    for d, volume in ((2, 1e-3), (4, 1e-5), (6, 1e-6)):
        g = ellipsoid(np.random.default_rng(d), d, volume)
        found = [remaining(g, d, 1000, np.random.default_rng(seed)) for seed in range(8)]
        off += [np.log(one.volume / volume) for one in found]
        scores += [np.log(one.volume / volume) / (one.error / one.volume) for one in found]
        points = np.concatenate([one.points for one in found])
        assert all(len(one.points) >= 1000 for one in found)
        depth = g(points) ** (d / 2)  # uniform where points fill the ellipsoid evenly
        assert depth.max() <= 1.0
        assert depth.mean() == pytest.approx(0.5, abs=0.03)
        assert sum(one.weights.sum() for one in found) / 8 == pytest.approx(1.0, abs=1e-3)  # a sample of the whole cube
    # Steps by differences of points of the same ensemble gave 1.8 times the volume in six inputs.
    assert abs(np.mean(off)) < 3.5 * np.std(off, ddof=1) / np.sqrt(len(off))
    # The error has five degrees of freedom: the variance of a score is 5/3, and its root mean square has an sd of 0.35.
    assert 0.6 < np.sqrt(np.mean(np.square(scores))) < 2.2


def test_a_large_part_and_two_pieces():
    found = remaining(lambda v: v.sum(axis=1), 2, 3000, np.random.default_rng(1))
    assert abs(found.volume - 0.5) < 3 * found.error
    assert len(found.points) >= 3000
    pieces = lambda v: np.minimum(np.sum((v - 0.2) ** 2, axis=1), np.sum((v - 0.7) ** 2, axis=1)) / 0.01**2  # noqa: E731
    found = remaining(pieces, 3, 1000, np.random.default_rng(1))
    assert found.volume == pytest.approx(2 * 4 / 3 * np.pi * 0.01**3, rel=0.5)
    assert 0.2 < np.mean(found.points[:, 0] < 0.45) < 0.8


def test_nothing_remains():
    found = remaining(lambda v: 1.5 + 100 * np.sum((v - 0.3) ** 2, axis=1), 4, 100, np.random.default_rng(1))
    assert found.empty
    assert found.least == pytest.approx(1.5, abs=1e-4)
    np.testing.assert_allclose(found.best, 0.3, atol=1e-3)
    assert len(found.points) == 0
    some = remaining(lambda v: 0.99 + 100 * np.sum((v - 0.3) ** 2, axis=1), 4, 100, np.random.default_rng(1))
    assert not some.empty  # 8e-9 of the cube

"""The errors that outputs are made of: truncation has columns of its own for each input, no more than it needs."""

import numpy as np

from uqms.calibration.likelihood import Errors


def test_truncation_is_shared_within_an_input_and_new_with_each() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        points, inputs, latent = rng.integers(1, 9), int(rng.integers(1, 7)), rng.integers(0, 4)
        index = rng.integers(inputs, size=points)
        truncation = rng.standard_normal((points, latent)) * (rng.random((points, 1)) < 0.7)
        found = Errors.of(np.zeros((points, 1)), truncation, index, inputs, np.zeros(0, dtype=np.int64)).design
        expected = (truncation @ truncation.T) * (index[:, None] == index)
        np.testing.assert_allclose(found @ found.T, expected, atol=1e-12)
        ranks = [np.linalg.matrix_rank(truncation[index == k]) if (index == k).any() else 0 for k in range(inputs)]
        assert found.shape[1] == sum(ranks)
        owner = [np.unique(index[column != 0.0]) for column in found.T]
        assert all(len(one) == 1 for one in owner)
        assert (np.diff([int(one[0]) for one in owner]) >= 0).all()  # in the order of the inputs

"""Leave-one-out where the surrogate knows nothing: no log-density is NaN, and the user is warned."""

import numpy as np
import pytest
from calibration.problems import linear_surrogate, replicates

import uqms as uq
from uqms.calibration.assembly import leave_one_out
from uqms.errors import NumericalWarning

pytestmark = pytest.mark.filterwarnings("ignore::uqms.errors.DataWarning")
NOISE, X = 1e-5, np.array([0.1, 0.9])


def of_ratio(ratio: float) -> np.ndarray:
    """Return the terms of two measurements, whose surrogate's errors are nearly independent, at one draw."""
    data = replicates(np.array([[0.7], [0.7]]), X)
    problem = uq.Calibration(linear_surrogate(1.0, ratio * NOISE, ell_x=0.02), data, uq.GaussianNoise(sd=NOISE))
    rng = np.random.default_rng(1)
    return leave_one_out(problem, {"theta": np.array([0.7])}, np.zeros((1, 0)), rng)[1]


@pytest.mark.parametrize("ratio", [1.0, 1e2, 1e4, 1e5])
def test_a_measurement_alone_has_its_exact_density(ratio: float) -> None:
    """At 1e5 the difference of two precisions 1e10 times as large still has six digits."""
    exact = -0.5 * np.log(2.0 * np.pi * NOISE**2 * (1.0 + ratio**2))
    np.testing.assert_allclose(of_ratio(ratio), exact, atol=1e-5)


@pytest.mark.parametrize("ratio", [1e8, 1e10])
def test_what_is_rounding_is_warned_of_and_is_no_nan(ratio: float) -> None:
    with pytest.warns(NumericalWarning, match=r"error of 'y' is 1e13 times that of the noise, or more, at 100%"):
        terms = of_ratio(ratio)
    assert not np.isnan(terms).any()

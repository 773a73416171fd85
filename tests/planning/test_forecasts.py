"""What measurements would show: the same means and variances as predictions, jointly and for a new subject."""

from typing import Any

import numpy as np
import pytest
from calibration.population.test_population import SPACE, observations, surrogate, table
from calibration.population.test_prediction import posterior_of
from planning.test_next_experiment import TIMES, exact, fitted

import uqms as uq
from uqms.errors import InputError
from uqms.planning.forecasts import OfSubject
from uqms.planning.measurements import forecaster

Array = np.ndarray


def moments_of(source: Any, ideas: Any) -> tuple[Array, Array]:
    """Return mean and sd over draws and errors of what is predicted, without noise."""
    found = source.joint(source.points(ideas, measured=False), 1, np.random.default_rng(0))
    mean, covariance = found.mean[:, 0], found.covariance[:, 0]
    variance = np.diagonal(covariance, axis1=1, axis2=2)
    return mean.mean(axis=0), np.sqrt(variance.mean(axis=0) + mean.var(axis=0))


@pytest.mark.parametrize("unknown", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_forecasts_of_one_subject_are_its_predictions(unknown: bool) -> None:
    posterior = fitted(unknown=unknown)
    mean, sd = moments_of(forecaster(posterior, 600), uq.candidates(times=TIMES))
    predicted = posterior.predict(draws=600)
    np.testing.assert_allclose(mean, predicted.mean["y"], rtol=1e-9)
    np.testing.assert_allclose(sd, predicted.sd["y"], rtol=1e-6)


@pytest.mark.slow
def test_a_discrepancy_is_in_the_forecast_as_in_the_prediction() -> None:
    posterior = exact(discrepancy=uq.OffsetDiscrepancy(sd=1.0))
    mean, sd = moments_of(forecaster(posterior, 1000), uq.candidates(times=TIMES))
    predicted = posterior.predict(draws=1000)
    np.testing.assert_allclose(mean, predicted.mean["y"], rtol=1e-9)
    np.testing.assert_allclose(sd, predicted.sd["y"], rtol=1e-6)


def of_people() -> Any:
    """Return draws of a population whose surrogate's errors are as large as the noise."""
    population = uq.Population(
        SPACE, individual=("a", "b"), spread={"a": uq.HalfNormal(0.02), "b": uq.HalfNormal(0.05)}
    )
    data = observations(table())
    made = uq.Calibration(surrogate(), data, uq.GaussianNoise(uq.HalfNormal(0.3)), population=population)
    return posterior_of(made, 300)


def own(times: list[float], x: float) -> uq.Observations:
    """Return measurements of a new person under one condition."""
    import pandas as pd

    frame = pd.DataFrame({"t": times, "x": x, "y": 0.6, "id": "new"})
    return uq.Observations.from_table(frame, output="y", value="y", coords={"t": "t"}, conditions=["x"], subject="id")


@pytest.mark.filterwarnings("ignore::uqms.errors.UqmsWarning")
@pytest.mark.parametrize("measured", [False, True])
def test_forecasts_of_a_new_subject_are_its_predictions(measured: bool) -> None:
    posterior = of_people()
    subject = posterior.new_subject(own([0.0, 2.0], 0.3) if measured else None, rng=1)
    ideas = uq.candidates(outputs="y", coords={"t": [0.0, 1.0, 2.0]}, conditions={"x": [0.3]})
    mean, sd = moments_of(OfSubject(subject), ideas)
    predicted = subject.predict(conditions={"x": 0.3}, coords={"t": [0.0, 1.0, 2.0]})
    np.testing.assert_allclose(mean, predicted.mean["y"], rtol=1e-9)
    np.testing.assert_allclose(sd, predicted.sd["y"], rtol=1e-6)


@pytest.mark.filterwarnings("ignore::uqms.errors.UqmsWarning")
def test_the_next_sample_of_a_new_subject() -> None:
    posterior = of_people()
    subject = posterior.new_subject(own([0.0], 0.3), rng=1)
    ideas = uq.candidates(outputs="y", coords={"t": [0.0, 1.0, 2.0]}, conditions={"x": [0.3, 0.8]})
    best = uq.next_experiment(subject, ideas, size=2, rng=1)
    assert 0.0 < best.gain <= best.gain_exact + 0.1
    assert set(best.quantities.index) == {"a", "b", "c"}
    with pytest.raises(InputError, match="this is a population"):
        uq.next_experiment(posterior, ideas)
    trial = uq.trial_information(posterior, ideas, 20)
    assert trial.gain > 0.0
    assert (trial.table["expected_sd"].dropna() < trial.table["sd"].dropna()).all()

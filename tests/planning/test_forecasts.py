"""What measurements would show: the same means and variances as predictions, jointly and for a new subject."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from _linear_surrogate import LinearSurrogate
from calibration.population.test_population import SPACE, observations, surrogate, table
from calibration.population.test_prediction import posterior_of
from calibration.population.test_subject_outputs import drawn
from planning.test_next_experiment import TIMES, exact, fitted

import uqms as uq
from uqms.calibration.population.subject_outputs import Jointly
from uqms.calibration.posterior import Posterior
from uqms.errors import InputError
from uqms.planning.forecasts import MeasuredSubject, OfSubject
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


@pytest.mark.filterwarnings("ignore::uqms.errors.UqmsWarning")
@pytest.mark.parametrize("x", [0.2, 0.3])  # measured, and of another subject
def test_forecasts_of_a_measured_subject_are_its_predictions(x: float) -> None:
    posterior = of_people()
    source = OfSubject(MeasuredSubject.of(posterior, "s0", 400))
    ideas = uq.candidates(outputs="y", coords={"t": [0.0, 1.0, 2.0]}, conditions={"x": [x]})
    mean, sd = moments_of(source, ideas)
    predicted = posterior.predict(subjects="s0", conditions={"x": x}, coords={"t": [0.0, 1.0, 2.0]})
    np.testing.assert_allclose(mean, predicted.mean["y"].values.ravel(), rtol=1e-9)
    np.testing.assert_allclose(sd, predicted.sd["y"].values.ravel(), rtol=1e-6)
    best = uq.next_experiment(posterior, ideas, 1, subject="s0", rng=1)
    assert best.gain > 0.0
    with pytest.raises(InputError, match="there is no subject 'x'"):
        uq.next_experiment(posterior, ideas, 1, subject="x")
    with pytest.raises(InputError, match="leave it out here"):
        uq.next_experiment(fitted(), uq.candidates(times=TIMES), 1, subject="x")


MU, OMEGA, NOISE, ERROR, LENGTH = 1.0, 0.6, 0.3, 0.5, 0.5


def linear_people(draws: int) -> tuple[Any, Array]:
    """Return a posterior of y = theta_i + error(x) + noise with its exact moments, and a covariance (6, 6).

    Of theta of the first subject, its two measurements, those of two others, and a new one of the first at 0.8.
    """
    space = uq.ParameterSpace(theta=uq.Normal(0.0, MU), conditions={"x": uq.Condition(0.0, 1.0)})
    surrogate = LinearSurrogate(space, lambda x: np.ones((*x.shape, 1)), ERROR, LENGTH)
    x, label = np.array([0.1, 0.6, 0.3, 0.9]), ["p", "p", "q", "r"]
    frame = pd.DataFrame({"x": x, "id": label, "y": [0.3, 0.8, -0.2, 0.4]})
    data = uq.Observations.from_table(frame, output="y", value="y", conditions=["x"], subject="id")
    population = uq.Population(space, individual=("theta",), spread={"theta": OMEGA})
    made = uq.Calibration(surrogate, data, uq.GaussianNoise(NOISE), population=population, outside="extrapolate")
    A = np.zeros((6, 4))  # of mu and the effects of p, q, r: theta_p, the data, the new measurement
    A[:, 0] = 1.0
    A[[0, 1, 2, 3, 4, 5], [1, 1, 1, 2, 3, 1]] = OMEGA
    A[:, 0] *= MU
    at = np.append(x, 0.8)
    C = A @ A.T
    C[1:, 1:] += ERROR**2 * np.exp(-np.abs(np.subtract.outer(at, at)) / LENGTH) + NOISE**2 * np.eye(5)
    D = slice(1, 5)
    gain = np.linalg.solve(C[D, D], A[D]).T  # of (mu, effects) on the data
    mean, left = gain @ frame["y"].to_numpy(), np.eye(4) - gain @ A[D]
    rng = np.random.default_rng(1)
    z = rng.standard_normal((draws, 4))
    z = (z - z.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T))).T @ np.linalg.cholesky(left).T + mean
    groups = {
        "posterior": xr.Dataset({"theta": (("chain", "draw"), MU * z[None, :, 0])}),
        "latents": xr.Dataset({"value": (("chain", "draw", "latent"), z[None, :, 1:])}),
    }
    return Posterior(xr.DataTree.from_dict(groups), made, None, None), C  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::uqms.errors.UqmsWarning")
def test_the_gain_of_a_measured_subject_is_that_of_the_closed_form() -> None:
    """The error that subjects share is a nuisance which depends on the parameters, given the data."""
    posterior, C = linear_people(4000)
    D = slice(1, 5)
    P = C - C[:, D] @ np.linalg.solve(C[D, D], C[D])  # given the data
    rho = P[0, 5] ** 2 / (P[0, 0] * P[5, 5])
    wanted = -0.5 * np.log1p(-rho)
    ideas = uq.candidates(outputs="y", conditions={"x": [0.8]}, noise=NOISE)
    best = uq.next_experiment(posterior, ideas, 1, subject="p", draws=4000, rng=2)
    mcse = best.best["mcse"].iloc[0]
    assert best.quantities["sd"].iloc[0] == pytest.approx(np.sqrt(P[0, 0]), rel=1e-6)
    assert best.gain == pytest.approx(wanted, abs=3.0 * mcse + 0.005)
    assert best.quantities["expected_sd"].iloc[0] == pytest.approx(np.sqrt(P[0, 0] * (1.0 - rho)), rel=0.02)
    # With the shared error known, or independent of the parameters given the data, the gain would be another.
    known = 0.5 * np.log1p(P[0, 0] / NOISE**2)
    assert known - wanted > 10.0 * mcse


# --------------------------------------------------------------------------------------- sampled errors, and occasions
@pytest.mark.filterwarnings("ignore::uqms.errors.UqmsWarning")
@pytest.mark.parametrize("x", [0.2, 0.3])  # measured, and of another subject
@pytest.mark.parametrize("sampled", ["student", "discrepancy"])
def test_forecasts_where_errors_of_subjects_are_sampled_are_their_predictions(sampled: str, x: float) -> None:
    student = uq.StudentTNoise(scale=uq.HalfNormal(0.5), df=4.0)
    noise = student if sampled == "student" else uq.GaussianNoise(uq.HalfNormal(0.3))
    more = {} if sampled == "student" else {"discrepancy": uq.OffsetDiscrepancy(sd=0.4)}
    population = uq.Population(
        SPACE, individual=("a", "b"), spread={"a": uq.HalfNormal(0.02), "b": uq.HalfNormal(0.05)}
    )
    made = uq.Calibration(surrogate(), observations(table()), noise, population=population, **more)
    posterior = drawn(made, 60)
    source = OfSubject(MeasuredSubject.of(posterior, "s0", 60))
    assert isinstance(source.subject.shared, Jointly)
    ideas = uq.candidates(outputs="y", coords={"t": [0.0, 1.0, 2.0]}, conditions={"x": [x]})
    mean, sd = moments_of(source, ideas)
    predicted = posterior.predict(subjects="s0", conditions={"x": x}, coords={"t": [0.0, 1.0, 2.0]}, draws=60)
    np.testing.assert_allclose(mean, predicted.mean["y"].values.ravel(), rtol=1e-9)
    np.testing.assert_allclose(sd, predicted.sd["y"].values.ravel(), rtol=1e-6)
    found = source.joint(source.points(ideas, measured=False), 1, np.random.default_rng(0))
    assert (found.exact_covariance.max() > 0.0) == (sampled == "discrepancy")  # which runs do not remove
    best = uq.next_experiment(posterior, ideas, 1, subject="s0", draws=60, rng=1)
    assert best.gain > 0.0


GAMMA = 0.7


def on_occasions(draws: int) -> Posterior:
    """Return draws of subjects whose only parameter differs between occasions, y = theta + noise."""
    space = uq.ParameterSpace(theta=uq.Normal(0.0, MU))
    simulator = uq.DirectSimulator(
        lambda theta: theta[:, None], space=space, outputs={"y": ("t",)}, coords={"t": np.zeros(1)}, vectorized=True
    )
    frame = pd.DataFrame({"t": 0.0, "id": list("ppqq"), "visit": list("abab"), "y": [0.3, 0.8, -0.2, 0.4]})
    data = uq.Observations.from_table(frame, output="y", value="y", coords={"t": "t"}, subject="id", experiment="visit")
    population = uq.Population(
        space, individual=("theta",), spread={"theta": OMEGA}, occasions=("theta",), occasion_spread={"theta": GAMMA}
    )
    return drawn(uq.Calibration(simulator, data, uq.GaussianNoise(NOISE), population=population), draws)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::uqms.errors.UqmsWarning")
def test_the_effect_of_a_new_occasion_is_not_known() -> None:
    posterior = on_occasions(4000)
    source = OfSubject(MeasuredSubject.of(posterior, "p", 4000))
    theta = source.quantities["theta"]
    ideas = uq.candidates(outputs="y", coords={"t": [0.0]}, noise=NOISE)
    best = uq.next_experiment(posterior, ideas, 1, subject="p", draws=4000, rng=2)
    wanted = 0.5 * np.log1p(theta.var() / (GAMMA**2 + NOISE**2))
    mcse = best.best["mcse"].iloc[0]
    assert best.gain == pytest.approx(wanted, abs=3.0 * mcse + 0.01)
    without = 0.5 * np.log1p(theta.var() / NOISE**2)  # as if the subject had the same parameters on all occasions
    assert without - wanted > 10.0 * mcse
    # On an occasion that it was measured on, the effect is one of the draws.
    again = OfSubject(MeasuredSubject.of(posterior, "p", 4000), "b")
    mean = again.joint(again.points(ideas), 1, np.random.default_rng(0)).mean[:, 0, 0]
    effect = mean - theta
    other = uq.next_experiment(posterior, ideas, 1, subject="p", occasion="b", draws=4000, rng=2)
    wanted = 0.5 * np.log(
        (mean.var() + NOISE**2) / (effect.var() * (1 - np.corrcoef(effect, theta)[0, 1] ** 2) + NOISE**2)
    )
    assert other.gain == pytest.approx(wanted, abs=3.0 * mcse + 0.01)
    with pytest.raises(InputError, match=r"it was measured on \['a', 'b'\]"):
        uq.next_experiment(posterior, ideas, 1, subject="p", occasion="c")
    with pytest.raises(InputError, match="leave it out here"):
        uq.next_experiment(fitted(), uq.candidates(times=TIMES), 1, occasion="c")


@pytest.mark.filterwarnings("ignore::uqms.errors.UqmsWarning")
def test_the_next_sample_of_a_new_subject_is_on_a_new_occasion() -> None:
    posterior = on_occasions(2000)
    frame = pd.DataFrame({"t": 0.0, "id": "new", "visit": list("uv"), "y": [0.2, 0.5]})
    data = uq.Observations.from_table(frame, output="y", value="y", coords={"t": "t"}, subject="id", experiment="visit")
    subject = posterior.new_subject(data, rng=1)
    ideas = uq.candidates(outputs="y", coords={"t": [0.0]}, noise=NOISE)
    best = uq.next_experiment(subject, ideas, 1, draws=2000, rng=2)
    theta = subject.predicting_draws()["theta"]
    wanted = 0.5 * np.log1p(theta.var() / (GAMMA**2 + NOISE**2))
    assert best.gain == pytest.approx(wanted, abs=3.0 * best.best["mcse"].iloc[0] + 0.03)  # of 500 draws
    source = OfSubject(subject, "v")
    mean = source.joint(source.points(ideas), 1, np.random.default_rng(0)).mean[:, 0, 0]
    np.testing.assert_allclose(mean, subject.natural[:, 1, 0])

"""Populations with noise that grows with the output: likelihood, what each subject says, predictions, new subjects."""

from typing import Any

import numpy as np
import pytest
from calibration.population.test_population import COVARIATES, by_hand, observations, surrogate, table
from calibration.population.test_population import SPACE as SPACE
from calibration.population.test_prediction import exact_error, new_observations, posterior_of
from scipy.stats import multivariate_normal, norm

import uqms as uq
from uqms.calibration.population.subject import NewData, _inputs
from uqms.calibration.population.subject_prediction import Measured, Shared, featured, subjects_of
from uqms.calibration.population.terms import subject_terms
from uqms.calibration.predict import Targets, conditional_moments, own_cells

NOISE = uq.CombinedNoise(additive=uq.HalfNormal(0.3), proportional=uq.HalfNormal(0.3))


def problem(noise: Any = NOISE, **settings: Any) -> uq.PopulationCalibration:
    population = uq.Population(
        SPACE,
        individual=("a", "b"),
        covariates={"b": {"log(weight / 70)": uq.Normal(0.0, 0.1), "female": 0.1}},
        spread={"a": uq.HalfNormal(0.05), "b": uq.HalfNormal(0.1)},
        correlated=True,
    )
    given = {"population": population, "subjects": COVARIATES, "outside": "extrapolate"} | settings
    return uq.Calibration(surrogate(), observations(table()), noise, **given)


def law(one: uq.PopulationCalibration, theta: dict[str, float], z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of the rows from the definition."""
    mean, covariance = by_hand(one, theta, z)
    return mean, covariance + np.diag(theta["proportional"] ** 2 * mean**2)


def drawn(one: uq.PopulationCalibration, count: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    return one.prior_draws(count, 2), np.random.default_rng(5).standard_normal((count, one.latents))


def through_features(one: uq.PopulationCalibration, theta: dict[str, np.ndarray], z: np.ndarray) -> Any:
    """Return the likelihood through features that are exact at the inputs of one draw, and its u and phi."""
    own = one.individuals(theta, z)
    u, phi = one.data.unit_inputs(own), one.data.noise.phi(own, (len(z),))
    error = exact_error(one, u[0])
    return featured(one.data.data_model, error, np.arange(error.q), subjects_of(one.data)), u, phi


@pytest.mark.slow
def test_the_likelihood_is_that_of_the_definition() -> None:
    one = problem()
    assert one.data.data_model.closed_form
    theta, z = drawn(one, 4)
    found = one.log_likelihood(theta, z)
    for i in range(4):
        mean, covariance = law(one, {name: values[i] for name, values in theta.items()}, z[i])
        wanted = multivariate_normal(mean, covariance).logpdf(one.observations.value)
        assert found[i] == pytest.approx(wanted, rel=1e-8)


@pytest.mark.slow
def test_through_features_it_is_the_same_and_so_are_its_terms_and_derivatives() -> None:
    one = problem()
    theta, z = drawn(one, 1)
    lowrank, u, phi = through_features(one, theta, z)
    wanted = one.log_likelihood(theta, z)[0]
    values = one.data.cells.z
    assert lowrank.evaluate(u, phi, values)[0] == pytest.approx(wanted, abs=1e-8)
    _, terms, _ = subject_terms(one, theta, z, np.random.default_rng(1))
    joint, without = lowrank.by_draw(u, phi, values)
    np.testing.assert_allclose(without[0, 0], terms[0], rtol=1e-7)
    value, u_bar, phi_bar = lowrank.value_and_slopes(u[0], phi[0], values)
    assert value == pytest.approx(wanted, abs=1e-8)
    for bar, at, place in ((u_bar, u[0], 0), (phi_bar, phi[0], 1)):
        for i in np.ndindex(at.shape):
            shift = np.zeros_like(at)
            shift[i] = 1e-6
            ends = [
                lowrank.value_and_slopes(*((at + s * shift, phi[0]) if place == 0 else (u[0], at + s * shift)), values)
                for s in (1.0, -1.0)
            ]
            slope = (ends[0][0] - ends[1][0]) / 2e-6
            assert bar[i] == pytest.approx(slope, rel=1e-5, abs=1e-5 * np.abs(bar).max())


@pytest.mark.slow
def test_what_a_subject_adds_given_the_others() -> None:
    one = problem()
    theta, z = drawn(one, 2)
    joint, terms, _ = subject_terms(one, theta, z, np.random.default_rng(1))
    np.testing.assert_allclose(joint, one.log_likelihood(theta, z), rtol=1e-10)
    values = one.observations.value
    for i in range(2):
        mean, covariance = law(one, {name: column[i] for name, column in theta.items()}, z[i])
        for j in range(5):
            rest = one.observations.subject != f"s{j}"
            others = multivariate_normal(mean[rest], covariance[np.ix_(rest, rest)]).logpdf(values[rest])
            assert terms[i, j] == pytest.approx(joint[i] - others, rel=1e-7, abs=1e-8)


@pytest.fixture(scope="module")
def fixed() -> tuple[uq.PopulationCalibration, Shared, np.ndarray]:
    """Return 20 000 copies of one draw, with the shared error drawn given the data, and a new input."""
    one = problem()
    rng, S = np.random.default_rng(7), 20_000
    theta = {name: np.repeat(values, S) for name, values in one.prior_draws(1, 4).items()}
    theta["sigma"][:], theta["proportional"][:] = 0.25, 0.25
    z = np.repeat(rng.standard_normal((1, one.latents)), S, axis=0)
    own = one.individuals(theta, z)
    single = {name: values[:1] for name, values in own.items()}
    u = one.data.unit_inputs(single)
    extra = one.data.unit_inputs(single, np.array([[0.9]]), units=np.array([1]))
    error = exact_error(one, np.concatenate([u[0], extra[0]]))
    phi = one.data.noise.phi(single, (1,))
    found = featured(one.data.data_model, error, np.arange(error.q), one.data.cells.unit).condition(
        u, phi, one.data.cells.z
    )
    step = np.linalg.solve(found.factor[0, 0].T, rng.standard_normal((found.mean.shape[2], S))).T
    shared = Shared(one, theta, own, z, np.zeros(S, dtype=int), found.mean[0, 0] + step, error)
    return one, shared, np.repeat(extra, S, axis=0)


def test_an_input_without_cells_has_the_exact_conditional_law(fixed: tuple) -> None:
    one, shared, extra = fixed
    t = np.array([0.0, 1.0, 2.0])
    decoder = one.surrogate.decode("y", {"t": t})
    nothing = Measured.of(one.data.cells, np.array([-1]))
    mean, variance, draws = shared.predict(extra, nothing, decoder, np.random.default_rng(1))
    targets = Targets(
        np.array([[0.9]]),
        np.zeros(3, dtype=int),
        np.full(3, "y"),
        {"t": t},
        *decoder,
        unit=np.array([1]),
        observed=np.array([-1]),
    )
    single = {name: values[:1] for name, values in shared.own.items()}
    ((_, moments),) = conditional_moments(one.data, single, np.zeros(1, dtype=int), targets)
    sd, S = np.sqrt(np.diagonal(moments.covariance[0])), len(draws)
    np.testing.assert_allclose(draws[:, 0].mean(axis=0), moments.mean[0], atol=4 * sd.max() / np.sqrt(S))
    np.testing.assert_allclose(np.cov(draws[:, 0].T), moments.covariance[0], atol=6 * sd.max() ** 2 / np.sqrt(S))
    total = variance[:, 0].mean(axis=0) + mean[:, 0].var(axis=0)
    np.testing.assert_allclose(total, sd**2, rtol=0.05)


def test_given_the_shared_error_a_subject_is_conditioned_on_its_own_rows(fixed: tuple) -> None:
    """By the dense normal law of one input's own error, row by row."""
    one, shared, _ = fixed
    k = int(np.flatnonzero(one.data.cells.unit == 2)[0])
    few = shared.some(np.arange(3))
    u, measured = one.data.unit_inputs(few.own)[:, [k]], Measured.of(one.data.cells, np.array([k]))
    decoder = one.surrogate.decode("y", {"t": np.array([0.5, 1.5])})
    mean, variance, _ = few.predict(u, measured, decoder, np.random.default_rng(1))
    m, rho = few.scores(u)
    at = one.data.cells.experiment == k
    G, F, z = one.data.cells.basis[at], one.data.cells.truncation[at], one.data.cells.cell_mean[at]
    for s in range(3):
        centre = one.data.cells.offset[at] + G @ m[s, 0]
        D = few.own["sigma"][s] ** 2 + few.own["proportional"][s] ** 2 * centre**2
        C = (G * rho[s, 0]) @ G.T + F @ F.T + np.diag(D)
        cross = (decoder.basis * rho[s, 0]) @ G.T + decoder.truncation @ F.T
        wanted = decoder.offset + decoder.basis @ m[s, 0] + cross @ np.linalg.solve(C, z - centre)
        np.testing.assert_allclose(mean[s, 0], wanted, rtol=1e-10)
        prior = (decoder.basis**2) @ rho[s, 0] + np.sum(decoder.truncation**2, axis=1)
        np.testing.assert_allclose(variance[s, 0], prior - np.sum(cross * np.linalg.solve(C, cross.T).T, axis=1))
        density = multivariate_normal(centre, C).logpdf(z)
        assert few.log_likelihood(u, measured)[s, 0] == pytest.approx(density, rel=1e-9)


def test_new_rows_scatter_as_their_outputs_say(fixed: tuple) -> None:
    """New measurements of the same rows: the conditional law of the cells, and noise of their size."""
    one, shared, _ = fixed
    rows, cells = shared.new_rows(np.random.default_rng(3)), one.data.cells
    single = {name: values[:1] for name, values in shared.own.items()}
    ((_, moments),) = conditional_moments(one.data, single, np.zeros(1, dtype=int), own_cells(cells))
    variance = np.diagonal(moments.covariance[0])
    sd = np.sqrt(variance + 0.25**2 + 0.25**2 * (moments.mean[0] ** 2 + variance))[cells.row_cell]
    np.testing.assert_allclose(rows.std(axis=0), sd, rtol=0.05)
    assert sd.max() > 1.2 * sd.min()


@pytest.mark.slow
def test_a_new_subject_is_weighted_as_quadrature_says() -> None:
    population = uq.Population(SPACE, individual=("a",), spread=uq.HalfNormal(0.1))
    one = problem(population=population, subjects=None)
    found = posterior_of(one, 200)
    shared = found.hierarchy.shared
    subject = found.new_subject(new_observations(), rng=2)
    data = NewData(found, new_observations())
    measured = Measured.of(data.cells, np.arange(data.cells.experiments))
    grid = norm.ppf((np.arange(600) + 0.5) / 600)
    omega, logs = shared.theta["omega_a"], np.empty((600, 200))
    for i, x in enumerate(grid):
        natural = (shared.theta["a"] + omega * x)[:, None, None]
        u = _inputs(shared, natural, data.cells.conditions, data.cells.unit)
        logs[i] = shared.log_likelihood(u, measured).sum(axis=1)
    weight = np.exp(logs - logs.max())
    value = shared.theta["a"] + omega * grid[:, None]
    mean = np.sum(weight * value) / weight.sum()
    sd = np.sqrt(np.sum(weight * (value - mean) ** 2) / weight.sum())
    draws = subject.draws["a"].values.ravel()
    assert draws.mean() == pytest.approx(mean, abs=4 * sd / np.sqrt(subject.ess))
    assert draws.std() == pytest.approx(sd, rel=4 / np.sqrt(subject.ess))
    own = subject.predict(coords={"t": [0.0, 1.0]}, conditions={"x": 0.3}, noise=True)
    without = subject.predict(coords={"t": [0.0, 1.0]}, conditions={"x": 0.3})
    phi = subject.shared.theta
    added = own.sd["y"].values ** 2 - without.sd["y"].values ** 2
    y2 = without.mean["y"].values ** 2 + without.sd["y"].values ** 2
    wanted = float((phi["sigma"] ** 2).mean()) + float((phi["proportional"] ** 2).mean()) * y2
    np.testing.assert_allclose(added, wanted, rtol=0.1)

"""The verdict on a population: shares through features against dense algebra."""

import copy

import numpy as np
import pytest
from calibration.population.test_population import SPACE, observations, surrogate, table
from scipy import sparse
from scipy.linalg import eigh
from scipy.stats import truncnorm

import uqms as uq
from uqms.calibration.checks import Sampled, Verdict
from uqms.calibration.judging import judge
from uqms.calibration.population.covariances import ProcessCovariances
from uqms.calibration.population.shared_error import nystroem
from uqms.calibration.population.subject_checks import (
    _check_ends,
    _check_features,
    _information,
    _share,
    _through_features,
    _trace,
)
from uqms.calibration.population.subject_prediction import featured, noise_of_scores, subjects_of
from uqms.calibration.predict import data_moments
from uqms.surrogates.process import scores_at


@pytest.mark.parametrize("occasions", [(), ("a",)])
def test_shares_through_features_are_those_of_dense_matrices(occasions: tuple[str, ...]) -> None:
    population = uq.Population(
        SPACE,
        individual=("a", "b"),
        spread={"a": uq.HalfNormal(0.05), "b": uq.HalfNormal(0.1)},
        occasions=occasions,
        occasion_spread=0.02 if occasions else None,
    )
    frame = table(subjects=30, occasions=2 if occasions else 1)
    frame = frame.assign(x=lambda rows: (rows["x"] * 10 % 4) / 5).drop_duplicates(["id", "t", "x", "visit"])
    exact, close = (
        uq.Calibration(
            surrogate(),
            observations(frame),
            uq.GaussianNoise(sd=uq.HalfNormal(0.3)),
            population=population,
            outside="extrapolate",
            surrogate_error=kind,
        )
        for kind in ("exact", "low-rank")
    )
    rng, S = np.random.default_rng(5), 6
    theta = {name: values * (1.0 + 0.02 * rng.standard_normal(S)) for name, values in exact.prior_draws(1, 2).items()}
    z = rng.standard_normal((1, exact.latents)) + 0.2 * rng.standard_normal((S, exact.latents))
    theta["sigma"] = np.full(S, 0.2)
    close = close.with_features(theta, z, np.random.default_rng(1))
    h = np.zeros(S, dtype=int)
    _, wanted = _information(exact, theta, z, h)
    variances, misfit = _through_features(close, theta, z, h)
    np.testing.assert_allclose(variances, wanted, rtol=0.03)
    wanted, share = _share(exact, wanted), _share(close, variances)
    assert wanted.max() > 0.2
    np.testing.assert_allclose(share, wanted, atol=0.02)
    assert misfit.name == "predictive misfit"


def through_features(sd: float) -> uq.PopulationCalibration:
    """Return a population of known spreads and noise, whose error is joint through features."""
    population = uq.Population(SPACE, individual=("a", "b"), spread={"a": 0.05, "b": 0.1})
    frame = table(subjects=40).assign(x=lambda rows: (rows["x"] * 10 % 4) / 5).drop_duplicates(["id", "t", "x"])
    return uq.Calibration(
        surrogate(),
        observations(frame),
        uq.GaussianNoise(sd=sd),
        population=population,
        outside="extrapolate",
        surrogate_error="low-rank",
    )


def test_the_misfit_through_features_has_its_law() -> None:
    """Data of the model itself pass at the truth; with five times the noise they do not."""
    one = through_features(0.2)
    rng = np.random.default_rng(3)
    theta, z = one.prior_draws(1, 2), rng.standard_normal((1, one.latents))
    many = {name: np.repeat(values, 3) for name, values in theta.items()}
    one = one.with_features(many, np.repeat(z, 3, axis=0), rng)
    rows = one.simulate(theta, rng, z)[0]
    _, right = _through_features(one.with_values(rows), theta, z, np.zeros(1, dtype=int))
    _, wrong = _through_features(
        one.with_values(rows + 1.0 * rng.standard_normal(len(rows))), theta, z, np.zeros(1, dtype=int)
    )
    assert right.status == "pass"
    assert wrong.status == "warn"


@pytest.mark.filterwarnings("ignore::uqms.errors.CapabilityWarning")
def test_noise_that_is_not_normal_counts_as_much_as_it_says() -> None:
    """Fisher's information of Student-t noise is (df + 1) / (df + 3) / scale², not that of a unit sd."""
    population = uq.Population(SPACE, individual=("a",), spread=0.02)
    noise = uq.StudentTNoise(scale=0.05, df=4.0)
    one = uq.Calibration(surrogate(), observations(table()), noise, population=population, outside="extrapolate")
    theta, z = one.prior_draws(4, 1), np.random.default_rng(2).standard_normal((4, one.latents))
    *_, covariances = data_moments(one.data, one.individuals(theta, z), errors=False)
    variance = np.diagonal(covariances[0], axis1=1, axis2=2)
    assert variance.mean() == pytest.approx(0.05**2 * 7.0 / 5.0, rel=0.25)  # from 32 draws a cell


def test_the_trace_of_an_inverse_takes_a_block_a_subject() -> None:
    """Subjects with two effects, some with occasions, in any order; three quantities that all share."""
    rng = np.random.default_rng(1)
    owner = np.array([0, 0, 1, 1, 2, 2, 0, 2, 2])
    root = rng.standard_normal((12, 12))
    dense = root @ root.T + 5.0 * np.eye(12)
    dense[:9, :9] *= owner[:, None] == owner
    inverse = np.linalg.inv(dense)
    found = _trace(sparse.csc_matrix(dense), owner, inverse[:, 9:])
    assert found == pytest.approx(np.trace(inverse), rel=1e-12)


def test_features_that_miss_what_subjects_have_in_common_are_told() -> None:
    one = through_features(0.02)
    assert one.lowrank is not None
    rng, S = np.random.default_rng(4), 5
    theta, z = one.prior_draws(60, 2), rng.standard_normal((60, one.latents))
    one = one.with_features(theta, z, rng)
    theta, z = {name: values[:S] for name, values in theta.items()}, z[:S]
    h = np.zeros(S, dtype=int)
    right = _check_features(one, theta, z, h)
    assert right.status == "pass"
    assert 0.0 < right.value < 0.1

    u = one.data.unit_inputs(one.individuals(theta, z))
    poor, covariances = copy.copy(one), one.lowrank.error.covariances
    assert isinstance(covariances, ProcessCovariances)
    cloud, process = u.reshape(-1, u.shape[-1]), covariances.process
    error = nystroem(covariances, cloud, u, ranks=(1,))
    poor.lowrank = featured(one.data.data_model, error, one.data.cells.used, subjects_of(one.data))
    wrong = _check_features(poor, theta, z, h)
    assert wrong.status == "warn"
    assert f"{process.q} features" in wrong.message

    # By dense matrices: the worst of sums with weights that are constant, linear and square in the inputs.
    noise, found = (
        noise_of_scores(one.data.data_model, np.full((S, 1), 0.02), u, covariances.scale(cloud), one.data.cells.used),
        [],
    )
    for at in u:
        centred = (at - at.mean(axis=0))[:, at.std(axis=0) > 1e-9]
        q, _ = np.linalg.qr(np.column_stack([np.ones(len(at)), centred, centred**2]))
        exact, ours = scores_at(process, at).covariance[0], error.covariance(at)[0]
        found.append(
            [
                np.abs(eigh(q.T @ a @ q + v * np.eye(q.shape[1]), q.T @ b @ q + v * np.eye(q.shape[1]))[0] - 1.0).max()
                for a, b, v in zip(exact, ours, noise, strict=True)
            ]
        )
    assert wrong.value == pytest.approx(np.quantile(found, 0.75, axis=0).max(), rel=1e-6)


def test_a_spread_whose_prior_ends_far_below_what_data_say_is_told() -> None:
    """Draws of normals cut off at an end of their priors, in units of what data leave of them."""
    spread = {"a": uq.Uniform(0.01, 0.05), "b": uq.HalfNormal(0.1)}
    population = uq.Population(SPACE, individual=("a", "b"), spread=spread)
    frame = table(subjects=8).drop_duplicates(["id", "t", "x"])
    noise = uq.GaussianNoise(sd=0.2)
    one = uq.Calibration(
        surrogate(), observations(frame), noise, population=population, outside="extrapolate", surrogate_error="exact"
    )
    prior, rng = one.prior_draws(20_000, 1), np.random.default_rng(2)
    variances = np.full(len(population.priors), 0.01)
    width = 0.1 * prior["omega_a"].std()  # omega_b has half of its draws near its lower end, 0, and passes
    for beyond, status in ((1.0, "pass"), (5.0, "warn")):
        z = truncnorm(beyond, np.inf).rvs(20_000, random_state=rng) - beyond
        check = _check_ends(one, prior | {"omega_a": 0.05 - width * z}, variances)
        assert check.status == status
        if status == "warn":
            assert check.value == pytest.approx(beyond, abs=0.25)
            assert "upper end of the prior of omega_a" in check.message
    assert "end of a prior" in [check.name for check in judged(one).checks]


def judged(one: uq.PopulationCalibration) -> Verdict:
    """Return the verdict on draws of the prior, as if a sampler had returned them."""
    prior, latents = one.prior_draws(400, 3), np.random.default_rng(4).standard_normal((400, one.latents))
    good, enough = dict.fromkeys(prior, 1.0), dict.fromkeys(prior, 400.0)
    sampled = Sampled(prior, np.zeros(400, dtype=int), (4, 100), (4, 100), good, enough, latents=latents)
    return judge(one, sampled)[0]

"""Several surrogates in one calibration: their data add up, and every part answers for itself."""

import copy
import inspect
from typing import Any

import numpy as np
import pytensor
import pytest
import xarray as xr
from calibration.problems import linear_surrogate, matern52, replicates
from calibration.test_noise_models import COUNTS, HALF, REALS, curve, observed
from scipy import stats

import uqms as uq
from uqms.calibration.parts import JointCalibration
from uqms.calibration.verdict import fisher_information
from uqms.errors import ExtrapolationError, InputError
from uqms.surrogates import Log

X = np.array([0.2, 0.5])
SLOPES, ERRORS, SD = (1.0, 2.0), (0.8, 0.3), 0.5
VALUES = [0.8 + np.random.default_rng(seed).standard_normal((2, 2)) for seed in (5, 6)]


def joint(values: Any = VALUES, errors: tuple[float, float] = ERRORS, **settings: Any) -> JointCalibration:
    """Return the calibration of one parameter by two linear surrogates."""
    surrogates = [linear_surrogate(slope, sd) for slope, sd in zip(SLOPES, errors, strict=True)]
    problem: Any = uq.Calibration(
        {name: (s, replicates(v, X)) for name, s, v in zip(("clamp", "beat"), surrogates, values, strict=True)},
        noise={"clamp": uq.GaussianNoise(sd=SD), "beat": uq.GaussianNoise(sd=SD)},
        **settings,
    )
    assert isinstance(problem, JointCalibration)
    return problem


def covariance(errors: tuple[float, float] = ERRORS) -> np.ndarray:
    """Return that of all eight rows given theta, by hand."""
    out = SD**2 * np.eye(8)
    for i, sd in enumerate(errors):
        rows = slice(4 * i, 4 * i + 4)
        out[rows, rows] += sd**2 * np.kron(matern52(X[:, None] - X[None, :], 0.3), np.ones((2, 2)))
    return out


JACOBIAN = np.repeat(SLOPES, 4)
DATA = np.concatenate([v.ravel() for v in VALUES])


def test_likelihood_is_the_dense_gaussian_of_all_data() -> None:
    problem, theta = joint(), np.linspace(-2.0, 2.0, 5)
    expected = [stats.multivariate_normal(JACOBIAN * t, covariance()).logpdf(DATA) for t in theta]
    np.testing.assert_allclose(problem.log_likelihood({"theta": theta}), expected, rtol=1e-9)


def test_two_parts_of_an_exact_surrogate_are_one_calibration_of_all_data() -> None:
    surrogate = linear_surrogate(1.5, 1e-6)
    noise = uq.GaussianNoise(sd=SD)
    whole = uq.Calibration(surrogate, replicates(np.concatenate(VALUES, axis=1), X), noise)
    parts: Any = uq.Calibration(
        {"a": (surrogate, replicates(VALUES[0], X)), "b": (surrogate, replicates(VALUES[1], X))},
        noise={"a": noise, "b": noise},
    )
    theta = {"theta": np.linspace(-1.0, 2.0, 7)}
    np.testing.assert_allclose(parts.log_likelihood(theta), whole.log_likelihood(theta), rtol=1e-7)
    h = np.zeros((7, 2), dtype=np.int64)
    np.testing.assert_allclose(
        fisher_information(parts, theta, h), fisher_information(whole, theta, h[:, 0]), rtol=1e-6
    )
    assert parts.mass_cut == pytest.approx(whole.mass_cut, abs=1e-15)


@pytest.fixture(scope="module")
def posterior() -> uq.Posterior:
    found: uq.Posterior = joint().sample(uq.SMC(particles=1000), rng=1)
    return found


def test_posterior_is_the_closed_form_and_the_verdict_passes(posterior: uq.Posterior) -> None:
    information = JACOBIAN @ np.linalg.solve(covariance(), JACOBIAN)
    sd = (1.0 + information) ** -0.5
    mean = sd**2 * (JACOBIAN @ np.linalg.solve(covariance(), DATA))
    draws = posterior.draws["theta"].values
    assert draws.mean() == pytest.approx(mean, abs=4 * sd / np.sqrt(2000))
    assert draws.std() == pytest.approx(sd, rel=4 / np.sqrt(2 * 2000))
    assert posterior.verdict.status != "fail"
    # both surrogates' errors together, beside the prior of variance one
    perfect = JACOBIAN @ JACOBIAN / SD**2
    share = 1.0 - (1.0 + information) / (1.0 + perfect)
    assert float(posterior.surrogate_share["theta"]) == pytest.approx(share, rel=0.05)
    law = stats.multivariate_normal(np.zeros(8), covariance() + np.outer(JACOBIAN, JACOBIAN))
    assert posterior.log_evidence.value == pytest.approx(law.logpdf(DATA), abs=0.2)


def test_every_part_has_its_checks_and_its_rows(posterior: uq.Posterior) -> None:
    names = [check.name for check in posterior.verdict.checks]
    for kind in ("predictive misfit", "edge of the design box", "prior mass cut", "autocorrelated residuals"):
        assert [name for name in names if name.startswith(kind)] == [f"{kind} (clamp)", f"{kind} (beat)"]
    rows = posterior.tree["log_likelihood"]["value"]
    assert list(rows["part"].values) == ["clamp"] * 4 + ["beat"] * 4
    np.testing.assert_allclose(posterior.tree["observed_data"]["value"], DATA)
    # log p(z_i | other z) of the dense Gaussian, for one draw
    theta, precision = float(posterior.draws["theta"][0, 0]), np.linalg.inv(covariance())
    weighted = precision @ (DATA - JACOBIAN * theta)
    diagonal = np.diag(precision)
    expected = 0.5 * np.log(diagonal / (2 * np.pi)) - 0.5 * weighted**2 / diagonal
    np.testing.assert_allclose(rows[0, 0], expected, rtol=1e-7)


def test_a_part_predicts_with_what_all_data_say(posterior: uq.Posterior) -> None:
    """At a condition that was measured: the closed form given the data of both parts."""
    prediction = posterior.predict(part="beat", conditions={"x": np.array([0.2])}, draws=4000)
    whole = covariance() + np.outer(JACOBIAN, JACOBIAN)
    reach = np.concatenate([np.zeros(4), 0.09 * np.repeat(matern52(0.2 - X, 0.3), 2)]) + 2.0 * JACOBIAN
    mean = reach @ np.linalg.solve(whole, DATA)
    sd = float(np.sqrt(0.09 + 4.0 - reach @ np.linalg.solve(whole, reach)))
    assert float(prediction.mean["y"].squeeze()) == pytest.approx(mean, abs=4 * sd / np.sqrt(2000))
    assert float(prediction.sd["y"].squeeze()) == pytest.approx(sd, rel=0.1)
    part = posterior.part("beat")
    assert part.problem is posterior.problem.parts["beat"]
    np.testing.assert_allclose(part.tree["observed_data"]["value"], VALUES[1].ravel())
    with pytest.raises(InputError, match="which part"):
        posterior.predict()
    with pytest.raises(InputError, match=r"there are \['clamp', 'beat'\]"):
        posterior.part("walk")


def mixed() -> JointCalibration:
    """Return a calibration whose parts are of all kinds: with latents, in closed form, with unknown noise."""
    problem: Any = uq.Calibration(
        {
            "counts": (curve(Log()), observed(COUNTS)),
            "reals": (curve(), observed(REALS)),
            "robust": (curve(seed=4), observed(REALS)),
        },
        noise={"counts": uq.PoissonNoise(), "reals": uq.GaussianNoise(HALF), "robust": uq.StudentTNoise(HALF, 4.0)},
        discrepancy={"reals": uq.OffsetDiscrepancy()},
    )
    return problem


def test_the_pymc_model_is_the_density_of_the_arrays() -> None:
    problem = mixed()
    theta = {key: float(values[0]) for key, values in problem.prior_draws(1, 5).items()}
    assert "reals_sigma" in theta
    assert "robust_sigma" in theta
    eta = np.random.default_rng(2).standard_normal(problem.latents)
    assert problem.latents == sum(problem.parts[name].latents for name in ("counts", "robust")) > 0
    line = problem.on_the_real_line({**{k: np.array([v]) for k, v in theta.items()}, "latents": eta[None]})[0]
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        model = problem.model()
        point = {v.name: at for v, at in zip(model.value_vars[:-1], line, strict=False)} | {"latents": eta}
        found = model.compile_logp(vars=model.observed_RVs)(point)
    assert float(found) == pytest.approx(float(problem.log_likelihood(theta, eta)), rel=1e-9)


def test_simulated_data_of_all_parts_go_back_into_them() -> None:
    problem = mixed()
    theta = problem.prior_draws(3, 1)
    eta = np.random.default_rng(2).standard_normal((3, problem.latents))
    values = problem.simulate(theta, 1, eta)
    assert values.shape == (3, 12)
    other = problem.with_values(values[0])
    np.testing.assert_allclose(other.parts["robust"].observations.value, values[0, 8:])
    first = {key: column[0] for key, column in theta.items()}
    total = sum(
        float(one.problem.with_values(own).log_likelihood(one.theta, one.latents if one.problem.latents else None))
        for one, own in zip(problem.pieces(first, eta[0]), np.split(values[0], 3), strict=True)
    )
    assert float(other.log_likelihood(first, eta[0])) == pytest.approx(total, rel=1e-12)


def test_a_shared_parameter_has_one_prior_and_one_box() -> None:
    narrow = linear_surrogate(2.0, 0.3, prior=uq.Normal(0.0, 0.5))
    parts = {
        "clamp": (linear_surrogate(1.0, 0.8), replicates(VALUES[0], X)),
        "beat": (narrow, replicates(VALUES[1], X)),
    }
    noise = {"clamp": uq.GaussianNoise(sd=SD), "beat": uq.GaussianNoise(sd=SD)}
    with pytest.raises(InputError, match=r"'clamp' and 'beat' have different priors of 'theta'"):
        uq.Calibration(parts, noise=noise)
    space = uq.ParameterSpace(theta=uq.Normal(0.0, 0.5))
    assert uq.Calibration(parts, noise=noise, space=space).priors == {"theta": uq.Normal(0.0, 0.5)}
    with pytest.raises(InputError, match=r"Parameters \['other'\] are inputs of none"):
        uq.Calibration(
            parts, noise=noise, space=uq.ParameterSpace(theta=uq.Normal(0.0, 0.5), other=uq.Normal(0.0, 1.0))
        )
    with pytest.raises(InputError, match="noise is"):
        uq.Calibration(parts, noise={"clamp": uq.GaussianNoise(sd=SD)})
    with pytest.raises(InputError, match="discrepancy is"):
        uq.Calibration(parts, noise=noise, discrepancy={"walk": uq.OffsetDiscrepancy()})


def fitted(low: float, high: float) -> uq.Surrogate:
    design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(low, high)), 8, rng=1)
    runs = uq.ensemble.build(
        design, {"y": np.sin(design["k"].values)}, space=uq.ParameterSpace(k=uq.Uniform(low, high))
    )
    return uq.GaussianProcess(hyperparameters="point").fit(runs)


def test_the_prior_is_conditioned_on_what_all_boxes_share() -> None:
    seen = xr.DataArray(0.5, name="y")
    parts = {"a": (fitted(0.0, 2.0), seen), "b": (fitted(0.5, 3.0), seen)}
    noise = {"a": uq.GaussianNoise(sd=0.1), "b": uq.GaussianNoise(sd=0.1)}
    inside = uq.ParameterSpace(k=uq.Uniform(0.5, 2.0))
    problem: Any = uq.Calibration(parts, noise=noise, space=inside)
    assert problem.limits("k") == pytest.approx((0.5, 2.0))
    assert problem.mass_cut == pytest.approx(0.0, abs=1e-12)
    wide = uq.ParameterSpace(k=uq.TruncatedNormal(1.2, 0.26, low=0.0, high=2.0))
    cut: Any = uq.Calibration(parts, noise=noise, space=wide)
    assert cut.mass_cut == pytest.approx(float(wide.priors["k"].cdf(0.5)), rel=1e-9)
    assert cut.parts["a"].limits("k") == pytest.approx((0.5, 2.0))
    draws = cut.prior_draws(500, 1)["k"]
    assert draws.min() >= 0.5
    with pytest.raises(ExtrapolationError):
        uq.Calibration(parts, noise=noise, space=uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)))


@pytest.mark.slow
def test_nuts_finds_the_closed_form_too() -> None:
    found = joint().sample(uq.NUTS(draws=500, tune=500), rng=2)
    sd = (1.0 + JACOBIAN @ np.linalg.solve(covariance(), JACOBIAN)) ** -0.5
    mean = sd**2 * (JACOBIAN @ np.linalg.solve(covariance(), DATA))
    draws = found.draws["theta"].values
    ess = float(found.summary().loc["theta", "ess_bulk"])
    assert draws.mean() == pytest.approx(mean, abs=4 * sd / np.sqrt(ess))
    assert draws.std() == pytest.approx(sd, rel=6 / np.sqrt(2 * ess))
    assert found.verdict.status != "fail"


@pytest.mark.slow
def test_parts_with_normal_and_other_noise_have_the_posterior_of_quadrature() -> None:
    """The second part's latents meet inputs that are a part of an array, which compiled code reads as such."""
    surrogates = [linear_surrogate(slope, 1e-4) for slope in SLOPES]
    parts = dict(zip(("clamp", "beat"), zip(surrogates, map(replicates, VALUES, (X, X)), strict=True), strict=True))
    noise = {"clamp": uq.GaussianNoise(sd=SD), "beat": uq.StudentTNoise(scale=uq.HalfNormal(1.0), df=4.0)}
    found = uq.Calibration(parts, noise=noise).sample(uq.NUTS(draws=500, tune=500), rng=2)
    theta, scale = np.linspace(-2.0, 4.0, 301)[:, None], np.linspace(1e-3, 5.0, 400)[None, :]
    density = stats.norm.logpdf(theta) + stats.norm.logpdf(scale)
    for z in VALUES[0].ravel():
        density = density + stats.norm.logpdf(z, SLOPES[0] * theta, SD)
    for z in VALUES[1].ravel():
        density = density + stats.t.logpdf(z, 4.0, SLOPES[1] * theta, scale)
    weight = np.exp(density - density.max())
    weight /= weight.sum()
    for values, name in ((theta, "theta"), (scale, "beat_sigma")):
        mean = np.sum(weight * values)
        sd = np.sqrt(np.sum(weight * (values - mean) ** 2))
        ess = float(found.summary().loc[name, "ess_bulk"])
        assert found.draws[name].values.mean() == pytest.approx(mean, abs=4 * sd / np.sqrt(ess))


def test_calibration_is_the_base_of_what_it_makes() -> None:
    surrogate, noise = linear_surrogate(1.0, 0.1), uq.GaussianNoise(sd=SD)
    one = uq.Calibration(surrogate, observations=replicates(VALUES[0], X), noise=noise)
    several: Any = uq.Calibration(surrogate={"a": (surrogate, replicates(VALUES[0], X))}, noise={"a": noise})
    assert [type(problem).__name__ for problem in (one, several)] == ["SingleCalibration", "JointCalibration"]
    assert all(isinstance(problem, uq.Calibration) for problem in (one, several, several.parts["a"], copy.copy(one)))
    assert issubclass(uq.PopulationCalibration, uq.Calibration)
    shown = list(inspect.signature(uq.Calibration).parameters)
    assert shown[:3] == ["surrogate", "observations", "noise"]
    assert "population" in shown
    assert "without_data" in inspect.signature(uq.PopulationCalibration).parameters
    with pytest.raises(InputError, match="observations are missing"):
        uq.Calibration(surrogate, noise=noise)  # type: ignore[call-overload]

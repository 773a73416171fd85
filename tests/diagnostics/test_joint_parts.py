"""Simulation-based calibration and profile likelihood of several surrogates in one calibration."""

import numpy as np
import pytest
from calibration.problems import linear_surrogate, replicates
from calibration.test_parts import DATA, JACOBIAN, SD, SLOPES, VALUES, X, covariance, joint

import uqms as uq
from uqms.calibration.parts import JointCalibration
from uqms.diagnostics import profile_likelihood, rank_statistics, simulation_based_calibration
from uqms.diagnostics.sbc import _misfit
from uqms.errors import InputError


@pytest.mark.slow
def test_ranks_of_a_right_pipeline_are_uniform() -> None:
    found = simulation_based_calibration(joint(), 50, rng=1)  # type: ignore[arg-type]
    assert found.passed, str(found)
    assert found.quantities == ("theta", "log_likelihood", "misfit")


@pytest.mark.slow
def test_a_part_with_the_wrong_noise_is_seen() -> None:
    """Data of the second part have three times the noise that its likelihood claims."""
    problem = joint()

    def draw(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], JointCalibration]:
        truth = problem.prior_draws(1, rng)
        values = problem.simulate(truth, rng)[0]
        values[4:] += np.sqrt(8.0) * SD * rng.standard_normal(4)
        return truth, problem.with_values(values)

    found = rank_statistics(draw, 60, rng=2)  # type: ignore[arg-type]
    assert not found.passed
    assert any("log_likelihood" in text or "misfit" in text for text in found.failures)


def test_latents_of_parts_are_ranked_with_their_data() -> None:
    problem: JointCalibration = uq.Calibration(
        {name: (linear_surrogate(s, 0.5), replicates(v, X)) for name, s, v in zip("ab", SLOPES, VALUES, strict=True)},
        noise={"a": uq.StudentTNoise(SD, 5.0), "b": uq.GaussianNoise(sd=SD)},
    )  # type: ignore[assignment]
    assert problem.latents == 2
    found = simulation_based_calibration(problem, 10, rng=1)  # type: ignore[arg-type]
    assert found.passed, str(found)


def test_misfit_is_the_sum_over_the_parts() -> None:
    """Of one draw: squared distances to the mean of new data, relative to their spread; 8 rows, mean and sd by hand."""
    problem = joint()
    count = 2000
    theta = {"theta": np.full(count, 0.4)}
    found = _misfit(problem, theta, np.zeros((count, 0)), np.random.default_rng(0))
    variance = np.diagonal(covariance())
    # four copies each: E (z - mean)² = (z - J theta)² + variance / 4
    expected = np.sum(((DATA - JACOBIAN * 0.4) ** 2 + variance / 4.0) / variance)
    assert found.mean() == pytest.approx(expected, rel=0.05)


def test_profile_is_that_of_the_linear_model() -> None:
    """Generalised least squares of all data: estimate ± 1.96 sd, and the parabola of the log-likelihood."""
    found = profile_likelihood(joint(), "theta")  # type: ignore[arg-type]
    weight = np.linalg.solve(covariance(), JACOBIAN)
    best, sd = weight @ DATA / (weight @ JACOBIAN), (weight @ JACOBIAN) ** -0.5
    assert found.maximum == pytest.approx(best, abs=0.01 * sd)
    np.testing.assert_allclose(found.interval, [best - 1.95996 * sd, best + 1.95996 * sd], atol=0.02 * sd)
    assert found.identified
    theta = found.curve["theta"].values
    np.testing.assert_allclose(found.curve["log_likelihood"], -0.5 * ((theta - best) / sd) ** 2, atol=2e-3)


def test_a_part_keeps_derived_quantities() -> None:
    derived = {"double": uq.Derived(lambda p: 2.0 * p["theta"], unit="mm")}
    posterior = joint(derived=derived).sample(uq.SMC(particles=200), rng=1)
    part = posterior.part("beat")
    np.testing.assert_array_equal(part.draws["double"], 2.0 * part.draws["theta"])
    assert part.draws["double"].attrs["unit"] == "mm"
    assert "double" in part.tree["prior"].dataset
    assert part.summary().loc["double", "unit"] == "mm"
    with pytest.raises(InputError, match="name of a parameter"):
        joint(derived={"theta": lambda p: p["theta"]})


def test_other_things_are_refused() -> None:
    with pytest.raises(InputError, match="give a uq.Calibration"):
        simulation_based_calibration("nothing", 20)  # type: ignore[arg-type]

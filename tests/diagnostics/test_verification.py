"""Verification on the simulator: rates over functions drawn from the surrogate's own law, weights by quadrature."""

import numpy as np
import pytest
import xarray as xr
from calibration.gridded import grid_of, log_prior, moments, sampled, weights_of
from calibration.problems import given_surrogate, linear_surrogate, replicates

import uqms as uq
from uqms.diagnostics import Verification, verification_design, verify
from uqms.diagnostics.verification import _weights
from uqms.errors import DataError, InputError
from uqms.surrogates import GaussianProcessSurrogate

X = np.array([[0.02], [0.35], [0.68], [0.99]])
NOISE_SD = 0.1


def smooth(theta: np.ndarray) -> np.ndarray:
    """A function that a few runs nearly determine."""
    return np.sin(3.0 * theta) + theta


def surrogate(variance: float = 0.5) -> GaussianProcessSurrogate:
    """Return a surrogate of four runs with given hyperparameters."""
    return given_surrogate(X, smooth(X), ell=0.5, variance=variance)


def calibrated(one: GaussianProcessSurrogate, value: float, count: int = 400, sd: float = NOISE_SD) -> uq.Posterior:
    """Return the posterior of one number, by quadrature."""
    problem = uq.Calibration(one, xr.DataArray(value, name="y"), uq.GaussianNoise(sd=sd))
    return sampled(problem, count, seed=1, size=400)


def drawn(seed: int, said: GaussianProcessSurrogate, shift: float = 0.0, n: int = 20) -> Verification:
    """Return the verification of a surrogate when truth and data are drawn from the law of `surrogate()`."""
    rng = np.random.default_rng(seed)
    law = surrogate()
    function = law.functions(1, rng)
    theta = rng.random()
    offset = law.decode("y").offset
    value = float(function(np.array([[theta]]))[0, 0, 0] + offset[0] + shift + NOISE_SD * rng.standard_normal())
    posterior = calibrated(said, value)
    design = verification_design(posterior, n, rng=seed)
    y = function(design["theta"].values[:, None])[0, :, 0] + offset[0]
    return verify(posterior, uq.ensemble.build(design, {"y": y + shift}), rng=seed)


@pytest.fixture(scope="module")
def right() -> list[Verification]:
    """Return the verifications of a right surrogate on 30 functions."""
    return [drawn(seed, surrogate()) for seed in range(1, 31)]


# ------------------------------------------------------------------------------------------------------ nominal and not
@pytest.mark.slow
def test_a_right_surrogate_passes_at_its_nominal_rate(right: list[Verification]) -> None:
    objections = sum(one.verdict["errors of y"].status != "pass" for one in right)
    # four ranges of 99 %, of which each objects on one side only: at most 2 %; P(more than 4 of 30) = 0.0003
    assert objections <= 4
    inside = [one.errors.table.loc["y", "coverage_95%"] for one in right]
    assert np.mean(inside) == pytest.approx(0.95, abs=4.0 * np.std(inside) / np.sqrt(30) + 0.005)


@pytest.mark.slow
def test_a_surrogate_whose_error_is_said_to_be_half_as_large_is_caught() -> None:
    # D²/m is then 4 times as large; errors of a function have few degrees of freedom, so that not all show it
    small = [drawn(seed, surrogate(variance=0.125)) for seed in range(1, 16)]
    caught = [one.verdict["errors of y"].status != "pass" for one in small]
    assert np.mean(caught) >= 0.9
    assert np.mean([one.errors.table.loc["y", "mahalanobis"] for one in small]) == pytest.approx(4.0, abs=1.5)


@pytest.mark.filterwarnings("ignore::uqms.errors.PriorConflictWarning")  # the data lie in the prior's tail
def test_a_shifted_surrogate_is_caught_and_fails() -> None:
    shifted = [drawn(seed, surrogate(), shift=0.5) for seed in range(1, 11)]
    statuses = [one.verdict["errors of y"].status for one in shifted]
    assert statuses.count("fail") >= 9
    assert "Fit again with these runs" in str(shifted[0])
    assert str(shifted[0]).startswith("Verified: FAIL")


def test_wrong_errors_that_are_nothing_against_the_noise_only_warn() -> None:
    # means stay, errors are said to be a millionth: all is wrong with them, and noise of sd 1000 does not care
    posterior = calibrated(given_surrogate(X, smooth(X), ell=0.5, variance=5e-13), 1.0, sd=1e3)
    design = verification_design(posterior, 20, rng=1)
    found = verify(posterior, uq.ensemble.build(design, {"y": smooth(design["theta"].values)}))
    assert found.verdict["errors of y"].status == "warn"
    assert "too small against the noise" in str(found)


# -------------------------------------------------------------------------------------------------------------- weights
@pytest.fixture(scope="module")
def weighted() -> tuple[uq.Posterior, Verification]:
    """Return a posterior of 1600 draws and its verification; the simulator is `smooth`."""
    posterior = calibrated(surrogate(), 0.5, count=1600)
    design = verification_design(posterior, 500, rng=2)
    return posterior, verify(posterior, uq.ensemble.build(design, {"y": smooth(design["theta"].values)}))


def exact_moments(problem: uq.Calibration, value: float) -> tuple[float, float]:
    """Return mean and sd of theta with the simulator itself."""
    grid = grid_of(problem, 4000)
    log_density = log_prior(problem, grid) - 0.5 * ((smooth(grid["theta"]) - value) / NOISE_SD) ** 2
    return moments(grid, weights_of(log_density))["theta"]


def test_weights_recover_the_posterior_of_the_simulator(weighted: tuple[uq.Posterior, Verification]) -> None:
    posterior, found = weighted
    assert found.weights is not None
    assert found.k_hat < 0.7
    assert found.more_runs == 0
    mean, sd = exact_moments(posterior.problem, 0.5)
    row = found.summary().loc["theta"]
    error = sd * np.sqrt(np.sum(found.weights**2))
    assert abs(row["mean_simulator"] - mean) < 4.0 * error
    assert row["sd_simulator"] == pytest.approx(sd, rel=0.1)
    effect = found.verdict["effect on the posterior"]
    assert effect.value == pytest.approx((row["mean_simulator"] - row["mean"]) / row["sd"], rel=0.01)
    ratio = row["sd_simulator"] / row["sd"]
    assert abs(ratio - 1.0) > 0.2  # weights give the right sd, and that it changes is no pass
    assert f"the sd of theta becomes {ratio:.2f} times as large" in effect.message
    assert effect.status == "warn"
    assert "verification.summary(), the simulator's own means and sds" in effect.remedy


def test_the_log_ratio_is_that_of_the_two_densities(weighted: tuple[uq.Posterior, Verification]) -> None:
    posterior, found = weighted
    theta = found.draws["theta"].values
    exact = -0.5 * ((0.5 - smooth(theta)) / NOISE_SD) ** 2 - np.log(NOISE_SD * np.sqrt(2.0 * np.pi))
    assert np.allclose(found.draws["log_ratio"], exact - posterior.problem.log_likelihood({"theta": theta}))


def test_the_shift_of_a_mean_is_told_from_few_draws_too() -> None:
    # the simulator is 0.02 above a surrogate that is nearly sure: slope 3.8, noise 0.1, so the mean moves by -0.2 sd
    one = given_surrogate(np.linspace(0, 1, 12)[:, None], smooth(np.linspace(0, 1, 12)[:, None]), ell=0.7)
    posterior = calibrated(one, 0.5)
    design = verification_design(posterior, 90, rng=1)
    found = verify(posterior, uq.ensemble.build(design, {"y": smooth(design["theta"].values) + 0.02}))
    effect = found.verdict["effect on the posterior"]
    assert effect.value == pytest.approx(-0.2, abs=4.0 * 0.2 * np.sqrt(2.0 / 90))
    assert found.verdict["errors of y"].status == "fail"


@pytest.mark.parametrize(("offset", "status"), [(0.02, "pass"), (0.04, "warn")])
def test_a_mean_that_moves_by_more_than_a_quarter_of_an_sd_is_no_pass(offset: float, status: str) -> None:
    # as above: the mean moves by -0.2 sd and by -0.4 sd
    runs = np.linspace(0, 1, 12)[:, None]
    posterior = calibrated(given_surrogate(runs, smooth(runs), ell=0.7, variance=100.0), 0.5)
    design = verification_design(posterior, 90, rng=1)
    found = verify(posterior, uq.ensemble.build(design, {"y": smooth(design["theta"].values) + offset}))
    assert found.verdict["effect on the posterior"].status == status
    assert "limit 0.25" in found.verdict["effect on the posterior"].message


@pytest.mark.parametrize("slope", [1.5, 1.0, 0.75])  # below 0.71 weights have no variance
def test_the_sd_of_a_quantity_is_judged_too(slope: float) -> None:
    # the surrogate is y = theta, nearly sure, the datum its middle: with slope s the sd is 1/s times as large
    one = linear_surrogate(1.0, 1e-4)
    problem = uq.Calibration(one, replicates(np.array([[0.5]]), np.array([0.5])), uq.GaussianNoise(sd=0.05))
    posterior = sampled(problem, 800, seed=1, size=8000)
    design = verification_design(posterior, 400, rng=1)
    found = verify(posterior, uq.ensemble.build(design, {"y": 0.5 + slope * (design["theta"].values - 0.5)}))
    effect = found.verdict["effect on the posterior"]
    scale = float(effect.message.split("the sd of theta becomes ")[1].split(" times")[0])
    assert abs(found.verdict["effect on the posterior"].value) < 0.25
    assert scale == pytest.approx(1.0 / slope, rel=0.08)  # 400 draws: 4 % is a standard error of an sd
    assert effect.status == ("pass" if slope == 1.0 else "warn")


def test_an_error_that_is_overstated_is_no_pass() -> None:
    large = [drawn(seed, surrogate(variance=8.0)) for seed in range(1, 11)]
    caught = [one.verdict["errors of y"] for one in large]
    assert np.mean([one.status == "warn" for one in caught]) >= 0.9
    assert np.mean([one.value for one in caught]) == pytest.approx(1.0 / 16.0, abs=0.03)
    assert "smaller than stated" in caught[0].message
    assert "stated error is about" in caught[0].message
    assert str(large[0]).startswith("Verified: WARN")


def test_the_verdict_takes_what_was_verified() -> None:
    posterior = calibrated(surrogate(), 0.8)
    design = verification_design(posterior, 20, rng=1)
    found = verify(posterior, uq.ensemble.build(design, {"y": smooth(design["theta"].values) + 0.5}))
    assert found.verdict.status == "fail"
    assert found.posterior.verdict.status == "fail"
    assert found.posterior.verdict.checks == (*posterior.verdict.checks, *found.verdict.checks)
    assert found.posterior.draws.equals(posterior.draws)
    assert found.posterior.tree.attrs["verdict"] == "fail"
    assert "verdict" not in posterior.tree.attrs  # the posterior that was given is as it was
    again = found.posterior.with_checks(found.verdict.checks)
    assert again.verdict.checks == found.posterior.verdict.checks


def test_few_draws_are_not_reweighted() -> None:
    posterior = calibrated(surrogate(), 0.8)
    design = verification_design(posterior, 30, rng=1)
    found = verify(posterior, uq.ensemble.build(design, {"y": smooth(design["theta"].values)}))
    assert found.weights is None
    assert found.more_runs == 70
    assert "none from 30 draws: at least 100 are required, 70 more" in str(found)
    with pytest.raises(InputError, match="summary: there are no weights"):
        found.summary()


def test_the_tail_of_weights_that_are_nearly_equal_has_no_meaning() -> None:
    one = np.log1p(1e-3 * ((np.arange(100) + 0.5) / 100) ** -1.5)  # a Pareto tail of shape 1.5
    k_hat, weights = _weights(one)
    assert k_hat > 0.7
    assert weights is not None
    np.testing.assert_allclose(weights, np.exp(one) / np.exp(one).sum(), rtol=1e-12)
    assert _weights(20.0 * one)[1] is None


def test_a_heavy_tail_of_the_weights_asks_for_more_runs() -> None:
    # the surrogate knows little between its runs, the noise is small against that: its posterior is far too wide
    posterior = calibrated(given_surrogate(X, smooth(X), ell=0.15), 0.8, sd=0.01)
    design = verification_design(posterior, 100, rng=3)
    found = verify(posterior, uq.ensemble.build(design, {"y": smooth(design["theta"].values)}))
    assert found.k_hat >= 0.7
    assert found.weights is None
    assert found.more_runs == 0  # a hundred runs of one parameter are enough for a surrogate, not for weights
    assert found.verdict["weights"].status == "warn"
    assert found.verdict["effect on the posterior"].status == "warn"
    # with the new runs the surrogate is so good that its own posterior can be reweighted
    assert found.surrogate is not None
    again = calibrated(found.surrogate, 0.8, sd=0.01)
    design = verification_design(again, 100, rng=4)
    found = verify(again, uq.ensemble.build(design, {"y": smooth(design["theta"].values)}))
    assert found.weights is not None


# -------------------------------------------------------------------------------------------------- runs and surrogate
def test_the_surrogate_is_conditioned_on_the_new_runs() -> None:
    posterior = calibrated(surrogate(), 0.8)
    design = verification_design(posterior, 5, rng=1)
    new = design["theta"].values[:, None]
    found = verify(posterior, uq.ensemble.build(design, {"y": smooth(new[:, 0])})).surrogate
    assert found is not None
    both = np.vstack([X, new])
    expected = given_surrogate(both, smooth(both), ell=0.5, variance=0.5)
    at = np.linspace(0.0, 1.0, 11)[:, None]
    got, wanted = found.scores(at), expected.scores(at)
    assert np.allclose(got.mean, wanted.mean, atol=1e-8)
    assert np.allclose(got.covariance, wanted.covariance, atol=1e-8)
    assert found.runs == 9


def test_failed_runs_are_told() -> None:
    posterior = calibrated(surrogate(), 0.8)
    design = verification_design(posterior, 20, rng=1)
    y = smooth(design["theta"].values)
    y[:2] = np.nan
    states = ["failed"] * 2 + ["completed"] * 18
    words = ["no convergence"] * 2 + [""] * 18
    found = verify(posterior, uq.ensemble.build(design, {"y": y}, states=states, messages=words))
    assert found.failed == 2
    assert found.verdict["runs"].status == "warn"
    assert "2 of 20 did not complete (first run 0: no convergence)" in str(found)
    states, y[:] = ["failed"] * 5 + ["completed"] * 15, smooth(design["theta"].values)
    found = verify(posterior, uq.ensemble.build(design, {"y": y}, states=states))
    assert found.verdict["runs"].status == "fail"
    with pytest.raises(DataError, match="1 of 20 runs completed"):
        verify(posterior, uq.ensemble.build(design, {"y": y}, states=["completed"] + ["failed"] * 19))


def test_every_draw_runs_at_every_condition_and_rows_are_the_datas() -> None:
    data = replicates(np.array([[0.1, 0.2], [0.3, 0.1]]), np.array([0.25, 0.75]))
    problem = uq.Calibration(linear_surrogate(1.0, 0.5), data, uq.GaussianNoise(sd=0.3))
    posterior = sampled(problem, 400, seed=1)
    design = verification_design(posterior, 12, rng=1)
    assert design.sizes["run"] == 24
    assert np.array_equal(design["x"].values, np.tile([0.25, 0.75], 12))
    y = design["theta"].values + 0.1 * design["x"].values
    found = verify(posterior, uq.ensemble.build(design, {"y": y}))
    theta = found.draws["theta"].values
    exact = np.zeros(12)
    for x, values in ((0.25, (0.1, 0.2)), (0.75, (0.3, 0.1))):
        for value in values:
            exact += -0.5 * ((value - theta - 0.1 * x) / 0.3) ** 2 - np.log(0.3 * np.sqrt(2.0 * np.pi))
    assert np.allclose(found.draws["log_ratio"], exact - problem.log_likelihood({"theta": theta}))
    # one condition of the first draw failed: the draw has no likelihood, its other run is judged all the same
    states = ["failed"] + ["completed"] * 23
    found = verify(posterior, uq.ensemble.build(design, {"y": y}, states=states))
    assert found.draws.sizes["draw"] == 11
    assert found.errors.observed.sizes["run"] == 23


def test_curves_are_compared_where_they_were_observed() -> None:
    days = np.arange(8.0)
    design = uq.sobol(uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0)), 8, rng=1)

    def simulated(design: xr.Dataset) -> xr.Dataset:
        theta = design["theta"].values[:, None]
        field = theta[:, :, None] * np.array([1.0, 2.0])[:, None] + np.array([0.0, 0.1, 0.2])
        coords = {"row": [0.0, 1.0], "column": [0.0, 1.0, 2.0]}
        fields = xr.DataArray(field, dims=("run", "row", "column"), coords=coords)
        return uq.ensemble.build(design, {"curve": ("day", (1.0 + theta) * days**2, days), "field": fields})

    one = uq.GaussianProcess(hyperparameters="point").fit(simulated(design))
    # a quadratic is its own cubic spline, so between the days the exact values are known too
    curve = xr.DataArray([0.4, 8.0], dims="day", coords={"day": [0.5, 2.3]}, name="curve")
    field = xr.DataArray([[0.6]], dims=("row", "column"), coords={"row": [1.0], "column": [2.0]}, name="field")
    data = uq.Observations.concat([uq.Observations.from_xarray(curve), uq.Observations.from_xarray(field)])
    problem = uq.Calibration(one, data, {"curve": uq.GaussianNoise(sd=0.5), "field": uq.GaussianNoise(sd=0.2)})
    posterior = sampled(problem, 200, 1)
    points = verification_design(posterior, 10, rng=1)
    found = verify(posterior, simulated(points))
    theta = found.draws["theta"].values
    exact = np.zeros(10)
    for day, value in ((0.5, 0.4), (2.3, 8.0)):
        exact += -0.5 * ((value - (1.0 + theta) * day**2) / 0.5) ** 2 - np.log(0.5 * np.sqrt(2.0 * np.pi))
    exact += -0.5 * ((0.6 - 2.0 * theta - 0.2) / 0.2) ** 2 - np.log(0.2 * np.sqrt(2.0 * np.pi))
    assert np.allclose(found.draws["log_ratio"], exact - problem.log_likelihood({"theta": theta}), atol=1e-8)


def test_runs_that_are_no_posterior_draws_are_refused() -> None:
    posterior = calibrated(surrogate(), 0.8)
    design = uq.sobol(posterior.problem.space, 8, rng=1)
    with pytest.raises(InputError, match="8 of 8 runs cannot be used; completed run 0 is no posterior draw"):
        verify(posterior, uq.ensemble.build(design, {"y": smooth(design["theta"].values)}))
    for n in (0, 401, 2.0):
        with pytest.raises(InputError, match="whole number from 1 to 400"):
            verification_design(posterior, n)  # type: ignore[arg-type]


def test_runs_that_verified_a_refined_posterior_keep_its_box() -> None:
    posterior = calibrated(surrogate(), 0.8)
    design = uq.refine(posterior, 10, rng=1)
    runs = uq.ensemble.build(design, {"y": smooth(design["theta"].values)})
    refined = uq.GaussianProcess(hyperparameters="point").fit(runs)
    data = xr.DataArray(0.8, name="y")
    again = sampled(uq.Calibration(refined, data, uq.GaussianNoise(sd=NOISE_SD), outside="refined"), 400, 1)
    points = verification_design(again, 5, rng=1)
    both = uq.ensemble.combine(runs, uq.ensemble.build(points, {"y": smooth(points["theta"].values)}))
    fitted = uq.GaussianProcess(hyperparameters="point").fit(both)
    assert fitted.domain == refined.domain
    uq.Calibration(fitted, data, uq.GaussianNoise(sd=NOISE_SD), outside="refined")

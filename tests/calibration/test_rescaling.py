"""The posterior with another scale of the discrepancy, against closed forms."""

import numpy as np
import pytest
from calibration.problems import linear_surrogate, replicates
from calibration.test_noise_models import LEFT, REALS, curve, observed

import uqms as uq
from uqms.calibration.discrepancy import default_length
from uqms.calibration.refits import sampled_again
from uqms.calibration.rescaling import rescaled, with_scaled_discrepancy
from uqms.surrogates.transforms import Identity, Log, Logit, Transform

DATA = np.array([[1.9, 2.3, 1.6, 2.1]])


def exact(offset_sd: float) -> tuple[float, float]:
    """Return mean and sd of theta ~ N(0, 1) from y = 2 theta + error (sd 0.2) + offset + noise (sd 0.3)."""
    covariance = 0.09 * np.eye(4) + 0.04 + offset_sd**2
    slope = np.full(4, 2.0)
    precision = 1.0 + slope @ np.linalg.solve(covariance, slope)
    return float(slope @ np.linalg.solve(covariance, DATA[0]) / precision), float(precision**-0.5)


def problem(discrepancy: object) -> uq.Calibration:
    data = replicates(DATA, np.array([0.5]))
    return uq.Calibration(linear_surrogate(2.0, 0.2), data, uq.GaussianNoise(sd=0.3), discrepancy=discrepancy)  # type: ignore[arg-type]


@pytest.mark.parametrize("factor", [0.5, 1.3])
def test_a_known_scale_is_part_of_the_likelihood(factor: float) -> None:
    one = problem(uq.OffsetDiscrepancy(sd=0.4))
    mean, sd = exact(0.4)
    theta = {"theta": mean + sd * np.random.default_rng(1).standard_normal(20_000)}
    found = rescaled(one, theta, np.zeros((20_000, 0)), one.log_likelihood(theta), factor)
    other_mean, other_sd = exact(0.4 * factor)
    assert found.shift["theta"] == pytest.approx((other_mean - mean) / sd, abs=0.03)
    assert found.width["theta"] == pytest.approx(other_sd / sd, rel=0.05)
    assert found.k_hat < 0.7


def test_a_priors_scale_is_that_of_its_draws() -> None:
    """The scale that is inferred gets another prior: weights are the ratio of the two densities."""
    one = problem(uq.OffsetDiscrepancy(sd=uq.HalfNormal(0.4)))
    grid = np.stack(np.meshgrid(np.linspace(-0.5, 2.5, 301), np.linspace(0.002, 2.4, 300), indexing="ij"))
    theta = {"theta": grid[0].ravel(), "offset_sd": grid[1].ravel()}
    value = one.log_likelihood(theta) - 0.5 * theta["theta"] ** 2
    moments = []
    for scale in (0.4, 0.8):
        density = value - 0.5 * (theta["offset_sd"] / scale) ** 2
        weight = np.exp(density - density.max())
        weight /= weight.sum()
        mean = float(weight @ theta["theta"])
        moments.append((mean, float(np.sqrt(weight @ (theta["theta"] - mean) ** 2)), weight))
    rows = np.random.default_rng(2).choice(value.size, size=40_000, p=moments[0][2])
    draws = {name: values[rows] for name, values in theta.items()}
    found = rescaled(one, draws, np.zeros((40_000, 0)), one.log_likelihood(draws), 2.0)
    assert found.shift["theta"] == pytest.approx((moments[1][0] - moments[0][0]) / moments[0][1], abs=0.03)
    assert found.width["theta"] == pytest.approx(moments[1][1] / moments[0][1], rel=0.05)


def test_every_kind_can_be_scaled() -> None:
    kinds = [
        uq.GPDiscrepancy(sd=uq.LogNormal(median=0.2, sigma=0.5), over=["x"], length=0.3),
        uq.OffsetDiscrepancy(),
        uq.ScaleDiscrepancy(0.1),
        uq.BasisDiscrepancy([lambda at: at["x"]], sd=0.3),
    ]
    data = replicates(np.vstack([DATA, DATA + 1.0]), np.array([0.2, 0.8]))
    one = uq.Calibration(linear_surrogate(2.0, 0.2), data, uq.GaussianNoise(sd=0.3), discrepancy=kinds)
    two = with_scaled_discrepancy(one, 2.0)
    before, after = (dict(zip(each.noise.keys, each.noise.settings, strict=True)) for each in (one, two))
    assert before.keys() == after.keys()
    assert after["delta_sd"].quantile(0.5) == pytest.approx(0.4)  # type: ignore[union-attr]
    assert after["offset_sd"].sd == pytest.approx(2.0 * before["offset_sd"].sd)  # type: ignore[union-attr]
    assert after["scale"].sd == pytest.approx(0.2)  # type: ignore[union-attr]
    assert after["basis_sd"] == pytest.approx(0.6)
    theta = {name: float(values[0]) for name, values in one.prior_draws(1, 3).items()}
    assert one.log_likelihood(theta) != two.log_likelihood(theta)  # the known weights' scale is part of it


@pytest.mark.parametrize("factor", [0.25, 2.0])
def test_where_weights_fail_the_other_posterior_is_sampled(factor: float) -> None:
    """Draws of a fit whose known scale is far too large carry nothing of the posterior with a quarter of it."""
    one = problem(uq.OffsetDiscrepancy(sd=0.4))
    mean, sd = exact(0.4)
    draws = {"theta": mean + sd * np.random.default_rng(1).standard_normal(2000)}
    found = sampled_again(one, ("",), draws, factor, uq.NUTS(draws=2000, chains=2, tune=500), 3)
    other_mean, other_sd = exact(0.4 * factor)
    assert found.trusted
    assert found.sampler == "2 x 2000 draws of NUTS"
    assert np.isnan(found.k_hat)
    assert found.shift["theta"] == pytest.approx((other_mean - mean) / sd, abs=0.15)
    assert found.width["theta"] == pytest.approx(other_sd / sd, rel=0.1)
    assert one.discrepancy == uq.OffsetDiscrepancy(sd=0.4)


def test_the_default_scale_is_the_spread_of_the_data() -> None:
    """Four values with a spread of .26 whose prior-predictive sd is 2: a tenth of the latter is smaller."""
    one = problem(uq.OffsetDiscrepancy())
    assert one.priors["offset_sd"].sd == pytest.approx(np.std(DATA))  # type: ignore[union-attr]
    alike = replicates(np.array([[1.99, 2.0, 2.01, 2.0]]), np.array([0.5]))  # replicates: their spread is only noise
    flat = uq.Calibration(
        linear_surrogate(2.0, 0.2), alike, uq.GaussianNoise(sd=0.01), discrepancy=uq.OffsetDiscrepancy()
    )
    assert flat.priors["offset_sd"].sd == pytest.approx(0.1 * np.sqrt(4.0 + 0.04), rel=0.1)  # type: ignore[union-attr]


def test_few_levels_of_a_condition_have_no_spacing() -> None:
    prior = default_length(np.array([0.1, 0.2, 0.4]), condition=True)
    assert prior.cdf(0.06) == pytest.approx(0.01, rel=1e-6)
    assert prior.cdf(0.6) == pytest.approx(0.99, rel=1e-6)
    assert default_length(np.array([0.1, 0.2, 0.4])).cdf(0.2) == pytest.approx(0.01, rel=1e-6)
    many = np.linspace(0.0, 1.0, 6)
    assert default_length(many, condition=True) == default_length(many)


@pytest.mark.parametrize(("levels", "below"), [(2, 0.2), (3, 0.2), (5, 0.2), (6, 0.4), (11, 0.2)])
def test_lengths_of_a_calibration_know_how_few_levels_a_condition_has(levels: int, below: float) -> None:
    """1 % lies below a fifth of the range up to five levels, from six on below twice the spacing."""
    x = np.linspace(0.0, 1.0, levels)
    one = uq.Calibration(
        linear_surrogate(2.0, 0.2),
        replicates(2.0 * x[:, None] + np.array([[0.1, -0.1]]), x),
        uq.GaussianNoise(sd=0.3),
        discrepancy=uq.GPDiscrepancy(over=["x"]),
    )
    prior = one.priors["delta_length_x"]
    assert prior.cdf(below) == pytest.approx(0.01, rel=1e-6)
    assert prior.sf(2.0) == pytest.approx(0.01, rel=1e-6)


SUCCESSES = np.array([3.0, 0.0, 7.0, 2.0])
POSITIVE = np.array([0.3, 1.2, 2.2, 0.7])
PROPORTIONS = SUCCESSES[[0, 2, 3]] / 9.0


@pytest.mark.filterwarnings("ignore::uqms.errors.PriorConflictWarning")  # the data lie in the prior's tail
@pytest.mark.parametrize(
    ("transform", "values", "noise", "expected"),
    [
        (Identity(), POSITIVE, uq.GaussianNoise(0.3), np.std(POSITIVE)),
        (Log(), POSITIVE, uq.LogNormalNoise(0.3), np.std(np.log(POSITIVE))),
        (Log(), POSITIVE, uq.GaussianNoise(0.3), np.std(np.log(POSITIVE))),
        (Log(), SUCCESSES, uq.PoissonNoise(), np.std(np.log(SUCCESSES[[0, 2, 3]]))),  # 0 has no logarithm
        (Logit(0.0, 1.0), SUCCESSES, uq.BinomialNoise(9), np.std(np.log(PROPORTIONS / (1.0 - PROPORTIONS)))),
    ],
)
def test_the_spread_of_measurements_is_on_the_surrogates_scale(
    transform: Transform, values: np.ndarray, noise: uq.calibration.NoiseModel, expected: float
) -> None:
    """A discrepancy is added to what the surrogate models: logarithms of counts, log-odds of proportions."""
    one = uq.Calibration(curve(transform), observed(values), noise)
    assert one.cells.spread(0, noise) == pytest.approx(expected, rel=1e-12)


@pytest.mark.filterwarnings("ignore::uqms.errors.PriorConflictWarning")  # the data lie in the prior's tail
def test_a_detection_limit_is_no_measurement() -> None:
    noise = uq.GaussianNoise(0.3)
    one = uq.Calibration(curve(), observed(REALS, censored=LEFT), noise)
    assert one.cells.spread(0, noise) == pytest.approx(np.std(REALS[1:3]), rel=1e-12)

"""The answer with another prior scale of the discrepancy where weights fail: short refits against closed forms."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from calibration.problems import linear_surrogate, matern52, replicates
from scipy.stats import multivariate_normal

import uqms as uq
from uqms.calibration import refits
from uqms.calibration.rescaling import FACTORS, with_scaled_discrepancy
from uqms.errors import InputError, NumericalWarning, SamplingError

DATA = np.array([[2.2, 2.4, 2.1, 2.3]])
OTHER = np.array([[0.9, 1.3, 1.1], [1.2, 0.8, 1.4]])
X, NOISE = np.array([0.5]), 0.1
KNOWN = 0.1  # sd of the offset: with four times as much the posterior is so much wider that weights have no tail
SMC = uq.SMC(particles=2000)


def one(discrepancy: object) -> Any:
    model = linear_surrogate(2.0, 0.02)
    return uq.Calibration(model, replicates(DATA, X), uq.GaussianNoise(sd=NOISE), discrepancy=discrepancy)  # type: ignore[arg-type]


def closed_form(offset_sd: float) -> tuple[float, float]:
    """Return mean and sd of theta ~ N(0, 1) from y = 2 theta + error + offset + noise."""
    covariance = NOISE**2 * np.eye(4) + 0.02**2 + offset_sd**2
    slope = np.full(4, 2.0)
    precision = 1.0 + slope @ np.linalg.solve(covariance, slope)
    return float(slope @ np.linalg.solve(covariance, DATA[0]) / precision), float(precision**-0.5)


def two_parts(shared: bool, sd: float | uq.HalfNormal = KNOWN) -> Any:
    first = linear_surrogate(2.0, 0.1)
    second = first if shared else linear_surrogate(2.0, 0.1000001)  # equal ones would be one surrogate
    other = replicates(OTHER, np.array([0.2, 0.9]))
    return uq.Calibration(
        {"a": (first, other), "b": (second, replicates(DATA, X))},
        noise={"a": uq.GaussianNoise(sd=0.4), "b": uq.GaussianNoise(sd=NOISE)},
        discrepancy={"b": uq.OffsetDiscrepancy(sd=sd)},
    )


def of_two_parts(shared: bool, offset_sd: float) -> tuple[float, float]:
    """Return mean and sd of theta ~ N(0, 1) from both parts."""
    return _normal(shared, offset_sd)[:2]


def _normal(shared: bool, offset_sd: float) -> tuple[float, float, float]:
    """Return mean and sd of theta, and the log evidence."""
    x = np.array([0.2] * 3 + [0.9] * 3 + [0.5] * 4)
    values = np.concatenate([OTHER.ravel(), DATA.ravel()])
    covariance = np.diag([0.4**2] * 6 + [NOISE**2] * 4)
    error = 0.1**2 * matern52(x[:, None] - x, 0.3)
    if not shared:
        error[:6, 6:] = error[6:, :6] = 0.0
    covariance += error
    covariance[6:, 6:] += offset_sd**2
    weight = np.linalg.solve(covariance, np.full(10, 2.0))
    variance = 1.0 / (1.0 + 2.0 * weight.sum())
    evidence = float(multivariate_normal(np.zeros(10), covariance + 4.0).logpdf(values))
    return float(variance * (weight @ values)), float(np.sqrt(variance)), evidence


def mixed(shared: bool, scale: float) -> tuple[float, float]:
    """Return mean and sd of theta when the offset's sd is half-normal, by quadrature over it."""
    grid = np.linspace(0.0005, 5.0, 2000) * scale
    mean, sd, evidence = np.array([_normal(shared, one) for one in grid]).T
    density = evidence - 0.5 * (grid / scale) ** 2
    weight = np.exp(density - density.max())
    weight /= weight.sum()
    centre = float(weight @ mean)
    return centre, float(np.sqrt(weight @ (sd**2 + (mean - centre) ** 2)))


def check_against(row: Any, before: tuple[float, float], after: tuple[float, float], factor: float, few: int) -> None:
    """Compare with a closed form, to four standard errors of the draws."""
    ratio = after[1] / before[1]
    error = np.hypot(ratio / np.sqrt(few), 1.0 / np.sqrt(8000))
    assert row[f"shift x{factor:g}"] == pytest.approx((after[0] - before[0]) / before[1], abs=4.0 * error)
    # A 95 % interval of n normal draws has a relative standard error of about 1.2 / sqrt(n).
    assert row[f"width_ratio x{factor:g}"] == pytest.approx(ratio, rel=4.0 * 1.3 / np.sqrt(few))


def test_a_scale_that_weights_cannot_reach_is_refitted() -> None:
    posterior = one(uq.OffsetDiscrepancy(sd=KNOWN)).sample(SMC, rng=1)
    table = posterior.rescale_discrepancy()
    assert table.attrs["remarks"][1].startswith("x4: refitted, 4 x 500 draws of SMC, R-hat 1.0")
    assert np.isnan(table.loc["theta", "k_hat x4"])
    for factor in FACTORS:
        check_against(table.loc["theta"], closed_form(KNOWN), closed_form(factor * KNOWN), factor, 2000)
    check = posterior.verdict["discrepancy"]
    assert check.status == "note"  # the mean hardly moves, and the interval becomes three times as wide
    assert "4 (refitted) times as large" in check.message
    assert check.remedy.startswith("Report posterior.rescale_discrepancy(): theta depends on")
    assert check.value == pytest.approx(max(abs(table.loc["theta", f"shift x{factor:g}"]) for factor in FACTORS))


@pytest.mark.parametrize("shared", [True, False])
def test_a_refit_of_a_part_has_the_data_of_all_parts(shared: bool) -> None:
    posterior = two_parts(shared).sample(SMC, rng=2)
    part = posterior.part("b")
    table = part.rescale_discrepancy()
    assert "refitted" in table.attrs["remarks"][1]
    for factor in FACTORS:
        before, after = (of_two_parts(shared, sd) for sd in (KNOWN, factor * KNOWN))
        check_against(table.loc["theta"], before, after, factor, 2000)
    name = "discrepancy (a, b)" if shared else "discrepancy (b)"
    assert "4 (refitted)" in posterior.verdict[name].message
    with pytest.raises(InputError, match="data of all parts"):
        part.rescale_discrepancy((2.0,), refit=SMC)
    if not shared:
        assert refits.GROUP not in posterior.part("a").tree.children


def test_a_refit_of_a_part_has_the_other_prior() -> None:
    """The scale is a prior here, which the joint problem remembers too."""
    problem = two_parts(False, uq.HalfNormal(KNOWN))
    draws = problem.sample(SMC, rng=2, refit_discrepancy=False).flat()
    for factor in FACTORS:
        found = refits.sampled_again(problem, ("b",), draws, factor, SMC, 5)
        mean, sd = mixed(False, factor * KNOWN)
        again = draws["theta"].mean() + found.shift["theta"] * draws["theta"].std()
        assert again == pytest.approx(mean, abs=4.0 * sd / np.sqrt(8000))
    assert problem.priors["b_offset_sd"] == uq.HalfNormal(KNOWN)


def test_without_refits_the_verdict_says_that_it_does_not_know() -> None:
    posterior = one(uq.OffsetDiscrepancy(sd=KNOWN)).sample(SMC, rng=1, refit_discrepancy=False)
    check = posterior.verdict["discrepancy"]
    assert check.status == "note"
    assert "not known of" in check.message
    assert "rescale_discrepancy(refit=" in check.remedy
    table = posterior.rescale_discrepancy()
    assert table.attrs["remarks"][1].endswith("do not use these figures")
    again = posterior.rescale_discrepancy(refit=uq.SMC(particles=500), rng=3)
    check_against(again.loc["theta"], closed_form(KNOWN), closed_form(4.0 * KNOWN), 4.0, 2000)
    with pytest.raises(InputError, match="refit_discrepancy is 'no'"):
        one(uq.OffsetDiscrepancy(sd=KNOWN)).sample(SMC, rng=1, refit_discrepancy="no")


def test_where_weights_reach_nothing_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(refits, "sampled_again", refuse)
    values = (
        1.0 + np.random.default_rng(1).normal(0.0, 0.3, (8, 1)) + np.random.default_rng(2).normal(0.0, NOISE, (8, 3))
    )
    data = replicates(values, np.linspace(0.0, 1.0, 8))
    offsets = uq.OffsetDiscrepancy(sd=uq.HalfNormal(1.0), shared=False)  # eight, which tell their sd
    problem = uq.Calibration(linear_surrogate(2.0, 0.02), data, uq.GaussianNoise(sd=NOISE), discrepancy=offsets)
    posterior = problem.sample(SMC, rng=1)
    assert "0.25 (reweighted) and 4 (reweighted)" in posterior.verdict["discrepancy"].message


@dataclass(frozen=True)
class Own:
    """A sampler of a user's own."""

    def run(self, problem: Any, seed: int) -> Any:
        return SMC.run(problem, seed)


def test_a_sampler_of_ones_own_is_not_started_again() -> None:
    posterior = one(uq.OffsetDiscrepancy(sd=KNOWN)).sample(Own(), rng=1)  # type: ignore[arg-type]
    assert posterior.verdict["discrepancy"].status == "note"


@pytest.mark.parametrize("error", [SamplingError("no"), np.linalg.LinAlgError("no")])
def test_a_refit_that_fails_is_not_known(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(refits, "sampled_again", fail)
    with pytest.warns(NumericalWarning, match=r"4 times the prior scale .* could not be sampled \(\w+Error: no\)"):
        check = one(uq.OffsetDiscrepancy(sd=KNOWN)).sample(SMC, rng=1).verdict["discrepancy"]
    assert check.status == "note"
    assert "4 (reweighted, k-hat" in check.message


@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize("length", [1e-187, 5e-324, 0.0])
def test_a_length_that_is_nothing_leaves_independent_errors(length: float, orthogonal: bool) -> None:
    """Climbs to starting points try lengths like these, whose square is 0 and whose distances are infinite."""
    x = np.linspace(0.0, 1.0, 5)
    data = replicates(2.0 * x[:, None] + np.array([[0.1, -0.1]]), x)
    discrepancy = uq.GPDiscrepancy(over=["x"], orthogonal=orthogonal)
    problem = uq.Calibration(linear_surrogate(2.0, 0.2), data, uq.GaussianNoise(sd=0.3), discrepancy=discrepancy)
    theta = {"theta": np.array([0.9, 1.1]), "delta_sd": np.array([0.4, 0.6])}
    found, short = (problem.log_likelihood(theta | {"delta_length_x": one}) for one in (length, 1e-3))
    assert np.isfinite(short).all()
    np.testing.assert_allclose(found, short, rtol=1e-12)


def test_refits_are_shorter() -> None:
    assert refits.shortened(uq.NUTS(ess=400, target_accept=0.99)) == uq.NUTS(draws=250, tune=333, target_accept=0.99)
    assert refits.shortened(uq.SMC(particles=200)) == uq.SMC(particles=100)
    assert refits.shortened(uq.Metropolis()) == uq.Metropolis(draws=250, tune=125, particles=125)
    assert refits.shortened(uq.Laplace()) == uq.Laplace()
    assert refits.shortened(Own()) is None


def test_they_are_kept_in_the_file(tmp_path: Any) -> None:
    design = uq.sobol(uq.ParameterSpace(theta=uq.Uniform(0.0, 2.0), conditions={"x": uq.Condition(0.0, 1.0)}), 8, rng=1)
    model = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": 2.0 * design["theta"].values}))
    discrepancy = uq.OffsetDiscrepancy(sd=KNOWN)
    problem = uq.Calibration(model, replicates(DATA, X), uq.GaussianNoise(sd=NOISE), discrepancy=discrepancy)
    posterior = problem.sample(uq.SMC(particles=400), rng=1)
    assert refits.GROUP in posterior.tree.children
    again = uq.load_posterior(posterior.save(tmp_path / "posterior.nc"))
    assert str(again.rescale_discrepancy()) == str(posterior.rescale_discrepancy())


@pytest.mark.slow
@pytest.mark.parametrize("factor", FACTORS)
def test_a_refit_by_nuts_is_a_long_fit_with_that_scale(factor: float) -> None:
    """A smooth discrepancy with a prior of its sd, against a quadrature over the sd (theta in closed form)."""
    discrepancy = uq.OffsetDiscrepancy(sd=uq.HalfNormal(KNOWN))
    problem = one(discrepancy)
    draws = problem.sample(uq.SMC(), rng=1, refit_discrepancy=False).flat()
    found = refits.sampled_again(problem, ("",), draws, factor, uq.NUTS(draws=2000), 3)
    moments = []
    for scale in (KNOWN, factor * KNOWN):
        grid = np.linspace(1e-4, 6.0 * scale, 4001)
        parts = np.array([closed_form(sd) for sd in grid])
        density = np.array([_evidence(sd) for sd in grid]) - 0.5 * (grid / scale) ** 2
        weight = np.exp(density - density.max())
        weight /= weight.sum()
        mean = weight @ parts[:, 0]
        moments.append((mean, np.sqrt(weight @ (parts[:, 1] ** 2 + (parts[:, 0] - mean) ** 2))))
    assert found.trusted
    assert found.shift["theta"] == pytest.approx((moments[1][0] - moments[0][0]) / moments[0][1], abs=0.1)
    other = with_scaled_discrepancy(problem, factor).sample(uq.SMC(particles=8000), rng=4, refit_discrepancy=False)
    widths = [np.subtract(*np.quantile(each["theta"], [0.975, 0.025])) for each in (other.flat(), draws)]
    assert found.width["theta"] == pytest.approx(widths[0] / widths[1], rel=0.1)


def _evidence(offset_sd: float) -> float:
    covariance = NOISE**2 * np.eye(4) + 0.02**2 + offset_sd**2 + 4.0
    return float(multivariate_normal(np.zeros(4), covariance).logpdf(DATA[0]))

"""The verdict: every pathology raises its own flag, a clean problem none, and shares have closed forms."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from calibration.problems import given_surrogate, linear_surrogate, replicates

import uqms as uq
from uqms.calibration import verdict as module
from uqms.calibration.checks import ABOUT, PAGES, Status, about, page_of
from uqms.calibration.computation import check_divergences
from uqms.calibration.judging import judge
from uqms.calibration.verdict import Check, Sampled, Verdict
from uqms.parameters import Box
from uqms.surrogates import GaussianProcessSurrogate

TIMES = np.arange(40.0)
DOSE = np.linspace(0.0, 1.0, 24)
SHAPE = (4, 250)
NAMES = (
    "R-hat",
    "ESS",
    "divergences",
    "finite draws",
    "surrogate error",
    "size of the surrogate's error",
    "surrogate validation",
    "autocorrelated residuals",
    "outliers",
    "predictive misfit",
    "edge of the design box",
    "prior mass cut",
    "prior-dominated",
    "confounded",
    "end of a prior",
    "prior against data",
)


def curve_surrogate(runs: int = 30, *, hard: bool = True, space: uq.ParameterSpace | None = None):
    """Return y(t; theta) = theta (1 + sin(t / 5)) / 2 on the box [0, 1]; few runs know it badly."""
    x = np.linspace(0.02, 0.98, runs)[:, None]
    basis = 0.5 * (1.0 + np.sin(TIMES / 5.0))[:, None]
    one = given_surrogate(x, x, basis=basis, ell=0.3, space=space)
    box = Box(("theta",), (0.0,), (1.0,), ("identity",), ((hard, hard),))
    return GaussianProcessSurrogate(box, one.process, one.bases, one.attrs)


def curve_problem(
    noise: np.ndarray,
    theta: float = 0.5,
    sd: float = 0.1,
    surrogate: GaussianProcessSurrogate | None = None,
    space: uq.ParameterSpace | None = None,
) -> uq.Calibration:
    values = theta * 0.5 * (1.0 + np.sin(TIMES / 5.0)) + sd * noise
    data = xr.DataArray(values, dims="t", coords={"t": TIMES}, name="y")
    return uq.Calibration(surrogate or curve_surrogate(), data, uq.GaussianNoise(sd=sd), space=space)


def draws_of(problem: uq.Calibration, n: int = 1000, seed: int = 1) -> np.ndarray:
    """Return independent posterior draws of theta from a grid."""
    grid = np.linspace(*problem.limits("theta"), 2001)
    log_posterior = problem.log_likelihood({"theta": grid}) + problem.priors["theta"].log_density(grid)
    weights = np.exp(log_posterior - log_posterior.max())
    return np.random.default_rng(seed).choice(grid, n, p=weights / weights.sum())


def verdict_on(problem: uq.Calibration, theta: np.ndarray | None = None, **changes: object) -> Verdict:
    theta = draws_of(problem) if theta is None else theta
    clean = {"r_hat": {"theta": 1.001}, "ess": {"theta": 900.0}, "divergences": 0, "shape": SHAPE, "asked": SHAPE}
    return judge(problem, Sampled({"theta": theta}, np.zeros(len(theta), dtype=np.int64), **(clean | changes)))[0]


def flags(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.warnings]


def ar_noise(correlation: float, rng: np.random.Generator, n: int = 40) -> np.ndarray:
    e = rng.standard_normal(n)
    for i in range(1, n):
        e[i] = correlation * e[i - 1] + math.sqrt(1.0 - correlation**2) * e[i]
    return e


@pytest.fixture
def clean(rng: np.random.Generator) -> uq.Calibration:
    return curve_problem(rng.standard_normal(40))


def test_a_clean_problem_raises_no_flag(clean: uq.Calibration) -> None:
    got = verdict_on(clean)
    assert tuple(check.name for check in got.checks) == NAMES
    assert flags(got) == []
    assert got.status == "pass"
    first, second, *_ = str(got).splitlines()
    usable = (
        "Verdict: PASS. Use the intervals of the parameters, and predictions under conditions like those of the data."
    )
    assert first == f"{usable} More measurements would narrow them; more runs would hardly do so."
    assert second.startswith("PASS  R-hat: largest 1.001 (theta)")
    assert "→" not in str(got)


# --- convergence ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("r_hat", "status"), [(1.01, "pass"), (1.011, "warn"), (1.051, "fail"), (math.nan, "fail")])
def test_chains_that_disagree(clean: uq.Calibration, r_hat: float, status: str) -> None:
    got = verdict_on(clean, r_hat={"theta": 1.0, "sigma": r_hat})
    assert got["R-hat"].status == status
    assert "(sigma)" in got["R-hat"].message
    assert flags(got) == ([] if status == "pass" else ["R-hat"])


def test_one_chain(clean: uq.Calibration) -> None:
    got = verdict_on(clean, shape=(1, 1000), asked=(1, 1000), r_hat={"theta": math.nan})
    assert flags(got) == ["R-hat"]
    assert got.status == "warn"
    assert "one chain, so agreement cannot be judged" in str(got)
    assert "NUTS(chains=4)" in got["R-hat"].remedy


@pytest.mark.parametrize(
    ("ess", "status"), [(400.0, "pass"), (399.0, "warn"), (100.0, "warn"), (99.0, "fail"), (math.nan, "fail")]
)
def test_few_independent_draws(clean: uq.Calibration, ess: float, status: str) -> None:
    got = verdict_on(clean, ess={"sigma": 3000.0, "theta": ess})
    assert got["ESS"].status == status
    assert "(theta), limit 400" in got["ESS"].message
    assert flags(got) == ([] if status == "pass" else ["ESS"])


def test_divergences_at_a_wall_lead_to_another_sampler() -> None:
    assert "SMC()" in check_divergences(50, 4000, constrained=True).remedy
    assert "SMC()" not in check_divergences(50, 4000).remedy
    assert check_divergences(0, 4000, constrained=True).status == "pass"


@pytest.mark.parametrize(("count", "status"), [(0, "pass"), (1, "warn"), (10, "warn"), (11, "fail")])
def test_divergences(clean: uq.Calibration, count: int, status: str) -> None:
    got = verdict_on(clean, divergences=count)
    assert got["divergences"].status == status
    assert f"{count} of 1000 draws" in str(got)
    assert flags(got) == ([] if status == "pass" else ["divergences"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_draws_that_are_not_finite_fail_and_leave_the_other_checks_alone(clean: uq.Calibration, value: float) -> None:
    theta = draws_of(clean)
    theta[990:] = value
    got = verdict_on(clean, theta)
    assert flags(got) == ["finite draws"]
    assert got.status == "fail"
    assert "4 chains of 250 draws, 10 not finite" in str(got)


def test_no_finite_draw_at_all(clean: uq.Calibration) -> None:
    got = verdict_on(clean, np.full(1000, np.nan))
    assert got["finite draws"].status == "fail"
    assert got["finite draws"].value == 1000


def test_fewer_draws_than_asked_for(clean: uq.Calibration) -> None:
    assert flags(verdict_on(clean, asked=(4, 300))) == ["finite draws"]
    assert flags(verdict_on(clean, asked=(5, 250))) == ["finite draws"]


# --- share of the surrogate's error ---------------------------------------------------------------------------------


def test_share_of_the_surrogates_error_in_a_linear_problem_is_exact() -> None:
    """Eight replicates at one condition: y = 2 theta + error, theta ~ N(0, 1), error sd 0.5, noise sd 1."""
    problem = uq.Calibration(
        linear_surrogate(2.0, 0.5), replicates(np.arange(8.0)[None], np.array([0.5])), uq.GaussianNoise(sd=1.0)
    )
    share = module._share(problem, {"theta": np.linspace(-0.3, 0.3, 50)}, np.zeros(50, dtype=np.int64))
    prior = np.var(problem.prior_draws(4000, 0)["theta"])  # the one that the check uses; 1 up to Monte Carlo
    assert prior == pytest.approx(1.0, rel=0.03)
    full = 1.0 / (4.0 / (0.25 + 1.0 / 8.0) + 1.0 / prior)
    without = 1.0 / (4.0 / (1.0 / 8.0) + 1.0 / prior)
    assert share == pytest.approx([1.0 - without / full], rel=1e-6)
    assert share[0] == pytest.approx(0.646, abs=0.002)


def test_share_with_errors_correlated_between_conditions_is_exact() -> None:
    x = np.array([0.1, 0.4, 0.9])
    problem = uq.Calibration(
        linear_surrogate(1.5, 0.8, ell_x=0.6),
        replicates(np.arange(6.0).reshape(3, 2) / 4.0, x),
        uq.GaussianNoise(sd=0.5),
    )
    share = module._share(problem, {"theta": np.zeros(5)}, np.zeros(5, dtype=np.int64))
    a = np.sqrt(5.0) * np.abs(x[:, None] - x) / 0.6
    covariance = 0.64 * (1.0 + a + a**2 / 3.0) * np.exp(-a)
    prior = np.var(problem.prior_draws(4000, 0)["theta"])
    slope = np.full(3, 1.5)
    full = 1.0 / (slope @ np.linalg.solve(covariance + 0.125 * np.eye(3), slope) + 1.0 / prior)
    without = 1.0 / (slope @ slope / 0.125 + 1.0 / prior)
    assert share == pytest.approx([1.0 - without / full], rel=1e-6)


@pytest.mark.parametrize("columns", [1, 12])
def test_share_with_truncation_is_exact(columns: int) -> None:
    """One condition, five coordinates; the truncation has fewer or more columns than there are coordinates."""
    rng = np.random.default_rng(2)
    basis, truncation = rng.uniform(0.5, 1.5, (5, 1)), 0.4 * rng.standard_normal((5, columns))
    surrogate = linear_surrogate(1.0, 0.3, basis=basis, truncation=truncation)
    values = xr.DataArray(np.arange(5.0) / 8.0, dims="t", coords={"t": np.arange(5.0), "x": 0.5}, name="y")
    problem = uq.Calibration(surrogate, values, uq.GaussianNoise(sd=0.2))
    share = module._share(problem, {"theta": np.zeros(3)}, np.zeros(3, dtype=np.int64))
    prior = np.var(problem.prior_draws(4000, 0)["theta"])
    noise = 0.04 * np.eye(5)
    error = 0.09 * basis @ basis.T + truncation @ truncation.T
    full = 1.0 / ((basis.T @ np.linalg.solve(error + noise, basis)).item() + 1.0 / prior)
    without = 1.0 / ((basis.T @ basis).item() / 0.04 + 1.0 / prior)
    assert share == pytest.approx([1.0 - without / full], rel=1e-6)


def test_shares_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch, clean: uq.Calibration) -> None:
    theta, h = {"theta": np.linspace(0.3, 0.7, 300)}, np.zeros(300, dtype=np.int64)
    whole = module._share(clean, theta, h)
    monkeypatch.setattr(module, "BLOCK", 3000)
    assert len(module._blocks(clean.data_model, 200)) > 5
    assert module._share(clean, theta, h) == pytest.approx(whole, rel=1e-10)


def test_a_surrogate_of_five_runs_dominates(rng: np.random.Generator) -> None:
    problem = curve_problem(rng.standard_normal(40), sd=0.01, surrogate=curve_surrogate(5))
    got = verdict_on(problem)
    assert flags(got) == ["surrogate error"]
    assert got["surrogate error"].status == "warn"
    assert got["surrogate error"].value > 0.9
    assert "Run more points near the posterior" in str(got)
    assert "(theta), limit 50%" in str(got)


def test_tiny_noise_makes_the_surrogate_dominate() -> None:
    for sd, expected in ((2.0, []), (0.05, ["surrogate error"])):
        data = replicates(np.zeros((1, 1)), np.array([0.5]))
        problem = uq.Calibration(linear_surrogate(2.0, 0.5), data, uq.GaussianNoise(sd=sd))
        theta = np.random.default_rng(1).normal(0.0, 0.2, 1000)
        assert flags(verdict_on(problem, theta)) == expected


# --- residuals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("runs", "sd"), [(30, 0.1), (4, 0.02)])
def test_autocorrelated_noise_is_found(runs: int, sd: float) -> None:
    found = 0
    for seed in range(20):
        problem = curve_problem(ar_noise(0.9, np.random.default_rng(seed)), sd=sd, surrogate=curve_surrogate(runs))
        check = module.check_residuals(problem, {"theta": draws_of(problem, 200)})[0]
        found += check.status == "warn"
    assert found >= 19
    assert "lag-1 correlation 0." in check.message
    assert "model discrepancy, or use a noise model with autocorrelation" in check.remedy


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "sd"), [(30, 0.1), (5, 0.1), (4, 0.02)])
def test_independent_noise_raises_few_false_alarms(runs: int, sd: float) -> None:
    """Data from the surrogate's own law. With four runs its error, which runs along the curve, exceeds the noise."""
    rng = np.random.default_rng(3)
    surrogate = curve_surrogate(runs)
    alarms = 0
    for _ in range(100):
        theta = rng.uniform(0.1, 0.9)
        scores = surrogate.scores(np.array([[theta]]))
        score = scores.mean[0, 0, 0] + np.sqrt(max(scores.covariance[0, 0, 0, 0], 0.0)) * rng.standard_normal()
        problem = curve_problem(rng.standard_normal(40), score, sd, surrogate)
        alarms += module.check_residuals(problem, {"theta": draws_of(problem, 200)})[0].status == "warn"
    assert alarms <= 5


@pytest.mark.slow
def test_truncation_that_runs_along_the_curve_is_no_autocorrelation() -> None:
    rng = np.random.default_rng(4)
    bump = 0.3 * np.exp(-0.5 * ((TIMES[:, None] - np.arange(0.0, 40.0, 4.0)) / 4.0) ** 2)
    x = np.linspace(0.0, 1.0, 20)[:, None]
    surrogate = given_surrogate(x, x, basis=np.ones((40, 1)), truncation=bump)
    alarms = 0
    for _ in range(40):
        values = 0.5 + bump @ rng.standard_normal(10) + 0.1 * rng.standard_normal(40)
        data = xr.DataArray(values, dims="t", coords={"t": TIMES}, name="y")
        problem = uq.Calibration(surrogate, data, uq.GaussianNoise(sd=0.1))
        alarms += module.check_residuals(problem, {"theta": draws_of(problem, 200)})[0].status == "warn"
    assert alarms <= 2


def test_estimated_noise_is_that_of_the_exact_conditional(rng: np.random.Generator) -> None:
    """Null and data are treated alike: E[noise | data] = D C^-1 (z - mean), with parameters and errors taken out."""
    problem = curve_problem(rng.standard_normal(40), surrogate=curve_surrogate(5))
    centre = {"theta": np.array([0.4])}
    linear = module.linearise(problem, centre, np.zeros(1, dtype=np.int64))
    score = problem.surrogate.scores(np.array([[0.4]]))
    basis = problem.cells.basis[:, 0]
    assert linear.factor[0] @ linear.factor[0].T == pytest.approx(
        np.outer(basis, basis) * score.covariance[0, 0, 0, 0] / 0.01, rel=1e-9, abs=1e-12
    )
    up, down = (problem.surrogate.scores(np.array([[0.4 + s]])).mean[0, 0, 0] for s in (1e-4, -1e-4))
    assert linear.jacobian[0, :, 0] == pytest.approx(basis * (up - down) / 2e-4 / 0.1, rel=1e-9)
    right = rng.standard_normal((40, 3))
    wide = rng.standard_normal((40, 70))
    for factor in (linear.factor[0], wide):
        expected = np.linalg.solve(np.eye(40) + factor @ factor.T, right)
        assert module._solve(factor, right) == pytest.approx(expected, rel=1e-8, abs=1e-10)


def test_lag_one_is_the_correlation_with_the_successor(rng: np.random.Generator) -> None:
    residual = rng.standard_normal((3, 12))
    series = [np.array([2, 0, 5, 7]), np.array([1, 3, 4])]
    first, second = residual[:, [2, 0, 5, 1, 3]], residual[:, [0, 5, 7, 3, 4]]
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(first, second, strict=True)]
    assert module._lag_one(residual, series) == pytest.approx(expected, rel=1e-12)


def test_short_curves_and_scalars_are_not_judged() -> None:
    for data in (
        xr.DataArray([0.1, 0.2, 0.3], dims="t", coords={"t": [0.0, 1.0, 2.0]}, name="y"),
        xr.DataArray([0.1, 0.2, 0.3, 0.1], dims="t", coords={"t": [0.0, 1.0, 2.0, 3.0]}, name="y"),
    ):
        problem = uq.Calibration(curve_surrogate(), data, uq.GaussianNoise(sd=0.1))
        check = module.check_residuals(problem, {"theta": np.full(10, 0.5)})[0]
        assert ("not judged" in check.message) == (data.size == 3)


def test_order_along_the_coordinate_counts_not_that_of_the_rows(rng: np.random.Generator) -> None:
    problem = curve_problem(ar_noise(0.9, rng))
    order = rng.permutation(40)
    shuffled = xr.DataArray(problem.observations.value[order], dims="t", coords={"t": TIMES[order]}, name="y")
    again = uq.Calibration(curve_surrogate(), shuffled, uq.GaussianNoise(sd=0.1))
    theta = {"theta": draws_of(problem, 200)}
    assert module.check_residuals(again, theta)[0].value == pytest.approx(
        module.check_residuals(problem, theta)[0].value
    )


# --- edges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("truth", "end"), [(0.005, "lower"), (0.995, "upper")])
def test_a_posterior_at_a_soft_edge_is_warned_of(truth: float, end: str, rng: np.random.Generator) -> None:
    wide = uq.ParameterSpace(theta=uq.Normal(0.5, 0.19))
    got = verdict_on(curve_problem(rng.standard_normal(40), truth, surrogate=curve_surrogate(space=wide, hard=False)))
    assert flags(got) == ["edge of the design box"]
    assert f"({end} end of theta)" in str(got)
    assert "widen the prior there" in str(got)


def test_a_posterior_at_a_hard_end_of_its_prior_is_not(rng: np.random.Generator) -> None:
    assert flags(verdict_on(curve_problem(rng.standard_normal(40), 0.005))) == []


def test_the_prior_that_counts_is_that_of_the_calibration(rng: np.random.Generator) -> None:
    """A design over Uniform(0, 1), whose ends are hard; then a prior that goes on beyond."""
    wide = uq.ParameterSpace(theta=uq.Normal(0.5, 0.19))
    problem = curve_problem(rng.standard_normal(40), 0.995, space=wide)
    assert flags(verdict_on(problem)) == ["edge of the design box"]


def test_only_mass_above_one_percent_counts(rng: np.random.Generator) -> None:
    wide = uq.ParameterSpace(theta=uq.Normal(0.5, 0.19))
    problem = curve_problem(rng.standard_normal(40), surrogate=curve_surrogate(space=wide, hard=False))
    theta = np.full(1000, 0.5) + 0.01 * rng.standard_normal(1000)
    for count, status in ((10, "pass"), (11, "warn")):
        theta[:count] = 0.981
        check = module._check_edge(problem, {"theta": theta})
        assert (check.status, check.value) == (status, count / 1000)


@pytest.mark.parametrize(
    ("prior", "expected"),
    [
        (uq.Uniform(0.0, 1.0), (True, True)),
        (uq.Uniform(0.2, 0.4), (True, True)),
        (uq.TruncatedNormal(0.5, 0.15, low=0.0), (True, False)),
        (uq.Normal(0.5, 0.1), (False, False)),
        (uq.Uniform(-0.004, 1.004), (False, False)),
    ],
)
def test_ends_of_a_prior(prior: uq.Prior, expected: tuple[bool, bool]) -> None:
    problem = curve_problem(np.zeros(40), space=uq.ParameterSpace(theta=prior))
    assert module._prior_ends(problem, "theta") == expected


# --- words ----------------------------------------------------------------------------------------------------------


def test_the_worst_comes_first_with_its_remedy() -> None:
    checks = (
        Check("a", "pass", 0.0, "all well"),
        Check("b", "warn", 1.0, "not so well", "try harder"),
        Check("c", "fail", 2.0, "broken", "mend it"),
    )
    got = Verdict(checks)
    assert got.status == "fail"
    assert str(got).splitlines() == [
        "Verdict: FAIL. Do not use these intervals: model and data contradict each other. First step: mend it.",
        "FAIL  c: broken",
        "      → mend it",
        "WARN  b: not so well",
        "      → try harder",
        "PASS  a: all well",
        "Pages: docs/checks/c.md, docs/checks/b.md",
    ]
    note = Verdict((*checks[:1], Check("d", "note", 0.5, "by the way", "say so")))
    assert (note.status, note.warnings, [check.name for check in note.notes]) == ("pass", (), ["d"])
    assert str(note).splitlines()[1:] == ["NOTE  d: by the way", "      → say so", "PASS  a: all well"]
    assert Verdict(checks[:2]).status == "warn"
    words = "Verdict: WARN. Use the intervals only within this model, which does not describe the data well."
    assert str(Verdict(checks[:2])).startswith(f"{words} First step: try harder.\n")
    assert got["b"].value == 1.0
    with pytest.raises(KeyError, match="no check is named 'd'; the checks are"):
        got["d"]


def test_every_check_is_about_one_thing() -> None:
    names = [name for names in ABOUT.values() for name in names]
    assert len(names) == len(set(names))
    pages = {path.name for path in (Path(__file__).parents[2] / PAGES).glob("*.md")} - {"index.md"}
    assert {page_of(name).removeprefix(f"{PAGES}/") for name in names} == pages
    assert about("errors of pressure") == about("surrogate validation (left)") == "surrogate"
    assert about("a check of one's own") == "model"


def test_the_conclusion_names_the_cheapest_step_of_the_worst_checks() -> None:
    def check(name: str, status: Status, remedy: str) -> Check:
        return Check(name, status, 1.0, "", remedy)

    few = check("ESS", "warn", "Use more draws, NUTS(draws=...): too few.")
    far = check("edge of the design box", "fail", "Refine again, uq.refine(posterior, n), and so on. More words.")
    units = check("prior predictions", "fail", "Check units.")
    ridge = check("confounded", "warn", "Report a combination. Or measure.")
    rough = check("surrogate validation", "warn", "Run more points.")
    assert Verdict((far, few)).conclusion == (
        "Do not use these intervals: the surrogate does not hold where the posterior is. "
        "First step: Refine again, uq.refine(posterior, n), and so on."
    )
    # another prior costs less than runs
    assert Verdict((far, units)).conclusion.endswith("model and data contradict each other. First step: Check units.")
    # the warning that limits the use most, and the step that costs least
    assert Verdict((ridge, rough, few)).conclusion == (
        "Use the intervals for a first look only: the surrogate's error is large, or is not the stated one. "
        "First step: Use more draws, NUTS(draws=...)."
    )
    assert Verdict((ridge,)).conclusion.startswith("Use predictions under conditions like those of the data. ")
    over = check("errors of y", "warn", "Call uq.correct(posterior, runs).")
    held = Verdict((over, Check("effect on the posterior", "pass", 0.0, ""))).conclusion
    assert held.startswith("Use the intervals, which hold for the simulator too. ")
    assert Verdict((over,)).conclusion.startswith("Use the intervals for a first look only: ")
    for share, told in ((0.0, "them."), (0.09, "them; more runs would hardly do so.")):
        assert Verdict((Check("surrogate error", "pass", share, ""),)).conclusion.endswith(
            f"More measurements would narrow {told}"
        )
    of_parts = Check("surrogate error", "pass", 0.01, ""), Check("surrogate error (b)", "pass", 0.3, "")
    assert "More runs near the posterior would narrow them: 30% of a variance" in Verdict(of_parts).conclusion


def test_a_surrogate_that_understates_its_error_is_mended_before_what_residuals_show() -> None:
    def validated(ratio: float, status: Status = "warn") -> Check:
        return Check("surrogate validation (left)", status, ratio, "", "Run more points.")

    structure = Check("autocorrelated residuals (left)", "warn", 0.5, "", "Add a discrepancy.")
    outlying = Check("outliers", "warn", 0.5, "", "Check these measurements.")
    refuted = Check("prior against data", "warn", 0.5, "", "Widen the prior.")
    edge = Check("edge of the design box", "fail", 0.5, "", "Refine again.")
    misfit = Check("predictive misfit", "fail", 0.5, "", "Infer the noise sd.")

    def step(*checks: Check) -> str:
        return Verdict(checks).conclusion.split("First step: ")[1]

    assert Verdict((structure, outlying, validated(4.0))).conclusion == (
        "Use the intervals for a first look only: the surrogate's error is large, or is not the stated one. "
        "First step: Run more points."
    )
    assert step(structure, validated(0.25)) == "Add a discrepancy."  # overstated errors explain no residuals
    assert step(structure, validated(4.0, "note")) == "Add a discrepancy."  # nor do those that do not matter
    assert step(structure, refuted, validated(4.0)) == "Widen the prior."
    assert step(edge, structure, validated(4.0)) == "Refine again."
    assert step(misfit, validated(4.0)) == "Run more points."


def test_what_names_a_prior_or_measurement_comes_before_a_prediction_that_the_prior_does_not_make() -> None:
    def check(name: str, status: Status = "warn") -> Check:
        return Check(name, status, 0.5, "", f"Mend {name}.")

    def step(*checks: Check) -> str:
        return Verdict(checks).conclusion.split("First step: Mend ")[1].rstrip(".")

    foreseen, modes = check("prior predictions"), check("other modes")
    assert step(foreseen, modes) == "prior predictions"
    assert step(foreseen, modes, check("outliers")) == "outliers"
    assert step(foreseen, check("outliers"), check("prior against data", "fail")) == "prior against data"
    assert step(foreseen, check("predictive misfit")) == "prior predictions"
    units = check("prior predictions", "fail")  # by powers of ten
    assert step(units, check("outliers"), check("end of a prior")) == "prior predictions"


def scalars_over_a_condition(misfit: float, rng: np.random.Generator) -> uq.Calibration:
    """Return a slope that is inferred from one measurement each under 24 values of a condition, with a bend."""
    space = uq.ParameterSpace(slope=uq.Normal(1.0, 1.0), conditions={"dose": uq.Condition(0.0, 1.0)})
    line = uq.DirectSimulator(lambda slope, dose: {"y": slope * dose}, space=space, outputs={"y": ()}, vectorized=True)
    dose = np.linspace(0.0, 1.0, 24)
    table = pd.DataFrame({"dose": dose, "y": dose + misfit * np.sin(6.0 * dose) + 0.1 * rng.standard_normal(24)})
    data = uq.Observations.from_table(table, output="y", value="y", conditions=["dose"])
    return uq.Calibration(line, data, uq.GaussianNoise(sd=0.1))


def test_smooth_misfit_over_a_condition_is_found(rng: np.random.Generator) -> None:
    """Scalars have no curve along which a lag could be taken."""

    def check_of(problem: uq.Calibration) -> Check:
        best = np.sum(problem.cells.z * DOSE) / np.sum(DOSE**2)
        return module.check_residuals(problem, {"slope": np.array([best])})[0]

    levels = []
    for _ in range(40):
        check = check_of(scalars_over_a_condition(0.0, rng))
        levels.append(float(check.message.split("p = ")[1].split()[0]))
    assert abs(np.mean(levels) - 0.5) < 4.0 * np.sqrt(1.0 / 12.0 / 40.0)
    found = check_of(scalars_over_a_condition(0.2, rng))
    assert found.status == "warn"
    assert "over dose" in found.message


def test_the_score_is_the_quadratic_form_of_a_discrepancys_covariance(rng: np.random.Generator) -> None:
    points = rng.random((30, 2))
    features = module._smooth_features(points)
    r = np.sqrt(5.0 * np.sum((points[:, None] - points) ** 2, axis=-1))
    wanted = np.mean([(1.0 + r / a + (r / a) ** 2 / 3.0) * np.exp(-r / a) for a in (0.3, 1.0)], axis=0)
    np.testing.assert_allclose(features @ features.T, wanted, atol=1e-7)
    residual = rng.standard_normal((3, 40))
    rows = np.arange(5, 35)
    score = module._Smooth(("a", "b"), [rows], [features])(residual)
    some = residual[:, rows]
    expected = np.einsum("si,ij,sj->s", some, wanted, some) / np.sum(some**2, axis=1)
    np.testing.assert_allclose(score, expected, rtol=1e-6)
    many = module._smooth_features(np.sort(rng.random((3000, 1)), axis=0))  # of a recording: as many as centres at most
    assert many.shape[1] <= module.CENTRES
    np.testing.assert_allclose(np.sum(many**2, axis=1), 1.0, atol=1e-3)

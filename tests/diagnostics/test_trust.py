"""The verdict's confusion table in short, and the closed forms behind its newer checks."""

import numpy as np
import pytest
import xarray as xr
from _faults import flags_of
from _pathologies import PATHOLOGIES
from _remedies import action_of, first_step, off, remedied
from diagnostics.problems_of_trust import exact_draws, given_posterior, linear_problem
from scipy.stats import chi2, kstest, norm, truncnorm

import uqms as uq
from uqms.calibration import computation, misfit
from uqms.calibration.answer import check_ends, covariance_left, power_scaling
from uqms.calibration.checks import Check, Verdict
from uqms.calibration.summary import SummaryTable
from uqms.calibration.verdict import check_residuals, fisher_information
from uqms.errors import ConvergenceWarning
from uqms.surrogates.local import local_errors

JACOBIAN = np.column_stack([np.ones(8), np.linspace(-1.0, 1.0, 8)])
SD = 0.4


# Kinds that are quick to draw, with seeds that the whole of `benchmarks/verdict.py` has too.
QUICK = ("runaway chain", "noise sd too large", "refuted parameter prior")
SLOW = (
    "one chain",
    "stuck chain",
    "wrong units",
    "error overstated by 4",
    "truncation",
    "missed mode",
    "outliers",
    "prior-dominated parameter",
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [*QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)])
def test_a_fault_is_found_and_the_remedy_that_is_named_first_clears_it(kind: str) -> None:
    fault = PATHOLOGIES[kind]
    case = fault.draw(4)
    assert set(case.flags) & set(fault.wanted), case.text
    step, after = remedied(case)
    assert after is not None, f"no step: {step}"
    assert not set(flags_of(after)) & set(fault.wanted), f"{step}\n{after.verdict}"
    assert off(case, after) < 1.0  # means are those without the fault


@pytest.mark.parametrize(
    ("step", "name"),
    [
        ("Use SMC(), which finds modes, or sample more chains, NUTS(chains=8).", "_particles"),
        ("Add a model discrepancy, or use a noise model with autocorrelation.", "_discrepancy"),
        ("Narrow the box (uq.refine(posterior, n)), or correct the error, uq.correct(posterior, runs).", "_refine"),
        ("Look at uq.plots.predictive(posterior).", None),
    ],
)
def test_the_phrase_that_stands_first_is_carried_out(step: str, name: str | None) -> None:
    found = action_of(step)
    assert (found.__name__ if found else None) == name


# --- computation ----------------------------------------------------------------------------------------------------


def test_e_bfmi_is_that_of_arviz(rng: np.random.Generator) -> None:
    import arviz_stats

    energy = np.cumsum(0.3 * rng.standard_normal((3, 400)), axis=1)
    check = computation.check_energy(energy)
    wanted = arviz_stats.bfmi(xr.Dataset({"energy": (("chain", "draw"), energy)}))["energy"].min()
    assert check.value == pytest.approx(float(wanted), rel=0.02)
    assert check.status == "warn"
    assert computation.check_energy(rng.standard_normal((3, 400))).status == "pass"


@pytest.mark.parametrize(("share", "status"), [(0.0, "pass"), (0.01, "pass"), (0.02, "warn")])
def test_trajectories_that_were_cut_off(share: float, status: str) -> None:
    assert computation.check_depth(share).status == status


@pytest.mark.parametrize(("mcse", "status"), [(0.05, "pass"), (0.06, "note"), (np.nan, "note")])
def test_monte_carlo_error_is_a_note(mcse: float, status: str) -> None:
    assert computation.check_monte_carlo_error({"a": mcse, "b": 0.01}).status == status


def test_a_mode_that_no_chain_visited_is_told(rng: np.random.Generator) -> None:
    def density(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.logaddexp(norm.logpdf(x[:, 0], -5.0), norm.logpdf(x[:, 0], 5.0)))

    one = rng.standard_normal((2000, 1)) - 5.0
    side = np.where(rng.random(64) < 0.2, 5.0, -5.0)[:, None]
    starts = rng.standard_normal((64, 1)) + side
    check = computation.check_modes(one, density(one), starts, density(starts))
    assert check.status == "warn"
    assert check.value == pytest.approx(np.mean(side > 0), abs=0.02)
    both = np.vstack([one[:1000], one[:1000] + 10.0])
    assert computation.check_modes(both, density(both), starts, density(starts)).status == "pass"
    far = rng.standard_normal((64, 1)) + 30.0  # where there is no mass
    assert computation.check_modes(one, density(one), far, density(far)).status == "pass"


def test_a_table_prints_no_digits_that_draws_do_not_support() -> None:
    row = {"mean": 1.23456, "sd": 0.5, "2.5%": 0.3456, "97.5%": 2.3456, "r_hat": 1.0012, "unit": "h"}
    table = SummaryTable([row], index=["k"])
    table.attrs["mcse"] = {"k": {"mean": 0.02, "2.5%": 0.04, "97.5%": 0.2}}
    assert str(table).split("\n")[1].split() == ["k", "1.235", "0.5", "0.3", "2", "1.001", "h"]


# --- model ----------------------------------------------------------------------------------------------------------


def misfit_p(truth: np.ndarray, scale: float, rng: np.random.Generator) -> float:
    data = JACOBIAN @ truth + scale * SD * rng.standard_normal(8)
    problem = linear_problem(JACOBIAN, data, SD)
    draws = exact_draws(JACOBIAN, data, SD, 100, rng)
    theta, h = dict(zip("ab", draws.T, strict=True)), np.zeros(100, dtype=np.int64)
    return misfit.check_misfit(problem, theta, np.zeros((100, 0)), h, fisher_information(problem, theta, h)).value


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_misfit_has_its_level_and_power(rng: np.random.Generator) -> None:
    """With data from the model p is close to uniform, a little towards the middle; with twice the noise it is small."""
    levels = np.array([misfit_p(rng.standard_normal(2), 1.0, rng) for _ in range(60)])
    assert np.mean(levels < 0.005) <= 0.02
    assert np.mean(levels < 0.1) < 0.22
    assert kstest(levels, "uniform").statistic < 0.22
    off = np.array([misfit_p(rng.standard_normal(2), 2.5, rng) for _ in range(15)])
    assert np.mean(off < 0.005) > 0.6


def test_the_law_of_the_distance_is_that_of_residuals(rng: np.random.Generator) -> None:
    information = (JACOBIAN.T @ JACOBIAN / SD**2)[None]
    null, excess = misfit._null_distances(8, information, 0.0)
    inverse = np.linalg.inv(information[0] + np.eye(2))
    truth = rng.standard_normal((20_000, 2))
    data = truth @ JACOBIAN.T + SD * rng.standard_normal((20_000, 8))
    residual = data - data @ JACOBIAN @ inverse @ JACOBIAN.T / SD**2
    found = np.sort(np.sum(residual**2, axis=1) / SD**2)
    for i in (2000, 10_000, 19_000):
        mcse = np.sqrt(2.0 * i * (20_000 - i) / 20_000**3) / chi2.pdf(found[i], 6)
        assert null[i] == pytest.approx(found[i], abs=4.0 * mcse)
    assert excess == pytest.approx(np.trace(information[0] @ inverse), rel=1e-9)
    assert null.mean() == pytest.approx(chi2.mean(6), rel=0.05)


def test_left_out_errors_follow_their_law_and_a_wrong_scale_is_told() -> None:
    """Draws of the process itself: p is uniform. With scores five times as large as the surrogate says it is small."""
    from calibration.problems import given_surrogate, matern52

    rng = np.random.default_rng(5)
    x = np.linspace(0.0, 1.0, 20)[:, None]
    root = np.linalg.cholesky(matern52(x - x.T, 0.4) + 1e-12 * np.eye(20))
    near, scores = np.arange(5, 15), np.zeros(1, dtype=np.int64)
    found = [local_errors(given_surrogate(x, root @ rng.standard_normal((20, 1))), near, scores) for _ in range(200)]
    assert kstest([one.p for one in found], "uniform").pvalue > 0.001
    assert kstest([one.p_least for one in found], "uniform").pvalue > 0.001
    assert np.mean([one.ratio for one in found]) == pytest.approx(1.0, abs=5.0 * np.sqrt(0.2 / 200))
    wrong = local_errors(given_surrogate(x, 5.0 * root @ rng.standard_normal((20, 1))), near, scores)
    assert wrong.p < 1e-3
    assert wrong.ratio > 5.0
    small = local_errors(given_surrogate(x, 0.2 * root @ rng.standard_normal((20, 1))), near, scores)
    assert small.p_least < 1e-3
    assert small.least < 0.1
    assert small.ratios == pytest.approx([small.least])


# --- answer ---------------------------------------------------------------------------------------------------------


def test_fisher_information_of_a_linear_problem_is_exact(rng: np.random.Generator) -> None:
    problem = linear_problem(JACOBIAN, rng.standard_normal(8), SD, error=0.3)
    theta = {name: rng.standard_normal(3) for name in "ab"}
    found = fisher_information(problem, theta, np.zeros(3, dtype=np.int64))
    wanted = JACOBIAN.T @ JACOBIAN / (SD**2 + 0.09)
    assert found == pytest.approx(np.tile(wanted, (3, 1, 1)), rel=0.05)  # the prior's sd is that of 4000 draws


def test_power_scaling_of_a_conjugate_normal(rng: np.random.Generator) -> None:
    """Prior N(0, 1), data of the same weight: both matter alike. A flat prior matters nothing."""
    theta = rng.normal(0.5, np.sqrt(0.5), 4000)
    prior, likelihood = norm.logpdf(theta), norm.logpdf(theta, 1.0)
    found = power_scaling({"a": theta}, prior, likelihood, (4, 1000))["a"]
    import arviz_stats

    dims = ("chain", "draw")
    groups = {"posterior": theta, "log_prior": prior, "log_likelihood": likelihood}
    tree = xr.DataTree.from_dict({k: xr.Dataset({"a": (dims, v.reshape(4, 1000))}) for k, v in groups.items()})
    for group in ("prior", "likelihood"):
        wanted = float(arviz_stats.psense(tree, group=group)["a"])
        assert getattr(found, group) == pytest.approx(wanted, rel=0.02)
    assert found.prior == pytest.approx(found.likelihood, rel=0.3)
    assert found.prior > 0.05
    assert power_scaling({"a": theta}, np.zeros(4000), likelihood, (4, 1000))["a"].prior == 0.0


@pytest.mark.filterwarnings("ignore")
def test_what_the_data_say_nothing_of_is_told_and_what_they_know_is_not(rng: np.random.Generator) -> None:
    jacobian = JACOBIAN * np.array([1.0, 0.02])
    data = jacobian @ np.array([0.5, 0.3]) + SD * rng.standard_normal(8)
    verdict = given_posterior(linear_problem(jacobian, data, SD), exact_draws(jacobian, data, SD, 2000, rng)).verdict
    assert verdict["prior-dominated"].status == "warn"
    assert "that depends on b," in verdict["prior-dominated"].remedy
    assert verdict["confounded"].status == "pass"
    data = JACOBIAN @ np.array([0.5, 0.3]) + SD * rng.standard_normal(8)
    verdict = given_posterior(linear_problem(JACOBIAN, data, SD), exact_draws(JACOBIAN, data, SD, 4000, rng)).verdict
    assert verdict.status == "pass", str(verdict)
    assert verdict.warnings == ()


@pytest.mark.filterwarnings("ignore")
def test_a_prior_that_data_contradict_is_told(rng: np.random.Generator) -> None:
    data = JACOBIAN @ np.array([4.5, 0.0]) + SD * rng.standard_normal(8)
    verdict = given_posterior(linear_problem(JACOBIAN, data, SD), exact_draws(JACOBIAN, data, SD, 4000, rng)).verdict
    conflict = verdict["prior against data"]
    assert conflict.status == "warn"  # 4.5 sds, of two parameters: 2 * 6.8e-6
    assert conflict.value == pytest.approx(2 * 6.8e-6, rel=0.5)
    assert "data place a 4.5 sds above the centre of its prior" in conflict.message
    assert "Prior and data disagree" in conflict.remedy
    assert verdict["prior sensitivity"].status == "note"


def test_one_chain_is_warned_of_at_once() -> None:
    with pytest.warns(ConvergenceWarning):
        uq.NUTS(chains=1)


# --- ends of priors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["lower", "upper"])
@pytest.mark.parametrize(("beyond", "status"), [(0.0, "pass"), (2.0, "pass"), (3.5, "warn"), (8.0, "warn")])
def test_data_that_lie_beyond_an_end_of_a_prior_are_told(
    side: str, beyond: float, status: str, rng: np.random.Generator
) -> None:
    """A normal of sd 0.1 cut off at 2; it is centred so many sds beyond."""
    z = truncnorm(beyond, np.inf).rvs(20_000, random_state=rng) - beyond
    sign = 1.0 if side == "lower" else -1.0
    ends = (2.0, np.nan) if side == "lower" else (np.nan, 2.0)
    inner = {"b": rng.normal(0.0, 1.0, 20_000)}
    check = check_ends({"a": 2.0 + sign * 0.1 * z, **inner}, {"a": ends, "b": (-30.0, 30.0)}, {"a": 0.1, "b": 1.0})
    assert check.status == status
    if beyond >= 2.0:
        assert check.value == pytest.approx(beyond, abs=0.15)
        assert f"{side} end of the prior of a" in check.message
        assert (" a: draws pile up" in check.remedy) == (status == "warn")


def test_an_end_that_cannot_be_judged_is_not_passed() -> None:
    one = {"a": np.linspace(0.0, 1.0, 50)}
    assert check_ends(one, {"a": (0.0, 1.0)}, {"a": float("nan")}).status == "note"
    assert check_ends(one, {"a": (float("nan"), float("nan"))}, {"a": float("nan")}).status == "pass"


@pytest.mark.parametrize(("beyond", "status"), [(1.0, "pass"), (6.0, "warn")])
def test_a_flat_prior_that_ends_too_early_is_told_though_no_power_of_it_matters(
    beyond: float, status: str, rng: np.random.Generator
) -> None:
    """A straight line: the prior of its level ends some sds away from where data put it, and the slope makes up."""
    sd, data = 0.05, JACOBIAN @ np.array([0.5, 0.3]) + 0.05 * rng.standard_normal(8)
    jacobian = JACOBIAN + np.array([0.0, 1.0])
    precision = jacobian.T @ jacobian / sd**2 + np.diag([0.0, 1.0])
    mean = np.linalg.solve(precision, jacobian.T @ data / sd**2)
    left = np.sqrt(np.linalg.inv(precision)[0, 0])
    end = mean[0] + beyond * left
    space = uq.ParameterSpace(a=uq.Uniform(float(end), 3.0), b=uq.Normal(0.0, 1.0))
    inner = linear_problem(jacobian, data, sd)
    problem = uq.Calibration(inner.surrogate, inner.observations, uq.GaussianNoise(sd=sd), space=space)
    a = mean[0] + left * truncnorm(beyond, np.inf).rvs(4000, random_state=rng)
    b = mean[1] - precision[1, 0] / precision[1, 1] * (a - mean[0]) + rng.standard_normal(4000) / precision[1, 1] ** 0.5
    verdict = given_posterior(problem, np.column_stack([a, b])).verdict
    assert verdict["end of a prior"].status == status
    assert verdict["end of a prior"].value == pytest.approx(beyond, abs=0.3 if status == "warn" else 1.0)
    assert verdict["prior sensitivity"].status == "pass"
    assert verdict["edge of the design box"].status == "pass"


# --- what comes first, and outliers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e12])
def test_what_data_leave_is_right_where_information_is_very_large(scale: float, rng: np.random.Generator) -> None:
    root = rng.standard_normal((3, 3))
    prior = root @ root.T
    prior /= np.sqrt(np.outer(np.diag(prior), np.diag(prior)))
    J = rng.standard_normal((1, 3)) * scale  # one measurement: two directions stay as the prior has them
    found = covariance_left((J.T @ J)[None], prior)[0]
    gain = prior @ J.T / (1.0 + J @ prior @ J.T)
    assert found == pytest.approx(prior - gain @ J @ prior, rel=1e-6, abs=1e-9)


def tails_p(errors: np.ndarray, rng: np.random.Generator) -> float:
    """Return p of outliers of a straight line's data, the parameters at their posterior mean."""
    jacobian = np.column_stack([np.ones(len(errors)), np.linspace(-1.0, 1.0, len(errors))])
    data = jacobian @ rng.standard_normal(2) + SD * errors
    problem = linear_problem(jacobian, data, SD)
    mean = exact_draws(jacobian, data, SD, 400, rng).mean(axis=0)
    found = check_residuals(problem, {"a": mean[:1], "b": mean[1:]})[1]
    assert found.name == "outliers"
    return float(found.message.split("p = ")[1].split(" ")[0])


def test_outliers_have_their_level_and_power(rng: np.random.Generator) -> None:
    """Of right data p is uniform, however large the noise; two of 16 that are off by 8 sds are nearly always seen."""
    levels = [tails_p(rng.uniform(0.5, 2.0) * rng.standard_normal(16), rng) for _ in range(80)]
    assert kstest(levels, "uniform").pvalue > 0.001
    seen = 0
    for _ in range(20):
        errors = rng.standard_normal(16)
        errors[rng.choice(16, 2, replace=False)] += 8.0 * rng.choice([-1.0, 1.0], 2)
        seen += tails_p(errors, rng) <= 0.0025
    assert seen >= 6  # .42 of simulated data sets with 15 measurements: 6 is 1.1 standard errors less


def test_an_outlier_is_named_with_its_place(rng: np.random.Generator) -> None:
    errors = rng.standard_normal(12)
    errors[7] += 12.0
    jacobian = np.ones((12, 1))
    data = 0.5 + SD * errors
    problem = linear_problem(jacobian, data, SD)
    check = check_residuals(problem, {"a": np.array([float(np.median(data))])})[1]
    assert check.status == "warn"
    assert "the measurement of 'y' at (t = 7) is" in check.message
    assert "StudentTNoise" in check.remedy


def test_a_cause_is_named_before_what_it_causes() -> None:
    def first(*names: str, status: str = "fail") -> str:
        checks = tuple(Check(name, status, 1.0, "", f"Mend {name}.") for name in names)  # type: ignore[arg-type]
        return Verdict(checks).conclusion.split("First step: Mend ")[1].removesuffix(".")

    assert first("R-hat", "other modes") == "other modes"
    assert first("ESS", "R-hat", "divergences", "energy") == "energy"
    assert first("R-hat", "other modes", "prior against data", "prior predictions") == "prior predictions"
    assert first("predictive misfit", "outliers", status="warn") == "outliers"
    funnel = (Check("R-hat", "fail", 1.2, "", "Mend R-hat."), Check("energy", "warn", 0.1, "", "Mend energy."))
    assert Verdict(funnel).conclusion.endswith("First step: Mend energy.")
    others = (Check("R-hat", "fail", 1.2, "", "Mend R-hat."), Check("outliers", "warn", 9.0, "", "Mend outliers."))
    assert Verdict(others).conclusion.endswith("First step: Mend R-hat.")
    assert first("predictive misfit", "autocorrelated residuals", status="warn") == "autocorrelated residuals"
    assert first("surrogate error", "edge of the design box", "prior mass cut") == "prior mass cut"


def test_every_remedy_that_a_verdict_may_name_first_names_a_step() -> None:
    """The first sentence is what the verdict prints: it says what to do, not only what is wrong."""
    assert computation.check_r_hat({"a": 1.2}, 4).remedy.startswith("Sample longer, NUTS(")
    assert computation.check_energy(np.cumsum(np.ones((2, 50)), axis=1)).remedy.startswith("Use a tighter prior on")
    for check in (
        computation.check_r_hat({"a": 1.2}, 4),
        computation.check_r_hat({"a": 1.2}, 1),
        computation.check_ess({"a": 3.0}, 4),
        computation.check_energy(np.cumsum(np.ones((2, 50)), axis=1)),
    ):
        assert action_of(first_step(Verdict((check,)))) is not None, check.remedy


def test_left_out_errors_of_all_scores_are_judged_together() -> None:
    """Three scores, each stated half again too large, of which no single one is unlikely: together they are."""
    from calibration.problems import given_surrogate, matern52

    rng = np.random.default_rng(7)
    x = np.linspace(0.0, 1.0, 20)[:, None]
    root = np.linalg.cholesky(matern52(x - x.T, 0.4) + 1e-12 * np.eye(20))
    near, scores = np.arange(5, 15), np.arange(3)
    found = [local_errors(given_surrogate(x, root @ rng.standard_normal((20, 3))), near, scores) for _ in range(300)]
    p = np.array([[one.p, one.p_least] for one in found])
    assert np.mean(p < 0.05) <= 0.05 + 3.0 * np.sqrt(0.05 * 0.95 / 600)  # Bonferroni: at most
    small = [
        local_errors(given_surrogate(x, 0.55 * root @ rng.standard_normal((20, 3))), near, scores) for _ in range(100)
    ]
    alone = [
        local_errors(given_surrogate(x, 0.55 * root @ rng.standard_normal((20, 1))), near, scores[:1])
        for _ in range(100)
    ]
    together, one = (np.mean([each.p_least < 0.0025 for each in cases]) for cases in (small, alone))
    assert together > one + 0.2


def test_all_runs_tell_what_those_near_the_posterior_are_too_few_to_tell() -> None:
    """Stated errors that are half again too large everywhere; and too large far from the posterior alone."""
    from calibration.problems import given_surrogate, matern52

    rng = np.random.default_rng(9)
    x = np.linspace(0.0, 1.0, 40)[:, None]
    root = np.linalg.cholesky(matern52(x - x.T, 0.4) + 1e-12 * np.eye(40))
    near, scores = np.arange(10), np.zeros(1, dtype=np.int64)

    def told(y: np.ndarray) -> tuple[bool, bool]:
        surrogate = given_surrogate(x, y)
        few = local_errors(surrogate, near, scores)
        return few.p_least < 0.0025, misfit._errors_of_all(surrogate, scores, few) is not None

    drawn = [root @ rng.standard_normal((40, 1)) for _ in range(100)]
    few, every = np.mean([told(0.6 * y) for y in drawn], axis=0)
    assert few < 0.25
    assert every > 0.75  # chi-square of 40 degrees has a power of .946; a tenth of it is lost where the ten disagree
    assert np.mean([told(y)[1] for y in drawn]) <= 0.03  # two tests at .0025, of 100
    for y in drawn[:20]:  # innovations of the first ten as they are stated, the others a third of that
        shrunk = root @ (np.linalg.solve(root, y) * np.where(np.arange(40) < 10, 1.0, 1 / 3)[:, None])
        found = local_errors(given_surrogate(x, shrunk), near, scores)
        assert misfit._errors_of_all(given_surrogate(x, shrunk), scores, found) is None or found.least < 0.5
    wrong = given_surrogate(x, 1.7 * drawn[0])
    found = misfit._errors_of_all(wrong, scores, local_errors(wrong, near, scores))
    assert found is not None
    assert found.ratio == pytest.approx(1.7**2, rel=0.4)


def test_the_verdict_asks_all_runs_where_those_nearby_are_too_few() -> None:
    from calibration.problems import given_surrogate, matern52

    rng = np.random.default_rng(9)
    x = np.linspace(0.0, 1.0, 40)[:, None]
    root = np.linalg.cholesky(matern52(x - x.T, 0.4) + 1e-12 * np.eye(40))
    near, scores = np.arange(10), np.zeros(1, dtype=np.int64)
    while True:  # a function of which the ten runs nearest to the posterior do not tell, and all do
        surrogate = given_surrogate(x, 0.6 * root @ rng.standard_normal((40, 1)))
        few = local_errors(surrogate, near, scores)
        if few.p_least > 0.0025 and misfit._errors_of_all(surrogate, scores, few) is not None:
            break
    problem = uq.Calibration(surrogate, xr.DataArray(0.0, name="y"), uq.GaussianNoise(sd=0.1))
    check = misfit.check_validation(problem, {"theta": rng.uniform(0.05, 0.15, 500)}, np.array([0.3]))
    assert check.message.startswith("leave-one-out errors of all 40 runs are 0.")


def test_a_subject_that_is_apart_is_found_and_named(rng: np.random.Generator) -> None:
    """Six subjects of eight measurements and one parameter each: p is uniform, and one of twice the noise is found."""
    unit = np.repeat(np.arange(6), 8)
    basis = np.linspace(0.5, 1.5, 8) / np.linalg.norm(np.linspace(0.5, 1.5, 8))

    def apart(scale: np.ndarray) -> misfit._Apart:
        errors = scale[:, None] * rng.standard_normal((6, 8))
        left = errors - (errors @ basis)[:, None] * basis
        draws = left.ravel() ** 2 + np.tile(basis**2, 6)  # what posterior draws have more, on average
        return misfit._subject_apart(unit, draws, 6.0)

    levels = np.array([apart(np.ones(6)).p for _ in range(400)])
    for level in (0.02, 0.1):
        wanted = 1.0 - (1.0 - level / 6.0) ** 6
        assert np.mean(levels <= level) == pytest.approx(wanted, abs=4.0 * np.sqrt(wanted / 400))
    scale = np.ones(6)
    scale[4] = 3.0
    found = [apart(scale) for _ in range(50)]
    assert np.mean([one.unit == 4 and one.p < 0.0025 and one.others > 0.005 for one in found]) > 0.8
    assert np.mean([apart(3.0 * np.ones(6)).others < 0.005 for _ in range(50)]) > 0.95  # all are off: it is the noise

"""Known inputs that were measured with an error: closed forms, quadrature, and equality with known conditions."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from calibration.problems import by_quadrature, given_surrogate
from scipy.stats import norm

import uqms as uq
from uqms.calibration import Posterior
from uqms.calibration.predict import conditional_moments, own_cells
from uqms.calibration.samplers import Sampler
from uqms.errors import DataWarning, InputError

SPACE = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0, unit="mg")})
TABLE = pd.DataFrame(
    {
        "y": [0.9, 1.1, 0.4, 0.2, 0.6],
        "x": [0.3, 0.3, 0.3, 0.7, 0.7],
        "run": ["a", "a", "b", "c", "c"],
        "r": [0, 1, 0, 0, 1],
        "s": [0.05, 0.05, 0.08, 0.0, 0.0],
    }
)
TRUE = np.array([0.33, 0.22, 0.7])  # of a, b, c
AT = {"x[0]": 0.33, "x[1]": 0.22}


def surrogate(count: int = 7) -> Any:
    """Return a Gaussian process of theta and x with a large error of its own."""
    rng = np.random.default_rng(4)
    runs = rng.random((count, 2))
    values = (1.5 * runs[:, :1] - runs[:, 1:]) * np.ones((1, 1))
    return given_surrogate(runs, values, ell=0.8, variance=1.0, names=("theta", "x"), space=SPACE)


def observed(table: pd.DataFrame = TABLE, **settings: Any) -> uq.Observations:
    given: dict[str, Any] = {"output": "y", "value": "y", "conditions": ["x"], "experiment": "run", "replicate": "r"}
    return uq.Observations.from_table(table, **(given | settings))


def known() -> uq.Observations:
    """Return the same with the true conditions said."""
    return observed(TABLE.assign(x=TRUE[[0, 0, 1, 2, 2]]))


FORMS = {
    "independent": {"noise": uq.GaussianNoise(0.2)},
    "correlated": {"noise": uq.GaussianNoise(0.2), "discrepancy": uq.OffsetDiscrepancy(sd=0.3, shared=False)},
    "latent": {"noise": uq.StudentTNoise(0.2, 4.0)},
}
# The known problem has its experiments in the order of x: b, a, c. Errors of both are the same law in another order.
SWAP = np.array([1, 0, 2])


@pytest.mark.parametrize("form", FORMS)
def test_likelihood_is_that_at_the_true_conditions(form: str) -> None:
    one = uq.Calibration(surrogate(), observed(conditions_sd={"x": "s"}), **FORMS[form])
    other = uq.Calibration(surrogate(), known(), **FORMS[form])
    assert list(one.priors) == ["theta", "x[0]", "x[1]"]
    assert one.data_model.form == form
    theta = np.linspace(0.1, 0.9, 4)
    true = {key: np.full(4, value) for key, value in AT.items()}
    if form != "latent":
        np.testing.assert_allclose(
            one.log_likelihood({"theta": theta, **true}), other.log_likelihood({"theta": theta}), rtol=1e-12
        )
        measured = {"x[0]": np.full(4, 0.3), "x[1]": np.full(4, 0.3)}  # two experiments at one input share their error
        same = uq.Calibration(surrogate(), observed(), **FORMS["independent"])
        if form == "independent":
            np.testing.assert_allclose(
                one.log_likelihood({"theta": theta, **measured}), same.log_likelihood({"theta": theta}), rtol=1e-9
            )
        return
    u = one.unit_inputs({"theta": theta, **true})
    np.testing.assert_array_equal(u[:, SWAP], other.unit_inputs({"theta": theta}))
    eta = np.random.default_rng(0).standard_normal((4, 3))
    y, _ = one.data_model.latent_outputs(u, one.noise.phi({}, (4,)), eta)
    np.testing.assert_allclose(
        one.log_likelihood({"theta": theta, **true}, eta),
        np.sum(FORMS["latent"]["noise"].log_density(y[0][:, [0, 0, 1, 2, 2]], *_student(one)), axis=1),
        rtol=1e-12,
    )


def _student(problem: uq.Calibration) -> tuple[Any, ...]:
    from uqms.parameters.functions import NumPyFunctions

    return problem.cells.rows(0), {"sigma": 0.2, "df": 4.0}, NumPyFunctions


@pytest.mark.parametrize("form", FORMS)
def test_simulated_data_have_the_errors_between_true_conditions(form: str) -> None:
    """Covariance of simulated rows against the law at the true conditions, within 4.5 Monte Carlo standard errors."""
    count = 20_000
    noise = uq.GaussianNoise(0.2)  # of a form, but normal
    one = uq.Calibration(surrogate(), observed(conditions_sd={"x": "s"}), **{**FORMS[form], "noise": noise})
    theta = {"theta": np.full(count, 0.4), **{key: np.full(count, value) for key, value in AT.items()}}
    drawn = one.simulate(theta, 1)
    u = one.unit_inputs({key: values[:1] for key, values in theta.items()})[0]
    np.testing.assert_allclose(u[:, 1], TRUE, atol=1e-15)
    scores = one.surrogate.scores(u)
    k = np.array([0, 0, 1, 2, 2])
    covariance = scores.covariance[0, 0][np.ix_(k, k)] + 0.04 * np.eye(5)
    covariance += 0.09 * (k[:, None] == k) * (form == "correlated")
    variance = np.diag(covariance)
    off = (drawn.mean(axis=0) - scores.mean[0, k, 0]) / np.sqrt(variance / count)
    assert np.abs(off).max() < 4.5
    spread = np.sqrt((np.outer(variance, variance) + covariance**2) / count)
    assert np.abs((np.cov(drawn.T) - covariance) / spread).max() < 4.5


@pytest.mark.parametrize("form", ["independent", pytest.param("latent", marks=pytest.mark.slow)])
def test_the_model_has_the_same_density_and_its_derivative(form: str) -> None:
    import pytensor

    problem = uq.Calibration(surrogate(), observed(conditions_sd={"x": "s"}), **FORMS[form])
    model = problem.model()
    points = {"theta": np.array([0.45]), "x[0]": np.array([0.33]), "x[1]": np.array([0.22])}
    eta = np.random.default_rng(2).standard_normal((1, problem.latents))
    line = problem.on_the_real_line({**points, "latents": eta})[0]
    names = [*problem.priors]
    values = {model.rvs_to_values[model[name]]: line[i] for i, name in enumerate(names)}
    if problem.latents:
        values[model.rvs_to_values[model["latents"]]] = line[3:]
    likelihood = model.logp(vars=[model["observations"]], sum=True)
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        slopes = pytensor.grad(likelihood, list(values)[:3])
        found = pytensor.function(list(values), [likelihood, *slopes])(*values.values())
        priors = pytensor.function(list(values), model.varlogp, on_unused_input="ignore")(*values.values())

    def numpy(at: dict[str, np.ndarray]) -> float:
        return float(problem.log_likelihood(at, eta if problem.latents else None)[0])

    np.testing.assert_allclose(found[0], numpy(points), rtol=1e-10)
    # d theta / d z of a logit between the limits
    for slope, name in zip(found[1:], names, strict=True):
        low, high = problem.limits(name)
        value, step = points[name][0], 1e-6
        by_value = numpy({**points, name: np.array([value + step])}) - numpy({**points, name: np.array([value - step])})
        np.testing.assert_allclose(
            slope, by_value / (2 * step) * (value - low) * (high - value) / (high - low), rtol=1e-5
        )
    # priors, each times d x / d z
    expected = sum(math.log((points[n][0]) * (1.0 - points[n][0])) for n in names) - 0.5 * np.sum(eta**2)
    expected -= 0.5 * problem.latents * math.log(2 * math.pi)
    for x, m, s in ((0.33, 0.3, 0.05), (0.22, 0.3, 0.08)):
        expected += norm(m, s).logpdf(x) - math.log(norm(m, s).cdf(1.0) - norm(m, s).cdf(0.0))
    np.testing.assert_allclose(float(priors), expected, rtol=1e-7)


# ------------------------------------------------------------------------------------------ a linear simulator: exact
SLOPE, ERROR, SIGMA, REPEATS = 2.0, 0.5, 0.3, 10
LINEAR = uq.ParameterSpace(theta=uq.Normal(0.0, 3.0), conditions={"x": uq.Condition(-20.0, 20.0)})


def line(theta: Any, x: Any) -> Any:
    return theta + SLOPE * x


def linear(measured: np.ndarray, values: np.ndarray, error: float = ERROR) -> uq.Calibration:
    """Return y = theta + 2 x: values (K, R) of K experiments whose x was measured with an error."""
    k, r = values.shape
    table = pd.DataFrame(
        {
            "x": np.repeat(measured, r),
            "run": np.repeat(np.arange(k), r),
            "r": np.tile(np.arange(r), k),
            "y": values.ravel(),
        }
    )
    simulator = uq.DirectSimulator(line, space=LINEAR, outputs={"y": ()}, vectorized=True)
    settings: dict[str, Any] = {"conditions_sd": {"x": error}} if error else {}
    return uq.Calibration(simulator, observed(table, **settings), uq.GaussianNoise(SIGMA))


def exact(measured: np.ndarray, values: np.ndarray, error: float = ERROR) -> tuple[float, float]:
    """Return mean and sd of theta: each experiment says theta = mean - 2 x with variance 4 error² + sigma² / R."""
    precision = 1.0 / (SLOPE**2 * error**2 + SIGMA**2 / values.shape[1])
    total = 1.0 / 9.0 + len(values) * precision
    return float(precision * np.sum(values.mean(axis=1) - SLOPE * measured) / total), total**-0.5


MEASURED = np.array([1.0, 2.0, 2.0])
VALUES = np.array([3.1, 5.0, 3.4])[:, None] + 0.2 * np.random.default_rng(0).standard_normal((3, REPEATS))


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    return linear(MEASURED, VALUES).sample(uq.SMC(), rng=1)


def test_posterior_of_a_linear_simulator_is_exact(posterior: Posterior) -> None:
    mean, sd = exact(MEASURED, VALUES)
    found = posterior.summary().loc["theta"]
    assert abs(found["mean"] - mean) < 4.0 * sd / math.sqrt(found["ess_bulk"])
    assert abs(found["sd"] / sd - 1.0) < 4.0 / math.sqrt(2.0 * found["ess_bulk"])
    assert exact(MEASURED, VALUES, 0.0)[1] < 0.2 * sd  # what one would have said


def test_true_conditions_are_in_the_tree_by_experiment(posterior: Posterior) -> None:
    group = posterior.tree["conditions"].dataset
    assert group["x"].dims == ("chain", "draw", "experiment")
    np.testing.assert_array_equal(group["x_measured"], MEASURED)
    np.testing.assert_array_equal(group["x_sd"], np.full(3, ERROR))
    for k in range(3):
        np.testing.assert_array_equal(group["x"].sel(experiment=k), posterior.draws[f"x[{k}]"])
    # x_k given theta and the data is normal: with theta integrated out, by the joint precision of (theta, x)
    w = REPEATS / SIGMA**2
    precision = np.diag([1.0 / 9.0 + 3 * w, *(np.full(3, SLOPE**2 * w + ERROR**-2))])
    precision[0, 1:] = precision[1:, 0] = SLOPE * w
    means = VALUES.mean(axis=1)
    expected = np.linalg.solve(precision, [w * means.sum(), *(SLOPE * w * means + MEASURED / ERROR**2)])
    sd = np.sqrt(np.diag(np.linalg.inv(precision)))
    ess = posterior.summary()["ess_bulk"]
    for k in range(3):
        found = group["x"].sel(experiment=k).values
        assert abs(found.mean() - expected[1 + k]) < 4.0 * sd[1 + k] / math.sqrt(ess[f"x[{k}]"])


def test_prediction_of_an_observed_and_of_a_known_condition(posterior: Posterior) -> None:
    theta, x = posterior.draws["theta"].values.ravel(), posterior.draws["x[1]"].values.ravel()
    own = posterior.predict(draws=len(theta))
    np.testing.assert_allclose(own.mean["y"].isel(condition=1), np.mean(theta + SLOPE * x), rtol=1e-10)
    np.testing.assert_allclose(own.sd["y"].isel(condition=1), np.std(theta + SLOPE * x), rtol=1e-8)
    other = posterior.predict(conditions={"x": 2.0}, draws=len(theta))
    np.testing.assert_allclose(float(other.mean["y"]), theta.mean() + SLOPE * 2.0, rtol=1e-10)
    np.testing.assert_allclose(float(other.sd["y"]), theta.std(), rtol=1e-8)
    assert float(own.sd["y"][1]) < 0.4 * float(other.sd["y"])  # ten measurements of it, against theta alone


def test_verdict_knows_that_conditions_were_fitted(posterior: Posterior) -> None:
    """Information on theta: 1 / (4 error² + sigma² / R) an experiment; three cell means are no misfit, nor overfit."""
    from uqms.calibration.verdict import fisher_information

    problem = posterior.problem
    some = {name: posterior.draws[name].values.ravel()[:5] for name in problem.priors}
    found = fisher_information(problem, some, np.zeros(5, dtype=np.int64))
    per = 1.0 / (SLOPE**2 * ERROR**2 + SIGMA**2 / REPEATS)
    np.testing.assert_allclose(found[:, 0, 0], 3 * per * 9.0, rtol=0.1)  # the prior's sd is that of 4 000 draws
    assert posterior.verdict["predictive misfit"].status == "pass", posterior.verdict["predictive misfit"]


@pytest.mark.slow
def test_who_ignores_the_error_is_overconfident() -> None:
    """Intervals from quadrature of the problem's own likelihood, over 300 data sets of one experiment."""
    rng = np.random.default_rng(7)
    theta_grid = np.linspace(-6.0, 6.0, 121)
    steps = np.linspace(-4.0, 4.0, 41) * ERROR
    inside = np.zeros((2, 300), dtype=bool)
    for i in range(300):
        theta, x = rng.normal(0.0, 3.0) / 3.0, rng.uniform(-1.0, 1.0)
        measured = np.array([x + ERROR * rng.standard_normal()])
        values = theta + SLOPE * x + SIGMA * rng.standard_normal((1, REPEATS))
        for row, error in enumerate((ERROR, 0.0)):
            problem = linear(measured, values, error)
            grids = (theta_grid, measured + steps) if error else (theta_grid,)
            if i < 3:
                _, mean, sd, _ = by_quadrature(problem, *grids)
                np.testing.assert_allclose((mean[0], sd[0]), exact(measured, values, error), rtol=0.02, atol=0.02)
            mean_, sd_ = exact(measured, values, error)
            inside[row, i] = abs(theta - mean_) < 1.96 * sd_
    covered = inside.mean(axis=1)
    assert covered[0] > 0.92
    assert covered[1] < 0.35


def test_prediction_takes_the_error_at_the_true_condition() -> None:
    """Moments given the data equal those of the problem in which the true conditions are known."""
    one = uq.Calibration(surrogate(), observed(conditions_sd={"x": "s"}), uq.GaussianNoise(0.2))
    other = uq.Calibration(surrogate(), known(), uq.GaussianNoise(0.2))
    h = np.zeros(2, dtype=np.int64)
    theta = {"theta": np.array([0.2, 0.6])}
    true = {key: np.full(2, value) for key, value in AT.items()}
    ((_, a),) = conditional_moments(one, theta | true, h, own_cells(one.cells))
    ((_, b),) = conditional_moments(other, theta, h, own_cells(other.cells))
    np.testing.assert_allclose(a.mean[:, SWAP], b.mean, rtol=1e-9)
    np.testing.assert_allclose(a.covariance[:, SWAP][:, :, SWAP], b.covariance, rtol=1e-7, atol=1e-12)


def test_parts_and_a_model_of_ones_own() -> None:
    import pymc as pm

    settings: dict[str, Any] = {"noise": {"one": uq.GaussianNoise(0.2), "two": uq.GaussianNoise(0.2)}}
    data = observed(conditions_sd={"x": "s"})
    joint = uq.Calibration({"one": (surrogate(), data), "two": (surrogate(8), known())}, **settings)
    assert list(joint.priors) == ["theta", "one_x[0]", "one_x[1]"]
    at = {"theta": 0.4, "one_x[0]": 0.33, "one_x[1]": 0.22}
    each = [uq.Calibration(surrogate(count), known(), uq.GaussianNoise(0.2)) for count in (7, 8)]
    expected = sum(one.log_likelihood({"theta": 0.4}) for one in each)
    np.testing.assert_allclose(joint.log_likelihood(at), expected, rtol=1e-12)
    problem = uq.Calibration(surrogate(), data, uq.GaussianNoise(0.2))
    with pm.Model() as model:
        uq.observe(problem, {"theta": 0.4}, own_priors=True)
    assert [v.name for v in model.free_RVs] == ["x[0]", "x[1]"]
    with pm.Model() as model:
        x = pm.Normal("x", problem.experiments["x"], 0.1)
        uq.observe(problem, {"theta": 0.4, "x": x})
    assert [v.name for v in model.free_RVs] == ["x"]


def test_columns_numbers_and_tables() -> None:
    by_number = observed(conditions_sd={"x": 0.05})
    np.testing.assert_array_equal(by_number.conditions_sd["x"], np.full(5, 0.05))
    np.testing.assert_array_equal(by_number.table["x_sd"], np.full(5, 0.05))
    both = uq.Observations.concat([by_number, observed(TABLE.assign(y=1.0))])
    np.testing.assert_array_equal(both.conditions_sd["x"], [0.05] * 5 + [0.0] * 5)
    unlabelled = observed(TABLE.assign(r=range(5)), conditions_sd={"x": "s"}, experiment=None)
    with pytest.raises(InputError, match=r"'x' has the sds 0\.05 and 0\.08 in one experiment"):
        uq.Calibration(surrogate(), unlabelled, uq.GaussianNoise(0.2))
    same = observed(TABLE.assign(r=range(5)), conditions_sd={"x": 0.05}, experiment=None)
    assert list(uq.Calibration(surrogate(), same, uq.GaussianNoise(0.2)).uncertain) == ["x[0]", "x[1]"]


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ({"x": -0.1}, "at least 0"),
        ({"x": math.nan}, "at least 0"),
        ({"z": 0.1}, "conditions_sd is given for"),
        ({"x": "none"}, "not in the table"),
        ({"x": [0.1]}, "name of a column, or a number"),
    ],
)
def test_wrong_errors(errors: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        observed(conditions_sd=errors)


def test_what_cannot_be_meant() -> None:
    data = observed(conditions_sd={"x": "s"})
    for wrong in (
        uq.GPDiscrepancy(sd=0.1, length=0.3),
        uq.BasisDiscrepancy([lambda at: at["x"]], sd=0.1),
    ):
        with pytest.raises(InputError, match="discrepancy of 'y' is a function of 'x'"):
            uq.Calibration(surrogate(), data, uq.GaussianNoise(0.2), discrepancy=wrong)
    with pytest.warns(DataWarning, match=r"measured as 0.[37] with an sd of 0.2: 7% of what it may be"):
        uq.Calibration(surrogate(), observed(conditions_sd={"x": 0.2}), uq.GaussianNoise(0.2))


def test_designs(posterior: Posterior) -> None:
    with pytest.raises(InputError, match="true conditions"):
        uq.verification_design(posterior, 5)


@pytest.mark.slow
def test_nuts_agrees_with_quadrature() -> None:
    """The PyMC path, to which the compiled one leaves such problems: theta and two true conditions, by a grid."""
    problem = uq.Calibration(surrogate(25), observed(conditions_sd={"x": "s"}), uq.GaussianNoise(0.1))
    sampler: Sampler = uq.NUTS(draws=1000, tune=500, cores=1)
    found = problem.sample(sampler, rng=3)
    grids = np.linspace(0.005, 0.995, 100), np.linspace(0.1, 0.5, 41), np.linspace(0.02, 0.62, 41)
    _, mean, sd, _ = by_quadrature(problem, *grids)
    table = found.summary()
    for i, name in enumerate(problem.priors):
        ess = table.loc[name, "ess_bulk"]
        assert abs(table.loc[name, "mean"] - mean[i]) < 4.0 * sd[i] / math.sqrt(ess)
        assert abs(table.loc[name, "sd"] / sd[i] - 1.0) < 0.1
    design = uq.refine(found, 30, rng=1)
    x = design["x"].values
    assert len(np.unique(x[x != 0.7])) == 20
    assert np.abs(x[x != 0.7] - 0.3).max() < 0.35

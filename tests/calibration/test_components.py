"""Parts of a calibration in a PyMC model that a user writes: the same law, the user's own priors and likelihoods."""

from collections.abc import Callable

import arviz_stats
import numpy as np
import nutpie
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
import xarray as xr
from calibration.problems import linear_surrogate, matern52, replicates
from calibration.test_noise_models import COUNTS, HALF, REALS, curve, observed
from scipy import stats
from scipy.special import logsumexp

import uqms as uq
from uqms.surrogates import Log

X = np.array([0.2, 0.5])
drawing_forward = pytest.mark.filterwarnings("ignore:Numba will use object mode to run CustomDist")


def evaluated(model: pm.Model, values: pt.TensorVariable) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """Return a function from a point of the model to an expression of its variables."""
    (expression,) = model.replace_rvs_by_values([values])
    found: Callable[[dict[str, np.ndarray]], np.ndarray] = model.compile_fn(
        expression, inputs=model.value_vars, on_unused_input="ignore"
    )
    return found


PROBLEMS = {
    "independent": lambda: uq.Calibration(curve(), observed(REALS), uq.GaussianNoise(HALF)),
    "correlated": lambda: uq.Calibration(
        curve(), observed(REALS), uq.GaussianNoise(HALF), discrepancy=uq.GPDiscrepancy()
    ),
    "latent": lambda: uq.Calibration(curve(Log()), observed(COUNTS), uq.PoissonNoise()),
}


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=pytest.mark.slow) if form == "latent" else form for form in PROBLEMS]
)
def test_observations_in_a_model_of_ones_own_are_those_of_the_calibration(form: str) -> None:
    problem = PROBLEMS[form]()
    assert problem.data_model.form == form
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        theirs = problem.model()
        with pm.Model() as ours:
            # twice the parameter is what has a prior here
            twice = pm.Uniform("twice", 0.0, 2.0, default_transform=None)
            uq.observe(problem, {"theta": 0.5 * twice}, own_priors=True)
        point = {**theirs.initial_point(), "twice": np.array(0.84)}
        real_line = next(name for name in point if name.startswith("theta"))
        point[real_line] = np.log(0.42 / 0.58)
        rng = np.random.default_rng(1)
        if problem.latents:
            point["latents"] = rng.standard_normal(problem.latents)
        known = {variable.name: point[variable.name] for variable in theirs.value_vars}
        expected = theirs.compile_logp(vars=[theirs["observations"]])(known)
        del point[real_line]
        # of a noise sd, shared by both models, the derivative is the same; that of theta halves
        assert float(ours.compile_logp(vars=[ours["observations"]])(point)) == pytest.approx(float(expected), rel=1e-12)
        slope = ours.compile_dlogp(vars=[twice])
        density = ours.compile_logp()
    ends = [float(density({**point, "twice": np.array(0.84 + step)})) for step in (1e-5, -1e-5)]
    assert slope(point)[0] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)


def test_inputs_may_differ_between_experiments(rng: np.random.Generator) -> None:
    """A parameter for each experiment, and conditions that are themselves uncertain: dense Gaussian by hand."""
    values = rng.standard_normal((2, 3))
    problem = uq.Calibration(linear_surrogate(2.0, 0.3), replicates(values, X), uq.GaussianNoise(sd=0.4))
    assert list(problem.experiments["x"]) == list(X)
    theta, dose = np.array([0.3, -0.5]), np.array([0.25, 0.4])
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        with pm.Model() as model:
            person = pm.Normal("person", 0.0, 1.0, shape=2)
            taken = pm.Normal("taken", X, 0.05)
            uq.observe(problem, {"theta": person, "x": taken}, name="data")
        found = model.compile_logp(vars=[model["data"]])({"person": theta, "taken": dose})
    error = 0.09 * np.kron(matern52(dose[:, None] - dose[None, :], 0.3), np.ones((3, 3)))
    law = stats.multivariate_normal(np.repeat(2.0 * theta, 3), error + 0.16 * np.eye(6))
    assert float(found) == pytest.approx(law.logpdf(values.ravel()), rel=1e-9)


def two_draws() -> uq.Surrogate:
    """Return a surrogate of a curve whose hyperparameters are averaged."""
    space = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0))
    design = uq.sobol(space, 6, rng=2)
    t = np.arange(4.0)
    curves = xr.DataArray(np.sin(3 * design["theta"].values[:, None] + t), dims=("run", "t"), coords={"t": t})
    return uq.GaussianProcess(hyperparameters="averaged").fit(uq.ensemble.build(design, {"y": curves}, space=space))


def test_a_law_of_ones_own_is_averaged_over_all_data_at_once(rng: np.random.Generator) -> None:
    problem = uq.Calibration(two_draws(), observed(REALS), uq.GaussianNoise(HALF))
    eta = rng.standard_normal(len(problem.data_model.free))
    y, log_weights = problem.data_model.latent_outputs(
        problem.unit_inputs({"theta": np.array([0.42])}), np.ones((1, len(problem.noise.keys))), eta[None]
    )
    assert len(log_weights) > 1
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        with pm.Model() as model:
            theta = pm.Uniform("theta", 0.0, 1.0, default_transform=None)
            share = pm.Beta("share", 1.0, 9.0, default_transform=None)
            output = uq.latent_output(problem, {"theta": theta})

            def law(y: object, share: object) -> object:
                # PyTensor takes the logarithm of a Python number in float32
                parts = [pm.Normal.dist(y, np.float64(0.5)), pm.Normal.dist(y, np.float64(5.0))]
                return pm.Mixture.dist(w=pt.stack([1.0 - share, share]), comp_dists=parts)

            seen = output.observe("seen", law, share, observed=REALS)
        point = {"theta": np.array(0.42), "share": np.array(0.2), "latents": eta}
        found = float(model.compile_logp(vars=[seen])(point))
        np.testing.assert_allclose(evaluated(model, output.values)(point), y[:, 0], rtol=1e-9)
    mixed = np.log(0.8 * stats.norm(y[:, 0], 0.5).pdf(REALS) + 0.2 * stats.norm(y[:, 0], 5.0).pdf(REALS))
    assert found == pytest.approx(float(logsumexp(mixed.sum(axis=1) + log_weights)), rel=3e-8)
    per_row = float(logsumexp(mixed + log_weights[:, None], axis=0).sum())
    assert abs(found - per_row) > 1e-6  # averaging each row by itself would be another number


@pytest.mark.slow
def test_latent_output_of_a_logarithm_is_in_the_outputs_unit() -> None:
    problem = uq.Calibration(curve(Log()), observed(COUNTS + 1.0), uq.LogNormalNoise(HALF))
    eta = np.random.default_rng(3).standard_normal(len(problem.data_model.free))
    u = problem.unit_inputs({"theta": np.array([0.42])})
    y, _ = problem.data_model.latent_outputs(u, np.ones((1, 1)), eta[None])
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        with pm.Model() as model:
            output = uq.latent_output(problem, {"theta": 0.42}, name="eta")
        values = evaluated(model, output.values)({"eta": eta})
    np.testing.assert_allclose(values, np.exp(y[:, 0]), rtol=1e-9)


@pytest.mark.slow
def test_discrepancy_is_part_of_the_latent_output() -> None:
    """Latents draw a curve with the discrepancy's covariance, whose hyperparameters are expressions."""
    problem = uq.Calibration(
        curve(), observed(REALS), uq.GaussianNoise(HALF), discrepancy=uq.GPDiscrepancy(sd=HALF, length=1.5)
    )
    (amplitude,) = (key for key in problem.noise.unknown if key != "sigma")
    with pytest.raises(uq.errors.InputError, match=amplitude), pm.Model():
        uq.latent_output(problem, {"theta": 0.42})
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        with pm.Model() as model:
            size = pm.HalfNormal("size", 1.0, default_transform=None)
            output = uq.latent_output(problem, {"theta": 0.42, amplitude: size})
        evaluate = evaluated(model, output.values)
    count = len(problem.data_model.free)
    at = {"size": np.array(0.7)}
    zero = evaluate({**at, "latents": np.zeros(count)})[0]
    root = np.stack([evaluate({**at, "latents": row})[0] - zero for row in np.eye(count)], axis=1)
    none = np.stack([evaluate({"size": np.array(1e-6), "latents": row})[0] - zero for row in np.eye(count)], axis=1)
    t = np.arange(4.0)
    expected = 0.49 * matern52(t[:, None] - t[None, :], 1.5)
    np.testing.assert_allclose(root @ root.T - none @ none.T, expected, atol=1e-6)


@pytest.fixture(scope="module")
def three_in_one() -> tuple[pm.Model, np.ndarray, np.ndarray]:
    """Return a model in which theta is seen by two calibrations and a law of one's own, all linear and Gaussian."""
    rng = np.random.default_rng(5)
    data = [0.8 + rng.standard_normal((2, 2)) for _ in range(3)]
    problems = [
        uq.Calibration(linear_surrogate(slope, sd), replicates(values, X), uq.GaussianNoise(sd=0.5))
        for slope, sd, values in zip((1.0, 2.0, 1.5), (0.8, 0.3, 0.5), data, strict=True)
    ]
    with pm.Model() as model:
        theta = pm.Normal("theta", 0.0, 1.0)
        uq.observe(problems[0], {"theta": theta})
        uq.observe(problems[1], {"theta": theta}, name="second")
        output = uq.latent_output(problems[2], {"theta": theta}, name="third_latents")
        output.observe("third", lambda y: pm.Normal.dist(y, 0.5), observed=data[2].ravel())
    jacobian = np.repeat([1.0, 2.0, 1.5], 4)
    covariance = np.zeros((12, 12))
    for i, sd in enumerate((0.8, 0.3, 0.5)):
        covariance[4 * i : 4 * i + 4, 4 * i : 4 * i + 4] = sd**2 * np.kron(
            matern52(X[:, None] - X[None, :], 0.3), np.ones((2, 2))
        ) + 0.25 * np.eye(4)
    precision = 1.0 + jacobian @ np.linalg.solve(covariance, jacobian)
    mean = jacobian @ np.linalg.solve(covariance, np.concatenate([d.ravel() for d in data])) / precision
    return model, np.array([mean, precision**-0.5]), covariance


@pytest.mark.slow
@drawing_forward
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_two_calibrations_and_a_law_of_ones_own_share_a_parameter(
    three_in_one: tuple[pm.Model, np.ndarray, np.ndarray],
) -> None:
    model, (mean, sd), _ = three_in_one
    compiled = nutpie.compile_pymc_model(model)
    trace = nutpie.sample(compiled, draws=1000, tune=500, chains=4, seed=1, progress_bar=False)
    draws = trace["posterior"]["theta"].values
    ess = float(arviz_stats.ess(draws))
    assert draws.mean() == pytest.approx(mean, abs=4 * sd / np.sqrt(ess))
    assert draws.std() == pytest.approx(sd, rel=6 / np.sqrt(2 * ess))


@pytest.mark.slow
@pytest.mark.usefixtures("interpreted")
def test_forward_draws_of_all_have_the_joint_law(three_in_one: tuple[pm.Model, np.ndarray, np.ndarray]) -> None:
    model, _, covariance = three_in_one
    with model:
        drawn = pm.sample_prior_predictive(4000, random_seed=3)
    theta = drawn["prior"]["theta"].values.ravel()
    seen = np.concatenate(
        [drawn["prior_predictive"][name].values.reshape(-1, 4) for name in ("observations", "second", "third")], axis=1
    )
    off = seen - theta[:, None] * np.repeat([1.0, 2.0, 1.5], 4)
    np.testing.assert_allclose(np.cov(off.T), covariance, atol=5 * 0.9 * np.sqrt(2 / 4000))


def test_what_is_missing_or_does_not_fit_is_named() -> None:
    problem = PROBLEMS["independent"]()
    with pm.Model():
        with pytest.raises(uq.errors.InputError, match=r"lacks \['sigma'\]"):
            uq.observe(problem, {"theta": 0.5})
        with pytest.raises(uq.errors.InputError, match=r"unknown quantities \['other'\]"):
            uq.observe(problem, {"theta": 0.5, "other": 1.0}, own_priors=True)
        with pytest.raises(uq.errors.InputError, match="one for each of the 1 experiments"):
            uq.observe(problem, {"theta": np.array([0.2, 0.3]), "sigma": 1.0})
        with pytest.raises(uq.errors.InputError, match="'sigma' has the shape"):
            uq.observe(problem, {"theta": 0.5, "sigma": np.ones(1)})
        pm.HalfNormal("sigma")
        with pytest.raises(uq.errors.InputError, match=r"variables \['sigma'\] already"):
            uq.observe(problem, {"theta": 0.5}, own_priors=True)
        output = uq.latent_output(problem, {"theta": 0.5})
        with pytest.raises(uq.errors.InputError, match="give 4 numbers"):
            output.observe("seen", lambda y: pm.Normal.dist(y, 1.0), observed=[1.0])


def test_three_labels_under_the_same_conditions_are_an_error_for_three_values() -> None:
    design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    fitted = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": np.sin(design["k"].values)}))
    problem = uq.Calibration(fitted, replicates(np.array([[0.5], [0.6], [0.7]])), uq.GaussianNoise(sd=0.1))
    (name,) = problem.parameters
    assert len(problem.experiments) == 1
    wanted = (
        rf"'{name}' has the shape \(3,\); required is a number, or one for each of the 1 experiments of "
        r"problem.experiments. The observations have 3 labels \('0', '1', '2'\).*subject= instead of experiment=.*"
        r"uq.Population\(space, individual"
    )
    with pm.Model(coords={"outbreak": ["a", "b", "c"], "pair": [0, 1]}) as model:
        by_name = pm.Uniform("by_name", 0.0, 1.0, dims="outbreak")  # of a length that its type leaves open
        with pytest.raises(uq.errors.InputError, match=wanted):
            uq.observe(problem, {name: by_name})
        with pytest.raises(uq.errors.InputError, match=wanted):
            uq.latent_output(problem, {name: pm.Uniform("by_shape", 0.0, 1.0, shape=3)})
        two = pm.Uniform("two", 0.0, 1.0, dims="pair")
        with pytest.raises(uq.errors.InputError, match=r"\(2,\); .* experiments of problem.experiments.$"):
            uq.observe(problem, {name: two})
        uq.observe(problem, {name: by_name[0]})  # one value for all: labels change nothing
    assert [variable.name for variable in model.observed_RVs] == ["observations"]


@pytest.mark.filterwarnings("ignore::uqms.errors.PriorConflictWarning")  # the data lie in the prior's tail
def test_a_potential_of_ones_own_averages_over_hyperparameters_as_observe_does() -> None:
    """The recipe of *In your own model*."""
    problem = uq.Calibration(two_draws(), observed(REALS), uq.GaussianNoise(sd=0.1))
    data = problem.observations.value

    def model_of(own: bool) -> float:
        with pm.Model() as model:
            output = uq.latent_output(problem, {}, own_priors=True)
            if own:
                each = pm.logp(pm.StudentT.dist(4.0, mu=output.values, sigma=0.2), data).sum(axis=-1)  # (H,)
                pm.Potential("seen", pt.logsumexp(each + output.log_weights))
            else:
                output.observe("seen", lambda y: pm.StudentT.dist(4.0, mu=y, sigma=0.2), observed=data)
        assert len(output.log_weights) > 1
        point = {name: value + 0.3 for name, value in model.initial_point().items()}
        return float(model.compile_logp()(point))

    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        assert model_of(own=True) == pytest.approx(model_of(own=False), rel=1e-12)

"""The likelihood against its definition: dense covariances, finite differences, conditional densities."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from calibration.problems import compiled_at, dense_covariance, given_surrogate, linear_surrogate, replicates
from scipy.stats import multivariate_normal

import uqms as uq
from uqms.calibration.likelihood import compress, right_factor
from uqms.surrogates import GaussianProcessSurrogate

# Random problems have random data, of which the prior may well say that they are impossible.
pytestmark = pytest.mark.filterwarnings("ignore::uqms.errors.PriorConflictWarning")


def random_problem(seed: int) -> tuple[uq.Calibration, dict[str, float], np.ndarray]:
    """Return a random calibration with several conditions, coordinates, replicates, scores and truncation columns."""
    rng = np.random.default_rng(seed)
    q, m, t, k = rng.integers(1, 4), rng.integers(2, 5), rng.integers(0, 3), rng.integers(1, 5)
    n = 8
    surrogate = given_surrogate(
        rng.random((n, 2)),
        rng.standard_normal((n, q)),
        ell=rng.uniform(0.2, 1.0),
        variance=rng.uniform(0.2, 2.0),
        basis=rng.standard_normal((m, q)),
        truncation=rng.uniform(0.05, 0.5) * rng.standard_normal((m, t)),
        offset=rng.standard_normal(m),
        names=("theta", "x"),
        columns=int(rng.integers(0, 4)),
        space=uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)}),
    )
    rows = [(e, c, r) for e in range(k) for c in range(m) for r in range(rng.integers(1, 4)) if rng.random() < 0.8]
    rows = rows or [(0, 0, 0)]
    known = bool(rng.integers(2))
    experiment, coordinate, replicate = np.array(rows).T
    observations = uq.Observations(
        output=np.full(len(rows), "y"),
        value=rng.standard_normal(len(rows)),
        coords={"t": coordinate.astype(float)},
        conditions={"x": rng.random(k)[experiment]},
        subject=np.full(len(rows), ""),
        experiment=np.full(len(rows), ""),
        replicate=replicate,
        sd=rng.uniform(0.1, 1.0, len(rows)) if known else np.full(len(rows), np.nan),
    )
    noise = uq.GaussianNoise() if known else uq.GaussianNoise(sd=uq.HalfNormal(1.0))
    theta = {"theta": float(rng.random())} | ({} if known else {"sigma": float(rng.uniform(0.05, 1.0))})
    return uq.Calibration(surrogate, observations, noise), theta, np.array([theta.get("sigma", 1.0)])


@pytest.mark.parametrize("seed", range(200))
def test_log_likelihood_is_the_multivariate_normal_of_the_raw_rows(seed: int) -> None:
    problem, theta, sigma = random_problem(seed)
    mean, covariance = dense_covariance(problem, theta, sigma)
    expected = multivariate_normal(mean, covariance, allow_singular=False).logpdf(problem.cells.z)
    assert problem.log_likelihood(theta) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("seed", range(30))
def test_compiled_gradient_equals_central_differences(seed: int) -> None:
    problem, theta, sigma = random_problem(seed)
    u = problem.unit_inputs({name: np.array(value) for name, value in theta.items()})
    z = problem.cells.z
    value, u_bar, sigma_bar = compiled_at(problem, u, sigma, z)
    assert value == pytest.approx(float(problem.log_likelihood(theta)), rel=1e-9, abs=1e-9)
    step = 1e-5
    for index in np.ndindex(*u.shape):
        shift = np.zeros_like(u)
        shift[index] = step
        upper, lower = (compiled_at(problem, u + sign * shift, sigma, z)[0] for sign in (1.0, -1.0))
        assert u_bar[index] == pytest.approx((upper - lower) / (2 * step), rel=1e-5, abs=1e-5 * max(1.0, abs(value)))
    upper, lower = (compiled_at(problem, u, sigma * (1.0 + sign * step), z)[0] for sign in (1.0, -1.0))
    assert sigma_bar[0] * sigma[0] == pytest.approx(
        (upper - lower) / (2 * step), rel=1e-5, abs=1e-5 * max(1.0, abs(value))
    )


@pytest.mark.parametrize("conditions", [8, 24])
def test_many_conditions_have_the_dense_normal_and_its_gradient(conditions: int) -> None:
    """Beyond 16 numbers that inputs share, matrices go through LAPACK."""
    rng = np.random.default_rng(conditions)
    x = rng.random((15, 2))
    space = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
    surrogate = given_surrogate(x, rng.standard_normal((15, 1)), names=("theta", "x"), space=space)
    observations = replicates(rng.standard_normal((conditions, 2)), np.linspace(0.02, 0.98, conditions))
    problem = uq.Calibration(surrogate, observations, uq.GaussianNoise(sd=uq.HalfNormal(1.0)))
    theta, sigma = {"theta": 0.4, "sigma": 0.3}, np.array([0.3])
    expected = multivariate_normal(*dense_covariance(problem, theta, sigma)).logpdf(problem.cells.z)
    assert problem.log_likelihood(theta) == pytest.approx(expected, rel=1e-9)
    u, z, step = problem.unit_inputs({"theta": np.array(0.4)}), problem.cells.z, 1e-5
    value, u_bar, _ = compiled_at(problem, u, sigma, z)
    assert value == pytest.approx(expected, rel=1e-9)
    for index in np.ndindex(*u.shape):
        shift = np.zeros_like(u)
        shift[index] = step
        upper, lower = (compiled_at(problem, u + sign * shift, sigma, z)[0] for sign in (1.0, -1.0))
        assert u_bar[index] == pytest.approx((upper - lower) / (2 * step), rel=1e-5, abs=1e-5 * abs(value))


@pytest.mark.parametrize("seed", range(20))
def test_leave_one_out_terms_are_the_conditional_densities(seed: int) -> None:
    from uqms.calibration.assembly import leave_one_out

    problem, theta, sigma = random_problem(seed)
    mean, covariance = dense_covariance(problem, theta, sigma)
    precision = np.linalg.inv(covariance)
    scaled = precision @ (problem.cells.z - mean)
    kappa = np.diag(precision)
    expected = -0.5 * np.log(2 * np.pi) + 0.5 * np.log(kappa) - 0.5 * scaled**2 / kappa
    arrays = {name: np.array([value]) for name, value in theta.items()}
    joint, pointwise, _ = leave_one_out(
        problem, arrays, np.zeros((len(next(iter(arrays.values()))), 0)), np.random.default_rng(0)
    )
    np.testing.assert_allclose(pointwise[0], expected, rtol=1e-8, atol=1e-8)
    assert joint[0] == pytest.approx(float(problem.log_likelihood(theta)), rel=1e-12)


def with_two_draws(surrogate: GaussianProcessSurrogate, weights: tuple[float, float]) -> GaussianProcessSurrogate:
    """Return the surrogate with a second hyperparameter draw: another variance."""
    one = surrogate.process
    n, q = len(one.x), one.q
    other = given_surrogate(one.x, one.y, ell=0.9, variance=3.0, columns=one.beta.shape[2]).process
    names = "ell variance nugget jitter beta target inverse_factor trend_factor trend_root".split()
    stacked = {name: np.concatenate([getattr(one, name), getattr(other, name)]) for name in names}
    process = replace(one, **stacked, log_weights=np.log(np.array(weights)))
    assert process.inverse_factor.shape == (2, q, n, n)
    return replace(surrogate, process=process)


def test_hyperparameter_draws_are_averaged_over_the_whole_data_set(rng: np.random.Generator) -> None:
    x, y = rng.random((6, 1)), rng.standard_normal((6, 1))
    surrogate = given_surrogate(x, y)
    values = 0.3 + 0.1 * rng.standard_normal((1, 5))
    noise = uq.GaussianNoise(sd=0.2)
    both = uq.Calibration(with_two_draws(surrogate, (0.3, 0.7)), replicates(values), noise)
    parts = [
        uq.Calibration(with_two_draws(surrogate, weights), replicates(values), noise).log_likelihood({"theta": 0.37})
        for weights in ((1.0, 1e-300), (1e-300, 1.0))
    ]
    expected = np.logaddexp(np.log(0.3) + parts[0], np.log(0.7) + parts[1])
    assert both.log_likelihood({"theta": 0.37}) == pytest.approx(float(expected), rel=1e-10)

    def value(u: float) -> float:
        return compiled_at(both, np.array([[u]]), np.array([0.2]), both.cells.z)[0]

    gradient = compiled_at(both, np.array([[0.37]]), np.array([0.2]), both.cells.z)[1][0, 0]
    assert value(0.37) == pytest.approx(float(expected), rel=1e-10)
    assert gradient == pytest.approx((value(0.37 + 1e-5) - value(0.37 - 1e-5)) / 2e-5, rel=1e-5)


def test_at_a_training_run_only_the_noise_is_left(rng: np.random.Generator) -> None:
    x, y = np.linspace(0.0, 1.0, 6)[:, None], rng.standard_normal((6, 1))
    problem = uq.Calibration(given_surrogate(x, y), xr.DataArray(0.1, name="y"), uq.GaussianNoise(sd=0.3))
    expected = -0.5 * np.log(2 * np.pi * 0.09) - 0.5 * (0.1 - y[2, 0]) ** 2 / 0.09
    assert problem.log_likelihood({"theta": x[2, 0]}) == pytest.approx(expected, abs=1e-6)


def test_units_of_the_data_carry_a_jacobian(rng: np.random.Generator) -> None:
    x, y = rng.random((6, 1)), rng.standard_normal((6, 1))
    values = rng.standard_normal((1, 4))
    metres = uq.Calibration(given_surrogate(x, y), replicates(values), uq.GaussianNoise(sd=0.2))
    scaled = given_surrogate(x, y, basis=np.array([[1000.0]]))
    millimetres = uq.Calibration(scaled, replicates(1000.0 * values), uq.GaussianNoise(sd=200.0))
    difference = metres.log_likelihood({"theta": 0.4}) - millimetres.log_likelihood({"theta": 0.4})
    assert difference == pytest.approx(4 * np.log(1000.0), rel=1e-10)


def test_order_of_rows_does_not_matter(rng: np.random.Generator) -> None:
    problem, theta, _ = random_problem(7)
    order = rng.permutation(len(problem.observations))
    table = problem.observations
    shuffled = uq.Observations(
        output=table.output[order],
        value=table.value[order],
        coords={"t": table.coords["t"][order]},
        conditions={"x": table.conditions["x"][order]},
        subject=table.subject[order],
        experiment=table.experiment[order],
        replicate=table.replicate[order],
        sd=table.sd[order],
    )
    noise = uq.GaussianNoise() if len(theta) == 1 else uq.GaussianNoise(sd=uq.HalfNormal(1.0))
    again = uq.Calibration(problem.surrogate, shuffled, noise)
    assert again.log_likelihood(theta) == pytest.approx(float(problem.log_likelihood(theta)), rel=1e-11)


def test_noise_too_small_for_double_precision_gives_no_density_instead_of_a_false_mode() -> None:
    """Against 60-digit arithmetic the value is right where it is given; beyond that there is none."""
    rng = np.random.default_rng(5)
    x, y = rng.random((6, 1)), rng.standard_normal((6, 3))
    basis = rng.standard_normal((8, 3))
    surrogate = given_surrogate(x, y, basis=basis, truncation=0.1 * rng.standard_normal((8, 2)))
    seen = surrogate.predict({"theta": 0.37}).mean["y"].values[0]
    data = xr.DataArray(seen, dims="t", coords={"t": np.arange(8.0)}, name="y")
    problem = uq.Calibration(surrogate, data, uq.GaussianNoise(sd=uq.LogUniform(1e-12, 1.0)))
    for sigma in (1e-2, 1e-4, 1e-5):
        mean, covariance = dense_covariance(problem, {"theta": 0.4}, np.array([sigma]))
        sign, log_det = np.linalg.slogdet(covariance)
        off = data.values - mean
        expected = -0.5 * (8 * np.log(2 * np.pi) + log_det + off @ np.linalg.solve(covariance, off))
        assert problem.log_likelihood({"theta": 0.4, "sigma": sigma}) == pytest.approx(expected, abs=0.02)
    values = problem.log_likelihood({"theta": 0.4, "sigma": np.logspace(-12, -8, 9)})
    assert (values == -np.inf).all()


@pytest.mark.usefixtures("interpreted")
def test_scores_of_outputs_that_were_not_observed_change_nothing(rng: np.random.Generator) -> None:
    space = uq.ParameterSpace(k=uq.Uniform(0.5, 2.0))
    design = uq.sobol(space, 20, rng=1)
    t = np.linspace(0.0, 1.0, 12)
    outputs = {
        "curve": xr.DataArray(np.sin(design["k"].values[:, None] * 3 * t), dims=("run", "t"), coords={"t": t}),
        "peak": np.cos(design["k"].values),
    }
    both = uq.GaussianProcess().fit(uq.ensemble.build(design, outputs, space=space))
    one = uq.GaussianProcess().fit(uq.ensemble.build(design, {"peak": outputs["peak"]}, space=space))
    data, noise = xr.DataArray(0.2, name="peak"), uq.GaussianNoise(sd=0.1)
    problems = [uq.Calibration(surrogate, data, noise) for surrogate in (both, one)]
    assert len(problems[0].cells.used) == 1
    theta = {"k": np.linspace(0.6, 1.9, 9)}
    # The same process to rounding: its arrays lie elsewhere in memory, and BLAS sums in another order.
    np.testing.assert_allclose(*(problem.log_likelihood(theta) for problem in problems), rtol=1e-7)
    point = {"k_realline__": np.array(0.3)}
    np.testing.assert_allclose(*(problem.model().compile_dlogp()(point) for problem in problems), rtol=1e-6)


def test_conditions_that_differ_by_rounding_are_one_input(rng: np.random.Generator) -> None:
    surrogate = linear_surrogate(1.0, 0.5, truncation=np.full((1, 1), 0.3))
    values = rng.standard_normal((2, 3))
    split = uq.Calibration(surrogate, replicates(values, np.array([0.3, 0.1 + 0.2])), uq.GaussianNoise(sd=0.2))
    exact = uq.Calibration(surrogate, replicates(values, np.array([0.3, 0.3])), uq.GaussianNoise(sd=0.2))
    assert split.cells.experiments == 1
    theta = {"theta": np.linspace(-1, 1, 5)}
    np.testing.assert_allclose(split.log_likelihood(theta), exact.log_likelihood(theta), rtol=1e-12)


def test_a_parameter_named_like_the_noise_is_refused() -> None:
    space = uq.ParameterSpace(sigma=uq.Uniform(0.0, 1.0))
    x = np.linspace(0.0, 1.0, 6)[:, None]
    surrogate = given_surrogate(x, x, names=("sigma",), space=space)
    with pytest.raises(uq.errors.InputError, match=r"\['sigma'\].*Rename"):
        uq.Calibration(surrogate, xr.DataArray(0.5, name="y"), uq.GaussianNoise(sd=uq.HalfNormal(0.1)))


def test_known_sds_are_not_silently_left_out() -> None:
    x = np.linspace(0.0, 1.0, 6)[:, None]
    data = xr.DataArray(0.5, name="y").assign_coords(sd=0.1)
    with pytest.raises(uq.errors.InputError, match="known sds"):
        uq.Calibration(given_surrogate(x, x), data, uq.GaussianNoise(sd=uq.HalfNormal(0.1)))


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel": uq.Matern52() + uq.SquaredExponential()},
        {"kernel": uq.Matern52() * uq.Matern32()},
        {"kernel": uq.RationalQuadratic(0.8)},
        {"kernel": uq.RationalQuadratic(0.8) + uq.Matern52() * uq.RationalQuadratic(2.0)},
        {"trend": "quadratic"},
    ],
)
def test_sums_products_and_quadratic_trends_are_in_the_compiled_likelihood(settings: dict[str, object]) -> None:
    rng = np.random.default_rng(8)
    space = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
    design = uq.sobol(space, 16, rng=1)
    y = np.sin(4.0 * design["theta"].values) + design["x"].values ** 2
    runs = uq.ensemble.build(design, {"y": y}, space=space)
    surrogate = uq.GaussianProcess(hyperparameters="point", **settings).fit(runs)
    data = replicates(rng.normal(0.8, 0.3, (3, 2)), np.array([0.2, 0.5, 0.9]))
    problem = uq.Calibration(surrogate, data, noise=uq.GaussianNoise(sd=0.2))
    at = {"theta": 0.4}
    mean, covariance = dense_covariance(problem, at, np.array([0.2]))
    expected = multivariate_normal(mean, covariance).logpdf(problem.cells.z)
    u, z, sigma = problem.unit_inputs({"theta": np.array(0.4)}), problem.cells.z, np.array([0.2])
    value, u_bar, _ = compiled_at(problem, u, sigma, z)
    assert value == pytest.approx(expected, rel=1e-8)
    for index in np.ndindex(*u.shape):
        shift = np.zeros_like(u)
        shift[index] = 1e-5
        upper, lower = (compiled_at(problem, u + sign * shift, sigma, z)[0] for sign in (1.0, -1.0))
        assert u_bar[index] == pytest.approx((upper - lower) / 2e-5, rel=1e-4, abs=1e-4)


def test_scalars_with_scores_in_common_have_one_error() -> None:
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
    design = uq.sobol(space, 20, rng=1)
    a, b = design["a"].values, design["b"].values
    edv, esv = 120.0 + 40.0 * np.sin(2.0 * a + b), 50.0 + 20.0 * np.cos(3.0 * a * b) + 15.0 * b**2
    runs = uq.ensemble.build(design, {"edv": edv, "esv": esv, "sv": edv - esv}, space=space)
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(runs)
    names, sd, empty = ("edv", "esv", "sv"), np.array([0.2, 0.1, 0.3]), np.full(3, "")
    observations = uq.Observations(
        output=np.array(names),
        value=np.array([150.0, 70.0, 81.0]),
        coords={},
        conditions={},
        subject=empty,
        experiment=empty,
        replicate=np.zeros(3, dtype=int),
        sd=sd,
    )
    problem = uq.Calibration(surrogate, observations, uq.GaussianNoise())
    scores = surrogate.marginal_scores(np.array([[0.93, 0.04]]))
    basis = np.vstack([surrogate.decode(name).basis for name in names])
    mean = np.array([surrogate.evaluate({"a": 0.93, "b": 0.04})[name].item() for name in names])
    error = (basis * scores.covariance[0, :, 0]) @ basis.T
    assert np.linalg.matrix_rank(error, tol=1e-9 * error.max()) == 2
    expected = multivariate_normal(mean, error + np.diag(sd**2)).logpdf(observations.value)
    assert problem.log_likelihood({"a": 0.93, "b": 0.04}) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", [1, 2])
def test_latents_of_truncation_do_not_depend_on_the_signs_of_singular_vectors(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine's LAPACK returns either sign; with it a latent number would mean something else there."""
    rng, svd = np.random.default_rng(seed), np.linalg.svd
    factor = rng.normal(size=(9, 4))
    before = compress(factor), right_factor(factor)
    np.testing.assert_allclose(before[0] @ before[0].T, factor @ factor.T, rtol=1e-12, atol=1e-12)

    def turned(a: np.ndarray, full_matrices: bool) -> tuple[np.ndarray, ...]:
        left, singular, right = svd(a, full_matrices=full_matrices)
        signs = rng.choice([-1.0, 1.0], len(singular))
        signs[0] = -1.0
        return left * signs, singular, right * signs[:, None]

    monkeypatch.setattr(np.linalg, "svd", turned)
    np.testing.assert_allclose(compress(factor), before[0], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(right_factor(factor), before[1], rtol=1e-12, atol=1e-13)

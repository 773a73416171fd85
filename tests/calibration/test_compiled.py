"""The compiled log-density: the PyMC model's value and gradient, exact maps, the posterior of the plain path."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from calibration.problems import given_surrogate, linear_surrogate

import uqms as uq
from uqms.calibration import blocks, compiled, warmup
from uqms.calibration.compiled import Map, on_the_line, target
from uqms.calibration.samplers.nuts import worst_ess
from uqms.parameters import Prior
from uqms.parameters.scale import SCALES, Interval

RNG = np.random.default_rng(0)
X = RNG.random((12, 2))
CURVES = np.column_stack([np.sin(3.0 * X[:, 0]), X[:, 0] * X[:, 1], np.cos(2.0 * X[:, 1])])
BASIS, TRUNCATION = RNG.standard_normal((7, 3)), 0.1 * RNG.standard_normal((7, 4))
T = np.arange(7.0)


def curve_problem(
    noise: object = None, priors: dict[str, Prior] | None = None, times: np.ndarray = T
) -> uq.Calibration:
    space = uq.ParameterSpace(**(priors or {"a": uq.Uniform(0.0, 1.0), "b": uq.Beta(2.0, 3.0)}))
    surrogate = given_surrogate(X, CURVES, basis=BASIS, truncation=TRUNCATION, names=("a", "b"), space=space)
    values = surrogate.predict({"a": np.array([0.4]), "b": np.array([0.6])}).mean["y"].values[0]
    data = xr.DataArray(
        (values + 0.1 * np.random.default_rng(1).standard_normal(7))[times.astype(int)],
        dims="t",
        coords={"t": times},
        name="y",
    )
    return uq.Calibration(surrogate, data, noise or uq.GaussianNoise(sd=uq.HalfNormal(0.3)))


def pymc_density(problem: uq.Calibration):  # noqa: ANN201
    """Value and gradient of the PyMC model at a point of the real line, without compiling C or numba."""
    import pytensor

    model = problem.model()
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        function = model.compile_fn([model.logp(), model.dlogp()], point_fn=False, inputs=model.value_vars)
    return lambda z: function(*z)


def same_density(problem: uq.Calibration, points: int = 4) -> None:
    """Compare gradients and values with PyMC, and values with the library's densities."""
    found = target(problem)
    assert found is not None
    reference = pymc_density(problem)
    theta = problem.prior_draws(points, 5)
    likelihood = problem.log_likelihood(theta)
    for i, z in enumerate(on_the_line(problem, theta)):
        value, gradient = found.evaluate(z)
        wanted, slope = reference(z)
        np.testing.assert_allclose(gradient, slope, rtol=1e-8, atol=1e-8 * np.abs(slope).max())
        np.testing.assert_allclose(value, wanted, rtol=1e-9, atol=1e-9)
        own = likelihood[i]
        for (name, prior), one in zip(problem.priors.items(), z, strict=True):
            own += float(Interval.of(*problem.limits(name), SCALES[prior.scale]).log_jacobian(one))
            low, high = (float(prior.cdf(end)) for end in problem.limits(name))
            own += float(prior.log_density(theta[name][i])) - np.log(high - low)
        np.testing.assert_allclose(value, own, rtol=1e-9, atol=1e-9)


# --- value and gradient ----------------------------------------------------------------------------------------------

PRIORS: dict[str, Prior] = {
    "uniform": uq.Uniform(0.1, 0.9),
    "log-uniform": uq.LogUniform(0.05, 0.9),
    "normal": uq.Normal(0.5, 0.15),
    "log-normal": uq.LogNormal(0.4, 0.3),
    "truncated": uq.TruncatedNormal(0.2, 0.5, low=0.05, high=0.95),
    "one-sided": uq.TruncatedNormal(0.3, 0.2, low=0.0),
    "other side": uq.TruncatedNormal(0.5, 0.2, high=0.98),
    "tail": uq.TruncatedNormal(-3.0, 0.5, low=0.1, high=0.9),
    "half-normal": uq.HalfNormal(0.3),
    "half-Cauchy": uq.HalfCauchy(0.3),
    "half-Student": uq.HalfStudentT(3.0, 0.3),
    "exponential": uq.Exponential(3.0),
    "beta": uq.Beta(2.0, 3.0),
    "gamma": uq.Gamma(8.0, 20.0),
    "inverse gamma": uq.InverseGamma(8.0, 3.0),
}


def test_logarithmic_inputs_go_on_as_straight_lines_below_their_box() -> None:
    """Of parameters on three scales of their own, at values that are not positive and small ones."""
    names, ends = ("a", "b", "c"), {"lower": (0.5, 0.2, 0.05), "upper": (4.0, 0.8, 5.0)}
    space = uq.ParameterSpace(a=uq.Normal(0.2, 0.5), b=uq.Beta(0.5, 2.0), c=uq.LogNormal(0.01, 1.0))
    x = np.random.default_rng(3).random((20, 3))
    surrogate = given_surrogate(x, np.sin(x.sum(axis=1))[:, None], ell=1.0, names=names, space=space)
    surrogate = replace(surrogate, domain=uq.Box(names, **ends, scale=("log",) * 3))
    problem = uq.Calibration(surrogate, xr.DataArray(0.3, name="y"), uq.GaussianNoise(sd=0.3), outside="extrapolate")
    drawn = problem.prior_draws(12, 5)
    u = problem.surrogate.domain.to_unit(np.column_stack([drawn[name] for name in names]))
    assert (drawn["a"] < 0.0).any()
    assert ((u < -0.25).any(axis=0) & (u > -0.25).any(axis=0)).all()
    same_density(problem, 12)


@pytest.mark.parametrize("outside", ["error", "extrapolate"])
def test_every_prior_has_the_density_of_pymc(outside: str) -> None:
    """All families at once as noise sds and parameters; the box conditions parameters, or does not."""
    priors = {key.replace(" ", "_").replace("-", "_"): prior for key, prior in PRIORS.items()}
    names = tuple(priors)
    x = np.random.default_rng(3).random((20, len(names)))
    surrogate = given_surrogate(
        x, np.sin(x.sum(axis=1))[:, None], ell=1.0, names=names, space=uq.ParameterSpace(**priors)
    )
    noise = uq.GaussianNoise(sd=uq.Gamma(2.0, 4.0))
    problem = uq.Calibration(surrogate, xr.DataArray(0.3, name="y"), noise, outside="extrapolate")
    if outside == "error":  # the box cuts more than a calibration allows; the limits are all that the density needs
        problem.outside = "error"
        del problem.__dict__["conditioned_prior"]
    same_density(problem, 3)


@pytest.mark.parametrize(
    "prior", [uq.HalfNormal(0.3), uq.HalfCauchy(0.3), uq.LogNormal(0.2, 0.5), uq.InverseGamma(3.0, 0.4), 0.2]
)
def test_noise_known_and_unknown_with_truncation(prior: Prior | float) -> None:
    same_density(curve_problem(uq.GaussianNoise(sd=prior)), 3)


def test_replicates_at_several_conditions_with_row_by_row_noise() -> None:
    surrogate = linear_surrogate(1.3, 0.4, basis=np.array([[1.0], [0.5]]), truncation=np.array([[0.1], [0.3]]))
    rng = np.random.default_rng(2)
    values = xr.DataArray(
        rng.standard_normal((3, 4, 2)),
        dims=("experiment", "replicate", "t"),
        coords={"experiment": np.arange(3), "t": [0.0, 1.0], "x": ("experiment", [0.1, 0.3, 0.9])},
        name="y",
    )
    observations = uq.Observations.from_xarray(values, conditions=("x",))
    for sd in (0.3, uq.HalfNormal(1.0)):
        same_density(uq.Calibration(surrogate, observations, uq.GaussianNoise(sd=sd)))


def test_hyperparameter_draws_are_averaged() -> None:
    import dataclasses

    problem = curve_problem()
    p = problem.surrogate.process
    twice = {
        name: np.concatenate([getattr(p, name)] * 2)
        for name in (
            "ell",
            "variance",
            "nugget",
            "jitter",
            "beta",
            "target",
            "inverse_factor",
            "trend_factor",
            "trend_root",
        )
    }
    twice["beta"] = np.concatenate([p.beta, p.beta + 0.3])
    both = dataclasses.replace(p, log_weights=np.log([0.3, 0.7]), **twice)
    surrogate = dataclasses.replace(problem.surrogate, process=both)
    same_density(uq.Calibration(surrogate, problem.observations, uq.GaussianNoise(sd=uq.HalfNormal(0.3))))


def test_gradient_is_the_slope_of_the_value_through_a_map() -> None:
    problem = curve_problem()
    found = target(problem)
    assert found is not None
    points = on_the_line(problem, problem.prior_draws(300, 1))
    bent = np.column_stack([points[:, 0], points[:, 1] + 0.3 * points[:, 0] ** 2, points[:, 2] - points[:, 1]])
    mapped = found.with_map(warmup.fit_map(bent))
    w = mapped.map.inverse(points[:1])[0]
    value, gradient = mapped.evaluate(w)
    np.testing.assert_allclose(value - mapped.map.log_determinant, found.evaluate(points[0])[0], rtol=1e-12)
    for i, step in enumerate(1e-5 * np.eye(3)):
        slope = (mapped.evaluate(w + step)[0] - mapped.evaluate(w - step)[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, rel=1e-5, abs=1e-5 * np.abs(gradient).max())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("far", [-1e4, 1e4])
def test_far_from_the_posterior_the_density_is_zero_and_nothing_is_printed(far: float) -> None:
    """A step of a search may go where a scale is exactly zero or infinite, by which priors and likelihood divide."""
    found = target(curve_problem(uq.GaussianNoise(sd=uq.InverseGamma(3.0, 2.0))))
    assert found is not None
    for w in (np.array([0.0, 0.0, far]), np.full(3, far)):  # the noise sd is the last
        assert found.evaluate(w)[0] == -np.inf


# --- reuse and refusal -----------------------------------------------------------------------------------------------


def test_new_data_of_the_same_shape_need_no_compilation() -> None:
    one = target(curve_problem())
    assert one is not None
    one.evaluate(np.zeros(3))
    problem = curve_problem(times=T[:5])
    two = target(problem)
    assert two is not None
    assert len(two.block) != len(one.block)
    same_density(problem, 2)
    assert two.functions == one.functions  # C functions of one signature, made once in a process


def test_many_measurements_are_a_few_numbers() -> None:
    rng = np.random.default_rng(4)
    basis = rng.standard_normal((3000, 3))
    surrogate = given_surrogate(
        X, CURVES, basis=basis, truncation=0.1 * rng.standard_normal((3000, 2)), names=("a", "b")
    )
    data = xr.DataArray(rng.standard_normal(3000), dims="t", coords={"t": np.arange(3000.0)}, name="y")
    for sd, cells in ((0.5, 3), (uq.HalfNormal(1.0), 5)):
        problem = uq.Calibration(surrogate, data, uq.GaussianNoise(sd=sd))
        found = target(problem)  # compares with the likelihood
        assert found is not None
        assert compiled.reduced(problem.cells, problem.noise).rows == cells


def test_a_density_that_is_not_the_calibrations_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = curve_problem()
    right = compiled.reduced(problem.cells, problem.noise)
    assert right is not None
    data = right.data.copy()
    data[int(data[blocks.Data._fields.index("constant")])] += 1e-3
    monkeypatch.setattr(compiled, "reduced", lambda *_: right)
    assert target(problem) is not None
    monkeypatch.setattr(compiled, "reduced", lambda *_: replace(right, data=data))
    assert target(problem) is None


# --- the map ---------------------------------------------------------------------------------------------------------


def banana(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(n)
    b = 0.25 * a**2 - 0.5 * a + 0.05 * rng.standard_normal(n)  # narrower than a, so a function of it
    return np.column_stack([b, a, 0.3 * a - b + 0.05 * rng.standard_normal(n)])


def test_the_map_has_a_constant_jacobian_and_an_inverse() -> None:
    fitted = warmup.fit_map(banana(500, 1))
    points = banana(5, 2)
    order = fitted.order.astype(int)
    for z in points:
        jacobian = np.column_stack(
            [(fitted.inverse((z + h)[None]) - fitted.inverse((z - h)[None]))[0] / 2e-5 for h in 1e-5 * np.eye(3)]
        )
        sign, log = np.linalg.slogdet(jacobian)
        assert -log == pytest.approx(fitted.log_determinant, abs=1e-6)
    assert sorted(order) == [0, 1, 2]
    assert sign != 0


def test_the_map_straightens_a_ridge() -> None:
    w = warmup.fit_map(banana(800, 1)).inverse(banana(4000, 3))
    np.testing.assert_allclose(w.std(axis=0), 1.0, atol=0.1)
    np.testing.assert_allclose(np.corrcoef(w.T), np.eye(3), atol=0.08)
    assert np.abs(w).max() < 8.0  # in the tails too
    straight = Map.identity(3)
    np.testing.assert_array_equal(straight.inverse(banana(3, 1)), banana(3, 1))


def test_a_straight_ridge_stays_straight_far_out() -> None:
    """1000 times longer than wide: a map that bends 5 sds out is off by hundreds of widths."""
    rng = np.random.default_rng(5)
    a = rng.standard_normal(1200)
    fitted = warmup.fit_map(np.column_stack([a, a + 1e-3 * rng.standard_normal(1200)]))
    far = np.linspace(-6.0, 6.0, 13)
    w = fitted.inverse(np.column_stack([far, far]))
    order = fitted.order.astype(int).tolist()
    np.testing.assert_allclose(w[:, 1], 0.0, atol=0.8)
    np.testing.assert_allclose(w[:, 0], (far - fitted.centre[order[0]]) / fitted.spread[order[0]], rtol=1e-12)
    assert all(not c[1:].any() for c in fitted.coefficients)  # nothing quadratic to learn


def test_independent_coordinates_are_left_alone() -> None:
    fitted = warmup.fit_map(np.random.default_rng(6).standard_normal((1200, 5)))
    assert not any(c.any() for c in fitted.coefficients)


# --- draws -----------------------------------------------------------------------------------------------------------


def test_the_posterior_is_exact_with_a_map_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """y = 1.5 theta + 0.5 x of standard normals, one measurement each: the posterior is normal."""
    problem = ridge()
    mean, covariance = ridge_law()
    for least in (warmup.LEAST, 10**9):
        monkeypatch.setattr(warmup, "LEAST", least)
        posterior = problem.sample(uq.NUTS(draws=800, tune=600), rng=3)
        draws = posterior.draws
        assert int(posterior.tree["sample_stats"]["diverging"].sum()) == 0
        values = np.stack([draws["a"].values.ravel(), draws["b"].values.ravel()])
        effective = worst_ess(draws)
        sd = np.sqrt(np.diag(covariance))
        assert np.abs(values.mean(axis=1) - mean).max() < 4.0 * sd.max() / np.sqrt(effective)
        np.testing.assert_allclose(values.std(axis=1), sd, rtol=4.0 / np.sqrt(2.0 * effective))
        assert np.corrcoef(values)[0, 1] == pytest.approx(covariance[0, 1] / sd.prod(), abs=0.01)


def ridge() -> uq.Calibration:
    """Return a calibration whose surrogate is a + b without error, with normal priors in a wide box."""
    from uqms.parameters import Box
    from uqms.surrogates import GaussianProcessSurrogate, Layout, Matern52
    from uqms.surrogates.outputs import OutputBasis
    from uqms.surrogates.process import ScoreProcess

    process = ScoreProcess(
        kernel=Matern52(),
        x=np.array([[1e6, 1e6]]),
        y=np.zeros((1, 1)),
        ell=np.array([[[1e7, 1e7]]]),
        variance=np.array([[1e-12]]),
        nugget=np.zeros((1, 1)),
        jitter=np.zeros((1, 1)),
        beta=np.array([[[-16.0, 16.0, 16.0]]]),
        target=np.zeros((1, 1, 1)),
        inverse_factor=np.full((1, 1, 1, 1), 1e6),
        trend_factor=np.zeros((1, 1, 1, 3)),
        trend_root=np.zeros((1, 1, 3, 3)),
        log_weights=np.zeros(1),
    )
    box = Box(("a", "b"), (-8.0, -8.0), (8.0, 8.0), ("identity",) * 2, ((False, False),) * 2)
    output = OutputBasis("y", Layout(), np.zeros(1), np.ones((1, 1)), np.zeros((1, 0)), np.zeros(0))
    space = uq.ParameterSpace(a=uq.Normal(0.0, 1.0), b=uq.Normal(0.0, 1.0))
    surrogate = GaussianProcessSurrogate(box, process, (output,), {"space": space.to_json()})
    return uq.Calibration(surrogate, xr.DataArray(1.2, name="y"), uq.GaussianNoise(sd=0.1))


def ridge_law() -> tuple[np.ndarray, np.ndarray]:
    precision = np.eye(2) + np.ones((2, 2)) / 0.1**2
    covariance = np.linalg.inv(precision)
    return covariance @ np.full(2, 1.2 / 0.1**2), covariance


def test_blocks_follow_until_the_effective_draws_are_there() -> None:
    posterior = ridge().sample(uq.NUTS(draws=150, tune=400, ess=1000), rng=1)
    assert worst_ess(posterior.draws) >= 1000
    assert posterior.draws.sizes["draw"] > 150
    assert "finite draws" not in [check.name for check in posterior.verdict.warnings]
    again = ridge().sample(uq.NUTS(draws=150, tune=400, ess=1000), rng=1)
    np.testing.assert_array_equal(posterior.draws["a"].values, again.draws["a"].values)


def test_a_map_under_which_pilots_diverge_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = ridge()
    found = target(problem)
    assert found is not None
    starts = on_the_line(problem, problem.prior_draws(256, 1))
    settings = {"chains": 4, "cores": 1, "target_accept": 0.9}
    mapped, _, left = warmup.learned(found, 400, settings, 1, starts)
    assert mapped.map.coefficients[1].any()
    assert left < 400
    pilot = warmup._pilot
    monkeypatch.setattr(warmup, "_pilot", lambda *args: (pilot(*args)[0], 1))
    plain, first, left = warmup.learned(found, 400, settings, 1, starts)
    assert (plain, left) == (found, 400)
    np.testing.assert_array_equal(first, starts)


def test_no_map_is_fitted_to_pilots_in_different_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map between a mode and a chain that is stuck elsewhere takes hundreds of steps a draw."""
    problem = ridge()
    found = target(problem)
    assert found is not None
    starts = on_the_line(problem, problem.prior_draws(256, 1))
    settings = {"chains": 4, "cores": 1, "target_accept": 0.9}
    pilot = warmup._pilot

    def stuck(*args: Any) -> tuple[np.ndarray, int]:
        line, diverged = pilot(*args)
        line[: len(line) // 4] += 2.0  # the first chain; its log-density is lower by hundreds
        return line, diverged

    monkeypatch.setattr(warmup, "_pilot", stuck)
    plain, first, left = warmup.learned(found, 400, settings, 1, starts)
    assert (plain, left) == (found, 400)
    np.testing.assert_array_equal(first, starts)


def test_simulated_data_are_those_of_the_compiled_outputs() -> None:
    """Given the same standard normals, products of matrices and the compiled loop give the same outputs."""
    from uqms.calibration import density

    problem = curve_problem()
    theta = problem.prior_draws(20, 0)
    u, phi, rows = problem.unit_inputs(theta), problem.noise.phi(theta, (20,)), np.arange(20)
    eta = np.random.default_rng(1).standard_normal((20, len(problem.data_model.free)))
    wanted, _ = problem.data_model.latent_outputs(u, phi, eta)
    got = density._normal_outputs(problem.data_model, problem.data_model.joint_error(u).given(0 * rows), phi, eta)
    np.testing.assert_allclose(got, wanted[0], rtol=1e-12, atol=1e-12)


def test_without_nutpies_private_classes_it_goes_on_through_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> object:
        raise AttributeError("CompiledPyMCModel")

    wanted = ridge().sample(uq.NUTS(draws=100, tune=400), rng=2).draws
    monkeypatch.setattr(warmup, "_by_address", gone)
    got = ridge().sample(uq.NUTS(draws=100, tune=400), rng=2).draws
    np.testing.assert_allclose(got["a"].values, wanted["a"].values)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "100"])
def test_ess_is_a_whole_number(value: object) -> None:
    with pytest.raises(uq.errors.InputError, match="NUTS: ess is .*; give a whole number of at least 1, or None"):
        uq.NUTS(ess=value)  # type: ignore[arg-type]

"""The bridge to PyMC: priors, the surrogate as an expression, the observed variable."""

from typing import Literal

import arviz_stats
import numpy as np
import nutpie
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
import xarray as xr
from calibration.problems import given_surrogate, linear_surrogate, replicates

import uqms as uq
from uqms.calibration import bridge
from uqms.surrogates import Scores

# PyMC draws from every `CustomDist` in Python and says so with a warning.
drawing_forward = pytest.mark.filterwarnings("ignore:Numba will use object mode to run CustomDist")

PRIORS = [
    uq.Uniform(-1.0, 3.0),
    uq.LogUniform(1e-4, 10.0),
    uq.Normal(2.0, 0.7),
    uq.LogNormal(1.8, 0.3),
    uq.TruncatedNormal(0.0, 1.0, low=-0.5, high=2.0),
    uq.HalfNormal(2.0),
    uq.HalfCauchy(2.0),
    uq.HalfStudentT(3.0, 2.0),
    uq.Exponential(0.5),
    uq.Beta(2.0, 5.0),
    uq.Gamma(3.0, 2.0),
    uq.InverseGamma(3.0, 2.0),
]


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: type(prior).__name__)
@pytest.mark.usefixtures("interpreted")
def test_prior_in_the_model_is_the_prior_conditioned_on_the_box(prior: uq.Prior) -> None:
    low, high = (float(prior.quantile(p)) for p in (0.01, 0.95))
    with pm.Model() as model:
        bridge.prior_variable("theta", prior, low, high)
    logp = model.compile_logp()
    name = model.value_vars[0].name
    x = np.linspace(low, high, 9)[1:-1]
    transform = bridge.RealLine(low, high, prior.scale)
    z = np.array([float(transform.forward(pt.as_tensor(value)).eval()) for value in x])
    back = np.array([float(transform.backward(pt.as_tensor(value)).eval()) for value in z])
    np.testing.assert_allclose(back, x, rtol=1e-9)
    step = 1e-5
    slope = [
        float((transform.backward(pt.as_tensor(v + step)) - transform.backward(pt.as_tensor(v - step))).eval())
        / (2 * step)
        for v in z
    ]
    expected = np.asarray(prior.log_density(x)) - np.log(0.94) + np.log(slope)
    np.testing.assert_allclose([float(logp({name: value})) for value in z], expected, rtol=1e-6, atol=1e-6)
    draws = pm.draw(model["theta"], 2000, random_seed=1)
    assert low <= draws.min() <= draws.max() <= high
    uniform = (np.asarray(prior.cdf(draws)) - 0.01) / 0.94
    assert np.abs(uniform.mean() - 0.5) < 4 / np.sqrt(12 * 2000)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(("low", "high"), [(-np.inf, np.inf), (0.5, np.inf), (-np.inf, 0.5), (0.5, 2.0)])
def test_real_line_covers_half_open_intervals(low: float, high: float) -> None:
    transform = bridge.RealLine(low, high, "identity")
    z = pt.dvector("z")
    x, log_slope = transform.backward(z), transform.log_jac_det(z)
    points = np.linspace(-3.0, 3.0, 7)
    found, log_slopes = pytensor.function([z], [x, log_slope])(points)
    ahead = pytensor.function([z], x)(points + 1e-6)
    assert (found > low).all()
    assert (found < high).all()
    np.testing.assert_allclose(np.exp(log_slopes), (ahead - found) / 1e-6, rtol=1e-5)
    np.testing.assert_allclose(transform.forward(pt.as_tensor(found)).eval(), points, atol=1e-9)


def fitted_curve(hyperparameters: Literal["averaged", "point"]) -> uq.Surrogate:
    """Return a surrogate of few runs, whose variance matters."""
    space = uq.ParameterSpace(a=uq.LogNormal(1.0, 0.4), b=uq.Uniform(-1.0, 1.0))
    design = uq.sobol(space, 10, rng=2)
    t = np.linspace(0.0, 1.0, 6)
    a, b = design["a"].values[:, None], design["b"].values[:, None]
    curves = xr.DataArray(np.exp(-a * t) + b * t, dims=("run", "t"), coords={"t": t})
    runs = uq.ensemble.build(design, {"y": curves}, space=space)
    return uq.GaussianProcess(hyperparameters=hyperparameters).fit(runs)


@pytest.mark.slow
@pytest.mark.usefixtures("interpreted")
def test_tensor_equals_numpy_and_its_gradient_finite_differences(rng: np.random.Generator) -> None:
    surrogate = fitted_curve("averaged")
    a, b = pt.dvector("a"), pt.dvector("b")
    tensor = uq.as_tensor(surrogate, {"a": a, "b": b})
    weights = rng.standard_normal((12, 6))
    target = (weights * tensor.mean).sum() + 30.0 * (weights * tensor.variance).sum()
    evaluate = pytensor.function([a, b], [*tensor, target, *pt.grad(target, [a, b])])  # one compilation for all
    points = {"a": rng.uniform(0.4, 2.5, 12), "b": rng.uniform(-1, 1, 12)}
    mean, variance, covariance, _, *gradient = evaluate(points["a"], points["b"])
    predicted = surrogate.predict(points)
    np.testing.assert_allclose(mean, predicted.mean["y"], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(variance, predicted.variance["y"], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(covariance, predicted.covariance("y"), rtol=1e-8, atol=1e-8)
    for i in range(0, 12, 3):
        for which, name in enumerate("ab"):
            shifted = {key: column.copy() for key, column in points.items()}
            step = 1e-4
            shifted[name][i] += step
            upper = evaluate(shifted["a"], shifted["b"])[3]
            shifted[name][i] -= 2 * step
            lower = evaluate(shifted["a"], shifted["b"])[3]
            assert gradient[which][i] == pytest.approx((upper - lower) / (2 * step), rel=1e-5, abs=1e-5)


@pytest.mark.slow
def test_a_users_own_model_samples_through_the_surrogate() -> None:
    """A regression of the user's own, with the joint covariance of the surrogate in a multivariate normal."""
    surrogate = fitted_curve("point")
    t = np.linspace(0.0, 1.0, 6)
    data = np.exp(-1.3 * t) + 0.2 * t
    with pm.Model() as model:
        # Outside of the design box the surrogate knows nothing, and chains that start there stay.
        a = pm.Truncated(
            "a", pm.LogNormal.dist(0.0, 0.4), lower=surrogate.domain.lower[0], upper=surrogate.domain.upper[0]
        )
        b = pm.Uniform("b", -1.0, 1.0)
        y = uq.as_tensor(surrogate, {"a": a, "b": b})
        pm.MvNormal("data", y.mean[0], y.covariance[0, :, 0, :] + 0.02**2 * np.eye(6), observed=data)
    # In Python, since the sampler compiles both once more.
    logp, gradient = model.compile_logp(mode="FAST_COMPILE"), model.compile_dlogp(mode="FAST_COMPILE")
    point = {"a_interval__": np.array(-0.6), "b_interval__": np.array(0.3)}
    slope = gradient(point)
    for i, name in enumerate(point):
        at = [logp({**point, name: point[name] + k * 1e-2}) for k in (-2, -1, 1, 2)]
        fourth_order = (at[0] - 8.0 * at[1] + 8.0 * at[2] - at[3]) / 12e-2
        assert slope[i] == pytest.approx(fourth_order, rel=1e-6)
    compiled = nutpie.compile_pymc_model(model)
    trace = nutpie.sample(compiled, draws=1000, tune=500, chains=4, seed=1, progress_bar=False)
    # The same posterior by quadrature of the library's own likelihood.
    problem = uq.Calibration(
        surrogate, xr.DataArray(data, dims="t", coords={"t": t}, name="y"), uq.GaussianNoise(sd=0.02)
    )
    grid_a, grid_b = np.meshgrid(np.linspace(0.3, 3.0, 271), np.linspace(-0.99, 0.99, 199), indexing="ij")
    log_density = problem.log_likelihood({"a": grid_a, "b": grid_b}) + uq.LogNormal(1.0, 0.4).log_density(grid_a)
    weight = np.exp(log_density - log_density.max())
    for name, grid in (("a", grid_a), ("b", grid_b)):
        draws = trace["posterior"][name].values
        mean = np.sum(weight * grid) / weight.sum()
        sd = np.sqrt(np.sum(weight * (grid - mean) ** 2) / weight.sum())
        ess = float(arviz_stats.ess(draws))
        assert draws.mean() == pytest.approx(mean, abs=4 * sd / np.sqrt(ess))
        assert draws.std() == pytest.approx(sd, rel=6 / np.sqrt(2 * ess))


def test_as_tensor_names_what_is_missing() -> None:
    surrogate = given_surrogate(np.linspace(0, 1, 5)[:, None], np.zeros((5, 1)))
    with pytest.raises(uq.errors.InputError, match="theta"):
        uq.as_tensor(surrogate, {"other": 1.0})


class Plugged:
    """A user's own surrogate: the linear one behind nothing but the protocol."""

    def __init__(self) -> None:
        self.inner = linear_surrogate(2.0, 0.3)
        self.domain, self.layouts, self.attrs = self.inner.domain, self.inner.layouts, self.inner.attrs
        self.decode, self.functions = self.inner.decode, self.inner.functions

    def scores(self, u: np.ndarray) -> Scores:
        return self.inner.scores(u)

    def scores_reverse(self, u: np.ndarray, mean_bar: np.ndarray, covariance_bar: np.ndarray) -> np.ndarray:
        return self.inner.scores_reverse(u, mean_bar, covariance_bar)


@pytest.mark.usefixtures("interpreted")
def test_a_plugged_in_surrogate_gives_the_same_model(rng: np.random.Generator) -> None:
    values, x = 1.0 + rng.standard_normal((2, 3)), np.array([0.2, 0.7])
    noise = uq.GaussianNoise(sd=uq.HalfNormal(1.0))
    models = [
        uq.Calibration(surrogate, replicates(values, x), noise).model()
        for surrogate in (linear_surrogate(2.0, 0.3), Plugged())
    ]
    point = {variable.name: np.array(0.3) for variable in models[0].value_vars}
    left, right = (model.compile_logp()(point) for model in models)
    assert left == pytest.approx(right, rel=1e-12)
    np.testing.assert_allclose(*(model.compile_dlogp()(point) for model in models), rtol=1e-10)


@pytest.mark.slow
@drawing_forward
def test_observed_variable_draws_forward_from_the_joint_law(rng: np.random.Generator) -> None:
    """Replicates of one condition share the error's draw; other conditions have correlated ones."""
    x = np.array([0.2, 0.5])
    problem = uq.Calibration(
        linear_surrogate(1.0, 0.8, ell_x=0.3), replicates(rng.standard_normal((2, 2)), x), uq.GaussianNoise(sd=0.5)
    )
    with problem.model():
        drawn = pm.sample_prior_predictive(4000, random_seed=3)
    prior, seen = (
        drawn["prior"]["theta"].values.ravel(),
        drawn["prior_predictive"]["observations"].values.reshape(-1, 4),
    )
    off = seen - prior[:, None]
    from calibration.problems import matern52

    expected = 0.64 * np.kron(matern52(x[:, None] - x[None, :], 0.3), np.ones((2, 2))) + 0.25 * np.eye(4)
    np.testing.assert_allclose(np.cov(off.T), expected, atol=5 * 0.9 * np.sqrt(2 / 4000))

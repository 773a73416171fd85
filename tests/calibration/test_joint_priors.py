"""Joint priors, fixed parameters and constraints in calibration: quadrature, importance weights, closed forms."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor.tensor as pt
import pytest
import xarray as xr
from calibration.problems import given_surrogate
from scipy import stats

import uqms as uq
from uqms.calibration.conditioned import ConditionedPrior
from uqms.calibration.constraints import Constraint, evaluate, solved
from uqms.calibration.whitened import Whitened
from uqms.errors import ConformanceError, ExtrapolationError, InputError

pytestmark = pytest.mark.filterwarnings("ignore::uqms.errors.PriorConflictWarning")
BLOCK = uq.MultivariateNormal.correlated(0.7, a=uq.LogNormal(1.0, 0.4), b=uq.Normal(0.5, 0.3))
SPACE = uq.ParameterSpace(BLOCK, c=uq.LogNormal(0.8, 0.3))
ALONE = uq.ParameterSpace(**{name: prior for name, prior in SPACE.priors.items()})


def product(a: Any, b: Any, c: Any) -> dict[str, Any]:
    return {"y": a * c + b}


def problem(
    space: uq.ParameterSpace = SPACE, y: float = 1.6, backend: Any = "numpy", **settings: Any
) -> uq.Calibration:
    simulator = uq.DirectSimulator(
        product, space=space, outputs={"y": ()}, backend=backend, vectorized=backend == "numpy"
    )
    return uq.Calibration(simulator, xr.DataArray(y, name="y"), uq.GaussianNoise(sd=0.2), **settings)


def grid(count: int = 161) -> tuple[dict[str, np.ndarray], float]:
    """Return points (n,) of a and b on a grid of their scales, c at 0.8, and the area of a cell in own units, by a."""
    s, b = np.meshgrid(np.linspace(-2.4, 2.4, count), np.linspace(-1.6, 2.6, count), indexing="ij")
    cell = (4.8 / (count - 1)) * (4.2 / (count - 1))
    return {"a": np.exp(s).ravel(), "b": b.ravel()}, cell


def moments(weights: np.ndarray, theta: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(np.average(values, weights=weights)) for name, values in theta.items()}


# --- the prior --------------------------------------------------------------------------------------------------------


LIMITS = {"a": (0.9, 2.0), "b": (0.55, 0.8), "c": (0.0, np.inf)}  # far into a corner: 6 % of the block


def law(constraints: tuple[str, ...] = ()) -> ConditionedPrior:
    return ConditionedPrior(SPACE.priors, LIMITS, SPACE.blocks, tuple(map(Constraint, constraints)))


@pytest.mark.parametrize("constraints", [(), ("b > 0.6 * a",)])
def test_prior_in_a_narrow_box_integrates_to_one_and_is_drawn(constraints: tuple[str, ...]) -> None:
    one = law(constraints)
    a, b = np.meshgrid(np.linspace(0.9, 2.0, 1201), np.linspace(0.55, 0.8, 1201), indexing="ij")
    theta = {"a": a.ravel(), "b": b.ravel(), "c": np.full(a.size, 0.8)}
    terms = one.log_terms(theta)
    density = np.exp(terms["a"] + terms["b"] + terms.get("constraints", 0.0)).reshape(a.shape)
    edge = np.ones(1201)
    edge[[0, -1]] = 0.5
    weight = density * edge[:, None] * edge
    assert weight.sum() * (1.1 / 1200) * (0.25 / 1200) == pytest.approx(1.0, abs=2e-3 if constraints else 1e-5)
    drawn = one.draw(40_000, np.random.default_rng(1))
    for name, values in (("a", a), ("b", b)):
        mean = np.average(values, weights=weight)
        sd = np.sqrt(np.average((values - mean) ** 2, weights=weight))
        assert abs(drawn[name].mean() - mean) < 4 * sd / np.sqrt(40_000) + 1e-4
        assert drawn[name].std() == pytest.approx(sd, rel=0.02)


def test_weights_of_the_cube_are_those_of_the_prior() -> None:
    one = law(("b > 0.6 * a",))
    theta = one.from_cube(np.random.default_rng(2).random((40_000, 3)))
    weight = np.exp(one.log_weight(theta))
    assert weight.mean() == pytest.approx(1.0, abs=4 * weight.std() / np.sqrt(40_000))
    drawn = one.draw(40_000, np.random.default_rng(3))
    for name in ("a", "b"):
        error = 4 * drawn[name].std() * np.sqrt((1.0 + np.mean(weight**2)) / 40_000)
        assert np.average(theta[name], weights=weight) == pytest.approx(drawn[name].mean(), abs=error)
    np.testing.assert_allclose(one.from_cube(one.to_cube(theta))["b"], theta["b"], rtol=1e-9)


def test_share_that_a_constraint_allows_is_a_normal_probability() -> None:
    space = uq.ParameterSpace(uq.MultivariateNormal.correlated(0.6, a=uq.Normal(0.0, 1.0), b=uq.Normal(0.5, 2.0)))
    limits = {name: prior.support for name, prior in space.priors.items()}
    one = ConditionedPrior(space.priors, limits, space.blocks, (Constraint("a > b"),))
    exact = stats.norm.cdf(-0.5 / np.sqrt(1.0 + 4.0 - 2.0 * 1.2))
    assert one.allowed.share == pytest.approx(exact, abs=5 * one.allowed.mcse)
    assert one.allowed.mcse < 1e-3


def test_diagonal_block_equals_independent_priors() -> None:
    block = uq.MultivariateNormal.correlated(np.eye(2), **{name: BLOCK.priors[name] for name in ("a", "b")})
    joint, alone = problem(uq.ParameterSpace(block, c=SPACE.priors["c"])), problem(ALONE)
    theta = alone.prior_draws(100, 1)
    sums = [np.sum(list(one.conditioned_prior.log_terms(theta).values()), axis=0) for one in (joint, alone)]
    np.testing.assert_allclose(sums[0], sums[1], rtol=0, atol=1e-10)
    z = np.random.default_rng(1).standard_normal((50, 3))
    np.testing.assert_allclose(Whitened(joint).log_density(z), Whitened(alone).log_density(z), rtol=0, atol=1e-8)


# --- the posterior ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("constraints", [None, ["a > 2 * b", "b < 1"]])
def test_posterior_and_evidence_equal_quadrature(constraints: list[str] | None) -> None:
    one = problem(fixed={"c": 0.8}, constraints=constraints)
    theta, cell = grid()
    s = np.column_stack([np.log(theta["a"]), theta["b"]])
    prior = stats.multivariate_normal([0.0, 0.5], np.array([[0.16, 0.084], [0.084, 0.09]])).pdf(s) * cell
    if constraints:
        prior = np.where((theta["a"] > 2 * theta["b"]) & (theta["b"] < 1), prior, 0.0)
    prior /= prior.sum()
    likelihood = stats.norm.pdf(1.6, theta["a"] * 0.8 + theta["b"], 0.2)
    posterior = one.sample(uq.SMC(particles=2000), rng=1)
    exact = moments(prior * likelihood, theta)
    for name, mean in exact.items():
        error = posterior.draws[name].std() / np.sqrt(1000)
        assert abs(float(posterior.draws[name].mean()) - mean) < 4 * float(error) + 2e-3
    evidence = posterior.log_evidence
    assert evidence.value == pytest.approx(np.log(np.sum(prior * likelihood)), abs=4 * evidence.mcse + 0.01)
    if constraints:
        assert np.all(posterior.draws["a"] > 2 * posterior.draws["b"])
        assert float(posterior.tree["log_prior"]["constraints"].max()) == -np.log(one.conditioned_prior.allowed.share)
    assert json.loads(posterior.tree.attrs["fixed"]) == {"c": 0.8}
    assert json.loads(posterior.tree.attrs["constraints"]) == (constraints or [])
    mode = one.maximum_a_posteriori(rng=1)
    density = prior / cell / theta["a"] * likelihood  # in own units
    best = int(np.argmax(density))
    assert mode.theta["a"] == pytest.approx(theta["a"][best], abs=0.04)
    assert mode.theta["b"] == pytest.approx(theta["b"][best], abs=0.04)


def test_derived_quantities_know_fixed_parameters_and_carry_units() -> None:
    derived = {"ratio": uq.Derived(lambda p: p["a"] / p["c"], unit="L", description="volume")}
    posterior = problem(fixed={"c": 0.8}, derived=derived).sample(uq.SMC(particles=400), rng=1)
    ratio = posterior.draws["ratio"]
    np.testing.assert_allclose(ratio, posterior.draws["a"] / 0.8, rtol=1e-12)
    for group in ("posterior", "prior"):
        assert posterior.tree[group]["ratio"].attrs["unit"] == "L"
    assert ratio.attrs["description"] == "volume"
    assert posterior.summary().loc["ratio", "unit"] == "L"


@pytest.mark.slow
def test_a_posterior_as_prior_equals_all_data_at_once() -> None:
    """Linear and Gaussian: y = a + b x has a normal posterior in closed form."""
    space = uq.ParameterSpace(a=uq.Normal(0.0, 1.0), b=uq.Normal(0.0, 1.0), conditions={"x": uq.Condition(0.0, 2.0)})
    line = uq.DirectSimulator(lambda a, b, x: {"y": a + b * x}, space=space, outputs={"y": ()}, vectorized=True)

    def data(x: list[float], y: list[float]) -> uq.Observations:
        values = xr.DataArray(y, dims="experiment", coords={"x": ("experiment", x)}, name="y")
        return uq.Observations.from_xarray(values, conditions=("x",))

    noise, sampler = uq.GaussianNoise(sd=0.4), uq.SMC(particles=4000)
    first = uq.Calibration(line, data([0.0, 0.5], [0.9, 1.1]), noise).sample(sampler, rng=1)
    block = uq.MultivariateNormal.from_posterior(first)
    again = uq.ParameterSpace(block, conditions=space.conditions)
    second = uq.Calibration(line, data([1.5, 2.0], [1.2, 1.9]), noise, space=again).sample(sampler, rng=2)
    x = np.column_stack([np.ones(4), [0.0, 0.5, 1.5, 2.0]])
    covariance = np.linalg.inv(x.T @ x / 0.16 + np.eye(2))
    mean = covariance @ x.T @ np.array([0.9, 1.1, 1.2, 1.9]) / 0.16
    draws = np.column_stack([second.draws[name].values.ravel() for name in ("a", "b")])
    sd = np.sqrt(np.diagonal(covariance))
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 5 * sd / np.sqrt(1500))  # two posteriors' Monte Carlo errors
    np.testing.assert_allclose(np.cov(draws.T) / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=0.12)
    with pytest.raises(InputError, match=r"\['z'\] are no parameters"):
        uq.MultivariateNormal.from_posterior(first, ["z"])


# --- the PyMC model ---------------------------------------------------------------------------------------------------


def on_the_box(**settings: Any) -> uq.Calibration:
    """A surrogate on the unit square whose block is cut by the box."""
    rng = np.random.default_rng(3)
    x = rng.random((25, 3))
    block = uq.MultivariateNormal.correlated(0.8, a=uq.Normal(0.5, 0.17), b=uq.LogitNormal(0.5, 0.8))
    space = uq.ParameterSpace(block, c=uq.Uniform(0.0, 1.0))
    scores = np.sin(3.0 * x[:, :1]) + x[:, 1:2] ** 2 + 0.5 * x[:, 2:]
    surrogate = given_surrogate(x, scores, names=("a", "b", "c"), space=space)
    noise = uq.GaussianNoise(sd=uq.HalfNormal(0.3))
    return uq.Calibration(surrogate, xr.DataArray(1.4, name="y"), noise, **settings)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"constraints": ["a + b > 0.7 * c", "log(b) < a ** 2"]},
        {"constraints": ["a + b > abs(c - 0.5 * a)"]},
        {"fixed": {"b": 0.45}},
    ],
    ids=str,
)
def test_model_has_the_density_of_the_problem_and_its_gradient(settings: dict[str, Any]) -> None:
    one = on_the_box(**settings)
    theta = one.prior_draws(6, 1)
    real = one.on_the_real_line({**theta, "latents": np.zeros((6, 0))})
    model = one.model()
    logp = model.compile_logp()
    slope = model.compile_dlogp()
    free = [variable.name for variable in model.value_vars]
    assert [name.split("_realline")[0] for name in free] == list(one.priors)

    def at(z: np.ndarray) -> float:
        return float(logp(dict(zip(free, z, strict=True))))

    terms = one.conditioned_prior.log_terms(theta)
    expected = one.log_likelihood(theta) + np.sum(list(terms.values()), axis=0)
    for i, z in enumerate(real):
        jacobian = 0.0
        for name, value in zip(one.priors, z, strict=True):
            (low, high), x = one.limits(name), theta[name][i]
            if name == "c" and len(one.constraints) == 2:  # solved for c
                high = min(high, (theta["a"][i] + theta["b"][i]) / 0.7)
            if np.isinf(high):
                jacobian += np.log(x - low)
            else:
                scale = one.priors[name].scale
                assert scale in ("identity", "logit")
                f = (lambda v: v) if scale == "identity" else (lambda v: np.log(v) - np.log1p(-v))
                jacobian += _log_slope(f, low, high, x)
            assert np.isfinite(value)
        assert at(z) == pytest.approx(expected[i] + jacobian, abs=1e-7)
        step = 1e-5
        finite = [(at(z + step * e) - at(z - step * e)) / (2 * step) for e in np.eye(len(z))]
        np.testing.assert_allclose(slope(dict(zip(free, z, strict=True))), finite, rtol=1e-4, atol=1e-5)


def _log_slope(f: Callable[[Any], Any], low: float, high: float, x: float) -> float:
    """Return log |dx / dz| for the logit z of f(x) between f(low) and f(high), by finite differences of z."""
    with np.errstate(divide="ignore"):
        a, b = f(np.float64(low)), f(np.float64(high))

    def real(v: float) -> float:
        s = f(v)
        return (
            float((np.log(s - a) if np.isfinite(a) else 0.0) - (np.log(b - s) if np.isfinite(b) else 0.0))
            if (np.isfinite(a) or np.isfinite(b))
            else float(s)
        )

    h = 1e-6
    return float(-np.log((real(x + h) - real(x - h)) / (2 * h)))


@pytest.mark.slow
def test_nuts_with_a_block_and_a_constraint_equals_smc() -> None:
    def tensor(a: Any, b: Any, c: Any) -> dict[str, Any]:
        return {"y": pt.as_tensor(a * c + b)}

    simulator = uq.DirectSimulator(tensor, space=SPACE, outputs={"y": ()}, backend="pytensor")
    settings: dict[str, Any] = {"constraints": "a > 2 * b"}
    one = uq.Calibration(simulator, xr.DataArray(1.6, name="y"), uq.GaussianNoise(sd=0.2), **settings)
    nuts = one.sample(uq.NUTS(draws=1000, tune=1000, cores=1), rng=1)  # b lies between its end and a / 2: no wall
    smc = problem(constraints="a > 2 * b").sample(uq.SMC(particles=4000), rng=2)
    assert np.all(nuts.draws["a"] > 2 * nuts.draws["b"])
    assert nuts.verdict["divergences"].value <= 4  # with a wall in the way hundreds
    for name in ("a", "b", "c"):
        sd, size = float(smc.draws[name].std()), float(nuts.summary()["ess_bulk"][name])
        error = 5 * sd / np.sqrt(min(size, 800))
        assert float(nuts.draws[name].mean()) == pytest.approx(float(smc.draws[name].mean()), abs=error)
        assert float(nuts.draws[name].std()) == pytest.approx(sd, rel=5 / np.sqrt(2 * min(size, 800)))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"fixed": {"d": 1.0}}, InputError, "no inputs of the surrogate"),
        ({"fixed": {"c": "x"}}, InputError, "give a finite number"),
        ({"fixed": {"c": True}}, InputError, "give a finite number"),
        ({"fixed": {"c": -1.0}}, InputError, "rules out"),
        ({"fixed": ["c"]}, InputError, "give a mapping"),
        ({"fixed": {"a": 1.0, "b": 1.0, "c": 1.0}}, InputError, "leave one to be inferred"),
        ({"constraints": "a > d"}, InputError, r"mentions \['d'\]"),
        ({"constraints": "a == b"}, InputError, "no comparison"),
        ({"constraints": "a"}, InputError, "no comparison"),
        ({"constraints": "1 < 2"}, InputError, "names no parameter"),
        ({"constraints": "a >"}, InputError, "cannot be read"),
        ({"constraints": "a > __import__('os')"}, InputError, "not understood"),
        ({"constraints": "a.real > 0"}, InputError, "not understood"),
        ({"constraints": "a > [1][0]"}, InputError, "not understood"),
        ({"constraints": "log(a, b) > 0"}, InputError, "takes one argument"),
        ({"constraints": ["a > 100 * c"]}, InputError, "less than 1%"),
        ({"constraints": 3}, InputError, "give texts"),
    ],
    ids=str,
)
def test_bad_settings(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        problem(**settings)


def test_fixed_outside_of_the_runs() -> None:
    with pytest.raises(ExtrapolationError, match="was simulated between 0 and 1"):
        on_the_box(fixed={"a": 1.2})


BOUNDS = {"a": (0.5, 3.0), "b": (0.1, 4.0), "c": (-2.0, 2.0), "f": (0.7, 0.7)}
SCALES: dict[str, Any] = {"a": "log", "b": "log", "c": "identity"}


@pytest.mark.parametrize(
    "texts",
    [
        ["a < b"],
        ["b <= a", "c < b"],
        ["a / b < 3", "a > b"],
        ["1 < b / a < 3", "c > -a"],
        ["a + b < 2 * c"],
        ["-b < c - a"],
        ["a * b < 2"],
        ["f / b < a"],
        ["c * a < 1", "exp(c) < a"],
        ["sqrt(b) > a"],
        ["b ** 2 < a"],
        ["log(a) < b - f"],
        ["a / (b + 1) > 0.5 * f"],
    ],
    ids=" and ".join,
)
def test_constraints_are_solved_for_one_parameter_after_the_other(texts: list[str]) -> None:
    """Points are within the bounds exactly when they are allowed; chains of parameters within their bounds exist."""
    constraints, rng, n = [Constraint(text) for text in texts], np.random.default_rng(1), 20_000
    bounds = solved(constraints, BOUNDS, SCALES)
    points = {name: rng.uniform(low, high, n) for name, (low, high) in BOUNDS.items()}
    allowed = np.all([one.allows(points) for one in constraints], axis=0)
    inside = np.ones(n, dtype=bool)
    for name, one in bounds.items():
        inside &= np.all([points[name] > evaluate(side, points) for side in one.lower] or [inside], axis=0)
        inside &= np.all([points[name] < evaluate(side, points) for side in one.upper] or [inside], axis=0)
    np.testing.assert_array_equal(inside, allowed)
    assert 0.003 < allowed.mean() < 0.999
    theta: dict[str, Any] = {"f": np.full(n, 0.7)}
    for name in SCALES:
        low, high = (np.full(n, end) for end in BOUNDS[name])
        for side in bounds[name].lower if name in bounds else ():
            low = np.maximum(low, evaluate(side, theta))
        for side in bounds[name].upper if name in bounds else ():
            high = np.minimum(high, evaluate(side, theta))
        assert (low < high).all(), name
        theta[name] = low + (high - low) * rng.random(n)
    assert all(one.allows(theta).all() for one in constraints)


@pytest.mark.parametrize("text", ["a + b > 2 * a * b", "abs(c) < a", "a * c < b * c", "b ** c < a"])
def test_constraints_that_cannot_be_solved_stay_a_wall(text: str) -> None:
    assert solved([Constraint(text)], BOUNDS, SCALES) == {}
    assert list(solved([Constraint(text), Constraint("a > 1")], BOUNDS, SCALES)) == ["a"]


def test_draws_that_break_a_constraint_are_refused() -> None:
    class Careless:
        def run(self, one: uq.Calibration, seed: int) -> Any:
            draws = problem().prior_draws(400, seed)
            return xr.DataTree.from_dict(
                {"posterior": xr.Dataset({n: (("chain", "draw"), v.reshape(4, 100)) for n, v in draws.items()})}
            )

    with pytest.raises(ConformanceError, match="draws that break"):
        problem(constraints="a > 2 * b").sample(Careless(), rng=1)


def test_chained_comparison_and_functions() -> None:
    one = Constraint("0.5 < sqrt(a) / -b * abs(b) <= exp(1) + 2")
    values = {"a": np.array([1.0, 0.04, 36.0, -1.0]), "b": np.array([-2.0, -1.0, -1.0, -1.0])}
    np.testing.assert_array_equal(one.allows(values), [True, False, False, False])

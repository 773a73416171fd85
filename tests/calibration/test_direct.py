"""The simulator itself in a surrogate's place: closed forms, quadrature, and the likelihood with S = 0."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import _influenza
import numpy as np
import pandas as pd
import pytensor
import pytensor.tensor as pt
import pytest
import xarray as xr
from _influenza import BOYS, DAYS, IN_BED, exact, observation, space, sqrt_infected
from scipy.stats import norm

import uqms as uq
from uqms.calibration import bridge
from uqms.calibration.starts import starting_points
from uqms.errors import ConformanceError, InputError, OutputError, SimulatorFailed

HOURS = np.array([0.0, 0.5, 1.0, 1.5, 2.5, 4.0])
BETWEEN = np.array([0.0, 0.7, 1.2, 2.0, 4.0])
DECAY = uq.ParameterSpace(
    rate=uq.LogNormal(median=1.0, sigma=0.5), share=uq.Beta(2.0, 2.0), conditions={"dose": uq.Condition(1.0, 10.0)}
)
OUTPUTS: dict[str, tuple[str, ...]] = {"total": (), "conc": ("hour",)}
THETA = {"rate": np.array([0.3, 1.0, 2.4]), "share": np.array([0.2, 0.5, 0.9]), "sigma": np.array([0.2, 0.1, 0.4])}
NOISE = {"conc": uq.GaussianNoise(sd=uq.HalfNormal(1.0)), "total": uq.GaussianNoise(sd=0.3)}


def decay(rate: Any, share: Any, dose: Any) -> dict[str, Any]:
    """Many points: arrays (n,) to arrays (n,) and (n, 6)."""
    rate, share, dose = (np.asarray(value)[..., None] for value in (rate, share, dose))
    return {"conc": dose * share * np.exp(-rate * HOURS), "total": (dose * share / rate)[..., 0]}


def decay_tensor(rate: Any, share: Any, dose: Any) -> dict[str, Any]:
    return {"conc": dose * share * pt.exp(-rate * HOURS), "total": dose * share / rate}


def direct(function: Callable[..., Any] = decay, **settings: Any) -> uq.DirectSimulator:
    return uq.DirectSimulator(function, space=DECAY, outputs=OUTPUTS, coords={"hour": HOURS}, **settings)


def measured(hours: np.ndarray) -> uq.Observations:
    """Two doses, each with two replicates of a curve and one total."""
    rng = np.random.default_rng(0)
    curves = [(dose, hour, number) for dose in (2.0, 5.0) for hour in hours for number in (0, 1)]
    curve = pd.DataFrame(curves, columns=["dose", "hour", "replicate"]).assign(value=rng.normal(0.5, 0.4, len(curves)))
    total = pd.DataFrame({"dose": [2.0, 5.0], "value": [0.9, 2.1], "replicate": 0})
    shared: dict[str, Any] = {"value": "value", "conditions": ["dose"], "replicate": "replicate"}
    return uq.Observations.concat(
        [
            uq.Observations.from_table(curve, output="conc", coords={"hour": "hour"}, **shared),
            uq.Observations.from_table(total, output="total", **shared),
        ]
    )


def problem(simulator: uq.Surrogate, hours: np.ndarray = HOURS) -> uq.Calibration:
    return uq.Calibration(simulator, measured(hours), noise=NOISE)


def theta_of(one: uq.Calibration) -> dict[str, np.ndarray]:
    return {**{name: THETA[name] for name in one.parameters}, "sigma_conc": THETA["sigma"]}


class Plugged:
    """The same simulator as a surrogate of the user's own, which says that its covariance is zero."""

    def __init__(self, simulator: uq.DirectSimulator) -> None:
        self._simulator = simulator

    def __getattr__(self, name: str) -> Any:
        if name in ("exact", "_simulator"):
            raise AttributeError(name)
        return getattr(self._simulator, name)


# --- the likelihood ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vectorized", [True, False])
def test_log_likelihood_is_the_sum_of_normal_densities(vectorized: bool) -> None:
    one = problem(direct(vectorized=vectorized))
    data = one.observations
    expected = np.zeros(3)
    for i in range(3):
        rate, share, sigma = (THETA[name][i] for name in ("rate", "share", "sigma"))
        for output, hour, dose, value in zip(
            data.output, data.coords["hour"], data.conditions["dose"], data.value, strict=True
        ):
            mean = dose * share * (1.0 / rate if output == "total" else math.exp(-rate * hour))
            expected[i] += norm.logpdf(value, mean, 0.3 if output == "total" else sigma)
    np.testing.assert_allclose(one.log_likelihood(theta_of(one)), expected, rtol=1e-12)


@pytest.mark.parametrize("hours", [HOURS, BETWEEN], ids=["simulated", "between"])
def test_likelihood_is_that_of_a_surrogate_whose_covariance_is_zero(hours: np.ndarray) -> None:
    one = problem(direct(vectorized=True), hours)
    assert one.cells.truncation.any() == (hours is BETWEEN)
    with pytest.warns(uq.errors.DataWarning, match="no errors at all"):
        other = uq.Calibration(Plugged(direct(vectorized=True)), measured(hours), noise=NOISE, outside="extrapolate")
    mine, theirs = (next(each.log_likelihood_terms(theta_of(one))) for each in (one, other))
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("hours", [HOURS, BETWEEN], ids=["simulated", "between"])
def test_pytensor_expression_has_the_same_value_and_the_derivative(hours: np.ndarray) -> None:
    one = problem(direct(decay_tensor, backend="pytensor"), hours)
    u, sigma = pt.dmatrix("u"), pt.dvector("sigma")
    value = bridge.joint_density(one.data_model)(u, sigma, one.cells.z)
    compiled = pytensor.function([u, sigma], [value, *pytensor.grad(value, [u, sigma])], mode="FAST_COMPILE")
    theta = {name: values[1] for name, values in theta_of(one).items()}
    inputs, sds = one.unit_inputs(theta), one.noise.values(theta, ())
    expected = problem(direct(vectorized=True), hours).log_likelihood(theta)
    found, by_u, by_sigma = compiled(inputs, sds)
    assert float(found) == pytest.approx(float(expected), rel=1e-10)
    step = 1e-6
    for index in np.ndindex(*inputs.shape):
        shift = np.zeros(inputs.shape)
        shift[index] = step
        slope = (compiled(inputs + shift, sds)[0] - compiled(inputs - shift, sds)[0]) / (2.0 * step)
        assert by_u[index] == pytest.approx(float(slope), rel=1e-6, abs=1e-6)
    slope = (compiled(inputs, sds + [step, 0.0])[0] - compiled(inputs, sds - [step, 0.0])[0]) / (2.0 * step)
    assert by_sigma[0] == pytest.approx(float(slope), rel=1e-6)


def test_prior_is_not_cut_and_the_far_tail_is_exact() -> None:
    line = uq.DirectSimulator(
        lambda k: 2.0 * k, space=uq.ParameterSpace(k=uq.Normal(0.0, 1.0)), outputs={"y": ()}, vectorized=True
    )
    one = uq.Calibration(line, xr.DataArray(1.0, name="y"), noise=uq.GaussianNoise(sd=1.0))
    assert one.mass_cut == 0.0
    assert one.limits("k") == (-np.inf, np.inf)
    assert one.log_likelihood({"k": 20.0}) == pytest.approx(norm.logpdf(1.0, 40.0, 1.0), rel=1e-12)
    draws = one.prior_draws(20_000, 1)["k"]
    assert np.abs(draws).max() > 3.6  # the central 99.9 % ends at 3.3
    starts = starting_points(one, 4000, np.random.default_rng(2))["k"]  # no gradient is needed for them
    assert starts.mean() == pytest.approx(0.4, abs=5 * math.sqrt(0.2 / 200))  # 256 particles, of which some are alike


# --- derivatives ------------------------------------------------------------------------------------------------------


def check_backend(simulator: uq.DirectSimulator) -> None:
    u = np.array([[0.2, 0.4, 0.1], [0.7, 1.2, 0.9]])
    rows = np.stack([u, u[::-1]])
    np.testing.assert_allclose(simulator.scores(rows).mean, direct(vectorized=True).scores(rows).mean, rtol=1e-13)
    assert simulator.differentiable
    bar = np.random.default_rng(1).normal(size=(1, 2, 7))
    found = simulator.scores_reverse(u, bar, np.zeros((1, 7, 2, 2)))
    step = 1e-6
    for j in range(3):
        shift = step * np.eye(3)[j]
        slope = (simulator.means(u + shift) - simulator.means(u - shift)) / (2.0 * step)
        np.testing.assert_allclose(found[:, j], np.sum(slope * bar[0], axis=1), rtol=1e-7, atol=1e-7)


def test_pytensor_function_of_many_points_and_its_derivative() -> None:
    check_backend(direct(decay_tensor, backend="pytensor"))


def test_jax_function_of_many_points_and_its_derivative() -> None:
    jnp = pytest.importorskip("jax.numpy")

    def decay_jax(rate: Any, share: Any, dose: Any) -> dict[str, Any]:
        return {"conc": dose * share * jnp.exp(-rate * HOURS), "total": dose * share / rate}

    check_backend(direct(decay_jax, backend="jax"))


def test_constant_output_has_many_points_too() -> None:
    one = uq.DirectSimulator(
        lambda k: {"y": pt.exp(k), "c": pt.as_tensor(np.array([1.0, 2.0]))},
        space=uq.ParameterSpace(k=uq.Normal(0.0, 1.0)),
        outputs={"c": ("i",), "y": ()},
        coords={"i": [0.0, 1.0]},
        backend="pytensor",
    )
    np.testing.assert_allclose(one.evaluate(np.zeros((3, 1))), [[1.0, 2.0, 1.0]] * 3)


def test_black_box_has_no_derivative_and_says_what_to_do() -> None:
    one = problem(direct(vectorized=True))
    assert not one.surrogate.differentiable  # type: ignore[attr-defined]
    with pytest.raises(ConformanceError, match=r"uq\.SMC\(\)"):
        one.sample(uq.NUTS(), rng=1)
    with pytest.raises(ConformanceError, match="black box without a derivative"):
        one.surrogate.scores_reverse(np.full((1, 3), 0.5), np.ones((1, 1, 7)), np.zeros((1, 7, 1, 1)))
    u = pt.dmatrix("u")
    with pytest.raises(pytensor.gradient.NullTypeGradError, match="black box"):  # PyMC takes another sampler then
        pytensor.grad(bridge.exact_scores(one.surrogate, u).sum(), u)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def broken(rate: float, share: float, dose: float) -> Mapping[str, Any]:
    if rate > 1.2:
        raise ArithmeticError("the solver did not converge")
    return decay(rate, share, dose)


def test_failure_names_the_point_or_is_impossible() -> None:
    x = np.array([[0.5, 0.5, 2.0], [1.25, 0.5, 2.0]])
    with pytest.raises(SimulatorFailed, match=r"ArithmeticError at rate = 1.25, share = 0.5, dose = 2: the solver"):
        direct(broken).evaluate(x)
    y = direct(broken, failures="impossible").evaluate(x)
    assert np.isnan(y).any(axis=1).tolist() == [False, True]
    one = problem(direct(broken, failures="impossible"))
    found = one.log_likelihood(theta_of(one))
    assert np.isfinite(found).tolist() == [True, True, False]
    assert found[2] == -np.inf
    with pytest.raises(OutputError, match="fails at all of 256 draws"):
        problem(direct(lambda rate, share, dose: decay(rate, share, dose / 0), failures="impossible"))


def test_number_that_is_not_finite_names_output_and_point() -> None:
    def undefined(rate: Any, share: Any, dose: Any) -> dict[str, Any]:
        got = decay(rate, share, dose)
        got["conc"][share > 0.8, 3] = np.inf
        return got

    x = np.array([[0.5, 0.5, 2.0], [0.5, 0.875, 2.0]])
    with pytest.raises(OutputError, match=r"inf in 'conc' at rate = 0.5, share = 0.875, dose = 2"):
        direct(undefined, vectorized=True).evaluate(x)
    y = direct(undefined, vectorized=True, failures="impossible").evaluate(x)
    assert np.isnan(y).sum(axis=1).tolist() == [0, 7]


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "length": (lambda got: {**got, "conc": got["conc"][:5]}, r"'conc' has shape \(5,\); give \(6,\) for dims"),
    "dimension": (lambda got: {**got, "total": [1.0, 2.0]}, r"'total' has shape \(2,\); give one number"),
    "complex": (lambda got: {**got, "conc": got["conc"] + 0j}, "'conc' has complex numbers"),
    "text": (lambda got: {**got, "total": "1.0"}, "'total' has values of type"),
    "nothing": (lambda got: {**got, "total": None}, "'total' has values of type object"),
    "ragged": (lambda got: {**got, "conc": [[1.0], [1.0, 2.0]]}, "'conc' is no array"),
    "masked": (lambda got: {**got, "conc": np.ma.masked_greater(got["conc"], 0.5)}, "nan in 'conc'"),
    "missing": (lambda got: {"conc": got["conc"]}, r"returned \['conc'\]; its outputs are"),
    "unknown": (lambda got: {**got, "peak": 1.0}, "its outputs are"),
    "bare": (lambda got: got["conc"], "2 outputs; return a mapping"),
    "dims": (lambda got: {**got, "conc": xr.DataArray(got["conc"], dims="day")}, "has dims"),
    "coordinates": (
        lambda got: {**got, "conc": xr.DataArray(got["conc"], dims="hour", coords={"hour": HOURS + 1.0})},
        "other coordinates along 'hour'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_result_is_an_output_error(case: str) -> None:
    change, message = WRONG[case]
    simulator = direct(lambda rate, share, dose: change(decay(rate, share, dose)), failures="error")
    with pytest.raises(OutputError, match=message):
        simulator.evaluate(np.array([[0.5, 0.5, 2.0]]))


def test_function_of_many_points_must_return_many() -> None:
    with pytest.raises(OutputError, match=r"'total' has shape \(\) for 2 points; give \(2,\)"):
        direct(lambda rate, share, dose: decay(1.0, 0.5, 2.0), vectorized=True).evaluate(np.ones((2, 3)))
    with pytest.raises(SimulatorFailed, match="let it return NaN there"):
        direct(lambda rate, share, dose: math.exp(rate), vectorized=True).evaluate(np.ones((2, 3)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"outputs": {}}, "give name and dims"),
        ({"outputs": {"conc": "hour", "total": ()}}, "give a tuple of dims"),
        ({"coords": {}}, "the outputs have the dims"),
        ({"coords": {"hour": HOURS, "day": HOURS}}, "the outputs have the dims"),
        ({"coords": {"hour": [0.0, 0.0]}}, "different finite numbers"),
        ({"coords": {"hour": ["a"]}}, "give numbers"),
        ({"outputs": {"rate": ("hour",)}}, "name two things"),
        ({"units": {"peak": "mg"}}, "units are given for"),
        ({"backend": "torch"}, "give one of 'numpy'"),
        ({"backend": "pytensor", "vectorized": True}, "takes one point"),
        ({"failures": "ignore"}, "give 'error' or 'impossible'"),
        ({"space": None}, "give ParameterSpace"),
        ({"function": 3}, "cannot be called"),
        ({"function": lambda rate: rate}, "is called with the inputs rate, share, dose"),
    ],
)
def test_what_cannot_be_meant_is_an_input_error(settings: dict[str, Any], message: str) -> None:
    given = {"function": decay, "space": DECAY, "outputs": OUTPUTS, "coords": {"hour": HOURS}} | settings
    with pytest.raises(InputError, match=message):
        uq.DirectSimulator(given.pop("function"), **given)


# --- the influenza outbreak -------------------------------------------------------------------------------------------

SD, STEPS_A_DAY = 1.4, 8


@pytest.fixture(autouse=True, scope="module")
def few_steps() -> Iterator[None]:
    """Solve with fewer steps than the benchmarks do: what is compared has the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_influenza, "STEPS_A_DAY", STEPS_A_DAY)
        yield


def outbreak(beta: Any, gamma: Any) -> Any:
    """`sqrt_infected` in PyTensor."""
    step, force = 1.0 / STEPS_A_DAY, beta / BOYS

    def slope(s: Any, i: Any) -> tuple[Any, Any]:
        return -force * pt.exp(i), force * pt.exp(s) - gamma

    def advance(s: Any, i: Any, beta: Any, gamma: Any) -> tuple[Any, Any]:
        s1, i1 = slope(s, i)
        s2, i2 = slope(s + 0.5 * step * s1, i + 0.5 * step * i1)
        s3, i3 = slope(s + 0.5 * step * s2, i + 0.5 * step * i2)
        s4, i4 = slope(s + step * s3, i + step * i3)
        return s + step / 6.0 * (s1 + 2.0 * s2 + 2.0 * s3 + s4), i + step / 6.0 * (i1 + 2.0 * i2 + 2.0 * i3 + i4)

    _, i = pytensor.scan(
        advance,
        outputs_info=[pt.as_tensor(np.float64(np.log(BOYS - 1.0))), pt.as_tensor(np.float64(0.0))],
        non_sequences=[beta, gamma],
        n_steps=len(DAYS) * STEPS_A_DAY,
        return_updates=False,
    )
    return pt.exp(0.5 * i[STEPS_A_DAY - 1 :: STEPS_A_DAY])


def influenza(simulator: uq.DirectSimulator) -> uq.Calibration:
    return uq.Calibration(simulator, observation(np.sqrt(IN_BED)), noise=uq.GaussianNoise(sd=SD))


@pytest.fixture(scope="module")
def posterior() -> uq.Posterior:
    outputs = {"sqrt_infected": ("day",)}
    simulator = uq.DirectSimulator(outbreak, space=space(), outputs=outputs, coords={"day": DAYS}, backend="pytensor")
    answer: uq.Posterior = influenza(simulator).sample(uq.NUTS(draws=600, tune=400), rng=1)
    return answer


@pytest.mark.slow
def test_posterior_is_that_of_quadrature(posterior: uq.Posterior) -> None:
    grid = np.meshgrid(np.linspace(1.45, 2.0, 90), np.linspace(0.33, 0.68, 90), indexing="ij")
    theta = {"beta": grid[0].ravel(), "gamma": grid[1].ravel()}
    box = influenza(exact())
    log_likelihood = box.log_likelihood(theta)
    some = slice(0, 8100, 37)
    few = {name: values[some] for name, values in theta.items()}
    np.testing.assert_allclose(posterior.problem.log_likelihood(few), log_likelihood[some], rtol=1e-10)

    log_density = log_likelihood + sum(space().priors[name].log_density(theta[name]) for name in theta)
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    assert weight.reshape(90, 90)[[0, -1]].sum() + weight.reshape(90, 90)[:, [0, -1]].sum() < 1e-6
    summary = posterior.summary()
    for name, values in theta.items():
        mean = float(weight @ values)
        sd = math.sqrt(float(weight @ (values - mean) ** 2))
        effective = float(summary.loc[name, "ess_bulk"])
        assert effective > 500
        assert float(summary.loc[name, "mean"]) == pytest.approx(mean, abs=4.0 * sd / math.sqrt(effective))
        assert float(summary.loc[name, "sd"]) == pytest.approx(sd, rel=4.0 / math.sqrt(2.0 * effective))


@pytest.fixture(scope="module")
def approximation() -> uq.Posterior:
    answer: uq.Posterior = influenza(exact()).sample(uq.Laplace(draws=2400), rng=1)
    return answer


def test_verdict_knows_that_there_is_no_surrogate(approximation: uq.Posterior) -> None:
    posterior = approximation
    assert posterior.verdict["surrogate error"].status == "pass"
    assert "the simulator itself" in posterior.verdict["surrogate error"].message
    assert posterior.verdict["edge of the design box"].status == "pass"
    assert float(abs(posterior.surrogate_share).to_array().max()) == 0.0
    assert (
        posterior.verdict["autocorrelated residuals"].status == "warn"
    )  # as with a surrogate: the model is too simple


def test_prediction_is_the_simulator_at_the_draws(approximation: uq.Posterior) -> None:
    posterior = approximation
    found = posterior.predict(draws=2400)
    draws = [posterior.draws[name].values.ravel() for name in ("beta", "gamma")]
    curves = sqrt_infected(*draws)
    np.testing.assert_allclose(found.mean["sqrt_infected"], curves.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(found.sd["sqrt_infected"], curves.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.draws["sqrt_infected"], curves, rtol=1e-10)
    noisy = posterior.tree["posterior_predictive"]["value"].values.reshape(-1, 14)
    assert noisy.std(axis=0) == pytest.approx(np.sqrt(curves.var(axis=0) + SD**2), rel=0.12)  # 1000 draws
    half = posterior.predict(coords={"day": [7.0, 7.5]}, draws=50)  # between days the error of interpolation counts
    assert half.draws["sqrt_infected"].sel(day=7.5).std() > half.draws["sqrt_infected"].sel(day=7.0).std()

"""Surrogates whose rows depend on the input and whose scores are correlated: every use against brute force."""

from typing import Any

import numpy as np
import pandas as pd
import pytensor
import pytest
from calibration.problems import given_surrogate
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import uqms as uq
from uqms.surrogates import GaussianProcessSurrogate
from uqms.surrogates.outputs import InputDecoder
from uqms.testing import ToySurrogate

SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
BOX = SPACE.box()
TIMES = np.array([0.0, 0.5, 0.8])
CASES = {
    "all": {},
    "independent scores": {"correlated": False},
    "fixed rows": {"by_input": False},
    "two hyperparameter draws": {"draws": 2},
}
FORMS: dict[str, dict[str, Any]] = {
    "independent noise": {"noise": uq.GaussianNoise(sd=uq.HalfNormal(0.3))},
    "autocorrelated noise": {"noise": uq.AutocorrelatedNoise(0.1, uq.HalfNormal(0.2), uq.HalfNormal(0.5))},
    "discrepancy": {"noise": uq.GaussianNoise(sd=0.2), "discrepancy": uq.GPDiscrepancy(over=["time"])},
    "orthogonal discrepancy": {
        "noise": uq.GaussianNoise(sd=0.2),
        "discrepancy": uq.GPDiscrepancy(over=["time"], orthogonal=True),
    },
    "scale discrepancy": {"noise": uq.GaussianNoise(sd=0.2), "discrepancy": uq.ScaleDiscrepancy()},
}


def toy(**settings: Any) -> ToySurrogate:
    return ToySurrogate(BOX, **settings)


def observations(conditions: tuple[float, ...] = (0.3,), copies: int = 2, seed: int = 1) -> uq.Observations:
    """Return values at each condition, with replicates at some of the times; the last condition has fewer times."""
    rng = np.random.default_rng(seed)
    rows = [
        {"x": x, "time": t, "value": 1.5 + 0.5 * np.sin(t) + 0.3 * rng.standard_normal(), "copy": c}
        for i, x in enumerate(conditions)
        for t in (TIMES if i < 2 else TIMES[1:])
        for c in range(copies)
    ]
    return uq.Observations.from_table(
        pd.DataFrame(rows), output="curve", value="value", coords={"time": "time"}, conditions=["x"], replicate="copy"
    )


def brute(surrogate: ToySurrogate, u: np.ndarray, index: np.ndarray, times: np.ndarray) -> list[tuple[Any, Any, float]]:
    """Return mean, covariance and log weight of "curve" at points of inputs u (K, d), for each hyperparameter draw."""
    scores, out = surrogate.scores(u), []
    joint = scores.joint.reshape(len(scores.mean), len(u), 2, len(u), 2)
    for h, log_weight in enumerate(scores.log_weights):
        mean, B, E = np.empty(len(index)), np.empty((len(index), 2)), np.empty((len(index), 2))
        for i, (k, t) in enumerate(zip(index, times, strict=True)):
            decoder = surrogate.decode("curve", {"time": np.array([t])})
            rows = decoder
            if isinstance(decoder, InputDecoder):
                rows = [one[h, 0] for one in decoder.at(u[[k]])]
            offset, B[i], E[i] = rows[0][0], rows[1][0], rows[2][0]
            mean[i] = offset + B[i] @ scores.mean[h, k]
        C = np.einsum("ti,tisj,sj->ts", B, joint[h][index][:, :, index], B)
        C += (index[:, None] == index) * (E @ E.T)
        out.append((mean, C, float(log_weight)))
    return out


def dense(problem: uq.Calibration, theta: dict[str, float]) -> float:
    """Return the log-likelihood from the dense covariance of all rows, replicates included."""
    cells, one = problem.cells, {name: np.array([value]) for name, value in theta.items()}
    u = problem.unit_inputs(one)[0]
    phi, c = problem.noise.phi(one, (1,)), cells.row_cell
    m = np.ones(len(cells.offset))
    for place in problem.noise.factors.values():
        m += phi[0, place]
    extra = np.zeros((len(m), len(m)))
    if problem.noise.terms:
        from uqms.calibration.density import covariance_of

        slopes = np.zeros((1, len(m), len(problem.parameters)))
        for i, name in enumerate(problem.parameters):
            shift = np.eye(u.shape[1])[problem.surrogate.domain.names.index(name)] * 1e-4
            up, down = (
                brute(problem.surrogate, u + s * shift, cells.experiment, cells.coords["time"]) for s in (1, -1)
            )
            slopes[0, :, i] = (up[0][0] - down[0][0]) / 2e-4
        extra = covariance_of(problem.data_model, phi, slopes)[0]
    values = []
    for mean, C, log_weight in brute(problem.surrogate, u, cells.experiment, cells.coords["time"]):
        whole = m[:, None] * m * C + extra
        noise = phi[0, cells.row_group] ** 2 * cells.row_variance
        law = multivariate_normal((m * mean)[c], whole[np.ix_(c, c)] + np.diag(noise))
        values.append(log_weight + law.logpdf(cells.z))
    return float(logsumexp(values))


def parameters(problem: uq.Calibration, seed: int) -> dict[str, np.ndarray]:
    return problem.prior_draws(4, seed)


@pytest.mark.parametrize("conditions", [(0.3,), (0.2, 0.6, 0.9)], ids=["one experiment", "three experiments"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_log_likelihood_is_that_of_the_dense_normal(case: str, form: str, conditions: tuple[float, ...]) -> None:
    if form == "orthogonal discrepancy" and case == "two hyperparameter draws":
        pytest.skip("the brute force here has the slopes of one draw")
    copies = 1 if form == "autocorrelated noise" else 2
    problem = uq.Calibration(toy(**CASES[case]), observations(conditions, copies), space=SPACE, **FORMS[form])
    theta = parameters(problem, 3)
    found = problem.log_likelihood(theta)
    wanted = [dense(problem, {name: float(values[i]) for name, values in theta.items()}) for i in range(4)]
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-8)


def compiled(problem: Any) -> Any:
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        model = problem.model()
        return model, model.compile_logp(), model.compile_dlogp()


def check_gradient(problem: Any, seed: int = 5) -> None:
    """Compare the gradient of the model's density with central differences at a random point."""
    model, value, slope = compiled(problem)
    rng, point = np.random.default_rng(seed), model.initial_point()
    point = {name: np.asarray(one + 0.2 * rng.standard_normal(np.shape(one))) for name, one in point.items()}
    found, differences = slope(point), []
    for name, one in point.items():
        for place in np.ndindex(np.shape(one)):
            ends = []
            for sign in (1.0, -1.0):
                moved = np.array(one, dtype=np.float64)
                moved[place] += sign * 1e-5
                ends.append(float(value({**point, name: moved})))
            differences.append((ends[0] - ends[1]) / 2e-5)
    np.testing.assert_allclose(found, differences, rtol=2e-5, atol=2e-5 * max(1.0, np.abs(differences).max()))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_is_that_of_differences(form: str) -> None:
    copies = 1 if form == "autocorrelated noise" else 2
    data = observations((0.2, 0.6, 0.9), copies)
    check_gradient(uq.Calibration(toy(draws=2), data, space=SPACE, **FORMS[form]))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("conditions", [(0.3,), (0.2, 0.6, 0.9)], ids=["one experiment", "three experiments"])
def test_the_latent_form_has_the_same_law_and_gradient(case: str, conditions: tuple[float, ...]) -> None:
    noise = uq.StudentTNoise(uq.HalfNormal(0.2), 5.0)
    problem = uq.Calibration(toy(**CASES[case]), observations(conditions), noise, space=SPACE)
    theta = {name: values[:1] for name, values in parameters(problem, 2).items()}
    u, phi = problem.unit_inputs(theta), problem.noise.phi(theta, (1,))
    y0, B, log_weights = problem.data_model.latent_map(u, phi)
    for (mean, C, log_weight), y, factor, own in zip(
        brute(problem.surrogate, u[0], problem.cells.experiment, problem.cells.coords["time"]),
        y0[:, 0],
        B[:, 0],
        log_weights,
        strict=True,
    ):
        np.testing.assert_allclose(y, mean, rtol=1e-12)
        np.testing.assert_allclose(factor @ factor.T, C, rtol=1e-8, atol=1e-10)
        assert own == pytest.approx(log_weight)
    eta = np.random.default_rng(1).standard_normal((1, problem.latents))
    outputs, _ = problem.data_model.latent_outputs(u, phi, eta)
    np.testing.assert_allclose(outputs, y0 + np.einsum("hsnl,sl->hsn", B, eta), rtol=1e-12)
    if len(conditions) > 1:
        check_gradient(problem)


@pytest.mark.parametrize("case", CASES)
def test_as_tensor_has_the_joint_law_and_its_gradient(case: str, rng: np.random.Generator) -> None:
    surrogate, u = toy(**CASES[case]), rng.random((2, 3))
    theta = pytensor.tensor.dmatrix()
    x = np.asarray(BOX.from_unit(u))
    found = uq.as_tensor(surrogate, {name: theta[:, i] for i, name in enumerate(BOX.names)}, "curve", {"time": TIMES})
    weight = [rng.standard_normal(shape) for shape in ((2, 3), (2, 3), (2, 3, 2, 3))]
    total = sum((part * one).sum() for part, one in zip(found, weight, strict=True))
    outputs = [*found, total, pytensor.grad(total, theta)]
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        function = pytensor.function([theta], outputs)
    mean, variance, covariance, _, slope = function(x)
    laws = brute(surrogate, u, np.repeat([0, 1], 3), np.tile(TIMES, 2))
    wanted = sum(np.exp(w) * m for m, _, w in laws)
    spread = sum(np.exp(w) * (C + np.outer(m - wanted, m - wanted)) for m, C, w in laws)
    np.testing.assert_allclose(mean.ravel(), wanted, rtol=1e-12)
    np.testing.assert_allclose(covariance.reshape(6, 6), spread, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(variance.ravel(), np.diag(spread), rtol=1e-10)
    differences = np.empty_like(x)
    for place in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[place] = 1e-6
        differences[place] = (function(x + shift)[3] - function(x - shift)[3]) / 2e-6
    np.testing.assert_allclose(slope, differences, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_the_prediction_from_scores_is_the_joint_law(case: str, rng: np.random.Generator) -> None:
    surrogate, u = toy(**CASES[case]), rng.random((2, 3))
    at = {name: column for name, column in zip(BOX.names, np.asarray(BOX.from_unit(u)).T, strict=True)}
    found = uq.surrogates.predict_from_scores(surrogate, at)
    laws = brute(surrogate, u, np.repeat([0, 1], 5), np.tile(surrogate.times, 2))
    wanted = sum(np.exp(w) * m for m, _, w in laws)
    spread = sum(np.exp(w) * (C + np.outer(m - wanted, m - wanted)) for m, C, w in laws)
    np.testing.assert_allclose(found.mean["curve"].values.ravel(), wanted, rtol=1e-12)
    np.testing.assert_allclose(found.variance["curve"].values.ravel(), np.diag(spread), rtol=1e-10)
    np.testing.assert_allclose(found.covariance("curve").reshape(10, 10), spread, rtol=1e-10, atol=1e-13)
    draws = found.draws(4000, 1)["curve"].values.reshape(4000, -1)
    error = np.sqrt(np.diag(spread) / 4000)
    assert np.abs((draws.mean(axis=0) - wanted) / error).max() < 4.5
    centred = draws - wanted
    products = centred[:, :, None] * centred[:, None, :]
    assert np.abs((products.mean(axis=0) - spread) / (products.std(axis=0) / 4000**0.5)).max() < 4.5


def test_draws_from_the_scores_of_correlated_ones_pass_the_suite() -> None:
    uq.testing.check_surrogate(FromScores(toy(draws=2)), draws=2000).raise_failed()


class FromScores:
    """The toy, with derivative and function draws that are made of its scores."""

    def __init__(self, inner: ToySurrogate) -> None:
        self.inner = inner
        self.domain, self.layouts, self.scores, self.decode = inner.domain, inner.layouts, inner.scores, inner.decode

    def scores_reverse(self, u: np.ndarray, mean_bar: np.ndarray, covariance_bar: np.ndarray) -> np.ndarray:
        return uq.surrogates.reverse_by_differences(self.scores, u, mean_bar, covariance_bar)

    def functions(self, n: int, rng: Any) -> Any:
        return uq.surrogates.draws_from_scores(self, n, rng, anchors=32)


def test_a_fixed_output_shares_scores_and_latents_with_one_by_input() -> None:
    """What is left out of "curve" and "level" at one input is shared by both; so are the scores' errors."""
    data = uq.Observations.concat(
        [
            observations((0.3, 0.6), copies=1),
            uq.Observations.from_table(
                pd.DataFrame({"x": [0.3, 0.9], "value": [1.0, 1.4]}), output="level", value="value", conditions=["x"]
            ),
        ]
    )
    noise = {"curve": uq.GaussianNoise(sd=0.1), "level": uq.GaussianNoise(sd=uq.HalfNormal(0.2))}
    problem = uq.Calibration(toy(), data, noise, space=SPACE)
    theta, cells = problem.prior_draws(3, 1), problem.cells
    found = problem.log_likelihood(theta)
    assert set(cells.output) == {"curve", "level"}
    for s in range(3):
        u = problem.unit_inputs({name: values[[s]] for name, values in theta.items()})[0]
        joint = toy().scores(u).covariance[0]
        rows = [
            toy().decode("curve", {"time": np.array([t])}).at(u[[k]]) if name == "curve" else toy().decode("level")
            for name, k, t in zip(cells.output, cells.experiment, cells.coords["time"], strict=True)
        ]
        offset = np.array([one.offset.ravel()[0] for one in rows])
        B, E = (np.array([one[i].reshape(-1, 2)[0] for one in rows]) for i in (1, 2))
        e = cells.experiment
        C = np.einsum("ti,tisj,sj->ts", B, joint[e][:, :, e], B) + (e[:, None] == e) * (E @ E.T)
        sd = np.where(cells.output == "curve", 0.1, theta["sigma_level"][s])
        mean = offset + np.sum(B * toy().scores(u).mean[0][e], axis=1)
        wanted = multivariate_normal(mean, C + np.diag(sd**2)).logpdf(cells.cell_mean)
        assert found[s] == pytest.approx(wanted, rel=1e-9)
    check_gradient(problem)


@pytest.mark.parametrize("form", FORMS)
def test_each_input_has_its_own_derivative_of_the_joint_error(form: str, rng: np.random.Generator) -> None:
    """Every entry of the derivative (K, d), conditions included: sums over inputs would hide a wrong order."""
    copies = 1 if form == "autocorrelated noise" else 2
    problem = uq.Calibration(toy(draws=2), observations((0.2, 0.6, 0.9), copies), space=SPACE, **FORMS[form])
    u = rng.random((3, 3))
    bar = rng.standard_normal(problem.data_model.parts(u[None])[0][:, 0].shape)
    shift = 1e-6 * np.eye(9).reshape(9, 3, 3)
    ends = [np.einsum("hsp,hp->s", problem.data_model.parts(u + sign * shift)[0], bar) for sign in (1.0, -1.0)]
    wanted = (ends[0] - ends[1]).reshape(3, 3) / 2e-6
    # Slopes that an orthogonal discrepancy needs are differences themselves.
    tolerance = 1e-4 if problem.data_model.gaussian.slopes else 1e-7
    np.testing.assert_allclose(problem.data_model.parts_reverse(u, bar), wanted, rtol=tolerance, atol=tolerance)


class WithRows(GaussianProcessSurrogate):  # type: ignore[misc]
    """The library's own Gaussian process with rows that depend on the input."""

    def decode(self, output: str, coords: Any = None) -> Any:
        return toy().decode("curve", {"time": TIMES} if coords is None else {"time": TIMES[coords["t"].astype(int)]})


class Plugged:
    """The same through the protocol alone."""

    def __init__(self, inner: Any) -> None:
        self.domain, self.layouts, self.attrs = inner.domain, inner.layouts, inner.attrs
        self.scores, self.scores_reverse, self.decode = inner.scores, inner.scores_reverse, inner.decode
        self.functions = inner.functions


@pytest.mark.slow
def test_rows_by_input_of_the_librarys_own_process_leave_compiled_code(rng: np.random.Generator) -> None:
    given = given_surrogate(rng.random((6, 2)), rng.standard_normal((6, 2)), basis=np.ones((3, 2)), names=("a", "b"))
    own = WithRows(given.domain, given.process, given.bases, given.attrs)
    table = pd.DataFrame({"t": [0.0, 1.0, 2.0], "value": [1.0, 1.2, 0.9]})
    data = uq.Observations.from_table(table, output="y", value="value", coords={"t": "t"})
    problems = [uq.Calibration(one, data, uq.GaussianNoise(sd=0.2)) for one in (own, Plugged(own))]
    assert problems[0].data_model.process is None
    theta = problems[0].prior_draws(5, 1)
    found = [one.log_likelihood(theta) for one in problems]
    np.testing.assert_array_equal(*found)
    assert np.isfinite(found[0]).all()
    check_gradient(problems[0])
    expression = uq.as_tensor(own, {"a": 0.3, "b": 0.6})
    assert expression.covariance.eval().shape == (1, 3, 1, 3)

"""Parts of a calibration that have one surrogate: they share its error, by brute force and in closed form."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytensor
import pytest
import xarray as xr
from calibration.problems import given_surrogate, linear_surrogate, matern52, replicates
from calibration.test_noise_models import COUNTS, curve, observed
from calibration.test_realisation import observed as stochastic_rows
from calibration.test_realisation import stochastic
from calibration.test_realisation import table as stochastic_table
from scipy import stats
from scipy.special import logsumexp

import uqms as uq
from uqms.calibration.compiled import target
from uqms.calibration.parts import JointCalibration
from uqms.calibration.predict import conditional_moments, make_grid
from uqms.calibration.sharing import by_surrogate, same_error
from uqms.calibration.verdict import fisher_information
from uqms.errors import ConformanceError, InputError
from uqms.surrogates import GaussianProcessSurrogate, Layout, Log, Matern52
from uqms.surrogates.outputs import OutputBasis
from uqms.surrogates.process import condition
from uqms.surrogates.training import Hyperparameters

pytestmark = pytest.mark.filterwarnings("ignore::uqms.errors.PriorConflictWarning")

T = 5
SPACE = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
AXES = ("ell", "variance", "nugget", "jitter", "beta", "target", "inverse_factor", "trend_factor", "trend_root")


@cache
def surrogate() -> GaussianProcessSurrogate:
    """Return a curve "y" over t and a number "w" in theta and the condition x, with two hyperparameter draws."""
    rng = np.random.default_rng(1)
    x, scores = rng.random((5, 2)), rng.standard_normal((5, 3))
    one, other = (
        condition(Matern52(), x, scores, 1, [Hyperparameters(np.full(2, ell), 0.0, 1e-10, 0.0, 1, False)] * 3, [v] * 3)
        for ell, v in ((0.4, 1.0), (0.8, 2.0))
    )
    both = {name: np.concatenate([getattr(one, name), getattr(other, name)]) for name in AXES}
    process = replace(one, **both, log_weights=np.log([0.7, 0.3]))
    outputs = (
        OutputBasis(
            "y",
            Layout(("t",), {"t": np.arange(T, dtype=float)}),
            np.zeros(T),
            rng.standard_normal((T, 2)),
            0.2 * rng.standard_normal((T, 2)),
            np.zeros(T - 1),
            np.zeros((5, 2)),
        ),
        OutputBasis("w", Layout(), np.zeros(1), np.ones((1, 1)), np.zeros((1, 0)), np.zeros(0), np.zeros((5, 0))),
    )
    box = uq.Box(("theta", "x"), (0.0, 0.0), (1.0, 1.0))
    return GaussianProcessSurrogate(box, process, outputs, {"space": SPACE.to_json()})


def other_surrogate() -> GaussianProcessSurrogate:
    rng = np.random.default_rng(2)
    return given_surrogate(rng.random((4, 2)), rng.standard_normal((4, 1)), names=("theta", "x"), space=SPACE)


def table(output: str, x: list[float], t: list[float], copies: int, seed: int) -> uq.Observations:
    """Return random values of an output at all x and t, `copies` times each; a number where there is no t."""
    places = [(a, b, r) for a in x for b in t or [0.0] for r in range(copies)]
    frame = pd.DataFrame(places, columns=["x", "t", "copy"])
    frame["value"] = np.random.default_rng(seed).standard_normal(len(frame))
    coords = {"t": "t"} if t else None
    return uq.Observations.from_table(
        frame, output=output, value="value", coords=coords, conditions=["x"], replicate="copy"
    )


OBSERVED = {
    "a": table("y", [0.6, 0.2], [0.0, 1.0, 3.0], 2, 3),
    "c": table("y", [0.6], [], 2, 4),
    "b": uq.Observations.concat([table("y", [0.9, 0.6], [1.0, 4.0], 1, 5), table("w", [0.6], [], 3, 6)]),
}
OU = {"sd": 0.6, "length": 2.0, "white": 0.3}


def joint() -> JointCalibration:
    """Return a problem in which parts "a" and "b" have one surrogate, with noise and discrepancy of their own."""
    problem: Any = uq.Calibration(
        {name: (other_surrogate() if name == "c" else surrogate(), rows) for name, rows in OBSERVED.items()},
        noise={
            "a": uq.GaussianNoise(sd=uq.HalfNormal(1.0)),
            "c": uq.GaussianNoise(sd=0.5),
            "b": {"y": uq.AutocorrelatedNoise(**OU), "w": uq.GaussianNoise(sd=0.4)},
        },
        discrepancy={
            "a": [uq.OffsetDiscrepancy(sd=0.7), uq.ScaleDiscrepancy(0.3)],
            "b": {"y": uq.GPDiscrepancy(sd=uq.HalfNormal(1.0), length=1.5, over=["t"])},
        },
    )
    assert isinstance(problem, JointCalibration)
    return problem


def dense(theta: float, sigma: float, scale: float, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Return means (2, R) and covariances (2, R, R) of the rows of a, then b, by hyperparameter draw, by hand."""
    model = surrogate()
    rows = pd.concat([OBSERVED[name].table.assign(part=name) for name in "ab"], ignore_index=True)
    xs = np.unique(rows["x"])
    scores = model.scores(np.column_stack([np.full(len(xs), theta), xs]))
    at = np.searchsorted(xs, rows["x"])
    decoded = [
        model.decode(o, {"t": [t]} if o == "y" else None) for o, t in zip(rows["output"], rows["t"], strict=True)
    ]
    basis, rest = (np.concatenate([np.atleast_2d(one[i]) for one in decoded]) for i in (1, 2))
    a = (rows["part"] == "a").to_numpy()
    curve_b = ~a & (rows["output"] == "y").to_numpy()
    m = np.where(a, 1.0 + scale, 1.0)
    same_x = at[:, None] == at
    gap = np.abs(np.subtract.outer(rows["t"].to_numpy(), rows["t"].to_numpy()))
    both = np.logical_and.outer
    more = np.diag(np.where(a, sigma, np.where(curve_b, OU["white"], 0.4)) ** 2) + 0.7**2 * both(a, a)
    more = more + np.where(both(curve_b, curve_b), delta**2 * matern52(np.nan_to_num(gap), 1.5), 0.0)
    more = more + np.where(both(curve_b, curve_b) & same_x, OU["sd"] ** 2 * np.exp(-np.nan_to_num(gap) / 2.0), 0.0)
    means, covariances = [], []
    for h in range(2):
        error = sum(
            np.outer(basis[:, j], basis[:, j]) * scores.covariance[h, j][np.ix_(at, at)] for j in range(basis.shape[1])
        )
        means.append(m * np.sum(basis * scores.mean[h][at], axis=1))
        covariances.append(np.outer(m, m) * (error + same_x * (rest @ rest.T)) + more)
    return np.array(means), np.array(covariances)


POINT = {"theta": 0.35, "a_sigma": 0.6, "a_scale": 0.2, "b_delta_sd_y": 0.8}


def test_the_likelihood_is_the_dense_normal_of_the_parts_that_share_the_error() -> None:
    problem = joint()
    assert set(problem.priors) == set(POINT)
    values = np.concatenate([OBSERVED[name].value for name in "ab"])
    for theta in (0.1, 0.35, 0.8):
        means, covariances = dense(theta, 0.6, 0.2, 0.8)
        each = [stats.multivariate_normal(m, c).logpdf(values) for m, c in zip(means, covariances, strict=True)]
        expected = logsumexp(each, b=[0.7, 0.3])
        alone = problem.parts["c"].log_likelihood({"theta": theta})
        found = problem.log_likelihood({**POINT, "theta": theta})
        assert float(found) == pytest.approx(expected + alone, abs=1e-9)
        apart = sum(
            problem.parts[name].log_likelihood(
                {key: ({**POINT, "theta": theta})[key if key == "theta" else f"{name}_{key}"] for key in own}
            )
            for name, own in (("a", ("theta", "sigma", "scale")), ("b", ("theta", "delta_sd_y")))
        )
        assert abs(expected - apart) > 0.1  # what independent errors would say


def test_the_model_has_the_same_density_and_its_gradient() -> None:
    problem = joint()
    law = problem.conditioned_prior
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        model = problem.model()
        names = [variable.name for variable in model.value_vars]
        evaluate = model.compile_fn(
            [model.logp(jacobian=False), *pytensor.grad(model.logp(jacobian=False), model.value_vars)]
        )
        points = {name: np.array([value]) for name, value in POINT.items()}
        line = problem.on_the_real_line({**points, "latents": np.zeros((1, 0))})[0]
        at = dict(zip(names, line, strict=True))
        value, *slopes = evaluate(at)
        prior = float(np.sum([float(np.squeeze(one)) for one in law.log_terms(points).values()]))
        assert float(value) == pytest.approx(float(problem.log_likelihood(POINT)) + prior, abs=1e-8)
        for name, slope in zip(names, slopes, strict=True):
            step = 1e-5
            up, down = (evaluate({**at, name: at[name] + sign * step})[0] for sign in (1.0, -1.0))
            assert float(slope) == pytest.approx((up - down) / (2.0 * step), rel=1e-5, abs=1e-6)


def test_rows_and_draws_keep_the_order_of_the_parts() -> None:
    problem = joint()
    sizes = [len(OBSERVED[name]) for name in ("a", "c", "b")]
    values = np.concatenate([OBSERVED[name].value for name in ("a", "c", "b")])
    again = problem.with_values(values)
    assert float(again.log_likelihood(POINT)) == pytest.approx(float(problem.log_likelihood(POINT)), abs=1e-10)
    moved = problem.with_values(values + np.repeat([0.0, 1.0, 0.0], sizes))
    other = problem.parts["c"].with_values(OBSERVED["c"].value + 1.0)
    alone, before = (one.log_likelihood({"theta": POINT["theta"]}) for one in (other, problem.parts["c"]))
    gained = float(moved.log_likelihood(POINT) - problem.log_likelihood(POINT))
    assert gained == pytest.approx(float(alone - before), abs=1e-9)
    count = 4000
    drawn = problem.simulate({key: np.full(count, value) for key, value in POINT.items()}, 1)
    drawn = np.delete(drawn, np.arange(sizes[0], sizes[0] + sizes[1]), axis=1)
    means, covariances = dense(**{"theta": 0.35, "sigma": 0.6, "scale": 0.2, "delta": 0.8})
    mean = np.array([0.7, 0.3]) @ means
    covariance = np.tensordot([0.7, 0.3], covariances + (means - mean)[:, :, None] * (means - mean)[:, None, :], 1)
    sd = np.sqrt(np.diag(covariance))
    assert np.abs(drawn.mean(axis=0) - mean).max() < 4.5 * (sd / np.sqrt(count)).max()
    between = np.abs(np.corrcoef(drawn.T) - covariance / np.outer(sd, sd))
    assert between.max() < 5.0 / np.sqrt(count)


def plain(noise: Any, parts: dict[str, Any], model: Any = None) -> JointCalibration:
    made: Any = uq.Calibration(
        {name: (surrogate() if model is None else model, rows) for name, rows in parts.items()},
        noise=dict.fromkeys(parts, noise),
    )
    assert isinstance(made, JointCalibration)
    return made


COMMON = {"a": table("y", [0.6, 0.2], [0.0, 1.0, 3.0], 2, 3), "b": table("y", [0.9, 0.6], [1.0, 4.0], 1, 5)}
THETA = {"theta": np.linspace(0.05, 0.95, 7)}


def test_with_noise_in_common_it_is_one_calibration_of_all_data() -> None:
    noise = uq.GaussianNoise(sd=0.5)
    parts = plain(noise, COMMON)
    whole = uq.Calibration(surrogate(), uq.Observations.concat(COMMON.values()), noise)
    np.testing.assert_allclose(parts.log_likelihood(THETA), whole.log_likelihood(THETA), rtol=1e-10)
    h = np.array([0, 1, 0, 1, 0, 1, 0])
    np.testing.assert_allclose(
        fisher_information(parts, THETA, np.column_stack([h, h])), fisher_information(whole, THETA, h), rtol=1e-9
    )
    compiled, other = target(parts), target(whole)  # type: ignore[arg-type]
    assert compiled is not None
    assert other is not None
    for z in (-1.0, 0.3, 2.0):
        value, gradient = compiled.evaluate(np.array([z]))
        expected, slope = other.evaluate(np.array([z]))
        assert value == pytest.approx(expected, rel=1e-10)
        np.testing.assert_allclose(gradient, slope, rtol=1e-8)


def test_noise_that_is_not_normal_has_the_error_in_common_too() -> None:
    model = curve(Log())
    first, second = observed(COUNTS), observed(np.array([2.0, 1.0, 4.0, 0.0]))
    parts = plain(uq.PoissonNoise(), {"a": first, "b": second}, model)
    both = xr.concat([first, second], dim="replicate")
    whole = uq.Calibration(model, both, uq.PoissonNoise())
    assert parts.latents == whole.latents == 3  # two scores and one column of truncation, once
    eta = np.random.default_rng(1).standard_normal((7, 3))
    np.testing.assert_allclose(parts.log_likelihood(THETA, eta), whole.log_likelihood(THETA, eta), rtol=1e-10)
    drawn = parts.simulate({"theta": np.full(2000, 0.02)}, 2)
    expected = whole.simulate({"theta": np.full(2000, 0.02)}, 3)
    correlation = np.corrcoef(np.log1p(drawn).T)
    assert np.abs(correlation - np.corrcoef(np.log1p(expected).T)).max() < 6.0 / np.sqrt(2000)
    assert correlation[:4, 4:].max() > 0.1


def test_predictions_are_those_of_one_calibration() -> None:
    model = curve(Log())
    first, second = observed(COUNTS), observed(np.array([2.0, 1.0, 4.0, 0.0]))
    normal = uq.GaussianNoise(sd=0.5)
    pairs = (
        (
            plain(uq.PoissonNoise(), {"a": first, "b": second}, model),
            uq.Calibration(model, xr.concat([first, second], dim="replicate"), uq.PoissonNoise()),
        ),
        (plain(normal, COMMON), uq.Calibration(surrogate(), uq.Observations.concat(COMMON.values()), normal)),
    )
    for parts, whole in pairs:
        seen = parts.seen_from("b")
        theta, h = {"theta": np.array([0.3, 0.7])}, np.zeros(2, dtype=np.int64)
        eta = np.random.default_rng(1).standard_normal((2, whole.latents))
        at = {name: np.array([0.4, 0.6]) for name in whole.condition_names} or None
        grid = make_grid(whole.data_model, "y", at, None).targets
        ((_, found),) = conditional_moments(seen, theta, h, grid, eta)
        ((_, expected),) = conditional_moments(whole, theta, h, grid, eta)
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-8)
        np.testing.assert_allclose(found.covariance, expected.covariance, atol=1e-9)


def test_parts_are_different_runs_of_a_stochastic_simulator() -> None:
    model, frame = stochastic(), stochastic_table(experiments=2, runs=1, replicates=2)
    rows = {part: stochastic_rows(frame.assign(run=i, y=frame["y"] + i)) for i, part in enumerate("ab")}
    parts = plain(uq.GaussianNoise(sd=0.3), rows, model)
    whole = uq.Calibration(model, uq.Observations.concat(rows.values()), uq.GaussianNoise(sd=0.3))
    np.testing.assert_allclose(parts.log_likelihood(THETA), whole.log_likelihood(THETA), rtol=1e-10)


X, SLOPE, ERROR, SD = np.array([0.2, 0.5]), 1.0, 0.8, 0.3
VALUES = [0.8 + np.random.default_rng(seed).standard_normal((2, 3)) * SD for seed in (5, 6)]


def linear() -> JointCalibration:
    model = linear_surrogate(SLOPE, ERROR)
    found: Any = uq.Calibration(
        {name: (model, replicates(values, X)) for name, values in zip("ab", VALUES, strict=True)},
        noise={"a": uq.GaussianNoise(sd=SD), "b": uq.GaussianNoise(sd=2.0 * SD)},
    )
    return found  # type: ignore[no-any-return]


def closed_form() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the covariance of all twelve rows given theta, their slopes and the values."""
    at = np.tile(np.repeat(X, 3), 2)
    shared = ERROR**2 * matern52(at[:, None] - at, 0.3)
    noise = np.repeat([SD, 2.0 * SD], 6) ** 2
    return shared + np.diag(noise), np.full(12, SLOPE), np.concatenate([values.ravel() for values in VALUES])


@pytest.fixture(scope="module")
def posterior() -> uq.Posterior:
    found: uq.Posterior = linear().sample(uq.SMC(particles=1000), rng=1)
    return found


def test_the_posterior_is_as_wide_as_the_shared_error_makes_it(posterior: uq.Posterior) -> None:
    covariance, slopes, data = closed_form()
    weight = np.linalg.solve(covariance, slopes)
    sd = (1.0 + slopes @ weight) ** -0.5
    mean = sd**2 * (weight @ data)
    draws = posterior.draws["theta"].values
    assert draws.mean() == pytest.approx(mean, abs=4 * sd / np.sqrt(2000))
    assert draws.std() == pytest.approx(sd, rel=4 / np.sqrt(2 * 2000))
    apart = covariance.copy()
    apart[:6, 6:] = apart[6:, :6] = 0.0
    independent = (1.0 + slopes @ np.linalg.solve(apart, slopes)) ** -0.5
    assert independent < 0.85 * sd  # what two errors would have made of it
    law = stats.multivariate_normal(np.zeros(12), covariance + np.outer(slopes, slopes))
    assert posterior.log_evidence.value == pytest.approx(law.logpdf(data), abs=0.2)
    perfect = 1.0 + slopes @ (slopes / np.repeat([SD, 2.0 * SD], 6) ** 2)
    share = 1.0 - sd**-2.0 / perfect
    assert float(posterior.surrogate_share["theta"]) == pytest.approx(share, rel=0.05)


def test_a_part_predicts_with_what_the_others_say_of_the_error(posterior: uq.Posterior) -> None:
    covariance, slopes, data = closed_form()
    whole = covariance + np.outer(slopes, slopes)
    at = np.tile(np.repeat(X, 3), 2)
    for x in (0.2, 0.8):
        reach = ERROR**2 * matern52(x - at, 0.3) + SLOPE * slopes
        mean = reach @ np.linalg.solve(whole, data)
        sd = float(np.sqrt(ERROR**2 + SLOPE**2 - reach @ np.linalg.solve(whole, reach)))
        found = posterior.predict(part="b", conditions={"x": np.array([x])}, draws=4000)
        assert float(found.mean["y"].squeeze()) == pytest.approx(mean, abs=4 * sd / np.sqrt(2000))
        assert float(found.sd["y"].squeeze()) == pytest.approx(sd, rel=0.1)
    part = posterior.part("a")
    np.testing.assert_allclose(part.tree["observed_data"]["value"], VALUES[0].ravel())
    assert list(part.predict(draws=50).mean["y"]["x"].values) == [0.2, 0.5]
    noisy = [posterior.predict(part=name, noise=True, draws=2000).sd["y"].values for name in "ab"]
    quiet = [posterior.predict(part=name, draws=2000).sd["y"].values for name in "ab"]
    np.testing.assert_allclose(noisy[1] ** 2 - quiet[1] ** 2, (2.0 * SD) ** 2, rtol=1e-6)
    np.testing.assert_allclose(noisy[0] ** 2 - quiet[0] ** 2, SD**2, rtol=1e-6)


def test_parts_of_one_surrogate_are_judged_together(posterior: uq.Posterior) -> None:
    names = [check.name for check in posterior.verdict.checks]
    for kind in ("predictive misfit", "edge of the design box", "prior mass cut", "autocorrelated residuals"):
        assert [name for name in names if name.startswith(kind)] == [f"{kind} (a, b)"]
    assert posterior.verdict.status != "fail"
    rows = posterior.tree["log_likelihood"]["value"]
    assert list(rows["part"].values) == ["a"] * 6 + ["b"] * 6
    covariance, slopes, data = closed_form()
    theta, precision = float(posterior.draws["theta"][0, 0]), np.linalg.inv(covariance)
    weighted, diagonal = precision @ (data - slopes * theta), np.diag(precision)
    expected = 0.5 * np.log(diagonal / (2 * np.pi)) - 0.5 * weighted**2 / diagonal
    np.testing.assert_allclose(rows[0, 0], expected, rtol=1e-7)
    h = posterior.tree["sample_stats"]["hyperparameter_draw"]
    assert h.sizes["part"] == 2


def test_figures_and_proposals_of_a_part_are_of_its_own_data(posterior: uq.Posterior) -> None:
    for name in "ab":
        figure = uq.plots.predictive(posterior.part(name))
        shown = {len(line.get_xdata()) for axes in figure.axes for line in axes.lines}
        assert 6 in shown
        assert 12 not in shown
    assert uq.refine(posterior.part("a"), 4, rng=1).sizes["run"] == 4
    # runs that verify a part are compared with the data of all parts that its likelihood holds
    design = uq.verification_design(posterior.part("a"), 3, rng=1)
    assert sorted(set(design["x"].values)) == pytest.approx(list(X))


def test_hyperparameters_of_other_parts_stay_in_a_part() -> None:
    model = linear_surrogate(SLOPE, ERROR)
    problem: Any = uq.Calibration(
        {name: (model, replicates(values, X)) for name, values in zip("ab", VALUES, strict=True)},
        noise={"a": uq.GaussianNoise(sd=uq.HalfNormal(1.0)), "b": uq.GaussianNoise(sd=uq.HalfNormal(1.0))},
        discrepancy={"b": uq.OffsetDiscrepancy(sd=uq.HalfNormal(0.5))},
    )
    assert list(problem.priors) == ["theta", "a_sigma", "b_sigma", "b_offset_sd"]
    assert target(problem) is not None
    posterior = problem.sample(uq.SMC(particles=200), rng=1)
    part = posterior.part("b")
    assert sorted(part.draws) == ["a_sigma", "offset_sd", "sigma", "theta"]
    np.testing.assert_array_equal(part.draws["sigma"], posterior.draws["b_sigma"])
    np.testing.assert_array_equal(part.draws["a_sigma"], posterior.draws["a_sigma"])
    assert "discrepancy" in part.predict(draws=50).holds
    assert "discrepancy" not in posterior.part("a").predict(draws=50).holds
    # reality and simulator differ in the part that has a discrepancy alone
    wide, narrow = (posterior.predict(part="b", discrepancy=on, draws=100).sd["y"].values for on in (True, False))
    assert np.abs(wide - narrow).max() > 1e-3
    same = [posterior.predict(part="a", discrepancy=on, draws=100).sd["y"].values for on in (True, False)]
    np.testing.assert_allclose(same[0], same[1], rtol=1e-12)
    scaled = part.rescale_discrepancy((2.0,))
    assert np.isfinite(scaled.loc["theta", "shift x2"])


def test_true_conditions_stay_those_of_their_part() -> None:
    frame = pd.DataFrame({"x": [0.3, 0.3, 0.7], "value": [0.2, 0.4, 1.0], "e": ["u", "v", "w"]})

    def rows(sd: float) -> uq.Observations:
        return uq.Observations.from_table(
            frame, output="y", value="value", conditions=["x"], experiment="e", conditions_sd={"x": sd}
        )

    model = linear_surrogate(SLOPE, ERROR)
    problem: Any = uq.Calibration(
        {"a": (model, rows(0.05)), "b": (model, rows(0.1)), "c": (model, replicates(VALUES[0], np.array([0.3, 0.7])))},
        noise=dict.fromkeys("abc", uq.GaussianNoise(sd=SD)),
    )
    keys = [f"{part}_x[{k}]" for part in "ab" for k in range(3)]
    assert list(problem.priors) == ["theta", *keys]
    assert problem.priors["b_x[1]"].sd == 0.1
    theta = {"theta": 0.5, **{key: 0.2 + 0.1 * i for i, key in enumerate(keys)}}
    at = np.concatenate([[theta[key] for key in keys], np.repeat([0.3, 0.7], 3)])
    values = np.concatenate([np.tile(frame["value"], 2), VALUES[0].ravel()])
    covariance = ERROR**2 * matern52(at[:, None] - at, 0.3) + SD**2 * np.eye(12)
    expected = stats.multivariate_normal(np.full(12, 0.5), covariance).logpdf(values)
    assert float(problem.log_likelihood(theta)) == pytest.approx(expected, abs=1e-9)
    seen = problem.seen_from("b")
    assert [key for key in seen.priors if key.startswith("x[")] == ["x[0]", "x[1]", "x[2]"]


def test_the_same_surrogate_is_one_object_or_an_equal_one(tmp_path: Path) -> None:
    model = surrogate()
    model.save(tmp_path / "model.npz")
    first, second = (uq.load_surrogate(tmp_path / "model.npz") for _ in range(2))
    assert same_error(model, model)
    assert same_error(first, second)
    assert same_error(model, first)
    nearly = replace(model, process=replace(model.process, variance=model.process.variance * (1.0 + 1e-9)))
    other_unit = replace(
        model, bases=(replace(model.bases[0], layout=replace(model.bases[0].layout, unit="mV")), model.bases[1])
    )
    assert not same_error(model, nearly)
    assert not same_error(model, other_unit)
    assert not same_error(curve(), curve(Log()))
    assert by_surrogate({"a": model, "b": nearly, "c": first}) == (("a", "c"), ("b",))
    apart = {"a": (model, COMMON["a"]), "b": (nearly, COMMON["b"])}
    noise = dict.fromkeys(apart, uq.GaussianNoise(sd=0.5))
    found: Any = uq.Calibration(apart, noise=noise)
    expected = sum(part.log_likelihood(THETA) for part in found.parts.values())
    np.testing.assert_allclose(found.log_likelihood(THETA), expected, rtol=1e-12)


class Unknowing:
    """A surrogate that knows no covariance of its errors between inputs."""

    def __init__(self, inner: GaussianProcessSurrogate) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)

    def scores(self, u: np.ndarray) -> Any:
        found = self.inner.scores(u)
        off = ~np.eye(u.shape[-2], dtype=bool)
        return found._replace(covariance=np.where(off, np.nan, found.covariance))


def test_errors_that_are_not_known_jointly_are_refused_before_sampling() -> None:
    model: Any = Unknowing(linear_surrogate(SLOPE, ERROR))
    noise = {"a": uq.GaussianNoise(sd=SD), "b": uq.GaussianNoise(sd=SD)}
    rows = [replicates(VALUES[0][:1], X[[i]]) for i in (0, 1)]
    with pytest.raises(ConformanceError, match="several experiments"):
        uq.Calibration({"a": (model, rows[0]), "b": (model, rows[1])}, noise=noise)
    same: Any = uq.Calibration({"a": (model, rows[0]), "b": (model, rows[0])}, noise=noise)
    covariance = ERROR**2 + SD**2 * np.eye(6)
    expected = stats.multivariate_normal(np.full(6, 0.3), covariance).logpdf(np.tile(VALUES[0][0], 2))
    assert float(same.log_likelihood({"theta": 0.3})) == pytest.approx(expected, abs=1e-9)


def test_names_that_would_be_two_quantities_of_a_part_are_refused() -> None:
    model = linear_surrogate(SLOPE, ERROR)
    rows = replicates(VALUES[0], X)
    noise = {"delta": uq.CustomNoise(_log_density, _draw, {"sd": uq.HalfNormal(1.0)}), "b": uq.GaussianNoise(sd=SD)}
    with pytest.raises(InputError, match=r"\['delta_sd'\] would name two quantities of part 'b'"):
        uq.Calibration(
            {"delta": (model, rows), "b": (model, rows)},
            noise=noise,
            discrepancy={"b": uq.GPDiscrepancy(sd=uq.HalfNormal(1.0), length=0.3)},
        )


def _log_density(z: Any, y: Any, parameters: Any, xp: Any) -> Any:
    return -xp.abs(z - y) / parameters["sd"] - xp.log(2.0 * parameters["sd"])


def _draw(y: Any, parameters: Any, rng: np.random.Generator) -> Any:
    return y + parameters["sd"] * rng.laplace(size=y.shape)


def test_nuts_finds_the_closed_form_on_the_compiled_path() -> None:
    problem = linear()
    assert target(problem) is not None
    found = problem.sample(uq.NUTS(draws=500, tune=500), rng=2)
    covariance, slopes, data = closed_form()
    weight = np.linalg.solve(covariance, slopes)
    sd = (1.0 + slopes @ weight) ** -0.5
    ess = float(found.summary().loc["theta", "ess_bulk"])
    draws = found.draws["theta"].values
    assert draws.mean() == pytest.approx(sd**2 * (weight @ data), abs=4 * sd / np.sqrt(ess))
    assert draws.std() == pytest.approx(sd, rel=6 / np.sqrt(2 * ess))
    assert found.verdict.status != "fail"


@pytest.mark.slow
def test_nuts_of_parts_of_two_surrogates_has_the_mean_of_a_grid() -> None:
    problem: Any = uq.Calibration(
        {"a": (surrogate(), COMMON["a"]), "c": (other_surrogate(), OBSERVED["c"]), "b": (surrogate(), COMMON["b"])},
        noise=dict.fromkeys("acb", uq.GaussianNoise(sd=0.5)),
    )
    grid = (np.arange(2000) + 0.5) / 2000
    weights = np.exp((log := problem.log_likelihood({"theta": grid})) - log.max())
    weights /= weights.sum()
    mean, sd = weights @ grid, np.sqrt(weights @ (grid - weights @ grid) ** 2)
    found = problem.sample(uq.NUTS(draws=500, tune=500), rng=1)
    ess = float(found.summary().loc["theta", "ess_bulk"])
    assert found.draws["theta"].values.mean() == pytest.approx(mean, abs=4 * sd / np.sqrt(ess))

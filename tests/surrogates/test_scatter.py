"""A scatter of a deterministic simulator's runs, which the runs ask for, stated as an error."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import multivariate_normal

import uqms as uq
from uqms.surrogates.left_out import left_out_scores
from uqms.surrogates.process import ScoreProcess
from uqms.surrogates.roughness import ROUGH, rough_outputs, roughness
from uqms.surrogates.training import train

SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
T = np.linspace(0.0, 1.0, 15)
SHAPES = np.stack([1.0 - T, np.sin(2.0 * np.pi * T)])  # along which a common scatter lies
POINT = {"hyperparameters": "point", "scales": "given"}


def smooth(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sin(2.0 * a) + a * b


def jitter(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return what no run can see of its neighbours; its sd is 1."""
    return np.sqrt(2.0) * np.sin(913.7 * a + 1571.3 * b)


def runs_of(n: int, size: float, seed: int = 1, space: uq.ParameterSpace = SPACE) -> xr.Dataset:
    design = uq.sobol(space, n, rng=seed)
    a, b = design["a"].values, design["b"].values
    return uq.ensemble.build(design, {"y": smooth(a, b) + size * jitter(a, b)})


def curves_of(n: int, size: float, seed: int = 1) -> xr.Dataset:
    """Return runs whose scatter is along one direction, of which two shapes of the simulator have a part."""
    design = uq.sobol(SPACE, n, rng=seed)
    a, b = (design[name].values[:, None] for name in "ab")
    y = np.exp(-2.0 * a * T) + np.sin(3.0 * b + T) + size * jitter(a, b) * SHAPES.sum(axis=0)
    return uq.ensemble.build(design, {"y": ("t", y, T)})


@pytest.fixture(scope="module")
def scattered() -> uq.surrogates.GaussianProcessSurrogate:
    return uq.GaussianProcess(**POINT).fit(runs_of(60, 0.01))


@pytest.fixture(scope="module")
def along() -> uq.surrogates.GaussianProcessSurrogate:
    return uq.GaussianProcess(**POINT).fit(curves_of(80, 0.02))


def test_new_runs_are_covered_and_the_scatter_is_as_large_as_it_is() -> None:
    size, covered, exact, stated = 0.01, [], [], []
    for seed in range(12):
        runs = runs_of(60, size, seed)
        a, b = np.random.default_rng(seed).random((2, 400))
        truth = smooth(a, b) + size * jitter(a, b)
        for settings, into in ((uq.GaussianProcess(), covered), (uq.GaussianProcess(noise="none"), exact)):
            surrogate = settings.fit(runs)
            low, high = surrogate.predict({"a": a, "b": b}).interval(0.95)["y"].values
            into.append(np.mean((low < truth) & (truth < high)))
            if "scatter" in surrogate.attrs:
                basis = surrogate.bases[0]
                stated.append(float(basis.basis[0] @ basis.scatter[:, 0]) ** 2)
    assert len(stated) >= 10
    # 60 runs less about 10 that the process follows: 2 / 50 is the variance of a relative variance
    assert np.mean(stated) / size**2 == pytest.approx(1.0, abs=4.0 * np.sqrt(2.0 / 50.0 / len(stated)) + 0.05)
    # sines have shorter tails than a normal law: who knows the smooth part and the sd covers all
    assert 0.93 < np.mean(covered)
    assert np.mean(exact) < 0.9


def test_the_runs_without_a_scatter_give_what_exact_runs_do() -> None:
    runs = runs_of(30, 0.0)
    found, exact = uq.GaussianProcess().fit(runs), uq.GaussianProcess(noise="none").fit(runs)
    assert found.attrs == exact.attrs
    assert "scatter" not in str(found)
    for name in ("ell", "variance", "target", "inverse_factor"):
        np.testing.assert_array_equal(getattr(found.process, name), getattr(exact.process, name))


def test_a_scatter_that_is_predicted_is_none() -> None:
    """Runs are more likely with a scatter, and left-out runs are not predicted better: a fast wave."""
    design = uq.sobol(SPACE, 32, rng=1)
    a, b = design["a"].values, design["b"].values
    runs = uq.ensemble.build(design, {"y": smooth(a, b) + 0.1 * np.sin(40.0 * a)})
    exact = uq.GaussianProcess(noise="none", **POINT).fit(runs)
    gains = [one.gain for one in roughness(exact.process, np.arange(1))]
    found = uq.GaussianProcess(**POINT).fit(runs)
    assert max(gains) > ROUGH
    assert "scatter" not in found.attrs
    assert not found.process.nugget.any()


def test_replicates_at_one_input_share_a_scatter() -> None:
    """Brute force: one draw at an input, whatever is measured there; two inputs have draws of their own."""
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), conditions={"b": uq.Condition(0.0, 1.0)})
    surrogate = uq.GaussianProcess(**POINT).fit(runs_of(60, 0.01, space=space))
    rows = pd.DataFrame({"y": [1.0, 1.1, 0.9, 1.2], "b": [0.3, 0.3, 0.3, 0.8], "i": [0, 1, 2, 0]})
    data = uq.Observations.from_table(rows, output="y", value="y", conditions=["b"], replicate="i")
    problem = uq.Calibration(surrogate, data, uq.GaussianNoise(sd=0.1))
    basis = surrogate.bases[0]
    of_scatter = float(basis.basis[0] @ basis.scatter[:, 0]) ** 2
    for a in (0.2, 0.7):
        u = np.array([[a, 0.3], [a, 0.8]])
        place = np.array([0, 0, 0, 1])
        mean, covariance, _ = surrogate.scores(u)
        K = basis.basis[0, 0] ** 2 * covariance[0, 0] + of_scatter * np.eye(2)
        law = multivariate_normal(
            basis.offset[0] + basis.basis[0, 0] * mean[0, place, 0], K[np.ix_(place, place)] + 0.01 * np.eye(4)
        )
        expected = law.logpdf(rows["y"].to_numpy())
        assert float(problem.log_likelihood({"a": np.array([a])})[0]) == pytest.approx(expected, rel=1e-9)


def test_a_scatter_along_a_curve_is_where_it_is(along: uq.surrogates.GaussianProcessSurrogate) -> None:
    """Scores have parts of one scatter: as independent ones they would put it elsewhere along the curve."""
    basis = along.bases[0]
    assert np.count_nonzero(np.sum(basis.scatter**2, axis=1)) > 1
    stated = (basis.basis @ basis.scatter) @ (basis.basis @ basis.scatter).T
    actual = 0.02**2 * np.outer(SHAPES.sum(axis=0), SHAPES.sum(axis=0))
    independent = basis.basis @ np.diag(np.sum(basis.scatter**2, axis=1)) @ basis.basis.T
    off, of_independent = (np.linalg.norm(one - actual) / np.linalg.norm(actual) for one in (stated, independent))
    assert off < 0.35  # of a variance from 80 runs 16 % is a standard error
    assert of_independent > 1.5 * off
    # and in a prediction, between simulated coordinates too
    told = along.predict({"a": 0.4, "b": 0.4})
    of_scores = np.sum(basis.basis**2 * np.swapaxes(along.marginal_scores(told.u).covariance[0], 0, 1), axis=1)
    expected = of_scores + np.diag(stated) + np.sum(basis.truncation**2, axis=1)
    np.testing.assert_allclose(told.variance["y"].values.ravel(), expected, rtol=1e-9)
    middle = {"t": np.array([0.5 * (T[3] + T[4])])}
    offset, rows, left = basis.rows(middle)
    assert left.shape[1] == basis.latent
    np.testing.assert_allclose(left[:, basis.truncation.shape[1] :][:, : basis.scatter.shape[1]], rows @ basis.scatter)


def test_noise_is_that_of_a_deterministic_simulator(scattered: uq.surrogates.GaussianProcessSurrogate) -> None:
    told = scattered.predict({"a": 0.5, "b": 0.5})
    assert scattered.attrs["noise"] == "none"
    assert told.aleatory_variance["y"].item() == 0.0
    xr.testing.assert_identical(told.interval(0.9), told.interval(0.9, noise=True))
    assert "scatter of runs stated as an error of y (" in str(scattered)


def test_truncation_does_not_count_a_scatter(along: uq.surrogates.GaussianProcessSurrogate) -> None:
    validation = uq.leave_one_out(along)
    basis = along.bases[0]
    assert float(np.sum((basis.basis @ basis.scatter) ** 2)) > float(np.sum(basis.truncation**2))
    assert validation.table.loc["y", "truncation"] < 0.1
    data = xr.DataArray(np.exp(-0.8 * T) + np.sin(1.2 + T), dims="t", coords={"t": T}, name="y")
    posterior = uq.Calibration(along, data, uq.GaussianNoise(sd=0.02)).sample(uq.NUTS(draws=200), rng=1)
    assert not [check for check in posterior.verdict.warnings if check.name == "truncation"]


def test_a_file_keeps_it(along: uq.surrogates.GaussianProcessSurrogate, tmp_path: Path) -> None:
    along.save(tmp_path / "s.npz")
    loaded = uq.load_surrogate(tmp_path / "s.npz")
    at = {"a": [0.2, 0.7], "b": [0.1, 0.9]}
    xr.testing.assert_identical(loaded.predict(at).variance, along.predict(at).variance)
    assert str(loaded) == str(along)


def test_a_transform_that_runs_choose_stays() -> None:
    design = uq.sobol(SPACE, 80, rng=1)
    a, b = design["a"].values, design["b"].values
    y = np.exp(3.0 * np.sin(6.0 * a) + 2.0 * b * a + 0.1 * jitter(a, b))
    surrogate = uq.GaussianProcess(outputs="auto", **POINT).fit(uq.ensemble.build(design, {"y": y}))
    exact = uq.GaussianProcess(outputs="auto", noise="none", **POINT).fit(uq.ensemble.build(design, {"y": y}))
    assert "scatter" in surrogate.attrs
    assert surrogate.attrs["transforms"] == exact.attrs["transforms"]
    assert str(surrogate.layouts["y"].transform) == str(exact.layouts["y"].transform)
    basis = surrogate.bases[0]
    assert abs(basis.basis[0] @ basis.scatter[:, 0]) == pytest.approx(0.1, rel=0.3)  # 70 degrees: 8 %


def test_runs_that_miss_a_part_are_exact() -> None:
    whole = curves_of(80, 0.02)
    values, states = whole["y"].values.copy(), ["completed"] * 80
    values[3, 7:], states[3] = np.nan, "partial"
    runs = uq.ensemble.build(whole[["a", "b"]], {"y": ("t", values, T)}, states=states, space=SPACE)
    surrogate = uq.GaussianProcess(**POINT).fit(runs)
    assert surrogate.attrs["runs_in_part"] == "1"
    assert "scatter" not in surrogate.attrs


def test_a_scatter_that_is_next_to_nothing_of_the_error_is_none() -> None:
    """As rounding of a trailing score is, whose runs are more likely with it."""
    design = uq.sobol(SPACE, 60, rng=1)
    a, b = (design[name].values[:, None] for name in "ab")
    y = np.sin(2.0 * a + T) + a * b * T + 1e-4 * jitter(a, b) * SHAPES[1] * np.cos(9.0 * T)
    exact = uq.GaussianProcess(noise="none", **POINT).fit(uq.ensemble.build(design, {"y": ("t", y, T)}))
    (found,) = rough_outputs(exact.process, exact.bases).values()
    assert found.gain > ROUGH
    basis, j = exact.bases[0].basis, found.score
    stated = np.array([np.mean(left_out_scores(exact.process, 0, i)[1]) for i in range(exact.process.q)])
    stated *= np.sum(basis**2, axis=0)
    part = found.sd**2 * np.sum(basis[:, j] ** 2) / stated[j]
    assert part < 0.8
    rest = stated.sum() - stated[j]
    for share, counts in ((0.012, True), (0.008, False)):  # of the scatter: a score that is more counts as none
        smaller = basis.copy()
        smaller[:, j] *= np.sqrt(rest / stated[j] * share / (part - share))
        assert bool(rough_outputs(exact.process, [replace(exact.bases[0], basis=smaller)])) == counts


def test_runs_are_warned_of_once() -> None:
    runs = runs_of(60, 0.01)
    both = uq.ensemble.build(runs[["a", "b"]], {"y": runs["y"].values, "still": np.ones(60)}, space=SPACE)
    with pytest.warns(uq.errors.ConstantOutputWarning) as warned:
        surrogate = uq.GaussianProcess(**POINT).fit(both)
    assert len(warned) == 1
    assert "scatter" in surrogate.attrs
    assert surrogate.bases[1].scatter is None or not surrogate.bases[1].basis.any()


def test_runs_that_repeat_others_count_once(scattered: uq.surrogates.GaussianProcessSurrogate) -> None:
    runs = runs_of(60, 0.01)
    twice = uq.ensemble.combine(runs, runs.isel(run=slice(0, 20)))
    with pytest.warns(uq.errors.DataWarning, match="20 runs repeat"):
        found = uq.GaussianProcess(**POINT).fit(twice)
    assert found.runs == 60
    np.testing.assert_allclose(found.bases[0].scatter, scattered.bases[0].scatter, rtol=1e-6)


def test_more_runs_and_a_correction(scattered: uq.surrogates.GaussianProcessSurrogate) -> None:
    """Runs at posterior draws are judged; a correction, which takes them as exact, is refused."""
    posterior = uq.Calibration(scattered, xr.DataArray(1.0, name="y"), uq.GaussianNoise(sd=0.05)).sample(
        uq.NUTS(draws=200), rng=1
    )
    design = uq.verification_design(posterior, 12, rng=1)
    a, b = design["a"].values, design["b"].values
    runs = uq.ensemble.build(design, {"y": smooth(a, b) + 0.01 * jitter(a, b)})
    assert uq.verify(posterior, runs).verdict["runs"].status == "pass"
    with pytest.raises(uq.errors.InputError, match=r"Fit again with these runs"):
        uq.correct(posterior, runs)


def test_scores_that_are_smooth_are_not_trained_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at a few hyperparameters tells most scores."""
    trained: list[int] = []
    from uqms.surrogates import roughness as file

    given = file.climb
    monkeypatch.setattr(file, "climb", lambda *args: trained.append(1) or given(*args))
    process: ScoreProcess = uq.GaussianProcess(noise="none", **POINT).fit(runs_of(60, 0.0)).process
    trained.clear()
    assert roughness(process, np.arange(1))[0].gain == 0.0
    assert not trained


def several() -> xr.Dataset:
    """Return runs of rough outputs, of volumes of which one is the difference of two, and of a curve with a corner."""
    design, t = uq.sobol(SPACE, 48, rng=1), np.linspace(0.0, 1.0, 40)
    a, b = design["a"].values, design["b"].values
    large, small = 100.0 + 30.0 * np.sin(2.0 * a + b), 40.0 + 10.0 * a * b
    wave = np.sin(9.0 * a + 4.0 * b)
    rough = smooth(a, b) + 0.02 * (0.5 + b) * np.random.default_rng(6).standard_normal(48)
    corner = 0.1 * np.exp(12.0 * (a[:, None] - 1.0)) * np.sin(50.0 * t * (1.0 + b[:, None]))
    outputs = {
        "rough": rough,
        "large": large,
        "small": small,
        "stroke": large - small,
        "curve": ("t", a[:, None] + b[:, None] * t + corner, t),
        "left": wave + np.sin(a),
        "right": wave + np.cos(b),
        "twin": 2.0 * rough + 1e-3 * b,
    }
    return uq.ensemble.build(design, outputs)


def assert_as_of(found: uq.surrogates.GaussianProcessSurrogate, exact: uq.surrogates.GaussianProcessSurrogate) -> None:
    """Assert that outputs of both have the same errors, whatever else the first has."""
    at = {"a": np.linspace(0.1, 0.9, 7), "b": np.linspace(0.2, 0.7, 7)}
    told, alone = found.predict(at), exact.predict(at)
    for name in exact.layouts:
        np.testing.assert_allclose(told.mean[name], alone.mean[name], rtol=1e-10)
        np.testing.assert_allclose(told.variance[name], alone.variance[name], rtol=1e-6)


@pytest.mark.parametrize("settings", [{"hyperparameters": "point"}, {}])
def test_smooth_outputs_beside_a_rough_one_are_as_they_would_be_without_it(settings: dict[str, str]) -> None:
    runs = several()
    found = uq.GaussianProcess(**settings).fit(runs)
    exact = uq.GaussianProcess(noise="none", **settings).fit(runs.drop_vars(["rough", "twin"]))
    assert "scatter of runs stated as an error of rough (" in str(found)
    assert [basis.name for basis in found.bases if basis.scatter is not None] == ["rough", "twin"]
    assert exact.bases[0].scores is not None  # volumes have scores in common
    assert exact.process.local.any()  # and the curve a local scale,
    assert exact.process.held_out.any()  # and trailing scores that are known by held-out runs
    assert_as_of(found, exact)
    assert not found.process.local[:, found.process.nugget.any(axis=0)].any()


def test_a_scatter_is_judged_output_by_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two rough outputs one is predicted better with it, and the other is as without."""
    from uqms.surrogates import gp

    runs = runs_of(60, 0.01)
    a, b = runs["a"].values, runs["b"].values
    other = np.cos(3.0 * b) + a + 0.02 * jitter(b, a)
    both = uq.ensemble.build(runs[["a", "b"]], {"y": runs["y"].values, "other": other})
    assert [one.scatter is not None for one in uq.GaussianProcess(**POINT).fit(both).bases] == [True, True]
    given = gp.left_out_logs
    monkeypatch.setattr(gp, "left_out_logs", lambda *args: given(*args) * (1.0 if args[2] == 0 else 0.0))
    found = uq.GaussianProcess(**POINT).fit(both)
    assert [one.scatter is not None for one in found.bases] == [True, False]
    assert "other" not in found.attrs["scatter"]
    exact = uq.GaussianProcess(noise="none", **POINT).fit(both.drop_vars("y"))
    assert_as_of(found, exact)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_gain_is_that_of_another_search(seed: int) -> None:
    """By L-BFGS-B, with the gradient and without the information."""
    process = uq.GaussianProcess(noise="none", **POINT).fit(runs_of(60, 0.01, seed)).process
    (found,) = roughness(process, np.arange(1))
    x, y = process.x, process.y[:, 0]
    y, trend = (y - y.mean()) / y.std(), np.ones((60, 1))
    exact = train(x, y, process.kernel, trend, False)
    rough = train(x, y, process.kernel, trend, True)
    assert found.gain == pytest.approx(rough.objective - exact.objective, abs=1e-3)
    assert found.gain > ROUGH

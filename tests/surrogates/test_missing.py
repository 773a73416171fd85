"""Runs that lack some outputs: each output is what a surrogate of the runs that have it says, exactly."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import uqms as uq
from uqms.errors import DataError, DataWarning, DesignError
from uqms.surrogates import GaussianProcessSurrogate
from uqms.surrogates.fused_scores import scores_flat
from uqms.surrogates.process import scores_at

SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
TIME = np.linspace(0.0, 1.0, 4)
POINTS = {"a": [0.15, 0.4, 0.9], "b": [0.7, 0.3, 0.95]}
LACKING = {"share": [2, 3, 9], "curve": [0, 9, 17], "flow": [5]}  # runs that lack some coordinates: test_partial
N = 20


def runs(lacking: bool = True) -> xr.Dataset:
    """Return 20 completed runs, or the same ones as partial runs that lack some outputs, and one that failed."""
    design = uq.sobol(SPACE, 32, rng=1).isel(run=slice(N + 1))
    a, b = design["a"].values, design["b"].values
    share = 1.0 / (1.0 + np.exp(-3.0 * np.sin(3.0 * a) + 2.0 * b))
    curve = np.exp(-np.multiply.outer(1.0 + a, TIME)) * (1.0 + np.multiply.outer(b, TIME**2))
    flow = np.cos(2.0 * a + b) + a
    states = np.full(N + 1, "completed", dtype=object)
    if lacking:
        share[LACKING["share"]], flow[LACKING["flow"]] = np.nan, np.nan
        curve[LACKING["curve"]] = np.nan
        states[sorted({i for rows in LACKING.values() for i in rows})] = "partial"
    share[N], curve[N], flow[N] = np.nan, np.nan, np.nan
    states[N] = "failed"
    labelled = xr.DataArray(curve, dims=("run", "t"), coords={"t": TIME})
    outputs = {"share": share, "curve": labelled, "flow": flow}
    return uq.ensemble.build(design, outputs, space=SPACE, states=list(states))


def only(output: str) -> xr.Dataset:
    """Return the completed runs that have an output, with that output alone."""
    kept = [i for i in range(N) if i not in LACKING[output]]
    return runs(lacking=False).isel(run=kept).drop_vars([name for name in LACKING if name != output])


SETTINGS = {"share": uq.Scalar(transform="logit"), "curve": uq.Curve(tolerance=1e-4)}


def fit(ensemble: xr.Dataset, **options: object) -> GaussianProcessSurrogate:
    names = uq.ensemble.output_names(ensemble)
    settings = {name: one for name, one in SETTINGS.items() if name in names}
    return uq.GaussianProcess(outputs=settings, scales="given", **options).fit(ensemble)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def surrogate() -> GaussianProcessSurrogate:
    found = fit(runs(), hyperparameters="point")
    assert found.runs == N
    assert found.attrs["runs_left_out"] == "1"
    return found


@pytest.mark.parametrize("output", list(LACKING))
def test_an_output_is_that_of_a_surrogate_of_the_runs_that_have_it(
    output: str, surrogate: GaussianProcessSurrogate
) -> None:
    alone = fit(only(output), hyperparameters="point")
    a, b = surrogate.predict(POINTS), alone.predict(POINTS)
    np.testing.assert_allclose(a.mean[output], b.mean[output], rtol=1e-9)
    # Variances are differences of which few digits are left near a run: other runs with zeros round them otherwise.
    np.testing.assert_allclose(a.sd[output], b.sd[output], rtol=1e-4)
    if output != "share":
        np.testing.assert_allclose(a.covariance(output), b.covariance(output), rtol=1e-4, atol=1e-13)
    point = {"a": 0.4, "b": 0.3}
    weights = {output: np.ones(surrogate.layouts[output].shape)}
    for name, slope in alone.gradient(point, weights).items():
        assert surrogate.gradient(point, weights)[name] == pytest.approx(slope, rel=1e-7)


def test_averaged_hyperparameters_are_those_of_the_runs_that_have_it() -> None:
    """The first score of both, since scores get the same draws in different orders."""
    together, alone = fit(runs()), fit(only("share"))
    assert together.process.draws == alone.process.draws == 16
    a, b = together.predict(POINTS), alone.predict(POINTS)
    np.testing.assert_allclose(a.mean["share"], b.mean["share"], rtol=1e-9)
    np.testing.assert_allclose(a.quantile(0.975)["share"], b.quantile(0.975)["share"], rtol=1e-9)


def test_compiled_scores_are_the_same(surrogate: GaussianProcessSurrogate) -> None:
    u = np.random.default_rng(1).random((1, 4, 2))
    mean, covariance = scores_flat(surrogate.process.flat(), u[0])
    wanted = scores_at(surrogate.process, u)
    np.testing.assert_allclose(mean, wanted.mean[:, 0], atol=1e-8)
    np.testing.assert_allclose(covariance, wanted.covariance[:, 0], atol=1e-9)


@pytest.mark.parametrize("output", list(LACKING))
def test_function_draws_are_those_of_the_runs_that_have_it(output: str, surrogate: GaussianProcessSurrogate) -> None:
    n = 4000
    prediction = surrogate.predict(POINTS)
    draws = prediction.draws(n, rng=2)[output]
    sd = prediction.sd[output].values
    assert (np.abs(draws.mean("draw") - prediction.mean[output]) <= 4.5 * sd / np.sqrt(n) + 1e-9).all()
    np.testing.assert_allclose(draws.std("draw"), sd, rtol=0.12, atol=1e-9)
    at = {name: runs()[name].values[: N - 1] for name in POINTS}
    spread = surrogate.predict(at).draws(50, rng=3)["flow"].std("draw").values
    assert spread[5] > 30.0 * np.delete(spread, 5).max()  # the run that lacks it is not known there


@pytest.mark.parametrize("output", list(LACKING))
def test_left_out_runs_are_those_that_have_the_output(output: str, surrogate: GaussianProcessSurrogate) -> None:
    found = uq.leave_one_out(surrogate)
    alone = uq.leave_one_out(fit(only(output), hyperparameters="point"))
    for key in ("q2", "rmse", "mae", "crps", "log_score", "beyond_4", "coverage_50%", "coverage_95%"):
        assert found.table.loc[output, key] == pytest.approx(alone.table.loc[output, key], rel=1e-6)
    pivoted = [one.table.loc[output, "largest_pivoted"] for one in (found, alone)]
    assert pivoted[0] == pytest.approx(pivoted[1], rel=1e-4)
    lone = set(found.pivoted["run"][found.pivoted["output"] == output])
    assert not lone & set(LACKING[output])
    assert len(lone) >= N - len(LACKING[output]) - 1  # the trend takes one degree of freedom
    missing = np.isnan(found.mean[output].values.reshape(N, -1)).any(axis=1)
    assert list(np.flatnonzero(missing)) == LACKING[output]
    kept = np.delete(np.arange(N), LACKING[output])
    for part in ("observed", "mean", "sd", "standardised"):
        got = getattr(found, part)[output].values
        # Rounding moves the trained hyperparameters a little.
        np.testing.assert_allclose(got[kept], getattr(alone, part)[output].values, rtol=1e-6, atol=1e-9)
        assert np.isnan(got[LACKING[output]]).all()
    low, high = found.table.loc[output, "range_95%"]
    assert (low, high) == pytest.approx(alone.table.loc[output, "range_95%"], abs=0.06)


def test_the_figure_leaves_them_out(surrogate: GaussianProcessSurrogate) -> None:
    found = uq.leave_one_out(surrogate)
    figure = uq.plots.leave_one_out(found)
    points = figure.axes[0].lines[0].get_xdata()
    assert np.isfinite(points).all()


def test_it_is_saved_in_a_format_that_older_versions_refuse(
    surrogate: GaussianProcessSurrogate, tmp_path: Path
) -> None:
    surrogate.save(tmp_path / "x.npz")
    same = uq.load_surrogate(tmp_path / "x.npz")
    assert surrogate.predict(POINTS).draws(3, rng=1).identical(same.predict(POINTS).draws(3, rng=1))
    assert uq.leave_one_out(same).mean.identical(uq.leave_one_out(surrogate).mean)
    with np.load(tmp_path / "x.npz") as held:
        assert json.loads(held["header"].tobytes())["version"] == 4


def test_an_output_that_few_runs_have_is_refused() -> None:
    few = runs()
    few["flow"][3:] = np.nan
    few["state"][3:N] = uq.ensemble.RunState.PARTIAL
    few = few.isel(run=np.delete(np.arange(N + 1), 9))  # which would have no output at all
    with pytest.raises(DesignError, match="Only 3 of 19 runs have the whole of output 'flow'; at least d . 2 = 4"):
        uq.GaussianProcess().fit(few)


def test_of_runs_at_the_same_inputs_the_fullest_is_kept() -> None:
    twice = runs()
    for name in ("a", "b"):
        twice[name][6] = twice[name].values[5]
    for name in ("share", "curve", "flow"):
        whole = runs(lacking=False)
        twice[name][6] = whole[name][5]
    with pytest.warns(DataWarning, match="1 runs repeat"):
        found = uq.GaussianProcess(hyperparameters="point").fit(twice)
    assert found.runs == N - 1
    assert found.process.known(found.process.q - 1).all()  # the flow, which run 5 lacks and run 6 has
    twice["share"][6] += 0.1
    with pytest.raises(DataError, match="Runs 6 and 5 have the same inputs but different 'share'"):
        uq.GaussianProcess().fit(twice)

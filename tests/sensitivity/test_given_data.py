"""Indices from runs alone, against closed forms, brute force and SALib, with runs that failed."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import ks_2samp

import uqms as uq
from uqms.errors import DataError, InputError
from uqms.sensitivity import given_data_indices

SPACE = uq.ParameterSpace(**{f"x{j}": uq.Uniform(-np.pi, np.pi) for j in range(3)})
TRUE = np.array([0.3139, 0.4424, 0.0])


def ishigami(x):
    return np.sin(x[:, 0]) + 7.0 * np.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * np.sin(x[:, 0])


def runs_of(design, **more):
    return uq.ensemble.build(design, {"y": ishigami(uq.ensemble.input_array(design))}, **more)


def random_runs(n, seed):
    x = np.random.default_rng(seed).uniform(-np.pi, np.pi, (n, 3))
    return uq.ensemble.build({f"x{j}": x[:, j] for j in range(3)}, {"y": ishigami(x)})


@pytest.mark.parametrize(("method", "tolerance"), [("bins", 0.03), ("rank", 0.05)])
def test_many_runs_give_the_true_indices(method, tolerance):
    found = given_data_indices(random_runs(5000, 1), method=method, bootstrap=20)
    np.testing.assert_allclose(found["y"]["S1"].mean("bootstrap"), TRUE, atol=tolerance)
    assert found["y"]["S1"].sizes == {"bootstrap": 20, "parameter": 3}


def test_ranks_are_the_formula_by_hand():
    runs = random_runs(100, 3)
    order = np.argsort(runs["x1"].values)
    y = runs["y"].values[order]
    by_hand = 1.0 - sum((y[i + 1] - y[i]) ** 2 for i in range(99)) / 99 / 2.0 / np.var(y, ddof=1)
    found = given_data_indices(runs, method="rank", bootstrap=20)["y"]["S1"]
    assert float(found.sel(parameter="x1").mean("bootstrap")) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bins", "rank"])
def test_intervals_cover_with_new_runs(method):
    covered, widths = [], []
    for seed in range(40):
        between = given_data_indices(random_runs(200, seed), method=method, bootstrap=60, rng=seed).interval()["y"][
            "S1"
        ]
        covered.append((between.sel(bound="lower") < TRUE).values & (between.sel(bound="upper") > TRUE).values)
        widths.append((between.sel(bound="upper") - between.sel(bound="lower")).values)
    assert np.mean(covered) >= 0.9  # 120 intervals, nearly independent: 0.95 - 2.5 standard errors
    assert np.mean(widths) < {"bins": 0.25, "rank": 0.42}[method]


@pytest.mark.slow
def test_an_input_without_effect_gets_zero_on_average():
    found = [
        given_data_indices(random_runs(60, seed), bootstrap=20)["y"]["S1"].mean("bootstrap")[2] for seed in range(60)
    ]
    # sd of one is about 0.1.
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(60)
    found = given_data_indices(random_runs(200, 5), bootstrap=100)["y"]
    assert 0.0 < float(found["floor"].sel(parameter="x2")) < 0.1


def test_pawn_equals_salibs():
    pawn = pytest.importorskip("SALib.analyze.pawn")
    runs = random_runs(1001, 2)
    x = uq.ensemble.input_array(runs)
    problem = {"num_vars": 3, "names": ["a", "b", "c"], "bounds": [[-np.pi, np.pi]] * 3}
    reference = pawn.analyze(problem, x, runs["y"].values, S=10)["median"]
    found = given_data_indices(runs, method="pawn", bootstrap=20)["y"]["pawn"].mean("bootstrap")
    np.testing.assert_allclose(found, reference, atol=5e-3)  # SALib leaves the run with the largest input out
    slices = np.minimum(np.arange(1001) // 100, 9)
    for j, value in enumerate(found.values):
        y = runs["y"].values[np.argsort(x[:, j])]
        by_hand = np.median([ks_2samp(y[slices == s], y).statistic for s in range(10)])
        assert value == pytest.approx(by_hand, abs=1e-12)


def test_pawn_counts_equal_values_once():
    a = np.arange(200.0)
    runs = uq.ensemble.build({"a": a}, {"y": (a >= 100.0).astype(float)})
    # In each slice the output has one of two values: half of all runs are on the other.
    assert float(given_data_indices(runs, method="pawn")["y"]["pawn"].mean()) == pytest.approx(0.5)


def test_hsic_by_brute_force():
    rng = np.random.default_rng(4)
    x, noise = rng.normal(size=80), rng.normal(size=80)
    y = x**2 + 0.1 * noise
    runs = uq.ensemble.build({"x": x, "other": noise[::-1].copy()}, {"y": y})
    found = given_data_indices(runs, method="hsic", bootstrap=20)["y"]["hsic"].mean("bootstrap")

    def centred(z):
        k = np.exp(-0.5 * (z[:, None] - z) ** 2 / z.var())
        h = np.eye(80) - 1.0 / 80
        return h @ k @ h

    kx, ky = centred(x), centred(y)
    by_hand = np.trace(kx @ ky) / np.sqrt(np.trace(kx @ kx) * np.trace(ky @ ky))
    assert float(found[0]) == pytest.approx(by_hand, rel=1e-10)
    assert by_hand > 5 * float(found[1])


def test_runs_that_failed_are_left_out_and_counted():
    design = uq.latin_hypercube(SPACE, 300, rng=1)
    y = ishigami(uq.ensemble.input_array(design))
    t = np.array([1.0, 2.0])
    curve = np.column_stack([y, 2.0 * y + 1.0])
    failed = np.arange(300) % 10 == 0
    y[failed], curve[failed] = np.nan, np.nan
    curve[5, 1] = np.nan
    states = np.where(failed, "failed", "completed").astype(object)
    states[5] = "partial"
    runs = uq.ensemble.build(design, {"y": y, "c": ("t", curve, t)}, states=states)
    found = given_data_indices(runs, bootstrap=20)
    assert dict(found.runs) == {"y": 270, "c": 269}
    assert dict(found.left_out) == {"y": 30, "c": 31}
    assert "270 runs, 30 left out" in repr(found)
    alone = given_data_indices(uq.ensemble.completed(runs)[["x0", "x1", "x2", "y", "state"]], outputs="y", bootstrap=20)
    kept = given_data_indices(runs.isel(run=np.flatnonzero(states == "completed")), outputs="y", bootstrap=20)
    np.testing.assert_allclose(alone["y"]["S1"], kept["y"]["S1"])
    # Both coordinates are the same function up to a scale, so the whole curve has the same indices.
    one = found["c"]
    np.testing.assert_allclose(one["S1"].isel(t=0).mean("bootstrap"), one["S1"].isel(t=1).mean("bootstrap"), rtol=1e-9)
    np.testing.assert_allclose(one["S1_whole"].mean("bootstrap"), one["S1"].isel(t=0).mean("bootstrap"), rtol=1e-9)


def test_designs_say_what_indices_are_over():
    over_prior = given_data_indices(runs_of(uq.sobol(SPACE, 128, rng=1)), bootstrap=20)
    over_box = given_data_indices(runs_of(uq.sobol(SPACE, 128, rng=1, over=SPACE.box())), bootstrap=20)
    assert (over_prior.over, over_box.over, given_data_indices(random_runs(64, 1)).over) == ("prior", "box", "")
    with pytest.raises(InputError, match="neighbours"):
        given_data_indices(runs_of(uq.sobol(SPACE, 128, rng=1)), method="rank")


def test_inputs_with_few_values():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 2, 2000).astype(float), rng.normal(size=2000)
    runs = uq.ensemble.build({"a": a, "b": b}, {"y": 2.0 * a + b})  # variances 1 and 1
    for method in ("bins", "rank"):
        found = given_data_indices(runs, method=method, bootstrap=20)["y"]["S1"].mean("bootstrap")
        np.testing.assert_allclose(found, 0.5, atol=0.06)


def test_what_cannot_be_said_is_refused():
    with pytest.raises(DataError, match="at least 30"):
        given_data_indices(random_runs(20, 1))
    with pytest.raises(DataError, match="the same in all"):
        given_data_indices(uq.ensemble.build({"a": np.arange(40.0)}, {"y": np.ones(40)}))
    with pytest.raises(InputError, match="elementary_effects"):
        given_data_indices(runs_of(uq.morris_design(SPACE, 20, rng=1)))
    with pytest.raises(InputError, match="method"):
        given_data_indices(random_runs(40, 1), method="delta")
    mixed = random_runs(40, 1).assign_coords(fidelity=("run", np.repeat(["coarse", "fine"], 20).astype(object)))
    with pytest.raises(DataError, match="several levels"):
        given_data_indices(mixed)
    with pytest.raises(InputError, match="outputs"):
        given_data_indices(random_runs(40, 1), outputs="z")


def test_where_a_curve_does_not_vary_there_are_no_indices_and_rows_say_where_they_are():
    space = uq.ParameterSpace(a=uq.Uniform(0, 1), b=uq.Uniform(0, 1))
    design = uq.latin_hypercube(space, 60, rng=1)
    y = 0.1 + np.array([0.0, 1.0, 3.0]) * design.a.values[:, None]
    runs = uq.ensemble.build(design, {"y": xr.DataArray(y, dims=("run", "lead"), coords={"lead": ["I", "II", "III"]})})
    for method, index in (("bins", "S1"), ("hsic", "hsic")):
        found = uq.given_data_indices(runs, method=method, bootstrap=20)
        assert np.isnan(found["y"][index].sel(lead="I")).all()
        assert np.isfinite(found["y"][index].sel(lead=["II", "III"])).all()
    assert "a, lead III" in repr(found)
    assert "does not vary" in repr(found)
    flat = uq.ensemble.build(design, {"y": 0.1 + 1e-17 * design.a.values})
    with pytest.raises(DataError, match="the same in all"):
        uq.given_data_indices(flat)

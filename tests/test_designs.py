"""Designs: where the points lie, that they repeat, and that longer designs keep what was run."""

import json
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from scipy.spatial.distance import pdist
from scipy.stats import qmc

import uqms as uq
from uqms.errors import DesignError, InputError

METHODS = [uq.sobol, uq.halton, uq.latin_hypercube]
SPACE = uq.ParameterSpace(
    k=uq.LogNormal(2.0, 0.5, unit="1/h", description="rate"),
    f=uq.Beta(2, 5),
    hn=uq.HalfNormal(1),
    u=uq.Uniform(-1, 3),
    conditions={"dose": uq.Condition(100, 400, unit="mg")},
)


def matrix(design):
    return np.stack([design[name].values for name in design.data_vars], axis=-1)


def cube(design, space=SPACE):
    """Return the points in the cube of the prior restricted to its box."""
    box = space.box()
    low, high = space.to_cube(box.lower), space.to_cube(box.upper)
    return (space.to_cube(matrix(design)) - low) / (high - low)


@pytest.mark.parametrize("method", METHODS)
def test_a_design_says_what_it_is(method):
    design = method(SPACE, 64, rng=4)
    assert dict(design.sizes) == {"run": 64}
    assert tuple(design.data_vars) == SPACE.inputs
    assert all(design[name].dtype == np.float64 for name in SPACE.inputs)
    assert design["k"].attrs == {"role": "input", "kind": "parameter", "unit": "1/h", "description": "rate"}
    assert design["dose"].attrs == {"role": "input", "kind": "condition", "unit": "mg", "description": ""}
    assert uq.ParameterSpace.from_json(design.attrs["space"]) == SPACE
    assert uq.Box.from_dict(json.loads(design.attrs["box"])) == SPACE.box()
    assert json.loads(design.attrs["design"]) == {"method": method.__name__, "n": 64, "seed": 4, "over": "prior"}


@pytest.mark.parametrize("method", METHODS)
def test_points_are_quantiles_inside_of_the_box(method):
    design = method(SPACE, 256, rng=2)
    assert SPACE.box().contains(matrix(design), tolerance=0.0).all()
    u = cube(design)
    # 256 even points: far closer to uniform than independent draws (whose distance is about 0.05).
    for column in u.T:
        assert stats.kstest(column, "uniform").statistic < 0.02
    factor = 0.5 if method is uq.latin_hypercube else 0.2
    assert qmc.discrepancy(u) < factor * qmc.discrepancy(np.random.default_rng(1).random(u.shape))


def test_sobol_is_scipys_sequence():
    expected = qmc.Sobol(5, scramble=True, rng=np.random.default_rng(4)).random(64)
    np.testing.assert_allclose(cube(uq.sobol(SPACE, 64, rng=4)), expected, atol=1e-9)


def test_halton_is_scipys_sequence():
    expected = qmc.Halton(5, scramble=True, rng=np.random.default_rng(4)).random(50)
    np.testing.assert_allclose(cube(uq.halton(SPACE, 50, rng=4)), expected, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_latin_hypercube_has_one_point_in_every_layer(n):
    layers = np.sort(np.floor(cube(uq.latin_hypercube(SPACE, n, rng=3)) * n), axis=0)
    np.testing.assert_array_equal(layers, np.arange(n)[:, None] * np.ones(5))


def test_latin_hypercube_keeps_points_apart():
    space = uq.ParameterSpace(**{f"x{j}": uq.Uniform(0, 1) for j in range(3)})
    ours = [pdist(matrix(uq.latin_hypercube(space, 30, rng=seed))).min() for seed in range(20)]
    plain = [pdist(qmc.LatinHypercube(3, rng=np.random.default_rng(seed)).random(30)).min() for seed in range(200)]
    assert min(ours) > np.quantile(plain, 0.9)
    assert np.mean(ours) > 1.7 * np.mean(plain)


@pytest.mark.parametrize("method", METHODS)
def test_over_a_box_points_are_even_on_the_surrogates_scale(method):
    box = uq.Box(
        ("u", "k", "f", "hn", "dose"),
        (-1, 0.1, 0.1, 0.2, 150),
        (1, 10, 0.9, 0.4, 160),
        ("identity", "log", "logit", "identity", "identity"),
    )
    design = method(SPACE, 128, rng=2, over=box)
    assert tuple(design.data_vars) == SPACE.inputs
    kept = uq.Box.from_dict(json.loads(design.attrs["box"]))
    assert kept == box.select(SPACE.inputs)
    unit = kept.to_unit(matrix(design))
    for column in unit.T:
        assert stats.kstest(column, "uniform").statistic < 0.03
    assert json.loads(design.attrs["design"])["over"] == "box"
    longer = uq.extend(design, 10)
    assert longer.isel(run=slice(128)).equals(design)
    assert kept.contains(matrix(longer)).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_box_alone_is_a_region_too(method):
    box = uq.Box(("a", "b"), (1.0, -1.0), (100.0, 1.0), ("log", "identity"))
    design = method(box, 32, rng=1)
    assert "space" not in design.attrs
    assert box.contains(matrix(design)).all()
    assert abs(np.log(design["a"]).mean() - np.log(10.0)) < 0.1
    np.testing.assert_array_equal(matrix(uq.extend(design, 32))[:32], matrix(design))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("d", [1, 2, 20])
@pytest.mark.parametrize("n", [1, 3, 33])
def test_every_size_works(method, d, n):
    space = uq.ParameterSpace(**{f"x{j}": uq.Normal(0, 1) for j in range(d)})
    points = matrix(method(space, n, rng=1))
    assert points.shape == (n, d)
    assert np.isfinite(points).all()
    assert len(np.unique(points, axis=0)) == n


@pytest.mark.parametrize("method", METHODS)
def test_seeds(method):
    design = method(SPACE, 20, rng=9)
    xr.testing.assert_identical(design, method(SPACE, 20, rng=9))
    assert not design.equals(method(SPACE, 20, rng=10))
    for other in (method(SPACE, 20, rng=np.random.default_rng(3)), method(SPACE, 20)):
        seed = json.loads(other.attrs["design"])["seed"]
        xr.testing.assert_identical(other, method(SPACE, 20, rng=seed))
    first, second = method(SPACE, 20), method(SPACE, 20)
    assert not first.equals(second)


@pytest.mark.parametrize("method", [uq.sobol, uq.halton])
@pytest.mark.parametrize(("n", "more"), [(64, 64), (1, 1), (50, 27)])
def test_extended_sequences_are_the_longer_sequences(method, n, more):
    xr.testing.assert_identical(uq.extend(method(SPACE, n, rng=5), more), method(SPACE, n + more, rng=5))
    twice = uq.extend(uq.extend(method(SPACE, n, rng=5), 3), more)
    xr.testing.assert_identical(twice, method(SPACE, n + 3 + more, rng=5))


def test_extended_latin_hypercube_fills_the_empty_layers():
    design = uq.latin_hypercube(SPACE, 20, rng=5)
    longer = uq.extend(design, 20)
    np.testing.assert_array_equal(matrix(longer)[:20], matrix(design))
    u = cube(longer)
    for column in u.T:
        layers = np.floor(column * 40)
        assert len(set(layers[20:])) == 20
        assert not set(layers[20:]) & set(layers[:20])
    xr.testing.assert_identical(longer, uq.extend(design, 20))
    assert not longer.equals(uq.extend(design, 20, rng=77))
    xr.testing.assert_identical(uq.extend(design, 20, rng=77), uq.extend(design, 20, rng=77))
    assert json.loads(uq.extend(design, 20, rng=77).attrs["design"])["extended"] == [[20, 77]]
    again = uq.extend(longer, 5)
    assert json.loads(again.attrs["design"])["extended"] == [[20, 5], [40, 5]]
    assert len(np.unique(matrix(again), axis=0)) == 45


def test_extended_latin_hypercube_stays_away_from_old_points():
    space = uq.ParameterSpace(a=uq.Uniform(0, 1), b=uq.Uniform(0, 1))

    def nearest(points):
        return np.min(np.linalg.norm(points[:10, None] - points[None, 10:], axis=-1))

    ours = [nearest(matrix(uq.extend(uq.latin_hypercube(space, 10, rng=s), 10))) for s in range(20)]
    plain = []
    for s in range(20):
        old, new = (
            matrix(uq.latin_hypercube(space, 10, rng=s)),
            qmc.LatinHypercube(2, rng=np.random.default_rng(s)).random(10),
        )
        plain.append(nearest(np.concatenate([old, new])))
    assert np.mean(ours) > 2.0 * np.mean(plain)


def test_an_ensemble_with_dropped_rows_goes_on_where_the_design_ended():
    design = uq.sobol(SPACE, 16, rng=5)
    ensemble = design.assign(y=("run", np.arange(16.0))).isel(run=[0, 3, 7])
    longer = uq.extend(ensemble, 16)
    assert "y" not in longer
    np.testing.assert_array_equal(matrix(longer)[:3], matrix(design)[[0, 3, 7]])
    np.testing.assert_array_equal(matrix(longer)[3:], matrix(uq.sobol(SPACE, 32, rng=5))[16:])
    assert json.loads(longer.attrs["design"])["n"] == 32


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [0, -1, 2.5, "3", True, None])
def test_numbers_of_rows_that_cannot_be_meant(method, n):
    with pytest.raises(InputError, match="n is .*; give a whole number above 0"):
        method(SPACE, n)
    with pytest.raises(InputError, match="give a whole number above 0"):
        uq.extend(method(SPACE, 4, rng=1), n)


def test_other_arguments_that_cannot_be_meant():
    for n in (2**24 + 1, 10**30):
        with pytest.raises(InputError, match="at most 16777216 rows"):
            uq.sobol(SPACE, n)
    with pytest.raises(InputError, match="at most 16777216 rows"):
        uq.extend(uq.sobol(SPACE, 4, rng=1), 2**24)
    for rng in (-1, 1.5, "seed", True):
        with pytest.raises(InputError, match="rng is"):
            uq.sobol(SPACE, 4, rng=rng)
    with pytest.raises(InputError, match="space is dict; give a uq.ParameterSpace"):
        uq.sobol({"k": uq.Normal(0, 1)}, 4)
    with pytest.raises(InputError, match="over is tuple"):
        uq.sobol(SPACE, 4, over=(0, 1))
    with pytest.raises(InputError, match="give one of them"):
        uq.sobol(SPACE.box(), 4, over=SPACE.box())
    with pytest.raises(InputError, match="The box has k, f, the inputs of the space are k, f, hn, u, dose"):
        uq.sobol(SPACE, 4, over=SPACE.box().select(["k", "f"]))
    space = uq.ParameterSpace(u=uq.Uniform(-1, 3), conditions={"dose": uq.Condition(100, 400)})
    with pytest.raises(InputError, match="The box of u goes from -2 to 3, but the space allows -1 to 3"):
        uq.sobol(space, 4, over=uq.Box(("u", "dose"), (-2, 100), (3, 400)))
    with pytest.raises(InputError, match="The box of dose goes from 100 to 500"):
        uq.sobol(space, 4, over=uq.Box(("u", "dose"), (-1, 100), (3, 500)))


def test_designs_that_cannot_be_extended():
    design = uq.sobol(SPACE, 4, rng=1)
    bare = design.copy()
    bare.attrs = {}
    with pytest.raises(DesignError, match="lacks the attributes design or box"):
        uq.extend(bare, 4)
    with pytest.raises(DesignError, match="lacks the attributes design or box"):
        uq.extend({"k": [1.0]}, 4)
    recipe = json.loads(design.attrs["design"])
    edits = {
        "cannot be read": [
            "{",
            "[]",
            json.dumps({"n": 4}),
            json.dumps({**recipe, "n": -4}),
            json.dumps({**recipe, "seed": -1}),
        ],
        "'grid' cannot be extended; sobol, halton, latin_hypercube can": [json.dumps({**recipe, "method": "grid"})],
    }
    for message, texts in edits.items():
        for text in texts:
            with pytest.raises(DesignError, match=message):
                uq.extend(design.assign_attrs(design=text), 4)
    with pytest.raises(DesignError, match="different inputs"):
        uq.extend(design.assign_attrs(box=json.dumps(SPACE.box().select(["k"]).to_dict())), 4)
    with pytest.raises(DesignError, match="has no k, hn along run"):
        uq.extend(design.drop_vars(["k", "hn"]), 4)


# --- a design that leaves out what is not accepted --------------------------------------------------------------------
@pytest.mark.parametrize("make", [uq.sobol, uq.halton, uq.latin_hypercube])
def test_accept_keeps_n_points_of_the_accepted_region(make: Any) -> None:
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 2.0), b=uq.LogUniform(1.0, 100.0))

    def accept(points: Any) -> Any:
        return points["a"] * points["b"] < 20.0

    design = make(space, 40, rng=3, accept=accept)
    assert design.sizes["run"] == 40
    assert accept({name: design[name].values for name in "ab"}).all()
    rejected = json.loads(design.attrs["design"])["rejected"]
    assert 0.4 < 40 / (40 + rejected) < 0.95  # the region holds 0.7 of the prior
    longer = uq.extend(design, 20, accept=accept)
    assert longer.isel(run=slice(0, 40)).equals(design.isel(run=slice(0, 40)))
    assert accept({name: longer[name].values for name in "ab"}).all()
    assert len(np.unique(longer["a"].values)) == 60
    with pytest.raises(DesignError, match="was made with accept"):
        uq.extend(design, 20)
    if make is not uq.latin_hypercube:  # sequences go on where they were
        assert longer.equals(make(space, 60, rng=3, accept=accept))
        whole = make(space, 40 + rejected, rng=3)
        kept = np.flatnonzero(accept({name: whole[name].values for name in "ab"}))
        np.testing.assert_array_equal(whole["a"].values[kept], design["a"].values)


def test_accept_is_checked() -> None:
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0))
    with pytest.raises(DesignError, match="accept takes"):
        uq.sobol(space, 8, rng=1, accept=lambda points: points["a"] > 0.999)
    with pytest.raises(DesignError, match="accept takes 0 of"):
        uq.latin_hypercube(space, 8, rng=1, accept=lambda points: points["a"] > 2.0)
    with pytest.raises(InputError, match="True or False"):
        uq.sobol(space, 8, rng=1, accept=lambda points: points["a"])
    everything = uq.sobol(space, 8, rng=1, accept=lambda points: points["a"] >= 0.0)
    assert everything.equals(uq.sobol(space, 8, rng=1))
    rare = uq.sobol(space, 8, rng=1, accept=lambda points: points["a"] > 0.97)
    assert rare.sizes["run"] == 8


def test_share_of_failures_is_not_of_the_prior_where_points_were_rejected() -> None:
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0))
    design = uq.sobol(space, 16, rng=1, accept=lambda points: points["a"] > 0.5)
    runs = uq.ensemble.build(design, {"y": design["a"].values}, space=space)
    assert not uq.ensemble.failures(runs).of_prior


@pytest.mark.parametrize("accept", [3, lambda points: [[True], [True, False]]])
def test_accept_that_is_no_function_or_returns_rags(accept):
    with pytest.raises(InputError, match="accept"):
        uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 8, rng=1, accept=accept)

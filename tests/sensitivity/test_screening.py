"""Morris screening against closed forms and SALib, with runs that failed."""

import json

import numpy as np
import pytest

import uqms as uq
from uqms.designs import trajectories_of
from uqms.errors import DataError, DesignError, InputError
from uqms.sensitivity import elementary_effects
from uqms.sensitivity._resampling import bayesian_weights, equal_tailed

SPACE = uq.ParameterSpace(**{f"x{j}": uq.Uniform(0.0, 1.0) for j in range(6)})


def g_function(x, a=(0.0, 0.5, 3.0, 9.0, 99.0, 99.0)):
    a = np.array(a)
    return np.prod((np.abs(4.0 * x - 2.0) + a) / (1.0 + a), axis=1)


def runs_of(design, function, **more):
    x = uq.ensemble.input_array(design)
    return uq.ensemble.build(design, {"y": function(x)}, **more)


def test_trajectories_move_each_input_once():
    design = uq.morris_design(SPACE, 7, levels=6, rng=3)
    x = uq.ensemble.input_array(design).reshape(7, 7, 6)
    moved = np.diff(x, axis=1)
    assert ((moved != 0.0).sum(axis=2) == 1).all()
    assert ((moved != 0.0).sum(axis=1) == 1).all()
    np.testing.assert_allclose(np.abs(moved[moved != 0.0]), 6 / (2 * 5), rtol=1e-12)
    assert json.loads(design.attrs["design"]) == {"method": "morris", "n": 49, "seed": 3, "over": "prior", "levels": 6}
    # Each level is as likely as any other: 7 * 6 starts are few, so many trajectories are looked at.
    many = uq.ensemble.input_array(uq.morris_design(SPACE, 3000, rng=1))[:: 6 + 1]
    share = np.stack([(np.abs(many - level) < 1e-9).mean(axis=0) for level in (0, 1 / 3, 2 / 3, 1)])
    assert np.abs(share - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / 3000)


def test_more_trajectories_begin_with_the_same_ones():
    few, many = uq.morris_design(SPACE, 4, rng=5), uq.morris_design(SPACE, 9, rng=5)
    assert many.isel(run=slice(0, few.sizes["run"])).drop_attrs().identical(few.drop_attrs())
    with pytest.raises(DesignError, match="same seed"):
        uq.extend(few, 10)


def test_levels_are_quantiles_of_the_prior_or_even_in_a_box():
    space = uq.ParameterSpace(k=uq.LogNormal(2.0, 0.5), n=uq.Normal(0.0, 1.0))
    design = uq.morris_design(space, 12, rng=1)
    u = space.to_cube(uq.ensemble.input_array(design), space.box())
    assert np.abs(u * 3 - np.round(u * 3)).max() < 1e-9
    box = space.box(0.9)
    u = box.to_unit(uq.ensemble.input_array(uq.morris_design(space, 12, rng=1, over=box)))
    assert np.abs(u * 3 - np.round(u * 3)).max() < 1e-9


def test_indices_equal_those_of_salib_on_the_same_runs():
    morris = pytest.importorskip("SALib.analyze.morris")
    design = uq.morris_design(SPACE, 20, rng=2)
    x = uq.ensemble.input_array(design)
    found = elementary_effects(runs_of(design, g_function))
    problem = {"num_vars": 6, "names": list(SPACE.names), "bounds": [[0.0, 1.0]] * 6}
    reference = morris.analyze(problem, x, g_function(x), num_levels=4, seed=1)
    for ours, theirs in (("mu", "mu"), ("mu_star", "mu_star"), ("sigma", "sigma")):
        np.testing.assert_allclose(found["y"][ours], reference[theirs], rtol=1e-10, atol=1e-12)
    # SALib's half width is 1.96 sd of 1000 resamples of the mean; ours allows for 20 trajectories being few.
    interval = found.interval()["y"]["mu_star"]
    half = 0.5 * (interval.sel(bound="upper") - interval.sel(bound="lower")).values
    ratio = half / np.asarray(reference["mu_star_conf"])
    assert (ratio > 0.85).all()
    assert (ratio < 1.45).all()


def test_a_linear_and_a_quadratic_input():
    space = uq.ParameterSpace(a=uq.Uniform(2.0, 5.0), b=uq.Normal(0.0, 1.0), c=uq.Uniform(0.0, 1.0))
    design = uq.morris_design(space, 400, rng=1)
    found = elementary_effects(runs_of(design, lambda x: 2.0 * x[:, 0] + (2.0 * x[:, 2] - 1.0) ** 2))
    mu, mu_star, sigma = (found["y"][name].values for name in ("mu", "mu_star", "sigma"))
    # Over the whole range of a the output changes by 6. The square has slopes of -4/3 and 4/3 between its four levels.
    np.testing.assert_allclose([mu[0], mu_star[0]], 6.0, rtol=1e-10)
    np.testing.assert_allclose([sigma[0], mu_star[1], sigma[1]], 0.0, atol=1e-9)
    assert mu_star[2] == pytest.approx(4.0 / 3.0)
    assert abs(mu[2]) < 4 * sigma[2] / np.sqrt(400)


def test_order_of_runs_does_not_matter_and_only_broken_steps_are_left_out():
    design = uq.morris_design(SPACE, 8, rng=4)
    whole = runs_of(design, g_function)
    states = np.full(design.sizes["run"], "completed", dtype=object)
    states[[3, 30]] = "failed"  # the middle of the first and of the fifth trajectory
    y = g_function(uq.ensemble.input_array(design))
    y[[3, 30]] = np.nan
    failed = uq.ensemble.build(design, {"y": y}, states=states)
    found = elementary_effects(failed)
    assert (found.steps, found.broken) == (48, 4)
    reference = elementary_effects(whole)
    both = np.isfinite(found["y"]["effect"].values)
    assert (~both).sum() == 4
    np.testing.assert_array_equal(found["y"]["effect"].values[both], reference["y"]["effect"].values[both])
    by_hand = np.nanmean(np.abs(found["y"]["effect"].values), axis=0)
    np.testing.assert_allclose(found["y"]["mu_star"], by_hand, rtol=1e-12)
    np.testing.assert_allclose(found["y"]["sigma"], np.nanstd(found["y"]["effect"].values, axis=0, ddof=1), rtol=1e-10)
    assert "4 of 48 steps" in repr(found)
    # The same when the failed runs were dropped and the others shuffled.
    kept = uq.ensemble.completed(failed)
    kept = kept.isel(run=np.random.default_rng(1).permutation(kept.sizes["run"]))
    again = elementary_effects(kept)
    np.testing.assert_array_equal(again["y"]["effect"].values, found["y"]["effect"].values)


def test_points_that_two_trajectories_share_are_told_apart():
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
    design = uq.morris_design(space, 30, rng=1)  # 90 runs at 16 places
    rows = trajectories_of(design).rows
    np.testing.assert_array_equal(rows, np.arange(90).reshape(30, 3))


def test_an_input_without_effects_is_refused():
    design = uq.morris_design(SPACE, 3, rng=4)
    walks = trajectories_of(design)
    y = g_function(uq.ensemble.input_array(design))
    at = np.argwhere(walks.moved == 2)[:2]
    y[[walks.rows[t, s] for t, s in at]] = np.nan
    states = np.where(np.isnan(y), "failed", "completed")
    with pytest.raises(DataError, match="x2 \\(1\\)"):
        elementary_effects(uq.ensemble.build(design, {"y": y}, states=states))


def test_curves_have_effects_at_each_coordinate():
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
    design = uq.morris_design(space, 10, rng=1)
    t = np.array([0.0, 1.0, 2.0])
    y = design.a.values[:, None] * t + design.b.values[:, None] ** 2
    y[4, 2] = np.nan
    states = np.where(np.isnan(y).any(axis=1), "partial", "completed")
    runs = uq.ensemble.build(design, {"y": ("t", y, t), "z": design.a.values}, states=states)
    found = elementary_effects(runs)
    assert found["y"]["mu"].dims == ("parameter", "t")
    np.testing.assert_allclose(found["y"]["mu"].sel(parameter="a"), t, atol=1e-12)
    assert np.isnan(found["y"]["effect"].sel(t=2.0)).sum() == 2
    assert not np.isnan(found["y"]["effect"].sel(t=1.0)).any()
    table = found.table().set_index(["output", "index", "parameter"])
    assert table.loc[("y", "mu", "a"), "estimate"] == pytest.approx(1.0)
    assert table.loc[("y", "mu", "a"), "effects"] == 9
    assert found.interval()["y"].sizes == {"bound": 3, "parameter": 2, "t": 3}


def test_what_cannot_be_meant_is_refused():
    block = uq.MultivariateNormal(("a", "b"), mean=[0.0, 0.0], covariance=[[1.0, 0.5], [0.5, 1.0]])
    with pytest.raises(InputError, match="correlated"):
        uq.morris_design(uq.ParameterSpace(block), 5)
    with pytest.raises(InputError, match="even number"):
        uq.morris_design(SPACE, 5, levels=5)
    with pytest.raises(InputError, match="at least 2"):
        uq.morris_design(SPACE, 1)
    design = uq.sobol(SPACE, 16, rng=1)
    with pytest.raises(DesignError, match="without trajectories"):
        elementary_effects(runs_of(design, g_function))


@pytest.mark.slow
def test_intervals_over_ten_trajectories_cover():
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(400):
        e = rng.gamma(4.0, 0.25, 10)
        resampled = bayesian_weights(10, 1000, rng) @ e / 10
        low, high = equal_tailed(resampled, 10, 0.95)
        covered.append(low < 1.0 < high)
    # A plain percentile interval covers 89 % here; 99 % of Monte Carlo noise around 0.93 and more.
    assert 0.91 < np.mean(covered) < 0.985

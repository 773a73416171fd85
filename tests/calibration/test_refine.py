"""Proposed points and boxes against formulas and brute force, and rounds of refinement against quadrature."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from calibration.gridded import grid_of, log_prior, moments, posterior_of, sampled, weights_of
from calibration.problems import given_surrogate, linear_surrogate, replicates

import uqms as uq
from uqms.calibration.checks import Check, Status
from uqms.calibration.misfit import _scatters, _size_in_data
from uqms.calibration.refinement import _metric, far_apart, widened
from uqms.errors import ConvergenceWarning, ExtrapolationError, InputError
from uqms.surrogates import GaussianProcessSurrogate
from uqms.surrogates import roughness as roughness_file

NOISE = uq.GaussianNoise(sd=0.05)
FITTED = uq.GaussianProcess(hyperparameters="point", scales="given")
EXACT = uq.GaussianProcess(hyperparameters="point", scales="given", noise="none")


def line(space: uq.ParameterSpace | None = None) -> GaussianProcessSurrogate:
    """Return a surrogate of two parameters on the unit square whose scores are a + b."""
    x = np.random.default_rng(0).random((12, 2))
    return given_surrogate(x, x.sum(axis=1, keepdims=True), ell=2.0, names=("a", "b"), space=space)


def calibration(surrogate: GaussianProcessSurrogate, value: float = 1.0, **settings: str) -> uq.Calibration:
    """Return the calibration to one number."""
    return uq.Calibration(surrogate, xr.DataArray(value, name="y"), NOISE, **settings)  # type: ignore[arg-type]


def normal_posterior(space: uq.ParameterSpace | None = None, low: float = 0.0) -> uq.Posterior:
    """Return normal draws: `a` narrow (sd 0.02 around 0.5), `b` wide."""
    rng = np.random.default_rng(1)
    theta = {"a": 0.5 + 0.02 * rng.standard_normal(4000), "b": low + (1.0 - low) * rng.random(4000)}
    return posterior_of(calibration(line(space)), theta)


# ----------------------------------------------------------------------------------------------------------- the design
def test_a_design_that_run_takes() -> None:
    posterior = normal_posterior()
    design = uq.refine(posterior, 25, rng=3)
    assert dict(design.sizes) == {"run": 25}
    box = uq.ensemble.get_box(design)
    assert box.contains(uq.ensemble.input_array(design)).all()
    recipe = json.loads(design.attrs["design"])
    assert (recipe["method"], recipe["n"], recipe["widen"]) == ("refine", 25, 1.5)
    simulator = uq.FunctionSimulator(lambda a, b: {"y": a + b}, outputs={"y": ()})
    runs = uq.run(simulator, design, workers=0)
    assert json.loads(FITTED.fit(runs).attrs["design"])["method"] == "refine"
    assert uq.refine(posterior, 25, rng=3).identical(design)
    assert not np.array_equal(uq.refine(posterior, 25, rng=4)["a"], design["a"])


def test_the_box_is_small_where_the_posterior_is_narrow_only() -> None:
    posterior = normal_posterior()
    box = uq.ensemble.get_box(uq.refine(posterior, 20, widen=2.0, rng=1))
    low, middle, high = np.quantile(posterior.draws["a"].values, [0.001, 0.5, 0.999])
    assert box.lower[0] == pytest.approx(middle + 2.0 * (low - middle), rel=1e-12)
    assert box.upper[0] == pytest.approx(middle + 2.0 * (high - middle), rel=1e-12)
    assert box.hard[0] == (False, False)
    assert (box.lower[1], box.upper[1], box.hard[1]) == (0.0, 1.0, (True, True))  # the end of the prior


def test_the_box_grows_where_the_posterior_leans_on_an_end_that_is_not_the_priors() -> None:
    space = uq.ParameterSpace(a=uq.Normal(0.5, 0.1), b=uq.Normal(0.5, 0.1))
    box = uq.ensemble.get_box(uq.refine(normal_posterior(space, low=0.3), 20, rng=1))
    # uniform on (0.3, 1): the 99.9 % quantile is 0.9993, and what is cut off may be half as long as the box
    assert box.upper[1] == pytest.approx(0.9993 + 0.5, abs=0.002)
    assert box.lower[1] == 0.0  # wide: the former range stays
    assert box.hard[1] == (False, False)


def test_a_posterior_that_is_all_at_an_end_may_go_on_for_twice_the_box() -> None:
    """Draws at an end are narrow: their range says nothing of how far the posterior goes on."""
    rng = np.random.default_rng(3)
    space = uq.ParameterSpace(a=uq.Normal(0.5, 0.1), b=uq.Normal(0.5, 0.1))
    for share in (1.0, 0.5):
        b = np.where(rng.random(8000) < share, 0.999 - 0.018 * rng.random(8000), 0.9 + 0.05 * rng.random(8000))
        posterior = posterior_of(calibration(line(space)), {"a": 0.5 + 0.02 * rng.standard_normal(8000), "b": b})
        box = uq.ensemble.get_box(uq.refine(posterior, 20, rng=1))
        at_end = float(np.mean(b > 0.98))
        assert box.upper[1] == pytest.approx(np.quantile(b, 0.999) + 2.0 * at_end, rel=1e-12)
        assert box.lower[1] == 0.0  # so wide: the former range stays


def test_what_a_box_has_cut_off_is_in_the_next_one_in_all_parameters() -> None:
    """A correlated normal that ends at 1.2 sd in b: the next box holds 99.7 % of the whole one, in a too."""
    rng, sd = np.random.default_rng(2), 0.06
    z = rng.standard_normal((20_000, 2))
    a, b = 0.5 - 0.04 * (0.9 * z[:, 0] + np.sqrt(0.19) * z[:, 1]), 1.0 + sd * (z[:, 0] - 1.2)
    kept = np.flatnonzero(b < 1.0)[:16_000]
    space = uq.ParameterSpace(a=uq.Normal(0.5, 0.1), b=uq.Normal(0.5, 0.1))
    draws = {"a": a[kept], "b": b[kept]}
    box = uq.ensemble.get_box(uq.refine(posterior_of(calibration(line(space)), draws), 20, rng=1))
    assert (np.array([a.min(), b.min()]) > box.lower).all()
    assert (np.quantile([a, b], 0.997, axis=1) < box.upper).all()
    # Regression of a on b: all of the range of b beyond its end moves the lower end of a by so much.
    low, high = np.quantile(draws["b"], [0.001, 0.999])
    expected = np.quantile(draws["a"], 0.001) - 0.04 / sd * 0.9 * (high - low)
    assert box.lower[0] == pytest.approx(expected, abs=0.004)
    # Where the prior itself ends nothing is cut off.
    ends = uq.ParameterSpace(a=uq.Normal(0.5, 0.1), b=uq.Uniform(0.0, 1.0))
    box = uq.ensemble.get_box(uq.refine(posterior_of(calibration(line(ends)), draws), 20, rng=1))
    assert box.upper[1] == 1.0
    low, middle = np.quantile(draws["a"], [0.001, 0.5])
    assert box.lower[0] == pytest.approx(middle + 1.5 * (low - middle), rel=1e-12)


def test_points_are_in_the_box_of_a_prior_that_ends() -> None:
    space = uq.ParameterSpace(a=uq.Uniform(0.49, 1.0), b=uq.Uniform(0.0, 1.0))
    box = uq.ensemble.get_box(uq.refine(normal_posterior(space), 20, rng=1))
    assert (box.lower[0], box.hard[0]) == (0.49, (True, False))


def test_widened_candidates_have_the_covariance_asked_for() -> None:
    rng = np.random.default_rng(5)
    covariance = np.array([[4.0, 3.0], [3.0, 4.0]]) * 1e-4
    u = 0.5 + rng.standard_normal((20_000, 2)) @ np.linalg.cholesky(covariance).T
    found = np.cov(widened(u[:, None], 2.0, 40_000, rng).T)
    # relative Monte Carlo error of a variance: sqrt(2 / 20 000) = 0.01
    assert np.allclose(found, 4.0 * covariance, rtol=0.05)
    assert np.allclose(np.cov((u @ _metric(u)).T), np.eye(2), atol=1e-5)


def test_points_lie_as_far_apart_as_brute_force_puts_them() -> None:
    rng = np.random.default_rng(6)
    points, known = rng.random((200, 3)), rng.random((70, 3))
    chosen = far_apart(points, known, 12)
    there = list(known)
    for index in chosen:
        nearest = [min(np.sum((point - one) ** 2) for one in there) for point in points]
        assert nearest[index] == pytest.approx(max(nearest))
        there.append(points[index])
    assert len(set(chosen)) == 12
    assert len(set(far_apart(points, np.empty((0, 3)), 12))) == 12


def test_points_keep_away_from_each_other_and_from_runs_more_than_draws_do() -> None:
    posterior = normal_posterior()
    design = uq.refine(posterior, 40, rng=1)
    u = uq.ensemble.get_box(design).to_unit(uq.ensemble.input_array(design))
    by_chance = np.random.default_rng(0).random((40, 2))

    def closest(points: np.ndarray) -> float:
        gap = np.sqrt(np.sum((points[:, None] - points) ** 2, axis=2))
        return float(gap[~np.eye(len(points), dtype=bool)].min())

    assert closest(u) > 4.0 * closest(by_chance)


def test_every_observed_condition_gets_its_share() -> None:
    data = replicates(np.array([[0.1, 0.2], [0.3, 0.1], [0.2, 0.2]]), np.array([0.1, 0.5, 0.9]))
    problem = uq.Calibration(linear_surrogate(1.0, 0.5), data, NOISE)
    posterior = sampled(problem, 400, seed=1)
    design = uq.refine(posterior, 30, rng=1)
    values, counts = np.unique(design["x"].values, return_counts=True)
    assert np.allclose(values, [0.1, 0.5, 0.9])
    assert (counts == 10).all()
    box = uq.ensemble.get_box(design)
    assert (box.lower[box.names.index("x")], box.upper[box.names.index("x")]) == (0.0, 1.0)
    with pytest.raises(InputError, match="n is 2; give a whole number of at least 3, one point for each"):
        uq.refine(posterior, 2)


def test_wrong_arguments_and_chains_that_disagree() -> None:
    posterior = normal_posterior()
    for n in (0, -3, 2.5, True):
        with pytest.raises(InputError, match="refine: n is"):
            uq.refine(posterior, n)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"widen is 0.5; give a number of at least 1"):
        uq.refine(posterior, 10, widen=0.5)
    draws = {name: posterior.draws[name].values.ravel() for name in ("a", "b")}
    bad = posterior_of(posterior.problem, draws, r_hat=1.5)
    with pytest.warns(ConvergenceWarning, match="may miss a part of the posterior"):
        uq.refine(bad, 10, rng=1)


# ------------------------------------------------------------------------------------------------- a refined surrogate
def test_a_small_box_is_an_error_unless_it_was_refined() -> None:
    surrogate = line(uq.ParameterSpace(a=uq.Normal(0.5, 1.0), b=uq.Normal(0.5, 1.0)))
    with pytest.raises(ExtrapolationError, match="outside='refined' where uq.refine made the box"):
        calibration(surrogate)
    with pytest.raises(InputError, match="only then it is known that"):
        calibration(surrogate, outside="refined")
    attrs = {**surrogate.attrs, "design": json.dumps({"method": "refine"})}
    refined = GaussianProcessSurrogate(surrogate.domain, surrogate.process, surrogate.bases, attrs)
    problem = calibration(refined, outside="refined")
    assert problem.limits("a") == (0.0, 1.0)
    # at most 2 % of uniform draws lie within 2 % of an end: allowed is 1 %
    rng = np.random.default_rng(2)
    theta = {"a": 0.5 + 0.01 * rng.standard_normal(4000), "b": rng.random(4000)}
    assert posterior_of(problem, theta).verdict["edge of the design box"].status == "fail"
    theta["b"] = 0.1 + 0.8 * theta["b"]
    verdict = posterior_of(problem, theta).verdict
    assert verdict["edge of the design box"].status == "pass"
    assert problem.mass_cut > 0.5
    assert verdict["prior mass cut"].status == "pass"  # an earlier posterior told that nothing is lost there


def bend(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """Two outputs whose posterior is narrow and bent."""
    return {"y": np.exp(1.5 * a) * np.sin(4.0 * b) + b, "z": np.cos(3.0 * a) * np.exp(b)}


def test_two_rounds_find_a_posterior_that_one_design_of_as_many_runs_does_not() -> None:
    space = uq.ParameterSpace(a=uq.Uniform(-1.0, 1.0), b=uq.Normal(0.5, 0.3))
    exact = bend(np.array(0.35), np.array(0.62))
    noise = uq.GaussianNoise(sd=0.01)
    data = uq.Observations.concat(
        [uq.Observations.from_xarray(xr.DataArray(float(value), name=name)) for name, value in exact.items()]
    )

    def simulated(design: xr.Dataset) -> xr.Dataset:
        return uq.ensemble.build(design, bend(design["a"].values, design["b"].values))

    def solved(runs: xr.Dataset, outside: str) -> uq.Posterior:
        surrogate = FITTED.fit(uq.ensemble.inside(runs))
        return sampled(uq.Calibration(surrogate, data, {"y": noise, "z": noise}, outside=outside), 4000, 1)  # type: ignore[arg-type]

    runs = simulated(uq.sobol(space, 20, rng=1))
    first = posterior = solved(runs, "error")
    assert uq.another_round(first)
    assert first.verdict["surrogate error"].status == "warn"
    rounds: list[uq.Posterior] = [first]
    for seed in (1, 2, 3):
        runs = uq.ensemble.combine(runs, simulated(uq.refine(posterior, 12, rng=seed)))
        posterior = solved(runs, "refined")
        rounds.append(posterior)
        if not uq.another_round(posterior, rounds[-2]):
            break
    assert len(rounds) <= 4
    assert not uq.another_round(posterior, rounds[-2])
    # the exact posterior by quadrature in the last box, which holds all of it
    grid = grid_of(posterior.problem, 300)
    values = bend(grid["a"], grid["b"])
    log_density = log_prior(posterior.problem, grid)
    for name, value in exact.items():
        log_density = log_density - 0.5 * ((values[name] - value) / 0.01) ** 2
    truth = moments(grid, weights_of(log_density))
    once = solved(simulated(uq.sobol(space, runs.sizes["run"], rng=1)), "error")
    for name, (mean, sd) in truth.items():
        draws = posterior.draws[name].values
        assert abs(draws.mean() - mean) < 0.1 * sd + 4.0 * sd / np.sqrt(4000)
        assert draws.std() / sd == pytest.approx(1.0, abs=0.15)
    assert float(once.surrogate_share.to_array().max()) > 0.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::uqms.errors.ConvergenceWarning")  # short chains: the same numbers, not good ones
def test_the_same_runs_and_seeds_give_the_same_proposals(tmp_path: Path) -> None:
    """Two rounds from the same runs, the second time from files: surrogates, draws, boxes and points are the same."""
    space = uq.ParameterSpace(a=uq.Uniform(-1.0, 1.0), b=uq.Normal(0.5, 0.3))
    data = {name: xr.DataArray(float(value), name=name) for name, value in bend(np.array(0.3), np.array(0.6)).items()}
    observations = uq.Observations.concat([uq.Observations.from_xarray(one) for one in data.values()])
    noise = {name: uq.GaussianNoise(sd=0.05) for name in data}

    def simulated(design: xr.Dataset) -> xr.Dataset:
        return uq.ensemble.build(design, bend(design["a"].values, design["b"].values))

    def rounds(runs: xr.Dataset) -> tuple[list[xr.Dataset], list[int]]:
        designs, kept = [], []
        for outside in ("error", "refined"):
            inside = uq.ensemble.inside(runs)
            problem = uq.Calibration(FITTED.fit(inside), observations, noise, outside=outside)  # type: ignore[arg-type]
            designs.append(uq.refine(problem.sample(uq.NUTS(draws=200, ess=100), rng=1), 12, rng=2))
            runs = uq.ensemble.combine(runs, simulated(designs[-1]))
            kept.append(uq.ensemble.inside(runs).sizes["run"])
        return designs, kept

    runs = simulated(uq.sobol(space, 20, rng=1))
    first, kept = rounds(runs)
    np.random.seed(7)  # noqa: NPY002  # a state that all share must not matter
    again, kept_again = rounds(uq.ensemble.from_netcdf(uq.ensemble.to_netcdf(runs, tmp_path / "runs.nc")))
    assert kept == kept_again
    assert all(one.identical(other) for one, other in zip(first, again, strict=True))


def test_whether_another_round_is_needed() -> None:
    posterior = normal_posterior()
    found = uq.another_round(posterior)
    assert found.share == pytest.approx(float(posterior.surrogate_share.to_array().max()))
    assert np.isnan(found.moved)
    draws = {name: posterior.draws[name].values.ravel() for name in ("a", "b")}
    moved = posterior_of(posterior.problem, {**draws, "a": draws["a"] + 0.02})
    found = uq.another_round(posterior, moved)
    assert found.moved == pytest.approx(0.02 / draws["a"].std(), rel=1e-9)
    assert found
    assert "a moved by 1.0" in str(found)
    assert not uq.another_round(posterior, posterior, share=1.0)
    # a limit is one that is not reached: "accepted below 25%"
    reached = found.share
    assert 0.0 < reached < 1.0
    assert uq.another_round(posterior, share=reached)
    assert not uq.another_round(posterior, share=float(np.nextafter(reached, 1.0)))
    with pytest.raises(InputError, match="share is 0; give a number above zero"):
        uq.another_round(posterior, share=0)


def with_check(posterior: uq.Posterior, name: str, status: Status, message: str = "", remedy: str = "") -> uq.Posterior:
    """Return the posterior with all checks passed but one."""
    passed = [Check(one.name, "pass", 0.0, "") for one in posterior.verdict.checks]
    return posterior.with_checks([*passed, Check(name, status, 0.0, message, remedy)])


@pytest.mark.parametrize("status", ["warn", "fail"])
def test_it_never_says_that_all_is_done_while_a_check_fails(status: Status) -> None:
    posterior = normal_posterior()
    assert str(uq.another_round(with_check(posterior, "R-hat", "pass"), share=1.0)).startswith(
        "No further round is needed"
    )
    for check in posterior.verdict.checks:
        found = uq.another_round(with_check(posterior, check.name, status, "what it found", "what to do"), share=1.0)
        assert "No further round" not in str(found)
        assert "what it found" in str(found)
        assert "what to do" in str(found)
        assert check.name in str(found)
        mended = ("surrogate validation", "size of the surrogate's error", "edge of the design box")
        assert bool(found) == (check.name in mended)
        assert [one.name for one in found.remaining] == ([] if found else [check.name])
    assert not uq.another_round(with_check(posterior, "R-hat", "note"), share=1.0).remaining


def test_errors_on_the_simulator_ask_for_runs_where_they_move_the_posterior() -> None:
    posterior = with_check(normal_posterior(), "errors of y", "warn", "smaller than stated")
    found = uq.another_round(posterior, share=1.0)
    assert not found
    assert str(found).startswith("More runs do not help: these checks fail for other reasons: errors of y (WARN)")
    moved = posterior.with_checks([Check("effect on the posterior", "warn", 0.3, "the mean of a moves", "Refine.")])
    assert uq.another_round(moved, share=1.0)
    assert uq.another_round(with_check(normal_posterior(), "errors of y", "fail", "larger"), share=1.0)


def test_a_rough_simulator_is_named() -> None:
    space = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0))
    design = uq.sobol(space, 40, rng=1)
    theta = design["theta"].values
    smooth = np.sin(3.0 * theta) + theta

    def calibrated(scatter: float, settings: uq.GaussianProcess) -> uq.Posterior:
        runs = uq.ensemble.build(design, {"y": smooth + scatter * np.random.default_rng(1).standard_normal(40)})
        problem = uq.Calibration(settings.fit(runs), xr.DataArray(1.0, name="y"), uq.GaussianNoise(sd=0.005))
        return sampled(problem, 400, 1, size=400)

    found = uq.another_round(calibrated(0.03, EXACT), share=1e-9)
    assert "the simulator is rough" in str(found)
    assert "uq.GaussianProcess(noise='auto')" in str(found)
    percent = float(str(found).split("a scatter of ")[1].split("%")[0]) / 100.0
    assert percent == pytest.approx(0.03 / smooth.std(), rel=0.4)  # 40 runs: 13 % is a standard error
    assert "rough" not in str(uq.another_round(calibrated(0.0, EXACT), share=1e-9))
    # the remedy clears it: of a scatter that is stated only the solver is named, which can make it smaller
    stated = calibrated(0.03, FITTED)
    assert stated.verdict["surrogate validation"].status == "pass"
    found = uq.another_round(stated, share=1e-9)
    assert "noise=" not in str(found)
    assert "Make the solver more accurate" in str(found)


@pytest.mark.parametrize(("noise", "repeats"), [(0.005, 1), (0.05, 1), (0.05, 16), (0.5, 1)])
def test_a_scatter_warns_where_it_matters_beside_the_noise(noise: float, repeats: int) -> None:
    """Values of a curve are scattered alike: together as 0.03 sqrt(4) beside the noise's sd of their means."""
    space = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0))
    design = uq.sobol(space, 40, rng=1)
    theta, t = design["theta"].values[:, None], np.arange(4.0)
    clean = np.sin(3.0 * theta) + theta + 0.3 * t + 1e-3 * t * theta**2
    found = {}
    for scatter in (0.03, 0.0):
        curve = clean + scatter * np.random.default_rng(1).standard_normal((40, 1))
        runs = uq.ensemble.build(design, {"y": ("t", curve, t)})
        values = 1.0 + 0.3 * t + noise * np.random.default_rng(2).standard_normal((repeats, 4))
        data = xr.DataArray(values, dims=("replicate", "t"), coords={"t": t}, name="y")
        problem = uq.Calibration(EXACT.fit(runs), data, uq.GaussianNoise(sd=noise))
        found[scatter] = sampled(problem, 400, 1, size=400).verdict["surrogate validation"]
    loud = 0.03 * np.sqrt(4.0 * repeats) / noise
    assert ("the simulator is rough" in found[0.03].message) == (loud > 0.5)
    if loud > 0.5:
        assert found[0.03].status == "warn"
        assert "more accurate" in str(found[0.03].remedy)
        told = float(found[0.03].message.split("in the data it is ")[1].split(" times")[0])
        assert told == pytest.approx(loud, rel=0.4)  # 40 runs: 13 % is a standard error
    assert "rough" not in found[0.0].message


def test_a_scatter_at_several_conditions_is_as_large_as_at_one() -> None:
    space = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
    design = uq.sobol(space, 60, rng=1)
    theta, x = design["theta"].values, design["x"].values
    y = np.sin(3.0 * theta) + theta + x + 0.03 * np.random.default_rng(1).standard_normal(60)
    surrogate = EXACT.fit(uq.ensemble.build(design, {"y": y}))
    told = []
    for at in ([0.5], [0.1, 0.3, 0.5, 0.7, 0.9]):
        table = pd.DataFrame({"y": 1.0 + 0.01 * np.arange(len(at)), "x": at})
        data = uq.Observations.from_table(table, output="y", value="y", conditions=["x"])
        problem = uq.Calibration(surrogate, data, uq.GaussianNoise(sd=0.02))
        message = sampled(problem, 400, 1, size=400).verdict["surrogate validation"].message
        told.append(float(message.split("in the data it is ")[1].split(" times")[0]))
    assert told[0] == pytest.approx(0.03 / 0.02, rel=0.4)
    assert told[1] == pytest.approx(told[0], rel=0.02)


def test_scatters_of_several_scores_add_up() -> None:
    space = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0))
    design = uq.sobol(space, 30, rng=1)
    theta, t = design["theta"].values[:, None], np.linspace(0.0, 3.0, 12)
    surrogate = FITTED.fit(uq.ensemble.build(design, {"y": ("t", np.exp(-3.0 * theta * t) + np.sin(3.0 * theta), t)}))
    data = xr.DataArray(np.exp(-1.5 * t) + 1.0, dims="t", coords={"t": t}, name="y")
    problem = uq.Calibration(surrogate, data, uq.GaussianNoise(sd=0.2))
    found = [roughness_file.Roughness(5.0, 0.1, score, sd) for score, sd in ((0, 0.1), (2, 40.0))]
    size = np.sqrt(np.sum(surrogate.bases[0].basis ** 2, axis=0))
    expected = np.hypot(0.1 * size[0], 40.0 * size[2]) / 0.2
    assert _size_in_data(problem, {"theta": np.array([0.3, 0.6])}, found) == pytest.approx(expected, rel=1e-10)
    assert _size_in_data(problem, {"theta": np.array([0.3])}, []) == 0.0


def test_the_scores_that_are_most_of_an_output_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the variances of their processes: of trailing scores these are large."""
    space = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0))
    design = uq.sobol(space, 30, rng=1)
    theta, t = design["theta"].values[:, None], np.linspace(0.0, 3.0, 12)
    runs = uq.ensemble.build(design, {"y": ("t", np.exp(-3.0 * theta * t) + np.sin(3.0 * theta), t)})
    surrogate = FITTED.fit(runs)
    assert surrogate.process.q > 4
    looked: list[int] = []
    monkeypatch.setattr(roughness_file, "_of_score", lambda _, j: looked.append(j))
    data = xr.DataArray(np.exp(-1.5 * t) + 1.0, dims="t", coords={"t": t}, name="y")
    model = uq.Calibration(surrogate, data, uq.GaussianNoise(sd=0.2)).data_model
    assert _scatters(model) == []
    size = np.sum(surrogate.bases[0].basis ** 2, axis=0)
    assert looked == np.argsort(-size)[:3].tolist()
    looked.clear()
    reordered = replace(surrogate, process=surrogate.process.scaled(1.0 / surrogate.process.variance))
    assert _scatters(replace(model, surrogate=reordered)) == []
    assert looked == np.argsort(-size)[:3].tolist()

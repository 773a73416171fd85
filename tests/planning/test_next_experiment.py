"""The choice of measurements: what is accepted, what is refused, and what is chosen."""

from dataclasses import replace
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from _linear_surrogate import LinearSurrogate
from _what_next_measurement import observed, problem, state_of

import uqms as uq
from uqms.errors import ExtrapolationError, InputError
from uqms.planning.measurements import forecaster

TIMES = np.arange(13.0)
SPACE = uq.ParameterSpace(a=uq.Normal(1.0, 0.5), b=uq.Normal(0.0, 0.5))


def line(a: Any, b: Any) -> Any:
    return np.asarray(a)[:, None] + np.asarray(b)[:, None] * TIMES / 10.0


@cache
def exact(**settings: Any) -> Any:
    """Return the posterior of a line through two measurements, of the simulator itself."""
    simulator = uq.DirectSimulator(line, space=SPACE, outputs={"y": ("time",)}, coords={"time": TIMES}, vectorized=True)
    data = xr.DataArray([1.1, 1.4], dims="time", coords={"time": [1.0, 4.0]}, name="y")
    return uq.Calibration(simulator, data, uq.GaussianNoise(0.2), **settings).sample(uq.Laplace(draws=1000), rng=1)


@cache
def fitted(transform: bool = False, noise: Any = None, unknown: bool = False) -> Any:
    """Return the posterior of an exponential curve through a surrogate of few runs."""
    space = uq.ParameterSpace(k=uq.Uniform(0.1, 0.6), scale=uq.Uniform(1.0, 3.0))
    design = uq.sobol(space, 12, rng=1)
    values = design["scale"].values[:, None] * np.exp(-design["k"].values[:, None] * TIMES)
    runs = uq.ensemble.build(design, {"y": xr.DataArray(values, dims=("run", "time"), coords={"time": TIMES})})
    settings = {"outputs": {"y": uq.Curve(transform=uq.Log())}} if transform else {}
    data = xr.DataArray([1.6, 0.9, 0.7, 0.4, 0.3], dims="time", coords={"time": [1.0, 3.0, 4.0, 5.0, 7.0]}, name="y")
    data = data if unknown else data[:2]
    own = noise or uq.GaussianNoise(uq.HalfNormal(0.2) if unknown else 0.1)
    return uq.Calibration(uq.GaussianProcess(**settings).fit(runs), data, own).sample(uq.Laplace(draws=600), rng=1)


def test_two_points_of_a_line_are_its_ends() -> None:
    best = uq.next_experiment(exact(), uq.candidates(times=TIMES), size=2, rng=1)
    chosen = sorted(best.best["time"])
    assert chosen[1] == 12.0
    linear = forecaster_gains(exact(), 2)
    assert linear[tuple(int(time) for time in chosen)] > max(linear.values()) - 0.03
    assert list(best.table.loc[best.table["chosen"] > 0, "time"]) == chosen
    assert best.gain == best.best["gain"].iloc[-1]
    assert (best.quantities["expected_sd"] < best.quantities["sd"]).all()
    assert best.gain_exact == best.gain  # the simulator itself has no error
    assert "nats" in repr(best)


def forecaster_gains(posterior: Any, size: int) -> dict[tuple[int, ...], float]:
    """Return the linear gain of every set of times."""
    state = state_of(forecaster(posterior, 1000), uq.candidates(times=TIMES), np.random.default_rng(0))
    return {rows: state.linear(np.array(rows)).nats for rows in combinations(range(len(TIMES)), size)}


@pytest.mark.slow
def test_exchange_mends_what_greedy_choice_misses() -> None:
    # b alone is best learned at the end; with three measurements, two at one end and one at the other are better than
    # any set that keeps the best single and the best pair.
    found = uq.next_experiment(exact(), uq.candidates(times=TIMES), size=3, about="b", rng=1)
    times = sorted(found.best["time"])
    assert times[0] <= 1.0
    assert times[-1] == 12.0


def test_costs_and_budget_decide() -> None:
    ideas = uq.candidates(times=TIMES, cost=lambda table: 1.0 + 20.0 * (table["time"] > 6.0))
    best = uq.next_experiment(exact(), ideas, size=3, budget=3.0, rng=1)
    assert (best.best["time"] <= 6.0).all()
    assert best.best["total_cost"].iloc[-1] == 3.0
    dear = uq.next_experiment(exact(), ideas, size=3, budget=1.5, rng=1)
    assert len(dear.best) == 1
    with pytest.raises(InputError, match="no candidate fits the budget"):
        uq.next_experiment(exact(), ideas, budget=0.5)


def test_a_prediction_is_what_is_asked_about() -> None:
    about = uq.PredictedOutput("y", coords={"time": 0.0})
    best = uq.next_experiment(exact(), uq.candidates(times=TIMES), size=1, about=about, rng=1)
    assert best.best["time"].iloc[0] == 0.0
    assert best.quantities.index[0] == "y(time=0)"
    draws = exact().draws["a"].values
    assert best.quantities["sd"].iloc[0] == pytest.approx(draws.std(), rel=0.02)


def test_a_prediction_shares_the_error_of_the_surrogate() -> None:
    # Only the error under the condition is unknown: measuring there tells of it, measuring elsewhere does not.
    posterior = problem(0.001, 1.0, 0.1, [0.5], [0.0]).sample(uq.Laplace(draws=2000), rng=1)
    about = uq.PredictedOutput("y", conditions={"x": 0.0})
    best = uq.next_experiment(posterior, uq.candidates(conditions={"x": [0.0, 1.0]}), 1, about=about, draws=2000, rng=1)
    wanted = 0.5 * np.log1p(1.0 / 0.01)
    assert best.best["x"].iloc[0] == 0.0
    assert best.gain == pytest.approx(wanted, abs=0.1)
    assert best.table["gain"].iloc[1] == pytest.approx(0.0, abs=0.02)


def test_functions_of_the_draws_and_derived_quantities() -> None:
    ideas = uq.candidates(times=TIMES)
    best = uq.next_experiment(exact(), ideas, 1, about={"late": lambda p: p["a"] + 1.2 * p["b"]}, rng=1)
    assert best.best["time"].iloc[0] == 12.0
    with pytest.raises(InputError, match="returned the shape"):
        uq.next_experiment(exact(), ideas, 1, about={"late": lambda p: 1.0})


def test_a_decision_is_worth_its_closed_form() -> None:
    # Two actions whose losses differ by d ~ N(m, s²): perfect information is worth s phi(m/s) - |m| Phi(-|m|/s).
    from scipy.stats import norm

    losses = {"act": lambda p: 1.0 - p["a"], "wait": lambda p: np.zeros_like(p["a"])}
    ideas = uq.candidates(times=[0.0], noise=0.05)
    best = uq.next_experiment(exact(), ideas, 1, losses=losses, draws=1000, rng=1)
    d = 1.0 - exact().draws["a"].values.ravel()
    m, s = d.mean(), d.std()
    s = s * np.sqrt(s**2 / (s**2 + 0.05**2))  # of the preposterior mean
    wanted = s * norm.pdf(m / s) - abs(m) * norm.cdf(-abs(m) / s)
    assert best.best["value"].iloc[0] == pytest.approx(wanted, abs=0.01)


@pytest.mark.slow
def test_unknown_noise_and_hyperparameters_are_averaged() -> None:
    best = uq.next_experiment(fitted(unknown=True), uq.candidates(times=TIMES), size=2, rng=1)
    known = uq.next_experiment(fitted(unknown=True), uq.candidates(times=TIMES, noise=0.02), size=2, rng=1)
    assert 0.0 < best.gain < known.gain
    assert best.gain_exact >= best.gain - 0.05


@pytest.mark.slow
@pytest.mark.parametrize("noise", [uq.LogNormalNoise(0.1), uq.CombinedNoise(0.02, 0.1)])
def test_noise_on_the_logarithm_and_noise_that_grows(noise: Any) -> None:
    posterior = fitted(True, noise)
    best = uq.next_experiment(posterior, uq.candidates(times=TIMES), size=2, rng=1)
    assert 0.0 < best.gain < 4.0
    late = best.table.set_index("time")["gain"]
    assert late[0.0] > 0.01


def test_noise_of_candidates_that_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match="give its trials"):
        uq.candidates(times=[1.0], noise=uq.BinomialNoise())
    with pytest.raises(InputError, match="noise=None for the noise that the calibration inferred"):
        uq.candidates(times=[1.0], noise=uq.GaussianNoise(uq.HalfNormal(1.0)))
    with pytest.raises(InputError, match="without a number"):
        uq.candidates(times=[1.0], noise=uq.GaussianNoise())


@pytest.mark.slow
def test_a_discrepancy_is_part_of_what_would_be_measured() -> None:
    offset = exact(discrepancy=uq.OffsetDiscrepancy(sd=1.0))
    with_it = uq.next_experiment(offset, uq.candidates(times=TIMES), size=1, about="a", rng=1)
    without = uq.next_experiment(exact(), uq.candidates(times=TIMES), size=1, about="a", rng=1)
    assert with_it.gain < 0.5 * without.gain


def test_before_any_data_the_prior_stands() -> None:
    simulator = exact().problem.surrogate
    best = uq.next_experiment(uq.prior_of(simulator), uq.candidates(outputs="y", times=TIMES, noise=0.2), 2, rng=1)
    J = np.array([[1.0, time / 10.0] for time in best.best["time"]])
    wanted = 0.5 * np.linalg.slogdet(np.eye(2) + J @ J.T * 0.25 / 0.04)[1]
    assert best.gain == pytest.approx(wanted, abs=4.0 * best.best["mcse"].iloc[-1])
    assert sorted(best.best["time"])[-1] == 12.0


def test_parts_of_a_calibration_are_compared() -> None:
    late = xr.DataArray([1.3], dims="time", coords={"time": [2.0]}, name="y")
    made = exact().problem
    two = uq.DirectSimulator(
        lambda a: np.asarray(a)[:, None] ** 2 + 0.0 * TIMES[:1],
        space=uq.ParameterSpace(a=SPACE.priors["a"]),
        outputs={"z": ("site",)},
        coords={"site": TIMES[:1]},
        vectorized=True,
    )
    data = xr.DataArray([1.2], dims="site", coords={"site": [0.0]}, name="z")
    joint = uq.Calibration(
        {"line": (made.surrogate, late), "square": (two, data)},
        noise={"line": uq.GaussianNoise(0.2), "square": uq.GaussianNoise(0.3)},
    ).sample(uq.Laplace(draws=600), rng=1)
    ideas = uq.candidates(outputs="y", times=TIMES, part="line") + uq.candidates(
        outputs="z", coords={"site": [0.0]}, part="square", noise=0.01
    )
    with pytest.raises(InputError, match="two kinds of noise|noise"):
        uq.candidates(outputs="y", times=TIMES) + uq.candidates(outputs="y", times=TIMES, noise=0.1)
    best = uq.next_experiment(joint, ideas, size=2, rng=1)
    assert set(best.best["part"]) == {"line", "square"}
    with pytest.raises(InputError, match="of which part"):
        uq.next_experiment(joint, uq.candidates(outputs="y", times=TIMES))


@pytest.mark.slow
def test_a_chain_of_scales_is_measured_at_its_end() -> None:
    first = uq.ParameterSpace(g=uq.Normal(1.0, 0.3))
    design = uq.sobol(first, 8, rng=1)
    cell = uq.GaussianProcess().fit(uq.ensemble.build(design, {"peak": np.sin(design["g"].values)}))
    second = uq.ParameterSpace(p=uq.Uniform(-0.5, 1.5))
    points = uq.sobol(second, 10, rng=2)
    tissue = uq.GaussianProcess().fit(uq.ensemble.build(points, {"speed": points["p"].values ** 2}))
    chain = uq.Chain(cell=cell, tissue=tissue, links={"tissue.p": "cell.peak"})
    data = xr.DataArray(0.7, name="tissue.speed")
    posterior = uq.Calibration(chain, data, uq.GaussianNoise(0.1), outside="extrapolate").sample(
        uq.Laplace(draws=400), rng=1
    )
    ideas = uq.candidates(outputs="cell.peak", noise=0.05) + uq.candidates(outputs="tissue.speed", noise=0.05)
    best = uq.next_experiment(posterior, ideas, size=1, rng=1)
    assert 0.0 < best.gain <= best.gain_exact + 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"times": [30.0]}, "time"),
        ({"times": [1.0], "outputs": "z"}, "unknown outputs"),
        ({"times": [1.0], "conditions": {"dose": [1.0]}}, "neither coordinates"),
        ({}, "Give its coordinate"),
    ],
)
def test_places_that_do_not_exist_are_refused(settings: Any, message: str) -> None:
    with pytest.raises((InputError, ExtrapolationError), match=message):
        uq.next_experiment(exact(), uq.candidates(**settings))


def test_unknown_quantities_and_things_are_refused() -> None:
    ideas = uq.candidates(times=TIMES)
    with pytest.raises(InputError, match="about has"):
        uq.next_experiment(exact(), ideas, about=["c"])
    with pytest.raises(InputError, match="give uq.candidates"):
        uq.next_experiment(exact(), TIMES)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give its posterior"):
        uq.next_experiment(exact().problem, ideas)


def test_a_table_of_ones_own() -> None:
    table = pd.DataFrame({"time": [1.0, 5.0], "replicates": [1, 4], "cost": [1.0, 3.0]})
    ideas = uq.candidates(table, outputs="y", noise=0.2)
    assert list(ideas.table.columns) == ["output", "time", "replicates", "cost"]
    dataset = xr.Dataset(coords={"time": [1.0, 5.0]}).assign(cost=("time", [1.0, 2.0]))
    assert list(uq.candidates(dataset, outputs="y").table["cost"]) == [1.0, 2.0]
    with pytest.raises(InputError, match="leave out times"):
        uq.candidates(table, times=[1.0])
    with pytest.raises(InputError, match="whole numbers"):
        uq.candidates(times=[1.0], replicates=0)
    with pytest.raises(InputError, match="costs must be positive"):
        uq.candidates(times=[1.0], cost=-1.0)


@pytest.mark.slow
def test_many_candidates_are_screened_first() -> None:
    few = uq.next_experiment(fitted(), uq.candidates(times=TIMES), size=2, rng=1)
    many = uq.next_experiment(fitted(), uq.candidates(times=np.linspace(0.0, 12.0, 300)), size=2, rng=1)
    assert set(many.table["method"]) == {"linear"}
    assert many.gain > few.gain - 0.1


def shared_parts(rng: np.random.Generator) -> tuple[Any, dict[str, Any]]:
    """Return the posterior of two instruments on one simulator, a third on another, and what closed forms need."""
    space = uq.ParameterSpace(theta=uq.Normal(0.0, 2.0), conditions={"x": uq.Condition(0.0, 1.0)})
    one, other = (LinearSurrogate(space, lambda x: np.ones((*x.shape, 1)), 1.0, 0.5) for _ in range(2))
    other = replace(other, sd=0.7)
    at, noise = np.array([0.0, 0.3, 0.9, 0.2]), np.array([0.5, 0.5, 0.2, 0.4])
    names = ["a", "a", "c", "b"]
    y = rng.normal(0.5, 0.5, 4)
    made = uq.Calibration(
        {
            "a": (one, observed(at[:2], y[:2])),
            "b": (other, observed(at[3:], y[3:])),
            "c": (one, observed(at[2:3], y[2:3])),
        },
        noise={"a": uq.GaussianNoise(0.5), "b": uq.GaussianNoise(0.4), "c": uq.GaussianNoise(0.2)},
        space=space,
        outside="extrapolate",
    )
    return made.sample(uq.Laplace(draws=1000), rng=1), {"at": at, "noise": noise, "names": names}


@pytest.mark.parametrize("order", [["a", "b", "c"], ["c", "a"], ["a"]])
def test_parts_with_one_surrogate_share_its_error(order: list[str]) -> None:
    """The linear form is the closed form of the joint error, given the data of all parts."""
    posterior, truth = shared_parts(np.random.default_rng(3))
    new, sd = {"a": 0.4, "b": 0.6, "c": 0.4}, {"a": 0.5, "b": 0.4, "c": 0.2}
    ideas = None
    for name in order:
        one = uq.candidates(outputs="y", conditions={"x": [new[name]]}, part=name)
        ideas = one if ideas is None else ideas + one
    source = forecaster(posterior, 1000)
    state = state_of(source, ideas, np.random.default_rng(0))
    at = np.append(truth["at"], [new[name] for name in order])
    surrogate = np.array(["b" == name for name in [*truth["names"], *order]])
    noise = np.append(truth["noise"], [sd[name] for name in order])
    error = np.where(surrogate, 0.49, 1.0) * np.exp(-np.abs(np.subtract.outer(at, at)) / 0.5)
    C = error * (surrogate[:, None] == surrogate) + np.diag(noise**2)
    d, z = slice(0, 4), slice(4, None)
    K = np.linalg.solve(C[d, d], C[d, z]).T
    left, J = C[z, z] - K @ C[d, z], np.ones(len(order)) - K @ np.ones(4)
    theta = source.quantities["theta"]
    wanted = 0.5 * np.linalg.slogdet(np.eye(len(order)) + np.linalg.solve(left, np.outer(J, J) * theta.var(ddof=1)))[1]
    assert state.linear(np.arange(len(order))).nats == pytest.approx(wanted, rel=1e-8)
    np.testing.assert_allclose(state.covariance[0], left, atol=1e-10)
    best = uq.next_experiment(posterior, ideas, len(order), rng=1)
    assert set(best.best["part"]) == set(order)


def test_the_prior_of_parts_with_one_surrogate() -> None:
    posterior, _ = shared_parts(np.random.default_rng(3))
    ideas = uq.candidates(outputs="y", conditions={"x": [0.4]}, part="c") + uq.candidates(
        outputs="y", conditions={"x": [0.4]}, part="a"
    )
    source = uq.prior_of(posterior.problem, rng=1).forecaster(500)
    joint = source.joint(source.points(ideas), 1, np.random.default_rng(0))
    np.testing.assert_allclose(joint.covariance[0, 0], [[1.04, 1.0], [1.0, 1.25]], rtol=1e-9)


@pytest.mark.slow
def test_many_candidates_of_parts_are_screened() -> None:
    posterior, _ = shared_parts(np.random.default_rng(3))
    x = np.linspace(0.0, 1.0, 40)
    ideas = sum((uq.candidates(outputs="y", conditions={"x": x}, part=name) for name in "ba"),
                uq.candidates(outputs="y", conditions={"x": x}, part="c"))  # fmt: skip
    best = uq.next_experiment(posterior, ideas, size=2, rng=1)
    assert len(best.table) == 120
    each = [uq.candidates(outputs="y", conditions={"x": x}, part=name) for name in "abc"]
    alone = [uq.next_experiment(posterior, one, 1, rng=1).gain for one in each]  # not screened
    assert best.best["gain"].iloc[0] > max(alone) - 0.01

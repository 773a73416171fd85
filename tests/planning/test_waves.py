import copy
import warnings

import numpy as np
import pytest
import xarray as xr
from planning.known import drawn, known_process, space_of
from scipy.stats import binom, chi2

import uqms as uq
from uqms.errors import DesignError, InputError
from uqms.planning import waves as module

SLOPES = np.array([[1.0, 2.0, -1.0], [0.5, -1.0, 2.0], [1.0, 1.0, 1.0], [2.0, 0.0, 0.3]])
CENTRE, SD = np.array([0.5, 0.45, 0.55]), 0.02


def linear(design: xr.Dataset) -> xr.Dataset:
    """Return runs of four outputs that are linear in three parameters."""
    theta = np.column_stack([design[name].values for name in "abc"])
    return uq.ensemble.build(design, {f"y{j}": theta @ slope for j, slope in enumerate(SLOPES)})


def bent(design: xr.Dataset) -> xr.Dataset:
    """Return runs of two outputs of two parameters, of which one is curved."""
    a, b = design["a"].values, design["b"].values
    return uq.ensemble.build(design, {"y0": np.sin(5.0 * a) * np.exp(b), "y1": a + 0.5 * b**2 - 0.3 * a * b})


@pytest.fixture(scope="module")
def of_linear() -> module.HistoryMatching:
    runs = linear(uq.sobol(space_of(3), 32, rng=1))
    targets = {f"y{j}": (float(slope @ CENTRE), SD) for j, slope in enumerate(SLOPES)}
    settings = uq.GaussianProcess(hyperparameters="point")
    return uq.HistoryMatching(settings.fit(runs), targets, runs=runs, settings=settings)


@pytest.fixture(scope="module")
def of_bent() -> tuple[module.HistoryMatching, module.HistoryMatching]:
    """Waves after the first and after the second round of runs."""
    runs = bent(uq.sobol(space_of(2), 10, rng=1))
    first = uq.HistoryMatching(
        uq.GaussianProcess().fit(runs), {"y0": (0.75, 0.02), "y1": (0.62, 0.01)}, runs=runs, rng=3
    )
    return first, first.told(bent(first.propose(15, rng=2)))


def test_of_a_linear_simulator_the_ellipsoid_remains(of_linear):
    level = of_linear.level / 2.0  # the first wave's
    cutoff = chi2.isf(level, 4)
    information = SLOPES.T @ SLOPES / SD**2
    rng = np.random.default_rng(1)
    v = rng.standard_normal((400, 3)) @ np.linalg.inv(np.linalg.cholesky(information)) * 3.0
    squared = np.einsum("ni,ij,nj->n", v, information, v)
    found = of_linear.implausibility(dict(zip("abc", (CENTRE + v).T, strict=True)))
    np.testing.assert_allclose(found**2, squared / cutoff, rtol=0.02)
    assert 50 < np.sum(found > 1.0) < 350
    volume = 4.0 / 3.0 * np.pi * cutoff**1.5 / np.sqrt(np.linalg.det(information))
    assert volume < 3e-4
    assert of_linear.volume == pytest.approx(volume, abs=4 * of_linear.ruled_out_error)
    assert of_linear.ruled_out_error < 0.15 * volume
    half = np.sqrt(cutoff * np.diag(np.linalg.inv(information)))  # of the box around the ellipsoid
    box = uq.ensemble.get_box(of_linear.propose(30, rng=1)).select(("a", "b", "c"))
    np.testing.assert_allclose(box.lower, CENTRE - 1.2 * half, atol=0.25 * half.max())
    np.testing.assert_allclose(box.upper, CENTRE + 1.2 * half, atol=0.25 * half.max())
    reason = of_linear.worthwhile()
    assert not reason
    assert reason.could < 0.01
    assert "could rule out 0%" in str(reason)


def test_proposals_fill_what_remains(of_bent):
    for waves in of_bent:
        design = waves.propose(40, rng=1)
        assert design.sizes["run"] == 40
        assert not waves.rules_out(design).any()
        assert waves.box.contains(np.column_stack([design[name] for name in "ab"])).all()
        cloud = waves.remaining.points
        chosen = np.asarray(waves.box.to_unit(np.column_stack([design[name] for name in "ab"])))
        metric = np.linalg.inv(np.linalg.cholesky(np.cov(cloud.T))).T

        def gap(points, cloud=cloud, metric=metric):
            off = (cloud @ metric)[:, None] - (points @ metric)[None]
            return np.sqrt(np.sum(off**2, axis=2).min(axis=1)).max()

        by_chance = [gap(cloud[np.random.default_rng(s).choice(len(cloud), 40, replace=False)]) for s in range(10)]
        assert gap(chosen) < np.median(by_chance)  # the largest hole is smaller
        again = waves.propose(40, rng=1)
        assert np.array_equal(again["a"].values, design["a"].values)


def test_all_waves_count(of_bent):
    first, second = of_bent
    points = {name: np.random.default_rng(1).random(2000) for name in "ab"}
    out = first.rules_out(points)
    assert second.rules_out(points)[out].all()
    assert second.volume < 0.9 * first.volume
    np.testing.assert_allclose(
        second.implausibility(points) >= first.implausibility(points) - 1e-12, np.ones(2000, dtype=bool)
    )
    assert list(second.table["remains"]) == [first.volume, second.volume]
    # Planted: the last wave in place of all.
    replaced = copy.copy(second)
    replaced.waves = second.waves[-1:]
    assert not replaced.rules_out(points)[out].all()


def test_levels_add_up():
    x, y = drawn(np.random.default_rng(1), 8, 0, 2, 0.5, 1)
    waves = uq.HistoryMatching(known_process(x, y, [0.5]), {"y0": (0.0, 1.0)}, level=0.1)
    assert waves.waves[0].level == 0.05
    assert sum(0.1 / (w * (w + 1)) for w in range(1, 10_000)) == pytest.approx(0.1, rel=1e-3)


def test_the_truth_is_ruled_out_as_often_as_the_level_says():
    """Of functions of a known process the chance is exact, wave by wave; two waves together have at most the level."""
    rng, level, problems, out = np.random.default_rng(7), 0.3, 200, np.zeros(2)
    targets = {"y0": (0.0, 0.3), "y1": (0.0, 0.3)}
    for _ in range(problems // 5):  # five measurements, at five places, of each function
        x, y = drawn(rng, 14, 5, 2, 0.4, 2)
        first, later = (uq.HistoryMatching(known_process(x[:n], y[:n], [0.4]), targets, level=level) for n in (6, 14))
        later.waves = (*first.waves, module.Wave(later.waves[0].implausibility, level / 6.0, (1.0, 0.0)))
        for truth, values in zip(x[14:], y[14:] + 0.3 * rng.standard_normal((5, 2)), strict=True):
            for wave in later.waves:
                object.__setattr__(wave.implausibility, "z", values)  # nothing else depends on the data here
            theta = {"a": truth[:1], "b": truth[1:]}
            out += [first.rules_out(theta)[0], later.rules_out(theta)[0]]
    low, high = binom.ppf([0.001, 0.999], problems, level / 2.0)
    assert low <= out[0] <= high
    assert out[1] <= binom.ppf(0.999, problems, level)


@pytest.mark.filterwarnings("ignore::uqms.errors.PriorConflictWarning")  # the data lie in the prior's tail
def test_nothing_remains(of_linear):
    targets = {f"y{j}": (float(slope @ CENTRE), SD) for j, slope in enumerate(SLOPES)} | {"y1": (4.0, SD)}
    waves = uq.HistoryMatching(of_linear.problem.surrogate, targets)
    stop = waves.worthwhile()
    assert not stop
    assert stop.nothing
    assert "cannot reproduce the data" in str(stop)
    assert "'y1'" in str(stop)
    assert waves.volume == 0.0
    with pytest.raises(DesignError, match="least implausible point is a = "):
        waves.propose(20, rng=1)
    with pytest.raises(InputError, match="nothing remains"):
        waves.calibration()
    assert "nothing remains" in repr(waves)


def test_a_discrepancy_and_several_conditions():
    space = uq.ParameterSpace(k=uq.Uniform(0.2, 2.0), conditions={"dose": uq.Condition(1.0, 4.0)})
    design = uq.sobol(space, 24, rng=1)
    runs = uq.ensemble.build(design, {"y": design["dose"].values * np.exp(-design["k"].values)})
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(runs)
    data = xr.DataArray([0.8, 1.7], dims="dose", coords={"dose": [2.0, 4.0]}, name="y")
    table = uq.Observations.from_xarray(data, conditions=("dose",))
    narrow = uq.HistoryMatching(surrogate, table, uq.GaussianNoise(sd=0.02), runs=runs)
    wide = uq.HistoryMatching(surrogate, table, uq.GaussianNoise(sd=0.02), discrepancy={"y": 0.2}, runs=runs)
    assert wide.volume > narrow.volume
    found = narrow.propose(8, rng=1)
    assert sorted(found["dose"].values.tolist()) == [2.0] * 4 + [4.0] * 4
    with pytest.raises(InputError, match="one point for each"):
        narrow.propose(1)


def test_words_for_what_is_wrong(of_linear):
    surrogate = of_linear.problem.surrogate
    with pytest.raises(InputError, match="level is 0"):
        uq.HistoryMatching(surrogate, {"y0": (1.0, 0.1)}, level=0)
    with pytest.raises(InputError, match="have no standard deviation"):
        uq.HistoryMatching(surrogate, {"y0": 1.0})
    with pytest.raises(InputError, match="value and its sd"):
        uq.HistoryMatching(surrogate, {"y0": (1.0, 0.1), "y1": 2.0})
    with pytest.raises(InputError, match="fit one to runs"):
        uq.HistoryMatching(xr.Dataset(), {"y0": (1.0, 0.1)})
    with pytest.raises(InputError, match="state of which output"):
        uq.HistoryMatching(surrogate, {"y0": (1.0, 0.1)}, discrepancy=0.1)
    with pytest.raises(InputError, match="were? proposed|was proposed"):
        of_linear.told(linear(uq.sobol(space_of(3), 8, rng=1)))
    with pytest.raises(InputError, match="least is 2"):
        of_linear.worthwhile(2)
    with pytest.raises(InputError, match="c is missing"):
        of_linear.rules_out({"a": 0.5, "b": 0.5})


def test_the_loop_stops_and_hands_over_with_the_original_prior(of_bent):
    first, waves = of_bent
    rounds = 0
    while waves.worthwhile():
        waves = waves.told(bent(waves.propose(15, rng=rounds)))
        rounds += 1
    assert rounds <= 3
    assert "could rule out" in str(waves.worthwhile())
    problem = waves.calibration()
    assert problem.outside == "refined"
    assert problem.space.priors["a"] == uq.Uniform(0.0, 1.0)
    assert problem.settings["noise"] == uq.GaussianNoise()
    other = waves.calibration(noise=uq.GaussianNoise(), derived={"twice": lambda a: 2.0 * a["a"]})
    assert set(other.derived) == {"twice"}
    assert first.calibration().outside == "error"


@pytest.mark.slow
def test_the_posterior_is_the_same_with_and_without_waves():
    """Against the simulator itself; planted: a uniform prior on what remains."""
    space = uq.ParameterSpace(a=uq.Normal(0.3, 0.12), b=uq.Normal(0.6, 0.2))

    def simulate(design):
        a, b = design["a"].values, design["b"].values
        return uq.ensemble.build(design, {"y0": np.sin(3.0 * a) * np.exp(b)})

    targets = {"y0": (1.6, 0.15)}
    runs = simulate(uq.sobol(space, 12, rng=1))
    waves = uq.HistoryMatching(uq.GaussianProcess().fit(runs), targets, runs=runs)
    for seed in range(3):
        waves = waves.told(simulate(waves.propose(12, rng=seed)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with_waves = waves.calibration().sample(uq.NUTS(draws=2000), rng=1)
        uniform = waves.calibration(
            space=uq.ParameterSpace(
                **{n: uq.Uniform(lo, hi) for n, lo, hi in zip("ab", waves.problem.simulated.domain.lower,
                                                              waves.problem.simulated.domain.upper, strict=True)}
            )
        ).sample(uq.NUTS(draws=2000), rng=1)  # fmt: skip
    grid = np.stack(np.meshgrid(np.linspace(-0.3, 0.9, 601), np.linspace(-0.4, 1.6, 601), indexing="ij"), axis=-1)
    a, b = grid[..., 0], grid[..., 1]
    log = -0.5 * (((a - 0.3) / 0.12) ** 2 + ((b - 0.6) / 0.2) ** 2 + ((1.6 - np.sin(3.0 * a) * np.exp(b)) / 0.15) ** 2)
    weight = np.exp(log - log.max())
    off = {}
    for name, posterior in {"waves": with_waves, "uniform": uniform}.items():
        draws = posterior.flat()
        off[name] = []
        for column, axis in (("a", a), ("b", b)):
            mean = np.sum(weight * axis) / weight.sum()
            sd = np.sqrt(np.sum(weight * (axis - mean) ** 2) / weight.sum())
            off[name].append((abs(draws[column].mean() - mean) / sd, draws[column].std() / sd))
    for shift, ratio in off["waves"]:
        assert shift < 0.08  # of an sd, a Monte Carlo error of 0.03 with about 1000 effective draws
        assert abs(ratio - 1.0) < 0.08
    assert max(shift for shift, _ in off["uniform"]) > 0.15 or max(abs(r - 1.0) for _, r in off["uniform"]) > 0.15


@pytest.mark.slow
def test_figures(of_bent):
    first, second = of_bent
    reference = {"a": 0.4, "b": 0.6}
    for waves in (first, second):
        figure = uq.plots.history_matching(waves, reference=reference, labels={"a": "$a$"})
        assert len(figure.axes) == 6  # four panels, two bars of colours
        figure.canvas.draw()
    least = figure.axes[1].collections[0].get_array()
    assert least.min() < 1.0 < least.max()
    depth = figure.axes[2].collections[0].get_array()
    assert 0.0 == depth.min() < depth.max() <= 1.0
    # Of two parameters none is left to vary: what is ruled out is the same above and below the diagonal, up to cells.
    ruled_out = np.asarray(least.filled(np.inf) > 1.0)
    assert np.mean(ruled_out == (depth.T == 0.0)) > 0.99
    with pytest.raises(InputError, match="at least two"):
        uq.plots.history_matching(first, names=["a"])
    with pytest.raises(InputError, match="what uq.HistoryMatching"):
        uq.plots.history_matching(first.runs)

"""Rare events against closed forms: probabilities of 0.1, 1e-3 and 1e-5, and when the surrogate is not good enough."""

import numpy as np
import pytest
import xarray as xr
from calibration.problems import linear_surrogate
from scipy.special import ndtri
from scipy.stats import chi2, norm

import uqms as uq
from uqms.errors import InputError, SamplingError
from uqms.parameters import Box

SLOPE = 2.0
NORMAL = uq.ParameterSpace(a=uq.Normal(0.0, 1.0), b=uq.Normal(0.0, 1.0))


def direct(function: object, space: uq.ParameterSpace = NORMAL) -> object:
    """Return an exact simulator with one output "y"."""
    return uq.DirectSimulator(function, space=space, outputs={"y": ()}, vectorized=True)


@pytest.mark.parametrize("probability", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("shape", ["plane", "two sides", "ring", "correlated"])
def test_probabilities_are_those_of_closed_forms(probability: float, shape: str) -> None:
    space = NORMAL
    if shape == "plane":
        function, level = (lambda a, b: a + 2.0 * b), np.sqrt(5.0) * norm.isf(probability)
    elif shape == "two sides":
        function, level = (lambda a, b: np.abs(a) + 0.0 * b), norm.isf(0.5 * probability)
    elif shape == "ring":
        function, level = (lambda a, b: a**2 + b**2), chi2.isf(probability, 2)
    else:  # the sum of the logarithms of two correlated log-normal inputs
        block = uq.MultivariateNormal(("a", "b"), mean=[0.0, 0.0], covariance=[[0.25, 0.15], [0.15, 0.25]], scale="log")
        space = uq.ParameterSpace(block)
        function, level = (lambda a, b: a * b), np.exp(0.5 * np.sqrt(2 * 1.6) * norm.isf(probability))
    found = uq.rare_event(direct(function, space), float(level), samples=1000, rng=1)
    # In the logarithm the Monte Carlo error is that of `variation`, and of subset simulation that of its own.
    assert found.variation < 0.15
    assert abs(np.log(found.probability / probability)) < 4 * found.variation + 0.01
    assert abs(np.log(found.subset[0] / probability)) < 4 * found.subset[1] + 0.01
    assert found.lower < probability * 1.05
    assert found.upper > probability * 0.95
    assert found.spread == 0.0
    assert found.reliable
    assert len(found.levels) == round(-np.log10(probability)) - 1 or len(found.levels) == round(-np.log10(probability))


@pytest.mark.slow
def test_stated_variation_is_the_scatter_over_seeds() -> None:
    simulator, exact = direct(lambda a, b: a + b), norm.sf(4.0)
    found = [uq.rare_event(simulator, 4.0 * np.sqrt(2.0), samples=500, rng=seed) for seed in range(20)]
    ratios = np.array([one.probability for one in found]) / exact
    said = np.mean([one.variation for one in found])
    assert ratios.mean() == pytest.approx(1.0, abs=4 * ratios.std() / np.sqrt(20) + 0.01)
    assert ratios.std(ddof=1) == pytest.approx(said, rel=0.5)
    subset = np.array([one.subset[0] for one in found]) / exact
    assert subset.std(ddof=1) == pytest.approx(np.mean([one.subset[1] for one in found]), rel=0.5)
    covered = [one.lower <= exact <= one.upper for one in found]
    assert np.mean(covered) >= 0.85


@pytest.mark.parametrize(("error", "reliable"), [(0.05, True), (0.6, False)])
def test_the_surrogates_part_is_that_of_the_closed_form(error: float, reliable: bool) -> None:
    """y = 2 theta + error shared by all theta: log P_f = log Phi((e - c) / 2)."""
    level = SLOPE * norm.isf(1e-4)
    found = uq.rare_event(
        linear_surrogate(SLOPE, error), level, conditions={"x": 0.5}, samples=1000, functions=256, rng=2
    )
    shifts = error * ndtri((np.arange(4000) + 0.5) / 4000)
    each = norm.sf((level - shifts) / SLOPE)
    expected = np.sqrt(np.log1p((each.std() / each.mean()) ** 2))
    assert found.spread == pytest.approx(expected, rel=0.35)
    assert found.probability == pytest.approx(each.mean(), rel=4 * expected / np.sqrt(256) + 4 * found.variation)
    assert found.subset[0] == pytest.approx(each.mean(), rel=4 * found.subset[1])
    assert found.reliable is reliable
    assert ("not good enough" in found.message) is not reliable
    assert found.share > 0.9  # here the draws are many, and the surrogate is all that matters
    np.testing.assert_allclose(np.log([found.lower, found.upper]), np.log(np.quantile(each, [0.025, 0.975])), atol=0.5)


def test_errors_drawn_anew_at_each_input_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: independent errors cancel in the probability, and the surrogate seems to be good enough."""
    from uqms.propagation import rare

    def independent(surrogate: object, n: int, u: np.ndarray, rng: np.random.Generator) -> object:
        scores = surrogate.marginal_scores(u)
        return lambda u: scores.mean[0] + np.sqrt(scores.covariance[0].T) * rng.standard_normal((n, len(u), 1))

    monkeypatch.setattr(rare, "joint_draws", independent)
    found = uq.rare_event(linear_surrogate(SLOPE, 0.6), SLOPE * norm.isf(1e-4), conditions={"x": 0.5}, rng=2)
    assert found.spread < 0.2
    assert found.reliable


def test_next_points_make_an_unsure_surrogate_sure() -> None:
    """Runs over the central 99.9 % say little of the tail; two rounds of proposals make it reliable."""
    space = uq.ParameterSpace(a=uq.Normal(0.0, 1.0), b=uq.Normal(0.0, 1.0))
    function = lambda a, b: a + b + 0.15 * a**2 + 0.3 * np.sin(2.0 * b)  # noqa: E731
    grid = np.random.default_rng(0).standard_normal((2_000_000, 2))
    truth = float(np.mean(function(*grid.T) > 6.0))
    runs = uq.sobol(space, 12, rng=1)
    runs = uq.ensemble.build(runs, {"y": function(runs["a"].values, runs["b"].values)}, space=space)
    settings = uq.GaussianProcess(hyperparameters="point")
    first = uq.rare_event(settings.fit(runs), 6.0, samples=1000, rng=1)
    assert not first.reliable
    found = first
    for _ in range(3):
        design = found.next_points(8)
        assert set(design.data_vars) == {"a", "b"}
        more = uq.ensemble.build(design, {"y": function(design["a"].values, design["b"].values)}, space=space)
        box = Box.from_dict(uq.ensemble.table.get_box(design).to_dict())
        assert bool(box.contains(np.column_stack([design["a"], design["b"]])).all())
        runs = uq.ensemble.combine(runs, more)
        found = uq.rare_event(settings.fit(runs), 6.0, samples=1000, rng=1)
    assert found.spread < 0.5 * first.spread
    assert abs(np.log(found.probability / truth)) < 4 * np.hypot(found.spread, found.variation) + 0.05


def test_curves_units_sides_and_seeds() -> None:
    space = uq.ParameterSpace(rate=uq.LogNormal(median=1.0, sigma=0.3))
    hours = np.linspace(0.0, 2.0, 5)
    simulator = uq.DirectSimulator(
        lambda rate: np.exp(-rate * hours), space=space, outputs={"amount": ("hour",)}, coords={"hour": hours}
    )
    of = lambda table: table["amount"].isel(hour=-1)  # noqa: E731
    level = float(np.exp(-2.0 * np.exp(0.3 * 3.0)))  # less than this at the end: rates above 3 sd
    found = uq.rare_event(simulator, level, of=of, below=True, samples=300, rng=1)
    assert abs(np.log(found.probability / norm.sf(3.0))) < 4 * found.variation
    again = uq.rare_event(simulator, level, of=of, below=True, samples=300, rng=1)
    assert again.probability == found.probability
    xr.testing.assert_identical(again.points, found.points)


def test_bad_inputs_raise_typed_errors() -> None:
    simulator = direct(lambda a, b: a + b)
    with pytest.raises(SamplingError, match="is not reached"):
        uq.rare_event(direct(lambda a, b: np.tanh(a + b)), 2.0, samples=100)
    for settings in (
        {"of": "z"},
        {"of": lambda table: 1.0},
        {"of": lambda table: table["y"] * np.nan},
        {"inputs": uq.ParameterSpace(z=uq.Normal(0.0, 1.0))},
        {"conditions": {"x": 1.0}},
        {"samples": 10},
        {"functions": 1},
        {"tolerance": 0.0},
    ):
        with pytest.raises(InputError):
            uq.rare_event(simulator, 1.0, **settings)
    with pytest.raises(InputError):
        uq.rare_event(simulator, np.nan)
    with pytest.raises(InputError, match="give a surrogate"):
        uq.rare_event("posterior", 1.0)
    with pytest.raises(InputError, match="one number each"):
        uq.rare_event(linear_surrogate(1.0, 0.1), 1.0, conditions={"x": [0.1, 0.2]})
    with pytest.raises(InputError, match="whole number"):
        uq.rare_event(simulator, 1.0, samples=100).next_points(0)


@pytest.mark.parametrize("step", [1.0, 0.25])
def test_a_quantity_with_few_values_is_climbed(step: float) -> None:
    """Many points of a level have the value of its threshold: y rounded down passes 3.5 where y passes 4 or 3.75."""
    space = uq.ParameterSpace(a=uq.Normal(0.0, 1.0), b=uq.Normal(0.0, 1.0))
    simulator = uq.DirectSimulator(lambda a, b: (a + b) / np.sqrt(2.0), space=space, outputs={"y": ()}, vectorized=True)
    found = uq.rare_event(simulator, 3.55, of=lambda table: np.floor(table["y"] / step) * step, rng=1)
    truth = norm.sf(np.ceil(3.55 / step) * step)
    assert found.probability / truth == pytest.approx(1.0, abs=4.0 * found.variation)
    assert found.subset[0] / truth == pytest.approx(1.0, abs=4.0 * found.subset[1])
    with pytest.raises(SamplingError, match="100% give 0, none goes beyond"):
        uq.rare_event(simulator, 0.5, of=lambda table: (table["y"] > 5.0).astype(float), rng=1)

"""Figures of Shapley effects, Morris screening and bounds: what is drawn is what the results say, nothing overlaps."""

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from test_plots import assert_tidy

import uqms as uq
from uqms.errors import InputError
from uqms.sensitivity import DerivativeMeasures, ElementaryEffects, ShapleyEffects, SobolIndices

LEAD = ("draw", "bootstrap")
T = np.array([0.0, 1.0, 2.0, 3.0])
SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0), c=uq.Uniform(0.0, 1.0))


def simulator(space: uq.ParameterSpace) -> uq.DirectSimulator:
    def function(a: float, b: float, c: float) -> dict[str, object]:
        return {"y": a + 2.0 * b - 0.01 * c, "flow": T * a + b + 0.1 * T**2 * c}

    outputs = {"y": (), "flow": ("t",)}
    return uq.DirectSimulator(function, space=space, outputs=outputs, coords={"t": T}, units={"flow": "mL/s"})


@pytest.fixture(scope="module")
def effects() -> ShapleyEffects:
    covariance = np.array([[1.0, 0.7, 0.0], [0.7, 1.0, 0.0], [0.0, 0.0, 1.0]])
    block = uq.MultivariateNormal(("a", "b", "c"), mean=np.zeros(3), covariance=covariance)
    return uq.shapley_effects(simulator(uq.ParameterSpace(block)), rng=1, draws=2, points=400)


@pytest.fixture(scope="module")
def screened() -> ElementaryEffects:
    design = uq.morris_design(SPACE, 10, rng=1)
    x = uq.ensemble.input_array(design)
    return uq.elementary_effects(uq.ensemble.build(design, {"y": 5.0 * x[:, 1] - 3.0 * x[:, 0] + x[:, 2] ** 2}))


@pytest.fixture(scope="module")
def bounds() -> tuple[DerivativeMeasures, SobolIndices]:
    one = simulator(SPACE)
    return uq.derivative_measures(one, rng=1, draws=2, points=64), uq.sobol_indices(one, rng=1, draws=20, points=64)


def test_bars_are_the_effects_largest_on_top(effects: ShapleyEffects) -> None:
    figure = uq.plots.shapley(effects, labels={"a": r"$\alpha$"})
    assert_tidy(figure)
    for ax, name, end in zip(figure.axes, ("y", "flow"), ("", "_whole"), strict=True):
        means = {kind: effects[name][f"{kind}{end}"].mean(LEAD) for kind in ("Sh", "S1", "ST")}
        order = [str(means["Sh"]["parameter"].values[i]) for i in np.argsort(-means["Sh"].values)]
        assert [text.get_text() for text in ax.get_yticklabels()] == [r"$\alpha$" if n == "a" else n for n in order]
        widths = [bar.get_width() for bar in ax.patches if isinstance(bar, Rectangle)]
        np.testing.assert_allclose(widths, means["Sh"].sel(parameter=order))
        ends = np.array([path[:, 0] for path in ax.collections[0].get_segments()])
        between = effects.interval()[name][f"Sh{end}"].sel(parameter=order, bound=["lower", "upper"])
        np.testing.assert_allclose(ends, between.transpose("parameter", "bound"))
        for points, kind in zip(ax.lines, ("S1", "ST"), strict=False):
            np.testing.assert_allclose(points.get_xdata(), means[kind].sel(parameter=order))


def test_curves_are_the_effects_along_the_coordinate(effects: ShapleyEffects) -> None:
    figure = uq.plots.shapley_curves(effects)
    assert_tidy(figure)
    first, spread = figure.axes
    for drawn, name in zip(first.lines, "abc", strict=False):
        np.testing.assert_allclose(drawn.get_ydata(), effects["flow"]["Sh"].sel(parameter=name).mean(LEAD))
    np.testing.assert_allclose(spread.lines[0].get_ydata(), np.sqrt(effects["flow"]["variance"].mean(LEAD)))
    assert "mL/s" in spread.get_title(loc="left")
    with pytest.raises(InputError, match=r"shapley_curves: output is 'y'; curves along one coordinate are \['flow'\]"):
        uq.plots.shapley_curves(effects, "y")


def test_points_are_size_and_spread_of_the_effects(screened: ElementaryEffects) -> None:
    figure = uq.plots.morris(screened)
    assert_tidy(figure)
    left, right = figure.axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["b  1", "a  2", "c  3"]
    np.testing.assert_allclose(left.lines[0].get_xdata()[:2], [5.0, -3.0])
    one = screened["y"].sel(parameter=["b", "a", "c"])
    (points,) = [line for line in right.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points.get_xydata(), np.column_stack([one["mu_star"], one["sigma"]]), atol=1e-12)
    assert "1 inputs not shown" in uq.plots.morris(screened, names=["a", "b"]).axes[0].get_title(loc="left")


def test_bounds_are_drawn_beside_total_indices(bounds: tuple[DerivativeMeasures, SobolIndices]) -> None:
    measures, indices = bounds
    figure = uq.plots.derivative_bounds(measures, total=indices)
    assert_tidy(figure)
    for ax, name, end in zip(figure.axes, ("y", "flow"), ("", "_whole"), strict=True):
        bound, total = measures[name][f"bound{end}"].mean(LEAD), indices[name][f"ST{end}"].mean(LEAD)
        order = [str(bound["parameter"].values[i]) for i in np.argsort(-bound.values)]
        assert [text.get_text() for text in ax.get_yticklabels()] == order
        np.testing.assert_allclose(ax.lines[0].get_xdata(), bound.sel(parameter=order))
        np.testing.assert_allclose(ax.lines[1].get_xdata(), np.maximum(total.sel(parameter=order), 1e-6))
    assert_tidy(uq.plots.derivative_bounds(measures, outputs=["y"]))
    other = uq.sobol_indices(simulator(SPACE), rng=1, draws=20, points=64, groups={"both": ("a", "b")})
    with pytest.raises(InputError, match="total= has indices of"):
        uq.plots.derivative_bounds(measures, total=other)


def test_other_things_and_unknown_names_are_refused(effects: ShapleyEffects, screened: ElementaryEffects) -> None:
    for draw in (uq.plots.shapley, uq.plots.shapley_curves, uq.plots.morris, uq.plots.derivative_bounds):
        with pytest.raises(InputError, match="returned"):
            draw(3)  # type: ignore[operator]
    for draw, result in ((uq.plots.shapley, effects), (uq.plots.morris, screened)):
        with pytest.raises(InputError, match="give some of"):
            draw(result, names=["z"])  # type: ignore[operator]
    with pytest.raises(InputError, match="no output 'z'"):
        uq.plots.morris(screened, "z")

"""Figures of Sobol indices: the numbers that are drawn are those of the result, and nothing overlaps."""

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from sensitivity.functions import Given
from test_plots import assert_tidy

import uqms as uq
from uqms.errors import InputError
from uqms.sensitivity import SobolIndices

LEAD = ("draw", "bootstrap")


@pytest.fixture(scope="module")
def result() -> SobolIndices:
    """Return indices of a curve and a number that depend on three inputs."""
    basis = np.array([[1.0, 0.0], [0.7, 0.5], [0.2, 1.0], [0.0, 1.0]])
    outputs = {"y": (basis, np.zeros((4, 0))), "peak": (np.array([[1.0, 2.0]]), np.zeros((1, 0)))}

    def scores(u: np.ndarray) -> np.ndarray:
        return np.column_stack([u[:, 0] * u[:, 1], np.sin(3.0 * u[:, 1]) + 0.3 * u[:, 2]])

    def error(u: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        slopes = np.random.default_rng(3).standard_normal((n, 1, 2, 3))
        return np.asarray(0.05 * np.einsum("nijk,lk->nlj", slopes, u))

    inputs = {name: uq.Uniform(0.0, 1.0) for name in "abc"}
    return uq.sobol_indices(Given(scores, 3, error=error, outputs=outputs), inputs, points=256, rng=1)


def test_bars_are_the_indices_largest_on_top(result: SobolIndices) -> None:
    figure = uq.plots.sobol(result, labels={"a": r"$\alpha$"})
    assert_tidy(figure)
    for ax, name, end in zip(figure.axes, ("y", "peak"), ("_whole", ""), strict=True):
        total = result[name][f"ST{end}"].mean(LEAD)
        order = [str(total["parameter"].values[i]) for i in np.argsort(-total.values)]
        assert [text.get_text() for text in ax.get_yticklabels()] == [r"$\alpha$" if n == "a" else n for n in order]
        widths = [bar.get_width() for bar in ax.patches if isinstance(bar, Rectangle)]
        np.testing.assert_allclose(widths[:3], total.sel(parameter=order))
        first = result[name][f"S1{end}"].mean(LEAD).sel(parameter=order)
        np.testing.assert_allclose(widths[3:6], np.maximum(first, 0.0))
        ends = np.array([path[:, 0] for path in ax.collections[0].get_segments()])
        between = result.interval()[name][f"ST{end}"].sel(parameter=order)
        np.testing.assert_allclose(ends, between.sel(bound=["lower", "upper"]).values.T)
    assert len(uq.plots.sobol(result, outputs=["peak"], names=["b"]).axes) == 1


def test_curves_are_the_indices_along_the_coordinate(result: SobolIndices) -> None:
    figure = uq.plots.sobol_curves(result)
    assert_tidy(figure)
    first, total, spread = figure.axes
    for ax, kind in ((first, "S1"), (total, "ST")):
        for drawn, name in zip(ax.lines, "abc", strict=False):
            values = result["y"][kind].sel(parameter=name).mean(LEAD)
            np.testing.assert_allclose(drawn.get_xydata(), np.column_stack([np.arange(4.0), values]))
    np.testing.assert_allclose(spread.lines[0].get_ydata(), np.sqrt(result["y"]["variance"].mean(LEAD)))


def test_other_things_and_unknown_names_are_refused(result: SobolIndices) -> None:
    for draw in (uq.plots.sobol, uq.plots.sobol_curves):
        with pytest.raises(InputError, match="sobol_indices returned"):
            draw(3)  # type: ignore[operator]
        with pytest.raises(InputError, match="give some of"):
            draw(result, names=["z"])  # type: ignore[operator]
    with pytest.raises(InputError, match=r"curves along one coordinate are \['y'\]"):
        uq.plots.sobol_curves(result, "peak")

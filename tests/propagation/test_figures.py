"""Figures of propagation draw the numbers that they say, and tornados are those of a linear simulator."""

import numpy as np
import pytest
import xarray as xr
from calibration.problems import linear_surrogate
from scipy.special import ndtri

import uqms as uq
from uqms.errors import InputError

SPACE = uq.ParameterSpace(
    a=uq.Normal(1.0, 1.0, unit="mm"), b=uq.Normal(0.0, 3.0), conditions={"x": uq.Condition(0.0, 1.0)}
)
HOURS = np.linspace(0.0, 2.0, 5)


def curve(a: float, b: float, x: float) -> np.ndarray:
    """Return a line over the hours."""
    return a * HOURS + b * x


@pytest.fixture(scope="module")
def simulator() -> object:
    """Return a simulator with one curve that is used directly."""
    return uq.DirectSimulator(curve, space=SPACE, outputs={"y": ("hour",)}, coords={"hour": HOURS})


@pytest.fixture(scope="module")
def result(simulator: object) -> uq.Propagation:
    """What follows at two conditions, with noise."""
    return uq.propagate(simulator, conditions={"x": [0.0, 1.0]}, noise={"y": 0.5}, draws=256, rng=1)


def test_a_tornado_holds_the_changes_of_a_linear_simulator(simulator: object) -> None:
    def last(table: xr.Dataset) -> xr.DataArray:
        return table["y"].isel(hour=-1)

    found = uq.tornado(simulator, of=last, conditions={"x": 1.0})
    z = ndtri(0.95)
    assert list(found["input"].values) == ["b", "a"]
    assert found.attrs["output"] == "last"
    assert float(found["baseline"]) == pytest.approx(2.0)
    np.testing.assert_allclose(found["value"], [[2 - 3 * z, 2 + 3 * z], [2 - 2 * z, 2 + 2 * z]])
    np.testing.assert_allclose(found["at"], [[-3 * z, 3 * z], [1 - z, 1 + z]])
    np.testing.assert_allclose(found["lower"], found["value"])
    figure = uq.plots.tornado(found)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["b", "a (mm)"]
    widths = sorted(abs(bar.get_width()) for bar in figure.axes[0].patches)
    np.testing.assert_allclose(widths, [2 * z, 2 * z, 3 * z, 3 * z])
    assert "1 smaller" in uq.plots.tornado(found, most=1).axes[0].get_title("left")


def test_intervals_of_a_tornado_are_the_surrogates() -> None:
    found = uq.tornado(linear_surrogate(2.0, 0.6), conditions={"x": 0.5}, rng=1)
    half = (found["upper"] - found["lower"]).values / 2
    np.testing.assert_allclose(half, 1.96 * 0.6, rtol=0.2)
    for settings in ({"of": "z"}, {"prob": 1.0}, {"inputs": uq.ParameterSpace(z=uq.Normal(0.0, 1.0))}):
        with pytest.raises(InputError):
            uq.tornado(linear_surrogate(2.0, 0.6), conditions={"x": 0.5}, **settings)


def test_variance_stacks_its_parts(result: uq.Propagation) -> None:
    figure = uq.plots.variance(result, condition=1)
    top, bottom = figure.axes
    np.testing.assert_allclose(top.lines[0].get_ydata(), result.mean["y"].isel(condition=1))
    np.testing.assert_allclose(bottom.lines[0].get_ydata(), result.sd["y"].isel(condition=1) ** 2)
    assert len(bottom.collections) == 3
    np.testing.assert_allclose(bottom.lines[0].get_ydata(), HOURS**2 + 9.0 + 0.25, rtol=0.2)


def test_exceedance_and_density_draw_a_line_for_each_condition(simulator: object) -> None:
    of = {"end": lambda table: table["y"].isel(hour=-1, drop=True)}
    result = uq.propagate(simulator, conditions={"x": [0.0, 1.0]}, of=of, draws=512, rng=1)
    figure = uq.plots.exceedance(result, threshold=[0.0, 2.0, 4.0])
    lines = figure.axes[0].lines
    assert len(lines) == 2
    np.testing.assert_allclose(
        lines[0].get_ydata(), result.exceedance([0.0, 2.0, 4.0])["probability"].isel(condition=0)
    )
    assert len(uq.plots.exceedance(result, below=True).axes[0].lines) == 2
    drawn = uq.plots.density(result).axes[0].lines
    x, y = drawn[0].get_data()
    assert float(np.trapezoid(y, x)) == pytest.approx(1.0, abs=0.01)
    low, high = drawn[1].get_xdata()
    np.testing.assert_allclose([low, high], result.interval()["end"].isel(condition=0))


def test_figures_refuse_what_they_cannot_draw(result: uq.Propagation) -> None:
    for draw in (uq.plots.variance, uq.plots.exceedance, uq.plots.density, uq.plots.tornado):
        with pytest.raises(InputError, match="plots"):
            draw("result")
    for call in (
        lambda: uq.plots.exceedance(result),
        lambda: uq.plots.density(result),
        lambda: uq.plots.variance(result, condition=2),
    ):
        with pytest.raises(InputError):
            call()

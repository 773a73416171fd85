"""Numbers read off curves: closed forms, and what follows for a decision."""

import numpy as np
import pytest
import xarray as xr

import uqms as uq
from uqms.errors import InputError
from uqms.functionals import FunctionalDraws, read_off

HOURS = np.linspace(0.0, 24.0, 2401)
KA, KE = np.array([1.0, 1.5]), np.array([0.1, 0.2])
DOSES = np.array([2.0, 4.0])


def curves() -> xr.DataArray:
    """Return concentrations of an oral dose, dims sample, condition, hour, in an order that is not the functions'."""
    h, ka, ke, dose = HOURS[:, None, None], KA[:, None], KE[:, None], DOSES
    values = dose * ka / (ka - ke) * (np.exp(-ke * h) - np.exp(-ka * h))
    coords = {"hour": HOURS, "dose": ("condition", DOSES)}
    return xr.DataArray(values, dims=("hour", "sample", "condition"), coords=coords)


def test_peak_area_and_half_life_of_an_oral_dose_are_the_closed_forms() -> None:
    at = np.log(KA / KE) / (KA - KE)
    height = np.exp(-KE * at)  # per dose
    area = (1 - np.exp(-24 * KE)) / KE * KA / (KA - KE) - (1 - np.exp(-24 * KA)) / (KA - KE)
    found = read_off(curves(), uq.functionals.peak_time, None, {}).draws
    np.testing.assert_allclose(found.transpose("sample", "condition"), np.stack([at, at], 1), atol=1e-4)
    for function, wanted, tolerance in (
        (uq.functionals.peak, height[:, None] * DOSES, 1e-4),
        (uq.functionals.area, area[:, None] * DOSES, 1e-4),
        (uq.functionals.half_life, np.log(2.0) / np.stack([KE, KE], 1), 1e-3),
    ):
        found = read_off(curves(), function, None, {}).draws.transpose("sample", "condition")
        np.testing.assert_allclose(found, wanted, rtol=tolerance, err_msg=function.__name__)


def test_time_above_is_what_counting_points_says() -> None:
    found = read_off(curves(), uq.functionals.time_above, None, {"threshold": 1.0}).draws
    counted = (curves() > 1.0).sum("hour") * (HOURS[1] - HOURS[0])
    np.testing.assert_allclose(found.transpose(*counted.dims), counted, atol=0.02)


def test_the_dose_that_is_needed_is_interpolated_draw_by_draw() -> None:
    peaks = read_off(curves(), uq.functionals.peak, None, {})
    per_dose = np.exp(-KE * np.log(KA / KE) / (KA - KE))  # peaks are proportional to the dose
    np.testing.assert_allclose(peaks.crossing(2.0, "dose"), 2.0 / per_dose, rtol=1e-4)
    assert np.isnan(peaks.crossing(100.0, "dose")).all()
    with pytest.raises(InputError, match="no condition 'weight'"):
        peaks.crossing(2.0, "weight")


def test_probability_counts_and_is_never_certain_of_itself() -> None:
    draws = FunctionalDraws(xr.DataArray(np.arange(100.0), dims="sample"), xr.DataArray(0.0))
    found = draws.probability(lambda x: x > 89.5)
    assert float(found["probability"]) == pytest.approx(0.1)
    assert float(found["mcse"]) == pytest.approx(np.sqrt(0.1 * 0.9 / 100), rel=0.15)
    assert float(draws.probability(lambda x: x >= 0.0)["mcse"]) > 0.0


def test_curves_without_a_half_life_are_counted_and_shown() -> None:
    rising = curves().isel(condition=0, drop=True)
    rising[:, 0] = 1.0 + HOURS
    found = read_off(rising, uq.functionals.half_life, None, {})
    assert float(found.undefined) == 0.5
    assert "50.0% without a value" in repr(found)
    assert float(found.mean) == pytest.approx(np.log(2.0) / KE[1], rel=1e-3)


def test_a_print_has_a_line_for_each_condition() -> None:
    peaks = read_off(curves(), uq.functionals.peak, None, {})
    lines = repr(peaks).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["dose 2", "dose 4"]
    assert f"{float(peaks.mean[1]):.4g} ± {float(peaks.sd[1]):.2g}" in lines[2]
    one = FunctionalDraws(xr.DataArray([1.0, 2.0, 3.0], dims="sample"), xr.DataArray(0.0))
    assert repr(one) == "<FunctionalDraws: 2 ± 1, 95 % 1.05 to 2.95>"


@pytest.mark.parametrize("points", [0, 1, True, 2.5])
def test_a_half_life_takes_two_points(points: object) -> None:
    curve = xr.DataArray([4.0, 2.0, 1.0], dims="h", coords={"h": [0.0, 1.0, 2.0]})
    assert float(uq.functionals.half_life(curve, "h", points=2)) == pytest.approx(1.0)
    with pytest.raises(InputError, match="at least 2"):
        uq.functionals.half_life(curve, "h", points=points)  # type: ignore[arg-type]

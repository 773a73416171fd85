"""Observations of several outputs as users have them: values by name, a list, a Dataset, and missing values."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import uqms as uq
from uqms.calibration.observations import observations_of
from uqms.errors import DataError, InputError
from uqms.surrogates import Layout

T = np.array([0.0, 1.0, 2.0])
LAYOUTS = {"peak": Layout(unit="mg"), "conc": Layout(("t",), {"t": T})}
VALUES = np.array([3.0, 2.0, 1.0])


def curve(values: object = VALUES, **coords: object) -> xr.DataArray:
    return xr.DataArray(values, dims="t", coords={"t": T, **coords}, name="conc")


def expected() -> uq.Observations:
    number = uq.Observations.from_xarray(xr.DataArray(3.1, name="peak"))
    return uq.Observations.concat([number, uq.Observations.from_xarray(curve())])


@pytest.mark.parametrize(
    "given",
    [
        {"peak": 3.1, "conc": VALUES},
        {"peak": np.float64(3.1), "conc": [3, 2, 1]},
        {"peak": xr.DataArray(3.1), "conc": curve()},
        [xr.DataArray(3.1, name="peak"), curve()],
        (xr.DataArray(3.1, name="peak"), curve()),
        xr.Dataset({"peak": 3.1, "conc": curve()}),
    ],
    ids=["numbers", "lists", "arrays by name", "list", "tuple", "Dataset"],
)
def test_all_ways_give_the_same_table(given: object) -> None:
    found, table = observations_of(given, LAYOUTS), expected()
    for name in ("output", "value", "subject", "experiment", "sd"):
        np.testing.assert_array_equal(getattr(found, name), getattr(table, name))
    assert list(found.coords) == ["t"]
    np.testing.assert_array_equal(found.coords["t"], [np.nan, *T])


def test_missing_values_are_dropped_when_asked_for() -> None:
    gaps = {"peak": 3.1, "conc": [3.0, np.nan, 1.0]}
    with pytest.raises(DataError, match=r"output 'conc'\) is nan.*pass missing='drop'"):
        observations_of(gaps, LAYOUTS)
    found = observations_of(gaps, LAYOUTS, missing="drop")
    np.testing.assert_array_equal(found.value, [3.1, 3.0, 1.0])
    np.testing.assert_array_equal(found.coords["t"], [np.nan, 0.0, 2.0])
    with pytest.raises(DataError, match="all values of 'conc' are NaN; leave the output out"):
        observations_of({"conc": [np.nan] * 3}, LAYOUTS, missing="drop")
    with pytest.raises(InputError, match="comes too late here: give it to Observations.from_table"):
        observations_of(expected(), LAYOUTS, missing="drop")


def test_conditions_of_each_array_are_read() -> None:
    given = [xr.DataArray(3.1, name="peak", coords={"dose": 2.0}), curve(dose=2.0)]
    found = observations_of(given, LAYOUTS, ("dose",))
    np.testing.assert_array_equal(found.conditions["dose"], [2.0] * 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"y": 1.0}, r"no output 'y'; it has peak, conc"),
        ({"conc": [1.0, 2.0]}, r"'conc' has shape \(2,\), the output has dims \['t'\] of shape \(3,\)\. State where"),
        ({"peak": [1.0, 2.0]}, r"'peak' has shape \(2,\), the output has one number.*dims=\('replicate',\)"),
        ({"peak": "x"}, r"'peak' is 'x'; give numbers"),
        ({}, r"there is no output"),
        ([curve(), curve()], r"output 'conc' stands twice"),
        ([1.0, 2.0], r"is a list; give Observations.from_table"),
        (3.1, r"is a float; give .*\{'peak': 3.1\}"),
    ],
)
def test_what_cannot_be_meant(given: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        observations_of(given, LAYOUTS)


def test_a_calibration_of_two_outputs_has_the_likelihood_of_the_table() -> None:
    design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    k = design["k"].values
    runs = uq.ensemble.build(design, {"peak": np.sin(k), "conc": ("t", np.exp(-np.outer(k, T)), T)})
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(runs)
    data: Mapping[str, object] = {"peak": 0.8, "conc": [1.0, np.nan, 0.15]}
    noise = {name: uq.GaussianNoise(sd=0.1) for name in data}
    short = uq.Calibration(surrogate, data, noise, missing="drop")
    frame = pd.DataFrame({"t": [0.0, 2.0], "v": [1.0, 0.15]})
    table = uq.Observations.concat(
        [
            uq.Observations.from_xarray(xr.DataArray(0.8, name="peak")),
            uq.Observations.from_table(frame, output="conc", value="v", coords={"t": "t"}),
        ]
    )
    long = uq.Calibration(surrogate, table, noise)
    grid = {"k": np.linspace(0.1, 1.9, 7)}
    np.testing.assert_array_equal(short.log_likelihood(grid), long.log_likelihood(grid))
    assert short.with_surrogate(surrogate).observations is short.observations

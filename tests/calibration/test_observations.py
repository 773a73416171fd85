"""The table of observations: values in their right places, and every bad row refused by name."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import uqms as uq
from uqms.calibration import observations as module
from uqms.errors import DataError, InputError, UnitError


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "h": [0.5, 1.0, 2.0, 0.5, 1.0, 2.0],
            "mg": [10.0, 10.0, 10.0, 20.0, 20.0, 20.0],
            "conc": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            "id": ["a"] * 6,
            "error": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
            "repeat": ["r1"] * 6,
        }
    )


def read(frame: pd.DataFrame, **options: object) -> uq.Observations:
    arguments = {"output": "conc", "value": "conc", "coords": {"time": "h"}, "conditions": {"dose": "mg"}} | options
    return uq.Observations.from_table(frame, **arguments)


def observed(**changes: object) -> uq.Observations:
    return replace(read(table()), **changes)


# --- what is read ---------------------------------------------------------------------------------------------------


def test_columns_of_a_table_arrive_where_they_were_named() -> None:
    got = read(table(), subject="id", experiment="mg", replicate="repeat", sd="error", unit="mg/L")
    assert got.value.tolist() == [1, 2, 3, 4, 5, 6]
    assert got.coords["time"].tolist() == [0.5, 1, 2, 0.5, 1, 2]
    assert got.conditions["dose"].tolist() == [10, 10, 10, 20, 20, 20]
    assert got.sd.tolist() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert got.subject.tolist() == ["a"] * 6
    assert got.experiment.tolist() == ["10.0"] * 3 + ["20.0"] * 3
    assert got.replicate.tolist() == [0] * 6
    assert got.outputs == ("conc",)
    assert got.units == {"conc": "mg/L"}
    assert len(got) == 6


def test_conditions_may_be_a_list_of_names_and_an_index_of_any_kind_is_ignored() -> None:
    frame = table().rename(columns={"mg": "dose"}).set_index(pd.Index([9, 9, 7, 7, 5, 5]))
    got = read(frame, conditions=["dose"])
    assert got.conditions["dose"].tolist() == [10, 10, 10, 20, 20, 20]
    assert np.isnan(got.sd).all()
    assert got.replicate is None


def test_the_table_goes_out_and_comes_back_the_same() -> None:
    first = read(table(), subject="id", replicate="repeat", sd="error")
    again = uq.Observations.from_table(
        first.table,
        output="conc",
        value="value",
        coords={"time": "time"},
        conditions=["dose"],
        subject="subject",
        experiment="experiment",
        replicate="replicate",
        sd="sd",
    )
    pd.testing.assert_frame_equal(again.table, first.table)


def test_xarray_values_are_not_transposed() -> None:
    values = np.arange(12.0).reshape(2, 3, 2)
    data = xr.DataArray(
        values,
        dims=("replicate", "time", "experiment"),
        coords={
            "time": [0.0, 1.0, 5.0],
            "experiment": ["low", "high"],
            "dose": ("experiment", [10.0, 40.0]),
            "sd": (("experiment", "time"), [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        },
        name="conc",
        attrs={"units": "mg/L"},
    )
    got = uq.Observations.from_xarray(data, conditions=["dose"])
    assert len(got) == 12
    assert got.units == {"conc": "mg/L"}
    for row in range(12):
        here = data.sel(time=got.coords["time"][row], experiment=got.experiment[row]).isel(replicate=got.replicate[row])
        assert got.value[row] == here.item()
        assert got.conditions["dose"][row] == here.coords["dose"].item()
        assert got.sd[row] == here.coords["sd"].item()
    assert list(got.coords) == ["time"]


def test_one_number_is_an_observation() -> None:
    got = uq.Observations.from_xarray(xr.DataArray(3.5, name="peak", coords={"dose": 2.0}), conditions=["dose"])
    assert got.value.tolist() == [3.5]
    assert got.conditions["dose"].tolist() == [2.0]
    assert got.coords == {}
    assert "1 values of peak" in repr(got)


def test_a_condition_without_a_dim_holds_for_every_row() -> None:
    data = xr.DataArray([1.0, 2.0], dims="time", coords={"time": [0.0, 1.0], "dose": 7.0}, name="conc")
    assert uq.Observations.from_xarray(data, conditions=["dose"]).conditions["dose"].tolist() == [7.0, 7.0]


def test_a_condition_may_be_a_dim() -> None:
    data = xr.DataArray([[1.0, 2.0]], dims=("dose", "time"), coords={"time": [0.0, 1.0], "dose": [7.0]}, name="conc")
    got = uq.Observations.from_xarray(data, conditions=["dose"])
    assert list(got.coords) == ["time"]
    assert got.conditions["dose"].tolist() == [7.0, 7.0]


def test_concat_puts_two_outputs_in_one_table() -> None:
    curve = read(table().head(2), unit="mg/L")
    peak = uq.Observations.from_table(
        pd.DataFrame({"v": [9.0], "mg": [30.0], "n": [0], "s": [0.5]}),
        output="peak",
        value="v",
        conditions={"dose": "mg"},
        replicate="n",
        sd="s",
    )
    both = uq.Observations.concat([curve, peak])
    assert both.output.tolist() == ["conc", "conc", "peak"]
    assert both.value.tolist() == [1.0, 2.0, 9.0]
    np.testing.assert_array_equal(both.coords["time"], [0.5, 1.0, np.nan])
    assert both.conditions["dose"].tolist() == [10.0, 10.0, 30.0]
    np.testing.assert_array_equal(both.sd, [np.nan, np.nan, 0.5])
    assert both.replicate.tolist() == [0, 0, 0]
    assert both.units == {"conc": "mg/L", "peak": ""}
    assert repr(both) == "<Observations: 3 values of conc, peak; coordinates time; conditions dose>"


def test_concat_keeps_the_unit_that_one_part_knows() -> None:
    first, second = read(table().head(2), unit="mg/L"), read(table().tail(2))
    assert uq.Observations.concat([first, second]).units == {"conc": "mg/L"}
    assert uq.Observations.concat([second, first]).units == {"conc": "mg/L"}


def test_repr_counts_subjects() -> None:
    assert "2 subjects" in repr(observed(subject=np.array(list("aaabbb"))))


# --- what is refused ------------------------------------------------------------------------------------------------


def test_missing_values_are_refused_unless_dropped() -> None:
    frame = table()
    frame.loc[2, "conc"] = np.nan
    with pytest.raises(DataError, match=r"row 2 \(output 'conc'\) is nan; 1 such rows.*missing='drop'"):
        read(frame)
    kept = read(frame, missing="drop")
    assert kept.value.tolist() == [1, 2, 4, 5, 6]
    assert kept.coords["time"].tolist() == [0.5, 1, 0.5, 1, 2]
    assert kept.conditions["dose"].tolist() == [10, 10, 20, 20, 20]


def test_missing_values_of_an_array_are_refused_unless_dropped() -> None:
    data = xr.DataArray([1.0, np.nan], dims="time", coords={"time": [0.0, 1.0]}, name="conc")
    with pytest.raises(DataError, match="row 1"):
        uq.Observations.from_xarray(data)
    assert uq.Observations.from_xarray(data, missing="drop").coords["time"].tolist() == [0.0]


@pytest.mark.parametrize("missing", ["error", "drop"])
def test_infinite_values_are_refused(missing: str) -> None:
    frame = table()
    frame.loc[1, "conc"] = np.inf
    with pytest.raises(DataError, match="row 1 .* is inf"):
        read(frame, missing=missing)


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="no rows. At least one measured value"):
        read(table().head(0))
    with pytest.raises(DataError, match="no rows"):
        read(table().assign(conc=np.nan), missing="drop")


def test_too_many_rows_are_refused_with_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.ROW_LIMIT == 500_000
    n = 500_001
    frame = pd.DataFrame({"v": np.zeros(n), "r": np.arange(n)})
    with pytest.raises(DataError, match=r"500001 rows.* s a gradient.*at most 500000 rows"):
        uq.Observations.from_table(frame, output="y", value="v", replicate="r")
    assert len(uq.Observations.from_table(frame.head(1000), output="y", value="v", replicate="r")) == 1000


@pytest.mark.parametrize("name", ["output", "subject", "experiment", "sd", "replicate", "time", "dose"])
def test_columns_of_different_length_are_refused(name: str) -> None:
    short = np.zeros(5, dtype=np.int64 if name == "replicate" else float)
    where = {"time": {"coords": {"time": short}}, "dose": {"conditions": {"dose": short}}}
    with pytest.raises(DataError, match=f"'{name}' has 5 rows but there are 6 values"):
        observed(**where.get(name, {name: short}))


@pytest.mark.parametrize("sd", [0.0, -0.5, np.inf])
def test_known_sd_must_be_positive(sd: float) -> None:
    frame = table()
    frame.loc[3, "error"] = sd
    with pytest.raises(InputError, match=rf"known sd of row 3 \(output 'conc'\) is {sd}; it must be positive"):
        read(frame, sd="error")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_conditions_must_be_known(value: float) -> None:
    frame = table()
    frame.loc[4, "mg"] = value
    with pytest.raises(DataError, match=f"condition 'dose' of row 4 is {value}; it must be known"):
        read(frame)


def test_a_condition_that_one_part_lacks_is_refused() -> None:
    with pytest.raises(DataError, match="condition 'dose' of row 6 is nan"):
        uq.Observations.concat([read(table()), read(table().head(3), conditions=())])


@pytest.mark.parametrize(
    "option",
    [
        {"value": "x"},
        {"coords": {"time": "x"}},
        {"conditions": {"dose": "x"}},
        {"conditions": ["x"]},
        {"subject": "x"},
        {"experiment": "x"},
        {"replicate": "x"},
        {"sd": "x"},
    ],
)
def test_unknown_columns_are_refused(option: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"Columns \['x'\] are not in the table; it has \['h', 'mg', 'conc'"):
        read(table(), **option)


def test_a_column_that_is_there_twice_is_refused() -> None:
    frame = pd.concat([table(), table()[["h"]]], axis=1)
    with pytest.raises(InputError, match="more than one column 'h'"):
        read(frame)


def test_repeated_rows_need_a_replicate_column() -> None:
    frame = table().replace({"h": {1.0: 0.5}})
    with pytest.raises(DataError, match=r"row 1 repeats output 'conc' .*time = 0.5, dose = 10.*replicate="):
        read(frame)
    assert read(frame.assign(n=range(6)), replicate="n").replicate.tolist() == [0, 1, 2, 3, 4, 5]
    assert len(read(frame.assign(n=range(6)), experiment="n")) == 6


def test_repeated_rows_of_two_parts_need_a_replicate_column() -> None:
    with pytest.raises(DataError, match="row 6 repeats"):
        uq.Observations.concat([read(table()), read(table())])


def test_a_subject_that_is_left_without_values_is_named() -> None:
    frame = table().assign(id=list("aaaabb"))
    frame.loc[4:, "conc"] = np.nan
    with pytest.raises(DataError, match=r"Subjects \['b'\] have no value left"):
        read(frame, subject="id", missing="drop")


@pytest.mark.parametrize("column", ["subject", "experiment", "replicate"])
def test_labels_that_are_missing_are_refused(column: str) -> None:
    with pytest.raises(DataError, match="Column 'id' has no label in row 5"):
        read(table().assign(id=["a"] * 5 + [None]), **{column: "id"})


def test_text_among_numbers_is_named() -> None:
    with pytest.raises(DataError, match=r"Column 'conc' holds .*: '< 0.1' in row 2; numbers are required"):
        read(table().assign(conc=["1", "2", "< 0.1", "3", "4", "5"]))


def test_dates_are_no_numbers() -> None:
    frame = table().assign(h=pd.date_range("2020-01-01", periods=6))
    with pytest.raises(DataError, match=r"Column 'h' holds datetime64.*hours since the first"):
        read(frame)


def test_complex_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="Column 'conc' holds complex128"):
        read(table().assign(conc=np.arange(6) + 1j))


def test_missing_is_error_or_drop() -> None:
    with pytest.raises(InputError, match="missing is 'ignore'; give 'error' or 'drop'"):
        read(table(), missing="ignore")


def test_a_table_is_a_data_frame() -> None:
    with pytest.raises(InputError, match=r"table is a dict; give a pandas DataFrame"):
        read({"conc": [1.0]})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(module.RESERVED))
def test_names_of_the_tables_own_columns_are_taken(name: str) -> None:
    with pytest.raises(InputError, match=f"the name '{name}' of a coordinate or condition is already taken"):
        read(table(), coords={name: "h"})


def test_a_coordinate_is_no_condition_as_well() -> None:
    with pytest.raises(InputError, match="'dose' of a coordinate or condition is already taken"):
        read(table(), coords={"dose": "h"})


def test_an_array_needs_a_name() -> None:
    with pytest.raises(InputError, match=r"has no name; name it like the output: data.rename"):
        uq.Observations.from_xarray(xr.DataArray(1.0))


def test_conditions_must_be_coords_of_the_array() -> None:
    with pytest.raises(InputError, match=r"Conditions \['dose'\] are not coords of the DataArray; it has \['time'\]"):
        uq.Observations.from_xarray(
            xr.DataArray([1.0], dims="time", coords={"time": [0.0]}, name="conc"), conditions=["dose"]
        )


def test_a_dim_without_coordinate_is_not_counted_from_zero() -> None:
    with pytest.raises(InputError, match=r"no coordinate along 'day'.*assign_coords\(day="):
        uq.Observations.from_xarray(xr.DataArray([1.0, 2.0], dims="day", name="infected"))
    labels = xr.DataArray([[1.0, 2.0]], dims=("experiment", "replicate"), name="y")
    assert uq.Observations.from_xarray(labels).replicate.tolist() == [0, 1]


def test_concat_needs_parts_with_one_unit() -> None:
    with pytest.raises(InputError, match="concat: no observations given"):
        uq.Observations.concat([])
    with pytest.raises(UnitError, match="concat: output 'conc' is in 'mg/L' here and in 'g/L' there"):
        uq.Observations.concat([read(table().head(2), unit="mg/L"), read(table().tail(2), unit="g/L")])


def test_a_table_appended_to_itself_is_refused_in_spite_of_replicate_numbers() -> None:
    table = pd.DataFrame({"y": [1.0, 1.1, 0.9], "r": [1, 2, 3]})
    twice = pd.concat([table, table])
    with pytest.raises(DataError, match="row 3 repeats output 'y'.*same replicate number"):
        uq.Observations.from_table(twice, output="y", value="y", replicate="r")
    part = uq.Observations.from_table(table, output="y", value="y", replicate="r")
    assert len(uq.Observations.concat([part, part])) == 6

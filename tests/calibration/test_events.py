"""Tables of doses and measurements: what is read, and every mistake that is named with its row."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import uqms as uq
from uqms.calibration.stored_values import Reader, Writer
from uqms.errors import DataError, InputError

COLUMNS = {
    "id": "ID",
    "time": "TIME",
    "value": "DV",
    "amount": "AMT",
    "rate": "RATE",
    "duration": "DUR",
    "event": "EVID",
    "missing": "MDV",
    "additional": "ADDL",
    "interval": "II",
    "steady_state": "SS",
    "route": "CMT",
    "censored": "CENS",
}


def study() -> pd.DataFrame:
    """Return two subjects: repeated oral doses, and an infusion; the index has labels."""
    rows = [
        # ID TIME AMT RATE DUR EVID MDV ADDL II SS CMT CENS DV WT
        (1, 0.0, 100.0, 0, 0, 1, 1, 2, 12.0, 0, 1, 0, 0.0, 70.0),
        (1, 2.0, 0.0, 0, 0, 0, 0, 0, 0.0, 0, 2, 0, 3.1, 70.0),
        (1, 24.0, 0.0, 0, 0, 0, 0, 0, 0.0, 0, 2, 1, 0.5, 70.0),
        (1, 30.0, 0.0, 0, 0, 0, 0, 0, 0.0, 0, 2, 0, 2.5, 70.0),
        (2, 0.0, 0.0, 0, 0, 0, 0, 0, 0.0, 0, 2, 0, 0.1, 55.0),
        (2, 0.0, 60.0, 30, 0, 1, 1, 0, 0.0, 0, 2, 0, 0.0, 55.0),
        (2, 1.0, 0.0, 0, 0, 0, 0, 0, 0.0, 0, 2, 0, 4.0, 55.0),
        (2, 5.0, 0.0, 0, 0, 2, 1, 0, 0.0, 0, 2, 0, 0.0, 55.0),
    ]
    names = ["ID", "TIME", "AMT", "RATE", "DUR", "EVID", "MDV", "ADDL", "II", "SS", "CMT", "CENS", "DV", "WT"]
    return pd.DataFrame(rows, columns=names, index=[f"r{i}" for i in range(len(rows))])


def read(table: pd.DataFrame, **changed: Any) -> uq.Observations:
    return uq.Observations.from_events(table, **{**COLUMNS, **changed})


def test_regimens_values_and_limits_are_read() -> None:
    found = read(study(), routes={1: "oral", 2: "iv"}, covariates=["WT"], unit="mg/L")
    assert found.regimens == {
        "1": uq.Regimen.repeated(100.0, every=12.0, doses=3, route="oral"),
        "2": uq.Regimen.single(60.0, duration=2.0, route="iv"),
    }
    np.testing.assert_array_equal(found.value, [3.1, 0.5, 2.5, 0.1, 4.0])
    assert found.censored is not None
    assert found.censored.tolist() == ["", "left", "", "", ""]
    assert found.covariates is not None
    assert found.covariates["WT"].to_dict() == {"1": 70.0, "2": 55.0}
    numbers = [found.regimens[str(one)].number for one in found.subject]
    np.testing.assert_array_equal(found.coords["regimen"], numbers)


def test_a_measurement_at_the_time_of_a_dose_is_before_it_where_its_row_is_above() -> None:
    found = read(study())
    np.testing.assert_array_equal(found.coords["time"], [2.0, 24.0 - 24e-6, 30.0, -1e-6, 1.0])
    below = study().iloc[[0, 1, 2, 3, 5, 4, 6, 7]]
    assert read(below).coords["time"][3] == 0.0


def test_without_kinds_rows_with_an_amount_are_doses_and_dots_are_empty() -> None:
    table = study().iloc[:-1].astype(object)
    table.loc[table["AMT"] == 0.0, "AMT"] = "."
    table.loc["r0", "DV"] = "."
    found = uq.Observations.from_events(table, id="ID", time="TIME", value="DV", amount="AMT", rate="RATE")
    assert len(found) == 5
    assert found.regimens["1"] == uq.Regimen.single(100.0)


def test_occasions_and_replicates_are_read() -> None:
    table = study().assign(VISIT=["a", "a", "b", "b", "c", "c", "c", "c"], REP=1)
    assert read(table, experiment="VISIT").experiment.tolist() == ["a", "b", "b", "c", "c"]
    twice = pd.concat([table.iloc[:2], table.iloc[[1]].assign(REP=2, DV=3.3).rename(index={"r1": "x"}), table.iloc[2:]])
    found = read(twice, replicate="REP")
    assert found.replicate is not None
    assert found.replicate[:2].tolist() == [0, 1]


def test_a_file_of_before_there_were_regimens_is_read() -> None:
    writer = Writer()
    stored = writer.value(read(study(), covariates=["WT"]), "observations")
    same = Reader(writer.arrays, []).value(stored)
    assert same.regimens == read(study()).regimens
    assert same.covariates["WT"].to_dict() == {"1": 70.0, "2": 55.0}
    for name in ("regimens", "covariates"):
        del stored["fields"][name]
    before = Reader(writer.arrays, []).value(stored)
    assert before.regimens == {}
    assert before.covariates is None


def test_a_limit_censors_values_below_it() -> None:
    found = read(study(), censored=None, limit=1.0)
    assert found.censored is not None
    assert found.censored.tolist() == ["", "left", "", "left", ""]
    assert found.value.tolist() == [3.1, 1.0, 2.5, 1.0, 4.0]
    assert read(study(), censored=None).censored is None


def test_a_steady_state_is_read() -> None:
    table = study()
    table.loc["r0", ["SS", "ADDL"]] = [1, 0]
    assert read(table).regimens["1"] == uq.Regimen.single(100.0, route="1", steady_state=12.0)


def test_what_changes_with_time_is_made_constant_only_where_that_is_said() -> None:
    table = study()
    table.loc["r2", "WT"] = 76.0
    with pytest.raises(DataError, match=r"row 'r2': column 'WT' of subject '1' changes with time, from 70 to 76"):
        read(table, covariates=["WT"])
    found = read(table, covariates=["WT"], varying={"WT": "mean"})
    assert found.covariates is not None
    assert found.covariates.loc["1", "WT"] == pytest.approx(71.5)
    assert read(table, conditions={"weight": "WT"}, varying={"WT": "last"}).conditions["weight"][0] == 70.0


# Row, column, what is wrong there, words of the message. The row in the message is the one that is changed.
MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("r2", {"TIME": 1.0}, "time goes back from 2 to 1 within subject '1'"),
    ("r1", {"TIME": -1.0}, "time -1 is negative"),
    ("r1", {"TIME": np.nan}, "there is no time"),
    ("r1", {"TIME": "8:30"}, "holds '8:30', which is no number"),
    ("r1", {"DV": "BLQ"}, "holds 'BLQ', which is no number"),
    ("r1", {"DV": np.inf}, "infinite"),
    ("r1", {"DV": np.nan}, "neither a dose nor a value"),
    ("r0", {"AMT": -100.0}, "amount \\(AMT\\) -100 is negative"),
    ("r0", {"AMT": 0.0}, "EVID\\) is 1, a dose, but there is no amount"),
    ("r0", {"DV": 4.0}, "a dose has the value 4"),
    ("r1", {"AMT": 5.0}, "a measurement \\(EVID 0\\) has the amount 5"),
    ("r1", {"EVID": 4}, "EVID\\) is 4, a dose, but there is no amount"),
    ("r0", {"EVID": 3}, "EVID 3\\) has an amount"),
    ("r1", {"EVID": 7}, "Known are 0"),
    ("r1", {"EVID": np.nan}, "Known are 0"),
    ("r7", {"AMT": 3.0}, "EVID 2\\) has an amount"),
    ("r1", {"MDV": 1}, "marked as missing \\(MDV 1\\) but is 3.1"),
    ("r1", {"MDV": 5}, "\\(MDV\\) is 5"),
    ("r0", {"II": 0.0}, "2 additional doses \\(ADDL\\) without an interval"),
    ("r0", {"II": -12.0}, "interval \\(II\\) -12 is negative"),
    ("r0", {"ADDL": 1.5}, "additional doses \\(ADDL\\) is 1.5"),
    ("r0", {"ADDL": -1}, "additional doses \\(ADDL\\) is -1"),
    ("r0", {"ADDL": 0}, "neither additional doses \\(ADDL\\) nor a steady state"),
    ("r1", {"ADDL": 2}, "additional doses \\(ADDL\\) without a dose"),
    ("r0", {"SS": 1, "II": 0.0, "ADDL": 0}, "steady state \\(SS\\) has no interval"),
    ("r0", {"SS": 4}, "flag of steady state \\(SS\\) is 4"),
    ("r5", {"RATE": -2}, "by which NONMEM estimates"),
    ("r5", {"RATE": -7}, "rate \\(RATE\\) -7 is negative"),
    ("r5", {"DUR": 2.0}, "a rate and a duration"),
    ("r5", {"RATE": 0, "DUR": -2.0}, "duration -2 is negative"),
    ("r6", {"RATE": 30}, "rate \\(RATE\\) 30 without a dose"),
    ("r6", {"DUR": 3.0}, "duration 3 without a dose"),
    ("r0", {"CMT": np.nan}, "no route \\(CMT\\)"),
    ("r1", {"ID": np.nan}, "column 'ID' has no label"),
    ("r2", {"TIME": 2.0, "CENS": 0}, "subject '1' has two values at the time 2"),
    ("r2", {"DV": np.nan}, "censored \\(CENS\\) but its limit is not known"),
    ("r2", {"CENS": 3}, "flag of censoring \\(CENS\\) is '3'"),
    ("r0", {"CENS": 1}, "a dose is marked as censored"),
    ("r2", {"WT": 80.0}, "column 'WT' of subject '1' changes with time"),
]


@pytest.mark.parametrize(("row", "change", "words"), MISTAKES, ids=[f"{row} {one}" for row, one, _ in MISTAKES])
def test_a_mistake_is_named_with_its_row(row: str, change: dict[str, Any], words: str) -> None:
    table = study().astype(object)
    for column, value in change.items():
        table.loc[row, column] = value
    with pytest.raises(DataError, match=f"row '{row}': .*{words}"):
        read(table, covariates=["WT"])


def test_mistakes_of_several_rows_name_one_of_them() -> None:
    table = study()
    with pytest.raises(DataError, match=r"row 'r4': subject '2' has no dose"):
        read(table.drop("r5"))
    with pytest.raises(DataError, match=r"row 'r0': subject '1' has no measurement"):
        read(table.drop(["r1", "r2", "r3"]))
    with pytest.raises(DataError, match=r"row 'r0': subject '1' begins again after rows of another"):
        read(table.loc[["r1", "r4", "r5", "r6", "r0", "r2", "r3"]])
    table.loc[["r4", "r5", "r6", "r7"], "WT"] = np.nan
    with pytest.raises(DataError, match=r"row 'r4': column 'WT' of subject '2' is empty"):
        read(table, covariates=["WT"])


def test_doses_that_are_there_twice_name_both_rows() -> None:
    extra = study().loc[["r0"]].assign(TIME=12.0, ADDL=0, II=0.0).rename(index={"r0": "x"})
    table = pd.concat([study().iloc[:2], extra, study().iloc[2:]])
    with pytest.raises(DataError, match=r"row 'x': subject '1' gets 100 twice at the time 12, by row 'r0' too"):
        read(table)
    table.loc["x", ["TIME", "SS", "II"]] = [13.0, 1, 12.0]
    table.loc["x", "SS"] = 2
    assert len(read(table).regimens["1"]) == 4


def test_resets_end_what_was_given_before() -> None:
    """EVID 3 and 4, and a steady state after other doses: additional doses that were to follow are not given."""
    extra = study().loc[["r0"]].assign(TIME=13.0, ADDL=0, SS=1).rename(index={"r0": "x"})
    table = pd.concat([study().iloc[:2], extra, study().iloc[2:]])
    before = uq.Regimen.repeated(100.0, every=12.0, doses=2, route="1")
    steady = before + uq.Regimen.single(100.0, time=13.0, route="1", steady_state=12.0)
    assert read(table).regimens["1"] == replace(steady, resets=(13.0,))
    table.loc["x", ["SS", "II", "EVID"]] = [0, 0.0, 4]
    again = before + uq.Regimen.single(100.0, time=13.0, route="1")
    assert read(table).regimens["1"] == replace(again, resets=(13.0,))
    table.loc["x", ["AMT", "EVID"]] = [0.0, 3]
    assert read(table).regimens["1"] == replace(before, resets=(13.0,))
    table.loc["x", "TIME"] = 12.0  # a dose at the time of a reset from an earlier row is not given
    assert read(table).regimens["1"] == replace(uq.Regimen.single(100.0, route="1"), resets=(12.0,))
    table.loc["r2", "TIME"] = 12.0  # a measurement in a row below the reset is after it
    assert read(table).coords["time"][1] == 12.0


def test_columns_and_settings_are_checked() -> None:
    table = study()
    with pytest.raises(InputError, match=r"columns \['DOSE'\] are not in the table"):
        read(table, amount="DOSE")
    with pytest.raises(InputError, match="more than one column 'DV'"):
        read(pd.concat([table, table[["DV"]]], axis=1))
    with pytest.raises(InputError, match="pandas DataFrame"):
        read({"ID": [1]})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs interval="):
        read(table, interval=None, steady_state=None)
    with pytest.raises(InputError, match="varying is"):
        read(table, covariates=["WT"], varying={"WT": "interpolate"})
    with pytest.raises(InputError, match="limit is"):
        read(table, limit=[1.0])
    with pytest.raises(InputError, match="routes= renames"):
        read(table, route=None, routes={1: "oral"})
    with pytest.raises(DataError, match=r"row 'r5': the route \(CMT\) '2' is not in routes="):
        read(table, routes={1: "oral"})
    with pytest.raises(DataError, match="no rows"):
        read(table.iloc[:0])


def test_concatenated_tables_keep_regimens_and_take_later_doses() -> None:
    whole, first = read(study()), read(study().iloc[:4].assign(ADDL=[1, 0, 0, 0]).drop(["r2", "r3"]))
    both = uq.Observations.concat([first, read(study().iloc[[0, 2, 3]])])
    assert both.regimens == {"1": whole.regimens["1"]}
    assert set(both.coords["regimen"]) == {whole.regimens["1"].number}
    with pytest.raises(InputError, match="subject '1' has .* here and .* there"):
        uq.Observations.concat([whole, read(study().iloc[:4].assign(AMT=[50.0, 0, 0, 0]))])


def test_regular_regimens_become_conditions_and_others_name_their_subject() -> None:
    found = read(study().assign(RATE=0)).with_regimen_conditions()
    assert {name: column[[0, 3]].tolist() for name, column in found.conditions.items()} == {
        "dose": [100.0, 60.0],
        "interval": [12.0, 0.0],
        "doses": [3.0, 1.0],
    }
    assert "regimen" not in found.coords
    assert not found.regimens
    table = study()
    table.loc["r0", ["SS", "ADDL"]] = [1, 0]
    with pytest.raises(DataError, match="subject '1': .*not regular, it is at steady state"):
        read(table).with_regimen_conditions()
    late = study()
    late.loc["r5", "TIME"] = late.loc["r4", "TIME"] = 0.5
    with pytest.raises(DataError, match="subject '2': .* begins at 0.5"):
        read(late).with_regimen_conditions()
    with pytest.raises(InputError, match="there are no regimens"):
        found.with_regimen_conditions()

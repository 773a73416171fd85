import numpy as np
import pandas as pd
import pytest
import xarray as xr

import uqms.ensemble as en
from uqms.errors import DataError, FormatError, InputError
from uqms.parameters import ParameterSpace, Uniform


@pytest.fixture
def frame(rng):
    return pd.DataFrame(rng.uniform(size=(5, 5)), columns=["a", "b", "p", "c0", "c7"])


OUTPUTS = {"pressure": "p", "conc": ("day", ["c0", "c7"], [0.0, 7.0])}


def test_a_row_per_run(frame):
    table = en.from_table(frame, ["b", "a"], OUTPUTS, units={"pressure": "mmHg"})
    assert en.input_names(table) == ("b", "a")
    np.testing.assert_array_equal(table["conc"], frame[["c0", "c7"]])
    np.testing.assert_array_equal(table["day"], [0.0, 7.0])
    assert table["pressure"].attrs["unit"] == "mmHg"


def test_csv_gives_the_same_bits(frame, tmp_path):
    path = tmp_path / "runs.csv"
    frame.to_csv(path, index=False)
    assert (
        en.from_table(path, ["a", "b"], OUTPUTS)
        .drop_attrs(deep=False)
        .identical(en.from_table(frame, ["a", "b"], OUTPUTS).drop_attrs(deep=False))
    )


def test_space_names_the_columns(frame):
    space = ParameterSpace(b=Uniform(0, 1), a=Uniform(0, 1))
    assert en.input_names(en.from_table(frame, space, ["p"])) == ("b", "a")


def test_missing_outputs_are_an_error_or_a_failed_run(frame):
    frame.loc[3, "c7"] = np.nan
    with pytest.raises(DataError, match="the first is run 3: 'conc'.*missing='failed'.*missing='partial'"):
        en.from_table(frame, ["a"], OUTPUTS)
    table = en.from_table(frame, ["a"], OUTPUTS, missing="failed")
    assert table["state"].values.tolist() == ["completed", "completed", "completed", "failed", "completed"]
    assert table["message"].values[3] == "the table has no output of this run"
    assert np.isnan(table["pressure"].values[3])


def test_culprits_are_named(frame, tmp_path):
    with pytest.raises(DataError, match="no columns named 'z'"):
        en.from_table(frame, ["z"], ["p"])
    with pytest.raises(DataError, match="2 columns named 'a'"):
        en.from_table(pd.concat([frame, frame[["a"]]], axis=1), ["a"], ["p"])
    with pytest.raises(DataError, match="column 'a' holds 'x' in row 2"):
        en.from_table(frame.assign(a=["1", "2", "x", "3", "4"]), ["a"], ["p"])
    with pytest.raises(DataError, match="'a' has dtype bool"):
        en.from_table(frame.assign(a=True), ["a"], ["p"])
    with pytest.raises(DataError, match="input 'a' is nan in run 0"):
        en.from_table(frame.assign(a=np.nan), ["a"], ["p"])
    with pytest.raises(DataError, match="2 columns but coordinates of shape"):
        en.from_table(frame, ["a"], {"c": ("day", ["c0", "c7"], [0.0])})
    with pytest.raises(InputError, match="give the name of a column"):
        en.from_table(frame, ["a"], {"c": ["c0", "c7"]})
    with pytest.raises(DataError, match="column 'a' holds '1_000' in row 1"):
        en.from_table(frame.assign(a=["1", "1_000", "2", "3", "4"]), ["a"], ["p"])
    with pytest.raises(DataError, match="column 'p' holds True in row 0"):
        en.from_table(frame.assign(p=pd.Series([True, 2.0, "3", 4, 5], dtype=object)), ["a"], ["p"])
    with pytest.raises(DataError, match="'p' has dtype boolean"):
        en.from_table(frame.assign(p=pd.array([True] * 5, dtype="boolean")), ["a"], ["p"])
    with pytest.raises(InputError, match=r"inputs is 'ab'; give a list of names: \['ab'\]"):
        en.from_table(frame, "ab", ["p"])
    with pytest.raises(InputError, match="the dim 'run', which counts the rows"):
        en.from_table(frame, ["a"], {"c": ("run", ["c0", "c7"], [0.0, 7.0])})
    with pytest.raises(DataError, match="the table has no rows"):
        en.from_table(frame[:0], ["a"], ["p"])
    with pytest.raises(InputError, match="missing is 'drop'"):
        en.from_table(frame, ["a"], ["p"], missing="drop")


def test_csv_with_two_equal_columns(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("a,a,y\n1,2,3\n4,5,6\n")
    with pytest.raises(DataError, match="2 columns named 'a'"):
        en.from_table(path, ["a"], ["y"])


@pytest.mark.parametrize("content", ["\na,y\n1,2\n3,4\n", '"a", "y"\n1, 2\n3, 4\n'])
def test_csv_headers(tmp_path, content):
    path = tmp_path / "runs.csv"
    path.write_text(content)
    table = en.from_table(path, ["a"], ["y"])
    assert (table["a"].values.tolist(), table["y"].values.tolist()) == ([1.0, 3.0], [2.0, 4.0])


def test_labels_of_a_table_do_not_matter(frame):
    shuffled = frame.set_index(pd.Index([3, 1, 0, 2, 4]))
    np.testing.assert_array_equal(en.from_table(shuffled, ["a"], ["p"])["p"], frame["p"])


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x81", b"a,y\n1,2\n1,2,3,4\n"])
def test_what_is_no_csv(tmp_path, content):
    path = tmp_path / "runs.csv"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="not a CSV table"):
        en.from_table(path, ["a"], ["y"])


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        en.from_table(tmp_path / "none.csv", ["a"], ["y"])


def test_a_table_is_an_ensemble(frame):
    table = en.from_table(frame, ["a"], ["p"])
    en.check(table)
    assert isinstance(table, xr.Dataset)


def test_empty_cells_may_be_missing_entries():
    frame = pd.DataFrame(
        {"a": [1.0, 2.0, 3.0], "p": [5.0, 6.0, np.nan], "c0": [0.0, np.nan, np.nan], "c7": [2.0, 3.0, np.nan]}
    )
    outputs = {"p": "p", "c": ("day", ["c0", "c7"], [0.0, 7.0])}
    table = en.from_table(frame, ["a"], outputs, missing="partial")
    assert table["state"].values.tolist() == ["completed", "partial", "failed"]
    np.testing.assert_array_equal(table["c"], [[0.0, 2.0], [np.nan, 3.0], [np.nan, np.nan]])
    assert table["message"].values.tolist()[1] == "some outputs of this run are missing in the table"
    assert en.from_table(frame, ["a"], outputs, missing="failed")["state"].values.tolist() == [
        "completed",
        "failed",
        "failed",
    ]

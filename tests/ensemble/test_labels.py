import numpy as np
import pandas as pd
import pytest
import xarray as xr

import uqms.ensemble as en
from uqms.errors import DataError

A = [0.0, 1.0, 2.0]
Y = [30.0, 10.0, 20.0]
RUNS = xr.Dataset({"a": ("run", A)}, coords={"run": [0, 1, 2]})
PLAIN = xr.Dataset({"a": ("run", A)})
LABELLED = xr.DataArray(Y, dims="run", coords={"run": [2, 0, 1]})
SERIES = pd.Series(Y, index=[2, 0, 1])


@pytest.mark.parametrize(
    ("inputs", "outputs", "options", "message"),
    [
        (RUNS, {"y": LABELLED}, {}, "row 0 has the label 2 in 'y' but 0 in 'inputs'"),
        (RUNS, xr.Dataset({"y": LABELLED}), {}, "row 0 has the label 2 in 'y' but 0 in 'inputs'"),
        (PLAIN, {"y": LABELLED}, {}, "row 0 has the label 2 in 'y' but 0 in the inputs, whose rows are only numbered"),
        ({"a": A}, {"y": SERIES}, {}, "row 0 has the label 2 in 'y' but 0 in the inputs, whose rows are only numbered"),
        (pd.DataFrame({"a": A}), pd.DataFrame({"y": SERIES}), {}, "row 0 has the label 2 in 'y' but 0 in 'inputs'"),
        ({"a": pd.Series(A), "b": SERIES}, {"y": Y}, {}, "row 0 has the label 2 in 'b' but 0 in 'a'"),
        ({"a": A}, {"y": pd.Series(Y, index=list("rst")), "z": pd.Series(Y, index=list("rts"))}, {}, "label t in 'z'"),
        (
            RUNS,
            {"c": ("t", pd.DataFrame(np.ones((3, 2)), index=[0, 2, 1]), [0, 1])},
            {},
            "row 1 has the label 2 in 'c'",
        ),
        (
            RUNS,
            {"y": Y},
            {"states": pd.Series(["completed"] * 3, index=[1, 0, 2])},
            "row 0 has the label 1 in 'states'",
        ),
        (RUNS, {"states": LABELLED}, {}, "row 0 has the label 2 in 'states'"),
    ],
)
def test_rows_that_say_they_are_others_are_not_paired(inputs, outputs, options, message):
    with pytest.raises(DataError, match=message):
        en.build(inputs, outputs, **options)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (RUNS, {"y": Y}),
        (RUNS, {"y": pd.Series(Y)}),
        (RUNS.assign_coords(run=[2, 0, 1]), {"y": LABELLED}),
        (pd.DataFrame({"a": A}, index=[2, 0, 1]), {"y": SERIES}),
        (pd.DataFrame({"a": A}, index=[2, 0, 1]), {"y": np.array(Y)}),
        ({"a": A}, {"y": pd.Series(Y, index=[5, 9, 7])}),  # rows that were kept of a longer table
        ({"a": A}, {"y": pd.Series(Y, index=["p", "q", "r"])}),
    ],
)
def test_labels_that_agree_or_say_nothing(inputs, outputs):
    table = en.build(inputs, outputs)
    assert table["a"].values.tolist() == A
    assert table["y"].values.tolist() == Y


def test_a_dim_is_not_guessed():
    square = xr.DataArray(np.arange(9.0).reshape(3, 3), dims=("day", "sample"), coords={"day": A, "sample": A})
    with pytest.raises(DataError, match=r"dims \('day', 'sample'\); one of them must be 'run'"):
        en.build({"a": A}, {"c": square})
    told = en.build({"a": A}, {"c": square.rename(sample="run")})["c"]
    np.testing.assert_array_equal(told, square.values.T)
    with pytest.raises(DataError, match=r"dims \('day', 'sample'\) where the dims \('run', 'day'\) are expected"):
        en.build({"a": A}, {"c": ("day", square, A)})
    reversed_columns = pd.DataFrame(square.values, columns=A[::-1])
    with pytest.raises(DataError, match="its coordinate 'day' has another order"):
        en.build({"a": A}, {"c": ("day", reversed_columns, A)})


# ------------------------------------------------------------------------------------------------------------- masks
def masked(*values, at=1):
    return np.ma.array(values, mask=np.arange(len(values)) == at)


def test_masked_inputs_are_refused():
    with pytest.raises(DataError, match="input 'a' is nan in run 1"):
        en.build({"a": masked(0.0, 1e20, 2.0)}, {"y": Y})


def test_masked_outputs_are_missing():
    y = masked(1, 10**15, 3)
    with pytest.raises(DataError, match="output 'y' is nan in run 1, but the state of that run is 'completed'"):
        en.build({"a": A}, {"y": y})
    states = ["completed", "partial", "completed"]
    for c in (np.ma.stack([masked(5.0, 1e20, at=i) for i in (2, 1, 2)]), [masked(5.0, 1e20, at=i) for i in (2, 1, 2)]):
        table = en.build({"a": A}, {"y": y, "c": ("t", c, [0, 1])}, states=states)
        np.testing.assert_array_equal(table["y"], [1.0, np.nan, 3.0])
        np.testing.assert_array_equal(table["c"], [[5.0, 1e20], [5.0, np.nan], [5.0, 1e20]])


def test_masks_elsewhere():
    table = en.build({"a": A}, {"y": Y}, seconds=masked(1.0, 1e20, 3.0))
    np.testing.assert_array_equal(table["seconds"], [1.0, np.nan, 3.0])
    for name in ("states", "seeds", "replicates"):
        with pytest.raises(DataError, match=rf"'{name}' is masked at index \[1\]"):
            en.build({"a": A}, {"y": Y}, **{name: masked(1, 1, 1)})
    with pytest.raises(DataError, match=r"'t' is masked at index \[1\]"):
        en.build({"a": A}, {"c": ("t", np.zeros((3, 2)), masked(0.0, 1.0))})
    with pytest.raises(DataError, match=r"'t' is masked at index \[1\]"):
        en.from_table(pd.DataFrame({"a": A, "y": Y}), ["a"], {"c": ("t", ["y", "y"], masked(0.0, 1.0))})

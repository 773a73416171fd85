import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import uqms.ensemble as en
from uqms.errors import DataError, InputError, UnitError
from uqms.parameters import Box, Condition, LogNormal, ParameterSpace, Uniform

DAYS = np.array([0.0, 1.5, 4.0])


@pytest.fixture
def space():
    return ParameterSpace(
        conditions={"dose": Condition(10.0, 40.0, unit="mg")},
        rate=LogNormal(median=2.0, sigma=0.3, unit="1/day", description="rate of decay"),
        shift=Uniform(0.0, 4.0),
    )


@pytest.fixture
def columns(rng):
    return {"rate": rng.uniform(1, 3, 4), "shift": rng.uniform(0, 4, 4), "dose": rng.uniform(10, 40, 4)}


@pytest.fixture
def table(columns, space):
    curve = np.arange(12.0).reshape(4, 3)
    return en.build(columns, {"y": [1.0, 2.0, 3.0, 4.0], "c": ("day", curve, DAYS)}, space=space, units={"c": "mg/L"})


def test_build_names_roles_units(table, columns):
    assert en.input_names(table) == ("rate", "shift", "dose")
    assert en.output_names(table) == ("y", "c")
    assert table["dose"].attrs == {"role": "input", "unit": "mg", "kind": "condition", "description": ""}
    assert table["rate"].attrs["description"] == "rate of decay"
    assert table["c"].attrs["unit"] == "mg/L"
    assert table["c"].dims == ("run", "day")
    np.testing.assert_array_equal(en.input_array(table), np.stack(list(columns.values()), axis=1))
    np.testing.assert_array_equal(en.input_array(table, ["dose"])[:, 0], columns["dose"])
    assert table["state"].values.tolist() == ["completed"] * 4
    assert table["state"].attrs == {"role": "state"}
    assert table.attrs["uqms_format"] == "2"
    en.check(table)


def test_columns_are_matched_by_name_whatever_their_order(columns, space):
    backwards = dict(reversed(columns.items()))
    built = en.build(backwards, {"y": np.zeros(4)}, space=space)
    assert en.input_names(built) == space.inputs
    np.testing.assert_array_equal(built["dose"], columns["dose"])


def test_array_needs_the_columns_of_the_space(columns, space):
    x = np.stack([columns[name] for name in space.inputs], axis=1)
    np.testing.assert_array_equal(en.input_array(en.build(x, {"y": np.zeros(4)}, space=space)), x)
    with pytest.raises(DataError, match=r"shape \(4,\) but the space has 3 inputs \('rate', 'shift', 'dose'\)"):
        en.build(x[:, 0], {"y": np.zeros(4)}, space=space)
    with pytest.raises(DataError, match="without names"):
        en.build(x, {"y": np.zeros(4)})


def test_float32_and_integers_are_promoted():
    built = en.build({"a": np.array([0.1, 0.2], dtype=np.float32)}, {"y": np.array([1, 2])})
    assert built["a"].dtype == built["y"].dtype == np.float64
    assert built["a"].values[0] == np.float64(np.float32(0.1))


def test_duplicated_rows_are_allowed():
    assert en.build({"a": [1.0, 1.0]}, {"y": [2.0, 2.5]}).sizes["run"] == 2


def test_failed_runs_hold_nan_and_are_left_out():
    built = en.build(
        {"a": [1.0, 2.0, 3.0]}, {"y": [1.0, np.inf, 3.0]}, states=["completed", "failed", en.RunState.TIMEOUT]
    )
    np.testing.assert_array_equal(built["y"], [1.0, np.nan, np.nan])
    kept = en.completed(built)
    np.testing.assert_array_equal(kept["a"], [1.0])
    en.check(kept)


def test_a_design_brings_its_space_box_and_attrs(space, columns):
    box = space.box()
    described = {"role": "input", "kind": "parameter", "unit": "1/day", "description": "d"}
    units = {"rate": "1/day", "shift": "", "dose": "mg"}
    design = xr.Dataset(
        {name: ("run", values, {**described, "unit": units[name]}) for name, values in columns.items()},
        attrs={"space": space.to_json(), "box": json.dumps(box.to_dict()), "design": '{"method": "sobol"}'},
    )
    built = en.build(design, {"y": np.zeros(4)})
    assert en.get_space(built) == space
    assert en.get_box(built) == box
    assert built.attrs["design"] == '{"method": "sobol"}'
    bare = en.build(design.drop_attrs(deep=False), {"y": np.zeros(4)})
    assert bare["rate"].attrs == described
    assert en.get_space(bare) is None


def test_box_is_the_range_of_the_runs_when_none_is_known(columns):
    box = en.get_box(en.build({**columns, "fixed": np.full(4, 2.0)}, {"y": np.zeros(4)}))
    assert box.names == ("rate", "shift", "dose", "fixed")
    assert box.lower[0] == columns["rate"].min()
    assert box.upper[2] == columns["dose"].max()
    assert (box.lower[3], box.upper[3]) == (2.0 - 2e-3, 2.0 + 2e-3)
    assert set(box.scale) == {"identity"}


def test_range_takes_scale_and_hard_ends_from_the_space(columns, space):
    columns["shift"][:2] = 0.0, 3.0
    box = en.get_box(en.build(columns, {"y": np.zeros(4)}, space=space))
    assert box.scale == ("log", "identity", "identity")
    assert box.hard == ((False, False), (True, False), (False, False))


def test_explicit_box_is_kept(columns):
    box = Box(("rate", "shift", "dose"), (0.0, 0.0, 0.0), (9.0, 9.0, 90.0), ("identity",) * 3, ((False, False),) * 3)
    assert en.get_box(en.build(columns, {"y": np.zeros(4)}, box=box)) == box


@pytest.mark.parametrize(
    ("inputs", "outputs", "options", "message"),
    [
        ({"a": [1.0, np.nan, np.inf]}, {"y": np.zeros(3)}, {}, r"input 'a' is nan in run 1 \(and 1 more"),
        (
            {"a": np.zeros(3)},
            {"y": [1.0, 2.0, np.nan]},
            {},
            "output 'y' is nan in run 2, but the state of that run is 'completed'",
        ),
        (
            {"a": np.zeros(2)},
            {"c": ("day", [[1, 2, 3], [4, np.inf, 6]], DAYS)},
            {},
            r"output 'c' is inf in run 1, day=1\.5",
        ),
        ({"a": np.zeros(4)}, {"y": np.zeros(3)}, {}, "'y' has 3 rows but the inputs have 4"),
        ({"a": np.zeros(4), "b": np.zeros(3)}, {"y": np.zeros(4)}, {}, "input 'b' has 3 rows but input 'a' has 4"),
        ({"a": np.zeros((2, 2))}, {"y": np.zeros(2)}, {}, r"input 'a' has shape \(2, 2\)"),
        ({"a": np.zeros(2)}, {"y": np.zeros((2, 2))}, {}, r"output 'y' has shape \(2, 2\).*needs names"),
        ({"a": np.array([1j, 2])}, {"y": np.zeros(2)}, {}, "'a' has dtype complex128"),
        ({"a": np.zeros(2)}, {"y": np.array([1.0, None])}, {}, "'y' has dtype object"),
        ({"a": ["1", "2"]}, {"y": np.zeros(2)}, {}, "'a' has dtype <U1"),
        ({"a": [True, False]}, {"y": np.zeros(2)}, {}, "'a' has dtype bool"),
        ({"a": [[1.0], [2.0, 3.0]]}, {"y": np.zeros(2)}, {}, "'a' is not an array"),
        ({}, {"y": np.zeros(2)}, {}, "there are no inputs"),
        ({"a": np.zeros(2)}, {}, {}, "there are no outputs"),
        ({"a": np.zeros(0)}, {"y": np.zeros(0)}, {}, "no runs"),
        ({"a": np.zeros(2)}, {"a": np.zeros(2)}, {}, "'a' occurs both among the inputs and among the outputs"),
        ({"a": np.zeros(2)}, {"state": np.zeros(2)}, {}, "'state' is a reserved name"),
        ({"a": np.zeros(2)}, {"y": np.zeros(2)}, {"states": [1, 9]}, "state of run 1 is 9"),
        ({"a": np.zeros(2)}, {"y": np.zeros(2)}, {"states": ["ok", "ok"]}, "state of run 0 is 'ok'"),
        ({"a": np.zeros(2)}, {"y": np.zeros(2)}, {"states": [1]}, r"states has shape \(1,\) but there are 2 runs"),
        ({"a": np.zeros(2)}, {"y": np.zeros(2)}, {"seconds": [1.0]}, "'seconds' has shape"),
        ({"a": np.zeros(2)}, {"y": np.zeros(2)}, {"messages": ["x"]}, "'messages' has shape"),
        (
            {"a": np.zeros(2)},
            {"c": ("day", np.zeros((2, 3)), [0.0, 1.0])},
            {},
            "give values of shape .n, m. and a coordinate",
        ),
        (
            {"a": np.zeros(2)},
            {"c": ("day", np.zeros((2, 3)), [0.0, 1.0, 1.0])},
            {},
            "'day' of output 'c' has 1.0 twice",
        ),
        ({"a": np.zeros(2)}, {"c": ("day", np.zeros((2, 2)), [0.0, np.nan])}, {}, "'day' of output 'c' holds nan"),
        (
            {"a": np.zeros(2)},
            {"c": xr.DataArray(np.zeros((2, 3)), dims=("run", "day"))},
            {},
            "dim 'day' of output 'c' has no coordinate",
        ),
        ({"cost": np.zeros(2)}, {"y": np.zeros(2)}, {}, "'cost' is a reserved name"),
        ({"a": np.zeros(2)}, [1.0, 2.0], {}, "outputs is a list; give a mapping"),
        ({"a": np.zeros(2)}, {"y": np.zeros(2)}, {"messages": "x"}, r"'messages' has shape \(\)"),
        ({"a": np.zeros(2)}, {"y": np.zeros(2)}, {"fidelity": ["fine", None]}, "'fidelity' is None in run 1"),
        (
            {"a": np.zeros(2)},
            {"y": np.zeros(2)},
            {"seeds": np.array([1, 2**63], "u8")},
            "'seeds' holds 9223372036854775808",
        ),
        ({1: np.zeros(2), "1": np.ones(2)}, {"y": np.zeros(2)}, {}, "an input is called 1; give each input a name"),
        (pd.DataFrame([[1.0], [2.0]]), {"y": np.zeros(2)}, {}, "an input is called 0"),
        ({"a": np.zeros(2)}, {2: np.zeros(2)}, {}, "an output is called 2"),
        (
            {"day": np.zeros(2)},
            {"c": ("day", np.zeros((2, 3)), DAYS)},
            {},
            "'c' has the dim 'day', which is also the name of a variable",
        ),
        (
            {"a": np.zeros(2)},
            {"c": ("c", np.zeros((2, 3)), DAYS)},
            {},
            "'c' has the dim 'c', which is also the name of a variable",
        ),
        ({"a": np.zeros(2)}, {"c": ("run", np.zeros((2, 2)), [0, 1])}, {}, "give the dim of the curve another name"),
        (
            {"a": np.zeros(2)},
            {"c": ("day", np.zeros((2, 2)), np.array([1, "x"], object))},
            {},
            "values of mixed or unsupported types",
        ),
        (
            {"a": np.zeros(2)},
            {"c": ("day", np.zeros((2, 2)), np.array(["NaT", "2020-01-01"], "M8[ns]"))},
            {},
            "'day' of output 'c' holds NaT",
        ),
        (
            {"a": np.zeros(2)},
            {"c": ("day", np.zeros((2, 3)), DAYS), "d": ("day", np.zeros((2, 2)), DAYS[:2])},
            {"states": ["partial", "partial"]},
            "'c' and 'd' have different coordinates along the dim 'day'",
        ),
        (
            xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("column", "run")),
            {"y": np.zeros(2)},
            {},
            r"inputs is a DataArray with dims \('column', 'run'\)",
        ),
        (xr.Dataset({"a": ("sample", np.zeros(2))}), {"y": np.zeros(2)}, {}, r"input 'a' has dims \('sample',\)"),
        (
            xr.Dataset({"a": ("run", np.zeros(2), {"role": "input"}), "b": ("run", np.zeros(2))}),
            {"y": np.zeros(2)},
            {},
            "the variables 'b' without a role",
        ),
        (
            {"a": np.zeros(2)},
            {"y": np.zeros(2)},
            {"box": Box(("b",), (0.0,), (1.0,), ("identity",), ((False, False),))},
            "the box has the inputs 'b' but not 'a'",
        ),
    ],
)
def test_bad_training_data_names_the_culprit(inputs, outputs, options, message):
    with pytest.raises(DataError, match=message):
        en.build(inputs, outputs, **options)


def test_columns_that_differ_from_the_space(columns, space):
    columns["speed"] = columns.pop("rate")
    with pytest.raises(DataError, match="'rate' missing, 'speed' not in the space"):
        en.build(columns, {"y": np.zeros(4)}, space=space)


def test_units_agree_with_the_space(columns, space):
    with pytest.raises(UnitError, match="'1/day' in the space but '1/h'"):
        en.build(columns, {"y": np.zeros(4)}, space=space, units={"rate": "1/h"})
    with pytest.raises(InputError, match="units has 'z'"):
        en.build(columns, {"y": np.zeros(4)}, space=space, units={"z": "1/h"})


def test_units_that_a_variable_brings_are_not_replaced(columns, space):
    y = xr.DataArray(np.zeros(4), dims="run", attrs={"unit": "mm"})
    assert en.build(columns, {"y": y})["y"].attrs["unit"] == "mm"
    with pytest.raises(UnitError, match="'y' have the unit 'mm' but the space or units= has 'km'"):
        en.build(columns, {"y": y}, units={"y": "km"})
    design = xr.Dataset({name: ("run", values, {"unit": "h"}) for name, values in columns.items()})
    with pytest.raises(UnitError, match="'rate' have the unit 'h' but the space or units= has '1/day'"):
        en.build(design, {"y": y}, space=space)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": "a"}, "space is a str; give space=uq.ParameterSpace"),
        ({"box": (0.0, 1.0)}, "box is a tuple; give box=uq.Box"),
        ({"units": ["mm"]}, "units is a list; give a mapping of names to units"),
    ],
)
def test_options_of_another_type(options, message):
    with pytest.raises(InputError, match=message):
        en.build({"a": np.zeros(2)}, {"y": np.zeros(2)}, **options)


def test_codes_may_be_numbers_of_numpy():
    table = en.build({"a": np.zeros(2)}, {"y": np.zeros(2)}, states=[np.int64(1), en.RunState.FAILED])
    assert table["state"].values.tolist() == ["completed", "failed"]


def test_no_run_has_no_box(table):
    with pytest.raises(DataError, match="no runs or no inputs, so its design box is unknown"):
        en.get_box(table.isel(run=[]))


def test_unknown_messages_are_empty():
    table = en.build({"a": np.zeros(2)}, {"y": np.zeros(2)}, messages=pd.Series([np.nan, "slow"]))
    assert table["message"].values.tolist() == ["", "slow"]


def test_attributes_that_say_nonsense(table):
    with pytest.raises(DataError, match="uqms did not write the attribute 'box'"):
        en.get_box(table.assign_attrs(box="{"))
    with pytest.raises(DataError, match="uqms did not write the attribute 'design'"):
        en.failures(table.assign_attrs(design="[1]"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.rename(run="sample"), "an ensemble needs the dim 'run'"),
        (lambda t: t.drop_vars(["rate", "shift", "dose"]), "no variable of this Dataset has the role 'input'"),
        (lambda t: t.drop_vars(["y", "c"]), "no variable of this Dataset has the role 'output'"),
        (lambda t: t.drop_vars("state"), "no variable 'state'"),
        (lambda t: t.drop_vars("rate"), "'rate' missing"),
        (lambda t: t.assign(state=("run", np.full(4, 8))), "state of run 0 is 8"),
        (lambda t: t.assign(state=("run", np.full(4, "done"))), "state of run 0 is 'done'; give the word"),
        (lambda t: t.assign(y=t["y"].astype(np.float32)), "'y' has dtype float32"),
        (lambda t: t.assign(y=t["y"].astype(object)), "'y' has dtype object"),
        (lambda t: t.assign(rate=t["rate"].where(t["rate"] < 0)), "input 'rate' is nan in run 0"),
        (lambda t: t.assign(c=t["c"].transpose("day", "run")), "its first dim must be 'run'"),
        (lambda t: t.drop_vars("day"), "'day' of output 'c' has no coordinate"),
        (lambda t: t.assign(seconds=t["c"]), "'seconds' has dims"),
        (lambda t: t.to_dataframe(), "the ensemble is a DataFrame"),
    ],
)
def test_check_names_what_is_wrong(table, damage, message):
    with xr.set_options(keep_attrs=True):
        damaged = damage(table)
    with pytest.raises(DataError, match=message):
        en.check(damaged)


def test_completed_needs_states(table):
    with pytest.raises(DataError, match="no variable 'state'"):
        en.completed(table.drop_vars("state"))


def test_states_compare_with_words(tmp_path):
    ended = ["completed", "timeout", "failed", "completed"]
    table = en.build({"a": np.arange(4.0)}, {"y": [1.0, np.nan, np.nan, 4.0]}, states=ended)
    table = table.assign_coords(run=[10, 11, 12, 13])
    path = en.to_netcdf(table, tmp_path / "runs.nc")
    for runs in (
        table,
        en.from_netcdf(path),
        en.combine(table, table).isel(run=slice(4)).assign_coords(run=table["run"]),
    ):
        assert (runs["state"] == "failed").values.tolist() == [False, False, True, False]
        assert (runs["state"] == en.RunState.FAILED).values.tolist() == [False, False, True, False]
        assert runs.isel(run=runs["state"] == "failed")["a"].values.tolist() == [2.0]
        assert runs.where(runs["state"] == "completed", drop=True)["y"].values.tolist() == [1.0, 4.0]
        assert runs["state"].isin(["failed", "timeout"]).values.tolist() == [False, True, True, False]
        assert runs["state"].attrs == {"role": "state"}
        states = en.run_states(runs)
        assert states.values.tolist() == ended
        assert states["run"].values.tolist() == [10, 11, 12, 13]
    with pytest.raises(DataError, match="no variable 'state'"):
        en.run_states(table.drop_vars("state"))


def test_states_are_codes_in_files_and_codes_are_accepted(tmp_path):
    """Files stay readable by earlier versions and other programs; what xarray reads from them is understood too."""
    ended = ["completed", "timeout", "failed", "completed"]
    table = en.build({"a": np.arange(4.0)}, {"y": [1.0, np.nan, np.nan, 4.0]}, states=ended)
    path = en.to_netcdf(table, tmp_path / "runs.nc")
    with xr.open_dataset(path) as opened:
        raw = opened.load()
    assert raw["state"].dtype == np.int8
    assert raw["state"].values.tolist() == [1, 3, 2, 1]
    assert raw["state"].attrs["flag_meanings"].split()[3] == "timeout"
    np.testing.assert_array_equal(raw["state"].attrs["flag_values"], np.arange(6))
    assert en.run_states(raw).values.tolist() == ended
    assert en.completed(raw)["a"].values.tolist() == [0.0, 3.0]
    assert en.failures(raw).counts == {"completed": 2, "failed": 1, "timeout": 1}


def test_states_are_words_with_codes():
    assert [(int(state), str(state)) for state in en.RunState] == list(
        enumerate(["planned", "completed", "failed", "timeout", "invalid", "partial"])
    )
    for given in (2, np.int8(2), "failed", "FAILED", np.str_("failed"), en.RunState.FAILED):
        assert en.RunState(given) is en.RunState.FAILED
    for wrong in (True, 9, 2.0, "done", None):
        with pytest.raises(ValueError, match="not a valid RunState"):
            en.RunState(wrong)


def test_unknown_input_name(table):
    with pytest.raises(InputError, match="'speed' is not an input"):
        en.input_array(table, ["speed"])


def test_dataframe_inputs(columns):
    built = en.build(pd.DataFrame(columns), pd.DataFrame({"y": [1, 2, 3, 4]}))
    np.testing.assert_array_equal(built["y"], [1.0, 2.0, 3.0, 4.0])


# ------------------------------------------------------------------------------------ part of the outputs, replicates
GAPS = np.array([[1.0, np.nan, 2.0], [0.0, 1.0, 2.0], [np.nan] * 3, [4.0, 5.0, 6.0]])


LAST_MISSING = np.array([1.0, 2.0, 3.0, np.nan])


def partial(states, y=LAST_MISSING, curve=GAPS):
    return en.build({"a": np.arange(4.0)}, {"y": y, "c": ("day", curve, DAYS)}, states=states)


def test_partial_runs_keep_what_they_gave():
    table = partial(["partial", "completed", "partial", "partial"])
    np.testing.assert_array_equal(table["c"], GAPS)
    np.testing.assert_array_equal(table["y"], [1, 2, 3, np.nan])
    np.testing.assert_array_equal(en.missing_entries(table)["c"], np.isnan(GAPS))
    np.testing.assert_array_equal(en.missing_entries(table)["y"], [False, False, False, True])
    assert en.completed(table)["a"].values.tolist() == [1.0]


def test_failed_runs_keep_nothing():
    table = partial(["failed", "completed", "invalid", "timeout"])
    assert en.missing_entries(table)["c"].values.sum() == 9


@pytest.mark.parametrize(
    ("states", "change", "message"),
    [
        (
            ["partial"] * 4,
            {},
            "the state of run 1 is 'partial', but it has all of its outputs; set its state to 'completed'",
        ),
        (
            ["partial", "completed"] * 2,
            {"y": [1.0, 2.0, np.nan, 4.0]},
            "the state of run 2 is 'partial', but it has none of its outputs; set its state to 'invalid'",
        ),
        (
            ["partial", "completed"] * 2,
            {"y": [np.inf, 1.0, 1.0, 1.0]},
            "output 'y' is inf in run 0, which did not complete; write NaN",
        ),
        (
            ["completed"] * 4,
            {},
            "'y' is nan in run 3, but the state of that run is 'completed'. Set its state to 'failed', or",
        ),
    ],
)
def test_states_and_entries_agree(states, change, message):
    with pytest.raises(DataError, match=message):
        partial(states, **change)


def test_seeds_replicates_and_fidelity():
    a = {"a": [1.0, 1.0, 2.0]}
    table = en.build(a, {"y": np.zeros(3)}, seeds=[5, 2**31 - 1, 7], replicates=[0, 1, 0], fidelity="coarse")
    assert table["seed"].dtype == np.int64
    assert table["seed"].values.tolist() == [5, 2**31 - 1, 7]
    assert table["replicate"].dims == ("run",)
    assert table["replicate"].values.tolist() == [0, 1, 0]
    assert table["fidelity"].values.tolist() == ["coarse"] * 3
    assert en.input_names(table) == ("a",)
    assert en.output_names(table) == ("y",)
    with pytest.raises(DataError, match="'seeds' has dtype float64; it must hold whole numbers"):
        en.build(a, {"y": np.zeros(3)}, seeds=[0.5, 1, 2])
    with pytest.raises(DataError, match=r"'replicates' has shape \(2,\) but there are 3 runs"):
        en.build(a, {"y": np.zeros(3)}, replicates=[0, 1])


def test_partial_and_replicates_on_disk(tmp_path):
    a = {"a": np.arange(4.0)}
    states = ["partial", "completed", "invalid", "completed"]
    outputs = {"c": ("day", GAPS, DAYS)}
    table = en.build(a, outputs, states=states, seeds=[1, 2, 3, 4], replicates=[0, 1, 0, 1], fidelity="fine")
    back = en.from_netcdf(en.to_netcdf(table, tmp_path / "t.nc"))
    for name in ("c", "seed", "replicate", "fidelity", "state"):
        assert back[name].values.tolist().__repr__() == table[name].values.tolist().__repr__()

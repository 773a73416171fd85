import collections
import contextvars
import copy
import ctypes
import dataclasses
import datetime
import decimal
import fractions
import functools
import importlib
import json
import linecache
import logging
import math
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import types
from pathlib import Path

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import sparse
from scipy.interpolate import CubicSpline
from scipy.stats import norm

import uqms as uq
from uqms.errors import InputError, OutputError
from uqms.simulators import FunctionSimulator, Simulator
from uqms.simulators.worker import attempt

DAYS = [0.0, 1.5, 4.0]


def curve(rate, shift):
    return {"conc": np.exp(-rate * np.array(DAYS)) + shift, "peak": shift}


@pytest.fixture
def simulator():
    return FunctionSimulator(curve, outputs={"conc": ("day",), "peak": ()}, coords={"day": DAYS}, units={"peak": "mm"})


def one(function, dims=("day",), **options):
    coords = {"day": DAYS} if dims == ("day",) else {}
    return FunctionSimulator(function, outputs={"y": dims}, coords=coords, **options)


def test_evaluate_gives_named_float64(simulator):
    got = simulator.evaluate({"rate": 2.0, "shift": 3})
    np.testing.assert_array_equal(got["conc"], np.exp(-2.0 * np.array(DAYS)) + 3)
    assert got["peak"].shape == ()
    assert got["peak"] == 3.0
    assert all(value.dtype == np.float64 for value in got.values())
    assert isinstance(simulator, Simulator)


@pytest.mark.parametrize("value", [[1, 2, 3], np.array([1, 2, 3], dtype=np.float32), {"y": (1.0, 2.0, 3.0)}])
def test_one_output_may_come_bare(value):
    np.testing.assert_array_equal(one(lambda a: value).evaluate({"a": 1.0})["y"], [1.0, 2.0, 3.0])
    assert one(lambda a: a, ()).evaluate({"a": 1.0})["y"] == 1.0


def test_data_arrays_are_matched_by_dim_and_coordinate():
    field = FunctionSimulator(
        lambda a: xr.DataArray(np.arange(6.0).reshape(2, 3), dims=("x", "day"), coords={"day": DAYS}),
        outputs={"y": ("day", "x")},
        coords={"day": DAYS, "x": ["left", "right"]},
    )
    np.testing.assert_array_equal(field.evaluate({"a": 1.0})["y"], np.arange(6.0).reshape(2, 3).T)
    with pytest.raises(OutputError, match="other values of 'day'"):
        one(lambda a: xr.DataArray(np.zeros(3), dims="day", coords={"day": [0, 1, 2]})).evaluate({"a": 1.0})
    with pytest.raises(OutputError, match=r"dims \('time',\)"):
        one(lambda a: xr.DataArray(np.zeros(3), dims="time")).evaluate({"a": 1.0})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "output 'y' is None"),
        ([1.0, 2.0], r"output 'y' has shape \(2,\), but it is declared as dims \('day',\) of shape \(3,\)"),
        (1.0, r"output 'y' has shape \(\)"),
        ([1.0, np.nan, 2.0], r"output 'y' is nan at day=1\.5"),
        ([1.0, 2.0, -np.inf], r"output 'y' is -inf at day=4\.0"),
        ([1j, 2, 3], "dtype complex128"),
        (["a", "b", "c"], "dtype <U1"),
        ([True, False, True], "dtype bool"),
        ([[1.0], [2.0, 3.0], []], "is not an array"),
        ({"z": [1, 2, 3]}, "without y and with unknown z; declared are y"),
        ({"y": [1, 2, 3], "z": 0}, "with unknown z"),
    ],
)
def test_wrong_outputs_say_what_came(value, message):
    with pytest.raises(OutputError, match=message):
        one(lambda a: value).evaluate({"a": 1.0})


def test_masked_entries_are_missing():
    with pytest.raises(OutputError, match=r"output 'y' is nan at day=1\.5") as caught:
        one(lambda a: np.ma.array([1.0, 999.0, 3.0], mask=[False, True, False])).evaluate({"a": 1.0})
    np.testing.assert_array_equal(caught.value.partial["y"], [1.0, np.nan, 3.0])
    whole = one(lambda a: np.ma.array([1, 2, 3])).evaluate({"a": 1.0})
    np.testing.assert_array_equal(whole["y"], [1.0, 2.0, 3.0])
    with pytest.raises(OutputError, match="is nan"):
        one(lambda a: np.ma.masked, ()).evaluate({"a": 1.0})


def test_labels_of_a_table_are_the_coordinates_or_none():
    def given(table):
        return one(lambda a: table).evaluate({"a": 1.0})["y"]

    values = [3.0, 2.0, 1.0]
    for series in (pd.Series(values), pd.Series(values, index=DAYS)):
        np.testing.assert_array_equal(given(series), values)
    with pytest.raises(OutputError, match=r"other values of 'day' .* number 0 is 4\.0 instead of 0\.0; reindex"):
        given(pd.Series(values, index=DAYS[::-1]))
    rounded = np.array(DAYS) * 0.1 / 0.1 + [0.0, 1e-15, 1e-4]  # within a thousandth of the distance
    np.testing.assert_array_equal(given(pd.Series(values, index=rounded)), values)
    field = xr.DataArray(values, dims=("day",), coords={"day": rounded}, attrs={"units": "mm"})
    np.testing.assert_array_equal(given(field), values)
    with pytest.raises(OutputError, match="number 2 is 4.01 instead of 4.0"):
        given(pd.Series(values, index=np.array(DAYS) + [0.0, 0.0, 0.01]))
    with pytest.raises(OutputError, match="comes in 'mm', but units declares 'cm'"):
        dataclasses.replace(one(lambda a: field), units={"y": "cm"}).evaluate({"a": 1.0})
    with pytest.raises(OutputError, match="reindex it"):
        given(pd.Series(values)[::-1])
    with pytest.raises(OutputError, match=r"shape \(2,\)"):
        given(pd.Series(values)[:2])
    field = FunctionSimulator(
        lambda a: pd.DataFrame([[1.0, 2.0]], columns=["right", "left"]),
        outputs={"y": ("t", "x")},
        coords={"t": [0.0], "x": ["left", "right"]},
    )
    with pytest.raises(OutputError, match="other values of 'x'"):
        field.evaluate({"a": 1.0})


class Own:
    """A simulator that somebody wrote, which looks at nothing."""

    identity, outputs, coords, units, seed = {"name": "own"}, {"y": ("day",)}, {"day": np.array(DAYS)}, {}, None

    def __init__(self, value):
        self.value = value

    def evaluate(self, point):
        return self.value


@pytest.mark.parametrize(
    ("value", "ended", "message"),
    [
        ({"y": [1.0, 2.0, 3.0]}, "completed", ""),
        ({"y": [1.0, np.nan, 3.0]}, "partial", "OutputError: output 'y' is nan at day=1.5"),
        ({"y": [np.nan] * 3}, "invalid", "OutputError: output 'y' is nan at day=0.0"),
        ({"y": [1.0, 2.0]}, "invalid", "OutputError: output 'y' has shape (2,)"),
        ({"y": [1j, 2.0, 3.0]}, "invalid", "OutputError: output 'y' has dtype complex128"),
        ({"y": [True, True, True]}, "invalid", "OutputError: output 'y' has dtype bool"),
        ({"y": [1.0, 2.0, 3.0], 7: 0.0}, "invalid", "OutputError: the run gave outputs with unknown 7"),
        ({}, "invalid", "OutputError: the run gave outputs without y"),
        (None, "invalid", "OutputError: the simulator returned NoneType; it must return a mapping with y."),
    ],
)
def test_what_a_simulator_of_ones_own_returns_is_checked(value, ended, message):
    got = attempt(Own(value), {})
    assert got.ended == ended
    assert got.message.startswith(message)
    assert got.outputs is None if ended == "invalid" else got.outputs["y"].dtype == np.float64


class Panic(BaseException):
    """What Rust code raises through pyo3."""


class Speechless(Exception):
    def __str__(self):
        raise Panic


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Panic("index out of bounds"), "Panic: index out of bounds ["),
        (Speechless(), "Speechless: (no text: its __str__ raised Panic) ["),
        (RuntimeError("datei \udce4.txt"), r"RuntimeError: datei \udce4.txt ["),
        (RuntimeError("a\0b"), r"RuntimeError: a\x00b ["),
        (OutputError("a\0b \udce4"), r"OutputError: a\x00b \udce4"),
    ],
)
def test_whatever_a_run_raises_is_told_in_words_that_can_be_kept(error, message):
    def odd(a):
        raise error

    got = attempt(one(odd), {"a": 1.0})
    assert got.ended == ("invalid" if isinstance(error, OutputError) else "failed")
    assert got.message.startswith(message)
    assert got.message.encode()
    assert "\0" not in got.message


def test_ctrl_c_stops_a_run_in_this_process():
    def pressed(a):
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            attempt(one(pressed), {"a": 1.0})
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_bare_value_for_two_outputs(simulator):
    two = dataclasses.replace(simulator, function=lambda rate, shift: 1.0)
    with pytest.raises(OutputError, match="returned float, but it has 2 outputs"):
        two.evaluate({"rate": 1.0, "shift": 1.0})


def test_what_the_function_raises_passes_through():
    with pytest.raises(ZeroDivisionError):
        one(lambda a: 1 / 0).evaluate({"a": 1.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"function": 3}, "cannot be called"),
        ({"outputs": {}}, "give each output its dims"),
        ({"outputs": ["y"]}, "give each output its dims"),
        ({"outputs": {"y": ("day", "x")}}, "'x', which has no coords"),
        ({"outputs": {"y": "day"}}, "dims 'day'; give a tuple"),
        ({"outputs": {"y": ("day", "day")}}, "each dim stands once"),
        ({"outputs": {"": ()}}, "an output is called ''"),
        ({"outputs": {"state": ("day",)}}, "cannot be called 'state'"),
        ({"outputs": {"day": ("day",)}}, "a dim cannot be called 'day'"),
        ({"coords": {"day": [0.0, np.nan]}}, "'day' hold nan"),
        ({"coords": {"day": [0.0, 1.0, 1.0]}}, "'day' hold 1.0 twice"),
        ({"coords": {"day": [[0.0]]}}, r"'day' have shape \(1, 1\)"),
        ({"coords": {"day": []}}, r"'day' have shape \(0,\)"),
        ({"coords": {"day": DAYS, "x": [1.0]}}, "names 'x', which is the dim of no output"),
        ({"units": {"z": "mm"}}, "units names 'z'"),
        ({"version": 2}, "version is 2"),
    ],
)
def test_construction_names_what_cannot_be_meant(options, message):
    usual = {"function": curve, "outputs": {"y": ("day",)}, "coords": {"day": DAYS}}
    with pytest.raises(InputError, match=message):
        FunctionSimulator(**{**usual, **options})


def test_prepare_knows_before_any_run_that_a_call_fails(simulator):
    simulator.prepare(["shift", "rate"])
    with pytest.raises(InputError, match="cannot be called with the inputs rate: missing a required argument: 'shift'"):
        simulator.prepare(["rate"])
    with pytest.raises(InputError, match="got an unexpected keyword argument 'z'"):
        simulator.prepare(["rate", "shift", "z"])
    with pytest.raises(InputError, match="'day' is an input and an output or dim"):
        simulator.prepare(["rate", "shift", "day"])


def identity(function, **options):
    return one(function, **options).identity


def factory(scale):
    return lambda a: np.full(3, a * scale)


def with_comment(a):
    # what is said here changes nothing
    return np.full(3, a)


def test_identity_is_json_and_survives_the_journey_to_a_worker(simulator):
    text = json.dumps(simulator.identity)
    assert json.dumps(dataclasses.replace(simulator).identity) == text
    assert json.dumps(cloudpickle.loads(cloudpickle.dumps(simulator)).identity) == text
    assert simulator.identity["name"] == "curve"


def test_identity_differs_by_what_is_closed_over():
    assert identity(factory(1.0)) == identity(factory(1.0))
    assert identity(factory(1.0)) != identity(factory(2.0))
    assert identity(factory(np.arange(3))) != identity(factory(np.arange(3) + 1))
    assert identity(functools.partial(curve, rate=1)) != identity(functools.partial(curve, rate=2))


def test_two_lambdas_on_one_line_are_two_simulators():
    first, second = (lambda a: a), (lambda a: 2 * a)
    assert identity(first) != identity(second)
    assert identity(first)["name"] == identity(second)["name"]


def changed(code, old, new):
    """Return whether a module's `sim` has another identity after an edit of it."""
    assert old in code
    return identity(loaded(code)) != identity(loaded(code.replace(old, new)))


def loaded(code):
    """Load a module of the user's own, from a file, as if in a process of its own."""
    folder = tempfile.mkdtemp()
    path = Path(folder, "model_of_mine.py")
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("model_of_mine", path)
    sys.modules["model_of_mine"] = module = importlib.util.module_from_spec(spec)
    linecache.clearcache()
    spec.loader.exec_module(module)
    return module.sim


class Slots:
    __slots__ = ("k",)

    def __init__(self, k):
        self.k = k

    def __call__(self, a):
        return self.k * a


def masked(mask):
    return np.ma.array([1.0, 2.0], mask=mask)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        ([1.0, 2], [1, 2.0]),
        (range(3), range(5)),
        (slice(3), slice(5)),
        (collections.deque([1]), collections.deque([2])),
        (collections.OrderedDict(a=1), collections.OrderedDict(a=2)),
        (collections.defaultdict(list), collections.defaultdict(set)),
        (decimal.Decimal(1), decimal.Decimal(2)),
        (fractions.Fraction(1, 2), fractions.Fraction(1, 3)),
        (datetime.timedelta(1), datetime.timedelta(2)),
        (bytearray(b"a"), bytearray(b"b")),
        (types.SimpleNamespace(a=1), types.SimpleNamespace(a=2)),
        (pd.Series([1.0]), pd.Series([2.0])),
        (pd.DataFrame({"a": ["u"]}), pd.DataFrame({"a": ["v"]})),
        (xr.DataArray([1.0]), xr.DataArray([2.0])),
        (CubicSpline([0, 1, 2], [0, 1, 2]), CubicSpline([0, 1, 2], [0, 5, 9])),
        (norm(0, 1), norm(0, 2)),
        (np.poly1d([1, 2]), np.poly1d([3, 4])),
        (np.array([Slots(1)]), np.array([Slots(2)])),
        (np.zeros(2, "f4,f8"), np.zeros(2, [("a", "f4"), ("b", "f8")])),
        (masked([True, False]), masked([False, False])),
        (Slots(1.0), Slots(2.0)),
        (functools.lru_cache(lambda a: a), functools.lru_cache(lambda a: 2 * a)),
        (np.vectorize(lambda a: a), np.vectorize(lambda a: 2 * a)),
        (Slots(1.0).__call__, Slots(2.0).__call__),
        (np.sin, np.cos),
        (math.sin, math.cos),
        (CubicSpline, norm),
    ],
    ids=lambda value: type(value).__name__,
)
def test_identity_differs_by_the_state_of_what_is_read(first, second):
    def reading(value):
        return identity(lambda a: (a, value))

    assert reading(first) == reading(first)
    if not isinstance(first, type(norm(0, 1))):  # of which a copy draws other random numbers
        assert reading(first) == reading(copy.deepcopy(first))
    assert reading(first) != reading(second)


CLASSES = """
import functools
def helper(a): return 1 * a
def scaled(k):
    def decorate(f):
        @functools.wraps(f)
        def wrapper(self, a): return k * f(self, a)
        return wrapper
    return decorate
TABLE = [21]
class Base:
    size = len(TABLE) + TABLE[0]
    @staticmethod
    def still(a): return helper(a) + 2
    @classmethod
    def of(cls, a): return a + 3
    @property
    def wide(self): return 4
    @functools.cached_property
    def once(self): return 5
    @scaled(6)
    def go(self, a): return a + 7
class Model(Base):
    def __call__(self, a): return self.go(a)
sim = Model()
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [("1 * a", "9 * a"), ("21", "99")]
    + [(str(i), "9") for i in (3, 4, 5)]
    + [("+ 2", "+ 9"), ("scaled(6)", "scaled(9)"), ("a + 7", "a + 9"), ("k * f", "k + f")],
)
def test_identity_differs_by_all_parts_of_a_class_and_its_bases(old, new):
    assert changed(CLASSES, old, new)
    assert not changed(CLASSES, "sim =", "# said otherwise\nsim =")


@pytest.mark.parametrize(
    ("code", "old", "new"),
    [
        ("K = 2\ndef sim(a, k=K): return a", "K = 2", "K = 3"),
        ("K = 2\ndef sim(a, *, k=K): return a", "K = 2", "K = 3"),
        ("def sim(a): return a * sim.k\nsim.k = 2", "k = 2", "k = 3"),
        ("from functools import lru_cache\n@lru_cache\ndef sim(a): return a", "return a", "return 2 * a"),
        ("import numpy as np\ndef one(a): return a\nsim = np.vectorize(one)", "return a", "return 2 * a"),
        (
            "from contextlib import contextmanager\n@contextmanager\ndef with_(a): yield a\n"
            "def sim(a):\n    with with_(a) as b: return b",
            "yield a",
            "yield 2 * a",
        ),
        (
            "import functools\ndef twice(f):\n    k = 2\n    @functools.wraps(f)\n"
            "    def g(a): return k * f(a)\n    return g\n@twice\ndef sim(a): return a",
            "k = 2",
            "k = 3",
        ),
    ],
)
def test_identity_differs_by_defaults_attributes_and_decorators(code, old, new):
    assert changed(code, old, new)


USES = {
    "attribute": "import {0}\ndef sim(a): return {0}.solve(a)",
    "alias": "import {0}\ndef sim(a):\n    m = {0}\n    return m.solve(a)",
    "inside": "def sim(a):\n    import {0}\n    return {0}.solve(a)",
    "from inside": "def sim(a):\n    from {0} import solve\n    return solve(a)",
    "as a value": "import {0}\ndef apply(m, a): return getattr(m, 'sol' + 've')(a)\ndef sim(a): return apply({0}, a)",
}


@pytest.mark.parametrize("use", USES)
def test_identity_differs_by_the_modules_of_ones_own_that_are_used(tmp_path, monkeypatch, use):
    name = f"solver_{use.replace(' ', '_')}"
    monkeypatch.syspath_prepend(tmp_path)

    def with_module(code):
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        importlib.invalidate_caches()
        return identity(loaded(USES[use].format(name)))

    base = with_module("K = 2\ndef solve(a): return K * a\ndef other(a): return 3 * a")
    assert with_module("K = 2\ndef solve(a): return K * a  # so\ndef other(a): return 3 * a") == base
    assert with_module("K = 22\ndef solve(a): return K * a\ndef other(a): return 3 * a") != base
    assert with_module("K = 2\ndef solve(a): return K + a\ndef other(a): return 3 * a") != base
    unused = with_module("K = 2\ndef solve(a): return K * a\ndef other(a): return 4 * a")
    assert (unused == base) is (use != "as a value")


def test_what_cannot_be_compared_asks_for_a_version(tmp_path):
    generator, deep = iter(_ for _ in "a"), []
    for _ in range(10_000):
        deep = [deep]
    table = {"steps": [generator]}
    for value, kind in (
        (table, "builtins.generator"),
        (iter(_ for _ in "a"), "builtins.generator"),
        (ctypes.CDLL(None), "CDLL"),
    ):
        simulator = one(lambda a, value=value: a)
        with pytest.raises(InputError, match=f"uses a .*{kind}.* give a version="):
            _ = simulator.identity
        assert dataclasses.replace(simulator, version="1").identity["version"] == "1"
    with pytest.raises(InputError, match=r"generator \(table\), and uqms cannot check"):
        identity(lambda a: table)
    with pytest.raises(InputError, match=r"nested too deep to be compared; give a version="):
        identity(lambda a: deep)


def test_what_results_do_not_depend_on_counts_by_its_kind():
    """Locks, streams, logs, the variables and arguments of this call: another process has others of them."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    things = [threading.Lock, threading.RLock, threading.Condition, threading.Event, threading.local]
    for make in (*things, lambda: contextvars.ContextVar("v"), lambda: logging.Logger(str(time.time()))):
        a, b = make(), make()
        assert identity(one_that_uses(a)) == identity(one_that_uses(b))
    for thing in (*streams, os.environ, sys.argv):
        before = identity(one_that_uses(thing))
        if thing is os.environ:
            os.environ["UQMS_TEST_OF_IDENTITY"] = "1"
        assert identity(one_that_uses(thing)) == before
        os.environ.pop("UQMS_TEST_OF_IDENTITY", None)
    assert identity(one_that_uses(struct.Struct("d"))) != identity(one_that_uses(struct.Struct("f")))


def one_that_uses(thing):
    return lambda a, thing=thing: (a, thing)[0]


def test_tables_and_matrices_that_were_used_are_the_same_as_before():
    field = xr.Dataset({"y": ("x", [1.0, 4.0, 9.0])}, coords={"x": [1.0, 2.0, 3.0]})
    matrix = sparse.csr_array(np.eye(3))
    for thing, use in ((field, lambda: field.interp(x=1.5)), (matrix, lambda: (matrix.sum(), matrix + matrix))):
        before = identity(one_that_uses(thing))
        use()
        assert identity(one_that_uses(thing)) == before
    for other in (field.assign_coords(x=[1.0, 2.0, 4.0]), field + 1.0, field.rename(y="z")):
        assert identity(one_that_uses(other)) != identity(one_that_uses(field))
    for other in (2.0 * matrix, matrix.tocsc(), sparse.csr_array(np.eye(4))):
        assert identity(one_that_uses(other)) != identity(one_that_uses(matrix))


MAIN = """
import logging
log = logging.getLogger(__name__)
class Model:
    def __call__(self, x): return x * 1
M = Model()
def sim(x):
    log.info("%s of %s", x, __name__)
    return M(x)
if __name__ == "__main__":
    from uqms.simulators._identity import code_hash
    print(code_hash(sim))
"""


def test_a_script_is_the_same_however_it_is_started(tmp_path):
    script = tmp_path / "script_of_a_user.py"
    ways = {
        "plain": [str(script)],
        "profiled": ["-m", "cProfile", "-o", str(tmp_path / "profile"), str(script)],
        "imported": ["-c", "import script_of_a_user as s; from uqms.simulators._identity import code_hash as h; "
                           "print(h(s.sim))"],
    }  # fmt: skip

    def said(way):
        done = subprocess.run([sys.executable, *ways[way]], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.split()[-1]

    script.write_text(MAIN)
    first = {said(way) for way in ways}
    script.write_text(MAIN.replace("x * 1", "x * 2"))
    second = {said(way) for way in ways}
    assert len(first) == len(second) == 1
    assert first != second


def test_functions_with_many_constants_and_scripts_that_end_have_an_identity(tmp_path, monkeypatch):
    (tmp_path / "ends_at_once.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    many = "\n    ".join(f"a = a + {k}.5" for k in range(300))
    assert identity(loaded(f"def sim(a):\n    {many}\n    from scipy.special import expit\n    return expit(a)"))
    assert identity(loaded("def sim(a):\n    import ends_at_once\n    return a"))
    assert identity(loaded("def sim(a):\n    from .... import nothing\n    return a"))


def test_values_that_hold_themselves_and_many_times_the_same_have_an_identity():
    ring, shared = [1.0], [1.0]
    ring.append(ring)
    for _ in range(100):
        shared = [shared, shared]
    assert identity(lambda a: ring) == identity(lambda a: ring)
    assert identity(lambda a: shared) == identity(lambda a: shared)


def test_identity_does_not_follow_what_is_computed_meanwhile():
    class Model:
        @functools.cached_property
        def table(self):
            return [1.0]

        def run(self, a):
            return self.table[0] * a

    model, spread = Model(), norm(0, 1)

    def sim(a):
        return model.run(a) + spread.ppf(a) + norm.pdf(a)

    before = identity(sim)
    sim(0.5)
    np.random.random()  # noqa: NPY002
    assert identity(sim) == before


def test_identity_differs_by_outputs_coords_and_version(simulator):
    base = simulator.identity
    assert dataclasses.replace(simulator, coords={"day": [0.0, 1.5, 4.5]}).identity != base
    assert dataclasses.replace(simulator, units={}).identity == base
    first, second = (dataclasses.replace(simulator, version=v).identity for v in ("1", "2"))
    assert first != second
    # With a version the code itself may change: that is the user's word.
    assert first == dataclasses.replace(simulator, version="1", function=with_comment, name="curve").identity


SCRIPT = """
import collections, datetime, decimal, enum, json, sys
import numpy as np, pandas as pd
from scipy import sparse
from scipy.interpolate import CubicSpline
from uqms.simulators import FunctionSimulator
WIDTH = {width}

class Way(enum.Enum):
    UP = 1

class Plain: pass

THINGS = [
    {{"x", "y", "z"}}, frozenset({{("a", 1), "b"}}), np.array([Plain(), {{"u", "v", "w"}}, None], dtype=object),
    pd.DataFrame({{"a": [1.0], "b": ["x"]}}), CubicSpline([0, 1, 2], [0, 1, 2]), collections.deque([{{"p", "q"}}]),
    Way.UP, decimal.Decimal("1.5"), datetime.date(2020, 1, 1), np.random.default_rng(1), np.sin, len, pd.Series, Plain,
]

class Model:
    def __init__(self, k): self.k = k
    def run(self, a): return helper(a) * self.k   {comment}

def helper(a):
    {comment}
    if a > 9: return recursive(a - 1)
    return a * WIDTH {change}

def recursive(a): return helper(a)

def sets(a): return helper(len(THINGS))

for f in (helper, sets, Model(3).run, lambda a: helper(a) if a in {{"x", "y", "z", "w"}} else helper(2.5)):
    print(json.dumps(FunctionSimulator(f, outputs={{"y": ()}}).identity))
"""


def script_identity(tmp_path, hash_seed=0, **fills):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(**{"width": 2, "comment": "", "change": "", **fills}))
    seeded = {**env(), "PYTHONHASHSEED": str(hash_seed)}
    return subprocess.run([sys.executable, path], check=True, capture_output=True, text=True, env=seeded).stdout


def env():
    import os
    from pathlib import Path

    import uqms

    return {**os.environ, "PYTHONPATH": str(Path(uqms.__file__).parents[1])}


@pytest.mark.slow
def test_identity_of_a_script_is_the_same_in_every_process(tmp_path):
    base = script_identity(tmp_path)
    assert script_identity(tmp_path, hash_seed=1) == base
    assert script_identity(tmp_path, comment="# said otherwise") == base
    changed = script_identity(tmp_path, change="+ 1").splitlines()
    wider = script_identity(tmp_path, width=3).splitlines()
    for old, new, wide in zip(base.splitlines(), changed, wider, strict=True):
        assert old != new
        assert old != wide


def test_a_simulator_is_frozen(simulator):
    with pytest.raises(dataclasses.FrozenInstanceError):
        simulator.version = "2"
    with pytest.raises(ValueError, match="read-only"):
        simulator.coords["day"][0] = 9.0


def received(k: float, regimen: uq.Regimen) -> dict[str, float]:
    """Return what a simulator that takes a regimen got."""
    return {"amount": k * regimen.amounts[0], "times": sum(regimen.times), "duration": regimen.durations[0]}


def test_a_function_gets_the_regimen_that_its_inputs_say() -> None:
    usual = uq.Regimen.repeated(100.0, every=8.0, doses=3, duration=0.5)
    outputs = {"amount": (), "times": (), "duration": ()}
    simulator = uq.FunctionSimulator(received, outputs=outputs, regimen=usual)
    assert simulator.inputs == ("k",)
    simulator.prepare(("k", "dose", "doses"))
    assert simulator.evaluate({"k": 2.0}) == {"amount": 200.0, "times": 24.0, "duration": 0.5}
    assert simulator.evaluate({"k": 2.0, "dose": 10.0, "doses": 2.0}) == {
        "amount": 20.0,
        "times": 8.0,
        "duration": 0.5,
    }
    assert simulator.evaluate({"k": 1.0, "interval": 6.0, "duration": 0.0})["times"] == 18.0
    space = uq.ParameterSpace(k=uq.Uniform(1.0, 2.0), conditions={"dose": uq.Condition(50.0, 200.0)})
    runs = uq.run(simulator, uq.sobol(space, 8, rng=1), workers=1)
    np.testing.assert_allclose(runs["amount"], runs["k"] * runs["dose"], rtol=1e-12)


def test_another_usual_regimen_is_another_simulator() -> None:
    several = [
        uq.FunctionSimulator(received, outputs={"amount": ()}, regimen=regimen, version="1").identity
        for regimen in (uq.Regimen.single(1.0), uq.Regimen.single(1.0, route="iv"), uq.Regimen.single(2.0))
    ]
    assert len({json.dumps(one, sort_keys=True) for one in several}) == 3
    same = uq.FunctionSimulator(received, outputs={"amount": ()}, regimen=uq.Regimen.single(1.0), version="1")
    assert same.identity == several[0]


def test_a_regimen_that_a_function_cannot_take() -> None:
    def without(k: float) -> float:
        return k

    def twice(dose: float, regimen: uq.Regimen) -> float:
        return dose

    usual = uq.Regimen.single(1.0)
    for function, regimen, words in (
        (without, usual, "does not take a regimen; call its argument 'regimen'"),
        (twice, usual, "takes 'dose' and a regimen"),
        (received, 3.0, "regimen is 3.0; give the usual one"),
        (received, uq.Regimen.single(1.0, time=2.0), "not regular, it begins at 2"),
    ):
        with pytest.raises(InputError, match=words):
            uq.FunctionSimulator(function, outputs={"y": ()}, regimen=regimen)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"missing a required argument: 'regimen'.* regimen=uq\.Regimen"):
        uq.FunctionSimulator(received, outputs={"y": ()}).prepare(("k",))

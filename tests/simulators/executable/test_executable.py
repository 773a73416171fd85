"""Programs as simulators: what goes in, what is believed, what each failure is called, and what must not get out."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from clocks import patient_workers

from uqms.ensemble import from_netcdf
from uqms.errors import (
    DataWarning,
    InputError,
    OutputError,
    PathError,
    SimulatorFailed,
    SimulatorNotFound,
    SimulatorTimeout,
    StorageError,
    TemplateError,
    UnsafeFileError,
)
from uqms.runs import RunState, run
from uqms.simulators import Simulator
from uqms.simulators.deadline import deadline
from uqms.simulators.executable import ExecutableSimulator
from uqms.simulators.executable.ending import results
from uqms.simulators.executable.result_readers import JSONFile, NetCDFFile, TextTable
from uqms.simulators.executable.surroundings import clock, content_hash, fill, masked

ECHO = 'import sys, json; json.dump({"y": 1.0, "argv": sys.argv[1:]}, open("out.json", "w"))'


def program(script, *arguments, outputs=None, read=None, **options):
    """Return a shell script as a simulator; it uses the input `a` unless it says otherwise."""
    templates = {"run.sh": script, **options.pop("templates", {})}
    if "{{" not in script and not any("{{" in str(a) for a in arguments):
        templates["input"] = "{{ a }}"
    return ExecutableSimulator(
        ["sh", "run.sh", *arguments],
        outputs=outputs or {"y": ()},
        read=read or JSONFile("out.json"),
        templates=templates,
        **options,
    )


def python(code, *arguments, **options):
    options = {"outputs": {"y": ()}, "read": JSONFile("out.json"), **options}
    return ExecutableSimulator([Path(sys.executable), "-SEc", code, *arguments], **options)


def arguments(*given, config=None, **point):
    """Return the arguments that reach a program."""
    got = []
    simulator = python(
        ECHO, *given, config=config or {}, read=lambda f: got.append(json.loads((f / "out.json").read_text())) or 1.0
    )
    simulator.prepare(list(point))
    simulator.evaluate(point)
    return got[0]["argv"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "runs"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "runs"))  # of workers


@pytest.fixture
def left(tmp_path):
    return lambda: sorted(path.name for path in (tmp_path / "runs").iterdir())


# ------------------------------------------------------------------------------------------------------------- success
def test_a_run_from_templates_to_arrays(tmp_path, left):
    (tmp_path / "solid.inp").write_text("E={{ E }}\nn={{ cells }} scheme={{ scheme }}\n")
    simulator = ExecutableSimulator(
        ["sh", "solve.sh", "--nu", "{{ nu }}"],
        templates={
            "in/solid.inp": tmp_path / "solid.inp",
            "solve.sh": 'cat in/solid.inp mesh > seen; echo "t u\n0 $2\n1 2" > out.txt',
        },
        files={"mesh": tmp_path / "mesh.dat"},
        outputs={"u": ("t",), "seen": ()},
        coords={"t": [0.0, 1.0]},
        units={"u": "mm"},
        config={"cells": 20, "scheme": "up wind"},
        read=lambda folder: {
            **TextTable("out.txt", {"u": "u"}).read(folder, {"u": ("t",)}),
            "seen": len((folder / "seen").read_text()),
        },
    )
    (tmp_path / "mesh.dat").write_text("1 2 3\n")
    assert isinstance(simulator, Simulator)
    assert simulator.inputs == ("nu", "E")
    simulator.prepare(["E", "nu"])
    got = simulator.evaluate({"E": 0.1, "nu": -0.25})
    np.testing.assert_array_equal(got["u"], [-0.25, 2.0])
    assert got["seen"] == len("E=0.1\nn=20 scheme=up wind\n1 2 3\n")
    assert left() == []


def test_results_of_every_kind_and_from_several_files(tmp_path):
    data = xr.Dataset({"f": (("x", "t"), np.arange(4.0).reshape(2, 2))}, coords={"t": np.array([0.1, 0.2], np.float32)})
    data.to_netcdf(tmp_path / "f.nc")
    simulator = program(
        'echo \'{"y": 1}\' > out.json; echo "{{ a }}"; cat keep.nc > f.nc',
        files={"keep.nc": tmp_path / "f.nc"},
        outputs={"y": (), "a": (), "f": ("t", "x")},
        coords={"t": [0.1, 0.2], "x": [0.0, 1.0]},
        read=[
            JSONFile("out.json", {"y": "y"}),
            TextTable("uqms.log", {"a": 0}, header=False),
            NetCDFFile("f.nc", {"f": "f"}),
        ],
    )
    got = simulator.evaluate({"a": 0.5})
    assert (got["y"], got["a"]) == (1.0, 0.5)
    np.testing.assert_array_equal(got["f"], [[0, 2], [1, 3]])
    other = dataclasses.replace(simulator, coords={"t": [0.1, 0.3], "x": [0.0, 1.0]})
    with pytest.raises(OutputError, match="'f' comes at other values of 't'"):
        other.evaluate({"a": 0.5})
    twice = dataclasses.replace(simulator, read=[JSONFile("out.json"), JSONFile("out.json", {"y": "y"})])
    with pytest.raises(OutputError, match="'y' stands in out.json and in another file"):
        twice.evaluate({"a": 0.5})


DAYS = 2459000.5 + np.arange(5.0)


@pytest.mark.parametrize(
    ("declared", "written", "same"),
    [
        (DAYS, DAYS, True),
        (DAYS, DAYS[::-1], False),
        (DAYS, DAYS + 1.0, False),
        (DAYS, DAYS + 0.005, False),
        (DAYS, DAYS + 0.0005, True),
        (DAYS, DAYS.astype(np.float32), True),
        (DAYS / 10, (DAYS / 10).astype(np.float32), False),  # these cannot tell the days
        ([0.1, 0.2, 0.3], np.array([0.1, 0.2, 0.3], np.float32), True),
        ([3.0, 1.0, 2.0], [3.0, 1.0, 2.0], True),
        ([1.0, 2.0], [1.0, np.nan], False),
        ([0.0, 1e-9], [0.0, 1.1e-9], False),
        ([1e6], [1e6 + 0.05], True),
        ([1e6], [1e6 + 1.0], False),
        (["aorta", "1"], ["aorta", 1.0], True),
        (["aorta", "vein"], ["vein", "aorta"], False),
        ([1.0, 2.0], ["a", "b"], False),
    ],
)
def test_results_come_at_the_declared_coordinates(declared, written, same, tmp_path):
    """From a netCDF file, a table, JSON, a function that names them, and pandas."""
    written = list(written) if isinstance(written, list) else written
    values = np.arange(len(declared) * 1.0)
    texts = [str(v) if isinstance(v, str) else repr(float(v)) for v in written]
    (tmp_path / "out.txt").write_text("t y\n" + "".join(f"{t} {y}\n" for t, y in zip(texts, values, strict=True)))
    places = [v if isinstance(v, str) else float(v) for v in written]
    (tmp_path / "out.json").write_text(json.dumps({"t": places, "y": values.tolist()}))
    series = pd.Series(values, index=pd.Index(places, name="t"))
    readers = [
        TextTable("out.txt"),
        JSONFile("out.json"),
        lambda f: {"y": values, "t": places},
        lambda f: {"y": series},
    ]
    if len({type(place) for place in places}) == 1:
        xr.Dataset({"y": ("t", values)}, coords={"t": np.asarray(written)}).to_netcdf(tmp_path / "out.nc")
        readers.append(NetCDFFile("out.nc"))
    for read in readers:
        read = read if callable(read) else [read]
        arguments = (read, tmp_path, 0, {"y": ("t",)}, {"t": np.array(declared)}, {})
        if same:
            np.testing.assert_array_equal(results(*arguments)["y"], values)
        else:
            with pytest.raises(
                OutputError, match=r"comes at other values of 't' than declared in coords: number \d is"
            ):
                results(*arguments)


def test_labels_of_pandas_count_without_a_name_but_positions_do_not(tmp_path):
    def read(index):
        got = pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], index=index, columns=["p", "q"])
        return results(lambda f: {"y": got}, tmp_path, 0, {"y": ("t", "x")}, coords, {})["y"]

    coords = {"t": np.array([0.0, 0.5]), "x": np.array(["p", "q"])}
    for index in (None, [0.0, 0.5]):
        np.testing.assert_array_equal(read(index), [[1, 2], [3, 4]])
    with pytest.raises(OutputError, match="'y' comes at other values of 't' .*number 1 is 0.6 instead of 0.5"):
        read([0.0, 0.6])
    coords["x"] = np.array(["q", "p"])
    with pytest.raises(OutputError, match="'y' comes at other values of 'x'"):
        read(None)


def test_coordinates_of_another_number_are_told_by_the_shape():
    simulator = program(
        "printf 't y\\n0 1\\n' > o", outputs={"y": ("t",)}, coords={"t": [0.0, 1.0]}, read=TextTable("o")
    )
    with pytest.raises(OutputError, match=r"output 'y' has shape \(1,\)"):
        simulator.evaluate({"a": 1.0})


@pytest.mark.parametrize(("unit", "same"), [("mmHg", True), (" mmHg", True), ("kPa", False), (None, True), (1, True)])
@pytest.mark.parametrize("dim", ["t", "record"])
def test_units_of_a_file_are_the_declared_ones(unit, same, dim, tmp_path):
    data = xr.Dataset({"y": (dim, [1.0, 2.0], {} if unit is None else {"units": unit}), "z": ((), 3.0, {"units": "s"})})
    data.to_netcdf(tmp_path / "out.nc")
    outputs, units = {"y": ("t",), "z": ()}, {"y": "mmHg"}
    arguments = ([NetCDFFile("out.nc")], tmp_path, 0, outputs, {"t": np.arange(2.0)}, units)
    if same:
        np.testing.assert_array_equal(results(*arguments)["y"], [1.0, 2.0])
    else:
        with pytest.raises(OutputError, match="output 'y' comes in 'kPa', but units declares 'mmHg'"):
            results(*arguments)


def test_a_campaign_with_seeds_survives_pickle_and_store(tmp_path):
    simulator = program('echo "{\\"y\\": $1}" > out.json; : {{ seed }} {{ a }}', "{{ a }}", seed="seed")
    copy = cloudpickle.loads(cloudpickle.dumps(simulator))
    assert copy.identity == simulator.identity
    assert copy.inputs == ("a",)
    assert copy.evaluate({"a": 3.0, "seed": 7})["y"] == 3.0


def test_many_runs_through_run(tmp_path):
    simulator = program('echo "{\\"y\\": $1}" > out.json', "{{ a }}")
    ensemble = run(simulator, {"a": np.arange(12.0)}, workers=2, store=tmp_path / "runs.db")
    np.testing.assert_array_equal(ensemble["y"], np.arange(12.0))
    again = run(simulator, {"a": np.arange(12.0)}, workers=0, store=tmp_path / "runs.db")
    assert again.drop_attrs().equals(ensemble.drop_attrs())


def foreign(folder):
    raise UnsafeFileError("it would read other files")


# ------------------------------------------------------------------------------------------------------------ failures
FAILURES = [  # script, options, error, message
    ("exit 3", {}, SimulatorFailed, "FAILED", "sh ended with the exit code 3"),
    ("kill -SEGV $$", {}, SimulatorFailed, "FAILED", "sh was ended by the signal SIGSEGV"),
    ("kill -KILL $$", {}, SimulatorFailed, "FAILED", "by the signal SIGKILL: out of memory?"),
    (
        "sleep 60",
        {"timeout": 0.2},
        SimulatorTimeout,
        "TIMEOUT",
        r"sh did not end within [\d.]+ s; it was killed with 1 processes",
    ),
    ("yes", {"log_limit": 10**5}, SimulatorFailed, "FAILED", r"sh wrote more than 0.0954 MB to its log and was killed"),
    (
        "echo '{\"y\": 1}' > out.json; echo ERROR: no mesh",
        {},
        SimulatorFailed,
        "FAILED",
        "ended with success, but printed 'ERROR: no mesh'",
    ),
    ("echo fine; echo 'FATAL 3' >&2", {}, SimulatorFailed, "FAILED", "printed 'FATAL 3'"),
    (
        "echo ' ERROR: as Fortran writes'; rm uqms.log",
        {},
        SimulatorFailed,
        "FAILED",
        "printed ' ERROR: as Fortran writes'",
    ),
    ("echo '{\"y\": NaN}' > out.json", {}, OutputError, "INVALID", "output 'y' is nan"),
    ("echo '{\"y\": 1e999}' > out.json", {}, OutputError, "INVALID", "output 'y' is inf"),
    ("echo '{\"y\": [1, 2]}' > out.json", {}, OutputError, "INVALID", r"output 'y' has shape \(2,\)"),
    ("echo '{\"z\": 1}' > out.json", {}, OutputError, "INVALID", "out.json holds z, but none of the outputs y"),
    ("true", {}, OutputError, "INVALID", "the run left no out.json; it left input, run.sh, uqms.log"),
    (": > out.json", {}, OutputError, "INVALID", "out.json is empty"),
    ("echo '{\"y\": 1' > out.json", {}, OutputError, "INVALID", "out.json is not JSON .*begins with"),
    (
        "head -c 99 /dev/zero > out.json",
        {},
        OutputError,
        "INVALID",
        "out.json is not JSON .*begins with the bytes 00 00",
    ),
    ("ln -s /etc/hostname out.json", {}, PathError, "FAILED", "out.json is a link that leads out of the run directory"),
    ("true", {"templates": {"out.json": '{"y": 1}'}}, OutputError, "INVALID", "out.json is older than the run"),
    (
        "echo '{\"y\": 1}' > out.json; touch -d '1 hour ago' out.json",
        {},
        OutputError,
        "INVALID",
        "out.json is older than the run",
    ),
    (
        "true",
        {"read": lambda folder: {"y": (folder / "no").read_text()}},
        OutputError,
        "INVALID",
        "cannot be read: FileNotFoundError",
    ),
    (
        "true",
        {"read": lambda folder: {"y": {}["y"]}},
        OutputError,
        "INVALID",
        "the results cannot be read: KeyError: 'y'",
    ),
    ("true", {"read": foreign}, UnsafeFileError, "FAILED", "it would read other files"),
    ("true", {"read": lambda f: from_netcdf(f / "input")}, OutputError, "INVALID", "cannot be read: FormatError: "),
]


@pytest.mark.parametrize(("script", "options", "kind", "state", "message"), FAILURES)
def test_each_failure_has_its_type_its_place_and_the_last_words(script, options, kind, state, message, left):
    simulator = program(f"echo marked words\n{script}", **options)
    simulator.prepare(["a"])
    with pytest.raises(kind, match=message) as caught:
        simulator.evaluate({"a": 1.0})
    assert type(caught.value) is kind
    (name,) = left()
    assert re.search(rf"Run directory: .*/{name}\. The last lines that it printed:\n", str(caught.value))
    if "yes" not in script:
        assert "marked words" in str(caught.value).partition("The last lines that it printed:\n")[2]
    assert len(str(caught.value)) < 4000


def test_failures_are_states_of_an_ensemble_with_the_last_words(tmp_path):
    scripts = dict(enumerate(FAILURES[:17]))
    chosen = "case $1 in\n" + "\n".join(f"{i}) {script} ;;" for i, (script, *_) in scripts.items()) + "\nesac"
    simulator = program(f"echo marked words\n{chosen}", "{{ '%d' | format(a) }}", timeout=1.0, log_limit=10**5)
    with patient_workers(), pytest.warns(DataWarning, match="17 of 17 runs did not complete"):
        ensemble = run(simulator, {"a": np.arange(17.0)}, workers=2, store=tmp_path / "runs.db")
    for i, (script, _, kind, state, message) in scripts.items():
        assert RunState(ensemble["state"].values[i]).name == state, script
        told = str(ensemble["message"].values[i])
        assert told.startswith(kind.__name__ + ": ")
        assert re.search(message.replace("input, ", ""), told), told
        assert script == "yes" or "marked words" in told
    assert np.isnan(ensemble["y"].values).all()


def test_what_a_run_finds_is_older_than_its_start_even_by_a_coarse_clock(tmp_path):
    (tmp_path / "mesh").write_text("1 2 3")
    (tmp_path / "run").mkdir()
    fill(tmp_path / "run", {"deck": "x"}, {"sub/mesh": tmp_path / "mesh"})
    begin = clock(tmp_path / "run")
    for name in ("deck", "sub/mesh"):
        assert (tmp_path / "run" / name).stat().st_mtime_ns < begin - 10**9
    (tmp_path / "run" / "new").touch()
    assert (tmp_path / "run" / "new").stat().st_mtime_ns >= begin


def test_what_can_be_used_of_a_run_stays():
    simulator = program(
        "echo '{\"c\": [1, NaN, 3]}' > out.json",
        outputs={"c": ("t",), "y": ()},
        coords={"t": [0.0, 0.5, 1.0]},
    )
    with pytest.raises(OutputError, match=r"without y.* Run directory") as caught:
        simulator.evaluate({"a": 1.0})
    np.testing.assert_array_equal(caught.value.partial["c"], [1, np.nan, 3])
    assert np.isnan(caught.value.partial["y"])
    with pytest.warns(DataWarning):
        ensemble = run(simulator, {"a": [1.0]}, workers=1)
    assert ensemble["state"].values[0] == RunState.PARTIAL


def test_memory_is_limited_and_told():
    simulator = python("x = bytearray(10**9)", "{{ a }}", memory=3 * 10**8)
    with pytest.raises(SimulatorFailed, match=r"exit code 1\. It may have 286 MB of memory\.(.|\n)*MemoryError"):
        simulator.evaluate({"a": 1.0})


def test_a_log_that_is_too_long_is_cut_at_its_limit(left, tmp_path):
    with pytest.raises(SimulatorFailed, match="to its log"):
        program("yes", log_limit=10**5).evaluate({"a": 1.0})
    (name,) = left()
    assert (tmp_path / "runs" / name / "uqms.log").stat().st_size == 10**5


def test_a_program_does_not_wait_for_words_that_were_meant_for_us(tmp_path):
    code = (
        "import os; from pathlib import Path; from uqms.simulators.executable.supervised import supervise; "
        "f = Path('.'); "
        "print(supervise(['cat'], folder=f, environment=os.environ, log=f / 'log', timeout=60).timed_out)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
    ) as process:  # its input stays open
        assert process.stdout.read().split() == [b"False"]


@pytest.mark.parametrize(("code", "signal"), [(139, "SIGSEGV"), (137, "SIGKILL: out of memory?"), (143, "SIGTERM")])
def test_exit_codes_by_which_launchers_tell_a_signal(code, signal):
    with pytest.raises(SimulatorFailed, match=rf"exit code {code}\. A shell .* was ended by {signal}"):
        program(f"exit {code}").evaluate({"a": 1.0})
    with pytest.raises(SimulatorFailed, match=r"exit code 255\. Run directory"):
        program("exit 255").evaluate({"a": 1.0})


def test_names_that_are_no_inputs_are_refused():
    simulator = program("{{ a }} {{ n }}", config={"n": 3}, templates={"deck": "{{ b }}{{ seed }}"}, seed="seed")
    for extra in ("n", "typo"):
        with pytest.raises(InputError, match=f"sh has no input '{extra}'; its inputs are a, b, and config is fixed"):
            simulator.evaluate({"a": 1.0, "b": 2.0, "seed": 3, extra: 7.0})


def test_the_deadline_of_the_run_is_told_by_the_simulator():
    with deadline(0.3), pytest.raises(SimulatorTimeout, match=r"did not end within 0\.\d"):
        program("sleep 60").evaluate({"a": 1.0})
    with patient_workers(), pytest.warns(DataWarning):
        ensemble = run(program("echo begun; sleep 60"), {"a": [1.0]}, workers=1, timeout=1.0)
    assert ensemble["state"].values[0] == RunState.TIMEOUT
    assert "begun" in str(ensemble["message"].values[0])


def test_what_counts_as_success_can_be_said():
    script = "echo '{\"y\": 1}' > out.json; echo ERROR 1e-9; exit 2"
    assert program(script, success=(0, 2), error_pattern=None).evaluate({"a": 1.0})["y"] == 1.0
    with pytest.raises(SimulatorFailed, match="exit code 2"):
        program(script, error_pattern=None).evaluate({"a": 1.0})
    with pytest.raises(SimulatorFailed, match="printed '  diverged at step 3'"):
        program("echo '{\"y\": 1}' > out.json; echo '  diverged at step 3'", error_pattern="diverged").evaluate(
            {"a": 1.0}
        )
    harmless = "echo '{\"y\": 1}' > out.json; echo 'L2 ERROR 1e-3'; echo 'no error'; echo ERRORS: 0; echo Error"
    assert program(harmless).evaluate({"a": 1.0})["y"] == 1.0


@pytest.mark.parametrize(("keep", "good", "bad"), [("failed", 0, 1), ("always", 1, 1), ("never", 0, 0)])
def test_which_run_directories_stay(keep, good, bad, left):
    program("echo '{\"y\": 1}' > out.json", keep=keep).evaluate({"a": 1.0})
    assert len(left()) == good
    with pytest.raises(SimulatorFailed) as caught:
        program("exit 1", keep=keep).evaluate({"a": 1.0})
    assert len(left()) == good + bad
    assert ("Run directory" in str(caught.value)) is bool(bad)


ORPHAN = """
import os, sys
from pathlib import Path
from uqms.simulators.executable import ExecutableSimulator

def read(folder):
    os.kill(os.getpid(), 9)

ExecutableSimulator(["true"], outputs={"y": ()}, read=read, keep=sys.argv[1]).evaluate({})
"""


@pytest.mark.parametrize(("keep", "count"), [("never", 0), ("failed", 0), ("always", 1)])
def test_the_next_campaign_removes_what_killed_runs_have_left(keep, count, left):
    subprocess.run([sys.executable, "-c", ORPHAN, keep], check=False)
    assert any(name.startswith("true-") for name in left())
    program("true").prepare(["a"])
    assert len(left()) == count


def test_what_goes_on_and_what_was_kept_is_not_removed(tmp_path, left):
    def read(folder):
        (folder / "data").touch()
        simulator.prepare(["a"])  # another campaign begins
        return float((folder / "data").exists())

    simulator = program("true", read=read, folder=tmp_path / "runs")
    assert simulator.evaluate({"a": 1.0})["y"] == 1.0
    with pytest.raises(SimulatorFailed):
        program("exit 1", folder=tmp_path / "runs").evaluate({"a": 1.0})
    simulator.prepare(["a"])
    assert len(left()) == 1


def test_every_run_has_a_fresh_directory_of_its_own(tmp_path):
    simulator = program(
        'test ! -e mark && touch mark && echo "{\\"y\\": 1}" > out.json',
        keep="always",
        folder=tmp_path / "new" / "deep",
    )
    for _ in range(3):
        simulator.evaluate({"a": 1.0})
    assert len(list((tmp_path / "new" / "deep").iterdir())) == 3
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="no run directory can be made in"):
        dataclasses.replace(simulator, folder=tmp_path / "file").evaluate({"a": 1.0})


# ------------------------------------------------------------------------------------------------- before the first run
def test_programs_that_are_not_there(tmp_path, monkeypatch):
    def prepared(*command, **options):
        simulator = ExecutableSimulator([*command, "{{ a }}"], outputs={"y": ()}, read=JSONFile("o"), **options)
        simulator.prepare(["a"])
        return simulator

    with pytest.raises(SimulatorNotFound, match="there is no program 'no-such-solver' in the folders of PATH"):
        prepared("no-such-solver")
    with pytest.raises(SimulatorNotFound, match=r"there is no program .*/solver; check the path"):
        prepared(tmp_path / "solver")
    (tmp_path / "solver").write_text("#!/bin/sh\necho '{\"y\": 5}' > o\n")
    with pytest.raises(SimulatorNotFound, match=r"solver cannot be executed; make it executable \(chmod \+x\)"):
        prepared(str(tmp_path / "solver"))
    with pytest.raises(SimulatorNotFound, match="cannot be executed"):
        prepared(tmp_path)
    (tmp_path / "solver").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    relative = prepared("./solver")
    monkeypatch.chdir("/")
    assert relative.evaluate({"a": 1.0})["y"] == 5  # found where it was when the simulator was made
    assert prepared("solver", environment={"PATH": f"{tmp_path}:/bin:/usr/bin"}).evaluate({"a": 1.0})["y"] == 5
    with pytest.raises(SimulatorNotFound, match="no program 'solver'"):
        run(ExecutableSimulator(["solver", "{{ a }}"], outputs={"y": ()}, read=JSONFile("o")), {"a": [1.0]}, workers=1)


def test_programs_that_cannot_be_started(tmp_path):
    def start(text):
        (tmp_path / "solver").write_text(text)
        (tmp_path / "solver").chmod(0o755)
        ExecutableSimulator([tmp_path / "solver", "{{ a }}"], outputs={"y": ()}, read=JSONFile("o")).evaluate(
            {"a": 1.0}
        )

    with pytest.raises(SimulatorNotFound, match="is the interpreter on its first line there?"):
        start("#!/no/such/interpreter\n")
    with pytest.raises(SimulatorFailed, match="does a script lack its first line"):
        start("echo without a first line\n")


def test_names_that_do_not_fit_are_told_before_any_run(tmp_path):
    simulator = program("echo {{ a }} {{ n }}\n\necho {{ alpah }}", config={"n": 3})
    with pytest.raises(TemplateError, match="run.sh, line 3: nothing provides a value for 'alpah'; there are a, n"):
        simulator.prepare(["a"])
    with pytest.raises(TemplateError, match="'b' stands in no template and in no argument of sh"):
        simulator.prepare(["a", "alpah", "b"])
    simulator.prepare(["alpah", "a"])
    with pytest.raises(TemplateError, match=r"run.sh, line 1: n is no number .* tojson"):
        dataclasses.replace(simulator, config={"n": True}).prepare(["a", "alpah"])
    with pytest.raises(TemplateError, match="'m' stands in no template"):
        dataclasses.replace(simulator, config={"n": 3, "m": 1}).prepare(["a", "alpah"])
    with pytest.raises(TemplateError, match="'seed' stands in no template"):
        dataclasses.replace(simulator, seed="seed").prepare(["a", "alpah"])
    with pytest.raises(TemplateError, match=r"command\[2\], line 1: nothing provides a value for 'beta'"):
        program("true", "{{ beta }}").prepare(["a"])
    with pytest.raises(TemplateError, match=r"command\[2\], line 1: unexpected"):
        program("true", "{{ beta")
    with pytest.raises(TemplateError, match="template .*/no cannot be read: No such file"):
        program("true", templates={"x": tmp_path / "no"})
    for name in ("b-c", "b; touch canary", "{{ b }}", ""):
        with pytest.raises(TemplateError, match="cannot stand in a template; rename it"):
            simulator.prepare(["a", "alpah", name])
    with pytest.raises(InputError, match="'n' is an input and stands in config"):
        simulator.prepare(["a", "alpah", "n"])
    with pytest.raises(TemplateError):
        run(simulator, {"a": [1.0]}, workers=1)


def test_files_to_copy_are_there_before_any_run(tmp_path):
    simulator = program("true", files={"mesh": tmp_path / "mesh"})
    with pytest.raises(InputError, match="files names .*/mesh, which is no file"):
        simulator.prepare(["a"])
    with pytest.raises(StorageError, match="cannot be filled"):
        simulator.evaluate({"a": 1.0})


def test_memory_limits_where_there_are_none(monkeypatch):
    monkeypatch.setattr("uqms.simulators.executable.simulator.can_limit_memory", False)
    with pytest.raises(InputError, match="memory= needs Linux"):
        program("true", memory=10**9).prepare(["a"])


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"command": "solver --alpha 3"}, InputError, "give a list of program and arguments"),
        ({"command": Path("solver")}, InputError, "give a list of program"),
        ({"command": []}, InputError, "command is"),
        ({"command": ["", "x"]}, InputError, "begins with an empty text"),
        ({"command": ["cat", 3]}, InputError, "command holds 3"),
        ({"command": ["cat", "a\0b"]}, InputError, "without NUL"),
        ({"command": ["ca\0t"]}, InputError, "without NUL"),
        ({"read": "out.json"}, InputError, "read is 'out.json'"),
        ({"read": []}, InputError, "read is"),
        ({"read": JSONFile("o", {"z": "z"})}, InputError, "looks for 'z', which is not an output"),
        (
            {"read": [JSONFile("o", {"y": "z"})], "outputs": {"y": (), "x": ()}},
            InputError,
            "'x' is looked for in no file",
        ),
        ({"templates": {"../x": ""}}, PathError, "leads out of the run directory"),
        ({"templates": {"/tmp/x": ""}}, PathError, "leads out of the run directory"),
        ({"templates": {"a\0b": ""}}, PathError, "a name in templates"),
        ({"templates": {"x": 3}}, InputError, "the template of 'x' is 3"),
        ({"templates": "x"}, InputError, "templates is 'x'"),
        ({"templates": {"uqms.log": ""}}, PathError, "uqms.log is the log of a run"),
        ({"files": {"../x": "x"}}, PathError, "leads out of the run directory"),
        ({"files": {"x": "x"}, "templates": {"./x": ""}}, PathError, "'x' stands in templates and in files"),
        ({"outputs": {}}, InputError, "give each output its dims"),
        ({"outputs": {"y": ("t",)}}, InputError, "no coords"),
        ({"config": {"n": [1]}}, InputError, "config has 'n'"),
        ({"version": 1}, InputError, "version is 1"),
        ({"keep": "some"}, InputError, "keep is 'some'"),
        ({"timeout": 0}, InputError, "timeout is 0"),
        ({"timeout": np.inf}, InputError, "timeout is inf"),
        ({"memory": 1e9}, InputError, "memory is 1000000000.0"),
        ({"log_limit": None}, InputError, "log_limit is None"),
        ({"success": 0}, InputError, "success is 0"),
        ({"success": (True,)}, InputError, "success holds True"),
        ({"error_pattern": "("}, InputError, r"error_pattern is '\('"),
        ({"environment": {"A=B": "x"}}, InputError, "'A=B' cannot be the name"),
        ({"environment": {"A": 1}}, InputError, "environment has 'A' = int"),
        ({"environment": {"UQMS_RUN": "x"}}, InputError, "'UQMS_RUN' cannot be the name"),
        ({"inherit": "HOME"}, InputError, "inherit is 'HOME'"),
        ({"memory": 10**9, "environment": {"a.b": "x"}}, InputError, "which drops the variable 'a.b'"),
        ({"memory": 10**9, "inherit": ["a.b"]}, InputError, "which drops the variable 'a.b'"),
    ],
)
def test_construction_names_what_cannot_be_meant(options, kind, message):
    usual = {"command": ["cat", "{{ a }}"], "outputs": {"y": ()}, "read": JSONFile("o")}
    with pytest.raises(kind, match=message):
        ExecutableSimulator(**{**usual, **options})


# ---------------------------------------------------------------------------------------------------- hostile contents
CORPUS = [
    *("; touch canary", "$(touch canary)", "`touch canary`", "a\ntouch canary", "| touch canary", "&& touch canary"),
    *("> canary", "{{7*7}}", "{% raw %}", "*", "~", "a b", "'", '"', "\\", "é\u200b", "%s", "@file"),
]


@pytest.mark.parametrize("text", CORPUS)
def test_texts_reach_the_program_literally_and_no_shell(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert arguments("{{ word }}", "x={{ word }}{{ a }}", config={"word": text}, a=1.0) == [text, f"x={text}1.0"]
    deck = python(
        'open("out.json", "w").write(\'{"y": %d}\' % len(open("deck").read()))',
        templates={"deck": "{{ word }}|{{ a }}"},
        config={"word": text},
    )
    assert deck.evaluate({"a": 1.0})["y"] == len(text) + 4
    assert not list(tmp_path.rglob("canary"))


@pytest.mark.parametrize(
    "name", ["; touch canary", "$(touch canary)", "`touch canary`", "-rf", "a b", "a\nb", "{{7*7}}"]
)
def test_strange_names_of_files_and_programs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy("/bin/cp", folder / name)
    (folder / "data").write_text('{"y": 4}')
    simulator = ExecutableSimulator(
        [folder / name, folder / "data", "out.json"],
        templates={name: "{{ a }}"},
        files={f"{name}2": folder / "data"},
        outputs={"y": ()},
        read=JSONFile("out.json"),
        name=name,
        folder=folder / "runs",
    )
    simulator.prepare(["a"])
    assert simulator.evaluate({"a": 1.0})["y"] == 4
    assert not [path for path in tmp_path.rglob("*") if path.name == "canary"]


def test_numbers_may_be_negative_but_a_text_becomes_no_option():
    assert arguments("{{ a }}", "{{ n }}", config={"n": -3}, a=-0.5) == ["-0.5", "-3"]
    assert arguments("{{ word }}", "-x", "{{ a }}", config={"word": "-1e-3"}, a=-1e-300) == ["-1e-3", "-x", "-1.0e-300"]
    assert arguments("--mode={{ word }}", "-{{ word }}", "{{ a }}", config={"word": "-rf"}, a=0.0) == [
        "--mode=-rf",
        "--rf",
        "0.0",
    ]
    assert arguments("{% if on %}--fast{% endif %}", "{{ a }}", config={"on": True}, a=0.0) == ["--fast", "0.0"]
    for text in ("-rf", "--eval=x", "-", " -rf", "-x1"):
        simulator = python(ECHO, "{{ word | trim }}", "{{ a }}", config={"word": text})
        with pytest.raises(
            TemplateError, match=r"command\[3\] becomes '-.*', which the program would read as an option"
        ):
            simulator.prepare(["a"])
        with pytest.raises(TemplateError, match="as an option"):
            simulator.evaluate({"a": 1.0})


def test_a_nul_is_refused_in_arguments():
    with pytest.raises(TemplateError, match=r"command\[3\] becomes 'a\\x00b'; an argument cannot hold a NUL"):
        python(ECHO, "{{ word }}", "{{ a }}", config={"word": "a\0b"}).prepare(["a"])


# ------------------------------------------------------------------------------------------------------------- secrets
SECRET = "s3cr3t-f0r-tests"


def test_secrets_of_the_caller_go_nowhere(tmp_path, monkeypatch, left):
    monkeypatch.setenv("UQMS_TEST_TOKEN", SECRET)
    simulator = program("env; exit 1")
    with pytest.warns(DataWarning):
        ensemble = run(simulator, {"a": [1.0]}, workers=1, store=tmp_path / "runs.db")
    told = str(ensemble["message"].values[0])
    assert "OMP_NUM_THREADS=1" in told
    assert SECRET not in told + json.dumps(simulator.identity) + json.dumps(ensemble.attrs, default=str)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    assert left() != []  # with the log of the failed run


def test_secrets_stay_out_of_what_python_shows():
    assert SECRET not in repr(program("true", environment={"LICENSE": SECRET}))


@pytest.mark.parametrize("name", ["DB_PASS", "DB_PWD", "PGPASSWORD", "ApiKey"])
def test_names_that_tell_a_secret(name):
    assert masked(f"a {SECRET} b", {name: SECRET}, ()) == f"a <{name}> b"
    assert masked(f"in {SECRET}", {"PWD": SECRET}, ()) == f"in {SECRET}"


def test_secrets_that_are_passed_on_purpose_stay_out_of_messages_and_store(tmp_path, monkeypatch):
    monkeypatch.setenv("UQMS_TEST_TOKEN", SECRET)
    simulator = program(
        "echo ERROR $UQMS_TEST_TOKEN $LICENSE_KEY", inherit=["UQMS_TEST_TOKEN"], environment={"LICENSE_KEY": "abc-def"}
    )
    with pytest.warns(DataWarning):
        ensemble = run(simulator, {"a": [1.0]}, workers=1, store=tmp_path / "runs.db")
    told = str(ensemble["message"].values[0])
    assert "ERROR <UQMS_TEST_TOKEN> <LICENSE_KEY>" in told
    with sqlite3.connect(tmp_path / "runs.db") as db:
        stored = "\n".join(db.iterdump())
    db.close()
    for secret in (SECRET, "abc-def"):
        assert secret not in told + json.dumps(simulator.identity) + stored


def test_the_environment_of_a_run(monkeypatch, tmp_path):
    for name, value in {
        "PYTHONPATH": "/x",
        "LD_PRELOAD": "",
        "HTTP_PROXY": "p",
        "LC_TIME": "C",
        "MINE": "1",
        "OMP_NUM_THREADS": "7",
    }.items():
        monkeypatch.setenv(name, value)
    seen = {}
    code = 'import os, json; json.dump({"y": 1, **os.environ}, open("out.json", "w"))'
    simulator = python(
        code,
        "{{ a }}",
        inherit=["MINE", "NOT_THERE"],
        environment={"MKL_NUM_THREADS": "2", "YOURS": "x y"},
        read=lambda folder: seen.update(json.loads((folder / "out.json").read_text()), folder=str(folder)) or 1.0,
    )
    simulator.evaluate({"a": 1.0})
    assert seen["PATH"] == os.environ["PATH"]
    assert seen["TMPDIR"] == seen["folder"]
    assert (seen["MINE"], seen["YOURS"], seen["LC_TIME"]) == ("1", "x y", "C")
    assert (seen["OMP_NUM_THREADS"], seen["MKL_NUM_THREADS"]) == ("1", "2")
    assert not {"PYTHONPATH", "LD_PRELOAD", "HTTP_PROXY", "NOT_THERE"} & set(seen)


# ------------------------------------------------------------------------------------------------------------ identity
def test_identity_follows_what_is_computed(tmp_path, monkeypatch):
    (tmp_path / "solver").write_text("#!/bin/sh\n")
    (tmp_path / "solver").chmod(0o755)
    (tmp_path / "mesh").write_text("1 2 3")
    (tmp_path / "model.py").write_text("pass")

    monkeypatch.setenv("UQMS_INHERITED", SECRET)

    def identity(folder=tmp_path, **options):
        usual = {
            "command": [folder / "solver", folder / "model.py", "--fast", "{{ a }}"],
            "templates": {"deck": "{{ b }}"},
            "files": {"mesh": folder / "mesh"},
            "outputs": {"y": ()},
            "read": JSONFile("o"),
            "environment": {"TOKEN": SECRET},
        }
        return dict(ExecutableSimulator(**{**usual, **options}).identity)

    base = identity()
    assert base["kind"] == "executable"
    assert base["name"] == "solver"
    assert str(tmp_path) not in json.dumps(base)
    assert SECRET not in json.dumps(base)
    shutil.copytree(tmp_path, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("runs", "elsewhere"))
    assert identity(tmp_path / "elsewhere") == base
    for same in (
        {"timeout": 3},
        {"memory": 10**9},
        {"folder": tmp_path},
        {"keep": "never"},
        {"inherit": ["UQMS_NOT_SET"]},
        {"success": [0, 0]},
        {"log_limit": 5},
    ):
        assert identity(**same) == base
    for other in (
        {"templates": {"deck": "{{ b }} "}},
        {"templates": {"dock": "{{ b }}"}},
        {"environment": {"TOKEN": "x"}},
        {"environment": {}},
        {"command": [tmp_path / "solver", tmp_path / "model.py", "--slow", "{{ a }}"]},
        {"read": JSONFile("o", {"y": "z"})},
        {"read": lambda folder: 1.0},
        {"config": {"n": 1}},
        {"inherit": ["UQMS_INHERITED"]},
        {"success": (0, 2)},
        {"error_pattern": None},
        {"error_pattern": "ERROR"},
        {"seed": "seed"},
        {"name": "other"},
        {"version": "1"},
    ):
        assert identity(**other) != base, other
    assert identity(config={"n": np.float64(0.1)}) == identity(config={"n": 0.1})
    for name, text in (("solver", "#!/bin/sh\n#"), ("mesh", "1 2 4"), ("model.py", "pass #")):
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text)
        assert identity() != base, name
        (tmp_path / name).write_text(before)
    assert identity() == base
    inherited = identity(inherit=["UQMS_INHERITED"])
    assert SECRET not in json.dumps(inherited)
    monkeypatch.setenv("UQMS_INHERITED", "2")
    assert identity(inherit=["UQMS_INHERITED"]) != inherited
    jobs = []
    for job in ("1", "2"):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        jobs.append(identity(inherit=["SLURM_JOB_ID"]))
    assert jobs[0] == jobs[1]
    (tmp_path / "mesh").write_text("other")
    assert identity(version="2") == {
        "kind": "executable",
        "name": "solver",
        "version": "2",
        "outputs": {"y": []},
        "coords": {},
    }


def test_an_edited_program_gets_no_results_of_the_old_one(tmp_path):
    def write(factor):
        (tmp_path / "solver").write_text(f"#!/bin/sh\nread a < deck; echo $((a * {factor})) > o\n")
        (tmp_path / "solver").chmod(0o755)
        os.utime(tmp_path / "solver", (0, 0))  # as copying with its times does

    write("01")
    simulator = ExecutableSimulator(
        [tmp_path / "solver"], templates={"deck": "{{ '%d' | format(a) }}\n"}, outputs={"y": ()}, read=JSONFile("o")
    )
    first = run(simulator, {"a": [1.0, 2.0]}, workers=0, store=tmp_path / "runs.db")
    write("10")
    with pytest.warns(DataWarning, match="that are not used"):
        second = run(simulator, {"a": [1.0, 2.0, 3.0]}, workers=0, store=tmp_path / "runs.db")
    np.testing.assert_array_equal(second["y"], [10, 20, 30])
    write("01")
    third = run(simulator, {"a": [1.0, 2.0, 3.0]}, workers=0, store=tmp_path / "runs.db")
    np.testing.assert_array_equal(third["y"], [1, 2, 3])
    assert first.attrs["simulator"] == third.attrs["simulator"] != second.attrs["simulator"]


def test_files_that_stay_are_hashed_once(tmp_path, monkeypatch):
    (tmp_path / "mesh").write_text("1 2 3")
    first = content_hash(tmp_path / "mesh")
    monkeypatch.setattr("time.time", lambda: os.stat(tmp_path / "mesh").st_ctime + 10.0)
    assert content_hash(tmp_path / "mesh") == first == hashlib.sha256(b"1 2 3").hexdigest()
    monkeypatch.setattr("uqms.simulators.executable.surroundings._read_hash", lambda path: "read again")
    assert content_hash(tmp_path / "mesh") == first
    os.utime(tmp_path / "mesh", (0, 0))
    assert content_hash(tmp_path / "mesh") == "read again"


def test_a_folder_as_argument_counts_with_all_that_is_in_it(tmp_path, monkeypatch):
    def identity(name="case", **options):
        command = ["ls", tmp_path / name, "{{ a }}"]
        return ExecutableSimulator(command, outputs={"y": ()}, read=JSONFile("o"), **options).identity

    (tmp_path / "case/0").mkdir(parents=True)
    (tmp_path / "case/0/U").write_text("1")
    (tmp_path / "case/mesh").write_text("2")
    base = identity()
    shutil.copytree(tmp_path / "case", tmp_path / "other")
    assert identity("other") == base
    (tmp_path / "other/0/U").write_text("3")
    assert identity("other") != base
    (tmp_path / "other/0/U").write_text("1")
    assert identity("other") == base
    (tmp_path / "other/empty").mkdir()
    assert identity("other") != base
    (tmp_path / "other/empty").rmdir()
    (tmp_path / "other/mesh").rename(tmp_path / "other/mash")
    assert identity("other") != base
    os.mkfifo(tmp_path / "other/pipe")
    (tmp_path / "other/nowhere").symlink_to("no")
    (tmp_path / "other/round").symlink_to(".")
    for limit in ({"_TREE_FILES": 3}, {"_TREE_BYTES": 1}):
        with monkeypatch.context() as patch:
            for name, value in limit.items():
                patch.setattr(f"uqms.simulators.executable.surroundings.{name}", value)
            with pytest.raises(InputError, match="other holds more than .* give version="):
                identity("other")
            assert identity("other", version="1")["version"] == "1"
    assert identity("other") != base  # a link that leads round in circles comes to an end


def test_a_simulator_is_frozen():
    simulator = program("true")
    with pytest.raises(dataclasses.FrozenInstanceError):
        simulator.timeout = 3

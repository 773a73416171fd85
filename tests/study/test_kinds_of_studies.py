"""Chains, parts, populations, regimens, programs and direct simulators: the file's objects are those of a script."""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import uqms as uq
from uqms.study import mistakes_of

MODEL = """
import numpy as np

TIMES = np.array([0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 24.0])

def cell(gCa, gK):
    return 150.0 + 220.0 * gCa**2 / (gCa**2 + gK + 0.2)

def tissue(apd, coupling, period):
    return 0.7 * coupling**0.5 * (1.0 - np.exp(-(period - apd) / 150.0))

def unit_dose(CL, V):
    return np.exp(-CL / V * TIMES) / V

def line(a, b):
    return {"y": a + b}

def other(a):
    return {"z": a**2}

def times():
    return TIMES
"""

CHAIN = """
[members.cell.parameters]
gCa = { kind = "LogNormal", median = 1.0, sigma = 0.2 }
gK = { kind = "LogNormal", median = 1.0, sigma = 0.1 }
[members.cell.simulator]
kind = "FunctionSimulator"
function = "scales_model:cell"
outputs = { apd = [] }
units = { apd = "ms" }
[members.cell.design]
n = 6
rng = 1
[members.cell.surrogate]
kind = "GaussianProcess"
[members.cell.runs]
workers = 0
[members.tissue.parameters]
apd = { kind = "Uniform", low = 150.0, high = 350.0, unit = "ms" }
coupling = { kind = "LogNormal", median = 1.0, sigma = 0.2 }
[members.tissue.conditions]
period = { low = 450.0, high = 1000.0, unit = "ms" }
[members.tissue.simulator]
kind = "FunctionSimulator"
function = "scales_model:tissue"
outputs = { speed = [] }
units = { speed = "m/s" }
[members.tissue.design]
n = 16
rng = 1
[members.tissue.surrogate]
kind = "GaussianProcess"
[members.tissue.runs]
workers = 0
[chain]
links = { "tissue.apd" = "cell.apd" }
[[data]]
file = "cells.csv"
output = "cell.apd"
value = "apd"
replicate = "replicate"
[[data]]
file = "waves.csv"
output = "tissue.speed"
value = "speed"
conditions = ["period"]
[noise]
"cell.apd" = { kind = "GaussianNoise", sd = 5.0 }
"tissue.speed" = { kind = "GaussianNoise", sd = { kind = "HalfNormal", sd = 0.02 } }
[sample]
sampler = { kind = "Laplace", draws = 50 }
rng = 1
[verify]
n = 20
rng = 1
"""

DOSES = """\
id,time,dv,amt,wt
1,0,.,100,1.0
1,2,5.1,.,1.0
1,8,3.9,.,1.0
1,12,.,50,1.0
1,24,4.2,.,1.0
2,0,.,120,1.4
2,4,4.3,.,1.4
2,16,3.0,.,1.4
"""

POPULATION = """
[parameters]
CL = { kind = "LogNormal", median = 0.7, sigma = 0.3, unit = "L/h" }
V = { kind = "LogNormal", median = 20.0, sigma = 0.3, unit = "L" }
[population]
individual = ["CL"]
covariates = { CL = { "log(wt / 1.2)" = { kind = "Normal", mean = 1.0, sd = 0.5 } } }
spread = { kind = "HalfNormal", sd = 0.3 }
[simulator]
kind = "FunctionSimulator"
function = "scales_model:unit_dose"
outputs = { conc = ["time"] }
coords = { time = { function = "scales_model:times" } }
units = { conc = "mg/L" }
[design]
n = 16
rng = 1
over = { mass = 0.95 }
[runs]
workers = 0
[surrogate]
kind = "GaussianProcess"
hyperparameters = "point"
outputs = { conc = { kind = "Curve", tolerance = 1e-3 } }
[superposition]
tolerance = 0.01
[data]
kind = "from_events"
file = "doses.csv"
id = "id"
time = "time"
value = "dv"
amount = "amt"
covariates = ["wt"]
unit = "mg/L"
[noise]
kind = "GaussianNoise"
sd = { kind = "HalfNormal", sd = 1.0 }
[calibration]
outside = "extrapolate"
[sample]
sampler = { kind = "NUTS", draws = 100, tune = 100, chains = 2 }
rng = 1
[predictions.plan]
subjects = ["1"]
draws = 10
rng = 1
[predictions.plan.coords]
time = [1.0, 6.0]
regimen = { kind = "Regimen.repeated", amount = 30.0, every = 12.0, doses = 3 }
"""

PARTS = """
[members.first.parameters]
a = { kind = "Normal", mean = 0, sd = 1 }
b = { kind = "Normal", mean = 0, sd = 1 }
[members.first.simulator]
kind = "FunctionSimulator"
function = "scales_model:line"
outputs = { y = [] }
[members.first.design]
kind = "latin_hypercube"
n = 12
rng = 2
[members.first.runs]
workers = 0
[members.first.surrogate]
kind = "GaussianProcess"
kernel = "SquaredExponential"
[members.first.data]
file = "cells.csv"
output = "y"
value = "y"
replicate = "replicate"
[members.first.noise]
kind = "GaussianNoise"
sd = 0.5
[members.second.parameters]
a = { kind = "Normal", mean = 0, sd = 1 }
[members.second.simulator]
kind = "FunctionSimulator"
function = "scales_model:other"
outputs = { z = [] }
[members.second.design]
kind = "halton"
n = 12
rng = 3
[members.second.runs]
workers = 0
[members.second.surrogate]
kind = "GaussianProcess"
[members.second.data]
kind = "from_xarray"
file = "z.nc"
[members.second.noise]
kind = "GaussianNoise"
sd = 0.2
[sample]
sampler = { kind = "NUTS", draws = 100, tune = 100, chains = 2 }
rng = 1
"""

DIRECT = """
[[blocks]]
kind = "MultivariateNormal"
names = ["a", "b"]
mean = [0.0, 1.0]
covariance = [[1.0, 0.5], [0.5, 1.0]]
[simulator]
kind = "DirectSimulator"
function = "scales_model:line"
outputs = { y = [] }
[data]
file = "cells.csv"
output = "y"
value = "y"
replicate = "replicate"
missing = "drop"
[noise]
kind = "GaussianNoise"
sd = { kind = "HalfNormal", sd = 1.0 }
[calibration]
constraints = "a < b"
fixed = {}
[sample]
sampler = { kind = "Laplace", draws = 50 }
rng = 1
"""


@pytest.fixture
def folder(tmp_path):
    """Write the model and data of all studies."""
    (tmp_path / "scales_model.py").write_text(MODEL)
    (tmp_path / "doses.csv").write_text(DOSES)
    (tmp_path / "cells.csv").write_text("replicate,apd,y\n1,252.0,0.4\n2,263.0,0.1\n3,259.0,0.9\n")
    (tmp_path / "waves.csv").write_text("period,speed\n450,0.479\n550,0.564\n700,0.633\n1000,0.657\n")
    xr.DataArray([0.3, 0.5], dims="replicate", name="z").to_netcdf(tmp_path / "z.nc", engine="h5netcdf")
    return tmp_path


def read(folder: Path, text: str) -> uq.Study:
    """Write a study file, check it, and check that it can be written again."""
    path = folder / "study.toml"
    path.write_text(text)
    assert mistakes_of(path) == []
    study = uq.Study.from_toml(path)
    (folder / "again.toml").write_text(study.to_toml())
    assert uq.Study.from_toml(folder / "again.toml").to_toml() == study.to_toml()
    return study


def assert_same_draws(first: uq.Posterior, second: uq.Posterior) -> None:
    """Compare draws and likelihoods bit by bit."""
    for group in ("posterior", "sample_stats"):
        for name, values in first.tree[group].dataset.data_vars.items():
            if values.dtype.kind == "f":
                assert np.array_equal(values, second.tree[group].dataset[name], equal_nan=True), name


def model(folder: Path, name: str):
    """Return a function of the model."""
    names: dict = {}
    exec(compile(MODEL, "scales_model.py", "exec"), names)
    return names[name]


def chain_problem(folder: Path):
    """Return the problem of the chain as a script makes it."""
    cells = uq.ParameterSpace(gCa=uq.LogNormal(median=1.0, sigma=0.2), gK=uq.LogNormal(median=1.0, sigma=0.1))
    tissues = uq.ParameterSpace(
        apd=uq.Uniform(150.0, 350.0, unit="ms"),
        coupling=uq.LogNormal(median=1.0, sigma=0.2),
        conditions={"period": uq.Condition(450.0, 1000.0, unit="ms")},
    )
    cell = uq.FunctionSimulator(model(folder, "cell"), outputs={"apd": ()}, units={"apd": "ms"}, version="1")
    tissue = uq.FunctionSimulator(model(folder, "tissue"), outputs={"speed": ()}, units={"speed": "m/s"}, version="1")
    chain = uq.Chain(
        cell=uq.GaussianProcess().fit(uq.run(cell, uq.sobol(cells, 6, rng=1), workers=0)),
        tissue=uq.GaussianProcess().fit(uq.run(tissue, uq.sobol(tissues, 16, rng=1), workers=0)),
        links={"tissue.apd": "cell.apd"},
    )
    data = uq.Observations.concat(
        [
            uq.Observations.from_table(
                pd.read_csv(folder / "cells.csv"), output="cell.apd", value="apd", replicate="replicate"
            ),
            uq.Observations.from_table(
                pd.read_csv(folder / "waves.csv"), output="tissue.speed", value="speed", conditions=["period"]
            ),
        ]
    )
    noise = {"cell.apd": uq.GaussianNoise(sd=5.0), "tissue.speed": uq.GaussianNoise(sd=uq.HalfNormal(0.02))}
    return uq.Calibration(chain, data, noise)


def assert_same_problem(first, second) -> None:
    """Compare two problems at one point, bit by bit."""
    assert repr(first) == repr(second)
    theta = {name: np.atleast_1d(prior.quantile(0.4)) for name, prior in second.priors.items()}
    latents = np.full((1, second.latents), 0.3)
    assert np.array_equal(first.log_likelihood(theta, latents), second.log_likelihood(theta, latents))


@pytest.mark.slow
def test_a_chain(folder):
    study = read(folder, CHAIN)
    with pytest.raises(uq.errors.InputError, match="name one: member='cell'"):
        study.space  # noqa: B018
    runs = {name: study.ensemble(name, store=None) for name in study.members}
    assert_same_problem(study.calibration(study.surrogate(runs)), chain_problem(folder))
    with pytest.raises(uq.errors.InputError, match="there are no runs of tissue"):
        study.surrogate({"cell": runs["cell"]})


@pytest.mark.slow
def test_a_chain_is_run(folder):
    study = read(folder, CHAIN)
    results = study.run()
    posterior = chain_problem(folder).sample(uq.Laplace(draws=50), rng=1)
    assert_same_draws(results.posterior, posterior)
    assert results.verification is not None
    assert [one.step for one in results.states if one.current] == [
        "runs_cell", "surrogate_cell", "runs_tissue", "surrogate_tissue", "posterior", "verification",
    ]  # fmt: skip
    # A member that changes leaves the other as it is.
    text = (folder / "study.toml").read_text()
    (folder / "study.toml").write_text(text.replace("n = 16", "n = 17"))
    late = [one.step for one in uq.Study.from_toml(folder / "study.toml").status() if not one.current]
    assert late == ["runs_tissue", "surrogate_tissue", "posterior", "verification"]


def test_mistakes_of_a_chain(folder):
    def wrong(old, new):
        (folder / "study.toml").write_text(CHAIN.replace(old, new, 1))
        return str(mistakes_of(folder / "study.toml"))

    assert "there is no output 'cell.ap'" in wrong('"cell.apd" }', '"cell.ap" }')
    assert "there is no input 'tissue.app'" in wrong('{ "tissue.apd"', '{ "tissue.app"')
    assert "has the unit 'ms' and tissue.apd the unit 's'" in wrong(
        'high = 350.0, unit = "ms"', 'high = 350.0, unit = "s"'
    )
    assert "the simulator has no output 'tissue.sped'" in wrong('output = "tissue.speed"', 'output = "tissue.sped"')
    assert "there is no output 'cell.ap'; did you mean 'cell.apd'" in wrong('"cell.apd" = {', '"cell.ap" = {')
    assert "has no noise model" in wrong('"cell.apd" = { kind = "GaussianNoise", sd = 5.0 }', "")


def population(folder: Path):
    """Return the problem of the population as a script makes it."""
    data = uq.Observations.from_events(
        pd.read_csv(folder / "doses.csv"),
        id="id",
        time="time",
        value="dv",
        amount="amt",
        covariates=["wt"],
        unit="mg/L",
    )
    space = uq.ParameterSpace(
        CL=uq.LogNormal(median=0.7, sigma=0.3, unit="L/h"), V=uq.LogNormal(median=20.0, sigma=0.3, unit="L")
    )
    whole = uq.Population(
        space,
        individual=["CL"],
        covariates={"CL": {"log(wt / 1.2)": uq.Normal(1.0, 0.5)}},
        spread=uq.HalfNormal(0.3),
    )
    times = np.array([0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 24.0])
    simulator = uq.FunctionSimulator(
        model(folder, "unit_dose"),
        outputs={"conc": ("time",)},
        coords={"time": times},
        units={"conc": "mg/L"},
        version="1",
    )
    design = uq.sobol(space, 16, over=whole.box(data.covariates, mass=0.95), rng=1)
    settings = uq.GaussianProcess(outputs={"conc": uq.Curve(tolerance=1e-3)}, hyperparameters="point")
    curves = uq.Superposition(settings.fit(uq.run(simulator, design, workers=0)), data.regimens, tolerance=0.01)
    return uq.Calibration(
        curves,
        data,
        uq.GaussianNoise(sd=uq.HalfNormal(1.0)),
        population=whole,
        subjects=data.covariates,
        outside="extrapolate",
    )


@pytest.mark.parametrize("sampled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_population_under_its_regimens(folder, sampled):
    study = read(folder, POPULATION)
    problem = population(folder)
    if not sampled:
        assert_same_problem(study.calibration(study.surrogate(study.ensemble(store=None))), problem)
        return
    results = study.run()
    posterior = problem.sample(uq.NUTS(draws=100, tune=100, chains=2), rng=1)
    assert_same_draws(results.posterior, posterior)
    plan = uq.Regimen.repeated(30.0, every=12.0, doses=3)
    prediction = posterior.predict(subjects=["1"], coords={"time": [1.0, 6.0], "regimen": plan}, draws=10, rng=1)
    assert np.array_equal(prediction.mean["conc"], results.predictions["plan"].mean["conc"])


def test_mistakes_of_a_population(folder):
    def wrong(old, new):
        (folder / "study.toml").write_text(POPULATION.replace(old, new, 1))
        return [(one.where, one.message) for one in mistakes_of(folder / "study.toml")]

    assert wrong('individual = ["CL"]', 'individual = ["CI"]')[0][0].startswith("population")
    assert wrong('"HalfNormal", sd = 0.3', '"HalfNorml", sd = 0.3')[0][0] == "population.spread.kind"
    assert wrong('amount = "amt"', 'amount = "AMT"') == [
        ("data.amount", "the table has no column 'AMT'; did you mean 'amt'?")
    ]
    assert wrong("over = { mass", "over = { mas")[0][0] == "design.over.mas"
    assert wrong("over = { mass = 0.95 }\n", "") == [
        (
            "design",
            "subjects differ from the typical subject, so that the design has to cover more than the prior: "
            "over = { mass = 0.99 }, which is population.box(subjects, mass=0.99).",
        )
    ]
    assert wrong("[calibration]", "[calibration]\nrealisation = 'none'")[0][0] == "calibration.realisation"


@pytest.mark.slow
def test_parts_of_one_calibration(folder):
    study = read(folder, PARTS)
    results = study.run()
    first = uq.ParameterSpace(a=uq.Normal(0, 1), b=uq.Normal(0, 1))
    second = uq.ParameterSpace(a=uq.Normal(0, 1))
    line = uq.FunctionSimulator(model(folder, "line"), outputs={"y": ()}, version="1")
    other = uq.FunctionSimulator(model(folder, "other"), outputs={"z": ()}, version="1")
    settings = uq.GaussianProcess(kernel=uq.SquaredExponential())
    y = settings.fit(uq.run(line, uq.latin_hypercube(first, 12, rng=2), workers=0))
    z = uq.GaussianProcess().fit(uq.run(other, uq.halton(second, 12, rng=3), workers=0))
    table = uq.Observations.from_table(pd.read_csv(folder / "cells.csv"), output="y", value="y", replicate="replicate")
    curve = uq.Observations.from_xarray(xr.DataArray([0.3, 0.5], dims="replicate", name="z"))
    problem = uq.Calibration(
        {"first": (y, table), "second": (z, curve)},
        noise={"first": uq.GaussianNoise(sd=0.5), "second": uq.GaussianNoise(sd=0.2)},
    )
    assert_same_draws(results.posterior, problem.sample(uq.NUTS(draws=100, tune=100, chains=2), rng=1))


def test_a_direct_simulator_with_a_joint_prior(folder):
    study = read(folder, DIRECT)
    posterior = study.run().posterior
    space = uq.ParameterSpace(uq.MultivariateNormal(("a", "b"), (0.0, 1.0), ((1.0, 0.5), (0.5, 1.0))))
    exact = uq.DirectSimulator(model(folder, "line"), space=space, outputs={"y": ()})
    data = uq.Observations.from_table(pd.read_csv(folder / "cells.csv"), output="y", value="y", replicate="replicate")
    problem = uq.Calibration(exact, data, uq.GaussianNoise(sd=uq.HalfNormal(1.0)), constraints="a < b", fixed={})
    assert_same_draws(posterior, problem.sample(uq.Laplace(draws=50), rng=1))
    assert [one.step for one in study.status()] == ["posterior"]


def test_a_program_of_the_folder(folder):
    program = folder / "solver.py"
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\na, b = (float(one) for one in open('in.txt').read().split())\n"
        "json.dump({'y': a * b}, open('out.json', 'w'))\n"
    )
    os.chmod(program, 0o755)
    (folder / "template.txt").write_text("{{ a }} {{ b }}\n")
    study = read(
        folder,
        """
[parameters]
a = { kind = "Uniform", low = 0.0, high = 1.0 }
b = { kind = "Uniform", low = 1.0, high = 2.0 }
[simulator]
kind = "ExecutableSimulator"
command = ["solver.py"]
templates = { "in.txt" = "template.txt" }
read = { kind = "JSONFile", path = "out.json" }
outputs = { y = [] }
timeout = 60
[design]
n = 8
rng = 1
[runs]
workers = 0
[surrogate]
kind = "GaussianProcess"
""",
    )
    ensemble = study.run().ensemble()
    assert np.array_equal(ensemble["y"], ensemble["a"] * ensemble["b"])
    assert all(one.current for one in study.status())
    (folder / "template.txt").write_text("{{ a }} {{ b + 1 }}\n")
    assert {one.step: one.state for one in study.status()} == {"runs": "stale", "surrogate": "stale"}
    assert "file template.txt changed" in study.status()[0].reason
    (folder / "template.txt").write_text("{{ a }} {{ c }}\n")
    (mistake,) = mistakes_of(folder / "study.toml")
    assert (mistake.line, mistake.where) == (2, "parameters")
    assert "the simulator takes 'c', which has neither a prior nor a condition" in mistake.message


def test_settings_of_a_calibration(folder):
    study = read(
        folder,
        """
[parameters]
apd = { kind = "Uniform", low = 150.0, high = 350.0, unit = "ms" }
coupling = { kind = "LogNormal", median = 1.0, sigma = 0.2 }
[conditions]
period = { low = 450.0, high = 1000.0, unit = "ms" }
[simulator]
kind = "FunctionSimulator"
function = "scales_model:tissue"
outputs = { speed = [] }
[design]
n = 16
rng = 1
over = { mass = 0.99, ranges = { coupling = [0.5, 2.0] } }
[runs]
workers = 0
[surrogate]
kind = "GaussianProcess"
hyperparameters = "point"
kernel = { kind = "Sum", parts = ["Matern52", { kind = "Product", parts = ["Matern32", "SquaredExponential"] }] }
[data]
file = "waves.csv"
output = "speed"
value = "speed"
conditions = ["period"]
[noise]
kind = "CombinedNoise"
additive = 0.01
proportional = { kind = "HalfNormal", sd = 0.1 }
[discrepancy]
kind = "GPDiscrepancy"
sd = { kind = "HalfNormal", sd = 0.05 }
length = { period = 200.0 }
[calibration]
fixed = { coupling = 0.9 }
outside = "extrapolate"
[sample]
rng = 1
""",
    )
    space = uq.ParameterSpace(
        apd=uq.Uniform(150.0, 350.0, unit="ms"),
        coupling=uq.LogNormal(median=1.0, sigma=0.2),
        conditions={"period": uq.Condition(450.0, 1000.0, unit="ms")},
    )
    simulator = uq.FunctionSimulator(model(folder, "tissue"), outputs={"speed": ()}, version="1")
    box = space.box(mass=0.99, ranges={"coupling": (0.5, 2.0)})
    runs = uq.run(simulator, uq.sobol(space, 16, rng=1, over=box), workers=0)
    kernel = uq.Sum((uq.Matern52(), uq.Product((uq.Matern32(), uq.SquaredExponential()))))
    problem = uq.Calibration(
        uq.GaussianProcess(kernel=kernel, hyperparameters="point").fit(runs),
        uq.Observations.from_table(
            pd.read_csv(folder / "waves.csv"), output="speed", value="speed", conditions=["period"]
        ),
        noise=uq.CombinedNoise(additive=0.01, proportional=uq.HalfNormal(0.1)),
        discrepancy=uq.GPDiscrepancy(sd=uq.HalfNormal(0.05), length={"period": 200.0}),
        fixed={"coupling": 0.9},
        outside="extrapolate",
    )
    assert_same_problem(study.calibration(study.surrogate(study.ensemble(store=None))), problem)

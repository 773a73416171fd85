"""Mistakes that a newcomer makes in the first hour: each ends in an error of uqms that names the fix.

    python benchmarks/first_hour.py [--quick]

Every mistake is made and its error judged: its type is one of `uqms.errors` (or the one that Python gives for a keyword
or a name that does not exist, with the right one in it), never a TypeError, AttributeError or KeyError of something
inside; and the first line has the words that lead to the fix. Printed is one line for each: the call, the type, the
first line of the error.
"""

import argparse
import contextlib
import io
import itertools
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from _report import aim, finish
from scipy.stats import norm

import uqms as uq
from uqms.errors import StudyError, UqmsError

FEWEST = 500  # mistakes
WIDTH = 180  # of what is printed


class Mistake(NamedTuple):
    """A call that a newcomer makes, and the words that its error has to have."""

    call: str
    make: Callable[[], object]
    words: tuple[str, ...]


class Outcome(NamedTuple):
    """What came of a mistake."""

    mistake: Mistake
    kind: str
    line: str
    ours: bool
    helps: bool


# ------------------------------------------------------------------------------------------------ what the newcomer has
@cache
def space() -> uq.ParameterSpace:
    """Return two parameters."""
    return uq.ParameterSpace(a=uq.Uniform(0.0, 2.0), b=uq.LogNormal(median=1.0, sigma=0.3, unit="1/h"))


@cache
def design() -> xr.Dataset:
    """Return a small design."""
    return uq.sobol(space(), 16, rng=1)


def peak(a: float, b: float) -> float:
    """Return a number."""
    return a + b


@cache
def ensemble() -> xr.Dataset:
    """Return runs of a number and a curve."""
    t = np.linspace(0.0, 2.0, 5)
    a, b = design()["a"].values, design()["b"].values
    curve = xr.DataArray(a[:, None] * np.exp(-np.outer(b, t)), dims=("run", "time"), coords={"time": t})
    return uq.ensemble.build(design(), {"peak": a + b, "conc": curve})


@cache
def surrogate() -> Any:
    """Return a fitted surrogate."""
    return uq.GaussianProcess(hyperparameters="point").fit(ensemble())


def data(**more: Any) -> xr.DataArray:
    """Return a measured number."""
    return xr.DataArray(2.0, name="peak", **more)


def noise() -> uq.GaussianNoise:
    """Return noise of a known size."""
    return uq.GaussianNoise(sd=0.1)


@cache
def problem() -> Any:
    """Return a calibration."""
    return uq.Calibration(surrogate(), data(), noise=noise())


@cache
def posterior() -> Any:
    """Return its posterior."""
    return problem().sample(uq.Laplace(draws=100), rng=1)


@cache
def folder() -> Path:
    """Return a folder of this run."""
    return Path(tempfile.mkdtemp())


def table() -> pd.DataFrame:
    """Return measurements of a curve."""
    return pd.DataFrame({"t": [0.5, 1.0], "y": [0.7, 0.5], "who": ["a", "b"]})


# ----------------------------------------------------------------------------------------------------------- mistakes
def priors() -> list[Mistake]:
    """Return mistakes with priors and spaces."""
    two = uq.ParameterSpace
    return [
        Mistake("Normal(mu=0, sd=1)", lambda: uq.Normal(mu=0.0, sd=1.0), ("mean",)),
        Mistake("Normal(0, sigma=1)", lambda: uq.Normal(0.0, sigma=1.0), ("sd",)),
        Mistake("Normal(loc=0, scale=1)", lambda: uq.Normal(loc=0.0, scale=1.0), ("mean", "sd")),
        Mistake("Normal()", lambda: uq.Normal(), ("mean", "sd")),
        Mistake("Normal(0, -1)", lambda: uq.Normal(0.0, -1.0), ("sd", "above 0")),
        Mistake("Normal(0, 0)", lambda: uq.Normal(0.0, 0.0), ("sd", "above 0")),
        Mistake("Normal('0', 1)", lambda: uq.Normal("0", 1.0), ("mean", "number")),
        Mistake("Normal(np.array([0, 1]), 1)", lambda: uq.Normal(np.zeros(2), 1.0), ("mean", "number")),
        Mistake("Uniform(2, 1)", lambda: uq.Uniform(2.0, 1.0), ("swap",)),
        Mistake("Uniform(lower=0, upper=1)", lambda: uq.Uniform(lower=0.0, upper=1.0), ("low", "high")),
        Mistake("Uniform(0, inf)", lambda: uq.Uniform(0.0, np.inf), ("finite",)),
        Mistake("Uniform([0, 1])", lambda: uq.Uniform([0.0, 1.0]), ("low", "high")),
        Mistake("LogNormal(0, 1)", lambda: uq.LogNormal(0.0, 1.0), ("median", "above 0")),
        Mistake("LogNormal(mu=0, sigma=1)", lambda: uq.LogNormal(mu=0.0, sigma=1.0), ("median", "exp(mu)")),
        Mistake("LogNormal(mean=1, sd=1)", lambda: uq.LogNormal(mean=1.0, sd=1.0), ("median", "sigma")),
        Mistake("HalfNormal(sigma=1)", lambda: uq.HalfNormal(sigma=1.0), ("sd",)),
        Mistake("HalfNormal(scale=1)", lambda: uq.HalfNormal(scale=1.0), ("sd",)),
        Mistake("Beta(a=1, b=2)", lambda: uq.Beta(a=1.0, b=2.0), ("alpha", "beta")),
        Mistake("Gamma(alpha=2, scale=1)", lambda: uq.Gamma(alpha=2.0, scale=1.0), ("'shape'", "rate = 1 / scale")),
        Mistake("Gamma(a=2, scale=1)", lambda: uq.Gamma(a=2.0, scale=1.0), ("shape", "rate")),
        Mistake("LogUniform(0, 1)", lambda: uq.LogUniform(0.0, 1.0), ("low", "above 0")),
        Mistake("TruncatedNormal(0, 1, lower=0)", lambda: uq.TruncatedNormal(0.0, 1.0, lower=0.0), ("low",)),
        Mistake("uq.Gaussian(0, 1)", lambda: uq.Gaussian(0.0, 1.0), ("Normal",)),
        Mistake("uq.normal(0, 1)", lambda: uq.normal(0.0, 1.0), ("Normal",)),
        Mistake("ParameterSpace({'a': Uniform(0, 1)})", lambda: two({"a": uq.Uniform(0.0, 1.0)}), ("**",)),
        Mistake("ParameterSpace(a=(0, 1))", lambda: two(a=(0.0, 1.0)), ("Uniform",)),
        Mistake("ParameterSpace(a=1.0)", lambda: two(a=1.0), ("prior",)),
        Mistake("ParameterSpace()", lambda: two(), ("prior",)),
        Mistake("ParameterSpace(a=scipy.stats.norm())", lambda: two(a=norm()), ("uq.",)),
        Mistake("ParameterSpace(a=uq.Uniform)", lambda: two(a=uq.Uniform), ("Uniform(",)),
        Mistake("ParameterSpace(Uniform(0, 1))", lambda: two(uq.Uniform(0.0, 1.0)), ("=",)),
        Mistake("space['c']", lambda: space()["c"], ("a, b",)),
        Mistake("space.bounds", lambda: space().bounds, ("space.box()",)),
        Mistake("space.sample(10)", lambda: space().sample(10), ("rng",)),
    ]


def designs() -> list[Mistake]:
    """Return mistakes with designs."""
    return [
        Mistake("sobol(space, 16, seed=1)", lambda: uq.sobol(space(), 16, seed=1), ("rng",)),
        Mistake("sobol(space, 16, random_state=1)", lambda: uq.sobol(space(), 16, random_state=1), ("rng",)),
        Mistake("sobol(space, n_samples=16)", lambda: uq.sobol(space(), n_samples=16), ("n",)),
        Mistake("sobol(16, space)", lambda: uq.sobol(16, space()), ("space",)),
        Mistake("sobol(space)", lambda: uq.sobol(space()), ("n",)),
        Mistake("sobol(space, 0)", lambda: uq.sobol(space(), 0), ("n",)),
        Mistake("sobol(space, 16.5)", lambda: uq.sobol(space(), 16.5), ("whole number",)),
        Mistake("sobol(space, -3)", lambda: uq.sobol(space(), -3), ("n",)),
        Mistake("sobol(space, 16, rng='1')", lambda: uq.sobol(space(), 16, rng="1"), ("rng",)),
        Mistake("sobol({'a': (0, 1)}, 16)", lambda: uq.sobol({"a": (0.0, 1.0)}, 16), ("ParameterSpace",)),
        Mistake("latin_hypercube(space, 16, seed=1)", lambda: uq.latin_hypercube(space(), 16, seed=1), ("rng",)),
        Mistake("uq.lhs(space, 16)", lambda: uq.lhs(space(), 16), ("latin_hypercube",)),
        Mistake("uq.saltelli(space, 16)", lambda: uq.saltelli(space(), 16), ("sobol_indices",)),
        Mistake("extend(design, 4, space=space)", lambda: uq.extend(design(), 4, space=space()), ("extend(design, n",)),
        Mistake("extend(space, 4)", lambda: uq.extend(space(), 4), ("design",)),
    ]


def runs() -> list[Mistake]:
    """Return mistakes with simulators, runs and tables."""
    run, function = uq.run, uq.FunctionSimulator
    inputs = {"a": [1.0, 2.0], "b": [1.0, 2.0]}
    y = {"y": [1.0, 2.0]}
    return [
        Mistake("run(design, f)", lambda: run(design(), peak), ("swapped", "uq.run(simulator, design)")),
        Mistake("run(f)", lambda: run(peak), ("design",)),
        Mistake("run(f, space)", lambda: run(peak, space()), ("uq.sobol(space",)),
        Mistake("run(f, 16)", lambda: run(peak, 16), ("uq.sobol(space",)),
        Mistake("run('solver.exe', design)", lambda: run("solver.exe", design()), ("ExecutableSimulator",)),
        Mistake("run(f(1, 2), design)", lambda: run(peak(1.0, 2.0), design()), ("function",)),
        Mistake("run(FunctionSimulator, design)", lambda: run(function, design()), ("FunctionSimulator(",)),
        Mistake("run(f that takes a vector)", lambda: run(lambda x: x[0], design(), workers=0), ("a, b",)),
        Mistake("run(f that returns None)", lambda: run(lambda a, b: None, design(), workers=0), ("return",)),
        Mistake("run(f that returns a list)", lambda: run(lambda a, b: [a, b], design(), workers=0), ("coords",)),
        Mistake("run(f that returns words)", lambda: run(lambda a, b: "x", design(), workers=0), ("number",)),
        Mistake("run(f that raises)", lambda: run(lambda a, b: 1 / 0, design(), workers=0), ("ZeroDivisionError",)),
        Mistake("run(f, design, n_jobs=2)", lambda: run(peak, design(), n_jobs=2), ("workers",)),
        Mistake("run(f, design, seed=1)", lambda: run(peak, design(), seed=1), ("rng",)),
        Mistake("run(f, design, workers=-1)", lambda: run(peak, design(), workers=-1), ("workers",)),
        Mistake("run(f, design, 'no/such/runs.db')", lambda: run(peak, design(), "no/such/runs.db"), ("mkdir",)),
        Mistake("run(f, design, store='.')", lambda: run(peak, design(), str(folder())), ("is a folder",)),
        Mistake("RunStore(3)", lambda: uq.RunStore(3), ("path",)),
        Mistake("run(surrogate, design)", lambda: run(surrogate(), design()), ("surrogate.predict(points)",)),
        Mistake("FunctionSimulator(f)", lambda: function(peak), ("outputs",)),
        Mistake("FunctionSimulator(f, outputs='y')", lambda: function(peak, outputs="y"), ("'peak': ()",)),
        Mistake("FunctionSimulator(f, outputs=['y'])", lambda: function(peak, outputs=["y"]), ("'peak': ()",)),
        Mistake("FunctionSimulator(f, outputs={'y': 'time'})", lambda: function(peak, outputs={"y": "t"}), ("tuple",)),
        Mistake("FunctionSimulator without coords", lambda: function(peak, outputs={"y": ("t",)}), ("coords=",)),
        Mistake("build(inputs, [1, 2])", lambda: uq.ensemble.build(inputs, [1.0, 2.0]), ("'peak'",)),
        Mistake("build(rows that differ)", lambda: uq.ensemble.build(inputs, {"y": [1.0]}), ("'y'", "2")),
        Mistake("build(NaN)", lambda: uq.ensemble.build(inputs, {"y": [1.0, np.nan]}), ("'y'", "states")),
        Mistake("build(words)", lambda: uq.ensemble.build(inputs, {"y": ["1", "2"]}), ("'y'", "number")),
        Mistake("build(curve without a dim)", lambda: uq.ensemble.build(inputs, {"y": np.ones((2, 3))}), ("dim",)),
        Mistake("build(array without space)", lambda: uq.ensemble.build(np.ones((2, 2)), y), ("space",)),
        Mistake("build(df, 'y')", lambda: uq.ensemble.build(pd.DataFrame(inputs), "y"), ("outputs",)),
        Mistake("from_table(no column)", lambda: uq.ensemble.from_table(table(), ["t"], ["z"]), ("'z'", "'who'")),
        Mistake("from_table('no.csv')", lambda: uq.ensemble.from_table("no.csv", ["t"], ["y"]), ("no.csv", "folder")),
        Mistake("from_table(df, inputs='t')", lambda: uq.ensemble.from_table(table(), "t", ["y"]), ("['t']",)),
        Mistake("from_netcdf('no.nc')", lambda: uq.ensemble.from_netcdf("no.nc"), ("no.nc", "folder")),
    ]


def surrogates() -> list[Mistake]:
    """Return mistakes with surrogates and predictions."""
    gp = uq.GaussianProcess
    s = surrogate()
    points = pd.DataFrame({"a": [1.0, 0.5], "b": [1.0, 1.1]})
    return [
        Mistake("GaussianProcess(X, y)", lambda: gp(np.ones((4, 2)), np.ones(4)), ("fit",)),
        Mistake("GaussianProcess().fit(X, y)", lambda: gp().fit(np.ones((4, 2)), np.ones(4)), ("build",)),
        Mistake("GaussianProcess.fit(ensemble)", lambda: gp.fit(ensemble()), ("GaussianProcess(...).fit",)),
        Mistake("GaussianProcess().fit(df)", lambda: gp().fit(points), ("ensemble",)),
        Mistake("GaussianProcess().fit(design)", lambda: gp().fit(design()), ("run",)),
        Mistake("GaussianProcess(kernel='rbf')", lambda: gp(kernel="rbf"), ("SquaredExponential",)),
        Mistake("GaussianProcess(kernel=uq.Matern52)", lambda: gp(kernel=uq.Matern52), ("Matern52()",)),
        Mistake("GaussianProcess(trend='cubic')", lambda: gp(trend="cubic"), ("linear",)),
        Mistake("GaussianProcess(n_restarts=3)", lambda: gp(n_restarts_optimizer=3), ("GaussianProcess",)),
        Mistake("GaussianProcess().predict(points)", lambda: gp().predict(points), ("fit",)),
        Mistake("fit of 2 runs", lambda: gp().fit(ensemble().isel(run=slice(2))), ("runs",)),
        Mistake("predict(df without b)", lambda: s.predict(points[["a"]]), ("b",)),
        Mistake("predict(array)", lambda: s.predict(np.ones((2, 2))), ("'a'",)),
        Mistake("predict([1, 2])", lambda: s.predict([1.0, 2.0]), ("'a'",)),
        Mistake("predict(a=1, b=2)", lambda: s.predict(a=1.0, b=1.0), ("{",)),
        Mistake("predict()", lambda: s.predict(), ("points",)),
        Mistake("predict({'a': 1})", lambda: s.predict({"a": 1.0}), ("'b' missing",)),
        Mistake("predict({'a': 1, 'b': 1, 'c': 1})", lambda: s.predict({"a": 1.0, "b": 1.0, "c": 1.0}), ("c",)),
        Mistake("predict('x')", lambda: s.predict("x"), ("'a'",)),
        Mistake("prediction['peak']", lambda: s.predict({"a": 1.0, "b": 1.0})["peak"], (".mean['peak']",)),
        Mistake("prediction.std", lambda: s.predict({"a": 1.0, "b": 1.0}).std, (".sd",)),
        Mistake("prediction.interval(95)", lambda: s.predict({"a": 1.0, "b": 1.0}).interval(95), ("0.95",)),
        Mistake("load_surrogate('no.npz')", lambda: uq.load_surrogate("no.npz"), ("no.npz",)),
        Mistake("surrogate.save(no folder)", lambda: s.save("no/such/s.npz"), ("no/such",)),
        Mistake("leave_one_out(ensemble)", lambda: uq.leave_one_out(ensemble()), ("surrogate",)),
        Mistake("uq.GaussianProcessRegressor()", lambda: uq.GaussianProcessRegressor(), ("GaussianProcess",)),
        Mistake("uq.RBF()", lambda: uq.RBF(), ("SquaredExponential",)),
    ]


def calibrations() -> list[Mistake]:
    """Return mistakes with observations and calibrations."""
    c, s, n = uq.Calibration, surrogate(), noise()
    simulator = uq.FunctionSimulator(peak, outputs={"peak": ()})
    ten = pd.DataFrame({"t": [1.0], "y": [np.nan]})
    observed = uq.Observations.from_table
    return [
        Mistake("Calibration(data, surrogate)", lambda: c(data(), s, n), ("Calibration(surrogate, observations",)),
        Mistake("Calibration(GaussianProcess(), data)", lambda: c(uq.GaussianProcess(), data(), n), (".fit(",)),
        Mistake("Calibration(simulator, data)", lambda: c(simulator, data(), n), ("DirectSimulator",)),
        Mistake("Calibration(f, data)", lambda: c(peak, data(), n), ("DirectSimulator",)),
        Mistake("Calibration(ensemble, data)", lambda: c(ensemble(), data(), n), ("GaussianProcess().fit(",)),
        Mistake("Calibration(surrogate)", lambda: c(s), ("observations",)),
        Mistake("Calibration()", lambda: c(), ("surrogate",)),
        Mistake("Calibration(surrogate, data)", lambda: c(s, data()), ("noise",)),
        Mistake("Calibration(..., noise=0.1)", lambda: c(s, data(), 0.1), ("GaussianNoise(sd=0.1)",)),
        Mistake("Calibration(..., noise=HalfNormal(1))", lambda: c(s, data(), uq.HalfNormal(1.0)), ("GaussianNoise(",)),
        Mistake("Calibration(..., noise=GaussianNoise)", lambda: c(s, data(), uq.GaussianNoise), ("GaussianNoise(",)),
        Mistake("Calibration(..., data=2.0)", lambda: c(s, 2.0, n), ("peak",)),
        Mistake("Calibration(..., [1, 2])", lambda: c(s, [1.0, 2.0], n), ("DataArray",)),
        Mistake("Calibration(..., df)", lambda: c(s, table(), n), ("from_table",)),
        Mistake("DataArray without a name", lambda: c(s, xr.DataArray(2.0), n), ("name",)),
        Mistake("DataArray of another name", lambda: c(s, xr.DataArray(2.0, name="y"), n), ("'y'", "peak")),
        Mistake("NaN in the data", lambda: c(s, xr.DataArray(np.nan, name="peak"), n), ("missing",)),
        Mistake(
            "curve without coordinates", lambda: c(s, xr.DataArray([1.0], dims="time", name="conc"), n), ("coord",)
        ),
        Mistake("curve outside of the runs", lambda: c(s, curve_at(5.0), n), ("time",)),
        Mistake("Calibration(prior=space)", lambda: c(s, data(), n, prior=space()), ("space",)),
        Mistake("Calibration(priors={})", lambda: c(s, data(), n, priors={}), ("space",)),
        Mistake("Calibration(likelihood=...)", lambda: c(s, data(), likelihood=n), ("noise",)),
        Mistake("Calibration(sigma=0.1)", lambda: c(s, data(), sigma=0.1), ("noise",)),
        Mistake("GaussianNoise(-0.1)", lambda: uq.GaussianNoise(-0.1), ("sd", "positive")),
        Mistake("GaussianNoise(sigma=0.1)", lambda: uq.GaussianNoise(sigma=0.1), ("sd",)),
        Mistake("GaussianNoise(std=0.1)", lambda: uq.GaussianNoise(std=0.1), ("sd",)),
        Mistake("GaussianNoise('0.1')", lambda: uq.GaussianNoise("0.1"), ("sd", "standard deviation")),
        Mistake("from_table(no column)", lambda: observed(table(), output="conc", value="z"), ("'z'",)),
        Mistake("from_table(df)", lambda: observed(table()), ("output",)),
        Mistake("from_table(NaN)", lambda: observed(ten, output="conc", value="y", coords={"time": "t"}), ("missing",)),
        Mistake("from_table(y='y')", lambda: observed(table(), output="conc", y="y"), ("value",)),
        Mistake("Calibration(...).fit()", lambda: problem().fit(), ("sample",)),
        Mistake("problem.run()", lambda: problem().run(), ("sample",)),
    ]


def bare_curve() -> xr.DataArray:
    """Return a measurement of the curve at a time that it does not say."""
    return xr.DataArray([1.0], dims="time", name="conc")


def curve_at(t: float) -> xr.DataArray:
    """Return a measurement of the curve at one time."""
    return xr.DataArray([1.0], dims="time", coords={"time": [t]}, name="conc")


def posteriors() -> list[Mistake]:
    """Return mistakes with samplers, posteriors and what comes after."""
    p, q = problem(), posterior()
    return [
        Mistake("sample(1000)", lambda: p.sample(1000), ("NUTS(draws=",)),
        Mistake("sample(draws=1000)", lambda: p.sample(draws=1000), ("NUTS(draws=",)),
        Mistake("sample('NUTS')", lambda: p.sample("NUTS"), ("NUTS(",)),
        Mistake("sample(NUTS)", lambda: p.sample(uq.NUTS), ("NUTS(",)),
        Mistake("sample(seed=1)", lambda: p.sample(seed=1), ("rng",)),
        Mistake("sample(random_seed=1)", lambda: p.sample(random_seed=1), ("rng",)),
        Mistake("NUTS(samples=100)", lambda: uq.NUTS(samples=100), ("draws",)),
        Mistake("NUTS(warmup=100)", lambda: uq.NUTS(warmup=100), ("tune",)),
        Mistake("NUTS(draws=0)", lambda: uq.NUTS(draws=0), ("draws",)),
        Mistake("NUTS(draws=1e3)", lambda: uq.NUTS(draws=1e3), ("whole number",)),
        Mistake("SMC(draws=100)", lambda: uq.SMC(draws=100), ("particles",)),
        Mistake("Metropolis(chains=0)", lambda: uq.Metropolis(chains=0), ("chains",)),
        Mistake("posterior['a']", lambda: q["a"], ("draws['a']",)),
        Mistake("posterior.a", lambda: q.a, ("draws['a']",)),
        Mistake("posterior.mean()", lambda: q.mean(), ("summary",)),
        Mistake("posterior.samples", lambda: q.samples, ("draws",)),
        Mistake("posterior.posterior", lambda: q.posterior, ("tree",)),
        Mistake("posterior['posterior']", lambda: q["posterior"], ("posterior.tree['posterior']",)),
        Mistake("posterior.predict({'a': 1})", lambda: q.predict({"a": 1.0}), ("conditions",)),
        Mistake("posterior.predict(df)", lambda: q.predict(pd.DataFrame({"a": [1.0]})), ("conditions",)),
        Mistake("posterior.predict(n=10)", lambda: q.predict(n=10), ("draws",)),
        Mistake("posterior.predict(outputs='y')", lambda: q.predict(outputs="y"), ("peak",)),
        Mistake("posterior.predict(coords={'day': 1})", lambda: q.predict(coords={"day": [1.0]}), ("coords",)),
        Mistake("posterior.predict(coords=1.0)", lambda: q.predict(coords=[1.0]), ("coords",)),
        Mistake("posterior.summary(95)", lambda: q.summary(95), ("0.95",)),
        Mistake("posterior.save()", lambda: q.save(), ("path",)),
        Mistake("posterior.save(no folder)", lambda: q.save("no/such/p.nc"), ("no/such",)),
        Mistake("load_posterior('no.nc')", lambda: uq.load_posterior("no.nc"), ("no.nc", "folder")),
        Mistake("load_posterior(surrogate's file)", lambda: uq.load_posterior(surrogate_file()), ("load_surrogate",)),
        Mistake("verdict['ess']", lambda: q.verdict["ess"], ("approximation",)),
        Mistake("plots.posterior(posterior)", lambda: uq.plots.posterior(q), ("plots.prior_posterior",)),
        Mistake("sobol_indices(posterior)", lambda: uq.sobol_indices(q), ("surrogate",)),
        Mistake("sobol_indices(ensemble)", lambda: uq.sobol_indices(ensemble()), ("given_data_indices",)),
        Mistake("propagate(surrogate)", lambda: uq.propagate(ensemble()), ("surrogate",)),
        Mistake("refine(surrogate, 10)", lambda: uq.refine(surrogate(), 10), ("posterior",)),
        Mistake("compare_models(a, b)", lambda: uq.compare_models(q, q), ("{",)),
        Mistake("verify(posterior)", lambda: uq.verify(q), ("runs",)),
    ]


@cache
def surrogate_file() -> Path:
    """Return the file of a surrogate."""
    path: Path = surrogate().save(folder() / "s.npz")
    return path


@cache
def runs_of_two() -> tuple[Any, Any]:
    """Return surrogates of a cell and of a tissue, whose input apd the cell computes."""
    cells = uq.ParameterSpace(gCa=uq.LogNormal(median=1.0, sigma=0.2))
    tissues = uq.ParameterSpace(apd=uq.Uniform(100.0, 500.0), coupling=uq.LogNormal(median=1.0, sigma=0.2))
    of_cell, of_tissue = uq.sobol(cells, 8, rng=1), uq.sobol(tissues, 16, rng=1)
    apd = 250.0 * np.sqrt(of_cell["gCa"].values)
    speed = of_tissue["coupling"].values * (1.0 - of_tissue["apd"].values / 1000.0)
    settings = uq.GaussianProcess(hyperparameters="point")
    return (
        settings.fit(uq.ensemble.build(of_cell, {"apd": apd}, space=cells)),
        settings.fit(uq.ensemble.build(of_tissue, {"speed": speed}, space=tissues)),
    )


@cache
def chain() -> Any:
    """Return the chain of both."""
    cell, tissue = runs_of_two()
    return uq.Chain(cell=cell, tissue=tissue, links={"tissue.apd": "cell.apd"})


@cache
def people() -> Any:
    """Return the posterior of a population of three."""
    population = uq.Population(space(), individual=["b"], spread=uq.HalfNormal(0.1))
    design = uq.sobol(space(), 32, rng=1, over=population.box())
    runs = uq.ensemble.build(design, {"peak": design["a"].values + design["b"].values})
    table = pd.DataFrame({"who": ["x", "y", "z"], "value": [1.8, 2.0, 2.1]})
    measured = uq.Observations.from_table(table, output="peak", value="value", subject="who")
    simple = uq.GaussianProcess(hyperparameters="point").fit(runs)
    return uq.Calibration(simple, measured, noise(), population=population).sample(uq.Laplace(draws=100), rng=1)


@cache
def curve_posterior() -> Any:
    """Return the posterior of a measured curve."""
    measured = xr.DataArray([1.0, 0.5], dims="time", coords={"time": [0.0, 1.0]}, name="conc")
    return uq.Calibration(surrogate(), measured, noise()).sample(uq.Laplace(draws=200), rng=1)


def ideas(**more: Any) -> Any:
    """Return candidate measurements of the curve."""
    return uq.candidates(**{"outputs": "conc", "coords": {"time": [0.5, 1.0, 1.5]}} | more)


def doses() -> pd.DataFrame:
    """Return a table of doses and concentrations."""
    return pd.DataFrame(
        {"id": [1, 1, 1, 2, 2], "time": [0.0, 1.0, 2.0, 0.0, 1.0], "amt": [5.0, 0.0, 0.0, 4.0, 0.0]}
        | {"dv": [np.nan, 0.4, 0.3, np.nan, 0.5], "wt": [70.0, 70.0, 70.0, 60.0, 61.0]}
    )


NAMES = {"id": "id", "time": "time", "amount": "amt", "value": "dv"}  # of its columns


@cache
def study_folder() -> Path:
    """Return the folder of a new study."""
    from uqms.study import new_study

    path: Path = new_study(folder() / "drug").parent
    return path


NUMBERS = itertools.count(1)  # of study files


def study_with(old: str, new: str) -> Any:
    """Read a study file with one thing changed."""
    text = (study_folder() / "study.toml").read_text(encoding="utf-8")
    assert old in text, old
    path = study_folder() / f"study{next(NUMBERS)}.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return uq.Study.from_toml(path)


class Reported(UqmsError):
    """What the command line prints with an exit status that is not 0."""


def command(*words: str) -> None:
    """Call the command line, and raise what it prints as an error."""
    from uqms.cli import main

    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            status = main(list(words))
        except SystemExit as stop:
            status = stop.code
    if status:
        raise Reported(" | ".join((error.getvalue() + out.getvalue()).strip().splitlines()))


def studies() -> list[Mistake]:
    """Return mistakes in study files."""
    w, at = study_with, str(study_folder() / "study.toml")
    median = 'clearance = { kind = "LogNormal", median = 5.0, sigma = 0.4, unit = "L/h" }'
    return [
        Mistake("from_toml('no.toml')", lambda: uq.Study.from_toml("no.toml"), ("no.toml", "folder")),
        Mistake("from_toml(folder)", lambda: uq.Study.from_toml(study_folder()), ("file in it",)),
        Mistake("from_toml(script)", lambda: uq.Study.from_toml(study_folder() / "model.py"), ("TOML",)),
        Mistake("sd of a LogNormal", lambda: w("sigma = 0.4", "sd = 0.4"), ("line 16", "sigma")),
        Mistake("kind = 'lognormal'", lambda: w('kind = "LogNormal", m', 'kind = "lognormal", m'), ("LogNormal",)),
        Mistake("kind = 'uq.LogNormal'", lambda: w('"LogNormal", m', '"uq.LogNormal", m'), ("LogNormal",)),
        Mistake("a prior without kind", lambda: w('kind = "LogNormal", median', "median"), ("kind",)),
        Mistake("clearance = [1, 10]", lambda: w(median, "clearance = [1.0, 10.0]"), ("kind",)),
        Mistake("clearance = 5.0", lambda: w(median, "clearance = 5.0"), ("kind", "fixed")),
        Mistake("[priors]", lambda: w("[parameters]", "[priors]"), ("called 'parameters'",)),
        Mistake("[sampler]", lambda: w("[sample]", "[sampler]"), ("sample",)),
        Mistake("[likelihood]", lambda: w("[noise]", "[likelihood]"), ("called 'noise'",)),
        Mistake("function = 'model.f'", lambda: w("model:concentration", "model.concentration"), ("module:name",)),
        Mistake("function not found", lambda: w("model:concentration", "model:conc"), ("conc", "concentration")),
        Mistake("module not found", lambda: w("model:concentration", "models:concentration"), ("models", "folder")),
        Mistake("function = 'numpy:exp'", lambda: w("model:concentration", "numpy:exp"), ("folder",)),
        Mistake("outputs = 'conc'", lambda: w('{ conc = ["hour"] }', '"conc"'), ("outputs",)),
        Mistake("n = '32'", lambda: w("n = 32", 'n = "32"'), ("whole number",)),
        Mistake("n = 32.0", lambda: w("n = 32", "n = 32.5"), ("whole number",)),
        Mistake("design without rng", lambda: w("n = 32\nrng = 1", "n = 32"), ("rng",)),
        Mistake("seed = 1", lambda: w("n = 32\nrng = 1", "n = 32\nseed = 1"), ("rng",)),
        Mistake("kind = 'lhs'", lambda: w('kind = "sobol"', 'kind = "lhs"'), ("latin_hypercube",)),
        Mistake("file not found", lambda: w("data.csv", "date.csv"), ("date.csv", "folder")),
        Mistake("file = '../data.csv'", lambda: w("data.csv", "../data.csv"), ("folder",)),
        Mistake("column not found", lambda: w('"mg_per_L"', '"mg_L"'), ("mg_per_L",)),
        Mistake("output not found", lambda: w('output = "conc"', 'output = "concentration"'), ("conc",)),
        Mistake(
            "another unit", lambda: w('hour = "hour" }\nunit = "mg/L"', 'hour = "hour" }\nunit = "ug/L"'), ("mg/L",)
        ),
        Mistake("draws = 1e3", lambda: w("draws = 1000", "draws = 1e3"), ("whole number",)),
        Mistake("warmup = 1000", lambda: w("tune = 1000", "warmup = 1000"), ("tune",)),
        Mistake("median = 5,0", lambda: w("median = 5.0", "median = 5,0"), ("TOML", "line 16")),
        Mistake("noise = True", lambda: w("noise = true", "noise = True"), ("TOML", "line")),
        Mistake("coords of another dim", lambda: w("{ hour = [12.0, 24.0] }", "{ time = [12.0] }"), ("hour",)),
        Mistake("Study(folder)", lambda: uq.Study("no/such", parameters={}), ("[parameters]",)),
        Mistake("Study(lambda)", lambda: uq.Study(study_folder(), simulator=lambda a: a), ("top level", "`def`")),
        Mistake(
            "Study(simulator=lambda)",
            lambda: _short(simulator=uq.FunctionSimulator(lambda k: k, outputs={"y": ()})),
            ("folder",),
        ),
        Mistake("Study(surrogate=fitted)", lambda: _short(surrogate=surrogate()), ("GaussianProcess",)),
        Mistake("study.sample()", lambda: uq.Study.from_toml(at).sample(), ("study.posterior()",)),
        Mistake("study.run(rng=1)", lambda: uq.Study.from_toml(at).run(rng=1), ("rng",)),
        Mistake("study.design('cell')", lambda: uq.Study.from_toml(at).design("cell"), ("leave `member` out",)),
        Mistake("uqms study run no.toml", lambda: command("study", "run", "no.toml"), ("no.toml",)),
        Mistake("uqms study run folder", lambda: command("study", "run", str(study_folder())), ("file in it",)),
        Mistake("uqms study new folder", lambda: command("study", "new", str(study_folder())), ("exists",)),
        Mistake("uqms study start", lambda: command("study", "start", at), ("run",)),
        Mistake("uqms study report, no results", lambda: command("study", "report", at), ("study run",)),
    ]


def _short(**changed: Any) -> Any:
    """Make a study of the folder's model in Python."""
    study = uq.Study.from_toml(study_folder() / "study.toml")
    return uq.Study(study_folder(), **dict(study.document) | changed)


def plans() -> list[Mistake]:
    """Return mistakes with the next measurements and runs."""
    n, p, r, s = uq.next_experiment, curve_posterior(), uq.next_runs, surrogate()
    return [
        Mistake("next_experiment(posterior, [1, 2])", lambda: n(p, [1.0, 2.0]), ("uq.candidates",)),
        Mistake("next_experiment(posterior, df)", lambda: n(p, table()), ("uq.candidates",)),
        Mistake("next_experiment(posterior)", lambda: n(p), ("ideas", "uq.candidates")),
        Mistake("next_experiment(candidates, posterior)", lambda: n(ideas(), p), ("posterior",)),
        Mistake("next_experiment(surrogate, ideas)", lambda: n(s, ideas()), ("prior_of",)),
        Mistake("next_experiment(problem, ideas)", lambda: n(problem(), ideas()), ("sample",)),
        Mistake("next_experiment(n=2)", lambda: n(p, ideas(), n=2), ("called 'size'",)),
        Mistake("next_experiment(seed=1)", lambda: n(p, ideas(), seed=1), ("rng",)),
        Mistake("next_experiment(size=0)", lambda: n(p, ideas(), size=0), ("size",)),
        Mistake("next_experiment(about='c')", lambda: n(p, ideas(), about="c"), ("'a', 'b'",)),
        Mistake("next_experiment(about='conc')", lambda: n(p, ideas(), about="conc"), ("PredictedOutput",)),
        Mistake("next_experiment(losses=f)", lambda: n(p, ideas(), losses=lambda d: d["a"]), ("{",)),
        Mistake("next_experiment(subject='x')", lambda: n(p, ideas(), subject="x"), ("population",)),
        Mistake("next_experiment of a population", lambda: n(people(), uq.candidates(outputs="peak")), ("subject=",)),
        Mistake("candidates('conc')", lambda: uq.candidates("conc"), ("outputs=",)),
        Mistake("candidates(output='conc')", lambda: uq.candidates(output="conc"), ("outputs",)),
        Mistake("candidates(time=[1])", lambda: uq.candidates(outputs="conc", time=[1.0]), ("times",)),
        Mistake("candidates(coords=[1, 2])", lambda: ideas(coords=[1.0, 2.0]), ("{",)),
        Mistake("candidates(noise=-1)", lambda: ideas(noise=-1.0), ("noise", "positive")),
        Mistake(
            "candidates(noise=HalfNormal(1))",
            lambda: ideas(noise=uq.HalfNormal(1.0)),
            ("standard deviation", "noise model"),
        ),
        Mistake("candidates of another output", lambda: n(p, ideas(outputs="c")), ("'c'", "conc")),
        Mistake("candidates of another dim", lambda: n(p, ideas(coords={"hour": [1.0]})), ("hour", "time")),
        Mistake("candidates after the runs", lambda: n(p, ideas(coords={"time": [9.0]})), ("time",)),
        Mistake("candidates of an output without noise", lambda: n(p, uq.candidates(outputs="peak")), ("noise=",)),
        Mistake("PredictedOutput('conc', time=1)", lambda: uq.PredictedOutput("conc", time=1.0), ("called 'coords'",)),
        Mistake("prior_of(posterior)", lambda: uq.prior_of(p), ("posterior",)),
        Mistake("prior_of(space)", lambda: uq.prior_of(space()), ("surrogate",)),
        Mistake("best.chosen", lambda: n(p, ideas(), size=1, rng=1).chosen, ("best",)),
        Mistake("next_runs(surrogate, 4)", lambda: r(s, 4), ("posterior", "Calibration(")),
        Mistake("next_runs(posterior)", lambda: r(p), ("n",)),
        Mistake("next_runs(n_runs=4)", lambda: r(p, n_runs=4), ("called 'n'",)),
        Mistake("next_runs(posterior, 0)", lambda: r(p, 0), ("n",)),
        Mistake("next_runs(posterior, 2.5)", lambda: r(p, 2.5), ("whole number",)),
        Mistake("next_runs(about='c')", lambda: r(p, 4, about="c"), ("'a', 'b'",)),
        Mistake("next_runs(cost={'coarse': 1})", lambda: r(p, 4, cost={"coarse": 1.0}), ("cost=1.0",)),
        Mistake("next_runs(budget=-1)", lambda: r(p, 4, budget=-1.0), ("budget",)),
        Mistake("next_runs(random_state=1)", lambda: r(p, 4, random_state=1), ("rng",)),
        Mistake("run(f, plan)", lambda: uq.run(peak, r(p, 2, rng=1)), ("plan.design",)),
        Mistake("refine(posterior, n=4, seed=1)", lambda: uq.refine(p, n=4, seed=1), ("rng",)),
    ]


def chains() -> list[Mistake]:
    """Return mistakes with chains of surrogates."""
    cell, tissue = runs_of_two()
    c, link = uq.Chain, {"tissue.apd": "cell.apd"}
    measured = xr.DataArray(0.7, name="speed")
    return [
        Mistake("Chain(cell, tissue)", lambda: c(cell, tissue, links=link), ("cell=",)),
        Mistake("Chain({'cell': ...})", lambda: c({"cell": cell, "tissue": tissue}, links=link), ("cell=...",)),
        Mistake("Chain without links", lambda: c(cell=cell, tissue=tissue), ("links",)),
        Mistake("Chain(links=[...])", lambda: c(cell=cell, tissue=tissue, links=[("cell.apd", "tissue.apd")]), ("{",)),
        Mistake(
            "links the other way",
            lambda: c(cell=cell, tissue=tissue, links={"cell.apd": "tissue.apd"}),
            ("tissue.apd", "cell.apd"),
        ),
        Mistake("links without members", lambda: c(cell=cell, tissue=tissue, links={"apd": "apd"}), ("member.input",)),
        Mistake(
            "link of another output",
            lambda: c(cell=cell, tissue=tissue, links={"tissue.apd": "cell.dur"}),
            ("it has apd",),
        ),
        Mistake(
            "link to another input", lambda: c(cell=cell, tissue=tissue, links={"tissue.dur": "cell.apd"}), ("apd",)
        ),
        Mistake("Chain(cell=ensemble)", lambda: c(cell=ensemble(), tissue=tissue, links=link), (".fit(",)),
        Mistake(
            "Chain(cell=GaussianProcess())", lambda: c(cell=uq.GaussianProcess(), tissue=tissue, links=link), (".fit(",)
        ),
        Mistake("Chain(cell=function)", lambda: c(cell=peak, tissue=tissue, links=link), ("surrogate",)),
        Mistake("Link('cell.v', time=50)", lambda: uq.Link("cell.v", time=50.0), ("called 'at'",)),
        Mistake("chain.predict without an input", lambda: chain().predict({"gCa": 1.0}), ("coupling",)),
        Mistake(
            "chain.predict with the link", lambda: chain().predict({"gCa": 1.0, "coupling": 1.0, "apd": 9.0}), ("apd",)
        ),
        Mistake("data of 'speed'", lambda: uq.Calibration(chain(), measured, noise()), ("tissue.speed",)),
        Mistake(
            "noise of 'speed'",
            lambda: uq.Calibration(chain(), measured.rename("tissue.speed"), {"speed": noise()}),
            ("tissue.speed",),
        ),
        Mistake("chain['cell']", lambda: chain()["cell"], ("chain.members",)),
        Mistake("chain.cell", lambda: chain().cell, ("members['cell']",)),
        Mistake("chain.fit(ensemble)", lambda: chain().fit(ensemble()), ("Chain",)),
        Mistake("chain.simulator(cell=f)", lambda: chain().simulator(cell=peak), ("tissue",)),
        Mistake("chain.push_forward(posterior)", lambda: chain().push_forward(posterior()), ("draws",)),
        Mistake("chain.member_share()", lambda: chain().member_share(), ("posterior",)),
    ]


def dosing() -> list[Mistake]:
    """Return mistakes with tables of doses, regimens and noise of concentrations."""
    e, g, k = uq.Observations.from_events, uq.Regimen, uq.CombinedNoise
    wrong = doses().assign(dv=[0.2, 0.4, 0.3, np.nan, 0.5])
    late = doses().assign(time=[0.0, 2.0, 1.0, 0.0, 1.0])
    twice = {"additive": 0.1, "proportional": 0.1}
    return [
        Mistake("from_events(df)", lambda: e(doses()), ("id", "time", "value", "amount")),
        Mistake("from_events('no.csv')", lambda: e("no.csv", **NAMES), ("pandas.read_csv",)),
        Mistake(
            "from_events(dv='dv', amt='amt')",
            lambda: e(doses(), id="id", time="time", dv="dv", amt="amt"),
            ("value", "amount"),
        ),
        Mistake("from_events(evid='evid')", lambda: e(doses(), **NAMES, evid="evid"), ("called 'event'",)),
        Mistake(
            "from_events(subject='id')",
            lambda: e(doses(), subject="id", time="time", value="dv", amount="amt"),
            ("id",),
        ),
        Mistake("no such column", lambda: e(doses(), **NAMES | {"amount": "dose"}), ("'dose'", "amt")),
        Mistake("a dose with a value", lambda: e(wrong, **NAMES), ("row 0", "two rows")),
        Mistake("times that go back", lambda: e(late, **NAMES), ("row 2", "sort")),
        Mistake("no doses", lambda: e(doses().assign(amt=0.0), **NAMES), ("row 0", "dose")),
        Mistake("a negative dose", lambda: e(doses().assign(amt=[-5.0, 0.0, 0.0, 4.0, 0.0]), **NAMES), ("row 0",)),
        Mistake("a covariate that changes", lambda: e(doses(), **NAMES, covariates=["wt"]), ("varying",)),
        Mistake("words for a dose", lambda: e(doses().assign(amt=["5 mg", 0, 0, 4, 0]), **NAMES), ("row 0", "number")),
        Mistake("Regimen(25)", lambda: g(25.0), ("Regimen.single",)),
        Mistake("Regimen()", lambda: g(), ("Regimen.single",)),
        Mistake("Regimen.single(dose=25)", lambda: g.single(dose=25.0), ("called 'amount'",)),
        Mistake("Regimen.single(-25)", lambda: g.single(-25.0), ("amount",)),
        Mistake("Regimen.repeated(4, 12, 9)", lambda: g.repeated(4.0, 12.0, 9), ("every=",)),
        Mistake("Regimen.repeated(interval=12)", lambda: g.repeated(4.0, interval=12.0, doses=3), ("called 'every'",)),
        Mistake("Regimen.repeated(n=3)", lambda: g.repeated(4.0, every=12.0, n=3), ("called 'doses'",)),
        Mistake("Regimen.repeated(doses=2.5)", lambda: g.repeated(4.0, every=12.0, doses=2.5), ("whole number",)),
        Mistake("regimen + 4.0", lambda: g.single(4.0) + 4.0, ("Regimen.single(",)),
        Mistake("regimen * 2", lambda: g.single(4.0) * 2.0, ("scaled(",)),
        Mistake("Superposition(surrogate)", lambda: uq.Superposition(surrogate()), ("regimens",)),
        Mistake(
            "Superposition(GaussianProcess(), r)",
            lambda: uq.Superposition(uq.GaussianProcess(), g.single(1.0)),
            ("fitted",),
        ),
        Mistake("Superposition(surrogate, table)", lambda: uq.Superposition(surrogate(), doses()), ("from_events",)),
        Mistake(
            "dose_for without a superposition",
            lambda: uq.dose_for(people(), g.single, [1.0], at=[1.0], above=1.0),
            ("Superposition",),
        ),
        Mistake("dose_for without a target", lambda: uq.dose_for(people(), g.single, [1.0], at=[1.0]), ("above",)),
        Mistake("CombinedNoise(0.1)", lambda: k(0.1), ("proportional",)),
        Mistake("CombinedNoise(sd=0.1)", lambda: k(sd=0.1, proportional=0.1), ("called 'additive'",)),
        Mistake("CombinedNoise(relative=0.1)", lambda: k(additive=0.1, relative=0.1), ("called 'proportional'",)),
        Mistake("CombinedNoise(sigma_add=...)", lambda: k(sigma_add=0.1, sigma_prop=0.1), ("additive", "proportional")),
        Mistake("CombinedNoise(proportional=0)", lambda: k(0.1, 0.0), ("GaussianNoise",)),
        Mistake("CombinedNoise('0.1', 0.1)", lambda: k("0.1", 0.1), ("additive",)),
        Mistake("CombinedNoise(power=-1)", lambda: k(**twice, power=-1.0), ("power",)),
        Mistake("uq.ProportionalNoise(0.1)", lambda: uq.ProportionalNoise(0.1), ("CombinedNoise",)),
        Mistake("uq.Dose(5)", lambda: uq.Dose(5.0), ("Regimen",)),
    ]


@cache
def report() -> Any:
    """Return a report."""
    return uq.credibility_report(posterior())


@cache
def files() -> dict[str, Path]:
    """Return files that are no posteriors."""
    paths = {name: folder() / name for name in ("text.nc", "draws.nc", "table.csv")}
    paths["text.nc"].write_text("no netCDF", encoding="utf-8")
    posterior().to_netcdf(paths["draws.nc"])
    table().to_csv(paths["table.csv"])
    return paths


def afterwards() -> list[Mistake]:
    """Return mistakes with reports, verification of populations and saved posteriors."""
    c, load, q, many = uq.credibility_report, uq.load_posterior, posterior(), people()
    points = uq.verification_design(many, 4, rng=1)
    once = uq.ensemble.build(design(), {"peak": design()["a"].values + design()["b"].values})
    return [
        Mistake("credibility_report()", lambda: c(), ("posterior",)),
        Mistake("credibility_report(surrogate)", lambda: c(surrogate()), ("posterior",)),
        Mistake("credibility_report(problem)", lambda: c(problem()), ("sample",)),
        Mistake("credibility_report(posterior, 'title')", lambda: c(q, "Title"), ("title=",)),
        Mistake("credibility_report(name='x')", lambda: c(q, name="x"), ("title",)),
        Mistake("credibility_report(title=3)", lambda: c(q, title=3), ("title",)),
        Mistake("credibility_report(sensitivity=0.5)", lambda: c(q, sensitivity=0.5), ("sensitivity", "table")),
        Mistake("credibility_report(predictions=posterior)", lambda: c(q, predictions=q), ("predict(",)),
        Mistake(
            "credibility_report(factors={'code': ...})",
            lambda: c(q, factors={"code": "x"}),
            ("numerical code verification",),
        ),
        Mistake("credibility_report(figures=figure)", lambda: c(q, figures=uq.plots.prior_posterior(q)), ("{",)),
        Mistake("credibility_report(ensemble=design)", lambda: c(q, ensemble=table()), ("ensemble",)),
        Mistake("credibility_report(verification=runs)", lambda: c(q, ensemble()), ("uq.verify",)),
        Mistake("report.to_html()", lambda: report().to_html(), ("path",)),
        Mistake("report.to_html(no folder)", lambda: report().to_html("no/such/report.html"), ("no/such",)),
        Mistake("report.save('x.html')", lambda: report().save("x.html"), ("to_html",)),
        Mistake("report.to_pdf('x.pdf')", lambda: report().to_pdf("x.pdf"), ("to_html",)),
        Mistake("check_report('no.html')", lambda: uq.check_report("no.html"), ("no.html",)),
        Mistake("check_report(report)", lambda: uq.check_report(report()), ("path",)),
        Mistake("check_report(a table)", lambda: uq.check_report(files()["table.csv"]), ("credibility_report",)),
        Mistake("verify(population, design)", lambda: uq.verify(many, points), ("uq.run(",)),
        Mistake("verify(population, runs of a design)", lambda: uq.verify(many, once), ("verification_design",)),
        Mistake("verify(population, surrogate)", lambda: uq.verify(many, surrogate()), ("uq.run(",)),
        Mistake("verify(runs, posterior)", lambda: uq.verify(once, many), ("posterior",)),
        Mistake("verify(new patient, runs)", lambda: uq.verify(many.new_subject(), once), ("posterior",)),
        Mistake("verification_design(population)", lambda: uq.verification_design(many), ("n",)),
        Mistake("verification_design(surrogate, 4)", lambda: uq.verification_design(surrogate(), 4), ("posterior",)),
        Mistake(
            "verification_design(population, 9999)",
            lambda: uq.verification_design(many, 9999),
            ("whole number from 1",),
        ),
        Mistake("correct(population, no runs)", lambda: uq.correct(many), ("verification_design",)),
        Mistake("predict(subjects='u')", lambda: many.predict(subjects="u"), ("'x', 'y', 'z'",)),
        Mistake("posterior['x']", lambda: many["x"], ("individuals",)),
        Mistake("new_subject(df)", lambda: many.new_subject(table()), ("from_table",)),
        Mistake("new_subject(2.0)", lambda: many.new_subject(2.0), ("Observations",)),
        Mistake(
            "new_subject(covariates={'age': 3})", lambda: many.new_subject(covariates={"age": 3.0}), ("covariates",)
        ),
        Mistake("posterior.shrinkage() of one subject", lambda: q.shrinkage(), ("population",)),
        Mistake("load_posterior()", lambda: load(), ("path",)),
        Mistake("load_posterior(3)", lambda: load(3), ("path",)),
        Mistake("load_posterior(folder)", lambda: load(folder()), ("folder",)),
        Mistake("load_posterior(posterior)", lambda: load(q), ("path",)),
        Mistake("load_posterior(text)", lambda: load(files()["text.nc"]), ("posterior.save",)),
        Mistake("load_posterior(csv)", lambda: load(files()["table.csv"]), ("posterior.save",)),
        Mistake("load_posterior(draws alone)", lambda: load(files()["draws.nc"]), ("save",)),
        Mistake(
            "load_surrogate(posterior's file)", lambda: uq.load_surrogate(files()["draws.nc"]), ("load_posterior",)
        ),
        Mistake("uq.load('p.nc')", lambda: uq.load("p.nc"), ("load_posterior",)),
        Mistake("uq.save(posterior, 'p.nc')", lambda: uq.save(q, "p.nc"), ("posterior.save",)),
        Mistake("uq.from_netcdf('p.nc')", lambda: uq.from_netcdf("p.nc"), ("load_posterior",)),
        Mistake("posterior.to_pickle('p')", lambda: q.to_pickle("p"), ("save",)),
    ]


@cache
def levels() -> xr.Dataset:
    """Return runs of two levels of fidelity."""
    parts = []
    for level, points in uq.nested(space(), {"coarse": 16, "fine": 8}, rng=1).items():
        a, b = points["a"].values, points["b"].values
        parts.append(uq.ensemble.build(points, {"peak": a + b + (0.1 * a if level == "fine" else 0.0)}, fidelity=level))
    return uq.ensemble.combine(*parts)


@cache
def two_levels() -> Any:
    """Return their surrogate."""
    return uq.MultiFidelity(levels=("coarse", "fine"), hyperparameters="point").fit(levels())


@cache
def waves_so_far() -> Any:
    """Return the first wave of history matching."""
    return uq.HistoryMatching(surrogate(), {"peak": (2.0, 0.1)}, runs=ensemble())


@cache
def unit_dose() -> Any:
    """Return a surrogate of the curve alone."""
    runs = ensemble()[["a", "b", "conc", "state", "seconds", "message"]]
    return uq.GaussianProcess(hyperparameters="point").fit(runs)


@cache
def dosed() -> Any:
    """Return the posterior of a patient with one dose."""
    once = uq.Regimen.single(2.0)
    measured = pd.DataFrame({"t": [0.5, 1.0], "y": [1.4, 1.0], "r": once.number})
    coords = {"time": "t", "regimen": "r"}
    data = uq.Observations.from_table(measured, output="conc", value="y", coords=coords)
    return uq.Calibration(uq.Superposition(unit_dose(), once), data, noise()).sample(uq.Laplace(draws=100), rng=1)


@cache
def points() -> xr.Dataset:
    """Return posterior draws to run."""
    return uq.verification_design(posterior(), 6, rng=1)


@cache
def verified() -> xr.Dataset:
    """Return runs of them."""
    a, b, t = points()["a"].values, points()["b"].values, np.linspace(0.0, 2.0, 5)
    curve = xr.DataArray(a[:, None] * np.exp(-np.outer(b, t)), dims=("run", "time"), coords={"time": t})
    return uq.ensemble.build(points(), {"peak": a + b, "conc": curve})


def regimens() -> list[Mistake]:
    """Return mistakes with tables of doses, regimens, unit responses and the dose that is needed."""
    g, e, s = uq.Regimen, uq.Observations.from_events, surrogate()
    return [
        Mistake(
            "from_events(time as clock)",
            lambda: e(doses().assign(time=["08:00", "09:00", "10:00", "08:00", "09:00"]), **NAMES),
            ("time",),
        ),
        Mistake(
            "from_events(datetime)",
            lambda: e(doses().assign(time=pd.to_datetime(["2020-01-01"] * 5)), **NAMES),
            ("time",),
        ),
        Mistake(
            "from_events(event words)",
            lambda: e(doses().assign(ev=["dose", "obs", "obs", "dose", "obs"]), **NAMES, event="ev"),
            ("event",),
        ),
        Mistake("from_events(dict)", lambda: e(doses().to_dict("list"), **NAMES), ("DataFrame",)),
        Mistake("from_events(xarray)", lambda: e(doses().to_xarray(), **NAMES), ("DataFrame",)),
        Mistake("from_events(unit=3)", lambda: e(doses(), **NAMES, unit=3), ("unit",)),
        Mistake("from_events(output=['conc'])", lambda: e(doses(), **NAMES, output=["conc"]), ("output",)),
        Mistake(
            "from_events(missing id)", lambda: e(doses().assign(id=[1, 1, np.nan, 2, 2]), **NAMES), ("row 2", "id")
        ),
        Mistake(
            "from_events NaN amount",
            lambda: e(doses().assign(amt=[5.0, np.nan, np.nan, 4.0, np.nan], dv=np.nan), **NAMES),
            ("value",),
        ),
        Mistake(
            "from_events addl without ii",
            lambda: e(doses().assign(addl=[2, 0, 0, 0, 0]), **NAMES, additional="addl"),
            ("interval",),
        ),
        Mistake(
            "from_events ss without ii",
            lambda: e(doses().assign(ss=[1, 0, 0, 0, 0]), **NAMES, steady_state="ss"),
            ("interval",),
        ),
        Mistake(
            "from_events rate -2", lambda: e(doses().assign(rate=[-2, 0, 0, 0, 0]), **NAMES, rate="rate"), ("rate",)
        ),
        Mistake(
            "from_events cmt 2 without routes",
            lambda: e(doses().assign(cmt=[1, 2, 2, 3, 2]), **NAMES, route="cmt", routes={1: "oral"}),
            ("routes",),
        ),
        Mistake("data.doses", lambda: e(doses(), **NAMES).doses, ("regimens",)),
        Mistake("data.to_dataframe()", lambda: e(doses(), **NAMES).to_dataframe(), ("table",)),
        Mistake("Regimen.single(25, 'iv')", lambda: g.single(25.0, "iv"), ("route=",)),
        Mistake("Regimen.repeated(every=0)", lambda: g.repeated(4.0, every=0.0, doses=3), ("every",)),
        Mistake("Regimen.repeated(doses=inf)", lambda: g.repeated(4.0, every=12.0, doses=np.inf), ("whole number",)),
        Mistake("Regimen.single(rate=)", lambda: g.single(25.0, rate=-5.0), ("rate",)),
        Mistake("regimen.scaled('2')", lambda: g.single(25.0).scaled("2"), ("number",)),
        Mistake("regimen.superpose(f)", lambda: g.single(25.0).superpose(lambda t: t), ("times",)),
        Mistake("regimen.times", lambda: g.single(1.0).total, ("amounts",)),
        Mistake(
            "Superposition(scalar surrogate)", lambda: uq.Superposition(runs_of_two()[0], g.single(1.0)), ("time",)
        ),
        Mistake("Superposition(response, {'x': 5})", lambda: uq.Superposition(unit_dose(), {"x": 5.0}), ("Regimen",)),
        Mistake("Superposition(response, [])", lambda: uq.Superposition(unit_dose(), []), ("regimen",)),
        Mistake(
            "Superposition(response, data)", lambda: uq.Superposition(unit_dose(), e(doses(), **NAMES)), ("regimens",)
        ),
        Mistake(
            "Superposition(outputs='conc')",
            lambda: uq.Superposition(unit_dose(), g.single(1.0), outputs="conc"),
            ("{",),
        ),
        Mistake(
            "Superposition(outputs of another)",
            lambda: uq.Superposition(unit_dose(), g.single(1.0), outputs={"y": "dv"}),
            ("conc",),
        ),
        Mistake(
            "superposition.predict at a late time",
            lambda: uq.Superposition(unit_dose(), g.single(1.0)).predict({"a": 1.0, "b": 1.0}, coords={"time": [50.0]}),
            ("time",),
        ),
        Mistake(
            "Calibration(superposition, no regimen)",
            lambda: uq.Calibration(uq.Superposition(unit_dose(), {"once": g.single(1.0)}), curve_at(1.0), noise()),
            ("regimen",),
        ),
        Mistake(
            "Calibration(superposition, other regimen)",
            lambda: uq.Calibration(
                uq.Superposition(unit_dose(), {"once": g.single(1.0)}),
                uq.Observations.from_table(
                    pd.DataFrame({"t": [0.5], "y": [1.0], "r": ["twice"]}),
                    output="conc",
                    value="y",
                    coords={"time": "t", "regimen": "r"},
                ),
                noise(),
            ),
            ("'twice'", "regimen.number"),
        ),
        Mistake(
            "from_table(coords='t')",
            lambda: uq.Observations.from_table(table(), output="conc", value="y", coords="t"),
            ("{'time'",),
        ),
        Mistake(
            "from_table(coords=['t'])",
            lambda: uq.Observations.from_table(table(), output="conc", value="y", coords=["t"]),
            ("{'time'",),
        ),
        Mistake(
            "from_table(unit=None)",
            lambda: uq.Observations.from_table(table(), output="conc", value="y", coords={"time": "t"}, unit=None),
            ("unit",),
        ),
        Mistake(
            "Calibration(superposition, other number)",
            lambda: uq.Calibration(
                uq.Superposition(unit_dose(), {"once": g.single(1.0)}),
                uq.Observations.from_table(
                    pd.DataFrame({"t": [0.5], "y": [1.0], "r": [7.0]}),
                    output="conc",
                    value="y",
                    coords={"time": "t", "regimen": "r"},
                ),
                noise(),
            ),
            ("regimen",),
        ),
        Mistake(
            "check_superposition(surrogate)",
            lambda: uq.check_superposition(unit_dose(), space(), regimen=g.single(1.0), times=[1.0]),
            ("function",),
        ),
        Mistake(
            "check_superposition(f(a,b))",
            lambda: uq.check_superposition(peak, space(), regimen=g.single(1.0), times=[1.0]),
            ("regimen",),
        ),
        Mistake(
            "check_superposition(no times)",
            lambda: uq.check_superposition(
                lambda regimen, times, a, b: np.zeros(1), space(), regimen=g.single(1.0), times=[1.0, 2.0]
            ),
            ("times",),
        ),
        Mistake(
            "dose_for(regimen object)",
            lambda: uq.dose_for(dosed(), g.single(1.0), [1.0, 2.0], at=[1.0], above=1.0),
            ("function",),
        ),
        Mistake("dose_for(amounts=[])", lambda: uq.dose_for(dosed(), g.single, [], at=[1.0], above=1.0), ("amounts",)),
        Mistake(
            "dose_for(amounts 2,1)",
            lambda: uq.dose_for(dosed(), g.single, [2.0, -1.0], at=[1.0], above=1.0),
            ("amount",),
        ),
        Mistake(
            "dose_for(probability=90)",
            lambda: uq.dose_for(dosed(), g.single, [1.0], at=[1.0], above=1.0, probability=90),
            ("0.9",),
        ),
        Mistake("dose_for(at late)", lambda: uq.dose_for(dosed(), g.single, [1.0], at=[99.0], above=1.0), ("99", "2")),
        Mistake("dose_for(target=1)", lambda: uq.dose_for(dosed(), g.single, [1.0], at=[1.0], target=1.0), ("above",)),
        Mistake(
            "dose_for(above > below)",
            lambda: uq.dose_for(dosed(), g.single, [1.0], at=[1.0], above=2.0, below=1.0),
            ("above", "below"),
        ),
        Mistake(
            "dose_for(subject='1')",
            lambda: uq.dose_for(dosed(), g.single, [1.0], at=[1.0], above=1.0, subject="1"),
            ("population",),
        ),
        Mistake(
            "dose_for(output='y')",
            lambda: uq.dose_for(dosed(), g.single, [1.0], at=[1.0], above=1.0, output="y"),
            ("conc",),
        ),
        Mistake(
            "dose_for(lambda returns number)",
            lambda: uq.dose_for(dosed(), lambda d: d, [1.0], at=[1.0], above=1.0),
            ("Regimen",),
        ),
        Mistake(
            "dose_for(surrogate)",
            lambda: uq.dose_for(uq.Superposition(unit_dose(), g.single(1.0)), g.single, [1.0], at=[1.0], above=1.0),
            ("posterior",),
        ),
        Mistake(
            "CombinedNoise() of counts",
            lambda: uq.Calibration(s, data(), uq.CombinedNoise(0.1, -0.1)),
            ("proportional",),
        ),
        Mistake(
            "CombinedNoise(0.1, proportional=10%)", lambda: uq.CombinedNoise(0.1, "10%"), ("proportional", "fraction")
        ),
        Mistake(
            "CombinedNoise in candidates",
            lambda: uq.next_experiment(curve_posterior(), ideas(noise=uq.CombinedNoise)),
            ("CombinedNoise(",),
        ),
    ]


def waves() -> list[Mistake]:
    """Return mistakes with waves of history matching, levels of fidelity, corrections and verification."""
    hm, mf, s, q = uq.HistoryMatching, uq.MultiFidelity, surrogate(), posterior()
    target = {"peak": (2.0, 0.1)}
    return [
        Mistake("HistoryMatching(surrogate)", lambda: hm(s), ("targets",)),
        Mistake("HistoryMatching(target number)", lambda: hm(s, {"peak": 2.0}), ("(value, sd)",)),
        Mistake("HistoryMatching(sd=0)", lambda: hm(s, {"peak": (2.0, 0.0)}), ("sd",)),
        Mistake("HistoryMatching(sd negative)", lambda: hm(s, {"peak": (2.0, -1.0)}), ("sd",)),
        Mistake("HistoryMatching(wrong output)", lambda: hm(s, {"peek": (2.0, 0.1)}), ("peek", "peak")),
        Mistake("HistoryMatching(curve)", lambda: hm(s, {"conc": (1.0, 0.1)}), ("conc", "time")),
        Mistake("HistoryMatching(ensemble)", lambda: hm(ensemble(), target), (".fit(",)),
        Mistake("HistoryMatching(targets, surrogate)", lambda: hm(target, s), ("surrogate",)),
        Mistake("HistoryMatching(threshold=3)", lambda: hm(s, target, threshold=3.0), ("level",)),
        Mistake("HistoryMatching(cutoff=3)", lambda: hm(s, target, cutoff=3.0), ("level",)),
        Mistake("HistoryMatching(level=3)", lambda: hm(s, target, level=3.0), ("level", "0.005")),
        Mistake("HistoryMatching(observation without noise)", lambda: hm(s, data()), ("noise",)),
        Mistake(
            "HistoryMatching(noise=HalfNormal)", lambda: hm(s, data(), uq.GaussianNoise(uq.HalfNormal(1.0))), ("known",)
        ),
        Mistake("waves.told(design)", lambda: waves_so_far().told(waves_so_far().propose(4, rng=1)), ("uq.run(",)),
        Mistake("waves.told()", lambda: waves_so_far().told(), ("uq.run(",)),
        Mistake("waves.propose()", lambda: waves_so_far().propose(), ("n",)),
        Mistake("waves.propose(0)", lambda: waves_so_far().propose(0), ("n",)),
        Mistake("waves.propose(4, seed=1)", lambda: waves_so_far().propose(4, seed=1), ("rng",)),
        Mistake("waves.rules_out({'a': 1})", lambda: waves_so_far().rules_out({"a": 1.0}), ("b",)),
        Mistake("waves.sample()", lambda: waves_so_far().sample(), ("calibration",)),
        Mistake("waves.run()", lambda: waves_so_far().run(), ("propose",)),
        Mistake("waves.posterior", lambda: waves_so_far().posterior, ("calibration",)),
        Mistake("plots.history_matching(surrogate)", lambda: uq.plots.history_matching(s), ("HistoryMatching",)),
        Mistake("MultiFidelity()", lambda: mf(), ("levels",)),
        Mistake("MultiFidelity('coarse', 'fine')", lambda: mf("coarse", "fine"), ("levels=",)),
        Mistake("MultiFidelity(levels='fine')", lambda: mf(levels="fine"), ("levels=(",)),
        Mistake("MultiFidelity(levels=1)", lambda: mf(levels=("fine",)), ("two",)),
        Mistake("MultiFidelity.fit(one level)", lambda: mf(levels=("coarse", "fine")).fit(ensemble()), ("fidelity=",)),
        Mistake(
            "MultiFidelity.fit(low, high)",
            lambda: mf(levels=("coarse", "fine")).fit(ensemble(), ensemble()),
            ("combine",),
        ),
        Mistake(
            "MultiFidelity.fit(list)", lambda: mf(levels=("coarse", "fine")).fit([ensemble(), ensemble()]), ("combine",)
        ),
        Mistake(
            "MultiFidelity(levels of other names)", lambda: mf(levels=("low", "high")).fit(levels()), ("coarse", "fine")
        ),
        Mistake("GaussianProcess().fit(levels)", lambda: uq.GaussianProcess().fit(levels()), ("MultiFidelity",)),
        Mistake("nested(space, 16)", lambda: uq.nested(space(), 16), ("{",)),
        Mistake(
            "nested(space, fine more)", lambda: uq.nested(space(), {"coarse": 8, "fine": 16}), ("cheapest", "most runs")
        ),
        Mistake("next_level(surrogate)", lambda: uq.next_level(s), ("MultiFidelity",)),
        Mistake("next_level(cost number)", lambda: uq.next_level(two_levels(), cost=3.0), ("{",)),
        Mistake("multifidelity.level('x')", lambda: two_levels().lower, ("levels",)),
        Mistake("correct(posterior, design)", lambda: uq.correct(q, points()), ("uq.run(",)),
        Mistake("correct(posterior, other runs)", lambda: uq.correct(q, ensemble()), ("verification_design",)),
        Mistake("correct(posterior, sampler='NUTS')", lambda: uq.correct(q, verified(), sampler="NUTS"), ("NUTS(",)),
        Mistake("correct(posterior, n=20)", lambda: uq.correct(q, n=20), ("verification_design",)),
        Mistake("verify(posterior, simulator)", lambda: uq.verify(q, peak), ("uq.run(",)),
        Mistake("verification_design(posterior, 4, seed=1)", lambda: uq.verification_design(q, 4, seed=1), ("rng",)),
        Mistake("correction.summary()", lambda: uq.correct(q, verified(), rng=1).summary(), ("posterior",)),
        Mistake("verification.ok", lambda: uq.verify(q, verified()).ok, ("verdict",)),
    ]


def further() -> list[Mistake]:
    """Return mistakes with figures, other libraries' names, scales, trials, level sets and settings of surrogates."""
    q, s = posterior(), surrogate()
    return [
        Mistake("plots.predictive(surrogate)", lambda: uq.plots.predictive(s), ("posterior",)),
        Mistake("plots.predictive(prediction)", lambda: uq.plots.predictive(q.predict(rng=1)), ("posterior",)),
        Mistake("plots.leave_one_out(surrogate)", lambda: uq.plots.leave_one_out(s), ("uq.leave_one_out(",)),
        Mistake("plots.sobol(surrogate)", lambda: uq.plots.sobol(s), ("sobol_indices",)),
        Mistake("plots.pairs(problem)", lambda: uq.plots.pairs(problem()), ("sample",)),
        Mistake("plots.pairs(posterior, names='a')", lambda: uq.plots.pairs(q, names="a"), ("['a']",)),
        Mistake("plots.design(posterior)", lambda: uq.plots.design(q), ("design",)),
        Mistake("plots.pairs(posterior, var_names=)", lambda: uq.plots.pairs(q, var_names=["a"]), ("names",)),
        Mistake("plots.trace(posterior)", lambda: uq.plots.trace(q), ("arviz",)),
        Mistake("plots.predictive(ax=ax)", lambda: uq.plots.predictive(q, ax=None), ("figure",)),
        Mistake("plots.individuals(single)", lambda: uq.plots.individuals(q), ("population",)),
        Mistake("plots.next_runs(posterior)", lambda: uq.plots.next_runs(q), ("uq.next_runs(",)),
        Mistake("plots.tornado(surrogate)", lambda: uq.plots.tornado(s), ("uq.tornado(",)),
        Mistake("figure.show", lambda: uq.plots.show(), ("savefig",)),
        Mistake("to_botorch(ensemble)", lambda: uq.to_botorch(ensemble()), ("surrogate",)),
        Mistake("to_botorch(GaussianProcess())", lambda: uq.to_botorch(uq.GaussianProcess()), (".fit(",)),
        Mistake("to_botorch(surrogate)", lambda: uq.to_botorch(s), ("output",)),
        Mistake("to_botorch(surrogate, 'y')", lambda: uq.to_botorch(s, "y"), ("peak",)),
        Mistake("to_botorch(surrogate, 'conc')", lambda: uq.to_botorch(s, "conc", inputs="cube"), ("unit", "own")),
        Mistake("from_gpytorch(surrogate)", lambda: uq.from_gpytorch(s, box=space().box()), ("model",)),
        Mistake("scales='log'", lambda: uq.GaussianProcess(scales="log"), ("'auto'", "'given'")),
        Mistake("scales={'a': 'log'}", lambda: uq.GaussianProcess(scales={"a": "log"}), ("'auto'", "uq.Box(")),
        Mistake("Box(scale='log')", lambda: uq.Box(("a",), (0.1,), (1.0,), scale="log"), ("scale",)),
        Mistake("Curve(transform='sqrt')", lambda: uq.Curve(transform="sqrt"), ("'log'",)),
        Mistake("Scalar('y')", lambda: uq.Scalar("y"), ("'log'",)),
        Mistake("outputs=['y']", lambda: uq.GaussianProcess(outputs=["peak"]), ("mapping", "Scalar()")),
        Mistake("outputs={'peak': 'log'}", lambda: uq.GaussianProcess(outputs={"peak": "log"}), ("Scalar(",)),
        Mistake(
            "transform log of negative",
            lambda: uq.GaussianProcess(outputs={"peak": uq.Scalar(transform="log")}).fit(
                uq.ensemble.build(design(), {"peak": design()["a"].values - 1})
            ),
            ("peak", "log"),
        ),
        Mistake(
            "outputs curve for scalar",
            lambda: uq.GaussianProcess(outputs={"peak": uq.Curve()}).fit(ensemble()),
            ("Scalar",),
        ),
        Mistake("HalfStudentT(scale=1)", lambda: uq.HalfStudentT(scale=1.0), ("nu",)),
        Mistake("TruncatedNormal(2, 1, 3, 1)", lambda: uq.TruncatedNormal(2.0, 1.0, 3.0, 1.0), ("low",)),
        Mistake("MultivariateNormal([..])", lambda: uq.MultivariateNormal([0, 0], [[1, 0], [0, 1]]), ("names",)),
        Mistake(
            "MultivariateNormal not pd",
            lambda: uq.MultivariateNormal(("a", "b"), (0.0, 0.0), ((1.0, 2.0), (2.0, 1.0))),
            ("covariance",),
        ),
        Mistake("prior.sample(10)", lambda: uq.Normal(0.0, 1.0).sample(10), ("rng",)),
        Mistake("prior.pdf(1)", lambda: uq.Normal(0.0, 1.0).pdf(1.0), ("log_density",)),
        Mistake("prior.cdf(1)", lambda: uq.Normal(0.0, 1.0).ppf(0.5), ("quantile",)),
        Mistake("posterior.load('p.nc')", lambda: q.load("p.nc"), ("load_posterior",)),
        Mistake("Posterior.load('p.nc')", lambda: uq.Posterior.load("p.nc"), ("load_posterior",)),
        Mistake("posterior.save(folder)", lambda: q.save(folder()), ("folder",)),
        Mistake("posterior.to_csv", lambda: q.to_csv("x"), ("draws",)),
        Mistake("posterior.plot()", lambda: q.plot(), ("uq.plots",)),
        Mistake("posterior.sample()", lambda: q.sample(), ("problem",)),
        Mistake("posterior.verdict()", lambda: q.verdict(), ("print(posterior.verdict)",)),
        Mistake("posterior.predict(times=[1])", lambda: q.predict(times=[1.0]), ("coords",)),
        Mistake("posterior.predict(a=1)", lambda: q.predict(a=1.0), ("conditions",)),
        Mistake(
            "next_trial(posterior, ideas)",
            lambda: uq.next_trial(people(), uq.candidates(outputs="peak", noise=0.1)),
            ("size", "subjects"),
        ),
        Mistake(
            "next_trial(single)",
            lambda: uq.next_trial(q, uq.candidates(outputs="peak", noise=0.1), 1, 10),
            ("population",),
        ),
        Mistake(
            "next_trial(n_subjects=10)",
            lambda: uq.next_trial(people(), uq.candidates(outputs="peak", noise=0.1), 1, n_subjects=10),
            ("subjects",),
        ),
        Mistake(
            "next_trial(0 subjects)",
            lambda: uq.next_trial(people(), uq.candidates(outputs="peak", noise=0.1), 1, 0),
            ("subjects",),
        ),
        Mistake(
            "next_trial(at=)",
            lambda: uq.next_trial(people(), uq.candidates(outputs="peak", noise=0.1), 1, 10, at={"z": 1.0}),
            ("a",),
        ),
        Mistake(
            "trial_information(surrogate)",
            lambda: uq.trial_information(s, uq.candidates(outputs="peak", noise=0.1), 10),
            ("population",),
        ),
        Mistake(
            "trial_information(sizes)",
            lambda: uq.trial_information(people(), uq.candidates(outputs="peak", noise=0.1), [1, 2]),
            ("one per arm",),
        ),
        Mistake("next_runs(posterior, 4).run()", lambda: uq.next_runs(curve_posterior(), 2, rng=1).run(), ("design",)),
        Mistake(
            "uq.run(f, next_experiment)",
            lambda: uq.run(peak, uq.next_experiment(curve_posterior(), ideas(), size=1, rng=1)),
            ("design",),
        ),
        Mistake("level_set(surrogate)", lambda: uq.level_set(s), ("level",)),
        Mistake("level_set(surrogate, 1)", lambda: uq.level_set(s, 1.0), ("output",)),
        Mistake("level_set(curve)", lambda: uq.level_set(s, 1.0, output="conc"), ("conc",)),
        Mistake("level_set(threshold=)", lambda: uq.level_set(s, threshold=1.0), ("level",)),
        Mistake("rare_event(surrogate, above=3)", lambda: uq.rare_event(s, above=3.0, of="peak"), ("threshold",)),
        Mistake("rare_event(posterior)", lambda: uq.rare_event(q, 3.0), ("surrogate",)),
        Mistake("propagate(of='y')", lambda: uq.propagate(s, of="y"), ("peak",)),
        Mistake("propagate(inputs=df)", lambda: uq.propagate(s, pd.DataFrame({"a": [1.0]})), ("b",)),
        Mistake(
            "Chain(cell='x')",
            lambda: uq.Chain(cell="x", tissue=runs_of_two()[1], links={"tissue.apd": "cell.apd"}),
            ("surrogate",),
        ),
        Mistake(
            "chain loop",
            lambda: uq.Chain(
                cell=runs_of_two()[1],
                tissue=runs_of_two()[1],
                links={"tissue.apd": "cell.speed", "cell.apd": "tissue.speed"},
            ),
            ("loop",),
        ),
        Mistake(
            "Chain(links twice)",
            lambda: uq.Chain(
                cell=runs_of_two()[0],
                tissue=runs_of_two()[1],
                links={"tissue.apd": "cell.apd", "tissue.coupling": "tissue.speed"},
            ),
            ("tissue",),
        ),
        Mistake("Link()", lambda: uq.Link(), ("output",)),
        Mistake("chain predict ensemble", lambda: chain().predict(ensemble()), ("gCa",)),
        Mistake("leave_one_out(chain, 5)", lambda: uq.leave_one_out(chain(), 5), ("rng",)),
        Mistake("credibility_report(posterior).show()", lambda: report().show(), ("to_html",)),
        Mistake("Population(space)", lambda: uq.Population(space()), ("individual",)),
        Mistake("Population(individual=['x'])", lambda: uq.Population(space(), individual=["x"]), ("'x'", "'a', 'b'")),
        Mistake(
            "Population(omega=)",
            lambda: uq.Population(space(), individual=["b"], omega=uq.HalfNormal(0.3)),
            ("spread",),
        ),
        Mistake("Population(random_effects=)", lambda: uq.Population(space(), random_effects=["b"]), ("individual",)),
        Mistake(
            "Calibration(population=space)",
            lambda: uq.Calibration(s, data(), noise(), population=space()),
            ("Population(",),
        ),
        Mistake(
            "Calibration(population, no subject)",
            lambda: uq.Calibration(s, data(), noise(), population=uq.Population(space(), individual=["b"])),
            ("subject=",),
        ),
        Mistake("DirectSimulator(f)", lambda: uq.DirectSimulator(peak), ("outputs", "space")),
        Mistake("GPDiscrepancy(sigma=)", lambda: uq.GPDiscrepancy(sigma=0.1), ("sd",)),
        Mistake("GPDiscrepancy(lengthscale=)", lambda: uq.GPDiscrepancy(lengthscale=0.1), ("length",)),
        Mistake(
            "Calibration(discrepancy=True)",
            lambda: uq.Calibration(s, data(), noise(), discrepancy=True),
            ("GPDiscrepancy",),
        ),
        Mistake(
            "Calibration(discrepancy=0.1)",
            lambda: uq.Calibration(s, data(), noise(), discrepancy=0.1),
            ("Discrepancy",),
        ),
        Mistake("Regimes('peak > 1')", lambda: uq.Regimes("peak > 1").fit(ensemble()), ("lambda",)),
        Mistake("EventProbability('peak > 1')", lambda: uq.EventProbability("peak > 1").fit(ensemble()), ("lambda",)),
        Mistake("SuccessProbability().fit(design)", lambda: uq.SuccessProbability().fit(design()), ("run",)),
        Mistake("serve(ensemble)", lambda: uq.serve(ensemble()), ("surrogate",)),
        Mistake("compare_models([a, b])", lambda: uq.compare_models([q, q]), ("{",)),
        Mistake("compare_surrogates([..])", lambda: uq.compare_surrogates([uq.GaussianProcess()], ensemble()), ("{",)),
        Mistake(
            "compare_surrogates(fitted)",
            lambda: uq.compare_surrogates({"a": s, "b": s}, ensemble()),
            ("GaussianProcess(",),
        ),
        Mistake("learning_curve(surrogate)", lambda: uq.learning_curve(s, ensemble()), ("GaussianProcess(",)),
        Mistake("k_fold(surrogate, ensemble)", lambda: uq.k_fold(s, ensemble()), ("GaussianProcess(",)),
        Mistake("held_out(surrogate, design)", lambda: uq.held_out(s, design()), ("uq.run(",)),
        Mistake(
            "ensemble['state'] via states='done'",
            lambda: uq.ensemble.build({"a": [1.0]}, {"y": [1.0]}, states=["done"]),
            ("'done'", "completed"),
        ),
        Mistake("elementary_effects(surrogate)", lambda: uq.elementary_effects(s), ("morris_design",)),
        Mistake("shapley_effects(ensemble)", lambda: uq.shapley_effects(ensemble()), ("surrogate",)),
    ]


# -------------------------------------------------------------------------------------------------------------- judging
def judged(mistake: Mistake) -> Outcome:
    """Make a mistake and judge its error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Laplace's few draws, for instance
        try:
            mistake.make()
        except BaseException as error:
            text = str(error) if not isinstance(error, KeyError) else str(error.args[0]) if error.args else ""
            if isinstance(error, StudyError) and error.mistakes:
                text = str(error.mistakes[0])  # the first line of the message has the name of the file
            line = text.splitlines()[0] if text else ""
            helps = all(word.lower() in line.lower() for word in mistake.words)
            return Outcome(mistake, type(error).__name__, line, isinstance(error, UqmsError), helps)
    return Outcome(mistake, "no error", "", ours=False, helps=False)


GROUPS = (
    priors,
    designs,
    runs,
    surrogates,
    calibrations,
    posteriors,
    studies,
    plans,
    chains,
    dosing,
    afterwards,
    regimens,
    waves,
    further,
)


def main(arguments: list[str] | None = None) -> int:
    """Make all mistakes, print them and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same: all mistakes take less than a minute")
    parser.parse_args(arguments)
    outcomes = [judged(one) for several in GROUPS for one in several()]
    for one in outcomes:
        mark = "     " if one.ours and one.helps else "TYPE " if one.helps else "WORDS" if one.ours else "BOTH "
        print(f"{mark} {one.mistake.call}\n        {one.kind}: {one.line[:WIDTH]}")
    n = len(outcomes)
    return finish(
        [
            aim("mistakes that were made", n, low=FEWEST, n=n),
            aim("errors that are no uqms error", sum(not one.ours for one in outcomes), high=0, n=n),
            aim("errors that do not name the fix", sum(not one.helps for one in outcomes), high=0, n=n),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

"""Mistakes that a newcomer makes in the first hour: each ends in an error of uqms that names the fix.

    python benchmarks/first_hour.py [--quick]

Every mistake is made and its error judged: its type is one of `uqms.errors` (or the one that Python gives for a keyword
or a name that does not exist, with the right one in it), never a TypeError, AttributeError or KeyError of something
inside; and the first line has the words that lead to the fix. Printed is one line for each: the call, the type, the
first line of the error.
"""

import argparse
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
from uqms.errors import UqmsError

FEWEST = 100  # mistakes
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


# -------------------------------------------------------------------------------------------------------------- judging
def judged(mistake: Mistake) -> Outcome:
    """Make a mistake and judge its error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Laplace's few draws, for instance
        try:
            mistake.make()
        except BaseException as error:
            text = str(error) if not isinstance(error, KeyError) else str(error.args[0]) if error.args else ""
            line = text.splitlines()[0] if text else ""
            helps = all(word.lower() in line.lower() for word in mistake.words)
            return Outcome(mistake, type(error).__name__, line, isinstance(error, UqmsError), helps)
    return Outcome(mistake, "no error", "", ours=False, helps=False)


def main(arguments: list[str] | None = None) -> int:
    """Make all mistakes, print them and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same: all mistakes take less than a minute")
    parser.parse_args(arguments)
    outcomes = [
        judged(one) for several in (priors, designs, runs, surrogates, calibrations, posteriors) for one in several()
    ]
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

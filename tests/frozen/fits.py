"""The surrogates of the frozen problems: fitted once, stored as files, so that frozen values hold the likelihood alone.

A fit goes through optimisers, whose last digits differ between machines; a file does not. All have few runs, so that
the surrogate's error matters in every likelihood.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import uqms as uq
from uqms.surrogates import RegimeSurrogate
from uqms.surrogates.classification import FittedProbability

FOLDER = Path(__file__).parent / "surrogates"
TIMES = np.array([0.0, 1.0, 2.0, 3.0, 5.0])
SPACE = uq.ParameterSpace(
    a=uq.Uniform(0.0, 1.0), b=uq.LogNormal(median=1.0, sigma=0.3), conditions={"x": uq.Condition(0.0, 1.0)}
)
FIVE = uq.ParameterSpace(**{name: uq.Uniform(0.0, 1.0) for name in ("p", "q", "r", "s", "t")})
LEVELS = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.LogNormal(median=1.0, sigma=0.3))


def columns(design: xr.Dataset, *names: str) -> list[np.ndarray]:
    return [np.asarray(design[name].values) for name in names]


def curve_of(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> xr.DataArray:
    values = a[:, None] * np.exp(-np.outer(b, TIMES) / 2.0) + 0.3 * np.outer(x * a, np.sin(TIMES))
    return xr.DataArray(
        values + 0.1 * np.outer(np.sin(5.0 * a * b), TIMES / 5.0), dims=("run", "t"), coords={"t": TIMES}
    )


def number_of(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.sin(3.0 * a) + np.log(b) * (1.0 + x)


def fitted(runs: int, values: Callable[..., dict[str, Any]], **settings: Any) -> Any:
    design = uq.sobol(SPACE, runs, rng=1)
    return uq.GaussianProcess(**settings).fit(uq.ensemble.build(design, values(*columns(design, "a", "b", "x"))))


def scalar(**settings: Any) -> Any:
    return fitted(8, lambda a, b, x: {"y": number_of(a, b, x)}, **settings)


def curve(**settings: Any) -> Any:
    settings = {"outputs": {"y": uq.Curve(max_scores=2)}, **settings}
    return fitted(8, lambda a, b, x: {"y": curve_of(a, b, x)}, **settings)


def several(**settings: Any) -> Any:
    def outputs(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> dict[str, Any]:
        return {"y": curve_of(a, b, x), "e": number_of(a, b, x), "f": a * b - x}

    return fitted(8, outputs, outputs={"y": uq.Curve(max_scores=2)}, scalars="independent", **settings)


def jointly(**settings: Any) -> Any:
    def outputs(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> dict[str, Any]:
        full = 2.0 + np.sin(2.0 * a + b) + 0.2 * x
        rest = 0.8 * full + 0.1 * np.cos(6.0 * a * b)
        return {"full": full, "rest": rest, "stroke": full - rest}

    return fitted(16, outputs, **settings)


def transformed(transform: Any, output: Callable[..., np.ndarray], **settings: Any) -> Any:
    def outputs(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> dict[str, Any]:
        return {"y": xr.DataArray(output(curve_of(a, b, x).values), dims=("run", "t"), coords={"t": TIMES})}

    return fitted(8, outputs, outputs={"y": uq.Curve(max_scores=2, transform=transform)}, **settings)


def stochastic() -> Any:
    design = uq.sobol(SPACE, 16, rng=1)
    a, b, x = (np.repeat(one, 5) for one in columns(design, "a", "b", "x"))
    wave = np.random.default_rng(2).standard_normal((2, len(a)))
    values = curve_of(a, b, x).values + 0.1 * (0.5 + a)[:, None] * (
        np.outer(wave[0], np.exp(-TIMES)) + np.outer(wave[1], np.sin(TIMES))
    )
    output = xr.DataArray(values, dims=("run", "t"), coords={"t": TIMES})
    runs = uq.ensemble.build(design.isel(run=np.repeat(np.arange(16), 5)), {"y": output})
    settings = {"y": uq.Curve(max_scores=2)}
    return uq.GaussianProcess(noise="heteroscedastic", hyperparameters="point", outputs=settings).fit(runs)


def noisy() -> Any:
    wave = 0.2 * np.random.default_rng(3).standard_normal(20)
    return fitted(20, lambda a, b, x: {"y": number_of(a, b, x) + wave}, noise="fitted", hyperparameters="point")


def levels(method: Any, scores: int, **settings: Any) -> Any:
    designs = uq.nested(LEVELS, {"coarse": 12, "fine": 6}, rng=1)
    parts = []
    for name, bias in (("coarse", 0.3), ("fine", 0.0)):
        a, b = columns(designs[name], "a", "b")
        values = curve_of(a, b, 0.5 + 0.0 * a) * (1.0 + bias) + bias * xr.DataArray(np.sin(3.0 * b), dims="run")
        parts.append(uq.ensemble.build(designs[name], {"y": values.transpose("run", "t")}, fidelity=name))
    output = {"y": uq.Curve(max_scores=scores)}
    return method(levels=("coarse", "fine"), outputs=output, **settings).fit(uq.ensemble.combine(*parts))


def nonlinear() -> Any:
    """Return the first 3 of its 32 members, which take a tenth of the room."""
    found = levels(uq.NonlinearMultiFidelity, 1, **POINT)
    steps = []
    for step in found.ladder.steps:
        arrays = {one.name: getattr(step.process, one.name) for one in fields(step.process)}
        few = {k: v[:3] for k, v in arrays.items() if isinstance(v, np.ndarray) and v.shape[:1] == (32,)}
        below = None if step.below is None else step.below[:3]
        few["log_weights"] = np.full(3, -np.log(3.0))
        steps.append(replace(step, process=replace(step.process, **few), below=below))
    ladder = replace(found.ladder, steps=tuple(steps), log_weights=np.log([0.5, 0.3, 0.2]))
    return replace(found, ladder=ladder)


def cheap(at: Mapping[str, Any]) -> dict[str, Any]:
    return {"y": np.sin(3.0 * at["a"]) * np.log(at["b"])}


def cheap_derivative(at: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    a, b = at["a"], at["b"]
    return {"y": {"a": 3.0 * np.cos(3.0 * a) * np.log(b), "b": np.sin(3.0 * a) / b, "x": 0.0 * a}}


PHYSICS = uq.Physics(cheap, derivative=cheap_derivative)


def physics() -> Any:
    """Return a surrogate without its cheap model, which is code; `frozen.problems` gives it back."""
    return replace(scalar(mean=PHYSICS, **POINT), physics=None)


def five() -> Any:
    design = uq.sobol(FIVE, 16, rng=1)
    p, q, r, s, t = columns(design, *FIVE.names)
    values = np.sin(2.0 * p) + q * r - 0.5 * s**2 + 0.3 * t
    return uq.GaussianProcess(hyperparameters="point").fit(uq.ensemble.build(design, {"y": values}))


def failing() -> xr.Dataset:
    design = uq.sobol(LEVELS, 32, rng=2)
    a, b = columns(design, "a", "b")
    good = a < 0.8 + 0.4 * np.log(b)
    states = np.where(good, "completed", "failed")
    return uq.ensemble.build(design, {"y": np.where(good, a + np.log(b), np.nan)}, states=states)


def local() -> Any:
    design = uq.sobol(LEVELS, 64, rng=1)
    a, b = columns(design, "a", "b")
    return uq.LocalGaussianProcess(neighbours=8).fit(uq.ensemble.build(design, {"y": np.sin(7.0 * a) * b}))


def jumping() -> Any:
    design = uq.sobol(LEVELS, 24, rng=1)
    a, b = columns(design, "a", "b")
    upper = a + 0.3 * np.sin(4.0 * np.log(b)) > 0.6
    y = np.where(upper, 3.0 + np.sin(3.0 * a) * b, np.cos(3.0 * b) * a)
    settings = uq.Regimes(regression=uq.GaussianProcess(hyperparameters="point"))
    return settings.fit(uq.ensemble.build(design, {"y": y}))


POINT = {"hyperparameters": "point"}
FITS: dict[str, Callable[[], Any]] = {
    "scalar": lambda: scalar(**POINT),
    "scalar_averaged": lambda: scalar(hyperparameters="averaged"),
    "scalar_linear": lambda: scalar(kernel=uq.SquaredExponential() + uq.Matern52(), trend="linear", **POINT),
    "scalar_product": lambda: scalar(kernel=uq.SquaredExponential() * uq.Matern32(), **POINT),
    "scalar_noisy": noisy,
    "curve": lambda: curve(**POINT),
    "curve_averaged": lambda: curve(hyperparameters="averaged"),
    "several": lambda: several(**POINT),
    "several_averaged": lambda: several(hyperparameters="averaged"),
    "jointly": lambda: jointly(**POINT),
    "log": lambda: transformed(uq.Log(), lambda y: np.exp(1.0 + y), **POINT),
    "log_averaged": lambda: transformed(uq.Log(), lambda y: np.exp(1.0 + y), hyperparameters="averaged"),
    "logit": lambda: transformed(uq.Logit(), lambda y: 1.0 / (1.0 + np.exp(-2.0 * y)), **POINT),
    "stochastic": stochastic,
    "fidelity": lambda: levels(uq.MultiFidelity, 2),
    "nonlinear": nonlinear,
    "physics": physics,
    "five": five,
    "local": local,
    "regimes": jumping,
    "failing": lambda: uq.GaussianProcess(**POINT).fit(failing()),
    "success": lambda: uq.SuccessProbability(**POINT).fit(failing()),
}


def load(name: str) -> Any:
    """Return a stored surrogate."""
    readers = {"regimes": RegimeSurrogate.load, "success": FittedProbability.load}
    return readers.get(name, uq.load_surrogate)(FOLDER / f"{name}.npz")

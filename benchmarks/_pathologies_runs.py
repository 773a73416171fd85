"""Faults of surrogates: of their stated error, of the runs, of the box."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from _bases import (
    CURVES,
    SINGLE,
    Array,
    Base,
    Part,
    Study,
    exact_draws,
    exact_posterior,
    refined,
    study_of,
    truth_of,
)
from _faults import Case, Fault, faulty
from scipy.stats import chi2

import uqms as uq
from uqms.surrogates import GaussianProcessSurrogate, Layout
from uqms.surrogates.outputs import OutputBasis
from uqms.surrogates.process import condition
from uqms.surrogates.training import Hyperparameters

LENGTH = 0.6  # of the drawn functions, in the unit cube
ROUGHNESS = 0.3  # sd of a drawn function over that of its score
DENSE = 250


class Drawn(NamedTuple):
    """A study whose simulator is a function drawn from the process that its surrogate states."""

    study: Study
    truth: dict[str, float]
    square: float  # of the runs, in units of their stated law: chi-square
    freedom: int


def drawn_study(seed: int) -> Drawn:
    """Return one base to first order plus a drawn Gaussian process, with noise of the size of the surrogate's error."""
    rng = np.random.default_rng([seed, 20])
    base = SINGLE[seed // 2 % 4]
    part = base.parts[0]
    ends = {name: [float(prior.quantile(q)) for q in (0.02, 0.98)] for name, prior in base.space.priors.items()}
    space = uq.ParameterSpace(**{name: uq.Uniform(*pair) for name, pair in ends.items()})
    bare = Study(base.parts, space, seed, (), ())
    full = bare.space_of(part)
    names = (*space.names, *(("x",) if part.conditional else ()))
    low = np.array([*(pair[0] for pair in ends.values()), *([part.at.min()] if part.conditional else [])])
    high = np.array([*(pair[1] for pair in ends.values()), *([part.at.max()] if part.conditional else [])])
    d = len(names)
    count = (8, 8, 16, 32)[d]
    design = uq.sobol(full, count, rng=seed)
    x = (np.column_stack([design[name].values for name in names]) - low) / (high - low)
    truth = truth_of(space, rng, 0.2)
    own = np.array([truth[name] for name in space.names])
    at = np.column_stack([np.tile(own, (len(part.at), 1)), part.at]) if part.conditional else own[None]
    points = np.vstack([x, (at - low) / (high - low), rng.random((DENSE, d))])
    offset, basis, beta = _first_order(part, space, d, low, high)
    sizes = ROUGHNESS * np.max(np.abs(beta[1:])) / (1.0 + np.arange(basis.shape[1]))
    root = np.linalg.cholesky(_matern(points, points) + 1e-9 * np.eye(len(points)))
    weight = np.linalg.solve(root.T, rng.standard_normal((len(points), basis.shape[1])))

    def scores(u: Array) -> Array:
        return np.column_stack([np.ones(len(u)), u]) @ beta + sizes * (_matern(u, points) @ weight)

    def function(theta: Mapping[str, Any], places: Any) -> Array:
        if not part.conditional:
            columns = [np.ravel(np.asarray(theta[name], dtype=float)) for name in names]
            found = offset + scores((np.column_stack(columns) - low) / (high - low)) @ basis.T
            return found if np.ndim(theta[names[0]]) else found[0]
        shape = np.broadcast_shapes(*(np.shape(theta[name]) for name in space.names), np.shape(places))
        columns = [np.broadcast_to(theta[name], shape).ravel() for name in space.names]
        columns.append(np.broadcast_to(places, shape).ravel())
        found = offset + scores((np.column_stack(columns) - low) / (high - low)) @ basis.T
        return found[:, 0].reshape(shape)

    y = scores(x)
    one = Hyperparameters(np.full(d, LENGTH), 0.0, 1e-12, 0.0, 1, False)
    process = condition(uq.Matern52(), x, y, d + 1, [one] * y.shape[1], list(sizes**2))
    box = uq.Box(names, tuple(low), tuple(high), ("identity",) * d, ((True, True),) * d)
    m = len(basis)
    layout = Layout() if part.conditional else Layout(("t",), {"t": part.at})
    output = OutputBasis("y", layout, offset, basis, np.zeros((m, 0)), np.zeros(max(m - 1, 0)), np.zeros((count, 0)))
    surrogate = GaussianProcessSurrogate(box, process, (output,), {"space": full.to_json()})
    inputs = {name: np.full(len(at), value) for name, value in truth.items()} | (
        {"x": part.at} if part.conditional else {}
    )
    error = float(np.sqrt(np.mean(surrogate.predict(inputs).variance["y"].values)))
    sd = float(np.exp(rng.uniform(np.log(0.7), np.log(2.0)))) * error
    part = Part("", function, part.at, part.conditional, sd)
    values = function(truth, part.at) + sd * rng.standard_normal(len(part.at))
    study = Study((part,), space, seed, (values[:, None],), (uq.GaussianNoise(sd=sd),), count, surrogates=(surrogate,))
    study = replace(study, tables=(study.table(part, design),))
    return Drawn(study, truth, float(np.sum(process.target**2)), int(y.shape[1] * (count - d - 1)))


def _matern(a: Array, b: Array) -> Array:
    r = np.sqrt(5.0) * np.sqrt(np.maximum(np.sum((a[:, None] - b[None]) ** 2, axis=2), 0.0)) / LENGTH
    return np.asarray((1.0 + r + r**2 / 3.0) * np.exp(-r))


def _first_order(part: Part, space: uq.ParameterSpace, d: int, low: Array, high: Array) -> tuple[Array, Array, Array]:
    """Return offset (m,), orthonormal basis (m, q) and linear coefficients (1 + d, q) of the base's outputs."""
    u = np.random.default_rng(0).random((400, d))
    columns = low + (high - low) * u
    theta = {name: columns[:, i : i + 1] for i, name in enumerate(space.names)}
    y = part.function(theta, columns[:, -1:] if part.conditional else part.at)
    offset = y.mean(axis=0)
    linear = np.linalg.lstsq(np.column_stack([np.ones(len(u)), u]), y - offset, rcond=None)[0]
    if part.conditional:
        return offset, np.ones((1, 1)), linear
    basis = np.linalg.svd(linear[1:], full_matrices=False)[2].T
    return offset, basis, linear @ basis


def _stated(seed: int, factor: float) -> Case:
    """Judge a surrogate that states `factor` times its error."""
    one = drawn_study(seed)
    surrogate = one.study.surrogates[0]
    process = surrogate.process
    wrong = replace(surrogate, process=process.scaled(np.full(process.variance.shape, factor**2)))
    square = one.square / factor**2
    oracle = chi2.cdf(square, one.freedom) if factor > 1.0 else chi2.sf(square, one.freedom)
    exact = replace(one.study, runs=0, surrogates=())
    final = exact_draws(exact.problem(), np.random.default_rng([seed, 4]))
    study = replace(one.study, surrogates=(wrong,))
    return faulty(study, one.study, seed, truth=one.truth, oracle=float(oracle), final=final)


def stated(factor: float) -> Callable[[int], Case]:
    """Return the kind whose surrogates state `factor` times their error."""
    return lambda seed: _stated(seed, factor)


def truncation(seed: int) -> Case:
    """Judge a curve of which the basis holds one score and leaves out as much as the noise; the noise is inferred."""
    rng = np.random.default_rng([seed, 21])
    study, truth = study_of(CURVES[1 + seed // 2 % 2], seed, rng, known=False, runs=30)
    process = uq.GaussianProcess(outputs={"y": uq.Curve(max_scores=1)})
    return faulty(replace(study, process=process), replace(study, runs=0), seed, truth=truth)


def rough(seed: int) -> Case:
    """Judge a simulator whose solver scatters its outputs by half to one noise sd between neighbouring inputs."""
    rng = np.random.default_rng([seed, 22])
    base = SINGLE[seed // 2 % 4]
    part = base.parts[0]
    study, truth = study_of(base, seed, rng, runs=20 * len(base.space.names))
    size = np.sqrt(2.0) * rng.uniform(0.5, 1.0) * part.sd / np.sqrt(np.mean(part.function(truth, part.at) ** 2))
    first, names = rng.uniform(0.0, 6.3), base.space.names

    def scattered(theta: Mapping[str, Any], places: Any) -> Array:
        code = sum((i + 1.0) * np.asarray(theta[name]) for i, name in enumerate(names))
        code = code + (np.asarray(places) if part.conditional else 0.0)
        return np.asarray(part.function(theta, places) * (1.0 + size * np.sin(1e5 * code + first)))

    wrong = replace(study, parts=(part._replace(function=scattered),))
    return faulty(wrong, replace(study, runs=0), seed, truth=truth, accurate=base.parts)


def small_box(seed: int) -> Case:
    """Judge runs in the box of a refinement whose posterior lay elsewhere: it had the data of another experiment."""
    rng = np.random.default_rng([seed, 23])
    base = SINGLE[seed // 2 % 4]
    base = base._replace(parts=tuple(part._replace(sd=0.3 * part.sd) for part in base.parts))
    study, truth = study_of(base, seed, rng, runs=15 * len(base.space.names))
    study, part = study.fitted(), base.parts[0]
    exact = exact_draws(study.problem(), rng)
    name = base.space.names[0]
    low, high = (float(base.space.priors[name].quantile(q)) for q in (0.01, 0.99))
    sd = float(exact[name].std())
    side = 1.0 if truth[name] < 0.5 * (low + high) else -1.0
    other = {**truth, name: float(np.clip(truth[name] + side * rng.uniform(4.5, 9.0) * sd, low, high))}
    values = part.function(other, part.at) + part.sd * rng.standard_normal(len(part.at))
    earlier = exact_posterior(replace(study, values=(values[:, None],)).problem(), seed)
    return faulty(refined(study, earlier, seed), replace(study, runs=0, surrogates=()), seed, truth=truth)


def five_runs(seed: int) -> Case:
    """Judge a surrogate of five runs of a curve that turns more often than they can show, with little noise."""
    rng = np.random.default_rng([seed, 13])
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0))
    speed = rng.uniform(6.0, 9.0)

    def curve(theta: Mapping[str, Any], t: Any) -> Array:
        return np.asarray(np.sin(speed * theta["a"] + 2.0 * t) + theta["a"] * t)

    part = Part("", curve, np.linspace(0.0, 1.0, 10), False, 0.02)
    study, truth = study_of(Base("turns", space, (part,)), seed, rng, runs=5)
    return faulty(study, replace(study, runs=0), seed, truth=truth)


def wide_prior(seed: int) -> Case:
    """Ask for a prior that reaches beyond what was simulated: refused, and warned of when it is insisted on."""
    rng = np.random.default_rng([seed, 12])
    base = SINGLE[seed // 2 % 4]
    study, truth = study_of(base, seed, rng, runs=15 * len(base.space.names))
    pairs = {name: [float(prior.quantile(q)) for q in (0.1, 0.9)] for name, prior in base.space.priors.items()}
    narrow = uq.ParameterSpace(**{name: uq.Uniform(*pair) for name, pair in pairs.items()})
    study = replace(study, narrow=narrow).fitted()
    try:
        study.problem()
    except uq.errors.ExtrapolationError:
        return faulty(
            replace(study, options={"outside": "extrapolate"}),
            replace(study, runs=0, narrow=None, surrogates=()),
            seed,
            truth=truth,
        )
    return Case(study, None, None, raised="not refused")


STATED = ("surrogate validation", "size of the surrogate's error", "predictive misfit")
ERROR = ("surrogate error", *STATED)
RUNS: dict[str, Fault] = {
    "error overstated by 2": Fault(stated(2.0), STATED, "sum of squares of the runs"),
    "error overstated by 4": Fault(stated(4.0), STATED, "sum of squares of the runs"),
    "error understated by 2": Fault(stated(0.5), STATED, "sum of squares of the runs"),
    "error understated by 4": Fault(stated(0.25), STATED, "sum of squares of the runs"),
    "truncation": Fault(truncation, ("truncation", *ERROR)),
    "rough simulator": Fault(rough, ERROR),
    "box too small": Fault(small_box, ("edge of the design box", "prior mass cut")),
    "five runs": Fault(five_runs, ("truncation", *ERROR)),
    "prior wider than the box": Fault(wide_prior, ("prior mass cut",)),
}

"""Gains of measurements against closed forms, and the mistakes that such gains are computed with elsewhere."""

from collections.abc import Callable
from dataclasses import replace
from time import process_time
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from _linear_surrogate import LinearSurrogate
from _report import Aim, aim

import uqms as uq
from uqms.planning.gain import State
from uqms.planning.measurements import forecaster

Array = np.ndarray
LENGTH = 0.05


def one(x: Array) -> Array:
    """Return the slope of a parameter that is measured as it is under all conditions."""
    return np.ones((*x.shape, 1))


def problem(sd_prior: float, sd_error: float, sd_noise: float, at: list[float], values: list[float]) -> Any:
    """Return a calibration of one parameter from measurements under conditions `at`."""
    space = uq.ParameterSpace(theta=uq.Normal(0.0, sd_prior), conditions={"x": uq.Condition(0.0, 1.0)})
    surrogate = LinearSurrogate(space, one, sd_error, LENGTH)
    table = observed(np.array(at), np.array(values))
    return uq.Calibration(surrogate, table, uq.GaussianNoise(sd_noise), space=space, outside="extrapolate")


def observed(x: Array, y: Array) -> uq.Observations:
    """Return measurements y under conditions x."""
    frame = pd.DataFrame({"x": x, "y": y, "replicate": np.arange(len(x))})
    return uq.Observations.from_table(frame, output="y", value="y", conditions=["x"], replicate="replicate")


def between(x: Array, sd: float, length: float = LENGTH) -> Array:
    """Return the covariance of the error between conditions."""
    return sd**2 * np.exp(-np.abs(x[:, None] - x) / length)


def closed_form(prior: Array, J: Array, error: Array, noise: Array, data: int) -> float:
    """Return I(theta; z | D) where the first `data` rows are D; z are the others."""
    d, z = slice(0, data), slice(data, None)
    given = error + np.diag(noise)
    total = J @ prior @ J.T + given

    def left(C: Array) -> Array:
        return C[z, z] - C[z, d] @ np.linalg.solve(C[d, d], C[d, z])

    return 0.5 * float(np.linalg.slogdet(left(total))[1] - np.linalg.slogdet(left(given))[1])


def replicates() -> list[Aim]:
    """Return the aims on 100 replicates, where the sd of error and noise is half that of the prior."""
    prior = uq.prior_of(problem(2.0, 1.0, 1.0, [0.0], [0.0]), rng=1)
    ideas = uq.candidates(outputs="y", conditions={"x": [0.5]}, replicates=100)
    best = uq.next_experiment(prior, ideas, 1, draws=4000, rng=2)
    shared, exact = 0.5 * np.log1p(4.0 / 1.01), 0.5 * np.log1p(4.0 / 0.01)
    independent = 0.5 * np.log1p(4.0 / 0.02)
    error = float(best.best["mcse"].iloc[0])
    return [
        aim("100 replicates, shared error: gain [nats]", best.gain, shared - 3 * error, shared + 3 * error, error),
        aim("closed form, shared", shared, 0.795, 0.805),
        aim("100 replicates as if exact: gain [nats]", best.gain_exact, exact - 0.1, exact + 0.1),
        aim("closed form, exact", exact, 2.995, 3.005),
        aim("closed form of the mistake, error new with each replicate", independent, 2.645, 2.655),
        aim("the mistake lies outside of the window", float(abs(best.gain - independent) > 10 * error), low=1.0),
    ]


def flip() -> list[Aim]:
    """Return the aims on 20 replicates under the old condition against one measurement under a new one."""
    given = problem(2.0, 1.0, 1.0, [0.0] * 4, [0.5, 1.0, 0.2, 0.9])
    posterior = given.sample(uq.Laplace(draws=4000), rng=1)
    ideas = uq.candidates(outputs="y", conditions={"x": [0.0]}, replicates=20) + uq.candidates(
        outputs="y", conditions={"x": [1.0]}
    )
    best = uq.next_experiment(posterior, ideas, 1, draws=4000, rng=2)
    old, new = best.table["gain"]
    old_exact, new_exact = best.table["gain_exact"]
    x = np.array([0.0, 0.0, 1.0])
    noise = np.array([0.25, 0.05, 1.0])  # the data are a mean of 4
    wanted = [
        closed_form(np.eye(1) * 4.0, np.ones((2, 1)), between(x, 1.0)[np.ix_([0, k], [0, k])], noise[[0, k]], 1)
        for k in (1, 2)
    ]
    return [
        aim("20 replicates under the old condition [nats]", old - wanted[0], -0.03, 0.03, reason=f"{old:.3f}"),
        aim("one measurement under a new condition [nats]", new - wanted[1], -0.06, 0.06, reason=f"{new:.3f}"),
        aim("the new condition is chosen", float(new > old), low=1.0),
        aim("as if exact the replicates are chosen", float(old_exact > new_exact), low=1.0),
    ]


def random_problem(rng: np.random.Generator) -> tuple[Any, Any, dict[str, Array]]:
    """Return a linear-Gaussian calibration, candidates, and what their closed form needs."""
    p, n, m = 2, int(rng.integers(2, 6)), 6
    space = uq.ParameterSpace(
        **{f"t{i}": uq.Normal(0.0, float(rng.uniform(0.5, 2.0))) for i in range(p)},
        conditions={"x": uq.Condition(0.0, 1.0)},
    )
    frequency = float(rng.uniform(1.0, 4.0))

    def slopes(x: Array) -> Array:
        return np.stack([np.ones_like(x), np.sin(frequency * x)], axis=-1)

    length, sd, noise = float(rng.uniform(0.05, 0.6)), float(rng.uniform(0.1, 0.6)), float(rng.uniform(0.1, 0.6))
    surrogate = LinearSurrogate(space, slopes, sd, length)
    x = np.concatenate([rng.uniform(0.0, 1.0, n), rng.uniform(0.0, 1.0, m)])
    repeats = rng.integers(1, 6, m)
    prior = np.diag([space.priors[name].sd ** 2 for name in space.names])
    J, error = slopes(x), between(x, sd, length)
    z = np.linalg.cholesky(J @ prior @ J.T + error + noise**2 * np.eye(n + m)) @ rng.standard_normal(n + m)
    table = observed(x[:n], z[:n])
    made = uq.Calibration(surrogate, table, uq.GaussianNoise(noise), space=space, outside="extrapolate")
    ideas = uq.candidates(pd.DataFrame({"x": x[n:], "replicates": repeats}), outputs="y")
    truth = {
        "prior": prior,
        "J": J,
        "error": error,
        "noise": np.concatenate([np.full(n, noise**2), noise**2 / repeats]),
        "data": np.array(n),
        "repeats": repeats,
    }
    return made, ideas, truth


def rows_of(truth: dict[str, Array], chosen: Array) -> dict[str, Any]:
    """Return the closed form's arguments for some of the candidates."""
    n = int(truth["data"])
    rows = np.concatenate([np.arange(n), n + chosen])
    at = np.ix_(rows, rows)
    return {
        "prior": truth["prior"],
        "J": truth["J"][rows],
        "error": truth["error"][at],
        "noise": truth["noise"][rows],
        "data": n,
    }


def exact_posterior(truth: dict[str, Array]) -> Array:
    """Return the posterior covariance of the parameters."""
    n = int(truth["data"])
    J, C = truth["J"][:n], truth["error"][:n, :n] + np.diag(truth["noise"][:n])
    return np.asarray(np.linalg.inv(np.linalg.inv(truth["prior"]) + J.T @ np.linalg.solve(C, J)))


def with_exact_draws(posterior: Any, truth: dict[str, Array], rng: np.random.Generator, size: int) -> Any:
    """Return a forecaster whose draws have the posterior's covariance exactly, to rounding."""
    found = forecaster(posterior, size)
    names = found.problem.parameters
    S = len(found.h)
    z = rng.standard_normal((S, len(names)))
    z -= z.mean(axis=0)
    z = z @ np.linalg.inv(np.linalg.cholesky(z.T @ z / (S - 1))).T
    centre = np.array([found.theta[name].mean() for name in names])
    draws = centre + z @ np.linalg.cholesky(exact_posterior(truth)).T
    own = dict(zip(names, draws.T, strict=True))
    return replace(found, theta={**found.theta, **own}, known={**found.known, **own})


def state_of(
    source: Any, ideas: Any, rng: np.random.Generator, change: Callable[[Any], Any] = lambda joint: joint
) -> Any:
    """Return what the gain is computed from, all parameters asked about; `change` plants mistakes."""
    joint = change(source.joint(source.points(ideas), 4, rng))
    psi = np.column_stack([source.quantities[name] for name in source.parameters])
    normals = rng.standard_normal(joint.mean[:, 0].shape)
    return State(
        joint.mean[:, 0],
        joint.covariance[:, 0],
        joint.mean,
        joint.covariance,
        psi,
        True,
        np.zeros((len(psi), 0)),
        normals,
    )


def random_problems(count: int, half: str) -> list[Aim]:
    """Return the aims over random linear-Gaussian problems, and those on planted mistakes."""
    linear, nested, sds = [], [], []
    wrong: dict[str, list[float]] = {
        "error new with each replicate": [],
        "error not given the data": [],
        "prior draws": [],
    }
    start = {"seen": 1, "unseen": 100_001}[half]
    for seed in range(start, start + count):
        rng = np.random.default_rng(seed)
        made, ideas, truth = random_problem(rng)
        posterior = made.sample(uq.Laplace(draws=1000), rng=seed)
        source = with_exact_draws(posterior, truth, rng, 1000)
        state = state_of(source, ideas, rng)
        chosen = np.sort(rng.choice(len(ideas), int(rng.integers(1, 4)), replace=False))
        wanted = closed_form(**rows_of(truth, chosen))
        linear.append(abs(state.linear(chosen).nats / wanted - 1.0))
        found = state.nested(chosen, np.arange(1000))
        if found.nats < state.limit:  # beyond, the linear form stands
            nested.append((found.nats - wanted) / found.mcse)
        sds.append(float(np.max(np.abs(found.sds / state.linear(chosen).sds - 1.0))))

        def fresh(joint: Any, repeats: Array = truth["repeats"]) -> Any:
            noise = joint.exact_covariance
            error = joint.covariance - noise
            scale = 1.0 / np.sqrt(repeats[:, None] * repeats)
            return joint._replace(covariance=noise + error * scale)

        prior = replace(source, given_data=False)
        planted = {
            "error new with each replicate": state_of(source, ideas, rng, fresh),
            "error not given the data": state_of(prior, ideas, rng),
        }
        draws = uq.prior_of(made, rng=seed).forecaster(1000)
        planted["prior draws"] = state_of(replace(draws, given_data=True), ideas, rng)
        for name, one_state in planted.items():
            wrong[name].append(abs(one_state.linear(chosen).nats / wanted - 1.0))
    z = np.array(nested)
    out = [
        aim(
            "linear form against the closed form, largest relative difference",
            float(np.max(linear)),
            high=1e-8,
            n=count,
        ),
        aim("nested: mean error [Monte Carlo errors]", float(z.mean()), -0.6, 0.6, 1 / np.sqrt(len(z)), len(z)),
        aim("nested: share within 3 Monte Carlo errors", float(np.mean(np.abs(z) < 3.0)), 0.97, n=len(z)),
        aim(
            "expected sds by nested weights, median largest relative difference",
            float(np.median(sds)),
            high=0.05,
            n=count,
        ),
    ]
    for name, values in wrong.items():
        share = float(np.mean(np.array(values) > 0.01))
        out.append(aim(f"planted, {name}: problems off by more than 1 %", share, low=0.5, n=count))
    return out


def many_candidates() -> list[Aim]:
    """Return the processor seconds for 10 000 candidates of a curve under conditions, and of conditions alone."""
    times = np.linspace(0.0, 24.0, 200)
    space = uq.ParameterSpace(
        ka=uq.LogNormal(median=1.0, sigma=0.3),
        CL=uq.LogNormal(median=3.0, sigma=0.3),
        V=uq.LogNormal(median=30.0, sigma=0.3),
        conditions={"dose": uq.Condition(100.0, 400.0)},
    )

    def concentration(ka: float, CL: float, V: float, dose: float) -> Array:
        return dose * ka / V / (ka - CL / V) * (np.exp(-CL / V * times) - np.exp(-ka * times))

    simulator = uq.FunctionSimulator(concentration, outputs={"conc": ("time",)}, coords={"time": times})
    surrogate = uq.GaussianProcess().fit(uq.run(simulator, uq.sobol(space, 96, rng=1), workers=0))
    data = xr.DataArray([3.0, 4.0], dims="time", coords={"time": [1.0, 4.0]}, name="conc").assign_coords(dose=200.0)
    posterior = uq.Calibration(surrogate, data, uq.GaussianNoise(0.3)).sample(uq.Laplace(draws=1000), rng=1)
    out = []
    for label, ideas in (
        ("200 times x 50 doses", uq.candidates(times=times, conditions={"dose": np.linspace(100.0, 400.0, 50)})),
        ("10 000 doses", uq.candidates(times=[6.0], conditions={"dose": np.linspace(100.0, 400.0, 10_000)})),
    ):
        start = process_time()
        best = uq.next_experiment(posterior, ideas, size=3, rng=1)
        seconds = process_time() - start
        name = f"{len(ideas)} candidates, {label} [s of processor time]"
        out.append(aim(name, seconds, high=5.0, reason=f"{best.gain:.2f} nats"))
    return out


def measurement(half: str, quick: bool) -> list[Aim]:
    """Return the aims of this part."""
    return [*replicates(), *flip(), *random_problems(20 if quick else 100, half), *many_candidates()]

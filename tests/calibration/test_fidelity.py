"""Calibration through two levels of fidelity against the posterior of the exact simulator, on a grid and by NUTS."""

import numpy as np
import pandas as pd
import pytest
from calibration.problems import compiled_at
from pytensor.graph.traversal import applys_between

import uqms as uq
from uqms.calibration import bridge, compiled
from uqms.surrogates.fidelity import ladder, nonlinear

HOURS = np.array([0.5, 1.0, 2.0, 3.0, 5.0, 8.0])
SPACE = uq.ParameterSpace(ke=uq.LogNormal(median=0.4, sigma=0.3), ka=uq.LogNormal(median=1.8, sigma=0.3))
TRUTH = {"ke": 0.47, "ka": 1.6}
NOISE = 0.02
BOX = SPACE.box()


def fine(ke, ka):
    """Absorption and elimination, exactly."""
    ke, ka = np.asarray(ke)[..., None], np.asarray(ka)[..., None]
    return ka / (ka - ke) * (np.exp(-ke * HOURS) - np.exp(-ka * HOURS))


def coarse(ke, ka):
    """The same by explicit Euler steps of a quarter of an hour."""
    gut, blood, out = np.ones_like(ke), np.zeros_like(ke), []
    for step in range(1, int(HOURS[-1] * 4) + 1):
        gut, blood = gut - 0.25 * ka * gut, blood + 0.25 * (ka * gut - ke * blood)
        if np.isclose(step / 4, HOURS).any():
            out.append(blood)
    return np.stack(out, axis=-1)


def unrelated(ke, ka):
    """Curves that turn with the parameters in ways of their own."""
    ke, ka = np.asarray(ke)[..., None], np.asarray(ka)[..., None]
    return np.sin(9.0 * ke * ka + HOURS) + np.cos(7.0 * ka)


def fitted(lower, runs, settings=uq.MultiFidelity):
    designs = uq.nested(SPACE, dict(zip(("coarse", "fine"), runs, strict=True)), rng=1)
    parts = []
    for level, function in (("coarse", lower), ("fine", fine)):
        ke, ka = (designs[level][name].values for name in SPACE.inputs)
        parts.append(uq.ensemble.build(designs[level], {"c": ("hour", function(ke, ka), HOURS)}, fidelity=level))
    return settings(levels=("coarse", "fine")).fit(uq.ensemble.combine(*parts))


def calibration(surrogate, noise=NOISE):
    data = fine(**TRUTH) + NOISE * np.random.default_rng(3).standard_normal(len(HOURS))
    observations = uq.Observations.from_table(
        pd.DataFrame({"c": data, "hour": HOURS}), output="c", value="c", coords={"hour": "hour"}
    )
    return uq.Calibration(surrogate, observations, noise=uq.GaussianNoise(sd=noise), space=SPACE), data


GRID = np.stack(np.meshgrid(*(np.linspace(0.01, 0.99, 40),) * 2, indexing="ij"), axis=-1).reshape(-1, 2)


def moments(log_likelihood):
    """Return mean and sd of the logarithms of both parameters."""
    x = BOX.from_unit(GRID)
    log = log_likelihood + SPACE.log_density(x) - np.log(np.abs(BOX.unit_gradient(x))).sum(axis=-1)
    weights = np.exp(log - log.max())
    weights /= weights.sum()
    mean = weights @ np.log(x)
    return mean, np.sqrt(weights @ (np.log(x) - mean) ** 2)


def through(problem):
    x = BOX.from_unit(GRID)
    return moments(problem.log_likelihood(dict(zip(SPACE.inputs, x.T, strict=True))))


def exact(data):
    x = BOX.from_unit(GRID)
    return moments(-0.5 * np.sum(((data - fine(x[:, 0], x[:, 1])) / NOISE) ** 2, axis=-1))


def at_three_temperatures(noise=None):
    """Return a calibration of three levels by experiments under three conditions, whose errors are correlated."""
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), conditions={"T": uq.Condition(0.0, 1.0)})
    parts = []
    for level, design in uq.nested(space, {"coarse": 20, "medium": 12, "fine": 7}, rng=1).items():
        a, T = design["a"].values, design["T"].values
        y = np.sin(3.0 * a) + a * T
        y = y if level == "coarse" else 1.5 * y + 0.2 * np.cos(4.0 * T)
        parts.append(uq.ensemble.build(design, {"y": y if level != "fine" else 0.9 * y + 0.1 * a}, fidelity=level))
    surrogate = uq.MultiFidelity(levels=("coarse", "medium", "fine")).fit(uq.ensemble.combine(*parts))
    table = pd.DataFrame({"y": [1.1, 0.9, 1.4], "T": [0.2, 0.8, 0.5]})
    data = uq.Observations.from_table(table, output="y", value="y", conditions=["T"])
    return uq.Calibration(surrogate, data, noise=noise or uq.GaussianNoise(sd=uq.HalfNormal(0.1)), space=space)


@pytest.mark.parametrize("name", ["one input", "three conditions"])
def test_the_compiled_likelihood_of_levels_is_that_of_arrays(name):
    if name == "one input":
        problem, theta = calibration(fitted(coarse, (24, 8)), uq.HalfNormal(0.05))[0], TRUTH | {"sigma": 0.02}
    else:
        problem, theta = at_three_temperatures(), {"a": 0.4, "sigma": 0.05}
    assert compiled.target(problem) is not None  # no call of Python in a step of the sampler
    theta = {key: np.full(20, value) for key, value in theta.items()}
    u, phi, z = problem.unit_inputs(theta)[0], problem.noise.phi(theta, (20,))[0], problem.cells.z
    assert len(u) == (1 if name == "one input" else 3)
    value, u_bar, phi_bar = compiled_at(problem, u, phi, z)
    assert value == pytest.approx(problem.log_likelihood(theta)[0], rel=1e-7)  # of many values: matrix products
    for bar, at, density in (
        (u_bar, u, lambda x: compiled_at(problem, x, phi, z)[0]),
        (phi_bar, phi, lambda x: compiled_at(problem, u, x, z)[0]),
    ):
        for i in np.ndindex(at.shape):
            shift = np.zeros_like(at)
            shift[i] = 1e-4
            near, far = (density(at + step) - density(at - step) for step in (shift, 2.0 * shift))
            wanted = (8.0 * near - far) / 12e-4
            assert bar[i] == pytest.approx(wanted, rel=1e-5, abs=1e-5 * np.abs(bar).max())


@pytest.mark.parametrize(
    "settings", [uq.MultiFidelity, pytest.param(uq.NonlinearMultiFidelity, marks=pytest.mark.slow)]
)
def test_few_fine_runs_and_many_coarse_ones_give_the_exact_posterior(settings, monkeypatch):
    monkeypatch.setattr(nonlinear, "MEMBERS", 8)
    problem, data = calibration(fitted(coarse, (32, 8), settings))
    mean, sd = through(problem)
    wanted, wanted_sd = exact(data)
    assert (np.abs(mean - wanted) < 0.2 * wanted_sd).all()
    assert (sd / wanted_sd > 0.8).all()
    assert (sd / wanted_sd < 1.25).all()


@pytest.mark.slow
def test_a_misleading_lower_level_makes_it_wider_not_wrong():
    problem, data = calibration(fitted(unrelated, (40, 16)))
    mean, sd = through(problem)
    wanted, wanted_sd = exact(data)
    assert (np.abs(mean - wanted) < 0.2 * np.maximum(sd, wanted_sd)).all()
    assert (sd / wanted_sd > 0.8).all()
    few, _ = calibration(fitted(unrelated, (40, 7)))
    mean, sd = through(few)
    assert (np.abs(mean - wanted) < 2.0 * sd).all()
    assert (sd > 0.95 * wanted_sd).all()


def test_long_tails_through_levels_have_the_density_of_arrays(monkeypatch):
    problem = at_three_temperatures(uq.StudentTNoise(scale=uq.HalfNormal(0.1), df=4.0))
    models = [problem.model()]
    monkeypatch.setattr(ladder, "FEW", 0)
    monkeypatch.setattr(type(problem.surrogate), "compiled_error", None)
    models.append(problem.model())
    calls_python = [
        any(isinstance(node.op, bridge.PythonOp) for node in applys_between([], [model.logp()])) for model in models
    ]
    assert calls_python == [False, True]
    point = models[0].initial_point()
    rng = np.random.default_rng(4)
    point = {name: value + 0.3 * rng.standard_normal(np.shape(value)) for name, value in point.items()}
    one, other = (model.compile_logp()(point) for model in models)
    assert one == pytest.approx(other, rel=1e-8)
    one, other = (model.compile_dlogp()(point) for model in models)
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7 * np.abs(other).max())

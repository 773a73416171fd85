"""A surrogate with rows by input and correlated scores goes through NUTS, prediction and a population."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from calibration.test_by_input import BOX, SPACE, TIMES, brute, dense, observations, toy

import uqms as uq
from uqms.errors import ConformanceError, InputError
from uqms.testing import ToySurrogate

pytestmark = pytest.mark.filterwarnings("ignore::uqms.errors.CapabilityWarning")  # of populations

GRID = np.linspace(0.02, 0.98, 25)


@cache
def problem() -> uq.Calibration:
    return uq.Calibration(toy(draws=2), observations((0.2, 0.6)), uq.GaussianNoise(sd=0.1), space=SPACE)


@cache
def posterior() -> Any:
    return problem().sample(uq.NUTS(draws=300, tune=300, chains=2), rng=1)


@cache
def on_the_grid() -> tuple[np.ndarray, np.ndarray]:
    """Return points (n, 2) of the prior's square and their posterior weights, from the dense normal law."""
    mesh = np.stack(np.meshgrid(GRID, GRID, indexing="ij"), axis=-1).reshape(-1, 2)
    log_density = np.array([dense(problem(), {"a": float(a), "b": float(b)}) for a, b in mesh])
    weights = np.exp(log_density - log_density.max())
    return mesh, weights / weights.sum()


@pytest.mark.slow
def test_nuts_has_the_moments_of_the_grid() -> None:
    mesh, weights = on_the_grid()
    summary = posterior().summary()
    for i, name in enumerate(("a", "b")):
        mean = weights @ mesh[:, i]
        sd = np.sqrt(weights @ (mesh[:, i] - mean) ** 2)
        values, ess = posterior().draws[name].values.ravel(), float(summary.loc[name, "ess_bulk"])
        assert values.mean() == pytest.approx(mean, abs=4.0 * sd / np.sqrt(ess))
        assert values.std() == pytest.approx(sd, rel=4.0 / np.sqrt(ess))


def conditional(theta: dict[str, float], x: float, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of "curve" at a condition given data and parameters, by brute force."""
    one, cells = problem(), problem().cells
    u = one.unit_inputs({name: np.array([value]) for name, value in theta.items()})[0]
    new = u[0].copy()
    new[BOX.names.index("x")] = x
    same = np.flatnonzero(np.abs(u - new).max(axis=1) < 1e-12)
    k = int(same[0]) if len(same) else len(u)
    inputs = u if len(same) else np.vstack([u, new])
    index = np.concatenate([cells.experiment, np.full(len(times), k)])
    laws = brute(one.surrogate, inputs, index, np.concatenate([cells.coords["time"], times]))
    n, total, moments = len(cells.offset), [], []
    for mean, C, log_weight in laws:
        data = C[:n, :n] + np.diag(0.01 / cells.weight)
        residual = cells.cell_mean - mean[:n]
        gain = np.linalg.solve(data, C[:n, n:])
        sign, log_det = np.linalg.slogdet(data)
        total.append(log_weight - 0.5 * (log_det + residual @ np.linalg.solve(data, residual)))
        moments.append((mean[n:] + gain.T @ residual, C[n:, n:] - C[n:, :n] @ gain))
    weights = np.exp(np.array(total) - np.logaddexp.reduce(total))
    mean = sum(w * m for w, (m, _) in zip(weights, moments, strict=True))
    spread = sum(w * (C + np.outer(m - mean, m - mean)) for w, (m, C) in zip(weights, moments, strict=True))
    return np.asarray(mean), np.asarray(spread)


@pytest.mark.slow
@pytest.mark.parametrize("x", [0.2, 0.45])
def test_prediction_is_the_conditional_law_averaged_over_the_posterior(x: float) -> None:
    found = posterior().predict(conditions={"x": x}, coords={"time": [0.1, 0.5]}, rng=1)
    mesh, weights = on_the_grid()
    picked = np.flatnonzero(weights > 1e-4 * weights.max())
    each = [conditional(dict(zip("ab", mesh[i], strict=True)), x, np.array([0.1, 0.5])) for i in picked]
    w = weights[picked] / weights[picked].sum()
    mean = sum(a * m for a, (m, _) in zip(w, each, strict=True))
    variance = sum(a * (np.diag(C) + (m - mean) ** 2) for a, (m, C) in zip(w, each, strict=True))
    sd = np.sqrt(variance)
    np.testing.assert_allclose(found.mean["curve"].values, mean, atol=0.2 * sd.max())
    np.testing.assert_allclose(found.sd["curve"].values, sd, rtol=0.15)


@pytest.mark.slow
def test_a_fixed_output_is_predicted_beside_one_by_input() -> None:
    level = posterior().predict(conditions={"x": [0.2, 0.9]}, outputs="level", rng=1)
    assert np.isfinite(level.mean["level"]).all()
    assert (level.sd["level"] > 0.0).all()


@pytest.mark.parametrize("settings", [{}, {"correlated": False}, {"by_input": False}], ids=str)
@pytest.mark.parametrize("form", ["normal", "latent"])
def test_conditional_moments_at_given_parameters(settings: dict[str, Any], form: str) -> None:
    """Given standard normal latents, mean and covariance add up to the law without data."""
    from uqms.calibration.predict import Targets, conditional_moments, make_grid

    noise = uq.GaussianNoise(sd=0.1) if form == "normal" else uq.StudentTNoise(0.1, 5.0)
    one = uq.Calibration(toy(**settings), observations((0.2, 0.6)), noise, space=SPACE)
    theta = {name: np.full(4000, value) for name, value in {"a": 0.3, "b": 0.6}.items()}
    targets: Targets = make_grid(
        one.data_model, "curve", {"x": np.array([0.2, 0.5])}, {"time": np.array([0.1, 0.5])}
    ).targets
    u = one.unit_inputs({"a": np.array(0.3), "b": np.array(0.6)}, np.array([[0.2], [0.6], [0.5]]))
    cells = one.cells
    index = np.concatenate([cells.experiment, [0, 0, 2, 2]])
    ((mean, C, _),) = brute(one.surrogate, u, index, np.concatenate([cells.coords["time"], targets.coords["time"]]))
    n = len(cells.offset)
    h = np.zeros(4000, dtype=np.int64)
    if form == "normal":
        few = {name: values[:2] for name, values in theta.items()}
        ((_, moments),) = conditional_moments(one, few, h[:2], targets)
        gain = np.linalg.solve(C[:n, :n] + np.diag(0.01 / cells.weight), C[:n, n:])
        np.testing.assert_allclose(moments.mean[1], mean[n:] + gain.T @ (cells.cell_mean - mean[:n]), rtol=1e-8)
        np.testing.assert_allclose(moments.covariance[1], C[n:, n:] - C[n:, :n] @ gain, rtol=1e-6, atol=1e-9)
        return
    eta = np.random.default_rng(1).standard_normal((4000, one.latents))
    parts = [part for _, part in conditional_moments(one, theta, h, targets, eta)]
    means, left = np.concatenate([part.mean for part in parts]), parts[0].covariance[0]
    np.testing.assert_allclose(means.mean(axis=0), mean[n:], atol=5.0 * np.sqrt(np.diag(C)[n:].max() / 4000))
    np.testing.assert_allclose(np.cov(means.T) + left, C[n:, n:], atol=0.1 * C[n:, n:].max())
    # The latents are those of the cells: outputs and predictions of the same latents have the covariance of the law.
    y, _ = one.data_model.latent_outputs(one.unit_inputs(theta), one.noise.phi(theta, (4000,)), eta)
    cross = np.cov(np.hstack([y[0], means]).T)[:n, n:]
    np.testing.assert_allclose(cross, C[:n, n:], atol=0.1 * C.max())


@cache
def population() -> Any:
    space = uq.ParameterSpace(a=uq.LogitNormal(0.5, 0.5), b=uq.Uniform(0.0, 1.0), conditions=SPACE.conditions)
    several = uq.Population(space, individual=("a",), spread={"a": uq.HalfNormal(0.5)})
    rng = np.random.default_rng(2)
    rows = [
        {"id": f"p{i}", "x": x, "time": t, "value": 1.5 + 0.4 * np.sin(t) + 0.15 * i + 0.1 * rng.standard_normal()}
        for i in range(3)
        for x in (0.2, 0.7)
        for t in (TIMES if i else TIMES[1:])
    ]
    data = uq.Observations.from_table(
        pd.DataFrame(rows),
        output="curve",
        value="value",
        coords={"time": "time"},
        conditions=["x"],
        subject="id",
    )
    surrogate = ToySurrogate(several.box())
    return uq.Calibration(surrogate, data, noise=uq.GaussianNoise(sd=0.15), population=several)


def test_the_likelihood_of_a_population_is_the_dense_normal() -> None:
    one = population()
    rng = np.random.default_rng(3)
    theta, z = one.prior_draws(3, 1), rng.standard_normal((3, one.latents))
    found, cells = one.log_likelihood(theta, z), one.data.cells
    own = one.individuals(theta, z)
    for s in range(3):
        u = one.data.unit_inputs({name: values[[s]] for name, values in own.items()})[0]
        ((mean, C, _),) = brute(one.surrogate, u, cells.experiment, cells.coords["time"])
        C = C + np.diag(0.15**2 / cells.weight)
        residual = cells.cell_mean - mean
        _, log_det = np.linalg.slogdet(2.0 * np.pi * C)
        wanted = -0.5 * (log_det + residual @ np.linalg.solve(C, residual))
        wall = one.data.wall({name: values[[s]] for name, values in own.items()})[0]
        assert found[s] == pytest.approx(wanted + wall, rel=1e-9)


def test_the_gradient_of_a_population() -> None:
    from calibration.test_by_input import check_gradient

    check_gradient(population())


@pytest.mark.slow
def test_a_population_is_sampled_and_judged() -> None:
    found = population().sample(uq.NUTS(draws=100, tune=200, chains=2), rng=1)
    means = found.individuals["a"].mean(["chain", "draw"]).values
    assert (np.diff(means) != 0.0).all()
    share = float(found.surrogate_share["b"])
    assert 0.0 < share < 1.0
    assert "predictive misfit" in str(found.verdict)


def test_what_cannot_be_done_is_said_before_work_starts() -> None:
    with pytest.raises(ConformanceError, match="sobol.*rows of .'curve'. depend on the input"):
        uq.sobol_indices(toy(), SPACE)
    with pytest.raises(ConformanceError, match="rare_event takes independent scores.*errors that are correlated"):
        uq.rare_event(toy(by_input=False), 3.0, of="level", inputs=SPACE.given({}), conditions={"x": 0.5})
    with pytest.raises(InputError, match="realisation='none'"):
        uq.Calibration(WithNoise(toy()), observations(), uq.GaussianNoise(sd=0.1), space=SPACE)


class WithNoise:
    """The toy, of a simulator that is said to be stochastic."""

    def __init__(self, inner: ToySurrogate) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def noise_at(self, u: np.ndarray) -> np.ndarray:
        return np.ones((1, len(u), 2))


def test_outputs_of_the_surrogate_are_propagated_with_their_own_rows() -> None:
    at = {"a": np.array([0.2, 0.7]), "b": np.array([0.4, 0.1])}
    found = uq.propagate(toy(), at, of=["curve"], conditions={"x": 0.5}, functions=2000, rng=1)
    y, _ = found.full("curve")
    values = y.reshape(2000, 2, -1)
    u = BOX.to_unit(np.column_stack([at["a"], at["b"], [0.5, 0.5]]))
    ((mean, C, _),) = brute(toy(), np.asarray(u), np.repeat([0, 1], 5), np.tile(toy().times, 2))
    flat = values.reshape(2000, 10)
    sd = np.sqrt(np.diag(C))
    assert np.abs((flat.mean(axis=0) - mean) / (sd / np.sqrt(2000))).max() < 4.5
    np.testing.assert_allclose(flat.std(axis=0), sd, rtol=0.08)

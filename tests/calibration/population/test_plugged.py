"""Populations through a surrogate that is plugged in: features of its error against dense normals of a toy."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytensor
import pytensor.tensor as pt
import pytest

import uqms as uq
from uqms.calibration import bridge
from uqms.calibration.population.covariances import ProcessCovariances, SurrogateCovariances
from uqms.calibration.population.lowrank import LowRank
from uqms.calibration.population.shared_error import SharedError, nystroem, square_root, square_root_reverse
from uqms.calibration.population.subject_prediction import Shared, covariances_of, featured, subjects_of
from uqms.surrogates import Matern52
from uqms.surrogates.process import condition, scores_at
from uqms.surrogates.training import Hyperparameters
from uqms.testing import ToySurrogate

TIMES, SD = np.linspace(0.0, 1.0, 4), 0.15
SPACE = uq.ParameterSpace(a=uq.LogitNormal(0.5, 0.5), b=uq.Uniform(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
KINDS = [(correlated, by_input) for correlated in (True, False) for by_input in (True, False)]
IDS = [f"{'joint' if one else 'apart'}-{'by input' if two else 'fixed rows'}" for one, two in KINDS]


def table(subjects: int, seed: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = [
        {"id": f"p{i}", "x": x, "time": t, "value": 1.5 + 0.4 * np.sin(t) + 0.1 * (i % 5) + SD * rng.standard_normal()}
        for i in range(subjects)
        for x in ((0.2, 0.7) if i % 2 and subjects < 100 else (0.4,))
        for t in (TIMES if i % 3 else TIMES[1:])
    ]
    return pd.DataFrame(rows)


@cache
def problem(correlated: bool, by_input: bool, subjects: int = 5, how: str = "low-rank", sd: float = 0.3) -> Any:
    several = uq.Population(SPACE, individual=("a",), spread={"a": uq.HalfNormal(0.5)})
    data = uq.Observations.from_table(
        table(subjects), output="curve", value="value", coords={"time": "time"}, conditions=["x"], subject="id"
    )
    toy = ToySurrogate(several.box(), draws=2, correlated=correlated, by_input=by_input, sd=sd)
    noise = uq.GaussianNoise(sd=uq.HalfNormal(0.3))
    return uq.Calibration(toy, data, noise=noise, population=several, surrogate_error=how)


def inputs(one: Any, S: int, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return one.data.unit_inputs(one.individuals(one.prior_draws(S, 1), rng.standard_normal((S, one.latents))))


def through(one: Any, points: np.ndarray) -> LowRank:
    error = SharedError.through(covariances_of(one.data.data_model, one.data.cells.used), points)
    return featured(one.data.data_model, error, one.data.cells.used, subjects_of(one.data))


def dense(one: Any, u: np.ndarray, joint: np.ndarray, sd: float) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance (H, N) of the rows for errors of scores (H, K, q, K, q) at inputs u (K, d)."""
    cells, toy = one.data.cells, one.surrogate
    k, rows = cells.experiment, toy.decode("curve", {"time": cells.coords["time"][: len(cells.offset)]})
    assert len(cells.z) == len(cells.offset)  # no replicates
    if toy.by_input:
        found = rows.at(u)
        at = np.arange(len(k))
        offset, basis, truncation = (part[:, k, at] for part in found)
    else:
        offset, basis, truncation = (np.repeat(part[None], len(joint), axis=0) for part in rows)
    mean = offset + np.sum(basis * toy.scores(u).mean[:, k], axis=-1)
    covariance = np.einsum("hai,haibj,hbj->hab", basis, joint[:, k][:, :, :, k], basis)
    covariance += (k[:, None] == k) * (truncation @ truncation.swapaxes(1, 2)) + sd**2 * np.eye(len(k))
    return mean, covariance


def paired(covariance: np.ndarray) -> np.ndarray:
    """Return covariances of independent scores (H, q, K, K) as (H, K, q, K, q)."""
    if covariance.ndim == 5:
        return covariance
    H, q, K, _ = covariance.shape
    out = np.zeros((H, K, q, K, q))
    for j in range(q):
        out[:, :, j, :, j] = covariance[:, j]
    return out


def log_density(z: np.ndarray, mean: np.ndarray, covariance: np.ndarray, log_weights: np.ndarray) -> float:
    """Return log p of cell means z."""
    each = []
    for m, C in zip(mean, covariance, strict=True):
        _, log_det = np.linalg.slogdet(2.0 * np.pi * C)
        each.append(-0.5 * (log_det + (z - m) @ np.linalg.solve(C, z - m)))
    return float(np.logaddexp.reduce(np.array(each) + log_weights))


# --- the likelihood ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("correlated", "by_input"), KINDS, ids=IDS)
def test_through_the_inputs_themselves_it_is_the_dense_normal(correlated: bool, by_input: bool) -> None:
    one = problem(correlated, by_input)
    z = one.data.cells.z
    for u in inputs(one, 3):
        lowrank, toy = through(one, u), one.surrogate
        exact = dense(one, u, paired(toy.scores(u).covariance), SD)
        wanted = log_density(one.data.cells.cell_mean, *exact, toy.log_weights)
        assert lowrank.value_and_slopes(u, np.array([SD]), z)[0] == pytest.approx(wanted, abs=1e-9)
        assert lowrank.evaluate(u[None], np.array([[SD]]), z)[0] == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(("correlated", "by_input"), KINDS, ids=IDS)
def test_with_few_points_it_is_the_dense_normal_of_shared_and_own_errors(correlated: bool, by_input: bool) -> None:
    one = problem(correlated, by_input)
    u, z = inputs(one, 1)[0], one.data.cells.z
    lowrank = through(one, u[:2])
    whole = paired(lowrank.error.covariance(u))
    exact = paired(one.surrogate.scores(u).covariance)
    at = np.arange(len(u))
    np.testing.assert_allclose(whole[:, at, :, at], exact[:, at, :, at], atol=1e-12)  # of an input all is exact
    np.testing.assert_allclose(whole[:, :2], exact[:, :2], atol=1e-9)  # so are points and any other
    assert np.abs(whole - exact).max() > 1e-4
    wanted = log_density(one.data.cells.cell_mean, *dense(one, u, whole, SD), one.surrogate.log_weights)
    assert lowrank.value_and_slopes(u, np.array([SD]), z)[0] == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("points", [2, 30])
@pytest.mark.parametrize(("correlated", "by_input"), KINDS, ids=IDS)
def test_the_gradient_is_that_of_finite_differences(correlated: bool, by_input: bool, points: int) -> None:
    one = problem(correlated, by_input)
    u, z, sd = inputs(one, 1)[0], one.data.cells.z, np.array([SD])
    lowrank = through(one, np.random.default_rng(4).random((points, u.shape[1])))
    _, by_u, by_sd = lowrank.value_and_slopes(u, sd, z)

    def slope(du: Any, ds: float) -> float:
        up, down = (lowrank.value_and_slopes(u + s * du, sd + s * ds, z)[0] for s in (1.0, -1.0))
        return (up - down) / 2e-5

    for at in np.ndindex(u.shape):
        step = np.zeros_like(u)
        step[at] = 1e-5
        assert by_u[at] == pytest.approx(slope(step, 0.0), rel=1e-5, abs=1e-5 * np.abs(by_u).max())
    assert by_sd[0] == pytest.approx(slope(0.0, 1e-5), rel=1e-5)


@pytest.mark.parametrize(("correlated", "by_input"), KINDS, ids=IDS)
def test_the_operation_reads_other_features(correlated: bool, by_input: bool) -> None:
    """Compiled with two points, it has the value and gradient of eight when their block takes the place."""
    one = problem(correlated, by_input)
    u, z, sd = inputs(one, 1)[0], one.data.cells.z, np.array([SD])
    rng = np.random.default_rng(5)
    first, other = (through(one, rng.random((m, u.shape[1]))) for m in (2, 8))
    block, data = pytensor.shared(first.error.flat()), pytensor.shared(first.likelihood.data)
    at = pt.dmatrix("u")
    value = bridge.PythonOp(bridge.LowRankGaussian(first))(block, data, at, sd, z)[0]
    function = pytensor.function([at], [value, pytensor.grad(value, at)], mode="FAST_COMPILE")
    for lowrank in (first, other):
        block.set_value(lowrank.error.flat())
        data.set_value(lowrank.likelihood.data)
        wanted = lowrank.value_and_slopes(u, sd, z)
        for found, right in zip(function(u), wanted, strict=False):
            np.testing.assert_allclose(found, right, rtol=1e-10)


@pytest.mark.parametrize(("correlated", "by_input"), KINDS, ids=IDS)
def test_left_out_subjects_and_features_given_the_data(correlated: bool, by_input: bool) -> None:
    one = problem(correlated, by_input)
    u, z, y = inputs(one, 2), one.data.cells.z, one.data.cells.cell_mean
    lowrank = through(one, u[0][:2])
    sigma = np.array([[SD], [2.0 * SD]])
    values, left = lowrank.by_draw(u, sigma, z)
    owner = lowrank.unit[one.data.cells.experiment]
    given = lowrank.condition(u, sigma, z)
    for s in range(2):
        whole = paired(lowrank.error.covariance(u[s]))
        mean, C = dense(one, u[s], whole, sigma[s, 0])
        for h in range(2):
            joint = log_density(y, mean[[h]], C[[h]], np.zeros(1))
            assert values[h, s] == pytest.approx(joint, abs=1e-9)
            for i in range(owner.max() + 1):
                rest = owner != i
                without = log_density(y[rest], mean[[h]][:, rest], C[[h]][:, rest][:, :, rest], np.zeros(1))
                assert left[h, s, i] == pytest.approx(joint - without, abs=1e-8)
            # Of the features by brute force: mean and precision given the data.
            rows = lowrank._rows(u[[s]], (2, 1))[1][h, 0] if lowrank.likelihood.varying else None
            basis = rows if rows is not None else one.data.cells.used_basis
            phi = lowrank.error.at(u[s]).phi[h]
            F = lowrank.error.loadings(basis, phi[one.data.cells.experiment])
            gain = F.T @ np.linalg.inv(C[h])
            np.testing.assert_allclose(given.mean[h, s], gain @ (y - mean[h]), rtol=1e-7, atol=1e-9)
            factor = given.factor[h, s]
            covariance = np.eye(F.shape[1]) - gain @ F
            np.testing.assert_allclose(np.linalg.inv(factor @ factor.T), covariance, atol=1e-8)


# --- the features -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("correlated", [True, False])
def test_features_are_few_where_few_are_enough(correlated: bool) -> None:
    """The toy has d + 2 functions of the input, so that as many features of each score are exact."""
    toy = ToySurrogate(SPACE.box(), correlated=correlated, draws=2)
    covariances = SurrogateCovariances.of(toy, np.arange(2))
    rng = np.random.default_rng(6)
    cloud, several = rng.random((300, 3)), rng.random((6, 150, 3))
    error = nystroem(covariances, cloud, several, noise=np.full(2, 0.01))
    assert error.ranks.sum() <= 2 * 6
    assert error.left_out.max() <= 0.05
    u = rng.random((150, 3))
    exact, ours = paired(toy.scores(u).covariance), paired(error.covariance(u))
    weights = np.ones(150) / 150.0
    for h in range(2):
        true, found = (np.einsum("k,kimj,m->ij", weights, C[h], weights) for C in (exact, ours))
        np.testing.assert_allclose(found, true, rtol=0.05, atol=0.01 * np.abs(true).max())


def test_the_process_through_its_protocol_has_the_features_of_its_arrays() -> None:
    """One Gaussian process twice: through `scores`, and through its arrays."""
    rng = np.random.default_rng(7)
    x = rng.random((15, 3))
    one = Hyperparameters(np.full(3, 0.6), 0.0, 1e-10, 0.0, 1, False)
    process = condition(Matern52(), x, np.sin(3.0 * x @ rng.random((3, 2))), 1, [one] * 2, [0.3] * 2)

    class Plugged:
        domain = SPACE.box()

        def scores(self, u: np.ndarray) -> Any:
            return scores_at(process, u)

    points, u = rng.random((4, 3)), rng.random((300, 3))  # more than a block
    arrays = SharedError.through(ProcessCovariances(process), points)
    plugged = SharedError.through(SurrogateCovariances.of(Plugged(), np.arange(2)), points)  # type: ignore[arg-type]
    np.testing.assert_allclose(plugged.covariance(u), arrays.covariance(u), atol=1e-10)
    np.testing.assert_allclose(plugged.at(u).mean, arrays.at(u).mean, atol=1e-11)
    noise = np.array([1e-3, 1e-2])
    np.testing.assert_allclose(plugged.off(u, 0, noise), arrays.off(u, 0, noise), rtol=1e-6, atol=1e-8)


def test_factors_of_singular_covariances_and_their_derivative(rng: np.random.Generator) -> None:
    root = rng.standard_normal((4, 3, 3))
    C = root @ root.swapaxes(1, 2)
    C[1] = np.outer(root[1, 0], root[1, 0])
    C[2] = 0.0
    L = square_root(C)
    np.testing.assert_allclose(L @ L.swapaxes(1, 2), C, atol=1e-12)
    bar = rng.standard_normal((4, 3, 3))
    bar = bar + bar.swapaxes(1, 2)
    np.testing.assert_allclose(square_root_reverse(L, 2.0 * bar @ L)[[0, 3]], bar[[0, 3]], atol=1e-8)


# --- prediction -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("correlated", "by_input"), KINDS, ids=IDS)
@pytest.mark.parametrize("where", ["measured", "other condition"])
def test_predictions_have_the_exact_conditional_law(where: str, correlated: bool, by_input: bool) -> None:
    one, S = problem(correlated, by_input), 20_000
    rng = np.random.default_rng(8)
    single = one.prior_draws(1, 4)
    single["sigma"] = np.array([SD])
    z1 = rng.standard_normal((1, one.latents))
    theta, z = {name: np.repeat(values, S) for name, values in single.items()}, np.repeat(z1, S, axis=0)
    own1 = one.individuals(single, z1)
    u = one.data.unit_inputs(own1)
    k, cells = int(np.flatnonzero(one.data.cells.unit == 2)[0]), one.data.cells
    if where == "measured":
        asked, which, at = u[:, [k]], np.array([k]), cells.conditions[[k]]
    else:
        at = np.array([[0.9]])
        asked, which = one.data.unit_inputs(own1, at, units=np.array([2])), np.array([-1])
    points = np.concatenate([u[0], asked[0]])
    error = SharedError.through(covariances_of(one.data.data_model), points)
    lowrank = featured(one.data.data_model, error, np.arange(2), cells.unit)
    h, w = _draws(lowrank.condition(u, np.array([[SD]]), cells.z), S, rng)
    shared = Shared(one, theta, one.individuals(theta, z), z, h, w, error)
    whole = np.repeat(asked, S, axis=0)
    t = np.array([0.1, 0.8])
    decoder = one.surrogate.decode("curve", {"time": t})
    measured = shared.measured(cells, which, whole)
    mean, variance, draws = shared.predict(whole, measured, shared.rows(decoder, whole), rng)
    # The exact law: a mixture over the draws of hyperparameters.
    joined = np.concatenate([u[0], asked[0]])
    exact = paired(one.surrogate.scores(joined).covariance)
    m, C = _joined(one, joined, exact, t, where == "measured", k)
    N = len(cells.offset)
    logs, means, covariances = [], [], []
    for i in range(2):
        R = C[i, :N, :N] + SD**2 * np.eye(N)
        logs.append(log_density(cells.cell_mean, m[[i], :N], R[None], one.surrogate.log_weights[[i]]))
        gain = C[i, N:, :N] @ np.linalg.inv(R)
        means.append(m[i, N:] + gain @ (cells.cell_mean - m[i, :N]))
        covariances.append(C[i, N:, N:] - gain @ C[i, :N, N:])
    weights = np.exp(np.array(logs) - np.logaddexp.reduce(logs))
    centre = weights @ np.array(means)
    spread = sum(
        p * (V + np.outer(a - centre, a - centre)) for p, a, V in zip(weights, means, covariances, strict=True)
    )
    sd = np.sqrt(np.diag(spread))
    assert np.abs((draws[:, 0].mean(axis=0) - centre) / (sd / np.sqrt(S))).max() < 4.5
    np.testing.assert_allclose(np.cov(draws[:, 0].T), spread, atol=6 * sd.max() ** 2 / np.sqrt(S))
    total = variance[:, 0].mean(axis=0) + mean[:, 0].var(axis=0)
    np.testing.assert_allclose(total, sd**2, rtol=0.06)


def _draws(given: Any, S: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return type(given)(*(np.repeat(one, S, axis=1) for one in given)).draw(rng)


def _joined(one: Any, u: np.ndarray, exact: np.ndarray, t: np.ndarray, same: bool, k: int) -> Any:
    """Return mean and covariance (H, N + P) of measured rows and of rows at times t of the last input."""
    cells, toy = one.data.cells, one.surrogate
    times = np.concatenate([cells.coords["time"], t])
    index = np.concatenate([cells.experiment, np.full(len(t), len(u) - 1)])
    rows = toy.decode("curve", {"time": times})
    if toy.by_input:
        at = np.arange(len(index))
        offset, basis, truncation = (part[:, index, at] for part in rows.at(u))
    else:
        offset, basis, truncation = (np.repeat(part[None], 2, axis=0) for part in rows)
    mean = offset + np.sum(basis * toy.scores(u).mean[:, index], axis=-1)
    C = np.einsum("hai,haibj,hbj->hab", basis, exact[:, index][:, :, :, index], basis)
    label = np.where(index == len(u) - 1, k, index) if same else index
    return mean, C + (label[:, None] == label) * (truncation @ truncation.swapaxes(1, 2))


# --- all of it --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::uqms.errors.ConvergenceWarning")
def test_a_population_of_many_subjects_is_sampled_predicted_and_judged() -> None:
    one = problem(True, True, 160, "auto", 0.03)
    assert one.lowrank is not None
    found = one.sample(uq.NUTS(draws=60, tune=100, chains=1), rng=1)
    lowrank = found.problem.lowrank
    assert 2 <= lowrank.error.ranks.sum() <= 60
    theta, z = {name: values[:4] for name, values in found.flat().items()}, found.latents[:4]
    u = found.problem.data.unit_inputs(found.problem.individuals(theta, z))
    for s in range(4):  # against the covariance of all inputs
        mean, C = dense(one, u[s], paired(one.surrogate.scores(u[s]).covariance), float(theta["sigma"][s]))
        wanted = log_density(one.data.cells.cell_mean, mean, C, one.surrogate.log_weights)
        ours = lowrank.evaluate(u[[s]], theta["sigma"][[s], None], one.data.cells.z)[0]
        assert ours == pytest.approx(wanted, abs=1.0)
    assert {check.name for check in found.verdict.checks} >= {"joint error", "surrogate error", "predictive misfit"}
    predicted = found.predict(subjects=["p1", "p4"], conditions={"x": 0.5}, draws=50)
    assert predicted.mean["curve"].shape == (2, 5)
    assert np.isfinite(predicted.sd["curve"].values).all()
    new = uq.Observations.from_table(
        table(3).query("id == 'p1' and x == 0.2"),
        output="curve",
        value="value",
        coords={"time": "time"},
        conditions=["x"],
        subject="id",
    )
    patient = found.new_subject(new, rng=2)
    assert patient.ess > 100
    assert np.isfinite(patient.predict().mean["curve"].values).all()
    assert found.tree["posterior_predictive"]["value"].notnull().all()

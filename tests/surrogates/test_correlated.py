"""Scalar outputs with scores in common: identities, joint laws against independent processes, and their files."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.stats import chi2

import uqms as uq
from uqms._typing import Array
from uqms.errors import FormatError, InputError
from uqms.surrogates import GaussianProcessSurrogate, Scores, archive
from uqms.surrogates.correlated import left_out_errors
from uqms.surrogates.kernels import Matern52, correlation
from uqms.surrogates.left_out import left_out_scores
from uqms.surrogates.process import condition
from uqms.surrogates.training import Hyperparameters

SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
N, NEW = 30, 60
AT = {"a": np.linspace(0.05, 0.9, 7), "b": np.linspace(0.8, 0.1, 7)}


def volumes(n: int = 24, scale: float = 1.0, names: tuple[str, ...] = ("edv", "esv", "sv")) -> xr.Dataset:
    """Return runs with two volumes and their difference."""
    design = uq.sobol(SPACE, n, rng=1)
    a, b = design["a"].values, design["b"].values
    edv, esv = 120.0 + 40.0 * np.sin(2.0 * a + b), 50.0 + 20.0 * np.cos(3.0 * a * b) + 15.0 * b**2
    values = {"edv": edv, "esv": esv, "sv": edv - esv}
    return uq.ensemble.build(design, {name: scale * values[name] for name in names}, space=SPACE)


def processes(rho: float, seed: int, n: int = N) -> tuple[xr.Dataset, Array, Array]:
    """Return runs of two functions whose processes correlate, new points and their values there."""
    rng = np.random.default_rng(seed)
    design = uq.latin_hypercube(SPACE, n, rng=rng)
    x = np.vstack([np.column_stack([design["a"], design["b"]]), rng.random((NEW, 2))])
    root = np.linalg.cholesky(correlation(Matern52(), x, x, np.array([0.4, 0.7])) + 1e-10 * np.eye(len(x)))
    y = (root @ rng.standard_normal((len(x), 2))) @ np.linalg.cholesky([[1.0, rho], [rho, 1.0]]).T
    return uq.ensemble.build(design, {"p": y[:n, 0], "q": y[:n, 1]}, space=SPACE), x[n:], y[n:]


def fit(runs: xr.Dataset, **settings: object) -> GaussianProcessSurrogate:
    kept = {"hyperparameters": "point", "scales": "given"}
    return uq.GaussianProcess(**(kept | settings)).fit(runs)  # type: ignore[arg-type]


def squares(surrogate: GaussianProcessSurrogate, u: Array, y: Array) -> tuple[Array, Array]:
    """Return the squared Mahalanobis distance and the log density of both outputs at each point."""
    scores: Scores = surrogate.marginal_scores(u)
    decoders = [surrogate.decode(name) for name in ("p", "q")]
    basis = np.vstack([one.basis for one in decoders])
    error = y - np.concatenate([one.offset for one in decoders]) - scores.mean[0] @ basis.T
    covariance = np.einsum("iq,qk,jq->kij", basis, scores.covariance[0], basis)
    distance = np.einsum("ki,ki->k", error, np.linalg.solve(covariance, error[..., None])[..., 0])
    return distance, -0.5 * (distance + np.linalg.slogdet(2.0 * np.pi * covariance)[1])


@pytest.fixture(scope="module")
def surrogate() -> GaussianProcessSurrogate:
    return fit(volumes())


@pytest.fixture(scope="module")
def pair() -> tuple[GaussianProcessSurrogate, Array, Array]:
    runs, u, y = processes(0.9, 1)
    return fit(runs), u, y


def test_draws_obey_an_identity_of_the_outputs(surrogate: GaussianProcessSurrogate) -> None:
    def gap(one: GaussianProcessSurrogate) -> float:
        draws = one.predict(AT).draws(100, rng=1)
        return float(np.abs(draws["edv"] - draws["esv"] - draws["sv"]).max())

    averaged = fit(volumes(), hyperparameters="averaged")
    assert gap(surrogate) < 1e-11
    assert gap(averaged) < 1e-11
    assert gap(fit(volumes(), scalars="independent")) > 1.0
    for one in (surrogate, averaged):
        assert one.process.q == 2
        assert "edv, esv, sv have scores in common" in repr(one)


def test_correlated_outputs_are_predicted_better_together() -> None:
    better, inside = [], []
    for seed in range(1, 7):
        runs, u, y = processes(0.95, seed)
        rotated = fit(runs)
        assert rotated.bases[0].scores == rotated.bases[1].scores == (0, 1)
        distance, together = squares(rotated, u, y)
        better.append(np.mean(together - squares(fit(runs, scalars="independent"), u, y)[1]))
        inside.append(np.mean(distance < chi2.ppf(0.95, 2)))
    # The gain of a known correlation is 1.16 nats; hyperparameters are point estimates, so that coverage is a bit low.
    assert np.mean(better) - 2.0 * np.std(better) / np.sqrt(len(better)) > 0.3
    assert np.mean(inside) > 0.83


def test_independent_outputs_stay_as_they_are() -> None:
    runs, _, _ = processes(0.0, 3)
    one, other = fit(runs), fit(runs, scalars="independent")
    assert all(basis.scores is None for basis in one.bases)
    for part in fields(one.process):
        if part.name != "kernel":
            assert getattr(one.process, part.name).tobytes() == getattr(other.process, part.name).tobytes()


@pytest.mark.parametrize("n", [12, 24])
def test_order_and_units_of_the_outputs_do_not_matter(n: int) -> None:
    first = fit(volumes(n)).predict(AT)
    second = fit(volumes(n, 1e-3, ("sv", "esv", "edv"))).predict(AT)
    for name in ("edv", "esv", "sv"):
        np.testing.assert_allclose(first.mean[name], 1e3 * second.mean[name], rtol=1e-5)
        np.testing.assert_allclose(first.sd[name], 1e3 * second.sd[name], rtol=1e-3)


def test_left_out_errors_are_those_of_validation(rng: np.random.Generator) -> None:
    x, y = rng.random((20, 2)), rng.standard_normal((20, 3))
    one = Hyperparameters(np.array([0.5, 0.8]), 0.1, 1e-12, 0.0, 0, False)
    found = left_out_errors(x, y[:, 0], np.ones((20, 1)), Matern52(), one, y)
    error, variance, root = left_out_scores(condition(Matern52(), x, y[:, :1], 1, [one]), 0, 0)
    np.testing.assert_allclose(found.error, error, rtol=1e-9)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-9)
    q = (root / variance[:, None]) @ (root / variance[:, None]).T  # up to the variance
    expected = [y[:, 0] @ q @ y[:, j] / np.sqrt((y[:, 0] @ q @ y[:, 0]) * (y[:, j] @ q @ y[:, j])) for j in range(3)]
    np.testing.assert_allclose(found.correlation, expected, rtol=1e-9)


def test_a_chance_correlation_of_independent_outputs_has_the_error_that_is_assumed() -> None:
    rng = np.random.default_rng(1)
    x = rng.random((25, 2))
    one = Hyperparameters(np.array([0.5, 0.8]), 0.0, 1e-12, 0.0, 0, False)
    root = np.linalg.cholesky(correlation(Matern52(), x, x, one.ell) + 1e-12 * np.eye(25))
    y = root @ rng.standard_normal((25, 401))
    found = left_out_errors(x, y[:, 0], np.ones((25, 1)), Matern52(), one, y[:, 1:]).correlation
    assert np.std(found) == pytest.approx(1.0 / np.sqrt(24.0), rel=0.15)  # four standard errors of 400 are 0.14


def test_validation_of_outputs_with_scores_in_common(pair: tuple[GaussianProcessSurrogate, Array, Array]) -> None:
    surrogate, u, y = pair
    u, y = u[:20], y[:20]
    new = uq.ensemble.build(
        uq.ensemble.completed(processes(0.9, 2, 20)[0])[["a", "b"]].assign(a=("run", u[:, 0]), b=("run", u[:, 1])),
        {"p": y[:, 0], "q": y[:, 1]},
        space=SPACE,
    )
    found = uq.held_out(surrogate, new)
    prediction = surrogate.predict({"a": u[:, 0], "b": u[:, 1]})
    for k, name in enumerate(("p", "q")):
        covariance = prediction.covariance(name)[:, 0, :, 0]
        error = y[:, k] - prediction.mean[name].values
        expected = error @ np.linalg.solve(covariance, error) / 20.0
        assert found.table.loc[name, "mahalanobis"] == pytest.approx(expected, rel=1e-4)
        low, high = found.table.loc[name, "range_mahalanobis"]
        assert low < 1.0 < high
    runs = processes(0.9, 1)[0]
    left = uq.leave_one_out(surrogate)
    np.testing.assert_allclose(left.observed["p"], runs["p"], rtol=1e-12)
    # The error of a left-out run is the weighted sum of those of its scores.
    each = [left_out_scores(surrogate.process, 0, j) for j in range(2)]
    basis = surrogate.bases[0].basis[0]
    expected = basis[0] * each[0][0] + basis[1] * each[1][0]
    np.testing.assert_allclose(left.observed["p"] - left.mean["p"], expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(left.sd["p"] ** 2, basis[0] ** 2 * each[0][1] + basis[1] ** 2 * each[1][1], rtol=1e-9)


def test_gradients_are_finite_differences(surrogate: GaussianProcessSurrogate) -> None:
    point, step = {"a": 0.4, "b": 0.3}, 1e-5
    slope = surrogate.gradient(point, {"sv": 1.0})["a"]
    ends = [surrogate.evaluate(point | {"a": 0.4 + sign * step})["sv"].item() for sign in (1.0, -1.0)]
    assert slope == pytest.approx((ends[0] - ends[1]) / (2.0 * step), rel=1e-6)


def test_files_hold_which_scores_an_output_has(surrogate: GaussianProcessSurrogate, tmp_path: Path) -> None:
    path = tmp_path / "surrogate.npz"
    surrogate.save(path)
    same = uq.load_surrogate(path)
    assert [basis.scores for basis in same.bases] == [(0, 1)] * 3
    assert (same.predict(AT).mean["sv"].values == surrogate.predict(AT).mean["sv"].values).all()
    with np.load(path) as file:
        held = dict(file)
    header = json.loads(held.pop("header").tobytes())
    assert header["version"] == 4
    for scores in ([0, 2], [0, 0], [1], [0, -1], [0, 1.0], "01"):
        header["outputs"][0]["scores"] = scores
        header["sha256"] = archive.digest(header, held)
        np.savez(path, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **held)
        with pytest.raises(FormatError):
            uq.load_surrogate(path)


def test_outputs_that_are_known_in_other_runs_have_no_scores_in_common() -> None:
    whole = volumes()
    values = {name: whole[name].values.copy() for name in ("edv", "esv", "sv")}
    values["esv"][3] = np.nan
    states = ["partial" if i == 3 else "completed" for i in range(24)]
    found = fit(uq.ensemble.build(whole[["a", "b"]], values, space=SPACE, states=states))
    assert found.process.q == 3
    assert 1 not in (found.bases[0].scores or ()) + (found.bases[2].scores or ())


@pytest.mark.parametrize("wrong", ["rotated", None])
def test_the_setting_is_one_of_two(wrong: object) -> None:
    with pytest.raises(InputError, match="'auto' or 'independent'"):
        uq.GaussianProcess(scalars=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["float32", "table"])
def test_identities_of_numbers_with_few_digits_are_kept(kind: str) -> None:
    design = uq.sobol(SPACE, 20, rng=1)
    a, b = (design[name].values for name in SPACE.inputs[:2])
    edv, esv = 120.0 + 40.0 * np.sin(2.0 * a + b), 50.0 + 20.0 * np.cos(3.0 * a * b) + 15.0 * b**2
    values = {"edv": edv, "esv": esv, "sv": edv - esv}
    few = {name: one.astype(np.float32) if kind == "float32" else np.round(one, 3) for name, one in values.items()}
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(uq.ensemble.build(design, few, space=SPACE))
    assert surrogate.process.q == 2
    draws = surrogate.predict({name: [0.9, 0.4] for name in SPACE.inputs}).draws(100, rng=1)
    assert float(np.abs(draws["edv"] - draws["esv"] - draws["sv"]).max()) < 1e-3

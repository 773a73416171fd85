"""Runs that miss coordinates of a curve: what each says of its scores, and surrogates that are learned from it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import xarray as xr
from calibration.problems import dense_covariance
from scipy.stats import multivariate_normal

import uqms as uq
from uqms.errors import DataError, DesignError, FormatError, InputError
from uqms.surrogates import GaussianProcessSurrogate, Layout, Matern52, gp, partial
from uqms.surrogates.fused_scores import scores_flat
from uqms.surrogates.kernels import correlation
from uqms.surrogates.outputs import OutputBasis
from uqms.surrogates.process import condition, scores_at
from uqms.surrogates.training import Hyperparameters

SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
NEW = 50


def basis_of(b: np.ndarray, truncation: np.ndarray) -> OutputBasis:
    layout = Layout(("t",), {"t": np.arange(len(b), dtype=float)})
    return OutputBasis("y", layout, np.linspace(0.0, 1.0, len(b)), b, truncation)


# --------------------------------------------------------------------------------------------------- what one run says
def test_values_and_errors_are_those_of_the_joint_law() -> None:
    """One run: posterior of the scores given its entries, with the prior of the score itself divided out."""
    rng = np.random.default_rng(1)
    n, m, q, t, rounding = 12, 7, 4, 3, 1e-3
    one = basis_of(rng.standard_normal((m, q)), 0.3 * rng.standard_normal((m, t)))
    y = rng.standard_normal((n, m))
    y[rng.random((n, m)) < 0.5] = np.nan
    y[np.isnan(y).all(axis=1), 0] = 0.3
    mean, variance = rng.standard_normal((n, q)), rng.uniform(0.2, 3.0, (n, q))
    value, error = partial.values_of(partial.information(one, y, rounding), mean, variance)
    for i, row in enumerate(y):
        has = np.isfinite(row)
        b, v = one.basis[has], np.diag(variance[i])
        rest = one.truncation[has] @ one.truncation[has].T + rounding**2 * np.eye(int(has.sum()))
        gain = np.linalg.solve(b @ v @ b.T + rest, b @ v).T
        posterior = v - gain @ b @ v
        centre = mean[i] + gain @ (row[has] - one.offset[has] - b @ mean[i])
        precision = 1.0 / np.diag(posterior) - 1.0 / variance[i]
        np.testing.assert_allclose(1.0 / error[i], precision, rtol=1e-7)
        expected = (centre / np.diag(posterior) - mean[i] / variance[i]) / precision
        np.testing.assert_allclose(value[i], expected, rtol=1e-7, atol=1e-8)


def test_scores_that_a_run_says_nothing_of_have_no_value() -> None:
    one = basis_of(np.array([[1.0, 0.0], [0.5, 0.0], [0.2, 1.0]]), np.zeros((3, 0)))
    y = one.offset + np.array([[1.0, 0.5, np.nan]])
    value, error = partial.values_of(partial.information(one, y, 1e-8), np.zeros((1, 2)), np.ones((1, 2)))
    assert value[0, 0] == pytest.approx(1.0, abs=1e-12)
    assert error[0, 0] < 1e-15
    assert np.isnan(value[0, 1])
    assert error[0, 1] == 0.0


@pytest.mark.parametrize("late", [False, True])
def test_missing_entries_of_few_factors_are_found(late: bool) -> None:
    rng = np.random.default_rng(2)
    y = 3.0 + rng.standard_normal((40, 3)) @ rng.standard_normal((3, 30))
    gaps = rng.random(y.shape) < 0.3
    if late:
        gaps = np.arange(30) > np.where(np.arange(40) < 20, rng.integers(8, 30, 40), 30)[:, None]
    filled, factors = partial.fill_in(np.where(gaps, np.nan, y), 10)
    assert 3 <= factors <= 5
    np.testing.assert_allclose(filled, y, atol=1e-4)
    np.testing.assert_array_equal(filled[~gaps], y[~gaps])


# ------------------------------------------------------------------------------- against the exact posterior
class Toy(NamedTuple):
    """Independent scores from known processes, and runs that miss entries."""

    x: np.ndarray
    basis: OutputBasis
    y: np.ndarray  # (n, m), NaN where missing
    truth: np.ndarray  # (NEW, m), without truncation


def toy(late: bool, seed: int, n: int = 30, m: int = 10, q: int = 4) -> Toy:
    rng = np.random.default_rng([seed, late])
    x, t = rng.random((n + NEW, 2)), np.linspace(0.0, 1.0, m)
    values, vectors = np.linalg.eigh(np.exp(-0.5 * ((t[:, None] - t) / 0.25) ** 2))
    b = vectors[:, ::-1][:, :q] * np.sqrt(values[::-1][:q])
    one = basis_of(b, 1e-2 * rng.standard_normal((m, 3)))
    lower = np.linalg.cholesky(correlation(Matern52(), x, x, np.full(2, 0.6)) + 1e-10 * np.eye(len(x)))
    truth = one.offset + lower @ rng.standard_normal((len(x), q)) @ b.T
    y = truth[:n] + rng.standard_normal((n, 3)) @ one.truncation.T
    gaps = rng.random(y.shape) < 0.3
    if late:
        gaps = t > np.where(x[:n, 0] > 0.4, rng.uniform(0.1, 0.9, n), 1.0)[:, None]
    return Toy(x, one, np.where(gaps, np.nan, y), truth[n:])


def exact(given: Toy) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance at the new points from all entries jointly."""
    n, b = len(given.y), given.basis.basis
    run, at = np.nonzero(np.isfinite(given.y))
    kappa = correlation(Matern52(), given.x, given.x, np.full(2, 0.6))
    covariance = kappa[np.ix_(run, run)] * (b @ b.T)[np.ix_(at, at)]
    rest = given.basis.truncation @ given.basis.truncation.T
    covariance += (run[:, None] == run) * rest[np.ix_(at, at)] + 1e-12 * np.eye(len(run))
    cross = kappa[n:][:, None, run] * (b @ b.T)[None, :, at]
    weights = np.linalg.solve(covariance, cross.reshape(-1, len(run)).T).T.reshape(cross.shape)
    mean = given.basis.offset + weights @ (given.y[run, at] - given.basis.offset[at])
    return mean, np.sum(b**2, axis=1) - np.sum(weights * cross, axis=-1)


def ours(given: Toy) -> tuple[np.ndarray, np.ndarray]:
    """Return the same from processes of single scores, with known hyperparameters."""
    n, q = len(given.y), given.basis.basis.shape[1]
    found = partial.information(given.basis, given.y, 1e-8)
    lacking = np.flatnonzero(np.isnan(given.y).any(axis=1))
    some = partial.Information(found.root[lacking], found.right[lacking])
    turn = partial._turn(given.basis.basis, some)
    known = Hyperparameters(np.full(2, 0.6), 1.0, 1e-12, 0.0, 1, False)
    y = (given.y - given.basis.offset) @ np.linalg.pinv(given.basis.basis @ turn).T
    noise = np.zeros(y.shape)
    mean, variance = np.zeros((len(lacking), q)), np.full((len(lacking), q), float(len(lacking)))
    for _ in range(2):
        turned = partial.Information(some.root @ turn, some.right)
        y[lacking], noise[lacking] = partial.values_of(turned, mean, variance)
        process = condition(Matern52(), given.x[:n], y, 0, [known] * q, [1.0] * q, noise=noise)
        mean, variance = partial._from_others(process, lacking)
        variance *= partial.CAUTION
    scores = scores_at(process, given.x[n:], diagonal=True)
    b = given.basis.basis @ turn
    return given.basis.offset + scores.mean[0] @ b.T, scores.covariance[0].T @ (b**2).T


@pytest.mark.parametrize("late", [False, True])
def test_predictions_are_close_to_the_exact_posterior(late: bool) -> None:
    off, width, errors = np.transpose([_against_exact(toy(late, seed)) for seed in range(8)])
    assert abs(errors.mean() - 1.0) < 4.0 * errors.std(ddof=1) / np.sqrt(8)
    assert width.min() > 0.99  # never more certain than the exact posterior
    assert width.mean() < 1.08
    assert off.mean() < (0.2 if late else 0.05)


def _against_exact(given: Toy) -> tuple[float, float, float]:
    """Return the square of the difference over the exact variance, the ratio of sds, and the square error over ours."""
    (mean, variance), (wanted, least) = ours(given), exact(given)
    off = np.mean((mean - wanted) ** 2) / np.mean(least)
    width = np.mean(np.sqrt(variance)) / np.mean(np.sqrt(least))
    return float(off), float(width), float(np.mean((mean - given.truth) ** 2) / np.mean(variance))


# ----------------------------------------------------------------------------------- surrogates of such runs
class Case(NamedTuple):
    """Curves from known processes: all runs, the same ones with gaps, those without gaps, and new points."""

    whole: xr.Dataset
    gaps: xr.Dataset
    only: xr.Dataset | None
    at: dict[str, np.ndarray]
    truth: np.ndarray


def case(late: bool, seed: int, n: int = 30, m: int = 12) -> Case:
    rng = np.random.default_rng([seed, n, m])
    made = uq.latin_hypercube(SPACE, n, rng=rng)
    x = np.vstack([np.column_stack([made["a"], made["b"]]), rng.random((NEW, 2))])
    t = np.linspace(0.0, 1.0, m)
    values, vectors = np.linalg.eigh(np.exp(-0.5 * ((t[:, None] - t) / 0.25) ** 2))
    b = vectors[:, ::-1][:, :4] * np.sqrt(values[::-1][:4])
    scores = np.empty((len(x), 4))
    for j in range(4):
        kappa = correlation(Matern52(), x, x, np.exp(rng.uniform(np.log(0.5), np.log(1.5), 2)))
        scores[:, j] = np.linalg.cholesky(kappa + 1e-10 * np.eye(len(x))) @ rng.standard_normal(len(x))
    y = 2.0 + scores @ b.T
    gaps = rng.random((n, m)) < 0.3
    gaps[gaps.all(axis=1), 0] = False
    if late:
        gaps = t > np.where(x[:n, 0] > 0.4, rng.uniform(0.1, 0.9, n), 1.0)[:, None]

    def ensemble(values: np.ndarray, rows: np.ndarray) -> xr.Dataset:
        states = ["completed" if np.isfinite(row).all() else "partial" for row in values[rows]]
        curve = xr.DataArray(values[rows], dims=("run", "t"), coords={"t": t})
        return uq.ensemble.build(made.isel(run=rows), {"y": curve}, states=states, space=SPACE)

    every, full = np.arange(n), np.flatnonzero(~gaps.any(axis=1))
    lacking = np.where(gaps, np.nan, y[:n])
    only = ensemble(lacking, full) if len(full) >= 4 else None
    at = {"a": x[n:, 0], "b": x[n:, 1]}
    return Case(ensemble(y[:n], every), ensemble(lacking, every), only, at, y[n:])


def fit(runs: xr.Dataset, **options: object) -> GaussianProcessSurrogate:
    return uq.GaussianProcess(hyperparameters="point", **options).fit(runs)  # type: ignore[arg-type]


def judged(surrogate: GaussianProcessSurrogate, given: Case) -> tuple[float, float]:
    """Return the mean square error and the coverage of 95 % intervals at the new points."""
    prediction = surrogate.predict(given.at)
    low, high = prediction.interval(0.95)["y"].values
    inside = np.mean((given.truth >= low) & (given.truth <= high))
    return float(np.mean((prediction.mean["y"].values - given.truth) ** 2)), float(inside)


@pytest.fixture(scope="module", params=[False, True], ids=["random", "late"])
def cases(request: pytest.FixtureRequest) -> tuple[bool, list[Case], list[GaussianProcessSurrogate]]:
    given = [case(request.param, seed) for seed in range(4)]
    return request.param, given, [fit(one.gaps) for one in given]


@pytest.mark.slow
def test_errors_and_coverage_beside_complete_runs(
    cases: tuple[bool, list[Case], list[GaussianProcessSurrogate]],
) -> None:
    late, given, surrogates = cases
    error, inside = np.transpose([judged(one, each) for one, each in zip(surrogates, given, strict=True)])
    complete, covered = np.transpose([judged(fit(each.whole), each) for each in given])
    rest = [judged(fit(each.only), each)[0] for each in given if each.only is not None]
    assert np.sqrt(error.mean() / complete.mean()) < (1.6 if late else 1.05)
    assert np.sqrt(error.mean()) < 0.35 * np.sqrt(np.mean(rest)) if late else not rest
    spread = np.std(inside - covered, ddof=1) / np.sqrt(len(given))
    assert abs(inside.mean() - covered.mean()) < 0.02 + 3.0 * spread
    assert inside.mean() > 0.88  # of point-estimated hyperparameters


def test_with_few_coordinates_runs_still_help() -> None:
    """Of 6 coordinates with 4 scores a missing one takes much away."""
    given = [case(False, seed, n=40, m=6) for seed in (1, 2)]
    error, inside = np.transpose([judged(fit(each.gaps), each) for each in given])
    rest = [judged(fit(each.only), each)[0] for each in given if each.only is not None]
    assert rest
    assert np.sqrt(error.mean()) < 0.6 * np.sqrt(np.mean(rest))
    assert inside.mean() > 0.88


def test_complete_runs_are_fitted_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the same bit: nothing of partial runs is called."""
    given = case(True, 1)
    expected = fit(given.whole).predict(given.at)
    for name in ("fit_partial", "refined"):
        monkeypatch.delattr(gp, name)
    found = fit(given.whole)
    assert not found.process.noise.any()
    assert found.predict(given.at).variance.identical(expected.variance)
    assert "in part" not in repr(found)


def test_other_outputs_stay_as_they_are(cases: tuple[bool, list[Case], list[GaussianProcessSurrogate]]) -> None:
    _, given, surrogates = cases
    flow = np.cos(2.0 * given[0].gaps["a"] + given[0].gaps["b"])
    inputs = given[0].gaps[["a", "b"]]
    states = [uq.ensemble.RunState(value).name.lower() for value in given[0].gaps["state"].values]
    outputs = {"y": given[0].gaps["y"], "flow": flow.values}
    both = fit(uq.ensemble.build(inputs, outputs, space=SPACE, states=states))
    alone = fit(uq.ensemble.build(inputs, {"flow": flow.values}, space=SPACE))
    a, b = both.predict(given[0].at), alone.predict(given[0].at)
    np.testing.assert_allclose(a.mean["flow"], b.mean["flow"], rtol=1e-9)
    np.testing.assert_allclose(a.sd["flow"], b.sd["flow"], rtol=1e-4)
    np.testing.assert_allclose(a.mean["y"], surrogates[0].predict(given[0].at).mean["y"], rtol=1e-6, atol=1e-8)


def test_the_order_of_runs_matters_little(cases: tuple[bool, list[Case], list[GaussianProcessSurrogate]]) -> None:
    """Folds and left-out entries follow it, as they do with complete runs."""
    _, given, surrogates = cases
    order = np.random.default_rng(1).permutation(given[2].gaps.sizes["run"])
    a, b = (one.predict(given[2].at) for one in (surrogates[2], fit(given[2].gaps.isel(run=order))))
    difference = (a.mean["y"] - b.mean["y"]) / a.sd["y"]
    assert float(np.sqrt((difference**2).mean())) < 0.3
    assert 0.8 < float(a.sd["y"].mean() / b.sd["y"].mean()) < 1.25


def test_draws_and_compiled_code_are_those_of_the_prediction(
    cases: tuple[bool, list[Case], list[GaussianProcessSurrogate]],
) -> None:
    _, given, surrogates = cases
    surrogate, n = surrogates[0], 3000
    u = np.random.default_rng(1).random((1, 4, 2))
    mean, covariance = scores_flat(surrogate.process.flat(), u[0])
    wanted = scores_at(surrogate.process, u)
    np.testing.assert_allclose(mean, wanted.mean[:, 0], atol=1e-8)
    np.testing.assert_allclose(covariance, wanted.covariance[:, 0], atol=1e-9)
    prediction = surrogate.predict({name: values[:5] for name, values in given[0].at.items()})
    draws, sd = prediction.draws(n, rng=2)["y"], prediction.sd["y"]
    assert (np.abs(draws.mean("draw") - prediction.mean["y"]) <= 4.5 * sd / np.sqrt(n)).all()
    np.testing.assert_allclose(draws.std("draw"), sd, rtol=0.12)
    # At a run that misses entries the function is not known, whatever its scores' values are.
    process = surrogate.process
    run = int(np.argmax(process.noise.max(axis=0)))
    score = int(np.argmax(process.noise[:, run]))
    own = scores_at(process, process.x[run : run + 1], diagonal=True).covariance[0, score, 0]
    spread = surrogate.functions(500, 1, anchors=0)(process.x[run : run + 1])[:, 0, score].var()
    assert spread == pytest.approx(own, rel=0.3)


def test_the_likelihood_is_its_definition(cases: tuple[bool, list[Case], list[GaussianProcessSurrogate]]) -> None:
    _, given, surrogates = cases
    grid = given[0].whole["t"].values
    data = xr.DataArray(given[0].truth[3] + 0.05, dims="t", coords={"t": grid}, name="y")
    problem = uq.Calibration(surrogates[0], data, noise=uq.GaussianNoise(sd=0.2))
    at = {"a": 0.3, "b": 0.6}
    mean, covariance = dense_covariance(problem, at, np.array([0.2]))
    expected = multivariate_normal(mean, covariance).logpdf(problem.cells.z)
    assert problem.log_likelihood(at) == pytest.approx(expected, rel=1e-7)


def test_it_is_saved(cases: tuple[bool, list[Case], list[GaussianProcessSurrogate]], tmp_path: Path) -> None:
    _, given, surrogates = cases
    surrogates[0].save(tmp_path / "x.npz")
    same = uq.load_surrogate(tmp_path / "x.npz")
    np.testing.assert_array_equal(same.process.noise, surrogates[0].process.noise)
    a, b = (one.predict(given[0].at) for one in (surrogates[0], same))
    assert a.draws(2, rng=1).identical(b.draws(2, rng=1))
    assert repr(same) == repr(surrogates[0])
    with np.load(tmp_path / "x.npz") as held:
        assert json.loads(held["header"].tobytes())["version"] == 4
    process = replace(surrogates[0].process)
    object.__setattr__(process, "noise", process.noise[:, 1:])
    replace(surrogates[0], process=process).save(tmp_path / "y.npz")
    with pytest.raises(FormatError, match="process.noise has shape"):
        uq.load_surrogate(tmp_path / "y.npz")
    with pytest.raises(InputError, match=r"noise has shape .*; give \(q, n\)"):
        replace(surrogates[0].process, noise=process.noise)


def test_known_errors_stay_with_their_scores_when_others_are_dropped() -> None:
    """Volumes with an identity drop a score; those of the partial curve behind it keep their own errors."""
    given = case(True, 1)
    a, b = (given.gaps[name].values for name in ("a", "b"))
    volumes = {"edv": np.sin(2.0 * a + b), "esv": np.cos(3.0 * a * b)}
    volumes["sv"] = volumes["edv"] - volumes["esv"]
    more = given.gaps.assign({name: given.gaps["a"].copy(data=one) for name, one in volumes.items()})
    for name in volumes:
        more[name].attrs = {**given.gaps["y"].attrs}
    names = [*volumes, "y"]
    together = fit(more[[*(n for n in more.data_vars if n not in names), *names]])
    alone = fit(given.gaps)
    assert together.process.q == alone.process.q + 2
    np.testing.assert_array_equal(together.process.noise[2:], alone.process.noise)
    found, expected = (one.predict(given.at).mean["y"].values for one in (together, alone))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_runs_that_have_the_whole_curve_are_counted() -> None:
    given = case(True, 1)
    surrogate = fit(given.gaps)
    whole = np.flatnonzero(given.gaps["state"] == uq.ensemble.RunState.COMPLETED)
    assert f"30 runs (0 left out, {30 - len(whole)} in part)" in repr(surrogate)
    found = uq.leave_one_out(surrogate)
    assert list(np.flatnonzero(np.isfinite(found.mean["y"].values).all(axis=1))) == list(whole)
    np.testing.assert_allclose(found.observed["y"][whole], given.whole["y"][whole], atol=2e-2)
    assert 0.9 < found.table.loc["y", "q2"] < 1.0
    with pytest.raises(InputError, match="runs that lack an output"):
        uq.compare_surrogates({name: uq.GaussianProcess(hyperparameters="point") for name in "ab"}, given.gaps)
    none = given.gaps.copy(deep=True)
    none["y"][whole, 3], none["state"][whole] = np.nan, uq.ensemble.RunState.PARTIAL
    none["y"][:, 3] = np.where(np.arange(30) % 4 == 0, given.whole["y"][:, 3], np.nan)
    none["y"][::4, 2] = np.nan
    with pytest.raises(DataError, match="leave_one_out: 0 of 30 runs have the whole of output 'y'; at least two"):
        uq.leave_one_out(fit(none))
    with pytest.raises(DataError, match="k_fold: 0 completed runs; at least two are needed, and partial"):
        uq.k_fold(uq.GaussianProcess(), none)


def test_a_coordinate_that_few_runs_have_is_named() -> None:
    given = case(False, 1)
    given.gaps["y"][1:, 11] = np.nan
    given.gaps["state"][:] = uq.ensemble.RunState.PARTIAL
    with pytest.raises(DesignError, match=r"of 30 runs have output 'y' at t = 1; at least d \+ 2 = 4"):
        fit(given.gaps)


def test_stochastic_simulators_and_cheap_models_leave_partial_curves_out() -> None:
    given = case(True, 1)
    physics = uq.Physics(lambda inputs: {"y": np.multiply.outer(inputs["a"], np.linspace(0.0, 1.0, 12))})
    assert fit(given.gaps, mean=physics).runs == given.only.sizes["run"]


def test_curves_with_a_transform_stay_positive() -> None:
    given = case(True, 2)
    runs = given.gaps.assign(y=np.exp(given.gaps["y"]))
    found = fit(runs, outputs={"y": uq.Curve(transform="log")})
    low, high = found.predict(given.at).interval(0.95)["y"].values
    assert (low > 0.0).all()
    assert np.mean((np.exp(given.truth) >= low) & (np.exp(given.truth) <= high)) > 0.85


def test_a_run_without_the_curve_says_nothing_of_it() -> None:
    given = case(True, 2)
    lacking = given.gaps.copy(deep=True)
    lacking["y"][4] = np.nan
    states = [uq.ensemble.RunState(value).name.lower() for value in lacking["state"].values]
    states[4] = "partial"
    outputs = {"flow": np.cos(lacking["a"].values), "y": lacking["y"]}
    found = fit(uq.ensemble.build(lacking[["a", "b"]], outputs, space=SPACE, states=states))
    assert found.runs == 30
    assert found.process.known(0)[4]
    assert not any(found.process.known(j)[4] for j in range(1, found.process.q))
    assert 4 not in found.whole("y")


def test_a_coordinate_that_one_fold_has_alone() -> None:
    rng = np.random.default_rng(0)
    y = rng.standard_normal((30, 2)) @ rng.standard_normal((2, 9))
    y[np.setdiff1d(np.arange(30), [0, 10, 20]), 8] = np.nan
    layout = Layout(("t",), {"t": np.arange(9.0)})
    basis, scores, runs = partial.fit_partial("y", layout, y, uq.Curve(), 3)
    assert np.isfinite(basis.truncation).all()
    assert np.isfinite(scores).all()
    assert runs is not None
    assert len(runs.rows) == 27


def test_an_output_that_is_constant_and_a_field_with_gaps() -> None:
    rng = np.random.default_rng(0)
    y = np.full((6, 5), 2.0)
    y[0, 1] = np.nan
    basis, scores, runs = partial.fit_partial("y", Layout(("t",), {"t": np.arange(5.0)}), y, uq.Curve(), 3)
    assert runs is None
    assert not scores.any()
    np.testing.assert_array_equal(basis.offset, 2.0)
    field = rng.standard_normal((14, 2)) @ rng.standard_normal((2, 12))
    layout = Layout(("a", "b"), {"a": np.arange(3.0), "b": np.arange(4.0)})
    lacking = np.where(rng.random(field.shape) < 0.2, np.nan, field)
    basis, scores, _ = partial.fit_partial("y", layout, lacking, uq.Curve(), 4)
    np.testing.assert_allclose(basis.offset + scores @ basis.basis.T, field, atol=1e-3)

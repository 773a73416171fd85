"""Probabilities of events: against the exact model, by their own derivatives, on disk, and over many boundaries."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import multivariate_normal, norm

import uqms as uq
from uqms._typing import Array
from uqms.errors import DataError, DesignError, FormatError, InputError, UnsafeFileError
from uqms.surrogates import FittedProbability, expectation, reliability
from uqms.surrogates.classification import MEAN_VARIANCE, _Labelled
from uqms.surrogates.expectation import evidence_slope, settle
from uqms.surrogates.kernels import Matern52, correlation

SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.LogUniform(1.0, 10.0))


def works(a: Array, b: Array) -> Array:
    return np.asarray(a + 0.25 * np.sin(5.0 * np.log10(b)) < 0.7)


def ensemble(n: int, seed: int) -> xr.Dataset:
    design = uq.sobol(SPACE, n, rng=seed)
    ok = works(design["a"].values, design["b"].values)
    y = np.where(ok, design["a"].values, np.nan)
    return uq.ensemble.build(design, {"y": y}, states=np.where(ok, "completed", "failed"))


@pytest.fixture(scope="module")
def success() -> FittedProbability:
    return uq.SuccessProbability().fit(ensemble(48, 1))


def orthant(covariance: Array) -> float:
    """Return the probability that all of a normal vector of mean zero are positive."""
    rule = multivariate_normal(np.zeros(len(covariance)), covariance, allow_singular=True, seed=1)
    return float(rule.cdf(np.zeros(len(covariance))))


def test_probabilities_and_evidence_are_those_of_the_exact_model() -> None:
    """Bayes' rule for three labels is a ratio of orthant probabilities of f + noise."""
    x, y = np.array([[0.1], [0.5], [0.6]]), np.array([1.0, 1.0, -1.0])
    u = np.array([[0.0], [0.3], [0.55], [0.9]])
    every = np.vstack([x, u])
    K = 9.0 * correlation(Matern52(), every, every, np.array([0.4])) + MEAN_VARIANCE
    sites = settle(K[:3, :3], y)
    signs = np.append(y, 1.0)
    exact, found = [], []
    for i in range(3, 7):
        rows = [0, 1, 2, i]
        joint = (K[np.ix_(rows, rows)] + np.eye(4)) * np.outer(signs, signs)
        exact.append(orthant(joint) / orthant(joint[:3, :3]))
        labelled = _Labelled(x, y, Matern52(), False)
        fitted = _point(labelled, np.log([0.4, 3.0]))
        found.append(float(fitted.probability_at(every[i])))
    assert sites.log_evidence == pytest.approx(np.log(orthant(joint[:3, :3])), abs=0.01)
    np.testing.assert_allclose(found, exact, atol=0.01)


def _point(labelled: _Labelled, p: Array) -> FittedProbability:
    """Return the fitted value at given hyperparameters."""
    from uqms.surrogates.expectation import solved

    one = labelled.parts(p)
    K, shift = labelled.covariance(one)
    factor, b = solved(K, settle(K, labelled.y, shift))
    d = labelled.x.shape[1]
    box = uq.Box(tuple("abc"[:d]), (0.0,) * d, (1.0,) * d)
    return FittedProbability(
        "event", box, labelled.kernel, labelled.x, labelled.y > 0, one.ell[None], np.array([one.sd**2]), np.zeros(1),
        b[None], factor[None], np.zeros(1), np.zeros(len(labelled.x)),
    )  # fmt: skip


def test_sites_one_by_one_are_those_of_all_at_once() -> None:
    x = np.linspace(0.0, 1.0, 30)[:, None]
    y = np.where(x[:, 0] > 0.8, -1.0, 1.0)
    K = 25.0 * correlation(Matern52(), x, x, np.array([0.5])) + 1.0
    alike = 1e4 * correlation(Matern52(), x, x, np.array([100.0])) + 1.0  # where all at once swing
    both = settle(K, y), expectation._one_by_one(K, y, np.zeros(30), np.full(30, 1e-10), np.zeros(30))
    assert both[0].log_evidence == pytest.approx(both[1].log_evidence, abs=1e-4)
    np.testing.assert_allclose(both[0].mean, both[1].mean, atol=1e-3)
    assert np.isfinite(settle(alike, np.ones(30)).log_evidence)


def test_gradient_of_the_evidence_is_that_of_differences() -> None:
    rng = np.random.default_rng(3)
    x = rng.random((25, 2))
    y = np.where(x[:, 0] + 0.3 * x[:, 1] > 0.6, 1.0, -1.0)
    C = np.exp(-((x[:, None, 0] - x[None, :, 0]) ** 2)) * 4.0
    for labelled in (
        _Labelled(x, y, Matern52(), False),
        _Labelled(x, y, uq.Matern32() + uq.SquaredExponential(), True),
        _Labelled(x, y, Matern52(), True, x[:, 1] - 0.5, C),
    ):
        p = labelled.prior[0] * 0.9
        value, gradient = labelled.negative(p)
        steps = 1e-3 * np.eye(len(p))
        differences = [(labelled.negative(p + e)[0] - labelled.negative(p - e)[0]) / 2e-3 for e in steps]
        np.testing.assert_allclose(gradient, differences, rtol=2e-2, atol=2e-2)
        assert np.isfinite(value)
    slope, b = evidence_slope(C + 1.0, settle(C + 1.0, y, x[:, 1]))
    moved = [settle(C + 1.0, y, x[:, 1] + sign * 1e-3).log_evidence for sign in (1.0, -1.0)]
    assert b.sum() == pytest.approx((moved[0] - moved[1]) / 2e-3, rel=1e-2)
    assert np.allclose(slope, slope.T)


def test_slope_of_the_log_probability_is_that_of_differences(success: FittedProbability) -> None:
    u = np.random.default_rng(0).random((4, 2))
    steps = 1e-5 * np.eye(2)
    plus, minus = (np.stack([success.log_probability_at(u + s * e) for e in steps], -1) for s in (1.0, -1.0))
    np.testing.assert_allclose(success.log_slope(u), (plus - minus) / 2e-5, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_probabilities_are_honest_over_many_boundaries() -> None:
    """Straight boundaries of random place and direction, 24 runs each: said and seen agree, and Brier is small."""
    rng = np.random.default_rng(5)
    said, seen = [], []
    for _ in range(8):
        x, u = rng.random((24, 2)), rng.random((300, 2))
        direction, place = rng.standard_normal(2), rng.random(2) * 0.5 + 0.25
        labels, truth = ((points - place) @ direction > 0.0 for points in (x, u))
        if not 0 < labels.sum() < 24:
            continue
        runs = uq.ensemble.build({"a": x[:, 0], "b": x[:, 1]}, {"y": labels.astype(float)})
        event = uq.EventProbability(lambda table: table["y"] > 0).fit(runs)
        said.append(event.probability({"a": u[:, 0], "b": u[:, 1]}))
        seen.append(truth)
    p, happened = np.concatenate(said), np.concatenate(seen)
    assert np.mean((p - happened) ** 2) < 0.08
    curve = reliability(p, happened, 5)
    assert np.average(np.abs(curve["said"] - curve["happened"]), weights=curve["count"]) < 0.06
    assert curve["happened"].iloc[0] < 0.05
    assert curve["happened"].iloc[-1] > 0.95
    assert abs(p.mean() - happened.mean()) < 0.05


def test_left_out_probabilities_are_those_of_fits_without_the_run(success: FittedProbability) -> None:
    """Expectation propagation's cavities against conditioning on the other labels, hyperparameters as they are."""
    h = 3
    y = np.where(success.labels, 1.0, -1.0)
    K = success.variance[h] * correlation(success.kernel, success.x, success.x, success.ell[h]) + MEAN_VARIANCE
    sites = settle(K, y)
    for i in (0, 7, 20):
        rest = np.delete(np.arange(len(y)), i)
        other = settle(K[np.ix_(rest, rest)], y[rest])
        from uqms.surrogates.expectation import solved

        factor, b = solved(K[np.ix_(rest, rest)], other)
        mean, half = K[i, rest] @ b, factor @ K[i, rest]
        without = norm.cdf(mean / np.sqrt(1.0 + K[i, i] - half @ half))
        said = norm.cdf(sites.cavity_mean[i] / np.sqrt(1.0 + sites.cavity_variance[i]))
        assert said == pytest.approx(without, abs=0.02)


def test_states_that_count() -> None:
    states = ["completed", "failed", "timeout", "invalid", "partial", "planned", "completed", "completed"]
    values = np.array([1.0, np.nan, np.nan, np.nan, 1.0, np.nan, 1.0, 1.0])
    other = np.where(np.array(states) == "partial", np.nan, values)
    runs = uq.ensemble.build({"a": np.linspace(0, 1, 8)}, {"y": values, "z": other}, states=states)
    fit = lambda **settings: uq.SuccessProbability(hyperparameters="point", **settings).fit(runs).labels.tolist()  # noqa: E731
    assert fit() == [True, False, False, False, True, True, True]
    assert fit(partial="failure") == [True, False, False, False, False, True, True]
    assert fit(partial="ignore") == [True, False, False, False, True, True]
    assert fit(timeout="ignore") == [True, False, False, True, True, True]


def test_all_succeeded_and_all_failed() -> None:
    a = np.linspace(0.0, 1.0, 40)
    fine = uq.ensemble.build({"a": a}, {"y": a})
    p = uq.SuccessProbability().fit(fine).probability({"a": np.linspace(0.0, 1.0, 21)})
    assert p.min() > 0.9  # none of 40 failed
    failed = uq.ensemble.build({"a": a}, {"y": np.full(40, np.nan)}, states=["failed"] * 40)
    with pytest.raises(DataError, match="None of the 40 runs"):
        uq.SuccessProbability().fit(failed)
    with pytest.raises(DesignError, match="two different inputs"):
        uq.SuccessProbability().fit(fine.isel(run=[0]))


def test_function_draws_have_the_law_of_the_latent_function(success: FittedProbability) -> None:
    u = np.vstack([np.random.default_rng(2).random((6, 2)), [[0.7, 0.2]]])
    draws = success.functions(4000, 1)
    values = draws(u)
    mean, covariance = success.moments(u, u)
    error = np.sqrt(np.diag(covariance) / 4000)
    assert (np.abs(values.mean(axis=0) - mean) < 5.0 * error).all()
    np.testing.assert_allclose(values.var(axis=0), np.diag(covariance), rtol=0.25)
    correlations = np.corrcoef(values.T), covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert np.abs(correlations[0] - correlations[1]).max() < 0.15
    np.testing.assert_allclose(draws(u[:3]), values[:, :3], atol=1e-4)
    near = draws(u + 1e-6)
    assert np.abs(near - values).max() < 1e-2 * values.std()


def test_saves_without_pickle(success: FittedProbability, tmp_path: Path) -> None:
    path = success.save(tmp_path / "success.npz")
    same = FittedProbability.load(path)
    points = {"a": [0.2, 0.8], "b": 2.0}
    assert (same.probability(points) == success.probability(points)).all()
    assert (same.labels == success.labels).all()
    assert same.domain == success.domain
    with pytest.raises(FormatError, match="no surrogate"):
        uq.load_surrogate(path)
    (tmp_path / "bad.npz").write_bytes(b"\x80\x04nonsense")
    with pytest.raises(UnsafeFileError):
        FittedProbability.load(tmp_path / "bad.npz")


def test_two_levels_need_fewer_expensive_labels(tmp_path: Path) -> None:
    """A cheap boundary that is shifted: with 12 expensive labels two levels beat these alone."""
    rng = np.random.default_rng(4)
    low, high, u = rng.random((100, 2)), rng.random((12, 2)), rng.random((2000, 2))

    def event(x: Array, shift: float) -> Array:
        return x[:, 0] - 0.3 * np.sin(6.0 * x[:, 1]) > 0.5 + shift

    x = np.vstack([low, high])
    happened = np.concatenate([event(low, 0.05), event(high, 0.0)])
    level = np.array(["cheap"] * 100 + ["fine"] * 12)
    runs = uq.ensemble.build({"a": x[:, 0], "b": x[:, 1]}, {"y": happened.astype(float)}, fidelity=level)
    both = uq.EventProbability(lambda t: t["y"], levels=("cheap", "fine"), hyperparameters="point").fit(runs)
    alone = uq.EventProbability(lambda t: t["y"], hyperparameters="point").fit(runs.isel(run=np.arange(100, 112)))
    points = {"a": u[:, 0], "b": u[:, 1]}
    errors = [np.mean((one.probability(points) - event(u, 0.0)) ** 2) for one in (both, alone)]
    assert errors[0] < 0.5 * errors[1]
    assert errors[0] < 0.05
    same = FittedProbability.load(both.save(tmp_path / "two.npz"))
    assert (same.probability(points) == both.probability(points)).all()
    with pytest.raises(DataError, match="no completed run has the fidelity 'other'"):
        uq.EventProbability("y", levels=("cheap", "other")).fit(runs)


def test_what_cannot_be_meant() -> None:
    with pytest.raises(InputError, match="partial"):
        uq.SuccessProbability(partial="maybe")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="timeout"):
        uq.SuccessProbability(timeout="x")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="kernel"):
        uq.SuccessProbability(kernel="rbf")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="event"):
        uq.EventProbability(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="levels"):
        uq.EventProbability("y", levels="ab")  # type: ignore[arg-type]
    runs = uq.ensemble.build({"a": np.linspace(0, 1, 4)}, {"y": np.linspace(0, 1, 4)})
    with pytest.raises(InputError, match="no variable"):
        uq.EventProbability("z").fit(runs)
    with pytest.raises(DataError, match="whole numbers"):
        uq.EventProbability("y").fit(runs)
    with pytest.raises(InputError, match="probabilities"):
        reliability(np.array([1.2]), np.array([True]))


def test_the_least_sure_inputs_lie_at_the_border_and_apart(success: FittedProbability) -> None:
    design = success.unsure(6, rng=1)
    assert design.sizes["run"] == 6
    p = success.probability(design)
    assert np.median(np.abs(p - 0.5)) < 0.2
    u = success.domain.to_unit(np.column_stack([design["a"].values, design["b"].values]))
    apart = np.linalg.norm(u[:, None] - u[None, :], axis=-1)[np.triu_indices(6, 1)]
    assert apart.min() > 0.03
    assert success.unsure(6, rng=1).equals(design)
    assert "space" in design.attrs  # uq.run takes it
    with pytest.raises(InputError, match="unsure: n is 0"):
        success.unsure(0)


def test_labels_and_levels_that_would_be_mixed() -> None:
    design = uq.sobol(uq.ParameterSpace(a=uq.Uniform(0.0, 1.0)), 12, rng=1)
    a = design["a"].values
    one = uq.ensemble.build(design, {"y": a}, fidelity="coarse")
    both = uq.ensemble.combine(one, uq.ensemble.build(design, {"y": a}, fidelity="fine"))
    for labels, told in (
        (np.where(a < 0.5, 1, 2), r"event holds \[1, 2\]"),
        (np.where(a < 0.5, "no", "yes"), "event holds '(no|yes)'"),
        (np.where(a < 0.5, np.inf, 0.0), "event holds inf"),
    ):
        with pytest.raises(DataError, match=told):
            uq.EventProbability(lambda runs, labels=labels: labels).fit(one)
    for settings in (uq.EventProbability(lambda runs: runs["y"] > 0.5), uq.SuccessProbability()):
        with pytest.raises(DataError, match="several levels of fidelity"):
            settings.fit(both)
    third = uq.ensemble.combine(both, uq.ensemble.build(design, {"y": a}, fidelity="finest"))
    with pytest.raises(InputError, match="'finest' too"):
        uq.EventProbability(lambda runs: runs["y"] > 0.5, levels=("coarse", "fine")).fit(third)
    with pytest.raises(InputError, match="give two names"):
        uq.EventProbability("y", levels=(1, 2))  # type: ignore[arg-type]


def test_both_levels_have_one_box() -> None:
    def level(name: str, a: Any) -> Any:
        return uq.ensemble.build({"a": a}, {"y": a}, fidelity=name)

    runs = uq.ensemble.combine(level("coarse", np.linspace(0.2, 0.6, 9)), level("fine", np.linspace(0.0, 1.0, 6)))
    found = uq.EventProbability(
        lambda runs: runs["y"].values > 0.5, levels=("coarse", "fine"), hyperparameters="point"
    ).fit(runs)
    assert found.base is not None
    assert (found.x.min(), found.x.max()) == (0.0, 1.0)
    assert found.base.domain.upper == found.domain.upper == (1.0,)

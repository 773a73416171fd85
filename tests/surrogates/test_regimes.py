"""Jumps are found and smooth functions left alone; a surrogate with regimes obeys the protocol."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm

import uqms as uq
from uqms._typing import Array
from uqms.errors import ConformanceError, DataError, DesignError, FormatError, InputError, RegimeWarning
from uqms.surrogates import RegimeSurrogate
from uqms.surrogates.jumps import find_jumps, two_regimes

SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))


def jumping(a: Array, b: Array) -> tuple[Array, Array]:
    upper = a + 0.3 * np.sin(4.0 * b) > 0.75
    return np.where(upper, 3.0 + np.sin(3.0 * a) * b, np.cos(3.0 * b) * a), upper


def ensemble(n: int, seed: int = 1) -> xr.Dataset:
    design = uq.sobol(SPACE, n, rng=seed)
    y, _ = jumping(design["a"].values, design["b"].values)
    return uq.ensemble.build(design, {"y": y}, space=SPACE)


@pytest.fixture(scope="module")
def surrogate() -> RegimeSurrogate:
    settings = uq.Regimes(regression=uq.GaussianProcess(hyperparameters="point"))
    fitted = settings.fit(ensemble(40))
    assert isinstance(fitted, RegimeSurrogate)
    return fitted


# ------------------------------------------------------------------------------------------------------------- finding
def split(function: Any, d: int, n: int) -> Any:
    x = np.column_stack(
        [uq.sobol(uq.Box(tuple("abcdef"[:d]), (0.0,) * d, (1.0,) * d), n, rng=3)[c] for c in "abcdef"[:d]]
    )
    y = function(x)[:, None]
    return x, two_regimes(x, (y - y.mean()) / y.std(), np.ones(1))


@pytest.mark.parametrize(
    ("function", "d"),
    [
        (lambda x: np.sin(6.0 * x[:, 0]) + x[:, 1] ** 2, 2),
        (lambda x: 1.0 / (1.0 + np.exp(-15.0 * (x[:, 0] - 0.5))), 2),  # steep, but no jump
        (lambda x: np.abs(x[:, 0] - 0.4), 1),  # a kink
        (lambda x: np.exp(-4.0 * x[:, 0]) * x[:, 1] + x[:, 2], 3),
    ],
)
def test_smooth_functions_are_left_alone(function: Any, d: int) -> None:
    _, found = split(function, d, 32 * d)
    assert found.gain < 0.75 or found.step < 1.0 or found.height < 8.0


@pytest.mark.parametrize(("d", "height"), [(1, 1.0), (2, 1.0), (2, 3.0), (3, 2.0)])
def test_jumps_are_found_and_runs_put_on_their_sides(d: int, height: float) -> None:
    def side(x: Array) -> Array:
        return np.asarray(x.mean(axis=1) + 0.1 * np.sin(9.0 * x[:, 0]) > 0.5)

    x, found = split(lambda x: np.sin(2.0 * x).sum(axis=1) + height * side(x), d, 32 * d)
    assert found.gain > 0.75
    assert found.height > 8.0
    assert found.step > 1.0
    agreement = np.mean(found.labels == side(x))
    assert max(agreement, 1.0 - agreement) > 0.95


def test_detect_jump_warns_with_advice() -> None:
    settings = uq.GaussianProcess(hyperparameters="point")
    with pytest.warns(RegimeWarning, match=r"'y' seem to jump .* uq.Regimes"):
        jump = uq.detect_jump(settings.fit(ensemble(40)))
    assert jump.outputs == ("y",)
    assert "runs" in str(jump)
    design = uq.sobol(SPACE, 32, rng=1)
    smooth = settings.fit(uq.ensemble.build(design, {"y": np.sin(3.0 * design["a"].values) * design["b"].values}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not uq.detect_jump(smooth).found
    with pytest.raises(InputError, match="at least 10"):
        find_jumps(settings.fit(ensemble(6)))
    with pytest.raises(InputError, match="got a str"):
        uq.detect_jump("surrogate")  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------- the protocol
def test_it_keeps_the_promises_of_the_protocol(surrogate: RegimeSurrogate) -> None:
    uq.testing.check_surrogate(surrogate, draws=1000).raise_failed()


@pytest.mark.slow
def test_curves_with_a_constant_regime_keep_them_too() -> None:
    """An outbreak that dies out: zero everywhere in one regime; three regimes, labels as words."""
    design = uq.sobol(SPACE, 36, rng=2)
    a, b, days = design["a"].values, design["b"].values, np.linspace(0.0, 1.0, 5)
    kind = np.where(a < 0.35, "none", np.where(a < 0.7, "small", "large"))
    size = np.select([kind == "none", kind == "small"], [0.0, 1.0], 5.0) * (1.0 + 0.3 * b)
    curve = xr.DataArray(size[:, None] * np.exp(-np.outer(a, days)), dims=("run", "day"), coords={"day": days})
    runs = uq.ensemble.build(design, {"infected": curve}, space=SPACE)
    runs = runs.assign(kind=("run", kind))
    settings = uq.Regimes(labels="kind", regression=uq.GaussianProcess(hyperparameters="point"), members=8)
    fitted = settings.fit(runs)
    assert len(fitted.regimes) == 3
    uq.testing.check_surrogate(fitted, draws=500).raise_failed()
    p = fitted.probability({"a": [0.1, 0.5, 0.95], "b": 0.5})
    assert (p.to_numpy().argmax(axis=1) == np.unique(kind).searchsorted(["none", "small", "large"])).all()
    prediction = fitted.predict({"a": [0.1, 0.95], "b": 0.5})
    assert np.abs(prediction.mean["infected"].values[0]).max() < 0.5
    wanted = 5.0 * 1.15 * np.exp(-0.95 * days)
    np.testing.assert_allclose(prediction.quantile([0.5])["infected"].values[0, 1], wanted, rtol=0.1)


def test_saves_without_pickle(surrogate: RegimeSurrogate, tmp_path: Path) -> None:
    same = RegimeSurrogate.load(surrogate.save(tmp_path / "regimes.npz"))
    points = {"a": [0.2, 0.7, 0.9], "b": 0.4}
    both = surrogate.predict(points), same.predict(points)
    assert (both[0].mean["y"].values == both[1].mean["y"].values).all()
    assert (both[0].interval()["y"].values == both[1].interval()["y"].values).all()
    assert (same.labels == surrogate.labels).all()
    assert same.names == surrogate.names
    assert same.attrs == surrogate.attrs
    with pytest.raises(FormatError, match="no surrogate"):
        uq.load_surrogate(tmp_path / "regimes.npz")


def test_members_are_whole_borders_with_the_classifiers_probability(surrogate: RegimeSurrogate) -> None:
    u = np.random.default_rng(1).random((400, 2))
    share = surrogate.regime_at(u).mean(axis=0)
    p = surrogate.borders[0].probability_at(u)
    # The classifier allows for labels by chance, the members do not: next to the border they differ by little.
    assert np.abs(share - p).max() < 0.25
    assert np.abs(share - p).mean() < 0.03
    near = surrogate.regime_at(u + 1e-6)
    assert np.mean(near != surrogate.regime_at(u)) < 1e-3


def test_predictions_are_the_mixture_of_both_regimes(surrogate: RegimeSurrogate) -> None:
    """At an input of which the border is not sure: two modes, and an interval that spans them."""
    line = np.linspace(0.0, 1.0, 401)
    p = surrogate.probability({"a": line, "b": 0.5}).to_numpy()[:, 1]
    at = {"a": float(line[np.argmin(np.abs(p - 0.5))]), "b": 0.5}
    prediction = surrogate.predict(at)
    low, high = prediction.interval()["y"].values[:, 0]
    means = [float(one.predict(at).mean["y"].item()) for one in surrogate.regimes]
    assert low < min(means) + 0.2
    assert high > max(means) - 0.2
    law = prediction.law("y")
    middle = law.log_density(np.array([[np.mean(means)]]))
    assert middle < law.log_density(np.array([[means[0]]])) - 3.0
    draws = prediction.draws(4000, 1)["y"].values[:, 0]
    levels = np.array([0.0, np.mean(means), 3.5])
    wanted = [law.cdf(np.array([[level]])).item() for level in levels]
    np.testing.assert_allclose([(draws < level).mean() for level in levels], wanted, atol=0.04)


def test_it_beats_the_single_process_next_to_the_border(surrogate: RegimeSurrogate) -> None:
    u = np.random.default_rng(4).random((1500, 2))
    points, truth = {"a": u[:, 0], "b": u[:, 1]}, jumping(u[:, 0], u[:, 1])[0]
    distance = np.abs(u[:, 0] + 0.3 * np.sin(4.0 * u[:, 1]) - 0.75)
    near = distance < 0.15
    single = uq.GaussianProcess().fit(ensemble(40))
    errors = [
        np.abs(one.predict(points).quantile([0.5])["y"].values[0] - truth)[near].mean() for one in (surrogate, single)
    ]
    assert errors[0] < 0.5 * errors[1]
    low, high = surrogate.predict(points).interval()["y"].values
    assert np.mean((low <= truth + 1e-6) & (truth - 1e-6 <= high)) > 0.95


# --------------------------------------------------------------------------------------------------------- calibration
@pytest.mark.slow
def test_calibration_through_a_jump_is_that_of_the_simulator() -> None:
    """Posterior of one parameter by SMC against quadrature of the simulator itself, mass on both sides."""
    space = uq.ParameterSpace(k=uq.Uniform(0.0, 2.0))

    def simulator(k: Array) -> Array:
        return np.where(k > 1.2, 2.5 - k, 0.8 * k)  # 1.0 is reached on both sides

    design = uq.sobol(space, 24, rng=1)
    runs = uq.ensemble.build(design, {"y": simulator(design["k"].values)}, space=space)
    fitted = uq.Regimes(labels=lambda t: t["k"] > 1.2, regression=uq.GaussianProcess(hyperparameters="point")).fit(runs)
    problem = uq.Calibration(fitted, xr.DataArray(0.6, name="y"), uq.GaussianNoise(sd=0.1))
    with pytest.raises(ConformanceError, match=r"RegimeSurrogate .*uq.SMC"):
        problem.sample(uq.NUTS(), rng=1)
    posterior = problem.sample(uq.SMC(particles=600, chains=2), rng=1)
    k = np.linspace(0.0, 2.0, 4001)
    weight = norm.pdf(0.6, simulator(k), 0.1)
    weight /= weight.sum()
    draws = posterior.draws["k"].values.ravel()
    upper = float(weight[k > 1.2].sum())
    assert np.mean(draws > 1.2) == pytest.approx(upper, abs=0.05)
    mean, sd = float(weight @ k), float(np.sqrt(weight @ (k - weight @ k) ** 2))
    assert draws.mean() == pytest.approx(mean, abs=0.1 * sd)
    assert draws.std() == pytest.approx(sd, rel=0.1)


# ------------------------------------------------------------------------------------------------------------- refusals
def test_what_cannot_be_meant() -> None:
    with pytest.raises(InputError, match="noise='fitted'"):
        uq.Regimes(regression=uq.GaussianProcess(noise="fitted"))
    with pytest.raises(InputError, match="members"):
        uq.Regimes(members=3)
    with pytest.raises(InputError, match="labels is 3"):
        uq.Regimes(labels=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="regression"):
        uq.Regimes(regression="gp")  # type: ignore[arg-type]
    design = uq.sobol(SPACE, 32, rng=1)
    smooth = uq.ensemble.build(design, {"y": np.sin(3.0 * design["a"].values)})
    with pytest.raises(DataError, match="no output jumps"):
        uq.Regimes().fit(smooth)
    with pytest.raises(DataError, match="1 regimes"):
        uq.Regimes(labels=lambda runs: runs["y"] > -5.0).fit(smooth)
    with pytest.raises(DesignError, match="Regime 1 has"):
        uq.Regimes(labels=lambda runs: runs["a"] > 0.95).fit(smooth)

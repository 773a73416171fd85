"""The surrogate as a model of named numbers: its mean equals the prediction's, its gradient central differences."""

from dataclasses import fields, replace
from itertools import product

import numpy as np
import pytest
import xarray as xr

import uqms as uq
from uqms._typing import Array
from uqms.errors import ExtrapolationError, InputError
from uqms.surrogates import GaussianProcessSurrogate
from uqms.surrogates.process import condition
from uqms.surrogates.training import Hyperparameters

DAYS = np.linspace(0.0, 2.0, 5)
SPACE = uq.ParameterSpace(
    a=uq.Uniform(-1.0, 3.0, unit="mm"), rate=uq.LogNormal(median=20.0, sigma=0.4), share=uq.Beta(2.0, 3.0)
)
POINT = {"a": 0.7, "rate": 17.0, "share": 0.35}
WEIGHTS = {"peak": 0.5, "curve": np.array([[1.0, -0.5, 0.2, 2.0, 0.1], [0.3, 0.0, -1.0, 0.4, 0.6]])}


def runs() -> xr.Dataset:
    design = uq.sobol(SPACE, 32, rng=1).isel(run=slice(24))  # more would make the mean noisy in its last digits
    a, rate, share = (design[name].values for name in SPACE.names)
    peak = 1000.0 + 300.0 * np.sin(a) * np.log(rate) + 50.0 * share**2
    curve = np.exp(-np.multiply.outer(rate / 20.0, DAYS))[:, None, :] * np.stack([a, 5.0 * share], axis=1)[:, :, None]
    labelled = xr.DataArray(curve, dims=("run", "place", "day"), coords={"place": [0.0, 1.0], "day": DAYS})
    return uq.ensemble.build(design, {"peak": peak, "curve": labelled}, units={"peak": "kPa"})


@pytest.fixture(scope="module")
def surrogate() -> GaussianProcessSurrogate:
    return uq.GaussianProcess(scales="given").fit(runs())


@pytest.fixture(scope="module")
def averaged(surrogate: GaussianProcessSurrogate) -> GaussianProcessSurrogate:
    """Return one with two draws of every hyperparameter, of weights 0.3 and 0.7."""
    old = surrogate.process
    y = np.random.default_rng(2).standard_normal((len(old.x), old.q))
    parts = [
        condition(old.kernel, old.x, y, 1, [Hyperparameters(np.full(3, scale), 1.0, 1e-8, 0.0, 0, False)] * old.q)
        for scale in (0.8, 1.6)
    ]
    names = {part.name for part in fields(old)} - {"kernel", "x", "y", "log_weights", "noise"}
    stacked = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    process = replace(parts[0], **stacked, log_weights=np.log([0.3, 0.7]))
    return replace(surrogate, process=process)


def weighted(surrogate: GaussianProcessSurrogate, point: dict[str, float], weights: dict[str, Array | float]) -> float:
    got = surrogate.evaluate(point)
    return float(sum(np.sum(got[name] * np.asarray(w)) for name, w in weights.items()))


def test_what_it_says_of_itself(surrogate: GaussianProcessSurrogate) -> None:
    assert surrogate.inputs == ("a", "rate", "share")
    assert dict(surrogate.outputs) == {"peak": (), "curve": ("place", "day")}
    assert {dim: list(values) for dim, values in surrogate.coords.items()} == {"place": [0.0, 1.0], "day": list(DAYS)}


@pytest.mark.parametrize("which", ["surrogate", "averaged"])
def test_the_mean_is_that_of_predict(which: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(which)
    got = model.evaluate(POINT)
    expected = model.predict(POINT).mean
    assert got["peak"].shape == ()
    assert got["curve"].shape == (2, 5)
    for name in got:
        assert got[name].dtype == np.float64
        np.testing.assert_allclose(got[name], expected[name].values[0], rtol=1e-12)


@pytest.mark.parametrize("which", ["surrogate", "averaged"])
def test_the_gradient_equals_central_differences(which: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(which)
    for weights, name in product(({"peak": 1.0}, {"curve": WEIGHTS["curve"]}, WEIGHTS), model.inputs):
        step = 3e-3 * POINT[name]
        slopes = []
        for h in (step, step / 2.0):  # Richardson: the error falls with the fourth power
            up, down = (weighted(model, POINT | {name: POINT[name] + sign * h}, weights) for sign in (1, -1))
            slopes.append((up - down) / (2.0 * h))
        expected = (4.0 * slopes[1] - slopes[0]) / 3.0
        assert model.gradient(POINT, weights)[name] == pytest.approx(expected, rel=1e-6), (weights, name)


def test_outputs_left_out_have_no_weight(surrogate: GaussianProcessSurrogate) -> None:
    assert surrogate.gradient(POINT, {}) == dict.fromkeys(surrogate.inputs, 0.0)
    one, two = surrogate.gradient(POINT, {"peak": 0.5}), surrogate.gradient(POINT, {"curve": WEIGHTS["curve"]})
    both = surrogate.gradient(POINT, WEIGHTS)
    assert both == pytest.approx({name: one[name] + two[name] for name in both}, rel=1e-12)


def test_outside_of_the_box(surrogate: GaussianProcessSurrogate) -> None:
    edge = dict(zip(surrogate.inputs, surrogate.domain.upper, strict=True))
    surrogate.evaluate(edge)
    for call in (surrogate.evaluate, lambda point: surrogate.gradient(point, {"peak": 1.0})):
        with pytest.raises(ExtrapolationError, match=r"outside of the design box \(a = 3.1 not in \[-1, 3\]\)"):
            call(POINT | {"a": 3.1})
        with pytest.raises(ExtrapolationError, match=r"rate = -1 not in"):
            call(POINT | {"rate": -1.0})


def test_points_and_weights_that_cannot_be_meant(surrogate: GaussianProcessSurrogate) -> None:
    with pytest.raises(InputError, match="'share' missing and 'c' unknown"):
        surrogate.evaluate({"a": 1.0, "rate": 20.0, "c": 0.5})
    with pytest.raises(InputError, match="2 values of an input"):
        surrogate.evaluate(POINT | {"a": [1.0, 2.0]})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="holds nan"):
        surrogate.evaluate(POINT | {"a": np.nan})
    with pytest.raises(InputError, match=r"sensitivity names \['pressure'\]; the outputs are peak, curve"):
        surrogate.gradient(POINT, {"pressure": 1.0})
    with pytest.raises(InputError, match=r"sensitivity of 'curve' has shape \(5,\); give \(2, 5\)"):
        surrogate.gradient(POINT, {"curve": np.ones(5)})
    with pytest.raises(InputError, match=r"sensitivity of 'peak' has shape \(\); give one number, all finite"):
        surrogate.gradient(POINT, {"peak": np.inf})

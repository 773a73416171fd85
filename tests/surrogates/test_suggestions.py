"""The logarithm of an output is suggested where left-out runs are predicted better by it, with the right gain."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

import uqms as uq
from uqms.surrogates.suggestions import ROUNDING, TRIED, gain_of_transform, transform_to_try

SPACE = uq.ParameterSpace(k=uq.Uniform(0.1, 2.0), v=uq.Uniform(1.0, 5.0))
DESIGN = uq.sobol(SPACE, 40, rng=1)
BOX = uq.Box(("k", "v"), (0.1, 1.0), (2.0, 5.0))
K, V = DESIGN["k"].values, DESIGN["v"].values


DECAY = np.exp(-8.0 * K) / V * (1.0 + 0.3 * np.sin(3.0 * V))


def fitted(y: object, **settings: object) -> Any:
    runs = uq.ensemble.build(DESIGN, {"y": y}, space=SPACE)
    outputs = {"outputs": {"y": settings.pop("output")}} if "output" in settings else {}
    return uq.GaussianProcess(**outputs, **settings).fit(runs)  # type: ignore[arg-type]


def test_the_gain_is_that_of_the_two_settings() -> None:
    plain, logs = (
        uq.leave_one_out(fitted(DECAY, hyperparameters="point", output=uq.Scalar(transform=one)))
        for one in (None, "log")
    )
    surrogate = fitted(DECAY)
    found = uq.leave_one_out(surrogate)
    gain = gain_of_transform(surrogate.domain, surrogate.process.x, DECAY[:, None], uq.Log())
    assert gain.nats == pytest.approx(logs.table.loc["y", "log_score"] - plain.table.loc["y", "log_score"], abs=1e-3)
    assert gain.nats > 3.0
    (words,) = found.suggestions
    assert f"by {gain.nats:.1f} nats" in words
    assert "outputs={'y': uq.Scalar(transform='log')}" in words
    assert "suggestion: the logarithm of 'y'" in str(found)
    assert logs.suggestions == ()


def test_curves_are_judged_at_some_of_their_coordinates() -> None:
    t = np.linspace(0.5, 12.0, 10)
    curve = xr.DataArray(DECAY[:, None] ** 0.7 * (1.0 + 0.1 * t + 0.1 * np.sin(t) * K[:, None]), dims=("run", "t"))
    curve = curve.assign_coords(t=t)
    (words,) = uq.leave_one_out(fitted(curve)).suggestions
    assert "uq.Curve(transform='log')" in words
    assert uq.leave_one_out(fitted(curve, output=uq.Curve(transform="log"))).suggestions == ()


def test_nothing_is_suggested_where_it_is_of_no_use() -> None:
    """Narrow ranges and values that reach zero are not tried; a sum of sines over a decade has no gain."""
    x = np.column_stack([(K - 0.1) / 1.9, (V - 1.0) / 4.0])
    wave = np.sin(5.0 * x[:, 0]) + np.cos(4.0 * x[:, 1])
    assert gain_of_transform(BOX, x, 3.0 + wave[:, None], uq.Log()) is None
    assert gain_of_transform(BOX, x, wave[:, None], uq.Log()) is None
    assert gain_of_transform(BOX, x, np.full((40, 1), np.nan), uq.Log()) is None
    gain = gain_of_transform(BOX, x, (wave - wave.min() + 0.3)[:, None], uq.Log())
    assert gain is not None
    assert not gain.clear


def test_outputs_in_per_cent_get_the_logit() -> None:
    """The logarithm of an ejection fraction would promise intervals above 100 %."""
    y = 100.0 / (1.0 + np.exp(2.0 * V - 6.0 * K - 2.0 * np.sin(3.0 * V)))
    said = {}
    for unit in ("%", "mmHg"):
        runs = uq.ensemble.build(DESIGN, {"y": y}, space=SPACE, units={"y": unit})
        (said[unit],) = uq.leave_one_out(uq.GaussianProcess().fit(runs)).suggestions
    assert "the logit of 'y'" in said["%"]
    assert "outputs={'y': uq.Scalar(transform=uq.Logit(0, 100))}" in said["%"]
    assert "the logarithm of 'y'" in said["mmHg"]
    above = np.array([[1.0], [120.0]])  # a relative change in per cent
    assert [type(transform_to_try("%", one)).__name__ for one in (y[:, None], above, -above)] == ["Logit", "Log", "Log"]


def test_processes_with_noise_are_left_alone() -> None:
    y = np.exp(-8.0 * K) * (1.0 + 0.1 * np.random.default_rng(1).standard_normal(40))
    assert isinstance(uq.leave_one_out(fitted(y, noise="fitted")).suggestions, tuple)


def test_what_a_curve_lost_to_rounding_is_not_judged() -> None:
    """Its values are put together from scores: below a millionth of the largest one, their sign is chance."""
    t = np.linspace(0.0, 12.0, 7)
    lost = np.exp(-16.0 * t) * 1e-3
    curve = xr.DataArray(DECAY[:, None] ** 0.7 * (1.0 + 0.1 * np.sin(t) * K[:, None]) * np.where(t > 6.0, lost, 1.0))
    curve = curve.rename(dim_0="run", dim_1="t").assign_coords(t=t)
    surrogate = fitted(curve)
    observed = uq.leave_one_out(surrogate).observed["y"].values
    assert (
        gain_of_transform(surrogate.domain, surrogate.process.x, np.where(t > 6.0, -1e-9, observed), uq.Log()) is None
    )
    (words,) = uq.leave_one_out(surrogate).suggestions
    told = gain_of_transform(surrogate.domain, surrogate.process.x, observed[:, t < 6.1], uq.Log(), rounding=ROUNDING)
    assert f"by {told.nats:.1f} nats" in words


def test_of_many_outputs_the_worst_are_tried() -> None:
    runs = uq.ensemble.build(DESIGN, {f"y{i}": DECAY ** (0.9 + 0.05 * i) for i in range(TRIED + 2)}, space=SPACE)
    *_, last = uq.leave_one_out(
        uq.GaussianProcess(hyperparameters="point", scalars="independent").fit(runs)
    ).suggestions
    assert last == f"transforms were tried for the {TRIED} outputs with the lowest Q², of {TRIED + 2}"

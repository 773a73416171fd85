"""Transforms of outputs: which of them left-out runs prefer, by what gain; suggested, or chosen with "auto"."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import uqms as uq
from uqms.errors import InputError
from uqms.parameters import Box
from uqms.surrogates.gp import left_out_scalars
from uqms.surrogates.transform_choice import ROUNDING, TRIED, Choice, choose_transform, transforms_to_try
from uqms.surrogates.transforms import IDENTITY

SPACE = uq.ParameterSpace(k=uq.Uniform(0.1, 2.0), v=uq.Uniform(1.0, 5.0))
DESIGN = uq.sobol(SPACE, 40, rng=1)
BOX = uq.Box(("k", "v"), (0.1, 1.0), (2.0, 5.0))
ALONE = uq.GaussianProcess(hyperparameters="point", scalars="independent")
K, V = DESIGN["k"].values, DESIGN["v"].values


DECAY = np.exp(-8.0 * K) / V * (1.0 + 0.3 * np.sin(3.0 * V))


def fitted(y: object, **settings: object) -> Any:
    runs = uq.ensemble.build(DESIGN, {"y": y}, space=SPACE)
    outputs = {"outputs": {"y": settings.pop("output")}} if "output" in settings else {}
    return uq.GaussianProcess(**outputs, **settings).fit(runs)  # type: ignore[arg-type]


def choice(box: Box, x: np.ndarray, values: np.ndarray, rounding: float = 0.0, unit: str = "") -> Choice | None:
    return choose_transform(x, unit, values, partial(left_out_scalars, ALONE, box), rounding)


def test_the_gain_is_that_of_the_two_settings() -> None:
    plain, logs = (
        uq.leave_one_out(fitted(DECAY, hyperparameters="point", output=uq.Scalar(transform=one)))
        for one in (None, "log")
    )
    surrogate = fitted(DECAY)
    found = uq.leave_one_out(surrogate)
    got = choice(surrogate.domain, surrogate.process.x, DECAY[:, None])
    assert got is not None
    assert (got.transform, got.rejected) == (uq.Log(), None)
    gain = got.gain
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
    """Narrow ranges, negative values and too few runs are not tried; a sum of sines over a decade has no gain."""
    x = np.column_stack([(K - 0.1) / 1.9, (V - 1.0) / 4.0])
    wave = np.sin(5.0 * x[:, 0]) + np.cos(4.0 * x[:, 1])
    assert choice(BOX, x, 3.0 + wave[:, None]) is None
    assert choice(BOX, x, wave[:, None]) is None
    assert choice(BOX, x, np.zeros((40, 1))) is None
    assert choice(BOX, x[:4], DECAY[:4, None]) is None
    assert choice(BOX, x, np.full((40, 1), np.nan)) is None
    found = choice(BOX, x, (wave - wave.min() + 0.3)[:, None])
    assert found is not None
    assert found.transform == IDENTITY
    assert found.rejected is not None
    assert not found.gain.clear


def test_outputs_in_per_cent_get_the_logit() -> None:
    """The logarithm of an ejection fraction would promise intervals above 100 %."""
    y = 100.0 / (1.0 + np.exp(2.0 * V - 6.0 * K - 2.0 * np.sin(3.0 * V)))
    said = {}
    for unit in ("%", "mmHg"):
        runs = uq.ensemble.build(DESIGN, {"y": y}, space=SPACE, units={"y": unit})
        (said[unit],) = uq.leave_one_out(uq.GaussianProcess().fit(runs)).suggestions
    assert "the logit of 'y'" in said["%"]
    assert "outputs={'y': uq.Scalar(transform=uq.Logit(lower=0, upper=100))}" in said["%"]
    assert "the logarithm of 'y'" in said["mmHg"]
    above = np.array([[1.0], [120.0]])  # a relative change in per cent
    assert transforms_to_try("%", y[:, None]) == [uq.Logit(0, 100)]
    assert transforms_to_try("%", above) == [uq.Log(), uq.Log(6.0), uq.Log(60.0)]
    assert transforms_to_try("%", -above) == []


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
    assert choice(surrogate.domain, surrogate.process.x, np.where(t > 6.0, -1e-9, observed)) is None
    (words,) = uq.leave_one_out(surrogate).suggestions
    told = choice(surrogate.domain, surrogate.process.x, observed[:, t < 6.1], rounding=ROUNDING)
    assert told is not None
    assert f"by {told.gain.nats:.1f} nats" in words


def test_of_many_outputs_the_worst_are_tried() -> None:
    runs = uq.ensemble.build(DESIGN, {f"y{i}": DECAY ** (0.9 + 0.05 * i) for i in range(TRIED + 2)}, space=SPACE)
    *_, last = uq.leave_one_out(
        uq.GaussianProcess(hyperparameters="point", scalars="independent").fit(runs)
    ).suggestions
    assert last == f"transforms were tried for the {TRIED} outputs with the lowest Q², of {TRIED + 2}"


# ------------------------------------------------------------------------------------------------- chosen by the runs
def test_the_runs_choose_what_predicts_them_better(tmp_path: Path) -> None:
    wave = np.sin(5.0 * (K - 0.1) / 1.9) + np.cos(V - 1.0)
    outputs = {"decay": DECAY, "narrow": np.sqrt(K) + V, "wave": wave - wave.min() + 0.3}
    outputs["zeros"] = np.maximum(DECAY - 1e-3, 0.0)
    runs = uq.ensemble.build(DESIGN, outputs, space=SPACE)
    chosen = uq.GaussianProcess(outputs="auto").fit(runs)
    transforms = {name: layout.transform for name, layout in chosen.layouts.items()}
    assert [transforms[name] for name in ("decay", "narrow", "wave")] == [uq.Log(), IDENTITY, IDENTITY]
    assert isinstance(transforms["zeros"], uq.Log)
    assert transforms["zeros"].offset > 0.0  # a logarithm does not take its zeros
    by_hand = {name: uq.Scalar(transform=one) for name, one in transforms.items() if one != IDENTITY}
    same = uq.GaussianProcess(outputs=by_hand).fit(runs)  # type: ignore[arg-type]
    np.testing.assert_array_equal(chosen.process.beta, same.process.beta)
    words = repr(chosen)
    assert re.search(r"; decay by Log\(\) \(\+\d\.\d ± 0\.\d nats a value of left-out runs\)", words)
    assert re.search(r"; zeros by Log\(offset=[\d.e-]+\) \(\+", words)
    assert re.search(r"; wave as it is \(Log\(.*?\) rejected: -\d\.\d ± 0\.\d nats", words)
    assert "narrow as it is" not in words  # nothing was tried
    assert repr(uq.load_surrogate(chosen.save(tmp_path / "chosen.npz"))) == words


def test_one_output_is_left_to_the_runs_and_the_others_are_not() -> None:
    t = np.linspace(0.5, 12.0, 6)
    curve = xr.DataArray(DECAY[:, None] ** 0.7 * (1.0 + 0.1 * t + 0.1 * np.sin(t) * K[:, None]), dims=("run", "t"))
    runs = uq.ensemble.build(DESIGN, {"curve": curve.assign_coords(t=t), "decay": DECAY}, space=SPACE)
    found = uq.GaussianProcess(outputs={"curve": uq.Curve(transform="auto", max_scores=4)}).fit(runs)
    assert found.layouts["curve"].transform == uq.Log()
    assert found.bases[list(found.layouts).index("curve")].basis.shape[1] <= 4
    assert found.layouts["decay"].transform == IDENTITY


def test_a_clear_gain_with_farther_medians_is_not_taken() -> None:
    """A transform can hide how wide its tails are: its medians must not be farther off than the output's own."""
    x = np.column_stack([(K - 0.1) / 1.9, (V - 1.0) / 4.0])
    far = np.zeros(40)
    far[3] = 0.4

    def left_out(error: np.ndarray, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logarithm = z.min() < 0.0
        logs = np.zeros(z.shape) + (np.log(DECAY[:, None]) + 5.0 if logarithm else 0.0)
        return logs, z + (error[:, None] if logarithm else 1e-2)

    for error, wanted in ((far, uq.Log()), (far + 2.0, IDENTITY)):
        found = choose_transform(x, "", DECAY[:, None], partial(left_out, error))
        assert found is not None
        assert found.transform == wanted
        assert found.gain.nats == pytest.approx(5.0)


def test_a_later_transform_is_taken_only_where_it_is_clearly_better_than_an_earlier_one() -> None:
    x = np.column_stack([(K - 0.1) / 1.9, (V - 1.0) / 4.0])
    noise = np.random.default_rng(1).standard_normal((40, 1))
    gains = dict(zip(transforms_to_try("", DECAY[:, None]), (3.0, 3.05, 5.0), strict=True))

    def left_out(x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        for one, gain in gains.items():
            if np.allclose(one.forward(DECAY[:, None]), z):
                return gain - one.log_slope(DECAY[:, None]) + 0.1 * noise, z
        return 0.1 * noise[::-1], z + 0.5

    last = list(gains)[-1]
    for top, wanted in ((5.0, last), (3.1, uq.Log())):
        gains[last] = top
        found = choose_transform(x, "", DECAY[:, None], left_out)
        assert found is not None
        assert found.transform == wanted


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: uq.GaussianProcess(outputs="auto", noise="heteroscedastic"), "does not go with noise='heterosc"),
        (lambda: uq.GaussianProcess(outputs="auto", mean=uq.Physics(lambda k: k)), "does not go with a cheap model"),
        (
            lambda: uq.MultiFidelity(("a", "b"), outputs={"y": uq.Scalar(transform="auto")}),
            "MultiFidelity does not choose",
        ),
        (
            lambda: uq.NonlinearMultiFidelity(("a", "b"), outputs={"y": uq.Scalar(transform="auto")}),
            "NonlinearMultiFidelity does not choose",
        ),
        (
            lambda: uq.LocalGaussianProcess(outputs={"y": uq.Scalar(transform="auto")}),
            "LocalGaussianProcess does not choose",
        ),
        (lambda: uq.GaussianProcess(outputs="log"), "outputs holds 'log'"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_choose_says_so_when_it_is_made(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_names_that_no_output_has_are_refused() -> None:
    runs = uq.ensemble.build(DESIGN, {"y": DECAY}, space=SPACE)
    with pytest.raises(InputError, match="settings for \\['z'\\]"):
        uq.GaussianProcess(outputs={"z": uq.Scalar(transform="auto")}).fit(runs)
    with pytest.raises(InputError, match="so its settings are Scalar"):
        uq.GaussianProcess(outputs={"y": uq.Curve(transform="auto")}).fit(runs)

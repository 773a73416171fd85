"""Superposition: rows against brute force, surrogates against closed forms, and what is refused."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import ArrayLike
from scipy.interpolate import make_interp_spline

import uqms as uq
from uqms._typing import Array, RandomState
from uqms.errors import ConformanceError, ExtrapolationError, InputError, UnitError
from uqms.parameters import Box
from uqms.surrogates import Decoder, Layout
from uqms.surrogates.process import Scores
from uqms.surrogates.protocol import FunctionDraws

HOURS = np.unique(np.concatenate([np.linspace(0.0, 4.0, 33), np.linspace(4.0, 48.0, 45)]))
SPACE = uq.ParameterSpace(ka=uq.Uniform(0.8, 2.0), ke=uq.Uniform(0.2, 0.4))
REGIMENS = (
    uq.Regimen.single(300.0),
    uq.Regimen.repeated(100.0, every=8.0, doses=5),
    uq.Regimen.single(200.0, duration=3.3) + uq.Regimen.single(50.0, time=10.2, duration=0.05),
    uq.Regimen.repeated(80.0, every=12.0, doses=2, steady_state=True),
    replace(uq.Regimen.single(90.0) + uq.Regimen.single(60.0, time=9.0, steady_state=8.0), resets=(9.0,)),
)
TIMES = np.array([-0.5, 0.0, 0.7, 3.0, 9.5, 16.0, 30.0])


def oral(t: ArrayLike, ka: float, ke: float) -> Array:
    t = np.asarray(t)
    return np.asarray(ka / (ka - ke) * (np.exp(-ke * t) - np.exp(-ka * t)) / 20.0)


def of_runs(curves: Array) -> xr.DataArray:
    return xr.DataArray(curves, dims=("run", "time"), coords={"time": HOURS})


def fitted(count: int = 40, **settings: Any) -> uq.surrogates.GaussianProcessSurrogate:
    design = uq.sobol(SPACE, count, rng=1)
    curves = np.stack([oral(HOURS, ka, ke) for ka, ke in zip(design["ka"].values, design["ke"].values, strict=True)])
    runs = uq.ensemble.build(design, {"conc": of_runs(curves)}, space=SPACE, units={"conc": "mg/L"})
    return uq.GaussianProcess(hyperparameters="point", **settings).fit(runs)


@pytest.fixture(scope="module")
def surrogate() -> uq.surrogates.GaussianProcessSurrogate:
    return fitted(outputs={"conc": uq.Curve(tolerance=1e-5)})


def everywhere(regimens: tuple[uq.Regimen, ...], times: Array) -> dict[str, Array]:
    numbers = [one.number for one in regimens]
    return {"time": np.tile(times, len(numbers)), "regimen": np.repeat(numbers, len(times))}


def test_rows_are_sums_and_integrals_of_rows_of_the_unit_response(
    surrogate: uq.surrogates.GaussianProcessSurrogate,
) -> None:
    superposed = uq.Superposition(surrogate, REGIMENS)
    rows = superposed.decode("conc", everywhere(REGIMENS, TIMES))
    assert superposed.tails["conc"] < 1e-3

    def unit(t: Array) -> Array:
        """Return offset, basis and truncation side by side, 0 after the last simulated time."""
        inside = np.minimum(t, HOURS[-1])
        found = surrogate.decode("conc", {"time": inside})
        return np.asarray(np.column_stack(found) * (t <= HOURS[-1])[:, None])

    got = np.column_stack(rows)
    for r, regimen in enumerate(REGIMENS):
        expected = regimen.superpose(unit, TIMES, breaks=HOURS, tolerance=1e-12)
        np.testing.assert_allclose(
            got[r * len(TIMES) : (r + 1) * len(TIMES)], expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max()
        )


def test_a_fitted_unit_response_predicts_other_regimens(surrogate: uq.surrogates.GaussianProcessSurrogate) -> None:
    """Errors are within the stated standard deviation, and small."""
    superposed = uq.Superposition(surrogate, REGIMENS)
    rows = superposed.decode("conc", everywhere(REGIMENS, TIMES))
    u = np.array([[0.3, 0.6]])
    ka, ke = superposed.domain.from_unit(u)[0]
    scores = superposed.scores(u)
    mean = rows.offset + rows.basis @ scores.mean[0, 0]
    variance = rows.basis**2 @ scores.covariance[0, :, 0, 0] + np.sum(rows.truncation**2, axis=1)
    truth = np.concatenate([one.superpose(lambda t: oral(t, ka, ke), TIMES) for one in REGIMENS])
    assert np.abs(mean - truth).max() < 2e-3 * truth.max()
    after = truth > 0.0
    assert np.sqrt(np.mean((mean - truth)[after] ** 2 / variance[after])) < 2.0


def test_runs_are_superposed_as_rows_are(surrogate: uq.surrogates.GaussianProcessSurrogate) -> None:
    superposed = uq.Superposition(surrogate, REGIMENS)
    runs = np.stack([oral(HOURS, *one) for one in ((0.9, 0.25), (1.7, 0.35))])
    got = superposed.superposed("conc", everywhere(REGIMENS, TIMES), {"conc": runs})
    for run, curve in zip(got, runs, strict=True):
        spline = make_interp_spline(HOURS, curve, k=3)
        expected = [
            one.superpose(
                lambda t, spline=spline: spline(np.minimum(t, HOURS[-1])) * (t <= HOURS[-1]), TIMES, breaks=HOURS
            )
            for one in REGIMENS
        ]
        np.testing.assert_allclose(run, np.concatenate(expected), rtol=1e-9, atol=1e-12)


def test_a_prediction_has_all_regimens(surrogate: uq.surrogates.GaussianProcessSurrogate) -> None:
    superposed = uq.Superposition(surrogate, REGIMENS[:2])
    found = superposed.predict({"ka": [1.0, 1.5], "ke": 0.3})
    assert found.mean["conc"].dims == ("point", "time", "regimen")
    times = superposed.layouts["conc"].coords["time"]
    expected = REGIMENS[1].superpose(lambda t: oral(t, 1.5, 0.3) * (t <= HOURS[-1]), times)
    np.testing.assert_allclose(found.mean["conc"].values[1, :, 1], expected, atol=2e-3 * expected.max())


def test_several_routes_have_a_unit_response_each() -> None:
    space = uq.ParameterSpace(ke=uq.Uniform(0.2, 0.4))
    design = uq.sobol(space, 12, rng=1)
    bolus = np.exp(-np.outer(design["ke"], HOURS)) / 20.0
    first = np.stack([oral(HOURS, 1.0, ke) for ke in design["ke"].values])
    runs = uq.ensemble.build(
        design,
        {"iv": of_runs(bolus), "oral": of_runs(first)},
        space=space,
    )
    both = uq.GaussianProcess(hyperparameters="point").fit(runs)
    regimen = uq.Regimen.single(50.0, route="1") + uq.Regimen.repeated(100.0, every=6.0, doses=3, start=2.0, route="2")
    superposed = uq.Superposition(both, regimen, outputs={"conc": {"1": "iv", "2": "oral"}})
    at = {"time": TIMES, "regimen": np.full(len(TIMES), regimen.number)}
    rows, u = superposed.decode("conc", at), np.array([[0.4]])
    ke = float(superposed.domain.from_unit(u)[0, 0])
    mean = rows.offset + rows.basis @ superposed.scores(u).mean[0, 0]
    truth = regimen.superpose({"1": lambda t: np.exp(-ke * t) / 20.0, "2": lambda t: oral(t, 1.0, ke)}, TIMES)
    np.testing.assert_allclose(mean, truth, atol=1e-3 * truth.max())
    with pytest.raises(InputError, match=r"regimens have the routes \['1', '2'\]"):
        uq.Superposition(both, regimen, outputs={"conc": "iv"})
    with pytest.raises(InputError, match="route '2', but 'conc' is given for"):
        uq.Superposition(both, regimen, outputs={"conc": {"1": "iv"}})


def test_a_time_that_was_not_simulated_names_the_range(surrogate: uq.surrogates.GaussianProcessSurrogate) -> None:
    once = uq.Regimen.single(1.0)
    strict = uq.Superposition(surrogate, once, tolerance=0.0)
    with pytest.raises(ExtrapolationError, match="Simulate the unit response up to 60, "):
        strict.decode("conc", {"time": [60.0], "regimen": once.number})
    with pytest.raises(ExtrapolationError, match="a steady state adds up all doses every 12 before"):
        uq.Superposition(surrogate, uq.Regimen.single(1.0, steady_state=12.0), tolerance=0.0).decode("conc")
    loose = uq.Superposition(surrogate, once).decode("conc", {"time": [60.0], "regimen": once.number})
    assert not any(np.any(part) for part in loose)


def test_predictions_without_coordinates_have_times_that_were_simulated(
    surrogate: uq.surrogates.GaussianProcessSurrogate,
) -> None:
    for tolerance in (0.0, 1e-3):
        superposed = uq.Superposition(surrogate, REGIMENS[:3], tolerance=tolerance)
        rows, layout = superposed.decode("conc"), superposed.layouts["conc"]
        assert layout.dims == ("time", "regimen")
        assert layout.unit == "mg/L"
        assert len(rows.offset) == np.prod(layout.shape)
    assert uq.Superposition(surrogate, REGIMENS[0]).layouts["conc"].coords["time"][-1] == HOURS[-1]


def test_regimens_are_added_and_unknown_ones_are_refused(surrogate: uq.surrogates.GaussianProcessSurrogate) -> None:
    first = uq.Superposition(surrogate, {"a": REGIMENS[0], "b": REGIMENS[0]})
    assert len(first.regimens) == 1
    assert first.with_regimens(REGIMENS[0]) is first
    more = first.with_regimens(REGIMENS[1])
    assert more.regimens == REGIMENS[:2]
    assert "2 regimens" in repr(more)
    with pytest.raises(InputError, match="with_regimens"):
        first.decode("conc", {"time": [1.0], "regimen": REGIMENS[1].number})
    at = {"time": [1.0, 9.0], "regimen": REGIMENS[1]}
    np.testing.assert_array_equal(
        more.decode("conc", at).offset,  # type: ignore[arg-type]
        more.decode("conc", {"time": [1.0, 9.0], "regimen": REGIMENS[1].number}).offset,
    )


def test_compiled_code_and_attributes_are_those_of_the_unit_response(
    surrogate: uq.surrogates.GaussianProcessSurrogate,
) -> None:
    superposed: Any = uq.Superposition(surrogate, REGIMENS)
    assert superposed.compiled_process is surrogate.compiled_process
    assert superposed.attrs is surrogate.attrs
    assert superposed.inputs_of("conc") == ("ka", "ke")
    with pytest.raises(AttributeError):
        _ = superposed.bases
    few = uq.Superposition(fitted(12), REGIMENS)  # whose errors are large enough to be judged
    assert uq.testing.check_surrogate(few).ok


class _Other:
    """A surrogate of somebody's own, by its attributes."""

    def __init__(self, **layouts: Layout) -> None:
        self.domain = Box(("a",), (0.0,), (1.0,))
        self.layouts: Mapping[str, Layout] = layouts

    def scores(self, u: Array) -> Scores:
        return Scores(np.zeros((1, *u.shape[:-1], 1)), np.zeros((1, 1, len(u), len(u))), np.zeros(1))

    def scores_reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        return np.zeros_like(u)

    def decode(self, output: str, coords: Mapping[str, ArrayLike] | None = None) -> Decoder:
        return Decoder(np.zeros(1), np.zeros((1, 1)), np.zeros((1, 0)))

    def functions(self, n: int, rng: RandomState) -> FunctionDraws:
        raise NotImplementedError


def curve(start: float = 0.0, unit: str = "", dim: str = "time") -> Layout:
    return Layout((dim,), {dim: start + np.arange(4.0)}, unit)


def test_responses_that_cannot_be_added_up_are_refused() -> None:
    once = uq.Regimen.single(1.0)
    with pytest.raises(InputError, match="modelled by its .*log.*is not the"):
        uq.Superposition(fitted_log(), once)
    with pytest.raises(InputError, match="from 1 on"):
        uq.Superposition(_Other(conc=curve(1.0)), once)
    with pytest.raises(InputError, match="no output has one dim"):
        uq.Superposition(_Other(conc=Layout()), once)
    with pytest.raises(InputError, match="no output 'y'"):
        uq.Superposition(_Other(conc=curve()), once, outputs={"conc": "y"})
    with pytest.raises(InputError, match="there are no regimens"):
        uq.Superposition(_Other(conc=curve()), [])
    with pytest.raises(InputError, match="give uq.Regimen values"):
        uq.Superposition(_Other(conc=curve()), [3.0])  # type: ignore[list-item]
    with pytest.raises(InputError, match="response is a int"):
        uq.Superposition(3, once)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="tolerance is"):
        uq.Superposition(_Other(conc=curve()), once, tolerance=2.0)
    two = {"conc": {"": "a", "iv": "b"}}
    with pytest.raises(UnitError, match="units"):
        uq.Superposition(_Other(a=curve(unit="mg/L"), b=curve(unit="g/L")), once, outputs=two)
    with pytest.raises(InputError, match="name both alike"):
        uq.Superposition(_Other(a=curve(), b=curve(dim="hour")), once, outputs=two)
    noisy = _Other(conc=curve())
    noisy.attrs = {"noise": "fitted"}  # type: ignore[attr-defined]
    with pytest.raises(ConformanceError, match="stochastic"):
        uq.Superposition(noisy, once)


def fitted_log() -> uq.surrogates.GaussianProcessSurrogate:
    space = uq.ParameterSpace(k=uq.Uniform(0.1, 0.3))
    design = uq.sobol(space, 8, rng=1)
    runs = uq.ensemble.build(design, {"conc": of_runs(np.exp(-np.outer(design["k"], HOURS)))}, space=space)
    settings = uq.GaussianProcess(outputs={"conc": uq.Curve(transform="log")}, hyperparameters="point")
    return settings.fit(runs)


def test_a_linear_simulator_passes_and_a_saturating_one_does_not() -> None:
    space = uq.ParameterSpace(ke=uq.Uniform(0.2, 0.4))
    study = uq.Regimen.repeated(100.0, every=8.0, doses=3) + uq.Regimen.single(100.0, time=4.0, duration=1.0)

    def linear(regimen: uq.Regimen, times: Array, ke: float) -> Array:
        return regimen.superpose(lambda t: oral(t, 1.5, ke), times)

    def saturating(regimen: uq.Regimen, times: Array, ke: float) -> Array:
        y = linear(regimen, times, ke)
        return np.asarray(y / (1.0 + 0.01 * y))

    found = uq.check_superposition(linear, space, regimen=study, times=[1.0, 5.0, 20.0])
    assert list(found.index) == ["double amount", "two doses", "regimen"]
    assert (found["error"] < 1e-9).all()
    with pytest.raises(ConformanceError, match="not linear in its doses, relative errors are double amount 0.0"):
        uq.check_superposition(saturating, space, regimen=study, times=[1.0, 5.0, 20.0])
    with pytest.raises(InputError, match="one finite number"):
        uq.check_superposition(lambda regimen, times, ke: [1.0], space, regimen=study, times=[1.0, 5.0])

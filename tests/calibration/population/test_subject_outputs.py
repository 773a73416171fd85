"""Outputs of subjects where there is no closed form through features: the simulator itself, and sampled errors."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from calibration.population.test_population import SPACE, observations, surrogate, table
from calibration.population.test_prediction import posterior_of
from scipy import stats

import uqms as uq
from uqms.calibration.population.subject import NewData, _inputs
from uqms.calibration.population.subject_outputs import Jointly, Simulated
from uqms.calibration.population.subject_prediction import Shared
from uqms.calibration.posterior import Posterior
from uqms.calibration.predict import Targets, conditional_moments
from uqms.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::uqms.errors.UqmsWarning")
HOURS = np.array([0.0, 1.0, 2.0, 4.0])
DECAY = uq.ParameterSpace(k=uq.LogNormal(median=0.5, sigma=0.5), volume=uq.LogNormal(median=10.0, sigma=0.3))
STUDENT = uq.StudentTNoise(scale=uq.HalfNormal(0.5), df=4.0)


def decay() -> Any:
    return uq.DirectSimulator(
        lambda k, volume: 100.0 / volume * np.exp(-k * HOURS),
        space=DECAY,
        outputs={"conc": ("hour",)},
        coords={"hour": HOURS},
    )


def of_decay(noise: Any, limit: float | None = None, **settings: Any) -> uq.PopulationCalibration:
    rng = np.random.default_rng(3)
    rates = np.array([0.3, 0.5, 0.9])
    values = 100.0 / 9.0 * np.exp(-rates[:, None] * HOURS) + 0.3 * rng.standard_normal((3, 4))
    frame = pd.DataFrame({"who": np.repeat(["a", "b", "c"], 4), "h": np.tile(HOURS, 3), "mg": values.ravel()})
    more = {}
    if limit is not None:
        frame["side"] = np.where(frame["mg"] < limit, "left", "")
        frame["mg"] = np.maximum(frame["mg"], limit)
        more = {"censored": "side"}
    data = uq.Observations.from_table(frame, output="conc", value="mg", coords={"hour": "h"}, subject="who", **more)
    population = uq.Population(DECAY, individual=("k",), spread=uq.HalfNormal(0.5))
    return uq.Calibration(decay(), data, noise, population=population, **settings)


def drawn(one: uq.PopulationCalibration, draws: int, seed: int = 3) -> Posterior:
    """Return a posterior of draws that are given; what is tested holds for any."""
    rng = np.random.default_rng(seed)
    theta, z = one.prior_draws(draws, rng), 0.5 * rng.standard_normal((draws, one.latents))
    groups = {
        "posterior": xr.Dataset({name: (("chain", "draw"), values[None]) for name, values in theta.items()}),
        "latents": xr.Dataset({"value": (("chain", "draw", "latent"), z[None])}),
        "sample_stats": xr.Dataset({"hyperparameter_draw": (("chain", "draw", "part"), np.zeros((1, draws, 1), int))}),
    }
    return Posterior(xr.DataTree.from_dict(groups), one, None, None)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- the simulator itself
@pytest.mark.parametrize(
    "noise",
    [
        pytest.param(uq.GaussianNoise(sd=uq.HalfNormal(0.5)), id="normal"),
        pytest.param(STUDENT, id="student", marks=pytest.mark.slow),
    ],
)
def test_outputs_of_a_simulator_are_those_of_the_parameters(noise: Any) -> None:
    found = drawn(of_decay(noise), 60)
    some = found.hierarchy.some
    assert isinstance(some, Simulated)
    predicted = found.predict(subjects=["c", "a"], coords={"hour": HOURS}, draws=60)
    k, volume = some.own["k"][:, [2, 0]], some.own["volume"][:, None, None]
    wanted = 100.0 / volume * np.exp(-k[..., None] * HOURS)
    np.testing.assert_allclose(predicted.draws["conc"].values, wanted, rtol=1e-12)
    np.testing.assert_allclose(predicted.mean["conc"].values, wanted.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(predicted.sd["conc"].values, wanted.std(axis=0), rtol=1e-10)


@pytest.mark.parametrize("limit", [None, pytest.param(2.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "noise",
    [
        pytest.param(uq.GaussianNoise(sd=uq.HalfNormal(0.5)), id="normal"),
        pytest.param(STUDENT, id="student", marks=pytest.mark.slow),
    ],
)
def test_a_new_subject_of_a_simulator_is_weighted_as_quadrature_says(noise: Any, limit: float | None) -> None:
    if limit is not None and noise is STUDENT:
        noise = uq.CombinedNoise(additive=uq.HalfNormal(0.5), proportional=0.1)
    found = drawn(of_decay(noise, limit), 200)
    some = found.hierarchy.some
    values, side = np.array([9.0, 6.0, 2.0]), ["", "", "left" if limit else ""]
    frame = pd.DataFrame({"h": HOURS[:3], "mg": values, "side": side})
    more = {"censored": "side"} if limit else {}
    data = uq.Observations.from_table(frame, output="conc", value="mg", coords={"hour": "h"}, **more)
    subject = found.new_subject(data, rng=2)
    assert subject.k_hat < 0.7
    grid = stats.norm.ppf((np.arange(800) + 0.5) / 800)
    k = some.theta["k"] * np.exp(some.theta["omega_k"] * grid[:, None])
    y = 100.0 / some.theta["volume"][:, None] * np.exp(-k[..., None] * HOURS[:3])
    law, scale = stats.norm, some.theta["sigma"][:, None]
    if isinstance(noise, uq.StudentTNoise):
        law = stats.t(4.0)
    elif isinstance(noise, uq.CombinedNoise):
        scale = np.hypot(scale, 0.1 * y)
    logs = law.logpdf((values - y) / scale) - np.log(scale)
    if limit:
        logs[..., 2] = stats.norm.logcdf(((values - y) / scale)[..., 2])
    logs = logs.sum(axis=-1)
    weight = np.exp(logs - logs.max())
    mean = np.sum(weight * k) / weight.sum()
    sd = np.sqrt(np.sum(weight * (k - mean) ** 2) / weight.sum())
    draws = subject.draws["k"].values.ravel()
    assert draws.mean() == pytest.approx(mean, abs=4 * sd / np.sqrt(subject.ess))
    assert draws.std() == pytest.approx(sd, rel=4 / np.sqrt(subject.ess))
    curve = subject.predict(coords={"hour": HOURS})
    assert float(curve.sd["conc"][0]) < float(curve.mean["conc"][0])
    again = found.new_subject(rng=2).update(data, rng=2)
    np.testing.assert_allclose(again.draws["k"].values.mean(), draws.mean(), rtol=1e-9)


def test_the_density_of_a_new_subject_is_that_of_its_rows() -> None:
    found = drawn(of_decay(STUDENT), 5)
    some = found.hierarchy.some
    frame = pd.DataFrame({"h": [0.0, 1.0, 2.0], "mg": [6.0, 6.5, 4.0]})
    data = NewData(found, uq.Observations.from_table(frame, output="conc", value="mg", coords={"hour": "h"}))
    u = _inputs(some, np.log(some.theta["k"])[:, None, None], data.cells.conditions, data.cells.unit)
    y = 100.0 / some.theta["volume"][:, None] * np.exp(-some.theta["k"][:, None] * frame["h"].to_numpy())
    wanted = stats.t.logpdf(frame["mg"].to_numpy(), 4.0, y, some.theta["sigma"][:, None]).sum(axis=1)
    np.testing.assert_allclose(some.log_density(data, u), wanted, rtol=1e-9)


# ------------------------------------------------------------------------------------------------------- sampled errors
def of_curves(noise: Any, **settings: Any) -> uq.PopulationCalibration:
    population = uq.Population(SPACE, individual=("a", "b"), spread={"a": uq.HalfNormal(0.05), "b": uq.HalfNormal(0.1)})
    return uq.Calibration(
        surrogate(), observations(table()), noise, population=population, outside="extrapolate", **settings
    )


def test_predictions_with_sampled_errors_have_the_law_given_the_latents() -> None:
    """At a measured input, which keeps its truncation, and at another condition, by the dense law of one draw."""
    one = of_curves(STUDENT)
    found = drawn(one, 4)
    some = found.hierarchy.some
    assert isinstance(some, Jointly)
    t = np.array([0.0, 0.5, 2.0])
    decoder = one.surrogate.decode("y", {"t": t})
    k = int(np.flatnonzero(one.data.cells.unit == 2)[0])
    for conditions in (None, {"x": 0.9}):
        predicted = found.predict(subjects=["s2"], conditions=conditions, coords={"t": t}, draws=4)
        at = one.data.cells.conditions[[k]] if conditions is None else np.array([[0.9]])
        targets = Targets(
            at,
            np.zeros(3, dtype=int),
            np.full(3, "y"),
            {"t": t},
            *decoder,
            unit=np.array([2]),
            observed=np.array([k if conditions is None else -1]),
        )
        eta = some.z[:, one.layout.size :]
        means, variances = [], []
        for _, moments in conditional_moments(one.data, some.own, some.h, targets, eta):
            means.append(moments.mean), variances.append(moments.variance)
        mean, variance = np.concatenate(means), np.concatenate(variances)
        np.testing.assert_allclose(predicted.mean["y"].values[0], mean.mean(axis=0), rtol=1e-9)
        total = np.sqrt(variance.mean(axis=0) + mean.var(axis=0))
        np.testing.assert_allclose(predicted.sd["y"].values[0], total, rtol=1e-7)


def test_a_discrepancy_is_part_of_what_is_predicted() -> None:
    one = of_curves(uq.GaussianNoise(sd=uq.HalfNormal(0.3)), discrepancy=uq.OffsetDiscrepancy(sd=0.5))
    found = drawn(one, 30)
    assert isinstance(found.hierarchy.some, Jointly)
    with_it = found.predict(subjects=["s1"], coords={"t": [1.0]}, draws=30)
    without = drawn(of_curves(uq.GaussianNoise(sd=uq.HalfNormal(0.3))), 30).predict(
        subjects=["s1"], coords={"t": [1.0]}, draws=30
    )
    assert abs(float(with_it.mean["y"].item()) - float(without.mean["y"].item())) > 0.02


def test_a_discrepancy_is_left_out_where_that_is_asked() -> None:
    one = of_curves(uq.GaussianNoise(sd=uq.HalfNormal(0.3)), discrepancy=uq.OffsetDiscrepancy(sd=0.5))
    found = drawn(one, 30)
    asked = {"subjects": ["s1"], "coords": {"t": [1.0]}, "draws": 30}
    means = [float(found.predict(**asked, discrepancy=held).mean["y"].item()) for held in (True, False)]
    k, some = int(np.flatnonzero(one.data.cells.unit == 1)[0]), found.hierarchy.some
    decoder = one.surrogate.decode("y", {"t": np.array([1.0])})
    place = np.zeros(1, dtype=int), np.array(["y"]), {"t": np.array([1.0])}
    targets = Targets(one.data.cells.conditions[[k]], *place, *decoder, unit=np.array([1]), observed=np.array([k]))
    for held, mean in zip((True, False), means, strict=True):
        moments = [m.mean for _, m in conditional_moments(one.data, some.own, some.h, targets, None, held)]
        assert mean == pytest.approx(float(np.concatenate(moments).mean()), rel=1e-9)
    assert abs(means[0] - means[1]) > 0.02


def test_the_closed_form_and_the_dense_law_agree() -> None:
    """With normal noise both answer the same question; the error of one has features, that of the other none."""
    one = of_curves(uq.GaussianNoise(sd=uq.HalfNormal(0.3)))
    found = posterior_of(one, 400)
    shared = found.hierarchy.some
    assert isinstance(shared, Shared)
    dense = Jointly(
        found.hierarchy.problem, shared.theta, shared.own, shared.z, np.zeros(len(shared.z), dtype=np.int64)
    )
    closed = found.predict(coords={"t": [0.0, 1.5]}, draws=400)
    found.hierarchy.__dict__["some"] = dense
    other = found.predict(coords={"t": [0.0, 1.5]}, draws=400)
    sd = other.sd["y"].values
    np.testing.assert_allclose(closed.mean["y"].values, other.mean["y"].values, atol=4.0 * sd.max() / np.sqrt(400))
    np.testing.assert_allclose(closed.sd["y"].values, sd, rtol=0.15)


def test_new_subjects_through_sampled_errors_are_refused_before_sampling() -> None:
    with pytest.warns(uq.errors.CapabilityWarning, match="no new_subject"):
        one = of_curves(STUDENT)
    with pytest.raises(InputError, match="calibrate again, with the new subject in the table"):
        drawn(one, 4).new_subject()


def test_too_many_points_at_once_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uqms.calibration.population.subject_outputs.NUMBERS", 100)
    with pytest.raises(InputError, match="Predict fewer subjects"):
        drawn(of_curves(STUDENT), 4).predict()


@pytest.mark.parametrize("which", ["simulator", "sampled"])
def test_individual_fits_are_drawn(which: str) -> None:
    found = drawn(of_decay(STUDENT) if which == "simulator" else of_curves(STUDENT), 40)
    figure = uq.plots.individual_fits(found)
    assert len(figure.axes) >= 3

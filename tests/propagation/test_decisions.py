"""Decisions and the value of information against the conjugate normal case, in closed form."""

import numpy as np
import pytest
import xarray as xr
from calibration.problems import linear_surrogate
from scipy.stats import norm

import uqms as uq
from uqms.errors import InputError

SLOPE, ERROR_SD, MEAN = 2.0, 0.6, 0.5
FUNCTIONS, DRAWS = 128, 1024


def gain(sd: float, mean: float = MEAN) -> float:
    """Return E max(0, N(mean, sd²)) - max(0, mean): what it is worth to know a net benefit before treating."""
    return mean * norm.cdf(mean / sd) + sd * norm.pdf(mean / sd) - max(0.0, mean)


def net_benefit(table: xr.Dataset, action: str) -> xr.DataArray:
    """Treating has the loss -(y + 0.5), not treating none."""
    return -(table["y"] + MEAN) if action == "treat" else 0.0 * table["y"]


@pytest.fixture(scope="module")
def result() -> uq.Propagation:
    """y = 2 theta + an error that all theta share."""
    return uq.propagate(
        linear_surrogate(SLOPE, ERROR_SD), conditions={"x": 0.5}, functions=FUNCTIONS, draws=DRAWS, rng=5
    )


def test_value_of_information_is_that_of_the_conjugate_case(result: uq.Propagation) -> None:
    decision = result.decide(net_benefit, ["treat", "wait"])
    assert decision.best == "treat"
    assert decision.table.loc["wait", "loss"] == 0.0
    assert decision.table.loc["treat", "loss"] == pytest.approx(-MEAN, abs=4 * ERROR_SD / np.sqrt(FUNCTIONS))
    mean = -decision.table.loc["treat", "loss"]  # of the functions that were drawn
    found = decision.value_of_information()
    assert list(found.index) == ["everything", "surrogate", "theta"]
    expected = {
        "everything": gain(np.hypot(SLOPE, ERROR_SD), mean),
        "surrogate": gain(ERROR_SD, mean),
        "theta": gain(SLOPE, mean),
    }
    for name, value in expected.items():
        row = found.loc[name]
        assert row["value"] == pytest.approx(value, abs=4 * row["error"]), name
        assert row["error"] < 0.04, name
    # Sure to be best where its mean is above zero under a function: Phi(mean / sd of the error).
    assert decision.table.loc["treat", "probability_best"] == pytest.approx(norm.cdf(mean / ERROR_SD), abs=0.1)


@pytest.mark.parametrize("sd", [0.5, 2.0, 10.0])
def test_value_of_a_measurement_is_that_of_the_conjugate_case(result: uq.Propagation, sd: float) -> None:
    decision = result.decide(net_benefit, ["treat", "wait"])
    mean, variance = -decision.table.loc["treat", "loss"], SLOPE**2 + ERROR_SD**2
    found = decision.value_of_measurement("y", sd, rng=1)
    expected = gain(variance / np.sqrt(variance + sd**2), mean)
    assert found["value"] == pytest.approx(expected, abs=max(4 * found["error"], 0.02))
    assert found["error"] < 0.1
    twice = decision.value_of_measurement(lambda t: xr.concat([t["y"], t["y"]], "repeat"), sd * np.sqrt(2.0), rng=1)
    assert twice["value"] == pytest.approx(expected, abs=max(4 * twice["error"], 0.02))


def test_actions_may_be_conditions_and_kinks_are_followed() -> None:
    """Loss (y - 1)² of choosing the condition x at y = 2 theta + error(x): knowing theta alone does not help."""
    surrogate = linear_surrogate(SLOPE, 1e-3)
    result = uq.propagate(surrogate, conditions={"x": [0.2, 0.7]}, functions=4, draws=DRAWS, rng=1)
    decision = result.decide(lambda table, i: table["y"].isel(condition=i) ** 2, [0, 1])
    assert decision.value_of_information().loc["theta", "value"] < 0.01
    doses = np.linspace(0.5, 2.0, 4)
    single = uq.propagate(surrogate, conditions={"x": 0.5}, functions=4, draws=DRAWS, rng=1)
    choice = single.decide(lambda table, dose: np.abs(dose * table["y"] - 1.0) + 0.1 * dose, list(doses))
    theta = single.inputs["theta"].values
    losses = np.abs(doses[:, None] * SLOPE * theta - 1.0) + 0.1 * doses[:, None]
    expected = losses.mean(axis=1).min() - losses.min(axis=0).mean()
    row = choice.value_of_information().loc["theta"]
    assert row["value"] == pytest.approx(expected, rel=0.15)
    assert choice.best == doses[np.argmin(losses.mean(axis=1))]
    assert choice.table["probability_best"].sum() == pytest.approx(1.0)


def test_bad_decisions_raise_typed_errors(result: uq.Propagation) -> None:
    decision = result.decide(net_benefit, ["treat", "wait"])
    for call in (
        lambda: result.decide(net_benefit, []),
        lambda: result.decide(net_benefit, "treat"),
        lambda: result.decide(lambda table, action: 1.0, ["a"]),
        lambda: result.decide(lambda table, action: table["y"] / 0.0, ["a"]),
        lambda: decision.value_of_information(["z"]),
        lambda: decision.value_of_information("theta"),
        lambda: decision.value_of_measurement("z", 1.0),
        lambda: decision.value_of_measurement("y", 0.0),
        lambda: decision.value_of_measurement(lambda table: 1.0, 1.0),
    ):
        with pytest.raises(InputError):
            call()
    single = result.decide(net_benefit, ["treat"])
    assert float(single.value_of_information().to_numpy().sum()) == 0.0

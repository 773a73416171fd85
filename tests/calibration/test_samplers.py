"""NUTS: settings that cannot be meant, starts that lead nowhere, and draws that are no posterior."""

import warnings
from types import SimpleNamespace

import numpy as np
import nutpie
import pytest
import xarray as xr
from calibration.problems import given_surrogate

import uqms as uq
from uqms.calibration import graph, warmup
from uqms.errors import (
    ConvergenceWarning,
    InitError,
    InputError,
    PriorConflictWarning,
    SamplingError,
    SamplingInterrupted,
)

TARGET = SimpleNamespace(size=1, map=None, errors=None, free=("theta",), evaluate=lambda w: (-3.0, np.zeros(1)))
STARTS = np.zeros((3, 1))


def trace(chains: int = 4, draws: int = 1000, **variables: np.ndarray) -> dict[str, xr.DataTree]:
    variables = variables or {"theta": np.zeros((chains, draws))}
    return {"posterior": xr.DataTree(xr.Dataset({k: (("chain", "draw"), v) for k, v in variables.items()}))}


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What nutpie is made to return (or to raise), and the settings that reached it."""
    state: dict[str, object] = {"result": trace()}

    def sample(model: object, **settings: object) -> object:
        state["settings"] = settings
        if isinstance(state["result"], BaseException):
            raise state["result"]
        return state["result"]

    monkeypatch.setattr(warmup, "nutpie_model", lambda target, starts: target)
    monkeypatch.setattr(nutpie, "sample", sample)
    return state


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["draws", "tune", "chains"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "100", None])
def test_counts_are_whole_numbers(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"NUTS: {name} is {value!r}; give a whole number of at least 1"):
        uq.NUTS(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.0, 0.49, 1.0, 1.5, -0.9, np.nan, True, "0.9", None])
def test_target_accept_is_a_share(value: object) -> None:
    with pytest.raises(InputError, match="NUTS: target_accept is .*; give a number from 0.5 to below 1"):
        uq.NUTS(target_accept=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -2, 1.5, True, "2"])
def test_cores_are_a_whole_number(value: object) -> None:
    with pytest.raises(InputError, match="NUTS: cores is .*; give a whole number of at least 1, or None"):
        uq.NUTS(cores=value)  # type: ignore[arg-type]


def test_one_chain_is_warned_of() -> None:
    with pytest.warns(ConvergenceWarning, match="1 chain; convergence of a single chain cannot be judged. Use 4") as w:
        uq.NUTS(chains=1)
    assert len(w) == 1


def test_few_draws_are_warned_of() -> None:
    with pytest.warns(ConvergenceWarning, match="99 draws a chain are too few for intervals. Use 1000") as w:
        uq.NUTS(draws=99)
    assert len(w) == 1


def test_good_settings_say_nothing_and_reach_the_sampler(sampled: dict[str, object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler = uq.NUTS(draws=100, tune=np.int64(50), chains=2, target_accept=0.5, cores=1)
    sampled["result"] = trace(2, 100)
    assert sampler.sample_target(TARGET, 7, STARTS) is sampled["result"]
    settings = sampled["settings"]
    assert settings == {
        "draws": 100,
        "tune": 50,
        "chains": 2,
        "target_accept": 0.5,
        "cores": 1,
        "seed": 7,
        "progress_bar": False,
        "save_warmup": False,
    }


# --- starts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-np.inf, np.nan, np.inf])
def test_a_start_without_density_names_the_term(value: float) -> None:
    target = SimpleNamespace(size=1, start=np.zeros(1), evaluate=lambda w: (value, np.zeros(1)))
    model = SimpleNamespace(point_logps=lambda: {"theta": -1.0, "observations": value})
    with pytest.raises(InitError, match=r"log-density of \['observations'\] is not finite .*scale of the simulator's"):
        graph.starting_points(target, model, 8, np.random.default_rng(0))  # type: ignore[arg-type]


def test_a_start_without_a_gradient_is_none() -> None:
    target = SimpleNamespace(size=1, start=np.zeros(1), evaluate=lambda w: (-1.0, np.array([np.nan])))
    model = SimpleNamespace(point_logps=lambda: {"theta": -1.0})
    with pytest.raises(InitError, match="its gradient is not finite"):
        graph.starting_points(target, model, 8, np.random.default_rng(0))  # type: ignore[arg-type]


def test_a_narrow_support_is_met_closer_to_the_initial_point() -> None:
    def evaluate(w: np.ndarray) -> tuple[float, np.ndarray]:
        return (-1.0 if abs(w[0] - 5.0) < 0.05 else -np.inf), np.zeros(1)

    target = SimpleNamespace(size=1, start=np.array([5.0]), evaluate=evaluate)
    points = graph.starting_points(target, None, 64, np.random.default_rng(0))  # type: ignore[arg-type]
    assert points.shape[1] == 1
    assert (np.abs(points - 5.0) < 0.05).all()


def test_starts_are_those_of_the_highest_density() -> None:
    """Far from the initial point there may be a mode in which a chain stays, such as outside of a design box."""
    target = SimpleNamespace(size=1, start=np.zeros(1), evaluate=lambda w: (-abs(w[0]), np.ones(1)))
    points = graph.starting_points(target, None, 64, np.random.default_rng(0))  # type: ignore[arg-type]
    assert points.shape == (16, 1)
    assert (np.abs(points) < 0.05).all()


def test_one_start_with_a_density_is_enough(sampled: dict[str, object]) -> None:
    target = SimpleNamespace(**{**vars(TARGET), "evaluate": lambda w: (-np.inf if w[0] == 0.0 else -1.0, np.zeros(1))})
    assert uq.NUTS().sample_target(target, 1, np.array([[0.0], [1.0]])) is sampled["result"]
    with pytest.raises(InitError, match=r"\['observations'\] is not finite at any starting point"):
        uq.NUTS().sample_target(target, 1, np.zeros((4, 1)))


def test_an_observation_of_another_scale_names_the_term() -> None:
    surrogate = given_surrogate(np.linspace(0.0, 1.0, 5)[:, None], np.arange(5.0)[:, None])
    with pytest.warns(PriorConflictWarning):
        problem = uq.Calibration(surrogate, xr.DataArray(1e200, name="y"), uq.GaussianNoise(sd=0.1))
    with pytest.raises(InitError, match=r"\['observations'\]"):
        problem.sample(rng=1)


def test_no_start_that_the_sampler_can_use(sampled: dict[str, object]) -> None:
    sampled["result"] = RuntimeError("All initialization points failed")
    with pytest.raises(InitError, match="no starting point with a finite log-density .All initialization points"):
        uq.NUTS().sample_target(TARGET, 1, STARTS)


def test_another_failure_of_the_sampler_is_not_blamed_on_the_start(sampled: dict[str, object]) -> None:
    sampled["result"] = RuntimeError("Logp function returned error: singular matrix")
    with pytest.raises(SamplingError, match="broke off: Logp function returned error: singular") as caught:
        uq.NUTS().sample_target(TARGET, 1, STARTS)
    assert not isinstance(caught.value, InitError)


# --- draws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chains", "draws"), [(4, 400), (3, 1000), (4, 0)])
def test_fewer_draws_than_asked_for_are_kept_apart(chains: int, draws: int, sampled: dict[str, object]) -> None:
    sampled["result"] = trace(chains, draws)
    message = f"stopped early: {draws} draws of {chains} chains where 1000 of 4 were asked for.*`partial`"
    with pytest.raises(SamplingInterrupted, match=message) as caught:
        uq.NUTS().sample_target(TARGET, 1, STARTS)
    assert caught.value.partial is sampled["result"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_draws_padded_with_nan_are_kept_apart(value: float, sampled: dict[str, object]) -> None:
    padded = np.zeros((4, 1000))
    padded[2, 993:] = value
    sampled["result"] = trace(theta=np.zeros((4, 1000)), sigma=padded)
    with pytest.raises(SamplingInterrupted, match="7 of 4000 draws of 'sigma' are not finite.*no posterior") as caught:
        uq.NUTS().sample_target(TARGET, 1, STARTS)
    assert caught.value.partial is sampled["result"]


def test_a_posterior_without_parameters_is_none(sampled: dict[str, object]) -> None:
    sampled["result"] = {"posterior": xr.DataTree(xr.Dataset())}
    with pytest.raises(SamplingError, match="returned no parameters"):
        uq.NUTS().sample_target(TARGET, 1, STARTS)


@pytest.mark.parametrize("rng", [-1, 1.5, "1", True])
def test_seeds_are_whole_numbers(rng: object, sampled: dict[str, object]) -> None:
    surrogate = given_surrogate(np.linspace(0.0, 1.0, 5)[:, None], np.arange(5.0)[:, None])
    problem = uq.Calibration(surrogate, xr.DataArray(1.0, name="y"), uq.GaussianNoise(sd=0.1))
    with pytest.raises(InputError, match=f"rng is {rng!r}; give a whole number >= 0 or a numpy"):
        problem.sample(rng=rng)  # type: ignore[arg-type]
    assert "settings" not in sampled

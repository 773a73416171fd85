"""Chains in several threads: a direct simulator gives each its own numbers, and errors of Python code are raised."""

import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest
from pytensor.graph import Apply, Op

import uqms as uq
from uqms.errors import SimulatorFailed

# PyTensor says so of every operation of one's own.
pytestmark = pytest.mark.filterwarnings("ignore:Numba will use object mode")

HOURS = np.array([0.0, 1.0, 2.0, 4.0])
SPACE = uq.ParameterSpace(
    k=uq.LogNormal(median=0.5, sigma=0.5),
    volume=uq.LogNormal(median=10.0, sigma=0.3),
    conditions={"dose": uq.Condition(50.0, 200.0)},
)
SD = 0.3
NOISE = uq.CustomNoise(
    logp=lambda z, y, p, xp: -0.5 * ((z - y) / SD) ** 2 - np.log(SD) - 0.5 * np.log(2.0 * np.pi),
    random=lambda y, p, rng: y + SD * rng.standard_normal(y.shape),
)


def drug(backend: Any, rate: Any = lambda k: k) -> uq.DirectSimulator:
    if backend == "jax":
        xp: Any = pytest.importorskip("jax.numpy")
    else:
        xp = pt if backend == "pytensor" else np
    return uq.DirectSimulator(
        lambda k, volume, dose: dose / volume * xp.exp(-rate(k) * HOURS),
        space=SPACE,
        outputs={"conc": ("hour",)},
        coords={"hour": HOURS},
        backend=backend,
    )


def problem(simulator: uq.DirectSimulator, *, subjects: bool) -> uq.Calibration:
    rng, doses = np.random.default_rng(0), np.array([80.0, 110.0, 150.0])
    rates = 0.5 * np.exp(0.3 * rng.standard_normal(3))
    values = doses[:, None] / 9.0 * np.exp(-rates[:, None] * HOURS) + SD * rng.standard_normal((3, 4))
    table = pd.DataFrame(
        {"who": np.repeat(list("abc"), 4), "h": np.tile(HOURS, 3), "mg": values.ravel(), "dose": np.repeat(doses, 4)}
    )
    who = "who" if subjects else None
    data = uq.Observations.from_table(
        table, output="conc", value="mg", coords={"hour": "h"}, subject=who, conditions=["dose"]
    )
    if not subjects:
        return uq.Calibration(simulator, data, NOISE)
    return uq.Calibration(simulator, data, NOISE, population=uq.Population(SPACE, individual=("k",)))


@pytest.fixture
def switching() -> Iterator[None]:
    """Let Python change between threads as often as it can: collisions are rare otherwise."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("backend", ["numpy", "pytensor", "jax"])
def test_calls_at_once_have_their_own_numbers(backend: str) -> None:
    simulator, rng, threads = drug(backend), np.random.default_rng(1), 8
    points, bars = rng.random((threads, 16, 3)), rng.standard_normal((16, 4))
    alone = drug(backend)
    values = [alone.means(u) for u in points]
    slopes = [alone.scores_reverse(u, bars[None], bars) for u in points] if alone.differentiable else []
    together = threading.Barrier(threads)

    def call(i: int) -> None:
        together.wait()  # the first call, which compiles, is one of those at once
        for _ in range(200):
            np.testing.assert_array_equal(simulator.means(points[i]), values[i])
            if slopes:
                np.testing.assert_array_equal(simulator.scores_reverse(points[i], bars[None], bars), slopes[i])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(call, range(threads)))


@pytest.mark.usefixtures("switching")
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pytensor", "jax"])
def test_posterior_of_a_population_is_the_same_in_one_thread_and_in_two(backend: str) -> None:
    whole = problem(drug(backend), subjects=True)
    one, two = (whole.sample(uq.NUTS(draws=100, tune=60, chains=2, cores=cores), rng=3) for cores in (1, 2))
    for name in ("k", "volume", "omega_k"):
        np.testing.assert_array_equal(one.draws[name], two.draws[name])


class Table(Op):  # type: ignore[misc]
    """The identity, as Python code that raises an error once it is armed and above a limit."""

    armed = False  # it is an operation of its own: without `__props__`, PyTensor takes no other one in its place

    def __init__(self, error: type[Exception], above: float = -np.inf, *, everywhere: bool = False) -> None:
        self.error, self.above, self.everywhere = error, above, everywhere

    def make_node(self, x: Any) -> Apply:
        return Apply(self, [pt.as_tensor(x)], [pt.dscalar()])

    def perform(self, node: Apply, inputs: Any, outputs: Any) -> None:
        here = self.everywhere or threading.current_thread() is not threading.main_thread()
        if self.armed and here and inputs[0] > self.above:
            raise self.error("the table ends here")
        outputs[0][0] = np.array(inputs[0])

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> Any:
        return [cotangents[0]]


@pytest.mark.slow
@pytest.mark.parametrize("subjects", [True, False], ids=["population", "inline"])
@pytest.mark.parametrize("cores", [1, 2])
def test_error_of_the_function_is_raised_from_a_thread_of_the_sampler(subjects: bool, cores: int) -> None:
    table = Table(KeyError)
    whole = problem(drug("pytensor", table), subjects=subjects)
    table.armed = True
    with pytest.raises((SimulatorFailed, KeyError), match="the table ends here") as found:
        whole.sample(uq.NUTS(draws=100, tune=50, chains=2, cores=cores), rng=1)
    error: Any = found.value.__cause__ if isinstance(found.value, SimulatorFailed) else found.value
    assert isinstance(error, KeyError)
    assert traceback.extract_tb(error.__traceback__)[-1].name == "perform"
    assert traceback.extract_tb(error.__traceback__)[-1].filename == __file__
    table.armed = False  # the same calibration works as soon as the function does
    posterior = whole.sample(uq.NUTS(draws=100, tune=50, chains=2, cores=cores), rng=1)
    assert np.isfinite(posterior.draws["k"]).all()


def sampled(table: Table) -> Any:
    with pm.Model():
        x = pm.Normal("x")
        pm.Potential("table", -0.5 * table(x) ** 2)
        table.armed = True
        return uq.NUTS(draws=200, tune=200, chains=2).sample_model(rng=1)


@pytest.mark.slow
def test_error_in_a_model_of_ones_own_is_raised_where_it_is_rare_too() -> None:
    with pytest.raises(ValueError, match="the table ends here"):
        sampled(Table(ValueError, above=1.0))
    with pytest.raises(ValueError, match="the table ends here"):  # a second time, since nothing remembers the first
        sampled(Table(ValueError, above=1.0))


def test_error_at_the_starting_points_is_raised() -> None:
    with pytest.raises(ValueError, match="the table ends here"):
        sampled(Table(ValueError, everywhere=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::uqms.errors.ConvergenceWarning")
def test_numerical_errors_are_points_without_density() -> None:
    for error in (FloatingPointError, np.linalg.LinAlgError):
        found = sampled(Table(error, above=1.0))
        assert float(found["posterior"]["x"].max()) < 1.0
        assert float(found["sample_stats"]["diverging"].sum()) > 0

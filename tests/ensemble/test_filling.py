"""Runs that somebody has: the space's box when they fill it, the range of the runs when they do not."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from scipy.stats import qmc

import uqms as uq
from uqms.ensemble.filling import LEVEL, fills
from uqms.errors import ExtrapolationError
from uqms.parameters import Box

SPACE = uq.ParameterSpace(
    a=uq.Uniform(0.0, 2.0),
    b=uq.LogNormal(median=3.0, sigma=0.5),
    c=uq.Normal(0.0, 1.0),
    d=uq.Uniform(-1.0, 1.0),
    e=uq.HalfNormal(1.0),
)
DESIGNS: dict[str, Callable[[int, int, int], np.ndarray]] = {
    "random": lambda n, d, seed: np.random.default_rng(seed).random((n, d)),
    "sobol": lambda n, d, seed: qmc.Sobol(d, rng=seed).random_base2(int(np.ceil(np.log2(n))))[:n],
    "latin": lambda n, d, seed: qmc.LatinHypercube(d, rng=seed).random(n),
}


def runs(u: np.ndarray, space: uq.ParameterSpace = SPACE, **more: object) -> xr.Dataset:
    x = space.from_cube(u)
    return uq.ensemble.build(x, {"y": x[:, 0] + 0.1 * x[:, 1]}, space=space, **more)


def test_the_level_is_kept() -> None:
    """Uniform draws are refused with at most the stated probability (4 standard errors)."""
    rng, repeats = np.random.default_rng(1), 2000
    for n, d in ((20, 1), (50, 5), (100, 10)):
        refused = 1.0 - np.mean([fills(rng.random((n, d))) for _ in range(repeats)])
        assert refused < LEVEL + 4.0 * np.sqrt(LEVEL / repeats)


@pytest.mark.parametrize("n", [20, 50, 200, 400])
@pytest.mark.parametrize("d", [1, 5, 10])
def test_runs_that_cover_half_of_an_input_do_not_fill_it(n: int, d: int) -> None:
    for seed in range(50):
        u = np.random.default_rng(seed).random((n, d))
        for half in (0.5 * u[:, 0], 0.5 + 0.5 * u[:, 0], 0.25 + 0.5 * u[:, 0]):
            assert not fills(np.column_stack([half, u[:, 1:]]))


def test_half_of_the_volume_is_noticed_with_ten_runs_an_input() -> None:
    side = 0.5**0.2
    for seed in range(50):
        assert not fills(0.5 * (1.0 - side) + side * np.random.default_rng(seed).random((50, 5)))


@pytest.mark.parametrize("kind", DESIGNS)
@pytest.mark.parametrize("n", [20, 64, 200, 400])
def test_runs_over_the_prior_get_the_box_of_the_space(kind: str, n: int) -> None:
    table = runs(DESIGNS[kind](n, 5, 3))
    box, space = uq.ensemble.get_box(table), SPACE.box()
    assert "20 runs fill it" in table.attrs["box_note"].replace(str(n), "20")
    x = np.stack([table[name].values for name in SPACE.names], axis=1)
    np.testing.assert_allclose(box.lower, np.minimum(space.lower, x.min(axis=0)), rtol=1e-12)
    np.testing.assert_allclose(box.upper, np.maximum(space.upper, x.max(axis=0)), rtol=1e-12)
    assert SPACE.mass_inside(box) >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 200])
def test_they_are_calibrated_and_the_verdict_says_why(n: int) -> None:
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(runs(DESIGNS["random"](n, 5, 3)))
    problem = uq.Calibration(surrogate, xr.DataArray(1.4, name="y"), noise=uq.GaussianNoise(sd=0.1))
    assert problem.mass_cut < 1e-3
    posterior = problem.sample(uq.Laplace(draws=200), rng=1)
    assert f"since the {n} runs fill it" in posterior.verdict["prior mass cut"].message


def test_runs_over_half_of_the_box_are_refused_and_the_call_is_named() -> None:
    u = DESIGNS["random"](100, 5, 3)
    u[:, 3] *= 0.5
    table = runs(u)
    assert "box" not in table.attrs
    assert uq.ensemble.get_box(table).upper[3] == table["d"].values.max()
    data, noise = xr.DataArray(1.4, name="y"), uq.GaussianNoise(sd=0.1)
    fit = uq.GaussianProcess(hyperparameters="point").fit
    with pytest.raises(
        ExtrapolationError, match=r"most of it along 'd'.*build\(\.\.\., space=space, box=space\.box\(\)"
    ):
        uq.Calibration(fit(table), data, noise=noise)
    uq.Calibration(fit(runs(u, box=SPACE.box())), data, noise=noise)  # what the message says


def test_fewer_than_twenty_runs_and_inputs_that_stay_the_same_keep_their_range() -> None:
    u = DESIGNS["sobol"](16, 5, 3)
    assert "box" not in runs(u).attrs
    u = DESIGNS["sobol"](32, 5, 3)
    u[:, 2] = 0.5
    assert "box" not in runs(u).attrs


def test_a_box_that_is_given_or_comes_with_a_design_is_kept() -> None:
    box = Box(SPACE.inputs, SPACE.box().lower, (1.0, 2.0, 3.0, 0.5, 2.0))
    table = runs(DESIGNS["sobol"](64, 5, 3), box=box)
    assert uq.ensemble.get_box(table) == box
    assert "box_note" not in table.attrs
    design = uq.sobol(SPACE, 32, rng=1)
    assert "box_note" not in uq.ensemble.build(design, {"y": design["a"].values}).attrs


def test_a_condition_keeps_the_range_of_runs_at_a_few_levels() -> None:
    space = uq.ParameterSpace(k=uq.Uniform(0.0, 1.0), conditions={"dose": uq.Condition(0.0, 100.0)})
    u = DESIGNS["sobol"](64, 2, 3)
    levels = np.where(u[:, 1] < 0.5, 30.0, 60.0)
    table = uq.ensemble.build({"k": u[:, 0], "dose": levels}, {"y": u[:, 0]}, space=space)
    box = uq.ensemble.get_box(table)
    assert (box.lower[0], box.upper[0]) == (0.0, 1.0)
    assert (box.lower[1], box.upper[1]) == (30.0, 60.0)
    assert box.hard == ((True, True), (False, False))
    filled = uq.ensemble.get_box(uq.ensemble.build({"k": u[:, 0], "dose": 100 * u[:, 1]}, {"y": u[:, 0]}, space=space))
    assert (filled.lower[1], filled.upper[1], filled.hard[1]) == (0.0, 100.0, (True, True))


def test_draws_of_a_joint_prior_fill_its_box() -> None:
    block = uq.MultivariateNormal(("a", "b"), [0.0, 0.0], [[1.0, 0.95], [0.95, 1.0]])
    space = uq.ParameterSpace(block, c=uq.Uniform(0.0, 1.0))
    table = runs(DESIGNS["random"](100, 3, 5), space)
    assert "box_note" in table.attrs
    x = space.from_cube(DESIGNS["random"](100, 3, 5))
    x[:, 1] = np.minimum(x[:, 1], x[:, 0])  # nothing above the diagonal
    assert "box" not in uq.ensemble.build(x, {"y": x[:, 0]}, space=space).attrs


def test_tables_that_fill_it_together() -> None:
    u = DESIGNS["sobol"](32, 5, 3)
    first, second = runs(u[:16]), runs(u[16:])
    whole = uq.ensemble.combine(first, second)
    assert json.loads(whole.attrs["box"])["lower"] == list(SPACE.box().lower)

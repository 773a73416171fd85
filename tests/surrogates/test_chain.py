"""Chains of surrogates: closed forms, brute force, members of any kind, draws, what is refused, files, push-forward."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import multivariate_normal
from surrogates.members import (
    GRAPHS,
    cell,
    linear,
    member,
    of_a_curve,
    of_different_boxes,
    tissue,
    trace,
    two,
    used_twice,
)

import uqms as uq
from uqms._threads import single_threaded
from uqms._typing import Array
from uqms.errors import ConformanceError, InputError, UnitError
from uqms.surrogates import Chain, GaussianProcessSurrogate, Layout, Surrogate
from uqms.surrogates.outputs import OutputBasis
from uqms.testing import ToySurrogate

CELL, SPEED = 0, 1  # scores of a chain of two
checked = single_threaded(uq.testing.check_surrogate)  # small matrices are slow in many threads
SLOPES = {"apd": -0.6, "x": 0.9}
G = {"g": (0.0, 2.0)}
TISSUE = {"x": (0.0, 1.0), "apd": (-3.0, 5.0)}


def linear_chain() -> uq.Chain:
    """Return y = 1.5 g + error(g), and z = -0.6 y + 0.9 x + error(x)."""
    parent = linear(G, "apd", {"g": 1.5}, 0.3, ell={"g": 0.7})
    child = linear(TISSUE, "speed", SLOPES, 0.1, ell={"x": 0.4}, conditions=("x",))
    return uq.Chain(cell=parent, tissue=child, links={"tissue.apd": "cell.apd"})


def closed_form(chain: uq.Chain, u: Array) -> tuple[Array, Array]:
    """Return mean (k, 2) and covariance (k, 2, k, 2) of a linear chain, written out."""
    parent, child = chain.members["cell"], chain.members["tissue"]
    first = parent.scores(u[:, :1])
    y = first.mean[0, :, 0]
    second = child.scores(child.domain.to_unit(np.column_stack([u[:, 1], y])))
    J = np.array([1.0, SLOPES["apd"]])
    covariance = np.einsum("i,j,ab->aibj", J, J, first.covariance[0, 0])
    covariance[:, 1, :, 1] += second.covariance[0, 0]
    return np.column_stack([y, second.mean[0, :, 0]]), covariance


# --- closed forms -----------------------------------------------------------------------------------------------------


def test_linear_members_are_the_linked_gaussian() -> None:
    chain = linear_chain()
    u = np.array([[0.2, 0.1], [0.2, 0.8], [0.9, 0.1], [0.5, 0.5]])
    mean, covariance = closed_form(chain, u)
    found = chain.scores(u)
    np.testing.assert_allclose(found.mean[0], mean, atol=1e-8)
    np.testing.assert_allclose(found.covariance[0], covariance, atol=1e-8)
    # The first two differ in the tissue's condition only: they share the error of the cell, all of it.
    own = chain.members["tissue"].scores(np.column_stack([u[:, 1], np.zeros(4)])).covariance[0, 0]
    passed = found.covariance[0, :, SPEED, :, SPEED] - own
    assert passed[0, 1] == pytest.approx(passed[0, 0], rel=1e-8)
    assert 0.0 < passed[0, 2] < 0.9 * passed[0, 0]


def test_derivatives_of_linear_members_are_written_out() -> None:
    """By the chain rule: the mean by the slopes, the covariance by that of the parent's process."""
    chain = linear_chain()
    u = np.array([[0.3, 0.2], [0.8, 0.6]])
    only = np.zeros((1, 2, 2))
    only[0, 0, SPEED] = 1.0
    slope = chain.scores_reverse(u, only, np.zeros((1, 2, 2, 2, 2)))
    expected = np.array([[1.5 * SLOPES["apd"] * 2.0, SLOPES["x"]], [0.0, 0.0]])  # of the unit cube: g is [0, 2]
    np.testing.assert_allclose(slope, expected, atol=1e-8)
    joint = np.zeros((1, 2, 2, 2, 2))
    joint[0, 0, SPEED, 1, SPEED] = 1.0
    slope = chain.scores_reverse(u, np.zeros((1, 2, 2)), joint)

    def by_distance(ell: float, distance: float, sd: float) -> float:
        r = np.sqrt(5.0) * distance / ell
        return float(sd**2 * np.exp(-r) * (-r / 3.0 - r**2 / 3.0) * np.sqrt(5.0) / ell)

    by_g, by_x = by_distance(0.7, 0.5, 0.3) * SLOPES["apd"] ** 2, by_distance(0.4, 0.4, 0.1)
    np.testing.assert_allclose(slope, [[-by_g, -by_x], [by_g, by_x]], atol=1e-8)


def test_the_density_of_data_is_the_multivariate_normal() -> None:
    chain = linear_chain()
    u = np.array([[0.4, 0.1], [0.4, 0.5], [0.4, 0.9]])
    mean, covariance = closed_form(chain, u)
    rows = [0, 1, 3, 5]  # the cell once, the tissue three times
    z, noise = np.array([1.0, -0.4, 0.1, 0.3]), 0.05**2 * np.eye(4)
    expected = multivariate_normal(mean.ravel()[rows], covariance.reshape(6, 6)[np.ix_(rows, rows)] + noise).logpdf(z)
    table = uq.Observations.from_xarray(xr.DataArray(z[0], name="cell.apd"))
    speeds = xr.DataArray(z[1:], dims="experiment", coords={"x": ("experiment", u[:, 1])}, name="tissue.speed")
    data = uq.Observations.concat([table, uq.Observations.from_xarray(speeds, conditions=("x",))])
    problem = uq.Calibration(chain, data, dict.fromkeys(("cell.apd", "tissue.speed"), uq.GaussianNoise(sd=0.05)))
    assert float(problem.log_likelihood({"g": 0.8})) == pytest.approx(expected, abs=1e-8)


# --- brute force ------------------------------------------------------------------------------------------------------


def moments_by_force(chain: uq.Chain, u: Array, draws: int, joint: bool = True) -> tuple[Array, Array, Array, Array]:
    """Return mean and covariance of the tissue at inputs, and their standard errors, from draws of the cell's error.

    Each draw of what is passed on goes through the tissue's mean, and its covariance. With `joint` False the cell's
    error is drawn anew for every condition.
    """
    rng, (parent, child) = np.random.default_rng(5), (chain.members["cell"], chain.members["tissue"])
    first = parent.scores(u[:, :2])
    basis = parent.bases[0]
    covariance = first.covariance[0, 0] if joint else np.diag(np.diagonal(first.covariance[0, 0]))
    root = np.linalg.cholesky(covariance + 1e-12 * np.eye(len(u)))
    score = first.mean[0, :, 0] + rng.standard_normal((draws, len(u))) @ root.T
    y = basis.offset[0] + basis.basis[0, 0] * score
    inputs = np.stack([y, np.broadcast_to(u[:, 2], y.shape)], axis=-1)
    second = child.scores(child.domain.to_unit(inputs.reshape(-1, 2)).reshape(inputs.shape))
    m, S = second.mean[0, :, :, 0], second.covariance[0, :, 0]
    centred = m - m.mean(axis=0)
    products = centred[:, :, None] * centred[:, None, :] + S
    count = np.sqrt(draws)
    return m.mean(axis=0), products.mean(axis=0), m.std(axis=0) / count, products.std(axis=0) / count


def mild_chain() -> uq.Chain:
    return uq.Chain(cell=cell(n=6, variance=0.1), tissue=tissue(n=30), links={"tissue.apd": "cell.apd"})


def test_the_covariance_between_conditions_is_that_of_brute_force() -> None:
    """Three tissue conditions of one cell, and one of another cell; what is shared is the cell's error."""
    chain = mild_chain()
    u = np.array([[0.95, 0.05, 0.1], [0.95, 0.05, 0.4], [0.95, 0.05, 0.9], [0.8, 0.2, 0.4]])
    mean, covariance, mean_error, error = moments_by_force(chain, u, 20_000)
    found = chain.scores(u)
    speed = found.covariance[0, :, SPEED, :, SPEED]
    assert np.all(np.abs(found.mean[0, :, SPEED] - mean) < 4.0 * mean_error + 1e-6)
    assert np.all(np.abs(speed - covariance) < 4.0 * error + 1e-6)
    # What is wrong differs by far more: an error of its own for every condition, or none.
    _, independent, _, _ = moments_by_force(chain, u, 20_000, joint=False)
    for wrong in (independent, chain_without_cell(chain, u)):
        assert np.max(np.abs(wrong - covariance) / error) > 40.0


def chain_without_cell(chain: uq.Chain, u: Array) -> Array:
    """Return the covariance of the tissue at the cell's mean."""
    parent, child = chain.members["cell"], chain.members["tissue"]
    y = parent.bases[0].offset[0] + parent.bases[0].basis[0, 0] * parent.scores(u[:, :2]).mean[0, :, 0]
    return np.asarray(child.scores(child.domain.to_unit(np.column_stack([y, u[:, 2]]))).covariance[0, 0])


def test_the_error_of_a_cell_is_one_error_for_all_conditions() -> None:
    """The part of the covariance that is passed on has rank one, and so has that with the cell's own data."""
    chain = mild_chain()
    u = np.array([[0.95, 0.05, x] for x in (0.1, 0.4, 0.9)])
    joint = chain.scores(u).covariance[0]
    y, own = chain._graph.links(u)[0][1][0, :, 0], chain.members["tissue"]
    inputs = own.domain.to_unit(np.column_stack([y, u[:, 2]]))
    passed = joint[:, SPEED, :, SPEED] - own.scores(inputs).covariance[0, 0]
    sd = np.sqrt(np.diagonal(passed))
    np.testing.assert_allclose(passed, np.outer(sd, sd) * np.sign(passed), rtol=1e-8)
    with_cell = joint[0, CELL, :, SPEED] / np.sqrt(joint[0, CELL, 0, CELL])
    np.testing.assert_allclose(np.abs(with_cell), sd, rtol=1e-8)


def test_a_function_that_is_used_twice_correlates_with_itself() -> None:
    """Of the two steps the errors are those of one function: brute force over joint draws of it."""
    chain = used_twice()
    u, draws = np.array([[0.15, 0.85]]), 20_000
    step = chain.members["first"]
    basis, rng, h = step.bases[0], np.random.default_rng(6), 0
    first = step.scores(u)
    e = rng.standard_normal((draws, 2))
    one = first.mean[h, 0, 0] + np.sqrt(first.covariance[h, 0, 0, 0]) * e[:, 0]
    y = basis.offset[0] + basis.basis[0, 0] * one
    inputs = step.domain.to_unit(np.column_stack([y, np.full(draws, u[0, 1])]))
    both = step.scores(np.stack([np.broadcast_to(u, inputs.shape), inputs], axis=1))
    C = both.covariance[h, :, 0]
    weight = C[:, 1, 0] / C[:, 0, 0]
    rest = np.sqrt(np.maximum(C[:, 1, 1] - weight * C[:, 1, 0], 0.0))
    two = both.mean[h, :, 1, 0] + weight * (one - first.mean[h, 0, 0]) + rest * e[:, 1]
    found = chain.scores(u)
    order = np.argsort(chain._graph.functions[0].draws)  # which draw of the chain is draw 0 of the function
    covariance, expected = found.covariance[order[h], 0, :, 0], np.cov(one, two)
    np.testing.assert_allclose(found.mean[order[h], 0, 1], two.mean(), atol=4.0 * two.std() / np.sqrt(draws))
    np.testing.assert_allclose(covariance, expected, rtol=0.05)
    independent = replace(step)  # an equal surrogate that is another object: two functions
    other = uq.Chain(first=step, second=independent, links={"second.s": "first.s"})
    apart = other.scores(u).covariance[order[h], 0, :, 0]
    assert abs(apart[1, 1] / expected[1, 1] - 1.0) > 0.1


# --- members of any kind ----------------------------------------------------------------------------------------------


def slowly(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow)


def levels() -> Surrogate:
    space = uq.ParameterSpace(apd=uq.Uniform(-6.0, 9.0), k=uq.Uniform(0.0, 1.0))
    parts = []
    for level, n in (("coarse", 12), ("fine", 7)):
        design = uq.sobol(space, n, rng=1)
        y = np.sin(0.2 * design["apd"].values) + (0.2 if level == "fine" else 0.0) * design["k"].values
        parts.append(uq.ensemble.build(design, {"speed": y}, space=space, fidelity=level))
    return uq.MultiFidelity(levels=("coarse", "fine")).fit(uq.ensemble.combine(*parts))


def toy(correlated: bool, draws: int = 2) -> ToySurrogate:
    space = uq.ParameterSpace(g=uq.Uniform(0.0, 1.0), h=uq.Uniform(0.0, 1.0))
    return ToySurrogate(space.box(), correlated=correlated, by_input=False, draws=draws, sd=0.2)


def on_levels(surrogate: Surrogate) -> uq.Chain:
    return uq.Chain(cell=toy(correlated=False), tissue=surrogate, links={"tissue.apd": "cell.level"})


def from_the_toy(correlated: bool) -> uq.Chain:
    links = {"tissue.apd": uq.Link("cell.curve", at={"time": 0.5})}
    return uq.Chain(cell=toy(correlated), tissue=wide(), links=links)


def wide() -> GaussianProcessSurrogate:
    box = {"apd": (-4.0, 8.0), "x": (0.0, 1.0)}
    return member(box, {"speed": lambda a, x: np.sin(0.3 * a + x)}, n=14, conditions=("x",))


def onto_the_toy() -> uq.Chain:
    """The toy takes two outputs, by draws of its own."""
    parent = member({"a": (0.0, 1.0)}, {"one": lambda a: a**2, "two": lambda a: np.cos(a)}, n=4, draws=2)
    return uq.Chain(cell=parent, tissue=toy(True, 3), links={"tissue.g": "cell.one", "tissue.h": "cell.two"})


@pytest.mark.parametrize("name", ["two members", *(slowly(n) for n in ("two links", "diamond", "used twice"))])
def test_a_chain_keeps_the_promises_of_a_surrogate(name: str) -> None:
    found = checked(GRAPHS[name](), draws=500)
    assert found.ok, str(found)


@pytest.mark.parametrize("case", [slowly("correlated toy"), slowly("toy"), "onto the toy", slowly("levels")])
def test_members_that_compiled_code_does_not_know_keep_them_too(case: str) -> None:
    chain = {
        "correlated toy": lambda: from_the_toy(True),
        "toy": lambda: from_the_toy(False),
        "onto the toy": onto_the_toy,
        "levels": lambda: on_levels(levels()),
    }[case]()
    assert chain._block is None
    # The toy's truncation is passed on: it is new with each input, so that it makes near inputs differ.
    expected = [] if case == "onto the toy" else ["near inputs"]
    assert list(checked(chain, draws=500).failed) == expected


@pytest.mark.slow
def test_regimes_as_a_member() -> None:
    space = uq.ParameterSpace(g=uq.Uniform(0.0, 1.0))
    design = uq.sobol(space, 24, rng=1)
    g = design["g"].values
    runs = uq.ensemble.build(design, {"apd": np.where(g > 0.5, 3.0 + g, 1.5 + g)}, space=space)
    regression = uq.GaussianProcess(hyperparameters="point", scales="given")
    chain = uq.Chain(
        cell=uq.Regimes(members=8, regression=regression).fit(runs), tissue=tissue(), links={"tissue.apd": "cell.apd"}
    )
    u = np.array([[0.1, 0.5], [0.9, 0.5]])
    members = chain.scores(u).mean[..., -1]  # each has a border of its own
    passed = chain.push_forward({"g": np.full(200, 0.9)}).links["tissue.apd"]
    assert 0.1 < np.mean(passed > 3.0)
    child = chain.members["tissue"]
    for k, g in enumerate((0.1, 0.9)):
        y = np.array([1.5 + g, 3.0 + g])
        possible = child.scores(child.domain.to_unit(np.column_stack([y, [0.5, 0.5]]))).mean[0, :, 0]
        assert np.abs(members[:, k, None] - possible).min(axis=1) == pytest.approx(0.0, abs=0.2)


class Jumping(ToySurrogate):  # type: ignore[misc]
    """A member whose scores jump, as those of `Regimes` do."""

    differentiable = False


def test_a_chain_has_derivatives_where_all_members_have() -> None:
    """Samplers with gradients are refused otherwise."""
    space = uq.ParameterSpace(g=uq.Uniform(0.0, 1.0), h=uq.Uniform(0.0, 1.0))
    parent = Jumping(space.box(), by_input=False)
    chain = uq.Chain(cell=parent, tissue=wide(), links={"tissue.apd": "cell.level"})
    assert not getattr(chain, "differentiable", True)


# --- draws and the mean -----------------------------------------------------------------------------------------------


@single_threaded
def values_at(chain: uq.Chain, n: int, *inputs: Array) -> list[Array]:
    """Return draws of a chain (n, k, q) at one set of inputs after the other."""
    drawn = chain.functions(n, 1)
    return [drawn(u) for u in inputs]


def test_draws_of_the_function_have_the_moments_of_the_scores() -> None:
    chain = mild_chain()
    u, n = np.array([[0.95, 0.05, 0.1], [0.95, 0.05, 0.9], [0.7, 0.3, 0.4]]), 300
    values, again, reverse = values_at(chain, n, u, u, u[::-1])
    np.testing.assert_array_equal(values, again)
    np.testing.assert_array_equal(values[:, ::-1], reverse)
    found = chain.scores(u)
    mean, covariance = found.mean[0].ravel(), found.covariance[0].reshape(6, 6)
    sd = np.sqrt(np.diagonal(covariance))
    flat = values.reshape(n, -1)
    assert np.all(np.abs(flat.mean(axis=0) - mean) < 4.0 * sd / np.sqrt(n))
    error = np.sqrt((np.outer(sd, sd) ** 2 + covariance**2) / n)
    assert np.all(np.abs(np.cov(flat.T) - covariance) < 4.5 * error)


@pytest.mark.parametrize("name", ["two links", "diamond", "used twice", "curve"])
def test_draws_of_other_graphs_have_their_means(name: str) -> None:
    chain = GRAPHS[name]()
    u, n = np.random.default_rng(3).uniform(0.2, 0.8, (2, chain.domain.d)), 100
    (values,), found = values_at(chain, n, u), chain.scores(u)
    weights = np.exp(found.log_weights)
    mean = np.tensordot(weights, found.mean, 1)
    own = np.swapaxes(np.diagonal(found.by_score, axis1=-2, axis2=-1), -1, -2)  # (H, k, q)
    variance = np.tensordot(weights, own + (found.mean - mean) ** 2, 1)
    assert np.all(np.abs(values.mean(axis=0) - mean) < 4.5 * np.sqrt(variance / n))
    np.testing.assert_allclose(values.var(axis=0), variance, rtol=0.6)


def test_draws_hold_the_truncation_that_links_pass_on() -> None:
    parent = trace()
    basis = parent.bases[0]
    parent = replace(parent, bases=(replace(basis, truncation=8.0 * basis.truncation),))
    links = {"tissue.apd": uq.Link("cell.trace", at={"t": 0.25})}
    chain = uq.Chain(cell=parent, tissue=tissue(), links=links)
    u = np.array([[0.4, 0.5, 0.4]])
    sd = np.sqrt(chain.scores(u).covariance[0, 0, -1, 0, -1])
    assert values_at(chain, 200, u)[0][:, 0, -1].std() == pytest.approx(sd, rel=0.3)


def test_predictions_name_members_and_outputs() -> None:
    chain = of_a_curve()
    assert chain.outputs == {"cell.trace": ("t",), "tissue.speed": ()}
    assert chain.inputs == ("g", "h", "x")
    assert chain.inputs_of("cell.trace") == ("g", "h")
    assert chain.inputs_of("tissue.speed") == ("g", "h", "x")
    assert chain.scales == {"cell": ("g", "h"), "tissue": ("x",)}
    assert of_different_boxes().scales == {"cell+tissue": ("g",), "cell": ("h",), "tissue": ("x",)}
    assert of_different_boxes().domain.lower[0] == 0.5
    assert of_different_boxes().domain.upper[0] == 1.5
    assert "tissue.end from cell.trace" in repr(chain)
    assert chain.runs == 26
    assert chain.coords["t"].shape == (5,)
    prediction = chain.predict({"g": 0.3, "h": 0.5, "x": 0.5})
    alone = chain.members["cell"].predict({"g": 0.3, "h": 0.5})
    np.testing.assert_allclose(prediction.mean["cell.trace"], alone.mean["trace"], rtol=1e-10)
    np.testing.assert_allclose(prediction.sd["cell.trace"], alone.sd["trace"], rtol=1e-6)
    with pytest.raises(InputError, match="has no output 'speed'; it has"):
        chain.decode("speed")


@pytest.mark.parametrize("name", ["two members", "log", "logit", "curve", "positive curve"])
def test_the_mean_at_a_point_and_its_gradient(name: str) -> None:
    """Scores are correlated: the gradient of outputs with a transform goes through their covariance."""
    chain = GRAPHS[name]()
    point = dict(zip(chain.inputs, chain.domain.from_unit(np.array([[0.3, 0.6, 0.4]]))[0], strict=True))
    mean = chain.evaluate(point)
    expected = chain.predict(point).mean
    weights = {}
    for k, output in enumerate(chain.outputs):
        np.testing.assert_allclose(mean[output], expected[output].values.reshape(mean[output].shape), rtol=1e-10)
        weights[output] = np.cos(1.0 + k + np.arange(mean[output].size)).reshape(mean[output].shape)
    slope = chain.gradient(point, weights)
    for j, key in enumerate(chain.inputs):
        step = 1e-5 * (chain.domain.upper[j] - chain.domain.lower[j])
        ends = []
        for sign in (1.0, -1.0):
            at = chain.evaluate(point | {key: point[key] + sign * step})
            ends.append(sum(float(np.sum(at[output] * weights[output])) for output in weights))
        assert slope[key] == pytest.approx((ends[0] - ends[1]) / (2.0 * step), rel=1e-5, abs=1e-6)


# --- what is refused --------------------------------------------------------------------------------------------------


def stochastic() -> Any:
    return replace(cell(), attrs={**cell().attrs, "noise": "fitted"})


def with_coords(times: Array) -> GaussianProcessSurrogate:
    """Return a curve over "t" at other coordinates, that takes a number."""
    found = member({"apd": (1.0, 5.0)}, {"curve": lambda a: a[:, None] * np.linspace(0.0, 1.0, 5)})
    basis = replace(found.bases[0], layout=Layout(("t",), {"t": times}))
    return replace(found, bases=(basis,))


def joint_prior() -> GaussianProcessSurrogate:
    block = uq.MultivariateNormal(("apd", "g"), mean=[3.0, 0.5], covariance=np.diag([0.1, 0.01]))
    child = member({"apd": (1.0, 5.0), "g": (0.0, 1.0)}, {"speed": lambda a, g: a + g})
    return replace(child, attrs={"space": uq.ParameterSpace(block).to_json()})


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "one member": (lambda: Chain(cell=cell(), links={"cell.g": "cell.apd"}), InputError, "at least two fitted"),
    "settings": (
        lambda: Chain(cell=uq.GaussianProcess(), tissue=tissue(), links={"tissue.apd": "cell.apd"}),
        InputError,
        r"cell is a GaussianProcess; give a fitted surrogate, uq\.GaussianProcess\(\)\.fit",
    ),
    "a class": (
        lambda: Chain(cell=GaussianProcessSurrogate, tissue=tissue(), links={"tissue.apd": "cell.apd"}),
        InputError,
        "cell is a GaussianProcessSurrogate; give a fitted",
    ),
    "a chain": (
        lambda: Chain(whole=two(), tissue=tissue(), links={"tissue.apd": "whole.cell.apd"}),
        InputError,
        r"uq\.Chain\(\*\*whole\.members, \.\.\., links=",
    ),
    "a simulator": (
        lambda: Chain(
            cell=uq.DirectSimulator(
                lambda g: {"apd": g}, space=uq.ParameterSpace(g=uq.Uniform(0.0, 1.0)), outputs={"apd": ()}
            ),
            tissue=tissue(),
            links={"tissue.apd": "cell.apd"},
        ),
        ConformanceError,
        "emulate the two together",
    ),
    "stochastic": (
        lambda: Chain(cell=stochastic(), tissue=tissue(), links={"tissue.apd": "cell.apd"}),
        ConformanceError,
        "or the mean of replicates with noise='none'",
    ),
    "rows by input": (
        lambda: Chain(cell=replace(toy(True), by_input=True), tissue=tissue(), links={"tissue.apd": "cell.level"}),
        ConformanceError,
        "Members need rows that are the same over the box",
    ),
    "no links": (lambda: Chain(cell=cell(), tissue=tissue(), links={}), InputError, "give a mapping"),
    "a list": (lambda: Chain(cell=cell(), tissue=tissue(), links=["tissue.apd"]), InputError, "give a mapping"),
    "a number": (
        lambda: Chain(cell=cell(), tissue=tissue(), links={"tissue.apd": 1.0}),
        InputError,
        r"give 'member\.output' or uq\.Link",
    ),
    "unknown member": (
        lambda: Chain(cell=cell(), tissue=tissue(), links={"organ.apd": "cell.apd"}),
        InputError,
        r"'organ\.apd' in links names no member; give 'member\.input' with one of cell, tissue",
    ),
    "unknown input": (
        lambda: Chain(cell=cell(), tissue=tissue(), links={"tissue.cl": "cell.apd"}),
        InputError,
        "tissue has no input 'cl'; it has apd, x",
    ),
    "unknown output": (
        lambda: Chain(cell=cell(), tissue=tissue(), links={"tissue.apd": "cell.peak"}),
        InputError,
        "cell has no output 'peak'; it has apd",
    ),
    "unlinked member": (
        lambda: Chain(cell=cell(), tissue=tissue(), other=tissue(), links={"tissue.apd": "cell.apd"}),
        InputError,
        r"other is linked to nothing\. Leave it out",
    ),
    "loop": (
        lambda: Chain(
            cell=member({"s": (0.0, 1.0), "g": (0.0, 1.0)}, {"apd": lambda s, g: 1.0 + s + g}),
            tissue=tissue(),
            links={"tissue.apd": "cell.apd", "cell.s": "tissue.speed"},
        ),
        InputError,
        "cell, tissue form a loop.*iterate the members to their fixed point",
    ),
    "itself": (
        lambda: Chain(
            cell=member({"s": (0.0, 1.0), "g": (0.0, 1.0)}, {"apd": lambda s, g: 1.0 + s + g}),
            tissue=tissue(),
            links={"tissue.apd": "cell.apd", "cell.s": "cell.apd"},
        ),
        InputError,
        "form a loop",
    ),
    "no common box": (
        lambda: Chain(
            cell=member({"x": (2.0, 3.0)}, {"apd": lambda x: x}), tissue=tissue(), links={"tissue.apd": "cell.apd"}
        ),
        InputError,
        "'x' of tissue was simulated between 0 and 1, elsewhere between 2 and 3.*Rename one, or link it",
    ),
    "different priors": (
        lambda: Chain(
            cell=cell(),
            tissue=member({"apd": (1.0, 5.0), "g": (0.0, 0.9)}, {"speed": lambda a, g: a + g}),
            links={"tissue.apd": "cell.apd"},
        ),
        InputError,
        "'g' has the prior.*in cell and.*in tissue.*or rename one of the two",
    ),
    "joint prior": (
        lambda: Chain(cell=cell(), tissue=joint_prior(), links={"tissue.apd": "cell.apd"}),
        InputError,
        "'apd' of tissue is linked, but its design gave it a joint prior",
    ),
    "units": (
        lambda: Chain(
            cell=cell(units={"apd": "s"}), tissue=tissue(units={"apd": "ms"}), links={"tissue.apd": "cell.apd"}
        ),
        UnitError,
        r"cell\.apd is in 's', but tissue takes 'apd' in 'ms'\. Convert one",
    ),
    "coordinates": (
        lambda: Chain(
            cell=trace(),
            tissue=with_coords(np.linspace(0.0, 2.0, 5)),
            links={"tissue.apd": uq.Link("cell.trace", at={"t": 0.5})},
        ),
        InputError,
        r"different coordinates along 't'\. Rename one in the runs, ensemble\.rename\(t='tissue_t'\)",
    ),
    "curve without a place": (
        lambda: Chain(cell=trace(), tissue=tissue(), links={"tissue.apd": "cell.trace"}),
        InputError,
        r"uq\.Link\('cell\.trace', at=\{'t': \.\.\.\}\) for a value",
    ),
    "another dim": (
        lambda: Chain(cell=trace(), tissue=tissue(), links={"tissue.apd": uq.Link("cell.trace", at={"s": 1.0})}),
        InputError,
        r"at=\{'t': \.\.\.\}",
    ),
    "place of a number": (
        lambda: Chain(cell=cell(), tissue=tissue(), links={"tissue.apd": uq.Link("cell.apd", at={"t": 1.0})}),
        InputError,
        r"is a number without dims; link it by its name, 'cell\.apd'",
    ),
    "weights of another size": (
        lambda: Chain(
            cell=trace(),
            tissue=tissue(),
            links={"tissue.apd": uq.Link("cell.trace", weights=xr.DataArray(np.ones(4), dims="t"))},
        ),
        InputError,
        r"have the sizes \{'t': 4\}; give \{'t': 5\}",
    ),
    "weights of a logarithm": (
        lambda: Chain(
            cell=trace(transforms={"trace": uq.Log()}),
            tissue=tissue(),
            links={"tissue.apd": uq.Link("cell.trace", weights=xr.DataArray(np.ones(5), dims="t"))},
        ),
        InputError,
        "is modelled by its log.*Compute the sum from the runs",
    ),
    "link of neither": (lambda: uq.Link("cell.trace"), InputError, r"give at=\{dim: value\} or weights=DataArray"),
    "link of both": (
        lambda: uq.Link("cell.trace", at={"t": 1.0}, weights=xr.DataArray(np.ones(5), dims="t")),
        InputError,
        "one of them",
    ),
    "name of a link": (lambda: uq.Link(3, at={"t": 1.0}), InputError, "output"),
    "draws": (lambda: two().functions(0, 1), InputError, "whole number of at least 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_linked_is_refused_with_the_remedy(case: str) -> None:
    make, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        make()


def test_a_chain_does_not_change() -> None:
    chain = two()
    with pytest.raises(TypeError):
        chain.members["cell"] = cell()  # type: ignore[index]
    with pytest.raises(TypeError):
        chain.links["tissue.x"] = "cell.apd"  # type: ignore[index]
    with pytest.raises(AttributeError, match="make another one"):
        chain.members = {}


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["two members", "used twice", "curve", "log", "different boxes"])
def test_files_give_the_same_scores_bit_for_bit(name: str, tmp_path: Path) -> None:
    chain = GRAPHS[name]()
    u = np.random.default_rng(3).uniform(0.1, 0.9, (3, chain.domain.d))
    for same in (uq.load_surrogate(chain.save(tmp_path / "chain.npz")), pickle.loads(pickle.dumps(chain))):
        assert isinstance(same, uq.Chain)
        assert repr(same) == repr(chain)
        assert list(same.members) == list(chain.members)
        for one, other in zip(same.scores(u), chain.scores(u), strict=True):
            np.testing.assert_array_equal(one, other)
        assert same.attrs == dict(chain.attrs)
        if name == "used twice":
            assert same.members["first"] is same.members["second"]


def test_a_member_without_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a member is a ToySurrogate, which has no file"):
        from_the_toy(True).save(tmp_path / "chain.npz")


# --- what is passed on ------------------------------------------------------------------------------------------------


def test_the_push_forward_is_the_predictive_distribution_of_what_is_passed_on() -> None:
    chain = two()
    found = chain.push_forward(n=4096, rng=1)  # of one error each
    table = found.table
    assert list(table.index) == ["tissue.apd"]
    space = uq.ParameterSpace.from_json(chain.attrs["space"])
    points = space.draw(256, rng=2)
    draws = chain.members["cell"].predict({"g": points["g"], "h": points["h"]}).draws(200, rng=3)["apd"].values.ravel()
    row = table.loc["tissue.apd"]
    assert row["mean"] == pytest.approx(draws.mean(), abs=0.1)  # 256 points have a standard error of 0.025
    assert row["sd"] == pytest.approx(draws.std(), rel=0.1)
    assert row["2.5%"] == pytest.approx(np.quantile(draws, 0.025), abs=0.1)
    assert row["97.5%"] == pytest.approx(np.quantile(draws, 0.975), abs=0.1)
    assert (row["simulated from"], row["to"]) == (1.0, 5.0)
    assert found.outside["tissue.apd"] == pytest.approx(np.mean((draws < 1.0) | (draws > 5.0)), abs=0.01)
    assert "Linked inputs, from the members that give them:" in repr(found)
    posterior = chain.push_forward({"g": np.full(500, 0.5), "h": np.full(500, 0.5)})
    assert posterior.table.loc["tissue.apd", "sd"] < 0.5 * row["sd"]
    with pytest.raises(InputError, match=r"draws lack h; give values of g, h, x"):
        chain.push_forward({"g": [0.5]})


def test_a_design_over_what_is_passed_on_holds_it() -> None:
    chain = uq.Chain(cell=cell(), tissue=tissue(upper=2.5), links={"tissue.apd": "cell.apd"})
    found = chain.push_forward()
    assert found.outside["tissue.apd"] > 0.3
    design = found.design("tissue", 64, rng=1)
    values = found.links["tissue.apd"]
    space = found.space("tissue")
    assert list(space.inputs) == ["apd", "x"]
    assert design["apd"].values.min() < np.quantile(values, 0.01)
    assert design["apd"].values.max() > np.quantile(values, 0.99)
    # Runs there, and the chain passes on nothing outside.
    outputs = {"speed": np.sin(0.8 * design["apd"].values + design["x"].values)}
    again = uq.GaussianProcess(hyperparameters="point", scales="given").fit(
        uq.ensemble.build(design, outputs, space=space)
    )
    mended = uq.Chain(cell=chain.members["cell"], tissue=again, links=chain.links)
    assert mended.push_forward().outside["tissue.apd"] < 0.01
    with pytest.raises(InputError, match="'cell' takes no links; those that do are tissue"):
        found.design("cell", 8)


@pytest.mark.parametrize("where", [0.0, 1.0])
def test_a_single_point_has_the_box_of_the_runs_and_itself(where: float) -> None:
    chain = uq.Chain(cell=cell(), tissue=tissue(upper=2.5), links={"tissue.apd": "cell.apd"})
    whole = uq.sobol(uq.ParameterSpace.from_json(chain.attrs["space"]), 64, rng=1)
    at = int(np.argmin(np.abs(chain.predict(whole).mean["cell.apd"].values - (1.5 if where else 4.0))))
    design = chain.design_of(whole.isel(run=[at]), "tissue", rng=1)
    box, former = uq.Box.from_dict(json.loads(design.attrs["box"])), chain.members["tissue"].domain
    point, j, k = float(design["apd"].values[0]), box.names.index("apd"), former.names.index("apd")
    assert (box.lower[j], box.upper[j]) == (min(point, former.lower[k]), max(point, former.upper[k]))
    assert box.upper[j] > box.lower[j]


def test_the_push_forward_of_two_links_and_of_a_transform() -> None:
    found = GRAPHS["two links"]().push_forward(n=512)
    assert list(found.table.index) == ["tissue.peak", "tissue.apd"]
    assert set(found.space("tissue").inputs) == {"peak", "x", "apd"}
    positive = GRAPHS["log"]().push_forward(n=512)
    assert positive.links["tissue.apd"].min() > 0.0
    assert positive.table.loc["tissue.apd", "mean"] == pytest.approx(2.8, abs=0.3)


# --- fractions by scale -----------------------------------------------------------------------------------------------


def test_indices_by_scale_are_those_of_groups() -> None:
    chain = of_different_boxes()
    settings = {"outputs": ["tissue.speed"], "conditions": {"x": 0.5}, "draws": 20, "bootstrap": 5, "points": 64}
    settings["inputs"] = uq.ParameterSpace(g=uq.Uniform(0.5, 1.5), h=uq.Uniform(0.0, 1.0))
    found = uq.sobol_indices(chain, by="scale", rng=1, **settings)
    assert set(found.groups) == {"cell+tissue", "cell"}
    assert found.groups["cell"] == ("h",)
    same = uq.sobol_indices(chain, groups={"cell+tissue": ["g"], "cell": ["h"]}, rng=1, **settings)
    xr.testing.assert_identical(found["tissue.speed"], same["tissue.speed"])


def test_indices_by_scale_are_those_of_linear_members() -> None:
    parent = linear({"g": (0.0, 1.0), "h": (0.0, 1.0)}, "apd", {"g": 2.0, "h": 1.0}, 1e-3)
    child = linear({"apd": (-1.0, 5.0), "k": (0.0, 1.0)}, "speed", {"apd": 1.0, "k": 2.0}, 1e-3)
    chain = uq.Chain(cell=parent, tissue=child, links={"tissue.apd": "cell.apd"})
    found = uq.sobol_indices(chain, outputs=["tissue.speed"], by="scale", draws=20, points=256, bootstrap=5, rng=1)
    first = found["tissue.speed"]["S1"].mean(("draw", "bootstrap"))
    assert float(first.sel(parameter="cell")) == pytest.approx(5.0 / 9.0, abs=0.03)
    assert float(first.sum()) == pytest.approx(1.0, abs=0.04)


def test_by_scale_is_for_chains() -> None:
    with pytest.raises(InputError, match="a GaussianProcessSurrogate has no scales"):
        uq.sobol_indices(cell(), by="scale")
    with pytest.raises(InputError, match="groups are given too"):
        uq.sobol_indices(two(), by="scale", groups={"all": ["g", "h"]}, conditions={"x": 0.5})


# --- another form of the same -----------------------------------------------------------------------------------------


def test_a_chain_of_two_levels_is_the_nonlinear_ladder_at_equal_hyperparameters() -> None:
    """The upper level takes the lower one's score: both pass its error on, the ladder by the slope at one point."""
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0))

    def level(n: int, upper: bool) -> xr.Dataset:
        design = uq.sobol(space, n, rng=1)
        a = design["a"].values
        lower = np.sin(6.0 * a)
        return uq.ensemble.build(design, {"y": (a - 1.4) * lower**2 if upper else lower}, space=space)

    runs = uq.ensemble.combine(
        level(14, False).assign_coords(fidelity=("run", ["low"] * 14)),
        level(9, True).assign_coords(fidelity=("run", ["high"] * 9)),
    )
    fitted = uq.NonlinearMultiFidelity(levels=("low", "high"), hyperparameters="point", scales="given").fit(runs)
    low, high = fitted.ladder.steps
    upper, h, j = high.own(0, 0)

    def scalar(name: str) -> OutputBasis:
        return OutputBasis(name, Layout(), np.zeros(1), np.ones((1, 1)), np.zeros((1, 0)))

    one = GaussianProcessSurrogate(space.box(), low.process.member(low.at(0)), (scalar("y"),))
    box = uq.Box(("c", "a"), (0.0, 0.0), (1.0, 1.0))
    two = GaussianProcessSurrogate(box, upper.member(h).select(np.array([j])), (scalar("y"),))
    chain = uq.Chain(low=one, high=two, links={"high.c": "low.y"})
    u = np.linspace(0.05, 0.95, 7)[:, None]
    mean, covariance = fitted.ladder.score(0, 0, u[None])
    found = chain.scores(u)
    sd = np.sqrt(np.diagonal(covariance[0]))
    assert sd.min() > 1e-4
    np.testing.assert_allclose(found.mean[0, :, 1], mean[0], atol=0.05 * sd.min())
    np.testing.assert_allclose(found.covariance[0, :, 1, :, 1], covariance[0], rtol=0.02, atol=0.02 * sd.min() ** 2)

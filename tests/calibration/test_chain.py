"""Calibration through chains: data of several scales, conditions of one of them, what is refused, exact posteriors."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from calibration.test_compiled import same_density
from scipy.stats import multivariate_normal, norm
from surrogates.members import apd, cell, linear, member, tissue, two

import uqms as uq
from uqms._typing import Array
from uqms.calibration.answer import prior_dominated, uninformed
from uqms.calibration.checks import Sampled
from uqms.calibration.compiled import on_the_line, target
from uqms.calibration.context import Context
from uqms.calibration.scales import check_passed_on
from uqms.calibration.verdict import prior_mass
from uqms.errors import DataError, DataWarning, ExtrapolationError

NOISE = {"cell.apd": uq.GaussianNoise(sd=0.05), "tissue.speed": uq.GaussianNoise(sd=uq.HalfNormal(0.2))}
RATES = np.array([0.2, 0.6, 0.6, 0.9])  # not the middle of the box, 0.5
STEP = 1e-5


def of_cell(values: tuple[float, ...] = (2.5, 2.6)) -> uq.Observations:
    return uq.Observations.from_xarray(xr.DataArray(list(values), dims="replicate", name="cell.apd"))


def of_tissue(values: tuple[float, ...] = (0.5, 0.3, 0.35, -0.1)) -> uq.Observations:
    table = pd.DataFrame({"x": RATES, "speed": values, "replicate": [0, 0, 1, 0]})
    return uq.Observations.from_table(
        table, output="tissue.speed", value="speed", conditions=["x"], replicate="replicate"
    )


def of_both() -> uq.Observations:
    return uq.Observations.concat([of_cell(), of_tissue()])


@cache
def chain() -> uq.Chain:
    return two()


def dense(problem: uq.Calibration, theta: dict[str, float], rows: list[tuple[str, float, float]]) -> float:
    """Return the log-likelihood of rows (output, condition, value) from the scores of the chain, written out."""
    model = problem.surrogate
    known = [x if np.isfinite(x) else RATES[0] for _, x, _ in rows]  # the cell is the same under all conditions
    u = model.domain.to_unit(np.array([[theta["g"], theta["h"], x] for x in known]))
    distinct, place = np.unique(u, axis=0, return_inverse=True)
    scores, place = model.scores(distinct), place.ravel()
    decoders = [model.decode(output) for output, _, _ in rows]
    sd = np.array([0.05 if output == "cell.apd" else theta["sigma"] for output, _, _ in rows])
    each = []
    for h in range(len(scores.log_weights)):
        mean = [one.offset[0] + one.basis[0] @ scores.mean[h, k] for one, k in zip(decoders, place, strict=True)]
        joint = [
            [
                one.basis[0] @ scores.covariance[h, k, :, m] @ other.basis[0]
                for other, m in zip(decoders, place, strict=True)
            ]
            for one, k in zip(decoders, place, strict=True)
        ]
        each.append(multivariate_normal(mean, np.array(joint) + np.diag(sd**2)).logpdf([value for _, _, value in rows]))
    return float(np.logaddexp.reduce(np.array(each) + scores.log_weights))


ROWS = [
    ("cell.apd", np.nan, 2.5),
    ("cell.apd", np.nan, 2.6),
    *(("tissue.speed", x, y) for x, y in zip(RATES, (0.5, 0.3, 0.35, -0.1), strict=True)),
]
THETA = {"g": 0.4, "h": 0.6, "sigma": 0.1}


def noise_named(problem: uq.Calibration, theta: dict[str, float]) -> dict[str, float]:
    """Return theta with the name that the noise of the tissue has in this problem."""
    (name,) = [one for one in problem.priors if one not in ("g", "h")]
    return {"g": theta["g"], "h": theta["h"], name: theta["sigma"]}


# --- data of several scales -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_data_of_both_scales_are_one_gaussian() -> None:
    data = of_both()
    np.testing.assert_array_equal(np.isnan(data.conditions["x"]), data.output == "cell.apd")
    problem = uq.Calibration(chain(), data, NOISE)
    # Measurements of the cell have no condition: they are put to an experiment of the tissue that is there.
    np.testing.assert_array_equal(problem.experiments["x"], [0.2, 0.6, 0.9])
    found = float(problem.log_likelihood(noise_named(problem, THETA)))
    assert found == pytest.approx(dense(problem, THETA, ROWS), abs=1e-8)


@pytest.mark.slow
def test_data_of_the_cell_alone() -> None:
    """As through the cell's own surrogate; nothing else is informed when it does not reach there."""
    problem = uq.Calibration(chain(), of_cell(), NOISE["cell.apd"])
    data = uq.Observations.from_xarray(xr.DataArray([2.5, 2.6], dims="replicate", name="apd"))
    alone = uq.Calibration(chain().members["cell"], data, NOISE["cell.apd"])
    theta = {"g": 0.4, "h": 0.6}
    assert float(problem.log_likelihood(theta)) == pytest.approx(float(alone.log_likelihood(theta)), abs=1e-8)
    parent = linear({"g": (0.0, 1.0)}, "apd", {"g": 1.0}, 0.1)
    child = linear({"apd": (-2.0, 3.0), "k": (0.0, 1.0)}, "speed", {"apd": 1.0, "k": 1.0}, 0.1)
    other = uq.Chain(cell=parent, tissue=child, links={"tissue.apd": "cell.apd"})
    data = xr.DataArray(0.5, name="cell.apd")
    with pytest.warns(DataWarning, match=r"No measured output depends on k:.*belong to tissue.*fixed=\{name: value\}"):
        problem = uq.Calibration(other, data, uq.GaussianNoise(sd=0.1))
    assert uninformed(problem) == ("k",)
    rng, prior = np.random.default_rng(1), problem.prior_draws(400, 1)
    draws = {"g": 0.5 + 0.02 * rng.standard_normal(400), "k": prior["k"]}
    (check,) = prior_dominated(Context(problem, Sampled(draws, np.zeros(400, dtype=np.int64), (4, 100), (4, 100))))
    assert check.status == "note"
    assert "no measured output depends on k: the posterior there is the prior" in check.message
    (check,) = prior_dominated(Context(problem, Sampled(prior, np.zeros(400, dtype=np.int64), (4, 100), (4, 100))))
    assert check.status == "warn"  # g should have been informed
    assert "(g)" in check.message


@pytest.mark.slow
def test_data_of_the_tissue_alone() -> None:
    problem = uq.Calibration(chain(), of_tissue(), NOISE["tissue.speed"])
    found = float(problem.log_likelihood(noise_named(problem, THETA)))
    assert found == pytest.approx(dense(problem, THETA, ROWS[2:]), abs=1e-8)


def test_a_condition_that_is_missing_where_it_counts_is_refused() -> None:
    table = pd.DataFrame({"x": [0.2, np.nan], "speed": [0.5, 0.3]})
    with pytest.raises(DataError, match="condition 'x' of row 1 is nan; it must be known"):
        uq.Observations.from_table(table, output="tissue.speed", value="speed", conditions=["x"])
    data = uq.Observations.concat(
        [
            uq.Observations.from_table(
                pd.DataFrame({"x": [0.2], "apd": [2.5]}), output="cell.apd", value="apd", conditions=["x"]
            ),
            uq.Observations.from_xarray(xr.DataArray(0.3, name="tissue.speed")),
        ]
    )
    with pytest.raises(DataError, match="Observations of 'tissue.speed' have no condition 'x', on which it depends"):
        uq.Calibration(chain(), data, NOISE)


@pytest.mark.parametrize("wrong", ["independent", "without the cell", "cell apart"])
def test_wrong_likelihoods_differ_by_nats(wrong: str) -> None:
    """The cell's error drawn anew for each condition, left out, or the cell's own data independent of it."""
    model = uq.Chain(cell=cell(n=6, variance=0.1), tissue=tissue(n=30), links={"tissue.apd": "cell.apd"})
    x = np.linspace(0.05, 0.95, 8)
    u = np.column_stack([np.full(8, 0.9), np.full(8, 0.1), x])
    scores, rows = model.scores(u), [model.decode(name) for name in model.layouts]
    basis = np.array([rows[0].basis[0], rows[1].basis[0]])  # (2, q)
    joint = np.einsum("iq,aqbr,jr->aibj", basis, scores.covariance[0], basis)
    y = model._graph.links(u)[0][1][0, :, 0]
    child = model.members["tissue"]
    own = child.scores(child.domain.to_unit(np.column_stack([y, x]))).covariance[0, 0] * child.bases[0].basis[0, 0] ** 2
    C = np.zeros((9, 9))
    C[0, 0], C[0, 1:], C[1:, 0], C[1:, 1:] = joint[0, 0, 0, 0], joint[0, 0, :, 1], joint[:, 1, 0, 0], joint[:, 1, :, 1]
    mean = np.concatenate([rows[0].offset + basis[0] @ scores.mean[0, 0], rows[1].offset + scores.mean[0] @ basis[1]])
    errors = np.random.default_rng(1).multivariate_normal(np.zeros(9), C + 1e-4 * np.eye(9))
    # The other parts of the true likelihood, each with one thing wrong.
    bad = C.copy()
    if wrong == "independent":
        bad[1:, 1:], bad[0, 1:], bad[1:, 0] = own + np.diag(np.diagonal(C[1:, 1:] - own)), 0.0, 0.0
    elif wrong == "without the cell":
        bad[1:, 1:], bad[0, 1:], bad[1:, 0] = own, 0.0, 0.0
    else:
        bad[0, 1:], bad[1:, 0] = 0.0, 0.0
    z = mean + errors
    table = pd.DataFrame({"x": x, "speed": z[1:]})
    data = uq.Observations.concat(
        [
            uq.Observations.from_xarray(xr.DataArray(z[0], name="cell.apd")),
            uq.Observations.from_table(table, output="tissue.speed", value="speed", conditions=["x"]),
        ]
    )
    noise_models = dict.fromkeys(("cell.apd", "tissue.speed"), uq.GaussianNoise(sd=0.01))
    problem = uq.Calibration(model, data, noise_models, expansion="first-order")
    found = float(problem.log_likelihood({"g": 0.9, "h": 0.1}))
    noise = 1e-4 * np.eye(9)
    assert found == pytest.approx(multivariate_normal(mean, C + noise).logpdf(z), abs=1e-7)
    assert abs(found - multivariate_normal(mean, bad + noise).logpdf(z)) > 0.5


# --- what is passed on outside of what was simulated ------------------------------------------------------------------


def test_links_that_leave_the_box_are_refused() -> None:
    small = uq.Chain(cell=cell(), tissue=tissue(upper=2.5), links={"tissue.apd": "cell.apd"})
    with pytest.raises(
        ExtrapolationError,
        match=r"of what is passed on as 'tissue\.apd' lies outside.*push_forward\(\)\.design\('tissue', n\)",
    ):
        uq.Calibration(small, of_both(), NOISE)
    problem = uq.Calibration(small, of_both(), NOISE, outside="extrapolate")
    assert np.isfinite(problem.log_likelihood(noise_named(problem, THETA)))


def test_the_verdict_tells_of_links_outside_of_the_box_at_the_posterior() -> None:
    """Draws of g and h at which the cell passes on more than the tissue was simulated for, and others."""
    small = uq.Chain(cell=cell(), tissue=tissue(upper=2.5), links={"tissue.apd": "cell.apd"})
    problem = uq.Calibration(small, of_tissue(), uq.GaussianNoise(sd=0.1), outside="extrapolate")
    rng = np.random.default_rng(3)
    for g, status in ((0.2, "fail"), (0.95, "pass")):
        theta = {"g": g + 0.02 * rng.random(400), "h": 0.05 + 0.02 * rng.random(400)}
        passed = small.push_forward(theta, n=400).outside["tissue.apd"]
        check = check_passed_on(problem, theta)
        assert check is not None
        assert check.status == status
        assert check.value == pytest.approx(passed, abs=0.05)
        assert apd(g + 0.01, 0.06) > 2.5 or status == "pass"
        sampled = Sampled(theta, np.zeros(400, dtype=np.int64), (4, 100), (4, 100))
        found = prior_mass(Context(problem, sampled), 0)
        assert (found.status == "fail") == (status == "fail")
        assert "of what is passed on there as 'tissue.apd' lies outside of [1, 2.5]" in found.message
        if status == "fail":
            assert "chain.push_forward(posterior.draws).design('tissue', n)" in found.remedy
    alone = uq.Calibration(cell(), {"apd": 2.5}, uq.GaussianNoise(sd=0.1))
    assert check_passed_on(alone, {"g": np.full(4, 0.5), "h": np.full(4, 0.5)}) is None


# --- compiled ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("data", [of_both, of_tissue])
def test_the_compiled_density_is_that_of_the_calibration(data: Any) -> None:
    noise = NOISE if data is of_both else NOISE["tissue.speed"]
    problem = uq.Calibration(chain(), data(), noise)
    found = target(problem)
    assert found is not None
    theta = problem.prior_draws(3, 5)
    likelihood = problem.log_likelihood(theta)
    values = []
    for z in on_the_line(problem, theta):
        value, gradient = found.evaluate(z)
        values.append(value)
        for j in range(len(z)):
            step = STEP * np.eye(len(z))[j]
            slope = (found.evaluate(z + step)[0] - found.evaluate(z - step)[0]) / (2.0 * STEP)
            assert gradient[j] == pytest.approx(slope, rel=1e-5, abs=1e-5)
    same_density(problem, 3)
    assert np.isfinite(values).all()
    assert np.isfinite(likelihood).all()


# --- exact posteriors -------------------------------------------------------------------------------------------------


def linear_problem() -> tuple[uq.Calibration, float, float]:
    """Return a problem whose posterior is Gaussian, with its mean and sd."""
    parent = linear({"g": (-6.0, 6.0)}, "apd", {"g": 1.5}, 0.3)
    box = {"apd": (-12.0, 12.0), "x": (0.0, 1.0)}
    child = linear(box, "speed", {"apd": -0.6, "x": 0.9}, 0.1, ell={"x": 0.4}, conditions=("x",))
    space = uq.ParameterSpace(g=uq.Normal(0.0, 1.0))
    parent = _with(parent, space)
    linked = uq.Chain(cell=parent, tissue=child, links={"tissue.apd": "cell.apd"})
    x, y, z = np.array([0.1, 0.5, 0.9]), 1.1, np.array([-0.5, -0.2, 0.3])
    table = pd.DataFrame({"x": x, "speed": z})
    data = uq.Observations.concat(
        [
            uq.Observations.from_xarray(xr.DataArray(y, name="cell.apd")),
            uq.Observations.from_table(table, output="tissue.speed", value="speed", conditions=["x"]),
        ]
    )
    problem = uq.Calibration(linked, data, dict.fromkeys(("cell.apd", "tissue.speed"), uq.GaussianNoise(sd=0.05)))
    r = np.sqrt(5.0) * np.abs(x[:, None] - x) / 0.4
    J, C = np.array([1.0, -0.6, -0.6, -0.6]), np.zeros((4, 4))
    C[1:, 1:] = 0.01 * (1.0 + r + r**2 / 3.0) * np.exp(-r)
    precision = np.linalg.inv(C + 0.09 * np.outer(J, J) + 0.0025 * np.eye(4))
    variance = 1.0 / (1.0 + (1.5 * J) @ precision @ (1.5 * J))
    return problem, float(variance * (1.5 * J) @ precision @ np.array([y, *(z - 0.9 * x)])), float(np.sqrt(variance))


def _with(surrogate: Any, space: uq.ParameterSpace) -> Any:
    return replace(surrogate, attrs={"space": space.to_json()})


def test_the_posterior_of_linear_members_is_gaussian() -> None:
    problem, mean, sd = linear_problem()
    grid = mean + sd * np.linspace(-6.0, 6.0, 401)
    density = np.exp(problem.log_likelihood({"g": grid}) + norm.logpdf(grid))
    density /= density.sum()
    found = float(grid @ density)
    assert found == pytest.approx(mean, abs=1e-6)
    assert float(np.sqrt((grid - found) ** 2 @ density)) == pytest.approx(sd, rel=1e-5)
    # The error of the cell is most of it: less than two measurements of their own would leave.
    assert sd > 0.19


@pytest.mark.slow
def test_draws_of_a_posterior_of_linear_members() -> None:
    problem, mean, sd = linear_problem()
    posterior = problem.sample(uq.NUTS(draws=1000, tune=300), rng=1)
    draws = posterior.draws["g"].values.ravel()
    assert draws.mean() == pytest.approx(mean, abs=0.1 * sd)
    assert draws.std() == pytest.approx(sd, rel=0.08)


@pytest.mark.slow
def test_a_posterior_keeps_its_chain(tmp_path: Path) -> None:
    problem = uq.Calibration(chain(), of_both(), NOISE)
    posterior = problem.sample(uq.NUTS(draws=100, tune=100, chains=2), rng=1)
    assert list(posterior.surrogate_share) == ["g", "h"]
    posterior.save(tmp_path / "posterior.nc")
    same = uq.load_posterior(tmp_path / "posterior.nc")
    assert isinstance(same.problem.surrogate, uq.Chain)
    theta = problem.prior_draws(3, 1)
    np.testing.assert_array_equal(same.problem.log_likelihood(theta), problem.log_likelihood(theta))


def test_propagation_through_a_chain() -> None:
    found = uq.propagate(chain(), conditions={"x": 0.5}, draws=20, functions=16, rng=1)
    assert list(found.table().index) == ["cell.apd", "tissue.speed"]
    assert found.table().loc["cell.apd", "mean"] == pytest.approx(2.75, abs=0.3)


# --- populations ------------------------------------------------------------------------------------------------------


def test_three_patients_share_the_error_of_the_chain() -> None:
    space = uq.ParameterSpace(
        g=uq.LogitNormal(0.5, 0.3), h=uq.Uniform(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)}
    )
    several = uq.Population(space, individual=("g",), spread={"g": uq.HalfNormal(0.3)})
    parent = _with(cell(), uq.ParameterSpace(g=space.priors["g"], h=uq.Uniform(0.0, 1.0)))
    model = uq.Chain(cell=parent, tissue=tissue(), links={"tissue.apd": "cell.apd"})
    rng = np.random.default_rng(1)
    rows = [{"id": f"p{i}", "x": x, "speed": 0.3 + 0.1 * rng.standard_normal()} for i in range(3) for x in (0.2, 0.8)]
    data = uq.Observations.from_table(
        pd.DataFrame(rows), output="tissue.speed", value="speed", conditions=["x"], subject="id"
    )
    problem = uq.Calibration(model, data, uq.GaussianNoise(sd=0.1), population=several)
    theta, eta = problem.prior_draws(2, 1), rng.standard_normal((2, problem.latents))
    found = problem.log_likelihood(theta, eta)
    assert np.isfinite(found).all()
    inputs = problem.data.unit_inputs(problem.individuals(theta, eta))
    cells = problem.data.cells
    k, row = cells.experiment, model.decode("tissue.speed")
    for u, value in zip(inputs, found, strict=True):
        scores = model.scores(u)
        mean = row.offset + scores.mean[0][k] @ row.basis[0]
        joint = np.einsum("q,aqbr,r->ab", row.basis[0], scores.covariance[0][k][:, :, k], row.basis[0])
        expected = multivariate_normal(mean, joint + 0.01 * np.eye(6)).logpdf(cells.cell_mean)
        assert float(value) == pytest.approx(expected, abs=1e-6)


def test_what_a_chain_adds_to_the_mean_of_the_cell() -> None:
    """Several conditions of the tissue do not average out the error of the cell."""
    model = chain()
    u: Array = model.domain.to_unit(np.array([[0.9, 0.1, x] for x in np.linspace(0.0, 1.0, 8)]))
    covariance = np.tensordot(np.exp(model.scores(u).log_weights), model.scores(u).covariance[:, :, 1, :, 1], 1)
    assert apd(np.array(0.9), np.array(0.1)) > 1.0
    averaged = covariance.mean()
    assert averaged > 2.0 * np.diagonal(covariance).mean() / 8.0


@pytest.mark.slow
def test_a_new_patient_of_whom_only_the_cell_was_measured_has_predictions_of_the_tissue() -> None:
    rng = np.random.default_rng(0)
    rows, cells = [], []
    for i in range(4):
        g = float(np.exp(0.2 * rng.standard_normal()))
        duration = float(apd(np.array(g), np.array(0.5)))
        rows += [{"id": f"p{i}", "x": x, "speed": np.sin(0.8 * duration + x)} for x in (0.3, 0.6, 0.9)]
        cells.append({"id": f"p{i}", "apd": duration + 0.05 * rng.standard_normal()})
    tissues = pd.DataFrame(rows).assign(speed=lambda table: table["speed"] + 0.02 * rng.standard_normal(len(table)))
    data = uq.Observations.concat(
        [
            uq.Observations.from_table(tissues, output="tissue.speed", value="speed", conditions=["x"], subject="id"),
            uq.Observations.from_table(pd.DataFrame(cells[:2]), output="cell.apd", value="apd", subject="id"),
        ]
    )
    parent = member({"g": (0.3, 3.0)}, {"apd": lambda g: apd(g, np.full_like(g, 0.5))}, log=("g",), n=10)
    model = uq.Chain(cell=parent, tissue=tissue(n=25), links={"tissue.apd": "cell.apd"})
    space = uq.ParameterSpace(g=uq.LogNormal(median=1.0, sigma=0.3))
    population = uq.Population(space, individual=("g",), spread={"g": uq.HalfNormal(0.5)})
    noise = {"cell.apd": uq.GaussianNoise(sd=0.05), "tissue.speed": uq.GaussianNoise(sd=0.02)}
    problem = uq.Calibration(model, data, noise, population=population, outside="extrapolate")
    posterior = problem.sample(uq.NUTS(draws=100, tune=100, chains=2), rng=1)
    wanted = float(apd(np.array(0.8), np.array(0.5)))
    new = uq.Observations.from_table(pd.DataFrame({"apd": [wanted]}), output="cell.apd", value="apd")
    found = posterior.new_subject(new, rng=1).predict(conditions={"x": [0.4]}, rng=1)
    speed, sd = (float(one["tissue.speed"].values.ravel()[0]) for one in (found.mean, found.sd))
    assert 0.0 < sd < 0.2
    assert abs(speed - np.sin(0.8 * wanted + 0.4)) < 4.0 * sd

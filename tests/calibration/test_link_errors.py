"""Errors of a chain's links: sampled beside the parameters, against quadrature and the first-order expansion."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from surrogates.members import TIMES, cell, given_errors, tissue, trace

import uqms as uq
from uqms._typing import Array
from uqms.calibration.expansion import LOSS_LIMIT
from uqms.calibration.link_errors import _integrated, measured_link_loss, with_sampled_links
from uqms.errors import ConformanceError, InputError

X = np.array([0.1, 0.5, 0.9])
NOISE = {"tissue.speed": uq.GaussianNoise(sd=0.02), "cell.apd": uq.GaussianNoise(sd=0.05)}


def table(speeds: tuple[float, ...] = (0.71, 0.4, -0.01), apd: float = 2.8) -> uq.Observations:
    """Return the tissue under three conditions, and the cell once."""
    frame = pd.DataFrame({"x": X, "v": speeds})
    one = uq.Observations.from_table(frame, output="tissue.speed", value="v", conditions=["x"])
    return uq.Observations.concat([one, uq.Observations.from_xarray(xr.DataArray(apd, name="cell.apd"))])


def chain(variance: float = 0.05) -> uq.Chain:
    return uq.Chain(cell=cell(n=6, variance=variance), tissue=tissue(n=25), links={"tissue.apd": "cell.apd"})


def test_given_the_errors_of_links_scores_are_those_of_the_members_put_into_each_other() -> None:
    model = chain()
    sampled = model.sampled({"x": X})
    g, h, eta = 0.3, 0.6, 0.7
    u = np.asarray(sampled.domain.to_unit(np.column_stack([[g] * 3, [h] * 3, X, [eta] * 3])))
    found = sampled.scores(u)
    parent = model.members["cell"]
    scores = parent.scores(parent.domain.to_unit([[g, h]]))
    s = scores.mean[0, 0, 0] + eta * np.sqrt(scores.covariance[0, 0, 0, 0])
    rows = parent.decode("apd")
    apd = rows.offset[0] + rows.basis[0, 0] * s
    child = model.members["tissue"]
    at = child.scores(child.domain.to_unit(np.column_stack([np.full(3, apd), X])))
    np.testing.assert_allclose(found.mean[0, :, 0], s, rtol=1e-8)
    np.testing.assert_allclose(found.mean[0, :, 1:], at.mean[0], rtol=1e-7, atol=1e-9)
    assert not found.covariance[0, 0].any()  # the cell's error is known
    np.testing.assert_allclose(found.covariance[0, 1:], at.covariance[0], rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("kind", ["two members", "a curve", "three members"])
def test_derivatives_are_those_of_finite_differences(kind: str) -> None:
    sampled, row = given_errors(kind)
    rng = np.random.default_rng(1)
    one = sampled.scores(row)
    mean_bar, covariance_bar = rng.standard_normal(one.mean.shape), rng.standard_normal(one.covariance.shape)

    def value(u: Array) -> float:
        now = sampled.scores(u)
        return float(np.sum(now.mean * mean_bar) + np.sum(now.covariance * covariance_bar))

    found = sampled.scores_reverse(row, mean_bar, covariance_bar).sum(axis=0)  # all rows have these parameters
    free = [j for j, name in enumerate(sampled.domain.names) if name in ("g", "h") or name in sampled.errors]
    for j in free:
        step = np.zeros(row.shape[1])
        step[j] = 1e-3
        numbers = [value(row + k * step) for k in (-2, -1, 1, 2)]
        slope = (numbers[0] - 8.0 * numbers[1] + 8.0 * numbers[2] - numbers[3]) / 12e-3
        assert found[j] == pytest.approx(slope, rel=2e-4, abs=2e-4 * np.abs(found).max())


def test_conditions_of_the_cell_that_were_not_observed_are_refused() -> None:
    sampled, row = given_errors("three members")
    other = row.copy()
    other[0, sampled.domain.names.index("x")] += 0.1
    with pytest.raises(InputError, match="not known under others. Calibrate with expansion='first-order'"):
        sampled.scores(other)


def test_a_surrogate_that_is_used_twice_keeps_its_links_to_first_order() -> None:
    one = cell(n=6)
    two = uq.Chain(cell=one, other=one, tissue=tissue(n=25), links={"tissue.apd": "cell.apd", "other.g": "cell.apd"})
    with pytest.raises(ConformanceError, match="is used twice.*expansion='first-order'"):
        two.sampled({"x": X})


def test_the_integral_over_the_errors_is_that_of_quadrature() -> None:
    problem = uq.Calibration(chain(), table(), NOISE, expansion="none")
    assert problem.link_errors == ("cell.error[0]",)
    theta = {"g": np.array([0.2, 0.35, 0.6]), "h": np.array([0.5, 0.4, 0.7])}
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    at = {name: np.repeat(values, len(nodes)) for name, values in theta.items()}
    logs = problem.log_likelihood({**at, "cell.error[0]": np.tile(nodes, 3)}).reshape(3, -1)
    top = logs.max(axis=1, keepdims=True)
    wanted = top[:, 0] + np.log(np.exp(logs - top) @ weights / np.sqrt(2.0 * np.pi))
    found, error = _integrated(problem, theta)
    assert error.max() < 0.05
    np.testing.assert_allclose(found, wanted, atol=4.0 * error.max() + 1e-3)


def test_routes_agree_where_the_error_is_small_and_a_planted_one_does_not() -> None:
    first = uq.Calibration(chain(0.01), table(), NOISE, expansion="first-order")
    sampled = with_sampled_links(first)
    assert sampled is not None
    theta = {"g": np.linspace(0.2, 0.5, 5), "h": np.linspace(0.3, 0.7, 5)}
    assert measured_link_loss(first, sampled, theta).nats < 0.5 * LOSS_LIMIT
    # The cell's mean in the place of its law.
    own = first.surrogate.with_variances({"cell": 0.0})
    without = uq.Calibration(own, table(), NOISE, expansion="first-order")
    assert measured_link_loss(without, sampled, theta).nats > 10.0 * LOSS_LIMIT


def test_the_loss_decides_and_is_printed() -> None:
    little = uq.Calibration(chain(1e-4), table(), NOISE)
    assert not little.link_errors
    assert little.link_loss < LOSS_LIMIT
    assert "first-order expansion of links: used (loss" in repr(little)
    much = uq.Calibration(strongly_bent(), table(), NOISE, outside="extrapolate")
    assert much.link_loss > LOSS_LIMIT
    assert much.link_errors == ("cell.error[0]",)
    assert "1 errors of links sampled (loss" in repr(much)
    assert much.parameters == ("g", "h")
    assert list(much.experiments) == ["x"]


def strongly_bent() -> uq.Chain:
    """Return a chain whose child bends within the parent's error."""
    return uq.Chain(cell=cell(n=4, variance=3.0), tissue=tissue(n=25), links={"tissue.apd": "cell.apd"})


def test_outputs_by_their_logarithm_are_expanded_while_links_are_sampled() -> None:
    logs = tissue(n=25, transforms={"speed": uq.Log()}, function=lambda a, x: np.exp(np.sin(0.8 * a + x)))
    model = uq.Chain(cell=cell(n=4, variance=3.0), tissue=logs, links={"tissue.apd": "cell.apd"})
    speeds = tuple(np.exp([0.71, 0.4, -0.01]))
    settings = {"outside": "extrapolate"}
    many = tissue(n=60, transforms={"speed": uq.Log()}, function=lambda a, x: np.exp(np.sin(0.8 * a + x)))
    exact = uq.Chain(cell=cell(n=25), tissue=many, links={"tissue.apd": "cell.apd"})
    default = uq.Calibration(exact, table(speeds), NOISE, **settings)
    assert default.data_model.closed_form
    assert default.expansion_loss < LOSS_LIMIT
    assert np.isfinite(default.link_loss)
    for expansion, errors, closed in (
        ("first-order", 0, True), ("outputs", 1, True), ("links", 0, False), ("none", 1, False),
    ):  # fmt: skip
        problem = uq.Calibration(model, table(speeds), NOISE, expansion=expansion, **settings)
        assert (len(problem.link_errors), problem.data_model.closed_form) == (errors, closed)
    with pytest.raises(InputError, match="give 'measured', 'first-order' or 'none', or for a chain"):
        uq.Calibration(model, table(speeds), NOISE, expansion="second-order")


def test_errors_of_links_are_no_results(tmp_path: Path) -> None:
    problem = uq.Calibration(chain(0.3), table(), NOISE, expansion="none")
    posterior = problem.sample(uq.SMC(particles=200), rng=1)
    assert list(posterior.summary().index) == ["g", "h"]
    assert "cell.error[0]" in posterior.draws
    again = uq.load_posterior(posterior.save(tmp_path / "posterior.nc"))
    assert again.problem.link_errors == problem.link_errors
    assert again.summary().equals(posterior.summary())
    predicted = posterior.predict(conditions={"x": [0.3]}, rng=1)
    assert np.isfinite(predicted.mean["tissue.speed"]).all()


def test_a_sampled_error_counts_as_one_of_the_surrogate() -> None:
    shares = []
    for expansion in ("first-order", "outputs"):
        problem = uq.Calibration(chain(0.3), table(), NOISE, expansion=expansion, fixed={"h": 0.5})
        shares.append(float(problem.sample(uq.SMC(particles=200), rng=1).surrogate_share["g"]))
    assert min(shares) > 0.3
    assert shares[0] == pytest.approx(shares[1], abs=0.1)


def test_fractions_by_member_name_the_one_whose_error_matters() -> None:
    posterior = uq.Calibration(chain(0.3), table(), NOISE, expansion="first-order").sample(uq.SMC(particles=200), rng=1)
    share = posterior.member_share()
    assert list(share.columns) == ["cell", "tissue"]
    assert share["cell"].max() > share["tissue"].max()
    whole = {name: float(posterior.surrogate_share[name]) for name in share.index}
    for name, row in share.iterrows():
        assert row.max() <= whole[str(name)] + 0.02
    design = uq.refine(posterior, 6, rng=2)
    assert json.loads(design.attrs["design"])["member"] == "cell"
    assert set(design.data_vars) == {"g", "h"}
    child = uq.refine(posterior, 6, member="tissue", rng=2)
    assert set(child.data_vars) == {"apd", "x"}
    box = uq.ensemble.get_box(child) if "box" in child.attrs else None
    assert box is not None
    with pytest.raises(InputError, match="'heart' is no member"):
        uq.refine(posterior, 6, member="heart")


@pytest.mark.slow
def test_verify_takes_runs_of_the_linked_simulators() -> None:
    def run_cell(g: float, h: float) -> dict[str, float]:
        return {"apd": 1.0 + g + 0.5 * np.sin(3.0 * h)}

    def run_tissue(apd: float, x: float) -> dict[str, float]:
        return {"speed": x / apd + 0.1 * apd}

    cells = uq.ParameterSpace(g=uq.Uniform(0.0, 1.0), h=uq.Uniform(0.0, 1.0))
    tissues = uq.ParameterSpace(apd=uq.Uniform(0.8, 2.7), conditions={"x": uq.Condition(0.0, 1.0)})
    one = uq.GaussianProcess(hyperparameters="point").fit(uq.run(run_cell, uq.sobol(cells, 24, rng=1)))
    two = uq.GaussianProcess(hyperparameters="point").fit(uq.run(run_tissue, uq.sobol(tissues, 32, rng=1)))
    model = uq.Chain(cell=one, tissue=two, links={"tissue.apd": "cell.apd"})
    speeds = tuple(x / 1.4 + 0.14 + e for x, e in zip(X, (0.01, -0.02, 0.015), strict=True))
    posterior = uq.Calibration(model, table(speeds, 1.4), NOISE).sample(uq.SMC(particles=200), rng=1)
    simulator = model.simulator(cell=run_cell, tissue=run_tissue)
    apd = 1.0 + 0.3 + 0.5 * np.sin(1.2)
    assert simulator(g=0.3, h=0.4, x=0.5)["tissue.speed"] == pytest.approx(0.5 / apd + 0.1 * apd)
    runs = uq.run(simulator, uq.verification_design(posterior, 30, rng=1))
    verification = uq.verify(posterior, runs)
    assert set(verification.errors.table.index) == {"cell.apd", "tissue.speed"}
    theta = {name: verification.draws[name].values for name in ("g", "h")}
    ratio = verification.draws["log_ratio"].values
    exact = np.zeros(len(ratio))
    for x, v in zip(X, speeds, strict=True):
        passed = 1.0 + theta["g"] + 0.5 * np.sin(3.0 * theta["h"])
        exact += -0.5 * ((v - x / passed - 0.1 * passed) / 0.02) ** 2 - np.log(0.02 * np.sqrt(2.0 * np.pi))
    exact += -0.5 * ((1.4 - passed) / 0.05) ** 2 - np.log(0.05 * np.sqrt(2.0 * np.pi))
    np.testing.assert_allclose(ratio, exact - posterior.problem.log_likelihood(theta), atol=1e-6)
    member = model.member_runs(runs, "tissue")
    np.testing.assert_array_equal(member["apd"], runs["cell.apd"])


def test_links_of_curves_are_passed_on_by_simulators_as_by_surrogates() -> None:
    curve = trace()
    weights = xr.DataArray(np.full(5, 0.2), dims="t")
    for link, wanted in (
        (uq.Link("cell.trace", at={"t": 0.25}), lambda y: y[1]),
        (uq.Link("cell.trace", weights=weights), lambda y: y.mean()),
    ):
        model = uq.Chain(cell=curve, tissue=tissue(), links={"tissue.apd": link})
        simulator = model.simulator(
            cell=lambda g, h: {"trace": g + h * TIMES**2}, tissue=lambda apd, x: {"speed": apd + x}
        )
        found = simulator(g=0.4, h=0.8, x=0.5)
        assert found["tissue.speed"] == pytest.approx(wanted(0.4 + 0.8 * TIMES**2) + 0.5)
    with pytest.raises(InputError, match="give a function for each member: cell=..., tissue=..."):
        model.simulator(cell=lambda g, h: {})


def test_a_model_of_your_own_with_parameters_by_experiment_keeps_links_to_first_order() -> None:
    problem = uq.Calibration(chain(), table(), NOISE, expansion="outputs")
    with pm.Model():
        g = pm.Uniform("g", 0.0, 1.0, shape=problem.cells.experiments)
        values = {"g": g, "h": 0.5, "cell.error[0]": pm.Normal("error")}
        with pytest.raises(InputError, match="sampled for one set of parameters.*expansion='first-order'"):
            uq.observe(problem, values)


def test_a_design_of_a_member_leaves_its_logarithm_where_draws_of_a_link_do() -> None:
    model = uq.Chain(
        cell=cell(n=4, ell=0.1, variance=100.0), tissue=tissue(n=25, log=("apd",)), links={"tissue.apd": "cell.apd"}
    )
    design = uq.sobol(uq.ParameterSpace.from_json(model.attrs["space"]), 16, rng=1)
    found = model.design_of(design, "tissue", rng=1)
    box = uq.ensemble.get_box(found)
    assert found["apd"].min() < 0.0
    assert box.lower[0] == found["apd"].min()
    assert (model.members["tissue"].domain.scale[0], box.scale[0]) == ("log", "identity")


def test_leave_one_out_of_a_chain_is_that_of_its_members() -> None:
    model = chain()
    found = uq.leave_one_out(model)
    for name, output in (("cell", "apd"), ("tissue", "speed")):
        own = uq.leave_one_out(model.members[name])
        assert found.table.loc[f"{name}.{output}", "q2"] == own.table.loc[output, "q2"]
    assert found.observed["cell.apd"].sizes["run"] == 25
    assert int(found.observed["cell.apd"].isnull().sum()) == 19

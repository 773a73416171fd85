"""Predicted gains of runs against what the same runs take from the covariance when they are there."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import uqms as uq
from uqms.calibration.context import Context, evenly
from uqms.calibration.verdict import linear_covariances
from uqms.planning import runs
from uqms.planning.run_gain import Candidates, Gains, LinearPosterior
from uqms.surrogates.kernels import Matern52
from uqms.surrogates.process import ScoreProcess, average, condition, scores_at
from uqms.surrogates.run_value import removed
from uqms.surrogates.training import Hyperparameters

SPACE = uq.ParameterSpace(a=uq.Normal(0.5, 0.15), b=uq.Normal(0.5, 0.15), conditions={"t": uq.Condition(0.0, 1.0)})
TIMES = np.array([0.2, 0.5, 0.9])


def simulator(a, b, t):
    return {"y": np.sin(3.0 * a * (1.0 + t)) + b * t, "w": np.exp(-a) * b + 0.3 * t * np.sin(4.0 * b)}


def observations(outputs=("y", "w"), function=simulator, prefix=""):
    table = pd.DataFrame({"t": TIMES, **function(0.45, 0.6, TIMES)})
    return uq.Observations.concat(
        [uq.Observations.from_table(table.rename(columns={k: prefix + k}), output=prefix + k, value=prefix + k,
                                    conditions=["t"]) for k in outputs]
    )  # fmt: skip


def ensemble(n=14, rng=1, function=simulator, space=SPACE, **more):
    design = uq.sobol(space, n, rng=rng)
    outputs = function(*(design[name].values for name in design.data_vars))
    return uq.ensemble.build(design, outputs, space=space, **more)


NOISE = {"y": uq.GaussianNoise(sd=0.02), "w": uq.GaussianNoise(sd=0.02)}


@pytest.fixture(scope="module")
def posterior():
    surrogate = uq.GaussianProcess(hyperparameters="point", kernel=Matern52()).fit(ensemble())
    problem = uq.Calibration(surrogate, observations(), NOISE, outside="extrapolate")
    return problem.sample(uq.Laplace(draws=400), rng=1)


def with_runs(process: ScoreProcess, u, nugget=0.0) -> ScoreProcess:
    """Return a process with more runs, at their predicted values, so that means stay; hyperparameters are kept."""
    members = []
    for h in range(process.draws):
        one = process.member(h)
        y = np.vstack([one.y, scores_at(one, u[None]).mean[0, 0]])
        settings = [
            Hyperparameters(one.ell[0, j], max(float(one.nugget[0, j]), nugget), 0.0, 0.0, 0, False)
            for j in range(one.q)
        ]
        members.append(
            condition(one.kernel, np.vstack([one.x, u]), y, one.beta.shape[2], settings, list(one.variance[0]))
        )
    return average(members)


def draws_of(posterior, count=12):
    sampled = Context.of(posterior).sampled
    picked = evenly(len(sampled.h), count)
    return {name: values[picked] for name, values in sampled.theta.items()}, sampled.h[picked]


def unit_of(design, surrogate):
    box = surrogate.domain
    return np.asarray(box.to_unit(np.column_stack([design[name].values for name in box.names])))


def test_what_removed_says_is_the_rank_one_update():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((5, 5))
    C = root @ root.T
    taken, new = removed(C[:4, 4:], C[4:, 4], 1.0)
    after = C[:4, :4] - np.outer(C[:4, 4], C[4, :4]) / C[4, 4]
    np.testing.assert_allclose(np.diagonal(C)[:4] - taken[:, 0], np.diagonal(after), rtol=1e-13)
    assert new.all()
    assert not removed(C[:4, 4:], np.array([1e-10]), 1.0)[1].any()


def test_gains_are_what_the_runs_take_when_they_are_there(posterior, monkeypatch):
    monkeypatch.setattr(runs, "DRAWS", 200)
    plan = uq.next_runs(posterior, 6, rng=3, stop=0.0)
    assert len(plan) == 6
    problem, theta, h = posterior.problem, *draws_of(posterior, 200)
    before = np.diagonal(linear_covariances(problem, theta, h)[0])
    u = unit_of(plan.design, problem.surrogate)
    names = problem.parameters
    for count in (1, 3, 6):  # one run, and what updates of covariances alone say of several
        more = replace(problem.surrogate, process=with_runs(problem.surrogate.process, u[:count]))
        after = np.diagonal(linear_covariances(problem.with_error(more, 1.0), theta, h)[0])
        said = plan.table[[f"sd_{name}" for name in names]].iloc[count - 1].to_numpy() / np.array(
            list(plan.now.values())
        )
        np.testing.assert_allclose(said, np.sqrt(after / before), rtol=1e-8)
        assert plan.table["gain"].iloc[:count].sum() == pytest.approx(np.mean(1.0 - after / before), rel=1e-7)
    bare = np.diagonal(linear_covariances(problem, theta, h)[1])
    np.testing.assert_allclose(np.array(list(plan.floor.values())) / list(plan.now.values()), np.sqrt(bare / before))


def test_a_batch_of_updates_is_the_joint_update(posterior):
    problem, (theta, h) = posterior.problem, draws_of(posterior)
    slopes = np.tile(np.eye(2), (len(h), 1, 1))
    linear = LinearPosterior.of(problem, theta, h, slopes)
    u = np.random.default_rng(5).random((7, 3))
    kind = linear.sources[0].kinds[0]
    one = Candidates(kind, u, ((0, 0),), np.ones(7))
    gains = Gains.of(linear, [one], {0: u})
    for r in (4, 1, 6):
        gains.choose(0, r)
    left = gains.variance
    turned = Gains.of(linear, [one], {0: u})
    for r in (6, 4, 1):
        turned.choose(0, r)
    np.testing.assert_allclose(left, turned.variance, rtol=1e-10)
    more = replace(problem.surrogate, process=with_runs(problem.surrogate.process, u[[1, 4, 6]]))
    after = np.diagonal(linear_covariances(problem.with_error(more, 1.0), theta, h)[0])
    np.testing.assert_allclose(left, after, rtol=1e-8)
    # What is left to gain is that of a problem that has those runs.
    other = problem.with_error(more, 1.0)
    again = Gains.of(LinearPosterior.of(other, theta, h, slopes), [one], {0: u})
    np.testing.assert_allclose(gains.of_kind(0)[[0, 2, 3, 5]], again.of_kind(0)[[0, 2, 3, 5]], rtol=1e-6)


def test_gains_are_means_over_hyperparameter_draws():
    surrogate = uq.GaussianProcess(hyperparameters="averaged").fit(ensemble(10))
    problem = uq.Calibration(surrogate, observations(), NOISE, outside="extrapolate")
    posterior = problem.sample(uq.Laplace(draws=400), rng=1)
    theta, h = draws_of(posterior, 24)
    assert len(np.unique(h)) > 3
    u = np.array([[0.55, 0.6, 0.4], [0.4, 0.5, 0.9]])
    slopes = np.tile(np.eye(2), (len(h), 1, 1))
    linear = LinearPosterior.of(problem, theta, h, slopes)
    gains = Gains.of(linear, [Candidates(linear.sources[0].kinds[0], u, ((0, 0),), np.ones(2))], {0: u})
    before = np.diagonal(linear_covariances(problem, theta, h)[0])
    for r in range(2):
        more = replace(surrogate, process=with_runs(surrogate.process, u[r : r + 1]))
        after = np.diagonal(linear_covariances(problem.with_error(more, 1.0), theta, h)[0])
        np.testing.assert_allclose(gains.of_kind(0)[r], before - after, rtol=1e-6)
    # One draw for all says something else: this is what a plug-in would do.
    one = LinearPosterior.of(problem, theta, np.full_like(h, h[0]), slopes)
    plugged = Gains.of(one, [Candidates(one.sources[0].kinds[0], u, ((0, 0),), np.ones(2))], {0: u})
    assert np.max(np.abs(plugged.of_kind(0) / gains.of_kind(0) - 1.0)) > 0.05

"""Predicted gains of runs against what the same runs take from the covariance when they are there."""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from calibration.population.test_population import problem as of_people
from calibration.population.test_prediction import posterior_of

import uqms as uq
from uqms.calibration.context import Context, evenly
from uqms.calibration.population.subject_checks import _dense, _information, _jacobian
from uqms.calibration.verdict import linear_covariances, linearise
from uqms.errors import InputError
from uqms.planning import runs
from uqms.planning.run_gain import Candidates, Gains, LinearPosterior
from uqms.surrogates.fidelity.ladder import Ladder, Step
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


def test_gains_are_means_over_hyperparameter_draws(monkeypatch):
    monkeypatch.setattr(runs, "DRAWS", 24)
    surrogate = uq.GaussianProcess(hyperparameters="averaged", kernel=Matern52()).fit(ensemble(10))
    problem = uq.Calibration(surrogate, observations(), NOISE, outside="extrapolate")
    posterior = problem.sample(uq.Laplace(draws=400), rng=1)
    theta, h = draws_of(posterior, 24)
    assert len(np.unique(h)) > 3
    plan = uq.next_runs(posterior, 2, rng=3, stop=0.0)
    before = np.diagonal(linear_covariances(problem, theta, h)[0])
    plugged = np.diagonal(linear_covariances(problem, theta, np.full_like(h, h[0]))[0])
    more = replace(surrogate, process=with_runs(surrogate.process, unit_of(plan.design, surrogate)))
    after = np.diagonal(linear_covariances(problem.with_error(more, 1.0), theta, h)[0])
    said = plan.table[["sd_a", "sd_b"]].iloc[-1].to_numpy() / np.array(list(plan.now.values()))
    np.testing.assert_allclose(said, np.sqrt(after / before), rtol=1e-6)
    # With one draw for all, as a plug-in does, the sds are others, by a thousand times the tolerance.
    one = np.diagonal(linear_covariances(problem.with_error(more, 1.0), theta, np.full_like(h, h[0]))[0])
    assert np.max(np.abs(np.sqrt(one / plugged) / said - 1.0)) > 1e-3


# ------------------------------------------------------------------------------------------------- levels of fidelity
LEVELS = ("coarse", "fine")
PLANE = uq.ParameterSpace(a=uq.Normal(0.5, 0.15), b=uq.Normal(0.5, 0.15))


def two_levels(nested=True, costs=(1.0, 8.0)):
    designs = uq.nested(PLANE, {"coarse": 12, "fine": 5}, rng=1)
    if not nested:
        designs["fine"] = uq.sobol(PLANE, 6, rng=2)
    parts = []
    for factor, (level, design) in enumerate(designs.items()):
        a, b = design["a"].values, design["b"].values
        y = {"y": np.sin(5.0 * a) + b * np.cos(3.0 * a) + 0.3 * factor * np.sin(4.0 * b)}
        y["w"] = np.exp(b) * a + 0.2 * factor * a**2
        parts.append(uq.ensemble.build(design, y, space=PLANE, fidelity=level))
    settings = uq.MultiFidelity(levels=LEVELS, hyperparameters="point", cost=dict(zip(LEVELS, costs, strict=True)))
    surrogate = settings.fit(uq.ensemble.combine(*parts))
    measured = {"y": np.sin(2.25) + 0.6 * np.cos(1.35) + 0.3 * np.sin(2.4), "w": np.exp(0.6) * 0.45 + 0.2 * 0.45**2}
    data = uq.Observations.concat(
        [
            uq.Observations.from_table(pd.DataFrame({name: [value]}), output=name, value=name)
            for name, value in measured.items()
        ]
    )
    return uq.Calibration(surrogate, data, NOISE, outside="extrapolate").sample(uq.Laplace(draws=300), rng=1)


@pytest.fixture(scope="module")
def ladder_posterior():
    return two_levels()


@pytest.mark.slow
def test_runs_of_levels_of_one_process_take_what_is_said():
    posterior = two_levels(nested=False)
    problem, (theta, h) = posterior.problem, draws_of(posterior)
    surrogate = problem.surrogate
    slopes = np.tile(np.eye(2), (len(h), 1, 1))
    linear = LinearPosterior.of(problem, theta, h, slopes)
    v = np.array([[0.55, 0.6], [0.4, 0.5]])
    coarse, fine = linear.sources[0].kinds
    inputs = np.vstack([np.hstack([np.tile(one.observed[0].before, (2, 1)), v]) for one in (coarse, fine)])
    offered = [Candidates(coarse, v, ((0, 0),), np.ones(2)), Candidates(fine, v, ((0, 2),), np.ones(2))]
    before = np.diagonal(linear_covariances(problem, theta, h)[0])
    for k, r in ((0, 0), (1, 1)):
        process = with_runs(surrogate.process, inputs[2 * k + r : 2 * k + r + 1])
        more = replace(surrogate, ladder=Ladder((Step(process, "joint"),), surrogate.ladder.log_weights))
        after = np.diagonal(linear_covariances(problem.with_error(more, 1.0), theta, h)[0])
        gains = Gains.of(linear, offered, {0: inputs})
        np.testing.assert_allclose(gains.of_kind(k)[r], before - after, rtol=1e-5)
    assert np.all(gains.of_kind(1)[0] > gains.of_kind(0)[0])  # the same place on the level that is measured


def test_runs_of_nested_levels_take_what_is_said(ladder_posterior):
    problem, (theta, h) = ladder_posterior.problem, draws_of(ladder_posterior)
    surrogate = problem.surrogate
    slopes = np.tile(np.eye(2), (len(h), 1, 1))
    linear = LinearPosterior.of(problem, theta, h, slopes)
    v = np.array([[0.55, 0.6]])
    coarse, fine = linear.sources[0].kinds
    offered = [Candidates(coarse, v, ((0, 0),), np.ones(1)), Candidates(fine, v, ((0, 0), (1, 0)), np.ones(1))]
    gains = Gains.of(linear, offered, {0: v, 1: v})
    before = np.diagonal(linear_covariances(problem, theta, h)[0])
    first, second = surrogate.ladder.steps
    q = first.process.q
    below = np.column_stack(
        [surrogate.ladder.means(0, j, np.vstack([second.process.x, v])[None])[0][0] for j in range(q)]
    )
    known = second.process.y
    fine_mean = np.column_stack([surrogate.ladder.means(0, j, v[None])[1][0] for j in range(q)])
    settings = [Hyperparameters(second.process.ell[0, j], 0.0, 0.0, 0.0, 0, False) for j in range(q)]
    climbed = condition(
        second.process.kernel,
        np.vstack([second.process.x, v]),
        np.vstack([known, fine_mean]),
        second.process.beta.shape[2],
        settings,
        list(second.process.variance[0]),
        cheap=below,
    )
    wider = Step(with_runs(first.process, v), "plain")
    for k, steps in enumerate([(wider, second), (wider, Step(climbed, "linear"))]):
        more = replace(surrogate, ladder=Ladder(steps, surrogate.ladder.log_weights))
        after = np.diagonal(linear_covariances(problem.with_error(more, 1.0), theta, h)[0])
        # What is left out is the variance of the coefficient times the error of the lower level.
        np.testing.assert_allclose(gains.of_kind(k)[0], before - after, rtol=0.02)
    assert gains.of_kind(1).sum() > gains.of_kind(0).sum()


def test_levels_are_chosen_by_cost(ladder_posterior):
    cheap = uq.next_runs(ladder_posterior, 8, cost={"coarse": 0.01, "fine": 8.0}, rng=1, stop=0.0)
    dear = uq.next_runs(ladder_posterior, 8, cost={"coarse": 8.0, "fine": 0.5}, rng=1, stop=0.0)
    assert (cheap.table["run"] == "coarse").sum() > (dear.table["run"] == "coarse").sum()
    # Designs stay nested, and the lower level is paid for where it was not run.
    assert dear.table.loc[dear.table["with_it"] == "coarse", "cost"].eq(8.5).all()
    assert dear.table.loc[(dear.table["run"] == "fine") & (dear.table["with_it"] == ""), "cost"].eq(0.5).all()
    fine = np.column_stack([dear.designs["fine"][name] for name in "ab"])
    kinds = ladder_posterior.problem.surrogate
    there = np.asarray(kinds.domain.from_unit(kinds.ladder.steps[0].process.x))
    if "coarse" in dear.designs:
        there = np.vstack([there, np.column_stack([dear.designs["coarse"][name] for name in "ab"])])
    assert np.abs(fine[:, None] - there[None]).max(axis=2).min(axis=1).max() < 1e-9
    assert dear.cost == pytest.approx(dear.table["total_cost"].iloc[-1])


# ------------------------------------------------------------------------------------------------------------- chains
CELL = uq.ParameterSpace(g=uq.Normal(1.0, 0.2), k=uq.Normal(0.5, 0.1))
CABLE = uq.ParameterSpace(peak=uq.Uniform(0.0, 4.0), r=uq.Normal(1.0, 0.1))


@pytest.fixture(scope="module")
def chain_posterior():
    cell = uq.GaussianProcess(hyperparameters="point", kernel=Matern52()).fit(
        ensemble(9, 1, lambda g, k: {"peak": np.exp(g) * (1.0 - k) + 0.2 * np.sin(6.0 * g)}, CELL)
    )
    cable = uq.GaussianProcess(hyperparameters="point", kernel=Matern52()).fit(
        ensemble(7, 2, lambda peak, r: {"speed": 2.0 * peak + 3.0 / r + 0.1 * np.sin(peak)}, CABLE)
    )
    chain = uq.Chain(cell=cell, cable=cable, links={"cable.peak": "cell.peak"})
    data = uq.Observations.concat(
        [
            uq.Observations.from_table(pd.DataFrame({"v": [value]}), output=name, value="v")
            for name, value in (("cell.peak", 1.35), ("cable.speed", 5.7))
        ]
    )
    noise = {"cell.peak": uq.GaussianNoise(sd=0.1), "cable.speed": uq.GaussianNoise(sd=0.05)}
    problem = uq.Calibration(chain, data, noise, outside="extrapolate", expansion="first-order")
    return problem.sample(uq.Laplace(draws=400), rng=1)


@pytest.mark.slow
def test_runs_of_a_member_take_what_is_said(chain_posterior):
    problem, (theta, h) = chain_posterior.problem, draws_of(chain_posterior)
    chain = problem.surrogate
    slopes = np.tile(np.eye(len(problem.parameters)), (len(h), 1, 1))
    linear = LinearPosterior.of(problem, theta, h, slopes)
    assert [one.label for one in linear.sources[0].kinds] == [("cell",), ("cable",)]
    u = problem.unit_inputs({name: np.array([values.mean()]) for name, values in theta.items()})[0]
    v = chain.run_inputs(u, np.random.default_rng(1))
    for k, name in enumerate(("cell", "cable")):
        offered = [Candidates(linear.sources[0].kinds[k], v[name], ((k, 0),), np.ones(1))]
        found = Gains.of(linear, offered, {k: v[name]}).of_kind(0)[0]
        member = chain.members[name]
        more = {**chain.members, name: replace(member, process=with_runs(member.process, v[name]))}
        other = problem.with_error(uq.Chain(links=chain.links, **more), 1.0)
        taken = np.diagonal(linear_covariances(problem, theta, h)[0] - linear_covariances(other, theta, h)[0])
        # The slope of a member is taken over the links' error, which a run of another member changes a little.
        np.testing.assert_allclose(found, taken, rtol=0.02, atol=0.02 * found.max())


@pytest.mark.slow
def test_a_plan_has_a_design_for_each_member(chain_posterior):
    plan = uq.next_runs(chain_posterior, 10, cost={"cell": 0.3, "cable": 1.8}, about=["g"], rng=2, stop=0.0)
    assert set(plan.designs) == {"cell", "cable"}
    assert sum(one.sizes["run"] for one in plan.designs.values()) == len(plan) == 10
    assert list(plan.designs["cable"].data_vars) == ["peak", "r"]
    assert np.isnan(plan.table.loc[plan.table["run"] == "cell", "peak"]).all()
    with pytest.raises(InputError, match="there is one for each of cell, cable|there is one for each of cable, cell"):
        _ = plan.design
    with pytest.raises(InputError, match="cost={'cell': 1.0, 'cable': 1.0}"):
        uq.next_runs(chain_posterior, 10, rng=2)
    other = uq.next_runs(chain_posterior, 10, cost={"cell": 100.0, "cable": 1.8}, about=["g"], rng=2, stop=0.0)
    assert "cell" not in other.designs or other.designs["cell"].sizes["run"] < plan.designs["cell"].sizes["run"]


# ---------------------------------------------------------------------------------- targets, failures, replicates, stop
@pytest.mark.slow
def test_predictions_and_derived_quantities_are_targets(posterior):
    problem, (theta, h) = posterior.problem, draws_of(posterior)
    asked = {"output": "y", "conditions": {"t": 0.7}}
    with_sum = uq.Calibration(
        problem.surrogate,
        observations(),
        NOISE,
        outside="extrapolate",
        derived={"total": lambda p: p["a"] + p["b"], "log": lambda p: np.log(p["a"])},
    ).sample(uq.Laplace(draws=400), rng=1)
    plan = uq.next_runs(with_sum, 4, about=["total", "log", asked], rng=1, stop=0.0)
    assert list(plan.now) == ["total", "log", "y"]
    # A prediction's variance given data and runs, by the library's own conditional distribution with the runs there.
    targets = runs._targets(with_sum, [asked])
    slopes, predicted = runs._slopes(problem, theta, targets)
    linear = LinearPosterior.of(problem, theta, h, slopes, predicted)
    u = np.array([[0.5, 0.6, 0.7], [0.4, 0.5, 0.2]])
    kind = linear.sources[0].kinds[0]
    gains = Gains.of(linear, [Candidates(kind, u, ((0, 0),), np.ones(2))], {0: u})
    more = replace(problem.surrogate, process=with_runs(problem.surrogate.process, u[:1]))
    again = LinearPosterior.of(problem.with_error(more, 1.0), theta, h, slopes, predicted)
    assert gains.of_kind(0)[0, 0] == pytest.approx(float((linear.variance - again.variance).mean()), rel=1e-6)
    # Of the difference of two parameters' logarithms nothing is made up: the derivative is that of the function.
    slopes, _ = runs._slopes(with_sum.problem, theta, runs._targets(with_sum, ["total", "a"]))
    prior_sd = 0.15
    np.testing.assert_allclose(slopes[:, 1], np.tile([1.0, 0.0], (len(h), 1)))
    np.testing.assert_allclose(slopes[:, 0], prior_sd, rtol=0.03)  # in units of the prior's sd, from draws


def test_a_run_that_may_fail_is_worth_its_probability_of_success(posterior):
    problem, (theta, h) = posterior.problem, draws_of(posterior)
    linear = LinearPosterior.of(problem, theta, h, np.tile(np.eye(2), (len(h), 1, 1)))
    u, kind = np.random.default_rng(5).random((4, 3)), linear.sources[0].kinds[0]

    def gains(p):
        return Gains.of(linear, [Candidates(kind, u, ((0, 0),), np.full(4, p))], {0: u})

    sure, half, never = gains(1.0), gains(0.5), gains(0.0)
    taken = sure.of_kind(0)[1]
    for one, p in ((sure, 1.0), (half, 0.5), (never, 0.0)):
        one.choose(0, 1)
        np.testing.assert_allclose(one.scale - one.variance, p * taken, rtol=1e-12)
    np.testing.assert_allclose(never.of_kind(0), gains(1.0).of_kind(0), rtol=1e-12)

    class Boundary:
        """Runs succeed below a = 0.45."""

        domain = problem.surrogate.domain

        def log_probability_at(self, u):
            a = np.asarray(self.domain.from_unit(u))[..., 0]
            return np.where(a < 0.45, 0.0, -50.0)

    free = uq.next_runs(posterior, 8, rng=1, stop=0.0)
    held = uq.next_runs(posterior, 8, rng=1, stop=0.0, success=Boundary())
    assert (free.design["a"] > 0.45).any()
    assert (held.design["a"] < 0.45).all()
    assert (held.table["success"] == 1.0).all()


def test_replicates_are_information_of_a_stochastic_simulator_only(posterior):
    problem, (theta, h) = posterior.problem, draws_of(posterior)
    slopes = np.tile(np.eye(2), (len(h), 1, 1))
    linear = LinearPosterior.of(problem, theta, h, slopes)
    u, kind = np.array([[0.55, 0.6, 0.9]]), linear.sources[0].kinds[0]
    gains = Gains.of(linear, [Candidates(kind, u, ((0, 0),), np.ones(1))], {0: u})
    first = gains.of_kind(0)[0].sum()
    gains.choose(0, 0)
    assert gains.of_kind(0)[0].sum() < 1e-5 * first  # the noise that keeps matrices regular is all that is left
    # With noise the second run counts, as a process with both says, and not as much as the first.
    noisy = replace(problem.surrogate, process=replace(problem.surrogate.process, nugget=np.full((1, 2), 1e-4)))
    other = problem.with_error(noisy, 1.0)
    linear = LinearPosterior.of(other, theta, h, slopes)
    gains = Gains.of(linear, [Candidates(kind, u, ((0, 0),), np.ones(1))], {0: u})
    before = np.diagonal(linear_covariances(other, theta, h)[0])
    parts = [gains.of_kind(0)[0]]
    gains.choose(0, 0)
    parts.append(gains.of_kind(0)[0])
    assert np.all(parts[1] > 1e-3 * parts[0])
    assert np.all(parts[1] < parts[0])
    assert np.all(np.sum(parts, axis=0) < before)
    # In a plan a deterministic simulator is never run twice at one place.
    plan = uq.next_runs(posterior, 12, rng=4, stop=0.0, candidates=8)
    points = np.column_stack([plan.design[name] for name in "abt"])
    assert len(np.unique(points, axis=0)) == len(points)


@pytest.mark.slow
def test_replicates_are_proposed_where_runs_were_repeated():
    rng = np.random.default_rng(0)
    design = uq.sobol(SPACE, 12, rng=1)
    twice = design.isel(run=np.repeat(np.arange(12), 5))
    exact = simulator(*(twice[name].values for name in "abt"))
    noisy = {name: values + 0.05 * rng.standard_normal(60) for name, values in exact.items()}
    surrogate = uq.GaussianProcess(noise="heteroscedastic").fit(uq.ensemble.build(twice, noisy, space=SPACE))
    posterior = uq.Calibration(surrogate, observations(), NOISE, outside="extrapolate", realisation="none")
    posterior = posterior.sample(uq.Laplace(draws=300), rng=1)
    plan = uq.next_runs(posterior, 20, rng=4, stop=0.0, candidates=16)
    points = np.column_stack([plan.design[name] for name in "abt"])
    assert len(np.unique(points, axis=0)) < len(points)
    never = uq.next_runs(posterior, 20, rng=4, stop=0.0, candidates=16, replicates=False)
    points = np.column_stack([never.design[name] for name in "abt"])
    assert len(np.unique(points, axis=0)) == len(points)


def test_it_stops_and_says_why(posterior):
    plan = uq.next_runs(posterior, 30, rng=2, stop=0.03)
    assert 0 < len(plan) < 30
    assert "stopped after" in plan.stopped
    assert plan.stopped in str(plan)
    assert len(str(plan).splitlines()) <= 10
    ratio = plan.table[["sd_a", "sd_b"]].to_numpy()
    steps = ratio / np.vstack([[plan.now["a"], plan.now["b"]], ratio[:-1]])
    assert np.min(steps[-1]) <= 0.97
    none = uq.next_runs(posterior, 30, rng=2, stop=0.9)
    assert not none
    assert "the surrogate's error still makes an sd" in none.stopped
    assert runs._reason(1e-4, 0.005, 0, np.ones(1), 0.99).endswith("does not limit the precision")
    with pytest.raises(InputError, match="no run is proposed"):
        _ = none.design
    bought = uq.next_runs(posterior, 30, cost=2.0, budget=7.0, rng=2, stop=0.0)
    assert len(bought) == 3
    assert "budget" in bought.stopped


def test_several_simulators_are_parts():
    def second(a, b, t):
        return {"x": a * b + 0.2 * np.sin(5.0 * a * t)}

    first = uq.GaussianProcess(hyperparameters="point", kernel=Matern52()).fit(ensemble(14))
    other = uq.GaussianProcess(hyperparameters="point", kernel=Matern52()).fit(ensemble(8, 3, second))
    problem = uq.Calibration(
        {"one": (first, observations()), "two": (other, observations(("x",), second))},
        noise={"one": NOISE, "two": uq.GaussianNoise(sd=0.02)},
        outside="extrapolate",
    )
    posterior = problem.sample(uq.Laplace(draws=300), rng=1)
    plan = uq.next_runs(posterior, 6, cost={"one": 1.0, "two": 1.0}, rng=1, stop=0.0)
    assert set(plan.designs) <= {"one", "two"}
    theta, h = draws_of(posterior)
    linear = LinearPosterior.of(problem, theta, h, np.tile(np.eye(2), (len(h), 1, 1)))
    before = np.diagonal(linear_covariances(problem, theta, h)[0])
    np.testing.assert_allclose(linear.variance.mean(axis=0), before, rtol=1e-9)
    u = np.array([[0.55, 0.6, 0.9]])
    offered = [Candidates(linear.sources[i].kinds[0], u, ((i, 0),), np.ones(1)) for i in range(2)]
    gains = Gains.of(linear, offered, {0: u, 1: u})
    gains.choose(0, 0)
    gains.choose(1, 0)
    both = {
        name: (replace(s, process=with_runs(s.process, u)), data)
        for name, s, data in (("one", first, observations()), ("two", other, observations(("x",), second)))
    }
    again = uq.Calibration(both, noise={"one": NOISE, "two": uq.GaussianNoise(sd=0.02)}, outside="extrapolate")
    after = np.diagonal(linear_covariances(again, theta, h)[0])
    np.testing.assert_allclose(gains.variance, after, rtol=1e-7)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"n": 0}, "n is 0"),
        ({"stop": 1.5}, "stop is 1.5"),
        ({"budget": -1.0}, "budget is -1"),
        ({"widen": 0.5}, "widen is 0.5"),
        ({"candidates": 3}, "candidates is 3"),
        ({"about": []}, "about is empty"),
        ({"about": ["c"]}, "about has \\['c'\\]; name some of"),
        ({"about": [{"outputs": "y"}]}, "a prediction is"),
        ({"cost": {"coarse": 1.0}}, "there is one kind of run, give its cost: cost=1.0"),
        ({"success": 0.5}, "success is 0.5"),
    ],
)
def test_what_cannot_be_right_is_said_before_work(posterior, settings, match):
    with pytest.raises(InputError, match=match):
        uq.next_runs(posterior, **({"n": 5, "rng": 1} | settings))


@pytest.mark.slow
def test_the_figure_shows_what_the_plan_says(chain_posterior):
    plan = uq.next_runs(chain_posterior, 10, cost={"cell": 0.3, "cable": 1.8}, about=["g", "r"], rng=2, stop=0.0)
    figure = uq.plots.next_runs(plan)
    (ax,) = figure.axes
    lines = {line.get_label(): line for line in ax.get_lines()}
    np.testing.assert_allclose(lines["g"].get_xdata()[1:], plan.table["total_cost"])
    np.testing.assert_allclose(lines["g"].get_ydata()[1:] * plan.now["g"], plan.table["sd_g"])
    marked = sum(len(line.get_xdata()) for name, line in lines.items() if name.startswith("run of"))
    assert marked == len(plan)
    with pytest.raises(InputError, match="no run is proposed"):
        uq.plots.next_runs(replace(plan, table=plan.table.iloc[:0]))


# ---------------------------------------------------------------------------------------------------------- populations
def people(occasions: int = 1):
    """Return a population with correlated effects and covariates, draws of it, and what describes it."""
    made = of_people(occasions=("a",)) if occasions > 1 else of_people()
    posterior = posterior_of(made, 12)
    sampled = posterior.flat()
    return posterior.problem, sampled, posterior.latents, np.zeros(12, dtype=np.int64)


@pytest.mark.filterwarnings("ignore::uqms.errors.UqmsWarning")
@pytest.mark.parametrize("occasions", [1, 2])
def test_a_population_is_linearised_with_the_effects_of_its_subjects(occasions):
    problem, theta, z, h = people(occasions)
    slopes = np.tile(np.eye(len(problem.parameters)), (len(h), 1, 1))
    linear = LinearPosterior.of(problem, theta, h, slopes, latents=z)
    wanted = _information(problem, theta, z, h)[1]  # with effects as unknowns, by other code
    np.testing.assert_allclose(linear.variance.mean(axis=0), wanted[0], rtol=1e-5)
    J = _dense(*_jacobian(problem, theta, z, h), problem.layout.size) / theta["sigma"][:, None, None]
    left = np.linalg.inv(np.eye(J.shape[2]) + J.swapaxes(1, 2) @ J)  # noise alone
    bare = np.diagonal(left, axis1=1, axis2=2).mean(axis=0)[: len(problem.parameters)]
    np.testing.assert_allclose(linear.bare.mean(axis=0), bare, rtol=1e-5)
    assert np.max(wanted[0] / bare) > 1.05


@pytest.mark.filterwarnings("ignore::uqms.errors.UqmsWarning")
def test_runs_take_from_a_population_what_they_take_when_they_are_there():
    problem, theta, z, h = people()
    slopes = np.tile(np.eye(len(problem.parameters)), (len(h), 1, 1))
    linear = LinearPosterior.of(problem, theta, h, slopes, latents=z)
    own = problem.data.unit_inputs(problem.individuals(theta, z))
    u = own[0, [0, 3, 4]]
    gains = Gains.of(linear, [Candidates(linear.sources[0].kinds[0], u, ((0, 0),), np.ones(3))], {0: u})
    single = gains.of_kind(0)
    for r in (2, 0):
        gains.choose(0, r)
    for chosen, taken in (([1], single[1]), ([2, 0], gains.scale - gains.variance)):
        other = copy.copy(problem)
        more = replace(problem.surrogate, process=with_runs(problem.surrogate.process, u[chosen]))
        other.data = problem.data.with_error(more, 1.0)
        after = _information(other, theta, z, h)[1][0]
        np.testing.assert_allclose(taken, _information(problem, theta, z, h)[1][0] - after, rtol=1e-4, atol=1e-7)
    assert (gains.variance < gains.scale).any()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::uqms.errors.UqmsWarning")
def test_a_plan_for_a_population():
    population = uq.Population(SPACE, individual=("a",), spread={"a": uq.HalfNormal(0.1)})
    surrogate = uq.GaussianProcess(hyperparameters="point", kernel=Matern52()).fit(ensemble(9))
    rng = np.random.default_rng(2)
    frame = pd.DataFrame({"id": np.repeat(list("pqrs"), 3), "t": np.tile(TIMES, 4)})
    a = np.repeat([0.35, 0.5, 0.55, 0.6], 3)
    frame["y"] = simulator(a, 0.5, frame["t"].to_numpy())["y"] + 0.02 * rng.standard_normal(12)
    data = uq.Observations.from_table(frame, output="y", value="y", conditions=["t"], subject="id")
    made = uq.Calibration(surrogate, data, uq.GaussianNoise(sd=0.02), population=population, outside="extrapolate")
    posterior = made.sample(uq.NUTS(chains=2, tune=300, draws=200), rng=1)
    plan = uq.next_runs(posterior, 5, rng=3)
    assert list(plan.now) == ["a", "omega_a", "b"]
    assert plan.design.sizes["run"] == len(plan) >= 1
    assert plan.table["sd_b"].iloc[-1] < plan.now["b"]
    assert plan.table["sd_b"].iloc[-1] >= plan.floor["b"] - 1e-12
    some = uq.next_runs(posterior, 2, about=["omega_a"], rng=3)
    assert list(some.now) == ["omega_a"]
    with pytest.raises(InputError, match="runs for a population are about what describes it"):
        uq.next_runs(posterior, 2, about=[{"output": "y"}])


# ------------------------------------------------------------------------------------------------- the sd of the noise
def scattered(replicates=1):
    """Return a posterior in which the sd of the noise is inferred beside the surrogate's error."""
    surrogate = uq.GaussianProcess(hyperparameters="point", kernel=Matern52()).fit(ensemble(7))
    frame = pd.DataFrame({"t": np.repeat(TIMES, replicates), "r": np.tile(np.arange(replicates), len(TIMES))})
    off = 0.02 * np.random.default_rng(4).standard_normal(len(frame))
    frame["y"] = simulator(0.45, 0.6, frame["t"].to_numpy())["y"] + off
    data = uq.Observations.from_table(frame, output="y", value="y", conditions=["t"], replicate="r")
    problem = uq.Calibration(surrogate, data, uq.GaussianNoise(sd=uq.HalfNormal(0.05)), outside="extrapolate")
    return problem.sample(uq.Laplace(draws=300), rng=1)


def information_about_noise(problem, theta, h):
    """Return the expected information about the log of the sd (S,), from the dense covariance of all rows."""
    rows = problem.cells.row_cell
    linear = linearise(problem, theta, h)
    J = (linear.jacobian * linear.prior_sd * linear.noise_sd[..., None])[:, rows]
    F = (linear.factor * linear.noise_sd[..., None])[:, rows]
    C = J @ J.swapaxes(1, 2) + F @ F.swapaxes(1, 2)
    at = np.arange(len(rows))
    C[:, at, at] += theta["sigma"][:, None] ** 2
    D = np.linalg.inv(C) * (2.0 * theta["sigma"] ** 2)[:, None, None]
    return 0.5 * np.trace(D @ D, axis1=1, axis2=2)


@pytest.mark.parametrize("replicates", [1, 6])
def test_what_runs_tell_of_the_noise_is_what_they_tell_when_they_are_there(replicates):
    posterior = scattered(replicates)
    problem, (theta, h) = posterior.problem, draws_of(posterior, 20)
    linear = LinearPosterior.of(problem, theta, h, np.tile(np.eye(2), (len(h), 1, 1)), noises=["sigma"])
    prior = 1.0 / np.log(problem.priors["sigma"].quantile((np.arange(200) + 0.5) / 200.0)).var()
    wanted = np.mean(1.0 / (prior + information_about_noise(problem, theta, h)))
    assert linear.variance[:, 2].mean() == pytest.approx(wanted, rel=1e-5)
    u = problem.unit_inputs(theta)[0] + 0.02
    gains = Gains.of(linear, [Candidates(linear.sources[0].kinds[0], u, ((0, 0),), np.ones(3))], {0: u})
    single = gains.of_kind(0)
    assert single.shape == (3, 3)
    for r in (2, 0):
        gains.choose(0, r)
    for chosen, taken in (([1], single[1, 2]), ([2, 0], (gains.scale - gains.variance)[2])):
        more = replace(problem.surrogate, process=with_runs(problem.surrogate.process, u[chosen]))
        after = np.mean(1.0 / (prior + information_about_noise(problem.with_error(more, 1.0), theta, h)))
        assert taken == pytest.approx(wanted - after, rel=1e-4)
    # Replicates have told of the noise what there is to know; without them the error of the surrogate hides it.
    assert (single[:, 2].max() > 0.01 * wanted) == (replicates == 1)
    # The run beside a chosen one has next to nothing left to tell: gains are conditioned on what is chosen.
    assert gains.of_kind(0)[2, 2] < 0.05 * single[2, 2] or replicates > 1


def test_a_plan_about_the_noise():
    posterior = scattered()
    plan = uq.next_runs(posterior, 3, about=["a", "sigma"], rng=3, stop=0.0)
    assert list(plan.now) == ["a", "sigma"]
    assert plan.floor["sigma"] < plan.table["sd_sigma"].iloc[-1] < plan.now["sigma"]
    assert (np.diff(plan.table["sd_sigma"]) < 0.0).all()
    alone = uq.next_runs(posterior, 3, about="sigma", rng=3, stop=0.0)
    assert alone.table["sd_sigma"].iloc[0] <= plan.table["sd_sigma"].iloc[0] + 1e-12

"""Levels of fidelity against dense co-kriging written out in NumPy, and what is asked of every surrogate."""

import pickle

import numpy as np
import pytest

import uqms as uq
from uqms.errors import DesignWarning
from uqms.surrogates.cokriging import CoKriging
from uqms.surrogates.fidelity import ladder
from uqms.surrogates.fused_scores import scores_flat
from uqms.surrogates.kernels import Matern52, SquaredExponential
from uqms.surrogates.process import condition
from uqms.surrogates.training import Hyperparameters, marginal_log_likelihood, objective, trend_basis

SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 2.0))


def simulated(level, a, b):
    """Three levels of one simulator."""
    coarse = np.sin(5.0 * a) + b * np.cos(3.0 * a)
    if level == "coarse":
        return coarse
    medium = 1.5 * coarse + 0.3 * np.sin(4.0 * b)
    return medium if level == "medium" else 0.8 * medium + 0.2 * a * b


def ensemble(counts, seed=1, nested=True, curve=False):
    """Return runs of several levels on prefixes of one design, or on designs of their own."""
    parts = []
    for i, (level, n) in enumerate(counts.items()):
        design = uq.sobol(SPACE, n, rng=seed if nested else seed + i)
        a, b = design["a"].values, design["b"].values
        y = simulated(level, a, b)
        outputs = {"y": y}
        if curve:
            time = np.linspace(0.0, 1.0, 9)
            outputs["c"] = ("time", y[:, None] * np.cos(time) + a[:, None] * time, time)
        parts.append(uq.ensemble.build(design, outputs, fidelity=level))
    return uq.ensemble.combine(*parts)


def kernel_matrix(u, x, ell):
    r = np.sqrt(5.0) * np.linalg.norm((u[:, None] - x[None]) / ell, axis=-1)
    return (1.0 + r + r * r / 3.0) * np.exp(-r)


def dense(levels, u, ell, variance, rho, jitter=1e-12):
    """Return posterior mean and covariance of the highest level by co-kriging, constants of levels with flat priors.

    Level t holds inputs and values; ell, variance are those of what is new in each level.
    """
    t = len(levels)

    def weight(r, level):
        return np.prod(rho[r:level]) if r <= level else 0.0

    def covariance(p, one, q, other):
        out = np.zeros((len(p), len(q)))
        for r in range(min(one, other) + 1):
            own = variance[r] * kernel_matrix(p, q, ell[r])
            if p is q:
                own += variance[r] * jitter * np.eye(len(p))
            out += weight(r, one) * weight(r, other) * own
        return out

    k = np.block([[covariance(p, i, q, j) for j, (q, _) in enumerate(levels)] for i, (p, _) in enumerate(levels)])
    f = np.vstack([np.tile(np.eye(t)[i], (len(p), 1)) for i, (p, _) in enumerate(levels)])
    y = np.concatenate([y for _, y in levels])
    to = np.hstack([covariance(u, t - 1, q, j) for j, (q, _) in enumerate(levels)])
    own = sum(weight(r, t - 1) ** 2 * variance[r] * kernel_matrix(u, u, ell[r]) for r in range(t))
    inverse = np.linalg.inv(k)
    information = np.linalg.inv(f.T @ inverse @ f)
    beta = information @ f.T @ inverse @ y
    h = np.tile(np.eye(t)[-1], (len(u), 1)) - to @ inverse @ f
    mean = np.tile(np.eye(t)[-1], (len(u), 1)) @ beta + to @ inverse @ (y - f @ beta)
    return mean, own - to @ inverse @ to.T + h @ information @ h.T


@pytest.mark.parametrize("counts", [{"coarse": 16, "fine": 6}, {"coarse": 16, "medium": 8, "fine": 5}])
def test_the_recursion_is_dense_co_kriging_with_every_rho_integrated_out(counts):
    runs = ensemble(counts)
    surrogate = uq.MultiFidelity(levels=tuple(counts), hyperparameters="point", scales="given").fit(runs)
    assert surrogate.nested
    steps = surrogate.ladder.steps
    processes = [step.process for step in steps]
    assert all(step.kind == "linear" for step in steps[1:])
    levels = [(p.x, p.y[:, 0]) for p in processes]
    ell, variance = [p.ell[0, 0] for p in processes], [p.variance[0, 0] for p in processes]
    u = np.random.default_rng(1).random((7, 2))
    # Given the variances rho is normal, and mean and second moment are quadratic in each rho: three nodes are exact.
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    weights = weights / weights.sum()
    centres = [p.beta[0, 0, 1] for p in processes[1:]]
    sds = [np.sqrt(np.sum(p.trend_root[0, 0, :, 1] ** 2)) for p in processes[1:]]
    first, second = 0.0, 0.0
    for index in np.ndindex(*(3,) * len(centres)):
        rho = [c + sd * nodes[i] for c, sd, i in zip(centres, sds, index, strict=True)]
        weight = np.prod(weights[list(index)])
        mean, covariance = dense(levels, u, ell, variance, rho)
        first, second = first + weight * mean, second + weight * (covariance + np.outer(mean, mean))
    found = surrogate.scores(u)
    np.testing.assert_allclose(found.mean[0, :, 0], first, atol=1e-8)
    np.testing.assert_allclose(found.covariance[0, 0], second - np.outer(first, first), atol=1e-8)
    assert found.covariance[0, 0].max() > 1e-4


def joint_process(levels, ell, s, rho):
    t, count = len(levels), len(levels)
    kernel = CoKriging(Matern52(), count)
    dummies = [np.tile(np.eye(count)[i, 1:], (len(p), 1)) for i, (p, _) in enumerate(levels)]
    x = np.vstack([np.hstack([d, p]) for d, (p, _) in zip(dummies, levels, strict=True)])
    y = np.concatenate([y for _, y in levels])
    theta = np.concatenate([np.concatenate(ell), s[1:], np.exp(rho)])
    return condition(kernel, x, y[:, None], t, [Hyperparameters(theta, 0.0, 0.0, 0.0, 0, False)])


@pytest.mark.parametrize("count", [2, 3])
def test_joint_co_kriging_is_dense_co_kriging(count):
    rng = np.random.default_rng(2)
    levels = [(rng.random((n, 2)), rng.standard_normal(n)) for n in (9, 6, 5)[:count]]
    ell = [np.array([0.5, 0.8]), np.array([0.4, 0.6]), np.array([0.7, 0.3])][:count]
    s, rho = np.array([1.0, 0.3, 0.2])[:count], np.array([0.7, -1.4])[: count - 1]
    process = joint_process(levels, ell, s, rho)
    a = [np.prod(rho[r:]) for r in range(count)]
    variance = process.variance[0, 0] * s / float(np.sum(s * np.square(a)))
    u = rng.random((6, 2))
    mean, covariance = dense(levels, u, ell, variance, rho)
    step = ladder.Step(process, "joint")
    one = ladder.Ladder((step,), np.zeros(1))
    found = one.scores(u)
    np.testing.assert_allclose(found.mean[0, :, 0], mean, atol=1e-8)
    np.testing.assert_allclose(found.covariance[0, 0], covariance, atol=1e-8)
    np.testing.assert_allclose(one.scores(u, diagonal=True).covariance[0, 0], np.diagonal(covariance), atol=1e-8)


def test_recursion_and_joint_co_kriging_agree_at_the_same_hyperparameters():
    runs = ensemble({"coarse": 16, "fine": 8})
    surrogate = uq.MultiFidelity(levels=("coarse", "fine"), hyperparameters="point", scales="given").fit(runs)
    first, second = (step.process for step in surrogate.ladder.steps)
    rho = second.beta[0, 0, 1]
    levels = [(p.x, p.y[:, 0]) for p in (first, second)]
    variance = np.array([first.variance[0, 0], second.variance[0, 0]])
    process = joint_process(levels, [first.ell[0, 0], second.ell[0, 0]], variance / variance[0], np.array([rho]))
    u = np.random.default_rng(3).random((6, 2))
    joint = ladder.Ladder((ladder.Step(process, "joint"),), np.zeros(1)).scores(u)
    # The mean does not depend on the common variance, and is that of the estimated rho.
    np.testing.assert_allclose(surrogate.scores(u).mean[0], joint.mean[0], atol=1e-8)


def differences(function, p, step=1e-6):
    return np.array([(function(p + e)[0] - function(p - e)[0]) / (2.0 * step) for e in step * np.eye(len(p))])


@pytest.mark.parametrize("count", [2, 3])
def test_the_gradient_of_the_co_kriging_objective(count):
    rng = np.random.default_rng(4)
    kernel = CoKriging(SquaredExponential(), count)
    level = np.repeat(np.arange(count), 6)
    x = np.hstack([np.eye(count)[level, 1:], rng.random((len(level), 2))])
    y, trend = rng.standard_normal(len(level)), trend_basis(x, count)
    p = np.concatenate(
        [rng.normal(-1.0, 0.3, 2 * count), rng.normal(0.0, 0.5, count - 1), rng.normal(0.5, 1.0, count - 1)]
    )

    def value(p):
        return objective(p, x, y, trend, kernel, False)

    np.testing.assert_allclose(value(p)[1], differences(value, p), rtol=1e-5, atol=1e-6)


CASES = {
    "two levels": ({"coarse": 12, "fine": 5}, True, "auto"),
    "three levels": ({"coarse": 16, "medium": 8, "fine": 5}, True, "auto"),
    "not nested": ({"coarse": 10, "fine": 6}, False, "auto"),
}


@pytest.mark.parametrize("case", ["two levels", "three levels", pytest.param("not nested", marks=pytest.mark.slow)])
def test_it_does_what_is_asked_of_a_surrogate(case):
    counts, nested, hyperparameters = CASES[case]
    runs = ensemble(counts, nested=nested, curve=case == "two levels")
    surrogate = uq.MultiFidelity(levels=tuple(counts), hyperparameters=hyperparameters).fit(runs)
    assert surrogate.nested == nested
    assert ("nested" if nested else "not nested") in repr(surrogate)
    assert surrogate.ladder.draws == 16
    uq.testing.check_surrogate(surrogate, draws=1000).raise_failed()


@pytest.mark.parametrize("case", ["two levels", *(pytest.param(c, marks=pytest.mark.slow) for c in list(CASES)[1:])])
def test_a_file_holds_it_to_the_last_bit(case, tmp_path):
    counts, nested, _ = CASES[case]
    runs = ensemble(counts, nested=nested, curve=True)
    surrogate = uq.MultiFidelity(levels=tuple(counts), cost=dict.fromkeys(counts, 2.0)).fit(runs)
    surrogate.save(tmp_path / "s.npz")
    same = uq.load_surrogate(tmp_path / "s.npz")
    u = np.random.default_rng(5).random((4, 2))
    for one, other in zip(surrogate.scores(u), same.scores(u), strict=True):
        assert np.array_equal(one, other)
    assert repr(same) == repr(surrogate)
    assert dict(same.costs) == dict(surrogate.costs)
    assert np.array_equal(same.decode("c").truncation, surrogate.decode("c").truncation)
    same.save(tmp_path / "t.npz")
    assert (tmp_path / "s.npz").read_bytes() == (tmp_path / "t.npz").read_bytes()


def test_compiled_levels_are_those_of_matrix_products():
    counts = {"coarse": 16, "medium": 8, "fine": 5}
    made = uq.MultiFidelity(levels=tuple(counts)).fit(ensemble(counts, curve=True)).ladder
    assert made.compiled_error is not None
    u = np.random.default_rng(6).random((4, 2))
    one, other = made.scores(u), made.scores(np.stack([u] * 5))  # of many inputs, not compiled
    two = made.scores(np.stack([u[::-1], u]))  # compiled
    assert (two.mean[:, 1] == one.mean).all()
    assert (two.covariance[:, 1] == one.covariance).all()
    assert two.log_weights is made.log_weights
    assert (made.scores(u[None]).covariance[:, 0] == one.covariance).all()  # of one member, compiled
    np.testing.assert_allclose(one.mean, other.mean[:, 0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one.covariance, other.covariance[:, 0], rtol=1e-7, atol=1e-10)
    rng = np.random.default_rng(7)
    bars = rng.standard_normal(one.mean.shape), rng.standard_normal(one.covariance.shape)
    slow = sum(
        made._reverse(h, j, u, np.ascontiguousarray(bars[0][h, :, j]), bars[1][h, j])
        for h, j in np.ndindex(made.draws, made.top.q)
    )
    np.testing.assert_allclose(made.reverse(u, *bars), slow, rtol=1e-7, atol=1e-8 * np.abs(slow).max())
    sent = pickle.loads(pickle.dumps(made))
    assert set(sent.__dict__) == {"steps", "log_weights"}
    assert (sent.scores(u).mean == one.mean).all()
    assert made.top.q > 2
    used = np.array([made.top.q - 1, 0])  # a likelihood asks for the scores of the measured outputs only
    mean, covariance = scores_flat(made.compiled_error.select(used).flat(), u)
    np.testing.assert_array_equal(mean, one.mean[..., used])
    np.testing.assert_array_equal(covariance, one.covariance[:, used])


def in_one_dimension(low, high):
    """Return runs of two levels at their own inputs, and a smooth relation between them."""
    space = uq.ParameterSpace(x=uq.Uniform(0.0, 1.0))

    def level(name, x, y):
        return uq.ensemble.build({"x": x}, {"y": y}, fidelity=name, space=space, box=space.box())

    def coarse(x):
        return np.sin(23.0 * x) + np.cos(9.0 * x**2)

    return uq.ensemble.combine(
        level("coarse", low, coarse(low)), level("fine", high, coarse(high) + 0.3 * np.cos(4.0 * high))
    )


def test_many_runs_of_a_lower_level_do_not_make_up_for_few_of_the_highest():
    rng = np.random.default_rng(1)
    runs = in_one_dimension(np.linspace(0.0, 1.0, 60), rng.random(8))
    surrogate = uq.MultiFidelity(levels=("coarse", "fine")).fit(runs)
    assert not surrogate.nested
    assert surrogate.ladder.draws == 16  # with point estimates 95 % intervals cover 88 %


def test_a_lower_level_of_much_larger_variance_keeps_its_digits():
    x, few = np.linspace(0.0, 1.0, 50)[:, None], np.linspace(0.02, 0.97, 12)[:, None]
    y, own = np.sin(8.0 * np.pi * x[:, 0]), np.cos(5.0 * few[:, 0])
    kernel, s = CoKriging(SquaredExponential(), 2), 1e-4
    ell, variance = (0.15, 0.3), (1e4, 1.0)
    both = np.vstack([np.hstack([np.zeros_like(x), x]), np.hstack([np.ones_like(few), few])])
    # With rho = 0 levels are independent, and their densities multiply.
    joint = marginal_log_likelihood(
        both,
        np.append(y, own),
        kernel,
        np.array([*ell, s, 1.0]),
        variance[1],
        1e-12 * variance[1],
        np.zeros(len(both)),
    )
    alone = sum(
        marginal_log_likelihood(u, z, SquaredExponential(), np.array([scale]), v, 1e-12 * v, np.zeros(len(u)))
        for u, z, scale, v in zip((x, few), (y, own), ell, variance, strict=True)
    )
    np.testing.assert_allclose(joint, alone, atol=6.0)  # of some 300


def test_co_kriging_knows_as_much_as_the_recursion():
    x = np.linspace(0.0, 1.0, 50)
    some = np.random.default_rng(3).permutation(x)[:14]
    space = uq.ParameterSpace(x=uq.Uniform(0.0, 1.0))

    def level(name, x, y):
        return uq.ensemble.build({"x": x}, {"y": y}, fidelity=name, space=space, box=space.box())

    low, high = np.sin(8.0 * np.pi * x), (some - np.sqrt(2.0)) * np.sin(8.0 * np.pi * some) ** 2
    runs = uq.ensemble.combine(level("low", x, low), level("high", some, high))
    made = [
        uq.MultiFidelity(levels=("low", "high"), kernel=SquaredExponential(), designs=one).fit(runs)
        for one in ("auto", "joint")
    ]
    sd = [one.predict({"x": np.linspace(0.0, 1.0, 101)}).sd["y"].values.mean() for one in made]
    assert 0.8 < sd[1] / sd[0] < 1.25


@pytest.mark.parametrize("designs", ["auto", "joint"])
def test_a_linear_trend_counts_the_inputs_that_vary(designs):
    full = ensemble({"coarse": 16, "fine": 8})
    runs = uq.ensemble.combine(
        *(
            uq.ensemble.build(
                {"a": one["a"].values, "b": np.ones(one.sizes["run"])}, {"y": one["y"].values}, fidelity=f
            )
            for f in ("coarse", "fine")
            for one in [full.isel(run=np.flatnonzero(full["fidelity"].values == f))]
        )
    )
    settings = uq.MultiFidelity(levels=("coarse", "fine"), trend="linear", hyperparameters="point", designs=designs)
    with pytest.warns(DesignWarning, match="left out"):
        steps = settings.fit(runs).ladder.steps
    assert [step.process.beta.shape[2] for step in steps] == ([2, 3] if designs == "auto" else [3])

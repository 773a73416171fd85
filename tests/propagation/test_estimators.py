"""Means from several levels of fidelity: unbiased, with the variance that theory says, and budgets spent as it says."""

import numpy as np
import pytest
import xarray as xr

import uqms as uq
from uqms.errors import DataError, InputError
from uqms.propagation import allocate, multifidelity_mean

LEVELS = ("coarse", "middle", "fine")
COUNTS = {"coarse": 800, "middle": 200, "fine": 50}


def level(name, a, b):
    if name == "fine":
        return np.exp(0.5 * a) + 0.3 * b**2
    if name == "middle":
        return 1.0 + 0.6 * a + 0.2 * a**2 + 0.2 * b**2
    return 5.0 + 3.0 * a + 0.3 * np.sin(3.0 * b)


TRUTH = np.exp(0.125) + 0.3


_TABLES: dict[tuple[tuple[str, int], ...], xr.Dataset] = {}


def runs(designs, function=level):
    """Return an ensemble; tables of one form are built once, since hundreds of them are needed."""
    form = tuple((one, len(columns["a"])) for one, columns in designs.items())
    a, b = (np.concatenate([columns[name] for columns in designs.values()]) for name in "ab")
    y = np.concatenate([function(one, columns["a"], columns["b"]) for one, columns in designs.items()])
    if form not in _TABLES:
        fidelity = np.repeat([one for one, _ in form], [count for _, count in form])
        _TABLES[form] = uq.ensemble.build({"a": a, "b": b}, {"y": y}, fidelity=fidelity)
    table = _TABLES[form].copy(deep=True)
    for name, values in (("a", a), ("b", b), ("y", y)):
        table[name].values[:] = values
    return table


def nested_designs(rng, counts=COUNTS):
    a, b = rng.normal(size=(2, max(counts.values())))
    return {one: {"a": a[:n], "b": b[:n]} for one, n in counts.items()}


def separate_designs(rng, counts=COUNTS):
    """Return pairs of levels at inputs of their own."""
    names = list(counts)
    a, b = rng.normal(size=(2, sum(counts.values())))
    starts = np.concatenate([[0], np.cumsum(list(counts.values()))])
    rows = [slice(starts[i], starts[min(i + 2, len(names))]) for i in range(len(names))]
    return {one: {"a": a[part], "b": b[part]} for one, part in zip(names, rows, strict=True)}


def moments():
    """Return the covariance of the levels, from a million draws."""
    a, b = np.random.default_rng(0).normal(size=(2, 1_000_000))
    return np.cov(np.stack([level(one, a, b) for one in LEVELS]))


def theory(covariance, counts):
    """Return the variance of the estimator with known coefficients, from Peherstorfer et al. (2016)."""
    n = np.array([counts[one] for one in LEVELS], dtype=float)
    share = covariance[:, -1] ** 2 / np.diag(covariance) / covariance[-1, -1]
    return covariance[-1, -1] * (1.0 / n[-1] - sum((1.0 / n[i + 1] - 1.0 / n[i]) * share[i] for i in range(2)))


def test_control_variates_are_unbiased_with_the_variance_of_theory():
    rng = np.random.default_rng(1)
    means, sds, covered = [], [], []
    for _ in range(200):
        one = multifidelity_mean(runs(nested_designs(rng)), LEVELS)
        between = one.interval()["y"].values
        means.append(one["y"]["mean"].item())
        sds.append(one["y"]["sd"].item())
        covered.append(between[1] < TRUTH < between[2])
    expected = theory(moments(), COUNTS)
    assert abs(np.mean(means) - TRUTH) < 3.0 * np.sqrt(expected / 200)
    # The variance of 200 is known to 10 %.
    assert np.var(means, ddof=1) == pytest.approx(expected, rel=0.2)
    assert np.mean(np.square(sds)) == pytest.approx(expected, rel=0.2)
    assert 0.905 <= np.mean(covered) <= 0.985
    # and what it is worth
    assert expected < 0.35 * moments()[-1, -1] / 50


def test_the_error_of_the_lower_level_counts_where_it_follows_closely():
    """Nearly all of the variance is then that of the mean of the lower level, most of it from its own runs."""

    def close(name, a, b):
        return np.exp(0.5 * a) + 0.3 * b**2 + (0.0 if name == "fine" else 0.1 * a)

    rng = np.random.default_rng(12)
    a, b = rng.normal(size=(2, 400_000))
    c = np.cov(close("coarse", a, b), close("fine", a, b))
    share = c[0, 1] ** 2 / c[0, 0] / c[1, 1]
    expected = c[1, 1] * (1.0 / 20 - (1.0 / 20 - 1.0 / 100) * share)
    found = [
        multifidelity_mean(runs(nested_designs(rng, {"coarse": 100, "fine": 20}), close), ("coarse", "fine"))["y"]
        for _ in range(150)
    ]
    assert np.var([one["mean"].item() for one in found], ddof=1) == pytest.approx(expected, rel=0.35)
    assert np.mean([one["sd"].item() ** 2 for one in found]) == pytest.approx(expected, rel=0.15)


@pytest.mark.slow
def test_coefficients_from_the_same_inputs_would_be_biased():
    """Twelve runs of a skewed function: with coefficients from all inputs the mean is off by more than by chance."""

    def skewed(name, a, b):
        return np.exp(1.2 * a) if name == "fine" else a + a**2

    rng = np.random.default_rng(2)
    truth = np.exp(0.72)
    errors, plain = [], []
    for _ in range(400):
        designs = nested_designs(rng, {"coarse": 400, "fine": 8})
        one = multifidelity_mean(runs(designs, skewed), ("coarse", "fine"))["y"]
        errors.append(one["mean"].item() - truth)
        x = designs["coarse"]["a"]
        low, high = x + x**2, np.exp(1.2 * x[:8])
        alpha = np.cov(high, low[:8])[0, 1] / np.var(low[:8], ddof=1)
        plain.append(high.mean() + alpha * (low.mean() - low[:8].mean()) - truth)
    se = np.std(errors, ddof=1) / 20.0
    assert abs(np.mean(errors)) < 3.5 * se
    assert abs(np.mean(plain)) > 4.0 * np.std(plain, ddof=1) / 20.0


@pytest.mark.parametrize("designs", [nested_designs, separate_designs])
def test_multilevel_is_unbiased_with_the_variance_of_theory(designs):
    def mesh(name, a, b):
        h = {"coarse": 0.5, "middle": 0.2, "fine": 0.05}[name]
        return np.exp(0.5 * a) + 0.3 * b**2 + h * (a - 0.5 * b)

    rng = np.random.default_rng(3)
    means, sds = [], []
    for _ in range(200):
        one = multifidelity_mean(runs(designs(rng), mesh), LEVELS, method="mlmc")
        means.append(one["y"]["mean"].item())
        sds.append(one["y"]["sd"].item())
    a, b = np.random.default_rng(0).normal(size=(2, 400_000))
    f = np.stack([mesh(one, a, b) for one in LEVELS])
    steps = np.stack([f[0], f[1] - f[0], f[2] - f[1]])
    c = np.cov(steps)
    # Two means over n and over m of these n inputs have the covariance c / n.
    if designs is nested_designs:
        expected = (np.diag(c) / [800.0, 200.0, 50.0]).sum() + 2.0 * (c[0, 1] + c[0, 2]) / 800.0 + 2.0 * c[1, 2] / 200.0
    else:  # the coarse runs at the inputs of the middle ones are of use too
        expected = (np.diag(c) / [1000.0, 200.0, 50.0]).sum() + 2.0 * c[0, 1] / 1000.0
    assert abs(np.mean(means) - TRUTH) < 3.0 * np.sqrt(expected / 200)
    assert np.var(means, ddof=1) == pytest.approx(expected, rel=0.2)
    assert np.mean(np.square(sds)) == pytest.approx(expected, rel=0.2)


def test_two_levels_by_hand():
    rng = np.random.default_rng(4)
    designs = nested_designs(rng, {"coarse": 30, "fine": 6})
    one = multifidelity_mean(runs(designs), ("coarse", "fine"))
    a, b = designs["coarse"]["a"], designs["coarse"]["b"]
    low, high = level("coarse", a, b), level("fine", a[:6], b[:6])
    expected = high.mean()
    for z in range(6):
        others = [i for i in range(6) if i != z]
        alpha = np.cov(high[others], low[others])[0, 1] / np.var(low[others], ddof=1)
        expected += (1.0 / 6 - 1.0 / 30) * alpha * (low[6:].mean() - low[z])
    assert one["y"]["mean"].item() == pytest.approx(expected, rel=1e-12)
    alpha = np.cov(high, low[:6])[0, 1] / np.var(low[:6], ddof=1)
    assert one["y"]["coefficient"].item() == pytest.approx(alpha, rel=1e-12)


def test_runs_that_failed_and_runs_without_a_partner_are_left_out():
    rng = np.random.default_rng(5)
    designs = nested_designs(rng, {"coarse": 60, "fine": 12})
    whole = runs(designs)
    y, states = whole["y"].values.copy(), np.full(72, "completed", dtype=object)
    y[[3, 40, 60 + 7]] = np.nan  # a coarse run at a fine one's input, another coarse one, a fine one
    states[[3, 40, 60 + 7]] = "failed"
    broken = uq.ensemble.build(
        {"a": whole["a"].values, "b": whole["b"].values}, {"y": y}, states=states, fidelity=whole["fidelity"].values
    )
    found = multifidelity_mean(broken, ("coarse", "fine"))
    assert dict(found.inputs["y"]) == {"coarse": 58, "fine": 10}
    assert dict(found.left_out["y"]) == {"coarse": 2, "fine": 2}
    kept = np.setdiff1d(np.arange(72), [3, 40, 60 + 7, 60 + 3])
    again = multifidelity_mean(broken.isel(run=np.random.default_rng(1).permutation(kept)), ("coarse", "fine"))
    assert found["y"]["mean"].item() == pytest.approx(again["y"]["mean"].item(), rel=1e-12)
    assert "left out: coarse 2, fine 2" in repr(found)


def test_curves_have_a_mean_at_each_coordinate():
    rng = np.random.default_rng(6)
    designs = nested_designs(rng, {"coarse": 100, "fine": 20})
    t = np.array([1.0, 2.0])

    def curve(name):
        columns = designs[name]
        y = level(name, columns["a"], columns["b"])
        return uq.ensemble.build(
            columns, {"y": ("t", np.column_stack([y, 2.0 * y]), t)}, fidelity=name, units={"y": "mm"}
        )

    found = multifidelity_mean(uq.ensemble.combine(curve("coarse"), curve("fine")), ("coarse", "fine"))
    np.testing.assert_allclose(found["y"]["mean"].sel(t=2.0), 2.0 * found["y"]["mean"].sel(t=1.0), rtol=1e-12)
    assert found.interval()["y"].dims == ("bound", "t")
    assert found["y"]["mean"].attrs["unit"] == "mm"


def test_the_budget_is_spent_as_theory_says():
    rng = np.random.default_rng(7)
    cost = {"coarse": 1.0, "middle": 10.0, "fine": 400.0}
    pilot = runs(nested_designs(rng, dict.fromkeys(LEVELS, 100)))
    plan = allocate(pilot, 40000.0, LEVELS, cost=cost)
    assert plan.cost <= 40000.0
    assert plan.cost > 0.95 * 40000.0
    y = pilot["y"].values.reshape(3, 100)
    covariance = np.cov(y)
    w = np.array(list(cost.values()))

    def variance(counts):
        share = covariance[:, -1] ** 2 / np.diag(covariance) / covariance[-1, -1]
        n = np.asarray(counts)
        return covariance[-1, -1] * (1.0 / n[2] - sum((1.0 / n[i + 1] - 1.0 / n[i]) * share[i] for i in range(2)))

    counts = np.array([plan.table["runs"][one] for one in LEVELS], dtype=float)
    if (counts > 0).all():
        assert plan.sd**2 == pytest.approx(variance(counts), rel=1e-9)
    # No other division of the budget among the three levels is better.
    best = np.inf
    for fine in np.linspace(10.0, 99.0, 90):
        for middle in np.geomspace(fine, 3900.0, 80):
            coarse = 40000.0 - 400.0 * fine - 10.0 * middle
            if coarse >= middle:
                best = min(best, variance([coarse, middle, fine]))
    assert plan.sd**2 <= best * 1.02
    assert plan.gain == pytest.approx(covariance[-1, -1] * w[2] / 40000.0 / plan.sd**2)


def test_a_level_that_does_not_pay_is_left_out():
    rng = np.random.default_rng(8)

    def noisy(name, a, b):
        return (
            level("fine", a, b) + 0.1 * a
            if name == "middle"
            else rng.normal(size=len(a))
            if name == "coarse"
            else level(name, a, b)
        )

    pilot = runs(nested_designs(rng, dict.fromkeys(LEVELS, 60)), noisy)
    plan = allocate(pilot, 10000.0, LEVELS, cost={"coarse": 5.0, "middle": 8.0, "fine": 400.0})
    assert plan.levels == ("middle", "fine")
    useless = allocate(pilot, 10000.0, ("coarse", "fine"), cost={"coarse": 300.0, "fine": 400.0})
    assert useless.levels == ("fine",)
    assert useless.gain == pytest.approx(1.0, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mfmc", "mlmc"])
def test_a_plan_is_carried_out_with_the_error_it_says(method):
    def mesh(name, a, b):
        return np.exp(0.5 * a) + (0.0 if name == "fine" else 0.2 * (a - 0.5 * b**2))

    rng = np.random.default_rng(9)
    pilot = runs(nested_designs(rng, dict.fromkeys(("coarse", "fine"), 4000)), mesh)
    plan = allocate(pilot, 10000.0, ("coarse", "fine"), cost={"coarse": 1.0, "fine": 50.0}, method=method)
    space = uq.ParameterSpace(a=uq.Normal(0.0, 1.0), b=uq.Normal(0.0, 1.0))
    means = []
    for seed in range(150):
        designs = plan.design(space, rng=seed)
        columns = {one: {name: design[name].values for name in "ab"} for one, design in designs.items()}
        means.append(multifidelity_mean(runs(columns, mesh), ("coarse", "fine"), method=method)["y"]["mean"].item())
    spent = sum(len(columns[one]["a"]) * {"coarse": 1.0, "fine": 50.0}[one] for one in columns)
    assert spent == plan.cost
    # The pilot's variances are known to 5 % or so, those of 150 means to 12 %.
    assert np.var(means, ddof=1) == pytest.approx(plan.sd**2, rel=0.35)
    assert abs(np.mean(means) - np.exp(0.125)) < 4.0 * plan.sd / np.sqrt(150)


def test_costs_come_from_the_pilot():
    rng = np.random.default_rng(10)
    designs = nested_designs(rng, dict.fromkeys(("coarse", "fine"), 30))
    parts = [
        uq.ensemble.build(columns, {"y": level(one, **columns)}, fidelity=one, seconds=np.full(30, second))
        for (one, columns), second in zip(designs.items(), (2.0, 500.0), strict=True)
    ]
    plan = allocate(uq.ensemble.combine(*parts), 20000.0, ("coarse", "fine"))
    assert plan.table["cost"].to_dict() == {"coarse": 2.0, "fine": 500.0}
    with pytest.raises(InputError, match="costs of a run"):
        allocate(runs(designs), 20000.0, ("coarse", "fine"))


def test_what_cannot_be_meant_is_refused():
    rng = np.random.default_rng(11)
    designs = nested_designs(rng, {"coarse": 40, "fine": 10})
    table = runs(designs)
    with pytest.raises(InputError, match="at least two"):
        multifidelity_mean(table, ("fine",))
    with pytest.raises(DataError, match="no runs of middle"):
        multifidelity_mean(table, LEVELS)
    with pytest.raises(InputError, match="method"):
        multifidelity_mean(table, ("coarse", "fine"), method="blue")
    with pytest.raises(DataError, match="fidelity"):
        multifidelity_mean(uq.ensemble.build(designs["fine"], {"y": np.ones(10)}), ("coarse", "fine"))
    apart = runs(
        {
            "coarse": {name: column[:20] for name, column in designs["coarse"].items()},
            "fine": {name: column + 1.0 for name, column in designs["fine"].items()},
        }
    )
    with pytest.raises(DataError, match="Run 'coarse' at the inputs of 'fine'"):
        multifidelity_mean(apart, ("coarse", "fine"))
    with pytest.raises(InputError, match="raise it"):
        allocate(table, 100.0, ("coarse", "fine"), cost={"coarse": 1.0, "fine": 100.0})

"""Left-out runs of the highest level, and what is said when an ensemble of levels cannot be learned."""

import re

import numpy as np
import pytest

import uqms as uq
from uqms.errors import DataError, DesignError, DesignWarning, InputError
from uqms.surrogates.fidelity.levels import read_levels

SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 2.0))
LEVELS = ("coarse", "fine")


def runs_of(level, design, **more):
    a, b = design["a"].values, design["b"].values
    coarse = np.sin(5.0 * a) + b * np.cos(3.0 * a)
    y = coarse if level == "coarse" else 2.0 * coarse + 0.3 * np.sin(4.0 * b)
    return uq.ensemble.build(design, {"y": y}, fidelity=level, **more)


def ensemble(coarse=20, fine=10, nested=True):
    designs = uq.nested(SPACE, {"coarse": coarse, "fine": fine}, rng=1)
    if not nested:
        designs["fine"] = uq.sobol(SPACE, fine, rng=2)
    return uq.ensemble.combine(*(runs_of(level, design) for level, design in designs.items()))


@pytest.mark.parametrize("nested", [True, False])
def test_leave_one_out_is_a_fit_without_that_run_with_the_same_hyperparameters(nested):
    runs = ensemble(12, 6, nested)
    surrogate = uq.MultiFidelity(levels=LEVELS, hyperparameters="point").fit(runs)
    found = uq.leave_one_out(surrogate)
    assert found.runs == 6
    process, i = surrogate.process, int(surrogate.highest[2])
    kernel, n = process.kernel, len(process.x)
    kept = np.delete(np.arange(n), i)
    from uqms.surrogates.kernels import correlation

    k = process.variance[0, 0] * (correlation(kernel, process.x, process.x, process.ell[0, 0]) + 1e-12 * np.eye(n))
    f = process.x[:, :1] if not nested else None
    trend = np.ones((n, 1)) if nested else np.column_stack([np.ones(n), f])
    if nested:
        low = surrogate.ladder.steps[0].process
        where = [int(np.flatnonzero((low.x == x).all(axis=1))[0]) for x in process.x]
        trend = np.column_stack([trend, low.y[where, 0]])
    inverse = np.linalg.inv(k[np.ix_(kept, kept)])
    beta = np.linalg.solve(trend[kept].T @ inverse @ trend[kept], trend[kept].T @ inverse @ process.y[kept, 0])
    mean = trend[i] @ beta + k[i, kept] @ inverse @ (process.y[kept, 0] - trend[kept] @ beta)
    basis = surrogate.bases[0]
    np.testing.assert_allclose(found.mean["y"].values[2], basis.offset[0] + basis.basis[0, 0] * mean, rtol=1e-6)
    top = runs["fidelity"].values == "fine"
    np.testing.assert_allclose(found.observed["y"].values, runs["y"].values[top], rtol=1e-10)


def test_k_fold_leaves_out_the_lower_levels_at_the_same_inputs():
    runs = ensemble()
    seen = []

    class Watching:
        def fit(self, some):
            seen.append(some)
            return uq.MultiFidelity(levels=LEVELS, hyperparameters="point").fit(some)

        def judged(self, some):
            return np.flatnonzero(some["fidelity"].values == "fine")

    found = uq.k_fold(Watching(), runs, k=5, rng=1)
    assert found.runs == 10
    assert found.table.loc["y", "q2"] > 0.9
    for some in seen:
        counts = [int((some["fidelity"].values == level).sum()) for level in LEVELS]
        assert counts == [18, 8]


def test_runs_that_it_has_not_seen_are_those_of_the_highest_level():
    surrogate = uq.MultiFidelity(levels=LEVELS, hyperparameters="point").fit(ensemble())
    design = uq.sobol(SPACE, 8, rng=7)
    fresh = uq.ensemble.combine(runs_of("coarse", design), runs_of("fine", design))
    found = uq.held_out(surrogate, fresh)
    np.testing.assert_array_equal(found.observed["y"].values, fresh["y"].values[8:])
    assert found.table.loc["y", "q2"] > 0.95


def test_more_runs_of_the_highest_level_are_what_is_learned_from():
    curve = uq.learning_curve(
        uq.MultiFidelity(levels=LEVELS, hyperparameters="point"), ensemble(32, 16), sizes=[5, 12], rng=1
    )
    assert list(curve.table.index.get_level_values("runs")) == [5, 12]


def test_a_level_that_is_not_there():
    with pytest.raises(InputError, match=r"no runs of level '3d'; the ensemble has runs of \['coarse', 'fine'\]"):
        uq.MultiFidelity(levels=("coarse", "3d")).fit(ensemble())


def test_runs_of_a_level_that_is_not_named():
    more = uq.ensemble.combine(
        ensemble(), uq.ensemble.build(uq.sobol(SPACE, 4, rng=3), {"y": np.ones(4)}, fidelity="x")
    )
    with pytest.raises(InputError, match="runs of level 'coarse' too"):
        uq.MultiFidelity(levels=("x", "fine")).fit(more)


def test_an_ensemble_without_levels():
    with pytest.raises(DataError, match="no coordinate 'fidelity'"):
        uq.MultiFidelity(levels=LEVELS).fit(ensemble().drop_vars("fidelity"))


def test_too_few_runs_of_the_highest_level():
    with pytest.raises(DesignError, match="3 different completed runs of level 'fine'; at least 4"):
        uq.MultiFidelity(levels=LEVELS).fit(ensemble(20, 3))


def test_a_level_of_which_no_run_completed():
    designs = uq.nested(SPACE, {"coarse": 12, "fine": 6}, rng=1)
    failed = runs_of("fine", designs["fine"], states=["failed"] * 6)
    with pytest.raises(DesignError, match="No run of level 'fine' completed"):
        uq.MultiFidelity(levels=LEVELS).fit(uq.ensemble.combine(runs_of("coarse", designs["coarse"]), failed))


@pytest.mark.parametrize("levels", ["coarse", ("fine",), ("fine", "fine"), ("fine", 1)])
def test_levels_that_are_none(levels):
    with pytest.raises(InputError, match="the names of two or more levels"):
        uq.MultiFidelity(levels=levels)


WRONG = [{"kernel": 1}, {"trend": "cubic"}, {"hyperparameters": "x"}, {"designs": "x"}, {"outputs": {"y": 1}}]


@pytest.mark.parametrize("change", WRONG)
def test_settings_that_are_none(change):
    with pytest.raises(InputError):
        uq.MultiFidelity(levels=LEVELS, **change)
    if not {"trend", "designs"} & set(change):
        with pytest.raises(InputError):
            uq.NonlinearMultiFidelity(levels=LEVELS, **change)


def test_a_cost_of_another_level():
    with pytest.raises(InputError, match=r"cost is .*; give a positive number for each of \['coarse', 'fine'\]"):
        uq.MultiFidelity(levels=LEVELS, cost={"coarse": 1.0}).fit(ensemble())


def test_a_single_gaussian_process_does_not_mix_levels():
    with pytest.raises(DataError, match="runs of several levels"):
        uq.GaussianProcess().fit(ensemble())


def test_designs_of_levels_are_beginnings_of_one_sequence():
    designs = uq.nested(SPACE, {"low": 16, "middle": 8, "high": 3}, rng=3)
    for level, n in (("low", 16), ("middle", 8), ("high", 3)):
        assert designs[level].equals(uq.sobol(SPACE, n, rng=3))
    with pytest.raises(InputError, match="'high' has 9 runs, more than the level before"):
        uq.nested(SPACE, {"low": 8, "high": 9})
    with pytest.raises(InputError, match="give the number of runs of each level"):
        uq.nested(SPACE, {})


def test_a_level_below_that_says_nothing_has_no_part():
    rng = np.random.default_rng(1)
    designs = uq.nested(SPACE, {"coarse": 30, "fine": 15}, rng=1)
    wrong = uq.ensemble.build(designs["coarse"], {"y": rng.standard_normal(30)}, fidelity="coarse")
    runs = uq.ensemble.combine(wrong, runs_of("fine", designs["fine"]))
    top = uq.MultiFidelity(levels=LEVELS).fit(runs).process
    assert (top.beta[:, 0, 1] == 0.0).mean() >= 0.75
    right = uq.MultiFidelity(levels=LEVELS).fit(ensemble(30, 15)).process
    assert (right.beta[:, 0, 1] != 0.0).all()


@pytest.mark.parametrize("settings", [uq.MultiFidelity, uq.NonlinearMultiFidelity])
def test_levels_that_agree_to_the_last_digit_and_outputs_that_never_change(settings):
    designs = uq.nested(SPACE, {"coarse": 16, "fine": 7}, rng=1)

    def build(level, dead, still):
        a, b = designs[level]["a"].values, designs[level]["b"].values
        outputs = {"same": np.sin(4.0 * a) + b, "dead": dead * np.cos(a), "still": still * np.cos(3.0 * a)}
        return uq.ensemble.build(designs[level], outputs, fidelity=level)

    with pytest.warns(uq.errors.ConstantOutputWarning, match="'dead'"):
        surrogate = settings(levels=LEVELS, scales="given").fit(
            uq.ensemble.combine(build("coarse", 1.0, 0.0), build("fine", 0.0, 1.0))
        )
    alone = uq.GaussianProcess(scales="given").fit(build("coarse", 1.0, 1.0).drop_vars("fidelity"))
    point = {"a": 0.4, "b": 0.7}
    found, wanted = surrogate.predict(point), alone.predict(point)
    sd, drawn = wanted.sd["same"].item(), settings is uq.NonlinearMultiFidelity  # 32 draws of the lower function
    assert found.mean["same"].item() == pytest.approx(wanted.mean["same"].item(), abs=1e-6 + 0.3 * sd * drawn)
    assert found.sd["same"].item() == pytest.approx(sd, rel=0.5 if drawn else 0.01)
    assert found.mean["dead"].item() == 0.0
    assert found.sd["dead"].item() == 0.0
    assert abs(found.mean["still"].item() - np.cos(1.2)) < 3.0 * found.sd["still"].item()


def test_levels_in_the_wrong_order():
    with pytest.warns(DesignWarning, match="Is the order right"):
        read_levels(ensemble(), ("fine", "coarse"), {}, None)


def test_a_level_over_which_an_input_stands_still():
    designs = uq.nested(SPACE, {"coarse": 20, "fine": 8}, rng=1)
    designs["fine"]["b"].values[:] = 1.0
    runs = uq.ensemble.combine(*(runs_of(level, design) for level, design in designs.items()))
    with pytest.warns(DesignWarning, match=r"\['b'\] do not vary over the runs of level 'fine'"):
        read_levels(runs, LEVELS, {}, None)


def test_repeats_that_differ_are_of_a_level():
    runs = ensemble().isel(run=[*range(30), 25]).copy(deep=True)
    runs["y"].values[30] += 1.0
    with pytest.raises(DataError, match="level 'fine' have the same inputs"):
        read_levels(runs, LEVELS, {}, None)


@pytest.mark.parametrize("cost", [3.0, {"coarse": "a", "fine": 1.0}, {"coarse": 1.0}, {"coarse": 0.0, "fine": 1.0}])
def test_costs_that_are_none(cost):
    with pytest.raises(InputError, match="give a positive number for each"):
        read_levels(ensemble(), LEVELS, {}, cost)


def test_proposals_stay_in_the_box():
    surrogate = uq.MultiFidelity(levels=LEVELS, hyperparameters="point", cost={"coarse": 1.0, "fine": 2.0}).fit(
        ensemble()
    )
    with pytest.raises(InputError, match="1 of 2 candidates lie outside"):
        uq.next_level(surrogate, {"a": [0.5, 5.0], "b": 1.0})
    with pytest.raises(InputError, match="the costs are 3"):
        uq.next_level(surrogate, cost=3)


def smooth(a, b):
    return np.sin(5.0 * a) * np.exp(b) + 2.0 * np.cos(3.0 * b + a)


@pytest.mark.parametrize("settings", [uq.MultiFidelity, uq.NonlinearMultiFidelity])
def test_a_level_that_says_nothing_costs_nothing(settings):
    # The highest level chooses the kernel that it has alone, and both surrogates are about the same.
    designs = uq.nested(SPACE, {"coarse": 40, "fine": 20}, rng=1)
    points = {name: column.values for name, column in uq.sobol(SPACE, 256, rng=9).items()}
    noise = np.random.default_rng(1).standard_normal(40)
    fine = uq.ensemble.build(designs["fine"], {"y": smooth(**designs["fine"])}, fidelity="fine")
    coarse = uq.ensemble.build(designs["coarse"], {"y": noise}, fidelity="coarse")
    surrogate = settings(levels=LEVELS).fit(uq.ensemble.combine(coarse, fine))
    alone = uq.GaussianProcess().fit(fine.drop_vars("fidelity"))
    truth, errors = smooth(**points), []
    for one in (surrogate, alone, settings(levels=LEVELS, scales="given").fit(uq.ensemble.combine(coarse, fine))):
        errors.append(np.sqrt(np.mean((one.predict(points).mean["y"].values - truth) ** 2)))
    assert errors[0] == pytest.approx(errors[1], rel=0.1)
    assert errors[2] > 1.1 * errors[1]
    assert "coarse says something of fine with probability 0." in repr(surrogate)
    sds = surrogate.predict(points).sd["y"].values / alone.predict(points).sd["y"].values
    assert 0.8 < np.median(sds) < 1.25


@pytest.fixture(scope="module")
def helped_and_misled():
    """Runs of two outputs: the coarse level follows one and says nothing of the other."""
    designs = uq.nested(SPACE, {"coarse": 40, "fine": 14}, rng=3)
    parts = []
    for level, design in designs.items():
        a, b = design["a"].values, design["b"].values
        wave, fine = np.sin(12.0 * a + 3.0 * b), level == "fine"
        other = smooth(a, b) if fine else np.cos(7.0 * a - 3.0 * b) + np.sin(9.0 * b + 1.0)
        values = {"followed": 2.0 * wave + fine * a, "misled": other}
        parts.append(uq.ensemble.build(design, values, fidelity=level))
    return parts


@pytest.mark.parametrize("settings", [uq.MultiFidelity, uq.NonlinearMultiFidelity])
def test_only_outputs_that_left_out_runs_prefer_do_without_the_lower_level(settings, helped_and_misled):
    fine = helped_and_misled[1].drop_vars("fidelity")
    surrogate = settings(levels=LEVELS).fit(uq.ensemble.combine(*helped_and_misled))
    rho = surrogate.process.beta[..., 1]
    assert (rho[:, 0] != 0.0).all()
    assert (rho[:, 1] == 0.0).all()
    assert not surrogate.process.trend_root[:, 1, :, 1].any()
    assert "misled from fine runs alone (+" in repr(surrogate)
    assert "followed from" not in repr(surrogate)
    assert "says something" not in repr(surrogate)
    points = {name: column.values for name, column in uq.sobol(SPACE, 256, rng=9).items()}
    truth = {"followed": 2.0 * np.sin(12.0 * points["a"] + 3.0 * points["b"]) + points["a"], "misled": smooth(**points)}
    alone = uq.GaussianProcess().fit(fine)

    def error(one, name):
        return np.sqrt(np.mean((one.predict(points).mean[name].values - truth[name]) ** 2))

    assert error(surrogate, "misled") == pytest.approx(error(alone, "misled"), rel=0.1)
    assert error(surrogate, "followed") < 0.1 * error(alone, "followed")


def test_levels_with_main_effects_are_found_in_files(tmp_path):
    designs = uq.nested(SPACE, {"coarse": 40, "fine": 20}, rng=3)
    parts = []
    for level, design in designs.items():
        a, b = design["a"].values, design["b"].values
        y = np.sin(12.0 * a) + np.cos(5.0 * b) + (level == "fine") * 0.3 * (np.sin(4.0 * a) + b**2)
        parts.append(uq.ensemble.build(design, {"y": y}, fidelity=level))
    surrogate = uq.MultiFidelity(levels=LEVELS, hyperparameters="point").fit(uq.ensemble.combine(*parts))
    assert any(isinstance(step.process.kernel, uq.MainEffects) for step in surrogate.ladder.steps)
    assert "coarse: Matern72 with main effects" in repr(surrogate)
    loaded = uq.load_surrogate(surrogate.save(tmp_path / "ladder.nc"))
    assert repr(loaded) == repr(surrogate)
    points = {"a": np.linspace(0.0, 1.0, 9), "b": np.linspace(2.0, 0.0, 9)}
    assert np.array_equal(loaded.predict(points).mean["y"], surrogate.predict(points).mean["y"])


def test_what_the_highest_level_alone_gains_is_the_difference_of_left_out_log_scores(helped_and_misled, monkeypatch):
    misled = [one.drop_vars("followed") for one in helped_and_misled]
    surrogate = uq.MultiFidelity(levels=LEVELS).fit(uq.ensemble.combine(*misled))

    def indifferent(ladder):
        return np.zeros((14, 1)), np.zeros(1)

    monkeypatch.setattr("uqms.surrogates.fidelity.autoregressive.left_out_logs", indifferent)
    ladder = uq.MultiFidelity(levels=LEVELS).fit(uq.ensemble.combine(*misled))
    assert (ladder.process.beta[..., 1] != 0.0).any()
    scores = [uq.leave_one_out(one).table.loc["misled", "log_score"] for one in (surrogate, ladder)]
    told = re.search(r"misled from fine runs alone \((\S+) ± (\S+) nats", repr(surrogate))
    assert told is not None
    assert float(told[1]) == pytest.approx(scores[0] - scores[1], rel=0.06)  # two digits are told


def test_scales_are_those_of_the_highest_level_where_it_stands_alone():
    # The highest level is a wave of log k; the lower one, a wave of k, would choose k as it is.
    space = uq.ParameterSpace(k=uq.Uniform(0.1, 10.0), b=uq.Uniform(0.0, 1.0))
    designs = uq.nested(space, {"coarse": 60, "fine": 16}, rng=3)
    coarse, fine = designs["coarse"], designs["fine"]
    runs = uq.ensemble.combine(
        uq.ensemble.build(coarse, {"y": np.sin(1.5 * coarse["k"].values + coarse["b"].values)}, fidelity="coarse"),
        uq.ensemble.build(fine, {"y": np.sin(1.2 * np.log(fine["k"].values)) + fine["b"].values}, fidelity="fine"),
    )
    surrogate = uq.MultiFidelity(levels=LEVELS).fit(runs)
    assert surrogate.domain.scale == ("log", "identity")
    assert "k by logarithm" in repr(surrogate)
    assert "y from fine runs alone (+" in repr(surrogate)
    for step, design in zip(surrogate.ladder.steps, (coarse, fine), strict=True):
        inputs = np.column_stack([design["k"].values, design["b"].values])
        np.testing.assert_allclose(step.process.x, surrogate.domain.to_unit(inputs), rtol=1e-12)


def test_the_highest_of_three_levels_stands_alone_while_the_lower_two_stay_a_ladder(tmp_path):
    designs = uq.nested(SPACE, {"coarse": 40, "medium": 24, "fine": 14}, rng=3)
    parts = []
    for level, design in designs.items():
        a, b = design["a"].values, design["b"].values
        wave = np.cos(7.0 * a - 3.0 * b) + np.sin(9.0 * b + 1.0)
        y = {"coarse": wave, "medium": 2.0 * wave + a, "fine": smooth(a, b)}[level]
        parts.append(uq.ensemble.build(design, {"y": y}, fidelity=level))
    surrogate = uq.MultiFidelity(levels=tuple(designs), cost={"coarse": 1, "medium": 5, "fine": 20}).fit(
        uq.ensemble.combine(*parts)
    )
    _, medium, fine = surrogate.ladder.steps
    assert (medium.process.beta[..., 1] != 0.0).all()
    assert (fine.process.beta[..., 1] == 0.0).all()
    assert "y from fine runs alone (+" in repr(surrogate)
    assert uq.next_level(surrogate).level == "fine"  # although a coarse run costs a twentieth
    loaded = uq.load_surrogate(surrogate.save(tmp_path / "ladder.nc"))
    assert repr(loaded) == repr(surrogate)
    points = {"a": np.linspace(0.0, 1.0, 9), "b": np.linspace(2.0, 0.0, 9)}
    assert np.array_equal(loaded.predict(points).mean["y"], surrogate.predict(points).mean["y"])

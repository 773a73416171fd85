import numpy as np
import pytest

from uqms.errors import InputError
from uqms.runs.plan import plan_runs, run_seeds
from uqms.simulators import FunctionSimulator

COLUMNS = {"b": np.array([1.0, 2.0, 1.0]), "a": np.array([0.5, 0.0, 0.5])}


def noisy(seed="seed"):
    return FunctionSimulator(lambda **point: 0.0, outputs={"y": ()}, version="1", seed=seed)


def test_replicates_stand_behind_their_point():
    plan = plan_runs(noisy(), {"a": np.array([1.0, 2.0])}, "", 3, 1)
    assert plan.origin.tolist() == [0, 0, 0, 1, 1, 1]
    assert plan.replicates.tolist() == [0, 1, 2, 0, 1, 2]
    assert len(set(plan.keys)) == 6
    assert plan.point(4) == {"a": 2.0, "seed": plan.seeds[4]}
    assert isinstance(plan.point(4)["seed"], int)


def test_a_point_that_stands_twice_has_two_replicates():
    plan = plan_runs(noisy(), COLUMNS, "", 2, 1)
    assert plan.replicates.tolist() == [0, 1, 0, 1, 2, 3]
    assert len(set(plan.seeds.tolist())) == 6


def test_without_chance_a_point_that_stands_twice_is_one_run():
    plan = plan_runs(noisy(None), COLUMNS, "", 1, None)
    assert plan.keys[0] == plan.keys[2] != plan.keys[1]
    assert plan.seeds is None
    assert plan.replicates is None
    assert plan.point(1) == {"b": 2.0, "a": 0.0}


def test_a_seed_follows_from_rng_inputs_and_replicate_alone():
    few = plan_runs(noisy(), {"b": COLUMNS["b"][:1], "a": COLUMNS["a"][:1]}, "", 2, 7)
    more = plan_runs(noisy(), {"a": COLUMNS["a"][::-1], "b": COLUMNS["b"][::-1]}, "fine", 5, 7)
    assert few.seeds.tolist() == more.seeds[:2].tolist()
    assert set(few.keys).isdisjoint(more.keys)  # another fidelity is another run
    other = plan_runs(noisy(), {"b": COLUMNS["b"][:1], "a": COLUMNS["a"][:1]}, "", 2, 8)
    assert set(few.seeds.tolist()).isdisjoint(other.seeds.tolist())
    # Frozen: another rule would run every stochastic campaign again.
    assert run_seeds(7, np.full((3, 2), [0.5, 1.0]), np.arange(3)).tolist() == FROZEN


FROZEN = [2121346403, 480814868, 987766981]


def test_seeds_are_spread_and_differ_between_replicates():
    points = np.random.default_rng(1).normal(size=(200, 3))
    seeds = np.array([run_seeds(3, np.repeat(p[None], 500, axis=0), np.arange(500)) for p in points])
    assert all(len(set(row.tolist())) == 500 for row in seeds)
    assert seeds.min() >= 0
    assert seeds.max() < 2**31
    # Uniform on [0, 2^31): mean of 1e5 draws within 4 standard errors.
    u = seeds.ravel() / 2**31
    assert abs(u.mean() - 0.5) < 4 * np.sqrt(1 / 12 / u.size)
    first = seeds[:, 0] / 2**31
    assert abs(first.mean() - 0.5) < 4 * np.sqrt(1 / 12 / first.size)


@pytest.mark.parametrize(
    ("seed", "replicates", "rng", "message"),
    [
        (None, 2, None, "this simulator takes no seed. Name the argument"),
        (None, 1, 1, "this simulator takes no seed"),
        ("seed", 1, None, "rng is None, but the simulator takes a seed; give a whole number"),
        ("seed", 1, -1, "rng is -1"),
        ("seed", 1, True, "rng is True"),
        ("seed", 1, np.random.default_rng(1), "A generator is not accepted, since the next call would get other seeds"),
        ("seed", 0, 1, "replicates is 0"),
        ("seed", 1.5, 1, "replicates is 1.5"),
    ],
)
def test_what_cannot_be_meant(seed, replicates, rng, message):
    with pytest.raises(InputError, match=message):
        plan_runs(noisy(seed), {"a": np.array([1.0])}, "", replicates, rng)


def test_a_fidelity_is_a_word():
    with pytest.raises(InputError, match="fidelity is 1"):
        plan_runs(noisy(None), {"a": np.array([1.0])}, 1, 1, None)

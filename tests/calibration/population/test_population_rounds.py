"""Where the next runs of a population belong, and whether they are needed, against closed forms."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from calibration.problems import given_surrogate
from scipy.stats import norm

import uqms as uq
from uqms.calibration import Posterior
from uqms.calibration.checks import Check
from uqms.calibration.verdict import Verdict
from uqms.errors import InputError

SPACE = uq.ParameterSpace(a=uq.Normal(0.5, 1.0), b=uq.Normal(0.5, 1.0))
POPULATION = uq.Population(SPACE, individual=("a",), spread=uq.HalfNormal(0.5))
OMEGA, OWN, PLACES = 0.05, 0.004, np.array([-1.0, 0.0, 0.5, 2.0])  # of the subjects, in omega around 0.5
DRAWS = (4, 2000)


def problem(population: uq.Population = POPULATION) -> uq.PopulationCalibration:
    """Return a calibration of four subjects, one measurement each, on the unit square."""
    x = np.random.default_rng(0).random((12, 2))
    surrogate = given_surrogate(x, x.sum(axis=1, keepdims=True), ell=2.0, names=("a", "b"), space=SPACE)
    frame = pd.DataFrame({"id": ["s0", "s1", "s2", "s3"], "y": np.linspace(0.5, 1.5, 4)})
    table, noise = uq.Observations.from_table(frame, output="y", value="y", subject="id"), uq.GaussianNoise(sd=0.1)
    return uq.Calibration(surrogate, table, noise, population=population, outside="extrapolate")


def posterior(mean: float = 0.5, share: float = 0.1, edge: str = "pass", **of: uq.Population) -> Posterior:
    """Return draws with a known spread, subjects at `PLACES` with an sd of `OWN`, and a shared b of 0.5 +- 0.01."""
    rng, one = np.random.default_rng(1), problem(**of)
    theta = {
        "a": mean + 1e-6 * rng.standard_normal(DRAWS),
        "omega_a": OMEGA + 1e-6 * rng.standard_normal(DRAWS),
        "b": 0.5 + 0.01 * rng.standard_normal(DRAWS),
    }
    effects = PLACES + OWN / OMEGA * rng.standard_normal((*DRAWS, 4))
    tree = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset({name: (("chain", "draw"), theta[name]) for name in one.priors}),
            "latents": xr.Dataset({"value": (("chain", "draw", "latent"), effects)}),
        }
    )
    verdict = Verdict((Check("edge of the design box", edge, 0.0, "told"),))  # type: ignore[arg-type]
    shares = xr.Dataset({name: ((), share if name == "omega_a" else 0.0) for name in one.parameters})
    return Posterior(tree, one, verdict, shares)


def test_the_box_holds_each_widened_subject_and_the_central_part_of_new_ones() -> None:
    box = uq.ensemble.get_box(uq.refine(posterior(), 20, widen=3.0, rng=1))
    # 99.9 % quantiles of 8 000 draws have a standard error of 0.1 sd
    assert box.upper[0] == pytest.approx(0.5 + 2.0 * OMEGA + 3.0 * norm.ppf(0.999) * OWN, abs=3.0 * 0.3 * OWN)
    new = 0.5 - norm.ppf(0.995) * OMEGA  # further than the lowest subject, 0.5 - OMEGA - 0.037
    assert box.lower[0] == pytest.approx(new, abs=0.05 * OMEGA)
    ends = np.array([box.lower[1], box.upper[1]])
    assert np.allclose(ends, 0.5 + np.array([-3.0, 3.0]) * norm.ppf(0.999) * 0.01, atol=0.01)
    plain = uq.ensemble.get_box(uq.refine(posterior(), 20, widen=1.0, rng=1))
    assert plain.upper[0] == pytest.approx(0.5 + norm.ppf(0.995) * OMEGA, abs=0.05 * OMEGA)  # of new ones, too


def test_the_typical_value_may_be_bounded_where_its_subjects_are_not() -> None:
    space = uq.ParameterSpace(a=uq.Uniform(0.45, 0.55), b=uq.Uniform(0.49, 1.0))
    bounded = uq.Population(space, individual=("a",), spread=uq.HalfNormal(0.5))
    box = uq.ensemble.get_box(uq.refine(posterior(population=bounded), 20, widen=3.0, rng=1))
    assert box.upper[0] == pytest.approx(0.5 + 2.0 * OMEGA + 3.0 * norm.ppf(0.999) * OWN, abs=3.0 * 0.3 * OWN)
    assert box.lower[0] == pytest.approx(0.5 - norm.ppf(0.995) * OMEGA, abs=0.05 * OMEGA)
    assert box.hard[0] == (False, False)
    assert box.lower[1] == 0.49  # what all share is where its prior is
    assert box.hard[1] == (True, False)


def test_most_points_lie_where_a_subject_is() -> None:
    found = uq.refine(posterior(), 100, widen=1.5, rng=2)["a"].values
    near = np.abs(found[:, None] - (0.5 + OMEGA * PLACES)).min(axis=1) < 4.0 * 1.5 * OWN
    # of 20 that fill the box and 20 of new subjects some fall there too
    assert near.mean() >= 0.6
    assert not near.all()


@pytest.mark.parametrize("sd", [None, 0.001])
def test_points_are_at_the_conditions_of_all_subjects(sd: float | None) -> None:
    """More conditions than points: all of their range counts; inexact ones are drawn around what was measured there."""
    space = uq.ParameterSpace(a=uq.Normal(0.5, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
    x, rng = np.random.default_rng(0).random((12, 2)), np.random.default_rng(1)
    surrogate = given_surrogate(x, x.sum(axis=1, keepdims=True), ell=2.0, names=("a", "x"), space=space)
    known = np.linspace(0.95, 0.05, 19)
    frame = pd.DataFrame({"id": [f"s{j}" for j in range(19)], "y": known, "x": known, "sd": sd})
    of = {} if sd is None else {"conditions_sd": {"x": "sd"}}
    table = uq.Observations.from_table(frame, output="y", value="y", subject="id", conditions=["x"], **of)
    population = uq.Population(space, individual=("a",), spread=uq.HalfNormal(0.1))
    noise = uq.GaussianNoise(sd=0.1)
    one = uq.Calibration(surrogate, table, noise, population=population, outside="extrapolate")
    draws = {name: np.full((1, 400), 0.1) for name in one.population.priors} | {"a": rng.normal(0.5, 0.05, (1, 400))}
    inexact = {key: rng.normal(known[k], 0.001, (1, 400)) for key, (k, _) in one.data.uncertain.items()}
    groups = {
        "posterior": xr.Dataset({name: (("chain", "draw"), values) for name, values in (draws | inexact).items()}),
        "latents": xr.Dataset({"value": (("chain", "draw", "latent"), rng.standard_normal((1, 400, one.latents)))}),
    }
    told = Posterior(xr.DataTree.from_dict(groups), one, Verdict(()), xr.Dataset())
    found = np.sort(uq.refine(told, 10, rng=1)["x"].values)
    np.testing.assert_allclose(found, np.linspace(0.05, 0.95, 10), atol=0.005)
    assert (len(np.setdiff1d(found, known)) > 0) == (sd is not None)
    assert len(np.unique(np.round(uq.refine(told, 40, rng=1)["x"].values / 0.05))) == 19


def test_a_round_is_needed_for_what_is_said_of_the_population() -> None:
    assert not uq.another_round(posterior())
    assert uq.another_round(posterior(share=0.3)).share == pytest.approx(0.3)
    assert uq.another_round(posterior(share=0.3))
    assert uq.another_round(posterior(edge="warn"))
    one = uq.another_round(posterior(), posterior(mean=0.5 + 1e-6))
    assert one.moved == pytest.approx(1.0, abs=0.05)  # a has an sd of 1e-6
    assert one.needed
    other = uq.Population(SPACE, individual=("a",), spread=0.2)
    with pytest.raises(InputError, match="those of the previous round"):
        uq.another_round(posterior(), posterior(population=other))


# --------------------------------------------------------------------------------------------- runs of all its subjects
def simulated(points: xr.Dataset, offset: float = 0.0) -> xr.Dataset:
    """Return the runs of a simulator that is the surrogate's mean, or `offset` above it."""
    return uq.ensemble.build(points, {"y": points["a"].values + points["b"].values + offset})


def test_each_draw_is_one_of_all_subjects_and_its_likelihood_is_that_by_hand() -> None:
    one = posterior()
    points = uq.verification_design(one, 30, rng=1)
    assert points.sizes["run"] == 120
    found = uq.verify(one, simulated(points, 0.02))
    assert found.draws.sizes["draw"] == 30
    own = one.problem.individuals(one.flat(), one.latents)["a"]
    b = points["b"].values.reshape(30, 4)
    assert np.all(b == b[:, :1])  # what all subjects share
    a = points["a"].values.reshape(30, 4)
    rows = np.array([int(np.argmin(np.abs(own - row).sum(axis=1))) for row in a])
    np.testing.assert_allclose(own[rows], a, rtol=1e-12)
    y = np.linspace(0.5, 1.5, 4)
    by_draw = dict(zip(found.draws["b"].values.tolist(), found.draws["log_ratio"].values.tolist(), strict=True))
    theta = {name: values[rows] for name, values in one.flat().items()}
    surrogate = one.problem.log_likelihood(theta, one.latents[rows])
    exact = norm.logpdf(y, a + b + 0.02, 0.1).sum(axis=1)
    np.testing.assert_allclose([by_draw[value] for value in b[:, 0]], exact - surrogate, atol=1e-8)


def test_the_verdict_on_a_population_by_its_runs() -> None:
    one = posterior()
    points = uq.verification_design(one, 40, rng=1)
    right = uq.verify(one, simulated(points))
    assert right.verdict["effect on the posterior"].status == "pass"
    assert "per subject, limit 1" in right.verdict["effect on the posterior"].message
    # an offset of 0.3 in each of four subjects, noise of 0.1: b moves by -4 * 0.3 / 0.1² of its variance, 0.01²
    wrong = uq.verify(one, simulated(points, 0.3))
    effect = wrong.verdict["effect on the posterior"]
    assert effect.status == "warn"
    assert "the mean of b moves by" in effect.message
    assert effect.value == pytest.approx(-1.2, abs=4.0 * 1.2 * np.sqrt(2.0 / 40) + 0.3)
    assert wrong.verdict["errors of y"].status == "fail"
    assert uq.another_round(wrong.posterior)
    assert wrong.surrogate is not None
    assert wrong.surrogate.runs == 12 + 160


def test_runs_of_no_subject_are_refused() -> None:
    one = posterior()
    points = uq.verification_design(one, 3, rng=1)
    moved = points.assign(a=points["a"] + 0.01)
    with pytest.raises(
        InputError, match="12 of 12 runs cannot be used; completed run 0 is no subject of a posterior draw"
    ):
        uq.verify(one, simulated(moved))

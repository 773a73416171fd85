"""One list of checks for one subject, several parts and a population; what was missing from one of them is there."""

from typing import Any

import numpy as np
import pytest
from calibration.problems import linear_surrogate, matern52, replicates
from calibration.test_capabilities import NOISE, SPACE, PriorDraws, measured, of_kind, problem_of
from calibration.test_sharing import VALUES, X

import uqms as uq
from uqms.calibration.context import Context
from uqms.calibration.judging import CHECKS, OF_A_SURROGATE, OF_RUNS, verdict_of
from uqms.calibration.simulator_runs import SimulatorRuns
from uqms.surrogates import held_out

pytestmark = pytest.mark.filterwarnings("ignore::uqms.errors.UqmsWarning")

COMPUTATION = ["R-hat", "ESS", "finite draws", "Monte Carlo error"]
SIZE = "size of the surrogate's error"
OF_ONE = [
    "surrogate validation",
    "autocorrelated residuals",
    "predictive misfit",
    "edge of the design box",
    "prior mass cut",
]
ANSWER = [
    "prior-dominated",
    "confounded",
    "end of a prior",
    "prior sensitivity",
    "prior against data",
    "prior predictions",
]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("one", [*COMPUTATION, "surrogate error", SIZE, *OF_ONE, *ANSWER, "discrepancy"]),
        (
            "parts",
            [
                *COMPUTATION,
                "surrogate error",
                SIZE,
                *(f"{name} ({part})" for part in "ab" for name in OF_ONE),
                *ANSWER,
                "discrepancy (a)",
                "discrepancy (b)",
            ],
        ),
        (
            "population",
            [
                *COMPUTATION,
                "surrogate error",
                *(name for name in OF_ONE if name != "autocorrelated residuals"),
                "subjects",
                "prior-dominated",
                "end of a prior",
                "prior against data",
                "prior predictions",
            ],
        ),
    ],
)
def test_the_list_of_checks_is_in_one_order(kind: str, expected: list[str]) -> None:
    posterior = problem_of(kind, "independent", True, "process").sample(PriorDraws(), rng=1)
    assert [check.name for check in posterior.verdict.checks] == expected
    failing = [check.name for check in posterior.verdict.warnings]  # draws of the prior: some do
    told = str(uq.another_round(posterior))
    assert failing
    assert all(name in told for name in failing if name != "surrogate error")
    assert "No further round" not in told


def test_every_function_of_the_list_is_there_once() -> None:
    names = [f"{one.__module__}.{one.__qualname__}" for one in (*CHECKS, *OF_A_SURROGATE)]
    assert len(set(names)) == len(names) == 30


def test_checks_of_runs_are_on_the_list_and_say_nothing_without() -> None:
    model = linear_surrogate(1.0, 0.3)
    problem = uq.Calibration(model, replicates(VALUES[0], X), uq.GaussianNoise(sd=0.3))
    posterior: Any = problem.sample(PriorDraws(), rng=1)
    bare = verdict_of(Context.of(posterior))
    # what the sampler told is known where the draws were made, and not from them
    told = {"R-hat", "ESS", "Monte Carlo error", "prior sensitivity", "prior predictions"}
    whole = [one for one in posterior.verdict.checks if one.name not in told]
    assert [one.name for one in bare.checks] == [one.name for one in whole]
    np.testing.assert_equal([one.value for one in bare.checks], [one.value for one in whole])
    points = uq.verification_design(posterior, 10, rng=1)
    y = points["theta"].values * points["x"].values + 0.1
    ensemble = uq.ensemble.build(points, {"y": y}, states=["completed"] * (len(y) - 1) + ["failed"])
    errors = held_out(model, uq.ensemble.completed(ensemble), rng=1)
    ratio = np.array([0.1, -0.1, 0.3])
    runs = SimulatorRuns(ensemble, errors, ("y",), {"theta": np.arange(3.0)}, ratio, float("nan"), None, 97)
    found = verdict_of(Context.of(posterior, runs))
    names = ["runs", "errors of y", "effect on the posterior", "weights"]
    assert [one.name for one in found.checks] == [*(one.name for one in bare.checks), *names]
    assert list(map(str, found.checks[-4:])) == list(map(str, verdict_of(Context.of(posterior, runs), OF_RUNS).checks))
    assert found["runs"].value == 1.0 / len(y)
    assert found["effect on the posterior"].value == pytest.approx(
        0.2 / 3.0
    )  # Cov(theta, r) / sd: mean of z (r - mean)
    assert found["weights"].message == "none from 3 draws: at least 100 are required, 97 more"


def test_the_discrepancy_of_a_part_is_judged_as_by_hand() -> None:
    surrogates = {"a": linear_surrogate(1.0, 0.3), "b": linear_surrogate(2.0, 0.4)}
    problem: Any = uq.Calibration(
        {name: (surrogates[name], replicates(v, X)) for name, v in zip("ab", VALUES, strict=True)},
        noise=dict.fromkeys("ab", uq.GaussianNoise(sd=0.3)),
        discrepancy={"b": uq.OffsetDiscrepancy(sd=0.5)},
    )
    posterior = problem.sample(uq.SMC(particles=400), rng=1)
    names = [check.name for check in posterior.verdict.checks]
    assert "discrepancy (b)" in names
    assert "discrepancy (a)" not in names
    found = posterior.verdict["discrepancy (b)"]
    part = posterior.part("b")
    judged = part.rescale_discrepancy().loc["theta"]
    assert max(judged["k_hat x0.25"], judged["k_hat x4"]) < 0.7
    assert found.value == pytest.approx(max(abs(judged["shift x0.25"]), abs(judged["shift x4"])), rel=1e-9)
    by_hand = part.rescale_discrepancy((0.5, 2.0)).loc["theta"]

    def moments(sd: float) -> tuple[float, float]:
        at, slopes = np.tile(np.repeat(X, 3), 2), np.repeat([1.0, 2.0], 6)
        covariance = 0.3**2 * np.eye(12)
        for part, error in enumerate((0.3, 0.4)):
            rows = slice(6 * part, 6 * part + 6)
            covariance[rows, rows] += error**2 * matern52(at[rows, None] - at[rows], 0.3)
        covariance[6:, 6:] += sd**2
        weight = np.linalg.solve(covariance, slopes)
        variance = 1.0 / (1.0 + slopes @ weight)
        return float(variance * (weight @ np.concatenate([v.ravel() for v in VALUES]))), float(np.sqrt(variance))

    mean, sd = moments(0.5)
    for factor in (0.5, 2.0):
        assert by_hand[f"shift x{factor:g}"] == pytest.approx((moments(0.5 * factor)[0] - mean) / sd, abs=0.1)


def test_what_subjects_have_outside_of_the_box_is_told() -> None:
    population = uq.Population(
        uq.ParameterSpace(theta=uq.Normal(0.9, 0.1)),
        individual=("theta",),
        scale={"theta": "identity"},
        spread=uq.HalfNormal(0.2),
    )
    problem = uq.Calibration(
        of_kind("process", 1),
        measured("population"),
        NOISE["independent"],
        population=population,
        outside="extrapolate",
    )
    posterior = problem.sample(PriorDraws(), rng=1)
    assert posterior.subjects == ("a", "b")
    found = posterior.verdict["prior mass cut"]
    own = posterior.individuals["theta"].values
    outside = np.mean((own < 0.0) | (own > 1.0))
    assert outside > 0.05
    assert found.value == pytest.approx(max(outside, problem.mass_cut), rel=1e-12)
    assert found.status == "fail"


def test_the_simulator_itself_has_no_box_that_a_posterior_could_leave() -> None:
    space = uq.ParameterSpace(theta=uq.Normal(0.0, 1.0))
    simulator = uq.DirectSimulator(lambda theta: {"y": theta}, space=space, outputs={"y": ()}, vectorized=True)
    problem = uq.Calibration(simulator, {"y": 6.0}, uq.GaussianNoise(sd=0.1))
    posterior = problem.sample(uq.SMC(particles=200), rng=1)
    assert posterior.tree["posterior"]["theta"].mean() > 5.0  # beyond all but a billionth of the prior
    found = posterior.verdict["prior mass cut"]
    assert (found.status, found.value) == ("pass", 0.0)
    assert "the simulator itself" in found.message


@pytest.mark.parametrize("kind", ["one", "parts", "population"])
def test_failed_runs_are_told_with_what_this_kind_can_do(kind: str) -> None:
    model = of_kind("process", 1)
    model.attrs["runs_failed"] = "3"
    settings: dict[str, Any] = {"outside": "extrapolate"}
    if kind == "population":
        settings["population"] = uq.Population(SPACE, individual=("theta",), scale={"theta": "identity"})
    arguments: tuple[Any, ...] = (model, measured(kind))
    noise: Any = NOISE["independent"]
    if kind == "parts":
        arguments, noise = ({"a": arguments},), {"a": noise}
    if kind != "population":
        settings["space"] = SPACE
    posterior = uq.Calibration(*arguments, noise=noise, **settings).sample(PriorDraws(), rng=1)
    (found,) = (check for check in posterior.verdict.checks if check.name.startswith("failed runs"))
    assert found.status == "note"
    assert "3 of 8 runs" in found.message
    assert ("Calibration(..., success=" in found.remedy) == (kind == "one")

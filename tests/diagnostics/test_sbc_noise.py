"""Simulation-based calibration where errors are not normal, or not independent: short forms of the benchmark."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr
from calibration.problems import FakeProblem, gaussian_target, given_surrogate, replicates
from calibration.test_latents import behind_limits
from scipy.stats import kstest

import uqms as uq
from uqms.calibration import latents
from uqms.calibration.mixture import fit_mixture
from uqms.calibration.tempering import Tempered
from uqms.calibration.whitened import Whitened
from uqms.diagnostics import (
    FewDraws,
    ImportanceSampler,
    TemperedSampler,
    rank_statistics,
    simulation_based_calibration,
)
from uqms.diagnostics.tempered import _doubts
from uqms.errors import InitError, InputError
from uqms.surrogates import GaussianProcessSurrogate, Layout
from uqms.surrogates.outputs import OutputBasis
from uqms.surrogates.transforms import IDENTITY, Transform
from uqms.testing import LIKELIHOOD_BUGS

SMALL = TemperedSampler(particles=300, moves=25)
X = np.linspace(0.1, 0.9, 4)[:, None]


def number(transform: Transform = IDENTITY) -> GaussianProcessSurrogate:
    """Return a surrogate of a number on the scale of a transform, whose error matters."""
    plain = given_surrogate(X, 1.2 * np.sin(5.0 * X), ell=0.25, variance=0.5)
    (old,) = plain.bases
    layout = Layout((), {}, transform=transform)
    output = OutputBasis("y", layout, np.full(1, 1.0), old.basis, old.truncation, np.zeros(0), np.zeros((4, 0)))
    return GaussianProcessSurrogate(plain.domain, plain.process, (output,), plain.attrs)


def counts() -> uq.Calibration:
    return uq.Calibration(number(uq.Log()), replicates(np.array([[3.0, 2.0, 4.0]])), uq.PoissonNoise())


def censored() -> uq.Calibration:
    data = xr.DataArray(
        [1.0, 1.5, 0.8],
        dims="replicate",
        coords={"censored": ("replicate", ["left", "right", ""])},
        name="y",
    )
    return uq.Calibration(number(), uq.Observations.from_xarray(data), uq.GaussianNoise(uq.HalfNormal(0.5)))


def discrepant() -> uq.Calibration:
    t = np.arange(4.0)
    surrogate = given_surrogate(X, 1.2 * np.sin(5.0 * X), ell=0.25, variance=0.5, basis=np.exp(-0.3 * t)[:, None])
    data = xr.DataArray(np.zeros((2, 4)), dims=("replicate", "t"), coords={"t": t}, name="y")
    delta = uq.GPDiscrepancy(sd=uq.HalfNormal(0.5))
    noise = uq.GaussianNoise(uq.HalfNormal(0.3))
    return uq.Calibration(surrogate, uq.Observations.from_xarray(data), noise, discrepancy=delta)


PROBLEMS: dict[str, tuple[Callable[[], uq.Calibration], Any, int]] = {
    "counts": (counts, None, 1),  # importance weights
    "censored": (censored, SMALL, 1),
    "discrepancy": (discrepant, ImportanceSampler(particles=150, proposals=400), 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PROBLEMS))
def test_right_pipelines_pass(name: str) -> None:
    make, sampler, latents = PROBLEMS[name]
    problem = make()
    assert problem.latents == latents
    found = simulation_based_calibration(problem, 50, sampler=sampler, rng=1, alpha=0.001)
    assert found.passed, str(found)
    assert found.quantities == (*problem.priors, "log_likelihood", "misfit")


# Those that 100 repeats see; the others take the repeats of benchmarks/sbc.py.
BUGS = {"counts": ("data ignored",), "discrepancy": ("likelihood counted twice",)}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "said"), [(name, bug) for name, bugs in BUGS.items() for bug in bugs])
def test_planted_bugs_are_found(name: str, said: str) -> None:
    make, sampler, _ = PROBLEMS[name]
    problem = make()
    bug = next(bug for bug in LIKELIHOOD_BUGS if bug.name == said)
    with bug.planted():
        found = simulation_based_calibration(problem, 100, sampler=sampler or SMALL, rng=1)
    assert not found.table["passed"].all(), str(found)


def test_planted_bugs_reach_problems_with_discrepancy() -> None:
    """What a problem keeps of its cells is made anew where a bug changes them."""
    problem = discrepant()
    theta = {name: values[:1] for name, values in problem.prior_draws(1, 3).items()}
    right = problem.log_likelihood(theta)
    for bug in LIKELIHOOD_BUGS:
        if bug.name == "one output only":  # there is one
            continue
        with bug.planted():
            assert problem.log_likelihood(theta)[0] != pytest.approx(right[0], rel=1e-6), bug.name
    assert problem.log_likelihood(theta) == pytest.approx(right)


# ------------------------------------------------------------------------------------------------------- the sampler
def test_tempered_draws_are_those_of_a_posterior_that_is_known() -> None:
    d, function = 8, gaussian_target(8, 0.5, 0.6, 1.0)
    log_likelihood, _, mean, sd = function

    def value(theta: dict[str, np.ndarray], latents: np.ndarray) -> np.ndarray:
        return np.asarray(log_likelihood(np.column_stack([*theta.values(), latents])))

    problem: Any = FakeProblem(value, 3, d - 3)
    few = TemperedSampler(particles=3000).draw(problem, 2000, np.random.default_rng(1))
    assert few.doubt == ""
    assert few.latents.shape == (2000, d - 3)
    z = np.column_stack([*few.theta.values(), few.latents])
    np.testing.assert_allclose(z.mean(axis=0), mean, atol=5 * sd.max() / np.sqrt(1000))
    np.testing.assert_allclose(z.std(axis=0), sd, rtol=5 / np.sqrt(2 * 1000))


def test_weighted_draws_of_parameters_and_latents_are_those_of_the_posterior() -> None:
    problem, count = counts(), 4000
    few = ImportanceSampler().draw(problem, count, np.random.default_rng(1))
    assert few.doubt == ""
    assert few.latents.shape == (count, 1)
    theta, eta = (one.ravel() for one in np.meshgrid(np.linspace(0.0, 1.0, 401), np.linspace(-6.0, 6.0, 301)))
    log_density = problem.log_likelihood({"theta": theta}, eta[:, None]) - 0.5 * eta**2
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    for drawn, grid in (
        (few.theta["theta"], theta),
        (few.latents[:, 0], eta),
        (few.theta["theta"] * few.latents[:, 0], theta * eta),
    ):
        mean = float(weight @ grid)
        sd = float(np.sqrt(weight @ (grid - mean) ** 2))
        assert abs(drawn.mean() - mean) < 4.0 * sd / np.sqrt(few.ess)
        assert drawn.std() == pytest.approx(sd, rel=4.0 / np.sqrt(2.0 * few.ess))


@pytest.mark.slow
def test_weights_take_the_likelihood_that_is_sampled() -> None:
    problem, rng, count = counts(), np.random.default_rng(1), 2000
    right = ImportanceSampler().draw(problem, count, rng)
    bug = next(bug for bug in LIKELIHOOD_BUGS if bug.name == "data ignored")
    with bug.planted():
        wrong = ImportanceSampler().draw(problem, count, rng)
    # 0.1 % of a law's own samples are further from it; draws from weighted points have the error of both.
    off, limit = (
        np.array([kstest(few.theta["theta"], "uniform").statistic for few in (wrong, right)]),
        np.array([1.95 * np.sqrt(1.0 / few.ess + 1.0 / count) for few in (wrong, right)]),
    )
    assert off[0] < limit[0]  # the prior
    assert off[1] > 3.0 * limit[1]


def test_approximations_that_miss_the_mass_are_a_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, matched = behind_limits(0.1), latents._matched
    assert ImportanceSampler().draw(problem, 99, np.random.default_rng(1)).doubt == ""

    def never_close(*arguments: Any) -> tuple[np.ndarray, ...]:
        *moments, close = matched(*arguments)
        return *moments, np.zeros_like(close)

    # What is left are modes at the edge of what the limits allow; effective draws and k-hat do not show it.
    monkeypatch.setattr(latents, "_matched", never_close)
    doubt = ImportanceSampler().draw(problem, 99, np.random.default_rng(1)).doubt
    assert "beside their normal approximations" in doubt


def test_without_a_normal_approximation_weights_refuse_and_the_default_goes_on() -> None:
    from uqms.diagnostics.sbc import _default_draws

    design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 8, rng=1)
    runs = uq.ensemble.build(design, {"y": np.sin(design["k"].values)})
    averaged = uq.GaussianProcess(hyperparameters="averaged").fit(runs)
    problem = uq.Calibration(averaged, replicates(np.array([[0.7, 0.9]])), uq.StudentTNoise(scale=0.1))
    with pytest.raises(InputError, match=r"no normal approximation.*TemperedSampler"):
        ImportanceSampler().draw(problem, 20, np.random.default_rng(1))
    few = _default_draws(problem, 50, np.random.default_rng(1))
    assert (few.doubt, few.latents.shape) == ("", (50, problem.latents))


def test_runs_that_disagree_and_few_particles_are_doubts() -> None:
    rng = np.random.default_rng(1)
    space = Whitened(FakeProblem(lambda theta, latents: np.zeros(len(latents)), 1, 1))  # type: ignore[arg-type]

    def run(centre: float, correlation: float = 0.1) -> Tempered:
        z = centre + 0.1 * rng.standard_normal((200, 2))
        return Tempered(
            z,
            z[:, 0],
            0.0,
            1.0,
            3,
            9,
            0.4,
            correlation,
            fit_mixture(z, np.full(200, 1.0 / 200), rng),
            (z, z[:, 0]),
            z[None],
        )

    assert _doubts(space, [run(0.0), run(0.0)], 0.1, 0.25, 300.0, 99) == ""
    assert "'a' of two runs are" in _doubts(space, [run(-1.0), run(1.0)], 0.1, 0.25, 300.0, 99)
    assert _doubts(space, [run(0.0), run(0.0)], 0.1, 0.25, 50.0, 99) == "50 effective draws, 99 required"
    assert "correlation of 0.60" in _doubts(space, [run(0.0), run(0.0)], 0.6, 0.25, 300.0, 99)
    with pytest.raises(InputError, match="particles is 10"):
        TemperedSampler(particles=10)


def test_latents_belong_to_truth_and_draws() -> None:
    problem = counts()
    with pytest.raises(InputError, match="'latents', 'theta'"):
        rank_statistics(lambda rng: ({"theta": 0.5}, problem), 10, rng=1)

    class Without:
        def draw(self, problem: uq.Calibration, count: int, rng: np.random.Generator) -> FewDraws:
            return FewDraws({"theta": rng.random(count)}, float(count))

    with pytest.raises(InputError, match="latents of shape"):
        simulation_based_calibration(problem, 10, sampler=Without(), rng=1)


def test_draws_of_a_sampler_bring_their_latents() -> None:
    from uqms.diagnostics.sbc import _few_draws

    few = _few_draws(uq.SMC(particles=200, chains=2), counts(), 50, np.random.default_rng(1))
    assert few.latents.shape == (50, 1)
    assert np.unique(few.latents).size > 40


def test_a_likelihood_that_admits_nothing_is_an_error() -> None:
    impossible: Any = FakeProblem(lambda theta, latents: np.full(len(latents), -np.inf), 1, 1)
    with pytest.raises(InitError, match="not finite"):
        TemperedSampler(100).draw(impossible, 10, np.random.default_rng(1))


@pytest.mark.parametrize("make", [counts, censored, discrepant])
def test_points_so_far_out_that_parameters_are_infinite_have_no_weight(make: Callable[[], uq.Calibration]) -> None:
    from uqms.diagnostics.importance import WORST, _log_likelihood

    problem = make()
    x = np.zeros((3, len(problem.priors)))
    x[1] = 39.0  # where probabilities underflow
    found = _log_likelihood(problem, x)
    assert found[0] == found[2] > WORST
    open_ended = any(np.isinf(one.quantile(1.0)) for one in problem.priors.values())
    assert bool(found[1] == WORST) is open_ended

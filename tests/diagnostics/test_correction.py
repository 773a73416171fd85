"""A posterior corrected by runs at its draws: against quadrature with the simulator, and scales against formulas."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from calibration.gridded import sampled
from calibration.problems import given_surrogate
from calibration.test_capabilities import Plugged

import uqms as uq
from uqms.diagnostics.verification import PRIOR_RUNS, with_runs
from uqms.errors import InputError
from uqms.surrogates import GaussianProcessSurrogate

X = np.array([[0.02], [0.35], [0.68], [0.99]])


def smooth(theta: np.ndarray) -> np.ndarray:
    """A function that four runs do not tell well."""
    return np.sin(3.0 * theta) + theta


def surrogate(variance: float) -> GaussianProcessSurrogate:
    return given_surrogate(X, smooth(X), ell=0.5, variance=variance)


def posterior_of(one: uq.Surrogate, value: float, sd: float = 0.05) -> uq.Posterior:
    problem = uq.Calibration(one, xr.DataArray(value, name="y"), uq.GaussianNoise(sd=sd))
    return sampled(problem, 400, seed=1, size=400)


def simulated(design: xr.Dataset) -> xr.Dataset:
    return uq.ensemble.build(design, {"y": smooth(design["theta"].values)})


@pytest.mark.parametrize("variance", [0.02, 0.5, 20.0])
def test_the_corrected_posterior_is_the_simulators(variance: float) -> None:
    """Surer than it should be, right, and far too cautious: ten runs lead each of them to the simulator's posterior."""
    before = posterior_of(surrogate(variance), 0.4)
    found = uq.correct(before, simulated(uq.verification_design(before, 10, rng=1)), sampler=uq.SMC(), rng=1)
    theta = np.linspace(0.0, 1.0, 4001)
    exact = np.exp(-0.5 * ((smooth(theta) - 0.4) / 0.05) ** 2)
    exact /= exact.sum()
    mean = exact @ theta
    sd = np.sqrt(exact @ (theta - mean) ** 2)
    draws = found.posterior.flat()["theta"]
    start = before.flat()["theta"]
    # SMC's default has about 2000 particles: 0.05 sd is 2 standard errors
    assert abs(draws.mean() - mean) < 0.12 * sd, (draws.mean(), mean, start.mean())
    assert draws.std() / sd == pytest.approx(1.0, abs=0.12)
    assert abs(draws.mean() - mean) <= abs(start.mean() - mean) + 0.05 * sd


def test_the_table_is_of_the_two_posteriors() -> None:
    before = posterior_of(surrogate(0.5), 0.4)
    found = uq.correct(before, simulated(uq.verification_design(before, 10, rng=1)), sampler=uq.SMC(), rng=1)
    old, new = before.flat()["theta"], found.posterior.flat()["theta"]
    row = found.table.loc["theta"]
    assert row["moved"] == pytest.approx((new.mean() - old.mean()) / old.std(), rel=1e-12)
    assert row["ratio"] == pytest.approx(new.std() / old.std(), rel=1e-12)
    assert np.isnan(row["mean_simulator"])  # ten draws have no weights
    assert str(found).startswith("Corrected by 10 runs at draws of the posterior: the mean of theta moved by ")
    assert f"{row['moved']:+.2f} sd" in str(found)


def test_weights_are_told_beside_it() -> None:
    before = posterior_of(surrogate(0.5), 0.4, sd=0.3)
    found = uq.correct(before, simulated(uq.verification_design(before, 120, rng=1)), sampler=uq.SMC(), rng=1)
    assert found.verification.weights is not None
    assert found.table.at["theta", "mean_simulator"] == found.verification.summary().at["theta", "mean_simulator"]
    assert "Weighted draws give the simulator's own values." in str(found)


# --------------------------------------------------------------------------------------------------------- populations
SUBJECTS = uq.Population(uq.ParameterSpace(theta=uq.Normal(0.5, 0.1)), individual=("theta",), spread=0.06)
MEASURED = np.array([0.9, 1.05, 1.15, 1.3, 1.35])


def of_population(one: uq.Surrogate) -> uq.PopulationCalibration:
    """Return the calibration of five subjects, one measurement each."""
    frame = pd.DataFrame({"id": list("abcde"), "y": MEASURED})
    table = uq.Observations.from_table(frame, output="y", value="y", subject="id")
    return uq.Calibration(one, table, uq.GaussianNoise(sd=0.05), population=SUBJECTS)


@pytest.mark.slow
@pytest.mark.parametrize("variance", [0.02, 20.0])
def test_the_corrected_population_is_the_simulators(variance: float) -> None:
    """Typical value and subjects against quadrature with the simulator; four draws of all subjects are run."""
    before = of_population(surrogate(variance)).sample(uq.NUTS(draws=500, tune=500), rng=1)
    design = uq.verification_design(before, 4, rng=1)
    found = uq.correct(before, simulated(design), sampler=uq.NUTS(draws=1000, tune=500), rng=1)
    theta, typical = np.linspace(0.0, 1.0, 1001), np.linspace(0.0, 1.0, 401)
    of_data = np.exp(-0.5 * ((smooth(theta) - MEASURED[:, None]) / 0.05) ** 2)
    of_subject = np.exp(-0.5 * ((theta - typical[:, None]) / 0.06) ** 2)
    each = np.einsum("jt,mt->jm", of_data, of_subject)
    weights = np.exp(-0.5 * ((typical - 0.5) / 0.1) ** 2) * each.prod(axis=0)
    weights /= weights.sum()
    mean = weights @ typical
    sd = np.sqrt(weights @ (typical - mean) ** 2)
    draws, start = (one.flat()["theta"] for one in (found.posterior, before))
    assert abs(draws.mean() - mean) < 0.12 * sd  # about 900 effective draws: 0.12 sd is 3.5 standard errors
    assert draws.std() / sd == pytest.approx(1.0, abs=0.1)
    assert abs(start.mean() - mean) > 0.1 * sd  # there was something to correct
    given = of_subject * of_data[:, None]  # (J, typical, theta)
    of_each = np.einsum("m,jmt,t->j", weights, given / given.sum(axis=2, keepdims=True), theta)
    own = found.posterior.problem.individuals(found.posterior.flat(), found.posterior.latents)["theta"]
    np.testing.assert_allclose(own.mean(axis=0), of_each, atol=0.15 * own.std(axis=0).max())


def test_another_surrogate_of_a_population_is_calibrated_with_all_settings() -> None:
    problem, other = of_population(surrogate(0.5)), surrogate(0.02)
    again = problem.with_surrogate(other)
    draws = problem.prior_draws(5, 1)
    latents = np.random.default_rng(2).standard_normal((5, again.latents))
    theta = {name: draws[name] for name in problem.priors}
    np.testing.assert_array_equal(
        again.log_likelihood(theta, latents), of_population(other).log_likelihood(theta, latents)
    )
    assert again.log_likelihood(theta, latents)[0] != problem.log_likelihood(theta, latents)[0]
    assert repr(again) == repr(problem)


# ---------------------------------------------------------------------------------------------------------- the scale
def runs_at(u: np.ndarray, y: np.ndarray) -> xr.Dataset:
    space = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0))
    design = uq.sobol(space, 8, rng=1).isel(run=slice(0, len(u)))
    design["theta"] = ("run", u, design["theta"].attrs)
    return uq.ensemble.build(design, {"y": y})


@pytest.mark.slow
def test_the_scale_is_that_of_errors_given_those_before() -> None:
    """Functions of a process with nine times the variance that is stated: the scale is the mean of its law."""
    rng = np.random.default_rng(3)
    stated = surrogate(0.5)
    law = surrogate(4.5)
    offset = law.decode("y").offset
    ratios = []
    u = np.linspace(0.1, 0.9, 7)
    for _ in range(200):
        y = law.functions(1, rng)(u[:, None])[0, :, 0] + offset[0]
        new = with_runs(stated, runs_at(u, y), rescaled=True)
        assert new is not None
        ratios.append(new.process.variance[0, 0] / stated.process.variance[0, 0])
    expected = (PRIOR_RUNS + 9.0 * 7) / (PRIOR_RUNS + 7 - 2)
    assert np.mean(ratios) == pytest.approx(expected, abs=3.0 * np.std(ratios) / np.sqrt(200))


def test_without_rescaling_variances_stay() -> None:
    stated = surrogate(0.5)
    u = np.array([0.1, 0.2, 0.5, 0.8])
    new = with_runs(stated, runs_at(u, smooth(u)))
    assert new is not None
    np.testing.assert_array_equal(new.process.variance, stated.process.variance)
    scaled = with_runs(stated, runs_at(u, smooth(u)), rescaled=True)
    assert scaled is not None
    at = {"theta": np.array([0.3, 0.7])}
    np.testing.assert_allclose(scaled.predict(at).mean["y"].values, new.predict(at).mean["y"].values, rtol=1e-9)
    ratio = scaled.process.variance[0, 0] / new.process.variance[0, 0]
    np.testing.assert_allclose(
        scaled.predict(at).variance["y"].values, ratio * new.predict(at).variance["y"].values, rtol=1e-6
    )


# ------------------------------------------------------------------------------------------------------ the new problem
def test_a_problem_keeps_its_settings_with_another_surrogate() -> None:
    one = surrogate(0.5)
    data = xr.DataArray(0.4, name="y")
    derived = {"double": lambda inferred: 2.0 * inferred["theta"]}
    problem = uq.Calibration(
        one, data, uq.GaussianNoise(sd=uq.HalfNormal(0.1)), derived=derived, constraints="theta < 0.9"
    )
    other = surrogate(0.1)
    again = problem.with_surrogate(other)
    fresh = uq.Calibration(
        other, data, uq.GaussianNoise(sd=uq.HalfNormal(0.1)), derived=derived, constraints="theta < 0.9"
    )
    theta = problem.prior_draws(20, 1)
    np.testing.assert_array_equal(again.log_likelihood(theta), fresh.log_likelihood(theta))
    assert again.log_likelihood(theta)[0] != problem.log_likelihood(theta)[0]
    assert repr(again) == repr(fresh)


def test_surrogates_of_ones_own_are_refused_with_what_to_do() -> None:
    problem = uq.Calibration(Plugged(surrogate(0.5)), xr.DataArray(0.4, name="y"), uq.GaussianNoise(sd=0.05))
    before = sampled(problem, 400, seed=1, size=400)
    with pytest.raises(InputError, match=r"Plugged cannot be conditioned on more runs.*uq\.ensemble\.combine"):
        uq.correct(before, simulated(uq.verification_design(before, 10, rng=1)), rng=1)


def test_what_is_no_posterior_is_refused() -> None:
    one = surrogate(0.5)
    before = sampled(uq.Calibration(one, xr.DataArray(0.4, name="y"), uq.GaussianNoise(sd=0.05)), 400, seed=1, size=400)
    with pytest.raises(InputError, match="GaussianProcessSurrogate in the place of a posterior"):
        uq.correct(one, simulated(uq.verification_design(before, 10, rng=1)))  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------------- chains
APDS = np.array([[0.05], [0.3], [0.6], [0.95]])


def duration(theta: np.ndarray) -> np.ndarray:
    """What the cell passes on, within the unit interval."""
    return 0.25 + 0.2 * smooth(theta)


def velocity(apd: np.ndarray) -> np.ndarray:
    """What the tissue makes of it."""
    return 2.0 * apd - 0.6 * np.sin(5.0 * apd)


def linked(variance: float) -> uq.Chain:
    cell = given_surrogate(X, duration(X), ell=0.5, variance=0.04 * variance)
    tissue = given_surrogate(APDS, velocity(APDS), ell=0.5, variance=variance, names=("apd",))
    return uq.Chain(cell=cell, tissue=tissue, links={"tissue.apd": "cell.y"})


def both(theta: float) -> dict[str, np.ndarray]:
    return {"cell.y": duration(np.asarray(theta)), "tissue.y": velocity(duration(np.asarray(theta)))}


def kriged(x: np.ndarray, y: np.ndarray, at: np.ndarray, ell: float, variance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of a process with a constant that is estimated, written out."""

    def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        r = np.sqrt(5.0) * np.abs(a[:, None] - b) / ell
        return variance * (1.0 + r + r**2 / 3.0) * np.exp(-r)

    inner, cross = np.linalg.inv(between(x, x) + 1e-12 * variance * np.eye(len(x))), between(x, at)
    ones = np.ones(len(x))
    precision = ones @ inner @ ones
    constant = ones @ inner @ y / precision
    rest = 1.0 - ones @ inner @ cross
    covariance = between(at, at) - cross.T @ inner @ cross + np.outer(rest, rest) / precision
    return constant + cross.T @ inner @ (y - constant), covariance


def test_each_member_is_conditioned_on_what_it_was_given_and_gave() -> None:
    chain, theta = linked(0.5), np.array([0.2, 0.5, 0.8])
    design = uq.sobol(uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0)), 8, rng=1).isel(run=slice(0, 3))
    design["theta"] = ("run", theta, design["theta"].attrs)
    new = with_runs(chain, uq.ensemble.build(design, both(theta)))
    assert isinstance(new, uq.Chain)
    at = np.array([0.1, 0.45, 0.9])
    cases = {"cell": (X, duration(X), theta, 0.02), "tissue": (APDS, velocity(APDS), duration(theta), 0.5)}
    for name, (runs, values, more, variance) in cases.items():
        outputs = duration(more) if name == "cell" else velocity(more)
        x, y = np.append(runs[:, 0], more), np.append(values[:, 0], outputs)
        mean, covariance = kriged(x, y, at, 0.5, variance)
        found = new.members[name].scores(at[:, None])
        np.testing.assert_allclose(found.mean[0, :, 0], mean, atol=1e-7)
        np.testing.assert_allclose(found.covariance[0, 0], covariance, atol=1e-7)


def test_one_function_that_is_used_twice_learns_from_both_places() -> None:
    x = np.linspace(0.0, 1.0, 4)[:, None]
    step = given_surrogate(x, 0.8 * x * (1.5 - x), ell=0.6, names=("s",))
    chain = uq.Chain(first=step, second=step, links={"second.s": "first.y"})
    s = np.array([0.15, 0.5, 0.85])
    once = 0.8 * s * (1.5 - s)
    design = uq.sobol(uq.ParameterSpace(s=uq.Uniform(0.0, 1.0)), 8, rng=1).isel(run=slice(0, 3))
    design["s"] = ("run", s, design["s"].attrs)
    new = with_runs(chain, uq.ensemble.build(design, {"first.y": once, "second.y": 0.8 * once * (1.5 - once)}))
    assert isinstance(new, uq.Chain)
    assert new.members["first"] is new.members["second"]
    at = np.append(x[:, 0], [*s, *once])
    mean, covariance = kriged(at, 0.8 * at * (1.5 - at), np.array([0.4, 0.7]), 0.6, 1.0)
    found = new.members["first"].scores(np.array([[0.4], [0.7]]))
    np.testing.assert_allclose(found.mean[0, :, 0], mean, atol=1e-6)
    np.testing.assert_allclose(found.covariance[0, 0], covariance, atol=1e-6)


@pytest.mark.slow
def test_the_corrected_posterior_through_a_chain_is_that_of_the_linked_simulators() -> None:
    data = xr.DataArray(0.06, name="tissue.y")
    problem = uq.Calibration(linked(20.0), data, uq.GaussianNoise(sd=0.05))
    assert problem.link_errors  # large errors of the cell are sampled, and are inputs of no simulator
    before = problem.sample(uq.SMC(), rng=1)
    run = problem.simulated.simulator(
        cell=lambda theta: {"y": duration(np.asarray(theta))}, tissue=lambda apd: {"y": velocity(np.asarray(apd))}
    )
    runs = uq.run(run, uq.verification_design(before, 10, rng=1))
    found = uq.correct(before, runs, sampler=uq.SMC(), rng=1)
    theta = np.linspace(0.0, 1.0, 4001)
    exact = np.exp(-0.5 * ((velocity(duration(theta)) - 0.06) / 0.05) ** 2)
    exact /= exact.sum()
    mean = exact @ theta
    sd = np.sqrt(exact @ (theta - mean) ** 2)
    draws, start = found.posterior.flat()["theta"], before.flat()["theta"]
    assert abs(draws.mean() - mean) < 0.12 * sd, (draws.mean(), mean, start.mean())
    assert draws.std() / sd == pytest.approx(1.0, abs=0.12)
    assert abs(start.mean() - mean) > 0.3 * sd or abs(np.log(start.std() / sd)) > 0.3  # there was something to correct


def test_a_member_that_cannot_be_conditioned_is_named() -> None:
    chain = linked(0.5)
    other = uq.Chain(cell=Plugged(chain.members["cell"]), tissue=chain.members["tissue"], links=chain.links)
    problem = uq.Calibration(other, xr.DataArray(0.55, name="tissue.y"), uq.GaussianNoise(sd=0.05))
    before = sampled(problem, 400, seed=1, size=400)
    design = uq.verification_design(before, 10, rng=1)
    with pytest.raises(InputError, match=r"Chain \(cell: Plugged, tissue: GaussianProcessSurrogate\) cannot be"):
        uq.correct(before, uq.ensemble.build(design, both(design["theta"].values)), rng=1)

"""Where the chains of a population begin: at the maximum of a likelihood that is known, and where draws are."""

import numpy as np
import pandas as pd
import pytest
from calibration.problems import linear_surrogate

import uqms as uq
from uqms.calibration.population import start, subjects_graph

J, M = 40, 5  # subjects, measurements of each
SLOPE, MEAN, OMEGA, SD = 2.0, 0.7, 0.8, 0.6


def problem(error: float, spread: object = None, sd: object = None) -> uq.PopulationCalibration:
    """Return a one-way model: y = SLOPE (MEAN + omega x_j) + noise, with M or M - 1 values of each subject."""
    rng = np.random.default_rng(3)
    own = MEAN + OMEGA * rng.standard_normal(J)
    y = SLOPE * own[:, None] + SD * rng.standard_normal((J, M))
    y[::2, -1] = np.nan  # some have one less
    frame = pd.DataFrame(
        {"id": np.repeat([f"s{j}" for j in range(J)], M), "n": np.tile(np.arange(M), J), "x": 0.5, "y": y.ravel()}
    )
    data = uq.Observations.from_table(
        frame.dropna(), output="y", value="y", conditions=["x"], subject="id", replicate="n"
    )
    space = uq.ParameterSpace(theta=uq.Normal(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
    population = uq.Population(space, individual=("theta",), spread=spread or uq.HalfNormal(2.0))
    noise = uq.GaussianNoise(sd=sd or uq.HalfNormal(2.0))
    return uq.Calibration(linear_surrogate(SLOPE, error), data, noise, population=population)


def values_of(one: uq.PopulationCalibration) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and which subject each belongs to."""
    cells = one.data.cells
    return cells.z, cells.unit[cells.experiment[cells.row_cell]]


@pytest.mark.parametrize("error", [1e-6, 0.5])
def test_spreads_and_noise_are_those_of_greatest_likelihood(error: float) -> None:
    """The likelihood of a linear model is known; its errors of the surrogate are taken for independent here."""
    one = problem(error)
    z, subject = values_of(one)
    count = np.bincount(subject)
    theta = {"theta": np.array([MEAN]), "omega_theta": np.array([3.0]), "sigma": np.array([0.2])}
    wrong = 0.1 * np.random.default_rng(1).standard_normal((1, one.latents))
    found, middle, draws = start.likely(one, theta, wrong, np.random.default_rng(2), 4000)
    mean = np.bincount(subject, z) / count - SLOPE * MEAN

    def slope(log_omega: float, log_sd: float) -> np.ndarray:
        """Return derivatives of the log-likelihood by both, by differences."""

        def value(a: float, b: float) -> float:
            s2 = np.exp(2.0 * b)
            total = SLOPE**2 * np.exp(2.0 * a) + error**2 + s2 / count
            within = np.sum((z - (np.bincount(subject, z) / count)[subject]) ** 2)
            return float(-0.5 * np.sum(np.log(total) + mean**2 / total) - 0.5 * within / s2 - np.sum(count - 1) * b)

        h = 1e-4
        return np.array(
            [
                (value(log_omega + h, log_sd) - value(log_omega - h, log_sd)) / (2.0 * h),
                (value(log_omega, log_sd + h) - value(log_omega, log_sd - h)) / (2.0 * h),
            ]
        )

    # Information is about 2 J and 2 (N - J): a slope of 0.1 is 0.001 in a logarithm.
    omega, sd = float(found["omega_theta"][0]), float(found["sigma"][0])
    np.testing.assert_allclose(slope(np.log(omega), np.log(sd)), 0.0, atol=0.1)
    assert abs(slope(np.log(1.1 * omega), np.log(sd))[0]) > 3.0  # what a tenth would be
    total = sd**2 / count + error**2
    shrunk = SLOPE * omega**2 / (SLOPE**2 * omega**2 + total) * mean
    np.testing.assert_allclose(omega * middle[0], shrunk, atol=1e-4)
    variance = omega**2 * total / (SLOPE**2 * omega**2 + total)
    np.testing.assert_allclose(omega * draws.mean(axis=0), shrunk, atol=5.0 * float(np.sqrt(variance.max() / 4000)))
    np.testing.assert_allclose(omega**2 * draws.var(axis=0), variance, rtol=5.0 * np.sqrt(2.0 / 4000))


def test_what_is_known_stays() -> None:
    one = problem(0.1, spread=OMEGA, sd=SD)
    found, _, _ = start.likely(
        one, {"theta": np.array([MEAN])}, np.zeros((1, one.latents)), np.random.default_rng(1), 1
    )
    assert list(found) == ["theta"]


def test_a_spread_that_its_prior_forbids_stays_and_none_is_nothing() -> None:
    one = problem(0.1, spread=uq.Uniform(0.0, 0.4))  # effects say 0.8
    target, kappa = one.compiled.target(one), np.zeros((J, 1))
    points, rng = np.tile(target.start, (2, 1)), np.random.default_rng(1)
    middles, _ = subjects_graph._likely(one, target, points, kappa, rng, 1)
    begins, _ = subjects_graph._coordinates(target)
    np.testing.assert_array_equal(middles[:, begins["omega_theta"]], points[:, begins["omega_theta"]])
    wrong = np.where(np.arange(target.size) == 3, [[np.nan], [0.5]], middles)
    np.testing.assert_array_equal(subjects_graph._finite(target, wrong, points), np.stack([points[0], wrong[1]]))
    found, _ = subjects_graph._at(one, target, middles, kappa)
    assert found["sigma"] == pytest.approx(SD, rel=0.3)
    alike = one.with_values(SLOPE * MEAN + SD * rng.standard_normal(len(one.data.cells.z)))
    theta = {"theta": np.array([MEAN]), "omega_theta": np.array([3.0]), "sigma": np.array([SD])}
    found, _, _ = start.likely(alike, theta, np.zeros((1, one.latents)), rng, 1)
    assert found["omega_theta"][0] == pytest.approx(0.3)


@pytest.mark.slow
def test_chains_begin_at_likely_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The density there is as in the posterior's draws; at the joint mode, with jitter, it was far from it."""
    one, seen = problem(0.05), {}

    class Seen(Exception):
        pass

    def stop(self: uq.NUTS, target: object, seed: int, starts: np.ndarray, **_: object) -> None:
        seen["starts"], seen["target"] = starts, target
        raise Seen

    with monkeypatch.context() as patched:
        patched.setattr(uq.NUTS, "sample_target", stop)
        with pytest.raises(Seen):
            subjects_graph.run(one, uq.NUTS(), 1)
    target, starts = seen["target"], seen["starts"]
    tree = uq.NUTS(draws=300, tune=300, chains=2).sample_target(target, 1, starts)
    usual = tree["sample_stats"]["logp"].values.ravel()
    values = np.array([target.evaluate(at)[0] for at in starts])
    assert abs(values.mean() - usual.mean()) < 2.0 * usual.std()
    for name in ("omega_theta", "sigma"):
        drawn = np.log(tree["posterior"][name].values)
        at = starts[:, subjects_graph._coordinates(target)[0][name]]
        assert abs(at.mean() - drawn.mean()) < 2.0 * drawn.std()


def test_an_approximation_of_a_population_through_the_process() -> None:
    """Random effects are no parameters of one subject, whose compiled density is not that of a population."""
    space = uq.ParameterSpace(theta=uq.Normal(0.0, 1.0))
    population = uq.Population(space, individual=("theta",), spread=uq.HalfNormal(0.5))
    box = population.box()
    theta = np.linspace(float(box.lower[0]), float(box.upper[0]), 12)
    runs = uq.ensemble.build({"theta": theta}, {"y": SLOPE * theta}, space=space, box=box)
    y, sd = np.array([1.0, 1.6, 2.4]), 0.3
    data = uq.Observations.from_table(pd.DataFrame({"y": y, "id": list("abc")}), output="y", value="y", subject="id")
    process = uq.GaussianProcess(hyperparameters="point", trend="linear").fit(runs)
    one = uq.Calibration(process, data, uq.GaussianNoise(sd=sd), population=population)
    draws = one.sample(uq.Laplace(draws=2000), rng=1).draws
    mean, omega = np.meshgrid(np.linspace(-1.0, 3.0, 401), np.linspace(0.005, 2.5, 300), indexing="ij")
    variance = (SLOPE * omega) ** 2 + sd**2
    log_p = -0.5 * (mean**2 + (omega / 0.5) ** 2)
    for value in y:
        log_p -= 0.5 * ((value - SLOPE * mean) ** 2 / variance + np.log(variance))
    weight = np.exp(log_p - log_p.max())
    for name, values in (("theta", mean), ("omega_theta", omega)):
        exact = np.average(values, weights=weight)
        spread = np.sqrt(np.average((values - exact) ** 2, weights=weight))
        assert abs(float(draws[name].mean()) - exact) < 4.0 * spread / np.sqrt(400)

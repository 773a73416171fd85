"""Several kinds of measurement, noise that is not normal, features in the place of the exact error."""

import numpy as np
import pandas as pd
import pytensor
import pytest
import xarray as xr
from calibration.population.test_population import SPACE, observations, surrogate, table
from scipy.stats import multivariate_normal, norm

import uqms as uq
from uqms.calibration import bridge
from uqms.calibration.assembly import new_rows
from uqms.calibration.noise import NoiseModel
from uqms.calibration.population.subject_prediction import Shared
from uqms.calibration.population.terms import subject_terms
from uqms.calibration.posterior import build_posterior
from uqms.errors import InputError
from uqms.parameters.functions import NumPyFunctions


@pytest.fixture(scope="module")
def two_outputs() -> object:
    """Return a surrogate of a curve and a number, of few runs so that its error matters."""
    design = uq.sobol(SPACE, 24, rng=1)
    a, b, c, x = (design[name].values[:, None] for name in ("a", "b", "c", "x"))
    t = np.array([0.0, 1.0, 2.0, 3.0])
    curve = xr.DataArray(np.exp(-b * t) * a + 0.1 * c * x, dims=("run", "t"), coords={"t": t})
    runs = uq.ensemble.build(design, {"y": curve, "e": (a * b + 0.2 * x)[:, 0]})
    return uq.GaussianProcess(hyperparameters="point").fit(runs)


def both_kinds() -> uq.Observations:
    rng, rows, numbers = np.random.default_rng(4), [], []
    for j in range(4):
        x = 0.2 + 0.2 * j
        rows += [{"id": f"s{j}", "t": t, "x": x, "v": rng.normal(0.4, 0.1)} for t in (0.0, 1.0, 3.0)[: 3 - j % 2]]
        if j != 2:  # one has no such measurement
            numbers.append({"id": f"s{j}", "x": x, "v": rng.normal(0.3, 0.05)})
    curve = uq.Observations.from_table(
        pd.DataFrame(rows), output="y", value="v", coords={"t": "t"}, conditions=["x"], subject="id"
    )
    number = uq.Observations.from_table(pd.DataFrame(numbers), output="e", value="v", conditions=["x"], subject="id")
    return uq.Observations.concat([curve, number])


def of_noise(two_outputs: object, noise: dict[str, NoiseModel]) -> uq.PopulationCalibration:
    population = uq.Population(SPACE, individual=("a", "b"), spread=0.05)
    return uq.Calibration(two_outputs, both_kinds(), noise, population=population, outside="extrapolate")


def test_two_kinds_of_measurement(two_outputs: object) -> None:
    """Both outputs of a subject are at one input, so that their errors are those of one point."""
    noise = {"y": uq.GaussianNoise(sd=uq.HalfNormal(0.1)), "e": uq.GaussianNoise(sd=0.05)}
    one = of_noise(two_outputs, noise)
    theta, z = one.prior_draws(2, 1), np.random.default_rng(2).standard_normal((2, one.latents))
    data = one.observations
    for i in range(2):
        own = {name: values[i : i + 1] for name, values in one.individuals(theta, z).items()}
        x = dict(zip(data.subject, data.conditions["x"], strict=True))
        labels = [f"s{j}" for j in range(4)]
        points = {name: own[name][0] for name in ("a", "b")}
        points |= {"c": np.repeat(own["c"], 4), "x": np.array([x[label] for label in labels])}
        u = one.surrogate.domain.to_unit(np.column_stack([points[name] for name in one.surrogate.domain.names]))
        scores = one.surrogate.scores(u[None])
        mean, covariance = np.zeros(len(data)), np.zeros((len(data), len(data)))
        rows = []
        for r in range(len(data)):
            coords = {"t": data.coords["t"][[r]]} if data.output[r] == "y" else None
            decoder = one.surrogate.decode(str(data.output[r]), coords)
            rows.append((labels.index(data.subject[r]), decoder))
            mean[r] = decoder.offset[0] + decoder.basis[0] @ scores.mean[0, 0, rows[r][0]]
        for r, (j, left) in enumerate(rows):
            for s, (k, right) in enumerate(rows):
                covariance[r, s] = np.sum(left.basis[0] * right.basis[0] * scores.covariance[0, 0, :, j, k])
                if j == k:
                    covariance[r, s] += left.truncation[0] @ right.truncation[0]
        sd = np.where(data.output == "y", theta["sigma_y" if "sigma_y" in theta else "sigma"][i], 0.05)
        wanted = multivariate_normal(mean, covariance + np.diag(sd**2)).logpdf(data.value)
        found = one.log_likelihood({name: values[i] for name, values in theta.items()}, z[i])
        assert found == pytest.approx(wanted, rel=1e-7)


@pytest.mark.filterwarnings("ignore::uqms.errors.CapabilityWarning")
@pytest.mark.parametrize("kind", [pytest.param("Student t", marks=pytest.mark.slow), "log-normal"])
def test_noise_that_is_not_normal(two_outputs: object, kind: str) -> None:
    """The density that is sampled is the one that NumPy evaluates: effects and latents of the error are variables."""
    if kind == "log-normal":
        design = uq.sobol(SPACE, 24, rng=1)
        value = np.exp(design["a"].values * design["b"].values + design["x"].values)
        fitted = uq.GaussianProcess(outputs={"e": uq.Scalar(transform=uq.Log())}, hyperparameters="point").fit(
            uq.ensemble.build(design, {"e": value})
        )
        frame = pd.DataFrame({"id": ["p", "q", "r"], "x": [0.2, 0.5, 0.9], "v": [1.5, 1.9, 3.1]})
        data = uq.Observations.from_table(frame, output="e", value="v", conditions=["x"], subject="id")
        population = uq.Population(SPACE, individual=("a",), spread=0.05)
        noise = uq.LogNormalNoise(sigma=uq.HalfNormal(0.2))
        one = uq.Calibration(fitted, data, noise, population=population, outside="extrapolate")
    else:
        one = of_noise(two_outputs, {"y": uq.StudentTNoise(scale=0.1, df=4.0), "e": uq.GaussianNoise(sd=0.05)})
        assert one.data.data_model.form == "latent"
    model = one.model()
    theta, z = one.prior_draws(2, 1), 0.5 * np.random.default_rng(2).standard_normal((2, one.latents))
    x, _ = one.layout.standardised(z[:, : one.layout.size])
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        density = model.compile_logp(jacobian=False)
    lines = bridge.real_lines(one.conditioned_prior)
    prior = np.sum(list(one.conditioned_prior.log_terms(theta).values()), axis=0)
    for i in range(2):
        point = {
            model.rvs_to_values[model[name]].name: np.asarray(line.point(theta[name][i], NumPyFunctions, {}))
            for name, line in lines.items()
        }
        point |= {f"effect_{name}": x[i, :, k] for k, name in enumerate(one.population.individual)}
        if one.data.latents:
            point["latents"] = z[i, one.layout.size :]
        wanted = prior[i] + norm.logpdf(z[i]).sum()
        wanted += one.log_likelihood({name: values[i] for name, values in theta.items()}, z[i])
        assert float(density(point)) == pytest.approx(wanted, rel=1e-7)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::uqms.errors.CapabilityWarning")
def test_new_measurements_of_noise_that_is_not_normal(two_outputs: object) -> None:
    """The group is there, and for normal noise, whose law is known, what it does agrees with the features' way."""
    one = of_noise(two_outputs, {"y": uq.StudentTNoise(scale=0.1, df=4.0), "e": uq.GaussianNoise(sd=0.05)})
    rng, shape = np.random.default_rng(1), (4, 150)
    theta, z = one.prior_draws(600, rng), rng.standard_normal((600, one.latents))
    draws = {name: (("chain", "draw"), values.reshape(shape)) for name, values in theta.items()}
    draws["latents"] = (("chain", "draw", "latent"), z.reshape(*shape, -1))
    stats = {"diverging": (("chain", "draw"), np.zeros(shape, dtype=bool))}
    trace = xr.DataTree.from_dict({"posterior": xr.Dataset(draws), "sample_stats": xr.Dataset(stats)})
    tree = build_posterior(one, uq.NUTS(), trace, 1).tree
    values = tree["posterior_predictive"]["value"]
    assert values.sizes == {"chain": 4, "draw": 100, "observation": len(one.observations)}
    assert np.isfinite(values.values).all()
    assert list(values["subject"].values) == list(one.observations.subject)
    normal = of_noise(two_outputs, {"y": uq.GaussianNoise(sd=0.1), "e": uq.GaussianNoise(sd=0.05)})
    known, z = {name: np.repeat(v, 20_000) for name, v in normal.prior_draws(1, 4).items()}, np.zeros((20_000, 0))
    z = np.repeat(rng.standard_normal((1, normal.latents)), 20_000, axis=0)
    few = {name: values[:400] for name, values in known.items()}
    (piece,) = normal.pieces(few, z[:400], np.zeros(400, dtype=int))
    found = new_rows(piece, rng)  # (400, R)
    other = Shared.of(normal, known, z, rng).new_rows(rng)
    sd = other.std(axis=0)
    error = sd * np.sqrt(1.0 / len(found) + 1.0 / len(other))
    np.testing.assert_array_less(np.abs(found.mean(axis=0) - other.mean(axis=0)), 4.0 * error)
    np.testing.assert_allclose(found.std(axis=0), sd, rtol=4.0 / np.sqrt(2 * len(found)))


@pytest.mark.slow
def test_features_take_the_place_of_the_exact_error() -> None:
    """Many subjects near each other: densities, terms and draws through features are nearly the exact ones."""
    population = uq.Population(SPACE, individual=("a", "b"), spread={"a": uq.HalfNormal(0.05), "b": uq.HalfNormal(0.1)})
    frame = table(subjects=40).assign(x=lambda rows: (rows["x"] * 10 % 4) / 5)
    exact, close = (
        uq.Calibration(
            surrogate(),
            observations(frame.drop_duplicates(["id", "t", "x"])),
            uq.GaussianNoise(sd=uq.HalfNormal(0.3)),
            population=population,
            outside="extrapolate",
            surrogate_error=kind,
        )
        for kind in ("exact", "low-rank")
    )
    assert exact.lowrank is None
    rng = np.random.default_rng(5)
    S = 30  # around one draw, as a posterior is
    theta = {name: values * (1.0 + 0.02 * rng.standard_normal(S)) for name, values in exact.prior_draws(1, 2).items()}
    z = rng.standard_normal((1, exact.latents)) + 0.2 * rng.standard_normal((S, exact.latents))
    theta["sigma"] = np.full(S, 0.2)
    close = close.with_features(theta, z, np.random.default_rng(1))
    assert close.lowrank is not None
    assert close.lowrank.error.ranks.max() < exact.data.cells.experiments / 2
    a, b = (p.log_likelihood(theta, z) for p in (exact, close))
    assert (a - b).std() < 0.05  # nats
    _, own, _ = subject_terms(exact, theta, z, rng)
    _, other, _ = subject_terms(close, theta, z, rng)
    assert np.abs(own - other).max() < 0.2
    one = {name: np.repeat(values[:1], 4000) for name, values in theta.items()}
    latents = np.repeat(z[:1], 4000, axis=0)
    x, y = (p.simulate(one, 3, latents) for p in (exact, close))
    sd = x.std(axis=0)
    np.testing.assert_allclose(x.mean(axis=0), y.mean(axis=0), atol=5 * sd.max() * np.sqrt(2 / 4000))
    np.testing.assert_allclose(np.corrcoef(x.T), np.corrcoef(y.T), atol=0.1)


def test_surrogate_error_that_is_refused() -> None:
    with pytest.raises(InputError, match="give 'auto', 'exact' or 'low-rank'"):
        uq.Calibration(
            surrogate(),
            observations(table()),
            uq.GaussianNoise(sd=0.1),
            population=uq.Population(SPACE, individual=("a",), spread=0.02),
            surrogate_error="fast",
        )

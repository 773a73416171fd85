"""Noise that grows with the output, beside dense normal distributions, quadrature and closed forms."""

from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from scipy.stats import multivariate_normal

import uqms as uq
from tests.calibration.test_expansion import DELTA, arrays_of, gp, ou, scalar
from tests.frozen.problems import TWO, calibrated, curves, numbers, observed, positive
from uqms.calibration import _process_gaussian
from uqms.calibration.assembly import leave_one_out
from uqms.calibration.expansion import log_ratios
from uqms.calibration.misfit import _distances
from uqms.calibration.predict import conditional_moments, data_moments, own_cells
from uqms.calibration.verdict import _estimated_noise, fisher_information
from uqms.diagnostics.verification import with_simulator
from uqms.errors import InputError
from uqms.surrogates.transforms import Identity

COMBINED = uq.CombinedNoise(additive=uq.HalfNormal(0.2), proportional=uq.HalfNormal(0.3))
POWER = uq.CombinedNoise(additive=0.05, proportional=uq.HalfNormal(0.3), power=uq.LogNormal(median=1.0, sigma=0.3))
ALONE = uq.CombinedNoise(additive=0, proportional=uq.HalfNormal(0.3))
SIZES = {"sigma": 0.15, "proportional": 0.21, "power": 0.8}
THETA = {"a": 0.55, "b": 1.2}


class Dense:
    """The joint normal distribution of all measured rows by hyperparameter draw, row by row, from the definition."""

    def __init__(
        self, problem: Any, theta: dict[str, float], noise: uq.CombinedNoise, delta: Any = None, m: float = 1.0
    ):
        surrogate, table = problem.surrogate, problem.observations.table.reset_index(drop=True)
        names, (output,) = surrogate.domain.names, problem.observations.outputs
        x = np.array([[theta.get(n, row.get(n)) for n in names] for _, row in table.iterrows()], dtype=float)
        places, at = np.unique(surrogate.domain.to_unit(x), axis=0, return_inverse=True)
        scores, at, layout = surrogate.scores(places), at.reshape(-1), surrogate.layouts[output]
        offset, B, E = surrogate.decode(output, {d: table[d].to_numpy() for d in layout.dims} if layout.dims else None)
        if not layout.dims:
            offset, B, E = (np.repeat(one, len(table), axis=0) for one in (offset, B, E))
        a, b, c = (theta.get(k, v) for k, v in noise.parameters.items() for k in [k])
        rows = [row for _, row in table.iterrows()]
        more = np.array([[0.0 if delta is None else delta(i, j) for j in rows] for i in rows])
        self.z, self.log_weights = table["value"].to_numpy(), scores.log_weights
        self.f, self.V, self.C, self.slope, self.centre = [], [], [], [], []
        for mean, covariance in zip(scores.mean, scores.covariance, strict=True):
            centre = m * (offset + np.sum(B * mean[at], axis=1))
            V = sum(np.outer(B[:, j], B[:, j]) * covariance[j][np.ix_(at, at)] for j in range(B.shape[1]))
            V = m**2 * (V + (at[:, None] == at) * (E @ E.T)) + more
            f, slope = (centre, np.ones(len(rows))) if isinstance(layout.transform, Identity) else (np.exp(centre),) * 2
            D = a**2 + b**2 * np.abs(f) ** (2.0 * c)
            self.centre.append(centre), self.V.append(V), self.f.append(f), self.slope.append(slope)
            self.C.append(slope[:, None] * V * slope + np.diag(D))

    @property
    def by_draw(self) -> np.ndarray:
        found = [multivariate_normal(f, C).logpdf(self.z) for f, C in zip(self.f, self.C, strict=True)]
        return np.array(found) + self.log_weights

    @property
    def log_density(self) -> float:
        return float(np.logaddexp.reduce(self.by_draw))


SET: dict[str, tuple[Any, Any, dict[str, Any], dict[str, Any]]] = {
    "curve": ("curve", COMBINED, {}, {}),
    "curve, averaged, power": ("curve_averaged", POWER, {}, {}),
    "curve, proportional alone": ("curve", ALONE, {}, {}),
    "log": ("log", COMBINED, {}, {}),
    "log, averaged, power": ("log_averaged", POWER, {}, {}),
    "discrepancy": ("curve", COMBINED, {"discrepancy": DELTA}, {"delta": gp(0.1, 2.0), "m": 1.1}),
    "log, discrepancy": ("log_averaged", POWER, {"discrepancy": DELTA}, {"delta": gp(0.1, 2.0), "m": 1.1}),
}


def problem_of(name: str) -> tuple[Any, dict[str, float], Dense]:
    surrogate, noise, settings, more = SET[name]
    frame = positive(2) if surrogate.startswith("log") else curves(TWO, 2)
    problem = calibrated(surrogate, observed(frame), noise, expansion="first-order", **settings)
    theta = THETA | {"scale": 0.1} | SIZES
    theta = {name: value for name, value in theta.items() if name in problem.priors}
    return problem, theta, Dense(problem, theta, noise, **more)


@pytest.mark.parametrize("name", list(SET))
def test_the_likelihood_is_the_dense_normal_with_the_variance_at_the_mean(name: str) -> None:
    problem, theta, dense = problem_of(name)
    assert not problem.latents
    assert float(problem.log_likelihood(theta)) == pytest.approx(dense.log_density, rel=1e-10)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if "discrepancy" in name else name for name in SET]
)
def test_derivatives_are_those_of_differences(name: str) -> None:
    problem, theta, _ = problem_of(name)
    u, block = problem.unit_inputs(arrays_of(theta))[0], problem.data_model.block()
    phi, z = problem.noise.phi(arrays_of(theta), (1,))[0], problem.cells.z
    value, u_bar, phi_bar = _process_gaussian.at(block, u, phi, z)
    assert float(value) == pytest.approx(float(problem.log_likelihood(theta)), rel=1e-10)
    for bar, at, density in (
        (u_bar, u, lambda x: float(_process_gaussian.at(block, x, phi, z)[0])),
        (phi_bar, phi, lambda x: float(_process_gaussian.at(block, u, x, z)[0])),
    ):
        for i in np.ndindex(at.shape):
            if at is phi and not isinstance(problem.noise.settings[i[0]], uq.Prior):
                continue
            shift = np.zeros_like(at)
            shift[i] = 1e-6
            wanted = (density(at + shift) - density(at - shift)) / 2e-6
            assert bar[i] == pytest.approx(wanted, rel=1e-5, abs=1e-5 * np.abs(bar).max())


@pytest.mark.parametrize("name", ["curve", "curve, proportional alone", "log", "discrepancy"])
def test_rows_given_the_rest_and_moments_are_those_of_the_dense_normal(name: str) -> None:
    problem, theta, dense = problem_of(name)
    (C,), (f,), (V,), (slope,), (centre,) = dense.C, dense.f, dense.V, dense.slope, dense.centre
    draws, h = arrays_of(theta, 3), np.zeros(3, dtype=np.int64)
    joint, pointwise, _ = leave_one_out(problem, draws, np.zeros((3, 0)), np.random.default_rng(0))
    assert joint[1] == pytest.approx(dense.log_density, rel=1e-10)
    for i in range(len(f)):
        rest = np.delete(np.arange(len(f)), i)
        gain = np.linalg.solve(C[np.ix_(rest, rest)], C[rest, i])
        mean, variance = f[i] + gain @ (dense.z - f)[rest], C[i, i] - gain @ C[rest, i]
        wanted = -0.5 * np.log(2.0 * np.pi * variance) - 0.5 * (dense.z[i] - mean) ** 2 / variance
        assert pointwise[2, i] == pytest.approx(wanted, rel=1e-9)
    order = problem.cells.row_of  # each cell is one row
    gain = np.linalg.solve(C, slope[:, None] * V)
    for _, moments in conditional_moments(problem, draws, h, own_cells(problem.cells)):
        np.testing.assert_allclose(moments.mean[1], (centre + gain.T @ (dense.z - f))[order], rtol=1e-7)
        wanted = (V - (V * slope) @ gain)[np.ix_(order, order)]
        np.testing.assert_allclose(moments.covariance[2], wanted, atol=1e-8 * V.max())
    _, _, (means, *_), (covariances, *_) = data_moments(problem, draws)
    np.testing.assert_allclose(means[0], f[order], rtol=1e-10)
    np.testing.assert_allclose(covariances[0], C[np.ix_(order, order)], rtol=1e-8, atol=1e-12)
    distance, _, _ = _distances(problem, arrays_of(theta), np.zeros(1, dtype=np.int64))
    assert distance.sum() == pytest.approx((dense.z - f) @ np.linalg.solve(C, dense.z - f), rel=1e-8)


def test_information_is_that_of_the_dense_normal() -> None:
    problem, theta, dense = problem_of("curve")
    (C,), step, box, columns = dense.C, 1e-4, problem.surrogate.domain, []
    for key in problem.parameters:
        ends = []
        for sign in (1.0, -1.0):
            u = box.to_unit(np.array([[theta.get(n, 0.4) for n in box.names]]))
            u[0, box.names.index(key)] += sign * step
            moved = float(box.from_unit(u)[0, box.names.index(key)])
            ends.append(Dense(problem, theta | {key: moved}, COMBINED).f[0])
        columns.append((ends[0] - ends[1]) / (2.0 * step))
    prior = problem.unit_inputs(problem.prior_draws(4000, 0))[:, 0]
    J = np.column_stack(columns) * [prior[:, box.names.index(key)].std() for key in problem.parameters]
    found = fisher_information(problem, arrays_of(theta), np.zeros(1, dtype=np.int64))[0]
    np.testing.assert_allclose(found, J.T @ np.linalg.solve(C, J), rtol=2e-4)


def test_beside_an_output_with_autocorrelated_noise() -> None:
    data = uq.Observations.concat([observed(curves(TWO, 2)), numbers([0.9, 1.2, 1.4], [0.2, 0.2, 0.7], output="e")])
    noise = {"y": uq.AutocorrelatedNoise(sd=0.4, length=1.3, white=uq.HalfNormal(0.2)), "e": COMBINED}
    problem = calibrated("several", data, noise, expansion="first-order")
    theta = THETA | {"sigma_y": 0.15, "sigma_e": 0.1, "proportional_e": 0.2}
    surrogate, table = problem.surrogate, problem.observations.table.reset_index(drop=True)
    names = surrogate.domain.names
    x = np.array([[theta.get(n, row.get(n)) for n in names] for _, row in table.iterrows()], dtype=float)
    places, at = np.unique(surrogate.domain.to_unit(x), axis=0, return_inverse=True)
    scores, at, one = surrogate.scores(places), at.reshape(-1), (table["output"] == "e").to_numpy()
    t = table["t"].to_numpy()
    decoded = [surrogate.decode("y", {"t": np.nan_to_num(t)}), surrogate.decode("e", None)]
    offset, B = (np.where(one.reshape(-1, *[1] * k), decoded[1][k], decoded[0][k]) for k in (0, 1))
    E = np.where(one[:, None], 0.0, decoded[0][2])
    assert not decoded[1][2].any()
    kernel = ou(0.4, 1.3)
    rows = [row for _, row in table.iterrows()]
    R = np.array(
        [[0.0 if one[i] or one[j] else kernel(rows[i], rows[j]) for j in range(len(t))] for i in range(len(t))]
    )
    values = []
    for h in range(len(scores.log_weights)):
        f = offset + np.sum(B * scores.mean[h][at], axis=1)
        V = sum(np.outer(B[:, j], B[:, j]) * scores.covariance[h][j][np.ix_(at, at)] for j in range(B.shape[1]))
        V = V + (at[:, None] == at) * (E @ E.T) + R
        D = np.where(one, 0.1**2 + 0.2**2 * f**2, 0.15**2)
        values.append(scores.log_weights[h] + multivariate_normal(f, V + np.diag(D)).logpdf(table["value"].to_numpy()))
    assert float(problem.log_likelihood(theta)) == pytest.approx(float(np.logaddexp.reduce(values)), rel=1e-10)


# --------------------------------------------------------------------------------------------------- not to first order
def exact(problem: Any, k: np.ndarray, a: float, b: float) -> np.ndarray:
    """Return log p(z | k) (S,) by quadrature over the latent output."""
    surrogate = problem.surrogate
    scores = surrogate.scores(problem.unit_inputs({"k": k}))
    offset, B, E = surrogate.decode("y")
    mean = offset[0] + scores.mean[0, :, 0] @ B[0]
    variance = scores.covariance[0, :, :, 0, 0] @ B[0] ** 2 + np.sum(E[0] ** 2)
    nodes = np.linspace(-9.0, 9.0, 4001)
    y = surrogate.layouts["y"].transform.inverse(mean[:, None] + np.sqrt(variance)[:, None] * nodes)
    terms = stats.norm.logpdf(nodes) + np.log(nodes[1] - nodes[0])
    for z in problem.observations.value:
        terms = terms + stats.norm.logpdf(z, y, np.sqrt(a**2 + (b * y) ** 2))
    return np.asarray(np.logaddexp.reduce(terms, axis=1))


@pytest.mark.parametrize("transform", ["log", None])
def test_the_loss_is_that_of_quadrature(transform: Any) -> None:
    noise = uq.CombinedNoise(additive=0.1, proportional=0.1)
    surrogate = scalar(transform="log") if transform else identity()
    problem = calibrated(surrogate, xr.DataArray(4.0, name="y"), noise, expansion="first-order")
    k = np.linspace(0.05, 0.95, 40)
    wanted = exact(problem, k, 0.1, 0.1) - problem.log_likelihood({"k": k})
    ratio, error = (np.concatenate(one) for one in zip(*log_ratios(problem, {"k": k}, np.zeros(40, int)), strict=True))
    close = np.abs(wanted) < 0.3
    assert close.sum() > 10
    assert np.abs(wanted[close]).max() > 0.02
    assert np.abs((ratio - wanted) / np.maximum(error, 1e-3))[close].max() < 4.0


def identity(runs: int = 6) -> Any:
    design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 1.0)), runs, rng=3)
    values = np.exp(1.0 + np.sin(5.0 * design["k"].values))
    settings = uq.GaussianProcess(outputs={"y": uq.Scalar()}, hyperparameters="point", scales="given")
    return settings.fit(uq.ensemble.build(design, {"y": values}))


def test_a_large_loss_samples_the_error() -> None:
    noise, data = uq.CombinedNoise(additive=0.05, proportional=0.3), xr.DataArray(2.0, name="y")
    problem = calibrated(identity(4), data, noise)
    assert problem.data_model.form == "latent"
    assert problem.expansion_loss > 0.05
    assert (
        calibrated(identity(16), data, uq.CombinedNoise(additive=0.1, proportional=0.1)).data_model.form
        == "independent"
    )
    k, eta = np.linspace(0.1, 0.9, 5), np.random.default_rng(0).standard_normal((200_000, problem.latents))
    for at in k:  # the average over the latent number is the quadrature
        terms = problem.log_likelihood({"k": np.full(len(eta), at)}, latents=eta)
        mean, error = np.exp(terms).mean(), np.exp(terms).std() / np.sqrt(len(eta))
        assert abs(mean - np.exp(exact(problem, np.array([at]), 0.05, 0.3)[0])) < 5.0 * error + 1e-12


def test_censored_rows_are_tails_at_the_output() -> None:
    data = numbers([0.9, 1.1, 0.7], [0.2, 0.6, 0.9], side=["", "left", "right"])
    space = uq.ParameterSpace(a=uq.Uniform(0.1, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
    simulator = uq.DirectSimulator(lambda a, x: {"y": a + x}, space=space, outputs={"y": ()})
    problem = calibrated(simulator, data, POWER, space=space)
    theta = {"a": 0.4, "proportional": 0.21, "power": 0.8}
    y = 0.4 + np.array([0.2, 0.6, 0.9])
    sd = np.sqrt(0.05**2 + (0.21 * y**0.8) ** 2)
    wanted = (
        stats.norm.logpdf(0.9, y[0], sd[0]) + stats.norm.logcdf(1.1, y[1], sd[1]) + stats.norm.logsf(0.7, y[2], sd[2])
    )
    assert float(problem.log_likelihood(theta)) == pytest.approx(wanted, rel=1e-10)


# ----------------------------------------------------------------------------------------------------------- for a user
@pytest.mark.parametrize("noise", [COMBINED, POWER, ALONE])
def test_the_model_conforms(noise: uq.CombinedNoise) -> None:
    uq.testing.check_noise(noise, outputs=[0.5, 3.0]).raise_failed()


def rising(a: Any, x: Any) -> dict[str, Any]:
    return {"y": 1.0 + a * x}


def line() -> Any:
    space = uq.ParameterSpace(a=uq.Uniform(0.1, 1.0), conditions={"x": uq.Condition(0.0, 4.0)})
    return uq.DirectSimulator(
        lambda a, x: {"y": 1.0 + a * x}, space=space, outputs={"y": ()}, backend="pytensor"
    ), space


def test_runs_of_the_simulator_see_the_same_noise() -> None:
    simulator, space = line()
    problem = calibrated(simulator, numbers([0.9, 1.1, 1.7], [0.2, 0.6, 0.9]), COMBINED, space=space)
    theta = {"a": np.array([0.4]), "sigma": np.array([0.1]), "proportional": np.array([0.2])}
    y = 1.0 + 0.4 * np.array([0.2, 0.6, 0.9])
    wanted = stats.norm.logpdf([0.9, 1.1, 1.7], y, np.hypot(0.1, 0.2 * y)).sum()
    assert problem.log_likelihood(theta)[0] == pytest.approx(wanted, rel=1e-12)
    found = with_simulator(problem, theta, xr.Dataset({"y": ("run", y)}), np.array([[0, 1, 2]]))
    assert found[0] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"additive": -1.0, "proportional": 0.1}, "additive is -1.0"),
        ({"additive": 0.1, "proportional": 0.0}, "GaussianNoise has no such part"),
        ({"additive": uq.Normal(0.0, 1.0), "proportional": 0.1}, "admits negative values"),
        ({"additive": 0.1, "proportional": 0.1, "power": 0.0}, "power is 0.0"),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        uq.CombinedNoise(**settings)


def test_zero_has_no_density_under_noise_that_is_proportional_alone() -> None:
    with pytest.raises(InputError, match="measured as 0"):
        calibrated("scalar", numbers([0.0, 1.0], [0.2, 0.6]), ALONE)


@pytest.fixture(scope="module")
def posterior() -> Any:
    rng, x = np.random.default_rng(4), np.repeat([0.1, 1.0, 2.0, 4.0], 15)
    y = 1.0 + 0.6 * x
    simulator, space = line()
    data = numbers(y + np.hypot(0.15, 0.1 * y) * rng.standard_normal(len(y)), x)
    return calibrated(simulator, data, COMBINED, space=space).sample(uq.NUTS(draws=1000), rng=1)


@pytest.mark.slow
def test_the_posterior_is_that_of_a_grid(posterior: Any) -> None:
    axes = [np.linspace(0.3, 0.9, 80), np.linspace(1e-3, 0.6, 90), np.linspace(1e-3, 0.4, 90)]
    a, sigma, b = np.meshgrid(*axes, indexing="ij")
    table = posterior.single.observations.table
    y = 1.0 + a[..., None] * table["x"].to_numpy()
    log = stats.norm.logpdf(table["value"].to_numpy(), y, np.hypot(sigma[..., None], b[..., None] * y)).sum(axis=-1)
    weight = np.exp(log - log.max()) * stats.halfnorm.pdf(sigma, scale=0.2) * stats.halfnorm.pdf(b, scale=0.3)
    weight /= weight.sum()
    draws = posterior.draws
    for name, values in {"a": a, "sigma": sigma, "proportional": b}.items():
        mean = float(np.sum(weight * values))
        sd = float(np.sqrt(np.sum(weight * (values - mean) ** 2)))
        found = draws[name].values.ravel()
        assert abs(found.mean() - mean) < 5.0 * sd / np.sqrt(800)
        assert found.std() == pytest.approx(sd, rel=0.12)


def test_new_measurements_scatter_as_the_output_says(posterior: Any) -> None:
    found = posterior.predict(conditions={"x": [0.0, 4.0]}, noise=True, rng=2)
    draws = posterior.draws
    y = 1.0 + draws["a"].values.ravel()[:, None] * np.array([0.0, 4.0])
    variance = draws["sigma"].values.ravel()[:, None] ** 2 + (draws["proportional"].values.ravel()[:, None] * y) ** 2
    wanted = np.sqrt(variance.mean(axis=0) + y.var(axis=0))
    np.testing.assert_allclose(found.draws["y"].std("sample").values, wanted, rtol=0.08)
    assert wanted[1] > 1.5 * wanted[0]


@pytest.mark.slow
def test_the_posterior_survives_its_file(tmp_path: Any) -> None:
    problem = calibrated("curve", observed(curves(TWO, 2)), POWER, expansion="first-order")
    posterior = problem.sample(uq.Laplace(), rng=1)
    posterior.save(tmp_path / "posterior.nc")
    again = uq.load_posterior(tmp_path / "posterior.nc")
    assert again.problem.noise.models[0] == POWER
    theta = {name: np.array([value]) for name, value in (THETA | SIZES).items() if name in problem.priors}
    assert again.problem.log_likelihood(theta)[0] == problem.log_likelihood(theta)[0]


def test_estimated_noise_counts_a_scale_discrepancy_once() -> None:
    """Of the simulator itself errors are (z - y) / sd(y), y being the output times the factor."""
    hours = np.array([1.0, 2.0, 5.0])
    simulator = uq.DirectSimulator(
        lambda a: a * hours,
        space=uq.ParameterSpace(a=uq.Uniform(0.5, 2.0)),
        outputs={"y": ("hour",)},
        coords={"hour": hours},
    )
    z = np.array([1.3, 2.9, 7.0])
    data = xr.DataArray(z, dims="hour", coords={"hour": hours}, name="y")
    problem = uq.Calibration(simulator, data, noise=COMBINED, discrepancy=uq.ScaleDiscrepancy(sd=0.4))
    theta = {"a": 1.1, "sigma": 0.2, "proportional": 0.3, "scale": 0.5}
    estimate, _ = _estimated_noise(problem, {name: np.array([value]) for name, value in theta.items()}, None)
    y = 1.5 * 1.1 * hours
    assert estimate == pytest.approx((z - y) / np.hypot(0.2, 0.3 * y), rel=1e-10)

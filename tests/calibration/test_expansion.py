"""The closed form of transformed outputs to first order, beside dense normal distributions and quadrature."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.special import expit
from scipy.stats import multivariate_normal

import uqms as uq
from tests.frozen import fits
from tests.frozen import problems as frozen_problems
from tests.frozen.problems import TWO, calibrated, curves, observed, positive
from tests.frozen.values import VALUES
from uqms.calibration import _process_gaussian
from uqms.calibration.assembly import leave_one_out
from uqms.calibration.expansion import LOSS_LIMIT, check_expansion, log_ratios, measured_loss, pilot_loss
from uqms.calibration.misfit import _distances
from uqms.calibration.population.terms import subject_terms
from uqms.calibration.predict import conditional_moments, data_moments, own_cells
from uqms.calibration.verdict import fisher_information
from uqms.diagnostics.verification import with_simulator
from uqms.errors import InputError
from uqms.surrogates.transforms import Log, Logit

Extra = Callable[[Any, Any], float]
NOISE = uq.GaussianNoise(sd=uq.HalfNormal(0.2))


class Dense:
    """The joint normal distribution of all measured rows, and of the latent outputs behind them, row by row."""

    def __init__(
        self,
        problem: Any,
        theta: dict[str, float],
        delta: Extra | None = None,
        noise: Extra | None = None,
        m: float = 1.0,
    ) -> None:
        surrogate, table = problem.surrogate, problem.observations.table.reset_index(drop=True)
        names = surrogate.domain.names
        x = np.array([[theta.get(n, row.get(n)) for n in names] for _, row in table.iterrows()], dtype=float)
        places, at = np.unique(surrogate.domain.to_unit(x), axis=0, return_inverse=True)
        scores, at = surrogate.scores(places), at.reshape(-1)
        (output,) = problem.observations.outputs
        dims = surrogate.layouts[output].dims
        offset, B, E = surrogate.decode(output, {d: table[d].to_numpy() for d in dims} if dims else None)
        if not dims:
            offset, B, E = (np.repeat(one, len(table), axis=0) for one in (offset, B, E))
        transform = surrogate.layouts[output].transform
        self.z = table["value"].to_numpy()
        self.log_weights = scores.log_weights
        rows = [row for _, row in table.iterrows()]
        more = np.array([[0.0 if delta is None else delta(a, b) for b in rows] for a in rows])
        R = np.array([[0.0 if noise is None else noise(a, b) for b in rows] for a in rows])
        R += theta["sigma"] ** 2 * np.eye(len(rows))
        self.centre, self.V, self.f, self.slope, self.C = [], [], [], [], []
        for mean, covariance in zip(scores.mean, scores.covariance, strict=True):
            c = m * (offset + np.sum(B * mean[at], axis=1))
            V = sum(np.outer(B[:, j], B[:, j]) * covariance[j][np.ix_(at, at)] for j in range(B.shape[1]))
            V = m**2 * (V + (at[:, None] == at) * (E @ E.T)) + more
            if isinstance(transform, Log):
                f = slope = np.exp(c)
            else:
                f = transform.lower + (transform.upper - transform.lower) * expit(c)
                slope = (transform.upper - transform.lower) * expit(c) * expit(-c)
            self.centre.append(c), self.V.append(V), self.f.append(f), self.slope.append(slope)
            self.C.append(slope[:, None] * V * slope + R)

    @property
    def by_draw(self) -> np.ndarray:
        """log w_h + log p(z | h)."""
        found = [multivariate_normal(f, C).logpdf(self.z) for f, C in zip(self.f, self.C, strict=True)]
        return np.array(found) + self.log_weights

    @property
    def log_density(self) -> float:
        return float(np.logaddexp.reduce(self.by_draw))


def ou(sd: float, length: float) -> Extra:
    return lambda a, b: (
        sd**2 * float(np.exp(-abs(a["t"] - b["t"]) / length))
        if a["x"] == b["x"] and a["replicate"] == b["replicate"]
        else 0.0
    )


def gp(sd: float, length: float) -> Extra:
    def covariance(a: Any, b: Any) -> float:
        r = np.sqrt(5.0) * abs(a["t"] - b["t"]) / length
        return sd**2 * float((1.0 + r + r**2 / 3.0) * np.exp(-r))

    return covariance


def log_problem(surrogate: str = "log", noise: Any = NOISE, **settings: Any) -> Any:
    return calibrated(surrogate, observed(positive(2)), noise, **({"expansion": "first-order"} | settings))


def logit_problem(**settings: Any) -> Any:
    frame = curves(TWO).assign(y=lambda f: 1.0 / (1.0 + np.exp(-2.0 * f["y"])))
    return calibrated("logit", observed(frame), NOISE, **({"expansion": "first-order"} | settings))


AUTO = uq.AutocorrelatedNoise(sd=0.4, length=1.3, white=uq.HalfNormal(0.2))
DELTA = [uq.GPDiscrepancy(sd=0.1, length=2.0, over=["t"]), uq.ScaleDiscrepancy(sd=0.1)]
THETA = {"a": 0.55, "b": 1.2, "sigma": 0.15}
PROBLEMS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "log": (log_problem, {}),
    "log, averaged": (lambda: log_problem("log_averaged"), {}),
    "logit": (logit_problem, {}),
    "autocorrelated": (lambda: log_problem(noise=AUTO), {"noise": ou(0.4, 1.3)}),
    "discrepancy, scale": (lambda: log_problem(discrepancy=DELTA), {"delta": gp(0.1, 2.0), "m": 1.1}),
    "all": (
        lambda: log_problem("log_averaged", noise=AUTO, discrepancy=DELTA),
        {"delta": gp(0.1, 2.0), "noise": ou(0.4, 1.3), "m": 1.1},
    ),
}


def theta_of(problem: Any) -> dict[str, float]:
    return THETA | ({"scale": 0.1} if "scale" in problem.priors else {})


def arrays_of(theta: dict[str, float], count: int = 1) -> dict[str, np.ndarray]:
    return {name: np.full(count, value) for name, value in theta.items()}


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_the_likelihood_is_the_dense_normal_of_the_expansion(name: str) -> None:
    build, more = PROBLEMS[name]
    problem = build()
    assert problem.data_model.form == "correlated"
    assert not problem.latents
    theta = theta_of(problem)
    assert float(problem.log_likelihood(theta)) == pytest.approx(Dense(problem, theta, **more).log_density, rel=1e-10)


@pytest.mark.parametrize("name", ["autocorrelated", "all"])
def test_derivatives_of_the_density(name: str) -> None:
    """Those of independent noise are tested in `test_gaussian_kernel`."""
    problem = PROBLEMS[name][0]()
    theta = theta_of(problem)
    u, block = problem.unit_inputs(arrays_of(theta))[0], problem.data_model.block()
    phi, z = problem.noise.phi(arrays_of(theta), (1,))[0], problem.cells.z
    value, u_bar, phi_bar = _process_gaussian.at(block, u, phi, z)
    assert float(value) == pytest.approx(float(problem.log_likelihood(theta)), rel=1e-10)
    for bar, at, density in (
        (u_bar, u, lambda x: float(_process_gaussian.at(block, x, phi, z)[0])),
        (phi_bar, phi, lambda x: float(_process_gaussian.at(block, u, x, z)[0])),
    ):
        for i in np.ndindex(at.shape):
            shift = np.zeros_like(at)
            shift[i] = 1e-6
            wanted = (density(at + shift) - density(at - shift)) / 2e-6
            assert bar[i] == pytest.approx(wanted, rel=1e-5, abs=1e-5 * np.abs(bar).max())


def test_an_orthogonal_discrepancy_is_so_on_the_scale_of_the_surrogate() -> None:
    delta = uq.GPDiscrepancy(sd=uq.HalfNormal(0.1), length=2.0, over=["t"], orthogonal=True)
    problem = log_problem(discrepancy=delta)
    theta = arrays_of(THETA | {"delta_sd": 0.1})
    u, block = problem.unit_inputs(theta)[0], problem.data_model.block()
    phi, z = problem.noise.phi(theta, (1,))[0], problem.cells.z
    value, u_bar, _ = _process_gaussian.at(block, u, phi, z)
    assert float(value) == pytest.approx(float(problem.log_likelihood(THETA | {"delta_sd": 0.1})), rel=1e-10)
    for i in np.ndindex(u.shape):
        ends = []
        for sign in (1.0, -1.0):
            shifted = u.copy()
            shifted[i] += sign * 1e-5
            ends.append(float(_process_gaussian.at(block, shifted, phi, z)[0]))
        assert u_bar[i] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-4 * np.abs(u_bar).max())


@pytest.mark.parametrize("name", ["log", "logit", "autocorrelated", "discrepancy, scale"])
def test_rows_given_the_rest_and_moments_are_those_of_the_dense_normal(name: str) -> None:
    build, more = PROBLEMS[name]
    problem = build()
    theta = theta_of(problem)
    dense = Dense(problem, theta, **more)
    (C,), (f,), (V,), (slope,), (centre,) = dense.C, dense.f, dense.V, dense.slope, dense.centre
    draws, h = arrays_of(theta, 3), np.zeros(3, dtype=np.int64)
    joint, pointwise, _ = leave_one_out(problem, draws, np.zeros((3, 0)), np.random.default_rng(0))
    assert joint[1] == pytest.approx(dense.log_density, rel=1e-10)
    for i in (0, 3, 7):
        rest = np.delete(np.arange(len(f)), i)
        gain = np.linalg.solve(C[np.ix_(rest, rest)], C[rest, i])
        mean, variance = f[i] + gain @ (dense.z - f)[rest], C[i, i] - gain @ C[rest, i]
        wanted = -0.5 * np.log(2.0 * np.pi * variance) - 0.5 * (dense.z[i] - mean) ** 2 / variance
        assert pointwise[2, i] == pytest.approx(wanted, rel=1e-9)
    # Cells in the order of the problem, rows in that of the table: one row of each cell stands for it.
    first = np.unique(problem.cells.row_cell, return_index=True)[1]
    gain = np.linalg.solve(C, slope[:, None] * V)
    for _, moments in conditional_moments(problem, draws, h, own_cells(problem.cells)):
        np.testing.assert_allclose(moments.mean[1], (centre + gain.T @ (dense.z - f))[first], rtol=1e-7)
        wanted = (V - (V * slope) @ gain)[np.ix_(first, first)]
        np.testing.assert_allclose(moments.covariance[2], wanted, atol=1e-8 * V.max())
    _, _, (means, *_), (covariances, *_) = data_moments(problem, draws)
    single = np.bincount(problem.cells.row_cell) == 1
    np.testing.assert_allclose(means[0], f[first], rtol=1e-10)
    at = np.flatnonzero(single)
    np.testing.assert_allclose(covariances[0][np.ix_(at, at)], C[np.ix_(first[at], first[at])], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["logit", "autocorrelated"])
def test_misfit_and_information_are_those_of_the_expansion(name: str) -> None:
    build, more = PROBLEMS[name]
    problem = build()
    theta = theta_of(problem)
    dense, step, draws = Dense(problem, theta, **more), 1e-4, arrays_of(theta)
    (C,), (f,) = dense.C, dense.f
    if name == "autocorrelated":  # each row is a cell of its own
        first = np.arange(len(f))
    else:
        first = np.unique(problem.cells.row_cell, return_index=True)[1]
        assert len(first) == len(f)
    distance, _, _ = _distances(problem, draws, np.zeros(1, dtype=np.int64))
    assert distance.sum() == pytest.approx((dense.z - f) @ np.linalg.solve(C, dense.z - f), rel=1e-8)
    box, columns = problem.surrogate.domain, []
    for key in problem.parameters:
        ends = []
        for sign in (1.0, -1.0):
            u = box.to_unit(np.array([[theta.get(n, 0.4) for n in box.names]]))
            u[0, box.names.index(key)] += sign * step
            moved = float(box.from_unit(u)[0, box.names.index(key)])
            ends.append(Dense(problem, theta | {key: moved}, **more).f[0])
        columns.append((ends[0] - ends[1]) / (2.0 * step))
    prior = problem.unit_inputs(problem.prior_draws(4000, 0))[:, 0]
    spread = [prior[:, box.names.index(key)].std() for key in problem.parameters]
    J = np.column_stack(columns) * spread
    found = fisher_information(problem, draws, np.zeros(1, dtype=np.int64))[0]
    np.testing.assert_allclose(found, J.T @ np.linalg.solve(C, J), rtol=2e-4)


FROZEN: dict[str, Callable[[dict[str, float]], dict[str, Any]]] = {
    "log_gaussian_first_order": lambda theta: {},
    "log_gaussian_first_order_averaged_discrepancy": lambda theta: {
        "delta": gp(theta["delta_sd"], 2.0),
        "m": 1.0 + theta["scale"],
    },
    "log_autocorrelated_first_order": lambda theta: {"noise": ou(theta["sigma_ou"], 1.3)},
    "logit_gaussian_first_order": lambda theta: {},
}


@pytest.mark.parametrize("name", list(FROZEN))
def test_frozen_densities_are_those_of_dense_normals(name: str) -> None:
    problem = frozen_problems.PROBLEMS[name]()
    for point in json.loads(VALUES.read_text())[name]["log_likelihood"]:
        theta = point["theta"]
        assert Dense(problem, theta, **FROZEN[name](theta)).log_density == pytest.approx(point["value"], rel=1e-9)


# ------------------------------------------------------------------------------------------------------- the loss
def scalar(runs: int = 6, transform: Any = "log") -> Any:
    """Return a surrogate of one number, of which a few runs leave much open."""
    design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 1.0)), runs, rng=3)
    k = design["k"].values
    values = np.exp(1.0 + np.sin(5.0 * k)) if transform == "log" else 100.0 * expit(3.0 * np.sin(4.0 * k))
    settings = uq.GaussianProcess(outputs={"y": uq.Scalar(transform=transform)}, hyperparameters="point")
    return settings.fit(uq.ensemble.build(design, {"y": values}))


def exact(problem: Any, k: np.ndarray, sd: float) -> np.ndarray:
    """Return log p(z | k) (S,) by quadrature over the latent output."""
    surrogate = problem.surrogate
    scores = surrogate.scores(problem.unit_inputs({"k": k}))
    offset, B, E = surrogate.decode("y")
    mean = offset[0] + scores.mean[0, :, 0] @ B[0]
    variance = scores.covariance[0, :, :, 0, 0] @ B[0] ** 2 + np.sum(E[0] ** 2)
    nodes = np.linspace(-9.0, 9.0, 4001)
    s = mean[:, None] + np.sqrt(variance)[:, None] * nodes
    transform = surrogate.layouts["y"].transform
    terms = -0.5 * nodes**2 - 0.5 * np.log(2.0 * np.pi) + np.log(nodes[1] - nodes[0])
    for z in problem.observations.value:
        terms = terms - 0.5 * ((z - transform.inverse(s)) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2.0 * np.pi)
    return np.asarray(np.logaddexp.reduce(terms, axis=1))


@pytest.mark.parametrize(("transform", "value", "sd"), [("log", 4.0, 0.2), (Logit(0.0, 100.0), 60.0, 3.0)])
def test_the_loss_is_that_of_quadrature(transform: Any, value: float, sd: float) -> None:
    surrogate = scalar(transform=transform)
    problem = calibrated(surrogate, xr.DataArray(value, name="y"), uq.GaussianNoise(sd=sd), expansion="first-order")
    k = np.linspace(0.05, 0.95, 40)
    wanted = exact(problem, k, sd) - problem.log_likelihood({"k": k})
    ratio, error = (np.concatenate(one) for one in zip(*log_ratios(problem, {"k": k}, np.zeros(40, int)), strict=True))
    close = np.abs(wanted) < 0.3
    assert close.sum() > 10
    assert np.abs(wanted[close]).max() > 0.02
    assert np.abs((ratio - wanted) / np.maximum(error, 1e-3))[close].max() < 4.0
    loss = measured_loss(problem, {"k": k[close]}, np.zeros(int(close.sum()), int))
    assert loss.nats == pytest.approx(np.abs(wanted[close]).mean(), abs=3.0 * loss.error)


def test_a_small_loss_leaves_the_posterior_as_it_is() -> None:
    problem = calibrated(scalar(7), xr.DataArray(4.0, name="y"), uq.GaussianNoise(sd=0.3))
    assert problem.data_model.form == "correlated"
    assert 0.0 < problem.expansion_loss < LOSS_LIMIT
    assert "first-order expansion: used" in repr(problem)
    k = (np.arange(2000) + 0.5) / 2000.0
    moments = []
    for values in (exact(problem, k, 0.3), problem.log_likelihood({"k": k})):
        weight = np.exp(values - values.max()) / np.sum(np.exp(values - values.max()))
        mean = float(weight @ k)
        moments.append((mean, float(np.sqrt(weight @ (k - mean) ** 2))))
    assert abs(moments[0][0] - moments[1][0]) < 0.05 * moments[0][1]
    assert moments[1][1] == pytest.approx(moments[0][1], rel=0.05)


def test_the_form_is_chosen_by_the_measured_loss() -> None:
    few, data = scalar(4), xr.DataArray(4.0, name="y")
    problem = calibrated(few, data, uq.GaussianNoise(sd=0.01))
    assert problem.data_model.form == "latent"
    assert problem.expansion_loss > LOSS_LIMIT
    assert problem.latents > 0
    assert "error sampled" in repr(problem)
    again = calibrated(few, data, uq.GaussianNoise(sd=0.01))
    assert again.expansion_loss == problem.expansion_loss  # no hidden random numbers
    forced = calibrated(few, data, uq.GaussianNoise(sd=0.01), expansion="first-order")
    assert forced.data_model.form == "correlated"
    assert np.isnan(forced.expansion_loss)
    assert pilot_loss(forced).nats == problem.expansion_loss
    check = check_expansion(forced, {"k": np.linspace(0.1, 0.9, 20)}, np.zeros(20, int))
    assert check is not None
    assert check.status == "warn"
    assert "expansion='none'" in str(check.remedy)
    assert check_expansion(problem, {"k": np.linspace(0.1, 0.9, 20)}, np.zeros(20, int)) is None
    many = calibrated(scalar(24), data, uq.GaussianNoise(sd=0.2))
    assert many.data_model.form == "correlated"
    assert many.expansion_loss < 1e-3
    sampled = calibrated(scalar(24), data, uq.GaussianNoise(sd=0.2), expansion="none")
    assert sampled.data_model.form == "latent"


def test_an_expansion_says_nothing_of_an_output_without_transform() -> None:
    frame = observed(curves(TWO, 2))
    forms = {
        calibrated("curve", frame, NOISE, expansion=way).data_model.form for way in ("measured", "first-order", "none")
    }
    assert forms == {"independent"}


def test_what_cannot_be_expanded_is_refused() -> None:
    with pytest.raises(InputError, match="expansion is 'second'"):
        log_problem(expansion="second")
    with pytest.raises(InputError, match="expansion='first-order' is for Gaussian noise"):
        log_problem(noise=uq.StudentTNoise(scale=0.2, df=4.0))
    assert log_problem(noise=uq.StudentTNoise(scale=0.2, df=4.0), expansion="measured").data_model.form == "latent"
    with pytest.raises(InputError, match="Autocorrelated noise of 'y' is in the output's own unit"):
        log_problem(noise=AUTO, expansion="none")


def test_parts_take_one_expansion_or_their_own() -> None:
    data = observed(positive(2))
    parts = {"one": (fits.load("log"), data), "two": (fits.load("log"), data)}
    noise = {"one": NOISE, "two": NOISE}

    def forms(expansion: Any) -> list[str]:
        problem = uq.Calibration(parts, noise=noise, expansion=expansion)
        return [part.data_model.form for part in problem.parts.values()]

    assert forms("none") == ["latent", "latent"]
    assert forms({"one": "first-order", "two": "none"}) == ["correlated", "latent"]
    with pytest.raises(InputError, match="expansion is"):
        forms({"three": "none"})


def test_autocorrelated_noise_of_a_logarithm_is_in_the_unit_of_the_output() -> None:
    """Simulated data have the variance of errors on the surrogate's scale, and noise in the output's own."""
    problem = log_problem(noise=AUTO)
    count = 20_000
    z = problem.simulate(arrays_of(THETA, count), 1)
    dense = Dense(problem, THETA, noise=ou(0.4, 1.3))
    (c,), (V,) = dense.centre, dense.V
    v = np.diag(V)
    wanted = np.exp(2.0 * c + v) * np.expm1(v) + 0.4**2 + THETA["sigma"] ** 2
    np.testing.assert_allclose(z.var(axis=0), wanted, rtol=6.0 * np.sqrt(2.0 / count))
    np.testing.assert_allclose(z.mean(axis=0), np.exp(c + 0.5 * v), atol=5.0 * np.sqrt(wanted.max() / count))
    # beside each other in one series: covariance of log-normals and of the process
    a, b = 0, 1
    joint = np.exp(c[a] + c[b] + 0.5 * (v[a] + v[b])) * np.expm1(V[a, b])
    step = abs(float(np.diff(problem.observations.table["t"].to_numpy()[:2])[0]))
    joint += 0.4**2 * np.exp(-step / 1.3)
    spread = np.sqrt((wanted[a] * wanted[b] + joint**2) / count)
    assert np.cov(z[:, a], z[:, b])[0, 1] == pytest.approx(joint, abs=5.0 * spread)


def test_a_posterior_predicts_in_the_unit_of_the_output() -> None:
    problem = calibrated(scalar(24), xr.DataArray(4.0, name="y"), uq.GaussianNoise(sd=uq.HalfNormal(0.3)))
    posterior = problem.sample(uq.Laplace(draws=400), rng=1)
    prediction = posterior.predict()
    assert float(prediction.mean["y"]) == pytest.approx(4.0, abs=0.5)
    assert float(prediction.draws["y"].min()) > 0.0
    with_noise = posterior.predict(noise=True)
    assert float(with_noise.sd["y"]) > float(prediction.sd["y"])
    assert any(check.name == "first-order expansion" for check in posterior.verdict.checks)


# ---------------------------------------------------------------------------------------------------- populations
@pytest.mark.filterwarnings("ignore::uqms.errors.CapabilityWarning")
def test_a_population_samples_the_error_unless_the_expansion_is_asked_for() -> None:
    space = uq.ParameterSpace(a=uq.Uniform(0.4, 1.2), b=uq.Uniform(0.5, 1.5), conditions={"x": uq.Condition(0.0, 1.0)})
    design = uq.sobol(space, 20, rng=1)
    values = np.exp(np.sin(2.0 * design["a"].values) * design["b"].values + design["x"].values)
    surrogate = uq.GaussianProcess(outputs={"e": uq.Scalar(transform="log")}, hyperparameters="point").fit(
        uq.ensemble.build(design, {"e": values})
    )
    frame = pd.DataFrame({"id": list("ppqqr"), "x": [0.2, 0.7, 0.5, 0.6, 0.9], "v": [1.9, 3.1, 2.2, 2.4, 3.6]})
    data = uq.Observations.from_table(frame, output="e", value="v", conditions=["x"], subject="id")
    population = uq.Population(space, individual=("a",), spread=0.05)

    def problem(**settings: Any) -> Any:
        noise = uq.GaussianNoise(sd=0.2)
        return uq.Calibration(surrogate, data, noise, population=population, outside="extrapolate", **settings)

    assert problem().data.data_model.form == "latent"
    one = problem(expansion="first-order")
    assert one.data.data_model.form == "correlated"
    assert one.latents == one.layout.size
    theta = {name: values[:3] for name, values in one.prior_draws(3, 1).items()}
    z = 0.5 * np.random.default_rng(2).standard_normal((3, one.latents))
    own = one.individuals(theta, z)
    label = [list("pqr").index(name) for name in frame["id"]]
    joint, by_subject, _ = subject_terms(one, theta, z, np.random.default_rng(0))
    for i in range(3):
        columns = {"a": own["a"][i][label], "b": np.full(5, own["b"][i]), "x": frame["x"].to_numpy()}
        u = surrogate.domain.to_unit(np.column_stack([columns[name] for name in surrogate.domain.names]))
        places, at = np.unique(u, axis=0, return_inverse=True)
        at, scores, (offset, B, E) = at.reshape(-1), surrogate.scores(places), surrogate.decode("e")
        c = offset[0] + scores.mean[0][at] @ B[0]
        V = sum(B[0, j] ** 2 * scores.covariance[0, j][np.ix_(at, at)] for j in range(B.shape[1]))
        V = V + (at[:, None] == at) * np.sum(E[0] ** 2)
        C = np.exp(c)[:, None] * V * np.exp(c) + 0.2**2 * np.eye(5)
        z_all, wall = frame["v"].to_numpy(), one.data.wall({k: v[[i]] for k, v in own.items()})[0]
        whole = multivariate_normal(np.exp(c), C).logpdf(z_all) + wall
        assert one.log_likelihood({k: v[i] for k, v in theta.items()}, z[i]) == pytest.approx(whole, rel=1e-9)
        assert joint[i] == pytest.approx(whole, rel=1e-9)
        rest = np.array([0, 1, 4])  # without the second subject
        without = multivariate_normal(np.exp(c)[rest], C[np.ix_(rest, rest)]).logpdf(z_all[rest])
        assert by_subject[i, 1] == pytest.approx(whole - wall - without, rel=1e-8)


# ------------------------------------------------------------------------------------- both forms are one likelihood
def stochastic() -> Any:
    """Return a surrogate of the logarithm of a stochastic simulator."""
    design = uq.sobol(fits.SPACE, 10, rng=1)
    a, b, x = (np.repeat(design[name].values, 5) for name in ("a", "b", "x"))
    waves = np.random.default_rng(2).standard_normal((2, len(a)))
    values = fits.curve_of(a, b, x).values + 0.05 * (np.outer(waves[0], np.exp(-fits.TIMES)) + waves[1][:, None])
    output = xr.DataArray(np.exp(1.0 + values), dims=("run", "t"), coords={"t": fits.TIMES})
    runs = uq.ensemble.build(design.isel(run=np.repeat(np.arange(10), 5)), {"y": output})
    settings = {"y": uq.Curve(max_scores=2, transform="log")}
    return uq.GaussianProcess(noise="heteroscedastic", hyperparameters="point", outputs=settings).fit(runs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stochastic", "discrepancy, scale"])
def test_the_closed_form_and_its_loss_make_up_the_sampled_likelihood(name: str) -> None:
    """The average over latents is the exact density, which expansion and measured ratio give too."""
    surrogate = stochastic() if name == "stochastic" else fits.load("log")
    settings = {"realisation": "replicate"} if name == "stochastic" else {"discrepancy": DELTA}
    forms = [
        calibrated(surrogate, observed(positive(2)), NOISE, expansion=way, **settings)
        for way in ("first-order", "none")
    ]
    assert [one.data_model.form for one in forms] == ["correlated", "latent"]
    theta = theta_of(forms[0]) | {"sigma": 1.0}
    draws, count = arrays_of(theta), 60_000
    ratio, error = next(log_ratios(forms[0], draws, np.zeros(1, np.int64)))
    found = float(forms[0].log_likelihood(theta)) + float(ratio[0])
    eta = np.random.default_rng(3).standard_normal((count, forms[1].latents))
    values = forms[1].log_likelihood(arrays_of(theta, count), eta)
    weights = np.exp(values - values.max())
    wanted = float(values.max() + np.log(weights.mean()))
    off = weights.std() / weights.mean() / np.sqrt(count)
    assert off < 0.03
    assert found == pytest.approx(wanted, abs=4.0 * float(np.hypot(off, error[0])))


@pytest.mark.parametrize("name", ["autocorrelated", "discrepancy, scale"])
def test_runs_at_draws_are_compared_with_the_closed_form(name: str) -> None:
    """Of simulator runs nothing is expanded but a discrepancy; noise is in the unit of the output."""
    build, more = PROBLEMS[name]
    problem = build()
    theta = theta_of(problem)
    values = np.exp(1.0 + 0.3 * np.sin(fits.TIMES) + np.array([[0.1], [0.2]]))  # a run at each condition
    runs = xr.Dataset({"y": xr.DataArray(values, dims=("run", "t"), coords={"t": fits.TIMES})})
    found = with_simulator(problem, arrays_of(theta), runs, np.array([[0, 1]]))
    table = problem.observations.table
    run = (table["x"].to_numpy() == table["x"].max()).astype(int)
    y = values[run, np.searchsorted(fits.TIMES, table["t"])]
    y = np.exp(more.get("m", 1.0) * np.log(y))
    rows = [row for _, row in table.iterrows()]
    C = theta["sigma"] ** 2 * np.eye(len(rows))
    for key, gain in (("noise", np.ones(len(rows))), ("delta", y)):
        if key in more:
            C += gain[:, None] * np.array([[more[key](a, b) for b in rows] for a in rows]) * gain
    wanted = multivariate_normal(y, C).logpdf(table["value"])
    assert found[0] == pytest.approx(wanted, rel=1e-8)

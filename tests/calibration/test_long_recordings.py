"""One long recording: every step takes memory in proportion to the samples, and agrees with dense matrices."""

import gc
import io
import sys
import tracemalloc
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.interpolate import make_interp_spline

import uqms as uq
from uqms._typing import Array
from uqms.calibration import progress as progress_module
from uqms.calibration.density import latent_draws
from uqms.calibration.likelihood import Errors, times_basis
from uqms.calibration.posterior import build_posterior
from uqms.calibration.predict import conditional_moments, data_moments, own_cells
from uqms.calibration.progress import progress
from uqms.calibration.verdict import _informations

SPACE = uq.ParameterSpace(rate=uq.LogNormal(median=2.0, sigma=0.2), frequency=uq.LogNormal(median=6.0, sigma=0.1))
WAYS, NOISES = ("surrogate", "direct"), ("independent", "autocorrelated")


def oscillation(samples: int, rate: Array, frequency: Array) -> Array:
    t = np.linspace(0.0, 2.0, samples)
    return np.exp(-np.asarray(rate)[..., None] * t) * np.cos(np.asarray(frequency)[..., None] * t)


def simulator(samples: int, way: str) -> object:
    times = np.linspace(0.0, 2.0, samples)
    if way == "direct":
        return uq.DirectSimulator(
            lambda rate, frequency: oscillation(samples, rate, frequency),
            space=SPACE,
            outputs={"current": ("time",)},
            coords={"time": times},
            vectorized=True,
        )
    design = uq.sobol(SPACE, 24, rng=1)
    runs = oscillation(samples, design["rate"].values, design["frequency"].values)
    table = {"current": xr.DataArray(runs, dims=("run", "time"), coords={"time": times})}
    settings = uq.GaussianProcess(outputs={"current": uq.Curve(max_scores=3)}, hyperparameters="point")
    return settings.fit(uq.ensemble.build(design, table))


def problem_of(samples: int, way: str, noise: str, found: object = None) -> uq.Calibration:
    times = np.linspace(0.0, 2.0, samples)
    values = oscillation(samples, np.array(2.2), np.array(5.8)) + 0.05 * np.random.default_rng(1).standard_normal(
        samples
    )
    data = xr.DataArray(values, dims="time", coords={"time": times}, name="current")
    model: object = uq.GaussianNoise(sd=uq.HalfNormal(0.1))
    if noise == "autocorrelated":
        model = uq.AutocorrelatedNoise(sd=uq.HalfNormal(0.1), length=uq.Gamma(4.0, 40.0), white=uq.HalfNormal(0.1))
    return uq.Calibration(simulator(samples, way) if found is None else found, data, noise=model)


def draws(problem: uq.Calibration, count: int) -> dict[str, Array]:
    """Return points near the truth."""
    rng = np.random.default_rng(2)
    centre = {"rate": 2.2, "frequency": 5.8, "sigma": 0.05, "sigma_ou": 0.03, "length_ou": 0.1}
    return {name: centre[name] * np.exp(0.02 * rng.standard_normal(count)) for name in problem.priors}


def fabricated(problem: uq.Calibration, count: int) -> uq.Posterior:
    """Return the posterior object around given draws, with all of its groups and the verdict."""
    posterior = xr.Dataset({n: (("chain", "draw"), v.reshape(2, -1)) for n, v in draws(problem, count).items()})
    posterior = posterior.assign_coords(chain=np.arange(2), draw=np.arange(count // 2))
    stats = xr.Dataset({"diverging": (("chain", "draw"), np.zeros((2, count // 2), dtype=bool))})
    trace = xr.DataTree.from_dict({"posterior": posterior, "sample_stats": stats})
    return build_posterior(problem, uq.NUTS(chains=2), trace, 1)


def peak(function: Callable[[], object]) -> float:
    """Return the memory in bytes that a call takes beyond what there was."""
    gc.collect()
    tracemalloc.start()
    try:
        function()
        return float(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("way", WAYS)
def test_memory_of_every_step_grows_with_the_samples(way: str, noise: str) -> None:
    """Four times the samples take at most five times the memory: what is quadratic would take sixteen times that."""
    taken: list[dict[str, float]] = []
    for samples in (500, 2000):
        found, at = simulator(samples, way), {}
        at["construct"] = peak(lambda: problem_of(samples, way, noise, found))  # noqa: B023
        problem = problem_of(samples, way, noise, found)
        theta = draws(problem, 8)
        at["log_likelihood"] = peak(lambda: problem.log_likelihood(theta))  # noqa: B023
        at["terms"] = peak(lambda: list(problem.log_likelihood_terms(theta)))  # noqa: B023
        at["posterior"] = peak(lambda: fabricated(problem, 16))  # noqa: B023
        posterior = fabricated(problem, 16)
        at["predict"] = peak(lambda: posterior.predict(draws=8, noise=True))  # noqa: B023
        taken.append(at)
    few, many = taken
    for step in few:
        assert many[step] < 5.0 * few[step] + 2**20, step


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("way", WAYS)
def test_predictions_through_errors_are_those_through_cells(
    way: str, noise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problem_of(40, way, noise)
    theta, h = draws(problem, 3), np.zeros(3, dtype=np.int64)
    (_, through_errors), *_ = conditional_moments(problem, theta, h, own_cells(problem.cells))
    monkeypatch.setattr(Errors, "size", property(lambda self: 10**9))
    (_, through_cells), *_ = conditional_moments(problem, theta, h, own_cells(problem.cells))
    scale = max(float(np.abs(through_cells.covariance).max()), 1e-300)
    np.testing.assert_allclose(through_errors.mean, through_cells.mean, atol=1e-10)
    np.testing.assert_allclose(through_errors.covariance, through_cells.covariance, atol=1e-8 * scale)
    np.testing.assert_allclose(through_errors.variance, through_cells.variance, atol=1e-8 * scale)
    np.testing.assert_allclose(through_errors.mean_variance, through_cells.mean_variance, atol=1e-8 * scale)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("way", WAYS)
def test_values_alone_are_those_with_terms_by_cell(way: str, noise: str) -> None:
    problem = problem_of(40, way, noise)
    theta = draws(problem, 5)
    with_terms = np.concatenate([values for _, values, _, _ in problem.log_likelihood_terms(theta)], axis=1)
    alone = np.concatenate(list(problem.log_likelihood_values(theta)), axis=1)
    np.testing.assert_allclose(alone, with_terms, rtol=1e-12)


def test_values_of_replicates_and_two_outputs_used_directly_are_those_with_terms() -> None:
    """Two noise groups, replicates that collapse to their mean, and a simulator that fails at some points."""
    times = np.array([0.0, 0.5, 1.0])
    direct = uq.DirectSimulator(
        lambda rate, frequency: {"current": np.exp(-rate * times), "peak": frequency if rate < 2.4 else np.nan},
        space=SPACE,
        outputs={"current": ("time",), "peak": ()},
        coords={"time": times},
        failures="impossible",
    )
    table = pd.DataFrame(
        {"time": np.tile(times, 2), "value": [1.0, 0.4, 0.2, 1.1, 0.3, 0.1], "again": [0] * 3 + [1] * 3}
    )
    current = uq.Observations.from_table(
        table, output="current", value="value", coords={"time": "time"}, replicate="again"
    )
    peak = uq.Observations.from_table(pd.DataFrame({"value": [6.1]}), output="peak", value="value")
    noise = {"current": uq.GaussianNoise(sd=uq.HalfNormal(0.2)), "peak": uq.GaussianNoise(sd=0.3)}
    problem = uq.Calibration(direct, uq.Observations.concat([current, peak]), noise=noise)
    theta = problem.prior_draws(20, 1)
    with_terms = np.concatenate([values for _, values, _, _ in problem.log_likelihood_terms(theta)], axis=1)
    assert 0 < np.isneginf(with_terms).sum() < 20
    alone = np.concatenate(list(problem.log_likelihood_values(theta)), axis=1)
    np.testing.assert_allclose(alone, with_terms, rtol=1e-12)


@pytest.mark.parametrize("noise", NOISES)
def test_draws_through_errors_have_the_covariance_that_they_should(noise: str) -> None:
    problem = problem_of(40, "surrogate", noise)
    theta, h = draws(problem, 1), np.zeros(1, dtype=np.int64)
    (_, moments), *_ = conditional_moments(problem, theta, h, own_cells(problem.cells))
    many = moments.of(np.zeros(20_000, dtype=np.int64))
    drawn, rng = many.draw(np.random.default_rng(3)), np.random.default_rng(4)
    along = rng.standard_normal((5, 40))
    wanted = np.einsum("ap,pr,ar->a", along, moments.covariance[0], along)
    np.testing.assert_allclose(((drawn - moments.mean[0]) @ along.T).var(axis=0), wanted, rtol=0.05)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("way", WAYS)
def test_information_is_that_of_the_dense_covariance(way: str, noise: str) -> None:
    problem = problem_of(60, way, noise)
    theta, h = draws(problem, 2), np.zeros(2, dtype=np.int64)
    found, without = _informations(problem, theta, h)
    sd = problem.unit_inputs(problem.prior_draws(4000, 0))[:, 0].std(axis=0)
    u, step = problem.unit_inputs(theta), 1e-4
    slopes = []
    for i in range(2):
        shift = step * np.eye(2)[i]
        ends = [problem.cells.at(problem.surrogate.scores(u + sign * shift).mean[0]) for sign in (1.0, -1.0)]
        slopes.append((ends[0] - ends[1]) / (2.0 * step) * sd[i])
    J = np.stack(slopes, axis=-1)
    for errors, information in ((True, found), (False, without)):
        _, _, _, (C, *_) = data_moments(problem, theta, errors)
        wanted = [j.T @ np.linalg.solve(c, j) for j, c in zip(J, C, strict=True)]
        np.testing.assert_allclose(information, wanted, rtol=1e-7)


def test_rows_of_a_simulator_between_its_coordinates_are_those_of_the_spline() -> None:
    rng = np.random.default_rng(1)
    times = np.array([0.3, 0.0, 1.0, 0.1, 0.55, 0.8, 0.9])
    direct = uq.DirectSimulator(
        lambda rate, frequency: {"peak": rate, "current": np.cos(frequency * times), "end": frequency},
        space=SPACE,
        outputs={"peak": (), "current": ("time",), "end": ()},
        coords={"time": times},
    )
    at = np.append(times[:3], rng.uniform(0.0, 1.0, 9))
    offset, basis, truncation = direct.sparse_decode("current", {"time": at})
    order = np.argsort(times)
    wanted = np.zeros((12, 9))
    wanted[:, 1:8] = make_interp_spline(times[order], np.eye(7)[order], k=3)(at)
    np.testing.assert_allclose(basis.toarray(), wanted, atol=1e-13)
    assert not offset.any()
    assert np.diff(basis.indptr)[:3].tolist() == [1, 1, 1]
    dense = direct.decode("current", {"time": at})
    np.testing.assert_array_equal(dense.basis, basis.toarray())
    np.testing.assert_array_equal(dense.truncation, truncation)
    every = direct.decode("current").basis
    np.testing.assert_array_equal(every[:, 1:8], np.eye(7))


@pytest.mark.parametrize("experiments", [3, 50])
def test_rows_times_values_are_sums_over_scores(experiments: int) -> None:
    from scipy import sparse

    rng = np.random.default_rng(1)
    basis = rng.standard_normal((60, 4)) * (rng.random((60, 4)) < 0.4)
    experiment = np.sort(rng.integers(0, experiments, 60))
    values = rng.standard_normal((2, 5, experiments, 4))
    wanted = (values[:, :, experiment] * basis).sum(axis=-1)
    np.testing.assert_allclose(times_basis(basis, experiment, values), wanted, atol=1e-13)
    np.testing.assert_allclose(times_basis(sparse.csr_array(basis), experiment, values), wanted, atol=1e-13)
    picking = np.eye(4)[rng.integers(0, 4, 60)]
    np.testing.assert_array_equal(
        times_basis(sparse.csr_array(picking), experiment, values), (values[:, :, experiment] * picking).sum(axis=-1)
    )


def test_progress_shows_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(progress_module, "DELAY", 0.0)
    shown = {}
    for kind in (Terminal, io.StringIO):
        monkeypatch.setattr(sys, "stderr", stream := kind())
        with progress(10, "log-likelihood") as bar:
            bar.update(10)
        shown[kind] = stream.getvalue()
    assert "log-likelihood" in shown[Terminal]
    assert shown[io.StringIO] == ""


def test_simulated_recordings_have_the_covariance_of_the_likelihood() -> None:
    """Of white and autocorrelated noise, errors of scores and truncation, each standard normal number has a column."""
    problem = problem_of(30, "surrogate", "autocorrelated")
    theta = draws(problem, 1)
    at = {name: np.repeat(values, problem.data_model.latent_count + 1) for name, values in theta.items()}
    u, phi = problem.unit_inputs(at), problem.noise.phi(at, (problem.data_model.latent_count + 1,))
    eta = np.vstack([np.zeros(problem.data_model.latent_count), np.eye(problem.data_model.latent_count)])
    y = latent_draws(problem.data_model, u, phi, np.random.default_rng(0), eta)
    root = y[1:] - y[0]
    _, _, (mean, *_), (wanted, *_) = data_moments(problem, theta)
    np.testing.assert_allclose(y[0], mean[0], atol=1e-12)
    white = np.diag(problem.noise.values(theta, (1,))[0, problem.cells.group] ** 2)
    np.testing.assert_allclose(root.T @ root, wanted[0] - white, atol=1e-9 * wanted[0].max())

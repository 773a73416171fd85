"""Residuals and misfit where errors are correlated or not normal: few false alarms, and what has to be seen is."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr
from calibration.problems import given_surrogate
from scipy.stats import binom

import uqms as uq
from uqms.calibration.misfit import check_misfit
from uqms.calibration.verdict import _share, check_residuals, fisher_information
from uqms.diagnostics import ImportanceSampler, TemperedSampler
from uqms.surrogates import GaussianProcessSurrogate, Layout
from uqms.surrogates.outputs import OutputBasis
from uqms.surrogates.transforms import IDENTITY, Transform

T = 32
TIMES = np.arange(T, dtype=float)
HALF = uq.HalfNormal(0.5)
WEIGHTED = ImportanceSampler(particles=100, proposals=300)


def curve(transform: Transform = IDENTITY) -> GaussianProcessSurrogate:
    """Return a surrogate of a smooth curve in theta, surer of itself than any noise here."""
    x = np.linspace(0.0, 1.0, 9)[:, None]
    scores = np.column_stack([np.sin(2.0 * x[:, 0]), x[:, 0] ** 2])
    plain = given_surrogate(
        x,
        scores,
        ell=0.8,
        basis=np.column_stack([2.0 * np.cos(0.3 * TIMES), 1.0 + 0.05 * TIMES]),
        truncation=np.full((T, 1), 0.02),
        offset=np.full(T, 1.0),
    )
    (old,) = plain.bases
    layout = Layout(("t",), {"t": TIMES}, transform=transform)
    output = OutputBasis("y", layout, old.offset, old.basis, old.truncation, np.zeros(T - 1), np.zeros((9, 1)))
    return GaussianProcessSurrogate(plain.domain, plain.process, (output,), plain.attrs)


def calibration(noise: Any, discrepancy: Any = None, transform: Transform = IDENTITY) -> uq.Calibration:
    stand_in = np.round(3.0 + np.cos(0.3 * TIMES))
    data = xr.DataArray(stand_in, dims="t", coords={"t": TIMES}, name="y")
    return uq.Calibration(curve(transform), data, noise, discrepancy=discrepancy)


def checked(problem: uq.Calibration, rng: np.random.Generator) -> tuple[str, str, float]:
    """Return the status of the residuals' and the misfit's check, and the largest share of the surrogate's error."""
    sampler = TemperedSampler(particles=200, moves=20) if problem.latents else WEIGHTED
    few = sampler.draw(problem, 60, rng)
    h = np.zeros(60, dtype=np.int64)
    information = fisher_information(problem, few.theta, h)
    residuals = check_residuals(problem, few.theta, few.latents)[0]
    misfit = check_misfit(problem, few.theta, few.latents, h, information)
    return residuals.status, misfit.status, float(_share(problem, few.theta, h).max())


OWN: dict[str, Callable[[], uq.Calibration]] = {
    "GP discrepancy": lambda: calibration(uq.GaussianNoise(0.3), uq.GPDiscrepancy(sd=HALF)),
    "autocorrelated": lambda: calibration(uq.AutocorrelatedNoise(HALF, uq.LogNormal(3.0, 0.4), 0.3)),
    "Poisson": lambda: calibration(uq.PoissonNoise(), transform=uq.Log()),
    "Student t": lambda: calibration(uq.StudentTNoise(0.3)),
}
REPEATS = 15


@pytest.mark.slow
@pytest.mark.parametrize("name", list(OWN))
def test_data_of_the_model_itself_raise_few_alarms(name: str) -> None:
    problem, rng = OWN[name](), np.random.default_rng(1)
    assert problem.data_model.form == ("latent" if name in ("Poisson", "Student t") else "correlated")
    found = []
    for generator in rng.spawn(REPEATS):
        truth = problem.prior_draws(1, generator)
        other = problem.with_values(problem.simulate(truth, generator)[0])
        found.append(checked(other, generator))
    for i, level in ((0, 0.01), (1, 0.006)):
        assert sum(row[i] == "warn" for row in found) <= binom(REPEATS, level).ppf(0.999), (name, i)
    assert all(0.0 <= row[2] < 0.5 for row in found)  # the surrogate is nearly exact


def drifting(rng: np.random.Generator) -> np.ndarray:
    """Return data whose errors resemble their predecessors: correlation 0.8 from one time to the next."""
    error = 0.6 * rng.standard_normal(T)
    for i in range(1, T):
        error[i] = 0.8 * error[i - 1] + 0.6 * error[i]
    theta = 0.3 + 0.4 * rng.random()
    mean = 1.0 + 2.0 * np.cos(0.3 * TIMES) * np.sin(2.0 * theta) + (1.0 + 0.05 * TIMES) * theta**2
    return mean + error + 0.05 * rng.standard_normal(T)


@pytest.mark.slow
def test_drifting_errors_are_seen_with_independent_noise_alone() -> None:
    models = {
        "independent": calibration(uq.GaussianNoise(HALF)),
        "long tails": calibration(uq.StudentTNoise(HALF)),
        "autocorrelated": calibration(uq.AutocorrelatedNoise(HALF, uq.LogNormal(5.0, 0.5), uq.HalfNormal(0.1))),
        "discrepancy": calibration(uq.GaussianNoise(uq.HalfNormal(0.3)), uq.GPDiscrepancy(sd=HALF)),
    }
    repeats, alarms = 8, dict.fromkeys(models, 0)
    for seed in range(1, repeats + 1):
        rng = np.random.default_rng(seed)
        values = drifting(rng)
        for name, problem in models.items():
            if name == "long tails" and seed > 4:
                continue
            alarms[name] += checked(problem.with_values(values), rng)[0] == "warn"
    assert alarms["independent"] >= 0.6 * repeats, alarms
    assert alarms["long tails"] >= 2, alarms
    assert alarms["autocorrelated"] <= 1, alarms
    assert alarms["discrepancy"] <= 1, alarms


@pytest.mark.filterwarnings("ignore::uqms.errors.PriorConflictWarning")  # the data lie in the prior's tail
def test_known_noise_that_is_too_small_is_a_misfit() -> None:
    """Noise said to be a third of what it is, with a discrepancy that is too small to make up for it."""
    discrepancy = uq.GPDiscrepancy(sd=0.05, length=3.0)
    right = calibration(uq.GaussianNoise(0.3), discrepancy)
    small = calibration(uq.GaussianNoise(0.1), discrepancy)
    rng = np.random.default_rng(2)
    values = right.simulate({"theta": np.array([0.5])}, rng)[0]
    assert checked(right.with_values(values), rng)[1] == "pass"
    assert checked(small.with_values(values), rng)[1] == "warn"


def test_counts_that_scatter_more_than_poisson_are_a_misfit() -> None:
    poisson = calibration(uq.PoissonNoise(), transform=uq.Log())
    wide = calibration(uq.NegativeBinomialNoise(1.0), transform=uq.Log())
    rng = np.random.default_rng(3)
    values = wide.simulate({"theta": np.array([0.7])}, rng)[0]
    assert checked(poisson.with_values(values), rng)[1] == "warn"
    assert checked(wide.with_values(values), rng)[1] == "pass"

"""Equally spaced series of autocorrelated noise by their spectrum, against dense matrices and against the filter."""

import numba
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import uqms as uq
from uqms._typing import Array
from uqms.calibration import _gaussian
from uqms.calibration._spectral import spectral_grams, spectral_grams_reverse
from uqms.calibration.gaussian import reduced
from uqms.calibration.spectral import spectra

SD, LENGTH, WHITE, OTHER = range(4)  # places in phi
K, Q, T, GAP = 2, 2, 1, 0.02


@numba.njit
def grams_at(series: Array, phi: Array, mean: Array, t: int) -> tuple[float, Array]:
    size = mean.shape[1] + t + 1
    grams = np.empty((mean.shape[0], size, size))
    return spectral_grams(series, phi, mean, t, grams), grams


@numba.njit
def slope_at(series: Array, phi: Array, mean: Array, t: int, grams_bar: Array) -> Array:
    phi_bar = np.zeros(len(phi))
    spectral_grams_reverse(series, phi, mean, t, grams_bar, phi_bar)
    return phi_bar


class Rows:
    """Two series of input 0, one of input 1, and rows with independent noise of both; the noise by dense matrices."""

    def __init__(self) -> None:
        rng = np.random.default_rng(4)
        sizes = (500, 401, 700, 90, 30)
        self.series = np.repeat(np.arange(5), sizes)
        self.inputs = np.repeat([0, 0, 1, 0, 1], sizes)
        self.amplitude = np.repeat([SD, SD, SD, -1, -1], sizes)
        self.length = np.repeat([LENGTH, LENGTH, LENGTH, -1, -1], sizes)
        self.group = np.repeat([WHITE, WHITE, WHITE, OTHER, OTHER], sizes)
        self.weight = np.repeat([1.0, 2.0, 1.0, 3.0, 1.0], sizes)
        self.weight[-10:] = 2.0
        gaps = np.repeat([GAP, 3.0 * GAP, GAP, 0.0, 0.0], sizes)
        self.fresh = np.diff(self.series, prepend=-1) != 0
        self.gap = np.where(self.fresh, 0.0, gaps)
        along = np.linspace(0.0, 1.0, len(gaps))
        smooth = np.column_stack([np.cos(3.0 * along), np.exp(along), np.sin(20.0 * along)])
        self.columns = np.column_stack([smooth, 30.0 * smooth[:, 0] + rng.standard_normal(len(gaps))])
        self.numbers = spectra(
            self.columns, Q, self.series, self.gap, self.inputs, self.amplitude, self.length, self.group, self.weight
        )

    def dense(self, phi: Array, mean: Array) -> tuple[float, Array]:
        """Return log|R| and the products of whitened rows."""
        log_det, grams = 0.0, np.zeros((K, Q + T + 1, Q + T + 1))
        for one in range(5):
            at = self.series == one
            R = np.diag(phi[self.group[at]] ** 2 / self.weight[at])
            if self.amplitude[at][0] >= 0:
                place = np.cumsum(self.gap[at])
                R += phi[SD] ** 2 * np.exp(-abs(place[:, None] - place) / phi[LENGTH])
            k = self.inputs[at][0]
            X = self.columns[at].copy()
            X[:, -1] -= X[:, :Q] @ mean[k]
            grams[k] += X.T @ np.linalg.solve(R, X)
            log_det += float(np.linalg.slogdet(R)[1])
        return log_det, grams


ROWS = Rows()
MEAN = np.array([[29.0, 0.1], [30.5, -0.2]])
PHI = [
    np.array([0.5, 0.3, 0.4, 0.7]),
    np.array([0.01, 0.3, 0.4, 0.7]),  # next to no process
    np.array([0.5, 0.3, 0.001, 0.7]),  # next to no independent noise
    np.array([0.5, 40.0, 0.4, 0.7]),  # longer than the recording
    np.array([0.5, 1e-4, 0.4, 0.7]),  # shorter than a gap
]


@pytest.mark.parametrize("phi", PHI, ids=str)
def test_products_and_determinant_are_those_of_dense_matrices(phi: Array) -> None:
    assert ROWS.numbers is not None
    log_det, grams = ROWS.dense(phi, MEAN)
    found, products = grams_at(ROWS.numbers, phi, MEAN, T)
    assert found == pytest.approx(log_det, rel=1e-11)
    scale = np.sqrt(np.einsum("kii->ki", grams))
    np.testing.assert_allclose(
        products / (scale[:, :, None] * scale[:, None]), grams / (scale[:, :, None] * scale[:, None]), atol=1e-11
    )


@pytest.mark.parametrize("phi", PHI, ids=str)
def test_slopes_are_differences_of_dense_matrices(phi: Array) -> None:
    rng = np.random.default_rng(1)
    bar = rng.standard_normal((K, Q + T + 1, Q + T + 1))
    bar += bar.swapaxes(1, 2)

    def value(phi: Array) -> float:
        log_det, grams = ROWS.dense(phi, MEAN)
        return float(np.sum(bar * grams)) - 0.5 * log_det

    found = slope_at(ROWS.numbers, phi, MEAN, T, bar) * phi
    steps = 1e-4 * phi * np.eye(len(phi))
    one, two = (
        np.array([value(phi + h * step) - value(phi - h * step) for step in steps]) / (2e-4 * h) for h in (1.0, 2.0)
    )
    wanted = (4.0 * one - two) / 3.0
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-8 * abs(wanted).max())


def test_unequal_gaps_and_short_series_have_no_spectrum() -> None:
    def numbers(take: slice, gap: Array) -> Array | None:
        rows = (ROWS.inputs, ROWS.amplitude, ROWS.length, ROWS.group, ROWS.weight)
        inputs, *others = (one[take] for one in rows)
        return spectra(ROWS.columns[take], Q, ROWS.series[take], gap[take], inputs, *others)

    assert numbers(slice(0, 500), ROWS.gap) is not None
    assert numbers(slice(0, 100), ROWS.gap) is None
    moved = ROWS.gap.copy()
    moved[250] *= 1.0 + 1e-6
    assert numbers(slice(0, 500), moved) is None


def calibration(times: Array, sd: float | uq.Prior) -> uq.Calibration:
    """Return two recordings, one of each dose, and two values of another output with independent noise."""
    space = uq.ParameterSpace(
        rate=uq.LogNormal(median=2.0, sigma=0.2),
        frequency=uq.LogNormal(median=6.0, sigma=0.1),
        conditions={"dose": uq.Condition(0.5, 2.0)},
    )
    design = uq.sobol(space, 40, rng=1)
    rate, frequency, dose = (design[name].values[:, None] for name in ("rate", "frequency", "dose"))
    curves = dose * np.exp(-rate * times) * np.cos(frequency * times)
    table = {
        "current": xr.DataArray(curves, dims=("run", "time"), coords={"time": times}),
        "level": xr.DataArray((rate * frequency * dose)[:, 0], dims="run"),
    }
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(uq.ensemble.build(design, table))
    rng = np.random.default_rng(2)
    truth = np.exp(-2.2 * times) * np.cos(5.8 * times)
    recordings = pd.concat(
        pd.DataFrame({"time": times, "dose": d, "y": d * truth + 0.05 * rng.standard_normal(len(times))})
        for d in (0.8, 1.5)
    )
    levels = pd.DataFrame({"dose": [0.8, 1.5], "y": [10.0, 19.5]})
    read = uq.Observations.from_table
    data = uq.Observations.concat(
        [
            read(recordings, output="current", value="y", coords={"time": "time"}, conditions=["dose"]),
            read(levels, output="level", value="y", conditions=["dose"]),
        ]
    )
    noise = {
        "current": uq.AutocorrelatedNoise(sd=uq.HalfNormal(0.1), length=uq.Gamma(4.0, 40.0), white=sd),
        "level": uq.GaussianNoise(sd=0.3),
    }
    return uq.Calibration(surrogate, data, noise=noise)


@pytest.mark.parametrize("sd", [0.05, uq.HalfNormal(0.1)], ids=["known", "unknown"])
def test_a_recording_has_the_same_likelihood_as_through_the_filter(sd: float | uq.Prior) -> None:
    problem = calibration(np.linspace(0.0, 2.0, 800), sd)
    whole = problem.data_model.gaussian
    few = reduced(problem.cells, problem.noise, problem.condition_names)
    assert few is not None
    assert (few.rows, len(few.field("spectra")) > 0) == (0, True)
    assert problem.data_model.fewest.sizes == few.sizes
    theta = {name: values[:3] for name, values in problem.prior_draws(3, 1).items()}
    parts, _ = problem.data_model.parts(problem.unit_inputs(theta))
    phi = problem.noise.phi(theta, (3,))
    for at in range(3):
        one, other = (
            _gaussian.gaussian_at(
                likelihood.data,
                parts[0][at],
                phi[at],
                likelihood.field("value").copy(),
                likelihood.field("squares").copy(),
                _gaussian.SLOPES,
            )
            for likelihood in (whole, few)
        )
        assert other[0] == pytest.approx(one[0], rel=1e-11)
        for i in (1, 2):
            np.testing.assert_allclose(other[i], one[i], rtol=1e-9, atol=1e-10 * abs(one[i]).max())


def test_a_recording_with_unequal_steps_keeps_its_rows() -> None:
    times = np.linspace(0.0, 2.0, 800)
    times[400] += 1e-4
    problem = calibration(times, 0.05)
    assert reduced(problem.cells, problem.noise, problem.condition_names) is None
    assert problem.data_model.fewest.rows == 1602

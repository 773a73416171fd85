"""Learning curves against fits by hand, a known rate, and pure noise."""

import numpy as np
import pytest
import xarray as xr

import uqms as uq
from uqms.surrogates.learning import _rate, _words


def runs_of(n: int, values: np.ndarray | None = None) -> xr.Dataset:
    space = uq.ParameterSpace(k=uq.Uniform(0.0, 6.0))
    design = uq.sobol(space, n, rng=1)
    return uq.ensemble.build(design, {"y": np.abs(np.sin(design["k"].values)) if values is None else values})


def test_every_run_is_predicted_from_nested_subsets_of_other_folds() -> None:
    runs = runs_of(24)
    settings = uq.GaussianProcess(hyperparameters="point")
    curve = uq.learning_curve(settings, runs, sizes=[6, 18], rng=3)
    # With three quarters of the runs it is four-fold validation.
    folds = uq.k_fold(settings, runs, k=4, rng=3)
    for column in ("rmse", "q2", "log_score", "coverage_95%"):
        assert curve.table.loc[("y", 18), column] == pytest.approx(folds.table.loc["y", column], rel=1e-6)
    assert curve.table.loc[("y", 6), "rmse"] > curve.table.loc[("y", 18), "rmse"]
    again = uq.learning_curve(settings, runs, sizes=[18, 6], rng=3)
    np.testing.assert_array_equal(curve.table["rmse"], again.table["rmse"])


def test_the_rate_is_the_slope_of_the_logs() -> None:
    """Errors of exactly 3 n^-1.5, with another constant in each fold: halved by 2^(1/1.5) times the runs."""

    class Given:
        def __init__(self, size: int) -> None:
            error = 3.0 * size**-1.5 * np.repeat([1.0, 2.0, 3.0, 4.0], 10)
            self.observed, self.mean = (
                {"y": xr.DataArray(error, dims="run")},
                {"y": xr.DataArray(0 * error, dims="run")},
            )

    folds = [np.arange(10 * i, 10 * i + 10) for i in range(4)]
    rate = _rate("y", {size: Given(size) for size in (5, 10, 30)}, folds, np.zeros(40))  # type: ignore[misc]
    assert rate["exponent"] == pytest.approx(1.5)
    assert rate["standard_error"] == pytest.approx(0.0, abs=1e-12)
    assert rate["runs_to_halve"] == np.ceil(40 * 2 ** (1 / 1.5))


def test_words_say_how_many_runs_or_that_more_do_not_help() -> None:
    falling = uq.learning_curve(uq.GaussianProcess(hyperparameters="point"), runs_of(64), rng=1)
    assert "would halve the error" in str(falling)
    assert falling.rates.loc["y", "runs_to_halve"] > 64
    noise = np.random.default_rng(1).standard_normal(96)
    flat = uq.learning_curve(uq.GaussianProcess(noise="fitted", hyperparameters="point"), runs_of(96, noise), rng=1)
    assert np.isnan(flat.rates.loc["y", "runs_to_halve"])
    assert "would halve" not in str(flat)


@pytest.mark.parametrize("sizes", [[6], [6, 6], [6, 19], [6, 7.5], []])
def test_sizes_that_cannot_be_are_refused(sizes: list[int]) -> None:
    with pytest.raises(uq.errors.InputError, match="at most 18 of the 24 runs"):
        uq.learning_curve(uq.GaussianProcess(), runs_of(24), sizes=sizes)


def test_replicates_stay_together_and_noise_is_not_halved() -> None:
    """A straight line and a noise of sd 0.1: nothing else is left of the error, however many runs."""
    rng, k = np.random.default_rng(1), np.repeat(np.linspace(0.0, 6.0, 24), 5)
    runs = uq.ensemble.build({"k": k}, {"y": 0.3 * k + 0.1 * rng.standard_normal(120)})
    fits = []

    class Kept:
        def fit(self, ensemble: xr.Dataset) -> uq.surrogates.GaussianProcessSurrogate:
            fits.append(np.unique(ensemble["k"].values, return_counts=True)[1])
            return uq.GaussianProcess(noise="heteroscedastic", hyperparameters="point").fit(ensemble)

    curve = uq.learning_curve(Kept(), runs, sizes=[42, 90], rng=1)
    assert [len(counts) for counts in fits] == [8] * 4 + [18] * 4
    assert all((counts == 5).all() for counts in fits)
    rate = curve.rates.loc["y"]
    assert rate["noise"] == pytest.approx(0.1, rel=0.15)
    assert np.isnan(rate["runs_to_halve"])
    assert f"what is left is the noise of single runs (sd {rate['noise']:.3g})" in str(curve)


def test_the_rate_is_that_of_the_error_beyond_the_noise() -> None:
    class Given:
        def __init__(self, size: int) -> None:
            error = np.sqrt((3.0 * size**-1.5 * np.repeat([1.0, 2.0, 3.0, 4.0], 10)) ** 2 + 0.02**2)
            self.observed = {"y": xr.DataArray(error, dims="run")}
            self.mean = {"y": xr.DataArray(0 * error, dims="run")}

    folds = [np.arange(10 * i, 10 * i + 10) for i in range(4)]
    rate = _rate("y", {size: Given(size) for size in (5, 10, 30)}, folds, np.full(40, 0.02**2))  # type: ignore[misc]
    assert rate["exponent"] == pytest.approx(1.5)
    assert rate["runs_to_halve"] == np.ceil(40 * 2 ** (1 / 1.5))
    assert "beyond the noise of single runs (sd 0.02) it falls as n^-1.50" in _words(rate)

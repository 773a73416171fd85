"""Models of scikit-learn behind the protocol: a Gaussian process passes, a regression is refused for several inputs."""

from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern
from sklearn.linear_model import BayesianRidge
from sklearn.preprocessing import PolynomialFeatures

import uqms as uq
from uqms.calibration.predict import conditional_moments, make_grid
from uqms.errors import ConformanceError, InputError
from uqms.surrogates import Decoder, Layout, Scores, draws_from_scores, reverse_by_differences
from uqms.surrogates.plugging import ScoreDraws
from uqms.testing import check_surrogate

SPACE = uq.ParameterSpace(k=uq.LogNormal(1.0, 0.5), conditions={"dose": uq.Condition(1.0, 3.0)})


class Regression:
    """A scikit-learn model of one scalar output, trained on inputs in the unit cube."""

    def __init__(self, model: Any, domain: uq.Box) -> None:
        self.model, self.domain, self.layouts = model, domain, {"peak": Layout(unit="mg/L")}

    def at(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean (k,) and covariance (k, k) at inputs (k, d)."""
        mean, covariance = self.model.predict(u, return_cov=True)
        return mean, covariance

    def scores(self, u: np.ndarray) -> Scores:
        u = np.asarray(u, dtype=float)
        *batch, k, d = u.shape
        found = [self.at(one) for one in u.reshape(-1, k, d)]
        mean = np.reshape([mean for mean, _ in found], (1, *batch, k, 1))
        covariance = np.reshape([covariance for _, covariance in found], (1, *batch, 1, k, k))
        return Scores(mean, covariance, np.zeros(1))

    def scores_reverse(self, u: np.ndarray, mean_bar: np.ndarray, covariance_bar: np.ndarray) -> np.ndarray:
        return reverse_by_differences(self.scores, u, mean_bar, covariance_bar)

    def decode(self, output: str, coords: object = None) -> Decoder:
        if output not in self.layouts:
            raise InputError(f"There is no output {output!r}.")
        return Decoder(np.zeros(1), np.ones((1, 1)), np.zeros((1, 0)))

    def functions(self, n: int, rng: Any) -> ScoreDraws:
        return draws_from_scores(self, n, rng, anchors=64)


class Polynomial(Regression):
    """A polynomial chaos: it knows how large its error is at an input, and nothing of errors between inputs."""

    def at(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, sd = self.model.predict(PolynomialFeatures(3).fit_transform(u), return_std=True)
        return mean, np.where(np.eye(len(u), dtype=bool), sd**2, np.nan)


class Independent(Polynomial):
    """The same with what one writes without thinking of it: errors that are independent between inputs."""

    def at(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, covariance = super().at(u)
        return mean, np.nan_to_num(covariance)


class Identical(Independent):
    """The same with one error at one input, and independent ones at all others."""

    def at(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, covariance = super().at(u)
        return mean, np.diagonal(covariance) * (u[:, None] == u).all(axis=2)


@pytest.fixture(scope="module")
def training() -> tuple[uq.Box, np.ndarray, np.ndarray]:
    design = uq.sobol(SPACE, 14, rng=1)
    box = uq.ensemble.get_box(design)
    u = box.to_unit(uq.ensemble.input_array(design, box.names))
    return box, u, np.sin(3.0 * u[:, 0]) + u[:, 1] ** 2 * u[:, 0]


@pytest.fixture(scope="module")
def process(training: tuple[uq.Box, np.ndarray, np.ndarray]) -> Regression:
    box, u, y = training
    kernel = ConstantKernel(1.0) * Matern([0.5, 0.8], nu=2.5)
    model = GaussianProcessRegressor(kernel, n_restarts_optimizer=2, random_state=1, normalize_y=True)
    return Regression(model.fit(u, y), box)


@pytest.fixture(scope="module")
def polynomial(training: tuple[uq.Box, np.ndarray, np.ndarray]) -> BayesianRidge:
    _, u, y = training
    return BayesianRidge().fit(PolynomialFeatures(3).fit_transform(u), y)


def measured(doses: list[float]) -> uq.Observations:
    values = xr.DataArray(0.9 + 0.1 * np.arange(len(doses)), dims="experiment", name="peak")
    return uq.Observations.from_xarray(values.assign_coords(dose=("experiment", doses)), conditions=("dose",))


NOISE = uq.GaussianNoise(sd=0.05)


def test_a_gaussian_process_of_scikit_learn_passes(process: Regression) -> None:
    report = check_surrogate(process)
    print(report)
    assert report.ok


def test_its_calibration_is_the_formula(process: Regression) -> None:
    problem = uq.Calibration(process, measured([1.2, 1.3, 2.5]), NOISE, space=SPACE)
    k = np.array([0.7, 1.4])
    for one, found in zip(k, problem.log_likelihood({"k": k}), strict=True):
        u = process.domain.to_unit(np.column_stack([np.full(3, one), [1.2, 1.3, 2.5]]))
        mean, covariance = process.model.predict(u, return_cov=True)
        expected = multivariate_normal(mean, covariance + 0.05**2 * np.eye(3)).logpdf([0.9, 1.0, 1.1])
        assert found == pytest.approx(expected, rel=1e-8)


def test_unknown_covariances_serve_one_experiment(polynomial: BayesianRidge, process: Regression) -> None:
    surrogate = Polynomial(polynomial, process.domain)
    report = check_surrogate(surrogate)
    print(report)
    assert report.failed == ("known between inputs",)
    assert report.one_experiment
    problem = uq.Calibration(surrogate, measured([1.2]), NOISE, space=SPACE)
    mean, sd = polynomial.predict(
        PolynomialFeatures(3).fit_transform(process.domain.to_unit([[0.7, 1.2]])), return_std=True
    )
    expected = multivariate_normal(mean, sd**2 + 0.05**2).logpdf(0.9)
    assert problem.log_likelihood({"k": 0.7}) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(
    ("kind", "failed", "reason"),
    [
        (Polynomial, "known between inputs", "does not know the covariance"),
        (Independent, "same input", "one and the same input are independent"),
        (Identical, "near inputs", "next to each other are independent"),
    ],
)
def test_several_experiments_are_refused_with_the_reason(
    kind: type[Regression], failed: str, reason: str, polynomial: BayesianRidge, process: Regression
) -> None:
    surrogate = kind(polynomial, process.domain)
    assert failed in check_surrogate(surrogate).failed
    with pytest.raises(ConformanceError, match=f"several experiments.*{kind.__name__}.*{reason}"):
        uq.Calibration(surrogate, measured([1.2, 2.5]), NOISE, space=SPACE)


def test_prediction_at_another_condition_is_refused_too(polynomial: BayesianRidge, process: Regression) -> None:
    theta, h = {"k": np.array([0.7, 1.4])}, np.zeros(2, dtype=np.int64)
    problem = uq.Calibration(Polynomial(polynomial, process.domain), measured([1.2]), NOISE, space=SPACE)
    observed, other = (make_grid(problem.data_model, "peak", {"dose": dose}, None).targets for dose in (1.2, 2.0))
    with pytest.raises(ConformanceError, match="other conditions.*does not know"):
        next(conditional_moments(problem, theta, h, other))
    _, moments = next(conditional_moments(problem, theta, h, observed))
    u = process.domain.to_unit(np.column_stack([theta["k"], [1.2, 1.2]]))
    mean, sd = polynomial.predict(PolynomialFeatures(3).fit_transform(u), return_std=True)
    share = sd**2 / (sd**2 + 0.05**2)
    np.testing.assert_allclose(moments.mean[:, 0], mean + share * (0.9 - mean), rtol=1e-8)
    np.testing.assert_allclose(moments.covariance[:, 0, 0], sd**2 * (1.0 - share), rtol=1e-8)


@pytest.mark.parametrize("length", [1e-3, 1e-2, 1.0])
def test_honest_zeros_between_far_inputs_are_not_refused(length: float, training: Any) -> None:
    box, u, y = training
    kernel = Matern([length, length], nu=2.5)
    surrogate = Regression(GaussianProcessRegressor(kernel, optimizer=None).fit(u, y), box)
    problem = uq.Calibration(surrogate, measured([1.2, 2.5]), NOISE, space=SPACE)
    off = surrogate.scores(problem.unit_inputs({"k": np.array(1.0)})).covariance[0, 0, 0, 1]
    assert (off == 0.0) == (length == 1e-3)


def test_no_draws_of_functions_without_a_joint_covariance(polynomial: BayesianRidge, process: Regression) -> None:
    with pytest.raises(ConformanceError, match="Polynomial does not know"):
        Polynomial(polynomial, process.domain).functions(3, 1)

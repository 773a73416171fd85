"""The compiled Gaussian likelihood against the density of a dense normal distribution, and its derivatives."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm

import uqms as uq
from uqms._typing import Array
from uqms.calibration import _gaussian, _process_gaussian, blocks
from uqms.calibration._gaussian import FEATURES, INDEPENDENT, OWN, SERIES, SHARED

RANK, SD, LENGTH, SCALE = 3, 2, 3, 4  # features of a score; places in phi


@dataclass
class Case:
    """Random data and parts, and the dense covariance that they stand for."""

    form: int
    structure: int
    varying: bool
    K: int
    q: int
    n: int
    t: int
    transformed: bool = False  # the surrogate is of the logarithm of some rows, the logit of others

    def __post_init__(self) -> None:
        rng = np.random.default_rng(17 * self.form + 5 * self.structure + self.varying + self.K)
        K, q, n, t, N = self.K, self.q, self.n, self.t, self.K * self.n
        self.input = np.repeat(np.arange(K), n)
        self.group = rng.integers(-1, 2, N)
        self.own, self.weight = 0.1 + 0.3 * rng.random(N), rng.integers(1, 4, N).astype(float)
        self.scale = np.where(rng.random(N) < 0.5, SCALE, -1)
        self.offset, self.basis, self.truncation = rng.normal(size=N), rng.normal(size=(N, q)), rng.normal(size=(N, t))
        self.response = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [2.0, -1.0, 3.0]])[rng.integers(0, 3, N)]
        self.y, self.count, self.squares = rng.normal(size=N), np.array([2.0, 3.0]), np.array([1.0, 0.4])
        self.phi = np.array([0.5, 0.7, 0.6, 1.3, 0.2])
        self.points, self.series = 3.0 * rng.random(N), np.full(N, -1)
        order: list[int] = []
        fresh, gap, along = [], [], []
        for k in range(K):
            rows = np.flatnonzero(self.input == k)
            half = rows[: n // 2] if self.structure == SERIES else rows[:0]
            self.series[half] = k
            rows = np.concatenate([half[np.argsort(self.points[half])], np.setdiff1d(rows, half)])
            inside = np.isin(rows, half)
            first = ~inside | (np.arange(n) == 0)
            order += rows.tolist()
            fresh += first.tolist()
            gap += np.where(first, 0.0, np.diff(self.points[rows], prepend=0.0)).tolist()
            along += inside.tolist()
        mean = rng.normal(size=(K, q))
        variance = rng.random((K, q))
        variance[0, 0] = 0.0
        root = rng.normal(size=(K * q, K * q)) / 3.0
        parts = {
            OWN: [mean, variance],
            SHARED: [mean, root @ root.T],
            FEATURES: [mean, variance, *rng.normal(size=(q, K, RANK))],
        }[self.form] + ([self.offset, self.basis, self.truncation] if self.varying else [])
        self.parts = np.concatenate([np.ravel(part) for part in parts])
        fixed: list[Any] = [[], [], []] if self.varying else [self.offset, self.basis, self.truncation]
        along_places = np.array(along)
        self.data = blocks.pack(
            blocks.Data(
                [K, q, N, t, 2, len(self.phi), 0, 0, self.form, self.structure, self.varying],
                [0.3],
                self.count,
                self.squares,
                np.arange(K + 1) * n,
                self.y,
                self.own,
                self.weight,
                self.group,
                self.scale,
                *fixed,
                np.full(q, RANK) if self.form == FEATURES else [],
                order,
                fresh,
                gap,
                np.where(along_places, SD, -1),
                np.where(along_places, LENGTH, -1),
                [],
                [],
                [],
                self.response if self.transformed else [],
            )
        )

    def dense(self, parts: Array, phi: Array) -> tuple[float, Array, Array]:
        """Return log-density, C^-1 residual and diag C^-1 from the whole covariance."""
        K, q, t, N = self.K, self.q, self.t, len(self.y)
        taken = 0

        def take(*shape: int) -> Array:
            nonlocal taken
            size = int(np.prod(shape))
            taken += size
            return parts[taken - size : taken].reshape(shape)

        mean = take(K * q)
        S = np.diag(take(K * q)) if self.form != SHARED else take(K * q, K * q)
        if self.form == FEATURES:
            for j in range(q):
                phi_j = take(K, RANK)
                S[j::q, j::q] += phi_j @ phi_j.T
        offset, basis, truncation = self.offset, self.basis, self.truncation
        if self.varying:
            offset, basis, truncation = take(N), take(N, q), take(N, t)
        G = np.zeros((N, K, q))
        G[np.arange(N), self.input] = basis
        G = G.reshape(N, K * q)
        same = self.input[:, None] == self.input
        m = np.where(self.scale >= 0, 1.0 + phi[SCALE], 1.0)
        s = m * (offset + G @ mean)
        f, slope = self.respond(s)
        left = (slope * m)[:, None]
        C = left * (G @ (0.5 * (S + S.T)) @ G.T + same * (truncation @ truncation.T)) * left.T
        C += np.diag(self.own + np.where(self.group >= 0, phi[self.group] ** 2 / self.weight, 0.0))
        together = (self.series[:, None] == self.series) & (self.series >= 0)
        C += together * phi[SD] ** 2 * np.exp(-np.abs(self.points[:, None] - self.points) / phi[LENGTH])
        residual = self.y - f
        inverse = np.linalg.inv(C)
        value = 0.3 - np.sum(self.count * np.log(phi[:2]) + 0.5 * self.squares / phi[:2] ** 2)
        value -= 0.5 * (np.linalg.slogdet(C)[1] + residual @ inverse @ residual)
        return float(value), inverse @ residual, np.diag(inverse)

    def respond(self, s: Array) -> tuple[Array, Array]:
        """Return the rows in the unit of the noise, and their slopes."""
        if not self.transformed:
            return s, np.ones_like(s)
        kind, low, high = self.response.T

        def f(s: Array) -> Array:  # also at complex arguments, whose imaginary part is an exact derivative
            return np.where(kind == 2, low + (high - low) / (1.0 + np.exp(-s)), np.where(kind == 1, np.exp(s), s))

        step = 1e-20j
        return f(s), np.imag(f(s + step)) / step.imag

    def slope(self, parts: Array, phi: Array, step: float = 1e-6) -> tuple[Array, Array]:
        """Return central differences of the dense log-density by parts and phi."""
        by_parts = [
            (self.dense(parts + h, phi)[0] - self.dense(parts - h, phi)[0]) / (2.0 * step)
            for h in step * np.eye(len(parts))
        ]
        by_phi = [
            (self.dense(parts, phi + h)[0] - self.dense(parts, phi - h)[0]) / (2.0 * step)
            for h in step * np.eye(len(phi))
        ]
        return np.array(by_parts), np.array(by_phi)


CASES = [
    Case(OWN, INDEPENDENT, False, K=1, q=3, n=4, t=0),
    Case(OWN, INDEPENDENT, True, K=1, q=3, n=5, t=2),
    Case(OWN, SERIES, False, K=2, q=2, n=7, t=1),
    Case(SHARED, INDEPENDENT, False, K=3, q=2, n=5, t=2),
    Case(SHARED, SERIES, True, K=3, q=2, n=7, t=2),
    Case(FEATURES, INDEPENDENT, True, K=4, q=3, n=6, t=2),
    Case(FEATURES, SERIES, False, K=4, q=2, n=6, t=1),
    Case(OWN, INDEPENDENT, False, K=1, q=3, n=9, t=2, transformed=True),
    Case(SHARED, SERIES, True, K=3, q=2, n=7, t=2, transformed=True),
    Case(FEATURES, INDEPENDENT, False, K=4, q=2, n=6, t=1, transformed=True),
    Case(SHARED, SERIES, False, K=2, q=3, n=200, t=2),  # more rows of an input than products without BLAS are for
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_residuals_and_precisions_are_those_of_the_dense_covariance(case: Case) -> None:
    value, weighted, precision = case.dense(case.parts, case.phi)
    found = _gaussian.gaussian_at(case.data, case.parts, case.phi, case.y, case.squares, _gaussian.PRECISIONS)
    assert found[0] == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(found[3], weighted, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(found[4], precision, rtol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_slopes_are_differences_of_the_dense_density(case: Case) -> None:
    by_parts, by_phi = case.slope(case.parts, case.phi)
    _, parts_bar, phi_bar, weighted, _ = _gaussian.gaussian_at(
        case.data, case.parts, case.phi, case.y, case.squares, _gaussian.SLOPES
    )
    if case.form != SHARED:
        by_parts[case.K * case.q] = 0.0  # a variance that is zero was cut off there: it has no derivative
    scale = np.abs(by_parts).max()
    np.testing.assert_allclose(parts_bar, by_parts, atol=1e-7 * scale)
    np.testing.assert_allclose(phi_bar, by_phi, atol=1e-7 * np.abs(by_phi).max())
    np.testing.assert_allclose(weighted, case.dense(case.parts, case.phi)[1], rtol=1e-9, atol=1e-10)


def test_a_batch_is_one_evaluation_after_the_other() -> None:
    case = CASES[4]
    parts = np.stack([case.parts, 1.01 * case.parts, 0.99 * case.parts])
    phi = np.stack([case.phi, case.phi, 1.1 * case.phi])
    values, weighted, precision = _gaussian.batch(
        case.data, parts, phi, case.y[None], case.squares[None], _gaussian.PRECISIONS
    )
    only, _, _ = _gaussian.batch(case.data, parts, phi, case.y[None], case.squares[None], _gaussian.VALUE)
    np.testing.assert_array_equal(only, values)
    for s in range(3):
        value, alpha, diagonal = case.dense(parts[s], phi[s])
        assert values[s] == pytest.approx(value, rel=1e-11)
        np.testing.assert_allclose(weighted[s], alpha, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(precision[s], diagonal, rtol=1e-9)


def test_a_surrogate_that_is_far_more_uncertain_than_the_noise_has_no_density() -> None:
    case = CASES[0]
    parts = case.parts.copy()
    parts[case.K * case.q + 1] = 1e15
    assert _gaussian.gaussian_at(case.data, parts, case.phi, case.y, case.squares, _gaussian.SLOPES)[0] == -np.inf


def test_data_serve_another_process(tmp_path: Path) -> None:
    """What is compiled late is found by name: data hold no address."""
    case = CASES[5]  # features are compiled when they are first called
    expected = case.dense(case.parts, case.phi)[0]
    np.savez(tmp_path / "x.npz", data=case.data, parts=case.parts, phi=case.phi, y=case.y, squares=case.squares)
    code = (
        "import sys, numpy as np; from uqms.calibration import _gaussian; x = np.load(sys.argv[1]); "
        "print(_gaussian.gaussian_at(x['data'], x['parts'], x['phi'], x['y'], x['squares'], 1)[0])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.npz")], capture_output=True, text=True, check=True
    )
    assert float(told.stdout) == pytest.approx(expected, rel=1e-10)


def test_data_of_one_output_have_the_kernel_that_its_scores_chose() -> None:
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
    design = uq.sobol(space, 64, rng=1)
    a, b = design["a"].values, design["b"].values
    rough = np.abs(a - 0.43) + np.abs(b - 0.31) ** 1.5 + 0.3 * np.abs(np.sin(9.0 * a * b))
    runs = uq.ensemble.build(
        design, {"rough": rough, "smooth": np.sin(3.0 * a) * np.exp(b) + np.cos(4.0 * a + 3.0 * b)}
    )
    surrogate = uq.GaussianProcess(scalars="independent", hyperparameters="point").fit(runs)
    assert "Matern52 (1 of 2 scores) or Matern112 (1 of 2 scores)" in repr(surrogate)
    problem = uq.Calibration(surrogate, xr.DataArray(0.9, name="smooth"), uq.GaussianNoise(sd=0.01))
    for theta in ({"a": 0.3, "b": 0.4}, {"a": 0.55, "b": 0.7}):
        u = problem.unit_inputs({name: np.array([value]) for name, value in theta.items()})[0]
        compiled = _process_gaussian.at(
            problem.data_model.block(), np.ascontiguousarray(u), np.array([0.01]), np.array([0.9])
        )[0]
        mean, sd = surrogate.predict(theta).mean["smooth"].item(), surrogate.predict(theta).sd["smooth"].item()
        assert compiled == pytest.approx(norm.logpdf(0.9, mean, np.hypot(sd, 0.01)), rel=1e-6)

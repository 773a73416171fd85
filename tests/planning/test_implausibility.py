import numpy as np
import pandas as pd
import pytest
import xarray as xr
from planning.known import drawn, known_process
from scipy.stats import chi2, kstest, norm

import uqms as uq
from uqms.errors import InputError
from uqms.planning.implausibility import Implausibility, form_tail


def observed(values, sd, conditions=None):
    """Return observations of numbers by output, at values of conditions."""
    tables = []
    for name, value in values.items():
        frame = pd.DataFrame({"v": np.atleast_1d(value), "s": sd, **(conditions or {})})
        tables.append(
            uq.Observations.from_table(frame, output=name, value="v", sd="s", conditions=list(conditions or {}))
        )
    return tables[0] if len(tables) == 1 else uq.Observations.concat(tables)


def test_a_joint_implausibility_is_that_of_the_dense_covariance():
    rng = np.random.default_rng(1)
    x, y = drawn(rng, 10, 0, 3, 0.5, 2)
    surrogate = known_process(x, y, [0.5], conditions=1)
    c = np.array([0.1, 0.15, 0.9])  # a condition, of which two values are close: their errors are alike
    table = observed({"y0": [0.3, 0.4, -0.2], "y1": [1.0, 0.9, 0.2]}, 0.2, {"c": c})
    problem = uq.Calibration(surrogate, table, uq.GaussianNoise(), discrepancy={"y1": uq.OffsetDiscrepancy(sd=0.3)})
    one = Implausibility(problem)
    points = rng.random((50, 2))
    found = one.at({"a": points[:, 0], "b": points[:, 1]}).squared

    u = np.concatenate([np.repeat(points[:, None], 3, axis=1), np.tile(c[:, None], (50, 1, 1))], axis=2)
    scores = surrogate.scores(u)
    z = np.concatenate([table.value[:3], table.value[3:]])
    expected = []
    for s in range(50):
        C = np.zeros((6, 6))
        C[:3, :3], C[3:, 3:] = scores.covariance[0, s, 0], scores.covariance[0, s, 1] + 0.3**2
        r = z - scores.mean[0, s].T.ravel()
        expected.append(r @ np.linalg.solve(C + 0.2**2 * np.eye(6), r))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    alone = [r @ r for r in (z - scores.mean[0].transpose(0, 2, 1).reshape(50, 6)) / 0.2]
    assert np.max(np.abs(found / alone - 1.0)) > 0.5  # errors matter here, so that the comparison can fail


@pytest.mark.parametrize("q", [1, 3])
def test_the_level_holds_for_several_hyperparameter_draws(q):
    rng = np.random.default_rng(2)
    x, y = drawn(rng, 7, 0, 2, 0.5, q)
    ells = [0.15, 0.4, 1.0, 2.5]
    surrogate = known_process(x, y, ells)
    at = np.array([0.92, 0.95])
    scores = surrogate.scores(at[None, None])
    weights = np.exp(scores.log_weights)
    n, sd = 20_000, 0.05
    h = rng.choice(len(ells), n, p=weights)
    mean, error = scores.mean[:, 0, 0], np.sqrt(scores.covariance[:, 0, :, 0, 0])
    assert np.ptp(mean, axis=0).max() > 3 * sd  # draws disagree
    z = mean[h] + error[h] * rng.standard_normal((n, q)) + sd * rng.standard_normal((n, q))
    names = [f"y{j}" for j in range(q)]
    problem = uq.Calibration(surrogate, observed(dict.fromkeys(names, 0.0), sd), uq.GaussianNoise())
    theta = {"a": at[:1], "b": at[1:]}
    one, found = Implausibility(problem), []
    for values in z[:1000]:
        object.__setattr__(one, "z", values)  # the frame is the whole space here, so that nothing else depends on it
        found.append(one.at(theta).squared[0])
    found = np.array(found)
    for level in (0.2, 0.05):
        beyond = np.mean(found > chi2.isf(level, q))
        assert abs(beyond - level) < 3.5 * np.sqrt(level * (1 - level) / 1000) + 0.05 * level * (q > 1)
    if q == 1:
        assert kstest(chi2.sf(found, 1), "uniform").pvalue > 1e-3
    # Planted: each draw judged by itself, and the mean of I2 over the draws taken as chi-square.
    V = scores.covariance[:, 0, :, 0, 0] + sd**2
    by_draw = np.sum((z[:, None] - mean) ** 2 / V, axis=2) @ weights
    assert np.mean(by_draw > chi2.isf(0.05, q)) > 0.1


def test_tails_of_quadratic_forms_against_draws():
    rng = np.random.default_rng(3)
    root = rng.standard_normal((4, 4)) * 0.4
    A, a = root @ root.T, np.array([0.5, -1.0, 0.2, 0.0])
    x = a + rng.standard_normal((400_000, 4)) @ root.T
    q = np.sum(x**2, axis=1) + rng.chisquare(3, len(x))
    for level in (0.2, 0.01):
        t = np.quantile(q, 1 - level)
        assert form_tail(np.array([t]), A[None, None], a[None, None], 3)[0, 0] == pytest.approx(level, rel=0.06)
    eye = np.eye(3)[None, None]
    np.testing.assert_allclose(form_tail(np.array([7.0]), eye, np.zeros((1, 1, 3)), 2), chi2.sf(7.0, 5))
    one = form_tail(np.array([4.0]), np.full((1, 1, 1, 1), 2.25), np.full((1, 1, 1), 0.7), 0)
    np.testing.assert_allclose(one, norm.sf((2.0 - 0.7) / 1.5) + norm.cdf((-2.0 - 0.7) / 1.5))
    assert form_tail(np.array([-1.0]), eye, np.zeros((1, 1, 3)), 0) == 1.0


def test_a_curve_is_judged_in_the_span_of_its_basis_without_a_loss():
    design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.5, 2.0), s=uq.Uniform(0.5, 1.5)), 16, rng=1)
    t = np.linspace(0.0, 3.0, 25)
    curves = design["s"].values[:, None] * np.exp(-design["k"].values[:, None] * t)
    runs = uq.ensemble.build(design, {"y": xr.DataArray(curves, dims=("run", "t"), coords={"t": t})})
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(runs)
    rng = np.random.default_rng(4)
    data = {"y": np.exp(-1.2 * t) + 0.02 * rng.standard_normal(25)}
    known = uq.GPDiscrepancy(sd=0.03, length=1.0)
    one = Implausibility(uq.Calibration(surrogate, data, uq.GaussianNoise(sd=0.02), discrepancy=known))
    assert one.frame is not None
    assert one.frame.shape[1] < 25
    theta = {"k": rng.uniform(0.5, 2.0, 30), "s": rng.uniform(0.5, 1.5, 30)}
    found = one.at(theta).squared
    residual, covariance, _ = one._moments(theta)
    expected = np.einsum("sa,sa->s", residual, np.linalg.solve(covariance, residual[..., None])[..., 0])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    apart = np.abs(t[:, None] - t) * np.sqrt(5.0)
    kappa = (1 + apart + apart**2 / 3) * np.exp(-apart)
    np.testing.assert_allclose(one._moments(theta)[2][0], 0.02**2 * np.eye(25) + 0.03**2 * kappa, atol=1e-12)


def test_what_the_simulator_itself_could_rule_out():
    rng = np.random.default_rng(5)
    x, y = drawn(rng, 8, 0, 2, 0.4, 2)
    surrogate = known_process(x, y, [0.4])
    problem = uq.Calibration(surrogate, observed({"y0": 0.1, "y1": 0.4}, 0.6), uq.GaussianNoise())
    at = np.array([0.5, 0.02])
    judged = Implausibility(problem).at({"a": at[:1], "b": at[1:]}, 9.0)
    scores = surrogate.scores(at[None, None])
    values = scores.mean[0, 0, 0] + np.sqrt(scores.covariance[0, 0, :, 0, 0]) * rng.standard_normal((200_000, 2))
    exact = np.mean(np.sum((np.array([0.1, 0.4]) - values) ** 2, axis=1) / 0.6**2 > 9.0)
    assert 0.02 < exact < 0.98
    assert judged.could[0] == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize(
    ("noise", "discrepancy", "word"),
    [
        (uq.GaussianNoise(sd=uq.HalfNormal(1.0)), None, "known numbers"),
        (uq.StudentTNoise(scale=0.1, df=4.0), None, "Gaussian"),
        (uq.GaussianNoise(sd=0.2), uq.OffsetDiscrepancy(), "known numbers"),
        (uq.GaussianNoise(sd=0.2), uq.ScaleDiscrepancy(), "OffsetDiscrepancy"),
    ],
)
def test_what_has_no_implausibility_is_refused(noise, discrepancy, word):
    x, y = drawn(np.random.default_rng(1), 8, 0, 2, 0.5, 1)
    with pytest.raises(InputError, match=word):
        uq.HistoryMatching(known_process(x, y, [0.5]), {"y0": 0.1}, noise, discrepancy=discrepancy)

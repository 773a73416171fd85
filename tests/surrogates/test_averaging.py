"""Averages over hyperparameters: against posteriors by quadrature, and when they are made."""

import numpy as np
import pytest
import xarray as xr
from scipy.optimize import brentq
from scipy.stats import norm

import uqms as uq
from uqms._typing import Array
from uqms.errors import InputError
from uqms.surrogates import averaging, fitting, load_surrogate
from uqms.surrogates import training as T
from uqms.surrogates.kernels import Kernel, Matern52, SquaredExponential
from uqms.surrogates.outputs import Decoder
from uqms.surrogates.prediction import Mixture, mixture
from uqms.surrogates.process import Scores, average, condition, scores_at
from uqms.surrogates.training import Hyperparameters


def problem(n: int = 10, d: int = 2, seed: int = 1, noise: float = 0.0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.random((n, d))
    y = np.sin(5.0 * x[:, 0]) + (x[:, 1] ** 2 if d > 1 else 0.0) + noise * rng.standard_normal(n)
    return x, (y - y.mean()) / y.std()


def grid_posterior(x: Array, y: Array, kernel: Kernel, steps: int) -> tuple[Array, Array]:
    """Return log length scales on a grid over eight prior sd, and their posterior weights."""
    d = x.shape[1]
    location, scale = T.prior_of(kernel, d, False)
    axis = np.linspace(-4.0, 4.0, steps)
    points = location + scale * np.stack(np.meshgrid(*[axis] * d, indexing="ij"), -1).reshape(-1, d)
    logs = np.array([T.log_posterior(p, x, y, T.trend_basis(x, 1), kernel, False) for p in points])
    weights = np.exp(logs - logs.max())
    return points, weights / weights.sum()


def drawn(x: Array, y: Array, kernel: Kernel, noisy: bool = False) -> list[Hyperparameters]:
    found = T.train(x, y, kernel, T.trend_basis(x, 1), noisy)
    points = averaging.sample(x, y, kernel, 1, noisy, found)
    return averaging.draws_of(points, len(x) - 1, noisy, 0)


@pytest.mark.parametrize("kernel", [Matern52(), SquaredExponential()])
@pytest.mark.parametrize(("d", "n"), [(1, 6), *(pytest.param(2, n, marks=pytest.mark.slow) for n in (8, 25))])
def test_the_weighted_points_have_the_moments_of_the_posterior(kernel: Kernel, d: int, n: int) -> None:
    x, y = problem(n, d)
    points, weights = grid_posterior(x, y, kernel, 2001 if d == 1 else 81)
    mean, second = weights @ points, weights @ points**2
    sd = np.sqrt(second - mean**2)
    found = averaging.sample(x, y, kernel, 1, False, T.train(x, y, kernel, T.trend_basis(x, 1), False))
    assert found.effective > 64
    own = found.weights @ found.points
    np.testing.assert_allclose((own - mean) / sd, 0.0, atol=0.1)
    np.testing.assert_allclose(np.sqrt(found.weights @ (found.points - own) ** 2) / sd, 1.0, atol=0.11)


@pytest.mark.parametrize(
    ("d", "n", "kernel"),
    [
        (1, 6, SquaredExponential()),
        pytest.param(2, 8, Matern52(), marks=pytest.mark.slow),
        pytest.param(2, 25, SquaredExponential(), marks=pytest.mark.slow),
    ],
)
def test_the_draws_predict_as_the_whole_posterior(kernel: Kernel, d: int, n: int) -> None:
    x, y = problem(n, d)
    points, weights = grid_posterior(x, y, kernel, 401 if d == 1 else 41)
    u = np.random.default_rng(5).random((40, d))
    rng = np.random.default_rng(6)
    values = np.empty((2000, len(u)))  # of the exact law: a Student t of n - 1 degrees for each length scale
    for i, k in enumerate(rng.choice(len(points), len(values), p=weights)):
        one = condition(kernel, x, y[:, None], 1, [Hyperparameters(np.exp(points[k]), 0.0, 0.0, 0.0, 0, False)])
        exact = scores_at(one, u, diagonal=True)
        values[i] = exact.mean[0, :, 0] + np.sqrt(exact.covariance[0, 0]) * rng.standard_t(n - 1, len(u))

    few = average([condition(kernel, x, y[:, None], 1, [one]) for one in drawn(x, y, kernel)])
    law = mixture(scores_at(few, u, diagonal=True), Decoder(np.zeros(1), np.eye(1), np.zeros((1, 0))))
    for mass, off in ((0.5, 0.05), (0.95, 0.02)):
        low, high = (end[:, 0] for end in law.interval(mass))
        share = np.mean((values > low) & (values < high))
        assert share == pytest.approx(mass, abs=off)


def test_the_variance_is_drawn_from_its_inverse_chi_squared() -> None:
    x, y = problem(12)
    factors = np.array([one.factor for one in drawn(x, y, Matern52())])
    # 1 / factor is chi-squared of 11 over 11: mean 1, sd sqrt(2 / 11).
    assert (1.0 / factors).mean() == pytest.approx(1.0, abs=0.03)
    assert (1.0 / factors).std() == pytest.approx(np.sqrt(2.0 / 11.0), rel=0.1)


def test_noise_is_averaged_too() -> None:
    x, y = problem(40, 2, noise=0.2)
    draws = drawn(x, y, Matern52(), noisy=True)
    sd = np.sqrt([one.nugget * one.factor for one in draws])
    assert sd.std() > 0.0
    assert all(one.nugget > 0.0 for one in draws)


def test_scores_have_draws_of_their_own_and_all_is_repeatable() -> None:
    x, y = problem()
    found = T.train(x, y, Matern52(), T.trend_basis(x, 1), False)
    points = averaging.sample(x, y, Matern52(), 1, False, found)
    first, again, other = (averaging.draws_of(points, 9, False, j) for j in (0, 0, 1))
    assert all((a.ell == b.ell).all() and a.factor == b.factor for a, b in zip(first, again, strict=True))
    ell = [np.array([one.ell for one in draws]) for draws in (first, other)]
    np.testing.assert_allclose(np.sort(ell[0], axis=0), np.sort(ell[1], axis=0), rtol=1e-12)
    assert (ell[0] != ell[1]).any()


# ------------------------------------------------------------------------------------------------------------ when
def table(n: int, d: int = 2) -> object:
    x, y = problem(n, d)
    return uq.ensemble.build({name: x[:, j] for j, name in enumerate("ab"[:d])}, {"y": y})


@pytest.mark.parametrize(("n", "draws"), [(8, 16), (40, 16)])
def test_few_runs_are_averaged(n: int, draws: int) -> None:
    fitted = uq.GaussianProcess().fit(table(n))
    assert fitted.process.draws == draws
    assert not fitted.point_estimated
    assert "16 hyperparameter draws" in repr(fitted)
    point = uq.GaussianProcess(hyperparameters="point").fit(table(n))
    assert point.process.draws == 1
    assert point.point_estimated


def test_more_runs_are_averaged_when_that_still_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = table(45)
    shares = []
    kept = averaging.between_share
    monkeypatch.setattr(averaging, "between_share", lambda *a: shares.append(kept(*a)) or shares[-1])
    auto = uq.GaussianProcess(scales="given").fit(runs)
    between, own = shares[0]
    share = between.sum() / (between + own).sum()
    assert (auto.process.draws == 16) is bool(share > 0.1)
    for limit, draws in ((0.5 * share, 16), (2.0 * share, 1)):
        monkeypatch.setattr(fitting, "BETWEEN", limit)
        assert uq.GaussianProcess(scales="given").fit(runs).process.draws == draws
    assert uq.GaussianProcess(hyperparameters="averaged", scales="given").fit(runs).process.draws == 16
    monkeypatch.setattr(fitting, "BETWEEN", 0.0)
    monkeypatch.setattr(fitting, "LARGEST", 1e3)
    assert uq.GaussianProcess(scales="given").fit(runs).process.draws == 1


def test_of_many_runs_a_chosen_kernel_is_at_its_mode() -> None:
    """Draws by the normal law at the mode were up to 12 nats a value worse: they leave its ridge."""
    assert uq.GaussianProcess(scales="auto").fit(table(64)).process.draws == 1
    assert uq.GaussianProcess(scales="auto").fit(table(45)).process.draws == 16
    assert uq.GaussianProcess(hyperparameters="averaged", scales="auto").fit(table(64)).process.draws == 16


def test_the_share_of_the_hyperparameters_is_that_of_the_draws() -> None:
    x, y = problem(45)
    trend = T.trend_basis(x, 1)
    found = T.train(x, y, Matern52(), trend, False)
    between, own = averaging.between_share(x, y, Matern52(), 1, False, found)
    points = averaging.sample(x, y, Matern52(), 1, False, found)
    used = np.random.default_rng(1).choice(len(points.points), 300, p=points.weights)
    means = np.array([averaging._left_out(points.points[i], x, y, trend, Matern52(), False)[0] for i in used])
    assert between.sum() == pytest.approx(means.var(axis=0).sum(), rel=0.5)
    mean, variance = averaging._left_out(np.log(found.ell), x, y, trend, Matern52(), False)
    np.testing.assert_allclose(own, variance)
    rest = np.delete(np.arange(45), 7)
    alone = condition(Matern52(), x[rest], y[rest, None], 1, [found], [own[7] * 0 + 1.0])
    assert mean[7] == pytest.approx(scores_at(alone, x[7:8]).mean.item(), abs=1e-6)


@pytest.mark.parametrize(("n", "d"), [(10, 2), (30, 3), (70, 3)])
def test_the_order_of_runs_and_inputs_does_not_matter(n: int, d: int) -> None:  # G4
    x, y = problem(n, d)
    y = y + np.cos(3.0 * x[:, -1])
    rows, inputs = np.random.default_rng(3).permutation(n), np.roll(np.arange(d), 1)
    names = [f"x{j}" for j in range(d)]
    low, high = x.min(axis=0), x.max(axis=0)
    points = low + (high - low) * np.random.default_rng(4).random((50, d))
    space = uq.ParameterSpace(**{name: uq.Uniform(0.0, 1.0) for name in names})
    turned = uq.ParameterSpace(**{names[j]: uq.Uniform(0.0, 1.0) for j in inputs})
    plain = uq.ensemble.build({name: x[:, j] for j, name in enumerate(names)}, {"y": y}, space=space)
    other = uq.ensemble.build({names[j]: x[rows, j] for j in inputs}, {"y": y[rows]}, space=turned)
    at = {name: points[:, j] for j, name in enumerate(names)}
    a, b = (uq.GaussianProcess(scales="given").fit(runs).predict(at) for runs in (plain, other))
    # Sums in another order round otherwise; the same starts and quasi-random points make no more of it.
    assert (np.abs(a.mean["y"] - b.mean["y"]) < 0.02 * a.sd["y"] + 1e-8).all()
    np.testing.assert_allclose(a.sd["y"], b.sd["y"], rtol=0.02)
    back = [list(a.surrogate.inputs).index(name) for name in b.surrogate.inputs]
    np.testing.assert_allclose(a.surrogate.process.ell[..., back], b.surrogate.process.ell, rtol=1e-4)


# ------------------------------------------------------------------------------------------------------- the mixture
def two_laws() -> Mixture:
    scores = Scores(np.array([[[0.0]], [[3.0]]]), np.array([[[1.0]], [[0.25]]]), np.log([0.75, 0.25]))
    return mixture(scores, Decoder(np.array([10.0]), np.array([[2.0]]), np.zeros((1, 0))))


def test_quantiles_and_densities_are_those_of_the_mixture() -> None:
    law = two_laws()

    def cdf(value: float) -> float:
        return float(0.75 * norm.cdf(value, 10.0, 2.0) + 0.25 * norm.cdf(value, 16.0, 1.0))

    for level in (0.025, 0.5, 0.9, 0.999):
        expected = brentq(lambda value, level=level: cdf(value) - level, 0.0, 30.0, xtol=1e-12)
        assert law.quantile(level).item() == pytest.approx(expected, abs=1e-9)
    density = 0.75 * norm.pdf(12.0, 10.0, 2.0) + 0.25 * norm.pdf(12.0, 16.0, 1.0)
    assert law.log_density(np.array([[12.0]])).item() == pytest.approx(np.log(density), rel=1e-12)
    assert law.cdf(np.array([[12.0]])).item() == pytest.approx(cdf(12.0), rel=1e-12)


def test_intervals_hold_what_draws_hold() -> None:
    fitted = uq.GaussianProcess().fit(table(8))
    prediction = fitted.predict({"a": [0.2, 0.5], "b": [0.9, 0.4]})
    ends = prediction.interval(0.9)["y"]
    assert ends.dims == ("bound", "point")
    draws = prediction.draws(20_000, rng=1)["y"]
    for bound, level in (("lower", 0.05), ("upper", 0.95)):
        share = (draws < ends.sel(bound=bound)).mean("draw")
        assert np.abs(share - level).max() < 4.5 * np.sqrt(0.05 * 0.95 / 20_000)
    quantiles = prediction.quantile([0.05, 0.5, 0.95])["y"]
    np.testing.assert_allclose(quantiles.sel(quantile=0.95), ends.sel(bound="upper"))
    for wrong in (0.0, 1.0, [0.5, 2.0], [[0.5]]):
        with pytest.raises(InputError, match="give probabilities between 0 and 1"):
            prediction.quantile(wrong)
    for mass in (0, 1.0, 95, True, "0.9"):
        with pytest.raises(InputError, match="give a number between 0 and 1, such as 0.95"):
            prediction.interval(mass)  # type: ignore[arg-type]


def test_moments_of_curves_are_those_of_their_covariance_and_blocks_do_not_matter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    x, _ = problem(12)
    days = np.linspace(0.0, 4.0, 7)
    at = {"a": x[:, 0], "b": x[:, 1]}
    curves = (1.0 + x[:, :1]) * np.exp(-np.outer(0.3 + x[:, 1], days))
    runs = uq.ensemble.build(at, {"conc": xr.DataArray(curves, dims=("run", "day"), coords={"day": days})})
    fitted = uq.GaussianProcess().fit(runs)
    points = {"a": [0.2, 0.5, 0.8], "b": [0.9, 0.4, 0.6]}
    prediction = fitted.predict(points)
    joint = prediction.covariance("conc").reshape(21, 21)
    np.testing.assert_allclose(np.diag(joint), prediction.variance["conc"].values.ravel(), rtol=1e-6)
    median = prediction.quantile(0.5)["conc"]
    monkeypatch.setattr("uqms.surrogates.prediction.BLOCK", 3 * 16 * 2)
    again = fitted.predict(points)
    np.testing.assert_allclose(again.mean["conc"], prediction.mean["conc"], rtol=1e-12)
    np.testing.assert_allclose(again.quantile(0.5)["conc"], median, rtol=1e-12)
    fitted.save(f"{tmp_path}/s.npz")
    loaded = load_surrogate(f"{tmp_path}/s.npz").predict(points)
    assert (loaded.variance["conc"] == again.variance["conc"]).all()


def test_laplaces_points_have_the_mode_and_the_covariance() -> None:
    root = np.array([[0.5, 0.0, 0.0], [-0.3, 0.2, 0.0], [0.1, 0.4, 0.8]])
    found = T.AtMode(np.array([0.3, -1.0, 2.0]), root @ root.T, -7.5)
    wide = np.tile([-9.0, 9.0], (3, 1))
    sample = averaging.approximate(found, np.full(3, 1.3), wide)
    np.testing.assert_allclose(sample.weights @ sample.points, found.mode, atol=0.02)
    off = sample.points - found.mode
    # 128 points of a Sobol sequence; as many random ones would be off by a tenth
    np.testing.assert_allclose((off * sample.weights[:, None]).T @ off, found.covariance, atol=0.05)
    assert sample.weights.sum() == pytest.approx(1.0)
    assert sample.log_evidence == -7.5
    narrow = wide.copy()
    narrow[0] = [0.2, 0.5]
    inside = averaging.approximate(found, np.full(3, 1.3), narrow).points
    assert (inside[:, 0].min(), inside[:, 0].max()) == (0.2, 0.5)
    flat = averaging.approximate(found._replace(covariance=-np.eye(3)), np.full(3, 1.3), wide)
    assert np.isfinite(flat.points).all()

"""Bases, truncation and interpolation of outputs, against algebra and against runs that were never seen."""

from typing import Literal

import numpy as np
import pytest
import xarray as xr
from scipy.interpolate import CubicSpline

import uqms as uq
from uqms._typing import Array, Bools
from uqms.errors import DataError, ExtrapolationError, InputError
from uqms.surrogates import Curve, gp, outputs
from uqms.surrogates.left_out import left_out_scores
from uqms.surrogates.outputs import Layout, OutputBasis, fit_curve, fit_scalar, interpolation_error

DAYS = np.linspace(0.0, 10.0, 21)


def layout(grid: Array, dim: str = "t") -> Layout:
    return Layout((dim,), {dim: grid}, "mg/L")


def waves(grid: Array, n: int, rng: np.random.Generator) -> Array:
    frequency, phase = rng.uniform(0.8, 1.2, (n, 1)), rng.uniform(0.0, 0.5, (n, 1))
    return np.asarray(np.sin(frequency * grid + phase))


def decays(grid: Array, n: int, rng: np.random.Generator) -> Array:
    rate = rng.uniform(0.8, 1.2, (n, 1))
    return np.asarray(np.exp(-0.3 * rate * grid) - np.exp(-2.0 * rate * grid))


def test_a_scalar_has_scores_of_mean_zero_and_variance_one(rng: np.random.Generator) -> None:
    y = 7.0 + 3.0 * rng.standard_normal(40)
    basis, scores = fit_scalar("y", Layout(unit="mm"), y)
    assert scores.mean() == pytest.approx(0.0, abs=1e-14)
    assert scores.std() == pytest.approx(1.0, rel=1e-14)
    np.testing.assert_allclose(basis.offset + scores @ basis.basis.T, y[:, None], rtol=1e-14)
    assert basis.truncation.shape == (1, 0)
    assert basis.layout.unit == "mm"


@pytest.mark.parametrize("y", [np.full(20, 3.0), np.zeros(20), 3.0 + 1e-14 * np.sin(np.arange(20))])
def test_a_constant_scalar_has_no_basis(y: Array) -> None:
    basis, scores = fit_scalar("y", Layout(), y)
    assert basis.basis == 0.0
    assert not scores.any()
    assert basis.offset == pytest.approx(y[0], rel=1e-13)


@pytest.mark.parametrize("y", [1e9 + 1e-3 * np.sin(np.arange(20)), 1e-12 * np.sin(np.arange(20))])
def test_small_ranges_are_no_constants(y: Array) -> None:
    basis, scores = fit_scalar("y", Layout(), y)
    assert scores.std() == pytest.approx(1.0, rel=1e-7)  # the mean of numbers near 1e9 is rounded to 1e-7
    assert basis.basis.item() == pytest.approx(y.std(), rel=1e-7)


def test_the_basis_is_orthogonal_with_scores_of_variance_one(rng: np.random.Generator) -> None:
    y = waves(DAYS, 50, rng)
    basis, scores = fit_curve("y", layout(DAYS), y, Curve())
    gram = basis.basis.T @ basis.basis
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-12 * gram.max())
    np.testing.assert_allclose(scores.T @ scores / len(y), np.eye(scores.shape[1]), atol=1e-12)
    np.testing.assert_allclose(scores.mean(axis=0), 0.0, atol=1e-12)
    assert (np.diff(np.diag(gram)) < 0.0).all()
    np.testing.assert_allclose(basis.offset, y.mean(axis=0), rtol=1e-14)


def test_all_scores_of_a_curve_give_the_curve_back(rng: np.random.Generator) -> None:
    y = rng.standard_normal((30, 4)) @ rng.standard_normal((4, 15))
    basis, scores = fit_curve("y", layout(np.arange(15.0)), y, Curve(tolerance=1e-12))
    assert scores.shape[1] == 4
    np.testing.assert_allclose(basis.offset + scores @ basis.basis.T, y, atol=1e-12)
    assert basis.truncation.shape[1] == 0


def test_as_many_scores_are_kept_as_held_out_runs_need(rng: np.random.Generator) -> None:
    y = waves(DAYS, 60, rng)
    counts = [fit_curve("y", layout(DAYS), y, Curve(tolerance=t))[1].shape[1] for t in (1e-2, 1e-4, 1e-8)]
    assert counts[0] < counts[1] < counts[2]
    assert fit_curve("y", layout(DAYS), y, Curve(max_scores=2))[1].shape[1] == 2
    total = np.mean((y - y.mean(axis=0)) ** 2)
    for tolerance in (1e-2, 1e-4):
        basis, _ = fit_curve("y", layout(DAYS), y, Curve(tolerance=tolerance))
        assert np.mean(np.sum(basis.truncation**2, axis=1)) <= tolerance * total * 1.3  # held-out means differ a little


def test_truncation_is_unbiased_for_runs_that_were_never_seen() -> None:
    """Curves of a known law: what 8 scores of 30 runs leave of new curves, against what the surrogate says it is."""
    said, seen, within = [], [], []
    rng = np.random.default_rng(1)
    grid = np.linspace(0.0, 1.0, 25)
    covariance = np.exp(-0.5 * ((grid[:, None] - grid) / 0.25) ** 2) + 1e-10 * np.eye(25)
    root = np.linalg.cholesky(covariance)
    for _ in range(120):
        y = rng.standard_normal((30, 25)) @ root.T
        basis, _ = fit_curve("y", layout(grid), y, Curve(max_scores=8))
        q = basis.basis / np.linalg.norm(basis.basis, axis=0)
        new = rng.standard_normal((200, 25)) @ root.T - basis.offset
        seen.append(np.mean((new - new @ q @ q.T) ** 2))
        said.append(np.mean(np.sum(basis.truncation**2, axis=1)))
        old = y - basis.offset
        within.append(np.mean((old - old @ q @ q.T) ** 2))
    said, seen, within = np.array(said), np.array(seen), np.array(within)
    error = np.std(said - seen) / np.sqrt(len(said))
    # Each fold has 27 runs, not 30: a few percent too much are expected, never too little.
    assert -3.0 * error < np.mean(said) - np.mean(seen) < 0.1 * np.mean(seen)
    assert np.sqrt(np.mean(seen) / np.mean(within)) > 1.3  # what the runs themselves say is too small


def test_truncation_has_the_covariance_of_what_is_left_out(rng: np.random.Generator) -> None:
    y = waves(DAYS, 60, rng)
    basis, _ = fit_curve("y", layout(DAYS), y, Curve(max_scores=2))
    residuals = basis.left_out @ basis.truncation.T
    second = residuals.T @ residuals / len(y)
    np.testing.assert_allclose(basis.truncation @ basis.truncation.T, second, atol=1e-12)


def test_few_runs_keep_no_scores_of_which_they_know_nothing() -> None:
    """Of a smooth law 16 runs show 12 directions, the last of which say nothing of other runs."""
    grid = np.linspace(0.0, 1.0, 12)
    root = np.linalg.cholesky(np.exp(-0.5 * ((grid[:, None] - grid) / 0.3) ** 2) + 1e-12 * np.eye(12))
    counts, last, distances = [], [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        y, new = rng.standard_normal((16, 12)) @ root.T, rng.standard_normal((200, 12)) @ root.T
        basis, scores = fit_curve("y", layout(grid), y, Curve(tolerance=1e-12))
        new = new - basis.offset
        covariance = basis.basis @ basis.basis.T + basis.truncation @ basis.truncation.T + 1e-12 * np.eye(12)
        counts.append(scores.shape[1])
        last.append(np.mean((np.linalg.pinv(basis.basis)[-1] @ new.T) ** 2))
        distances.append(np.mean(np.linalg.solve(covariance, new.T) * new.T))
    # All 12 scores: the last has 22 times the variance of its runs, and D² / m is 6.4.
    assert 4 <= np.mean(counts) < 10
    assert np.median(last) < 10.0
    assert np.median(distances) < 4.0


@pytest.mark.parametrize("settings", [Curve(), Curve(max_scores=3), Curve(tolerance=1e-3)])
def test_many_coordinates_are_decomposed_as_few(settings: Curve, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = np.linspace(0.0, 10.0, 301)
    y = 3.0 + waves(grid, 30, np.random.default_rng(2))
    monkeypatch.setattr(outputs, "BLOCK", 100)
    one, scores = fit_curve("y", layout(grid), y, settings)
    monkeypatch.setattr(outputs, "_coordinates", lambda centred: (centred, lambda columns: columns))
    other, expected = fit_curve("y", layout(grid), y, settings)
    assert scores.shape == expected.shape
    np.testing.assert_allclose(scores @ one.basis.T, expected @ other.basis.T, atol=1e-10)
    np.testing.assert_allclose(one.basis @ one.basis.T, other.basis @ other.basis.T, atol=1e-10)
    np.testing.assert_allclose(one.truncation @ one.truncation.T, other.truncation @ other.truncation.T, atol=1e-10)
    np.testing.assert_allclose(one.left_out @ one.truncation.T, other.left_out @ other.truncation.T, atol=1e-8)


# ------------------------------------------------------------------------------------------------------- interpolation
def test_simulated_coordinates_are_picked_bit_for_bit(rng: np.random.Generator) -> None:
    basis, _ = fit_curve("y", layout(DAYS), waves(DAYS, 30, rng), Curve())
    offset, rows, truncation = basis.rows({"t": DAYS[[3, 0, 20]]})
    assert (offset == basis.offset[[3, 0, 20]]).all()
    assert (rows == basis.basis[[3, 0, 20]]).all()
    assert not truncation[:, basis.truncation.shape[1] :].any()
    everything = basis.rows(None)
    assert (everything[0] == basis.offset).all()
    assert everything[2].shape == (21, basis.latent)


def test_cubics_are_interpolated_exactly(rng: np.random.Generator) -> None:
    at = rng.uniform(0.0, 10.0, 50)
    coefficients = rng.standard_normal((30, 4))
    y = coefficients @ np.vander(DAYS / 10.0, 4).T
    basis, scores = fit_curve("y", layout(DAYS), y, Curve(tolerance=1e-12))
    offset, rows, truncation = basis.rows({"t": at})
    np.testing.assert_allclose(offset + scores @ rows.T, coefficients @ np.vander(at / 10.0, 4).T, atol=1e-10)
    assert np.abs(truncation).max() < 1e-10


def test_interpolation_of_many_coordinates_needs_no_more_than_the_curves_take(rng: np.random.Generator) -> None:
    grid = np.linspace(0.0, 10.0, 20_001)  # squared it is 3 GB
    basis, _ = fit_curve("y", layout(grid), waves(grid, 12, rng), Curve())
    at = np.array([0.00012, 5.00012, 5.0])
    offset, rows, truncation = basis.rows({"t": at})
    curve = np.column_stack([basis.offset, basis.basis])
    np.testing.assert_allclose(np.column_stack([offset, rows]), CubicSpline(grid, curve)(at), rtol=1e-12)
    assert truncation.shape == (3, basis.latent)
    assert basis.latent == basis.truncation.shape[1] + 128
    bumps = truncation[:, basis.truncation.shape[1] :]
    share = 0.00012 / 0.0005
    expected = 4.0 * share * (1.0 - share) * basis.interpolation_sd[[0, 10_000]]
    np.testing.assert_allclose([bumps[0, 0], bumps[1, 64]], expected, rtol=1e-6)
    assert np.count_nonzero(bumps) == 2
    assert basis.rows(None)[2].shape == (20_001, basis.latent)


@pytest.mark.parametrize("curves", [waves, decays])
@pytest.mark.parametrize("m", [14, 21, 51])
def test_the_error_of_interpolation_is_what_it_is_said_to_be(curves: object, m: int) -> None:
    assert callable(curves)
    grid = np.linspace(0.0, 10.0, m)
    at = np.concatenate([grid[:-1] + share * np.diff(grid) for share in (0.25, 0.5, 0.75)])
    basis, _ = fit_curve("y", layout(grid), curves(grid, 60, np.random.default_rng(1)), Curve())
    said = np.sqrt(np.mean(np.sum(basis.rows({"t": at})[2][:, basis.truncation.shape[1] :] ** 2, axis=1)))
    truth, seen = (curves(g, 200, np.random.default_rng(2)) for g in (at, grid))
    real = np.sqrt(np.mean((CubicSpline(grid, seen, axis=1, bc_type="not-a-knot")(at) - truth) ** 2))
    assert 0.7 < said / real < 3.0


@pytest.mark.parametrize("m", [12, 16, 24])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_error_of_interpolation_is_right_at_both_ends(m: int, mirrored: bool) -> None:
    """With an even number of coordinates every second one from the left ends before the last interval."""
    grid = np.linspace(0.0, 1.0, m)
    middle = 0.5 * (grid[:-1] + grid[1:])
    k = np.random.default_rng(1).uniform(1.0, 6.0, (60, 1))
    seen, truth = ((np.sin(k * ((1.0 - at) if mirrored else at))) for at in (grid, middle))
    real = np.sqrt(np.mean((CubicSpline(grid, seen, axis=1, bc_type="not-a-knot")(middle) - truth) ** 2, axis=0))
    ratio = real / interpolation_error(grid, seen)
    assert 0.4 <= ratio[0] <= 1.5
    assert 0.4 <= ratio[-1] <= 1.5


def test_the_interpolation_error_is_where_the_curves_bend(rng: np.random.Generator) -> None:
    y = np.tanh(4.0 * (DAYS - rng.uniform(2.5, 3.5, (40, 1))))
    basis, _ = fit_curve("y", layout(DAYS), y, Curve())
    sd = basis.interpolation_sd
    assert sd[4:9].min() > 10.0 * sd[15:].max()
    # One number an interval, shared by the points in it: two points of one interval err together.
    rows = basis.rows({"t": [3.1, 3.4, 3.6]})[2][:, basis.truncation.shape[1] :]
    assert rows[0] @ rows[1] > 0.0
    assert rows[0] @ rows[2] == 0.0


@pytest.mark.parametrize("order", [np.arange(21)[::-1], np.random.default_rng(3).permutation(21)])
def test_coordinates_may_come_in_any_order(order: Array, rng: np.random.Generator) -> None:
    y, at = waves(DAYS, 30, rng), np.array([0.3, 5.0, 9.9])
    sorted_basis, sorted_scores = fit_curve("y", layout(DAYS), y, Curve())
    basis, scores = fit_curve("y", layout(DAYS[order]), y[:, order], Curve())
    a, b = sorted_basis.rows({"t": at}), basis.rows({"t": at})
    np.testing.assert_allclose(a[0] + sorted_scores @ a[1].T, b[0] + scores @ b[1].T, atol=1e-10)
    np.testing.assert_allclose(np.sum(a[2] ** 2, axis=1), np.sum(b[2] ** 2, axis=1), atol=1e-12)


def test_fields_are_picked_at_pairs_of_coordinates(rng: np.random.Generator) -> None:
    y = rng.standard_normal((30, 3)) @ rng.standard_normal((3, 12))
    grid = Layout(("t", "x"), {"t": np.arange(4.0), "x": np.arange(3.0)})
    basis, scores = fit_curve("y", grid, y, Curve(tolerance=1e-12))
    offset, rows, _ = basis.rows({"t": [2.0, 0.0], "x": [1.0, 2.0]})
    np.testing.assert_allclose(offset + scores @ rows.T, y.reshape(30, 4, 3)[:, [2, 0], [1, 2]], atol=1e-12)
    with pytest.raises(DataError, match=r"x = 0.5 is not a simulated coordinate"):
        basis.rows({"t": [2.0], "x": [0.5]})


def curve(rng: np.random.Generator) -> OutputBasis:
    return fit_curve("y", layout(DAYS), waves(DAYS, 30, rng), Curve())[0]


@pytest.mark.parametrize("outside", [-0.1, 10.001, np.nan])
def test_outside_of_the_simulated_coordinates_is_an_error(outside: float, rng: np.random.Generator) -> None:
    with pytest.raises(ExtrapolationError, match=r"'y': t = .* outside of the simulated range \[0, 10\]"):
        curve(rng).rows({"t": [5.0, outside]})


def test_rounding_at_the_ends_is_not_outside(rng: np.random.Generator) -> None:
    basis = curve(rng)
    assert (basis.rows({"t": [10.0 + 1e-12]})[0] == basis.offset[-1]).all()


def test_wrong_dims_are_named(rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match=r"'y' has coordinates \['t'\], got \['day'\]"):
        curve(rng).rows({"day": [1.0]})


def test_two_coordinates_are_not_enough_to_interpolate(rng: np.random.Generator) -> None:
    basis, _ = fit_curve("y", layout(np.array([0.0, 1.0])), rng.standard_normal((10, 2)), Curve())
    with pytest.raises(DataError, match="at least 3 coordinates"):
        basis.rows({"t": [0.5]})


@pytest.mark.parametrize("settings", [{"tolerance": 0.0}, {"tolerance": 1.0}, {"tolerance": "small"}])
def test_a_tolerance_is_a_share(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="tolerance is .* between 0 and 1"):
        Curve(**settings)


@pytest.mark.parametrize("count", [0, -1, 2.5, True])
def test_scores_are_counted_in_whole_numbers(count: int) -> None:
    with pytest.raises(InputError, match=f"max_scores is {count}"):
        Curve(max_scores=count)


def runs_with_a_corner(n: int = 60) -> xr.Dataset:
    """Return runs whose curves are logarithms of a decay above a floor, which only a corner of the box reaches."""
    design = uq.sobol(uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0)), n, rng=3)
    a, b, t = design["a"].values[:, None], design["b"].values[:, None], np.linspace(0.2, 2.0, 12)
    return uq.ensemble.build(design, {"y": ("t", np.log(np.exp(-np.exp(3.0 * a) * t) + 1e-4 * np.exp(-b * t)), t)})


def test_what_a_basis_leaves_is_small_beside_the_errors_where_the_curve_is_calm() -> None:
    """The truncation is at most a quarter of the quantile .1 over the runs of the variance of left-out scores."""
    runs = runs_with_a_corner()
    surrogate = uq.GaussianProcess().fit(runs)
    first = uq.GaussianProcess(outputs={"y": uq.Curve(tolerance=1e-6)}).fit(runs)
    share = []
    for one in (surrogate, first):
        process, basis = one.process, one.bases[0]
        variance = sum(left_out_scores(process, 0, j)[1] * np.sum(basis.basis[:, j] ** 2) for j in range(process.q))
        share.append(np.sum(basis.truncation**2) / np.quantile(variance, 0.1))
    assert share[0] < 0.25
    assert share[1] > 1.0


def test_scores_are_added_up_to_the_last_that_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not predicted hides nothing behind it, two in a row do: chance predicts one of many."""
    runs = runs_with_a_corner()
    counts = []
    for told in ([False], [True], [False, True], [True, False, True], [True, False, False, True], [False, False, True]):

        def predicted(new: Array, *_: Array, told: list[bool] = told) -> Bools:
            return np.array([*told, *[False] * new.shape[1]])[: new.shape[1]]

        monkeypatch.setattr(gp, "_predicted", predicted)
        monkeypatch.setattr(gp, "changes_over_box", lambda _, square: np.zeros(square.shape[1], dtype=bool))
        surrogate = uq.GaussianProcess().fit(runs)
        counts.append(surrogate.process.q)
        assert not surrogate.process.held_out.any()
    np.testing.assert_array_equal(np.array(counts) - counts[0], [0, 1, 2, 3, 1, 0])


@pytest.mark.parametrize("predicts", [False, True])
@pytest.mark.parametrize("changes", [0, 2])
@pytest.mark.parametrize("scales", ["auto", "given"])
def test_scores_that_change_over_the_box_are_added_to_those_that_are_predicted(
    predicts: bool, changes: int, scales: Literal["auto", "given"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one behind the predicted ones changes, or none; their left-out errors are those of held-out runs."""
    runs, settings = runs_with_a_corner(24), uq.GaussianProcess(scales=scales, hyperparameters="point")
    monkeypatch.setattr(gp, "_predicted", lambda new, *_: np.arange(new.shape[1]) < predicts)
    monkeypatch.setattr(gp, "changes_over_box", lambda _, square: np.arange(square.shape[1]) == changes - 1)
    process = settings.fit(runs).process
    monkeypatch.setattr(gp, "_predicted", lambda new, *_: np.zeros(new.shape[1], dtype=bool))
    monkeypatch.setattr(gp, "changes_over_box", lambda _, square: np.zeros(square.shape[1], dtype=bool))
    before = settings.fit(runs)
    own = changes if scales == "auto" else 0
    if scales == "auto":
        assert process.q == before.process.q + predicts + own
    np.testing.assert_array_equal(process.held_out.any(axis=1), np.arange(process.q) >= process.q - own)
    if own:
        # What the shorter basis left of held-out runs along these scores, each up to its size.
        left = before.bases[0].left_out[:, predicts : predicts + own].T
        held = process.held_out[-own:]
        rms = np.sqrt(np.mean(held**2, axis=1, keepdims=True))
        np.testing.assert_allclose(np.abs(held / rms), np.abs(left), atol=1e-9)


def test_a_few_runs_of_a_curve_state_small_errors_where_it_is_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 24 runs: in the calm half of the box the stated error is nearer to the actual one than a truncation's."""
    design = uq.sobol(uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0)), 24, rng=5)
    t = np.linspace(0.2, 2.0, 12)

    def curve(a: Array, b: Array) -> Array:
        return np.asarray(np.log(np.exp(-np.exp(3.0 * a[:, None]) * t) + 1e-4 * np.exp(-b[:, None] * t)))

    runs = uq.ensemble.build(design, {"y": ("t", curve(design["a"].values, design["b"].values), t)})
    a, b = np.random.default_rng(1).random((2, 400))
    calm = a < 0.3
    truth, found = curve(a, b), {}
    for changes in (True, False):
        if not changes:
            monkeypatch.setattr(gp, "changes_over_box", lambda _, square: np.zeros(square.shape[1], dtype=bool))
        surrogate = uq.GaussianProcess().fit(runs)
        assert surrogate.process.held_out.any() == changes
        told = surrogate.predict({"a": a, "b": b})
        variance, square = told.variance["y"].values, (truth - told.mean["y"].values) ** 2
        score = -0.5 * (np.log(variance) + square / variance).mean(axis=1)
        within = np.mean(square < 1.959964**2 * variance, axis=1)
        found[changes] = score[calm].mean(), score.mean(), within.mean(), variance[calm].mean() / square[calm].mean()
    (calm_score, score, inside, ratio), (without, score_without, _, ratio_without) = found[True], found[False]
    assert calm_score > without + 0.2
    assert score > score_without
    assert inside > 0.93
    assert 1.0 < ratio < 0.75 * ratio_without


def test_scores_are_counted_with_the_local_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where errors are stated smaller, less may be left out; not where there is no local scale."""
    runs, counts = runs_with_a_corner(), {}
    monkeypatch.setattr(gp, "_predicted", lambda new, *_: np.ones(new.shape[1], dtype=bool))
    for scales in ("auto", "given"):
        for scale in (10.0, 0.1):
            monkeypatch.setattr(gp, "scales_at_runs", lambda x, e, v, s=scale: np.full(e.shape, s))
            counts[scales, scale] = uq.GaussianProcess(scales=scales).fit(runs).process.q
    assert counts["auto", 0.1] > counts["auto", 10.0]
    assert counts["given", 0.1] == counts["given", 10.0]

"""Curves and fields with missing coordinates: a basis from all runs, and each run's information on its scores.

==========  ==================================================================  =========
symbol      meaning                                                             shape
==========  ==================================================================  =========
y           outputs on the scale of their transform; NaN where a run has none   (n, m)
O           coordinates that a run has
z, W, s2    factors of runs and coordinates and what they leave: y = W z + e    (n, k), (m, k), ()
B, T        basis and truncation, see `outputs`                                 (m, q), (m, t)
R, b        information of a run: its likelihood is exp(-|R s - b|^2 / 2)       (q, q), (q,)
v           variance of a run's error in a score                                (n, q)
==========  ==================================================================  =========

Missing entries are filled in by a low-rank Gaussian (probabilistic PCA by EM: Tipping & Bishop 1999,
doi:10.1111/1467-9868.00196), only to find the basis. The scores of a run are then learned from what it has,
y_O = offset + B_O s + T_O omega: each as a value with an error of known variance, infinite where O says nothing.

Each process sees its own score only, so a score's value has the errors of the others of its run in it. First these have
N times their prior variance, N the number of partial runs: errors of different runs depend on each other, and their sum
has at most N times the variance of independent ones. Then they are what the other runs leave of them, as in expectation
propagation (Minka 2001, arXiv:1301.2294), once and with some caution: iterated, it would count the same runs again and
again. Where O fixes sums of scores only, the basis is turned until it fixes scores; that is exact if runs stop early,
since what one of them does not know is part of what an earlier one does not.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from uqms._typing import Array, Bools, Ints
from uqms.errors import DesignError
from uqms.surrogates.fitting import Fitting
from uqms.surrogates.outputs import FOLDS, Curve, Layout, OutputBasis, factor_of, fit_curve, interpolation_error
from uqms.surrogates.process import ScoreProcess, condition, scores_at

__all__ = ["Information", "PartialRuns", "fill_in", "fit_partial", "information", "refined", "values_of"]

ROUNDING = 1e-8  # sd of what is rounding, over that of the output
CAUTION = 4.0  # of the variance that other runs leave of a run's other scores
UNKNOWN = 1e4  # variance of an error, in those of the score, above which nothing is known
DETERMINED = 0.01  # share of a score's variance that partial runs leave open, on average
MORE = 4  # factors beyond the scores
COORDINATES = 2000  # that factors of runs are found from
BLOCK = 2**23  # numbers held at once
LEFT_OUT, SWEEPS, SWEEPS_MORE = 0.1, 10, 50
WORTH, PATIENCE = 0.7, 2  # median error of left-out entries with more factors, over that with fewer; steps without
HIDDEN = 400  # entries that are left out, if there are as many
SMALLEST = 1e-12  # s2, over the variance of the output


class Information(NamedTuple):
    """The information of each run on its scores: its likelihood is exp(-|root s - right|^2 / 2)."""

    root: Array  # (n, q, q)
    right: Array  # (n, q)


class PartialRuns(NamedTuple):
    """Runs that miss a part of an output, what each says of its scores, and the variances of their errors so far."""

    rows: Ints
    information: Information
    noise: Array  # (rows, q)


def fit_partial(
    name: str, layout: Layout, y: Float[np.ndarray, "n m"], settings: Curve, least: int
) -> tuple[OutputBasis, Float[np.ndarray, "n q"], PartialRuns | None]:
    """Return the basis of an output, scores of the runs, NaN where a run does not inform one, and partial runs.

    There are none of an output that is constant.

    Raises
    ------
    DesignError
        When fewer than `least` runs have some coordinate, or say something of some score.
    """
    seen = np.isfinite(y)
    _check_coordinates(name, layout, seen, least)
    filled, factors = fill_in(y, settings.max_scores + MORE)
    basis, scores = fit_curve(name, layout, filled, replace(settings, max_scores=min(settings.max_scores, factors + 2)))
    whole = seen.all(axis=1)
    if not basis.basis.any():
        return basis, scores, None
    basis = _with_truncation(basis, _left_out(y, filled, factors, scores.shape[1]), seen, least)
    if layout.dims and len(basis.interpolation_sd) and whole.sum() >= least:
        grid = layout.coords[layout.dims[0]]
        basis = replace(basis, interpolation_sd=interpolation_error(grid, y[whole]))
    rounding = ROUNDING * float(np.sqrt(np.mean((filled - basis.offset) ** 2)))
    found = information(basis, y[~whole], rounding)
    turn = _turn(basis.basis, found)
    basis, scores = replace(basis, basis=basis.basis @ turn), scores @ turn
    found = Information(found.root @ turn, found.right)
    prior = np.zeros(found.right.shape), np.full(found.right.shape, float(len(found.right)))
    scores[~whole], noise = values_of(found, *prior)
    fewest = int(np.isfinite(scores).sum(axis=0).min())
    if fewest < least:
        raise DesignError(
            f"Output {name!r}: only {fewest} of {len(y)} runs have enough of its coordinates together to estimate how "
            f"these are related; at least d + 2 = {least} are needed. Run more points to the end, or leave the "
            "coordinates that few runs have out of the ensemble."
        )
    return basis, scores, PartialRuns(np.flatnonzero(~whole), found, noise)


def _check_coordinates(name: str, layout: Layout, seen: Bools, least: int) -> None:
    count = seen.sum(axis=0)
    fewest = int(np.argmin(count))
    if count[fewest] < least:
        place = np.unravel_index(fewest, layout.shape)
        where = ", ".join(f"{dim} = {layout.coords[dim][i]:g}" for dim, i in zip(layout.dims, place, strict=True))
        raise DesignError(
            f"Only {count[fewest]} of {len(seen)} runs have output {name!r} at {where}; at least d + 2 = {least} are "
            "needed. Run more points, or leave that coordinate out of the ensemble."
        )


# ------------------------------------------------------------------------------------------------------ what is missing
def fill_in(y: Float[np.ndarray, "n m"], most: int) -> tuple[Float[np.ndarray, "n m"], int]:
    """Return y with its missing entries filled in by a Gaussian of at most `most` factors, and their number.

    It grows while that makes the errors of left-out entries clearly smaller: most of them, since runs of which little
    is left have large ones whatever it is.
    """
    n = len(y)
    centre, size, part = _scale(y)
    seen = np.isfinite(y)[:, part]
    values = np.where(seen, (y - centre)[:, part] / size, 0.0)
    masks = int(np.clip(np.ceil(HIDDEN / (LEFT_OUT * seen.sum())), 1, 1.0 / LEFT_OUT))
    place = np.random.default_rng(0).random(seen.shape)
    hidden = [seen & (place >= i * LEFT_OUT) & (place < (i + 1) * LEFT_OUT) for i in range(masks)]
    filled, count, best = [np.zeros(values.shape)] * masks, 0, np.inf
    for k in _counts(min(most, n - 2, len(part))):
        filled = [_swept(values, seen & ~one, k, start, SWEEPS)[0] for one, start in zip(hidden, filled, strict=True)]
        errors = [(values - each)[one] for one, each in zip(hidden, filled, strict=True)]
        error = float(np.median(np.abs(np.concatenate(errors))))
        if error < WORTH * best:
            count, best, start = k, error, filled[0]
        elif k >= count + PATIENCE:
            break
    first = np.zeros(y.shape)
    first[:, part] = start
    return _filled(y, count, centre + size * first, SWEEPS_MORE), count


def _scale(y: Array) -> tuple[Array, float, Ints]:
    """Return the mean of coordinates, one size of all, and the coordinates that factors of runs are found from."""
    m = y.shape[1]
    centre = np.nanmean(y, axis=0)
    part = np.arange(m) if m <= COORDINATES else np.linspace(0, m - 1, COORDINATES).astype(np.int64)
    return centre, float(np.sqrt(np.nanmean((y - centre) ** 2))) or 1.0, part


def _filled(y: Array, k: int, start: Array, sweeps: int) -> Array:
    """Return y with its missing entries filled in by k factors."""
    centre, size, part = _scale(y)
    seen = np.isfinite(y)
    values = np.where(seen, (y - centre) / size, 0.0)
    _, z, spread = _swept(values[:, part], seen[:, part], k, ((start - centre) / size)[:, part], sweeps)
    loadings, _ = _regressed(values, seen, z, spread)
    return np.where(seen, y, centre + size * (z @ loadings.T))


def _counts(limit: int) -> list[int]:
    """Return the numbers of factors that are tried: all small ones, then steps of a third."""
    counts = [1]
    while counts[-1] < limit:
        counts.append(min(limit, max(counts[-1] + 1, round(counts[-1] * 4 / 3))))
    return counts


def _swept(values: Array, seen: Bools, k: int, filled: Array, sweeps: int) -> tuple[Array, Array, Array]:
    """Return W z, z with a one behind it, and its covariance in each run, after some sweeps of EM."""
    n, filled = len(values), np.where(seen, values, filled)
    mean = filled.mean(axis=0)
    _, singular, right = np.linalg.svd(filled - mean, full_matrices=False)
    loadings = np.column_stack([right[:k].T * singular[:k] / np.sqrt(n), mean])
    rest = max(float(np.sum(singular[k:] ** 2)) / filled.size, 1e-4)
    for _ in range(sweeps):
        z, spread = _factors(values, seen, loadings, rest)
        loadings, rest = _regressed(values, seen, z, spread)
        filled, before = z @ loadings.T, filled
        if np.mean((filled - before) ** 2) < SMALLEST:
            break
    return filled, z, spread


def _factors(values: Array, seen: Bools, loadings: Array, rest: float) -> tuple[Array, Array]:
    """Return the factors of runs given loadings, with a one behind them, and their covariance."""
    k = loadings.shape[1] - 1
    w, mean = loadings[:, :k], loadings[:, k]
    squares = seen.astype(np.float64) @ (w[:, :, None] * w[:, None, :]).reshape(len(w), -1)
    spread = np.zeros((len(values), k + 1, k + 1))
    spread[:, :k, :k] = np.linalg.inv(np.eye(k) + squares.reshape(-1, k, k) / rest)
    z = np.einsum("nij,nj->ni", spread[:, :k, :k], np.where(seen, values - mean, 0.0) @ w / rest)
    return np.column_stack([z, np.ones(len(z))]), spread


def _regressed(values: Array, seen: Bools, z: Array, spread: Array) -> tuple[Array, float]:
    """Return the loadings of coordinates given factors of runs, and the variance of what these leave."""
    n, k = z.shape
    squares = (z[:, :, None] * z[:, None, :] + spread).reshape(n, -1)
    loadings = np.empty((values.shape[1], k))
    left = 0.0
    step = max(1, BLOCK // squares.shape[1])
    for start in range(0, len(loadings), step):
        block = slice(start, start + step)
        gram = (seen[:, block].T.astype(np.float64) @ squares).reshape(-1, k, k)
        gram += 1e-8 * n * np.eye(k)
        right = np.where(seen[:, block], values[:, block], 0.0).T @ z
        loadings[block] = np.linalg.solve(gram, right[..., None])[..., 0]
        left += float(np.sum(values[:, block][seen[:, block]] ** 2) - np.sum(loadings[block] * right))
    return loadings, max(left / seen.sum(), SMALLEST)


def _left_out(y: Array, filled: Array, factors: int, scores: int) -> Array:
    """Return what a basis of the other folds leaves of the entries that runs have, zero elsewhere (n, m)."""
    n, m = y.shape
    seen = np.isfinite(y)
    residuals = np.zeros(y.shape)
    for first in range(min(FOLDS, n)):
        held = np.arange(first, n, FOLDS)
        rest = np.setdiff1d(np.arange(n), held)
        there = np.where(seen[rest].any(axis=0), y[rest], filled[rest])  # a coordinate that all others lack is taken
        others = _filled(there, max(1, min(factors, len(rest) - 2)), filled[rest], SWEEPS)
        mean = others.mean(axis=0)
        right = np.linalg.svd(others - mean, full_matrices=False)[2][:scores]
        for i in held:
            row, own = (y[i] - mean)[seen[i]], right[:, seen[i]].T
            residuals[i, seen[i]] = row - own @ np.linalg.lstsq(own, row)[0]
    # A basis takes more from the errors of runs that have fewer coordinates.
    size = seen.sum(axis=1)
    whole = max(1.0 - scores / m, 1.0 / m)
    return np.asarray(residuals * np.sqrt(whole / np.maximum(1.0 - scores / size, 0.5 * whole))[:, None])


def _with_truncation(basis: OutputBasis, residuals: Array, seen: Bools, least: int) -> OutputBasis:
    """Return the basis with a truncation that is measured on entries that runs have.

    Those of runs that have few more than there are scores say little and are not counted, if others do.
    """
    (n, m), q = seen.shape, basis.basis.shape[1]
    counted = seen & (seen.sum(axis=1) >= 2 * min(q, m // 2))[:, None]
    if counted.sum(axis=0).min() < least:
        counted = seen
    scale = float(np.sqrt(n) * np.linalg.norm(basis.basis, axis=0).max())
    truncation, left_out = factor_of(np.where(counted, residuals, 0.0), scale)
    more = np.sqrt(n / counted.sum(axis=0) - 1.0)[:, None] * truncation
    both = np.hstack([truncation, more])  # the omegas of left-out runs are zero in what is added
    left, singular, right = np.linalg.svd(both, full_matrices=False)
    keep = singular > 1e-9 * singular.max(initial=0.0)
    omegas = np.hstack([left_out, np.zeros(left_out.shape)]) @ right[keep].T
    return replace(basis, truncation=left[:, keep] * singular[keep], left_out=omegas)


# ---------------------------------------------------------------------------------------------- what runs say of scores
def information(basis: OutputBasis, y: Float[np.ndarray, "n m"], rounding: float) -> Information:
    """Return the information of each run on its scores; `rounding` is the sd of an error of every entry by itself."""
    q, t = basis.basis.shape[1], basis.truncation.shape[1]
    root, right = np.zeros((len(y), q, q)), np.zeros((len(y), q))
    for i, row in enumerate(y):
        has = np.isfinite(row)
        stacked = np.column_stack([basis.truncation[has], basis.basis[has], row[has] - basis.offset[has]])
        small = np.linalg.qr(stacked, mode="r")
        left, singular, _ = np.linalg.svd(small[:, :t])
        own = np.zeros(len(small))
        own[: len(singular)] = singular
        white = (left.T @ small[:, t:]) / np.hypot(own, rounding)[:, None]
        triangle = np.linalg.qr(white, mode="r")[:q]
        root[i, : len(triangle)], right[i, : len(triangle)] = triangle[:, :q], triangle[:, q]
    return Information(root, right)


def values_of(
    found: Information, mean: Float[np.ndarray, "n q"], variance: Float[np.ndarray, "n q"]
) -> tuple[Float[np.ndarray, "n q"], Float[np.ndarray, "n q"]]:
    """Return the value of each score in each run and the variance of its error, NaN and 0 where nothing is known.

    The scores have normal priors, independent of each other; that of the score itself is divided out.
    """
    sd = np.sqrt(variance)
    left, singular, right = np.linalg.svd(found.root * sd[:, None, :])
    rest = found.right - np.einsum("nij,nj->ni", found.root, mean)
    # Both are sums of positive terms: a difference of precisions has few digits left where little is known.
    open_share = np.einsum("nkj,nk->nj", right**2, 1.0 / (1.0 + singular**2))
    known_share = np.einsum("nkj,nk->nj", right**2, singular**2 / (1.0 + singular**2))
    turned = np.einsum("nik,ni->nk", left, rest) * singular / (1.0 + singular**2)
    known = (known_share > 1e-12) & (variance * open_share < UNKNOWN * known_share)
    share = np.where(known, known_share, 1.0)
    value = mean + sd * np.einsum("nkj,nk->nj", right, turned) / share
    return np.where(known, value, np.nan), np.where(known, variance * open_share / share, 0.0)


def refined(
    fitting: Fitting, y: Array, parts: Sequence[PartialRuns | None], sizes: Sequence[int]
) -> tuple[Fitting, Array]:
    """Return fitting and scores with what partial runs add to each score, given the others from complete runs.

    Parameters
    ----------
    fitting
        Without the errors of partial runs.
    y
        Scores (n, q), from each run by itself.
    parts
        Partial runs of each output.
    sizes
        Numbers of scores of each output.
    """
    y, noise = y.copy(), np.zeros(y.shape)
    for one, last, size in zip(parts, np.cumsum(sizes), sizes, strict=True):
        if one is None:
            continue
        columns = slice(int(last) - size, int(last))
        own, errors = y[:, columns], noise[:, columns]
        errors[one.rows] = one.noise
        found = replace(fitting, noise=errors).trained(own)
        process = condition(fitting.kernel, fitting.x, own, fitting.columns, found, noise=errors)
        mean, variance = _from_others(process, one.rows)
        own[one.rows], errors[one.rows] = values_of(one.information, mean, CAUTION * variance)
    return replace(fitting, noise=noise), y


def _from_others(process: ScoreProcess, rows: Ints) -> tuple[Array, Array]:
    """Return mean and variance (rows, q) of the scores of some runs given the other runs."""
    there = scores_at(process, process.x[rows], diagonal=True)
    mean, variance = there.mean[0].copy(), there.covariance[0].T.copy()
    for j in range(process.q):
        known = process.known(j)[rows]
        at = rows[known]
        inverse = process.inverse_factor[0, j]
        g, root = process.trend_factor[0, j], process.trend_root[0, j]
        diagonal = np.sum((inverse - g @ (root.T @ (root @ (g.T @ inverse)))) ** 2, axis=0)[at]
        error = (inverse.T @ process.target[0, j])[at] / diagonal
        own = process.noise[j, at] + process.jitter[0, j] * process.variance[0, j]
        mean[known, j], variance[known, j] = process.y[at, j] - error, 1.0 / diagonal - own
    return mean, np.maximum(variance, 1e-12)


def _turn(basis: Float[np.ndarray, "m q"], found: Information) -> Float[np.ndarray, "q q"]:
    """Return the rotation to scores that runs know or do not know; those that all know are principal components."""
    _, singular, right = np.linalg.svd(found.root)
    left_open = np.einsum("nki,nk,nkj->ij", right, 1.0 / (1.0 + singular**2), right) / len(singular)
    share, vectors = np.linalg.eigh(left_open)
    determined = share < DETERMINED
    if determined.all():
        return np.eye(len(share))
    known = vectors[:, determined]
    if known.size:
        size = np.linalg.svd(basis @ known, full_matrices=False)[2]
        known = known @ size.T
    return np.hstack([known, vectors[:, ~determined]])

"""Sampling a compiled target with nutpie, in coordinates that the warm-up learns.

Parameters on a ridge cost a gradient sampler dozens of steps a draw. So the warm-up has three stages: two short pilots,
from whose draws a triangular quadratic map is fitted by least squares, and the sampler's own warm-up in the mapped
coordinates. The map only changes how fast chains move: the density is transformed exactly, whatever its coefficients.

Of hundreds of parameters draws of a pilot do not tell the covariance, but second derivatives at some of them do:
effects of a hundred patients all move with the surrogate's error, which they share. Their map has a scale of each, a
root of the curvature of each subject's own parameters, and stretches along the directions that stand out then. Effects
that data identify are as wide as the noise, so that its sd and all of them would move together in small steps: their
widths are functions of what the curvature depends on, as far as it does.
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from uqms._typing import Array, Ints
from uqms.calibration.compiled import GroupedMap, Groups, Map, Movable, expand
from uqms.calibration.samplers.shared import LINE, pick
from uqms.errors import SamplingInterrupted

__all__ = ["fit_map", "learned", "nutpie_model"]

type _Variables = tuple[tuple[str, tuple[int, ...]], ...]

STAGES = (
    (0.15, 0.10),
    (0.10, 0.30),
)  # shares of the warm-up that each pilot tunes and keeps; the rest is the sampler's
LEAST = 400  # with a shorter warm-up there is no map
PER_COEFFICIENT = 8  # draws that a quadratic coefficient takes
FOLDS = 4
GAIN = 0.1  # by which the mean square error must fall for a dependence to be believed
RIDGE = 1e-3  # draws' worth of pull towards no dependence: a ridge of relative width 0.001 must not be bent by it
APART = 50.0  # between the log-densities of a pilot's chains, many times what they differ by within a mode
PER_CHAIN = 10  # draws at which they are compared
LEAST_GROUPED = 150  # with a shorter warm-up there is none
PILOT, DEPTH = (2, 40, 13), 5  # chains, warm-up and draws of its pilot, and the depth of its trees
POINTS = 8  # where second derivatives are taken
PROBES = 16  # of the curvature within groups
SCREEN, DRIVES = (2, 4), 0.05  # places and probes that say which coordinates change widths; of the sum of squares
MOST_LOST = 0.5  # share of the curvature that a step of a driver takes away
STEP = 1e-3  # of differences, on the scale of each coordinate
FEWEST, DIRECTIONS = 40, 320  # in which a linear map stretches: as many more than FEWEST as are in no group
ROUNDED = 1e-8  # of what is largest: nothing but rounding
ENOUGH = 200  # draws of the sampler's own warm-up in such coordinates, where its scales are nearly 1; else a quarter
LONGEST = 50.0  # of a direction, on this scale: where the density is flat or convex second derivatives say nothing


def learned[T: Movable](
    target: T,
    tune: int,
    settings: dict[str, Any],
    seed: int,
    starts: Array,
    *,
    rough: bool = False,
    groups: Groups | None = None,
) -> tuple[T, Array, int]:
    """Return the target in learned coordinates, unconstrained starts (n, P), and what is left of the warm-up.

    `rough` starts are only places with a density, which say nothing of the posterior's shape. `groups` allow a
    `GroupedMap` where a target has too many coordinates for another one.

    Raises
    ------
    SamplingInterrupted
        When a pilot was stopped.
    """
    if groups is not None and target.map is None and tune >= LEAST_GROUPED:
        return _grouped(target, tune, settings, seed, starts, groups)
    if tune < LEAST or target.size < 2 or not isinstance(target.map, Map):
        return target, starts, tune
    plain, first, moved = target, starts, target
    if not rough:
        moved = moved.with_map(fit_map(starts))
    left, diverged = tune, 0
    for stage, (tuned, kept) in enumerate(STAGES):
        count = (int(tuned * tune), int(kept * tune))
        starts, diverged = _pilot(moved, *count, settings, (seed + 1 + stage) % 2**31, starts)
        left -= sum(count)
        if _apart(plain, starts, settings["chains"]):  # a map between two modes would make both of them worse
            return plain, first, tune
        moved = moved.with_map(fit_map(starts))
    if diverged:  # a ridge that no quadratic function follows: the map would make it worse
        return plain, first, tune
    return moved, starts, left


def _apart(target: Movable, line: Array, chains: int) -> bool:
    """Tell whether the chains of a pilot, draws (n, P) one after the other, have log-densities of different modes."""
    levels = [
        np.median([target.evaluate(point)[0] for point in chain[:: math.ceil(len(chain) / PER_CHAIN)]])
        for chain in np.array_split(line, chains)
    ]
    return bool(np.ptp(levels) > APART)


def _grouped[T: Movable](
    target: T, tune: int, settings: dict[str, Any], seed: int, starts: Array, given: Groups
) -> tuple[T, Array, int]:
    groups, (chains, tuned, kept) = given.members, PILOT
    short = {**settings, "chains": min(chains, settings["chains"]), "maxdepth": DEPTH}
    line, _ = _pilot(target, tuned, kept, short, (seed + 1) % 2**31, starts)
    rng = np.random.default_rng(seed)
    with ThreadPoolExecutor(settings["cores"] or os.cpu_count()) as pool:  # compiled code lets go of Python
        slopes = np.array(list(pool.map(lambda z: target.evaluate(z)[1], line)))
        # The mean square of slopes is the mean curvature: a pilot too short to tell how wide its draws are tells this.
        curved = np.mean(slopes**2, axis=0)
        if not np.all((0.0 < curved) & (curved < np.inf) & (line.std(axis=0) > 0.0)):  # where the pilot stuck
            return target, starts, tune
        scale = 1.0 / np.sqrt(curved)
        which = np.linspace(len(line) - 1, 0, POINTS, endpoint=False).astype(int)
        places = line[which]

        def evaluated(points: Array) -> Array:
            return np.array(list(pool.map(lambda z: target.evaluate(z)[1], points)))

        def curvature_at(points: Array, own: Array) -> Callable[[Array], Array]:
            """Return what returns minus the second derivatives at each point times v, shape (points, P), by `scale`."""

            def product(v: Array) -> Array:
                return np.asarray((own - evaluated(points + STEP * scale * v)) * scale / STEP)

            return product

        curvature = curvature_at(places, slopes[which])
        roots = _roots(curvature, (slopes * scale)[:, groups], groups, target.size, rng)

        def change(driver: int, count: int, probes: int) -> Array:
            """Return the curvature within groups, and half of what it changes by between two steps of a coordinate."""
            sides, again = [], rng.integers(2**31)
            for sign in (1.0, -1.0):
                moved = places[:count].copy()
                moved[:, driver] += sign * scale[driver]
                product = curvature_at(moved, evaluated(moved))
                blocks = _blocks(product, groups, target.size, np.random.default_rng(again), probes).mean(axis=0)
                sides.append(np.einsum("jba,jbc,jcd->jad", roots, blocks, roots))
            return np.stack([0.5 * (sides[0] + sides[1]), 0.5 * (sides[0] - sides[1])])

        roots, drivers, growth = _growth(change, roots, given.drivers)

        def rooted(v: Array) -> Array:
            v = v.copy()
            v[groups] = np.einsum("jab,jb->ja", roots, v[groups])
            found = curvature(v)
            found[:, groups] = np.einsum("jba,pjb->pja", roots, found[:, groups])
            return found

        count = min(target.size, DIRECTIONS, FEWEST + target.size - groups.size)
        values, vectors = _spectrum(rooted, target.size, count, rng)
    if not np.isfinite(values).all():
        return target, starts, tune
    wide = _wide(values)
    usual = float(np.median(wide))  # of the directions that were not looked for
    stretch, growth = wide / usual, usual * growth
    new = GroupedMap(places.mean(axis=0), usual * scale, vectors, stretch, groups, roots, drivers, growth)
    left = tune - tuned - kept
    return target.with_map(new), places, min(left, max(ENOUGH, left // 4))


def _wide(curvatures: Array) -> Array:
    """Return how wide the density is where these are its curvatures at some places, shape (places, ...).

    Where curvature differs between places its mean may be near 0, and a stretch by that too large for all of them.
    """
    return np.asarray(1.0 / np.sqrt(np.maximum(np.sqrt(np.mean(curvatures**2, axis=0)), LONGEST**-2)))


def _roots(
    product: Callable[[Array], Array], slopes: Array, groups: Ints, size: int, rng: np.random.Generator
) -> Array:
    """Return a root (J, m, m) of the inverse of the curvature within each group, of some symmetric matrices.

    `product` as in `_spectrum`. Among thousands of directions there are some that are flat at all places by chance:
    none is taken for wider than its slopes at all draws, shape (n, J, m), say.
    """
    J, m = groups.shape
    if m < 2:  # one coordinate has its scale
        return np.ones((J, m, m))
    within = _blocks(product, groups, size, rng)
    if not np.isfinite(within).all():
        return np.broadcast_to(np.eye(m), (J, m, m)).copy()
    _, vectors = np.linalg.eigh(within.mean(axis=0))
    along = np.einsum("jae,pjab,jbe->pje", vectors, within, vectors)
    steep = np.mean(np.einsum("jae,nja->nje", vectors, slopes) ** 2, axis=0)
    wide = np.minimum(_wide(along), 1.0 / np.sqrt(np.maximum(steep, LONGEST**-2)))
    return np.asarray(vectors * wide[:, None, :])


def _blocks(
    product: Callable[[Array], Array], groups: Ints, size: int, rng: np.random.Generator, probes: int = PROBES
) -> Array:
    """Return the curvature within groups, shape (places, J, m, m).

    One product gives a column of the block of every group. What other groups contribute has random signs and averages
    out.
    """
    J, m = groups.shape
    columns = []
    for _ in range(probes):
        signs = rng.choice([-1.0, 1.0], size=(J, 1))
        for i in range(m):
            v = np.zeros(size)
            v[groups[:, i]] = signs[:, 0]
            columns.append(product(v)[:, groups] * signs)
    within = np.mean(np.reshape(columns, (probes, m, len(columns[0]), J, m)), axis=0).transpose(1, 2, 3, 0)
    return np.asarray(0.5 * (within + within.swapaxes(2, 3)))


def _growth(change: Callable[[int, int, int], Array], roots: Array, candidates: Ints) -> tuple[Array, Ints, Array]:
    """Return roots R (J, m, m), coordinates that change how wide groups are, and growth (D, J, m), for a `GroupedMap`.

    `change` returns the curvature within groups, as it is under the roots, and what it changes by with a step of a
    candidate, taken at some places with some probes, shape (2, J, m, m). In the directions in which the change by the
    first driver is diagonal, widths grow by half of what the curvature loses, so that it stays where drivers move.
    """
    none = roots, candidates[:0], np.zeros((0, *roots.shape[:2]))
    if not roots.size or not len(candidates):
        return none
    rough = np.array([change(int(one), *SCREEN)[1] for one in candidates])
    weight = np.sum(np.diagonal(rough, axis1=2, axis2=3) ** 2, axis=(1, 2))
    drivers = candidates[weight > DRIVES]
    if not len(drivers) or not np.isfinite(weight).all():
        return none
    found = np.array([change(int(one), POINTS, PROBES) for one in drivers])
    if not np.isfinite(found).all():
        return none
    (middle, *_), changes = found.swapaxes(0, 1)
    first = np.argmax(np.sum(np.diagonal(changes, axis1=2, axis2=3) ** 2, axis=(1, 2)))
    _, turn = np.linalg.eigh(changes[first])
    lost = np.einsum("jba,djbc,jca->dja", turn, changes, turn)
    along = np.einsum("jba,jbc,jca->ja", turn, middle, turn)
    lost /= np.where(along > 0.0, along, np.inf)  # flat or convex on average: nothing is known
    return roots @ turn, drivers, -0.5 * np.clip(lost, -MOST_LOST, MOST_LOST)


def _spectrum(
    product: Callable[[Array], Array], size: int, count: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return the outermost directions (k, P) of a mean of symmetric matrices, by Lanczos, and their curvatures.

    `product` returns each matrix times a vector, shape (matrices, P). Directions are orthonormal, all there are where
    `count` is `size`. Curvatures v' A v, shape (matrices, k), are not finite where products are not.
    SciPy's `eigsh` goes on until directions have converged, which no map needs, and then each matrix has its turn.
    """
    basis, images = np.zeros((count, size)), []
    rest, largest = rng.standard_normal(size), 0.0
    for i in range(count):
        basis[i] = rest / np.linalg.norm(rest)
        images.append(product(basis[i]))
        mean = images[-1].mean(axis=0)
        if not np.isfinite(mean).all():
            return np.full((1, count), np.nan), basis
        rest, largest = _beside(basis[: i + 1], mean), max(largest, float(np.linalg.norm(mean)))
        if np.linalg.norm(rest) <= ROUNDED * largest:  # these span all that the first one leads to
            rest = _beside(basis[: i + 1], rng.standard_normal(size))
    projected = np.stack(images, axis=1) @ basis.T
    mean = projected.mean(axis=0)
    _, vectors = np.linalg.eigh(0.5 * (mean + mean.T))
    return np.sum(vectors * (projected @ vectors), axis=1), vectors.T @ basis


def _beside(basis: Array, x: Array) -> Array:
    """Return the part of x (P,) that is orthogonal to the rows of a basis (k, P)."""
    for _ in range(2):  # once leaves what rounding adds
        x = x - basis.T @ (basis @ x)
    return x


def _pilot(
    target: Movable, tune: int, draws: int, settings: dict[str, Any], seed: int, starts: Array
) -> tuple[Array, int]:
    """Return the draws (n, P) of a short run on the real line, and how many of them diverged."""
    import nutpie
    import pyarrow  # type: ignore[import-untyped]

    model = nutpie_model(target, starts)
    raw = nutpie.sample(model, draws=draws, tune=tune, seed=seed, progress_bar=False, return_raw_trace=True, **settings)
    batches, stats = raw.get_arrow_trace()
    parts, diverged = [], 0
    for batch, stat in zip(batches, stats, strict=True):
        kept = ~np.asarray(stat.column("tuning").to_numpy())
        line = np.asarray(pyarrow.array(batch.column(LINE)).flatten()).reshape(batch.num_rows, -1)
        parts.append(line[kept])
        diverged += int(np.count_nonzero(np.asarray(stat.column("diverging").to_numpy())[kept]))
    if len(parts) != settings["chains"] or any(len(part) != draws for part in parts):
        raise SamplingInterrupted(
            "Sampling was stopped during the warm-up, before there were draws. Sample again.", None
        )
    return np.concatenate(parts), diverged


def fit_map(z: Array) -> Map:
    """Return the map under which unconstrained points z (n, P) look most like independent standard normals.

    A coordinate depends on those before it linearly or quadratically where that predicts points that were left out
    better, and clearly so; else not at all. `z` may hold chains, one after the other.
    """
    n, size = z.shape
    centre, spread = z.mean(axis=0), z.std(axis=0) + 1e-12
    order = np.argsort(-spread, kind="stable")  # the widest first: what is narrow given it comes after
    found = Map(order.astype(np.float64), centre, spread, centre, spread, Map.identity(size).coefficients)
    shift, scale, coefficients = centre.copy(), spread.copy(), [np.zeros(0)]
    for i in range(1, size):
        own, columns = order[i], found.features(z, i)
        y = z[:, own] - centre[own]
        count, left = 0, float(np.mean(y**2))
        for more in (i, columns.shape[1]):  # linear, quadratic
            if PER_COEFFICIENT * more <= n and (error := _left_out(columns[:, :more], y)) < (1.0 - GAIN) * left:
                count, left = more, error
        b, middle = _regression(columns[:, :count], y)
        rest = y - middle - columns[:, :count] @ b
        shift[own] = centre[own] + middle
        scale[own] = max(float(np.sqrt(rest @ rest / max(n - 1 - count, 1))), 1e-6 * spread[own])
        coefficients.append(np.concatenate([b, np.zeros(columns.shape[1] - count)]))
    return Map(found.order, shift, scale, centre, spread, tuple(coefficients))


def _regression(columns: Array, y: Array) -> tuple[Array, float]:
    """Return coefficients and intercept of a ridge regression."""
    middle, mean = columns.mean(axis=0), float(y.mean())
    x = columns - middle
    b = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (y - mean)) if x.shape[1] else np.zeros(0)
    return b, mean - float(middle @ b)


def _left_out(columns: Array, y: Array) -> float:
    """Return the mean square error of predicting each fold from the others; folds are whole chains where there are."""
    total = 0.0
    for fold in np.array_split(np.arange(len(y)), FOLDS):
        others = np.setdiff1d(np.arange(len(y)), fold)
        b, middle = _regression(columns[others], y[others])
        total += float(np.sum((y[fold] - middle - columns[fold] @ b) ** 2))
    return total / len(y)


def nutpie_model(target: Movable, starts: Array) -> Any:
    """Return the target as a model of nutpie: variables by name, and LINE, the unconstrained point.

    `starts` (n, P) are unconstrained points of which each chain takes one.
    """
    begin = pick(starts if target.map is None else target.map.inverse(starts))
    variables = (*target.variables, (LINE, (target.size,)))
    try:
        return _by_address(target, variables, begin)
    except (AttributeError, ImportError, TypeError):  # nutpie's private classes may change; this costs a tenth more
        return _by_python(target, variables, begin)


def _by_address(target: Movable, variables: _Variables, begin: Callable[[Any], Array]) -> Any:
    from nutpie.compile_pymc import CompiledPyMCModel

    names, shapes = [name for name, _ in variables], [shape for _, shape in variables]
    density_function, report_function = target.functions
    model = CompiledPyMCModel(
        dims=dict(target.dims),
        compiled_logp_func=density_function,
        compiled_expand_func=report_function,
        initial_point_func=begin,
        shared_data={"target": target},  # keeps what the block points to
        shared_var_keys={},
        user_data=target.block,
        n_expanded=_count(variables),
        shape_info=(names, None, shapes),
        logp_func=None,
        expand_func=None,
        _n_dim=target.size,
        _shapes=dict(variables),
        _coords=dict(target.coords),
    )
    model._make_model(np.zeros(target.size))
    return model


def _by_python(target: Movable, variables: _Variables, begin: Callable[[Any], Array]) -> Any:
    import nutpie.compiled_pyfunc

    ends = np.cumsum([math.prod(shape) for _, shape in variables])

    def make_density() -> Callable[..., tuple[float, Array]]:
        return target.evaluate

    def make_expand(*_: Any) -> Callable[..., dict[str, Array]]:
        def report(w: Array) -> dict[str, Array]:
            parts = np.split(expand(target.functions[1], target.block, w, int(ends[-1])), ends[:-1])
            return {name: part.reshape(shape) for (name, shape), part in zip(variables, parts, strict=True)}

        return report

    return nutpie.compiled_pyfunc.from_pyfunc(
        target.size,
        make_density,
        make_expand,
        [np.dtype(np.float64)] * len(variables),
        [shape for _, shape in variables],
        [name for name, _ in variables],
        coords=dict(target.coords),
        dims=dict(target.dims),
        make_initial_point_fn=begin,
    )


def _count(variables: _Variables) -> int:
    return sum(math.prod(shape) for _, shape in variables)

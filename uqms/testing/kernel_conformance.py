"""Whether a kernel of your own does what uqms relies on: every promise of `RadialKernel` and `JaxKernel`, measured.

==========  ==============================================================  ========
symbol      meaning                                                         shape
==========  ==============================================================  ========
r2          squared scaled distances, from 0 to very large                  (m,)
kappa, g    correlation and radial slope: g = 2 d kappa / d r2              (m,)
K           correlation of points with themselves                           (n, n)
u, ell      inputs in the unit cube, hyperparameters: of a `JaxKernel`      (n, d), (p,)
==========  ==============================================================  ========
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from uqms import _checks as check
from uqms._import_names import UnknownClassError
from uqms._typing import Array, RandomState, as_generator
from uqms.errors import InputError
from uqms.surrogates import JaxKernel, RadialKernel
from uqms.surrogates.kernel_files import description_of, kernel_of_description
from uqms.surrogates.kernels import Kernel, correlation, settings_of
from uqms.testing.surrogates import Check, Conformance

__all__ = ["check_kernel"]

DISTANCES = np.concatenate([[0.0], np.geomspace(1e-12, 1e12, 49)])  # r2
SMOOTH = np.geomspace(1e-2, 1e2, 41)  # r2 at which slopes are compared: below and above, differences are rounding
STEPS = (1e-2, 3e-3, 1e-3, 3e-4)  # of r2, relative
ROUNDING = 1e-12
JAX_ROUNDING = 1e-10
SLOPE = 1e-6  # of the largest slope: error of a five-point difference of a smooth function
SMALLEST_EIGENVALUE = -1e-10
POINTS = 60
INPUTS = (1, 2, 3, 6)
SCALES = (0.1, 0.3, 1.0, 3.0)
PAIRS = 12  # inputs between which a `JaxKernel` is differentiated
STEP = 1e-4  # of inputs and logarithms


class _Measured(NamedTuple):
    """What a check measured; the promise is kept when measured <= limit."""

    measured: float
    limit: float
    why: str


def check_kernel(
    kernel: RadialKernel | JaxKernel, *, inputs: Sequence[int] = INPUTS, rng: RandomState = 0
) -> Conformance:
    """Check that a kernel of your own does what training, prediction and calibration rely on.

    Use it in a test of your kernel. It finds what makes a surrogate wrong without an error: a slope of the wrong sign
    or size, a correlation that is not 1 at distance 0, a function that is positive definite for no data or only in one
    input, and what cannot be written to a file.

    Parameters
    ----------
    kernel
        A value of your class, with its settings. Parts of a sum or product are checked one by one.
    inputs
        Numbers of inputs to check it with. Give those of your simulators for a `JaxKernel` that is made for them.
    rng
        Of the points at which eigenvalues are computed.

    Returns
    -------
    Conformance
        `print` it, ask it for `ok`, `failed` or `table`, or let it `raise_failed`. Errors that the kernel raises are
        failed checks that quote them.

    Raises
    ------
    InputError
        When it is no `RadialKernel` and no `JaxKernel`.

    References
    ----------
    Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, section 4.1,
    doi:10.7551/mitpress/3206.001.0001.

    Examples
    --------
    >>> import uqms as uq
    >>> uq.testing.check_kernel(uq.RationalQuadratic(alpha=0.5)).ok
    True
    """
    if not isinstance(kernel, RadialKernel | JaxKernel):
        raise InputError(
            f"check_kernel: got {kernel!r}; give a value of a class that derives from uqms.RadialKernel, such as "
            "RationalQuadratic(), or from uqms.JaxKernel. Of a sum or product, check each part."
        )
    sizes = tuple(inputs)
    if not sizes or not all(check.is_whole(d, 1) for d in sizes):
        raise InputError(f"check_kernel: inputs is {inputs!r}; give numbers of inputs, such as inputs=(2,).")
    generator = as_generator(rng)
    checks = (
        _of_radial(kernel, sizes, generator) if isinstance(kernel, RadialKernel) else _of_jax(kernel, sizes, generator)
    )
    done: list[Check] = []
    for name, judge in checks:
        lost = next((one.name for one in done if one.name in ("value", "compiled") and not one.ok), None)
        done.append(_judged(name, judge) if lost is None else _unjudged(name, lost))
    return Conformance(tuple(done), "kernel")


type _Checks = list[tuple[str, Callable[[], _Measured]]]


def _of_radial(kernel: RadialKernel, sizes: tuple[int, ...], generator: np.random.Generator) -> _Checks:
    return [
        ("value", lambda: _value(kernel)),
        ("compiled", lambda: _compiled(kernel)),
        ("one at zero", lambda: _one_at_zero(kernel)),
        ("finite", lambda: _finite(kernel)),
        ("slope", lambda: _slope(kernel)),
        ("positive definite", lambda: _positive_definite(kernel, sizes, generator)),
        ("file", lambda: _file(kernel)),
    ]


def _of_jax(kernel: JaxKernel, sizes: tuple[int, ...], generator: np.random.Generator) -> _Checks:
    return [
        ("value", lambda: _value(kernel)),
        ("compiled", lambda: _compiled_jax(kernel, sizes)),
        ("correlation", lambda: _correlation(kernel, sizes)),
        ("finite", lambda: _finite_jax(kernel, sizes)),
        ("slope", lambda: _slope_jax(kernel, sizes)),
        ("positive definite", lambda: _positive_definite(kernel, sizes, generator)),
        ("file", lambda: _file(kernel)),
    ]


def _judged(name: str, judge: Callable[[], _Measured]) -> Check:
    try:
        measured, limit, why = judge()
    except Exception as error:  # of the kernel, which is not ours
        return Check(name, "one experiment", False, np.nan, 0.0, f"{type(error).__name__}: {error}")
    ok = bool(measured <= limit)
    return Check(name, "one experiment", ok, measured, limit, "" if ok else why)


def _unjudged(name: str, lost: str) -> Check:
    return Check(name, "one experiment", None, np.nan, 0.0, f"not judged, since {lost!r} was not passed")


def _value(kernel: Kernel) -> _Measured:
    settings = settings_of(kernel)
    same: Any = replace(kernel)  # type: ignore[type-var]
    off = float(same != kernel or hash(same) != hash(kernel) or settings_of(same) != settings)
    return _Measured(
        off, 0.0, "a kernel made of the same settings is not equal to it; let the dataclass compare fields."
    )


def _numbers(kernel: RadialKernel, r2: Array) -> tuple[Array, Array]:
    """Return kappa and g of compiled code."""
    column, origin = np.sqrt(r2)[:, None], np.zeros((1, 1))
    kappa, g, _ = kernel.correlation_slopes(column, origin, np.ones(1))
    return kappa[:, 0], g[0, :, 0]


def _compiled(kernel: RadialKernel) -> _Measured:
    r2 = np.sqrt(DISTANCES[1:-8]) ** 2  # compiled code sees squares of distances; "finite" judges 0
    compiled, python = np.array(_numbers(kernel, r2)), np.full((2, len(r2)), np.nan)
    for i, one in enumerate(r2):
        with suppress(ArithmeticError):  # compiled code gives infinity there, which "finite" judges
            python[:, i] = kernel.radial(float(one))
    both = np.isfinite(python) & np.isfinite(compiled)
    off = float(np.max(np.abs(compiled - python)[both] / np.maximum(np.abs(python[both]), 1.0), initial=0.0))
    return _Measured(off, ROUNDING, "compiled code gives other numbers than Python: does `radial` use what changes?")


def _one_at_zero(kernel: RadialKernel) -> _Measured:
    kappa, _ = _numbers(kernel, DISTANCES)
    at_zero = (
        f"kappa(0) is {kappa[0]:.6g}; a correlation is 1 there. Divide by its value at 0: the variance is learned."
    )
    beyond = f"|kappa| reaches {np.nanmax(np.abs(kappa)):.6g}; no correlation is beyond 1."
    off = abs(kappa[0] - 1.0)
    return _Measured(
        max(off, float(np.nanmax(np.abs(kappa))) - 1.0), ROUNDING, at_zero if not off <= ROUNDING else beyond
    )


def _finite(kernel: RadialKernel) -> _Measured:
    bad = ~np.isfinite(np.array(_numbers(kernel, DISTANCES))).all(axis=0)
    first = DISTANCES[bad.argmax()]
    advice = "write terms that overflow in another order" if first > 0.0 else "write out the limit of f'(r) / r there"
    return _Measured(float(bad.sum()), 0.0, f"kappa or g is not finite at r2 = {first:.3g}; {advice}.")


def _slope(kernel: RadialKernel) -> _Measured:
    _, g = _numbers(kernel, SMOOTH)
    best = np.full(len(SMOOTH), np.inf)
    for relative in STEPS:
        step = relative * SMOOTH
        far, near = (
            _numbers(kernel, SMOOTH + k * step)[0] - _numbers(kernel, SMOOTH - k * step)[0] for k in (2.0, 1.0)
        )
        best = np.minimum(best, np.abs(2.0 * (8.0 * near - far) / (12.0 * step) - g))
    worst = int(np.argmax(best))
    size = max(float(np.max(np.abs(g))), 1e-300)
    why = (
        f"at r2 = {SMOOTH[worst]:.3g} g is {g[worst]:.6g}, which is not 2 d kappa / d r2. Of kappa = f(r), g is "
        "f'(r) / r; where kappa falls it is negative."
    )
    return _Measured(float(best[worst]) / size, SLOPE, why)


def _positive_definite(kernel: Kernel, sizes: tuple[int, ...], generator: np.random.Generator) -> _Measured:
    smallest, where = np.inf, ""
    for d in sizes:
        grid = np.linspace(0.0, 1.0, POINTS)[:, None] * np.ones(d)
        for scale in SCALES:
            for kind, x in (("random points", generator.random((POINTS, d))), ("a line", grid)):
                value = float(np.linalg.eigvalsh(correlation(kernel, x, x, _hyperparameters(kernel, d, scale)))[0])
                if not value >= smallest:
                    smallest, where = value, f"{POINTS} {kind} of {d} inputs with length scales {scale}"
    why = f"the correlation matrix of {where} has the eigenvalue {smallest:.3g}: no process has that correlation."
    return _Measured(-smallest, -SMALLEST_EIGENVALUE, why)


# ---------------------------------------------------------------------------------------------- of a kernel in JAX
def _hyperparameters(kernel: Kernel, d: int, scale: float, sds: float = 0.0) -> Array:
    """Return equal length scales, and the others so many standard deviations from the median of their priors."""
    location, sd, _ = kernel.more(d)
    return np.exp(np.concatenate([np.full(d, np.log(scale)), location + sds * sd]))


def _compiled_jax(kernel: JaxKernel, sizes: tuple[int, ...]) -> _Measured:
    for d in sizes:
        kernel.correlation(np.full((1, d), 0.3), np.full((1, d), 0.6), _hyperparameters(kernel, d, 1.0))
    return _Measured(0.0, 0.0, "")


def _points(d: int) -> Array:
    """Return inputs in the cube: the first two are its lowest and highest corner."""
    return np.vstack([np.zeros(d), np.ones(d), np.random.default_rng(1).random((PAIRS - 2, d))])


def _settings(kernel: Kernel, d: int) -> list[Array]:
    return [_hyperparameters(kernel, d, scale, sds) for scale in SCALES for sds in (-1.0, 1.0)]


def _correlation(kernel: JaxKernel, sizes: tuple[int, ...]) -> _Measured:
    """Measure how far kappa is from 1 at equal inputs, from symmetry, and beyond 1."""
    worst, why = -np.inf, ""
    for d in sizes:
        u = _points(d)
        for ell in _settings(kernel, d):
            kappa = kernel.correlation(u, u.copy(), ell)
            at, off = np.abs(np.diagonal(kappa) - 1.0).max(), np.abs(kappa - kappa.T).max()
            largest = np.abs(kappa).max()
            for value, text in (
                (at, f"kappa(u, u) is off 1 by {at:.3g}: divide k(u, x) by sqrt(k(u, u) k(x, x))"),
                (off, f"kappa(u, x) and kappa(x, u) differ by {off:.3g}: a correlation is symmetric"),
                (largest - 1.0, f"|kappa| reaches {largest:.6g}: no correlation is beyond 1"),
            ):
                if not value <= worst:
                    worst, why = float(value), f"{text} (d = {d}, hyperparameters {ell.round(3).tolist()})."
    return _Measured(worst, JAX_ROUNDING, why)


def _finite_jax(kernel: JaxKernel, sizes: tuple[int, ...]) -> _Measured:
    bad, why = 0, ""
    for d in sizes:
        points = _points(d)
        x = points[2:]
        inside = np.vstack([x, x[:2]])  # of one shape with the corners, so that JAX compiles once
        lowest, highest = (np.tile(corner, (PAIRS, 1)) for corner in points[:2])
        for place, u in (
            ("inside of the cube", inside),
            ("where inputs are 0", lowest),
            ("where inputs are 1", highest),
        ):
            for ell in _settings(kernel, d):
                there, each = kernel.linearised(u, x, ell), np.ones((len(u), len(x)))
                parts = there.kappa, there.reverse_inputs(each), there.reverse_logs(each)
                if not all(np.isfinite(part).all() for part in parts):
                    bad += 1
                    why = why or (
                        f"kappa or a derivative is not finite {place}, with {d} inputs and hyperparameters "
                        f"{ell.round(3).tolist()}. Roots, logarithms and powers below 1 have no derivative at 0: keep "
                        "what they are taken of above 0, with jnp.where or jnp.clip."
                    )
    return _Measured(float(bad), 0.0, why)


def _slope_jax(kernel: JaxKernel, sizes: tuple[int, ...]) -> _Measured:
    """Measure derivatives by inputs and by the logarithms of hyperparameters against five-point differences."""
    worst, why = 0.0, ""
    for d in sizes:
        u = 0.1 + 0.8 * _points(d)
        x = np.random.default_rng(2).random((PAIRS - 2, d))
        ell = _hyperparameters(kernel, d, 0.7, 0.5)
        bar = np.random.default_rng(3).standard_normal((len(u), len(x)))

        def value(moved: Array, log: Array, bar: Array = bar, x: Array = x) -> Array:
            return np.sum(kernel.correlation(moved, x, np.exp(log)) * bar, axis=1)

        there = kernel.linearised(u, x, ell)
        by_inputs, by_logs = np.empty(u.shape), np.empty(len(ell))
        for c in range(d):
            step = STEP * np.eye(d)[c]
            by_inputs[:, c] = _five_points([value(u + k * step, np.log(ell)) for k in (-2, -1, 1, 2)])
        for c in range(len(ell)):
            step = STEP * np.eye(len(ell))[c]
            by_logs[c] = _five_points([value(u, np.log(ell) + k * step).sum() for k in (-2, -1, 1, 2)])
        for found, wanted, what in (
            (there.reverse_inputs(bar), by_inputs, "inputs"),
            (there.reverse_logs(bar), by_logs, "the logarithms of the hyperparameters"),
        ):
            off = float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1.0))
            if not off <= worst:
                worst = off
                why = (
                    f"the derivative by {what} differs from differences of kappa by {off:.3g} with {d} inputs: has the "
                    "correlation a kink or a jump, or does it stop gradients?"
                )
    return _Measured(worst, SLOPE, why)


def _five_points(values: Sequence[Any]) -> Any:
    before, low, high, after = values
    return (8.0 * (high - low) - (after - before)) / (12.0 * STEP)


def _file(kernel: Kernel) -> _Measured:
    try:
        same = kernel_of_description(json.loads(json.dumps(description_of(kernel), allow_nan=False)))
    except UnknownClassError as error:
        raise InputError(str(error)) from error
    return _Measured(float(same != kernel), 0.0, f"a file gives {same!r} back.")

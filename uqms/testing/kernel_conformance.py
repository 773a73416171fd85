"""Whether a kernel of your own does what uqms relies on: every promise of `RadialKernel`, measured.

==========  ==============================================================  ========
symbol      meaning                                                         shape
==========  ==============================================================  ========
r2          squared scaled distances, from 0 to very large                  (m,)
kappa, g    correlation and radial slope: g = 2 d kappa / d r2              (m,)
K           correlation of points with themselves                           (n, n)
==========  ==============================================================  ========
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from uqms._import_names import UnknownClassError
from uqms._typing import Array, RandomState, as_generator
from uqms.errors import InputError
from uqms.surrogates import RadialKernel
from uqms.surrogates.kernel_files import description_of, kernel_of_description
from uqms.surrogates.kernels import correlation, settings_of
from uqms.testing.surrogates import Check, Conformance

__all__ = ["check_kernel"]

DISTANCES = np.concatenate([[0.0], np.geomspace(1e-12, 1e12, 49)])  # r2
SMOOTH = np.geomspace(1e-2, 1e2, 41)  # r2 at which slopes are compared: below and above, differences are rounding
STEPS = (1e-2, 3e-3, 1e-3, 3e-4)  # of r2, relative
ROUNDING = 1e-12
SLOPE = 1e-6  # of the largest slope: error of a five-point difference of a smooth function
SMALLEST_EIGENVALUE = -1e-10
POINTS = 60
INPUTS = (1, 2, 3, 6)
SCALES = (0.1, 0.3, 1.0, 3.0)


class _Measured(NamedTuple):
    """What a check measured; the promise is kept when measured <= limit."""

    measured: float
    limit: float
    why: str


def check_kernel(kernel: RadialKernel, *, rng: RandomState = 0) -> Conformance:
    """Check that a kernel of your own does what training, prediction and calibration rely on.

    Use it in a test of your kernel. It finds what makes a surrogate wrong without an error: a slope of the wrong sign
    or size, a correlation that does not start at 1, a function that is positive definite for no data or only in one
    input, and what cannot be written to a file.

    Parameters
    ----------
    kernel
        A value of your class, with its settings. Parts of a sum or product are checked one by one.
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
        When it is no `RadialKernel`.

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
    if not isinstance(kernel, RadialKernel):
        raise InputError(
            f"check_kernel: got {kernel!r}; give a value of a class that derives from uqms.RadialKernel, such as "
            "RationalQuadratic(). Of a sum or product, check each part."
        )
    generator = as_generator(rng)
    checks: list[tuple[str, Callable[[], _Measured]]] = [
        ("value", lambda: _value(kernel)),
        ("compiled", lambda: _compiled(kernel)),
        ("one at zero", lambda: _one_at_zero(kernel)),
        ("finite", lambda: _finite(kernel)),
        ("slope", lambda: _slope(kernel)),
        ("positive definite", lambda: _positive_definite(kernel, generator)),
        ("file", lambda: _file(kernel)),
    ]
    done: list[Check] = []
    for name, check in checks:
        lost = next((one.name for one in done if one.name in ("value", "compiled") and not one.ok), None)
        done.append(_judged(name, check) if lost is None else _unjudged(name, lost))
    return Conformance(tuple(done), "kernel")


def _judged(name: str, check: Callable[[], _Measured]) -> Check:
    try:
        measured, limit, why = check()
    except Exception as error:  # of the kernel, which is not ours
        return Check(name, "one experiment", False, np.nan, 0.0, f"{type(error).__name__}: {error}")
    ok = bool(measured <= limit)
    return Check(name, "one experiment", ok, measured, limit, "" if ok else why)


def _unjudged(name: str, lost: str) -> Check:
    return Check(name, "one experiment", None, np.nan, 0.0, f"not judged, since {lost!r} was not passed")


def _value(kernel: RadialKernel) -> _Measured:
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


def _positive_definite(kernel: RadialKernel, generator: np.random.Generator) -> _Measured:
    smallest, where = np.inf, ""
    for d in INPUTS:
        grid = np.linspace(0.0, 1.0, POINTS)[:, None] * np.ones(d)
        for scale in SCALES:
            for kind, x in (("random points", generator.random((POINTS, d))), ("a line", grid)):
                value = float(np.linalg.eigvalsh(correlation(kernel, x, x, np.full(d, scale)))[0])
                if not value >= smallest:
                    smallest, where = value, f"{POINTS} {kind} of {d} inputs with length scales {scale}"
    why = f"the correlation matrix of {where} has the eigenvalue {smallest:.3g}: no process has that correlation."
    return _Measured(-smallest, -SMALLEST_EIGENVALUE, why)


def _file(kernel: RadialKernel) -> _Measured:
    try:
        same = kernel_of_description(json.loads(json.dumps(description_of(kernel), allow_nan=False)))
    except UnknownClassError as error:
        raise InputError(str(error)) from error
    return _Measured(float(same != kernel), 0.0, f"a file gives {same!r} back.")

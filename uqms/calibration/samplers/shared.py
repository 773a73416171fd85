"""What samplers share: checks of their settings, an import, and how they hand their draws back."""

import importlib
import inspect
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from uqms._typing import Array
from uqms.calibration.whitened import Whitened
from uqms.errors import PACKAGE, ConvergenceWarning, InputError, NumericalWarning, SamplingError

# Frames that a warning of a constructor skips: those of the package, and of the code that dataclasses makes.
CONSTRUCTORS = (*PACKAGE, "<string>")

__all__ = ["LINE", "check_share", "fewer", "import_beside", "pick", "trace_of", "warn_of_few"]

SAME = 0.05  # of the different points of a sampler: if more than that are one value, the prior is rounded there
LEAST = 100  # draws of a refit
LINE = "__line__"  # the point of the real line, beside the parameters, in draws of a compiled target


def check_share(owner: str, name: str, value: object, low: float, high: float) -> None:
    """Raise InputError when a setting is no number from `low` to below `high`."""
    number = isinstance(value, float | np.floating)
    if not number or not low <= value < high:  # type: ignore[operator]
        raise InputError(f"{owner}: {name} is {value!r}; give a number from {low:g} to below {high:g}.")


def import_beside(module: str) -> None:
    """Import what takes seconds beside the work that comes before it is used.

    A new thread also has a short stack, through which ArviZ walks when nutpie imports it.
    """
    threading.Thread(target=importlib.import_module, args=(module,), daemon=True).start()


def warn_of_few(owner: str, chains: int, draws: int, what: str = "draws a chain") -> None:
    """Warn of settings with which convergence cannot be judged, or intervals are rough."""
    if chains < 2:
        warnings.warn(
            f"{owner}: {chains} chain; convergence of a single chain cannot be judged. Use 4.",
            ConvergenceWarning,
            stacklevel=_users_line(),
        )
    if draws < 100:
        warnings.warn(
            f"{owner}: {draws} {what} are too few for intervals. Use 1000.",
            ConvergenceWarning,
            stacklevel=_users_line(),
        )


def _users_line() -> int:
    """Return the `stacklevel` of the user's line for a warning of the caller; `skip_file_prefixes` keeps "<string>"."""
    level, frame = 1, inspect.currentframe()
    frame = None if frame is None else frame.f_back
    while frame is not None and frame.f_code.co_filename.startswith(CONSTRUCTORS):
        level, frame = level + 1, frame.f_back
    return level


def trace_of(space: Whitened, z: Array, stats: dict[str, tuple[tuple[str, ...], Array]]) -> Any:
    """Return the DataTree of points z (chains, draws, D), with the statistics given by name as (dims, values)."""
    chains, draws, d = z.shape
    theta = space.theta(z.reshape(-1, d))
    bad = [name for name, values in theta.items() if not np.all(np.isfinite(values))]
    if bad:
        raise SamplingError(
            f"Draws of {bad} are not finite: the posterior lies outside of what the prior's tails hold."
        )
    _warn_of_one_value(space, z.reshape(-1, d), theta)
    dims = ("chain", "draw")
    variables: dict[str, Any] = {name: (dims, values.reshape(chains, draws)) for name, values in theta.items()}
    if space.latents:
        variables["latents"] = ((*dims, "latent"), z[:, :, len(space.names) :])
    coords = {"chain": np.arange(chains), "draw": np.arange(draws)}
    return xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(variables, coords=coords),
            "sample_stats": xr.Dataset(dict(stats), coords=coords),
        }
    )


def _warn_of_one_value(space: Whitened, z: Array, theta: Mapping[str, Array]) -> None:
    """Warn if different points of the whitened space are one value of a quantity: its prior is rounded there."""
    for column, name in zip(z.T, space.names, strict=False):
        first = np.unique(column, return_index=True)[1]
        values, counts = np.unique(theta[name][first], return_counts=True)
        if counts.max() > max(1, SAME * len(first)):
            prior = space.problem.priors[name]
            warnings.warn(
                f"{counts.max()} of {len(first)} different points are {name} = {values[np.argmax(counts)]:.6g}: "
                f"quantiles of {prior.label} are rounded there. If the prior is a class of your own, check that "
                "_quantile(p) and _isf(q) are exact for p and q as small as 1e-100, or leave them out; else the "
                "posterior is nearer to an end of the prior than numbers can tell.",
                NumericalWarning,
                skip_file_prefixes=PACKAGE,
            )


def pick(starts: Array) -> Callable[[Any], Array]:
    """Return a function from a chain's seed to its start: chains ask in any order, their seeds are always the same."""

    def start(seed: Any) -> Array:
        return np.array(starts[np.random.default_rng(seed).integers(len(starts))])

    return start


def fewer(count: int, divisor: int) -> int:
    """Return a part of a count of draws, and not less than `LEAST` unless there are fewer."""
    return min(count, max(LEAST, count // divisor))

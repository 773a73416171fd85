"""What each input does alone: low and high, with the others at their medians."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import RandomState
from uqms.calibration.construction import space_of
from uqms.errors import InputError
from uqms.parameters import ParameterSpace
from uqms.propagation.result import propagate
from uqms.surrogates import Surrogate

__all__ = ["tornado"]

FUNCTIONS = 256


@taught
@single_threaded
def tornado(
    surrogate: Surrogate,
    *,
    of: str | Callable[[xr.Dataset], Any] | None = None,
    inputs: ParameterSpace | None = None,
    conditions: Mapping[str, float] | None = None,
    coords: Mapping[str, object] | None = None,
    prob: float = 0.9,
    rng: RandomState = 0,
) -> xr.Dataset:
    """Return a quantity with each input in turn at a low and a high value, and the others at their medians.

    Use it for a first look, and where each bar has to be explained to others. It does not see interactions, and says
    nothing of how likely its ends are together: `propagate` does.

    Parameters
    ----------
    surrogate
        Of the simulator.
    of
        An output that is one number (may be left out when it is the only one), or a function of a table as in
        `propagate`, to one number per draw.
    inputs
        The distribution of the inputs; by default that of the surrogate.
    conditions
        Known inputs, a number each.
    coords
        By dim, when the function needs others than were simulated.
    prob
        Low and high are the ends of this central part of each prior, inside of the design box.
    rng
        For the functions of the surrogate.

    Returns
    -------
    xarray.Dataset
        Sorted by size: "value" of the quantity, dims ("input", "end") with ends "low" and "high", "at", the input
        there, and "lower" and "upper", the 95 % interval of the value given the surrogate's error; "baseline", its
        value at the medians.

    Raises
    ------
    InputError
        As `propagate`; when `prob` is not between 0 and 1, or the quantity is not one number.

    Examples
    --------
    >>> import uqms as uq
    >>> space = uq.ParameterSpace(a=uq.Normal(0.0, 1.0), b=uq.Normal(0.0, 2.0))
    >>> simulator = uq.DirectSimulator(lambda a, b: a + b, space=space, outputs={"y": ()}, vectorized=True)
    >>> [str(name) for name in uq.tornado(simulator)["input"].values]
    ['b', 'a']
    """
    if not isinstance(surrogate, Surrogate):
        raise InputError(f"tornado: got a {type(surrogate).__name__}; give a surrogate.")
    check.probability("tornado", "prob", prob)
    space = space_of(surrogate) if inputs is None else inputs
    unknown = [name for name in space.names if name not in surrogate.domain.names]
    if unknown:
        raise InputError(f"tornado: {unknown} are no inputs of the surrogate: {list(surrogate.domain.names)}.")
    names, p = space.names, len(space.names)
    levels = np.full((1 + 2 * p, p), 0.5)
    levels[1 + np.arange(p), np.arange(p)] = 0.5 - 0.5 * prob
    levels[1 + p + np.arange(p), np.arange(p)] = 0.5 + 0.5 * prob
    x = np.asarray(space.quantile(levels))
    outputs = list(surrogate.layouts)
    wanted = outputs[0] if of is None and len(outputs) == 1 else of
    if wanted is None or (not callable(wanted) and wanted not in outputs):
        raise InputError(f"tornado: of is {of!r}; give a function, or one of the outputs {outputs}.")
    name = wanted if isinstance(wanted, str) else getattr(wanted, "__name__", "quantity")
    name = "quantity" if name == "<lambda>" else name
    result = propagate(
        surrogate,
        dict(zip(names, x.T, strict=True)),
        of={name: wanted},
        conditions=conditions,
        coords=coords,
        functions=FUNCTIONS,
        rng=rng,
    )
    y, like = result.full(name)
    if y.ndim > 4:
        raise InputError(f"tornado: {name!r} has the dims {list(like.dims)}; give a function to one number per draw.")
    values = y[:, :, 0, 0]  # (F, 1 + 2 p)
    found = np.stack([values.mean(axis=0), *np.quantile(values, [0.025, 0.975], axis=0)])
    low, high = found[:, 1 : 1 + p], found[:, 1 + p :]
    order = np.argsort(-np.abs(high[0] - low[0]), kind="stable")
    both = np.stack([low, high], axis=-1)[:, order]
    at = np.stack([np.diag(x[1 : 1 + p]), np.diag(x[1 + p :])], axis=-1)[order]
    dims = ("input", "end")
    return xr.Dataset(
        {
            "value": (dims, both[0]),
            "lower": (dims, both[1]),
            "upper": (dims, both[2]),
            "at": (dims, at),
            "baseline": float(found[0, 0]),
            "input_unit": ("input", [space.units[names[i]] for i in order]),
        },
        coords={"input": [names[i] for i in order], "end": ["low", "high"]},
        attrs={"output": name, "unit": like.attrs.get("unit", ""), "prob": prob},
    )

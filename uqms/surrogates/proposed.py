"""Points that were proposed for runs of a surrogate's simulator, as a design."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from uqms._typing import Array
from uqms.parameters import Box, ParameterSpace

__all__ = ["proposed_design"]


def proposed_design(surrogate: Any, box: Box, x: Array, recipe: Mapping[str, object]) -> xr.Dataset:
    """Return the design of points x (n, d) in own units, with the space of the runs where it has the same inputs."""
    text = getattr(surrogate, "attrs", {}).get("space")
    space = None if text is None else ParameterSpace.from_json(text)
    space = space if space is not None and set(space.inputs) == set(box.names) else None
    plain = {"role": "input", "kind": "parameter", "unit": "", "description": ""}
    names = box.names if space is None else space.inputs
    data = {
        name: (
            "run",
            np.ascontiguousarray(x[:, box.names.index(name)]),
            plain if space is None else space.attributes(name),
        )
        for name in names
    }
    attrs = {"box": json.dumps(box.to_dict(), allow_nan=False), "design": json.dumps(recipe, allow_nan=False)}
    return xr.Dataset(data, attrs=attrs if space is None else {"space": space.to_json(), **attrs})

"""Results that are given alone or by name."""

from collections.abc import Mapping
from typing import Any

import xarray as xr

__all__ = ["by_name"]


def by_name(given: Any) -> dict[str, Any]:
    """Return results by name; one that was given alone is called ""."""
    if given is None:
        return {}
    plain = isinstance(given, Mapping) and not isinstance(given, xr.Dataset)
    return {str(name): one for name, one in given.items()} if plain else {"": given}

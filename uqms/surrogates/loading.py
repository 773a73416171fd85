"""Surrogates from files, whatever kind they are of; `archive` reads and writes, `stored` knows the parts."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from uqms._teaching import taught
from uqms._typing import Array
from uqms.errors import InputError
from uqms.surrogates.archive import VERSION, Stored, loaded, upgraded
from uqms.surrogates.chain import Chain, link_from_dict
from uqms.surrogates.classification import FittedProbability
from uqms.surrogates.fidelity.surrogate import MultiFidelitySurrogate
from uqms.surrogates.gp import GaussianProcessSurrogate
from uqms.surrogates.neighbours import LocalGaussianProcessSurrogate
from uqms.surrogates.regimes import RegimeSurrogate
from uqms.surrogates.stored import FORMAT

__all__ = ["Saved", "load_surrogate", "packed", "unpacked"]

Saved = GaussianProcessSurrogate | MultiFidelitySurrogate | LocalGaussianProcessSurrogate | Chain
Inside = Saved | RegimeSurrogate | FittedProbability


@taught
def load_surrogate(path: str | os.PathLike[str]) -> Saved:
    """Read a surrogate that `save` wrote; nothing in the file is run, and it cannot ask for more memory than it holds.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    FormatError
        When the file is truncated or is no surrogate; `FormatVersionError` when a newer uqms wrote it.
    IntegrityError
        When the content is not what was written.
    UnsafeFileError
        When the file holds pickled objects, or claims far more than it has.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 8, rng=1)
    >>> surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": np.sin(design["k"].values)}))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     same = load_surrogate(surrogate.save(f"{folder}/surrogate.npz"))
    >>> bool(same.predict({"k": 1.0}).mean["y"] == surrogate.predict({"k": 1.0}).mean["y"])
    True
    """
    return loaded(path, FORMAT, "surrogate", _restored)


def _restored(header: Mapping[str, Any], arrays: dict[str, Array]) -> Saved:
    if "chain" in header:
        return _chain(header["chain"], arrays)
    if "ladder" in header:
        return MultiFidelitySurrogate.restored(header, arrays)
    if "local" in header:
        return LocalGaussianProcessSurrogate.restored(header, arrays)
    return GaussianProcessSurrogate.restored(header, arrays)


def _chain(header: Mapping[str, Any], arrays: dict[str, Array]) -> Chain:
    """Return a chain: a surrogate that several members are is read once, and stays one function."""
    functions = []
    for f, inner in enumerate(header["functions"]):
        prefix = f"function{f}."
        own = {name.removeprefix(prefix): arrays.pop(name) for name in list(arrays) if name.startswith(prefix)}
        functions.append(unpacked(inner, own))
    members = {str(name): functions[int(f)] for name, f in header["members"].items()}
    links = {str(target): link_from_dict(source) for target, source in header["links"].items()}
    return Chain(links=links, **members)  # type: ignore[arg-type]  # what is no surrogate is refused


def packed(fitted: object) -> Stored | None:
    """Return what a file of something else holds of a surrogate or probability; None of what has no `stored`.

    Raises
    ------
    InputError
        When there is code in it, such as a cheap model in Python as its mean.
    """
    if not isinstance(fitted, Inside):
        return None
    stored = fitted.stored()
    return Stored({"version": VERSION, **stored.header}, stored.arrays)


def unpacked(header: Mapping[str, Any], arrays: dict[str, Array]) -> Inside:
    """Return the surrogate or probability of which `packed` returned this; arrays are taken out of the mapping.

    Raises
    ------
    InputError
        When the parts do not belong together.
    """
    header = dict(header)
    version = header.pop("version")
    if not isinstance(version, int) or not 4 <= version <= VERSION:
        raise InputError(f"its surrogate has format version {version!r}; this uqms reads up to {VERSION}")
    for name, values in arrays.items():
        if values.dtype != np.float64 or not np.isfinite(values).all():
            raise InputError(f"{name} of a surrogate holds something else than finite numbers")
    header = upgraded(header) if version < VERSION else header
    if "regimes" in header:
        return RegimeSurrogate.restored(header, arrays)
    return FittedProbability.restored(header, arrays) if "event" in header else _restored(header, arrays)

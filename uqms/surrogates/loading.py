"""Surrogates from files, whatever kind they are of; `archive` reads and writes, `stored` knows the parts."""

import os
from collections.abc import Mapping
from typing import Any

from uqms._typing import Array
from uqms.surrogates.archive import loaded
from uqms.surrogates.fidelity.surrogate import MultiFidelitySurrogate
from uqms.surrogates.gp import GaussianProcessSurrogate
from uqms.surrogates.neighbours import LocalGaussianProcessSurrogate
from uqms.surrogates.stored import FORMAT

__all__ = ["Saved", "load_surrogate"]

Saved = GaussianProcessSurrogate | MultiFidelitySurrogate | LocalGaussianProcessSurrogate


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
    if "ladder" in header:
        return MultiFidelitySurrogate.restored(header, arrays)
    if "local" in header:
        return LocalGaussianProcessSurrogate.restored(header, arrays)
    return GaussianProcessSurrogate.restored(header, arrays)

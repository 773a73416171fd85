"""What all tests share: figures without a screen, and a generator with a seed."""

import os
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest

os.environ.setdefault("MPLBACKEND", "Agg")

# Doctests are looked for in every module; this one imports an extra.
collect_ignore = [] if find_spec("jax") else ["surrogates/jax_kernels.py"]


@pytest.hookimpl(tryfirst=True)  # before the names of groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file on one worker, for its fixtures, but share out the pages of the documentation.

    These come first: a worker that took them last would work alone for a third of the time.
    """
    items.sort(key=lambda item: item.path.name != "test_docs.py")
    for item in items:
        if item.get_closest_marker("xdist_group") is not None:
            continue
        page = item.path.name == "test_docs.py" and item.get_closest_marker("slow") is not None
        item.add_marker(pytest.mark.xdist_group(item.name if page else str(item.path)))


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a generator with a fixed seed, new for every test."""
    return np.random.default_rng(1)


@pytest.fixture
def interpreted() -> Iterator[None]:
    """Let PyTensor evaluate in Python: what is evaluated a few times is not worth a minute of compilation."""
    import pytensor  # tests of what an import brings in must not find it here

    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        yield

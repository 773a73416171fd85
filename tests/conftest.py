"""What all tests share: figures without a screen, and a generator with a seed."""

import os
from collections.abc import Iterator

import numpy as np
import pytest

os.environ.setdefault("MPLBACKEND", "Agg")


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

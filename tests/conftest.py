"""What all tests share: figures without a screen, and a generator with a seed."""

import os

import numpy as np
import pytest

os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a generator with a fixed seed, new for every test."""
    return np.random.default_rng(1)

"""The checks of array shapes that `make test-all` switches on are on, and leave compiled functions alone."""

import importlib
from types import ModuleType

import numpy as np
import pytest
from jaxtyping import TypeCheckError


@pytest.fixture(autouse=True)
def switched_on(request: pytest.FixtureRequest) -> None:
    """Skip where shapes are not checked: that takes a quarter of the time of the quick tests."""
    if not request.config.getoption("jaxtyping_packages"):
        pytest.skip("shapes are checked by make test-all")


@pytest.fixture(scope="module")
def outputs() -> ModuleType:
    """Return a module of uqms with shapes in its types."""
    return importlib.import_module("uqms.surrogates.training")


def test_a_wrong_shape_inside_the_package_is_an_error(outputs: ModuleType) -> None:
    trend_basis = outputs.trend_basis
    assert trend_basis(np.ones((3, 2)), 1).shape == (3, 1)
    with pytest.raises(TypeCheckError, match="trend_basis"):
        trend_basis(np.ones(3), 1)


def test_compiled_kernels_compile() -> None:
    fused = importlib.import_module("uqms.surrogates.fused")
    # One draw, one score, two runs, one input, a constant trend, a kernel of one part, neither directions nor an
    # amplitude nor kernels of scores nor a local scale; then weight, part, inputs.
    block = np.array([1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.2, 0.7])
    # After them one length scale, variance, trend, 2 + 2 weights, 2 x 2 factor, 2 + 2 for the trend and its root.
    assert fused.block_size(block) == 15 + 16


def test_what_has_no_shape_in_its_types_is_left_as_it_is(outputs: ModuleType) -> None:
    space = importlib.import_module("uqms.parameters.space")
    assert not hasattr(space.ParameterSpace.names.fget, "__wrapped__")
    assert hasattr(outputs.trend_basis, "__wrapped__")

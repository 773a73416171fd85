"""Checks of arguments that all rooms share."""

import numpy as np
import pytest

from uqms import _checks as check
from uqms.errors import InputError


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(200), 10**30])
def test_whole_numbers(value: object) -> None:
    assert check.is_whole(value, 3)
    check.whole("owner", "n", value, least=3)


@pytest.mark.parametrize("value", [2, True, np.True_, 3.0, np.float64(3.0), "3", None, [3], np.nan])
def test_what_is_no_whole_number_of_at_least_three(value: object) -> None:
    assert not check.is_whole(value, 3)
    with pytest.raises(InputError, match=r"^owner: n is .*; give a whole number of at least 3\.$"):
        check.whole("owner", "n", value, least=3)


def test_a_whole_number_that_may_be_left_out() -> None:
    check.whole("owner", "n", None, optional=True)
    with pytest.raises(InputError, match=r"^owner: n is 0; give a whole number of at least 1, or None\.$"):
        check.whole("owner", "n", 0, optional=True)


@pytest.mark.parametrize("value", [0.5, np.float32(0.25), np.float64(1e-300)])
def test_probabilities(value: object) -> None:
    assert check.probability("owner", "prob", value) == float(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.0, 1.0, 1, 95, -0.1, True, "0.5", None, np.nan, np.inf, [0.5]])
def test_what_is_no_probability(value: object) -> None:
    with pytest.raises(InputError, match=r"^owner: prob is .*; give a probability between 0 and 1, such as 0\.95\.$"):
        check.probability("owner", "prob", value)

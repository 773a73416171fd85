"""The design box and its map to the unit cube."""

import json

import numpy as np
import pytest

import uqms as uq
from uqms.errors import InputError

BOX = uq.Box(
    ("dose", "rate", "fraction"),
    lower=(-100.0, 0.01, 0.05),
    upper=(400.0, 10.0, 0.999),
    scale=("identity", "log", "logit"),
    hard=((True, True), (False, False), (True, False)),
)


def test_unit_coordinates_in_closed_form():
    assert BOX.d == 3
    np.testing.assert_allclose(BOX.to_unit([[-100, 0.01, 0.05], [400, 10, 0.999]]), [[0, 0, 0], [1, 1, 1]], atol=1e-15)
    middle = 1 / (1 + np.exp(-0.5 * (np.log(0.05 / 0.95) + np.log(0.999 / 0.001))))
    np.testing.assert_allclose(BOX.to_unit([150, np.sqrt(0.1), middle]), 0.5, rtol=1e-14)
    np.testing.assert_allclose(BOX.to_unit([900, 1e4, middle]), [2.0, 2.0, 0.5], rtol=1e-14)  # nothing is clipped
    assert BOX.to_unit(np.empty((0, 3))).shape == (0, 3)


def test_maps_are_inverse_to_each_other(rng):
    u = rng.uniform(-0.2, 1.2, (5, 40, 3))
    np.testing.assert_allclose(BOX.to_unit(BOX.from_unit(u)), u, atol=1e-12)
    x = BOX.from_unit(rng.random((40, 3)))
    np.testing.assert_allclose(BOX.from_unit(BOX.to_unit(x)), x, rtol=1e-12)
    np.testing.assert_array_equal(BOX.from_unit([[0, 0, 0], [1, 1, 1]]), [BOX.lower, BOX.upper])


def test_gradient_equals_finite_differences(rng):
    x = BOX.from_unit(rng.uniform(0.05, 0.95, (30, 3)))
    gradient = BOX.unit_gradient(x)
    for j in range(3):
        h = np.zeros_like(x)
        h[:, j] = 1e-5 * (100.0 if j == 0 else np.minimum(x[:, j], abs(1.0 - x[:, j])))
        difference = (BOX.to_unit(x + h) - BOX.to_unit(x - h)) / (2 * h[:, [j]])
        np.testing.assert_allclose(gradient[:, j], difference[:, j], rtol=1e-6)
        assert np.all(np.delete(difference, j, axis=1) == 0.0)


def test_logarithms_go_on_as_their_tangent_from_a_quarter_of_the_box_below():
    """So that a subject's rate of -1, or 0, has an image, a derivative and an inverse."""
    box = uq.Box(("rate",), lower=(0.01,), upper=(10.0,), scale=("log",))
    width = np.log(1000.0)
    turn = 0.01 * np.exp(-0.25 * width)
    x = np.array([-1.0, 0.0, 0.5 * turn, turn, 1.01 * turn, 0.005])
    tangent = np.log(turn / 0.01) + (x[:3] - turn) / turn
    wanted = np.append(tangent, np.log(x[3:] / 0.01)) / width
    np.testing.assert_allclose(box.to_unit(x[:, None])[:, 0], wanted, rtol=1e-13)
    np.testing.assert_allclose(box.from_unit(wanted[:, None])[:, 0], x, rtol=1e-12, atol=1e-18)
    np.testing.assert_allclose(box.unit_gradient(x[:, None])[:, 0] * width, 1.0 / np.maximum(x, turn), rtol=1e-13)
    assert not box.contains(x[:, None]).any()


def test_inputs_are_left_as_they_are():
    x = np.array([[1.0, 1.0, 0.5]])
    kept = x.copy()
    BOX.to_unit(x), BOX.unit_gradient(x), BOX.from_unit(x), BOX.contains(x)
    np.testing.assert_array_equal(x, kept)


def test_contains():
    x = [[0, 1, 0.5], [401, 1, 0.5], [0, 0.009, 0.5], [0, -1, 0.5], [0, 0, 0.5], [np.nan, 1, 0.5], [400, 10, 0.999]]
    assert BOX.contains(x).tolist() == [True, False, False, False, False, False, True]
    assert not BOX.contains([400.1, 1, 0.5])
    assert BOX.contains([400.1, 1, 0.5], tolerance=1e-3)


def test_columns_by_name():
    by_name = BOX.to_unit({"fraction": 0.5, "dose": [0.0, 100.0], "rate": 1.0, "other": "ignored"})
    np.testing.assert_array_equal(by_name, BOX.to_unit([[0, 1, 0.5], [100, 1, 0.5]]))
    with pytest.raises(InputError, match="x has no rate"):
        BOX.to_unit({"dose": 1, "fraction": 0.5})
    with pytest.raises(InputError, match="differ in shape"):
        BOX.to_unit({"dose": [1, 2], "fraction": [0.5] * 3, "rate": 1})
    for bad in (1.0, [1.0, 2.0], np.ones((3, 2))):
        with pytest.raises(InputError, match="3 columns dose, rate, fraction"):
            BOX.to_unit(bad)


def test_select_keeps_all_that_belongs_to_an_input():
    part = BOX.select(["fraction", "dose"])
    assert part == uq.Box(
        ("fraction", "dose"), (0.05, -100.0), (0.999, 400.0), ("logit", "identity"), ((True, False), (True, True))
    )
    assert BOX.select("rate").names == ("rate",)
    with pytest.raises(InputError, match="The box has no weight; it has dose, rate, fraction"):
        BOX.select(["weight"])


def test_json_round_trip():
    box = uq.ParameterSpace(a=uq.Normal(1 / 3, 0.1), b=uq.Gamma(2, 3), c=uq.HalfNormal(1)).box()
    assert uq.Box.from_dict(json.loads(json.dumps(box.to_dict(), allow_nan=False))) == box
    for bad in ({}, [], {**box.to_dict(), "more": 1}, {**box.to_dict(), "lower": "ab"}):
        with pytest.raises(InputError):
            uq.Box.from_dict(bad)


def test_lists_and_defaults():
    box = uq.Box(["a"], [0], [np.float32(2)])
    assert box == uq.Box(("a",), (0.0,), (2.0,), ("identity",), ((False, False),))
    assert hash(box) == hash(uq.Box(("a",), (0.0,), (2.0,)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ()}, "at least one input"),
        ({"names": ("a", "a")}, "repeat"),
        ({"names": "ab"}, "give a tuple"),
        ({"names": ("a", 1)}, "a name is 1"),
        ({"lower": (0.0,)}, "lower has 1 entries for the 2 names a, b"),
        ({"upper": (1.0, 0.1)}, "b goes from 0.2 to 0.1"),
        ({"lower": (0.1, np.nan)}, "b: lower is NaN"),
        ({"upper": (np.inf, 1.0)}, "a: upper is inf"),
        ({"lower": (True, 0.2)}, "a: lower is True"),
        ({"scale": ("log10", "log")}, "a has the scale 'log10'"),
        ({"scale": ("identity", "log"), "lower": (0.1, 0.0)}, "b has a log scale and begins at 0"),
        ({"scale": ("logit", "log"), "upper": (1.0, 1.0)}, "a has a logit scale"),
        ({"hard": (True, False)}, "two bool"),
        ({"hard": ((True,), (False, False))}, "two bool"),
        ({"lower": (-1e308, 0.2), "upper": (1e308, 1.0)}, "a has the width inf"),
    ],
)
def test_boxes_that_cannot_be_meant(arguments, message):
    good = {"names": ("a", "b"), "lower": (0.1, 0.2), "upper": (0.9, 0.8)}
    uq.Box(**good)
    with pytest.raises(InputError, match=message):
        uq.Box(**{**good, **arguments})

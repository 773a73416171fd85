"""Scales and the map to the unconstrained space: closed forms, inverses, derivatives, and the same with PyTensor."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from scipy import special

from uqms.calibration.bridge import PyTensorFunctions
from uqms.parameters.functions import NumPyFunctions
from uqms.parameters.scale import IDENTITY, LOG, LOGIT, SCALES, Interval, Scale

POINTS = {
    "identity": np.array([-1e3, -0.3, 0.0, 2.0, 1e8]),
    "log": np.array([1e-300, 1e-5, 0.5, 1.0, 3.0, 1e12]),
    "logit": np.array([1e-300, 1e-8, 0.25, 0.5, 0.9, 1.0 - 1e-10]),
}
CLOSED = {
    "identity": (lambda x: x, lambda x: np.ones_like(x)),
    "log": (np.log, lambda x: 1.0 / x),
    "logit": (special.logit, lambda x: 1.0 / x + 1.0 / (1.0 - x)),
}
INTERVALS = [
    Interval.of(-np.inf, np.inf),
    Interval.of(0.5, np.inf),
    Interval.of(-np.inf, 0.5),
    Interval.of(1.0, 4.0),
    Interval.of(-0.3, 0.2),
    Interval.of(0.25, 8.0, LOG),
    Interval.of(0.0, 8.0, LOG),
    Interval.of(0.25, np.inf, LOG),
    Interval.of(0.0, np.inf, LOG),
    Interval.of(0.25, 0.75, LOGIT),
    Interval.of(0.0, 1.0, LOGIT),
    Interval.of(0.0, 0.7, LOGIT),
]
Z = np.linspace(-30.0, 30.0, 25)


def as_expression(function, x):
    """Return what a function of xp gives for an expression, evaluated at x."""
    v = pt.dvector("v")
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        return pytensor.function([v], function(v, PyTensorFunctions))(x)


@pytest.mark.parametrize("name", SCALES)
def test_forward_and_derivatives_are_the_closed_forms(name: str) -> None:
    scale, x = SCALES[name], POINTS[name]
    function, slope = CLOSED[name]
    np.testing.assert_allclose(scale.forward(x), function(x), rtol=1e-14)
    np.testing.assert_allclose(scale.derivative(x), slope(x), rtol=1e-14)
    np.testing.assert_allclose(scale.log_derivative(x), np.log(slope(x)), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(scale.inverse(scale.forward(x)), x, rtol=2e-13)
    inner = x[np.isfinite(slope(x))]
    np.testing.assert_allclose(
        scale.log_inverse_derivative(scale.forward(inner)), -scale.log_derivative(inner), rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize("name", SCALES)
def test_expressions_equal_arrays(name: str) -> None:
    scale, x = SCALES[name], POINTS[name]
    s = scale.forward(x)
    for method, at in (
        (scale.forward, x),
        (scale.derivative, x),
        (scale.log_derivative, x),
        (scale.inverse, s),
        (scale.log_inverse_derivative, s),
    ):
        np.testing.assert_allclose(as_expression(method, at), method(at), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", SCALES)
def test_ends_of_the_domain_are_infinite_and_beyond_it_is_nothing(name: str) -> None:
    scale = SCALES[name]
    low, high = scale.domain
    np.testing.assert_array_equal(scale.forward(np.array([low, high])), [-np.inf, np.inf])
    np.testing.assert_array_equal(scale.inverse(np.array([-np.inf, np.inf])), [low, high])
    assert scale.takes(low, high)
    for end, (a, b) in ((low, (low - 1.0, 0.7)), (high, (0.3, high + 1.0))):
        if np.isfinite(end):
            assert np.isnan(scale.forward(end - 1.0 if end == low else end + 1.0))
            assert not scale.takes(a, b)


@pytest.mark.parametrize("interval", INTERVALS, ids=str)
def test_interval_and_line(interval: Interval) -> None:
    z = Z[np.abs(Z) < 6.0]  # beyond, an end at infinity on the log scale overflows
    x = interval.from_real(z)
    np.testing.assert_allclose(interval.to_real(x), z, rtol=1e-9, atol=1e-9)
    assert np.all(np.diff(x) > 0.0)
    step = 1e-6
    slope = (interval.from_real(z + step) - interval.from_real(z - step)) / (2.0 * step)
    np.testing.assert_allclose(np.exp(interval.log_jacobian(z)), slope, rtol=1e-6, atol=1e-9)
    for method, at in ((interval.from_real, Z), (interval.log_jacobian, Z), (interval.to_real, x)):
        np.testing.assert_allclose(as_expression(method, at), method(at), rtol=1e-12, atol=1e-12)


def test_an_interval_with_ends_that_are_expressions() -> None:
    low, high, z = (pt.dscalar(name) for name in ("low", "high", "z"))
    interval = Interval(pt.log(low), pt.log(high), LOG)
    known = Interval.of(0.25, 8.0, LOG)
    out = [
        interval.from_real(z, PyTensorFunctions),
        interval.log_jacobian(z, PyTensorFunctions),
        interval.to_real(interval.from_real(z, PyTensorFunctions), PyTensorFunctions),
    ]
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        x, log_jacobian, back = pytensor.function([low, high, z], out)(0.25, 8.0, 1.3)
    assert x == pytest.approx(float(known.from_real(1.3)), rel=1e-14)
    assert log_jacobian == pytest.approx(float(known.log_jacobian(1.3)), rel=1e-13)
    assert back == pytest.approx(1.3, rel=1e-13)


def test_values_near_either_end_keep_their_digits() -> None:
    interval = Interval.of(0.0, 3.0)
    assert float(interval.from_real(-700.0)) == pytest.approx(3.0 * np.exp(-700.0), rel=1e-13)
    beside = Interval.of(-3.0, 0.0)
    assert float(beside.from_real(700.0)) == pytest.approx(-3.0 * np.exp(-700.0), rel=1e-13)


def test_both_namespaces_have_the_same_functions() -> None:
    def names(of: type) -> set[str]:
        return {name for name in vars(of) if not name.startswith("_")}

    assert names(NumPyFunctions) == names(PyTensorFunctions)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (name, (np.array([0.2, 0.5, 0.8]),))
        for name in (
            "exp",
            "log",
            "log1p",
            "sqrt",
            "abs",
            "isinf",
            "zeros_like",
            "gammaln",
            "log_ndtr",
            "logit",
            "expit",
        )
    ]
    + [
        ("softplus", (np.array([-800.0, -1.0, 0.0, 40.0, 800.0]),)),
        ("log_ndtr", (np.array([-40.0, -10.0, -1.0, 0.0, 9.0]),)),
        ("xlogy", (np.array([0.0, 1.5]), np.array([0.0, 0.3]))),
        ("xlog1py", (np.array([0.0, 1.5]), np.array([-1.0, 0.3]))),
        ("maximum", (np.array([0.2, 3.0]), 1.0)),
        ("minimum", (np.array([0.2, 3.0]), 1.0)),
        ("clip", (np.array([-2.0, 0.2, 3.0]), -1.0, 1.0)),
        ("clip", (np.array([-2.0, 0.2, 3.0]), -np.inf, 1.0)),
        ("where", (np.array([True, False]), np.array([1.0, 2.0]), -np.inf)),
        ("between", (-1.0, 2.0, np.array([-800.0, -3.0, 0.0, 0.1, 40.0]))),
        ("sum", (np.arange(6.0).reshape(2, 3),)),
        ("logsumexp", (np.array([[-1e3, -1e3], [0.0, 700.0], [-np.inf, -np.inf]]),)),
    ],
)
def test_functions_of_the_namespaces_agree(name: str, arguments: tuple) -> None:
    expected = getattr(NumPyFunctions, name)(*arguments)
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        given = (pt.as_tensor(one) if isinstance(one, np.ndarray) else one for one in arguments)
        found = getattr(PyTensorFunctions, name)(*given).eval()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["exp", "log", "log1p", "sqrt", "gammaln", "logit", "expit", "softplus", "log_ndtr"])
def test_numbers_in_formulas_are_in_double_precision(name: str) -> None:
    """PyTensor's own functions compute the logarithm of 0.5 in single precision."""
    found = getattr(PyTensorFunctions, name)(0.375).eval()
    assert found.dtype == np.float64
    assert float(found) == pytest.approx(float(getattr(NumPyFunctions, name)(0.375)), rel=1e-14)


def test_codes_are_those_of_the_compiled_density() -> None:
    assert [(scale.name, scale.code) for scale in (IDENTITY, LOG, LOGIT)] == [("identity", 0), ("log", 1), ("logit", 2)]
    assert all(isinstance(scale, Scale) for scale in SCALES.values())

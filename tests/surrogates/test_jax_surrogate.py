"""A surrogate written as JAX functions: values, derivatives and posteriors are those of the same one in NumPy."""

import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

import uqms as uq
from uqms.errors import ConformanceError, InputError
from uqms.surrogates import Decoder, JaxSurrogate, Layout
from uqms.testing import ToySurrogate, check_surrogate

jnp = pytest.importorskip("jax.numpy")

SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
TOY = ToySurrogate(SPACE.box(), draws=2)
ROOT = TOY.weight_root.reshape(4, 2, -1)
NUMBER = Decoder(np.array([0.5]), np.array([[1.0, 0.5]]), np.array([[0.1, 0.0]]))


def scores(u: Any) -> tuple[Any, Any]:
    """Return mean and covariance of the toy, once more in JAX."""
    f = jnp.concatenate([jnp.ones((len(u), 1)), u, jnp.cos(3.0 * u.sum(axis=1, keepdims=True))], axis=1)
    left = jnp.einsum("kp,pqr->kqr", f, ROOT)
    covariance = jnp.einsum("air,bjr->aibj", left, left)
    return jnp.stack([f @ w for w in TOY.mean_weights]), jnp.stack([covariance] * 2)


def rows(output: str, coords: Mapping[str, Any] | None) -> Any:
    if output == "level":
        return NUMBER
    t = TOY.times if coords is None else np.asarray(coords["time"])

    def at(u: Any) -> tuple[Any, Any, Any]:
        s = u.mean(axis=1)[:, None]
        offset = jnp.sin(2.0 * s + t) + 0.1 * np.arange(2.0)[:, None, None]
        basis = jnp.stack([1.0 + s * t, (1.0 - s) * np.cos(2.0 * t)], axis=-1)
        truncation = jnp.stack([0.1 + 0.2 * s * t, 0.05 * s + 0.0 * t], axis=-1)
        return offset, jnp.stack([basis] * 2), jnp.stack([truncation] * 2)

    return at


def surrogate(**settings: Any) -> JaxSurrogate:
    given = {"log_weights": TOY.log_weights, "anchors": 32} | settings
    return JaxSurrogate(SPACE.box(), TOY.layouts, scores, rows, **given)


def test_values_and_derivatives_are_those_of_the_toy(rng: np.random.Generator) -> None:
    one, u = surrogate(), rng.random((2, 3, 3, 2))
    for found, wanted in zip(one.scores(u), TOY.scores(u), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)
        assert found.dtype == np.float64
    mean, covariance = rng.standard_normal((2, 3, 2)), rng.standard_normal((2, 3, 2, 3, 2))
    u = u[0, 0]
    np.testing.assert_allclose(one.scores_reverse(u, mean, covariance), TOY.scores_reverse(u, mean, covariance))
    found, wanted = one.decode("curve"), TOY.decode("curve")
    assert found is one.decode("curve")
    for part, other in zip(found.at(u), wanted.at(u), strict=True):  # type: ignore[union-attr]
        np.testing.assert_allclose(part, other, rtol=1e-12)
    bar = Decoder(*(rng.standard_normal(part.shape) for part in wanted.at(u)))  # type: ignore[union-attr]
    np.testing.assert_allclose(found.reverse(u, bar), wanted.reverse(u, bar))  # type: ignore[union-attr]
    assert jnp.zeros(1).dtype == np.float32  # the global flag is as it was


def test_it_keeps_every_promise() -> None:
    check_surrogate(surrogate(), draws=1000).raise_failed()


def test_a_calibration_has_the_density_and_gradient_of_the_toy(rng: np.random.Generator) -> None:
    table = pd.DataFrame({"time": TOY.times, "value": 1.5 + 0.2 * rng.standard_normal(5)})
    data = uq.Observations.from_table(table, output="curve", value="value", coords={"time": "time"})
    problems = [uq.Calibration(one, data, uq.GaussianNoise(sd=0.2), space=SPACE) for one in (surrogate(), TOY)]
    theta = problems[0].prior_draws(5, 1)
    np.testing.assert_allclose(*(one.log_likelihood(theta) for one in problems), rtol=1e-10)
    u = problems[0].unit_inputs({name: values[:1] for name, values in theta.items()})
    bar = rng.standard_normal(problems[0].parts(u)[0][:, 0].shape)
    np.testing.assert_allclose(*(one.data_model.parts_reverse(u[0], bar) for one in problems), rtol=1e-9)


@pytest.mark.slow
def test_nuts_samples_it(rng: np.random.Generator) -> None:
    data = uq.Observations.from_table(pd.DataFrame({"value": [1.2]}), output="level", value="value")
    problem = uq.Calibration(surrogate(), data, uq.GaussianNoise(sd=0.1), space=SPACE)
    posterior = problem.sample(uq.NUTS(draws=100, tune=100, chains=2), rng=1)
    assert np.isfinite(posterior.draws["a"]).all()


def test_another_process_may_have_it() -> None:
    one = surrogate()
    one.scores(np.full((1, 2), 0.3))
    other = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(*(each.scores(np.full((1, 2), 0.4)).mean for each in (one, other)))


SINGLE = jnp.asarray([0.3, 0.7])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda u: ((u.astype("float32") @ np.ones(2))[None, :, None], (u @ u.T)[None, None]),
        lambda u: ((u @ SINGLE)[None, :, None], (u @ u.T)[None, None]),
    ],
    ids=["cast", "constant"],
)
def test_single_precision_is_refused(wrong: Any) -> None:
    with pytest.raises(ConformanceError, match="function computes in float32 somewhere.*keep constants as NumPy"):
        JaxSurrogate(SPACE.box(), {"y": Layout()}, wrong, lambda output, coords: NUMBER)


def test_results_that_are_missing_are_named() -> None:
    with pytest.raises(ConformanceError, match="function returns 1 results; give mean, covariance"):
        JaxSurrogate(SPACE.box(), {"y": Layout()}, lambda u: ((u @ np.ones(2))[None, :, None],), rows)
    with pytest.raises(InputError, match="has no output 'peak'; it has"):
        surrogate().decode("peak")
    with pytest.raises(InputError, match="domain is a tuple"):
        JaxSurrogate((0.0, 1.0), TOY.layouts, scores, rows)  # type: ignore[arg-type]

"""Inputs by value or by logarithm, as the runs prefer."""

from collections.abc import Callable

import numpy as np
import pytest

import uqms as uq
from uqms.surrogates.gp import GaussianProcessSurrogate
from uqms.surrogates.input_scales import CLEAR, chosen_scales
from uqms.surrogates.kernels import correlation

NAMES = ("a", "b", "c")


LINEAR, LOG = uq.Uniform(0.1, 10.0), uq.LogUniform(0.1, 10.0)


def drawn(
    seed: int, by: Callable[[np.ndarray], np.ndarray], prior: uq.Prior = LINEAR, n: int = 60
) -> GaussianProcessSurrogate:
    """Fit runs of a function drawn from a stationary process of inputs as `by` makes them, from 0 to 1."""
    space = uq.ParameterSpace(**dict.fromkeys(NAMES, prior))
    design = uq.sobol(space, n, rng=seed, over=uq.Box(NAMES, (0.1,) * 3, (10.0,) * 3, (prior.scale,) * 3))
    u = by(np.column_stack([design[name].values for name in NAMES]))
    root = np.linalg.cholesky(correlation(uq.Matern52(), u, u, np.array([0.5, 1.0, 2.0])) + 1e-9 * np.eye(n))
    y = root @ np.random.default_rng(seed).standard_normal(n)
    return uq.GaussianProcess(hyperparameters="point").fit(uq.ensemble.build(design, {"y": y}, space=space))


def value(x: np.ndarray) -> np.ndarray:
    return (x - 0.1) / 9.9


def logarithm(x: np.ndarray) -> np.ndarray:
    return np.log(x / 0.1) / np.log(100.0)


@pytest.mark.parametrize("prior", [LINEAR, LOG], ids=["linear", "log"])
def test_functions_of_values_and_of_logarithms_are_told_apart(prior: uq.Prior) -> None:
    """Of 12 functions each: inputs that matter have their own scale; the third hardly moves the output."""
    own = {"value": "identity", "logarithm": "log"}
    for by in (value, logarithm):
        scales = [drawn(seed, by, prior).domain.scale[:2] for seed in range(12)]
        right = np.mean([one == own[by.__name__] for each in scales for one in each])
        assert right >= 0.9, (by.__name__, scales)


def test_ratios_are_predicted_twice_as_well() -> None:
    space = uq.ParameterSpace(**dict.fromkeys(NAMES, LINEAR))
    design, new = uq.sobol(space, 48, rng=1), uq.sobol(space, 200, rng=2)

    def rate(x: object) -> np.ndarray:
        a, b, c = (x[name].values for name in NAMES)  # type: ignore[index]
        return np.asarray(a / (b * (1.0 + c) + a))

    runs = uq.ensemble.build(design, {"y": rate(design)}, space=space, box=space.box())
    off = {}
    for scales in ("auto", "given"):
        surrogate = uq.GaussianProcess(kernel=uq.Matern72(), scales=scales).fit(runs)
        prediction = surrogate.predict(new)
        error = prediction.mean["y"].values - rate(new)
        off[scales] = np.sqrt(np.mean(error**2))
        inside = np.abs(error) < 1.96 * prediction.sd["y"].values
        assert inside.mean() > 0.85
        assert surrogate.domain.scale == (("log",) * 3 if scales == "auto" else ("identity",) * 3)
    assert off["auto"] < 0.5 * off["given"], off
    assert "a, b, c by logarithm" in repr(uq.GaussianProcess().fit(runs))


def test_derivatives_are_those_of_the_inputs_own_unit() -> None:
    surrogate = drawn(1, logarithm)
    assert "log" in surrogate.domain.scale
    theta = np.array([[0.5, 3.0, 2.0], [4.0, 0.2, 7.0]])
    u = surrogate.domain.to_unit(theta)
    slope = surrogate.scores_reverse(u, np.ones((1, 2, 1)), np.zeros((1, 1, 2, 2))) * surrogate.domain.unit_gradient(
        theta
    )
    for j in range(3):
        step = np.zeros(3)
        step[j] = 1e-5
        up, down = (surrogate.scores(surrogate.domain.to_unit(theta + s * step)).mean[0, :, 0] for s in (1.0, -1.0))
        np.testing.assert_allclose(slope[:, j], (up - down) / 2e-5, rtol=1e-5, atol=1e-7)


def test_the_order_of_inputs_and_runs_changes_nothing() -> None:
    space = uq.ParameterSpace(**dict.fromkeys(NAMES, LINEAR))
    design = uq.sobol(space, 40, rng=3)
    values = {name: design[name].values for name in NAMES}
    y = values["a"] / values["b"] + np.sin(values["c"])
    scales = []
    for names, rows in ((NAMES, slice(None)), (NAMES[::-1], slice(None)), (NAMES, slice(None, None, -1))):
        own = uq.ParameterSpace(**dict.fromkeys(names, LINEAR))
        runs = uq.ensemble.build({name: values[name][rows] for name in names}, {"y": y[rows]}, space=own, box=own.box())
        domain = uq.GaussianProcess().fit(runs).domain
        scales.append(dict(zip(domain.names, domain.scale, strict=True)))
    assert scales[0] == scales[1] == scales[2] != dict.fromkeys(NAMES, "identity")


def test_what_is_asked_and_what_is_taken() -> None:
    """Against a probability that is known: inputs that reach zero, short ranges and logits are left alone."""
    box = uq.Box(
        ("a", "b", "zero", "short", "part", "log"),
        (1.0, 1.0, 0.0, 1.0, 0.1, 0.01),
        (10.0, 10.0, 5.0, 1.9, 0.9, 5.0),
        ("identity", "identity", "identity", "identity", "logit", "log"),
    )
    x = np.random.default_rng(1).random((9, 6))
    inputs = box.from_unit(x)
    asked = []

    def probability(gains: tuple[float, float, float]) -> Callable[..., tuple[float, int]]:
        def found(u: np.ndarray, start: int | None) -> tuple[float, int]:
            known = [np.allclose(u[:, j], x[:, j]) for j in range(6)]
            assert all(known[2:5])
            asked.append((tuple(known), start))
            return sum(g for g, same in zip(gains, (known[0], known[1], known[5]), strict=True) if not same), len(asked)

        return found

    for gains, wanted in (
        ((5.0, -1.0, -1.0), ("log", "identity", "log")),
        ((2.0, 1.5, -9.0), ("log", "log", "log")),
        ((-1.0, -2.0, 4.0), ("identity", "identity", "identity")),
        ((CLEAR - 0.1, -1.0, -1.0), ("identity", "identity", "log")),
        ((-1.0, -1.0, -1.0), ("identity", "identity", "log")),
    ):
        asked.clear()
        chosen, u = chosen_scales(box, x, probability(gains))
        assert (chosen.scale[0], chosen.scale[1], chosen.scale[5]) == wanted
        assert chosen.scale[2:5] == box.scale[2:5]
        np.testing.assert_allclose(chosen.from_unit(u), inputs, rtol=1e-12)
        assert len(asked) == len({one for one, _ in asked}) <= 6
        assert asked[0][1] is None
        assert asked[1][1] is None
        assert asked[-1][1] is not None


def test_nothing_is_asked_where_no_input_has_two_scales() -> None:
    box = uq.Box(("a",), (0.0,), (1.0,))
    x = np.linspace(0.0, 1.0, 5)[:, None]
    chosen, u = chosen_scales(box, x, lambda *_: pytest.fail("asked"))
    assert chosen is box
    assert u is x


def test_regimes_share_one_unit_cube() -> None:
    """Each regime's process would choose scales of its own: predictions were those of other inputs."""
    space = uq.ParameterSpace(a=uq.Uniform(0.2, 8.0), b=uq.Uniform(0.2, 8.0))
    design, new = uq.sobol(space, 60, rng=1), uq.sobol(space, 200, rng=2)

    def jumping(x: object) -> tuple[np.ndarray, np.ndarray]:
        a, b = (x[name].values for name in ("a", "b"))  # type: ignore[index]
        return np.where(a > 4.0, 5.0 + 0.1 * a, np.log(a / b)), a > 4.0

    y, _ = jumping(design)
    runs = uq.ensemble.build(design, {"y": y}, space=space, box=space.box())
    surrogate = uq.Regimes(labels=lambda table: (table["a"].values > 4.0).astype(int)).fit(runs)
    assert {one.domain.scale for one in surrogate.regimes} == {("identity", "identity")}
    truth, side = jumping(new)
    far = np.abs(new["a"].values - 4.0) > 0.5
    error = surrogate.predict(new).mean["y"].values - truth
    for one in (side, ~side):
        assert np.sqrt(np.mean(error[far & one] ** 2)) < 0.1


def test_settings_that_choose_other_scales_are_compared() -> None:
    space = uq.ParameterSpace(**dict.fromkeys(NAMES, LINEAR))
    design = uq.sobol(space, 40, rng=1)
    y = design["a"].values / (design["b"].values + design["a"].values) + 0.1 * np.log(design["c"].values)
    runs = uq.ensemble.build(design, {"y": y}, space=space, box=space.box())
    settings = {scales: uq.GaussianProcess(scales=scales) for scales in ("given", "auto")}  # type: ignore[arg-type]
    compared = uq.compare_surrogates(settings, runs)
    assert compared.table.index[0] == "auto"


def test_a_trend_that_is_too_long_is_told_once(recwarn: pytest.WarningsRecorder) -> None:
    space = uq.ParameterSpace(**dict.fromkeys(NAMES, LINEAR))
    design = uq.sobol(space, 8, rng=1)
    runs = uq.ensemble.build(design, {"y": np.log(design["a"].values)}, space=space, box=space.box())
    recwarn.clear()
    uq.GaussianProcess(trend="quadratic").fit(runs)
    assert len([one for one in recwarn if "do not determine" in str(one.message)]) == 1

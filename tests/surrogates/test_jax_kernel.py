"""A kernel that is one JAX function: against the built-in one of the same formula, NumPy and differences."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import uqms as uq
from uqms._typing import Array
from uqms.errors import ConformanceError, InputError
from uqms.surrogates import FittedProbability, GaussianProcessSurrogate, LocalGaussianProcess
from uqms.surrogates.jax_process import JaxScores
from uqms.surrogates.process import condition, score_reverse, scores_at
from uqms.surrogates.training import Hyperparameters, objective, trend_basis

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")
from surrogates.jax_kernels import Bent, Mine, bent  # noqa: E402

SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 2.0))
ELL = np.array([0.8, 0.6, 1.7, 0.3])  # of Bent in two inputs


def table(n: int) -> xr.Dataset:
    design = uq.sobol(SPACE, n, rng=1)
    a, b = design["a"].values, design["b"].values
    return uq.ensemble.build(design, {"y": np.sin(5.0 * a) + b * np.cos(3.0 * a), "z": a * b}, space=SPACE)


def data(n: int = 20) -> tuple[Array, Array]:
    x = np.random.default_rng(1).random((n, 2))
    y = np.sin(12.0 * x[:, 0]) + np.log1p(4.0 * x[:, 1])
    return x, (y - y.mean()) / y.std()


def test_training_has_the_objective_and_gradient_of_the_built_in_kernel() -> None:
    x, y = data()
    for noise, p in ((False, np.log([0.4, 0.9])), (True, np.log([0.4, 0.9, 0.02]))):
        ours, theirs = (objective(p, x, y, trend_basis(x, 3), kernel, noise) for kernel in (Mine(), uq.Matern52()))
        assert ours[0] == pytest.approx(theirs[0], rel=1e-10)
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-8)


@pytest.mark.parametrize("noise", [False, True])
def test_training_has_the_gradient_of_differences_in_every_hyperparameter(noise: bool) -> None:
    x, y = data()
    p = np.log(np.append(ELL, 0.05) if noise else ELL)
    gradient = objective(p, x, y, trend_basis(x, 1), Bent(), noise)[1]
    for i, step in enumerate(1e-5 * np.eye(len(p))):
        high, low = (objective(p + s * step, x, y, trend_basis(x, 1), Bent(), noise)[0] for s in (1.0, -1.0))
        assert gradient[i] == pytest.approx((high - low) / 2e-5, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("hyperparameters", ["point", "averaged"])
def test_a_fit_is_that_of_the_built_in_kernel(hyperparameters: Any) -> None:
    ours, theirs = (
        uq.GaussianProcess(kernel, hyperparameters=hyperparameters).fit(table(20)) for kernel in (Mine(), uq.Matern52())
    )
    # Of z, which is a product of inputs, the length scales are long and hardly determined.
    np.testing.assert_allclose(ours.process.ell[:, 0], theirs.process.ell[:, 0], rtol=2e-4)
    assert str(ours.process.kernel) == "Mine"
    tables = [uq.leave_one_out(one).table for one in (ours, theirs)]
    for column in ("q2", "rmse", "coverage_95"):
        if column in tables[0]:
            assert tables[0].loc["y", column] == pytest.approx(tables[1].loc["y", column], rel=1e-3)


def swapped(hyperparameters: Any = "averaged", trend: Any = "quadratic") -> list[GaussianProcessSurrogate]:
    """Return surrogates of the same numbers, with the kernel in JAX and the built-in one."""
    fitted = uq.GaussianProcess(hyperparameters=hyperparameters, trend=trend).fit(table(20))
    return [replace(fitted, process=replace(fitted.process, kernel=Mine())), fitted]


@pytest.mark.parametrize("shape", [(1, 2), (5, 2), (9, 2), (3, 4, 2)])
def test_scores_and_their_reverse_are_those_of_the_built_in_kernel(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    (ours, theirs), u = swapped(), rng.random(shape)
    scores = [one.scores(u) for one in (ours, theirs)]
    np.testing.assert_allclose(scores[0].mean, scores[1].mean, rtol=1e-9, atol=1e-9)
    size = ours.process.variance.max()  # of which the covariance is a difference
    np.testing.assert_allclose(scores[0].covariance, scores[1].covariance, rtol=1e-9, atol=1e-9 * size)
    marginal = ours.marginal_scores(u)
    variance = np.diagonal(scores[1].covariance, axis1=-2, axis2=-1)
    np.testing.assert_allclose(marginal.covariance, variance, atol=1e-9 * size)
    if len(shape) == 2:
        bars = rng.standard_normal(scores[0].mean.shape), rng.standard_normal(scores[0].covariance.shape)
        by = [one.scores_reverse(u, *bars) for one in (ours, theirs)]
        np.testing.assert_allclose(*by, rtol=1e-8, atol=1e-9 * np.abs(by[1]).max())
        process = ours.process
        slow = sum(
            score_reverse(process, h, j, u, bars[0][h, :, j], bars[1][h, j])
            for h, j in np.ndindex(process.draws, process.q)
        )
        np.testing.assert_allclose(slow, by[1], rtol=1e-8, atol=1e-9 * np.abs(by[1]).max())
    np.testing.assert_allclose(ours.process.stretch(), theirs.process.stretch(), rtol=1e-12)


def test_many_inputs_are_predicted_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = swapped("point")
    u = np.random.default_rng(3).random((30, 2))
    at_once = ours.scores(u)
    monkeypatch.setattr("uqms.surrogates.jax_process.LARGEST", 10)
    for found, wanted in zip(ours.scores(u), at_once, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-10)


def test_a_kernel_that_is_not_stationary_against_dense_matrices() -> None:
    """Mean, covariance and derivative of a Gaussian process with a known mean, from its definition in NumPy."""
    x, y = data()
    u = np.random.default_rng(4).random((3, 2))
    one = Hyperparameters(ELL, 0.0, 1e-12, 0.0, 1, False)
    process = condition(Bent(), x, y[:, None], 1, [one], [2.0])
    fitted = uq.GaussianProcess(hyperparameters="point").fit(table(20).drop_vars("z"))
    surrogate = replace(fitted, process=process)

    def by_hand(points: Array) -> tuple[Array, Array]:
        K = 2.0 * bent(x, x, ELL) + 2.0 * float(process.jitter[0, 0]) * np.eye(len(x))
        k = 2.0 * bent(points, x, ELL)
        f = np.ones(len(x))
        solved = np.linalg.solve(K, np.column_stack([f, y]))
        beta = (f @ solved[:, 1]) / (f @ solved[:, 0])
        rest = 1.0 - k @ solved[:, 0]
        mean = beta + k @ (solved[:, 1] - beta * solved[:, 0])
        covariance = 2.0 * bent(points, points, ELL) - k @ np.linalg.solve(K, k.T)
        return mean, covariance + np.outer(rest, rest) / (f @ solved[:, 0])

    mean, covariance = by_hand(u)
    found = surrogate.scores(u)
    np.testing.assert_allclose(found.mean[0, :, 0], mean, rtol=1e-7)
    np.testing.assert_allclose(found.covariance[0, 0], covariance, atol=1e-8 * np.abs(covariance).max())
    rng = np.random.default_rng(5)
    bars = rng.standard_normal((1, 3, 1)), rng.standard_normal((1, 1, 3, 3))
    derivative = surrogate.scores_reverse(u, *bars)
    for i, c in np.ndindex(3, 2):
        step = np.zeros((3, 2))
        step[i, c] = 1e-5
        ends = [by_hand(u + s * step) for s in (1.0, -1.0)]
        value = [float(np.sum(m * bars[0][0, :, 0]) + np.sum(v * bars[1][0, 0])) for m, v in ends]
        assert derivative[i, c] == pytest.approx((value[0] - value[1]) / 2e-5, rel=1e-4, abs=1e-4)
    index = np.arange(3)
    np.testing.assert_allclose(
        scores_at(process, u, diagonal=True).covariance[0, 0], found.covariance[0, 0, index, index]
    )


def test_draws_and_probabilities_of_events_are_those_of_the_built_in_kernel(tmp_path: Path) -> None:
    u, found = np.random.default_rng(0).random((4, 2)), []
    ours, theirs = swapped("point", "constant")
    np.testing.assert_allclose(ours.functions(3, 1)(u), theirs.functions(3, 1)(u), rtol=1e-5, atol=1e-6)
    for kernel in (Mine(), uq.Matern52()):
        settings = uq.EventProbability(lambda one: one["y"].values > 0.8, kernel=kernel, hyperparameters="point")
        event = settings.fit(table(30))
        found.append((event.log_probability_at(u), event.log_slope(u)))
        event.save(tmp_path / "event.npz")
        again = FittedProbability.load(tmp_path / "event.npz")
        np.testing.assert_array_equal(again.log_probability_at(u), found[-1][0])
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-3, atol=1e-3)


def test_it_learns_what_a_stationary_kernel_cannot() -> None:
    """Of a periodic output, a kernel that knows the period predicts two periods from the runs of one and a half."""
    design = {"a": np.linspace(0.0, 0.6, 16), "b": np.linspace(0.0, 2.0, 16)[(7 * np.arange(16)) % 16]}
    y = np.sin(2.0 * np.pi * design["a"] / 0.4) + 0.2 * design["b"]
    runs = uq.ensemble.build(design, {"y": y}, space=SPACE, box=SPACE.box())
    a = np.linspace(0.7, 1.0, 7)
    truth = np.sin(2.0 * np.pi * a / 0.4) + 0.2
    error = {}
    for name, kernel in (("periodic", Bent(0.4)), ("stationary", uq.Matern52())):
        fitted = uq.GaussianProcess(kernel).fit(runs)
        error[name] = np.abs(fitted.predict({"a": a, "b": 1.0}).mean["y"].values - truth).max()
    assert error["periodic"] < 0.02
    assert error["stationary"] > 0.3


MODULE = """
from dataclasses import dataclass

import jax.numpy as jnp
import uqms as uq


@dataclass(frozen=True)
class Wave(uq.JaxKernel):
    period: float = 0.7

    def pair(self, u, x, ell):
        return jnp.exp(-2.0 * jnp.sum((jnp.sin(jnp.pi * (u - x) / self.period) / ell) ** 2))
"""
LOAD = """
import numpy as np, uqms as uq
surrogate = uq.load_surrogate("wave.npz")
print(surrogate.process.kernel)
np.save("again.npy", surrogate.scores(np.full((1, 2), 0.3)).mean)
"""


def test_another_process_loads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_wave.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import my_wave  # type: ignore[import-not-found]

    fitted = uq.GaussianProcess(my_wave.Wave(0.9), hyperparameters="point").fit(table(20))
    fitted.save(tmp_path / "wave.npz")
    paths = os.pathsep.join([str(tmp_path), str(Path(uq.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", LOAD], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "Wave(period=0.9)"
    np.testing.assert_allclose(np.load(tmp_path / "again.npy"), fitted.scores(np.full((1, 2), 0.3)).mean, rtol=1e-12)


def _mean(scores: JaxScores) -> Array:
    return scores.scores(np.full((1, 2), 0.3)).mean


@pytest.mark.slow
def test_a_spawned_worker_has_it() -> None:
    ours = JaxScores(swapped("point")[0].process)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_allclose(pool.apply(_mean, (ours,)), _mean(ours), rtol=1e-12)


FORKED = """
import multiprocessing, warnings
import numpy as np
from my_wave import Wave
from uqms.errors import InputError

warnings.simplefilter("ignore")  # of JAX, about the fork
x = np.random.default_rng(0).random((5, 2))
before = Wave().correlation(x, x.copy(), np.ones(2))


def child(end):
    try:
        Wave().correlation(x, x.copy(), np.ones(2))
    except InputError as error:
        end.send(str(error))


ours, theirs = multiprocessing.Pipe()
worker = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
worker.start()
print(ours.recv() if ours.poll(20) else "deadlock")
worker.kill()
assert (Wave().correlation(x, x.copy(), np.ones(2)) == before).all()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_gets_an_error_and_does_not_wait_forever(tmp_path: Path) -> None:
    (tmp_path / "my_wave.py").write_text(MODULE)
    paths = os.pathsep.join([str(tmp_path), str(Path(uq.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", FORKED],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "JAX deadlocks in forked processes" in done.stdout
    assert 'get_context("spawn")' in done.stdout


def test_jax_computes_in_float64_and_its_global_flag_is_as_it_was() -> None:
    before = jax.config.jax_enable_x64
    ours, _ = swapped("point")
    scores = ours.scores(np.full((2, 2), 0.3))
    assert scores.mean.dtype == scores.covariance.dtype == np.float64
    assert ours.scores_reverse(np.full((1, 2), 0.3), np.ones((1, 1, 2)), np.ones((1, 2, 1, 1))).dtype == np.float64
    assert jax.config.jax_enable_x64 == before
    assert jnp.zeros(1).dtype == np.float32


# ----------------------------------------------------------------------------------------------------- what is refused
SINGLE = jnp.asarray([0.3, 0.7])


@dataclass(frozen=True)
class Wrong(uq.JaxKernel):
    def pair(self, u: Any, x: Any, ell: Any) -> Any:
        return jnp.exp(-0.5 * jnp.sum(((u - x) / ell) ** 2))


class SingleConstant(Wrong):
    def pair(self, u: Any, x: Any, ell: Any) -> Any:
        return jnp.exp(-0.5 * jnp.sum(((u - x) * SINGLE / ell) ** 2))


class SingleCast(Wrong):
    def pair(self, u: Any, x: Any, ell: Any) -> Any:
        return jnp.exp(-0.5 * jnp.sum(((u - x) / ell).astype("float32") ** 2))


class Vector(Wrong):
    def pair(self, u: Any, x: Any, ell: Any) -> Any:
        return jnp.exp(-0.5 * ((u - x) / ell) ** 2)


class NumPy(Wrong):
    def pair(self, u: Any, x: Any, ell: Any) -> Any:
        return float(np.exp(-0.5 * np.sum(((u - x) / ell) ** 2)))


class Variance(Wrong):
    def pair(self, u: Any, x: Any, ell: Any) -> Any:
        return 1.0 + u @ x


class Lopsided(Wrong):
    def pair(self, u: Any, x: Any, ell: Any) -> Any:
        return jnp.exp(-0.5 * jnp.sum(((u - x) / ell) ** 2) * (1.0 + u[0]))


class Root(Wrong):
    """The distance has no derivative at 0."""

    def pair(self, u: Any, x: Any, ell: Any) -> Any:
        a = jnp.sqrt(5.0 * jnp.sum(((u - x) / ell) ** 2))
        return (1.0 + a + a * a / 3.0) * jnp.exp(-a)


class Prior(Wrong):
    def priors(self, d: int) -> Mapping[str, Any]:
        return {"bend": 1.0}


class Unnamed(Wrong):
    def priors(self, d: int) -> Mapping[str, Any]:
        return {"bend": uq.LogNormal(1.0, 0.5)}


class FirstAlone(Wrong):
    """Says that it treats inputs alike, and does not."""

    exchangeable = True

    def pair(self, u: Any, x: Any, ell: Any) -> Any:
        return jnp.exp(-0.5 * jnp.sum(((u - x) / ell) ** 2) - (u[0] - x[0]) ** 2)


class EachAlone(Wrong):
    """Says that it treats inputs alike, and has a hyperparameter for each, which would keep its place."""

    exchangeable = True

    def priors(self, d: int) -> Mapping[str, Any]:
        return {"bend": [uq.LogNormal(1.0, 0.5)] * d}

    def pair(self, u: Any, x: Any, ell: Any, bend: Any) -> Any:
        return jnp.exp(-0.5 * jnp.sum(((u - x) / ell * bend) ** 2))


@dataclass(frozen=True)
class Setting(Wrong):
    name: str = "x"


class NotFrozen(uq.JaxKernel):
    def pair(self, u: Any, x: Any, ell: Any) -> Any:
        return jnp.exp(-0.5 * jnp.sum(((u - x) / ell) ** 2))


@pytest.mark.parametrize(
    ("kernel", "why"),
    [
        (SingleConstant(), "SingleConstant.pair computes in float32 somewhere.*keep constants as NumPy arrays"),
        (SingleCast(), "SingleCast.pair computes in float32"),
        (Vector(), r"Vector.pair returns arrays of shape \(2,\).*sum over the inputs with jnp.sum"),
        (NumPy(), r"NumPy.pair cannot be traced by JAX as pair\(u, x, ell\).*Use functions of jax.numpy"),
        (Variance(), r"Variance.pair\(u, u, ell\) is .*Divide k\(u, x\) by sqrt"),
        (Lopsided(), "a correlation is symmetric in its two inputs"),
        (Root(), r"Root.pair has no finite derivative.*jnp.where\(r2 > 0.0, r2, 1e-300\)"),
        (Prior(), r"Prior.priors: 'bend' has the prior 1.0; give LogNormal\(median=1.0, sigma=0.5\)"),
        (Unnamed(), r"cannot be traced by JAX as pair\(u, x, ell, bend=...\).*declared as pair\(u"),
        (FirstAlone(), "another order changes it by .*Leave `exchangeable` out"),
        (EachAlone(), r"\['bend'\] may have a value for each input.*Leave `exchangeable` out"),
        (Setting(), "a kernel's fields are finite numbers"),
        (NotFrozen(), r"write @dataclass\(frozen=True\) above `class NotFrozen`"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, uq.JaxKernel) else None,
)
def test_what_is_no_correlation_in_float64_is_refused_before_the_fit(kernel: uq.JaxKernel, why: str) -> None:
    with pytest.raises(InputError, match=why):
        uq.GaussianProcess(kernel).fit(table(12))


def test_sums_products_and_other_surrogates_are_refused() -> None:
    for combine in (
        lambda: Mine() + uq.Matern52(),
        lambda: uq.Matern52() + Mine(),
        lambda: (uq.Matern52() + uq.Matern32()) + Mine(),
        lambda: Mine() + Mine(),
    ):
        with pytest.raises(InputError, match=r"there is no sum of it.*Write the sum inside of Mine.pair.*weight \* a"):
            combine()
    for combine in (lambda: Mine() * uq.Matern52(), lambda: uq.Matern52() * Mine()):
        with pytest.raises(InputError, match="Write the product inside of Mine.pair"):
            combine()
    with pytest.raises(InputError, match="A cheap model takes a kernel of the scaled distance.*Mine is a JaxKernel"):
        uq.GaussianProcess(Mine(), mean=uq.Physics(lambda p: {"y": p["a"]}))
    with pytest.raises(InputError, match="takes a kernel of the scaled distance"):
        LocalGaussianProcess(Mine())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="kernel is Mine"):
        uq.MultiFidelity(("coarse", "fine"), Mine())


def test_without_jax_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Fresh(Wrong):
        pass

    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(InputError, match=r"The kernel Fresh, a JaxKernel, needs JAX.*pip install 'uqms\[jax\]'"):
        uq.GaussianProcess(Fresh())


# ------------------------------------------------------------------------------------------------------ check_kernel
class Flat(Wrong):
    """Its gradient is stopped, so that it has none by the inputs."""

    def pair(self, u: Any, x: Any, ell: Any) -> Any:
        return jnp.exp(-0.5 * jnp.sum((jax.lax.stop_gradient(u - x) / ell) ** 2))


class FourthPower(Wrong):
    """exp(-r^4) is the correlation of no process."""

    def pair(self, u: Any, x: Any, ell: Any) -> Any:
        return jnp.exp(-(jnp.sum(((u - x) / ell) ** 2) ** 2))


class RootOfInputs(Wrong):
    """A bend without a derivative at the edge of the cube."""

    def pair(self, u: Any, x: Any, ell: Any) -> Any:
        return jnp.exp(-0.5 * jnp.sum(((jnp.sqrt(u) - jnp.sqrt(x)) / ell) ** 2))


class Beyond(Wrong):
    """1 at equal inputs, and more elsewhere."""

    def pair(self, u: Any, x: Any, ell: Any) -> Any:
        return 2.0 - jnp.exp(-0.5 * jnp.sum(((u - x) / ell) ** 2))


def test_kernels_that_keep_their_promises() -> None:
    found = uq.testing.check_kernel(Bent(), inputs=(2, 3))
    assert found.ok, str(found)
    assert found.table.loc["slope", "measured"] < 1e-9
    assert str(found).startswith("kernel: 7 of 7 checks passed, 0 failed")


@pytest.mark.parametrize(
    ("kernel", "failed", "why"),
    [
        (Flat(), ("slope",), "the derivative by inputs differs from differences"),
        (FourthPower(), ("positive definite",), "no process has that correlation"),
        (RootOfInputs(), ("finite",), "not finite where inputs are 0"),
        (Beyond(), ("correlation", "positive definite"), "no correlation is beyond 1"),
        (Variance(), ("compiled",), "Divide k"),
        (Setting(), ("value",), "finite numbers"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, uq.JaxKernel) else None,
)
def test_planted_bugs_are_found(kernel: uq.JaxKernel, failed: tuple[str, ...], why: str) -> None:
    found = uq.testing.check_kernel(kernel, inputs=(2,))
    assert found.failed == failed, str(found)
    with pytest.raises(ConformanceError, match=why):
        found.raise_failed()


def test_numbers_of_inputs_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match=r"give numbers of inputs, such as inputs=\(2,\)"):
        uq.testing.check_kernel(Mine(), inputs=(0,))

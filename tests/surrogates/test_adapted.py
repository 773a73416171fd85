"""Kernels with learned directions and an amplitude that varies: against dense algebra, finite differences and truth."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import uqms as uq
from uqms._typing import Array
from uqms.errors import InputError
from uqms.surrogates import RationalQuadratic, averaging
from uqms.surrogates.adapted import Adapted, OneOf, candidates, converted, described
from uqms.surrogates.fitting import Fitting, _apportioned, _simplest
from uqms.surrogates.function_draws import _correlations, paths
from uqms.surrogates.fused import block_size
from uqms.surrogates.fused_scores import scores_flat, scores_flat_reverse
from uqms.surrogates.kernel_files import description_of, kernel_of_description
from uqms.surrogates.kernels import Kernel, hyperparameter_count
from uqms.surrogates.main_effects import MainEffects
from uqms.surrogates.process import ScoreProcess, condition, score_reverse, scores_at
from uqms.surrogates.training import AtMode, Hyperparameters, Rival, objective, subset, trend_basis

D = 3
M52, SE, M32 = uq.Matern52(), uq.SquaredExponential(), uq.Matern32()
KERNELS = (
    Adapted(M52),
    Adapted(M52, amplitude=False),
    Adapted(M32, directions=False),
    Adapted(M52 + SE, directions=False),
    Adapted(RationalQuadratic()),
    MainEffects(M52),
    MainEffects(RationalQuadratic()),
)


def ell_of(kernel: Kernel, seed: int = 0) -> Array:
    return np.exp(0.5 * np.random.default_rng(seed).standard_normal(hyperparameter_count(kernel, D)))


def process_of(kernel: Kernel, n: int = 20) -> ScoreProcess:
    x = np.random.default_rng(1).random((n, D))
    y = np.column_stack([np.sin(3.0 * (x[:, 0] - x[:, 1])) * np.exp(2.0 * x[:, 2]), x[:, 0] ** 2 - x[:, 2]])
    found = [Hyperparameters(ell_of(kernel, seed), 0.0, 1e-12, 0.0, 1, False) for seed in (0, 5)]
    return condition(kernel, x, y, 1, found)


def by_definition(kernel: Adapted | MainEffects, u: Array, x: Array, ell: Array) -> Array:
    """Return the correlation from its formula, pair by pair."""
    if isinstance(kernel, MainEffects):
        together, alone, relative = ell.reshape(3, D)
        steps = u[:, None, :] - x
        every = [np.sum((steps / together) ** 2, axis=-1), *np.moveaxis((steps / alone) ** 2, -1, 0)]
        shares = np.append(1.0, relative) / (1.0 + relative.sum())
        radial = np.vectorize(lambda r2: kernel.kernel.radial(r2)[0])
        return np.asarray(sum(share * radial(r2) for share, r2 in zip(shares, every, strict=True)))
    own, lower, b = kernel.parts_of(ell, D)
    out = np.empty((len(u), len(x)))
    for a, i in itertools.product(range(len(u)), range(len(x))):
        kappa = kernel.kernel.correlation((lower @ u[a])[None], (lower @ x[i])[None], own)[0, 0]
        out[a, i] = np.exp(b @ (u[a] - 0.5) + b @ (x[i] - 0.5)) * kappa
    return out


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_correlation_is_its_formula(kernel: Adapted | MainEffects) -> None:
    rng = np.random.default_rng(3)
    u, x, ell = rng.random((4, D)), rng.random((6, D)), ell_of(kernel)
    np.testing.assert_allclose(kernel.correlation(u, x, ell), by_definition(kernel, u, x, ell), rtol=1e-12)
    np.testing.assert_allclose(kernel.linearised(u, u, ell).kappa, by_definition(kernel, u, u, ell), rtol=1e-12)
    np.testing.assert_allclose(kernel.variances(u, ell), np.diag(by_definition(kernel, u, u, ell)), rtol=1e-12)
    within = kernel.correlation_within(np.stack([u, u[::-1]]), ell)
    np.testing.assert_allclose(within[1], by_definition(kernel, u[::-1], u[::-1], ell), rtol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_upper_triangle_is_that_of_the_correlation(kernel: Adapted | MainEffects) -> None:
    x, ell = np.random.default_rng(3).random((9, D)), ell_of(kernel)
    upper = kernel.upper(x, ell)
    sooner = isinstance(kernel, MainEffects) or kernel.kernel in (M52, M32)  # kernels that compiled loops know
    assert (upper is not None) == sooner
    if upper is not None:
        np.testing.assert_allclose(np.triu(upper), np.triu(kernel.correlation(x, x, ell)), rtol=1e-12)


@pytest.mark.parametrize(
    "kernel", [M52, MainEffects(M52), M52 + M52, M52 * M52, Adapted(M52, amplitude=False)], ids=str
)
def test_inputs_are_stretched_as_correlations_fall(kernel: Kernel) -> None:
    """Near zero the correlation of Matérn 5/2 is 1 - 5/6 r2, whatever the parts."""
    p, u, step = process_of(kernel), np.full((1, D), 0.5), 1e-4
    moved = u + step * np.eye(D)
    squares = [(1.0 - kernel.correlation(moved, u, ell)[:, 0]) * 6.0 / (5.0 * step**2) for ell in p.ell[0]]
    np.testing.assert_allclose(p.stretch(), np.sqrt(np.mean(squares, axis=0)), rtol=1e-2)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_objective_has_its_gradient(kernel: Adapted | MainEffects) -> None:
    p = process_of(kernel)
    at = np.log(ell_of(kernel, 7))

    def value(logs: Array) -> float:
        return objective(logs, p.x, p.y[:, 0], trend_basis(p.x, 1), kernel, False)[0]

    gradient = objective(at, p.x, p.y[:, 0], trend_basis(p.x, 1), kernel, False)[1]
    steps = 1e-5 * np.eye(len(at))
    differences = np.array([(value(at + e) - value(at - e)) / 2e-5 for e in steps])
    np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-5 * np.abs(gradient).max())


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_prediction_is_conditioning(kernel: Adapted | MainEffects) -> None:
    """Mean and covariance against dense generalised least squares, in compiled code and in matrix products."""
    p = process_of(kernel)
    u = np.random.default_rng(4).random((4, D))
    for name, (mean, covariance) in {"compiled": scores_flat(p.flat(), u), "matrices": scores_at(p, u)[:2]}.items():
        for j in range(p.q):
            ell, s2 = p.ell[0, j], p.variance[0, j]
            cov = by_definition(kernel, p.x, p.x, ell) + p.jitter[0, j] * np.eye(len(p.x))
            to, one = by_definition(kernel, u, p.x, ell), np.ones(len(p.x))
            inverse = np.linalg.inv(cov)
            weight = one @ inverse @ one
            beta = one @ inverse @ p.y[:, j] / weight
            rest = 1.0 - to @ inverse @ one
            expected = beta + to @ inverse @ (p.y[:, j] - beta)
            dense = by_definition(kernel, u, u, ell) - to @ inverse @ to.T + np.outer(rest, rest) / weight
            scale = np.sqrt(s2 * kernel.variances(u, ell))
            assert np.all(np.abs(mean[0, :, j] - expected) < 1e-7 * scale.max()), name
            assert np.all(np.abs(covariance[0, j] - s2 * dense) < 1e-7 * np.outer(scale, scale)), name
    diagonal = scores_at(p, u, diagonal=True).covariance
    np.testing.assert_allclose(diagonal, np.diagonal(scores_at(p, u).covariance, axis1=-2, axis2=-1), rtol=1e-8)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("k", [1, 3])
def test_reverse_is_the_derivative(kernel: Adapted | MainEffects, k: int) -> None:
    p, rng = process_of(kernel), np.random.default_rng(5)
    u = rng.random((k, D))
    mean_bar, cov_bar = rng.standard_normal((1, k, 2)), rng.standard_normal((1, 2, k, k))

    def value(at: Array) -> float:
        mean, covariance = scores_flat(p.flat(), at)
        return float(np.sum(mean * mean_bar) + np.sum(covariance * cov_bar))

    steps = 1e-6 * np.eye(u.size).reshape(-1, *u.shape)
    differences = np.array([(value(u + e) - value(u - e)) / 2e-6 for e in steps]).reshape(u.shape)
    got = scores_flat_reverse(p.flat(), u, mean_bar, cov_bar)
    np.testing.assert_allclose(got, differences, rtol=2e-6, atol=2e-6 * np.abs(differences).max())
    matrices = sum(score_reverse(p, 0, j, u, mean_bar[0, :, j], cov_bar[0, j]) for j in range(2))
    np.testing.assert_allclose(matrices, got, rtol=1e-8, atol=1e-8 * np.abs(got).max())


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_inputs_in_another_order_are_the_same_process(kernel: Adapted | MainEffects) -> None:
    rng = np.random.default_rng(6)
    u, x, ell = rng.random((4, D)), rng.random((5, D)), ell_of(kernel)
    for order in itertools.permutations(range(D)):
        to = np.array(order)
        there = kernel.reordered(ell, to)
        np.testing.assert_allclose(
            kernel.correlation(u[:, to], x[:, to], there), kernel.correlation(u, x, ell), rtol=1e-12
        )
        np.testing.assert_allclose(kernel.reordered(there, np.argsort(to)), ell, rtol=1e-12)


def test_block_has_the_size_that_it_says() -> None:
    for kernel in KERNELS:
        block = process_of(kernel).flat()
        assert block_size(block) == len(block)


def test_nothing_learned_is_the_kernel_itself() -> None:
    own = np.array([0.4, 0.7, 1.1])
    kernel = Adapted(M52)
    ell = converted(own, M52, kernel, D)
    rng = np.random.default_rng(0)
    u, x = rng.random((4, D)), rng.random((5, D))
    np.testing.assert_array_equal(kernel.correlation(u, x, ell), M52.correlation(u, x, own))
    np.testing.assert_array_equal(converted(ell, kernel, M52, D), own)


def test_rivals_are_what_can_be_learned() -> None:
    each = ["", " with learned amplitude", " with learned directions", " with learned directions and amplitude"]
    assert list(map(str, OneOf.that_adapts(M52, 3).kernels)) == [
        f"{name}{more}" for name in ("Matern52", "Matern72", "Matern112") for more in [*each, " with main effects"]
    ]
    assert OneOf.that_adapts(Adapted(M32), 1).kernels == (M32, Adapted(M32, directions=False))
    assert OneOf.that_adapts(M32, 1).kernels == (M32, Adapted(M32, directions=False))  # nor is a sum of one another
    assert len(OneOf.that_adapts(M32, 9).kernels) == 3  # a distance of 9 inputs has 36 directions
    assert OneOf.that_adapts(M52 + SE, 3).kernels == (M52 + SE, Adapted(M52 + SE, directions=False))


def test_one_of_several_kernels_is_that_kernel() -> None:
    """Values, slopes, other orders and the compiled block of kernels with different hyperparameters, draw by draw."""
    one, rng = OneOf.that_adapts(M52, D), np.random.default_rng(5)
    u, x, order = rng.random((4, D)), rng.random((6, D)), np.array([2, 0, 1])
    own = [ell_of(kernel, seed) for seed, kernel in enumerate(one.kernels)]
    ells = [one.ell_of(kernel, ell, D) for kernel, ell in zip(one.kernels, own, strict=True)]
    for kernel, ell, whole in zip(one.kernels, own, ells, strict=True):
        assert one.of(whole, D)[0] == kernel
        np.testing.assert_array_equal(one.of(whole, D)[1], ell)
        np.testing.assert_array_equal(one.correlation(u, x, whole), kernel.correlation(u, x, ell))
        np.testing.assert_array_equal(one.variances(u, whole), kernel.variances(u, ell))
        for block, kappa in _correlations(one, u, x, whole):  # by products of matrices
            np.testing.assert_allclose(kappa, kernel.correlation(u[block], x, ell), rtol=1e-7)
        there = one.reordered(whole, order)
        np.testing.assert_allclose(
            one.correlation(u[:, order], x[:, order], there), one.correlation(u, x, whole), rtol=1e-12
        )
    runs, y = rng.random((20, D)), rng.standard_normal((20, 2))
    processes = [
        condition(kernel, runs, y, 1, [Hyperparameters(ell, 0.0, 1e-12, 0.0, 1, False) for ell in pair])
        for kernel, pair in ((one, (ells[0], ells[-1])), (M52, (own[0],) * 2), (one.kernels[-1], (own[-1],) * 2))
    ]
    block = processes[0].flat()
    assert block_size(block) == len(block)
    (mean, covariance), both = scores_flat(block, u), [scores_flat(other.flat(), u) for other in processes[1:]]
    mean_bar, cov_bar = rng.standard_normal(mean.shape), rng.standard_normal(covariance.shape)
    slopes = 0.0
    for j, (other_mean, other_covariance) in enumerate(both):
        np.testing.assert_allclose(mean[0, :, j], other_mean[0, :, j], rtol=1e-10)
        np.testing.assert_allclose(covariance[0, j], other_covariance[0, j], rtol=1e-10, atol=1e-12)
        only = np.arange(2) == j
        by_mean, by_covariance = mean_bar * only, cov_bar * only[:, None, None]
        slopes = slopes + scores_flat_reverse(processes[1 + j].flat(), u, by_mean, by_covariance)
    np.testing.assert_allclose(scores_flat_reverse(block, u, mean_bar, cov_bar), slopes, rtol=1e-9, atol=1e-9)


def test_kernels_that_no_score_has_are_left_out() -> None:
    one = OneOf.that_adapts(M52, D)
    own = [ell_of(one.kernels[i]) for i in (0, 3, 5)]
    ell = np.stack([one.ell_of(one.kernels[i], values, D) for i, values in zip((0, 3, 5), own, strict=True)])
    single, of_single = one.fewest(ell[None, :1], D)
    assert single == M52
    np.testing.assert_array_equal(of_single, own[0][None, None])
    fewer, of_fewer = one.fewest(ell[None], D)
    assert fewer == OneOf((M52, Adapted(M52), uq.Matern72()))
    for values, whole in zip(own, of_fewer[0], strict=True):
        np.testing.assert_array_equal(fewer.of(whole, D)[1], values)
    told = "Matern52 (2 of 3 scores) or Matern72 (1 of 3 scores), with learned directions (1 of 3 scores) and amplitude"
    assert described(fewer, of_fewer, D) == f"{told} (1 of 3 scores)"
    sums = OneOf((M52, MainEffects(M52)))
    told = "Matern52, with main effects (1 of 2 scores)"
    assert described(sums, np.stack([sums.ell_of(k, ell_of(k), D) for k in sums.kernels])[None], D) == told
    with pytest.raises(InputError, match="there are 3 kernels"):
        fewer.check(of_fewer + 3.0)


def test_a_single_kernel_is_the_simplest_of_those_that_are_about_as_probable() -> None:
    one, at = OneOf.that_adapts(M52, D), AtMode(np.zeros(1), np.eye(1), 0.0)
    plain, amplitude, directions, both = one.kernels[:4]

    def taken(*evidence: float) -> Kernel:
        kernels = (plain, amplitude, directions, both)[: len(evidence)]
        rivals = [Rival(k, at._replace(log_evidence=e)) for k, e in zip(kernels, evidence, strict=True)]
        return _simplest(rivals, one).kernel

    assert taken(0.0, 1.9) == plain
    assert taken(0.0, 2.1) == amplitude
    assert taken(0.0, 5.0, 6.0, 6.5) == directions  # learns as much as the amplitude, and is likelier
    assert taken(0.0, 5.0, 6.0, 8.1) == both
    assert _simplest([Rival(plain, at), Rival(amplitude, at._replace(log_evidence=3.0), -2.0)], one).kernel == plain


def test_draws_are_shared_out() -> None:
    np.testing.assert_array_equal(_apportioned(np.array([0.5, 0.26, 0.24]), 16), [8, 4, 4])
    np.testing.assert_array_equal(_apportioned(np.array([0.0, 1.0]), 16), [0, 16])
    np.testing.assert_array_equal(_apportioned(np.array([0.97, 0.03, 0.0]), 16), [16, 0, 0])


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match=r"Adapted: kernel is 'rbf'; give one of the scaled distance: Matern52"):
        Adapted("rbf")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"directions=False"):
        Adapted(M52 + SE)
    with pytest.raises(InputError, match=r"scales is 'automatic'; give 'auto' or 'given'"):
        uq.GaussianProcess(scales="automatic")  # type: ignore[arg-type]


def test_files_know_it() -> None:
    for kernel in (*KERNELS, OneOf.that_adapts(M52, 3)):
        assert kernel_of_description(description_of(kernel)) == kernel


@pytest.mark.parametrize("kernel", [*KERNELS, M52 + SE, OneOf((M52, Adapted(M52), uq.Matern72()))])
def test_an_input_before_the_others_changes_nothing(kernel: Kernel) -> None:
    ell, rng = ell_of(kernel), np.random.default_rng(3)
    if isinstance(kernel, OneOf):
        ell = kernel.ell_of(Adapted(M52), ell_of(Adapted(M52)), D)
    u, x = rng.random((4, D)), rng.random((5, D))
    before = [np.column_stack([10.0 * rng.standard_normal(len(one)), one]) for one in (u, x)]
    lifted = kernel.lifted(ell, D)
    assert len(lifted) == hyperparameter_count(kernel, D + 1)
    np.testing.assert_allclose(kernel.correlation(*before, lifted), kernel.correlation(u, x, ell), rtol=1e-12)


def test_scores_keep_their_kernels_in_compiled_code() -> None:
    one = OneOf((M52, uq.Matern72(), MainEffects(M52), MainEffects(uq.Matern72()), MainEffects(RationalQuadratic())))
    rng = np.random.default_rng(4)
    x, y, u = rng.random((12, D)), rng.standard_normal((12, 5)), rng.random((4, D))
    ells = [one.ell_of(kernel, np.ones(hyperparameter_count(kernel, D)), D) for kernel in one.kernels]
    every = condition(one, x, y, 1, [Hyperparameters(ell, 0.0, 0.0, 0.0, 1, False) for ell in ells])
    for scores in ([0], [1], [2], [0, 1], [2, 3], [1, 4, 2], [0, 1, 2, 3, 4]):
        some = every.select(np.array(scores))
        wanted, (mean, covariance) = scores_at(some, u), scores_flat(some.flat(), u)
        np.testing.assert_allclose(mean, wanted.mean, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(covariance, wanted.covariance, rtol=1e-6, atol=1e-10)


# ------------------------------------------------------------------------------------------------------- chosen by runs
def runs_of(n: int, d: int, seed: int, function: Callable[[Array], Array]) -> xr.Dataset:
    space = uq.ParameterSpace(**{name: uq.Uniform(0.0, 1.0) for name in "abcdefgh"[:d]})
    design = uq.sobol(space, n, rng=seed)
    x = np.column_stack([design[name].values for name in "abcdefgh"[:d]])
    return uq.ensemble.build(design, {"y": function(x)})


def ridge(x: Array) -> Array:
    return np.sin(6.0 * (x[:, 0] - x[:, 1]))


def corner(x: Array) -> Array:
    return np.sin(12.0 * x[:, 0]) * np.exp(4.0 * x[:, 1])


def effects(x: Array) -> Array:
    return np.sin(9.0 * x[:, 0]) + np.cos(8.0 * x[:, 1]) + 0.05 * x[:, 0] * x[:, 1]


def errors(surrogate: Any, function: Callable[[Array], Array], n: int = 400) -> tuple[Array, Array]:
    """Return errors and stated sds at points of the box."""
    x = np.random.default_rng(11).random((n, surrogate.domain.d))
    here = surrogate.predict(dict(zip(surrogate.domain.names, x.T, strict=True)))
    return here.mean["y"].values - function(x), here.sd["y"].values


@pytest.mark.parametrize(
    ("function", "learned", "better"),
    [(ridge, "directions", 0.25), (corner, "amplitude", 0.9), (effects, "main effects", 0.2)],
)
def test_the_runs_choose_what_helps(function: Callable[[Array], Array], learned: str, better: float) -> None:
    runs = runs_of(40, 2, 3, function=function)
    given, chosen = uq.GaussianProcess(scales="given").fit(runs), uq.GaussianProcess(scales="auto").fit(runs)
    assert learned in repr(chosen)
    (plain, plain_sd), (off, sd) = errors(given, function), errors(chosen, function)
    assert np.sqrt(np.mean(off**2)) < better * np.sqrt(np.mean(plain**2))
    score = np.mean(np.log(sd) + 0.5 * (off / sd) ** 2)
    assert score < np.mean(np.log(plain_sd) + 0.5 * (plain / plain_sd) ** 2) - 0.3
    assert np.mean(np.abs(off) < 1.96 * sd) > 0.9


@pytest.mark.parametrize("seed", [1, 2])
def test_runs_of_a_smooth_function_choose_the_smoothest_kernel(seed: int) -> None:
    def grown(x: Array) -> Array:
        return np.asarray(1.0 / (1.0 + np.exp(-7.0 * (x[:, 0] - 0.5) * (0.4 + x[:, 1]))))

    runs, score = runs_of(48, 2, seed, function=grown), {}
    for kernel in (uq.Matern72(), uq.Matern52()):  # the first is not replaced by a smoother one
        surrogate = uq.GaussianProcess(kernel=kernel).fit(runs)
        off, sd = errors(surrogate, grown)
        score[kernel] = np.sqrt(np.mean(off**2)), -np.mean(np.log(sd) + 0.5 * (off / sd) ** 2)
    assert "Matern112" in repr(surrogate)
    assert score[uq.Matern52()][0] < 0.8 * score[uq.Matern72()][0]
    assert score[uq.Matern52()][1] > score[uq.Matern72()][1] + 0.3
    assert np.mean(np.abs(off) < 1.96 * sd) > 0.85


@pytest.mark.parametrize("seed", [11, 17])
def test_no_stated_error_is_lost_by_rounding(seed: int) -> None:
    """400 runs of one combination of inputs: a kernel that is smoother still would be predicted with an sd of zero."""
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(runs_of(400, 2, seed, function=ridge))
    off, sd = errors(surrogate, ridge)
    assert np.sqrt(np.mean(off**2)) < 1e-4
    assert sd.min() > 1e-8
    assert np.mean(np.abs(off) < 1.96 * sd) > 0.85


@pytest.mark.slow
def test_functions_of_the_simple_kernel_keep_it() -> None:
    """Of 8 functions drawn from a stationary process hardly one is given more, and none is predicted worse."""
    learned, gains = 0, []
    x = np.random.default_rng(11).random((200, 4))
    for seed in range(8):
        rng = np.random.default_rng(seed)
        runs = runs_of(60, 4, seed, lambda at: at[:, 0])
        every = np.vstack([np.column_stack([runs[name].values for name in "abcd"]), x])
        kappa = M52.correlation(every, every, np.exp(rng.normal(np.log(1.5), 0.5, 4)))
        values = np.linalg.cholesky(kappa + 1e-9 * np.eye(len(every))) @ rng.standard_normal(len(every))
        runs["y"], rest = runs["y"].copy(data=values[:60]), values[60:]
        scores = []
        for scales in ("given", "auto"):
            surrogate = uq.GaussianProcess(scales=scales).fit(runs)  # type: ignore[arg-type]
            here = surrogate.predict(dict(zip("abcd", x.T, strict=True)))
            z = (rest - here.mean["y"].values) / here.sd["y"].values
            scores.append(-np.mean(np.log(here.sd["y"].values) + 0.5 * z**2))
        learned += "learned" in repr(surrogate) or "main effects" in repr(surrogate)
        gains.append(scores[1] - scores[0])
    assert learned <= 3
    assert min(gains) > -0.1
    assert np.mean(gains) > -0.03


def test_order_of_inputs_does_not_matter() -> None:
    runs = runs_of(32, 3, 2, function=lambda x: np.sin(5.0 * (x[:, 0] - x[:, 1])) * np.exp(2.0 * x[:, 2]))
    new = {"a": [0.3, 0.9], "b": [0.4, 0.2], "c": [0.1, 0.8]}
    first = uq.GaussianProcess(scales="auto").fit(runs).predict(new)
    swapped = xr.Dataset({name: runs[name] for name in reversed(list(runs.data_vars))}, attrs=runs.attrs)
    second = uq.GaussianProcess(scales="auto").fit(swapped.assign_coords(runs.coords)).predict(new)
    np.testing.assert_allclose(second.mean["y"], first.mean["y"], rtol=1e-6)
    np.testing.assert_allclose(second.sd["y"], first.sd["y"], rtol=1e-4)


def test_saved_and_loaded_it_predicts_the_same(tmp_path: Path) -> None:
    surrogate = uq.GaussianProcess(scales="auto").fit(runs_of(32, 2, 3, function=ridge))
    surrogate.save(tmp_path / "s.npz")
    same = uq.load_surrogate(tmp_path / "s.npz")
    assert repr(same) == repr(surrogate)
    new = {"a": [0.2, 0.7], "b": [0.5, 0.1]}
    np.testing.assert_array_equal(same.predict(new).sd["y"], surrogate.predict(new).sd["y"])


def test_draws_of_the_function_have_its_covariance() -> None:
    """Draws of whole functions against the covariance between inputs, within 5 standard errors."""
    runs = runs_of(24, 2, 3, function=lambda x: np.sin(9.0 * (x[:, 0] - x[:, 1])) * np.exp(3.0 * x[:, 1]))
    surrogate = uq.GaussianProcess(kernel=Adapted(M52), hyperparameters="point", scales="given").fit(runs)
    u = np.random.default_rng(2).random((5, 2))
    found = surrogate.scores(u)
    mean, covariance = found.mean[0, :, 0], found.covariance[0, 0]
    n = 4000
    each = {
        "functions": surrogate.functions(n, rng=1, anchors=16)(u)[:, :, 0],
        "paths": paths(surrogate, u, n, rng=1)(u)[:, :, 0],
    }
    sd = np.sqrt(np.diag(covariance))
    for name, draws in each.items():
        assert np.all(np.abs(draws.mean(axis=0) - mean) < 5.0 * sd / np.sqrt(n)), name
        width = np.sqrt((np.outer(sd, sd) ** 2 + covariance**2) / n)
        assert np.all(np.abs(np.cov(draws.T) - covariance) < 5.0 * width), name


def test_of_many_runs_all_say_what_hyperparameters_are() -> None:
    """Some choose the kernel; mode and spread, from which draws come, are those of all, the plain kernel's too."""
    runs = runs_of(400, 2, 3, function=lambda x: np.sin(9.0 * x[:, 0]) + np.sin(7.0 * x[:, 1]) ** 3)
    x = np.column_stack([runs["a"].values, runs["b"].values])
    y = runs["y"].values - runs["y"].values.mean()
    fitting = Fitting(x, candidates(Adapted(M52), 2), 1, False, "averaged")
    (found,) = fitting.trained(y[:, None])
    (one,) = found.rivals
    order = fitting._ordered(y[:, None], 0)
    all_runs = averaging.at_mode(order.x, order.y, one.kernel, 1, False, one.at.mode)
    sd = np.sqrt(np.diag(all_runs.covariance))
    assert np.all(np.abs(one.at.mode - all_runs.mode) < 0.01 * sd)
    np.testing.assert_allclose(one.at.covariance, all_runs.covariance, rtol=0.05, atol=0.05 * one.at.covariance.max())
    some = averaging.at_mode(*(part[subset(400)] for part in (order.x, order.y)), one.kernel, 1, False, one.at.mode)
    assert np.all(np.abs(one.at.mode - some.mode) > sd)  # which those of some would not be


def test_many_runs_choose_on_some_of_them() -> None:
    surrogate = uq.GaussianProcess(hyperparameters="point", scales="auto").fit(runs_of(400, 2, 3, function=ridge))
    assert "directions" in repr(surrogate)
    assert surrogate.process.draws == 1
    off, sd = errors(surrogate, ridge)
    assert np.sqrt(np.mean(off**2)) < 1e-4
    assert np.mean(np.abs(off) < 1.96 * sd) > 0.9

"""Posteriors that are not normal as priors: the mixture against SciPy, sequential updating against the joint one."""

import logging
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from scipy.special import expit, logit

import uqms as uq
from uqms.calibration.conditioned import ConditionedPrior
from uqms.calibration.whitened import Whitened
from uqms.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::uqms.errors.PriorConflictWarning")
WEIGHTS = np.array([0.2, 0.5, 0.3])
MEANS = np.array([[-1.0, 0.5, 0.2], [0.5, -1.0, 0.0], [1.5, 1.0, -0.5]])
COVARIANCES = np.array(
    [
        [[0.1, 0.03, 0.0], [0.03, 0.2, 0.05], [0.0, 0.05, 0.1]],
        [[0.3, -0.1, 0.1], [-0.1, 0.2, 0.0], [0.1, 0.0, 0.3]],
        [[0.05, 0.0, 0.0], [0.0, 0.4, 0.1], [0.0, 0.1, 0.2]],
    ]
)
BLOCK = uq.NormalMixture(
    ("a", "b", "c"), tuple(WEIGHTS), MEANS.tolist(), COVARIANCES.tolist(), ("identity", "log", "logit")
)


def on_scales(s: np.ndarray) -> np.ndarray:
    return np.stack([s[..., 0], np.exp(s[..., 1]), expit(s[..., 2])], axis=-1)


def density(s: np.ndarray) -> np.ndarray:
    """Return the density on the scales."""
    laws = [stats.multivariate_normal(m, c) for m, c in zip(MEANS, COVARIANCES, strict=True)]
    return np.sum([w * law.pdf(s) for w, law in zip(WEIGHTS, laws, strict=True)], axis=0)


def test_density_is_that_of_scipy_with_the_scales() -> None:
    s = np.random.default_rng(0).standard_normal((50, 3))
    x = on_scales(s)
    expected = np.log(density(s)) - np.log(x[:, 1]) - np.log(x[:, 2]) - np.log1p(-x[:, 2])
    np.testing.assert_allclose(BLOCK.log_density(x), expected, rtol=1e-11)
    first = np.sum(
        [
            w * stats.norm(m[0], c[0, 0] ** 0.5).pdf(s[:, 0])
            for w, m, c in zip(WEIGHTS, MEANS, COVARIANCES, strict=True)
        ],
        axis=0,
    )
    np.testing.assert_allclose(BLOCK.log_terms(x)[:, 0], np.log(first), rtol=1e-11)
    assert np.isneginf(BLOCK.log_density([0.0, -1.0, 0.5]))
    assert np.isneginf(uq.ParameterSpace(BLOCK).log_density([0.0, 1.0, 1.5]))


def test_draws_and_moments() -> None:
    x = BLOCK.draw(1, 40_000)
    s = np.stack([x[:, 0], np.log(x[:, 1]), logit(x[:, 2])], axis=1)
    np.testing.assert_allclose(s.mean(axis=0), BLOCK.mean, atol=4 * BLOCK.sd.max() / 200)
    np.testing.assert_allclose(np.corrcoef(s.T), BLOCK.correlation, atol=0.02)
    for j, (name, prior) in enumerate(BLOCK.priors.items()):
        assert stats.kstest(x[:, j], prior.cdf).pvalue > 1e-3, name
        mean, sd = prior.moments
        assert x[:, j].mean() == pytest.approx(mean, abs=4 * sd / 200)
        assert x[:, j].std() == pytest.approx(sd, rel=0.03)


@pytest.mark.parametrize("box", [False, True])
def test_the_cube_is_inverted_and_has_the_density(box: bool) -> None:
    """du/dx of the map, by differences, is the density of what is drawn: that of the block over log_inside."""
    ends = (np.array([-0.5, 0.3, 0.3]), np.array([1.8, 2.5, 0.8])) if box else ()
    u = np.random.default_rng(3).random((200, 3))
    u[0], u[1] = [1e-9, 0.5, 1 - 1e-9], [0.5, 1e-12, 0.5]
    x = BLOCK.from_cube(u, *ends)
    np.testing.assert_allclose(BLOCK.to_cube(x, *ends), u, rtol=1e-8, atol=1e-15)
    if box:
        assert np.all((x >= ends[0]) & (x <= ends[1]))
    inner = u[2:]
    x, jacobian, step = x[2:], np.empty((198, 3)), 1e-6
    for j in range(3):  # the map is triangular
        up, down = inner.copy(), inner.copy()
        up[:, j] += step * (up[:, j] < 0.5)
        down[:, j] -= step * (down[:, j] >= 0.5)
        jacobian[:, j] = (BLOCK.from_cube(up, *ends)[:, j] - BLOCK.from_cube(down, *ends)[:, j]) / step
    log_density = BLOCK.log_density(x) - (BLOCK.log_inside(x, *ends) if box else 0.0)
    np.testing.assert_allclose(-np.sum(np.log(jacobian), axis=1), log_density, atol=5e-3)


def test_mass_of_a_box_is_a_sum_of_normal_probabilities() -> None:
    lower, upper = np.array([-0.5, -1.2, -0.8]), np.array([1.8, 0.9, 1.4])
    laws = [stats.multivariate_normal(m, c) for m, c in zip(MEANS, COVARIANCES, strict=True)]
    exact = sum(w * law.cdf(upper, lower_limit=lower) for w, law in zip(WEIGHTS, laws, strict=True))
    assert BLOCK.mass_inside(on_scales(lower), on_scales(upper)) == pytest.approx(exact, abs=2e-4)
    law = ConditionedPrior(
        BLOCK.priors, dict(zip("abc", zip(on_scales(lower), on_scales(upper), strict=True), strict=True)), (BLOCK,)
    )
    drawn = law.draw(20_000, np.random.default_rng(0))
    rejected = BLOCK.draw(2, 80_000)
    rejected = rejected[np.all((rejected >= on_scales(lower)) & (rejected <= on_scales(upper)), axis=1)]
    for j, name in enumerate("abc"):
        assert stats.ks_2samp(drawn[name], rejected[:, j]).pvalue > 1e-3
    assert BLOCK.largest_log_inside(on_scales(lower), on_scales(upper)) >= float(
        BLOCK.log_inside(rejected, on_scales(lower), on_scales(upper)).max()
    )


def test_given_is_the_conditional_density() -> None:
    rest = BLOCK.given({"b": 1.3})
    assert rest is not None
    assert rest.names == ("a", "c")
    x = np.array([[0.2, 0.4], [1.0, 0.6]])
    whole = BLOCK.log_density(np.stack([x[:, 0], [1.3, 1.3], x[:, 1]], axis=1))
    np.testing.assert_allclose(rest.log_density(x), whole - BLOCK.priors["b"].log_density(1.3), rtol=1e-10)
    assert BLOCK.given({"a": 0.0, "b": 1.0, "c": 0.5}) is None


def test_spaces_with_it_are_stored(tmp_path: Any) -> None:
    space = uq.ParameterSpace(BLOCK, d=uq.Normal(0.0, 1.0))
    again = uq.ParameterSpace.from_json(space.to_json())
    assert again == space
    assert hash(again) == hash(space)
    u = np.random.default_rng(0).random((20, 4))
    np.testing.assert_allclose(space.to_cube(space.from_cube(u)), u, rtol=1e-8)
    inside = np.mean(space.box().contains(np.column_stack(list(space.draw(20_000, 1).data_vars.values()))))
    assert inside > 0.998


def test_the_model_of_pymc_has_the_density() -> None:
    simulator = uq.DirectSimulator(lambda a, b, c: a + b + c, space=uq.ParameterSpace(BLOCK), outputs={"y": ()})
    problem = uq.Calibration(simulator, xr.DataArray(1.0, name="y"), uq.GaussianNoise(sd=0.5))
    model = problem.model()
    theta = {"a": np.array([0.3]), "b": np.array([0.7]), "c": np.array([0.4])}
    line = problem.on_the_real_line({**theta, "latents": np.zeros((1, 0))})[0]
    point = {model.rvs_to_values[model[name]].name: value for name, value in zip("abc", line, strict=True)}
    import pytensor

    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        prior = float(model.compile_fn(model.varlogp, inputs=list(model.value_vars))(point))
    expected = BLOCK.log_density([0.3, 0.7, 0.4]) + np.log(0.7) + np.log(0.4 * 0.6)  # a, log b, logit c are sampled
    assert prior == pytest.approx(float(expected), abs=1e-6)


# ------------------------------------------------------------------------------------------- posterior draws as prior
def bimodal(theta: Any) -> Any:
    return theta**2


def skewed(theta: Any) -> Any:
    return theta + 0.0  # below what can be measured: on its logarithm the prior, cut off from above


CASES = {
    # simulator, prior, first and second datum, their noise: each posterior is compared on a grid
    "bimodal": (bimodal, uq.Normal(0.2, 1.0), 1.0, 1.3, 0.2),
    "skewed": (skewed, uq.LogNormal(1.0, 3.0), 0.0, 0.2, 0.1),
}


@pytest.mark.parametrize("case", ["bimodal", pytest.param("skewed", marks=pytest.mark.slow)])
def test_sequential_updating_is_the_joint_posterior(case: str, caplog: pytest.LogCaptureFixture) -> None:
    """Mean within 0.05 sd of the joint posterior's, sd within 5 %, probabilities within 0.03."""
    function, prior, first, second, sd = CASES[case]

    def problem(space: uq.ParameterSpace, *values: float) -> uq.Calibration:
        simulator = uq.DirectSimulator(function, space=space, outputs={"y": ()}, vectorized=True)
        data = xr.DataArray(np.array(values), dims="replicate", name="y", coords={"replicate": range(len(values))})
        return uq.Calibration(simulator, data, uq.GaussianNoise(sd=sd))

    before = uq.ParameterSpace(theta=prior)
    posterior = problem(before, first).sample(uq.SMC(particles=2000), rng=1)
    if case == "bimodal":
        with pytest.raises(InputError, match="Use uq.NormalMixture"):
            uq.MultivariateNormal.from_posterior(posterior)
    with caplog.at_level(logging.INFO, logger="uqms.parameters.mixture_prior"):
        block = uq.NormalMixture.from_posterior(posterior)
    assert len(block.weights) >= 2
    assert f"{len(block.weights)} component(s)" in caplog.text
    assert f"{len(block.weights)} component(s)" in repr(block)
    log = case == "skewed"
    grid = np.exp(np.linspace(-11.0, 2.0, 8001)) if log else np.linspace(-5.0, 3.0, 8001)
    cell = np.log(grid) if log else 0.0  # the grid is even on the scale of the parameter
    both = problem(before, first, second)
    joint = both.log_likelihood({"theta": grid}) + prior.log_density(grid) + cell
    joint = np.exp(joint - joint.max())
    joint /= joint.sum()
    s = np.log(grid) if log else grid
    exact = float(joint @ s)
    spread = float(np.sqrt(joint @ (s - exact) ** 2))
    after = problem(uq.ParameterSpace(block), second)

    def updated(one: Any) -> np.ndarray:
        terms = one.log_density(grid[:, None]) + after.log_likelihood({"theta": grid}) + cell
        weights = np.exp(terms - terms.max())
        return weights / weights.sum()

    weights = updated(block)
    terms = after.conditioned_prior.log_terms({"theta": grid})["theta"]
    np.testing.assert_allclose(terms, block.log_density(grid[:, None]), atol=1e-9)
    if case == "skewed":  # near enough to normal to be taken for it, which costs more than the mixture does
        normal = updated(uq.MultivariateNormal.from_posterior(posterior))
        assert np.abs(np.cumsum(normal) - np.cumsum(joint)).max() > 0.06
    mean = float(weights @ s)
    assert abs(mean - exact) < 0.05 * spread
    assert np.sqrt(weights @ (s - mean) ** 2) == pytest.approx(spread, rel=0.05)
    assert np.abs(np.cumsum(weights) - np.cumsum(joint)).max() < 0.03
    sampled = after.sample(uq.SMC(particles=500), rng=2).draws["theta"].values.ravel()
    assert (np.log(sampled) if log else sampled).mean() == pytest.approx(mean, abs=0.1 * spread)
    space = Whitened(after)
    z = np.linspace(-3.0, 3.0, 7)[:, None]
    np.testing.assert_allclose(space.from_theta(space.theta(z)), z, atol=1e-7)


def test_a_posterior_that_is_cut_off_is_refused() -> None:
    """A mixture of normals leaks over a hard end: 16 % of a normal lie more than one sd below its mean."""

    class Cut:
        parameters, priors = ("a",), {"a": uq.Normal(0.0, 1.0)}

        @staticmethod
        def limits(name: str) -> tuple[float, float]:
            return -1.0, np.inf

    class Posterior:
        problem, verdict = Cut(), type("Verdict", (), {"status": "pass"})
        draws = xr.Dataset({"a": ("draw", np.random.default_rng(3).standard_normal(2000))})

    with pytest.raises(InputError, match="design box; 1[56]% of the mixture lies beyond"):
        uq.NormalMixture.from_posterior(Posterior())


def test_a_normal_posterior_is_one_component() -> None:
    rng = np.random.default_rng(1)
    x = rng.multivariate_normal([0.0, 1.0], [[1.0, 0.6], [0.6, 2.0]], 3000)
    block = uq.NormalMixture.from_draws({"a": x[:, 0], "b": np.exp(x[:, 1])}, scale={"b": "log"})
    normal = uq.MultivariateNormal.from_draws({"a": x[:, 0], "b": np.exp(x[:, 1])}, scale={"b": "log"})
    assert len(block.weights) == 1
    points = np.array([[0.3, 2.0], [-1.0, 5.0]])
    np.testing.assert_allclose(block.log_density(points), normal.log_density(points), atol=2e-3)  # n and n - 1


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="sum to one"):
        uq.NormalMixture(("a",), (0.5, 0.6), ((0.0,), (1.0,)), (((1.0,),), ((1.0,),)))
    with pytest.raises(InputError, match="one of each a component"):
        uq.NormalMixture(("a",), (1.0,), ((0.0,), (1.0,)), (((1.0,),),))
    with pytest.raises(InputError, match="at least 100"):
        uq.NormalMixture.from_draws({"a": np.zeros(10)})
    with pytest.raises(InputError, match="no mixture of"):  # atoms
        uq.NormalMixture.from_draws({"a": np.repeat([0.0, 1.0, 5.0], 400) + 1e-3 * np.tile([0.0, 1.0], 600)})

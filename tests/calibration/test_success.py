"""Calibration where runs fail: the prior conditioned on success against quadrature, and what is told otherwise."""

import copy
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import kstest, norm
from surrogates.members import linear

import uqms as uq
from uqms._typing import Array
from uqms.calibration.bridge import LogSuccess, PythonOp
from uqms.calibration.success import OfMembers, check_failures
from uqms.errors import InputError
from uqms.parameters import Box

SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 2.0), b=uq.LogNormal(1.0, 0.5))
GRID = 150


def table(n: int = 48) -> xr.Dataset:
    """Runs of y = a + log b, which fail where a > 1.2 + 0.3 log b."""
    design = uq.sobol(SPACE, n, rng=2)
    a, b = design["a"].values, design["b"].values
    ok = a < 1.2 + 0.3 * np.log(b)
    y = np.where(ok, a + np.log(b), np.nan)
    return uq.ensemble.build(design, {"y": y}, states=np.where(ok, "completed", "failed"), space=SPACE)


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any]:
    runs = table()
    return uq.GaussianProcess(hyperparameters="point").fit(runs), uq.SuccessProbability(hyperparameters="point").fit(
        runs
    )


def problem(parts: tuple[Any, Any], value: float = 1.3, **settings: Any) -> uq.Calibration:
    surrogate, success = parts
    data = xr.DataArray(value, name="y")
    return uq.Calibration(surrogate, data, uq.GaussianNoise(sd=0.15), success=success, **settings)


def grid(calibration: uq.Calibration) -> tuple[dict[str, Array], Array]:
    """Return points of a grid that is even in prior mass, and their weights before success and data."""
    levels = (np.arange(GRID) + 0.5) / GRID
    names = calibration.parameters
    columns = {}
    for name in names:
        prior = calibration.priors[name]
        low, high = (float(prior.cdf(end)) for end in calibration.limits(name))
        columns[name] = prior.quantile(low + (high - low) * levels)
    mesh = np.meshgrid(*columns.values(), indexing="ij")
    return {name: m.ravel() for name, m in zip(names, mesh, strict=True)}, np.full(mesh[0].size, 1.0 / mesh[0].size)


def moments(theta: dict[str, Array], weight: Array) -> dict[str, tuple[float, float]]:
    w = weight / weight.sum()
    means = {name: float(w @ values) for name, values in theta.items()}
    return {name: (m, float(np.sqrt(w @ (theta[name] - m) ** 2))) for name, m in means.items()}


@pytest.fixture(scope="module")
def exact(parts: tuple[Any, Any]) -> dict[str, Any]:
    """Quadrature over the prior, with the probability of success evaluated by itself."""
    found = problem(parts, failures="impossible")
    theta, weight = grid(found)
    p = parts[1].probability(theta)
    log_likelihood = np.concatenate(
        [found.log_likelihood({name: v[i : i + 20_000] for name, v in theta.items()}) for i in range(0, len(p), 20_000)]
    )
    joint = weight * p * np.exp(log_likelihood)
    return {
        "share": float(weight @ p),
        "prior": moments(theta, weight * p),
        "posterior": moments(theta, joint),
        "log_evidence": float(np.log(joint.sum() / (weight @ p))),
    }


def test_the_prior_is_conditioned_on_success(parts: tuple[Any, Any], exact: dict[str, Any]) -> None:
    law = problem(parts, failures="impossible").conditioned_prior
    assert law.allowed.share == pytest.approx(exact["share"], abs=5e-4)
    assert not law.plain
    draws = problem(parts, failures="impossible").prior_draws(20_000, 1)
    for name, (mean, sd) in exact["prior"].items():
        assert draws[name].mean() == pytest.approx(mean, abs=4.0 * sd / np.sqrt(20_000))
        assert draws[name].std() == pytest.approx(sd, rel=0.03)
    plain = problem(parts).conditioned_prior
    some = {name: values[:50] for name, values in draws.items()}
    more = sum(law.log_terms(some).values()) - sum(plain.log_terms(some).values())
    np.testing.assert_allclose(more, np.log(parts[1].probability(some) / law.allowed.share), atol=1e-10)
    np.testing.assert_allclose(law.log_weight(some), more, atol=1e-10)
    assert set(law.log_terms(some)) == {"a", "b", "success"}


def test_posterior_and_evidence_are_those_of_quadrature(parts: tuple[Any, Any], exact: dict[str, Any]) -> None:
    calibration = problem(parts, failures="impossible")
    posterior = calibration.sample(uq.SMC(particles=1000, chains=2), rng=1)
    evidence, draws = posterior.log_evidence, posterior.draws
    assert evidence.value == pytest.approx(exact["log_evidence"], abs=5.0 * evidence.mcse + 0.02)
    for name, (mean, sd) in exact["posterior"].items():
        assert float(draws[name].mean()) == pytest.approx(mean, abs=0.12 * sd)
        assert float(draws[name].std()) == pytest.approx(sd, rel=0.1)
    check = posterior.verdict["failed runs"]
    assert "conditioned on success" in check.message
    assert posterior.tree.attrs["failures"] == "impossible"
    p = parts[1].probability({name: draws[name].values.ravel() for name in ("a", "b")})
    assert check.value == pytest.approx(1.0 - p.mean(), abs=1e-9)
    # the posterior without success reaches into the region that this one leaves out
    free = problem(parts).sample(uq.SMC(particles=1000, chains=2), rng=1)
    inside = parts[1].probability({name: free.draws[name].values.ravel() for name in ("a", "b")})
    assert 1.0 - inside.mean() > check.value + 0.05


def failed_runs(calibration: Any, theta: dict[str, Any]) -> Any:
    return check_failures(calibration.success, calibration.simulated, theta)


def test_report_says_how_much_of_the_posterior_fails(parts: tuple[Any, Any]) -> None:
    calibration = problem(parts)
    assert calibration.conditioned_prior.plain
    posterior = calibration.sample(uq.SMC(particles=1000), rng=1)
    check = posterior.verdict["failed runs"]
    draws = {name: posterior.draws[name].values.ravel() for name in ("a", "b")}
    p = parts[1].probability(draws)
    assert check.value == pytest.approx(1.0 - p.mean())
    assert check.status == "warn"
    assert f"{np.mean(p < 0.5):.1%} of the posterior" in check.message
    assert "failed runs" in str(posterior.summary())
    sure = copy.copy(calibration)
    sure.success = replace(calibration.success, fitted=_Always(parts[1].domain))
    assert failed_runs(sure, draws).status == "pass"


@dataclass
class _Always:
    domain: uq.Box

    def log_probability_at(self, u: Array) -> Array:
        return np.zeros(u.shape[:-1])


def test_the_model_of_gradient_samplers_has_the_same_density(parts: tuple[Any, Any]) -> None:
    """Log-density of the PyMC model against likelihood, prior and success by themselves."""
    calibration = problem(parts, failures="impossible")
    model = calibration.model()
    points = {name: values[:3] for name, values in calibration.prior_draws(64, 5).items()}
    z = calibration.on_the_real_line({**points, "latents": np.zeros((3, 0))})
    names = [variable.name for variable in model.value_vars]
    density = model.compile_fn(model.logp(jacobian=False), inputs=model.value_vars, mode="FAST_COMPILE")
    wanted = sum(calibration.conditioned_prior.log_terms(points).values()) + calibration.log_likelihood(points)
    found = [float(density(dict(zip(names, row, strict=True)))) for row in z]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_surrogate_of_successes_says_so_when_nothing_tells_where_runs_fail(parts: tuple[Any, Any]) -> None:
    surrogate, _ = parts
    failed = int(surrogate.attrs["runs_failed"])
    assert failed == 48 - surrogate.runs
    posterior = uq.Calibration(surrogate, xr.DataArray(0.5, name="y"), uq.GaussianNoise(sd=0.15)).sample(
        uq.SMC(particles=500), rng=1
    )
    check = posterior.verdict["failed runs"]
    assert check.status == "note"
    assert check.message.startswith(f"{failed} of 48 runs gave no outputs")


def test_gradient_of_the_log_prior_is_that_of_differences(parts: tuple[Any, Any]) -> None:
    import pytensor

    success = problem(parts, failures="impossible").success
    assert success is not None
    x = pytensor.tensor.dvector()
    value = PythonOp(LogSuccess(success))(x)[0]
    both = pytensor.function([x], [value, pytensor.grad(value, x)], mode="FAST_COMPILE")
    at = np.array([1.3, 1.1])
    found, slope = both(at)
    assert found == pytest.approx(np.log(parts[1].probability({"a": 1.3, "b": 1.1})[0]))
    steps = 1e-6 * np.eye(2)
    differences = [(both(at + e)[0] - both(at - e)[0]) / 2e-6 for e in steps]
    np.testing.assert_allclose(slope, differences, rtol=1e-5)


def test_several_conditions_count_by_the_least_probable_success() -> None:
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), conditions={"dose": uq.Condition(1.0, 4.0)})
    design = uq.sobol(space, 40, rng=1)
    a, dose = design["a"].values, design["dose"].values
    ok = a * dose < 2.0
    y = np.where(ok, a * dose, np.nan)
    runs = uq.ensemble.build(design, {"y": y}, states=np.where(ok, "completed", "failed"), space=space)
    data = uq.Observations.from_xarray(
        xr.DataArray(
            [0.3, 0.9], dims="experiment", coords={"experiment": [0, 1], "dose": ("experiment", [1.0, 3.0])}, name="y"
        ),
        conditions=("dose",),
    )
    success = uq.SuccessProbability(hyperparameters="point").fit(runs)
    calibration = uq.Calibration(
        uq.GaussianProcess(hyperparameters="point").fit(runs),
        data,
        uq.GaussianNoise(sd=0.3),
        success=success,
        failures="impossible",
    )
    levels = (np.arange(20_000) + 0.5) / 20_000
    each = np.stack([success.probability({"a": levels, "dose": dose}) for dose in (1.0, 3.0)])
    p = each.min(axis=0)
    assert 0.5 < (each[1] < each[0]).mean() < 1.0
    np.testing.assert_allclose(np.exp(calibration.success.log({"a": levels})), p, rtol=1e-12)
    draws = calibration.prior_draws(4000, 3)["a"]
    cdf = np.cumsum(p) / p.sum()
    assert kstest(np.interp(draws, levels, cdf), "uniform").pvalue > 0.01


def test_a_plain_function_of_the_users_own_will_do() -> None:
    """S known in closed form: p(theta | success) is a cut normal law."""

    class Cut:
        domain = uq.Box(("a",), (-4.0,), (4.0,))

        def log_probability_at(self, u: Array) -> Array:
            return np.asarray(norm.logcdf(-(8.0 * u[..., 0] - 4.0) * 50.0))  # zero above a = 0

    design = uq.sobol(uq.ParameterSpace(a=uq.Normal(0.0, 1.0)), 12, rng=1)
    runs = uq.ensemble.build(design, {"y": design["a"].values}, space=uq.ParameterSpace(a=uq.Normal(0.0, 1.0)))
    calibration = uq.Calibration(
        uq.GaussianProcess(hyperparameters="point").fit(runs),
        xr.DataArray(0.0, name="y"),
        uq.GaussianNoise(sd=1.0),
        success=Cut(),
        failures="impossible",
    )
    assert calibration.conditioned_prior.allowed.share == pytest.approx(0.5, abs=2e-3)
    draws = calibration.prior_draws(4000, 1)["a"]
    assert draws.mean() == pytest.approx(-np.sqrt(2.0 / np.pi), abs=0.04)
    value, slope = calibration.success.log_and_slope(np.array([-0.01]))
    assert slope[0] == pytest.approx(-50.0 * np.exp(norm.logpdf(0.5) - norm.logcdf(0.5)), rel=1e-2)
    assert value == pytest.approx(norm.logcdf(0.5))


def test_what_cannot_be_meant(parts: tuple[Any, Any]) -> None:
    surrogate, success = parts
    data, noise = xr.DataArray(0.5, name="y"), uq.GaussianNoise(sd=0.1)
    with pytest.raises(InputError, match="what fails"):
        uq.Calibration(surrogate, data, noise, failures="impossible")
    with pytest.raises(InputError, match="failures is"):
        uq.Calibration(surrogate, data, noise, success=success, failures="never")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="success is"):
        uq.Calibration(surrogate, data, noise, success=lambda points: 1.0)  # type: ignore[arg-type]

    class Never:
        domain = success.domain

        def log_probability_at(self, u: Array) -> Array:
            return np.full(u.shape[:-1], -10.0)

    with pytest.raises(InputError, match="success has 0.00% of the prior"):
        uq.Calibration(surrogate, data, noise, success=Never(), failures="impossible")  # type: ignore[arg-type]

    class Elsewhere(Never):
        domain = uq.Box(("other",), (0.0,), (1.0,))

    with pytest.raises(InputError, match=r"success depends on \['other'\]"):
        uq.Calibration(surrogate, data, noise, success=Elsewhere())  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------------- chains
@dataclass(frozen=True)
class Bent:
    """A probability of success that is a quadratic function of what is passed on."""

    domain: Box = Box(("apd",), (-12.0,), (12.0,), ("identity",), ((True, True),))

    def log_probability_at(self, u: Array) -> Array:
        a = self.domain.from_unit(u)[..., 0]
        return np.asarray(np.log(0.5 + 0.02 * a - 0.002 * a**2))


def chain_of_linear_members() -> uq.Chain:
    """Return y = 1.5 g + error of sd 0.3, of which the tissue takes y."""
    parent = linear({"g": (-3.0, 3.0)}, "apd", {"g": 1.5}, 0.3)
    child = linear({"apd": (-12.0, 12.0), "x": (0.0, 1.0)}, "speed", {"apd": -0.6, "x": 0.9}, 0.1, conditions=("x",))
    return uq.Chain(cell=parent, tissue=child, links={"tissue.apd": "cell.apd"})


def averaged(g: Array) -> Array:
    """Return the mean of `Bent` over the error of the cell, in closed form."""
    return np.asarray(0.5 + 0.02 * 1.5 * g - 0.002 * ((1.5 * g) ** 2 + 0.09))


def of_a_chain(**settings: Any) -> uq.Calibration:
    data = uq.Observations.from_xarray(xr.DataArray([0.4], dims="experiment", coords={"x": ("experiment", [0.5])},
                                                    name="tissue.speed"), conditions=("x",))  # fmt: skip
    return uq.Calibration(chain_of_linear_members(), data, uq.GaussianNoise(sd=0.5), **settings)


def test_success_of_a_member_is_the_mean_over_what_is_passed_on() -> None:
    calibration = of_a_chain(success={"tissue": Bent()})
    assert calibration.success is not None
    g = np.linspace(-2.5, 2.5, 7)
    np.testing.assert_allclose(np.exp(calibration.success.log({"g": g})), averaged(g), rtol=1e-6)
    for one in (-1.0, 0.7):
        value, slope = calibration.success.log_and_slope(np.array([one]))
        assert value == pytest.approx(np.log(averaged(np.array(one))), abs=1e-6)
        assert slope[0] == pytest.approx((0.03 - 0.009 * one) / averaged(np.array(one)), rel=1e-4)
    check = failed_runs(calibration, {"g": g})
    assert check is not None
    assert check.value == pytest.approx(1.0 - averaged(g).mean(), rel=1e-6)


def test_members_fail_independently_given_what_they_take() -> None:
    at_the_cell = Bent(Box(("g",), (-3.0,), (3.0,), ("identity",), ((True, True),)))
    calibration = of_a_chain(success={"tissue": Bent(), "cell": at_the_cell})
    assert calibration.success is not None
    g = np.linspace(-2.5, 2.5, 7)
    expected = averaged(g) * (0.5 + 0.02 * g - 0.002 * g**2)
    np.testing.assert_allclose(np.exp(calibration.success.log({"g": g})), expected, rtol=1e-6)


def test_draws_of_hyperparameters_count_by_their_weights() -> None:
    box = Bent().domain
    passed_on = np.array([-3.0, 6.0])  # by one draw and by the other
    inputs = np.broadcast_to(box.to_unit(passed_on[:, None])[:, None, None], (2, 1, 1, 1))
    chain = SimpleNamespace(
        domain=Box(("g",), (0.0,), (1.0,), ("identity",), ((True, True),)),
        members={"tissue": SimpleNamespace(domain=box, layouts={"speed": None})},
        inputs_of=lambda _: ("g",),
        scores=lambda _: SimpleNamespace(log_weights=np.log([1.6, 0.4])),
        member_inputs=lambda *_: inputs,
    )
    found = OfMembers(chain, {"tissue": Bent()}).log_probability_at(np.array([[0.5]]))  # type: ignore[arg-type]
    each = 0.5 + 0.02 * passed_on - 0.002 * passed_on**2
    np.testing.assert_allclose(np.exp(found), 0.8 * each[0] + 0.2 * each[1], rtol=1e-12)


def test_a_prior_is_conditioned_on_the_success_of_a_member() -> None:
    calibration = of_a_chain(success={"tissue": Bent()}, failures="impossible")
    g = np.linspace(-3.0, 3.0, 20_001)
    mass = float(np.mean(averaged(g)))
    assert calibration.conditioned_prior.allowed.share == pytest.approx(mass, abs=0.002)
    some = {"g": np.array([-1.5, 0.3, 2.0])}
    found = calibration.conditioned_prior.log_weight(some)
    np.testing.assert_allclose(found, np.log(averaged(some["g"]) / mass), atol=0.01)
    drawn = calibration.prior_draws(4000, 1)["g"]
    weight = averaged(g) / averaged(g).sum()
    assert drawn.mean() == pytest.approx(weight @ g, abs=4.0 * drawn.std() / np.sqrt(4000))


def test_members_that_are_none_are_named() -> None:
    with pytest.raises(InputError, match=r"success names \['heart'\]; .* among cell, tissue"):
        of_a_chain(success={"heart": Bent()})
    with pytest.raises(InputError, match=r"success of 'cell' depends on \['apd'\]; its inputs are g"):
        of_a_chain(success={"cell": Bent()})
    with pytest.raises(InputError, match=r"success\['tissue'\] is 3; give what"):
        of_a_chain(success={"tissue": 3})
    runs = table()
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(runs)
    with pytest.raises(InputError, match="a mapping, which is for members of a uq.Chain"):
        uq.Calibration(surrogate, {"y": 1.3}, uq.GaussianNoise(sd=0.15), success={"tissue": Bent()})
    failed = replace(chain_of_linear_members().members["tissue"], attrs={"runs_failed": "3"})
    other = uq.Chain(cell=chain_of_linear_members().members["cell"], tissue=failed, links={"tissue.apd": "cell.apd"})
    space = uq.ParameterSpace(g=uq.Uniform(-3.0, 3.0))
    calibration = uq.Calibration(other, {"tissue.speed": 0.4}, uq.GaussianNoise(sd=0.5), space=space, fixed={"x": 0.5})
    note = failed_runs(calibration, {"g": np.zeros(4)})
    assert note is not None
    assert "3 of 4 runs of 'tissue' gave no outputs" in note.message
    assert "success={'tissue': uq.SuccessProbability().fit(ensemble)}" in note.remedy

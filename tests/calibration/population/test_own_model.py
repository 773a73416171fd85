"""A population in a PyMC model that its users write themselves."""

import numpy as np
import pymc as pm
import pytensor
import pytest
from calibration.population.test_population import problem
from scipy.stats import norm

import uqms as uq
from uqms.errors import InputError


def point_of(model: pm.Model, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return values of the variables in their own units as a point of the model."""
    out = {}
    for name, value in values.items():
        variable = model[name]
        transform = model.rvs_to_transforms[variable]
        inputs = variable.owner.inputs
        forward = (
            value
            if transform is None
            else transform.forward(pytensor.tensor.as_tensor(value), *inputs).eval(mode="FAST_COMPILE")
        )
        out[model.rvs_to_values[variable].name] = np.asarray(forward)
    return out


def test_subjects_with_a_law_of_ones_own() -> None:
    """Their values are given, so that the density is that of the data alone, and of the law that was written."""
    one = problem()
    theta, z = one.prior_draws(1, 2), np.random.default_rng(5).standard_normal((1, one.latents))
    natural, _ = one.layout.natural(theta, z)
    a, log_b = natural[0, :, 0], natural[0, :, 1]
    with pm.Model() as model:
        group = pm.Normal("group", 0.5, 0.1, shape=2)
        mine = pm.Normal("mine", group[np.array([0, 1, 1, 0, 1])], 0.05, shape=5)
        b = pm.Normal("log_b", 0.0, 1.0, shape=5)
        uq.observe(one, {"a": mine, "b": pm.math.exp(b), "c": 0.5, "sigma": 0.2})
    assert [variable.name for variable in model.free_RVs] == ["group", "mine", "log_b"]
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        density = model.compile_logp(jacobian=False)
    found = float(density({"group": np.array([0.45, 0.55]), "mine": a, "log_b": log_b}))
    own = {"a": a[None], "b": np.exp(log_b)[None], "c": np.array([0.5]), "sigma": np.array([0.2])}
    wanted = one.of_individuals(own, np.zeros((1, 0)))[0] + norm.logpdf([0.45, 0.55], 0.5, 0.1).sum()
    wanted += norm.logpdf(a, np.array([0.45, 0.55])[[0, 1, 1, 0, 1]], 0.05).sum() + norm.logpdf(log_b).sum()
    assert found == pytest.approx(wanted, rel=1e-8)


def test_a_typical_value_that_depends_on_something_else() -> None:
    one = problem()
    with pm.Model() as model:
        shift = pm.Normal("shift", 0.0, 0.1)
        uq.observe(one, {"a": 0.5 + shift}, own_priors=True)
    names = [variable.name for variable in model.free_RVs]
    assert names == [
        "shift",
        "b",
        "omega_a",
        "omega_b",
        "beta_b_weight",
        "lkj_b_a",
        "c",
        "sigma",
        "effect_a",
        "effect_b",
    ]
    assert model["effect_a"].type.shape in ((5,), (None,))


def test_what_is_refused() -> None:
    one = problem()
    with pm.Model():
        with pytest.raises(InputError, match="lacks"):
            uq.observe(one, {"a": 0.5})
        with pytest.raises(InputError, match="give all of them"):
            uq.observe(one, {"a": np.full(5, 0.5)}, own_priors=True)
        with pytest.raises(InputError, match="one for each of the 5"):
            uq.observe(one, {"a": np.full(4, 0.5), "b": np.full(5, 0.4)}, own_priors=True)
        with pytest.raises(InputError, match="leave them out"):
            uq.observe(one, {"a": np.full(5, 0.5), "b": np.full(5, 0.4), "omega_a": 0.1}, own_priors=True)
        with pytest.raises(InputError, match="unknown quantities"):
            uq.observe(one, {"dose": 0.5}, own_priors=True)

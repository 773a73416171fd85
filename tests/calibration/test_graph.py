"""A PyMC model of one's own: its density and gradient, its posterior beside nutpie's own, and what is refused."""

import arviz_stats
import numpy as np
import nutpie
import pymc as pm
import pytensor.tensor as pt
import pytest
import xarray as xr
from arviz_stats.base import array_stats
from calibration.problems import given_surrogate

import uqms as uq
from uqms.calibration import graph, warmup
from uqms.calibration.compiled import GroupedMap, Groups
from uqms.calibration.graph import ModelTarget, complaints, model_target
from uqms.calibration.samplers import nuts
from uqms.errors import ConvergenceWarning, InitError, InputError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
NONE = Groups(np.empty((0, 0), dtype=np.int64), np.empty(0, dtype=np.int64))  # no coordinates that belong together
SETTINGS = {"chains": 4, "cores": None, "target_accept": 0.9}


@pytest.fixture(scope="module")
def model() -> pm.Model:
    """Return a model with two bounded variables, a vector with a dim, a shared array, and a calibration in it."""
    x = np.linspace(0.0, 1.0, 5)[:, None]
    surrogate = given_surrogate(x, np.sin(3.0 * x), names=("theta",))
    problem = uq.Calibration(surrogate, xr.DataArray(0.7, name="y"), noise=uq.GaussianNoise(sd=uq.HalfNormal(1.0)))
    with pm.Model(coords={"clinic": ["a", "b", "c"]}) as built:
        weight = pm.Data("weight", np.array([1.0, 2.0, 0.5]), dims="clinic")
        sd = pm.HalfNormal("sd", 1.0)
        share = pm.Beta("share", 2.0, 3.0)
        effect = pm.Normal("effect", 0.0, 1.0, dims="clinic")
        level = pm.Deterministic("level", share * weight + 0.1 * effect, dims="clinic")
        uq.observe(problem, {"theta": share, "sigma": 0.2 + sd})
        pm.Normal("seen", level, 0.3 + sd, observed=np.array([0.3, 1.1, -0.2]), dims="clinic")
    return built


@pytest.fixture(scope="module")
def found(model: pm.Model) -> ModelTarget:
    return model_target(model)


def test_density_and_gradient_are_those_of_the_model(model: pm.Model, found: ModelTarget) -> None:
    import pytensor

    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        function = model.compile_fn([model.logp(), model.dlogp()], point_fn=False, inputs=model.value_vars)
    for seed in range(4):
        z = np.random.default_rng(seed).standard_normal(5)
        value, gradient = found.evaluate(z)
        wanted, slopes = function(z[0], z[1], z[2:])
        assert value == pytest.approx(float(wanted), rel=1e-10)
        np.testing.assert_allclose(gradient, slopes, rtol=1e-9, atol=1e-9)


def test_gradient_is_the_slope_of_the_value_through_a_map(found: ModelTarget) -> None:
    z = np.random.default_rng(1).standard_normal((600, 5))
    z[:, 3] += 0.8 * z[:, 2] ** 2
    mapped = found.with_map(warmup.fit_map(z))
    assert mapped.map is not None
    w = mapped.map.inverse(z[:1])[0]
    value, gradient = mapped.evaluate(w)
    assert value - mapped.map.log_determinant == pytest.approx(found.evaluate(z[0])[0], rel=1e-12)
    for i, step in enumerate(1e-5 * np.eye(5)):
        slope = (mapped.evaluate(w + step)[0] - mapped.evaluate(w - step)[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_gradient_is_the_slope_of_the_value_through_a_map_of_groups(found: ModelTarget) -> None:
    rng = np.random.default_rng(3)
    z, directions = rng.standard_normal(5), np.linalg.qr(rng.standard_normal((5, 2)))[0].T
    shift, scale, stretch = rng.standard_normal(5), np.array([0.2, 3.0, 1.0, 0.7, 1.5]), np.array([4.0, 0.3])
    groups, roots, growth = np.array([[0, 3], [4, 1]]), rng.standard_normal((2, 2, 2)), rng.standard_normal((1, 2, 2))
    root = np.eye(5)
    for group, one in zip(groups, roots, strict=True):
        root[np.ix_(group, group)] = one
    straight = np.eye(5) + directions.T * (stretch - 1.0) @ directions

    def line(w: np.ndarray, growth: np.ndarray) -> np.ndarray:
        y = straight @ w
        bounded = y[2] / (1.0 + (y[2] / 5.0) ** 4) ** 0.25
        y[groups] *= np.exp(bounded * growth[0])
        return np.asarray(shift + scale * (root @ y))

    for driver in (growth, np.zeros_like(growth)):
        mapped = found.with_map(GroupedMap(shift, scale, directions, stretch, groups, roots, np.array([2]), driver))
        assert mapped.map is not None
        w = mapped.map.inverse(z[None])[0]
        np.testing.assert_allclose(line(w, driver), z, rtol=1e-12)
        value, gradient = mapped.evaluate(w)
        steps = 1e-5 * np.eye(5)
        jacobian = np.array([(line(w + one, driver) - line(w - one, driver)) / 2e-5 for one in steps]).T
        plain, slope = found.evaluate(z)
        assert value - np.log(abs(np.linalg.det(jacobian))) == pytest.approx(plain, rel=1e-9)
        slopes = [(mapped.evaluate(w + one)[0] - mapped.evaluate(w - one)[0]) / 2e-5 for one in steps]
        np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gradient, (scale[:, None] * root @ straight).T @ slope, rtol=1e-11, atol=1e-11)


def test_what_is_reported_of_a_draw(model: pm.Model, found: ModelTarget) -> None:
    from uqms.calibration.compiled import expand

    assert found.variables == (("effect", (3,)), ("sd", ()), ("share", ()), ("level", (3,)))
    assert found.free == ("sd", "share", "effect")
    z = np.random.default_rng(2).standard_normal(5)
    out = expand(found.functions[1], found.block, z, 8 + 5)
    sd, share = np.exp(z[0]), 1.0 / (1.0 + np.exp(-z[1]))
    wanted = [*z[2:], sd, share, *(share * np.array([1.0, 2.0, 0.5]) + 0.1 * z[2:]), *z]
    np.testing.assert_allclose(out, wanted, rtol=1e-12)


@pytest.mark.slow
def test_the_posterior_is_that_of_nutpie(model: pm.Model) -> None:
    tree = uq.NUTS(draws=1000, tune=600).sample_model(model, rng=1)
    with model:
        model.set_data("weight", np.array([1.0, 2.0, 0.5]))
    theirs = nutpie.sample(
        nutpie.compile_pymc_model(model), draws=1000, tune=600, chains=4, seed=2, progress_bar=False
    )["posterior"].dataset
    ours = tree["posterior"].dataset
    assert set(ours.data_vars) == {"sd", "share", "effect", "level"}
    assert ours["level"].dims == ours["effect"].dims == ("chain", "draw", "clinic")
    assert list(ours["clinic"].values) == ["a", "b", "c"]
    for name, draws in ours.data_vars.items():
        for power in (1, 2):
            one, other = draws**power, theirs[name] ** power
            errors = [arviz_stats.ess(v.to_dataset(name="v"), method="mean")["v"] for v in (one, other)]
            mcse = np.sqrt(one.var(("chain", "draw")) / errors[0] + other.var(("chain", "draw")) / errors[1])
            off = one.mean(("chain", "draw")) - other.mean(("chain", "draw"))
            assert float(np.abs(off / mcse).max()) < 4.0, (name, power)
    np.testing.assert_allclose(tree["observed_data"]["seen"], [0.3, 1.1, -0.2])
    np.testing.assert_allclose(tree["constant_data"]["weight"], [1.0, 2.0, 0.5])
    assert {"diverging", "depth", "maxdepth_reached", "step_size"} <= set(tree["sample_stats"].data_vars)
    again = uq.NUTS(draws=1000, tune=600).sample_model(model, rng=1)["posterior"].dataset
    np.testing.assert_array_equal(again["sd"].values, ours["sd"].values)


def test_what_is_on_disk_is_not_compiled_again(model: pm.Model, found: ModelTarget) -> None:
    assert [function.cache_hits for function in model_target(model).functions] == [1, 1]


def test_blocks_follow_until_the_draws_are_enough(model: pm.Model) -> None:
    tree = uq.NUTS(draws=200, tune=400, ess=1500).sample_model(model, rng=3)
    free = tree["posterior"].dataset[["sd", "share", "effect"]]
    assert tree["posterior"].sizes["draw"] > 200
    assert min(float(v.min()) for v in arviz_stats.ess(free, method="bulk").data_vars.values()) >= 1500


def test_new_data_need_no_compilation(model: pm.Model, found: ModelTarget) -> None:
    z = np.zeros(5)
    before = found.evaluate(z)[0]
    with model:
        pm.set_data({"weight": np.array([3.0, 2.0, 0.5])})
        other = model_target(model)
        pm.set_data({"weight": np.array([1.0, 2.0, 0.5])})
    assert [function.cache_hits for function in other.functions] == [1, 1]
    law = -0.5 * ((0.3 - 1.5) ** 2 - (0.3 - 0.5) ** 2) / 1.3**2  # of the first clinic
    assert other.evaluate(z)[0] - before == pytest.approx(law, rel=1e-9)


# --- small models: no kernel in them, so that each takes a second -----------------------------------------------------


def ridge(sd: float, bend: float) -> pm.Model:
    """Return b = a + bend a² within sd; a is a standard normal."""
    with pm.Model() as model:
        a = pm.Normal("a", 0.0, 1.0)
        b = pm.Flat("b")
        pm.Potential("ridge", -0.5 * ((b - a - bend * a**2) / sd) ** 2)
    return model


def is_standard_normal(draws: xr.DataArray, least: float) -> None:
    for power, wanted in ((1, 0.0), (2, 1.0)):
        got = draws**power
        ess = float(arviz_stats.ess(got.to_dataset(name="v"), method="mean")["v"])
        assert ess > least
        assert float(got.mean()) == pytest.approx(wanted, abs=4.0 * float(got.std()) / np.sqrt(ess))


@pytest.mark.slow
def test_a_ridge_is_grouped() -> None:
    """Without the map, chains take more than 60 steps a draw."""
    tree = uq.NUTS(draws=500, tune=1000).sample_model(ridge(0.01, 0.0), rng=1)
    assert float(tree["sample_stats"]["n_steps"].mean()) < 8.0
    is_standard_normal(tree["posterior"]["a"], 600)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::uqms.errors.ConvergenceWarning")  # of chains that are short for a ridge
def test_learned_coordinates_in_which_draws_diverge_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    block = uq.NUTS._block

    def watched(self: uq.NUTS, model: object, tune: int, seed: int, draws: int | None = None) -> object:
        trace = block(self, model, tune, seed, draws)
        seen.append((tune, int(trace["sample_stats"]["diverging"].sum())))
        return trace

    monkeypatch.setattr(uq.NUTS, "_block", watched)
    for seed in range(1, 13):  # which ones diverge hangs on the last digits of the machine; half of them do
        seen.clear()
        tree = uq.NUTS(draws=1000, tune=1000).sample_model(ridge(0.1, 0.1), rng=seed)
        if len(seen) > 1:
            break
    (first, diverged), (second, after) = seen
    assert first == 350
    assert diverged > 0
    assert (second, after) == (1000, 0)
    is_standard_normal(tree["posterior"]["a"], 300)


@pytest.mark.slow
def test_many_dimensions_have_no_map() -> None:
    with pm.Model() as wide:
        pm.Normal("x", np.arange(40.0), 2.0, shape=40)
    target = model_target(wide)
    assert target.map is None
    z = np.ones(40)
    value, gradient = target.evaluate(z)
    off = (z - np.arange(40.0)) / 2.0
    assert value == pytest.approx(float(-0.5 * off @ off - 40 * np.log(2.0 * np.sqrt(2.0 * np.pi))))
    np.testing.assert_allclose(gradient, -off / 2.0)
    tree = uq.NUTS(draws=1000, tune=300).sample_model(wide, rng=1)
    np.testing.assert_allclose(tree["posterior"]["x"].mean(("chain", "draw")), np.arange(40.0), atol=0.2)


@pytest.mark.slow
def test_second_derivatives_straighten_many_coordinates_that_move_together() -> None:
    sds = np.linspace(0.1, 3.0, 40)
    covariance = np.outer(sds, sds) * (0.1 * np.eye(40) + 0.9)
    with pm.Model() as together:
        pm.MvNormal("x", np.arange(40.0), covariance)
    target, sampler = model_target(together), uq.NUTS(draws=500, tune=250, target_accept=0.8)
    starts = np.arange(40.0) + 0.1 * sds * np.random.default_rng(1).standard_normal((8, 40))
    moved, _, left = warmup.learned(target, 250, SETTINGS, 1, starts, rough=True, groups=NONE)
    assert isinstance(moved.map, GroupedMap)
    assert left == 250 - 53
    for tune, wanted in ((300, 200), (1000, 236)):
        assert warmup.learned(target, tune, SETTINGS, 1, starts, rough=True, groups=NONE)[2] == wanted
    matrix = moved.map.scale[:, None] * (
        np.eye(40) + moved.map.directions.T * (moved.map.stretch - 1.0) @ moved.map.directions
    )
    np.testing.assert_allclose(matrix @ matrix.T, covariance, rtol=1e-4, atol=1e-6)
    assert warmup.learned(target, 140, SETTINGS, 1, starts, rough=True, groups=NONE)[0] is target
    found = {}
    for linear in (True, False):
        trace = sampler.sample_target(target, 1, starts, rough=True, groups=NONE if linear else None)
        middle = (trace["posterior"]["x"].values - np.arange(40.0)) @ (1.0 / sds) / 40.0  # what is widest of all
        found[linear], squares = array_stats.ess(middle), array_stats.ess(middle**2)
        if linear:
            assert abs(middle.mean()) < 4.0 * np.sqrt(0.9025 / found[linear])
            assert middle.var() == pytest.approx(0.9025, abs=4.0 * 0.9025 * np.sqrt(2.0 / squares))
    assert found[True] > 1000  # of 2000 draws
    assert found[True] > 20.0 * found[False]


def test_what_belongs_together_needs_no_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two correlated parameters of each of 60 subjects, and one that moves all of them: few directions are enough."""
    rng, n = np.random.default_rng(6), 60
    sds, r = rng.uniform(0.1, 3.0, (n, 2)), rng.uniform(0.9, 0.99, n)
    covariance = 4.0 * np.outer(sds.T, sds.T)
    for i in range(n):
        covariance[np.ix_([i, n + i], [i, n + i])] += np.outer(sds[i], sds[i]) * [[1.0, r[i]], [r[i], 1.0]]
    with pm.Model() as pairs:
        pm.MvNormal("x", np.zeros(2 * n), covariance)
    line = np.linalg.cholesky(covariance) @ rng.standard_normal((2 * n, 26))
    monkeypatch.setattr(warmup, "_pilot", lambda *_: (line.T, 0))
    monkeypatch.setattr(warmup, "DIRECTIONS", 8)
    target, spreads = model_target(pairs), {}
    for groups in (NONE, Groups(np.arange(2 * n).reshape(2, n).T, NONE.drivers)):
        moved, _, _ = warmup.learned(target, 200, SETTINGS, 1, line.T, rough=True, groups=groups)
        assert isinstance(moved.map, GroupedMap)
        whitened = moved.map.inverse(moved.map.shift + np.linalg.cholesky(covariance).T)
        values = np.linalg.svd(whitened, compute_uv=False)  # sds in the map's coordinates
        spreads[len(groups.members)] = values[0] / values[-1]
    assert spreads[n] < 3.0
    assert spreads[0] > 10.0


def test_effects_are_as_wide_as_the_noise_lets_them_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two effects of each of 40 subjects with 1 to 6 measurements, spreads known, the noise's sd not."""
    rng, n = np.random.default_rng(8), 40
    rows = np.repeat(np.arange(n), rng.integers(1, 7, n))
    slopes = rng.standard_normal((len(rows), 2))
    truth = rng.standard_normal((n, 2)) * [1.0, 0.5]
    seen = np.sum(slopes * truth[rows], axis=1) + 0.4 * rng.standard_normal(len(rows))
    with pm.Model() as mixed:
        log_sd = pm.Normal("log_sd", -1.0, 1.0)
        effect = pm.Normal("effect", 0.0, np.array([1.0, 0.5]), shape=(n, 2))
        pm.Normal("seen", pt.sum(slopes * effect[rows], axis=1), pt.exp(log_sd), observed=seen)
    target, members = model_target(mixed), 1 + np.arange(2 * n).reshape(n, 2)

    def curvature(log_sd: float) -> np.ndarray:
        out = np.broadcast_to(np.diag([1.0, 4.0]), (n, 2, 2)).copy()
        np.add.at(out, rows, slopes[:, :, None] * slopes[:, None, :] / np.exp(2.0 * log_sd))
        return out

    places = np.column_stack([np.full(26, np.log(0.4)), np.tile(truth.ravel(), (26, 1))])
    root = np.linalg.cholesky(np.linalg.inv(curvature(np.log(0.4))))
    places[:, 1:] += np.einsum("jab,sjb->sja", root, rng.standard_normal((26, n, 2))).reshape(26, -1)
    monkeypatch.setattr(warmup, "_pilot", lambda *_: (places + 1e-3 * rng.standard_normal(places.shape), 0))
    moved, _, _ = warmup.learned(
        target, 200, SETTINGS, 1, places, rough=True, groups=Groups(members, np.array([0], dtype=np.int64))
    )
    assert isinstance(moved.map, GroupedMap)
    assert moved.map.drivers.tolist() == [0]
    # Columns of the map of each subject, where the noise's sd is moved by one unit of the map: curvatures stay what
    # they were, which without growth they do not.
    here = moved.map.scale[members][:, :, None] * moved.map.roots
    away, step = np.log(0.4) + moved.map.scale[0], np.exp(moved.map.growth[0])[:, None, :]
    before = np.einsum("jba,jbc,jcd->jad", here, curvature(np.log(0.4)), here)
    after = np.einsum("jba,jbc,jcd->jad", here * step, curvature(away), here * step)
    without = np.einsum("jba,jbc,jcd->jad", here, curvature(away), here)
    assert np.abs(after - before).max() < 0.1 * np.abs(without - before).max()
    own = np.diagonal(without / before, axis1=1, axis2=2)
    assert own.min() < np.exp(-1.8 * moved.map.scale[0])  # of some the data tell nearly all, so exp(-2 step)


def test_widths_do_not_grow_where_the_curvature_says_nothing() -> None:
    roots, candidates = np.broadcast_to(np.eye(2), (3, 2, 2)).copy(), np.array([6])
    middle = np.array([np.diag([1.0, 2.0]), np.diag([0.0, 4.0]), np.diag([-1.0, 1.0])])
    changes = np.array([np.diag([-0.4, -0.2]), np.diag([0.0, 0.4]), np.diag([-0.8, 9.0])])
    turned, drivers, growth = warmup._growth(lambda *_: np.stack([middle, changes]), roots, candidates)
    assert drivers.tolist() == [6]
    np.testing.assert_allclose(np.abs(turned), roots)  # eigenvalues in ascending order, as they are given
    np.testing.assert_allclose(growth, [[[0.2, 0.05], [0.0, -0.05], [0.0, -0.25]]], atol=1e-15)
    for wrong in np.nan * changes, 0.0 * changes:
        both = np.stack([middle, wrong])
        kept, none, nothing = warmup._growth(lambda *_, both=both: both, roots, candidates)
        assert kept is roots
        assert none.shape == (0,)
        assert nothing.shape == (0, 3, 2)


def test_what_is_flat_at_a_few_places_is_no_wider_than_its_slopes_say() -> None:
    rng = np.random.default_rng(7)
    groups, slopes = np.arange(6).reshape(3, 2), rng.standard_normal((26, 3, 2)) * [0.5, 3.0]
    roots = warmup._roots(lambda v: np.zeros((warmup.POINTS, 6)), slopes, groups, 6, rng)
    expected = np.zeros((3, 2, 2))
    expected[:, [0, 1], [0, 1]] = 1.0 / np.sqrt(np.mean(slopes**2, axis=0))
    np.testing.assert_allclose(np.abs(roots), expected, atol=1e-12)
    roots = warmup._roots(lambda v: np.full((warmup.POINTS, 6), np.nan), slopes, groups, 6, rng)
    np.testing.assert_array_equal(roots, np.broadcast_to(np.eye(2), (3, 2, 2)))


def test_outermost_directions_of_a_matrix_are_found_and_equal_values_are_no_end() -> None:
    rng = np.random.default_rng(4)
    values = np.ones(120)
    values[:3] = 1e-3, 0.02, 40.0
    vectors = np.linalg.qr(rng.standard_normal((120, 120)))[0]
    matrix = vectors * values @ vectors.T
    both = np.stack([0.5 * matrix, 1.5 * matrix])
    found, directions = warmup._spectrum(lambda v: both @ v, 120, 20, rng)  # four different ones: a search ends there
    np.testing.assert_allclose(directions @ directions.T, np.eye(20), atol=1e-10)
    np.testing.assert_allclose(found, np.outer([0.5, 1.5], [1e-3, 0.02, *np.ones(17), 40.0]), rtol=1e-8)
    np.testing.assert_allclose(matrix @ directions.T, directions.T * found.mean(axis=0), atol=1e-6)
    found, directions = warmup._spectrum(lambda v: np.zeros((1, 120)), 120, 20, rng)  # nor are values of exactly 0
    np.testing.assert_array_equal(found, np.zeros((1, 20)))
    np.testing.assert_allclose(directions @ directions.T, np.eye(20), atol=1e-10)
    found, _ = warmup._spectrum(lambda v: both @ v * np.nan, 120, 20, rng)
    assert np.isnan(found).all()


def test_no_direction_is_stretched_by_curvatures_that_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    with pm.Model() as waves:
        first, _ = pm.Flat("first"), pm.Normal("rest", 0.0, 1.0, shape=29)
        pm.Potential("wave", pt.cos(3.0 * first))
    target, line = model_target(waves), np.random.default_rng(5).standard_normal((26, 30))
    line[:, 0] = 0.1
    line[[3, 9, 15, 21], 0] = np.pi / 3.0 - 0.1  # at half of the places the curvature is -9 cos 0.3 there
    monkeypatch.setattr(warmup, "_pilot", lambda *_: (line, 0))
    moved, _, _ = warmup.learned(target, 200, SETTINGS, 1, line, rough=True, groups=NONE)
    assert isinstance(moved.map, GroupedMap)
    one = moved.map.inverse(np.stack([moved.map.shift, moved.map.shift + np.eye(30)[0]]))
    assert np.linalg.norm(one[1] - one[0]) == pytest.approx(np.sqrt(9.0 * np.cos(0.3)), rel=1e-3)


@pytest.mark.parametrize(("share", "warmups"), [(0.01, [147]), (-1.0, [147, 200])])
def test_a_linear_map_in_which_more_draws_diverge_is_given_up(
    share: float, warmups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pm.Model() as wide:
        pm.Normal("x", 0.0, 1.0, shape=30)
    block, seen = uq.NUTS._block, []

    def noted(self: uq.NUTS, compiled: object, tune: int, seed: int, draws: int | None = None) -> object:
        seen.append(tune)
        return block(self, compiled, tune, seed, draws)

    monkeypatch.setattr(uq.NUTS, "_block", noted)
    monkeypatch.setattr(nuts, "DIVERGED", share)  # none diverges here: more than -1 does
    starts = 0.1 * np.random.default_rng(1).standard_normal((8, 30))
    sampler = uq.NUTS(draws=500, tune=200, target_accept=0.8)
    trace = sampler.sample_target(model_target(wide), 1, starts, rough=True, cautious=True, groups=NONE)
    assert seen == warmups
    np.testing.assert_allclose(trace["posterior"]["x"].std(("chain", "draw")), 1.0, atol=0.1)


@pytest.mark.slow
def test_a_density_that_is_no_number_is_a_divergence_and_no_crash() -> None:
    with pm.Model() as broken:
        x = pm.Normal("x", 0.0, 1.0)
        pm.Potential("hole", pt.switch(pt.gt(x, 1.5), np.nan, pt.switch(pt.lt(x, -1.5), -np.inf, 0.0)))
    target = model_target(broken)
    assert np.isnan(target.evaluate(np.array([2.0]))[0])
    assert target.evaluate(np.array([-2.0]))[0] == -np.inf
    with pytest.warns(ConvergenceWarning, match=r"draws diverged"):
        tree = uq.NUTS(draws=1000, tune=300).sample_model(broken, rng=1)
    assert float(np.abs(tree["posterior"]["x"]).max()) <= 1.5
    assert int(tree["sample_stats"]["diverging"].sum()) > 0


def test_no_start_is_named() -> None:
    with pm.Model() as nowhere:
        x = pm.Normal("x", 0.0, 1.0)
        pm.Potential("wall", pt.switch(pt.gt(x, 50.0), 0.0, -np.inf))
    with pytest.raises(InitError, match=r"\['wall'\] is not finite"):
        uq.NUTS().sample_model(nowhere, rng=1)


def test_discrete_variables_are_refused_by_name() -> None:
    with pm.Model():
        pm.Normal("x", 0.0, 1.0)
        pm.Poisson("count", 3.0)
        with pytest.raises(InputError, match=r"\['count'\] are discrete"):
            uq.NUTS().sample_model(rng=1)


def test_a_model_without_free_variables_is_refused() -> None:
    with pm.Model() as empty:
        pm.Normal("x", 0.0, 1.0, observed=1.0)
    with pytest.raises(InputError, match="no free variables"):
        uq.NUTS().sample_model(empty, rng=1)


def test_a_black_box_is_refused() -> None:
    class Box:
        """A simulator without derivative."""

    from pytensor.compile.ops import wrap_py

    @wrap_py(itypes=[pt.dscalar], otypes=[pt.dscalar])
    def box(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.sin(x))

    with pm.Model() as black:
        x = pm.Normal("x", 0.0, 1.0)
        pm.Normal("y", box(x), 1.0, observed=0.3)
    with pytest.raises(InputError, match="no derivative"):
        uq.NUTS().sample_model(black, rng=1)


@pytest.mark.slow
def test_without_nutpies_private_classes_it_goes_on_through_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> object:
        raise AttributeError("CompiledPyMCModel")

    with pm.Model(coords={"part": ["p", "q"]}) as small:
        pm.HalfNormal("s", 1.0)
        pm.Normal("v", 0.0, 1.0, dims="part")
    sampler = uq.NUTS(draws=500, tune=400)
    wanted = sampler.sample_model(small, rng=2)["posterior"].dataset
    monkeypatch.setattr(warmup, "_by_address", gone)
    got = sampler.sample_model(small, rng=2)["posterior"].dataset
    for name in ("s", "v"):
        np.testing.assert_allclose(got[name].values, wanted[name].values)
        assert got[name].dims == wanted[name].dims


def test_complaints_say_what_is_wrong() -> None:
    rng = np.random.default_rng(1)
    shape = ("chain", "draw")
    stuck = rng.standard_normal((4, 100)) + np.array([0.0, 0.0, 0.0, 3.0])[:, None]
    stats = {"diverging": (shape, np.arange(400).reshape(4, 100) < 3), "maxdepth_reached": (shape, stuck > 4.0)}
    tree = xr.DataTree.from_dict({"posterior": xr.Dataset({"x": (shape, stuck)}), "sample_stats": xr.Dataset(stats)})
    diverged, deep, apart = complaints(tree, ["x"])
    assert "3 of 400 draws diverged" in diverged
    assert f"{int((stuck > 4.0).sum())} of 400 draws reached the largest tree" in deep
    assert "R-hat" in apart
    assert "['x']" in apart
    assert graph.R_HAT == 1.01

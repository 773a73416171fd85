"""Sobol indices: closed forms, the joint law of the surrogate's error, whole curves, and what is refused."""

import warnings

import numpy as np
import pytest
import xarray as xr
from calibration.problems import given_surrogate
from sensitivity.functions import ISHIGAMI, Given, forms, indices_of_g, ishigami, sobol_g, square
from test_plots import curve_problem, posterior_of

import uqms as uq
from uqms.errors import DesignWarning, InputError
from uqms.sensitivity import SobolIndices, _functions, sobol, sobol_indices
from uqms.surrogates import GaussianProcessSurrogate
from uqms.surrogates.kernels import Matern52, correlation
from uqms.surrogates.transforms import Log

LEAD = ("draw", "bootstrap")


def uniform(d: int) -> dict[str, uq.Prior]:
    return {name: uq.Uniform(0.0, 1.0) for name in "abcdefghij"[:d]}


def off(result: SobolIndices, key: str, truth: object) -> np.ndarray:
    """Return how many standard errors of Monte Carlo the estimates are off."""
    one = result["y"][key]
    error = np.sqrt(one.var("bootstrap").mean("draw").values)
    return np.asarray((one.mean(LEAD).values - np.asarray(truth)) / np.maximum(error, 1e-4))


# ------------------------------------------------------------------------------------------------------- closed forms
@pytest.mark.parametrize(
    ("function", "d", "truth"), [(ishigami, 3, ISHIGAMI), (sobol_g, 4, indices_of_g())], ids=["ishigami", "g"]
)
def test_indices_of_a_known_function(function, d: int, truth: dict[str, np.ndarray]) -> None:  # type: ignore[no-untyped-def]
    result = sobol_indices(Given(function, d), uniform(d), points=2048, draws=20, rng=1)
    for key, values in truth.items():
        assert np.abs(off(result, key, values)).max() < 4.0
        error = result.error()["y"][key]
        assert float(error.sel(source="monte_carlo").max()) < 0.01
        assert float(error.sel(source="surrogate").max()) < 1e-12  # no error


def test_interactions_of_pairs() -> None:
    result = sobol_indices(Given(ishigami, 3), uniform(3), order=2, points=2048, draws=20, rng=1)
    second = result["y"]["S2"].mean(LEAD)
    assert float(second.sel(parameter="a", other="c")) == pytest.approx(0.2437, abs=0.01)
    assert float(second.sel(parameter="b", other="c")) == pytest.approx(0.0, abs=0.01)
    assert np.isnan(second.sel(parameter="a", other="a"))
    np.testing.assert_array_equal(second.transpose("other", "parameter").values, second.values)
    assert np.abs(off(result, "S1", ISHIGAMI["S1"])).max() < 4.0


def test_groups_count_as_one() -> None:
    result = sobol_indices(Given(ishigami, 3), uniform(3), groups={"both": ("a", "c")}, points=2048, draws=20, rng=1)
    assert result.groups == {"both": ("a", "c"), "b": ("b",)}
    means = result["y"].mean(LEAD)
    np.testing.assert_allclose(means["S1"], [0.5576, 0.4424], atol=0.01)
    np.testing.assert_allclose(means["ST"], [0.5576, 0.4424], atol=0.01)


def test_a_linear_function_of_other_distributions() -> None:
    def line(u: np.ndarray) -> np.ndarray:
        return 10.0 * u @ np.array([[1.0], [2.0], [3.0]])

    inputs = {"a": uq.Normal(0.5, 0.05), "b": uq.Condition(0.2, 0.8), "c": 0.3}
    result = sobol_indices(Given(line, 3), inputs, points=1024, draws=20, rng=1)
    variance = np.array([0.05**2, 4.0 * 0.6**2 / 12.0])
    assert result.inputs == ("a", "b")
    assert dict(result.fixed) == {"c": 0.3}
    np.testing.assert_allclose(result["y"]["ST"].mean(LEAD), variance / variance.sum(), atol=2e-3)
    np.testing.assert_allclose(result["y"]["S1"].mean(LEAD), variance / variance.sum(), atol=2e-3)
    assert float(result["y"]["variance"].mean()) == pytest.approx(100.0 * variance.sum(), rel=5e-3)


def test_draws_of_an_input_are_its_distribution() -> None:
    draws = np.random.default_rng(1).beta(2.0, 5.0, 20_000)
    line = Given(lambda u: u @ np.array([[1.0], [0.5]]), 2)
    result = sobol_indices(line, {"a": xr.DataArray(draws.reshape(4, -1)), "b": uq.Uniform(0, 1)}, draws=20, rng=1)
    parts = np.array([draws.var(), 0.25 / 12.0])
    np.testing.assert_allclose(result["y"]["ST"].mean(LEAD), parts / parts.sum(), atol=5e-3)


@pytest.mark.slow
def test_the_monte_carlo_error_is_that_of_other_seeds() -> None:
    found = [sobol_indices(Given(ishigami, 3), uniform(3), points=256, draws=20, rng=seed)["y"] for seed in range(20)]
    for key in ("S1", "ST"):
        across = np.std([one[key].mean(LEAD) for one in found], axis=0, ddof=1)
        said = np.sqrt(np.mean([one[key].var("bootstrap", ddof=1).mean("draw") for one in found], axis=0))
        assert np.all((said / across > 0.7) & (said / across < 1.6)), said / across


def test_salib_agrees_on_a_function_without_closed_form() -> None:
    analyse, sample = (pytest.importorskip(f"SALib.{part}.sobol") for part in ("analyze", "sample"))

    def function(u: np.ndarray) -> np.ndarray:
        return (np.exp(u[:, 0] * u[:, 1]) + np.sin(5.0 * u[:, 2]) * u[:, 0])[:, None]

    cube = {"num_vars": 3, "names": ["a", "b", "c"], "bounds": [[0.0, 1.0]] * 3}
    y = function(sample.sample(cube, 8192, seed=1))[:, 0]
    theirs = analyse.analyze(cube, y, num_resamples=10, seed=1)
    result = sobol_indices(Given(function, 3), uniform(3), order=2, points=2048, draws=20, rng=1)
    for key in ("S1", "ST", "S2"):
        ours = result["y"][key].mean(LEAD).values
        known = np.isfinite(theirs[key]) & np.isfinite(ours)
        np.testing.assert_allclose(ours[known], theirs[key][known], atol=0.012)


# --------------------------------------------------------------------------------------------------- surrogate's error
def process(seed: int, n: int = 9, ell: float = 0.5, d: int = 2) -> GaussianProcessSurrogate:
    """Return the process of a function that is drawn from it, known at n runs."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, d))
    kappa = correlation(Matern52(), x, x.copy(), np.full(d, ell)) + 1e-10 * np.eye(n)
    y = np.linalg.cholesky(kappa) @ rng.standard_normal(n)
    return given_surrogate(x, y[:, None], ell=ell, names=tuple("abcdefghij"[:d]), columns=0)


@pytest.mark.parametrize("anchors", [512, 8])
def test_draws_have_the_law_of_the_quadratic_forms(anchors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean and variance of the variances over the process in closed form, by a Gauss rule on the square."""
    monkeypatch.setattr(_functions, "ANCHORS", (anchors, 0, anchors))
    surrogate = process(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DesignWarning)
        one = sobol_indices(surrogate, draws=800, points=1024, bootstrap=4, rng=1)["y"]
    order = 24
    scores = surrogate.scores(square(order)[0])
    mean, covariance = scores.mean[0, :, 0], scores.covariance[0, 0]
    form = forms(order)
    drawn = {
        "variance": one["variance"],
        "a": one["S1"].sel(parameter="a") * one["variance"],
        "b": one["S1"].sel(parameter="b") * one["variance"],
        "total": one["ST"].sel(parameter="a") * one["variance"],
    }
    form["total"] = form["variance"] - form["b"]
    for name, values in drawn.items():
        each = values.mean("bootstrap").values
        q = form[name]
        expected = mean @ q @ mean + np.sum(q * covariance)
        qc = q @ covariance
        sd = np.sqrt(2.0 * np.sum(qc * qc.T) + 4.0 * mean @ qc @ q @ mean)
        assert each.mean() == pytest.approx(expected, abs=5.0 * sd / np.sqrt(len(each)) + 0.01 * expected), name
        if anchors > 8:
            assert each.std() == pytest.approx(sd, rel=0.1), name


@pytest.mark.slow
def test_intervals_cover_functions_of_the_process() -> None:
    """Functions are drawn again, as the surrogate says that they are; truth by a Gauss rule."""
    order = 24
    nodes, _ = square(order)
    form = forms(order)
    inside = {"joint": [], "independent": []}  # type: ignore[dict-item, var-annotated]
    width = {"joint": [], "independent": []}  # type: ignore[dict-item, var-annotated]
    for seed in range(40):
        surrogate = process(seed)
        f = surrogate.functions(1, 1000 + seed)(nodes)[0, :, 0]
        truth = np.array([f @ form[name] @ f for name in "ab"]) / (f @ form["variance"] @ f)

        def error(
            u: np.ndarray, n: int, rng: np.random.Generator, surrogate: GaussianProcessSurrogate = surrogate
        ) -> np.ndarray:
            variance = surrogate.marginal_scores(u).covariance[0, 0, :, None]
            return np.asarray(np.sqrt(variance) * rng.standard_normal((n, len(u), 1)))

        mutant = Given(lambda u, s=surrogate: s.marginal_scores(u).mean[0], 2, error=error)  # type: ignore[misc]
        for name, one in (("joint", surrogate), ("independent", mutant))[: 2 if seed < 15 else 1]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DesignWarning)
                found = sobol_indices(one, uniform(2), draws=100, points=256, bootstrap=10, rng=seed)
            low, high = (found.interval()["y"]["S1"].sel(bound=end).values for end in ("lower", "upper"))
            inside[name] += list((low <= truth) & (truth <= high))
            width[name] += list(high - low)
    # Two intervals a function: a window of three standard errors of 40 independent ones.
    assert 0.95 - 3.0 * np.sqrt(0.95 * 0.05 / 40) <= np.mean(inside["joint"]) <= 1.0
    assert np.mean(inside["independent"]) < 0.7
    assert np.mean(width["independent"]) < 0.5 * np.mean(width["joint"])


def test_what_paths_leave_out_is_in_the_totals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_functions, "ANCHORS", (2, 0, 2))
    surrogate = process(2, n=6, ell=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DesignWarning)
        few = sobol_indices(surrogate, draws=500, bootstrap=2, rng=1)["y"]["variance"].mean()
        monkeypatch.setattr(_functions, "_rest", lambda found: 0.0 * np.moveaxis(found.rest[found.members], 1, -1))
        without = sobol_indices(surrogate, draws=500, bootstrap=2, rng=1)["y"]["variance"].mean()
        monkeypatch.setattr(_functions, "ANCHORS", (512, 0, 512))
        many = sobol_indices(surrogate, draws=500, bootstrap=2, rng=1)["y"]["variance"].mean()
    assert float(few) == pytest.approx(float(many), rel=0.1)
    assert float(without) < 0.8 * float(many)


def test_too_few_runs_are_said() -> None:
    with pytest.warns(DesignWarning, match="Too few runs for y"):
        few = sobol_indices(process(1, n=8, ell=0.3), rng=1)
    assert few.too_few_runs == ("y",)
    assert "Too few runs for y" in few.summary()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        enough = sobol_indices(process(1, n=80, ell=0.8), rng=1)
    assert enough.too_few_runs == ()


def test_runs_are_too_few_from_a_twentieth_of_the_variance_unexplained() -> None:
    with pytest.warns(DesignWarning, match="Too few runs for y"):
        few = sobol_indices(process(1, n=40, ell=0.3), rng=1)
    enough = sobol_indices(process(1, n=16, ell=0.5), rng=1)
    shares = [float(one["y"]["unexplained"]) for one in (few, enough)]
    assert 0.06 < shares[0] < 0.09  # by the share alone: sds of indices are below 0.05
    assert max(float(one.sel(source="surrogate").max()) for one in few.error()["y"].values()) < 0.05
    assert 0.02 < shares[1] < 0.04
    assert few.too_few_runs == ("y",)
    assert enough.too_few_runs == ()


@pytest.mark.parametrize("seed", [1, 2])
def test_indices_of_few_runs_know_what_acts_alone(seed: int) -> None:
    """The second input of Ishigami's function acts alone: with main effects its two indices from 60 runs are near."""
    space = uq.ParameterSpace(**uniform(3))
    design = uq.sobol(space, 60, rng=seed)
    x = np.column_stack([design[name].values for name in space.names])
    surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": ishigami(x)[:, 0]}, space=space))
    result = sobol_indices(surrogate, rng=1)
    low, high = (result.interval()["y"].sel(bound=bound) for bound in ("lower", "upper"))
    for key, truth in ISHIGAMI.items():
        acts = np.array(truth) > 0.0  # of an index that is 0, all draws are a little above
        assert (((low[key].values <= truth) & (truth <= high[key].values)) | ~acts).all(), key
        assert (high[key].values[~acts] < 0.02).all()
    assert (high["ST"] - low["ST"]).values[1] < 0.05  # 0.4 with one kernel of all inputs
    assert result.too_few_runs == ()


# --------------------------------------------------------------------------------------------------------------- curves
def test_a_curve_is_its_coordinates_and_the_whole_their_average() -> None:
    basis = np.array([[1.0, 0.2, 0.0], [0.5, -1.0, 0.3], [0.0, 2.0, 1.0]])
    outputs = {"y": (basis, np.zeros((3, 0))), "second": (basis[1:2], np.zeros((1, 0)))}

    def scores(u: np.ndarray) -> np.ndarray:
        return np.column_stack([u[:, 0] * u[:, 1], np.sin(3.0 * u[:, 1]), u[:, 0] ** 2])

    def error(u: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        slopes = np.random.default_rng(3).standard_normal((n, 1, 3, 2))
        return 0.01 * np.einsum("nijk,lk->nlj", slopes, u)

    result = sobol_indices(Given(scores, 2, error=error, outputs=outputs), uniform(2), order=2, rng=1)
    for key in ("S1", "ST", "S2"):
        np.testing.assert_allclose(result["y"][key].sel(t=1.0), result["second"][key], atol=1e-10)
        weight = result["y"]["variance"] * np.array([0.25, 0.5, 0.25])
        whole = (result["y"][key] * weight).sum("t", skipna=False) / weight.sum("t")
        if key == "ST":  # first-order ones have their own control variate
            np.testing.assert_allclose(result["y"][f"{key}_whole"], whole.transpose(*LEAD, "parameter"), atol=1e-10)
        means = result["y"][f"{key}_whole"].mean(LEAD), whole.mean(LEAD)
        np.testing.assert_allclose(means[0], means[1], atol=5e-3)
    table = result.table(pointwise=True)
    assert set(table["t"].dropna()) == {0.0, 1.0, 2.0}
    assert len(result.table().query("output == 'y' and index == 'ST'")) == 2
    assert set(result.tree.children) == {"y", "second"}


def test_squares_at_coordinates_and_products_of_scores_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    x = rng.random((12, 2))
    y = np.column_stack([np.sin(4.0 * x[:, 0]) + x[:, 1], x[:, 0] * x[:, 1]])
    basis = rng.standard_normal((5, 2))
    surrogate = given_surrogate(x, y, basis=basis, truncation=0.01 * np.ones((5, 1)), names=("a", "b"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DesignWarning)
        products = sobol_indices(surrogate, points=128, order=2, rng=1)["y"]
        monkeypatch.setattr(sobol, "MOST_SCORES", 1)
        squares = sobol_indices(surrogate, points=128, order=2, rng=1)["y"]
    xr.testing.assert_allclose(products, squares, atol=1e-9)


def test_what_a_basis_leaves_out_belongs_to_anyone() -> None:
    truncation = np.array([[1.0], [0.0]])
    outputs = {"y": (np.array([[1.0], [1.0]]), truncation)}
    line = Given(lambda u: np.sqrt(12.0) * u[:, :1], 2, outputs=outputs)
    with pytest.warns(DesignWarning):
        result = sobol_indices(line, uniform(2), draws=400, bootstrap=2, rng=1)
    first = result["y"]["S1"].sel(t=0.0)
    np.testing.assert_allclose(result["y"]["unexplained"], [0.5, 0.0], atol=5e-3)
    of_a, of_b = (first.sel(parameter=name).values for name in "ab")
    assert 0.48 < of_a.min() < 0.55
    assert of_a.max() > 0.9
    assert -0.02 < of_b.min() < 0.02
    assert of_b.max() > 0.4
    total = result["y"]["ST"].sel(t=0.0, parameter="b").values
    np.testing.assert_allclose(result["y"]["S1"].sel(t=1.0).mean(LEAD), [1.0, 0.0], atol=5e-3)
    assert total.mean() == pytest.approx(0.5 * 2.0 / 3.0, abs=0.03)  # its own third and the interaction's


def test_transformed_outputs_are_decomposed_on_their_own_scale() -> None:
    slopes = np.array([0.8, 0.4])

    def scores(u: np.ndarray) -> np.ndarray:
        return ((u - 0.5) * 10.0) @ slopes[:, None]

    inputs = {name: uq.Normal(0.5, 0.1) for name in "ab"}  # standard normal, times 10
    result = sobol_indices(Given(scores, 2, transform=Log()), inputs, points=2048, draws=20, rng=1)
    grown = np.expm1(slopes**2)
    variance = np.expm1(np.sum(slopes**2))
    np.testing.assert_allclose(result["y"]["S1"].mean(LEAD), grown / variance, atol=0.02)
    np.testing.assert_allclose(result["y"]["ST"].mean(LEAD), grown * np.exp(slopes[::-1] ** 2) / variance, atol=0.02)


def test_an_output_that_does_not_vary_has_no_indices() -> None:
    outputs = {"y": (np.array([[0.0], [1.0]]), np.zeros((2, 0)))}
    result = sobol_indices(Given(lambda u: u[:, :1], 2, outputs=outputs), uniform(2), draws=20, rng=1)
    assert np.isnan(result["y"]["S1"].sel(t=0.0)).all()
    assert np.isfinite(result["y"]["S1_whole"]).all()
    np.testing.assert_allclose(result["y"]["ST_whole"].mean(LEAD), [1.0, 0.0], atol=5e-3)


def test_an_output_that_varies_by_rounding_only_has_no_indices() -> None:
    outputs = {"y": (np.array([[1.0]]), np.zeros((1, 0)))}
    result = sobol_indices(Given(lambda u: 0.1 + 1e-17 * u[:, :1], 2, outputs=outputs), uniform(2), draws=20, rng=1)
    assert np.isnan(result["y"][["S1", "ST", "unexplained"]].to_array()).all()
    assert repr(result) == "y: does not vary, so that nothing drives it"


# -------------------------------------------------------------------------------------------------- kinds of surrogate
@pytest.mark.slow
def test_several_kinds_of_surrogates_agree() -> None:
    space = uq.ParameterSpace(a=uq.Uniform(0.5, 2.0), b=uq.LogNormal(1.0, 0.3), conditions={"dose": uq.Condition(1, 3)})
    design = uq.sobol(space, 64, rng=1)
    a, b, dose = (design[name].values for name in ("a", "b", "dose"))
    y = np.exp(-a * 0.3) * dose * b
    runs = uq.ensemble.build(design, {"y": y})
    top = uq.ensemble.build(design.isel(run=slice(0, 32)), {"y": y[:32]}, fidelity="high", space=space, box=space.box())
    low = uq.ensemble.build(design, {"y": 0.9 * y}, fidelity="low", space=space, box=space.box())
    kinds = {
        "gp": uq.GaussianProcess().fit(runs),
        "log": uq.GaussianProcess(outputs={"y": uq.Scalar(transform="log")}, hyperparameters="point").fit(runs),
        "sum": uq.GaussianProcess(kernel=uq.Matern32() + uq.SquaredExponential(), hyperparameters="point").fit(runs),
        "levels": uq.MultiFidelity(levels=("low", "high")).fit(uq.ensemble.combine(low, top)),
        "local": uq.LocalGaussianProcess(neighbours=16).fit(runs),
    }
    settings = {"levels": {"points": 64}, "local": {"points": 64}}
    found = {
        name: sobol_indices(one, conditions={"dose": 2.0}, draws=40, rng=1, **settings.get(name, {}))  # type: ignore[arg-type]
        for name, one in kinds.items()
    }
    rate, size = np.exp(-0.3 * np.linspace(0.5, 2.0, 4001)), np.expm1(0.3**2)
    relative = np.array([rate.var() / rate.mean() ** 2, size])
    total = relative * (1.0 + relative[::-1]) / (np.prod(1.0 + relative) - 1.0)
    for name, result in found.items():
        assert result.inputs == ("a", "b")
        np.testing.assert_allclose(result["y"]["ST"].mean(LEAD), total, atol=0.03, err_msg=name)


def test_a_simulator_itself_has_no_error_of_a_surrogate() -> None:
    space = uq.ParameterSpace(a=uq.Normal(1.0, 0.5), b=uq.LogNormal(1.0, 0.4))
    simulator = uq.DirectSimulator(lambda a, b: a * b, space=space, outputs={"y": ()}, vectorized=True)
    result = sobol_indices(simulator, draws=20, rng=1)
    relative = np.array([0.25, np.expm1(0.16)])
    total = relative * (1.0 + relative[::-1]) / (np.prod(1.0 + relative) - 1.0)
    assert np.abs(off(result, "ST", total)).max() < 4.0
    assert float(result.error()["y"]["ST"].sel(source="surrogate").max()) < 1e-12


# ------------------------------------------------------------------------------------------------ seeds and bad inputs
def test_a_seed_repeats() -> None:
    surrogate = process(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DesignWarning)
        one, same, other = (sobol_indices(surrogate, points=256, rng=seed)["y"] for seed in (5, 5, 6))
    xr.testing.assert_identical(one, same)
    assert not np.array_equal(one["S1"], other["S1"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"inputs": {"a": uq.Uniform(0, 1)}}, "missing .'b'."),
        ({"inputs": {**uniform(2), "z": 1.0}}, "unknown .'z'."),
        ({"inputs": {"a": uq.Uniform(0, 2), "b": 0.5}}, "50.0% of the distribution"),
        ({"inputs": {"a": uq.Condition(0, 2), "b": 0.5}}, "leaves what was simulated"),
        ({"inputs": {"a": 0.1, "b": 0.5}}, "every input is fixed"),
        ({"inputs": {"a": [0.1, 0.2], "b": 0.5}}, "at least 100"),
        ({"inputs": {"a": "wide", "b": 0.5}}, "give a prior"),
        ({"inputs": 3}, "give a ParameterSpace"),
        ({"conditions": {"dose": 3.0}}, "unknown .'dose'."),
        ({"outputs": ["z"]}, "give some of"),
        ({"outputs": "y"}, "sequence"),
        ({"order": 3}, "order is 3"),
        ({"draws": 3}, "draws is 3"),
        ({"points": 100}, "power of two"),
        ({"bootstrap": True}, "bootstrap is True"),
        ({"groups": {"g": ("a", "z")}}, "z which do not vary"),
        ({"groups": {"g": ()}}, "nothing in 'g'"),
        ({"groups": {"g": ("a",), "h": ("a",)}}, "more than once"),
        ({"groups": {"b": ("a",)}}, "rename the group"),
        ({"groups": {"g": "a"}}, "mapping of name"),
        ({"draws": 10**6, "bootstrap": 10**4}, "lower draws"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        sobol_indices(process(1), **arguments)  # type: ignore[arg-type]


def test_dependent_inputs_are_refused_with_the_way_out() -> None:
    block = uq.MultivariateNormal(("a", "b"), (0.5, 0.5), ((0.01, 0.005), (0.005, 0.01)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Shapley"):
        sobol_indices(process(1), uq.ParameterSpace(block))


def test_a_posterior_is_refused_and_its_draws_are_taken_as_independent() -> None:
    posterior = posterior_of(curve_problem())
    surrogate = posterior.problem.surrogate
    with pytest.raises(InputError, match=r"uq.shapley_effects.*posterior.draws\[\['theta'\]\]"):
        sobol_indices(surrogate, posterior)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DesignWarning)
        result = sobol_indices(surrogate, posterior.draws[["theta"]], draws=20, points=64, rng=1)
    np.testing.assert_allclose(result["y"]["ST_whole"].mean(LEAD), [1.0], atol=0.05)


def test_known_conditions_need_a_value_or_a_range() -> None:
    space = uq.ParameterSpace(a=uq.Uniform(0, 1), conditions={"b": uq.Condition(0, 1)})
    with pytest.raises(InputError, match=r"conditions=\{'b': 0.5\}"):
        sobol_indices(process(1), space)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DesignWarning)
        assert sobol_indices(process(1), space, conditions={"b": 0.5}, points=64, rng=1).inputs == ("a",)
        assert sobol_indices(process(1), space, conditions={"b": uq.Condition(0, 1)}, points=64, rng=1).inputs == (
            "a",
            "b",
        )


def test_other_things_are_no_surrogates() -> None:
    with pytest.raises(InputError, match="fitted surrogate"):
        sobol_indices(uq.GaussianProcess())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give inputs="):
        sobol_indices(Given(ishigami, 3))


def test_point_estimates_are_told() -> None:
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
    design = uq.sobol(space, 24, rng=1)
    runs = uq.ensemble.build(design, {"y": np.sin(3.0 * design["a"].values) + design["b"].values})
    told = {}
    for how in ("point", "averaged"):
        result = sobol_indices(uq.GaussianProcess(hyperparameters=how).fit(runs), draws=20, points=64, rng=1)  # type: ignore[arg-type]
        told[how] = "point estimates" in result.summary()
        assert result.settings["point_estimated"] == (how == "point")
    assert told == {"point": True, "averaged": False}

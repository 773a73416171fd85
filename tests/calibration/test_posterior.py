"""The posterior: groups, units, tables, predictions and files of one small calibration, against numpy and formulas."""

import json
from dataclasses import replace
from pathlib import Path

import arviz
import arviz_plots
import matplotlib.pyplot as plt
import numpy as np
import nutpie
import pytest
import xarray as xr
from calibration.problems import given_surrogate

import uqms as uq
from uqms.calibration.assembly import constant_data
from uqms.calibration.posterior import build_posterior
from uqms.errors import ConvergenceWarning, DataError, ExtrapolationError, InputError
from uqms.plots._bands import bands_at
from uqms.surrogates import GaussianProcessSurrogate, Layout
from uqms.surrogates.outputs import OutputBasis

TIME, DOSE = np.array([0.0, 1.0, 2.0, 4.0]), np.array([0.25, 0.75])
SPACE = uq.ParameterSpace(
    rate=uq.Uniform(0.0, 1.0, unit="1/h", description="elimination rate"),
    volume=uq.TruncatedNormal(0.5, 0.15, low=0.0, unit="L"),
    conditions={"dose": uq.Condition(0.0, 1.0, unit="mg")},
)
SAMPLER = uq.NUTS(draws=500, tune=500, chains=2, cores=1)


def surrogate() -> GaussianProcessSurrogate:
    """Return outputs "conc" over time, and the numbers "peak" and "area", of rate, volume and dose."""
    rng = np.random.default_rng(5)
    x = np.vstack([rng.random((40, 3)), [[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]])
    rate, volume, dose = x.T
    scores = np.column_stack([(1.0 + dose) * (1.0 + rate), dose - volume, volume + rate, rate * dose])
    one = given_surrogate(x, scores, ell=2.0, names=("rate", "volume", "dose"), space=SPACE)
    curve = np.column_stack([np.exp(-0.3 * TIME), TIME * np.exp(-0.5 * TIME)])
    pick = np.ones((1, 1))
    outputs = (
        OutputBasis(
            "conc", Layout(("time",), {"time": TIME}, "mg/L"), np.zeros(4), curve, np.zeros((4, 0)), np.zeros(3)
        ),
        OutputBasis("peak", Layout(unit="mg/L"), np.zeros(1), pick, np.zeros((1, 0))),
        OutputBasis("area", Layout(unit="mg h/L"), np.zeros(1), pick, np.zeros((1, 0))),
    )
    return GaussianProcessSurrogate(one.domain, one.process, outputs, one.attrs)


def observations() -> uq.Observations:
    """Return three replicates of "conc" at two doses, and one "peak" at each with its own known sd."""
    rng = np.random.default_rng(6)
    rate, volume = 0.4, 0.6
    first, second = np.exp(-0.3 * TIME), TIME * np.exp(-0.5 * TIME)
    truth = [(1.0 + dose) * (1.0 + rate) * first + (dose - volume) * second for dose in DOSE]
    conc = xr.DataArray(
        np.array(truth)[:, :, None] + 0.1 * rng.standard_normal((2, 4, 3)),
        dims=("experiment", "time", "replicate"),
        coords={"time": TIME, "dose": ("experiment", DOSE)},
        name="conc",
    )
    peak = xr.DataArray(
        volume + rate + 0.05 * rng.standard_normal(2),
        dims="experiment",
        coords={"dose": ("experiment", DOSE), "sd": ("experiment", [0.05, 0.08])},
        name="peak",
    )
    return uq.Observations.concat([uq.Observations.from_xarray(data, conditions=["dose"]) for data in (conc, peak)])


def problem(**options: object) -> uq.Calibration:
    noise = {"conc": uq.GaussianNoise(sd=uq.HalfNormal(0.5)), "peak": uq.GaussianNoise()}
    derived = {
        "clearance": uq.Derived(lambda p: p["rate"] * p["volume"], unit="L/h", description="rate times volume"),
        "half_life": lambda p: np.log(2.0) / p["rate"],
    }
    return uq.Calibration(surrogate(), observations(), noise, **({"derived": derived} | options))


@pytest.fixture(scope="session")
def posterior() -> uq.Posterior:
    return problem().sample(SAMPLER, rng=3)


def fabricated(calibration: uq.Calibration, theta: dict[str, np.ndarray], stats: xr.Dataset | None = None) -> object:
    """Return the posterior around draws (chain, draw) that are given."""
    chains, draws = next(iter(theta.values())).shape
    dims = ("chain", "draw")
    data = xr.Dataset({name: (dims, values) for name, values in theta.items()})
    data = data.assign_coords(chain=np.arange(chains), draw=np.arange(draws))
    stats = stats if stats is not None else xr.Dataset({"diverging": (dims, np.zeros((chains, draws), dtype=bool))})
    trace = xr.DataTree.from_dict({"posterior": data, "sample_stats": stats})
    return build_posterior(calibration, uq.NUTS(draws=draws, chains=chains), trace, 1)


def some_draws(chains: int = 2, draws: int = 100) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(8)
    shape = (chains, draws)
    names = {"rate": rng.uniform(0.3, 0.5, shape), "volume": rng.uniform(0.5, 0.7, shape)}
    return names | {"sigma_conc": rng.uniform(0.05, 0.2, shape)}


# --- the tree -------------------------------------------------------------------------------------------------------


def test_groups_and_dims(posterior: uq.Posterior) -> None:
    tree = posterior.tree
    assert set(tree.children) == {
        "posterior",
        "sample_stats",
        "log_likelihood",
        "log_prior",
        "observed_data",
        "constant_data",
        "prior",
        "prior_predictive",
        "posterior_predictive",
    }
    draws = {"chain": 2, "draw": 500}
    rows = {"observation": 26}
    assert tree["posterior"].sizes == draws
    assert list(tree["posterior"].data_vars) == ["rate", "volume", "sigma_conc", "clearance", "half_life"]
    assert tree["log_likelihood"]["value"].sizes == draws | rows
    assert tree["observed_data"]["value"].sizes == rows
    assert tree["posterior_predictive"]["value"].sizes == {"chain": 2, "draw": 500} | rows
    assert tree["prior_predictive"]["value"].sizes["observation"] == 26
    assert set(tree["prior"].data_vars) == set(tree["posterior"].data_vars)
    assert all(group.attrs["interval"] == "95 % equal-tailed" for group in tree.children.values())


def test_rows_keep_their_labels(posterior: uq.Posterior) -> None:
    data, table = posterior.tree["observed_data"]["value"], observations().table
    np.testing.assert_array_equal(data, table["value"])
    for name in ("output", "time", "dose", "replicate"):
        np.testing.assert_array_equal(data.coords[name], table[name])
    for group in ("log_likelihood", "prior_predictive", "posterior_predictive"):
        np.testing.assert_array_equal(posterior.tree[group]["value"].coords["time"], table["time"])


def test_arviz_plots_the_tree_against_coordinates_and_conditions(posterior: uq.Posterior) -> None:
    tree, table = posterior.tree, observations().table
    given = tree["constant_data"].dataset
    assert list(given.data_vars) == ["x_dose", "x_time"]  # the time of a peak is NaN
    np.testing.assert_array_equal(given["x_dose"], table["dose"])
    np.testing.assert_array_equal(given["x_time"], table["time"])
    pit = arviz_plots.plot_loo_pit(tree)
    assert list(pit.viz["ecdf_lines"].data_vars) == ["value"]
    lines = arviz_plots.plot_lm(tree)
    assert list(lines.viz["observed_scatter"].data_vars) == ["x_dose"]
    curve = tree.isel(observation=np.flatnonzero(tree["observed_data"]["output"] == "conc"))
    lines = arviz_plots.plot_lm(curve, x="x_time")
    scatter = lines.viz["observed_scatter"]["x_time"].item()
    np.testing.assert_array_equal(scatter.get_offsets(), table.loc[table["output"] == "conc", ["time", "value"]])
    plt.close("all")


def test_rows_without_a_numeric_label_are_counted() -> None:
    labels = {"observation": np.arange(3), "output": ("observation", np.array(["a", "b", "b"]))}
    found = constant_data(labels)
    assert list(found.data_vars) == ["x_observation"]
    assert found["x_observation"].values.tolist() == [0, 1, 2]
    assert found["output"].values.tolist() == ["a", "b", "b"]


def test_units_and_descriptions(posterior: uq.Posterior) -> None:
    units = {str(name): values.attrs["unit"] for name, values in posterior.draws.data_vars.items()}
    expected = {"rate": "1/h", "volume": "L", "sigma_conc": "mg/L", "clearance": "L/h", "half_life": ""}
    assert units == expected
    assert posterior.draws["rate"].attrs["description"] == "elimination rate"
    assert posterior.draws["clearance"].attrs["description"] == "rate times volume"


def test_derived_quantities_equal_their_formulas(posterior: uq.Posterior) -> None:
    for group in ("posterior", "prior"):
        draws = posterior.tree[group].dataset
        np.testing.assert_array_equal(draws["clearance"], draws["rate"] * draws["volume"])
        np.testing.assert_array_equal(draws["half_life"], np.log(2.0) / draws["rate"])


def test_draws_are_those_of_the_exact_posterior(posterior: uq.Posterior) -> None:
    calibration = posterior.problem
    axes = {
        "rate": np.linspace(0.2, 0.6, 40),
        "volume": np.linspace(0.3, 0.9, 40),
        "sigma_conc": np.linspace(0.05, 0.25, 30),
    }
    grid = dict(zip(axes, np.meshgrid(*axes.values(), indexing="ij"), strict=True))
    log_posterior = calibration.log_likelihood(grid)
    log_posterior = log_posterior + sum(calibration.priors[name].log_density(value) for name, value in grid.items())
    weights = np.exp(log_posterior - log_posterior.max())
    weights /= weights.sum()
    for name, value in grid.items():
        mean = np.sum(weights * value)
        sd = np.sqrt(np.sum(weights * (value - mean) ** 2))
        draws = posterior.draws[name]
        ess = posterior.summary().loc[name, "ess_bulk"]
        assert abs(float(draws.mean()) - mean) < 4.0 * sd / np.sqrt(ess)
        assert float(draws.std()) == pytest.approx(sd, rel=4.0 / np.sqrt(ess))


def test_prior_draws_stay_within_the_limits(posterior: uq.Posterior) -> None:
    prior = posterior.tree["prior"].dataset
    for name in ("rate", "volume", "sigma_conc"):
        low, high = posterior.problem.limits(name)
        assert float(prior[name].min()) >= low
        assert float(prior[name].max()) <= high
    assert prior["volume"].sizes["draw"] == 2000
    assert float(prior["volume"].mean()) == pytest.approx(0.5, abs=4 * 0.15 / np.sqrt(2000))
    assert float(prior["rate"].mean()) == pytest.approx(0.5, abs=4 * 0.289 / np.sqrt(2000))


def test_log_likelihood_works_with_arviz(posterior: uq.Posterior) -> None:
    result = arviz.loo(posterior.tree)
    assert result.n_data_points == 26
    assert float(np.max(result.pareto_k)) < 0.7
    joint = posterior.tree["sample_stats"]["joint_log_likelihood"]
    theta = {name: posterior.draws[name].values for name in ("rate", "volume", "sigma_conc")}
    np.testing.assert_allclose(joint, posterior.problem.log_likelihood(theta), rtol=1e-10)


def test_sample_stats_are_numbers(posterior: uq.Posterior) -> None:
    stats = posterior.tree["sample_stats"].dataset
    assert {"diverging", "energy", "joint_log_likelihood", "hyperparameter_draw"} <= set(stats.data_vars)
    assert all(values.dtype.kind in "fiub" and values.dims == ("chain", "draw") for values in stats.data_vars.values())


def test_other_sample_stats_are_left_out() -> None:
    dims, shape = ("chain", "draw"), (2, 100)
    stats = xr.Dataset(
        {
            "diverging": (dims, np.zeros(shape, dtype=bool)),
            "message": (dims, np.full(shape, None, dtype=object)),
            "name": (dims, np.full(shape, "x")),
            "mass": ((*dims, "unconstrained"), np.zeros((*shape, 3))),
        }
    )
    stats["diverging"][0, :3] = True
    got = fabricated(problem(), some_draws(), stats)
    assert set(got.tree["sample_stats"].data_vars) == {"diverging", "joint_log_likelihood", "hyperparameter_draw"}
    assert got.verdict["divergences"].value == 3


def test_attributes_say_where_it_comes_from(posterior: uq.Posterior) -> None:
    attrs = posterior.tree.attrs
    assert attrs["seed"] == int(np.random.default_rng(3).integers(2**31))
    assert uq.ParameterSpace.from_json(attrs["space"]) == SPACE
    assert json.loads(attrs["sampler"])["NUTS"]["draws"] == 500
    assert {"pymc", "nutpie", "numpy", "numba", "uqms", "arviz-stats"} == set(json.loads(attrs["versions"]))
    assert json.loads(attrs["versions"])["numpy"] == np.__version__
    assert attrs["mass_cut"] == posterior.problem.mass_cut
    assert attrs["verdict"] == posterior.verdict.status
    assert len(attrs["data_sha256"]) == 64


def test_netcdf_there_and_back(posterior: uq.Posterior, tmp_path: Path) -> None:
    path = tmp_path / "posterior.nc"
    posterior.to_netcdf(path)
    with xr.open_datatree(path, engine="h5netcdf") as again:
        again.load()
    assert set(again.children) == set(posterior.tree.children)
    for name, group in posterior.tree.children.items():
        xr.testing.assert_equal(again[name].dataset, group.dataset)
    assert dict(again.attrs) == posterior.tree.attrs
    assert again["posterior"]["rate"].attrs == posterior.draws["rate"].attrs


def test_the_same_seed_gives_the_same_bits(posterior: uq.Posterior) -> None:
    again = problem().sample(SAMPLER, rng=3)
    for name, group in posterior.tree.children.items():
        xr.testing.assert_equal(again.tree[name].dataset, group.dataset)
    assert again.tree.attrs == posterior.tree.attrs


def test_predictive_draws_hold_the_noise(posterior: uq.Posterior) -> None:
    """The rows' predictive variance is that of the outputs given the data plus sigma²."""
    rows = posterior.tree["posterior_predictive"]["value"].stack(sample=("chain", "draw"))
    conc = posterior.tree["observed_data"]["value"].coords["output"] == "conc"
    sigma = posterior.draws["sigma_conc"].values
    wanted = posterior.predict(outputs="conc").sd["conc"] ** 2 + np.mean(sigma**2)
    for i in np.flatnonzero(conc.values):
        row = rows.isel(observation=i)
        where = wanted.isel(condition=int(row.coords["dose"] > 0.5)).sel(time=float(row.coords["time"]))
        assert float(row.var()) == pytest.approx(float(where), rel=5 * np.sqrt(2 / 1000))
    peak = rows.isel(observation=np.flatnonzero(~conc.values)).var("sample")
    wanted = posterior.predict(outputs="peak").sd["peak"] ** 2 + np.array([0.05, 0.08]) ** 2
    np.testing.assert_allclose(peak, wanted, rtol=5 * np.sqrt(2 / 1000))


# --- the table and the words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prob", "names"), [(0.95, ("2.5%", "97.5%")), (0.9, ("5%", "95%")), (0.5, ("25%", "75%"))])
def test_summary_is_that_of_the_draws(posterior: uq.Posterior, prob: float, names: tuple[str, str]) -> None:
    table = posterior.summary(prob)
    assert list(table.columns) == ["mean", "sd", *names, "mcse_mean", "r_hat", "ess_bulk", "ess_tail", "unit"]
    assert list(table.index) == list(posterior.draws.data_vars)
    for name, values in posterior.draws.data_vars.items():
        flat = values.values.ravel()
        row = table.loc[name]
        assert row["mean"] == flat.mean()
        assert row["sd"] == np.std(flat, ddof=1)
        assert (row[names[0]], row[names[1]]) == tuple(np.quantile(flat, [(1 - prob) / 2, (1 + prob) / 2]))
        assert row["unit"] == values.attrs["unit"]
        assert row["mcse_mean"] == float(arviz.mcse(posterior.draws, method="mean")[name])
        errors = table.attrs["mcse"][name]
        assert list(errors) == ["mean", *names]
        for column, p in zip(names, ((1 - prob) / 2, (1 + prob) / 2), strict=True):
            wanted = float(arviz.mcse(posterior.draws, method="quantile", prob=p)[name])
            assert errors[column] == pytest.approx(wanted, rel=1e-9)
        assert row["r_hat"] == pytest.approx(float(arviz.rhat(posterior.draws)[name]))
        assert row["ess_bulk"] == pytest.approx(float(arviz.ess(posterior.draws, method="bulk")[name]))
        assert row["ess_tail"] == pytest.approx(float(arviz.ess(posterior.draws, method="tail")[name]))


@pytest.mark.parametrize("prob", [0.0, 1.0, 95, -0.5, np.nan])
def test_summary_wants_a_probability(posterior: uq.Posterior, prob: float) -> None:
    with pytest.raises(InputError, match=f"summary: prob is {prob!r}; give a probability between 0 and 1"):
        posterior.summary(prob)


def test_a_summary_prints_all_its_columns(posterior: uq.Posterior) -> None:
    text = str(posterior.summary())
    assert "..." not in text
    assert "ess_tail" in text
    assert len(text.splitlines()) == 6


def test_verdict_and_repr(posterior: uq.Posterior) -> None:
    assert posterior.verdict.status == "pass", str(posterior.verdict)
    assert str(posterior.verdict).startswith(
        "Verdict: PASS. Use the intervals of the parameters, and predictions under conditions like those of the data."
    )
    assert posterior.tree.attrs["verdict_text"] == str(posterior.verdict)
    names = "rate, volume, sigma_conc, clearance, half_life"
    assert repr(posterior) == f"<Posterior of {names}: 2 chains of 500 draws, verdict pass>"
    assert set(posterior.surrogate_share) == {"rate", "volume"}
    worst = max(float(value) for value in posterior.surrogate_share.values())
    assert posterior.verdict["surrogate error"].value == worst


def test_one_chain_cannot_be_compared() -> None:
    with pytest.warns(ConvergenceWarning, match="1 chain"):
        got = fabricated(problem(), some_draws(chains=1, draws=200))
    assert [check.name for check in got.verdict.warnings if check.name == "R-hat"] == ["R-hat"]
    assert got.summary()["r_hat"].isna().all()


def test_chains_that_disagree_are_flagged() -> None:
    theta = some_draws(4, 200)
    theta["rate"][3] += 0.3
    got = fabricated(problem(), theta)
    assert got.verdict["R-hat"].status == "fail"
    assert "(rate)" in got.verdict["R-hat"].message
    assert got.verdict["ESS"].status == "fail"


# --- predict --------------------------------------------------------------------------------------------------------


def test_prediction_of_what_was_observed(posterior: uq.Posterior) -> None:
    found = posterior.predict(draws=100)
    assert set(found.mean) == {"conc", "peak"}
    assert found.mean["conc"].dims == ("condition", "time")
    assert found.sd["conc"].shape == (2, 4)
    assert found.draws["conc"].dims == ("sample", "condition", "time")
    assert found.draws["conc"].shape == (100, 2, 4)
    assert found.mean["peak"].shape == (2,)
    np.testing.assert_array_equal(found.mean.coords["dose"], DOSE)
    np.testing.assert_array_equal(found.mean.coords["time"], TIME)
    assert found.mean["conc"].attrs["unit"] == "mg/L"
    assert found.holds == ("parameters", "surrogate")


def test_prediction_at_other_conditions_and_coordinates(posterior: uq.Posterior) -> None:
    found = posterior.predict(conditions={"dose": [0.0, 0.4, 1.0]}, coords={"time": [0.5, 3.0]}, draws=50)
    assert set(found.mean) == {"conc"}
    assert found.mean["conc"].dims == ("condition", "time")
    assert found.mean["conc"].shape == (3, 2)
    np.testing.assert_array_equal(found.mean.coords["dose"], [0.0, 0.4, 1.0])
    np.testing.assert_array_equal(found.mean.coords["time"], [0.5, 3.0])
    one = posterior.predict(conditions={"dose": 0.4}, coords={"time": 3.0}, draws=50)
    assert one.mean["conc"].dims == ("time",)
    assert float(one.mean["conc"][0]) == pytest.approx(float(found.mean["conc"][1, 1]), rel=1e-9)


def test_an_output_with_a_transform_is_predicted_on_its_own_scale(posterior: uq.Posterior) -> None:
    at = {"conditions": {"dose": [0.5]}, "outputs": ["area"], "draws": 200}
    plain = posterior.predict(**at)
    found = with_transform(posterior, uq.Log()).predict(**at)
    np.testing.assert_allclose(found.draws["area"], np.exp(plain.draws["area"]), rtol=1e-12)
    bounded = with_transform(posterior, uq.Logit(-1.0, 2.0)).predict(**at)
    np.testing.assert_allclose(
        bounded.interval()["area"], -1.0 + 3.0 / (1.0 + np.exp(-plain.interval()["area"])), rtol=1e-3
    )
    for one in (found, bounded):
        draws = one.draws["area"].values.ravel()
        assert float(one.mean["area"][0]) == pytest.approx(draws.mean(), abs=5 * draws.std() / np.sqrt(200))
        assert float(one.sd["area"][0]) == pytest.approx(draws.std(), rel=5 / np.sqrt(400))
    ends = bands_at(with_transform(posterior, uq.Log()), "area", {"dose": [0.5]}, None)[0].output
    np.testing.assert_allclose(ends, np.exp(bands_at(posterior, "area", {"dose": [0.5]}, None)[0].output), rtol=1e-9)


def with_transform(posterior: uq.Posterior, transform: object) -> uq.Posterior:
    """Return the posterior with another output that was not observed: one whose image is "area"."""
    problem = posterior.problem
    *others, area = problem.surrogate.bases
    area = replace(area, layout=replace(area.layout, transform=transform))
    other = problem.with_data_model(surrogate=replace(problem.surrogate, bases=(*others, area)))
    return replace(posterior, problem=other)


def test_an_output_that_was_not_observed_is_predicted(posterior: uq.Posterior) -> None:
    """Its score is a process of its own, so the data tell nothing about its error: the surrogate's is the whole."""
    found = posterior.predict(conditions={"dose": [0.5]}, outputs=["area"], draws=1000)
    rate, volume = (posterior.draws[name].values.ravel() for name in ("rate", "volume"))
    scores = posterior.problem.surrogate.scores(np.column_stack([rate, volume, np.full(1000, 0.5)])[:, None, :])
    mean, variance = scores.mean[0, :, 0, 3], scores.covariance[0, :, 3, 0, 0]
    assert float(found.mean["area"][0]) == pytest.approx(mean.mean(), rel=1e-9)
    assert float(found.mean["area"][0]) == pytest.approx(0.5 * rate.mean(), abs=0.01)
    assert float(found.sd["area"][0]) == pytest.approx(np.sqrt(mean.var() + variance.mean()), rel=1e-6)
    assert found.mean["area"].attrs["unit"] == "mg h/L"


def test_noise_adds_its_variance(posterior: uq.Posterior) -> None:
    without, with_noise = (posterior.predict(outputs="conc", noise=noise) for noise in (False, True))
    added = with_noise.sd["conc"] ** 2 - without.sd["conc"] ** 2
    np.testing.assert_allclose(added, np.mean(posterior.draws["sigma_conc"].values ** 2), rtol=1e-9)
    assert with_noise.holds == ("parameters", "surrogate", "noise")
    np.testing.assert_array_equal(with_noise.mean["conc"], without.mean["conc"])
    np.testing.assert_allclose(with_noise.draws["conc"].std("sample"), with_noise.sd["conc"], rtol=5 / np.sqrt(2000))


@pytest.mark.parametrize("sd", [0.05, 1.0])
def test_noise_of_a_column_that_is_constant_is_known(sd: float) -> None:
    table = observations()
    constant = uq.Observations(**{**vars(table), "sd": np.where(table.output == "peak", sd, np.nan)})
    noise = {"conc": uq.GaussianNoise(sd=0.1), "peak": uq.GaussianNoise()}
    calibration = uq.Calibration(surrogate(), constant, noise)
    theta = some_draws()
    del theta["sigma_conc"]
    got = fabricated(calibration, theta)
    for output, expected in (("peak", sd), ("conc", 0.1)):
        quiet, noisy = (got.predict(outputs=output, noise=on).sd[output] ** 2 for on in (False, True))
        np.testing.assert_allclose(noisy - quiet, expected**2, rtol=1e-9)


def test_intervals_are_quantiles_of_the_draws(posterior: uq.Posterior) -> None:
    found = posterior.predict(draws=200)
    bounds = found.interval(0.9)["conc"]
    assert list(bounds.coords["bound"].values) == ["lower", "upper"]
    draws = found.draws["conc"].values
    np.testing.assert_allclose(bounds.sel(bound="lower"), np.quantile(draws, 0.05, axis=0), rtol=1e-12)
    np.testing.assert_allclose(bounds.sel(bound="upper"), np.quantile(draws, 0.95, axis=0), rtol=1e-12)
    with pytest.raises(InputError, match="interval: prob is 95; give a probability"):
        found.interval(95)


def test_predictions_repeat_with_their_seed(posterior: uq.Posterior) -> None:
    first, again, other = (posterior.predict(draws=20, rng=rng).draws for rng in (1, 1, 2))
    xr.testing.assert_identical(first, again)
    assert not np.array_equal(first["conc"], other["conc"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"outputs": ["flow"]},
            InputError,
            r"unknown outputs \['flow'\]; the surrogate has \['conc', 'peak', 'area'\]",
        ),
        ({"outputs": "flow"}, InputError, r"unknown outputs \['flow'\]"),
        ({"conditions": {"doze": 0.5}}, InputError, r"got conditions \['doze'\], the surrogate has \['dose'\]"),
        ({"conditions": {}}, InputError, r"got conditions \[\], the surrogate has \['dose'\]. Give each of them"),
        ({"conditions": {"dose": [[0.5]]}}, DataError, "conditions are numbers or one-dimensional arrays"),
        (
            {"conditions": {"dose": [0.5, 1.5]}},
            ExtrapolationError,
            "Condition 'dose' = 1.5 is outside of the simulated",
        ),
        ({"conditions": {"dose": np.nan}}, ExtrapolationError, "Condition 'dose' = nan"),
        ({"coords": {"day": [1.0]}}, InputError, r"coords are given for \['day'\], but the outputs have dims"),
        ({"coords": {"time": [1.0]}, "outputs": ["peak"]}, InputError, r"for \['time'\], but .* \{'peak': \[\]\}"),
        ({"coords": {"time": [5.0]}}, ExtrapolationError, r"time = 5 is outside of the simulated range \[0, 4\]"),
        ({"coords": {"time": [np.nan]}}, ExtrapolationError, "time = nan"),
        ({"outputs": ["area"], "noise": True}, InputError, "'area' was not observed, so its noise is not known"),
        ({"outputs": ["peak"], "noise": True}, InputError, "noise of 'peak' was given row by row"),
        ({"draws": 0}, InputError, "draws is 0; give a whole number of at least 1"),
        ({"draws": True}, InputError, "draws is True"),
        ({"draws": 2.5}, InputError, "draws is 2.5"),
        ({"rng": -1}, InputError, "rng is -1; give a whole number"),
    ],
)
def test_predictions_that_cannot_be_made(
    posterior: uq.Posterior, arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        posterior.predict(**arguments)


# --- derived quantities that are wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda p: 1.0, r"'x' returned float of shape \(\); it must return one number per draw"),
        (lambda p: p["rate"].mean("draw"), r"returned DataArray of shape \(2,\)"),
        (lambda p: p["rate"].values.ravel(), r"returned ndarray of shape \(6,\)"),
        (lambda p: None, r"returned NoneType of shape \(\)"),
        (lambda p: p["rate"].astype(str), r"returned DataArray of shape \(2, 3\); it must return one number per draw"),
        (lambda p: p["weight"], r"'x' failed with KeyError: 'weight'. It is given \['rate', 'volume', 'sigma_conc'\]"),
    ],
)
def test_a_wrong_formula_is_found_before_sampling(
    function: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nutpie, "compile_pymc_model", lambda model: pytest.fail("the sampler was started"))
    with pytest.raises(InputError, match=message):
        problem(derived={"x": function}).sample(rng=1)


def test_formulas_may_return_plain_arrays_and_truth_values() -> None:
    derived = {"double": lambda p: 2.0 * np.asarray(p["rate"]), "high": lambda p: p["rate"] > 0.4}
    theta = some_draws()
    got = fabricated(problem(derived=derived), theta)
    np.testing.assert_array_equal(got.draws["double"], 2.0 * theta["rate"])
    assert float(got.draws["high"].mean()) == np.mean(theta["rate"] > 0.4)


# --- outside of the box ---------------------------------------------------------------------------------------------


def test_extrapolation_samples_the_whole_prior() -> None:
    """A straight line known on [0, 1], an observation at 1.3: half of the posterior lies outside of the box."""
    x = np.linspace(0.0, 1.0, 9)[:, None]
    line = given_surrogate(x, 2.0 * x, ell=1.0, columns=2)
    space = uq.ParameterSpace(theta=uq.Normal(0.5, 0.5))
    data = xr.DataArray(2.6, name="y")
    calibration = uq.Calibration(line, data, uq.GaussianNoise(sd=0.6), space=space, outside="extrapolate")
    got = calibration.sample(SAMPLER, rng=1)
    grid = np.linspace(-2.0, 4.0, 6001)
    weights = np.exp(calibration.log_likelihood({"theta": grid}) + space.priors["theta"].log_density(grid))
    weights /= weights.sum()
    mean = np.sum(weights * grid)
    sd = np.sqrt(np.sum(weights * (grid - mean) ** 2))
    draws, ess = got.draws["theta"], got.summary().loc["theta", "ess_bulk"]
    assert np.sum(weights[grid > 1.0]) > 0.3
    assert float((draws > 1.0).mean()) == pytest.approx(np.sum(weights[grid > 1.0]), abs=2.0 / np.sqrt(ess))
    assert abs(float(draws.mean()) - mean) < 4.0 * sd / np.sqrt(ess)
    assert got.verdict["edge of the design box"].status == "warn"

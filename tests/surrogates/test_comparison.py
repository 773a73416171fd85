"""Settings side by side: left-out log scores against refits by brute force, and what the table says."""

import numpy as np
import pytest
import xarray as xr
from scipy.special import logsumexp
from scipy.stats import norm

import uqms as uq
from uqms._typing import Array
from uqms.errors import DataWarning, InputError
from uqms.surrogates import GaussianProcessSurrogate, left_out_density
from uqms.surrogates.process import condition, scores_at
from uqms.surrogates.training import Hyperparameters

HOURS = np.linspace(0.0, 3.0, 6)


def table(n: int = 20, noise: float = 0.0, seed: int = 1) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, n))
    y = 7.0 + 3.0 * np.sin(4.0 * a) + b**2 + noise * rng.standard_normal(n)
    curve = (1.0 + a)[:, None] * (1.0 - np.exp(-np.outer(0.3 + b, HOURS)))  # zero in every run at the first hour
    conc = xr.DataArray(curve, dims=("run", "hour"), coords={"hour": HOURS})
    return uq.ensemble.build({"a": a, "b": b}, {"y": y, "conc": conc})


def refitted(surrogate: GaussianProcessSurrogate, i: int) -> tuple[Array, Array]:
    """Return means (H, q) and variances (H, q) of run i from the other runs, conditioned anew."""
    p = surrogate.process
    rest = np.delete(np.arange(len(p.x)), i)
    means, variances = [], []
    for h in range(p.draws):
        found = [
            Hyperparameters(p.ell[h, j], float(p.nugget[h, j] + p.jitter[h, j] - 1e-12), 0.0, 0.0, 0, False)
            for j in range(p.q)
        ]
        one = condition(p.kernel, p.x[rest], p.y[rest], p.beta.shape[2], found, list(p.variance[h]))
        scores = scores_at(one, p.x[i : i + 1], diagonal=True)
        means.append(scores.mean[0, 0])
        local = np.array([p.local_scale(h, j, p.x[i : i + 1])[0] for j in range(p.q)])
        variances.append(local**2 * scores.covariance[0, :, 0] + p.variance[h] * (p.nugget[h] + p.jitter[h]))
    return np.array(means), np.array(variances)


@pytest.mark.parametrize("hyperparameters", ["point", "averaged"])
@pytest.mark.parametrize("trend", ["constant", "linear"])
def test_log_scores_are_those_of_refits_without_each_run(hyperparameters: str, trend: str) -> None:
    runs = table()
    fitted = uq.GaussianProcess(kernel=uq.Matern32(), trend=trend, hyperparameters=hyperparameters).fit(runs)
    logs, rmse = left_out_density.left_out_logs(fitted)
    draws = fitted.process.draws
    squares = []
    for i in range(20):
        means, variances = refitted(fitted, i)
        scale, offset = fitted.bases[0].basis.item(), fitted.bases[0].offset.item()
        at = offset + scale * means[:, 0]
        seen = runs["y"].values[i]
        each = norm.logpdf(seen, at, scale * np.sqrt(variances[:, 0]))
        assert logs[i, 0] == pytest.approx(logsumexp(each) - np.log(draws), abs=1e-4)
        squares.append((seen - at.mean()) ** 2)
        offset, basis, truncation = fitted.decode("conc")
        centre = offset + means[:, 1:] @ basis[:, 1:].T
        sd = np.sqrt(variances[:, 1:] @ (basis[:, 1:] ** 2).T + np.sum(truncation**2, axis=1))
        # Left-out runs have the truncation that was measured when their fold was held out.
        held = offset + basis @ fitted.process.y[i] + fitted.bases[1].truncation @ fitted.bases[1].left_out[i]
        each = norm.logpdf(held[1:], centre[:, 1:], sd[:, 1:])
        assert logs[i, 1] == pytest.approx((logsumexp(each, axis=0) - np.log(draws)).mean(), abs=1e-3)
    assert rmse[0] == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-4)
    assert rmse[0] == pytest.approx(uq.leave_one_out(fitted).table.loc["y", "rmse"], rel=1e-12)
    assert rmse[1] == pytest.approx(uq.leave_one_out(fitted).table.loc["conc", "rmse"], rel=1e-12)


def settings() -> dict[str, uq.GaussianProcess]:
    return {
        "rough": uq.GaussianProcess(kernel=uq.Matern32(), hyperparameters="point"),
        "smooth": uq.GaussianProcess(kernel=uq.SquaredExponential(), hyperparameters="point"),
        "default": uq.GaussianProcess(hyperparameters="point"),
    }


def test_the_table_holds_paired_differences_and_the_best_stands_first() -> None:
    runs = table(30)
    compared = uq.compare_surrogates(settings(), runs)
    names = list(compared.table.index)
    assert sorted(names) == ["default", "rough", "smooth"]
    assert names[0] == "smooth"  # the outputs are analytic
    assert names[-1] == "rough"
    assert list(compared.surrogates) == names
    assert compared.best is compared.surrogates["smooth"]
    assert list(compared.table.columns) == ["log_score", "difference", "standard_error", "seconds"]
    assert compared.table.loc["smooth", ["difference", "standard_error"]].tolist() == [0.0, 0.0]
    logs = {name: left_out_density.left_out_logs(one)[0] for name, one in compared.surrogates.items()}
    off = (logs["rough"] - logs["smooth"]).sum(axis=1)
    row = compared.table.loc["rough"]
    assert row["difference"] == pytest.approx(off.mean())
    assert row["standard_error"] == pytest.approx(off.std(ddof=1) / np.sqrt(30))
    assert (compared.table["seconds"] > 0.0).all()
    one = compared.by_output.loc[("rough", "y")]
    assert one["log_score"] == pytest.approx(logs["rough"][:, 0].mean())
    assert one["difference"] == pytest.approx((logs["rough"] - logs["smooth"])[:, 0].mean())
    sums = compared.by_output["log_score"].groupby("settings").sum()
    np.testing.assert_allclose(sums[names], compared.table["log_score"])
    assert "rough" not in compared.close
    text = str(compared)
    assert "leave-one-out log score of 30 runs" in text
    assert "With fewer than 100 runs" in text


def test_settings_that_the_runs_do_not_tell_apart_are_said_to_be_close() -> None:
    same = uq.GaussianProcess(hyperparameters="point")
    compared = uq.compare_surrogates({"one": same, "two": same}, table(20))
    assert compared.close == ("two",)
    assert "two: within two standard errors of one; take the simplest" in str(compared)


def test_units_shift_the_score_and_nothing_else() -> None:
    runs = table(20)[["a", "b", "y", *[n for n in table(20) if n not in ("a", "b", "y", "conc")]]]
    other = runs.assign(y=runs["y"] * 1000.0)
    first, second = (uq.compare_surrogates(settings(), one) for one in (runs, other))
    np.testing.assert_allclose(second.table["log_score"], first.table["log_score"] - np.log(1000.0), atol=1e-3)
    np.testing.assert_allclose(second.table["difference"], first.table["difference"], atol=1e-3)
    np.testing.assert_allclose(second.by_output["rmse"], 1000.0 * first.by_output["rmse"], rtol=1e-3)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="at least two names"):
        uq.compare_surrogates({"one": uq.GaussianProcess()}, table())
    with pytest.raises(InputError, match="at least two names"):
        uq.compare_surrogates([uq.GaussianProcess()] * 2, table())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'two' is 'smooth'; give GaussianProcess"):
        uq.compare_surrogates({"one": uq.GaussianProcess(), "two": "smooth"}, table())  # type: ignore[dict-item]
    a = np.append(np.linspace(0.0, 1.0, 12), 1.0)
    runs = uq.ensemble.build({"a": a}, {"y": np.sin(a)})
    kinds = {"none": uq.GaussianProcess(), "fitted": uq.GaussianProcess(noise="fitted")}
    with pytest.warns(DataWarning), pytest.raises(InputError, match="'fitted' keeps 13 runs and 'none' 12"):
        uq.compare_surrogates(kinds, runs)


def test_transformed_outputs_are_scored_in_their_own_unit() -> None:
    k = np.linspace(0.1, 2.0, 16)
    runs = uq.ensemble.build({"k": k}, {"y": np.exp(2.0 * np.sin(3.0 * k))})
    logarithm = uq.ensemble.build({"k": k}, {"y": 2.0 * np.sin(3.0 * k)})
    point = uq.GaussianProcess(hyperparameters="point")
    log = uq.GaussianProcess(hyperparameters="point", outputs={"y": uq.Scalar(transform="log")})
    own = uq.compare_surrogates({"log": log, "plain": point}, runs)
    # The density of y is that of its logarithm over y.
    other = uq.compare_surrogates({"one": point, "two": point}, logarithm)
    expected = other.table.loc["one", "log_score"] - np.mean(2.0 * np.sin(3.0 * k))
    assert own.table.loc["log", "log_score"] == pytest.approx(expected, abs=1e-4)
    seen = np.exp(2.0 * np.sin(3.0 * k))
    validation = uq.leave_one_out(own.surrogates["log"])
    np.testing.assert_allclose(validation.observed["y"], seen, rtol=1e-9)
    assert own.by_output.loc[("log", "y"), "rmse"] == pytest.approx(validation.table.loc["y", "rmse"], rel=1e-6)


def test_runs_that_lack_an_output_and_cheap_models_of_transformed_ones_are_refused() -> None:
    k = np.linspace(0.1, 2.0, 12)
    y = np.exp(k)
    gaps = uq.ensemble.build(
        {"k": k}, {"y": np.where(k > 1.9, np.nan, y), "z": y}, states=["completed"] * 11 + ["partial"]
    )
    with pytest.raises(InputError, match=r"runs that lack an output.*ensemble\.completed"):
        uq.compare_surrogates({"a": uq.GaussianProcess(), "b": uq.GaussianProcess()}, gaps)
    cheap = uq.Physics(lambda at: {"y": at["k"]})
    log = {"y": uq.Scalar(transform="log")}
    with pytest.raises(InputError, match="fits no transformed ones"):
        uq.GaussianProcess(mean=cheap, outputs=log).fit(uq.ensemble.build({"k": k}, {"y": y}))


def test_means_over_replicates_are_scored_as_leave_one_out_does() -> None:
    rng, k = np.random.default_rng(1), np.repeat(np.linspace(0.1, 2.0, 10), 4)
    curve = np.sin(k[:, None] * HOURS) + 0.3 * rng.standard_normal((40, 6))
    runs = uq.ensemble.build({"k": k}, {"c": xr.DataArray(curve, dims=("run", "hour"), coords={"hour": HOURS})})
    point = uq.GaussianProcess(noise="heteroscedastic", hyperparameters="point", outputs={"c": uq.Curve(max_scores=2)})
    surrogate = point.fit(runs)
    logs, rmse = left_out_density.left_out_logs(surrogate)
    row = uq.leave_one_out(surrogate).table.loc["c"]
    assert logs.mean() == pytest.approx(row["log_score"], rel=1e-9)
    assert rmse[0] == pytest.approx(row["rmse"], rel=1e-9)
    fitted = uq.GaussianProcess(noise="fitted", hyperparameters="point")
    numbers = uq.ensemble.build({"k": k}, {"y": curve[:, 0]})
    with pytest.raises(InputError, match="any other noise merges"):
        uq.compare_surrogates({"h": uq.GaussianProcess(noise="heteroscedastic"), "f": fitted}, numbers)


def test_fields_are_scored_some_coordinates_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(table())
    logs, rmse = left_out_density.left_out_logs(surrogate)
    sizes = []
    law = left_out_density._law
    monkeypatch.setattr(left_out_density, "BLOCK", 40)
    monkeypatch.setattr(left_out_density, "_law", lambda *given: sizes.append(law(*given).mean.shape[2]) or law(*given))
    again = left_out_density.left_out_logs(surrogate)
    np.testing.assert_allclose(again[0], logs, rtol=1e-12)
    np.testing.assert_allclose(again[1], rmse, rtol=1e-12)
    assert sizes == [1, 1, 2, 2, 2, 5]

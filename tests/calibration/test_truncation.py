"""What a basis leaves out: how many scores are kept, what the verdict says of it, and what is refused."""

import json
from typing import Any

import numpy as np
import pytest
import xarray as xr
from calibration.gridded import posterior_of
from calibration.test_by_input import SPACE as OF_TOY
from calibration.test_by_input import observations, toy

import uqms as uq
from uqms.calibration.truncation import _of_scores, check_truncation
from uqms.errors import InputError
from uqms.surrogates import gp, outputs
from uqms.surrogates.left_out import left_out_scores

SPACE = uq.ParameterSpace(**{f"p{i}": uq.Uniform(-1.0, 1.0) for i in range(3)})
T = np.linspace(0.0, 1.0, 20)
DESIGN = uq.sobol(SPACE, 32, rng=1)
THETA = np.column_stack([DESIGN[name].values for name in SPACE.names])
WAVES = np.linalg.qr(np.random.default_rng(0).standard_normal((20, 3)))[0] * [1.0, 3e-3, 1e-5]


def runs_of(y: np.ndarray) -> xr.Dataset:
    return uq.ensemble.build(DESIGN, {"y": xr.DataArray(y, dims=("run", "t"), coords={"t": T})})


def field(more: float = 0.0) -> np.ndarray:
    """Return linear curves, and the solver's rounding."""
    return THETA @ WAVES.T + more * np.random.default_rng(2).standard_normal((32, 20))


def fitted(y: np.ndarray, **settings: Any) -> Any:
    outputs = {"y": uq.Curve(**settings)} if settings else {}
    return uq.GaussianProcess(outputs=outputs, hyperparameters="point").fit(runs_of(y))


def left(surrogate: Any) -> float:
    return float(np.sum(surrogate.bases[0].truncation ** 2))


def left_out_variances(surrogate: Any) -> np.ndarray:
    """Return the variances of curves at left-out runs, summed over the curve, truncation not included."""
    own = [left_out_scores(surrogate.process, 0, j)[1] for j in range(surrogate.process.q)]
    return np.array(own).T @ np.sum(surrogate.bases[0].basis ** 2, axis=0)


# --------------------------------------------------------------------------------------------- how many scores are kept
def test_scores_are_kept_until_truncation_is_small_beside_their_error() -> None:
    short, found = fitted(field(), tolerance=1e-6), fitted(field())
    assert short.process.q == 2  # of three that the curves have
    assert left(short) > 0.1 * np.quantile(left_out_variances(short), 0.1)
    assert found.process.q == 3
    assert left(found) <= 0.1 * np.quantile(left_out_variances(found), 0.1)
    # the scores that both have are the same
    np.testing.assert_allclose(found.process.y[:, :2], short.process.y, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.process.ell[0, :2], short.process.ell[0], rtol=1e-9)


def test_predictions_of_the_last_score_are_right() -> None:
    new = np.random.default_rng(5).uniform(-0.9, 0.9, (50, 3))
    truth = new @ WAVES.T
    errors = []
    for surrogate in (fitted(field(), tolerance=1e-6), fitted(field())):
        told = surrogate.predict({name: new[:, i] for i, name in enumerate(SPACE.names)})
        errors.append(np.sqrt(np.mean((told.mean["y"].values - truth) ** 2)))
    assert errors[1] < 0.05 * errors[0]


@pytest.mark.parametrize("rounding", [1e-7, 1e-6])  # which is more than a tenth of the scores' error: more are tried
def test_rounding_that_no_run_predicts_stays_in_the_truncation(rounding: float) -> None:
    noisy = fitted(field(rounding))
    assert noisy.process.q == 3
    # unbiased for the 17 directions that are rounding
    assert left(noisy) == pytest.approx(17 * rounding**2, rel=0.5)


def corner(theta: np.ndarray) -> np.ndarray:
    """Return logarithms of concentrations: a slow phase takes over in one corner of the box, after decades of decay."""
    absorbed, lost = np.exp(0.5 + 0.6 * theta[:, :1]), np.exp(-1.0 + 1.3 * theta[:, 1:2])
    hours = np.linspace(0.5, 12.0, 20)
    c = absorbed / (absorbed - lost) * (np.exp(-lost * hours) - np.exp(-absorbed * hours))
    return np.asarray(np.log(np.maximum(c, 0.0) + 1e-4 * np.exp(-0.05 * hours)))


def test_shapes_that_only_a_corner_has_are_kept_where_runs_predict_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out runs vary more along them than the runs of a basis: that alone is no reason to leave them out."""
    space = uq.ParameterSpace(a=uq.Uniform(-1.0, 1.0), b=uq.Uniform(-1.0, 1.0))
    design = uq.sobol(space, 48, rng=1)
    theta = np.column_stack([design["a"].values, design["b"].values])
    runs = uq.ensemble.build(design, {"y": xr.DataArray(corner(theta), dims=("run", "t"), coords={"t": T})})
    found = uq.GaussianProcess(hyperparameters="point").fit(runs)
    monkeypatch.setattr(gp, "fit_more", lambda *given: outputs._fit(*given, outputs.OVERFITTED))
    ended = uq.GaussianProcess(hyperparameters="point").fit(runs)
    assert found.process.q > ended.process.q
    assert left(found) < 0.2 * left(ended)
    new = np.random.default_rng(2).uniform(-1.0, 1.0, (300, 2))
    scores, at_runs = [], []
    for one in (found, ended):
        told = one.predict({"a": new[:, 0], "b": new[:, 1]})
        mean, variance = told.mean["y"].values, told.variance["y"].values
        scores.append(np.mean(-0.5 * np.log(variance) - 0.5 * (corner(new) - mean) ** 2 / variance))
        seen = one.predict({"a": theta[:, 0], "b": theta[:, 1]}).mean["y"].values
        at_runs.append(np.mean((seen - corner(theta)) ** 2))
    assert scores[0] > scores[1] + 0.1
    assert at_runs[0] < 0.2 * at_runs[1]  # what is kept is right at the runs


def test_a_tolerance_of_ones_own_is_kept() -> None:
    assert fitted(field(), tolerance=1e-3).process.q == 1
    assert fitted(field(), max_scores=2).process.q == 2
    assert fitted(field()).attrs.get("cut_off") is None
    assert fitted(field(), tolerance=1e-3).attrs["cut_off"] == "y"
    assert fitted(field(), max_scores=2).attrs["cut_off"] == "y"


def test_of_several_outputs_each_has_its_own() -> None:
    """A rough scalar beside the field: its scores stand behind, and are those of a fit without the field."""
    runs = runs_of(field())
    runs["z"] = ("run", np.sin(5.0 * THETA[:, 0]) + THETA[:, 1], {"unit": "", "role": "output"})
    alone = runs.drop_vars(["y", "t"])
    both, one = (
        uq.GaussianProcess(hyperparameters="point", scalars="independent").fit(table) for table in (runs, alone)
    )
    assert [basis.basis.shape[1] for basis in both.bases] == [3, 1]
    (kernel, ell), (same, own) = (
        fitted.process.kernel.of(fitted.process.ell[0, -1], len(SPACE.names)) for fitted in (both, one)
    )
    assert kernel == same
    np.testing.assert_allclose(ell, own, rtol=1e-9)
    at = {name: np.array([0.2]) for name in SPACE.names}
    np.testing.assert_allclose(both.predict(at).variance["z"].values, one.predict(at).variance["z"].values, rtol=1e-9)


def test_leave_one_out_tells_the_share_of_truncation() -> None:
    short, found = fitted(field(), tolerance=1e-6), fitted(field())
    for one in (short, found):
        told = uq.leave_one_out(one)
        expected = left(one) / (left(one) + left_out_variances(one).mean())
        assert told.table.at["y", "truncation"] == pytest.approx(expected, rel=1e-9)
        assert ("of the stated variance" in str(told)) == (expected > 0.1)
        assert (f"truncation: {expected:.0%} of the stated variance" in repr(one)) == (expected >= 0.005)
    assert (
        uq.leave_one_out(short).table.at["y", "truncation"] > 0.1 > uq.leave_one_out(found).table.at["y", "truncation"]
    )


# ---------------------------------------------------------------------------------------------- what the verdict says
def posterior_at(surrogate: Any, noise: uq.GaussianNoise) -> tuple[Any, dict[str, np.ndarray]]:
    data = xr.DataArray(np.full(3, 0.1) @ WAVES.T, dims="t", coords={"t": T}, name="y")
    problem = uq.Calibration(surrogate, data, noise)
    rng = np.random.default_rng(3)
    theta = {name: 0.1 + 0.02 * rng.standard_normal(200) for name in SPACE.names}
    return problem, theta


def checked(problem: Any, theta: dict[str, np.ndarray]) -> Any:
    model = problem.data_model
    return check_truncation(model, problem.unit_inputs(theta), model.noise.phi(theta, (200,)), np.zeros(200, dtype=int))


def test_the_check_has_the_variance_of_the_prediction() -> None:
    noise = uq.GaussianNoise(sd=uq.HalfNormal(1e-4))
    problem, theta = posterior_at(fitted(field(), tolerance=1e-6), noise)
    theta |= {"sigma": np.full(200, 2e-6)}
    found = checked(problem, theta)
    assert found is not None
    told = problem.surrogate.predict({name: theta[name] for name in SPACE.names})
    rest = np.sum(problem.surrogate.bases[0].truncation ** 2, axis=1)
    assert found.value == pytest.approx(rest.mean() / told.variance["y"].values.mean(), rel=1e-3)  # rounding
    assert found.status == "warn"
    assert f"{rest.mean() / 4e-12:.2g} times the noise variance" in found.message
    # with more noise it does not matter, and where more scores are kept there is nothing to say
    assert checked(problem, theta | {"sigma": np.full(200, 1e-3)}).status == "pass"
    problem, theta = posterior_at(fitted(field()), noise)
    assert checked(problem, theta | {"sigma": np.full(200, 2e-6)}) is None


@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize("by_input", [False, True])
def test_the_variance_of_scores_is_that_of_their_covariance(correlated: bool, by_input: bool) -> None:
    problem = uq.Calibration(
        toy(correlated=correlated, by_input=by_input), observations((0.3, 0.8)), uq.GaussianNoise(sd=0.2), space=OF_TOY
    )
    theta = problem.prior_draws(7, 1)
    law = problem.data_model.joint_error(problem.unit_inputs(theta)).given(np.zeros(7, dtype=np.int64))
    assert (law.correlated, law.fixed) == (correlated, not by_input)
    expected = np.diagonal(law.covariance, axis1=1, axis2=2) - np.sum(law.rows.truncation**2, axis=-1)
    np.testing.assert_allclose(_of_scores(law), expected, rtol=1e-9)


def test_the_check_is_in_the_verdict() -> None:
    problem, theta = posterior_at(fitted(field(), tolerance=1e-6), uq.GaussianNoise(sd=uq.HalfNormal(1e-4)))
    posterior = posterior_of(
        problem, theta | {"sigma": np.abs(2e-6 + 1e-8 * np.random.default_rng(0).standard_normal(200))}
    )
    assert "truncation" in {
        check.name for check in uq.calibration.judging.judge(problem, _sampled(posterior))[0].checks
    }


def _sampled(posterior: Any) -> Any:
    from uqms.calibration.context import Context

    return Context.of(posterior).returned


# ------------------------------------------------------------------------------------------------------ what is refused
def test_settings_that_leave_more_than_a_known_noise_are_refused_with_the_refit() -> None:
    known = uq.GaussianNoise(sd=2e-6)
    with pytest.raises(InputError, match=r"Keep more scores.*uq\.Curve\(max_scores=40\)"):
        posterior_at(fitted(field(), tolerance=1e-6), known)
    posterior_at(fitted(field(), max_scores=40), known)
    posterior_at(fitted(field()), known)
    posterior_at(fitted(field(), tolerance=1e-6), uq.GaussianNoise(sd=1e-3))
    posterior_at(fitted(field(), tolerance=1e-6), uq.GaussianNoise(sd=uq.HalfNormal(2e-6)))


def test_a_file_keeps_what_ended_the_scores(tmp_path: Any) -> None:
    surrogate = fitted(field(), tolerance=1e-6)
    surrogate.save(tmp_path / "one.uqms")
    assert uq.load_surrogate(tmp_path / "one.uqms").attrs["cut_off"] == "y"
    assert json.dumps(dict(surrogate.attrs))

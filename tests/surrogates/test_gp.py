"""Fitting: what is refused or warned of, by name; predictions, covariances and draws, one against the other."""

import warnings

import numpy as np
import pytest
import xarray as xr

import uqms as uq
from uqms._typing import Array
from uqms.ensemble import RunState
from uqms.errors import (
    ConstantOutputWarning,
    DataError,
    DataWarning,
    DesignError,
    DesignWarning,
    ExtrapolationError,
    ExtrapolationWarning,
    InputError,
    NumericalWarning,
)
from uqms.surrogates import GaussianProcessSurrogate, SquaredExponential
from uqms.surrogates.process import condition, scores_at
from uqms.surrogates.training import Hyperparameters

DAYS = np.linspace(0.0, 4.0, 9)


def points(n: int, d: int = 2, seed: int = 1) -> dict[str, Array]:
    x = np.random.default_rng(seed).random((n, d))
    return {name: x[:, j] for j, name in enumerate("abcdef"[:d])}


def peak(at: dict[str, Array]) -> Array:
    return np.asarray(np.sin(4.0 * at["a"]) + at["b"] ** 2)


def decay(at: dict[str, Array]) -> xr.DataArray:
    values = (1.0 + at["a"])[:, None] * np.exp(-np.outer(0.3 + at["b"], DAYS))
    return xr.DataArray(values, dims=("run", "day"), coords={"day": DAYS})


def both(n: int = 30) -> xr.Dataset:
    at = points(n)
    return uq.ensemble.build(at, {"peak": peak(at), "conc": decay(at)}, units={"conc": "mg/L"})


@pytest.fixture(scope="module")
def surrogate() -> GaussianProcessSurrogate:
    return uq.GaussianProcess(hyperparameters="point").fit(both())


def inner(n: int, seed: int = 2) -> dict[str, Array]:
    return {name: 0.1 + 0.8 * values for name, values in points(n, 2, seed).items()}


# --------------------------------------------------------------------------------------------------------- predictions
def test_scalars_and_curves_are_predicted_in_their_own_units(surrogate: GaussianProcessSurrogate) -> None:
    at = inner(200)
    prediction = surrogate.predict(at)
    assert prediction.mean["conc"].dims == ("point", "day")
    assert prediction.mean["conc"].attrs["unit"] == "mg/L"
    assert np.sqrt(np.mean((prediction.mean["peak"].values - peak(at)) ** 2)) < 2e-3
    assert np.sqrt(np.mean((prediction.mean["conc"].values - decay(at).values) ** 2)) < 1e-3
    for name, truth in (("peak", peak(at)), ("conc", decay(at).values)):
        z = (truth - prediction.mean[name].values) / prediction.sd[name].values
        assert 0.85 < np.mean(np.abs(z) < 1.96) <= 1.0
    np.testing.assert_allclose(prediction.sd["conc"] ** 2, prediction.variance["conc"])
    assert prediction.inside.all()


def test_runs_are_reproduced(surrogate: GaussianProcessSurrogate) -> None:
    at = points(30)
    prediction = surrogate.predict(at)
    np.testing.assert_allclose(prediction.mean["peak"], peak(at), atol=1e-5)
    np.testing.assert_allclose(prediction.mean["conc"], decay(at), atol=3e-3)


def test_the_variance_is_the_diagonal_of_the_covariance(surrogate: GaussianProcessSurrogate) -> None:
    prediction = surrogate.predict(inner(6))
    joint = prediction.covariance("conc")
    assert joint.shape == (6, 9, 6, 9)
    diagonal = np.diagonal(joint.reshape(54, 54)).reshape(6, 9)
    np.testing.assert_allclose(diagonal, prediction.variance["conc"], rtol=1e-6, atol=1e-12)
    rounding = 1e-15 * surrogate.process.variance.max()  # of differences of variances before runs
    np.testing.assert_allclose(
        prediction.covariance("peak")[:, 0, :, 0].diagonal(), prediction.variance["peak"], rtol=1e-5, atol=rounding
    )


def test_draws_have_the_mean_and_covariance_that_are_said(surrogate: GaussianProcessSurrogate) -> None:
    few = uq.GaussianProcess().fit(both(10))
    prediction = few.predict({"a": [0.3, 0.35, 0.7], "b": [0.5, 0.5, 0.4]})
    n = 4000
    draws = prediction.draws(n, rng=1)
    for name in ("peak", "conc"):
        values = draws[name].values.reshape(n, -1)
        expected = prediction.covariance(name).reshape(values.shape[1], -1)
        sd = np.sqrt(np.diag(expected))
        assert np.abs((values.mean(axis=0) - prediction.mean[name].values.ravel()) / sd).max() < 4.5 / np.sqrt(n)
        assert np.abs((np.cov(values.T) - expected) / np.outer(sd, sd)).max() < 5.0 * np.sqrt(2.0 / n)


def test_draws_repeat_with_their_seed(surrogate: GaussianProcessSurrogate) -> None:
    prediction = surrogate.predict(inner(3))
    assert prediction.draws(4, rng=1).equals(prediction.draws(4, rng=1))
    assert not prediction.draws(4, rng=1).equals(prediction.draws(4, rng=2))
    with pytest.raises(InputError, match="draws: n is 0"):
        prediction.draws(0, rng=1)


def test_scalar_mean_and_variance_are_those_of_the_scores(surrogate: GaussianProcessSurrogate) -> None:
    u = np.random.default_rng(3).random((5, 2))
    scores = surrogate.scores(u)
    decoder = surrogate.decode("conc", {"day": [1.0, 1.3]})
    mean = decoder.offset + scores.mean[0] @ decoder.basis.T
    x = surrogate.domain.from_unit(u)
    prediction = surrogate.predict({"a": x[:, 0], "b": x[:, 1]})
    np.testing.assert_allclose(mean[:, 0], prediction.mean["conc"].sel(day=1.0), rtol=1e-9)
    assert np.sum(decoder.truncation[1] ** 2) > np.sum(decoder.truncation[0] ** 2)
    with pytest.raises(ExtrapolationError, match="day = 4.5"):
        surrogate.decode("conc", {"day": [4.5]})
    with pytest.raises(InputError, match="no output 'pressure'; it has .*'peak'"):
        surrogate.decode("pressure")


def test_the_reverse_derivative_equals_finite_differences(surrogate: GaussianProcessSurrogate) -> None:
    rng = np.random.default_rng(4)
    u = rng.random((3, 2))
    scores = surrogate.scores(u)
    bars = rng.standard_normal(scores.mean.shape), rng.standard_normal(scores.covariance.shape)

    def value(at: Array) -> float:
        s = surrogate.scores(at)
        return float(np.sum(s.mean * bars[0]) + np.sum(s.covariance * bars[1]))

    numeric = np.zeros_like(u)
    step = 2e-3  # with the fourth-order rule; smaller ones meet the rounding of the covariance
    for i, j in np.ndindex(*u.shape):
        e = np.zeros_like(u)
        e[i, j] = step
        numeric[i, j] = (value(u - 2 * e) - 8 * value(u - e) + 8 * value(u + e) - value(u + 2 * e)) / (12 * step)
    np.testing.assert_allclose(
        surrogate.scores_reverse(u, *bars), numeric, rtol=1e-5, atol=1e-5 * np.abs(numeric).max()
    )


# ------------------------------------------------------------------------------------------------------ function draws
def test_function_draws_follow_the_joint_posterior_of_the_scores() -> None:
    few = uq.GaussianProcess(hyperparameters="point").fit(both(10))
    n, u = 3000, np.random.default_rng(3).random((4, 2))
    values = few.functions(n, rng=1, anchors=64)(u)
    scores = few.scores(u)
    for j in range(values.shape[2]):
        expected = scores.covariance[0, j]
        sd = np.sqrt(np.diag(expected))
        assert np.abs((values[:, :, j].mean(axis=0) - scores.mean[0, :, j]) / sd).max() < 4.5 / np.sqrt(n)
        assert np.abs((np.cov(values[:, :, j].T) - expected) / np.outer(sd, sd)).max() < 5.0 * np.sqrt(2.0 / n)


def test_a_function_is_the_same_wherever_it_is_asked() -> None:
    few = uq.GaussianProcess(hyperparameters="point").fit(both(10))
    functions = few.functions(20, rng=1, anchors=256)
    u = np.random.default_rng(3).random((4, 2))
    assert (functions(u) == functions(u)).all()
    scale = np.sqrt(few.process.variance[0])
    anchor = functions.anchors[17]
    alone, among = functions(anchor[None])[:, 0], functions(np.vstack([u, anchor]))[:, -1]
    np.testing.assert_allclose(alone / scale, among / scale, atol=2e-5)
    # Off the anchors two calls differ by the residual that 256 anchors leave, far less than the posterior's sd.
    apart = (functions(u[::-1])[:, ::-1] - functions(u)) / np.sqrt(np.diagonal(few.scores(u).covariance[0], 0, 1, 2)).T
    assert np.sqrt(np.mean(apart**2)) < 0.1
    with pytest.raises(InputError, match="n is 0"):
        few.functions(0, rng=1)


def test_functions_of_a_smooth_simulator_can_be_drawn() -> None:
    # The posterior covariance is rounding here, so its own factor does not exist.
    x = np.linspace(0.0, 1.0, 30)
    fitted = uq.GaussianProcess().fit(uq.ensemble.build({"a": x}, {"y": np.sin(3.0 * x)}))
    u = np.linspace(0.0, 1.0, 40)[:, None]
    decoder = fitted.decode("y")
    values = decoder.offset + fitted.functions(5, rng=1)(u) @ decoder.basis.T
    assert np.abs(values[..., 0] - np.sin(3.0 * u[:, 0])).max() < 1e-3


# ----------------------------------------------------------------------------------- bad and odd training data, by case
def test_nan_inputs_are_named() -> None:  # case 12
    at = points(10)
    bad = at["a"].copy()
    bad[3] = np.nan
    runs = both(10)
    runs["a"].values[3] = np.nan
    with pytest.raises(DataError, match="'a' is nan in run 3"):
        uq.GaussianProcess().fit(runs)
    with pytest.raises(DataError, match="'a' is nan in run 3"):
        uq.ensemble.build(at | {"a": bad}, {"y": peak(at)})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_are_named(value: float) -> None:  # case 13
    runs = both(10)
    runs["conc"].values[4, 2] = value
    with pytest.raises(DataError, match=r"'conc' is .*(nan|inf) in run 4, day=1\.0"):
        uq.GaussianProcess().fit(runs)


def test_runs_that_did_not_complete_are_left_out_and_counted() -> None:
    at = points(20)
    y = peak(at)
    y[[2, 5]] = np.nan
    states = np.full(20, RunState.COMPLETED)
    states[[2, 5]] = RunState.FAILED
    fitted = uq.GaussianProcess().fit(uq.ensemble.build(at, {"y": y}, states=states.tolist()))
    assert fitted.runs == 18
    assert "18 runs (2 left out)" in repr(fitted)


def test_inputs_and_outputs_of_different_length_are_refused() -> None:  # case 14
    with pytest.raises(DataError, match="'y'"):
        uq.ensemble.build(points(10), {"y": np.zeros(9)})


@pytest.mark.parametrize("values", [np.arange(10) * 1j, np.array([object()] * 10), np.array(["1"] * 10)])
def test_numbers_that_are_not_real_are_refused(values: Array) -> None:  # case 15
    with pytest.raises(DataError, match="'y'"):
        uq.ensemble.build(points(10), {"y": values})


def test_something_else_than_an_ensemble_is_refused() -> None:  # case 16
    with pytest.raises(DataError, match="a ndarray, not an xarray.Dataset"):
        uq.GaussianProcess().fit(np.zeros((10, 2)))


def test_too_few_runs_are_a_design_error() -> None:  # case 17
    with pytest.raises(DesignError, match=r"3 different completed runs of 2 inputs; at least d \+ 2 = 4 .* Run more"):
        uq.GaussianProcess().fit(both(3))
    assert uq.GaussianProcess().fit(both(4)).runs == 4


def test_a_constant_column_is_left_out_with_a_warning() -> None:  # case 18
    at = points(15)
    with pytest.warns(DesignWarning, match=r"Inputs \['b'\] are the same in every run; they are left out"):
        fitted = uq.GaussianProcess().fit(
            uq.ensemble.build({"a": at["a"], "b": np.full(15, 2.0)}, {"y": np.sin(at["a"])})
        )
    assert fitted.domain.names == ("a",)
    with pytest.raises(DesignError, match="No input varies"):
        uq.GaussianProcess().fit(uq.ensemble.build({"b": np.full(15, 2.0)}, {"y": np.sin(at["a"])}))


def test_a_column_that_is_constant_in_a_wide_box_keeps_its_uncertainty() -> None:  # case 18, when the box is known
    space = uq.ParameterSpace(a=uq.Uniform(0, 1), b=uq.Uniform(0, 4))
    design = uq.sobol(space, 16, rng=1)
    design["b"] = design["b"].copy(data=np.full(16, 2.0))
    with pytest.warns(DesignWarning, match=r"Inputs \['b'\] do not vary .* Simulate other values"):
        fitted = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": np.sin(design["a"].values)}))
    sd = fitted.predict({"a": 0.5, "b": [2.0, 4.0]}).sd["y"].values
    assert sd[1] > 1000.0 * sd[0]


def test_collinear_columns_are_warned_of() -> None:  # case 19
    at = points(15)
    with pytest.warns(DesignWarning, match=r"\['a', 'b'\] are collinear"):
        uq.GaussianProcess().fit(uq.ensemble.build({"a": at["a"], "b": 2.0 * at["a"] + 1.0}, {"y": np.sin(at["a"])}))


def repeated(change: float) -> xr.Dataset:
    at = points(15)
    at = {name: np.append(values, values[4]) for name, values in at.items()}
    y = peak(at)
    y[-1] += change
    return uq.ensemble.build(at, {"y": y})


def test_duplicates_that_agree_are_merged() -> None:  # case 20
    with pytest.warns(DataWarning, match="1 runs repeat"):
        fitted = uq.GaussianProcess().fit(repeated(0.0))
    assert fitted.runs == 15


def test_duplicates_that_disagree_are_an_error_unless_noise_is_fitted() -> None:  # case 21, G2
    with pytest.raises(DataError, match=r"Runs 4 and 15 have the same inputs but different 'y'.*noise='fitted'"):
        uq.GaussianProcess().fit(repeated(0.1))
    fitted = uq.GaussianProcess(noise="fitted").fit(repeated(0.1))
    assert fitted.runs == 16
    assert fitted.process.nugget[0, 0] > 0.0


def test_duplicate_curves_that_disagree_are_sent_to_noise_from_replicates() -> None:
    at = {name: np.append(values, values[4]) for name, values in points(15).items()}
    curves = decay(at)
    curves[-1] += 0.1
    with pytest.raises(DataError, match=r"different 'conc'.*noise='heteroscedastic'") as error:
        uq.GaussianProcess().fit(uq.ensemble.build(at, {"conc": curves}))
    assert "'fitted'" not in str(error.value)


@pytest.mark.parametrize("noise", [0.0, 1e-14])
def test_a_constant_output_is_predicted_as_that_constant(noise: float) -> None:  # case 22, G3
    at = points(15)
    y = 3.0 + noise * np.random.default_rng(1).standard_normal(15)
    with pytest.warns(ConstantOutputWarning, match="'still' is the same in every run"):
        fitted = uq.GaussianProcess().fit(uq.ensemble.build(at, {"still": y, "peak": peak(at)}))
    prediction = fitted.predict(inner(5))
    np.testing.assert_allclose(prediction.mean["still"], 3.0, rtol=1e-13)
    assert not prediction.sd["still"].any()
    assert np.isfinite(fitted.process.flat()).all()
    assert np.abs(prediction.mean["peak"] - peak(inner(5))).max() < 0.05
    np.testing.assert_allclose(prediction.draws(3, rng=1)["still"], 3.0, rtol=1e-13)


def test_single_precision_is_promoted() -> None:  # case 23
    at = {name: values.astype(np.float32) for name, values in points(15).items()}
    wide = {name: values.astype(np.float64) for name, values in at.items()}
    a = uq.GaussianProcess().fit(uq.ensemble.build(at, {"y": peak(wide)}))
    b = uq.GaussianProcess().fit(uq.ensemble.build(wide, {"y": peak(wide)}))
    assert a.process.x.dtype == np.float64
    assert (a.process.target == b.process.target).all()


def test_twelve_orders_of_magnitude_are_warned_of() -> None:  # case 24
    x = np.linspace(0.0, 1.0, 20)
    with pytest.warns(DataWarning, match=r"'y' spans more than 12 orders of magnitude .*logarithm"):
        uq.GaussianProcess().fit(uq.ensemble.build({"a": x}, {"y": 10.0 ** (15.0 * x)}))
    uq.GaussianProcess().fit(uq.ensemble.build({"a": x}, {"y": np.maximum(x - 0.7, 0.0)}))  # zeros are no orders


def test_sizes_that_cannot_be_squared_are_refused() -> None:
    at = points(15)
    for scale in (1e-200, 1e200):
        with pytest.raises(DataError, match="'y' has values of size .* unit"):
            uq.GaussianProcess().fit(uq.ensemble.build(at, {"y": scale * peak(at)}))


def test_the_order_of_columns_does_not_matter() -> None:  # case 25
    space = uq.ParameterSpace(a=uq.Uniform(0, 1), b=uq.Uniform(0, 1))
    at = points(20)
    a = uq.GaussianProcess().fit(uq.ensemble.build(at, {"y": peak(at)}, space=space))
    b = uq.GaussianProcess().fit(uq.ensemble.build({"b": at["b"], "a": at["a"]}, {"y": peak(at)}, space=space))
    np.testing.assert_allclose(a.predict(inner(9)).mean["y"], b.predict(inner(9)).mean["y"], atol=1e-4)


def test_coordinates_that_are_words_are_refused() -> None:
    at = points(10)
    leads = xr.DataArray(np.outer(peak(at), [1.0, 2.0]), dims=("run", "lead"), coords={"lead": ["I", "II"]})
    with pytest.raises(DataError, match=r"'lead' of output 'ecg' .* number the places"):
        uq.GaussianProcess().fit(uq.ensemble.build(at, {"ecg": leads}))


def test_a_large_jitter_is_warned_of() -> None:
    at, lengths = points(15), [1e-11, 1e-7]
    runs = uq.ensemble.build(at, {"y": peak(at)})
    from uqms.surrogates import gp

    process = uq.GaussianProcess().fit(runs).process
    bases = list(uq.GaussianProcess().fit(runs).bases)
    found = [Hyperparameters(np.ones(2), 0.0, 1e-12, 0.0, 2, False)]
    for jitter in lengths:
        changed = type(process)(**{**vars(process), "jitter": np.array([[jitter]])})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            gp.report(changed, found, bases)
        assert [w.category for w in caught] == ([NumericalWarning] if jitter > 1e-9 else [])


# ----------------------------------------------------------------------------------------------------- scales and units
@pytest.mark.parametrize(("scale", "shift"), [(1e6, 0.0), (1e-6, 0.0), (1e6, 1e6), (1e-12, 0.0)])
def test_units_of_inputs_and_outputs_do_not_matter(scale: float, shift: float) -> None:  # G4
    at, new = points(25), inner(20)
    plain = uq.GaussianProcess().fit(uq.ensemble.build(at, {"y": peak(at)})).predict(new)
    wide = {"a": at["a"] * 1e6, "b": at["b"] * 1e-6}
    fitted = uq.GaussianProcess().fit(uq.ensemble.build(wide, {"y": scale * peak(at) + shift}))
    other = fitted.predict({"a": new["a"] * 1e6, "b": new["b"] * 1e-6})
    np.testing.assert_allclose((other.mean["y"] - shift) / scale, plain.mean["y"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(other.sd["y"] / scale, plain.sd["y"], rtol=2e-2)


def test_a_small_range_on_a_large_offset_is_learned() -> None:  # G3
    at, new = points(40), inner(50)
    fitted = uq.GaussianProcess().fit(uq.ensemble.build(at, {"y": 1e9 + 1e-3 * peak(at)}))
    # Near 1e9 numbers are 1.2e-7 apart, so four digits of the range are left.
    assert np.abs(fitted.predict(new).mean["y"] - 1e9 - 1e-3 * peak(new)).max() < 2e-5


# ------------------------------------------------------------------------------------------------------------ settings
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": "matern"}, "kernel is 'matern'"),
        ({"kernel": uq.Matern52}, r"give Matern52\(\)"),
        ({"trend": "cubic"}, "trend is 'cubic'"),
        ({"noise": 0.1}, "noise is 0.1"),
        ({"hyperparameters": "mcmc"}, "hyperparameters is 'mcmc'; give 'auto', 'averaged' or 'point'"),
        ({"outputs": {"y": 3}}, "outputs holds 3"),
        ({"outputs": None}, "outputs holds None"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        uq.GaussianProcess(**settings)  # type: ignore[arg-type]


def test_settings_of_outputs_must_fit_the_outputs() -> None:
    for outputs, message in (
        ({"flow": uq.Scalar()}, r"settings for \['flow'\]"),
        ({"conc": uq.Scalar()}, r"'conc' has dims \['day'\]"),
        ({"peak": uq.Curve()}, "'peak' is one number per run"),
    ):
        with pytest.raises(InputError, match=message):
            uq.GaussianProcess(outputs=outputs).fit(both(10))
    fitted = uq.GaussianProcess(outputs={"conc": uq.Curve(max_scores=1)}).fit(both())
    assert fitted.process.q == 2


def test_a_linear_trend_is_used_when_there_are_runs_for_it() -> None:
    at = points(30)
    fitted = uq.GaussianProcess(trend="linear", hyperparameters="point").fit(
        uq.ensemble.build(at, {"y": 3.0 * at["a"] - at["b"] + 0.01 * peak(at)})
    )
    assert fitted.process.beta.shape == (1, 1, 3)


@pytest.mark.parametrize("hyperparameters", ["point", "averaged"])
@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_runs_that_the_trend_passes_through_are_fitted_without_warnings_of_overflow(
    hyperparameters: str, size: float
) -> None:
    at = points(8)
    runs = uq.ensemble.build(at, {"y": size * (at["a"] + 2.0 * at["b"])})
    fitted = uq.GaussianProcess(trend="linear", hyperparameters=hyperparameters).fit(runs)  # warnings are errors here
    where = {"a": [0.3, 0.7], "b": [0.2, 0.9]}
    expected = size * (np.array(where["a"]) + 2.0 * np.array(where["b"]))
    assert fitted.predict(where).mean["y"].values == pytest.approx(expected, rel=1e-6)


def test_fitted_noise_is_found_and_kept_out_of_the_latent_variance() -> None:
    at = points(150)
    y = peak(at) + 0.1 * np.random.default_rng(3).standard_normal(150)
    fitted = uq.GaussianProcess(kernel=SquaredExponential(), noise="fitted").fit(uq.ensemble.build(at, {"y": y}))
    scale = fitted.bases[0].basis.item() ** 2
    assert np.sqrt(fitted.process.nugget * fitted.process.variance * scale).item() == pytest.approx(0.1, rel=0.15)
    prediction = fitted.predict(inner(50))
    assert prediction.sd["y"].max() < 0.08
    assert np.sqrt(np.mean((prediction.mean["y"] - peak(inner(50))) ** 2)) < 0.05


SHAPES = np.stack([np.ones(9), DAYS / 2.0])  # of the noise of a curve, whose amplitudes have these covariances
AMPLITUDES = 0.03**2 * np.array([[1.0, -0.8], [-0.8, 1.0]])


def noisy_curves(at: dict[str, Array], seed: int = 1) -> xr.DataArray:
    """Return runs of `decay` whose solver adds two shapes with amplitudes of its own to each."""
    return decay(at) + np.random.default_rng(seed).multivariate_normal(np.zeros(2), AMPLITUDES, len(at["a"])) @ SHAPES


def test_fitted_noise_of_a_curve_is_separated_from_the_mean_and_is_correlated_between_scores() -> None:
    fitted, exact = (
        # Without main effects, which halve the error of runs that are taken as exact.
        uq.GaussianProcess(kernel=uq.Adapted(uq.Matern52()), noise=noise, hyperparameters="point").fit(  # type: ignore[arg-type]
            uq.ensemble.build(points(100), {"conc": noisy_curves(points(100))})
        )
        for noise in ("fitted", "none")
    )
    at = inner(400)
    truth, run = decay(at).values, noisy_curves(at, seed=5).values
    errors = [np.sqrt(np.mean((one.predict(at).mean["conc"].values - truth) ** 2)) for one in (fitted, exact)]
    assert errors[0] < 0.4 * errors[1]
    prediction = fitted.predict(at)
    assert 0.85 < np.mean(np.abs(truth - prediction.mean["conc"]) < 1.96 * prediction.sd["conc"]) <= 1.0
    low, high = prediction.interval(noise=True)["conc"].transpose("bound", ...).values
    assert 0.92 < np.mean((low < run) & (run < high)) < 0.975

    wanted = SHAPES.T @ AMPLITUDES @ SHAPES
    root = fitted.bases[0].basis * np.sqrt(fitted.process.variance * fitted.process.nugget)
    correlation = fitted.noise_correlation
    assert correlation is not None
    far = [
        np.linalg.norm(root @ one @ root.T - wanted) / np.linalg.norm(wanted)
        for one in (correlation, np.eye(len(correlation)))
    ]
    assert far[0] < 0.3  # 100 runs: a standard error of .14 of each variance
    assert far[1] > 0.5  # as if amplitudes of scores had nothing in common
    drawn = fitted.noise_draws(np.array([[0.5, 0.5]]), 20_000, np.random.default_rng(1))[:, 0]
    np.testing.assert_allclose(np.corrcoef(drawn.T), correlation, atol=0.035)  # 5 standard errors
    assert exact.noise_correlation is None


def test_noise_outside_of_the_scores_of_a_curve_is_warned_of() -> None:
    """Noise that differs from coordinate to coordinate lies mostly outside of 20 scores; without noise nothing does."""
    at, t = points(60), np.linspace(0.0, 4.0, 100)
    smooth = xr.DataArray(
        (1.0 + at["a"])[:, None] * np.exp(-np.outer(0.3 + at["b"], t)), dims=("run", "t"), coords={"t": t}
    )
    white = smooth + 0.03 * np.random.default_rng(2).standard_normal(smooth.shape)
    adapted = uq.GaussianProcess(kernel=uq.Adapted(uq.Matern52()), noise="fitted", hyperparameters="point")
    settings = uq.GaussianProcess(noise="fitted", hyperparameters="point")
    with pytest.warns(
        DataWarning, match=r"'conc': \d\d% of the variance that looks like noise lies outside of its 20 sc"
    ):
        settings.fit(uq.ensemble.build(at, {"conc": white}))
    with pytest.warns(
        DataWarning, match=r"'conc': 8\d% of the variance that looks like noise lies outside of its 20 sc"
    ):
        adapted.fit(uq.ensemble.build(at, {"conc": white}))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        settings.fit(uq.ensemble.build(at, {"conc": smooth}))
        short = uq.GaussianProcess(noise="fitted", hyperparameters="point", outputs={"conc": uq.Curve(max_scores=1)})
        short.fit(uq.ensemble.build(at, {"conc": smooth}))  # what one score leaves out of exact runs is no noise
        settings.fit(uq.ensemble.build(points(40), {"conc": noisy_curves(points(40))}))


def test_the_fit_is_the_process_conditioned_at_what_was_trained(surrogate: GaussianProcessSurrogate) -> None:
    p = surrogate.process
    found = [Hyperparameters(p.ell[0, j], 0.0, 1e-12, 0.0, 2, False) for j in range(p.q)]
    again = condition(p.kernel, p.x, p.y, 1, found)
    u = np.random.default_rng(1).random((5, 2))
    np.testing.assert_allclose(scores_at(again, u).mean, surrogate.scores(u).mean, rtol=1e-12)


def test_the_same_runs_give_the_same_surrogate() -> None:
    a, b = (uq.GaussianProcess().fit(both()) for _ in range(2))
    assert (a.process.flat() == b.process.flat()).all()


def test_few_runs_are_said_to_be_point_estimated(surrogate: GaussianProcessSurrogate) -> None:
    assert surrogate.point_estimated  # 30 <= 20 d
    assert "point-estimated" in repr(surrogate)
    x = np.linspace(0.0, 1.0, 21)
    assert not uq.GaussianProcess().fit(uq.ensemble.build({"a": x}, {"y": np.sin(x)})).point_estimated


# -------------------------------------------------------------------------------------------------------------- points
def test_points_outside_of_the_box_are_warned_of(surrogate: GaussianProcessSurrogate) -> None:
    with pytest.warns(ExtrapolationWarning, match=r"1 of 2 points .* first point 1 \(a = 3, b = 0.5\)"):
        prediction = surrogate.predict({"a": [0.5, 3.0], "b": 0.5})
    assert prediction.inside.tolist() == [True, False]


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ({"a": 0.5}, "'b' missing"),
        ({"a": 0.5, "b": 0.5, "c": 0.5}, "'c' unknown"),
        ({"a": np.zeros((2, 2)), "b": 0.5}, "one-dimensional"),
        ({"a": [0.1, 0.2], "b": [0.1, 0.2, 0.3]}, "one length"),
        ({"a": np.nan, "b": 0.5}, "'a' holds nan"),
        ({"a": "x", "b": 0.5}, "'a' is 'x'"),
        ([0.5, 0.5], "give numbers by the name of each input"),
    ],
)
def test_points_that_cannot_be_meant_are_refused(
    at: dict[str, object], message: str, surrogate: GaussianProcessSurrogate
) -> None:
    with pytest.raises(InputError, match=message):
        surrogate.predict(at)


# -------------------------------------------------------------------------------------------------------------- trends
def bowl(at: dict[str, Array]) -> Array:
    return np.asarray(1.0 + 2.0 * at["a"] - 3.0 * at["b"] + 4.0 * at["a"] ** 2 - at["a"] * at["b"] + 0.5 * at["b"] ** 2)


@pytest.mark.parametrize("hyperparameters", ["point", "averaged"])
def test_a_quadratic_trend_extrapolates_a_quadratic(hyperparameters: str) -> None:
    at, far = points(12), {"a": [-1.0, 2.0, 1.5], "b": [2.0, 1.5, -0.5]}
    rng = np.random.default_rng(3)
    runs = uq.ensemble.build(at, {"y": bowl(at) + 1e-4 * rng.standard_normal(12)})
    fitted = uq.GaussianProcess(trend="quadratic", hyperparameters=hyperparameters, scales="given").fit(runs)
    with pytest.warns(ExtrapolationWarning):
        prediction = fitted.predict(far)
    truth = bowl({name: np.array(values) for name, values in far.items()})
    assert np.abs(prediction.mean["y"] - truth).max() < 0.02
    assert (np.abs(prediction.mean["y"] - truth) < 4.0 * prediction.sd["y"]).all()
    draws = prediction.draws(4000, rng=1)["y"]
    np.testing.assert_allclose(draws.std("draw"), prediction.sd["y"], rtol=0.1)


@pytest.mark.parametrize(
    ("n", "trend", "given", "columns"), [(7, "quadratic", "linear", 3), (4, "linear", "constant", 1)]
)
def test_too_few_runs_for_the_trend_shorten_it_and_say_so(n: int, trend: str, given: str, columns: int) -> None:
    at = points(n)
    with pytest.warns(DesignWarning, match=f"{n} runs do not determine .* the trend is {given}.*trend='{given}'"):
        fitted = uq.GaussianProcess(trend=trend).fit(uq.ensemble.build(at, {"y": peak(at)}))
    assert fitted.process.beta.shape[2] == columns


def test_an_input_of_two_levels_has_no_square() -> None:
    at = points(20)
    at["b"] = np.round(at["b"])
    with pytest.warns(DesignWarning, match="the trend is linear"):
        fitted = uq.GaussianProcess(trend="quadratic").fit(uq.ensemble.build(at, {"y": peak(at)}))
    assert np.isfinite(fitted.predict({"a": 0.5, "b": 0.5}).sd["y"]).all()

"""Outputs that stay positive or inside of bounds: against quadrature, closed forms, and surrogates of the image."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.integrate import quad
from scipy.special import expit, logit
from scipy.stats import lognorm, norm

import uqms as uq
from uqms.errors import DataError, FormatError, InputError
from uqms.surrogates import GaussianProcessSurrogate, held_out, stored
from uqms.surrogates.prediction import Mixture
from uqms.surrogates.transforms import Identity, Log, Logit, Transform, as_transform, from_dict, to_dict

SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
HOURS = np.linspace(0.0, 4.0, 5)
POINTS = {"a": [0.15, 0.4, 0.9], "b": [0.7, 0.3, 0.95]}
PERCENT = Logit(0.0, 100.0)


def runs(n: int, seed: int = 1) -> xr.Dataset:
    """Return runs of a positive curve, a share of nearly 0 to nearly 100 per cent, and their images."""
    design = uq.sobol(SPACE, n, rng=seed)
    a, b = design["a"].values, design["b"].values
    conc = 50.0 * np.exp(-np.multiply.outer(1.0 + 2.0 * a, HOURS)) * (1.0 + b[:, None] * HOURS)
    share = 100.0 * expit(6.0 * np.sin(2.0 * a) - 5.0 * b)
    # To the last bit what the transform gives: another rounding would move the trained hyperparameters by 1e-5.
    image = PERCENT.forward(share)
    np.testing.assert_allclose(image, logit(share / 100.0), rtol=1e-9, atol=1e-12)
    outputs = {"conc": conc, "share": share, "log_conc": np.log(conc), "logit_share": image}
    labelled = {
        name: xr.DataArray(values, dims=("run", "hour"), coords={"hour": HOURS}) if values.ndim > 1 else values
        for name, values in outputs.items()
    }
    units = {"conc": "mg/L", "share": "%"}
    return uq.ensemble.build(design, labelled, units=units, space=SPACE)


def fitted(n: int = 12, **options: object) -> GaussianProcessSurrogate:
    settings = {
        "conc": uq.Curve(transform="log", tolerance=1e-4),
        "share": uq.Scalar(transform=PERCENT),
        "log_conc": uq.Curve(tolerance=1e-4),
    }
    return uq.GaussianProcess(outputs=settings, **options).fit(runs(n))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def surrogate() -> GaussianProcessSurrogate:
    """Return one that averages over its hyperparameters."""
    found = fitted()
    assert found.process.draws == 16
    assert found.bases[0].truncation.shape[1] > 0
    return found


# ------------------------------------------------------------------------------------------------------------- the maps
@pytest.mark.parametrize(
    "transform", [Identity(), Log(), Log(0.3), Log(-2.0), Logit(), Logit(-3, 7.5), Logit(0.1, 0.7)]
)
def test_maps_are_inverse_and_their_slope_is_the_derivative(transform: Transform) -> None:
    z = np.linspace(-12.0, 12.0, 41)
    y = transform.inverse(z)
    np.testing.assert_allclose(transform.forward(y), z, rtol=1e-9, atol=1e-9)
    assert not transform.outside(y).any()
    assert (np.diff(y) > 0).all()
    middle = np.linspace(-4.0, 4.0, 9)
    step = 1e-5
    slope = (transform.inverse(middle + step) - transform.inverse(middle - step)) / (2 * step)
    np.testing.assert_allclose(transform.log_slope(transform.inverse(middle)), -np.log(slope), atol=1e-8)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.1, 0.7), (-1e-3, 1e-3), (1e6, 1e6 + 0.3)])
def test_no_number_on_the_line_leaves_the_bounds(bounds: tuple[float, float]) -> None:
    y = Logit(*bounds).inverse(np.linspace(-800.0, 800.0, 4001))
    assert y.min() == bounds[0]
    assert y.max() == bounds[1]


@pytest.mark.parametrize("transform", [Log(), Log(0.7), PERCENT])
@pytest.mark.parametrize("sd", [1e-4, 0.3, 1.5])
def test_the_crps_is_the_integral_of_the_squared_distance(transform: Transform, sd: float) -> None:
    mean, variance, weights = 0.4 + np.array([0.0, 0.7]) * sd, np.array([1.0, 2.0]) * sd**2, np.array([0.3, 0.7])
    law = Mixture(mean[:, None, None], variance[:, None, None], weights, transform)
    for z in (0.4 + 0.2 * sd, -0.2, 0.4 + 3.0 * sd):
        ends = np.sort(np.concatenate([[z], *(mean[i] + np.sqrt(variance[i]) * np.arange(-12, 13) for i in (0, 1))]))

        def distance(at: float, z: float = z) -> float:
            below = float(weights @ norm.cdf(at, mean, np.sqrt(variance))) - (at > z)
            return float(below**2 * np.exp(-transform.log_slope(transform.inverse(np.array(at)))))

        pieces = [
            quad(distance, low, high)[0] for low, high in zip(ends[:-1], ends[1:], strict=True) if low < high - 1e-9
        ]
        value = transform.inverse(np.array([[z]]))
        assert law.crps(value).item() == pytest.approx(sum(pieces), rel=1e-5)


def expected(function: object, mean: float, sd: float) -> float:
    """Return E f(z) for normal z by adaptive quadrature in pieces."""
    ends = mean + sd * np.linspace(-14.0, 14.0, 57)
    pieces = [
        quad(lambda z: function(z) * norm.pdf(z, mean, sd), low, high, epsabs=1e-15, epsrel=1e-12)[0]  # type: ignore[operator]
        for low, high in zip(ends[:-1], ends[1:], strict=True)
    ]
    return float(np.sum(pieces))


@pytest.mark.parametrize("sd", [1e-5, 0.1, 1.0, 2.3, 4.0, 9.0])
@pytest.mark.parametrize("mean", [-15.0, -2.0, 0.0, 0.7, 6.0])
def test_moments_of_a_logit_normal_are_those_of_adaptive_quadrature(mean: float, sd: float) -> None:
    got, variance = Logit(2.0, 5.0).moments(np.array([mean]), np.array([sd**2]))
    first = expected(expit, mean, sd)
    assert got[0] == pytest.approx(2.0 + 3.0 * first, abs=3e-9)
    second = expected(lambda z: (expit(z) - first) ** 2, mean, sd)
    assert variance[0] == pytest.approx(9.0 * second, abs=9e-9)
    assert variance[0] == pytest.approx(9.0 * second, rel=1e-6)  # also where it is tiny


def test_moments_of_a_batch_are_as_accurate_as_those_of_its_widest_law() -> None:
    mean, variance = np.array([0.3, 0.3]), np.array([0.04, 64.0])
    both, alone = Logit().moments(mean, variance), Logit().moments(mean[:1], variance[:1])
    np.testing.assert_allclose([both[0][0], both[1][0]], [alone[0][0], alone[1][0]], rtol=1e-9)


def test_moments_of_a_log_normal_are_scipys() -> None:
    mean, variance = Log().moments(np.array([0.4, -3.0]), np.array([0.3**2, 1e-14]))
    law = lognorm(s=0.3, scale=np.exp(0.4))
    assert mean[0] == pytest.approx(law.mean(), rel=1e-13)
    assert variance[0] == pytest.approx(law.var(), rel=1e-13)
    assert variance[1] == pytest.approx(np.exp(-6.0) * 1e-14, rel=1e-9)
    shifted = Log(offset=0.25).moments(np.array([0.4, -3.0]), np.array([0.3**2, 1e-14]))
    np.testing.assert_allclose(shifted, (mean - 0.25, variance), rtol=1e-13)


@pytest.mark.parametrize("transform", [Identity(), Log(), Log(0.7), Logit(-1.0, 3.0)])
def test_slopes_of_the_mean_are_central_differences(transform: Transform) -> None:
    mean, variance, step = np.array([[-0.8, 1.5]]), np.array([[0.6, 3.0]]), 1e-5
    by_mean, by_variance = transform.slopes(mean, variance)
    wanted = transform.moments(mean + step, variance)[0] - transform.moments(mean - step, variance)[0]
    np.testing.assert_allclose(by_mean, wanted / (2 * step), rtol=1e-7)
    wanted = transform.moments(mean, variance + step)[0] - transform.moments(mean, variance - step)[0]
    np.testing.assert_allclose(by_variance, wanted / (2 * step), rtol=1e-6, atol=1e-9)


def two_laws(transform: Transform) -> Mixture:
    return Mixture(np.array([[[-0.5]], [[0.9]]]), np.array([[[0.3]], [[0.05]]]), np.array([0.3, 0.7]), transform)


@pytest.mark.parametrize(
    ("transform", "ends"), [(Log(), (0.0, 40.0)), (Log(0.7), (-0.7, 39.3)), (Logit(-1.0, 3.0), (-1.0, 3.0))]
)
def test_density_probability_quantiles_and_moments_agree(transform: Transform, ends: tuple[float, float]) -> None:
    law = two_laws(transform)

    def density(y: float) -> float:
        return float(np.exp(law.log_density(np.array([[y]]))[0, 0]))

    def integral(function: object, low: float, high: float) -> float:
        pieces = transform.inverse(np.linspace(-6.0, 3.6, 30))
        inner = [low, *pieces[(pieces > low) & (pieces < high)], high]
        return float(sum(quad(function, a, b, epsabs=1e-13)[0] for a, b in zip(inner[:-1], inner[1:], strict=True)))

    assert integral(density, *ends) == pytest.approx(1.0, abs=1e-9)
    for level in (0.025, 0.4, 0.975):
        quantile = law.quantile(level)
        assert law.cdf(quantile)[0, 0] == pytest.approx(level, abs=1e-12)
        assert integral(density, ends[0], float(quantile[0, 0])) == pytest.approx(level, abs=1e-9)
    mean, variance = law.moments()
    first = integral(lambda y: y * density(y), *ends)
    assert mean[0, 0] == pytest.approx(first, abs=1e-7)
    assert variance[0, 0] == pytest.approx(integral(lambda y: (y - first) ** 2 * density(y), *ends), abs=1e-6)


def test_there_is_nothing_at_the_bounds_and_beyond() -> None:
    beyond = np.array([[-1.5]]), np.array([[-1.0]]), np.array([[3.0]]), np.array([[8.0]])
    law = two_laws(Logit(-1.0, 3.0))
    assert [float(law.cdf(y)[0, 0]) for y in beyond] == [0.0, 0.0, pytest.approx(1.0), pytest.approx(1.0)]
    assert [float(law.log_density(y)[0, 0]) for y in beyond] == [-np.inf] * 4
    assert float(two_laws(Log()).log_density(np.zeros((1, 1)))[0, 0]) == -np.inf
    assert float(two_laws(Log()).cdf(np.full((1, 1), -2.0))[0, 0]) == 0.0


# ----------------------------------------------------------------------------------------------------------- surrogates
def test_the_process_is_that_of_the_image() -> None:
    """Quantiles are the images of those of a surrogate that was fitted to the image."""
    prediction = fitted(hyperparameters="point").predict(POINTS)
    quantiles = prediction.quantile([0.025, 0.5, 0.975])
    np.testing.assert_allclose(quantiles["conc"], np.exp(quantiles["log_conc"]), rtol=1e-9)
    np.testing.assert_allclose(quantiles["share"], 100.0 * expit(quantiles["logit_share"]), rtol=1e-9)
    assert quantiles["conc"].attrs["unit"] == "mg/L"
    ends = prediction.interval(0.95)["share"]
    assert ((ends > 0.0) & (ends < 100.0)).all()


@pytest.mark.slow
def test_draws_stay_inside_and_have_the_moments_that_are_said(surrogate: GaussianProcessSurrogate) -> None:
    prediction, n = surrogate.predict(POINTS), 20_000
    draws = prediction.draws(n, rng=3)
    assert float(draws["conc"].min()) > 0.0
    assert float(draws["share"].min()) > 0.0
    assert float(draws["share"].max()) < 100.0
    for name in ("conc", "share"):
        sd = prediction.sd[name].values
        assert (np.abs(draws[name].mean("draw") - prediction.mean[name]) <= 4.5 * sd / np.sqrt(n) + 1e-12).all()
        error = draws[name].values - draws[name].values.mean(axis=0)
        mcse = np.std(error**2, axis=0) / np.sqrt(n)
        room = 0.1 * sd**2 + 1e-20  # function draws are not exact, and at hour 0 all is rounding
        assert (np.abs(np.mean(error**2, axis=0) - sd**2) <= 4.5 * mcse + room).all()
        assert (sd.reshape(len(sd), -1)[:, -1] > 0).all()  # at hour 0 the concentration is the same in every run


def test_the_covariance_of_log_normals_is_that_of_quadrature(surrogate: GaussianProcessSurrogate) -> None:
    prediction = surrogate.predict(POINTS)
    covariance = prediction.covariance("conc")
    np.testing.assert_allclose(np.einsum("amam->am", covariance), prediction.variance["conc"], rtol=1e-5)
    decoder, joint = surrogate.decode("conc"), surrogate.scores(prediction.u)
    nodes, weights = np.polynomial.hermite_e.hermegauss(30)
    weights /= weights.sum()
    for (a, m), (b, n) in (((0, 1), (2, 3)), ((1, 2), (1, 4))):
        first, both = np.zeros(2), 0.0
        for h in range(16):
            w = np.exp(joint.log_weights[h])
            mean = [(decoder.offset + joint.mean[h, i] @ decoder.basis.T)[k] for i, k in ((a, m), (b, n))]
            law = np.empty((2, 2))
            for i, (p, r) in enumerate(((a, m), (b, n))):
                for j, (s, t) in enumerate(((a, m), (b, n))):
                    law[i, j] = np.sum(decoder.basis[r] * joint.covariance[h, :, p, s] * decoder.basis[t])
                    law[i, j] += (p == s) * decoder.truncation[r] @ decoder.truncation[t]
            lower = np.linalg.cholesky(law + 1e-30 * np.eye(2))
            x = np.exp(mean[0] + lower[0, 0] * nodes)[:, None] * np.ones(30)
            y = np.exp(mean[1] + lower[1, 0] * nodes[:, None] + lower[1, 1] * nodes)
            each = weights[:, None] * weights
            first += w * np.array([np.sum(each * x), np.sum(each * y)])
            both += w * np.sum(each * x * y)
        assert covariance[a, m, b, n] == pytest.approx(both - first[0] * first[1], rel=1e-6)


def test_a_covariance_without_closed_form_is_refused(surrogate: GaussianProcessSurrogate) -> None:
    with pytest.raises(InputError, match=r"'share' .*Logit\(lower=0.0, upper=100.0\).*prediction.draws"):
        surrogate.predict(POINTS).covariance("share")


def test_the_mean_at_one_point_and_its_gradient(surrogate: GaussianProcessSurrogate) -> None:
    point = {"a": 0.4, "b": 0.3}
    got, wanted = surrogate.evaluate(point), surrogate.predict(point).mean
    for name in surrogate.layouts:
        np.testing.assert_allclose(got[name], wanted[name][0], rtol=1e-9)
    weights = {"conc": np.array([1.0, -0.5, 2.0, 0.0, 3.0]), "share": 0.7}
    slope, step = surrogate.gradient(point, weights), 1e-4
    for name in point:
        ends = [surrogate.evaluate(point | {name: point[name] + s * step}) for s in (-2, -1, 1, 2)]
        values = [sum(float(np.sum(end[key] * np.asarray(w))) for key, w in weights.items()) for end in ends]
        difference = (values[0] - 8.0 * values[1] + 8.0 * values[2] - values[3]) / (12.0 * step)
        assert slope[name] == pytest.approx(difference, rel=1e-5)


def test_left_out_and_held_out_runs_are_judged_in_their_own_unit() -> None:
    surrogate, others = fitted(hyperparameters="point"), runs(16, seed=2)
    for found in (uq.leave_one_out(surrogate, rng=1), held_out(surrogate, others, rng=1)):
        for name, image in (("conc", "log_conc"), ("share", "logit_share")):
            np.testing.assert_allclose(found.standardised[name], found.standardised[image], rtol=1e-6, atol=1e-8)
            assert found.table.loc[name, "coverage_95%"] == found.table.loc[image, "coverage_95%"]
            transform = surrogate.layouts[name].transform
            mean, variance = transform.moments(found.mean[image].values, found.sd[image].values ** 2)
            np.testing.assert_allclose(found.mean[name], mean, rtol=1e-8)
            np.testing.assert_allclose(found.sd[name], np.sqrt(variance), rtol=1e-6)
            np.testing.assert_allclose(found.observed[name], transform.inverse(found.observed[image].values), rtol=1e-9)
            for key in ("beyond_4", "mahalanobis", "largest_pivoted", "range_mahalanobis", "range_95%"):
                same = pytest.approx(found.table.loc[image, key], rel=1e-4, nan_ok=True)
                assert found.table.loc[name, key] == same
            np.testing.assert_allclose(found.pit[name], found.pit[image], rtol=1e-6, atol=1e-8)
            slope = transform.log_slope(found.observed[name].values).mean()
            assert found.table.loc[name, "log_score"] == pytest.approx(found.table.loc[image, "log_score"] + slope)
            error = found.observed[name].values - mean
            assert found.table.loc[name, "rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-8)
    np.testing.assert_allclose(found.observed["conc"], others["conc"], rtol=1e-10)
    at = {name: others[name].values for name in ("a", "b")}
    np.testing.assert_allclose(found.mean["share"], surrogate.predict(at).mean["share"], rtol=1e-8)


def test_a_surrogate_with_averaged_hyperparameters_is_judged_by_its_mixture(
    surrogate: GaussianProcessSurrogate,
) -> None:
    others = runs(8, seed=2)
    found = held_out(surrogate, others)
    prediction = surrogate.predict({name: others[name].values for name in ("a", "b")})
    for name in ("conc", "share"):
        np.testing.assert_allclose(found.mean[name], prediction.mean[name], rtol=1e-8)
        np.testing.assert_allclose(found.sd[name], prediction.sd[name], rtol=1e-6)


# ------------------------------------------------------------------------------------------------------ what is refused
def test_values_that_a_transform_does_not_take_name_run_and_value() -> None:
    design = uq.sobol(SPACE, 8, rng=1)
    share, states = np.linspace(0.2, 1.0, 8), ["completed"] * 8
    states[1] = "failed"
    share[1] = np.nan
    with pytest.raises(DataError, match=r"'y' is 1 in run 7; transform 'logit' requires values between 0 and 1; 1 run"):
        uq.GaussianProcess(outputs={"y": uq.Scalar(transform="logit")}).fit(
            uq.ensemble.build(design, {"y": share}, states=states)
        )
    curve = np.full((8, 3), 2.0) + design["a"].values[:, None]
    curve[5, 2], curve[6, 0] = 0.0, -1.0
    labelled = xr.DataArray(curve, dims=("run", "t"), coords={"t": [0.0, 0.5, 1.5]})
    with pytest.raises(DataError, match=r"'y' is 0 in run 5, t = 1.5; transform 'log' requires values above 0; 2 run"):
        uq.GaussianProcess(outputs={"y": uq.Curve(transform="log")}).fit(uq.ensemble.build(design, {"y": labelled}))


def test_held_out_runs_beyond_the_bounds_are_refused(surrogate: GaussianProcessSurrogate) -> None:
    others = runs(8, seed=2)
    others["share"][3] = 100.0
    with pytest.raises(DataError, match="'share' is 100 in run 3"):
        held_out(surrogate, others)


@pytest.mark.parametrize("given", ["sqrt", "Log", 3, Log, Identity(), ("log",)])
def test_a_transform_that_is_none_is_refused(given: object) -> None:
    with pytest.raises(InputError, match="transform is .*'log', 'logit'"):
        uq.Scalar(transform=given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="transform is"):
        uq.Curve(transform=given)  # type: ignore[arg-type]


@pytest.mark.parametrize("offset", ["0", None, np.nan, np.inf, True])
def test_an_offset_that_is_no_number_is_refused(offset: object) -> None:
    with pytest.raises(InputError, match="Log: offset is"):
        Log(offset)  # type: ignore[arg-type]


ABOVE = {"zero": uq.Curve(transform=Log(0.5)), "above": uq.Curve(transform="log")}


def reaching_zero() -> xr.Dataset:
    """Return runs of a curve that is zero somewhere, and of the same curve half a unit above."""
    ensemble = runs(16)
    zero = ensemble["conc"] - ensemble["conc"].min()
    both = ensemble[["a", "b"]].assign(zero=zero, above=zero + 0.5, state=ensemble["state"])
    return both.assign_attrs(ensemble.attrs)


def test_an_offset_takes_zeros_and_moves_the_bound() -> None:
    """A surrogate of log(y + c) is the one of log(x), x = y + c, shifted: draws, moments and covariances are."""
    both = reaching_zero()
    found = uq.GaussianProcess(outputs=ABOVE, hyperparameters="point").fit(both).predict(POINTS)
    for got in (found.mean, found.quantile([0.1, 0.9])):
        np.testing.assert_allclose(got["zero"] + 0.5, got["above"], rtol=1e-10)
    np.testing.assert_allclose(found.sd["zero"], found.sd["above"], rtol=1e-10)
    np.testing.assert_allclose(found.covariance("zero"), found.covariance("above"), rtol=1e-9, atol=1e-12)
    assert float(found.draws(50, rng=1)["zero"].min()) > -0.5
    with pytest.raises(DataError, match=r"transform 'shifted log' requires values above -0.1.*uq.Log\(offset"):
        uq.GaussianProcess(outputs={"zero": uq.Curve(transform=Log(0.1))}).fit(both.assign(zero=both["zero"] - 0.2))


def test_the_likelihood_through_an_offset_is_that_of_the_output_above_it() -> None:
    """Noise and data of y + c through its logarithm are those of y through log(y + c): value and gradient."""
    both = reaching_zero()
    surrogate = uq.GaussianProcess(outputs=ABOVE, hyperparameters="point").fit(both)
    theta = {"a": np.array([0.2, 0.5, 0.8]), "b": np.array([0.6, 0.3, 0.9])}
    found = []
    for name, more in (("zero", 0.0), ("above", 0.5)):
        values = both["zero"].values[3] + 0.5 + more
        data = xr.DataArray(values, dims="hour", coords={"hour": HOURS}, name=name)
        problem = uq.Calibration(surrogate, data, uq.GaussianNoise(sd=2.0))
        model = problem.model()
        value, slope = model.compile_logp(), model.compile_dlogp()
        start = model.initial_point()
        found.append([problem.log_likelihood(theta), value(start), slope(start)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_log_normal_noise_needs_the_logarithm_itself() -> None:
    fitted_to = uq.GaussianProcess(outputs={"share": uq.Scalar(transform=Log(0.5))}, hyperparameters="point").fit(
        runs(12)[["a", "b", "share", "state"]].assign_attrs(runs(12).attrs)
    )
    with pytest.raises(InputError, match="its surrogate is not one of the logarithm"):
        uq.Calibration(fitted_to, xr.DataArray(40.0, name="share"), uq.LogNormalNoise(0.1))


@pytest.mark.parametrize("bounds", [(0.0, 0.0), (1.0, 0.0), (0.0, np.inf), (np.nan, 1.0), ("0", 1.0), (False, True)])
def test_bounds_that_cannot_be_meant_are_refused(bounds: tuple[object, object]) -> None:
    with pytest.raises(InputError, match="Logit: "):
        Logit(*bounds)  # type: ignore[arg-type]


def test_a_value_of_many_orders_of_magnitude_needs_no_warning_when_its_logarithm_is_taken() -> None:
    design = uq.sobol(SPACE, 16, rng=1)
    y = 10.0 ** (30.0 * design["a"].values)
    surrogate = uq.GaussianProcess(outputs={"y": uq.Scalar(transform="log")}).fit(uq.ensemble.build(design, {"y": y}))
    assert float(surrogate.predict({"a": 0.5, "b": 0.5}).quantile(0.5)["y"].item()) == pytest.approx(1e15, rel=0.05)


# ------------------------------------------------------------------------------------------------------------- on disk
def test_transforms_are_saved(surrogate: GaussianProcessSurrogate, tmp_path: Path) -> None:
    surrogate.save(tmp_path / "x.npz")
    same = uq.load_surrogate(tmp_path / "x.npz")
    assert [layout.transform for layout in same.layouts.values()] == [Log(), PERCENT, Identity(), Identity()]
    a, b = surrogate.predict(POINTS), same.predict(POINTS)
    assert a.mean.identical(b.mean)
    assert a.quantile([0.1, 0.9]).identical(b.quantile([0.1, 0.9]))
    with np.load(tmp_path / "x.npz") as held:
        header = json.loads(held["header"].tobytes())
    assert header["version"] == 4
    assert header["outputs"][1]["transform"] == {"name": "logit", "lower": 0.0, "upper": 100.0}


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"name": "sqrt"},
        {"name": "log", "lower": 0.0},
        {"name": "logit", "lower": 1.0, "upper": 0.0},
        {"name": "logit", "lower": "0"},
        {"name": ["log"]},
        "log",
        None,
    ],
)
def test_saved_transforms_that_are_none_are_a_format_error(
    broken: object, surrogate: GaussianProcessSurrogate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "to_dict", lambda transform: broken)
    surrogate.save(tmp_path / "x.npz")
    with pytest.raises(FormatError, match="describes no surrogate"):
        uq.load_surrogate(tmp_path / "x.npz")


def test_names_and_settings_come_back() -> None:
    for transform in (Log(), Log(0.5), Log(-3), Logit(), Logit(-2, 3.5)):
        assert from_dict(json.loads(json.dumps(to_dict(transform)))) == transform
    assert [as_transform(given) for given in (None, "log", "logit", PERCENT)] == [Identity(), Log(), Logit(), PERCENT]


# --------------------------------------------------------------------------------------------------------- calibration
def test_observations_of_a_transformed_output_are_taken_and_its_tensor_is_refused(
    surrogate: GaussianProcessSurrogate,
) -> None:
    # Noise on the output's own scale, the surrogate's error on the logit's: normal to first order, or sampled.
    data, noise = xr.DataArray(40.0, name="share"), uq.GaussianNoise(sd=1.0)
    assert uq.Calibration(surrogate, data, noise=noise).data_model.form == "correlated"
    assert uq.Calibration(surrogate, data, noise=noise, expansion="none").data_model.form == "latent"
    theta = {"a": 0.4, "b": 0.3}
    with pytest.raises(InputError, match=r"as_tensor: the surrogate of 'conc' .*transform Log\(\)"):
        uq.as_tensor(surrogate, theta, output="conc")
    assert uq.as_tensor(surrogate, theta, output="logit_share").mean.ndim == 2
    uq.Calibration(surrogate, xr.DataArray(0.4, name="logit_share"), noise=uq.GaussianNoise(sd=1.0))

"""Predictions of subjects against the exact conditional law; a new subject against quadrature."""

import numpy as np
import pandas as pd
import pymc as pm
import pytensor
import pytest
import xarray as xr
from calibration.population.test_population import COVARIATES, SPACE, observations, problem, surrogate, table
from scipy.stats import norm
from scipy.stats import t as student

import uqms as uq
from uqms.calibration.population.covariances import ProcessCovariances
from uqms.calibration.population.shared_error import SharedError
from uqms.calibration.population.subject import NewData, _inputs
from uqms.calibration.population.subject_prediction import Measured, Shared, featured, some_inputs, subjects_of
from uqms.calibration.posterior import Posterior
from uqms.calibration.predict import Targets, conditional_moments, own_cells
from uqms.errors import ExtrapolationError, ExtrapolationWarning, InputError


def posterior_of(one: uq.PopulationCalibration, draws: int, seed: int = 3) -> Posterior:
    """Return draws around the truth that data were made with: what is tested holds for any, and these fit the data."""
    rng = np.random.default_rng(seed)
    truth, z0 = one.prior_draws(1, rng), rng.standard_normal((1, one.latents))
    truth["sigma"] = np.array([0.2])
    one = one.with_values(one.simulate(truth, rng, z0)[0])
    other = one.prior_draws(draws, rng)
    theta = {name: truth[name] + 0.2 * (values - values.mean()) for name, values in other.items()}
    theta |= {
        name: truth[name] * np.exp(0.2 * rng.standard_normal(draws)) for name in theta if name.startswith("omega")
    }
    theta["sigma"] = truth["sigma"] * np.exp(0.1 * rng.standard_normal(draws))
    theta |= {name: np.clip(values, 0.05, 0.95) for name, values in theta.items() if name.startswith("lkj")}
    z = z0 + 0.2 * rng.standard_normal((draws, one.latents))
    groups = {
        "posterior": xr.Dataset({name: (("chain", "draw"), values[None]) for name, values in theta.items()}),
        "latents": xr.Dataset({"value": (("chain", "draw", "latent"), z[None])}),
    }
    return Posterior(xr.DataTree.from_dict(groups), one, None, None)  # type: ignore[arg-type]


def exact_error(one: uq.PopulationCalibration, u: np.ndarray) -> SharedError:
    """Return features that are exact at the given inputs (n, d)."""
    return SharedError.through(ProcessCovariances(one.surrogate.process), u)


@pytest.fixture(scope="module")
def fixed() -> tuple[uq.PopulationCalibration, Shared, np.ndarray]:
    """Return 20 000 copies of one draw, with the shared error drawn given the data, and a new input."""
    one = problem()
    rng, S = np.random.default_rng(7), 20_000
    theta = {name: np.repeat(values, S) for name, values in one.prior_draws(1, 4).items()}
    z = np.repeat(rng.standard_normal((1, one.latents)), S, axis=0)
    own = one.individuals(theta, z)
    single = {name: values[:1] for name, values in own.items()}
    u = one.data.unit_inputs(single)
    extra = one.data.unit_inputs(single, np.array([[0.9]]), units=np.array([1]))
    error = exact_error(one, np.concatenate([u[0], extra[0]]))
    sigma = one.data.noise.phi(single, (1,))[:, :1]
    law = featured(one.data.data_model, error, np.arange(error.q), one.data.cells.unit).condition(
        u, sigma, one.data.cells.z
    )
    step = np.linalg.solve(law.factor[0, 0].T, rng.standard_normal((law.mean.shape[2], S))).T
    shared = Shared(one, theta, own, z, np.zeros(S, dtype=int), law.mean[0, 0] + step, error)
    return one, shared, np.repeat(extra, S, axis=0)


@pytest.mark.parametrize("where", ["measured", "other condition"])
def test_draws_have_the_exact_conditional_law(fixed: tuple, where: str) -> None:
    """At a measured input (its own cells count beside those of all others), and at another condition of a subject."""
    one, shared, extra = fixed
    t = np.array([0.0, 1.0, 2.0])
    decoder = one.surrogate.decode("y", {"t": t})
    if where == "measured":
        k = int(np.flatnonzero(one.data.cells.unit == 2)[0])
        u, measured = one.data.unit_inputs(shared.own)[:, [k]], Measured.of(one.data.cells, np.array([k]))
        conditions, unit = one.data.cells.conditions[[k]], np.array([2])
    else:
        u, measured = extra, Measured.of(one.data.cells, np.array([-1]))
        conditions, unit = np.array([[0.9]]), np.array([1])
    mean, variance, draws = shared.predict(u, measured, decoder, np.random.default_rng(1))
    targets = Targets(
        conditions, np.zeros(3, dtype=int), np.full(3, "y"), {"t": t}, *decoder, unit=unit, observed=np.array([-1])
    )
    single = {name: values[:1] for name, values in shared.own.items()}
    ((_, moments),) = conditional_moments(one.data, single, np.zeros(1, dtype=int), targets)
    sd = np.sqrt(np.diagonal(moments.covariance[0]))
    S = len(draws)
    np.testing.assert_allclose(draws[:, 0].mean(axis=0), moments.mean[0], atol=4 * sd.max() / np.sqrt(S))
    np.testing.assert_allclose(np.cov(draws[:, 0].T), moments.covariance[0], atol=6 * sd.max() ** 2 / np.sqrt(S))
    total = variance[:, 0].mean(axis=0) + mean[:, 0].var(axis=0)
    np.testing.assert_allclose(total, sd**2, rtol=0.05)


def test_the_error_given_the_data_is_smaller(fixed: tuple) -> None:
    """Fresh draws of the shared error would make bands too wide."""
    one, shared, _ = fixed
    fresh = np.random.default_rng(1).standard_normal(shared.w.shape)
    assert shared.w.var(axis=0).sum() < 0.9 * fresh.var(axis=0).sum()


def test_scores_are_the_same_a_few_draws_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = posterior_of(problem(), 30).hierarchy.shared
    u = shared.problem.data.unit_inputs(shared.own)
    whole = shared.scores(u)
    monkeypatch.setattr("uqms.calibration.population.subject_prediction.NUMBERS", 2000)
    for one, other in zip(whole, shared.scores(u), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15)  # variances are differences of larger numbers


def test_predictions_of_subjects_are_labelled() -> None:
    one = problem()
    found = posterior_of(one, 60)
    several = found.predict(coords={"t": [0.0, 1.5]}, draws=40)
    assert several.mean["y"].dims == ("input", "t")  # the first subject was measured under two conditions
    assert list(several.mean["subject"].values) == ["s0", "s0", "s1", "s2", "s3", "s4"]
    other = found.predict(subjects=["s3", "s1"], conditions={"x": [0.4, 0.1]}, draws=40, noise=True)
    assert other.mean["y"].dims == ("subject", "t")
    assert list(other.mean["subject"].values) == ["s3", "s1"]
    assert other.draws["y"].shape == (40, 2, 3)
    assert other.holds == ("parameters", "surrogate", "noise")
    again = found.predict(subjects=["s3", "s1"], conditions={"x": [0.4, 0.1]}, draws=40, noise=True)
    xr.testing.assert_identical(other.draws, again.draws)
    with pytest.raises(InputError, match="unknown subjects \\['zz'\\]"):
        found.predict(subjects="zz")
    with pytest.raises(InputError, match="got conditions"):
        found.predict(conditions={"dose": 1.0})
    with pytest.raises(InputError, match="one for each of 5"):
        found.predict(conditions={"x": [0.1, 0.2]})
    with pytest.raises(ExtrapolationError, match="outside"):
        found.predict(conditions={"x": 3.0})


def one_parameter(tails: dict | None = None) -> uq.PopulationCalibration:
    population = uq.Population(
        SPACE, individual=("a",), covariates={"a": {"female": 0.05}}, spread=uq.HalfNormal(0.1), tails=tails or {}
    )
    noise = uq.GaussianNoise(sd=uq.HalfNormal(0.3))
    return uq.Calibration(
        surrogate(), observations(table()), noise, population=population, subjects=COVARIATES, outside="extrapolate"
    )


def new_table() -> pd.DataFrame:
    return pd.DataFrame({"t": [0.0, 2.0, 1.0], "x": [0.3, 0.3, 0.8], "y": [0.9, 0.2, 0.7]})


def new_observations(rows: int = 3) -> uq.Observations:
    return uq.Observations.from_table(new_table()[:rows], output="y", value="y", coords={"t": "t"}, conditions=["x"])


@pytest.mark.parametrize("tails", [pytest.param({}, marks=pytest.mark.slow), {"a": 3.0}])
def test_a_new_subject_is_weighted_as_quadrature_says(tails: dict) -> None:
    """With the draws of the population as they are, its parameter is one number: a sum over a grid, draw by draw."""
    one = one_parameter(tails)
    found = posterior_of(one, 200)
    shared = found.hierarchy.shared
    subject = found.new_subject(new_observations(), covariates={"female": 1.0}, rng=2)
    assert subject.k_hat < 0.7
    data = NewData(found, new_observations())
    measured = Measured.of(data.cells, np.arange(data.cells.experiments))
    law = student(3.0) if tails else norm
    grid = law.ppf((np.arange(1000) + 0.5) / 1000)  # of equal prior mass
    omega = shared.theta["omega_a"]
    logs = np.empty((len(grid), len(omega)))
    for i, x in enumerate(grid):
        natural = (shared.theta["a"] + 0.05 + omega * x)[:, None, None]
        u = _inputs(shared, natural, data.cells.conditions, data.cells.unit)
        logs[i] = shared.log_likelihood(u, measured).sum(axis=1)
    weight = np.exp(logs - logs.max())
    value = shared.theta["a"] + 0.05 + omega * grid[:, None]
    mean = np.sum(weight * value) / weight.sum()
    sd = np.sqrt(np.sum(weight * (value - mean) ** 2) / weight.sum())
    draws = subject.draws["a"].values.ravel()
    assert draws.mean() == pytest.approx(mean, abs=4 * sd / np.sqrt(subject.ess))
    assert draws.std() == pytest.approx(sd, rel=4 / np.sqrt(subject.ess))
    of_population = np.sum(weight * omega) / weight.sum()  # the population learns from the new subject too
    assert subject.shared.theta["omega_a"].mean() == pytest.approx(
        of_population, abs=4 * omega.std() / np.sqrt(min(subject.ess, 200))
    )


def test_measurements_one_by_one_or_at_once() -> None:
    found = posterior_of(one_parameter(), 300)
    at_once = found.new_subject(new_observations(), covariates={"female": 0.0}, rng=1)
    nothing = found.new_subject(covariates={"female": 0.0}, rng=1)
    first = nothing.update(new_observations(1), rng=1)
    last = first.update(
        uq.Observations.from_table(new_table()[1:], output="y", value="y", coords={"t": "t"}, conditions=["x"]), rng=1
    )
    a, b = at_once.draws["a"].values, last.draws["a"].values
    assert len(last.observations) == 3
    assert a.mean() == pytest.approx(b.mean(), abs=4 * a.std() * np.sqrt(2 / min(at_once.ess, last.ess)))
    sds = [one.draws["a"].values.std() for one in (nothing, first, last)]
    room = 1.0 - 4.0 / np.sqrt(2.0 * np.array([min(nothing.ess, first.ess), min(first.ess, last.ess)]))
    assert sds[0] > sds[1] * room[0]
    assert sds[1] > sds[2] * room[1]


def test_a_new_subject_is_predicted() -> None:
    found = posterior_of(one_parameter(), 300)
    subject = found.new_subject(new_observations(), covariates={"female": 0.0}, rng=1)
    own = subject.predict()
    assert own.mean["y"].dims == ("condition", "t")
    other = subject.predict(conditions={"x": 0.5}, coords={"t": [1.0]}, noise=True)
    assert other.mean["y"].dims == ("t",)
    before = found.new_subject(covariates={"female": 0.0}).predict(conditions={"x": 0.3}, coords={"t": [0.0]})
    after = subject.predict(conditions={"x": 0.3}, coords={"t": [0.0]})
    assert float(after.sd["y"][0]) < float(before.sd["y"][0])
    with pytest.raises(InputError, match="which conditions"):
        found.new_subject(covariates={"female": 0.0}).predict()


def test_new_subjects_that_are_refused() -> None:
    found = posterior_of(one_parameter(), 50)
    with pytest.raises(InputError, match="give all of \\['female'\\]"):
        found.new_subject(new_observations())
    with pytest.raises(InputError, match="5 subjects"):
        found.new_subject(observations(table()), covariates={"female": 0.0})
    frame = new_table().assign(x=2.0)
    bad = uq.Observations.from_table(frame, output="y", value="y", coords={"t": "t"}, conditions=["x"])
    with pytest.raises(ExtrapolationError):
        found.new_subject(bad, covariates={"female": 0.0})


def test_occasions_of_a_new_subject() -> None:
    """Two visits share the subject's effect; a prediction is one of a third visit."""
    one = problem(occasions=("a",))
    found = posterior_of(one, 200)
    frame = pd.concat([new_table().assign(visit="v0"), new_table().assign(visit="v1")])
    data = uq.Observations.from_table(
        frame, output="y", value="y", coords={"t": "t"}, conditions=["x"], experiment="visit"
    )
    subject = found.new_subject(data, covariates={"weight": 70.0, "female": 1.0}, rng=1)
    assert subject.predict().mean["y"].sizes["condition"] == 4
    assert subject.predict(conditions={"x": 0.4}).mean["y"].dims == ("t",)


def test_new_rows_are_those_of_the_cells(fixed: tuple) -> None:
    """New measurements of the same rows: the exact conditional law of the cells, and noise."""
    one, shared, _ = fixed
    rows = shared.new_rows(np.random.default_rng(3))
    single = {name: values[:1] for name, values in shared.own.items()}
    ((_, moments),) = conditional_moments(one.data, single, np.zeros(1, dtype=int), own_cells(one.data.cells))
    cells = one.data.cells
    sigma = float(shared.theta["sigma"][0])
    sd = np.sqrt(np.diagonal(moments.covariance[0]) + sigma**2)[cells.row_cell]
    S = len(rows)
    np.testing.assert_allclose(rows.mean(axis=0), moments.mean[0][cells.row_cell], atol=4.5 * sd.max() / np.sqrt(S))
    np.testing.assert_allclose(rows.std(axis=0), sd, rtol=4.5 / np.sqrt(2 * S))


def test_a_new_subject_without_data_stays_inside_of_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one in the table who was not measured: the law of each draw of the population is cut at the box."""
    population = uq.Population(SPACE, individual=("a",), spread=0.4)
    noise = uq.GaussianNoise(sd=uq.HalfNormal(0.3))
    monkeypatch.setattr("uqms.calibration.construction._is_refined", lambda _: True)
    one = uq.Calibration(surrogate(), observations(table()), noise, population=population, outside="refined")
    found = posterior_of(one, 400)
    subject = found.new_subject(rng=1)
    draws = subject.draws["a"].values.ravel()
    grid = np.linspace(-2.0, 3.0, 5001)
    wall = -0.5 * ((np.maximum(-grid, 0.0) + np.maximum(grid - 1.0, 0.0)) / 0.01) ** 2
    laws = norm.pdf(grid, found.hierarchy.shared.theta["a"][:, None], 0.4) * np.exp(wall)
    weight = np.sum(laws / laws.sum(axis=1, keepdims=True), axis=0)
    mean = np.sum(weight * grid) / weight.sum()
    sd = np.sqrt(np.sum(weight * (grid - mean) ** 2) / weight.sum())
    assert draws.mean() == pytest.approx(mean, abs=4 * sd / np.sqrt(len(draws)))
    assert draws.std() == pytest.approx(sd, rel=4 / np.sqrt(2 * len(draws)))
    assert draws.min() > -0.06
    assert draws.max() < 1.06


def refined(monkeypatch: pytest.MonkeyPatch, labels: int) -> uq.PopulationCalibration:
    """Return a population whose prior reaches beyond the box, with `labels` subjects without data."""
    population = uq.Population(SPACE, individual=("a",), spread=uq.HalfNormal(0.4))
    monkeypatch.setattr("uqms.calibration.construction._is_refined", lambda _: True)
    subjects = pd.DataFrame(index=[*(f"s{j}" for j in range(5)), *(f"new{j}" for j in range(labels))])
    return uq.Calibration(
        surrogate(),
        observations(table()),
        uq.GaussianNoise(sd=0.2),
        population=population,
        subjects=subjects,
        outside="refined",
        without_data="predict",
    )


def test_subjects_without_data_do_not_weigh_the_population(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its density is that without them, whatever they are; their draws are the law of each draw, cut at the box."""
    without, more = refined(monkeypatch, 0), refined(monkeypatch, 3)
    rng = np.random.default_rng(1)
    theta, z = without.prior_draws(6, rng), 2.0 * rng.standard_normal((6, 5))
    wanted = without.log_likelihood(theta, z)
    far = np.concatenate([z, np.full((6, 3), 30.0)], axis=1)
    np.testing.assert_allclose(more.log_likelihood(theta, far), wanted, rtol=1e-12)
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        model = more.model()
        wall = model.compile_logp(vars=model.potentials, jacobian=False)
    point = dict(zip((one.name for one in model.value_vars), model.initial_point().values(), strict=True))
    moved = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 50.0, 0.0, 0.0])
    assert float(wall(point | {"effect_a": moved})) == pytest.approx(0.0, abs=1e-12)
    assert float(wall(point | {"effect_a": moved[::-1].copy()})) < -100.0  # the third one has data
    S = 20_000
    one = {"a": np.full(S, 0.7), "omega_a": np.full(S, 0.4), "b": np.full(S, 0.4), "c": np.full(S, 0.5)}
    inside = more.latents_inside(one, np.zeros((S, 8)), rng)
    assert (inside[:, :5] == 0.0).all()  # those that have data stay where they are
    a = 0.7 + 0.4 * inside[:, 5:]
    grid = np.linspace(-2.0, 3.0, 5001)
    weight = norm.pdf(grid, 0.7, 0.4) * np.exp(
        -0.5 * ((np.maximum(-grid, 0.0) + np.maximum(grid - 1.0, 0.0)) / 0.01) ** 2
    )
    mean = np.sum(weight * grid) / weight.sum()
    sd = np.sqrt(np.sum(weight * (grid - mean) ** 2) / weight.sum())
    np.testing.assert_allclose(a.mean(axis=0), mean, atol=4.0 * sd / np.sqrt(S))
    np.testing.assert_allclose(a.std(axis=0), sd, rtol=4.0 / np.sqrt(2 * S))
    nobody = {**one, "a": np.full(S, 30.0)}
    with pytest.warns(ExtrapolationWarning, match="100.0% of the draws of subjects without data"):
        more.latents_inside({name: values[:50] for name, values in nobody.items()}, np.zeros((50, 8)), rng)


class Given:
    """A sampler that returns the draws it was given."""

    def __init__(self, theta: dict[str, np.ndarray], z: np.ndarray) -> None:
        self.theta, self.z = theta, z

    def run(self, problem: object, seed: int) -> xr.DataTree:
        draws = {name: (("chain", "draw"), values.reshape(2, -1)) for name, values in self.theta.items()}
        draws["latents"] = (("chain", "draw", "latent"), self.z.reshape(2, -1, self.z.shape[1]))
        return xr.DataTree.from_dict({"posterior": xr.Dataset(draws)})


@pytest.mark.filterwarnings("ignore::uqms.errors.UqmsWarning")
def test_draws_of_subjects_without_data_are_in_the_design_box_and_the_others_as_sampled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = refined(monkeypatch, 2)
    rng = np.random.default_rng(3)
    theta = {name: rng.uniform(0.45, 0.55, 40) for name in one.priors}
    z = np.concatenate([0.1 * rng.standard_normal((40, 5)), np.full((40, 2), 30.0)], axis=1)
    found = one.sample(Given(theta, z), rng=1)
    own = found.individuals["a"].values.reshape(40, 7)
    np.testing.assert_allclose(own[:, :5], theta["a"][:, None] + theta["omega_a"][:, None] * z[:, :5], rtol=1e-12)
    assert ((own[:, 5:] > -0.1) & (own[:, 5:] < 1.1)).all()  # the wall is a hundredth of the box
    np.testing.assert_array_equal(found.latents[:, :5], z[:, :5])
    labels = [f"s{j}" for j in range(5)]
    assert list(found.tree["log_likelihood"]["subject"].values) == labels
    assert found.subjects == (*labels, "new0", "new1")
    assert found.tree["prior_predictive"].dataset.sizes["draw"] == 100


def test_a_condition_that_differs_by_rounding_is_the_measured_one() -> None:
    """The patient's own curve counts there: 0.1 + 0.2 is 0.3."""
    subject = posterior_of(one_parameter(), 60).new_subject(new_observations(), covariates={"female": 1.0}, rng=1)
    exact, close, other = (
        subject.predict(conditions={"x": x}, coords={"t": [0.0]}).sd["y"].item() for x in (0.3, 0.1 + 0.2, 0.3 + 1e-6)
    )
    assert close == pytest.approx(exact, rel=1e-9)
    assert other > 1.001 * exact


def test_draws_of_a_subject_go_through_propagate() -> None:
    found = posterior_of(one_parameter(), 60)
    patient = found.new_subject(new_observations(), covariates={"female": 1.0}, rng=1)
    for posterior in (found, patient):
        with pytest.raises(InputError, match="specify whose parameters"):
            uq.propagate(posterior)
    given = {"conditions": {"x": 0.3}, "coords": {"t": [0.0, 1.0]}, "rng": 1}
    result = uq.propagate(found.problem.surrogate, patient.draws, outside="extrapolate", **given)
    surrogate = found.problem.surrogate
    x = np.column_stack([patient.draws[name].values.ravel() for name in ("a", "b", "c")] + [np.full(4000, 0.3)])
    scores = surrogate.scores(surrogate.domain.to_unit(x)[:, None])
    offset, basis, _ = surrogate.decode("y", {"t": np.array([0.0, 1.0])})
    wanted = offset + (scores.mean[0, :, 0] @ basis.T).mean(axis=0)
    sd = np.sqrt((scores.covariance[0, :, :, 0, 0] @ (basis**2).T).mean(axis=0))
    np.testing.assert_allclose(result.mean["y"], wanted, atol=4.0 * sd.max() / np.sqrt(64))  # functions drawn
    for source in (found, found.problem):
        with pytest.raises(InputError, match="integral over all its subjects"):
            uq.diagnostics.profile_likelihood(source, "a")


def test_what_takes_one_subject_says_where_to_go() -> None:
    one = problem()
    found = posterior_of(one, 40)
    for call, message in (
        (lambda: uq.compare_models({"a": found, "b": found}), "posteriors of one subject"),
        (lambda: uq.plots.pairs(found), "plots.individuals"),
        (lambda: uq.plots.predictive(found), "plots.individual_fits"),
        (lambda: uq.diagnostics.identifiability(found), "shrinkage"),
        (lambda: uq.diagnostics.predictive_check(found, np.max), "visual_predictive_check"),
        (lambda: one.maximum_a_posteriori(), "Sample it"),
        (lambda: found.predict(subjects=(), conditions={"x": 0.3}), "subjects is empty"),
        (lambda: found.predict(subjects=1, conditions={"x": 0.3}), "unknown subjects \\['1'\\]"),
        (lambda: found.new_subject(covariates=[70.0]), "by column name"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    with pm.Model(), pytest.raises(InputError, match="one subject"):
        uq.latent_output(one, {}, own_priors=True)


def test_features_are_measured_by_whole_subjects(monkeypatch: pytest.MonkeyPatch) -> None:
    data = problem().data
    subject = subjects_of(data)
    np.testing.assert_array_equal(some_inputs(data), np.arange(len(subject)))
    monkeypatch.setattr("uqms.calibration.population.subject_prediction.BLOCK", len(subject) // 2)
    assert subject.tolist() == [1, 0, 2, 3, 4, 0]
    assert some_inputs(data).tolist() == [1, 4, 5]  # both inputs of the first subject, and the last subject's

"""The law of a population against closed forms, and its likelihood against brute force."""

import warnings
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytensor
import pytest
from calibration.problems import given_surrogate
from scipy.stats import kstest, multivariate_normal, norm
from scipy.stats import t as student

import uqms as uq
from uqms.calibration import bridge
from uqms.calibration.population.layout import Layout
from uqms.calibration.population.subject_checks import _check_edge
from uqms.calibration.population.terms import subject_terms
from uqms.errors import DataError, DataWarning, ExtrapolationError, InputError
from uqms.parameters.functions import NumPyFunctions

SPACE = uq.ParameterSpace(
    a=uq.Normal(0.5, 0.05),
    b=uq.LogNormal(median=0.4, sigma=0.1),
    c=uq.Uniform(0.2, 0.8),
    conditions={"x": uq.Condition(0.0, 1.0)},
)


def surrogate(runs: int = 12) -> object:
    """Return a surrogate of a curve with two scores whose errors are as large as the noise."""
    rng = np.random.default_rng(3)
    x = rng.random((runs, 4))
    scores = np.column_stack([np.sin(3.0 * x[:, 0]) + x[:, 1] * x[:, 3], x[:, 2] - x[:, 0] * x[:, 3]])
    basis = np.array([[1.0, 0.2], [0.5, 0.7], [0.1, 1.0]])
    truncation = np.array([[0.05], [0.0], [0.03]])
    names = ("a", "b", "c", "x")
    return given_surrogate(x, scores, basis=basis, truncation=truncation, names=names, ell=0.8, space=SPACE)


def table(subjects: int = 5, seed: int = 1, occasions: int = 1) -> pd.DataFrame:
    """Return measurements: different times for each subject, one of them under two conditions."""
    rng, rows = np.random.default_rng(seed), []
    for j in range(subjects):
        for visit in range(occasions):
            for k, x in enumerate([0.2, 0.7] if j == 0 else [0.1 * j]):
                for t in [0.0, 1.0, 2.0][: 2 + (j + k) % 2]:
                    rows.append({"id": f"s{j}", "t": t, "x": x, "y": rng.normal(0.5, 0.3), "visit": f"v{visit}"})
    return pd.DataFrame(rows)


def observations(frame: pd.DataFrame) -> uq.Observations:
    return uq.Observations.from_table(
        frame, output="y", value="y", coords={"t": "t"}, conditions=["x"], subject="id", experiment="visit"
    )


COVARIATES = pd.DataFrame(
    {"weight": [60.0, 70.0, 80.0, 90.0, 65.0], "female": [0, 1, 1, 0, 1]}, index=[f"s{j}" for j in range(5)]
)


def problem(**settings: object) -> uq.PopulationCalibration:
    population = uq.Population(
        SPACE,
        individual=("a", "b"),
        covariates={"b": {"log(weight / 70)": uq.Normal(0.0, 0.1), "female": 0.1}},
        spread={"a": uq.HalfNormal(0.05), "b": uq.HalfNormal(0.1)},
        correlated=True,
        **settings,
    )
    occasions = 2 if population.occasions else 1
    return uq.Calibration(
        surrogate(),
        observations(table(occasions=occasions)),
        uq.GaussianNoise(sd=uq.HalfNormal(0.3)),
        population=population,
        subjects=COVARIATES,
        outside="extrapolate",
    )


def by_hand(one: uq.PopulationCalibration, theta: dict[str, float], z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of the rows, each row's input from the definition of the population."""
    occasions = one.population.occasions
    x = z[:10].reshape(5, 2)
    y = z[10:].reshape(-1, 1) if occasions else None
    r = 2.0 * theta["lkj_b_a"] - 1.0
    log_weight = np.log(COVARIATES["weight"].to_numpy() / 70.0)
    data, s = one.observations, one.surrogate
    units = {}
    u = []
    for i in range(len(data)):
        j, visit = int(data.subject[i][1:]), data.experiment[i]
        a = theta["a"] + theta["omega_a"] * x[j, 0]
        if occasions:
            units.setdefault((j, visit), len(units))
            order = sorted({(int(data.subject[k][1:]), data.experiment[k]) for k in range(len(data))})
            a += theta["omega_a_occasion"] * y[order.index((j, visit)), 0]
        log_b = np.log(theta["b"]) + theta["beta_b_weight"] * log_weight[j] + 0.1 * COVARIATES["female"].iloc[j]
        log_b += theta["omega_b"] * (r * x[j, 0] + np.sqrt(1.0 - r**2) * x[j, 1])
        u.append([a, np.exp(log_b), theta["c"], data.conditions["x"][i]])
    u = np.array(u)
    scores = s.scores(u[None])
    decoder = s.decode("y", {"t": data.coords["t"]})
    mean = decoder.offset + np.sum(decoder.basis * scores.mean[0, 0], axis=1)
    covariance = np.zeros((len(u), len(u)))
    for j in range(2):
        covariance += scores.covariance[0, 0, j] * np.outer(decoder.basis[:, j], decoder.basis[:, j])
    same = (u[:, None] == u[None]).all(axis=2)
    covariance += same * (decoder.truncation @ decoder.truncation.T) + theta["sigma"] ** 2 * np.eye(len(u))
    return mean, covariance


@pytest.mark.parametrize("settings", [{}, {"occasions": ("a",)}])
def test_the_likelihood_is_that_of_the_definition(settings: dict) -> None:
    one = problem(**settings)
    theta, z = one.prior_draws(4, 2), np.random.default_rng(5).standard_normal((4, one.latents))
    found = one.log_likelihood(theta, z)
    for i in range(4):
        mean, covariance = by_hand(one, {name: values[i] for name, values in theta.items()}, z[i])
        wanted = multivariate_normal(mean, covariance).logpdf(one.observations.value)
        assert found[i] == pytest.approx(wanted, rel=1e-8)


def test_errors_of_different_subjects_are_correlated() -> None:
    """The mistake that makes a population's mean confidently wrong: no covariance between subjects."""
    one = problem()
    theta, z = one.prior_draws(1, 2), np.random.default_rng(5).standard_normal((1, one.latents))
    mean, covariance = by_hand(one, {name: values[0] for name, values in theta.items()}, z[0])
    apart = one.observations.subject[:, None] != one.observations.subject[None]
    assert abs(covariance[apart]).max() > 0.1 * np.diagonal(covariance).min()
    mutant = multivariate_normal(mean, np.where(apart, 0.0, covariance)).logpdf(one.observations.value)
    assert abs(one.log_likelihood(theta, z)[0] - mutant) > 0.01


def test_what_a_subject_adds_given_the_others() -> None:
    one = problem()
    theta, z = one.prior_draws(3, 2), np.random.default_rng(5).standard_normal((3, one.latents))
    joint, terms, h = subject_terms(one, theta, z, np.random.default_rng(1))
    assert (h == 0).all()
    np.testing.assert_allclose(joint, one.log_likelihood(theta, z), rtol=1e-10)
    for i in range(3):
        mean, covariance = by_hand(one, {name: values[i] for name, values in theta.items()}, z[i])
        for j in range(5):
            rest = one.observations.subject != f"s{j}"
            others = multivariate_normal(mean[rest], covariance[np.ix_(rest, rest)]).logpdf(
                one.observations.value[rest]
            )
            assert terms[i, j] == pytest.approx(joint[i] - others, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize(
    "settings", [{}, {"centred": True}, {"occasions": ("a",)}], ids=["standardised", "centred", "occasions"]
)
def test_the_pymc_model_has_the_same_density(settings: dict) -> None:
    one = problem(**settings)
    model = one.model()
    theta, z = one.prior_draws(3, 2), np.random.default_rng(5).standard_normal((3, one.latents))
    x, y = one.layout.standardised(z)
    natural, _ = one.layout.natural(theta, z)
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        density = model.compile_logp(jacobian=False)
    omega = {"a": theta["omega_a"], "b": theta["omega_b"]}
    r = 2.0 * theta["lkj_b_a"] - 1.0
    lines = bridge.real_lines(one.conditioned_prior)
    prior = np.sum(list(one.conditioned_prior.log_terms(theta).values()), axis=0)
    for i in range(3):
        point = {
            model.rvs_to_values[model[name]].name: np.asarray(line.point(theta[name][i], NumPyFunctions, {}))
            for name, line in lines.items()
        }
        wanted = (
            prior[i]
            + norm.logpdf(z[i]).sum()
            + one.log_likelihood({name: values[i] for name, values in theta.items()}, z[i])
        )
        for k, name in enumerate(("a", "b")):
            if settings.get("centred"):
                point[f"effect_{name}"] = natural[i, :, k]
                root = 1.0 if name == "a" else np.sqrt(1.0 - r[i] ** 2)
                wanted -= 5 * np.log(omega[name][i] * root)
            else:
                point[f"effect_{name}"] = x[i, :, k]
        if settings.get("occasions"):
            point["occasion_a"] = y[i, :, 0]
        assert float(density(point)) == pytest.approx(wanted, rel=1e-8)


def test_correlations_have_the_prior_of_lkj() -> None:
    """Marginally each correlation is 2 Beta(b, b) - 1 with b = eta - 1 + P / 2 (Lewandowski et al. 2009)."""
    space = uq.ParameterSpace(a=uq.Normal(0, 1), b=uq.Normal(0, 1), c=uq.Normal(0, 1), d=uq.Normal(0, 1))
    population = uq.Population(space, individual=("a", "b", "c", "d"), correlated=True, lkj=1.5)
    rng = np.random.default_rng(1)
    theta = {name: prior.draw(rng, 4000) for name, prior in population.priors.items()}
    layout = Layout.of(population, None)
    found = layout.correlations(theta)
    assert len(found) == 6
    for values in found.values():
        assert kstest(0.5 * (values + 1.0), "beta", args=(2.5, 2.5)).pvalue > 1e-4
    # Drawn effects have these correlations.
    one = {name: np.full(200_000, values[0]) for name, values in theta.items()}
    effects = layout.one(one, rng.standard_normal((200_000, 4)), np.zeros(200_000, dtype=int))
    r = np.corrcoef(effects.T)
    assert r[1, 0] == pytest.approx(found["corr_b_a"][0], abs=0.012)
    assert r[3, 2] == pytest.approx(found["corr_d_c"][0], abs=0.012)


def test_heavy_tails_are_student() -> None:
    space = uq.ParameterSpace(a=uq.Normal(1.0, 0.1), b=uq.Normal(0.0, 1.0))
    population = uq.Population(space, individual=("a", "b"), spread=0.5, tails={"a": 3.0})
    layout = Layout.of(population, None)
    z = np.random.default_rng(2).standard_normal((20_000, 2))
    theta = {"a": np.full(20_000, 1.0), "b": np.zeros(20_000)}
    found = layout.one(theta, z, np.zeros(20_000, dtype=int))
    assert kstest((found[:, 0] - 1.0) / 0.5, student(3.0).cdf).pvalue > 1e-3
    assert kstest(found[:, 1] / 0.5, "norm").pvalue > 1e-3
    x, y = layout.standardised(np.array([[6.0, 1.0], [-7.5, 0.0], [0.0, 0.3]]))
    np.testing.assert_allclose(layout.standard_normals(x, y), [[6.0, 1.0], [-7.5, 0.0], [0.0, 0.3]], rtol=1e-9)


def test_the_box_holds_the_population() -> None:
    """Typical value and effect are normal, so that the prior predictive of an individual is known in closed form."""
    space = uq.ParameterSpace(a=uq.LogNormal(median=2.0, sigma=0.3), b=uq.Normal(0.0, 1.0))
    box = uq.Population(space, individual=("a",), spread=0.4).box()
    cut = norm.ppf(0.5 * (1.0 + 0.999**0.5))
    assert np.log(box.upper[0] / 2.0) == pytest.approx(0.5 * cut, rel=0.02)
    assert np.log(box.lower[0] / 2.0) == pytest.approx(-0.5 * cut, rel=0.02)
    assert box.upper[1] == pytest.approx(cut, rel=1e-9)
    assert box.scale == ("log", "identity")


def test_long_tails_of_the_population_need_a_range() -> None:
    space = uq.ParameterSpace(a=uq.LogNormal(median=2.0, sigma=0.3), b=uq.Normal(0.0, 1.0), c=uq.HalfNormal(1.0))
    heavy = uq.Population(space, individual=("a",), spread=uq.HalfCauchy(0.3))
    with pytest.raises(InputError, match=r"HalfCauchy\(beta=0.3\) has a long tail.*population.box\(ranges=\{'a': \("):
        heavy.box()
    box = heavy.box(ranges={"a": (0.2, 20.0)})
    assert (box.lower[0], box.upper[0], box.scale[0]) == (0.2, 20.0, "log")
    assert box.hard == ((False, False), (False, False), (True, False))
    # The others hold the mass jointly.
    assert box.upper[1:] == uq.ParameterSpace(b=space.priors["b"], c=space.priors["c"]).box().upper
    assert uq.Population(space, individual=("a",), spread=uq.HalfStudentT(4.0, 0.3)).box().upper[0] > 20.0
    with pytest.raises(InputError, match="the log scale of the subjects goes from 0 to inf"):
        heavy.box(ranges={"a": (-1.0, 20.0)})
    with pytest.raises(InputError, match="ranges names 'z'"):
        heavy.box(ranges={"z": (0.0, 1.0)})
    shared = uq.ParameterSpace(a=uq.LogNormal(median=2.0, sigma=0.3), b=uq.HalfCauchy(1.0))
    population = uq.Population(shared, individual=("a",), spread=0.1)
    with pytest.raises(InputError, match=r"over=population.box\(ranges=\{'b': \(0.0, 127.0\)\}\)"):
        population.box()
    assert population.box(ranges={"b": (0.0, 127.0)}).upper[1] == 127.0


def test_default_spread_of_a_prior_without_a_standard_deviation_is_finite() -> None:
    space = uq.ParameterSpace(a=uq.HalfCauchy(2.0))
    low, high = space.priors["a"].quantile(norm.cdf([-1.0, 1.0]))
    assert uq.Population(space, individual=("a",)).priors["omega_a"] == uq.HalfNormal(0.25 * float(high - low))


def test_covariates_move_the_box() -> None:
    space = uq.ParameterSpace(a=uq.LogNormal(median=2.0, sigma=0.01))
    population = uq.Population(space, individual=("a",), spread=0.01, covariates={"a": {"log(weight / 70)": 1.0}})
    far = population.box(pd.DataFrame({"weight": [7.0, 700.0]}, index=["p", "q"]))
    assert far.lower[0] < 0.21
    assert far.upper[0] > 19.0
    assert population.box().upper[0] < 2.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"individual": ()}, "individual is empty"),
        ({"individual": ("z",)}, "names \\['z'\\]"),
        ({"individual": ("a", "a")}, "twice"),
        ({"individual": ("a",), "spread": -1.0}, "positive number"),
        ({"individual": ("a",), "spread": uq.Normal(0.0, 1.0)}, "admits negative"),
        ({"individual": ("a",), "covariates": {"b": "log(w)"}}, "covariates names \\['b'\\]"),
        ({"individual": ("a",), "covariates": {"a": "import os"}}, "cannot be read"),
        ({"individual": ("a",), "covariates": {"a": "w.mean()"}}, "not understood"),
        ({"individual": ("a",), "covariates": {"a": {"w": 1.0, "2 * w": 1.0}}}, "two effects"),
        ({"individual": ("a", "b"), "tails": {"a": 1.0}}, "above 2"),
        ({"individual": ("a", "b"), "tails": {"a": 4.0}, "correlated": True}, "tails and are correlated"),
        ({"individual": ("a",), "scale": {"a": "log"}}, "has no log"),
        ({"individual": ("a",), "occasions": ("b",)}, "occasions names"),
        ({"individual": ("a",), "lkj": 0.0}, "lkj"),
        ({"individual": ("a",), "centred": "yes"}, "centred"),
        ({"individual": ("a",), "spread": {"A": 0.3}}, "spread names \\['A'\\]"),
        ({"individual": ("a",), "spread": {"c": 0.3}}, "spread names \\['c'\\]"),
        ({"individual": ("a", "b"), "occasions": ("a",), "occasion_spread": {"b": 0.3}}, "occasion_spread names"),
        ({"individual": ("a",), "occasion_spread": 0.3}, "no parameter changes between occasions"),
        ({"individual": ("a",), "covariates": {"a": 0.75}}, "covariates of 'a'"),
        ({"individual": ("a",), "covariates": {"a": uq.Normal(0.0, 1.0)}}, "covariates of 'a'"),
        ({"individual": None}, "individual is None"),
        ({"individual": ("a",), "correlated": None}, "correlated is None"),
        ({"individual": ("a", "b"), "correlated": ("a",)}, "correlated names 'a' alone"),
    ],
)
def test_settings_that_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        uq.Population(SPACE, **settings)


@pytest.mark.parametrize("taken", ["omega_a", "effect_a", "omega_a_occasion", "beta_a_w", "corr_b_a", "lkj_b_a"])
def test_a_parameter_with_the_name_of_what_describes_the_population(taken: str) -> None:
    space = uq.ParameterSpace(**{"a": uq.Normal(0.0, 1.0), "b": uq.Normal(0.0, 1.0), taken: uq.Uniform(0.0, 1.0)})
    with pytest.raises(InputError, match=f"{taken}.*[Rr]ename"):
        uq.Population(space, individual=("a", "b"), occasions=("a",), covariates={"a": "w"}, correlated=True)


def test_subjects_that_are_refused() -> None:
    population = uq.Population(SPACE, individual=("a",), covariates={"a": "weight"}, spread=uq.HalfNormal(0.05))
    noise, data, s = uq.GaussianNoise(sd=0.1), observations(table()), surrogate()

    def calibrate(subjects: object, **more: object) -> object:
        return uq.Calibration(s, data, noise, population=population, subjects=subjects, outside="extrapolate", **more)

    with pytest.raises(InputError, match="covariates \\['weight'\\]"):
        calibrate(None)
    with pytest.raises(InputError, match="columns \\['weight'\\] are missing"):
        calibrate(COVARIATES[["female"]])
    with pytest.raises(DataError, match="no row for"):
        calibrate(COVARIATES.iloc[:4])
    with pytest.raises(DataError, match="two rows"):
        calibrate(pd.concat([COVARIATES, COVARIATES.iloc[:1]]))
    bad = COVARIATES.astype({"weight": float}).copy()
    bad.loc["s2", "weight"] = np.nan
    with pytest.raises(DataError, match="never imputed"):
        calibrate(bad)
    more = pd.concat([COVARIATES, pd.DataFrame({"weight": [75.0], "female": [0]}, index=["new"])])
    with pytest.raises(DataError, match="no measurement"):
        calibrate(more)
    one = calibrate(more, without_data="predict")
    assert one.latents == 6
    assert not one.subjects.measured[5]


def test_a_population_outside_of_the_box_is_an_error() -> None:
    population = uq.Population(SPACE, individual=("a",), spread=0.5)
    with pytest.raises(ExtrapolationError, match="population's prior lies outside"):
        uq.Calibration(surrogate(), observations(table()), uq.GaussianNoise(sd=0.1), population=population)


@pytest.mark.parametrize(("name", "at", "said"), [("a", 0.999, "upper end of a, subject s"), ("c", 0.001, "end of c")])
def test_draws_at_an_end_of_the_box_are_told(name: str, at: float, said: str) -> None:
    """Of subjects also where the box ends with the prior, which is that of the typical one; of what all share too."""
    one = problem()
    own = one.individuals(one.prior_draws(20, 1), np.random.default_rng(1).standard_normal((20, one.latents)))
    own["a"][:], own["b"][:] = 0.5, 0.5
    assert _check_edge(one, own).status == "pass"
    own[name][:] = at
    found = _check_edge(one, own)
    assert found.status == "warn"
    assert said in found.message
    one.data.outside = "refined"  # where the runs end, not the prior: as a single subject's verdict says
    assert _check_edge(one, own).status == "fail"
    assert "Refine again" in _check_edge(one, own).remedy


@pytest.mark.parametrize(("taken", "ends"), [("log", (1e-3, 8.0)), ("logit", (1e-4, 0.9999))])
@pytest.mark.parametrize("scale", ["identity", "log", "logit"])
def test_subjects_may_leave_a_logarithm_and_not_a_logit(taken: str, ends: tuple[float, float], scale: str) -> None:
    """A negative clearance has no logarithm: the likelihood was NaN, and is that of the continued one."""
    space = uq.ParameterSpace(a=uq.Beta(2.0, 2.0) if scale == "logit" else uq.LogNormal(median=0.5, sigma=0.2))
    box = uq.parameters.Box(("a",), ends[:1], ends[1:], (taken,))
    given = given_surrogate(np.random.default_rng(1).random((5, 1)), np.zeros((5, 1)), names=("a",), space=space)
    frame = pd.DataFrame({"id": ["p", "q"], "y": [0.1, 0.2]})
    data = uq.Observations.from_table(frame, output="y", value="y", subject="id")
    population = uq.Population(space, individual=("a",), spread=0.1, scale={"a": scale})
    refused = taken == "logit" and scale != "logit"
    with pytest.raises(InputError, match="leave the range.*population.box") if refused else nullcontext():
        problem = uq.Calibration(replace(given, domain=box), data, uq.GaussianNoise(sd=0.1), population=population)
    if not refused:
        own = {"a": np.array([[-2.0, 0.5], [0.1, 0.5]] if taken == "log" else [[0.1, 0.5]])}
        assert np.isfinite(problem.of_individuals(own, np.zeros((len(own["a"]), problem.latents)))).all()


def test_occasions_that_nobody_has_two_of_are_told() -> None:
    """Spreads between occasions and between subjects are then one: what they share is the prior's choice."""
    population = uq.Population(SPACE, individual=("a",), occasions=("a",), spread=0.05, occasion_spread=0.05)
    settings = {"noise": uq.GaussianNoise(sd=0.1), "population": population, "outside": "extrapolate"}
    with pytest.warns(DataWarning, match=r"No subject was measured on two occasions.*\['a'\]"):
        uq.Calibration(surrogate(), observations(table()), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        uq.Calibration(surrogate(), observations(table(occasions=2)), **settings)
    unnamed = uq.Observations.from_table(
        table(), output="y", value="y", coords={"t": "t"}, conditions=["x"], subject="id"
    )
    with pytest.raises(InputError, match="lack the occasion of each row.*experiment='visit'"):
        uq.Calibration(surrogate(), unnamed, **settings)


def test_one_subject_is_told() -> None:
    frame = table()
    population = uq.Population(SPACE, individual=("a",), spread=uq.HalfNormal(0.02))
    with pytest.warns(DataWarning, match="One subject"):
        uq.Calibration(
            surrogate(),
            observations(frame[frame["id"] == "s1"]),
            uq.GaussianNoise(sd=0.1),
            population=population,
            outside="extrapolate",
        )

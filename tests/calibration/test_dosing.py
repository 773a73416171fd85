"""Calibrations of superposed unit responses: densities, populations, predictions, files, and the choice of a dose."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest
import xarray as xr
from scipy import stats

import uqms as uq
from uqms._typing import Array
from uqms.calibration.events import usual_regimen
from uqms.errors import DataError, ExtrapolationError, InputError

HOURS = np.unique(np.concatenate([np.linspace(0.0, 4.0, 33), np.linspace(4.0, 72.0, 69)]))
AT = np.array([1.0, 3.0, 7.0, 13.0, 25.0, 30.0])  # with doses at whole hours, all times since a dose are in HOURS
SPACE = uq.ParameterSpace(
    ka=uq.LogNormal(median=1.3, sigma=0.2),
    CL=uq.LogNormal(median=5.0, sigma=0.2),
    V=uq.LogNormal(median=20.0, sigma=0.1),
)
POPULATION = uq.Population(SPACE, individual=("CL", "V"), spread=uq.HalfNormal(0.3))
NOISE = 0.15
COLUMNS = {"id": "ID", "time": "TIME", "amount": "AMT", "value": "DV", "additional": "ADDL", "interval": "II"}


def oral(t: Array, ka: float, CL: float, V: float) -> Array:
    ke = CL / V
    return np.asarray(ka / (ka - ke) * (np.exp(-ke * t) - np.exp(-ka * t)) / V)


def regimen_of(j: int) -> uq.Regimen:
    return uq.Regimen.repeated(100.0 + 10.0 * j, every=(8.0, 12.0)[j % 2], doses=(4, 3)[j % 2])


def truth(subjects: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(4)
    return 5.0 * np.exp(0.3 * rng.standard_normal(subjects)), 20.0 * np.exp(0.2 * rng.standard_normal(subjects))


def table_of(subjects: int) -> pd.DataFrame:
    """Return the doses and measurements of subjects with different regimens."""
    rng, rows = np.random.default_rng(5), []
    for j, (CL, V) in enumerate(zip(*truth(subjects), strict=True)):
        one = regimen_of(j)
        rows.append((j + 1, 0.0, one.amounts[0], len(one) - 1, one.times[1], np.nan))
        y = one.superpose(lambda t, CL=CL, V=V: oral(t, 1.3, CL, V), AT) + NOISE * rng.standard_normal(len(AT))
        rows += [(j + 1, time, 0.0, 0, 0.0, value) for time, value in zip(AT, y, strict=True)]
    return pd.DataFrame(rows, columns=["ID", "TIME", "AMT", "ADDL", "II", "DV"])


def study(subjects: int) -> uq.Observations:
    return uq.Observations.from_events(table_of(subjects), **COLUMNS)


def fitted(runs: int = 100) -> uq.surrogates.GaussianProcessSurrogate:
    design = uq.sobol(SPACE, runs, over=POPULATION.box(mass=0.95), rng=1)
    points = np.column_stack([design[name].values for name in SPACE.names])
    curves = xr.DataArray(np.stack([oral(HOURS, *one) for one in points]), dims=("run", "time"), coords={"time": HOURS})
    settings = uq.GaussianProcess(hyperparameters="point", outputs={"conc": uq.Curve(tolerance=1e-6)})
    return settings.fit(uq.ensemble.build(design, {"conc": curves}, space=SPACE))


def direct(backend: str = "numpy") -> uq.DirectSimulator:
    exp = pt.exp if backend == "pytensor" else np.exp

    def unit(ka: float, CL: float, V: float) -> object:
        ke = CL / V
        return ka / (ka - ke) * (exp(-ke * HOURS) - exp(-ka * HOURS)) / V

    return uq.DirectSimulator(
        unit,
        space=SPACE,
        outputs={"conc": ("time",)},
        coords={"time": HOURS},
        backend=backend,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def surrogate() -> uq.surrogates.GaussianProcessSurrogate:
    return fitted()


@pytest.fixture(scope="module")
def single(surrogate: uq.surrogates.GaussianProcessSurrogate) -> tuple[uq.Posterior, uq.Observations]:
    data = study(1)
    superposed = uq.Superposition(surrogate, data.regimens, tolerance=0.3)
    problem = uq.Calibration(superposed, data, uq.GaussianNoise(sd=NOISE), outside="extrapolate")
    return problem.sample(uq.SMC(particles=500), rng=1), data


def test_the_density_of_a_direct_unit_response_is_the_closed_one() -> None:
    data = study(1)
    problem = uq.Calibration(uq.Superposition(direct(), data.regimens, tolerance=0.3), data, uq.GaussianNoise(sd=NOISE))
    for theta in ({"ka": 1.3, "CL": 5.0, "V": 20.0}, {"ka": 0.9, "CL": 3.0, "V": 25.0}):
        mean = regimen_of(0).superpose(lambda t, theta=theta: oral(t, **theta), AT)
        expected = stats.norm(mean, NOISE).logpdf(data.value).sum()
        assert float(problem.log_likelihood(theta)) == pytest.approx(expected, rel=1e-9)


def test_infusions_of_a_direct_unit_response_agree_within_the_stated_interpolation_error() -> None:
    regimen = uq.Regimen.single(100.0, duration=2.3) + uq.Regimen.single(80.0, time=10.1, duration=0.4)
    superposed = uq.Superposition(direct(), regimen, tolerance=0.3)
    u = superposed.domain.to_unit(np.array([[1.3, 5.0, 20.0]]))
    rows = superposed.decode("conc", {"time": AT, "regimen": regimen})  # type: ignore[dict-item]
    got = rows.offset + rows.basis @ superposed.scores(np.asarray(u)).mean[0, 0]
    expected = regimen.superpose(lambda t: oral(t, 1.3, 5.0, 20.0), AT)
    sd = np.sqrt(np.sum(rows.truncation**2, axis=1))
    assert (np.abs(got - expected) < 5.0 * sd + 1e-12).all()
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_subjects_with_different_regimens_have_the_density_of_a_model_written_by_hand(
    surrogate: uq.surrogates.GaussianProcessSurrogate,
) -> None:
    """One surrogate for three regimens, the simulator in its place, and normal densities."""
    data = study(3)
    CL, V = truth(3)
    noise = uq.GaussianNoise(sd=NOISE)

    def density(unit: uq.Surrogate) -> float:
        superposed = uq.Superposition(unit, data.regimens, tolerance=0.3)
        problem = uq.Calibration(superposed, data, noise, population=POPULATION, outside="extrapolate")
        with pm.Model() as model:
            names = {"CL": pm.LogNormal("CL", 1.6, 0.3, shape=3), "V": pm.LogNormal("V", 3.0, 0.3, shape=3)}
            uq.observe(problem, {"ka": 1.3, **names}, name="data")
        logp = model.compile_logp(vars=[model["data"]])
        return float(logp({"CL_log__": np.log(CL), "V_log__": np.log(V)}))

    means = [regimen_of(j).superpose(lambda t, j=j: oral(t, 1.3, CL[j], V[j]), AT) for j in range(3)]
    expected = stats.norm(np.concatenate(means), NOISE).logpdf(data.value).sum()
    assert density(direct("pytensor")) == pytest.approx(expected, rel=1e-9)
    assert density(surrogate) == pytest.approx(expected, abs=0.1)


def test_one_patient_is_predicted_under_its_own_and_other_regimens(
    single: tuple[uq.Posterior, uq.Observations],
) -> None:
    posterior, data = single
    own = posterior.predict(coords={"time": [1.0, 13.0]})
    assert own.mean["conc"].dims == ("time",)
    named = posterior.predict(coords={"time": [1.0, 13.0], "regimen": data.regimens["1"]})
    np.testing.assert_array_equal(named.mean["conc"].values[:, 0], own.mean["conc"].values)
    new = [uq.Regimen.repeated(mg, every=6.0, doses=3, duration=1.0) for mg in (60.0, 90.0)]
    found = posterior.predict(coords={"time": [5.5, 17.5], "regimen": new})
    draws = {name: posterior.draws[name].values.ravel()[::10] for name in SPACE.names}
    each = [
        [one.superpose(lambda t, k=k: oral(t, *k), np.array([5.5, 17.5])) for one in new]
        for k in zip(*(draws[name] for name in SPACE.names), strict=True)
    ]
    np.testing.assert_allclose(found.mean["conc"].values, np.mean(each, axis=0).T, rtol=0.02)
    assert posterior.problem.surrogate.regimens == tuple(data.regimens.values())  # type: ignore[attr-defined]
    assert posterior.with_regimens(*new).problem.surrogate.regimens[1:] == tuple(new)  # type: ignore[attr-defined]


def test_a_file_keeps_regimens(single: tuple[uq.Posterior, uq.Observations], tmp_path: Path) -> None:
    posterior, data = single
    same = uq.load_posterior(posterior.save(tmp_path / "posterior.nc"))
    assert same.problem.observations.regimens == data.regimens  # type: ignore[attr-defined]
    coords = {"time": [2.0, 40.0], "regimen": uq.Regimen.repeated(70.0, every=10.0, doses=3, duration=0.7)}
    first, second = (one.predict(coords=coords).mean["conc"].values for one in (posterior, same))
    np.testing.assert_array_equal(first, second)


def test_runs_of_a_unit_dose_verify_and_correct_the_posterior(single: tuple[uq.Posterior, uq.Observations]) -> None:
    """The log-likelihood with the simulator is the closed form; corrections keep regimens."""
    posterior, data = single
    points = uq.verification_design(posterior, 30, rng=1)
    theta = {name: points[name].values for name in SPACE.names}
    unit = np.stack([oral(HOURS, *one) for one in zip(*theta.values(), strict=True)])
    curves = xr.DataArray(unit, dims=("run", "time"), coords={"time": HOURS})
    runs = uq.ensemble.build(points, {"conc": curves}, space=SPACE)
    found = uq.verify(posterior, runs)
    draws = {name: found.draws[name].values for name in SPACE.names}
    with_surrogate = posterior.problem.log_likelihood(draws)  # type: ignore[attr-defined]
    for i, ratio in enumerate(found.draws["log_ratio"].values):
        one = {name: float(values[i]) for name, values in draws.items()}
        mean = data.regimens["1"].superpose(lambda t, one=one: oral(t, **one), AT)
        exact = stats.norm(mean, NOISE).logpdf(data.value).sum()
        assert ratio + with_surrogate[i] == pytest.approx(exact, abs=1e-6)
    corrected = uq.correct(posterior, runs, sampler=uq.SMC(particles=200), rng=1).posterior
    surrogate = corrected.problem.surrogate  # type: ignore[attr-defined]
    assert surrogate.regimens == tuple(data.regimens.values())
    assert surrogate.response.runs == 130


def test_observations_with_regimens_name_the_superposition_that_is_missing(
    surrogate: uq.surrogates.GaussianProcessSurrogate,
) -> None:
    with pytest.raises(InputError, match=r"uq.Superposition\(surrogate, observations.regimens\)"):
        uq.Calibration(surrogate, study(1), uq.GaussianNoise(sd=NOISE), outside="extrapolate")


def test_what_a_prediction_cannot_know_is_refused(single: tuple[uq.Posterior, uq.Observations]) -> None:
    posterior, _ = single
    with pytest.raises(InputError, match="give a uq.Regimen, or a list"):
        posterior.predict(coords={"time": [1.0], "regimen": ["daily"]})
    with pytest.raises(InputError, match=r"coords are given for \['hour'\], expected 'time'"):
        posterior.predict(coords={"hour": [1.0]})
    steady = uq.Regimen.single(10.0, steady_state=12.0)
    with pytest.raises(ExtrapolationError, match="Simulate the unit response up to 99"):
        _strict(posterior).predict(coords={"time": [99.0]})
    with pytest.raises(ExtrapolationError, match="a steady state adds up"):
        _strict(posterior).predict(coords={"time": [1.0], "regimen": steady})


def _strict(posterior: uq.Posterior) -> uq.Posterior:
    from uqms.calibration.regimens import _with_surrogate

    known = posterior.problem.surrogate  # type: ignore[attr-defined]
    return _with_surrogate(posterior, uq.Superposition(known.response, known.regimens, tolerance=0.0))


def test_the_dose_is_the_smallest_whose_trough_is_above_the_limit(
    single: tuple[uq.Posterior, uq.Observations],
) -> None:
    posterior, _ = single
    amounts, trough = [60.0, 100.0, 140.0, 180.0, 220.0], np.array([23.9, 35.9])

    def regimen(mg: float) -> uq.Regimen:
        return uq.Regimen.repeated(mg, every=12.0, doses=3)

    choice = uq.dose_for(posterior, regimen, amounts, at=trough, above=0.6, probability=0.8)
    draws = np.column_stack([posterior.draws[name].values.ravel() for name in SPACE.names])
    for mg in amounts:
        lowest = np.array([regimen(mg).superpose(lambda t, k=k: oral(t, *k), trough).min() for k in draws])
        expected = float(np.mean(lowest > 0.6))
        row = choice.table.loc[mg]
        assert abs(row["probability"] - expected) < 4.0 * max(row["mcse"], 0.005)
        assert row["median"] == pytest.approx(np.median(lowest), rel=0.05)
    enough = choice.table.index[choice.table["probability"] >= 0.8]
    assert choice.chosen == enough[0]
    assert choice.regimen == regimen(float(enough[0]))
    low = uq.dose_for(posterior, regimen, amounts, at=trough, below=0.6, probability=0.8)
    assert low.chosen == low.table.index[low.table["probability"] >= 0.8][-1]
    np.testing.assert_allclose(
        low.table["probability"], 1.0 - _above_any(posterior, regimen, amounts, trough), atol=1e-12
    )
    none = uq.dose_for(posterior, regimen, [10.0], at=trough, above=0.6)
    assert none.chosen is None
    assert "no amount has it" in repr(none)


def _above_any(
    posterior: uq.Posterior, regimen: Callable[[float], uq.Regimen], amounts: list[float], at: Array
) -> Array:
    found = posterior.predict(coords={"time": at, "regimen": [regimen(mg) for mg in amounts]}).draws["conc"]
    return np.asarray((found >= 0.6).any("time").mean("sample"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"above": None}, "give a limit"),
        ({"amounts": [-5.0]}, "amounts above 0"),
        ({"regimen": 3.0}, "give a function of the amount"),
        ({"regimen": lambda mg: mg}, "return a uq.Regimen"),
        ({"subject": "1"}, "for the posterior of a population"),
        ({"output": "effect"}, "output is 'effect'"),
        ({"source": 3}, "got a int"),
        ({"probability": 1.5}, "probability"),
    ],
)
def test_settings_of_a_dose_are_checked(
    single: tuple[uq.Posterior, uq.Observations], changed: dict[str, object], words: str
) -> None:
    settings: dict[str, object] = {
        "source": single[0],
        "regimen": uq.Regimen.single,
        "amounts": [10.0],
        "at": [5.0],
        "above": 1.0,
        **changed,
    }
    source, regimen, amounts = (settings.pop(name) for name in ("source", "regimen", "amounts"))
    with pytest.raises(InputError, match=words):
        uq.dose_for(source, regimen, amounts, **settings)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_population_with_different_regimens_agrees_with_one_written_by_hand(
    surrogate: uq.surrogates.GaussianProcessSurrogate,
) -> None:
    """Typical values and omegas within Monte Carlo error; subjects, new patients and doses follow from them."""
    subjects = 8
    data = study(subjects)
    superposed = uq.Superposition(surrogate, data.regimens, tolerance=0.3)
    problem = uq.Calibration(superposed, data, uq.GaussianNoise(sd=NOISE), population=POPULATION, outside="extrapolate")
    posterior = problem.sample(uq.NUTS(draws=500, tune=500, chains=2), rng=1)
    with pm.Model():
        ka = pm.LogNormal("ka", np.log(1.3), 0.2)
        typical = {"CL": pm.LogNormal("CL", np.log(5.0), 0.2), "V": pm.LogNormal("V", np.log(20.0), 0.1)}
        each = {}
        for name, one in typical.items():
            omega = pm.HalfNormal(f"omega_{name}", 0.3)
            each[name] = one * pt.exp(omega * pm.Normal(f"z_{name}", shape=subjects))
        for j in range(subjects):
            ke, V = each["CL"][j] / each["V"][j], each["V"][j]
            mean = 0.0
            for dose in regimen_of(j).doses:
                tau = np.maximum(AT - dose.time, 0.0)  # an oral response is 0 at 0
                mean += dose.amount * ka / (ka - ke) * (pt.exp(-ke * tau) - pt.exp(-ka * tau)) / V
            pm.Normal(f"y{j}", mean, NOISE, observed=data.value[data.subject == str(j + 1)])
        by_hand = pm.sample(500, tune=500, chains=2, cores=1, random_seed=2, progressbar=False)["posterior"]
    for name in ("ka", "CL", "V", "omega_CL", "omega_V"):
        ours, theirs = posterior.draws[name].values, by_hand[name].values
        assert abs(ours.mean() - theirs.mean()) < 0.25 * theirs.std(), name
        assert 0.75 < ours.std() / theirs.std() < 1.33, name

    own = posterior.predict(coords={"time": AT})
    assert own.mean["conc"].dims == ("subject", "time")
    residuals = own.mean["conc"].values.ravel() - data.value
    assert np.sqrt(np.mean(residuals**2)) < 1.2 * NOISE
    named = posterior.predict(subjects="3", coords={"time": AT, "regimen": data.regimens["3"]})
    np.testing.assert_allclose(named.mean["conc"].values.ravel(), own.mean["conc"].sel(subject="3").values, rtol=1e-9)

    # A new patient has the parameters of the subject with the same data, whatever its regimen is called.
    rows = table_of(subjects).query("ID == 2").assign(ID=99)
    patient = posterior.new_subject(uq.Observations.from_events(rows, **COLUMNS))
    means = posterior.individual_summary()["mean"]
    for name in ("CL", "V"):
        assert patient.summary()["mean"][name] == pytest.approx(means[name, "2"], rel=0.05)
    fit = patient.predict(coords={"time": AT}).mean["conc"]
    np.testing.assert_allclose(fit.values, own.mean["conc"].sel(subject="2").values, rtol=0.1)

    # The dose for new patients is that of simulated ones.
    def regimen(mg: float) -> uq.Regimen:
        return uq.Regimen.repeated(mg, every=8.0, doses=4)

    choice = uq.dose_for(posterior, regimen, [100.0, 200.0, 400.0], at=[31.9], above=1.0, rng=3)
    rng = np.random.default_rng(6)
    flat = {name: posterior.draws[name].values.ravel() for name in ("ka", "CL", "V", "omega_CL", "omega_V")}
    new = {
        name: flat[name] * np.exp(flat[f"omega_{name}"] * rng.standard_normal(len(flat[name]))) for name in ("CL", "V")
    }
    unit = [
        regimen(1.0).superpose(lambda t, k=k: oral(t, *k), np.array([31.9]))[0]
        for k in zip(flat["ka"], new["CL"], new["V"], strict=True)
    ]
    for mg, row in choice.table.iterrows():
        assert abs(row["probability"] - np.mean(mg * np.array(unit) > 1.0)) < 0.07
    assert uq.dose_for(posterior, regimen, [100.0, 400.0], at=[31.9], above=1.0, subject="1").table.shape == (2, 5)
    assert uq.diagnostics.visual_predictive_check(posterior, along="time").table["inside"].mean() > 0.6


@pytest.mark.slow
def test_a_population_of_a_direct_unit_response_predicts_subjects_new_patients_and_doses() -> None:
    """With a proportional part of the noise; predictions are means of closed forms over the draws."""
    data = study(4)
    superposed = uq.Superposition(direct("pytensor"), data.regimens, tolerance=0.3)
    noise = uq.CombinedNoise(additive=0.1, proportional=0.05)
    problem = uq.Calibration(superposed, data, noise, population=POPULATION)
    posterior = problem.sample(uq.NUTS(draws=150, tune=200, chains=2), rng=1)
    own = posterior.predict(coords={"time": AT}, draws=300)
    individuals = posterior.individuals
    for label in ("1", "4"):
        each = zip(
            posterior.draws["ka"].values.ravel(),
            individuals["CL"].sel(subject=label).values.ravel(),
            individuals["V"].sel(subject=label).values.ravel(),
            strict=True,
        )
        expected = np.mean([data.regimens[label].superpose(lambda t, k=k: oral(t, *k), AT) for k in each], axis=0)
        np.testing.assert_allclose(own.mean["conc"].sel(subject=label).values, expected, rtol=1e-6)
    rows = table_of(4).query("ID == 2").assign(ID=99)
    patient = posterior.new_subject(uq.Observations.from_events(rows, **COLUMNS))
    fit = patient.predict(coords={"time": AT}).mean["conc"].values
    np.testing.assert_allclose(fit, own.mean["conc"].sel(subject="2").values, rtol=0.15)
    choice = uq.dose_for(posterior, uq.Regimen.single, [50.0, 500.0], at=[6.0], above=1.0)
    assert choice.chosen == 500.0


def test_a_system_that_is_not_linear_takes_regular_regimens_as_conditions() -> None:
    """A response that saturates with the number and amount of doses; its density is the closed one."""
    table = pd.DataFrame(
        [
            (1, 0.0, 100.0, 2, 8.0, np.nan),
            (1, 20.0, 0.0, 0, 0.0, 3.0),
            (2, 0.0, 60.0, 0, 0.0, np.nan),
            (2, 20.0, 0.0, 0, 0.0, 2.0),
        ],
        columns=["ID", "TIME", "AMT", "ADDL", "II", "DV"],
    )
    data = uq.Observations.from_events(table, **COLUMNS).with_regimen_conditions()
    space = uq.ParameterSpace(
        top=uq.LogNormal(median=5.0, sigma=0.3),
        conditions={
            "dose": uq.Condition(50.0, 150.0),
            "interval": uq.Condition(0.0, 12.0),
            "doses": uq.Condition(1.0, 4.0),
        },
    )

    def saturating(top: float, dose: float, interval: float, doses: float) -> Array:
        total = dose * doses
        return np.array([0.0, 1.0, 1.0]) * top * total / (total + 100.0 + interval)

    times = np.array([0.0, 20.0, 30.0])
    simulator = uq.DirectSimulator(saturating, space=space, outputs={"conc": ("time",)}, coords={"time": times})
    one = [data.subject == label for label in ("1", "2")]
    expected = [5.0 * 300.0 / 408.0, 5.0 * 60.0 / 160.0]
    assert set(data.conditions) == {"dose", "interval", "doses"}
    population = uq.Population(space, individual=("top",), spread=uq.HalfNormal(0.3))
    problem = uq.Calibration(simulator, data, uq.GaussianNoise(sd=0.5), population=population)
    with pm.Model() as model:
        uq.observe(problem, {"top": pm.LogNormal("top", 1.6, 0.3, shape=2)}, name="data")
    found = float(model.compile_logp(vars=[model["data"]])({"top_log__": np.log([5.0, 5.0])}))
    values = np.array([data.value[rows][0] for rows in one])
    assert found == pytest.approx(stats.norm(expected, 0.5).logpdf(values).sum(), rel=1e-9)


AFTER = np.array([4.0, 12.0, 20.0, 28.0])


def saturated(top: float, regimen: uq.Regimen) -> Array:
    """Return an effect that saturates with the amount given until then."""
    total = np.array([sum(dose.amount for dose in regimen.doses if dose.time < t) for t in AFTER])
    return top * total / (total + 100.0)


@pytest.fixture(scope="module")
def not_linear() -> uq.Posterior:
    """Return the posterior of one patient, whose surrogate is of runs with amounts and numbers of doses every 8 h."""
    space = uq.ParameterSpace(
        top=uq.LogNormal(median=5.0, sigma=0.3),
        conditions={"dose": uq.Condition(50.0, 200.0), "doses": uq.Condition(1.0, 3.0)},
    )
    usual = uq.Regimen.repeated(100.0, every=8.0, doses=2)
    simulator = uq.FunctionSimulator(
        saturated, outputs={"conc": ("time",)}, coords={"time": AFTER}, regimen=usual, version="1"
    )
    surrogate = uq.GaussianProcess().fit(uq.run(simulator, uq.sobol(space, 120, rng=1), workers=0))
    truth = saturated(6.0, usual)
    rows = pd.DataFrame({"time": AFTER, "conc": truth + np.array([0.1, -0.2, 0.15, 0.0]), "dose": 100.0, "doses": 2.0})
    data = uq.Observations.from_table(
        rows, output="conc", value="conc", coords={"time": "time"}, conditions=["dose", "doses"]
    )
    return uq.Calibration(surrogate, data, uq.GaussianNoise(sd=0.2)).sample(uq.SMC(particles=1000), rng=1)


def test_a_dose_is_chosen_where_the_system_is_not_linear(not_linear: uq.Posterior) -> None:
    """Beside the simulator itself at all draws."""
    amounts = [60.0, 80.0, 100.0, 140.0]

    def regimen(mg: float) -> uq.Regimen:
        return uq.Regimen.repeated(mg, every=8.0, doses=3)

    choice = uq.dose_for(not_linear, regimen, amounts, at=[20.0, 28.0], above=4.3, probability=0.9)
    top = not_linear.draws["top"].values.ravel()
    shares = []
    for mg in amounts:
        lowest = np.array([saturated(k, regimen(mg))[2:].min() for k in top])
        shares.append(float(np.mean(lowest > 4.3)))
        assert abs(choice.table.loc[mg, "probability"] - shares[-1]) < 4.0 * max(choice.table.loc[mg, "mcse"], 0.01)
        assert choice.table.loc[mg, "median"] == pytest.approx(np.median(lowest), rel=0.02)
    assert 0.02 < shares[1] < 0.9
    assert choice.chosen == amounts[int(np.argmax(np.array(shares) >= 0.9))]


@pytest.mark.parametrize(
    ("regimen", "words"),
    [
        (lambda mg: uq.Regimen.repeated(mg, every=6.0, doses=2), "'interval' is 6 .* but 8 in all runs"),
        (lambda mg: uq.Regimen.single(mg, duration=1.0), "'duration' is 1 .* but 0 in all runs"),
        (lambda mg: uq.Regimen.single(mg, route="iv"), "The route of .* is not that of the runs"),
        (lambda mg: uq.Regimen.single(mg, time=3.0), "not regular, it begins at 3"),
    ],
)
def test_regimens_that_the_runs_cannot_tell_are_refused(
    not_linear: uq.Posterior, regimen: Callable[[float], uq.Regimen], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        uq.dose_for(not_linear, regimen, [100.0], at=[20.0], above=1.0)


def test_conditions_are_those_of_the_runs_and_others_name_the_subject(not_linear: uq.Posterior) -> None:
    surrogate = not_linear.problem.surrogate  # type: ignore[attr-defined]
    rows = pd.DataFrame(
        [(1, 0.0, 100.0, 2, 8.0, np.nan), (1, 20.0, 0.0, 0, 0.0, 3.0), (2, 0.0, 60.0, 0, 0.0, np.nan)]
        + [(2, 20.0, 0.0, 0, 0.0, 2.0)],
        columns=["ID", "TIME", "AMT", "ADDL", "II", "DV"],
    )
    found = uq.Observations.from_events(rows, **COLUMNS).with_regimen_conditions(surrogate)
    assert {name: column.tolist() for name, column in found.conditions.items()} == {
        "dose": [100.0, 60.0],
        "doses": [3.0, 1.0],
    }
    alone = uq.Observations.from_events(rows[rows.ID == 2], **COLUMNS).with_regimen_conditions(surrogate)
    assert set(alone.conditions) == {"dose", "doses"}  # though one dose is what nothing says otherwise
    rows.loc[0, "II"] = 6.0
    with pytest.raises(DataError, match=r"subject '1': 'interval' is 6 .* but 8 in all runs"):
        uq.Observations.from_events(rows, **COLUMNS).with_regimen_conditions(surrogate)


def test_a_condition_that_is_a_part_of_the_regimen_is_not_given_twice(not_linear: uq.Posterior) -> None:
    with pytest.raises(InputError, match="'dose' is a part of the regimen; leave it out"):
        uq.dose_for(not_linear, uq.Regimen.single, [100.0], at=[20.0], above=1.0, conditions={"dose": 90.0})


def test_runs_with_a_simulator_of_another_kind_have_no_usual_regimen() -> None:
    for text in ("my solver", '"a name"', '{"kind": "executable"}'):
        assert usual_regimen(SimpleNamespace(attrs={"simulator": text})) is None


@pytest.mark.slow
def test_doses_of_a_population_where_the_system_is_not_linear() -> None:
    """A subject beside the simulator at its draws, a new patient beside draws of the population's law."""
    space = uq.ParameterSpace(
        top=uq.LogNormal(median=5.0, sigma=0.3),
        conditions={"dose": uq.Condition(50.0, 200.0), "doses": uq.Condition(1.0, 3.0)},
    )
    population = uq.Population(space, individual=("top",), spread=uq.HalfNormal(0.2))
    simulator = uq.FunctionSimulator(
        saturated,
        outputs={"conc": ("time",)},
        coords={"time": AFTER},
        regimen=uq.Regimen.repeated(100.0, every=8.0, doses=2),
    )
    design = uq.sobol(space, 80, over=population.box(mass=0.95), rng=1)
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(uq.run(simulator, design, workers=0))
    rng, rows = np.random.default_rng(1), []
    for j in range(6):
        top, n, mg = 6.0 * np.exp(0.15 * rng.standard_normal()), int(rng.integers(1, 4)), [60.0, 100.0, 150.0][j % 3]
        values = saturated(top, uq.Regimen.single(mg).with_conditions(doses=n, interval=8.0))
        rows.append((j, 0.0, mg, n - 1, 8.0 * (n > 1), np.nan))
        rows += [(j, t, 0.0, 0, 0.0, y + 0.2 * rng.standard_normal()) for t, y in zip(AFTER, values, strict=True)]
    table = pd.DataFrame(rows, columns=["ID", "TIME", "AMT", "ADDL", "II", "DV"])
    data = uq.Observations.from_events(table, **COLUMNS).with_regimen_conditions(surrogate)
    problem = uq.Calibration(surrogate, data, uq.GaussianNoise(sd=0.2), population=population, outside="extrapolate")
    posterior = problem.sample(uq.NUTS(draws=300, tune=200, chains=2), rng=1)

    def regimen(mg: float) -> uq.Regimen:
        return uq.Regimen.repeated(mg, every=8.0, doses=3)

    own = posterior.individuals["top"].sel(subject="1").values.ravel()
    flat = {name: posterior.draws[name].values.ravel() for name in ("top", "omega_top")}
    new = flat["top"] * np.exp(flat["omega_top"] * np.random.default_rng(2).standard_normal((50, len(own))))
    amounts = [60.0, 100.0, 150.0, 190.0]
    for subject, tops in (("1", own), (None, new.ravel())):
        found = uq.dose_for(posterior, regimen, amounts, at=[28.0], above=4.5, subject=subject).table
        for mg in amounts:
            expected = 3.0 * mg / (3.0 * mg + 100.0) * tops
            off = abs(found.loc[mg, "probability"] - np.mean(expected > 4.5))
            assert off < 4.0 * max(found.loc[mg, "mcse"], 0.01)


def test_one_dose_has_no_interval(not_linear: uq.Posterior) -> None:
    choice = uq.dose_for(not_linear, uq.Regimen.single, [100.0], at=[20.0], above=2.0)
    assert choice.table.loc[100.0, "median"] == pytest.approx(0.5 * np.median(not_linear.draws["top"]), rel=0.02)

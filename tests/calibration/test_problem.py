"""The calibration problem: what does not fit together is refused by name, before anything is sampled."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from calibration.problems import given_surrogate, linear_surrogate
from scipy.stats import norm

import uqms as uq
from uqms.errors import (
    DataError,
    DataWarning,
    ExtrapolationError,
    InputError,
    PriorConflictWarning,
    UnitError,
)
from uqms.surrogates import GaussianProcessSurrogate, Layout
from uqms.surrogates.outputs import OutputBasis

NOISE = uq.GaussianNoise(sd=0.1)
X = np.linspace(0.0, 1.0, 5)[:, None]


def scalar(space: uq.ParameterSpace | None = None) -> GaussianProcessSurrogate:
    """Return y(theta) through 0, 1, 2, 3, 4."""
    return given_surrogate(X, np.arange(5.0)[:, None], space=space)


def dosed() -> GaussianProcessSurrogate:
    """Return y(theta, dose), theta and dose in [0, 1]."""
    grid = np.array([[a, b] for a in (0.0, 0.5, 1.0) for b in (0.0, 0.5, 1.0)])
    space = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0), conditions={"dose": uq.Condition(0.0, 1.0)})
    return given_surrogate(grid, grid.sum(axis=1)[:, None], names=("theta", "dose"), space=space)


def two_outputs() -> GaussianProcessSurrogate:
    """Return "pressure" over time 0, 1, 2, 3 in mmHg, and the number "volume" in mL."""
    one = given_surrogate(X, np.column_stack([np.arange(5.0), np.ones(5)]))
    time = Layout(("time",), {"time": np.arange(4.0)}, "mmHg")
    curve = np.arange(1.0, 5.0)[:, None]
    outputs = (
        OutputBasis("pressure", time, np.zeros(4), curve, np.zeros((4, 0)), np.zeros(3)),
        OutputBasis("volume", Layout(unit="mL"), np.zeros(1), np.ones((1, 1)), np.zeros((1, 0))),
    )
    return GaussianProcessSurrogate(one.domain, one.process, outputs, one.attrs)


def pressure(values: list[float], time: list[float], **attrs: str) -> xr.DataArray:
    return xr.DataArray(values, dims="time", coords={"time": time}, name="pressure", attrs=attrs)


def volume(value: float = 1.0) -> uq.Observations:
    return uq.Observations.from_xarray(xr.DataArray(value, name="volume"))


def number(value: float = 2.0, name: str = "y", **coords: float) -> xr.DataArray:
    return xr.DataArray(value, name=name, coords=coords)


# --- observations against the surrogate -----------------------------------------------------------------------------


def test_an_unknown_output_is_named() -> None:
    with pytest.raises(InputError, match=r"Observations of \['flow'\], but the surrogate has outputs \['y'\]. Rename"):
        uq.Calibration(scalar(), number(name="flow"), NOISE)


def test_dims_must_be_those_of_the_output() -> None:
    with pytest.raises(InputError, match=r"'pressure' have coordinates \['t'\], .*output has \['time'\]. Name them"):
        uq.Calibration(two_outputs(), pressure([1.0], [0.0]).rename(time="t"), NOISE)
    with pytest.raises(InputError, match=r"'pressure' have coordinates \[\], .*output has \['time'\]"):
        uq.Calibration(two_outputs(), number(name="pressure"), NOISE)
    with pytest.raises(InputError, match=r"'volume' have coordinates \['time'\], .*output has \[\]"):
        uq.Calibration(two_outputs(), pressure([1.0], [0.0]).rename("volume"), NOISE)


@pytest.mark.parametrize("place", [np.nan, np.inf])
def test_every_row_needs_its_coordinate(place: float) -> None:
    frame = pd.DataFrame({"t": [0.0, place], "v": [1.0, 2.0]})
    observations = uq.Observations.from_table(frame, output="pressure", value="v", coords={"time": "t"})
    kind = DataError if np.isnan(place) else ExtrapolationError
    with pytest.raises(kind, match="a row has no 'time'" if np.isnan(place) else "time = inf is outside"):
        uq.Calibration(two_outputs(), observations, NOISE)


@pytest.mark.parametrize("time", [-0.1, 3.1])
def test_coordinates_outside_of_the_simulated_range(time: float) -> None:
    message = rf"Output 'pressure': time = {time} is outside of the simulated range \[0, 3\]. Simulate that coordinate"
    with pytest.raises(ExtrapolationError, match=message):
        uq.Calibration(two_outputs(), pressure([1.0, 1.0], [1.0, time]), NOISE)


def test_a_coordinate_between_simulated_ones_is_interpolated() -> None:
    cells = uq.Calibration(two_outputs(), pressure([3.0], [1.5]), NOISE).cells
    assert cells.basis[0, 0] == pytest.approx(2.5, rel=1e-12)


def test_conditions_must_be_given() -> None:
    with pytest.raises(InputError, match=r"has the conditions \['dose'\]; the observations lack \['dose'\]"):
        uq.Calibration(dosed(), number(), NOISE)


def test_conditions_must_be_known_to_the_surrogate() -> None:
    observations = uq.Observations.from_xarray(number(dose=1.0), conditions=["dose"])
    with pytest.raises(InputError, match=r"conditions \[\]; the observations lack \[\] and have \['dose'\] beside"):
        uq.Calibration(scalar(), observations, NOISE)


@pytest.mark.parametrize("dose", [-0.5, 1.5])
def test_conditions_outside_of_the_simulated_range(dose: float) -> None:
    message = rf"Condition 'dose' = {dose} is outside of the simulated range \[0, 1\]. Simulate a wider range"
    with pytest.raises(ExtrapolationError, match=message):
        uq.Calibration(dosed(), number(dose=dose), NOISE)


def test_coords_of_an_array_that_are_conditions_are_taken_as_such() -> None:
    data = xr.DataArray([0.5, 1.5], dims="dose", coords={"dose": [0.25, 0.75]}, name="y")
    problem = uq.Calibration(dosed(), data, NOISE)
    assert problem.cells.conditions.tolist() == [[0.25], [0.75]]
    assert problem.cells.experiments == 2


def test_units_that_disagree() -> None:
    message = "Observations of 'pressure' are in 'kPa', the simulator's output in 'mmHg'. Convert them"
    with pytest.raises(UnitError, match=message):
        uq.Calibration(two_outputs(), pressure([1.0], [0.0], unit="kPa"), NOISE)
    uq.Calibration(two_outputs(), pressure([1.0], [0.0], unit="mmHg"), NOISE)
    uq.Calibration(scalar(), number().assign_attrs(unit="kPa"), NOISE)  # the simulator's is not known


def test_subjects_are_calibrated_one_at_a_time() -> None:
    data = xr.DataArray([1.0, 2.0], dims="subject", coords={"subject": ["ann", "bob"]}, name="y")
    with pytest.raises(
        InputError, match=r"2 subjects \(ann, bob, …\).*Calibrate all of them, Calibration.*, or one at a time"
    ):
        uq.Calibration(scalar(), data, NOISE)


def test_observations_of_another_kind() -> None:
    with pytest.raises(InputError, match=r"observations is a DataFrame; name its columns: uq\.Observations"):
        uq.Calibration(scalar(), pd.DataFrame({"y": [1.0]}), NOISE)  # type: ignore[arg-type]


def test_an_array_without_name() -> None:
    with pytest.raises(InputError, match="The DataArray has no name; name it like the output"):
        uq.Calibration(scalar(), xr.DataArray(1.0), NOISE)


def test_a_missing_value() -> None:
    with pytest.raises(DataError, match=r"row 1 .*is nan.*missing='drop'"):
        uq.Calibration(two_outputs(), pressure([1.0, np.nan], [0.0, 1.0]), NOISE)


# --- noise ----------------------------------------------------------------------------------------------------------


def both() -> uq.Observations:
    return uq.Observations.concat([uq.Observations.from_xarray(pressure([1.0, 2.0], [0.0, 1.0])), volume()])


def test_one_noise_for_two_outputs() -> None:
    with pytest.raises(
        InputError, match=r"One noise sd for the outputs \['pressure', 'volume'\].*noise=\{'pressure': "
    ):
        uq.Calibration(two_outputs(), both(), NOISE)


def test_each_output_has_its_own_noise() -> None:
    noise = {"pressure": uq.GaussianNoise(sd=uq.HalfNormal(1.0)), "volume": uq.GaussianNoise(sd=0.5)}
    problem = uq.Calibration(two_outputs(), both(), noise)
    assert list(problem.priors) == ["theta", "sigma_pressure"]
    groups = problem.noise.values({"sigma_pressure": np.array([3.0])}, (1,))
    assert dict(zip(problem.noise.outputs, groups[0].tolist(), strict=True)) == {"pressure": 3.0, "volume": 0.5}


def test_noise_of_an_output_that_was_not_observed() -> None:
    with pytest.raises(InputError, match=r"noise is given for \['flow', 'y'\], but the observed outputs are \['y'\]"):
        uq.Calibration(scalar(), number(), {"y": NOISE, "flow": NOISE})


def test_an_output_without_noise() -> None:
    with pytest.raises(InputError, match=r"noise is given for \['pressure'\], but the observed outputs are \['pressur"):
        uq.Calibration(two_outputs(), both(), {"pressure": NOISE})


@pytest.mark.parametrize("noise", [0.1, uq.HalfNormal(1.0), {"y": 0.1}])
def test_noise_of_another_kind(noise: object) -> None:
    with pytest.raises(InputError, match=r"noise of 'y' is .*; state of which .*: uq\.GaussianNoise\(sd="):
        uq.Calibration(scalar(), number(), noise)  # type: ignore[arg-type]


def test_noise_that_is_a_class_or_something_else() -> None:
    with pytest.raises(InputError, match=r"is the class GaussianNoise; give an instance of it, uq\.GaussianNoise"):
        uq.Calibration(scalar(), number(), uq.GaussianNoise)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"noise of 'y' is 'x'; give a noise model, e.g. GaussianNoise\(sd=...\)"):
        uq.Calibration(scalar(), number(), "x")  # type: ignore[arg-type]


def test_noise_from_a_column_that_is_not_there() -> None:
    with pytest.raises(InputError, match="Noise of 'y': rows without a known sd. Name the column"):
        uq.Calibration(scalar(), number(), uq.GaussianNoise())


def test_noise_from_a_column() -> None:
    problem = uq.Calibration(scalar(), number(sd=0.3), uq.GaussianNoise())
    expected = norm(2.0, 0.3).logpdf(2.0)  # theta = 0.5 is a run, where the surrogate is exact
    assert problem.log_likelihood({"theta": 0.5}) == pytest.approx(expected, abs=1e-6)


def test_a_variance_in_the_place_of_an_sd() -> None:
    data = pressure([1.0, 1.5, 2.0, 1.2], [0.0, 1.0, 2.0, 3.0])
    with pytest.warns(
        DataWarning, match="noise sd of 'pressure', 40, is larger than the whole range of .*, 1. Was"
    ) as w:
        uq.Calibration(two_outputs(), data, uq.GaussianNoise(sd=40.0))
    assert len(w) == 1
    with pytest.warns(DataWarning, match="Was a variance given"):
        uq.Calibration(two_outputs(), data.assign_coords(sd=("time", [30.0, 40.0, 50.0, 40.0])), uq.GaussianNoise())
    uq.Calibration(two_outputs(), data, uq.GaussianNoise(sd=1.2))  # four values may lie that close by chance


# --- parameters -----------------------------------------------------------------------------------------------------


def test_a_prior_wider_than_the_design_box() -> None:
    space = uq.ParameterSpace(theta=uq.Normal(0.5, 0.25))
    message = (
        r"4.6% of the prior's mass lies outside .*along 'theta' \(box \[0, 1\], prior Normal.*outside='extrapolate'"
    )
    with pytest.raises(ExtrapolationError, match=message):
        uq.Calibration(scalar(), number(), NOISE, space=space)


def test_a_prior_within_one_percent_is_conditioned_on_the_box() -> None:
    space = uq.ParameterSpace(theta=uq.Normal(0.5, 0.18))
    problem = uq.Calibration(scalar(), number(), NOISE, space=space)
    assert problem.mass_cut == pytest.approx(2 * norm.sf(0.5 / 0.18), rel=1e-9)
    assert problem.limits("theta") == (0.0, 1.0)
    assert "0.55%" in repr(problem)
    draws = problem.prior_draws(100_000, 1)["theta"]
    assert draws.min() >= 0.0
    assert draws.max() <= 1.0
    assert draws.std() == pytest.approx(
        0.18 * np.sqrt(1 - 2 * 2.7778 * norm.pdf(2.7778) / (1 - problem.mass_cut)), rel=0.01
    )


def test_extrapolation_when_asked_for() -> None:
    space = uq.ParameterSpace(theta=uq.Normal(0.5, 0.5))
    problem = uq.Calibration(scalar(), number(), NOISE, space=space, outside="extrapolate")
    assert problem.mass_cut == pytest.approx(2 * norm.sf(1.0), rel=1e-9)
    assert problem.limits("theta") == (-np.inf, np.inf)
    assert np.mean(np.abs(problem.prior_draws(20_000, 1)["theta"] - 0.5) > 0.5) == pytest.approx(0.317, abs=0.012)
    assert np.isfinite(problem.log_likelihood({"theta": 3.0}))


def test_outside_is_error_or_extrapolate() -> None:
    with pytest.raises(InputError, match="outside is 'ignore'; give 'error', 'extrapolate' or 'refined'"):
        uq.Calibration(scalar(), number(), NOISE, outside="ignore")  # type: ignore[arg-type]


def test_a_parameter_that_the_surrogate_does_not_have() -> None:
    space = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0), kappa=uq.Uniform(0.0, 1.0))
    with pytest.raises(
        InputError, match=r"Parameters \['kappa'\] are no inputs of the surrogate, which has \['theta'\]"
    ):
        uq.Calibration(scalar(), number(), NOISE, space=space)


def test_an_input_without_a_prior_is_a_condition_to_be_observed() -> None:
    space = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0))
    with pytest.raises(InputError, match=r"lack \['dose'\]"):
        uq.Calibration(dosed(), number(), NOISE, space=space)


def test_a_surrogate_that_does_not_know_its_priors() -> None:
    known = scalar()
    surrogate = GaussianProcessSurrogate(known.domain, known.process, known.bases, {})
    with pytest.raises(InputError, match=r"does not know its priors; give Calibration\(..., space=ParameterSpace"):
        uq.Calibration(surrogate, number(), NOISE)
    assert uq.Calibration(
        surrogate, number(), NOISE, space=uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0))
    ).parameters == ("theta",)


@pytest.mark.parametrize("name", ["theta", "sigma"])
def test_a_derived_quantity_with_the_name_of_a_parameter(name: str) -> None:
    with pytest.raises(InputError, match=f"derived: '{name}' is the name of a parameter. Choose another"):
        uq.Calibration(
            scalar(), number(), uq.GaussianNoise(sd=uq.HalfNormal(1.0)), derived={name: lambda p: p["theta"] + 1}
        )


def test_a_derived_quantity_that_is_no_function() -> None:
    with pytest.raises(InputError, match="derived: 'double' is 2.0; give a function of the parameters"):
        uq.Calibration(scalar(), number(), NOISE, derived={"double": 2.0})  # type: ignore[dict-item]


def test_an_observation_that_the_prior_says_is_next_to_impossible() -> None:
    with pytest.warns(
        PriorConflictWarning, match=r"'y' lies in the upper tail of what the prior predicts.*Check units"
    ):
        uq.Calibration(scalar(), number(100.0), NOISE)
    with pytest.warns(PriorConflictWarning, match="lower tail"):
        uq.Calibration(scalar(), number(-100.0), NOISE)


SCRIPT = """
import numpy as np, xarray as xr, uqms as uq
from calibration.problems import given_surrogate
surrogate = given_surrogate(np.linspace(0.0, 1.0, 5)[:, None], np.arange(5.0)[:, None])
close = xr.DataArray([2.0, 2.001, 2.002, 2.0], dims="replicate", name="y")
uq.NUTS(chains=1)
uq.NUTS(draws=5)
uq.Calibration(surrogate, xr.DataArray(100.0, name="y"), uq.GaussianNoise(sd=0.1))
uq.Calibration(surrogate, close, uq.GaussianNoise(sd=5.0))
"""


def test_warnings_point_at_the_users_line(tmp_path: Path) -> None:
    """In an interpreter of its own: the checks of shapes add frames of theirs here."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    tests = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])}
    got = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    places = [
        line.partition(f"{script}:")[2].split(": ")[:2] for line in got.stderr.splitlines() if "Warning: " in line
    ]
    assert places == [
        ["6", "ConvergenceWarning"],
        ["7", "ConvergenceWarning"],
        ["8", "PriorConflictWarning"],
        ["9", "DataWarning"],
    ]


def test_an_observation_in_the_tail_of_the_prior_predictive_is_told() -> None:
    # y = 2 theta + error of sd 1.5, theta ~ N(0, 1), noise sd 2: prior predictive N(0, 4 + 2.25 + 4)
    sd = np.sqrt(4.0 + 2.25 + 4.0)
    problem = linear_surrogate(2.0, 1.5)
    uq.Calibration(problem, number(2.8 * sd, x=0.5), uq.GaussianNoise(sd=2.0))  # p = 0.005
    for away, least in (
        (4.2, 2.7e-5),
        (5.3, 1.2e-7),
        (7.0, 2.6e-12),
    ):  # and the two-sided tail of a normal distribution
        with pytest.warns(PriorConflictWarning, match=r"'y' at \(x = 0.5\) lies in the upper tail") as told:
            uq.Calibration(problem, number(away * sd, x=0.5), uq.GaussianNoise(sd=2.0))
        found = re.search(r"p = (\S+) \(limit 0.001\)", str(told[0].message))
        assert found is not None
        assert least < float(found[1]) < 1e-3  # a tail that may be heavier than a normal one is never understated


def test_log_likelihood_wants_every_quantity() -> None:
    problem = uq.Calibration(scalar(), number(), uq.GaussianNoise(sd=uq.HalfNormal(1.0)))
    with pytest.raises(InputError, match=r"log_likelihood: got \['theta'\], expected \['sigma', 'theta'\]"):
        problem.log_likelihood({"theta": 0.5})
    assert problem.log_likelihood({"theta": np.full((2, 3), 0.5), "sigma": 1.0}).shape == (2, 3)


def test_a_sampler_that_is_a_word_is_refused() -> None:
    surrogate = given_surrogate(np.linspace(0.0, 1.0, 6)[:, None], np.zeros((6, 1)))
    problem = uq.Calibration(surrogate, xr.DataArray(0.1, name="y"), uq.GaussianNoise(sd=0.3))
    with pytest.raises(uq.errors.InputError, match=r"'nuts'; give NUTS"):
        problem.sample("nuts")


@pytest.mark.parametrize("prior", [uq.LogUniform(0.1, 10.0), uq.Beta(2.0, 2.0)])
def test_a_prior_may_leave_a_logarithm_and_not_a_logit_when_extrapolating(prior: uq.Prior) -> None:
    design = uq.sobol(uq.ParameterSpace(k=prior), 16, rng=1)
    surrogate = uq.GaussianProcess(scales="given").fit(uq.ensemble.build(design, {"y": np.log(design["k"].values)}))
    data, space = xr.DataArray(0.1, name="y"), uq.ParameterSpace(k=uq.Normal(1.0, 3.0))
    if prior.scale == "logit":
        with pytest.raises(uq.errors.InputError, match="prior of 'k' admits .*takes its logit"):
            uq.Calibration(surrogate, data, uq.GaussianNoise(sd=0.3), space=space, outside="extrapolate")
        return
    problem = uq.Calibration(surrogate, data, uq.GaussianNoise(sd=0.3), space=space, outside="extrapolate")
    assert np.isfinite(problem.log_likelihood({"k": np.array([-5.0, 0.0, 1e-3, 1.0])})).all()

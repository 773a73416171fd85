"""What goes wrong with tables of patients is said, and what looks odd but is clear gives the same posterior."""

import numpy as np
import pandas as pd
import pytest
from calibration.population.test_population import COVARIATES, SPACE, surrogate, table

import uqms as uq
from uqms.errors import DataError, DataWarning, InputError

POPULATION = uq.Population(SPACE, individual=("a",), covariates={"a": {"log(weight / 70)": 0.1}}, spread=0.05)


def read(frame: pd.DataFrame, **settings: object) -> uq.Observations:
    return uq.Observations.from_table(
        frame, output="y", value="y", coords={"t": "t"}, conditions=["x"], **{"subject": "id", **settings}
    )


def calibrate(
    frame: pd.DataFrame, subjects: object = COVARIATES, population: uq.Population = POPULATION, **settings: object
) -> uq.PopulationCalibration:
    noise = uq.GaussianNoise(sd=0.1)
    data = frame if isinstance(frame, uq.Observations) else read(frame)
    return uq.Calibration(
        surrogate(), data, noise, population=population, subjects=subjects, outside="extrapolate", **settings
    )


def log_likelihood(one: uq.PopulationCalibration, effects: dict[str, float]) -> float:
    z = np.array([[effects[label] for label in one.subjects.labels]])
    return float(one.log_likelihood({"a": np.array([0.5]), "b": np.array([0.4]), "c": np.array([0.5])}, z)[0])


EFFECTS = {f"s{j}": 0.3 * j - 0.5 for j in range(5)}


def test_a_missing_measurement_is_never_imputed() -> None:
    frame = table()
    frame.loc[3, "y"] = np.nan
    with pytest.raises(DataError, match=r"row 3 .*never imputed"):
        read(frame)
    without = calibrate(frame.drop(index=3))
    assert log_likelihood(calibrate(read(frame, missing="drop")), EFFECTS) == log_likelihood(without, EFFECTS)


def test_a_subject_whose_measurements_are_all_missing_is_named() -> None:
    frame = table()
    frame.loc[frame["id"] == "s2", "y"] = np.nan
    with pytest.raises(DataError, match="s2"):
        read(frame, missing="drop")


def test_a_measurement_twice_is_refused_unless_it_is_a_replicate_or_another_occasion() -> None:
    frame = table()
    twice = pd.concat([frame, frame.iloc[[4]].assign(y=0.7, visit="v1")], ignore_index=True)
    with pytest.raises(DataError, match="repeats output 'y' at the same place"):
        read(twice)
    numbered = twice.assign(copy=[0] * len(frame) + [1])
    assert len(calibrate(read(numbered, replicate="copy")).subjects) == 5
    visits = uq.Population(SPACE, individual=("a",), spread=0.05, occasions=("a",), occasion_spread=0.02)
    found = calibrate(read(twice, experiment="visit"), None, visits)
    assert len(found.subjects) == 5
    assert len(found.subjects.subject) == 6


def test_observations_that_do_not_say_whose_they_are() -> None:
    frame = table()
    alone = frame[frame["id"] == "s1"]
    with pytest.raises(InputError, match="subject="):
        calibrate(read(alone, subject=None), None, uq.Population(SPACE, individual=("a",), spread=0.05))


@pytest.mark.parametrize("kept", ["s1", "s0"])
def test_one_subject_in_a_population_is_warned_about(kept: str) -> None:
    frame = table()
    with pytest.warns(DataWarning, match="One subject"):
        calibrate(frame[frame["id"] == kept], COVARIATES.loc[[kept]])
    with pytest.warns(DataWarning, match="One subject"):  # others that are only predicted say nothing either
        calibrate(frame[frame["id"] == kept], without_data="predict")


def test_no_row_of_the_table_is_taken_for_another() -> None:
    """Order and type of labels play no role."""
    frame = table()
    wanted = log_likelihood(calibrate(frame), EFFECTS)
    assert log_likelihood(calibrate(frame, COVARIATES.iloc[[3, 0, 4, 2, 1]]), EFFECTS) == pytest.approx(wanted)
    assert log_likelihood(calibrate(frame.iloc[::-1]), EFFECTS) == pytest.approx(wanted)
    numbers = frame.assign(id=frame["id"].str[1:].astype(int))
    renamed = {label[1:]: value for label, value in EFFECTS.items()}
    text = COVARIATES.set_axis(COVARIATES.index.str[1:], axis=0)
    whole, categorical = text.index.astype(int), pd.CategoricalIndex(text.index)
    for subjects in (text, text.set_axis(whole, axis=0), text.set_axis(categorical, axis=0)):
        assert log_likelihood(calibrate(numbers, subjects), renamed) == pytest.approx(wanted)
    categories = frame.assign(id=frame["id"].astype("category"))
    assert log_likelihood(calibrate(categories), EFFECTS) == pytest.approx(wanted)


def test_without_a_table_subjects_keep_the_order_of_the_observations() -> None:
    population = uq.Population(SPACE, individual=("a",), spread=0.05)
    assert calibrate(table().iloc[::-1], None, population).subjects.labels == ("s4", "s3", "s2", "s1", "s0")


def _with(column: str, row: str, value: object) -> pd.DataFrame:
    out = COVARIATES.astype(object).copy()
    out.loc[row, column] = value
    return out


@pytest.mark.parametrize(
    ("subjects", "error", "message"),
    [
        (_with("weight", "s3", np.nan), DataError, "'weight' of subject 's3' is nan"),
        (_with("weight", "s3", None), DataError, "'weight' of subject 's3' is None"),
        (_with("weight", "s3", np.inf), DataError, "'weight' of subject 's3' is inf"),
        (_with("weight", "s3", "heavy"), DataError, "'weight' of subject 's3' is 'heavy'"),
        (_with("weight", "s3", 0.0), DataError, "log.* of subject 's3' is -inf"),
        (_with("weight", "s3", -70.0), DataError, "log.* of subject 's3' is nan"),
        (COVARIATES.rename(index={"s1": "S1"}), DataError, r"no row for \['s1'\]"),
        (COVARIATES.rename(index={"s1": "s1 "}), DataError, r"no row for \['s1'\]"),
        (COVARIATES.set_axis(range(5), axis=0), DataError, r"no row for .*such as \['0', '1', '2'\]"),
        (COVARIATES.rename(index={"s1": "s0"}), DataError, "'s0' has two rows"),
        (COVARIATES["weight"], InputError, "pandas DataFrame"),
        ({"weight": [1.0]}, InputError, "pandas DataFrame"),
        (COVARIATES.iloc[:0], DataError, "no row for"),
        (COVARIATES.set_index("female", append=True), InputError, "one label per row"),
        (pd.concat([COVARIATES, COVARIATES[["weight"]]], axis=1), InputError, "more than one column 'weight'"),
    ],
)
def test_tables_of_subjects_that_are_refused(subjects: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        calibrate(table(), subjects)


def test_a_subject_that_has_no_label() -> None:
    frame = table()
    frame.loc[2, "id"] = None
    with pytest.raises(DataError, match="no label in row 2"):
        read(frame)


def test_labels_that_became_floats_are_not_guessed_at() -> None:
    """A column of whole numbers with a gap is one of floats for pandas."""
    frame = table()
    floats = frame.assign(id=frame["id"].str[1:].astype(float))
    subjects = COVARIATES.set_axis(range(5), axis=0)
    with pytest.raises(DataError, match=r"no row for \['0.0', '1.0'.*such as \['0', '1', '2'\]"):
        calibrate(floats, subjects)


def test_a_patient_without_data_is_an_error_unless_it_is_asked_for() -> None:
    frame = table()
    with pytest.raises(DataError, match=r"\['s2'\] .*without_data='predict'"):
        calibrate(frame[frame["id"] != "s2"])
    one = calibrate(frame[frame["id"] != "s2"], without_data="predict")
    at = {**EFFECTS, "s2": 2.5}
    assert log_likelihood(one, at) == pytest.approx(log_likelihood(one, EFFECTS))  # its effect is that of the prior
    with pytest.raises(InputError, match="give 'error' or 'predict'"):
        calibrate(frame, without_data="ignore")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.nan}, DataError, "x"),
        ({"x": 7.0}, uq.errors.ExtrapolationError, "outside"),
        ({"t": 9.0}, uq.errors.ExtrapolationError, "outside"),
        ({"t": np.nan}, DataError, "t"),
        ({"y": np.inf}, DataError, "never imputed"),
        ({"y": "high"}, DataError, "numbers are required"),
    ],
)
def test_rows_that_are_refused(change: dict, error: type[Exception], message: str) -> None:
    frame = table().astype({"y": object})
    for name, value in change.items():
        frame.loc[4, name] = value
    with pytest.raises(error, match=message):
        calibrate(frame)

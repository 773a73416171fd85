"""`check` finds every mistake of a study file, and names its line."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from example_studies import GOOD, MODEL, check

import uqms as uq
from uqms.errors import MissingFileError, StudyError
from uqms.study import mistakes_of, new_study


@pytest.fixture
def folder(tmp_path):
    """Make the folder of a study without mistakes."""
    (tmp_path / "decay_model.py").write_text(MODEL)
    (tmp_path / "data.csv").write_text("hour,y\n0.0,2.0\n1.0,0.7\n2.0,0.3\n")
    return tmp_path


def test_a_study_without_mistakes(folder):
    assert check(folder, GOOD) == []
    study = uq.Study.from_toml(folder / "study.toml")
    assert study.space.names == ("k", "amplitude")
    assert study.observations.units == {"y": "mg/L"}


# What is replaced, by what, the text on the line of the mistake, and what the message says.
MISTAKES = [
    ("title = ", "titel = ", "titel", "did you mean 'title'"),
    ("[noise]", "[nois]", "[nois]", "did you mean 'noise'"),
    ('"LogNormal", median', '"LogNorml", median', "k = {", "did you mean 'LogNormal'"),
    ('"LogNormal", median', '"GaussianNoise", median', "k = {", "there is no 'GaussianNoise' here"),
    ("median = 1.0", "mu = 0.0", "k = {", "give 'median', which is exp(mu)"),
    ("median = 1.0", "median = -1.0", "k = {", "median is -1"),
    ("median = 1.0", 'median = "1.0"', "k = {", "got the text '1.0', expected a number"),
    ("median = 1.0", "median = true", "k = {", "got the boolean True, expected a number"),
    ("median = 1.0, ", "", "k = {", "`median` is missing"),
    ('kind = "LogNormal", median', "median", "k = {", "has no prior"),
    ("amplitude = {", "other = {", "[parameters]", "the simulator takes 'amplitude', which has neither a prior"),
    ("low = 1.0, high = 3.0", "low = 3.0, high = 1.0", "amplitude = {", "low"),
    ("decay_model:decay", "decay_model:decoy", "function =", "no `def decoy`"),
    ("decay_model:decay", "decay_modl:decay", "function =", "there is no decay_modl.py"),
    ("decay_model:decay", "decay", "function =", "no import name"),
    ('kind = "FunctionSimulator"', 'kind = "FunctionSimulater"', "kind = ", "did you mean 'FunctionSimulator'"),
    ('y = ["hour"], peak', 'y = "hour", peak', 'outputs = { y = "hour"', "expected an array"),
    ("{ hour = [0.0, 1.0, 2.0]", "{ our = [0.0, 1.0, 2.0]", "coords = { our", "hour"),
    ("hour = [0.0, 1.0, 2.0]", 'hour = [0.0, "x", 2.0]', "coords = { hour = [", "expected numbers, or text"),
    ("n = 16", "n = 16.5", "n = 16.5", "got the number 16.5, expected a whole number"),
    ("n = 16", "m = 16", "m = 16", "there is no argument 'm'"),
    ("n = 16\nrng = 1", "n = 16", "[design]", "`rng` is missing"),
    ("[design]", '[design]\nkind = "sobl"', 'kind = "sobl"', "did you mean 'sobol'"),
    ("tolerance", "tolerence", "outputs = { y = { kind", "it is called 'tolerance'"),
    (
        'kind = "GaussianProcess"',
        'kind = "GaussianProces"',
        'kind = "GaussianProces"',
        "did you mean 'GaussianProcess'",
    ),
    ('"data.csv"', '"dat.csv"', "file =", "there is no file 'dat.csv'"),
    ('value = "y"', 'value = "Y2"', "value =", "the table has no column 'Y2'"),
    ('hour = "hour" }\nunit', 'hour = "hours" }\nunit', 'coords = { hour = "hours"', "did you mean 'hour'?"),
    ('coords = { hour = "hour" }', "", "output", "repeats output 'y' at the same place"),
    (
        'y = ["hour"], peak = [] }\ncoords = {',
        'y = ["hour", "dose"], peak = [] }\ncoords = { dose = [1.0],',
        "[data]",
        "depends on 'dose', of which the data have no column",
    ),
    ('output = "y"', 'output = "z"', "output =", "the simulator has no output 'z'"),
    ('unit = "mg/L"\n[noise]', 'unit = "g/L"\n[noise]', 'unit = "g/L"', "measured in 'g/L' and simulated in 'mg/L'"),
    ('kind = "GaussianNoise"', 'kind = "Gaussian"', 'kind = "Gaussian"', "did you mean 'GaussianNoise'"),
    ("sd = { kind", "sigma = { kind", "sigma = {", "it is called 'sd'"),
    ('"HalfNormal", sd = 0.2', '"HalfNormal", sd = 0.2, mean = 1', 'sd = { kind = "HalfNormal"', "no argument 'mean'"),
    ("k < amplitude", "k < amplitud", "constraints", "amplitud"),
    ("[calibration]", "[calibration]\nfixed = { kk = 1.0 }", "fixed =", "there is no parameter 'kk'"),
    ("[calibration]", '[calibration]\noutside = "err"', "outside =", "did you mean 'error'"),
    ("[calibration]", "[calibration]\nnoise = 1", "noise = 1", "no argument 'noise'"),
    ('"Laplace" }', '"Laplace", draws = 0 }', "sampler =", "draws is 0"),
    ('"Laplace" }\nrng = 1', '"Laplace" }', "[sample]", "`rng` is missing"),
    ("n = 20", "n = [20]", "n = [20]", "expected a whole number"),
    ("question", "questions", "questions", "it is called 'question'"),
    ('question = "How fast?"', 'influence = "high"', "[report]", "`question` is missing"),
    ("[report]", "[report", "[report", "this is not valid TOML"),
]


@pytest.mark.parametrize(("old", "new", "line", "message"), MISTAKES)
def test_a_mistake_is_found_on_its_line(folder, old, new, line, message):
    assert GOOD.count(old) >= 1, old
    text = GOOD.replace(old, new, 1)
    found = check(folder, text)
    assert any(message in one[2] for one in found), found
    rows = text.splitlines()
    assert any(rows[number - 1].startswith(line) for number, _, said in found if message in said), found


def test_all_mistakes_are_found_at_once(folder):
    several = [
        "did you mean 'title'",
        "did you mean 'LogNormal'",
        "got the number 16.5, expected a whole number",
        "it is called 'tolerance'",
        "there is no file 'dat.csv'",
        "it is called 'sd'",
        "did you mean 'error'",
        "draws is 0",
        "it is called 'question'",
    ]
    text = GOOD
    for old, new, _, message in MISTAKES:
        if message in several:
            assert old in text, old
            text = text.replace(old, new, 1)
    found = check(folder, text)
    assert len(found) == len(several)
    for message in several:
        assert any(message in one[2] for one in found), message
    assert [one[0] for one in found] == sorted(one[0] for one in found)
    with pytest.raises(StudyError) as caught:
        uq.Study.from_toml(folder / "study.toml")
    assert [tuple(one) for one in caught.value.mistakes] != []
    assert str(caught.value).count("\n") == len(found)


def test_sections_that_belong_together(folder):
    without = re.sub(r"\[noise\].*?(?=\[calibration\])", "", GOOD, flags=re.DOTALL)
    assert [(one[0], one[2]) for one in check(folder, without)] == [
        (1, "the section [noise] is missing: a calibration needs it.")
    ]
    no_data = GOOD[: GOOD.index("[data]")]
    assert check(folder, no_data) == []
    assert "needs a calibration" in check(folder, no_data + "[verify]\nn = 20\nrng = 1\n")[0][2]
    assert "the section [simulator] is missing" in str(
        check(folder, "[parameters]\nk = { kind = 'Normal', mean = 0, sd = 1 }")
    )


def test_no_file(tmp_path):
    with pytest.raises(MissingFileError):
        mistakes_of(tmp_path / "study.toml")
    (tmp_path / "study.toml").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in mistakes_of(tmp_path / "study.toml")[0].message
    (tmp_path / "study.toml").write_text("a = " + "[" * 20000 + "]" * 20000)
    assert mistakes_of(tmp_path / "study.toml")


def test_python_and_file_give_the_same_text(folder):
    (folder / "study.toml").write_text(GOOD)
    study = uq.Study.from_toml(folder / "study.toml")
    path = folder / "copy.toml"
    text = study.to_toml(path)
    again = uq.Study.from_toml(path)
    assert again.to_toml() == text
    assert repr(again.space) == repr(study.space)
    assert json.dumps(again._document) == json.dumps(study._document)
    made = uq.Study(
        folder,
        parameters=study.space,
        simulator=study.simulator,
        design={"n": 16, "rng": 1},
        surrogate=uq.GaussianProcess(outputs={"y": uq.Curve(tolerance=1e-3)}),
        data={"file": "data.csv", "output": "y", "value": "y", "coords": {"hour": "hour"}, "unit": "mg/L"},
        noise=uq.GaussianNoise(sd=uq.HalfNormal(0.2)),
        sample={"sampler": uq.Laplace(), "rng": 1},
    )
    third = folder / "third.toml"
    made.to_toml(third)
    assert repr(uq.Study.from_toml(third).space) == repr(study.space)
    assert uq.Study.from_toml(third).noise == study.noise
    assert uq.Study.from_toml(third).design().identical(study.design())


def test_the_tables_on_the_page_are_read():
    page = (Path(uq.__file__).parents[1] / "docs" / "stages" / "study.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S)
    assert len(blocks) == 5

    def kinds(value):
        if isinstance(value, dict):
            yield from (value["kind"],) if "kind" in value else ()
        for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from kinds(one)

    for block in blocks:
        for kind in kinds(tomllib.loads(block)):
            name, _, method = kind.partition(".")
            found = getattr(uq, name, None) or getattr(uq.Observations, name, None)
            assert callable(getattr(found, method) if method else found), kind


def test_the_first_study_on_the_page_has_no_mistakes(tmp_path):
    page = (Path(uq.__file__).parents[1] / "docs" / "stages" / "study.md").read_text(encoding="utf-8")
    first, further = re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S)[:2]
    new_study(tmp_path / "drug")
    (tmp_path / "drug" / "study.toml").write_text(f"{first}\n{further}", encoding="utf-8")
    assert mistakes_of(tmp_path / "drug" / "study.toml") == []

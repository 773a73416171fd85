"""Rounds, a correction, and what to measure and run next: the steps of a file are the calls of a script."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from example_studies import check

import uqms as uq
from uqms.errors import MissingFileError
from uqms.study import Results

pytestmark = pytest.mark.slow

MODEL = """
import numpy as np

HOURS = np.array([0.0, 1.0, 2.0])

def decay(k, amplitude):
    return {"y": amplitude * np.exp(-k * HOURS)}
"""
STUDY = """
[parameters]
k = { kind = "LogNormal", median = 1.0, sigma = 0.3 }
amplitude = { kind = "Uniform", low = 1.0, high = 3.0 }

[simulator]
kind = "FunctionSimulator"
function = "decay_model:decay"
outputs = { y = ["hour"] }
coords = { hour = [0.0, 1.0, 2.0] }

[design]
n = 12
rng = 1

[runs]
workers = 0

[surrogate]
kind = "GaussianProcess"

[data]
file = "data.csv"
output = "y"
value = "y"
coords = { hour = "hour" }

[noise]
kind = "GaussianNoise"
sd = 0.02

[sample]
sampler = { kind = "Laplace", draws = 200 }
rng = 1

[[rounds]]
n = 6
rng = 2

[[rounds]]
n = 5
rng = 3

[verify]
n = 10
rng = 4

[correct]
sampler = { kind = "Laplace", draws = 200 }
rng = 5

[next_experiment]
size = 2
about = ["k"]
rng = 6
candidates = { outputs = "y", coords = { hour = [0.0, 0.5, 1.0, 2.0] } }

[next_runs]
n = 3
rng = 7

[report]
question = "How fast does it decay?"
"""
DATA = "hour,y\n0.0,2.01\n1.0,0.98\n2.0,0.49\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a study that was run."""
    folder = tmp_path_factory.mktemp("further")
    (folder / "decay_model.py").write_text(MODEL)
    (folder / "data.csv").write_text(DATA)
    (folder / "study.toml").write_text(STUDY)
    uq.Study.from_toml(folder / "study.toml").run()
    return folder


def test_every_step_is_that_of_a_script(folder: Path) -> None:
    study = uq.Study.from_toml(folder / "study.toml")
    results = study.run()
    simulator = uq.FunctionSimulator(
        lambda k, amplitude: {"y": amplitude * np.exp(-k * np.array([0.0, 1.0, 2.0]))},
        outputs={"y": ("hour",)},
        coords={"hour": [0.0, 1.0, 2.0]},
    )
    space = uq.ParameterSpace(k=uq.LogNormal(1.0, 0.3), amplitude=uq.Uniform(1.0, 3.0))
    table = pd.read_csv(folder / "data.csv")
    data = uq.Observations.from_table(table, output="y", value="y", coords={"hour": "hour"})
    noise = uq.GaussianNoise(sd=0.02)

    def calibrate(runs, outside="error"):
        surrogate = uq.GaussianProcess().fit(uq.ensemble.inside(runs) if outside == "refined" else runs)
        problem = uq.Calibration(surrogate, data, noise, outside=outside)
        return problem.sample(uq.Laplace(draws=200), rng=1)

    runs = uq.run(simulator, uq.sobol(space, 12, rng=1), workers=0)
    posterior = calibrate(runs)
    for n, seed in ((6, 2), (5, 3)):
        runs = uq.ensemble.combine(runs, uq.run(simulator, uq.refine(posterior, n, rng=seed), workers=0))
        posterior = calibrate(runs, "refined")
    assert results.ensemble().sizes["run"] == runs.sizes["run"] == 23
    same(results.posterior_after(2), posterior)
    tests = uq.run(simulator, uq.verification_design(posterior, 10, rng=4), workers=0)
    correction = uq.correct(posterior, tests, sampler=uq.Laplace(draws=200), rng=5)
    same(results.posterior, correction.posterior)
    assert results.correction is not None
    pd.testing.assert_frame_equal(results.correction.table, correction.table)
    ideas = uq.candidates(outputs="y", coords={"hour": [0.0, 0.5, 1.0, 2.0]})
    best = uq.next_experiment(correction.posterior, ideas, size=2, about=["k"], rng=6)
    pd.testing.assert_frame_equal(results.next_experiment.table, best.table)
    plan = uq.next_runs(correction.posterior, 3, rng=7)
    pd.testing.assert_frame_equal(results.next_runs.table, plan.table)
    written = pd.read_csv(study.results / "next_experiment.csv")
    np.testing.assert_allclose(written["gain"], best.table["gain"], rtol=1e-12)


def same(one: uq.Posterior, other: uq.Posterior) -> None:
    """Compare every draw of two posteriors."""
    for name, values in one.flat().items():
        np.testing.assert_array_equal(values, other.flat()[name])


def test_a_changed_round_leaves_those_before_it(folder: Path, tmp_path: Path) -> None:
    text = (folder / "study.toml").read_text()
    (folder / "changed.toml").write_text(text.replace("n = 5\nrng = 3", "n = 5\nrng = 4"))
    found = {one.step: one.state for one in uq.Study.from_toml(folder / "changed.toml").status()}
    current = ["runs", "surrogate", "posterior", "runs_round1", "surrogate_round1", "posterior_round1"]
    stale = ["runs_round2", "surrogate_round2", "posterior_round2", "verification", "correction"]
    assert found == dict.fromkeys(current, "up to date") | dict.fromkeys(
        [*stale, "next_experiment", "next_runs"], "stale"
    )


def test_other_noise_makes_every_round_stale(folder: Path) -> None:
    """The runs of a round are where the posterior before it was."""
    text = (folder / "study.toml").read_text()
    (folder / "noise.toml").write_text(text.replace("sd = 0.02", "sd = 0.03"))
    found = {one.step: one.state for one in uq.Study.from_toml(folder / "noise.toml").status()}
    assert [step for step, state in found.items() if state == "up to date"] == ["runs", "surrogate"]


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("next_experiment = 3", "`candidates` is missing"),
        ("next_runs = 3", "expected a table"),
        ("rounds = 3", "expected a table for each round"),
        ("rounds = [3]", "expected a table"),
    ],
)
def test_a_section_that_is_no_table_is_a_mistake(tmp_path: Path, head: str, told: str) -> None:
    (tmp_path / "decay_model.py").write_text(MODEL)
    (tmp_path / "data.csv").write_text(DATA)
    name = head.partition(" ")[0]
    sections = re.split(r"\n(?=\[+[a-z_]+\]+\n)", STUDY)
    text = "\n".join(one for one in sections if not re.match(rf"\[+{name}\]", one))
    found = check(tmp_path, f"{head}\n{text}")
    assert any(number == 1 and told in message for number, _, message in found), found


def test_a_posterior_that_is_not_corrected_yet_is_missing(folder: Path, tmp_path: Path) -> None:
    whole = shutil.copytree(folder, tmp_path / "study")
    (whole / "results" / "correction.nc").unlink()
    results = uq.Study.from_toml(whole / "study.toml")
    with pytest.raises(MissingFileError, match="not corrected yet"):
        _ = Results(results).posterior
    assert Results(results).posterior_after(2).draws.sizes["draw"] == 200


def test_the_report_has_what_is_next(folder: Path, tmp_path: Path) -> None:
    given = {}

    class Page:
        def to_html(self, path: Path) -> Path:
            return path

    def report(posterior, verification, **settings):
        given.update(settings, posterior=posterior, verification=verification)
        return Page()

    study = uq.Study.from_toml(folder / "study.toml")
    uq.study.write_report(study, report=report)
    assert list(given["next_experiment"]) == ["measurements", "runs"]
    assert type(given["verification"]).__name__ == "Correction"
    assert given["posterior"] is given["verification"].posterior


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("n = 6\nrng = 2", "n = 6", "[[rounds]]", "`rng` is missing"),
        ("n = 6\n", 'n = 6\nmember = "cell"\n', 'member = "cell"', "there are no runs of a member 'cell'"),
        ("[verify]\nn = 10\nrng = 4", "", "[correct]", r"a correction takes the runs of \[verify\]"),
        ("candidates = {", "ideas = {", "[next_experiment]", "`candidates` is missing"),
        ('outputs = "y", coords', 'output = "y", coords', "candidates = {", "it is called 'outputs'"),
        ("n = 3\nrng = 7", "n = 3", "[next_runs]", "`rng` is missing"),
    ],
)
def test_mistakes_have_a_line(tmp_path: Path, old: str, new: str, line: str, told: str) -> None:
    (tmp_path / "decay_model.py").write_text(MODEL)
    (tmp_path / "data.csv").write_text(DATA)
    assert STUDY.count(old) == 1
    text = STUDY.replace(old, new)
    found = check(tmp_path, text)
    at = text.splitlines().index(next(one for one in text.splitlines() if one.startswith(line))) + 1
    assert any(re.search(told, message) and number == at for number, _, message in found), found

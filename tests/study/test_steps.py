"""`run` does what is missing or stale, `status` says why, and an interruption keeps what was computed."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from example_studies import GOOD

import uqms as uq
from uqms.cli import main
from uqms.errors import InputError, SamplingInterrupted, StorageError
from uqms.study import write_report

pytestmark = pytest.mark.slow

MODEL = """
import os
import numpy as np

HOURS = np.array([0.0, 1.0, 2.0])

def decay(k, amplitude):
    with open(os.environ["DECAY_CALLS"], "a") as file:
        file.write("x")
    return {"y": amplitude * np.exp(-k * HOURS), "peak": amplitude}

def half_life(p):
    return np.log(2.0) / p["k"]
"""
STUDY = (
    GOOD.replace('constraints = ["k < amplitude"]', 'derived = { half_life = "decay_model:half_life" }').replace(
        'kind = "Laplace"', 'kind = "Laplace", draws = 200'
    )
    + '[runs]\nworkers = 0\n[predictions.peak]\noutputs = ["peak"]\nrng = 1\n'
)
STEPS = ["runs", "surrogate", "posterior", "verification", "prediction peak"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run a study once, for tests that copy it."""
    folder = tmp_path_factory.mktemp("finished") / "study"
    folder.mkdir()
    (folder / "decay_model.py").write_text(MODEL)
    (folder / "data.csv").write_text("hour,y\n0.0,2.0\n1.0,0.7\n2.0,0.3\n")
    (folder / "study.toml").write_text(STUDY)
    os.environ["DECAY_CALLS"] = str(folder / "calls")
    uq.Study.from_toml(folder / "study.toml").run()
    return folder


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
    """Copy a study with its results."""
    monkeypatch.setenv("DECAY_CALLS", str(tmp_path / "study" / "calls"))
    return Path(shutil.copytree(finished, tmp_path / "study"))


def states(folder: Path) -> dict[str, str]:
    """Return the state of each step."""
    return {one.step: one.state for one in uq.Study.from_toml(folder / "study.toml").status()}


def change(folder: Path, old: str, new: str, name: str = "study.toml") -> None:
    """Replace text of a file."""
    text = (folder / name).read_text()
    assert text.count(old) == 1, old
    (folder / name).write_text(text.replace(old, new))


def calls(folder: Path) -> int:
    """Return how often the simulator was called."""
    return len((folder / "calls").read_text())


def worked(folder: Path) -> list[str]:
    """Run a study and return the steps that were done."""
    lines: list[str] = []
    uq.Study.from_toml(folder / "study.toml").run(lines.append)
    return [one.partition(":")[0] for one in lines if one.endswith("working")]


def test_a_second_run_does_nothing(folder):
    assert states(folder) == dict.fromkeys(STEPS, "up to date")
    assert calls(folder) == 16 + 20
    before = {one.name: one.stat().st_mtime_ns for one in (folder / "results").iterdir()}
    assert worked(folder) == []
    assert calls(folder) == 36
    assert {one.name: one.stat().st_mtime_ns for one in (folder / "results").iterdir()} == before


def test_the_results_are_those_of_the_objects(folder):
    study = uq.Study.from_toml(folder / "study.toml")
    results = study.run()
    ensemble = uq.run(study.simulator, uq.sobol(study.space, 16, rng=1), workers=0)
    surrogate = uq.GaussianProcess(outputs={"y": uq.Curve(tolerance=1e-3)}).fit(ensemble)
    problem = uq.Calibration(
        surrogate,
        study.observations,
        noise=uq.GaussianNoise(sd=uq.HalfNormal(0.2)),
        derived={"half_life": lambda p: np.log(2.0) / p["k"]},
    )
    posterior = problem.sample(uq.Laplace(draws=200), rng=1)
    for name, draws in posterior.draws.data_vars.items():
        assert np.array_equal(draws, results.posterior.draws[name])
    runs = uq.run(study.simulator, uq.verification_design(posterior, 20, rng=1), workers=0)
    assert repr(results.verification) == repr(uq.verify(posterior, runs))
    prediction = posterior.predict(outputs=["peak"], rng=1)
    assert prediction.mean.identical(results.predictions["peak"].mean)
    import xarray as xr

    stored = xr.open_datatree(folder / "results" / "prediction_peak.nc")
    assert float(stored["mean"]["peak"]) == float(prediction.mean["peak"])
    stored.close()


# What is changed in which file, the steps that are stale, and what is said about the first of them.
CHANGES = [
    ("study.toml", "n = 16", "n = 20", STEPS, "section [design] changed"),
    ("study.toml", "sigma = 0.3", "sigma = 0.31", STEPS, "section [parameters] changed"),
    ("study.toml", "tolerance = 1e-3", "tolerance = 1e-4", STEPS[1:], "section [surrogate] changed"),
    ("study.toml", "sd = 0.2", "sd = 0.3", STEPS[2:], "section [noise] changed"),
    ("study.toml", "draws = 200", "draws = 300", STEPS[2:], "section [sample] changed"),
    ("data.csv", "0.3\n", "0.31\n", STEPS[2:], "file data.csv changed"),
    ("decay_model.py", "np.log(2.0) / ", "0.6931 / ", STEPS[2:], "code decay_model:half_life changed"),
    ("decay_model.py", "amplitude * np.exp", "1.01 * amplitude * np.exp", STEPS, "code decay_model:decay changed"),
    ("study.toml", "n = 20\nrng = 1", "n = 20\nrng = 2", STEPS[3:4], "section [verify] changed"),
    ("study.toml", 'outputs = ["peak"]', 'outputs = ["peak", "y"]', STEPS[4:], "section [predictions.peak] changed"),
    ("study.toml", 'title = "Decay"', 'title = "Elimination"', [], ""),
    ("study.toml", "workers = 0", "workers = 1", [], ""),
    (
        "study.toml",
        "[noise]",
        '[discrepancy]\nkind = "OffsetDiscrepancy"\n[noise]',
        STEPS[2:],
        "section [discrepancy] is new",
    ),
]


@pytest.mark.parametrize(("name", "old", "new", "stale", "reason"), CHANGES)
def test_what_was_changed_is_stale_and_all_that_follows(folder, name, old, new, stale, reason):
    change(folder, old, new, name)
    found = uq.Study.from_toml(folder / "study.toml").status()
    assert [one.step for one in found if one.state == "stale"] == stale
    assert all(one.current for one in found if one.step not in stale)
    if stale:
        assert next(one.reason for one in found if not one.current).startswith(reason)
        with pytest.raises(InputError, match=f"{stale[0]} is stale"):
            write_report(uq.Study.from_toml(folder / "study.toml"), report=print)


def test_only_stale_steps_are_done_again(folder):
    change(folder, "sd = 0.2", "sd = 0.3")
    assert worked(folder) == STEPS[2:]
    assert calls(folder) == 36 + 20  # the draws of the other posterior
    change(folder, "n = 16", "n = 20")
    assert worked(folder) == STEPS
    assert calls(folder) == 56 + 4 + 20  # a Sobol design of 20 begins with that of 16
    assert worked(folder) == []


def test_a_damaged_or_removed_file_is_told_and_made_again(folder):
    file = folder / "results" / "posterior.nc"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    (state,) = [one for one in uq.Study.from_toml(folder / "study.toml").status() if one.step == "posterior"]
    assert state.state == "damaged"
    assert "its hash differs" in state.reason
    os.remove(folder / "results" / "prediction_peak.nc")
    assert states(folder)["prediction peak"] != "up to date"
    assert worked(folder) == STEPS[2:3] + STEPS[4:]
    (folder / "results" / "record.json").write_text("{")
    with pytest.raises(StorageError, match=r"record\.json cannot be read"):
        uq.Study.from_toml(folder / "study.toml").status()


def test_an_interruption_keeps_the_runs(folder):
    shutil.rmtree(folder / "results")
    (folder / "calls").unlink()
    stop = 'if file.tell() == 7:\n            raise KeyboardInterrupt\n        file.write("x")'
    change(folder, 'file.write("x")', stop, "decay_model.py")
    with pytest.raises(KeyboardInterrupt):
        uq.Study.from_toml(folder / "study.toml").run()
    assert states(folder)["runs"] == "missing"
    assert main(["study", "status", str(folder / "study.toml")]) == 0
    assert calls(folder) == 7
    (folder / "calls").write_text("x" * 8)  # it goes on, as the same simulator
    study = uq.Study.from_toml(folder / "study.toml")
    study.ensemble()
    assert calls(folder) - 8 == 16 - 7
    # Posterior and later steps: whatever fails, the earlier files are kept.
    change(folder, 'kind = "Laplace", draws = 200', 'kind = "NUTS", draws = 100000000, tune = 1')
    lines: list[str] = []

    def interrupt(line):
        lines.append(line)
        if line.startswith("posterior"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        uq.Study.from_toml(folder / "study.toml").run(interrupt)
    assert states(folder) == {**dict.fromkeys(STEPS, "missing"), "runs": "up to date", "surrogate": "up to date"}


def test_draws_of_a_sampler_that_was_stopped_are_kept(folder, monkeypatch):
    """They are in a file of their own, which the posterior of the next call replaces."""
    import xarray as xr

    file = folder / "results" / "posterior_interrupted.nc"
    (folder / "results" / "posterior.nc").unlink()
    k = np.random.default_rng(1).normal(size=(2, 7))
    given = xr.Dataset({"k": (("chain", "draw"), k), "__line__": (("chain", "draw", "coordinate"), k[..., None])})
    draws = xr.DataTree.from_dict({"posterior": given})
    sample, partial = uq.Study.posterior, [draws, None]

    def stopped(self, problem):
        raise SamplingInterrupted("Sampling stopped early: 7 draws of 2 chains. The partial draws", partial.pop(0))

    monkeypatch.setattr(uq.Study, "posterior", stopped)
    with pytest.raises(
        SamplingInterrupted, match=r"7 draws of 2 chains\. The draws so far are in .*_interrupted.nc"
    ) as told:
        uq.Study.from_toml(folder / "study.toml").run()
    assert told.value.partial is draws
    with xr.open_datatree(file) as kept:
        np.testing.assert_array_equal(kept["posterior"]["k"].values, k)
        assert list(kept["posterior"].data_vars) == ["k"]
    with pytest.raises(SamplingInterrupted, match="The partial draws$"):  # stopped before there were draws
        uq.Study.from_toml(folder / "study.toml").run()
    assert file.exists()
    monkeypatch.setattr(uq.Study, "posterior", sample)
    uq.Study.from_toml(folder / "study.toml").run()
    assert not file.exists()


def test_the_report_gets_the_results(folder):
    study = uq.Study.from_toml(folder / "study.toml")
    asked = {}

    class Page:
        def to_html(self, path):
            Path(path).write_text("<html></html>")
            return path

    def report(posterior, verification, **settings):
        asked.update(settings, posterior=posterior, verification=verification)
        return Page()

    path = write_report(study, report=report)
    assert path == folder / "results" / "report.html"
    assert path.read_text() == "<html></html>"
    assert (asked["question"], asked["title"]) == ("How fast?", "Decay")
    assert asked["predictions"]["peak"].mean.identical(study.run().predictions["peak"].mean)
    assert asked["ensemble"].identical(study.run().ensemble())
    assert asked["posterior"].draws.identical(study.run().posterior.draws)
    assert repr(asked["verification"]) == repr(study.run().verification)


def test_the_report_is_written(folder):
    assert main(["study", "report", str(folder / "study.toml")]) == 0
    assert "How fast?" in (folder / "results" / "report.html").read_text()


# --------------------------------------------------------------------------------------------------------- command line
def test_the_commands(folder, capsys, tmp_path):
    path = str(folder / "study.toml")
    assert main(["study", "check", path]) == 0
    assert "no mistakes" in capsys.readouterr().out
    assert main(["study", "status", path, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(one["step"], one["state"]) for one in rows] == [(step, "up to date") for step in STEPS]
    assert main(["study", "run", path]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[: len(STEPS)] == [f"{step}: up to date" for step in STEPS]
    assert "half_life" in out
    assert "Verdict" in out
    change(folder, 'kind = "GaussianNoise"', 'kind = "GaussianNoize"')
    for command in ("check", "run", "status", "report"):
        assert main(["study", command, path]) == 1
        assert (
            "study.toml:24: noise.kind: there is no 'GaussianNoize' here; did you mean 'GaussianNoise'?"
            in capsys.readouterr().out
        )
    assert main(["study", "check", path, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["line"] == 24
    assert main(["study", "check", str(tmp_path / "none.toml")]) == 2


@pytest.mark.slow
def test_a_new_study_runs_as_it_is(tmp_path, capsys):
    place = tmp_path / "drug"
    assert main(["study", "new", str(place)]) == 0
    assert main(["study", "check", str(place / "study.toml")]) == 0
    assert main(["study", "new", str(place)]) == 2
    assert "is not empty" in capsys.readouterr().err
    change(place, '{ kind = "NUTS", draws = 1000, tune = 1000 }', '{ kind = "Laplace" }')
    assert main(["study", "run", str(place / "study.toml"), "--workers", "2"]) == 0
    assert "half_life" in capsys.readouterr().out
    assert not list(place.glob("__pycache__"))

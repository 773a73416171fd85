"""The command `uqms`: what it prints, what it returns, and that it is light."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from stores import FROZEN, campaign, edit, fill

import uqms
from uqms.cli import main
from uqms.ensemble import from_netcdf
from uqms.runs import Record, RunState, RunStore
from uqms.runs.store import Row

ROOT = Path(uqms.__file__).parents[1]


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Make a store with 5 completed runs and a failed one."""
    monkeypatch.setenv("COLUMNS", "100")
    path = tmp_path / "runs.db"
    fill(path, n=5)
    of = campaign()
    import numpy as np

    x = np.array([[9.0, 9.0]])
    message = "ValueError: no \x1b[31mroot\nin this interval, however long one looks for it and wherever"
    with RunStore(path) as store:
        store.put(of, [Row(of.keys(x)[0], x[0], Record(RunState.FAILED, 2.0, message, None, 3))])
    edit(path, "UPDATE runs SET ended = '2026-01-0' || rowid || 'T12:00:00.000+00:00'")
    return path


def call(capsys, *words):
    """Return status, output and errors of a command."""
    status = main(list(map(str, words)))
    out, err = capsys.readouterr()
    return status, out, err


def test_list(path, capsys):
    fill(path, campaign(fidelity="coarse"), n=2)
    status, out, err = call(capsys, "runs", "list", path)
    assert (status, err) == (0, "")
    head, first, second = out.splitlines()
    assert head.split() == "campaign simulator fidelity inputs outputs runs completed failed seconds last".split()
    assert first.split()[:9] == ["9a09b6aae89f", "frozen", "a,", "b", "y,", "c", "6", "5", "1"]
    assert second.split()[1:3] == ["frozen", "coarse"]


def test_list_as_json(path, capsys):
    status, out, _ = call(capsys, "runs", "list", "--json", path)
    (row,) = json.loads(out)
    assert status == 0
    assert row["campaign"] == campaign().id
    assert row["identity"] == dict(campaign().simulator.identity)
    assert (row["runs"], row["completed"], row["failed"], row["timeout"], row["seconds"]) == (6, 5, 1, 0, 3.25)


def test_list_of_an_empty_store(tmp_path, capsys):
    RunStore(tmp_path / "runs.db").close()
    assert call(capsys, "runs", "list", tmp_path / "runs.db") == (0, "none\n", "")
    assert call(capsys, "runs", "list", "--json", tmp_path / "runs.db") == (0, "[]\n", "")


@pytest.mark.parametrize("columns", [60, 100, 200])
def test_show_fits_the_terminal(path, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    status, out, err = call(capsys, "runs", "show", path)
    lines = out.splitlines()
    assert (status, err, len(lines)) == (0, "", 7)
    assert lines[0].split() == ["key", "a", "b", "state", "seconds", "attempts", "ended", "message"]
    assert lines[6].split()[1:8] == ["9", "9", "failed", "2", "3", "2026-01-06", "12:00:00"]
    assert "\x1b" not in out  # no message is a command to the terminal
    if columns == 100:
        assert max(map(len, lines)) <= 100
    assert ("wherever" in out) == (columns == 200)


def test_show_chooses(path, capsys):
    assert len(call(capsys, "runs", "show", path, "--state", "failed")[1].splitlines()) == 2
    assert call(capsys, "runs", "show", path, "--state", "timeout")[1] == "none\n"
    out = call(capsys, "runs", "show", path, "--limit", "2")[1].splitlines()
    assert len(out) == 4
    assert out[3] == "... and 4 more; show all with --limit 0"
    assert len(call(capsys, "runs", "show", path, "--limit", "0", "--campaign", "frozen")[1].splitlines()) == 7


def test_show_as_json(path, capsys):
    status, out, _ = call(capsys, "runs", "show", path, "--json", "--state", "failed")
    (row,) = json.loads(out)
    assert status == 0
    assert (row["a"], row["b"], row["state"], row["attempts"], row["seed"]) == (9.0, 9.0, "failed", 3, None)
    assert row["message"].startswith("ValueError: no \x1b[31mroot\nin")
    assert row["ended"].startswith("2026-01-06T12:00:00")
    assert len(row["key"]) == 64


def test_check(path, capsys):
    said = "ok: 6 runs of 1 campaign, all hashes match\n"
    assert call(capsys, "runs", "check", path) == (0, said, "")
    assert json.loads(call(capsys, "runs", "check", path, "--json")[1]) == {
        "ok": True, "runs": 6, "campaigns": 1, "message": "",
    }  # fmt: skip
    edit(path, "UPDATE runs SET seed = 1 WHERE rowid = 1")
    status, out, err = call(capsys, "runs", "check", path)
    assert (status, err, len(out.splitlines())) == (1, "", 1)
    assert "its hash does not match" in out
    status, out, _ = call(capsys, "runs", "check", path, "--json")
    assert (status, json.loads(out)["ok"]) == (1, False)
    os.truncate(path, 9000)
    status, out, _ = call(capsys, "runs", "check", path)
    assert status == 1
    assert "truncated" in out


def test_check_of_a_newer_file_is_no_failed_check(path, capsys):
    edit(path, "PRAGMA user_version = 3")
    status, out, err = call(capsys, "runs", "check", path)
    assert (status, out) == (2, "")
    assert "update uqms" in err


def test_looking_changes_no_older_file(tmp_path, capsys):
    import shutil

    path = Path(shutil.copy(FROZEN / "runs_format_1.db", tmp_path))
    before = path.read_bytes()
    for words in (["list"], ["show"], ["check"], ["export"], ["invalidate", "--dry-run", "--state", "failed"]):
        more = [tmp_path / "x.csv"] if words == ["export"] else []
        assert call(capsys, "runs", words[0], path, *more, *words[1:])[0] == 0
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["runs_format_1.db", "x.csv"]


def test_export(path, tmp_path, capsys):
    assert call(capsys, "runs", "export", path, tmp_path / "x.nc") == (0, "", "")
    assert from_netcdf(tmp_path / "x.nc").sizes["run"] == 6
    assert call(capsys, "runs", "export", path, tmp_path / "x.csv", "--campaign", "9a09b6") == (0, "", "")
    assert len((tmp_path / "x.csv").read_text().splitlines()) >= 7
    fill(path, campaign(fidelity="coarse"), n=2)
    status, out, err = call(capsys, "runs", "export", path, tmp_path / "y.nc")
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("uqms: ")
    assert "several campaigns" in err


def test_invalidate(path, capsys):
    ask = ["runs", "invalidate", path, "--where", "a=1:3", "--where", "b=-1:0"]
    assert call(capsys, *ask, "--dry-run") == (0, "3 runs would be removed\n", "")
    assert call(capsys, *ask, "--before", "2026-01-03T12:00+00:00", "--yes") == (0, "1 run removed\n", "")
    assert call(capsys, *ask, "--yes") == (0, "2 runs removed\n", "")
    assert call(capsys, *ask, "--yes") == (0, "0 runs removed\n", "")
    state = ["--state", "failed", "--state", "timeout", "--campaign", "frozen"]
    assert call(capsys, "runs", "invalidate", path, *state, "--yes") == (0, "1 run removed\n", "")
    with RunStore(path, readonly=True) as store:
        assert store.runs()["a"].tolist() == [0, 4]


@pytest.mark.parametrize("text", ["a", "a=1", "a=1:x", "a=:", "=1:2"])
def test_ranges_that_cannot_be_meant(path, capsys, text):
    status, out, err = call(capsys, "runs", "invalidate", path, "--where", text, "--yes")
    assert (status, out) == (2, "")
    assert "uqms: " in err


def test_everything_goes_only_when_it_is_said(path, capsys):
    status, _, err = call(capsys, "runs", "invalidate", path, "--yes")
    assert status == 2
    assert "no condition selects the runs" in err
    with pytest.raises(SystemExit) as stopped:  # neither --yes nor --dry-run
        main(["runs", "invalidate", str(path), "--campaign", "frozen"])
    assert stopped.value.code == 2
    capsys.readouterr()
    assert call(capsys, "runs", "invalidate", path, "--campaign", "frozen", "--yes") == (0, "6 runs removed\n", "")


def test_salvage(path, tmp_path, capsys):
    edit(path, "UPDATE runs SET seed = 1 WHERE rowid = 1")
    new = tmp_path / "new.db"
    assert call(capsys, "runs", "salvage", path, new) == (0, f"5 runs saved in {new}\n", "")
    assert call(capsys, "runs", "check", new)[0] == 0
    status, _, err = call(capsys, "runs", "salvage", path, new)
    assert status == 2
    assert "exists already" in err


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["show"],
        ["check"],
        ["export", "x.nc"],
        ["invalidate", "--state", "failed", "--yes"],
        ["salvage", "new"],
    ],
)
def test_a_store_that_is_not_there(tmp_path, capsys, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = call(capsys, "runs", words[0], "none.db", *words[1:])
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert "there is no file" in err
    assert "none.db; check the path" in err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--state", "fail"], "give one or several of planned"),
        (["--limit", "-1"], "--limit is -1"),
        (["--campaign", "x"], "no camp"),
    ],
)
def test_errors_are_one_line(path, capsys, words, said):
    status, out, err = call(capsys, "runs", "show", path, *words)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert said in err


@pytest.mark.parametrize("words", [[], ["runs"], ["runs", "show"], ["walk"]])
def test_words_that_are_missing_or_wrong(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "usage: uqms" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- as a real process
def start(*words, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, **options}
    return subprocess.Popen([sys.executable, "-W", "error", "-m", "uqms", *map(str, words)], **options)


def test_version(path):
    with start("--version") as process:
        assert process.communicate() == (f"uqms {uqms.__version__}\n", "")
        assert process.returncode == 0


def test_help_is_light():
    code = "import sys, uqms.cli\nsys.modules['pandas'] = None\ntry:\n uqms.cli.main(['runs', '--help'])\nexcept SystemExit:\n pass"  # noqa: E501
    code += "\nprint(sorted({'numpy', 'pandas', 'xarray', 'uqms.runs', 'uqms.ensemble'} & set(filter(sys.modules.get, sys.modules))))"  # noqa: E501
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert out.stdout.splitlines()[-1] == "[]"
    assert "invalidate" in out.stdout


def test_a_reader_that_has_seen_enough(path):
    fill(path, n=3000)
    with start("runs", "show", path, "--limit", "0", "--json") as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0


def test_interrupted(path, monkeypatch, capsys):
    def stop(given):
        raise KeyboardInterrupt

    monkeypatch.setattr("uqms.runs.store.RunStore.campaigns", stop)
    assert main(["runs", "list", str(path)]) == 128 + signal.SIGINT


def test_a_range_that_is_given_twice_is_not_half_ignored(path, capsys):
    words = ("runs", "invalidate", path, "--where", "a=1:2", "--where", "a=4:6")
    for do in ("--dry-run", "--yes"):
        status, out, err = call(capsys, *words, do)
        assert (status, out) == (2, "")
        assert "--where names an input twice" in err
    assert call(capsys, "runs", "invalidate", path, "--where", "a=1:2", "--where", "b=-1:0", "--dry-run") == (
        0, "2 runs would be removed\n", "",
    )  # fmt: skip


def test_a_name_is_not_taken_for_the_beginning_of_an_id(path, capsys):
    status, out, err = call(capsys, "runs", "invalidate", path, "--campaign", "9a09b", "--yes")
    assert (status, out) == (2, "")
    assert "no campaign '9a09b'" in err

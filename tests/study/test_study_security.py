"""Nothing outside of a study's folder is imported, read, written or run, and no text of a file is code."""

import os
import sys
from pathlib import Path

import pytest
from example_studies import GOOD, MODEL, check

import uqms as uq
from uqms.errors import InputError, PathError
from uqms.study.folder import Folder


@pytest.fixture
def folder(tmp_path):
    """Make a study without mistakes, beside files that it must not reach."""
    place = tmp_path / "study"
    place.mkdir()
    (place / "decay_model.py").write_text(MODEL)
    (place / "data.csv").write_text("hour,y\n0.0,2.0\n1.0,0.7\n2.0,0.3\n")
    (tmp_path / "outside.csv").write_text("hour,y\n0.0,2.0\n")
    (tmp_path / "outside_model.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef decay(k, amplitude): ...\n")
    return place


def ran(folder: Path) -> bool:
    """Say whether the module outside of the folder was imported."""
    return (folder.parent / "ran").exists()


# ---------------------------------------------------------------------------------------------------------------- paths
@pytest.mark.parametrize(
    "path",
    [
        "../outside.csv",
        "/etc/passwd",
        "~/data.csv",
        "sub/../../outside.csv",
        "link.csv",
        "linked/outside.csv",
        "a\0b",
        "",
    ],
)
def test_a_path_that_leaves_the_folder_is_refused(folder, path):
    (folder / "link.csv").symlink_to("../outside.csv")
    (folder / "linked").symlink_to("..")
    with pytest.raises(PathError, match="leads out of the study's folder"):
        Folder(folder).file(path)
    if "\0" not in path:
        (found,) = [one for one in check(folder, GOOD.replace("data.csv", path)) if one[1] == "data.file"]
        assert "leads out of the study's folder" in found[2]


def test_a_link_inside_of_the_folder_is_followed(folder):
    (folder / "link.csv").symlink_to("data.csv")
    (folder / "loop").symlink_to("loop")
    assert [one[1] for one in check(folder, GOOD.replace("data.csv", "loop"))] == ["data.file"]
    assert check(folder, GOOD.replace("data.csv", "link.csv")) == []


@pytest.mark.parametrize(
    ("section", "line"), [("results", 'results = "../elsewhere"\n'), ("runs.store", '[runs]\nstore = "../runs.db"\n')]
)
def test_nothing_is_written_outside(folder, section, line):
    text = GOOD + line if line.startswith("[") else line + GOOD
    assert [(one[1], "leads out" in one[2]) for one in check(folder, text)] == [(section, True)]


# ----------------------------------------------------------------------------------------------------------------- code
@pytest.mark.parametrize(
    "name",
    [
        "outside_model:decay",
        "../outside_model:decay",
        "os:system",
        "shutil:rmtree",
        "uqms.study.folder:sha256_of",
        "builtins:eval",
        "decay_model:__import__",
        "decay_model:CALLED.append",
        "linked_model:decay",
        "lambda k, amplitude: 1",
        "__import__('os'):system",
    ],
)
def test_functions_come_from_the_folder_only(folder, name, monkeypatch):
    monkeypatch.syspath_prepend(str(folder.parent))
    (folder / "linked_model.py").symlink_to("../outside_model.py")
    found = check(folder, GOOD.replace("decay_model:decay", name))
    assert [one[1] for one in found] == ["simulator.function"], found
    assert not ran(folder)


def test_a_module_is_not_imported_unless_it_defines_the_function(folder):
    (folder / "other_model.py").write_text(f"open({str(folder.parent / 'ran')!r}, 'w')\n")
    assert "no `def decay`" in check(folder, GOOD.replace("decay_model:decay", "other_model:decay"))[0][2]
    assert not ran(folder)


def test_a_module_that_python_has_under_that_name_is_refused(folder):
    (folder / "json.py").write_text("def decay(k, amplitude): ...\n")
    (found,) = check(folder, GOOD.replace("decay_model:decay", "json:decay"))
    assert "Python has another module 'json'" in found[2]
    assert "study" not in str(sys.modules["json"].__file__)


def test_text_is_not_code(folder):
    text = GOOD.replace("k < amplitude", "__import__('os').system('touch ran') < 1")
    assert check(folder, text)
    prior = '{ kind = "Normal", mean = 0, sd = 1 }'
    covariates = f"""\n[population]\nindividual = ["k"]\ncovariates = {{ k = {{ "__import__('os')" = {prior} }} }}\n"""
    assert check(folder, GOOD + covariates)
    assert not (folder / "ran").exists()


def program(folder: Path, command: str, more: str = "") -> list[tuple[int, str, str]]:
    """Return the mistakes of a study whose simulator is a program."""
    simulator = (
        f'kind = "ExecutableSimulator"\ncommand = {command}\nread = {{ kind = "JSONFile", path = "out.json" }}\n{more}'
    )
    head, _, tail = GOOD.partition('kind = "FunctionSimulator"\nfunction = "decay_model:decay"\n')
    return check(folder, head + simulator + tail)


def test_programs_come_from_the_folder_only(folder):
    (folder / "solver.sh").write_text("#!/bin/sh\n")
    (folder / "link.sh").symlink_to("/bin/sh")
    for command in ('["sh", "-c", "touch ran"]', '["/bin/sh", "-c", "touch ran"]', '["link.sh"]', '["../solver.sh"]'):
        assert [one[1] for one in program(folder, command)] == ["simulator.command[0]"], command
    assert "chmod +x" in program(folder, '["solver.sh"]')[0][2]
    os.chmod(folder / "solver.sh", 0o755)
    assert program(folder, '["solver.sh", "{{ k }}", "; touch ran", "{{ amplitude }}"]') == []
    for setting in ('environment = { LD_PRELOAD = "/tmp/evil.so" }\n', 'inherit = ["PATH"]\n'):
        assert "a study file cannot set this" in program(folder, '["solver.sh"]', setting)[0][2]
    assert (
        program(folder, '["solver.sh"]', 'templates = { "in.txt" = "../outside.csv" }\n')[0][1]
        == "simulator.templates.in.txt"
    )
    assert not (folder / "ran").exists()


def test_a_secret_has_no_place(folder):
    text = GOOD.replace(
        'kind = "FunctionSimulator"\nfunction = "decay_model:decay"',
        'kind = "UMBridgeSimulator"\nurl = "http://localhost:1"\nmodel = "m"\ninputs = ["k", "amplitude"]\ntoken = "x"',
    )
    assert [one[1] for one in check(folder, text)] == ["simulator.token"]


# --------------------------------------------------------------------------------------------------------------- markup
def test_markup_and_terminal_codes_are_harmless(folder, capsys):
    from uqms.cli import main

    text = GOOD.replace('title = "Decay"', 'title = "<script>alert(1)</script>\\u001b[31m"')
    assert check(folder, text) == []
    study = uq.Study.from_toml(folder / "study.toml")
    assert "\x1b" not in repr(study).replace(repr(study.title), "")
    for name in ("<script>", "a b", "\\u001b[31m"):
        found = check(folder, GOOD.replace("amplitude = {", f'"{name}" = {{'))
        assert any("cannot be the name of a parameter" in one[2] for one in found)
        assert main(["study", "check", str(folder / "study.toml")]) == 1
        assert "\x1b" not in capsys.readouterr().out
    for key in ("members", "predictions"):
        assert "is no name" in str(check(folder, GOOD + f'\n[{key}."../x"]\nrng = 1\n'))


def test_a_lambda_and_data_cannot_be_in_a_study(folder):
    simulator = uq.FunctionSimulator(lambda k: k, outputs={"y": ()})
    with pytest.raises(InputError, match="not at the top level of a module in the study's folder"):
        uq.Study(folder, parameters={"k": uq.Uniform(0, 1)}, simulator=simulator)
    with pytest.raises(InputError, match="which a study file cannot hold"):
        uq.Study(folder, data=uq.Observations.from_table)


def test_two_studies_with_modules_of_one_name(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for place, factor in ((folder, 1), (other, 2)):
        (place / "same_model.py").write_text("import same_helper\ndef f(k):\n    return same_helper.FACTOR * k\n")
        (place / "same_helper.py").write_text(f"FACTOR = {factor}.0\n")
    first, second = Folder(folder).function("same_model:f"), Folder(other).function("same_model:f")
    assert (first(1.0), second(1.0)) == (1.0, 2.0)
    assert Folder(folder).function("same_model:f")(1.0) == 1.0
    (folder / "same_helper.py").write_text("FACTOR = 3.25\n")  # edited while the process lives
    assert Folder(folder).function("same_model:f")(1.0) == 3.25

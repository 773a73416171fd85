"""The set-up of the environment: which Python is taken, and when an installation is done again."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
BOOTSTRAP = ROOT / "scripts" / "bootstrap.sh"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a folder that is all of PATH: the tools that the script needs, no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("dirname", "head", "sort"):
        found = shutil.which(tool)
        assert found is not None
        (folder / tool).symlink_to(found)
    return folder


def fake(file: Path, script: str) -> None:
    """Write an executable shell script."""
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def old(file: Path) -> None:
    """Write a stand-in for Python 3.11: it runs, says its version and refuses ours."""
    fake(file, 'case "$1" in -V) echo Python 3.11.7 ;; *) exit 1 ;; esac')


def good(file: Path) -> None:
    """Write a stand-in for a suitable Python that says that it was chosen."""
    fake(file, f'case "$1" in -c) exec {sys.executable} "$@" ;; *) echo "chosen: $0 $2" ;; esac')


def bootstrap(path: Path, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script with nothing but `path` to search in, and no environment built yet."""
    base = {"PATH": str(path), "HOME": str(tmp_path), "UQMS_PYTHON_PLACES": "", "UQMS_VENV": str(tmp_path / "venv")}
    return subprocess.run(
        ["/bin/sh", BOOTSTRAP, "demo"], env={**base, **environment}, capture_output=True, text=True, timeout=60
    )


def test_only_an_old_python_ends_with_what_was_seen_and_what_to_do(path: Path, tmp_path: Path) -> None:
    old(path / "python3")
    done = bootstrap(path, tmp_path)
    assert done.returncode == 1
    assert "Python 3.12 or newer" in done.stderr
    assert f"{path}/python3: Python 3.11.7" in done.stderr
    assert "UQMS_PYTHON=" in done.stderr


def test_no_python_at_all_is_said(path: Path, tmp_path: Path) -> None:
    done = bootstrap(path, tmp_path)
    assert done.returncode == 1
    assert "nothing that is called python" in done.stderr


def test_a_newer_one_under_a_versioned_name_is_found(path: Path, tmp_path: Path) -> None:
    old(path / "python3")
    good(path / "python3.13")
    done = bootstrap(path, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"chosen: {path}/python3.13 demo" in done.stdout


def test_a_shim_that_fails_is_skipped_and_the_same_name_later_on_path_is_taken(path: Path, tmp_path: Path) -> None:
    shims = tmp_path / "shims"
    shims.mkdir()
    fake(shims / "python3.13", 'echo "pyenv: python3.13: command not found" >&2; exit 127')
    good(path / "python3.13")
    done = bootstrap(path, tmp_path, PATH=f"{shims}:{path}")
    assert done.returncode == 0, done.stderr
    assert f"chosen: {path}/python3.13" in done.stdout


def test_a_python_without_venv_is_skipped(path: Path, tmp_path: Path) -> None:
    fake(path / "python3", f"exec {sys.executable} -S -c \"import sys; sys.modules['ensurepip'] = None; $2\"")
    good(path / "python3.12")
    done = bootstrap(path, tmp_path)
    assert f"chosen: {path}/python3.12" in done.stdout


def test_a_place_outside_of_path_is_searched_last(path: Path, tmp_path: Path) -> None:
    place = tmp_path / "opt" / "bin"
    place.mkdir(parents=True)
    good(place / "python3.12")
    done = bootstrap(path, tmp_path, UQMS_PYTHON_PLACES=str(place))
    assert f"chosen: {place}/python3.12" in done.stdout


def test_the_named_python_comes_first_and_must_fit(path: Path, tmp_path: Path) -> None:
    good(path / "python3")
    good(path / "mine")
    old(path / "python3.11")
    assert f"chosen: {path}/mine" in bootstrap(path, tmp_path, UQMS_PYTHON="mine").stdout
    refused = bootstrap(path, tmp_path, UQMS_PYTHON=str(path / "python3.11"))
    assert refused.returncode == 1
    assert "UQMS_PYTHON is" in refused.stderr


# environment.py: the installer is replaced by one that writes down what it was asked to do.


@pytest.fixture
def environment(tmp_path: Path) -> ModuleType:
    """Return scripts/environment.py as a module, at work on a small project of its own."""
    spec = importlib.util.spec_from_file_location("environment", ROOT / "scripts" / "environment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ROOT = tmp_path / "project"
    module.ROOT.mkdir()
    (module.ROOT / "pyproject.toml").write_text(
        '[project]\nname = "x"\n[build-system]\nrequires = []\n[tool.a]\nb = 1\n'
    )
    (module.ROOT / "constraints.txt").write_text("numpy==2.0\n")
    return module


@pytest.fixture
def installed(environment: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of what the installer was asked for, e.g. ["venv", ""], ["[test]"]."""
    asked: list[str] = []
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run

    def stand_in(command: list[object], **options: object) -> subprocess.CompletedProcess[str]:
        words = [str(word) for word in command]
        if "pip" in words:
            asked.append(words[-1].removeprefix(str(environment.ROOT)))
            if asked[-1] == "[dev]":
                raise subprocess.CalledProcessError(1, words)
            return subprocess.CompletedProcess(words, 0)
        if words[1:3] == ["-m", "venv"]:
            asked.append("venv")
            folder = Path(words[-1]) / "bin"
            folder.mkdir()
            (folder / "python").symlink_to(sys.executable)
            return subprocess.CompletedProcess(words, 0)
        return run(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", stand_in)
    return asked


def test_a_second_call_installs_nothing(environment: ModuleType, installed: list[str], tmp_path: Path) -> None:
    venv = str(tmp_path / "venv")
    assert environment.main("test", venv) == 0
    assert installed == ["venv", "[test]"]
    assert environment.main("test", venv, "--check") == 0
    assert environment.main("demo", venv) == 0, "test includes demo"
    assert installed == ["venv", "[test]"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pyproject.toml", '[project]\nname = "y"\n[build-system]\nrequires = []\n'),
        ("constraints.txt", "numpy==2.1\n"),
    ],
)
def test_other_requirements_install_again(
    environment: ModuleType, installed: list[str], tmp_path: Path, file: str, text: str
) -> None:
    venv = str(tmp_path / "venv")
    environment.main("demo", venv)
    (environment.ROOT / file).write_text(text)
    assert environment.main("demo", venv, "--check") == 1
    environment.main("demo", venv)
    assert installed == ["venv", "", ""]


def test_settings_of_tools_do_not_install_again(environment: ModuleType, installed: list[str], tmp_path: Path) -> None:
    venv = str(tmp_path / "venv")
    environment.main("demo", venv)
    file = environment.ROOT / "pyproject.toml"
    file.write_text(file.read_text().replace("b = 1", "b = 2"))
    assert environment.main("demo", venv, "--check") == 0


def test_what_was_interrupted_is_built_anew(environment: ModuleType, installed: list[str], tmp_path: Path) -> None:
    venv = str(tmp_path / "venv")
    assert environment.main("demo", venv) == 0
    assert environment.main("dev", venv) == 1, "the stand-in fails here"
    assert environment.main("demo", venv, "--check") == 1
    assert environment.main("demo", venv) == 0
    assert installed == ["venv", "", "[dev]", "venv", ""]


def test_a_project_that_was_moved_gets_a_new_environment(
    environment: ModuleType, installed: list[str], tmp_path: Path
) -> None:
    environment.main("demo", str(tmp_path / "venv"))
    os.rename(tmp_path / "venv", tmp_path / "moved")
    assert environment.main("demo", str(tmp_path / "moved"), "--check") == 1
    environment.main("demo", str(tmp_path / "moved"))
    assert installed == ["venv", "", "venv", ""]


def test_a_foreign_environment_of_another_python_is_left_alone(
    environment: ModuleType, installed: list[str], tmp_path: Path
) -> None:
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "precious").touch()
    with pytest.raises(SystemExit, match="was not made by this script"):
        environment.main("demo", str(tmp_path / "venv"))
    assert (tmp_path / "venv" / "precious").exists()
    assert installed == []


@pytest.mark.parametrize("status", [0, 1])
def test_the_installer_is_quiet_unless_it_fails(
    environment: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    status: int,
) -> None:
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run

    def talkative(command: list[object], **options: object) -> subprocess.CompletedProcess[str]:
        if "pip" not in map(str, command):
            return run(command, **options)  # type: ignore[call-overload]
        script = f"echo Collecting numpy; echo ERROR: no such version >&2; exit {status}"
        return run(["/bin/sh", "-c", script], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(environment, "create", lambda venv: venv.mkdir())
    monkeypatch.setattr(subprocess, "run", talkative)
    assert environment.main("demo", str(tmp_path / "venv")) == status
    said = capfd.readouterr()
    assert "setting up" in said.out
    assert "Collecting" not in said.out
    assert said.err.startswith("Collecting numpy\nERROR: no such version\n") is bool(status)
    assert ("failed; the message is above" in said.err) is bool(status)


@pytest.mark.parametrize(("target", "minutes"), [("test", 5), ("test-all", 45)])
def test_the_time_that_tests_take_is_printed_before_them(target: str, minutes: int) -> None:
    env = {key: value for key, value in os.environ.items() if key not in ("ARGS", "MAKEFLAGS", "MAKEOVERRIDES")}
    done = subprocess.run(["make", "-n", target], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    (said,) = (i for i, line in enumerate(lines) if f"about {minutes} minutes on two cores" in line)
    (tests,) = (i for i, line in enumerate(lines) if "-m pytest" in line)
    assert said < tests
    chosen = subprocess.run(
        ["make", "-n", target, "ARGS=-k word"], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    assert "minutes" not in chosen.stdout

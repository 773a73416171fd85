"""Build the virtual environment of this project, or say that it is ready. Called by bootstrap.sh.

    python scripts/environment.py LEVEL VENV [--check]

LEVEL is demo (what the library needs), test (and what the tests need) or dev (and what checks and documentation need).
A stamp inside the environment holds a digest of everything that the installation follows from; while it fits there is
nothing to do. The stamp is written last, so that an installation that was interrupted is done again.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = {"demo": "", "test": "[test]", "dev": "[dev]"}
ABOVE = {"demo": ("demo", "test", "dev"), "test": ("test", "dev"), "dev": ("dev",)}


def digest(level: str, version: str) -> str:
    """Return what identifies an installation: level, Python, requirements, tested versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    said = [level, version, project["project"], project["build-system"], (ROOT / "constraints.txt").read_text()]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def version_of(python: Path) -> str | None:
    """Return the version of an interpreter by asking it, None when it does not run."""
    try:
        asked = subprocess.run([python, "-c", "import sys; print(sys.version)"], capture_output=True, text=True)
    except OSError:
        return None
    return asked.stdout.strip() if asked.returncode == 0 else None


def ready(level: str, venv: Path, version: str) -> bool:
    """Tell whether the environment has this level, or one above it that includes it."""
    built = venv / ".uqms-place"
    if not built.is_file() or built.read_text() != place(venv):
        return False
    stamps = {each: venv / f".uqms-{each}" for each in ABOVE[level]}
    return any(stamp.is_file() and stamp.read_text() == digest(each, version) for each, stamp in stamps.items())


def place(venv: Path) -> str:
    """Return where an environment and what is installed in it stand; neither can be moved."""
    return f"{venv}\n{ROOT}\n"


def create(venv: Path) -> None:
    """Make the environment new where it is missing, unfinished, moved, or of another Python."""
    built = venv / ".uqms-place"  # empty while unfinished
    intact = version_of(venv / "bin" / "python") == sys.version
    if venv.exists() and not built.exists() and not intact and any(venv.iterdir()):
        sys.exit(
            f"uqms: {venv} exists, was not made by this script, and is not of Python {sys.version.split()[0]}.\n"
            "      Remove it, or choose another place with UQMS_VENV=/some/folder."
        )
    if venv.exists() and (not intact or (built.exists() and built.read_text() != place(venv))):
        shutil.rmtree(venv)
    if not venv.exists():
        venv.mkdir(parents=True)
        built.touch()
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)


def install(level: str, venv: Path) -> None:
    """Install this project with what the level needs, at the tested versions."""
    (venv / ".uqms-place").write_text("")
    for each in EXTRAS:
        (venv / f".uqms-{each}").unlink(missing_ok=True)
    pip = [venv / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check"]
    command = [*pip, "-c", ROOT / "constraints.txt", "-e", f"{ROOT}{EXTRAS[level]}"]
    # Hundreds of lines about what is downloaded help nobody, unless the installation fails.
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout, file=sys.stderr, flush=True)
    done.check_returncode()
    (venv / ".uqms-place").write_text(place(venv))
    (venv / f".uqms-{level}").write_text(digest(level, sys.version))


def wanted(level: str, venv: Path) -> str:
    """Return the level to install: never less than what is there, so that going back and forth costs nothing."""
    there = [each for each in EXTRAS if (venv / f".uqms-{each}").exists()]
    return max([level, *there], key=list(EXTRAS).index)


def main(level: str, folder: str, *options: str) -> int:
    """Check the environment or build it."""
    venv = Path(folder).absolute()
    if "--check" in options:
        return 0 if ready(level, venv, sys.version) else 1
    with open(f"{venv}-lock", "w") as lock:  # two of `make` at the same time: the second waits, then finds it ready
        fcntl.flock(lock, fcntl.LOCK_EX)
        if version_of(venv / "bin" / "python") == sys.version and ready(level, venv, sys.version):
            return 0
        level = wanted(level, venv)
        print(f"uqms: setting up {venv} with Python {sys.version.split()[0]} for '{level}'.", flush=True)
        print("      The first time this downloads up to a few GB (mostly torch) and takes some minutes.", flush=True)
        try:
            create(venv)
            install(level, venv)
        except subprocess.CalledProcessError as error:
            print(f"uqms: '{' '.join(map(str, error.cmd))}' failed; the message is above.", file=sys.stderr)
            print("      Call make again to start over.", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    os.environ.pop("__PYVENV_LAUNCHER__", None)
    sys.exit(main(*sys.argv[1:]))

"""Imports only go downwards: the contracts hold here, and each is broken by a planted violation in a copy."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINT = Path(sys.executable).parent / "lint-imports"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the project in a folder."""
    return subprocess.run([LINT, "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of what the contracts look at, with every room there (those not written yet are empty)."""
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("uqms", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for room in ("plots", "diagnostics", "calibration", "runs", "simulators", "designs", "ensemble", "parameters"):
        if not any((tmp_path / "uqms" / f"{room}{end}").exists() for end in (".py", "/__init__.py")):
            (tmp_path / "uqms" / f"{room}.py").touch()
    return tmp_path


def plant(copy: Path, room: str, line: str) -> None:
    """Add a line at the end of a room."""
    file = copy / "uqms" / f"{room}.py"
    if not file.exists():
        file = copy / "uqms" / room / "__init__.py"
    file.write_text(file.read_text() + f"\n{line}\n")


def test_the_contracts_hold() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


def test_the_contracts_hold_with_every_room_there(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("room", "line", "broken"),
    [
        ("parameters", "import uqms.designs", "Imports only go downwards"),
        ("errors", "import uqms.parameters", "Imports only go downwards"),
        ("runs", "import uqms.surrogates", "Imports only go downwards"),
        ("surrogates", "def late():\n    import uqms.calibration", "Imports only go downwards"),
        ("parameters", "import torch", "torch and GPyTorch enter at surrogates"),
        ("calibration", "import gpytorch.kernels", "torch and GPyTorch enter at surrogates"),
        ("surrogates", "import pymc", "PyMC and PyTensor enter at calibration"),
        ("designs", "from pytensor import tensor", "PyMC and PyTensor enter at calibration"),
        ("runs", "import arviz", "ArviZ enters at calibration"),
        ("calibration", "import matplotlib.pyplot", "matplotlib enters at plots"),
        ("diagnostics", "import arviz_plots", "matplotlib enters at plots"),
        ("surrogates", "import uqms.simulators", "Statistics never start a simulator"),
        ("calibration", "import uqms.runs", "Statistics never start a simulator"),
        ("diagnostics", "from uqms import simulators", "Statistics never start a simulator"),
        ("surrogates/process", "import uqms.surrogates.gp", "No circles inside of a room"),
        ("parameters/numerical", "def late():\n    import uqms.parameters.priors", "No circles inside of a room"),
        ("attic", "", "Imports only go downwards"),
    ],
)
def test_a_planted_violation_fails(copy: Path, room: str, line: str, broken: str) -> None:
    (copy / "uqms" / "attic.py").touch() if room == "attic" else plant(copy, room, line)
    done = lint(copy)
    assert done.returncode == 1, done.stdout
    verdicts = [each for each in done.stdout.splitlines() if each.endswith(" BROKEN")]
    assert len(verdicts) == 1, verdicts
    assert verdicts[0].startswith(broken)

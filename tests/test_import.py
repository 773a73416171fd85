"""What `import uqms` loads, asked of a fresh interpreter."""

import subprocess
import sys
from pathlib import Path

import pytest

import uqms

ROOT = Path(__file__).resolve().parent.parent
HEAVY = (
    "torch", "gpytorch", "botorch", "pymc", "pytensor", "nutpie", "matplotlib", "arviz", "arviz_base", "numba", "scipy",
    "pandas", "xarray",
)  # fmt: skip


def loaded_after(statement: str) -> set[str]:
    """Return the names in sys.modules after a statement in a new interpreter."""
    script = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import uqms, uqms.errors; dir(uqms)").isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "room", [room for room in uqms._NAMES if room in {"parameters", "designs", "ensemble", "simulators", "runs"}]
)
def test_the_rooms_before_the_surrogate_load_neither_torch_nor_pymc(room: str) -> None:
    loaded = loaded_after(f"import uqms\nfor name in {uqms._NAMES[room]!r}: getattr(uqms, name)")
    assert f"uqms.{room}" in loaded
    assert loaded.isdisjoint({"torch", "gpytorch", "pymc", "pytensor", "matplotlib", "arviz"})


@pytest.mark.skipif("surrogates" not in uqms._NAMES, reason="there are no surrogates yet")
def test_a_surrogate_is_made_without_torch() -> None:
    loaded = loaded_after("import uqms; uqms.GaussianProcess()")
    assert loaded.isdisjoint({"torch", "gpytorch", "pymc", "matplotlib", "arviz"})

"""The structure that `scripts/structure.py` prints, of a tree so small that it can be counted by hand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
try:
    import structure
finally:
    sys.path.pop(0)

SOURCES = {
    "uqms/__init__.py": '"""The package."""\n',
    "uqms/far/__init__.py": "from uqms.near import helper\n",
    "uqms/far/files.py": "from uqms.near._inner import part\nfrom uqms.near.helper import _secret, shown\n",
    "uqms/near/__init__.py": "",
    "uqms/near/_inner.py": '''"""Words.

More words.
"""

import math  # a comment


def part(problem: Any) -> str:
    """Return text."""
    from uqms.near import helper

    # a comment
    return """two
lines"""
''',
    "uqms/near/helper.py": """from typing import TYPE_CHECKING

from uqms.near._inner import part

if TYPE_CHECKING:
    from .files import Third

_secret = shown = 1
""",
    "uqms/near/files.py": '''import uqms.near.helper
from pytensor.graph import Op


class First(Op):
    """An operation."""


class Second(First):
    def is_exact(self): ...


class Third:
    def text(self, s):
        """is_exact(s)."""
        if is_exact(s) and isinstance(s, (A, GaussianProcessSurrogate)) and s.form == "x":  # is_exact(s)
            return hasattr(self.problem, "population")
''',
}


@pytest.fixture
def tree() -> structure.Structure:
    return structure.Structure(SOURCES)


def test_lines_and_code_lines(tree: structure.Structure) -> None:
    assert tree.sizes("uqms itself") == (1, 1, 0)
    assert tree.sizes("far") == (2, 3, 3)
    inner = tree.by_module["uqms.near._inner"]
    assert (inner.lines, sorted(inner.code)) == (15, [6, 9, 11, 14, 15])


def test_circles_by_the_kind_of_import(tree: structure.Structure) -> None:
    assert tree.circles("near", (structure.TOP,)) == []
    assert tree.circles("near", (structure.TOP, structure.INSIDE)) == [["uqms.near._inner", "uqms.near.helper"]]
    assert tree.circles("near", (structure.TOP, structure.TYPES)) == [["uqms.near.files", "uqms.near.helper"]]
    everything = (structure.TOP, structure.INSIDE, structure.TYPES)
    assert [len(group) for group in tree.circles("near", everything)] == [3]
    assert tree.circles("far", everything) == []


def test_components_of_a_graph() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}, "g": set()}
    found = sorted(sorted(group) for group in structure.strongly_connected(graph))
    assert found == [["a", "b", "c"], ["d", "e"], ["f"], ["g"]]


def test_counts(tree: structure.Structure) -> None:
    assert tree.operations == ["First", "Second"]
    assert tree.counts == {
        "PyTensor Op classes": 2,
        "uses of is_exact(...)": 1,
        "isinstance(..., ...Surrogate)": 1,
        "comparisons of .form": 1,
        "hasattr(problem, ...)": 1,
        "problem: Any": 1,
        "underscore names imported across packages": 2,
        "file names used more than once": 1,
    }
    assert tree.leaks == ["uqms/far/files.py: uqms.near._inner.part", "uqms/far/files.py: uqms.near._secret"]
    assert tree.duplicates == {"files.py": ["uqms/far/files.py", "uqms/near/files.py"]}


def test_densities_of_data_and_who_knows_what_is_built_in() -> None:
    found = structure.Structure(
        {
            "uqms/kernels.py": "class Matern32: ...\n",
            "uqms/calibration/dense.py": "def density(C, residual):\n    return np.log(np.diag(cholesky(C))).sum()\n",
            "uqms/calibration/sparse.py": "def density(zbar):\n    log_det = 0.0\n    return log_det - zbar\n",
            "uqms/calibration/proposal.py": "def density(C):\n    log_det = 0.0\n    return log_det\n",
            "uqms/calibration/told.py": 'def density(residual):\n    """log_det, Matern32."""\n    return "log_det"\n',
            "uqms/calibration/asks.py": "import uqms.kernels as k\nx = isinstance(y, k.Matern32)\n",
            "uqms/calibration/__init__.py": "from uqms.kernels import Matern32\n",
        }
    )
    assert found.densities == ["dense.density", "sparse.density"]
    assert found.users("Matern32") == ["uqms.calibration.asks", "uqms.kernels"]


def test_the_way_of_an_argument() -> None:
    found = structure.Structure(
        {
            "uqms/a.py": """from uqms.b import read
from uqms.c import kept, unused


class Thing:
    def __init__(self, given, other):
        self.cells = read(other, data=[given])
        unused(other)
        if kept(self.cells):
            self.check()

    def check(self):
        kept(1.0)
        return near(self.cells)


def near(cells):
    return read(cells, 1)
""",
            "uqms/b.py": "from uqms.c import kept\n\n\ndef read(other, data):\n    return kept(2 * data)\n",
            "uqms/c.py": "def kept(x):\n    return x\n\n\ndef unused(x):\n    return x\n",
        }
    )
    walk = structure.Walk(found)
    assert walk.from_("uqms.a:Thing.__init__", "given") == ["uqms.a", "uqms.b", "uqms.c", "uqms.a"]
    names = {name for _, name in walk.entered}
    assert names == {"Thing.__init__", "read", "kept", "Thing.check", "near"}  # `unused` gets something else


def test_before_and_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, source in SOURCES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(source)

    def git(*words: str) -> None:
        name = ("-c", "user.name=x", "-c", "user.email=x@y", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *name, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    git("add", "uqms")
    git("commit", "-m", "before")
    (tmp_path / "uqms/far/files.py").unlink()
    (tmp_path / "uqms/near/new.py").write_text("x = 1\n\ny = 2\n")
    structure.main(["--root", str(tmp_path), "--against", "HEAD", "--files"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["far", "2", "1", "3", "1", "3", "1"] in rows  # files, lines and code, before and after each
    assert ["uqms/near/new.py", "-", "3", "-", "2"] in rows
    assert ["near", "0", "0", "2", "2", "2", "2", "3", "3"] in rows
    assert ["underscore", "names", "imported", "across", "packages", "2", "0"] in rows


def test_a_revision_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="git archive nowhere"):
        structure.main(["--root", str(tmp_path), "--against", "nowhere"])


@pytest.fixture(scope="module")
def package() -> structure.Structure:
    return structure.Structure(structure.working_tree(ROOT))


def test_no_file_of_the_package_imports_in_a_circle(package: structure.Structure) -> None:
    found = {room: package.circles(room, (structure.TOP, structure.INSIDE)) for room in package.rooms}
    assert {room: circles for room, circles in found.items() if circles} == {}


def test_a_name_finds_its_file_and_stays_in_its_package(package: structure.Structure) -> None:
    assert package.duplicates == {}
    assert package.leaks == []


def test_the_architecture_page_names_every_file_of_calibration(package: structure.Structure) -> None:
    named = {
        part.rpartition("/")[2]
        for part in re.findall(r"`([\w/]+)`", (ROOT / "docs/architecture.md").read_text(encoding="utf-8"))
    }
    for file in map(Path, (one.path for one in package.files)):
        folders = file.parts[:-1]
        if folders in (("uqms", "calibration"), ("uqms", "calibration", "population")) and file.stem != "__init__":
            assert file.stem in named, file

"""The catalogue of planted bugs: every bug has its place in the source, and a lost place is no bug that was caught."""

from pathlib import Path

import planted_bugs
import pytest
from planted_bugs import BUGS, ROOT, Bug, planted


def test_the_catalogue_is_long_and_every_bug_has_tests() -> None:
    assert len(BUGS) >= 25
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    assert all(bug.tests and bug.text != bug.replacement for bug in BUGS)


@pytest.mark.parametrize("bug", BUGS, ids=[bug.name for bug in BUGS])
def test_a_bug_has_its_place_and_tests_that_are_there(bug: Bug) -> None:
    assert (ROOT / bug.file).read_text().count(bug.text) == 1, f"give {bug.name!r} its new place in {planted_bugs}"
    for test in bug.tests:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text()


def test_a_bug_is_planted_once_and_a_lost_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\ny = 2\ny = 2\n")
    assert planted(Bug("one", "a.py", "x = 1\n", "x = 3\n", ()), tmp_path) == ""
    assert (tmp_path / "a.py").read_text() == "x = 3\ny = 2\ny = 2\n"
    assert planted(Bug("lost", "a.py", "x = 1\n", "", ()), tmp_path).startswith("text not found in a.py")
    assert planted(Bug("twice", "a.py", "y = 2\n", "", ()), tmp_path).startswith("text found 2 times in a.py")
    assert planted(Bug("nowhere", "b.py", "y", "", ()), tmp_path) == "no file b.py"

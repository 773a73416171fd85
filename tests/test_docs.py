"""The code on the pages runs, in the order of a reader who goes on from *Getting started*.

Pages of *First tasks* are short, stand alone or go on from the first of them, and print what they show.
"""

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import uqms

DOCS = Path(__file__).resolve().parent.parent / "docs"
TASKS = sorted((DOCS / "tasks").glob("*.md"))
LONGEST = 25  # lines of code that the reader of a task types
STAGES = sorted(page for page in (DOCS / "stages").glob("*.md") if page.name != "index.md")


def code_of(page: Path) -> str:
    """Return the blocks marked `python` of a page (`py` marks code that needs what a page does not have)."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))


def modules_of(page: Path) -> dict[str, str]:
    """Return the files of a page by name: modules that the page's other code imports, programs and data."""
    found = re.findall(
        r"^```{code-block} \w+\n:caption: (\w+\.\w+)\n\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S
    )
    return dict(found)


def shown_by(page: Path) -> list[tuple[str, str | None]]:
    """Return the code blocks of a page, each with the output that the page shows right below it."""
    found = re.findall(
        r"^```python\n(.*?)^```\n(?:\n^```text\n(.*?)^```)?", page.read_text(encoding="utf-8"), re.M | re.S
    )
    return [(code, printed or None) for code, printed in found]


def run_blocks(page: Path, names: dict[str, Any], folder: Path) -> list[str]:
    """Execute the blocks of a page in the current directory, which is `folder`, and return what each prints."""
    for name, text in modules_of(page).items():
        (folder / name).write_text(text, encoding="utf-8")
    printed = []
    for code, _ in shown_by(page):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(code, page.name, "exec"), names)
        printed.append(output.getvalue())
    return printed


def words_of(printed: str) -> str:
    """Return printed text without its numbers, of which the last digits are those of the machine."""
    return " ".join(re.sub(r"[-+]?\d[\d.]*(e[-+]?\d+)?", "#", printed).split())


def is_shown(shown: str, printed: str) -> bool:
    """Tell whether a page shows what its code prints; "..." on the page stands for any text."""
    parts = (re.escape(words_of(part)) for part in shown.split("..."))
    return re.fullmatch(r"\s*.*?\s*".join(parts), words_of(printed)) is not None


def names_in(code: str) -> set[str]:
    """Return the names that code takes from uqms."""
    return set(re.findall(r"\buq\.(\w+)", code))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], dict[str, Any]]:
    """Return what gives the names that a reader has after *Getting started*, executed once."""
    kept: dict[str, Any] = {}

    def names() -> dict[str, Any]:
        if not kept:
            kept["__name__"] = "__main__"
            exec(compile(code_of(DOCS / "getting_started.md"), "getting_started.md", "exec"), kept)
        return dict(kept)

    return names


@pytest.fixture(scope="module")
def surrogate_of_a_task(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], dict[str, Any]]:
    """Return what gives the names that a reader has after the first task, executed once."""
    kept: dict[str, Any] = {}

    def names() -> dict[str, Any]:
        if not kept:
            kept["__name__"] = "__main__"
            folder = tmp_path_factory.mktemp("function")
            with contextlib.chdir(folder):
                run_blocks(DOCS / "tasks" / "function.md", kept, folder)
        return dict(kept)

    return names


def needs(page: Path) -> list[str]:
    """Return what a page uses that is not public yet."""
    code = code_of(DOCS / "getting_started.md") + code_of(page)
    return sorted(names_in(code) - set(uqms.__all__))


def test_pages_use_public_names_only() -> None:
    if "plots" not in uqms.__all__:
        pytest.skip("not all rooms are there yet")
    for page in STAGES + TASKS:
        assert needs(page) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::uqms.errors.CapabilityWarning")  # pages say what they are of
@pytest.mark.parametrize("page", STAGES, ids=[page.stem for page in STAGES])
def test_the_code_of_a_page_runs(
    page: Path, reader: Callable[[], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing := needs(page):
        pytest.skip(f"not there yet: {', '.join(missing)}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in modules_of(page).items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    exec(compile(code_of(page), page.name, "exec"), reader())


@pytest.mark.parametrize("page", TASKS, ids=[f"tasks-{page.stem}" for page in TASKS])
def test_a_task_is_short_and_shows_what_it_gives(page: Path) -> None:
    lines = [line for line in code_of(page).splitlines() if line.strip()]
    assert len(lines) <= LONGEST
    for code, printed in shown_by(page):
        assert (printed is not None) == ("print(" in code)
    saved = re.findall(r'savefig\("(\w+\.png)"\)', code_of(page))
    assert re.findall(r"\]\(\.\./_static/tasks/(\w+\.png)\)", page.read_text(encoding="utf-8")) == saved
    assert all((DOCS / "_static" / "tasks" / name).is_file() for name in saved)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:7 of 32 runs did not complete:uqms.errors.DataWarning")  # the page says so
@pytest.mark.parametrize("page", TASKS, ids=[f"tasks-{page.stem}" for page in TASKS])
def test_a_task_prints_what_it_shows(
    page: Path,
    surrogate_of_a_task: Callable[[], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = "import uqms as uq" in code_of(page)
    names = {"__name__": "__main__"} if alone else surrogate_of_a_task()
    monkeypatch.chdir(tmp_path)
    printed = run_blocks(page, names, tmp_path)
    for (code, shown), each in zip(shown_by(page), printed, strict=True):
        assert is_shown(shown or "", each), f"{code}\nprints\n{each}\nand the page shows\n{shown}"


def test_numbers_of_an_output_may_differ_but_not_its_words() -> None:
    assert is_shown("mean 1.09 sd 0.2\n...\n", "mean   1.1 sd 2e-1\nPASS\n")
    assert not is_shown("mean 1.09\n", "median 1.09\n")
    assert not is_shown("mean 1.09\n", "mean 1.09\nWARN\n")

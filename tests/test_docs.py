"""The code on the pages runs, in the order of a reader who goes on from *Getting started*."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import uqms

DOCS = Path(__file__).resolve().parent.parent / "docs"
STAGES = sorted(page for page in (DOCS / "stages").glob("*.md") if page.name != "index.md")


def code_of(page: Path) -> str:
    """Return the blocks marked `python` of a page (`py` marks code that needs what a page does not have)."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))


def modules_of(page: Path) -> dict[str, str]:
    """Return the modules of a page by file name: code with a caption, which the page's other code imports."""
    found = re.findall(
        r"^```{code-block} python\n:caption: (\w+\.py)\n\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S
    )
    return dict(found)


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


def needs(page: Path) -> list[str]:
    """Return what a page uses that is not public yet."""
    code = code_of(DOCS / "getting_started.md") + code_of(page)
    return sorted(names_in(code) - set(uqms.__all__))


def test_pages_use_public_names_only() -> None:
    if "plots" not in uqms.__all__:
        pytest.skip("not all rooms are there yet")
    for page in STAGES:
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

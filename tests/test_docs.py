"""The code on the pages runs, in the order of a reader who goes on from *Getting started*.

Pages of *First tasks* are short, stand alone or go on from the first of them, and print what they show.
"""

import ast
import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import uqms
from uqms.calibration.checks import PAGES, Check, Verdict, page_of

DOCS = Path(__file__).resolve().parent.parent / "docs"
TASKS = sorted((DOCS / "tasks").glob("*.md"))
LONGEST = 25  # lines of code that the reader of a task types
CHECKS = sorted(page for page in (DOCS / "checks").glob("*.md") if page.name != "index.md")
LENGTHS, MOST_SHOWN = (20, 60), 1 / 3  # lines of a page of a check; fraction of them whose code is too slow to run
STAGES = sorted(page for page in (DOCS / "stages").glob("*.md") if page.name != "index.md")
GOES_ON = {"next_measurement": "bedside"}  # from the page of another stage, on the same worker
# Stages that show all that they print; their text is compared with what the code prints.
PRINTING = (
    "bridging_scales",
    "calibration",
    "designs",
    "ensemble",
    "fidelities",
    "history_matching",
    "level_sets",
    "many_patients",
    "model_is_wrong",
    "next_runs",
    "one_patient",
    "parameters",
    "propagation",
    "regimes",
    "report",
    "runs",
    "screening",
    "sensitivity",
    "simulators",
    "study",
    "surrogates",
    "which_surrogate",
)


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


def stages_by_worker() -> list[Any]:
    """Return the stages; one that goes on from another has the worker of that."""
    return [
        pytest.param(page, id=page.stem, marks=pytest.mark.xdist_group(f"page {GOES_ON.get(page.stem, page.stem)}"))
        for page in STAGES
    ]


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
    """Return printed text without what differs between machines: numbers, and which quantity has the largest error.

    NumPy pads numbers of an array that end in zeros.
    """
    printed = re.sub(r"\b0% of the variance of \w+", "0% of a variance", printed)
    printed = re.sub(r"[-+]?\d[\d.]*(e[-+]?\d+)?", "#", printed)
    printed = re.sub(r"\s*([][])\s*", r"\1", printed)
    printed = re.sub(r"(of a posterior sd|R-hat: largest #|ESS: smallest of bulk and tail #) \(\w+\)", r"\1", printed)
    return " ".join(printed.split())


def is_shown(shown: str, printed: str) -> bool:
    """Tell whether a page shows what its code prints; "..." on the page stands for any text.

    Lines may stand in another order: tables are sorted by numbers that may be close.
    """
    if sorted(map(words_of, shown.split("\n"))) == sorted(map(words_of, printed.split("\n"))):
        return True
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


@pytest.fixture(scope="module")
def after(reader: Callable[[], dict[str, Any]]) -> Callable[[Path, Path], tuple[dict[str, Any], list[str]]]:
    """Return what gives the names that a reader has after a stage, and what it prints; one to go on from runs once."""
    kept: dict[str, tuple[dict[str, Any], list[str]]] = {}

    def names_and_text(page: Path, folder: Path) -> tuple[dict[str, Any], list[str]]:
        if page.stem in kept:
            return kept[page.stem]
        before = GOES_ON.get(page.stem)
        names = reader() if before is None else dict(names_and_text(page.with_stem(before), folder)[0])
        printed = run_blocks(page, names, folder)
        if page.stem in GOES_ON.values():
            kept[page.stem] = names, printed
        return names, printed

    return names_and_text


def needs(page: Path) -> list[str]:
    """Return what a page uses that is not public yet."""
    code = code_of(DOCS / "getting_started.md") + code_of(page)
    return sorted(names_in(code) - set(uqms.__all__))


def test_pages_use_public_names_only() -> None:
    if "plots" not in uqms.__all__:
        pytest.skip("not all rooms are there yet")
    for page in STAGES + TASKS + CHECKS:
        assert needs(page) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::uqms.errors.CapabilityWarning")  # pages say what they are of
@pytest.mark.parametrize("page", stages_by_worker())
def test_the_code_of_a_page_runs(
    page: Path,
    after: Callable[[Path, Path], tuple[dict[str, Any], list[str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if missing := needs(page):
        pytest.skip(f"not there yet: {', '.join(missing)}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    _, printed = after(page, tmp_path)
    if page.stem in PRINTING:
        for (code, shown), each in zip(shown_by(page), printed, strict=True):
            assert is_shown(shown or "", each), f"{code}\nprints\n{each}\nand the page shows\n{shown}"


@pytest.mark.parametrize("stem", PRINTING)
def test_a_stage_shows_what_it_prints(stem: str) -> None:
    page = DOCS / "stages" / f"{stem}.md"
    for code, printed in shown_by(page):
        assert (printed is not None) == ("print(" in code), code
        assert len((printed or "").splitlines()) <= LONGEST


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


def names_of_checks() -> set[str]:
    """Return the names of checks that the package can print, from its calls of `Check`; "..." is that of an output."""
    names = set()
    for path in sorted((DOCS.parent / "uqms" / "calibration").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for scope in functions:
            for call in ast.walk(scope):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Check":
                    names |= values_of(call.args[0], scope, tree)
    return names


def values_of(node: ast.expr, scope: ast.FunctionDef, tree: ast.Module) -> set[str]:
    """Return the strings that an expression can be: a literal, a name that has one, or the argument of each call."""
    if isinstance(node, ast.Constant):
        return {str(node.value)}
    if isinstance(node, ast.JoinedStr):
        return {"".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)}
    assert isinstance(node, ast.Name), ast.unparse(node)
    for place in (scope, tree):
        for statement in ast.walk(place):
            if isinstance(statement, ast.Assign):
                found = pairs_of(statement).get(node.id)
                if found is not None:
                    return values_of(found, scope, tree)
    position = [argument.arg for argument in scope.args.args].index(node.id)
    calls = (each for each in ast.walk(tree) if isinstance(each, ast.Call) and isinstance(each.func, ast.Name))
    return {
        value
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == scope.name
        for value in values_of(call.args[position], scope, tree)
    }


def pairs_of(statement: ast.Assign) -> dict[str, ast.expr]:
    """Return the names that a statement assigns, each with its expression."""
    target = statement.targets[0]
    if isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):
        both = zip(target.elts, statement.value.elts, strict=True)
        return {name.id: value for name, value in both if isinstance(name, ast.Name)}
    return {target.id: statement.value} if isinstance(target, ast.Name) else {}


def test_every_check_has_a_page_and_every_page_a_check() -> None:
    names = names_of_checks()
    assert {"R-hat", "ESS", "autocorrelated residuals", "errors of ...", "size of the surrogate's error"} <= names
    assert {page_of(name) for name in names} == {f"{PAGES}/{page.name}" for page in CHECKS}
    index = (DOCS / "checks" / "index.md").read_text(encoding="utf-8")
    assert all(f"]({page.name})" in index and f"\n{page.stem}\n" in index for page in CHECKS)


def test_a_verdict_names_the_pages_of_its_warnings() -> None:
    checks = [
        Check("errors of conc", "note", 0.0, "a note", "look"),
        Check("predictive misfit (clamp)", "warn", 0.0, "far", "look"),
        Check("predictive misfit (run)", "warn", 0.0, "far", "look"),
        Check("size of the surrogate's error", "fail", 0.0, "large", "look"),
    ]
    last = str(Verdict(tuple(checks))).splitlines()[-1]
    assert last == "Pages: docs/checks/size_of_the_surrogates_error.md, docs/checks/predictive_misfit.md"
    assert "Pages" not in str(Verdict(tuple(checks[:1])))


def test_pages_of_checks_are_short_and_most_of_them_run() -> None:
    silent = [page.stem for page in CHECKS if not code_of(page)]
    assert len(silent) <= MOST_SHOWN * len(CHECKS), silent
    for page in CHECKS:
        text = page.read_text(encoding="utf-8")
        parts = (
            "**What it measures.**",
            "**Limits.**",
            "**What it means for your intervals.**",
            "## Example",
            "## When it is wrong",
        )
        assert [part for part in parts if part not in text] == []
        assert LENGTHS[0] <= len(text.splitlines()) <= LENGTHS[1]
        assert len([line for line in code_of(page).splitlines() if line.strip()]) <= LONGEST
        assert all((printed is not None) == ("print(" in code) for code, printed in shown_by(page))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The observation of:uqms.errors.PriorConflictWarning")
@pytest.mark.filterwarnings("ignore:.* runs did not complete:uqms.errors.DataWarning")
@pytest.mark.parametrize("page", CHECKS, ids=[f"checks-{page.stem}" for page in CHECKS])
def test_the_page_of_a_check_prints_what_it_shows(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = run_blocks(page, {"__name__": "__main__"}, tmp_path)
    for (code, shown), each in zip(shown_by(page), printed, strict=True):
        assert is_shown(shown or "", each), f"{code}\nprints\n{each}\nand the page shows\n{shown}"


def test_numbers_of_an_output_may_differ_but_not_its_words() -> None:
    assert is_shown("mean 1.09 sd 0.2\n...\n", "mean   1.1 sd 2e-1\nPASS\n")
    assert not is_shown("mean 1.09\n", "median 1.09\n")
    assert not is_shown("mean 1.09\n", "mean 1.09\nWARN\n")
    assert is_shown("at most 8.0% of a posterior sd (beta)\n", "at most 9% of a posterior sd (sigma)\n")

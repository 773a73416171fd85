"""Terms that readers misread are found in the documentation and in the texts of the package, with their line."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
try:
    import words
finally:
    sys.path.pop(0)

PAGE = """# A page

Go from the cheap to the dear.

```python
share = 0.5  # the share of the variance, from the cheap to the dear
```

- Each of them takes one length
  scale an input, and `the real line` is code; see [the page](the_real_line.md).
"""


def test_a_term_is_found_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    assert words.main([str(page)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{page}:3: dear -> expensive; in order of cost",
        f"{page}:10: scale an input -> tens of inputs; per input",
    ]


def test_a_phrase_goes_on_in_the_next_line_but_not_in_the_next_paragraph() -> None:
    terms = words.read_terms()
    assert [each.line for each in words.findings("first\nScores in\n  common\n", terms)] == [2]
    assert words.findings("scores in\n\ncommon\n", terms) == []


@pytest.mark.parametrize(
    "text",
    [
        "```text\nthe share of the variance\n```\n",
        "~~~\nscores in common\n~~~\n",
        "A list:\n\n  ```py\n  # by the tens\n  ```\n",
        "An `is wanted` and a ``share of`` within a line.\n",
        "A [link](the_dear_page.md#dear-runs) and https://example.org/dear.\n",
    ],
)
def test_code_and_addresses_are_skipped(text: str) -> None:
    assert words.findings(text, words.read_terms()) == []


@pytest.mark.parametrize(
    "text",
    [
        "The arterial wall is elastic, the wall clock runs, and a power law holds.",
        "Patients share one simulator. The parts share the noise.",
        "Two causes cannot be told apart.",
        "The square root of the covariance, and the roots of a polynomial.",
        "The program runs an input file; take two input vectors.",
        "If you want gradients, pass an object to the sampler.",
        "A unit of time, a map of the heart, the spread of an epidemic.",
    ],
)
def test_the_same_words_in_another_sense_are_no_finding(text: str) -> None:
    assert words.findings(text, words.read_terms()) == []


@pytest.mark.parametrize(
    "terms",
    ['[[terms]]\nfind = "a"\n', '[[terms]]\nfind = "a"\nuse = "b"\nnote = "c"\n', '[[terms]]\nfind = "("\nuse = "b"\n'],
)
def test_a_wrong_list_is_an_error(terms: str, tmp_path: Path) -> None:
    path = tmp_path / "words.toml"
    path.write_text(terms, encoding="utf-8")
    with pytest.raises(ValueError, match="give 'find' and 'use'|no regular expression"):
        words.read_terms(path)


def test_the_pages_are_those_written_by_hand(tmp_path: Path) -> None:
    names = ["README.md", "CONTRIBUTING.md", "docs/a.md", "docs/stages/b.md"]
    generated = ["docs/_build/c.md", "docs/gallery/d.md", "docs/reference/generated/e.md"]
    for name in names + generated:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [page.relative_to(tmp_path).as_posix() for page in words.pages(tmp_path)] == names


MODULE = '''"""A module with a real line."""

import warnings

NAME = "the dear"


def public(share: float) -> str:
    """Return the share of the variance.

    A block of code is skipped::

        share = one  # the share of it

    Examples
    --------
    >>> public(0.5)  # the share of
    'dear'
    ... # on the real line
    """

    def inner() -> None:
        """Return the real line."""

    warnings.warn(
        f"{share} is the "
        "real line", stacklevel=2
    )
    message = "`the real line` is code, the "  "dear is not"
    if share > 1.0:
        raise ValueError(f"share is {share}; {message}, not what is " + f"wanted {share}, or is wanted")
    return str(Check("a", text="no objections"))  # an objection


def _private() -> None:
    """Return the real line."""


class _Private:
    """On the real line."""


class Public:
    """On a line."""

    def method(self) -> None:
        """Take the soft wall."""
'''


def test_docstrings_and_messages_of_a_module_are_read(tmp_path: Path) -> None:
    terms = words.read_terms()
    found = [(each.line, each.words) for each in words.python_findings(MODULE, terms)]
    messages = [(26, "real line"), (29, "dear"), (31, "is wanted"), (32, "objections")]
    assert found == [(1, "real line"), (9, "the share"), *messages, (47, "soft wall")]
    private = words.python_findings(MODULE, terms, public=False)
    assert [(each.line, each.words) for each in private] == messages


def test_only_docstrings_of_public_modules_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("__init__.py", "_hidden.py"):
        (tmp_path / name).write_text('"""On the real line."""\n', encoding="utf-8")
    assert words.main([str(tmp_path / "_hidden.py")]) == 0
    assert words.main([str(tmp_path / "__init__.py")]) == 1
    assert capsys.readouterr().out == f"{tmp_path / '__init__.py'}:1: real line -> unconstrained space\n"


def test_all_modules_are_read(tmp_path: Path) -> None:
    for name, text in {"a.py": "", "b/c.py": "", "compiled.py": "from uqms._compiled import compiled\n"}.items():
        path = tmp_path / "uqms" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    found = [module.relative_to(tmp_path / "uqms").as_posix() for module in words.modules(tmp_path)]
    assert found == ["a.py", "b/c.py", "compiled.py"]


@pytest.mark.slow
def test_the_pages_and_modules_of_the_project_have_none(capsys: pytest.CaptureFixture[str]) -> None:
    status = words.main([])
    assert (status, capsys.readouterr().out) == (0, "")

"""Find terms in the documentation and in the package's texts that readers misread, and print the terms to use instead.

    python scripts/words.py                    # README, CONTRIBUTING, all pages under docs, all modules of uqms
    python scripts/words.py docs/index.md x.py # these files only

`docs/words.toml` lists the terms. Of a Python file the script reads the docstrings of public modules, classes and
functions, and the messages: string literals in `raise` statements, in calls of `warn` and `Check`, and in assignments
to the names in `MESSAGES`. It skips code (blocks, and spans within a line), addresses of links, and pages that are
generated. It prints one line per term that it finds, file:line: term -> replacement. The exit status is then 1. Only
the standard library is needed.
"""

import argparse
import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TERMS = ROOT / "docs" / "words.toml"
GENERATED = ("_build", "gallery", "reference/generated")
MESSAGES = {"message", "remedy", "reason"}  # names of variables whose strings a reader of a verdict or an error sees
REPORTS = {"warn", "Check"}  # functions whose strings a reader sees


SPACE = r"(?:[^\S\n]+|[^\S\n]*\n[^\S\n]*)"  # a phrase may go on in the next line, but not in the next paragraph
FENCE = re.compile(r"^[ >]*(?P<fence>`{3,}|~{3,}).*?(?:^[ >]*(?P=fence)|\Z)", re.M | re.S)
INLINE = re.compile(r"(?P<ticks>`+)(?:(?!\n\s*\n).)+?(?P=ticks)(?!`)", re.S)
ADDRESS = re.compile(r"(?<=\]\()[^)\s]+(?=\))|\bhttps?://\S+")


class Term(NamedTuple):
    """A term that is not used, as a regular expression, and what is used instead."""

    pattern: re.Pattern[str]
    replacement: str


class Finding(NamedTuple):
    """One place where a term stands: its line (from 1), its words, and what to use instead."""

    line: int
    words: str
    replacement: str


def read_terms(path: Path = TERMS) -> list[Term]:
    """Return the terms of a TOML file.

    Parameters
    ----------
    path
        A file with an array of tables `terms`, each with `find` (a regular expression) and `use`.

    Returns
    -------
    list of Term
        In the order of the file.

    Raises
    ------
    ValueError
        When an entry lacks a key, has an unknown one, or its regular expression is wrong.
    """
    terms = []
    for entry in tomllib.loads(path.read_text(encoding="utf-8"))["terms"]:
        if set(entry) != {"find", "use"}:
            raise ValueError(f"{path}: an entry has the keys {sorted(entry)}; give 'find' and 'use'.")
        try:
            pattern = re.compile(entry["find"].replace(" ", SPACE), re.IGNORECASE)
        except re.error as error:
            raise ValueError(f"{path}: {entry['find']!r} is no regular expression ({error}).") from None
        terms.append(Term(pattern, entry["use"]))
    return terms


def prose(text: str) -> str:
    """Return the text with code and addresses blanked; lines and columns stay where they are."""
    for pattern in (FENCE, INLINE, ADDRESS):
        text = pattern.sub(lambda match: re.sub(r"[^\n]", "\0", match[0]), text)
    return text


def findings(text: str, terms: Sequence[Term]) -> list[Finding]:
    """Return where terms stand in a text in Markdown.

    Parameters
    ----------
    text
        The text.
    terms
        The terms, as `read_terms` returns them.

    Returns
    -------
    list of Finding
        By line.
    """
    shown = prose(text)
    found = [
        Finding(shown.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), term.replacement)
        for term in terms
        for match in term.pattern.finditer(shown)
    ]
    return sorted(found)


def docstring_prose(text: str) -> str:
    """Return a docstring without its code: doctests, and the indented blocks that follow "::" at the end of a line."""
    shown, doctest, block = [], False, None  # `block`: the indentation of the text before a block of code
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip())
        if line.strip() and block is not None and indent <= block:
            block = None
        starts = line.lstrip().startswith(">>>")
        doctest = bool(line.strip()) and (doctest or starts)  # its output ends with a blank line
        code = doctest or block is not None
        shown.append("" if code else line)
        if not code and line.rstrip().endswith("::"):
            block = indent
    return "\n".join(shown)


def literals(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and text of the string literals in a tree; what an f-string fills in is a null character."""
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
        yield node.lineno, "".join(map(str, parts))
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.lineno, node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from literals(child)


def python_texts(source: str, public: bool = True) -> Iterator[tuple[int, str]]:
    """Yield the texts of a Python file that its users see, each with its first line.

    Parameters
    ----------
    source
        The file's text.
    public
        Whether the module is public: otherwise its docstrings are for its authors only.

    Yields
    ------
    tuple of int and str
        Docstrings of public definitions, without code, and messages.
    """
    tree = ast.parse(source)
    scopes: list[ast.AST] = [tree] if public else []
    while scopes:
        scope = scopes.pop()
        body = getattr(scope, "body", [])
        if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            text = ast.get_source_segment(source, body[0].value)
            if text is not None and isinstance(body[0].value.value, str):
                yield body[0].lineno, docstring_prose(text)
        if not isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
            definitions = (each for each in body if isinstance(each, ast.ClassDef | ast.FunctionDef))
            scopes += [each for each in definitions if not each.name.startswith("_")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            yield from literals(node.exc)
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in REPORTS:
                for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                    yield from literals(argument)
        elif isinstance(node, ast.Assign) and any(getattr(one, "id", "") in MESSAGES for one in node.targets):
            yield from literals(node.value)


def python_findings(source: str, terms: Sequence[Term], public: bool = True) -> list[Finding]:
    """Return where terms stand in the texts of a Python file, by line; see `python_texts` and `findings`."""
    found = {
        each._replace(line=first + each.line - 1)
        for first, text in python_texts(source, public)
        for each in findings(text, terms)
    }
    return sorted(found)


def modules(root: Path = ROOT) -> Iterator[Path]:
    """Yield the modules of the package."""
    yield from sorted((root / "uqms").rglob("*.py"))


def pages(root: Path = ROOT) -> Iterator[Path]:
    """Yield README, CONTRIBUTING and the pages under docs that are written by hand."""
    yield root / "README.md"
    yield root / "CONTRIBUTING.md"
    docs = root / "docs"
    for page in sorted(docs.rglob("*.md")):
        if not page.relative_to(docs).as_posix().startswith(tuple(f"{folder}/" for folder in GENERATED)):
            yield page


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every term that was found, and return the exit status."""
    parser = argparse.ArgumentParser(description="Find terms that docs/words.toml lists.")
    parser.add_argument("files", nargs="*", type=Path, help="by default the pages and all modules of uqms")
    files = parser.parse_args(arguments).files or [*pages(), *modules()]
    terms = read_terms()
    status = 0
    for file in files:
        path = file.resolve()
        name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else file
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            public = not any(re.match(r"_(?!_)", part) for part in Path(name).parts)
            found = python_findings(text, terms, public)
        else:
            found = findings(text, terms)
        for finding in found:
            print(f"{name}:{finding.line}: {finding.words} -> {finding.replacement}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())

"""Find terms in the documentation that readers misread, and print the terms to use instead.

    python scripts/words.py               # README, CONTRIBUTING and all pages under docs
    python scripts/words.py docs/index.md # these files only

`docs/words.toml` lists the terms. The script skips code (blocks, and spans within a line), addresses of links, and
pages that are generated. It prints one line per term that it finds, file:line: term -> replacement. The exit status
is then 1. Only the standard library is needed.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TERMS = ROOT / "docs" / "words.toml"
GENERATED = ("_build", "gallery", "reference/generated")

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
    parser.add_argument("files", nargs="*", type=Path, help="by default README, CONTRIBUTING and all pages of docs")
    files = parser.parse_args(arguments).files or list(pages())
    terms = read_terms()
    status = 0
    for file in files:
        path = file.resolve()
        name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else file
        for finding in findings(path.read_text(encoding="utf-8"), terms):
            print(f"{name}:{finding.line}: {finding.words} -> {finding.replacement}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())

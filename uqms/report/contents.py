"""What a report consists of: sections of paragraphs, tables, lists and pictures. Values, without any HTML."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, final

from uqms.report.numbers import Number, Words

__all__ = ["Block", "Cell", "Heading", "Link", "Listing", "Paragraph", "Picture", "Section", "Table", "values_of"]

type Kind = Literal["plain", "note", "pass", "warn", "fail", "missing"]


@final
@dataclass(frozen=True)
class Link:
    """A place in the same report."""

    text: str
    section: str


type Cell = str | Number | Words | Link | tuple["Cell", ...]


@final
@dataclass(frozen=True)
class Heading:
    """A heading inside of a section, of the third or fourth level of the page."""

    text: str
    level: Literal[3, 4] = 3


@final
@dataclass(frozen=True)
class Paragraph:
    """Text with numbers in it; `kind` is how it stands out, always in words too."""

    parts: tuple[Cell, ...]
    kind: Kind = "plain"


@final
@dataclass(frozen=True)
class Listing:
    """A list."""

    items: tuple[Cell, ...]


@final
@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows; `statement` stands above the numbers, where they must not be used."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    statement: str = ""


@final
@dataclass(frozen=True)
class Picture:
    """A figure with its caption, and with what is seen in it, in words and numbers."""

    caption: str
    alternative: str
    figure: Any = field(compare=False)
    statement: str = ""
    drawn: dict[int, bytes] = field(default_factory=dict, compare=False, repr=False)  # a second drawing may differ


type Block = Heading | Paragraph | Listing | Table | Picture


@final
@dataclass(frozen=True)
class Section:
    """A part of a report under one heading.

    Attributes
    ----------
    key
        Name of its anchor in the page.
    title
        Its heading.
    blocks
        What it has.
    made_of
        Arguments of `credibility_report` that it was made of.
    """

    key: str
    title: str
    blocks: tuple[Block, ...]
    made_of: tuple[str, ...] = ("posterior",)


def values_of(section: Section) -> Iterator[tuple[str, Number | Words]]:
    """Yield every number and text that has a source, with the words that stand before it."""
    for block in section.blocks:
        match block:
            case Paragraph(parts):
                yield from (("", one) for part in parts for one in _flat(part))
            case Listing(items):
                yield from (("", one) for item in items for one in _flat(item))
            case Table(_, columns, rows):
                for row in rows:
                    head = _text(row[0])
                    for column, cell in zip(columns, row, strict=True):
                        yield from ((f"{head}, {column}", one) for one in _flat(cell))


def _flat(cell: Cell) -> Iterator[Number | Words]:
    if isinstance(cell, tuple):
        for part in cell:
            yield from _flat(part)
    elif isinstance(cell, Number | Words):
        yield cell


def _text(cell: Cell) -> str:
    if isinstance(cell, tuple):
        return "".join(map(_text, cell))
    return cell if isinstance(cell, str) else cell.text

"""From the sections of a report to one HTML page: escaped, with sources, hashes and figures inside of it."""

import base64
import hashlib
import html
import io
from collections.abc import Sequence
from typing import Any

from uqms.errors import InputError
from uqms.report.contents import Block, Cell, Heading, Link, Listing, Paragraph, Picture, Section, Table
from uqms.report.numbers import Number, Words
from uqms.report.style import STYLE

__all__ = ["LARGEST", "OPENING", "POLICY", "UNKNOWN", "framed", "hashed", "page_of", "png_of"]

LARGEST = 3_000_000  # bytes
RESOLUTIONS = (160, 110, 75)  # dots per inch, the first at which the page is small enough
SHOWN = 120  # pixels of a screen per inch of a figure
OPENING = ("verdict", "verification", "further-checks")  # sections above the contents
SHORT = 8  # rows of a table that stays on one page of paper
PROSE = 45  # characters of a cell from which a table is one of text
UNKNOWN = "0" * 64  # in the place of the page's hash while it is computed


def _policy() -> str:
    style = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode("ascii")
    return f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"


POLICY = _policy()


def escaped(text: object) -> str:
    """Return text for HTML, inside of elements and of quoted attributes; control characters are shown as such."""
    plain = "".join(c if c in "\n\t" or (ord(c) >= 32 and ord(c) != 127) else f"\\x{ord(c):02x}" for c in str(text))
    return html.escape(plain, quote=True)


def page_of(title: str, sections: Sequence[Section]) -> str:
    """Return the page.

    Raises
    ------
    InputError
        When a figure has no alternative text, or the page would be larger than 3 MB.
    """
    for dpi in RESOLUTIONS:
        text = _page(title, sections, dpi)
        if len(text.encode("utf-8")) < LARGEST:
            return text
    size = len(text.encode("utf-8")) / 1e6
    raise InputError(
        f"to_html: the page would be {size:.1f} MB, more than 3 MB. Give fewer figures (figures=), or shorter tables."
    )


def _page(title: str, sections: Sequence[Section], dpi: int) -> str:
    made = [(section.key, section.title, _section(section, dpi)) for section in sections]
    text = framed(title, made, _integrity(made))
    return text.replace(UNKNOWN, hashed(text))


def framed(title: str, made: Sequence[tuple[str, str, str]], integrity: str) -> str:
    """Return the page of sections (key, title, HTML); the verdict stands above the contents."""
    first = [text for key, _, text in made if key in OPENING]
    rest = [text for key, _, text in made if key not in OPENING]
    places = [*((key, name) for key, name, _ in made), ("integrity", "Integrity")]
    links = "\n".join(f'<li><a href="#{escaped(key)}">{escaped(name)}</a></li>' for key, name in places)
    body = "\n".join(
        [
            f'<header><h1><span class="words" data-source="title">{escaped(title)}</span></h1></header>',
            "<main>",
            *first,
            f'<nav aria-label="Contents">\n<h2>Contents</h2>\n<ul>\n{links}\n</ul>\n</nav>',
            *rest,
            integrity,
            "</main>",
        ]
    )
    head = "\n".join(
        [
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escaped(POLICY)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{escaped(title)}</title>",
            f"<style>{STYLE}</style>",
        ]
    )
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def hashed(text: str) -> str:
    """Return the SHA-256 of text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _integrity(made: Sequence[tuple[str, str, str]]) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{escaped(name)}</th><td class="hash" data-label="SHA-256"'
        f' data-section="{escaped(key)}">{hashed(text)}</td></tr>'
        for key, name, text in made
    )
    return (
        '<section id="integrity" aria-labelledby="integrity-title">\n<h2 id="integrity-title">Integrity</h2>\n'
        "<p>The hash of the page is that of the whole file with zeros in the place of the hash itself. It shows "
        "accidental edits. It is no signature: <code>uq.check_report(path, posterior)</code> makes the content again "
        "from the posterior and compares.</p>\n"
        f'<p>Hash of the page: <code id="page-hash" class="words">{UNKNOWN}</code></p>\n'
        '<div class="scroll" role="region" tabindex="0" aria-label="Hashes of the sections"><table class="prose">'
        "<caption>Hashes of the sections (SHA-256)</caption>\n"
        f'<thead><tr><th scope="col">section</th><th scope="col">SHA-256</th></tr></thead>\n<tbody>\n{rows}\n</tbody>'
        "</table></div>\n</section>"
    )


def _section(section: Section, dpi: int) -> str:
    key = escaped(section.key)
    blocks = []
    for i, block in enumerate(section.blocks):
        banner = i == 0 and section.key in ("verdict", "verification")
        blocks.append(_block(block, dpi, banner))
    made_of = escaped(" ".join(section.made_of))
    inside = "\n".join(blocks)
    return (
        f'<section id="{key}" aria-labelledby="{key}-title" data-made-of="{made_of}">\n'
        f'<h2 id="{key}-title">{escaped(section.title)}</h2>\n{inside}\n</section>'
    )


def _block(block: Block, dpi: int, banner: bool) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escaped(text)}</h{level}>"
        case Paragraph(parts, kind):
            classes = " ".join([*([kind] if kind != "plain" else []), *(["banner"] if banner else [])])
            attribute = f' class="{classes}"' if classes else ""
            return f"<p{attribute}>{''.join(map(_cell, parts))}</p>"
        case Listing(items):
            return "<ul>\n" + "\n".join(f"<li>{_cell(item)}</li>" for item in items) + "\n</ul>"
        case Table():
            return _table(block)
        case Picture():
            return _picture(block, dpi)


def _cell(cell: Cell) -> str:
    match cell:
        case Number(value, source, text):
            return f'<data value="{escaped(repr(value))}" data-source="{escaped(source)}">{escaped(text)}</data>'
        case Words(text, source, display):
            if display:
                return f'<data value="{escaped(text)}" data-source="{escaped(source)}">{escaped(display)}</data>'
            kind = "words" if text else "words none"
            return f'<span class="{kind}" data-source="{escaped(source)}">{escaped(text)}</span>'
        case Link(text, section):
            return f'<a href="#{escaped(section)}">{escaped(text)}</a>'
        case tuple():
            return "".join(map(_cell, cell))
        case _:
            return escaped(cell)


def _length(cell: Cell) -> int:
    if isinstance(cell, tuple):
        return sum(map(_length, cell))
    return len(cell if isinstance(cell, str) else cell.text)


def _table(table: Table) -> str:
    prose = any(_length(cell) > PROSE for row in table.rows for cell in row)
    head = ""
    for i, column in enumerate(table.columns):
        numeric = i > 0 and all(_is_number(row[i]) for row in table.rows)
        head += f'<th scope="col"{' class="number"' if numeric else ""}>{escaped(column)}</th>'
    rows = []
    for first, *others in table.rows:
        cells = [f'<th scope="row">{_cell(first)}</th>']
        for column, cell in zip(table.columns[1:], others, strict=True):
            name = "number" if _is_number(cell) else "hash" if _is_hash(cell) else ""
            attribute = f' class="{name}"' if name else ""
            cells.append(f'<td{attribute} data-label="{escaped(column)}">{_cell(cell)}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    inside = "\n".join(rows)
    return (
        f"{_statement(table.statement)}"
        f'<div class="scroll{" long" if len(table.rows) > SHORT else ""}" role="region" tabindex="0"'
        f' aria-label="{escaped(table.caption)}">'
        f"<table{' class="prose"' if prose else ''}>\n<caption>{escaped(table.caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{inside}\n</tbody>\n</table></div>"
    )


def _statement(text: str) -> str:
    return f'<p class="fail statement">{escaped(text)}</p>\n' if text else ""


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, Number) or (
        isinstance(cell, tuple) and any(map(_is_number, cell)) and all(_length(one) < 20 for one in cell)
    )


def _is_hash(cell: Cell) -> bool:
    return isinstance(cell, Words) and len(cell.text) == 64 and all(c in "0123456789abcdef" for c in cell.text)


def _picture(picture: Picture, dpi: int) -> str:
    if not picture.alternative.strip():
        raise InputError(f"to_html: the figure {picture.caption!r} has no alternative text.")
    if dpi not in picture.drawn:
        picture.drawn[dpi] = png_of(picture.figure, dpi)
    data = picture.drawn[dpi]
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    shown = round(SHOWN * width / dpi), round(SHOWN * height / dpi)
    image = base64.b64encode(data).decode("ascii")
    return (
        f"{_statement(picture.statement)}<figure>\n"
        f'<img width="{shown[0]}" height="{shown[1]}" alt="{escaped(picture.alternative)}"'
        f' src="data:image/png;base64,{image}">\n<figcaption>{escaped(picture.caption)}</figcaption>\n</figure>'
    )


def png_of(figure: Any, dpi: int) -> bytes:
    """Return a figure as a compressed PNG, the same bytes for figures that were made alike and not drawn before."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, facecolor="white")
    return buffer.getvalue()

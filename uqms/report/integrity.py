"""Whether the page of a report is as it was written, and whether it belongs to a posterior."""

import difflib
import html
import os
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, final

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms.calibration.posterior import Posterior
from uqms.errors import FormatError, InputError
from uqms.report.page import LARGEST, OPENING, POLICY, UNKNOWN, framed, hashed, page_of
from uqms.report.report import CredibilityReport, credibility_report
from uqms.report.style import STYLE

__all__ = ["Page", "ReportCheck", "check_report", "differences_from", "read_page", "texts_of"]

ALWAYS = frozenset(["verdict", "question", "data", "parameters"])  # made of the posterior and of text alone
TAGS = frozenset(
    "html head meta title style body header main nav section h1 h2 h3 h4 p ul li a table caption thead tbody tr th td "
    "data span code figure img figcaption div".split()
)
ATTRIBUTES = frozenset(
    "lang charset http-equiv content name id class href data-source data-made-of data-label data-section "
    "aria-labelledby aria-label role tabindex scope value alt src width height".split()
)
MOST_SHOWN = 12


@final
@dataclass(frozen=True, eq=False)
class ReportCheck:
    """What is wrong with the page of a report; `check_report` returns it. False in an `if` when anything is.

    Attributes
    ----------
    edited
        Places where the page is not what was written, or not what the posterior gives.
    stale
        Data, model, runs or code that differ from those of the posterior.
    not_compared
        Sections that were not made again, since what they were made of was not given.
    """

    edited: tuple[str, ...]
    stale: tuple[str, ...]
    not_compared: tuple[str, ...]

    def __bool__(self) -> bool:
        return not self.edited and not self.stale

    def __str__(self) -> str:
        lines = [f"EDITED  {text}" for text in self.edited] + [f"STALE   {text}" for text in self.stale]
        if not lines:
            lines = ["Nothing was edited, and nothing is stale."]
        return "\n".join(lines + [f"        not compared: {text}" for text in self.not_compared])


@final
@dataclass
class Page:
    """What a page has, as a reader's program finds it.

    Attributes
    ----------
    values
        (section, source, value) of every number and text with a source: that of the attribute `value`, else the text.
    numbers
        (source, value, text) of every number.
    sections
        Keys in their order, with the arguments that each was made of.
    images
        (section, alternative text) of every image.
    headings
        Levels in their order.
    problems
        What a report never has: other elements and attributes, addresses, an image without an alternative text.
    """

    values: list[tuple[str, str, str]] = field(default_factory=list)
    numbers: list[tuple[str, str, str]] = field(default_factory=list)
    sections: dict[str, tuple[str, ...]] = field(default_factory=dict)
    images: list[tuple[str, str]] = field(default_factory=list)
    headings: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = Page()
        self._section, self._open = "", list[tuple[str, str, str | None, list[str]]]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        page, given = self.page, {name: value or "" for name, value in attrs}
        where = f" in the section {self._section!r}" if self._section else ""
        if tag not in TAGS:
            page.problems.append(f"an element <{tag}>{where}, which no report has")
        for name in given:
            if name not in ATTRIBUTES:
                page.problems.append(f"an attribute {name!r} of <{tag}>{where}, which no report has")
        if tag == "a" and not given.get("href", "").startswith("#"):
            page.problems.append(f"a link out of the page{where}")
        if tag == "img":
            self.page.images.append((self._section, given.get("alt", "")))
            if not given.get("alt", "").strip():
                page.problems.append(f"a figure without alternative text{where}")
            if not given.get("src", "").startswith("data:image/png;base64,"):
                page.problems.append(f"an image from elsewhere{where}")
        if tag == "section":
            self._section = given.get("id", "")
            if self._section in page.sections:
                page.problems.append(f"a second section {self._section!r}")
            page.sections[self._section] = tuple(given.get("data-made-of", "").split())
        if re.fullmatch("h[1-6]", tag):
            page.headings.append(int(tag[1]))
        if "data-source" in given:
            self._open.append((tag, given["data-source"], given.get("value"), []))

    def handle_data(self, data: str) -> None:
        for *_, text in self._open:
            text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1][0] == tag:
            _, source, value, text = self._open.pop()
            words = "".join(text)
            self.page.values.append((self._section, source, words if value is None else value))
            if tag == "data":
                self.page.numbers.append((source, str(value), words))
        if tag == "section":
            self._section = ""


def read_page(text: str) -> Page:
    """Return what the page of a report has."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return reader.page


@taught
@single_threaded
def check_report(
    path: str | os.PathLike[str], posterior: Posterior | None = None, verification: Any = None, **evidence: Any
) -> ReportCheck:
    """Return whether the page of a report was edited, and whether it belongs to a posterior.

    Use it on a page that you receive. Without a posterior, hashes and structure are checked, which an editor can adapt.
    With it the report is made again and compared, so that an edited verdict is found even where the hashes fit.

    Parameters
    ----------
    path
        The page.
    posterior, verification, evidence
        What `credibility_report` was given. Texts (question, limitations, ...) are read from the page. Sections that
        were made of something that is not given are listed as not compared; their numbers of the posterior are.

    Raises
    ------
    MissingFileError
        When there is no such file.
    FormatError
        When it is no report.
    InputError
        When an argument is none of `credibility_report`.
    """
    source = check.existing_file("check_report", path)
    text = _text_of(source)
    page = read_page(text)
    edited = _hashes(text) + _structure(text, page)
    if posterior is None:
        alone = "the content with a posterior, which was not given"
        return ReportCheck(tuple(dict.fromkeys(edited)), (), (alone,))
    texts = texts_of(page)
    unknown = sorted(set(evidence) & set(texts))
    if unknown:
        raise InputError(f"check_report: {unknown} are read from the page; leave them out.")
    report = credibility_report(posterior, verification, **texts, **evidence)
    given = {"posterior", *texts, *(name for name, value in evidence.items() if value is not None)}
    given |= set() if verification is None else {"verification"}
    stale = _stale(page, report)
    if any(not text.startswith("code") for text in stale):  # of another posterior: every number differs
        unlike = "the numbers, since data, model or runs are not those of this posterior"
        return ReportCheck(tuple(dict.fromkeys(edited)), tuple(stale), (unlike,))
    differences, left = differences_from(text, page, report, given, same_code=not stale)
    return ReportCheck(tuple(dict.fromkeys(edited + differences)), tuple(stale), tuple(left))


def _text_of(source: Path) -> str:
    size = source.stat().st_size
    if size > 2 * LARGEST:
        raise FormatError(f"check_report: {source} has {size / 1e6:.1f} MB; reports have less than 3 MB.")
    try:
        text = source.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"check_report: {source} is no report: {error}.") from None
    if 'id="page-hash"' not in text or 'id="verdict"' not in text:
        raise FormatError(f"check_report: {source} is no report, as credibility_report(...).to_html(path) writes it.")
    return text


def _bodies(text: str) -> dict[str, str]:
    """Return the text of every section by key."""
    return {key: body for body, key in re.findall(r'(<section id="([^"]*)".*?</section>)', text, re.S)}


def _hashes(text: str) -> list[str]:
    found = re.search(r'id="page-hash" class="words">([0-9a-f]{64})<', text)
    if found is None:
        return ["the page has no hash"]
    whole = hashed(text[: found.start(1)] + UNKNOWN + text[found.end(1) :])
    if whole == found.group(1):
        return []
    stated = dict(re.findall(r'data-section="([^"]*)">([0-9a-f]{64})<', text))
    bodies = _bodies(text)
    edited = [
        f"the section {key!r} does not match its hash"
        for key, body in bodies.items()
        if key in stated and hashed(body) != stated[key]
    ]
    edited += [f"the section {key!r} is missing" for key in stated if key not in bodies]
    return edited or ["the page does not match its hash outside of its sections"]


def _structure(text: str, page: Page) -> list[str]:
    """Return what hides or adds something."""
    found = list(page.problems)
    if f"<style>{STYLE}</style>" not in text or text.count("<style>") != 1:
        found.append("the style sheet is not that of a report: it may hide parts of the page")
    if html.escape(POLICY, quote=True) not in text:
        found.append("the content security policy is not that of a report")
    if "<!--" in text:
        found.append("a comment, which no report has")
    keys = list(page.sections)
    if not keys or keys[0] not in OPENING or "<nav" in text.split('<section id="')[0]:
        found.append("the verdict does not stand at the top of the page")
    statuses = [(section, value) for section, source, value in page.values if source.endswith("verdict.status")]
    failing = [section for section, value in statuses if value == "fail"]
    if failing and keys and keys[0] not in failing:
        found.append("the failing verdict does not stand at the top of the page")
    banner = r'<section id="(?:verdict|verification)"[^>]*>\n<h2[^>]*>[^<]*</h2>\n<p class="(fail|warn|pass) banner">'
    banners = re.findall(banner, text)
    if len(banners) != sum(key in ("verdict", "verification") for key in keys):
        found.append("the verdict does not stand above its checks")
    return found or _outside(text, page)


def _outside(text: str, page: Page) -> list[str]:
    """Return whether anything stands outside of the sections that no report has there."""
    bodies = _bodies(text)
    titles = {key: re.search(r"<h2[^>]*>(.*?)</h2>", body, re.S) for key, body in bodies.items()}
    made = [(key, html.unescape(titles[key][1]), body) for key, body in bodies.items() if titles[key] is not None]  # type: ignore[index]
    title = next((value for _, source, value in page.values if source == "title"), "")
    same = framed(title, [one for one in made if one[0] != "integrity"], bodies.get("integrity", "")) == text
    return [] if same else ["something stands outside of the sections that no report has there"]


def texts_of(page: Page) -> dict[str, Any]:
    """Return the author's own texts, as they are on the page."""
    texts: dict[str, Any] = {}
    limitations: dict[int, str] = {}
    factors: dict[str, str] = {}
    for _, source, value in page.values:
        name, _, key = source.partition(":")
        if source in ("title", "question", "influence", "consequence"):
            texts[source] = value
        elif name == "limitations" and key.isdigit():
            limitations[int(key)] = value
        elif name == "factors":
            factors[key.replace("\\:", ":").replace("\\\\", "\\")] = value
    return {**texts, "limitations": [limitations[i] for i in sorted(limitations)], "factors": factors}


def _stale(page: Page, report: CredibilityReport) -> list[str]:
    """Return which hashes on the page are not those of the posterior."""
    stated = {source: value for _, source, value in page.values if source.startswith("hashes:")}
    now = {
        source: value
        for _, source, value in read_page(page_of(report.title, _only(report, "provenance"))).values
        if source.startswith("hashes:")
    }
    found = []
    for name in dict.fromkeys([*stated, *now]):
        old, new = stated.get(name, "none"), now.get(name, "none")
        if old != new:
            found.append(f"{name.removeprefix('hashes:')}: {old[:12]} on the page, {new[:12]} in the posterior")
    return found


def _only(report: CredibilityReport, key: str) -> list[Any]:
    return [section for section in report.sections if section.key == key]


def differences_from(
    text: str, page: Page, report: CredibilityReport, given: set[str], same_code: bool
) -> tuple[list[str], list[str]]:
    """Return where the page differs from the report made again, and the sections that could not be compared."""
    again = page_of(report.title, report.sections)
    other = read_page(again)
    now = {(section, source): value for section, source, value in other.values}
    differences = []
    for section, source, value in page.values:
        root = re.split(r"[.:]", source)[0]
        own = root in given or root not in _ARGUMENTS
        if own and (section, source) in now and now[section, source] != value:
            differences.append(
                f"{source} is {value[:60]!r} on the page and {now[section, source][:60]!r} in the posterior"
            )
    bodies, mine = _bodies(text), _bodies(again)
    missing = [name for section in page.sections.values() for name in section if name not in given]
    left = ["your own texts (title, question, limitations, ...), which are in no object"]
    for key, names in page.sections.items():
        lacking = [] if key in ALWAYS else [name for name in names if name not in given]
        if key == "integrity":
            continue
        if lacking or (key in ("credibility", "not-assessed") and missing):
            left.append(f"the section {key!r}, which was made of {', '.join(lacking or dict.fromkeys(missing))} too")
        elif same_code and _comparable(bodies.get(key, "")) != _comparable(mine.get(key, "")):
            differences.append(
                f"the section {key!r} is not what the posterior gives{_first(bodies.get(key), mine.get(key))}"
            )
    differences += [f"the section {key!r} is missing" for key in mine if key not in bodies]
    differences += [
        f"{source} is missing"
        for section, source in now
        if section in bodies and section != "integrity" and not any(source == there for _, there, _ in page.values)
    ]
    if len(differences) > MOST_SHOWN:
        differences = [*differences[:MOST_SHOWN], f"and {len(differences) - MOST_SHOWN} further differences"]
    return differences, left


def _comparable(body: str) -> str:
    """Return a section without the pictures of the author, which look different when they are drawn twice."""
    return re.sub(r'src="[^"]*"', "", body) if body.startswith('<section id="figures"') else body


_ARGUMENTS = frozenset(
    [
        "verification",
        "sensitivity",
        "predictions",
        "decisions",
        "comparison",
        "next_experiment",
        "checks",
        "validation",
        "validations",
        "ensemble",
        "states",
        "figures",
    ]
)


def _first(page: str | None, posterior: str | None) -> str:
    """Return the first words that differ."""
    a, b = ([re.sub(r"<[^>]*>", "", line) for line in (text or "").split("\n")] for text in (page, posterior))
    for line in difflib.unified_diff(b, a, lineterm="", n=0):
        if line.startswith("+") and not line.startswith("+++") and line[1:].strip():
            return f": the page has {html.unescape(line[1:]).strip()[:80]!r}"
    return ""

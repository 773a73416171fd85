"""Pages that were edited, pages of another posterior, and pages that hide something."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
import studies_of_reports as studies

import uqms as uq
from uqms.errors import FormatError, InputError, MissingFileError
from uqms.report.page import UNKNOWN, hashed


@cache
def page() -> str:
    """Return the page of a study whose verdict is FAIL, with all texts of the author."""
    report = uq.credibility_report(
        studies.failing(),
        question="Is the rate above 0.3 a day?",
        influence="It is one of two pieces of evidence.",
        consequence="A dose that is too high.",
        limitations=["One device.", "One laboratory: A"],
        factors={"test samples": "Two of three batches."},
        validation={},
    )
    with TemporaryDirectory() as folder:
        return report.to_html(Path(folder) / "report.html").read_text(encoding="utf-8")


def rehashed(text: str) -> str:
    """Return a page whose hashes were made to fit, as an editor who knows the rules would."""
    for body, key in re.findall(r'(<section id="([^"]*)".*?</section>)', text, re.S):
        text = re.sub(f'(data-section="{key}">)[0-9a-f]{{64}}', lambda m, body=body: m[1] + hashed(body), text)
    blank = re.sub('(id="page-hash" class="words">)[0-9a-f]{64}', rf"\g<1>{UNKNOWN}", text)
    return blank.replace(UNKNOWN, hashed(blank))


def checked(text: str, tmp_path: Path, posterior: uq.Posterior | None = None) -> uq.report.ReportCheck:
    path = tmp_path / "edited.html"
    path.write_text(text, encoding="utf-8")
    return uq.check_report(path, posterior, **({} if posterior is None else {"validation": {}}))


def test_a_page_as_it_was_written_passes(tmp_path: Path) -> None:
    alone, compared = checked(page(), tmp_path), checked(page(), tmp_path, studies.failing())
    assert alone
    assert compared
    assert rehashed(page()) == page()
    assert compared.not_compared == ("your own texts (title, question, limitations, ...), which are in no object",)
    assert "Nothing was edited" in str(compared)


# Edits of an honest page; the hashes are made to fit afterwards.
def _status(text: str) -> str:
    return re.sub(r"FAIL</data>\. (<span[^>]*>)[^<]*", r"PASS</data>. \1Use the intervals.", text, count=1)


def _value(text: str) -> str:
    return re.sub(r'(<data value=")[^"]*(" data-source="posterior.summary:rate:mean">)[^<]*', r"\g<1>0.4\g<2>0.4", text)


def _shown(text: str) -> str:
    """Leave the exact value, and show another one."""
    return re.sub(r'(data-source="posterior.summary:rate:97\.5%">)[^<]*', r"\g<1>0.45", text)


def _message(text: str) -> str:
    return re.sub(r'(<span class="words" data-source="posterior.verdict.checks:0:message">)[^<]*', r"\g<1>fine", text)


def _row(text: str) -> str:
    start = text.index("<tr>", text.index("Checks that fail"))
    start = text.index("<tr>", start + 4)
    return text[:start] + text[text.index("</tr>", start) + 5 :]


def _below(text: str) -> str:
    """Move the verdict below everything else."""
    found = re.search(r'<section id="verdict".*?</section>\n', text, re.S)
    assert found
    without = text.replace(found[0], "")
    at = without.index('<section id="integrity"')
    return without[:at] + found[0] + without[at:]


def _style(text: str) -> str:
    return text.replace("</style>", "#verdict { display: none }</style>")


def _attribute(text: str) -> str:
    return text.replace('<section id="verdict"', '<section hidden id="verdict"')


def _inline(text: str) -> str:
    return text.replace('<p class="fail banner">', '<p class="fail banner" style="font-size: 1px">')


def _spacer(text: str) -> str:
    return text.replace("<main>\n", "<main>\n<p>" + "<span>All checks passed. </span>" * 200 + "</p>\n")


def _class(text: str) -> str:
    return text.replace('<p class="fail banner">', '<p class="pass banner">')


def _comment(text: str) -> str:
    return text.replace('<section id="verdict"', '<!--<section id="verdict"', 1).replace(
        "</section>", "</section>-->", 1
    )


def _statement(text: str) -> str:
    return text.replace('<p class="fail statement">The verdict is FAIL: do not use these intervals.</p>\n', "")


def _section(text: str) -> str:
    return re.sub(r'<section id="sensitivity".*?</section>\n', "", text, flags=re.S)


def _second(text: str) -> str:
    return text.replace("</main>", '<section id="verdict"><h2>Verdict</h2></section>\n</main>')


def _alternative(text: str) -> str:
    return re.sub('alt="[^"]*"', 'alt=""', text, count=1)


def _picture(text: str) -> str:
    first, second = re.findall(r'src="(data:image/png[^"]*)"', text)[:2]
    return text.replace(first, second, 1)


def _script(text: str) -> str:
    return text.replace("</main>", "<script>document.querySelector('#verdict').remove()</script></main>")


def _policy(text: str) -> str:
    return text.replace("default-src &#x27;none&#x27;", "default-src *")


def _beacon(text: str) -> str:
    return text.replace("</main>", '<img alt="logo" src="https://example.org/x.png"></main>')


def _made_of(text: str) -> str:
    """Claim that the verdict was made of more than is given, so that it is not compared, and edit it."""
    return _status(
        text.replace(
            'data-made-of="posterior">\n<h2 id="verdict', 'data-made-of="posterior ensemble">\n<h2 id="verdict'
        )
    )


HIDING = (_below, _style, _attribute, _inline, _spacer, _comment, _second, _alternative, _script, _policy, _beacon)
EDITING = (_status, _value, _shown, _message, _row, _class, _statement, _section, _picture, _made_of)


@pytest.mark.parametrize("edit", HIDING + EDITING)
def test_every_edit_is_seen_by_the_hashes(edit: Callable[[str], str], tmp_path: Path) -> None:
    edited = edit(page())
    assert edited != page()
    found = checked(edited, tmp_path)
    assert not found
    assert found.edited


@pytest.mark.parametrize("edit", HIDING)
def test_what_hides_something_is_seen_although_the_hashes_fit(edit: Callable[[str], str], tmp_path: Path) -> None:
    found = checked(rehashed(edit(page())), tmp_path)
    assert not found
    assert not any("hash says" in text for text in found.edited)


@pytest.mark.slow
@pytest.mark.parametrize("edit", HIDING + EDITING)
def test_every_edit_is_seen_by_the_posterior_although_the_hashes_fit(
    edit: Callable[[str], str], tmp_path: Path
) -> None:
    assert not checked(rehashed(edit(page())), tmp_path, studies.failing())


def test_an_edited_verdict_is_seen_by_the_posterior_although_the_hashes_fit(tmp_path: Path) -> None:
    edited = rehashed(_status(page()))
    assert checked(edited, tmp_path)  # the hashes fit: alone they prove nothing
    found = checked(edited, tmp_path, studies.failing())
    assert not found
    assert any("'verdict' is not what the posterior gives: the page has 'Verdict: PASS" in one for one in found.edited)


def test_other_data_make_a_page_stale(tmp_path: Path) -> None:
    problem = studies.failing().problem
    values = problem.observations.value.copy()
    values[0] += 1e-9
    other = problem.with_values(values).sample(studies.Given(**studies.of_decay(0.3)), rng=1)
    found = checked(page(), tmp_path, other)
    assert not found
    assert [text.split(":")[0] for text in found.stale] == ["data"]
    assert not found.edited


@pytest.mark.slow
def test_other_runs_make_a_page_stale(tmp_path: Path) -> None:
    surrogate = studies.one().problem.surrogate
    y = surrogate.process.y.copy()
    y[0, 0] += 1e-9
    other = replace(surrogate, process=replace(surrogate.process, y=y))
    theirs = studies.one().problem.with_surrogate(other).sample(studies.Given(**studies.draws()), rng=1)
    path = uq.credibility_report(studies.one()).to_html(tmp_path / "report.html")
    assert [text.split(":")[0] for text in uq.check_report(path, theirs).stale] == ["runs of surrogate"]


def test_another_model_makes_a_page_stale(tmp_path: Path) -> None:
    problem = studies.failing().problem
    other = uq.Calibration(problem.surrogate, problem.observations, uq.GaussianNoise(sd=uq.HalfNormal(0.3)))
    found = checked(page(), tmp_path, other.sample(studies.Given(**studies.of_decay(0.3)), rng=1))
    assert [text.split(":")[0] for text in found.stale] == ["model"]


def test_other_code_makes_a_page_stale_and_numbers_are_compared_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uqms.report.material.hash_of_code", lambda: "f" * 64)
    found = checked(page(), tmp_path, studies.failing())
    assert [text.split(":")[0] for text in found.stale] == ["code"]
    assert not [text for text in found.edited if "hashes:" not in text]
    found = checked(rehashed(_value(page())), tmp_path, studies.failing())
    assert any("posterior.summary:rate:mean is '0.4' on the page" in text for text in found.edited)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one", "population", "regimens"])
def test_a_posterior_from_its_file_is_the_same(kind: str, tmp_path: Path) -> None:
    studies.KINDS[kind]().save(tmp_path / "posterior.nc")
    path = uq.credibility_report(studies.KINDS[kind]()).to_html(tmp_path / "report.html")
    found = uq.check_report(path, uq.load_posterior(tmp_path / "posterior.nc"))
    assert found
    assert len(found.not_compared) == 1


def test_what_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        uq.check_report(tmp_path / "none.html")
    (tmp_path / "other.html").write_text("<p>text</p>")
    with pytest.raises(FormatError, match="is no report"):
        uq.check_report(tmp_path / "other.html")
    (tmp_path / "bytes.html").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="is no report"):
        uq.check_report(tmp_path / "bytes.html")
    (tmp_path / "page.html").write_text(page())
    with pytest.raises(InputError, match="are read from the page"):
        uq.check_report(tmp_path / "page.html", studies.failing(), question="another one")


@pytest.mark.slow
def test_a_section_that_cannot_be_compared_is_named(tmp_path: Path) -> None:
    frame = pd.DataFrame({"elpd": [-3.0, -4.5]}, index=["a", "b"])
    report = uq.credibility_report(studies.direct(), comparison=frame)
    path = report.to_html(tmp_path / "report.html")
    found = uq.check_report(path, studies.direct())
    assert found
    assert any("'sensitivity', which was made of comparison too" in text for text in found.not_compared)

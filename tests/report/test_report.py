"""The report of a study: every number is that of the object, the verdict comes first, text is escaped."""

import re
import tempfile
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
import studies_of_reports as studies
import xarray as xr

import uqms as uq
from uqms.errors import InputError, PathError
from uqms.report.contents import Picture, Section
from uqms.report.factors import FACTORS
from uqms.report.page import LARGEST, page_of
from uqms.report.style import COLOURS

SLOW = dict.fromkeys(("population", "regimens"), pytest.mark.slow)
EVIL = "<script>alert(1)</script>"


class Elements(HTMLParser):
    """The elements of a page in their order, each with its attributes, depth and text."""

    VOID = ("meta", "img")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(text)
        assert not self.open  # every element is closed

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        one = (tag, {name: value or "" for name, value in attrs}, list[str]())
        self.found.append(one)
        if tag not in self.VOID:
            self.open.append(one)

    def handle_data(self, data: str) -> None:
        for *_, text in self.open:
            text.append(data)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def of(self, *tags: str) -> list[tuple[str, dict[str, str], str]]:
        return [(tag, attributes, "".join(text)) for tag, attributes, text in self.found if tag in tags]

    @property
    def data(self) -> dict[str, str]:
        """Exact value by source."""
        return {a["data-source"]: a["value"] for _, a, _ in self.of("data") if "data-source" in a}


@cache
def page_of_kind(kind: str) -> tuple[str, Elements]:
    """Return the page of a kind of study, with nothing but its posterior."""
    with tempfile.TemporaryDirectory() as folder:
        return written(studies.KINDS[kind](), Path(folder))


def written(posterior: uq.Posterior, tmp_path: Path, *arguments: Any, **settings: Any) -> tuple[str, Elements]:
    report = uq.credibility_report(posterior, *arguments, **settings)
    text = report.to_html(tmp_path / "report.html").read_text(encoding="utf-8")
    return text, Elements(text)


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=SLOW.get(kind, ())) for kind in studies.KINDS])
def test_numbers_of_the_page_are_those_of_the_objects(kind: str) -> None:
    posterior = studies.KINDS[kind]()
    text, page = page_of_kind(kind)
    values = page.data
    summary = posterior.summary()
    for name, row in summary.iterrows():
        for column in ("mean", "sd", "2.5%", "97.5%", "mcse_mean", "r_hat", "ess_bulk", "ess_tail"):
            found = float(values[f"posterior.summary:{name}:{column}"])
            assert found == row[column] or (np.isnan(found) and np.isnan(row[column]))
    for i, one in enumerate(posterior.verdict.checks):
        found = float(values[f"posterior.verdict.checks:{i}:value"])
        assert found == one.value or (np.isnan(found) and np.isnan(one.value))
    for name, share in posterior.surrogate_share.items():
        source = f"surrogate_fraction:{name}:fraction of the variance"
        exact = kind in ("direct", "failing")
        assert (source in values) == (not exact)
        if not exact:
            assert float(values[source]) == float(share)
    assert values["posterior.verdict.status"] == posterior.verdict.status
    assert len(text.encode()) < LARGEST
    if posterior.subjects:
        for (name, subject), row in posterior.individual_summary().iterrows():
            assert float(values[f"posterior.individual_summary:{name}:{subject}:97.5%"]) == row["97.5%"]
        for name, row in posterior.shrinkage().iterrows():
            assert float(values[f"posterior.shrinkage:{name}:shrinkage"]) == row["shrinkage"]
    if kind == "chain":
        table = posterior.member_share()
        for member in ("cell", "tissue"):
            assert float(values[f"posterior.member_share:g:{member}"]) == table.loc["g", member]
    total = sum(int(value) for source, value in values.items() if re.fullmatch("data:.*:measurements", source))
    assert total == posterior.tree["observed_data"].sizes["observation"]


def test_the_table_has_every_number_of_the_page(tmp_path: Path) -> None:
    report = uq.credibility_report(studies.direct())
    table = report.table().set_index("source")["value"]
    page = Elements(report.to_html(tmp_path / "report.html").read_text())
    numbers = {source: value for source, value in page.data.items() if not source.endswith("status")}
    assert set(numbers) == set(table.index)
    for source, value in numbers.items():
        expected = table[source] if np.ndim(table[source]) == 0 else table[source].iloc[0]
        assert float(value) == expected or np.isnan(expected)
    assert "verdict PASS" in repr(report)
    assert len(repr(report)) < 200


def test_data_and_design_are_described() -> None:
    _, page = page_of_kind("one")
    assert page.data["data:conc:measurements"] == "24"
    assert page.data["data:peak:measurements"] == "2"
    assert float(page.data["data:conc:largest"]) == studies.one().problem.observations.value[:24].max()
    assert page.data["ranges:condition dose:largest"] == "0.75"
    assert page.data["runs:surrogate:runs"] == "48"
    assert page.data["box:rate:upper"] == "1.0"
    low, high = (float(page.data[f"priors:volume:{end}"]) for end in ("lower", "upper"))
    assert (low, high) == studies.one().problem.limits("volume")


def test_evidence_is_shown_by_what_it_offers(tmp_path: Path) -> None:
    posterior = studies.direct()
    prediction = posterior.predict()
    check = uq.diagnostics.predictive_check(posterior, lambda y: y.max("observation"))
    frame = pd.DataFrame({"effect": [0.25, 0.5], "yes": [True, False]}, index=["rate", "volume"])
    text, page = written(
        posterior,
        tmp_path,
        predictions={"by day": prediction},
        checks={"largest value": check},
        sensitivity=frame,
        comparison=pd.DataFrame({"elpd": [-3.0, -4.5]}, index=["a", "b"]),
    )
    interval = prediction.interval()["amount"].sel(bound="upper")
    for i in range(4):
        assert float(page.data[f"predictions:by day:mean:amount:{i}"]) == float(prediction.mean["amount"][i])
        assert float(page.data[f"predictions:by day:interval:amount:upper:{i}"]) == float(interval[i])
    assert float(page.data["checks:largest value:p"]) == check.p
    assert page.data["sensitivity:volume:effect"] == "0.5"
    assert page.data["comparison:b:elpd"] == "-4.5"
    assert '<span class="words" data-source="sensitivity:volume:yes">False</span>' in text


def test_candidates_of_a_next_experiment_are_not_shown_a_second_time(tmp_path: Path) -> None:
    posterior = studies.direct()
    dim, times = next(iter(posterior.problem.observations.coords.items()))
    ideas = uq.candidates(outputs="amount", coords={dim: np.unique(times)[:3]})
    best = uq.next_experiment(posterior, ideas, size=1, draws=100, rng=1)
    text, page = written(posterior, tmp_path, next_experiment=best)
    assert float(page.data["next_experiment:table:#2:gain"]) == best.table["gain"].iloc[2]
    assert float(page.data["next_experiment:gain"]) == best.gain
    assert "candidate measurements" not in text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"verification": "Title"}, "verification is the text 'Title'.*A title is title="),
        ({"sensitivity": 0.5}, "sensitivity is a float; give a pandas DataFrame"),
        ({"checks": {"a": [1.0]}}, r"checks\['a'\] is a list; give"),
        ({"figures": matplotlib.figure.Figure()}, "figures is a Figure; give figures by caption"),
    ],
)
def test_results_without_numbers_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        uq.credibility_report(studies.direct(), **given)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::uqms.errors.UqmsWarning")
def test_results_of_the_whole_library_are_shown(tmp_path: Path) -> None:
    posterior, dose = studies.one(), {"dose": 0.5}
    surrogate = posterior.problem.surrogate
    design = uq.verification_design(posterior, 120, rng=1)
    rate, volume, at = (design[name].values for name in ("rate", "volume", "dose"))
    time = np.array([0.0, 1.0, 2.0, 4.0])
    curves = ((1.0 + at) * (1.0 + rate))[:, None] * np.exp(-0.3 * time)
    curves = curves + (at - volume)[:, None] * time * np.exp(-0.5 * time)
    outputs = {
        "conc": xr.DataArray(curves, dims=("run", "time"), coords={"time": time}, attrs={"unit": "mg/L"}),
        "peak": xr.DataArray(volume + rate, dims="run", attrs={"unit": "mg/L"}),
        "area": xr.DataArray(rate * at, dims="run", attrs={"unit": "mg h/L"}),
    }
    correction = uq.correct(posterior, uq.ensemble.build(design, outputs), sampler=uq.SMC(particles=200), rng=1)
    ranks = uq.diagnostics.simulation_based_calibration(posterior.problem, n=20, rng=1)
    evidence: dict[str, Any] = {
        "checks": {
            "ranks": ranks,
            "identifiability": uq.diagnostics.identifiability(posterior),
            "profile": uq.diagnostics.profile_likelihood(posterior.problem, "rate", n=9),
        },
        "sensitivity": {
            "Shapley": uq.shapley_effects(surrogate, conditions=dose, rng=1),
            "tornado": uq.tornado(surrogate, conditions=dose, of="peak"),
            "derivatives": uq.derivative_measures(surrogate, conditions=dose, rng=1),
        },
        "decisions": uq.propagate(posterior, conditions=dose, of="peak", rng=1).decide(
            lambda table, action: (table["peak"] - action) ** 2, [0.9, 1.0, 1.1]
        ),
    }
    _, page = written(posterior, tmp_path, correction, **evidence)
    for name, row in correction.table.iterrows():
        assert float(page.data[f"verification.table:{name}:moved"]) == row["moved"]
    verified = correction.verification.verdict
    assert page.data["verification.verification.verdict.status"] == verified.status
    assert float(page.data["checks:ranks:table:rate:p_value"]) == ranks.table.loc["rate", "p_value"]
    interval = evidence["checks"]["profile"].interval
    assert len(interval) == 2
    for action in ("0.9", "1.0", "1.1"):
        loss = evidence["decisions"].table.loc[float(action), "loss"]
        assert float(page.data[f"decisions:table:{action}:loss"]) == loss
    assert len(page.of("img")) >= 9
    assert uq.check_report(tmp_path / "report.html", posterior, correction, **evidence)


def test_a_check_that_does_not_pass_is_named_at_the_top(tmp_path: Path) -> None:
    class Ranks:
        passed, failures = False, ("rate",)
        table = pd.DataFrame({"level": [0.001]}, index=["rate"])

    text, _ = written(studies.direct(), tmp_path, checks={"ranks of simulated data": Ranks()})
    words = re.sub("<[^>]*>", "", text[: text.index("<nav")])
    assert "ranks of simulated data: WARN. This check does not pass for rate." in words


# --- the verdict ------------------------------------------------------------------------------------------------------


def test_a_failing_verdict_stands_first_in_words() -> None:
    text, page = page_of_kind("failing")
    body = re.sub(r"<style>.*?</style>", "", text, flags=re.S)
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body[body.index("<body>") :]))
    assert words.strip().startswith("Credibility report: calibration of rate Verdict Verdict: FAIL . Do not use")
    tables = [text for _, _, text in page.of("caption")]
    assert tables[0] == "Checks that fail"
    failing = [one.name for one in studies.failing().verdict.checks if one.status == "fail"]
    assert failing
    assert all(name in page.of("table")[0][2] for name in failing)


def test_intervals_of_a_failing_verdict_have_a_statement_right_before_them(tmp_path: Path) -> None:
    frame = pd.DataFrame({"2.5%": [0.1], "97.5%": [0.2]}, index=["a"])
    text, _ = written(studies.failing(), tmp_path, predictions=frame, validation={})
    statement = "The verdict is FAIL: do not use these intervals."
    with_intervals = [m.start() for m in re.finditer(r'<th scope="col"[^>]*>97\.5%</th>', text)]
    assert len(with_intervals) == 2  # of the posterior and of the prediction
    for place in with_intervals:
        start = text.rindex('<div class="scroll', 0, place)
        assert text[:start].endswith(f'<p class="fail statement">{statement}</p>\n')
    assert statement not in page_of_kind("one")[0]


def test_the_page_never_says_that_a_study_is_credible() -> None:
    text, page = page_of_kind("one")
    table = next(text for _, _, text in page.of("table") if text.strip().startswith("Credibility factors"))
    assert all(factor.name in table for factor in FACTORS)
    assert len(FACTORS) == 13
    assert table.count("not assessed here") == 1 + sum(not factor.evidence for factor in FACTORS)
    assert "no grade" in text


# --- text -------------------------------------------------------------------------------------------------------------


def marked_up() -> uq.Posterior:
    """Return a posterior whose words are code."""
    days = np.array([0.0, 1.0, 2.0])
    space = uq.ParameterSpace(rate=uq.LogNormal(median=0.5, sigma=0.5, unit="</script>", description=EVIL))
    simulator = uq.DirectSimulator(
        lambda rate: np.exp(-rate * days), space=space, outputs={EVIL: ("day",)}, coords={"day": days}
    )
    data = xr.DataArray([1.02, 0.61, 0.38], dims="day", coords={"day": days}, name=EVIL)
    problem = uq.Calibration(
        simulator, data, uq.GaussianNoise(sd=0.05), derived={'"><img src=x onerror=a()>': lambda p: p["rate"] + 1.0}
    )
    return problem.sample(studies.Given(rate=np.random.default_rng(1).normal(0.5, 0.05, 400)), rng=1)


@pytest.mark.slow
def test_markup_in_names_is_text(tmp_path: Path) -> None:
    frame = pd.DataFrame({"=cmd()": [0.25]}, index=["</script><b>"])
    text, page = written(
        marked_up(),
        tmp_path,
        title=f"A {EVIL}",
        question='</section><section id="x">',
        limitations="=cmd()|' /C calc'!A0 \x00\x1b",
        comparison={'"onload="x': frame},
    )
    assert {tag for tag, *_ in page.found} == {
        *("html", "head", "meta", "title", "style", "body", "header", "main", "nav", "section", "h1", "h2", "h3", "p"),
        *("h4", "ul", "li", "a", "div", "table", "caption", "thead", "tbody", "tr", "th", "td", "span", "data", "code"),
        *("figure", "img", "figcaption"),
    }
    assert "<script" not in text.lower()
    assert not [name for _, attributes, _ in page.found for name in attributes if name.startswith("on")]
    assert page.of("h1")[0][2] == f"A {EVIL}"
    assert float(page.data['comparison:"onload="x:</script><b>:=cmd()']) == 0.25
    assert "\x00" not in text
    assert "\x1b" not in text
    assert uq.check_report(tmp_path / "report.html", marked_up(), comparison={'"onload="x': frame})


def test_the_page_needs_nothing_else() -> None:
    text, page = page_of_kind("one")
    for _, attributes, _ in page.found:
        for name in ("src", "href", "data", "action", "poster"):
            address = attributes.get(name, "")
            assert not address or address.startswith("#") or urlparse(address).scheme == "data"
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert "url(" not in text
    policy = next(a["content"] for _, a, _ in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")


def test_the_page_can_be_read_by_everybody() -> None:
    _, page = page_of_kind("failing")
    assert page.of("html")[0][1]["lang"] == "en"
    levels = [int(tag[1]) for tag, *_ in page.of("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    assert all(a.get("scope") in ("col", "row") for _, a, _ in page.of("th"))
    assert len(page.of("caption")) == len(page.of("table"))
    keys = [a["id"] for _, a, _ in page.found if "id" in a]
    assert len(set(keys)) == len(keys)
    assert all(a["href"][1:] in keys for _, a, _ in page.of("a"))
    images = page.of("img")
    assert len(images) == 3
    images += page_of_kind("one")[1].of("img")
    assert all(re.search(r"\d", a["alt"]) and len(a["alt"]) > 40 for _, a, _ in images)


def luminance(colour: str) -> float:
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255.0
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("kind", COLOURS)
def test_contrast_is_that_of_wcag_aa(kind: str) -> None:
    dark, light = sorted(map(luminance, COLOURS[kind]))
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_contrast_of_black_and_white_is_21() -> None:
    assert (luminance("#ffffff") + 0.05) / (luminance("#000000") + 0.05) == pytest.approx(21.0)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    report = uq.credibility_report(studies.direct())
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    for path in ("../report.html", tmp_path / "report.html", "link/report.html", "a/../../report.html"):
        with pytest.raises(PathError, match="outside of the folder"):
            report.to_html(path, folder=folder)
    assert not (tmp_path / "report.html").exists()
    assert report.to_html("report.html", folder=folder).parent == folder.resolve()


def test_a_figure_without_alternative_text_is_refused(tmp_path: Path) -> None:
    figure = matplotlib.figure.Figure()
    figure.subplots().plot([0, 1])
    with pytest.raises(InputError, match="has no alternative text"):
        uq.credibility_report(studies.direct(), figures={"mine": figure})
    section = Section("verdict", "Verdict", (Picture("a figure", " ", figure),))
    with pytest.raises(InputError, match="has no alternative text"):
        page_of("title", [section])
    figure.set_label("A line from 0 to 1.")
    _, page = written(studies.direct(), tmp_path, figures={"mine": figure})
    assert page.of("img")[-1][1]["alt"] == "A line from 0 to 1."


def test_arguments_that_cannot_be_right() -> None:
    posterior = studies.direct()
    with pytest.raises(InputError, match="place of a posterior"):
        uq.credibility_report(posterior.problem)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="question is 3; give text"):
        uq.credibility_report(posterior, question=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the factors of V&V 40 are"):
        uq.credibility_report(posterior, factors={"grade": "A"})
    with pytest.raises(InputError, match="give a matplotlib Figure"):
        uq.credibility_report(posterior, figures={"mine": 3})


def test_a_page_that_is_too_large_has_coarser_figures_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    figure = matplotlib.figure.Figure(figsize=(2, 2))
    figure.subplots().imshow(rng.random((300, 300)), interpolation="nearest")
    picture = Picture("noise", "Random numbers from 0 to 1.", figure)
    section = Section("verdict", "Verdict", (picture,))
    whole = len(page_of("title", [section]))
    assert set(picture.drawn) == {160}
    monkeypatch.setattr("uqms.report.page.LARGEST", whole - 1000)
    assert len(page_of("title", [section])) < whole - 1000
    assert set(picture.drawn) == {160, 110}
    monkeypatch.setattr("uqms.report.page.LARGEST", 10_000)
    with pytest.raises(InputError, match="more than 3 MB"):
        page_of("title", [section])

"""The last sections: credibility factors, what was not assessed, and provenance."""

import json

from uqms.report.contents import Block, Cell, Heading, Link, Listing, Paragraph, Section, Table
from uqms.report.factors import FACTORS
from uqms.report.material import Material, conjoined

__all__ = ["credibility", "further", "not_assessed", "provenance"]


def credibility(study: Material, there: dict[str, str]) -> Section:
    """Return the factors of V&V 40 with the sections that have evidence (`there`: titles by key), without a grade."""
    blocks: list[Block] = [
        Paragraph(
            (
                "The credibility factors of ASME V&V 40 (2018). The table lists where this report has evidence and "
                "what it does not assess. It is no grade: whether the evidence is enough for the context of use is "
                "for the reader to decide.",
            )
        )
    ]
    stated = study.given.get("factors") or {}
    rows: list[tuple[Cell, ...]] = []
    for factor in FACTORS:
        links = [Link(there[key], key) for key in factor.evidence if key in there]
        evidence: Cell = conjoined(links) if links else "not assessed here"
        author: Cell = study.words("factors", factor.name) if factor.name in stated else "nothing stated"
        row = (factor.name, factor.group, evidence, factor.missing)
        rows.append((*row, author) if stated else row)
    columns = ("factor", "activity", "evidence in this report", "not assessed here")
    blocks.append(Table("Credibility factors", (*columns, "stated by the author") if stated else columns, tuple(rows)))
    return Section("credibility", "Credibility factors (ASME V&V 40)", tuple(blocks), study.made_of("factors"))


def not_assessed(study: Material) -> Section:
    """Return what nobody looked at, and the limitations that the author states."""
    missing = []
    if study.verification is None:
        missing.append("The simulator was not run at draws of the posterior (verification=uq.verify(...)).")
    for name, text in (
        ("sensitivity", "The sensitivity of the outputs to the inputs (sensitivity=)."),
        ("predictions", "Predictions beyond the measurements (predictions=)."),
        ("decisions", "Decisions, and the value of information for them (decisions=)."),
        ("comparison", "Other models of noise, discrepancy or the simulator (comparison=)."),
        ("checks", "Simulation-based calibration and further predictive checks (checks=)."),
    ):
        if study.given.get(name) is None:
            missing.append(text)
    missing.append("The simulator's code, its numerical methods and its discretization.")
    missing.append("Measurements that did not enter the calibration, unless they are listed among the checks.")
    blocks: list[Block] = [Listing(tuple(missing)), Heading("Limitations that the author states")]
    stated = study.given.get("limitations")
    if stated:
        blocks.append(Listing(tuple(study.words("limitations", i) for i in range(len(stated)))))
    else:
        blocks.append(Paragraph(("None stated.",), "missing"))
    limits = study.problem.limitations
    if limits:
        blocks.append(Heading("Methods of the library that this calibration rules out"))
        items: list[Cell] = []
        for call, text in limits.items():
            words = study.words("posterior.problem.limitations", call)
            items.append(words if text.startswith(call) else (f"{call}: ", words))
        blocks.append(Listing(tuple(items)))
    given = ("sensitivity", "predictions", "decisions", "comparison", "checks", "limitations")
    return Section("not-assessed", "What was not assessed", tuple(blocks), study.made_of(*given))


def further(study: Material) -> Section | None:
    """Return the author's own figures; None without any."""
    figures = study.given.get("figures")
    if not figures:
        return None
    blocks: list[Block] = []
    for caption, figure in figures.items():
        blocks += study.picture(caption, str(figure.get_label()), lambda figure=figure: figure, study.statement)  # type: ignore[misc]
    return Section("figures", "Further figures", tuple(blocks), study.made_of("figures"))


def provenance(study: Material) -> Section:
    """Return versions, seeds, settings and hashes, and how to repeat the study."""
    attrs = study.posterior.tree.attrs
    items: list[Cell] = []
    for name, title in (("seed", "seed"), ("sampler", "sampler and settings"), ("python", "Python")):
        if name in attrs:
            items.append((f"{title}: ", study.sources.value("posterior.tree.attrs", name)))
    blocks: list[Block] = [Heading("Settings"), Listing(tuple(items)), Heading("Versions")]
    versions = json.loads(attrs.get("versions", "{}"))
    blocks.append(Listing(tuple(f"{name} {version}" for name, version in versions.items())))
    rows: list[tuple[Cell, ...]] = [(name, study.words("hashes", name)) for name in study.hashes]
    if "data_sha256" in attrs:
        rows.append(("measured values, as at the time of sampling", study.words("posterior.tree.attrs", "data_sha256")))
    blocks.append(Table("Hashes (SHA-256)", ("of", "SHA-256"), tuple(rows)))
    blocks.append(Heading("How to repeat"))
    blocks.append(
        Listing(
            (
                "Install the versions above.",
                "Run the same simulator at the same design, and calibrate with the same sampler and seed. "
                "The same versions on the same kind of machine give the same draws.",
                "uq.check_report(path, posterior) compares this page with a posterior: it names the sections that were "
                "edited, and hashes that differ.",
            )
        )
    )
    return Section("provenance", "Provenance", tuple(blocks), study.made_of())

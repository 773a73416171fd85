"""The first sections: the verdict, runs of the simulator at the posterior, and the question that the study is for."""

from collections.abc import Sequence

from uqms.calibration.checks import Check, Verdict
from uqms.errors import UqmsError
from uqms.report.contents import Block, Heading, Link, Paragraph, Section, Table
from uqms.report.material import Material
from uqms.report.names import by_name
from uqms.report.numbers import Words, source_of

__all__ = ["further_checks", "question", "verdict", "verification"]


def verdict(study: Material) -> Section:
    """Return the verdict on the posterior: what fails, what warns, what was noted, what passed."""
    found = study.posterior.verdict
    return Section("verdict", "Verdict", _judged(study, found, "posterior.verdict", "Verdict", "posterior.verdict"))


def verification(study: Material) -> Section | None:
    """Return what runs of the simulator at posterior draws say; None where there are none."""
    found = study.verification
    if found is None:
        return None
    path = "verification.verification" if study.given["verification"] is not found else "verification"
    blocks = _judged(study, found.verdict, f"{path}.verdict", "Verification on the simulator", path)
    blocks += tuple(
        study.table("Errors of the surrogate at the new runs", f"{path}.errors.table", columns=VALIDATED, head="output")
    )
    blocks += (Paragraph(("Runs that did not complete: ", study.number(f"{path}.failed"), ".")),)
    if path == "verification":
        try:
            blocks += tuple(
                study.table(
                    "With the surrogate and with the simulator (weighted draws)",
                    f"{path}.summary",
                    statement=study.statement,
                )
            )
        except UqmsError as error:
            blocks += (Paragraph((f"The simulator's own posterior: not available. {error}",), "missing"),)
    else:
        blocks += tuple(study.table("Before and after the correction", "verification.table", statement=study.statement))
    return Section("verification", "Runs of the simulator at the posterior", blocks, ("posterior", "verification"))


def further_checks(study: Material) -> Section | None:
    """Return the checks of the author that fail, such as simulation-based calibration; None where none does."""
    blocks: list[Block] = []
    for name, one in by_name(study.given.get("checks")).items():
        if getattr(one, "passed", True):
            continue
        failing = ", ".join(map(str, getattr(one, "failures", ())))
        text = f"{name or 'Check'}: WARN. This check does not pass{f' for {failing}' if failing else ''}."
        blocks.append(Paragraph((text,), "warn"))
    if not blocks:
        return None
    blocks.append(Paragraph(("The results are under ", Link("further checks", "sensitivity"), ".")))
    return Section("further-checks", "Further checks that do not pass", tuple(blocks), ("posterior", "checks"))


VALIDATED = {
    "q2": "Q²",
    "rmse": "RMSE",
    "crps": "CRPS",
    "coverage_50%": "50 % intervals cover",
    "range_50%": "range for a correct surrogate",
    "coverage_95%": "95 % intervals cover",
    "range_95%": "range for a correct surrogate (95 %)",
}


def _judged(study: Material, found: Verdict, path: str, name: str, concluded: str) -> tuple[Block, ...]:
    status = Words(found.status, source_of(f"{path}.status"), found.status.upper())
    kind = found.status
    blocks: list[Block] = [Paragraph((f"{name}: ", status, ". ", study.words(f"{concluded}.conclusion")), kind)]
    failing = [check for check in found.checks if check.status == "fail"]
    warning = [check for check in found.checks if check.status == "warn"]
    noted = [check for check in found.checks if check.status == "note"]
    passed = [check for check in found.checks if check.status == "pass"]
    if failing:
        blocks.append(_checks(study, found, path, "Checks that fail", failing))
    if warning:
        blocks.append(_checks(study, found, path, "Checks that warn", warning))
    if noted:
        blocks.append(_checks(study, found, path, "Checks that passed with a note", noted))
    if passed:
        blocks.append(_checks(study, found, path, "Checks that passed", passed, remedy=False))
    return tuple(blocks)


def _checks(
    study: Material, found: Verdict, path: str, caption: str, checks: Sequence[Check], remedy: bool = True
) -> Table:
    rows = []
    for check in checks:
        at = (f"{path}.checks", found.checks.index(check))
        status = Words(check.status, source_of(*map(str, at), "status"), check.status.upper())
        name, found_by = study.words(*at, "name"), (study.number(*at, "value"), study.words(*at, "message"))
        rows.append((name, status, *found_by, study.words(*at, "remedy")) if remedy else (name, *found_by))
    columns = ("check", "status", "value", "result", "what to do") if remedy else ("check", "value", "result")
    return Table(caption, columns, tuple(rows))


def question(study: Material) -> Section:
    """Return the question of interest and the context of use, as the author states them."""
    blocks: list[Block] = []
    for name, title, missing in (
        ("question", "Question of interest and context of use", "The author states no question and no context of use."),
        (
            "influence",
            "Influence of the model",
            "The author does not state how much the decision depends on the model.",
        ),
        (
            "consequence",
            "Consequence of a wrong decision",
            "The author does not state what a wrong decision would cause.",
        ),
    ):
        blocks.append(Heading(title))
        stated = study.given.get(name)
        blocks.append(Paragraph((study.words(name),)) if stated else Paragraph((missing,), "missing"))
    return Section("question", "Question and context of use", tuple(blocks), ())

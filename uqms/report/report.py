"""One report of a study: from a posterior and the evidence beside it to sections, a table and one page."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, final

import pandas as pd
import xarray as xr

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms.calibration.posterior import Posterior, check_posterior
from uqms.ensemble.netcdf import atomic_path
from uqms.errors import InputError, PathError
from uqms.report import answers, closing, opening, study_inputs
from uqms.report.contents import Picture, Section, values_of
from uqms.report.evidence import TABLES
from uqms.report.factors import FACTORS
from uqms.report.material import Material
from uqms.report.names import by_name
from uqms.report.numbers import Number
from uqms.report.page import page_of

__all__ = ["CredibilityReport", "credibility_report"]


@taught
@final
@dataclass(frozen=True, eq=False)
class CredibilityReport:
    """The evidence for a posterior, in sections; `credibility_report` returns it.

    Attributes
    ----------
    title
        What stands at the top of the page.
    status
        "pass", "warn" or "fail": the worst of the verdict and of the verification.
    sections
        Its sections in their order, each with `key`, `title` and `blocks`.
    """

    title: str
    status: str
    sections: tuple[Section, ...]

    def __repr__(self) -> str:
        figures = sum(isinstance(block, Picture) for section in self.sections for block in section.blocks)
        return (
            f"<CredibilityReport {self.title!r}: verdict {self.status.upper()}, {len(self.sections)} sections, "
            f"{len(self.table())} numbers, {figures} figures>"
        )

    def table(self) -> pd.DataFrame:
        """Return every number of the report, one a row: section, name, value, text as printed, and source.

        A source says where a number comes from: ``posterior.summary:beta:mean`` is the row "beta" and the column "mean"
        of ``posterior.summary()``.
        """
        rows = [
            {"section": section.key, "name": name, "value": one.value, "text": one.text, "source": one.source}
            for section in self.sections
            for name, one in values_of(section)
            if isinstance(one, Number)
        ]
        return pd.DataFrame(rows, columns=["section", "name", "value", "text", "source"])

    def to_html(self, path: str | os.PathLike[str], *, folder: str | os.PathLike[str] | None = None) -> Path:
        """Write the report as one page, which needs no network, no script and no other file, and prints.

        The file appears whole or not at all and is smaller than 3 MB.

        Parameters
        ----------
        path
            Where to write, such as "report.html"; "~" is the home folder.
        folder
            A folder that the path must not leave, links followed. Relative paths start from it.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        PathError
            When the path leaves the folder.
        InputError
            When a figure has no alternative text, or the page would be larger than 3 MB.
        StorageError
            When the file cannot be written.
        """
        target = check.path("to_html", path)
        if folder is not None:
            root = check.path("to_html", folder).resolve()
            target = root / target
            if not target.resolve().is_relative_to(root):
                raise PathError(
                    f"to_html: {os.fspath(path)!r} is outside of the folder {root}; give a path inside of it."
                )
        text = page_of(self.title, self.sections)
        with atomic_path(target) as part:
            part.write_bytes(text.encode("utf-8"))
        return target


@taught
@single_threaded
def credibility_report(
    posterior: Posterior,
    verification: Any = None,
    *,
    question: str = "",
    influence: str = "",
    consequence: str = "",
    title: str = "",
    sensitivity: Any = None,
    predictions: Any = None,
    decisions: Any = None,
    comparison: Any = None,
    next_experiment: Any = None,
    checks: Any = None,
    validation: Any = None,
    ensemble: xr.Dataset | None = None,
    factors: Mapping[str, str] | None = None,
    figures: Mapping[str, Any] | None = None,
    limitations: str | Sequence[str] = (),
) -> CredibilityReport:
    """Return a report of a posterior for reviewers: the verdict first, every number with its source.

    Use it when a study is handed on. The report follows the credibility factors of ASME V&V 40 (2018). Where the
    library has no evidence it says "not assessed here"; it gives no grade.

    Parameters
    ----------
    posterior
        Of one subject, of several parts or of a population.
    verification
        What `uqms.verify` or `uqms.correct` returned.
    question, influence, consequence
        Question of interest and context of use; how much the decision depends on the model; what a wrong decision would
        cause. In your words.
    title
        Of the page.
    sensitivity, predictions, decisions, comparison, next_experiment, checks
        Results to show, each alone or by name, ``{"dose 100 mg": result}``. Any object with a table of numbers will do
        (`table`, `summary`, `to_frame`), or a DataFrame, or with `mean`, `sd` and `interval()`, as
        ``posterior.predict()`` returns. `checks` are simulation-based calibration, predictive checks and the like.
    validation
        Of left-out runs of the surrogate, of a chain by member; `uqms.leave_one_out` by default.
    ensemble
        The table of runs, for its failures and the figure of the design.
    factors
        By credibility factor: evidence that you have for it beside this study, such as the verification of the
        simulator's code.
    figures
        Your own figures by caption. Each needs an alternative text: ``figure.set_label("what is seen")``.
    limitations
        What you know to be missing.

    Returns
    -------
    CredibilityReport
        ``report.to_html("report.html")`` writes the page, ``report.table()`` has all numbers.

    Raises
    ------
    InputError
        When the first argument is no posterior, a text is no text, a factor is not known, or a figure has no
        alternative text.

    References
    ----------
    ASME V&V 40-2018, "Assessing Credibility of Computational Modeling through Verification and Validation: Application
    to Medical Devices". FDA (2023), "Assessing the Credibility of Computational Modeling and Simulation in Medical
    Device Submissions", FDA-2021-D-0980.

    Examples
    --------
    ::

        report = uq.credibility_report(posterior, question="How fast does the infection spread?")
        report.to_html("report.html")
    """
    check_posterior(posterior, "credibility_report")
    texts = {"question": question, "influence": influence, "consequence": consequence, "title": title}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise InputError(f"credibility_report: {name} is {text!r}; give text.")
    stated = (limitations,) if isinstance(limitations, str) else tuple(limitations)
    if not all(isinstance(one, str) for one in stated):
        raise InputError(f"credibility_report: limitations is {limitations!r}; give text, or a sequence of texts.")
    _check_verification(verification)
    for name, results in (
        ("sensitivity", sensitivity),
        ("predictions", predictions),
        ("decisions", decisions),
        ("comparison", comparison),
        ("next_experiment", next_experiment),
        ("checks", checks),
    ):
        _check_results(name, results)
    _check_factors(factors)
    _check_figures(figures)
    given = {
        **texts,
        "verification": verification,
        "sensitivity": sensitivity,
        "predictions": predictions,
        "decisions": decisions,
        "comparison": comparison,
        "next_experiment": next_experiment,
        "checks": checks,
        "validation": validation,
        "ensemble": ensemble,
        "factors": dict(factors) if factors else None,
        "figures": dict(figures) if figures else None,
        "limitations": stated or None,
    }
    study = Material(posterior, given)
    return CredibilityReport(title or _title(study), _status(study), _sections(study))


def _title(study: Material) -> str:
    names = ", ".join(study.problem.parameters[:6])
    more = ", ..." if len(study.problem.parameters) > 6 else ""
    return f"Credibility report: calibration of {names}{more}"


def _status(study: Material) -> str:
    verdicts = [study.posterior.verdict, getattr(study.verification, "verdict", None)]
    found = {one.status for one in verdicts if one is not None}
    return next(status for status in ("fail", "warn", "pass") if status in found)


def _sections(study: Material) -> tuple[Section, ...]:
    first = [opening.verdict(study), opening.verification(study)]
    if study.verification is not None and study.verification.verdict.status == "fail":
        first.reverse()
    first.append(opening.further_checks(study))
    body = [
        opening.question(study),
        study_inputs.data(study),
        study_inputs.parameters(study),
        study_inputs.design(study),
        study_inputs.surrogate(study),
        answers.posterior(study),
        answers.subjects(study),
        answers.predictions(study),
        answers.decisions(study),
        answers.sensitivity(study),
        closing.further(study),
    ]
    found = [section for section in (*first, *body) if section is not None]
    last = [closing.not_assessed(study), closing.provenance(study)]
    there = {section.key: section.title for section in (*found, *last)}
    return (*found, closing.credibility(study, there), *last)


def _check_verification(given: Any) -> None:
    if given is None or hasattr(getattr(given, "verification", given), "verdict"):
        return
    what = f"the text {given!r}" if isinstance(given, str) else f"a {type(given).__name__}"
    raise InputError(
        f"credibility_report: verification is {what}; give the result of uq.verify(posterior, runs) or "
        "uq.correct(posterior, runs). A title is title=..."
    )


def _check_results(argument: str, given: Any) -> None:
    """Raise where a result has nothing to show, or is a posterior."""
    for name, one in by_name(given).items():
        where = f"{argument}[{name!r}]" if name else argument
        if isinstance(one, Posterior):
            raise InputError(
                f"credibility_report: {where} is a posterior; give a result made from it, such as posterior.predict()."
            )
        offers = isinstance(one, pd.DataFrame) or any(hasattr(one, offer) for offer in (*TABLES, "interval"))
        if not (offers or is_dataclass(one)):
            raise InputError(
                f"credibility_report: {where} is a {type(one).__name__}; give a pandas DataFrame, or a result of uqms "
                "with a table, such as uq.sobol_indices(surrogate) or posterior.predict()."
            )


def _check_factors(factors: Mapping[str, str] | None) -> None:
    known = [factor.name for factor in FACTORS]
    unknown = [name for name in factors or {} if name not in known]
    if unknown:
        raise InputError(f"credibility_report: factors has {unknown}; the factors of V&V 40 are {known}.")


def _check_figures(figures: Mapping[str, Any] | None) -> None:
    if figures is not None and not isinstance(figures, Mapping):
        raise InputError(
            f"credibility_report: figures is a {type(figures).__name__}; give figures by caption, "
            "{'Residuals by day': figure}."
        )
    for caption, figure in (figures or {}).items():
        if not (hasattr(figure, "savefig") and hasattr(figure, "get_label")):
            raise InputError(
                f"credibility_report: figures[{caption!r}] is a {type(figure).__name__}; give a matplotlib Figure."
            )
        if not str(figure.get_label()).strip():
            raise InputError(
                f"credibility_report: figures[{caption!r}] has no alternative text; say in words and numbers what is "
                "seen, figure.set_label('...')."
            )

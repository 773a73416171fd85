"""The sections on what came out: posterior, subjects, predictions, decisions and sensitivity."""

import numpy as np

from uqms import plots
from uqms.calibration.summary import supported
from uqms.errors import UqmsError
from uqms.report.contents import Block, Heading, Paragraph, Section
from uqms.report.evidence import shown_evidence
from uqms.report.material import Material
from uqms.report.names import by_name

__all__ = ["decisions", "posterior", "predictions", "sensitivity", "subjects"]

MOST_QUANTITIES, MOST_PAIRS, MOST_SUBJECTS = 24, 6, 12


def posterior(study: Material) -> Section:
    """Return the table of the posterior, with densities and pairs."""
    summary = study.sources.at("posterior.summary")
    known, sds = summary.attrs["mcse"], summary["sd"]

    def digits(row: str, column: str) -> str | None:
        """Return a number with the digits that the number of draws supports."""
        if column not in ("mean", "sd", "2.5%", "97.5%"):
            return None
        value, error = float(summary.loc[row, column]), known[row]["mean" if column == "sd" else column]
        text = supported(value, float(sds[row]), error)
        return text if value == 0.0 or float(text) != 0.0 else f"{value:.1g}"  # no sd is printed as zero

    blocks = study.table(
        "Posterior: means, standard deviations and equal-tailed 95 % intervals",
        "posterior.summary",
        texts=digits,
        statement=study.statement,
    )
    names = [str(name) for name in summary.index]
    shown = names[:MOST_QUANTITIES]
    said = "; ".join(
        f"{name}: mean {summary.loc[name, 'mean']:.4g}, 95 % interval {summary.loc[name, '2.5%']:.4g} to "
        f"{summary.loc[name, '97.5%']:.4g}{_prior_in_words(study, name)}"
        for name in shown
    )
    blocks += study.picture(
        "Prior and posterior densities.",
        f"Prior and posterior densities. {said}.",
        lambda: plots.prior_posterior(study.posterior, names=shown),
        study.statement,
        "plots.prior_posterior",
    )
    inferred = [name for name in study.problem.priors if name in names][:MOST_PAIRS]
    if len(inferred) > 1:
        blocks += study.picture(
            "Joint posterior in pairs.",
            f"Joint posterior densities in pairs. {_correlations(study, inferred)}",
            lambda: plots.pairs(study.posterior, names=inferred),
            study.statement,
            "plots.pairs",
        )
    if study.chain:
        blocks.append(Heading("Which scale the surrogate's error comes from"))
        try:
            blocks += study.table(
                "Fraction of each variance that goes with the error of a member of the chain",
                "posterior.member_share",
                head="quantity",
            )
        except UqmsError as error:
            blocks.append(Paragraph((f"Not assessed here. {error}",), "missing"))
    return Section("posterior", "Posterior", tuple(blocks), study.made_of())


def _prior_in_words(study: Material, name: str) -> str:
    tree = study.posterior.tree
    if "prior" not in tree.children or name not in tree["prior"].dataset:
        return ""
    low, high = np.quantile(tree["prior"][name].values, [0.025, 0.975])
    return f" (prior {low:.4g} to {high:.4g})"


def _correlations(study: Material, names: list[str]) -> str:
    draws = np.stack([study.posterior.draws[name].values.ravel() for name in names])
    matrix = np.corrcoef(draws)
    pairs = [(abs(matrix[i, j]), i, j) for i in range(len(names)) for j in range(i)]
    largest = sorted(pairs, reverse=True)[:3]
    said = ", ".join(f"{names[j]} and {names[i]} {matrix[i, j]:+.2f}" for _, i, j in largest)
    return f"Largest correlations: {said}."


def subjects(study: Material) -> Section | None:
    """Return the parameters of each subject; None where there is one."""
    if not study.posterior.subjects:
        return None
    given, statement = study.posterior, study.statement
    blocks: list[Block] = study.table(
        "Parameters of each subject, with equal-tailed 95 % intervals",
        "posterior.individual_summary",
        head="parameter, subject",
        statement=statement,
    )
    blocks += study.table("Shrinkage of the random effects", "posterior.shrinkage", head="parameter")
    shrinkage = study.sources.at("posterior.shrinkage")
    said = ", ".join(f"{name} {row['shrinkage']:.2f}" for name, row in shrinkage.iterrows())
    summary = study.sources.at("posterior.individual_summary")
    spans = "; ".join(
        f"{name}: means of {len(rows)} subjects from {rows['mean'].min():.4g} to {rows['mean'].max():.4g}"
        for name, rows in summary.groupby(level=0, sort=False)
    )
    names = list(shrinkage.index)[:9]
    blocks += study.picture(
        "Population and subjects.",
        f"Typical value and parameters of each subject. {spans}.",
        lambda: plots.individuals(given, names=names),
        statement,
    )
    blocks += study.picture(
        "Shrinkage of the random effects.",
        f"Shrinkage of the random effects: {said}.",
        lambda: plots.shrinkage(given),
    )
    return Section("subjects", "Subjects of the population", tuple(blocks), study.made_of())


def predictions(study: Material) -> Section:
    """Return how the model fits the measurements, and the predictions that were given."""
    given, blocks = study.posterior, list[Block]()
    blocks.append(
        Paragraph(
            (
                "These measurements also entered the calibration. Agreement with them is a check of the fit, "
                "not an independent validation.",
            ),
            "note",
        )
    )
    blocks += study.table(
        "Measurements inside of the central 95 % of replicated measurements", "coverage", head="output"
    )
    said = f"{study.replicated_inside()}. {study.check_text('predictive misfit')}"
    if given.subjects:
        labels = [name for name in given.subjects][:MOST_SUBJECTS]
        for output in study.outputs:
            blocks += study.picture(
                f"{output}: data and fits of subjects.",
                f"Data of {len(labels)} of {len(given.subjects)} subjects with their predictive bands. {said}",
                lambda output=output: plots.individual_fits(
                    given, subjects=study.measured[:MOST_SUBJECTS], output=output
                ),  # type: ignore[misc]
                study.statement,
            )
    else:
        for name in study.parts:
            part = given.part(name) if study.problem.kind == "parts" else given
            blocks += study.picture(
                f"{name + ': data' if name else 'Data'} and predictive bands.",
                f"{name + ': measurements' if name else 'Measurements'} with predictive bands. {said}",
                lambda part=part: plots.predictive(part),  # type: ignore[misc]
                study.statement,
            )
    if by_name(study.given.get("predictions")):
        blocks.append(Heading("Predictions"))
        blocks += shown_evidence(study, "predictions", "Prediction", study.statement)
    else:
        blocks.append(Paragraph(("Further predictions: not assessed here.",), "missing"))
    return Section("predictions", "Fit and predictions", tuple(blocks), study.made_of("predictions"))


def decisions(study: Material) -> Section:
    """Return decisions and doses, and the next experiment."""
    blocks: list[Block] = []
    for name, title in (("decisions", "Decisions"), ("next_experiment", "Next experiment")):
        blocks.append(Heading(title))
        found = shown_evidence(study, name, title, study.statement)
        blocks += found or [Paragraph(("Not assessed here.",), "missing")]
    return Section(
        "decisions", "Decisions and next experiment", tuple(blocks), study.made_of("decisions", "next_experiment")
    )


def sensitivity(study: Material) -> Section:
    """Return how the answer depends on prior, noise, discrepancy and surrogate, and on the inputs."""
    blocks: list[Block] = [Heading("Prior")]
    blocks += _of_checks(study, "prior sensitivity", "prior-dominated", "prior against data", "prior predictions")
    blocks.append(Heading("Noise"))
    blocks += _of_checks(study, "autocorrelated residuals", "predictive misfit")
    blocks.append(Heading("Discrepancy"))
    blocks += _discrepancy(study)
    blocks.append(Heading("Other models"))
    blocks += shown_evidence(study, "comparison", "Comparison of models") or [
        Paragraph(("Other models, noise models or priors: not assessed here (comparison=).",), "missing")
    ]
    blocks.append(Heading("Inputs"))
    blocks += shown_evidence(study, "sensitivity", "Sensitivity") or [
        Paragraph(("Sensitivity of the outputs to the inputs: not assessed here (sensitivity=).",), "missing")
    ]
    blocks.append(Heading("Further checks"))
    blocks += shown_evidence(study, "checks", "Check", study.statement) or [
        Paragraph(
            ("Simulation-based calibration, predictive checks of the author: not assessed here (checks=).",), "missing"
        )
    ]
    title = "Sensitivity to prior, noise and discrepancy"
    return Section("sensitivity", title, tuple(blocks), study.made_of("comparison", "sensitivity", "checks"))


def _of_checks(study: Material, *names: str) -> list[Block]:
    blocks: list[Block] = []
    for i in study.checks(*names):
        at = ("posterior.verdict.checks", i)
        status = study.posterior.verdict.checks[i].status
        kind = status if status in ("fail", "warn") else "plain"
        parts = (study.words(*at, "name"), ": ", study.words(*at, "message"), f" ({status.upper()}).")
        blocks.append(Paragraph(parts, kind))
    return blocks or [Paragraph(("Not assessed here.",), "missing")]


def _discrepancy(study: Material) -> list[Block]:
    if all(part.settings.get("discrepancy") is None for part in study.parts.values()):
        text = "The model has no discrepancy, so that the prior of its scale was not varied: not assessed here."
        return [Paragraph((text,), "missing")]
    if "rescale_discrepancy" in study.problem.limitations:
        return [Paragraph((study.words("posterior.problem.limitations", "rescale_discrepancy"),), "missing")]
    try:
        return study.table(
            "With the prior scale of the discrepancy multiplied: shift of means in sds, ratio of sds, Pareto k-hat",
            "posterior.rescale_discrepancy",
        )
    except UqmsError as error:
        return [Paragraph((f"Not assessed here. {error}",), "missing")]

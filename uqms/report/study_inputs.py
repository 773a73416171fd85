"""The sections on what went into a study: data, parameters with their priors, design and runs, surrogate."""

from collections.abc import Mapping

from uqms import plots
from uqms.report.contents import Block, Cell, Heading, Listing, Paragraph, Section
from uqms.report.material import Material
from uqms.report.opening import VALIDATED

__all__ = ["data", "design", "parameters", "surrogate"]

MOST_PANELS = 6


def data(study: Material) -> Section:
    """Return what was measured, on whom and under which conditions."""
    blocks = study.table("Measurements by output", "data", head="output")
    if len(study.sources.at("ranges")):
        blocks += study.table("Range of coordinates, conditions and covariates", "ranges", head="name")
    regimens = study.regimens
    if regimens:
        blocks += [Heading("Regimens"), Paragraph((f"Regimens of {len(regimens)} subjects:",))]
        shown = list(regimens)[:MOST_REGIMENS]
        blocks.append(Listing(tuple((f"{name}: ", study.words("regimens", name)) for name in shown)))
        if len(regimens) > len(shown):
            blocks.append(Paragraph((f"The first {len(shown)} of {len(regimens)} are listed.",), "note"))
    if study.posterior.subjects:
        blocks.append(Paragraph((f"Subjects: {len(study.posterior.subjects)}.",)))
    return Section("data", "Data", tuple(blocks))


MOST_REGIMENS = 20


def parameters(study: Material) -> Section:
    """Return parameters with their priors, fixed values, constraints, noise and discrepancy."""
    blocks = study.table(
        "Inferred quantities and their priors",
        "priors",
        columns={
            "prior": "prior",
            "unit": "unit",
            "description": "description",
            "lower": "conditioned on at least",
            "upper": "and at most",
        },
        head="name",
    )
    blocks.append(
        Paragraph(
            (
                "Mass of the prior outside of the design box, which is cut off: ",
                study.number("posterior.problem.mass_cut"),
                ".",
            )
        )
    )
    fixed = study.problem.fixed
    if fixed:
        blocks.append(Heading("Fixed values"))
        blocks.append(Listing(tuple((f"{name} = ", study.number("posterior.problem.fixed", name)) for name in fixed)))
    if study.problem.constraints:
        blocks.append(Heading("Constraints"))
        count = range(len(study.problem.constraints))
        blocks.append(Listing(tuple(study.words("posterior.problem.constraints", i, "text") for i in count)))
    if study.problem.kind == "population":
        blocks += [Heading("Population"), Paragraph((study.words("posterior.problem.population"),))]
    blocks.append(Heading("Noise and discrepancy"))
    for name, part in study.parts.items():
        head = f"{name}: " if name else ""
        at, noise = ("posterior.problem.named_parts", name, "settings", "noise"), part.settings["noise"]
        if isinstance(noise, Mapping):
            blocks += [Paragraph((f"{head}noise of {key}: ", study.words(*at, key), ".")) for key in noise]
        else:
            blocks.append(Paragraph((f"{head}noise: " if head else "Noise: ", study.words(*at), ".")))
        if part.settings.get("discrepancy") is None:
            text = "discrepancy: the calibration takes the simulator to be right up to the noise."
            blocks.append(Paragraph((f"{name}: no {text}" if name else f"No {text}",), "missing"))
        else:
            stated = study.words("posterior.problem.named_parts", name, "settings", "discrepancy")
            blocks.append(Paragraph((f"{head}discrepancy: " if head else "Discrepancy: ", stated, ".")))
    return Section("parameters", "Parameters, priors and the statistical model", tuple(blocks))


def design(study: Material) -> Section:
    """Return the design, the runs and the failures among them."""
    blocks = study.table(
        "Surrogates and their runs",
        "runs",
        columns=("kind", "runs", "left out", "design", "simulator"),
        head="surrogate",
    )
    if len(study.box):
        blocks += study.table("Design box", "box", head="input")
    ensemble = study.given.get("ensemble")
    if ensemble is None:
        text = "The table of runs was not given (ensemble=), so that failed runs are not listed here one by one."
        blocks.append(Paragraph((text,), "missing"))
    else:
        states = ", ".join(f"{count} {name}" for name, count in study.states.items())
        counted = tuple((f"{name}: ", study.number("states", name)) for name in study.states)
        blocks += [Heading("States of the runs"), Listing(counted)]
        inputs = ", ".join(study.input_names)
        blocks += study.picture(
            "Points of the design.",
            f"Runs of the design in pairs of the inputs {inputs}: {states}.",
            lambda: plots.design(ensemble, names=study.input_names[:MOST_PANELS]),
        )
    return Section("design", "Design, runs and failures", tuple(blocks), study.made_of("ensemble"))


def surrogate(study: Material) -> Section:
    """Return how good the surrogate is over the design box and where the posterior is."""
    blocks: list[Block] = []
    if len(study.box):
        blocks += study.table(
            "Fraction of each variance that is due to the surrogate's error", "surrogate_fraction", head="quantity"
        )
    else:
        blocks.append(Paragraph(("The simulator itself was used. There is no surrogate, and no error of one.",)))
    items: list[Cell] = []
    for place in study.checks("surrogate validation", "surrogate error", "size of the surrogate's error", "truncation"):
        at = ("posterior.verdict.checks", place)
        items.append((study.words(*at, "name"), ": ", study.words(*at, "message"), "."))
    if items:
        blocks += [Heading("Checks of the verdict at the posterior"), Listing(tuple(items))]
    for name, validation in study.validations.items():
        if isinstance(validation, str):
            blocks.append(
                Paragraph((f"{name}: validation on left-out runs: not assessed here. {validation}",), "missing")
            )
            continue
        title = (
            f"Left-out runs over the design box: {name}"
            if len(study.validations) > 1
            else "Left-out runs over the design box"
        )
        shown = {key: text for key, text in VALIDATED.items() if key in validation.table}
        blocks += study.table(title, "validations", name, "table", columns=shown, head="output")
        for output, doubts in validation.doubts.items():
            blocks.append(Paragraph((f"{output}: {'; '.join(doubts)}.",), "warn"))
        blocks += study.picture(
            f"{name}: predictions of left-out runs.",
            f"Left-out runs against their predictions. {_validated(study, validation)}",
            lambda validation=validation: plots.leave_one_out(validation),  # type: ignore[misc]
        )
    blocks += _local(study)
    return Section("surrogate", "Surrogate, and its error at the posterior", tuple(blocks), study.made_of("validation"))


def _validated(study: Material, validation: object) -> str:
    table = validation.table  # type: ignore[attr-defined]
    said = [
        f"{name}: Q² {row['q2']:.4g}, 95 % intervals cover {row['coverage_95%']:.1%}" for name, row in table.iterrows()
    ]
    return "; ".join(said) + "."


def _local(study: Material) -> list[Block]:
    """Return the figure of errors near the posterior, where the calibration has one surrogate that has runs."""
    found = study.surrogates
    if study.problem.kind != "one" or len(found) > 1 or not len(study.box):
        text = "The figure of errors near the posterior is drawn for one subject and one surrogate: not shown here."
        return [Paragraph((text,), "missing")] if len(study.box) else []
    (one,) = found.values()
    return study.picture(
        "The surrogate's actual and stated errors; runs near the posterior are marked.",
        f"Actual against stated errors of left-out runs. {study.check_text('surrogate validation')}",
        lambda: plots.local_error(one, study.posterior),
    )

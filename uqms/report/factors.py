"""The credibility factors of ASME V&V 40 (2018), and which evidence of a study with uqms belongs to each.

Sources: ASME V&V 40-2018, "Assessing Credibility of Computational Modeling through Verification and Validation:
Application to Medical Devices"; FDA (2023), "Assessing the Credibility of Computational Modeling and Simulation in
Medical Device Submissions", docket FDA-2021-D-0980. The evidence is listed, it is not graded.
"""

from typing import NamedTuple

__all__ = ["FACTORS", "Factor"]


class Factor(NamedTuple):
    """A credibility factor.

    Attributes
    ----------
    name
        As in the standard.
    group
        The activity that it belongs to.
    evidence
        Sections of a report with evidence for it.
    missing
        What the library does not assess of it.
    """

    name: str
    group: str
    evidence: tuple[str, ...]
    missing: str


FACTORS: tuple[Factor, ...] = (
    Factor(
        "software quality assurance",
        "verification: code",
        ("provenance",),
        "The quality assurance of the simulator's code. The provenance has versions and hashes only.",
    ),
    Factor(
        "numerical code verification",
        "verification: code",
        (),
        "Whether the simulator solves its equations correctly, as shown by exact or manufactured solutions.",
    ),
    Factor(
        "discretization error",
        "verification: calculation",
        (),
        "The discretization error of the simulator, such as a study of mesh and time step.",
    ),
    Factor(
        "numerical solver error",
        "verification: calculation",
        ("surrogate", "verdict", "verification"),
        "The solver error of the simulator itself. There is evidence for the surrogate's error, which replaces the "
        "simulator in the calibration, and for the error of the sampler.",
    ),
    Factor(
        "use error",
        "verification: calculation",
        ("provenance",),
        "Whether inputs and data were entered correctly. The provenance has their hashes, so that another person can "
        "repeat the study.",
    ),
    Factor(
        "model form",
        "validation: computational model",
        ("verdict", "sensitivity"),
        "Assumptions of the simulator that these data do not test.",
    ),
    Factor(
        "model inputs",
        "validation: computational model",
        ("parameters", "posterior", "sensitivity"),
        "Inputs of the simulator that are not parameters of this study.",
    ),
    Factor(
        "test samples",
        "validation: comparator",
        ("data",),
        "Whether the measured subjects or samples represent those of the context of use.",
    ),
    Factor(
        "test conditions",
        "validation: comparator",
        ("data",),
        "Whether the conditions of the measurements represent those of the context of use, and how they were measured.",
    ),
    Factor(
        "equivalency of input parameters",
        "validation: assessment",
        ("data", "parameters"),
        "Differences between experiment and simulation in inputs that the observations do not name.",
    ),
    Factor(
        "output comparison",
        "validation: assessment",
        ("predictions", "verdict"),
        "A comparison with measurements that did not enter the calibration, unless it is listed among the checks.",
    ),
    Factor(
        "relevance of the quantities of interest",
        "applicability",
        (),
        "Whether the compared outputs are the quantities of interest of the context of use.",
    ),
    Factor(
        "relevance of the validation activities to the context of use",
        "applicability",
        (),
        "How far the conditions of the comparison are from those of the context of use.",
    ),
)

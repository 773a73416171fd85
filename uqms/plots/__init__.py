"""Figures of designs and failed runs, surrogate validation, posteriors, model fit and sensitivity.

Every function returns a `matplotlib.figure.Figure` that belongs to no window and changes no global settings. It shows
itself in a notebook; ``figure.savefig("name.pdf")`` keeps it. This is the only part of uqms that loads matplotlib.
"""

from typing import NoReturn

from uqms._teaching import unknown_name
from uqms.plots._calibration import coverage, learning_curve
from uqms.plots._covariates import covariates
from uqms.plots._design import design
from uqms.plots._failures import failures
from uqms.plots._identifiability import identifiability, profile
from uqms.plots._individual_fits import individual_fits
from uqms.plots._local_error import local_error
from uqms.plots._next_experiment import next_experiment
from uqms.plots._next_runs import next_runs
from uqms.plots._pairs import pairs
from uqms.plots._planes import history_matching, level_set
from uqms.plots._population import effects, individuals, shrinkage
from uqms.plots._predictive import predictive
from uqms.plots._prior_posterior import prior_posterior
from uqms.plots._probability import probability, reliability
from uqms.plots._propagation import density, exceedance, tornado, variance
from uqms.plots._ranks import ranks
from uqms.plots._sensitivity import derivative_bounds, morris, shapley, shapley_curves
from uqms.plots._sobol import sobol, sobol_curves
from uqms.plots._validation import leave_one_out
from uqms.plots._vpc import visual_predictive_check

# Names of other libraries, and what is meant here.
_ELSEWHERE = {
    "posterior": "it is plots.prior_posterior(posterior), or plots.pairs(posterior) for two by two",
    "trace": "arviz_plots.plot_trace(posterior.tree); chains are judged by posterior.verdict",
    "corner": "it is plots.pairs(posterior)",
    "pairplot": "it is plots.pairs(posterior)",
    "ppc": "it is plots.predictive(posterior)",
    "fit": "it is plots.predictive(posterior)",
    "validation": "it is plots.leave_one_out(uq.leave_one_out(surrogate))",
    "sobol_indices": "it is plots.sobol(indices)",
    **dict.fromkeys(("show", "save", "savefig"), "functions of uq.plots return a figure: figure.savefig(path)"),
}


def __getattr__(name: str) -> NoReturn:
    raise unknown_name("uqms.plots", name, _ELSEWHERE, __all__) if not name.startswith("_") else AttributeError(name)


def __dir__() -> list[str]:
    """List the figures."""
    return sorted(__all__)


__all__ = [
    "covariates",
    "coverage",
    "density",
    "derivative_bounds",
    "design",
    "effects",
    "exceedance",
    "failures",
    "history_matching",
    "identifiability",
    "individual_fits",
    "individuals",
    "learning_curve",
    "leave_one_out",
    "level_set",
    "local_error",
    "morris",
    "next_experiment",
    "next_runs",
    "pairs",
    "predictive",
    "prior_posterior",
    "probability",
    "profile",
    "ranks",
    "reliability",
    "shapley",
    "shapley_curves",
    "shrinkage",
    "sobol",
    "sobol_curves",
    "tornado",
    "variance",
    "visual_predictive_check",
]

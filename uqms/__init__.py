"""Bayesian uncertainty quantification for multiscale simulators.

A simulator and sparse, noisy measurements go in; parameters with credible intervals that hold every source of
uncertainty come out::

    import uqms as uq

    space = uq.ParameterSpace(...)                   # what is uncertain, and what is known beforehand
    ensemble = uq.run(simulator, uq.sobol(space, 128, rng=1))
    surrogate = uq.GaussianProcess().fit(ensemble)
    posterior = uq.Calibration(surrogate, observations, noise=uq.GaussianNoise(sd=...)).sample(uq.NUTS(), rng=1)

Importing this package loads none of torch, PyMC or matplotlib: a name is imported from its room when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # the twin of `_NAMES`, for type checkers and editors; a test holds the two equal
    from uqms import designs as designs
    from uqms import diagnostics as diagnostics
    from uqms import ensemble as ensemble
    from uqms import errors as errors
    from uqms import functionals as functionals
    from uqms import plots as plots
    from uqms import sensitivity as sensitivity
    from uqms import testing as testing
    from uqms.calibration import NUTS as NUTS
    from uqms.calibration import SMC as SMC
    from uqms.calibration import AutocorrelatedNoise as AutocorrelatedNoise
    from uqms.calibration import BasisDiscrepancy as BasisDiscrepancy
    from uqms.calibration import BinomialNoise as BinomialNoise
    from uqms.calibration import Calibration as Calibration
    from uqms.calibration import CombinedNoise as CombinedNoise
    from uqms.calibration import CustomNoise as CustomNoise
    from uqms.calibration import Derived as Derived
    from uqms.calibration import DirectSimulator as DirectSimulator
    from uqms.calibration import GaussianNoise as GaussianNoise
    from uqms.calibration import GPDiscrepancy as GPDiscrepancy
    from uqms.calibration import Laplace as Laplace
    from uqms.calibration import LatentOutput as LatentOutput
    from uqms.calibration import LogNormalNoise as LogNormalNoise
    from uqms.calibration import Metropolis as Metropolis
    from uqms.calibration import NegativeBinomialNoise as NegativeBinomialNoise
    from uqms.calibration import Observations as Observations
    from uqms.calibration import OffsetDiscrepancy as OffsetDiscrepancy
    from uqms.calibration import Pathfinder as Pathfinder
    from uqms.calibration import PoissonNoise as PoissonNoise
    from uqms.calibration import Population as Population
    from uqms.calibration import PopulationCalibration as PopulationCalibration
    from uqms.calibration import Posterior as Posterior
    from uqms.calibration import Sampler as Sampler
    from uqms.calibration import ScaleDiscrepancy as ScaleDiscrepancy
    from uqms.calibration import StudentTNoise as StudentTNoise
    from uqms.calibration import SubjectPosterior as SubjectPosterior
    from uqms.calibration import another_round as another_round
    from uqms.calibration import as_tensor as as_tensor
    from uqms.calibration import compare_models as compare_models
    from uqms.calibration import dose_for as dose_for
    from uqms.calibration import latent_output as latent_output
    from uqms.calibration import load_posterior as load_posterior
    from uqms.calibration import observe as observe
    from uqms.calibration import refine as refine
    from uqms.designs import extend as extend
    from uqms.designs import halton as halton
    from uqms.designs import latin_hypercube as latin_hypercube
    from uqms.designs import morris_design as morris_design
    from uqms.designs import nested as nested
    from uqms.designs import sobol as sobol
    from uqms.diagnostics import correct as correct
    from uqms.diagnostics import verification_design as verification_design
    from uqms.diagnostics import verify as verify
    from uqms.parameters import Beta as Beta
    from uqms.parameters import Box as Box
    from uqms.parameters import Condition as Condition
    from uqms.parameters import Exponential as Exponential
    from uqms.parameters import Gamma as Gamma
    from uqms.parameters import HalfCauchy as HalfCauchy
    from uqms.parameters import HalfNormal as HalfNormal
    from uqms.parameters import HalfStudentT as HalfStudentT
    from uqms.parameters import InverseGamma as InverseGamma
    from uqms.parameters import LogitNormal as LogitNormal
    from uqms.parameters import LogNormal as LogNormal
    from uqms.parameters import LogUniform as LogUniform
    from uqms.parameters import MultivariateNormal as MultivariateNormal
    from uqms.parameters import Normal as Normal
    from uqms.parameters import NormalMixture as NormalMixture
    from uqms.parameters import ParameterSpace as ParameterSpace
    from uqms.parameters import Prior as Prior
    from uqms.parameters import Regimen as Regimen
    from uqms.parameters import TruncatedNormal as TruncatedNormal
    from uqms.parameters import Uniform as Uniform
    from uqms.planning import HistoryMatching as HistoryMatching
    from uqms.planning import PredictedOutput as PredictedOutput
    from uqms.planning import candidates as candidates
    from uqms.planning import level_set as level_set
    from uqms.planning import next_experiment as next_experiment
    from uqms.planning import next_runs as next_runs
    from uqms.planning import next_trial as next_trial
    from uqms.planning import prior_of as prior_of
    from uqms.planning import trial_information as trial_information
    from uqms.propagation import Decision as Decision
    from uqms.propagation import Propagation as Propagation
    from uqms.propagation import RareEvent as RareEvent
    from uqms.propagation import allocate as allocate
    from uqms.propagation import multifidelity_mean as multifidelity_mean
    from uqms.propagation import propagate as propagate
    from uqms.propagation import rare_event as rare_event
    from uqms.propagation import tornado as tornado
    from uqms.report import CredibilityReport as CredibilityReport
    from uqms.report import check_report as check_report
    from uqms.report import credibility_report as credibility_report
    from uqms.runs import Dask as Dask
    from uqms.runs import FailurePolicy as FailurePolicy
    from uqms.runs import RunStore as RunStore
    from uqms.runs import run as run
    from uqms.sensitivity import derivative_measures as derivative_measures
    from uqms.sensitivity import elementary_effects as elementary_effects
    from uqms.sensitivity import given_data_indices as given_data_indices
    from uqms.sensitivity import shapley_effects as shapley_effects
    from uqms.sensitivity import sobol_indices as sobol_indices
    from uqms.simulators import ExecutableSimulator as ExecutableSimulator
    from uqms.simulators import FunctionSimulator as FunctionSimulator
    from uqms.simulators import JSONFile as JSONFile
    from uqms.simulators import NetCDFFile as NetCDFFile
    from uqms.simulators import Simulator as Simulator
    from uqms.simulators import TextTable as TextTable
    from uqms.simulators import UMBridgeServer as UMBridgeServer
    from uqms.simulators import UMBridgeSimulator as UMBridgeSimulator
    from uqms.simulators import serve as serve
    from uqms.study import Study as Study
    from uqms.surrogates import Adapted as Adapted
    from uqms.surrogates import Chain as Chain
    from uqms.surrogates import Curve as Curve
    from uqms.surrogates import EventProbability as EventProbability
    from uqms.surrogates import GaussianProcess as GaussianProcess
    from uqms.surrogates import JaxKernel as JaxKernel
    from uqms.surrogates import Link as Link
    from uqms.surrogates import LocalGaussianProcess as LocalGaussianProcess
    from uqms.surrogates import Log as Log
    from uqms.surrogates import Logit as Logit
    from uqms.surrogates import MainEffects as MainEffects
    from uqms.surrogates import Matern32 as Matern32
    from uqms.surrogates import Matern52 as Matern52
    from uqms.surrogates import Matern72 as Matern72
    from uqms.surrogates import Matern112 as Matern112
    from uqms.surrogates import MultiFidelity as MultiFidelity
    from uqms.surrogates import NonlinearMultiFidelity as NonlinearMultiFidelity
    from uqms.surrogates import Physics as Physics
    from uqms.surrogates import Product as Product
    from uqms.surrogates import RadialKernel as RadialKernel
    from uqms.surrogates import RationalQuadratic as RationalQuadratic
    from uqms.surrogates import Regimes as Regimes
    from uqms.surrogates import Scalar as Scalar
    from uqms.surrogates import SquaredExponential as SquaredExponential
    from uqms.surrogates import SuccessProbability as SuccessProbability
    from uqms.surrogates import Sum as Sum
    from uqms.surrogates import Superposition as Superposition
    from uqms.surrogates import Surrogate as Surrogate
    from uqms.surrogates import check_superposition as check_superposition
    from uqms.surrogates import compare_surrogates as compare_surrogates
    from uqms.surrogates import detect_jump as detect_jump
    from uqms.surrogates import from_gpytorch as from_gpytorch
    from uqms.surrogates import from_sbi as from_sbi
    from uqms.surrogates import held_out as held_out
    from uqms.surrogates import k_fold as k_fold
    from uqms.surrogates import learning_curve as learning_curve
    from uqms.surrogates import leave_one_out as leave_one_out
    from uqms.surrogates import load_surrogate as load_surrogate
    from uqms.surrogates import next_level as next_level
    from uqms.surrogates import to_botorch as to_botorch
    from uqms.surrogates import to_sbi as to_sbi

__all__ = [
    "Adapted",
    "AutocorrelatedNoise",
    "BasisDiscrepancy",
    "Beta",
    "BinomialNoise",
    "Box",
    "Calibration",
    "Chain",
    "CombinedNoise",
    "Condition",
    "CredibilityReport",
    "Curve",
    "CustomNoise",
    "Dask",
    "Decision",
    "Derived",
    "DirectSimulator",
    "EventProbability",
    "ExecutableSimulator",
    "Exponential",
    "FailurePolicy",
    "FunctionSimulator",
    "GPDiscrepancy",
    "Gamma",
    "GaussianNoise",
    "GaussianProcess",
    "HalfCauchy",
    "HalfNormal",
    "HalfStudentT",
    "HistoryMatching",
    "InverseGamma",
    "JSONFile",
    "JaxKernel",
    "Laplace",
    "LatentOutput",
    "Link",
    "LocalGaussianProcess",
    "Log",
    "LogNormal",
    "LogNormalNoise",
    "LogUniform",
    "Logit",
    "LogitNormal",
    "MainEffects",
    "Matern32",
    "Matern52",
    "Matern72",
    "Matern112",
    "Metropolis",
    "MultiFidelity",
    "MultivariateNormal",
    "NUTS",
    "NegativeBinomialNoise",
    "NetCDFFile",
    "NonlinearMultiFidelity",
    "Normal",
    "NormalMixture",
    "Observations",
    "OffsetDiscrepancy",
    "ParameterSpace",
    "Pathfinder",
    "Physics",
    "PoissonNoise",
    "Population",
    "PopulationCalibration",
    "Posterior",
    "PredictedOutput",
    "Prior",
    "Product",
    "Propagation",
    "RadialKernel",
    "RareEvent",
    "RationalQuadratic",
    "Regimen",
    "Regimes",
    "RunStore",
    "SMC",
    "Sampler",
    "Scalar",
    "ScaleDiscrepancy",
    "Simulator",
    "SquaredExponential",
    "StudentTNoise",
    "Study",
    "SubjectPosterior",
    "SuccessProbability",
    "Sum",
    "Superposition",
    "Surrogate",
    "TextTable",
    "TruncatedNormal",
    "UMBridgeServer",
    "UMBridgeSimulator",
    "Uniform",
    "__version__",
    "allocate",
    "another_round",
    "as_tensor",
    "candidates",
    "check_report",
    "check_superposition",
    "compare_models",
    "compare_surrogates",
    "correct",
    "credibility_report",
    "derivative_measures",
    "designs",
    "detect_jump",
    "diagnostics",
    "dose_for",
    "elementary_effects",
    "ensemble",
    "errors",
    "extend",
    "from_gpytorch",
    "from_sbi",
    "functionals",
    "given_data_indices",
    "halton",
    "held_out",
    "k_fold",
    "latent_output",
    "latin_hypercube",
    "learning_curve",
    "leave_one_out",
    "level_set",
    "load_posterior",
    "load_surrogate",
    "morris_design",
    "multifidelity_mean",
    "nested",
    "next_experiment",
    "next_level",
    "next_trial",
    "next_runs",
    "observe",
    "plots",
    "prior_of",
    "propagate",
    "rare_event",
    "refine",
    "run",
    "sensitivity",
    "serve",
    "shapley_effects",
    "sobol",
    "sobol_indices",
    "testing",
    "to_botorch",
    "to_sbi",
    "tornado",
    "trial_information",
    "verification_design",
    "verify",
]

# Room -> the names that `uqms` takes from it. A room that is itself public stands in `_ROOMS`.
_NAMES: dict[str, tuple[str, ...]] = {
    "parameters": (
        "Beta",
        "Box",
        "Condition",
        "Exponential",
        "Gamma",
        "HalfCauchy",
        "HalfNormal",
        "HalfStudentT",
        "InverseGamma",
        "LogNormal",
        "LogUniform",
        "LogitNormal",
        "MultivariateNormal",
        "Normal",
        "NormalMixture",
        "ParameterSpace",
        "Prior",
        "Regimen",
        "TruncatedNormal",
        "Uniform",
    ),
    "designs": (
        "extend",
        "halton",
        "latin_hypercube",
        "morris_design",
        "nested",
        "sobol",
    ),
    "simulators": (
        "ExecutableSimulator",
        "FunctionSimulator",
        "JSONFile",
        "NetCDFFile",
        "Simulator",
        "TextTable",
        "UMBridgeServer",
        "UMBridgeSimulator",
        "serve",
    ),
    "runs": (
        "Dask",
        "FailurePolicy",
        "RunStore",
        "run",
    ),
    "surrogates": (
        "Adapted",
        "Chain",
        "Curve",
        "EventProbability",
        "GaussianProcess",
        "JaxKernel",
        "Link",
        "LocalGaussianProcess",
        "Log",
        "Logit",
        "MainEffects",
        "Matern32",
        "Matern52",
        "Matern72",
        "Matern112",
        "MultiFidelity",
        "NonlinearMultiFidelity",
        "Physics",
        "Product",
        "RadialKernel",
        "RationalQuadratic",
        "Regimes",
        "Scalar",
        "SquaredExponential",
        "SuccessProbability",
        "Sum",
        "Superposition",
        "Surrogate",
        "check_superposition",
        "compare_surrogates",
        "detect_jump",
        "from_gpytorch",
        "from_sbi",
        "held_out",
        "k_fold",
        "learning_curve",
        "leave_one_out",
        "load_surrogate",
        "next_level",
        "to_botorch",
        "to_sbi",
    ),
    "calibration": (
        "AutocorrelatedNoise",
        "BasisDiscrepancy",
        "BinomialNoise",
        "Calibration",
        "CombinedNoise",
        "CustomNoise",
        "Derived",
        "DirectSimulator",
        "GPDiscrepancy",
        "GaussianNoise",
        "Laplace",
        "LatentOutput",
        "LogNormalNoise",
        "Metropolis",
        "NUTS",
        "NegativeBinomialNoise",
        "Observations",
        "OffsetDiscrepancy",
        "Pathfinder",
        "PoissonNoise",
        "Population",
        "PopulationCalibration",
        "Posterior",
        "SMC",
        "Sampler",
        "ScaleDiscrepancy",
        "StudentTNoise",
        "SubjectPosterior",
        "another_round",
        "as_tensor",
        "compare_models",
        "dose_for",
        "latent_output",
        "load_posterior",
        "observe",
        "refine",
    ),
    "planning": (
        "HistoryMatching",
        "PredictedOutput",
        "candidates",
        "level_set",
        "next_experiment",
        "next_runs",
        "next_trial",
        "prior_of",
        "trial_information",
    ),
    "propagation": (
        "Decision",
        "Propagation",
        "RareEvent",
        "propagate",
        "rare_event",
        "allocate",
        "multifidelity_mean",
        "tornado",
    ),
    "sensitivity": (
        "derivative_measures",
        "elementary_effects",
        "given_data_indices",
        "shapley_effects",
        "sobol_indices",
    ),
    "diagnostics": (
        "correct",
        "verification_design",
        "verify",
    ),
    "report": (
        "CredibilityReport",
        "check_report",
        "credibility_report",
    ),
    "study": ("Study",),
}
_ROOMS = (
    "designs",
    "diagnostics",
    "ensemble",
    "errors",
    "functionals",
    "plots",
    "sensitivity",
    "testing",
)
# Names of other libraries, and what is meant here.
_ELSEWHERE = {
    "Gaussian": "the prior is uq.Normal(mean, sd), the noise uq.GaussianNoise(sd=...)",
    "GaussianProcessRegressor": "it is uq.GaussianProcess().fit(ensemble)",
    "GP": "it is uq.GaussianProcess().fit(ensemble)",
    "Emulator": "it is uq.GaussianProcess().fit(ensemble)",
    "RBF": "the kernel is uq.SquaredExponential()",
    "Matern": "kernels are uq.Matern32(), uq.Matern52(), uq.Matern72() and uq.Matern112()",
    "lhs": "it is uq.latin_hypercube(space, n, rng=1)",
    "LatinHypercube": "it is uq.latin_hypercube(space, n, rng=1)",
    "saltelli": "uq.sobol_indices(surrogate) makes its own sample",
    "sobol_sequence": "it is uq.sobol(space, n, rng=1)",
    "Parameter": "parameters are uq.ParameterSpace(name=uq.Uniform(0, 1))",
    "Space": "it is uq.ParameterSpace(name=uq.Uniform(0, 1))",
    "Model": "a calibration is uq.Calibration(surrogate, observations, noise=...)",
    "sample": "it is a method: uq.Calibration(...).sample(uq.NUTS(), rng=1)",
    "calibrate": "it is uq.Calibration(surrogate, observations, noise=...).sample(rng=1)",
    "fit": "it is a method: uq.GaussianProcess().fit(ensemble)",
    "build": "it is uq.ensemble.build(inputs, outputs, space=space)",
    "from_table": "it is uq.ensemble.from_table for runs, uq.Observations.from_table for measurements",
    "load": "it is uq.load_surrogate(path) or uq.load_posterior(path)",
    "save": "it is posterior.save(path) or surrogate.save(path)",
    "from_netcdf": "it is uq.load_posterior(path) for a posterior, uq.ensemble.from_netcdf(path) for runs",
    "ProportionalNoise": "it is uq.CombinedNoise(additive=0.0, proportional=...), or uq.LogNormalNoise(sigma=...)",
    "RelativeNoise": "it is uq.CombinedNoise(additive=0.0, proportional=...), or uq.LogNormalNoise(sigma=...)",
    "Dose": "it is uq.Regimen.single(amount, time=0.0)",
    "acquire": "it is uq.next_runs(posterior, n) for runs, uq.next_experiment(posterior, candidates) for measurements",
    "optimal_design": "it is uq.next_experiment(posterior, uq.candidates(...)), or uq.next_trial of a population",
}
_HOME = {name: room for room, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import `name` from its room, once."""
    if name in _ROOMS:
        return importlib.import_module(f"uqms.{name}")
    if name not in _HOME:
        if name.startswith("_"):
            raise AttributeError(f"module 'uqms' has no attribute {name!r}")
        from uqms._teaching import unknown_name

        raise unknown_name("uqms", name, _ELSEWHERE, __all__)
    value = getattr(importlib.import_module(f"uqms.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)

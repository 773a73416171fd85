"""The public names: pinned, reachable, and the same in all the places that list them."""

import ast
import importlib
from pathlib import Path

import pytest

import uqms

ROOT = Path(__file__).resolve().parent.parent

# Change this list on purpose only: removing a name breaks somebody's script.
PUBLIC = [
    "Adapted",
    "AutocorrelatedNoise",
    "BasisDiscrepancy",
    "Beta",
    "BinomialNoise",
    "CombinedNoise",
    "Box",
    "Calibration",
    "Chain",
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
    "LogitNormal",
    "Logit",
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
    "PredictedOutput",
    "Population",
    "PopulationCalibration",
    "Posterior",
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


def twin() -> dict[str, str]:
    """Return {name: the module it is imported from} of the TYPE_CHECKING block of uqms/__init__.py."""
    tree = ast.parse((ROOT / "uqms" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    names = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, f"write `{alias.name} as {alias.name}`: only then it is exported"
            names[alias.name] = str(node.module)
    return names


def test_the_public_names_are_pinned() -> None:
    assert sorted(uqms.__all__) == sorted(PUBLIC)


def test_the_table_and_its_twin_for_type_checkers_agree() -> None:
    table = {name: f"uqms.{room}" for room, names in uqms._NAMES.items() for name in names}
    table |= dict.fromkeys(uqms._ROOMS, "uqms")
    assert twin() == table
    assert sorted(uqms.__all__) == sorted([*table, "__version__"])


@pytest.mark.parametrize("name", uqms.__all__)
def test_a_public_name_can_be_had_and_is_the_one_of_its_room(name: str) -> None:
    value = getattr(uqms, name)
    if name in uqms._HOME:
        assert value is getattr(importlib.import_module(f"uqms.{uqms._HOME[name]}"), name)


@pytest.mark.parametrize("room", uqms._NAMES)
def test_a_public_name_is_public_in_its_room(room: str) -> None:
    assert set(uqms._NAMES[room]) <= set(importlib.import_module(f"uqms.{room}").__all__)


@pytest.mark.parametrize("name", [name for name in uqms._HOME])
def test_a_public_name_has_a_docstring(name: str) -> None:
    assert (getattr(uqms, name).__doc__ or "").strip()


def test_dir_lists_what_is_not_loaded_yet() -> None:
    assert set(uqms.__all__) <= set(dir(uqms))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'Sobol'"):
        uqms.Sobol  # noqa: B018


def test_the_reference_page_lists_every_public_name_and_no_other() -> None:
    text = (ROOT / "docs" / "reference" / "index.md").read_text()
    listed = [line.strip() for line in text.splitlines() if line.startswith("   ") and line.strip().isidentifier()]
    callables = [name for name in uqms._HOME]
    assert sorted(listed) == sorted(callables)

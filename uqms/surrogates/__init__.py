"""Gaussian-process surrogates: settings, fitted values, prediction and validation."""

from uqms.surrogates.adapted import Adapted
from uqms.surrogates.botorch_bridge import to_botorch
from uqms.surrogates.chain import Chain, Link
from uqms.surrogates.classification import EventProbability, FittedProbability, SuccessProbability, reliability
from uqms.surrogates.comparison import Comparison, compare_surrogates
from uqms.surrogates.convert import from_gpytorch
from uqms.surrogates.fidelity import (
    MultiFidelity,
    MultiFidelitySurrogate,
    NextRun,
    NonlinearMultiFidelity,
    next_level,
)
from uqms.surrogates.gp import GaussianProcess, GaussianProcessSurrogate
from uqms.surrogates.jax_kernel import JaxKernel
from uqms.surrogates.jax_surrogate import JaxSurrogate
from uqms.surrogates.jumps import Jump, detect_jump
from uqms.surrogates.kernels import (
    Kernel,
    Matern32,
    Matern52,
    Matern72,
    Matern112,
    Product,
    RadialKernel,
    RationalQuadratic,
    SquaredExponential,
    Sum,
)
from uqms.surrogates.learning import LearningCurve, learning_curve
from uqms.surrogates.loading import load_surrogate
from uqms.surrogates.main_effects import MainEffects
from uqms.surrogates.neighbours import LeftOutRuns, LocalGaussianProcess, LocalGaussianProcessSurrogate
from uqms.surrogates.outputs import Curve, Decoder, InputDecoder, Layout, Scalar
from uqms.surrogates.physics import Physics
from uqms.surrogates.plugging import draws_from_scores, predict_from_scores, reverse_by_differences
from uqms.surrogates.prediction import Prediction
from uqms.surrogates.process import Scores
from uqms.surrogates.protocol import FunctionDraws, Surrogate
from uqms.surrogates.regimes import Regimes, RegimeSurrogate
from uqms.surrogates.sbi_bridge import SbiRuns, from_sbi, to_sbi
from uqms.surrogates.superposition import Superposition, check_superposition
from uqms.surrogates.transforms import Log, Logit
from uqms.surrogates.validation import Validation, held_out, k_fold, leave_one_out

__all__ = [
    "Adapted",
    "Chain",
    "Comparison",
    "Curve",
    "Decoder",
    "EventProbability",
    "FittedProbability",
    "FunctionDraws",
    "GaussianProcess",
    "GaussianProcessSurrogate",
    "InputDecoder",
    "JaxKernel",
    "JaxSurrogate",
    "Jump",
    "Kernel",
    "Layout",
    "LearningCurve",
    "LeftOutRuns",
    "Link",
    "LocalGaussianProcess",
    "LocalGaussianProcessSurrogate",
    "Log",
    "Logit",
    "MainEffects",
    "Matern32",
    "Matern52",
    "Matern72",
    "Matern112",
    "MultiFidelity",
    "MultiFidelitySurrogate",
    "NextRun",
    "NonlinearMultiFidelity",
    "Physics",
    "Prediction",
    "Product",
    "RadialKernel",
    "RationalQuadratic",
    "RegimeSurrogate",
    "Regimes",
    "SbiRuns",
    "Scalar",
    "Scores",
    "SquaredExponential",
    "SuccessProbability",
    "Sum",
    "Superposition",
    "Surrogate",
    "Validation",
    "check_superposition",
    "compare_surrogates",
    "detect_jump",
    "draws_from_scores",
    "from_gpytorch",
    "from_sbi",
    "held_out",
    "k_fold",
    "learning_curve",
    "leave_one_out",
    "load_surrogate",
    "next_level",
    "predict_from_scores",
    "reliability",
    "reverse_by_differences",
    "to_botorch",
    "to_sbi",
]

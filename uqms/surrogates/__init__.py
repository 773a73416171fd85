"""Gaussian-process surrogates: settings, fitted values, prediction and validation."""

from uqms.surrogates.convert import from_gpytorch
from uqms.surrogates.files import load_surrogate
from uqms.surrogates.gp import GaussianProcess, GaussianProcessSurrogate
from uqms.surrogates.kernels import Matern32, Matern52, SquaredExponential
from uqms.surrogates.learning import LearningCurve, learning_curve
from uqms.surrogates.outputs import Curve, Decoder, Layout, Scalar
from uqms.surrogates.prediction import Prediction
from uqms.surrogates.process import Scores
from uqms.surrogates.protocol import FunctionDraws, Surrogate
from uqms.surrogates.validation import Validation, held_out, k_fold, leave_one_out

__all__ = [
    "Curve",
    "Decoder",
    "FunctionDraws",
    "GaussianProcess",
    "GaussianProcessSurrogate",
    "Layout",
    "LearningCurve",
    "Matern32",
    "Matern52",
    "Prediction",
    "Scalar",
    "Scores",
    "SquaredExponential",
    "Surrogate",
    "Validation",
    "from_gpytorch",
    "held_out",
    "k_fold",
    "learning_curve",
    "leave_one_out",
    "load_surrogate",
]

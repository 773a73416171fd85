"""Named parameters with priors as frozen values, known conditions, and the maps of design, surrogate and sampler."""

from uqms.parameters.box import Box
from uqms.parameters.joint_prior import MultivariateNormal
from uqms.parameters.mixture_prior import NormalMixture
from uqms.parameters.priors import (
    Beta,
    Exponential,
    Gamma,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    InverseGamma,
    LogitNormal,
    LogNormal,
    LogUniform,
    Moments,
    Normal,
    Prior,
    TruncatedNormal,
    Uniform,
)
from uqms.parameters.regimen import Dose, Regimen
from uqms.parameters.space import Condition, ParameterSpace

__all__ = [
    "Beta",
    "Box",
    "Condition",
    "Dose",
    "Exponential",
    "Gamma",
    "HalfCauchy",
    "HalfNormal",
    "HalfStudentT",
    "InverseGamma",
    "LogNormal",
    "LogUniform",
    "LogitNormal",
    "Moments",
    "MultivariateNormal",
    "Normal",
    "NormalMixture",
    "ParameterSpace",
    "Prior",
    "Regimen",
    "TruncatedNormal",
    "Uniform",
]

"""Conformance checks for your own surrogates, kernels, priors and noise models, and bugs to test the checks."""

from uqms.testing.kernel_conformance import check_kernel
from uqms.testing.likelihoods import LIKELIHOOD_BUGS, LikelihoodBug
from uqms.testing.noise_conformance import check_noise
from uqms.testing.planted import PLANTED_BUGS, PlantedBug
from uqms.testing.prior_conformance import check_prior
from uqms.testing.surrogates import Check, Conformance, check_surrogate
from uqms.testing.toy import ToySurrogate

__all__ = [
    "LIKELIHOOD_BUGS",
    "PLANTED_BUGS",
    "Check",
    "Conformance",
    "LikelihoodBug",
    "PlantedBug",
    "ToySurrogate",
    "check_kernel",
    "check_noise",
    "check_prior",
    "check_surrogate",
]

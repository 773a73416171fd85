"""Noise models: the sd that is meant, and every other one refused."""

import re

import numpy as np
import pytest

import uqms as uq
from uqms.errors import InputError


@pytest.mark.parametrize("sd", [0.5, 2, np.float64(0.5), np.float32(0.5), np.int64(3), None])
def test_positive_numbers_or_nothing(sd: float | None) -> None:
    assert uq.GaussianNoise(sd=sd).sd == sd


@pytest.mark.parametrize(
    "prior",
    [
        uq.HalfNormal(1.0),
        uq.LogNormal(1.0, 0.5),
        uq.Uniform(0.0, 2.0),
        uq.TruncatedNormal(1.0, 1.0, low=0.0),
        uq.InverseGamma(3.0, 1.0),
        uq.HalfCauchy(1.0),
        uq.HalfStudentT(4.0, 1.0),
        uq.Exponential(1.0),
    ],
)
def test_priors_of_positive_quantities(prior: uq.Prior) -> None:
    assert uq.GaussianNoise(sd=prior).sd is prior


@pytest.mark.parametrize("sd", [0, 0.0, -0.5, np.nan, np.inf, -np.inf])
def test_a_standard_deviation_is_positive_and_finite(sd: float) -> None:
    with pytest.raises(InputError, match=f"GaussianNoise: sd is {sd}; give a positive, finite standard deviation"):
        uq.GaussianNoise(sd=sd)


@pytest.mark.parametrize("sd", [True, np.True_, "0.5", b"1", [0.5], (0.5,), np.array([0.5]), 1j, np.complex128(1)])
def test_a_standard_deviation_is_a_number(sd: object) -> None:
    message = f"GaussianNoise: sd is {sd!r}; give a positive, finite standard deviation in the output's unit, a prior"
    with pytest.raises(InputError, match=re.escape(message)):
        uq.GaussianNoise(sd=sd)  # type: ignore[arg-type]


@pytest.mark.parametrize("prior", [uq.Normal(1.0, 0.1), uq.Uniform(-0.1, 1.0), uq.TruncatedNormal(1.0, 1.0, low=-1.0)])
def test_priors_that_admit_negative_values_are_refused(prior: uq.Prior) -> None:
    with pytest.raises(
        InputError, match="admits negative values.*Use HalfNormal, HalfCauchy, HalfStudentT, Exponential, Log"
    ):
        uq.GaussianNoise(sd=prior)

"""The conformance suite of noise models passes right ones and finds every planted bug by its own check."""

from dataclasses import dataclass

import numpy as np
import pytest
from calibration.own_noise import Laplace, ZeroInflatedPoisson

import uqms as uq
from uqms.calibration import NoiseModel
from uqms.errors import ConformanceError, InputError
from uqms.testing import check_noise

PARAMETERS = "parameters are numbers or priors"
SHAPES = "shapes"
MASS = "the density integrates to one"
DRAWS = "draws follow the density"
INDEPENDENT = "draws of rows are independent"
TAILS = "tail probabilities are integrals of the density"
ADDITIVE = "Gaussian noise is normal with its sd"
LIMITS = "outputs beyond the limits are impossible"
SAME = "expressions equal arrays"
SLOPE = "the derivative is that of the density"
HALF = uq.HalfNormal(0.5)

RIGHT = [
    Laplace(HALF),
    ZeroInflatedPoisson(uq.Beta(2, 5)),
    uq.GaussianNoise(HALF),
    uq.GaussianNoise(),
    uq.LogNormalNoise(HALF),
    uq.AutocorrelatedNoise(HALF, HALF, HALF),
    uq.StudentTNoise(HALF, uq.Gamma(4, 0.5)),
    uq.PoissonNoise(),
    uq.NegativeBinomialNoise(HALF),
    uq.BinomialNoise(),
    uq.BinomialNoise(30),
    uq.CustomNoise(
        logp=lambda z, y, p, xp: -xp.abs(z - y) / p["b"] - xp.log(2 * p["b"]),
        random=lambda y, p, rng: y + p["b"] * rng.laplace(size=y.shape),
        parameters={"b": HALF},
    ),
]


@pytest.mark.parametrize("model", RIGHT, ids=lambda model: type(model).__name__)
def test_right_models_pass(model: NoiseModel) -> None:
    found = check_noise(model)
    found.raise_failed()
    assert str(found).startswith("noise model: 10 of 10 checks passed, 0 failed")


class NoConstant(Laplace):
    def log_density(self, y, rows, parameters, xp):
        return super().log_density(y, rows, parameters, xp) + xp.log(parameters["scale"])


class Variance(Laplace):
    def draw(self, y, rows, parameters, rng):
        return super().draw(y, rows, {"scale": parameters["scale"] ** 2}, rng)


class OneForAll(Laplace):
    def draw(self, y, rows, parameters, rng):
        return y + parameters["scale"] * rng.laplace(size=(*y.shape[:-1], 1))


class OtherSide(Laplace):
    def log_tail(self, y, rows, parameters, side, xp):
        return super().log_tail(y, rows, parameters, -side, xp)


class SaysNormal(Laplace):
    gaussian = True

    @property
    def parameters(self):
        return {"sigma": self.scale, "scale": self.scale}


class NumPyOnly(Laplace):
    def log_density(self, y, rows, parameters, xp):
        value = super().log_density(y, rows, parameters, xp)
        return value if isinstance(y, np.ndarray) else value + 1e-9


class NoSlope(Laplace):
    def log_density(self, y, rows, parameters, xp):
        if not isinstance(y, np.ndarray):
            from pytensor.gradient import disconnected_grad

            parameters = {"scale": disconnected_grad(parameters["scale"])}
        return super().log_density(y, rows, parameters, xp)


class EqualToZero(ZeroInflatedPoisson):
    def log_density(self, y, rows, parameters, xp):
        mean = xp.where(y >= 0.0, y, 1.0)
        count = xp.exp(xp.xlogy(rows.z, mean) - mean - xp.gammaln(rows.z + 1.0)) * (1.0 - parameters["missed"])
        return xp.where(y >= 0.0, xp.log(count + xp.where(rows.z == 0.0, parameters["missed"], 0.0)), -np.inf)


class FirstRow(Laplace):
    def draw(self, y, rows, parameters, rng):
        return super().draw(y, rows, parameters, rng)[..., :1]


class UnknownScale(Laplace):
    scaled = ("sigma",)


class NegativeMeans(ZeroInflatedPoisson):
    def log_density(self, y, rows, parameters, xp):
        return super().log_density(xp.abs(y), rows, parameters, xp)


BUGS = [
    (NoConstant(HALF), MASS),
    (Variance(HALF), DRAWS),
    (OneForAll(HALF), INDEPENDENT),
    (OtherSide(HALF), TAILS),
    (SaysNormal(HALF), ADDITIVE),
    (NumPyOnly(HALF), SAME),
    (NoSlope(HALF), SLOPE),
    (EqualToZero(uq.Beta(2, 5)), SAME),
    (FirstRow(HALF), SHAPES),
    (UnknownScale(HALF), PARAMETERS),
    (NegativeMeans(0.2), LIMITS),
]


@pytest.mark.parametrize(("model", "name"), BUGS, ids=[type(model).__name__ for model, _ in BUGS])
def test_a_planted_bug_is_found(model: NoiseModel, name: str) -> None:
    found = check_noise(model)
    assert name in found.failed
    with pytest.raises(ConformanceError, match="checks of the noise model are failed"):
        found.raise_failed()
    assert found.table.loc[name, "reason"]


def test_what_cannot_be_checked_is_refused() -> None:
    with pytest.raises(InputError, match="give an instance of a subclass of uqms.calibration.NoiseModel"):
        check_noise(Laplace)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="between 0 and inf"):
        check_noise(uq.PoissonNoise(), outputs=[-1.0])


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="Laplace: the prior .* admits negative values"):
        Laplace(uq.Normal(0.0, 1.0))
    with pytest.raises(InputError, match="Laplace: scale is -1"):
        Laplace(-1.0)

    class Undecorated(NoiseModel):
        def log_density(self, y, rows, parameters, xp):
            return y

        def draw(self, y, rows, parameters, rng):
            return y

    with pytest.raises(InputError, match="decorate the class"):
        _ = Undecorated().parameters

    @dataclass(frozen=True)
    class Unfinite(Laplace):
        other: float = np.nan

    with pytest.raises(InputError, match="other is nan"):
        Unfinite(1.0)

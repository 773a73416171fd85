"""A surrogate whose mean is linear and whose error is known exactly: everything about it has a closed form."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import uqms as uq
from uqms.surrogates import Decoder, Layout, Scores

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class LinearSurrogate:
    """y(theta, x) = slopes(x)' theta + error(x); the error's correlation is exp(-|x - x'| / length) per unit cube.

    `space` has normal priors of the parameters and the condition "x" from 0 to `ends`; `slopes` gives (..., p).
    """

    space: uq.ParameterSpace
    slopes: Any
    sd: float
    length: float
    ends: float = 1.0
    attrs: Mapping[str, str] = field(default_factory=dict)

    @property
    def domain(self) -> uq.Box:
        """The box of parameters and condition; 8 sds of the priors, so that nothing is cut."""
        low = [prior.mean - 8.0 * prior.sd for prior in map(self.space.priors.get, self.space.names)]
        high = [prior.mean + 8.0 * prior.sd for prior in map(self.space.priors.get, self.space.names)]
        return uq.Box((*self.space.names, "x"), (*low, 0.0), (*high, self.ends))

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """One number."""
        return {"y": Layout()}

    def _split(self, u: Array) -> tuple[Array, Array]:
        value = self.domain.from_unit(u)
        return value[..., :-1], value[..., -1]

    def scores(self, u: Array) -> Scores:
        """Return mean and covariance between inputs."""
        theta, x = self._split(u)
        mean = np.sum(self.slopes(x) * theta, axis=-1)[None, ..., None]
        covariance = self.sd**2 * np.exp(-np.abs(x[..., :, None] - x[..., None, :]) / self.length)
        return Scores(mean, covariance[None, ..., None, :, :], np.zeros(1))

    def scores_reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return derivatives by the parameters; those by the condition are not asked for."""
        _, x = self._split(u)
        box = self.domain
        width = np.array(box.upper)[:-1] - np.array(box.lower)[:-1]
        out = np.zeros(u.shape)
        out[..., :-1] = mean_bar[0] * self.slopes(x) * width
        return out

    def decode(self, output: str, coords: Any = None) -> Decoder:
        """Return the rows: the score itself."""
        return Decoder(np.zeros(1), np.ones((1, 1)), np.zeros((1, 0)))

    def functions(self, n: int, rng: Any) -> Any:
        """Not used."""
        raise NotImplementedError

"""Surrogates whose functions are known, and indices that follow from them."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import roots_legendre

from uqms.parameters import Box
from uqms.surrogates import Decoder, Layout, Scores
from uqms.surrogates.transforms import IDENTITY, Transform


class Given:
    """A surrogate of the protocol with scores that are given functions of u, and errors that are given."""

    def __init__(
        self,
        scores: Callable[[np.ndarray], np.ndarray],
        d: int,
        *,
        error: Callable[[np.ndarray, int, np.random.Generator], np.ndarray] | None = None,
        outputs: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
        transform: Transform = IDENTITY,
    ) -> None:
        """Take scores (k, q), errors of draws (n, k, q), and outputs as basis (m, q) and truncation (m, t)."""
        self.mean, self.d, self.error = scores, d, error
        self.transform = transform
        self.outputs = outputs or {"y": (np.ones((1, 1)), np.zeros((1, 0)))}

    @property
    def domain(self) -> Box:
        names = tuple("abcdefghij"[: self.d])
        return Box(names, (0.0,) * self.d, (1.0,) * self.d)

    @property
    def layouts(self) -> Mapping[str, Layout]:
        return {
            name: Layout(("t",), {"t": np.arange(float(len(basis)))}, transform=self.transform)
            if len(basis) > 1
            else Layout(transform=self.transform)
            for name, (basis, _) in self.outputs.items()
        }

    def scores(self, u: np.ndarray) -> Scores:
        mean = self.mean(u.reshape(-1, self.d)).reshape(*u.shape[:-1], -1)
        k, q = mean.shape[-2:]
        return Scores(mean[None], np.zeros((1, *mean.shape[:-2], q, k, k)), np.zeros(1))

    def scores_reverse(self, u: np.ndarray, mean_bar: np.ndarray, covariance_bar: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def decode(self, output: str, coords: Mapping[str, ArrayLike] | None = None) -> Decoder:
        basis, truncation = self.outputs[output]
        return Decoder(np.zeros(len(basis)), basis, truncation)

    def functions(self, n: int, rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
        def draws(u: np.ndarray) -> np.ndarray:
            mean = np.broadcast_to(self.mean(u), (n, *self.mean(u[:1]).shape[:0], len(u), self.mean(u[:1]).shape[-1]))
            return mean if self.error is None else mean + self.error(u, n, rng)

        return draws


def ishigami(u: np.ndarray) -> np.ndarray:
    """Return the Ishigami function (k, 1) with its inputs over the unit cube."""
    x = np.pi * (2.0 * u - 1.0)
    return (np.sin(x[:, 0]) + 7.0 * np.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * np.sin(x[:, 0]))[:, None]


ISHIGAMI = {"S1": [0.3139, 0.4424, 0.0], "ST": [0.5576, 0.4424, 0.2437]}
G = np.array([0.0, 1.0, 4.5, 9.0])


def sobol_g(u: np.ndarray) -> np.ndarray:
    """Return Sobol's G function (k, 1)."""
    return np.prod((np.abs(4.0 * u - 2.0) + G) / (1.0 + G), axis=1)[:, None]


def indices_of_g() -> dict[str, np.ndarray]:
    """Return its indices in closed form."""
    each = 1.0 / (3.0 * (1.0 + G) ** 2)
    variance = np.prod(1.0 + each) - 1.0
    return {"S1": each / variance, "ST": each * np.prod(1.0 + each) / (1.0 + each) / variance}


def square(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes (order², 2) and weights of a Gauss rule on the unit square."""
    nodes, weights = roots_legendre(order)
    nodes, weights = 0.5 * (nodes + 1.0), 0.5 * weights
    return np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2), np.outer(weights, weights)


def forms(order: int) -> dict[str, np.ndarray]:
    """Return the quadratic forms of values at the nodes of `square`: variance, and those of both main effects."""
    _, w = square(order)
    one = w.sum(axis=1)
    flat = w.ravel()
    mean = np.outer(flat, flat)
    # E[f | u1] at node i is sum_j w_j f_ij; its variance a sum over i of w_i times its square, less the mean's.
    average = np.einsum("ik,j->ikj", np.eye(order), one).reshape(order, -1)
    other = np.einsum("jk,i->kij", np.eye(order), one).reshape(order, -1)
    return {
        "variance": np.diag(flat) - mean,
        "a": average.T @ (one[:, None] * average) - mean,
        "b": other.T @ (one[:, None] * other) - mean,
    }

"""Test functions of sensitivity analysis with their inputs, and their indices from very many evaluations.

Ishigami & Homma (1990); Sobol' G (Saltelli & Sobol' 1995); Morris's function of 20 inputs (1991, doi:10.2307/1269043);
borehole, piston and output-transformerless circuit as in Surjanovic & Bingham, sfu.ca/~ssurjano; height of a flood over
its dyke (Iooss & Lemaitre 2015, doi:10.1007/978-1-4899-7547-8_5) with uniform laws where they have triangles and a
log-normal flow.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import qmc

import uqms as uq

Array = np.ndarray[Any, np.dtype[np.float64]]


class Problem(NamedTuple):
    """A function of rows of inputs (k, d), and the space of its inputs."""

    name: str
    space: uq.ParameterSpace
    function: Callable[[Array], Array]


class Truth(NamedTuple):
    """Indices (d,) of the true function."""

    first: Array
    total: Array


def ishigami(x: Array) -> Array:
    """Return the function of three inputs, each between -pi and pi."""
    return np.asarray(np.sin(x[:, 0]) + 7.0 * np.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * np.sin(x[:, 0]))


def borehole(x: Array) -> Array:
    """Return the flow of water through a borehole, m3 a year."""
    rw, r, tu, hu, tl, hl, length, kw = x.T
    log = np.log(r / rw)
    return np.asarray(2.0 * np.pi * tu * (hu - hl) / (log * (1.0 + 2.0 * length * tu / (log * rw**2 * kw) + tu / tl)))


def piston(x: Array) -> Array:
    """Return the time of a cycle, s."""
    m, s, v0, k, p0, ta, t0 = x.T
    a = p0 * s + 19.62 * m - k * v0 / s
    v = s / (2.0 * k) * (np.sqrt(a**2 + 4.0 * k * p0 * v0 / t0 * ta) - a)
    return np.asarray(2.0 * np.pi * np.sqrt(m / (k + s**2 * p0 * v0 / t0 * ta / v**2)))


def circuit(x: Array) -> Array:
    """Return the voltage in the middle, V."""
    b1, b2, f, c1, c2, beta = x.T
    v = 12.0 * b2 / (b1 + b2)
    bc = beta * (c2 + 9.0)
    return np.asarray((v + 0.74) * bc / (bc + f) + 11.35 * f / (bc + f) + 0.74 * f * bc / ((bc + f) * c1))


def flood(x: Array) -> Array:
    """Return the height of the water over the dyke, m."""
    q, ks, zv, zm, hd, cb, length, b = x.T
    return np.asarray(zv + (q / (b * ks * np.sqrt((zm - zv) / length))) ** 0.6 - hd - cb)


G = np.array([0.0, 1.0, 4.5, 9.0, 99.0, 99.0, 99.0, 99.0])


def sobol_g(x: Array) -> Array:
    """Return the product of kinks."""
    return np.asarray(np.prod((np.abs(4.0 * x - 2.0) + G) / (1.0 + G), axis=1))


def morris(x: Array) -> Array:
    """Return the function of 20 inputs, half of which do next to nothing."""
    w = 2.0 * (x - 0.5)
    bent = [2, 4, 6]
    w[:, bent] = 2.0 * (1.1 * x[:, bent] / (x[:, bent] + 0.1) - 0.5)
    i = np.arange(1, 21)
    first = np.where(i <= 10, 20.0, (-1.0) ** i)
    second = np.where((i[:, None] <= 6) & (i <= 6), -15.0, (-1.0) ** (i[:, None] + i))
    third = [(a, b, c) for a in range(5) for b in range(a + 1, 5) for c in range(b + 1, 5)]
    y = w @ first + np.einsum("ka,ab,kb->k", w, np.triu(second, 1), w)
    y += -10.0 * np.sum([np.prod(w[:, one], axis=1) for one in third], axis=0)
    return np.asarray(y + 5.0 * np.prod(w[:, :4], axis=1))


def uniform(**ends: tuple[float, float]) -> uq.ParameterSpace:
    """Return a space of uniform priors."""
    return uq.ParameterSpace(**{name: uq.Uniform(*pair) for name, pair in ends.items()})


_HOLE = {"Tu": (63070, 115600), "Hu": (990, 1110), "Tl": (63.1, 116), "Hl": (700, 820)}
PROBLEMS = {
    one.name: one
    for one in (
        Problem("ishigami", uniform(a=(-np.pi, np.pi), b=(-np.pi, np.pi), c=(-np.pi, np.pi)), ishigami),
        Problem(
            "borehole",
            uq.ParameterSpace(
                rw=uq.Normal(0.1, 0.0161812),
                r=uq.LogNormal(float(np.exp(7.71)), 1.0056),
                **{name: uq.Uniform(*pair) for name, pair in _HOLE.items()},
                L=uq.Uniform(1120, 1680),
                Kw=uq.Uniform(9855, 12045),
            ),
            borehole,
        ),
        Problem(
            "piston",
            uniform(
                M=(30, 60),
                S=(0.005, 0.02),
                V0=(0.002, 0.01),
                k=(1000, 5000),
                P0=(90000, 110000),
                Ta=(290, 296),
                T0=(340, 360),
            ),
            piston,
        ),
        Problem(
            "circuit",
            uniform(Rb1=(50, 150), Rb2=(25, 70), Rf=(0.5, 3), Rc1=(1.2, 2.5), Rc2=(0.25, 1.2), beta=(50, 300)),
            circuit,
        ),
        Problem(
            "flood",
            uq.ParameterSpace(
                Q=uq.LogNormal(1170.0, 0.5),
                Ks=uq.TruncatedNormal(30.0, 8.0, low=15.0),
                Zv=uq.Uniform(49, 51),
                Zm=uq.Uniform(54, 56),
                Hd=uq.Uniform(7, 9),
                Cb=uq.Uniform(55, 56),
                L=uq.Uniform(4990, 5010),
                B=uq.Uniform(295, 305),
            ),
            flood,
        ),
        Problem("sobol_g", uniform(**{f"x{i}": (0, 1) for i in range(1, 9)}), sobol_g),
        Problem("morris", uniform(**{f"x{i}": (0, 1) for i in range(1, 21)}), morris),
    )
}


def runs_of(problem: Problem, n: int, seed: int) -> Any:
    """Return runs at a scrambled Sobol design."""
    design = uq.sobol(problem.space, n, rng=seed)
    x = np.column_stack([design[name].values for name in problem.space.names])
    return uq.ensemble.build(design, {"y": problem.function(x)}, space=problem.space, box=problem.space.box())


def truth_of(problem: Problem, power: int = 17, replicates: int = 4) -> Truth:
    """Return the indices over the prior within the design box, by pick and freeze on the true function."""
    space, box = problem.space, problem.space.box()
    d = len(space.names)
    found = []
    for seed in range(replicates):
        both = qmc.Sobol(2 * d, scramble=True, rng=seed).random_base2(power)
        a, b = (np.asarray(space.from_cube(v, box)) for v in (both[:, :d], both[:, d:]))
        fa, fb = problem.function(a), problem.function(b)
        mean, variance = np.mean([fa, fb]), np.var([fa, fb])
        rows = []
        for i in range(d):
            mixed = a.copy()
            mixed[:, i] = b[:, i]
            f = problem.function(mixed)
            rows.append((np.mean((fb - mean) * (f - fa)) / variance, 0.5 * np.mean((fa - f) ** 2) / variance))
        found.append(np.array(rows).T)
    return Truth(*np.mean(found, axis=0))

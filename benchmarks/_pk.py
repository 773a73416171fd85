"""Two-compartment oral pharmacokinetics: simulator, priors, data, and its posterior without a surrogate.

A dose is absorbed (ka) into a central compartment (V1), from which it is cleared (CL) and exchanged (Q) with a second
one (V2); the output is the concentration. The solution is three exponentials.
"""

import numpy as np

DOSE, TIMES = 100.0, np.linspace(0.25, 24.0, 50)  # mg, h
NAMES = ("ka", "CL", "V1", "Q", "V2")  # 1/h, L/h, L, L/h, L
MEDIAN = np.array([1.0, 5.0, 20.0, 8.0, 60.0])
SIGMA = np.array([0.3, 0.25, 0.25, 0.3, 0.3])  # of the logarithm
TRUTHS = np.array([[1.1, 5.5, 22.0, 7.5, 65.0], [0.9, 4.5, 19.0, 9.0, 55.0]])
SD = 0.03  # mg/L

Array = np.ndarray


def concentration(theta: Array, times: Array = TIMES) -> Array:
    """Return the concentration (..., T) for parameters (..., 5) in the order of `NAMES`."""
    ka, clearance, v1, q, v2 = (np.asarray(theta)[..., i, None] for i in range(5))
    out, there, back = clearance / v1, q / v1, q / v2
    total = out + there + back
    root = np.sqrt(total**2 - 4.0 * out * back)
    a, b = 0.5 * (total + root), 0.5 * (total - root)
    parts = (
        (back - a) / ((ka - a) * (b - a)) * np.exp(-a * times)
        + (back - b) / ((ka - b) * (a - b)) * np.exp(-b * times)
        + (back - ka) / ((a - ka) * (b - ka)) * np.exp(-ka * times)
    )
    return DOSE * ka / v1 * parts


def measured(which: int, times: Array = TIMES) -> Array:
    """Return noisy measurements of one of the truths."""
    noise = np.random.default_rng(3 + which).standard_normal(len(times))
    return concentration(TRUTHS[which], times) + SD * noise


def reference(z: Array, steps: int = 6000, walkers: int = 200) -> tuple[Array, Array]:
    """Return mean and sd of the parameters without a surrogate: differential-evolution MCMC (ter Braak 2006)."""
    rng = np.random.default_rng(0)

    def log_density(x: Array) -> Array:
        off = z - concentration(MEDIAN * np.exp(SIGMA * x))
        return -0.5 * np.sum(x**2, axis=1) - 0.5 * np.sum(off**2, axis=1) / SD**2

    x = 0.5 * rng.standard_normal((walkers, 5))
    value = log_density(x)
    kept = []
    half = walkers // 2
    for step in range(steps):
        for mine in (np.arange(half), np.arange(half, walkers)):  # one half moves by differences of the other
            others = np.setdiff1d(np.arange(walkers), mine)
            a, b = rng.choice(others, size=half), rng.choice(others, size=half)
            length = 1.0 if step % 10 == 0 else 2.38 / np.sqrt(10.0)
            proposal = x[mine] + length * (x[a] - x[b]) + 1e-6 * rng.standard_normal((half, 5))
            proposed = log_density(proposal)
            ok = np.log(rng.random(half)) < proposed - value[mine]
            x[mine[ok]], value[mine[ok]] = proposal[ok], proposed[ok]
        if step >= steps // 3 and step % 10 == 0:
            kept.append(MEDIAN * np.exp(SIGMA * x))
    draws = np.concatenate(kept)
    return draws.mean(axis=0), draws.std(axis=0)

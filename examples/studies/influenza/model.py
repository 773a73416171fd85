"""The epidemic model of the study, and what is computed from its parameters and data."""

import numpy as np
from scipy.integrate import solve_ivp

BOYS = 763
DAYS = np.arange(1.0, 15.0)


def outbreak(beta, gamma):
    """Return the square root of the number of infected on each day."""

    def change(day, state):
        susceptible, infected = state
        new = beta * susceptible * infected / BOYS
        return [-new, new - gamma * infected]

    solution = solve_ivp(
        change, (0, DAYS[-1]), [BOYS - 1, 1], t_eval=DAYS, rtol=1e-8, atol=1e-8
    )
    # the solver may step below zero where the outbreak dies out
    return np.sqrt(np.maximum(solution.y[1], 0.0))


def square_roots(table):
    """Return the table with the square root of each count, whose scatter is the same on all days."""
    return table.assign(sqrt_in_bed=np.sqrt(table["in_bed"]))


def reproduction_number(p):
    """Return how many boys the first one infects."""
    return p["beta"] / p["gamma"]


def infectious_period(p):
    """Return the mean number of days that a boy is infectious."""
    return 1 / p["gamma"]

"""The squid axon of 1952 by the constants of its rates: the voltage clamp, a patch of membrane, and the impulse.

Hodgkin & Huxley (1952), doi:10.1113/jphysiol.1952.sp004764, in their conventions: v is the depolarisation from rest
(mV), time in ms, rates in 1/ms at 6.3 °C. With x(u) = u / (exp(u) - 1) the gates n, m and h open and close with

    alpha_n = an sn x((vn - v) / sn)     beta_n = bn exp(-v / wn)                 g_K = gk n^4
    alpha_m = am sm x((vm - v) / sm)     beta_m = bm exp(-v / wm)
    alpha_h = ah exp(-v / wh)            beta_h = 1 / (exp((vh - v) / sh) + 1)     g_Na = gna m^3 h

Constants stand in the order of `CONSTANTS`. An impulse of constant speed and shape solves v'' / K = v' + I / C, and K
is found by bisection: with too small a K the solution runs away downwards, with too large a one upwards.
`examples/squid_axon.py` tells more of that; there rates are multiplied by one number a gate.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.linalg import block_diag
from scipy.optimize import least_squares

from uqms._compiled import compiled
from uqms._typing import Array, Bools

__all__ = [
    "CONSTANTS",
    "POTASSIUM",
    "SODIUM",
    "Clamped",
    "clamped",
    "conductance",
    "fires_by_itself",
    "impulses",
    "read_clamp",
    "speed",
]

# Published values, and round ones of the same order: the medians of log-normal priors.
POTASSIUM = {"an": (0.01, 0.01), "vn": (10.0, 10.0), "sn": (10.0, 10.0), "bn": (0.125, 0.1), "wn": (80.0, 100.0),
             "gk": (36.0, 30.0)}  # fmt: skip
SODIUM = {"am": (0.1, 0.1), "vm": (25.0, 30.0), "sm": (10.0, 10.0), "bm": (4.0, 3.0), "wm": (18.0, 20.0),
          "ah": (0.07, 0.1), "wh": (20.0, 20.0), "vh": (30.0, 30.0), "sh": (10.0, 10.0), "gna": (120.0, 100.0),
          }  # fmt: skip
CONSTANTS = (*POTASSIUM, *SODIUM)
WARM = 3.0 ** ((18.5 - 6.3) / 10.0)  # of rates, between the clamp's temperature and the impulse's
LEAK, E_LEAK, E_NA, E_K = 0.3, 10.6, 115.0, -12.0
SHOCK, FIRED = 30.0, 40.0  # mV
LOWEST, HIGHEST, GRID, HALVINGS = 0.05, 3000.0, 64, 40  # K in 1/ms
FAR_DOWN, FAR_UP = -13.0, 130.0  # where a solution has run away


@compiled
def _ramp(x: float) -> float:
    return 1.0 - 0.5 * x if abs(x) < 1e-7 else x / math.expm1(x)


@compiled
def _rates(v: float, c: Array, opening: Array, closing: Array) -> None:
    """Fill opening and closing rates of n, m and h."""
    opening[0], closing[0] = c[0] * c[2] * _ramp((c[1] - v) / c[2]), c[3] * math.exp(-v / c[4])
    opening[1], closing[1] = c[6] * c[8] * _ramp((c[7] - v) / c[8]), c[9] * math.exp(-v / c[10])
    opening[2], closing[2] = c[11] * math.exp(-v / c[12]), 1.0 / (math.exp((c[13] - v) / c[14]) + 1.0)


@compiled
def _change(v: float, gates: Array, c: Array, rest: float, capacitance: float, room: Array, change: Array) -> float:
    """Fill the change of the gates, and return the current over the capacitance; both at 18.5 °C."""
    _rates(v, c, room[0], room[1])
    for i in range(3):
        change[i] = WARM * (room[0, i] * (1.0 - gates[i]) - room[1, i] * gates[i])
    sodium, potassium = c[15] * gates[1] ** 3 * gates[2], c[5] * gates[0] ** 4
    return (sodium * (v - E_NA) + potassium * (v - E_K) + LEAK * v - rest) / capacitance


@compiled
def _at_rest(c: Array, gates: Array, room: Array) -> float:
    """Fill the gates at rest, and return the current of the channels there, which the leak balances."""
    _rates(0.0, c, room[0], room[1])
    for i in range(3):
        gates[i] = room[0, i] / (room[0, i] + room[1, i])
    return -(c[15] * gates[1] ** 3 * gates[2] * E_NA + c[5] * gates[0] ** 4 * E_K)


@compiled
def _runs_up(c: Array, capacitance: float, k: float) -> bool:
    """Return whether the solution with K = k runs away upwards."""
    gates, room, change = np.empty(3), np.empty((2, 3)), np.empty((4, 5))
    rest = _at_rest(c, gates, room)
    g = (c[15] * gates[1] ** 3 * gates[2] + c[5] * gates[0] ** 4 + LEAK) / capacitance
    state, moved = np.empty(5), np.empty(5)
    state[0] = 0.1
    state[1] = 0.1 * 0.5 * k * (1.0 + math.sqrt(1.0 + 4.0 * g / k))
    state[2:] = gates
    step = min(0.012, 0.25 / k)
    for _ in range(int(40.0 / step)):
        for stage in range(4):
            weight = 0.0 if stage == 0 else step if stage == 3 else 0.5 * step
            for i in range(5):
                moved[i] = state[i] + (weight * change[stage - 1, i] if stage else 0.0)
            v = min(max(moved[0], -30.0), 150.0)
            current = _change(v, moved[2:], c, rest, capacitance, room, change[stage, 2:])
            change[stage, 0] = moved[1]
            change[stage, 1] = k * (moved[1] + current)
        for i in range(5):
            state[i] += step / 6.0 * (change[0, i] + 2.0 * change[1, i] + 2.0 * change[2, i] + change[3, i])
        if state[0] > FAR_UP:
            return True
        if state[0] < FAR_DOWN:
            return False
    return True


@compiled
def _peak(c: Array, capacitance: float, shock: float, balanced: bool) -> float:
    """Return the height of a patch's action potential after a shock to some mV; the leak balances the rest or not."""
    gates, room, change, moved = np.empty(3), np.empty((2, 3)), np.empty((4, 4)), np.empty(4)
    rest, state, step, peak = _at_rest(c, gates, room), np.empty(4), 0.002, shock
    if not balanced:
        rest = LEAK * E_LEAK
    state[0] = shock
    state[1:] = gates
    for _ in range(4000 if balanced else 10000):
        for stage in range(4):
            weight = 0.0 if stage == 0 else step if stage == 3 else 0.5 * step
            for i in range(4):
                moved[i] = state[i] + (weight * change[stage - 1, i] if stage else 0.0)
            change[stage, 0] = -_change(moved[0], moved[1:], c, rest, capacitance, room, change[stage, 1:])
        for i in range(4):
            state[i] += step / 6.0 * (change[0, i] + 2.0 * change[1, i] + 2.0 * change[2, i] + change[3, i])
        peak = max(peak, state[0])
    return peak


@compiled
def _foot(c: Array, capacitance: float) -> float:
    """Return K of the fast impulse; NaN where none propagates."""
    ratio, low = (HIGHEST / LOWEST) ** (1.0 / GRID), math.nan
    for i in range(GRID, -1, -1):
        if not _runs_up(c, capacitance, LOWEST * ratio**i):
            low = LOWEST * ratio**i
            break
    if not low < HIGHEST:
        return math.nan
    high = low * ratio
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        if _runs_up(c, capacitance, middle):
            high = middle
        else:
            low = middle
    return math.sqrt(low * high)


@compiled
def impulses(constants: Array, capacitance: Array) -> Array:
    """Return, of each row of constants (S, 16), height (mV) and K (1/ms), NaN where no impulse propagates: (S, 2)."""
    out = np.empty((len(constants), 2))
    for s in range(len(constants)):
        out[s, 0] = _peak(constants[s], capacitance[s], SHOCK, True)
        out[s, 1] = _foot(constants[s], capacitance[s])
    return out


@compiled
def fires_by_itself(constants: Array) -> Bools:
    """Return which patches (S,) fire without a shock where the leak stays at its published reversal, 10.6 mV."""
    out = np.empty(len(constants), np.bool_)
    for s in range(len(constants)):
        out[s] = _peak(constants[s], 1.0, 0.0, False) > FIRED
    return out


def speed(foot: Array, capacitance: Array, radius: Array, resistivity: Array) -> Array:
    """Return the conduction speed (m/s) from K (1/ms), µF/cm², cm and ohm cm."""
    return np.asarray(np.sqrt(1e9 * foot * radius / (2.0 * resistivity * capacitance)) / 100.0)


def _towards(end: Array, start: Array, rate: Array, time: Array) -> Array:
    return np.asarray(end + (start - end) * np.exp(-rate * time))


def conductance(channel: str, c: dict[str, Array], time: Array, v: Array) -> Array:
    """Return the conductance (mS/cm²) of a channel after a step from rest to v at 6.3 °C."""

    def ramp(x: Array) -> Array:
        x = np.where(np.abs(x) < 1e-7, 1e-7, x)
        return np.asarray(x / np.expm1(x))

    def gate(name: str, opening: Array, closing: Array, at_rest: tuple[Array, Array]) -> Array:
        start = at_rest[0] / (at_rest[0] + at_rest[1])
        return _towards(opening / (opening + closing), start, opening + closing, time)

    def of_n(v: Array) -> tuple[Array, Array]:
        return c["an"] * c["sn"] * ramp((c["vn"] - v) / c["sn"]), c["bn"] * np.exp(-v / c["wn"])

    def of_m(v: Array) -> tuple[Array, Array]:
        return c["am"] * c["sm"] * ramp((c["vm"] - v) / c["sm"]), c["bm"] * np.exp(-v / c["wm"])

    def of_h(v: Array) -> tuple[Array, Array]:
        return c["ah"] * np.exp(-v / c["wh"]), 1.0 / (np.exp((c["vh"] - v) / c["sh"]) + 1.0)

    nothing = np.zeros_like(v)
    with np.errstate(over="ignore"):
        if channel == "potassium":
            return np.asarray(c["gk"] * gate("n", *of_n(v), of_n(nothing)) ** 4)
        return np.asarray(c["gna"] * gate("m", *of_m(v), of_m(nothing)) ** 3 * gate("h", *of_h(v), of_h(nothing)))


def read_clamp(folder: Path, channel: str) -> pd.DataFrame:
    """Return the digitised conductances of a channel: ms, mV and g (mS/cm²)."""
    table = pd.read_csv(folder / f"{channel}.csv")
    return pd.DataFrame(
        {"ms": table["time_ms"], "mV": table["depolarisation_mV"], "g": table["conductance_mS_cm2"]}, dtype=float
    )


class Clamped(NamedTuple):
    """What the clamp says of the logarithms of all constants, to second order around their most probable values."""

    mean: Array  # (16,)
    root: Array  # (16, 16), of the covariance

    def constants(self, z: Array) -> Array:
        """Return constants (S, 16) of standard normal numbers (S, 16)."""
        return np.asarray(np.exp(self.mean + z @ self.root.T))


def clamped(folder: Path) -> Clamped:
    """Return Laplace's approximation given the digitised conductances, whose noise has its most probable sd."""
    means, roots = [], []
    for channel, values in (("potassium", POTASSIUM), ("sodium", SODIUM)):
        table, medians = read_clamp(folder, channel), np.log([round_one for _, round_one in values.values()])
        g, at = table["g"].to_numpy(), (table["ms"].to_numpy(), table["mV"].to_numpy())

        def residuals(
            z: Array, sd: float, names: tuple[str, ...] = tuple(values), medians: Array = medians,
            g: Array = g, at: tuple[Array, Array] = at, channel: str = channel,
        ) -> Array:  # fmt: skip
            c = dict(zip(names, np.exp(medians + z), strict=True))
            return np.append((conductance(channel, c, *at) - g) / sd, z)

        z, sd = np.zeros(len(values)), 2.0
        for _ in range(10):
            found = least_squares(residuals, z, args=(sd,))
            z, sd = found.x, sd * math.sqrt(float(np.mean(found.fun[: len(g)] ** 2)))
        means.append(medians + z)
        roots.append(np.linalg.cholesky(np.linalg.inv(found.jac.T @ found.jac)))
    return Clamped(np.concatenate(means), block_diag(*roots))

"""What every benchmark prints: one line an aim for people, and as the last line one JSON list for machines.

    from _report import aim, finish

    sys.exit(finish([aim("coverage of beta", 0.94, low=0.91, high=0.985, mcse=0.017, n=200)]))

An aim has a name, a value with its Monte Carlo standard error and the number of repeats behind it, and the window that
it is meant to be in. `ok` is None, with the reason, when the value was not measured this time.
"""

import json
import math
from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np


class Aim(TypedDict):
    """One measured number and the window it is meant to be in (None: no bound on that side)."""

    name: str
    value: float | None
    mcse: float | None
    low: float | None
    high: float | None
    n: int | None
    ok: bool | None
    reason: NotRequired[str]


def _number(value: float | None) -> float | None:
    """Return a float that strict JSON can hold; NaN and infinities are None."""
    return None if value is None or not math.isfinite(value) else float(value)


def aim(
    name: str,
    value: float | None,
    low: float | None = None,
    high: float | None = None,
    mcse: float | None = None,
    n: int | None = None,
    reason: str | None = None,
) -> Aim:
    """Judge one number: ok when it is in [low, high], missed when outside or not finite, None when not measured.

    Give `value=None` and a `reason` for what was not measured. A `reason` beside a value is printed as a remark.
    """
    if value is None and not reason:
        raise ValueError(f"{name!r} has no value and no reason; say why it was not measured.")
    ok: bool | None = None
    if value is not None:
        inside = (low is None or value >= low) and (high is None or value <= high)
        ok = bool(math.isfinite(value) and inside)
    result: Aim = {
        "name": name,
        "value": _number(value),
        "mcse": _number(mcse),
        "low": _number(low),
        "high": _number(high),
        "n": None if n is None else int(n),
        "ok": ok,
    }
    if reason:
        result["reason"] = reason
    return result


def binomial(coverage: float, n: int) -> float:
    """Return the Monte Carlo standard error of a share out of `n` independent repeats, never 0 (Agresti-Coull)."""
    share = (coverage * n + 2) / (n + 4)
    return float(np.sqrt(share * (1 - share) / (n + 4)))


def line(each: Aim) -> str:
    """Write one aim for people."""
    mark = {True: "ok    ", False: "MISSED", None: "-     "}[each["ok"]]
    value = "not measured" if each["value"] is None else f"{each['value']:.4g}"
    error = "" if each["mcse"] is None else f" +- {each['mcse']:.2g}"
    bounds = [each["low"], each["high"]]
    low, high = ("" if bound is None else f"{bound:.4g}" for bound in bounds)
    window = f"  aim [{low}, {high}]" if any(bound is not None for bound in bounds) else ""
    repeats = "" if each["n"] is None else f"  n={each['n']}"
    remark = f"  ({each['reason']})" if "reason" in each else ""
    return f"{mark} {each['name']}: {value}{error}{window}{repeats}{remark}"


def finish(aims: Sequence[Aim]) -> int:
    """Print all aims, the JSON list last, and return the exit status: 1 when one was missed, else 0."""
    for each in aims:
        print(line(each))
    print(json.dumps(list(aims), allow_nan=False), flush=True)
    return 1 if any(each["ok"] is False for each in aims) else 0

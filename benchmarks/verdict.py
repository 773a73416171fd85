"""The verdict as a diagnostic test: 28 kinds of faults, what it names first as a remedy, and right calibrations.

    python benchmarks/verdict.py [--quick] [--only KIND ...] [--half seen|unseen] [--seeds N] [--clean N]

Every kind is drawn anew from a seed (`_pathologies.py`), on bases whose measurements, noise and effective degrees of
freedom are stated (`_bases.py`). A fault is *found* when a check that is about it warns or fails. The remedy that the
verdict names first is carried out (`_remedies.py`), and *works* when the fault's checks then pass and means are within
two sds of those without the fault. Whether a fault *moves* an interval is measured: an end of a parameter's 95 %
interval is more than half an sd from that of the same data without the fault. An *oracle* knows the kind of fault and
the true parameters: a likelihood ratio, a sum of squares or the largest residual, at the level .0025. Faults of draws,
runs, units and priors, and those that leave the data without information, have none. Aims:

- faults that move an interval: found, with a remedy that works named first, in at least .95, pooled; printed beside
  without cases that an oracle does not find either, since a smooth misfit can look like other parameters;
- other faults with an oracle: found in at most .05 less than by the oracle, pooled; all with an oracle beside;
- right calibrations, 1000 of them (100 with --quick): at most 5 % with a warning and 1 % with a failure.

Shares are widened by two binomial standard errors. Even seeds are ``seen``, odd ones ``unseen``; both halves are
printed. Draws are exact, but for the funnel, populations and what a remedy samples (`_bases.py` says why), so the false
alarms of the sampler's own statistics are counted in ten problems that are sampled (not with --quick).
"""

import argparse
import collections
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from _bases import moved
from _faults import ORACLE_LEVEL, Case, flags_of
from _pathologies import PATHOLOGIES, clean, clean_study
from _remedies import clears, first_step, off, remedied
from _report import Aim, aim, binomial, finish, line

import uqms as uq
from uqms.calibration import judging

HALF_SD = 0.5
SAMPLERS = ("R-hat", "ESS", "divergences", "energy", "tree depth")


class Found(NamedTuple):
    """Of one case."""

    kind: str
    seed: int
    found: bool
    works: bool
    moved: float
    left: float  # sds between the means with the remedy and without the fault
    oracle: float
    flags: tuple[str, ...]
    step: str


def case_of(kind: str, seed: int) -> Found:
    """Draw a case, judge it, and carry out what is named first."""
    fault = PATHOLOGIES[kind]
    case: Case = fault.draw(seed)
    found = bool(set(case.flags) & set(fault.wanted))
    after, step, works, left = None, "", False, float("nan")
    if found:
        try:
            step, after = remedied(case)
        except uq.errors.UqmsError as error:  # a remedy that cannot be carried out
            step = f"{first_step(case.posterior.verdict) if case.posterior else case.raised} RAISED {error}"
        works = clears(case, after, fault.wanted)
    away = _moved(case, case.posterior)
    left = off(case, after)
    return Found(kind, seed, found, works, away, left, case.oracle, case.flags, step)


def _moved(case: Case, posterior: uq.Posterior | None) -> float:
    if posterior is None or case.reference is None:
        return float("nan")
    names = tuple(name for name in posterior.problem.parameters if name in case.reference)
    return moved(posterior.flat(), case.reference, names)


def faults(kinds: list[str], half: str, count: int) -> list[Found]:
    """Judge `count` cases of every kind, kind by kind within a seed so that an interrupted run has all of them."""
    cases = []
    for i in range(count):
        seed = 2 * (i + 1) + (half == "unseen")
        for kind in kinds:
            if kind in SLOW and i >= max(1, count // 4):
                continue
            start = time.perf_counter()
            one = case_of(kind, seed)
            print(
                f"{half} {kind} {seed}: found {one.found:d}, remedy works {one.works:d}, moved {one.moved:.2f}, after "
                f"it {one.left:.2f}, oracle {one.oracle:.2g}, {time.perf_counter() - start:.0f} s; "
                f"{', '.join(one.flags)}; {one.step[:300]}",
                flush=True,
            )
            cases.append(one)
    return cases


SLOW = ("funnel", "one subject with another simulator")


def table(cases: list[Found]) -> str:
    """Return the table by kind."""
    rows = [
        f"{'kind':36s} {'n':>3s} {'found':>6s} {'works':>6s} {'moves':>6s} {'median':>7s} {'after':>6s} {'oracle':>7s}"
    ]
    for kind in PATHOLOGIES:
        own = [one for one in cases if one.kind == kind]
        if not own:
            continue
        known = [one for one in own if np.isfinite(one.oracle)]
        oracle = f"{np.mean([one.oracle < ORACLE_LEVEL for one in known]):7.2f}" if known else "   none"
        found, works = np.mean([one.found for one in own]), np.mean([one.works for one in own])
        moves = np.mean([one.moved > HALF_SD for one in own])
        far, left = (
            np.nanmedian([getattr(one, name) for one in own] + [np.nan, np.nan][:0]) for name in ("moved", "left")
        )
        rows.append(f"{kind:36s} {len(own):3d} {found:6.2f} {works:6.2f} {moves:6.2f} {far:7.2f} {left:6.2f} {oracle}")
    return "\n".join(rows)


def aims_of(cases: list[Found], half: str) -> list[Aim]:
    """Return the aims of a half."""
    aims = []
    moving = [one for one in cases if one.moved > HALF_SD]
    if n := len(moving):
        share = float(np.mean([one.found and one.works for one in moving]))
        low = 0.95 - 2.0 * float(np.sqrt(0.95 * 0.05 / n))
        aims.append(_share(f"{half}: moving faults found, with a remedy that works named first", share, n, low))
        aims.append(_share(f"{half}: moving faults found", float(np.mean([one.found for one in moving])), n))
        seen = [one for one in moving if not one.oracle >= ORACLE_LEVEL]
        share = float(np.mean([one.found and one.works for one in seen]))
        low = 0.95 - 2.0 * float(np.sqrt(0.95 * 0.05 / max(len(seen), 1)))
        aims.append(
            _share(f"{half}: the same, without cases that an oracle does not find either", share, len(seen), low)
        )
    if not any(not one.moved > HALF_SD and np.isfinite(one.oracle) for one in cases):
        aims.append(aim(f"{half}: other faults, found less often than by an oracle", None, reason="none was drawn"))
    for name, some in (
        ("other faults", [one for one in cases if not one.moved > HALF_SD and np.isfinite(one.oracle)]),
        ("all faults with an oracle", [one for one in cases if np.isfinite(one.oracle)]),
    ):
        if n := len(some):
            less = np.array([float(one.oracle < ORACLE_LEVEL) - one.found for one in some])
            error = float(np.std(less, ddof=1) / np.sqrt(n)) if n > 1 else 1.0
            high = 0.05 + 2.0 * max(error, 0.5 / n) if name == "other faults" else None
            aims.append(
                aim(f"{half}: {name}, found less often than by an oracle", float(less.mean()), None, high, error, n)
            )
    return aims


def _share(name: str, share: float, n: int, low: float | None = None, high: float | None = None) -> Aim:
    return aim(name, share, low=low, high=high, mcse=binomial(share, n), n=n)


@contextmanager
def timed() -> Iterator[dict[str, list[float]]]:
    """Give the seconds of every check of a verdict within the block, by the name of its function."""
    seconds: dict[str, list[float]] = collections.defaultdict(list)

    def clocked(function):  # type: ignore[no-untyped-def]
        def call(*arguments):  # type: ignore[no-untyped-def]
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                seconds[f"{function.__module__.rsplit('.', 1)[-1]}.{function.__name__}"].append(
                    time.perf_counter() - start
                )

        return call

    checks, each = judging.CHECKS, judging.OF_A_SURROGATE
    judging.OF_A_SURROGATE = tuple(clocked(one) for one in each)
    judging.verdict_of.__defaults__ = (tuple(clocked(one) for one in checks),)
    try:
        yield seconds
    finally:
        judging.OF_A_SURROGATE = each
        judging.verdict_of.__defaults__ = (checks,)


def false_alarms(problems: int, half: str) -> list[Aim]:
    """Return the shares of right calibrations that warn and that fail, with false alarms and seconds of every check."""
    found: collections.Counter[str] = collections.Counter()
    warned = failed = 0
    with timed() as seconds:
        for i in range(problems):
            seed = 2 * (i + 1) + (half == "unseen")
            case = clean(seed)
            assert case.posterior is not None
            status = case.posterior.verdict.status
            warned, failed = warned + (status != "pass"), failed + (status == "fail")
            found.update(flags_of(case.posterior))
            if case.flags:
                print(f"clean {seed}: {case.flags}", flush=True)
    print(f"{'false alarms of a check':40s} {'share':>7s}")
    for name, count in found.most_common():
        print(f"{name:40s} {count / problems:7.4f}")
    print(f"{'seconds of a check (mean)':40s}")
    for name, values in sorted(seconds.items(), key=lambda item: -sum(item[1])):
        print(f"{name:40s} {sum(values) / problems:7.4f}")
    aims = []
    for name, count, most in (("warn or fail", warned, 0.05), ("fail", failed, 0.01)):
        high = most + 2.0 * float(np.sqrt(most * (1.0 - most) / problems))
        aims.append(_share(f"{half}: right calibrations that {name}", count / problems, problems, high=high))
    return aims


def false_alarms_of_the_sampler(problems: int, half: str) -> list[Aim]:
    """Return the share of sampled right calibrations that the sampler's checks object to, and what all checks cost.

    The cost is that of all checks over that of the whole calibration, a median.
    """
    name = f"{half}: sampled right calibrations that the sampler's statistics object to"
    cost = f"{half}: seconds of the verdict over those of the calibration"
    if not problems:
        return [aim(one, None, reason="not with --quick") for one in (name, cost)]
    alarms = 0
    shares: list[float] = []
    for i in range(problems):
        seed = 5 * (2 * (i + 1) + (half == "unseen")) + i % 4
        study = clean_study(seed)
        problem = study.fitted().problem()
        sampler = uq.NUTS() if study.runs else uq.SMC()  # a simulator in NumPy has no gradients
        with timed() as seconds:
            start = time.perf_counter()
            posterior = problem.sample(sampler, rng=seed)
            whole = time.perf_counter() - start
        shares.append(sum(map(sum, seconds.values())) / whole)
        alarms += any(flag in SAMPLERS for flag in flags_of(posterior))
    share = _share(name, alarms / problems, problems, high=0.1)
    return [share, aim(cost, float(np.median(shares)), None, 0.25, None, problems)]


def main() -> int:
    """Judge everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 seeds of a kind and 100 right calibrations in all")
    parser.add_argument("--only", nargs="+", choices=[*PATHOLOGIES, "clean", "sampled"], help="some parts")
    parser.add_argument("--half", choices=("seen", "unseen"), help="one half alone")
    parser.add_argument("--seeds", type=int, help="of a kind and half; 10 by default")
    parser.add_argument("--clean", type=int, help="right calibrations of a half; 500 by default")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    seeds = given.seeds or (2 if given.quick else 10)
    problems = given.clean or (50 if given.quick else 500)
    kinds = [kind for kind in PATHOLOGIES if not given.only or kind in given.only]
    aims: list[Aim] = []
    for half in (given.half,) if given.half else ("seen", "unseen"):
        if kinds:
            cases = faults(kinds, half, seeds)
            print(table(cases))
            aims += aims_of(cases, half)
        if not given.only or "clean" in given.only:
            aims += false_alarms(problems, half)
        if not given.only or "sampled" in given.only:
            aims += false_alarms_of_the_sampler(0 if given.quick else 5, half)
        print("\n".join(map(line, aims)), flush=True)
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())

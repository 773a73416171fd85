"""The verdict's confusion table: ten planted pathologies of 20 seeds each, and 100 right calibrations.

    python benchmarks/verdict.py [--quick]

A pathology is caught when its own flag is raised; a right calibration is a false alarm when any check warns or fails
(notes do not count). Aims: at least 95 % caught of each, at most 5 % false alarms. Right calibrations differ in the
number of parameters, runs, measurements, replicates and noise. All but the funnel are judged with exact draws
(`_pathologies.py` says why), so the false alarms of the sampler's own statistics are counted in ten problems that are
sampled (not with --quick). Seeds are 1...k.
"""

import argparse
import collections
import sys
import warnings

from _pathologies import PATHOLOGIES, clean, clean_problem, judged
from _report import Aim, aim, binomial, finish

import uqms as uq


def caught(name: str, seeds: int) -> Aim:
    """Return the share of seeds of a pathology that raise its flag."""
    function, wanted = PATHOLOGIES[name]
    hits = 0
    others: collections.Counter[str] = collections.Counter()
    for seed in range(1, seeds + 1):
        flags = function(seed).flags
        hits += any(flag in wanted for flag in flags)
        others.update(flags)
    print(f"{name}: {dict(others)}", flush=True)
    share = hits / seeds
    return aim(f"{name}: caught by {' or '.join(wanted)}", share, low=0.95, mcse=binomial(share, seeds), n=seeds)


def false_alarms(problems: int) -> Aim:
    """Return the share of right calibrations that any check objects to."""
    found: collections.Counter[str] = collections.Counter()
    alarms = 0
    for seed in range(1, problems + 1):
        flags = clean(seed).flags
        alarms += bool(flags)
        found.update(flags)
        if flags:
            print(f"clean {seed}: {flags}", flush=True)
    share = alarms / problems
    print(f"clean: {dict(found)}", flush=True)
    return aim("false alarms of right calibrations", share, high=0.05, mcse=binomial(share, problems), n=problems)


def false_alarms_of_the_sampler(problems: int) -> Aim:
    """Return the share of sampled right calibrations that the checks of the computation object to."""
    name, ours = "false alarms of sampled right calibrations", ("R-hat", "ESS", "divergences", "energy", "tree depth")
    if not problems:
        return aim(name, None, reason="not with --quick")
    alarms = 0
    for seed in range(1, problems + 1):
        flags = judged(clean_problem(seed).sample(uq.NUTS(), rng=seed)).flags
        alarms += any(flag in ours for flag in flags)
        if flags:
            print(f"sampled {seed}: {flags}", flush=True)
    return aim(name, alarms / problems, high=0.1, mcse=binomial(alarms / problems, problems), n=problems)


def main() -> int:
    """Judge everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer seeds, about two minutes on 2 cores")
    parser.add_argument("--only", choices=[*PATHOLOGIES, "clean", "sampled"], help="one part")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    aims = []
    for name in PATHOLOGIES:
        if arguments.only in (None, name):
            aims.append(caught(name, (2 if name == "funnel" else 5) if arguments.quick else 20))
    if arguments.only in (None, "clean"):
        aims.append(false_alarms(20 if arguments.quick else 100))
    if arguments.only in (None, "sampled"):
        aims.append(false_alarms_of_the_sampler(0 if arguments.quick else 10))
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())

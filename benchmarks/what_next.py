"""What to measure next and what to run next: gains against closed forms, and proposals carried out.

    python benchmarks/what_next.py [--only PART ...] [--quick] [--half seen|unseen] [--cases DIR]

Parts:

- `measurement`: linear-Gaussian problems, in which expected information gains have closed forms; replicates that share
  the surrogate's error; the usual mistakes, planted; seconds for 10 000 candidates.
- `trial`: the Fisher information of the standard one-compartment oral example of the optimal-design literature; gains
  of designs against a closed form, and against the ranking by this information.
- `theophylline`: three sampling times of each of 12 real patients, chosen from the posterior of the 11 others and then
  carried out.
- `runs`: the cost of the next runs until a posterior is as narrow as with the simulator itself, against an equal split:
  two fidelities, a chain, failing runs.
- `waves`: history matching on problems with known answers; with `--cases` the epidemic of `hmer`.
- `level_sets`: runs until a boundary is known, against a space-filling design; coverage of its bands.

Every part prints its aims, and the script ends with one JSON list of all.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from functools import partial

from _report import Aim, finish
from _what_next_level_sets import level_sets
from _what_next_measurement import measurement
from _what_next_runs import runs
from _what_next_theophylline import theophylline
from _what_next_trial import trial
from _what_next_waves import waves

import uqms as uq

# By name: a function of the half of the problems ("seen" or "unseen") and of whether it is to be quick.
PARTS: dict[str, Callable[[str, bool], list[Aim]]] = {
    "measurement": measurement,
    "trial": trial,
    "theophylline": theophylline,
    "runs": runs,
    "waves": waves,
    "level_sets": level_sets,
}


def main() -> int:
    """Run the parts and print the aims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--half", choices=["seen", "unseen"], default="unseen")
    parser.add_argument("--cases", help="folder with reference cases, for parts that read one")
    given = parser.parse_args()
    warnings.simplefilter("ignore", uq.errors.UqmsWarning)
    aims: list[Aim] = []
    for part in given.only:
        with_cases = partial(waves, cases=given.cases) if part == "waves" else PARTS[part]
        aims += with_cases(given.half, given.quick)
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())

"""The command line, ``uqms``: what is in a run store, is it intact, out of it, away with it.

Exit status: 0 when all is well, 1 when a check failed, 2 when something cannot be done (one line on standard error says
what and why).
"""

import argparse
import os
import sys
from collections.abc import Sequence

from uqms import __version__
from uqms.cli import _runs
from uqms.errors import UqmsError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        Words of the command without its name; those of this process by default.

    Returns
    -------
    int
        The exit status.

    Examples
    --------
    >>> main(["runs", "list", "/nowhere/flu.db"])
    2
    """
    parser = argparse.ArgumentParser(prog="uqms", description="Uncertainty quantification: care for stored runs.")
    parser.add_argument("--version", action="version", version=f"uqms {__version__}")
    rooms = parser.add_subparsers(metavar="COMMAND", required=True)
    _runs.add(rooms)
    given = parser.parse_args(argv)
    try:
        status = int(given.do(given))
        sys.stdout.flush()
    except UqmsError as error:
        print(f"uqms: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, `head` for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    return status

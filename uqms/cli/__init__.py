"""The command ``uqms``: studies in one file, from a template to the report; and the runs of a run store.

The exit status is 0 on success, 1 when a check failed, and 2 when something cannot be done. In the last case one line
on standard error states the reason.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from uqms import __version__
from uqms.cli import _runs, _study
from uqms.errors import UqmsError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        The arguments of the command without its name; by default the arguments of this process.

    Returns
    -------
    int
        The exit status.

    Examples
    --------
    >>> main(["runs", "list", "/nowhere/flu.db"])
    2
    """
    parser = argparse.ArgumentParser(prog="uqms", description="Studies in one file, and stored runs.")
    parser.add_argument("--version", action="version", version=f"uqms {__version__}")
    rooms = parser.add_subparsers(metavar="COMMAND", required=True)
    _study.add(rooms)
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
    except BrokenPipeError:  # the reader of the output, for example `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    return status

"""The commands ``uqms runs ...``, which work on a run store. Each imports other modules only when it is called."""

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

from uqms.cli._table import as_json, as_text
from uqms.errors import FormatError, FormatVersionError, InputError, IntegrityError, StorageError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    import pandas as pd

__all__ = ["add"]

_CAMPAIGN = "name of the simulator, or beginning of the campaign's id; needed if the store has several campaigns"


def add(rooms: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to the parser."""
    room = rooms.add_parser(
        "runs", help="commands for run stores", description="List, show, export, check, remove and salvage stored runs."
    )
    commands = room.add_subparsers(metavar="COMMAND", required=True)
    _add_looking(commands)
    _add_care(commands)


def _command(commands: Any, name: str, do: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("store", metavar="STORE", help="path of the run store")
    parser.set_defaults(do=do)
    return parser


def _add_looking(commands: Any) -> None:
    parser = _command(commands, "list", _list, "list the campaigns with the number of runs by state")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser = _command(commands, "show", _show, "show the runs of a campaign")
    parser.add_argument("--campaign", metavar="C", help=_CAMPAIGN)
    parser.add_argument("--state", metavar="S", action="append", help="only runs in this state, such as failed")
    parser.add_argument("--limit", metavar="N", type=int, default=50, help="show at most N runs (50), or 0 for all")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser = _command(commands, "export", _export, "write the runs of a campaign to a netCDF file or a CSV table")
    parser.add_argument("target", metavar="OUT", help="path of the new file, which must end in .nc or .csv")
    parser.add_argument("--campaign", metavar="C", help=_CAMPAIGN)


def _add_care(commands: Any) -> None:
    parser = _command(commands, "check", _check, "recompute every hash; the exit status is 1 if something is damaged")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser = _command(commands, "invalidate", _invalidate, "remove runs, so that they run again")
    parser.add_argument("--campaign", metavar="C", help="only this campaign: simulator's name, or beginning of its id")
    parser.add_argument("--state", metavar="S", action="append", help="only runs in this state, such as failed")
    parser.add_argument(
        "--where", metavar="INPUT=LOW:HIGH", action="append", help="only runs with this input from LOW to HIGH"
    )
    parser.add_argument("--before", metavar="DATE", help="only runs that ended before DATE, such as 2026-01-31T12:00")
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("--dry-run", action="store_true", help="print the number of runs, but do not remove them")
    either.add_argument("--yes", action="store_true", help="remove the runs")
    parser = _command(commands, "salvage", _salvage, "write the undamaged runs of a damaged store to a new store")
    parser.add_argument("target", metavar="NEW", help="path of the new store, which must not exist")


# ------------------------------------------------------------------------------------------------------------- looking
def _list(given: argparse.Namespace) -> int:
    from uqms.runs import RunStore

    with RunStore(given.store, readonly=True) as store:
        table = store.campaigns()
    if given.json:
        rows = as_json(table)
        print(json.dumps([{**row, **{k: json.loads(row[k]) for k in ("versions", "identity")}} for row in rows]))
        return 0
    names = list(table.columns)
    states = names[names.index("runs") + 1 : names.index("seconds")]
    shown = table.assign(campaign=table["campaign"].str[:12])
    quiet = [name for name in states if not table[name].any()]  # columns of states in which no run ended
    levels = [] if table["fidelity"].any() else ["fidelity"]
    print(as_text(shown.drop(columns=[*quiet, *levels, "created", "versions", "identity"])))
    return 0


def _show(given: argparse.Namespace) -> int:
    from uqms.runs import RunStore

    if given.limit < 0:
        raise InputError(f"--limit is {given.limit}; give a whole number of at least 0, where 0 shows all runs.")
    with RunStore(given.store, readonly=True) as store:
        table = store.runs(given.campaign)
    if given.state:
        from uqms.runs.selection import state_names

        table = table[table["state"].isin(state_names(given.state))]
    few = table[: given.limit or None]
    if given.json:
        print(json.dumps(as_json(few)))
        return 0
    print(as_text(_brief(few)))
    if len(few) < len(table):
        print(f"... and {len(table) - len(few)} more; show all with --limit 0")
    return 0


def _brief(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return the columns that are not trivial, with the message last, where it may be cut."""
    drop = ["message"]
    drop += ["seed", "replicate"] if table["seed"].isna().all() else []
    drop += ["attempts"] if (table["attempts"] == 1).all() else []
    brief = table.drop(columns=drop).assign(
        key=table["key"].str[:12], ended=table["ended"].dt.strftime("%Y-%m-%d %H:%M:%S"), message=table["message"]
    )
    return brief if table["message"].any() else brief.drop(columns="message")


def _export(given: argparse.Namespace) -> int:
    from uqms.runs import RunStore

    with RunStore(given.store, readonly=True) as store:
        store.export(given.target, given.campaign)
    return 0


# ---------------------------------------------------------------------------------------------------------------- care
def _check(given: argparse.Namespace) -> int:
    from uqms.runs import RunStore

    words = ""
    runs = campaigns = 0
    try:
        with RunStore(given.store, readonly=True) as store:
            store.integrity_check()
            runs, campaigns = len(store), len(store.campaigns())
    except FormatVersionError:
        raise
    except (IntegrityError, FormatError) as error:
        words = " ".join(str(error).split())
    if given.json:
        print(json.dumps({"ok": not words, "runs": runs, "campaigns": campaigns, "message": words}))
    else:
        print(words or f"ok: {runs} runs of {campaigns} campaign{'s' * (campaigns != 1)}, all hashes match")
    return 1 if words else 0


def _invalidate(given: argparse.Namespace) -> int:
    from uqms.runs import RunStore

    where = dict(map(_range, given.where or []))
    if len(where) != len(given.where or []):
        raise InputError(
            "--where names an input twice; give one range per input, and repeat the command for each further range."
        )
    if not os.path.isfile(given.store):  # opening a store for writing would create the file
        raise StorageError(f"there is no file {given.store}; check the path.")
    with RunStore(given.store, readonly=given.dry_run) as store:
        count = store.invalidate(
            given.campaign, state=given.state, where=where or None, before=given.before, dry_run=given.dry_run
        )
    print(f"{count} run{'s' * (count != 1)} {'would be ' * given.dry_run}removed")
    return 0


def _range(text: str) -> tuple[str, tuple[float, float]]:
    name, _, ends = text.partition("=")
    low, _, high = ends.partition(":")
    try:
        return name.strip(), (float(low), float(high))
    except ValueError:
        raise InputError(f"--where is {text!r}; give an input and the ends of a range, such as beta=0.1:0.3.") from None


def _salvage(given: argparse.Namespace) -> int:
    from pathlib import Path

    from uqms.runs.care import salvage

    count = salvage(Path(given.store), Path(given.target))
    print(f"{count} run{'s' * (count != 1)} saved in {given.target}")
    return 0

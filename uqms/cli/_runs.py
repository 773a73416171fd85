"""``uqms runs``: the commands over a run store. What they need of the library is imported when one is called."""

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

_CAMPAIGN = "the simulator's name, or the beginning of the campaign's id; needed when there are several"


def add(rooms: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to the parser."""
    room = rooms.add_parser("runs", help="what is in a run store", description="Look into a run store and care for it.")
    commands = room.add_subparsers(metavar="COMMAND", required=True)
    _add_looking(commands)
    _add_care(commands)


def _command(commands: Any, name: str, do: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("store", metavar="STORE", help="path of the run store")
    parser.set_defaults(do=do)
    return parser


def _add_looking(commands: Any) -> None:
    parser = _command(commands, "list", _list, "list the campaigns and how their runs ended")
    parser.add_argument("--json", action="store_true", help="print JSON, one list")
    parser = _command(commands, "show", _show, "show the runs of a campaign")
    parser.add_argument("--campaign", metavar="C", help=_CAMPAIGN)
    parser.add_argument("--state", metavar="S", action="append", help="only runs in this state, such as failed")
    parser.add_argument("--limit", metavar="N", type=int, default=50, help="at most so many runs, 0 for all (50)")
    parser.add_argument("--json", action="store_true", help="print JSON, one list")
    parser = _command(commands, "export", _export, "write the runs of a campaign to a netCDF file or a CSV table")
    parser.add_argument("target", metavar="OUT", help="path of the file, which ends in .nc or .csv")
    parser.add_argument("--campaign", metavar="C", help=_CAMPAIGN)


def _add_care(commands: Any) -> None:
    parser = _command(commands, "check", _check, "compute every hash again; exit status 1 when something is damaged")
    parser.add_argument("--json", action="store_true", help="print JSON, one object")
    parser = _command(commands, "invalidate", _invalidate, "remove runs, so that they run again")
    parser.add_argument("--campaign", metavar="C", help="only of this campaign (simulator's name or begin of its id)")
    parser.add_argument("--state", metavar="S", action="append", help="only runs in this state, such as failed")
    parser.add_argument(
        "--where", metavar="INPUT=LOW:HIGH", action="append", help="only runs with this input between both, inclusive"
    )
    parser.add_argument("--before", metavar="DATE", help="only runs that ended before, such as 2026-01-31T12:00")
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("--dry-run", action="store_true", help="say how many, remove nothing")
    either.add_argument("--yes", action="store_true", help="do it")
    parser = _command(commands, "salvage", _salvage, "write what is well in a damaged store to a new one")
    parser.add_argument("target", metavar="NEW", help="path of the new store")


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
    quiet = [name for name in states if not table[name].any()]  # states in which no run ended
    levels = [] if table["fidelity"].any() else ["fidelity"]
    print(as_text(shown.drop(columns=[*quiet, *levels, "created", "versions", "identity"])))
    return 0


def _show(given: argparse.Namespace) -> int:
    from uqms.runs import RunStore

    if given.limit < 0:
        raise InputError(f"--limit is {given.limit}; give a whole number, 0 for all.")
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
        print(f"... {len(table) - len(few)} more, see --limit")
    return 0


def _brief(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return the columns that say something, the message last, where it may be cut."""
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
        print(words or f"ok: {runs} runs of {campaigns} campaign{'s' * (campaigns != 1)}, every hash as written")
    return 1 if words else 0


def _invalidate(given: argparse.Namespace) -> int:
    from uqms.runs import RunStore

    where = dict(map(_range, given.where or []))
    if len(where) != len(given.where or []):
        raise InputError("--where names an input twice; give one range for each, in one call after the other.")
    if not os.path.isfile(given.store):  # which opening it for writing would make
        raise StorageError(f"{given.store} is not there, or is no file; check the path.")
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
        raise InputError(f"--where is {text!r}; give an input and both ends, such as beta=0.1:0.3.") from None


def _salvage(given: argparse.Namespace) -> int:
    from pathlib import Path

    from uqms.runs.care import salvage

    count = salvage(Path(given.store), Path(given.target))
    print(f"{count} run{'s' * (count != 1)} saved in {given.target}")
    return 0

"""Tables of the campaigns and runs in a run store, and the selection of campaigns and runs by name and condition."""

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from uqms._typing import Bools
from uqms.ensemble import RunState
from uqms.ensemble.states import state_of
from uqms.errors import InputError
from uqms.runs.connection import told
from uqms.runs.format import Stored
from uqms.runs.reading import Index, read_campaigns, read_index

__all__ = [
    "States",
    "Where",
    "campaigns_table",
    "choose_campaign",
    "choose_runs",
    "runs_table",
    "state_names",
]

States = RunState | str | int
_PREFIX = 6  # characters of an id that are enough to select a campaign
_OWN = ("key", "attempts", "ended")  # columns of the table of runs whose names an input may have too
Where = Mapping[str, tuple[float, float]]


# -------------------------------------------------------------------------------------------------------------- tables
def campaigns_table(db: sqlite3.Connection, path: Path) -> pd.DataFrame:
    """Return a table with one row per campaign: its simulator, the number of runs by state, and their seconds."""
    rows = []
    for known in read_campaigns(db, path):
        query = f"SELECT state, count(*), total(seconds), max(ended) FROM runs WHERE campaign = {known.number}"
        with told(path):
            found = db.execute(f"{query} GROUP BY state").fetchall()
        counts = {state: count for state, count, _, _ in found}
        rows.append(
            {
                "campaign": known.id,
                "simulator": known.name,
                "fidelity": known.fidelity,
                "inputs": ", ".join(known.inputs),
                "outputs": ", ".join(known.layout.outputs),
                "runs": sum(counts.values()),
                **{s.value: counts.get(s.code, 0) for s in RunState if s != RunState.PLANNED},
                "seconds": sum(seconds for _, _, seconds, _ in found),
                "created": known.created,
                "last": max((last for *_, last in found), default=""),
                "versions": known.versions,
                "identity": known.identity,
            }
        )
    names = ["campaign", "simulator", "fidelity", "inputs", "outputs", "runs"]
    names += [s.value for s in RunState if s != RunState.PLANNED]
    return pd.DataFrame(rows, columns=[*names, "seconds", "created", "last", "versions", "identity"])


def runs_table(known: Stored, index: Index) -> pd.DataFrame:
    """Return a table with one row per run, without outputs."""
    seeds = [pd.NA] * len(index.keys) if index.seeds is None else index.seeds
    return pd.DataFrame(
        {
            "key": [key.hex() for key in index.keys],
            **{f"{name} (input)" if name in _OWN else name: x for name, x in zip(known.inputs, index.x.T, strict=True)},
            "state": [state_of(state).value for state in index.states],
            "seconds": index.seconds,
            "message": index.messages,
            "attempts": index.attempts,
            "replicate": index.replicates,
            "seed": pd.array(seeds, dtype="Int64"),
            "ended": pd.to_datetime(index.ended, utc=True, format="ISO8601"),
        }
    )


# -------------------------------------------------------------------------------------------------------------- choices
def _filled(db: sqlite3.Connection, path: Path) -> list[Stored]:
    """Return the campaigns that have runs."""
    with told(path):
        filled = {row[0] for row in db.execute("SELECT DISTINCT campaign FROM runs")}
    known = [each for each in read_campaigns(db, path) if each.number in filled]
    if not known:
        raise InputError(f"{path} holds no runs; call uq.run(simulator, design, store={str(path)!r}) first.")
    return known


def choose_campaign(db: sqlite3.Connection, path: Path, campaign: str | None) -> Stored:
    """Return the campaign whose simulator has this name, or else the campaign whose id begins with it.

    Raises
    ------
    InputError
        When no campaign or several campaigns match; the message lists the campaigns.
    """
    found = known = _filled(db, path)
    if campaign is not None:
        found = [each for each in known if each.name == campaign]
        if not found and len(campaign) >= _PREFIX:
            found = [each for each in known if each.id.startswith(campaign)]
    if not found:
        raise InputError(
            f"{path} has no campaign {campaign!r}; give the name of a simulator, or at least {_PREFIX} characters of "
            f"the beginning of a campaign's id. {_listed(known)}."
        )
    if len(found) > 1:
        raise InputError(
            f"{path} holds several campaigns to choose from; give the name of a simulator, or at least {_PREFIX} "
            f"characters of the beginning of a campaign's id. {_listed(found)}."
        )
    return found[0]


def _listed(known: Sequence[Stored]) -> str:
    return f"The campaign{'s are' if len(known) > 1 else ' is'} {'; '.join(map(str, known))}"


def choose_runs(
    db: sqlite3.Connection,
    path: Path,
    campaign: str | None,
    state: States | Iterable[States] | None,
    where: Where | None,
    before: datetime | str | None,
    keys: Iterable[str | bytes] | None,
) -> list[bytes]:
    """Return the keys of the runs that match all conditions; see `RunStore.invalidate`."""
    known = _filled(db, path) if campaign is None else [choose_campaign(db, path, campaign)]
    if campaign is None and all(each is None for each in (state, where, before, keys)):
        raise InputError(
            f"no condition selects the runs of {path} to remove; give state=, where=, before= or keys=. To remove all "
            "runs of a campaign, give campaign=."
        )
    where = {} if where is None else where
    for name in where:
        if not any(name in each.inputs for each in known):
            names = sorted({i for each in known for i in each.inputs})
            raise InputError(f"where has {name!r}, which is not an input; the inputs are {', '.join(names)}.")
    states = None if state is None else _states(state)
    wanted = None if keys is None else {_key(key) for key in keys}
    limit = None if before is None else _moment(before)
    found: list[bytes] = []
    for each in known:
        if all(name in each.inputs for name in where):
            index = read_index(db, path, each)
            chosen = np.flatnonzero(_fitting(each, index, states, where, limit, wanted))
            found += [index.keys[i] for i in chosen]
    return found


def _fitting(
    known: Stored,
    index: Index,
    states: Collection[int] | None,
    where: Where,
    limit: str | None,
    wanted: Collection[bytes] | None,
) -> Bools:
    fits = np.ones(len(index.keys), dtype=np.bool_)
    if states is not None:
        fits &= np.isin(index.states, list(states))
    for name, bounds in where.items():
        low, high = _bounds(name, bounds)
        column = index.x[:, known.inputs.index(name)]
        fits &= (low <= column) & (column <= high)
    if limit is not None:
        fits &= np.array([ended < limit for ended in index.ended], dtype=np.bool_)
    if wanted is not None:
        fits &= np.array([key in wanted for key in index.keys], dtype=np.bool_)
    return fits


def _bounds(name: str, given: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = map(float, given)
    except (TypeError, ValueError):
        low, high = 1.0, 0.0
    if not low <= high:
        raise InputError(
            f"where has {name!r}: {given!r}; give a range (low, high) with low <= high, which includes both ends."
        )
    return low, high


def _states(given: States | Iterable[States]) -> set[int]:
    try:
        each = [given] if isinstance(given, str | int) else list(given)
        return {state_of(s).code for s in each}
    except (ValueError, TypeError) as error:
        words = ", ".join(RunState)
        raise InputError(f"state is {given!r}; give one or several of {words}.") from error


def state_names(given: States | Iterable[States]) -> list[str]:
    """Return the names of states, given as names, codes or `RunState` values.

    Raises
    ------
    InputError
        When a value is not a state.
    """
    return [state_of(state).value for state in sorted(_states(given))]


def _key(given: str | bytes) -> bytes:
    try:
        key = bytes.fromhex(given) if isinstance(given, str) else given
    except ValueError:
        key = b""
    if not isinstance(key, bytes) or len(key) != 32:
        raise InputError(
            f"keys has {given!r}; give keys of 64 hexadecimal digits, from the column 'key' of RunStore(path).runs()."
        )
    return key


def _moment(given: datetime | str) -> str:
    """Return a time in the format of the store; a time without a zone is in the time zone of this computer."""
    try:
        moment = datetime.fromisoformat(given) if isinstance(given, str) else given
        return moment.astimezone(UTC).isoformat(timespec="milliseconds")
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"before is {given!r}; give a datetime, or a text such as '2026-01-31' or '2026-01-31T12:00'."
        ) from error

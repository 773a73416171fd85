"""From a table of doses and measurements, as NONMEM and nlmixr2 read it, to regimens and measured rows.

Every row is checked before any is used. An error names the row by its label in the table's index. Roles of columns have
the names of the arguments of `Observations.from_events`; messages add the usual name of the column (AMT, EVID, ...).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, NoReturn, final

import numpy as np
import pandas as pd

from uqms import _checks as check
from uqms._typing import Array, Bools, Ints
from uqms.errors import DataError, InputError
from uqms.parameters import Regimen
from uqms.surrogates.protocol import Surrogate

__all__ = ["EventTable", "Events", "How", "conditions_of_runs", "read_events", "regular", "usual_regimen"]

type How = Literal["first", "last", "mean", "median"]

EMPTY = frozenset({"", ".", "na", "nan"})  # what tables hold where there is no number
EARLIER = 1e-6  # of a time, or of 1: how much before a dose a measurement counts that was taken just before it
SAME = 1e-9  # relative difference of equal times
HOWS = ("first", "last", "mean", "median")
DOSES = 100_000  # of one row


@final
@dataclass(frozen=True)
class EventTable:
    """Names of the columns of a table of events, None where there is no such column."""

    id: str
    time: str
    value: str
    amount: str
    rate: str | None = None
    duration: str | None = None
    event: str | None = None
    missing: str | None = None
    additional: str | None = None
    interval: str | None = None
    steady_state: str | None = None
    route: str | None = None
    censored: str | None = None
    limit: str | float | None = None
    sd: str | None = None
    replicate: str | None = None
    experiment: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All columns that are named."""
        return tuple(one for one in vars(self).values() if isinstance(one, str))


class Events(NamedTuple):
    """What a table of events holds.

    Attributes
    ----------
    rows
        Places (R,) of the measured rows in the table.
    subject
        Label of each measured row, (R,).
    time, value, sd
        Of each measured row, (R,); times just before a dose are a little earlier, sd is NaN where it is not known.
    censored
        "left", "right" or "" of each measured row, (R,); None where there is no limit.
    replicate
        Number of each measured row; None without such a column.
    experiment
        Label of each measured row, "" without such a column.
    regimens
        Doses of each subject, by label.
    conditions
        Known inputs of each measured row, by name.
    covariates
        One row a subject; None without covariates.
    """

    rows: Ints
    subject: np.ndarray
    time: Array
    value: Array
    sd: Array
    censored: np.ndarray | None
    replicate: Ints | None
    experiment: np.ndarray
    regimens: dict[str, Regimen]
    conditions: dict[str, Array]
    covariates: pd.DataFrame | None


class _Table:
    """A table of events with its numbers, and errors that name a row."""

    def __init__(self, frame: pd.DataFrame, columns: EventTable) -> None:
        self.frame, self.columns, self.size = frame, columns, len(frame)

    def row(self, place: int) -> str:
        """Return the words for a row."""
        label = self.frame.index[place]
        return f"row {label.item() if isinstance(label, np.generic) else label!r}"

    def refuse(self, wrong: Bools | Ints, what: str, advice: str) -> None:
        """Raise for the first of the wrong rows.

        Raises
        ------
        DataError
            When there is one.
        """
        places = np.flatnonzero(wrong) if np.asarray(wrong).dtype == np.bool_ else np.asarray(wrong)
        if len(places):
            more = f" ({len(places)} such rows)" if len(places) > 1 else ""
            raise DataError(f"from_events: {self.row(int(places[0]))}: {what}{more}. {advice}")

    def numbers(self, column: str) -> Array:
        """Return a column as floats, NaN where it is empty or holds a dot.

        Raises
        ------
        DataError
            When it holds other text, dates, or an infinite number.
        """
        series = self.frame[column]
        if series.dtype.kind in "mMc":
            self._not_numbers(column, 0)
        given = series.to_numpy(dtype=object, na_value=np.nan)
        out = np.full(self.size, np.nan)
        for i, one in enumerate(given):
            if isinstance(one, str) and one.strip().lower() in EMPTY:
                continue
            try:
                out[i] = float(one)
            except (TypeError, ValueError):
                self._not_numbers(column, i)
        self.refuse(np.isinf(out), f"column {column!r} is infinite", "Correct it, or leave the field empty.")
        return out

    def _not_numbers(self, column: str, place: int) -> NoReturn:
        value = self.frame[column].iloc[place] if self.size else ""
        if column == self.columns.event:
            raise DataError(
                f"from_events: {self.row(place)}: the event (EVID) is {str(value)!r}; give 0 for a measurement, 1 for "
                "a dose, 2 for a row to leave out, 3 for a reset, 4 for a reset and a dose."
            )
        raise DataError(
            f"from_events: {self.row(place)}: column {column!r} holds {str(value)!r}, which is no number. Convert it, "
            "clock times to hours since the first dose for instance; empty fields and '.' are read as missing."
        )

    def optional(self, column: str | None) -> Array:
        """Return a column as floats, NaN everywhere where there is no such column."""
        return np.full(self.size, np.nan) if column is None else self.numbers(column)


def read_events(
    table: pd.DataFrame,
    columns: EventTable,
    *,
    conditions: Mapping[str, str],
    covariates: Iterable[str],
    varying: Mapping[str, How],
    routes: Mapping[object, str],
) -> Events:
    """Return the regimens and measured rows of a table of events; see `Observations.from_events`.

    Raises
    ------
    InputError
        When columns are missing or settings cannot be read.
    DataError
        When a row cannot be meant; the message names it.
    """
    covariates = tuple(covariates)
    _check_columns(table, columns, conditions, covariates, varying)
    whole = _Table(table, columns)
    subject = _labels(whole, columns.id)
    time = _times(whole, subject)
    dose, measured = _kinds(whole)
    value, censored = _values(whole, dose, measured)
    sd = whole.optional(columns.sd)
    if columns.sd is not None:
        whole.refuse(measured & ~(sd > 0.0), f"the sd {columns.sd!r} is not positive", "Give one above 0.")
    replicate = None if columns.replicate is None else pd.factorize(_labels(whole, columns.replicate))[0]
    _check_duplicates(whole, subject, time, measured, replicate)
    regimens, earlier = _regimens(whole, subject, time, dose, measured, routes)
    named = {name: _constant(whole, subject, column, varying) for name, column in conditions.items()}
    rows = np.flatnonzero(measured)
    at = np.where(earlier, time - EARLIER * np.maximum(1.0, np.abs(time)), time)
    subjects = list(dict.fromkeys(subject.tolist()))
    first = np.array([np.flatnonzero(subject == one)[0] for one in subjects], dtype=np.int64)
    of_subject = {name: _constant(whole, subject, name, varying)[first] for name in covariates}
    return Events(
        rows=rows,
        subject=subject[rows],
        time=at[rows],
        value=value[rows],
        sd=sd[rows],
        censored=None if censored is None else censored[rows],
        replicate=None if replicate is None else replicate[rows].astype(np.int64),
        experiment=np.full(len(rows), "") if columns.experiment is None else _labels(whole, columns.experiment)[rows],
        regimens=regimens,
        conditions={name: column[rows] for name, column in named.items()},
        covariates=pd.DataFrame(of_subject, index=pd.Index(subjects, name=columns.id)) if covariates else None,
    )


def _check_columns(
    table: object,
    columns: EventTable,
    conditions: Mapping[str, str],
    covariates: tuple[str, ...],
    varying: Mapping[str, How],
) -> None:
    if not isinstance(table, pd.DataFrame):
        raise InputError(
            f"from_events: table is a {type(table).__name__}; give a pandas DataFrame, e.g. pandas.read_csv(path)."
        )
    wanted = [*columns.names, *conditions.values(), *covariates]
    absent = [column for column in dict.fromkeys(wanted) if column not in table.columns]
    if absent:
        raise InputError(f"from_events: columns {absent} are not in the table; it has {list(table.columns)}.")
    twice = [column for column in wanted if list(table.columns).count(column) > 1]
    if twice:
        raise InputError(f"from_events: the table has more than one column {twice[0]!r}. Rename or drop one.")
    if not len(table):
        raise DataError("from_events: the table has no rows.")
    unknown = [name for name in varying if name not in {*conditions.values(), *covariates}]
    wrong = [name for name, how in varying.items() if how not in HOWS]
    if unknown or wrong:
        raise InputError(
            f"from_events: varying is {dict(varying)!r}; give for columns of conditions or covariates one of "
            f"{', '.join(map(repr, HOWS))}."
        )
    limit = columns.limit
    if limit is not None and not isinstance(limit, str) and not check.is_number(limit):
        raise InputError(f"from_events: limit is {limit!r}; give a number, or the name of a column.")
    for role, other in (("additional", "interval"), ("steady_state", "interval")):
        if getattr(columns, role) is not None and getattr(columns, other) is None:
            raise InputError(f"from_events: {role}= needs {other}=, the column with the interval between doses (II).")


def _labels(whole: _Table, column: str) -> np.ndarray:
    """Return labels as text: 1.0 is "1"."""
    series = whole.frame[column]
    absent = series.isna().to_numpy() | np.array([str(one).strip() in ("", ".") for one in series])
    whole.refuse(absent, f"column {column!r} has no label", "Fill it in, or leave the row out.")
    return np.array([_label(one) for one in series], dtype=np.str_)


def _label(value: object) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _times(whole: _Table, subject: np.ndarray) -> Array:
    time = whole.numbers(whole.columns.time)
    whole.refuse(np.isnan(time), "there is no time", "Fill it in, or leave the row out.")
    whole.refuse(time < 0.0, f"the time {_first(time, time < 0.0)} is negative", "Count time from the first event.")
    changes = np.flatnonzero(subject[1:] != subject[:-1]) + 1
    starts = np.concatenate([[0], changes])
    seen: set[str] = set()
    for place in starts:
        label = str(subject[place])
        if label in seen:
            whole.refuse(
                np.array([place]),
                f"subject {label!r} begins again after rows of another",
                "Sort the table by subject and time; give two subjects two labels.",
            )
        seen.add(label)
    back = np.zeros(whole.size, dtype=np.bool_)
    back[1:] = (subject[1:] == subject[:-1]) & (time[1:] < time[:-1])
    if back.any():
        place = int(np.flatnonzero(back)[0])
        whole.refuse(
            back,
            f"time goes back from {time[place - 1]:g} to {time[place]:g} within subject {str(subject[place])!r}",
            "Sort the rows of a subject by time, the measurement before the dose where both are at one time.",
        )
    return time


def _first(values: Array, wrong: Bools) -> str:
    return f"{values[wrong][0]:g}" if wrong.any() else ""


def _kinds(whole: _Table) -> tuple[Bools, Bools]:
    """Return which rows are doses, and which are measurements."""
    columns = whole.columns
    amount, value, event = (
        whole.numbers(columns.amount),
        whole.numbers(columns.value),
        whole.optional(columns.event),
    )
    whole.refuse(
        amount < 0.0, f"the amount (AMT) {_first(amount, amount < 0.0)} is negative", "Give the amount of the dose."
    )
    given = np.nan_to_num(amount) > 0.0
    if columns.event is None:
        dose = given
        ignored = np.zeros(whole.size, dtype=np.bool_)
    else:
        known = np.isin(event, [0.0, 1.0, 2.0, 3.0, 4.0])
        whole.refuse(
            ~known,
            f"the event (EVID) is {_first(event, ~known)}",
            "Known are 0 (measurement), 1 (dose), 2 (other, which is left out), 3 (reset) and 4 (reset and dose).",
        )
        dose, ignored = np.isin(event, [1.0, 4.0]), np.isin(event, [2.0, 3.0])
        whole.refuse(
            dose & ~given,
            f"the event (EVID) is {_first(event, dose & ~given)}, a dose, but there is no amount (AMT)",
            "Fill in the amount; a dose that was not taken is no row.",
        )
        whole.refuse(
            (event == 0.0) & given,
            f"a measurement (EVID 0) has the amount {_first(amount, (event == 0.0) & given)}",
            "Make two rows of it, the measurement (EVID 0) without an amount and the dose (EVID 1).",
        )
        whole.refuse(
            ignored & given,
            f"an event of another kind (EVID {_first(event, ignored & given)}) has an amount",
            "A dose has EVID 1, or 4 with a reset; clear the amount.",
        )
    filled = np.isfinite(value) & (value != 0.0)
    whole.refuse(
        dose & filled,
        f"a dose has the value {_first(value, dose & filled)}",
        "Make two rows of it: the measurement without an amount, and the dose without a value.",
    )
    flag = np.nan_to_num(whole.optional(columns.missing))
    odd = ~np.isin(flag, [0.0, 1.0])
    whole.refuse(odd, f"the flag of a missing value (MDV) is {_first(flag, odd)}", "Give 0 or 1.")
    absent = flag == 1.0
    whole.refuse(
        absent & ~dose & ~ignored & filled,
        f"the value is marked as missing (MDV 1) but is {_first(value, absent & ~dose & ~ignored & filled)}",
        "Set MDV to 0 to use the value, or clear it to leave it out.",
    )
    return dose, ~dose & ~ignored & ~absent


def _values(whole: _Table, dose: Bools, measured: Bools) -> tuple[Array, np.ndarray | None]:
    """Return the values, or their limits, and on which side of these they are."""
    columns = whole.columns
    value = whole.numbers(columns.value)
    if columns.limit is None or isinstance(columns.limit, str):
        limit = whole.optional(columns.limit)
    else:
        limit = np.full(whole.size, float(columns.limit))
    side = np.full(whole.size, "", dtype="<U5")
    if columns.censored is not None:
        side = _sides(whole, columns.censored)
        whole.refuse(dose & (side != ""), "a dose is marked as censored (CENS)", "Clear it; only values have one.")
        lost = measured & (side != "") & np.isnan(value) & np.isnan(limit)
        whole.refuse(
            lost,
            "the value is censored (CENS) but its limit is not known",
            "Write the limit of quantification in the column of the value, or give limit=.",
        )
        value = np.where((side != "") & np.isfinite(limit), limit, value)
    elif columns.limit is not None:
        side[measured & (value < limit)] = "left"
        value = np.where(measured & (value < limit), limit, value)
    whole.refuse(
        measured & np.isnan(value),
        "there is neither a dose nor a value",
        "Fill in the value; mark it as missing (MDV 1), or leave the row out.",
    )
    known = columns.censored is not None or columns.limit is not None
    return value, side if known and (side[measured] != "").any() else None


def _sides(whole: _Table, column: str) -> np.ndarray:
    """Return "left", "right" or "" of a column of flags: 1, -1 and 0 as of CENS, or the words."""
    words = {"1": "left", "-1": "right", "0": "", "left": "left", "right": "right", **dict.fromkeys(EMPTY, "")}
    given = [_label(one).lower() for one in whole.frame[column].astype(object)]
    odd = np.array([one not in words for one in given])
    said = given[int(np.flatnonzero(odd)[0])] if odd.any() else ""
    whole.refuse(
        odd,
        f"the flag of censoring (CENS) is {said!r}",
        "Give 1 or 'left' (below the limit), -1 or 'right' (above it), 0 or nothing.",
    )
    return np.array([words.get(one, "") for one in given], dtype="<U5")


def _check_duplicates(
    whole: _Table, subject: np.ndarray, time: Array, measured: Bools, replicate: "np.ndarray | None"
) -> None:
    frame = pd.DataFrame({"subject": subject, "time": time})
    # Two values at one time are two when a dose is between them: before and after it.
    frame["block"] = np.cumsum(~measured)
    frame["replicate"] = 0 if replicate is None else replicate
    rows = np.flatnonzero(measured)
    again = frame.iloc[rows].duplicated().to_numpy()
    whole.refuse(
        rows[again],
        f"subject {str(subject[rows[again]][0])!r} has two values at the time {time[rows[again]][0]:g}"
        if again.any()
        else "",
        "Remove one; if these are replicates, name the column that numbers them, replicate=.",
    )


class _Dose(NamedTuple):
    place: int
    time: float
    amount: float
    duration: float
    route: str
    additional: int
    interval: float
    steady: bool

    def given(self, resets: Sequence[float]) -> list[float]:
        """Return when the dose and those that follow it are given: a reset ends these."""
        times = [self.time + k * self.interval for k in range(self.additional + 1)]
        end = min((reset for reset in resets if reset > self.time), default=np.inf)
        return [one for one in times if one < end or np.isclose(one, self.time)]


def _regimens(
    whole: _Table, subject: np.ndarray, time: Array, dose: Bools, measured: Bools, routes: Mapping[object, str]
) -> tuple[dict[str, Regimen], Bools]:
    """Return the regimen of each subject, and which measurements are just before a dose at their time."""
    doses, resets = _doses(whole, time, dose, routes), _resets(whole, subject, time, dose)
    earlier = np.zeros(whole.size, dtype=np.bool_)
    out: dict[str, Regimen] = {}
    for label in dict.fromkeys(subject.tolist()):
        rows = np.flatnonzero(subject == label)
        own = [doses[i] for i in rows[dose[rows]].tolist()]
        whole.refuse(
            rows[:1] if not own else rows[:0],
            f"subject {label!r} has no dose",
            "Add its doses, or leave the subject out.",
        )
        whole.refuse(
            rows[:1] if not measured[rows].any() else rows[:0],
            f"subject {label!r} has no measurement",
            "Leave the subject out; predictions of new patients need no measurement.",
        )
        at = rows[resets[rows]]
        ends = tuple(time[at].tolist())
        _check_series(whole, str(label), own, ends)
        out[str(label)] = _regimen(own, ends)
        for i in rows[measured[rows]].tolist():
            again = bool((np.isclose(time[at], time[i], rtol=SAME, atol=SAME) & (i < at)).any())
            earlier[i] = again or any(_before(one, i, float(time[i]), ends) for one in own)
    return out, earlier


def _resets(whole: _Table, subject: np.ndarray, time: Array, dose: Bools) -> Bools:
    """Return at which rows the system starts again: EVID 3 and 4, and steady states (SS 1) after other doses."""
    out = np.isin(whole.optional(whole.columns.event), [3.0, 4.0])
    steady = whole.optional(whole.columns.steady_state) == 1.0
    for i in np.flatnonzero(dose & steady).tolist():
        out[i] |= bool((dose & (subject == subject[i]) & (time < time[i])).any())
    return out


def _before(one: _Dose, place: int, time: float, resets: Sequence[float]) -> bool:
    """Return whether a measurement is just before a dose: its row is above, or the dose is an additional one."""
    at = np.isclose(one.given(resets), time, rtol=SAME, atol=SAME)
    return bool((at & ((np.arange(len(at)) > 0) | (place < one.place))).any())


def _doses(whole: _Table, time: Array, dose: Bools, routes: Mapping[object, str]) -> dict[int, _Dose]:
    columns = whole.columns
    amount = whole.numbers(columns.amount)
    rate, duration = whole.optional(columns.rate), whole.optional(columns.duration)
    more, every = whole.optional(columns.additional), whole.optional(columns.interval)
    steady = np.nan_to_num(whole.optional(columns.steady_state))
    for name, values in (
        (f"rate (RATE) {_first(rate, np.nan_to_num(rate) != 0)}", rate),
        (f"duration {_first(duration, np.nan_to_num(duration) != 0)}", duration),
        ("number of additional doses (ADDL)", more),
        ("flag of steady state (SS)", steady),
    ):
        alone = ~dose & (np.nan_to_num(values) != 0.0)
        whole.refuse(alone, f"there is a {name} without a dose", "Clear it, or fill in the amount (AMT).")
    modelled = np.isin(rate, [-1.0, -2.0])
    whole.refuse(
        modelled,
        f"the rate (RATE) is {_first(rate, modelled)}, by which NONMEM estimates the rate or duration",
        "Put the duration into the simulator as a parameter, and let the dose be a bolus into it: rate 0.",
    )
    whole.refuse(rate < 0.0, f"the rate (RATE) {_first(rate, rate < 0.0)} is negative", "Give amount per time.")
    whole.refuse(duration < 0.0, f"the duration {_first(duration, duration < 0.0)} is negative", "Give the time taken.")
    both = dose & (np.nan_to_num(rate) > 0.0) & (np.nan_to_num(duration) > 0.0)
    whole.refuse(both, "a dose has a rate and a duration", "Clear one; the duration is amount / rate.")
    odd = (more < 0.0) | (np.isfinite(more) & (more != np.round(more))) | (more > DOSES)
    whole.refuse(
        odd,
        f"the number of additional doses (ADDL) is {_first(more, odd)}",
        f"Give a whole number from 0 to {DOSES}.",
    )
    bad = every < 0.0
    whole.refuse(bad, f"the interval (II) {_first(every, bad)} is negative", "Give the time between two doses.")
    odd = ~np.isin(steady, [0.0, 1.0, 2.0])
    whole.refuse(odd, f"the flag of steady state (SS) is {_first(steady, odd)}", "Give 0, 1 or 2.")
    without = ~(np.nan_to_num(every) > 0.0)
    lacks = dose & (np.nan_to_num(more) > 0.0) & without
    whole.refuse(
        lacks,
        f"there are {_first(more, lacks)} additional doses (ADDL) without an interval (II)",
        "Fill in the time between two doses.",
    )
    whole.refuse(
        dose & (steady > 0.0) & without,
        "a dose at steady state (SS) has no interval (II)",
        "Fill in the time between two doses of the steady state.",
    )
    idle = dose & ~without & (np.nan_to_num(more) == 0.0) & (steady == 0.0)
    whole.refuse(
        idle,
        f"the interval (II) is {_first(every, idle)} but there are neither additional doses (ADDL) nor a steady state "
        "(SS)",
        "Clear the interval of a single dose, leave interval= out, or fill in ADDL.",
    )
    names = _routes(whole, dose, routes)
    lasts = np.where(np.nan_to_num(rate) > 0.0, amount / np.where(rate > 0.0, rate, 1.0), np.nan_to_num(duration))
    count = np.nan_to_num(more).astype(np.int64)
    return {
        i: _Dose(
            i,
            float(time[i]),
            float(amount[i]),
            float(lasts[i]),
            names[i],
            int(count[i]),
            float(np.nan_to_num(every[i])),
            bool(steady[i]),
        )
        for i in np.flatnonzero(dose).tolist()
    }


def _routes(whole: _Table, dose: Bools, routes: Mapping[object, str]) -> list[str]:
    column = whole.columns.route
    if column is None:
        if routes:
            raise InputError("from_events: routes= renames labels of the column route= (CMT), which is not given.")
        return [""] * whole.size
    renamed = {_label(key): name for key, name in routes.items()}
    given = [_label(one) for one in whole.frame[column].astype(object)]
    empty = np.array([one.lower() in EMPTY for one in given])
    whole.refuse(dose & empty, "a dose has no route (CMT)", "Fill in the compartment that it enters.")
    unknown = np.array([bool(renamed) and one not in renamed for one in given])
    said = next((one for one, wrong in zip(given, dose & unknown, strict=True) if wrong), "")
    whole.refuse(dose & unknown, f"the route (CMT) {said!r} is not in routes={dict(routes)!r}", "Add it there.")
    return [renamed.get(one, one) for one in given]


def _check_series(whole: _Table, label: str, doses: list[_Dose], resets: Sequence[float]) -> None:
    """Refuse a dose that is there twice."""
    seen: dict[tuple[float, str, float], int] = {}
    for one in doses:
        for at in one.given(resets):
            key = (round(at, 9), one.route, one.amount)
            before = seen.setdefault(key, one.place)
            if before != one.place:
                whole.refuse(
                    np.array([one.place]),
                    f"subject {label!r} gets {one.amount:g} twice at the time {key[0]:g}, by {whole.row(before)} too",
                    "Correct the number of additional doses (ADDL) or remove a row; if both were given, add their "
                    "amounts.",
                )


def _regimen(doses: list[_Dose], resets: tuple[float, ...]) -> Regimen:
    """Return all doses of a subject."""
    times: list[float] = []
    picked: list[_Dose] = []
    intervals: list[float] = []
    for one in doses:
        for k, at in enumerate(one.given(resets)):
            times.append(at)
            picked.append(one)
            intervals.append(one.interval if one.steady and k == 0 else 0.0)
    return Regimen(
        tuple(times),
        tuple(one.amount for one in picked),
        tuple(one.duration for one in picked),
        tuple(one.route for one in picked),
        tuple(intervals),
        resets,
    )


def _constant(whole: _Table, subject: np.ndarray, column: str, varying: Mapping[str, How]) -> Array:
    """Return a column that is constant within each subject, or made so."""
    values = whole.numbers(column)
    lost = np.isnan(values)
    for label in dict.fromkeys(subject.tolist()):
        rows = np.flatnonzero(subject == label)
        known = rows[~lost[rows]]
        whole.refuse(
            rows[:1] if not len(known) else rows[:0],
            f"column {column!r} of subject {label!r} is empty",
            "Fill it in; missing covariates are never imputed.",
        )
        own = values[known]
        if column in varying:
            how = varying[column]
            values[rows] = own[0] if how == "first" else own[-1] if how == "last" else getattr(np, how)(own)
            continue
        changes = known[np.flatnonzero(own != own[0])]
        whole.refuse(
            changes,
            f"column {column!r} of subject {label!r} changes with time"
            + (f", from {own[0]:g} to {values[changes[0]]:g}" if len(changes) else ""),
            f"Inputs are constant within a subject. Say what stands for it, varying={{{column!r}: 'median'}} ('first', "
            "'last', 'mean'), or give each period a subject label of its own.",
        )
        values[rows] = own[0]
    return values


def regular(regimens: Mapping[str, Regimen], surrogate: Surrogate | None = None) -> dict[str, dict[str, float]]:
    """Return amount, interval, duration and number of doses of regimens that begin at 0 and are regular, by subject.

    With a surrogate, only those quantities are returned that are inputs of its runs.

    Raises
    ------
    DataError
        When doses of a subject differ, are at irregular intervals, or do not begin at 0; for steady states and several
        routes too, and for what the runs of the surrogate cannot tell. The message names the subject.
    """
    out: dict[str, dict[str, float]] = {}
    for label, one in regimens.items():
        try:
            out[label] = one.conditions if surrogate is None else conditions_of_runs(one, surrogate)
        except InputError as error:
            raise DataError(f"with_regimen_conditions: subject {label!r}: {error}") from None
    return out


def usual_regimen(surrogate: object) -> Regimen | None:
    """Return the regimen that was given to the simulator of a surrogate's runs, None where there is none.

    Inputs of a run replace parts of it.
    """
    attrs: Mapping[str, str] = getattr(surrogate, "attrs", {})
    try:
        identity = json.loads(attrs.get("simulator", "{}"))
    except ValueError:  # of runs that were not made here: a text of the user's
        return None
    doses = identity.get("regimen") if isinstance(identity, dict) else None
    return Regimen(*zip(*doses, strict=True)) if doses else None


def conditions_of_runs(regimen: Regimen, surrogate: Surrogate) -> dict[str, float]:
    """Return the values of a surrogate's inputs under a regimen; the interval of a single dose has no effect.

    Raises
    ------
    InputError
        When the regimen is not regular, or differs from that of the runs in what is no input; where it is not known.
    """
    usual = usual_regimen(surrogate)
    if usual is None:
        raise InputError(
            "Which regimens this surrogate was trained for is not known: it is of runs of "
            "uq.FunctionSimulator(..., regimen=...)."
        )
    own, of_runs, names = regimen.conditions, usual.conditions, surrogate.domain.names
    if own["doses"] == 1.0:
        own["interval"] = of_runs["interval"]  # has no effect, and lies in the box
    for name, value in own.items():
        if name not in names and abs(value - of_runs[name]) > SAME * abs(value):
            raise InputError(
                f"{name!r} is {value:g} in {regimen!r}, but {of_runs[name]:g} in all runs. Make it a condition of the "
                f"space, conditions={{{name!r}: uq.Condition(...)}}, and run and fit again."
            )
    if regimen.routes[0] != usual.routes[0]:
        raise InputError(f"The route of {regimen!r} is not that of the runs, {usual.routes[0]!r}.")
    return {name: value for name, value in own.items() if name in names}

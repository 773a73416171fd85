"""Measurements as one frozen long table: what was measured, where, under which known conditions, how often."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, final

import numpy as np
import pandas as pd
import xarray as xr

from uqms._teaching import taught
from uqms._typing import Array, Ints
from uqms.calibration.events import EventTable, How, read_events, regular
from uqms.errors import DataError, InputError, UnitError
from uqms.parameters import Regimen
from uqms.surrogates.outputs import Layout
from uqms.surrogates.protocol import Surrogate

__all__ = ["Measured", "Observations", "observations_of"]

ROW_LIMIT = 500_000
SPECIAL_DIMS = ("subject", "experiment", "replicate")
# Columns of the table and dims of the posterior: a coordinate or condition of that name would take their place.
RESERVED = frozenset({"output", "value", "sd", "censored", "trials", *SPECIAL_DIMS, "observation", "chain", "draw"})
SIDES = ("", "left", "right")
REGIMEN = "regimen"  # coordinate with the number of each row's regimen


@taught
@final
@dataclass(frozen=True, eq=False)
class Observations:
    """Observations in one long table, with one row per measured value.

    Build it with `from_table` (pandas), `from_xarray`, or `from_events` (doses and measurements in one table); a named
    `xarray.DataArray` is accepted wherever observations are required.

    Attributes
    ----------
    output
        Name of the measured output, shape (R,).
    value
        Measured numbers, shape (R,).
    coords
        By dim name: the coordinate of each row, NaN where the row's output has no such dim.
    conditions
        By condition name: the known input of each row.
    subject, experiment
        Labels of each row.
    replicate
        Replicate number of each row; None when there was no replicate column.
    sd
        Known standard deviation of each row, NaN where it is not known.
    units
        Unit by output name, empty when not said.
    censored
        By row: "left" where only known that the measured number is below `value` (a detection limit), "right" where it
        is above, else "". None when there is no such row.
    trials
        Number of trials of each row, for binomial counts, NaN where it is not known; None when not given.
    conditions_sd
        By condition that was itself measured with an error: the standard deviation of that error in each row, 0 where
        it is known exactly. All rows of an experiment (label and conditions) share one true value.
    regimens
        By subject: its doses, where the table had them (`from_events`). The coordinate "regimen" of a row is the number
        of its regimen, `Regimen.number`.
    covariates
        One row a subject, as `Calibration(..., subjects=...)` takes it; None where the table named none.

    Raises
    ------
    DataError
        NaN or infinite values, rows of different length, no rows or more than 500 000, or the same measurement twice
        without a replicate column.
    InputError
        A known standard deviation or a number of trials that is not positive, something else than "left", "right" or
        "" in `censored`, a coordinate or condition with a name that is taken, an error of a condition that is negative
        or of no condition.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"h": [0.5, 1.0], "mg_L": [3.1, 2.4]})
    >>> Observations.from_table(table, output="conc", value="mg_L", coords={"time": "h"})
    <Observations: 2 values of conc; coordinates time>
    """

    output: np.ndarray
    value: Array
    coords: Mapping[str, Array]
    conditions: Mapping[str, Array]
    subject: np.ndarray
    experiment: np.ndarray
    replicate: Ints | None
    sd: Array
    units: Mapping[str, str] = field(default_factory=dict)
    censored: np.ndarray | None = None
    trials: Array | None = None
    conditions_sd: Mapping[str, Array] = field(default_factory=dict)
    regimens: Mapping[str, Regimen] = field(default_factory=dict)
    covariates: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        rows = len(self.value)
        self._check_column_names()
        columns = {"output": self.output, "subject": self.subject, "experiment": self.experiment, "sd": self.sd}
        for optional in ("replicate", "censored", "trials"):
            if getattr(self, optional) is not None:
                columns[optional] = getattr(self, optional)
        columns |= self._errors
        for name, column in {**columns, **self.coords, **self.conditions}.items():
            if len(column) != rows:
                raise DataError(
                    f"Observations: {name!r} has {len(column)} rows but there are {rows} values. Give one a value."
                )
        if rows == 0:
            raise DataError("Observations: no rows. At least one measured value is needed.")
        if rows > ROW_LIMIT:
            raise DataError(
                f"Observations: {rows} rows; each likelihood evaluation reads all of them, about {rows * 2e-8:.2g} s a "
                f"gradient. Aggregate replicates to at most {ROW_LIMIT} rows."
            )
        self._check_numbers()
        self._check_duplicates()

    @property
    def _errors(self) -> dict[str, Array]:
        """Columns of the errors of conditions."""
        return {f"{name}_sd": column for name, column in self.conditions_sd.items()}

    def _check_column_names(self) -> None:
        taken = sorted({*RESERVED, *self._errors}.intersection((*self.coords, *self.conditions)))
        taken += sorted(set(self.coords).intersection(self.conditions))
        if taken:
            raise InputError(
                f"Observations: the name {taken[0]!r} of a coordinate or condition is already taken. Rename it, in the "
                "runs too."
            )

    def _check_numbers(self) -> None:
        bad = np.flatnonzero(~np.isfinite(self.value))
        if len(bad):
            raise DataError(
                f"Observations: row {bad[0]} (output {str(self.output[bad[0]])!r}) is {self.value[bad[0]]}; "
                f"{len(bad)} such rows. Missing values are never imputed: leave the rows out, or pass missing='drop'."
            )
        wrong = np.flatnonzero(~np.isnan(self.sd) & ~((self.sd > 0) & np.isfinite(self.sd)))
        if len(wrong):
            raise InputError(
                f"Observations: the known sd of row {wrong[0]} (output {str(self.output[wrong[0]])!r}) is "
                f"{self.sd[wrong[0]]}; it must be positive and finite. Correct it, or leave the row out."
            )
        if self.censored is not None:
            odd = [str(side) for side in np.unique(self.censored) if side not in SIDES]
            if odd:
                raise InputError(
                    f"Observations: censored holds {odd[0]!r}; give 'left' (below the value), 'right' (above it) or ''."
                )
        if self.trials is not None:
            known = ~np.isnan(self.trials)
            wrong = np.flatnonzero(known & ~((self.trials >= 1) & (self.trials == np.round(self.trials))))
            if len(wrong):
                raise InputError(
                    f"Observations: row {wrong[0]} has {self.trials[wrong[0]]:g} trials; give a whole number from 1 on."
                )
        for name, column in self.conditions.items():
            unknown = ~np.isfinite(column)
            # An output of another scale may not depend on the condition; whether it does, the surrogate knows.
            lacking = [one for one in self.outputs if np.isnan(column[self.output == one]).all()]
            if len(lacking) < len(self.outputs):
                unknown &= ~np.isin(self.output, lacking)
            if unknown.any():
                row = int(np.flatnonzero(unknown)[0])
                raise DataError(
                    f"Observations: condition {name!r} of row {row} is {column[row]}; it must be known. "
                    "Fill it in, or leave the row out."
                )

        extra = sorted(set(self.conditions_sd) - set(self.conditions))
        if extra:
            raise InputError(
                f"Observations: conditions_sd is given for {extra}, but the conditions are {list(self.conditions)}."
            )
        for name, column in self.conditions_sd.items():
            wrong = np.flatnonzero(~(np.isfinite(column) & (column >= 0)))
            if len(wrong):
                raise InputError(
                    f"Observations: the error of condition {name!r} of row {wrong[0]} has the sd {column[wrong[0]]}; "
                    "give a finite number of at least 0, which means that it is known exactly."
                )

    def _check_duplicates(self) -> None:
        repeated = np.flatnonzero(
            self.table.drop(columns=["value", "sd", "censored", "trials"], errors="ignore").duplicated().to_numpy()
        )
        if len(repeated):
            row = int(repeated[0])
            where = ", ".join(
                f"{name} = {column[row]:g}" for name, column in {**self.coords, **self.conditions}.items()
            )
            label = "" if self.replicate is None else " and the same replicate number"
            raise DataError(
                f"Observations: row {row} repeats output {str(self.output[row])!r} at the same place ({where}) "
                f"of the same subject{label}. If these are replicates, name their column with replicate= and number "
                "them; if not, remove one."
            )

    @property
    def table(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame."""
        columns = {"output": self.output, "value": self.value, **self.coords, **self.conditions}
        columns |= {"subject": self.subject, "experiment": self.experiment, "sd": self.sd, **self._errors}
        for optional in ("replicate", "censored", "trials"):
            if getattr(self, optional) is not None:
                columns[optional] = getattr(self, optional)
        return pd.DataFrame(columns)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Measured outputs, in order of appearance."""
        return tuple(dict.fromkeys(str(name) for name in self.output))

    def __len__(self) -> int:
        return len(self.value)

    def __repr__(self) -> str:
        parts = [f"{len(self)} values of {', '.join(self.outputs)}"]
        if self.coords:
            parts.append(f"coordinates {', '.join(self.coords)}")
        if self.conditions:
            parts.append(f"conditions {', '.join(self.conditions)}")
        subjects = len(set(self.subject))
        if subjects > 1:
            parts.append(f"{subjects} subjects")
        if self.regimens:
            count = len(set(self.regimens.values()))
            parts.append(f"{count} regimen{'s' * (count > 1)}")
        return f"<Observations: {'; '.join(parts)}>"

    @classmethod
    def from_table(
        cls,
        table: pd.DataFrame,
        *,
        output: str,
        value: str,
        coords: Mapping[str, str] | None = None,
        conditions: Mapping[str, str] | Iterable[str] = (),
        subject: str | None = None,
        experiment: str | None = None,
        replicate: str | None = None,
        sd: str | None = None,
        censored: str | None = None,
        trials: str | None = None,
        conditions_sd: Mapping[str, str | float] | None = None,
        unit: str = "",
        missing: Literal["error", "drop"] = "error",
    ) -> "Observations":
        """Read the observations of one output from a pandas DataFrame with one row per measurement.

        Parameters
        ----------
        table
            The measurements.
        output
            Name of the surrogate's output that was measured.
        value
            Column with the numbers.
        coords
            Output dim → column, e.g. {"time": "h"}.
        conditions
            Known input → column, or column names when they are the same.
        subject, experiment, replicate, sd
            Columns with labels, replicate numbers and known standard deviations.
        censored
            Column that says "left" where the value is an upper limit (below detection), "right" where it is a lower
            one; empty or missing elsewhere.
        trials
            Column with the number of trials, for binomial counts.
        conditions_sd
            Known input that was measured with an error → its standard deviation, a number or a column (0 where it is
            known exactly): ``conditions={"dose": "mg"}, conditions_sd={"dose": "mg_sd"}``. The true value is then
            inferred for each experiment; name the experiments (`experiment=`) when two have the same measured value.
        unit
            Unit of the values; checked against the surrogate's when both are said.
        missing
            "drop" leaves out rows whose value is NaN; by default they are an error.

        Raises
        ------
        InputError
            When a column is not in the table (or twice), or `missing` is something else.
        DataError
            As for `Observations`; also when a column holds something else than numbers, a label is missing, or a
            subject has no value left.
        """
        if missing not in ("error", "drop"):
            raise InputError(f"missing is {missing!r}; give 'error' or 'drop'.")
        if not isinstance(table, pd.DataFrame):
            raise InputError(f"table is a {type(table).__name__}; give a pandas DataFrame, e.g. pandas.read_csv(path).")
        _check_texts("from_table", output=output, value=value, unit=unit)
        if coords is not None and not isinstance(coords, Mapping):
            raise InputError(
                f"from_table: coords is {coords!r}; give the column of each dim of the output, "
                "coords={'time': 'hours'}."
            )
        by_name = conditions if isinstance(conditions, Mapping) else {str(name): str(name) for name in conditions}
        wanted = [value, *(coords or {}).values(), *by_name.values()]
        wanted += [column for column in (subject, experiment, replicate, sd, censored, trials) if column is not None]
        errors = dict(conditions_sd or {})
        wanted += [column for column in errors.values() if isinstance(column, str)]
        absent = [column for column in wanted if column not in table.columns]
        if absent:
            raise InputError(f"Columns {absent} are not in the table; it has {list(table.columns)}. Name one of those.")
        twice = [column for column in wanted if list(table.columns).count(column) > 1]
        if twice:
            raise InputError(f"The table has more than one column {twice[0]!r}. Rename or drop one.")
        frame = table
        if missing == "drop":
            frame = table[table[value].notna()]
            if subject is not None:
                _check_subjects(table[subject], frame[subject])
        rows = len(frame)

        def labels(column: str | None) -> np.ndarray:
            return np.full(rows, "") if column is None else _labels(frame, column).to_numpy(dtype=np.str_)

        return cls(
            output=np.full(rows, output),
            value=_numbers(frame, value),
            coords={dim: _numbers(frame, column, dim) for dim, column in (coords or {}).items()},
            conditions={name: _numbers(frame, column) for name, column in by_name.items()},
            subject=labels(subject),
            experiment=labels(experiment),
            replicate=None if replicate is None else pd.factorize(_labels(frame, replicate))[0].astype(np.int64),
            sd=np.full(rows, np.nan) if sd is None else _numbers(frame, sd),
            units={output: unit},
            censored=None if censored is None else _sides(frame[censored]),
            trials=None if trials is None else _numbers(frame, trials),
            conditions_sd={name: _error(frame, name, given) for name, given in errors.items()},
        )

    @classmethod
    def from_xarray(
        cls,
        data: xr.DataArray,
        *,
        conditions: Iterable[str] = (),
        conditions_sd: Mapping[str, str | float] | None = None,
        missing: Literal["error", "drop"] = "error",
    ) -> "Observations":
        """Read the observations of one output from a DataArray named like the output.

        Dims "subject", "experiment" and "replicate" are labels, `conditions` names coords that are known inputs, every
        other dim is a coordinate of the output. A coord "sd" holds known standard deviations, "censored" and "trials"
        are as in `from_table`, the attribute "unit" or "units" is the unit. `conditions_sd` names a coord, or is a
        number, for each known input that was measured with an error.

        Raises
        ------
        InputError
            When the array has no name, a condition is not among its coords, or a dim has no coordinate.
        DataError
            As for `Observations`.
        """
        if not data.name:
            raise InputError("The DataArray has no name; name it like the output: data.rename('pressure').")
        names = tuple(conditions)
        absent = [name for name in names if name not in data.coords]
        if absent:
            raise InputError(f"Conditions {absent} are not coords of the DataArray; it has {list(data.coords)}.")
        dims = [str(dim) for dim in data.dims if dim not in SPECIAL_DIMS and dim not in names]
        bare = [str(dim) for dim in data.dims if dim not in data.coords]
        unplaced = [dim for dim in bare if dim in dims]
        if unplaced:
            raise InputError(
                f"The DataArray has no coordinate along {unplaced[0]!r}, so where its values were measured is unknown: "
                f"data.assign_coords({unplaced[0]}=...)."
            )
        flat = data.assign_coords({dim: np.arange(data.sizes[dim]) for dim in bare}).to_dataset()
        flat = flat.reset_coords([name for name in flat.coords if name not in flat.dims])
        frame = flat.to_dataframe(dim_order=list(data.dims)).reset_index() if data.dims else _scalar_frame(flat)
        return cls.from_table(
            frame,
            output=str(data.name),
            value=str(data.name),
            coords={dim: dim for dim in dims},
            conditions=names,
            subject="subject" if "subject" in frame else None,
            experiment="experiment" if "experiment" in frame else None,
            replicate="replicate" if "replicate" in frame else None,
            sd="sd" if "sd" in frame else None,
            censored="censored" if "censored" in frame else None,
            trials="trials" if "trials" in frame else None,
            conditions_sd=conditions_sd,
            unit=str(data.attrs.get("unit", data.attrs.get("units", ""))),
            missing=missing,
        )

    @classmethod
    def from_events(
        cls,
        table: pd.DataFrame,
        *,
        id: str,  # noqa: A002  # the column's name in such tables
        time: str,
        value: str,
        amount: str,
        rate: str | None = None,
        duration: str | None = None,
        event: str | None = None,
        missing: str | None = None,
        additional: str | None = None,
        interval: str | None = None,
        steady_state: str | None = None,
        route: str | None = None,
        routes: Mapping[object, str] | None = None,
        censored: str | None = None,
        limit: str | float | None = None,
        sd: str | None = None,
        replicate: str | None = None,
        experiment: str | None = None,
        conditions: Mapping[str, str] | Iterable[str] = (),
        covariates: Iterable[str] = (),
        varying: Mapping[str, How] | None = None,
        output: str = "conc",
        dim: str = "time",
        unit: str = "",
    ) -> "Observations":
        """Read doses and measurements of many subjects from one table, as NONMEM and nlmixr2 take it.

        Use it for tables with a row for each dose and each measurement. Every row is checked, and an error names the
        row by its label in the table's index. `regimens` of the result has the doses of each subject. `Superposition`
        makes one surrogate of the unit response serve them all, and `with_regimen_conditions` turns regular ones into
        conditions of a system that is not linear.

        Parameters
        ----------
        table
            The rows, sorted by subject and time. Empty fields and "." are read as missing.
        id
            Column with the label of the subject (ID).
        time
            Column with the time (TIME), from 0 on, in the simulator's unit.
        value
            Column with the measured numbers (DV).
        amount
            Column with the amount of each dose (AMT), empty or 0 for measurements.
        rate, duration
            Columns with the rate (RATE) or the duration of infusions; empty or 0 for a bolus.
        event
            Column with the kind of a row (EVID): 0 measurement, 1 dose, 2 left out, 3 reset, 4 reset and dose. Without
            it, rows with an amount are doses.
        missing
            Column that is 1 where a row has no value (MDV).
        additional, interval
            Columns with the number of further doses like this one (ADDL), and the time between them (II).
        steady_state
            Column that is 1 where the same dose was given every `interval` before, for ever (SS), and what was given
            otherwise no longer counts; 2 where other doses count beside.
        route
            Column with the compartment that a dose enters (CMT), of any label.
        routes
            Names for these labels, {1: "oral", 2: "iv"}.
        censored
            Column that is 1 or "left" where the number is below `value`, the limit of quantification, -1 or "right"
            where it is above (CENS).
        limit
            Limit of quantification, a number or a column. With `censored` it takes the place of `value` there; without,
            values below it are censored.
        sd, replicate, experiment
            Columns as in `from_table`; `experiment` may be the occasion, for `Population(..., occasions=...)`.
        conditions
            Known input → column, or column names when they are the same; constant within a subject.
        covariates
            Columns that become `covariates` of the result, one row a subject; constant within a subject.
        varying
            What stands for a column of conditions or covariates that changes within a subject: "first", "last", "mean"
            or "median" of its rows.
        output
            Name of the surrogate's output that was measured.
        dim
            Name of its time.
        unit
            Unit of the values.

        Raises
        ------
        InputError
            When a column is not in the table (or twice), or settings cannot be read.
        DataError
            When a row cannot be meant; the message names it and says how to mend it.

        Notes
        -----
        A measurement at the time of a dose is before the dose where its row is above, and where the dose is an
        additional one: its time is then 1e-6 (of itself, or of 1) earlier. For doses that enter at once, a bolus into
        the measured compartment, this decides between trough and peak. Before the first dose the response of a linear
        system is 0.

        Examples
        --------
        >>> import pandas as pd
        >>> rows = {
        ...     "ID": [1, 1, 1, 2, 2],
        ...     "TIME": [0.0, 2.0, 25.0, 0.0, 3.0],
        ...     "AMT": [100.0, 0.0, 0.0, 50.0, 0.0],
        ...     "ADDL": [2, 0, 0, 0, 0],
        ...     "II": [12.0, 0.0, 0.0, 0.0, 0.0],
        ...     "DV": [0.0, 3.1, 4.0, 0.0, 1.2],
        ... }
        >>> table = Observations.from_events(
        ...     pd.DataFrame(rows), id="ID", time="TIME", amount="AMT", value="DV", additional="ADDL", interval="II"
        ... )
        >>> table
        <Observations: 3 values of conc; coordinates time, regimen; 2 subjects; 2 regimens>
        >>> table.regimens["1"]
        Regimen(100 every 12, 3 doses from 0 to 24)
        """
        columns = EventTable(
            id,
            time,
            value,
            amount,
            rate,
            duration,
            event,
            missing,
            additional,
            interval,
            steady_state,
            route,
            censored,
            limit,
            sd,
            replicate,
            experiment,
        )
        _check_texts("from_events", output=output, dim=dim, unit=unit)
        by_name = conditions if isinstance(conditions, Mapping) else {str(name): str(name) for name in conditions}
        found = read_events(
            table,
            columns,
            conditions=by_name,
            covariates=(covariates,) if isinstance(covariates, str) else covariates,
            varying=varying or {},
            routes=routes or {},
        )
        return cls(
            output=np.full(len(found.rows), output),
            value=found.value,
            coords={dim: found.time, REGIMEN: np.array([found.regimens[str(one)].number for one in found.subject])},
            conditions=found.conditions,
            subject=found.subject,
            experiment=found.experiment,
            replicate=found.replicate,
            sd=found.sd,
            units={output: unit},
            censored=found.censored,
            regimens=found.regimens,
            covariates=found.covariates,
        )

    @classmethod
    def concat(cls, parts: Iterable["Observations"]) -> "Observations":
        """Return several tables (of different outputs, say) as one.

        Raises
        ------
        InputError
            When there are none.
        UnitError
            When two of them give one output in different units.
        """
        tables = list(parts)
        if not tables:
            raise InputError("concat: no observations given.")
        dims = tuple(dict.fromkeys(dim for part in tables for dim in part.coords))
        names = tuple(dict.fromkeys(name for part in tables for name in part.conditions))

        def column(part: "Observations", given: Mapping[str, Array], name: str) -> Array:
            return np.asarray(given.get(name, np.full(len(part), np.nan)))

        regimens = _common_regimens(tables)
        coords = {dim: np.concatenate([column(part, part.coords, dim) for part in tables]) for dim in dims}
        if regimens:  # of a subject who got more doses since, all rows have the whole regimen
            subjects = np.concatenate([part.subject for part in tables])
            known = [regimens.get(str(one)) for one in subjects]
            coords[REGIMEN] = np.array(
                [own if one is None else one.number for own, one in zip(coords[REGIMEN], known, strict=True)]
            )
        replicates = None
        if any(part.replicate is not None for part in tables):
            # Each part numbers its replicates anew: of one output they are different measurements.
            following: dict[str, int] = {}
            columns = []
            for part in tables:
                start = max(following.get(name, 0) for name in part.outputs)
                own = np.zeros(len(part), dtype=np.int64) if part.replicate is None else part.replicate
                columns.append(own + start)
                following |= dict.fromkeys(part.outputs, start + int(own.max()) + 1)
            replicates = np.concatenate(columns)
        return cls(
            output=np.concatenate([part.output for part in tables]),
            value=np.concatenate([part.value for part in tables]),
            coords=coords,
            conditions={
                name: np.concatenate([column(part, part.conditions, name) for part in tables]) for name in names
            },
            subject=np.concatenate([part.subject for part in tables]),
            experiment=np.concatenate([part.experiment for part in tables]),
            replicate=replicates,
            sd=np.concatenate([part.sd for part in tables]),
            units=_common_units(tables),
            censored=_optional(tables, "censored", np.str_("")),
            trials=_optional(tables, "trials", np.nan),
            conditions_sd={
                name: np.concatenate([part.conditions_sd.get(name, np.zeros(len(part))) for part in tables])
                for name in dict.fromkeys(name for part in tables for name in part.conditions_sd)
            },
            regimens=regimens,
            covariates=_common_covariates(tables),
        )

    def with_regimen_conditions(self, surrogate: Surrogate | None = None) -> "Observations":
        """Return the observations with regular regimens as conditions, in place of the coordinate "regimen".

        Use it where the system is not linear in the dose, so that `Superposition` does not hold: train the surrogate on
        runs with the conditions "dose" (amount of each), "interval" (between doses, 0 for one dose), "duration" (of
        each infusion, 0 for a bolus) and "doses" (how many). Of these, only "dose" is there where it is equal for all
        subjects; the others are left out.

        Parameters
        ----------
        surrogate
            Surrogate of runs of ``uqms.FunctionSimulator(..., regimen=)``. The conditions are then the inputs that it
            has, also where they are equal for all subjects, and the other quantities are compared with those of the
            runs.

        Raises
        ------
        InputError
            When there are no regimens.
        DataError
            When a subject's doses differ, are at irregular intervals, at steady state, by several routes, or do not
            begin at time 0, or are not what the surrogate's runs had; the message names the subject.

        Examples
        --------
        >>> import pandas as pd
        >>> rows = pd.DataFrame(
        ...     {"ID": [1, 1, 2, 2], "TIME": [0.0, 2.0, 0.0, 3.0], "AMT": [100.0, 0, 50.0, 0], "DV": [0, 3.1, 0, 1.2]}
        ... )
        >>> table = Observations.from_events(rows, id="ID", time="TIME", amount="AMT", value="DV")
        >>> table.with_regimen_conditions()
        <Observations: 2 values of conc; coordinates time; conditions dose; 2 subjects>
        """
        if not self.regimens:
            raise InputError("with_regimen_conditions: there are no regimens; read them with Observations.from_events.")
        known = regular(self.regimens, surrogate)
        columns = {
            name: np.array([known[str(one)][name] for one in self.subject]) for name in next(iter(known.values()))
        }
        varying = {
            name: column
            for name, column in columns.items()
            if surrogate is not None or name == "dose" or np.ptp(column) > 0.0
        }
        taken = sorted(set(varying).intersection(self.conditions))
        if taken:
            raise InputError(f"with_regimen_conditions: the observations have a condition {taken[0]!r} already.")
        return replace(
            self,
            coords={dim: column for dim, column in self.coords.items() if dim != REGIMEN},
            conditions={**self.conditions, **varying},
            regimens={},
        )


type Measured = Observations | xr.DataArray | xr.Dataset | Mapping[str, Any] | Sequence[Any]
"""What a calibration takes as observations, see `observations_of`."""


def observations_of(
    given: object,
    layouts: Mapping[str, Layout],
    conditions: Iterable[str] = (),
    missing: Literal["error", "drop"] = "error",
) -> Observations:
    """Return the observations of what a calibration was given, of one output or several.

    Parameters
    ----------
    given
        `Observations`; a DataArray named like its output, several of them in a list, or a Dataset; or by output a
        number, an array of the output's own shape, or a DataArray.
    layouts
        Of the surrogate's outputs: dims, coordinates and unit of an array that has none of its own.
    conditions
        Names of known inputs, which are coords of a DataArray.
    missing
        "drop" leaves out values that are NaN.

    Raises
    ------
    InputError
        When it is none of these, an array has another shape than its output, or an output is unknown.
    DataError
        NaN without "drop", or nothing left.
    """
    if missing not in ("error", "drop"):
        raise InputError(f"missing is {missing!r}; give 'error' or 'drop'.")
    if isinstance(given, Observations):
        if missing == "drop":
            raise InputError("missing='drop' comes too late here: give it to Observations.from_table or from_xarray.")
        return given
    if isinstance(given, xr.DataArray):
        arrays = [given]
    elif isinstance(given, Mapping):  # a Dataset is one
        names = list(given.data_vars) if isinstance(given, xr.Dataset) else list(given)
        arrays = [_named(str(name), given[name], layouts) for name in names]
    elif isinstance(given, list | tuple) and given and all(isinstance(one, xr.DataArray) for one in given):
        arrays = list(given)
    else:
        raise InputError(
            f"observations is a {type(given).__name__}; give Observations.from_table(...), a DataArray named like the "
            "output, several in a list, a Dataset, or values by output, {'peak': 3.1}."
        )
    if not arrays:
        raise InputError("observations: there is no output; give values by output, {'peak': 3.1}.")
    wanted, tables = tuple(conditions), []
    for array in arrays:
        if missing == "drop" and not np.asarray(array.notnull()).any():
            raise DataError(f"observations: all values of {array.name!r} are NaN; leave the output out.")
        own = tuple(name for name in wanted if name in array.coords)
        tables.append(Observations.from_xarray(array, conditions=own, missing=missing))
    twice = [one.outputs[0] for i, one in enumerate(tables) if one.outputs[0] in {t.outputs[0] for t in tables[:i]}]
    if twice:
        raise InputError(f"observations: output {twice[0]!r} stands twice; put its values into one DataArray.")
    return tables[0] if len(tables) == 1 else Observations.concat(tables)


def _named(name: str, values: object, layouts: Mapping[str, Layout]) -> xr.DataArray:
    """Return values of an output as a DataArray; an array of the output's own shape has its coordinates."""
    if isinstance(values, xr.DataArray):
        return values.rename(name)
    if name not in layouts:
        raise InputError(f"observations: the surrogate has no output {name!r}; it has {', '.join(layouts)}.")
    layout = layouts[name]
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"observations: {name!r} is {values!r}; give numbers, or a DataArray.") from None
    if array.shape != layout.shape:
        what = f"dims {list(layout.dims)} of shape {layout.shape}" if layout.dims else "one number"
        raise InputError(
            f"observations: {name!r} has shape {array.shape}, the output has {what}. State where it was measured: "
            f"xr.DataArray(values, dims={layout.dims or ('replicate',)}, coords=..., name={name!r})."
        )
    return xr.DataArray(array, dims=layout.dims, coords={dim: layout.coords[dim] for dim in layout.dims}, name=name)


def _optional(tables: list[Observations], name: str, default: object) -> Any:
    """Return the column of all tables, with the default where a table has none; None when no table has it."""
    columns = [getattr(part, name) for part in tables]
    if all(column is None for column in columns):
        return None
    return np.concatenate(
        [np.full(len(part), default) if c is None else c for part, c in zip(tables, columns, strict=True)]
    )


def _common_units(tables: Iterable[Observations]) -> dict[str, str]:
    out: dict[str, str] = {}
    for name, unit in (item for part in tables for item in part.units.items()):
        if unit and out.get(name) and unit != out[name]:
            raise UnitError(f"concat: output {name!r} is in {out[name]!r} here and in {unit!r} there. Convert one.")
        out[name] = unit or out.get(name, "")
    return out


def _common_regimens(tables: Iterable[Observations]) -> dict[str, Regimen]:
    out: dict[str, Regimen] = {}
    for label, one in (item for part in tables for item in part.regimens.items()):
        known = out.setdefault(label, one)
        if len(one) > len(known) and one.doses[: len(known)] == known.doses:
            out[label] = one  # more was given since
        elif known.doses[: len(one)] != one.doses or known.resets[: len(one.resets)] != one.resets:
            raise InputError(
                f"concat: subject {label!r} has {known!r} here and {one!r} there. Give both tables all of its doses."
            )
    return out


def _common_covariates(tables: Iterable[Observations]) -> pd.DataFrame | None:
    given = [part.covariates for part in tables if part.covariates is not None]
    if not given:
        return None
    whole = pd.concat(given)
    return whole[~whole.index.duplicated()]


def _scalar_frame(flat: xr.Dataset) -> pd.DataFrame:
    return pd.DataFrame({str(name): [flat[name].item()] for name in flat.variables})


def _sides(column: pd.Series) -> np.ndarray:
    """Return a column of sides as text, "" where there is none; it may be empty or categorical."""
    return column.astype(object).where(column.notna(), "").astype(str).to_numpy(dtype=np.str_)


def _labels(frame: pd.DataFrame, column: str) -> "pd.Series[str]":
    absent = np.flatnonzero(frame[column].isna().to_numpy())
    if len(absent):
        raise DataError(
            f"Column {column!r} has no label in row {frame.index[absent[0]]!r}. Fill it in, or leave it out."
        )
    return frame[column].astype(str)


def _check_texts(call: str, **given: object) -> None:
    """Raise when a setting that is a name or a unit is something else.

    Raises
    ------
    InputError
        The message names the setting.
    """
    for key, one in given.items():
        if not isinstance(one, str):
            raise InputError(f"{call}: {key} is {one!r}; give one string, such as {key}={_SUCH[key]!r}.")


_SUCH = {"output": "conc", "value": "mg_per_L", "unit": "mg/L", "dim": "time"}


def _numbers(frame: pd.DataFrame, column: str, dim: str = "") -> Array:
    """Return a column as floats; dates and complex numbers would become floats too, without a word."""
    series = frame[column]
    remedy = "Convert it, e.g. to hours since the first measurement." if series.dtype.kind in "mM" else "Correct it."
    if dim == REGIMEN:
        remedy = "Regimens have numbers, regimen.number; Observations.from_events reads them from a table of doses."
    if series.dtype.kind not in "mMc":
        try:
            return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
        except (TypeError, ValueError):
            pass
    bad = pd.to_numeric(series, errors="coerce").isna() & series.notna() if series.dtype.kind == "O" else series.notna()
    where = f": {series[bad].iloc[0]!r} in row {frame.index[bad][0]!r}" if bad.any() else ""
    raise DataError(f"Column {column!r} holds {series.dtype}{where}; numbers are required. {remedy}")


def _error(frame: pd.DataFrame, name: str, given: str | float) -> Array:
    """Return the sd of a condition's error by row."""
    if isinstance(given, str):
        return _numbers(frame, given)
    if isinstance(given, bool) or not isinstance(given, int | float | np.number):
        raise InputError(f"conditions_sd: {name!r} is {given!r}; give the name of a column, or a number.")
    return np.full(len(frame), float(given))


def _check_subjects(before: pd.Series, after: pd.Series) -> None:
    lost = sorted(set(before.astype(str)) - set(after.astype(str)))
    if lost:
        raise DataError(f"Subjects {lost} have no value left after dropping missing ones. Leave them out of the table.")

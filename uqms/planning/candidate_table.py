"""Candidate measurements: which output, where, under which conditions, how often, with which noise, at which cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, final

import numpy as np
import pandas as pd
import xarray as xr

from uqms import _checks as check
from uqms._teaching import taught
from uqms._typing import Array, ArrayLike
from uqms.calibration.noise import GaussianNoise, NoiseModel
from uqms.errors import InputError
from uqms.parameters import Prior

__all__ = ["Candidates", "PredictedOutput", "candidates"]

OUTPUT, PART, REPLICATES, COST = "output", "part", "replicates", "cost"
RESERVED = (PART, OUTPUT, REPLICATES, COST)
MOST = 200_000
HOW = 'uq.candidates(outputs="conc", times=[1, 2, 6], conditions={"dose": [100, 200]}, noise=0.5)'

type Cost = float | Mapping[str, float] | Callable[[pd.DataFrame], ArrayLike]
type Noise = float | NoiseModel


@taught
@final
@dataclass(frozen=True, eq=False)
class Candidates:
    """Measurements that could be made, one per row; `uqms.candidates` makes it.

    Several tables are joined with ``+``, for example those of two outputs at different times.

    Attributes
    ----------
    table
        Columns `output`, coordinates and conditions by name, `replicates` and `cost`; `part` where the calibration has
        several.
    noise
        Noise model by output. Other outputs have the noise of the calibration.
    """

    table: pd.DataFrame
    noise: Mapping[str, NoiseModel]

    def __len__(self) -> int:
        """Return the number of candidates."""
        return len(self.table)

    def __repr__(self) -> str:
        with pd.option_context("display.max_rows", 10):
            return f"<{len(self)} candidate measurements\n{self.table}>"

    def __add__(self, other: "Candidates") -> "Candidates":
        """Return the candidates of both tables.

        Raises
        ------
        InputError
            When `other` is not a `Candidates`, or an output has another noise model in it.
        """
        if not isinstance(other, Candidates):
            raise InputError(f"candidates + {type(other).__name__}: add what uq.candidates(...) returns.")
        different = [name for name in self.noise if name in other.noise and self.noise[name] != other.noise[name]]
        if different or (bool(self.noise) != bool(other.noise) and self._shared(other)):
            raise InputError(f"candidates: {different or self._shared(other)} would have two kinds of noise.")
        return Candidates(pd.concat([self.table, other.table], ignore_index=True), {**self.noise, **other.noise})

    def _shared(self, other: "Candidates") -> list[str]:
        return sorted(set(self.table[OUTPUT]) & set(other.table[OUTPUT]))

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the coordinates and conditions."""
        return tuple(str(name) for name in self.table if name not in RESERVED)

    def of(self, output: str) -> "Candidates":
        """Return the candidates with this output wherever the output was left out."""
        if (self.table[OUTPUT] != "").all():
            return self
        noise = {output if name == "" else name: model for name, model in self.noise.items()}
        return replace(self, table=self.table.assign(output=self.table[OUTPUT].replace("", output)), noise=noise)


@taught
@final
@dataclass(frozen=True, eq=False)
class PredictedOutput:
    """A predicted output, as a quantity for the argument `about` of `uqms.next_experiment`.

    A discrepancy is part of the prediction, as in `Posterior.predict`; measurement noise is not.

    Parameters
    ----------
    output
        Name.
    coords
        A number per coordinate: ``{"time": 24.0}``.
    conditions
        A number per known input: ``{"dose": 100.0}``.
    name
        In tables; by default the output with its place.

    Raises
    ------
    InputError
        When a place is not given by numbers.

    Examples
    --------
    >>> PredictedOutput("conc", coords={"time": 24.0}).label
    'conc(time=24)'
    """

    output: str
    coords: Mapping[str, float] | None = None
    conditions: Mapping[str, float] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        for key, given in (("coords", self.coords), ("conditions", self.conditions)):
            if given is not None and not (isinstance(given, Mapping) and all(map(check.is_number, given.values()))):
                raise InputError(f"PredictedOutput: {key} is {given!r}; give one number by name: {{'time': 24.0}}.")

    @property
    def place(self) -> dict[str, float]:
        """Coordinates and conditions by name."""
        return {**(self.coords or {}), **(self.conditions or {})}

    @property
    def label(self) -> str:
        """Name in tables."""
        where = ", ".join(f"{name}={value:g}" for name, value in self.place.items())
        return self.name or (f"{self.output}({where})" if where else self.output)


@taught
def candidates(
    table: pd.DataFrame | xr.Dataset | None = None,
    *,
    outputs: str | Sequence[str] | None = None,
    times: ArrayLike | None = None,
    coords: Mapping[str, ArrayLike] | None = None,
    conditions: Mapping[str, ArrayLike] | None = None,
    noise: Noise | Mapping[str, Noise] | None = None,
    cost: Cost = 1.0,
    replicates: int | Sequence[int] = 1,
    part: str | None = None,
) -> Candidates:
    """List measurements that could be made next, for `uqms.next_experiment` to choose from.

    Every combination of outputs, coordinates, conditions and replicates is a candidate; a table of your own has one
    candidate per row.

    Parameters
    ----------
    table
        A DataFrame, or a Dataset, with coordinates and conditions as columns, and if you like `output`, `replicates`,
        `cost` and `part`. Columns take the place of the arguments of the same name.
    outputs
        Names; may be left out when the calibration has one output.
    times
        The same as ``coords={"time": times}``.
    coords
        Values by coordinate of the output, in its unit. Outputs without coordinates take none: list them on their own
        and add the tables.
    conditions
        Values by known input, in its unit.
    noise
        Standard deviation in the unit of the output, or a noise model with known numbers; of several outputs a mapping.
        None is the noise of the calibration, with its posterior where it is inferred.
    cost
        Of one candidate with all its replicates: a number, numbers by output, or a function of the table. The unit is
        yours.
    replicates
        How often a candidate is measured in the same experiment. Several numbers make a candidate each. Replicates
        share the surrogate's error, so that they reduce noise alone.
    part
        Of a calibration of several parts: whose simulator is measured.

    Returns
    -------
    Candidates
        A frozen table.

    Raises
    ------
    InputError
        No candidate, values that are not finite numbers, noise that has a prior or no number, a cost that is not
        positive.

    Examples
    --------
    >>> ideas = candidates(outputs="conc", times=[1.0, 6.0, 24.0], conditions={"dose": [100.0, 200.0]}, noise=0.2)
    >>> len(ideas)
    6
    """
    names = [""] if outputs is None else [outputs] if isinstance(outputs, str) else list(outputs)
    frame = _product(times, coords, conditions) if table is None else _read(table, times, coords, conditions)
    counts = np.atleast_1d(np.asarray(replicates)).tolist()
    for key, values in ((OUTPUT, names), (REPLICATES, counts)):
        if key not in frame:
            frame = frame.merge(pd.DataFrame({key: values}), how="cross")
    if part is not None:
        frame[PART] = str(part)
    if not len(frame) or len(frame) > MOST:
        raise InputError(f"candidates: there are {len(frame)} candidates; give 1 to {MOST}: {HOW}.")
    if not all(check.is_whole(one, 1) for one in frame[REPLICATES].tolist()):
        raise InputError(f"candidates: replicates is {replicates!r}; give whole numbers of at least 1.")
    places = [name for name in frame if name not in RESERVED]
    for name in places:
        try:
            values = frame[name].to_numpy(dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"candidates: {name!r} has values that are not numbers.") from error
        if np.isinf(values).any() or (table is None and np.isnan(values).any()):
            raise InputError(f"candidates: {name!r} has values that are not finite; {HOW}.")
        frame[name] = values
    if COST not in frame:
        frame[COST] = _costs(frame, cost)
    costs = frame[COST].to_numpy(dtype=np.float64)
    if not (np.isfinite(costs) & (costs > 0.0)).all():
        raise InputError("candidates: costs must be positive, finite numbers.")
    frame[OUTPUT] = frame[OUTPUT].astype(str)
    columns = [*([PART] if PART in frame else []), OUTPUT, *places, REPLICATES, COST]
    return Candidates(frame[columns].reset_index(drop=True), _noise(noise, list(dict.fromkeys(frame[OUTPUT]))))


def _product(
    times: ArrayLike | None, coords: Mapping[str, ArrayLike] | None, conditions: Mapping[str, ArrayLike] | None
) -> pd.DataFrame:
    for key, given in (("coords", coords), ("conditions", conditions)):
        if given is not None and not isinstance(given, Mapping):
            raise InputError(f"candidates: {key} is {given!r}; give values by name: {HOW}.")
    axes: dict[str, Array] = {}
    for name, values in [*([("time", times)] if times is not None else []), *(coords or {}).items()]:
        if name in axes:
            raise InputError("candidates: times= and coords= both give 'time'; give one of them.")
        axes[str(name)] = check.real_array(values, f"candidates: {name}").ravel()
    for name, values in (conditions or {}).items():
        if name in axes:
            raise InputError(f"candidates: {name!r} is given as a coordinate and as a condition.")
        axes[str(name)] = check.real_array(values, f"candidates: {name}").ravel()
    rows = list(product(*axes.values()))
    return pd.DataFrame(np.array(rows, dtype=np.float64).reshape(len(rows), len(axes)), columns=list(axes))


def _read(table: Any, *others: Any) -> pd.DataFrame:
    if any(one is not None for one in others):
        raise InputError("candidates: a table has coordinates and conditions as columns; leave out times, coords and "
                         "conditions.")  # fmt: skip
    if isinstance(table, xr.Dataset):
        table = table.to_dataframe().reset_index()
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"candidates: table is a {type(table).__name__}; give a DataFrame, a Dataset, or {HOW}.")
    return table.rename(columns=str).reset_index(drop=True).copy()


def _costs(frame: pd.DataFrame, cost: Any) -> Array:
    if callable(cost):
        found = np.asarray(cost(frame), dtype=np.float64)
        if found.shape not in ((), (len(frame),)):
            raise InputError(f"candidates: cost returned the shape {found.shape}, expected ({len(frame)},).")
        return np.broadcast_to(found, len(frame)).copy()
    if isinstance(cost, Mapping):
        missing = sorted(set(frame[OUTPUT]) - set(cost))
        if missing:
            raise InputError(f"candidates: cost has no number for the outputs {missing}.")
        return np.array([float(cost[name]) for name in frame[OUTPUT]])
    if not check.is_number(cost):
        raise InputError(f"candidates: cost is {cost!r}; give a number, numbers by output, or a function of the table.")
    return np.full(len(frame), float(cost))


def _noise(given: Any, outputs: list[str]) -> dict[str, NoiseModel]:
    if given is None:
        return {}
    by_output = dict(given) if isinstance(given, Mapping) else dict.fromkeys(outputs, given)
    unknown = sorted(set(by_output) - set(outputs))
    if unknown:
        raise InputError(f"candidates: noise is given for {unknown}; the outputs are {outputs}.")
    return {name: _model(name, one) for name, one in by_output.items()}


def _model(output: str, given: Any) -> NoiseModel:
    of = f" of {output!r}" if output else ""
    if isinstance(given, NoiseModel):
        if given.columns:
            what = "trials" if given.counts else "sd"
            raise InputError(f"candidates: noise{of} is {type(given).__name__}() without a number; give its {what}.")
        priors = [role for role, value in given.parameters.items() if isinstance(value, Prior)]
        if priors:
            raise InputError(
                f"candidates: noise{of} has priors for {priors}; give known numbers, or noise=None for the noise that "
                "the calibration inferred."
            )
        return given
    if isinstance(given, type) and issubclass(given, NoiseModel):
        raise InputError(
            f"candidates: noise{of} is the class {given.__name__}; give {given.__name__}(...) with numbers."
        )
    if not check.is_number(given) or not given > 0:
        raise InputError(f"candidates: noise{of} is {given!r}; give a positive standard deviation or a noise model.")
    return GaussianNoise(float(given))

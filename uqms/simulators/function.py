"""A Python function as a simulator."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np

from uqms._teaching import taught
from uqms._typing import Array
from uqms.errors import InputError, OutputError
from uqms.simulators._declare import Declared, Setting, declared
from uqms.simulators._identity import code_hash
from uqms.simulators._labels import aligned
from uqms.simulators.contract import Coordinate, checked_outputs

if TYPE_CHECKING:
    from uqms.parameters import Regimen

__all__ = ["FunctionSimulator", "simulator_of"]

REGIMEN = "regimen"  # the argument of a function that takes one
WITHOUT = " A regimen is given with uq.FunctionSimulator(..., regimen=uq.Regimen.single(100.0))."
TRIED = 3  # points at which a plain function is called, until one run succeeds


@taught
@final
@dataclass(frozen=True, eq=False)
class FunctionSimulator:
    """A Python function that takes named numbers and returns named outputs.

    Use it for a model written in Python, or for one that a Python function starts. The function runs in worker
    processes: what it changes in its module stays there.

    Parameters
    ----------
    function
        Called as ``function(**point)`` with one float for each input. Returns a mapping output -> number or array; when
        there is one output, its value alone will do. A DataArray is matched by its dims and coordinates; the
        labels of a Series or DataFrame must be the coordinates. Masked entries count as missing.
    outputs
        Name of each output and its dims, ``()`` for a scalar: ``{"conc": ("day",), "peak": ()}``.
    coords
        Values of every dim, shape (m,): ``{"day": days}``.
    units
        Units of the outputs.
    version
        Your own word for what the function computes. Stored runs are found again under it; without it, under a hash of
        the function's source (comments left out), of your own code that it uses and of the values that it reads.
    name
        The function's own name by default.
    config
        Fixed settings that every call gets as keyword arguments: ``{"cells": 200}``. They are part of the identity.
    seed
        Name of the argument that takes the seed of a run, an int in [0, 2**31), when the function draws random numbers:
        ``seed="seed"`` calls ``function(..., seed=1234)``. Draw from ``numpy.random.default_rng(seed)`` alone, and the
        run can be repeated bit for bit.
    regimen
        Of a function that takes the doses of a patient as its argument ``regimen``: the usual `Regimen`, regular and
        from time 0. The inputs "dose", "interval", "duration" and "doses" of a run take the place of its own
        (`Regimen.with_conditions`); they are the conditions of `Observations.with_regimen_conditions`.

    Raises
    ------
    InputError
        When an output, dim or coordinate cannot be meant, or the usual regimen is not regular.

    Examples
    --------
    >>> import numpy as np
    >>> def decay(rate):
    ...     return np.exp(-rate * np.array([0.0, 1.0]))
    >>> simulator = FunctionSimulator(decay, outputs={"amount": ("hour",)}, coords={"hour": [0.0, 1.0]})
    >>> simulator.evaluate({"rate": 2.0})
    {'amount': array([1.   , 0.135])}
    """

    function: Callable[..., Any]
    outputs: Mapping[str, tuple[str, ...]] = field(kw_only=True)
    coords: Mapping[str, Coordinate] = field(kw_only=True, default_factory=dict)
    units: Mapping[str, str] = field(kw_only=True, default_factory=dict)
    version: str | None = field(kw_only=True, default=None)
    name: str | None = field(kw_only=True, default=None)
    config: Mapping[str, Setting] = field(kw_only=True, default_factory=dict)
    seed: str | None = field(kw_only=True, default=None)
    regimen: "Regimen | None" = field(kw_only=True, default=None)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise InputError(f"function is {self.function!r}, which cannot be called; give a Python function.")
        if self.version is not None and not isinstance(self.version, str):
            raise InputError(f"version is {self.version!r}; give a text such as '1.2'.")
        said = declared(self.outputs, self.coords, self.units, self.config, self.seed)
        called = self.name or getattr(self.function, "__qualname__", type(self.function).__name__)
        for key in ("outputs", "coords", "units", "config"):
            object.__setattr__(self, key, getattr(said, key))
        object.__setattr__(self, "name", called)
        if self.regimen is not None:
            _check_regimen(self.regimen, self.function, str(called))

    @property
    def _declared(self) -> Declared:
        return Declared(self.outputs, self.coords, self.units, self.config, self.seed)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The arguments that the function must get, without the settings of `config` and the seed.

        Raises
        ------
        InputError
            When the function does not say what it takes.
        """
        try:
            arguments = inspect.signature(self.function).parameters.values()
        except ValueError as error:
            raise InputError(f"{self.name} does not declare its arguments; name them where asked.") from error
        given = {*self.config, self.seed, *(() if self.regimen is None else (REGIMEN,))}
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return tuple(a.name for a in arguments if a.kind in named and a.default is a.empty and a.name not in given)

    @cached_property
    def identity(self) -> Mapping[str, object]:
        """What identifies a simulator: name, version (or hash of the code), settings, outputs, coords."""
        code = {"code": code_hash(self.function)} if self.version is None else {"version": self.version}
        usual = {} if self.regimen is None else {REGIMEN: [list(dose) for dose in self.regimen.doses]}
        return {"kind": "function", "name": self.name, **code, **self._declared.identity(), **usual}

    def prepare(self, inputs: Sequence[str]) -> None:
        """Raise an InputError when the function cannot be called with these inputs."""
        self._declared.refuse_clash(inputs, str(self.name))
        given = [
            *self._arguments(dict.fromkeys(inputs, 1.0)),
            *self.config,
            *([] if self.seed is None else [self.seed]),
        ]
        try:
            inspect.signature(self.function).bind(**dict.fromkeys(given, 0.0))
        except TypeError as error:
            raise InputError(
                f"{self.name}{inspect.signature(self.function)} cannot be called with the inputs "
                f"{', '.join(given)}: {error}. Inputs are given by name: def f({', '.join(given)})."
                + (WITHOUT if self.regimen is None and REGIMEN in inspect.signature(self.function).parameters else "")
            ) from error
        except ValueError:  # a compiled function that does not say what it takes
            return

    def _arguments(self, point: Mapping[str, float]) -> dict[str, Any]:
        """Return the arguments of the function at a point; inputs that are parts of the regimen are replaced by it."""
        if self.regimen is None:
            return dict(point)
        own = {name: value for name, value in point.items() if name in self.regimen.conditions}
        rest = {name: value for name, value in point.items() if name not in own}
        return {**rest, REGIMEN: self.regimen.with_conditions(**own)}

    def evaluate(self, point: Mapping[str, float]) -> dict[str, Array]:
        """Run the function once and check what it returns.

        Parameters
        ----------
        point
            One number for each input, and the seed where there is one.

        Returns
        -------
        dict
            Output -> float64 array, shaped by its dims.

        Raises
        ------
        OutputError
            When an output is missing, unknown, not finite or of the wrong shape; its `partial` holds what can be used.
            What the function raises passes on.
        """
        got = self.function(**self._arguments(point), **self.config)
        if not isinstance(got, Mapping):
            if len(self.outputs) > 1:
                raise OutputError(
                    f"{self.name} returned {type(got).__name__}, but it has {len(self.outputs)} outputs; "
                    f"return a mapping with {', '.join(self.outputs)}."
                )
            got = dict.fromkeys(self.outputs, got)
        plain = {str(name): value for name, value in got.items()}
        for name, dims in self.outputs.items():
            if name in plain:
                plain[name] = aligned(name, plain[name], dims, self.coords, self.units.get(name))
        return checked_outputs(plain, self.outputs, self.coords)


def _check_regimen(regimen: object, function: Callable[..., Any], called: str) -> None:
    """Refuse a usual regimen that is not regular, and a function that does not take it."""
    from uqms.parameters.regimen import CONDITIONS, Regimen  # workers that have no use for it do not load it

    if not isinstance(regimen, Regimen):
        raise InputError(f"regimen is {regimen!r}; give the usual one, such as uq.Regimen.single(100.0).")
    _ = regimen.conditions
    try:
        taken = inspect.signature(function).parameters
    except ValueError:  # a compiled function that does not say what it takes
        return
    whatever = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values())
    if REGIMEN not in taken and not whatever:
        raise InputError(f"{called} does not take a regimen; call its argument 'regimen': def f(..., regimen).")
    if twice := [name for name in CONDITIONS if name in taken]:
        raise InputError(
            f"{called} takes {twice[0]!r} and a regimen, of which {twice[0]!r} is a part. Read it from the regimen, or "
            "give the argument another name."
        )


def simulator_of(function: Callable[..., Any], points: Sequence[Mapping[str, float]]) -> FunctionSimulator:
    """Return the simulator of a plain function, with the outputs that a run at one of the points returns.

    A mapping has one output for each key, a DataArray its dims and coordinates. A number alone is called as the
    function is, "y" where it is a lambda.

    Raises
    ------
    InputError
        When the function does not take the inputs, fails at the first points, or returns what has no name or
        coordinates.
    """
    called = getattr(function, "__name__", type(function).__name__)
    alone = called if called.isidentifier() else "y"
    FunctionSimulator(function, outputs={"_": ()}).prepare(tuple(points[0]))
    wrong = ""
    for point in points[:TRIED]:
        try:
            returned = function(**point)
            break
        except Exception as error:
            wrong = wrong or f"{type(error).__name__}: {error}"
    else:
        raise InputError(
            f"run: {called} failed at the first {min(TRIED, len(points))} points ({wrong}), so that its outputs are "
            f"not known. Correct the function, or declare its outputs: uq.FunctionSimulator({_written(called)}, "
            f"outputs={{'y': ()}})."
        )
    values = dict(returned) if isinstance(returned, Mapping) else {alone: returned}
    outputs: dict[str, tuple[str, ...]] = {}
    coords: dict[str, Coordinate] = {}
    units: dict[str, str] = {}
    for name, value in values.items():
        if hasattr(value, "dims") and hasattr(value, "coords"):
            outputs[name] = tuple(str(dim) for dim in value.dims)
            coords |= {str(dim): np.asarray(value[dim].values) for dim in value.dims if dim in value.coords}
            units |= (
                {name: str(value.attrs["units" if "units" in value.attrs else "unit"])}
                if ({"unit", "units"} & set(value.attrs))
                else {}
            )
        elif np.ndim(value) == 0 and value is not None and np.asarray(value).dtype.kind in "fiub":
            outputs[name] = ()
        else:
            raise InputError(_without_coordinates(called, name, value, isinstance(returned, Mapping)))
    return FunctionSimulator(function, outputs=outputs, coords=coords, units=units)


def _without_coordinates(called: str, name: str, value: object, mapping: bool) -> str:
    """Say what a plain function has to return where its output is no number."""
    if value is None or np.asarray(value).dtype.kind not in "fiub":
        what = "nothing (None)" if value is None else f"a {type(value).__name__}"
        return (
            f"run: {called} returned {what}{f' as {name!r}' if mapping else ''}; return a number, or numbers by the "
            "name of each output: return {'peak': 3.1}."
        )
    size = np.asarray(value).shape
    if isinstance(value, tuple) and not mapping and len(size) == 1:
        return (
            f"run: {called} returned a tuple of {size[0]} numbers; return a dictionary with the name of each output: "
            "return {'peak': 3.1, 'mean': 2.2}. For a curve, return an xarray.DataArray with coordinates."
        )
    return (
        f"run: output {name!r} of {called} is an array of shape {size}, whose coordinates are not known. Declare them, "
        f"uq.FunctionSimulator({_written(called)}, outputs={{{name!r}: ('time',)}}, coords={{'time': times}}), or "
        "return an xarray.DataArray with coordinates."
    )


def _written(called: str) -> str:
    """Return what stands for the function in a call: its name, where it has one."""
    return called if called.isidentifier() else "function"

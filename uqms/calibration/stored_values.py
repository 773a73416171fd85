"""Settings of a calibration as JSON and arrays, and back: numbers, text, priors, noise, surrogates, code by its name.

==================  ================================================================================================
in JSON             stands for
==================  ================================================================================================
number, text, null  itself
{"float": "inf"}    a float that JSON does not have
{"items": [...]}    a list or tuple; {"pairs": [[k, v], ...]} a mapping
{"array": k}        the k-th float64 array; {"entries": [...], "kind": "i"} an array of whole numbers, bools or text
{"prior": {...}}    `Prior.to_dict`; {"space": text} `ParameterSpace.to_json`; {"kernel": ...} `description_of`
{"part": name}      a dataclass of uqms and its fields
{"class": name}     a dataclass of the user's own and its fields, by import name
{"function": name}  a function of the user's own, by import name
{"surrogate": k}    the k-th surrogate, each stored once: what its own file holds, or a dataclass with its fields
{"lost": name}      a function that has no import name: a lambda, or one inside of another function
==================  ================================================================================================

A file is not trusted: only the dataclasses in `PARTS`, and what `_import_names` admits, are called with its contents.
"""

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import FunctionType
from typing import Any, NoReturn, final

import numpy as np
import pandas as pd

from uqms._import_names import class_named, class_with, function_named, name_of_function, stored_name
from uqms._typing import Array
from uqms.calibration.base import Derived
from uqms.calibration.checks import Check
from uqms.calibration.direct import DirectSimulator
from uqms.calibration.discrepancy import BasisDiscrepancy, GPDiscrepancy, OffsetDiscrepancy, ScaleDiscrepancy
from uqms.calibration.noise import CustomNoise, NoiseModel
from uqms.calibration.observations import Observations
from uqms.calibration.population.population import Population
from uqms.errors import InputError
from uqms.parameters import Box, ParameterSpace, Prior, Regimen
from uqms.parameters.priors import prior_from_dict
from uqms.surrogates.jax_surrogate import JaxSurrogate
from uqms.surrogates.kernel_files import description_of, kernel_of_description
from uqms.surrogates.kernels import Kernel
from uqms.surrogates.loading import packed, unpacked
from uqms.surrogates.outputs import Layout
from uqms.surrogates.protocol import Surrogate
from uqms.surrogates.superposition import Superposition
from uqms.surrogates.transforms import Identity, Log, Logit

__all__ = ["Reader", "Writer"]

PARTS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        BasisDiscrepancy,
        Check,
        CustomNoise,
        Derived,
        DirectSimulator,
        GPDiscrepancy,
        Identity,
        JaxSurrogate,
        Layout,
        Log,
        Logit,
        Observations,
        OffsetDiscrepancy,
        Population,
        Regimen,
        ScaleDiscrepancy,
        Superposition,
    )
}
SURROGATE = ("domain", "layouts", "scores", "scores_reverse", "decode", "functions")  # what a class has to have
DEPTH = 12  # of values in values


@final
class Writer:
    """Turns values into JSON, and collects arrays and surrogates."""

    def __init__(self) -> None:
        self.arrays: list[Array] = []
        self.surrogates: list[dict[str, Any]] = []
        self.classes: set[str] = set()  # code of the user's own that the file needs
        self._seen: list[object] = []

    def value(self, value: object, what: str) -> Any:
        """Return a value as JSON; `what` says in messages what it is.

        Raises
        ------
        InputError
            When a file cannot hold it: an object of a class that has no import name, for instance.
        """
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, np.generic):
            return self.value(value.item(), what)
        if isinstance(value, int):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, np.ndarray):
            return self._array(value, what)
        if isinstance(value, pd.DataFrame):
            return self._table(value, what)
        if isinstance(value, ParameterSpace):
            return {"space": value.to_json()}
        if isinstance(value, Box):
            return {"box": value.to_dict()}
        if isinstance(value, Prior):
            self._own(stored_name(type(value), "prior"))
            return {"prior": value.to_dict()}
        if isinstance(value, Kernel):
            return {"kernel": description_of(value)}
        if isinstance(value, Mapping):
            return {
                "pairs": [[self.value(key, what), self.value(one, f"{what} {key!r}")] for key, one in value.items()]
            }
        if isinstance(value, list | tuple | set | frozenset):
            return {"items": [self.value(one, what) for one in value]}
        return self._object(value, what)

    def _array(self, value: "np.ndarray[Any, np.dtype[Any]]", what: str) -> Any:
        kind = value.dtype.kind
        if kind == "f":
            self.arrays.append(np.asarray(value, dtype=np.float64))
            return {"array": len(self.arrays) - 1}
        if kind in "iubUO":
            entries = [self.value(one, what) for one in value.ravel().tolist()]
            return {"entries": entries, "kind": kind, "shape": list(value.shape)}
        self._refuse(value, what, "give an array of numbers or text")

    def _table(self, table: pd.DataFrame, what: str) -> Any:
        columns = {str(name): column.to_numpy() for name, column in table.items()}
        index = [str(one) for one in table.index]
        return {"table": self.value(columns, what), "index": index, "named": table.index.name}

    def _object(self, value: object, what: str) -> Any:
        name = name_of_function(value)
        if name is not None:
            self._own(name)
            return {"function": name}
        stored = packed(value)
        if stored is None and isinstance(value, Surrogate):
            return self._surrogate(value, lambda: self._dataclass(value, what))
        if stored is not None:
            arrays = stored.arrays

            def inside() -> dict[str, Any]:
                places = {name: self._array(np.asarray(one, dtype=np.float64), what) for name, one in arrays.items()}
                return {"header": stored.header, "arrays": {name: one["array"] for name, one in places.items()}}

            return self._surrogate(value, inside)
        if callable(value) and not is_dataclass(value):
            return {"lost": getattr(value, "__qualname__", type(value).__name__)}
        return self._dataclass(value, what)

    def _surrogate(self, value: object, made: Callable[[], dict[str, Any]]) -> Any:
        at = next((i for i, one in enumerate(self._seen) if one is value), None)
        if at is None:
            described = made()
            at = len(self._seen)
            self._seen.append(value)
            self.surrogates.append(described)
        return {"surrogate": at}

    def _dataclass(self, value: object, what: str) -> dict[str, Any]:
        cls = type(value)
        if not is_dataclass(value):
            self._refuse(value, what, "make its class a dataclass whose fields are numbers, arrays, text or functions")
        given = {one.name: getattr(value, one.name) for one in fields(value) if one.init}
        named = {name: self.value(one, f"{name} of {cls.__name__}") for name, one in given.items()}
        lost = [name for name, one in named.items() if _lost(one)]
        if lost and not isinstance(value, Derived):
            raise InputError(
                f"the posterior cannot be saved: {', '.join(lost)} of {cls.__name__} is a function that another "
                "process cannot import. Define it with `def` at the top level of a module (a file) of your own and "
                "import it from there."
            )
        if PARTS.get(cls.__name__) is cls:
            return {"part": cls.__name__, "fields": named}
        known = isinstance(value, NoiseModel | Surrogate)
        if not known:
            self._refuse(value, what, "this class cannot stand in a file")
        name = stored_name(cls, "noise model" if isinstance(value, NoiseModel) else "surrogate")
        self._own(name)
        return {"class": name, "fields": named}

    def _own(self, name: str) -> None:
        if not name.startswith(("uqms:", "uqms.")):
            self.classes.add(name)

    def _refuse(self, value: object, what: str, advice: str) -> NoReturn:
        raise InputError(
            f"the posterior cannot be saved: {what} is {reprlib.repr(value)} ({type(value).__name__}); {advice}. Draws "
            "alone are written by posterior.to_netcdf(path)."
        )


def _lost(value: Any) -> bool:
    """Return whether there is a function without a name in the JSON of a value."""
    if isinstance(value, dict):
        return "lost" in value or any(_lost(one) for key, one in value.items() if key in ("items", "pairs"))
    return isinstance(value, list) and any(_lost(one) for one in value)


@final
@dataclass(frozen=True, eq=False)
class Gone:
    """A function of a derived quantity that no file can hold; its draws are in the posterior."""

    name: str

    def __call__(self, parameters: Mapping[str, Any]) -> Any:
        """Raise.

        Raises
        ------
        InputError
            Always.
        """
        raise InputError(
            f"a derived quantity is computed by {self.name!r}, which the file of the posterior does not hold: it was a "
            "lambda, or defined inside of another function. Its draws are in posterior.draws. To sample again, make "
            "the calibration anew, with the function defined at the top level of a module."
        )


@final
class Reader:
    """Turns JSON, arrays and surrogates of a `Writer` into values."""

    def __init__(self, arrays: Sequence[Array], surrogates: Sequence[Any]) -> None:
        self._arrays, self._described = arrays, surrogates
        self._surrogates: dict[int, Any] = {}

    def value(self, value: Any, depth: int = DEPTH) -> Any:
        """Return the value of which `Writer.value` returned this.

        Raises
        ------
        UnknownClassError
            When code of the user's own cannot be imported.
        InputError
            When this describes no value.
        """
        if value is None or isinstance(value, bool | str | int | float):
            return value
        if not isinstance(value, dict) or not value or not depth:
            raise InputError(f"it holds the setting {reprlib.repr(value)}")
        kind = next(iter(value))
        reading = getattr(self, f"_read_{kind}", None) if kind in KINDS else None
        if reading is None:
            raise InputError(f"it holds the setting {reprlib.repr(value)}")
        return reading(value, depth - 1)

    def _read_float(self, value: dict[str, Any], depth: int) -> float:
        return float({"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[value["float"]])

    def _read_items(self, value: dict[str, Any], depth: int) -> tuple[Any, ...]:
        return tuple(self.value(one, depth) for one in value["items"])

    def _read_pairs(self, value: dict[str, Any], depth: int) -> dict[Any, Any]:
        return {self.value(key, depth): self.value(one, depth) for key, one in value["pairs"]}

    def _read_array(self, value: dict[str, Any], depth: int) -> Array:
        return np.array(self._arrays[value["array"]])

    def _read_entries(self, value: dict[str, Any], depth: int) -> "np.ndarray[Any, np.dtype[Any]]":
        dtype: Any = {"i": np.int64, "u": np.int64, "b": np.bool_, "U": np.str_, "O": object}[value["kind"]]
        return np.array([self.value(one, depth) for one in value["entries"]], dtype=dtype).reshape(value["shape"])

    def _read_table(self, value: dict[str, Any], depth: int) -> pd.DataFrame:
        return pd.DataFrame(self.value(value["table"], depth), index=pd.Index(value["index"], name=value["named"]))

    def _read_space(self, value: dict[str, Any], depth: int) -> ParameterSpace:
        return ParameterSpace.from_json(value["space"])

    def _read_box(self, value: dict[str, Any], depth: int) -> Box:
        return Box.from_dict(value["box"])

    def _read_prior(self, value: dict[str, Any], depth: int) -> Prior:
        return prior_from_dict(value["prior"])

    def _read_kernel(self, value: dict[str, Any], depth: int) -> Kernel:
        return kernel_of_description(value["kernel"])

    def _read_part(self, value: dict[str, Any], depth: int) -> Any:
        return self._made(PARTS[value["part"]], value["fields"], depth)

    def _read_class(self, value: dict[str, Any], depth: int) -> Any:
        return self._made(class_named(value["class"], NoiseModel, "noise model"), value["fields"], depth)

    def _read_function(self, value: dict[str, Any], depth: int) -> FunctionType:
        return function_named(value["function"], "function")

    def _read_lost(self, value: dict[str, Any], depth: int) -> Gone:
        return Gone(str(value["lost"]))

    def _read_surrogate(self, value: dict[str, Any], depth: int) -> Any:
        at = value["surrogate"]
        if at not in self._surrogates:
            self._surrogates[at] = self._rebuilt(self._described[at], depth)
        return self._surrogates[at]

    def _rebuilt(self, described: dict[str, Any], depth: int) -> Any:
        if "header" in described:
            arrays = {str(name): self._arrays[place].copy() for name, place in described["arrays"].items()}
            return unpacked(described["header"], arrays)
        if "part" in described:
            return self._read_part(described, depth)
        return self._made(class_with(described["class"], SURROGATE, "surrogate"), described["fields"], depth)

    def _made(self, cls: Any, described: Mapping[str, Any], depth: int) -> Any:
        known = {one.name for one in fields(cls) if one.init}
        # Files that an earlier version wrote lack the fields that have a default since.
        needed = {one.name for one in fields(cls) if one.init and one.default is MISSING is one.default_factory}
        if not needed <= set(described) <= known:
            raise InputError(f"{cls.__name__} has the fields {sorted(known)}, the file {sorted(described)}")
        values = {name: self.value(one, depth) for name, one in described.items()}
        try:
            return cls(**values)
        except InputError:
            raise
        except Exception as error:  # of the user's own class
            raise InputError(f"{cls.__name__} does not take what the file holds ({error})") from error


KINDS = frozenset(name.removeprefix("_read_") for name in vars(Reader) if name.startswith("_read_"))

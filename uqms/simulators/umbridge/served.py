"""A model as UM-Bridge clients see it: vectors instead of names, and an error for everything that cannot be meant."""

import dataclasses
import math
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import xarray as xr

from uqms._typing import Array
from uqms.errors import ExtrapolationError, InputError, OutputError, SimulatorTimeout
from uqms.simulators._declare import Setting
from uqms.simulators.contract import Coordinate, checked_outputs
from uqms.simulators.deadline import deadline
from uqms.simulators.umbridge import wire
from uqms.simulators.umbridge.grouping import Groups, grouped

__all__ = ["Evaluable", "Refusal", "Served", "served", "told"]

SEEDS = 2**31
QUESTION = 5.0  # s for a proxy to ask the server behind it


@runtime_checkable
class Evaluable(Protocol):
    """What can be served: a simulator, a fitted surrogate, or anything of one's own with these members.

    `inputs` (names in order) may be left out when `serve` is told them. With a method
    ``gradient(point, sensitivity) -> {input: derivative}`` of sum(outputs * sensitivity), gradients are offered too,
    unless `offers_gradient` is False.
    """

    @property
    def outputs(self) -> Mapping[str, tuple[str, ...]]:
        """Name of each output and its dims, ``()`` for a scalar."""
        ...

    @property
    def coords(self) -> Mapping[str, Coordinate]:
        """Coordinate values of every dim, shape (m,)."""
        ...

    def evaluate(self, point: Mapping[str, float]) -> Mapping[str, Array]:
        """Return every output at one point."""
        ...


class Refusal(Exception):
    """An error that is sent to the client: HTTP status, type and message of the protocol.

    `partial` holds the output vectors as far as there are any, None for a missing number.
    """

    def __init__(self, status: int, kind: str, message: str, partial: list[list[float | None]] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.partial = partial


@final
@dataclass(frozen=True, eq=False)
class Served:
    """One model with the names of its vectors' entries."""

    name: str
    model: Evaluable
    vectors: Groups
    settable: frozenset[str]

    @property
    def seed(self) -> str | None:
        """Name of the input that takes a seed."""
        return getattr(self.model, "seed", None)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every output."""
        coords = self.model.coords
        return {name: tuple(len(coords[dim]) for dim in dims) for name, dims in self.model.outputs.items()}

    @property
    def input_sizes(self) -> list[int]:
        """Lengths of the input vectors."""
        return [len(group) for group in self.vectors]

    @property
    def output_sizes(self) -> list[int]:
        """Lengths of the output vectors, one per output."""
        return [math.prod(shape) for shape in self.shapes.values()]

    @property
    def has_gradient(self) -> bool:
        """Whether the model has a method for gradients."""
        return callable(getattr(self.model, "gradient", None))

    def support(self) -> bytes:
        """Return the body of an answer that says what the model offers."""
        with deadline(QUESTION):
            gradient = self.has_gradient and bool(getattr(self.model, "offers_gradient", True))
        offers = {"Evaluate": True, "Gradient": gradient, "ApplyJacobian": False, "ApplyHessian": False}
        return wire.dumps({"support": offers})

    def check_config(self, message: Mapping[str, object]) -> dict[str, Any]:
        """Return the config of a request, with the numbers that the model's own settings have.

        Raises
        ------
        Refusal
            When it names a setting that this model does not have or does not let clients change.
        """
        config = message.get("config", {})
        if config is None or config == []:  # R's client knows no empty object
            config = {}
        if not isinstance(config, dict):
            raise Refusal(400, "InvalidInput", "config must be a JSON object.")
        own: Mapping[str, Setting] = getattr(self.model, "config", {})
        seed = None if any(self.seed in group for group in self.vectors) else self.seed
        for key, value in config.items():
            if key in self.settable:
                config[key] = _like(own[key], value, key)
            elif key == seed:
                _check_seed(value)
            else:
                known = ", ".join(sorted({*self.settable, *([seed] if seed else [])})) or "no settings"
                raise Refusal(
                    400,
                    "InvalidInput",
                    f"config has the unknown key {wire.shortened(key, 60)!r}; this model takes: {known}.",
                )
        return config

    def evaluation(self, message: Mapping[str, object]) -> Callable[[], bytes]:
        """Check a request to evaluate, and return what gives the body of its answer.

        Raises
        ------
        Refusal
            When it does not fit the model.
        """
        config, point = self.check_config(message), self._point(message)

        def run() -> bytes:
            model = self._configured(config)
            try:
                got = checked_outputs(model.evaluate(self._seeded(point, config)), model.outputs, model.coords)
            except OutputError as error:
                raise told(error, self._partial(error.partial)) from error
            return wire.dumps({"output": [got[name].ravel().tolist() for name in self.shapes]})

        return run

    def gradient(self, message: Mapping[str, object]) -> Callable[[], bytes]:
        """Check a request for a gradient, and return what gives the body of its answer.

        Raises
        ------
        Refusal
            When it does not fit the model, or the model offers none.
        """
        if not self.has_gradient:
            raise Refusal(400, "UnsupportedFeature", f"Model {self.name!r} offers no Gradient.")
        config, point = self.check_config(message), self._point(message)
        output = list(self.shapes)[_index(message, "outWrt", len(self.shapes))]
        names = self.vectors[_index(message, "inWrt", len(self.vectors))]
        shape = self.shapes[output]
        weights = _vector(message.get("sens"), "sens", math.prod(shape)).reshape(shape)

        def run() -> bytes:
            model: Any = self._configured(config)
            got = model.gradient(self._seeded(point, config), {output: weights})
            slopes = [float(got[name]) if name != self.seed else 0.0 for name in names]
            if not np.isfinite(slopes).all():
                raise OutputError(f"the gradient is {slopes}; it must be finite.")
            return wire.dumps({"output": slopes})

        return run

    def _partial(self, partial: Mapping[str, Array] | None) -> list[list[float | None]] | None:
        if partial is None:
            return None
        vectors = [np.ravel(partial[name]).tolist() for name in self.shapes]
        return [[value if math.isfinite(value) else None for value in vector] for vector in vectors]

    def _configured(self, config: Mapping[str, Any]) -> Evaluable:
        changed = {key: value for key, value in config.items() if key in self.settable}
        if not changed:
            return self.model
        model: Any = self.model
        return dataclasses.replace(model, config={**model.config, **changed})  # type: ignore[no-any-return]

    def _point(self, message: Mapping[str, object]) -> dict[str, float]:
        vectors = message.get("input")
        if not isinstance(vectors, list) or len(vectors) != len(self.vectors):
            got = f"{len(vectors)} vectors" if isinstance(vectors, list) else "no list"
            raise Refusal(400, "InvalidInput", f"input is {got}; {len(self.vectors)} vectors are due.")
        point: dict[str, float] = {}
        for i, (names, values) in enumerate(zip(self.vectors, vectors, strict=True)):
            point.update(zip(names, _vector(values, f"input vector {i}", len(names)).tolist(), strict=True))
        if self.seed in point:
            _check_seed(point[self.seed])
            point[self.seed] = int(point[self.seed])
        return point

    def _seeded(self, point: dict[str, float], config: Mapping[str, Any]) -> dict[str, float]:
        if self.seed is None or self.seed in point:
            return point
        return {**point, self.seed: int(config.get(self.seed, secrets.randbelow(SEEDS)))}


def served(name: str, model: object, inputs: object, settable: Collection[str]) -> Served:
    """Check that a model can be served.

    Raises
    ------
    InputError
        Says what it lacks.
    """
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"a model is called {name!r}; give it a name.")
    if isinstance(model, xr.Dataset | xr.DataArray):
        raise InputError(f"serve: {name!r} are runs; serve a surrogate of them, uq.GaussianProcess().fit(ensemble).")
    if not isinstance(model, Evaluable):
        raise InputError(
            f"{type(model).__name__} cannot be served: it needs outputs, coords and evaluate(point). Wrap it in a "
            "FunctionSimulator, or give it these members."
        )
    if inputs is None:
        inputs = getattr(model, "inputs", None)
    if inputs is None:
        raise InputError(f"model {name!r} does not declare its inputs; give serve(..., inputs=[...]) with their names.")
    vectors = grouped(list(inputs) if isinstance(inputs, tuple) else inputs)
    _refuse_other_inputs(name, model, vectors)
    missing = sorted({dim for dims in model.outputs.values() for dim in dims} - set(model.coords))
    if not model.outputs or missing:
        raise InputError(f"model {name!r} has no {f'coords of {missing}' if missing else 'outputs'}; give it some.")
    own = getattr(model, "config", {})
    for key in settable:
        if key not in own:
            raise InputError(f"config names {key!r}, which is no setting of {name!r}; it has {sorted(own)}.")
    if settable and not dataclasses.is_dataclass(model):
        raise InputError(
            f"model {name!r} is no dataclass, so its config cannot be changed for a call; leave out config."
        )
    return Served(name, model, vectors, frozenset(settable))


def _refuse_other_inputs(name: str, model: Any, vectors: Groups) -> None:
    given = [each for group in vectors for each in group]
    try:
        known = getattr(model, "inputs", None) or given
    except InputError:  # a compiled function does not say; it was told
        return
    seed = getattr(model, "seed", None)
    missing, unknown = sorted(set(known) - set(given)), sorted(set(given) - {*known, seed})
    prepare = getattr(model, "prepare", None)
    if unknown and not missing and callable(prepare):  # a simulator knows what is optional
        prepare([each for each in given if each != seed])
    elif missing or unknown:
        raise InputError(
            f"inputs of {name!r} lacks {missing} and has the unknown {unknown}; the model takes {', '.join(known)}."
        )


def told(error: BaseException, partial: list[list[float | None]] | None = None) -> Refusal:
    """Return the error for the client when the model has raised: type and message in one line, no traceback."""
    text = str(error).split("Traceback (most recent call last)")[0]
    message = f"{type(error).__name__}: {wire.shortened(text)}"
    if isinstance(error, InputError | ExtrapolationError):
        return Refusal(400, "InvalidInput", message)
    if isinstance(error, SimulatorTimeout):
        return Refusal(504, "Timeout", message)
    return Refusal(500, "InvalidOutput" if isinstance(error, OutputError) else "ModelError", message, partial)


def _vector(values: object, what: str, size: int) -> Array:
    try:
        return wire.strict_numbers(values, what, size)
    except wire.WireError as error:
        raise Refusal(400, "InvalidInput", f"{error}.") from None


def _index(message: Mapping[str, object], key: str, count: int) -> int:
    value = message.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
        raise Refusal(400, "InvalidInput", f"{key} must be a whole number from 0 to {count - 1}.")
    return value


def _check_seed(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or not 0 <= value < SEEDS:
        raise Refusal(400, "InvalidInput", "the seed must be a whole number from 0 to 2147483647.")


def _like(own: Any, value: Any, key: str) -> Any:
    """Return the value of a setting as the kind of number that the model's own one is."""
    if _kind(value) != _kind(own):
        raise Refusal(400, "InvalidInput", f"config has {key!r} as {_kind(value)}; give {_kind(own)}.")
    if isinstance(own, int) and value != int(value):
        raise Refusal(400, "InvalidInput", f"config has {key!r} as {value}; give a whole number.")
    return type(own)(value)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    return "a number" if isinstance(value, int | float) else "a text" if isinstance(value, str) else "something else"

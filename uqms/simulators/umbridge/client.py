"""The client: any UM-Bridge model as a simulator."""

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

import numpy as np

from uqms import _checks as check
from uqms._teaching import taught
from uqms._typing import Array, ArrayLike
from uqms.errors import InputError, OutputError, SimulatorError, SimulatorNotFound, SimulatorTimeout
from uqms.simulators._declare import Declared, Setting, declared
from uqms.simulators.contract import Coordinate, checked_outputs
from uqms.simulators.deadline import remaining
from uqms.simulators.umbridge import wire
from uqms.simulators.umbridge.connections import Connections
from uqms.simulators.umbridge.grouping import checked_inputs, spans
from uqms.simulators.umbridge.peer import InvalidOutput, Peer, checked_url

__all__ = ["UMBridgeSimulator"]

QUESTION = 30.0  # s for a question about the model, which takes no evaluation
MARGIN = 0.05  # s before the deadline of the run, so that what happened can still be told
SMALLEST = 1 << 20  # bytes that every answer may have; a number takes about 20
PER_NUMBER = 64


@taught
@final
@dataclass(frozen=True, eq=False)
class UMBridgeSimulator:
    """A model behind HTTP that speaks UM-Bridge, the field's protocol for models in any language.

    Use it for a simulator that runs as a service, in a container or on another machine. Each run is one request; the
    model may take days, as long as the run's own deadline allows.

    Parameters
    ----------
    url
        Where the server is: ``"http://localhost:4242"``. Redirects are never followed.
    model
        The model's name at the server.
    outputs
        Name of each output and its dims, ``()`` for a scalar. UM-Bridge models return vectors without names: the
        outputs take their entries from all output vectors put one after the other, in order, with dims in C order. An
        output is a part of one vector (several scalars in one vector) or consists of whole vectors.
    inputs
        Names of the entries of the model's input vectors: ``["a", "b"]`` for one vector of two, ``[["a", "b"], ["c"]]``
        for a vector of two and one of one.
    coords
        Values of every dim, shape (m,).
    units
        Units of the outputs.
    config
        The model's config: numbers, texts, True or False. Part of the identity.
    seed
        Name under which the model takes the seed of a run: an entry of an input vector when `inputs` has that name,
        otherwise a key of the config.
    version
        Your own word for what the model computes. Give it: the server's code is not seen, and stored runs are found
        again under `model`, `version`, `config`, `inputs` and `outputs`, wherever the server is.
    name
        What it is called in messages and tables; `model` by default.
    timeout
        Seconds for one evaluation in total, with retries. The run's deadline holds besides.
    retries
        How often a request is sent again when there is no connection, it breaks (then the model computes again), or
        the server says that it is busy (502, 503). Errors of the model are not retried. A request over a kept
        connection that the server had closed meanwhile is sent again besides.
    token
        Sent as ``Authorization: Bearer``, for servers that ask for one. It is no part of the identity and stands in no
        message.
    vectors
        The names by input vector, seed included. Filled in from `inputs`.

    Raises
    ------
    InputError
        For a URL that is not http(s) or holds credentials, and for names that cannot be meant.

    Examples
    --------
    >>> simulator = UMBridgeSimulator(
    ...     "http://localhost:4242", "forward", inputs=["a", "b"], outputs={"y": ()}, version="1.0"
    ... )
    >>> simulator.inputs
    ('a', 'b')
    """

    url: str
    model: str
    outputs: Mapping[str, tuple[str, ...]] = field(kw_only=True)
    inputs: Sequence[str] = field(kw_only=True)
    coords: Mapping[str, Coordinate] = field(kw_only=True, default_factory=dict)
    units: Mapping[str, str] = field(kw_only=True, default_factory=dict)
    config: Mapping[str, Setting] = field(kw_only=True, default_factory=dict)
    seed: str | None = field(kw_only=True, default=None)
    version: str | None = field(kw_only=True, default=None)
    name: str | None = field(kw_only=True, default=None)
    timeout: float | None = field(kw_only=True, default=None)
    retries: int = field(kw_only=True, default=3)
    token: str | None = field(kw_only=True, default=None, repr=False)
    vectors: tuple[tuple[str, ...], ...] | None = field(kw_only=True, default=None, repr=False)
    _peer: Peer = field(init=False, repr=False)

    def __post_init__(self) -> None:
        url = checked_url(self.url)
        if not isinstance(self.model, str) or not self.model.strip():
            raise InputError(f"model is {self.model!r}; give the model's name at the server, such as 'forward'.")
        if self.version is not None and not isinstance(self.version, str):
            raise InputError(f"version is {self.version!r}; give a text such as '1.2'.")
        _check_limits(self.timeout, self.retries, self.token)
        said = declared(self.outputs, self.coords, self.units, self.config, self.seed)
        inputs, vectors = checked_inputs(self.inputs, self.vectors, self.seed)
        said.refuse_clash(inputs, self.model)
        for key in ("outputs", "coords", "units", "config"):
            object.__setattr__(self, key, getattr(said, key))
        object.__setattr__(self, "url", url)
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "name", self.name or self.model)
        object.__setattr__(self, "_peer", Peer(url, self.model, self.retries, self.token, Connections(url)))

    @property
    def _groups(self) -> tuple[tuple[str, ...], ...]:
        return self.vectors or ()

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(len(self.coords[dim]) for dim in dims) for name, dims in self.outputs.items()}

    @cached_property
    def _entries(self) -> int:
        """Number of values of all outputs."""
        return sum(math.prod(shape) for shape in self._shapes.values())

    @cached_property
    def identity(self) -> Mapping[str, object]:
        """What identifies a simulator: model, version, config, inputs and outputs; not where it runs."""
        version = {} if self.version is None else {"version": self.version}
        said = Declared(self.outputs, self.coords, self.units, self.config, self.seed).identity()
        grouped = [list(group) for group in self._groups]
        return {"kind": "umbridge", "name": self.name, "model": self.model, **version, "inputs": grouped, **said}

    def prepare(self, inputs: Sequence[str]) -> None:
        """Ask the server whether it has this model, with these inputs and outputs.

        Raises
        ------
        SimulatorNotFound
            When no UM-Bridge server answers at the URL, or it has no such model.
        InputError
            When the inputs are others than declared, or their sizes differ from the model's; for a redirect; when the
            server requires another token.
        OutputError
            When the outputs do not fit the sizes of the model's output vectors.
        """
        missing = [name for name in self.inputs if name not in inputs]
        extra = [name for name in inputs if name not in self.inputs]
        if missing or extra:
            raise InputError(
                f"{self.name} takes the inputs {', '.join(self.inputs)}; missing {missing}, unknown {extra}. Give the "
                "design the same names, or change inputs=."
            )
        self._check_server()
        if not self._support().get("Evaluate", False):
            raise SimulatorNotFound(f"{self._peer.where} does not offer Evaluate; choose another model of that server.")
        got = self._sizes("Input")
        wanted = tuple(map(len, self._groups))
        if got != wanted:
            raise InputError(
                f"{self._peer.where} takes input vectors of sizes {list(got)}, but inputs= names {list(wanted)}: "
                f"{[list(group) for group in self._groups]}. Name one input for each entry."
            )
        self._placed(self._sizes("Output"))

    @property
    def offers_gradient(self) -> bool:
        """Whether the model has a gradient; asks the server."""
        return bool(self._support().get("Gradient", False))

    def evaluate(self, point: Mapping[str, float]) -> dict[str, Array]:
        """Evaluate the model once.

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
        SimulatorTimeout
            At `timeout` or at the run's deadline, whatever the server does; also when it says that the model was late.
        SimulatorFailed
            When the model or the server says that it failed, or there is no connection after all retries or until the
            deadline.
        OutputError
            When the answer is no UM-Bridge answer, has other sizes, or holds NaN; then `partial` keeps the rest.
        InputError
            When the server answers with a redirect, or requires another token.
        """
        try:
            answer = self._ask("Evaluate", self._message(point), self.timeout)
        except InvalidOutput as error:
            raise OutputError(str(error), self._usable(error.vectors)) from None
        return checked_outputs(self._shaped(answer.get("output")), self.outputs, self.coords)

    def _shaped(self, vectors: object) -> dict[str, Array]:
        """Return the outputs that lie in a server's vectors; what is no number is NaN."""
        if not isinstance(vectors, list):
            raise self._peer.misread(f"without a list 'output', but {wire.shortened(repr(vectors), 200)}")
        try:
            values = [wire.numbers(vector) for vector in vectors]
        except wire.WireError as error:
            raise self._peer.misread(str(error)) from error
        self._placed(tuple(map(len, values)))
        cut = wire.split(np.concatenate(values), [math.prod(shape) for shape in self._shapes.values()])
        return {name: part.reshape(shape) for (name, shape), part in zip(self._shapes.items(), cut, strict=True)}

    def _usable(self, vectors: object) -> Mapping[str, Array] | None:
        """Return what can be used of the outputs of a run of which the server says that they are wrong."""
        try:
            checked_outputs(self._shaped(vectors), self.outputs, self.coords)
        except OutputError as error:
            return error.partial
        return None  # all numbers are there, so that nobody knows which are wrong

    def gradient(self, point: Mapping[str, float], sensitivity: Mapping[str, ArrayLike]) -> dict[str, float]:
        """Return the derivative of sum(outputs * sensitivity) by each input, from the model's own gradient.

        Parameters
        ----------
        point
            One number for each input.
        sensitivity
            Output -> weights of its entries, shaped by its dims. Outputs that are left out have weight 0.

        Returns
        -------
        dict
            Input -> derivative.

        Raises
        ------
        InputError
            When the model offers no gradient, or the sensitivity does not fit the outputs.
        SimulatorTimeout, SimulatorFailed, OutputError
            As in `evaluate`.
        """
        if not self.offers_gradient:
            raise InputError(f"{self._peer.where} does not offer gradients; use evaluate, or a surrogate's gradient.")
        weights = self._weights(sensitivity)
        sizes = self._sizes("Output")
        self._placed(sizes)
        message = self._message(point)
        total = [np.zeros(len(group)) for group in self._groups]
        for out, part in enumerate(wire.split(weights, sizes)):
            if not part.any():
                continue
            for into in range(len(total)):
                total[into] += self._one_gradient(message | {"outWrt": out, "inWrt": into, "sens": part.tolist()}, into)
        named = dict(zip((name for group in self._groups for name in group), np.concatenate(total), strict=True))
        return {name: float(named[name]) for name in self.inputs}

    def _one_gradient(self, message: dict[str, object], into: int) -> Array:
        answer = self._ask("Gradient", message, self.timeout)
        try:
            values = wire.numbers(answer.get("output"))
        except wire.WireError as error:
            raise self._peer.misread(str(error)) from error
        if len(values) != len(self._groups[into]) or not np.isfinite(values).all():
            got = f"{len(values)} numbers ({wire.shortened(str(values), 100)})"
            raise self._peer.misread(f"a gradient of {got}; {len(self._groups[into])} finite ones are due")
        return values

    def _weights(self, sensitivity: Mapping[str, ArrayLike]) -> Array:
        unknown = [name for name in sensitivity if name not in self.outputs]
        if unknown:
            raise InputError(f"sensitivity names {unknown}; the outputs are {', '.join(self.outputs)}.")
        parts = []
        for name, shape in self._shapes.items():
            part = np.asarray(sensitivity.get(name, np.zeros(shape)), dtype=np.float64)
            if part.shape != shape or not np.isfinite(part).all():
                raise InputError(
                    f"sensitivity of {name!r} has shape {part.shape}; give {shape or 'one number'}, all finite."
                )
            parts.append(part.ravel())
        return np.concatenate(parts)

    def _message(self, point: Mapping[str, float]) -> dict[str, object]:
        config: dict[str, object] = dict(self.config)
        try:
            vectors = [[_number(name, point[name], name == self.seed) for name in group] for group in self._groups]
            if self.seed is not None and not any(self.seed in group for group in self._groups):
                config[self.seed] = int(point[self.seed])
        except KeyError as error:
            raise InputError(f"{self.name} got no value of {error.args[0]!r}; it takes {self.inputs}.") from error
        return {"name": self.model, "input": vectors, "config": config}

    def _placed(self, sizes: tuple[int, ...]) -> None:
        try:
            spans(self._shapes, sizes)
        except ValueError as error:
            raise OutputError(f"{self._peer.where} has output vectors of sizes {list(sizes)}, but {error}.") from error

    def _check_server(self) -> None:
        try:
            answer = self._ask("Info", None, QUESTION)
        except SimulatorTimeout:
            raise
        except SimulatorError as error:
            raise SimulatorNotFound(f"No UM-Bridge server at {self.url}: {error}") from error
        version, models = answer.get("protocolVersion"), answer.get("models")
        if isinstance(version, bool) or not isinstance(version, int | float) or not version >= wire.PROTOCOL:
            raise SimulatorNotFound(
                f"The server at {self.url} speaks version {version!r} of the UM-Bridge protocol; 1.0 is needed."
            )
        names = [str(name) for name in models] if isinstance(models, list) else []
        if self.model not in names:
            listed = wire.shortened(", ".join(names), 500) or "none"
            raise SimulatorNotFound(f"The server at {self.url} has no model {self.model!r}; it has: {listed}.")

    def _support(self) -> Mapping[str, object]:
        support = self._ask("ModelInfo", {"name": self.model}, QUESTION).get("support")
        return support if isinstance(support, dict) else {}

    def _sizes(self, side: str) -> tuple[int, ...]:
        config: dict[str, object] = dict(self.config)
        if self.seed is not None and not any(self.seed in group for group in self._groups):
            config[self.seed] = 0
        answer = self._ask(f"{side}Sizes", {"name": self.model, "config": config}, QUESTION)
        try:
            return wire.sizes(answer.get(f"{side.lower()}Sizes"))
        except wire.WireError as error:
            raise self._peer.misread(str(error)) from error

    def _ask(self, question: str, message: Mapping[str, object] | None, most: float | None) -> dict[str, object]:
        given = [seconds for seconds in (most, self.timeout) if seconds is not None]
        end = time.monotonic() + min(*given, math.inf, remaining() - MARGIN)
        return self._peer.ask(question, message, end, SMALLEST + PER_NUMBER * self._entries)


def _check_limits(timeout: object, retries: object, token: object) -> None:
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0):
        raise InputError(f"timeout is {timeout!r}; give seconds above 0, or None for the run's deadline alone.")
    if not check.is_whole(retries, 0):
        raise InputError(f"retries is {retries!r}; give a whole number >= 0.")
    if token is not None and (not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token)):
        raise InputError("token must be a text of printable ASCII without spaces.")


def _number(name: str, value: float, whole: bool) -> float | int:
    number = int(value) if whole else float(value)
    if not math.isfinite(number):
        raise InputError(f"input {name!r} is {number}; give a finite number.")
    return number

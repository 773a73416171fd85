"""The client: any UM-Bridge model as a simulator."""

import http.client
import math
import re
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import final
from urllib.parse import urlsplit

import numpy as np

from uqms._typing import Array, ArrayLike
from uqms.errors import InputError, OutputError, SimulatorError, SimulatorFailed, SimulatorNotFound, SimulatorTimeout
from uqms.simulators._declare import Declared, Setting, declared
from uqms.simulators.deadline import remaining
from uqms.simulators.protocol import Coordinate, checked_outputs
from uqms.simulators.umbridge import wire
from uqms.simulators.umbridge.connections import Answer, Connections
from uqms.simulators.umbridge.grouping import checked_inputs, spans

__all__ = ["UMBridgeSimulator"]

QUESTION = 30.0  # s for a question about the model, which takes no evaluation
MARGIN = 0.05  # s before the deadline of the run, so that what happened can still be told
BACKOFF = 0.2  # s before the first retry, doubled from one to the next
SMALLEST = 1 << 20  # bytes that every answer may have; a number takes about 20
PER_NUMBER = 64


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
        How often a request is sent again when there is no connection or the server says that it is busy (502, 503).
        Errors of the model are not retried.
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
    _connections: Connections = field(init=False, repr=False)

    def __post_init__(self) -> None:
        url = _checked_url(self.url)
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
        object.__setattr__(self, "_connections", Connections(url))

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
        """What makes two simulators the same one: model, version, config, inputs and outputs; not where it runs."""
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
            server wants another token.
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
            raise SimulatorNotFound(f"{self._where} does not offer Evaluate; choose another model of that server.")
        got = self._sizes("Input")
        wanted = tuple(map(len, self._groups))
        if got != wanted:
            raise InputError(
                f"{self._where} takes input vectors of sizes {list(got)}, but inputs= names {list(wanted)}: "
                f"{[list(group) for group in self._groups]}. Name one input for each entry."
            )
        self._placed(self._sizes("Output"))

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
            At `timeout` or at the run's deadline, whatever the server does.
        SimulatorFailed
            When the model or the server says that it failed, or there is no connection after all retries.
        OutputError
            When the answer is no UM-Bridge answer, has other sizes, or holds NaN; then `partial` keeps the rest.
        InputError
            When the server answers with a redirect, or wants another token.
        """
        answer = self._ask("Evaluate", self._message(point), self.timeout)
        vectors = answer.get("output")
        if not isinstance(vectors, list):
            raise self._misread(f"an answer without a list 'output': {wire.shortened(repr(answer), 200)}")
        try:
            values = [wire.numbers(vector) for vector in vectors]
        except wire.WireError as error:
            raise self._misread(str(error)) from error
        self._placed(tuple(map(len, values)))
        whole = np.concatenate(values)
        cut = wire.split(whole, [math.prod(shape) for shape in self._shapes.values()])
        shaped = {name: part.reshape(shape) for (name, shape), part in zip(self._shapes.items(), cut, strict=True)}
        return checked_outputs(shaped, self.outputs, self.coords)

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
        if not self._support().get("Gradient", False):
            raise InputError(f"{self._where} does not offer gradients; use evaluate, or a surrogate's gradient.")
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
            raise self._misread(str(error)) from error
        if len(values) != len(self._groups[into]) or not np.isfinite(values).all():
            raise OutputError(
                f"{self._where} answered a gradient of {len(values)} numbers ({wire.shortened(str(values), 100)}); "
                f"{len(self._groups[into])} finite ones are due."
            )
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

    @property
    def _where(self) -> str:
        return f"UM-Bridge model {self.model!r} at {self.url}"

    def _misread(self, what: str) -> OutputError:
        return OutputError(f"{self._where} answered {what}.")

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
            raise OutputError(f"{self._where} has output vectors of sizes {list(sizes)}, but {error}.") from error

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
            raise self._misread(str(error)) from error

    def _ask(self, question: str, message: Mapping[str, object] | None, most: float | None) -> dict[str, object]:
        """Send one request until it is answered, and return the answer's JSON object."""
        given = min(math.inf if most is None else most, math.inf if self.timeout is None else self.timeout)
        end = time.monotonic() + min(given, remaining() - MARGIN)
        attempt = 0
        while True:
            try:
                answer = self._exchange(question, message, end)
            except TimeoutError as error:
                if time.monotonic() >= end - 1e-3:
                    raise self._late(question) from error
                wrong = f"cannot connect to it in time: {error}"
            except ssl.SSLError as error:
                raise SimulatorFailed(f"{self._where}: TLS fails: {error}.") from error
            except (OSError, http.client.IncompleteRead, http.client.RemoteDisconnected) as error:
                wrong = f"no connection: {_reason(error)}"
            except http.client.HTTPException as error:
                raise SimulatorFailed(
                    f"{self._where}: what answers there is no HTTP server ({type(error).__name__}: "
                    f"{wire.shortened(str(error), 200)}). Check the port."
                ) from error
            else:
                if answer.status not in (502, 503):
                    return self._read(answer)
                wrong = f"the server is busy or restarts: {self._said(answer)}"
            wait = BACKOFF * 2**attempt
            if attempt >= self.retries:
                raise SimulatorFailed(f"{self._where}: {wrong} (tried {attempt + 1} times).")
            if time.monotonic() + wait >= end:
                raise SimulatorTimeout(f"{self._where}: {wrong}, until the deadline (tried {attempt + 1} times).")
            time.sleep(wait)
            attempt += 1

    def _late(self, question: str) -> SimulatorTimeout:
        return SimulatorTimeout(
            f"{self._where} did not answer {question} before the deadline. The server may still be computing; "
            "give it more time with timeout=, or look at the server."
        )

    def _exchange(self, question: str, message: Mapping[str, object] | None, end: float) -> Answer:
        headers = {"Accept": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        body = None
        if message is not None:
            body = wire.dumps(message)
            headers["Content-Type"] = "application/json"
        try:
            return self._connections.exchange(
                "GET" if body is None else "POST",
                f"/{question}",
                body,
                headers,
                end,
                SMALLEST + PER_NUMBER * self._entries,
            )
        except OutputError as error:
            raise self._misread(str(error).removesuffix(".")) from None

    def _read(self, answer: Answer) -> dict[str, object]:
        if 300 <= answer.status < 400:
            raise InputError(
                f"{self._where} redirects ({answer.status}) to {_without_credentials(answer.location)}; redirects are "
                "not followed. Give the address itself as url."
            )
        if answer.status in (401, 403):
            raise InputError(f"{self._where} refuses: {self._said(answer)}. Does it want another token=?")
        if answer.status != 200:
            raise SimulatorFailed(f"{self._where} answered {self._said(answer)}")
        try:
            message = wire.loads_answer(answer.body)
        except wire.WireError as error:
            raise self._misread(str(error)) from None
        if "error" in message:  # some servers say 200 even then
            raise SimulatorFailed(f"{self._where} answered {self._said(answer)}")
        return message

    def _said(self, answer: Answer) -> str:
        """Return status and text of an error, of the protocol's own kind or not, in one line."""
        text = answer.body.decode("utf-8", errors="replace")
        try:
            error = wire.loads_answer(answer.body).get("error")
        except wire.WireError:
            error = None
        if isinstance(error, dict):
            text = f"{error.get('type', 'error')}: {error.get('message', '')}"
        said = f"{answer.status} {wire.shortened(text) or wire.shortened(answer.reason, 100)}"
        return said if self.token is None else said.replace(self.token, "***")


def _checked_url(url: object) -> str:
    """Return the URL without a slash at its end; it is not repeated in the message when it may hold a password."""
    if not isinstance(url, str) or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise InputError("url has spaces or is no text; give an address such as 'http://localhost:4242'.")
    try:
        parts = urlsplit(url)
        good = parts.port != 0 and bool(parts.hostname)
    except ValueError:
        raise InputError("url cannot be read; give an address such as 'http://localhost:4242'.") from None
    if "@" in parts.netloc:
        raise InputError("url holds a user or password, which would be stored with the runs; use token= instead.")
    if parts.scheme not in ("http", "https"):
        raise InputError(
            f"url has the scheme {parts.scheme!r}; only http and https are spoken, as in http://host:4242."
        )
    if not good:
        raise InputError(f"url is {url!r}; give host and port, such as 'http://localhost:4242'.")
    if parts.query or parts.fragment:
        raise InputError(
            "url has a query or fragment; give the server's address alone, such as 'http://localhost:4242'."
        )
    return url.rstrip("/")


def _check_limits(timeout: object, retries: object, token: object) -> None:
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0):
        raise InputError(f"timeout is {timeout!r}; give seconds above 0, or None for the run's deadline alone.")
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise InputError(f"retries is {retries!r}; give a whole number >= 0.")
    if token is not None and (not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token)):
        raise InputError("token must be a text of printable ASCII without spaces.")


def _number(name: str, value: float, whole: bool) -> float | int:
    number = int(value) if whole else float(value)
    if not math.isfinite(number):
        raise InputError(f"input {name!r} is {number}; give a finite number.")
    return number


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return f"{type(error).__name__}: {wire.shortened(str(error), 200)}".rstrip(": ")


def _without_credentials(location: str) -> str:
    netloc = urlsplit(location).netloc
    return wire.shortened(location.replace(netloc, netloc.rpartition("@")[2], 1), 200) or "nowhere"

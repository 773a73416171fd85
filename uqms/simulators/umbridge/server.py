"""The server: simulators and surrogates for any UM-Bridge client."""

import asyncio
import atexit
import contextlib
import re
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import final

from uqms._teaching import taught
from uqms.errors import InputError
from uqms.simulators.umbridge.endpoint import Endpoint, is_loopback
from uqms.simulators.umbridge.served import Evaluable, Served, served
from uqms.simulators.umbridge.slots import Slots

__all__ = ["UMBridgeServer", "serve"]

SMALLEST = 1 << 16  # bytes that every body may have; a number takes about 20
PER_NUMBER = 64


@taught
@final
@dataclass(frozen=True, eq=False)
class UMBridgeServer:
    """Simulators and surrogates behind HTTP, for every UM-Bridge client, in a background thread while a block runs.

    Use it to let other programs and languages evaluate a model of yours: ``with UMBridgeServer(surrogate) as url:``, or
    `start` and `stop` in a notebook. `serve` is the same as a call that does not return.

    Parameters
    ----------
    models
        A simulator, a fitted surrogate, or anything else with `outputs`, `coords` and ``evaluate(point)``, and perhaps
        ``gradient(point, sensitivity)``; or several by name. One alone is called by its own name, or "forward".
        Each output is one output vector, its dims in C order.
    host
        Where to listen: this machine alone by default. Any other host needs a token.
    port
        4242 is the protocol's habit; 0 takes a free one.
    token
        Clients must send it as ``Authorization: Bearer``, at least 16 characters (``secrets.token_urlsafe()``). Traffic
        is not encrypted: use it inside a cluster or behind a proxy that speaks TLS.
    inputs
        Names of the entries of the input vectors, ``["a", "b"]`` for one or ``[["a"], ["b"]]`` for two, when one model
        is served. All of the model's `inputs` are one vector by default.
    config
        Names of the model's settings that clients may change in their config; none by default.
    workers
        How many evaluations run at once, each in a thread.
    queue
        How many more wait; others are refused with status 503 and may come again.
    timeout
        Seconds for one evaluation, None for no end. A thread cannot be stopped: a model that ignores its deadline keeps
        its worker until it ends.
    max_body
        Bytes of a request, 64 kB and 64 bytes a number of the largest model by default.

    Raises
    ------
    InputError
        For a model that cannot be served, a host other than this machine without a token, a port that is not available,
        or when aiohttp is not installed.

    Examples
    --------
    >>> import uqms as uq
    >>> from uqms.simulators.umbridge import UMBridgeServer, UMBridgeSimulator
    >>> simulator = uq.FunctionSimulator(lambda a, b: a - b, outputs={"y": ()}, name="difference")
    >>> with UMBridgeServer(simulator, port=0) as url:
    ...     client = UMBridgeSimulator(url, "difference", inputs=["a", "b"], outputs={"y": ()})
    ...     client.evaluate({"a": 3.0, "b": 1.0})
    {'y': array(2.)}
    """

    models: Evaluable | Mapping[str, Evaluable]
    host: str = field(kw_only=True, default="127.0.0.1")
    port: int = field(kw_only=True, default=4242)
    token: str | None = field(kw_only=True, default=None, repr=False)
    inputs: Sequence[str] | Sequence[Sequence[str]] | None = field(kw_only=True, default=None)
    config: Collection[str] = field(kw_only=True, default=())
    workers: int = field(kw_only=True, default=1)
    queue: int = field(kw_only=True, default=100)
    timeout: float | None = field(kw_only=True, default=3600.0)
    max_body: int | None = field(kw_only=True, default=None)
    _served: Mapping[str, Served] = field(init=False, repr=False)
    _running: "list[_Running]" = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        for key, value, least in (("workers", self.workers, 1), ("queue", self.queue, 0), ("port", self.port, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 65536:
                raise InputError(f"{key} is {value!r}; give a whole number from {least} to 65535.")
        if self.timeout is not None and not self.timeout > 0:
            raise InputError(f"timeout is {self.timeout!r}; give seconds above 0, or None for no end.")
        if self.max_body is not None and self.max_body < 1:
            raise InputError(f"max_body is {self.max_body!r}; give bytes.")
        if self.token is not None and not re.fullmatch(r"[\x21-\x7e]{16,}", self.token):
            raise InputError(
                "token must have 16 or more printable ASCII characters: secrets.token_urlsafe() makes one."
            )
        if self.token is None and not is_loopback(self.host):
            raise InputError(
                f"host {self.host!r} can be reached by other machines, and a server there needs a token=; make one "
                "with secrets.token_urlsafe(), or leave out host to serve this machine alone."
            )
        object.__setattr__(self, "_served", self._checked_models())

    def _checked_models(self) -> Mapping[str, Served]:
        if isinstance(self.models, Mapping):
            if not self.models:
                raise InputError("models is empty; give at least one.")
            if len(self.models) > 1 and (self.inputs is not None or self.config):
                raise InputError("inputs and config are for one model; serve several by one server each, or wrap them.")
            named = dict(self.models)
        else:
            own = getattr(self.models, "name", None)
            named = {own if isinstance(own, str) and own else "forward": self.models}
        return {name: served(name, model, self.inputs, self.config) for name, model in named.items()}

    def start(self) -> str:
        """Begin to serve in the background and return the URL; for notebooks, where no block can hold it."""
        if find_spec("aiohttp") is None:
            raise InputError('a UM-Bridge server needs the package aiohttp: pip install "uqms[umbridge]".')
        if self._running:
            raise InputError("this server runs already; make another one.")
        running = _Running()
        running.start(self)
        self._running.append(running)
        return running.url

    def stop(self) -> None:
        """Close all connections and end; programs that still run are ended, other evaluations are not waited for."""
        if self._running:
            self._running.pop().stop()

    def __enter__(self) -> str:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    async def listen(self, started: "Future[int]", stop: asyncio.Event) -> None:
        """Answer requests until `stop`; tells the port when it has begun."""
        from uqms.simulators.umbridge._aiohttp import listening

        entries = max(sum(each.input_sizes) + sum(each.output_sizes) for each in self._served.values())
        limit = self.max_body or SMALLEST + PER_NUMBER * entries
        slots = Slots(self.workers, self.queue, self.timeout)
        endpoint = Endpoint(self._served, slots, self.token, is_loopback(self.host))
        host = "127.0.0.1" if self.host == "localhost" else self.host
        async with listening(endpoint, host, self.port, limit) as port:
            started.set_result(port)
            await stop.wait()
        slots.join()


class _Running:
    """The thread of a server, with its event loop."""

    url = ""

    def start(self, server: UMBridgeServer) -> None:
        started: Future[int] = Future()

        async def main() -> None:
            self.loop, self.stopped = asyncio.get_running_loop(), asyncio.Event()
            await server.listen(started, self.stopped)

        def thread() -> None:
            try:
                asyncio.run(main())
            except BaseException as error:
                if started.done():
                    raise
                started.set_exception(error)

        self.thread = threading.Thread(target=thread, daemon=True, name="uqms-umbridge-server")
        self.thread.start()
        try:
            port = started.result()
        except OSError as error:
            raise InputError(
                f"port {server.port} of {server.host} is not available ({error.strerror or error}); give "
                "another port, or port=0 for a free one."
            ) from error
        host = "127.0.0.1" if server.host == "localhost" else server.host
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        atexit.register(self.stop)  # for a notebook that ends without stop()

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended already
            self.loop.call_soon_threadsafe(self.stopped.set)
        self.thread.join()
        atexit.unregister(self.stop)


@taught
def serve(
    models: Evaluable | Mapping[str, Evaluable],
    *,
    host: str = "127.0.0.1",
    port: int = 4242,
    token: str | None = None,
    inputs: Sequence[str] | Sequence[Sequence[str]] | None = None,
    config: Collection[str] = (),
    workers: int = 1,
    queue: int = 100,
    timeout: float | None = 3600.0,
    max_body: int | None = None,
) -> None:
    """Serve simulators and surrogates to UM-Bridge clients until Ctrl+C or a request to end (SIGTERM).

    Parameters
    ----------
    models, host, port, token, inputs, config, workers, queue, timeout, max_body
        As in `UMBridgeServer`.

    Raises
    ------
    InputError
        As in `UMBridgeServer`.
    """
    server = UMBridgeServer(
        models,
        host=host,
        port=port,
        token=token,
        inputs=inputs,
        config=config,
        workers=workers,
        queue=queue,
        timeout=timeout,
        max_body=max_body,
    )
    with contextlib.suppress(KeyboardInterrupt), _interrupted_by_sigterm(), server as url:
        print(f"UM-Bridge models {', '.join(server._served)} at {url}; Ctrl+C ends it.", flush=True)
        while True:  # a signal that comes just before a wait without end would be noticed only after it
            time.sleep(0.2)


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Take systemd's, Docker's and Slurm's way to end a program for Ctrl+C, where a handler can be set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)

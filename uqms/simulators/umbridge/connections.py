"""HTTP/1.1 with one deadline for a whole exchange, over connections that are kept open.

The standard library's client is used for the protocol; a socket's own timeout begins anew with every byte, so that a
server which drips could hold a run for ever. Here every read and write gets only what is left of the exchange's time.
"""

import http.client
import io
import math
import os
import select
import socket
import ssl
import threading
import time
import weakref
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, final
from urllib.parse import urlsplit

from uqms.errors import OutputError

__all__ = ["Answer", "Connections", "NoConnection", "Stale"]

CONNECT = 10.0  # s for finding the addresses of a host, and for a connection to one of them
AT_ONCE = 0.02  # s after the request in which the end of a kept connection means that the server had closed it before
IDLE = 8  # connections kept open
CHUNK = 1 << 16


class NoConnection(OSError):
    """The server was not reached, so that it knows nothing of the request."""


class Stale(ConnectionError):
    """A kept connection turned out to be closed: the server has not begun with the request."""


@final
@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    reason: str
    location: str
    body: bytes


@final
class Connections:
    """Open connections to one server. Thread-safe; a copy or a pickle of it begins without any."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._pid = os.getpid()
        weakref.finalize(self, _close, self._idle)

    def __reduce__(self) -> tuple[type["Connections"], tuple[str]]:
        return Connections, (self.url,)

    def exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], end: float, limit: int
    ) -> Answer:
        """Send one request and return the whole answer, before `end` (monotonic time) and of at most `limit` bytes.

        Raises
        ------
        TimeoutError
            At the deadline.
        OutputError
            When the answer is longer than `limit`.
        NoConnection
            When there is none, also when the deadline came first.
        Stale
            When a kept connection was closed; this request may be sent again without harm.
        OSError, http.client.HTTPException
            When the connection breaks, or the peer does not speak HTTP.
        """
        kept = self._take()
        connection = kept or self._open(end)
        whole, response, sent = False, None, math.inf
        try:
            connection.timed.end = end
            connection.request(method, urlsplit(self.url).path.rstrip("/") + path, body, headers)
            sent = time.monotonic()
            response = connection.getresponse()
            failed = response.status >= 300
            content = response.read(CHUNK) if failed else _read(response, limit)  # of a long error, its begin will do
            whole = not response.will_close and response.isclosed()
            return Answer(response.status, response.reason, response.headers.get("Location", ""), content)
        except ConnectionError as error:
            if kept is not None and response is None and time.monotonic() - sent < AT_ONCE:
                raise Stale("a kept connection had been closed") from error
            raise
        finally:
            if whole:
                self._give(connection)
            else:
                connection.close()
                if response is not None:
                    response.close()

    def _take(self) -> "_Connection | None":
        with self._lock:
            if self._pid != os.getpid():  # forked: the parent goes on talking over these
                _close(self._idle)
                self._pid = os.getpid()
            while self._idle:
                connection = self._idle.pop()
                # An idle connection has nothing to say: what can be read is its end, or rubbish.
                if not _readable(connection.timed.sock):
                    return connection
                connection.close()
        return None

    def _give(self, connection: "_Connection") -> None:
        with self._lock:
            if len(self._idle) < IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def _open(self, end: float) -> "_Connection":
        parts = urlsplit(self.url)
        host = str(parts.hostname)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            sock = _reached(_addresses(host, port, end), end)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _notice_a_dead_peer(sock)
                if parts.scheme == "https":
                    sock.settimeout(_left(end))
                    sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
            except BaseException:
                sock.close()
                raise
        except ssl.SSLError:
            raise
        except OSError as error:
            raise NoConnection(_told(error)) from error
        return _Connection(host, port, sock)


def _close(connections: "list[_Connection]") -> None:
    # Not by __del__: a collection of garbage may come to the sockets first, which complain when they are open.
    while connections:
        connections.pop().close()


def _left(end: float, parts: int = 1) -> float:
    """Return the seconds for one of `parts` attempts that are left until `end`."""
    left = end - time.monotonic()
    if left <= 0.0:
        raise TimeoutError("no time was left")
    return min(CONNECT, left / parts)


def _addresses(host: str, port: int, end: float) -> list[Any]:
    """Look a host up in a thread: the system's own call knows no deadline."""
    found: Future[list[Any]] = Future()

    def look_up() -> None:
        try:
            found.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except BaseException as error:
            found.set_exception(error)

    seconds = _left(end)
    threading.Thread(target=look_up, daemon=True, name="uqms-look-up").start()
    try:
        return found.result(seconds)
    except TimeoutError:
        raise TimeoutError(f"the address of {host} was not found within {seconds:.3g} s") from None


def _reached(addresses: list[Any], end: float) -> socket.socket:
    """Connect to the first address that answers; each has an equal share of the time."""
    error = OSError("the host has no address")
    for i, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)  # a system without IPv6 has none of its kind
            sock.settimeout(_left(end, len(addresses) - i))
            sock.connect(address)
            return sock
        except BaseException as raised:
            if sock is not None:
                sock.close()
            if not isinstance(raised, OSError):
                raise
            error = raised
    raise error


def _told(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _notice_a_dead_peer(sock: socket.socket) -> None:
    """Have the system ask a silent peer now and then: a machine that is gone never says so."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _readable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _read(response: http.client.HTTPResponse, limit: int) -> bytes:
    if response.length is not None and response.length <= limit:
        return response.read()  # raises when fewer bytes come
    parts, size = [], 0
    while response.length is None or response.length <= limit:
        part = response.read(CHUNK)
        parts.append(part)
        size += len(part)
        if not part:
            return b"".join(parts)
        if size > limit:
            break
    raise OutputError(f"the answer has more than {limit} bytes, far more than the declared outputs take.")


class _Connection(http.client.HTTPConnection):
    def __init__(self, host: str, port: int, sock: socket.socket) -> None:
        super().__init__(host, port)
        self.auto_open = 0  # it would open one without TLS
        self.timed = _Timed(sock)
        self.sock: Any = self.timed


class _Timed:
    """A socket whose every operation ends at one moment."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.end = math.inf
        self.closed = False
        self.readers = 0

    def arm(self) -> None:
        left = self.end - time.monotonic()
        if left <= 0.0:
            raise TimeoutError("the deadline has passed")
        self.sock.settimeout(None if math.isinf(left) else left)

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:  # sendall over TLS would give every part the whole time
            self.arm()
            rest = rest[self.sock.send(rest) :]

    def makefile(self, *args: Any) -> io.BufferedReader:
        self.readers += 1
        return io.BufferedReader(_Reader(self), CHUNK)

    def close(self) -> None:
        # A response whose end closes the connection is read after this.
        self.closed = True
        if not self.readers:
            self.sock.close()


class _Reader(io.RawIOBase):
    def __init__(self, timed: _Timed) -> None:
        self.timed = timed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.timed.arm()
        return self.timed.sock.recv_into(buffer)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self.timed.readers -= 1
            if self.timed.closed:
                self.timed.close()

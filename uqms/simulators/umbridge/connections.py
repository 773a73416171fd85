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
from dataclasses import dataclass
from typing import Any, final
from urllib.parse import urlsplit

from uqms.errors import OutputError

__all__ = ["Answer", "Connections"]

CONNECT = 10.0  # s for one connection attempt
IDLE = 8  # connections kept open
CHUNK = 1 << 16


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

    def __reduce__(self) -> tuple[type["Connections"], tuple[str]]:
        return Connections, (self.url,)

    def __del__(self) -> None:
        for connection in getattr(self, "_idle", ()):
            connection.close()

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
        OSError, http.client.HTTPException
            When there is no connection, it breaks, or the peer does not speak HTTP.
        """
        old = self._take()
        if old is not None:
            try:
                return self._over(old, method, path, body, headers, end, limit)
            except (ConnectionError, http.client.RemoteDisconnected):  # closed since; the request was not begun
                old.close()
        return self._over(self._open(end), method, path, body, headers, end, limit)

    def _over(
        self,
        connection: "_Connection",
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
        end: float,
        limit: int,
    ) -> Answer:
        whole, response = False, None
        try:
            connection.timed.end = end
            connection.request(method, urlsplit(self.url).path.rstrip("/") + path, body, headers)
            response = connection.getresponse()
            failed = response.status >= 300
            content = response.read(CHUNK) if failed else _read(response, limit)  # of a long error, its begin will do
            whole = not response.will_close and response.isclosed()
            return Answer(response.status, response.reason, response.headers.get("Location", ""), content)
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
                self._idle, self._pid = [], os.getpid()
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
        sock = socket.create_connection((host, port), timeout=max(1e-3, min(CONNECT, end - time.monotonic())))
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _notice_a_dead_peer(sock)
            if parts.scheme == "https":
                sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        except BaseException:
            sock.close()
            raise
        return _Connection(host, port, sock)


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
        self.arm()
        self.sock.sendall(data)

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

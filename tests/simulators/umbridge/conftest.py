"""Servers to talk to: the umbridge package's own as a process, and small ones that misbehave on purpose."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Talk = Callable[[socket.socket, bytes], None]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.fixture(scope="session")
def reference() -> Iterator[str]:
    """URL of the umbridge package's own server."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, Path(__file__).parent / "models_for_umbridge.py", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(2400):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def received(connection: socket.socket) -> bytes:
    """Read one request."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


class Raw:
    """A server of one function, which gets the connection and one request after the other."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.requests: list[bytes] = []
        self.connections: list[socket.socket] = []
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.sock.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.sock.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        try:
            while request := received(connection):
                self.requests.append(request)
                self.talk(connection, request)
        except OSError:
            pass
        finally:
            connection.close()

    def close(self) -> None:
        self.sock.close()
        for connection in self.connections:
            connection.close()


@pytest.fixture
def raw() -> Iterator[Callable[[Talk | bytes], Raw]]:
    """Start a server that says the given bytes to every request, or does what the given function does."""
    servers: list[Raw] = []

    def start(talk: Talk | bytes) -> Raw:
        servers.append(Raw((lambda connection, _: connection.sendall(talk)) if isinstance(talk, bytes) else talk))
        return servers[-1]

    yield start
    for server in servers:
        server.close()

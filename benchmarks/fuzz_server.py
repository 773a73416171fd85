"""Attack a UM-Bridge server of this package: it must refuse, go on answering, and keep its memory.

A server with four models runs as a process of its own on this machine. It gets mutated bodies, connections that send
their request a byte at a time or never end it, a body of 40 MB, and evaluations that hang, while a health check asks
for ``/Info`` over a new connection every 50 ms. Aims:

- mutated bodies that are answered with anything but an error in JSON with a 4xx or 5xx status: 0;
- answers that hold the text of a traceback: 0;
- growth of the server's memory: at most 100 MB;
- slowest health check: 1 s;
- status of the answer to 40 MB: 413;
- connections that never end their request and are still open 2 s after their deadline: 0;
- evaluations that are right afterwards: all.

``--quick`` sends 100 mutated bodies, otherwise 500; the seeds are 1...k, one for each body.
"""

import argparse
import contextlib
import http.client
import json
import math
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from _report import aim, finish

import uqms

DEADLINE = 10.0  # s that the server gives the head of a request
SCRIPT = """
import dataclasses, json, sys, time
import numpy as np
from uqms.simulators.umbridge import UMBridgeServer

@dataclasses.dataclass(frozen=True)
class Model:
    fails: str = ""
    config: dict = dataclasses.field(default_factory=lambda: {"scale": 2.0})
    inputs = ("a", "b")
    outputs = {"y": ("i",), "z": ()}
    coords = {"i": np.arange(3.0)}

    def evaluate(self, point):
        if self.fails == "raises":
            raise RuntimeError("the mesh is tangled")
        if self.fails == "nan":
            return {"y": [1.0, float("nan"), 2.0], "z": 1.0}
        if self.fails == "hangs":
            time.sleep(point["a"])
        return {"y": self.config["scale"] * point["a"] * np.arange(3.0), "z": point["b"]}

    def gradient(self, point, sensitivity):
        y = np.asarray(sensitivity.get("y", np.zeros(3)))
        return {"a": self.config["scale"] * float(y @ np.arange(3.0)), "b": float(sensitivity.get("z", 0.0))}

models = {"line": Model()} | {name: Model(name) for name in ("raises", "nan", "hangs")}
settings = json.loads(sys.argv[1])
models = {"line": Model()} if "config" in settings else models
with UMBridgeServer(models, port=0, **settings) as url:
    print(url, flush=True)
    sys.stdin.read()
"""
REQUESTS: list[tuple[str, dict[str, object]]] = [
    ("Evaluate", {"name": "line", "input": [[1.5, -2.0]], "config": {}}),
    ("Evaluate", {"name": "line", "input": [[1e-3, 20]]}),
    (
        "Gradient",
        {"name": "line", "outWrt": 0, "inWrt": 0, "input": [[1.5, -2.0]], "sens": [1.0, 0.5, -3], "config": {}},
    ),
    ("InputSizes", {"name": "line", "config": {}}),
    ("OutputSizes", {"name": "line", "config": {}}),
    ("ModelInfo", {"name": "line"}),
]
SNIPPETS = [
    b"NaN",
    b"1e999",
    b"null",
    b'"',
    b"[[",
    b"]]",
    b"{",
    b"}",
    b",",
    b"\x00",
    b"\xff",
    b"-",
    b'"name":"line",',
    b"true",
]
STRANGE: list[object] = [None, True, "1", [], {}, [[]], -1, 7, 1e300, [None], [[1.0, "2"]], "__class__", {"x": 1}]


@contextlib.contextmanager
def server(**settings: object) -> Iterator[tuple[str, int]]:
    """Run the server as a process; gives its URL and process id."""
    env = {**os.environ, "PYTHONPATH": str(Path(uqms.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.stdin.close()
        process.wait(timeout=20)
        process.stdout.close()


def mutated(seed: int) -> tuple[str, bytes]:
    """Return the path and a body that means nothing any more, made from a good request."""
    rng = random.Random(seed)
    while True:
        question, message = rng.choice(REQUESTS)
        body = _other_values(rng, message) if rng.random() < 0.4 else _other_bytes(rng, json.dumps(message).encode())
        if not meant(question, body):
            return question, body


def _other_values(rng: random.Random, message: dict[str, object]) -> bytes:
    changed: dict[str, object] = json.loads(json.dumps(message))
    key = rng.choice(sorted(changed))
    match rng.randrange(4):
        case 0:
            del changed[key]
        case 1:
            changed[rng.choice(["Name", "input ", "tid", "config\n", "é" * rng.randrange(1, 50)])] = changed[key]
        case 2:
            changed[key] = rng.choice(STRANGE)
        case _:
            changed["config"] = {rng.choice(["", "scale", "__init__", "x" * 10_000]): rng.choice(STRANGE)}
    return json.dumps(changed).encode()


def _other_bytes(rng: random.Random, body: bytes) -> bytes:
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(body) + 1)
        match rng.randrange(6):
            case 0:
                body = body[:at]
            case 1:
                body = body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :]
            case 2:
                body = body[:at] + rng.choice(SNIPPETS) + body[at:]
            case 3:
                body = body[:at] + body[at + rng.randrange(1, 10) :]
            case 4:
                body = body + body[:at]
            case _:
                body = body[:at] + rng.choice([b"[" * 20_000, b"9" * 5000, b" " * 30_000, b'{"a":' * 5000]) + body[at:]
    return body


def meant(question: str, body: bytes) -> bool:
    """Return whether a body still is a request that has an answer."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError
        return dict(pairs)

    def numbers(values: object, length: int) -> bool:
        kinds = isinstance(values, list) and len(values) == length and {type(v) for v in values} <= {int, float}
        return kinds and all(abs(v) < 1e308 for v in values)  # type: ignore[union-attr]

    try:
        got = json.loads(body.decode(), object_pairs_hook=once, parse_constant=lambda _: math.nan)
    except (ValueError, RecursionError):
        return False
    keys = {"ModelInfo": "", "InputSizes": "config", "Evaluate": "input config", "OutputSizes": "config"}
    known = {"name", *keys.get(question, "outWrt inWrt input sens config").split()}
    if not isinstance(got, dict) or got.get("name") not in ("line", "nan") or not set(got) <= known:
        return False
    good = got.get("config", {}) in ({}, [], None)
    if "input" in known:
        value = got.get("input")
        good &= isinstance(value, list) and len(value) == 1 and numbers(value[0], 2)
    if question == "Gradient":
        out = got.get("outWrt")
        good &= (
            got.get("inWrt") in (0,) and got.get("inWrt") is not False and out in (0, 1) and not isinstance(out, bool)
        )
        good &= numbers(got.get("sens"), 3 if out == 0 else 1)
    return good


def post(url: str, question: str, body: bytes, timeout: float = 20.0) -> tuple[int, str, bytes]:
    """Send one body; return status, content type and answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=timeout)
    try:
        connection.request("GET" if question == "Info" else "POST", f"/{question}", body or None)
        response = connection.getresponse()
        return response.status, str(response.headers["Content-Type"]), response.read()
    finally:
        connection.close()


def refused(status: int, kind: str, body: bytes) -> bool:
    """Return whether an answer is an error as it should be."""
    try:
        error = json.loads(body)["error"]
        words = isinstance(error["type"], str) and isinstance(error["message"], str)
    except (ValueError, KeyError, TypeError):
        return False
    return 400 <= status < 600 and kind.startswith("application/json") and words and len(body) < 2000


def traceback_in(body: bytes) -> bool:
    """Return whether an answer tells of the inside."""
    return any(word in body for word in (b"Traceback", b'File "', b".py"))


def memory(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Health:
    """Asks for /Info every 50 ms in a thread; `slowest` is in seconds."""

    def __init__(self, url: str) -> None:
        self.url, self.slowest, self.count, self.stopped = url, 0.0, 0, threading.Event()
        self.thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self) -> None:
        while not self.stopped.wait(0.05):
            begin = time.monotonic()
            try:
                good = post(self.url, "Info", b"", timeout=5.0)[0] == 200
            except OSError:
                good = False
            self.slowest = max(self.slowest, time.monotonic() - begin if good else math.inf)
            self.count += 1

    def __enter__(self) -> "Health":
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stopped.set()
        self.thread.join()


def open_slowly(url: str, count: int, body: bool) -> list[socket.socket]:
    """Open connections that begin a request and do not end its head, or its body."""
    parts = urlsplit(url)
    text = "POST /Evaluate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n" + ("\r\n{" if body else "X-Slow: ")
    opened = []
    for _ in range(count):
        connection = socket.create_connection((str(parts.hostname), parts.port or 80), timeout=5.0)
        connection.sendall(text.encode())
        opened.append(connection)
    return opened


def drip(connections: list[socket.socket]) -> None:
    """Send one more byte over each that is still open."""
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.sendall(b"x")


def still_open(connections: list[socket.socket]) -> int:
    """Count connections that the server has not closed; those that hold an answer count as closed."""
    count = 0
    for connection in connections:
        connection.setblocking(False)
        try:
            connection.recv(4096)
        except BlockingIOError:
            count += 1
        except OSError:
            pass
    return count


def huge(url: str, size: int = 40_000_000) -> tuple[int, int]:
    """Send a body as long as that and stop at the answer; return its status and the bytes sent until then."""
    parts = urlsplit(url)
    with socket.create_connection((str(parts.hostname), parts.port or 80), timeout=20.0) as connection:
        connection.sendall(f"POST /Evaluate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode())
        sent, chunk = 0, b"1" * 65536
        answer = b""
        while sent < size and not answer:
            with contextlib.suppress(OSError):
                connection.sendall(chunk)
                sent += len(chunk)
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                answer = connection.recv(4096)
            connection.setblocking(True)
            connection.settimeout(20.0)
        return int((answer or connection.recv(4096)).split()[1]), sent


def right(url: str) -> bool:
    """Return whether the model still computes."""
    body = json.dumps({"name": "line", "input": [[1.5, -2.0]]}).encode()
    return json.loads(post(url, "Evaluate", body)[2]) == {"output": [[0.0, 3.0, 6.0], [-2.0]]}


def main() -> int:
    """Attack and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 mutated bodies instead of 500")
    count = 100 if parser.parse_args().quick else 500
    with server(timeout=2.0, workers=2) as (url, pid), Health(url) as health:
        after = [right(url)]
        before = memory(pid)
        answers = [post(url, *mutated(seed)) for seed in range(1, count + 1)]
        for name in ("raises", "nan", "hangs"):
            answers.append(post(url, "Evaluate", json.dumps({"name": name, "input": [[4.0, 1.0]]}).encode()))
        after.append(right(url))
        statuses = [huge(url)[0] for _ in range(5)]
        slow = [*open_slowly(url, 200, body=False), *open_slowly(url, 200, body=True)]
        after.append(right(url))
        begin = time.monotonic()
        while time.monotonic() - begin < DEADLINE + 2.0:
            drip(slow)
            time.sleep(0.5)
        left = still_open(slow)
        after.extend(right(url) for _ in range(20))
        growth = memory(pid) - before
        for connection in slow:
            connection.close()
    return finish(
        [
            aim(
                "answers that are no JSON error with 4xx or 5xx",
                sum(not refused(*a) for a in answers),
                high=0,
                n=len(answers),
            ),
            aim("answers with a traceback", sum(traceback_in(body) for _, _, body in answers), high=0, n=len(answers)),
            aim("growth of the server's memory, MB", growth, high=100),
            aim("slowest health check, s", health.slowest, high=1.0, n=health.count),
            aim(
                "status of the answer to 40 MB, farthest from 413",
                max(statuses, key=lambda s: abs(s - 413)),
                413,
                413,
                n=5,
            ),
            aim("slow connections open 2 s after their deadline", left, high=0, n=len(slow)),
            aim("wrong evaluations afterwards", sum(not good for good in after), high=0, n=len(after)),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

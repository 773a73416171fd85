"""The client against the umbridge package's own server, and against servers that misbehave in every way we know."""

import asyncio
import contextlib
import csv
import errno
import gc
import io
import math
import pickle
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cloudpickle
import numpy as np
import pytest
from clocks import GUARD, Clock, Leaping

from uqms.errors import InputError, OutputError, SimulatorFailed, SimulatorNotFound, SimulatorTimeout
from uqms.simulators import Simulator
from uqms.simulators.deadline import deadline, remaining
from uqms.simulators.umbridge import UMBridgeSimulator, client, connections, peer

# Points and log densities of the analytic UM-Bridge benchmarks: banana, donut, mixture, funnel.
CHECKS = """x1,x2,banana,donut,mixture,funnel
-2.486104997,-1.57913696,-6.515669323,-3.611670945,-2.226392989,-17.01679179
1.807646791,0.4929722164,-2.310754752,-15.98688442,-2.307523911,-4.041777953
-2.435228147,-0.4012383586,-2.468046618,-0.5275068536,-2.900795268,-2.967477075
-0.1256922112,-2.041566512,-29.39138382,-9.319563281,-2.978198272,-5.23763403
1.407462908,-2.31796788,-30.94137161,-0.3788494233,-7.283874182,-4.40782774
-0.652630857,0.1004410957,-4.067559151,-114.0114915,-3.498114115,-2.643524378
-0.4162318775,0.5207914286,-2.651936296,-113.2635113,-3.846522601,-2.943618129
1.427026724,2.737603529,-10.27003817,-7.193199974,-2.575331346,-4.662553726
-1.294793018,0.8912832425,-1.998279618,-32.02988578,-2.760552852,-3.83208071
1.17729598,-1.243675506,-16.14167485,-23.86682689,-5.559332429,-3.84042066
-2.991059499,2.840761649,-41.39872635,-70.48176028,-2.833798799,-82.26104149
-1.209592662,-1.116083988,-11.22456556,-27.58907658,-1.75934034,-4.500749681
"""
POINT = {"a": 2.0, "b": 3.0, "c": 0.5}


def http(body: bytes | str, status: str = "200 OK", more: str = "") -> bytes:
    body = body.encode() if isinstance(body, str) else body
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def scalars(url: str, **more) -> UMBridgeSimulator:
    """Return a client of a model with one input and the outputs y and z in one vector."""
    return UMBridgeSimulator(url, "m", inputs=["x"], outputs={"y": (), "z": ()}, **{"retries": 0, **more})


def several(url: str, **more) -> UMBridgeSimulator:
    length = more.get("config", {}).get("length", 3)
    return UMBridgeSimulator(
        url,
        "several",
        inputs=[["a", "b"], ["c"]],
        outputs={"curve": ("i",), "end": ()},
        coords={"i": np.arange(length)},
        **more,
    )


# ------------------------------------------------------------------------------------ against the package's own server
@pytest.mark.parametrize("model", ["banana", "donut", "mixture", "funnel"])
def test_the_analytic_densities(reference, model):
    simulator = UMBridgeSimulator(reference, model, inputs=["x1", "x2"], outputs={"logpdf": ()})
    simulator.prepare(["x2", "x1"])
    for row in csv.DictReader(io.StringIO(CHECKS)):
        got = simulator.evaluate({"x2": float(row["x2"]), "x1": float(row["x1"])})
        assert got["logpdf"] == pytest.approx(float(row[model]), rel=1e-7)  # ten digits, near a sharp ridge


def test_several_vectors_and_config(reference):
    simulator = several(reference, config={"scale": 10.0})
    assert isinstance(simulator, Simulator)
    simulator.prepare(["a", "b", "c"])
    got = simulator.evaluate(POINT)
    np.testing.assert_array_equal(got["curve"], [0.5, 60.5, 120.5])
    assert got["end"] == 0.5
    assert got["end"].shape == ()
    assert all(value.dtype == np.float64 for value in got.values())


def test_sizes_may_follow_the_config(reference):
    simulator = several(reference, config={"length": 5})
    simulator.prepare(["a", "b", "c"])
    assert simulator.evaluate(POINT)["curve"].shape == (5,)
    with pytest.raises(OutputError, match=r"sizes \[3, 1\], but the declared outputs have 6 entries"):
        replace(simulator, config={}).prepare(["a", "b", "c"])


def test_scalars_in_one_vector_and_one_output_of_several_vectors(reference):
    parts = {"inputs": [["a", "b"], ["c"]]}
    named = UMBridgeSimulator(reference, "several", outputs={"p": (), "q": (), "r": (), "s": ()}, **parts)
    named.prepare(["a", "b", "c"])
    assert {k: float(v) for k, v in named.evaluate(POINT).items()} == {"p": 0.5, "q": 6.5, "r": 12.5, "s": 0.5}
    whole = UMBridgeSimulator(reference, "several", outputs={"all": ("i",)}, coords={"i": range(4)}, **parts)
    whole.prepare(["a", "b", "c"])
    np.testing.assert_array_equal(whole.evaluate(POINT)["all"], [0.5, 6.5, 12.5, 0.5])
    swapped = UMBridgeSimulator(reference, "several", outputs={"s": (), "d": ("i",)}, coords={"i": range(3)}, **parts)
    with pytest.raises(OutputError, match="output 'd' would take entries 1 to 3, a part of one vector and of the next"):
        swapped.prepare(["a", "b", "c"])


def test_the_seed_is_an_entry_or_a_key_of_the_config(reference, raw):
    by_config = several(reference, seed="seed")
    assert by_config.inputs == ("a", "b", "c")
    by_config.prepare(["a", "b", "c"])
    assert by_config.evaluate(POINT | {"seed": 7})["end"] == 7.5
    server = raw(http('{"output": [[1.0, 2.0]]}'))
    entry = UMBridgeSimulator(server.url, "m", inputs=["n", "x"], outputs={"y": (), "z": ()}, seed="n")
    assert entry.inputs == ("x",)
    assert replace(entry, timeout=3.0).vectors == (("n", "x"),)
    entry.evaluate({"x": 0.5, "n": 12})
    assert server.requests[0].endswith(b'{"name":"m","input":[[12,0.5]],"config":{}}')


def test_gradients_against_central_differences(reference):
    simulator = several(reference, config={"scale": 10.0})
    weights = {"curve": np.array([0.3, -1.0, 2.0]), "end": 0.7}

    def weighted(**point):
        return sum(np.sum(value * weights[name]) for name, value in simulator.evaluate(point).items())

    got = simulator.gradient(POINT, weights)
    assert list(got) == ["a", "b", "c"]
    for name in POINT:
        step = 1e-4
        up, down = (weighted(**{**POINT, name: POINT[name] + sign * step}) for sign in (1, -1))
        assert got[name] == pytest.approx((up - down) / (2.0 * step), rel=1e-6)
    assert simulator.gradient(POINT, {"end": 1.0}) == {"a": 0.25, "b": 0.0, "c": 2.0}
    with pytest.raises(InputError, match=r"sensitivity names \['other'\]"):
        simulator.gradient(POINT, {"other": 1.0})
    with pytest.raises(InputError, match=r"sensitivity of 'curve' has shape \(2,\)"):
        simulator.gradient(POINT, {"curve": [1.0, 2.0]})


def test_a_model_without_gradients_says_so(reference):
    banana = UMBridgeSimulator(reference, "banana", inputs=["x1", "x2"], outputs={"logpdf": ()})
    with pytest.raises(InputError, match="does not offer gradients"):
        banana.gradient({"x1": 0.0, "x2": 0.0}, {"logpdf": 1.0})


def test_nan_of_the_package_keeps_the_rest(reference):
    bad = UMBridgeSimulator(reference, "bad", inputs=["x"], outputs={"y": (), "z": ()})
    with pytest.raises(OutputError, match="output 'z' is nan") as caught:
        bad.evaluate({"x": 1})
    assert caught.value.partial["y"] == 1.5
    assert math.isnan(caught.value.partial["z"])
    with pytest.raises(OutputError, match="output 'y' is -inf") as caught:
        bad.evaluate({"x": 2})
    assert caught.value.partial is None


def test_errors_of_the_package(reference):
    bad = UMBridgeSimulator(reference, "bad", inputs=["x"], outputs={"y": (), "z": ()}, retries=0)
    with pytest.raises(SimulatorFailed, match="answered 500 .*500 Internal Server Error"):  # plain text, as it is
        bad.evaluate({"x": 3})
    with pytest.raises(OutputError, match="500 InvalidOutput: Output vector 0 has invalid length! Model declared 2"):
        bad.evaluate({"x": 4})
    with pytest.raises(SimulatorTimeout, match="did not answer Evaluate before the deadline"):
        replace(bad, timeout=0.3).evaluate({"x": 5})  # which answers after 1 s
    with pytest.raises(SimulatorTimeout), deadline(0.3):
        bad.evaluate({"x": 5})


def test_prepare_says_what_does_not_fit(reference):
    simulator = several(reference)
    with pytest.raises(InputError, match=r"missing \['c'\], unknown \['d'\]"):
        simulator.prepare(["a", "b", "d"])
    with pytest.raises(InputError, match=r"input vectors of sizes \[2, 1\], but inputs= names \[3\]"):
        replace(simulator, inputs=["a", "b", "c"], vectors=None).prepare(["a", "b", "c"])
    with pytest.raises(SimulatorNotFound, match="has no model 'serval'; it has: banana, donut, .*, silent"):
        replace(simulator, model="serval").prepare(["a", "b", "c"])
    with pytest.raises(SimulatorNotFound, match="'silent' .* does not offer Evaluate"):
        replace(simulator, model="silent").prepare(["a", "b", "c"])


def test_threads_and_a_running_event_loop(reference):
    simulator = several(reference)
    with ThreadPoolExecutor(4) as pool:
        points = [POINT | {"c": float(i)} for i in range(40)]
        got = [float(each["curve"][0]) for each in pool.map(simulator.evaluate, points)]
    assert got == [float(i) for i in range(40)]

    async def cell():
        return simulator.evaluate(POINT)["end"]

    assert asyncio.run(cell()) == 0.5


# ------------------------------------------------------------------------------------------------------------ settings
def test_pickles_and_identity(reference):
    simulator = several(reference, token="secret-word", version="1", config={"scale": 2.0})
    simulator.evaluate(POINT)
    for copy in (pickle.loads(pickle.dumps(simulator)), cloudpickle.loads(cloudpickle.dumps(simulator))):
        assert copy.evaluate(POINT)["end"] == 0.5
        assert copy.identity == simulator.identity
    assert simulator.identity["kind"] == "umbridge"
    assert simulator.identity["inputs"] == [["a", "b"], ["c"]]
    assert simulator.identity["config"] == {"scale": "float 0x1.0000000000000p+1"}
    told = repr(simulator.identity)
    assert "secret-word" not in told + repr(simulator)
    assert "127.0.0.1" not in told
    other = replace(simulator, url="http://elsewhere:1", token=None, timeout=1.0, retries=9)
    assert other.identity == simulator.identity
    for change in ({"version": "2"}, {"model": "x"}, {"config": {}}, {"inputs": ["a", "b", "c"], "vectors": None}):
        assert replace(simulator, **change).identity != simulator.identity


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "scheme 'file'"),
        ("ftp://host", "scheme 'ftp'"),
        ("localhost:4242", "scheme 'localhost'"),
        ("http://me:hunter2@host:4242", "user or password"),
        ("http://me@host", "user or password"),
        ("http://host:4242?token=1", "query or fragment"),
        ("http://host:99999", "cannot be read"),
        ("http://", "give host and port"),
        ("http://ho st", "spaces"),
        ("http://host\r\nX: y", "spaces"),
        (7, "no text"),
    ],
)
def test_urls_that_cannot_be_meant(url, message):
    with pytest.raises(InputError, match=message) as caught:
        scalars(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": " "}, "model is ' '"),
        ({"version": 2}, "version is 2"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": True}, "timeout is True"),
        ({"retries": -1}, "retries is -1"),
        ({"token": "a\nb"}, "token must be"),
        ({"inputs": "ab"}, "inputs is 'ab'"),
        ({"inputs": []}, "inputs is"),
        ({"inputs": ["a", ["b"]]}, "names alone"),
        ({"inputs": [["a"], []]}, "names alone"),
        ({"inputs": ["a", "a"]}, "'a' twice"),
        ({"inputs": ["n"], "seed": "n"}, "only the seed"),
        ({"inputs": ["y"]}, "'y' is an input and an output"),
        ({"vectors": (("q",),)}, "leave out vectors"),
        ({"outputs": {}}, "outputs is"),
        ({"config": {"x": 1}}, "'x' is an input and stands in config"),
    ],
)
def test_settings_that_cannot_be_meant(change, message):
    settings = {"model": "m", "inputs": ["x"], "outputs": {"y": ()}} | change
    with pytest.raises(InputError, match=message):
        UMBridgeSimulator("http://localhost:1", settings.pop("model"), **settings)


def test_points_that_cannot_be_sent():
    with pytest.raises(InputError, match="input 'x' is nan"):
        scalars("http://localhost:1").evaluate({"x": math.nan})
    with pytest.raises(InputError, match="no value of 'x'"):
        scalars("http://localhost:1").evaluate({"y": 1.0})


# ----------------------------------------------------------------------------------------------- servers that misbehave
@pytest.mark.parametrize(
    ("body", "partial"),
    [
        ('{"output": [[1.0, NaN]]}', (1.0, None)),
        ('{"output": [[nan, 2]]}', (None, 2.0)),
        ('{"output": [[1.0, -inf]] }', (1.0, None)),
        ('{"output": [[Infinity, 3.0]]}', (None, 3.0)),
        ('{"output": [[null, 3.0]]}', (None, 3.0)),
        ('{"output": [[1e999, 3.0]]}', (None, 3.0)),
        ('{"output": [[null, NaN]]}', None),
    ],
)
def test_numbers_that_are_none(raw, body, partial):
    with pytest.raises(OutputError, match="must be finite") as caught:
        scalars(raw(http(body)).url).evaluate({"x": 1.0})
    if partial is None:
        assert caught.value.partial is None
    else:
        expected = [math.nan if value is None else value for value in partial]
        np.testing.assert_array_equal([caught.value.partial["y"], caught.value.partial["z"]], expected)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("all is well", "no JSON: all is well"),
        ("", "no JSON"),
        ("[1, 2]", "a list where an object is due"),
        ("{}", "without a list 'output', but "),
        ('{"output": 3}', "without a list 'output', but "),
        ('{"output": [1.0, 2.0]}', "a number where a list of numbers is due"),
        ('{"output": [["1", 2]]}', "a list with str"),
        ('{"output": [[true, 2]]}', "a list with bool"),
        ('{"output": [[1.0]]}', r"sizes \[1\], but the declared outputs have 2 entries \(y 1, z 1\), not 1"),
        ('{"output": []}', r"sizes \[\]"),
        ('{"output": [[1.0, 2.0, 3.0]]}', r"sizes \[3\]"),
        ('{"output": [[1.0, 1' + 400 * "0" + "]]}", "beyond double precision"),
        ('{"output": [[1.0, 1' + 5000 * "0" + "]]}", "no JSON"),
        ('{"output": ' + 100_000 * "[", "no JSON"),
    ],
)
def test_answers_that_are_none(raw, body, message):
    with pytest.raises(OutputError, match=message) as caught:
        scalars(raw(http(body)).url).evaluate({"x": 1.0})
    assert caught.value.partial is None
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (http("500: it\nbroke", "500 Oops"), "answered 500 500: it broke$"),
        (http("x" * 100_000, "500 Oops"), r"answered 500 x{900,}\.\.\.$"),
        (http("", "418 I'm a teapot"), "answered 418 I'm a teapot"),
        (http('{"error": {"type": "InvalidInput", "message": "no"}}', "400 Bad"), "answered 400 InvalidInput: no"),
        (http('{"error": {"type": "Model", "message": "diverged"}}'), "answered 200 Model: diverged"),
        (http('{"error": "diverged"}'), 'answered 200 {"error": "diverged"}'),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "no HTTP server"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", r"may have crashed: IncompleteRead.*\(tried 1 times\)\.$"),
    ],
)
def test_failures_are_told(raw, answer, message):
    def talk(connection, _):
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)

    with pytest.raises(SimulatorFailed, match=message):
        scalars(raw(talk).url).evaluate({"x": 1.0})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(raw, status):
    target = raw(http('{"output": [[1.0, 2.0]]}'))
    where = target.url.replace("//", "//me:hunter2@")
    server = raw(http("", f"{status} Moved", f"Location: {where}/Evaluate\r\n"))
    for call in (lambda s: s.evaluate({"x": 1.0}), lambda s: s.prepare(["x"])):
        with pytest.raises(InputError, match=rf"redirects \({status}\) to {target.url}/Evaluate") as caught:
            call(scalars(server.url, token="secret-word"))
        assert "hunter2" not in str(caught.value)
    assert target.requests == []


def test_a_long_answer_is_not_read_to_its_end(raw, monkeypatch):
    monkeypatch.setattr(client, "SMALLEST", 100_000)
    sent = []

    def endless(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(1000):
            connection.sendall(b"10000\r\n" + 65536 * b" " + b"\r\n")
            sent.append(65536)
        connection.close()

    with pytest.raises(OutputError, match="more than 100128 bytes"):
        scalars(raw(endless).url).evaluate({"x": 1.0})
    assert sum(sent) < 20e6
    server = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
    with pytest.raises(OutputError, match="more than 100128 bytes"):
        scalars(server.url).evaluate({"x": 1.0})


def test_the_deadline_is_total(raw):
    # A server that is heard out to its end closes the connection, which is another error.
    def hang(connection, _):
        time.sleep(5.0)

    def drip(connection, _):
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + 1000 * b"x":
            connection.sendall(bytes([byte]))
            time.sleep(0.02)

    def drip_body(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            connection.sendall(b" ")
            time.sleep(0.02)

    def say_again(connection, _):
        while True:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.02)

    for talk in (hang, drip, drip_body, say_again):
        server = raw(talk)
        with pytest.raises(SimulatorTimeout, match="did not answer Evaluate before the deadline"):
            scalars(server.url, timeout=0.3, retries=5).evaluate({"x": 1.0})
        with pytest.raises(SimulatorTimeout), deadline(0.3):
            scalars(server.url, retries=5).evaluate({"x": 1.0})
        assert len(server.requests) <= 2  # one each: a deadline is not retried
    with pytest.raises(SimulatorTimeout), deadline(0.0):
        scalars(server.url).evaluate({"x": 1.0})


def test_the_deadline_comes_in_time_to_tell_of_it(raw, monkeypatch):
    ends, ask = [], peer.Peer.ask

    def asked(self, question, message, end, limit):
        ends.append(end)
        return ask(self, question, message, end, limit)

    monkeypatch.setattr(peer.Peer, "ask", asked)
    with deadline(50.0):
        scalars(raw(http('{"output": [[1.0, 2.0]]}')).url).evaluate({"x": 1.0})
        latest = remaining() + time.monotonic()
    assert client.MARGIN > 0.0
    assert ends[0] <= latest - client.MARGIN


def test_a_peer_that_does_not_read_meets_the_deadline(raw, monkeypatch):
    def narrow(opened):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        opened.settimeout(5.0)  # what a kept connection still has from before
        narrowed.append(opened)

    narrowed = []
    monkeypatch.setattr(connections, "_notice_a_dead_peer", narrow)
    sock = socket.create_server(("127.0.0.1", 0))
    names = [f"x{i}" for i in range(100_000)]
    wide = UMBridgeSimulator(
        f"http://127.0.0.1:{sock.getsockname()[1]}", "m", inputs=names, outputs={"y": ()}, timeout=0.4, retries=0
    )
    with sock, pytest.raises(SimulatorTimeout):
        wide.evaluate(dict.fromkeys(names, 1.0 / 3.0))
    assert narrowed[0].gettimeout() <= 0.4


def test_refused_connections(monkeypatch):
    monkeypatch.setattr(peer, "BACKOFF", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    with pytest.raises(SimulatorNotFound, match=f"No UM-Bridge server at {url}: .*connection refused .tried 3 times"):
        scalars(url, retries=2).prepare(["x"])
    with pytest.raises(SimulatorFailed, match=r"no connection: connection refused \(tried 3 times\)"):
        scalars(url, retries=2).evaluate({"x": 1.0})
    waits = []
    monkeypatch.setattr(peer, "BACKOFF", GUARD)
    monkeypatch.setattr(peer.time, "sleep", waits.append)
    with pytest.raises(SimulatorFailed, match=r"connection refused \(tried 1 times, until the deadline\)"):
        scalars(url, retries=2, timeout=GUARD).evaluate({"x": 1.0})
    assert waits == []  # no use in waiting for a retry that would come too late


def test_only_busy_servers_and_broken_connections_are_asked_again(raw, monkeypatch):
    waits = []
    monkeypatch.setattr(peer.time, "sleep", waits.append)
    good = http('{"output": [[1.0, 2.0]]}')
    answers = [http("busy", "503 Busy"), b"", http("gone", "502 Bad Gateway"), good]

    def talk(connection, _):
        answer = answers[len(server.requests) - 1]
        connection.sendall(answer) if answer else connection.close()

    server = raw(talk)
    assert scalars(server.url, retries=3).evaluate({"x": 1.0})["z"] == 2.0
    assert waits == pytest.approx([0.2, 0.4])  # a kept connection that has been closed is replaced at once
    for status in ("500 Oops", "400 Bad", "404 Not Found", "429 Slow"):
        failing = raw(http("no", status))
        with pytest.raises(SimulatorFailed):
            scalars(failing.url, retries=3).evaluate({"x": 1.0})
        assert len(failing.requests) == 1
    busy = raw(http("busy", "503 Busy"))
    with pytest.raises(SimulatorFailed, match=r"busy or restarts: 503 busy \(tried 3 times\)"):
        scalars(busy.url, retries=2).evaluate({"x": 1.0})


def test_connections_are_kept_and_replaced_when_closed(raw):
    good = http('{"output": [[1.0, 2.0]]}')
    server = raw(good)
    simulator = scalars(server.url)
    for _ in range(5):
        simulator.evaluate({"x": 1.0})
    assert len(server.connections) == 1
    server.connections[0].shutdown(socket.SHUT_RDWR)  # the server has lost patience with an idle connection
    time.sleep(0.05)
    simulator.evaluate({"x": 1.0})
    assert len(server.connections) == 2

    def reset_old(connection, _):  # closed by the server while the request is on its way
        if len(late.requests) == 2:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        else:
            connection.sendall(good)

    late = raw(reset_old)
    simulator = scalars(late.url)
    simulator.evaluate({"x": 1.0})
    simulator.evaluate({"x": 1.0})
    assert len(late.connections) == 2

    answered, said = threading.Event(), threading.Event()

    def say_more(connection, _):
        connection.sendall(good)
        answered.wait(GUARD)
        answered.clear()
        connection.sendall(good)
        said.set()

    rubbish = raw(say_more)
    simulator = scalars(rubbish.url)
    for _ in range(2):
        simulator.evaluate({"x": 1.0})
        answered.set()
        assert said.wait(GUARD)
        said.clear()
    assert len(rubbish.connections) == 2  # the second answer belonged to nobody
    del simulator
    gc.collect()  # a socket left open would be an error here


def test_the_token_is_sent_and_not_told(raw):
    server = raw(http("Bearer secret-word is wrong", "401 Unauthorized"))
    with pytest.raises(InputError, match=r"refuses: 401 Bearer \*\*\* is wrong. Does it want another token") as caught:
        scalars(server.url, token="secret-word").evaluate({"x": 1.0})
    assert b"Authorization: Bearer secret-word\r\n" in server.requests[0]
    assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ('{"protocolVersion": 0.9, "models": ["m"]}', "speaks version 0.9"),
        ('{"protocolVersion": "1.0", "models": ["m"]}', "speaks version '1.0'"),
        ('{"protocolVersion": null, "models": ["m"]}', "speaks version None"),
        ('{"protocolVersion": 1.0, "models": "m"}', "it has: none"),
        ('{"protocolVersion": 1.0, "models": []}', "it has: none"),
        ("<html>", "No UM-Bridge server at .*no JSON: <html>"),
    ],
)
def test_info_that_is_none(raw, info, message):
    with pytest.raises(SimulatorNotFound, match=message):
        scalars(raw(http(info)).url).prepare(["x"])


@pytest.mark.parametrize("sizes", ["3", '["1"]', "[true]", "[-1]", "[1.5]", "null"])
def test_sizes_that_are_none(raw, sizes):
    def talk(connection, request):
        path = request.split()[1]
        answers = {
            b"/Info": '{"protocolVersion": 1, "models": ["m"]}',
            b"/ModelInfo": '{"support": {"Evaluate": true}}',
        }
        connection.sendall(http(answers.get(path, f'{{"inputSizes": {sizes}, "outputSizes": {sizes}}}')))

    with pytest.raises(OutputError, match="where a list of sizes is due"):
        scalars(raw(talk).url).prepare(["x"])


def test_a_path_of_the_url_stays_in_front(raw):
    server = raw(http('{"output": [[1.0, 2.0]]}'))
    scalars(server.url + "/hpc/").evaluate({"x": 1.0})
    assert server.requests[0].startswith(b"POST /hpc/Evaluate HTTP/1.1\r\n")


def test_a_server_that_does_not_speak_tls():
    with socket.create_server(("127.0.0.1", 0)) as sock:

        def plain():
            connection, _ = sock.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=plain)
        thread.start()
        with pytest.raises(SimulatorFailed, match="TLS fails"):
            scalars(f"https://127.0.0.1:{sock.getsockname()[1]}").evaluate({"x": 1.0})
        thread.join()


def test_questions_have_a_deadline_of_their_own(raw, monkeypatch):
    monkeypatch.setattr(client, "QUESTION", 0.3)
    with pytest.raises(SimulatorTimeout, match="did not answer Info before the deadline"):
        scalars(raw(lambda connection, _: time.sleep(2.0)).url).prepare(["x"])


def test_a_gradient_that_is_none(raw):
    answers = {
        b"/ModelInfo": '{"support": {"Gradient": true}}',
        b"/OutputSizes": '{"outputSizes": [2]}',
    }
    for output, message in (
        ("[1.0, 2.0]", "of 2 numbers"),
        ("[NaN]", r"of 1 numbers \(\[nan\]\)"),
        ("3", "a number where"),
    ):

        def talk(connection, request, output=output):
            connection.sendall(http(answers.get(request.split()[1], f'{{"output": {output}}}')))

        with pytest.raises(OutputError, match=message):
            scalars(raw(talk).url).gradient({"x": 1.0}, {"y": 1.0})


def test_of_an_endless_error_the_begin_will_do(raw):
    def endless(connection, _):
        connection.sendall(b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(1000):
            connection.sendall(b"10000\r\n" + 65536 * b"x" + b"\r\n")
        connection.close()

    with pytest.raises(SimulatorFailed, match="answered 500 xxx"):
        scalars(raw(endless).url, timeout=GUARD).evaluate({"x": 1.0})


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@pytest.fixture
def black_holes():
    """Give addresses that never answer: their queue of new connections is full."""
    opened = []

    def dig(count):
        for _ in range(count):
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
            sock.listen(0)
            opened.append(sock)
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(sock.getsockname())
                opened.append(filler)
            yield sock.getsockname()

    yield lambda count: list(dig(count))
    for sock in opened:
        sock.close()


def resolve(monkeypatch, addresses):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
    monkeypatch.setattr(connections.socket, "getaddrinfo", lambda *_, **__: found)


def test_a_system_without_ipv6_takes_the_other_address(raw, monkeypatch):
    server = raw(http('{"output": [[1.0, 2.0]]}'))
    port, real = int(server.url.rsplit(":")[-1]), socket.socket
    sixth = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))
    fourth = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))

    def made(family=-1, *rest, **more):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *rest, **more)

    monkeypatch.setattr(connections.socket, "getaddrinfo", lambda *_, **__: [sixth, fourth])
    monkeypatch.setattr(connections.socket, "socket", made)
    assert scalars(f"http://localhost:{port}", timeout=GUARD).evaluate({"x": 1.0})["z"] == 2.0


def test_addresses_share_the_time_and_the_first_that_answers_is_taken(raw, black_holes, monkeypatch):
    server = raw(http('{"output": [[1.0, 2.0]]}'))
    address = ("127.0.0.1", int(server.url.rsplit(":")[-1]))
    clock, limits = Clock(), []
    for module in (client, connections, peer):
        monkeypatch.setattr(module, "time", clock)

    class Socket(socket.socket):
        def connect(self, address):
            limits.append(self.gettimeout())
            try:
                super().connect(address)
            except TimeoutError:
                clock.now += limits[-1]
                raise

    monkeypatch.setattr(connections.socket, "socket", Socket)
    resolve(monkeypatch, [*black_holes(1), ("127.0.0.1", closed_port()), address])
    assert scalars("http://cluster.example:4242", timeout=1.5).evaluate({"x": 1.0})["z"] == 2.0
    assert limits == pytest.approx([0.5, 0.5, 1.0])
    limits.clear()
    resolve(monkeypatch, black_holes(5))
    with pytest.raises(SimulatorFailed, match=r"no connection: TimeoutError: timed out \(tried 1 times"):
        scalars("http://cluster.example:4242", timeout=0.4, retries=3).evaluate({"x": 1.0})
    assert limits == pytest.approx([0.08] * 5)
    monkeypatch.setattr(client, "QUESTION", 0.3)
    with pytest.raises(SimulatorNotFound, match="No UM-Bridge server at http://cluster.example:4242: .*no connection"):
        scalars("http://cluster.example:4242").prepare(["x"])


def test_a_name_that_is_looked_up_for_long_meets_the_deadline(monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(connections.socket, "getaddrinfo", lambda *_, **__: go.wait(GUARD))
    with pytest.raises(SimulatorFailed, match=r"the address of slow.example was not found within 0\.\d+ s"):
        scalars("http://slow.example:4242", timeout=0.4).evaluate({"x": 1.0})
    go.set()

    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(connections.socket, "getaddrinfo", unknown)
    with pytest.raises(SimulatorNotFound, match="no connection: gaierror: .*Name or service not known"):
        scalars("http://no.example:4242").prepare(["x"])


@pytest.mark.parametrize("computes", [0.2, 0.0])
def test_an_evaluation_is_not_sent_again_when_it_had_begun(raw, computes, monkeypatch):
    monkeypatch.setattr(connections, "AT_ONCE", 0.1 if computes else GUARD)  # a busy machine is late
    good = http('{"output": [[1.0, 2.0]]}')

    def crash(connection, _):
        if len(server.requests) == 2:
            time.sleep(computes)
            connection.close()
        else:
            connection.sendall(good)

    server = raw(crash)
    simulator = scalars(server.url)
    simulator.evaluate({"x": 1.0})
    if computes:
        with pytest.raises(SimulatorFailed, match=r"broke before the answer .* RemoteDisconnected.*\(tried 1 times\)"):
            simulator.evaluate({"x": 2.0})
        assert len(server.requests) == 2
    else:
        assert simulator.evaluate({"x": 2.0})["z"] == 2.0  # closed at once: as when the server had given up to wait
        assert len(server.requests) == 3


def test_what_went_wrong_first_is_told(raw, monkeypatch):
    monkeypatch.setattr(peer, "BACKOFF", 0.01)

    def crash(connection, _):
        server.sock.shutdown(socket.SHUT_RDWR)
        server.sock.close()
        connection.close()

    server = raw(crash)
    with pytest.raises(
        SimulatorFailed,
        match=r"connection refused \(tried 3 times\)\. At first: the connection broke .* RemoteDisconnected",
    ):
        scalars(server.url, retries=2).evaluate({"x": 1.0})


def test_a_request_without_time_is_not_sent(raw):
    server = raw(http('{"output": [[1.0, 2.0]]}'))
    with pytest.raises(SimulatorTimeout, match="was not asked for Evaluate: no time was left"), deadline(0.0):
        scalars(server.url).evaluate({"x": 1.0})
    assert server.connections == []


def test_an_error_that_is_null_is_none(raw):
    server = raw(http('{"output": [[1.0, 2.0]], "error": null}'))
    assert scalars(server.url).evaluate({"x": 1.0})["z"] == 2.0


def test_a_seed_in_the_config_is_a_whole_number(raw):
    server = raw(http('{"output": [[1.0, 2.0]]}'))
    scalars(server.url, seed="n").evaluate({"x": 0.5, "n": 7.0})
    assert server.requests[0].endswith(b'{"name":"m","input":[[0.5]],"config":{"n":7}}')


def test_connections_are_not_shared_with_a_forked_process(raw):
    server = raw(http('{"output": [[1.0, 2.0]]}'))
    simulator = scalars(server.url)
    simulator.evaluate({"x": 1.0})
    kept = list(simulator._peer.connections._idle)
    simulator._peer.connections._pid -= 1  # as in a child
    simulator.evaluate({"x": 1.0})
    assert len(server.connections) == 2
    for connection in kept:
        connection.close()


def test_kept_connections_are_closed_before_their_sockets_are_garbage(raw):
    simulator = scalars(raw(http('{"output": [[1.0, 2.0]]}')).url)
    simulator.evaluate({"x": 1.0})
    later = connections.Connections(simulator.url)
    later._give(simulator._peer.connections._idle.pop())
    circle = [later]
    circle.append(circle)  # as the traceback of an error
    del later, circle
    gc.collect()  # a socket left open would be an error here


def test_at_most_a_few_connections_are_kept(raw):
    together = threading.Barrier(12)
    server = raw(lambda connection, _: (together.wait(GUARD), connection.sendall(http('{"output": [[1.0, 2.0]]}'))))
    simulator = scalars(server.url)
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda _: simulator.evaluate({"x": 1.0}), range(12)))
    assert len(server.connections) == 12
    assert len(simulator._peer.connections._idle) == 8


def test_new_connections_notice_a_dead_peer_and_do_not_take_for_ever(raw, monkeypatch):
    server = raw(http('{"output": [[1.0, 2.0]]}'))
    limits = []

    class Socket(socket.socket):
        def connect(self, address):
            limits.append(self.gettimeout())
            super().connect(address)

    monkeypatch.setattr(connections.socket, "socket", Socket)
    simulator = scalars(server.url)
    simulator.evaluate({"x": 1.0})
    (kept,) = simulator._peer.connections._idle
    sock = kept.timed.sock
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    scalars(server.url, timeout=3.0).evaluate({"x": 1.0})
    assert limits[0] == 10.0
    assert 0.0 < limits[1] <= 3.0
    kept.close()
    with pytest.raises(connections.http.client.NotConnected):  # it would come back without TLS
        kept.request("GET", "/Info")
    simulator._peer.connections._idle.clear()


@pytest.mark.parametrize(
    ("partial", "expected"),
    [
        ("[[1.0, null]]", [1.0, math.nan]),
        ("[[null, null]]", None),
        ("[[1.0, 2.0]]", None),  # which of them is wrong?
        ("[[1.0]]", None),
        ('[["1.0", null]]', None),
        ("7", None),
    ],
)
def test_errors_that_hold_a_part_of_the_outputs(raw, partial, expected):
    body = '{"error": {"type": "InvalidOutput", "message": "z is nan", "partial": ' + partial + "}}"
    with pytest.raises(OutputError, match="answered 500 InvalidOutput: z is nan$") as caught:
        scalars(raw(http(body, "500 Oops")).url).evaluate({"x": 1.0})
    if expected is None:
        assert caught.value.partial is None
    else:
        np.testing.assert_array_equal([caught.value.partial["y"], caught.value.partial["z"]], expected)


def test_a_server_that_says_that_the_model_is_late(raw):
    server = raw(http('{"error": {"type": "Timeout", "message": "too slow"}}', "504 Late"))
    with pytest.raises(SimulatorTimeout, match="answered 504 Timeout: too slow"):
        scalars(server.url, retries=3).evaluate({"x": 1.0})
    assert len(server.requests) == 1


def test_a_connection_that_fails_half_way_is_closed(raw, monkeypatch):
    def fail(sock):
        raise OSError("no such option")

    monkeypatch.setattr(connections, "_notice_a_dead_peer", fail)
    with pytest.raises(SimulatorFailed, match="no connection: OSError: no such option .tried 1 times"):
        scalars(raw(b"").url).evaluate({"x": 1.0})
    gc.collect()  # a socket left open would be an error here


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 24\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 24\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n18\r\n",
    ],
)
def test_answers_whose_end_closes_the_connection(raw, head):
    def talk(connection, _):
        connection.sendall(head)
        time.sleep(0.02)
        connection.sendall(b'{"output": [[1.0, 2.0]]}' + b"\r\n0\r\n\r\n" * (b"chunked" in head))
        connection.shutdown(socket.SHUT_WR)

    server = raw(talk)
    simulator = scalars(server.url)
    for _ in range(2):
        assert simulator.evaluate({"x": 1.0})["z"] == 2.0
    assert len(server.connections) == 2
    del simulator
    gc.collect()  # a socket left open would be an error here


def test_an_answer_that_breaks_off_leaves_no_connection(raw, monkeypatch):
    begun, closed = threading.Event(), threading.Event()

    def talk(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 100\r\n\r\n")
        begun.set()  # the deadline comes here
        connection.sendall(b"{")
        with contextlib.suppress(ConnectionResetError):  # it was closed before that byte was read
            assert connection.recv(1) == b""
        closed.set()

    for module in (client, connections, peer):
        monkeypatch.setattr(module, "time", Leaping(begun.is_set))
    with pytest.raises(SimulatorTimeout) as caught:
        scalars(raw(talk).url, timeout=GUARD).evaluate({"x": 1.0})
    assert closed.wait(GUARD), caught  # although the error is kept, and with it what it came from

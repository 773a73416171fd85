"""The server: to our client and the umbridge package's, and to those who mean harm."""

import asyncio
import contextlib
import dataclasses
import gzip
import http.client
import json
import logging
import math
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fuzz_server as attack
import numpy as np
import pytest
import umbridge
import xarray as xr
from clocks import GUARD, wait_for

import uqms as uq
from uqms.errors import ExtrapolationError, InputError, OutputError, SimulatorFailed, SimulatorTimeout
from uqms.simulators.deadline import remaining
from uqms.simulators.umbridge import UMBridgeServer, UMBridgeSimulator, _aiohttp, endpoint, serve, server, slots, wire

DAYS = np.array([0.0, 0.5, 1.0])
TOKEN = "0123456789abcdef"


@dataclasses.dataclass(frozen=True)
class Model:
    """Two inputs, a curve and a scalar, a setting, a gradient; does something else when told so."""

    action: object = None
    config: dict = dataclasses.field(default_factory=lambda: {"scale": 2.0, "mode": "fast", "strict": False})
    seed: str | None = None
    name = "model"
    inputs = ("a", "b")
    outputs = {"curve": ("day",), "end": ()}
    coords = {"day": DAYS}

    def evaluate(self, point):
        if self.action is not None:
            return self.action(point)
        return {"curve": self.config["scale"] * point["a"] * DAYS, "end": point["b"] + point.get("seed", 0)}

    def gradient(self, point, sensitivity):
        curve = np.asarray(sensitivity.get("curve", np.zeros(3)))
        return {"a": self.config["scale"] * float(curve @ DAYS), "b": float(sensitivity.get("end", 0.0))}


def client(url, **more):
    return UMBridgeSimulator(
        url,
        more.pop("model", "model"),
        outputs=Model.outputs,
        coords=Model.coords,
        **{"inputs": ["a", "b"], "retries": 0, "timeout": GUARD, **more},
    )


def ask(url, question="Evaluate", headers=None, **message):
    """Send one request; return status and answer."""
    if question == "Evaluate":
        message = {"name": "model", "input": [[1.0, 2.0]]} | message
    method = "GET" if question == "Info" else "POST"
    body = json.dumps(message) if message else None
    with contextlib.closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=GUARD)) as connection:
        connection.request(method, f"/{question}", body, headers or {})
        response = connection.getresponse()
        assert response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(response.read())


def error(url, *args, **message):
    """Send one request that is refused; return status, type and message."""
    status, answer = ask(url, *args, **message)
    return status, answer["error"]["type"], answer["error"]["message"]


@pytest.fixture
def url():
    with UMBridgeServer(Model(), port=0) as address:
        yield address


# --------------------------------------------------------------------------------------------------------- round trips
def test_our_client(url):
    simulator = client(url)
    simulator.prepare(["a", "b"])
    got = simulator.evaluate({"a": 1.5, "b": -2.0})
    np.testing.assert_array_equal(got["curve"], 3.0 * DAYS)
    assert got["end"] == -2.0
    assert simulator.gradient({"a": 1.5, "b": -2.0}, {"curve": [1.0, 2.0, 3.0], "end": 0.25}) == {"a": 8.0, "b": 0.25}


def test_the_packages_client(url):
    assert umbridge.supported_models(url) == ["model"]
    model = umbridge.HTTPModel(url, "model")
    assert model.get_input_sizes() == [2]
    assert model.get_output_sizes() == [3, 1]
    assert model([[1.5, -2.0]]) == [[0.0, 1.5, 3.0], [-2.0]]
    assert model.supports_gradient()
    assert not model.supports_apply_jacobian()
    assert not model.supports_apply_hessian()
    assert model.gradient(0, 0, [[1.5, -2.0]], [1.0, 2.0, 3.0]) == [8.0, 0.0]
    assert model.gradient(1, 0, [[1.5, -2.0]], [0.25]) == [0.0, 0.25]
    with pytest.raises(
        Exception, match="Model returned error of type InvalidInput: input vector 0 has 1 entries, expected 2"
    ):
        model([[1.5]])
    with pytest.raises(Exception, match="Model other not supported by server"):
        umbridge.HTTPModel(url, "other")


def test_the_packages_client_falls_back_from_shared_memory(url, capsys):
    assert umbridge.HTTPModel(url, "model", use_shmem=True)([[1.5, -2.0]]) == [[0.0, 1.5, 3.0], [-2.0]]
    assert "Using HTTP instead" in capsys.readouterr().out


def test_several_input_vectors_and_several_models():
    with UMBridgeServer(Model(), port=0, inputs=[["b"], ["a"]]) as url:
        simulator = client(url, inputs=[["b"], ["a"]])
        simulator.prepare(["a", "b"])
        point = {"a": 1.5, "b": -2.0}
        assert simulator.evaluate(point)["end"] == -2.0
        assert simulator.gradient(point, {"curve": [0.0, 0.0, 1.0], "end": 3.0}) == {"b": 3.0, "a": 2.0}
        assert umbridge.HTTPModel(url, "model")([[-2.0], [1.5]]) == [[0.0, 1.5, 3.0], [-2.0]]
    function = uq.FunctionSimulator(lambda a, b: a - b, outputs={"y": ()}, name="difference")
    with UMBridgeServer({"one": Model(), "two": function}, port=0) as url:
        assert ask(url, "Info") == (200, {"protocolVersion": 1.0, "models": ["one", "two"]})
        assert umbridge.HTTPModel(url, "two")([[5.0, 2.0]]) == [[3.0]]
        assert ask(url, "ModelInfo", name="two")[1]["support"]["Gradient"] is False
        assert (
            error(url, "Gradient", name="two", input=[[1, 2]], outWrt=0, inWrt=0, sens=[1])[1] == "UnsupportedFeature"
        )
        assert client(url, model="one").evaluate({"a": 1.0, "b": 2.0})["end"] == 2.0


def test_fields_are_flat_in_c_order():
    field = np.arange(6.0).reshape(2, 3)
    simulator = uq.FunctionSimulator(
        lambda a: field * a, outputs={"f": ("x", "day")}, coords={"x": ["l", "r"], "day": DAYS}, name="field"
    )
    with UMBridgeServer(simulator, port=0) as url:
        assert umbridge.HTTPModel(url, "field")([[1.0]]) == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]
        settings = {"outputs": simulator.outputs, "coords": simulator.coords, "inputs": ["a"]}
        np.testing.assert_array_equal(
            UMBridgeSimulator(url, "field", **settings).evaluate({"a": 2.0})["f"], 2.0 * field
        )


def test_a_fitted_surrogate_is_served_with_its_gradient():
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.LogNormal(median=1.0, sigma=0.3))
    design = uq.sobol(space, 32, rng=1)
    curve = np.sin(design["a"].values)[:, None] + np.outer(design["b"].values, DAYS)
    labelled = xr.DataArray(curve, dims=("run", "day"), coords={"day": DAYS})
    surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"curve": labelled}))
    with UMBridgeServer(surrogate, port=0) as url:
        simulator = UMBridgeSimulator(
            url, "forward", inputs=surrogate.inputs, outputs=surrogate.outputs, coords=surrogate.coords
        )
        simulator.prepare(["a", "b"])
        point = {"a": 0.4, "b": 1.1}
        np.testing.assert_array_equal(simulator.evaluate(point)["curve"], surrogate.evaluate(point)["curve"])
        weights = {"curve": [1.0, -2.0, 3.0]}
        assert simulator.gradient(point, weights) == pytest.approx(surrogate.gradient(point, weights), rel=1e-12)
        status, kind, message = error(url, name="forward", input=[[5.0, 1.1]])
        assert (status, kind) == (400, "InvalidInput")
        assert "outside of the design box (a = 5 not in [0, 1])" in message


def test_settings_and_seeds():
    with UMBridgeServer(Model(seed="seed"), port=0, config=["scale", "mode"]) as url:
        assert client(url, config={"scale": 4.0}).evaluate({"a": 1.0, "b": 2.0})["curve"][2] == 4.0
        assert client(url, seed="seed").evaluate({"a": 1.0, "b": 2.0, "seed": 40})["end"] == 42.0
        drawn = {ask(url)[1]["output"][1][0] for _ in range(5)}
        assert len(drawn) > 1  # without a seed, each call has its own
        assert all(2 <= value < 2 + 2**31 for value in drawn)
        for config, message in [
            ({"scale": "4"}, "config has 'scale' as a text; give a number."),
            ({"scale": True}, "config has 'scale' as true or false; give a number."),
            ({"mode": 1}, "config has 'mode' as a number; give a text."),
            ({"strict": True}, "config has the unknown key 'strict'; this model takes: mode, scale, seed."),
            ({"seed": 1.5}, "the seed must be a whole number from 0 to 2147483647."),
            ({"seed": 2**31}, "the seed must be a whole number from 0 to 2147483647."),
            ({"seed": True}, "the seed must be a whole number from 0 to 2147483647."),
            ([1], "config must be a JSON object."),
            (0, "config must be a JSON object."),
        ]:
            for question in ("Evaluate", "InputSizes", "OutputSizes"):
                given = {"name": "model", "config": config}
                assert error(url, question, **given) == (400, "InvalidInput", message)
    with UMBridgeServer(Model(seed="seed"), port=0, inputs=["a", "b", "seed"]) as url:
        assert ask(url, input=[[1.0, 2.0, 40.0]])[1]["output"][1] == [42.0]
        assert error(url, input=[[1.0, 2.0, 0.5]])[2].startswith("the seed must be")
        assert error(url, input=[[1.0, 2.0, 1]], config={"seed": 1})[2] == (
            "config has the unknown key 'seed'; this model takes: no settings."
        )


def test_requests_as_clients_in_r_write_them(url):
    for config in (None, [], {}):
        for name in ("model", ["model"]):
            assert ask(url, name=name, config=config) == (200, {"output": [[0.0, 1.0, 2.0], [2.0]]})
            assert ask(url, "InputSizes", name=name, config=config) == (200, {"inputSizes": [2]})
    assert error(url, name=["model", "model"])[1] == "ModelNotFound"


def test_numbers_of_the_config_are_of_the_kind_of_the_models_own():
    model = Model(config={"cells": 3, "scale": 2.0}, action=None)
    got = []

    @dataclasses.dataclass(frozen=True)
    class Counting(Model):
        def evaluate(self, point):
            got.append(self.config)
            return {"curve": DAYS, "end": 0.0}

    with UMBridgeServer(Counting(config=model.config), port=0, config=["cells", "scale"]) as url:
        assert ask(url, config={"cells": 4.0, "scale": 5})[0] == 200
        assert [repr(value) for value in got[0].values()] == ["4", "5.0"]
        assert error(url, config={"cells": 4.7})[2] == "config has 'cells' as 4.7; give a whole number."


def test_gradients_of_a_model_whose_seed_is_an_entry():
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Seeded(Model):
        def gradient(self, point, sensitivity):
            seen.append(point)
            return super().gradient(point, sensitivity)

    with UMBridgeServer(Seeded(seed="seed"), port=0, inputs=[["a", "seed"], ["b"]]) as url:
        given = {"name": "model", "input": [[1.0, 7.0], [2.0]], "outWrt": 0, "sens": [1.0, 2.0, 3.0]}
        assert ask(url, "Gradient", inWrt=0, **given) == (200, {"output": [8.0, 0.0]})
        assert ask(url, "Gradient", inWrt=1, **given) == (200, {"output": [0.0]})
        assert repr(seen[0]) == "{'a': 1.0, 'seed': 7, 'b': 2.0}"


def test_a_proxy_offers_what_the_model_behind_it_offers():
    plain = uq.FunctionSimulator(lambda a, b: a - b, outputs={"y": ()}, name="plain")
    with UMBridgeServer({"plain": plain, "model": Model()}, port=0) as behind:
        flat = UMBridgeSimulator(behind, "plain", inputs=["a", "b"], outputs={"y": ()})
        away = client("http://127.0.0.1:1")
        with UMBridgeServer({"plain": flat, "model": client(behind), "away": away}, port=0) as url:
            assert not umbridge.HTTPModel(url, "plain").supports_gradient()
            assert umbridge.HTTPModel(url, "model").gradient(0, 0, [[1.5, -2.0]], [1.0, 2.0, 3.0]) == [8.0, 0.0]
            assert (
                "does not offer gradients"
                in error(url, "Gradient", name="plain", input=[[1, 2]], outWrt=0, inWrt=0, sens=[1])[2]
            )
            status, kind, message = error(url, "ModelInfo", name="away")
            assert (status, kind) == (500, "ModelError")
            assert "connection refused" in message


# --------------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not JSON: Expecting value at character 0."),
        (b"\xff", "the body is not UTF-8."),
        (b"[]", "the body is a list; it must be a JSON object."),
        (b"3", "the body is a number; it must be a JSON object."),
        (b'{"name": "model", "input": [[NaN, 1]]}', "the body holds NaN, which is not JSON."),
        (b'{"name": "model", "input": [[-Infinity, 1]]}', "the body holds -Infinity, which is not JSON."),
        (b'{"name": "model", "input": [[1e999, 1]]}', "the body holds 1e999, which is beyond double precision."),
        (b'{"name": "model", "input": [[1, 2]], "input": [[3, 4]]}', "the body has the key 'input' twice."),
        (b'{"name": "model", "input": [[1' + 310 * b"0" + b", 1]]}", "the body holds a whole number of 311 digits."),
        (b'{"name": "model", "input": ' + 30_000 * b"[", "the body is nested too deeply."),
        (
            b'{"name": "model", "input": [[1, 2]], "confg": {}}',
            "unknown key 'confg'; Evaluate takes config, input, name.",
        ),
        (b'{"input": [[1, 2]]}', "There is no model None; there are: model."),
        (b'{"name": ["model", 1], "input": [[1, 2]]}', "There is no model ['model', 1]; there are: model."),
        (b'{"name": "model"}', "input is no list; 1 vectors are due."),
        (b'{"name": "model", "input": [[1, 2], [3]]}', "input is 2 vectors; 1 vectors are due."),
        (b'{"name": "model", "input": [[1, 2, 3]]}', "input vector 0 has 3 entries, expected 2."),
        (b'{"name": "model", "input": [[1, null]]}', "input vector 0 holds null; every entry must be a number."),
        (b'{"name": "model", "input": [[1, true]]}', "input vector 0 is a list with bool where numbers are due."),
        (b'{"name": "model", "input": [[1, "2"]]}', "input vector 0 is a list with str where numbers are due."),
        (b'{"name": "model", "input": [7]}', "input vector 0 is a number where a list of numbers is due."),
        (
            b'{"name": "model", "input": [[1, 2]], "config": {"scale": 3}}',
            "config has the unknown key 'scale'; this model takes: no settings.",
        ),
    ],
)
def test_bodies_that_cannot_be_meant(url, body, message):
    status, kind, answer = attack.post(url, "Evaluate", body)
    assert status == 400
    assert kind == "application/json"
    assert json.loads(answer)["error"]["message"] == message


def test_gradients_that_cannot_be_meant(url):
    good = {"name": "model", "input": [[1, 2]], "outWrt": 0, "inWrt": 0, "sens": [1, 2, 3]}
    assert ask(url, "Gradient", **good)[0] == 200
    for change, message in [
        ({"outWrt": 2}, "outWrt must be a whole number from 0 to 1."),
        ({"outWrt": True}, "outWrt must be a whole number from 0 to 1."),
        ({"outWrt": -1}, "outWrt must be a whole number from 0 to 1."),
        ({"inWrt": 1}, "inWrt must be a whole number from 0 to 0."),
        ({"inWrt": 0.5}, "inWrt must be a whole number from 0 to 0."),
        ({"sens": [1, 2]}, "sens has 2 entries, expected 3."),
        ({"sens": None}, "sens is null where a list of numbers is due."),
    ]:
        assert error(url, "Gradient", **(good | change)) == (400, "InvalidInput", message)


def test_other_paths_and_methods(url):
    assert error(url, "Nothing", name="model")[:2] == (404, "NotFound")
    assert error(url, "ApplyJacobian", name="model")[:2] == (400, "UnsupportedFeature")
    assert attack.post(url, "Evaluate/../Info", b"{}")[0] == 404
    for method, path in (("GET", "/Evaluate"), ("POST", "/Info"), ("DELETE", "/Info"), ("PUT", "/Evaluate")):
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=GUARD)
        connection.request(method, path)
        response = connection.getresponse()
        assert response.status == 405
        assert json.loads(response.read())["error"]["type"] == "MethodNotAllowed"
        connection.close()


def test_what_is_not_http_gets_an_error_in_json(url, caplog):
    for text in (
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"POST /Evaluate HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":")[-1])), timeout=GUARD) as connection:
            connection.sendall(text)
            answer = b""
            while part := connection.recv(4096):
                answer += part
            assert answer.split()[1] == b"400"
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "InvalidInput"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def raises(kind, text="the mesh is tangled"):
    def action(point):
        raise kind(text)

    return action


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (raises(RuntimeError), (500, "ModelError", "RuntimeError: the mesh is tangled")),
        (raises(SystemExit), (500, "ModelError", "RuntimeError: SystemExit: the mesh is tangled")),
        (raises(StopIteration), (500, "ModelError", "RuntimeError: StopIteration")),
        (raises(KeyboardInterrupt), (500, "ModelError", "RuntimeError: KeyboardInterrupt: the mesh is tangled")),
        (raises(ExtrapolationError), (400, "InvalidInput", "ExtrapolationError: the mesh is tangled")),
        (raises(SimulatorTimeout), (504, "Timeout", "SimulatorTimeout: the mesh is tangled")),
        (
            raises(SimulatorFailed, 'exit 1: log Traceback (most recent call last)\n File "secret.py", line 3'),
            (500, "ModelError", "SimulatorFailed: exit 1: log"),
        ),
        (
            lambda point: {"curve": [1.0, math.nan, 2.0], "end": 1.0},
            (500, "InvalidOutput", "OutputError: output 'curve' is nan at day=0.5; every output must be finite."),
        ),
        (
            lambda point: {"curve": [1.0, 2.0, 3.0], "end": math.inf},
            (500, "InvalidOutput", "OutputError: output 'end' is inf; every output must be finite."),
        ),
        (
            lambda point: {"curve": [1.0, 2.0, 3.0]},
            (500, "InvalidOutput", "OutputError: the run gave outputs without end; declared are curve, end."),
        ),
        (
            lambda point: {"curve": [1.0, 2.0], "end": 1.0},
            (
                500,
                "InvalidOutput",
                "OutputError: output 'curve' has shape (2,), but it is declared as dims ('day',) of shape (3,).",
            ),
        ),
    ],
)
def test_models_that_fail(action, expected):
    with UMBridgeServer(Model(action), port=0) as url:
        assert error(url) == expected
        assert error(url) == expected  # and the worker is free again
        assert ask(url, "Info")[0] == 200


@pytest.mark.parametrize(
    "action",
    [
        lambda point: {"curve": [1.0, math.nan, 2.0], "end": 1.0},
        lambda point: {"curve": [1.0, 0.5, 2.0]},
        lambda point: {"curve": 3 * [math.nan], "end": math.inf},
        lambda point: {"curve": [1.0], "end": "late"},
        raises(RuntimeError),
        raises(SimulatorTimeout),
    ],
)
def test_a_run_ends_in_the_same_way_here_and_behind_the_server(action):
    point = {"a": 1.0, "b": 2.0}
    direct = uq.FunctionSimulator(lambda a, b: action({"a": a, "b": b}), outputs=Model.outputs, coords=Model.coords)
    with UMBridgeServer(direct, port=0) as url:
        behind = client(url, model=direct.name)
        with pytest.raises(RuntimeError) as here:
            direct.evaluate(point)
        with pytest.raises(RuntimeError) as there:
            behind.evaluate(point)
    same = (OutputError, SimulatorTimeout)
    assert type(there.value) is (type(here.value) if isinstance(here.value, same) else SimulatorFailed)
    assert str(here.value) in str(there.value)
    partial = getattr(here.value, "partial", None)
    assert (getattr(there.value, "partial", None) is None) == (partial is None)
    for name, values in (partial or {}).items():
        np.testing.assert_array_equal(there.value.partial[name], values)


def test_a_gradient_that_is_not_finite():
    class Steep(Model):
        def gradient(self, point, sensitivity):
            return {"a": math.inf, "b": 0.0}

    with UMBridgeServer(Steep(), port=0) as url:
        assert error(url, "Gradient", name="model", input=[[1, 2]], outWrt=1, inWrt=0, sens=[1])[:2] == (
            500,
            "InvalidOutput",
        )


# ------------------------------------------------------------------------------------------------------------ bounds
def test_long_bodies_are_refused_before_they_are_read(url):
    status, sent = attack.huge(url)
    assert status == 413
    assert sent < 5e6
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":")[-1])), timeout=GUARD) as connection:
        connection.sendall(b"POST /Evaluate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            connection.sendall(b"4000\r\n" + 0x4000 * b" " + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    with UMBridgeServer(Model(), port=0, max_body=60) as small:
        assert ask(small)[0] == 200
        assert error(small, input=[[1.0, 2.0000000000000000001]], config={"a": 30 * "x"})[:2] == (413, "TooLarge")


def test_packed_bodies_are_not_unpacked(monkeypatch):
    settings, plain = [], _aiohttp._Connection.__init__
    monkeypatch.setattr(
        _aiohttp._Connection, "__init__", lambda *args, **more: (settings.append(more), plain(*args, **more))[1]
    )
    with UMBridgeServer(Model(), port=0) as url:
        assert ask(url)[0] == 200
    assert settings[0]["auto_decompress"] is False  # a small packed body may be huge


def test_a_client_that_sends_everything_before_it_reads_is_told_why(url):
    for _ in range(3):
        status, _, answer = attack.post(url, "Evaluate", 10_000_000 * b" ")
        assert status == 413
        assert json.loads(answer)["error"]["type"] == "TooLarge"


def test_clients_that_leave_while_their_body_is_thrown_away_do_not_fill_the_log(url, monkeypatch, caplog):
    async def gone(self):
        raise RuntimeError("Connection closed.")  # what aiohttp says then, if it happens in the wrong moment

    monkeypatch.setattr("aiohttp.streams.StreamReader.readany", gone)
    assert attack.huge(url)[0] == 413
    assert ask(url, "Info")[0] == 200  # answered by the same event loop, after it has done with the other connection
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_compressed_bodies_and_expectations(url):
    packed = gzip.compress(json.dumps({"name": "model", "input": [[1.0, 2.0]]}).encode())
    for body in (packed, b"no gzip"):
        with contextlib.closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=GUARD)) as connection:
            connection.request("POST", "/Evaluate", body, {"Content-Encoding": "gzip"})
            assert connection.getresponse().status == 415
    head = b"POST /Evaluate HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
    body = json.dumps({"name": "model", "input": [[1.0, 2.0]]}).encode()
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":")[-1])), timeout=GUARD) as connection:
        connection.sendall(head + f"Content-Length: {len(body)}\r\n\r\n".encode())
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":")[-1])), timeout=GUARD) as connection:
        connection.sendall(head + b"Content-Length: 50000000\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_evaluations_that_take_too_long(monkeypatch):
    monkeypatch.setattr(slots, "GRACE", 0.1)
    ended = threading.Event()
    left = []

    def hang(point):
        left.append(remaining())
        assert ended.wait(GUARD)  # all refusals come before
        return {"curve": DAYS, "end": 1.0}

    with UMBridgeServer(Model(hang), port=0, timeout=0.3, workers=2) as url, ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda _: error(url), range(6)))
        late = (504, "Timeout", "The model did not answer within 0.3 s.")
        stuck = (503, "Busy", "All 2 workers are held by evaluations beyond their deadline.")
        assert sorted(got) == [*[stuck] * 4, *[late] * 2]
        assert error(url) == stuck
        assert len(left) == 2
        assert all(0.0 <= seconds <= 0.3 for seconds in left)  # the model can know its deadline
        assert ask(url, "Info")[0] == 200
        ended.set()
        wait_for(lambda: ask(url)[0] == 200)  # the workers are back


def test_how_many_run_and_wait():
    running, most, lock, go = 0, 0, threading.Lock(), threading.Event()

    def count(point):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        go.wait(GUARD)
        with lock:
            running -= 1
        return {"curve": DAYS, "end": 1.0}

    with UMBridgeServer(Model(count), port=0, workers=2, queue=3) as url, ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(ask, url) for _ in range(8)]
        wait_for(lambda: sum(call.done() for call in calls) == 3)
        wait_for(lambda: running == 2)
        go.set()
        statuses = sorted(call.result()[0] for call in calls)
        assert statuses == [*[200] * 5, *[503] * 3]
        assert most == 2
        assert ask(url)[0] == 200


def test_clients_that_leave_give_up_their_place(monkeypatch):
    made, plain, started, go = [], slots.Slots.__init__, [], threading.Event()
    monkeypatch.setattr(slots.Slots, "__init__", lambda self, *args: (made.append(self), plain(self, *args))[1])

    def wait(point):
        started.append(point["a"])
        go.wait(GUARD)
        return {"curve": DAYS, "end": 1.0}

    def begun(a):
        body = json.dumps({"name": "model", "input": [[a, 0.0]]}).encode()
        connection = socket.create_connection(("127.0.0.1", int(url.rsplit(":")[-1])), timeout=GUARD)
        head = f"POST /Evaluate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        return connection

    with UMBridgeServer(Model(wait), port=0, queue=1) as url, ThreadPoolExecutor(2) as pool:
        with begun(1.0):
            wait_for(lambda: started == [1.0])
        with begun(2.0):
            wait_for(lambda: len(made[0].waiting) == 1)
        wait_for(lambda: not made[0].waiting)
        last = pool.submit(ask, url, input=[[3.0, 0.0]])
        wait_for(lambda: len(made[0].waiting) == 1)
        go.set()
        assert last.result()[0] == 200
        assert started == [1.0, 3.0]  # the second had left while it waited


def test_a_client_that_leaves_in_the_moment_of_its_turn():
    async def leave():
        places = slots.Slots(1, 5, None)
        await places._take()
        waiting = asyncio.create_task(places._take())
        await asyncio.sleep(0)
        places._give()
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        return places.free

    assert asyncio.run(leave()) == 1


def is_answered(connection):
    body = b'{"name": "model"}'
    connection.sendall(b"POST /ModelInfo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 17\r\n\r\n" + body)
    answer = b""
    while not answer.endswith(b"}}"):
        answer += connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 200 OK")


def test_connections_that_do_not_come_to_an_end(monkeypatch):
    for name, value in (("HEAD", 0.4), ("BODY", 0.4), ("SWEEP", 0.05), ("CONNECTIONS", 40), ("IDLE", 600.0)):
        monkeypatch.setattr(_aiohttp, name, value)
    with UMBridgeServer(Model(), port=0) as url:
        slow = attack.open_slowly(url, 30, body=False) + attack.open_slowly(url, 30, body=True)
        assert ask(url)[0] == 200  # there is room for one more
        wait_for(lambda: attack.still_open(slow) <= 40)
        wait_for(lambda: attack.drip(slow) or attack.still_open(slow) == 0)  # one more byte does not help them
        monkeypatch.setattr(_aiohttp, "HEAD", 1.0)
        idle = socket.create_connection(("127.0.0.1", int(url.rsplit(":")[-1])), timeout=GUARD)
        is_answered(idle)
        time.sleep(1.5)
        is_answered(idle)  # kept open for longer than a request may take to come
        idle.sendall(b"GET /Info")  # a second request that does not end
        assert idle.recv(1000) == b""  # long before an idle connection is closed
        monkeypatch.setattr(_aiohttp, "IDLE", 0.3)
        unused = socket.create_connection(("127.0.0.1", int(url.rsplit(":")[-1])), timeout=GUARD)
        is_answered(unused)
        assert unused.recv(1000) == b""
        for connection in [*slow, idle, unused]:
            connection.close()


def test_a_long_evaluation_keeps_its_connection(monkeypatch):
    for name, value in (("HEAD", 1.0), ("SWEEP", 0.05), ("CONNECTIONS", 2)):
        monkeypatch.setattr(_aiohttp, name, value)
    started, go = threading.Event(), threading.Event()
    busy = Model(lambda point: (started.set(), go.wait(GUARD), {"curve": DAYS, "end": 1.0})[2])
    with UMBridgeServer(busy, port=0) as url, ThreadPoolExecutor(1) as pool:
        call = pool.submit(ask, url)
        assert started.wait(GUARD)
        others = attack.open_slowly(url, 10, body=False)
        wait_for(lambda: attack.still_open(others) == 0)  # they came later, and their time is over
        go.set()
        assert call.result()[0] == 200
        for connection in others:
            connection.close()


def test_a_slow_body_gets_an_error(monkeypatch):
    monkeypatch.setattr(_aiohttp, "BODY", 0.3)
    with UMBridgeServer(Model(), port=0) as url:
        (connection,) = attack.open_slowly(url, 1, body=True)
        answer = connection.recv(4096)
        connection.close()
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_client_that_does_not_take_its_answer(monkeypatch):
    monkeypatch.setattr(_aiohttp, "WRITE", 0.2)
    ended, plain = threading.Event(), _aiohttp._exchange

    async def exchange(*args):
        try:
            return await plain(*args)
        finally:
            ended.set()

    monkeypatch.setattr(_aiohttp, "_exchange", exchange)
    long = uq.FunctionSimulator(
        lambda a: np.arange(1e6) / 3.0, outputs={"y": ("i",)}, coords={"i": range(1_000_000)}, name="long"
    )
    body = b'{"name": "long", "input": [[1]]}'
    with UMBridgeServer(long, port=0) as url, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", int(url.rsplit(":")[-1])))
        head = f"POST /Evaluate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert ended.wait(GUARD)
        connection.settimeout(GUARD)
        got = 0
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(1 << 20):
                got += len(part)
        assert 0 < got < 10e6  # what the system had taken already, of 18 MB


def test_an_attack_leaves_the_server_as_it_was():
    with attack.server(timeout=1.0, workers=2) as (url, pid), attack.Health(url) as health:
        assert attack.right(url)
        before = attack.memory(pid)
        for seed in range(1, 101):
            question, body = attack.mutated(seed)
            answer = attack.post(url, question, body)
            assert attack.refused(*answer), (question, body[:200], answer)
            assert not attack.traceback_in(answer[2])
        for name, status in (("raises", 500), ("nan", 500), ("hangs", 504)):
            answer = attack.post(url, "Evaluate", json.dumps({"name": name, "input": [[GUARD, 1.0]]}).encode())
            assert answer[0] == status
            assert attack.refused(*answer)
            assert not attack.traceback_in(answer[2])
        assert attack.huge(url)[0] == 413
        slow = attack.open_slowly(url, 150, body=False) + attack.open_slowly(url, 150, body=True)
        for _ in range(5):
            attack.drip(slow)
            assert attack.right(url)
        assert attack.memory(pid) - before < 100.0
        for connection in slow:
            connection.close()
    assert health.count > 10
    assert math.isfinite(health.slowest)  # all were answered


# ------------------------------------------------------------------------------------------------------------- guards
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.7", "example.org"])
def test_other_machines_need_a_token(host):
    with pytest.raises(InputError, match="needs a token="):
        UMBridgeServer(Model(), host=host)
    assert TOKEN not in repr(UMBridgeServer(Model(), host=host, token=TOKEN))


def test_the_server_listens_to_this_machine_alone(url):
    port = int(url.rsplit(":")[-1])
    assert url == f"http://127.0.0.1:{port}"
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
    ]
    assert listening == [f"0100007F:{port:04X}"]


def test_the_token():
    with UMBridgeServer(Model(), port=0, host="0.0.0.0", token=TOKEN) as url:
        url = url.replace("0.0.0.0", "127.0.0.1")
        wrong = ["", "Bearer", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer é"]
        for question in ("Info", "Evaluate"):
            assert error(url, question)[:2] == (401, "Unauthorized")
            for value in wrong:
                assert error(url, question, {"Authorization": value.encode()})[:2] == (401, "Unauthorized")
            assert ask(url, question, {"Authorization": f"Bearer {TOKEN}", "Host": "other.example"})[0] == 200
        client(url, token=TOKEN).prepare(["a", "b"])
        with pytest.raises(InputError, match="refuses: 401 Unauthorized: Send the token"):
            client(url).prepare(["a", "b"])


def test_the_token_is_compared_in_constant_time(monkeypatch):
    compared, plain = [], endpoint.hmac.compare_digest
    monkeypatch.setattr(endpoint.hmac, "compare_digest", lambda *both: (compared.append(both), plain(*both))[1])
    with UMBridgeServer(Model(), port=0, token=TOKEN) as url:
        assert error(url, "Info", {"Authorization": "Bearer x"})[0] == 401
    assert compared == [(b"Bearer x", f"Bearer {TOKEN}".encode())]


def test_a_local_proxy_passes_on_the_name_that_others_know():
    with UMBridgeServer(Model(), port=0, token=TOKEN) as url:
        known = {"Host": "models.example.org", "Origin": "https://models.example.org"}
        assert error(url, "Info", known)[0] == 401
        assert ask(url, "Info", known | {"Authorization": f"Bearer {TOKEN}"})[0] == 200


def test_a_flood_of_new_connections_is_queued():
    one, held, go = UMBridgeServer(Model(), port=0), threading.Event(), threading.Event()
    with one as url, contextlib.ExitStack() as opened:
        one._running[0].loop.call_soon_threadsafe(lambda: (held.set(), go.wait(GUARD)))
        opened.callback(go.set)
        assert held.wait(GUARD)
        for _ in range(300):  # nobody accepts them yet: without a place in the queue, a client waits until its timeout
            opened.enter_context(socket.create_connection(("127.0.0.1", int(url.rsplit(":")[-1])), timeout=5.0))


def test_web_pages_do_not_reach_a_local_server(url):
    for headers in (
        {"Host": "evil.example"},
        {"Host": "evil.example:4242"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "["},
    ):
        for question in ("Info", "Evaluate"):
            assert error(url, question, headers)[:2] == (403, "Forbidden")
    for headers in (
        {"Host": "localhost:1"},
        {"Host": "127.0.0.1"},
        {"Host": "[::1]:4"},
        {"Origin": "http://localhost:8888"},
    ):
        assert ask(url, "Info", headers)[0] == 200


@pytest.mark.parametrize(
    ("models", "settings", "message"),
    [
        (Model(), {"workers": 0}, "workers is 0"),
        (Model(), {"queue": -1}, "queue is -1"),
        (Model(), {"port": "4242"}, "port is '4242'"),
        (Model(), {"timeout": 0}, "timeout is 0"),
        (Model(), {"max_body": 0}, "max_body is 0"),
        (Model(), {"token": "short"}, "token must have 16"),
        (Model(), {"token": 16 * " "}, "token must have 16"),
        (Model(), {"inputs": ["a", "a"]}, "'a' twice"),
        (Model(), {"config": ["speed"]}, r"config names 'speed', which is no setting of 'model'"),
        ({}, {}, "models is empty"),
        ({"": Model()}, {}, "a model is called ''"),
        (Model(), {"inputs": ["a", "zz"]}, r"inputs of 'model' lacks \['b'\] and has the unknown \['zz'\]; .* a, b"),
        (Model(), {"inputs": [["a"]]}, r"lacks \['b'\]"),
        (Model(), {"inputs": ["a", "b", "seed"]}, r"unknown \['seed'\]"),
        ({"m": Model(), "n": Model()}, {"inputs": ["a"]}, "inputs and config are for one model"),
        (lambda a: a, {}, "function cannot be served: it needs outputs, coords and evaluate"),
    ],
)
def test_settings_that_cannot_be_meant(models, settings, message):
    with pytest.raises(InputError, match=message):
        UMBridgeServer(models, **settings)


def test_inputs_that_are_optional_or_that_nobody_says_may_be_named():
    sums = [
        (lambda **p: p["a"] + p["b"], ["a", "b"]),
        (lambda a, b=1.0: a + b, ["a", "b"]),
        (lambda a, b=1.0: a + b, ["b", "a"]),
        (dict, ["a", "b"]),  # it does not say what it takes
    ]
    for function, names in sums:
        model = uq.FunctionSimulator(function, outputs={"y": ()}, name="sum", version="1")
        assert UMBridgeServer(model, inputs=names)
    with pytest.raises(InputError, match=r"cannot be called with the inputs a, c"):
        UMBridgeServer(uq.FunctionSimulator(lambda a, b=1.0: a + b, outputs={"y": ()}), inputs=["a", "c"])


def test_models_that_do_not_say_enough():
    class Plain:
        outputs = {"y": ()}
        coords = {}
        config = {"scale": 1.0}

        def evaluate(self, point):
            return {"y": point["a"]}

    class Nowhere(Plain):
        outputs = {"y": ("day",)}

    class Empty(Plain):
        outputs = {}

    with pytest.raises(InputError, match=r"'forward' has no coords of \['day'\]"):
        UMBridgeServer(Nowhere(), inputs=["a"])
    with pytest.raises(InputError, match="'forward' has no outputs"):
        UMBridgeServer(Empty(), inputs=["a"])
    with pytest.raises(InputError, match="'forward' does not declare its inputs"):
        UMBridgeServer(Plain())
    with pytest.raises(InputError, match="is no dataclass, so its config cannot be changed"):
        UMBridgeServer(Plain(), inputs=["a"], config=["scale"])
    with UMBridgeServer(Plain(), inputs=["a"], port=0) as url:
        assert umbridge.HTTPModel(url, "forward")([[3.0]]) == [[3.0]]


def test_ports_and_the_end(url):
    port = int(url.rsplit(":")[-1])
    with pytest.raises(InputError, match=rf"port {port} of 127.0.0.1 is not available \(.*\); give another port"):
        UMBridgeServer(Model(), port=port).start()
    with pytest.raises(InputError, match="port is 70000"):
        UMBridgeServer(Model(), port=70000)
    one = UMBridgeServer(Model(), port=0)
    one.stop()  # nothing to stop
    with one as first:
        assert ask(first, "Info")[0] == 200
        with pytest.raises(InputError, match="runs already"):
            one.start()
    with pytest.raises(ConnectionRefusedError):
        ask(first, "Info")
    with one as second:  # and again
        assert ask(second, "Info")[0] == 200
    assert [thread.name for thread in threading.enumerate()].count("uqms-umbridge-server") == 1  # the fixture's


def test_leaving_does_not_wait_for_a_hanging_model():
    started, go, ended = threading.Event(), threading.Event(), []
    hanging = Model(lambda point: (started.set(), go.wait(GUARD), ended.append(point)))
    with ThreadPoolExecutor(1) as pool:
        with UMBridgeServer(hanging, port=0) as url:
            call = pool.submit(client(url).evaluate, {"a": 1.0, "b": 1.0})
            assert started.wait(GUARD)
        assert ended == []
        with pytest.raises(SimulatorFailed, match="the connection broke before the answer"):
            call.result()
        go.set()


def test_in_a_running_event_loop():
    async def cell():
        with UMBridgeServer(Model(), port=0) as url:
            return client(url).evaluate({"a": 1.0, "b": 2.0})["end"]

    assert asyncio.run(cell()) == 2.0


def test_serve_as_a_process():
    script = (
        "import signal\nimport uqms as uq\nfrom uqms.simulators.umbridge import serve\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "serve(uq.FunctionSimulator(lambda a: 2 * a, outputs={'y': ()}, name='double'), port=0)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert line.startswith("UM-Bridge models double at http://127.0.0.1:")
    url = line.split(" at ")[1].split(";")[0]
    assert umbridge.HTTPModel(url, "double")([[3.0]]) == [[6.0]]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=GUARD) == 0
    process.stdout.close()


ENDLESS = """
import sys, signal, uqms as uq
from uqms.simulators.umbridge import UMBridgeServer, serve
signal.signal(signal.SIGINT, signal.default_int_handler)
program = uq.ExecutableSimulator(
    ["sleep", "{{ a }}"], outputs={"y": ()}, read=uq.JSONFile("r"), name="model", folder=sys.argv[2]
)
if sys.argv[1] == "serve":
    serve(program, port=0)
    sys.exit()
server = UMBridgeServer(program, port=0)
print(f" at {server.start()};", flush=True)
sys.stdin.readline()
if sys.argv[1] == "belt":  # as if the time had not been enough
    uq.simulators.umbridge.slots.PATIENCE = 0.0
if sys.argv[1] != "notebook":
    server.stop()
if sys.argv[1] == "stop":
    sys.stdin.readline()
"""


def sleeping(seconds):
    """Return the processes that sleep for that many seconds."""
    return [
        path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if f"sleep\0{seconds}" in read_if_there(path)
    ]


def read_if_there(path):
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""


@pytest.mark.parametrize(
    ("end", "seconds"),
    [("SIGINT", 94801), ("SIGTERM", 94802), ("notebook", 94803), ("belt", 94804), ("stop", 94805), ("leave", 94806)],
)
def test_programs_end_with_the_server_and_when_their_client_leaves(tmp_path, end, seconds):
    how = "serve" if end in ("SIGINT", "SIGTERM", "leave") else end
    arguments = [sys.executable, "-c", ENDLESS, how, tmp_path]
    body = json.dumps({"name": "model", "input": [[seconds]]})
    head = f"POST /Evaluate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().split(" at ")[1].split(";")[0]
            with socket.create_connection(("127.0.0.1", int(url.rsplit(":")[-1]))) as asking:
                asking.sendall((head + body).encode())
                wait_for(lambda: sleeping(seconds))
                if end in ("SIGINT", "SIGTERM"):
                    process.send_signal(getattr(signal, end))
                elif end != "leave":
                    print("go", file=process.stdin, flush=True)
                if end == "stop":
                    wait_for(lambda: not sleeping(seconds) and not list(tmp_path.iterdir()))
                    print("end", file=process.stdin, flush=True)
                if end != "leave":
                    assert process.wait(timeout=GUARD) == 0
            patience = GUARD if end == "leave" else 0.0  # otherwise all is gone when the server is
            wait_for(lambda: not sleeping(seconds), patience)
            if end != "belt":
                wait_for(lambda: not list(tmp_path.iterdir()), patience)
            assert end != "leave" or process.poll() is None
        finally:
            process.kill()


def test_a_signal_that_does_not_wake_the_main_thread_ends_the_server():
    # As one that comes between the interpreter's last look for signals and the wait: interrupt_main only notes it.
    code = """
import _thread, signal, sys, threading, uqms as uq
from uqms.simulators.umbridge import serve
threading.Thread(target=lambda: (sys.stdin.readline(), _thread.interrupt_main(signal.SIGTERM)), daemon=True).start()
serve(uq.FunctionSimulator(lambda a: a, outputs={"y": ()}), port=0)
"""
    arguments = [sys.executable, "-c", code]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            process.stdout.readline()
            time.sleep(0.3)  # it waits
            print("now", file=process.stdin, flush=True)
            assert process.wait(timeout=GUARD) == 0
        finally:
            process.kill()


def test_without_aiohttp(monkeypatch):
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "uqms\[umbridge\]"'), UMBridgeServer(Model()):
        pass
    with pytest.raises(InputError, match=r'pip install "uqms\[umbridge\]"'):
        serve(Model())


def test_a_client_loads_no_event_loop_and_no_aiohttp():
    code = "import sys, uqms.simulators.umbridge; print({'aiohttp', 'asyncio', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_long_bodies_are_parsed_beside_the_event_loop(url, monkeypatch):
    threads, plain = [], wire.loads
    monkeypatch.setattr(wire, "loads", lambda body: (threads.append(threading.current_thread().name), plain(body))[1])
    monkeypatch.setattr(endpoint, "ELSEWHERE", 100)
    assert ask(url)[0] == 200
    assert ask(url, input=[[1.0, 2.0]], config={"x": 100 * "x"})[0] == 400
    assert threads[0] == "uqms-umbridge-server"
    assert threads[1].startswith("asyncio")


def test_a_failure_of_the_server_itself_is_told_without_its_text(url, monkeypatch, caplog):
    monkeypatch.setattr(endpoint, "KEYS", {"Evaluate": None})
    assert error(url) == (500, "InternalError", "The server failed; see its log.")
    assert "could not be answered" in caplog.text

import hashlib
import json
import struct

import numpy as np
import pytest
from stores import campaign, simulator

from uqms.runs.campaign import Campaign, run_keys

X = np.array([[1.5, -0.1], [1.5, np.nextafter(-0.1, 0)], [1.5, 0.0]])


def test_the_id_is_the_hash_of_identity_inputs_and_fidelity():
    one = campaign()
    identity = json.dumps(dict(one.simulator.identity), sort_keys=True, separators=(",", ":"))
    said = {"identity": identity, "inputs": ["a", "b"], "fidelity": ""}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    assert one.id == hashlib.sha256(text.encode()).hexdigest()
    # What runs are found again under may never change, or everything would run again.
    assert one.id == "9a09b6aae89f62b49e7b683fd2e2e3be59c3ceb7e36ee4371bde363536523192"
    assert one.keys(np.array([[1.0, 0.1]]))[0].hex().startswith("0c8b86ba4ea2")


@pytest.mark.parametrize("seed", [None, 7])
def test_a_key_is_the_hash_of_campaign_inputs_and_seed(seed):
    one = campaign(("b", "a"))
    values = struct.pack("<2d", 1.5, -0.1)  # a, then b
    content = bytes.fromhex(one.id) + values + (b"" if seed is None else struct.pack("<q", seed))
    seeds = None if seed is None else np.array([seed])
    assert one.keys(np.array([[-0.1, 1.5]]), seeds) == [hashlib.sha256(content).digest()]


def test_the_order_of_inputs_and_the_sign_of_zero_do_not_matter():
    first, second = campaign(("a", "b")), campaign(("b", "a"))
    assert first.id == second.id
    assert first.keys(X) == second.keys(X[:, ::-1])
    assert first.keys(np.array([[1.5, -0.0]])) == [first.keys(X)[2]]
    assert len(set(first.keys(X))) == 3


@pytest.mark.parametrize(
    "other",
    [
        campaign(version="2"),
        campaign(name="other"),
        campaign(fidelity="coarse"),
        campaign(("a", "c")),
        campaign(coords={"day": [0.0, 0.1, 4.0]}),
        campaign(config={"cells": 3}),
    ],
    ids=["version", "name", "fidelity", "inputs", "coords", "config"],
)
def test_what_computes_something_else_has_other_keys(other):
    assert other.id != campaign().id
    assert not set(other.keys(X)) & set(campaign().keys(X))


def test_units_are_not_what_is_computed():
    assert campaign(units={}).id == campaign().id


def test_each_seed_is_a_run_of_its_own():
    one = campaign(seed="seed")
    keys = one.keys(np.repeat(X[:1], 3, axis=0), np.array([0, 1, 2**31 - 1]))
    assert len({*keys, *one.keys(X[:1])}) == 4


def test_columns_of_any_memory_layout_and_no_rows():
    one = campaign()
    assert one.keys(np.asfortranarray(X)) == one.keys(X)
    assert one.keys(np.empty((0, 2))) == []
    assert run_keys(one.id, np.asfortranarray(X)) == one.keys(X)


def test_the_name_is_the_simulators():
    assert Campaign(simulator(), ("a", "b")).name == "frozen"

"""Lines of keys, and TOML that is written: both against `tomllib`."""

import math
import tomllib

import numpy as np
import pytest

from uqms.errors import InputError
from uqms.study.positions import lines_of
from uqms.study.toml_text import text_of

TEXT = '''# a comment with = and [brackets]
title = "a \\"quoted\\" # no comment"   # a comment
'quoted key' = 1
"esc\\u0041ped" = 2
a.b.c = 3
literal = 'back\\slash'

[table]  # comment
multi = """
first ["x"] = {y}
second \\""" still ""\
  inside"""
ends = """two quotes"""""
raw = \'\'\'
'one' ''two''\'\'\'
array = [
  1,  # one
  [2, 3],
  { inline = true, deep = { x = [ "a,]", 'b}' ] } },
]
date = 1979-05-27T07:32:00Z
floats = [1e-4, -inf, nan, +1.0]
[table.sub."with.dot"]
x = 1
[[rows]]
n = 1
[[rows]]
n = 2
[rows.more]
m = 3
[[rows.deep]]
k = 4
[[rows.deep]]
k = 5
[last]
empty = []
none = {}
'''


def paths(value, path=()):
    """Yield the path of every key and array element, as the result of `tomllib` is indexed."""
    if path:
        yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in pairs:
        yield from paths(one, (*path, key))


@pytest.mark.parametrize(
    "text", [TEXT, TEXT.replace("\n", "\r\n"), "", "a = 1", "[x]", "\n\n# only\n", "a=1\n[b]\nc={d=1}"]
)
def test_there_is_a_line_for_every_key(text):
    assert set(lines_of(text)) == set(paths(tomllib.loads(text)))


def test_a_line_is_where_the_key_is():
    lines, rows = lines_of(TEXT), TEXT.split("\n")
    places = {
        ("title",): 'title = "a', ("quoted key",): "'quoted key'", ("escAped",): '"esc', ("a", "b", "c"): "a.b.c",
        ("table", "array"): "array = [", ("table", "array", 1): "  [2, 3]", ("table", "array", 1, 1): "  [2, 3]",
        ("table", "array", 2, "deep", "x", 1): "  { inline", ("table", "date"): "date", ("table", "raw"): "raw = '''",
        ("table", "sub", "with.dot", "x"): "x = 1", ("rows", 1, "n"): "n = 2", ("rows", 1, "more", "m"): "m = 3",
        ("rows", 1, "deep", 1, "k"): "k = 5", ("last", "none"): "none = {}", ("table", "floats", 2): "floats",
    }  # fmt: skip
    for path, start in places.items():
        assert rows[lines[path] - 1].startswith(start), path


@pytest.mark.parametrize("text", ["a = [}", "a = ", "[", "a = 'x", "a = {]", 'a = """x', "[[a", "a", "=", "a.= [,"])
def test_what_is_no_toml_ends(text):
    assert len(lines_of(text)) <= 2


def random_value(rng, depth):
    kind = rng.integers(8 if depth else 5)
    if kind == 0:
        return bool(rng.integers(2))
    if kind == 1:
        return int(rng.integers(-(10**9), 10**9))
    if kind == 2:
        return float(rng.choice([rng.normal(), 10.0 ** rng.uniform(-300, 300), math.inf, -math.inf, -0.0]))
    if kind in (3, 4):
        return "".join(rng.choice(list("ab \"'\\#=[]{}.,\n\t\x1b\x7f\u00e9\u2028\U0001f600<>&"), rng.integers(12)))
    if kind == 5:
        return [random_value(rng, depth - 1) for _ in range(rng.integers(4))]
    return random_table(rng, depth - 1)


def random_table(rng, depth):
    keys = ["a", "b-c", "d.e", "", 'q"', "0.025", "line\nbreak", "ü"]
    return {key: random_value(rng, depth) for key in rng.choice(keys, rng.integers(5), replace=False).tolist()}


def test_what_is_written_is_read_again_and_has_its_lines():
    rng = np.random.default_rng(1)
    for _ in range(300):
        document = random_table(rng, 4)
        text = text_of(document)
        again = tomllib.loads(text)
        assert again == document
        assert set(lines_of(text)) == set(paths(again))


def test_what_toml_does_not_have_is_refused():
    with pytest.raises(InputError, match=r"a\.b is None"):
        text_of({"a": {"b": None}})

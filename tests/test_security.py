"""X1: nothing in the package runs code that comes as data: no pickles from files, no eval, no shell."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import uqms

PACKAGE = Path(uqms.__file__).parent

# Modules that run code from data, and the files that may import them. cloudpickle carries the user's own simulator to
# workers and reads no file.
_NOWHERE = ("pickle", "cPickle", "_pickle", "dill", "shelve", "marshal", "jsonpickle", "joblib", "runpy", "imp")
MODULES: dict[str, set[str]] = {
    **{name: set() for name in _NOWHERE},
    "cloudpickle": {"simulators/worker.py", "runs/pool.py"},
}
# A module that only a variable names: one file follows the imports of the user's own function; the others import the
# module of a user's own prior or kernel, after its source was seen to define the class that is wanted.
FOLLOWS = {"simulators/_identity.py", "_import_names.py"}
BUILTINS = {"eval", "exec", "compile", "__import__", "__builtins__"}
NAMES = BUILTINS | {
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "asyncio.create_subprocess_shell",
    "asyncio.subprocess.create_subprocess_shell",
    "importlib.__import__",
    "importlib.util.spec_from_file_location",
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.unsafe_load_all",
    "yaml.full_load",
    "yaml.full_load_all",
    "pandas.read_pickle",
    "pandas.eval",
    "torch.hub.load",
}
# What must not be switched on, and its place where a function takes it without its name.
SWITCHES = {"shell", "allow_pickle"}
PLACES = {
    "numpy.load": (2, "allow_pickle"),
    "numpy.lib.format.read_array": (1, "allow_pickle"),
    "numpy.lib.format.write_array": (3, "allow_pickle"),
    **{f"subprocess.{name}": (8, "shell") for name in ("Popen", "run", "call", "check_call", "check_output")},
}
TORCH = {"torch.load", "torch.serialization.load"}


def constant(node: ast.AST | None) -> object:
    return node.value if isinstance(node, ast.Constant) else ...


class Names:
    """What the names of a source stand for, wherever in it they were imported."""

    def __init__(self, tree: ast.AST) -> None:
        self.known: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self.known[alias.asname or alias.name.split(".")[0]] = (
                        alias.name if alias.asname else alias.name.split(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom) and not node.level:
                for alias in node.names:
                    self.known[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def of(self, node: ast.AST) -> str:
        """Return `os.system` for whatever stands for it, nothing for what is no name."""
        if isinstance(node, ast.Name):
            full = self.known.get(node.id, node.id)
        elif isinstance(node, ast.Attribute):
            full = f"{self.of(node.value)}.{node.attr}"
        elif isinstance(node, ast.Call) and len(node.args) > 1 and self.of(node.func) == "getattr":
            full = f"{self.of(node.args[0])}.{constant(node.args[1])}"
        elif isinstance(node, ast.Call) and node.args and self.of(node.func) == "importlib.import_module":
            full = str(constant(node.args[0]))
        else:
            return ""
        return full.removeprefix("builtins.")


def imported(node: ast.AST, names: Names) -> list[str]:
    """Return the modules, or names out of modules, that a line imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and names.of(node.func) == "importlib.import_module":
        target = node.args[0] if node.args else None
        if isinstance(target, ast.JoinedStr) and str(constant(target.values[0])).startswith("uqms."):
            return []
        return [target.value if isinstance(target, ast.Constant) else "*"]
    return []


def keywords(call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    """Yield the keywords of a call, also out of ``**{...}``; '**' where they are not to be seen."""
    for word in call.keywords:
        if word.arg is not None:
            yield word.arg, word.value
        elif isinstance(word.value, ast.Dict):
            for key, value in zip(word.value.keys, word.value.values, strict=True):
                yield (str(constant(key)) if isinstance(key, ast.Constant) else "**"), value
        else:
            yield "**", word.value


def switched_on(call: ast.Call, called: str) -> Iterator[str]:
    """Yield the switches that a call turns on, or may turn on."""
    said = list(keywords(call))
    place, switch = PLACES.get(called, (len(call.args), ""))
    said += [(switch, value) for value in call.args[place : place + 1]]
    for name, value in said:
        if name in SWITCHES and constant(value) is not False:
            yield name
        elif name == "**" and (called in PLACES or called in TORCH):
            yield "**"
    if called in PLACES and any(isinstance(value, ast.Starred) for value in call.args):
        yield "*"
    if called in TORCH and constant(dict(said).get("weights_only")) is not True:
        yield "weights_only"


def findings(source: str, place: str) -> Iterator[str]:
    """Yield what a source must not hold."""
    tree = ast.parse(source)
    names = Names(tree)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        where = f"{place}:{getattr(node, 'lineno', 0)}"
        for name in imported(node, names):
            parts = name.removeprefix("builtins.").split(".")
            foreign = any(place not in MODULES.get(part, {place}) for part in parts)
            if foreign or ("*" in parts and place not in FOLLOWS) or ".".join(parts) in NAMES:
                yield f"{where}: import {name}"
        full = names.of(node)
        # A name counts wherever it stands, since it can be called under another one.
        if full in NAMES or full.startswith("os.spawn") or (full in TORCH and id(node) not in called):
            yield f"{where}: {full}"
        if isinstance(node, ast.Attribute) and node.attr == "enable_load_extension":
            yield f"{where}: {node.attr}"
        if isinstance(node, ast.Call):
            function = names.of(node.func)
            yield from (f"{where}: {function}({switch})" for switch in switched_on(node, function))


def test_nothing_in_the_package_runs_code_from_data() -> None:
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        found += findings(file.read_text(encoding="utf-8"), file.relative_to(PACKAGE).as_posix())
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import pandas.io.pickle",
        "from dill import loads",
        "from six.moves import cPickle as harmless",
        "def late():\n    import joblib",
        "import cloudpickle",
        "import importlib; importlib.import_module('pickle')",
        "from importlib import import_module as get; get('dill.settings')",
        "import importlib; importlib.import_module('cloudpickle')",
        "import importlib; importlib.import_module(name)",
        "import importlib; importlib.import_module(f'{name}.x')",
        "import importlib; importlib.import_module('os').system('ls')",
        "import importlib.util; importlib.util.spec_from_file_location('x', 'x.py')",
        "__import__('pickle')",
        "from os import *",
        "eval('1')",
        "x = exec('pass')",
        "import builtins; builtins.eval('1')",
        "from builtins import eval as read; read('1')",
        "__builtins__['eval']('1')",
        "list(map(eval, ['1']))",
        "import os; os.system('ls')",
        "import os as o; o.system('ls')",
        "from os import system; system('ls')",
        "from os import system",
        "import os; start = os.system; start('ls')",
        "import os; getattr(os, 'popen')('ls')",
        "import os; os.spawnlp(os.P_WAIT, 'sh', 'sh')",
        "import subprocess; subprocess.run('ls', shell=True)",
        "import subprocess\nflag = True\nsubprocess.run('ls', shell=flag)",
        "import subprocess; subprocess.run('ls', **{'shell': True})",
        "import subprocess; subprocess.run('ls', **options)",
        "import subprocess; subprocess.run('ls', -1, None, None, None, None, None, True, True)",
        "from subprocess import Popen as P; P(*everything)",
        "import functools, subprocess; functools.partial(subprocess.run, shell=True)('ls')",
        "import numpy as np; np.load('x.npz', allow_pickle=True)",
        "import numpy as np; np.load('x.npz', None, True)",
        "import numpy as np; np.load('x.npz', **{'allow_pickle': True})",
        "from numpy import load; load('x.npz', None, True)",
        "from numpy.lib import format as npy; npy.read_array(stream, True)",
        "import torch; torch.load('x')",
        "import torch; torch.load('x', weights_only=False)",
        "import torch; torch.load('x', weights_only=flag)",
        "from torch import load; load('x')",
        "import torch as t; t.load('x')",
        "import torch; read = torch.load",
        "import yaml; yaml.load('a')",
        "from yaml import load",
        "import yaml as y; y.unsafe_load('a')",
        "import pandas as pd; pd.read_pickle('x')",
        "from pandas import read_pickle",
        "import sqlite3; sqlite3.connect('x').enable_load_extension(True)",
    ],
)
def test_a_planted_line_is_found(line: str) -> None:
    assert list(findings(line, "ensemble/files.py"))


@pytest.mark.parametrize(
    "line",
    [
        "import numpy as np; np.load('x.npz', allow_pickle=False)",
        "import numpy as np; np.load('x.npz', None, False)",
        "from numpy.lib import format as npy; npy.read_array(stream, allow_pickle=False)",
        "import torch; torch.load('x', weights_only=True)",
        "from torch import load; load('x', **{'weights_only': True})",
        "import subprocess; subprocess.run(['ls'], shell=False)",
        "import subprocess; subprocess.run(['ls'], **{'check': True})",
        "import importlib; importlib.import_module(f'uqms.{name}')",
        "from .yaml import load; load('a')",
        "import yaml; yaml.safe_load('a')",
        "import re; re.compile('a')",
        "import os; os.path.join('a', 'b')",
        "model.eval()",
        "f(**options)",
    ],
)
def test_what_is_safe_is_not_found(line: str) -> None:
    assert not list(findings(line, "ensemble/files.py"))


def test_the_carriers_may_import_what_they_carry_with() -> None:
    assert not list(findings("import cloudpickle", "runs/pool.py"))

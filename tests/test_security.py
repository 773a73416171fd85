"""X1: nothing in the package runs code that comes as data: no pickles from files, no eval, no shell."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import uqms

PACKAGE = Path(uqms.__file__).parent

# Modules that run code from data. cloudpickle carries the user's own simulator to workers and reads no file.
MODULES = {"pickle", "cPickle", "_pickle", "dill", "shelve", "marshal", "jsonpickle", "joblib"}
CARRIERS = {"cloudpickle": {"simulators/process.py", "runs/pool.py"}}
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "os.spawnl",
    "os.spawnv",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "pandas.read_pickle",
    "pd.read_pickle",
    "asyncio.create_subprocess_shell",
}


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` of a name or attribute, nothing of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module.split(".")[0]]
    return []


def findings(source: str, place: str) -> Iterator[str]:
    """Yield what a source must not hold."""
    for node in ast.walk(ast.parse(source)):
        where = f"{place}:{getattr(node, 'lineno', 0)}"
        for name in imported(node):
            if name in MODULES or place not in CARRIERS.get(name, {place}):
                yield f"{where}: import {name}"
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        if called in CALLS:
            yield f"{where}: {called}"
        said = {word.arg: word.value for word in node.keywords}
        true = {arg for arg, value in said.items() if not (isinstance(value, ast.Constant) and not value.value)}
        if true & {"shell", "allow_pickle"}:
            yield f"{where}: {called}({true & {'shell', 'allow_pickle'}})"
        if called == "torch.load" and not (
            isinstance(said.get("weights_only"), ast.Constant) and "weights_only" in true
        ):
            yield f"{where}: torch.load"


def test_nothing_in_the_package_runs_code_from_data() -> None:
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        found += findings(file.read_text(encoding="utf-8"), file.relative_to(PACKAGE).as_posix())
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from dill import loads",
        "def late():\n    import joblib",
        "import cloudpickle",
        "eval('1')",
        "x = exec('pass')",
        "import os; os.system('ls')",
        "import subprocess; subprocess.run('ls', shell=True)",
        "import subprocess\nflag = True\nsubprocess.run('ls', shell=flag)",
        "import numpy as np; np.load('x.npz', allow_pickle=True)",
        "import torch; torch.load('x')",
        "import torch; torch.load('x', weights_only=False)",
        "import yaml; yaml.load('a')",
        "import pandas as pd; pd.read_pickle('x')",
    ],
)
def test_a_planted_line_is_found(line: str) -> None:
    assert list(findings(line, "ensemble/files.py"))


@pytest.mark.parametrize(
    "line",
    [
        "import numpy as np; np.load('x.npz', allow_pickle=False)",
        "import torch; torch.load('x', weights_only=True)",
        "import subprocess; subprocess.run(['ls'], shell=False)",
        "import re; re.compile('a')",
    ],
)
def test_what_is_safe_is_not_found(line: str) -> None:
    assert not list(findings(line, "ensemble/files.py"))

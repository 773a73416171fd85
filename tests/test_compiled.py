"""Compiled code that stays on disk is made again when anything changes that it holds."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core.dispatcher import Dispatcher
from pytensor.graph.op import Op
from pytensor.link.numba.dispatch.basic import numba_funcify_and_cache_key

from uqms import _compiled
from uqms.calibration import _gaussian, bridge, density
from uqms.surrogates import _neighbours, fused, kernels

INNER = """
from double._compiled import compiled

@compiled
def inner(x):
    return x + {added}
"""
OUTER = """
from double._compiled import compiled
from double.inner import (
    inner,
)

@compiled
def outer(x):
    return 2.0 * inner(x)
"""


@pytest.fixture
def double(tmp_path: Path) -> Path:
    package = tmp_path / "double"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(_compiled.__file__, package / "_compiled.py")
    (package / "inner.py").write_text(INNER.format(added=1.0))
    (package / "outer.py").write_text(OUTER)
    (package / "other.py").write_text("x = 1\n")
    return package


def found(package: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=package.parent, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


def test_a_function_is_compiled_again_when_what_it_calls_has_changed(double: Path) -> None:
    code = "from double.outer import outer; print(outer(3.0), sum(outer.stats.cache_hits.values()))"
    assert found(double, code) == "8.0 0"
    assert found(double, code) == "8.0 1"
    (double / "inner.py").write_text(INNER.format(added=2.0))
    assert found(double, code) == "10.0 0"


def test_the_digest_sees_names_texts_and_imports_at_any_distance(double: Path) -> None:
    code = "import double; from double._compiled import digest; print(digest(double.__path__[0] + '/outer.py'))"
    before = found(double, code)
    (double / "other.py").write_text("x = 2\n")
    assert found(double, code) == before
    (double / "inner.py").write_text("from double.other import x\n" + INNER.format(added=1.0))
    imported = found(double, code)
    assert imported != before
    (double / "other.py").write_text("x = 3\n")
    assert found(double, code) not in (before, imported)
    (double / "other.py").rename(double / "another.py")
    (double / "inner.py").write_text("from double.another import x\n" + INNER.format(added=1.0))
    assert found(double, code) not in (before, imported)


def test_every_compiled_function_is_kept_under_the_digest() -> None:
    functions = [
        one
        for module in (_gaussian, density, fused, kernels, _neighbours)
        for one in vars(module).values()
        if isinstance(one, Dispatcher) and one.py_func.__module__ == module.__name__
    ]
    assert len(functions) > 20
    for one in functions:
        file = sys.modules[one.py_func.__module__].__file__
        assert file is not None
        assert one._cache._impl.locator.get_source_stamp() == _compiled.digest(file), one


@pytest.mark.parametrize(
    "op", [bridge.SCORES, bridge.GAUSSIAN, bridge.PROCESS_GAUSSIAN, bridge.OUTPUTS], ids=lambda op: op.function
)
def test_pytensors_key_changes_with_the_compiled_code(op: Op, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    for digest in ("a" * 64, "b" * 64, "a" * 64):
        monkeypatch.setattr(_compiled, "digest", lambda module, digest=digest: digest)
        keys.add(numba_funcify_and_cache_key(op, node=None)[1])
    assert len(keys) == 2


@pytest.mark.slow
def test_pytensors_keys_of_compiled_functions_differ_and_are_the_same_in_another_process() -> None:
    ops = [bridge.SCORES, bridge.GAUSSIAN, bridge.PROCESS_GAUSSIAN, bridge.OUTPUTS]
    keys = [numba_funcify_and_cache_key(op, node=None)[1] for op in ops]
    assert len({*keys}) == len(ops)
    again = pickle.loads(pickle.dumps(ops))
    assert again == ops
    assert [numba_funcify_and_cache_key(op, node=None)[1] for op in again] == keys
    code = "from uqms.calibration import bridge; from pytensor.link.numba.dispatch.basic import *; "
    code += "print(*(numba_funcify_and_cache_key(op, node=None)[1] for op in (bridge.SCORES, bridge.OUTPUTS)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [keys[0], keys[3]]

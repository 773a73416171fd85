"""A study without mistakes; the example scripts up to their posterior, and the study files beside them."""

import ast
import tomllib
from pathlib import Path
from typing import Any

import uqms as uq
from uqms.study import mistakes_of

EXAMPLES = Path(uq.__file__).parents[1] / "examples"


def script(name: str, replaced: dict[str, str], end: str) -> dict[str, Any]:
    """Run a script as it stands, without its figures, with some text replaced, until a heading; return its names."""
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    for old, new in replaced.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    head, found, _ = text.partition(f"# {end}\n")
    assert found
    names: dict[str, Any] = {"__name__": "script"}
    statements = [one for one in ast.parse(head).body if not draws_figures(one)]
    exec(compile(ast.Module(statements, []), f"{name}.py", "exec"), names)
    return names


def draws_figures(statement: ast.stmt) -> bool:
    """Say whether a statement of a script makes or shows a figure."""
    known = {"figure", "figures", "left", "middle", "right"}
    return any(isinstance(one, ast.Name) and one.id in known for one in ast.walk(statement))


def study(name: str, **changed: dict[str, Any]) -> uq.Study:
    """Return the study file beside a script, with some settings of its sections changed."""
    folder = EXAMPLES / "studies" / name
    document = tomllib.loads((folder / "study.toml").read_text(encoding="utf-8"))
    for section, settings in changed.items():
        document[section] = {**document.get(section, {}), **settings}
    return uq.Study(folder, **document)


MODEL = """
CALLED = []

def decay(k, amplitude):
    raise RuntimeError("the simulator was started")

def doubled(table):
    return table.assign(twice=2.0 * table["y"])
"""

GOOD = """\
title = "Decay"
[parameters]
k = { kind = "LogNormal", median = 1.0, sigma = 0.3, unit = "1/h" }
amplitude = { kind = "Uniform", low = 1.0, high = 3.0 }
[simulator]
kind = "FunctionSimulator"
function = "decay_model:decay"
outputs = { y = ["hour"], peak = [] }
coords = { hour = [0.0, 1.0, 2.0] }
units = { y = "mg/L" }
[design]
n = 16
rng = 1
[surrogate]
kind = "GaussianProcess"
outputs = { y = { kind = "Curve", tolerance = 1e-3 } }
[data]
file = "data.csv"
output = "y"
value = "y"
coords = { hour = "hour" }
unit = "mg/L"
[noise]
kind = "GaussianNoise"
sd = { kind = "HalfNormal", sd = 0.2 }
[calibration]
constraints = ["k < amplitude"]
[sample]
sampler = { kind = "Laplace" }
rng = 1
[verify]
n = 20
rng = 1
[report]
question = "How fast?"
"""


def check(folder: Path, text: str) -> list[tuple[int, str, str]]:
    """Write a study file and return its mistakes."""
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return [tuple(one) for one in mistakes_of(path)]

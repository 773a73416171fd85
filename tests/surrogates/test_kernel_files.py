"""Kernels by import name: they come back, old files mean what they meant, and no file imports what is no kernel."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import uqms as uq
from uqms._import_names import UnknownClassError
from uqms.errors import FormatError, InputError
from uqms.surrogates import Kernel, RadialKernel, load_surrogate
from uqms.surrogates.cokriging import CoKriging
from uqms.surrogates.kernel_files import (
    description_of,
    kernel_of_code,
    kernel_of_description,
)

MODULE = """
    from dataclasses import dataclass
    import uqms as uq

    print("imported")

    @dataclass(frozen=True)
    class {name}(uq.RadialKernel):
        alpha: float = 2.0

        def radial(self, r2):
            base = 1.0 + r2 / (2.0 * self.alpha)
            return base**-self.alpha, -(base ** (-self.alpha - 1.0))
"""


@dataclass(frozen=True)
class Own(RadialKernel):
    """A kernel with settings of every kind."""

    alpha: float = 1.5
    power: int = 1
    switched: bool = True

    def radial(self, r2: float) -> tuple[float, float]:
        base = 1.0 + r2 / (2.0 * self.alpha)
        return base**-self.alpha, -(base ** (-self.alpha - 1.0))


class Outer:
    """Holds a kernel, whose name then has a dot."""

    @dataclass(frozen=True)
    class Inner(RadialKernel):
        def radial(self, r2: float) -> tuple[float, float]:
            kappa = 1.0 / (1.0 + r2)
            return kappa, -2.0 * kappa * kappa


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder from which modules can be imported; what was is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def write(path: Path, name: str = "Mine") -> None:
    path.write_text(textwrap.dedent(MODULE.format(name=name)))


def named(name: str, **settings: object) -> dict[str, object]:
    return {"class": name, "settings": settings}


# ----------------------------------------------------------------------------------------------------------- round trip
@pytest.mark.parametrize(
    "kernel",
    [
        uq.Matern52(),
        uq.RationalQuadratic(0.5),
        Own(0.7, 3, False),
        Outer.Inner(),
        Own() + uq.Matern52() * Own(alpha=3.0) + uq.SquaredExponential(),
        CoKriging(Own(0.1 + 0.2), 3),
    ],
    ids=str,
)
def test_kernels_come_back_from_json(kernel: Kernel) -> None:
    same = kernel_of_description(json.loads(json.dumps(description_of(kernel), allow_nan=False)))
    assert same == kernel
    assert type(same) is type(kernel)


def test_what_a_file_holds() -> None:
    kernel = Own(0.5) + uq.Matern52() * uq.RationalQuadratic()
    product = [named("uqms:Matern52"), named("uqms:RationalQuadratic", alpha=2.0)]
    assert description_of(kernel) == named(
        "uqms:Sum",
        parts=[named(f"{__name__}:Own", alpha=0.5, power=1, switched=True), named("uqms:Product", parts=product)],
    )
    assert description_of(Outer.Inner()) == named(f"{__name__}:Outer.Inner")


def test_what_cannot_be_imported_again_is_not_saved() -> None:
    @dataclass(frozen=True)
    class Local(RadialKernel):
        def radial(self, r2: float) -> tuple[float, float]:
            return 1.0 / (1.0 + r2), -2.0 / (1.0 + r2) ** 2

    with pytest.raises(InputError, match=r"Local cannot be saved.* top level of a module"):
        description_of(Local())
    with pytest.raises(InputError, match="alpha is inf; a kernel's fields are finite numbers"):
        description_of(Own(np.inf))
    with pytest.raises(InputError, match="is no frozen dataclass"):
        description_of(type("Plain", (Own,), {"__eq__": object.__eq__, "__hash__": object.__hash__})())


# -------------------------------------------------------------------------------------------------- files of before
def test_codes_of_old_files_are_the_kernels_they_were() -> None:
    s, r, m = uq.SquaredExponential(), uq.Matern32(), uq.Matern52()
    assert [kernel_of_code(code) for code in range(3)] == [s, r, m]
    assert kernel_of_code(int("1230", 4)) == m + s
    assert kernel_of_code(int("121", 4)) == m * r
    assert kernel_of_code(int("1013231", 4)) == s * r + m + r
    assert kernel_of_code(int("1" + "03" * 7 + "0", 4)) == uq.surrogates.Sum((s,) * 8)
    assert kernel_of_code(-1000 - 10 * 2 - 1) == CoKriging(r, 2)
    assert kernel_of_code(-1000 - 10 * 64 - 0) == CoKriging(s, 64)
    for code in (-1, 3, 7, 4**20, 2 * 4**2, 4 + 3, 16 + 12, -1010, -1023, -1650, 2.0, True, None, "2"):
        with pytest.raises(InputError, match="no kernel of code|the kernel is"):
            kernel_of_code(code)


# ------------------------------------------------------------------------------------------------------ another process
@pytest.mark.slow
def test_a_surrogate_of_ones_own_kernel_predicts_the_same_in_a_new_process(folder: Path) -> None:
    write(folder / "own_kernels.py")
    script = """
        import sys
        import numpy as np
        import uqms as uq

        if sys.argv[1] == "fit":
            from own_kernels import Mine

            x = np.random.default_rng(1).random((20, 2))
            runs = uq.ensemble.build({"a": x[:, 0], "b": x[:, 1]}, {"y": np.sin(3.0 * x[:, 0]) + x[:, 1] ** 2})
            surrogate = uq.GaussianProcess(kernel=Mine(1.25) + uq.Matern52()).fit(runs)
            surrogate.save("s.npz")
        else:
            assert "own_kernels" not in sys.modules
            surrogate = uq.load_surrogate("s.npz")
        print(surrogate.process.kernel)
        at = {"a": [0.1, 0.7], "b": [0.4, 0.2]}
        prediction = surrogate.predict(at)
        print([float(v).hex() for v in (*prediction.mean["y"].values, *prediction.variance["y"].values)])
        slopes = surrogate.gradient({"a": 0.4, "b": 0.6}, {"y": 1.0})
        print({name: float(value).hex() for name, value in slopes.items()})
    """

    def run(what: str) -> list[str]:
        # Not the address space of the first: a stored address would call something else.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(script), what],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    first, second = run("fit"), run("load")
    assert first[1] == "Mine(alpha=1.25) + Matern52"
    assert first == second


# ------------------------------------------------------------------------------------------------------- without trust
def test_a_module_that_is_not_there_is_told(folder: Path, tmp_path: Path) -> None:
    write(folder / "own_gone.py")
    import own_gone  # type: ignore[import-not-found]

    x = np.random.default_rng(1).random((12, 1))
    runs = uq.ensemble.build({"a": x[:, 0]}, {"y": np.sin(3.0 * x[:, 0])})
    uq.GaussianProcess(kernel=own_gone.Mine(), hyperparameters="point").fit(runs).save(tmp_path / "s.npz")
    del sys.modules["own_gone"]
    (folder / "own_gone.py").rename(folder / "own_elsewhere.py")
    with pytest.raises(
        FormatError, match=r"own_gone:Mine is needed, and there is no module own_gone. Put the file that"
    ):
        load_surrogate(tmp_path / "s.npz")
    write(folder / "own_gone.py", "Renamed")
    with pytest.raises(FormatError, match=r"own_gone.py has no `class Mine`; it was not imported"):
        load_surrogate(tmp_path / "s.npz")
    assert "own_gone" not in sys.modules
    write(folder / "own_gone.py")
    assert str(load_surrogate(tmp_path / "s.npz").process.kernel) == "Mine(alpha=2.0)"


def test_a_file_imports_nothing_but_modules_that_define_the_class(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "own_package").mkdir()
    (folder / "own_package" / "__init__.py").write_text("print('imported')")
    (folder / "own_package" / "inner.py").write_text("print('imported')\nclass Mine: pass\nMore = Mine")
    (folder / "own_broken.py").write_text("print('imported')\ndef (")
    for name in (
        "this:Mine",
        "antigravity:fly",
        "own_package:Mine",
        "own_package.inner:Mine",
        "own_package.inner:More",
    ):
        with pytest.raises(UnknownClassError, match="it was not imported"):
            kernel_of_description(named(name))
    for name in (
        "own_broken:Mine",
        "own_nowhere:Mine",
        "own_nowhere.inner:Mine",
        "own_package.none:Mine",
        "own_package.inner.x:Y",
    ):
        with pytest.raises(UnknownClassError, match=r"it was not imported|there is no module"):
            kernel_of_description(named(name))
    assert capsys.readouterr().out == ""
    assert not {"this", "antigravity", "own_package", "own_broken"} & set(sys.modules)


@pytest.mark.parametrize(
    "description",
    [
        named("os:system", command="ls"),
        named("subprocess:Popen", args=1),
        named("builtins:eval"),
        named("builtins:list"),
        named("uqms:RunStore", path=1),
        named("uqms:RadialKernel"),
        named("uqms:GaussianNoise", sd=1.0),
        named("uqms.surrogates.kernels:Stationary"),
        named("uqms.surrogates.kernels:settings_of", kernel=1),
        named(f"{__name__}:Outer"),
    ],
)
def test_what_is_no_kernel_is_not_called(description: dict[str, object]) -> None:
    with pytest.raises(InputError, match="is no kernel"):
        kernel_of_description(description)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (named("uqms:Matern52", nu=2.5), r"has the settings \[\], the file \['nu'\]"),
        (named(f"{__name__}:Own", alpha=1.0), "has the settings"),
        (named(f"{__name__}:Own", alpha="1", power=1, switched=True), "has the setting '1'"),
        (named(f"{__name__}:Own", alpha=float("nan"), power=1, switched=True), "has the setting nan"),
        (named(f"{__name__}:Own", alpha=named("uqms:Matern52"), power=1, switched=True), "fields are finite numbers"),
        (named("uqms:RationalQuadratic", alpha=-1.0), "give a positive number"),
        (named("uqms:Sum", parts=[named("uqms:Matern52")]), "at least two"),
        (named("uqms:Sum", parts=3), "at least two"),
        (named("uqms:Product", parts=[named("uqms:Sum", parts=[named("uqms:Matern52")] * 2)] * 2), "at least two"),
        (named("uqms.surrogates.cokriging:CoKriging", part=named("uqms:Matern52"), levels=2.0), "levels 2.0"),
        (named("uqms.surrogates.cokriging:CoKriging", part=1, levels=2), "part is 1"),
        (named("x"), "no import name|no import name of a kernel"),
        (named("../x:Y"), "no import name"),
        (named("uqms:Matern52()"), "no import name"),
        (named(""), "no import name"),
        ({"class": "uqms:Matern52"}, "the kernel is"),
        ({"class": 1, "settings": {}}, "the kernel is"),
        ({"class": "uqms:Matern52", "settings": []}, "the kernel is"),
        ([2], "the kernel is"),
        (2, "the kernel is"),
        (None, "the kernel is"),
    ],
)
def test_descriptions_that_are_wrong_are_refused(description: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kernel_of_description(description)


def test_descriptions_that_are_nested_without_end_are_refused() -> None:
    description: dict[str, object] = named("uqms:Matern52")
    for _ in range(500):
        description = named("uqms:Sum", parts=[description, named("uqms:Matern52")])
    with pytest.raises(InputError, match="the kernel is"):
        kernel_of_description(description)

"""Kernels in files: the import name of their class and their settings, never an object that would have to be unpickled.

A kernel is ``{"class": "package.module:Class", "settings": {...}}``. Settings are numbers, kernels (the part of a
co-kriging kernel) or lists of kernels (the parts of a sum or product). Kernels of uqms that are public are named
``uqms:Class``, wherever they live.

A file is not trusted: see `_import_names` for what is imported, and only a class that is a kernel is called with the
settings.
"""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from uqms._import_names import class_named, stored_name
from uqms.errors import InputError
from uqms.surrogates.cokriging import CoKriging
from uqms.surrogates.jax_kernel import JaxKernel
from uqms.surrogates.kernels import (
    Kernel,
    Matern32,
    Matern52,
    Product,
    RadialKernel,
    SquaredExponential,
    Sum,
    settings_of,
)

__all__ = ["description_of", "kernel_of_code", "kernel_of_description"]

DEPTH = 4  # a sum of products of kernels is two deep
COKRIGING = -1000  # codes of co-kriging in old files: this, less 10 T, less the code of the part
OLD_CODES: tuple[RadialKernel, ...] = (SquaredExponential(), Matern32(), Matern52())
OLD_PLUS, OLD_PARTS = 3, 8  # the digit between the terms of a sum in old files, and how many parts there were at most


# ------------------------------------------------------------------------------------------------------------- writing
def description_of(kernel: Kernel) -> dict[str, Any]:
    """Return class and settings of a kernel as JSON knows them.

    Raises
    ------
    InputError
        When the class cannot be imported again, or a setting is neither a number nor a kernel.
    """
    if isinstance(kernel, RadialKernel | JaxKernel):
        settings_of(kernel)  # which refuses what is no number
    given = [part.name for part in fields(kernel) if part.init]  # type: ignore[arg-type]
    settings = {name: _plain(getattr(kernel, name)) for name in given}
    return {"class": stored_name(type(kernel), "kernel"), "settings": settings}


def _plain(value: object) -> Any:
    if isinstance(value, Kernel):
        return description_of(value)
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


# ------------------------------------------------------------------------------------------------------------- reading
def kernel_of_description(description: object, depth: int = DEPTH) -> Kernel:
    """Return the kernel of a description.

    Raises
    ------
    UnknownClassError
        When its class cannot be imported.
    InputError
        When it describes no kernel.
    """
    if not isinstance(description, dict) or set(description) != {"class", "settings"} or not depth:
        raise InputError(f"the kernel is {reprlib.repr(description)}")
    name, settings = description["class"], description["settings"]
    if not isinstance(name, str) or not isinstance(settings, dict):
        raise InputError(f"the kernel is {reprlib.repr(description)}")
    cls = class_named(name, Kernel, "kernel")  # type: ignore[type-abstract]
    if not hasattr(cls, "__dataclass_fields__"):
        raise InputError(f"{name} is no kernel: it is no dataclass")
    known = {part.name for part in fields(cls) if part.init}  # type: ignore[arg-type]
    if set(settings) != known:
        raise InputError(f"the kernel {name} has the settings {sorted(known)}, the file {sorted(settings)}")
    values = {key: _value(one, depth) for key, one in settings.items()}
    try:
        kernel = cls(**values)
    except InputError:
        raise
    except Exception as error:  # of the user's own class
        raise InputError(f"the kernel {name} does not take the settings {reprlib.repr(settings)} ({error})") from error
    if not isinstance(kernel, Kernel):
        raise InputError(f"the kernel {name} made a {type(kernel).__name__}")
    if isinstance(kernel, RadialKernel | JaxKernel):
        settings_of(kernel)
    return kernel


def _value(value: object, depth: int) -> object:
    if isinstance(value, Mapping):
        return kernel_of_description(value, depth - 1)
    if isinstance(value, list):
        return tuple(kernel_of_description(one, depth - 1) for one in value)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"a kernel has the setting {reprlib.repr(value)}")
    return value


# ----------------------------------------------------------------------------------------------- codes of old files
def kernel_of_code(code: object) -> Kernel:
    """Return the kernel with that code in files of format versions 1 to 3.

    Codes of sums and products are digits in base 4 behind a leading 1, terms kept apart by a 3.

    Raises
    ------
    InputError
        When there is none.
    """
    if type(code) is not int:
        raise InputError(f"the kernel is {code!r}")
    if code in range(len(OLD_CODES)):
        return OLD_CODES[code]
    if code < 0:
        levels, part = divmod(COKRIGING - code, 10)
        if not 2 <= levels <= 64 or part not in range(len(OLD_CODES)):
            raise InputError(f"there is no kernel of code {code}")
        return CoKriging(OLD_CODES[part], levels)
    digits: list[int] = []
    rest = code if code < 4 ** (2 * OLD_PARTS) else 0
    while rest:
        digits.insert(0, rest % 4)
        rest //= 4
    terms: list[list[RadialKernel]] = [[]]
    for digit in digits[1:]:
        if digit == OLD_PLUS:
            terms.append([])
        else:
            terms[-1].append(OLD_CODES[digit])
    if digits[:1] != [1] or not all(terms):
        raise InputError(f"there is no kernel of code {code}")
    parts = [Product(tuple(term)) if len(term) > 1 else term[0] for term in terms]
    return Sum(tuple(parts)) if len(parts) > 1 else parts[0]

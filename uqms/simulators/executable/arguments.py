"""Checks of what a user says about an executable, before anything runs."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from uqms.errors import InputError, PathError, TemplateError
from uqms.simulators._identity import code_hash
from uqms.simulators.executable.result_readers import JSONFile, NetCDFFile, Reader, TextTable
from uqms.simulators.executable.run_folder import LOG, inside
from uqms.simulators.executable.surroundings import text_hash
from uqms.simulators.process_tree import MARK

__all__ = ["checked_readers", "read_templates", "reading_hash", "refuse_same_files", "refuse_settings"]

_KEEP = ("failed", "always", "never")


def refuse_settings(simulator: Any) -> None:
    """Raise an InputError for a setting that cannot be meant."""
    if simulator.version is not None and not isinstance(simulator.version, str):
        raise InputError(f"version is {simulator.version!r}; give a text such as '1.2'.")
    if simulator.keep not in _KEEP:
        raise InputError(f"keep is {simulator.keep!r}; give one of {', '.join(_KEEP)}.")
    for key in ("timeout", "memory", "log_limit"):
        value = getattr(simulator, key)
        whole = key != "timeout"
        if value is None and key != "log_limit":
            continue
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not 0 < value < math.inf:
            raise InputError(f"{key} is {value!r}; give {'bytes, a whole number' if whole else 'seconds'} > 0.")
    for code in _listed(simulator.success, "success", "exit codes such as (0,)"):
        if isinstance(code, bool) or not isinstance(code, int):
            raise InputError(f"success holds {code!r}; give exit codes such as (0,).")
    if simulator.error_pattern is not None:
        try:
            re.compile(simulator.error_pattern.encode(), re.MULTILINE)
        except (re.error, AttributeError, UnicodeEncodeError) as error:
            raise InputError(
                f"error_pattern is {simulator.error_pattern!r}: {error}; give a regular expression."
            ) from error
    _refuse_environment(simulator.environment, simulator.inherit)
    for name in (*simulator.environment, *simulator.inherit):
        if simulator.memory is not None and not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise InputError(
                f"with memory= a shell starts the program, which drops the variable {name!r}; take letters, digits and "
                "underscores, or leave memory= out."
            )


def _refuse_environment(environment: object, inherit: object) -> None:
    if not isinstance(environment, Mapping):
        raise InputError(f"environment is {environment!r}; give name -> text.")
    names = [*environment, *_listed(inherit, "inherit", "names such as ('LD_LIBRARY_PATH',)")]
    for name in names:
        if not isinstance(name, str) or not name or "=" in name or "\0" in name or name == MARK:
            raise InputError(f"{name!r} cannot be the name of an environment variable here.")
    for name, value in environment.items():
        if not isinstance(value, str) or "\0" in value:
            raise InputError(f"environment has {name!r} = {type(value).__name__}; give a text without NUL.")


def _listed(given: object, what: str, example: str) -> Iterable[object]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InputError(f"{what} is {given!r}; give {example}.")
    return given


def read_templates(given: object) -> dict[str, str]:
    """Return file in the run directory -> text of its template.

    Raises
    ------
    TemplateError
        When a template's file cannot be read.
    """
    if not isinstance(given, Mapping):
        raise InputError(f"templates is {given!r}; give file in the run directory -> text or Path.")
    found = {}
    for name, template in given.items():
        target = inside(name, "a name in templates")
        if isinstance(template, Path):
            try:
                # Bytes that are no UTF-8 come out again as they were.
                found[target] = template.read_bytes().decode("utf-8", "surrogateescape")
            except OSError as error:
                raise TemplateError(f"the template {template} cannot be read: {error.strerror}.") from error
        elif isinstance(template, str):
            found[target] = template
        else:
            raise InputError(f"the template of {name!r} is {template!r}; give a text, or a Path to read it from.")
    return found


def refuse_same_files(templates: Iterable[str], files: Iterable[str]) -> None:
    """Raise a PathError when two things want the same file of the run directory."""
    for name in files:
        if name in templates:
            raise PathError(f"{name!r} stands in templates and in files; give each its own name.")
    for name in (*templates, *files):
        if name == LOG:
            raise PathError(f"{LOG} is the log of a run; give your file another name.")


def checked_readers(read: object, outputs: Mapping[str, object]) -> tuple[Reader, ...] | Callable[..., Any]:
    """Return the readers, or the user's function.

    Raises
    ------
    InputError
        When it is neither, or when an output is looked for in no file.
    """
    if isinstance(read, Reader):
        readers: tuple[Reader, ...] = (read,)
    elif isinstance(read, list | tuple) and read and all(isinstance(reader, Reader) for reader in read):
        readers = tuple(read)
    elif callable(read):
        return read
    else:
        raise InputError(
            f"read is {read!r}; give JSONFile('result.json'), TextTable('result.csv'), NetCDFFile('result.nc'), a list "
            "of them, or a function that takes the run directory."
        )
    named = [reader.names for reader in readers]
    for names in named:
        for name in names or ():
            if name not in outputs:
                raise InputError(f"read looks for {name!r}, which is not an output; the outputs are {sorted(outputs)}.")
    for name in outputs:
        if not any(names is None or name in names for names in named):
            raise InputError(f"output {name!r} is looked for in no file; name its place in read.")
    return readers


def reading_hash(read: object) -> str:
    """Return a hash of how results are read."""
    if isinstance(read, tuple) and all(isinstance(reader, JSONFile | TextTable | NetCDFFile) for reader in read):
        return text_hash(repr(read))
    return code_hash(read)

"""A program with input files and arguments as a simulator."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, cast, final

from uqms._teaching import taught
from uqms._typing import Array
from uqms.errors import (
    InputError,
    OutputError,
    PathError,
    SimulatorFailed,
    SimulatorNotFound,
    SimulatorTimeout,
    TemplateError,
    UnsafeFileError,
)
from uqms.simulators._declare import Declared, Setting, declared
from uqms.simulators.contract import Coordinate, checked_outputs
from uqms.simulators.executable import arguments as checks
from uqms.simulators.executable import ending as verdict
from uqms.simulators.executable import surroundings as around
from uqms.simulators.executable.command import argument_templates, checked_command, find_program, rendered
from uqms.simulators.executable.result_readers import Reader
from uqms.simulators.executable.run_folder import LOG, inside
from uqms.simulators.executable.supervised import Ended, can_limit_memory, supervise
from uqms.simulators.executable.templates import Template

__all__ = ["ExecutableSimulator"]

_ERROR_LINE = r"^[ \t]*(ERROR|FATAL)\b"
_LOG_LIMIT = 100 * 2**20
# Variables that name the job or login in which a program runs, not what it computes.
_OF_SESSION = ("SLURM_", "PBS_", "LSB_", "LSF_", "SGE_", "PMI_", "PMIX_", "OMPI_", "SSH_", "XDG_", "TMP", "DISPLAY")

Read = Reader | Sequence[Reader] | Callable[[Path], Mapping[str, object]]


@taught
@final
@dataclass(frozen=True, eq=False)
class ExecutableSimulator:
    """A program that reads input files or arguments and leaves result files.

    Use it for a compiled code, a script in any language, or a Python model that may crash. Every run has a fresh
    directory of its own as current directory, few environment variables, and its words in a file ``uqms.log`` there.
    No shell reads the command. When the run ends, by itself or at its deadline, everything that it has started is ended
    too.

    Parameters
    ----------
    command
        Program and arguments, one text for each: ``["solver", "--alpha", "{{ alpha }}", "input.dat"]``. The program is
        a name that is looked up in ``PATH`` or a path; it and arguments of type ``Path`` are taken as they are and
        relative to the current directory of now, other arguments are templates (see `templates`).
    outputs
        Name of each output and its dims, ``()`` for a scalar.
    read
        What reads the results: `JSONFile`, `TextTable`, `NetCDFFile`, a list of them, or a function that takes the run
        directory and returns output -> number or array; what it returns for a dim must be the declared coordinates. A
        program that prints its results is read from ``uqms.log``. The readers refuse a file that is older than the run;
        your own function has to look itself.
    templates
        File in the run directory -> its template, a text or a ``Path`` to read it from now. Inputs stand in it as
        ``{{ name }}`` (Jinja2); a setting that is True as ``{{ name | tojson }}``. Each input, setting and seed must be
        used somewhere, and no other name.
    files
        File in the run directory -> the file to copy there.
    coords
        Values of every dim, shape (m,).
    units
        Units of the outputs.
    config
        Fixed settings for the templates: ``{"cells": 200, "scheme": "upwind"}``. They are part of the identity.
    seed
        Name under which templates take the seed of a run, when the program draws random numbers.
    version
        Your own word for what the program computes. Stored runs are found again under it; without it, under hashes of
        the program, of arguments that are files (or folders, given as ``Path``), of templates, of `files`, of
        `environment` and the variables of `inherit` (not those of the job or login, such as ``SLURM_JOB_ID``), and
        under `read`, `success` and `error_pattern`. Give it when a
        script starts the real program, which these hashes do not see.
    name
        The program's name by default.
    environment
        Variables for the program. It also gets ``PATH``, ``HOME`` and the language of yours, one thread
        (``OMP_NUM_THREADS=1`` ...) and its run directory as ``TMPDIR``.
    inherit
        Names of more variables of yours to pass on, such as ``("LD_LIBRARY_PATH",)`` after ``module load``.
    timeout
        Seconds that the program may take. Reading its results is not counted; `run(timeout=)` bounds that too, since it
        ends the worker process.
    memory
        Bytes of address space that each of its processes may have (Linux). ``/bin/sh`` sets it and then becomes the
        program: it runs a script without a first line ``#!...`` itself, and a missing interpreter is exit code 127.
    log_limit
        Bytes that it may write to standard output and error.
    error_pattern
        A regular expression for lines of the log that mean failure although the exit code says success; None for none.
    success
        Exit codes that mean success.
    folder
        Where run directories are made; the system's folder for temporary files by default.
    keep
        Which run directories stay: those of ``"failed"`` runs (their message names them), ``"always"``, ``"never"``.
        What a killed process has left goes when the next campaign begins, unless ``"always"``.

    Raises
    ------
    InputError
        When something cannot be meant; `TemplateError` for a template that cannot be parsed.
    PathError
        When a file would lie outside of the run directory.

    Examples
    --------
    >>> from uqms.simulators.executable.result_readers import JSONFile
    >>> simulator = ExecutableSimulator(
    ...     ["cp", "input.json", "result.json"],
    ...     templates={"input.json": '{"flow": {{ pressure / resistance }}}'},
    ...     outputs={"flow": ()},
    ...     read=JSONFile("result.json"),
    ... )
    >>> simulator.inputs
    ('pressure', 'resistance')
    >>> simulator.evaluate({"pressure": 100.0, "resistance": 8.0})
    {'flow': array(12.5)}
    """

    command: Sequence[str | Path]
    outputs: Mapping[str, tuple[str, ...]] = field(kw_only=True)
    read: Read = field(kw_only=True)
    templates: Mapping[str, str | Path] = field(kw_only=True, default_factory=dict)
    files: Mapping[str, str | Path] = field(kw_only=True, default_factory=dict)
    coords: Mapping[str, Coordinate] = field(kw_only=True, default_factory=dict)
    units: Mapping[str, str] = field(kw_only=True, default_factory=dict)
    config: Mapping[str, Setting] = field(kw_only=True, default_factory=dict)
    seed: str | None = field(kw_only=True, default=None)
    version: str | None = field(kw_only=True, default=None)
    name: str | None = field(kw_only=True, default=None)
    environment: Mapping[str, str] = field(kw_only=True, default_factory=dict, repr=False)
    inherit: Sequence[str] = field(kw_only=True, default=())
    timeout: float | None = field(kw_only=True, default=None)
    memory: int | None = field(kw_only=True, default=None)
    log_limit: int = field(kw_only=True, default=_LOG_LIMIT)
    error_pattern: str | None = field(kw_only=True, default=_ERROR_LINE)
    success: Sequence[int] = field(kw_only=True, default=(0,))
    folder: str | Path | None = field(kw_only=True, default=None)
    keep: Literal["failed", "always", "never"] = field(kw_only=True, default="failed")

    def __post_init__(self) -> None:
        said = declared(self.outputs, self.coords, self.units, self.config, self.seed)
        command = checked_command(self.command)
        checks.refuse_settings(self)
        files = {inside(name, "a name in files"): Path(path).absolute() for name, path in self.files.items()}
        normal = {
            "command": command,
            "read": checks.checked_readers(self.read, said.outputs),
            "templates": checks.read_templates(self.templates),
            "files": files,
            "name": self.name or Path(command[0]).name,
            "environment": dict(self.environment),
            "inherit": tuple(self.inherit),
            "success": tuple(self.success),
            "folder": None if self.folder is None else Path(self.folder).absolute(),
        }
        for key in ("outputs", "coords", "units", "config"):
            object.__setattr__(self, key, getattr(said, key))
        for key, value in normal.items():
            object.__setattr__(self, key, value)
        checks.refuse_same_files(self.templates, self.files)
        _ = self._arguments, self._texts  # parsed now, so that a mistake is told now

    # ---------------------------------------------------------------------------------------------------- what it is
    @property
    def _declared(self) -> Declared:
        return Declared(self.outputs, self.coords, self.units, self.config, self.seed)

    @cached_property
    def _arguments(self) -> list[Template | Path]:
        return argument_templates(self.command)

    @cached_property
    def _texts(self) -> dict[str, Template]:
        return {name: Template(str(text), name) for name, text in self.templates.items()}

    @property
    def _templates(self) -> list[Template]:
        return [*(part for part in self._arguments if isinstance(part, Template)), *self._texts.values()]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names in arguments and templates, without the settings of `config` and the seed."""
        names = dict.fromkeys(name for template in self._templates for name in template.names)
        return tuple(name for name in names if name not in self.config and name != self.seed)

    @property
    def identity(self) -> Mapping[str, object]:
        """What identifies a simulator: name, version (or hashes of all that it reads), settings, outputs.

        It is asked anew each time: a program that was edited meanwhile is another one.
        """
        content = {"content": self._content()} if self.version is None else {"version": self.version}
        return {"kind": "executable", "name": self.name, **content, **self._declared.identity()}

    def _content(self) -> dict[str, object]:
        passed = {
            name: os.environ[name] for name in self.inherit if name in os.environ and not name.startswith(_OF_SESSION)
        }
        variables = sorted({**passed, **self.environment}.items())
        return {
            "program": around.content_hash(self._program()),
            "arguments": [_argument_hash(part) for part in self.command[1:]],
            "templates": {name: around.text_hash(str(text)) for name, text in sorted(self.templates.items())},
            "files": {name: around.content_hash(Path(path)) for name, path in sorted(self.files.items())},
            "environment": {name: around.text_hash(value) for name, value in variables},
            "read": checks.reading_hash(self.read),
            "success": sorted(set(self.success)),
            "error_pattern": self.error_pattern,
        }

    @property
    def _folder(self) -> Path | None:
        return None if self.folder is None else Path(self.folder)

    def _program(self) -> Path:
        return find_program(self.command[0], around.environment(self.environment, self.inherit).get("PATH", os.defpath))

    # --------------------------------------------------------------------------------------------------------- running
    def prepare(self, inputs: Sequence[str]) -> None:
        """Raise before the first run when the program cannot be started or the templates do not fit.

        Raises
        ------
        SimulatorNotFound
            When there is no such program, or it may not be executed.
        TemplateError
            When a template uses a name without a value, or when a name that is given is used nowhere.
        InputError
            When a file to copy cannot be read, or memory cannot be limited on this system.
        """
        self._declared.refuse_clash(inputs, str(self.name))
        self._program()
        given = [*inputs, *self.config, *([] if self.seed is None else [self.seed])]
        for template in self._templates:
            template.refuse_unknown(given)
            template.refuse_unspelled(self.config)
        for name in given:
            if not name.isidentifier():
                raise TemplateError(
                    f"{name!r} cannot stand in a template; rename it, with letters, digits and underscores only."
                )
            if not any(template.uses(name) for template in self._templates):
                raise TemplateError(
                    f"{name!r} stands in no template and in no argument of {self.name}, so it would change nothing; "
                    f"write {{{{ {name} }}}} where it belongs, or take it out."
                )
        for part in self._arguments:
            if isinstance(part, Template) and set(part.names) <= set(self.config):
                rendered(part, self.config)
        for path in self.files.values():
            if not Path(path).is_file() or not os.access(path, os.R_OK):
                raise InputError(f"files names {path}, which is no file that can be read.")
        if self.memory is not None and not can_limit_memory:
            raise InputError("memory= needs Linux; leave it out here, and limit the memory of all workers instead.")
        around.sweep(self._folder)

    def evaluate(self, point: Mapping[str, float]) -> dict[str, Array]:
        """Run the program once, in a fresh directory.

        Parameters
        ----------
        point
            One number for each input, and the seed where there is one.

        Returns
        -------
        dict
            Output -> float64 array, shaped by its dims.

        Raises
        ------
        InputError
            When `point` has a name that is no input.
        SimulatorTimeout
            When it did not end before its deadline; nothing of it is left.
        SimulatorFailed
            When it ended with another exit code, by a signal, with an error in its log, or wrote too much.
        OutputError
            When a result is missing, damaged, older than the run, not finite or of the wrong shape.
        PathError
            When a result lies outside of the run directory.
        TemplateError
            When a template cannot be filled in with these numbers.
        """
        unknown = point.keys() - {*self.inputs, self.seed}
        if unknown:
            raise InputError(
                f"{self.name} has no input {', '.join(map(repr, sorted(unknown)))}; its inputs are "
                f"{', '.join(self.inputs) or 'none'}, and config is fixed."
            )
        values = {**self.config, **point}
        arguments = [rendered(p, values) if isinstance(p, Template) else str(p) for p in self._arguments]
        texts = {name: template.render(values) for name, template in self._texts.items()}
        command = [str(self._program()), *arguments]
        stays = self.keep == "always"
        with around.run_folder(self._folder, str(self.name), stays) as folder:
            try:
                around.fill(folder, texts, {name: Path(path) for name, path in self.files.items()})
                return self._run(command, folder)
            except Exception:
                stays = self.keep != "never"
                raise
            finally:
                if not stays:
                    shutil.rmtree(folder, ignore_errors=True)

    def _run(self, command: Sequence[str], folder: Path) -> dict[str, Array]:
        begin = around.clock(folder)
        try:
            ended = supervise(
                command,
                folder=folder,
                environment=around.environment(self.environment, self.inherit, folder),
                log=folder / LOG,
                timeout=self.timeout,
                memory=self.memory,
                log_limit=self.log_limit,
                error_pattern=self.error_pattern,
            )
        except (FileNotFoundError, PermissionError) as error:
            raise SimulatorNotFound(
                f"{self.name} cannot be started: {error.strerror}; is the interpreter on its first line there?"
            ) from error
        except (OSError, ValueError) as error:
            raise SimulatorFailed(
                f"{self.name} cannot be started: {error}; does a script lack its first line, #!...?"
            ) from error
        try:
            verdict.judge(str(self.name), ended, self.success, self.memory, self.log_limit)
            read = cast(verdict.Read, self.read)
            got = verdict.results(read, folder, begin, self.outputs, self.coords, self.units)
            return checked_outputs(got, self.outputs, self.coords)
        except OutputError as error:
            raise OutputError(self._told(error, ended, folder), error.partial) from error
        except (SimulatorFailed, SimulatorTimeout, PathError, UnsafeFileError) as error:
            raise type(error)(self._told(error, ended, folder)) from error

    def _told(self, error: Exception, ended: Ended, folder: Path) -> str:
        log = f"The last lines that it printed:\n{ended.tail}" if ended.tail else "It printed nothing."
        kept = "" if self.keep == "never" else f" Run directory: {folder}."
        return around.masked(f"{error}{kept} {log}", self.environment, self.inherit)


def _argument_hash(part: str | Path) -> str:
    if os.path.isabs(part) and (os.path.isfile(part) or (isinstance(part, Path) and part.is_dir())):
        return around.content_hash(Path(part))
    return around.text_hash(part.name if isinstance(part, Path) else part)

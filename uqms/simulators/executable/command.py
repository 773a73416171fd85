"""Arguments of a program: texts that reach it as they are, and never turn into options by a value."""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from uqms.errors import InputError, SimulatorNotFound, TemplateError
from uqms.simulators.executable.templates import Template

__all__ = ["argument_templates", "checked_command", "find_program", "rendered"]

_NUMBER = re.compile(r"-(\d|\.\d|inf\b|nan\b)")


def checked_command(command: object) -> tuple[str | Path, ...]:
    """Return program and arguments, those that are paths made absolute.

    Raises
    ------
    InputError
        When it is one text, empty or holds something else than texts and paths.
    """
    if isinstance(command, str | Path | bytes):
        raise InputError(
            f"command is {command!r}; give a list of program and arguments, such as ['solver', '--alpha', "
            "'{{ a }}'], since no shell splits it."
        )
    if not isinstance(command, Sequence) or not command:
        raise InputError(f"command is {command!r}; give a list of program and arguments.")
    for part in command:
        if not isinstance(part, str | Path) or "\0" in str(part):
            raise InputError(f"command holds {part!r}; give texts and paths without NUL.")
    first, *others = command
    if not str(first).strip():
        raise InputError("command begins with an empty text; give the program.")
    program = Path(first).absolute() if isinstance(first, Path) or "/" in first else first
    return (program, *(part.absolute() if isinstance(part, Path) else part for part in others))


def find_program(program: str | Path, search: str) -> Path:
    """Return the file of a program.

    Raises
    ------
    SimulatorNotFound
        When there is none, or one that may not be executed.
    """
    if isinstance(program, str):
        found = shutil.which(program, path=search)
        if found is None:
            raise SimulatorNotFound(
                f"there is no program {program!r} in the folders of PATH ({search}); is it installed? Otherwise give "
                "its path."
            )
        return Path(found).absolute()
    if not program.exists():
        raise SimulatorNotFound(f"there is no program {program}; check the path.")
    if not program.is_file() or not os.access(program, os.X_OK):
        raise SimulatorNotFound(
            f"{program} cannot be executed; make it executable (chmod +x), or start it through its interpreter: "
            "['python', Path(...)]."
        )
    return program


def argument_templates(command: Sequence[str | Path]) -> list[Template | Path]:
    """Return the arguments behind the program, texts as templates."""
    return [
        part if isinstance(part, Path) else Template(part, f"command[{at}]") for at, part in enumerate(command[1:], 1)
    ]


def rendered(template: Template, values: Mapping[str, object]) -> str:
    """Return an argument with its values.

    Raises
    ------
    TemplateError
        When a text turns it into an option, or when it holds a NUL.
    """
    text = template.render(values)
    if "\0" in text:
        raise TemplateError(f"{template.place} becomes {text!r}; an argument cannot hold a NUL.")
    if text.startswith("-") and not template.text.startswith("-") and not _NUMBER.match(text):
        for name in template.names:
            value = values[name]
            if isinstance(value, str) and value.lstrip().startswith("-"):
                raise TemplateError(
                    f"{template.place} becomes {text!r}, which the program would read as an option, by the text of "
                    f"{name!r}; write the option into command, or put '--' or another text before it."
                )
    return text

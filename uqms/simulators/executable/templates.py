"""Input files and arguments with placeholders, filled by Jinja2 in its sandbox, strict about every name."""

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from uqms.errors import TemplateError

__all__ = ["Template"]

_FUNCTIONS = ("range", "dict", "namespace")  # of Jinja2's own; its lorem ipsum is random


@final
@dataclass(frozen=True)
class Template:
    """A text with places such as ``{{ stiffness }}``, ``{% if steady %}`` or ``{{ "%.3e" | format(dt) }}``.

    Floats are written with as many digits as are needed to read the same float64 again. Values are never read as
    templates themselves, other files are never included, and line ends stay what they are.

    Parameters
    ----------
    text
        The template.
    place
        What messages call it: the name of its file.

    Raises
    ------
    TemplateError
        When it cannot be parsed, with the line.

    Examples
    --------
    >>> template = Template("E = {{ E }}", "solid.inp")
    >>> template.names
    ('E',)
    >>> template.render({"E": 0.1})
    'E = 0.1'
    """

    text: str
    place: str

    def __post_init__(self) -> None:
        try:
            tree = _environment("\n").parse(self.text)
            _compiled(self.text)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"{self.place}, line {error.lineno}: {str(error.message).rstrip('.')}. Placeholders look like "
                "{{ name }}; other double braces stand between {% raw %} and {% endraw %}."
            ) from error
        except (RecursionError, MemoryError, SyntaxError, OverflowError) as error:
            raise TemplateError(
                f"{self.place} cannot be read as a template ({type(error).__name__}); make it simpler."
            ) from error
        other = next(tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)), None)
        if other is not None:
            raise TemplateError(
                f"{self.place}, line {other.lineno}: a template cannot read other files; put the text into this one."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The names that must be given, in the order in which they stand."""
        return tuple(name for name in _lines(self.text) if name not in _FUNCTIONS)

    def line(self, name: str) -> int:
        """Return the line on which a name stands first."""
        return _lines(self.text)[name]

    def uses(self, name: str) -> bool:
        """Return whether a name stands in it."""
        return name in _lines(self.text)

    def refuse_unknown(self, given: Iterable[str]) -> None:
        """Raise a TemplateError for a name that is not given."""
        known = list(given)
        for name in self.names:
            if name not in known:
                raise TemplateError(
                    f"{self.place}, line {self.line(name)}: nobody gives {name!r}; there are "
                    f"{', '.join(known) or 'no names'}. Is it misspelt, or a setting for config?"
                )

    def render(self, values: Mapping[str, object]) -> str:
        """Return the text with these values.

        Raises
        ------
        TemplateError
            When a name is not given, or an expression cannot be computed.
        """
        try:
            return _compiled(self.text).render(values)
        except Exception as error:  # whatever an expression raises
            text = str(error).rstrip(".")
            raise TemplateError(f"{self.place} cannot be filled in: {type(error).__name__}: {text}.") from error


@functools.cache
def _environment(newline: str) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
        newline_sequence=newline,
        finalize=_written,
    )
    environment.globals = {name: environment.globals[name] for name in _FUNCTIONS}
    del environment.filters["random"]  # a run is repeated with what is stored of it
    return environment


@functools.lru_cache(maxsize=256)
def _compiled(text: str) -> jinja2.Template:
    return _environment("\r\n" if "\r\n" in text else "\n").from_string(text)


@functools.lru_cache(maxsize=256)
def _lines(text: str) -> dict[str, int]:
    """Return name -> first line of all names that must be given."""
    tree = _environment("\n").parse(text)
    undeclared = meta.find_undeclared_variables(tree)
    found: dict[str, int] = {}
    for node in tree.find_all(nodes.Name):
        if node.name in undeclared:
            found.setdefault(node.name, node.lineno)
    return {name: found[name] for name in sorted(found, key=lambda name: (found[name], _column(text, name)))}


def _column(text: str, name: str) -> int:
    match = re.search(rf"\b{re.escape(name)}\b", text)
    return match.start() if match else 0


def _written(value: object) -> object:
    return repr(float(value)) if isinstance(value, float) else value

"""Input files and arguments with placeholders, filled by Jinja2 in its sandbox, strict about every name."""

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

import jinja2
import numpy as np
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace

from uqms.errors import TemplateError

__all__ = ["Template"]

_FUNCTIONS = {"range": safe_range, "dict": dict, "namespace": Namespace}  # of Jinja2's own; its lorem ipsum is random


@final
@dataclass(frozen=True)
class Template:
    """A text with places such as ``{{ stiffness }}``, ``{% if steady %}`` or ``{{ "%.3e" | format(dt) }}``.

    Floats are written with as many digits as are needed to read the same float64 again, such as ``1.0e-05``, which is a
    number in YAML too. True, None and lists, which each format spells in its own way, are refused: write
    ``{{ on | tojson }}`` or ``{{ ".true." if on else ".false." }}``. Values are never read as templates themselves, and
    other files are never included. Lines end as in the template; when some end in CR LF, all do.

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
        return tuple(_lines(self.text))

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
                    f"{self.place}, line {self.line(name)}: nothing provides a value for {name!r}; there are "
                    f"{', '.join(known) or 'no names'}. Is it misspelt, or a setting for config?"
                )

    def refuse_unspelled(self, config: Mapping[str, object]) -> None:
        """Raise a TemplateError where a setting that is true or false stands alone."""
        for output in _environment("\n").parse(self.text).find_all(nodes.Output):
            for part in output.nodes:
                if isinstance(part, nodes.Name) and isinstance(config.get(part.name), bool):
                    raise TemplateError(f"{self.place}, line {part.lineno}: {_unspelled(part.name)}")

    def render(self, values: Mapping[str, object]) -> str:
        """Return the text with these values.

        Raises
        ------
        TemplateError
            When a name is not given, or an expression cannot be computed.
        """
        try:
            plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
            return _compiled(self.text).render(plain)
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
    environment.globals = {}  # an input may be called as one of them
    del environment.filters["random"]  # a run is repeated with what is stored of it
    return environment


@functools.lru_cache(maxsize=256)
def _compiled(text: str) -> jinja2.Template:
    return _environment("\r\n" if "\r\n" in text else "\n").from_string(text, _FUNCTIONS)


@functools.lru_cache(maxsize=256)
def _lines(text: str) -> dict[str, int]:
    """Return name -> first line of all names that must be given."""
    tree = _environment("\n").parse(text)
    undeclared = meta.find_undeclared_variables(tree)
    calls = {id(call.node) for call in tree.find_all(nodes.Call)}
    found: dict[str, int] = {}
    for node in tree.find_all(nodes.Name):
        function = node.name in _FUNCTIONS and id(node) in calls
        if node.name in undeclared and not function:
            found.setdefault(node.name, node.lineno)
    return {name: found[name] for name in sorted(found, key=lambda name: (found[name], _column(text, name)))}


def _column(text: str, name: str) -> int:
    match = re.search(rf"\b{re.escape(name)}\b", text)
    return match.start() if match else 0


def _written(value: object) -> object:
    if isinstance(value, float):
        text = repr(float(value))
        return text if "." in text else text.replace("e", ".0e")  # without a point it is a text in YAML
    if isinstance(value, bool) or not isinstance(value, str | int | jinja2.Undefined):
        raise TypeError(_unspelled(type(value).__name__))
    return value


def _unspelled(what: str) -> str:
    return (
        f"{what} is no number and no text, and each program spells that differently; write {{{{ ... | tojson }}}} for "
        "JSON and YAML, or {{ '.true.' if ... else '.false.' }}."
    )

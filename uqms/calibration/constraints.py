"""Inequalities between parameters, read from text: arithmetic and a few functions, nothing else is understood."""

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, final

import numpy as np

from uqms.errors import InputError

__all__ = ["Constraint", "read_constraints"]

FUNCTIONS = ("log", "exp", "sqrt", "abs")
LONGEST = 500
_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


@final
@dataclass(frozen=True)
class Constraint:
    """One inequality, such as ``beta > gamma`` or ``0.1 < ka / ke < 10``.

    Parameters
    ----------
    text
        Comparisons (<, <=, >, >=) of expressions of + - * / ** with numbers, parameters, log, exp, sqrt and abs.

    Raises
    ------
    InputError
        When the text is anything else.

    Examples
    --------
    >>> Constraint("beta > 2 * gamma").names
    ('beta', 'gamma')
    """

    text: str
    names: tuple[str, ...] = field(init=False)
    _tree: ast.Compare = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or len(self.text) > LONGEST:
            raise InputError(f"constraints: {str(self.text)[:80]!r} is no short text such as 'beta > gamma'.")
        try:
            tree = ast.parse(self.text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InputError(
                f"constraints: {self.text!r} cannot be read ({error}); write it as 'beta > gamma'."
            ) from None
        if not isinstance(tree, ast.Compare) or any(type(op) not in _COMPARISONS for op in tree.ops):
            raise InputError(f"constraints: {self.text!r} is no comparison by <, <=, > or >=; write 'beta > gamma'.")
        found: dict[str, None] = {}
        for side in (tree.left, *tree.comparators):
            self._check(side, found)
        if not found:
            raise InputError(f"constraints: {self.text!r} names no parameter.")
        object.__setattr__(self, "names", tuple(found))
        object.__setattr__(self, "_tree", tree)

    def _check(self, node: ast.expr, found: dict[str, None]) -> None:
        if isinstance(node, ast.Name):
            found[node.id] = None
        elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            self._check(node.left, found)
            self._check(node.right, found)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            self._check(node.operand, found)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
            if len(node.args) != 1 or node.keywords:
                raise InputError(f"constraints: in {self.text!r}, {node.func.id} takes one argument.")
            self._check(node.args[0], found)
        elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float)):
            raise InputError(
                f"constraints: {ast.unparse(node)!r} in {self.text!r} is not understood; use numbers, parameters, "
                f"+ - * / ** and {', '.join(FUNCTIONS)}."
            )

    def allows(self, values: Mapping[str, Any], xp: Any = np) -> Any:
        """Return whether values fulfil it (NaN does not); `xp` is numpy, or pytensor.tensor for expressions."""
        with np.errstate(all="ignore"):
            sides = [self._value(side, values, xp) for side in (self._tree.left, *self._tree.comparators)]
            pairs = zip(self._tree.ops, sides[:-1], sides[1:], strict=True)
            out = None
            for op, left, right in pairs:
                one = _COMPARISONS[type(op)](left, right)
                out = one if out is None else out & one
        return out

    def _value(self, node: ast.expr, values: Mapping[str, Any], xp: Any) -> Any:
        if isinstance(node, ast.Name):
            return values[node.id]
        if isinstance(node, ast.BinOp):
            return _ARITHMETIC[type(node.op)](self._value(node.left, values, xp), self._value(node.right, values, xp))
        if isinstance(node, ast.UnaryOp):
            value = self._value(node.operand, values, xp)
            return -value if isinstance(node.op, ast.USub) else value
        if isinstance(node, ast.Call):
            functions = {"log": xp.log, "exp": xp.exp, "sqrt": xp.sqrt, "abs": xp.abs}
            return functions[ast.unparse(node.func)](self._value(node.args[0], values, xp))
        assert isinstance(node, ast.Constant)
        value = cast(float, node.value)
        return np.float64(value) if xp is np else xp.as_tensor(value, dtype="float64")


def read_constraints(given: str | Sequence[str] | None, names: Sequence[str]) -> tuple[Constraint, ...]:
    """Return the constraints; each may mention `names` only.

    Raises
    ------
    InputError
        When one cannot be read or mentions something else.
    """
    if given is None:
        return ()
    if not isinstance(given, str | Sequence):
        raise InputError(f"constraints is {given!r}; give texts such as ['beta > gamma'].")
    out = tuple(Constraint(text) for text in ((given,) if isinstance(given, str) else given))
    for one in out:
        unknown = [name for name in one.names if name not in names]
        if unknown:
            raise InputError(f"constraints: {one.text!r} mentions {unknown}; the calibration has {list(names)}.")
    return out

"""Inequalities between parameters, read from text: arithmetic and a few functions, nothing else is understood."""

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast, final

import numpy as np

from uqms._typing import Array, ScaleName
from uqms.errors import InputError
from uqms.parameters.functions import NumPyFunctions
from uqms.parameters.scale import SCALES

__all__ = ["Bounds", "Constraint", "Expression", "evaluate", "read_constraints", "solved"]

FUNCTIONS = ("log", "exp", "sqrt", "abs")
LONGEST = 500
POINTS = 2000
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


def _parsed(text: object, what: str, example: str) -> ast.expr:
    """Return the syntax tree of a short text."""
    if not isinstance(text, str) or len(text) > LONGEST:
        raise InputError(f"{what}: {str(text)[:80]!r} is no short text such as {example!r}.")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{what}: {text!r} cannot be read ({error}); write it as {example!r}.") from None


def _check(node: ast.expr, found: dict[str, None], text: str, what: str, things: str) -> None:
    """Refuse what is no arithmetic; collect the names."""
    if isinstance(node, ast.Name):
        found[node.id] = None
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        _check(node.left, found, text, what, things)
        _check(node.right, found, text, what, things)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        _check(node.operand, found, text, what, things)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        if len(node.args) != 1 or node.keywords:
            raise InputError(f"{what}: in {text!r}, {node.func.id} takes one argument.")
        _check(node.args[0], found, text, what, things)
    elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float)):
        raise InputError(
            f"{what}: {ast.unparse(node)!r} in {text!r} is not understood; use numbers, {things}, "
            f"+ - * / ** and {', '.join(FUNCTIONS)}."
        )


@final
@dataclass(frozen=True)
class Expression:
    """An arithmetic expression of named columns, such as ``log(weight / 70)``.

    Parameters
    ----------
    text
        + - * / ** of numbers and columns, log, exp, sqrt and abs.
    what
        Whose it is, for messages.

    Raises
    ------
    InputError
        When the text is anything else.
    """

    text: str
    what: str
    names: tuple[str, ...] = field(init=False)
    _tree: ast.expr = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tree, found = _parsed(self.text, self.what, "log(weight / 70)"), dict[str, None]()
        _check(tree, found, self.text, self.what, "columns")
        if not found:
            raise InputError(f"{self.what}: {self.text!r} names no column.")
        object.__setattr__(self, "names", tuple(found))
        object.__setattr__(self, "_tree", tree)

    def value(self, columns: Mapping[str, Array]) -> Array:
        """Return its value for columns of one length."""
        return np.asarray(evaluate(self._tree, columns), dtype=np.float64)


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
        tree = _parsed(self.text, "constraints", "beta > gamma")
        if not isinstance(tree, ast.Compare) or any(type(op) not in _COMPARISONS for op in tree.ops):
            raise InputError(f"constraints: {self.text!r} is no comparison by <, <=, > or >=; write 'beta > gamma'.")
        found: dict[str, None] = {}
        for side in (tree.left, *tree.comparators):
            _check(side, found, self.text, "constraints", "parameters")
        if not found:
            raise InputError(f"constraints: {self.text!r} names no parameter.")
        object.__setattr__(self, "names", tuple(found))
        object.__setattr__(self, "_tree", tree)

    @property
    def pairs(self) -> list[tuple[ast.expr, ast.expr]]:
        """Its comparisons, the side that is to be the smaller one first."""
        sides = [self._tree.left, *self._tree.comparators]
        up = [isinstance(op, ast.Lt | ast.LtE) for op in self._tree.ops]
        return [(a, b) if less else (b, a) for less, a, b in zip(up, sides[:-1], sides[1:], strict=True)]

    def allows(self, values: Mapping[str, Any], xp: Any = NumPyFunctions) -> Any:
        """Return whether values fulfil it (NaN does not); with the functions of `xp`."""
        with np.errstate(all="ignore"):
            sides = [evaluate(side, values, xp) for side in (self._tree.left, *self._tree.comparators)]
            pairs = zip(self._tree.ops, sides[:-1], sides[1:], strict=True)
            out = None
            for op, left, right in pairs:
                one = _COMPARISONS[type(op)](left, right)
                out = one if out is None else out & one
        return out


def evaluate(node: ast.expr, values: Mapping[str, Any], xp: Any = NumPyFunctions) -> Any:
    """Return the value of an expression; with the functions of `xp`."""
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.BinOp):
        return _ARITHMETIC[type(node.op)](evaluate(node.left, values, xp), evaluate(node.right, values, xp))
    if isinstance(node, ast.UnaryOp):
        value = evaluate(node.operand, values, xp)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Call):
        functions = {"log": xp.log, "exp": xp.exp, "sqrt": xp.sqrt, "abs": xp.abs}
        return functions[ast.unparse(node.func)](evaluate(node.args[0], values, xp))
    assert isinstance(node, ast.Constant)
    value = cast(float, node.value)
    return xp.asarray(value)


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


# --- solved for one parameter after the other -------------------------------------------------------------------------

type _Range = tuple[float, float]


class Bounds(NamedTuple):
    """What a parameter has to lie between, given those before it: expressions, beside its own limits."""

    lower: tuple[ast.expr, ...]
    upper: tuple[ast.expr, ...]

    @property
    def names(self) -> set[str]:
        """Parameters that the bounds depend on, and functions."""
        return {node.id for side in (*self.lower, *self.upper) for node in ast.walk(side) if isinstance(node, ast.Name)}


def solved(
    constraints: Sequence[Constraint], limits: Mapping[str, _Range], scales: Mapping[str, ScaleName]
) -> dict[str, Bounds]:
    """Return the bounds of parameters given those before them, which together say what the constraints say.

    The last parameter is solved for first; where its bounds leave it nothing, those before it must not be, so that a
    chain of parameters within their bounds never breaks a constraint (Fourier and Motzkin's elimination). What cannot
    be solved for sets no bounds.

    Parameters
    ----------
    constraints
        With one occurrence of a parameter that is to be solved for, in sums, products and quotients of known sign,
        powers, exp, log and sqrt.
    limits
        Of all parameters in their order, and of fixed ones, whose two ends are equal.
    scales
        Of all parameters that are no fixed ones: identity, log or logit.
    """
    open_pairs = [pair for one in constraints for pair in one.pairs]
    out: dict[str, Bounds] = {}
    for name in reversed(list(scales)):
        own = [pair for pair in open_pairs if _count(pair[0], name) + _count(pair[1], name)]
        low, high = limits[name]
        # An end of the scale itself is infinite on the real line: bounds must stay away from it.
        least, most = SCALES[scales[name]].domain
        lower: list[ast.expr] = []
        upper: list[ast.expr] = []
        for small, large in own:
            less = _count(small, name) == 1
            one_side = _count(small, name) + _count(large, name) == 1
            sides = (small, large) if less else (large, small)
            found = _isolated(*sides, less, name, limits) if one_side else None
            if found is None:
                continue
            first, last = _range(found[0], limits)
            if found[1] and first < high and (high < most or last < most or most == np.inf):
                upper.append(found[0])
            if not found[1] and last > low and (low > least or first > least or least == -np.inf):
                lower.append(found[0])
        left: list[tuple[ast.expr, ast.expr]] = [(one, ast.Constant(high)) for one in lower if high < np.inf]
        left += [(ast.Constant(low), one) for one in upper if low > -np.inf]
        left += [(one, other) for one in lower for other in upper]
        # The density knows the constraints themselves: one that is left out by mistake costs rejections, nothing else.
        left = [pair for pair in left if not _always(*pair, limits)]
        open_pairs = [pair for pair in open_pairs if pair not in own] + left
        if lower or upper:
            out[name] = Bounds(tuple(lower), tuple(upper))
    return out


def _always(small: ast.expr, large: ast.expr, limits: Mapping[str, _Range]) -> bool:
    """Whether small < large at all of many points within the limits."""
    rng = np.random.default_rng(0)
    values: dict[str, Array] = {}
    for name, (low, high) in limits.items():
        far = 10.0 ** rng.uniform(-6.0, 6.0, POINTS)
        if np.isfinite(low) and np.isfinite(high):
            values[name] = rng.uniform(low, high, POINTS)
        elif np.isfinite(low) or np.isfinite(high):
            values[name] = low + far if np.isfinite(low) else high - far
        else:
            values[name] = rng.choice([-1.0, 1.0], POINTS) * far
    with np.errstate(all="ignore"):
        return bool(np.all(evaluate(small, values) < evaluate(large, values)))


def _count(node: ast.expr, name: str) -> int:
    return sum(isinstance(one, ast.Name) and one.id == name for one in ast.walk(node))


def _isolated(
    side: ast.expr, other: ast.expr, less: bool, name: str, limits: Mapping[str, _Range]
) -> tuple[ast.expr, bool] | None:
    """Return an expression and whether it is an upper bound of `name`, which stands in `side`, once; None when unknown.

    `less`: side < other, else side > other.
    """
    while not isinstance(side, ast.Name):
        if isinstance(side, ast.UnaryOp):
            if isinstance(side.op, ast.USub):
                other, less = ast.UnaryOp(ast.USub(), other), not less
            side = side.operand
            continue
        if isinstance(side, ast.Call):
            function, low = ast.unparse(side.func), _range(other, limits)[0]
            if function == "log":
                other = ast.Call(ast.Name("exp"), [other], [])
            elif function == "exp" and low > 0.0:
                other = ast.Call(ast.Name("log"), [other], [])
            elif function == "sqrt" and low >= 0.0:
                other = ast.BinOp(other, ast.Pow(), ast.Constant(2.0))
            else:
                return None
            side = side.args[0]
            continue
        if not isinstance(side, ast.BinOp):
            return None
        left = _count(side.left, name) == 1
        inner, known = (side.left, side.right) if left else (side.right, side.left)
        low, high = _range(known, limits)
        positive, negative = low > 0.0, high < 0.0
        if isinstance(side.op, ast.Pow):
            if not (left and low == high and positive and _range(inner, limits)[0] >= 0.0 <= _range(other, limits)[0]):
                return None
            other = ast.BinOp(other, ast.Pow(), ast.Constant(1.0 / low))
        elif isinstance(side.op, ast.Add):
            other = ast.BinOp(other, ast.Sub(), known)
        elif isinstance(side.op, ast.Sub) and left:
            other = ast.BinOp(other, ast.Add(), known)
        elif isinstance(side.op, ast.Sub):
            other, less = ast.BinOp(known, ast.Sub(), other), not less
        elif isinstance(side.op, ast.Mult | ast.Div) and left and (positive or negative):
            inverse = ast.Div() if isinstance(side.op, ast.Mult) else ast.Mult()
            other, less = ast.BinOp(other, inverse, known), less == positive
        elif isinstance(side.op, ast.Mult) and (positive or negative):
            other, less = ast.BinOp(other, ast.Div(), known), less == positive
        elif (  # known / inner < other, all positive
            isinstance(side.op, ast.Div) and positive and _range(inner, limits)[0] >= 0.0 < _range(other, limits)[0]
        ):
            other, less = ast.BinOp(known, ast.Div(), other), not less
        else:
            return None
        side = inner
    return other, less


def _range(node: ast.expr, limits: Mapping[str, _Range]) -> _Range:
    """Return an interval that holds all values of an expression."""
    with np.errstate(all="ignore"):
        found = _interval(node, limits)
    return found if not np.isnan(found).any() else (-np.inf, np.inf)


def _interval(node: ast.expr, limits: Mapping[str, _Range]) -> _Range:
    if isinstance(node, ast.Name):
        return limits[node.id]
    if isinstance(node, ast.Constant):
        value = float(cast(float, node.value))
        return value, value
    if isinstance(node, ast.UnaryOp):
        low, high = _range(node.operand, limits)
        return (-high, -low) if isinstance(node.op, ast.USub) else (low, high)
    if isinstance(node, ast.Call):
        low, high = _range(node.args[0], limits)
        function = ast.unparse(node.func)
        if function == "abs":
            return (0.0 if low <= 0.0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))
        apply = {"log": np.log, "exp": np.exp, "sqrt": np.sqrt}[function]
        return float(apply(low)), float(apply(high))
    assert isinstance(node, ast.BinOp)
    one, two = _range(node.left, limits), _range(node.right, limits)
    if isinstance(node.op, ast.Add):
        return one[0] + two[0], one[1] + two[1]
    if isinstance(node.op, ast.Sub):
        return one[0] - two[1], one[1] - two[0]
    if isinstance(node.op, ast.Pow) and (one[0] < 0.0 or two[0] != two[1]):
        return -np.inf, np.inf
    if isinstance(node.op, ast.Div) and two[0] <= 0.0 <= two[1]:
        if not two[0] == 0.0 < two[1]:
            return -np.inf, np.inf
        return (0.0 if one[0] >= 0.0 else -np.inf), (0.0 if one[1] <= 0.0 else np.inf)
    ends = [_corner(node.op, a, b) for a in one for b in two]
    return min(ends), max(ends)


def _corner(op: ast.operator, a: float, b: float) -> float:
    """Return a power, product or quotient of ends: zero times infinity is zero, that of values next to it."""
    if isinstance(op, ast.Pow):
        return float(np.float64(a) ** b)
    if isinstance(op, ast.Mult):
        return 0.0 if a == 0.0 or b == 0.0 else a * b
    return 0.0 if a == 0.0 or np.isinf(b) else a / b

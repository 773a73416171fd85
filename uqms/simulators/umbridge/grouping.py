"""Names on one side, vectors without names on the other: how inputs and outputs are laid into a model's vectors."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

from uqms.errors import InputError

__all__ = ["checked_inputs", "grouped", "spans"]

Groups = tuple[tuple[str, ...], ...]


def grouped(inputs: object) -> Groups:
    """Return the names by input vector, from names (one vector) or lists of names.

    Raises
    ------
    InputError
        When there is none, one stands twice, or names and lists are mixed.
    """
    if isinstance(inputs, str) or not isinstance(inputs, Sequence) or not inputs:
        raise InputError(f"inputs is {inputs!r}; give the names of the entries, such as ['a', 'b'] or [['a'], ['b']].")
    flat = all(isinstance(item, str) for item in inputs)
    groups = [tuple(inputs)] if flat else [() if isinstance(item, str) else tuple(item) for item in inputs]
    names = [name for group in groups for name in group]
    if not all(groups) or not all(isinstance(name, str) and name.strip() for name in names):
        raise InputError(f"inputs is {inputs!r}; give names alone (one vector), or a list of names for each vector.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"inputs names {twice!r} twice; each entry has its own name.")
    return tuple(groups)


def checked_inputs(inputs: object, vectors: object, seed: str | None) -> tuple[tuple[str, ...], Groups]:
    """Return the inputs without the seed, and the names by vector.

    Raises
    ------
    InputError
        When they cannot be meant, or `vectors` says something else than `inputs`.
    """
    groups = grouped(inputs if vectors is None else vectors)
    names = tuple(name for group in groups for name in group if name != seed)
    if not names:
        raise InputError("inputs names only the seed; a simulator needs an input besides.")
    if vectors is not None and {name for group in grouped(inputs) for name in group} - {seed} != set(names):
        raise InputError(f"inputs is {inputs!r}, but vectors is {vectors!r}; leave out vectors.")
    return names, groups


def spans(shapes: Mapping[str, tuple[int, ...]], sizes: Sequence[int]) -> None:
    """Check that outputs of these shapes, one after the other, fit output vectors of these sizes.

    An output lies in one vector, or consists of whole vectors. An output that ends in the middle of a vector after it
    has begun in another one shows that the order or a size is not what was meant.

    Raises
    ------
    ValueError
        Says what does not fit.
    """
    lengths = {name: math.prod(shape) for name, shape in shapes.items()}
    declared = ", ".join(f"{name} {length}" for name, length in lengths.items())
    if sum(lengths.values()) != sum(sizes):
        raise ValueError(f"the declared outputs have {sum(lengths.values())} entries ({declared}), not {sum(sizes)}")
    ends = list(accumulate(sizes, initial=0))
    begin = 0
    for name, length in lengths.items():
        end = begin + length
        inside = any(low <= begin and end <= high for low, high in zip(ends[:-1], ends[1:], strict=True))
        if not inside and not (begin in ends and end in ends):
            raise ValueError(
                f"output {name!r} would take entries {begin} to {end - 1}, a part of one vector and of the next "
                f"({declared}); give the outputs in the order of the vectors"
            )
        begin = end

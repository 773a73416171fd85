"""Rows of points whose offset, basis and truncation depend on the surrogate's input, as an `InputDecoder` has them.

==========  =====================================================================================  ==========
symbol      meaning                                                                                shape
==========  =====================================================================================  ==========
T, K        points; different inputs                                                               ()
index       input of each point                                                                    (T,)
group       inputs whose points are at the same coordinates of an output: decoded in one call      (inputs,)
==========  =====================================================================================  ==========
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np

from uqms._typing import Array, Ints
from uqms.surrogates.outputs import Decoder, InputDecoder
from uqms.surrogates.protocol import Surrogate, depends_on_input

__all__ = ["RowsByInput", "placeholder", "rows_by_input"]


class _Group(NamedTuple):
    decoder: InputDecoder | Decoder  # of m rows
    draws: int  # of hyperparameters that have rows of their own; 1: all have the same
    inputs: Ints  # (n,)
    points: Ints  # (n, m)


@final
@dataclass(frozen=True, eq=False)
class RowsByInput:
    """Offset, basis and truncation of T points as functions of the K inputs that they belong to."""

    groups: tuple[_Group, ...]
    points: int
    scores: int
    latents: int

    def at(self, u: Array) -> Decoder:
        """Return the rows (H or 1, S, T, ...) of every point at inputs u (S, K, d)."""
        found = [(one, self._of(one, u)) for one in self.groups]
        draws = max((len(rows.offset) for _, rows in found), default=1)
        lead = (draws, len(u), self.points)
        out = Decoder(np.zeros(lead), np.zeros((*lead, self.scores)), np.zeros((*lead, self.latents)))
        for one, rows in found:
            for whole, part in zip(out, rows, strict=True):
                whole[:, :, one.points] = part
        return out

    def reverse(self, u: Array, bar: Decoder) -> Array:
        """Return the derivative (K, d) of sum(rows * bar) at inputs u (K, d), for bar (H, T, ...)."""
        out = np.zeros_like(u)
        for decoder, draws, inputs, points in self.groups:
            if isinstance(decoder, InputDecoder):
                parts = [one[:, points] if draws > 1 else one[:, points].sum(axis=0, keepdims=True) for one in bar]
                np.add.at(out, inputs, decoder.reverse(u[inputs], Decoder(*parts)))
        return out

    def _of(self, one: _Group, u: Array) -> Decoder:
        """Return rows (H, S, n, m, ...) of the points of a group."""
        if isinstance(one.decoder, InputDecoder):
            return one.decoder.at(u[:, one.inputs])
        return Decoder(*(np.asarray(part)[None, None, None] for part in one.decoder))


def rows_by_input(
    surrogate: Surrogate, output: np.ndarray, coords: Mapping[str, Array], index: Ints
) -> RowsByInput | None:
    """Return the rows of points (T,) of outputs at coordinates and inputs; None when no row depends on the input.

    Inputs with the same coordinates of an output are decoded in one call.
    """
    if not any(depends_on_input(surrogate, name) for name in np.unique(output) if name in surrogate.layouts):
        return None
    groups: dict[tuple[str, bytes], tuple[dict[str, Array] | None, list[int], list[Ints]]] = {}
    for k in np.unique(index):
        here = np.flatnonzero(index == k)
        for name in dict.fromkeys(str(one) for one in output[here]):
            points = here[output[here] == name]
            dims = surrogate.layouts[name].dims
            if dims:
                points = points[np.lexsort([coords[dim][points] for dim in dims])]
            at = {dim: coords[dim][points] for dim in dims}
            for point in [points] if dims else points[:, None]:  # a number at one input has one row
                key = name, b"".join(column.tobytes() for column in at.values())
                _, inputs, several = groups.setdefault(key, (at if dims else None, [], []))
                inputs.append(int(k))
                several.append(point)
    found = []
    for (name, _), (where, inputs, several) in groups.items():
        decoder = surrogate.decode(name, where)
        found.append((decoder, _sizes(decoder, surrogate.domain.d), np.array(inputs), np.array(several)))
    _, _, scores, latents = found[0][1]
    members = tuple(_Group(decoder, sizes[0], inputs, points) for decoder, sizes, inputs, points in found)
    return RowsByInput(members, len(index), scores, latents)


def placeholder(decoder: InputDecoder, d: int) -> Decoder:
    """Return rows (N,), (N, q), (N, t) of NaN: nothing that takes rows as fixed may compute with them."""
    _, n, q, t = _sizes(decoder, d)
    return Decoder(np.full(n, np.nan), np.full((n, q), np.nan), np.full((n, t), np.nan))


def _sizes(decoder: InputDecoder | Decoder, d: int) -> tuple[int, int, int, int]:
    """Return numbers of hyperparameter draws with their own rows, of rows, scores and latents."""
    offset, basis, truncation = decoder.at(np.full((1, d), 0.5)) if isinstance(decoder, InputDecoder) else decoder
    draws = len(offset) if isinstance(decoder, InputDecoder) else 1
    return draws, offset.shape[-1], basis.shape[-1], truncation.shape[-1]

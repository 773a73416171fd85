"""Right surrogates made wrong: each bug is a mistake that is easily made, and names the check that has to find it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import ArrayLike

from uqms._typing import Array, RandomState, as_generator
from uqms.parameters import Box
from uqms.surrogates import Decoder, FunctionDraws, InputDecoder, Layout, Scores, Surrogate

__all__ = ["PLANTED_BUGS", "PlantedBug"]


class PlantedBug(NamedTuple):
    """A mistake planted in a correct surrogate; `uqms.testing.PLANTED_BUGS` holds those on which the checks are tested.

    Attributes
    ----------
    name
        The mistake.
    caught_by
        Name of the check of `check_surrogate` that fails.
    plant
        From a right surrogate to a wrong one.
    """

    name: str
    caught_by: str
    plant: Callable[[Surrogate], Surrogate]


def _same_scores(scores: Callable[[Array], Scores], u: Array) -> Scores:
    return scores(u)


def _same_draws(surrogate: Surrogate, n: int, rng: RandomState) -> FunctionDraws:
    return surrogate.functions(n, rng)


def _same_reverse(surrogate: Surrogate, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
    return surrogate.scores_reverse(u, mean_bar, covariance_bar)


def _same_decode(surrogate: Surrogate, output: str, coords: Mapping[str, ArrayLike] | None) -> Decoder | InputDecoder:
    return surrogate.decode(output, coords)


@final
@dataclass(frozen=True, eq=False)
class _Wrong:
    """A surrogate behind functions that change what it returns."""

    inner: Surrogate
    change_scores: Callable[[Callable[[Array], Scores], Array], Scores] = _same_scores
    change_reverse: Callable[[Surrogate, Array, Array, Array], Array] = _same_reverse
    change_decode: Callable[[Surrogate, str, Mapping[str, ArrayLike] | None], Decoder | InputDecoder] = _same_decode
    change_draws: Callable[[Surrogate, int, RandomState], FunctionDraws] = _same_draws

    @property
    def domain(self) -> Box:
        return self.inner.domain

    @property
    def layouts(self) -> Mapping[str, Layout]:
        return self.inner.layouts

    @property
    def attrs(self) -> Mapping[str, str]:
        return getattr(self.inner, "attrs", {})

    def scores(self, u: Array) -> Scores:
        return self.change_scores(self.inner.scores, u)

    def scores_reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        return self.change_reverse(self.inner, u, mean_bar, covariance_bar)

    def decode(self, output: str, coords: Mapping[str, ArrayLike] | None = None) -> Decoder | InputDecoder:
        return self.change_decode(self.inner, output, coords)

    def functions(self, n: int, rng: RandomState) -> FunctionDraws:
        return self.change_draws(self.inner, n, rng)


def _covariance(change: Callable[[Array], Array]) -> Callable[[Surrogate], Surrogate]:
    """Return what plants a change of the covariances (H, ..., q, k, k)."""
    return lambda surrogate: with_covariance(surrogate, change)


def with_covariance(surrogate: Surrogate, change: Callable[[Array], Array]) -> Surrogate:
    """Return the surrogate with its covariances (H, ..., q, k, k) changed."""

    def scores(right: Callable[[Array], Scores], u: Array) -> Scores:
        found = right(u)
        return found._replace(covariance=change(found.covariance))

    return _Wrong(surrogate, change_scores=scores)


def _sds(covariance: Array) -> Array:
    return np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))


def _outer(values: Array) -> Array:
    return np.asarray(values[..., :, None] * values[..., None, :])


def _independent(covariance: Array) -> Array:
    return covariance * np.eye(covariance.shape[-1])


def _unknown(covariance: Array) -> Array:
    return np.where(np.eye(covariance.shape[-1], dtype=bool), covariance, np.nan)


def _sd_for_variance(covariance: Array) -> Array:
    return covariance / np.sqrt(np.maximum(_outer(_sds(covariance)), 1e-300))


def _one_error(covariance: Array) -> Array:
    return _outer(_sds(covariance))


def _with_noise(covariance: Array) -> Array:
    return covariance + np.eye(covariance.shape[-1]) * covariance.max(axis=(-2, -1), keepdims=True)


def _opposed(covariance: Array) -> Array:
    return 2.0 * _independent(covariance) - np.abs(covariance)


def _lower_half(covariance: Array) -> Array:
    return np.tril(covariance)


def _single(right: Callable[[Array], Scores], u: Array) -> Scores:
    found = right(u)
    return found._replace(mean=np.asarray(found.mean, dtype=np.float32))


def _half_of_the_mixture(right: Callable[[Array], Scores], u: Array) -> Scores:
    found = right(u)
    half = (len(found.log_weights) + 1) // 2
    return Scores(found.mean[:half], found.covariance[:half], found.log_weights[:half] - np.log(2.0) * (half == 1))


def _in_place(right: Callable[[Array], Scores], u: Array) -> Scores:
    u *= 0.5
    return right(2.0 * u)


def _first_of_batch(right: Callable[[Array], Scores], u: Array) -> Scores:
    found = right(u)
    if u.ndim < 3:
        return found
    first = found.covariance[:, :1]
    return found._replace(covariance=np.ascontiguousarray(np.broadcast_to(first, found.covariance.shape)))


def _sorted_inputs(right: Callable[[Array], Scores], u: Array) -> Scores:
    return right(np.sort(u, axis=-2))


def _relative_to_first(right: Callable[[Array], Scores], u: Array) -> Scores:
    """Scale the variances by those of all inputs of the call, as a normalisation inside of `scores` would."""
    found = right(u)
    k = u.shape[-2]
    return found._replace(covariance=found.covariance * (1.0 + 0.1 * (k - 1)))


def _against(surrogate: Surrogate, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
    return -surrogate.scores_reverse(u, mean_bar, covariance_bar)


def _mean_only(surrogate: Surrogate, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
    return surrogate.scores_reverse(u, mean_bar, np.zeros_like(covariance_bar))


def _rows_only(surrogate: Surrogate, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
    """Forget that an input moves its row *and* its column of a covariance."""
    diagonal = covariance_bar * np.eye(len(u))
    return surrogate.scores_reverse(u, mean_bar, diagonal + 0.5 * (covariance_bar - diagonal))


def _fixed(surrogate: Surrogate, output: str, coords: Mapping[str, ArrayLike] | None) -> Decoder:
    """Return the rows of a surrogate whose rows do not depend on the input."""
    found = surrogate.decode(output, coords)
    assert isinstance(found, Decoder)
    return found


def _one_column_less(surrogate: Surrogate, output: str, coords: Mapping[str, ArrayLike] | None) -> Decoder:
    found = _fixed(surrogate, output, coords)
    return found._replace(basis=found.basis[:, :-1])


def _reversed_rows(surrogate: Surrogate, output: str, coords: Mapping[str, ArrayLike] | None) -> Decoder:
    found = _fixed(surrogate, output, coords)
    return found if coords is None else Decoder(*(part[::-1] for part in found))


def _first_output(surrogate: Surrogate, output: str, coords: Mapping[str, ArrayLike] | None) -> Decoder:
    known = output if output in surrogate.layouts else next(iter(surrogate.layouts))
    return _fixed(surrogate, known, coords)


def _draws_last(surrogate: Surrogate, n: int, rng: RandomState) -> FunctionDraws:
    right = surrogate.functions(n, rng)
    return lambda u: np.moveaxis(right(u), 0, -1)


def _rough_draws(surrogate: Surrogate, n: int, rng: RandomState) -> FunctionDraws:
    """Spread copies of an input apart, as a large jitter does."""
    right = surrogate.functions(n, rng)
    return lambda u: right(u + 0.3 * np.linspace(0.0, 1.0, len(u))[:, None] * (0.5 - u))


def _independent_draws(surrogate: Surrogate, n: int, rng: RandomState) -> FunctionDraws:
    seed = int(as_generator(rng).integers(2**31))

    def draws(u: Array) -> Array:
        return np.concatenate([surrogate.functions(n, seed + i)(u[i : i + 1]) for i in range(len(u))], axis=1)

    return draws


def _new_draws(surrogate: Surrogate, n: int, rng: RandomState) -> FunctionDraws:
    generator = as_generator(rng)
    return lambda u: surrogate.functions(n, generator)(u)


def _own_seed(surrogate: Surrogate, n: int, rng: RandomState) -> FunctionDraws:
    return surrogate.functions(n, np.random.default_rng())


def _wider_draws(surrogate: Surrogate, n: int, rng: RandomState) -> FunctionDraws:
    right = surrogate.functions(n, rng)

    def draws(u: Array) -> Array:
        scores = surrogate.scores(u)
        mean = np.tensordot(np.exp(scores.log_weights), scores.mean, 1)
        return np.asarray(mean + 1.1 * (right(u) - mean))

    return draws


def _shifted_draws(surrogate: Surrogate, n: int, rng: RandomState) -> FunctionDraws:
    right = surrogate.functions(n, rng)
    return lambda u: right(u) + 0.2 * _sds(surrogate.scores(u).covariance[0]).T


def _shared_by_scores(surrogate: Surrogate, n: int, rng: RandomState) -> FunctionDraws:
    """Give all scores the error of the first, in units of their sds."""
    right = surrogate.functions(n, rng)

    def draws(u: Array) -> Array:
        scores = surrogate.scores(u)
        mean = np.tensordot(np.exp(scores.log_weights), scores.mean, 1)
        sds = _sds(scores.by_score[0]).T
        return np.asarray(mean + (right(u) - mean)[..., :1] / np.maximum(sds[:, :1], 1e-300) * sds)

    return draws


def _silent_draws(surrogate: Surrogate, n: int, rng: RandomState) -> FunctionDraws:
    """Return draws that do not say which hyperparameters they have."""
    right = surrogate.functions(n, rng)
    return lambda u: right(u)


@final
@dataclass(frozen=True, eq=False)
class _Moving:
    """Rows that grow along the first input, with a mistake."""

    rows: Decoder
    draws: int = 1
    batch: bool = True
    slope: float = 1.0

    def at(self, u: Array) -> Decoder:
        first = u[..., 0] if self.batch else np.broadcast_to(u.reshape(-1, u.shape[-1])[0, 0], u.shape[:-1])
        by_draw = 1.0 + 0.1 * np.arange(self.draws)
        scale = by_draw.reshape(-1, *np.ones(first.ndim, dtype=int)) * (1.0 + first)
        return Decoder(
            scale[..., None] * self.rows.offset,
            scale[..., None, None] * self.rows.basis,
            scale[..., None, None] * self.rows.truncation,
        )

    def reverse(self, u: Array, bar: Decoder) -> Array:
        by_draw = 1.0 + 0.1 * np.arange(self.draws)
        out = np.zeros_like(u)
        for part, one in zip(self.rows, bar, strict=True):
            out[:, 0] += self.slope * by_draw @ (one * part).reshape(len(one), len(u), -1).sum(axis=-1)
        return out


def _moving(**mistake: Any) -> Callable[[Surrogate], Surrogate]:
    """Return what plants rows that depend on the input, with a mistake; "draws" gives each hyperparameter draw rows."""

    def plant(surrogate: Surrogate) -> Surrogate:
        several = mistake.get("draws", False)
        draws = len(surrogate.scores(np.full((1, surrogate.domain.d), 0.5)).log_weights) if several else 1

        def decode(right: Surrogate, output: str, coords: Mapping[str, ArrayLike] | None) -> Any:
            return _Moving(Decoder(*_fixed(right, output, coords)), **{**mistake, "draws": draws})

        return _Wrong(surrogate, change_decode=decode, change_draws=_silent_draws)

    return plant


PLANTED_BUGS = (
    PlantedBug("single precision", "shapes", lambda s: _Wrong(s, change_scores=_single)),
    PlantedBug("truncated mixture", "weights", lambda s: _Wrong(s, change_scores=_half_of_the_mixture)),
    PlantedBug("negative variances", "variances", _covariance(lambda c: -c)),
    PlantedBug("inputs changed in place", "purity", lambda s: _Wrong(s, change_scores=_in_place)),
    PlantedBug("first covariance for a whole batch", "batch", lambda s: _Wrong(s, change_scores=_first_of_batch)),
    PlantedBug("scores of one output only", "decode", lambda s: _Wrong(s, change_decode=_one_column_less)),
    PlantedBug("rows in reversed order", "decode at coordinates", lambda s: _Wrong(s, change_decode=_reversed_rows)),
    PlantedBug("any name decodes", "decode of an unknown output", lambda s: _Wrong(s, change_decode=_first_output)),
    PlantedBug("derivative of wrong sign", "derivative of the mean", lambda s: _Wrong(s, change_reverse=_against)),
    PlantedBug(
        "variance not differentiated", "derivative of the variance", lambda s: _Wrong(s, change_reverse=_mean_only)
    ),
    PlantedBug("inputs sorted", "order of inputs", lambda s: _Wrong(s, change_scores=_sorted_inputs)),
    PlantedBug(
        "variances relative to the call", "subsets of inputs", lambda s: _Wrong(s, change_scores=_relative_to_first)
    ),
    PlantedBug("unknown covariance between inputs", "known between inputs", _covariance(_unknown)),
    PlantedBug("half of the covariance", "symmetric", _covariance(_lower_half)),
    PlantedBug("errors that oppose each other", "positive semi-definite", _covariance(_opposed)),
    PlantedBug("noise in the error", "same input", _covariance(_with_noise)),
    PlantedBug("independent errors", "near inputs", _covariance(_independent)),
    PlantedBug(
        "derivative of half of the covariance",
        "derivative at several inputs",
        lambda s: _Wrong(s, change_reverse=_rows_only),
    ),
    PlantedBug("one error for all inputs", "draws: covariance", _covariance(_one_error)),
    PlantedBug("sd in a variance's place", "draws: covariance", _covariance(_sd_for_variance)),
    PlantedBug(
        "draws of each input by itself", "draws: covariance", lambda s: _Wrong(s, change_draws=_independent_draws)
    ),
    PlantedBug("draws too wide", "draws: covariance", lambda s: _Wrong(s, change_draws=_wider_draws)),
    PlantedBug("draws along the last axis", "draws: shape", lambda s: _Wrong(s, change_draws=_draws_last)),
    PlantedBug(
        "draws elsewhere by place in the call", "draws: same input", lambda s: _Wrong(s, change_draws=_rough_draws)
    ),
    PlantedBug("draws beside the mean", "draws: mean", lambda s: _Wrong(s, change_draws=_shifted_draws)),
    PlantedBug("new draws at every call", "draws: same function", lambda s: _Wrong(s, change_draws=_new_draws)),
    PlantedBug("draws that ignore the seed", "draws: seed", lambda s: _Wrong(s, change_draws=_own_seed)),
    PlantedBug(
        "one error for all scores", "draws: covariance of scores", lambda s: _Wrong(s, change_draws=_shared_by_scores)
    ),
    PlantedBug("rows of the first input for a whole batch", "rows of a batch", _moving(batch=False)),
    PlantedBug("rows differentiated by a half", "derivative of the rows", _moving(slope=0.5)),
    PlantedBug("draws that do not say whose rows they have", "draws: hyperparameters", _moving(draws=True)),
)

"""Whether a surrogate of your own does what uqms relies on: every promise of the protocol, measured.

==========  ======================================================================  ===============
symbol      meaning                                                                 shape
==========  ======================================================================  ===============
u           probe inputs: random, then the first again, then one beside the first    (k, d)
V           variances, the diagonals of the covariances                             (H, q, k)
C           covariances of each score between inputs                               (H, q, k, k)
            or, of correlated scores, of all of them                                (H, k, q, k, q)
size²       of each score: variance of its mean over the probes, and largest V      (q,)
e           draws less the mean of the hyperparameter mixture                       (draws, k, q)
==========  ======================================================================  ===============

Covariances are differences of large numbers, so that small ones have few digits: below `JUDGED` of size² nothing is
judged by them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, final

import numpy as np
import pandas as pd

from uqms import _checks as check
from uqms._typing import Array, Bools, Ints, RandomState, as_generator
from uqms.errors import ConformanceError
from uqms.parameters import Box
from uqms.surrogates import Decoder, InputDecoder, Layout, Scores, Surrogate

__all__ = ["Check", "Conformance", "check_surrogate"]

INPUTS = 8
NEAR = 1e-5  # of the unit cube, along every input
JUDGED = 1e-5  # of size²: smaller variances are not judged
ROUNDING = 1e-6  # of size², of covariances of draws, which may have a jitter
SAME = 1e-3  # what rounding makes of small covariances
STANDARD_ERRORS = 5.0
STEPS = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
MEMBERS = ("domain", "layouts", "scores", "scores_reverse", "decode", "functions")
TINY = "not judged, since errors are tiny (sd below 0.003 of the output's spread); check a surrogate of fewer runs"
Need = Literal["one experiment", "several experiments", "every use"]


class Check(NamedTuple):
    """One promise of the protocol.

    Attributes
    ----------
    name
        What is checked.
    needed_for
        "one experiment" (a single input) or "several experiments" (errors at different inputs) for a surrogate; "every
        use" for other parts.
    ok
        Whether the promise is kept; None where it could not be judged.
    measured, limit
        It is kept when measured <= limit.
    reason
        When it is not kept or not judged: why, and what to do.
    """

    name: str
    needed_for: Need
    ok: bool | None
    measured: float
    limit: float
    reason: str

    def __str__(self) -> str:
        mark = {True: "ok    ", False: "FAILED", None: "-     "}[self.ok]
        line = f"{mark} {self.name}"
        if not np.isnan(self.measured) and not (self.ok and self.limit == 0):
            line += f": {self.measured:.2g} (required <= {self.limit:g})"
        return line + (f"\n         {self.reason}" if self.reason else "")


@final
@dataclass(frozen=True)
class Conformance:
    """What `check_surrogate`, `check_kernel`, `check_prior` or `check_noise` found.

    Attributes
    ----------
    checks
        One a promise, in order; what follows from one that is not kept is not judged.
    what
        What was checked.
    """

    checks: tuple[Check, ...]
    what: str = "surrogate"

    @property
    def ok(self) -> bool:
        """Whether every promise was seen to be kept: no check failed, and none could not be judged."""
        return all(check.ok is True for check in self.checks)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(check.name for check in self.checks if check.ok is False)

    @property
    def one_experiment(self) -> bool:
        """Whether what a calibration of one experiment (a single input) needs is right, whatever else failed."""
        return not any(check.ok is False for check in self.checks if check.needed_for == "one experiment")

    @property
    def table(self) -> pd.DataFrame:
        """One row per check: needed_for, ok, measured, limit, reason."""
        return pd.DataFrame(self.checks, columns=list(Check._fields)).set_index("name")

    def __str__(self) -> str:
        passed = sum(check.ok is True for check in self.checks)
        lines = [f"{self.what}: {passed} of {len(self.checks)} checks passed, {len(self.failed)} failed"]
        lines += [f"  {check}" for check in self.checks]
        if self.failed and self.one_experiment and self.what == "surrogate":
            lines.append("  It can be used in a calibration of one experiment, not of several: see what failed.")
        if not self.failed and not self.ok and self.what == "surrogate":
            lines.append(
                "  Some promises could not be judged: check a surrogate of fewer runs, whose errors are larger."
            )
        return "\n".join(lines)

    def raise_failed(self) -> None:
        """Do nothing when every promise is kept, for a test of your own.

        Raises
        ------
        ConformanceError
            With what failed (or, when nothing did, could not be judged), why it matters and what to do.
        """
        if not self.ok:
            what = False if self.failed else None
            lines = [f"  {check}" for check in self.checks if check.ok is what]
            verb = "are failed" if self.failed else "could not be judged"
            raise ConformanceError(
                f"{len(lines)} of {len(self.checks)} checks of the {self.what} {verb}:\n" + "\n".join(lines)
            )


def check_surrogate(surrogate: Surrogate, *, rng: RandomState = 0, draws: int = 4000) -> Conformance:
    """Check that a surrogate of your own does what calibration and prediction rely on.

    Use it in a test of your adapter, with few enough runs that errors are not tiny: what is below rounding cannot be
    judged. It finds what silently makes intervals too narrow: errors that are independent between inputs, a standard
    deviation in a variance's place, draws of another law, a wrong derivative. It does not tell whether the errors are
    as large as they should be: that is what `uqms.leave_one_out` and its like are for.

    Parameters
    ----------
    surrogate
        Anything with the members of `uqms.Surrogate`.
    rng
        Of probe inputs and draws.
    draws
        Number of function draws; their means and covariances are compared with `scores` up to 5 standard errors.

    Returns
    -------
    Conformance
        `print` it, ask it for `ok`, `failed` or `table`, or let it `raise_failed`. Errors that the surrogate raises are
        failed checks that quote them.

    Raises
    ------
    InputError
        When draws is below 500.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 6, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": np.sin(3.0 * design["k"].values)})
    >>> surrogate = uq.GaussianProcess(hyperparameters="point").fit(runs)
    >>> uq.testing.check_surrogate(surrogate).ok
    True
    """
    check.whole("check_surrogate", "draws", draws, least=500)
    probe = _Probe(surrogate, draws, int(as_generator(rng).integers(2**31)))
    done: dict[str, Check] = {}
    for one in CHECKS:
        lost = next((name for name in one.after if done[name].ok is not True), None)
        done[one.name] = (
            _unmeasured(one, None, f"not judged, since {lost!r} was not passed")
            if lost is not None
            else _judge(one, probe)
        )
    return Conformance(tuple(done.values()))


# ------------------------------------------------------------------------------------------------------------ machinery
class _Found(NamedTuple):
    """What a check measured; `why` says what is wrong when measured > limit."""

    measured: float
    limit: float
    why: str


class _Nothing(Exception):
    """There is nothing to measure: `ok` when that is right, None when it may hide a mistake."""

    def __init__(self, why: str, ok: bool | None) -> None:
        super().__init__(why)
        self.ok = ok


class _Asked(NamedTuple):
    name: str
    needed_for: Need
    after: tuple[str, ...]
    measure: Callable[["_Probe"], _Found]


def _unmeasured(one: _Asked, ok: bool | None, why: str) -> Check:
    return Check(one.name, one.needed_for, ok, np.nan, np.nan, why)


def _judge(one: _Asked, probe: "_Probe") -> Check:
    try:
        measured, limit, why = one.measure(probe)
    except _Nothing as nothing:
        return _unmeasured(one, nothing.ok, str(nothing))
    except Exception as error:  # whatever the user's code raises is a finding
        return _unmeasured(one, False, f"It raised {type(error).__name__}: {error}")
    ok = bool(measured <= limit)
    return Check(one.name, one.needed_for, ok, float(measured), float(limit), "" if ok else why)


@dataclass(frozen=True, eq=False)
class _Probe:
    """The surrogate at probe inputs; what is costly is evaluated once."""

    surrogate: Any
    draws: int
    seed: int

    @cached_property
    def d(self) -> int:
        return int(self.surrogate.domain.d)

    @cached_property
    def u(self) -> Array:
        inner = 0.05 + 0.9 * np.random.default_rng([self.seed, 0]).random((INPUTS, self.d))
        return np.vstack([inner, inner[:1], beside(inner[:1])])

    def scores(self, u: Array) -> Scores:
        """Return the scores at a copy of `u`: what happens to the input is the check of purity's."""
        return Scores(*self.surrogate.scores(np.array(u)))

    @cached_property
    def at_u(self) -> Scores:
        return self.scores(self.u)

    @cached_property
    def size2(self) -> Array:
        """Shape (q,)."""
        spread = self.at_u.mean.var(axis=1).max(axis=0) + diagonals(self.at_u.by_score).max(axis=(0, 2))
        return np.where(spread > 0.0, spread, 1.0)

    @cached_property
    def largest(self) -> Array:
        """Largest variance (H, q, 1) of each score, without what is rounding."""
        return np.maximum(diagonals(self.at_u.by_score).max(axis=2), JUDGED * self.size2)[..., None]

    @cached_property
    def scale(self) -> Array:
        """What covariances (H, ...) at k inputs are judged by: `largest`, of two scores their geometric mean."""
        if not self.at_u.correlated:
            return self.largest[..., None]
        root = np.sqrt(self.largest[..., 0])
        return np.asarray(root[:, None, :, None, None] * root[:, None, None, None, :])

    @cached_property
    def judged(self) -> Bools:
        """Whether scores (H, q) have errors above rounding."""
        return np.asarray(self.largest[..., 0] > JUDGED * self.size2)

    @cached_property
    def mixture(self) -> tuple[Array, Array]:
        """Mean (k, q) and covariance (q, k, k) of the mixture of hyperparameter draws."""
        w, mean, covariance = np.exp(self.at_u.log_weights), self.at_u.mean, self.at_u.by_score
        centre = np.einsum("h,hkq->kq", w, mean)
        shift = mean - centre
        return centre, np.einsum("h,hqkl->qkl", w, covariance) + np.einsum("h,hkq,hlq->qkl", w, shift, shift)

    @cached_property
    def joint_mixture(self) -> Array:
        """Covariance (k, q, k, q) of the mixture, between scores too."""
        w, mean = np.exp(self.at_u.log_weights), self.at_u.mean
        joint = self.at_u.joint.reshape(*mean.shape, *mean.shape[1:])
        shift = mean - self.mixture[0]
        return np.asarray(np.tensordot(w, joint + np.einsum("hki,hlj->hkilj", shift, shift), 1))

    @cached_property
    def few_draws(self) -> Any:
        return self.surrogate.functions(400, self.seed + 2)

    @cached_property
    def draw_errors(self) -> Array:
        """Many draws less their mean by `scores`, (draws, k, q)."""
        return np.asarray(self.surrogate.functions(self.draws, self.seed + 3)(self.u.copy()) - self.mixture[0])

    def need_errors(self) -> None:
        """Raise when there are no errors, or tiny ones only."""
        if not self.at_u.covariance.any():
            raise _Nothing(
                "The surrogate reports that it has no errors at all. Unless it is exact, intervals then leave out its "
                "own error: return the covariance of its errors from `scores`.",
                None,
            )
        if not self.judged.any():
            raise _Nothing(TINY, None)

    def apart(self, one: Scores, other: Scores) -> float:
        """Return the largest difference between scores, relative to the variances and to a thousandth of the size."""
        means = 1e3 * np.abs(one.mean - other.mean) / np.sqrt(self.size2)
        covariances = np.abs(one.covariance - other.covariance) / self.scale
        covariances = np.where(np.isnan(one.covariance) & np.isnan(other.covariance), 0.0, covariances)
        return float(np.nan_to_num(max(means.max(), covariances.max()), nan=np.inf))

    def random(self, stream: int, *shape: int) -> Array:
        """Return standard normals that depend on the seed and the stream alone."""
        return np.random.default_rng([self.seed, stream]).standard_normal(shape)


def beside(u: Array) -> Array:
    """Return inputs `NEAR` to those given, towards the middle of the box."""
    return u + NEAR * np.where(u > 0.5, -1.0, 1.0)


def diagonals(covariance: Array) -> Array:
    """Return the diagonals (..., k) of matrices (..., k, k)."""
    return np.asarray(np.diagonal(covariance, axis1=-2, axis2=-1))


def _complaints(found: Sequence[str]) -> _Found:
    return _Found(len(found), 0, "; ".join(found) + "." if found else "")


# ------------------------------------------------------------------------------------------------------ the parts alone
def _members(p: _Probe) -> _Found:
    lost = [name for name in MEMBERS if not hasattr(p.surrogate, name)]
    return _Found(len(lost), 0, f"It has no {', '.join(lost)}; see uqms.Surrogate for what each returns.")


def _domain(p: _Probe) -> _Found:
    domain = p.surrogate.domain
    right = isinstance(domain, Box)
    return _Found(0 if right else 1, 0, f"domain is a {type(domain).__name__}; give uqms.Box(names, lower, upper).")


def _layouts(p: _Probe) -> _Found:
    layouts = p.surrogate.layouts
    if not isinstance(layouts, Mapping) or not layouts:
        return _Found(1, 0, "layouts is no mapping of output name to Layout, or is empty.")
    wrong = [str(name) for name, one in layouts.items() if not isinstance(one, Layout)]
    return _Found(len(wrong), 0, f"layouts of {wrong} are none; give uqms.surrogates.Layout(dims, coords, unit).")


def _shapes(p: _Probe) -> _Found:
    found = []
    for k in (1, len(p.u)):
        scores = p.surrogate.scores(p.u[:k].copy())
        if len(scores) != 3:
            return _complaints([f"scores returns {len(scores)} parts; give uqms.surrogates.Scores"])
        mean, covariance, log_weights = scores
        for name, part in (("mean", mean), ("covariance", covariance), ("log_weights", log_weights)):
            if not isinstance(part, np.ndarray) or part.dtype != np.float64:
                what = getattr(part, "dtype", type(part).__name__)
                found.append(f"{name} is {what}; variances need float64, give a numpy array of it")
        draws, q = np.shape(log_weights)[:1], np.shape(mean)[-1:]
        joint = (*draws, k, *q, k, *q)
        wanted = {"mean": (*draws, k, *q), "covariance": (*draws, *q, k, k), "log_weights": draws}
        for name, part in (("mean", mean), ("covariance", covariance), ("log_weights", log_weights)):
            if (name, np.shape(part)) != ("covariance", joint) and np.shape(part) != wanted[name] or len(draws) == 0:
                more = f", or {joint} of correlated scores" if name == "covariance" else ""
                found.append(f"at {k} inputs {name} has shape {np.shape(part)}, not {wanted[name]}{more}")
        known = scores.by_score if not found and isinstance(scores, Scores) else covariance
        if not found and not (np.isfinite(mean).all() and np.isfinite(diagonals(known)).all()):
            found.append(f"at {k} inputs means or variances are not finite")
    return _complaints(found)


def _weights(p: _Probe) -> _Found:
    log_weights = p.at_u.log_weights
    off = abs(float(np.logaddexp.reduce(log_weights)))
    elsewhere = p.scores(p.u[:1]).log_weights
    if elsewhere.shape != log_weights.shape or (elsewhere != log_weights).any():
        return _Found(np.inf, 1e-9, "log_weights change with the inputs; a hyperparameter draw has one weight.")
    why = "The weights of the hyperparameter draws do not sum to 1: subtract np.logaddexp.reduce(log_weights)."
    return _Found(off, 1e-9, why)


def _variances(p: _Probe) -> _Found:
    lowest = (diagonals(p.at_u.by_score) / p.largest).min()
    why = "A variance is negative, by rounding or by mistake: cut the diagonal with np.maximum(..., 0.0)."
    return _Found(max(0.0, -float(lowest)), 0, why)


def _purity(p: _Probe) -> _Found:
    u = p.u.copy()
    one, two = p.surrogate.scores(u), p.surrogate.scores(u)
    changed = int((u != p.u).sum())
    parts = zip(one, two, strict=True)
    differ = sum(int((~((a == b) | (np.isnan(a) & np.isnan(b)))).sum()) for a, b in parts)
    return _complaints(
        [f"scores changed {changed} numbers of the inputs that it was given; work on a copy"] * (changed > 0)
        + [f"{differ} numbers differ between two calls with the same inputs; nothing random may be in them"]
        * (differ > 0)
    )


def _batch(p: _Probe) -> _Found:
    u = np.random.default_rng([p.seed, 1]).random((2, 3, 4, p.d))
    together = p.scores(u)
    h, _, q = p.at_u.mean.shape
    wanted = (h, 2, 3, 4, q, 4, q) if p.at_u.correlated else (h, 2, 3, q, 4, 4)
    if together.mean.shape != (h, 2, 3, 4, q) or together.covariance.shape != wanted:
        return _complaints(
            [
                f"at inputs of shape (2, 3, 4, d) mean and covariance have shapes {together.mean.shape} and "
                f"{together.covariance.shape}, not {(h, 2, 3, 4, q)} and {wanted}"
            ]
        )
    places = [(i, j) for i in range(2) for j in range(3)]
    off = max(
        p.apart(Scores(together.mean[:, i, j], together.covariance[:, i, j], together.log_weights), p.scores(u[i, j]))
        for i, j in places
    )
    return _Found(off, SAME, "scores of a batch (..., k, d) are not those of its members, each of k inputs jointly.")


def _decode(p: _Probe) -> _Found:
    found, q, latents = [], p.at_u.mean.shape[-1], set()
    for name, layout in p.surrogate.layouts.items():
        n = int(np.prod(layout.shape, dtype=int))
        decoder = p.surrogate.decode(name)
        lead: tuple[int, ...] = (len(p.u),) if isinstance(decoder, InputDecoder) else ()
        offset, basis, truncation = _rows(decoder, p.u)
        if lead:
            lead = (len(p.at_u.mean) if np.shape(offset)[:1] != (1,) else 1, *lead)
        latent = np.shape(truncation)[len(lead) + 1 : len(lead) + 2]
        latents.add(latent)
        wanted = {
            "offset": (offset, (*lead, n)),
            "basis": (basis, (*lead, n, q)),
            "truncation": (truncation, (*lead, n, *latent)),
        }
        for part, (values, shape) in wanted.items():
            if np.shape(values) != shape or np.asarray(values).dtype != np.float64 or not np.isfinite(values).all():
                found.append(f"{part} of {name!r} has shape {np.shape(values)}; give {shape}, float64 and finite")
    if len(latents) > 1 or () in latents:
        found.append(
            f"truncations have columns {sorted(latents)}; give all of them, zero where they are another output's"
        )
    return _complaints(found)


def _rows(decoder: Any, u: Array) -> Any:
    """Return offset, basis and truncation: of an `InputDecoder` those at inputs (k, d)."""
    return decoder.at(u.copy()) if isinstance(decoder, InputDecoder) else decoder


def _decode_at(p: _Probe) -> _Found:
    off, rng, some = 0.0, np.random.default_rng([p.seed, 2]), False
    for name, layout in p.surrogate.layouts.items():
        if not layout.dims:
            continue
        some = True
        places = [rng.integers(size, size=5) for size in layout.shape]
        coords = {dim: np.asarray(layout.coords[dim])[i] for dim, i in zip(layout.dims, places, strict=True)}
        rows = np.ravel_multi_index(places, layout.shape)
        here, everywhere = (_rows(p.surrogate.decode(name, at), p.u[:3]) for at in (coords, None))
        lead = np.ndim(everywhere[0]) - 1
        for part, whole in zip(here, everywhere, strict=True):
            picked = np.take(whole, rows, axis=lead)
            if np.shape(part) != np.shape(picked):
                return _Found(np.inf, 1e-9, f"At 5 points of {name!r} a part has shape {np.shape(part)}.")
            off = max(off, float(np.abs(part - picked).max(initial=0.0)) / float(np.abs(whole).max(initial=1e-300)))
    if not some:
        raise _Nothing("No output has coordinates.", True)
    why = "Rows at simulated coordinates, one value of each dim a point, are not those of decode(output)."
    return _Found(off, 1e-9, why)


def _by_input(p: _Probe) -> list[tuple[str, InputDecoder]]:
    """Return the outputs whose rows depend on the input, by name."""
    decoders = {name: p.surrogate.decode(name) for name in p.surrogate.layouts}
    found = [(name, one) for name, one in decoders.items() if isinstance(one, InputDecoder)]
    if not found:
        raise _Nothing("The rows of no output depend on the input.", True)
    return found


def _rows_batch(p: _Probe) -> _Found:
    u, off = np.random.default_rng([p.seed, 6]).random((2, 3, 4, p.d)), 0.0
    for name, decoder in _by_input(p):
        several, given = decoder.at(u), u.copy()
        for i, j in ((0, 0), (1, 2)):
            for part, whole in zip(decoder.at(u[i, j]), several, strict=True):
                shape = (len(part), 2, 3, *part.shape[1:])
                if whole.shape != shape:
                    return _complaints(
                        [f"at inputs (2, 3, 4, d) a part of {name!r} has shape {whole.shape}, not {shape}"]
                    )
                off = max(
                    off,
                    float(np.abs(whole[:, i, j] - part).max(initial=0.0) / max(np.abs(part).max(initial=0.0), 1e-300)),
                )
        if (given != u).any():
            return _complaints([f"rows of {name!r} changed the inputs that they were given; work on a copy"])
    return _Found(off, 1e-9, "Rows of a batch (..., k, d) are not those of its members.")


def _rows_derivative(p: _Probe) -> _Found:
    off, u = 0.0, p.u[:3]
    for name, decoder in _by_input(p):
        bar = Decoder(*(p.random(7 + i, *part.shape) for i, part in enumerate(decoder.at(u))))
        own = decoder.reverse(u.copy(), bar)
        if np.shape(own) != u.shape:
            raise ConformanceError(f"reverse of {name!r} has shape {np.shape(own)} at inputs {u.shape}; give theirs.")
        shift = np.eye(u.size).reshape(u.size, *u.shape)

        def value(at: Array, decoder: InputDecoder = decoder, bar: Decoder = bar) -> Array:
            """Return sum(rows * bar) at inputs (s, k, d), shape (s,)."""
            parts = zip(decoder.at(at), bar, strict=True)
            return sum((part * one[:, None]).reshape(len(part), len(at), -1).sum(axis=(0, 2)) for part, one in parts)  # type: ignore[return-value]

        differences = [(value(u + step * shift) - value(u - step * shift)) / (2.0 * step) for step in STEPS]
        errors = np.abs(np.array(differences) - np.ravel(own)).max(axis=1)
        off = max(off, float(errors.min() / max(np.abs(own).max(), np.abs(differences).max(axis=1).min(), 1e-300)))
    return _Found(
        off, 1e-3, "reverse is not the derivative of the rows by the unit cube's inputs; compare with differences."
    )


def _unknown_output(p: _Probe) -> _Found:
    try:
        p.surrogate.decode("an output that is not there")
    except Exception:  # any is good
        return _Found(0, 0, "")
    return _Found(1, 0, "decode of an unknown output returns something; raise an error that lists the outputs.")


def _derivative(
    p: _Probe, inputs: Sequence[Array], mean_bars: Sequence[Array], covariance_bars: Sequence[Array]
) -> float:
    """Return the largest error of `scores_reverse` at sets of inputs (k, d), relative to the largest derivative."""
    own, by_step = [], []
    for u, mean_bar, covariance_bar in zip(inputs, mean_bars, covariance_bars, strict=True):
        reverse = p.surrogate.scores_reverse(u.copy(), mean_bar.copy(), covariance_bar.copy())
        if np.shape(reverse) != u.shape:
            raise ConformanceError(f"scores_reverse has shape {np.shape(reverse)} at inputs {u.shape}; give theirs.")
        own.append(np.ravel(reverse))
        unit = np.eye(u.size).reshape(u.size, *u.shape)
        found = p.scores(np.concatenate([u + sign * step * unit for step in STEPS for sign in (1.0, -1.0)]))
        value = np.einsum("hskq,hkq->s", found.mean, mean_bar)
        value += (found.covariance * covariance_bar[:, None]).reshape(*found.mean.shape[:2], -1).sum(axis=(0, 2))
        plus, minus = np.moveaxis(value.reshape(len(STEPS), 2, u.size), 1, 0)
        by_step.append((plus - minus) / (2.0 * np.array(STEPS)[:, None]))
    derivative, differences = np.concatenate(own), np.concatenate(by_step, axis=1)
    scale = max(float(np.abs(derivative).max()), float(np.abs(differences).max(axis=1).min()), 1e-300)
    # Long steps cut off the function, short ones round: the best of them is closer than what a mistake makes.
    return float(np.nan_to_num(np.abs(differences - derivative).max(axis=1).min() / scale, nan=np.inf))


def _bars(p: _Probe, count: int, k: int, mean: float, covariance: float) -> tuple[list[Array], list[Array]]:
    h, _, q = p.at_u.mean.shape
    means = mean * p.random(3, count, h, k, q) / np.sqrt(p.size2)
    shape = (h, k, q, k, q) if p.at_u.correlated else (h, q, k, k)
    covariances = covariance * p.random(4, count, *shape) / p.scale
    if p.at_u.correlated:
        covariances *= p.judged[:, None, :, None, None] & p.judged[:, None, None, None, :]
    else:
        covariances *= p.judged[..., None, None]
    return list(means), list(covariances)


def _derivative_mean(p: _Probe) -> _Found:
    off = _derivative(p, [u[None] for u in p.u[:5]], *_bars(p, 5, 1, 1.0, 0.0))
    why = "scores_reverse is not the derivative of the mean by the unit cube's inputs; compare with differences."
    return _Found(off, 1e-3, why)


def _derivative_variance(p: _Probe) -> _Found:
    p.need_errors()
    off = _derivative(p, [u[None] for u in p.u[:5]], *_bars(p, 5, 1, 0.0, 1.0))
    why = "scores_reverse is not the derivative of the variance; NUTS needs it as it needs that of the mean."
    return _Found(off, 1e-2, why)


# ----------------------------------------------------------------------------------------------- errors between inputs
def _some(scores: Scores, rows: Ints) -> Scores:
    """Return the scores at some of the inputs."""
    c = scores.covariance
    c = c[:, rows][:, :, :, rows] if scores.correlated else c[:, :, rows][..., rows]
    return Scores(scores.mean[:, rows], c, scores.log_weights)


def _order(p: _Probe) -> _Found:
    to = np.random.default_rng([p.seed, 5]).permutation(len(p.u))
    expected = _some(p.at_u, to)
    return _Found(p.apart(p.scores(p.u[to]), expected), SAME, "Another order of the inputs gives other scores.")


def _subsets(p: _Probe) -> _Found:
    off = 0.0
    for rows in ([0], [3], [6, 1, 4]):
        off = max(off, p.apart(p.scores(p.u[rows]), _some(p.at_u, np.array(rows))))
    why = "Scores of some of the inputs are not a part of those of all: which other inputs are asked for changes them."
    return _Found(off, SAME, why)


def _known(p: _Probe) -> _Found:
    lost = int((~np.isfinite(p.at_u.covariance)).sum())
    why = (
        "The covariance of errors between different inputs is unknown (NaN). Such a surrogate serves "
        "calibrations of one experiment; several share its error by an amount that only a joint covariance determines."
    )
    return _Found(lost, 0, why)


def _symmetric(p: _Probe) -> _Found:
    c = p.at_u.covariance
    turned = c.transpose(0, 3, 4, 1, 2) if p.at_u.correlated else np.swapaxes(c, 2, 3)
    off = np.abs(c - turned) / p.scale
    return _Found(float(off.max()), SAME, "Covariances between inputs, and between scores, are not symmetric.")


def _semi_definite(p: _Probe) -> _Found:
    p.need_errors()
    c = p.at_u.covariance / p.scale
    if p.at_u.correlated:
        h, k, q = p.at_u.mean.shape
        c = np.where(p.judged[:, None, :, None, None] & p.judged[:, None, None, None, :], c, 0.0)
        c = c.reshape(h, k * q, k * q)
    else:
        c = c[p.judged]
    lowest = np.linalg.eigvalsh(0.5 * (c + np.swapaxes(c, -1, -2))).min()
    why = "A covariance has a negative eigenvalue, so that no random function has it."
    return _Found(max(0.0, -float(lowest)), 1e-2, why)


def _correlation(p: _Probe, other: Array) -> float:
    """Return the lowest correlation of errors at probes and at others, each with its own, where errors are clear."""
    p.need_errors()
    u = p.u[:INPUTS]
    covariance = p.scores(np.stack([u, other], axis=1)).by_score  # (H, INPUTS, q, 2, 2)
    variance = diagonals(covariance).min(axis=-1)
    clear = variance > np.maximum(0.1 * p.largest[..., 0], JUDGED * p.size2)[:, None, :]
    if not clear.any():
        raise _Nothing(TINY, None)
    both = np.sqrt(np.prod(diagonals(covariance), axis=-1, where=clear[..., None], initial=1.0))
    return float((covariance[..., 0, 1] / both)[clear].min())


def _same_input(p: _Probe) -> _Found:
    why = (
        "Errors at one input, asked for twice, are not one: either the covariance is diagonal (independent errors, "
        "which average out and make intervals far too narrow), or it holds the noise of single runs, which is none of "
        "the surrogate's error. Return the covariance of the function; NaN between inputs if your model has none."
    )
    return _Found(1.0 - _correlation(p, p.u[:INPUTS]), 1e-3, why)


def _near_inputs(p: _Probe) -> _Found:
    why = (
        f"Errors at inputs {NEAR:g} of the box apart are not correlated, as errors of one function are: independent "
        "errors average out over experiments and make intervals far too narrow. Return the joint covariance; NaN "
        "between inputs if your model has none."
    )
    return _Found(1.0 - _correlation(p, beside(p.u[:INPUTS])), 1e-2, why)


def _derivative_jointly(p: _Probe) -> _Found:
    p.need_errors()
    off = max(_derivative(p, [p.u[:4], p.u[4:8]], *_bars(p, 2, 4, mean, 1.0)) for mean in (0.0, 1.0))
    why = (
        "scores_reverse at several inputs is not the derivative of means and covariances: an input moves its row and "
        "its column, and covariance_bar need not be symmetric."
    )
    return _Found(off, 1e-2, why)


# ------------------------------------------------------------------------------------------------------- function draws
def _draws_shape(p: _Probe) -> _Found:
    found, q = [], p.at_u.mean.shape[-1]
    for n in (1, 3):
        values = p.surrogate.functions(n, p.seed)(p.u.copy())
        if np.shape(values) != (n, len(p.u), q) or values.dtype != np.float64 or not np.isfinite(values).all():
            wanted = (n, len(p.u), q)
            found.append(f"{n} draws have shape {np.shape(values)}; give {wanted}, float64 and finite")
    return _complaints(found)


def _draws_seed(p: _Probe) -> _Found:
    one, two, other = (p.surrogate.functions(3, p.seed + extra)(p.u.copy()) for extra in (0, 0, 1))
    differ = int((one != two).sum())
    found = [f"{differ} numbers differ between draws of one seed; draw from rng alone"] * (differ > 0)
    if (one == other).all() and (diagonals(p.mixture[1]) > JUDGED * p.size2[:, None]).any():
        found.append("draws of two seeds are the same")
    return _complaints(found)


def _draws_apart(p: _Probe, one: Array, other: Array) -> float:
    """Return 1 less the correlation of two values (draws, k, q) of the same draws at the same inputs."""
    p.need_errors()
    clear = diagonals(p.mixture[1]).max(axis=-1) > JUDGED * p.size2
    if not clear.any():
        raise _Nothing(TINY, None)
    between = one.var(axis=0, ddof=1).sum(axis=0)[clear]
    apart = ((one - other) ** 2).mean(axis=0).sum(axis=0)[clear]
    return float(np.mean(0.5 * apart / np.maximum(between, 1e-300)))


def _draws_twice(p: _Probe) -> _Found:
    values = p.few_draws(p.u.copy())
    off = _draws_apart(p, values[:, :1], values[:, INPUTS : INPUTS + 1])
    why = (
        "A draw has two values at an input that stands twice in a call (measured: 1 less their correlation): it is no "
        "function. Draw jointly."
    )
    return _Found(off, 0.3, why)


def _draws_again(p: _Probe) -> _Found:
    off = _draws_apart(p, p.few_draws(p.u[:INPUTS].copy()), p.few_draws(p.u[INPUTS - 1 :: -1].copy())[:, ::-1])
    why = (
        "A draw has other values when it is asked again for the same inputs (measured: 1 less their correlation): it "
        "is no function. Draw at fixed points first and condition on them: uqms.surrogates.draws_from_scores does."
    )
    return _Found(off, 0.8, why)


def _draws_mean(p: _Probe) -> _Found:
    e, covariance = p.draw_errors, p.mixture[1]
    standard_error = np.sqrt((diagonals(covariance).T + ROUNDING * p.size2) / p.draws)
    off = float((np.abs(e.mean(axis=0)) / standard_error).max())
    return _Found(off, STANDARD_ERRORS, f"The mean of {p.draws} draws is not that of scores (in standard errors).")


def _draws_covariance(p: _Probe) -> _Found:
    e, covariance = p.draw_errors, p.mixture[1]
    found = np.einsum("nkq,nlq->qkl", e, e) / p.draws
    fourth = np.einsum("nkq,nlq->qkl", e**2, e**2) / p.draws
    standard_error = np.sqrt(np.maximum(fourth - found**2, 0.0) / p.draws)
    sds = np.sqrt(diagonals(covariance))
    standard_error += 1e-3 * sds[:, :, None] * sds[:, None, :] + 1e-300
    off = np.maximum(np.abs(found - covariance) - ROUNDING * p.size2[:, None, None], 0.0) / standard_error
    j, a, b = np.unravel_index(int(off.argmax()), off.shape)
    what = "variance" if a == b else "covariance between inputs"
    why = (
        f"The {what} of {p.draws} draws is {found[j, a, b]:.3g} where scores give {covariance[j, a, b]:.3g} "
        "(measured: their distance in standard errors): scores and functions are two distributions. Look for a "
        "standard deviation in a variance's place, draws of each input by itself, or hyperparameter draws that are "
        "left out."
    )
    return _Found(float(off.max()), STANDARD_ERRORS, why)


def _draws_between(p: _Probe) -> _Found:
    e, covariance = p.draw_errors, p.joint_mixture
    q = e.shape[-1]
    if q == 1:
        raise _Nothing("There is one score.", True)
    found = np.einsum("nki,nkj->kij", e, e) / p.draws
    fourth = np.einsum("nki,nkj->kij", e**2, e**2) / p.draws
    said = np.einsum("kikj->kij", covariance)
    standard_error = np.sqrt(np.maximum(fourth - found**2, 0.0) / p.draws)
    sds = np.sqrt(np.maximum(np.einsum("kii->ki", said), 0.0))
    standard_error += 1e-3 * sds[:, :, None] * sds[:, None, :] + 1e-300
    small = ROUNDING * np.sqrt(p.size2[:, None] * p.size2)
    off = np.maximum(np.abs(found - said) - small, 0.0) / standard_error
    _, i, j = np.unravel_index(int(off.argmax()), off.shape)
    why = (
        f"The covariance of scores {i} and {j} at one input, over {p.draws} draws, is not that of scores (measured: "
        "their distance in standard errors). Errors of correlated scores have a covariance of the shape (H, k, q, k, "
        "q); a shape of (H, q, k, k) means that they are independent."
    )
    return _Found(float(off.max()), STANDARD_ERRORS, why)


def _draws_hyperparameters(p: _Probe) -> _Found:
    draws = max(np.shape(decoder.at(p.u[:1])[0])[0] for _, decoder in _by_input(p))
    if draws == 1:
        raise _Nothing("All hyperparameter draws have the same rows.", True)
    which = getattr(p.few_draws, "hyperparameters", None)
    right = which is not None and np.shape(which) == (400,) and (np.isin(which, np.arange(draws))).all()
    why = "Hyperparameter draws have rows of their own: give that of each function draw, by its `hyperparameters` (n,)."
    return _Found(0 if right else 1, 0, why)


CHECKS = (
    _Asked("members", "one experiment", (), _members),
    _Asked("domain", "one experiment", ("members",), _domain),
    _Asked("layouts", "one experiment", ("members",), _layouts),
    _Asked("shapes", "one experiment", ("domain",), _shapes),
    _Asked("weights", "one experiment", ("shapes",), _weights),
    _Asked("variances", "one experiment", ("shapes",), _variances),
    _Asked("purity", "one experiment", ("shapes",), _purity),
    _Asked("batch", "one experiment", ("shapes",), _batch),
    _Asked("decode", "one experiment", ("shapes", "layouts"), _decode),
    _Asked("decode at coordinates", "one experiment", ("decode",), _decode_at),
    _Asked("decode of an unknown output", "one experiment", ("members",), _unknown_output),
    _Asked("rows of a batch", "one experiment", ("decode",), _rows_batch),
    _Asked("derivative of the rows", "one experiment", ("rows of a batch",), _rows_derivative),
    _Asked("derivative of the mean", "one experiment", ("batch",), _derivative_mean),
    _Asked("derivative of the variance", "one experiment", ("batch",), _derivative_variance),
    _Asked("order of inputs", "several experiments", ("shapes",), _order),
    _Asked("subsets of inputs", "several experiments", ("shapes",), _subsets),
    _Asked("known between inputs", "several experiments", ("shapes",), _known),
    _Asked("symmetric", "several experiments", ("known between inputs",), _symmetric),
    _Asked("positive semi-definite", "several experiments", ("known between inputs",), _semi_definite),
    _Asked("same input", "several experiments", ("known between inputs", "batch"), _same_input),
    _Asked("near inputs", "several experiments", ("known between inputs", "batch"), _near_inputs),
    _Asked(
        "derivative at several inputs", "several experiments", ("known between inputs", "batch"), _derivative_jointly
    ),
    _Asked("draws: shape", "several experiments", ("shapes", "known between inputs"), _draws_shape),
    _Asked("draws: seed", "several experiments", ("draws: shape",), _draws_seed),
    _Asked("draws: same input", "several experiments", ("draws: shape",), _draws_twice),
    _Asked("draws: same function", "several experiments", ("draws: shape",), _draws_again),
    _Asked("draws: mean", "several experiments", ("draws: shape", "weights", "variances"), _draws_mean),
    _Asked(
        "draws: covariance",
        "several experiments",
        ("draws: shape", "weights", "variances"),
        _draws_covariance,
    ),
    _Asked(
        "draws: covariance of scores",
        "several experiments",
        ("draws: shape", "weights", "variances"),
        _draws_between,
    ),
    _Asked("draws: hyperparameters", "several experiments", ("draws: shape", "decode"), _draws_hyperparameters),
)

"""What a run of a simulator says of the surrogate's error: the covariance of one with the other, given the runs so far.

A run returns values of scores of one process: those of a Gaussian process, what is new in a level of fidelity, those of
a member of a chain. The error of the surrogate's scores at an input is a linear function of such processes' errors.

==========  =======================================================================  ====================
symbol      meaning                                                                  shape
==========  =======================================================================  ====================
S, K, Q     values of the parameters, inputs of each, scores of the surrogate        ()
P, q        inputs of a process that the error depends on, its scores                ()
v           those inputs                                                             (S, P, d)
rows        the error of the scores is rows @ errors of the process at v             (S, K, Q, P, q)
C           covariance of the process's scores between inputs, given the runs        (n, q, n, q)
N           covariance of the noise of one run                                       (n, q, q)
==========  =======================================================================  ====================

A run at r takes C(., r) (C(r, r) + N)^-1 C(r, .) from the covariance. This depends on where runs are and not on what
they return, so that several runs are chosen by updating covariances alone.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast, final

import numpy as np

from uqms._typing import Array, Bools, Ints
from uqms.parameters import Box
from uqms.surrogates.process import ScoreProcess, Scores, score_at

if TYPE_CHECKING:
    from uqms.surrogates.protocol import Surrogate

__all__ = [
    "ErrorPart",
    "Observed",
    "RunKind",
    "error_parts",
    "joined",
    "process_covariance",
    "process_noise",
    "removed",
]

KNOWN = 1e-9  # of the variance of what is new in a level: less is left where it was run


def removed(covariance: Array, left: Array, before: float) -> tuple[Array, Bools]:
    """Return the variance (m, k) that each of k runs of one score removes at m inputs, and which runs are new (k,).

    Parameters
    ----------
    covariance
        Covariance (m, k) between inputs and runs.
    left
        Variance (k,) of what each run would return.
    before
        Variance of the process: a run is new where more than 1e-9 of it is left.
    """
    new = left > KNOWN * before
    return np.where(new, covariance**2 / np.where(new, left, 1.0), 0.0), new


class Observed(NamedTuple):
    """What a run sees of one process: the process's place among the parts, and more columns of its inputs.

    Attributes
    ----------
    part
        Place among the parts of the error.
    before
        Columns that stand before the run's inputs among those of the process, the level of a joint process.
    """

    part: int
    before: tuple[float, ...] = ()


@final
@dataclass(frozen=True, eq=False)
class RunKind:
    """A kind of run: of one simulator, at one level of fidelity.

    Attributes
    ----------
    label
        Names of the member and of the level, () for the only one.
    domain
        Design box of its inputs.
    observed
        What it sees; of nested levels the lower ones too, the last is its own.
    sources
        Kind, among those returned with it, whose run each of `observed` is; () where all are its own.
    known
        Inputs (n, d) of the runs there are, in the unit cube.
    cost
        Of one run, where the surrogate has it.
    surrogate
        What is refitted with it; its `attrs` describe the inputs.
    stochastic
        Whether its runs were repeated, so that another one at the same inputs returns other values.
    """

    label: tuple[str, ...]
    domain: Box
    observed: tuple[Observed, ...]
    known: Array
    surrogate: Any
    sources: tuple[int, ...] = ()
    cost: float | None = None
    stochastic: bool = False

    def within(self, name: str, parts: int, kinds: int) -> "RunKind":
        """Return the kind as that of a member, behind so many parts and kinds of others."""
        observed = tuple(one._replace(part=one.part + parts) for one in self.observed)
        label = (name, *self.label) if name else self.label
        return replace(self, label=label, observed=observed, sources=tuple(one + kinds for one in self.sources))


@final
@dataclass(frozen=True, eq=False)
class ErrorPart:
    """The part of a surrogate's error that is the error of one process.

    Attributes
    ----------
    inputs
        v, where the process is evaluated, (S, P, d).
    rows
        Shape (S, K, Q, P, q).
    covariance
        Of hyperparameter draw h: inputs (n, d) to the covariance of the scores given the runs, (q, n, n) of
        independent ones, (n, q, n, q) of correlated ones.
    noise
        Of hyperparameter draw h: inputs (n, d) to the covariance of the noise of a run, (n, q, q).
    draws
        Hyperparameter draw of the process, (S,).
    """

    inputs: Array
    rows: Array
    covariance: Callable[[int, Array], Array]
    noise: Callable[[int, Array], Array]
    draws: Ints


def error_parts(surrogate: "Surrogate", u: Array, h: Ints) -> tuple[list[ErrorPart], list[RunKind]]:
    """Return the parts of a surrogate's error at inputs u (S, K, d) with draws h (S,), and the kinds of runs there are.

    Surrogates of several simulators or levels have a method of this name; any other is one process, that of its scores.
    """
    own = getattr(surrogate, "error_parts", None)
    if own is not None:
        return cast("tuple[list[ErrorPart], list[RunKind]]", own(u, h))
    response = getattr(surrogate, "response", surrogate)
    if response is not surrogate:  # a superposition has the scores of its unit response
        return error_parts(response, u, h)
    S, K, _ = u.shape
    process = getattr(response, "compiled_process", None)
    if process is None:
        covariance: Callable[[int, Array], Array] = _of_scores(response)
        noise = _noise_of(response, getattr(response, "process", None))
    else:
        covariance, noise = process_covariance(process), _noise_of(response, process)
    q = surrogate.scores(u[:1, :1]).mean.shape[-1]
    rows = np.broadcast_to(np.eye(K * q).reshape(K, q, K, q), (S, K, q, K, q))
    runs = getattr(getattr(response, "process", None), "x", np.zeros((0, u.shape[-1])))
    known = np.asarray(runs)[:, -u.shape[-1] :]
    repeated = getattr(response, "noise", None) is not None or len(np.unique(known, axis=0)) < len(known)
    kind = RunKind((), response.domain, (Observed(0),), known, response, stochastic=repeated)
    return [ErrorPart(u, rows, covariance, noise, h)], [kind]


def process_covariance(process: ScoreProcess) -> Callable[[int, Array], Array]:
    """Return the covariance of a process as a function of hyperparameter draw and inputs."""

    def covariance(h: int, u: Array) -> Array:
        return np.stack([score_at(process, h, j, u[None])[1][0] for j in range(process.q)])

    return covariance


def process_noise(process: ScoreProcess) -> Callable[[int, Array], Array]:
    """Return the noise that a process states of a run: its nugget, with what keeps its matrices regular."""

    def noise(h: int, u: Array) -> Array:
        own = (process.nugget[h] + process.jitter[h]) * process.variance[h]
        return np.broadcast_to(np.diag(own), (len(u), process.q, process.q))

    return noise


def _noise_of(surrogate: Any, process: ScoreProcess | None) -> Callable[[int, Array], Array]:
    """Return the noise of a run: what the process states, and what was learned from replicates."""
    learned = getattr(surrogate, "noise", None)
    plain = None if process is None or not hasattr(process, "nugget") else process_noise(process)

    def noise(h: int, u: Array) -> Array:
        out = np.zeros((len(u), 1, 1)) if plain is None else plain(h, u)
        if learned is None:
            return out
        sd = np.sqrt(learned.variance(u))
        return np.asarray(out + sd[:, :, None] * learned.correlation * sd[:, None, :])

    return noise


def _of_scores(surrogate: "Surrogate") -> Callable[[int, Array], Array]:
    """Return the covariance that a surrogate of any kind states of its scores."""

    def covariance(h: int, u: Array) -> Array:
        found: Scores = surrogate.scores(u)
        return np.asarray(found.covariance[h])

    return covariance


def joined(parts: Iterable[tuple[str, tuple[list[ErrorPart], list[RunKind]]]]) -> tuple[list[ErrorPart], list[RunKind]]:
    """Return the parts and kinds of several surrogates, by name, as those of one."""
    out: list[ErrorPart] = []
    kinds: list[RunKind] = []
    for name, (own, runs) in parts:
        kinds += [one.within(name, len(out), len(kinds)) for one in runs]
        out += own
    return out, kinds

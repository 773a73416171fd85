"""How much runs would reduce the variance of quantities of a posterior: normal conditioning, before anything is run.

==========  ===================================================================  ==================
symbol      meaning                                                              shape
==========  ===================================================================  ==================
S, h        posterior draws at which the problem is linearised, hyperparameters  (S,)
theta       parameters in units of their prior's sd, with the correlation P      (D,)
z           cell means in units of their noise, J theta + W eps + noise          (S, N)
A           their covariance, J P J' + W C W' + other errors + I                 (S, N, N)
t           targets, J* theta + W* eps                                           (S, T)
x           what a run would return of the errors eps, with noise                (S, m)
V, K        Var(x | z) and Cov(x, t | z)                                         (S, m, m), (S, m, T)
==========  ===================================================================  ==================

Of a population theta is what describes it, and the effects of its subjects are among the other errors. At each draw
everything is jointly normal, so that a run takes K' V^-1 K from the variance of the targets. This is the
same as the posterior variance after C, the covariance of the surrogate's error, is replaced by
C - C(., r) (C(r, r) + noise)^-1 C(r, .), for conditioning on z and on x commutes. After a run is chosen all V and K are
conditioned on it, without a value of it. A run that succeeds with probability p takes p times as much, in expectation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, cast, final

import numpy as np

from uqms._typing import Array, Ints
from uqms.calibration.base import Piece, Problem
from uqms.calibration.direct import is_exact
from uqms.calibration.joint_error import JointError
from uqms.calibration.predict import Targets
from uqms.calibration.verdict import linearise
from uqms.planning.noise_targets import NoiseTarget, log_slopes
from uqms.planning.population_slopes import population_slopes
from uqms.surrogates.run_value import ErrorPart, RunKind, error_parts
from uqms.surrogates.sampled_chain import SampledChain

if TYPE_CHECKING:
    from uqms.calibration.population.calibration import PopulationCalibration
    from uqms.calibration.single import SingleCalibration

__all__ = ["Candidates", "Gains", "LinearPosterior", "Predicted", "Source", "first_order"]

FLOOR = 1e-10  # of the largest variance: noise of a run of a surrogate that states none
STEP = 1e-4


def first_order(problem: "SingleCalibration") -> "SingleCalibration":
    """Return the problem whose surrogate's errors are all errors of its processes: none drawn or sampled."""
    surrogate = problem.surrogate
    if isinstance(surrogate, SampledChain):
        settings = problem.settings | {"expansion": "first-order"}
        return type(problem)(surrogate.chain.undrawn, problem.observations, **settings)
    other = getattr(surrogate, "undrawn", surrogate)
    return problem if other is surrogate else problem.with_error(other, 1.0)


class Source(NamedTuple):
    """One surrogate of a calibration: its name among the parts, its problem, and the kinds of runs that teach it."""

    name: str
    problem: "SingleCalibration"
    kinds: list[RunKind]
    first: int  # place of its first part among all


class Predicted(NamedTuple):
    """Quantities that are predicted: which source has the output, and where."""

    source: int
    points: Targets


@final
@dataclass(frozen=True, eq=False)
class LinearPosterior:
    """A posterior linearised at S draws, with the parts of the surrogates' errors.

    Attributes
    ----------
    sources
        The surrogates.
    parts
        Of their errors.
    whitened
        By part, L^-1 W for L L' = A, (S, b, P, q).
    own
        By part, W* of the targets, (S, T, P, q).
    crossed
        L^-1 Cov(z, t), (S, b, T).
    variance, bare
        Var(t | z), and what it would be if the surrogates had no error, (S, T); behind them those of `noises`.
    noises
        Standard deviations of the noise that are targets, their logarithms.
    """

    sources: list[Source]
    parts: list[ErrorPart]
    whitened: list[Array]
    own: list[Array]
    crossed: Array
    variance: Array
    bare: Array
    noises: tuple[NoiseTarget, ...] = ()

    @classmethod
    def of(
        cls,
        problem: Problem,
        theta: dict[str, Array],
        h: Ints,
        slopes: Array,
        predicted: Sequence[Predicted] = (),
        latents: Array | None = None,
        noises: Sequence[str] = (),
    ) -> "LinearPosterior":
        """Linearise at draws of the parameters.

        Parameters
        ----------
        theta, h
            Draws, by name (S,), and their hyperparameters.
        latents
            Of a population: draws (S, .) of the subjects' effects, which are integrated out.
        noises
            Names of standard deviations of the noise that are targets behind all others.
        slopes
            Derivatives (S, T, D) of targets by the parameters in units of their prior's sd.
        predicted
            More targets, after those.
        """
        prior = problem.conditioned_prior.correlation(problem.parameters)
        if problem.kind == "population":
            assert latents is not None
            pieces = problem.pieces(theta, latents, h)
            found = [
                _Linearised.of(pieces[0], 0, ()).of_population(cast("PopulationCalibration", problem), theta, latents)
            ]
        else:
            pieces = problem.pieces(theta, None, h)
            found = [
                _Linearised.of(piece, len(problem.parameters), [one.points for one in predicted if one.source == i])
                for i, piece in enumerate(pieces)
            ]
        sources: list[Source] = []
        starts, first = np.cumsum([0, *(one.jacobian.shape[1] for one in found)]), 0
        for piece, of_piece in zip(pieces, found, strict=True):
            sources.append(Source(piece.name, of_piece.problem, of_piece.kinds, first))
            first += len(of_piece.parts)
        J = np.concatenate([one.jacobian for one in found], axis=1)
        slopes = np.concatenate([slopes, *(one.slopes for one in found)], axis=1)
        S, N, T = *J.shape[:2], slopes.shape[1]
        A, without = (J @ prior @ J.swapaxes(1, 2) + np.eye(N) for _ in range(2))
        cross = J @ prior @ slopes.swapaxes(1, 2)  # (S, N, T)
        variance = np.einsum("std,de,ste->st", slopes, prior, slopes)
        of_parameters, alone = cross.copy(), variance.copy()
        W: list[Array] = []
        own: list[Array] = []
        t = T - sum(one.slopes.shape[1] for one in found)
        for start, one in zip(starts[:-1], found, strict=True):
            cells, targets = slice(start, start + one.jacobian.shape[1]), slice(t, t := t + one.slopes.shape[1])
            A[:, cells, cells] += one.errors
            without[:, cells, cells] += one.others
            variance[:, targets] += one.truncated
            for part, of_cells, of_targets in zip(one.parts, one.cells, one.targets, strict=True):
                W.append(np.zeros((S, N, *of_cells.shape[2:])))
                own.append(np.zeros((S, T, *of_cells.shape[2:])))
                W[-1][:, cells], own[-1][:, targets] = of_cells, of_targets
                if of_targets.shape[1]:
                    C = _between(part)
                    cross += np.einsum("snPq,sPqRr,stRr->snt", W[-1], C, own[-1], optimize=True)
                    variance += np.einsum("stPq,sPqRr,stRr->st", own[-1], C, own[-1], optimize=True)
        bare = alone - np.einsum("snt,snt->st", of_parameters, np.linalg.solve(without, of_parameters))
        flat = np.concatenate([cross, *(one.reshape(S, N, -1) for one in W)], axis=2)
        solved, Q = np.linalg.solve(np.linalg.cholesky(A), flat), None
        if solved.shape[2] < N:
            Q, solved = np.linalg.qr(solved)
        crossed, at = np.asarray(solved[..., :T]), T
        whitened: list[Array] = []
        for of_all in W:
            width = of_all.shape[2] * of_all.shape[3]
            whitened.append(solved[..., at : at + width].reshape(S, -1, *of_all.shape[2:]))
            at += width
        parts = [part for one in found for part in one.parts]
        variance = variance - np.sum(crossed**2, axis=1)
        scatter = []
        for name in noises:
            several = [one.scatter(piece, name) for one, piece in zip(found, pieces, strict=True)]
            D, free = np.concatenate([D for D, _ in several], axis=1), sum(free for _, free in several)
            prior = np.log(np.asarray(problem.priors[name].quantile((np.arange(200) + 0.5) / 200.0)))
            scatter.append(NoiseTarget.of(A, without, Q, D, np.asarray(free), 1.0 / float(prior.var())))
        variance = np.column_stack([variance, *(one.variance(one.information) for one in scatter)])
        bare = np.column_stack([bare, *(one.variance(one.bare) for one in scatter)])
        return cls(sources, parts, whitened, own, crossed, variance, bare, tuple(scatter))


@final
@dataclass(frozen=True, eq=False)
class _Linearised:
    """One surrogate's cells and predictions at the draws, on all parameters of the calibration."""

    problem: "SingleCalibration"
    parts: list[ErrorPart]
    kinds: list[RunKind]
    own_jacobian: Array  # (S, n, d), by its own parameters in the unit cube
    jacobian: Array  # (S, n, D)
    errors: Array  # (S, n, n), all but those of parameters and noise
    others: Array  # (S, n, n), those that are none of the surrogate
    cells: list[Array]  # by part, W (S, n, P, q)
    targets: list[Array]  # by part, W* (S, t, P, q)
    slopes: Array  # (S, t, D)
    truncated: Array  # (S, t), variance of what bases leave out

    @classmethod
    def of(cls, piece: Piece, total: int, predicted: Sequence[Targets]) -> "_Linearised":
        problem, h = first_order(piece.problem).with_few_cells(), piece.h
        theta = {key: values for key, values in piece.theta.items() if key not in piece.problem.auxiliary}
        linear = linearise(problem, theta, h)
        scaled, d = linear.jacobian * linear.prior_sd, len(piece.columns)
        S, n = scaled.shape[:2]
        jacobian = np.zeros((S, n, total))
        if total:
            jacobian[:, :, piece.columns] = scaled[:, :, :d]
        rest = np.concatenate([linear.extra, scaled[:, :, d:]], axis=2)  # with conditions that are not known
        others = rest @ rest.swapaxes(1, 2)
        u = [problem.unit_inputs(theta)]
        u += [problem.unit_inputs(theta, one.conditions, one.observed) for one in predicted]
        parts, kinds = ([], []) if is_exact(problem.surrogate) else error_parts(problem.surrogate, np.hstack(u), h)
        spread = problem.data_model.joint_error(u[0]).given(h).spread
        spread = np.broadcast_to(spread, (S, *spread.shape[1:]))
        cells = [_of_errors(linear.whitened(spread), part.rows[:, : u[0].shape[1]]) for part in parts]
        slopes, truncated = [np.zeros((S, 0, total))], [np.zeros((S, 0))]
        targets = [[np.zeros((S, 0, *of_cells.shape[2:]))] for of_cells in cells]
        at = u[0].shape[1]
        for points, inputs in zip(predicted, u[1:], strict=True):
            slope = np.zeros((S, len(points.offset), total))
            for i, name in enumerate(problem.parameters):
                shift = np.zeros(problem.surrogate.domain.d)
                shift[problem.surrogate.domain.names.index(name)] = STEP
                upper, lower = (_error(problem, points, inputs + sign * shift).mean_given(h) for sign in (1.0, -1.0))
                slope[:, :, piece.columns[i]] = (upper - lower) / (2.0 * STEP) * linear.prior_sd[i]
            slopes.append(slope)
            law = _error(problem, points, inputs).given(h)
            rows = np.broadcast_to(law.spread, (S, *law.spread.shape[1:]))
            for mine, part in zip(targets, parts, strict=True):
                mine.append(_of_errors(rows, part.rows[:, at : at + inputs.shape[1]]))
            truncated.append(np.broadcast_to(np.sum(law.rows.truncation**2, axis=-1), slope.shape[:2]))
            at += inputs.shape[1]
        return cls(
            problem,
            parts,
            kinds,
            linear.jacobian[:, :, :d],
            jacobian,
            linear.factor @ linear.factor.swapaxes(1, 2) + others,
            others,
            cells,
            [np.concatenate(one, axis=1) for one in targets],
            np.concatenate(slopes, axis=1),
            np.concatenate(truncated, axis=1),
        )

    def scatter(self, piece: Piece, name: str) -> tuple[Array, Array]:
        """Return D of the cells (S, n) for a sd of the noise, and the information of all other rows (S,)."""
        few = log_slopes(self.problem, piece.theta, piece.h, name)
        whole = first_order(piece.problem)
        rows = log_slopes(whole, piece.theta, piece.h, name)[:, whole.cells.row_cell]
        return few, 0.5 * (np.sum(rows**2, axis=1) - np.sum(few**2, axis=1))

    def of_population(self, problem: "PopulationCalibration", theta: dict[str, Array], z: Array) -> "_Linearised":
        """Return the same on the quantities of a population, with the effects of its subjects among other errors."""
        found = population_slopes(problem, self.problem, theta, z, self.own_jacobian)
        S, D = len(z), len(problem.parameters)
        return replace(
            self,
            jacobian=found.jacobian,
            errors=self.errors + found.effects,
            others=self.others + found.effects,
            slopes=np.zeros((S, 0, D)),
        )


def _of_errors(spread: Array, rows: Array) -> Array:
    """Return rows (S, n, P, q) of a part's errors, from rows (S, n, K Q) of scores and those of the scores' errors."""
    S, K, Q = rows.shape[:3]
    return np.asarray(np.einsum("snKQ,sKQPq->snPq", spread.reshape(S, -1, K, Q), rows, optimize=True))


def _error(problem: "SingleCalibration", points: Targets, u: Array) -> JointError:
    """Return the joint error of points to predict at inputs u (S, K, d)."""
    rows = _Fixed(points.offset, points.basis, points.truncation)
    return JointError.of(problem.surrogate, rows, points.experiment, u, problem.cells.used)


class _Fixed(NamedTuple):
    """Rows of points to predict, see `joint_error.Points`."""

    offset: Array
    basis: Array
    truncation: Array
    by_input: None = None


def _between(part: ErrorPart) -> Array:
    """Return the covariance (S, P, q, P, q) of a part between its inputs."""
    return np.stack([_joint(part.covariance(int(h), u)) for h, u in zip(part.draws, part.inputs, strict=True)])


def _joint(covariance: Array) -> Array:
    """Return (n, q, n, q) of a covariance (q, n, n), or as it is."""
    if covariance.ndim == 4:
        return covariance
    q, n, _ = covariance.shape
    out = np.zeros((n, q, n, q))
    for j in range(q):
        out[:, j, :, j] = covariance[j]
    return out


class Candidates(NamedTuple):
    """Runs of one kind that are considered.

    Attributes
    ----------
    kind
        What is run.
    inputs
        Where (M, d), in the unit cube of its box.
    places
        Of each process that a run sees: its place among all parts, and where its rows begin among the part's inputs.
    success
        Probability of success (M,).
    """

    kind: RunKind
    inputs: Array
    places: tuple[tuple[int, int], ...]
    success: Array


class _PartState:
    """Candidates' inputs of one part: covariances with data, targets and each other, given the data and chosen runs."""

    def __init__(self, linear: LinearPosterior, p: int, inputs: Array) -> None:
        part, whitened, own = linear.parts[p], linear.whitened[p], linear.own[p]
        S, P, d = part.inputs.shape
        n, q, b = len(inputs), whitened.shape[-1], whitened.shape[1]
        self.covariance: dict[int, Array] = {}
        self.noise: dict[int, Array] = {}
        self.draws = part.draws
        data, target = np.empty((S, n, q, b)), np.empty((S, n, q, own.shape[1]))
        for h in np.unique(part.draws):
            at = np.flatnonzero(part.draws == h)
            found = part.covariance(int(h), np.concatenate([part.inputs[at].reshape(-1, d), inputs]))
            m = len(at) * P
            independent = found.ndim == 3
            self.covariance[int(h)] = found[:, m:, m:] if independent else found[m:, :, m:]
            for i, s in enumerate(at):
                some = slice(i * P, (i + 1) * P)
                for result, rows in ((data, whitened), (target, own)):
                    if independent:
                        result[s] = np.einsum("bPj,jPi->ijb", rows[s], found[:, some, m:], optimize=True)
                    else:
                        result[s] = np.einsum("bPj,Pjik->ikb", rows[s], found[some, :, m:], optimize=True)
            own_noise = np.broadcast_to(part.noise(int(h), inputs), (n, q, q)).copy()
            largest = self._diagonals(int(h)).max(axis=0)
            floor = np.where(largest > 0.0, FLOOR * largest, 1.0)
            own_noise[:, np.arange(q), np.arange(q)] += np.where(own_noise.any(axis=(1, 2))[:, None], 0.0, floor)
            self.noise[int(h)] = own_noise
        self.data = (
            data.copy() if linear.noises else data
        )  # whitened covariance with the data, given the chosen runs without the data
        self.bare: list[Array] = []  # products of these are what chosen runs take from covariances without the data
        self.seen = [data]  # B: products of these are what data and chosen runs take from covariances
        self.target = target - np.einsum("sijb,sbt->sijt", data, linear.crossed, optimize=True)

    def _diagonals(self, h: int) -> Array:
        C = self.covariance[h]
        if C.ndim == 3:
            return np.asarray(np.diagonal(C, axis1=1, axis2=2).T)
        return np.asarray(np.einsum("ijij->ij", C))

    def between(self, i: Ints | slice, r: int) -> Array:
        """Return the covariance (S, n, q, q) of candidates i with candidate r, given the runs so far alone."""
        by_draw = {}
        for h, C in self.covariance.items():
            if C.ndim == 3:
                block = np.zeros((C.shape[1], len(C), len(C)))
                block[:, np.arange(len(C)), np.arange(len(C))] = C[:, :, r].T
            else:
                block = C[:, :, r]
            by_draw[h] = block[i]
        return np.stack([by_draw[int(h)] for h in self.draws])

    def at(self, i: slice) -> Array:
        """Return the covariance (S, n, q, q) of candidates with themselves."""
        by_draw = {}
        for h, C in self.covariance.items():
            if C.ndim == 3:
                some = np.diagonal(C, axis1=1, axis2=2).T[i]
                by_draw[h] = some[:, :, None] * np.eye(len(C))
            else:
                by_draw[h] = np.einsum("ijik->ijk", C)[i]
        return np.stack([by_draw[int(h)] for h in self.draws])

    def noise_at(self, i: slice) -> Array:
        """Return the covariance (S, n, q, q) of the noise of candidates."""
        return np.stack([self.noise[int(h)][i] for h in self.draws])


@final
@dataclass(eq=False)
class Gains:
    """Candidates of all kinds, and what each would take from the variances of the targets given what is chosen.

    Attributes
    ----------
    candidates
        By kind.
    scale
        Var(t | z) in the mean over the draws before any run, (T,).
    variance
        Var(t | z, chosen), (T,).
    """

    candidates: list[Candidates]
    scale: Array
    variance: Array
    _parts: dict[int, _PartState]
    _left: list[Array] = field(default_factory=list)  # by kind, V without noise (S, M, m, m)
    _noise: list[Array] = field(default_factory=list)
    _noises: tuple[NoiseTarget, ...] = ()
    _information: list[Array] = field(default_factory=list)  # of each of these (S,), with the chosen runs
    _bare: list[Array] = field(default_factory=list)  # by kind, V without noise and without the data
    _G: Array = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def of(cls, linear: LinearPosterior, candidates: list[Candidates], inputs: dict[int, Array]) -> "Gains":
        """Return the gains of candidates; `inputs` are those of each part that they see."""
        parts = {p: _PartState(linear, p, rows) for p, rows in inputs.items()}
        variance = linear.variance.mean(axis=0)
        out = cls(candidates, variance, variance.copy(), parts)
        out._noises, out._information = linear.noises, [one.information for one in linear.noises]
        if linear.noises:
            out._G = np.tile(np.eye(linear.noises[0].first.shape[1]), (len(linear.variance), 1, 1))
        for one in candidates:
            S, M = len(linear.variance), len(one.inputs)
            sizes = [parts[p].target.shape[2] for p, _ in one.places]
            left, noise = (np.zeros((S, M, sum(sizes), sum(sizes))) for _ in range(2))
            at = 0
            for (p, start), q in zip(one.places, sizes, strict=True):
                block = slice(at, at + q)
                left[:, :, block, block] = parts[p].at(slice(start, start + M))
                noise[:, :, block, block] = parts[p].noise_at(slice(start, start + M))
                at += q
            seen = out._seen(one, parts[one.places[0][0]].seen[0].shape[-1])
            out._bare.append(left.copy() if linear.noises else left)
            out._left.append(left - seen @ seen.swapaxes(2, 3))
            out._noise.append(noise)
        return out

    def _seen(self, one: Candidates, width: int) -> Array:
        """Return the newest B (S, M, m, b) of candidates of a kind."""
        M = len(one.inputs)
        return np.concatenate([self._parts[p].seen[-1][:, start : start + M] for p, start in one.places], axis=2)

    def _crossed(self, k: int, at: slice | Ints) -> Array:
        """Return K (S, n, m, T)."""
        one = self.candidates[k]
        M = len(one.inputs)
        return np.concatenate([self._parts[p].target[:, start : start + M][:, at] for p, start in one.places], axis=2)

    def of_kind(self, k: int) -> Array:
        """Return what each candidate of a kind takes from the variance of each target, (M, T), if it succeeds."""
        root = np.linalg.cholesky(self._left[k] + self._noise[k])
        taken = np.sum(np.linalg.solve(root, self._crossed(k, slice(None))) ** 2, axis=2).mean(axis=0)
        if not self._noises:
            return np.asarray(taken)
        V = self._taken(k, slice(None))
        more = [
            (one.variance(now)[:, None] - one.variance(now[:, None] + one.added(self._G, V))).mean(axis=0)
            for one, now in zip(self._noises, self._information, strict=True)
        ]
        return np.column_stack([taken, *more])

    def _taken(self, k: int, at: slice | Ints) -> Array:
        """Return V (S, n, m, b) of candidates of a kind: what they take from the data's covariance."""
        one, M = self.candidates[k], len(self.candidates[k].inputs)
        data = [self._parts[p].data[:, start : start + M][:, at] for p, start in one.places]
        root = np.linalg.cholesky(self._bare[k][:, at] + self._noise[k][:, at])
        return np.asarray(np.linalg.solve(root, np.concatenate(data, axis=2)))

    def _choose_noise(self, k: int, r: int) -> None:
        """Condition the information about the noise on a run of kind k at its candidate r."""
        one, at = self.candidates[k], np.array([r])
        p = float(one.success[r])
        root = np.linalg.cholesky(self._bare[k][:, r] + self._noise[k][:, r])
        V = np.sqrt(p) * self._taken(k, at)[:, 0]  # (S, m, b)
        for i, target in enumerate(self._noises):
            self._information[i] = self._information[i] + target.added(self._G, V[:, None])[:, 0]
        VG = V @ self._G
        self._G = self._G + VG.swapaxes(1, 2) @ np.linalg.solve(np.eye(V.shape[1]) - VG @ V.swapaxes(1, 2), VG)
        new = self._shared(one, r, root, {place: state.bare for place, state in self._parts.items()})
        for place, state in self._parts.items():
            state.data -= np.einsum("sijm,smb->sijb", new[place], V, optimize=True)
            state.bare.append(new[place])
        for i, other in enumerate(self.candidates):
            M = len(other.inputs)
            own = np.concatenate([self._parts[p].bare[-1][:, start : start + M] for p, start in other.places], axis=2)
            self._bare[i] = self._bare[i] - own @ own.swapaxes(2, 3)

    def _shared(self, one: Candidates, r: int, root: Array, before: Mapping[int, Sequence[Array]]) -> dict[int, Array]:
        """Return what every candidate shares with run r of a kind, given `before`, by part (S, n, q, m).

        It is B in units of the run's own scatter, whose Cholesky factor is `root` (S, m, m).
        """
        sizes = [self._parts[part].target.shape[2] for part, _ in one.places]
        chosen = [
            np.concatenate([before[part][c][:, start + r] for part, start in one.places], axis=1)
            for c in range(len(before[one.places[0][0]]))
        ]
        new = {}
        for place, state in self._parts.items():
            n, q = state.target.shape[1:3]
            X, at = np.zeros((len(root), n, q, sum(sizes))), 0
            for (part, start), size in zip(one.places, sizes, strict=True):
                if part == place:
                    X[..., at : at + size] = state.between(slice(None), start + r)
                at += size
            for mine, theirs in zip(before[place], chosen, strict=True):
                X -= np.einsum("sijb,smb->sijm", mine, theirs, optimize=True)
            flat = np.linalg.solve(root, X.reshape(len(root), n * q, -1).swapaxes(1, 2)).swapaxes(1, 2)
            new[place] = np.sqrt(float(one.success[r])) * flat.reshape(len(root), n, q, -1)
        return new

    def choose(self, k: int, r: int) -> None:
        """Condition everything on a run of kind k at its candidate r."""
        one = self.candidates[k]
        p = float(one.success[r])
        root = np.linalg.cholesky(self._left[k][:, r] + self._noise[k][:, r])  # (S, m, m)
        K = np.sqrt(p) * np.linalg.solve(root, self._crossed(k, np.array([r]))[:, 0])  # (S, m, T)
        new = self._shared(one, r, root, {place: state.seen for place, state in self._parts.items()})
        for place, state in self._parts.items():
            state.target -= np.einsum("sijm,smt->sijt", new[place], K, optimize=True)
            state.seen.append(new[place])
        for i, other in enumerate(self.candidates):
            own = self._seen(other, 0)
            self._left[i] -= own @ own.swapaxes(2, 3)
        T = K.shape[2]
        self.variance = self.variance.copy()
        self.variance[:T] -= np.sum(K**2, axis=1).mean(axis=0)
        if self._noises:
            self._choose_noise(k, r)
            several = zip(self._noises, self._information, strict=True)
            self.variance[T:] = [float(target.variance(now).mean()) for target, now in several]

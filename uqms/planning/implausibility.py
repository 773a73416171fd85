"""How far measurements are from what a surrogate says of them, as a joint implausibility with a stated level.

==========  ======================================================================  ==============
symbol      meaning                                                                 shape
==========  ======================================================================  ==============
h, w_h      hyperparameter draw of the surrogate, its weight                        (H,)
m           cells: output, coordinate and condition; replicates are one cell        ()
r_h         cell means of the measurements less the surrogate's mean, whitened      (H, S, m)
V_h         their covariance, whitened: I + the surrogate's error                   (H, S, m, m)
r, V        mean and covariance of the mixture over h                               (S, m), (S, m, m)
I2          r' V^-1 r, the implausibility                                           (S,)
p           probability of a larger I2 at these parameters                          (S,)
==========  ======================================================================  ==============

At parameters theta the surrogate predicts the measurements with the law sum_h w_h N(mean_h, S_h + Sigma + delta): its
own error, joint over outputs and conditions, noise, and discrepancy. theta is ruled out when the measurements lie in a
tail of *that* law. Mean and covariance of the mixture define the ellipsoids, I2 = r' V^-1 r with

    V = sum_h w_h [V_h + (r_h - r)(r_h - r)'],

and I2 has the mean m whatever the draws. It is chi-square with m degrees of freedom when there is one draw. With
several it has a longer tail, and by the law of total probability p = sum_h w_h P_h(I2' > I2): under each draw I2' is a
quadratic form in normal variables, whose tail follows from its first three cumulants (Imhof 1961; exact where V_h = V,
and computed exactly for m = 1). Averages of I2_h, or of p_h, over the draws have no such meaning: the chance to rule
out the truth would not be the level. What is reported is the chi-square number with the same p, so that all points have
one scale.

Where noise and rows are the same everywhere, r lies in the span of the surrogate's rows and a rest that does not depend
on theta: the rest adds a constant to I2 and its dimension to m, and only the span is computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, final

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import chdtrc, gammainccinv, ndtr

from uqms._typing import Array
from uqms.calibration import SingleCalibration
from uqms.calibration.density import covariance_of, noise_covariance
from uqms.calibration.discrepancy import ORTHOGONAL
from uqms.calibration.joint_error import JointError
from uqms.calibration.likelihood import dense
from uqms.errors import InputError

__all__ = ["Implausibility", "Judged", "form_tail"]

NUMBERS = 3_000_000  # of the largest array
SMALLEST = 1e-280  # tail probability below which its chi-square number is not asked for
RELATIVE_NOISE = 0.25  # of a measured value whose logarithm is modelled


class Judged(NamedTuple):
    """What is said of S parameter values.

    Attributes
    ----------
    squared
        I2, as the chi-square number with m degrees of freedom that has the same tail probability, shape (S,).
    could
        Probability that the simulator itself, without a surrogate's error, would rule the point out, shape (S,).
    """

    squared: Array
    could: Array


class _Law(NamedTuple):
    """Whitened residuals (H, S, r) with covariances (H, S, r, r), of which `errors` are the surrogate's."""

    residual: Array
    covariance: Array
    weights: Array


@final
@dataclass(frozen=True, eq=False)
class Implausibility:
    """The joint implausibility of one calibration problem with known noise; see the table at the top of this file."""

    problem: SingleCalibration
    z: Array = field(init=False)  # (m,), on the surrogate's scale
    root: Array = field(init=False)  # (m, m), lower Cholesky factor of noise, discrepancy and fixed truncation
    frame: Array | None = field(init=False)  # (m, r), spans the whitened rows where they are fixed
    spread: Array = field(init=False)  # (r, K q)
    rest: float = field(init=False)  # what the complement of the frame adds
    draws: int = field(init=False)

    def __post_init__(self) -> None:
        problem, model, cells = self.problem, self.problem.data_model, self.problem.cells
        _check(problem)
        z, gain = _measured(problem)
        phi = model.noise.phi({}, (1,))
        u = problem.unit_inputs({name: np.zeros(1) + _middle(problem, name) for name in problem.parameters})
        found = model.joint_error(u)
        own = (model.noise.sds(cells.group, phi, z[None])[0] * gain) ** 2 / cells.weight
        covariance = np.diag(own)
        if model.noise.terms:
            inside = covariance_of(model, phi, model.mean_slopes(u)[0])[0]
            outside = [term for term in model.noise.terms if term not in model.inside.terms]
            process = noise_covariance(model, model.noise.named(phi), 1, outside)[0]
            covariance = covariance + inside + process * np.outer(gain, gain)
        fixed = found.fixed and len(found.used) > 0 and model.realisation is None
        if fixed:
            same = cells.experiment[:, None] == cells.experiment
            covariance = covariance + same * (cells.truncation @ cells.truncation.T)
        root = np.linalg.cholesky(covariance)
        for name, value in {"z": z, "root": root, "draws": len(found.scores.mean)}.items():
            object.__setattr__(self, name, value)
        frame, spread, rest = None, np.zeros((0, 0)), 0.0
        if fixed:
            K, q = cells.experiments, len(found.used)
            rows = np.zeros((len(z), K, q))
            rows[np.arange(len(z)), cells.experiment] = dense(cells.basis[:, found.used])
            frame, spread = np.linalg.qr(solve_triangular(root, rows.reshape(len(z), K * q), lower=True))
            constant = solve_triangular(root, z - cells.offset, lower=True)
            rest = max(float(constant @ constant - np.sum((frame.T @ constant) ** 2)), 0.0)
        for name, one in {"frame": frame, "spread": spread, "rest": rest}.items():
            object.__setattr__(self, name, one)

    @property
    def m(self) -> int:
        """Number of cells."""
        return len(self.z)

    def at(self, theta: Mapping[str, Array], cutoff: float = np.inf) -> Judged:
        """Return I2 at parameters, each (S,), and the chance that the simulator itself would be beyond a cutoff."""
        count = len(next(iter(theta.values())))
        r = self.m if self.frame is None else self.frame.shape[1]
        K, q = self.problem.cells.experiments, max(1, len(self.problem.data_model.used))
        largest = self.draws * max(r * r, (K * q) ** 2 if K > 1 else q, K * getattr(self.problem.surrogate, "runs", 1))
        size = max(1, NUMBERS // largest)
        parts = [
            self._some({name: one[start : start + size] for name, one in theta.items()}, cutoff)
            for start in range(0, count, size)
        ]
        return Judged(*(np.concatenate(one) for one in zip(*parts, strict=True)))

    def by_output(self, theta: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
        """Return for each output the probability (S,) of measurements as far away, and its largest deviation in sds.

        An output is judged alone here, jointly over its own cells.
        """
        mean, covariance, _ = self._moments(theta)
        out = {}
        for output in dict.fromkeys(self.problem.cells.output.astype(str).tolist()):
            at = np.flatnonzero(self.problem.cells.output.astype(str) == output)
            r, V = mean[:, at], covariance[:, at[:, None], at]
            squared = np.einsum("sa,sa->s", r, np.linalg.solve(V, r[..., None])[..., 0])
            sds = r / np.sqrt(np.diagonal(V, axis1=1, axis2=2))
            worst = np.abs(sds).argmax(axis=1)
            out[output] = chdtrc(float(len(at)), squared), np.take_along_axis(sds, worst[:, None], 1)[:, 0]
        return out

    def error_of_noise(self, theta: Mapping[str, Array]) -> Array:
        """Return the surrogate's variance over that of noise and discrepancy, the mean over cells, shape (S,)."""
        _, covariance, noise = self._moments(theta)
        total, known = (np.diagonal(one, axis1=1, axis2=2) for one in (covariance, noise))
        return np.asarray(np.mean(total / known - 1.0, axis=1))

    def _moments(self, theta: Mapping[str, Array]) -> tuple[Array, Array, Array]:
        """Return mean (S, m) and covariance (S, m, m) of the residuals, of the mixture, and that of the noise alone."""
        u = self.problem.unit_inputs(theta)
        found = self.problem.data_model.joint_error(u)
        weights = np.exp(found.scores.log_weights)
        residual = self.z - found.mean
        mean = np.tensordot(weights, residual, 1)
        noise = np.broadcast_to(self.root @ self.root.T, (*mean.shape, self.m))
        if self.frame is not None:  # truncation is in both
            E = found.rows.truncation
            noise = noise - (found.index[:, None] == found.index) * (E @ E.T)
        if self.problem.realisation is not None:
            runs = self.problem.data_model.run_factor(u)
            noise = noise + runs @ runs.transpose(0, 2, 1)
        covariance = np.zeros((*mean.shape, self.m))
        count = np.zeros(len(mean), dtype=np.int64)
        for h, weight in enumerate(weights):
            off = residual[h] - mean
            covariance += weight * (found.given(count + h).covariance + off[:, :, None] * off[:, None, :])
        return mean, covariance + noise, noise

    def _some(self, theta: Mapping[str, Array], cutoff: float) -> Judged:
        u = self.problem.unit_inputs(theta)
        found = self.problem.data_model.joint_error(u)
        law = self._in_frame(found) if self.frame is not None else self._whole(found, u)
        m, free = self.m, self.m - law.residual.shape[2]
        r = np.tensordot(law.weights, law.residual, 1)
        off = law.residual - r  # (H, S, r)
        V = np.tensordot(law.weights, law.covariance + off[..., :, None] * off[..., None, :], 1)
        inverse = np.linalg.inv(np.linalg.cholesky(V))  # (S, r, r)
        squared = np.sum(np.einsum("sij,sj->si", inverse, r) ** 2, axis=1) + self.rest
        if self.draws == 1:
            out = squared
        else:
            A = inverse @ law.covariance @ inverse.transpose(0, 2, 1)
            a = np.einsum("sij,hsj->hsi", inverse, off)
            p = np.tensordot(law.weights, form_tail(squared, A, a, free), 1)
            out = np.where(p > SMALLEST, 2.0 * gammainccinv(0.5 * m, np.clip(p, SMALLEST, 1.0)), squared)
        if not np.isfinite(cutoff):
            return Judged(out, np.full(len(out), np.nan))
        errors = law.covariance - np.eye(law.covariance.shape[-1])
        could = form_tail(np.full(len(out), cutoff - self.rest), errors, law.residual, 0)
        return Judged(out, np.tensordot(law.weights, could, 1))

    def _in_frame(self, found: JointError) -> _Law:
        """Return the law in the span of the whitened rows."""
        assert self.frame is not None
        used, scores = found.used, found.scores
        H, S, K, _ = scores.mean.shape
        q = len(used)
        constant = self.frame.T @ solve_triangular(self.root, self.z - self.problem.cells.offset, lower=True)
        residual = constant - scores.mean[..., used].reshape(H, S, K * q) @ self.spread.T
        if scores.correlated:
            C = scores.covariance[..., used, :, :][..., used].reshape(H, S, K * q, K * q)
            covariance = self.spread @ C @ self.spread.T
        elif K == 1:
            own = scores.covariance[:, :, used, 0, 0]
            covariance = (self.spread * own[..., None, :]) @ self.spread.T
        else:
            by_score = self.spread.reshape(-1, K, q)
            covariance = np.zeros((H, S, len(self.spread), len(self.spread)))
            for j in range(q):
                covariance += by_score[:, :, j] @ scores.covariance[:, :, used[j]] @ by_score[:, :, j].T
        return _Law(residual, covariance + np.eye(len(self.spread)), np.exp(scores.log_weights))

    def _whole(self, found: JointError, u: Array) -> _Law:
        """Return the law of all whitened cells; what runs of a stochastic simulator differ by is part of the noise."""
        root = self.root[None]
        if self.problem.realisation is not None:
            runs = self.problem.data_model.run_factor(u)
            root = np.linalg.cholesky(root @ root.transpose(0, 2, 1) + runs @ runs.transpose(0, 2, 1))
        inverse = np.linalg.inv(root)  # (S or 1, m, m)
        residual = np.einsum(
            "sij,hsj->hsi", np.broadcast_to(inverse, (len(u), *inverse.shape[1:])), self.z - found.mean
        )
        count, parts = np.zeros(residual.shape[1], dtype=np.int64), []
        for h in range(len(residual)):
            factor = inverse @ found.given(count + h).factor
            parts.append(np.eye(self.m) + factor @ factor.transpose(0, 2, 1))
        return _Law(residual, np.stack(parts), np.exp(found.scores.log_weights))


def form_tail(t: Array, A: Array, a: Array, free: int) -> Array:
    """Return P(|x|² + chi-square_free > t), x ~ N(a, A), for t (S,), A (H, S, r, r) and a (H, S, r): shape (H, S)."""
    if A.shape[-1] + free == 1 and A.shape[-1] == 1:
        sd, root = np.sqrt(np.maximum(A[..., 0, 0], 1e-300)), np.sqrt(np.maximum(t, 0.0))
        return np.asarray(np.where(t < 0.0, 1.0, ndtr((-root - a[..., 0]) / sd) + ndtr((a[..., 0] - root) / sd)))
    Aa = np.einsum("...ij,...j->...i", A, a)
    AA = A @ A
    first = np.trace(A, axis1=-2, axis2=-1) + np.sum(a * a, axis=-1) + free
    second = np.trace(AA, axis1=-2, axis2=-1) + 2.0 * np.sum(a * Aa, axis=-1) + free
    third = np.einsum("...ij,...ji->...", AA, A) + 3.0 * np.sum(Aa * Aa, axis=-1) + free
    second, third = np.maximum(second, 1e-30), np.maximum(third, 1e-45)
    # A chi-square number with these three cumulants: mean, 2 * second, 8 * third.
    degrees = second**3 / third**2
    beyond = degrees + (t - first) * np.sqrt(degrees / second)
    return np.asarray(np.where(beyond <= 0.0, 1.0, chdtrc(degrees, np.maximum(beyond, 0.0))))


def _middle(problem: SingleCalibration, name: str) -> float:
    box = problem.surrogate.domain.select((name,))
    return float(box.from_unit([0.5])[0])


def _measured(problem: SingleCalibration) -> tuple[Array, Array]:
    """Return the cells' means on the surrogate's scale, and by what a noise sd in the output's unit is multiplied."""
    cells = problem.cells
    z, gain = cells.cell_mean.copy(), np.ones(len(cells.cell_mean))
    for g, one in enumerate(cells.responses):
        at = np.flatnonzero(cells.group == g)
        if one.name == "identity":
            continue
        if one.outside(z[at]).any():
            raise InputError(
                f"HistoryMatching: the surrogate models the {one.name} of {problem.noise.outputs[g]!r}, and a measured "
                f"value of {z[at][one.outside(z[at])][0]:g} has none. Fit the output without a transform."
            )
        z[at] = one.forward(z[at])
        gain[at] = 1.0 / one.inverse_slope(z[at])
        sd = problem.noise.phi({}, (1,))[0, g] * gain[at] / np.sqrt(cells.weight[at])
        if (sd > RELATIVE_NOISE).any():
            raise InputError(
                f"HistoryMatching: the surrogate models the {one.name} of {problem.noise.outputs[g]!r}, and the noise "
                f"is {sd.max():.2g} on that scale, too large to be converted (limit {RELATIVE_NOISE:g}). Fit the "
                "output without a transform, or give uq.LogNormalNoise(...) where noise is relative."
            )
    return z, gain


def _check(problem: SingleCalibration) -> None:
    """Refuse what has no implausibility of this form, with what to give instead."""
    noise, cells = problem.noise, problem.cells
    unknown = list(noise.unknown)
    if noise.factors:
        raise InputError("HistoryMatching: a ScaleDiscrepancy has no fixed covariance; give uq.OffsetDiscrepancy(sd=).")
    if unknown:
        raise InputError(
            f"HistoryMatching: {', '.join(unknown)} are to be inferred, but waves need known numbers, such as "
            "noise=uq.GaussianNoise(sd=0.1), discrepancy=uq.GPDiscrepancy(sd=0.2, length=3.0). Infer them after the "
            "waves: waves.calibration(noise=...)."
        )
    if not all(model.gaussian for model in noise.models) or noise.growth:
        raise InputError(
            "HistoryMatching: noise must be Gaussian with a known standard deviation: GaussianNoise, LogNormalNoise or "
            "AutocorrelatedNoise, or sds in the observations. Other noise is for waves.calibration(noise=...)."
        )
    if cells.side.any():
        raise InputError("HistoryMatching: censored values have no residual; leave them out here, not in calibration.")
    if any(term.role == ORTHOGONAL for term in noise.terms):
        raise InputError("HistoryMatching: give the discrepancy orthogonal=False: its covariance must not depend on θ.")
    if problem.uncertain:
        raise InputError("HistoryMatching: conditions that were measured with an error are for a calibration.")

"""The verdict on a posterior: what was checked, what was found, and what to do about it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import xarray as xr

from uqms._typing import Array, Ints
from uqms.calibration.likelihood import compress
from uqms.calibration.problem import Calibration

__all__ = ["Check", "Verdict", "judge"]

Status = Literal["pass", "warn", "fail"]
R_HAT, R_HAT_FAIL = 1.01, 1.05
ESS_PER_CHAIN, ESS_FAIL = 100, 25
SHARE_LIMIT = 0.5
EDGE, EDGE_MASS = 0.02, 0.01
AUTOCORRELATION_LEVEL = 0.01
SHARE_DRAWS, NULL_DRAWS = 200, 2000
BLOCK = 4_000_000  # numbers in one array


@final
@dataclass(frozen=True)
class Check:
    """One check: its name, status, the figure behind it, what it means and what to do."""

    name: str
    status: Status
    value: float
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.status.upper():<4}  {self.name}: {self.message}"
        return text if self.status == "pass" else f"{text}\n      → {self.remedy}"


@final
@dataclass(frozen=True)
class Verdict:
    """All checks of a posterior; its status is that of the worst."""

    checks: tuple[Check, ...]

    @property
    def status(self) -> Status:
        """The worst status: pass, warn or fail."""
        found = {check.status for check in self.checks}
        return "fail" if "fail" in found else "warn" if "warn" in found else "pass"

    @property
    def warnings(self) -> tuple[Check, ...]:
        """Checks that did not pass."""
        return tuple(check for check in self.checks if check.status != "pass")

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check {name!r}; there are {[check.name for check in self.checks]}")

    def __str__(self) -> str:
        head = {
            "pass": "Verdict: PASS. No check objects to this posterior.",
            "warn": "Verdict: WARN. Read these before you use the intervals:",
            "fail": "Verdict: FAIL. These intervals should not be used:",
        }[self.status]
        order = sorted(self.checks, key=lambda check: ("fail", "warn", "pass").index(check.status))
        return "\n".join([head, *(str(check) for check in order)])


def judge(
    problem: Calibration,
    theta: Mapping[str, Array],
    h: Ints,
    r_hat: Mapping[str, float],
    ess: Mapping[str, float],
    divergences: int,
    shape: tuple[int, int],
    asked: tuple[int, int],
) -> tuple[Verdict, xr.Dataset]:
    """Return the verdict and the share of the surrogate's error in every parameter.

    Parameters
    ----------
    problem
        The calibration.
    theta
        Draws of everything inferred, each (chains * draws,).
    h
        Hyperparameter draw of each, (chains * draws,).
    r_hat, ess
        By parameter: rank-normalised split R-hat, and the smaller of bulk and tail effective sample size.
    divergences
        Number of divergent draws.
    shape, asked
        (chains, draws) there are, and that were asked for.
    """
    convergence = (
        _check_r_hat(r_hat, shape[0]),
        _check_ess(ess, shape[0]),
        _check_divergences(divergences, shape[0] * shape[1]),
        _check_finite(theta, shape, asked),
    )
    finite = np.all([np.isfinite(values) for values in theta.values()], axis=0)
    theta, h = {name: values[finite] for name, values in theta.items()}, h[finite]
    if len(h) == 0:
        return Verdict(convergence), xr.Dataset({name: ((), float("nan")) for name in problem.parameters})
    share = _share(problem, theta, h)
    checks = (
        *convergence,
        _check_share(problem, share),
        _check_residuals(problem, theta),
        _check_edge(problem, theta),
    )
    shares = xr.Dataset({name: ((), float(value)) for name, value in zip(problem.parameters, share, strict=True)})
    return Verdict(checks), shares


def _check_r_hat(r_hat: Mapping[str, float], chains: int) -> Check:
    if chains < 2:
        message, remedy = "one chain, so agreement cannot be judged", "Sample at least 4 chains: NUTS(chains=4)."
        return Check("R-hat", "warn", float("nan"), message, remedy)
    name = max(r_hat, key=lambda key: r_hat[key] if np.isfinite(r_hat[key]) else np.inf)
    worst = r_hat[name]
    status: Status = "pass" if worst <= R_HAT else "warn" if worst <= R_HAT_FAIL else "fail"
    message = f"largest {worst:.3f} ({name}), limit {R_HAT}"
    remedy = "Chains disagree: sample longer (NUTS(tune=2000, draws=2000)); if that does not help, look for two modes."
    return Check("R-hat", status, float(worst), message, remedy)


def _check_ess(ess: Mapping[str, float], chains: int) -> Check:
    name = min(ess, key=lambda key: ess[key] if np.isfinite(ess[key]) else -np.inf)
    worst, limit = ess[name], ESS_PER_CHAIN * chains
    status: Status = "pass" if worst >= limit else "warn" if worst >= ESS_FAIL * chains else "fail"
    message = f"smallest of bulk and tail {worst:.0f} ({name}), limit {limit}"
    return Check("ESS", status, float(worst), message, "Too few independent draws: raise NUTS(draws=...).")


def _check_divergences(count: int, draws: int) -> Check:
    status: Status = "pass" if count == 0 else "warn" if count <= 0.01 * draws else "fail"
    message = f"{count} of {draws} draws"
    remedy = "Parts of the posterior may be missed: NUTS(target_accept=0.99), or a tighter prior."
    return Check("divergences", status, float(count), message, remedy)


def _check_finite(theta: Mapping[str, Array], shape: tuple[int, int], asked: tuple[int, int]) -> Check:
    bad = sum(int(np.count_nonzero(~np.isfinite(values))) for values in theta.values())
    ok = bad == 0 and shape == asked
    message = f"{shape[0]} chains of {shape[1]} draws, {bad} not finite"
    return Check("finite draws", "pass" if ok else "fail", float(bad), message, "Sampling broke off: sample again.")


@final
@dataclass(frozen=True, eq=False)
class _Linear:
    """The problem linearised at s values of its parameters; outputs in units of their noise.

    The cell means are jacobian @ parameters + factor @ standard normals + standard normals; the parameters are in the
    unit cube and have standard deviations `prior_sd`.
    """

    jacobian: Array  # (s, N, d)
    factor: Array  # (s, N, r), of the surrogate's error
    prior_sd: Array  # (d,)


def _blocks(problem: Calibration, count: int) -> list[slice]:
    """Return slices of `count` draws whose arrays fit into memory."""
    cells = problem.cells
    n, k, q = len(cells.offset), cells.experiments, cells.basis.shape[1]
    runs = int(getattr(problem.surrogate, "runs", 100))
    each = n * (q * k + min(n, cells.truncation.shape[1] * k) + len(problem.parameters)) + q * k * max(runs, k)
    size = max(1, BLOCK // each)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _linearise(problem: Calibration, theta: Mapping[str, Array], h: Ints) -> _Linear:
    cells, box = problem.cells, problem.surrogate.domain
    e, draws = cells.experiment, np.arange(len(h))
    u = problem.unit_inputs(theta)
    columns = [box.names.index(name) for name in problem.parameters]
    sd = np.sqrt(problem.noise.values(theta, (len(h),))[:, cells.group] ** 2 / cells.weight)
    step = 1e-4
    jacobian = np.empty((len(h), len(e), len(columns)))
    for i, column in enumerate(columns):
        shift = np.zeros(box.d)
        shift[column] = step
        upper, lower = (problem.surrogate.scores(u + sign * shift).mean[h, draws] for sign in (1.0, -1.0))
        slope = (upper - lower) / (2.0 * step)
        jacobian[:, :, i] = np.einsum("snq,nq->sn", slope[:, e, :], cells.basis)
    values, vectors = np.linalg.eigh(problem.surrogate.scores(u).covariance[h, draws])  # (s, q, K), (s, q, K, K)
    roots = vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :]
    scores = roots.transpose(0, 2, 1, 3)[:, e] * cells.basis[:, :, None]  # (s, N, q, K)
    truncation = _by_experiment(cells.truncation, e)
    factor = np.concatenate(
        [scores.reshape(*sd.shape, -1), np.broadcast_to(truncation, (len(h), *truncation.shape))], axis=2
    )
    prior = problem.unit_inputs(problem.prior_draws(4000, 0))[:, 0, columns]
    return _Linear(jacobian / sd[:, :, None], factor / sd[:, :, None], prior.std(axis=0))


def _by_experiment(truncation: Array, experiment: Ints) -> Array:
    """Return the truncation factor with columns of its own for each experiment, no more than needed."""
    rows = [np.flatnonzero(experiment == k) for k in np.unique(experiment)]
    parts = [compress(truncation[r]) for r in rows]
    out = np.zeros((len(truncation), sum(part.shape[1] for part in parts)))
    start = 0
    for r, part in zip(rows, parts, strict=True):
        out[r, start : start + part.shape[1]] = part
        start += part.shape[1]
    return out


def _solve(factor: Array, right: Array) -> Array:
    """Return (1 + factor factor')^-1 right, through the smaller side."""
    n, r = factor.shape[-2:]
    transposed = np.swapaxes(factor, -1, -2)
    if r < n:
        return np.asarray(right - factor @ np.linalg.solve(np.eye(r) + transposed @ factor, transposed @ right))
    return np.asarray(np.linalg.solve(np.eye(n) + factor @ transposed, right))


def _share(problem: Calibration, theta: Mapping[str, Array], h: Ints) -> Array:
    """Return 1 - Var(without the surrogate's error) / Var(with it), for each parameter."""
    picked = np.unique(np.linspace(0, len(h) - 1, min(SHARE_DRAWS, len(h))).astype(int))
    d = len(problem.parameters)
    full, without = np.zeros(d), np.zeros(d)
    for rows in _blocks(problem, len(picked)):
        at = picked[rows]
        linear = _linearise(problem, {name: values[at] for name, values in theta.items()}, h[at])
        prior = np.diag(linear.prior_sd**-2)
        transposed = linear.jacobian.transpose(0, 2, 1)
        for total, right in ((full, _solve(linear.factor, linear.jacobian)), (without, linear.jacobian)):
            variance = np.linalg.inv(transposed @ right + prior)
            total += variance[:, np.arange(d), np.arange(d)].sum(axis=0)
    return np.asarray(np.clip(1.0 - without / full, 0.0, 1.0))


def _check_share(problem: Calibration, share: Array) -> Check:
    worst = int(np.argmax(share))
    name = problem.parameters[worst]
    message = f"at most {share[worst]:.0%} of a parameter's variance ({name}), limit {SHARE_LIMIT:.0%}"
    remedy = (
        "The surrogate, not the measurement, limits the answer: run more points where the posterior is, fit again "
        "and calibrate again."
    )
    status: Status = "pass" if share[worst] <= SHARE_LIMIT else "warn"
    return Check("surrogate error", status, float(share[worst]), message, remedy)


def _series(problem: Calibration) -> list[Ints]:
    """Return runs of cells that follow each other along the one numeric coordinate of their output."""
    cells = problem.cells
    series = []
    for k in range(cells.experiments):
        for output in dict.fromkeys(cells.output):
            rows = np.flatnonzero((cells.experiment == k) & (cells.output == output))
            dims = problem.surrogate.layouts[str(output)].dims
            if len(dims) == 1 and len(rows) >= 4:
                series.append(rows[np.argsort(cells.coords[dims[0]][rows])])
    return series


def _lag_one(residual: Array, series: list[Ints]) -> Array:
    """Return the correlation (...) of standardised residuals (..., N) with their successors, pooled over the series."""
    first = residual[..., np.concatenate([rows[:-1] for rows in series])]
    second = residual[..., np.concatenate([rows[1:] for rows in series])]
    first = first - first.mean(axis=-1, keepdims=True)
    second = second - second.mean(axis=-1, keepdims=True)
    norm = np.sqrt(np.sum(first**2, axis=-1) * np.sum(second**2, axis=-1))
    return np.asarray(np.sum(first * second, axis=-1) / norm)


def _check_residuals(problem: Calibration, theta: Mapping[str, Array]) -> Check:
    """Compare the lag-1 correlation of the estimated noise with what the model itself, with independent noise, gives.

    The noise is estimated from data minus prediction as E[noise | data]: what the surrogate's error and the parameters
    can explain, which is correlated along a curve, is taken out of the data and of the null's draws alike.
    """
    name = "autocorrelated residuals"
    series = _series(problem)
    if not series:
        return Check(name, "pass", float("nan"), "not judged: no curve with at least 4 observed coordinates")
    cells = problem.cells
    centre = {key: np.array([np.mean(values)]) for key, values in theta.items()}
    sigma, values, alpha, _ = next(problem.log_likelihood_terms(centre))
    weights = np.exp(values[:, 0] - np.logaddexp.reduce(values[:, 0]))
    sd = np.sqrt(sigma[0, cells.group] ** 2 / cells.weight)
    found = float(_lag_one(sd * (weights @ alpha[:, 0]), series))
    null = _null_correlations(problem, centre, int(np.argmax(weights)), series)
    level = float(np.mean(null >= found))
    ok = level > AUTOCORRELATION_LEVEL
    message = f"lag-1 correlation {found:.2f}, p = {max(level, 1.0 / NULL_DRAWS):.2g} for independent noise"
    remedy = (
        "Independent noise does not explain what the model misses, so the intervals are too narrow. Add a model "
        "discrepancy, or use a noise model with autocorrelation; then look again at the simulator's assumptions."
    )
    return Check(name, "pass" if ok else "warn", found, message, remedy)


def _null_correlations(problem: Calibration, centre: Mapping[str, Array], h: int, series: list[Ints]) -> Array:
    """Return lag-1 correlations of the estimated noise of data that the linearised problem draws."""
    linear = _linearise(problem, centre, np.array([h]))
    factor = np.concatenate([linear.factor[0], linear.jacobian[0] * linear.prior_sd], axis=1)
    n, r = factor.shape
    rng = np.random.default_rng(0)
    found = []
    for start in range(0, NULL_DRAWS, size := max(1, BLOCK // n)):
        count = min(size, NULL_DRAWS - start)
        data = factor @ rng.standard_normal((r, count)) + rng.standard_normal((n, count))
        found.append(_lag_one(_solve(factor, data).T, series))
    return np.concatenate(found)


def _check_edge(problem: Calibration, theta: Mapping[str, Array]) -> Check:
    box = problem.surrogate.domain
    unit = problem.unit_inputs({name: theta[name] for name in problem.parameters})[:, 0, :]
    worst, where = 0.0, ""
    for name in problem.parameters:
        column = box.names.index(name)
        hard_low, hard_high = _prior_ends(problem, name)
        low = 0.0 if hard_low else float(np.mean(unit[:, column] < EDGE))
        high = 0.0 if hard_high else float(np.mean(unit[:, column] > 1.0 - EDGE))
        if max(low, high) > worst:
            worst, where = max(low, high), f"{'lower' if low > high else 'upper'} end of {name}"
    message = f"at most {worst:.1%} of the draws within 2 % of an edge" + (f" ({where})" if where else "")
    remedy = (
        f"The posterior leans on the {where}, beyond which nothing was simulated: widen the prior there if it may be "
        "wider, run a design over it and calibrate again."
    )
    status: Status = "pass" if worst <= EDGE_MASS else "warn"
    if status == "warn" and problem.outside == "refined":
        status = "fail"  # the prior goes on beyond this box: here it is the runs that end, not what is known before
        remedy = (
            f"The posterior leans on the {where}, where the box of the refinement cuts it: refine again, "
            "uq.refine(posterior, n) moves the box, and calibrate again."
        )
    return Check("edge of the design box", status, worst, message, remedy)


def _prior_ends(problem: Calibration, name: str) -> tuple[bool, bool]:
    """Whether the prior ends at or within the box's lower and upper end, so that nothing lies beyond.

    That of the calibration counts: it may be wider than the prior that the design was made for.
    """
    box = problem.surrogate.domain
    index = box.names.index(name)
    ends = zip(problem.space.priors[name].support, (box.lower[index], box.upper[index]), (1.0, -1.0), strict=True)
    low, high = (inwards * (end - edge) >= 0.0 or math.isclose(end, edge) for end, edge, inwards in ends)
    return low, high

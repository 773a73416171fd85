"""Checks of the computation: whether the draws are those of the posterior that was asked for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from scipy.spatial import cKDTree

from uqms._typing import Array
from uqms.calibration.checks import Check, Sampled, Status

if TYPE_CHECKING:
    from uqms.calibration.context import Context

__all__ = ["APPROXIMATION", "check_computation", "check_modes", "computation", "sampler_checks"]

R_HAT, R_HAT_FAIL = 1.01, 1.05
ESS_PER_CHAIN, ESS_FAIL = 100, 25
E_BFMI = 0.3
APPROXIMATION, K_HAT = "approximation", 0.7
EVIDENCE_SD = 0.5
DEEP_SHARE = 0.01
MCSE_SHARE = 0.05
FAR = 3.0  # times the largest distance of draws to their neighbours
UNVISITED = 0.05  # share of starts
LOG_DENSITY_SLACK = 3.0  # nats below the worst percent of the draws


def check_computation(sampled: Sampled, constrained: bool = False) -> tuple[Check, ...]:
    """Return the checks of convergence, of the sampler's statistics and of completeness."""
    chains, draws = sampled.shape
    checks = [*sampled.of_sampler]
    if sampled.approximate:
        checks += [_not_judged("R-hat", "an approximation has no chains"), _not_judged("ESS", "see the approximation")]
    elif sampled.r_hat:
        checks += [check_r_hat(sampled.r_hat, chains), check_ess(sampled.ess, chains)]
    if sampled.divergences is not None:
        checks.append(check_divergences(sampled.divergences, chains * draws, constrained))
    if sampled.energy is not None:
        checks.append(check_energy(sampled.energy))
    if sampled.deepest is not None:
        checks.append(check_depth(sampled.deepest))
    checks.append(check_finite(sampled.theta, sampled.shape, sampled.asked))
    if sampled.mcse:
        checks.append(check_monte_carlo_error(sampled.mcse))
    return tuple(checks)


def computation(context: "Context") -> tuple[Check, ...]:
    """Judge convergence, the sampler's statistics and completeness."""
    return check_computation(context.returned, bool(context.problem.constraints))


def sampler_checks(stats: xr.Dataset) -> tuple[Check, ...]:
    """Return the checks of what a sampler says of itself, one number a chain.

    Those are `pareto_k`, `log_marginal_likelihood` of independent runs, and `left_correlation` with its
    `correlation_limit`.
    """
    checks = []
    if "pareto_k" in stats:
        checks.append(_check_approximation(stats))
    elif "log_marginal_likelihood" in stats:
        checks.append(_check_evidence(stats["log_marginal_likelihood"].values))
    if "left_correlation" in stats and "correlation_limit" in stats:
        left, limit = (float(stats[name].max()) for name in ("left_correlation", "correlation_limit"))
        message = f"largest correlation with where the last stage began {left:.2f}, limit {limit:g}"
        remedy = "Particles have hardly moved, so they tell of fewer draws: SMC(moves=500), or NUTS."
        checks.append(Check("moves", "pass" if left <= limit else "warn", left, message, remedy))
    return tuple(checks)


def _check_approximation(stats: xr.Dataset) -> Check:
    k_hat = float(stats["pareto_k"].max())
    known = {
        "{:.0f} mode(s)": stats.get("modes"),
        "{:.0f} path(s)": stats.get("paths"),
        "{:.0f} effective draws": stats.get("importance_ess"),
    }
    more = "".join(", " + text.format(float(value.sum())) for text, value in known.items() if value is not None)
    trusted = k_hat <= K_HAT
    message = f"draws of an approximation, resampled by importance weights: k-hat {k_hat:.2f}, limit {K_HAT}{more}"
    remedy = (
        "Good for a first look: modes that were not found are missing. Sample with NUTS() or SMC() to rely on it."
        if trusted
        else "The approximation does not hold the posterior's tails: sample with NUTS() or SMC()."
    )
    return Check(APPROXIMATION, "warn" if trusted else "fail", k_hat, message, remedy)


def _check_evidence(runs: Array) -> Check:
    name = "log evidence of runs"
    if len(runs) < 2:
        return Check(name, "pass", float("nan"), "not judged: one run")
    spread = float(np.std(runs, ddof=1))
    message = f"standard deviation {spread:.2f} between {len(runs)} runs, limit {EVIDENCE_SD}"
    remedy = "Runs have found different mass, perhaps different modes: SMC(particles=8000)."
    return Check(name, "pass" if spread <= EVIDENCE_SD else "warn", spread, message, remedy)


def _not_judged(name: str, why: str) -> Check:
    return Check(name, "pass", float("nan"), f"not judged: {why}")


def check_r_hat(r_hat: Mapping[str, float], chains: int) -> Check:
    """Vehtari et al. (2021), doi:10.1214/20-BA1221."""
    if chains < 2:
        message, remedy = "one chain, so agreement cannot be judged", "Sample at least 4 chains: NUTS(chains=4)."
        return Check("R-hat", "warn", float("nan"), message, remedy)
    name = max(r_hat, key=lambda key: r_hat[key] if np.isfinite(r_hat[key]) else np.inf)
    worst = r_hat[name]
    status: Status = "pass" if worst <= R_HAT else "warn" if worst <= R_HAT_FAIL else "fail"
    message = f"largest {worst:.3f} ({name}), limit {R_HAT}"
    remedy = "Chains disagree: sample longer (NUTS(tune=2000, draws=2000)), or look for two modes: SMC()."
    return Check("R-hat", status, float(worst), message, remedy)


def check_ess(ess: Mapping[str, float], chains: int) -> Check:
    """Vehtari et al. (2021), doi:10.1214/20-BA1221."""
    name = min(ess, key=lambda key: ess[key] if np.isfinite(ess[key]) else -np.inf)
    worst, limit = ess[name], ESS_PER_CHAIN * chains
    status: Status = "pass" if worst >= limit else "warn" if worst >= ESS_FAIL * chains else "fail"
    message = f"smallest of bulk and tail {worst:.0f} ({name}), limit {limit}"
    return Check("ESS", status, float(worst), message, "Too few independent draws: raise NUTS(draws=...).")


def check_divergences(count: int, draws: int, constrained: bool = False) -> Check:
    """Betancourt (2017), arXiv:1701.02434; `constrained`: inequalities between parameters may be a wall."""
    status: Status = "pass" if count == 0 else "warn" if count <= 0.01 * draws else "fail"
    message = f"{count} of {draws} draws"
    remedy = "Parts of the posterior may be missed: NUTS(target_accept=0.99), or a tighter prior."
    if constrained:
        remedy = (
            "Constraints that cannot be solved for one parameter are a wall for NUTS, off which chains bounce: SMC() "
            "sees no wall. Or write them with one occurrence of a parameter, as 'beta > gamma'."
        )
    return Check("divergences", status, float(count), message, remedy)


def check_energy(energy: Array) -> Check:
    """Betancourt (2016), arXiv:1604.00695: E-BFMI of each chain; energy (chains, draws)."""
    spread = np.sum((energy - energy.mean(axis=1, keepdims=True)) ** 2, axis=1)
    worst = float(np.min(np.sum(np.diff(energy, axis=1) ** 2, axis=1) / np.maximum(spread, 1e-300)))
    status: Status = "pass" if worst >= E_BFMI else "warn"
    message = f"smallest E-BFMI {worst:.2f}, limit {E_BFMI}"
    remedy = (
        "The tails are reached too slowly, as in a funnel: a tighter prior on the noise or on what the data do not "
        "inform, then longer tuning."
    )
    return Check("energy", status, worst, message, remedy)


def check_depth(share: float) -> Check:
    """Share of trajectories that were cut off."""
    status: Status = "pass" if share <= DEEP_SHARE else "warn"
    message = f"{share:.1%} of the trajectories were cut off at the greatest tree depth"
    remedy = "Draws follow each other slowly along a narrow ridge: see the confounded parameters, or tune longer."
    return Check("tree depth", status, share, message, remedy)


def check_finite(theta: Mapping[str, Array], shape: tuple[int, int], asked: tuple[int, int]) -> Check:
    """All draws are there, and are numbers."""
    bad = sum(int(np.count_nonzero(~np.isfinite(values))) for values in theta.values())
    ok = bad == 0 and shape == asked
    message = f"{shape[0]} chains of {shape[1]} draws, {bad} not finite"
    return Check("finite draws", "pass" if ok else "fail", float(bad), message, "Sampling broke off: sample again.")


def check_monte_carlo_error(mcse: Mapping[str, float]) -> Check:
    """Note that limits are known to fewer digits; `summary` prints no more than there are."""
    name = max(mcse, key=lambda key: mcse[key] if np.isfinite(mcse[key]) else np.inf)
    worst = float(mcse[name])
    status: Status = "pass" if worst <= MCSE_SHARE else "note"
    message = f"at most {worst:.1%} of a posterior sd ({name}), of means and 95 % limits"
    return Check(
        "Monte Carlo error", status, worst, message, "summary() prints fewer digits; more draws give more of them."
    )


def check_modes(draws: Array, density: Array, starts: Array, start_density: Array) -> Check:
    """Tell whether the chains were wherever the tempered particles that they could start from found mass.

    R-hat is blind when all chains sit in the same one of two modes. The particles are spread over modes by their mass.

    Parameters
    ----------
    draws, starts
        On a scale without bounds or units, (S, d) and (n, d).
    density, start_density
        Log posterior densities, up to the same constant, (S,) and (n,).
    """
    scale = np.maximum(draws.std(axis=0), 1e-300)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(draws))
    held, kept = order[: min(200, len(draws) // 4)], order[min(200, len(draws) // 4) :]
    tree = cKDTree(draws[kept] / scale)
    usual = float(np.quantile(tree.query(draws[held] / scale)[0], 0.99))
    distance = tree.query(starts / scale)[0]
    good = start_density >= np.quantile(density, 0.01) - LOG_DENSITY_SLACK
    share = float(np.mean(good & (distance > FAR * usual)))
    status: Status = "pass" if share < UNVISITED else "warn"
    message = f"{share:.0%} of the starting points have mass where no chain went"
    remedy = (
        "There may be another mode: sample more chains, NUTS(chains=8), or use a sampler for several modes; then look "
        "at uq.plots.pairs."
    )
    return Check("other modes", status, share, message, remedy)

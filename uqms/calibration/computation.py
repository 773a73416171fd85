"""Checks of the computation: whether the draws are those of the posterior that was asked for."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from uqms._typing import Array
from uqms.calibration.checks import Check, Sampled, Status

if TYPE_CHECKING:
    from uqms.calibration.context import Context

__all__ = [
    "APPROXIMATION",
    "MODES",
    "Places",
    "check_computation",
    "check_modes",
    "check_places",
    "computation",
    "places",
    "sampler_checks",
]

R_HAT, R_HAT_FAIL = 1.01, 1.05
ESS_PER_CHAIN, ESS_FAIL = 100, 25
E_BFMI = 0.3
APPROXIMATION, K_HAT = "approximation", 0.7
MODES = "other modes"
EVIDENCE_SD = 0.5
DEEP_SHARE = 0.01
MCSE_SHARE = 0.05
FAR = 3.0  # times the largest distance of draws to their neighbours
UNVISITED = 0.05  # share of starts
LOG_DENSITY_SLACK = 3.0  # nats below the worst percent of the draws
APART = 4.0  # sds between the means of two chains that hardly overlap
STUCK = 10.0  # nats: a mode that is so much lower has next to no mass, unless it is much wider
VANISHED = 1e-4  # times the noise sd of the other chains


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
    """Return the checks of statistics that a sampler reports, one number per chain.

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
        message = f"largest correlation with the positions before the last stage {left:.2f}, limit {limit:g}"
        remedy = "Use SMC(moves=500), or NUTS(): particles have hardly moved, so they count as fewer draws."
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
        "Sample with NUTS() or SMC() before you report results. An approximation is for a first look: modes that it "
        "did not find are missing."
        if trusted
        else "Sample with NUTS() or SMC(): the approximation does not cover the posterior's tails."
    )
    return Check(APPROXIMATION, "warn" if trusted else "fail", k_hat, message, remedy)


def _check_evidence(runs: Array) -> Check:
    name = "log evidence of runs"
    if len(runs) < 2:
        return Check(name, "pass", float("nan"), "not judged: one run")
    spread = float(np.std(runs, ddof=1))
    message = f"standard deviation {spread:.2f} between {len(runs)} runs, limit {EVIDENCE_SD}"
    remedy = (
        "Use SMC(particles=8000): the runs disagree about the evidence, perhaps because they found different modes."
    )
    return Check(name, "pass" if spread <= EVIDENCE_SD else "warn", spread, message, remedy)


def _not_judged(name: str, why: str) -> Check:
    return Check(name, "pass", float("nan"), f"not judged: {why}")


def check_r_hat(r_hat: Mapping[str, float], chains: int) -> Check:
    """Vehtari et al. (2021), doi:10.1214/20-BA1221."""
    if chains < 2:
        message, remedy = "one chain, so agreement cannot be judged", "Sample at least 4 chains, NUTS(chains=4)."
        return Check("R-hat", "warn", float("nan"), message, remedy)
    name = max(r_hat, key=lambda key: r_hat[key] if np.isfinite(r_hat[key]) else np.inf)
    worst = r_hat[name]
    status: Status = "pass" if worst <= R_HAT else "warn" if worst <= R_HAT_FAIL else "fail"
    message = f"largest {worst:.3f} ({name}), limit {R_HAT}"
    remedy = (
        "Sample longer, NUTS(tune=2000, draws=2000), or use more particles, SMC(particles=4000): the chains disagree. "
        "Perhaps there are two modes: SMC() finds them, NUTS() may stay in one."
    )
    return Check("R-hat", status, float(worst), message, remedy)


def check_ess(ess: Mapping[str, float], chains: int) -> Check:
    """Vehtari et al. (2021), doi:10.1214/20-BA1221."""
    name = min(ess, key=lambda key: ess[key] if np.isfinite(ess[key]) else -np.inf)
    worst, limit = ess[name], ESS_PER_CHAIN * chains
    status: Status = "pass" if worst >= limit else "warn" if worst >= ESS_FAIL * chains else "fail"
    message = f"smallest of bulk and tail {worst:.0f} ({name}), limit {limit}"
    remedy = "Use more draws, NUTS(draws=...) or SMC(particles=...): too few of them are independent."
    return Check("ESS", status, float(worst), message, remedy)


def check_divergences(count: int, draws: int, constrained: bool = False) -> Check:
    """Betancourt (2017), arXiv:1701.02434; `constrained`: inequalities between parameters may cut the posterior off."""
    status: Status = "pass" if count == 0 else "warn" if count <= 0.01 * draws else "fail"
    message = f"{count} of {draws} draws"
    remedy = "Use NUTS(target_accept=0.99), or a tighter prior: chains may miss parts of the posterior."
    if constrained:
        remedy = (
            "Use SMC(), or write each constraint with one occurrence of a parameter, as 'beta > gamma'. Constraints "
            "that cannot be solved for one parameter cut the posterior off, and NUTS diverges there."
        )
    return Check("divergences", status, float(count), message, remedy)


def check_energy(energy: Array) -> Check:
    """Betancourt (2016), arXiv:1604.00695: E-BFMI of each chain; energy (chains, draws)."""
    spread = np.sum((energy - energy.mean(axis=1, keepdims=True)) ** 2, axis=1)
    worst = float(np.min(np.sum(np.diff(energy, axis=1) ** 2, axis=1) / np.maximum(spread, 1e-300)))
    status: Status = "pass" if worst >= E_BFMI else "warn"
    message = f"smallest E-BFMI {worst:.2f}, limit {E_BFMI}"
    remedy = (
        "Use a tighter prior on the noise or on parameters that the data do not inform, or SMC(): chains reach the "
        "tails too slowly, as in a funnel."
    )
    return Check("energy", status, worst, message, remedy)


def check_depth(share: float) -> Check:
    """Fraction of trajectories that reached the maximum tree depth."""
    status: Status = "pass" if share <= DEEP_SHARE else "warn"
    message = f"{share:.1%} of the trajectories reached the maximum tree depth"
    remedy = "See the confounded parameters, or tune longer, NUTS(tune=2000): draws move slowly along a narrow ridge."
    return Check("tree depth", status, share, message, remedy)


def check_finite(theta: Mapping[str, Array], shape: tuple[int, int], asked: tuple[int, int]) -> Check:
    """All draws are there, and are numbers."""
    bad = sum(int(np.count_nonzero(~np.isfinite(values))) for values in theta.values())
    ok = bad == 0 and shape == asked
    message = f"{shape[0]} chains of {shape[1]} draws, {bad} not finite"
    return Check(
        "finite draws", "pass" if ok else "fail", float(bad), message, "Sample again: draws are missing or not finite."
    )


def check_monte_carlo_error(mcse: Mapping[str, float]) -> Check:
    """Note that limits are known to fewer digits; `summary` prints no more than there are."""
    name = max(mcse, key=lambda key: mcse[key] if np.isfinite(mcse[key]) else np.inf)
    worst = float(mcse[name])
    status: Status = "pass" if worst <= MCSE_SHARE else "note"
    message = f"at most {worst:.1%} of a posterior sd ({name}), for means and 95 % limits"
    remedy = "Raise the number of draws for more digits; summary() prints only the digits that the draws support."
    return Check("Monte Carlo error", status, worst, message, remedy)


class Places(NamedTuple):
    """Where chains are.

    Attributes
    ----------
    groups
        Chains that overlap, the largest group first.
    degenerate
        A noise sd that vanishes in a smaller group, "" where none does.
    lower
        By how many nats the log posterior density is lower in the second group than in the first; NaN if not known.
    apart
        The quantity that tells the two largest groups apart.
    medians
        Its median in each of the two.
    """

    groups: tuple[tuple[int, ...], ...]
    degenerate: str = ""
    lower: float = float("nan")
    apart: str = ""
    medians: tuple[float, float] = (float("nan"), float("nan"))


def places(sampled: Sampled, positive: Collection[str], noise: Collection[str], density: Array | None) -> Places:
    """Return which chains overlap: R-hat tells that they do not agree, not that each sits in a place of its own.

    Two chains are apart where the distance of their means exceeds `APART` of their sds in any quantity, `positive` ones
    on the scale of logarithms; groups are connected through chains that are not.
    """
    chains, draws = sampled.shape
    theta = {name: values.reshape(chains, draws) for name, values in sampled.theta.items()}
    if chains < 2 or draws < 4 or not all(np.isfinite(values).all() for values in theta.values()):
        return Places((tuple(range(chains)),))
    scaled = {n: np.log(np.maximum(v, 1e-300)) if n in positive else v for n, v in theta.items()}
    names = list(scaled)
    mean, sd = (np.array([one(scaled[name], axis=1) for name in names]) for one in (np.mean, np.std))  # (P, chains)
    pooled = np.sqrt(0.5 * (sd[:, :, None] ** 2 + sd[:, None, :] ** 2))
    distance = np.abs(mean[:, :, None] - mean[:, None, :]) / np.maximum(pooled, 1e-300)
    count, label = connected_components(distance.max(axis=0) <= APART, directed=False)
    found = sorted((tuple(np.flatnonzero(label == i).tolist()) for i in range(count)), key=len, reverse=True)
    groups: tuple[tuple[int, ...], ...] = tuple(found)
    if count == 1:
        return Places(groups)
    first, second = list(groups[0]), list(groups[1])
    j = int(np.argmax(distance[:, first][:, :, second].min(axis=(1, 2))))
    median = {name: [float(np.median(theta[name][list(group)])) for group in groups] for name in names}
    vanished = [n for n in names if n in noise and min(median[n][1:]) < VANISHED * median[n][0]]
    lower = float("nan")
    if density is not None:
        of_chain = np.median(density.reshape(chains, draws), axis=1)
        lower = float(np.median(of_chain[first]) - np.median(of_chain[second]))
    return Places(groups, vanished[0] if vanished else "", lower, names[j], tuple(median[names[j]][:2]))  # type: ignore[arg-type]


def check_places(found: Places) -> Check:
    """Judge chains that are in several places, with the remedy for the likely cause."""
    first, second = found.groups[:2]
    chains = sum(len(group) for group in found.groups)
    message = (
        f"chains are in {len(found.groups)} separate places: {len(first)} of {chains} at {found.apart} = "
        f"{found.medians[0]:.3g}, {len(second)} at {found.medians[1]:.3g}"
    )
    apart = [str(chain) for group in found.groups[1:] for chain in group]
    lost = f"chain{'s' if len(apart) > 1 else ''} {', '.join(apart)}"
    if np.isfinite(found.lower):
        way = "lower" if found.lower >= 0.0 else "higher"
        message += f", where the log posterior density is {abs(found.lower):.1f} nats {way}"
    if found.degenerate:
        remedy = (
            "Sample again with another seed (rng=), or give the noise a prior that excludes zero, "
            f"GaussianNoise(sd=uq.LogNormal(median=..., sigma=1.0)). In {lost} the noise sd {found.degenerate} is "
            "close to zero, which is not a mode."
        )
    elif found.lower > STUCK:
        remedy = (
            "Sample again with another seed (rng=) or longer tuning, NUTS(tune=2000), or use SMC(), which does not "
            f"depend on starting points. Stuck where the posterior has almost no mass: {lost}."
        )
    else:
        remedy = (
            "Use SMC(), which weights modes by their mass, and look at uq.plots.pairs(posterior). Chains do not move "
            "between the modes, so the number of chains in a mode does not measure its mass."
        )
    return Check(MODES, "fail", float(len(found.groups)), message, remedy)


def check_modes(draws: Array, density: Array, starts: Array, start_density: Array) -> Check:
    """Judge whether the chains visited every region where tempered starting particles found mass.

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
    message = f"{share:.0%} of the starting points are in regions with posterior mass that no chain visited"
    remedy = (
        "Use SMC(), which finds modes and weights them by their mass, or sample more chains, NUTS(chains=8). Then look "
        "at uq.plots.pairs(posterior): there may be another mode."
    )
    return Check(MODES, status, share, message, remedy)

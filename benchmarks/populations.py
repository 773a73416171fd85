"""Posteriors of populations are calibrated, with the surrogate's error as one function of all subjects.

    python benchmarks/populations.py [--quick] [--only NAME] [--repeats N] [--seed SEED]

Every part has the surrogate's error at least as large as the noise, and data with one joint draw of it for all subjects
in each repeat.

- *SBC*: eight subjects, two parameters that differ, four conditions, missing measurements. Typical values, spreads, the
  first subject's parameters, the joint log-likelihood and the misfit are ranked, 200 repeats, exact band at 0.001 over
  all of them; sampled non-centred and centred with NUTS, whose density is compiled once. At most 2 % of fits are
  doubtful; what fails is run once more with the next seed, and must then pass.
- *linear*: a linear simulator, whose posterior is known. 1, 4, 16 and 64 subjects: mean and sd of the population's mean
  by the library's likelihood agree with the closed form to rounding, those of NUTS within 4 MCSE; 95 % intervals cover
  in the exact 99 % window of 600 repeats. With errors that are independent between subjects they cover less than
  0.57 at 64.
- *nonlinear*: 32 and 300 subjects, four conditions, a fifth of the measurements missing. 95 % and 50 % intervals of the
  population's mean and scale cover in the exact 99 % window of 200 repeats. Subjects are summed out by quadrature given
  the features of the low-rank error, and draws weighted by PSIS; at drawn subjects the library's low-rank likelihood is
  what was summed (to rounding), and its exact one gives the weights of the exact posterior: means differ by less than 4
  MCSE (of the comparison and of 400 effective draws), as do sds, and over all repeats by less than 0.1 sd in root mean
  square, errors taken off; of 300 subjects in every fourth repeat. Fits with k-hat above 0.7, at most 2 %, count too.
- *new subject*: `posterior.new_subject(...)` after a fit of eight subjects against a fit of all nine, both with NUTS:
  means of its parameters differ by less than 4 MCSE, and the call takes less than a second (the second call: draws of
  the shared error are made once).

``--quick`` makes 20 repeats of SBC (non-centred), 10 of 32 subjects and 100 of the linear one, with windows for these
numbers; what takes minutes for itself is left out: NUTS beside SBC, the centred one, 300 subjects, the new subject.
"""

if __name__ != "__main__":
    raise ImportError("this is a benchmark, not the package that numba asks for")

import argparse
import sys
import time
from collections.abc import Callable

import arviz_stats
import numpy as np
from _population import (
    NOISE,
    Marginal,
    closed_form,
    error_over_noise,
    linear_population,
    linear_posterior,
    linear_values,
    one_parameter,
    small,
)
from _report import Aim, aim, binomial, finish, line
from arviz_stats.base import array_stats
from scipy.stats import binom

import uqms as uq
from uqms._typing import Array
from uqms.diagnostics import simulation_based_calibration
from uqms.testing.planted import with_covariance

EXACTLY = 199  # draws with weights of the exact posterior, at least, to be judged by
PROPOSALS = 1000
COMPARED = {32: 200, 300: 64}  # draws at which the exact likelihood is evaluated
EVERY = {32: 1, 300: 4}  # how many repeats there are for one in which it is
EFFECTIVE, TYPICAL = 400, 0.1
INDEPENDENT = 0.57


def window(level: float, n: int) -> tuple[float, float]:
    """Return the central 99 % of the share of n repeats."""
    law = binom(n, level)
    return float(law.ppf(0.005) / n), float(law.ppf(0.995) / n)


def covered(name: str, level: float, inside: Array, reason: str | None = None) -> Aim:
    """Return the aim of one coverage."""
    n, share = len(inside), float(np.mean(inside))
    return aim(name, share, *window(level, n), mcse=binomial(share, n), n=n, reason=reason)


def sbc(centred: bool, n: int, seed: int) -> list[Aim]:
    """Return the aims of simulation-based calibration."""
    name = f"SBC, 8 subjects, {'centred' if centred else 'non-centred'}"
    sampler = uq.NUTS(draws=300, tune=250, target_accept=0.95 if centred else 0.9)
    problem, begin = small(centred=centred), time.perf_counter()
    found = simulation_based_calibration(problem, n, sampler=sampler, rng=seed, alpha=0.001)
    reruns = 0
    if not found.table["passed"].all():
        print(found, flush=True)
        found, reruns = simulation_based_calibration(problem, n, sampler=sampler, rng=seed + 1, alpha=0.001), 1
    if not found.passed:
        print(found, flush=True)
    limit = found.alpha / len(found.quantities)
    doubtful = float(np.mean(found.fits["doubt"] != ""))
    remark = f"{len(found.quantities)} quantities, {reruns} rerun(s), {time.perf_counter() - begin:.0f} s"
    least = float(found.table["p_value"].min())
    return [
        aim(f"{name}: smallest p-value", least, low=limit, n=n, reason=remark),
        aim(f"{name}: share of doubtful fits", doubtful, high=0.02, mcse=binomial(doubtful, n), n=n),
    ]


def linear(subjects: int, n: int, nuts: bool) -> list[Aim]:
    """Return the aims of the linear simulator."""
    name = f"linear, {subjects} subject(s)"
    truth, values = linear_values(subjects, n, np.random.default_rng(1))
    problem = linear_population(values[0])
    exact_mean, exact_sd = closed_form(values)
    mean, sd = linear_posterior(problem, values)
    off = max(float(np.max(np.abs(mean - exact_mean))) / exact_sd, abs(sd / exact_sd - 1.0))
    found = [
        aim(f"{name}: likelihood against the closed form, sds", off, high=1e-5, n=n),
        covered(f"{name}: 95 % of the mean covers", 0.95, np.abs(truth - mean) < 1.959964 * sd),
    ]
    if subjects == 64:
        wrong = linear_population(values[0])
        mutant = with_covariance(problem.surrogate, lambda c: c * np.eye(c.shape[-1]))
        wrong.data = wrong.data.with_data_model(surrogate=mutant)
        mean, sd = linear_posterior(wrong, values)
        share = float(np.mean(np.abs(truth - mean) < 1.959964 * sd))
        remark = "errors independent between subjects: has to be too sure"
        found.append(
            aim(f"{name}: mutant covers", share, high=INDEPENDENT, mcse=binomial(share, n), n=n, reason=remark)
        )
    if not nuts:
        found.append(
            aim(f"{name}: NUTS against the closed form, MCSE", None, reason="left out of --quick: compiled anew")
        )
        return found
    draws = uq.NUTS(ess=1000).run(problem, 1)["posterior"].dataset["theta"]  # type: ignore[arg-type]
    errors = [float(arviz_stats.mcse(draws, method=method)) for method in ("mean", "sd")]
    apart = [(float(draws.mean()) - exact_mean[0]) / errors[0], (float(draws.std()) - exact_sd) / errors[1]]
    names = ("mean", "sd")
    return found + [aim(f"{name}: {k} of NUTS, MCSE", v, -4.0, 4.0, 1.0, 1) for k, v in zip(names, apart, strict=True)]


def systematic(weight: Array, n: int, rng: np.random.Generator) -> Array:
    """Return n rows, each as often as its weight says up to rounding."""
    return np.minimum(np.searchsorted(np.cumsum(weight), (rng.random() + np.arange(n)) / n), len(weight) - 1)


def nonlinear(subjects: int, n: int, seed: int) -> list[Aim]:
    """Return the aims of the nonlinear simulator."""
    name, begin = f"nonlinear, {subjects} subjects", time.perf_counter()
    problem, rough = (one_parameter(subjects, error) for error in ("exact", "low-rank"))
    layout, features = Marginal(rough), []
    levels, shifts, ratios, errors, rounding, k_hats = [], [], [], [], [], []
    for k, rng in enumerate(np.random.default_rng(seed).spawn(n)):
        while True:
            truth, z = problem.prior_draws(1, rng), rng.standard_normal((1, problem.latents))
            if np.log(rng.random()) < problem.data.wall(problem.individuals(truth, z))[0]:
                break
        problem = problem.with_values(problem.simulate(truth, rng, z)[0])
        data = layout.of(rough.with_values(problem.observations.value)).at_its_features(rng)
        eta, log_weights, k_hat = data.weighted(PROPOSALS, rng)
        weight = np.exp(log_weights)
        features.append(data.layout.M)
        at = np.array([truth["a"][0], np.log(truth["omega_a"][0])])
        # Levels of the low-rank posterior from all weighted draws, and of the exact one by what its weights change
        # where enough draws have them. Draws that are repeated as often as their weights say have fewer different
        # values, and ranks among them lie too often at the ends.
        levels.append(weight @ (eta[:, :2] < at))
        k_hats.append(k_hat)
        if k % EVERY[subjects]:
            continue
        few = eta[systematic(weight, COMPARED[subjects], rng)]
        a, joint = data.subjects(few, rng)
        low, of_features = data.of_library(few, a)
        rounding.append(np.max(np.abs(low + of_features - joint)))
        theta, effects = data.standardised(few, a)
        wall = problem.data.wall(problem.individuals(theta, effects))
        exact = problem.log_likelihood(theta, effects) - wall
        log_ratio, k_exact = array_stats.psislw(-(exact - low))
        ratio = np.exp(log_ratio - np.logaddexp.reduce(log_ratio))
        mean, sd = few[:, :2].mean(axis=0), few[:, :2].std(axis=0)
        exact_mean = ratio @ few[:, :2]
        exact_sd = np.sqrt(ratio @ (few[:, :2] - exact_mean) ** 2)
        off = (few[:, :2] - exact_mean) / exact_sd
        more = ratio[:, None] - 1.0 / len(few)
        shifts.append((mean - exact_mean) / exact_sd)
        ratios.append(sd / exact_sd)
        errors.append([np.sqrt(np.sum((more * one) ** 2, axis=0)) for one in (off, 0.5 * (off**2 - 1.0))])
        if len(few) >= EXACTLY:
            k_hats[-1] = max(k_hat, float(np.max(k_exact)))
            levels[-1] = levels[-1] + (ratio - 1.0 / len(few)) @ (few[:, :2] < at)
    seconds = time.perf_counter() - begin
    placed, doubtful = np.array(levels), float(np.mean(np.array(k_hats) > 0.7))
    found = []
    for i, quantity in enumerate(("mean", "scale")):
        for level in (0.95, 0.5):
            inside = np.abs(placed[:, i] - 0.5) <= 0.5 * level
            found.append(covered(f"{name}: {level:.0%} of the {quantity} covers", level, inside))
    ratio_of_sds = error_over_noise(problem, NOISE)
    found.append(aim(f"{name}: surrogate sd over noise sd", ratio_of_sds, low=1.0))
    # Each comparison in Monte Carlo standard errors, its own and those of 400 effective draws. Over repeats the mean
    # square of what is compared, less that of its errors.
    apart, own = np.stack([shifts, np.log(ratios)], axis=1), np.array(errors)  # (n, mean or sd, quantity)
    of_draws = np.array([[1.0], [np.sqrt(0.5)]]) / np.sqrt(EFFECTIVE)
    largest = np.max(np.abs(apart) / np.sqrt(own**2 + of_draws**2), axis=(0, 2))
    typical = np.sqrt(np.maximum(np.mean(apart**2 - own**2, axis=(0, 2)), 0.0))
    remark, m = f"{min(features)} to {max(features)} features, {seconds:.0f} s", len(shifts)
    return [
        *found,
        aim(f"{name}: low-rank less exact mean, largest, MCSE", largest[0], high=4.0, n=m, reason=remark),
        aim(f"{name}: low-rank over exact sd, largest log, MCSE", largest[1], high=4.0, n=m),
        aim(f"{name}: low-rank less exact mean, root mean square, sds", typical[0], high=TYPICAL, n=m),
        aim(f"{name}: low-rank over exact sd, root mean square log", typical[1], high=TYPICAL, n=m),
        aim(f"{name}: low-rank likelihood against what was summed, nats", float(np.max(rounding)), high=1e-6, n=n),
        aim(f"{name}: share with k-hat above 0.7", doubtful, high=0.02, mcse=binomial(doubtful, n), n=n),
    ]


def new_subject() -> list[Aim]:
    """Return the aims of a subject who was not in the calibration."""
    whole = small(centred=False, subjects=9)
    rng = np.random.default_rng(5)
    truth, z = whole.prior_draws(1, rng), rng.standard_normal((1, whole.latents))
    values = whole.observations.table.assign(value=whole.simulate(truth, rng, z)[0])
    last = values["subject"] == whole.subjects.labels[-1]
    before = small(centred=False, subjects=8).with_values(values["value"][~last].to_numpy()).sample(rng=1)
    after = whole.with_values(values["value"].to_numpy()).sample(rng=2)
    own = uq.Observations.from_table(values[last], output="y", value="value", coords={"t": "t"}, conditions=["x"])
    before.new_subject(own, rng=1)
    begin = time.perf_counter()
    new = before.new_subject(own, rng=2)
    seconds = time.perf_counter() - begin
    found = [aim("new subject: seconds of a call", seconds, high=1.0, n=1)]
    for name in ("a", "b"):
        ours, theirs = new.draws[name], after.individuals[name][..., -1]
        behind = min(new.ess, 400.0)  # draws of the population
        error = float(np.hypot(ours.std() / np.sqrt(behind), arviz_stats.mcse(theirs, method="mean")))
        apart = float(ours.mean() - theirs.mean()) / error
        found.append(aim(f"new subject: mean of {name} against the refit, MCSE", apart, -4.0, 4.0, 1.0, 1))
        ratio = float(ours.std() / theirs.std())
        window = 4.0 / np.sqrt(2.0 * behind)
        found.append(
            aim(f"new subject: sd of {name} over the refit's", ratio, 1.0 - window, 1.0 + window, window / 4.0, 1)
        )
    found.append(aim("new subject: k-hat", new.k_hat, high=0.7, n=1))
    return found


def main() -> int:
    """Run everything that was asked for."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="part of a name: SBC, linear, nonlinear, 300, new")
    parser.add_argument("--repeats", type=int, default=None)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    quick, own = given.quick, given.repeats
    # Name, repeats, those of --quick (None: a single one, or what is compiled for it, takes longer), what is run.
    parts: list[tuple[str, int, int | None, Callable[[int], list[Aim]]]] = [
        ("SBC non-centred", 200, 20, lambda n: sbc(False, n, given.seed)),
        ("SBC centred", 200, None, lambda n: sbc(True, n, given.seed)),
        *((f"linear {J}", 600, 100, lambda n, J=J: linear(J, n, not quick)) for J in (1, 4, 16, 64)),
        ("nonlinear 32", 200, 10, lambda n: nonlinear(32, n, given.seed)),
        ("nonlinear 300", 200, None, lambda n: nonlinear(300, n, given.seed)),
        ("new subject", 1, None, lambda _: new_subject()),
    ]
    aims: list[Aim] = []
    for name, full, few, run in parts:
        if given.only in name:
            count = own or (few if quick else full)
            found = [aim(name, None, reason="left out of --quick: minutes")] if count is None else run(count)
            print(*(line(each) for each in found), sep="\n", flush=True)
            aims += found
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())

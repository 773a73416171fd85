"""Plant one bug at a time in a copy of the package and see that the tests which are meant for it fail.

    python benchmarks/planted_bugs.py                  # all bugs, one after the other
    python benchmarks/planted_bugs.py --only NAME ...  # some
    python benchmarks/planted_bugs.py --list

Each bug is a piece of source text and what takes its place. When the source changes, give the bug its new place: a text
that is not found, or found more than once, is an error and not a bug that was caught. A bug counts as caught when
*every* test named with it fails by an assertion or an error of its own, while the same tests pass without the bug
(``--check-clean`` runs them in an unchanged copy first).

Every bug is run in a process of its own, with folders of its own for what numba and PyTensor compile: numba does not
notice that a function was changed which a compiled one calls. So most of the time of a bug is compilation, about half a
minute to two minutes. The exit status is 1 when a bug escapes and 2 when a place is not found.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("uqms", "tests", "benchmarks")
LIMIT = 900.0  # seconds of one bug
FROZEN = "tests/frozen/test_frozen.py"
CALIBRATION = "uqms/calibration"


class Bug(NamedTuple):
    """A mistake in a file, and the tests that see it."""

    name: str
    file: str
    text: str
    replacement: str
    tests: tuple[str, ...]


class Outcome(NamedTuple):
    """What the tests said of a bug."""

    name: str
    verdict: str  # "caught", "ESCAPED", "LOST" (its place was not found), "BROKEN" (tests did not run)
    detail: str
    seconds: float


def values(*names: str) -> tuple[str, ...]:
    """Return the tests of frozen log-likelihoods, which arrays give."""
    return tuple(f"{FROZEN}::test_log_likelihoods_are_the_frozen_ones[{name}]" for name in names)


def models(*names: str) -> tuple[str, ...]:
    """Return the tests of frozen densities and gradients of PyMC models, which compiled code gives."""
    return tuple(f"{FROZEN}::test_densities_and_gradients_of_the_model_are_the_frozen_ones[{name}]" for name in names)


def tests(file: str, *names: str) -> tuple[str, ...]:
    """Return tests of a file."""
    return tuple(f"tests/{file}::{name}" for name in names)


DENSE = tests("calibration/test_likelihood.py", "test_log_likelihood_is_the_multivariate_normal_of_the_raw_rows")
SLOPES = tests("calibration/test_likelihood.py", "test_compiled_gradient_equals_central_differences")
CORRELATED = "calibration/test_correlated.py"
EXPANSION = "calibration/test_expansion.py"
POPULATION = "calibration/population/test_population.py"

BUGS = (
    # ------------------------------------------------------------------ one patient, independent noise
    Bug(
        "covariance between inputs dropped",
        f"{CALIBRATION}/_gaussian.py",
        "                s -= L[i, e] * L[j, e]\n            L[i, j] = s / L[j, j]\n\n\n",
        "                s -= 0.0\n            L[i, j] = 0.0 * s\n\n\n",
        (*DENSE, *values("scalar_replicates", "own_surrogate"), *models("scalar_replicates")),
    ),
    Bug(
        "surrogate variance halved, as if it averaged out over two replicates",
        f"{CALIBRATION}/_process_gaussian.py",
        "                parts[n + k * q + j] = covariance[j, k, k]\n",
        "                parts[n + k * q + j] = 0.5 * covariance[j, k, k]\n",
        models("scalar_one", "curve_one"),
    ),
    Bug(
        "truncation per replicate (cells)",
        f"{CALIBRATION}/likelihood.py",
        "    unit = np.zeros(len(observations)) if units is None else units\n",
        "    unit = np.zeros(len(observations)) if units is None else units\n"
        "    label = label + (0.0 if observations.replicate is None else observations.replicate)\n",
        (
            *tests(CORRELATED, "test_an_unshared_gp_an_offset_and_a_factor"),
            *values("curve_conditions_replicates", "discrepancy_offset"),
        ),
    ),
    Bug(
        "truncation left out",
        f"{CALIBRATION}/_gaussian.py",
        "            variance = lam[k, j] if j < q else 1.0\n            if variance > 0.0 and",
        "            variance = lam[k, j] if j < q else 0.0\n            if variance > 0.0 and",
        (*SLOPES, *models("curve_conditions_replicates")),
    ),
    Bug(
        "sd for variance",
        f"{CALIBRATION}/_gaussian.py",
        "            d[c] = own_variance[c] + (phi[at] * phi[at] / weight[c] if at >= 0 else 0.0)\n",
        "            d[c] = own_variance[c] + (phi[at] / weight[c] if at >= 0 else 0.0)\n",
        (*SLOPES, *models("scalar_one")),
    ),
    Bug(
        "factor 1/2 in a log-determinant of what inputs share",
        f"{CALIBRATION}/_gaussian.py",
        "        total = _factor(square, n)\n",
        "        total = 0.5 * _factor(square, n)\n",
        (*DENSE, *values("scalar_replicates")),
    ),
    Bug(
        "factor 1/2 in a log-determinant of what many inputs share",
        f"{CALIBRATION}/_gaussian.py",
        "        total = factor(A, n)\n",
        "        total = 0.5 * factor(A, n)\n",
        tests("calibration/test_likelihood.py", "test_many_conditions_have_the_dense_normal_and_its_gradient[24]"),
    ),
    Bug(
        "factor 1/2 in a log-determinant of an input",
        f"{CALIBRATION}/_gaussian.py",
        "        total += _factor(H, n)\n",
        "        total += 0.5 * _factor(H, n)\n",
        (*DENSE, *values("scalar_one"), *models("scalar_one")),
    ),
    Bug(
        "within-cell sum of squares left out",
        f"{CALIBRATION}/_gaussian.py",
        "        squares[int(group[c])] += off * off / row_variance[r]\n",
        "        squares[int(group[c])] += 0.0 * off\n",
        (*SLOPES, *models("scalar_replicates")),
    ),
    Bug(
        "count of replicates left out of the normalising constant",
        f"{CALIBRATION}/_gaussian.py",
        "        total -= replicates[i] * math.log(s) + 0.5 * squares[i] / (s * s)\n",
        "        total -= 0.5 * squares[i] / (s * s)\n",
        (*DENSE, *values("scalar_replicates")),
    ),
    Bug(
        "noise of another output",
        f"{CALIBRATION}/likelihood.py",
        "        group=np.array([groups.outputs.index(str(name)) for name in output], dtype=np.int64),\n",
        "        group=np.zeros(len(output), dtype=np.int64),\n",
        values("several_outputs", "correlated_scalars"),
    ),
    Bug(
        "averaging of hyperparameters without their sum",
        f"{CALIBRATION}/_process_gaussian.py",
        "    return top + math.log(norm)\n",
        "    return top\n",
        (
            *tests("calibration/test_likelihood.py", "test_hyperparameter_draws_are_averaged_over_the_whole_data_set"),
            *models("scalar_averaged"),
        ),
    ),
    Bug(
        "averaging of hyperparameters takes the best of them",
        f"{CALIBRATION}/single.py",
        "parts = [np.logaddexp.reduce(values, axis=0) for values in self.log_likelihood_values(flat)]\n",
        "parts = [np.max(values, axis=0) for values in self.log_likelihood_values(flat)]\n",
        (
            *tests("calibration/test_likelihood.py", "test_hyperparameter_draws_are_averaged_over_the_whole_data_set"),
            *values("curve_averaged"),
        ),
    ),
    Bug(
        "sign of the gradient by the noise",
        f"{CALIBRATION}/_gaussian.py",
        "        phi_bar[i] = squares[i] / (s * s * s) - replicates[i] / s\n",
        "        phi_bar[i] = squares[i] / (s * s * s) + replicates[i] / s\n",
        (*SLOPES, *models("scalar_replicates")),
    ),
    Bug(
        "gradient by a variance is half of itself",
        f"{CALIBRATION}/_gaussian.py",
        "            bar = 0.5 * (a[k, j] * a[k, j] - s) if lam[k, j] > 0.0 else 0.0",
        "            bar = 0.25 * (a[k, j] * a[k, j] - s) if lam[k, j] > 0.0 else 0.0",
        (*SLOPES, *models("scalar_one")),
    ),
    Bug(
        "Jacobian of a transform of the data left out",
        f"{CALIBRATION}/single.py",
        "        return (np.concatenate(parts) + self.cells.jacobian.sum()).reshape(shape)\n",
        "        return np.concatenate(parts).reshape(shape)\n",
        (
            *tests("calibration/test_noise_models.py", "test_the_pymc_model_is_the_density_of_the_arrays[log-normal]"),
            *values("log_lognormal"),
        ),
    ),
    Bug(
        "error of the simulator's interpolation left out",
        f"{CALIBRATION}/_gaussian.py",
        "                X[c, q + j] = gain * truncation[c, j]\n",
        "                X[c, q + j] = 0.0 * truncation[c, j]\n",
        values("direct_between_coordinates"),
    ),
    # ------------------------------------------------------------------ correlated noise, discrepancy, realisation
    Bug(
        "noise of a series forgets one step",
        f"{CALIBRATION}/_gaussian.py",
        "        P = a * a * after + s2 * new\n",
        "        P = a * after + s2 * new\n",
        (*tests(CORRELATED, "test_autocorrelated_noise_is_new_with_each_replicate"), *values("curve_autocorrelated")),
    ),
    Bug(
        "derivative by a series' length left out",
        f"{CALIBRATION}/_gaussian.py",
        "phi_bar[int(view(data, LENGTH)[i + 1])] += a_bar * a",
        "phi_bar[int(view(data, LENGTH)[i + 1])] += 0.0 * a_bar * a",
        models("curve_autocorrelated"),
    ),
    Bug(
        "noise of a series shared by replicates",
        f"{CALIBRATION}/likelihood.py",
        'labels = table.drop(columns=["value", "sd", along,',
        'labels = table.drop(columns=["value", "replicate", "sd", along,',
        (*tests(CORRELATED, "test_autocorrelated_noise_is_new_with_each_replicate"), *values("curve_autocorrelated")),
    ),
    Bug(
        "discrepancy not shared by experiments",
        f"{CALIBRATION}/discrepancy.py",
        "            ids = np.zeros(len(at.experiment), dtype=np.int64) if shared else at.experiment\n"
        "            return Place(ids, np.column_stack(",
        "            ids = at.experiment\n            return Place(ids, np.column_stack(",
        (
            *tests(CORRELATED, "test_a_gp_over_time_and_condition_is_the_dense_normal"),
            *values("discrepancy_gp_over_time"),
        ),
    ),
    Bug(
        "variance of a discrepancy is its sd",
        f"{CALIBRATION}/_terms.py",
        "            K[i, j] = amplitude * amplitude * value\n",
        "            K[i, j] = amplitude * value\n",
        (*tests(CORRELATED, "test_an_unshared_gp_an_offset_and_a_factor"), *values("discrepancy_offset")),
    ),
    Bug(
        "orthogonal projection left out",
        f"{CALIBRATION}/_terms.py",
        "            total += K - KJ @ V\n",
        "            total += K - 0.0 * (KJ @ V)\n",
        (
            *tests(CORRELATED, "test_an_orthogonal_gp_has_no_part_along_the_slope_of_the_mean"),
            *values("discrepancy_gp_orthogonal"),
        ),
    ),
    Bug(
        "gradient of the projection left out",
        f"{CALIBRATION}/_terms.py",
        "            J_bar -= 2.0 * rest @ (Q @ V.T)\n",
        "            J_bar -= 0.0 * rest @ (Q @ V.T)\n",
        # In the frozen problems the slopes span all scores, so that the projection does not depend on the parameters.
        tests(CORRELATED, "test_derivatives_of_the_density", "test_derivatives_of_the_latent_outputs"),
    ),
    Bug(
        "scale discrepancy without the surrogate's error",
        f"{CALIBRATION}/_gaussian.py",
        "                X[c, j] = gain * basis[c, j]\n",
        "                X[c, j] = slope[c] * basis[c, j]\n",
        (*tests(CORRELATED, "test_an_unshared_gp_an_offset_and_a_factor"), *values("discrepancy_scale")),
    ),
    Bug(
        "derivative by a length scale has its sign wrong",
        f"{CALIBRATION}/_terms.py",
        "                        phi_bar[int(lengths[m])] += weight * step",
        "                        phi_bar[int(lengths[m])] -= weight * step",
        (*tests(CORRELATED, "test_derivatives_of_the_density"), *models("discrepancy_gp_over_time")),
    ),
    Bug(
        "noise of a run left out",
        f"{CALIBRATION}/gaussian.py",
        "        out[:, :, truncation.shape[2] :] = runs\n",
        "        out[:, :, truncation.shape[2] :] = 0.0 * runs\n",
        (
            *tests("calibration/test_realisation.py", "test_likelihood_is_that_of_the_dense_normal"),
            *values("realisation_of_each_experiment"),
        ),
    ),
    # ------------------------------------------------------------------ transformed outputs to first order
    Bug(
        "slope of a transformed output taken as constant",
        f"{CALIBRATION}/_gaussian.py",
        "                bent = (factors[c] * error_bar + slope_bar[c]) * slopes[1]\n",
        "                bent = 0.0 * slopes[1]\n",
        (
            *tests("calibration/test_gaussian_kernel.py", "test_slopes_are_differences_of_the_dense_density"),
            *models("log_gaussian_first_order"),
        ),
    ),
    Bug(
        "discrepancy of a transformed output in the output's unit",
        f"{CALIBRATION}/_gaussian.py",
        "                R[i, j] += slope[i] * slope[j] * delta[i, j]\n",
        "                R[i, j] += delta[i, j]\n",
        (
            *tests(EXPANSION, "test_the_likelihood_is_the_dense_normal_of_the_expansion[discrepancy, scale]"),
            *values("log_gaussian_first_order_averaged_discrepancy"),
        ),
    ),
    Bug(
        "errors given the data without the slope of a transformed output",
        f"{CALIBRATION}/predict.py",
        "        design = slope[..., None] * G if cells.transformed else G\n",
        "        design = G\n",
        tests(EXPANSION, "test_rows_given_the_rest_and_moments_are_those_of_the_dense_normal[log]"),
    ),
    # ------------------------------------------------------------------ latents
    Bug(
        "truncation of latents shared by all experiments",
        f"{CALIBRATION}/_latent_outputs.py",
        "            s += truncation[i, a] * omega[k * t + a]\n",
        "            s += truncation[i, a] * omega[a]\n",
        values("curve_student", "own_surrogate_student"),
    ),
    Bug(
        "censored on the other side",
        f"{CALIBRATION}/likelihood.py",
        '    side[observations.censored == "left"], side[observations.censored == "right"] = 1, -1\n',
        '    side[observations.censored == "left"], side[observations.censored == "right"] = -1, 1\n',
        values("scalar_censored", "curve_censored"),
    ),
    Bug(
        "logarithm's Jacobian for censored rows too",
        f"{CALIBRATION}/density.py",
        "            density = density - np.where(side == 0, 1.0, 0.0) * rows.z\n",
        "            density = density - rows.z\n",
        values("log_lognormal_censored"),
    ),
    Bug(
        "noise of a transformed output on the transformed scale",
        f"{CALIBRATION}/density.py",
        "        values = cells.responses[g].inverse(y[..., cells.row_cell[at]], xp)\n",
        "        values = y[..., cells.row_cell[at]]\n",
        values("log_gaussian", "log_poisson"),
    ),
    # ------------------------------------------------------------------ priors
    Bug(
        "mass that the box cuts from a prior not normalised",
        f"{CALIBRATION}/bridge.py",
        "    log_mass = np.log(high_p - low_p)\n",
        "    log_mass = 0.0\n",
        models("priors_cut_by_the_box"),
    ),
    Bug(
        "share that constraints allow not normalised",
        f"{CALIBRATION}/conditioned.py",
        "        share = -np.log(self.allowed.share)\n",
        "        share = 0.0\n",
        tests("calibration/test_joint_priors.py", "test_prior_in_a_narrow_box_integrates_to_one_and_is_drawn"),
    ),
    Bug(
        "Jacobian of the map to unconstrained space left out",
        "uqms/parameters/scale.py",
        "            slope = xp.log(self.high - self.low) - xp.softplus(-z) - xp.softplus(z)\n",
        "            slope = xp.log(self.high - self.low) + 0.0 * z\n",
        (
            *tests("calibration/test_joint_priors.py", "test_model_has_the_density_of_the_problem_and_its_gradient"),
            *models("priors_first"),
        ),
    ),
    Bug(
        "true conditions of experiments mixed up",
        f"{CALIBRATION}/single.py",
        "                for row in np.flatnonzero(experiment == k):\n",
        "                for row in np.flatnonzero(experiment == k)[:0]:\n",
        (
            *tests("calibration/test_condition_errors.py", "test_likelihood_is_that_at_the_true_conditions"),
            *values("scalar_conditions_with_error"),
        ),
    ),
    # ------------------------------------------------------------------ several simulators, populations
    Bug(
        "one part of several simulators counted twice",
        f"{CALIBRATION}/parts.py",
        "        return np.asarray(np.sum(values, axis=0))\n",
        "        return np.asarray(np.sum(values, axis=0) + values[0])\n",
        (
            *tests("calibration/test_parts.py", "test_likelihood_is_the_dense_gaussian_of_all_data"),
            *values("parts"),
        ),
    ),
    Bug(
        "Nystroem: what is an input's own left out (arrays)",
        f"{CALIBRATION}/population/shared_error.py",
        '            own[h, :, g] = np.maximum(found.variance[:, 0, 0] - np.einsum("ij,ij->i", one, one), 0.0)\n',
        "            own[h, :, g] = 0.0 * found.variance[:, 0, 0]\n",
        (
            *tests("calibration/test_lowrank.py", "test_variance_is_exact_everywhere_and_covariance_at_the_points"),
            *values("population_many"),
        ),
    ),
    Bug(
        "Nystroem: what an input's own variance does through the features left out",
        f"{CALIBRATION}/_features.py",
        "                phi_bar[k, e] -= 2.0 * own_bar[k, j] * parts[begin + k * r + e]\n",
        "                phi_bar[k, e] -= 0.0 * own_bar[k, j] * parts[begin + k * r + e]\n",
        (
            *tests("calibration/test_lowrank.py", "test_gradient_is_that_of_finite_differences"),
            *models("population_many"),
        ),
    ),
    Bug(
        "errors of subjects independent of each other",
        f"{CALIBRATION}/gaussian.py",
        "                    block[:, :, j, :, j] = covariance[:, j]\n",
        "                    block[:, :, j, :, j] = covariance[:, j] * np.eye(K)\n",
        (*tests(POPULATION, "test_the_likelihood_is_that_of_the_definition"), *values("population_few")),
    ),
    Bug(
        "correlated effects: the root's diagonal is 1",
        f"{CALIBRATION}/population/layout.py",
        "        rows.append([*row, xp.sqrt(left)])\n",
        "        rows.append([*row, 1.0])\n",
        (
            *tests(POPULATION, "test_the_likelihood_is_that_of_the_definition"),
            *values("population_correlated_covariates"),
        ),
    ),
    Bug(
        "covariates left out of the typical value",
        f"{CALIBRATION}/population/layout.py",
        "                    value = value + size * self.covariates[:, j]\n",
        "                    value = value + 0.0 * size * self.covariates[:, j]\n",
        (
            *tests(POPULATION, "test_the_likelihood_is_that_of_the_definition"),
            *values("population_correlated_covariates"),
        ),
    ),
    Bug(
        "subjects without data weigh the population at the walls",
        f"{CALIBRATION}/population/calibration.py",
        "self.walls_of_subjects(theta)[:, self.subjects.measured].sum(axis=1)",
        "self.walls_of_subjects(theta).sum(axis=1)",
        tests("calibration/population/test_prediction.py", "test_subjects_without_data_do_not_weigh_the_population"),
    ),
)


def copied(folder: Path) -> None:
    """Fill a folder with the package and its tests."""
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)


def planted(bug: Bug, folder: Path) -> str:
    """Put the bug into a copy; return what is wrong with its place."""
    file = folder / bug.file
    if not file.exists():
        return f"no file {bug.file}"
    source = file.read_text()
    count = source.count(bug.text)
    if count != 1:
        return f"text {'not found' if count == 0 else f'found {count} times'} in {bug.file}:\n{bug.text}"
    file.write_text(source.replace(bug.text, bug.replacement))
    return ""


def run_tests(folder: Path, names: tuple[str, ...]) -> tuple[dict[str, str], str]:
    """Return "passed" or "failed" by test, "failed" if one of its parameters did, and the output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    environment |= {
        "PYTHONPATH": str(folder),
        "NUMBA_CACHE_DIR": str(folder / "numba"),
        "PYTENSOR_FLAGS": f"base_compiledir={folder / 'pytensor'}",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    environment.setdefault("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=line", "-p", "no:cacheprovider", "-m", "", *names]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {}, f"no end after {LIMIT:g} s"
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        kind, _, rest = line.partition(" ")
        for name in names:
            if kind in ("PASSED", "FAILED", "ERROR") and (rest.split(" - ")[0] + "[").startswith(name + "["):
                found[name] = "passed" if kind == "PASSED" and found.get(name, "passed") == "passed" else "failed"
    return found, done.stdout[-3000:] + done.stderr[-2000:]


def tried(bug: Bug) -> Outcome:
    """Run the tests of one bug in a copy that has it."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="planted_") as name:
        folder = Path(name)
        copied(folder)
        lost = planted(bug, folder)
        if lost:
            return Outcome(bug.name, "LOST", lost, time.perf_counter() - start)
        found, output = run_tests(folder, bug.tests)
    seconds = time.perf_counter() - start
    if set(found) != set(bug.tests):
        return Outcome(bug.name, "BROKEN", f"not run: {sorted(set(bug.tests) - set(found))}\n{output}", seconds)
    passed = [name for name, verdict in found.items() if verdict == "passed"]
    if passed:
        return Outcome(bug.name, "ESCAPED", "\n".join(f"passed: {one}" for one in passed), seconds)
    return Outcome(bug.name, "caught", "\n".join(f"failed: {one}" for one in found), seconds)


def clean(bugs: tuple[Bug, ...]) -> bool:
    """Return whether all tests of the bugs pass in an unchanged copy."""
    names = tuple(dict.fromkeys(name for bug in bugs for name in bug.tests))
    with tempfile.TemporaryDirectory(prefix="planted_") as name:
        copied(Path(name))
        found, output = run_tests(Path(name), names)
    wrong = [name for name in names if found.get(name) != "passed"]
    if wrong:
        print("without a bug these do not pass:", *wrong, output, sep="\n")
    return not wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the bugs, and whether their places are found")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="bugs whose names hold one of these texts")
    parser.add_argument("--check-clean", action="store_true", help="first see that the tests pass without a bug")
    given = parser.parse_args()
    bugs = tuple(bug for bug in BUGS if not given.only or any(text in bug.name for text in given.only))
    if not bugs:
        parser.error(f"no bug is named like {given.only}; see --list")
    if given.list:
        lost = 0
        for bug in bugs:
            file = ROOT / bug.file
            count = file.read_text().count(bug.text) if file.exists() else 0
            lost += count != 1
            print(f"{'ok  ' if count == 1 else 'LOST'}  {bug.name}  ({bug.file}; {len(bug.tests)} tests)")
        return 2 if lost else 0
    if given.check_clean and not clean(bugs):
        return 2
    outcomes = []
    for bug in bugs:
        outcome = tried(bug)
        outcomes.append(outcome)
        print(f"{outcome.verdict:8s} {outcome.seconds:6.0f} s  {outcome.name}", flush=True)
        print("".join(f"             {line}\n" for line in outcome.detail.splitlines()), end="", flush=True)
    counts = {
        verdict: sum(one.verdict == verdict for one in outcomes) for verdict in ("caught", "ESCAPED", "LOST", "BROKEN")
    }
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count), f"of {len(outcomes)} bugs")
    return 2 if counts["LOST"] + counts["BROKEN"] else int(counts["ESCAPED"] > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Whether a surrogate's error bars are correct: predictions of left-out runs, and the expected errors.

==========  ======================================================================  ===========
symbol      meaning                                                                 shape
==========  ======================================================================  ===========
Q           K^-1 less the part that the estimated trend takes                       (n, n)
e           left-out errors of one score: (Q y)_i / Q_ii, variance 1 / Q_ii         (n,)
D Q D       covariance of e, with D = diag(1 / Q_ii)                                (n, n)
T omega     what the basis of the other runs leaves of a run's curve                (m,)
==========  ======================================================================  ===========

Errors of one function are dependent, so the number of them inside a 95 % interval is not binomial. The errors
of a correct surrogate are simulated from their joint distribution (`reference.py`); the range is its central 99 %.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Protocol, final

import numpy as np
import pandas as pd
import xarray as xr
from scipy.spatial.distance import cdist

from uqms import ensemble as table
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.errors import DataError, InputError
from uqms.surrogates.fidelity import MultiFidelitySurrogate
from uqms.surrogates.gp import GaussianProcess, GaussianProcessSurrogate, left_out_scalars
from uqms.surrogates.left_out import left_out_scores, truncation_share
from uqms.surrogates.outputs import Layout, OutputBasis, score_columns
from uqms.surrogates.physics import lifted
from uqms.surrogates.process import ScoreProcess, Scores, root_at
from uqms.surrogates.protocol import Surrogate, fixed_rows
from uqms.surrogates.reference import BINS, LEVELS, JointLaw, Part, compared
from uqms.surrogates.transform_choice import ROUNDING, TRIED, choose_transform
from uqms.surrogates.transforms import Identity, Log, check_values

__all__ = ["Settings", "Validation", "check_settings", "held_out", "judged_runs", "k_fold", "leave_one_out", "without"]

SHOWN = (0.5, 0.95)
BEYOND_4 = 0.002
ROUGH = 0.8  # of Q²
ACCURATE = 0.999  # Q² above which no other setting is tried while the intervals are right
REPORTED = 0.1  # fraction of the stated variance that truncation has, above which it is printed
TWICE = 4.0  # D²/m of errors that are twice as large as the surrogate says
SAME = 1e-9  # of the box: inputs that are closer are the same
ROOTS = 2e8  # bytes of the roots that are kept while their law is simulated


class Settings(Protocol):
    """Settings of a surrogate, such as `GaussianProcess()`.

    Where only some runs are of what is predicted (the highest level of fidelity), ``judged(ensemble)`` says which.
    """

    def fit(self, ensemble: xr.Dataset) -> Any:
        """Train on the completed runs of an ensemble."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Validation:
    """Predictions of runs that the surrogate did not see, against what was simulated.

    Every range is the central 99 % of the values that a correct surrogate gives.

    Attributes
    ----------
    method
        "leave-one-out", "held-out" or "5-fold".
    observed, mean, sd
        Datasets with dim "run" and the outputs' dims, in the outputs' own units; NaN in runs that lack an output, which
        are counted nowhere. Of leave-one-out, `observed` of a curve is its scores and what the basis of other runs
        leaves of it, not the data to the last digit, and with replicates "run" counts different inputs (means over
        replicates).
    standardised
        (observed - mean) / sd, of transformed outputs on the scale of their transform, where their distribution is
        normal.
    pit
        Probability integral transform: the predicted probability of less than what was simulated, dims as above.
        For a correct surrogate it is uniform.
    table
        By output: q2 (1 - error variance / output variance), rmse, mae and crps (continuous ranked probability score)
        in the output's own unit; log_score (mean log density, high is good); coverage of 50 % and 95 % intervals;
        beyond_4, the fraction of errors beyond 4 sd (0.00006 for a correct surrogate); mahalanobis, the squared
        Mahalanobis distance D² of all errors together over their number m; largest_pivoted, the largest pivoted error;
        and the ranges of these; of leave-one-out also truncation, the fraction of the stated variance that is due to
        the truncated basis of a curve. The joint checks of curves are those of their scores. Errors in sds, D² and
        pivoted errors are those on the scale of the output's transform.
    coverage_curve
        Dataset with dims ("output", "level"): coverage of equal-tailed intervals, and the range's ends low and high.
    pit_histogram
        Dataset with dims ("output", "bin"): density, low and high.
    pivoted
        Pivoted errors, one per row: output, fold, score, run, error. Those of a correct surrogate have variance 1 and
        no correlation. Those of a fold and score stand in the order of the pivots: large ones late mean wrong length
        scales or a wrong kernel, large ones everywhere a wrong variance (Bastos & O'Hagan 2009).
    point_estimated
        Whether hyperparameters are single values although runs are few (n <= 20 d); intervals are then too narrow.
    runs
        Number of runs the surrogate was trained on; of k-fold, all of them; 0 where your own does not say.
    suggestions
        Settings that predict these runs better, with the gain that was measured. `leave_one_out` tries the logarithm
        of positive outputs that are predicted with a Q² below 0.999 or whose intervals are not right.
    """

    method: str
    observed: xr.Dataset
    mean: xr.Dataset
    sd: xr.Dataset
    standardised: xr.Dataset
    pit: xr.Dataset
    table: pd.DataFrame
    coverage_curve: xr.Dataset
    pit_histogram: xr.Dataset
    pivoted: pd.DataFrame
    point_estimated: bool
    runs: int
    suggestions: tuple[str, ...] = ()

    @property
    def too_narrow(self) -> tuple[str, ...]:
        """Outputs whose intervals cover less than those of a correct surrogate."""
        return self._off(-1, *(f"coverage_{level:.0%}" for level in SHOWN))

    @property
    def too_wide(self) -> tuple[str, ...]:
        """Outputs whose intervals cover more than those of a correct surrogate: they are wider than needed."""
        return self._off(1, *(f"coverage_{level:.0%}" for level in SHOWN))

    @property
    def overconfident(self) -> tuple[str, ...]:
        """Outputs whose errors are jointly larger than stated, although each may lie in its interval."""
        return self._off(1, "mahalanobis", "largest_pivoted")

    @property
    def cautious(self) -> tuple[str, ...]:
        """Outputs whose errors are jointly smaller than stated."""
        return self._off(-1, "mahalanobis")

    @property
    def doubts(self) -> dict[str, tuple[str, ...]]:
        """Every reason not to rely on the surrogate, in words, by output; outputs without any are left out."""
        found = {str(name): _doubts(row) for name, row in self.table.iterrows()}
        return {name: words for name, words in found.items() if words}

    def _off(self, side: int, *columns: str) -> tuple[str, ...]:
        rows = ((str(name), row) for name, row in self.table.iterrows())
        return tuple(name for name, row in rows if any(_side(row, column) == side for column in columns))

    def __str__(self) -> str:
        lines = [f"{self.method} validation" + (f" of {self.runs} runs" if self.runs else "")]
        if self.method == "held-out":
            of = f", surrogate of {self.runs} runs" if self.runs else ""
            lines = [f"held-out validation: {self.observed.sizes['run']} new runs{of}"]
        for name, row in self.table.iterrows():
            parts = [f"{name}: Q² {row['q2']:.5f}, RMSE {row['rmse']:.3g}, CRPS {row['crps']:.3g}"]
            for level in SHOWN:
                (low, high), value = row[f"range_{level:.0%}"], row[f"coverage_{level:.0%}"]
                text = f"{level:.0%} intervals cover {value:.1%}, expected {low:.1%} to {high:.1%}"
                parts.append(text + (" (wider than needed)" if _side(row, f"coverage_{level:.0%}") > 0 else ""))
            if np.isfinite(row["mahalanobis"]):
                low, high = row["range_mahalanobis"]
                text = f"all errors jointly: D²/m {row['mahalanobis']:.2f}, expected {low:.2f} to {high:.2f}"
                parts.append(text + (" (stated errors too large)" if _side(row, "mahalanobis") < 0 else ""))
            if (share := float(row.get("truncation", 0.0))) > REPORTED:
                parts.append(f"truncation is {share:.0%} of the stated variance")
            lines.append("  " + "; ".join(parts))
            lines += [f"    warning: {words}" for words in _doubts(row)]
        lines += [f"  suggestion: {words}" for words in self.suggestions]
        if self.point_estimated:
            lines.append("  hyperparameters point-estimated with n <= 20 d runs: intervals tend to be too narrow")
        return "\n".join(lines)


def _side(row: "pd.Series[Any]", column: str) -> int:
    """Return whether a value lies below (-1), in (0) or above (1) its range."""
    low, high = row[f"range_{column.removeprefix('coverage_')}"]
    return int(row[column] > high) - int(row[column] < low)


def _doubts(row: "pd.Series[Any]") -> tuple[str, ...]:
    words = [f"{level:.0%} intervals are too narrow" for level in SHOWN if _side(row, f"coverage_{level:.0%}") < 0]
    if _side(row, "mahalanobis") > 0:
        words.append(
            "overconfident jointly: all errors together are larger than their stated covariance; try another kernel, "
            "or more runs"
        )
    if row["range_mahalanobis"][1] > TWICE:
        words.append("too few runs to judge: errors twice as large as stated would pass this check")
    if _side(row, "largest_pivoted") > 0:
        words.append(
            f"a pivoted error of {row['largest_pivoted']:.1f} sd: a run that does not fit its neighbours, or a kernel "
            "that is too smooth"
        )
    if row["beyond_4"] > BEYOND_4:
        words.append(
            f"{row['beyond_4']:.1%} of the errors lie beyond 4 sd (expected 0.006%): the output "
            "changes faster in some part of the box than elsewhere, so do not trust the intervals there; "
            "uq.detect_jump(surrogate) tests whether it jumps"
        )
    if row["q2"] < ROUGH:
        words.append(
            f"Q² is below {ROUGH}: the surrogate predicts little of the variance; use more runs, or another quantity"
        )
    return tuple(words)


@taught
@single_threaded
def leave_one_out(surrogate: Surrogate, *, rng: int = 0) -> Validation:
    """Predict every training run from all others, in closed form, and compare in the outputs' own units.

    Use it on every surrogate before calibration. Length scales stay as trained on all runs, which flatters few runs.
    Runs that miss a part of an output are not counted there, but the others are predicted from them too. Of several
    levels of fidelity the runs of the highest are predicted; those of lower levels at the same inputs are kept, which
    flatters where these are uncertain: `k_fold` leaves them out too. Of a chain each member's runs are left out of that
    member, since they are runs of that simulator alone; `held_out` takes runs of the linked simulators.

    Parameters
    ----------
    surrogate
        A fitted Gaussian process, or one of several levels of fidelity; or a chain of them.
    rng
        Seed of the simulated reference range.

    Returns
    -------
    Validation
        Predictions, scores and coverage with their reference ranges. D² is not among them where the variance is
        estimated from the runs: with that estimate it is the same for all data.

    Raises
    ------
    InputError
        When the surrogate is no Gaussian process.
    DataError
        When fewer than two runs have the whole of an output.

    Notes
    -----
    Where a surrogate was fitted to replicates with ``noise="heteroscedastic"``, "run" counts different inputs: what is
    left out and predicted are means over replicates. What was observed of a curve is, of a run that is left out, its
    scores and what the basis of other runs leaves of it: close to the data, but not to the last digit.

    References
    ----------
    Dubrule (1983), doi:10.1007/BF01033232; Bastos & O'Hagan (2009), doi:10.1198/TECH.2009.08019.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": np.sin(design["k"].values)}))
    >>> bool(leave_one_out(surrogate).table.loc["y", "q2"] > 0.999)
    True
    """
    members = getattr(surrogate, "members", None)
    if members is not None:
        return _of_members({name: leave_one_out(member, rng=rng) for name, member in members.items()})
    if not isinstance(surrogate, GaussianProcessSurrogate | MultiFidelitySurrogate):
        raise InputError(
            f"leave_one_out: a {type(surrogate).__name__} cannot be conditioned on its runs less one; that takes a "
            "fitted GaussianProcess. Compare it with runs that it has not seen: uq.held_out(surrogate, new_runs)."
        )
    process = surrogate.process
    n, q, draws = len(process.x), process.q, process.draws
    shown = surrogate.highest if isinstance(surrogate, MultiFidelitySurrogate) else np.arange(n)
    log_weights = process.log_weights
    if isinstance(surrogate, MultiFidelitySurrogate) and surrogate.ladder.draws == draws:
        log_weights = surrogate.ladder.log_weights
    error, variance = np.empty((draws, n, q)), np.empty((draws, n, q))
    roots = np.empty((draws, q, n, n))
    for h in range(draws):
        for j in range(q):
            error[h, :, j], variance[h, :, j], roots[h, j] = left_out_scores(process, h, j)
    law = JointLaw(-error, variance, log_weights, lambda h, j: roots[h, j], np.zeros_like(error), np.full(q, np.inf))
    fixed = np.isfinite(_degrees(process))  # scores whose D² is fixed by the variance that they gave
    columns = dict(zip(surrogate.layouts, score_columns(surrogate.bases), strict=True))
    parts, shares = {}, {}
    for basis in surrogate.bases:
        known = surrogate.whole(basis.name)
        if len(known) < 2:
            raise DataError(
                f"leave_one_out: {len(known)} of {n} runs have the whole of output {basis.name!r}; at least two are "
                "needed. Run more points to the end, and compare with new ones: uq.held_out(surrogate, new_runs)."
            )
        full, latent = surrogate.decode(basis.name).basis, basis.truncation
        if surrogate.noise is not None:  # what was left out are means over replicates
            latent = surrogate.noise.truncations[surrogate.bases.index(basis)]
        place = np.searchsorted(shown, known)
        rest = _rest(basis, latent, len(shown))[place] @ latent.T
        seen = process.y[known] @ full.T
        seen += rest
        seen += basis.offset
        one = law if len(known) == n else law.take(known)
        each = np.arange(len(known))  # runs here differ in their inputs
        transform = basis.layout.transform
        told = draws == 1 and not fixed[columns[basis.name]].any()
        parts[basis.name] = [Part(place, one, full, latent, latent.shape[1], each, seen, rest, told, transform)]
        shares[basis.name] = truncation_share(full, latent, variance[:, known], log_weights)
    found = _validation("leave-one-out", [surrogate], parts, len(shown), len(shown), rng)
    found = replace(found, table=found.table.assign(truncation=pd.Series(shares)))
    if isinstance(surrogate, MultiFidelitySurrogate) or surrogate.noise is not None or surrogate.physics is not None:
        return found
    return replace(found, suggestions=_suggestions(surrogate, found))


def _rest(basis: OutputBasis, latent: Array, runs: int) -> Array:
    """Return the latent numbers (runs, t) of what the basis leaves of each run; a user's own basis may have none."""
    if basis.left_out.shape == (runs, latent.shape[1]):
        return basis.left_out
    if latent.shape[1]:
        raise InputError(
            f"leave_one_out: output {basis.name!r} does not hold what its basis leaves of each of the {runs} runs "
            f"(`left_out` has the shape {basis.left_out.shape}, required is {(runs, latent.shape[1])}). Compare the "
            "surrogate with runs that it has not seen: uq.held_out(surrogate, new_runs)."
        )
    return np.zeros((runs, 0))


def _of_members(found: Mapping[str, Validation]) -> Validation:
    """Return validations of a chain's members as one, outputs named "member.output"; runs that others have are NaN."""
    n = max(int(one.observed.sizes["run"]) for one in found.values())
    names = {member: {str(o): f"{member}.{o}" for o in one.table.index} for member, one in found.items()}

    def padded(kind: str) -> xr.Dataset:
        each = []
        for member, one in found.items():
            own: xr.Dataset = getattr(one, kind)
            each.append(own.rename(names[member]).pad(run=(0, n - own.sizes["run"])))
        return xr.merge(each, join="exact", compat="override")

    def along(kind: str) -> xr.Dataset:
        each = []
        for member, one in found.items():
            own: xr.Dataset = getattr(one, kind)
            each.append(own.assign_coords(output=[names[member][str(o)] for o in own["output"].values]))
        return xr.concat(each, dim="output")

    return Validation(
        method="leave-one-out",
        **{kind: padded(kind) for kind in ("observed", "mean", "sd", "standardised", "pit")},
        table=pd.concat([one.table.rename(index=names[member]) for member, one in found.items()]),
        coverage_curve=along("coverage_curve"),
        pit_histogram=along("pit_histogram"),
        pivoted=pd.concat(
            [one.pivoted.assign(output=one.pivoted["output"].map(names[member])) for member, one in found.items()],
            ignore_index=True,
        ),
        point_estimated=any(one.point_estimated for one in found.values()),
        runs=sum(one.runs for one in found.values()),
        suggestions=tuple(f"{member}: {words}" for member, one in found.items() for words in one.suggestions),
    )


def _suggestions(surrogate: GaussianProcessSurrogate, found: Validation) -> tuple[str, ...]:
    """Return other settings that were measured to predict the runs better, of outputs that leave something to gain."""
    q2, off = found.table["q2"], {*found.doubts, *found.too_wide}
    eligible = [
        basis
        for basis in surrogate.bases
        if (basis.name in off or q2[basis.name] < ACCURATE) and isinstance(basis.layout.transform, Identity)
    ]
    worst = sorted(eligible, key=lambda basis: float(q2[basis.name]))[:TRIED]
    alone = GaussianProcess(hyperparameters="point", scalars="independent")
    words = []
    for basis in worst:
        name = basis.name
        values, rounding = found.observed[name].values.reshape(surrogate.runs, -1), ROUNDING if basis.dims else 0.0
        left_out = partial(left_out_scalars, alone, surrogate.domain)
        choice = choose_transform(surrogate.process.x, basis.layout.unit, values, left_out, rounding)
        if choice is not None and choice.rejected is None:
            transform, gain = choice.transform, choice.gain
            called = f"{transform.name}arithm" if isinstance(transform, Log) else transform.name
            given = "'log'" if transform == Log() else f"uq.{transform}"
            setting = f"uq.{'Curve' if basis.dims else 'Scalar'}(transform={given})"
            words.append(
                f"the {called} of {name!r} predicts left-out runs better, by {gain.nats:.1f} nats per value "
                f"(standard error {gain.se:.1f}): uq.GaussianProcess(outputs={{{name!r}: {setting}}})"
            )
    if words and len(worst) < len(eligible):
        words.append(f"transforms were tried for the {len(worst)} outputs with the lowest Q², of {len(eligible)}")
    return tuple(words)


@taught
@single_threaded
def held_out(surrogate: Surrogate, ensemble: xr.Dataset, *, rng: int = 0) -> Validation:
    """Predict runs that were not used for training and compare with what was simulated.

    The noise of a stochastic simulator, where it was fitted, is part of the intervals, as in `leave_one_out`.

    Parameters
    ----------
    surrogate
        A fitted Gaussian process, or a surrogate of your own that knows the covariance of its errors between inputs.
    ensemble
        Completed runs with the same inputs and outputs; others are left out. They may repeat inputs. Of several levels
        of fidelity only those of the highest are compared.
    rng
        Seed of the simulated reference range.

    Returns
    -------
    Validation
        Predictions, scores, coverage and joint checks with their reference ranges.

    Raises
    ------
    InputError
        When outputs or their coordinates differ from the surrogate's, or it knows no covariance between inputs.
    DataError
        When fewer than two runs completed, or values lie outside of what an output's transform takes.

    References
    ----------
    Bastos & O'Hagan (2009), doi:10.1198/TECH.2009.08019.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> space = uq.ParameterSpace(k=uq.Uniform(0.0, 2.0))
    >>> runs = [uq.sobol(space, n, rng=n) for n in (16, 8)]
    >>> train, test = (uq.ensemble.build(design, {"y": np.sin(design["k"].values)}) for design in runs)
    >>> bool(held_out(uq.GaussianProcess().fit(train), test).table.loc["y", "q2"] > 0.99)
    True
    """
    table.check(ensemble)
    if isinstance(surrogate, MultiFidelitySurrogate) and "fidelity" in ensemble.coords:
        ensemble = ensemble.isel(run=np.flatnonzero(ensemble["fidelity"].values.astype(str) == surrogate.levels[-1]))
    runs = table.completed(ensemble)
    if runs.sizes["run"] < 2:
        raise DataError(f"held_out: {runs.sizes['run']} completed runs; at least two are needed.")
    n, completed = runs.sizes["run"], np.flatnonzero(table.run_states(ensemble).values == table.RunState.COMPLETED)
    parts = {name: [part] for name, part in _parts_of(surrogate, runs, np.arange(n), completed, "held_out").items()}
    return _validation("held-out", [surrogate], parts, n, getattr(surrogate, "runs", 0), rng)


@taught
@single_threaded
def k_fold(settings: Settings, ensemble: xr.Dataset, k: int = 5, *, rng: RandomState = 0) -> Validation:
    """Predict each of k parts of the runs from a surrogate that is fitted to all others.

    Everything is fitted anew, length scales and bases too, so it costs k fits; leave-one-out keeps them as trained on
    all runs. The reference ranges take folds as independent.

    Parameters
    ----------
    settings
        What to fit, such as `GaussianProcess()`.
    ensemble
        Completed runs are used, partial ones are not. Runs of the same inputs stay together. Of several levels of
        fidelity the runs of the highest are predicted, from all that were made at other inputs.
    k
        Number of folds.
    rng
        Seed or generator of the folds and of the simulated reference ranges.

    Returns
    -------
    Validation
        Runs in the order of the ensemble; scores, coverage and joint checks with their reference ranges.

    Raises
    ------
    InputError
        When k is below 2, or above the number of different inputs.
    DataError
        When fewer than two runs completed.
    DesignError
        When a fold leaves fewer runs than a fit needs.

    References
    ----------
    Bastos & O'Hagan (2009), doi:10.1198/TECH.2009.08019.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": np.sin(design["k"].values)})
    >>> bool(uq.k_fold(uq.GaussianProcess(), runs, k=4, rng=1).table.loc["y", "q2"] > 0.99)
    True
    """
    check_settings("k_fold", settings)
    table.check(ensemble)
    runs = table.completed(ensemble)
    if runs.sizes["run"] < 2:
        raise DataError(
            f"k_fold: {runs.sizes['run']} completed runs; at least two are needed, and partial ones are not used. "
            "Run more points to the end, and compare with new ones: uq.held_out(surrogate, new_runs)."
        )
    generator = as_generator(rng)
    judged = judged_runs(settings, runs)
    folds = folds_of(runs.isel(run=judged), k, generator, "k_fold")
    fitted = [settings.fit(runs.isel(run=without(runs, judged, held))) for held in folds]
    return predicted(f"{k}-fold", fitted, runs.isel(run=judged), folds, int(generator.integers(2**31)))


def check_settings(call: str, settings: object) -> None:
    """Raise unless they are settings that can be fitted.

    Raises
    ------
    InputError
        The message shows settings.
    """
    if isinstance(settings, type) or not hasattr(settings, "fit"):
        what = f"the class {settings.__name__}" if isinstance(settings, type) else f"a {type(settings).__name__}"
        raise InputError(
            f"{call}: settings is {what}; give settings, which are fitted anew to parts of the runs: "
            f"uq.{call}(uq.GaussianProcess(), ensemble)."
        )


def judged_runs(settings: Settings, runs: xr.Dataset) -> Ints:
    """Return the positions of the runs that predictions are compared with: all, or those that the settings say."""
    judged = getattr(settings, "judged", None)
    return np.arange(runs.sizes["run"]) if judged is None else np.asarray(judged(runs))


def without(runs: xr.Dataset, judged: Ints, held: Ints, kept: Ints | None = None) -> Ints:
    """Return the positions of runs to fit to, without judged ones that are held out, or without all that are not kept.

    Runs that are not judged go with those of the same inputs that are held out.
    """
    _, group = np.unique(table.input_array(runs), axis=0, return_inverse=True)
    out = np.isin(group.reshape(-1), group.reshape(-1)[judged[held]])
    if kept is not None:
        out[np.setdiff1d(judged, judged[kept])] = True
    return np.flatnonzero(~out)


def predicted(
    method: str, surrogates: Sequence[Surrogate], runs: xr.Dataset, folds: Sequence[Ints], seed: int
) -> Validation:
    """Predict each fold of the runs from a surrogate of its own, fitted without it."""
    parts: dict[str, list[Part]] = {name: [] for name in table.output_names(runs)}
    for surrogate, held in zip(surrogates, folds, strict=True):
        for name, part in _parts_of(surrogate, runs.isel(run=held), held, held, method).items():
            parts[name].append(part)
    n = sum(len(held) for held in folds)
    return _validation(method, surrogates, parts, n, n, seed)


def folds_of(runs: xr.Dataset, k: int, rng: np.random.Generator, who: str) -> list[Ints]:
    """Return k parts of the runs by chance, runs of the same inputs in the same part.

    Raises
    ------
    InputError
        When k is below 2, or above the number of different inputs.
    """
    _, group = np.unique(table.input_array(runs), axis=0, return_inverse=True)
    groups = int(group.max(initial=-1)) + 1
    if isinstance(k, bool) or not isinstance(k, int) or not 2 <= k <= groups:
        raise InputError(f"{who}: k is {k!r}; give a whole number from 2 to the number of different inputs, {groups}.")
    fold = np.empty(groups, dtype=np.int64)
    fold[rng.permutation(groups)] = np.arange(groups) % k
    return [np.flatnonzero(fold[group.reshape(-1)] == i) for i in range(k)]


def _parts_of(surrogate: Surrogate, runs: xr.Dataset, place: Ints, positions: Ints, who: str) -> dict[str, Part]:
    """Return what the surrogate says of runs that it has not seen, by output; errors name their `positions`.

    Members of a chain are judged one by one, at the inputs that the runs gave them.
    """
    members = getattr(surrogate, "members", None)
    if members is not None:
        return {
            f"{name}.{output}": part
            for name, member in members.items()
            for output, part in _parts_of(member, surrogate.member_runs(runs, name), place, positions, who).items()  # type: ignore[attr-defined]
        }
    observed = {name: _matching(runs, name, layout, positions, who) for name, layout in surrogate.layouts.items()}
    u = np.asarray(surrogate.domain.to_unit(table.input_array(runs, surrogate.domain.names)))
    # Runs of the same inputs share scores and truncation; what is new in each is the noise, in scores and outside.
    group = np.argmax(cdist(u, u, "chebyshev") < SAME, axis=1)
    law = _law_at(surrogate, u, group)
    residual = getattr(surrogate, "noise_residual", None)
    parts = {}
    for name, layout in surrogate.layouts.items():
        offset, full, latent = fixed_rows(surrogate, name)
        shared = latent.shape[1]
        if residual is not None:
            latent = np.hstack([latent, residual(name)])
        seen = observed[name]
        parts[name] = Part(place, law, full, latent, shared, group, seen, seen - offset, True, layout.transform)
    return parts


def _law_at(surrogate: Surrogate, u: Array, group: Ints) -> JointLaw:
    """Return the joint law of the scores of new runs at `u`: the noise of a stochastic simulator is each run's own.

    Equally likely variances of the noise are paired with the hyperparameter draws, as in `Prediction.law`.
    """
    first, place = np.unique(group, return_inverse=True)
    at = u[first]
    if isinstance(surrogate, GaussianProcessSurrogate):
        scores, root, degrees = *_of_process(surrogate, at), _degrees(surrogate.process)
    else:
        scores, root = _of_scores(surrogate, at)
        degrees = np.full(scores.mean.shape[2], np.inf)
    of, draws = getattr(surrogate, "noise_at", None), len(scores.mean)
    noise = np.zeros((1, len(u), scores.mean.shape[2])) if of is None else of(u)
    each = np.arange(max(len(noise), draws))
    draw, own = each % draws, noise[each % len(noise)]
    variance = np.swapaxes(scores.covariance, 1, 2)[draw][:, place] + own
    weights = scores.log_weights[draw]
    return JointLaw(
        scores.mean[draw][:, place],
        variance,
        weights,
        lambda h, j: root(h % draws, j)[place],
        own,
        degrees,
        getattr(surrogate, "noise_correlation", None),
    )


def _of_process(surrogate: GaussianProcessSurrogate, u: Array) -> tuple[Scores, Callable[[int, int], Array]]:
    """Return means and variances at `u`, and roots of the covariances between its rows."""
    process = surrogate.process
    if surrogate.physics is None:

        def root(h: int, j: int) -> Array:
            return root_at(process, h, j, u)
    else:
        cheap = surrogate.physics.scores(surrogate.domain, surrogate.bases, u)

        def root(h: int, j: int) -> Array:
            return root_at(lifted(process, j), h, 0, np.column_stack([cheap[:, j], u]))

    return surrogate.marginal_scores(u), lru_cache(maxsize=max(1, int(ROOTS / (8 * len(u) ** 2))))(root)


def _of_scores(surrogate: Surrogate, u: Array) -> tuple[Scores, Callable[[int, int], Array]]:
    """Return the same of a surrogate that gives its scores only."""
    mean, covariance, log_weights = surrogate.scores(u)
    if not np.isfinite(covariance).all():
        raise InputError(
            f"held_out: the {type(surrogate).__name__} does not know the covariance of its errors between inputs "
            "(NaN), so many runs cannot be checked together. Give scores that do; zeros only where errors at "
            "neighbouring inputs are independent indeed."
        )
    values, vectors = np.linalg.eigh(covariance)
    roots = vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :]
    variance = np.diagonal(covariance, axis1=-2, axis2=-1)
    return Scores(mean, variance, log_weights), lambda h, j: roots[h, j]


def _degrees(process: ScoreProcess) -> Array:
    """Return the degrees of freedom (q,) of variances that were estimated in closed form and stand for all others."""
    freedom = np.array([process.known(j).sum() for j in range(process.q)]) - process.beta.shape[2]
    if process.draws > 1:
        return np.full(process.q, np.inf)
    estimated = np.abs(np.sum(process.target[0] ** 2, axis=1) - freedom) < 1e-6 * freedom
    return np.where(estimated, freedom, np.inf)


def _matching(runs: xr.Dataset, name: str, layout: Layout, positions: Ints, who: str) -> Array:
    """Return the output of the runs (n, m) on the scale of its transform."""
    if name not in runs:
        raise InputError(f"{who}: the runs have no output {name!r}; they have {list(table.output_names(runs))}.")
    values = runs[name].transpose("run", *layout.dims)
    for dim in layout.dims:
        if values.sizes[dim] != len(layout.coords[dim]) or not np.allclose(values[dim].values, layout.coords[dim]):
            raise InputError(f"{who}: the runs have other coordinates {dim!r} of {name!r} than the surrogate.")
    check_values(name, values.values, positions, layout.transform, layout.coords)
    flat = np.asarray(values.values, dtype=np.float64).reshape(values.sizes["run"], -1)
    return layout.transform.forward(flat)


def _validation(
    method: str,
    surrogates: Sequence[Surrogate],
    parts: dict[str, list[Part]],
    n: int,
    runs: int,
    seed: int,
) -> Validation:
    """Compare all outputs of n predicted runs."""
    layouts = surrogates[0].layouts
    kinds = ("observed", "mean", "sd", "standardised", "pit")
    data: dict[str, dict[str, xr.DataArray]] = {kind: {} for kind in kinds}
    found = {name: compared(blocks, seed) for name, blocks in parts.items()}
    pivoted = []
    for name, one in found.items():
        place = np.concatenate([part.runs for part in parts[name]])
        for kind in kinds:
            values = getattr(one, kind)
            everywhere = values
            if not np.array_equal(place, np.arange(n)):
                everywhere = np.full((n, values.shape[1]), np.nan)
                everywhere[place] = values
            data[kind][name] = _labelled(everywhere, layouts[name], n)
        for kind in ("standardised", "pit"):
            data[kind][name].attrs["unit"] = ""
        pivoted += [(name, b, score, int(parts[name][b].runs[run]), error) for b, score, run, error in one.pivoted]
    ends = ("low", "high")
    middles = (np.arange(BINS) + 0.5) / BINS
    return Validation(
        method=method,
        observed=xr.Dataset(data["observed"]),
        mean=xr.Dataset(data["mean"]),
        sd=xr.Dataset(data["sd"]),
        standardised=xr.Dataset(data["standardised"]),
        pit=xr.Dataset(data["pit"]),
        table=pd.DataFrame.from_dict({name: one.row for name, one in found.items()}, orient="index"),
        coverage_curve=_stacked({n: one.coverage for n, one in found.items()}, ("coverage", *ends), "level", LEVELS),
        pit_histogram=_stacked({n: one.histogram for n, one in found.items()}, ("density", *ends), "bin", middles),
        pivoted=pd.DataFrame(pivoted, columns=["output", "fold", "score", "run", "error"]),
        point_estimated=any(getattr(surrogate, "point_estimated", False) for surrogate in surrogates),
        runs=runs,
    )


def _stacked(values: dict[str, Array], names: Sequence[str], dim: str, at: Array) -> xr.Dataset:
    joined = np.stack(list(values.values()), axis=1)
    variables = {name: (("output", dim), joined[i]) for i, name in enumerate(names)}
    return xr.Dataset(variables, coords={"output": list(values), dim: at})


def _labelled(values: Array, layout: Layout, n: int) -> xr.DataArray:
    return xr.DataArray(
        values.reshape(n, *layout.shape),
        dims=("run", *layout.dims),
        coords=dict(layout.coords),
        attrs={"unit": layout.unit},
    )

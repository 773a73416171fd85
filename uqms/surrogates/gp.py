"""Exact Gaussian processes of scalars and curves: settings, and what `fit` returns."""

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from uqms import _checks as check
from uqms import ensemble as table
from uqms._teaching import missing, taught
from uqms._threads import single_threaded
from uqms._typing import Array, Bools, Ints, RandomState, as_generator
from uqms.errors import (
    PACKAGE,
    ConstantOutputWarning,
    DataError,
    DataWarning,
    DesignError,
    DesignWarning,
    InputError,
    NumericalWarning,
)
from uqms.parameters import Box
from uqms.surrogates.adapted import Adapted, candidates
from uqms.surrogates.adapted import described as kernel_described
from uqms.surrogates.archive import Stored
from uqms.surrogates.fitting import Fitting, Probable, few_runs, orders_of
from uqms.surrogates.fused_scores import scores_flat_reverse
from uqms.surrogates.input_scales import chosen_scales, described_scales, noted_scales
from uqms.surrogates.jax_kernel import JaxKernel
from uqms.surrogates.jax_process import JaxScores
from uqms.surrogates.kernel_files import description_of
from uqms.surrogates.kernels import Kernel, Matern52, Stationary
from uqms.surrogates.left_out import left_out_scores, truncation_share, with_held_out
from uqms.surrogates.local_scale import changes_over_box, scales_at_runs, with_local_scale
from uqms.surrogates.main_effects import MainEffects
from uqms.surrogates.outputs import (
    Curve,
    Layout,
    OutputBasis,
    Scalar,
    automatic,
    check_outputs,
    fit_curve,
    fit_more,
    fit_scalar,
    score_columns,
    score_names,
)
from uqms.surrogates.partial import PartialRuns, fit_partial, refined
from uqms.surrogates.physics import Physics, lifted
from uqms.surrogates.pointwise import NamedSurrogate
from uqms.surrogates.process import ScoreProcess, Scores, draw_at, normals_at, scores_at, sobol_points
from uqms.surrogates.roughness import Roughness, left_out_logs, noted_scatter, rough_outputs, with_scatter
from uqms.surrogates.run_noise import (
    SimulatorNoise,
    correlation_of_residuals,
    learn_noise,
    replicated,
    root_of_correlation,
)
from uqms.surrogates.stored import (
    arrays_of_bases,
    arrays_of_noise,
    arrays_of_process,
    check_used_up,
    described,
    kernel_of_inputs,
    rebuilt_attrs,
    rebuilt_bases,
    rebuilt_noise,
    rebuilt_process,
)
from uqms.surrogates.training import Hyperparameters, trend_basis, trend_columns
from uqms.surrogates.transform_choice import Choice, choose_transform, described_transforms, noted_transforms
from uqms.surrogates.transforms import IDENTITY, Identity, as_transform, check_values

__all__ = [
    "GaussianProcess",
    "GaussianProcessSurrogate",
    "check_bounds",
    "check_one_level",
    "check_range",
    "check_settings",
    "columns_of",
    "inputs_of",
    "merge_duplicates",
    "report",
    "transformed",
    "warn_if_constant",
]

_logger = logging.getLogger(__name__)
BETTER = 1.0  # paired standard errors by which left-out runs are predicted better with a scatter
CLEAR = 3.0  # standard errors by which a score is predicted better than by a constant
PART, LOW = 0.1, 0.1  # of the variance of scores at its quantile LOW: what their basis leaves is at most PART of that
LEAST = 1e-15  # share of an output's variance that counts
SHOWN = 0.005  # truncation's share of the stated variance that is printed
OUTSIDE, NOTHING = 0.1, 1e-3  # of what a basis leaves out over noise in its scores: much, and when that is no noise
ANCHORS = 1024
DECIDING, COUNTS = 6, 0.05  # scores at most that choose the scales of the inputs, and their least share of an output


_FIT = "it holds settings and was not fitted: surrogate = uq.GaussianProcess(...).fit(ensemble)"
# What a fitted surrogate has, and scikit-learn's names.
UNFITTED = {
    **dict.fromkeys(("predict", "functions", "scores", "mean", "gradient", "save", "domain", "sample_y"), _FIT),
    "score": "errors of left-out runs are uq.leave_one_out(surrogate)",
    "fit_predict": "fit, then predict: uq.GaussianProcess(...).fit(ensemble).predict(points)",
    "train": "it is .fit(ensemble)",
}


@taught
@final
@dataclass(frozen=True)
class GaussianProcess:
    """Exact Gaussian-process surrogate: the default for 10 to about 1 000 runs of a smooth simulator.

    Scalars get one process each; curves and fields an orthonormal basis with one process per score. Trend and variance
    are in closed form; with few runs length scales and variance are averaged over their posterior, since point
    estimates are overconfident then (95 % intervals cover 80 to 90 %).

    Parameters
    ----------
    kernel
        `Matern52()` (default), `Matern32()`, `Matern72()`, `Matern112()`, `SquaredExponential()` or
        `RationalQuadratic()`, with one length scale per input; or a sum or product such as
        `SquaredExponential() + Matern52()`, whose parts have their own length scales and fractions of the variance.
    trend
        Mean function: "constant" (default), "linear" or "quadratic" (squares and cross products too) in the unit cube's
        inputs; its uncertainty is carried. With too few runs for its coefficients the next shorter one is taken.
    mean
        A cheap model of the same outputs, `Physics(function)`: the runs teach its scale and the difference. The trend,
        "constant" or "linear", is added to it.
    noise
        "auto" (default) and "none" are for a deterministic simulator. With "auto" runs may scatter around a smooth
        function, as they do where a solver's steps or its mesh change with the inputs: where runs are clearly more
        likely with a scatter (3 nats) and left-out runs are predicted better, it is stated as an error, one variance
        of each score for the whole box, correlated between scores. It is the same at the same input. "none" takes every
        run as exact (a tiny jitter grows only when needed), and so does "auto" where runs miss coordinates or `mean` is
        a cheap model. For a stochastic simulator "fitted": noise that is new with each run, of one variance for the
        whole box; or "heteroscedastic", a variance that changes over the box, learned from replicates: several runs at
        each of the inputs, or at most of them. Of a curve, "fitted" takes what its scores leave out as an error, not as
        noise, and warns where that is noise.
    hyperparameters
        "averaged" over 16 draws of their posterior, "point" for the most probable ones, which is faster, or "auto"
        (default): averaged up to 30 runs per input; with ``scales="given"`` up to 20, and beyond while their
        uncertainty is more than 10 % of the variance of left-out runs.
    scalars
        "auto" (default): scalar outputs whose left-out errors clearly correlate, or which are exact combinations of
        others, are modelled jointly when that predicts left-out runs better, so that their errors and draws are
        correlated (of volumes and their difference, for example). "independent": each scalar is a process by itself, as
        it always is with a cheap model or with noise.
    scales
        "auto" (default): positive inputs enter as they are or by their logarithm, whichever makes the runs more
        probable; and each score has learned directions and an amplitude that varies over the box (`Adapted`), or
        effects of single inputs beside those of all together (`MainEffects`), and a smoother kernel than `Matern52`, as
        far as its runs ask for them: `Matern72` or `Matern112`. Point estimates of up to 30 runs per input end at
        `Matern72`. Kernels with and without are averaged by their evidence, so that outputs that need none of it keep
        their simple kernel; above 30 runs per input the most probable one is taken. `SquaredExponential` learns none of
        it, with which it would be overconfident. Where left-out errors of a score show that it is predicted better in
        one part of the box than in another, its stated error follows; not with noise or a cheap model. With a cheap
        model, inputs stay as they are.
        "given": the kernel and the design box's scales are taken as they are, which is what "auto" does with a
        `JaxKernel`.
    outputs
        Settings by output name, `Scalar(...)` or `Curve(...)`; what is not named gets the default of its dims. A
        `transform` in them keeps an output positive or inside of bounds; with ``transform="auto"`` the runs choose it.
        "auto" lets them choose it for every output.

    Raises
    ------
    InputError
        When a setting is not one of those.

    References
    ----------
    Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, doi:10.7551/mitpress/3206.001.0001.

    Examples
    --------
    >>> import numpy as np
    >>> import uqms as uq
    >>> space = uq.ParameterSpace(k=uq.Uniform(0.0, 2.0))
    >>> design = uq.sobol(space, 16, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": np.sin(design["k"].values)})
    >>> surrogate = uq.GaussianProcess().fit(runs)
    >>> bool(abs(surrogate.predict({"k": 1.0}).mean["y"].item() - np.sin(1.0)) < 1e-3)
    True
    """

    kernel: Kernel = field(default_factory=Matern52)
    trend: Literal["constant", "linear", "quadratic"] = "constant"
    noise: Literal["auto", "none", "fitted", "heteroscedastic"] = "auto"
    hyperparameters: Literal["auto", "averaged", "point"] = "auto"
    outputs: Mapping[str, Curve | Scalar] | Literal["auto"] = field(default_factory=dict)
    mean: Physics | None = None
    scalars: Literal["auto", "independent"] = "auto"
    scales: Literal["auto", "given"] = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.kernel, np.ndarray | Mapping) or hasattr(self.kernel, "columns"):
            raise InputError(
                "GaussianProcess takes settings, such as kernel=uq.Matern52(); runs go to fit: "
                "uq.GaussianProcess().fit(uq.ensemble.build(inputs, outputs, space=space))."
            )
        if not isinstance(self.kernel, Stationary | Adapted | MainEffects | JaxKernel):
            raise InputError(
                f"kernel is {self.kernel!r}; give Matern52(), another Matérn kernel, SquaredExponential() or "
                "RationalQuadratic(), or a sum or product of them, or of kernels of your own that derive from "
                "uqms.RadialKernel; or one of your own that derives from uqms.JaxKernel."
            )
        self.kernel.layout(1)  # a kernel that does not compile is refused before there are runs
        if self.trend not in ("constant", "linear", "quadratic"):
            raise InputError(f"trend is {self.trend!r}; give 'constant', 'linear' or 'quadratic'.")
        if self.mean is not None and not isinstance(self.mean, Physics):
            raise InputError(f"mean is {self.mean!r}; give Physics(function), or choose a trend.")
        if self.mean is not None and isinstance(self.kernel, JaxKernel):
            raise InputError(
                f"A cheap model takes a kernel of the scaled distance, such as Matern52(); {self.kernel} is a "
                "JaxKernel. Leave the cheap model out, or choose another kernel."
            )
        if self.mean is not None and self.trend == "quadratic":
            raise InputError("A cheap model takes a 'constant' or 'linear' trend beside it, not a 'quadratic' one.")
        if self.outputs != "auto":
            check_outputs(self.outputs)
        if automatic(self.outputs) and (self.noise == "heteroscedastic" or self.mean is not None):
            what = "noise='heteroscedastic'" if self.mean is None else "a cheap model"
            raise InputError(
                f"transform='auto' does not go with {what}. Give the transform by name, such as 'log' or "
                "uq.Log(offset), or none."
            )
        if self.noise not in ("auto", "none", "fitted", "heteroscedastic"):
            raise InputError(
                f"noise is {self.noise!r}; give 'auto' or 'none' (deterministic simulator), 'fitted' or "
                "'heteroscedastic' (stochastic simulator)."
            )
        if self.noise == "heteroscedastic" and self.mean is not None:
            raise InputError(
                "noise='heteroscedastic' does not go with a cheap model as mean; leave one of the two out."
            )
        if self.scalars not in ("auto", "independent"):
            raise InputError(f"scalars is {self.scalars!r}; give 'auto' or 'independent'.")
        if self.scales not in ("given", "auto"):
            raise InputError(
                f"scales is {self.scales!r}; give 'auto' or 'given'. To choose inputs that enter by logarithm, give "
                "the ensemble a box with that scale, uq.Box(names, lower, upper, scale=('log', ...)), and say 'given'."
            )
        if self.hyperparameters not in ("auto", "averaged", "point"):
            raise InputError(f"hyperparameters is {self.hyperparameters!r}; give 'auto', 'averaged' or 'point'.")

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise missing(type(self), "A GaussianProcess", name, UNFITTED)

    @single_threaded
    def fit(self, ensemble: xr.Dataset) -> "GaussianProcessSurrogate":
        """Train on the completed and partial runs of an ensemble and return the surrogate.

        Each output is learned from the runs that have it. Of a curve of which a run misses coordinates the others are
        used where the simulator is deterministic and mean is no cheap model; otherwise the run is left out there.

        Parameters
        ----------
        ensemble
            Dataset with dim "run" (see `uqms.ensemble`).

        Returns
        -------
        GaussianProcessSurrogate
            A frozen value of plain arrays.

        Raises
        ------
        InputError
            Settings that do not fit the outputs.
        DataError
            NaN, the same input with different outputs of a deterministic simulator, or values outside of what a
            transform takes.
        DesignError
            Fewer than d + 2 different runs, or runs with some output or coordinate of it; or, with
            noise="heteroscedastic", inputs with replicates.

        Warns
        -----
        DesignWarning
            When the runs do not determine the coefficients of the trend, and a shorter one is taken.
        DataWarning
            With noise="fitted", when much of a curve's noise lies outside of its scores.
        """
        return self._fit(ensemble, self.scales == "auto")

    @single_threaded
    def fit_in_box(self, ensemble: xr.Dataset) -> "GaussianProcessSurrogate":
        """Train as `fit` does, with inputs on the scales of the design box, so that several surrogates share it."""
        return self._fit(ensemble, choose_inputs=False)

    def _fit(self, ensemble: xr.Dataset, choose_inputs: bool) -> "GaussianProcessSurrogate":
        settings = replace(self, noise="none") if self.noise == "auto" else self
        found = settings._scored(ensemble, choose_inputs)
        if self.noise == "auto":
            found = found.with_scatter()
        surrogate = found.finished(self.scalars)
        if self.noise == "fitted":
            warn_if_noise_is_left_out(surrogate.process, surrogate.bases)
        return surrogate

    def _scored(self, ensemble: xr.Dataset, choose_inputs: bool) -> "_Scored":
        """Return the scores of all outputs with their most probable hyperparameters."""
        table.check(ensemble)
        check_one_level(ensemble)
        parts = self.noise == "none" and self.mean is None
        used = _used(ensemble, parts)
        runs = ensemble.isel(run=used)
        left_out = ensemble.sizes["run"] - len(used)
        if left_out:
            _logger.info("%d of %d runs gave no outputs and are left out", left_out, ensemble.sizes["run"])
        check_settings(self._named, table.output_names(runs))
        check_bounds(self._named, runs, used)
        box, x = inputs_of(runs)
        runs, x = merge_duplicates(runs, x, box.names, self.noise != "none")
        replicates = replicated(x) if self.noise == "heteroscedastic" else None
        x = x if replicates is None else replicates.x
        if len(x) < box.d + 2:
            raise DesignError(
                f"{len(x)} different completed runs of {box.d} inputs; at least d + 2 = {box.d + 2} are needed, and "
                f"about 10 d = {10 * box.d} for a useful surrogate. Run more points: uq.designs.extend(design, n)."
            )
        outputs, transforms = self._with_transforms(box, x, runs)
        bases, scores, every, missing = [], [], [], []
        for name in table.output_names(runs):
            settings = outputs.get(name)
            layout, values = transformed(name, runs[name], settings)
            every.append(values)
            means = values if replicates is None else replicates.means(values)[0]
            basis, of_runs, lacking = _fit_basis(name, layout, means, settings, box.d + 2, parts)
            bases.append(basis)
            scores.append(of_runs)
            missing.append(lacking)
        kernel, scales = self.kernel, {}
        chosen = self.scales == "auto" and not isinstance(kernel, JaxKernel)
        if chosen:
            kernel = candidates(kernel, box.d)
            if choose_inputs and self.mean is None:
                probability = partial(self._probability, kernel, bases, np.hstack(scores))
                given, (box, x) = box, chosen_scales(box, x, probability)
                scales = noted_scales(given, box)
                replicates = replicates and replicates._replace(x=x)
        learned = None
        if replicates is not None:
            learned = learn_noise(replicates, every, bases, scores)
            bases = learned.bases
        y = np.hstack(scores) if learned is None else learned.scores
        if self.mean is not None and not all(isinstance(basis.layout.transform, Identity) for basis in bases):
            raise InputError(
                "mean gives outputs in their own unit, so that it fits no transformed ones; leave one of the two out, "
                "or let simulator and cheap model return the transformed output."
            )
        cheap = None if self.mean is None else self.mean.scores(box, bases, x)
        known = np.isfinite(y)
        fewest = known[:, int(np.argmin(known.sum(axis=0)))]
        columns = columns_of(self.trend, x[fewest]) + (cheap is not None)
        if cheap is not None:
            trends = [trend_basis(x[rows], columns, cheap[rows, j]) for j, rows in enumerate(known.T)]
            _check_cheap(trends, bases)
        in_part = len({int(run) for lacking in missing if lacking for run in lacking.rows})
        noise = self.noise == "fitted" if learned is None else learned.variances
        fitting = Fitting(x, kernel, columns, noise, self.hyperparameters, cheap)
        if in_part:
            _logger.info("%d of %d runs miss coordinates of an output and are used in part", in_part, len(x))
            fitting, y = refined(fitting, y, missing, [one.shape[1] for one in scores])
        found = fitting.trained(y)
        local = chosen and cheap is None and self.noise == "none"
        held_out: dict[int, Array] = {}
        if cheap is None and learned is None:
            bases, y, found, held_out = _with_enough_scores(fitting, bases, y, found, every, outputs, local)
        attrs = {key: str(runs.attrs[key]) for key in ("space", "box_note", "simulator", "design") if key in runs.attrs}
        attrs |= {"runs_left_out": str(left_out), "noise": self.noise}
        attrs |= scales | transforms
        failed = int(np.isin(table.run_states(ensemble).values, table.LOST).sum())
        attrs |= {"runs_failed": str(failed)} if failed else {}
        attrs |= {"runs_in_part": str(in_part)} if in_part else {}
        if ended := _ended_by_settings(bases, outputs):
            attrs["cut_off"] = "\n".join(ended)
        if learned is not None:
            attrs["noise_normality"] = json.dumps(learned.normality._asdict())
            attrs["noise_drift"] = json.dumps(learned.drift._asdict())
        simulator_noise = None if learned is None else learned.noise
        return _Scored(box, fitting, bases, y, found, held_out, attrs, local, self.mean, simulator_noise)

    @property
    def _named(self) -> Mapping[str, Curve | Scalar]:
        """The settings of the outputs that are named."""
        return {} if self.outputs == "auto" else self.outputs

    def _with_transforms(
        self, box: Box, x: Array, runs: xr.Dataset
    ) -> tuple[Mapping[str, Curve | Scalar], dict[str, str]]:
        """Return the settings of the outputs with the transforms that the runs choose, and an attribute about these."""
        if not automatic(self.outputs):
            return self._named, {}
        alone = replace(self, outputs={}, hyperparameters="point", scalars="independent")
        decided: dict[str, Curve | Scalar] = {}
        choices: dict[str, Choice] = {}
        for name in table.output_names(runs):
            dims = len(runs[name].dims) > 1
            default = Curve(transform="auto") if dims else Scalar(transform="auto")
            settings = default if self.outputs == "auto" else self._named.get(name)
            if settings is None:
                continue
            decided[name] = settings
            if settings.transform == "auto":
                values = runs[name].transpose("run", ...).values.reshape(runs.sizes["run"], -1)
                unit = str(runs[name].attrs.get("unit", ""))
                found = choose_transform(x, unit, values, partial(left_out_scalars, alone, box))
                chosen = IDENTITY if found is None else found.transform
                decided[name] = replace(settings, transform=None if isinstance(chosen, Identity) else chosen)
                choices |= {} if found is None else {name: found}
        return decided, noted_transforms(choices)

    def _probability(
        self, kernel: Kernel, bases: Sequence[OutputBasis], y: Array, x: Array, others: list[Probable] | None
    ) -> tuple[float, list[Probable]]:
        """Return the log probability of the runs' largest scores at `x` (n, d), and of each with hyperparameters."""
        y = y[:, deciding(bases)]
        _, columns = _determined(self.trend, x[np.isfinite(y).all(axis=1)])
        fitting = Fitting(x, kernel, columns, self.noise != "none", self.hyperparameters)
        return fitting.most_probable(y, others)


@final
@dataclass(frozen=True, eq=False)
class _Scored:
    """Outputs in their bases, and the most probable hyperparameters of every score."""

    box: Box
    fitting: Fitting
    bases: list[OutputBasis]
    y: Array  # scores (n, q)
    found: list[Hyperparameters]
    held_out: Mapping[int, Array]  # values in held-out runs, by position of the output
    attrs: dict[str, str]
    local: bool  # whether errors have a local scale
    mean: Physics | None
    noise: SimulatorNoise | None
    rough: Mapping[str, Roughness] = field(default_factory=dict)  # scatter by output, which is to be stated

    def with_scatter(self) -> "_Scored":
        """Return the same with nuggets of outputs whose runs scatter, where left-out runs are predicted better so."""
        if self.mean is not None:
            return self
        at_mode = replace(self.fitting, hyperparameters="point")
        rough = rough_outputs(at_mode.conditioned(self.y, self.found, self.bases), self.bases)
        if not rough:
            return self
        columns = self._columns(rough)
        trained = replace(self.fitting, noise=True).trained(self.y[:, columns], [self.found[j] for j in columns])
        every = dict(zip(columns.tolist(), trained, strict=True))
        both = (self, self._with_nuggets(rough, every))
        before, after = (replace(one, fitting=replace(one.fitting, laplace=True))._with_errors() for one in both)
        better = {}
        for i, basis in enumerate(self.bases):
            if basis.name in rough:
                gains = left_out_logs(after, self.bases, i) - left_out_logs(before, self.bases, i)
                if np.mean(gains) > BETTER * np.std(gains) / np.sqrt(len(gains)):
                    better[basis.name] = rough[basis.name]
        if len(better) == len(rough):
            return both[1]
        return self._with_nuggets(better, every) if better else self

    def _columns(self, rough: Mapping[str, Roughness]) -> Ints:
        """Return the scores of outputs."""
        every = zip(self.bases, score_columns(self.bases), strict=True)
        return np.concatenate([at for basis, at in every if basis.name in rough])

    def _with_nuggets(self, rough: Mapping[str, Roughness], trained: Mapping[int, Hyperparameters]) -> "_Scored":
        """Return the same with the hyperparameters of the scores of rough outputs that were trained with a nugget."""
        columns = self._columns(rough)
        found = [trained[j] if j in columns else one for j, one in enumerate(self.found)]
        held_out = {i: values for i, values in self.held_out.items() if self.bases[i].name not in rough}
        return replace(
            self, fitting=replace(self.fitting, noise=True, only=columns), found=found, held_out=held_out, rough=rough
        )

    def finished(self, scalars: Literal["auto", "independent"]) -> "GaussianProcessSurrogate":
        """Return the surrogate, its hyperparameters averaged where they matter."""
        common = scalars == "auto" and self.mean is None and self.attrs["noise"] == "none"
        one = self._with_scores_in_common() if common else self
        process = one._with_errors()
        bases, attrs = tuple(one.bases), one.attrs
        report(process, one.found, bases)
        if one.rough:
            bases = with_scatter(process, bases)
            attrs = attrs | noted_scatter(bases, one.rough)
        return GaussianProcessSurrogate(one.box, process, bases, MappingProxyType(attrs), one.mean, one.noise)

    def _with_scores_in_common(self) -> "_Scored":
        fitting, y, bases, found = self.fitting.with_scores_in_common(self.y, self.bases, self.found)
        if all(basis.scores is None for basis in bases):
            return self
        return replace(self, fitting=fitting, y=y, bases=bases, found=found)

    def _with_errors(self) -> ScoreProcess:
        """Return the processes of the scores, with the errors of held-out runs and their local scale."""
        process = self.fitting.conditioned(self.y, self.found, self.bases)
        if self.held_out:
            process = with_held_out(process, _of_all(self.held_out, self.bases, self.y))
        return with_local_scale(process, orders_of(self.bases, "local scale")) if self.local else process


def left_out_scalars(settings: GaussianProcess, box: Box, x: Array, z: Array) -> tuple[Array, Array]:
    """Return log density and median, each (n, m), of scalar outputs z (n, m) of runs at `x`, each left out in turn.

    Settings have point estimates and independent scalars.
    """
    names = [f"output_{i}" for i in range(z.shape[1])]
    inputs = dict(zip(box.names, box.from_unit(x).T, strict=True))
    fitted = settings.fit(table.build(inputs, dict(zip(names, z.T, strict=True)), box=box))
    pairs = [left_out_scores(fitted.process, 0, j)[:2] for j in range(z.shape[1])]
    error, variance = np.array(pairs).transpose(1, 2, 0)
    size = np.array([basis.basis[0, 0] for basis in fitted.bases])
    logs = -0.5 * (error**2 / variance + np.log(2.0 * np.pi * variance * size**2))
    return logs, z - size * error


def deciding(bases: Sequence[OutputBasis]) -> Ints:
    """Return the scores that choose the scales of the inputs: the largest of the outputs."""
    share = shares(bases)
    largest = np.argsort(-share, kind="stable")[:DECIDING]
    return np.asarray(largest[share[largest] >= COUNTS])


def shares(bases: Sequence[OutputBasis]) -> Array:
    """Return the largest fraction of the variance of an output that each score (q,) is."""
    columns = score_columns(bases)
    out = np.zeros(1 + max(int(own.max(initial=-1)) for own in columns))
    for basis, own in zip(bases, columns, strict=True):
        size = np.sum(basis.basis**2, axis=0)
        out[own] = np.maximum(out[own], size / max(float(size.sum()), LEAST))
    return out


@taught
@final
@dataclass(frozen=True, eq=False)
class GaussianProcessSurrogate(NamedSurrogate):
    """A trained Gaussian process: predicts without a training library, saves without pickle.

    Attributes
    ----------
    domain
        The design box.
    process
        The conditioned scores as arrays.
    bases
        One basis an output.
    attrs
        Where it came from: space, design and simulator as JSON.
    physics
        The cheap model that is part of the mean, if there is one.
    noise
        The simulator's noise over the box, where it was learned from replicates.
    """

    domain: Box
    process: ScoreProcess
    bases: tuple[OutputBasis, ...]
    attrs: Mapping[str, str] = field(default_factory=dict)
    physics: Physics | None = None
    noise: SimulatorNoise | None = None

    @cached_property
    def _lifted(self) -> list[ScoreProcess]:
        return [lifted(self.process, j) for j in range(self.process.q)]

    def _scores_at(self, u: Array, diagonal: bool = False) -> Scores:
        if self._in_jax is not None and not diagonal:
            return self._in_jax.scores(u)
        if self.physics is None:
            return scores_at(self.process, u, diagonal)
        c = self.physics.scores(self.domain, self.bases, u.reshape(-1, self.domain.d)).reshape(*u.shape[:-1], -1)
        parts = [
            scores_at(one, np.concatenate([c[..., j : j + 1], u], axis=-1), diagonal)
            for j, one in enumerate(self._lifted)
        ]
        covariance = np.concatenate([part.covariance for part in parts], axis=-2 if diagonal else -3)
        return Scores(np.concatenate([part.mean for part in parts], axis=-1), covariance, self.process.log_weights)

    @cached_property
    def _in_jax(self) -> JaxScores | None:
        return JaxScores(self.process) if isinstance(self.process.kernel, JaxKernel) else None

    @property
    def compiled_process(self) -> ScoreProcess | None:
        """The process whose arrays compiled code reads; None where mean or kernel call a function of the user's."""
        return self.process if self.physics is None and self._in_jax is None else None

    @property
    def runs(self) -> int:
        """Number of runs it was trained on."""
        return len(self.process.x)

    def whole(self, output: str) -> Ints:
        """Return the positions of the runs that gave all of an output."""
        scores = score_columns(self.bases)[list(self.layouts).index(output)]
        known = np.all([self.process.known(j) for j in scores], axis=0)
        exact = self.noise is not None or ~self.process.noise[scores].any(axis=0)
        return np.flatnonzero(known & exact)

    @property
    def point_estimated(self) -> bool:
        """Whether hyperparameters are single values although the runs are few: n <= 20 d, 30 d of learned kernels."""
        return self.process.draws == 1 and self.runs <= few_runs(self.process.kernel, self.domain.d)

    @cached_property
    def _truncation_shares(self) -> list[float]:
        """Truncation's fraction of the variance stated of left-out runs, by output, as `leave_one_out` reports it."""
        latents = [basis.truncation for basis in self.bases] if self.noise is None else self.noise.truncations
        shares = []
        for basis, latent, columns in zip(self.bases, latents, score_columns(self.bases), strict=True):
            known = self.whole(basis.name)
            if not latent.any() or len(known) < 2:
                shares.append(0.0)
                continue
            draws = range(self.process.draws)
            each = [[left_out_scores(self.process, h, int(j))[1][known] for j in columns] for h in draws]
            variance = np.swapaxes(np.array(each), 1, 2)
            shares.append(truncation_share(basis.basis, latent, variance, self.process.log_weights))
        return shares

    def __repr__(self) -> str:
        counts = []
        for b, share in zip(self.bases, self._truncation_shares, strict=True):
            words = f"; truncation: {share:.0%} of the stated variance" if share >= SHOWN else ""
            counts.append(f"{b.name}{list(b.dims) if b.dims else ''} ({b.basis.shape[1]} scores{words})")
        shared = [
            f"; {names} have scores in common" for names in dict.fromkeys(score_names(self.bases)) if ", " in names
        ]
        outputs = ", ".join(counts) + "".join(shared)
        scales = described_scales(self.attrs) + described_transforms(self.attrs)
        scales += [self.attrs["scatter"]] if "scatter" in self.attrs else []
        local = int((self.process.local != 0.0).any(axis=(0, 2)).sum())
        if local:
            scales += [f"local scale of the error ({local} of {self.process.q} scores)"]
        draws = self.process.draws
        estimated = f", {draws} hyperparameter draws" if draws > 1 else ", hyperparameters point-estimated"
        kernel = kernel_described(self.process.kernel, self.process.ell, self.domain.d)
        left = f"{self.attrs.get('runs_left_out', '0')} left out"
        left += f", {self.attrs['runs_in_part']} in part" if "runs_in_part" in self.attrs else ""
        return (
            f"<GaussianProcessSurrogate: {self.runs} runs ({left}) of {', '.join(self.domain.names)} → "
            f"{outputs}; {'; '.join([kernel, *scales])}{estimated}>"
        )

    def stored(self) -> Stored:
        """Return what a file holds of it: a header of JSON and arrays.

        Raises
        ------
        InputError
            When its mean is a cheap model in Python.
        """
        if self.physics is not None:
            raise InputError(
                "save: the surrogate's mean is a cheap model in Python, which a file without code cannot hold. Save "
                "the ensemble (uq.ensemble) and fit again: that gives the same surrogate."
            )
        arrays = arrays_of_process("process", self.process) | arrays_of_bases(self.bases)
        arrays |= {} if self.noise is None else arrays_of_noise(self.noise)
        kernel = description_of(self.process.kernel)
        return Stored({"kernel": kernel, **described(self.domain, self.bases, self.attrs)}, arrays)

    @classmethod
    def restored(cls, header: Mapping[str, Any], arrays: dict[str, Array]) -> "GaussianProcessSurrogate":
        """Return the surrogate of which a file holds this; arrays are taken out of the mapping."""
        box = Box.from_dict(header["domain"])
        process, sizes = rebuilt_process("process", kernel_of_inputs(header["kernel"]), arrays, {"d": box.d})
        bases = rebuilt_bases(header, arrays, sizes["n"])
        noise = rebuilt_noise(bases, arrays, sizes) if "noise.centre" in arrays else None
        check_used_up(bases, arrays, sizes["q"])
        return cls(box, process, bases, rebuilt_attrs(header), noise=noise)

    def scores(self, u: Array) -> Scores:
        """Return mean (H, ..., k, q) and covariance between inputs (H, ..., q, k, k) at `u` (..., k, d)."""
        return self._scores_at(np.asarray(u, dtype=np.float64))

    def marginal_scores(self, u: Array) -> Scores:
        """Return mean (H, ..., k, q) and variance (H, ..., q, k) at `u` (..., k, d), for many unrelated inputs."""
        return self._scores_at(np.asarray(u, dtype=np.float64), diagonal=True)

    def scores_reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return the derivative (k, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar) at `u` (k, d)."""
        u = np.ascontiguousarray(u, dtype=np.float64)
        if self._in_jax is not None:
            return self._in_jax.reverse(u, mean_bar, covariance_bar)
        if self.physics is None:
            return np.asarray(scores_flat_reverse(self.process.flat(), u, mean_bar, covariance_bar))
        c = self.physics.scores(self.domain, self.bases, u)
        bars = [
            scores_flat_reverse(
                one.flat(),
                np.column_stack([c[:, j], u]),
                np.ascontiguousarray(mean_bar[..., j : j + 1]),
                np.ascontiguousarray(covariance_bar[:, j : j + 1]),
            )
            for j, one in enumerate(self._lifted)
        ]
        of_c = np.column_stack([bar[:, 0] for bar in bars])
        return np.asarray(sum(bar[:, 1:] for bar in bars) + self.physics.pull_back(self.domain, self.bases, u, of_c))

    def noise_at(self, u: Array) -> Array:
        """Return equally likely variances (levels, k, q) of the simulator's noise in every score at `u` (k, d)."""
        if self.noise is not None:
            return self.noise.variances(np.asarray(u, dtype=np.float64))
        if "scatter" in self.attrs:  # of a deterministic simulator
            return np.zeros((1, len(u), self.process.q))
        return np.tile((self.process.variance * self.process.nugget)[:, None, :], (1, len(u), 1))

    @cached_property
    def noise_correlation(self) -> Array | None:
        """Correlation (q, q) of the simulator's noise between scores; None where at most one of them has noise."""
        return correlation_of_residuals(self.process) if self.noise is None else self.noise.correlation

    def noise_residual(self, output: str, coords: Mapping[str, ArrayLike] | None = None) -> Array:
        """Return the factor (m, t) of what the simulator's noise does to an output outside of its basis.

        At pointwise coordinates, interpolated between the simulated ones; at all of these when None.
        """
        index = list(self.layouts).index(output)
        basis = self.bases[index]
        if self.noise is None:
            return np.zeros((len(basis.rows(coords)[0]), 0))
        residual = self.noise.residuals[index]
        if coords is None:
            return residual
        return np.asarray(replace(basis, truncation=residual).rows(coords)[2][:, : residual.shape[1]])

    def noise_draws(self, u: Array, n: int, rng: np.random.Generator) -> Array:
        """Return noise (n, k, q) of the scores of new runs at `u` (k, d)."""
        if self.noise is not None:
            return self.noise.draws(u, n, rng)
        levels, correlation = self.noise_at(u), self.noise_correlation
        z = rng.standard_normal((n, len(u), self.process.q))
        if correlation is not None:
            z = z @ root_of_correlation(correlation).T
        return np.sqrt(levels[rng.integers(len(levels), size=n)]) * z

    def functions(self, n: int, rng: RandomState, anchors: int = ANCHORS) -> "GaussianFunctionDraws":
        """Return n draws of the whole function of scores.

        The draws are exact jointly at `anchors` Sobol points of the box and the runs; anywhere else they are the
        conditional mean given those plus a draw of the residual, which is joint within one call.
        """
        if not check.is_whole(n, 1) or not check.is_whole(anchors, 0):
            raise InputError(f"functions: n is {n!r} and anchors is {anchors!r}; give whole numbers, n at least 1.")
        generator = as_generator(rng)
        process = self.process
        points = sobol_points(anchors, self.domain.d)
        h = generator.choice(process.draws, size=n, p=np.exp(process.log_weights - _log_total(process.log_weights)))
        xi = generator.standard_normal((n, process.q, process.beta.shape[2]))
        return GaussianFunctionDraws(self, points, h, xi, int(generator.integers(2**63)))


@final
@dataclass(frozen=True, eq=False)
class GaussianFunctionDraws:
    """Draws of the whole function; calling evaluates every draw at inputs `u` (k, d) to (draws, k, q).

    Normals belong to points, so that residuals at different points are independent, in one call or in several.
    """

    surrogate: GaussianProcessSurrogate
    anchors: Array  # (a, d)
    hyperparameters: Ints  # (draws,)
    xi: Array  # (draws, q, b), standard normals of the trend
    seed: int  # of the standard normals of the anchors and of the points of a call

    def __call__(self, u: Array) -> Array:
        """Return the scores (draws, k, q); the same call gives the same numbers."""
        points = np.vstack([self.anchors, np.asarray(u, dtype=np.float64)])
        process, physics = self.surrogate.process, self.surrogate.physics
        n, a, k = len(self.xi), len(self.anchors), len(points) - len(self.anchors)
        out = np.empty((n, k, process.q))
        c = None if physics is None else physics.scores(self.surrogate.domain, self.surrogate.bases, points)
        for j in range(process.q):
            generator = np.random.default_rng([self.seed, j])
            at_anchors = generator.standard_normal((n, a))
            z = np.hstack([at_anchors, normals_at(points[a:], n, int(generator.integers(2**63)))])
            one, at, i = (process, points, j)
            if c is not None:
                one, at, i = self.surrogate._lifted[j], np.column_stack([c[:, j], points]), 0
            for h in np.unique(self.hyperparameters):
                rows = self.hyperparameters == h
                out[rows, :, j] = draw_at(one, int(h), i, at, z[rows], self.xi[rows, j], a)
        return out


def _log_total(log_weights: Array) -> float:
    return float(np.logaddexp.reduce(log_weights))


def check_one_level(ensemble: xr.Dataset) -> None:
    """Refuse runs of several levels of fidelity."""
    if "fidelity" in ensemble.coords:
        levels = sorted(set(map(str, ensemble["fidelity"].values)))
        if len(levels) > 1:
            raise DataError(
                f"The ensemble has runs of several levels of fidelity, {levels}, which one Gaussian process would mix. "
                f"Learn from all: MultiFidelity(levels={tuple(levels)}), the cheapest first; or choose one: "
                f"ensemble.isel(run=ensemble.fidelity == {levels[-1]!r})."
            )


def check_settings(settings: Mapping[str, Curve | Scalar], names: tuple[str, ...]) -> None:
    """Refuse settings of outputs that are not there."""
    unknown = sorted(set(settings) - set(names))
    if unknown:
        raise InputError(f"outputs: settings for {unknown}, but the ensemble has outputs {list(names)}.")


def _used(ensemble: xr.Dataset, parts: bool) -> Ints:
    """Return the positions of the runs that completed, and of those that gave some outputs or, with `parts`, values."""
    states = table.run_states(ensemble).values
    gaps = [
        gap.transpose("run", ...).values.reshape(len(states), -1) for gap in table.missing_entries(ensemble).values()
    ]
    nothing = np.stack([gap.all(axis=1) if parts else gap.any(axis=1) for gap in gaps]).all(axis=0)
    return np.flatnonzero((states == table.RunState.COMPLETED) | ((states == table.RunState.PARTIAL) & ~nothing))


def check_bounds(settings: Mapping[str, Curve | Scalar], runs: xr.Dataset, positions: Ints) -> None:
    """Refuse values that a transform does not take, by the position of the run in the ensemble."""
    for name, one in settings.items():
        if one.transform == "auto":
            continue
        output = runs[name].transpose("run", ...)
        coords = {str(dim): output[dim].values for dim in output.dims[1:]}
        check_values(name, output.values, positions, as_transform(one.transform), coords)


def inputs_of(runs: xr.Dataset) -> tuple[Box, Array]:
    """Return the design box and the inputs in its unit cube, without inputs that are fixed."""
    box = table.get_box(runs)
    varies = (
        np.ptp(table.input_array(runs, box.names), axis=0) > 0.0 if runs.sizes["run"] else np.ones(box.d, dtype=bool)
    )
    if "box" not in runs.attrs and not varies.all():  # with a box, the runs are known to say nothing about its width
        fixed = [name for name, moves in zip(box.names, varies, strict=True) if not moves]
        if not varies.any():
            raise DesignError(f"No input varies over the runs ({fixed} are constant); a surrogate needs one that does.")
        warnings.warn(
            f"Inputs {fixed} are the same in every run; they are left out of the surrogate.",
            DesignWarning,
            skip_file_prefixes=PACKAGE,
        )
        box = box.select(tuple(name for name in box.names if name not in fixed))
    x = np.asarray(box.to_unit(table.input_array(runs, box.names)))
    spread = np.ptp(x, axis=0) if len(x) else np.ones(box.d)
    if (spread < 1e-9).any():
        still = [name for name, value in zip(box.names, spread, strict=True) if value < 1e-9]
        warnings.warn(
            f"Inputs {still} do not vary over the runs although the design box is wide: their effect is unknown and "
            "predictions at other values fall back to the prior. Simulate other values.",
            DesignWarning,
            skip_file_prefixes=PACKAGE,
        )
    elif len(x) > box.d and box.d > 1 and np.linalg.svd(x - x.mean(axis=0), compute_uv=False)[-1] < 1e-8 * len(x):
        warnings.warn(
            f"Inputs {list(box.names)} are collinear over the runs: their effects cannot be separated. Use a "
            "space-filling design such as uq.sobol.",
            DesignWarning,
            skip_file_prefixes=PACKAGE,
        )
    return box, x


def columns_of(trend: str, x: Array) -> int:
    """Return the number of trend functions: those that were asked for, or of the longest trend that runs determine."""
    kind, columns = _determined(trend, x)
    if kind != trend:
        asked = trend_columns(x.shape[1])[trend]
        warnings.warn(
            f"{len(x)} runs do not determine the {asked} coefficients of a {trend} trend (at least {asked + 2} "
            f"runs that vary in every input are needed); the trend is {kind}. Run more points, or ask for "
            f"trend={kind!r}.",
            DesignWarning,
            skip_file_prefixes=PACKAGE,
        )
    return columns


def _determined(trend: str, x: Array) -> tuple[str, int]:
    """Return the longest trend, up to the one that was asked for, that runs determine, and its number of functions."""
    counts = trend_columns(x.shape[1])
    longer = [(kind, columns) for kind, columns in counts.items() if 1 < columns <= counts[trend]]
    for kind, columns in reversed(longer):
        if len(x) > columns + 1 and np.linalg.matrix_rank(trend_basis(x, columns)) == columns:
            return kind, columns
    return "constant", 1


def merge_duplicates(runs: xr.Dataset, x: Array, names: tuple[str, ...], noisy: bool) -> tuple[xr.Dataset, Array]:
    """Return the runs and their inputs, those that repeat others merged unless the simulator is `noisy`."""
    if len(np.unique(x, axis=0)) == len(x) or noisy:
        return runs, x
    every = {name: runs[name].transpose("run", ...).values.reshape(len(x), -1) for name in table.output_names(runs)}
    order = np.argsort(sum(np.isnan(values).sum(axis=1) for values in every.values()), kind="stable")
    unique, found, inverse = np.unique(x[order], axis=0, return_index=True, return_inverse=True)
    first, inverse = order[found], inverse.reshape(-1)[np.argsort(order)]  # the first of those with most outputs
    for name, values in every.items():
        theirs = values[first][inverse]
        same = np.isclose(values, theirs, rtol=1e-12, atol=0.0) | np.isnan(values) | np.isnan(theirs)
        if not same.all():
            bad = int(np.flatnonzero(~same.all(axis=1))[0])
            curve = len(runs[name].dims) > 1
            kind = "heteroscedastic" if curve else "fitted"
            advice = f"use GaussianProcess(noise={kind!r})"
            raise DataError(
                f"Runs {int(first[inverse[bad]])} and {bad} have the same inputs but different {name!r}. A "
                f"deterministic simulator cannot do that: check the table, or {advice}."
            )
    warnings.warn(
        f"{len(x) - len(unique)} runs repeat the inputs and outputs of others; they are merged.",
        DataWarning,
        skip_file_prefixes=PACKAGE,
    )
    kept = np.sort(first)
    merged = runs.isel(run=kept)
    for name, values in every.items():
        gaps = np.isnan(values[kept])
        if gaps.any():  # what one of the repeated runs lacks, another may have
            best = values[kept]
            for row in np.flatnonzero(gaps.any(axis=1)):
                same = values[first[inverse] == kept[row]]
                best[row] = np.where(gaps[row], _first_known(same), best[row])
            ordered = merged[name].transpose("run", ...)
            merged = merged.assign({name: ordered.copy(data=best.reshape(ordered.shape))})
    return merged, x[kept]


def _first_known(rows: Array) -> Array:
    """Return of every column the first number, NaN where there is none."""
    return np.asarray(rows[np.argmax(np.isfinite(rows), axis=0), np.arange(rows.shape[1])])


def transformed(name: str, output: xr.DataArray, settings: Curve | Scalar | None) -> tuple[Layout, Array]:
    """Return the layout of an output, and its values (N, m) on the scale of its transform."""
    dims = tuple(str(dim) for dim in output.dims if dim != "run")
    if isinstance(settings, Scalar) and dims:
        raise InputError(f"Output {name!r} has dims {list(dims)}, so its settings are Curve(...), not Scalar(...).")
    if isinstance(settings, Curve) and not dims:
        raise InputError(f"Output {name!r} is one number per run, so its settings are Scalar(...), not Curve(...).")
    transform = as_transform(settings.transform if settings else None)
    values = transform.forward(output.transpose("run", *dims).values.reshape(output.sizes["run"], -1))
    return Layout(dims, _coordinates(name, output, dims), str(output.attrs.get("unit", "")), transform), values


def _fit_basis(
    name: str, layout: Layout, values: Array, settings: Curve | Scalar | None, least: int, parts: bool
) -> tuple[OutputBasis, Array, PartialRuns | None]:
    """Return the basis of an output, its scores (n, q), NaN in runs that do not say what they are, and partial runs.

    With `parts` runs that have some coordinates say something.
    """
    whole = np.isfinite(values).all(axis=1)
    known = np.isfinite(values).any(axis=1) if parts else whole
    if known.sum() < least:
        raise DesignError(
            f"Only {known.sum()} of {len(known)} runs have the whole of output {name!r}; at least d + 2 = {least} are "
            "needed. Run more points, or leave the output or its missing coordinates out of the ensemble."
        )
    values = values if known.all() else values[known]
    sizes = np.fmax(np.nanmax(values, axis=1), -np.nanmin(values, axis=1))
    check_range(name, sizes, isinstance(layout.transform, Identity))
    lacking = None
    if not whole[known].all():
        curve = settings if isinstance(settings, Curve) else Curve()
        basis, scores, lacking = fit_partial(name, layout, values, curve, least)
    elif layout.dims:
        basis, scores = fit_curve(name, layout, values, settings if isinstance(settings, Curve) else Curve())
    else:
        basis, scores = fit_scalar(name, layout, values[:, 0])
    warn_if_constant(basis)
    everywhere, left_out = (
        np.full((len(known), scores.shape[1]), np.nan),
        np.zeros((len(known), basis.left_out.shape[1])),
    )
    everywhere[known], left_out[known] = scores, basis.left_out
    if lacking is not None:
        lacking = lacking._replace(rows=np.flatnonzero(known)[lacking.rows])
    return replace(basis, left_out=left_out), everywhere, lacking


def _with_enough_scores(
    fitting: Fitting,
    bases: list[OutputBasis],
    y: Array,
    found: list[Hyperparameters],
    every: Sequence[Array],
    outputs: Mapping[str, Curve | Scalar],
    local: bool,
) -> tuple[list[OutputBasis], Array, list[Hyperparameters], dict[int, Array]]:
    """Return bases, scores and hyperparameters with more scores of curves whose truncation is much of their error.

    What a basis leaves out has one variance for the whole box. Where scores are predicted more precisely than that, as
    smooth curves are, it would be most of the error that a prediction states, and more runs would not make it smaller.
    Two scores in a row that other runs do not predict end the basis: what is left, such as a solver's rounding, stays
    in the truncation. A score that is wild in a corner of the box is predicted where it is calm, which `_predicted`
    sees. With `local`, left-out variances have the local scale that the errors of the surrogate will have. Held-out
    runs may vary more along a score than those of its basis, as shapes that only a corner of the box has do: the score
    is known at the runs, where a truncation has the same variance as in all the box. So with `local` the basis goes on
    to the last score whose values in held-out runs are larger in a part of the box; these values (n, s), by position of
    the output, come last: they are the left-out errors of its last s scores.
    """
    settings_of = {}
    for i, (basis, values) in enumerate(zip(bases, every, strict=True)):
        one = outputs.get(basis.name) or Curve()
        if isinstance(one, Curve) and one.tolerance is None and basis.truncation.size and np.isfinite(values).all():
            settings_of[i] = one
    held_out: dict[int, Array] = {}
    if not settings_of:
        return bases, y, found, held_out

    def stated(error: Array, variance: Array) -> Array:
        return variance * scales_at_runs(fitting.x, error, variance) ** 2 if local else variance

    variances = stated(*fitting.left_out(y, found))
    columns = [list(one) for one in score_columns(bases)]
    parts, kept, following = [y[:, one] for one in columns], [[found[j] for j in one] for one in columns], list(bases)
    for i, settings in settings_of.items():
        basis, values = bases[i], every[i]
        size, left = np.sum(basis.basis**2, axis=0), float(np.sum(basis.truncation**2))
        wanted = PART * float(np.quantile(variances[:, columns[i]] @ size, LOW))
        if left <= wanted:
            continue
        tighter = replace(settings, tolerance=max(wanted / (float(size.sum()) + left), LEAST))
        more, scores, held = fit_more(basis.name, basis.layout, values, tighter)
        q, new = len(columns[i]), scores[:, len(columns[i]) :]
        trained = fitting.trained(new)
        error, variance = fitting.left_out(new, trained)
        predicted = _predicted(new, error, stated(error, variance))
        ends = np.flatnonzero(~predicted[:-1] & ~predicted[1:])
        first = _up_to_last(predicted[: ends[0]] if len(ends) else predicted)
        count = first
        if local:
            rest = held[:, q + first :]
            count += _up_to_last(changes_over_box(fitting.x, rest**2 / variance[:, first:]))
            if count > first:
                held_out[i] = rest[:, : count - first]
        if not count:
            continue
        if count < new.shape[1]:
            more, _, _ = fit_more(basis.name, basis.layout, values, replace(tighter, max_scores=q + count))
        following[i], parts[i] = more, np.hstack([parts[i], new[:, :count]])
        kept[i] = kept[i] + trained[:count]
    return following, np.hstack(parts), [one for some in kept for one in some], held_out


def _up_to_last(kept: Bools) -> int:
    """Return how many there are up to the last that is kept."""
    return int(np.flatnonzero(kept)[-1]) + 1 if kept.any() else 0


def _of_all(held_out: Mapping[int, Array], bases: Sequence[OutputBasis], y: Array) -> Array:
    """Return values in held-out runs (q, n): zeros for the scores that other runs predict."""
    out, columns = np.zeros(y.shape[::-1]), score_columns(bases)
    for i, values in held_out.items():
        out[columns[i][-values.shape[1] :]] = values.T
    return out


def _predicted(y: Array, error: Array, variance: Array) -> Bools:
    """Return which scores (q,) left-out runs predict better than a constant law does, by 3 standard errors.

    Better by the mean log score, which sees that a score is calm in most of the box where it is wild in a corner.
    """
    constant = np.nanmean(y**2, axis=0)
    gain = 0.5 * (np.log(constant) - np.log(variance) + y**2 / constant - error**2 / variance)
    return np.asarray(np.nanmean(gain, axis=0) > CLEAR * np.nanstd(gain, axis=0) / np.sqrt(len(y)))


def _ended_by_settings(bases: Sequence[OutputBasis], outputs: Mapping[str, Curve | Scalar]) -> list[str]:
    """Return the curves that would have more scores with other settings."""
    asked = {basis.name: outputs.get(basis.name) or Curve() for basis in bases if basis.dims}
    counts = {basis.name: basis.basis.shape[1] for basis in bases}
    return [
        name
        for name, one in asked.items()
        if isinstance(one, Curve) and (one.tolerance is not None or counts[name] == one.max_scores)
    ]


def warn_if_constant(basis: OutputBasis) -> None:
    """Warn of an output that does not change over the runs."""
    if not basis.basis.any():
        warnings.warn(
            f"Output {basis.name!r} is the same in every run; it is predicted as that constant. Does it depend on the "
            "inputs?",
            ConstantOutputWarning,
            skip_file_prefixes=PACKAGE,
        )


def warn_if_noise_is_left_out(process: ScoreProcess, bases: Sequence[OutputBasis]) -> None:
    """Warn of curves much of whose noise lies outside of their scores: it counts as an error of their mean.

    Where the runs have next to no noise, what the scores leave out is no noise either.
    """
    noise = np.exp(process.log_weights) @ (process.variance * process.nugget)
    for basis, columns in zip(bases, score_columns(bases), strict=True):
        inside = float(noise[columns] @ np.sum(basis.basis**2, axis=0))
        outside = float(np.sum(basis.truncation**2))
        if NOTHING * outside < inside and outside > OUTSIDE * inside:
            warnings.warn(
                f"Output {basis.name!r}: {outside / (outside + inside):.0%} of the variance that looks like noise lies "
                f"outside of its {len(columns)} scores, as noise that differs from coordinate to coordinate does. It "
                "counts as an error of the simulator's mean, so that intervals of that are too wide. Run every input "
                "several times (uq.run(..., replicates=5, rng=1)) and use noise='heteroscedastic', or fit some "
                "coordinates as scalar outputs.",
                DataWarning,
                skip_file_prefixes=PACKAGE,
            )


def check_range(name: str, sizes: Array, plain: bool) -> None:
    """Refuse sizes (one a run) whose squares are no numbers; warn of those that differ by many orders of magnitude."""
    largest = float(sizes.max())
    if largest > 1e140 or 0.0 < largest < 1e-140:
        raise DataError(f"Output {name!r} has values of size {largest:g}; give it in a unit that makes them ordinary.")
    if plain and largest and largest > 1e12 * float(np.quantile(sizes[sizes > 0.0], 0.05)):
        warnings.warn(
            f"Output {name!r} spans more than 12 orders of magnitude over the runs ({sizes[sizes > 0.0].min():g} to "
            f"{largest:g}). Let the simulator return its logarithm, or give it transform='log' if it is positive.",
            DataWarning,
            skip_file_prefixes=PACKAGE,
        )


def _coordinates(name: str, output: xr.DataArray, dims: tuple[str, ...]) -> dict[str, Array]:
    for dim in dims:
        if output[dim].dtype.kind not in "fiu":
            raise DataError(
                f"Coordinate {dim!r} of output {name!r} holds {output[dim].dtype}; a surrogate needs numbers there: "
                f"number the places, e.g. ensemble.assign_coords({dim}=range({output.sizes[dim]}))."
            )
    return {dim: np.asarray(output[dim].values, dtype=np.float64) for dim in dims}


def _check_cheap(trends: list[Array], bases: list[OutputBasis]) -> None:
    names = score_names(bases)
    for name, trend in zip(names, trends, strict=True):
        if len(trend) <= trend.shape[1] + 1 or np.linalg.matrix_rank(trend) < trend.shape[1]:
            raise DataError(
                f"The scale of the cheap model of {name!r} cannot be found from {len(trend)} runs: it, or the output, "
                "is constant over the runs or no more than the trend, or the runs are too few. Leave the output or "
                "the cheap model out, or run more points."
            )


def report(process: ScoreProcess, found: list[Hyperparameters], bases: Sequence[OutputBasis]) -> None:
    """Warn of scores that needed much jitter, and log those whose length scales ended at a bound."""
    names = score_names(bases)
    jitter = process.jitter.max(axis=0)
    if (jitter > 1.001e-9).any():
        worst = int(np.argmax(jitter))
        warnings.warn(
            f"A score of output {names[worst]!r} needed a relative jitter of {jitter[worst]:.0e}: runs lie very close "
            "together or the output is smoother than the kernel. Try Matern52(), or remove near-duplicates.",
            NumericalWarning,
            skip_file_prefixes=PACKAGE,
        )
    bound = sorted({name for name, one in zip(names, found, strict=True) if one.at_bound})
    if bound:
        _logger.info("length scales of %s ended at a bound of their range", bound)

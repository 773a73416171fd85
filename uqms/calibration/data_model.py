"""Distribution of the data given inputs of the surrogate: from inputs to parts of the likelihood, and back.

A `DataModel` holds what does not depend on the parameters: the surrogate, the cells of the data, noise and discrepancy.
Its methods take inputs u in the unit cube, hyperparameters phi and latents eta; a calibration makes these from
parameters. It is frozen. A model with other data, noise or surrogate is another one, made by `replaced`, and computes
its own structures.

==========  ===================================================================  =============
symbol      meaning                                                              shape
==========  ===================================================================  =============
H, S        hyperparameter draws, values of the parameters                       ()
K, d        different inputs, coordinates of each                                ()
N, R        cells, measured rows                                                 ()
u           inputs in the unit cube                                              (S, K, d)
phi         hyperparameters of noise and discrepancy                             (S, P)
eta         standard normal latents that are drawn                               (S, free)
==========  ===================================================================  =============
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self, final

import numpy as np

from uqms._typing import Array, Bools, Ints
from uqms.calibration import _mean_slopes
from uqms.calibration._latent_outputs import maps_of, outputs_of
from uqms.calibration.direct import is_exact
from uqms.calibration.discrepancy import NOISE, ORTHOGONAL
from uqms.calibration.gaussian import GaussianLikelihood, cell_means, cell_means_reverse, process_block, reduced
from uqms.calibration.joint_error import CompiledError, JointError, compiled_process, scores_of
from uqms.calibration.likelihood import Cells, NoiseGroups
from uqms.calibration.realisation import Realisation
from uqms.errors import InputError
from uqms.surrogates.outputs import Decoder
from uqms.surrogates.process import ScoreProcess, Scores
from uqms.surrogates.protocol import Surrogate
from uqms.surrogates.transforms import Identity

__all__ = ["DataModel", "Form"]

type Form = Literal["independent", "correlated", "latent"]

SCORE_CHUNK = 2_000_000  # numbers in one cross-covariance block


@final
@dataclass(frozen=True, eq=False)
class DataModel:
    """The distribution of the measured values given inputs of the surrogate, hyperparameters and latents.

    Attributes
    ----------
    surrogate
        Says what the outputs are at an input, with its error.
    cells
        Where outputs were measured, and what was measured there.
    noise
        Noise and discrepancy by output.
    realisation
        Runs of a stochastic simulator that were observed; None for a mean.
    parameters
        Names of the inputs that are inferred; an orthogonal discrepancy has no component along their slopes.
    condition_names
        Names of the inputs that are known with each experiment.
    limited
        Rows (R,) with an upper and with a lower detection limit, whatever their values are.
    sampled
        Whether errors are sampled as latents; otherwise they are integrated out in closed form.
    """

    surrogate: Surrogate
    cells: Cells
    noise: NoiseGroups
    realisation: Realisation | None
    parameters: tuple[str, ...]
    condition_names: tuple[str, ...]
    limited: tuple[Bools, Bools]
    sampled: bool = False

    # ------------------------------------------------------------------------------------------------- how errors enter
    @property
    def closed_form(self) -> bool:
        """Whether errors are integrated out in closed form; otherwise rows are independent given sampled latents."""
        return not self.sampled

    @property
    def form(self) -> Form:
        """How the likelihood is computed: closed form with independent or correlated errors, or with latents.

        Rows that are expanded to first order in the errors are among the correlated ones.
        """
        if self.sampled:
            return "latent"
        more = self.noise.terms or self.noise.factors or self.cells.transformed or self.realisation is not None
        return "correlated" if more else "independent"

    def as_expanded(self, expansion: str) -> Self:
        """Return the model with errors integrated out where `expansion` and noise admit it, and sampled elsewhere.

        Raises
        ------
        InputError
            When an expansion is asked for of noise that is not Gaussian, or latents with autocorrelated noise.
        """
        normal = all(model.gaussian for model in self.noise.models) and not self.cells.side.any()
        if self.expanded and not normal and expansion == "first-order":
            raise InputError(
                "expansion='first-order' is for Gaussian noise without detection limits: with others the surrogate's "
                "error has no closed form. Leave it out, which samples the error."
            )
        sampled = not normal or (self.expanded and expansion in ("none", "links"))
        return self.with_sampled_errors() if sampled else self.replaced(sampled=False)

    def with_sampled_errors(self, why: str = "") -> Self:
        """Return the model with the errors sampled as latents.

        Raises
        ------
        InputError
            For a transformed output whose noise is autocorrelated, in its own unit; `why` they would be sampled.
        """
        lost = [one.output for one in self.noise.terms if one not in self.inside.terms]
        if lost:
            raise InputError(
                f"Autocorrelated noise of {lost[0]!r} is in the output's own unit, while the surrogate models its "
                f"{self.surrogate.layouts[lost[0]].transform.name}: the surrogate's error cannot be sampled beside "
                f"it.{why} Run more points where the data are, fit {lost[0]!r} without a transform, or use "
                "GaussianNoise. expansion='first-order' takes the closed form as it is."
            )
        return self.replaced(sampled=True)

    @property
    def expanded(self) -> bool:
        """Whether the closed form expands rows to first order in the surrogate's error.

        Their noise is on another scale than the surrogate's, or grows with the output.
        """
        return self.cells.transformed or (bool(self.noise.growth) and not is_exact(self.surrogate))

    def responded(self, y: Array) -> tuple[Array, Array]:
        """Return latent outputs (..., N) in the unit that normal noise is added in, and the slope of one by the other.

        Without a closed form noise is added to the latent outputs as they are.
        """
        return self.cells.responded(y) if self.closed_form else (y, np.ones_like(y))

    @property
    def used(self) -> Ints:
        """Scores with errors that the data depend on: a simulator that is exact has none."""
        return self.cells.used[:0] if is_exact(self.surrogate) else self.cells.used

    @property
    def correlated_scores(self) -> bool:
        """Whether the errors of the surrogate's scores are correlated with each other."""
        return self._of_surrogate[0]

    @cached_property
    def _of_surrogate(self) -> tuple[bool, int]:
        """Whether errors of scores are correlated, and the number of hyperparameter draws: the same everywhere."""
        if is_exact(self.surrogate):
            return False, 1
        middle = self.surrogate.scores(np.full((1, self.surrogate.domain.d), 0.5))
        return middle.correlated, len(middle.log_weights)

    @property
    def process(self) -> ScoreProcess | None:
        """The Gaussian process of the scores where compiled code knows it and the rows of the cells; None otherwise.

        It knows nothing of a stochastic simulator's runs, nor of rows that depend on the input.
        """
        known = self.realisation is None and self.cells.by_input is None
        return compiled_process(self.surrogate) if known else None

    @property
    def compiled_error(self) -> CompiledError | None:
        """What compiled code reads of mean and joint error of the scores: of a process, a chain or linear levels."""
        orthogonal = any(term.role == ORTHOGONAL for term in self.noise.terms)  # asks for slopes of one process
        known = self.realisation is None and self.cells.by_input is None and not orthogonal
        return self.process or (getattr(self.surrogate, "compiled_error", None) if known else None)

    @cached_property
    def inside(self) -> NoiseGroups:
        """The noise with those terms that are part of the latent output.

        The process of autocorrelated noise is not where the surrogate models a transform of the output: noise is in the
        output's own unit, and a discrepancy on the scale of the surrogate.
        """
        noise, cells = self.noise, self.cells
        identity = {o for o, one in zip(noise.outputs, cells.responses, strict=True) if isinstance(one, Identity)}
        return replace(noise, terms=tuple(t for t in noise.terms if t.role != NOISE or t.output in identity))

    # ---------------------------------------------------------------------------------------------- inputs to outputs
    def joint_error(self, u: Array) -> JointError:
        """Return what the surrogate says of the outputs at the cells for inputs u (S, K, d), its joint error."""
        return JointError.of(self.surrogate, self.cells, self.cells.experiment, u, self.used)

    def joint_error_reverse(self, u: Array, bars: Scores, rows: Decoder | None = None) -> Array:
        """Return the derivative (K, d) of sum(scores * bars) + sum(rows of the cells * rows) at inputs u (K, d).

        `rows` (H, N, ...) are needed where rows depend on the input.
        """
        out = np.asarray(self.surrogate.scores_reverse(u, bars.mean, bars.covariance))
        if self.cells.by_input is None:
            return out
        assert rows is not None
        return out + self.cells.by_input.reverse(u, rows)

    def all_scores(self, scores: Scores, mean_bar: Array, covariance_bar: Array) -> Scores:
        """Return derivatives by all scores (H, K, q) from those by the used ones, covariances as in `latent_parts`."""
        used, (H, K, _) = self.cells.used, scores.mean.shape
        mean, covariance = np.zeros_like(scores.mean), np.zeros_like(scores.covariance)
        mean[..., used] = mean_bar
        if scores.correlated:
            at = np.ix_(np.arange(H), np.arange(K), used, np.arange(K), used)
            covariance[at] = covariance_bar.reshape(H, K, len(used), K, len(used))
        else:
            covariance[:, used] = covariance_bar
        return Scores(mean, covariance, scores.log_weights)

    def run_factor(self, u: Array) -> Array:
        """Return the factor (S, N, r) of a stochastic simulator's run at inputs (S, K, d): r = 0 without its noise."""
        if self.realisation is None:
            return np.zeros((len(u), len(self.cells.offset), 0))
        return self.realisation.factor(u)

    def mean_slopes(self, u: Array) -> Array:
        """Return J (H, S, N, o) at inputs (S, K, d): derivatives of the mean by the unit-cube parameters, if needed."""
        cells = self.cells
        if not any(term.role == ORTHOGONAL for term in self.noise.terms):
            return np.zeros((self._of_surrogate[1], len(u), len(cells.offset), 0))
        columns = [self.surrogate.domain.names.index(name) for name in self.parameters]
        step, slopes = _mean_slopes.STEP, []
        for column in columns:
            shift = np.zeros(u.shape[-1])
            shift[column] = step
            upper, lower = (self.joint_error(u + sign * shift).mean for sign in (1.0, -1.0))
            slopes.append((upper - lower) / (2.0 * step))
        return np.ascontiguousarray(np.stack(slopes, axis=-1))

    def slopes_reverse(self, u: Array, slopes_bar: Array, scores: Scores) -> Array:
        """Return the derivative (K, d) of `mean_slopes` : slopes_bar (H, N, o), that of its central differences."""
        u_bar, cells, experiment = np.zeros_like(u), self.cells, self.cells.experiment
        if slopes_bar.shape[-1] == 0:
            return u_bar
        step, nothing = _mean_slopes.STEP, np.zeros_like(scores.covariance)
        for i, name in enumerate(self.parameters):
            for sign in (1.0, -1.0):
                bar, shifted, rows = sign * slopes_bar[..., i] / (2.0 * step), u.copy(), None
                shifted[:, self.surrogate.domain.names.index(name)] += sign * step
                if cells.by_input is None:
                    mean_bar = np.stack([cell_means_reverse(cells, one) for one in bar])
                else:
                    basis = cells.by_input.at(shifted[None]).basis[:, 0]
                    mean_bar, weighted = np.zeros_like(scores.mean), bar[..., None] * basis
                    for own, one in zip(mean_bar, weighted, strict=True):
                        np.add.at(own, experiment, one)
                    basis_bar = bar[..., None] * self.surrogate.scores(shifted).mean[:, experiment]
                    rows = Decoder(bar, basis_bar, np.zeros((*bar.shape, cells.by_input.latents)))
                bars = Scores(mean_bar, nothing, scores.log_weights)
                u_bar += self.joint_error_reverse(shifted, bars, rows)
        return u_bar

    # ------------------------------------------------------------------------------------------------- in closed form
    @cached_property
    def gaussian(self) -> GaussianLikelihood:
        """The likelihood where all errors are normal, of the parts that `parts` returns."""
        return GaussianLikelihood.of(
            self.cells,
            self.noise,
            self.condition_names,
            columns=len(self.parameters),
            runs=0 if self.realisation is None else self.realisation.columns,
            exact=is_exact(self.surrogate),
            varying=self.cells.by_input is not None,
            correlated=self.correlated_scores,
        )

    @cached_property
    def fewest(self) -> GaussianLikelihood:
        """The likelihood with as few rows as it depends on, for values alone; `gaussian` where that is not possible."""
        whole = self.gaussian
        if whole.varying:
            return whole
        return reduced(self.cells, self.noise, self.condition_names, self.correlated_scores) or whole

    def block(self, likelihood: GaussianLikelihood | None = None, *, together: bool = False) -> Array:
        """Return the block that `_process_gaussian` reads; `likelihood` takes the place of `gaussian`.

        With `together` derivatives by the inputs are summed over rows by the caller, so that a chain may compute what
        is the same in several rows once.
        """
        likelihood = self.gaussian if likelihood is None else likelihood
        domain, process = self.surrogate.domain, self.compiled_error
        assert process is not None
        summed = getattr(process, "with_rows_together", None) if together else None
        process = process if summed is None else summed()
        columns = [domain.names.index(name) for name in self.parameters] if likelihood.slopes else []
        return process_block(process.select(self.cells.used), likelihood, columns=columns)

    def parts(self, u: Array) -> tuple[Array, Array]:
        """Return the parts (H, S, size) of the surrogate's joint error at inputs u (S, K, d), and log weights (H,)."""
        found, likelihood, cells = self.joint_error(u), self.gaussian, self.cells
        scores, used, slopes = found.scores, found.used, self.mean_slopes(u)
        rows: list[Any] = [None] * len(scores.mean)
        if likelihood.varying:
            runs = self.run_factor(u) if self.realisation is not None else None
            for h in range(len(rows)):
                own = Decoder(*(one[h % len(one)] for one in found.rows)) if cells.by_input is not None else None
                rows[h] = likelihood.rows_of(cells, len(u), own, runs)
            if is_exact(self.surrogate):
                rows = [(cell_means(cells, mean), *one[1:]) for mean, one in zip(scores.mean, rows, strict=True)]
        covariance = _of_used(scores, used)
        parts = [
            likelihood.parts(mean[..., used], *rest)
            for mean, *rest in zip(scores.mean, covariance, rows, slopes, strict=True)
        ]
        return np.stack(parts), np.asarray(scores.log_weights)

    def parts_reverse(self, u: Array, bar: Array) -> Array:
        """Return the derivative (K, d) of `parts` : bar (H, size) at inputs (K, d)."""
        likelihood, cells, scores = self.gaussian, self.cells, scores_of(self.surrogate, u)
        out, rows = np.zeros_like(u), None
        found = [likelihood.cotangents(one) for one in bar]
        if is_exact(self.surrogate):
            bars = Scores(
                np.stack([cell_means_reverse(cells, one.rows[0]) for one in found if one.rows is not None]),
                np.zeros_like(scores.covariance),
                scores.log_weights,
            )
        else:
            covariances = [one.covariance if scores.correlated else one.by_score() for one in found]
            bars = self.all_scores(scores, np.stack([one.mean for one in found]), np.stack(covariances))
        if likelihood.slopes:
            out += self.slopes_reverse(u, np.stack([one.slopes for one in found]), scores)
        if self.realisation is not None:
            runs = sum(likelihood.runs_of(cells, one.rows[2]) for one in found if one.rows is not None)
            out += self.realisation.reverse(u, np.asarray(runs))
        if cells.by_input is not None:
            each = [likelihood.own_rows(cells, one.rows) for one in found if one.rows is not None]
            rows = Decoder(*(np.stack(several) for several in zip(*each, strict=True)))
        return out + self.joint_error_reverse(u, bars, rows)

    # -------------------------------------------------------------------------------------------------- with latents
    @property
    def free(self) -> Ints:
        """Which of the latents of `_latent_outputs` are drawn: a simulator that is exact has no error."""
        without = len(self.cells.used) - len(self.used)
        return np.arange(self.cells.experiments * without, self.latent_count)

    @property
    def latent_count(self) -> int:
        """Number of latents of `_latent_outputs`; it counts the errors that an exact simulator does not have, too."""
        k, own = self.cells.experiments, 0 if self.realisation is None else self.realisation.columns
        discrepancy = len(self.cells.offset) if self.inside.terms else 0
        return int(k * (len(self.cells.used) + self.cells.compressed.shape[1] + own) + discrepancy)

    @cached_property
    def structure(self) -> Array:
        """The block of numbers that `_latent_outputs` reads."""
        box = self.surrogate.domain
        columns = np.array([box.names.index(name) for name in self.parameters], dtype=np.int64)
        own = 0 if self.realisation is None else self.realisation.columns
        return self.cells.structure(self.inside, self.condition_names, columns, own)

    def latent_outputs(self, u: Array, phi: Array, eta: Array) -> tuple[Array, Array]:
        """Return the latent output y (H, S, N) at inputs u (S, K, d) given eta (S, free), and the log weights (H,)."""
        whole = np.zeros((len(phi), self.latent_count))
        whole[:, self.free] = eta
        found = self.joint_error(u)
        y = outputs_of(self.structure, *self.latent_parts(found, u, phi), whole)
        return y, np.asarray(found.scores.log_weights)

    def latent_map(self, u: Array, phi: Array) -> tuple[Array, Array, Array]:
        """Return y0 (H, S, N) and B (H, S, N, free), with the latent output y0 + B eta, and the log weights (H,)."""
        found = self.joint_error(u)
        y0, B = maps_of(self.structure, *self.latent_parts(found, u, phi))
        return y0, B[..., self.free], np.asarray(found.scores.log_weights)

    def latent_parts(self, found: JointError, u: Array, phi: Array) -> tuple[Array, ...]:
        """Return what `outputs_of` takes between the structure and the latents."""
        cells, scores = self.cells, found.scores
        covariance = _of_used(scores, cells.used)
        covariance = covariance[:, :, None] if scores.correlated else covariance
        rows: Iterable[Array] = found.rows
        if found.fixed:
            rows = (one[None, None] for one in (cells.offset, cells.used_basis, cells.compressed))
        parts = scores.mean[..., cells.used], covariance, phi, self.mean_slopes(u), self.run_factor(u), *rows
        return tuple(np.ascontiguousarray(one) for one in parts)

    # ------------------------------------------------------------------------------------------- other data, blocks
    def replaced(self, **changes: Any) -> Self:
        """Return the model with other fields; what was computed of the same surrogate alone is kept."""
        other = replace(self, **changes)
        if other.surrogate is self.surrogate and "_of_surrogate" in self.__dict__:
            other.__dict__["_of_surrogate"] = self._of_surrogate
        return other

    def cells_of(self, values: Array) -> Cells:
        """Return the cells with other measured values (R,), in the data's own units."""
        cells, (left, right) = self.cells, self.limited
        values = np.array(values, dtype=np.float64)
        side = np.where(left & (values <= cells.limit), 1, np.where(right & (values >= cells.limit), -1, 0))
        return replace(cells, z=cells.linked(np.where(side != 0, cells.limit, values)), side=side.astype(np.int64))

    def blocks(self, theta: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        """Yield parts of `theta` whose arrays fit into memory."""
        count = len(next(iter(theta.values())))
        runs = int(getattr(self.surrogate, "runs", 100))
        K = self.cells.experiments
        largest = max(K * max(runs, K), len(self.cells.z), (K * len(self.used)) ** 2 if self.correlated_scores else 0)
        if self.cells.by_input is not None:
            largest = max(largest, self.cells.by_input.points * (self.cells.by_input.scores + self.latent_count))
        if self.realisation is not None:
            largest = max(largest, len(self.cells.offset) * self.realisation.columns)
        size = max(1, SCORE_CHUNK // largest)
        for start in range(0, count, size):
            yield {name: values[start : start + size] for name, values in theta.items()}


def _of_used(scores: Scores, used: Ints) -> Array:
    """Return the covariances (H, S, q', K, K) of some scores, (H, S, K q', K q') of correlated ones."""
    if not scores.correlated:
        return np.asarray(scores.covariance[:, :, used])
    H, S, K, _ = scores.mean.shape
    return np.asarray(scores.covariance[..., used, :, :][..., used].reshape(H, S, K * len(used), K * len(used)))

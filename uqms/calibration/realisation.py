"""What one run of a stochastic simulator does beside its mean: the data are a realisation, not the expected curve.

Synthetic likelihood in score space: the noise of a run is normal with a variance that depends on the inputs, learned
from replicates. Measured in run r of experiment k,

    f = offset + B [mean(u_k) + error(u_k) + w_kr] + E omega_k + R rho_kr,   w_kr ~ N(0, D(u_k)^1/2 C D(u_k)^1/2).

==========  ==================================================================================  =========
symbol      meaning                                                                             shape
==========  ==================================================================================  =========
D(u)        expected variance of the noise of a score, its own uncertainty within               (k, q)
C = L L'    correlation of the noise between scores                                             (q, q)
R           what noise does outside of the basis                                                (N, t)
W(u)        factor at the observed cells: [B D^1/2 L, R] in the columns of the cell's run       (N, r)
==========  ==================================================================================  =========

Synthetic likelihood: Wood (2010), doi:10.1038/nature09319; Price et al. (2018), doi:10.1080/10618600.2017.1302882; with
surrogates of its moments: Meeds & Welling (2014), arXiv:1401.2838.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, final

import numpy as np
import pandas as pd

from uqms._typing import Array, Ints
from uqms.calibration.likelihood import Cells, right_factor
from uqms.calibration.observations import Observations
from uqms.errors import PACKAGE, DataWarning, InputError
from uqms.surrogates.protocol import Surrogate, depends_on_input
from uqms.surrogates.run_noise import SimulatorNoise

__all__ = [
    "Realisation",
    "Runs",
    "has_noise",
    "residual_rows",
    "runs_of",
    "warn_if_correlation_changes",
    "warn_if_not_normal",
]

type Runs = Literal["experiment", "replicate", "none"]

ROUNDING = 1e-12  # of a correlation, so that it has a root
LEVEL, SKEWNESS, KURTOSIS = 1e-4, 0.5, 1.0  # farther from a normal law than both by chance and in size
DRIFT = 0.5  # of a correlation, between the ends of the box
STEP = 1e-5  # of the unit cube, for surrogates that know no derivative of their noise


def has_noise(surrogate: Surrogate) -> bool:
    """Tell whether a surrogate knows a noise of its simulator that is not zero."""
    if not hasattr(surrogate, "noise_at"):
        return False
    if np.any(surrogate.noise_at(np.full((1, surrogate.domain.d), 0.5)) > 0.0):
        return True
    residual = getattr(surrogate, "noise_residual", None)
    return residual is not None and any(np.any(residual(output)) for output in surrogate.layouts)


def runs_of(observations: Observations, realisation: Runs, surrogate: Surrogate) -> Ints | None:
    """Return which run of the simulator each row was measured in, (R,), or None when it has no noise.

    Raises
    ------
    InputError
        When `realisation` is none of its values, runs are to be told apart by what is not there, or rows of the
        surrogate depend on the input.
    """
    if realisation not in ("experiment", "replicate", "none"):
        raise InputError(
            f"realisation is {realisation!r}; give 'experiment' (what is measured in one experiment is one run of the "
            "stochastic simulator), 'replicate' (each replicate is a run of its own), or 'none' (measurements are of "
            "the simulator's mean)."
        )
    known = has_noise(surrogate)
    if realisation == "replicate" and not known:
        raise InputError(
            "realisation='replicate', but the surrogate knows no noise of its simulator. Fit it to replicated runs "
            "with GaussianProcess(noise='heteroscedastic')."
        )
    if realisation == "none" or not known:
        return None
    if any(depends_on_input(surrogate, name) for name in surrogate.layouts):
        raise InputError(
            f"The {type(surrogate).__name__} knows the noise of a stochastic simulator, and its rows depend on the "
            "input: what one run does beside the mean is known for fixed rows only. Pass realisation='none' where "
            "measurements are of the simulator's mean."
        )
    if realisation == "experiment":
        return pd.factorize(observations.experiment)[0].astype(np.int64)
    if observations.replicate is None:
        raise InputError(
            "realisation='replicate', but the observations have no replicates. Name their column: "
            "Observations.from_table(..., replicate=column); or pass realisation='experiment'."
        )
    labels = pd.DataFrame({"experiment": observations.experiment, "replicate": observations.replicate})
    return labels.groupby(list(labels.columns), sort=False).ngroup().to_numpy().astype(np.int64)


def warn_if_not_normal(surrogate: Surrogate) -> None:
    """Warn when replicates say that a stochastic simulator's noise is not normal, as the likelihood takes it."""
    text = getattr(surrogate, "attrs", {}).get("noise_normality")
    if text is None:
        return
    found = json.loads(text)
    skewness, kurtosis = float(found["skewness"]), float(found["kurtosis"])
    if found["p"] < LEVEL and (abs(skewness) > SKEWNESS or kurtosis > KURTOSIS):
        warnings.warn(
            f"The simulator's noise in {found['output']!r} is not normal: over the replicates of an input its largest "
            f"part has skewness {skewness:.2f} and excess kurtosis {kurtosis:.2f} (p = {max(found['p'], 1e-12):.1g}), "
            "and the likelihood of one run takes it as normal. Transform the output (Curve(transform='log'), Scalar), "
            "observe a summary that is nearer to normal, or learn the posterior from runs: uq.to_sbi(ensemble).",
            DataWarning,
            skip_file_prefixes=PACKAGE,
        )


def warn_if_correlation_changes(surrogate: Surrogate) -> None:
    """Warn when replicates say that the correlation of the noise changes over the box: the likelihood takes one."""
    text = getattr(surrogate, "attrs", {}).get("noise_drift")
    if text is None:
        return
    found = json.loads(text)
    low, high = float(found["low"]), float(found["high"])
    if found["p"] < LEVEL and high - low > DRIFT:
        names = " and ".join(map(repr, dict.fromkeys(found["outputs"])))
        warnings.warn(
            f"The correlation of the simulator's noise in {names} changes over the design box, from {low:.2f} to "
            f"{high:.2f} between two of its parts, and the likelihood of one run takes one for the whole box: means "
            "may be off by half a posterior sd, and sds by half. Run the simulator where the posterior is, "
            "uq.refine(posterior, n) with replicates, so that it changes less; or learn the posterior from runs: "
            "uq.to_sbi(ensemble).",
            DataWarning,
            skip_file_prefixes=PACKAGE,
        )


def residual_rows(surrogate: Surrogate, output: np.ndarray, coords: Mapping[str, Array]) -> Array:
    """Return the factor (n, t) of what noise does outside of the basis at points; outputs have their own columns."""
    of = getattr(surrogate, "noise_residual", None)
    parts = []
    for name, layout in surrogate.layouts.items():
        at = np.flatnonzero(output == name)
        if of is None or not len(at):
            width = 0 if of is None else of(name).shape[1]
            parts.append(np.zeros((len(output), width)))
            continue
        found = of(name, {dim: coords[dim][at] for dim in layout.dims}) if layout.dims else of(name)
        part = np.zeros((len(output), found.shape[1]))
        part[at] = found
        parts.append(part)
    return np.hstack(parts)


@final
@dataclass(frozen=True, eq=False)
class Realisation:
    """The noise of the runs that were observed, at their cells."""

    surrogate: Surrogate
    cells: Cells
    mode: Runs

    @property
    def runs(self) -> int:
        """Largest number of runs that an experiment has."""
        return int(self.cells.run.max()) + 1

    @cached_property
    def correlation(self) -> Array:
        """Correlation (q, q) of the noise between all scores."""
        found = getattr(self.surrogate, "noise_correlation", None)
        return np.eye(self.cells.basis.shape[1]) if found is None else np.asarray(found)

    @cached_property
    def root(self) -> Array:
        """Root (q', q') of the correlation of the used scores."""
        used = self.cells.used
        return np.linalg.cholesky(self.correlation[np.ix_(used, used)] + ROUNDING * np.eye(len(used)))

    @cached_property
    def residual(self) -> Array:
        """Factor (N, t) of what noise does outside of the basis at the cells."""
        return residual_rows(self.surrogate, self.cells.output, self.cells.coords)

    @cached_property
    def right(self) -> Array:
        """V (t, c): the columns of `residual` V are all that the cells tell apart."""
        return right_factor(self.residual)

    @cached_property
    def _rest(self) -> Array:
        return self.residual @ self.right

    @property
    def width(self) -> int:
        """Columns of one run."""
        return len(self.root) + int(self.right.shape[1])

    @property
    def columns(self) -> int:
        """Columns r of W."""
        return self.runs * self.width

    def sd(self, u: Array) -> Array:
        """Return the sd (..., k, q) of the noise of all scores at inputs u (..., k, d)."""
        return np.sqrt(_variance(self.surrogate, u.reshape(-1, u.shape[-1])).reshape(*u.shape[:-1], -1))

    def factor(self, u: Array) -> Array:
        """Return W (S, N, r) at inputs u (S, K, d)."""
        cells, used = self.cells, self.cells.used
        n, q = len(cells.offset), len(used)
        sd = self._used_sd(u)
        out = np.zeros((len(u), n, self.runs, self.width))
        out[:, np.arange(n), cells.run, :q] = (cells.basis[:, used] * sd[:, cells.experiment]) @ self.root
        out[:, np.arange(n), cells.run, q:] = self._rest
        return out.reshape(len(u), n, -1)

    def reverse(self, u: Array, W_bar: Array) -> Array:
        """Return the derivative (K, d) of sum(W * W_bar) at inputs u (K, d)."""
        cells, used = self.cells, self.cells.used
        n, q = len(cells.offset), len(used)
        bar = W_bar.reshape(n, self.runs, self.width)[np.arange(n), cells.run, :q]
        sd_bar = np.zeros((cells.experiments, q))
        np.add.at(sd_bar, cells.experiment, cells.basis[:, used] * (bar @ self.root.T))
        sd = self._used_sd(u[None])[0]
        variance_bar = np.where(sd > 0.0, 0.5 * sd_bar / np.where(sd > 0.0, sd, 1.0), 0.0)
        if self._used is not None:
            return self._used.variance_reverse(u, variance_bar)
        full = np.zeros((cells.experiments, cells.basis.shape[1]))
        full[:, used] = variance_bar
        return _slopes(lambda at: _variance(self.surrogate, at), u, full)

    def by_experiment(self, W: Array) -> Array:
        """Return W (S, N, r) with columns of its own for each experiment, (S, N, K r)."""
        experiment = self.cells.experiment
        count, n, r = W.shape
        out = np.zeros((count, n, self.cells.experiments, r))
        out[:, np.arange(n), experiment] = W
        return out.reshape(count, n, -1)

    @cached_property
    def _used(self) -> SimulatorNoise | None:
        noise = getattr(self.surrogate, "noise", None)
        return noise.select(self.cells.used) if isinstance(noise, SimulatorNoise) else None

    def _used_sd(self, u: Array) -> Array:
        """Return the sd (S, K, q') of the noise of the used scores."""
        if self._used is None:
            return self.sd(u)[..., self.cells.used]
        return np.sqrt(self._used.variance(u.reshape(-1, u.shape[-1]))).reshape(*u.shape[:-1], -1)


def _variance(surrogate: Surrogate, u: Array) -> Array:
    """Return the expected variance (k, q) of the noise of every score."""
    noise = getattr(surrogate, "noise", None)
    if isinstance(noise, SimulatorNoise):
        return noise.variance(u)
    return np.asarray(surrogate.noise_at(u)).mean(axis=0)  # type: ignore[attr-defined]


def _slopes(function: Callable[[Array], Array], u: Array, bar: Array) -> Array:
    """Return the derivative (k, d) of sum(function(u) * bar), row by row, by central differences."""
    out = np.empty_like(u)
    for column in range(u.shape[1]):
        shift = np.zeros(u.shape[1])
        shift[column] = STEP
        out[:, column] = np.sum((function(u + shift) - function(u - shift)) * bar, axis=1) / (2.0 * STEP)
    return out

"""What a multi-fidelity `fit` returns: a surrogate of the highest level."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from uqms._typing import Array, Ints, RandomState
from uqms.parameters import Box
from uqms.surrogates.fidelity.kernels import CoKriging
from uqms.surrogates.fidelity.ladder import Ladder, LadderDraws
from uqms.surrogates.outputs import Decoder, Layout, OutputBasis, decoded
from uqms.surrogates.pointwise import mean_at, mean_reverse
from uqms.surrogates.prediction import Prediction, predicted_at
from uqms.surrogates.process import ScoreProcess, Scores

__all__ = ["MultiFidelitySurrogate"]


@final
@dataclass(frozen=True, eq=False)
class MultiFidelitySurrogate:
    """The highest of several levels of fidelity, learned from runs of all of them.

    Attributes
    ----------
    domain
        The design box.
    levels
        Names of the levels, the highest last.
    ladder
        The conditioned processes of the levels as arrays.
    bases
        One basis an output, in the scores of the highest level.
    costs
        Cost of a run of each level, where it is known; any unit.
    attrs
        Where it came from: space, design and simulator as JSON; runs by level; whether their designs are nested.
    """

    domain: Box
    levels: tuple[str, ...]
    ladder: Ladder
    bases: tuple[OutputBasis, ...]
    costs: Mapping[str, float] = field(default_factory=dict)
    attrs: Mapping[str, str] = field(default_factory=dict)

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """Dims, coordinates and unit of every output."""
        return {basis.name: basis.layout for basis in self.bases}

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return self.domain.names

    @property
    def outputs(self) -> Mapping[str, tuple[str, ...]]:
        """Name of each output and its dims."""
        return {basis.name: basis.layout.dims for basis in self.bases}

    @property
    def coords(self) -> Mapping[str, Array]:
        """Coordinate values of every dim, shape (m,)."""
        return {dim: values for basis in self.bases for dim, values in basis.layout.coords.items()}

    @property
    def process(self) -> ScoreProcess:
        """The process of the highest level, or of all of them together."""
        return self.ladder.top

    @property
    def highest(self) -> Ints:
        """Positions of the runs of the highest level among those of `process`."""
        kernel, x = self.process.kernel, self.process.x
        if isinstance(kernel, CoKriging):
            return np.flatnonzero(kernel.level_of(x) == kernel.levels - 1)
        return np.arange(len(x))

    @property
    def runs(self) -> int:
        """Number of runs of the highest level that it was trained on."""
        return len(self.highest)

    @property
    def nested(self) -> bool:
        """Whether every run of a level has one of the same inputs in the level below."""
        return self.attrs.get("nested") == "yes"

    @property
    def point_estimated(self) -> bool:
        """Whether hyperparameters are single values although the runs of the highest level are few (n <= 20 d)."""
        return self.ladder.draws == 1 and self.runs <= 20 * self.domain.d

    def __repr__(self) -> str:
        counts = [f"{b.name}{list(b.dims) if b.dims else ''} ({b.basis.shape[1]} scores)" for b in self.bases]
        kind = {"linear": "autoregressive", "joint": "joint co-kriging", "nonlinear": "nonlinear"}
        draws = self.ladder.draws
        estimated = f"{draws} members" if draws > 1 else "hyperparameters point-estimated"
        left = self.attrs.get("runs_left_out", "0")
        return (
            f"<MultiFidelitySurrogate: {self.attrs.get('runs', self.runs)} runs ({left} left out) of "
            f"{', '.join(self.domain.names)}, {'nested' if self.nested else 'not nested'} → {', '.join(counts)}; "
            f"{kind.get(self.ladder.steps[-1].kind, 'plain')}, {estimated}>"
        )

    def scores(self, u: Array) -> Scores:
        """Return mean (H, ..., k, q) and covariance between inputs (H, ..., q, k, k) at `u` (..., k, d)."""
        return self.ladder.scores(np.asarray(u, dtype=np.float64))

    def marginal_scores(self, u: Array) -> Scores:
        """Return mean (H, ..., k, q) and variance (H, ..., q, k) at `u` (..., k, d), for many unrelated inputs."""
        return self.ladder.scores(np.asarray(u, dtype=np.float64), diagonal=True)

    def scores_reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return the derivative (k, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar) at `u` (k, d)."""
        return self.ladder.reverse(u, mean_bar, covariance_bar)

    def decode(self, output: str, coords: Mapping[str, ArrayLike] | None = None) -> Decoder:
        """Return the rows of an output at pointwise coordinates (all simulated ones when None).

        Raises
        ------
        InputError
            When there is no such output.
        """
        return decoded(self.bases, self.process.q, output, coords)

    def functions(self, n: int, rng: RandomState) -> LadderDraws:
        """Return n draws of the whole function of scores."""
        return self.ladder.functions(n, rng)

    def predict(self, points: Mapping[str, object] | xr.Dataset) -> Prediction:
        """Predict every output of the highest level at points given in the inputs' own units.

        Parameters
        ----------
        points
            Mapping (or Dataset) of input name to numbers of shape (k,); single numbers are repeated.

        Returns
        -------
        Prediction
            Mean, sd, covariance and draws; the uncertainty is the surrogate's, without measurement noise.

        Warns
        -----
        ExtrapolationWarning
            When a point lies outside of the design box.
        """
        return predicted_at(self, points, self.marginal_scores)

    def evaluate(self, point: Mapping[str, float]) -> dict[str, Array]:
        """Return the mean of every output at one point, as a simulator would return its outputs.

        Raises
        ------
        InputError
            When a name is missing or unknown.
        ExtrapolationError
            When the point lies outside of the design box.
        """
        return mean_at(self, point)

    def gradient(self, point: Mapping[str, float], sensitivity: Mapping[str, ArrayLike]) -> dict[str, float]:
        """Return the derivative of sum(outputs * sensitivity) of the mean by each input, at one point.

        Raises
        ------
        InputError
            When a name is missing or unknown, or weights have another shape than the output.
        ExtrapolationError
            When the point lies outside of the design box.
        """
        return mean_reverse(self, point, sensitivity)

    def save(self, path: str | Path) -> None:
        """Write the surrogate to one .npz file of arrays and JSON (no pickle); `load_surrogate` reads it."""
        from uqms.surrogates.files import save_surrogate

        save_surrogate(self, path)

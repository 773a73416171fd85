"""What a multi-fidelity `fit` returns: a surrogate of the highest level."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import numpy as np

from uqms._typing import Array, Ints, RandomState
from uqms.parameters import Box
from uqms.surrogates.fidelity.kernels import CoKriging
from uqms.surrogates.fidelity.ladder import Ladder, LadderDraws
from uqms.surrogates.outputs import OutputBasis
from uqms.surrogates.pointwise import NamedSurrogate
from uqms.surrogates.process import ScoreProcess, Scores

__all__ = ["MultiFidelitySurrogate"]


@final
@dataclass(frozen=True, eq=False)
class MultiFidelitySurrogate(NamedSurrogate):
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

    def whole(self, output: str) -> Ints:
        """Return the positions of the runs of the highest level in `process`: all of them gave all of the output."""
        return self.highest

    @property
    def noise(self) -> None:
        """Simulators of several levels are taken as deterministic."""
        return None

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

    def functions(self, n: int, rng: RandomState) -> LadderDraws:
        """Return n draws of the whole function of scores."""
        return self.ladder.functions(n, rng)

"""Log densities of left-out runs in the outputs' own units, by which settings of a surrogate are compared.

==========  ======================================================================  ==========
symbol      meaning                                                                 shape
==========  ======================================================================  ==========
l           log density of an output of a left-out run, mean over its coordinates   (n, outputs)
==========  ======================================================================  ==========
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from uqms._typing import Array, Ints
from uqms.surrogates.left_out import left_out_scores
from uqms.surrogates.outputs import Decoder, OutputBasis
from uqms.surrogates.prediction import Mixture, mixture
from uqms.surrogates.process import ScoreProcess, Scores
from uqms.surrogates.run_noise import SimulatorNoise

__all__ = ["Trained", "left_out_logs"]

BLOCK = 2e6  # numbers in memory at once, while the coordinates of a field are predicted in blocks
COORDINATES = 256  # at most so many coordinates of an output are scored
CONSTANT = 1e-13  # a coordinate that varies by less than this share of its size has no density


class Trained(Protocol):
    """A surrogate whose processes hold the runs that are left out."""

    @property
    def process(self) -> ScoreProcess:
        """The conditioned processes of the scores; with several levels of fidelity, those of the highest level."""

    @property
    def bases(self) -> Sequence[OutputBasis]:
        """One basis an output."""

    @property
    def noise(self) -> SimulatorNoise | None:
        """The noise of its simulator."""

    def decode(self, output: str) -> Decoder:
        """Return offset, basis and truncation of an output."""


def left_out_logs(surrogate: Trained) -> tuple[Array, Array]:
    """Return the log density (n, outputs) and the root mean square error (outputs,) of left-out runs."""
    process = surrogate.process
    pairs = [[left_out_scores(process, h, j)[:2] for j in range(process.q)] for h in range(process.draws)]
    error, variance = np.moveaxis(np.array(pairs), 2, 0)  # each (H, q, n)
    scores = Scores(-np.swapaxes(error, 1, 2), variance, process.log_weights)
    logs = np.zeros((len(process.x), len(surrogate.bases)))
    rmse = np.zeros(len(surrogate.bases))
    for i, basis in enumerate(surrogate.bases):
        # Left-out means over replicates have what the basis leaves of them, noise included.
        latent = basis.truncation if surrogate.noise is None else surrogate.noise.truncations[i]
        full = surrogate.decode(basis.name).basis
        seen = process.y @ full.T
        keep = _scored(basis, seen)
        seen += basis.offset
        own = basis.layout.transform.inverse(seen + basis.left_out @ latent.T)
        decoder = Decoder(np.zeros(len(full)), full, latent)
        size = max(1, int(BLOCK / scores.mean[..., 0].size))
        total = 0.0
        for start in range(0, len(full), size):
            block = slice(start, start + size)
            mean, _ = _law(scores, decoder, seen, basis, block).moments()
            total += float(np.sum((mean - own[:, block]) ** 2))
        rmse[i] = np.sqrt(total / own.size)
        if len(keep):
            logs[:, i] = _law(scores, decoder, seen, basis, keep).log_density(own[:, keep]).mean(axis=1)
    return logs, rmse


def _law(scores: Scores, decoder: Decoder, seen: Array, basis: OutputBasis, columns: slice | Ints) -> Mixture:
    """Return the predictive distribution of some coordinates of left-out runs.

    `scores` are predicted less observed ones, so that the observed curves `seen` (n, m) are added.
    """
    difference = mixture(scores, Decoder(*(each[columns] for each in decoder)), basis.layout.transform)
    return difference._replace(mean=difference.mean + seen[:, columns])


def _scored(basis: OutputBasis, centred: Array) -> Ints:
    """Return the coordinates that vary over the runs, at most 256 of them."""
    size = np.abs(basis.offset).max() + np.abs(centred).max()
    varying = np.flatnonzero(np.ptp(centred, axis=0) > CONSTANT * size)
    places = np.linspace(0, len(varying) - 1, min(len(varying), COORDINATES)).astype(np.int64)
    return varying[places] if len(varying) else varying

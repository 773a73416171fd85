"""New observations from the law that the likelihood is the density of; no part of PyMC is loaded for it."""

import numpy as np

from uqms._typing import Array
from uqms.calibration.likelihood import Cells
from uqms.surrogates.protocol import Surrogate

__all__ = ["replicate"]


def replicate(surrogate: Surrogate, cells: Cells, u: Array, sigma: Array, rng: np.random.Generator) -> Array:
    """Draw new observations: one draw of the surrogate's error and truncation for each input, noise for each row."""
    u = np.asarray(u)
    lead = u.shape[:-2]
    u = u.reshape(-1, *u.shape[-2:])
    draws = np.arange(len(u))
    sigma = np.broadcast_to(sigma, (*lead, np.shape(sigma)[-1])).reshape(len(u), -1)
    scores = surrogate.scores(u)
    h = rng.choice(len(scores.log_weights), size=len(u), p=np.exp(scores.log_weights))
    values, vectors = np.linalg.eigh(scores.covariance[h, draws])  # (S, q, K), (S, q, K, K)
    normal = np.sqrt(np.maximum(values, 0.0)) * rng.standard_normal(values.shape)
    drawn = scores.mean[h, draws] + np.einsum("sqkl,sql->skq", vectors, normal)
    omega = rng.standard_normal((len(u), cells.experiments, cells.truncation.shape[1]))
    y = cells.offset + np.einsum("snq,nq->sn", drawn[:, cells.experiment], cells.basis)
    y += np.einsum("snt,nt->sn", omega[:, cells.experiment], cells.truncation)
    sd = sigma[:, cells.group][:, cells.row_cell] * np.sqrt(cells.row_variance)
    out = y[:, cells.row_cell] + sd * rng.standard_normal((len(u), len(cells.z)))
    return np.asarray(out.reshape(*lead, -1))

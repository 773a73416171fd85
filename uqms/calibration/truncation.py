"""What a basis leaves out of curves, beside the other errors: in the verdict, and before sampling where noise is known.

==========  ====================================================================  =========
symbol      meaning                                                               shape
==========  ====================================================================  =========
left        variance of what basis and interpolation leave out                    (S, N)
stated      variance of the whole surrogate error                                 (S, N)
noise       variance of the noise of a cell's mean, in the unit of the noise      (S, N)
==========  ====================================================================  =========

The variance of what is left out is one number for the whole box. Where the posterior is it may be much too large; then
the surrogate's error is overstated, and a noise sd that is inferred comes out too small.
"""

import numpy as np

from uqms._typing import Array, Bools, Ints
from uqms.calibration.checks import Check
from uqms.calibration.data_model import DataModel
from uqms.calibration.density import noise_sd
from uqms.calibration.direct import is_exact
from uqms.calibration.joint_error import OutputLaw
from uqms.calibration.likelihood import dense
from uqms.errors import InputError
from uqms.parameters import Prior

__all__ = ["DRAWS", "check_known_noise", "check_truncation", "limits_known_noise"]

REPORTED, SHARE = 0.1, 0.5  # share of the surrogate's variance that is reported, and that is a warning
OF_NOISE = 0.1  # variance over that of the noise
DRAWS = 64


def check_truncation(model: DataModel, u: Array, phi: Array, h: Ints) -> Check | None:
    """Judge what the basis leaves out at draws of the posterior; None where that is little of the surrogate's error."""
    if is_exact(model.surrogate) or not model.latent_count:
        return None
    left, stated, slope, mean = _variances(model, u, h)
    share = float(left.mean() / max(stated.mean(), 1e-300))
    if share <= REPORTED:
        return None
    noise = noise_sd(model, mean, phi, limits=False) ** 2
    ratio = float(np.mean(slope**2 * left / noise))
    wrong = share > SHARE and ratio > OF_NOISE
    remedy = (
        "Refine (uq.refine(posterior, n)), so that the basis is made of runs near the posterior, or keep more scores "
        "(uq.Curve(tolerance=1e-10, max_scores=40)). The variance of the truncation is one value for the whole design "
        "box. It is too large here if curves change their shape in a part of the box."
    )
    if limited := sorted(map(str, _limited(model))):
        remedy = (
            f"Keep more scores of {limited[0]!r}, uq.Curve(max_scores=40), fit and calibrate again. The settings of "
            "the basis leave this out, however many runs there are."
        )
    return Check(
        "truncation",
        "warn" if wrong else "pass",
        share,
        f"truncation of the basis is {share:.0%} of the surrogate's stated variance at the posterior, and {ratio:.2g} "
        "times the noise variance",
        remedy,
    )


def _limited(model: DataModel) -> set[str]:
    """Return the measured outputs whose basis has fewer scores than its tolerance asks for, because of its settings."""
    return set(getattr(model.surrogate, "attrs", {}).get("cut_off", "").split("\n")) & set(model.cells.output)


def limits_known_noise(model: DataModel) -> bool:
    """Return whether settings limit the scores of an output whose noise is known, with errors in closed form."""
    closed = model.closed_form and not model.cells.transformed
    return bool(_limited(model) and _known(model).any() and closed and model.latent_count)


def _known(model: DataModel) -> Bools:
    """Return which cells have noise with a known and constant sd (N,)."""
    noise = model.noise
    sds = noise.settings[: len(noise.outputs)]
    constant = [g for g, sd in enumerate(sds) if not isinstance(sd, Prior) and g not in noise.growth]
    return np.isin(model.cells.group, constant)


def check_known_noise(model: DataModel, u: Array, phi: Array) -> None:
    """Refuse curves of which the basis leaves more than a tenth of a known noise variance because of its settings.

    Inputs u (S, K, d) and hyperparameters phi (S, P) are those of draws of the prior.

    Raises
    ------
    InputError
        It names the settings with which to fit again.
    """
    cells, known = model.cells, _known(model)
    left, stated, _, _ = _variances(model, u, np.zeros(len(u), dtype=np.int64))
    sd = phi[:, cells.group]
    for output in sorted(map(str, _limited(model))):
        rows = (cells.output == output) & known
        if not rows.any():
            continue
        noise, of_basis = float(np.mean(sd[:, rows] ** 2)), float(left[:, rows].mean())
        share = float(np.median(left[:, rows].sum(axis=1) / stated[:, rows].sum(axis=1)))
        if of_basis > OF_NOISE * noise and share > REPORTED:
            raise InputError(
                f"Calibration: the basis of output {output!r} leaves out a variance of {of_basis:.3g}, "
                f"{of_basis / noise:.2g} times that of the known noise (limit {OF_NOISE:g}), because its settings "
                "limit the number of scores. Keep more scores, and leave `tolerance` at its default: "
                f"uq.GaussianProcess(outputs={{{output!r}: uq.Curve(max_scores=40)}}).fit(runs)."
            )


def _variances(model: DataModel, u: Array, h: Ints) -> tuple[Array, Array, Array, Array]:
    """Return left, stated, the slope of the noise's unit by the latent output, and the mean, each (S, N)."""
    law = model.joint_error(u).given(h)
    new = np.sum(law.rows.truncation**2, axis=-1)
    stated = _of_scores(law) + new
    left = np.maximum(new - _scattered(model), 0.0)
    return np.broadcast_to(left, stated.shape), stated, model.cells.responded(law.mean)[1], law.mean


def _scattered(model: DataModel) -> Array:
    """Return the variance (N,) of the scatter of a rough simulator's runs, which more scores do not lower."""
    cells, out = model.cells, np.zeros(len(model.cells.offset))
    for basis in getattr(model.surrogate, "bases", ()):
        at = np.flatnonzero(cells.output == basis.name)
        if basis.scatter is not None and len(at):
            rows = basis.rows({dim: cells.coords[dim][at] for dim in basis.dims} if basis.dims else None)[1]
            out[at] = np.sum(basis.scattered(rows) ** 2, axis=1)
    return out


def _of_scores(law: OutputLaw) -> Array:
    """Return the variance (S, N) of the scores' errors; of many points the covariance would take too much room."""
    every = np.arange(law.score_covariance.shape[-1])
    basis = dense(law.rows.basis)
    rows = "nq" if law.fixed else "snq"
    if law.correlated:
        within = np.einsum("skpkq->skpq", law.score_covariance)[:, law.index]
        found = np.einsum(f"{rows.replace('q', 'p')},snpq,{rows}->sn", basis, within, basis)
    else:
        within = law.score_covariance[:, :, every, every][:, :, law.index]
        found = np.einsum(f"{rows},sqn->sn", basis**2, within)
    return np.asarray(found)

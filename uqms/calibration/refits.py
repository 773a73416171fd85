"""Short refits with another prior scale of the discrepancy, where reweighted draws cannot tell, and their storage.

A refit is the same sampler with fewer draws on the whole problem, of which the discrepancy of one piece has another
scale. Its draws are judged by R-hat; the verdict takes those of reweighting or refit, whichever may be used.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr

from uqms._typing import Array
from uqms.calibration import assembly
from uqms.calibration.base import Piece, Problem
from uqms.calibration.checks import Rescaled, Sampled
from uqms.calibration.rescaling import FACTORS, rescaled, with_scaled_discrepancy
from uqms.calibration.reweighting import width_of
from uqms.calibration.samplers import Sampler
from uqms.errors import PACKAGE, InputError, NumericalWarning

if TYPE_CHECKING:
    from uqms.calibration.parts import JointCalibration
    from uqms.calibration.single import SingleCalibration

__all__ = ["GROUP", "by_piece", "kept", "known", "of_part", "sampled_again", "shortened"]

_logger = logging.getLogger(__name__)
GROUP = "discrepancy_scale"  # of the DataTree
R_HAT = 1.1  # of a refit; its draws are few
SEED = 104_729  # between the seeds of refits


def shortened(sampler: object) -> Sampler | None:
    """Return what the sampler offers for a refit; None where it offers nothing, so that its work is not known."""
    offered = getattr(sampler, "shortened", None)
    return None if offered is None else cast(Sampler, offered())


def by_piece(
    problem: Problem, sampled: Sampled, sampler: Sampler | None, seed: int
) -> dict[str, tuple[Rescaled, ...] | str]:
    """Return how quantities move with a quarter and four times the prior scale of each piece's discrepancy.

    Parameters
    ----------
    problem, sampled
        The whole, and its draws with their joint log-likelihood.
    sampler
        Where reweighted draws cannot tell, this one in short samples the other posterior; None leaves that out.
    seed
        Of the refits.

    Returns
    -------
    dict
        By name of the piece, "" of a calibration of one surrogate: figures of each factor, or why there are none.
    """
    if problem.kind == "population":
        return {}
    short = shortened(sampler)
    judged = {**sampled.theta, **sampled.derived}
    out: dict[str, tuple[Rescaled, ...] | str] = {}
    for i, piece in enumerate(problem.pieces(sampled.theta, sampled.latents, sampled.h)):
        if piece.problem.discrepancy is None:
            continue
        own = None if piece.name else sampled.log_likelihood
        found = []
        try:
            for k, factor in enumerate(FACTORS):
                one = rescaled(piece.problem, piece.theta, piece.latents, own, factor, judged)
                if not one.trusted and short is not None:
                    again = _tried(problem, piece, judged, factor, short, (seed + SEED * (1 + 2 * i + k)) % 2**31)
                    one = one if again is None else again
                found.append(one)
        except InputError as error:  # a prior without a scale; draws are not lost for it
            out[piece.name] = str(error)
            continue
        out[piece.name] = tuple(found)
    return out


def _tried(
    problem: Problem, piece: Piece, judged: Mapping[str, Array], factor: float, sampler: Sampler, seed: int
) -> Rescaled | None:
    """Return a refit, None where the sampler finds no posterior with that scale: the draws are not lost for it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of few draws; they are judged by R-hat
            return sampled_again(problem, piece.parts, judged, factor, sampler, seed)
    except Exception as error:  # whatever it is: hours of sampling are not lost for a check
        message = (
            f"The posterior with {factor:g} times the prior scale of the discrepancy could not be sampled "
            f"({type(error).__name__}: {error}), so how the answer depends on this scale is not known."
        )
        warnings.warn(message, NumericalWarning, skip_file_prefixes=PACKAGE)
        return None


def sampled_again(
    problem: Problem, parts: Sequence[str], draws: Mapping[str, Array], factor: float, sampler: Sampler, seed: int
) -> Rescaled:
    """Return how quantities move when the discrepancy of parts is `factor` times as large, by sampling that posterior.

    Parameters
    ----------
    problem
        The whole, whose other parts stay as they are.
    parts
        Names of the parts whose discrepancy is scaled; ("",) of a calibration of one surrogate.
    draws
        Of the posterior as it is, by quantity (S,).
    factor
        Times the scale.
    sampler, seed
        Of the other posterior.
    """
    other: Problem
    if problem.kind == "parts":
        whole = cast("JointCalibration", problem)
        scaled = {name: whole.parts[name] for name in parts if whole.parts[name].discrepancy is not None}
        other = whole.with_parts({name: with_scaled_discrepancy(part, factor) for name, part in scaled.items()})
    else:
        other = with_scaled_discrepancy(cast("SingleCalibration", problem), factor)
    _logger.info("sampling with %g times the scale of the discrepancy, %s", factor, sampler)
    trace = sampler.run(other, seed)
    assembly.check_trace(other, sampler, trace)
    raw = trace["posterior"].dataset[list(other.priors)]
    r_hat, _, _ = assembly.convergence(raw)
    worst = float(max(r_hat.values()))
    shift, width = {}, {}
    for name, values in assembly.with_derived(other, raw.drop_attrs()).data_vars.items():
        if str(name) in draws:
            before, after = draws[str(name)], values.values.ravel()
            shift[str(name)] = float((after.mean() - before.mean()) / max(float(before.std()), 1e-300))
            width[str(name)] = width_of(after) / max(width_of(before), 1e-300)
    size = f"{raw.sizes['chain']} x {raw.sizes['draw']} draws of {type(sampler).__name__}"
    return Rescaled(factor, shift, width, float("nan"), not worst > R_HAT, size, worst)


# ------------------------------------------------------------------------------------------- kept in the DataTree
def kept(found: Mapping[str, tuple[Rescaled, ...] | str]) -> dict[str, xr.Dataset]:
    """Return the group of the DataTree that holds them, none where there are none; dims (piece, factor, quantity)."""
    pieces = {name: one for name, one in found.items() if not isinstance(one, str)}
    if not pieces:
        return {}
    dims = ("piece", "factor", "quantity")
    first = next(iter(pieces.values()))
    names = list(first[0].shift)

    def table(values: str) -> Any:
        return [[[getattr(one, values)[name] for name in names] for one in each] for each in pieces.values()]

    def column(values: str) -> Any:
        return [[getattr(one, values) for one in each] for each in pieces.values()]

    data = {
        "shift": (dims, table("shift")),
        "width_ratio": (dims, table("width")),
        "k_hat": (dims[:2], np.array(column("k_hat"), dtype=np.float64)),
        "r_hat": (dims[:2], np.array(column("r_hat"), dtype=np.float64)),
        "trusted": (dims[:2], np.array(column("trusted"), dtype=np.int64)),
        "sampler": (dims[:2], np.array(column("sampler"), dtype=np.str_)),
    }
    coords = {"piece": list(pieces), "factor": [one.factor for one in first], "quantity": names}
    return {GROUP: xr.Dataset(data, coords=coords)}


def known(tree: Any) -> dict[float, Rescaled]:
    """Return what a posterior of one piece knows since it was sampled, by factor."""
    if GROUP not in tree.children:
        return {}
    group = tree[GROUP].dataset.isel(piece=0)
    names = [str(name) for name in group["quantity"].values]
    out = {}
    for k, factor in enumerate(group["factor"].values):
        one = group.isel(factor=k)
        shift, width = (dict(zip(names, map(float, one[key].values), strict=True)) for key in ("shift", "width_ratio"))
        out[float(factor)] = Rescaled(
            float(factor),
            shift,
            width,
            float(one["k_hat"]),
            bool(one["trusted"]),
            str(one["sampler"].values),
            float(one["r_hat"]),
        )
    return out


def of_part(group: xr.Dataset, piece: str, names: Mapping[str, str]) -> xr.Dataset | None:
    """Return the group of one part, whose quantities have other names in it; None where it has no discrepancy."""
    if piece not in group["piece"].values:
        return None
    group = group.sel(piece=[piece])
    own = [name for name in group["quantity"].values if str(name) in names]
    return group.sel(quantity=own).assign_coords(quantity=[names[str(name)] for name in own], piece=[""])

"""To `sbi` and back: neural posteriors and likelihoods, where a simulator's noise is not normal.

Parameters stand there by their prior's distribution function in the design box, u = F(theta), in a joint block given
those before: uniform between 0 and 1 whatever the priors, so that `sbi` needs no prior of its own making, and heavy
tails or scales make no trouble for its networks.
"""

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy.stats import kstest

from uqms import ensemble as tables
from uqms._teaching import taught
from uqms._typing import Array
from uqms.errors import PACKAGE, DataError, DesignWarning, InputError
from uqms.parameters import Box, ParameterSpace

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SbiRuns", "from_sbi", "to_sbi"]

UNLIKE = 1e-6  # level at which runs do not follow the prior
CHAIN_DIMS = ("chain", "draw")


class SbiRuns(NamedTuple):
    """What `sbi` learns from.

    Attributes
    ----------
    prior
        A `sbi.utils.BoxUniform` between 0 and 1 over u = F(theta), the prior in the design box.
    theta
        u of the runs, a float32 tensor (n, d).
    x
        Outputs of the runs, a float32 tensor (n, m): scalars and flattened curves side by side.
    """

    prior: Any
    theta: Any
    x: Any


@taught
def to_sbi(ensemble: xr.Dataset, outputs: "Sequence[str] | None" = None) -> SbiRuns:
    """Return prior and runs for a neural posterior or likelihood of the package `sbi` (``pip install 'uqms[sbi]'``).

    Use it for a stochastic simulator whose noise is far from normal. It takes thousands of runs where a surrogate with
    `Calibration` takes hundreds; the neural posterior knows no error of its own: check it with
    simulation-based calibration.

    Parameters
    ----------
    ensemble
        Runs at inputs that follow the prior, e.g. of ``uq.sobol(space, 4096)``, every one once.
    outputs
        Which, in the order that the observation will have; all when left out.

    Returns
    -------
    SbiRuns
        `prior`, `theta` and `x`. Measurement noise is not in the outputs: add it to `x`.

    Raises
    ------
    InputError
        Unknown outputs, conditions among the inputs, an ensemble without priors, or `sbi` is not installed.
    DataError
        When entries of the outputs are missing.

    Warns
    -----
    DesignWarning
        When the inputs do not follow the prior: a neural posterior (NPE) would take their distribution for the prior.

    References
    ----------
    Tejero-Cantero et al. (2020), doi:10.21105/joss.02505.

    Examples
    --------
    ::

        runs = uq.to_sbi(ensemble)
        inference = sbi.inference.NPE(prior=runs.prior)
        inference.append_simulations(runs.theta, runs.x).train()
        u = inference.build_posterior().sample((4000,), x=observed)
        draws = uq.from_sbi(u, ensemble)["posterior"]
    """
    BoxUniform, torch = _sbi()
    space, box = _prior_of(ensemble, "to_sbi")
    runs = tables.completed(ensemble)
    known = tables.output_names(runs)
    names = tuple(known) if outputs is None else tuple(outputs)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise InputError(f"to_sbi: unknown outputs {unknown}; the ensemble has {list(known)}.")
    u = space.to_cube({name: runs[name].values for name in space.names}, box)
    x = np.hstack([runs[name].transpose("run", ...).values.reshape(len(u), -1) for name in names])
    if not np.isfinite(x).all():
        raise DataError(
            f"to_sbi: {int((~np.isfinite(x).all(axis=1)).sum())} runs miss entries of {list(names)}. Drop them."
        )
    _check_law(space, u)
    as_tensor = {"dtype": torch.float32}
    d = len(space.names)
    prior = BoxUniform(torch.zeros(d, **as_tensor), torch.ones(d, **as_tensor))
    return SbiRuns(prior, torch.as_tensor(u, **as_tensor), torch.as_tensor(x, **as_tensor))


@taught
def from_sbi(samples: ArrayLike, ensemble: xr.Dataset) -> xr.DataTree:
    """Return draws of a neural posterior in the parameters' own units, as a DataTree that ArviZ reads.

    Parameters
    ----------
    samples
        Draws (n, d) of u as `sbi` returns them for the runs of `to_sbi`; or (chains, n, d).
    ensemble
        The runs that `to_sbi` was given: they carry priors and design box.

    Returns
    -------
    xarray.DataTree
        With the group "posterior", dims ("chain", "draw").

    Raises
    ------
    InputError
        When the shape does not fit the priors, draws lie outside of 0 and 1, or the ensemble has no priors.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Normal(1.0, 2.0)), 8, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": design["k"].values})
    >>> round(float(uq.from_sbi(np.array([[0.5], [0.5]]), runs)["posterior"]["k"].mean()), 6)
    1.0
    """
    space, box = _prior_of(ensemble, "from_sbi")
    u = np.asarray(samples, dtype=np.float64)
    u = u[None] if u.ndim == 2 else u
    if u.ndim != 3 or u.shape[-1] != len(space.names):
        raise InputError(
            f"from_sbi: samples have shape {np.shape(samples)}, required is (draws, {len(space.names)}) or "
            f"(chains, draws, {len(space.names)}) for {list(space.names)}."
        )
    if not ((u >= 0.0) & (u <= 1.0)).all():
        raise InputError(
            f"from_sbi: samples between {u.min():.3g} and {u.max():.3g}; those of the runs of to_sbi, F(theta), lie "
            "between 0 and 1. Sample the posterior that was trained on them."
        )
    theta = space.from_cube(u, box)
    draws = xr.Dataset(
        {
            name: xr.DataArray(theta[..., i], dims=CHAIN_DIMS).assign_attrs(space.attributes(name))
            for i, name in enumerate(space.names)
        },
        coords={"chain": np.arange(u.shape[0]), "draw": np.arange(u.shape[1])},
    )
    tree = xr.DataTree.from_dict({"posterior": draws})
    tree["posterior"].attrs |= {"inference_library": "sbi"}
    return tree


def _sbi() -> tuple[Any, Any]:
    try:
        from sbi.utils import BoxUniform
    except ModuleNotFoundError as error:
        raise InputError("to_sbi needs the package sbi: pip install 'uqms[sbi]'.") from error
    import torch

    return BoxUniform, torch


def _prior_of(ensemble: xr.Dataset, asked: str) -> tuple[ParameterSpace, Box]:
    """Return the priors and the design box of runs whose inputs all have a prior."""
    space = tables.get_space(ensemble)
    if space is None:
        raise InputError(f"{asked}: the ensemble does not know its priors. Run a design of a ParameterSpace.")
    extra = sorted({*tables.input_names(ensemble), *space.conditions} - set(space.names))
    if extra:
        raise InputError(
            f"{asked}: the runs vary {extra}, which have no prior. Run a design without conditions, at those of the "
            "experiment."
        )
    return space, tables.get_box(ensemble).select(space.names)


def _check_law(space: ParameterSpace, u: Array) -> None:
    for name, column in zip(space.names, u.T, strict=True):
        if kstest(column, "uniform").pvalue < UNLIKE:
            warnings.warn(
                f"to_sbi: the runs' {name!r} does not follow its prior (a box filled evenly, or points added one by "
                "one). A neural posterior (NPE) takes the distribution of the runs for the prior: run a design of the "
                "space itself, or learn the likelihood (NLE).",
                DesignWarning,
                skip_file_prefixes=PACKAGE,
            )

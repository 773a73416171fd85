"""Prior and posterior predictive checks: whether a statistic of the data is one that the model would give."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import xarray as xr

from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array
from uqms.calibration import Posterior
from uqms.calibration.capabilities import refuse
from uqms.errors import InputError

__all__ = ["PredictiveCheck", "predictive_check"]


@taught
@final
@dataclass(frozen=True, eq=False)
class PredictiveCheck:
    """A statistic of the data, compared with that of data simulated from the model.

    Attributes
    ----------
    observed
        Of the data.
    replicated
        Of replicated data, (draws,).
    p
        Two-sided tail probability of `observed` among the replicated.
    group
        "posterior" or "prior".
    """

    observed: float
    replicated: Array
    p: float
    group: str

    def __repr__(self) -> str:
        low, high = np.quantile(self.replicated, [0.025, 0.975])
        return (
            f"<PredictiveCheck ({self.group}): observed {self.observed:.4g}, the model's 95 % {low:.4g} to {high:.4g}, "
            f"p = {self.p:.2g}>"
        )


@taught
@single_threaded
def predictive_check(
    posterior: Posterior,
    statistic: Callable[[xr.DataArray], xr.DataArray],
    *,
    group: Literal["posterior", "prior"] = "posterior",
) -> PredictiveCheck:
    """Compare a statistic of the measurements with its distribution under the model.

    Use it for the quantity of interest: a peak, a mean late in the experiment, the largest jump. A small p says
    that the model does not reproduce it. After calibration p is conservative, since the same data were fitted; a prior
    p says whether the data surprised the prior.

    Parameters
    ----------
    posterior
        What `Calibration(...).sample()` returns.
    statistic
        Reduces dim "observation" of a DataArray, whose coordinates label the rows: output, coordinates, conditions.
        It is given data, and all replicated data at once.
    group
        Whether data are drawn by the posterior or by the prior.

    Returns
    -------
    PredictiveCheck
        Observed and replicated statistics and their p.

    Raises
    ------
    InputError
        When it is no posterior, or the statistic does not return one number per data set.

    References
    ----------
    Gelman, Meng & Stern (1996), Statistica Sinica 6:733.

    Examples
    --------
    >>> import numpy as np, xarray as xr, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": np.exp(design["k"].values)}))
    >>> problem = uq.Calibration(surrogate, xr.DataArray(2.0, name="y"), noise=uq.GaussianNoise(sd=0.1))
    >>> posterior = problem.sample(uq.NUTS(draws=200, tune=200, progress=False), rng=1)
    >>> bool(predictive_check(posterior, lambda y: y.max("observation")).p > 0.05)
    True
    """
    if not isinstance(posterior, Posterior):
        raise InputError(
            f"predictive_check: got a {type(posterior).__name__}; give the posterior of one subject, as of "
            "problem.sample(...)."
        )
    refuse(posterior.problem, "predictive_check")
    if group not in ("posterior", "prior"):
        raise InputError(f"predictive_check: group is {group!r}; give 'posterior' or 'prior'.")
    replicated = posterior.tree[f"{group}_predictive"]["value"].stack(sample=("chain", "draw"))
    replicated = replicated.transpose("sample", "observation")
    observed = _apply(statistic, posterior.tree["observed_data"]["value"], ())
    values = _apply(statistic, replicated, (replicated.sizes["sample"],))
    above, below = float(np.mean(values >= observed)), float(np.mean(values <= observed))
    least = 1.0 / len(values)  # a tail with no draw in it is not known to be empty
    return PredictiveCheck(float(observed), values, min(1.0, 2.0 * max(min(above, below), 0.5 * least)), group)


def _apply(statistic: Callable[[xr.DataArray], xr.DataArray], values: xr.DataArray, shape: tuple[int, ...]) -> Array:
    try:
        found = np.asarray(statistic(values), dtype=np.float64)
    except Exception as error:
        raise InputError(
            f"predictive_check: the statistic failed with {type(error).__name__}: {error}. It is given a DataArray "
            f"with dims {values.dims} and coordinates {list(values.coords)}; reduce 'observation'."
        ) from error
    if found.shape != shape or not np.isfinite(found).all():
        raise InputError(
            f"predictive_check: the statistic of data with dims {values.dims} has shape {found.shape}; it must reduce "
            "'observation' alone to one finite number per data set, e.g. lambda y: y.max('observation')."
        )
    return found

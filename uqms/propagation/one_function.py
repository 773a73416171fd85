"""What a calibration's surrogate leaves open in what follows: how much less would vary if the simulator were known.

==========  ============================================================================  ==========
symbol      meaning                                                                       shape
==========  ============================================================================  ==========
m           a quantity at draws of the parameters, with one function of the surrogate     (S, ...)
            in the simulator's place and the discrepancy given the data and that function
b           slope of m by the parameters, by least squares over the draws                 (p, ...)
V, V0       covariance that the data leave of the parameters, linearised: with the        (p, p)
            surrogate's error, and without
==========  ============================================================================  ==========

The surrogate's error and the parameters go together given the data: had the simulator itself taken the surrogate's
place, the data would have said something else of the parameters. What would still vary then is Var(m) b'V0 b / b'V b;
what the quantity varies more than that is the variance of its mean over the functions that runs and data allow. Exact
for a linear simulator and normal errors. The ratio is that of the linearised problem, the variance that of the draws,
so that nothing is left open where the surrogate has no error. Of one part of a calibration of several, V and V0 are
what its own data leave.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import xarray as xr

from uqms._typing import Array
from uqms.calibration.posterior import Posterior, thinned
from uqms.calibration.verdict import linear_covariances

__all__ = ["OneFunction", "one_function"]


@final
@dataclass(frozen=True, eq=False)
class OneFunction:
    """Quantities with one function of the surrogate in the simulator's place, and the parameters' posterior under it.

    Attributes
    ----------
    quantities
        Dims ("function", "sample", ...), one function.
    parameters
        In units of their prior's sds on the surrogate's scale, (S, p).
    with_error, without
        V and V0.
    """

    quantities: xr.Dataset
    parameters: Array
    with_error: Array
    without: Array

    def left(self, m: Array) -> Array:
        """Return the variance (...) that quantities m (S, ...) would still have if the simulator were known."""
        off = (m - m.mean(axis=0)).reshape(len(m), -1)
        centred = self.parameters - self.parameters.mean(axis=0)
        b = np.linalg.lstsq(centred, off, rcond=None)[0]
        full, known = (np.einsum("ik,ij,jk->k", b, v, b) for v in (self.with_error, self.without))
        share = np.where(full > 0.0, known / np.where(full > 0.0, full, 1.0), 1.0)
        return np.asarray((np.minimum(share, 1.0) * off.var(axis=0, ddof=1)).reshape(m.shape[1:]))


def one_function(posterior: Posterior, theta: Mapping[str, Array], quantities: xr.Dataset) -> OneFunction:
    """Return quantities at draws `theta` of the parameters with what the calibration says of these."""
    problem = posterior.single
    columns = [problem.surrogate.domain.names.index(name) for name in problem.parameters]

    def scaled(draws: Mapping[str, Array]) -> Array:
        return np.asarray(problem.unit_inputs(draws)[:, 0, columns])

    spread = scaled(problem.prior_draws(4000, 0)).std(axis=0)
    drawn, h, _ = thinned(posterior, len(next(iter(theta.values()))))
    return OneFunction(quantities, scaled(theta) / spread, *linear_covariances(problem, drawn, h))

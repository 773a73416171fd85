"""Which member of a chain the surrogate's error comes from."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from uqms._typing import Array, Ints
from uqms.calibration.base import Problem
from uqms.calibration.verdict import linear_covariances
from uqms.errors import InputError
from uqms.surrogates import Chain
from uqms.surrogates.sampled_chain import SampledChain

if TYPE_CHECKING:
    from uqms.calibration.single import SingleCalibration

__all__ = ["chain_of", "member_shares"]


def chain_of(problem: Problem) -> Chain | None:
    """Return the chain that a calibration of one subject goes through; None where it is none."""
    surrogate = getattr(problem, "surrogate", None) if problem.kind == "one" else None
    if isinstance(surrogate, SampledChain):
        return surrogate.chain
    return surrogate if isinstance(surrogate, Chain) else None


def member_shares(problem: Problem, theta: Mapping[str, Array], h: Ints) -> pd.DataFrame:
    """Return, by parameter and member of a chain, the fraction of the variance that goes with the member's error.

    Of the problem linearised at a few of the draws: what the variance would be without the error of that member alone.
    Fractions of several members need not add up to that of all.

    Raises
    ------
    InputError
        When no surrogate is a chain.
    """
    chain, single = chain_of(problem), cast("SingleCalibration", problem)
    if chain is None:
        raise InputError(
            "member_share: fractions by member are of the calibration of one subject through a uq.Chain. "
            "posterior.surrogate_share has the fraction of the whole surrogate."
        )
    plain = {name: values for name, values in theta.items() if name not in problem.auxiliary}
    first = type(single)(chain, single.observations, **(single.settings | {"expansion": "first-order"}))
    whole = np.diagonal(linear_covariances(first, plain, h)[0])
    shares = {}
    for name in chain.members:
        other = first.with_error(chain.with_variances({name: 0.0}), 1.0)
        shares[name] = np.clip(1.0 - np.diagonal(linear_covariances(other, plain, h)[0]) / whole, 0.0, 1.0)
    return pd.DataFrame(shares, index=list(problem.parameters))

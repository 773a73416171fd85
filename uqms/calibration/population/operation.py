"""The likelihood with a low-rank error as a PyTensor operation, for models that are compiled or sampled by PyMC."""

from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.gradient import disconnected_type
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.link.numba.dispatch.basic import register_funcify_default_op_cache_key

from uqms.calibration.population.lowrank import LowRank

__all__ = ["LowRankOp", "log_density"]

KERNEL_VERSION = 1  # raise it when the compiled kernel changes: graphs cached on disk do not look inside


class LowRankOp(Op):  # type: ignore[misc]
    """Log-likelihood of the observations, with its derivatives by inputs (K, d) and noise sds as further outputs.

    It takes the place of `MarginalOp` and has the same arguments; its block is `LowRank.block`.
    """

    __props__ = ()

    def make_node(self, block: Any, u: Any, sigma: Any, z: Any) -> Apply:
        """Describe inputs and outputs."""
        inputs = [pt.as_tensor(v) for v in (block, u, sigma, z)]
        return Apply(self, inputs, [pt.dscalar(), pt.dmatrix(), pt.dvector()])

    def perform(self, node: Apply, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        from uqms.calibration.population._lowrank import fused

        value, u_bar, sigma_bar = fused(*inputs)
        outputs[0][0], outputs[1][0], outputs[2][0] = np.asarray(value), u_bar, sigma_bar

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        """Only the value is differentiated, by inputs and noise."""
        return [[False] * 3, [True, False, False], [True, False, False], [False] * 3]

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> Any:
        """Scale the derivatives that the evaluation returned beside the value."""
        bar = cotangents[0]
        return [disconnected_type(), bar * outputs[1], bar * outputs[2], disconnected_type()]


@register_funcify_default_op_cache_key(LowRankOp)  # type: ignore[untyped-decorator]
def _numba_lowrank(op: LowRankOp, node: Apply, **_: Any) -> Any:
    from uqms.calibration.population._lowrank import as_operation  # compiled when it is imported

    return as_operation, KERNEL_VERSION


def log_density(lowrank: LowRank, u: Any, sigma: Any, z: Any) -> Any:
    """Return log p(z | u, sigma) as an expression of inputs (K, d) in the unit cube and noise sds (g,)."""
    return LowRankOp()(pytensor.shared(lowrank.block, name="surrogate_data_and_features"), u, sigma, z)[0]

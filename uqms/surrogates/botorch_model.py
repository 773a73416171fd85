"""A number of a surrogate as a model of BoTorch: joint normal distributions at inputs, with gradients.

==========  ======================================================================  ==============
symbol      meaning                                                                 shape
==========  ======================================================================  ==============
X           inputs, batches of q points that are considered jointly                 (..., q, d)
m, C        mean and covariance of hyperparameter draw h                            (..., q), (..., q, q)
w           weights of the draws                                                    (H,)
==========  ======================================================================  ==============

    mean = sum_h w_h m_h,    covariance = sum_h w_h [C_h + (m_h - mean) (m_h - mean)']

Runs to come, which BoTorch calls fantasies, condition this normal distribution.
"""

from typing import Any, final

import numpy as np
import torch
import xarray as xr
from botorch.models.model import FantasizeMixin, Model
from botorch.posteriors.gpytorch import GPyTorchPosterior
from gpytorch.distributions import MultivariateNormal
from linear_operator.utils.cholesky import psd_safe_cholesky

from uqms._threads import single_threaded
from uqms._typing import Array
from uqms.errors import ConformanceError, InputError
from uqms.surrogates.proposed import proposed_design
from uqms.surrogates.scalar_output import ScalarOutput

__all__ = ["BoTorchModel"]

JITTER = 1e-9  # of the largest variance of runs to come


class _Moments(torch.autograd.Function):  # type: ignore[misc]
    """Means (H, b, q) and covariances (H, b, q, q) of a number at inputs (b, q, d), computed in NumPy."""

    @staticmethod
    def forward(ctx: Any, X: torch.Tensor, number: ScalarOutput, own: bool) -> tuple[torch.Tensor, torch.Tensor]:
        x = X.detach().numpy()
        ctx.x, ctx.number, ctx.own = x, number, own
        mean, covariance = number.moments(number.surrogate.scores(_unit(number, x, own)))
        return torch.from_numpy(np.ascontiguousarray(mean)), torch.from_numpy(np.ascontiguousarray(covariance))

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, mean_bar: torch.Tensor, covariance_bar: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        number, x, box = ctx.number, ctx.x, ctx.number.domain
        if not getattr(number.surrogate, "differentiable", True):
            raise ConformanceError(
                f"A {type(number.surrogate).__name__} has no derivatives. Optimise without: "
                "optimize_acqf(..., options={'with_grad': False})."
            )
        u, bars = _unit(number, x, ctx.own), (mean_bar.numpy(), covariance_bar.numpy())
        out = np.stack([number.reverse(u[i], bars[0][:, i], bars[1][:, i]) for i in range(len(x))])
        if ctx.own:
            out *= box.unit_gradient(x)
        return torch.from_numpy(np.ascontiguousarray(out)), None, None


def _unit(number: ScalarOutput, x: Array, own: bool) -> Array:
    return np.ascontiguousarray(number.domain.to_unit(x) if own else x)


@final
class BoTorchModel(Model, FantasizeMixin):  # type: ignore[misc]
    """A number of a surrogate as a model of BoTorch; `uqms.to_botorch` makes it.

    Attributes
    ----------
    bounds
        Ends of the design box (2, d), in the unit cube or in own units.
    names
        Names of the inputs, in the order of the columns.
    """

    likelihood = None

    def __init__(self, number: ScalarOutput, own: bool, given: Any = None) -> None:
        super().__init__()
        self._number, self._own, self._given = number, own, given
        box = number.domain
        ends = [box.lower, box.upper] if own else [[0.0] * box.d, [1.0] * box.d]
        self.bounds, self.names = torch.tensor(ends, dtype=torch.float64), box.names

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    @property
    def batch_shape(self) -> torch.Size:
        """That of runs to come, where there are any."""
        return torch.Size([]) if self._given is None else self._given[1].shape[:-2]

    def posterior(
        self,
        X: torch.Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | torch.Tensor = False,
        posterior_transform: Any = None,
    ) -> Any:
        """Return the joint distribution at inputs (..., q, d), as BoTorch's `Model.posterior`.

        Raises
        ------
        InputError
            When inputs are not in double precision, or have another number of columns.
        """
        mean, covariance = self._joint(X)
        if isinstance(observation_noise, torch.Tensor):
            covariance = covariance + torch.diag_embed(observation_noise[..., 0].expand(mean.shape))
        elif observation_noise:
            covariance = covariance + self._number.noise * torch.eye(mean.shape[-1], dtype=torch.float64)
        found = GPyTorchPosterior(MultivariateNormal(mean, covariance))
        return found if posterior_transform is None else posterior_transform(found)

    def condition_on_observations(self, X: torch.Tensor, Y: torch.Tensor, **kwargs: Any) -> "BoTorchModel":
        """Return the model given values Y (..., q, 1) of runs at inputs X (..., q, d).

        Their noise is that of the simulator, or `noise` (..., q, 1).
        """
        noise = kwargs.get("noise")
        noise = torch.full(X.shape[:-1], self._number.noise, dtype=torch.float64) if noise is None else noise[..., 0]
        if self._given is not None:
            X, Y, noise = (
                torch.cat(_broadcast(before, now, last), dim=-last)
                for before, now, last in zip(self._given, (X, Y, noise), (2, 2, 1), strict=True)
            )
        return BoTorchModel(self._number, self._own, (X, Y, noise))

    def design(self, X: torch.Tensor) -> xr.Dataset:
        """Return points (n, d) as a design for `uqms.run`."""
        x = X.detach().numpy().reshape(-1, len(self.names))
        own = x if self._own else np.asarray(self._number.domain.from_unit(x))
        recipe = {"method": "BoTorch", "n": len(x), "over": "acquisition"}
        return proposed_design(self._number.surrogate, self._number.domain, own, recipe)

    def _joint(self, X: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean (..., q) and covariance (..., q, q), given the runs to come."""
        if self._given is None:
            return self._before(X)
        known, values, noise = self._given
        n = known.shape[-2]
        mean, covariance = self._before(torch.cat(_broadcast(known, X, 2), dim=-2))
        own = covariance[..., :n, :n]
        largest = own.diagonal(dim1=-2, dim2=-1).amax(dim=-1, keepdim=True).detach()
        root = psd_safe_cholesky(own + torch.diag_embed(noise + JITTER * largest))
        cross = torch.linalg.solve_triangular(root, covariance[..., :n, n:], upper=False)
        left = covariance[..., n:, n:] - cross.mT @ cross
        residual = (values[..., 0] - mean[..., :n])[..., None]
        residual = torch.linalg.solve_triangular(root.expand(*residual.shape[:-2], n, n), residual, upper=False)
        moved = mean[..., n:] + (cross.mT @ residual)[..., 0]
        return moved, left.expand(*moved.shape, moved.shape[-1])

    @single_threaded
    def _before(self, X: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and covariance given the runs there are."""
        *batch, q, d = X.shape
        if X.dtype != torch.float64 or d != len(self.names):
            raise InputError(
                f"BoTorchModel: X has {d} columns of {X.dtype}; give {len(self.names)} ({', '.join(self.names)}) in "
                "double precision, X.double()."
            )
        means, covariances = _Moments.apply(X.reshape(-1, q, d), self._number, self._own)
        logs = self._number.surrogate.scores(np.full((1, d), 0.5)).log_weights
        weights = torch.from_numpy(np.exp(logs - np.logaddexp.reduce(logs)))
        mean = torch.einsum("h,hbq->bq", weights, means)
        apart = means - mean
        covariance = torch.einsum("h,hbij->bij", weights, covariances + apart[..., :, None] * apart[..., None, :])
        return mean.reshape(*batch, q), covariance.reshape(*batch, q, q)


def _broadcast(a: torch.Tensor, b: torch.Tensor, last: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both with the same batch, all but the `last` dimensions."""
    batch = np.broadcast_shapes(a.shape[:-last], b.shape[:-last])
    return a.expand(*batch, *a.shape[-last:]), b.expand(*batch, *b.shape[-last:])

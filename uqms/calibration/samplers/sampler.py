"""What `Calibration.sample` asks of a sampler."""

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from uqms.calibration.base import Problem

__all__ = ["Sampler"]


class Sampler(Protocol):
    """Protocol of a sampler for `Calibration.sample`: one method that draws from a calibration's posterior.

    `problem.log_likelihood` of many points at once, `problem.priors` and `problem.prior_draws` are what a sampler
    needs; `problem.model()` is the PyMC model. A method `shortened()` that returns the same sampler with about a third
    of the work lets the posterior with another scale of a discrepancy be sampled.

    Examples
    --------
    Importance resampling of the prior, for a quick look when data contain little information:

    >>> import numpy as np, xarray as xr, uqms as uq
    >>> class Resampling:
    ...     def run(self, problem, seed):
    ...         rng = np.random.default_rng(seed)
    ...         theta = problem.prior_draws(20000, rng)
    ...         weight = np.exp(problem.log_likelihood(theta))
    ...         rows = rng.choice(20000, size=(4, 500), p=weight / weight.sum())
    ...         draws = xr.Dataset({name: (("chain", "draw"), values[rows]) for name, values in theta.items()})
    ...         return xr.DataTree.from_dict({"posterior": draws})
    >>> surrogate = uq.GaussianProcess().fit(
    ...     uq.ensemble.build(design := uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1),
    ...                       {"y": np.sin(design["k"].values)}))
    >>> problem = uq.Calibration(surrogate, xr.DataArray(0.5, name="y"), noise=uq.GaussianNoise(sd=0.1))
    >>> problem.sample(Resampling(), rng=1).verdict["R-hat"].status
    'pass'
    """

    def run(self, problem: "Problem", seed: int) -> Any:
        """Return a DataTree with the draws of every quantity of `problem.priors`, dims ("chain", "draw").

        The group "posterior" holds the draws, "sample_stats" (may be left out) numbers a draw or a chain. Those that
        are known are judged and shown: `diverging` (chain, draw), `log_marginal_likelihood` (chain,), and `pareto_k`
        (chain,) of draws that come from an approximation by importance resampling.

        Parameters
        ----------
        problem
            The calibration.
        seed
            For the sampler's generator: the same seed must give the same draws.
        """
        ...

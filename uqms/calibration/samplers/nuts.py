"""The No-U-turn sampler, by nutpie."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import xarray as xr

from uqms._typing import Array
from uqms.calibration.samplers._settings import check_share, check_whole, warn_of_few
from uqms.errors import InitError, InputError, SamplingError, SamplingInterrupted

if TYPE_CHECKING:
    from uqms.calibration.problem import Calibration

__all__ = ["NUTS"]

STARTS = 64  # points of which each chain takes one


@final
@dataclass(frozen=True)
class NUTS:
    """No-U-turn sampler (nutpie): the default for continuous parameters.

    Parameters
    ----------
    draws, tune
        Kept and warm-up draws of each chain.
    chains
        Independent chains; four are needed to tell whether they agree.
    target_accept
        Aimed acceptance; raise it towards 0.99 when there are divergences.
    cores
        Threads; None for one a chain up to the number of processors.
    progress
        Whether to show a progress bar.

    Raises
    ------
    InputError
        When a number is out of range.

    References
    ----------
    Hoffman & Gelman (2014), JMLR 15:1593; Vehtari et al. (2021), doi:10.1214/20-BA1221.

    Examples
    --------
    >>> NUTS(draws=2000).draws
    2000
    """

    draws: int = 1000
    tune: int = 1000
    chains: int = 4
    target_accept: float = 0.9
    cores: int | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        for name in ("draws", "tune", "chains"):
            check_whole("NUTS", name, getattr(self, name))
        if self.cores is not None and (
            isinstance(self.cores, bool) or not isinstance(self.cores, int | np.integer) or self.cores < 1
        ):
            raise InputError(f"NUTS: cores is {self.cores!r}; give a whole number of at least 1, or None.")
        check_share("NUTS", "target_accept", self.target_accept, 0.5, 1.0)
        warn_of_few("NUTS", self.chains, self.draws)

    def run(self, problem: "Calibration", seed: int) -> Any:
        """Return nutpie's DataTree for a calibration; chains start where the posterior's mass is.

        Raises
        ------
        InitError
            When no starting point has a finite log-density.
        SamplingInterrupted
            When sampling stopped early; `partial` holds the draws so far.
        SamplingError
            When draws are missing or not finite.
        """
        from uqms.calibration.starts import starting_points

        points = starting_points(problem, STARTS, np.random.default_rng([seed, 1]))
        trace = self.sample_model(problem.model(), seed, problem.on_the_real_line(points))
        trace["starts"] = xr.Dataset(
            {name: (("start", "latent")[: values.ndim], values) for name, values in points.items()}
        )
        return trace

    def sample_model(self, model: Any, seed: int, starts: Array | None = None) -> Any:
        """Return nutpie's DataTree for a PyMC model; every draw is there and finite.

        `starts` (n, free variables) are points on the real line, in the order of the model's variables, of which each
        chain takes one; without them the chains start around the model's initial point.

        Raises
        ------
        InitError
            When no starting point has a finite log-density.
        SamplingInterrupted
            When sampling stopped early; `partial` holds the draws so far.
        SamplingError
            When draws are missing or not finite.
        """
        import nutpie

        if starts is None:  # chains never see the model's own initial point, which a bounded support may not admit
            self._check_start(model)
        with warnings.catch_warnings():
            # nutpie sets options of PyTensor that newer releases have renamed; nothing that a user could act on
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            compiled = nutpie.compile_pymc_model(model)
            if starts is not None:
                compiled = replace(compiled, initial_point_func=_pick(starts))
            try:
                trace = nutpie.sample(
                    compiled,
                    draws=self.draws,
                    tune=self.tune,
                    chains=self.chains,
                    cores=self.cores,
                    target_accept=self.target_accept,
                    seed=seed,
                    progress_bar=self.progress,
                    save_warmup=False,
                )
            except RuntimeError as error:
                if "nitialization" not in str(error):
                    raise SamplingError(
                        f"The sampler broke off: {error}. If the surrogate is your own, evaluate it at draws of the "
                        "prior (problem.prior_draws) to see where it fails."
                    ) from error
                raise InitError(
                    f"The sampler found no starting point with a finite log-density ({error}). Check that observations "
                    "and noise have the scale of the simulator's output."
                ) from error
        self._check_draws(trace)
        return trace

    def _check_start(self, model: Any) -> None:
        import pytensor

        # One evaluation: compiling the graph for it would cost as much as compiling it for the sampler.
        with pytensor.config.change_flags(mode="FAST_COMPILE"):
            terms = {name: float(value) for name, value in model.point_logps().items()}
        bad = [name for name, value in terms.items() if not np.isfinite(value)]
        if bad:
            raise InitError(
                f"The log-density of {bad} is not finite at the starting point (terms: {terms}). Check that "
                "observations and noise have the scale of the simulator's output."
            )

    def _check_draws(self, trace: Any) -> None:
        posterior = trace["posterior"].dataset
        if not len(posterior.data_vars):
            raise SamplingError("The sampler returned no parameters. Are there any in the model?")
        got = (posterior.sizes["chain"], posterior.sizes["draw"])
        if got != (self.chains, self.draws):
            raise SamplingInterrupted(
                f"Sampling stopped early: {got[1]} draws of {got[0]} chains where {self.draws} of {self.chains} were "
                "asked for. The partial draws are in the error's `partial`; sample again for a posterior.",
                trace,
            )
        for name, values in posterior.data_vars.items():
            bad = int(np.count_nonzero(~np.isfinite(values.values)))
            if bad:
                raise SamplingInterrupted(
                    f"{bad} of {values.size} draws of {name!r} are not finite: sampling stopped early or broke down. "
                    "The draws are in the error's `partial`; they are no posterior.",
                    trace,
                )


def _pick(starts: Array) -> Callable[[Any], Array]:
    """Return a function from a chain's seed to its start: chains ask in any order, their seeds are always the same."""

    def start(seed: Any) -> Array:
        return np.array(starts[np.random.default_rng(seed).integers(len(starts))])

    return start

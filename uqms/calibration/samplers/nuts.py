"""The No-U-turn sampler, by nutpie."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import xarray as xr

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, RandomState, as_generator
from uqms.calibration.samplers.shared import LINE, check_share, fewer, warn_of_few
from uqms.errors import PACKAGE, ConvergenceWarning, InitError, SamplingError, SamplingInterrupted

if TYPE_CHECKING:
    from uqms.calibration.base import Problem
    from uqms.calibration.compiled import Groups, Movable

__all__ = ["NUTS", "worst_ess"]

JITTERED = 32  # tried around the initial point of a model of one's own
MOST_BLOCKS = 50
DIVERGED = 0.01  # more draws than this, and a linear map is given up; a few diverge in any coordinates of so many
RESTART = 100  # warm-up draws of a further block
SHORTEST, MARGIN = 0.2, 1.1  # a further block: of `draws` at least, and how much more than what is missing


@taught
@final
@dataclass(frozen=True)
class NUTS:
    """No-U-turn sampler (nutpie): the default for continuous parameters.

    Parameters
    ----------
    draws, tune
        Kept and warm-up draws of each chain. A population, whose first draws learn its coordinates, takes a quarter of
        a warm-up longer than 253 draws, but no fewer than these.
    chains
        Independent chains; four are needed to tell whether they agree.
    target_accept
        Aimed acceptance; raise it towards 0.99 when there are divergences.
    cores
        Threads; None for one a chain up to the number of processors.
    progress
        Whether to show a progress bar.
    ess
        Smallest bulk effective sample size that is required of every inferred quantity (of a population: of what
        describes it, not of each subject). Further blocks follow until it is
        reached (at most 50 blocks in all), each with a short warm-up of its own and as long as seems to be missing, at
        most `draws`; None for one block.

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
    ess: int | None = None

    def __post_init__(self) -> None:
        for name in ("draws", "tune", "chains"):
            check.whole("NUTS", name, getattr(self, name))
        check.whole("NUTS", "cores", self.cores, optional=True)
        check.whole("NUTS", "ess", self.ess, optional=True)
        check_share("NUTS", "target_accept", self.target_accept, 0.5, 1.0)
        warn_of_few("NUTS", self.chains, self.draws)

    def shortened(self) -> "NUTS":
        """Return the sampler with about a third of the work, for a refit that only compares two posteriors."""
        return replace(self, draws=fewer(self.draws, 4), tune=fewer(self.tune, 3), ess=None, progress=False)

    def run(self, problem: "Problem", seed: int) -> Any:
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
        return self.sampled(problem, seed)[1]

    def sampled(self, problem: "Problem", seed: int) -> "tuple[Problem, xr.DataTree]":
        """Return the problem as it was sampled, and nutpie's DataTree; errors are those of `run`."""
        from uqms.calibration import gradients

        with _quiet():
            return problem.with_gradients(self, seed) or (problem, gradients.run(problem, self, seed))

    @single_threaded
    def sample_model(self, model: Any = None, *, rng: RandomState | None = None) -> Any:
        """Draw from the posterior of a PyMC model of your own, as fast as from that of a `Calibration`.

        The compiled log-density stays on disk, the warm-up learns coordinates in which up to 24 parameters are nearly
        independent, and blocks of draws follow until `ess` is reached. More parameters, and those for which such
        coordinates make draws diverge, are sampled with nutpie's own adaptation. The posterior is exact in any case.

        Parameters
        ----------
        model
            A `pymc.Model`; by default the one in context.
        rng
            Whole number or generator.

        Returns
        -------
        xarray.DataTree
            ArviZ groups: posterior (free variables in their own units and deterministic ones, with the model's dims and
            coords), sample_stats (`diverging`, `depth`, `maxdepth_reached`, ...), observed_data and constant_data.

        Raises
        ------
        InputError
            Discrete variables, no free ones, no derivative, or a log-density that is itself random.
        InitError
            When no starting point has a finite log-density.
        SamplingInterrupted
            When sampling stopped early; `partial` holds the draws so far.
        SamplingError
            When draws are missing or not finite.

        Warns
        -----
        ConvergenceWarning
            When draws diverged or reached the largest tree, chains disagree, or `ess` was not reached.

        Examples
        --------
        >>> import pymc as pm, uqms as uq
        >>> with pm.Model():
        ...     mean = pm.Normal("mean", 0.0, 1.0)
        ...     value = pm.Normal("value", mean, 0.5, observed=[0.3, 0.8, 1.1])
        ...     draws = uq.NUTS(draws=500).sample_model(rng=1)["posterior"]
        >>> dict(draws["mean"].sizes)
        {'chain': 4, 'draw': 500}
        """
        import pymc as pm

        from uqms.calibration import graph

        model = pm.modelcontext(model)
        seed = int(as_generator(rng).integers(2**31))
        with _quiet():
            target = graph.model_target(model)
            starts = graph.starting_points(target, model, JITTERED, np.random.default_rng([seed, 1]))
        trace = self.sample_target(target, seed, starts, rough=True, cautious=True)
        tree = graph.with_data(trace, model)
        for message in graph.complaints(tree, target.free):
            warnings.warn(f"NUTS: {message}", ConvergenceWarning, skip_file_prefixes=PACKAGE)
        return tree

    def sample_target(
        self,
        target: "Movable",
        seed: int,
        starts: Array,
        *,
        rough: bool = False,
        cautious: bool = False,
        groups: "Groups | None" = None,
    ) -> Any:
        """Return nutpie's DataTree for a compiled target, in coordinates that the warm-up learns.

        `starts` (n, coordinates) are unconstrained points of which each chain takes one; `rough` ones say nothing of
        the posterior's shape. `cautious` gives learned coordinates up where draws diverge in them. `groups` are for
        targets of hundreds of coordinates whose gradient is costly, see `GroupedMap`.

        Raises
        ------
        InitError
            When no starting point has a finite log-density.
        SamplingInterrupted
            When sampling stopped early; `partial` holds the draws so far.
        SamplingError
            When draws are missing or not finite.
        SimulatorFailed
            When a simulator that is used directly raises an exception, which is the cause; other exceptions of Python
            code that the density calls are raised as they are.
        """
        with nullcontext() if target.errors is None else target.errors.raised():
            return self._of_target(target, seed, starts, rough, cautious, groups)

    def _of_target(
        self, target: "Movable", seed: int, starts: Array, rough: bool, cautious: bool, groups: "Groups | None"
    ) -> Any:
        from uqms.calibration.warmup import learned

        if not any(np.isfinite(target.evaluate(point)[0]) for point in starts):
            raise InitError(
                "The log-density of ['observations'] is not finite at any starting point. Check that observations and "
                "noise have the scale of the simulator's output."
            )
        settings = {"chains": self.chains, "cores": self.cores, "target_accept": self.target_accept}
        with _quiet():
            with _readable():
                moved, points, left = learned(target, self.tune, settings, seed, starts, rough=rough, groups=groups)
            return self._blocks(moved, points, left, seed, target, starts if cautious else None)

    def _blocks(
        self, target: "Movable", starts: Array, tune: int, seed: int, own: "Movable", retreat: Array | None
    ) -> Any:
        """Sample one block, and others while there are too few effective draws.

        `own` is the target in its own coordinates. With `retreat`, starts for it, all is done again in those where
        draws in learned ones diverge.
        """
        from uqms.calibration.warmup import nutpie_model

        trace, count = self._block(nutpie_model(target, starts), tune, seed), 1
        if retreat is not None and target is not own and _diverged(trace, 0.0 if own.map is not None else DIVERGED):
            target = own
            trace = self._block(nutpie_model(own, retreat), self.tune, seed)
        while self.ess is not None:
            found = worst_ess(trace["posterior"].dataset[list(target.free)])
            if not found < self.ess:
                break
            if count == MOST_BLOCKS:
                warnings.warn(
                    f"NUTS: {count} blocks of {self.draws} draws did not reach {self.ess} effective draws. Raise "
                    "NUTS(draws=...), and look at the verdict.",
                    ConvergenceWarning,
                    skip_file_prefixes=PACKAGE,
                )
                break
            more = self._block(
                nutpie_model(target, _line(trace)),
                min(self.tune, RESTART),
                (seed + 100 + count) % 2**31,
                self._missing(found, trace["posterior"].sizes["draw"]),
            )
            trace, count = _joined(trace, more), count + 1
        return _without_line(trace)

    def _missing(self, found: float, draws: int) -> int:
        """Return how long a further block should be when `draws` of each chain gave `found` effective ones."""
        wanted = math.ceil(draws * (MARGIN * float(self.ess or 0) / max(found, 1.0) - 1.0))
        return min(self.draws, max(wanted, math.ceil(SHORTEST * self.draws)))

    def _block(self, compiled: Any, tune: int, seed: int, draws: int | None = None) -> Any:
        import nutpie

        draws = self.draws if draws is None else draws
        with _readable():
            trace = nutpie.sample(
                compiled,
                draws=draws,
                tune=tune,
                chains=self.chains,
                cores=self.cores,
                target_accept=self.target_accept,
                seed=seed,
                progress_bar=self.progress,
                save_warmup=False,
            )
        self._check_draws(trace, draws)
        return trace

    def _check_draws(self, trace: Any, draws: int) -> None:
        posterior = trace["posterior"].dataset
        if not len(posterior.data_vars):
            raise SamplingError("The sampler returned no parameters. Are there any in the model?")
        got = (posterior.sizes["chain"], posterior.sizes["draw"])
        if got != (self.chains, draws):
            raise SamplingInterrupted(
                f"Sampling stopped early: {got[1]} draws of {got[0]} chains where {draws} of {self.chains} were "
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide that nutpie sets options of PyTensor which newer releases have renamed; nothing that a user could act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


@contextmanager
def _readable() -> Iterator[None]:
    """Turn what nutpie raises into errors that say what to do."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, SamplingError):
            raise
        if "nitialization" not in str(error):
            raise SamplingError(
                f"The sampler broke off: {error}. If the surrogate is your own, evaluate it at draws of the "
                "prior (problem.prior_draws) to see where it fails."
            ) from error
        raise InitError(
            f"The sampler found no starting point with a finite log-density ({error}). Check that observations "
            "and noise have the scale of the simulator's output."
        ) from error


def _diverged(trace: Any, share: float) -> bool:
    return float(trace["sample_stats"]["diverging"].mean()) > share


def worst_ess(draws: Any) -> float:
    """Return the smallest bulk effective sample size of draws; elements that are always the same have none."""
    import arviz_stats

    sizes = arviz_stats.ess(draws, method="bulk")
    moves = {name: np.ptp(values.values, axis=(0, 1)) > 0.0 for name, values in draws.data_vars.items()}
    return min((float(one) for name in moves for one in sizes[name].values[moves[name]].ravel()), default=np.inf)


def _line(trace: Any) -> Array:
    """Return all draws (n, P) on the real line: any of them starts a chain in the middle of the posterior."""
    values = trace["posterior"].dataset[LINE].values
    return np.asarray(values).reshape(-1, values.shape[-1])


def _joined(trace: Any, more: Any) -> Any:
    """Return the draws of both, one after the other in each chain."""
    parts = {}
    for name in ("posterior", "sample_stats"):
        one, other = trace[name].dataset, more[name].dataset
        other = other.assign_coords(draw=other["draw"] + one.sizes["draw"])
        parts[name] = xr.concat(
            [one, other], dim="draw", data_vars="all", coords="minimal", compat="override", join="exact"
        )
    return xr.DataTree.from_dict(parts)


def _without_line(trace: Any) -> Any:
    posterior = trace["posterior"].dataset
    if LINE not in posterior:
        return trace
    return trace.assign({"posterior": xr.DataTree(posterior[[name for name in posterior.data_vars if name != LINE]])})

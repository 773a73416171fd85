"""A posterior corrected by runs of the simulator at its own draws, where another round is too expensive."""

from dataclasses import dataclass, replace
from typing import final

import numpy as np
import pandas as pd
import xarray as xr

from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import RandomState, as_generator
from uqms.calibration.posterior import Posterior, check_posterior
from uqms.calibration.samplers.sampler import Sampler
from uqms.diagnostics.verification import Verification, verify, with_runs
from uqms.ensemble import completed
from uqms.errors import InputError
from uqms.surrogates import Chain, Surrogate
from uqms.surrogates.superposition import Superposition

__all__ = ["Correction", "correct"]


@taught
@final
@dataclass(frozen=True, eq=False)
class Correction:
    """A posterior that was corrected by runs of the simulator; `correct` returns it.

    Attributes
    ----------
    posterior
        Through the surrogate that knows the new runs too. Its variances are those that the errors of the new runs show,
        so that its surrogate is one for this posterior, not for the whole box.
    verification
        Of the posterior that was corrected.
    table
        By inferred quantity: mean and sd before and after, `moved` (of the mean, in sds before) and `ratio` of the sds;
        `mean_simulator` and `sd_simulator` of the draws with weights, where these can be used (NaN otherwise): the
        simulator's own posterior, up to the error of few draws.
    """

    posterior: Posterior
    verification: Verification
    table: pd.DataFrame

    @classmethod
    def between(cls, posterior: Posterior, corrected: Posterior, verification: Verification) -> "Correction":
        """Return what a correction changed.

        Use it where both posteriors were saved and loaded; `correct` makes them.

        Parameters
        ----------
        posterior, corrected
            The posterior before and after.
        verification
            Of the posterior before.
        """
        before, after = posterior.flat(), corrected.flat()
        names = [name for name in before if name in after]
        table = pd.DataFrame(
            {
                "mean_before": [before[name].mean() for name in names],
                "mean": [after[name].mean() for name in names],
                "sd_before": [before[name].std() for name in names],
                "sd": [after[name].std() for name in names],
            },
            index=names,
        )
        table["moved"] = (table["mean"] - table["mean_before"]) / table["sd_before"]
        table["ratio"] = table["sd"] / table["sd_before"]
        weighted = verification.summary() if verification.weights is not None else pd.DataFrame(index=names)
        for column in ("mean_simulator", "sd_simulator"):
            table[column] = weighted[column].reindex(names) if column in weighted else np.nan
        return cls(corrected, verification, table)

    def __str__(self) -> str:
        runs = self.verification.errors.observed.sizes["run"]
        most = str(self.table["moved"].abs().idxmax())
        head = (
            f"Corrected by {runs} runs at draws of the posterior: the mean of {most} moved by "
            f"{float(self.table['moved'][most]):+.2f} sd, sds are {self.table['ratio'].min():.2f} to "
            f"{self.table['ratio'].max():.2f} times what they were."
        )
        weighted = bool(np.isfinite(self.table["mean_simulator"]).all())
        told = (
            "Weighted draws give the simulator's own values." if weighted else "Importance weights could not be used."
        )
        rows: str = self.table.round(4).to_string()
        return f"{head} {told}\n{rows}"


@taught
@single_threaded
def correct(
    posterior: Posterior, ensemble: xr.Dataset, *, sampler: Sampler | None = None, rng: RandomState | None = None
) -> Correction:
    """Calibrate again with the surrogate's error corrected by runs of the simulator at posterior draws.

    Use it when `verify` or the verdict doubts the surrogate at the posterior and a handful of runs can be afforded, but
    not another round of `refine`: the surrogate is conditioned on these runs, and its variances become what their
    errors show, larger or smaller. Of a chain the runs are those of ``chain.simulator(...)``, and each member is
    corrected by what it was given and gave in them.

    Parameters
    ----------
    posterior
        The posterior of one subject, or of a population.
    ensemble
        Runs of ``uqms.verification_design(posterior, n)``; from n = 10 on the scale of the error is known well. Of a
        population each draw is one of all subjects: a few draws are enough.
    sampler
        As in `Calibration.sample`.
    rng
        Whole number or generator.

    Returns
    -------
    Correction
        The new posterior, and what changed.

    Raises
    ------
    InputError
        When it is no posterior, the surrogate cannot be conditioned on runs (stochastic simulators, cheap models,
        surrogates of your own), or the runs are not those of this posterior's draws.
    DataError
        When fewer than two runs completed.

    References
    ----------
    Bastos & O'Hagan (2009), doi:10.1198/TECH.2009.08019, for the errors of new runs together, which tell the scale.

    Examples
    --------
    ::

        runs = uq.run(simulator, uq.verification_design(posterior, 20, rng=1))
        correction = uq.correct(posterior, runs, rng=1)
        print(correction)
        posterior = correction.posterior
    """
    check_posterior(posterior, "correct")
    problem = posterior.hierarchy.problem if posterior.subjects else posterior.single
    generator = as_generator(rng)
    verification = verify(posterior, ensemble, rng=0)
    surrogate = with_runs(problem.simulated, completed(ensemble), rescaled=True)
    if surrogate is None:
        more = " verify(...).summary() has weights that do it." if verification.weights is not None else ""
        raise InputError(
            f"correct: this {_named(problem.simulated)} cannot be conditioned on more runs with its "
            f"hyperparameters as they are.{more} Fit again with these runs (uq.ensemble.combine), and calibrate again."
        )
    given = problem.surrogate
    whole = replace(given, response=surrogate) if isinstance(given, Superposition) else surrogate
    corrected = problem.with_surrogate(whole).sample(sampler, rng=generator)
    return Correction.between(posterior, corrected, verification)


def _named(surrogate: Surrogate) -> str:
    """Return the type of a surrogate; of a chain those of its members too."""
    name = type(surrogate).__name__
    if not isinstance(surrogate, Chain):
        return name
    return f"{name} ({', '.join(f'{key}: {type(one).__name__}' for key, one in surrogate.members.items())})"

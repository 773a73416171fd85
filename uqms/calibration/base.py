"""What every calibration problem offers: one subject, several parts and a population look alike from here.

Samplers, starting points, tempering, the posterior, its checks and diagnostics ask a problem for what is here, and do
not ask what kind of problem it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, final

import numpy as np
import xarray as xr

from uqms import _checks as check
from uqms._teaching import missing, taught
from uqms._threads import single_threaded
from uqms._typing import Array, ArrayLike, Ints, RandomState, as_generator
from uqms.calibration.capabilities import Kind, limitations, refuse
from uqms.calibration.conditioned import ConditionedPrior
from uqms.parameters import ParameterSpace, Prior
from uqms.parameters.functions import NumPyFunctions

if TYPE_CHECKING:
    import pymc as pm

    from uqms.calibration.checks import Sampled
    from uqms.calibration.constraints import Constraint
    from uqms.calibration.context import Linearised
    from uqms.calibration.mode import Mode
    from uqms.calibration.posterior import Posterior
    from uqms.calibration.samplers import NUTS, Sampler
    from uqms.calibration.single import SingleCalibration

__all__ = [
    "MASS_CUT_LIMIT",
    "Derived",
    "DerivedQuantities",
    "Expansion",
    "LeftOut",
    "Piece",
    "Problem",
]

type Expansion = Literal["measured", "first-order", "links", "outputs", "none"]

MASS_CUT_LIMIT = 0.01


@taught
@final
@dataclass(frozen=True)
class Derived:
    """A quantity computed from the parameters, with its unit.

    Parameters
    ----------
    function
        From a mapping of parameter name to draws (an array) to an array of the same shape.
    unit, description
        For tables and figures.

    Examples
    --------
    >>> Derived(lambda p: p["beta"] / p["gamma"], description="basic reproduction number").unit
    ''
    """

    function: Callable[[Mapping[str, Any]], Any]
    unit: str = ""
    description: str = ""


type DerivedQuantities = Mapping[str, Derived | Callable[[Mapping[str, Any]], Any]]
"""Derived quantities as they are given: by name, each `Derived` or a plain function."""


class Piece(NamedTuple):
    """What belongs to one surrogate: all of a `SingleCalibration`, one part of a `JointCalibration`.

    Attributes
    ----------
    name
        Of the part, "" for a calibration of one surrogate.
    problem
        The part itself.
    theta, latents, h
        Its part of the draws that were given, under its own names: by name (S,), (S, latents), (S,).
    columns
        Places of its parameters among those of the whole.
    rows
        Places of its measurements among those of the whole.
    parts
        Names of the parts that it is, several when they have one surrogate.
    """

    name: str
    problem: "SingleCalibration"
    theta: dict[str, Any]
    latents: Any
    h: Any
    columns: Ints
    rows: Ints
    parts: tuple[str, ...] = ("",)


class LeftOut(NamedTuple):
    """What draws say of the data when a part of them is left out: a measurement, or a subject.

    Attributes
    ----------
    joint
        log p(data | draw), (S,).
    terms
        log p(the part | all others, draw), (S, n).
    h
        Hyperparameter draw of each, (S,), of several surrogates (S, parts).
    labels
        Coords of the n parts, first their dim.
    """

    joint: Array
    terms: Array
    h: Ints
    labels: Mapping[str, Any]


# What users call or read of a calibration.
PUBLIC = (
    "conditioned_prior",
    "constraints",
    "data",
    "derived",
    "expansion_loss",
    "experiments",
    "fixed",
    "kind",
    "latents",
    "limitations",
    "log_likelihood",
    "mass_cut",
    "maximum_a_posteriori",
    "model",
    "observations",
    "parameters",
    "parts",
    "population",
    "prior_draws",
    "priors",
    "sample",
    "simulate",
    "space",
    "subjects",
    "surrogate",
    "with_surrogate",
    "with_values",
)
# Names of other libraries, and what is meant here.
ELSEWHERE = {
    "fit": "it is problem.sample(uq.NUTS(), rng=1)",
    "run": "it is problem.sample(uq.NUTS(), rng=1)",
    "calibrate": "it is problem.sample(uq.NUTS(), rng=1)",
    "solve": "it is problem.sample(uq.NUTS(), rng=1)",
    "infer": "it is problem.sample(uq.NUTS(), rng=1)",
    "optimize": "it is problem.maximum_a_posteriori()",
    "map": "it is problem.maximum_a_posteriori()",
    "find_MAP": "it is problem.maximum_a_posteriori()",
    "predict": "it is a method of the posterior: problem.sample(rng=1).predict()",
    "summary": "it is a method of the posterior: problem.sample(rng=1).summary()",
    "verdict": "it belongs to the posterior: problem.sample(rng=1).verdict",
    "posterior": "it is returned by problem.sample(uq.NUTS(), rng=1)",
    "logp": "it is problem.log_likelihood(theta)",
    "loglik": "it is problem.log_likelihood(theta)",
    "prior": "it is problem.space, or problem.priors by name",
}


@taught
class Problem(ABC):
    """A calibration problem, whoever's parameters it infers.

    Attributes
    ----------
    kind
        "one" subject, several "parts", or a "population".
    space
        Parameters with their priors.
    fixed, constraints
        Parameters that are held at a number, and inequalities that parameters have to fulfil.
    derived
        Quantities that are computed from the parameters.
    mass_cut
        Mass of the prior outside of the design box.
    prior_predictive_draws
        How many draws of the prior are simulated for a posterior's group "prior_predictive".
    """

    kind: ClassVar[Kind]
    prior_predictive_draws: ClassVar[int] = 500
    space: ParameterSpace
    fixed: dict[str, float]
    constraints: tuple["Constraint", ...]
    derived: Mapping[str, "Derived"]
    mass_cut: float

    @property
    @abstractmethod
    def parameters(self) -> tuple[str, ...]:
        """Names of the inferred parameters, without noise and discrepancy."""

    @property
    @abstractmethod
    def priors(self) -> dict[str, Prior]:
        """Prior of everything that is inferred and has one, noise and discrepancy included, of each alone."""

    @property
    @abstractmethod
    def conditioned_prior(self) -> ConditionedPrior:
        """The joint prior, restricted to where the surrogate was trained."""

    @property
    @abstractmethod
    def latents(self) -> int:
        """Number of standard normal latents that are sampled beside the parameters."""

    @property
    @abstractmethod
    def named_parts(self) -> Mapping[str, "SingleCalibration"]:
        """The data by part; of a problem without parts one, called ""."""

    @abstractmethod
    def limits(self, name: str) -> tuple[float, float]:
        """Return the interval that the prior of a quantity is conditioned on."""

    @abstractmethod
    def unit_of(self, name: str) -> str:
        """Return the unit of an inferred quantity."""

    @abstractmethod
    def pieces(self, theta: Mapping[str, Any], latents: Any = None, h: Any = None) -> list["Piece"]:
        """Return what belongs to each surrogate, with its part of the draws."""

    @abstractmethod
    def log_likelihood(self, theta: Mapping[str, ArrayLike], latents: ArrayLike | None = None) -> Array:
        """Return log p(observations | parameters, latents), shape (...), of many values at once."""

    @abstractmethod
    def simulate(self, theta: Mapping[str, ArrayLike], rng: RandomState, latents: ArrayLike | None = None) -> Array:
        """Draw new observations (S, R)."""

    @abstractmethod
    def with_values(self, values: Array) -> Self:
        """Return the same problem with other measured values (R,)."""

    @abstractmethod
    def model(self) -> "pm.Model":
        """Return the PyMC model."""

    @abstractmethod
    def sample(self, sampler: "Sampler | None" = None, *, rng: RandomState | None = None) -> "Posterior":
        """Draw from the posterior; of one subject and of parts see also `refit_discrepancy`."""

    @abstractmethod
    def linearised(self, sampled: "Sampled") -> "Linearised":
        """Return the problem linearised at a few draws, as the checks of a verdict look at it."""

    def __dir__(self) -> list[str]:
        """List what users of a calibration call or read."""
        return sorted(one for one in PUBLIC if hasattr(self, one) and (one != "parts" or self.kind == "parts"))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise missing(type(self), "A calibration", name, ELSEWHERE, PUBLIC)

    # ------------------------------------------------------- what a posterior asks; a population has answers of its own
    @property
    def subject_labels(self) -> tuple[str, ...]:
        """Labels of the subjects; none where there is one."""
        return ()

    @property
    def auxiliary(self) -> tuple[str, ...]:
        """Names in `priors` that stand for other quantities, which tables have in their place."""
        return ()

    @property
    def described(self) -> dict[str, str]:
        """What the posterior's file says of the problem beyond what it says of any."""
        return {}

    def latents_inside(self, theta: Mapping[str, Array], latents: Array, rng: np.random.Generator) -> Array:
        """Return the latents (S, latents) with those that no data inform drawn inside of the design box."""
        return latents

    def with_gradients(self, sampler: "NUTS", seed: int) -> tuple["Problem", xr.DataTree] | None:
        """Return the problem as it was sampled, and its draws by a sampler with gradients; None for the usual way."""
        return None

    def left_out(self, theta: Mapping[str, Array], latents: Array, rng: np.random.Generator) -> LeftOut | None:
        """Return what draws (S,) say of the data less a part; None where a part is a measurement."""
        return None

    def correlations(self, theta: Mapping[str, Array]) -> dict[str, Array]:
        """Return what is computed of draws of any shape beside derived quantities: correlations of random effects."""
        return {}

    def of_subjects(self, theta: Mapping[str, Array], latents: Array, shape: tuple[int, int]) -> dict[str, xr.Dataset]:
        """Return groups of draws of each subject, dims (chain, draw, subject)."""
        return {}

    def new_measurements(self, posterior: "Posterior", rng: np.random.Generator) -> tuple[Array, Ints] | None:
        """Return new measurements (chain, few draws, R) given the data, and which draws; None for the usual way."""
        return None

    def prior_draws(self, n: int, rng: RandomState) -> dict[str, Array]:
        """Return n draws of every inferred quantity from its prior, conditioned as in the calibration."""
        return self.conditioned_prior.draw(n, as_generator(rng))

    def with_wider_noise(self, factor: float) -> "Problem":
        """Return the problem with noise sds that are `factor` times as large; itself where that is not known."""
        return self

    @property
    def limitations(self) -> dict[str, str]:
        """What this calibration cannot do, by call: why, and what to do instead."""
        return limitations(self)

    @single_threaded
    def maximum_a_posteriori(self, *, starts: int = 8, rng: RandomState | None = None) -> "Mode":
        """Return the parameters at which the posterior density is largest, in a second or less.

        A point says nothing of uncertainty: use it to look, or to start something else. For intervals, `sample`.

        Parameters
        ----------
        starts
            Points that the search starts from; they are spread as the posterior is.
        rng
            Whole number or generator.

        Returns
        -------
        Mode
            The parameters, the log-density there, and whether the starts agree.

        Raises
        ------
        InputError
            When `starts` is no whole number of at least 1; of a population, whose mode misleads.
        InitError
            When the likelihood admits no draw of the prior.
        """
        from uqms.calibration.mode import maximum_a_posteriori

        refuse(self, "maximum_a_posteriori")
        check.whole("maximum_a_posteriori", "starts", starts)
        return maximum_a_posteriori(self, int(starts), as_generator(rng))

    def on_the_real_line(self, points: Mapping[str, Array]) -> Array:
        """Return `starting_points` (n, free variables) in unconstrained space, in the order of the PyMC model."""
        from uqms.calibration.bridge import real_lines

        lines = real_lines(self.conditioned_prior)
        columns = [line.point(points[name], NumPyFunctions, points) for name, line in lines.items()]
        return np.column_stack([*columns, points["latents"]])

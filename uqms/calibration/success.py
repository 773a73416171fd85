"""Where runs fail: the probability of success as a part of the prior, and the posterior's mass there.

==========  ======================================================================  ======
symbol      meaning                                                                 shape
==========  ======================================================================  ======
S(theta)    probability that a run at theta gives its outputs; of several           (n,)
            conditions the smallest one, since what was measured is there at all
P           parameters that S depends on                                            ()
==========  ======================================================================  ======

A surrogate is trained on the runs that succeeded. Where runs fail it extrapolates, and contains no
information on what the absence of an answer means. With failures="report" the posterior's mass in that region is
reported; with "impossible" the prior is p(theta) S(theta) / Z, as what was measured did not fail. Of members of a
chain S is the mean over what their links pass on, `OfMembers`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np

from uqms._typing import Array
from uqms.calibration.checks import Check, Status
from uqms.errors import InputError
from uqms.parameters import Box
from uqms.surrogates import Chain
from uqms.surrogates.protocol import Surrogate

if TYPE_CHECKING:
    pass

__all__ = ["OfMembers", "Success", "check_failures", "read_success"]

FAILING = 0.05  # of the posterior's mass, from which on the verdict warns
STEP = 1e-4
WHERE = "Compare the draws with uq.SuccessProbability().fit(ensemble), the probability of success at any inputs."


@final
@dataclass(frozen=True, eq=False)
class Success:
    """Probability of success as a function of the parameters of a calibration."""

    fitted: Any  # FittedProbability, or of the user's own: domain, log_probability_at(u)
    names: tuple[str, ...]  # parameters that it depends on
    fixed: Mapping[str, float]
    condition_names: tuple[str, ...]
    conditions: Array  # (K, c)

    @property
    def box(self) -> Box:
        """Where it was learned."""
        box: Box = self.fitted.domain
        return box

    def log(self, theta: Mapping[str, Any]) -> Array:
        """Return log S of parameters of one shape (...)."""
        lead = np.broadcast_shapes(*(np.shape(theta[name]) for name in self.names))
        values = [np.broadcast_to(theta[name], lead).ravel() for name in self.names]
        if not values[0].size:
            return np.zeros(lead)
        return np.min(self._each(np.stack(values, axis=-1)), axis=1).reshape(lead)

    def _each(self, x: Array) -> Array:
        """Return the log probability (n, K) at parameters x (n, P), under every condition."""
        return np.asarray(self.fitted.log_probability_at(self._unit(x)), dtype=np.float64)

    def _unit(self, x: Array) -> Array:
        inputs = np.empty((len(x), len(self.conditions), self.box.d))
        for column, name in enumerate(self.box.names):
            if name in self.names:
                inputs[..., column] = x[:, self.names.index(name), None]
            elif name in self.fixed:
                inputs[..., column] = self.fixed[name]
            else:
                inputs[..., column] = self.conditions[:, self.condition_names.index(name)]
        return np.asarray(self.box.to_unit(inputs))

    def log_and_slope(self, x: Array) -> tuple[float, Array]:
        """Return log S at parameters x (P,), and its derivative (P,)."""
        u = self._unit(x[None])[0]
        value, slope, at = min((self._at(one) for one in u), key=lambda found: found[0])
        stretch = np.asarray(self.box.unit_gradient(self.box.from_unit(at)))
        columns = [self.box.names.index(name) for name in self.names]
        return value, (slope * stretch)[columns]

    def _at(self, u: Array) -> tuple[float, Array, Array]:
        """Return the log probability at one input (d,), its derivative, and the input."""
        if hasattr(self.fitted, "log_and_slope"):
            return (*self.fitted.log_and_slope(u), u)
        steps = STEP * np.eye(self.box.d)
        found = np.asarray(self.fitted.log_probability_at(np.concatenate([u[None], u + steps, u - steps])))
        return float(found[0]), (found[1 : 1 + self.box.d] - found[1 + self.box.d :]) / (2.0 * STEP), u


@final
@dataclass(frozen=True, eq=False)
class OfMembers:
    """Probability that runs of some members of a chain give their outputs, by the inputs of the chain.

    Members fail independently of each other given their inputs. What links pass on is uncertain: it is the mean over
    the errors of the surrogates.
    """

    chain: Chain
    members: Mapping[str, Any]  # FittedProbability, or of the user's own, of each that may fail

    @cached_property
    def domain(self) -> Box:
        """The design box of those inputs of the chain that decide."""
        decided = {name for member in self.members for name in self._decided(member)}
        return self.chain.domain.select([name for name in self.chain.domain.names if name in decided])

    def _decided(self, member: str) -> tuple[str, ...]:
        return self.chain.inputs_of(f"{member}.{next(iter(self.chain.members[member].layouts))}")

    def log_probability_at(self, u: Array) -> Array:
        """Return the log probability (...) at inputs (..., d) of `domain` in its unit cube."""
        names, rows = self.domain.names, np.asarray(u, dtype=np.float64).reshape(-1, self.domain.d)
        whole = np.full((len(rows), self.chain.domain.d), 0.5)  # inputs that do not decide are anything
        whole[:, [self.chain.domain.names.index(name) for name in names]] = rows
        weights = np.asarray(self.chain.scores(whole[:1]).log_weights)  # of the chain's hyperparameter draws (H,)
        weights = weights - np.logaddexp.reduce(weights)
        total = np.zeros(len(rows))
        for member, fitted in self.members.items():
            box, v = self.chain.members[member].domain, self.chain.member_inputs(member, whole)
            x = np.asarray(box.from_unit(v))[..., [box.names.index(name) for name in fitted.domain.names]]
            logs = np.asarray(fitted.log_probability_at(np.asarray(fitted.domain.to_unit(x))))
            mean = np.logaddexp.reduce(logs, axis=2) - np.log(logs.shape[2])
            total += mean[0] if len(mean) == 1 else np.logaddexp.reduce(mean + weights[:, None], axis=0)
        return total.reshape(np.shape(u)[:-1])


def read_success(
    given: Any,
    surrogate: Surrogate,
    parameters: tuple[str, ...],
    fixed: Mapping[str, float],
    condition_names: tuple[str, ...],
    conditions: Array,
) -> Success | None:
    """Return the probability of success of a calibration, None when none is given.

    Raises
    ------
    InputError
        When it is none, or depends on other inputs than the surrogate's.
    """
    if given is None:
        return None
    if isinstance(given, Mapping):
        given = _of_members(given, getattr(surrogate, "chain", surrogate))
    _check_fitted(given, "success")
    unknown = [name for name in given.domain.names if name not in surrogate.domain.names]
    if unknown:
        raise InputError(f"success depends on {unknown}; the surrogate's inputs are {list(surrogate.domain.names)}.")
    names = tuple(name for name in parameters if name in given.domain.names)
    if not names:
        raise InputError(f"success depends on none of the parameters {list(parameters)} that are inferred.")
    return Success(given, names, dict(fixed), condition_names, conditions)


def _check_fitted(given: Any, name: str) -> None:
    if not isinstance(getattr(given, "domain", None), Box) or not callable(getattr(given, "log_probability_at", None)):
        raise InputError(
            f"{name} is {given!r}; give what uq.SuccessProbability().fit(ensemble) returns, with the ensemble that "
            "the surrogate was trained on, failed runs included."
        )


def _of_members(given: Mapping[str, Any], chain: Surrogate) -> OfMembers:
    """Return the probability of success of members by the inputs of their chain.

    Raises
    ------
    InputError
        When it is no chain, or a name or an input is none of its members.
    """
    if not isinstance(chain, Chain):
        raise InputError(
            f"success is a mapping, which is for members of a uq.Chain, but the surrogate is a {type(chain).__name__}. "
            "Give uq.SuccessProbability().fit(ensemble) itself."
        )
    unknown = [name for name in given if name not in chain.members]
    if unknown or not given:
        raise InputError(
            f"success names {unknown or 'no member'}; give {{member: uq.SuccessProbability().fit(runs of it)}} with "
            f"members among {', '.join(chain.members)}."
        )
    for name, fitted in given.items():
        _check_fitted(fitted, f"success[{name!r}]")
        names = chain.members[name].domain.names
        if lost := [one for one in fitted.domain.names if one not in names]:
            raise InputError(f"success of {name!r} depends on {lost}; its inputs are {', '.join(names)}.")
    return OfMembers(chain, dict(given))


def _failed(surrogate: Surrogate) -> tuple[int, int, str]:
    """Return how many runs gave no outputs, how many there were, and of which member, of a chain the one with most."""
    each = {"": surrogate} if not isinstance(surrogate, Chain) else dict(surrogate.members)
    counts = {name: int(getattr(one, "attrs", {}).get("runs_failed", "0")) for name, one in each.items()}
    most = max(counts, key=lambda name: counts[name])
    return counts[most], counts[most] + int(getattr(each[most], "runs", 0)), most


def check_failures(
    success: Success | None,
    surrogate: Surrogate,
    theta: Mapping[str, Array],
    kind: str = "one",
    allowed: float | None = None,
) -> Check | None:
    """Return how much of the posterior lies where runs fail; a note when nothing says where that is.

    `allowed` is the prior probability of success where the prior is conditioned on it, None where it is not.
    """
    name = "failed runs"
    if success is None:
        failed, total, member = _failed(surrogate)
        if not failed:
            return None
        fitted = "uq.SuccessProbability().fit(ensemble)"
        return Check(
            name,
            "note",
            failed / total,
            f"{failed} of {total} runs{member and f' of {member!r}'} gave no outputs; "
            "the surrogate is trained on the others only",
            (
                f"Use Calibration(..., success={f'{{{member!r}: {fitted}}}' if member else fitted}). Without it nothing"
                if kind == "one"
                else f"{WHERE} Nothing else"
            )
            + " shows whether the posterior lies where runs fail.",
        )
    p = np.exp(success.log(theta))
    failing, unlikely = float(np.mean(1.0 - p)), float(np.mean(p < 0.5))
    message = (
        f"{unlikely:.1%} of the posterior lies where success is unlikely; a run at a posterior draw fails with "
        f"probability {failing:.1%}"
    )
    if allowed is not None:
        message += f"; the prior is conditioned on success, which has prior probability {allowed:.1%}"
        status: Status = "note" if failing > FAILING else "pass"
        remedy = (
            "Run more points there: the posterior lies at the edge of the region where the simulator works, so it "
            "depends on the position of that edge."
        )
    else:
        status = "warn" if failing > FAILING else "pass"
        remedy = (
            "Repair the simulator and run it there; or pass failures='impossible' if the measured system cannot be "
            "where the simulator fails. The surrogate was trained on runs that succeeded and extrapolates there."
        )
    return Check(name, status, failing, message, remedy)

"""What a multi-fidelity `fit` returns: a surrogate of the highest level."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, cast, final

import numpy as np

from uqms._typing import Array, Ints, RandomState
from uqms.errors import InputError
from uqms.parameters import Box
from uqms.surrogates.adapted import described as kernel_described
from uqms.surrogates.archive import Stored
from uqms.surrogates.cokriging import CoKriging
from uqms.surrogates.fidelity.ladder import Kind, Ladder, LadderDraws, LadderError, Step
from uqms.surrogates.fitting import few_runs
from uqms.surrogates.input_scales import described_scales
from uqms.surrogates.kernel_files import description_of, kernel_of_description
from uqms.surrogates.kernels import Kernel, SquaredExponential, Stationary
from uqms.surrogates.outputs import OutputBasis, score_columns
from uqms.surrogates.pointwise import NamedSurrogate
from uqms.surrogates.process import ScoreProcess, Scores
from uqms.surrogates.run_value import ErrorPart, Observed, RunKind
from uqms.surrogates.stored import (
    agree,
    arrays_of_bases,
    arrays_of_process,
    check_used_up,
    described,
    rebuilt_attrs,
    rebuilt_bases,
    rebuilt_process,
)

__all__ = ["MultiFidelitySurrogate", "noted_alone"]


def noted_alone(names: Sequence[str], gain: Array, error: Array) -> dict[str, str]:
    """Return the attribute of a surrogate that names outputs learned from the highest level alone, and what it gains.

    `gain` and its standard `error` (outputs,) are in nats a left-out run.
    """
    each = zip(names, gain, error, strict=True)
    return {"alone": json.dumps({name: f"{nats:+.2g} ± {se:.1g}" for name, nats, se in each})}


@final
@dataclass(frozen=True, eq=False)
class MultiFidelitySurrogate(NamedSurrogate):
    """The highest of several levels of fidelity, learned from runs of all of them.

    Attributes
    ----------
    domain
        The design box.
    levels
        Names of the levels, the highest last.
    ladder
        The conditioned processes of the levels as arrays.
    bases
        One basis an output, in the scores of the highest level.
    costs
        Cost of a run of each level, where it is known; any unit.
    attrs
        Where it came from: space, design and simulator as JSON; runs by level; whether their designs are nested.
    """

    domain: Box
    levels: tuple[str, ...]
    ladder: Ladder
    bases: tuple[OutputBasis, ...]
    costs: Mapping[str, float] = field(default_factory=dict)
    attrs: Mapping[str, str] = field(default_factory=dict)

    @property
    def process(self) -> ScoreProcess:
        """The process of the highest level, or of all of them together."""
        return self.ladder.top

    @property
    def highest(self) -> Ints:
        """Positions of the runs of the highest level among those of `process`."""
        kernel, x = self.process.kernel, self.process.x
        if isinstance(kernel, CoKriging):
            return np.flatnonzero(kernel.level_of(x) == kernel.levels - 1)
        return np.arange(len(x))

    @property
    def runs(self) -> int:
        """Number of runs of the highest level that it was trained on."""
        return len(self.highest)

    def whole(self, output: str) -> Ints:
        """Return the positions of the runs of the highest level in `process`: all of them gave all of the output."""
        return self.highest

    @property
    def noise(self) -> None:
        """Simulators of several levels are taken as deterministic."""
        return None

    @property
    def nested(self) -> bool:
        """Whether every run of a level has one of the same inputs in the level below."""
        return self.attrs.get("nested") == "yes"

    @property
    def point_estimated(self) -> bool:
        """Whether hyperparameters are single values although the runs of the highest level are few, see `few_runs`."""
        return self.ladder.draws == 1 and self.runs <= few_runs(self.process.kernel, self.domain.d)

    def __repr__(self) -> str:
        counts = [f"{b.name}{list(b.dims) if b.dims else ''} ({b.basis.shape[1]} scores)" for b in self.bases]
        kind = {"linear": "autoregressive", "joint": "joint co-kriging", "nonlinear": "nonlinear"}
        draws = self.ladder.draws
        estimated = f"{draws} members" if draws > 1 else "hyperparameters point-estimated"
        left = self.attrs.get("runs_left_out", "0")
        return (
            f"<MultiFidelitySurrogate: {self.attrs.get('runs', self.runs)} runs ({left} left out) of "
            f"{', '.join(self.domain.names)}, {'nested' if self.nested else 'not nested'} → {', '.join(counts)}; "
            f"{'; '.join([kind.get(self.ladder.steps[-1].kind, 'plain'), *self._chosen()])}, {estimated}>"
        )

    def _chosen(self) -> list[str]:
        """Return in words what the runs have chosen: kernels, scales, and levels that say little of the next."""
        out = []
        steps = self.ladder.steps
        for name, step in zip(self.levels[-len(steps) :], steps, strict=True):
            kernel = step.process.kernel
            if not kernel.plain:
                out.append(f"{name}: {kernel_described(kernel, step.process.ell, self.domain.d)}")
        out += described_scales(self.attrs)
        gains: dict[str, str] = json.loads(self.attrs.get("alone", "{}"))
        columns = zip(self.bases, score_columns(self.bases), strict=True)
        weighed = [j for basis, own in columns if basis.name not in gains for j in own]
        for lower, name, step in zip(self.levels, self.levels[1:], steps[1:], strict=False):
            if step.kind == "linear":
                told = step.process.trend_root[..., 1].any(axis=-1)  # by member and score
                told = told[:, weighed] if step is steps[-1] else told
                if told.size and (share := float(told.mean())) < 1.0:
                    out.append(f"{lower} says something of {name} with probability {share:.2f}")
        top = self.levels[-1]
        return out + [f"{name} from {top} runs alone ({gain} nats a left-out run)" for name, gain in gains.items()]

    def stored(self) -> Stored:
        """Return what a file holds of it: a header of JSON and arrays."""
        arrays = {"log_weights": self.ladder.log_weights}
        for t, step in enumerate(self.ladder.steps):
            arrays |= arrays_of_process(f"level{t}", step.process)
            arrays |= {} if step.below is None else {f"level{t}.below": step.below}
        steps = [
            {"kind": step.kind, "kernel": description_of(step.process.kernel), "drawn": step.drawn}
            for step in self.ladder.steps
        ]
        header = {"ladder": steps, "levels": list(self.levels), "costs": dict(self.costs)}
        return Stored(header | described(self.domain, self.bases, self.attrs), arrays | arrays_of_bases(self.bases))

    @classmethod
    def restored(cls, header: Mapping[str, Any], arrays: dict[str, Array]) -> "MultiFidelitySurrogate":
        """Return the surrogate of which a file holds this; arrays are taken out of the mapping."""
        box = Box.from_dict(header["domain"])
        levels = tuple(str(level) for level in header["levels"])
        log_weights = arrays.pop("log_weights")
        agree("log_weights", log_weights.shape, "H", {})
        steps: list[Step] = []
        for t, one in enumerate(header["ladder"]):
            kind, kernel = one["kind"], _kernel_of_level(one, t, len(levels))
            more = {"joint": len(levels) - 1, "nonlinear": 1}.get(kind, 0)
            process, sizes = rebuilt_process(f"level{t}", kernel, arrays, {"d": box.d + more})
            if process.draws not in (1, len(log_weights)) or (steps and sizes["q"] != steps[0].process.q):
                raise InputError(f"level{t} has another number of members or scores")
            if kind == "linear" and sizes["b"] < 2:
                raise InputError(f"level{t} has no coefficient of the level below")
            below = arrays.pop(f"level{t}.below") if kind == "nonlinear" else None
            if below is not None:
                agree(f"level{t}.below", below.shape, "Hqn", sizes)
            drawn = one["drawn"]
            if type(drawn) is not int or not 0 <= drawn < len(process.x):
                raise InputError(f"level{t} has {drawn!r} drawn runs")
            steps.append(Step(process, kind, below, drawn))
        if len(steps) != (1 if steps[0].kind == "joint" else len(levels)):
            raise InputError(f"{len(steps)} processes for {len(levels)} levels")
        costs = MappingProxyType({str(level): float(cost) for level, cost in header["costs"].items()})
        ladder = Ladder(tuple(steps), log_weights)
        runs = cls(box, levels, ladder, ()).runs
        bases = rebuilt_bases(header, arrays, runs)
        check_used_up(bases, arrays, ladder.top.q)
        return cls(box, levels, ladder, bases, costs, rebuilt_attrs(header))

    @property
    def compiled_error(self) -> LadderError | None:
        """What compiled code reads of the mean and joint error of the scores; None where a level is not linear."""
        return self.ladder.compiled_error

    def scores(self, u: Array) -> Scores:
        """Return mean (H, ..., k, q) and covariance between inputs (H, ..., q, k, k) at `u` (..., k, d)."""
        return self.ladder.scores(np.asarray(u, dtype=np.float64))

    def marginal_scores(self, u: Array) -> Scores:
        """Return mean (H, ..., k, q) and variance (H, ..., q, k) at `u` (..., k, d), for many unrelated inputs."""
        return self.ladder.scores(np.asarray(u, dtype=np.float64), diagonal=True)

    def scores_reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return the derivative (k, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar) at `u` (k, d)."""
        return self.ladder.reverse(u, mean_bar, covariance_bar)

    def functions(self, n: int, rng: RandomState) -> LadderDraws:
        """Return n draws of the whole function of scores."""
        return self.ladder.functions(n, rng)

    @property
    def undrawn(self) -> "MultiFidelitySurrogate":
        """The surrogate given its simulated runs only: what members draw of a level is part of its error here."""
        return replace(self, ladder=self.ladder.simulated()) if any(one.drawn for one in self.ladder.steps) else self

    def error_parts(self, u: Array, h: Ints) -> tuple[list[ErrorPart], list[RunKind]]:
        """Return what each level adds to the error at u (S, K, d) with members h (S,), and a kind of runs by level.

        A run of a level of a nested design comes with runs of the lower ones. The variance of the coefficient of the
        level below times the error of that level is left out: runs reduce it too, but it is of second order.
        """
        parts = self.ladder.error_parts(u, h)
        kinds = []
        for t, level in enumerate(self.levels):
            if self.ladder.steps[0].kind == "joint":
                x, more = self.process.x, len(self.levels) - 1
                observed: tuple[Observed, ...] = (Observed(0, tuple(np.eye(more + 1)[t, 1:].tolist())),)
                known = x[cast(CoKriging, self.process.kernel).level_of(x) == t, more:]
            else:
                step = self.ladder.steps[t]
                observed = tuple(Observed(r) for r in range(t + 1))
                known = step.process.x[: len(step.process.x) - step.drawn, -self.domain.d :]
            sources = tuple(range(t + 1)) if len(observed) > 1 else ()
            kinds.append(RunKind((level,), self.domain, observed, known, self, sources, self.costs.get(level)))
        return parts, kinds


def _kernel_of_level(one: Mapping[str, Any], t: int, levels: int) -> Kernel:
    """Return the kernel of a level, after a check that it is one of its kind."""
    kind: Kind = one["kind"]
    kernel = kernel_of_description(one["kernel"])
    terms = kernel.terms if isinstance(kernel, Stationary) else ()
    own = kernel.layout(1) is not None  # of what is new in a level
    right = {
        "plain": t == 0 and own,
        "joint": t == 0 and isinstance(kernel, CoKriging) and kernel.levels == levels,
        "linear": t > 0 and own,
        "nonlinear": t > 0 and [len(term) for term in terms] == [2, 1] and terms[0][0] == SquaredExponential(),
    }
    if not right.get(kind, False):
        raise InputError(f"level{t} is {kind!r} with the kernel {kernel}")
    return kernel

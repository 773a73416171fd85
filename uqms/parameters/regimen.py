"""Doses of one patient as a frozen value, and superposition: the response of a linear system to all of them.

A linear system with the response f(t) to a unit dose at time 0 responds to doses a_j at times t_j with the sum of
a_j f(t - t_j). An infusion of the duration D is the mean of f over the times since each part of it entered.

==========  =====================================================  ==========
symbol      meaning                                                shape
==========  =====================================================  ==========
t           times of the response                                  (n,)
t_j, a_j    time and amount of each dose                           (J,)
tau         time since a dose, t - t_j; before the dose negative   (n,)
==========  =====================================================  ==========
"""

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, NoReturn, cast, final

import numpy as np
from numpy.typing import ArrayLike

from uqms import _checks as check
from uqms._teaching import taught
from uqms._typing import Array, Bools
from uqms.errors import InputError

__all__ = ["CONDITIONS", "Dose", "Regimen", "counts", "elapsed", "joined"]

type UnitResponse = Callable[[Array], ArrayLike]

ROUNDING = 1e-9  # of a time: a measurement so little before a dose is at the dose
GAUSS = 16  # points of the quadrature in each panel
MAX_PANELS = 1024
FIRST_BLOCK = 16  # past doses of a steady state that are added at first; each further block is twice as long
MAX_PAST = 2**17  # past doses of a steady state
DOSES = 100_000
CONDITIONS = ("dose", "interval", "duration", "doses")  # what a regular regimen is, as inputs of a simulator


class Dose(NamedTuple):
    """One event of a regimen.

    Attributes
    ----------
    time, amount
        When the dose begins, and how much it is.
    duration
        Of an infusion with a constant rate; 0 for a bolus.
    route
        Label of where it enters, "" where there is one route only.
    interval
        Of a steady state: the same dose was given every `interval` before; 0 otherwise.
    """

    time: float
    amount: float
    duration: float
    route: str
    interval: float


def elapsed(times: Array, dose: float) -> Array:
    """Return the time since a dose; a difference that rounding may have made counts as 0."""
    tau = times - dose
    close = ROUNDING * np.maximum(1.0, np.maximum(np.abs(times), abs(dose)))
    return np.where(np.abs(tau) <= close, 0.0, tau)


def counts(times: Array, window: tuple[float, float]) -> Bools:
    """Return at which times a dose counts that does so from one time on and until another, where it does not."""
    since, until = (np.zeros_like(times) if np.isinf(one) else elapsed(times, one) for one in window)
    return (since >= 0.0) & ((until < 0.0) if np.isfinite(window[1]) else True)


@taught
@final
@dataclass(frozen=True)
class Regimen:
    """All doses of one patient: times, amounts, infusions, routes and steady state.

    Use it to state what a patient received, or is to receive: `Regimen.single` and `Regimen.repeated` make the usual
    ones, ``+`` joins two, and `Observations.from_events` reads those of many patients from a table. Equal regimens are
    equal values, which can be keys of a dict.

    Parameters
    ----------
    times
        When each dose begins, shape (J,); in the unit of time of the simulator.
    amounts
        How much each dose is, shape (J,) or one number; in the unit of amount of the simulator.
    durations
        Durations of infusions with a constant rate, shape (J,) or one number; 0 for a bolus, an oral dose included.
    routes
        Label of where each dose enters, such as "oral" or "iv"; "" where there is one route only.
    intervals
        Of doses at steady state, the interval: the same dose was given every so often before, for ever. 0 otherwise.
    resets
        Times at which the system starts again, empty of what was given before; a dose at such a time counts after it. A
        steady state that begins at a reset says nothing of earlier times (SS 1 of NONMEM).
    rates
        In place of `durations`: rates of infusion, shape (J,) or one number; 0 for a bolus.

    Raises
    ------
    InputError
        No dose, numbers that are not finite, amounts that are not positive, negative durations, rates or intervals,
        lists of different lengths, rates and durations both.

    Examples
    --------
    >>> Regimen.repeated(100.0, every=12.0, doses=6)
    Regimen(100 every 12, 6 doses from 0 to 60)
    >>> Regimen.single(500.0, duration=1.0, route="iv") + Regimen.repeated(250.0, every=8.0, doses=3, start=12.0)
    Regimen(500 at 0 over 1 (iv); 250 every 8, 3 doses from 12 to 28)
    """

    times: tuple[float, ...]
    amounts: tuple[float, ...]
    durations: tuple[float, ...] = (0.0,)
    routes: tuple[str, ...] = ("",)
    intervals: tuple[float, ...] = (0.0,)
    resets: tuple[float, ...] = ()
    rates: InitVar[Any] = None

    def __post_init__(self, rates: Any) -> None:
        times = _numbers("times", self.times)
        if not len(times):
            raise InputError("Regimen: there is no dose; give the time and amount of one or more.")
        if len(times) > DOSES:
            raise InputError(f"Regimen: there are {len(times)} doses; at most {DOSES} are read.")
        amounts = _filled("amounts", _numbers("amounts", self.amounts), len(times))
        _lowest("amounts", amounts, "a dose is above 0; leave out a dose that was not given", strict=True)
        durations = _filled("durations", _numbers("durations", self.durations), len(times))
        if rates is not None:
            if durations.any():
                raise InputError("Regimen: durations and rates are both given; duration = amount / rate, give one.")
            given = _filled("rates", _numbers("rates", rates), len(times))
            _lowest("rates", given, "give amount per time, or 0 for a bolus")
            durations = np.where(given > 0.0, amounts / np.where(given > 0.0, given, 1.0), 0.0)
        _lowest("durations", durations, "give the time that an infusion takes, or 0 for a bolus")
        intervals = _filled("intervals", _numbers("intervals", self.intervals), len(times))
        _lowest("intervals", intervals, "give the time between doses at steady state, or 0 where there is none")
        labels: Any = self.routes
        routes = (labels,) if isinstance(labels, str) else tuple(labels)
        if any(not isinstance(route, str) for route in routes):
            raise InputError(f"Regimen: routes is {self.routes!r}; give labels, such as 'oral' or 'iv'.")
        routes = _filled_labels(routes, len(times))
        order = sorted(range(len(times)), key=lambda j: (times[j], routes[j], intervals[j], amounts[j], durations[j]))
        for name, column in (
            ("times", times),
            ("amounts", amounts),
            ("durations", durations),
            ("intervals", intervals),
        ):
            # Adding 0.0 makes -0.0 the same number as 0.0, so that equal regimens have the same bytes.
            object.__setattr__(self, name, tuple(float(column[j]) + 0.0 for j in order))
        object.__setattr__(self, "routes", tuple(routes[j] for j in order))
        given = _numbers("resets", self.resets) if np.size(self.resets) else np.zeros(0)
        object.__setattr__(self, "resets", tuple(float(one) + 0.0 for one in np.unique(given)))

    @classmethod
    def single(
        cls,
        amount: float,
        *,
        time: float = 0.0,
        duration: float = 0.0,
        route: str = "",
        steady_state: float = 0.0,
    ) -> "Regimen":
        """Return one dose.

        Parameters
        ----------
        amount
            How much.
        time
            When it begins.
        duration
            Of an infusion; 0 for a bolus.
        route
            Label of where it enters.
        steady_state
            Interval at which the same dose was given before, for ever; 0 where it was not.

        Raises
        ------
        InputError
            As for `Regimen`.

        Examples
        --------
        >>> Regimen.single(320.0)
        Regimen(320 at 0)
        """
        return cls((time,), (amount,), (duration,), (route,), (steady_state,))

    @classmethod
    def repeated(
        cls,
        amount: float,
        *,
        every: float,
        doses: int,
        start: float = 0.0,
        duration: float = 0.0,
        route: str = "",
        steady_state: bool = False,
    ) -> "Regimen":
        """Return equal doses at a constant interval.

        Parameters
        ----------
        amount
            How much each dose is.
        every
            Interval between the beginnings of two doses.
        doses
            How many.
        start
            Time of the first dose.
        duration
            Of each infusion; 0 for a bolus.
        route
            Label of where the doses enter.
        steady_state
            Whether the same doses were given before `start` too, for ever.

        Raises
        ------
        InputError
            An interval that is not positive, fewer than one dose, and as for `Regimen`.

        Examples
        --------
        >>> Regimen.repeated(50.0, every=24.0, doses=3, duration=0.5, steady_state=True)
        Regimen(50 every 24 over 0.5, 3 doses from 0 to 48, steady state)
        """
        interval = check.positive("Regimen.repeated", "every", every)
        check.whole("Regimen.repeated", "doses", doses)
        begin = check.number("Regimen.repeated", "start", start)
        count = int(doses)
        if count > DOSES:
            raise InputError(f"Regimen: there are {count} doses; at most {DOSES} are read.")
        past = (interval if steady_state else 0.0, *([0.0] * (count - 1)))
        at = tuple(begin + interval * k for k in range(count))
        return cls(at, (amount,), (duration,), (route,), past)

    def __mul__(self, other: object) -> NoReturn:
        """Raise: other amounts are `scaled`.

        Raises
        ------
        InputError
            Always.
        """
        raise InputError(f"Regimen: it cannot be multiplied; regimen.scaled({other!r}) has other amounts.")

    __rmul__ = __mul__

    def __add__(self, other: "Regimen") -> "Regimen":
        """Return the doses of both; what was given twice at one time counts twice.

        Raises
        ------
        InputError
            When `other` is not a regimen.
        """
        if not isinstance(other, Regimen):
            raise InputError(
                f"Regimen: a {type(other).__name__} cannot be added; add a regimen, such as "
                "uq.Regimen.single(4.0, time=12.0)."
            )
        return Regimen(
            self.times + other.times,
            self.amounts + other.amounts,
            self.durations + other.durations,
            self.routes + other.routes,
            self.intervals + other.intervals,
            self.resets + other.resets,
        )

    def __radd__(self, other: object) -> "Regimen":
        """Return the regimen where `sum` adds it to 0.

        Raises
        ------
        InputError
            When `other` is not 0.
        """
        return self if isinstance(other, int) and other == 0 else self + cast("Regimen", other)

    def shifted(self, by: float) -> "Regimen":
        """Return the same doses, each later by `by`.

        Examples
        --------
        >>> Regimen.single(10.0).shifted(24.0)
        Regimen(10 at 24)
        """
        step = check.number("Regimen.shifted", "by", by)
        times, resets = (tuple(t + step for t in one) for one in (self.times, self.resets))
        return replace(self, times=times, resets=resets)

    def scaled(self, factor: float) -> "Regimen":
        """Return the same doses with amounts multiplied by `factor`.

        Examples
        --------
        >>> Regimen.repeated(100.0, every=12.0, doses=2).scaled(0.5)
        Regimen(50 every 12, 2 doses from 0 to 12)
        """
        by = check.positive("Regimen.scaled", "factor", factor)
        return replace(self, amounts=tuple(by * a for a in self.amounts))

    @property
    def conditions(self) -> dict[str, float]:
        """Amount ("dose"), "interval", "duration" and number ("doses") of equal doses at a constant interval from 0.

        The interval of one dose is 0.

        Raises
        ------
        InputError
            When doses differ, are at irregular intervals, do not begin at 0 or are at steady state, and when there is a
            reset after the first dose.

        Examples
        --------
        >>> Regimen.repeated(100.0, every=12.0, doses=6).conditions
        {'dose': 100.0, 'interval': 12.0, 'duration': 0.0, 'doses': 6.0}
        """
        doses, steps = self.doses, np.diff(self.times)
        problem = ""
        if len({dose[1:4] for dose in doses}) > 1:
            problem = "its doses differ"
        elif any(self.intervals):
            problem = "it is at steady state"
        elif len(steps) and np.ptp(steps) > ROUNDING * max(1.0, abs(self.times[-1])):
            problem = f"its intervals are between {steps.min():g} and {steps.max():g}"
        elif abs(self.times[0]) > ROUNDING:
            problem = f"it begins at {self.times[0]:g}"
        elif self.resets and self.resets[-1] > self.times[0]:
            problem = f"there is a reset at {self.resets[-1]:g}"
        if problem:
            raise InputError(
                f"Regimen: it is not regular, {problem}: {self!r}. Shift its times so that the first dose is at 0 "
                "(.shifted), or leave it out; a linear system takes any regimen: uq.Superposition."
            )
        every = float(steps.mean()) if len(steps) else 0.0
        return dict(zip(CONDITIONS, (self.amounts[0], every, self.durations[0], float(len(doses))), strict=True))

    def with_conditions(self, **conditions: float) -> "Regimen":
        """Return a regular regimen with another "dose", "interval", "duration" or number of "doses".

        Use it in a simulator with these inputs, so that one surrogate serves patients with different regimens. A
        number of doses that is not whole has a smaller last dose, so that outputs are continuous in it: with 3.4, the
        fourth dose has 0.4 of the amount.

        Parameters
        ----------
        **conditions
            The new values: amount of each dose, interval between two doses, duration of each infusion, number of doses;
            in the units of the simulator.

        Raises
        ------
        InputError
            As for `conditions`; for other names, numbers that are not positive (a duration may be 0), and an interval
            of 0 between several doses.

        Examples
        --------
        >>> usual = Regimen.repeated(100.0, every=12.0, doses=6)
        >>> usual.with_conditions(dose=50.0, doses=2)
        Regimen(50 every 12, 2 doses from 0 to 12)
        """
        if unknown := sorted(set(conditions) - set(CONDITIONS)):
            raise InputError(f"Regimen.with_conditions: got {unknown}; give some of {', '.join(CONDITIONS)}.")
        one = self.conditions | {
            name: check.number("Regimen.with_conditions", name, value) for name, value in conditions.items()
        }
        whole = int(np.ceil(one["doses"] - ROUNDING))
        if whole < 1 or whole > DOSES:
            raise InputError(f"Regimen: doses is {one['doses']:g}; give a number above 0 and up to {DOSES}.")
        if whole > 1 and one["interval"] <= 0.0:
            raise InputError(
                f"Regimen: {one['doses']:g} doses at an interval of {one['interval']:g}; give the interval, in "
                "conditions or in the usual regimen."
            )
        amounts = np.full(whole, one["dose"])
        amounts[-1] *= min(one["doses"] - (whole - 1), 1.0)
        times = one["interval"] * np.arange(whole)
        return Regimen(tuple(times), tuple(amounts), (one["duration"],), self.routes[:1])

    @property
    def doses(self) -> tuple[Dose, ...]:
        """The doses in order of time; those before a steady state are not listed."""
        columns = zip(self.times, self.amounts, self.durations, self.routes, self.intervals, strict=True)
        return tuple(Dose(*one) for one in columns)

    @property
    def windows(self) -> tuple[tuple[float, float], ...]:
        """From when and until when each dose counts, those before it at a steady state included: between two resets."""
        resets = np.array(self.resets)
        after = np.searchsorted(resets, self.times, side="right")
        edges = np.concatenate([[-np.inf], resets, [np.inf]])
        return tuple((float(edges[i]), float(edges[i + 1])) for i in after)

    @cached_property
    def number(self) -> float:
        """A whole number that identifies the regimen, the same in every process.

        It is made of the contents by SHA-256, below 2**53, and is the coordinate "regimen" of observations.
        """
        columns = (*self.times, *self.amounts, *self.durations, *self.intervals, *self.resets)
        numbers = struct.pack(f"<{len(columns)}d", *columns)
        text = "\x1f".join(self.routes).encode()
        return float(int.from_bytes(hashlib.sha256(numbers + text).digest()[:8], "big") >> 11)

    def __float__(self) -> float:
        """Return `number`, so that a regimen can stand among coordinates: ``coords={"regimen": regimen}``."""
        return self.number

    def __len__(self) -> int:
        return len(self.times)

    def __repr__(self) -> str:
        parts, rest = [], list(self.doses)
        while rest:
            run = _series(rest)
            parts.append(_described(run))
            del rest[: len(run)]
        if len(parts) > 6:
            parts = [*parts[:3], f"... {len(parts) - 4} more", parts[-1]]
        again = f"; reset at {', '.join(f'{one:g}' for one in self.resets)}" * bool(self.resets)
        return f"Regimen({'; '.join(parts)}{again})"

    def superpose(
        self,
        unit_response: UnitResponse | Mapping[str, UnitResponse],
        times: ArrayLike,
        *,
        tolerance: float = 1e-10,
        breaks: Sequence[float] = (),
    ) -> Array:
        """Return the response of a linear system to all doses, from its response to a unit dose at time 0.

        Use it where the unit response is a formula or an interpolated curve. Where it is a surrogate, use
        `Superposition`, which carries the surrogate's error along.

        Parameters
        ----------
        unit_response
            Called with times since the dose, all at least 0, shape (m,); returns the response to an amount of 1 at
            each, shape (m,) or (m, ...). With several routes, a mapping from the label of a route to its function.
        times
            When the response is required, shape (n,).
        tolerance
            Relative error of infusions and of steady states.
        breaks
            Times since the dose at which the unit response jumps or has a kink, such as a lag: infusions are
            integrated between them.

        Returns
        -------
        ndarray
            Response, shape (n,) or (n, ...), zero before the first dose.

        Raises
        ------
        InputError
            A route without a function, a response of the wrong shape or that is not finite; an infusion or steady state
            whose sum does not settle within the tolerance, as where the response does not decay.

        Notes
        -----
        An infusion is integrated by Gauss-Legendre rules of 16 points, with panels halved until two rules agree to the
        tolerance. A steady state is the sum over past doses until a block of them adds less than the tolerance.

        Examples
        --------
        >>> import numpy as np
        >>> twice = Regimen.repeated(100.0, every=6.0, doses=2)
        >>> twice.superpose(lambda t: np.exp(-0.1 * t), [0.0, 6.0, 12.0]).round(2)
        array([100.  , 154.88,  85.  ])
        """
        at = np.asarray(times, dtype=np.float64)
        if at.ndim != 1 or not np.isfinite(at).all():
            raise InputError(f"superpose: times has shape {at.shape}; give finite times, shape (n,).")
        limit = check.positive("superpose", "tolerance", tolerance)
        inner = np.unique(np.asarray(breaks, dtype=np.float64))
        total: Any = None
        for dose, window in zip(self.doses, self.windows, strict=True):
            response = _Response(_of_route(unit_response, dose.route), limit, inner[inner > 0.0])
            part = dose.amount * response.of_dose(elapsed(at, dose.time), dose.duration)
            if dose.interval:
                part = part + _past(response, at, dose, part)
            part = _where(counts(at, window), part)
            total = part if total is None else total + part
        return np.asarray(total)


def _numbers(what: str, given: object) -> Array:
    """Return numbers (J,) of a number or a sequence."""
    try:
        out = np.atleast_1d(check.real_array(given, f"Regimen: {what}"))  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"Regimen: {what} is {given!r}; give numbers.") from None
    if out.ndim != 1 or not np.isfinite(out).all():
        raise InputError(f"Regimen: {what} is {given!r}; give finite numbers, one for each dose.")
    return out


def _filled(what: str, values: Array, count: int) -> Array:
    if len(values) not in (1, count):
        raise InputError(f"Regimen: there are {len(values)} {what} and {count} times; give one for each dose.")
    return np.broadcast_to(values, count)


def _filled_labels(labels: tuple[str, ...], count: int) -> tuple[str, ...]:
    if len(labels) not in (1, count):
        raise InputError(f"Regimen: there are {len(labels)} routes and {count} times; give one for each dose.")
    return labels * count if len(labels) == 1 else labels


def _lowest(what: str, values: Array, advice: str, strict: bool = False) -> None:
    wrong = values <= 0.0 if strict else values < 0.0
    if wrong.any():
        raise InputError(f"Regimen: {what} holds {values[wrong][0]:g}; {advice}.")


def _series(doses: Sequence[Dose]) -> Sequence[Dose]:
    """Return the first doses that are equal and at a constant interval; at least one."""
    first, count = doses[0], 1
    step = doses[1].time - first.time if len(doses) > 1 else 0.0
    while count < len(doses):
        one = doses[count]
        same = one[1:4] == first[1:4] and not one.interval and (not first.interval or step == first.interval)
        regular = abs(one.time - first.time - count * step) <= ROUNDING * max(1.0, abs(one.time))
        if step <= 0.0 or not same or not regular:
            break
        count += 1
    return doses[:count]


def _described(doses: Sequence[Dose]) -> str:
    """Return text for equal doses."""
    first = doses[0]
    over = f" over {first.duration:g}" * bool(first.duration)
    by = f" ({first.route})" * bool(first.route)
    if len(doses) > 1:
        step = (doses[-1].time - first.time) / (len(doses) - 1)
        steady = ", steady state" * bool(first.interval)
        span = f", {len(doses)} doses from {first.time:g} to {doses[-1].time:g}"
        return f"{first.amount:g} every {step:g}{over}{by}{span}{steady}"
    steady = f", steady state every {first.interval:g}" * bool(first.interval)
    return f"{first.amount:g} at {first.time:g}{over}{by}{steady}"


def _of_route(given: UnitResponse | Mapping[str, UnitResponse], route: str) -> UnitResponse:
    if not isinstance(given, Mapping):
        return given
    if route not in given:
        raise InputError(
            f"superpose: a dose has the route {route!r}, but unit responses are given for {list(given)}. Give one for "
            "each route."
        )
    return given[route]


@dataclass(frozen=True, eq=False)
class _Response:
    """A unit response, and how exactly infusions of it are integrated."""

    function: UnitResponse
    tolerance: float
    breaks: Array

    def at(self, tau: Array) -> Array:
        """Return the response (m, ...) at times since the dose (m,)."""
        values = np.asarray(self.function(tau), dtype=np.float64)
        if values.shape[:1] != tau.shape:
            raise InputError(
                f"superpose: the unit response has shape {values.shape} at {len(tau)} times; return one value for each."
            )
        if not np.isfinite(values).all():
            bad = ~np.isfinite(values).reshape(len(tau), -1).all(axis=1)
            raise InputError(f"superpose: the unit response is not finite {tau[bad][0]:g} after the dose.")
        return values

    def of_dose(self, tau: Array, duration: float) -> Array:
        """Return the response (m, ...) to an amount of 1 at times since its beginning (m,)."""
        begun = tau >= 0.0
        if not duration:
            return _where(begun, self.at(np.where(begun, tau, 0.0)))
        upper = np.maximum(tau, 0.0)
        lower = np.maximum(tau - duration, 0.0)
        cuts = [np.clip(one, lower, upper) for one in self.breaks]
        edges = np.stack([lower, *cuts, upper])
        return sum((self._integral(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)), np.zeros(())) / duration

    def _integral(self, lower: Array, upper: Array) -> Array:
        """Return the integrals (m, ...) from `lower` to `upper` (m,)."""
        points, weights = np.polynomial.legendre.leggauss(GAUSS)
        before: Array | None = None
        panels = 1
        while panels <= MAX_PANELS:
            step = (upper - lower) / panels
            inner = (np.arange(panels)[:, None] + 0.5 * (points + 1.0)).ravel()  # in panels
            nodes = lower[:, None] + step[:, None] * inner
            values = self.at(nodes.ravel()).reshape(*nodes.shape, -1)
            total = np.einsum("mpk,p->mk", values, np.tile(0.5 * weights, panels)) * step[:, None]
            scale = float(np.abs(total).max(initial=0.0))
            if before is not None and np.abs(total - before).max(initial=0.0) <= self.tolerance * scale:
                return np.asarray(total.reshape(len(lower), *self.at(lower[:1]).shape[1:]))
            before, panels = total, 2 * panels
        raise InputError(
            f"superpose: the integral of an infusion does not settle to {self.tolerance:g} with {MAX_PANELS} panels. "
            "Name the times after the dose at which the unit response jumps or has a kink, breaks=[lag]."
        )


def _where(keep: Bools, values: Array) -> Array:
    return np.asarray(np.where(keep.reshape(-1, *[1] * (values.ndim - 1)), values, 0.0))


def _past(response: _Response, times: Array, dose: Dose, own: Array) -> Array:
    """Return the response to all equal doses before one of a steady state."""
    total, start, size = np.zeros_like(own), 1, FIRST_BLOCK
    while start < MAX_PAST:
        block = np.zeros_like(own)
        for k in range(start, start + size):
            tau = elapsed(times, dose.time - k * dose.interval)
            block += dose.amount * response.of_dose(tau, dose.duration)
        total += block
        if np.abs(block).max(initial=0.0) <= response.tolerance * np.abs(own + total).max(initial=0.0):
            return total
        start, size = start + size, 2 * size
    raise InputError(
        f"superpose: at steady state, {start} past doses every {dose.interval:g} still add more than "
        f"{response.tolerance:g} of the response, which does not decay. A steady state needs a response that tends to "
        "0; state the doses that were given, Regimen.repeated(...)."
    )


def joined(regimens: Iterable[Regimen]) -> tuple[Regimen, ...]:
    """Return the different ones among regimens, in order.

    Raises
    ------
    InputError
        When something else is among them, or two different ones have one number.
    """
    found: dict[float, Regimen] = {}
    for one in regimens:
        if not isinstance(one, Regimen):
            raise InputError(
                f"regimens: {one!r} is a {type(one).__name__}; give uq.Regimen values, such as data.regimens of "
                "data = uq.Observations.from_events(...)."
            )
        if found.setdefault(one.number, one) != one:
            raise InputError(f"regimens: {one!r} and {found[one.number]!r} have the same number; shift one by a bit.")
    return tuple(found.values())

"""Regimens: values, their checks, and superposition against closed forms and a differential equation."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from uqms._typing import Array
from uqms.errors import InputError
from uqms.parameters import Regimen

KA, KE, V = 1.3, 0.21, 12.0
TIMES = np.array([0.0, 0.5, 3.0, 11.9, 12.0, 13.0, 30.0, 47.0])


def bolus(t: Array) -> Array:
    return np.exp(-KE * t) / V


def oral(t: Array) -> Array:
    return KA / (KA - KE) * (np.exp(-KE * t) - np.exp(-KA * t)) / V


def test_doses_are_sorted_and_equal_regimens_are_one_key() -> None:
    one = Regimen((12.0, 0.0), (50.0, 100.0), durations=(0.0, 2.0), routes=("oral", "iv"))
    other = Regimen.single(100.0, duration=2.0, route="iv") + Regimen.single(50.0, time=12.0, route="oral")
    assert one == other
    assert len({one, other}) == 1
    assert one.number == other.number == float(one)
    assert [dose.time for dose in one.doses] == [0.0, 12.0]
    assert one.number != one.shifted(1e-6).number
    assert one.number < 2**53
    assert one.number == int(one.number)


def test_rates_are_amounts_by_durations() -> None:
    assert Regimen((0.0, 6.0), (100.0, 50.0), rates=(50.0, 0.0)).durations == (2.0, 0.0)


def test_the_text_names_series_infusions_routes_and_steady_states() -> None:
    three = Regimen.repeated(50.0, every=8.0, doses=3, duration=0.5, route="iv", steady_state=True)
    assert repr(three) == "Regimen(50 every 8 over 0.5 (iv), 3 doses from 0 to 16, steady state)"
    assert repr(Regimen.single(5.0, time=2.0) + Regimen.single(5.0, time=2.0)) == "Regimen(5 at 2; 5 at 2)"
    many = Regimen((0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 127.0), tuple(float(k) for k in range(1, 9)))
    assert "... 4 more" in repr(many)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Regimen((), ()), "no dose"),
        (lambda: Regimen((0.0,), (0.0,)), "leave out a dose"),
        (lambda: Regimen((0.0,), (-1.0,)), "leave out a dose"),
        (lambda: Regimen((float("nan"),), (1.0,)), "finite"),
        (lambda: Regimen((0.0, 1.0, 2.0), (1.0, 2.0)), "2 amounts and 3 times"),
        (lambda: Regimen((0.0,), (1.0,), durations=(-2.0,)), "time that an infusion takes"),
        (lambda: Regimen((0.0,), (1.0,), durations=(2.0,), rates=(2.0,)), "give one"),
        (lambda: Regimen((0.0,), (1.0,), rates=(-2.0,)), "amount per time"),
        (lambda: Regimen((0.0,), (1.0,), intervals=(-2.0,)), "steady state"),
        (lambda: Regimen((0.0,), (1.0,), routes=(3,)), "labels"),  # type: ignore[arg-type]
        (lambda: Regimen.repeated(1.0, every=0.0, doses=2), "every is 0"),
        (lambda: Regimen.repeated(1.0, every=1.0, doses=0), "doses is 0"),
        (lambda: Regimen("today", 1.0), "times"),  # type: ignore[arg-type]
        (lambda: Regimen.single(1.0).superpose({"iv": bolus}, [1.0]), "route ''"),
        (lambda: Regimen.single(1.0).superpose(lambda t: np.zeros(7), [1.0]), "one value for each"),
        (lambda: Regimen.single(1.0).superpose(lambda t: t / 0.0 * np.nan, [1.0]), "not finite"),
        (lambda: Regimen.single(1.0, steady_state=4.0).superpose(lambda t: 1.0 + 0.0 * t, [1.0]), "tends to 0"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_cannot_be_meant_is_refused(make: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()  # type: ignore[operator]


def test_repeated_boluses_and_oral_doses_have_their_closed_forms() -> None:
    regimen = Regimen.repeated(100.0, every=12.0, doses=4)
    for f in (bolus, oral):
        expected = sum(100.0 * np.where(TIMES >= 12.0 * k, f(np.maximum(TIMES - 12.0 * k, 0.0)), 0.0) for k in range(4))
        np.testing.assert_allclose(regimen.superpose(f, TIMES), expected, rtol=1e-14)


def test_an_infusion_has_its_closed_form() -> None:
    rate, lasts = 40.0, 2.5
    regimen = Regimen((1.0,), (rate * lasts,), rates=(rate,))
    tau = TIMES - 1.0
    during = rate / (KE * V) * (1.0 - np.exp(-KE * np.clip(tau, 0.0, lasts)))
    expected = np.where(tau <= lasts, during, during * np.exp(-KE * (tau - lasts)))
    np.testing.assert_allclose(regimen.superpose(bolus, TIMES), expected, rtol=1e-10, atol=1e-14)


def test_a_steady_state_has_its_closed_form() -> None:
    regimen = Regimen.single(100.0, steady_state=12.0)
    tau = np.array([0.0, 3.0, 11.0])
    expected = 100.0 / V * np.exp(-KE * tau) / (1.0 - np.exp(-KE * 12.0))
    np.testing.assert_allclose(regimen.superpose(bolus, tau), expected, rtol=1e-10)
    np.testing.assert_allclose(regimen.superpose(bolus, tau - 12.0), expected, rtol=1e-9)  # it was one before too


def test_a_lag_is_a_break_of_an_infusion() -> None:
    def lagged(t: Array) -> Array:
        return np.where(t >= 0.7, np.exp(-KE * np.maximum(t - 0.7, 0.0)), 0.0)

    at = np.array([1.0, 5.0])
    whole = Regimen.single(10.0, duration=2.0).superpose(lagged, at, breaks=[0.7])
    inner = np.clip(at - 0.7, 0.0, None)
    a, b = np.maximum(inner - 2.0, 0.0), inner
    np.testing.assert_allclose(whole, 5.0 * (np.exp(-KE * a) - np.exp(-KE * b)) / KE, rtol=1e-10)
    with pytest.raises(InputError, match="breaks="):
        Regimen.single(10.0, duration=2.0).superpose(lagged, at)


def test_a_dose_at_a_time_that_rounding_missed_counts() -> None:
    third = 0.1 + 0.2  # a little more than 0.3
    assert Regimen.single(1.0, time=third).superpose(bolus, [0.3])[0] == pytest.approx(1.0 / V)


def test_responses_of_several_numbers_keep_their_shape() -> None:
    regimen = Regimen.single(2.0, duration=1.0) + Regimen.single(1.0, time=3.0)
    both = regimen.superpose(lambda t: np.stack([bolus(t), oral(t)], axis=1), TIMES)
    np.testing.assert_allclose(both, np.stack([regimen.superpose(f, TIMES) for f in (bolus, oral)], axis=1))


def test_two_compartments_agree_with_the_differential_equation() -> None:
    """An oral and an intravenous route, boluses and infusions, 1e-8."""
    k10, k12, k21, ka, f = 0.3, 0.5, 0.2, 1.1, 0.8
    system = np.array([[-ka, 0.0, 0.0], [f * ka, -k10 - k12, k21], [0.0, k12, -k21]])
    values, vectors = np.linalg.eig(system)
    inverse = np.linalg.inv(vectors)

    def unit(place: int) -> object:
        def response(t: Array) -> Array:
            whole = np.einsum("ik,mk,k->mi", vectors, np.exp(np.outer(t, values)), inverse[:, place])
            return np.real(whole[:, 1]) / V

        return response

    regimen = (
        Regimen.repeated(100.0, every=8.0, doses=3, route="oral")
        + Regimen.single(60.0, time=4.0, duration=3.0, route="iv")
        + Regimen.single(30.0, time=20.0, route="iv")
    )
    times = np.array([0.5, 4.0, 5.5, 7.0, 9.0, 16.5, 20.5, 40.0])

    # The equation is integrated from event to event.
    state, found = np.zeros(3), []
    events = sorted({0.0, 8.0, 16.0, 4.0, 7.0, 20.0})
    for begin, end in zip(events, [*events[1:], 41.0], strict=True):
        state[0] += 100.0 if begin in (0.0, 8.0, 16.0) else 0.0
        state[1] += 30.0 if begin == 20.0 else 0.0
        rate = np.array([0.0, 20.0 if 4.0 <= begin < 7.0 else 0.0, 0.0])
        inside = times[(times > begin) & (times <= end)]
        solution = solve_ivp(
            lambda t, y, rate=rate: system @ y + rate,
            (begin, end),
            state,
            method="DOP853",
            rtol=1e-12,
            atol=1e-12,
            t_eval=np.append(inside[inside < end], end),
        )
        found += solution.y[1, : len(inside)].tolist()
        state = solution.y[:, -1].copy()
    expected = np.array(found) / V
    got = regimen.superpose({"oral": unit(0), "iv": unit(1)}, times)  # type: ignore[dict-item]
    # At 4, 7 and 20 an observation is before and after the event; the response to a bolus counts at its own time.
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-10)


def test_a_reset_ends_what_was_given_before_and_a_steady_state_begins_there() -> None:
    """Against the doses written out: those before the reset until it, those of the steady state from it on."""
    k, every = 0.2, 8.0

    def unit(tau: np.ndarray) -> np.ndarray:
        return np.exp(-k * tau)

    before = Regimen.repeated(100.0, every=6.0, doses=3) + Regimen.single(50.0, time=28.0, duration=10.0)
    steady = Regimen.single(80.0, time=30.0, steady_state=every)
    whole = replace(before + steady + Regimen.single(20.0, time=34.0), resets=(30.0,))
    times = np.array([-1.0, 3.0, 29.999, 30.0, 33.0, 40.0])
    early, late = times < 30.0, times >= 30.0
    wanted = np.zeros(len(times))
    wanted[early] = before.superpose(unit, times[early])
    after = 80.0 * np.exp(-k * (times[late] - 30.0)) / (1.0 - np.exp(-k * every))
    after += np.where(times[late] >= 34.0, 20.0 * np.exp(-k * np.maximum(times[late] - 34.0, 0.0)), 0.0)
    wanted[late] = after
    np.testing.assert_allclose(whole.superpose(unit, times), wanted, rtol=1e-9)
    assert whole.windows == ((-np.inf, 30.0),) * 4 + ((30.0, np.inf),) * 2
    assert whole.shifted(5.0).resets == (35.0,)
    assert whole.scaled(2.0).resets == (30.0,)
    assert whole.number != replace(whole, resets=()).number
    assert "reset at 30" in repr(whole)


def test_regimens_are_summed() -> None:
    parts = [Regimen.single(30.0), Regimen.repeated(4.0, every=12.0, doses=9), Regimen.single(2.0, time=5.0)]
    assert sum(parts) == parts[0] + parts[1] + parts[2]
    with pytest.raises(InputError, match="a int cannot be added"):
        1 + parts[0]


def test_conditions_of_a_regular_regimen_and_back() -> None:
    usual = Regimen.repeated(100.0, every=12.0, doses=4, duration=1.0, route="iv")
    assert usual.conditions == {"dose": 100.0, "interval": 12.0, "duration": 1.0, "doses": 4.0}
    assert usual.with_conditions(**usual.conditions) == usual
    assert Regimen.single(5.0).conditions == {"dose": 5.0, "interval": 0.0, "duration": 0.0, "doses": 1.0}
    begun = Regimen((0.0, 4.0), (1.0,), resets=(0.0,))  # of tables whose first dose is a reset too (EVID 4)
    assert begun.conditions == {"dose": 1.0, "interval": 4.0, "duration": 0.0, "doses": 2.0}
    other = usual.with_conditions(dose=50.0, interval=6.0, duration=0.5, doses=2)
    assert other == Regimen.repeated(50.0, every=6.0, doses=2, duration=0.5, route="iv")


def test_outputs_are_continuous_in_the_number_of_doses() -> None:
    """A part of a dose is a smaller last one: at whole numbers from both sides it is the regimen."""
    usual, t = Regimen.repeated(100.0, every=12.0, doses=2), np.linspace(0.5, 60.0, 50)
    found = usual.with_conditions(doses=3.4)
    np.testing.assert_allclose(found.amounts, [100.0, 100.0, 100.0, 40.0], rtol=1e-12)
    assert found.times == (0.0, 12.0, 24.0, 36.0)

    def response(doses: float) -> np.ndarray:
        return usual.with_conditions(doses=doses).superpose(lambda tau: np.exp(-0.1 * tau), t)

    for doses in (1.0, 2.0, 3.0):
        for off in (-1e-6, 1e-6):
            np.testing.assert_allclose(response(doses + off), response(doses), atol=1e-3)
    np.testing.assert_allclose(usual.with_conditions(doses=0.3).amounts, [30.0], rtol=1e-12)


@pytest.mark.parametrize(
    ("regimen", "words"),
    [
        (Regimen.single(1.0) + Regimen.single(2.0, time=4.0), "its doses differ"),
        (Regimen.single(1.0) + Regimen.single(1.0, time=4.0) + Regimen.single(1.0, time=9.0), "between 4 and 5"),
        (Regimen.single(1.0, time=2.0), "it begins at 2"),
        (Regimen.single(1.0, steady_state=8.0), "at steady state"),
        (Regimen((0.0, 4.0), (1.0, 1.0), resets=(2.0,)), "there is a reset at 2"),
    ],
)
def test_a_regimen_that_is_not_regular_has_no_conditions(regimen: Regimen, words: str) -> None:
    with pytest.raises(InputError, match=f"not regular, .*{words}"):
        _ = regimen.conditions
    with pytest.raises(InputError, match=f"not regular, .*{words}"):
        regimen.with_conditions(dose=3.0)


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ({"amount": 3.0}, r"\['amount'\]; give some of dose, interval, duration, doses"),
        ({"doses": 0.0}, "doses is 0"),
        ({"doses": 2.5}, "2.5 doses at an interval of 0"),
        ({"dose": -1.0}, "a dose is above 0"),
        ({"dose": float("nan")}, "dose"),
    ],
)
def test_conditions_that_make_no_regimen(conditions: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Regimen.single(10.0).with_conditions(**conditions)

"""The toy with rows that depend on the input and correlated scores passes the suite; its planted bugs are found."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import uqms as uq
from uqms.surrogates import Decoder, Scores
from uqms.testing import ToySurrogate, check_surrogate
from uqms.testing.toy import CurveRows

BOX = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(-1.0, 2.0)).box()


@pytest.mark.parametrize(
    "settings",
    [{}, {"correlated": False}, {"by_input": False}, {"draws": 3}, {"correlated": False, "draws": 2}],
    ids=str,
)
def test_the_toy_keeps_every_promise(settings: dict[str, Any]) -> None:
    report = check_surrogate(ToySurrogate(BOX, **settings))
    report.raise_failed()
    assert len(report.checks) == 31
    depends = "The rows of no output depend on the input."
    assert (report.table.loc["derivative of the rows", "reason"] == depends) is (settings.get("by_input") is False)


@dataclass(frozen=True)
class Wrong:
    """The toy, with some of its parts changed."""

    inner: ToySurrogate
    changes: Any

    def __getattr__(self, name: str) -> Any:
        return self.changes[name] if name in self.changes else getattr(self.inner, name)


class WrongRows(CurveRows):
    def reverse(self, u: np.ndarray, bar: Decoder) -> np.ndarray:
        return super().reverse(u, bar._replace(truncation=0.0 * bar.truncation))


class OneInput(CurveRows):
    def at(self, u: np.ndarray) -> Decoder:
        return super().at(np.broadcast_to(u[..., :1, :], u.shape))


class Forgetful(CurveRows):
    def at(self, u: np.ndarray) -> Decoder:
        return super().at(u.reshape(-1, u.shape[-1]))


def with_rows(kind: Any) -> Wrong:
    toy = ToySurrogate(BOX)

    def decode(output: str, coords: Any = None) -> Any:
        found = toy.decode(output, coords)
        return kind(found.times, found.draws) if isinstance(found, CurveRows) else found

    return Wrong(toy, {"decode": decode})


def with_scores(change: Any) -> Wrong:
    toy = ToySurrogate(BOX)
    return Wrong(toy, {"scores": lambda u: toy.scores(u)._replace(covariance=change(toy.scores(u)))})


def uncorrelated(scores: Scores) -> np.ndarray:
    """Say that scores are independent, which the draws of functions are not."""
    return scores.covariance * np.eye(2)[:, None, :]


def too_correlated(scores: Scores) -> np.ndarray:
    """Double the covariances between scores: no random function has these."""
    return scores.covariance * (2.0 - np.eye(2))[:, None, :]


def one_sided(scores: Scores) -> np.ndarray:
    return scores.covariance * np.array([[1.0, 0.5], [1.0, 1.0]])[:, None, :]


def no_hyperparameters() -> Wrong:
    toy = ToySurrogate(BOX, draws=2)
    return Wrong(toy, {"functions": lambda n, rng: toy.functions(n, rng).__call__})


@pytest.mark.parametrize(
    ("wrong", "caught_by"),
    [
        (with_rows(WrongRows), "derivative of the rows"),
        (with_rows(OneInput), "derivative of the rows"),
        (with_rows(Forgetful), "rows of a batch"),
        (with_scores(uncorrelated), "draws: covariance of scores"),
        (with_scores(too_correlated), "positive semi-definite"),
        (with_scores(one_sided), "symmetric"),
        (no_hyperparameters(), "draws: hyperparameters"),
    ],
    ids=["truncation", "first input", "batch", "independent", "too correlated", "one-sided", "hyperparameters"],
)
def test_a_planted_bug_is_found(wrong: Wrong, caught_by: str) -> None:
    assert caught_by in check_surrogate(wrong, draws=2000).failed  # type: ignore[arg-type]


def test_settings_change_what_they_say(rng: np.random.Generator) -> None:
    toy, u = ToySurrogate(BOX), rng.random((3, 2))
    one = replace(toy, correlated=False)
    assert one.scores(u).covariance.shape == (1, 2, 3, 3)
    assert toy.scores(u).joint.shape == one.scores(u).joint.shape == (1, 6, 6)
    joint = toy.scores(u).covariance
    np.testing.assert_allclose(toy.scores(u).by_score[0, 1], joint[0, :, 1, :, 1])
    np.testing.assert_allclose(one.scores(u).joint.reshape(3, 2, 3, 2)[:, 0, :, 1], 0.0)
    fixed, rows = replace(toy, by_input=False).decode("curve"), toy.decode("curve")
    np.testing.assert_allclose(fixed.basis, rows.at(np.full((1, 2), 0.5)).basis[0, 0])  # type: ignore[union-attr]

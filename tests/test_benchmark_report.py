"""The benchmarks' report: what is ok, what is missed, what is not measured."""

import json

import pytest
from _report import aim, binomial, finish


def test_the_last_line_is_json_and_the_status_tells_of_a_miss(capsys: pytest.CaptureFixture[str]) -> None:
    inside = aim("a", 0.94, low=0.9, high=0.98, mcse=0.01, n=100)
    outside = aim("b", 1.2, high=1.0)
    skipped = aim("c", None, low=0.0, reason="no data")
    assert finish([inside, skipped]) == 0
    assert finish([inside, outside]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert [(each["name"], each["ok"]) for each in json.loads(last)] == [("a", True), ("b", False)]
    assert set(json.loads(last)[0]) == {"name", "value", "mcse", "low", "high", "n", "ok"}


def test_a_value_that_is_not_a_number_is_a_miss_and_still_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert finish([aim("a", float("nan"))]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])[0]["value"] is None


def test_what_was_not_measured_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="say why"):
        aim("a", None)


def test_binomial_error_is_close_to_the_usual_one_and_never_zero() -> None:
    assert binomial(0.95, 10_000) == pytest.approx((0.95 * 0.05 / 10_000) ** 0.5, rel=0.01)
    assert binomial(1.0, 50) > 0

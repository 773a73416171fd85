"""The conformance suite passes right surrogates and finds every planted bug by the check that is meant for it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray as xr

import uqms as uq
from uqms.errors import ConformanceError, InputError
from uqms.surrogates import GaussianProcessSurrogate
from uqms.surrogates.gp import GaussianFunctionDraws
from uqms.testing import PLANTED_BUGS, PlantedBug, check_surrogate

TIMES = np.linspace(0.0, 1.0, 7)
SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.LogNormal(1.0, 0.4))


def cheap(at: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {"peak": np.sin(3.0 * at["a"]) * np.log(at["b"])}


def slope(at: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    a, b = at["a"], at["b"]
    return {"peak": {"a": 3.0 * np.cos(3.0 * a) * np.log(b), "b": np.sin(3.0 * a) / b}}


def runs(n: int = 9, curve: bool = True) -> xr.Dataset:
    design = uq.sobol(SPACE, n, rng=3)
    a, b = design["a"].values, design["b"].values
    outputs: dict[str, Any] = {"peak": cheap({"a": a, "b": b})["peak"] + 0.3 * np.cos(4.0 * a + b)}
    if curve:
        outputs["conc"] = xr.DataArray(
            np.exp(-np.outer(b, TIMES)) * (1.0 + np.sin(5.0 * a))[:, None], dims=("run", "hour"), coords={"hour": TIMES}
        )
    return uq.ensemble.build(design, outputs, space=SPACE)


class FewAnchors:
    """A Gaussian process whose draws are exact at few points beside those of a call, which is quick."""

    def __init__(self, inner: GaussianProcessSurrogate) -> None:
        self.inner = inner
        self.domain, self.layouts, self.scores = inner.domain, inner.layouts, inner.scores
        self.scores_reverse, self.decode = inner.scores_reverse, inner.decode

    def functions(self, n: int, rng: Any) -> GaussianFunctionDraws:
        return self.inner.functions(n, rng, anchors=64)


@pytest.fixture(scope="module")
def averaged() -> GaussianProcessSurrogate:
    """Return a surrogate of a scalar and a curve, with 16 hyperparameter draws."""
    return uq.GaussianProcess(outputs={"conc": uq.Curve(max_scores=2)}).fit(runs())


@pytest.fixture(scope="module")
def right(averaged: GaussianProcessSurrogate) -> FewAnchors:
    """Return the same with three of the draws, whose weights differ."""
    names = "ell variance nugget jitter beta target inverse_factor trend_factor trend_root".split()
    some: dict[str, Any] = {name: getattr(averaged.process, name)[::6] for name in names}
    some["log_weights"] = np.log([0.5, 0.3, 0.2])
    return FewAnchors(replace(averaged, process=replace(averaged.process, **some)))


def test_averaged_hyperparameters_with_a_curve_pass_every_check(averaged: GaussianProcessSurrogate) -> None:
    assert averaged.process.draws == 16
    report = check_surrogate(FewAnchors(averaged))
    print(report)
    assert all(check.ok is True for check in report.checks)


def test_a_point_estimate_passes_with_all_its_anchors() -> None:
    report = check_surrogate(uq.GaussianProcess(hyperparameters="point").fit(runs(curve=False)))
    assert report.ok
    assert report.table.loc["decode at coordinates", "reason"] == "No output has coordinates."
    report.raise_failed()


def test_a_cheap_model_as_mean_passes() -> None:
    setting = uq.GaussianProcess(mean=uq.Physics(cheap, derivative=slope), hyperparameters="point")
    assert check_surrogate(FewAnchors(setting.fit(runs(curve=False)))).ok


def test_a_cheap_model_without_derivative_fails_by_its_derivative() -> None:
    setting = uq.GaussianProcess(mean=uq.Physics(cheap), hyperparameters="point")
    report = check_surrogate(FewAnchors(setting.fit(runs(curve=False))))
    assert set(report.failed) == {
        "derivative of the mean", "derivative of the variance", "derivative at several inputs"
    }  # fmt: skip
    assert "no derivative" in report.table.loc["derivative of the mean", "reason"]


@pytest.mark.parametrize("seed", [1, 2])
def test_other_probes_pass_too(right: FewAnchors, seed: int) -> None:
    assert check_surrogate(right, rng=seed, draws=1000).failed == ()


@pytest.mark.parametrize("bug", PLANTED_BUGS, ids=[bug.name for bug in PLANTED_BUGS])
def test_a_planted_bug_is_found_by_its_check(right: FewAnchors, bug: PlantedBug) -> None:
    report = check_surrogate(bug.plant(right), draws=2000)
    print(report)
    assert bug.caught_by in report.failed
    assert not report.ok
    assert report.table.loc[bug.caught_by, "reason"]


def test_every_check_has_a_planted_bug(right: FewAnchors) -> None:
    names = {check.name for check in check_surrogate(right, draws=500).checks}
    # Without members, box or layouts there is nothing to plant a bug in; these have tests of their own below.
    assert names - {bug.caught_by for bug in PLANTED_BUGS} == {"members", "domain", "layouts"}


@pytest.mark.parametrize(("part", "value"), [("domain", (0.0, 1.0)), ("layouts", {}), ("layouts", {"peak": ("hour",)})])
def test_a_part_that_is_none_is_named(right: FewAnchors, part: str, value: Any) -> None:
    wrong = FewAnchors(right.inner)
    setattr(wrong, part, value)
    report = check_surrogate(wrong, draws=500)
    assert report.failed == (part,)
    assert not report.one_experiment


def test_independent_errors_are_named_and_raised(right: FewAnchors) -> None:
    bug = next(bug for bug in PLANTED_BUGS if bug.name == "independent errors")
    report = check_surrogate(bug.plant(right))
    assert report.table.loc["near inputs", "measured"] == pytest.approx(1.0)
    assert report.one_experiment
    assert "of one experiment, not of several" in str(report)
    with pytest.raises(ConformanceError, match="independent errors"):
        report.raise_failed()


def test_tiny_errors_are_not_judged() -> None:
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0))
    design = uq.sobol(space, 40, rng=1)
    fitted = uq.GaussianProcess(hyperparameters="point").fit(uq.ensemble.build(design, {"y": design["a"].values ** 2}))
    report = check_surrogate(FewAnchors(fitted))
    assert (report.failed, report.ok) == ((), False)
    assert report.table.loc["near inputs", "ok"] is None
    with pytest.raises(
        ConformanceError, match="7 of 31.*not be judged.*near inputs.*fewer runs".replace(".*", "(?s:.*)")
    ):
        report.raise_failed()


def test_what_is_no_surrogate_is_a_report_too() -> None:
    report = check_surrogate(object())  # type: ignore[arg-type]
    assert report.failed == ("members",)
    assert "scores_reverse" in report.table.loc["members", "reason"]


def test_too_few_draws_are_refused(right: FewAnchors) -> None:
    with pytest.raises(InputError, match="500"):
        check_surrogate(right, draws=10)

"""Calls that cannot be meant are answered in one sentence, and errors from inside pass as they are."""

import inspect
import warnings

import first_hour
import numpy as np
import pytest
import xarray as xr

import uqms as uq
from uqms._teaching import taught
from uqms.errors import InputError, UnknownKeyError, UnknownNameError


@taught
def area(width: float, height: float = 1.0, *, rng: int = 0) -> float:
    """Return an area."""
    if width < 0.0:
        raise TypeError("inside")
    return width * height


@taught
class Shape:
    """A class with a constructor, a method and a classmethod."""

    def __init__(self, sd: float) -> None:
        self.sd = sd

    def grown(self, factor: float) -> "Shape":
        """Return a larger one."""
        return Shape(self.sd * factor)

    @classmethod
    def of(cls, sd: float) -> "Shape":
        """Return one."""
        return cls(sd)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: area(1.0, seed=3), "area: there is no argument 'seed', it is called 'rng'. The call is area(width); "),
        (lambda: area(), "area: 'width' is missing. The call is area(width); it also takes height, rng=."),
        (lambda: area(1.0, 2.0, 3.0), "area: got 3 arguments by position, it takes 2. The call is area(width)"),
        (lambda: area(1.0, width=2.0), "area: 'width' is given twice, by position and by name."),
        (lambda: area(1.0, hight=2.0), "area: there is no argument 'hight', it is called 'height'."),
        (lambda: Shape(sigma=2.0), "Shape: there is no argument 'sigma', it is called 'sd'. The call is Shape(sd)."),
        (lambda: Shape(1.0).grown(), "Shape.grown: 'factor' is missing. The call is Shape.grown(factor)."),
        (lambda: Shape.grown(2.0), "grown is called on an object, not on the class: Shape(...).grown(...)."),
        (lambda: Shape.of(std=2.0), "Shape.of: there is no argument 'std', it is called 'sd'."),
    ],
)
def test_what_is_wrong_with_a_call(call: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(message)
    assert caught.value.__cause__ is None


def test_errors_from_inside_pass_and_signatures_are_kept() -> None:
    with pytest.raises(TypeError, match=r"^inside$"):
        area(-1.0)
    assert area(2.0, 3.0) == 6.0
    assert str(inspect.signature(area)) == "(width: float, height: float = 1.0, *, rng: int = 0) -> float"
    assert list(inspect.signature(Shape).parameters) == ["sd"]


def test_every_public_function_and_class_is_marked() -> None:
    """What follows a protocol, and the class that only chooses between three, are not constructed by users."""
    unmarked = []
    for name in uq.__all__:
        one = getattr(uq, name)
        if inspect.isclass(one) and name not in ("Simulator", "Surrogate", "Sampler", "Calibration"):
            constructor = one.__init__
            if not hasattr(constructor, "__wrapped__") and constructor is not object.__init__:
                unmarked.append(name)
        elif inspect.isfunction(one) and one.__code__.co_name != "call":
            unmarked.append(name)
    assert unmarked == []


def test_all_mistakes_of_the_first_hour_end_in_errors_that_name_the_fix() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes = [first_hour.judged(one) for several in first_hour.GROUPS for one in several()]
    assert len(outcomes) >= first_hour.FEWEST
    assert [one for one in outcomes if not (one.ours and one.helps)] == []


def test_names_that_do_not_exist() -> None:
    with pytest.raises(UnknownNameError, match=r"uqms has no 'RBF': the kernel is uq\.SquaredExponential\(\)\."):
        uq.RBF  # noqa: B018
    with pytest.raises(UnknownNameError, match=r"uqms has no 'Normall'; did you mean Normal"):
        uq.Normall  # noqa: B018
    assert not hasattr(uq, "nothing_like_it")
    assert dir(uq) == sorted(uq.__all__)


def test_results_name_what_they_have() -> None:
    regimen = uq.Regimen.single(1.0)
    with pytest.raises(UnknownNameError, match=r"Regimen has no 'amunts'; did you mean amounts"):
        regimen.amunts  # noqa: B018
    with pytest.raises(UnknownNameError, match=r"Link has no 'zzz'; it has at, output, weights\."):
        uq.Link("cell.apd", at={"time": 1.0}).zzz  # noqa: B018
    assert not hasattr(regimen, "_private")


def test_figures_list_what_is_public_and_name_their_arguments() -> None:
    assert dir(uq.plots) == sorted(uq.plots.__all__)
    with pytest.raises(InputError, match=r"plots\.pairs: there is no argument 'var_names', it is called 'names'\."):
        uq.plots.pairs(first_hour.posterior(), var_names=["a"])
    with pytest.raises(InputError, match=r"their own axes; .* figure = uq\.plots\.pairs\(\.\.\.\); figure\.axes\[0\]"):
        uq.plots.pairs(first_hour.posterior(), ax=None)


def test_names_of_the_class_of_a_posterior_are_taught() -> None:
    with pytest.raises(UnknownNameError, match=r"Posterior has no 'load': it is uq\.load_posterior\(path\)"):
        uq.Posterior.load("p.nc")
    assert not hasattr(uq.Posterior, "_private")
    assert callable(uq.Posterior.save)


def test_a_verdict_is_printed_and_not_called() -> None:
    with pytest.raises(InputError, match=r"print\(posterior\.verdict\)"):
        first_hour.posterior().verdict()


def test_names_of_a_base_are_taught_for_its_kinds() -> None:
    for prior in (uq.Normal(0.0, 1.0), uq.LogUniform(0.1, 1.0)):
        with pytest.raises(UnknownNameError, match=r"has no 'ppf': quantiles are prior\.quantile\(p\)"):
            prior.ppf  # noqa: B018


def test_a_calibration_lists_what_is_public() -> None:
    problem = first_hour.problem()
    assert {"sample", "priors", "log_likelihood", "observations", "limitations"} <= set(dir(problem))
    assert not [name for name in dir(problem) if name.startswith("_") or name in ("structure", "cells")]
    assert "parts" not in dir(problem)
    with pytest.raises(UnknownNameError, match=r"A calibration has no 'fit': it is problem\.sample"):
        problem.fit  # noqa: B018


def test_a_property_that_fails_inside_is_not_taken_for_a_name_that_does_not_exist() -> None:
    class Broken(type(first_hour.problem())):  # type: ignore[misc]
        @property
        def experiments(self) -> object:
            return self._nothing

    broken = object.__new__(Broken)
    with pytest.raises(AttributeError, match="Broken.experiments reads an attribute that does not exist"):
        broken.experiments  # noqa: B018


def test_inputs_of_a_space_by_name() -> None:
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), conditions={"dose": uq.Condition(0.0, 1.0)})
    assert space["a"] == uq.Uniform(0.0, 1.0)
    assert space["dose"] == uq.Condition(0.0, 1.0)
    assert list(space) == ["a", "dose"]
    assert "dose" in space
    assert "b" not in space
    with pytest.raises(UnknownKeyError, match=r"^The space has no input 'b'; it has a, dose\.$"):
        space["b"]
    with pytest.raises(KeyError):
        space["b"]


def test_a_prediction_is_printed_in_ten_lines() -> None:
    prediction = first_hour.surrogate().predict({"a": [0.5, 1.0, 1.5], "b": 1.0})
    text = str(prediction)
    assert len(text.splitlines()) == 3
    mean, sd = prediction.mean["peak"].values, prediction.sd["peak"].values
    first, second = text.splitlines()[:2]
    assert first == "Prediction at 3 points: mean ± sd of the surrogate"
    assert second.startswith(f"  peak: {mean[0]:.4g} ± {sd[0]:.2g} at point = 0; {mean[1]:.4g} ± {sd[1]:.2g} at point")
    assert "  conc (15 values): " in text
    assert "at point = 2, time = 2" in text
    after = first_hour.posterior().predict(rng=1)
    assert str(after).splitlines()[0] == ("Prediction after calibration, 100 draws: mean ± sd of parameters, surrogate")
    assert str(after).splitlines()[1] == f"  peak: {after.mean['peak'].item():.4g} ± {after.sd['peak'].item():.2g}"
    many = xr.Dataset({f"y{i}": ("t", np.arange(5.0)) for i in range(20)})
    from uqms.surrogates.prediction import shown

    assert len(shown("head", many, many).splitlines()) <= 10


def test_a_table_of_points_is_predicted_at() -> None:
    import pandas as pd

    surrogate, points = first_hour.surrogate(), pd.DataFrame({"b": [1.0, 1.2], "a": [0.5, 1.5]})
    expected = surrogate.predict({"a": [0.5, 1.5], "b": [1.0, 1.2]}).mean["peak"]
    np.testing.assert_array_equal(surrogate.predict(points).mean["peak"], expected)

"""A sampler of the user's own plugs in, and is told what is wrong with its draws."""

from dataclasses import dataclass

import numpy as np
import pytest
import xarray as xr
from calibration.problems import linear_surrogate, replicates

import uqms as uq
from uqms.errors import ConformanceError, InputError


@pytest.fixture(scope="module")
def problem() -> uq.Calibration:
    return uq.Calibration(
        linear_surrogate(1.5, 0.4), replicates(np.array([[1.1, 0.7]]), np.array([0.5])), uq.GaussianNoise(sd=0.3)
    )


@dataclass(frozen=True)
class Own:
    """Return what it was given as the posterior group."""

    group: object
    bins: int = 3

    def run(self, problem: uq.Calibration, seed: int) -> object:
        if not isinstance(self.group, np.ndarray):
            return self.group
        return xr.DataTree.from_dict({"posterior": xr.Dataset({"theta": (("chain", "draw"), self.group)})})


def test_own_draws_become_a_posterior(problem: uq.Calibration, rng: np.random.Generator) -> None:
    values = 0.5 + 0.1 * rng.standard_normal((2, 300))
    posterior = problem.sample(Own(values), rng=1)
    np.testing.assert_array_equal(posterior.draws["theta"].values, values)
    assert posterior.verdict["R-hat"].status == "pass"
    assert '"bins": 3' in posterior.tree.attrs["sampler"]


def test_draws_in_two_places_fail(problem: uq.Calibration, rng: np.random.Generator) -> None:
    values = 0.5 + 0.1 * rng.standard_normal((2, 300)) + np.array([[0.0], [3.0]])
    assert problem.sample(Own(values), rng=1).verdict["R-hat"].status == "fail"


def test_draws_that_are_none_are_refused(problem: uq.Calibration) -> None:
    def wrong(group: object, message: str) -> None:
        with pytest.raises(ConformanceError, match=message):
            problem.sample(Own(group), rng=1)

    wrong(None, "Own.run returned a NoneType; it must return a DataTree whose group 'posterior'")
    wrong({}, "Own.run returned a dict")
    lost = xr.Dataset({"other": (("chain", "draw"), np.zeros((2, 3)))})
    wrong(xr.DataTree.from_dict({"posterior": lost}), r"lacks \['theta'\]")
    turned = xr.Dataset({"theta": (("draw", "chain"), np.zeros((2, 3)))})
    wrong(xr.DataTree.from_dict({"posterior": turned}), r"has dims .*'theta': \('draw', 'chain'\)")
    wrong(np.zeros((2, 0)), "of sizes .*'draw': 0")
    wrong(np.array([[0.0, np.nan, np.inf]]), "2 draws of 'theta' that are not finite")
    wrong(np.array([[0.0, 8.1, -9.0]]), r"2 draws of 'theta' outside of \[-8, 8\], where its prior is zero")


@pytest.mark.parametrize("sampler", ["nuts", 3, uq.SMC, uq.NUTS, object()])
def test_what_is_no_sampler(problem: uq.Calibration, sampler: object) -> None:
    with pytest.raises(InputError, match=r"give NUTS\(...\).*or an object with run\(problem, seed\)"):
        problem.sample(sampler, rng=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", [uq.SMC(), uq.Metropolis(), uq.Laplace()])
@pytest.mark.parametrize("rng", [-1, 1.5, True])
def test_seeds_are_whole_numbers(problem: uq.Calibration, sampler: uq.Sampler, rng: object) -> None:
    with pytest.raises(InputError, match=f"rng is {rng!r}; give a whole number >= 0"):
        problem.sample(sampler, rng=rng)  # type: ignore[arg-type]

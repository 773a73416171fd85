"""The table of what a calibration cannot do: every cell, and every call against what the table says of it."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pymc as pm
import pytest
import xarray as xr
from calibration.problems import given_surrogate, linear_surrogate
from calibration.test_realisation import stochastic

import uqms as uq
from uqms.calibration.capabilities import LIMITS, SETTINGS, Features, limitations
from uqms.calibration.posterior import checked_sampler
from uqms.diagnostics import profile_likelihood, visual_predictive_check
from uqms.errors import CapabilityWarning, ConformanceError, InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore::uqms.errors.PriorConflictWarning"),
    pytest.mark.filterwarnings("ignore::uqms.errors.DataWarning"),
]

SPACE = uq.ParameterSpace(theta=uq.Normal(0.5, 0.1))
T = np.arange(4.0)
KINDS = ("one", "parts", "population")
NOISE: dict[str, Any] = {
    "independent": uq.GaussianNoise(sd=0.4),
    "correlated": uq.AutocorrelatedNoise(sd=0.3, length=1.0, white=0.3),
    "latent": uq.StudentTNoise(0.4, 5.0),
}
SURROGATES = ("process", "plugged", "exact", "stochastic")


class Plugged:
    """The surrogate of another library: it offers what the protocol asks for, and no more."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.domain, self.layouts, self.attrs = inner.domain, inner.layouts, inner.attrs
        self.scores, self.scores_reverse = inner.scores, inner.scores_reverse
        self.decode, self.functions = inner.decode, inner.functions


def of_kind(name: str, seed: int) -> Any:
    """Return a surrogate of a curve "y" over t in theta."""
    if name == "exact":
        return uq.DirectSimulator(
            lambda theta: seed * 0.1 + theta * np.ones(4), space=SPACE, outputs={"y": ("t",)}, coords={"t": T}
        )
    if name == "stochastic":
        return stochastic(names=("theta",))
    rng = np.random.default_rng(seed)
    made = given_surrogate(
        rng.random((5, 1)), rng.standard_normal((5, 2)), basis=rng.standard_normal((4, 2)), variance=0.3
    )
    return made if name == "process" else Plugged(made)


def measured(kind: str, seed: int = 0) -> uq.Observations:
    rng = np.random.default_rng(seed)
    if kind == "population":
        data = xr.DataArray(rng.normal(0.5, 0.5, (2, 4)), dims=("subject", "t"), coords={"subject": ["a", "b"], "t": T})
    else:
        data = xr.DataArray(rng.normal(0.5, 0.5, 4), dims="t", coords={"t": T})
    return uq.Observations.from_xarray(data.rename("y"))


def problem_of(kind: str, noise: str, discrepancy: bool, surrogate: str) -> Any:
    more = uq.OffsetDiscrepancy(sd=0.3) if discrepancy else None
    settings: dict[str, Any] = {"outside": "extrapolate"}
    if kind == "parts":
        seeds = {"a": 1, "b": 1 if surrogate == "stochastic" else 2}
        return uq.Calibration(
            {name: (of_kind(surrogate, seed), measured(kind, seed)) for name, seed in seeds.items()},
            noise=dict.fromkeys(seeds, NOISE[noise]),
            discrepancy=dict.fromkeys(seeds, more) if discrepancy else None,
            space=SPACE,
            **settings,
        )
    if kind == "population":
        settings |= {"population": uq.Population(SPACE, individual=("theta",), scale={"theta": "identity"})}
    else:
        settings |= {"space": SPACE}
    return uq.Calibration(of_kind(surrogate, 1), measured(kind), NOISE[noise], discrepancy=more, **settings)


def expected(kind: str, noise: str, discrepancy: bool, surrogate: str) -> set[str]:
    """Return what cannot be called, by the words of the documentation."""
    out = set() if discrepancy and kind == "one" else {"rescale_discrepancy"}
    if surrogate == "exact":
        out |= {"NUTS"}  # this one is a black box
    if kind == "parts":
        out |= {"single", "propagate", "observe", "latent_output"}
    if kind != "population":
        out |= {"hierarchy"}
    else:
        out |= {"single", "propagate", "latent_output", "maximum_a_posteriori", "profile_likelihood"}
        out |= {"log_evidence", "compare_models", "predictive_check", "identifiability"}
        out |= {"plots.predictive", "plots.pairs", "plots.prior_posterior"}
        closed_form = noise == "independent" and surrogate in ("process", "plugged")
        simulated = noise != "correlated" and surrogate == "exact"
        if discrepancy or not (closed_form or simulated):
            out |= {"new_subject"}
            if surrogate != "exact":
                out |= {"visual_predictive_check"}
        if discrepancy:
            out |= {"visual_predictive_check"}
    return out


CELLS = list(product(KINDS, NOISE, (False, True), SURROGATES))


@pytest.mark.filterwarnings("ignore::uqms.errors.CapabilityWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_every_cell_of_the_table(kind: str) -> None:
    for cell in CELLS:
        if cell[0] != kind:
            continue
        problem = problem_of(*cell)
        features = Features.of(problem)
        _, noise, discrepancy, surrogate = cell
        assert features.kind == kind
        assert features.discrepancy == discrepancy
        assert features.stochastic == (surrogate == "stochastic")
        assert features.surrogate == ("process" if surrogate == "stochastic" else surrogate)
        if noise == "latent":
            assert features.form == "latent"
        assert set(problem.limitations) == expected(*cell), cell


def test_the_constructor_warns_of_what_would_be_missed_after_the_sampling() -> None:
    for cell in CELLS:
        kind, *_ = cell
        missed = {"new_subject", "visual_predictive_check"} & expected(*cell)
        with pytest.warns(CapabilityWarning) if missed else _nothing() as seen:
            problem_of(*cell)
        if missed:
            assert kind == "population"
            text = " ".join(str(one.message) for one in seen if one.category is CapabilityWarning)
            assert all(call in text for call in missed)


class _nothing:  # noqa: N801 (a context, as pytest.warns)
    def __enter__(self) -> list[Any]:
        return []

    def __exit__(self, *_: object) -> None:
        return None


class PriorDraws:
    """A sampler that draws from the prior: posteriors at once, whose numbers are of no interest here."""

    def run(self, problem: Any, seed: int) -> Any:
        rng = np.random.default_rng(seed)
        draws = {name: ("chain draw".split(), v.reshape(2, 20)) for name, v in problem.prior_draws(40, rng).items()}
        if problem.latents:
            shape = (2, 20, problem.latents)
            draws["latents"] = (("chain", "draw", "latent"), rng.standard_normal(shape))
        return xr.DataTree.from_dict({"posterior": xr.Dataset(draws).assign_coords(chain=[0, 1], draw=np.arange(20))})


def _in_model(function: Callable[[], Any]) -> Any:
    with pm.Model():
        return function()


def calls_of(problem: Any, posterior: Any) -> dict[str, Callable[[], Any]]:
    """Return every call of the table that can be made of the problem's kind at once."""
    kind = problem.kind
    of_a_part = {"part": "a"} if kind == "parts" else {}
    calls: dict[str, Callable[[], Any]] = {
        "NUTS": lambda: checked_sampler(uq.NUTS(), problem),
        "single": lambda: posterior.single,
        "propagate": lambda: uq.propagate(posterior, of="y", draws=4, functions=2, rng=1),
        "observe": lambda: _in_model(lambda: uq.observe(problem, {}, own_priors=True)),
        "latent_output": lambda: _in_model(lambda: uq.latent_output(problem, {}, own_priors=True)),
        "predict": lambda: posterior.predict(draws=6, **of_a_part),
        "hierarchy": lambda: posterior.hierarchy,
        "rescale_discrepancy": lambda: posterior.rescale_discrepancy((2.0,)),
    }
    if kind == "population":
        calls |= {
            "new_subject": lambda: posterior.new_subject(measured("one")),
            "visual_predictive_check": lambda: visual_predictive_check(posterior, replicates=40, bins=1),
            "maximum_a_posteriori": lambda: problem.maximum_a_posteriori(),
            "profile_likelihood": lambda: profile_likelihood(problem, next(iter(problem.priors))),
            "log_evidence": lambda: posterior.log_evidence,
            "compare_models": lambda: uq.compare_models({"a": posterior, "b": posterior}),
            "predictive_check": lambda: uq.diagnostics.predictive_check(posterior, np.mean),
            "identifiability": lambda: uq.diagnostics.identifiability(posterior),
            "plots.predictive": lambda: uq.plots.predictive(posterior),
            "plots.pairs": lambda: uq.plots.pairs(posterior),
            "plots.prior_posterior": lambda: uq.plots.prior_posterior(posterior),
        }
    if kind == "one":
        calls |= {"verification_design": lambda: uq.verification_design(posterior, 2, rng=1)}
    return calls


SAMPLED = [
    *product(KINDS, ("independent",), (False,), SURROGATES),
    *product(KINDS, ("latent",), (False,), ("process", "exact")),
    *product(KINDS, ("independent",), (True,), ("process", "exact")),
    *product(KINDS, ("correlated",), (False,), ("process",)),
]


@pytest.mark.filterwarnings("ignore::uqms.errors.UqmsWarning")
@pytest.mark.parametrize(("kind", "noise", "discrepancy", "surrogate"), SAMPLED)
def test_a_call_is_refused_exactly_where_the_table_says_so(
    kind: str, noise: str, discrepancy: bool, surrogate: str
) -> None:
    problem = problem_of(kind, noise, discrepancy, surrogate)
    posterior = problem.sample(PriorDraws(), rng=1)
    found = limitations(problem)
    for name, call in calls_of(problem, posterior).items():
        if name not in found:
            call()
            continue
        with pytest.raises(InputError) as raised:
            call()
        assert str(raised.value) == found[name], name


@pytest.mark.filterwarnings("ignore::uqms.errors.UqmsWarning")
def test_what_is_asked_of_subjects_is_asked_of_a_population() -> None:
    one = problem_of("one", "independent", False, "process").sample(PriorDraws(), rng=1)
    calls: list[Callable[[], Any]] = [
        lambda: one.individuals,
        lambda: one.effects,
        lambda: one.individual_summary(),
        lambda: one.shrinkage(),
        lambda: one.new_subject(),
        lambda: one.predict(subjects="a"),
    ]
    for call in calls:
        with pytest.raises(InputError) as raised:
            call()
        assert str(raised.value) == one.problem.limitations["hierarchy"]
    assert one.subjects == ()
    many = problem_of("population", "independent", False, "process").sample(PriorDraws(), rng=1)
    assert many.subjects == ("a", "b")
    picked = many.predict(subjects="b", coords={"t": [0.5]}).mean["y"]
    np.testing.assert_allclose(picked, many.predict(coords={"t": [0.5]}).mean["y"][1:], rtol=1e-12)
    with pytest.raises(InputError, match="'a' is no part of this calibration; there are none"):
        many.predict(part="a")


def test_a_surrogate_with_jumps_and_true_conditions_have_their_rows() -> None:
    jumps: Any = Plugged(of_kind("process", 1))
    jumps.differentiable = False
    problem = uq.Calibration(jumps, measured("one"), NOISE["independent"], space=SPACE, outside="extrapolate")
    assert Features.of(problem).derivative == "not at jumps"
    with pytest.raises(ConformanceError, match="a Plugged does not have everywhere"):
        problem.sample(uq.NUTS())
    data = xr.DataArray([0.3], dims="experiment", coords={"x": ("experiment", [0.4])}, name="y")
    rows = uq.Observations.from_xarray(data, conditions=["x"], conditions_sd={"x": 0.1})
    inexact = uq.Calibration(linear_surrogate(1.0, 0.5), rows, uq.GaussianNoise(sd=0.3))
    assert "['x[0]']" in inexact.limitations["verification_design"]


GIVEN: dict[str, Any] = {
    "fixed": {"theta": 0.5},
    "constraints": ["theta > 0"],
    "success": object(),
    "failures": "report",
    "realisation": "experiment",
    "missing": "drop",
    "subjects": object(),
    "surrogate_error": "exact",
    "without_data": "predict",
    "population": uq.Population(SPACE, individual=("theta",), scale={"theta": "identity"}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_another_kind_are_refused_with_what_to_do(name: str) -> None:
    kinds, instead = SETTINGS[name]
    model, rows = of_kind("process", 1), measured("one")
    for kind in KINDS:
        if kind in kinds or (name == "population" and kind == "one"):
            continue
        more: dict[str, Any] = {name: GIVEN[name]}
        arguments: tuple[Any, ...] = (model, rows)
        if kind == "parts":
            arguments, more = ({"a": (model, rows)},), more | {"noise": {"a": NOISE["independent"]}}
        else:
            more |= {"noise": NOISE["independent"]}
        if kind == "population":
            more["population"] = GIVEN["population"]
        with pytest.raises(InputError) as raised:
            uq.Calibration(*arguments, **more)
        assert str(raised.value).startswith(f"{name}= does not go with")
        assert str(raised.value).endswith(instead)


def test_every_row_is_read_by_a_test() -> None:
    tested = {"NUTS", "verification_design", *(call for cell in CELLS for call in expected(*cell))}
    assert {limit.call for limit in LIMITS} == tested

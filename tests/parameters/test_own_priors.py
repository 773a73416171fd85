"""Priors of one's own: numerical defaults against closed forms, spaces and designs, files, and what they cannot do."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from parameters.own_priors import OwnLogNormal, Triangular, Weibull
from scipy import stats

import uqms as uq
from uqms.errors import InputError
from uqms.parameters.numerical import table
from uqms.parameters.priors import prior_from_dict

HERE = Path(__file__).resolve().parent
PAIRS = [
    (Weibull(1.7, 3.0), stats.weibull_min(1.7, scale=3.0)),
    (Weibull(0.6, 1e-6), stats.weibull_min(0.6, scale=1e-6)),
    (Triangular(-1.0, 0.5, 4.0), stats.triang(0.3, -1.0, 5.0)),
    (OwnLogNormal(1.8, 0.3), stats.lognorm(0.3, scale=1.8)),
]
IDS = [prior.label for prior, _ in PAIRS]
P = np.array([1e-9, 1e-4, 0.01, 0.2, 0.5, 0.8, 0.99, 1.0 - 1e-6])


@pytest.mark.parametrize(("prior", "reference"), PAIRS, ids=IDS)
def test_numerical_defaults_equal_the_closed_forms(prior: uq.Prior, reference) -> None:
    x = reference.ppf(P)
    np.testing.assert_allclose(prior.log_density(x), reference.logpdf(x), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(prior.cdf(x), P, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(prior.quantile(P), x, rtol=1e-8)
    np.testing.assert_allclose(prior.moments, (reference.mean(), reference.std()), rtol=1e-9)
    np.testing.assert_array_equal(prior.quantile([0.0, 1.0]), prior.support)
    np.testing.assert_array_equal(prior.cdf([-np.inf, np.inf]), [0.0, 1.0])
    assert stats.kstest(prior.draw(3, 4000), reference.cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    "prior",
    [
        uq.Normal(12345.678, 1e-2),
        uq.LogNormal(1e-8, 2),
        uq.Gamma(0.2, 5),
        uq.InverseGamma(3, 4),
        uq.Beta(400, 3),
    ]
    + [uq.LogitNormal(0.3, 0.5), uq.TruncatedNormal(0, 1, low=5, high=6), uq.Uniform(-3, 7), uq.HalfNormal(2)],
    ids=lambda prior: prior.label,
)
def test_numerical_tables_equal_the_families_of_the_library(prior: uq.Prior) -> None:
    found, x = table(prior), prior.quantile(P)
    np.testing.assert_allclose(found.cdf(x), prior.cdf(x), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(prior.cdf(found.quantile(P)), P, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.moments, prior.moments, rtol=1e-7)


@pytest.mark.parametrize("sd", [1e-2, 1e-4, 1e-6])
def test_panels_are_not_halved_for_the_rounding_of_their_nodes(sd: float) -> None:
    """A value of 12345 has the rounding 2e-12: of sds of 1e-2 the density is off by 1e-9, whatever the panels are."""
    prior = uq.Normal(12345.678, sd)
    found = table(prior)
    assert len(found.edges) + len(found.lower.edges) < 200
    x = prior.quantile(P)
    np.testing.assert_allclose(found.cdf(x), P, rtol=100.0 * np.spacing(12345.0) / sd, atol=0.0)


def test_moments_that_do_not_exist() -> None:
    assert table(uq.InverseGamma(1.5, 4)).moments == (pytest.approx(8.0, rel=1e-6), np.inf)
    assert table(uq.InverseGamma(0.9, 4)).moments == (np.inf, np.inf)


def test_a_density_that_does_not_integrate_to_one_is_refused() -> None:
    @dataclass(frozen=True, repr=False)
    class Twice(Weibull):
        def _log_density(self, x, xp):
            return super()._log_density(x, xp) + xp.log(2.0)

    with pytest.raises(InputError, match=r"the density integrates to 2\b.* Add the normalising constant"):
        Twice(1.7, 3.0).quantile(0.5)


def test_arguments_are_checked_and_stored_as_floats() -> None:
    prior = Weibull(2, 3, unit="h")
    assert (type(prior.shape), prior.label, prior.unit) == (float, "Weibull(shape=2, size=3)", "h")
    with pytest.raises(InputError, match="Weibull: size is nan|Weibull: size is NaN"):
        Weibull(2, np.nan)
    with pytest.raises(InputError, match="Weibull has no rule for quantiles"):
        Weibull.from_quantiles({0.1: 1.0, 0.9: 2.0})

    @dataclass(frozen=True, repr=False)
    class Odd(Weibull):
        scale = "square"

    with pytest.raises(InputError, match="Odd: scale is 'square'; give one of identity, log, logit"):
        Odd(1.0, 2.0)


def test_space_design_and_maps() -> None:
    space = uq.ParameterSpace(a=Weibull(1.7, 3.0, unit="h"), b=Triangular(-1.0, 0.5, 4.0), c=uq.Normal(0, 1))
    theta = {name: prior.quantile([0.1, 0.6]) for name, prior in space.priors.items()}
    expected = sum(
        reference.logpdf(theta[name]) for name, (_, reference) in zip("ab", (PAIRS[0], PAIRS[2]), strict=True)
    )
    np.testing.assert_allclose(space.log_density(theta), expected + stats.norm.logpdf(theta["c"]), rtol=1e-12)
    u = space.to_cube(theta)
    np.testing.assert_allclose(u, [[0.1] * 3, [0.6] * 3], rtol=1e-10)
    np.testing.assert_allclose(space.from_real(space.to_real(theta)), np.column_stack(list(theta.values())), rtol=1e-12)
    box = space.box()
    assert box.scale == ("log", "identity", "identity")
    assert box.hard == ((False, False), (True, True), (False, False))
    assert space.mass_inside(box) == pytest.approx(0.999 ** (2 / 3), rel=1e-8)  # nothing of b is cut
    design = uq.sobol(space, 16, rng=1)
    assert uq.ParameterSpace.from_json(design.attrs["space"]) == space
    assert space.draw(5, 1)["a"].attrs["unit"] == "h"


def run(script: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        "PYTHONPATH": ":".join(str(path) for path in (*paths, *sys.path) if str(path)),
        "PATH": "/usr/bin:/bin",
    }
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)


def test_a_space_is_loaded_in_a_new_process(tmp_path: Path) -> None:
    space = uq.ParameterSpace(a=Weibull(1.7, 3.0, unit="h"), b=Triangular(-1.0, 0.5, 4.0))
    text = space.to_json()
    assert json.loads(text)["parameters"]["a"]["prior"] == "parameters.own_priors:Weibull"
    (tmp_path / "space.json").write_text(text)
    done = run(
        "import sys, uqms as uq\n"
        f"space = uq.ParameterSpace.from_json(open({str(tmp_path / 'space.json')!r}).read())\n"
        "print(space.priors['a'], float(space.priors['b'].quantile(0.3)))",
        HERE.parent,
    )
    assert done.stdout.split("\n")[0] == f"{space.priors['a']!r} {float(space.priors['b'].quantile(0.3))}", done.stderr


def test_a_file_imports_no_module_that_does_not_define_the_class(tmp_path: Path) -> None:
    """A script of the user's would run, or worse."""
    (tmp_path / "campaign.py").write_text("open('ran', 'w')\nclass Other:\n    pass\n")
    (tmp_path / "impostor.py").write_text("class Weibull:\n    pass\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("open('ran', 'w')\n")
    saved = Weibull(1.7, 3.0).to_dict()
    script = f"""
import os, uqms as uq
from uqms.errors import InputError
from uqms.parameters.priors import prior_from_dict
os.chdir({str(tmp_path)!r})
for name in ("campaign:Weibull", "package.part:Weibull", "nowhere:Weibull", "os:system", "argparse:Action", "a b:C"):
    try:
        prior_from_dict({{**{saved!r}, "prior": name}})
    except InputError as error:
        print(name, error)
try:
    prior_from_dict({{**{saved!r}, "prior": "impostor:Weibull"}})
except InputError as error:
    print(error)
print(os.path.exists("ran"))
"""
    done = run(script, tmp_path)
    lines = done.stdout.strip().split("\n")
    assert len(lines) == 8, done.stderr
    for line, what in zip(
        lines,
        (
            "campaign.py has no `class Weibull`; it was not imported",
            "there is no module package.part. Put the file that defines `class Weibull` where Python finds it",
            "there is no module nowhere. Put",
            "os:system is no prior",
            "argparse:Action is no prior",
        ),
        strict=False,
    ):
        assert what in line
    assert "There is no prior 'a b:C'" in lines[5]
    assert "impostor.py has no `class Weibull`; it was not imported" in lines[6]  # of no base
    assert lines[7] == "False"


def test_a_class_of_this_process_is_used_as_it_is() -> None:
    @dataclass(frozen=True, repr=False)
    class Local(Weibull):
        words: str = "one"
        levels: tuple[float, ...] = (1.0, np.inf)

    prior = Local(1.7, 3.0, "two", (0.5, np.inf))
    assert prior_from_dict(json.loads(json.dumps(prior.to_dict(), allow_nan=False))) == prior
    assert Local.__name__ in prior.label

"""The space: names, densities, the three maps, the design box, files."""

import json
import math
import pickle
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import integrate, stats

import uqms as uq
from uqms.errors import FormatVersionError, InputError

SPACE = uq.ParameterSpace(
    u=uq.Uniform(-1, 3, unit="mm", description="gap"),
    lu=uq.LogUniform(0.1, 10),
    n=uq.Normal(5, 2),
    ln=uq.LogNormal(1.8, 0.3, unit="1/day"),
    above=uq.TruncatedNormal(1, 2, low=0.5),
    below=uq.TruncatedNormal(1, 2, high=1.5),
    both=uq.TruncatedNormal(0, 1, low=-1, high=2),
    hn=uq.HalfNormal(2),
    b=uq.Beta(2, 5),
    g=uq.Gamma(3, 2),
    ig=uq.InverseGamma(3, 2),
    conditions={"dose": uq.Condition(100, 400, unit="mg"), "rate": uq.Condition(-1, 1)},
)


@pytest.fixture
def theta():
    draws = SPACE.draw(50, rng=3)
    return np.stack([draws[name].values for name in SPACE.names], axis=-1)


def test_names_units_and_views():
    assert SPACE.names == ("u", "lu", "n", "ln", "above", "below", "both", "hn", "b", "g", "ig")
    assert SPACE.inputs == (*SPACE.names, "dose", "rate")
    assert (SPACE.units["u"], SPACE.units["dose"], SPACE.units["n"]) == ("mm", "mg", "")
    for view in (SPACE.priors, SPACE.conditions, SPACE.units):
        with pytest.raises(TypeError):
            view["new"] = 1
    with pytest.raises(AttributeError, match="cannot be changed"):
        SPACE.names = ()
    assert uq.ParameterSpace(self=uq.Normal(0, 1)).names == ("self",)


def test_log_density_is_the_sum_over_parameters(theta):
    expected = sum(SPACE.priors[name].log_density(theta[:, j]) for j, name in enumerate(SPACE.names))
    np.testing.assert_allclose(SPACE.log_density(theta), expected, rtol=1e-14)
    assert SPACE.log_density(theta[0]).shape == ()
    assert SPACE.log_density(theta.reshape(5, 10, -1)).shape == (5, 10)
    outside = theta[0].copy()
    outside[0] = 4.0
    assert SPACE.log_density(outside) == -np.inf
    outside[0] = np.nan
    assert np.isnan(SPACE.log_density(outside))


def test_theta_by_name_from_mappings_datasets_and_tables(theta):
    expected = SPACE.log_density(theta)
    columns = {name: theta[:, j] for j, name in enumerate(SPACE.names)}
    reversed_columns = dict(reversed(columns.items()))
    np.testing.assert_array_equal(SPACE.log_density(reversed_columns), expected)
    np.testing.assert_array_equal(SPACE.log_density(pd.DataFrame(reversed_columns)), expected)
    np.testing.assert_array_equal(SPACE.log_density(SPACE.draw(50, rng=3)), expected)
    np.testing.assert_array_equal(SPACE.log_density(list(theta)), expected)


def test_wrong_columns_name_what_is_expected(theta):
    names = ", ".join(SPACE.names)
    calls = [SPACE.log_density, SPACE.cdf, SPACE.quantile, SPACE.to_real, SPACE.from_real, SPACE.log_jacobian]
    for call in calls:
        with pytest.raises(InputError, match=f"11 columns {names}"):
            call(theta[:, :-1])
        with pytest.raises(InputError, match="has no ig; it needs"):
            call({name: 0.5 for name in SPACE.names[:-1]})
    for call in (SPACE.to_cube, SPACE.from_cube):
        with pytest.raises(InputError, match=f"13 columns {names}, dose, rate"):
            call(theta)
    with pytest.raises(InputError, match=r"theta\['a'\] has dtype bool"):
        uq.ParameterSpace(a=uq.Normal(0, 1)).log_density({"a": True})


def test_cdf_and_quantile_are_inverse(theta):
    p = SPACE.cdf(theta)
    assert p.shape == theta.shape
    np.testing.assert_allclose(SPACE.quantile(p), theta, rtol=1e-9)


def test_draws_have_labels_and_repeat():
    draws = SPACE.draw(4000, rng=5)
    assert dict(draws.sizes) == {"draw": 4000}
    assert draws["u"].attrs == {"role": "input", "kind": "parameter", "unit": "mm", "description": "gap"}
    assert list(draws.data_vars) == list(SPACE.names)
    xr.testing.assert_identical(draws, SPACE.draw(4000, rng=5))
    for name, prior in SPACE.priors.items():
        assert stats.kstest(draws[name], prior.cdf).pvalue > 1e-3
    correlation = np.corrcoef([draws[name] for name in SPACE.names]) - np.eye(len(SPACE.names))
    assert np.abs(correlation).max() < 0.08
    for bad in (0, -1, 1.5, True, "3"):
        with pytest.raises(InputError, match="whole number above 0"):
            SPACE.draw(bad)
    with pytest.raises(InputError, match="rng is -1"):
        SPACE.draw(1, rng=-1)


def test_cube(rng):
    u = rng.random((40, 13))
    x = SPACE.from_cube(u)
    np.testing.assert_allclose(SPACE.to_cube(x), u, rtol=1e-8)
    np.testing.assert_array_equal(x[:, :11], SPACE.quantile(u[:, :11]))
    np.testing.assert_allclose(x[:, 11], 100 + 300 * u[:, 11], rtol=1e-15)
    np.testing.assert_array_equal(SPACE.from_cube(np.ones(13))[[0, 1, 11, 12]], [3.0, 10.0, 400.0, 1.0])
    np.testing.assert_array_equal(SPACE.from_cube(np.zeros(13))[[0, 1, 7, 11, 12]], [-1.0, 0.1, 0.0, 100.0, -1.0])


def test_real_line_in_closed_form_and_back(theta):
    z = SPACE.to_real(theta)
    column = dict(zip(SPACE.names, zip(theta.T, z.T, strict=True), strict=True))
    np.testing.assert_allclose(column["n"][1], column["n"][0])
    np.testing.assert_allclose(column["ln"][1], np.log(column["ln"][0]))
    np.testing.assert_allclose(column["above"][1], np.log(column["above"][0] - 0.5))
    np.testing.assert_allclose(column["below"][1], -np.log(1.5 - column["below"][0]))
    np.testing.assert_allclose(column["u"][1], np.log((column["u"][0] + 1) / (3 - column["u"][0])))
    np.testing.assert_allclose(SPACE.from_real(z), theta, rtol=1e-12)
    far = SPACE.from_real(np.full(11, 800.0))
    assert np.all(np.isfinite(far[[0, 1, 5, 6, 8]]))
    assert np.all(np.isfinite(SPACE.log_jacobian(np.full((2, 11), [[800.0], [-800.0]]))))


def test_every_map_increases():
    z = np.linspace(-3, 3, 30)[:, None] * np.ones(11)
    assert np.all(np.diff(SPACE.from_real(z), axis=0) > 0)


def test_log_jacobian_equals_finite_differences(theta):
    z, h = SPACE.to_real(theta), 1e-6
    slopes = (SPACE.from_real(z + h) - SPACE.from_real(z - h)) / (2 * h)
    np.testing.assert_allclose(SPACE.log_jacobian(z), np.log(slopes).sum(axis=-1), atol=1e-6)


@pytest.mark.parametrize("name", SPACE.names)
def test_density_on_the_real_line_integrates_to_one(name):
    space = uq.ParameterSpace(**{name: SPACE.priors[name]})

    def density(z):
        point = np.array([z])
        return math.exp(space.log_density(space.from_real(point)) + space.log_jacobian(point))

    low, high = space.to_real(space.quantile([[1e-12], [1 - 1e-12]]))[:, 0]
    mass, _ = integrate.quad(density, low, high, epsabs=1e-11, limit=400)
    assert mass == pytest.approx(1.0, abs=1e-8)


# ---------------------------------------------------------------------- the design box


def test_box_ends_scales_and_hard_ends():
    box = SPACE.box()
    assert box.names == SPACE.inputs
    rows = {n: (s, h) for n, s, h in zip(box.names, box.scale, box.hard, strict=True)}
    assert rows == {
        "u": ("identity", (True, True)),
        "lu": ("log", (True, True)),
        "n": ("identity", (False, False)),
        "ln": ("log", (False, False)),
        "above": ("identity", (True, False)),
        "below": ("identity", (False, True)),
        "both": ("identity", (True, True)),
        "hn": ("identity", (True, False)),
        "b": ("logit", (False, False)),
        "g": ("log", (False, False)),
        "ig": ("log", (False, False)),
        "dose": ("identity", (True, True)),
        "rate": ("identity", (True, True)),
    }
    at = dict(zip(box.names, zip(box.lower, box.upper, strict=True), strict=True))
    assert (at["u"], at["lu"], at["both"]) == ((-1.0, 3.0), (0.1, 10.0), (-1.0, 2.0))
    assert (at["dose"], at["rate"]) == ((100.0, 400.0), (-1.0, 1.0))
    cut = 1 - 0.999 ** (1 / 11)
    np.testing.assert_allclose(at["n"], stats.norm(5, 2).ppf([cut / 2, 1 - cut / 2]), rtol=1e-10)
    np.testing.assert_allclose(at["hn"], [0.0, stats.halfnorm(scale=2).ppf(1 - cut)], rtol=1e-10)
    assert at["above"][0] == 0.5
    assert at["below"][1] == 1.5


@pytest.mark.parametrize("mass", [0.5, 0.99, 0.999])
def test_box_holds_the_mass_jointly(mass):
    open_ends = uq.ParameterSpace(a=uq.Normal(0, 1), b=uq.LogNormal(1, 1), c=uq.Beta(2, 3), d=uq.HalfNormal(1))
    assert open_ends.mass_inside(open_ends.box(mass)) == pytest.approx(mass, abs=1e-9)
    assert SPACE.mass_inside(SPACE.box(mass)) == pytest.approx(mass ** (8 / 11), abs=1e-9)  # three lose nothing
    bounded = uq.ParameterSpace(a=uq.Uniform(0, 1))
    assert bounded.mass_inside(bounded.box(mass)) == 1.0


def test_mass_inside_a_stated_box():
    space = uq.ParameterSpace(a=uq.Normal(0, 1), b=uq.Uniform(0, 4), conditions={"dose": uq.Condition(0, 1)})
    box = uq.Box(("b", "a"), (1.0, -1.0), (3.0, 1.0))
    assert space.mass_inside(box) == pytest.approx(0.5 * (stats.norm.cdf(1) - stats.norm.cdf(-1)), rel=1e-12)
    assert space.mass_inside(uq.Box(("dose",), (0.4,), (0.5,))) == 1.0
    assert space.mass_inside(uq.Box(("b",), (-5.0,), (9.0,))) == 1.0
    with pytest.raises(InputError, match="The space has no c; it has a, b, dose"):
        space.mass_inside(uq.Box(("c",), (0.0,), (1.0,)))


def test_box_that_cannot_be():
    for bad in (0.0, 1.0, 1.5, math.nan, "0.9", True):
        with pytest.raises(InputError, match="box: mass"):
            SPACE.box(bad)
    with pytest.raises(InputError, match=r"k: the central part of Gamma\(shape=0.001, rate=1\) goes from 0 to"):
        uq.ParameterSpace(k=uq.Gamma(0.001, 1)).box()


LONG = uq.ParameterSpace(
    k=uq.HalfCauchy(2.0), n=uq.Normal(0, 1), rate=uq.Gamma(3, 2), conditions={"dose": uq.Condition(0, 1)}
)


def test_prior_with_a_long_tail_has_a_box_where_its_range_is_stated():
    box = LONG.box(ranges={"k": (0.0, 130.0)})
    at = dict(zip(box.names, zip(box.lower, box.upper, box.hard, strict=True), strict=True))
    assert at["k"] == (0.0, 130.0, (True, False))
    assert at["dose"] == (0.0, 1.0, (True, True))
    # The two others hold the mass jointly, and the range cuts what the half-Cauchy has beyond it.
    inside = stats.halfcauchy(scale=2.0).cdf(130.0)
    assert LONG.mass_inside(box) == pytest.approx(0.999 * inside, abs=1e-9)
    assert LONG.box(ranges={"k": [1.0, 9.0], "n": (-1, 2)}).hard[:2] == ((False, False), (False, False))
    assert uq.ParameterSpace(k=uq.Uniform(0, 1)).box(ranges={"k": (0.0, 0.5)}).hard == ((True, False),)
    # A smaller part ends where the tail is not longer than the rest is wide.
    assert LONG.box(0.9).upper[0] == pytest.approx(stats.halfcauchy(scale=2.0).ppf(0.9 ** (1 / 3)), rel=1e-12)
    assert SPACE.box(ranges={}) == SPACE.box()


def test_error_of_a_long_tail_has_the_call_that_states_a_range():
    for ask in (LONG.box, lambda: uq.sobol(LONG, 8, rng=1), lambda: uq.latin_hypercube(LONG, 8, rng=1)):
        with pytest.raises(
            InputError, match=r"k: HalfCauchy\(beta=2\) has a long tail.*318 times.*keeps 99.5 %"
        ) as found:
            ask()
    call = re.search(r"over=(space\.box\(.*?\}\))", str(found.value)).group(1)
    box = eval(call, {"space": LONG})
    assert 0.99 < LONG.mass_inside(box) < 0.996  # a calibration accepts it
    design = uq.sobol(LONG, 64, rng=1, over=box)
    assert float(design.k.max()) <= 255.0 < 1.1 * float(design.k.max())
    two = uq.ParameterSpace(a=uq.HalfCauchy(1.0), b=uq.HalfStudentT(2.0, 1.0))
    with pytest.raises(InputError, match=r"'a': \(0.0, 255.0\), 'b': \(0.0, 20.0\)"):
        two.box()
    # From 3.5 degrees of freedom on, the tail is short enough.
    assert uq.ParameterSpace(k=uq.HalfStudentT(3.5, 1.0)).box().upper[0] == pytest.approx(
        stats.t(3.5).isf(0.0005), rel=1e-9
    )


def test_frame_is_a_box_of_every_prior():
    assert SPACE.frame() == SPACE.box()
    frame = LONG.frame()
    assert frame.upper[0] == pytest.approx(stats.halfcauchy(scale=2.0).ppf(0.95), rel=1e-12)
    assert (frame.scale, frame.hard) == (LONG.box(0.9).scale, LONG.box(0.9).hard)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        (
            {"k": (-1.0, 5.0)},
            r"the range of 'k' is -1 to 5, but the support of HalfCauchy\(beta=2\) goes from 0 to inf",
        ),
        ({"k": (5.0, 5.0)}, "low has to be below high"),
        ({"k": 5.0}, "give two ends: {'k': .low, high.}"),
        ({"k": (0.0, math.inf)}, "high is inf"),
        ({"z": (0.0, 1.0)}, "ranges names 'z'; the parameters are k, n, rate"),
        ({"dose": (0.0, 1.0)}, "'dose' is a condition"),
        ({"k": (0.0, 9.0), "rate": (0.0, 1.0)}, "rate has a log scale and begins at 0"),
        ((0.0, 1.0), "give a mapping such as"),
    ],
)
def test_ranges_that_cannot_be_meant(ranges, message):
    with pytest.raises(InputError, match=message):
        LONG.box(ranges=ranges)


# ---------------------------------------------------------------------- what cannot be meant


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("a/b", "Python identifier"),
        ("a\nb", "Python identifier"),
        ("{{x}}", "Python identifier"),
        ("2x", "Python identifier"),
        ("my rate", "Python identifier"),
        ("lambda", "Python identifier"),
        ("\u00b5", "Python reads it as '\u03bc'"),
        ("run", "tables of runs and posteriors"),
        ("state", "tables of runs"),
        ("seconds", "tables of runs"),
        ("message", "tables of runs"),
        ("chain", "tables of runs"),
        ("draw", "tables of runs"),
    ],
)
def test_names_that_cannot_be_used(name, message):
    with pytest.raises(InputError, match=message) as caught:
        uq.ParameterSpace(**{name: uq.Normal(0, 1)})
    assert "parameter" in str(caught.value)
    with pytest.raises(InputError, match="condition"):
        uq.ParameterSpace(a=uq.Normal(0, 1), conditions={name: uq.Condition(0, 1)})


def test_spaces_that_cannot_be_meant():
    with pytest.raises(InputError, match="no parameters; give at least one"):
        uq.ParameterSpace()
    with pytest.raises(InputError, match="no parameters"):
        uq.ParameterSpace(conditions={"dose": uq.Condition(0, 1)})
    with pytest.raises(InputError, match="'dose' is a parameter and a condition"):
        uq.ParameterSpace(dose=uq.Normal(0, 1), conditions={"dose": uq.Condition(0, 1)})
    with pytest.raises(InputError, match=r"beta is 3.0 \(float\); give a prior such as"):
        uq.ParameterSpace(beta=3.0)
    with pytest.raises(InputError, match=r"beta is .*give a prior"):
        uq.ParameterSpace(beta=uq.Normal)
    with pytest.raises(InputError, match="known inputs go into conditions"):
        uq.ParameterSpace(dose=uq.Condition(0, 1))
    with pytest.raises(InputError, match="The condition dose is Uniform"):
        uq.ParameterSpace(a=uq.Normal(0, 1), conditions={"dose": uq.Uniform(0, 1)})
    with pytest.raises(InputError, match="give a mapping"):
        uq.ParameterSpace(a=uq.Normal(0, 1), conditions=[uq.Condition(0, 1)])
    with pytest.raises(InputError, match="The name of a condition is 1"):
        uq.ParameterSpace(a=uq.Normal(0, 1), conditions={1: uq.Condition(0, 1)})


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (1, 1, "low has to be below high"),
        (2, 1, "swap them"),
        (math.nan, 1, "low is NaN"),
        (0, math.inf, "high is inf"),
        ("0", 1, "give a number"),
        (False, 1, "give a number"),
        (-1e308, 1e308, "beyond the range"),
    ],
)
def test_conditions_that_cannot_be_meant(low, high, message):
    with pytest.raises(InputError, match=message):
        uq.Condition(low, high)


# ---------------------------------------------------------------------- files and showing


def test_json_round_trip_is_exact():
    space = uq.ParameterSpace(
        a=uq.Normal(0.1 + 0.2, 1 / 3, unit="µm", description='say "x"'),
        b=uq.TruncatedNormal(5e-324, 1.7e308, low=-0.0),
        conditions={"dose": uq.Condition(1 / 7, 2)},
    )
    for one in (space, SPACE):
        back = uq.ParameterSpace.from_json(one.to_json())
        assert back == one
        assert back.inputs == one.inputs
        assert back.to_json() == one.to_json()
        json.loads(one.to_json(), parse_constant=lambda word: pytest.fail(word))


def _edited(change):
    data = json.loads(uq.ParameterSpace(a=uq.Uniform(0, 1), conditions={"dose": uq.Condition(0, 1)}).to_json())
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        (None, "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "expected a JSON object"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        (_edited(lambda d: d.update(extra=1)), "has unknown extra"),
        (_edited(lambda d: d.pop("conditions")), "lacks conditions"),
        (_edited(lambda d: d.update(uqms="Box")), "not of a ParameterSpace"),
        (_edited(lambda d: d.update(parameters=[])), "parameters is not a JSON object"),
        (_edited(lambda d: d.update(parameters={})), "no parameters"),
        (_edited(lambda d: d["parameters"]["a"].update(low=5)), "a: Uniform: low is 5"),
        (_edited(lambda d: d["parameters"]["a"].update(low=True)), "a: Uniform: low is True"),
        (_edited(lambda d: d["parameters"]["a"].update(high="inf")), "a: Uniform: high is inf"),
        (_edited(lambda d: d["parameters"]["a"].update(high=math.nan)), "NaN is not JSON"),
        (_edited(lambda d: None).replace("1.0", "1e999", 1), "too large for a float"),
        (_edited(lambda d: d["parameters"].update({"a b": d["parameters"]["a"]})), "'a b' cannot be the name"),
        (_edited(lambda d: d["conditions"]["dose"].update(step=1)), "dose: Condition: .* unknown step"),
    ],
)
def test_json_that_uqms_did_not_write(text, message):
    with pytest.raises(InputError, match=message):
        uq.ParameterSpace.from_json(text)


def test_json_of_a_newer_version():
    with pytest.raises(FormatVersionError, match="update uqms"):
        uq.ParameterSpace.from_json(_edited(lambda d: d.update(version=4)))


def test_equality_hash_and_pickle():
    a, b = uq.Normal(0, 1), uq.Normal(1, 1)
    assert uq.ParameterSpace(a=a, b=b) == uq.ParameterSpace(a=a, b=b)
    assert uq.ParameterSpace(a=a, b=b) != uq.ParameterSpace(b=b, a=a)  # the order of columns is part of it
    assert uq.ParameterSpace(a=a) != uq.ParameterSpace(a=b)
    assert uq.ParameterSpace(a=a) != "a"
    assert hash(SPACE) == hash(uq.ParameterSpace.from_json(SPACE.to_json()))
    assert pickle.loads(pickle.dumps(SPACE)) == SPACE


def test_table_is_aligned():
    space = uq.ParameterSpace(
        beta=uq.LogNormal(1.8, 0.3, unit="1/day", description="transmission\nrate"),
        k=uq.Uniform(0, 1),
        conditions={"dose": uq.Condition(100, 400, unit="mg")},
    )
    assert repr(space).splitlines() == [
        "ParameterSpace: 2 parameters, 1 condition",
        "  name  prior                             unit   central 95 %     description",
        "  beta  LogNormal(median=1.8, sigma=0.3)  1/day  0.9998 to 3.241  transmission rate",
        "  k     Uniform(low=0, high=1)                   0.025 to 0.975",
        "  dose  known, 100 to 400                 mg",
    ]


def test_html_is_escaped():
    evil = "<script>alert('1')</script>"
    text = uq.ParameterSpace(
        a=uq.Normal(0, 1, unit=evil, description=evil),
        conditions={"x": uq.Condition(0, 1, unit=evil, description=evil)},
    )._repr_html_()
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;") == 4


def test_the_room_is_light():
    heavy = {"torch", "pymc", "pytensor", "matplotlib", "xarray", "pandas", "scipy.stats"}
    code = "import sys, uqms.parameters; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(out.stdout.split())

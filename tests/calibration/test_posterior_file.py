"""A posterior comes back from its file in a new process, and other files are refused in one sentence."""

import importlib
import json
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import xarray as xr
from calibration.population.test_population import COVARIATES, observations, table
from calibration.population.test_population import SPACE as PATIENTS
from calibration.population.test_population import surrogate as of_patients
from calibration.problems import given_surrogate, replicates

import uqms as uq
from uqms.calibration.stored_values import Reader, Writer
from uqms.errors import (
    DataWarning,
    FormatError,
    FormatVersionError,
    InputError,
    IntegrityError,
    MissingFileError,
    UnsafeFileError,
)

# Code of a user's own, in a module beside the script.
OWN = """
    from dataclasses import dataclass, field
    import numpy as np
    import uqms as uq
    from uqms.calibration import NoiseModel

    @dataclass(frozen=True)
    class Cauchy(uq.RadialKernel):
        alpha: float = 1.0

        def radial(self, r2):
            base = 1.0 + r2 / (2.0 * self.alpha)
            return base**-self.alpha, -0.5 * base ** (-self.alpha - 1.0)

    @dataclass(frozen=True)
    class Laplace(NoiseModel):
        scale: object
        scaled = ("scale",)

        def log_density(self, y, rows, parameters, xp):
            b = parameters["scale"]
            return -xp.abs(rows.z - y) / b - xp.log(2.0 * b)

        def draw(self, y, rows, parameters, rng):
            return y + parameters["scale"] * rng.laplace(size=y.shape)

    @dataclass(frozen=True)
    class Ramp(uq.Prior):
        top: float

        def _log_density(self, x, xp):
            return xp.where((x > 0.0) & (x < self.top), xp.log(2.0 * x) - 2.0 * np.log(self.top), -np.inf)

        def _cdf(self, x):
            return np.clip(x / self.top, 0.0, 1.0) ** 2

        def _quantile(self, p):
            return self.top * np.sqrt(p)

        @property
        def support(self):
            return 0.0, self.top

    @dataclass(frozen=True)
    class Line:
        slope: float
        space: uq.ParameterSpace

        @property
        def domain(self):
            return self.space.box()

        @property
        def layouts(self):
            return {"y": uq.surrogates.Layout()}

        @property
        def attrs(self):
            return {"space": self.space.to_json()}

        def scores(self, u):
            f = np.concatenate([np.ones_like(u), u], axis=-1)
            covariance = 0.01 * f @ np.swapaxes(f, -1, -2)
            return uq.surrogates.Scores((self.slope * u)[None], covariance[None, ..., None, :, :], np.zeros(1))

        def scores_reverse(self, u, mean_bar, covariance_bar):
            f = np.concatenate([np.ones_like(u), u], axis=-1)
            bar = covariance_bar[0, 0] + covariance_bar[0, 0].T
            return self.slope * mean_bar[0] + 0.01 * (bar @ f)[:, 1:]

        def decode(self, output, coords=None):
            return uq.surrogates.Decoder(np.zeros(1), np.ones((1, 1)), np.zeros((1, 0)))

        def functions(self, n, rng):
            return uq.surrogates.draws_from_scores(self, n, rng, 16)

    def decay(k):
        return np.exp(-k * np.linspace(0.0, 2.0, 5))

    def slower(k):
        return np.exp(-0.5 * k * np.linspace(0.0, 2.0, 5))

    def double(p):
        return 2.0 * p["k"]

    def fingerprint(posterior):
        names = [name or None for name in posterior.problem.named_parts]
        predictions = [posterior.predict(part=name, noise=True, rng=1) for name in names]
        out = {"summary": str(posterior.summary()), "verdict": str(posterior.verdict)}
        out["mean"] = [one.mean[name].values.tolist() for one in predictions for name in one.mean]
        out["sd"] = [one.sd[name].values.tolist() for one in predictions for name in one.sd]
        theta, latents = posterior.flat(), posterior.latents
        out["log"] = posterior.problem.log_likelihood(theta, latents if posterior.problem.latents else None).tolist()
        out["share"] = {str(k): float(v) for k, v in posterior.surrogate_share.items()}
        out["tree"] = {str(k): float(np.nansum(v)) for g in posterior.tree.children.values()
                       for k, v in g.dataset.data_vars.items() if v.dtype.kind != "U"}
        out["attrs"] = posterior.tree.attrs["space"]
        return out
"""

READ = """
    import json, sys, warnings
    import numpy as np
    import own_parts
    import uqms as uq
    warnings.simplefilter("error", uq.errors.UqmsWarning)
    print(json.dumps({path: own_parts.fingerprint(uq.load_posterior(path)) for path in sys.argv[1:]}))
"""


class Prior:
    """A sampler that returns draws of the prior: quick, and any draws will do."""

    def run(self, problem: uq.Calibration, seed: int) -> xr.DataTree:
        theta, rng = problem.prior_draws(40, seed), np.random.default_rng(seed)
        draws = {name: (("chain", "draw"), values.reshape(2, 20)) for name, values in theta.items()}
        if problem.latents:
            draws["latents"] = (("chain", "draw", "latent"), 0.1 * rng.standard_normal((2, 20, problem.latents)))
        return xr.DataTree.from_dict({"posterior": xr.Dataset(draws)})


def fitted(own: ModuleType, kernel: uq.RadialKernel) -> object:
    """Return a process trained on runs."""
    design = uq.sobol(uq.ParameterSpace(k=own.Ramp(1.5), r=uq.Uniform(0.0, 1.0)), 16, rng=1)
    t = np.linspace(0.0, 2.0, 6)
    curves = np.exp(-design["k"].values[:, None] * t) + design["r"].values[:, None]
    table = xr.DataArray(curves, dims=("run", "t"), coords={"t": t}, attrs={"unit": "mg"})
    return uq.GaussianProcess(kernel=kernel).fit(uq.ensemble.build(design, {"y": table}))


def curve(own: ModuleType) -> uq.Calibration:
    data = xr.DataArray([1.4, 1.0, 0.8], dims="t", coords={"t": [0.0, 0.8, 2.0]}, name="y", attrs={"unit": "mg"})
    return uq.Calibration(
        fitted(own, uq.Matern52()),
        data,
        own.Laplace(uq.HalfNormal(0.1)),
        constraints=["k > 0.1"],
        derived={"twice": own.double, "lambda": lambda p: p["k"] + 1.0},
    )


def closed(own: ModuleType) -> uq.Calibration:
    data = xr.DataArray([1.4, 1.0, 0.8], dims="t", coords={"t": [0.0, 0.8, 2.0]}, name="y", attrs={"unit": "mg"})
    noise = {"y": uq.GaussianNoise(sd=uq.HalfNormal(0.1))}
    return uq.Calibration(
        fitted(own, uq.Matern52()), data, noise, discrepancy=[uq.GPDiscrepancy(length={"t": 0.7})], fixed={"r": 0.4}
    )


def line(own: ModuleType) -> uq.Calibration:
    surrogate = own.Line(2.0, uq.ParameterSpace(k=uq.Uniform(0.0, 1.0)))
    return uq.Calibration(surrogate, xr.DataArray(0.9, name="y"), noise=uq.GaussianNoise(sd=0.1))


def direct(own: ModuleType) -> uq.Calibration:
    t = np.linspace(0.0, 2.0, 5)
    space = uq.ParameterSpace(k=uq.LogNormal(median=1.0, sigma=0.5))
    simulator = uq.DirectSimulator(own.decay, space=space, outputs={"y": ("t",)}, coords={"t": t})
    data = xr.DataArray(np.exp(-t), dims="t", coords={"t": t}, name="y")
    return uq.Calibration(simulator, data, noise=uq.GaussianNoise(sd=0.1))


def joint(own: ModuleType) -> uq.Calibration:
    """Three parts, two of which have one surrogate."""
    first = given_surrogate(np.array([[0.1], [0.5], [0.9]]), np.array([[0.1], [0.4], [0.9]]))
    second = given_surrogate(np.array([[0.2], [0.5], [0.7]]), np.array([[0.9], [0.4], [0.2]]))
    data = [replicates(np.array([[value, value + 0.1]])) for value in (0.3, 0.4, 0.5)]
    return uq.Calibration(
        {"a": (first, data[0]), "b": (second, data[1]), "c": (first, data[2])},
        noise={
            "a": uq.GaussianNoise(sd=0.2),
            "b": uq.GaussianNoise(sd=uq.HalfNormal(0.3)),
            "c": uq.StudentTNoise(scale=0.2, df=4.0),
        },
    )


def population(own: ModuleType, how: str = "auto") -> uq.Calibration:
    law = uq.Population(
        PATIENTS,
        individual=("a", "b"),
        covariates={"b": {"log(weight / 70)": uq.Normal(0.0, 0.1), "female": 0.1}},
        spread={"a": uq.HalfNormal(0.05), "b": uq.HalfNormal(0.1)},
        correlated=True,
    )
    return uq.Calibration(
        of_patients(),
        observations(table()),
        uq.GaussianNoise(sd=uq.HalfNormal(0.3)),
        population=law,
        subjects=COVARIATES,
        outside="extrapolate",
        surrogate_error=how,
    )


def featured(own: ModuleType) -> uq.Calibration:
    """A population with features where its subjects are, as a sampler leaves it."""
    problem = population(own, "low-rank")
    theta, rng = problem.prior_draws(60, 3), np.random.default_rng(3)
    return problem.with_features(theta, 0.5 * rng.standard_normal((60, problem.latents)), rng)


PROBLEMS = (curve, closed, line, direct, joint, population, featured)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("posteriors")
    (path / "own_parts.py").write_text(textwrap.dedent(OWN))
    (path / "read.py").write_text(textwrap.dedent(READ))
    sys.path.insert(0, str(path))
    yield path
    sys.path.remove(str(path))
    sys.modules.pop("own_parts", None)


@pytest.fixture(scope="module")
def own(folder: Path) -> ModuleType:
    return importlib.import_module("own_parts")


@pytest.fixture(scope="module")
def saved(folder: Path, own: ModuleType) -> dict[str, uq.Posterior]:
    """Return posteriors by the path of their file."""
    found = {}
    for make in PROBLEMS:
        posterior = make(own).sample(Prior(), rng=1)
        path = posterior.save(folder / f"{make.__name__}.nc")
        found[str(path)] = posterior
    return found


# ----------------------------------------------------------------------------------------------------------- round trip
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::uqms.errors.UqmsWarning")
def test_all_numbers_are_the_same_in_a_new_process(
    saved: dict[str, uq.Posterior], folder: Path, own: ModuleType
) -> None:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(Path(uq.__file__).parents[1]), str(folder)]))
    command = [sys.executable, str(folder / "read.py"), *saved]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout.splitlines()[-1])
    for path, posterior in saved.items():
        here = json.loads(json.dumps(own.fingerprint(posterior)))
        for key, value in here.items():
            assert there[path][key] == value, (path, key)


def test_the_tree_is_the_same_and_others_read_it(saved: dict[str, uq.Posterior], folder: Path) -> None:
    path = folder / "joint.nc"
    before, after = saved[str(path)], uq.load_posterior(path)
    assert list(after.tree.children) == list(before.tree.children)
    for name, group in before.tree.children.items():
        xr.testing.assert_identical(after.tree[name].to_dataset(), group.to_dataset())
    assert dict(after.tree.attrs) == dict(before.tree.attrs)
    assert repr(after.problem) == repr(before.problem)
    assert after.part("a").problem.surrogate is after.part("c").problem.surrogate  # stored once
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        np.testing.assert_array_equal(tree["posterior"]["theta"], before.draws["theta"])


def test_a_loaded_posterior_is_saved_again(saved: dict[str, uq.Posterior], folder: Path, own: ModuleType) -> None:
    again = uq.load_posterior(uq.load_posterior(folder / "featured.nc").save(folder / "again.nc"))
    assert own.fingerprint(again) == own.fingerprint(saved[str(folder / "featured.nc")])


def test_surrogates_come_back_with_kernels_of_ones_own_and_the_probability_of_success(own: ModuleType) -> None:
    surrogate = fitted(own, own.Cauchy(2.0))
    design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 1.0)), 16, rng=1)
    ok = design["k"].values < 0.6
    runs = uq.ensemble.build(design, {"y": np.where(ok, 1.0, np.nan)}, states=np.where(ok, "completed", "failed"))
    success = uq.SuccessProbability().fit(runs)
    writer = Writer()
    written = json.loads(json.dumps(writer.value([surrogate, success, surrogate], "x"), allow_nan=False))
    assert len(writer.surrogates) == 2
    first, second, third = Reader(writer.arrays, json.loads(json.dumps(writer.surrogates))).value(written)
    assert first is third
    assert first.process.kernel == surrogate.process.kernel
    assert own.Cauchy(2.0) in getattr(first.process.kernel, "kernels", (first.process.kernel,))
    u = np.array([[0.2, 0.3], [0.7, 0.9]])
    np.testing.assert_array_equal(first.scores(u).covariance, surrogate.scores(u).covariance)
    np.testing.assert_array_equal(second.probability({"k": [0.2, 0.9]}), success.probability({"k": [0.2, 0.9]}))


def test_derived_quantities_of_lambdas_keep_their_draws(saved: dict[str, uq.Posterior], folder: Path) -> None:
    after = uq.load_posterior(folder / "curve.nc")
    np.testing.assert_array_equal(after.draws["lambda"], after.draws["k"] + 1.0)
    np.testing.assert_array_equal(after.problem.derived["twice"].function({"k": 2.0}), 4.0)
    with pytest.raises(InputError, match=r"computed by '.*lambda.*'.*Its draws are in posterior\.draws"):
        after.problem.derived["lambda"].function({"k": 1.0})


def test_code_that_changed_is_noticed(folder: Path, own: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = direct(own).sample(Prior(), rng=1)
    path = posterior.save(folder / "changed.nc")
    monkeypatch.setattr(own, "decay", own.slower)
    with pytest.warns(DataWarning, match=r"log-likelihood of the first draw .*own_parts:decay"):
        uq.load_posterior(path)


# ------------------------------------------------------------------------------------------------------ what is refused
def test_a_part_of_a_joint_posterior_is_not_saved(saved: dict[str, uq.Posterior], folder: Path) -> None:
    whole = saved[str(folder / "joint.nc")]
    for name in "ab":
        with pytest.raises(InputError, match=r"part of a joint one.*Save the joint posterior"):
            whole.part(name).save(folder / "part.nc")


def test_code_without_a_name_is_not_saved(folder: Path) -> None:
    space = uq.ParameterSpace(k=uq.Uniform(0.0, 1.0))
    simulator = uq.DirectSimulator(lambda k: k, space=space, outputs={"y": ()})
    posterior = uq.Calibration(simulator, xr.DataArray(0.3, name="y"), noise=uq.GaussianNoise(sd=0.1)).sample(
        Prior(), rng=1
    )
    with pytest.raises(
        InputError, match=r"function of DirectSimulator is a function that another process cannot import"
    ):
        posterior.save(folder / "lambda.nc")
    assert not (folder / "lambda.nc").exists()


@pytest.mark.parametrize("name", ["shutil:rmtree", "numpy:savetxt", "subprocess:getoutput", "os:system"])
def test_no_function_of_another_package_is_called(name: str) -> None:
    from uqms._import_names import function_named

    with pytest.raises(InputError):
        function_named(name, "function")


def test_a_function_of_another_package_has_no_name_to_be_stored() -> None:
    import shutil

    assert Writer().value(shutil.rmtree, "x") == {"lost": "rmtree"}
    assert Writer().value(np.exp, "x") == {"lost": "exp"}


def test_files_that_are_no_posterior_are_refused(saved: dict[str, uq.Posterior], folder: Path, own: ModuleType) -> None:
    whole = saved[str(folder / "joint.nc")]
    whole.to_netcdf(folder / "draws.nc")
    whole.problem.parts["a"].surrogate.save(folder / "surrogate.npz")
    (folder / "pickle.nc").write_bytes(pickle.dumps([1]))
    (folder / "text.nc").write_text("hello")
    design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 1.0)), 4, rng=1)
    uq.ensemble.to_netcdf(uq.ensemble.build(design, {"y": design["k"].values}), folder / "runs.nc")
    for name, kind, message in (
        ("missing.nc", MissingFileError, r"no file 'missing.nc' in the folder .*it has .*curve.nc"),
        ("draws.nc", FormatError, r"draws without the calibration.*posterior\.save\(path\)"),
        ("surrogate.npz", FormatError, r"\.npz file.*uq\.load_surrogate"),
        ("pickle.nc", UnsafeFileError, "is a pickle, which would run code"),
        ("text.nc", FormatError, "is no netCDF file"),
        ("runs.nc", FormatError, r"ensemble of runs.*uq\.ensemble\.from_netcdf"),
    ):
        with pytest.raises(kind, match=message):
            uq.load_posterior(folder / name)


def test_damage_and_newer_versions_are_noticed(saved: dict[str, uq.Posterior], folder: Path) -> None:
    good = (folder / "joint.nc").read_bytes()
    path = folder / "damaged.nc"
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(FormatError, match="truncated or damaged"):
        uq.load_posterior(path)
    for place in ("posterior/theta", "calibration/numbers", "calibration/header", "surrogate_share/theta"):
        path.write_bytes(good)
        with h5py.File(path, "r+") as file:
            values = np.array(file[place])
            file[place][...] = values + np.ones(1, dtype=values.dtype) if values.ndim else values + 1.0
        with pytest.raises(IntegrityError, match="is not what uqms wrote"):
            uq.load_posterior(path)
    path.write_bytes(good)
    with h5py.File(path, "r+") as file:
        file["calibration"].attrs["version"] = 2
    with pytest.raises(FormatVersionError, match="format version 2, this uqms reads up to 1; update uqms"):
        uq.load_posterior(path)


def test_draws_and_features_that_do_not_belong_to_the_calibration_are_refused(own: ModuleType, folder: Path) -> None:
    """Compiled code reads features by the sizes that they say, and hyperparameter draws by their number."""
    problem = featured(own)
    flat, left_out = problem.lowrank.error.flat(), problem.lowrank.error.left_out
    np.testing.assert_array_equal(problem.with_flat_features(flat, left_out).lowrank.block, problem.lowrank.block)
    more = flat.copy()
    more[1 + len(left_out)] += 1.0  # points of the first score
    for block in (flat[:-1], np.append(flat, 1.0), more):
        with pytest.raises((InputError, ValueError)):
            problem.with_flat_features(block, left_out)
    posterior = line(own).sample(Prior(), rng=1)
    posterior.tree["sample_stats"]["hyperparameter_draw"] = posterior.tree["sample_stats"]["hyperparameter_draw"] + 1
    with pytest.raises(FormatError, match="draws that do not belong to its calibration"):
        uq.load_posterior(posterior.save(folder / "odd.nc"))


def test_a_class_that_is_gone_is_named(
    saved: dict[str, uq.Posterior], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "own_parts")
    source = (folder / "own_parts.py").read_text()
    (folder / "own_parts.py").write_text(source.replace("class Line:", "class Other:"))
    try:
        with pytest.raises(FormatError, match=r"surrogate own_parts:Line is needed.*no `class Line`"):
            uq.load_posterior(folder / "line.nc")
    finally:
        (folder / "own_parts.py").write_text(source)

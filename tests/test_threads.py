"""BLAS has one thread inside of what a user calls, its former number afterwards, and draws do not depend on it."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import xarray as xr
from calibration.population.test_population import problem as population
from calibration.population.test_prediction import posterior_of
from threadpoolctl import ThreadpoolController, threadpool_limits

import uqms as uq
from uqms import _threads
from uqms._threads import one_thread, single_threaded
from uqms.calibration.posterior import Posterior
from uqms.diagnostics import identifiability, profile_likelihood, verify
from uqms.errors import ExtrapolationWarning, InputError
from uqms.runs.pool import usable_cpus
from uqms.surrogates import GaussianProcessSurrogate, held_out, kernels

TIMES = np.linspace(0.0, 1.0, 6)
SPACE = uq.ParameterSpace(a=uq.Uniform(0.5, 1.5), b=uq.Uniform(0.0, 1.0), c=uq.Uniform(0.0, 1.0))
LIBRARIES = ThreadpoolController().lib_controllers


def blas() -> set[int]:
    """Return the numbers of threads of the BLAS libraries: NumPy's and SciPy's are two."""
    return {library.num_threads for library in LIBRARIES if library.user_api == "blas"}


@pytest.fixture
def two() -> Iterator[None]:
    """Give BLAS two threads, and see them again afterwards."""
    with threadpool_limits(2):
        assert blas() == {2}
        yield
        assert blas() == {2}


# --- the limit --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("two")
def test_the_limit_ends_with_the_outermost_call() -> None:
    with one_thread():
        assert blas() == {1}
        with one_thread():
            assert blas() == {1}
        assert blas() == {1}
    assert blas() == {2}


@pytest.mark.usefixtures("two")
def test_an_error_ends_the_limit() -> None:
    @single_threaded
    def fails(x: float) -> float:
        raise InputError(f"{x}: {blas()}")

    with pytest.raises(InputError, match=r"3\.0: \{1\}"):
        fails(3.0)
    assert blas() == {2}


@pytest.mark.usefixtures("two")
def test_the_limit_ends_with_the_last_thread() -> None:
    """The other thread begins within the limit of this one, which ends first: neither frees the other, or forgets."""
    inside, leave, seen = threading.Event(), threading.Event(), []

    def other() -> None:
        with one_thread():
            inside.set()
            leave.wait(60.0)
            seen.append(blas())

    thread = threading.Thread(target=other)
    with one_thread():
        thread.start()
        assert inside.wait(60.0)
    assert blas() == {1}
    leave.set()
    thread.join()
    assert seen == [{1}]
    assert blas() == {2}


def test_what_a_user_limited_is_restored() -> None:
    with threadpool_limits(2):
        with threadpool_limits(1):
            with one_thread():
                assert blas() == {1}
            assert blas() == {1}
        assert blas() == {2}


class Library:
    """A library as threadpoolctl shows it, with four threads: of the process, or of each thread (OpenMP)."""

    def __init__(self, name: str, api: str) -> None:
        self.filepath, self.internal_api, self.local = name, api, threading.local()
        self.threads = 4

    def get_num_threads(self) -> int:
        """Return the number that the calling thread sees."""
        return getattr(self.local, "threads", 4) if self.internal_api == "openmp" else self.threads

    def set_num_threads(self, threads: int) -> None:
        """Set the number."""
        if self.internal_api == "openmp":
            self.local.threads = threads
        else:
            self.threads = threads


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Library]:
    """Return the libraries that are loaded, to which others may be added."""
    libraries: list[Library] = []

    class Controller:
        lib_controllers = property(lambda _: libraries)

    monkeypatch.setattr("threadpoolctl.ThreadpoolController", Controller)
    return libraries


def test_a_library_that_is_loaded_later_is_limited_by_the_next_call(
    loaded: list[Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, (first, later) = _threads._Limit(), (Library(name, "openblas") for name in "ab")
    loaded.append(first)
    limit.enter()
    assert (first.threads, later.threads) == (1, 4)
    loaded.append(later)
    limit.enter()
    assert (first.threads, later.threads) == (1, 4)  # no module was imported: nothing is looked up
    limit.leave()
    monkeypatch.setitem(sys.modules, "a_module_that_loads_a_library", _threads)
    limit.enter()
    assert (first.threads, later.threads) == (1, 1)
    limit.leave()
    assert (first.threads, later.threads) == (1, 1)
    limit.leave()
    assert (first.threads, later.threads) == (4, 4)


def test_each_thread_limits_what_counts_threads_per_thread(loaded: list[Library]) -> None:
    limit, openmp, seen = _threads._Limit(), Library("omp", "openmp"), []
    loaded.append(openmp)

    def other() -> None:
        seen.append(openmp.get_num_threads())
        limit.enter()
        seen.append(openmp.get_num_threads())
        limit.leave()
        seen.append(openmp.get_num_threads())

    limit.enter()
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [4, 1, 4]
    assert openmp.get_num_threads() == 1
    limit.leave()
    assert openmp.get_num_threads() == 4


def test_a_child_process_forgets_the_threads_of_its_parent(loaded: list[Library]) -> None:
    limit, library = _threads._Limit(), Library("a", "openblas")
    loaded.append(library)
    thread = threading.Thread(target=limit.enter)  # and it never leaves: in the child it does not exist
    thread.start()
    thread.join()
    limit.lock.acquire()
    limit.forked()
    assert library.threads == 4
    limit.enter()
    assert library.threads == 1
    limit.forked()  # now by a thread that is inside
    assert library.threads == 1
    limit.leave()
    assert library.threads == 4


# --- what a user calls ------------------------------------------------------------------------------------------------


def runs(n: int) -> xr.Dataset:
    """Return n runs of a curve of three parameters."""
    return simulated(uq.sobol(SPACE, n, rng=1))


def simulated(design: xr.Dataset) -> xr.Dataset:
    """Return runs at the points of a design."""
    a, b, c = (design[name].values[:, None] for name in "abc")
    curve = a * np.exp(-b * TIMES) + c * np.sin(3.0 * TIMES)
    return uq.ensemble.build(design, {"y": xr.DataArray(curve, dims=("run", "t"), coords={"t": TIMES})})


@pytest.fixture(scope="module")
def surrogate() -> GaussianProcessSurrogate:
    return uq.GaussianProcess().fit(runs(24))


def calibration(surrogate: GaussianProcessSurrogate) -> uq.Calibration:
    values = 1.1 * np.exp(-0.4 * TIMES) + 0.3 * np.sin(3.0 * TIMES) + 0.02 * np.cos(40.0 * TIMES)
    data = xr.DataArray(values, dims="t", coords={"t": TIMES}, name="y")
    return uq.Calibration(surrogate, data, noise=uq.GaussianNoise(sd=0.05))


@pytest.fixture(scope="module")
def posterior(surrogate: GaussianProcessSurrogate) -> Posterior:
    return calibration(surrogate).sample(uq.Laplace(draws=1000), rng=1)


@pytest.fixture(scope="module")
def patients() -> Posterior:
    return posterior_of(population(), 8)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """Return the numbers of BLAS threads at each evaluation of a kernel: likelihoods and predictions need it."""
    numbers: list[set[int]] = []
    original = kernels._single

    def spy(*arguments: object) -> object:
        numbers.append(blas())
        return original(*arguments)

    monkeypatch.setattr(kernels, "_single", spy)
    return numbers


def new_input(surrogate: GaussianProcessSurrogate) -> dict[str, np.ndarray]:
    return {name: np.array([0.7]) for name in surrogate.domain.names}


def verified(posterior: Posterior) -> object:
    return verify(posterior, simulated(uq.verification_design(posterior, 8, rng=1)))


OF_SURROGATES: dict[str, Callable[[GaussianProcessSurrogate], object]] = {
    "fit": lambda _: uq.GaussianProcess(hyperparameters="point").fit(runs(8)),
    "predict": lambda s: s.predict(new_input(s)),
    "evaluate": lambda s: s.evaluate({name: 0.7 for name in "abc"}),
    "held_out": lambda s: held_out(s, runs(8)),
    "sobol_indices": lambda s: uq.sobol_indices(s, points=64, rng=1),
    "propagate": lambda s: uq.propagate(s, rng=1),
    "construction": calibration,
    "log_likelihood": lambda s: calibration(s).log_likelihood(new_input(s)),
    "simulate": lambda s: calibration(s).simulate(new_input(s), 1),
    "maximum_a_posteriori": lambda s: calibration(s).maximum_a_posteriori(rng=1),
    "sample": lambda s: calibration(s).sample(uq.Laplace(draws=100), rng=1),
}
OF_POSTERIORS: dict[str, Callable[[Posterior], object]] = {
    "predict": lambda p: p.predict(draws=20, rng=1),
    "identifiability": identifiability,
    "profile_likelihood": lambda p: profile_likelihood(p.single, "a", rng=1),
    "verify": verified,
}


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("name", OF_SURROGATES)
def test_one_thread_inside(name: str, surrogate: GaussianProcessSurrogate, seen: list[set[int]]) -> None:
    OF_SURROGATES[name](surrogate)
    assert seen
    assert all(numbers == {1} for numbers in seen)


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("name", OF_POSTERIORS)
def test_one_thread_inside_of_what_a_posterior_does(name: str, posterior: Posterior, seen: list[set[int]]) -> None:
    OF_POSTERIORS[name](posterior)
    assert seen
    assert all(numbers == {1} for numbers in seen)


OF_POPULATIONS: dict[str, Callable[[Posterior], object]] = {
    "log_likelihood": lambda p: p.problem.log_likelihood(p.problem.prior_draws(2, 1), np.zeros((2, p.problem.latents))),
    "simulate": lambda p: p.problem.simulate(p.problem.prior_draws(2, 1), 1),
    "predict": lambda p: p.predict(draws=4, rng=1),
    "new_subject": lambda p: p.new_subject(covariates={"weight": 70.0, "female": 0.0}).predict(
        conditions={"x": 0.5}, rng=1
    ),
}


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("name", OF_POPULATIONS)
def test_one_thread_inside_of_what_a_population_does(name: str, patients: Posterior, seen: list[set[int]]) -> None:
    OF_POPULATIONS[name](patients)
    assert seen
    assert all(numbers == {1} for numbers in seen)


@pytest.mark.usefixtures("two")
def test_a_population_is_sampled_in_one_thread(patients: Posterior) -> None:
    """The sampler is one's own, and fails: the limit ends with the error."""

    class Fails:
        def run(self, problem: uq.PopulationCalibration, seed: int) -> object:
            raise InputError(f"{blas()}")

    with pytest.raises(InputError, match=r"^\{1\}$"):
        patients.problem.sample(Fails(), rng=1)
    assert blas() == {2}


def test_a_warning_names_the_line_of_the_user(surrogate: GaussianProcessSurrogate) -> None:
    with pytest.warns(ExtrapolationWarning) as record:
        surrogate.predict({"a": np.array([2.0]), "b": np.array([0.5]), "c": np.array([0.5])})
    assert {warning.filename for warning in record} == {__file__}


# --- draws ------------------------------------------------------------------------------------------------------------

DRAWS = """
import hashlib
import numpy as np, xarray as xr
import uqms as uq

times = np.linspace(0.0, 1.0, 20)
space = uq.ParameterSpace(**{name: uq.Uniform(0.5, 1.5) for name in "abcd"})
design = uq.sobol(space, 120, rng=1)
a, b, c, d = (design[name].values[:, None] for name in "abcd")
curve = a * np.exp(-b * times) + c * np.sin(3.0 * d * times)
runs = uq.ensemble.build(design, {"y": xr.DataArray(curve, dims=("run", "t"), coords={"t": times})})
surrogate = uq.GaussianProcess(hyperparameters="point").fit(runs)
data = xr.DataArray(curve[7] + 0.02 * np.cos(40.0 * times), dims="t", coords={"t": times}, name="y")
problem = uq.Calibration(surrogate, data, noise=uq.GaussianNoise(sd=0.05))
posterior = problem.sample(uq.NUTS(draws=200, tune=300), rng=1)
prediction = posterior.predict(draws=50, rng=1)
for values in (*(posterior.draws[name].values for name in "abcd"), prediction.draws["y"].values):
    print(hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.skipif(usable_cpus() == 1, reason="one core: one thread in any case")
def test_draws_are_the_same_with_any_number_of_threads() -> None:
    def printed(threads: str | None) -> list[str]:
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
        environment |= {} if threads is None else {"OMP_NUM_THREADS": threads}
        command = [sys.executable, "-W", "ignore", "-c", DRAWS]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    default = printed(None)
    assert len(default) == 5
    assert default == printed("1")

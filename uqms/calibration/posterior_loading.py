"""A posterior from its file, see `posterior_file`: the calibration is constructed anew from its settings."""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from uqms import _checks as check
from uqms._import_names import UnknownClassError
from uqms._teaching import taught
from uqms._typing import Array
from uqms.calibration.base import Problem
from uqms.calibration.checks import Verdict
from uqms.calibration.direct import is_exact
from uqms.calibration.parts import JointCalibration
from uqms.calibration.population.calibration import PopulationCalibration
from uqms.calibration.posterior import Posterior
from uqms.calibration.posterior_file import FORMAT, GROUP, SHARE, VERSION
from uqms.calibration.single import SingleCalibration
from uqms.calibration.stored_values import Reader
from uqms.ensemble.netcdf import checksum, refuse_unsafe
from uqms.errors import (
    PACKAGE,
    DataWarning,
    FormatError,
    FormatVersionError,
    InputError,
    IntegrityError,
    UnsafeFileError,
    UqmsError,
    UqmsWarning,
)

__all__ = ["load_posterior"]

SAME = 1e-6  # relative and absolute difference of a log-likelihood that rounding of another machine may make


@taught
def load_posterior(path: str | os.PathLike[str]) -> Posterior:
    """Read a posterior that `Posterior.save` wrote, with its surrogate and observations.

    Summary, verdict, predictions and all other calls give the numbers that they gave before, in a new process too.
    Kernels, noise models, priors and surrogates of your own are imported by name: their modules must be where Python
    finds them. Nothing in the file is run.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Posterior
        Its quantities are in their own units, as before.

    Raises
    ------
    MissingFileError
        When there is no such file.
    FormatError
        When the file is damaged, is no posterior, or needs a class of yours that cannot be imported;
        `FormatVersionError` when a newer uqms wrote it.
    IntegrityError
        When the content is not what was written.
    UnsafeFileError
        When the file would read other files, hold pickled objects or fill the memory.

    Warns
    -----
    DataWarning
        When the calibration has another log-likelihood than the one that was sampled: your own code has changed.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np, xarray as xr, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": np.sin(design["k"].values)}))
    >>> problem = uq.Calibration(surrogate, xr.DataArray(0.5, name="y"), noise=uq.GaussianNoise(sd=0.1))
    >>> posterior = problem.sample(uq.Laplace(), rng=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     same = load_posterior(posterior.save(f"{folder}/posterior.nc"))
    >>> bool(same.predict(rng=1).mean["y"] == posterior.predict(rng=1).mean["y"])
    True
    """
    source = check.existing_file("load_posterior", path)
    _refuse_other_files(source)
    refuse_unsafe(source)
    header, numbers, groups, attrs = _read(source)
    try:
        arrays = _arrays(header["shapes"], numbers)
        reader = Reader(arrays, header["surrogates"])
        problem = _constructed(header["problem"]["kind"], reader.value(header["problem"]["settings"]))
        verdict = Verdict(tuple(reader.value(header["checks"])))
    except UnknownClassError as error:
        raise FormatError(f"{source}: {error}") from error
    except UqmsError as error:
        raise FormatError(f"{source} holds a calibration that cannot be made again: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise FormatError(
            f"{source} describes no posterior ({type(error).__name__}: {error}); take a copy, or sample again."
        ) from error
    share = groups.pop(SHARE)
    tree = xr.DataTree.from_dict(groups)
    tree.attrs |= attrs
    posterior = Posterior(tree, problem, verdict, share)
    _check_same(source, posterior, header["code"])
    return posterior


def _refuse_other_files(source: Path) -> None:
    with source.open("rb") as file:
        head = file.read(8)
    if head[:1] == b"\x80":
        raise UnsafeFileError(f"{source} is a pickle, which would run code; give a file that `posterior.save` wrote.")
    if head[:4] == b"PK\x03\x04":
        raise FormatError(
            f"{source} is an .npz file, such as surrogate.save(path) writes: read it by uq.load_surrogate."
        )
    if head != b"\x89HDF\r\n\x1a\n":
        raise FormatError(f"{source} is no netCDF file; give one that `posterior.save(path)` wrote.")


def _read(source: Path) -> tuple[dict[str, Any], Array, dict[str, xr.Dataset], dict[str, Any]]:
    """Return header, numbers, groups and attributes, after all checksums agreed."""
    try:
        with xr.open_datatree(
            source, engine="h5netcdf", decode_times=False, decode_timedelta=False, mask_and_scale=False, cache=False
        ) as opened:
            groups = {str(name): group.to_dataset(inherit=False).load() for name, group in opened.children.items()}
            mine = groups.pop(GROUP, None)
            attrs = {str(key): one for key, one in opened.attrs.items()}
    except MemoryError:
        raise
    except Exception as error:  # attributes that contradict each other end in any of them
        raise FormatError(f"{source} cannot be read as netCDF ({error}); it is damaged, take a copy.") from error
    if mine is None or mine.attrs.get("format") != FORMAT:
        raise FormatError(_what_else(source, groups, attrs))
    version = mine.attrs.get("version")
    if not isinstance(version, int | np.integer) or version < 1:
        raise FormatError(f"{source} has format version {version!r}; this uqms reads up to {VERSION}.")
    if version > VERSION:
        raise FormatVersionError(
            f"{source} has format version {version}, this uqms reads up to {VERSION}; update uqms "
            "(pip install -U uqms)."
        )
    damaged = IntegrityError(f"the content of {source} is not what uqms wrote; take a copy, or sample again.")
    try:
        text = np.asarray(mine["header"].values, dtype=np.uint8).tobytes()
        if hashlib.sha256(text).hexdigest() != mine.attrs.get("sha256"):
            raise damaged
        header = json.loads(text)
        numbers = np.ascontiguousarray(mine["numbers"].values, dtype="<f8")
        sums = header["sha256"]
        same = hashlib.sha256(numbers.tobytes()).hexdigest() == header["sha256_numbers"] and set(sums) == set(groups)
        if not same or any(checksum(group) != sums[name] for name, group in groups.items()):
            raise damaged
        return header, numbers, groups, attrs | header["attrs"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{source} describes no posterior ({error}); take a copy, or sample again.") from error


def _what_else(source: Path, groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> str:
    if "posterior" in groups:
        return (
            f"{source} holds draws without the calibration, as posterior.to_netcdf(path) writes them: read it by "
            "xarray.open_datatree, or write the posterior by posterior.save(path)."
        )
    if "uqms_format" in attrs:
        return f"{source} is an ensemble of runs, not a posterior: read it by uq.ensemble.from_netcdf."
    return f"{source} is a netCDF file but no posterior; give one that `posterior.save(path)` wrote."


def _arrays(shapes: Sequence[Sequence[int]], numbers: Array) -> list[Array]:
    sizes = [int(np.prod([int(size) for size in shape], dtype=object)) for shape in shapes]
    if any(size < 0 for size in sizes) or sum(sizes) != len(numbers):
        raise InputError("its arrays have other shapes than declared")
    parts = np.split(numbers, np.cumsum(sizes)[:-1]) if sizes else []
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _constructed(kind: str, given: Mapping[str, Any]) -> Problem:
    """Return the problem of its settings; what its construction warns of was told before."""
    settings = dict(given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UqmsWarning)
        if kind == "population":
            features = settings.pop("features")
            problem = PopulationCalibration(settings.pop("surrogate"), settings.pop("observations"), **settings)
            return problem if features is None else problem.with_flat_features(*features)
        if kind == "parts":
            return _joint(settings)
        if kind != "one":
            raise InputError(f"it holds a calibration of the kind {kind!r}")
        return _one(settings)


def _one(settings: dict[str, Any]) -> SingleCalibration:
    surrogate, observations = settings.pop("surrogate"), settings.pop("observations")
    loss, decided = settings.pop("expansion_loss"), settings.pop("decided")
    link_loss = settings.pop("link_loss", float("nan"))
    if settings["expansion"] != "measured":
        return SingleCalibration(surrogate, observations, **settings)
    problem = SingleCalibration(surrogate, observations, **{**settings, "expansion": decided})
    problem.expansion_loss, problem.link_loss = loss, link_loss
    problem.settings["expansion"] = "measured"
    return problem


def _joint(settings: dict[str, Any]) -> JointCalibration:
    parts: Mapping[str, dict[str, Any]] = settings.pop("parts")
    problem = JointCalibration(
        {name: (one["surrogate"], one["observations"]) for name, one in parts.items()},
        noise={name: one["noise"] for name, one in parts.items()},
        discrepancy={name: one["discrepancy"] for name, one in parts.items() if one["discrepancy"] is not None},
        expansion={
            name: one["decided"] if one["expansion"] == "measured" else one["expansion"] for name, one in parts.items()
        },
        **settings,
    )
    for name, one in parts.items():
        problem.parts[name].expansion_loss = one["expansion_loss"]
        problem.parts[name].settings["expansion"] = one["expansion"]
    return problem


def _check_same(source: Path, posterior: Posterior, code: Sequence[str]) -> None:
    """Warn where the problem has another log-likelihood at the first draw than the one that was sampled."""
    problem, stats = posterior.problem, posterior.tree["sample_stats"].dataset
    lost = [name for name in problem.priors if name not in posterior.draws]
    if lost:
        raise FormatError(f"{source} has no draws of {lost}, which its calibration infers; take a copy.")
    h = stats["hyperparameter_draw"].values.reshape(posterior.draws["chain"].size * posterior.draws["draw"].size, -1)
    known = [_hyperparameter_draws(part) for part in problem.named_parts.values()]
    if posterior.latents.shape[1] != problem.latents or (h < 0).any() or (h >= np.array(known)).any():
        raise FormatError(f"{source} has draws that do not belong to its calibration; take a copy, or sample again.")
    theta = {name: values[:1] for name, values in posterior.flat().items()}
    latents = posterior.latents[:1] if problem.latents else None
    now, then = float(problem.log_likelihood(theta, latents)[0]), float(stats["joint_log_likelihood"].values.ravel()[0])
    if not np.isclose(now, then, rtol=SAME, atol=SAME, equal_nan=True):
        mine = f"your code ({', '.join(code)}) or " if code else ""
        warnings.warn(
            f"The log-likelihood of the first draw is {now:.6g}; it was {then:.6g} when {source.name} was written: "
            f"{mine}uqms has changed since. Predictions are those of the changed code; sample again, or bring the old "
            "code back.",
            DataWarning,
            skip_file_prefixes=PACKAGE,
        )


def _hyperparameter_draws(problem: SingleCalibration) -> int:
    """Return how many hyperparameter draws a surrogate has."""
    if is_exact(problem.surrogate):
        return 1
    return len(problem.surrogate.scores(np.full((1, problem.surrogate.domain.d), 0.5)).log_weights)

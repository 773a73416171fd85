"""A posterior in one file: its DataTree, and the calibration that it answers, in a new process too.

The file is netCDF 4. Beside the groups of the DataTree, which `xarray.open_datatree` and ArviZ read, it has the group
"calibration": ``header``, JSON as bytes (the settings of `stored_values`, attributes, verdict, checksums), and
``numbers``, all float64 arrays after each other. Nothing in it is pickled. The calibration is constructed anew from its
settings; what sampling decided (the first-order expansion, the features of a population's error) is taken from the
file.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr

from uqms import _checks as check
from uqms.calibration.base import Problem
from uqms.calibration.stored_values import Writer
from uqms.ensemble.netcdf import atomic_path, checksum
from uqms.errors import InputError

if TYPE_CHECKING:
    from uqms.calibration.parts import JointCalibration
    from uqms.calibration.population.calibration import PopulationCalibration
    from uqms.calibration.posterior import Posterior
    from uqms.calibration.single import SingleCalibration

__all__ = ["FORMAT", "GROUP", "SHARE", "VERSION", "save_posterior"]

FORMAT, VERSION = "uqms-posterior", 1
GROUP = "calibration"
SHARE = "surrogate_share"
ATTRIBUTE = 60_000  # bytes; HDF5 takes attributes up to 64 kB


def save_posterior(posterior: "Posterior", path: str | os.PathLike[str]) -> Path:
    """Write a posterior; see `Posterior.save`."""
    from uqms import __version__

    writer = Writer()
    header: dict[str, Any] = {"format": FORMAT, "version": VERSION, "uqms": __version__}
    header["problem"] = _described(posterior.problem, writer)
    header["checks"] = writer.value(posterior.verdict.checks, "the verdict")
    header["surrogates"], header["code"] = writer.surrogates, sorted(writer.classes)
    header["shapes"] = [list(array.shape) for array in writer.arrays]
    header["attrs"] = {str(key): _plain(value) for key, value in posterior.tree.attrs.items()}
    groups = {str(name): group.dataset for name, group in posterior.tree.children.items()}
    groups[SHARE] = posterior.surrogate_share
    groups = {name: _without_encoding(group) for name, group in groups.items()}
    numbers = np.concatenate([np.zeros(0), *(array.ravel() for array in writer.arrays)])
    header["sha256"] = {name: checksum(group) for name, group in groups.items()}
    header["sha256_numbers"] = hashlib.sha256(numbers.tobytes()).hexdigest()
    text = json.dumps(header, allow_nan=False).encode()
    groups[GROUP] = xr.Dataset(
        {"header": ("byte", np.frombuffer(text, dtype=np.uint8)), "numbers": ("number", numbers)},
        attrs={"format": FORMAT, "version": VERSION, "sha256": hashlib.sha256(text).hexdigest()},
    )
    tree = xr.DataTree.from_dict(groups)
    tree.attrs |= {key: one for key, one in header["attrs"].items() if len(str(one).encode()) < ATTRIBUTE}
    target = check.path("Posterior.save", path)
    encoding = {
        f"/{name}": {str(one): {"_FillValue": None} for one in group.variables} for name, group in groups.items()
    }
    with atomic_path(target) as part:
        tree.to_netcdf(part, engine="h5netcdf", encoding=encoding)
    return target


def _without_encoding(group: xr.Dataset) -> xr.Dataset:
    return group.drop_encoding() if hasattr(group, "drop_encoding") else group


def _plain(value: object) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _described(problem: Problem, writer: Writer) -> dict[str, Any]:
    """Return the settings from which `_constructed` makes the problem again."""
    if problem.kind == "population":
        whole = cast("PopulationCalibration", problem)
        lowrank = whole.lowrank
        features = None if lowrank is None else (lowrank.error.flat(), lowrank.error.left_out)
        settings = whole.settings | ({"surrogate_error": "exact"} if lowrank is None else {})
        own: dict[str, Any] = {"surrogate": whole.surrogate, "observations": whole.observations, **settings}
        own["features"] = features
    elif problem.kind == "parts":
        parts = {name: _single(part) for name, part in problem.named_parts.items()}
        own = {"parts": parts, **cast("JointCalibration", problem).settings}
    else:
        single = cast("SingleCalibration", problem)
        if single.members or single.inside_of_a_whole:
            raise InputError(
                "save: this posterior is a part of a joint one, whose data it depends on. Save the joint posterior, "
                "and take posterior.part(name) after load_posterior."
            )
        own = _single(single)
    return {"kind": problem.kind, "settings": writer.value(own, "the calibration")}


def _single(problem: "SingleCalibration") -> dict[str, Any]:
    surrogate = getattr(problem.surrogate, "chain", problem.surrogate)  # as it was given
    given = problem.settings | {"surrogate": surrogate, "observations": problem.observations}
    if problem.link_errors:
        decided = "outputs" if problem.data_model.closed_form else "none"
    else:
        latent = "links" if hasattr(surrogate, "sampled") else "none"
        decided = "first-order" if problem.data_model.closed_form else latent
    return given | {"decided": decided, "expansion_loss": problem.expansion_loss, "link_loss": problem.link_loss}

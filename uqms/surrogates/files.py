"""Surrogates on disk: one .npz of plain numbers and a JSON header, written whole or not at all, read without trust.

==============  ======================================================================================
member          holds
==============  ======================================================================================
header.npy      JSON as bytes: format, version, kernel as in `kernel_files` (or the levels of a ladder), design box,
                outputs, attrs, shapes, sha256
<name>.npy      one float64 array; ``process.*`` of `ScoreProcess`, ``output<i>.*`` of the i-th output, ``noise.*`` of
                the simulator's noise, where it was learned from replicates; of several levels of fidelity
                ``level<t>.*`` in the place of ``process.*``, and ``log_weights`` of their members
==============  ======================================================================================

Members are stored, not compressed, and in one order with one date: the same surrogate gives the same bytes. Everything
that a file claims (kinds of numbers, sizes, shapes) is held against the bytes that it has before anything is read.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from uqms._typing import Array
from uqms.ensemble.files import atomic_path
from uqms.errors import FormatError, FormatVersionError, InputError, IntegrityError, UnsafeFileError
from uqms.parameters import Box
from uqms.surrogates.classification import FittedProbability
from uqms.surrogates.fidelity.kernels import CoKriging
from uqms.surrogates.fidelity.ladder import Kind, Ladder, Step
from uqms.surrogates.fidelity.surrogate import MultiFidelitySurrogate
from uqms.surrogates.gp import GaussianProcessSurrogate
from uqms.surrogates.kernel_files import UnknownKernelError, description_of, kernel_of_code, kernel_of_description
from uqms.surrogates.kernels import Kernel, Matern52, SquaredExponential, Stationary, hyperparameter_count
from uqms.surrogates.neighbours import LocalGaussianProcessSurrogate
from uqms.surrogates.noise import SimulatorNoise
from uqms.surrogates.outputs import Layout, OutputBasis, score_columns
from uqms.surrogates.process import ScoreProcess
from uqms.surrogates.training import trend_columns
from uqms.surrogates.transforms import IDENTITY, Identity, from_dict, to_dict

if TYPE_CHECKING:
    from uqms.surrogates.regimes import RegimeSurrogate

__all__ = [
    "FORMAT",
    "VERSION",
    "Saved",
    "load_probability",
    "load_regimes",
    "load_surrogate",
    "save_probability",
    "save_regimes",
    "save_surrogate",
]

VERSION = 4  # of all formats; before it a kernel was a number
FORMAT = "uqms-surrogate"
PROBABILITY, REGIMES = "uqms-probability", "uqms-regimes"
Saved = GaussianProcessSurrogate | MultiFidelitySurrogate | LocalGaussianProcessSurrogate
PLAUSIBLE = 64 * 2**20  # bytes that a compressed file may claim without standing in it
LARGEST = 16 * 2**30  # bytes; 20 scores of 2 000 runs, averaged over 16 draws, are 10 GB
HEADER_LARGEST = 16 * 2**20
_HEADER = "header"
# The letters of the shapes: H draws, q scores, n runs, d inputs, b trend functions, p kernel hyperparameters.
_PROCESS = {
    "x": "nd",
    "y": "nq",
    "ell": "Hqp",
    "variance": "Hq",
    "nugget": "Hq",
    "jitter": "Hq",
    "beta": "Hqb",
    "target": "Hqn",
    "inverse_factor": "Hqnn",
    "trend_factor": "Hqnb",
    "trend_root": "Hqbb",
    "log_weights": "H",
}  # and, where runs have known errors, "noise": "qn"
_PROBABILITY = {
    "x": "nd",
    "labels": "n",
    "ell": "Hp",
    "variance": "H",
    "rho": "H",
    "weights": "Hn",
    "factor": "Hnn",
    "log_weights": "H",
    "left_out": "n",
}
_LOCAL = {"x": "nd", "y": "nq", "ell": "qp", "variance": "q", "strength": "q", "typical": "q", "nugget": "q"}
_BASIS = ("offset", "basis", "truncation", "interpolation_sd", "left_out")


# ------------------------------------------------------------------------------------------------------------- writing
def save_surrogate(surrogate: Saved, path: str | os.PathLike[str]) -> Path:
    """Write a surrogate to one .npz file; `load_surrogate` returns it bit for bit.

    The file appears whole or not at all: an interrupted call leaves the old one as it was.

    Parameters
    ----------
    surrogate
        What `fit` of `GaussianProcess` or of several levels of fidelity, or `from_gpytorch`, returned.
    path
        Where to write; the name is taken as it is.

    Raises
    ------
    InputError
        When it is not a surrogate of this package, or its mean is a cheap model in Python.
    StorageError
        When the file cannot be written.
    """
    if not isinstance(surrogate, Saved):
        raise InputError(
            f"save: got a {type(surrogate).__name__}; only what `fit` of this package returned can be written."
        )
    if isinstance(surrogate, GaussianProcessSurrogate) and surrogate.physics is not None:
        raise InputError(
            "save: the surrogate's mean is a cheap model in Python, which a file without code cannot hold. Save the "
            "ensemble (uq.ensemble) and fit again: that gives the same surrogate."
        )
    arrays = _arrays_of(surrogate)
    return _write(_header_of(surrogate, arrays), arrays, path)


def save_probability(fitted: FittedProbability, path: str | os.PathLike[str]) -> Path:
    """Write the probability of an event to one .npz file, as `save_surrogate` writes a surrogate."""
    return _write(*_of_probability(fitted), path)


def save_regimes(surrogate: "RegimeSurrogate", path: str | os.PathLike[str]) -> Path:
    """Write a surrogate with regimes to one .npz file, as `save_surrogate` writes one without."""
    from uqms import __version__

    if any(one.physics is not None for one in surrogate.regimes):
        raise InputError(
            "save: the mean of a regime is a cheap model in Python, which a file without code cannot hold. Save the "
            "ensemble (uq.ensemble) and fit again: that gives the same surrogate."
        )
    arrays, headers = {"labels": np.asarray(surrogate.labels, dtype="<f8")}, []
    for i, one in enumerate(surrogate.regimes):
        own = _arrays_of(one)
        headers.append(_header_of(one, own))
        arrays |= {f"regime{i}.{name}": values for name, values in own.items()}
    borders = []
    for i, border in enumerate(surrogate.borders):
        header, own = _of_probability(border)
        borders.append(header)
        arrays |= {f"border{i}.{name}": values for name, values in own.items()}
    header = {
        "format": REGIMES,
        "version": VERSION,
        "uqms": __version__,
        "regimes": headers,
        "borders": borders,
        "names": list(surrogate.names),
        "members": surrogate.members,
        "attrs": dict(surrogate.attrs),
        "shapes": {name: list(values.shape) for name, values in arrays.items()},
    }
    return _write(header, arrays, path)


def _of_probability(fitted: FittedProbability) -> tuple[dict[str, Any], dict[str, Array]]:
    from uqms import __version__

    arrays: dict[str, Array] = {}
    levels = [fitted]
    while levels[-1].base is not None:
        levels.append(levels[-1].base)
    for i, level in enumerate(levels):
        arrays |= {f"level{i}.{name}": np.asarray(getattr(level, name)) for name in _PROBABILITY}
    arrays = {name: np.ascontiguousarray(values, dtype="<f8") for name, values in arrays.items()}
    header = {
        "format": PROBABILITY,
        "version": VERSION,
        "uqms": __version__,
        "event": fitted.event,
        "kernel": description_of(fitted.kernel),
        "domain": fitted.domain.to_dict(),
        "levels": len(levels),
        "attrs": dict(fitted.attrs),
        "shapes": {name: list(values.shape) for name, values in arrays.items()},
    }
    return header, arrays


def _write(header: dict[str, Any], arrays: Mapping[str, Array], path: str | os.PathLike[str]) -> Path:
    header["sha256"] = _digest(header, arrays)
    text = np.frombuffer(json.dumps(header, allow_nan=False).encode(), dtype=np.uint8)
    target = Path(path)
    with atomic_path(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        members: dict[str, np.ndarray[Any, np.dtype[Any]]] = {_HEADER: text, **arrays}
        for name, values in members.items():
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(member, "w", force_zip64=True) as stream:
                npy.write_array(stream, values, version=(1, 0), allow_pickle=False)
    return target


def _arrays_of(surrogate: Saved) -> dict[str, Array]:
    if isinstance(surrogate, MultiFidelitySurrogate):
        arrays, noise = {"log_weights": surrogate.ladder.log_weights}, None
        for t, step in enumerate(surrogate.ladder.steps):
            arrays |= _arrays_of_process(f"level{t}", step.process)
            arrays |= {} if step.below is None else {f"level{t}.below": step.below}
    elif isinstance(surrogate, LocalGaussianProcessSurrogate):
        arrays, noise = {f"local.{name}": getattr(surrogate, name) for name in _LOCAL}, None
    else:
        arrays, noise = _arrays_of_process("process", surrogate.process), surrogate.noise
    if noise is not None:
        arrays |= _arrays_of_process("noise.process", noise.process)
        arrays |= {"noise.centre": noise.centre, "noise.correlation": noise.correlation}
        for i, (residual, truncation) in enumerate(zip(noise.residuals, noise.truncations, strict=True)):
            arrays |= {f"noise.residual{i}": residual, f"noise.truncation{i}": truncation}
    for i, basis in enumerate(surrogate.bases):
        arrays |= {f"output{i}.{name}": getattr(basis, name) for name in _BASIS}
        arrays |= {f"output{i}.coord{k}": basis.coords[dim] for k, dim in enumerate(basis.dims)}
    return {name: np.ascontiguousarray(values, dtype="<f8") for name, values in arrays.items()}


def _arrays_of_process(prefix: str, process: ScoreProcess) -> dict[str, Array]:
    names = [*_PROCESS, "noise"] if process.noise.any() else _PROCESS
    return {f"{prefix}.{name}": getattr(process, name) for name in names}


def _header_of(surrogate: Saved, arrays: Mapping[str, Array]) -> dict[str, Any]:
    outputs: list[dict[str, Any]] = [
        {"name": b.name, "dims": list(b.dims), "unit": b.layout.unit} for b in surrogate.bases
    ]
    for saved, basis in zip(outputs, surrogate.bases, strict=True):
        if not isinstance(basis.layout.transform, Identity):
            saved["transform"] = to_dict(basis.layout.transform)
        if basis.scores is not None:
            saved["scores"] = list(basis.scores)
    return _header(surrogate, arrays, outputs, _kind(surrogate))


def _kind(surrogate: Saved) -> dict[str, Any]:
    """Return the kernel, and what only a surrogate of its kind has."""
    if isinstance(surrogate, MultiFidelitySurrogate):
        return _header_of_ladder(surrogate)
    if isinstance(surrogate, LocalGaussianProcessSurrogate):
        local = {"columns": surrogate.columns, "neighbours": surrogate.neighbours}
        return {"kernel": description_of(surrogate.kernel), "local": local}
    return {"kernel": description_of(surrogate.process.kernel)}


def _header(
    surrogate: Saved, arrays: Mapping[str, Array], outputs: list[dict[str, Any]], kind: Mapping[str, Any]
) -> dict[str, Any]:
    from uqms import __version__

    return {
        "format": FORMAT,
        "version": VERSION,
        "uqms": __version__,
        **kind,
        "domain": surrogate.domain.to_dict(),
        "outputs": outputs,
        "attrs": dict(surrogate.attrs),
        "shapes": {name: list(values.shape) for name, values in arrays.items()},
    }


def _header_of_ladder(surrogate: MultiFidelitySurrogate) -> dict[str, Any]:
    steps = surrogate.ladder.steps
    levels = [{"kind": step.kind, "kernel": description_of(step.process.kernel), "drawn": step.drawn} for step in steps]
    return {"ladder": levels, "levels": list(surrogate.levels), "costs": dict(surrogate.costs)}


def _digest(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> str:
    """Return the SHA-256 of the header, without its own place, and of the bytes of every array."""
    digest = hashlib.sha256()
    rest = {key: value for key, value in header.items() if key != "sha256"}
    digest.update(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------- reading
def load_surrogate(path: str | os.PathLike[str]) -> Saved:
    """Read a surrogate that `save` wrote; nothing in the file is run, and it cannot ask for more memory than it holds.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    FormatError
        When the file is truncated or is no surrogate; `FormatVersionError` when a newer uqms wrote it.
    IntegrityError
        When the content is not what was written.
    UnsafeFileError
        When the file holds pickled objects, or claims far more than it has.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 8, rng=1)
    >>> surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": np.sin(design["k"].values)}))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     surrogate.save(f"{folder}/surrogate.npz")
    ...     same = load_surrogate(f"{folder}/surrogate.npz")
    >>> bool(same.predict({"k": 1.0}).mean["y"] == surrogate.predict({"k": 1.0}).mean["y"])
    True
    """
    return _loaded(Path(path), FORMAT, "surrogate", _rebuild)


def load_probability(path: str | os.PathLike[str]) -> FittedProbability:
    """Read the probability of an event that `save_probability` wrote, as `load_surrogate` reads a surrogate."""
    return _loaded(Path(path), PROBABILITY, "probability of an event", _rebuild_probability)


def load_regimes(path: str | os.PathLike[str]) -> "RegimeSurrogate":
    """Read a surrogate with regimes that `save_regimes` wrote, as `load_surrogate` reads one without."""
    return _loaded(Path(path), REGIMES, "surrogate with regimes", _rebuild_regimes)


def _loaded[Held](
    source: Path, format_: str, what: str, rebuild: Callable[[Mapping[str, Any], dict[str, Array]], Held]
) -> Held:
    header, arrays = _load(source, format_)
    try:
        return rebuild(_upgraded(header) if header["version"] < VERSION else header, arrays)
    except UnknownKernelError as error:
        raise FormatError(f"{source}: {error}") from error
    except (InputError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError(f"{source} describes no {what} ({error}); fit it again.") from error


def _upgraded(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return a header of format versions 1 to 3 as one of version 4: its kernels, inner ones too, were numbers."""
    new = dict(header)
    if "kernel" in new:
        new["kernel"] = description_of(kernel_of_code(new["kernel"]))
    for inner in ("ladder", "regimes", "borders"):
        if inner in new:
            new[inner] = [_upgraded(one) for one in new[inner]]
    return new


def _load(source: Path, format_: str) -> tuple[dict[str, Any], dict[str, Array]]:
    _refuse_other_files(source)
    try:
        with zipfile.ZipFile(source) as archive:
            members = _inspect(source, archive)
            header = _read_header(source, archive, members, format_)
            _check_declared(source, header, members)
            arrays = {name: _read(archive, member) for name, member in members.items() if name != _HEADER}
    except zipfile.BadZipFile as error:
        if "CRC" in str(error):
            raise IntegrityError(f"{source} is damaged ({error}); take a copy or fit the surrogate again.") from error
        raise FormatError(f"{source} is truncated or is no .npz file ({error}); take a copy.") from error
    except (EOFError, NotImplementedError, RuntimeError) as error:
        raise FormatError(f"{source} cannot be read ({error}); take a copy or fit the surrogate again.") from error
    if header.get("sha256") != _digest(header, arrays):
        raise IntegrityError(f"the content of {source} is not what uqms wrote; take a copy or fit the surrogate again.")
    return header, arrays


def _refuse_other_files(source: Path) -> None:
    with source.open("rb") as file:
        head = file.read(4)
    if head[:1] == b"\x80":
        raise UnsafeFileError(f"{source} is a pickle, which would run code; uqms reads what `surrogate.save` wrote.")
    if head != b"PK\x03\x04":
        raise FormatError(f"{source} is no .npz file; give one that `surrogate.save` wrote.")


class _Member(NamedTuple):
    info: zipfile.ZipInfo
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def _inspect(source: Path, archive: zipfile.ZipFile) -> dict[str, _Member]:
    """Return what the archive claims to hold, by name, after holding it against the bytes that it has."""
    infos = archive.infolist()
    claimed, held = sum(info.file_size for info in infos), source.stat().st_size
    if claimed > max(held, PLAUSIBLE) or claimed > LARGEST:
        raise UnsafeFileError(
            f"{source} claims {claimed / 2**20:.0f} MB and holds {held / 2**20:.3f} MB; nothing of it was read. "
            "uqms reads what `surrogate.save` wrote, which is not compressed."
        )
    members: dict[str, _Member] = {}
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if name in members or name == info.filename:
            raise FormatError(f"{source}: {info.filename!r} does not belong into a surrogate's file, or stands twice.")
        members[name] = _Member(info, *_inspect_array(source, archive, info))
    return members


def _inspect_array(
    source: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo
) -> tuple[np.dtype[Any], tuple[int, ...]]:
    with archive.open(info) as stream:
        try:
            major = npy.read_magic(stream)[0]
            read = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
            shape, _, dtype = read(stream)
            start = stream.tell()
        except (ValueError, EOFError) as error:
            raise FormatError(f"{source}: {info.filename!r} is no array ({error}).") from error
    if dtype.hasobject:
        raise UnsafeFileError(f"{source}: {info.filename!r} holds pickled objects, which would run code; not read.")
    needed = start + int(np.prod([int(size) for size in shape], dtype=object)) * dtype.itemsize
    if needed > info.file_size:
        raise UnsafeFileError(
            f"{source}: {info.filename!r} declares shape {shape}, {needed} bytes, but has {info.file_size}; not read."
        )
    if needed < info.file_size:
        raise FormatError(f"{source}: {info.filename!r} has {info.file_size - needed} bytes more than its shape says.")
    return dtype, shape


def _read(archive: zipfile.ZipFile, member: _Member) -> Array:
    with archive.open(member.info) as stream:
        return np.asarray(npy.read_array(stream, allow_pickle=False))


def _read_header(
    source: Path, archive: zipfile.ZipFile, members: Mapping[str, _Member], format_: str
) -> dict[str, Any]:
    member = members.get(_HEADER)
    if member is None or member.dtype != np.uint8 or member.info.file_size > HEADER_LARGEST:
        raise FormatError(f"{source} is an .npz file but no surrogate; give one that `surrogate.save` wrote.")
    try:
        header = json.loads(_read(archive, member).tobytes().decode())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{source} has a header that is no JSON ({error}); take a copy.") from error
    if not isinstance(header, dict) or header.get("format") != format_:
        raise FormatError(f"{source} is an .npz file but no surrogate; give one that `surrogate.save` wrote.")
    version = header.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FormatError(f"{source} says it has format version {version!r}; this uqms reads up to {VERSION}.")
    if version > VERSION:
        raise FormatVersionError(
            f"{source} has format version {version}, this uqms reads up to {VERSION}; update uqms."
        )
    return header


def _check_declared(source: Path, header: Mapping[str, Any], members: Mapping[str, _Member]) -> None:
    shapes = header.get("shapes")
    present = {name: list(member.shape) for name, member in members.items() if name != _HEADER}
    if shapes != present:
        raise FormatError(f"{source}: its arrays are not those that its header declares; take a copy.")
    wrong = [name for name in present if members[name].dtype != np.dtype("<f8")]
    if wrong:
        raise FormatError(f"{source}: {wrong[0]!r} holds {members[wrong[0]].dtype}, not float64; take a copy.")


# ---------------------------------------------------------------------------------------------------------- rebuilding
def _rebuild(header: Mapping[str, Any], arrays: dict[str, Array]) -> Saved:
    """Return the surrogate; compiled code indexes its arrays unchecked, so every size must agree with every other."""
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise InputError(f"{name} holds numbers that are not finite")
    box = Box.from_dict(header["domain"])
    if "ladder" in header:
        return _rebuild_ladder(header, arrays, box)
    if "local" in header:
        return _rebuild_local(header, arrays, box)
    process, sizes = _rebuild_process("process", _stationary(header["kernel"]), arrays, {"d": box.d})
    bases = tuple(_rebuild_basis(i, output, arrays, sizes["n"]) for i, output in enumerate(header["outputs"]))
    noise = _rebuild_noise(bases, arrays, sizes) if "noise.centre" in arrays else None
    _check_used_up(bases, arrays, sizes["q"])
    return GaussianProcessSurrogate(box, process, bases, _rebuild_attrs(header), noise=noise)


def _check_used_up(bases: Sequence[OutputBasis], arrays: Mapping[str, Array], q: int) -> None:
    if set().union(*(at.tolist() for at in score_columns(bases))) != set(range(q)):
        raise InputError(f"{q} scores, but the outputs have another number of them")
    if arrays:
        raise InputError(f"{sorted(arrays)[0]} belongs to nothing")


def _rebuild_attrs(header: Mapping[str, Any]) -> Mapping[str, str]:
    return MappingProxyType({str(key): str(value) for key, value in header["attrs"].items()})


def _rebuild_local(header: Mapping[str, Any], arrays: dict[str, Array], box: Box) -> LocalGaussianProcessSurrogate:
    kernel, local = _stationary(header["kernel"]), header["local"]
    columns, neighbours = local["columns"], local["neighbours"]
    parts = {name: arrays.pop(f"local.{name}") for name in _LOCAL}
    sizes = {"d": box.d, "p": hyperparameter_count(kernel, box.d)}
    for name, letters in _LOCAL.items():
        _agree(f"local.{name}", parts[name].shape, letters, sizes)
    if type(columns) is not int or columns not in trend_columns(box.d).values():
        raise InputError(f"{columns!r} trend functions for {box.d} inputs")
    if type(neighbours) is not int or not 2 * columns <= neighbours < sizes["n"]:
        raise InputError(f"{neighbours!r} neighbours of {sizes['n']} runs")
    if not all((parts[name] > 0.0).all() for name in ("ell", "variance", "strength", "typical")):
        raise InputError("scales that are not positive")
    bases = tuple(_rebuild_basis(i, output, arrays, 0) for i, output in enumerate(header["outputs"]))
    _check_used_up(bases, arrays, sizes["q"])
    attrs = _rebuild_attrs(header)
    return LocalGaussianProcessSurrogate(
        box, bases, kernel, **parts, columns=columns, neighbours=neighbours, attrs=attrs
    )


def _rebuild_ladder(header: Mapping[str, Any], arrays: dict[str, Array], box: Box) -> MultiFidelitySurrogate:
    levels = tuple(str(level) for level in header["levels"])
    log_weights = arrays.pop("log_weights")
    _agree("log_weights", log_weights.shape, "H", {})
    steps: list[Step] = []
    for t, one in enumerate(header["ladder"]):
        kind, kernel = one["kind"], _kernel_of_level(one, t, len(levels))
        more = {"joint": len(levels) - 1, "nonlinear": 1}.get(kind, 0)
        process, sizes = _rebuild_process(f"level{t}", kernel, arrays, {"d": box.d + more})
        if process.draws not in (1, len(log_weights)) or (steps and sizes["q"] != steps[0].process.q):
            raise InputError(f"level{t} has another number of members or scores")
        if kind == "linear" and sizes["b"] < 2:
            raise InputError(f"level{t} has no coefficient of the level below")
        below = arrays.pop(f"level{t}.below") if kind == "nonlinear" else None
        if below is not None:
            _agree(f"level{t}.below", below.shape, "Hqn", sizes)
        drawn = one["drawn"]
        if type(drawn) is not int or not 0 <= drawn < len(process.x):
            raise InputError(f"level{t} has {drawn!r} drawn runs")
        steps.append(Step(process, kind, below, drawn))
    if len(steps) != (1 if steps[0].kind == "joint" else len(levels)):
        raise InputError(f"{len(steps)} processes for {len(levels)} levels")
    costs = MappingProxyType({str(level): float(cost) for level, cost in header["costs"].items()})
    ladder = Ladder(tuple(steps), log_weights)
    runs = MultiFidelitySurrogate(box, levels, ladder, ()).runs
    bases = tuple(_rebuild_basis(i, output, arrays, runs) for i, output in enumerate(header["outputs"]))
    _check_used_up(bases, arrays, ladder.top.q)
    return MultiFidelitySurrogate(box, levels, ladder, bases, costs, _rebuild_attrs(header))


def _kernel_of_level(one: Mapping[str, Any], t: int, levels: int) -> Kernel:
    """Return the kernel of a level, after a check that it is one of its kind."""
    kind: Kind = one["kind"]
    kernel = kernel_of_description(one["kernel"])
    terms = kernel.terms if isinstance(kernel, Stationary) else ()
    right = {
        "plain": t == 0 and len(terms) > 0,
        "joint": t == 0 and isinstance(kernel, CoKriging) and kernel.levels == levels,
        "linear": t > 0 and len(terms) > 0,
        "nonlinear": t > 0 and [len(term) for term in terms] == [2, 1] and terms[0][0] == SquaredExponential(),
    }
    if not right.get(kind, False):
        raise InputError(f"level{t} is {kind!r} with the kernel {kernel}")
    return kernel


def _stationary(description: object) -> Stationary:
    kernel = kernel_of_description(description)
    if not isinstance(kernel, Stationary):
        raise InputError(f"the kernel {kernel} is of levels of fidelity")
    return kernel


def _rebuild_regimes(header: Mapping[str, Any], arrays: dict[str, Array]) -> "RegimeSurrogate":
    from uqms.surrogates.regimes import RegimeSurrogate

    def taken(prefix: str) -> dict[str, Array]:
        return {name.removeprefix(prefix): arrays.pop(name) for name in list(arrays) if name.startswith(prefix)}

    rebuilt = [_rebuild(one, taken(f"regime{i}.")) for i, one in enumerate(header["regimes"])]
    regimes = tuple(one for one in rebuilt if isinstance(one, GaussianProcessSurrogate))
    borders = tuple(_rebuild_probability(one, taken(f"border{i}.")) for i, one in enumerate(header["borders"]))
    labels, names, members = arrays.pop("labels"), header["names"], header["members"]
    if arrays:
        raise InputError(f"{sorted(arrays)[0]} belongs to nothing")
    count = len(regimes)
    if len(rebuilt) != count or count < 2 or len(borders) != (1 if count == 2 else count) or len(names) != count:
        raise InputError(f"{count} regimes with {len(borders)} borders and {len(names)} names")
    if type(members) is not int or members < 2 or members % 2 or not all(type(name) is int for name in names):
        raise InputError(f"there are {members!r} members and the names {names!r}")
    if labels.ndim != 1 or not np.isin(labels, range(count)).all():
        raise InputError("labels of the runs that are no regimes")
    if any(box != regimes[0].domain for box in [*(one.domain for one in regimes), *(one.domain for one in borders)]):
        raise InputError("regimes and borders have different design boxes")
    if any(set(one.layouts) != set(regimes[0].layouts) for one in regimes):
        raise InputError("regimes have different outputs")
    attrs = MappingProxyType({str(key): str(value) for key, value in header["attrs"].items()})
    return RegimeSurrogate(regimes, borders, labels.astype(np.int64), tuple(names), members, attrs)


def _rebuild_probability(header: Mapping[str, Any], arrays: dict[str, Array]) -> FittedProbability:
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise InputError(f"{name} holds numbers that are not finite")
    box, kernel = Box.from_dict(header["domain"]), _stationary(header["kernel"])
    levels = header["levels"]
    if type(levels) is not int or levels not in (1, 2):
        raise InputError(f"there are {levels!r} levels")
    attrs = MappingProxyType({str(key): str(value) for key, value in header["attrs"].items()})
    out: FittedProbability | None = None
    for i in reversed(range(levels)):
        parts: dict[str, Any] = {name: arrays.pop(f"level{i}.{name}") for name in _PROBABILITY}
        sizes = {"d": box.d, "p": hyperparameter_count(kernel, box.d)}
        for name, letters in _PROBABILITY.items():
            _agree(f"level{i}.{name}", parts[name].shape, letters, sizes)
        parts["labels"] = parts["labels"] > 0.5
        out = FittedProbability(str(header["event"]), box, kernel, **parts, attrs=attrs, base=out)
    if arrays or out is None:
        raise InputError(f"{sorted(arrays)[:1]} belongs to nothing")
    return out


def _rebuild_process(
    prefix: str, kernel: Kernel, arrays: dict[str, Array], known: dict[str, int]
) -> tuple[ScoreProcess, dict[str, int]]:
    """Return the process and the sizes of its letters."""
    parts = {name: arrays.pop(f"{prefix}.{name}") for name in _PROCESS}
    sizes = known | {"p": hyperparameter_count(kernel, known["d"])}
    for name, letters in _PROCESS.items():
        _agree(f"{prefix}.{name}", parts[name].shape, letters, sizes)
    if f"{prefix}.noise" in arrays:
        parts["noise"] = arrays.pop(f"{prefix}.noise")
        _agree(f"{prefix}.noise", parts["noise"].shape, "qn", sizes)
    if sizes["b"] > max(trend_columns(known["d"]).values()):
        raise InputError(f"{sizes['b']} trend functions for {known['d']} inputs")
    return ScoreProcess(kernel=kernel, **parts), sizes


def _rebuild_noise(bases: Sequence[OutputBasis], arrays: dict[str, Array], sizes: dict[str, int]) -> SimulatorNoise:
    known = {letter: sizes[letter] for letter in "dqn"}
    process, _ = _rebuild_process("noise.process", Matern52(), arrays, known)
    centre, correlation = arrays.pop("noise.centre"), arrays.pop("noise.correlation")
    _agree("noise.centre", centre.shape, "q", known)
    _agree("noise.correlation", correlation.shape, "qq", known)
    residuals, truncations = [], []
    for i, basis in enumerate(bases):
        m, t = len(basis.offset), basis.left_out.shape[1]
        residuals.append(arrays.pop(f"noise.residual{i}"))
        truncations.append(arrays.pop(f"noise.truncation{i}"))
        _agree(f"noise.residual{i}", residuals[-1].shape, "mt", {"m": m})
        _agree(f"noise.truncation{i}", truncations[-1].shape, "mt", {"m": m, "t": t})
    return SimulatorNoise(process, centre, correlation, tuple(residuals), tuple(truncations))


def _agree(name: str, shape: tuple[int, ...], letters: str, sizes: dict[str, int]) -> None:
    if len(shape) != len(letters) or any(
        sizes.setdefault(a, size) != size for a, size in zip(letters, shape, strict=True)
    ):
        raise InputError(f"{name} has shape {shape}, which does not agree with the other arrays")


def _rebuild_basis(i: int, output: Mapping[str, Any], arrays: dict[str, Array], n: int) -> OutputBasis:
    parts = {name: arrays.pop(f"output{i}.{name}") for name in _BASIS}
    dims = tuple(str(dim) for dim in output["dims"])
    coords = {dim: arrays.pop(f"output{i}.coord{k}") for k, dim in enumerate(dims)}
    for dim in dims:
        _agree(f"coordinate {dim}", coords[dim].shape, "m", {})
    transform = from_dict(output["transform"]) if "transform" in output else IDENTITY
    layout = Layout(dims, coords, str(output["unit"]), transform)
    sizes = {"m": int(np.prod(layout.shape)), "n": n}
    intervals = {0, sizes["m"] - 1} if len(dims) == 1 else {0}
    if parts["interpolation_sd"].shape not in {(size,) for size in intervals}:
        raise InputError(f"output{i}.interpolation_sd has shape {parts['interpolation_sd'].shape}")
    for name, letters in (("offset", "m"), ("basis", "mq"), ("truncation", "mt"), ("left_out", "nt")):
        _agree(f"output{i}.{name}", parts[name].shape, letters, sizes)
    scores = tuple(output["scores"]) if "scores" in output else None
    if scores is not None and (
        not all(type(j) is int for j in scores) or len(set(scores)) < len(scores) or len(scores) != sizes["q"]
    ):
        raise InputError(f"output{i} has the scores {list(scores)} for {sizes['q']} columns")
    return OutputBasis(str(output["name"]), layout, **parts, scores=scores)

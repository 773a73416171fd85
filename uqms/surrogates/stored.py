"""The parts of surrogates as a file holds them: processes, outputs, noise; what each kind of surrogate is made of.

==============  ======================================================================================
member          holds
==============  ======================================================================================
header.npy      JSON as bytes: format, version, kernel as in `kernel_files` (or the levels of a ladder), design box,
                outputs, attrs, shapes, sha256
<name>.npy      one float64 array; ``process.*`` of `ScoreProcess`, ``output<i>.*`` of the i-th output, ``noise.*`` of
                the simulator's noise, where it was learned from replicates; of several levels of fidelity
                ``level<t>.*`` in the place of ``process.*``, and ``log_weights`` of their members
==============  ======================================================================================

What is read is held against each other: compiled code indexes these arrays unchecked, so every size must agree.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from uqms._typing import Array
from uqms.errors import InputError
from uqms.parameters import Box
from uqms.surrogates.adapted import OneOf
from uqms.surrogates.kernel_files import kernel_of_description
from uqms.surrogates.kernels import Kernel, Matern52, Stationary, Structured, hyperparameter_count
from uqms.surrogates.outputs import Layout, OutputBasis, score_columns
from uqms.surrogates.process import ScoreProcess, local_size
from uqms.surrogates.run_noise import SimulatorNoise
from uqms.surrogates.training import trend_columns
from uqms.surrogates.transforms import IDENTITY, Identity, from_dict, to_dict

__all__ = [
    "FORMAT",
    "PROCESS",
    "agree",
    "arrays_of_bases",
    "arrays_of_noise",
    "arrays_of_process",
    "check_used_up",
    "described",
    "kernel_of_inputs",
    "rebuilt_attrs",
    "rebuilt_bases",
    "rebuilt_noise",
    "rebuilt_process",
    "stationary",
]

FORMAT = "uqms-surrogate"
# The letters of the shapes: H draws, q scores, n runs, d inputs, b trend functions, p kernel hyperparameters.
PROCESS = {
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
}
# Where runs have known errors; where a score has a local scale; where other runs do not predict it.
MORE = {"noise": "qn", "local": "Hqs", "held_out": "qn"}
_BASIS = ("offset", "basis", "truncation", "interpolation_sd", "left_out")


def arrays_of_bases(bases: Sequence[OutputBasis]) -> dict[str, Array]:
    """Return the arrays of outputs."""
    arrays: dict[str, Array] = {}
    for i, basis in enumerate(bases):
        arrays |= {f"output{i}.{name}": getattr(basis, name) for name in _BASIS}
        arrays |= {} if basis.scatter is None else {f"output{i}.scatter": basis.scatter}
        arrays |= {f"output{i}.coord{k}": basis.coords[dim] for k, dim in enumerate(basis.dims)}
    return arrays


def described(domain: Box, bases: Sequence[OutputBasis], attrs: Mapping[str, str]) -> dict[str, Any]:
    """Return what the header says of the design box, of outputs and of where the surrogate came from."""
    outputs: list[dict[str, Any]] = [{"name": b.name, "dims": list(b.dims), "unit": b.layout.unit} for b in bases]
    for saved, basis in zip(outputs, bases, strict=True):
        if not isinstance(basis.layout.transform, Identity):
            saved["transform"] = to_dict(basis.layout.transform)
        if basis.scores is not None:
            saved["scores"] = list(basis.scores)
    return {"domain": domain.to_dict(), "outputs": outputs, "attrs": dict(attrs)}


def arrays_of_process(prefix: str, process: ScoreProcess) -> dict[str, Array]:
    """Return the arrays of a process."""
    names = [*PROCESS, *(name for name in MORE if getattr(process, name).any())]
    return {f"{prefix}.{name}": getattr(process, name) for name in names}


def arrays_of_noise(noise: SimulatorNoise) -> dict[str, Array]:
    """Return the arrays of a stochastic simulator's noise."""
    arrays = arrays_of_process("noise.process", noise.process)
    arrays |= {"noise.centre": noise.centre, "noise.correlation": noise.correlation}
    for i, (residual, truncation) in enumerate(zip(noise.residuals, noise.truncations, strict=True)):
        arrays |= {f"noise.residual{i}": residual, f"noise.truncation{i}": truncation}
    return arrays


def rebuilt_bases(header: Mapping[str, Any], arrays: dict[str, Array], runs: int) -> tuple[OutputBasis, ...]:
    """Return the outputs of a header; `runs` were trained on."""
    return tuple(_rebuild_basis(i, output, arrays, runs) for i, output in enumerate(header["outputs"]))


def check_used_up(bases: Sequence[OutputBasis], arrays: Mapping[str, Array], q: int) -> None:
    """Raise when scores belong to no output, or arrays to nothing."""
    if set().union(*(at.tolist() for at in score_columns(bases))) != set(range(q)):
        raise InputError(f"{q} scores, but the outputs have another number of them")
    if arrays:
        raise InputError(f"{sorted(arrays)[0]} belongs to nothing")


def rebuilt_attrs(header: Mapping[str, Any]) -> Mapping[str, str]:
    """Return where a surrogate came from."""
    return MappingProxyType({str(key): str(value) for key, value in header["attrs"].items()})


def kernel_of_inputs(description: object) -> Kernel:
    """Return a kernel from its description, after a check that it is not one of levels of fidelity."""
    kernel = kernel_of_description(description)
    if isinstance(kernel, Structured):
        raise InputError(f"the kernel {kernel} is of levels of fidelity")
    return kernel


def stationary(description: object) -> Stationary:
    """Return a kernel from its description, after a check that compiled code knows it."""
    kernel = kernel_of_inputs(description)
    if not isinstance(kernel, Stationary):
        raise InputError(f"the kernel {kernel} is none of a scaled distance")
    return kernel


def rebuilt_process(
    prefix: str, kernel: Kernel, arrays: dict[str, Array], known: dict[str, int]
) -> tuple[ScoreProcess, dict[str, int]]:
    """Return the process and the sizes of its letters."""
    parts = {name: arrays.pop(f"{prefix}.{name}") for name in PROCESS}
    sizes = known | {"p": hyperparameter_count(kernel, known["d"])}
    for name, letters in PROCESS.items():
        agree(f"{prefix}.{name}", parts[name].shape, letters, sizes)
    if isinstance(kernel, OneOf):
        kernel.check(parts["ell"])
    for name, letters in MORE.items():
        if f"{prefix}.{name}" in arrays:
            parts[name] = arrays.pop(f"{prefix}.{name}")
            agree(f"{prefix}.{name}", parts[name].shape, letters, sizes | {"s": local_size(known["d"])})
    if sizes["b"] > max(trend_columns(known["d"]).values()):
        raise InputError(f"{sizes['b']} trend functions for {known['d']} inputs")
    return ScoreProcess(kernel=kernel, **parts), sizes


def rebuilt_noise(bases: Sequence[OutputBasis], arrays: dict[str, Array], sizes: dict[str, int]) -> SimulatorNoise:
    """Return a stochastic simulator's noise."""
    known = {letter: sizes[letter] for letter in "dqn"}
    process, _ = rebuilt_process("noise.process", Matern52(), arrays, known)
    centre, correlation = arrays.pop("noise.centre"), arrays.pop("noise.correlation")
    agree("noise.centre", centre.shape, "q", known)
    agree("noise.correlation", correlation.shape, "qq", known)
    residuals, truncations = [], []
    for i, basis in enumerate(bases):
        m, t = len(basis.offset), basis.left_out.shape[1]
        residuals.append(arrays.pop(f"noise.residual{i}"))
        truncations.append(arrays.pop(f"noise.truncation{i}"))
        agree(f"noise.residual{i}", residuals[-1].shape, "mt", {"m": m})
        agree(f"noise.truncation{i}", truncations[-1].shape, "mt", {"m": m, "t": t})
    return SimulatorNoise(process, centre, correlation, tuple(residuals), tuple(truncations))


def agree(name: str, shape: tuple[int, ...], letters: str, sizes: dict[str, int]) -> None:
    """Raise when a shape does not have its letters, or the sizes that they have elsewhere; new letters are noted."""
    if len(shape) != len(letters) or any(
        sizes.setdefault(a, size) != size for a, size in zip(letters, shape, strict=True)
    ):
        raise InputError(f"{name} has shape {shape}, which does not agree with the other arrays")


def _rebuild_basis(i: int, output: Mapping[str, Any], arrays: dict[str, Array], n: int) -> OutputBasis:
    parts = {name: arrays.pop(f"output{i}.{name}") for name in _BASIS}
    dims = tuple(str(dim) for dim in output["dims"])
    coords = {dim: arrays.pop(f"output{i}.coord{k}") for k, dim in enumerate(dims)}
    for dim in dims:
        agree(f"coordinate {dim}", coords[dim].shape, "m", {})
    transform = from_dict(output["transform"]) if "transform" in output else IDENTITY
    layout = Layout(dims, coords, str(output["unit"]), transform)
    sizes = {"m": int(np.prod(layout.shape)), "n": n}
    intervals = {0, sizes["m"] - 1} if len(dims) == 1 else {0}
    if parts["interpolation_sd"].shape not in {(size,) for size in intervals}:
        raise InputError(f"output{i}.interpolation_sd has shape {parts['interpolation_sd'].shape}")
    for name, letters in (("offset", "m"), ("basis", "mq"), ("truncation", "mt"), ("left_out", "nt")):
        agree(f"output{i}.{name}", parts[name].shape, letters, sizes)
    if (scatter := arrays.pop(f"output{i}.scatter", None)) is not None:
        agree(f"output{i}.scatter", scatter.shape, "qs", sizes)
    scores = tuple(output["scores"]) if "scores" in output else None
    if scores is not None and (
        not all(type(j) is int for j in scores) or len(set(scores)) < len(scores) or len(scores) != sizes["q"]
    ):
        raise InputError(f"output{i} has the scores {list(scores)} for {sizes['q']} columns")
    return OutputBasis(str(output["name"]), layout, **parts, scores=scores, scatter=scatter)

"""Whether the sections of a study belong together: names, units and columns, before anything runs."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from uqms.calibration.constraints import read_constraints
from uqms.calibration.discrepancy import Discrepancy
from uqms.calibration.noise import NoiseModel
from uqms.study.positions import Path
from uqms.study.sections import Contents, Data, Member
from uqms.study.values import Reading, near
from uqms.surrogates import Link

__all__ = ["check_together"]


class Output(NamedTuple):
    """Dims and unit of an output."""

    dims: tuple[str, ...]
    unit: str


def check_together(found: Contents, reading: Reading) -> None:
    """Note mistakes that only two sections together show."""
    for name, member in found.members.items():
        path: Path = ("members", name) if name else ()
        _simulator(member, path, reading)
        if found.parts and not reading.mistakes:
            for key, given in (("data", member.data), ("noise", member.noise)):
                if not given:
                    where = f"[{'.'.join(map(str, path))}.{key}]"
                    reading.wrong(
                        path, f"the section {where} is missing; without [chain] members are parts of one calibration."
                    )
        if member.data:
            _observed(member.data, _outputs(member), member, (*path, "data"), reading)
        if found.population is not None and member.over is None and member.design is not None:
            reading.wrong(
                (*path, "design"),
                "subjects differ from the typical subject, so that the design has to cover more than the prior: "
                "over = { mass = 0.99 }, which is population.box(subjects, mass=0.99).",
            )
    if found.links is not None:
        _links(found, reading)
    whole = _all_outputs(found)
    if whole and found.data:
        _observed(
            found.data,
            whole,
            next(iter(found.members.values())) if len(found.members) == 1 else None,
            ("data",),
            reading,
        )
    for key in ("noise", "discrepancy"):
        for name in _by_output(getattr(found, key)):
            if whole and name not in whole:
                reading.wrong((key, name), f"there is no output {name!r}{near(name, list(whole))}")
    if found.noise is not None and found.data and isinstance(found.noise, Mapping):
        observed = [one for data in found.data for one in data.observations.outputs]
        for name in dict.fromkeys(observed):
            if name not in found.noise and name in whole:
                reading.wrong(("noise",), f"the measured output {name!r} has no noise model: [noise.{name}].")
    _calibration(found, reading)
    _predictions(found, whole, reading)


def _predictions(found: Contents, outputs: Mapping[str, Output], reading: Reading) -> None:
    """Check the coordinates of [predictions]."""
    dims = list(dict.fromkeys(dim for one in outputs.values() for dim in one.dims))
    for name, prediction in found.predictions.items() if outputs else ():
        for coord in prediction.settings.get("coords") or {}:
            if coord not in dims:
                at = ("predictions", name, "coords", str(coord))
                reading.wrong(at, f"no output has the dim {coord!r}{near(str(coord), dims)}.")


def _simulator(member: Member, path: Path, reading: Reading) -> None:
    """Compare what the simulator takes with the parameters and conditions, without running it."""
    at = (*path, "simulator")
    takes = _takes(member)
    if takes is None:
        if hasattr(member.simulator, "templates"):
            reading.trying(at, lambda: member.simulator.prepare(member.space.inputs))
        return
    lost = [name for name in takes if name not in member.space.inputs]
    for name in lost:
        reading.wrong(
            (*path, "parameters"),
            f"the simulator takes {name!r}, which has neither a prior nor a condition"
            f"{near(name, [one for one in member.space.inputs if one not in takes])}",
        )
    if not lost:
        reading.trying(at, lambda: _prepare(member, takes))


def _takes(member: Member) -> tuple[str, ...] | None:
    """Return the inputs that a simulator declares."""
    simulator = member.simulator
    if hasattr(simulator, "inputs"):
        return tuple(simulator.inputs)
    return None


def _prepare(member: Member, takes: tuple[str, ...]) -> None:
    if hasattr(member.simulator, "function"):
        member.simulator.prepare(member.space.inputs)
        return
    more = [name for name in member.space.inputs if name not in takes]
    if more:
        raise ValueError(f"the simulator does not take {', '.join(map(repr, more))}; it takes {', '.join(takes)}")


def _outputs(member: Member) -> dict[str, Output]:
    units = member.simulator.units
    return {str(name): Output(tuple(dims), units.get(name, "")) for name, dims in member.simulator.outputs.items()}


def _all_outputs(found: Contents) -> dict[str, Output]:
    """Return each output that can be measured; nothing where outputs are named anew, or parts have their own."""
    if found.parts or (found.superposition or {}).get("outputs"):
        return {}
    more = () if found.superposition is None else ("regimen",)
    return {
        f"{name}.{output}" if found.links is not None else output: one._replace(dims=(*one.dims, *more))
        for name, member in found.members.items()
        for output, one in _outputs(member).items()
    }


def _observed(data: Any, outputs: Mapping[str, Any], member: Member | None, path: Path, reading: Reading) -> None:
    """Compare the observations with the outputs: names, units, coordinates and conditions."""
    several = len(data) > 1
    for i, one in enumerate(data):
        at = _at(path, i, several, reading)
        for output in one.observations.outputs:
            if output not in outputs:
                key = (*at, "output") if "output" in one.read.settings else at
                reading.wrong(key, f"the simulator has no output {output!r}{near(output, list(outputs))}")
                continue
            _one_output(one, output, outputs[output], member, at, reading)


def _at(path: Path, place: int, several: bool, reading: Reading) -> Path:
    return (*path, place) if several or (*path, place) in reading.lines else path


def _one_output(one: Data, output: str, known: Output, member: Member | None, at: Path, reading: Reading) -> None:
    dims, unit = known
    given = one.observations.units.get(output, "")
    if given and unit and given != unit:
        reading.wrong(
            (*at, "unit"), f"{output} is measured in {given!r} and simulated in {unit!r}; convert one of them."
        )
    for dim in one.observations.coords:
        if dim not in dims:
            reading.wrong((*at, "coords"), f"{output} has no coordinate {dim!r}{near(dim, list(dims))}")
    for dim in dims:
        if dim not in one.observations.coords:
            reading.wrong(
                at, f"{output} depends on {dim!r}, of which the data have no column: coords = {{ {dim} = ... }}."
            )
    conditions = [] if member is None else list(member.space.conditions)
    for name in one.observations.conditions if member is not None else ():
        if name not in conditions:
            reading.wrong((*at, "conditions"), f"the simulator has no condition {name!r}{near(name, conditions)}")
    for name in conditions:
        if name not in one.observations.conditions:
            reading.wrong(at, f"the condition {name!r} is not in the data: conditions = [{name!r}].")


def _links(found: Contents, reading: Reading) -> None:
    """Compare the names and units of linked outputs and inputs."""
    names = list(found.members)
    inputs = {
        f"{name}.{one}": member.space.units[one]
        for name, member in found.members.items()
        for one in member.space.inputs
    }
    outputs = {
        f"{name}.{key}": one.unit for name, member in found.members.items() for key, one in _outputs(member).items()
    }
    for target, link in (found.links or {}).items():
        source = link.output if isinstance(link, Link) else str(link)
        at = ("chain", "links", target)
        for name, known, word in ((target, inputs, "input"), (source, outputs, "output")):
            if name not in known:
                reading.wrong(
                    at, f"there is no {word} {name!r} (members are {', '.join(names)}){near(name, list(known))}"
                )
        if (
            target in inputs
            and source in outputs
            and inputs[target]
            and outputs[source]
            and inputs[target] != outputs[source]
        ):
            reading.wrong(at, f"{source} has the unit {outputs[source]!r} and {target} the unit {inputs[target]!r}.")


def _by_output(given: Any) -> Iterator[str]:
    if isinstance(given, Mapping) and not isinstance(given, NoiseModel | Discrepancy):
        yield from map(str, given)


def _calibration(found: Contents, reading: Reading) -> None:
    """Check settings that name parameters."""
    names = list(dict.fromkeys(name for member in found.members.values() for name in member.space.names))
    if not names:
        return
    for name in found.calibration.get("fixed") or {}:
        if name not in names:
            reading.wrong(("calibration", "fixed", name), f"there is no parameter {name!r}{near(name, names)}")
    constraints = found.calibration.get("constraints")
    if constraints:
        reading.trying(("calibration", "constraints"), lambda: read_constraints(constraints, names))

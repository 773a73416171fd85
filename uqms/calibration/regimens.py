"""Posteriors whose surrogate is a superposition: predictions under the subjects' own regimens, and under others.

The surrogate of a posterior holds the regimens that were observed. Those that a prediction asks for are added in a copy
of the posterior; draws, likelihood and the surrogate's error given the data are the same.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
import xarray as xr

from uqms._typing import Array, Ints
from uqms.calibration.capabilities import Features
from uqms.errors import InputError
from uqms.parameters import Regimen
from uqms.surrogates.outputs import Decoder, InputDecoder, Layout
from uqms.surrogates.protocol import Surrogate
from uqms.surrogates.superposition import REGIMEN, OwnRegimens, Superposition

if TYPE_CHECKING:
    from uqms.calibration.population.calibration import PopulationCalibration
    from uqms.calibration.population.subject import SubjectPosterior
    from uqms.calibration.posterior import Posterior
    from uqms.calibration.predict import PosteriorPrediction
    from uqms.calibration.single import SingleCalibration

__all__ = [
    "individual_layout",
    "individual_rows",
    "subject_with_asked_regimens",
    "with_asked_regimens",
    "with_regimens",
    "with_regimens_of",
    "without_regimen",
]


def _data(posterior: "Posterior") -> "SingleCalibration | None":
    """Return the calibration that has the surrogate; None of several parts."""
    if posterior.problem.kind == "population":
        return cast("PopulationCalibration", posterior.problem).data
    return cast("SingleCalibration", posterior.problem) if posterior.problem.kind == "one" else None


def _superposition(posterior: "Posterior") -> Superposition | None:
    data = _data(posterior)
    found = None if data is None else data.surrogate
    return found if isinstance(found, Superposition) else None


def with_regimens(posterior: "Posterior", *regimens: Regimen) -> "Posterior":
    """Return the posterior with more regimens in its surrogate; see `Posterior.with_regimens`."""
    known = _superposition(posterior)
    if known is None:
        raise InputError(
            "with_regimens: the surrogate of this posterior is no uq.Superposition, which is what takes regimens. Of "
            "several parts, take posterior.part(name) first."
        )
    wider = known.with_regimens(*regimens)
    return posterior if wider is known else _with_surrogate(posterior, wider)


def with_regimens_of(posterior: "Posterior", observations: object) -> "Posterior":
    """Return the posterior with the regimens of observations in its surrogate, where it is a superposition."""
    regimens: Mapping[str, Regimen] = getattr(observations, "regimens", {})
    if not regimens or _superposition(posterior) is None:
        return posterior
    return with_regimens(posterior, *regimens.values())


def _with_surrogate(posterior: "Posterior", surrogate: Surrogate) -> "Posterior":
    """Return the same posterior with another surrogate of the same scores; what was computed of these is kept."""
    problem: Any = posterior.problem
    if problem.kind == "one":
        return replace(posterior, problem=problem.with_data_model(surrogate=surrogate))
    problem = copy.copy(problem)
    problem.data = problem.data.with_data_model(surrogate=surrogate)
    other = replace(posterior, problem=problem)
    some = posterior.hierarchy.some  # computed once, for all copies
    other.hierarchy.__dict__["some"] = replace(some, problem=problem)
    return other


def with_asked_regimens(
    posterior: "Posterior", coords: Mapping[str, object] | None, subjects: object, one_each: bool
) -> "tuple[Posterior, Mapping[str, object] | None, bool]":
    """Return a posterior that knows the regimens of `coords`, numbers in their place, and whether to drop their dim.

    The posterior is the same one where nothing is to be done. `one_each` says that a population's prediction has one
    input for each subject, since conditions are given.
    """
    known = _superposition(posterior)
    if known is None:
        return posterior, coords, False
    if coords is not None and REGIMEN in coords:
        wider, numbers = _read(posterior, coords[REGIMEN])
        return wider, {**coords, REGIMEN: numbers}, False
    if posterior.problem.kind == "one":
        own = np.unique(cast("SingleCalibration", posterior.problem).cells.coords[REGIMEN])
        if len(own) > 1:
            raise InputError(
                f"predict: the data have {len(own)} regimens. Say which, coords={{..., 'regimen': regimen}}; they are "
                "in observations.regimens."
            )
        dim, times = _times(known, coords)
        # Another object than the posterior itself says that the coordinates are read.
        return _with_surrogate(posterior, known), {dim: times, REGIMEN: own}, True
    _refuse_joint(cast("PopulationCalibration", posterior.problem))
    numbers = _of_inputs(cast("PopulationCalibration", posterior.problem), subjects, one_each)
    return _with_surrogate(posterior, cast(Surrogate, OwnRegimens(known, numbers))), coords, False


def _times(known: Superposition, coords: Mapping[str, object] | None) -> tuple[str, object]:
    layout = next(iter(known.layouts.values()))
    dim = layout.dims[0]
    if coords is not None and set(coords) != {dim}:
        raise InputError(
            f"predict: coords are given for {sorted(coords)}, expected {dim!r} or, for another regimen, 'regimen' too."
        )
    return dim, layout.coords[dim] if coords is None else coords[dim]


def _read(posterior: "Posterior", given: object) -> "tuple[Posterior, Array]":
    """Return a posterior that knows the regimens of a coordinate, and their numbers."""
    several = list(given) if isinstance(given, Sequence | np.ndarray) else [given]
    new = [one for one in several if isinstance(one, Regimen)]
    wider = with_regimens(posterior, *new) if new else posterior
    try:
        return wider, np.array([float(cast(float, one)) for one in several], dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"predict: the regimen is {given!r}; give a uq.Regimen, or a list of them.") from None


def _refuse_joint(problem: "PopulationCalibration") -> None:
    """Refuse subjects under their own regimens where their outputs are predicted by a dense joint distribution."""
    features = Features.of(problem)
    if not (features.closed_form or features.simulated):
        raise InputError(
            "predict: with this noise, subjects are predicted one regimen at a time. Name the subject and its regimen: "
            "predict(subjects='1', coords={'time': ..., 'regimen': observations.regimens['1']})."
        )


def _refuse_several(label: str, count: int) -> NoReturn:
    raise InputError(
        f"predict: subject {label!r} has {count} regimens (0: nothing was measured). Say which, "
        "coords={'time': ..., 'regimen': regimen}."
    )


def _of_inputs(problem: "PopulationCalibration", subjects: object, one_each: bool) -> Array:
    """Return the number of the regimen of each input that a prediction of subjects has, or of each subject."""
    labels = problem.subjects.labels
    if subjects is None:
        wanted = list(labels)
    else:
        several = isinstance(subjects, Sequence | np.ndarray) and not isinstance(subjects, str)
        wanted = [str(one) for one in cast("Sequence[object]", subjects if several else [subjects])]
    cells = problem.data.cells
    owner = problem.layout.subject[cells.unit]
    out: list[float] = []
    for label in wanted:
        if label not in labels:
            continue  # the prediction refuses it
        inputs = np.flatnonzero(owner == labels.index(label))
        for k in [inputs] if one_each else inputs[:, None]:
            own = np.unique(cells.coords[REGIMEN][np.isin(cells.experiment, k)])
            if len(own) != 1:
                _refuse_several(label, len(own))
            out.append(float(own[0]))
    return np.array(out or [np.nan])


def individual_layout(problem: "PopulationCalibration", output: str) -> Layout:
    """Return the layout of an output for one subject, who has one regimen."""
    surrogate = problem.data.surrogate
    return (OwnRegimens(surrogate, np.zeros(1)) if isinstance(surrogate, Superposition) else surrogate).layouts[output]


def individual_rows(
    problem: "PopulationCalibration", output: str, coords: Mapping[str, Array] | None, inputs: Ints
) -> Decoder | InputDecoder:
    """Return the rows of an output at inputs of the data, each under its own regimen where it has one.

    Raises
    ------
    InputError
        When an input has several regimens.
    """
    surrogate = problem.data.surrogate
    if not isinstance(surrogate, Superposition):
        return surrogate.decode(output, coords)
    _refuse_joint(problem)
    cells, numbers = problem.data.cells, []
    for k in inputs:
        own = np.unique(cells.coords[REGIMEN][cells.experiment == k])
        if len(own) != 1:
            _refuse_several(problem.subjects.labels[problem.layout.subject[cells.unit[k]]], len(own))
        numbers.append(own[0])
    return OwnRegimens(surrogate, np.array(numbers)).decode(output, coords)


def without_regimen(found: "PosteriorPrediction") -> "PosteriorPrediction":
    """Return a prediction without its dim "regimen", of one entry."""

    def of(one: xr.Dataset) -> xr.Dataset:
        return one.isel({REGIMEN: 0}, drop=True)

    return replace(found, mean=of(found.mean), sd=of(found.sd), draws=of(found.draws))


def subject_with_asked_regimens(
    subject: "SubjectPosterior", coords: Mapping[str, object] | None
) -> "tuple[SubjectPosterior, Mapping[str, object] | None]":
    """Return a subject whose population knows the regimens of `coords`, with numbers in their place.

    Without a regimen among the coordinates it is the subject's own. It is the same subject where nothing is to be done.
    """
    known = _superposition(subject.population)
    if known is None:
        return subject, coords
    if coords is not None and REGIMEN in coords:
        wider, numbers = _read(subject.population, coords[REGIMEN])
        return _moved(subject, wider), {**coords, REGIMEN: numbers}
    own = np.zeros(0) if subject.data is None else np.unique(subject.data.cells.coords[REGIMEN])
    if len(own) != 1:
        what = f"the subject has {len(own)} regimens" if len(own) else "nothing was measured yet"
        raise InputError(f"predict: {what}, so which regimen? Give coords={{'time': ..., 'regimen': regimen}}.")
    dim, times = _times(known, coords)
    surrogate = cast(Surrogate, OwnRegimens(known, own))
    return _moved(subject, _with_surrogate(subject.population, surrogate)), {dim: times}


def _moved(subject: "SubjectPosterior", population: "Posterior") -> "SubjectPosterior":
    if population is subject.population:
        return subject
    problem = cast("PopulationCalibration", population.problem)
    return replace(subject, population=population, shared=replace(subject.shared, problem=problem))

"""At which inputs a surrogate is asked: draws of a prior, or draws that the user has, beside known conditions.

==========  ======================================================================  ==========
symbol      meaning                                                                 shape
==========  ======================================================================  ==========
S           draws of the uncertain inputs                                           ()
C           known conditions                                                        ()
u           inputs in the unit cube of the surrogate's box                          (S, C, d)
==========  ======================================================================  ==========
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import xarray as xr
from scipy.stats import qmc

from uqms._typing import Array
from uqms.calibration.conditioned import ConditionedPrior
from uqms.calibration.construction import space_of
from uqms.calibration.direct import design_box
from uqms.errors import PACKAGE, DataError, ExtrapolationError, ExtrapolationWarning, InputError
from uqms.parameters import ParameterSpace
from uqms.propagation.variance_parts import REPEATS, Sampling
from uqms.surrogates import Surrogate

__all__ = ["CUT", "Points", "condition_table", "read_points"]

DRAWS = 1024  # of a prior
CUT = 0.01  # of the draws or of the prior's mass, outside of the design box


@final
@dataclass(frozen=True, eq=False)
class Points:
    """Draws of the uncertain inputs and known conditions.

    Attributes
    ----------
    values
        Draws (S,) of each uncertain input.
    conditions
        Known inputs (C,) by name; `scalar` when they are one number each.
    u
        All inputs in the unit cube, (S, C, d).
    outside
        Fraction of the prior's mass that lies outside of the design box and is left out, or of the draws that do.
    sampling
        How the draws go together.
    """

    values: Mapping[str, Array]
    conditions: Mapping[str, Array]
    scalar: bool
    u: Array
    outside: float
    sampling: Sampling


def read_points(
    surrogate: Surrogate,
    inputs: object,
    conditions: Mapping[str, object] | None,
    draws: int | None,
    outside: str,
    rng: np.random.Generator,
) -> Points:
    """Return the points at which a surrogate is to be evaluated.

    Raises
    ------
    InputError
        Inputs that are missing, unknown or twice there.
    DataError
        Draws of different lengths, or that are not finite.
    ExtrapolationError
        When more than 1 % of the draws, or of the prior, lie outside of the design box and `outside` is "error".

    Warns
    -----
    ExtrapolationWarning
        When some draws do.
    """
    if outside not in ("error", "extrapolate"):
        raise InputError(f"propagate: outside is {outside!r}; give 'error' or 'extrapolate'.")
    sampling: Sampling
    given = space_of(surrogate) if inputs is None else inputs
    names = surrogate.domain.names
    if isinstance(given, ParameterSpace):
        unknown = [name for name in given.names if name not in names]
        if unknown:
            raise InputError(
                f"propagate: the space has {unknown}, which are no inputs of the surrogate: {list(names)}."
            )
        values, cut, sampling = _of_prior(surrogate, given, draws or DRAWS, outside, rng)
    else:
        values, cut, sampling = _of_user(given, names, draws), 0.0, "ordered"
    known, scalar = condition_table(conditions, [name for name in names if name not in values], names)
    count, several = len(next(iter(values.values()))), len(next(iter(known.values()), np.zeros(1)))
    x = np.empty((count, several, len(names)))
    for column, name in enumerate(names):
        x[..., column] = values[name][:, None] if name in values else known[name]
    if not isinstance(given, ParameterSpace) or outside == "extrapolate":
        cut = _share_outside(surrogate, x, outside)
    return Points(values, known, scalar, np.asarray(surrogate.domain.to_unit(x)), cut, sampling)


def _of_prior(
    surrogate: Surrogate, space: ParameterSpace, draws: int, outside: str, rng: np.random.Generator
) -> tuple[dict[str, Array], float, Sampling]:
    box = surrogate.domain
    free = design_box(surrogate) is None or outside == "extrapolate"
    limits = {}
    for name, prior in space.priors.items():
        index, (low, high) = box.names.index(name), prior.support
        limits[name] = (low, high) if free else (max(low, box.lower[index]), min(high, box.upper[index]))
    cut = 0.0 if free else max(0.0, 1.0 - float(space.mass_inside(box.select(space.names))))
    if cut > CUT:
        raise ExtrapolationError(
            f"propagate: {cut:.1%} of the prior's mass lies outside of the design box, where "
            "the surrogate has no runs. Run a design over this prior, narrow it, or pass outside='extrapolate'."
        )
    law = ConditionedPrior(space.priors, limits, space.blocks)
    if not law.plain or draws % REPEATS:
        return law.draw(draws, rng), cut, "independent"
    # Averages over Sobol sequences converge faster than over independent draws; their spread between sequences is the
    # Monte Carlo error.
    each = draws // REPEATS
    whole = max(each - 1, 1).bit_length()
    u = np.vstack(
        [qmc.Sobol(len(limits), scramble=True, rng=one).random_base2(whole)[:each] for one in rng.spawn(REPEATS)]
    )
    return law.from_cube(np.clip(u, 2.0**-54, 1.0 - 2.0**-53)), cut, "repeated"


def _of_user(given: Any, names: tuple[str, ...], draws: int | None) -> dict[str, Array]:
    if not hasattr(given, "keys"):
        raise InputError(
            f"propagate: inputs is a {type(given).__name__}; give a ParameterSpace, or draws by name: a mapping, a "
            "DataFrame or a Dataset."
        )
    there = [name for name in names if name in given]
    unknown = [] if isinstance(given, xr.Dataset) else sorted({str(key) for key in given} - set(names))
    if unknown or not there:
        raise InputError(f"propagate: inputs has {unknown or list(given)}; the surrogate's inputs are {list(names)}.")
    columns = {}
    for name in there:
        try:
            columns[name] = np.asarray(given[name], dtype=np.float64).ravel()
        except (TypeError, ValueError) as error:
            raise DataError(f"propagate: the draws of {name!r} are not numbers ({error}).") from error
        if not np.isfinite(columns[name]).all():
            bad = int(np.flatnonzero(~np.isfinite(columns[name]))[0])
            raise DataError(f"propagate: draw {bad} of {name!r} is {columns[name][bad]}; leave such draws out.")
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1 or min(sizes.values()) < 2:
        raise DataError(f"propagate: inputs has {sizes} draws; give the same number, at least 2, of each.")
    count = next(iter(sizes.values()))
    if draws is not None and draws < count:
        picked = np.unique(np.linspace(0, count - 1, draws).astype(int))
        columns = {name: column[picked] for name, column in columns.items()}
    return columns


def condition_table(
    conditions: Mapping[str, object] | None, wanted: list[str], names: tuple[str, ...]
) -> tuple[dict[str, Array], bool]:
    """Return known inputs, each (C,), and whether all of them are single numbers.

    Raises
    ------
    InputError
        When one is missing, unknown, or given twice.
    DataError
        When lengths differ or numbers are not finite.
    """
    given = {} if conditions is None else dict(conditions)
    missing, more = [name for name in wanted if name not in given], [name for name in given if name not in wanted]
    if missing or more:
        twice = [name for name in more if name in names]
        raise InputError(
            f"propagate: {f'inputs and conditions both have {twice}' if twice else f'conditions has {more}'}; "
            f"conditions={{...}} must have {wanted}."
            if more
            else f"propagate: no value is given for {missing}; give conditions={{{missing[0]!r}: ...}}, or draws of it."
        )
    arrays = {name: np.asarray(given[name], dtype=np.float64) for name in wanted}
    count = max((array.size for array in arrays.values()), default=1)
    wrong = [n for n, a in arrays.items() if a.ndim > 1 or a.size not in (1, count) or not np.isfinite(a).all()]
    if wrong:
        raise DataError(f"propagate: conditions {wrong} must be finite numbers, or one-dimensional and of one length.")
    table = {name: np.array(np.broadcast_to(array.ravel(), count)) for name, array in arrays.items()}
    return table, all(array.ndim == 0 for array in arrays.values())


def _share_outside(surrogate: Surrogate, x: Array, outside: str) -> float:
    box = design_box(surrogate)
    if box is None:
        return 0.0
    away = ~np.asarray(box.contains(x)).all(axis=1)
    share = float(away.mean())
    if not share:
        return 0.0
    u = np.asarray(box.to_unit(x[away]))
    worst = box.names[int(np.argmax(((u < -1e-9) | (u > 1.0 + 1e-9)).any(axis=1).sum(axis=0)))]
    said = f"propagate: {share:.2%} of the draws lie outside of the design box, most of them along {worst!r}"
    if share > CUT and outside == "error":
        raise ExtrapolationError(
            f"{said}; the surrogate has no runs there. Run a design that reaches them, leave them out, or pass "
            "outside='extrapolate'."
        )
    warnings.warn(f"{said}: the surrogate extrapolates there.", ExtrapolationWarning, skip_file_prefixes=PACKAGE)
    return share

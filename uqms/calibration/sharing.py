"""Parts of a calibration that have one surrogate, as one problem: they share its error.

The error of a surrogate is one random function. What several parts say of it adds up, at the same input they have the
same error, and at different inputs correlated ones. So the cells of these parts stand side by side in one
`SingleCalibration` with all their inputs, while noise and discrepancy stay each part's own: a noise group is an
output in a part.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from uqms._typing import Array, Ints
from uqms.calibration.by_input import rows_by_input
from uqms.calibration.direct import is_exact
from uqms.calibration.discrepancy import Place, Sites, Term
from uqms.calibration.likelihood import Cells, NoiseGroups, merge_close, ranked, stacked
from uqms.calibration.observations import Observations
from uqms.calibration.realisation import Realisation
from uqms.surrogates.outputs import Decoder, InputDecoder, Layout
from uqms.surrogates.protocol import Surrogate

if TYPE_CHECKING:
    from uqms.calibration.single import SingleCalibration

__all__ = ["by_surrogate", "same_error", "together"]

POINTS = (0.5, 0.2360679774997897, 0.8541019662496845)  # along each input; any that are no grid's


def same_error(a: Surrogate, b: Surrogate) -> bool:
    """Return whether two surrogates are one random function: one object, or equal ones, as loaded twice from a file.

    Equal are those that say the same to the last digit: of errors and means at a few inputs, and of every output. A
    simulator that is used directly is compared as an object: it is not run for this.
    """
    if a is b:
        return True
    if type(a) is not type(b) or is_exact(a) or is_exact(b):
        return False
    if a.domain != b.domain or list(a.layouts) != list(b.layouts):
        return False
    if not all(_same_layout(a.layouts[name], b.layouts[name]) for name in a.layouts):
        return False
    u = np.array([np.roll(np.resize(POINTS, a.domain.d), shift) for shift in range(len(POINTS))])
    if not _equal(a.scores(u), b.scores(u)):
        return False
    return all(_equal(_rows(a, name, u), _rows(b, name, u)) for name in a.layouts)


def _equal(first: Iterable[Any], second: Iterable[Any]) -> bool:
    return all(np.array_equal(one, other, equal_nan=True) for one, other in zip(first, second, strict=True))


def _rows(surrogate: Surrogate, output: str, u: Array) -> Decoder:
    """Return offset, basis and truncation of an output, at inputs u where they depend on them."""
    found = surrogate.decode(output)
    return found.at(u) if isinstance(found, InputDecoder) else found


def _same_layout(a: Layout, b: Layout) -> bool:
    same = (a.dims, a.unit, a.transform) == (b.dims, b.unit, b.transform)
    return same and all(np.array_equal(a.coords[dim], b.coords[dim]) for dim in a.dims)


def by_surrogate(surrogates: Mapping[str, Surrogate]) -> tuple[tuple[str, ...], ...]:
    """Return the names of those that are one surrogate, in groups, in the order in which they come first."""
    groups: list[list[str]] = []
    for name, surrogate in surrogates.items():
        group = next((one for one in groups if same_error(surrogates[one[0]], surrogate)), None)
        if group is None:
            groups.append([name])
        else:
            group.append(name)
    return tuple(map(tuple, groups))


def together(parts: Mapping[str, "SingleCalibration"], own: str = "") -> "SingleCalibration":
    """Return the calibration of several parts that have one surrogate.

    Parameters
    ----------
    parts
        By name; all with the same parameters.
    own
        The part from which it is seen: its hyperparameters have the names that they have in it, those of the others
        are called "part_hyperparameter", and what it observed is what predictions are of. "" for none.

    Raises
    ------
    ConformanceError
        When there are several inputs, and the surrogate knows no covariance of its errors between them.
    """

    def named(part: str, key: str) -> str:
        return key if part == own else f"{part}_{key}"

    first = next(iter(parts.values()))
    whole = copy.copy(first)
    whole.__dict__.pop("conditioned_prior", None)
    whole.members, whole.seen_from = dict(parts), own
    whole.observations = Observations.concat(
        replace(part.observations, experiment=np.array([f"{name} {label}" for label in part.observations.experiment]))
        for name, part in parts.items()
    )
    cells, places = _cells(parts)
    noise = whole.noise_alone = _noise(parts, own, named)
    mode = None if first.realisation is None else first.realisation.mode
    realisation = None if mode is None else Realisation(first.surrogate, cells, mode)
    limited = cells.side == 1, cells.side == -1
    model = first.data_model.replaced(cells=cells, noise=noise, realisation=realisation, limited=limited)
    # What is latent in a part is latent in the whole: the same errors are sampled once.
    sampled = any(part.data_model.sampled for part in parts.values())
    whole.data_model = model.as_expanded("none" if sampled else "measured")
    discrepancies = {name: part.discrepancy for name, part in parts.items() if part.discrepancy is not None}
    whole.discrepancy = discrepancies or None  # type: ignore[assignment]  # by part: whether there is one
    whole.derived = {}
    whole.uncertain = {
        named(name, key): (int(places[name][k]), column)
        for name, part in parts.items()
        for key, (k, column) in part.uncertain.items()
    }
    whole.true_conditions = {
        named(name, key): prior for name, part in parts.items() for key, prior in part.true_conditions.items()
    }
    whole.expansion_loss = float(np.fmax.reduce([part.expansion_loss for part in parts.values()]))  # NaN: not measured
    whole.check_errors_between(whole.cells.conditions, "Calibration of several experiments")
    return whole


def _cells(parts: Mapping[str, "SingleCalibration"]) -> tuple[Cells, dict[str, Ints]]:
    """Return the cells of all parts, sorted by input, and by part the input of each of its experiments."""
    problems = list(parts.values())
    every, first = [part.cells for part in problems], problems[0]
    conditions = np.vstack([cells.conditions for cells in every])
    if conditions.shape[1]:
        conditions = merge_close(first.surrogate, first.condition_names, conditions)
    sds = np.vstack([cells.conditions_sd for cells in every])
    # An experiment whose condition was measured with an error is at an input that nothing else is at.
    apart = np.where((sds > 0.0).any(axis=1), np.arange(len(sds)) + 1.0, 0.0)
    inputs, index, inverse = np.unique(
        np.column_stack([conditions, apart]), axis=0, return_index=True, return_inverse=True
    )
    ends = np.cumsum([cells.experiments for cells in every])[:-1]
    places = np.split(inverse.reshape(-1).astype(np.int64), ends)
    experiment = np.concatenate([place[cells.experiment] for place, cells in zip(places, every, strict=True)])
    order = np.argsort(experiment, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    starts = np.cumsum([0, *(len(cells.offset) for cells in every)])
    groups = np.cumsum([0, *(len(part.noise.outputs) for part in problems)])
    runs = [1000 * 1000 * i + cells.run for i, cells in enumerate(every)]  # those of different parts are different
    dims = dict.fromkeys(dim for cells in every for dim in cells.coords)

    def of_cells(values: list[Any]) -> Any:
        return np.concatenate(values)[order]

    output = of_cells([cells.output for cells in every])
    coords = {
        dim: of_cells([cells.coords.get(dim, np.full(len(cells.offset), np.nan)) for cells in every]) for dim in dims
    }
    whole = Cells(
        z=np.concatenate([cells.z for cells in every]),
        row_cell=rank[np.concatenate([a + cells.row_cell for a, cells in zip(starts, every, strict=False)])],
        row_variance=np.concatenate([cells.row_variance for cells in every]),
        experiment=experiment[order],
        conditions=inputs[:, :-1],
        output=output,
        coords=coords,
        group=of_cells([g + cells.group for g, cells in zip(groups, every, strict=False)]),
        offset=of_cells([cells.offset for cells in every]),
        basis=stacked([cells.basis for cells in every])[order],
        truncation=of_cells([cells.truncation for cells in every]),
        side=np.concatenate([cells.side for cells in every]),
        limit=np.concatenate([cells.limit for cells in every]),
        trials=np.concatenate([cells.trials for cells in every]),
        links=tuple(link for cells in every for link in cells.links),
        responses=tuple(response for cells in every for response in cells.responses),
        run=ranked(experiment[order], of_cells(runs)) if first.realisation is not None else of_cells(runs) * 0,
        conditions_sd=sds[index],
        unit=np.zeros(len(inputs), dtype=np.int64),
        by_input=rows_by_input(first.surrogate, output, coords, experiment[order]),
    )
    return whole, dict(zip(parts, places, strict=True))


def _noise(parts: Mapping[str, "SingleCalibration"], own: str, named: Callable[[str, str], str]) -> NoiseGroups:
    """Return the noise groups of all parts after each other; standard deviations come first among hyperparameters."""
    every = {name: part.noise for name, part in parts.items()}
    total = sum(len(noise.outputs) for noise in every.values())
    first: list[tuple[str, object]] = []
    others: list[tuple[str, object]] = []
    roles: list[dict[str, int]] = []
    terms: list[Term] = []
    factors: dict[int, int] = {}
    rows = 0
    for name, noise in every.items():
        begin, own_groups = len(first), len(noise.outputs)
        after = total + len(others) - own_groups

        def place(at: int, begin: int = begin, size: int = own_groups, after: int = after) -> int:
            return begin + at if at < size else after + at

        found = [(named(name, key), setting) for key, setting in zip(noise.keys, noise.settings, strict=True)]
        first += found[:own_groups]
        others += found[own_groups:]
        roles += [{role: place(at) for role, at in one.items()} for one in noise.roles]
        terms += [
            replace(
                term,
                group=begin + term.group,
                amplitude=named(name, term.amplitude),
                lengths=tuple(named(name, length) for length in term.lengths),
                place=_of_rows_after(term.place, rows),
            )
            for term in noise.terms
        ]
        factors |= {begin + group: place(at) for group, at in noise.factors.items()}
        rows += len(parts[name].observations)
    keys, settings = zip(*first, *others, strict=True)
    return NoiseGroups(
        outputs=tuple(output for noise in every.values() for output in noise.outputs),
        models=tuple(model for noise in every.values() for model in noise.models),
        keys=keys,
        settings=settings,
        roles=tuple(roles),
        terms=tuple(terms),
        factors=factors,
        parts=tuple("" if name == own else name for name, noise in every.items() for _ in noise.outputs),
    )


def _of_rows_after(place: Callable[[Sites], Place], start: int) -> Callable[[Sites], Place]:
    """Return the places of sites whose rows are counted from `start`, among those of all parts."""
    return lambda at: place(at._replace(rows=np.where(at.rows >= 0, at.rows - start, at.rows)))

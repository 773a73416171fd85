"""Results of other parts of the library in a report, by what they offer: a table, moments, a figure, or scalars."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from uqms import plots
from uqms.errors import InputError, UqmsError
from uqms.report.contents import Block, Cell, Heading, Listing, Paragraph, Table
from uqms.report.material import MOST_ROWS, Material, heading_of
from uqms.report.names import by_name

__all__ = ["shown_evidence"]


def _propagated(result: Any) -> Any:
    """Draw the parts of the variance of a curve, or else the density of the first number."""
    try:
        return plots.variance(result)
    except InputError:
        return plots.density(result, str(next(iter(result.draws))))


LONGEST = 300  # characters of a field that is shown
TABLES = ("table", "summary", "to_frame", "to_dataframe")
# By the name of a class: the figures of its results. What is not here has its table only.
FIGURES: Mapping[str, tuple[tuple[str, Callable[..., Any]], ...]] = {
    "SobolIndices": (("Sobol' indices with 95 % intervals.", plots.sobol),),
    "ShapleyEffects": (("Shapley effects with 95 % intervals.", plots.shapley),),
    "Propagation": (("Propagated uncertainty.", _propagated),),
    "RankStatistics": (("Ranks of simulation-based calibration.", plots.ranks),),
    "VisualPredictiveCheck": (("Visual predictive check.", plots.visual_predictive_check),),
    "Identifiability": (("Identifiability.", plots.identifiability),),
    "Profile": (("Profile likelihood.", plots.profile),),
}


def shown_evidence(study: Material, root: str, title: str, statement: str = "") -> list[Block]:
    """Return the blocks of everything that was given under an argument."""
    blocks: list[Block] = []
    for name, one in by_name(study.given.get(root)).items():
        keys = (name,) if name else ()
        if name:
            blocks.append(Heading(name, 4))
        blocks += _one(study, one, root, keys, f"{title}: {name}" if name else title, statement)
    return blocks


def _one(study: Material, one: Any, root: str, keys: tuple[str, ...], title: str, statement: str) -> list[Block]:
    at = (root, *keys)
    if isinstance(one, pd.DataFrame):
        return study.table(title, *at, statement=statement)
    blocks: list[Block] = []
    if hasattr(one, "mean") and hasattr(one, "interval") and not hasattr(one, "table"):
        blocks += _moments(study, at, title, statement)
    else:
        blocks += _tables(study, one, at, title, statement)
    blocks += _scalars(study, one, at)
    summary = _in_numbers(study, blocks)
    for caption, draw in FIGURES.get(type(one).__name__, ()):
        blocks += study.picture(caption, f"{caption} {summary}", lambda draw=draw: draw(one), statement)  # type: ignore[misc]
    return blocks


def _tables(study: Material, one: Any, at: tuple[str, ...], title: str, statement: str) -> list[Block]:
    """Return the first table that an object offers."""
    for name in TABLES:
        if not hasattr(one, name):
            continue
        try:
            found = study.sources.at(*at, name)
        except UqmsError as error:
            return [Paragraph((f"{title}: no table. {error}",), "missing")]
        if isinstance(found, pd.DataFrame):
            return study.table(title, *at, name, statement=statement)
    return []


def _moments(study: Material, at: tuple[str, ...], title: str, statement: str) -> list[Block]:
    """Return mean, sd and interval of a prediction, by output and coordinate."""
    mean: xr.Dataset = study.sources.at(*at, "mean")
    blocks: list[Block] = []
    for output, values in mean.data_vars.items():
        places = list(np.ndindex(values.shape))
        rows: list[tuple[Cell, ...]] = []
        for place in places[:MOST_ROWS]:
            label = ", ".join(
                f"{dim} {_place(values[dim].values[i]) if dim in values.coords else i}"
                for dim, i in zip(values.dims, place, strict=True)
            )
            names = [("mean",), ("sd",), ("interval", "lower"), ("interval", "upper")]
            cells: list[Cell] = []
            for first, *rest in names:
                cells.append(study.number(*at, first, output, *rest, *place))
            rows.append((label or str(output), *cells))
        columns = ("place", "mean", "standard deviation", "2.5%", "97.5%")
        unit = str(values.attrs.get("unit", ""))
        caption = f"{title}: {output}{f' ({unit})' if unit else ''}"
        blocks.append(Table(caption, columns, tuple(rows), statement))
        if len(places) > MOST_ROWS:
            blocks.append(Paragraph((f"The first {MOST_ROWS} of {len(places)} places are shown.",), "note"))
    held = study.sources.at(*at).holds if hasattr(study.sources.at(*at), "holds") else ()
    if held:
        blocks.append(Paragraph((f"Uncertainties in it: {', '.join(map(str, held))}.",)))
    return blocks


def _place(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


def _scalars(study: Material, one: Any, at: tuple[str, ...]) -> list[Block]:
    """Return the fields of a result that are single numbers or text."""
    if not is_dataclass(one):
        return []
    items: list[Cell] = []
    for field in fields(one):
        value = getattr(one, field.name)
        large = isinstance(value, pd.DataFrame | xr.Dataset | xr.DataArray | np.ndarray | Mapping | list | tuple)
        if field.name.startswith("_") or large or callable(value) or value == "":
            continue
        if any(hasattr(value, name) for name in TABLES):  # another result, such as the candidates of a measurement
            continue
        found = study.sources.value(*at, field.name)
        if len(found.text) <= LONGEST:
            items.append((f"{heading_of(field.name)}: ", found))
    reasons = getattr(one, "reasons", ())
    items += [study.words(*at, "reasons", i) for i in range(len(reasons))]
    return [Listing(tuple(items))] if items else []


def _in_numbers(study: Material, blocks: list[Block]) -> str:
    """Return the first rows of a result's tables in words, for those who do not see its figure."""
    rows = [(table.columns, row) for table in blocks if isinstance(table, Table) for row in table.rows]
    said = []
    for columns, row in rows[:8]:
        cells = [f"{name} {_text(cell)}" for name, cell in zip(columns[1:7], row[1:7], strict=False)]
        said.append(f"{_text(row[0])}: {', '.join(cells)}")
    more = f"; {len(rows) - 8} further rows are in the table" if len(rows) > 8 else ""
    return "; ".join(said) + more + "."


def _text(cell: Cell) -> str:
    if isinstance(cell, tuple):
        return "".join(map(_text, cell))
    return cell if isinstance(cell, str) else cell.text

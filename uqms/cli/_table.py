"""Format tables as text for a terminal, and as JSON for other programs."""

import math
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["as_json", "as_text"]

_NARROW = 12  # minimum width of the last column, in characters


def as_text(table: "pd.DataFrame") -> str:
    """Return the table as text in aligned columns; the last column is cut at the width of the terminal."""
    if table.empty:
        return "none"
    import pandas as pd

    numbers = [pd.api.types.is_numeric_dtype(dtype) for dtype in table.dtypes]
    cells = [list(map(str, table.columns)), *(list(map(_cell, row)) for row in table.itertuples(index=False))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    room = shutil.get_terminal_size((120, 24)).columns - sum(widths[:-1]) - 2 * (len(widths) - 1)
    widths[-1] = min(widths[-1], max(room, _NARROW))
    return "\n".join(_line(row, widths, numbers) for row in cells)


def _line(row: list[str], widths: list[int], numbers: list[bool]) -> str:
    parts = []
    for text, width, number in zip(row, widths, numbers, strict=True):
        cut = text if len(text) <= width else f"{text[: width - 3]}..."
        parts.append(cut.rjust(width) if number else cut.ljust(width))
    return "  ".join(parts).rstrip()


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    text = "" if str(value) == "<NA>" else " ".join(str(value).split())
    # Control characters, for example in the message of a simulator, could be commands to the terminal.
    return "".join(c if c.isprintable() else "?" for c in text)


def as_json(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return the rows of the table as JSON values."""
    return [{str(name): _plain(value) for name, value in row.items()} for row in table.to_dict("records")]


def _plain(value: Any) -> object:
    import pandas as pd

    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if hasattr(value, "item") else value

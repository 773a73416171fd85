"""Progress of steps that may take long: shown on a terminal, and only after some seconds."""

from typing import Any

from tqdm import tqdm

__all__ = ["progress"]

DELAY = 3.0  # seconds


def progress(total: int | None, what: str, unit: str = "draw") -> Any:
    """Return a bar to use in a with statement, `update(n)` moves it; silent where standard error is no terminal."""
    return tqdm(total=total, desc=what, unit=unit, leave=False, delay=DELAY, disable=None, smoothing=0.1)

"""Numbers that JSON has no word for, as programs write them all the same."""

import re

__all__ = ["spelled"]

# Texts come first, so that they stay as they are.
_BARE = re.compile(
    r'"[^"\\]*(?:\\.[^"\\]*)*"|(?<![\w."+-])(?P<minus>-?)(?:(?P<nan>nan)|inf(?:inity)?)(?![\w."])',
    re.IGNORECASE | re.DOTALL,
)


def spelled(text: str) -> str:
    """Return JSON with ``NaN`` and ``Infinity``, which Python reads, for nan and inf in any other spelling."""
    return _BARE.sub(_word, text)


def _word(found: re.Match[str]) -> str:
    if found["minus"] is None:
        return found[0]
    return "NaN" if found["nan"] else f"{found['minus']}Infinity"

"""What to measure next and what to run next: the value of a measurement and of a run, and waves of history matching."""

from uqms.planning.waves import HistoryMatching, Wave, Worthwhile

__all__ = ["HistoryMatching", "Wave", "Worthwhile"]

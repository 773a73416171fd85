"""What to measure next and what to run next: the value of a measurement and of a run, and waves of history matching."""

from uqms.planning.level_sets import LevelSet, level_set
from uqms.planning.waves import HistoryMatching, Wave, Worthwhile

__all__ = ["HistoryMatching", "LevelSet", "Wave", "Worthwhile", "level_set"]

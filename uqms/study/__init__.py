"""One file for a study: from its sections to the objects of a script, to its results, and back."""

from uqms.study.steps import Results, State, finished_runs, write_report
from uqms.study.study import Study, mistakes_of
from uqms.study.template import new_study
from uqms.study.values import Mistake

__all__ = ["Mistake", "Results", "State", "Study", "finished_runs", "mistakes_of", "new_study", "write_report"]

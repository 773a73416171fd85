"""What to measure next and what to run next: the value of a measurement and of a run, and waves of history matching."""

from uqms.planning.runs import RunPlan, next_runs

__all__ = ["RunPlan", "next_runs"]

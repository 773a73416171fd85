"""Run a design in parallel processes, where a failed run does not stop the others, and store every run as it ends."""

from uqms.ensemble import RunState
from uqms.runs.dask import Dask
from uqms.runs.execute import run
from uqms.runs.policies import FailurePolicy
from uqms.runs.records import Record
from uqms.runs.store import RunStore

__all__ = ["Dask", "FailurePolicy", "Record", "RunState", "RunStore", "run"]

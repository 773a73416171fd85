"""Running a design: parallel processes that fail one at a time, and a store in which no run is lost."""

from uqms.ensemble import RunState
from uqms.runs.dask import Dask
from uqms.runs.execute import run
from uqms.runs.policies import FailurePolicy
from uqms.runs.records import Record
from uqms.runs.store import RunStore

__all__ = ["Dask", "FailurePolicy", "Record", "RunState", "RunStore", "run"]

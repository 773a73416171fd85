"""The table of runs that passes between the stages: an `xarray.Dataset` with dim ``run``.

`build` makes it from arrays, `from_table` from a pandas table or CSV, `uqms.run` from a simulator; `check` says what is
wrong with one; `combine` puts several into one; `completed` gives the runs that surrogates are fitted to, `failures`
describes the others, `run_states` gives the state of each run in words; `to_netcdf` and `from_netcdf` keep it.
"""

from uqms.ensemble.building import build, input_columns
from uqms.ensemble.combining import combine, inside
from uqms.ensemble.netcdf import from_netcdf, to_netcdf
from uqms.ensemble.readers import from_table
from uqms.ensemble.reporting import Failures, failures
from uqms.ensemble.states import LOST, RunState
from uqms.ensemble.table import (
    RESERVED,
    check,
    completed,
    get_box,
    get_space,
    input_array,
    input_names,
    missing_entries,
    output_names,
    run_states,
)

__all__ = [
    "LOST",
    "Failures",
    "RESERVED",
    "RunState",
    "build",
    "check",
    "combine",
    "completed",
    "failures",
    "from_netcdf",
    "from_table",
    "get_box",
    "get_space",
    "input_array",
    "input_columns",
    "input_names",
    "inside",
    "missing_entries",
    "output_names",
    "run_states",
    "to_netcdf",
]

"""The ensemble: a table of simulator runs, as an `xarray.Dataset` with the dimension ``run``.

`build` makes an ensemble from arrays, `from_table` from a pandas table or a CSV file, and `uqms.run` from a simulator.
`check` raises an error that describes what is wrong with an ensemble. `combine` joins several ensembles. `completed`
selects the runs that gave all of their outputs, `failures` summarises the runs that gave none, and `run_states` returns
how each run ended, in words. `to_netcdf` and `from_netcdf` write and read files.
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

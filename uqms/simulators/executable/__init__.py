"""Programs with input files and arguments: templates, a run under supervision, readers of what it left."""

from uqms.simulators.executable.result_readers import JSONFile, NetCDFFile, TextTable
from uqms.simulators.executable.simulator import ExecutableSimulator

__all__ = ["ExecutableSimulator", "JSONFile", "NetCDFFile", "TextTable"]

"""What computes one run: the protocol, and behind it a Python function, a program with input files, or a service."""

import importlib
from typing import TYPE_CHECKING, Any

from uqms.simulators.contract import Simulator
from uqms.simulators.function import FunctionSimulator

if TYPE_CHECKING:  # the twin of `_LATER`
    from uqms.simulators.executable import ExecutableSimulator, JSONFile, NetCDFFile, TextTable
    from uqms.simulators.umbridge import UMBridgeServer, UMBridgeSimulator, serve

__all__ = [
    "ExecutableSimulator",
    "FunctionSimulator",
    "JSONFile",
    "NetCDFFile",
    "Simulator",
    "TextTable",
    "UMBridgeServer",
    "UMBridgeSimulator",
    "serve",
]

# Every worker process loads this package, and has no use for templates or servers that are not asked for.
_LATER = {
    "ExecutableSimulator": "executable",
    "JSONFile": "executable",
    "NetCDFFile": "executable",
    "TextTable": "executable",
    "UMBridgeServer": "umbridge",
    "UMBridgeSimulator": "umbridge",
    "serve": "umbridge",
}


def __getattr__(name: str) -> Any:
    """Import `name` from its module when it is first used."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"uqms.simulators.{_LATER[name]}"), name)

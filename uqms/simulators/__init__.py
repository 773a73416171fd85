"""What computes one run: the protocol, and a Python function behind it."""

from uqms.simulators.function import FunctionSimulator
from uqms.simulators.protocol import Simulator

__all__ = ["FunctionSimulator", "Simulator"]

"""UM-Bridge, the field's HTTP protocol for models: a client that runs any such model, and a server for one's own."""

from uqms.simulators.umbridge.client import UMBridgeSimulator
from uqms.simulators.umbridge.server import UMBridgeServer, serve

__all__ = ["UMBridgeServer", "UMBridgeSimulator", "serve"]

"""UM-Bridge, the field's HTTP protocol for models: a client that runs any such model, and a server for one's own."""

from typing import TYPE_CHECKING

from uqms.simulators.umbridge.client import UMBridgeSimulator

if TYPE_CHECKING:
    from uqms.simulators.umbridge.server import UMBridgeServer, serve

__all__ = ["UMBridgeServer", "UMBridgeSimulator", "serve"]


def __getattr__(name: str) -> object:
    """Load the server where it is asked for: a worker with a client has no use for an event loop."""
    if name in ("UMBridgeServer", "serve"):
        from uqms.simulators.umbridge import server

        return getattr(server, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

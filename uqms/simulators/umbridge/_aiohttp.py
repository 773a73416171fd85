"""HTTP for the server, by aiohttp, with bounds where aiohttp has none. Imported only where a server is started."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, final

from aiohttp import web

from uqms.simulators.umbridge.endpoint import Endpoint, Reply
from uqms.simulators.umbridge.served import Refusal

__all__ = ["listening"]

_logger = logging.getLogger(__name__)
CONNECTIONS = 256
HEAD = BODY = WRITE = 10.0  # s for the head of a request, its body, and for the client to take the answer
IDLE = 75.0  # s for which a connection may be kept without a request
SWEEP = 0.5  # s between two looks at connections that are late
LINGER = 1.0  # s in which the rest of a refused body is thrown away, so that the client reads why
CHUNK = 1 << 16
JSON = {"Content-Type": "application/json", "Server": "uqms"}


@final
class _Connection(web.RequestHandler):
    """Knows since when it waits for its client."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.until = self._loop.time() + HEAD
        self.serving = False  # a whole request is there, and is being answered

    def data_received(self, data: bytes) -> None:
        if self.idle:
            self.idle, self.until = False, self._loop.time() + HEAD
        super().data_received(data)

    idle = False

    def log_exception(self, *args: Any, **details: Any) -> None:
        """Keep the log free of clients that leave: what goes wrong in an answer is logged where it is made."""
        _logger.debug(*args, **details)

    def rest(self) -> None:
        """Wait for the next request."""
        self.idle, self.serving, self.until = True, False, self._loop.time() + IDLE

    def handle_error(
        self, request: Any, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> Any:
        """Say what is wrong with the HTTP itself in JSON, too."""
        _logger.debug("a request that is not HTTP", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        kind, text = ("InvalidInput", "This is not HTTP.") if status < 500 else ("InternalError", "The server failed.")
        return _response(Reply.refusal(Refusal(status, kind, text)))


@final
class _Connections(web.Server):
    """At most CONNECTIONS at once. A new one takes the place of the one that has kept us waiting longest."""

    @property
    def mine(self) -> "list[_Connection]":
        """The open connections, without those that are about to go."""
        return [each for each in self.connections if isinstance(each, _Connection) and each.transport is not None]

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Make room for a new connection."""
        super().connection_made(handler, transport)
        mine = self.mine
        if len(mine) > CONNECTIONS:
            waiting = [each for each in mine if not each.serving and each is not handler]
            (min(waiting, key=lambda each: each.until) if waiting else handler).force_close()

    async def sweep(self) -> None:
        """Close connections whose time is over."""
        while True:
            await asyncio.sleep(SWEEP)
            now = asyncio.get_running_loop().time()
            for each in self.mine:
                if not each.serving and each.until < now:
                    each.force_close()


@asynccontextmanager
async def listening(endpoint: Endpoint, host: str, port: int, max_body: int) -> AsyncIterator[int]:
    """Answer requests inside the block; gives the port.

    Raises
    ------
    OSError
        When the port is not available.
    """

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        connection: Any = request.protocol
        try:
            return await _exchange(endpoint, request, connection, max_body)
        finally:
            connection.rest()

    loop = asyncio.get_running_loop()
    manager = _Connections(handle, handler_cancellation=True)
    settings = {"access_log": None, "lingering_time": LINGER, "auto_decompress": False, "logger": _logger}
    # A flood that fills the queue of new connections would make others wait a second until they try again.
    server = await loop.create_server(
        lambda: _Connection(manager, loop=loop, **settings), host, port, backlog=4 * CONNECTIONS
    )
    sweeper = asyncio.create_task(manager.sweep())
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        sweeper.cancel()
        for sock in server.sockets:
            loop.remove_reader(sock.fileno())
        for _ in range(3):  # what has been accepted already becomes a connection, which can be closed
            await asyncio.sleep(0)
        server.close()
        for connection in manager.mine:
            if connection.transport is not None:
                connection.transport.abort()
        await manager.shutdown(0.1)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), 1.0)


async def _exchange(endpoint: Endpoint, request: web.BaseRequest, connection: Any, max_body: int) -> web.Response:
    async def body() -> bytes:
        content = await _body(request, max_body)
        connection.serving = True
        return content

    response = _response(await endpoint.reply(request.method, request.path, request.headers, body))
    try:
        async with asyncio.timeout(WRITE):  # a client that does not take its answer would hold it in memory
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        connection.transport.abort()
    return response


async def _body(request: web.BaseRequest, max_body: int) -> bytes:
    """Read the body, as far as it may be long and take time."""
    too_long = Refusal(413, "TooLarge", f"The body is longer than {max_body} bytes.")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Refusal(415, "InvalidInput", "Send the body as it is; compressed ones are not read.")
    if (request.content_length or 0) > max_body:
        raise too_long
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY):
            while part := await request.content.readany():
                parts.append(part)
                size += len(part)
                if size > max_body:
                    raise too_long
    except TimeoutError:
        raise Refusal(408, "Timeout", f"The body did not come within {BODY:g} s.") from None
    except web.RequestPayloadError:
        raise Refusal(400, "InvalidInput", "The body is not HTTP.") from None
    return b"".join(parts)


def _response(reply: Reply) -> web.Response:
    return web.Response(body=reply.body, status=reply.status, headers=JSON)

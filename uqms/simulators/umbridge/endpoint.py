"""What the server answers to each request, whatever carries the HTTP."""

import asyncio
import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import final
from urllib.parse import urlsplit

from uqms.simulators.umbridge import wire
from uqms.simulators.umbridge.served import Refusal, Served, told
from uqms.simulators.umbridge.slots import Slots

__all__ = ["Endpoint", "Reply", "is_loopback"]

_logger = logging.getLogger(__name__)
ELSEWHERE = 1 << 18  # bytes of a body from which on it is parsed in a thread, so that others are answered meanwhile
KEYS = {
    "ModelInfo": {"name"},
    "InputSizes": {"name", "config"},
    "OutputSizes": {"name", "config"},
    "Evaluate": {"name", "input", "config"},
    "Gradient": {"name", "outWrt", "inWrt", "input", "sens", "config"},
}
OTHERS = ("ApplyJacobian", "ApplyHessian")


@final
@dataclass(frozen=True)
class Reply:
    """Status and JSON body."""

    status: int
    body: bytes

    @staticmethod
    def refusal(error: Refusal) -> "Reply":
        """Return the error JSON of the protocol, with the outputs that are available."""
        partial = {} if error.partial is None else {"partial": error.partial}
        return Reply(error.status, wire.dumps({"error": {"type": error.kind, "message": str(error), **partial}}))


@final
@dataclass(frozen=True)
class Endpoint:
    """Models behind one address."""

    models: Mapping[str, Served]
    slots: Slots
    token: str | None
    local: bool  # bound to loopback: without a token, names of other hosts are refused

    async def reply(
        self, method: str, path: str, headers: Mapping[str, str], body: Callable[[], Awaitable[bytes]]
    ) -> Reply:
        """Answer one request; `body` reads the rest of it, and is asked only when the head is as it should be."""
        try:
            return Reply(200, await self._answer(method, path, headers, body))
        except Refusal as error:
            return Reply.refusal(error)
        except Exception:
            _logger.exception("a request to %s could not be answered", wire.shortened(path, 100))
            return Reply.refusal(Refusal(500, "InternalError", "The server failed; see its log."))

    async def _answer(
        self, method: str, path: str, headers: Mapping[str, str], body: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        self._admit(headers)
        question = path.removeprefix("/")
        due = "GET" if question == "Info" else "POST"
        if question != "Info" and question not in KEYS and question not in OTHERS:
            raise Refusal(404, "NotFound", f"There is no {wire.shortened(path, 100)}; ask Info, {', '.join(KEYS)}.")
        if method != due:
            raise Refusal(405, "MethodNotAllowed", f"{question} is asked by {due}.")
        if question == "Info":
            return wire.dumps({"protocolVersion": wire.PROTOCOL, "models": list(self.models)})
        if question in OTHERS:
            raise Refusal(400, "UnsupportedFeature", f"{question} is not offered.")
        return await self._about_a_model(question, await _parsed(await body()))

    def _admit(self, headers: Mapping[str, str]) -> None:
        """Refuse those without the token, and web pages that reach a local server through the user's browser.

        A page does not know the token, and a proxy on this machine passes on the name under which others know it.
        """
        if self.token is not None:
            given = headers.get("Authorization", "").encode("utf-8", errors="replace")
            if not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
                raise Refusal(401, "Unauthorized", "Send the token of this server as 'Authorization: Bearer ...'.")
        elif self.local:
            for key in ("Host", "Origin"):
                if key in headers and not _names_loopback(headers[key], key):
                    raise Refusal(403, "Forbidden", f"This server answers to this machine only; {key} is another one.")

    async def _about_a_model(self, question: str, message: Mapping[str, object]) -> bytes:
        unknown = sorted(set(message) - KEYS[question])
        if unknown:
            keys = ", ".join(sorted(KEYS[question]))
            raise Refusal(
                400, "InvalidInput", f"unknown key {wire.shortened(unknown[0], 60)!r}; {question} takes {keys}."
            )
        name = message.get("name")
        if isinstance(name, list) and len(name) == 1:  # R's client writes one text as a list
            name = name[0]
        model = self.models.get(name) if isinstance(name, str) else None
        if model is None:
            asked = wire.shortened(repr(name), 80)
            raise Refusal(400, "ModelNotFound", f"There is no model {asked}; there are: {', '.join(self.models)}.")
        if question.endswith("Sizes"):
            model.check_config(message)
            inputs = question == "InputSizes"
            return wire.dumps({"inputSizes": model.input_sizes} if inputs else {"outputSizes": model.output_sizes})
        try:
            if question == "ModelInfo":
                return await asyncio.to_thread(model.support)  # for a proxy, this asks another server
            call = model.evaluation(message) if question == "Evaluate" else model.gradient(message)
            return await self.slots.run(call)
        except Refusal:
            raise
        except Exception as error:
            _logger.info("%s of model %r failed", question, model.name, exc_info=error)
            raise told(error) from None


async def _parsed(body: bytes) -> dict[str, object]:
    try:
        return wire.loads(body) if len(body) < ELSEWHERE else await asyncio.to_thread(wire.loads, body)
    except wire.WireError as error:
        raise Refusal(400, "InvalidInput", f"{error}.") from None


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _names_loopback(value: str, key: str) -> bool:
    try:
        return is_loopback(urlsplit(value if key == "Origin" else f"//{value}").hostname or "")
    except ValueError:
        return False

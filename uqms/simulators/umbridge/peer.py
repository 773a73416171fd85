"""One question to a UM-Bridge server: sent again while there is no connection, and answered or refused by type."""

import http.client
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final
from urllib.parse import urlsplit

from uqms.errors import InputError, OutputError, SimulatorError, SimulatorFailed, SimulatorTimeout
from uqms.simulators.umbridge import wire
from uqms.simulators.umbridge.connections import Answer, Connections, NoConnection, Stale

__all__ = ["InvalidOutput", "Peer", "checked_url"]

BACKOFF = 0.2  # s before the first retry, doubled from one to the next


class InvalidOutput(OutputError):
    """The server says that the model's outputs are wrong; `vectors` is what it sent of them, unchecked."""

    def __init__(self, message: str, vectors: object) -> None:
        super().__init__(message)
        self.vectors = vectors


@final
@dataclass(frozen=True, eq=False)
class Peer:
    """A model at a server, and how to reach it."""

    url: str
    model: str
    retries: int
    token: str | None = field(repr=False)
    connections: Connections = field(repr=False)

    @property
    def where(self) -> str:
        """What is spoken to, for messages."""
        return f"UM-Bridge model {self.model!r} at {self.url}"

    def misread(self, what: str) -> OutputError:
        """Return the error of an answer that is not what the protocol says."""
        return OutputError(f"{self.where} answered {what}.")

    def ask(self, question: str, message: Mapping[str, object] | None, end: float, limit: int) -> dict[str, object]:
        """Send one request and return the JSON object that answers it.

        Parameters
        ----------
        question
            The protocol's word, such as "Evaluate".
        message
            The body; None for a question without one.
        end
            Deadline in monotonic time, for everything.
        limit
            Bytes that the answer may have.

        Raises
        ------
        SimulatorTimeout
            At the deadline, or when the server says that the model missed its own (504).
        SimulatorFailed
            When there is no connection after all retries or until the deadline, or the server says that it failed.
        OutputError
            When the answer is too long or no JSON object, or the server says that the model's outputs are wrong.
        InputError
            For a redirect, or when the server requires another token.
        """
        if time.monotonic() >= end:
            raise SimulatorTimeout(f"{self.where} was not asked for {question}: no time was left.")
        tried, stale, first = 0, 0, ""
        while True:
            tried += 1
            try:
                answer = self._exchange(question, message, end, limit)
            except Stale:  # each kept connection only once, so that this comes to an end
                stale += 1
                continue
            except NoConnection as error:
                wrong = f"no connection: {wire.shortened(str(error), 200)}"
            except TimeoutError as error:
                if time.monotonic() >= end - 1e-3:
                    raise self._late(question) from error
                wrong = _broken(error)
            except ssl.SSLError as error:
                raise SimulatorFailed(f"{self.where}: TLS fails: {error}.") from error
            except (OSError, http.client.IncompleteRead) as error:
                wrong = _broken(error)
            except http.client.HTTPException as error:
                raise SimulatorFailed(
                    f"{self.where}: what answers there is no HTTP server ({type(error).__name__}: "
                    f"{wire.shortened(str(error), 200)}). Check the port."
                ) from error
            else:
                if answer.status not in (502, 503):
                    return self._read(answer)
                wrong = f"the server is busy or restarts: {self._said(answer)}"
            first = first or wrong
            attempt = tried - stale
            wait = BACKOFF * 2 ** (attempt - 1)
            late = time.monotonic() + wait >= end
            if attempt > self.retries or late:
                until = ", until the deadline" if late else ""
                before = f" At first: {first}." if first != wrong else ""
                raise SimulatorFailed(f"{self.where}: {wrong} (tried {tried} times{until}).{before}")
            time.sleep(wait)

    def _late(self, question: str) -> SimulatorTimeout:
        return SimulatorTimeout(
            f"{self.where} did not answer {question} before the deadline. The server may still be computing; "
            "give it more time with timeout=, or look at the server."
        )

    def _exchange(self, question: str, message: Mapping[str, object] | None, end: float, limit: int) -> Answer:
        headers = {"Accept": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        body = None
        if message is not None:
            body = wire.dumps(message)
            headers["Content-Type"] = "application/json"
        method = "GET" if body is None else "POST"
        try:
            return self.connections.exchange(method, f"/{question}", body, headers, end, limit)
        except OutputError as error:
            raise self.misread(str(error).removesuffix(".")) from None

    def _read(self, answer: Answer) -> dict[str, object]:
        if 300 <= answer.status < 400:
            raise InputError(
                f"{self.where} redirects ({answer.status}) to {_without_credentials(answer.location)}; redirects are "
                "not followed. Give the address itself as url."
            )
        if answer.status in (401, 403):
            raise InputError(f"{self.where} refuses: {self._said(answer)}. Does it want another token=?")
        if answer.status != 200:
            raise self._failed(answer)
        try:
            message = wire.loads_answer(answer.body)
        except wire.WireError as error:
            raise self.misread(str(error)) from None
        if message.get("error") is not None:  # some servers say 200 even then
            raise self._failed(answer)
        return message

    def _failed(self, answer: Answer) -> SimulatorError:
        text, error = f"{self.where} answered {self._said(answer)}", _error(answer)
        if answer.status == 504:
            return SimulatorTimeout(text)
        return (
            InvalidOutput(text, error.get("partial")) if error.get("type") == "InvalidOutput" else SimulatorFailed(text)
        )

    def _said(self, answer: Answer) -> str:
        """Return status and text of an error, of the protocol's own kind or not, in one line."""
        text, error = answer.body.decode("utf-8", errors="replace"), _error(answer)
        if error:
            text = f"{error.get('type', 'error')}: {error.get('message', '')}"
        said = f"{answer.status} {wire.shortened(text) or wire.shortened(answer.reason, 100)}"
        return said if self.token is None else said.replace(self.token, "***")


def checked_url(url: object) -> str:
    """Return the URL without a slash at its end; messages do not repeat one that may hold a password.

    Raises
    ------
    InputError
        When it is not the address of an HTTP server alone.
    """
    if not isinstance(url, str) or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise InputError("url has spaces or is no text; give an address such as 'http://localhost:4242'.")
    try:
        parts = urlsplit(url)
        good = parts.port != 0 and bool(parts.hostname)
    except ValueError:
        raise InputError("url cannot be read; give an address such as 'http://localhost:4242'.") from None
    if "@" in parts.netloc:
        raise InputError("url holds a user or password, which would be stored with the runs; use token= instead.")
    if parts.scheme not in ("http", "https"):
        raise InputError(
            f"url has the scheme {parts.scheme!r}; only http and https are spoken, as in http://host:4242."
        )
    if not good:
        raise InputError(f"url is {url!r}; give host and port, such as 'http://localhost:4242'.")
    if parts.query or parts.fragment:
        raise InputError(
            "url has a query or fragment; give the server's address alone, such as 'http://localhost:4242'."
        )
    return url.rstrip("/")


def _error(answer: Answer) -> dict[str, object]:
    """Return the protocol's error object, empty when there is none."""
    try:
        error = wire.loads_answer(answer.body).get("error")
    except wire.WireError:
        return {}
    return error if isinstance(error, dict) else {}


def _broken(error: Exception) -> str:
    """Say that the server was reached, so that it may have begun to compute."""
    reason = f"{type(error).__name__}: {wire.shortened(str(error), 200)}".rstrip(": ")
    return f"the connection broke before the answer was there, so the server or the model may have crashed: {reason}"


def _without_credentials(location: str) -> str:
    try:
        netloc = urlsplit(location).netloc
    except ValueError:
        return "nowhere"
    return wire.shortened(location.replace(netloc, netloc.rpartition("@")[2], 1), 200) or "nowhere"

"""Reads a host's answers for its client: health, events and refusals.

Distinguishes a host from other programs that may answer on a socket or at a URL. Knows no sockets
and starts nothing.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import ValidationError

from dlm_lsp.client.errors import HostError
from dlm_lsp.client.messages import (
    DraftEvent,
    ErrorEvent,
    FinishedEvent,
    HostEvent,
    StoppedEvent,
    parse_event,
)

LAST_EVENTS = (FinishedEvent, StoppedEvent, ErrorEvent)
LINE_BYTES_MAX = 16 << 20


@dataclass(frozen=True, slots=True)
class Health:
    """The health of a host.

    Attributes:
        state: "absent" (nothing accepts connections), "loading", "ready" or "error".
        message: one sentence for the user; it includes the remedy if the state is "error".
        detail: the host's answer: protocol, version, checkpoint, device, dtype, pid, contextMax …
    """

    state: Literal["absent", "loading", "ready", "error"]
    message: str
    detail: dict[str, Any] = field(default_factory=dict)


class HostLost(Exception):
    """The connection broke or could not be made."""


class Chunks(Protocol):
    """A body as it arrives, such as an `aiohttp.StreamReader`."""

    async def readany(self) -> bytes:
        """Waits for and returns the bytes since the last call; empty at the end."""
        ...


async def read_events(content: Chunks) -> AsyncGenerator[HostEvent, None]:
    """Yields the events of a response. Raises HostLost if it ends before a last event."""
    rest = b""
    event: HostEvent | None = None
    while chunk := await content.readany():
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > LINE_BYTES_MAX:
            raise _unreadable("a line longer than 16 MiB")
        try:
            events = [parse_event(line) for line in lines if line]
        except ValidationError as error:
            raise _unreadable(f"an event with {error.error_count()} wrong fields") from None
        for index, event in enumerate(events):
            following = events[index + 1] if index + 1 < len(events) else None
            if not (isinstance(event, DraftEvent) and isinstance(following, DraftEvent)):
                yield event
    if not isinstance(event, LAST_EVENTS):
        raise HostLost("the answer broke off")


def _unreadable(what: str) -> HostError:
    return HostError(
        f"The engine host sent {what}.",
        remedy="Bring client and host to the same version of dlm-lsp.",
        code="protocol",
    )


def read_health(status: int, body: bytes) -> Health:
    """Reads an answer to `GET /health`."""
    try:
        detail = json.loads(body)
    except ValueError:
        detail = None
    if not isinstance(detail, dict):
        return Health("error", f"HTTP {status}: this is no dlm-lsp host.", {"code": "protocol"})
    if status == 200:
        return Health("ready", "The engine is ready.", detail)
    error = _error_object(body)
    message, remedy = str(error.get("message", "")), str(error.get("remedy", ""))
    if status == 503 and error.get("type") == "unavailable_error":
        return Health("loading", message, detail)
    if status == 503 and error.get("type") == "stopping":
        return Health("absent", message, detail)
    code = "load_failed" if error.get("type") == "load_error" else error.get("code", "unavailable")
    detail = {**detail, "code": str(code), "remedy": remedy}
    return Health("error", f"{message or f'HTTP {status}'} {remedy}".strip(), detail)


def to_error(health: Health) -> HostError:
    """Returns the error of a health whose state is "error"."""
    remedy = str(health.detail.get("remedy", ""))
    message = health.message.removesuffix(remedy).rstrip()
    return HostError(message, remedy=remedy, code=str(health.detail.get("code", "unavailable")))


def read_refusal(status: int, body: bytes) -> HostError:
    """Returns the error of an answer other than 200. Raises HostLost if the host is ending."""
    error = _error_object(body)
    code = str(error.get("code") or "unavailable")
    if code == "stopping":
        raise HostLost("it is ending")
    message = str(error.get("message") or f"The engine host answered HTTP {status}.")
    return HostError(message, code=code)


def _error_object(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    error = answer.get("error") if isinstance(answer, dict) else None
    return error if isinstance(error, dict) else {}

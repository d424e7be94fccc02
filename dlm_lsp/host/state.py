"""The state of one host process, shared by the routes and the life cycle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dlm_lsp.host.loading import Loader
from dlm_lsp.host.metrics import Metrics
from dlm_lsp.host.modes import ModeRecords
from engine.api import Handle


@dataclass(frozen=True, slots=True)
class HostLimits:
    """The limits of one host. Times are in seconds.

    Attributes:
        requests_max: the largest number of requests in flight and queued; more are refused.
        load_seconds: how long a request waits for the model to be loaded.
        write_seconds: how long a client may read nothing before it is disconnected.
        linger_seconds: how long a host that cannot load keeps reporting the reason to clients.
        drain_seconds: how long requests in flight may take when the host ends.
    """

    requests_max: int = 32
    body_bytes_max: int = 4 << 20  # 300,000 characters as escaped surrogate pairs.
    body_seconds: float = 30.0
    load_seconds: float = 120.0
    write_seconds: float = 30.0
    linger_seconds: float = 10.0
    drain_seconds: float = 5.0


@dataclass(slots=True)
class Host:
    """One host on one event loop.

    Attributes:
        token: the token that clients must send; None on the private socket.
        records: the records of finished requests, by which "auto" chooses.
        typing: how to cancel the request that runs for a document while its user types, by client
            and document.
        stop: an event that is set when the host must end.
        last_active: when the last request ended.
        last_seen: when a client last asked for the host's health.
    """

    loader: Loader
    token: str | None = None
    limits: HostLimits = field(default_factory=HostLimits)
    metrics: Metrics = field(default_factory=Metrics)
    records: ModeRecords = field(default_factory=ModeRecords)
    typing: dict[tuple[str, str], Handle] = field(default_factory=dict[tuple[str, str], Handle])
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    requests: int = 0
    last_active: float = field(default_factory=time.monotonic)
    last_seen: float = field(default_factory=time.monotonic)

    @contextmanager
    def as_newest(self, client: str, document: str, handle: Handle) -> Iterator[None]:
        """Cancels the earlier request of a client for the text that is typed in a document: only
        the newest one is of use. Clients and documents without a name have nothing to do with each
        other."""
        key = (client, document)
        if not client or not document:
            yield
            return
        if (earlier := self.typing.get(key)) is not None:
            earlier.cancel()
        self.typing[key] = handle
        try:
            yield
        finally:
            if self.typing.get(key) is handle:
                del self.typing[key]

    @contextmanager
    def working(self) -> Iterator[None]:
        """Counts a request while it runs, for the idle time."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1
            self.last_active = time.monotonic()

    def idle_seconds(self) -> float:
        """The seconds since the last request ended or the model was loaded; 0 during a request."""
        return 0.0 if self.requests else time.monotonic() - self.last_active

    def lonely_seconds(self) -> float:
        """The seconds since a client last asked for anything, its health included."""
        return min(self.idle_seconds(), time.monotonic() - self.last_seen)

"""What one host process is and does right now; shared by the routes and the life cycle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dlm_lsp.host.loading import Loader
from dlm_lsp.host.metrics import Metrics
from dlm_lsp.host.modes import ModeRecords


@dataclass(frozen=True, slots=True)
class HostLimits:
    """Bounds of one host. Times are seconds.

    Attributes:
        requests_max: in flight and queued together; one more is refused.
        load_seconds: how long a request waits for the model to be loaded.
        write_seconds: how long a client may read nothing before it is cut off.
        linger_seconds: how long a host that cannot load goes on telling clients why.
        drain_seconds: how long requests in flight may take once the host is to end.
    """

    requests_max: int = 32
    body_bytes_max: int = 4 << 20  # 300,000 characters, each as an escaped surrogate pair
    body_seconds: float = 30.0
    load_seconds: float = 120.0
    write_seconds: float = 30.0
    linger_seconds: float = 10.0
    drain_seconds: float = 5.0


@dataclass(slots=True)
class Host:
    """One host. Lives on one event loop.

    Attributes:
        token: what a client must present; None on the private socket.
        records: of finished requests, by which "auto" chooses.
        stop: set when the host is to end.
    """

    loader: Loader
    token: str | None = None
    limits: HostLimits = field(default_factory=HostLimits)
    metrics: Metrics = field(default_factory=Metrics)
    records: ModeRecords = field(default_factory=ModeRecords)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    requests: int = 0
    last_active: float = field(default_factory=time.monotonic)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Counts a request while it lasts; an idle host ends."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1
            self.last_active = time.monotonic()

    def idle_seconds(self) -> float:
        """Since the last request ended, or the model was loaded; 0 while there is work."""
        return 0.0 if self.requests else time.monotonic() - self.last_active

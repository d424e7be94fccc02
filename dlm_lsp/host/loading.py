"""Loads the backend on its own thread while the host already answers.

Owns the backend from loading to closing. Knows neither HTTP nor what a backend does.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time

from dlm_lsp.client.errors import HostError
from dlm_lsp.host.backend import Backend, Load
from dlm_lsp.store.choice import name_of
from engine.config import EngineSettings
from engine.errors import EngineError

logger = logging.getLogger(__name__)


class Loader:
    """One backend, from loading to closing. All methods run on the event loop.

    Attributes:
        name: the checkpoint's name, as users see it.
        message: the progress of loading, for users.
    """

    def __init__(self, load: Load, settings: EngineSettings) -> None:
        self._load = load
        self._settings = settings
        self._done = asyncio.Event()
        self.name = name_of(settings.checkpoint)
        self.message = "Loading model"
        self.backend: Backend | None = None
        self.error: HostError | None = None

    @property
    def is_done(self) -> bool:
        """Whether loading has ended, well or badly."""
        return self._done.is_set()

    def start(self) -> None:
        """Starts loading and returns at once."""
        loop = asyncio.get_running_loop()
        # A load cannot be interrupted; a daemon thread does not keep an ending host alive.
        threading.Thread(target=self._run, args=(loop,), name="load", daemon=True).start()

    async def wait(self, seconds_max: float | None = None) -> None:
        """Waits until loading has ended, well or badly. Raises TimeoutError."""
        async with asyncio.timeout(seconds_max):
            await self._done.wait()

    async def close(self) -> None:
        """Closes the backend, if there is one, and with it its remaining requests."""
        if self.backend is not None:
            await asyncio.to_thread(self.backend.close)
            self.backend = None

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        started = time.monotonic()
        backend, error = None, None
        try:
            backend = self._load(self._settings, self._preparing)
            logger.info(
                "loaded %s on %s (%s) in %.1f s",
                backend.info.checkpoint,
                backend.info.device,
                backend.info.dtype,
                time.monotonic() - started,
            )
        except EngineError as failure:
            error = HostError(failure.message, remedy=failure.remedy, code="load_failed")
        except Exception as failure:  # The thread's boundary: every client gets the error.
            logger.exception("loading failed")
            error = HostError(
                f"The engine cannot be loaded: {type(failure).__name__}: {failure}.",
                remedy="See the host's log.",
                code="load_failed",
            )
        try:
            loop.call_soon_threadsafe(self._finish, backend, error)
        except RuntimeError:  # The host has ended meanwhile.
            if backend is not None:
                backend.close()

    def _preparing(self, share: float | None) -> None:
        """Implements `engine.api.Preparing`; called on the loading thread."""
        percent = "" if share is None else f" ({share * 100:.0f} %)"
        self.message = f"Preparing {self.name} for this machine, once{percent}"

    def _finish(self, backend: Backend | None, error: HostError | None) -> None:
        self.backend, self.error = backend, error
        if error is not None:
            logger.error("%s", error)
        self._done.set()

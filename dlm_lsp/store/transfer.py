"""The tools of a source for a pull: files to write, progress reports and cancellation.

Owns the count over all files of a pull, the check of disk space, and the time limit for a network
that does not answer. Knows no source.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dlm_lsp.store.catalogue import File
from dlm_lsp.store.errors import StoreError
from dlm_lsp.store.progress import Meter, sized
from dlm_lsp.store.sink import Sink, is_right

T = TypeVar("T")

ANSWER_SECONDS_MAX = 8.0  # From the look-up of a server's name to its answer's head.
_SPARE_BYTES = 32 << 20  # The disk space that stays free.
_POLL_SECONDS = 0.1


class Transfer:
    """One source's work on one pull.

    Attributes:
        folder: the pull's folder; other files that a source leaves there are deleted.
        was_resumed: whether a file of an earlier pull was resumed.
    """

    def __init__(self, folder: Path, meter: Meter, cancelled: Callable[[], bool]) -> None:
        self.folder = folder
        self.was_resumed = False
        self._meter = meter
        self._cancelled = cancelled
        self._finished = 0

    def check(self) -> None:
        """Raises StoreError if the pull has been cancelled."""
        if self._cancelled():
            raise StoreError(
                f"The pull of {self._meter.name} was cancelled.",
                remedy="The next one goes on where it ended.",
                code="cancelled",
            )

    def pause(self, seconds: float) -> None:
        """Waits unless the pull is cancelled meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(_POLL_SECONDS, left))

    def expect(self, num_bytes: int) -> None:
        """Sets the size of the whole model, if only the source knows it."""
        self._meter.total = num_bytes

    def connecting(self, source: str) -> None:
        """Reports which source is asked now."""
        self._meter.source = source
        self._meter.update("connecting", self._finished)

    def open(self, file: File) -> Sink:
        """Opens a new or partial file; its existing bytes are hashed."""
        checked = Count()
        sink = Sink(self.folder / file.name, file, lambda: self._checking(checked))
        self.was_resumed |= sink.was_resumed
        return sink

    def has(self, file: File) -> bool:
        """Returns whether the file is complete and right."""
        place = self.folder / file.name
        return not place.is_symlink() and self.is_right(place, file)

    def is_right(self, place: Path, file: File) -> bool:
        """Returns whether a file at another path has the right contents."""
        checked = Count()
        return is_right(place, file, lambda: self._checking(checked))

    def write(self, sink: Sink, data: bytes) -> None:
        """Appends to a file and reports the progress."""
        self.check()
        sink.write(data)
        self.coming(sink)

    def coming(self, sink: Sink, ahead: int = 0) -> None:
        """Reports a file's bytes, and `ahead` downloaded bytes that are not in the file yet."""
        self.check()
        self._meter.update("downloading", self._finished + sink.size + ahead)

    def finished(self, file: File) -> None:
        """Counts a file that is complete and right."""
        self._finished += file.bytes
        self._meter.update("downloading", self._finished)

    def need(self, num_bytes: int) -> None:
        """Raises StoreError if the disk has no room for `num_bytes` more bytes."""
        free = shutil.disk_usage(self.folder).free
        if free < num_bytes + _SPARE_BYTES:
            raise StoreError(
                f"The disk of {self.folder.parent} has {sized(free)} free; {self._meter.name} "
                f"needs {sized(num_bytes + _SPARE_BYTES)}.",
                remedy="Make room, or set DLM_LSP_MODELS to a folder on a larger disk.",
                code="disk_full",
            )

    def soon(self, call: Callable[[], T], who: str) -> T:
        """Returns the call's result if it comes within ANSWER_SECONDS_MAX.

        The thread of a slower call is abandoned, because neither the look-up of a name nor
        connecting to several addresses in turn has a time limit.

        Raises: StoreError; whatever the call raises.
        """
        results: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                results.append(call())
            except BaseException as error:  # Raised again on the waiting thread.
                errors.append(error)

        thread = threading.Thread(target=work, name="connect", daemon=True)
        thread.start()
        end = time.monotonic() + ANSWER_SECONDS_MAX
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
            self.check()
            if thread.is_alive() and time.monotonic() > end:
                raise StoreError(
                    f"{who} did not answer within {ANSWER_SECONDS_MAX:.0f} s.",
                    remedy="Check the network.",
                    code="no_network",
                )
        if errors:
            raise errors[0]
        return results[0]

    def _checking(self, checked: Count) -> None:
        self.check()
        checked.bytes += 1 << 20
        self._meter.update("checking", min(self._meter.total, self._finished + checked.bytes))


class Count:
    """The number of hashed bytes of one file."""

    def __init__(self) -> None:
        self.bytes = 0

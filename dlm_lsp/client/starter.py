"""Starts a host process, once for all clients, and with growing pauses after failures.

Owns the start lock, the child process and the back-off. The client checks whether the host answers;
the host's own lock decides which process serves. Knows neither HTTP nor torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import dlm_lsp
from dlm_lsp.client.errors import HostError
from dlm_lsp.client.options import ServeOptions
from dlm_lsp.client.paths import HostPaths

if sys.platform != "win32":  # On Windows `host_paths` fails, and hosts are reached by URL.
    import fcntl

EXIT_TAKEN = 3  # The exit status of a host process if another host already serves.
_PAUSE_SECONDS_MAX = 60.0
_LOG_BYTES_MAX = 1 << 20


class Starter:
    """Starts the host of one client. Not thread-safe."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._lock: int | None = None
        self._starting: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []

    def attempt(self, paths: HostPaths) -> None:
        """Starts a host unless one runs or a client is already starting one.

        This client holds the start lock until `settle`.

        Raises:
            HostError: the process cannot be started, or the process started before has failed.
        """
        self._started = [child for child in self._started if child.poll() is None]  # reaps
        if self._is_starting(paths):
            return
        if self._lock is None:
            self._lock = _try_lock(paths.start_lock)
        if self._lock is not None and not _is_locked(paths.lock):
            self._starting = _spawn(self._options, paths)

    def settle(self) -> None:
        """Releases the start lock after the host has answered or this client has given up."""
        if self._starting is not None:
            self._started.append(self._starting)
            self._starting = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def detach(self) -> None:
        """Detaches from the processes, which outlive this client and serve others."""
        self.settle()
        with warnings.catch_warnings():
            # Popen warns about children that still run, which is intended here.
            warnings.simplefilter("ignore", ResourceWarning)
            self._started.clear()

    def _is_starting(self, paths: HostPaths) -> bool:
        if self._starting is None:
            return False
        code = self._starting.poll()
        if code is None:
            return True
        self._starting = None
        if code in (0, EXIT_TAKEN):
            return False  # Another host serves or has just ended; the caller retries.
        how = f"by signal {-code}" if code < 0 else f"with status {code}"
        raise HostError(
            f"The engine host ended {how} while starting: {_last_line(paths.log)}",
            remedy=f"See {paths.log}.",
            code="start_failed",
        )


@dataclass(slots=True)
class Backoff:
    """Decides when to retry after a failure. Times are seconds of one monotonic clock.

    Each successive failure doubles the pause, so that a host that cannot load is not started at
    every keystroke.
    """

    failures: int = 0  # Counted since the last answer.
    until: float = 0.0
    error: HostError | None = None

    def failed(self, error: HostError, now: float, *, free: int = 0) -> None:
        """Records a failure; `check` raises the same error until its pause is over.

        Args:
            free: the number of failures since the last answer that cause no pause.
        """
        self.failures += 1
        self.error = error
        if self.failures > free:
            self.until = now + min(_PAUSE_SECONDS_MAX, 2.0 ** min(self.failures, 10))

    def succeeded(self) -> None:
        """Records an answer and resets the pauses."""
        self.failures, self.until, self.error = 0, 0.0, None

    def check(self, now: float) -> None:
        """Raises the last error while its pause lasts."""
        if self.error is not None and now < self.until:
            raise HostError(self.error.message, remedy=self.error.remedy, code=self.error.code)


def _spawn(options: ServeOptions, paths: HostPaths) -> subprocess.Popen[bytes]:
    arguments = replace(options, log_file=paths.log).arguments()
    command = [sys.executable, "-P", "-m", "dlm_lsp", *arguments]
    log = os.open(paths.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(log).st_size > _LOG_BYTES_MAX:
            os.ftruncate(log, 0)
        return subprocess.Popen(
            command,
            cwd=paths.folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # The editor's Ctrl-C and exit do not end the host.
        )
    except OSError as error:
        raise HostError(
            f"The engine host cannot be started: {error}.",
            remedy=f"Check that {sys.executable} can be run.",
            code="start_failed",
        ) from None
    finally:
        os.close(log)


def _environment() -> dict[str, str]:
    """Returns this process's environment without PYTHONPATH entries that shadow our packages."""
    environment = dict(os.environ)
    entries = environment.pop("PYTHONPATH", "").split(os.pathsep)
    root = Path(dlm_lsp.__file__).parent.parent
    kept = [entry for entry in entries if entry and not _shadows(Path(entry), root)]
    if kept:
        environment["PYTHONPATH"] = os.pathsep.join(kept)
    return environment


def _shadows(entry: Path, root: Path) -> bool:
    """Returns whether a PYTHONPATH entry holds another `engine` or `dlm_lsp`, or is relative.

    A relative entry means another folder in the host, which runs in a different folder.
    """
    if not entry.is_absolute():
        return True
    names = [entry / f"{name}{ending}" for name in ("engine", "dlm_lsp") for ending in ("", ".py")]
    return entry.resolve() != root.resolve() and any(name.exists() for name in names)


def _try_lock(path: Path) -> int | None:
    """Returns the descriptor of a free lock, or None. Closing the descriptor releases the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _is_locked(path: Path) -> bool:
    descriptor = _try_lock(path)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return "no log."
    return lines[-1] if lines else "no word in the log."

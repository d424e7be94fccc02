"""Starts a host process for a client, once for many clients, and not again and again in vain.

Owns the start lock, the child process and the back-off. Whether the host answers is for the client
to ask; which process serves is decided by the host's own lock. Knows neither HTTP nor torch.
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

if sys.platform != "win32":  # there `host_paths` refuses, and a host is reached by URL alone
    import fcntl

EXIT_TAKEN = 3  # of a host process that found another one serving
_PAUSE_SECONDS_MAX = 60.0
_LOG_BYTES_MAX = 1 << 20


class Starter:
    """Starts the host of one client. Not safe to share between threads."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._lock: int | None = None
        self._starting: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []

    def attempt(self, paths: HostPaths) -> None:
        """Starts a host unless one runs, or this or another client is already starting one.

        The start lock stays with this client until `settle`.

        Raises:
            HostError: the process cannot be started, or the one started before has failed.
        """
        self._started = [child for child in self._started if child.poll() is None]  # reaps
        if self._is_starting(paths):
            return
        if self._lock is None:
            self._lock = _try_lock(paths.start_lock)
        if self._lock is not None and not _is_locked(paths.lock):
            self._starting = _spawn(self._options, paths)

    def settle(self) -> None:
        """Gives the start lock back: the host answers, or this client has given up."""
        if self._starting is not None:
            self._started.append(self._starting)
            self._starting = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def detach(self) -> None:
        """Lets go of the processes, which outlive this client and serve others."""
        self.settle()
        with warnings.catch_warnings():
            # Popen warns of children that still run; these are meant to.
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
            return False  # another host serves, or one has just ended: ask again, then start again
        how = f"by signal {-code}" if code < 0 else f"with status {code}"
        raise HostError(
            f"The engine host ended {how} while starting: {_last_line(paths.log)}",
            remedy=f"See {paths.log}.",
            code="start_failed",
        )


@dataclass(slots=True)
class Backoff:
    """When to try again after a failure. Times are seconds of one monotonic clock.

    Each failure in a row doubles the pause, so that a host that cannot load is not started under
    every keystroke.
    """

    failures: int = 0  # since the last answer
    until: float = 0.0
    error: HostError | None = None

    def failed(self, error: HostError, now: float, *, free: int = 0) -> None:
        """Notes a failure; until its pause is over `check` raises the same error.

        Args:
            free: so many failures since the last answer make no pause.
        """
        self.failures += 1
        self.error = error
        if self.failures > free:
            self.until = now + min(_PAUSE_SECONDS_MAX, 2.0 ** min(self.failures, 10))

    def succeeded(self) -> None:
        """Notes an answer: all is forgotten."""
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
            start_new_session=True,  # the editor's Ctrl-C and exit are not the host's
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
    """This process's environment, without PYTHONPATH entries that would shadow our packages."""
    environment = dict(os.environ)
    entries = environment.pop("PYTHONPATH", "").split(os.pathsep)
    root = Path(dlm_lsp.__file__).parent.parent
    kept = [entry for entry in entries if entry and not _shadows(Path(entry), root)]
    if kept:
        environment["PYTHONPATH"] = os.pathsep.join(kept)
    return environment


def _shadows(entry: Path, root: Path) -> bool:
    """Whether a folder on the path holds an `engine` or `dlm_lsp` that is not ours.

    Relative entries mean another folder in the host, which starts elsewhere.
    """
    if not entry.is_absolute():
        return True
    names = [entry / f"{name}{ending}" for name in ("engine", "dlm_lsp") for ending in ("", ".py")]
    return entry.resolve() != root.resolve() and any(name.exists() for name in names)


def _try_lock(path: Path) -> int | None:
    """The descriptor of a lock that nobody else holds, or None. Closing it gives the lock back."""
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

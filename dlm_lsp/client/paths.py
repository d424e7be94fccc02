"""Where a host is found: its identity, its private folder, its socket, locks, log and cache.

One host serves one user, protocol version, checkpoint, device and dtype; clients and hosts derive
the same paths from the same settings, so that nothing has to be registered anywhere. Owns the
checks that the folder is private. Knows neither HTTP nor torch.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from dlm_lsp.client.errors import HostError
from dlm_lsp.store.folder import GRAPHS, default_root
from dlm_lsp.version import PROTOCOL, VERSION
from engine.auto.step_times import TimesFile
from engine.config import EngineSettings

_NAME = "dlm-lsp"
# sun_path holds 104 bytes on macOS and 108 on Linux, the closing zero included.
SOCKET_PATH_BYTES_MAX = 100


@dataclass(frozen=True, slots=True)
class HostPaths:
    """The files of one host. All but the log lie in a folder that only the user can enter."""

    folder: Path
    socket: Path
    lock: Path  # held by the host for its whole life: who holds it serves
    start_lock: Path  # held by the client that is starting the host
    log: Path


def host_paths(settings: EngineSettings) -> HostPaths:
    """The files of the host that serves these settings; makes the folders.

    Raises:
        HostError: the private folder belongs to someone else, or others can enter it.
    """
    if not hasattr(os, "getuid"):
        raise HostError(
            "This system has no private unix sockets for an engine host.",
            remedy="Run `dlm-lsp serve --host 127.0.0.1 --port 8123` and set engine.url and token.",
            code="path",
        )
    name = identity(settings)
    folder = private_folder(name)
    return HostPaths(
        folder=folder,
        socket=folder / f"{name}.sock",
        lock=folder / f"{name}.lock",
        start_lock=folder / f"{name}.start",
        log=_log_folder(folder) / f"host-{name}.log",
    )


def identity(settings: EngineSettings) -> str:
    """Sixteen hexadecimal digits that differ between hosts that must not be shared.

    A checkpoint is its folder, or its GGUF file, and when its files changed, so that a host never
    goes on serving weights that were replaced. `threads` and `cache_tokens` are the first client's
    to choose.
    """
    place = Path(_real(os.path.expanduser(settings.checkpoint_path())))
    files = ("config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json")
    parts = [str(PROTOCOL), str(place), settings.device, settings.dtype, settings.backend]
    # A file itself and not a folder: that changes when a file is put in that is no weight.
    parts += [_stamp(place)] if os.path.isfile(place) else [_stamp(place / file) for file in files]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def times_file(settings: EngineSettings) -> TimesFile:
    """Where the host of these settings keeps its step-time curve: the user's cache folder."""
    name = identity(settings)
    path = Path(platformdirs.user_cache_path(_NAME)) / "step-times" / f"{name}.json"
    return TimesFile(path, name, VERSION)


def graphs_folder() -> Path:
    """Where this user's hosts keep what they prepare of checkpoints: in the store, or in the user's
    cache folder where the store belongs to others who have prepared nothing there."""
    shared = default_root() / GRAPHS
    nearest = next((place for place in (shared, *shared.parents) if os.path.isdir(place)), shared)
    if os.access(nearest, os.W_OK | os.X_OK) or any(shared.glob("*/*/")):
        return shared
    return Path(platformdirs.user_cache_path(_NAME)) / GRAPHS


def _real(path: str) -> str:
    """Without links. A loop of them, a closed folder or an impossible name is left as it is: what
    is wrong with a checkpoint is for whoever opens it to say."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return path


def _stamp(file: Path) -> str:
    try:
        status = file.stat()
    except (OSError, ValueError):
        return "-"
    return f"{status.st_mtime_ns}:{status.st_size}"


def private_folder(name: str) -> Path:
    """The folder for the sockets of this user, made if missing.

    The system's runtime directory where there is one of the user's own, else a folder in the
    temporary directory. `name` is the longest file name without its ending.

    Raises:
        HostError: as `host_paths`.
    """
    longest = len(f"/{name}.start")
    for folder in _candidates():
        if len(os.fsencode(folder)) + longest <= SOCKET_PATH_BYTES_MAX:
            _make_private(folder)
            return folder
    raise HostError(
        f"Every place for a socket is longer than {SOCKET_PATH_BYTES_MAX} bytes.",
        remedy="Set XDG_RUNTIME_DIR to a short path that only you can enter.",
        code="path",
    )


def _candidates() -> list[Path]:
    """Short, private and the same for every process of a user, best first.

    Not platformdirs: what it falls back to without XDG_RUNTIME_DIR is neither made nor checked.
    """
    user = os.getuid()
    named = os.environ.get("XDG_RUNTIME_DIR")
    runtime = [Path(named)] if named else []
    runtime.append(Path(f"/run/user/{user}"))
    temporary = [Path(tempfile.gettempdir()), Path("/tmp")]
    return [
        *(folder / _NAME for folder in runtime if folder.is_absolute() and _is_private(folder)),
        *(folder / f"{_NAME}-{user}" for folder in temporary),
    ]


def _is_private(folder: Path) -> bool:
    """Whether it is a real folder of this user's that nobody else may write to.

    XDG_RUNTIME_DIR can name another user's (sudo keeps the variable) or none at all.
    """
    try:
        status = folder.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.getuid()
        and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise HostError(
            f"{folder} cannot be made: {error.strerror}.",
            remedy="Set XDG_RUNTIME_DIR to a folder that only you can enter.",
            code="path",
        ) from None
    if not stat.S_ISDIR(status.st_mode):
        problem = "is a link or a file, not a folder"
    elif status.st_uid != os.getuid():
        problem = f"belongs to user {status.st_uid}"
    elif stat.S_IMODE(status.st_mode) != 0o700:
        problem = f"has mode {stat.S_IMODE(status.st_mode):04o}, not 0700"
    else:
        return
    raise HostError(
        f"{folder} {problem}.",
        remedy="Remove it, or set XDG_RUNTIME_DIR to a folder that only you can enter.",
        code="path",
    )


def _log_folder(fallback: Path) -> Path:
    folder = Path(platformdirs.user_log_path(_NAME))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return fallback  # a home that cannot be written to must not keep a host from starting
    return folder if os.access(folder, os.W_OK | os.X_OK) else fallback

"""The identity and paths of a host: its private folder, socket, locks, log and cache.

One host serves one user, protocol version, checkpoint, device and dtype. Clients and hosts derive
the same paths from the same settings, so no registry is needed. Checks that the folder is private.
Knows neither HTTP nor torch.
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
from dlm_lsp.store.folder import ADAPTERS, GRAPHS, default_root
from dlm_lsp.version import PROTOCOL, VERSION
from engine.auto.step_times import TimesFile
from engine.config import EngineSettings

_NAME = "dlm-lsp"
# sun_path holds 104 bytes on macOS and 108 on Linux, including the final zero byte.
SOCKET_PATH_BYTES_MAX = 100


@dataclass(frozen=True, slots=True)
class HostPaths:
    """The files of one host. All except the log are in a folder that only the user can enter."""

    folder: Path
    socket: Path
    lock: Path  # The serving host holds this lock until it ends.
    start_lock: Path  # The client that starts the host holds this lock.
    log: Path


def host_paths(settings: EngineSettings) -> HostPaths:
    """Returns the files of the host that serves these settings, and creates the folders.

    Raises:
        HostError: the private folder belongs to another user, or others can enter it.
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
    """Returns sixteen hexadecimal digits that differ between hosts that must not be shared.

    They depend on the checkpoint's path and on when its files changed, so that a host never serves
    weights that were replaced. They do not depend on `threads` and `cache_tokens`, which the first
    client chooses.
    """
    place = Path(_real(os.path.expanduser(settings.checkpoint_path())))
    files = ("config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json")
    parts = [str(PROTOCOL), str(place), settings.device, settings.dtype, settings.backend]
    parts.append(settings.steps)
    # The files are stamped and not their folder, which unrelated new files would change.
    # An adapter that was trained since is not the one that a running host has loaded.
    parts += [_stamp(adapters_folder())]
    parts += [_stamp(place)] if os.path.isfile(place) else [_stamp(place / file) for file in files]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def times_file(settings: EngineSettings) -> TimesFile:
    """Returns the file in the user's cache folder where the host keeps its step times."""
    name = identity(settings)
    path = Path(platformdirs.user_cache_path(_NAME)) / "step-times" / f"{name}.json"
    return TimesFile(path, name, VERSION)


def graphs_folder() -> Path:
    """Returns the folder for the graphs that this user's hosts build of checkpoints.

    This is the store's folder, or the user's cache folder if the store is another user's and has
    no graphs.
    """
    shared = default_root() / GRAPHS
    nearest = next((place for place in (shared, *shared.parents) if os.path.isdir(place)), shared)
    if os.access(nearest, os.W_OK | os.X_OK) or any(shared.glob("*/*/")):
        return shared
    return Path(platformdirs.user_cache_path(_NAME)) / GRAPHS


def adapters_folder() -> Path:
    """Returns the folder for the adapters that this user trains: the store's, or one in the user's
    data folder if the store is another user's."""
    shared = default_root() / ADAPTERS
    nearest = next((place for place in (shared, *shared.parents) if os.path.isdir(place)), shared)
    if os.access(nearest, os.W_OK | os.X_OK):
        return shared
    return Path(platformdirs.user_data_path(_NAME, appauthor=False)) / ADAPTERS


def _real(path: str) -> str:
    """Returns the path with links resolved.

    A path that cannot be resolved is returned unchanged; opening the checkpoint reports the error.
    """
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
    """Returns the folder for the sockets of this user and creates it if it is missing.

    It is in the user's runtime directory if there is one, otherwise in the temporary directory.
    `name` is the longest file name without its ending.

    Raises:
        HostError: as for `host_paths`.
    """
    longest = len(f"/{name}.start")
    errors: list[HostError] = []
    for folder in _candidates():
        if len(os.fsencode(folder)) + longest <= SOCKET_PATH_BYTES_MAX:
            try:
                _make_private(folder)
            except HostError as error:
                errors.append(error)
            else:
                return folder
    if errors:
        raise errors[0]
    raise HostError(
        f"Every place for a socket is longer than {SOCKET_PATH_BYTES_MAX} bytes.",
        remedy="Set XDG_RUNTIME_DIR to a short path that only you can enter.",
        code="path",
    )


def _candidates() -> list[Path]:
    """Returns short, private folders that are the same for all processes of a user, best first.

    This does not use platformdirs, whose fallback without XDG_RUNTIME_DIR may be missing or shared.
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
    """Returns whether a path is a folder of this user to which nobody else may write.

    XDG_RUNTIME_DIR can name another user's folder, because sudo keeps it, or a missing one.
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
    elif status.st_mode & 0o077:  # Other bits, such as an inherited setgid, give nobody access.
        problem = f"has mode {stat.S_IMODE(status.st_mode):04o}, so that others can enter it"
    elif not os.access(folder, os.W_OK | os.X_OK):
        problem = "cannot be written to"
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
        return fallback  # A host must also start with a read-only home folder.
    return folder if os.access(folder, os.W_OK | os.X_OK) else fallback

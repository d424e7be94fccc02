"""Runs an untrusted Python program so that it can do no harm.

Isolated, the program has no network, sees only Python's own files (read-only), writes at most 16 MB
into memory, and is bounded in time, memory and processes; `sandbox_child` has the details. Without
isolation only the bounds hold. After its last line a program passes by answering with a nonce that
it cannot guess: neither ending early nor printing anything is a pass. (A program that is written to
cheat could read the nonce as the runner does: the sandbox protects the machine, not the figure.)
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import selectors
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError, EngineFailure

PASSED, TIMEOUT, ENDED = "passed", "timeout", "ended early"

_CHILD = Path(__file__).with_name("sandbox_child.py")
_MACHINES = ("x86_64", "aarch64")
_START_SECONDS = 5.0  # for starting interpreters on a busy machine
_EXIT_TIMEOUT = 3  # as in sandbox_child
_NONCE_BYTES, _RESULT_BYTES_MAX, _ERROR_BYTES_MAX = 32, 256, 2000
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store", "/etc/ld.so.cache")
# Tries once what a jail must prevent, before it is trusted.
_PROBE = """
import os, socket
assert os.getuid() != 0 and os.getppid() == 1
assert not os.path.exists("/proc/1") and not os.path.exists("/home")
assert set(os.environ) <= {"LC_CTYPE"}  # which Python sets itself
for path in ("/x", "/program.py", os.__file__):
    try:
        open(path, "ab").close()
    except OSError:
        continue
    raise AssertionError(path)
try:
    socket.create_connection(("127.0.0.1", 9), 0.1)
except OSError as error:
    assert not isinstance(error, ConnectionRefusedError)
open("mine", "w").close()
"""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one program may use: wall clock time, and memory of each of its processes."""

    seconds: float = 5.0
    memory_bytes: int = 512 << 20
    disk_bytes: int = 16 << 20
    processes: int = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended: `reason` is PASSED, TIMEOUT, ENDED or the name of its exception."""

    reason: str

    @property
    def passed(self) -> bool:
        return self.reason == PASSED


def run_program(program: str, bounds: Bounds = Bounds(), *, is_isolated: bool = True) -> Outcome:
    """Runs a program in a process of its own, to its end or its bounds.

    Raises:
        EngineFailure: The jail cannot be built; nothing was run.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    with tempfile.TemporaryDirectory(prefix="dlm-eval-", ignore_cleanup_errors=True) as folder:
        source = program.encode("utf-8", "surrogatepass")
        Path(folder, "program.py").write_bytes(source)
        nonce_out, nonce_in = os.pipe()
        result_out, result_in = os.pipe()
        try:
            os.write(nonce_in, nonce)
            os.close(nonce_in)
            options = _options(folder, bounds, is_isolated)
            options |= {"nonce_fd": nonce_out, "result_fd": result_in}
            process = subprocess.Popen(
                [_python(), "-I", "-S", "-B", str(_CHILD), json.dumps(options)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={},
                cwd="/",
                pass_fds=(nonce_out, result_in),
                start_new_session=True,
            )
            os.close(result_in)
            result_in = -1
            return _outcome(process, result_out, nonce, bounds)
        finally:
            for descriptor in (nonce_out, result_out, result_in):
                if descriptor >= 0:
                    os.close(descriptor)


def check_isolation() -> None:
    """Returns if programs can be isolated.

    Raises:
        ConfigError: They cannot be isolated; the error says why, and what else can be done.
    """
    try:
        if sys.platform != "linux" or platform.machine() not in _MACHINES:
            raise EngineFailure(f"this is {platform.system()} on {platform.machine()}")
        outcome = run_program(_PROBE)
        if not outcome.passed:
            raise EngineFailure(f"a trial ended with {outcome.reason}")
    except EngineFailure as failure:
        raise ConfigError(
            f"Completions cannot be run in isolation here: {failure.message}.",
            remedy="It takes Linux 5.12 on x86-64 or arm64 with user namespaces, or root. Give "
            "--execute never to leave pass@1 out, or, in a machine that may be lost, "
            "--execute unprotected.",
            param="execute",
        ) from None


def _outcome(
    process: subprocess.Popen[bytes], result: int, nonce: bytes, bounds: Bounds
) -> Outcome:
    """Waits for the program's answer, ends all processes, and judges the answer."""
    assert process.stderr is not None
    deadline = time.monotonic() + bounds.seconds + _START_SECONDS
    answer = _read(result, _RESULT_BYTES_MAX, deadline)
    code = _kill(process, 0.0 if answer else 1.0)
    with process.stderr as stream:
        error = _read(stream.fileno(), _ERROR_BYTES_MAX, time.monotonic() + 1.0)
    if error:
        raise EngineFailure(error.decode("utf-8", "replace").strip())
    if answer.startswith(nonce):
        return Outcome(answer[len(nonce) :].decode("utf-8", "replace"))
    is_late = time.monotonic() >= deadline or code in (_EXIT_TIMEOUT, -signal.SIGXCPU)
    return Outcome(TIMEOUT if is_late else ENDED)


def _kill(process: subprocess.Popen[bytes], grace_seconds: float) -> int:
    """Ends the process and all that it started, after a grace period; returns its exit code."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace_seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _read(descriptor: int, most: int, deadline: float) -> bytes:
    """The bytes that arrive until the end, the deadline or `most` bytes."""
    data = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while len(data) < most:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                break
            piece = os.read(descriptor, most - len(data))
            if not piece:
                break
            data += piece
    return data


def _options(folder: str, bounds: Bounds, is_isolated: bool) -> dict[str, object]:
    read_only, links = _python_files()
    return {
        "folder": os.path.realpath(folder),
        "isolated": is_isolated,
        "python": _python(),
        "read_only": read_only,
        "links": links,
        "seconds": bounds.seconds,
        "memory": bounds.memory_bytes,
        "disk": bounds.disk_bytes,
        "processes": bounds.processes,
    }


def _python() -> str:
    """The interpreter itself instead of a virtual environment's link to it."""
    return os.path.realpath(sys.executable)


def _python_files() -> tuple[list[str], list[tuple[str, str]]]:
    """What Python needs to start: paths to be mounted, and symbolic links to be created."""
    names = ("stdlib", "platstdlib")
    wanted = [_python(), *(sysconfig.get_path(name) for name in names), *_LIBRARIES]
    library = sysconfig.get_config_var("LIBDIR")
    if isinstance(library, str):
        wanted.append(library)
    links = [(path, os.readlink(path)) for path in _LIBRARIES if os.path.islink(path)]
    found = {os.path.realpath(path) for path in wanted if os.path.exists(path)}
    return [path for path in sorted(found) if not _is_inside(path, found)], links


def _is_inside(path: str, others: set[str]) -> bool:
    return any(path != other and path.startswith(other + "/") for other in others)

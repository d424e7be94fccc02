"""How the benchmark beside llama.cpp asks other processes: lines of JSON, and HTTP.

`Channel` is a child's end: what libraries print goes to stderr, and only answers go to the parent.
`Child` is the parent's end. Imports nothing of the engine but its errors.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from engine.errors import EngineFailure

_STDERR_LINES = 6  # the last lines of a failed child, which the error repeats
_HTTP_SECONDS_MAX = 600


class Channel:
    """A child's end: iterate over the questions, and send an answer to each."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # what a library prints is no answer

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for line in sys.stdin:
            yield json.loads(line)

    def send(self, answer: dict[str, Any]) -> None:
        """Sends one answer."""
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()


class OwnProcess(ABC):
    """A process that a context ends."""

    _process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Ends the process and waits for it."""


class Child(OwnProcess):
    """A process that answers lines of JSON, as a context that ends it.

    Attributes:
        ready: its first line, which it sends when it is ready.
        start_seconds: the time from starting the process until then.
    """

    def __init__(self, name: str, module: str, arguments: Sequence[str], seconds: float) -> None:
        """Starts `python -m MODULE` and waits until it is ready, at most so many seconds.

        Args:
            name: names the process in messages.

        Raises:
            EngineFailure: It ended, cannot serve, or was not ready in time.
        """
        self._name = name
        # A file, unlike a pipe, takes any amount of text without a reader.
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        began = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read_answers, daemon=True)
        self._reader.start()
        try:
            self.ready = self._receive(seconds)
        except BaseException:
            self.close()
            raise
        self.start_seconds = time.monotonic() - began

    def ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to a question. Raises EngineFailure as at the start."""
        assert self._process.stdin is not None
        with suppress(OSError):  # if it has ended, the missing answer says so
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        return self._receive(seconds)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._stderr.close()

    def _read_answers(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _receive(self, seconds: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise EngineFailure(f"{self._name} gave no answer within {seconds:.0f} s.") from None
        if not line:
            raise EngineFailure(f"{self._name} ended: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise EngineFailure(f"{self._name}: {answer['error']}", remedy=answer.get("remedy", ""))
        return answer

    def _last_words(self) -> str:
        status = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.readlines()[-_STDERR_LINES:]
        return "".join(lines).strip() or f"exit status {status}."


def memory_mb(pid: int) -> dict[str, float]:
    """The resident memory of a process in megabytes (10^6 bytes): "anonymous", "file" (mapped
    files), "resident" (both) and "peak"; empty if the system does not tell."""
    names = {"RssAnon": "anonymous", "RssFile": "file", "VmHWM": "peak", "VmRSS": "resident"}
    found: dict[str, float] = {}
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
    except OSError:
        return found
    for line in lines:
        name, _, value = line.partition(":")
        if name in names:
            found[names[name]] = int(value.split()[0]) * 1024 / 1e6
    return found


def ask(url: str, body: dict[str, Any] | None = None, *, token: str | None = None) -> bytes:
    """The answer to a GET, or to a POST of JSON if there is a body; never through a proxy.

    Raises:
        OSError: Nobody listens, or (as urllib.error.HTTPError) the answer is an error.
    """
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_HTTP_SECONDS_MAX) as answer:
        return answer.read()

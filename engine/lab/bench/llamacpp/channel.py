"""Lines of JSON between the benchmark beside llama.cpp and its children.

`Channel` is the child's end: what libraries print goes to stderr, and only answers to the parent.
`Child` is the parent's end. Knows nothing of what is asked.
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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.errors import EngineFailure

_STDERR_LINES = 6  # of a child that failed, its last ones


class Channel:
    """The child's end: iterate over what is asked, and send an answer to each."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # whatever a library prints is no answer

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for line in sys.stdin:
            yield json.loads(line)

    def send(self, answer: dict[str, Any]) -> None:
        """Sends one answer."""
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()


class Child:
    """A process that answers lines of JSON; a context manager that ends it.

    Attributes:
        ready: its first line, sent once it can be asked.
        start_seconds: from starting the process until then.
    """

    def __init__(self, name: str, module: str, arguments: Sequence[str], seconds: float) -> None:
        """Starts `python -m MODULE` and waits until it is ready, at most so many seconds.

        Args:
            name: for messages: "llama.cpp".

        Raises:
            EngineFailure: it ended, said why it cannot serve, or was not ready in time.
        """
        self._name = name
        # Closed with the child. It may write as much as it likes: nobody has to read along.
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

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer.

        Raises:
            EngineFailure: as at the start.
        """
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended: the answer that does not come says so
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        return self._receive(seconds)

    def close(self) -> None:
        """Ends the process and waits for it."""
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
    """Megabytes (10^6 bytes) of a process that are resident: "anonymous", "file" (mapped files),
    both together as "resident", and "peak"; empty where the system does not say."""
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

"""The socket by which the programs of a test are reached: the driver in the editor, and servers.

Each connection says first who it is. Owns the threads that read; knows nothing of what is said.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS_MAX = 30.0


def wait_for(condition: Callable[[], Any], what: str, seconds: float = SECONDS_MAX) -> Any:
    """Waits until the condition holds and returns what it gave.

    Raises:
        AssertionError: it does not hold in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        assert time.monotonic() < deadline, f"not in {seconds:.0f} s: {what}"
        time.sleep(0.01)


class Connection:
    """One program at the other end; `messages` are handled on a thread of its own."""

    def __init__(self, accepted: socket.socket) -> None:
        self._socket = accepted
        self._lines = accepted.makefile("rb")
        self.hello: dict[str, Any] = json.loads(self._lines.readline() or b"{}")
        self.is_open = True

    def send(self, message: dict[str, Any]) -> None:
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.is_open = False  # What is sent to a program that has ended is lost.

    def read(self, handle: Callable[[dict[str, Any]], None]) -> None:
        try:
            for line in self._lines:
                handle(json.loads(line))
        except OSError:
            pass
        self.is_open = False

    def close(self) -> None:
        self.is_open = False
        with contextlib.suppress(OSError):  # It has gone already.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Bridge:
    """Listens; hands each connection to whoever takes those that say this hello, once he does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._takers: dict[str, Callable[[Connection], None]] = {}
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._connections: list[Connection] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def take(self, hello: str, taker: Callable[[Connection], None]) -> None:
        self._takers[hello] = taker

    def close(self) -> None:
        self._socket.close()
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        connection = Connection(accepted)
        self._connections.append(connection)
        hello = connection.hello.get("hello", "")
        wait_for(lambda: hello in self._takers or not connection.is_open, f"a taker of {hello}")
        if hello in self._takers:
            self._takers[hello](connection)


class Driver:
    """Runs JavaScript with VS Code's API, in the newest extension host that has connected."""

    def __init__(self, bridge: Bridge) -> None:
        self._connection: Connection | None = None
        self._answers: dict[int, dict[str, Any]] = {}
        self._number = 0
        bridge.take("driver", self._serve)

    @property
    def is_connected(self) -> bool:
        return self._connection is not None and self._connection.is_open

    def forget(self) -> None:
        """Waits for a new extension host from now on."""
        self._connection = None

    def run(self, code: str, *values: Any) -> Any:
        """What the code returns; it sees `vscode` and the list `values`.

        Raises:
            AssertionError: the code has failed, or the editor does not answer.
        """
        wait_for(lambda: self.is_connected, "the driver is there")
        self._number += 1
        number = self._number
        assert self._connection is not None
        self._connection.send({"id": number, "code": code, "values": list(values)})
        answer = wait_for(lambda: self._answers.pop(number, None), f"the editor runs {code}")
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _serve(self, connection: Connection) -> None:
        self._connection = connection
        connection.read(lambda message: self._answers.update({message["id"]: message}))

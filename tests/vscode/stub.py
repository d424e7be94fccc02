"""The test's side of the scripted language server: what it was asked, and what it answers.

The process is `stub_server.py`; each start of it is a new connection, which `starts` counts.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

from tests.vscode.bridge import Bridge, Connection, wait_for

INLINE = "textDocument/inlineCompletion"
# As the real server has them; test_real.py compares.
CAPABILITIES: dict[str, Any] = {
    "positionEncoding": "utf-16",
    "textDocumentSync": {"openClose": True, "change": 2, "save": False},
    "codeActionProvider": {"codeActionKinds": ["refactor.rewrite"]},
    "executeCommandProvider": {
        "commands": [
            "dlm.accepted",
            "dlm.fill",
            "dlm.refine",
            "dlm.nextEdit",
            "dlm.cancel",
            "dlm.pullModel",
            "dlm.requests",
            "dlm.setMode",
            "dlm.restart",
            "dlm.snooze",
            "dlm.stats",
            "dlm.toggle",
        ]
    },
    "inlineCompletionProvider": {},
    "workspace": {
        "workspaceFolders": {"supported": True, "changeNotifications": True},
        "fileOperations": {},
    },
}


class Stub:
    """A language server whose every answer is a test's; nothing is answered unasked.

    Attributes:
        log: the messages of the editor since `reset`, oldest first.
        auto: answers by method, or by command, that are given at once.
        starts: how often a process was started.
        dies_early: whether a process ends when it is to be initialized.
        answers_cancelled: whether a cancelled request is refused, as the real server does.
    """

    def __init__(self, bridge: Bridge) -> None:
        self.log: list[dict[str, Any]] = []
        self.auto: dict[str, Any] = {}
        self.starts = 0
        self.settings: dict[str, Any] = {}
        self.dies_early = False
        self.answers_cancelled = True
        self._documents: list[dict[str, Any]] = []
        self._pending: dict[Any, dict[str, Any]] = {}
        self._cancelled: set[Any] = set()
        self._connection: Connection | None = None
        bridge.take("server", self._serve)

    def reset(self) -> None:
        """Forgets what was asked, and refuses what is not answered yet."""
        for number in list(self._pending):
            self.refuse(number, -32800, "cancelled")
        self.log.clear()
        self.answers_cancelled = True
        self.auto = {"textDocument/codeAction": [], "dlm.accepted": None}

    @property
    def is_up(self) -> bool:
        return self._connection is not None and self._connection.is_open

    # What the editor has sent.

    def requests(self, method: str = INLINE) -> list[dict[str, Any]]:
        return [message for message in list(self.log) if message.get("method") == method]

    def asked(self, count: int = 1, method: str = INLINE) -> dict[str, Any]:
        """Waits until so many requests have come; returns the last of them."""
        what = f"{count} requests of {method}"
        return wait_for(
            lambda: len(self.requests(method)) >= count and self.requests(method), what
        )[-1]

    def commands(self, name: str) -> list[dict[str, Any]]:
        """The requests to run a command."""
        found = self.requests("workspace/executeCommand")
        return [message for message in found if message["params"]["command"] == name]

    def commanded(self, name: str, count: int = 1) -> dict[str, Any]:
        """Waits for the command; returns its request."""
        wait_for(lambda: len(self.commands(name)) >= count, f"{count} times the command {name}")
        return self.commands(name)[-1]

    def is_cancelled(self, request: dict[str, Any]) -> bool:
        return request["id"] in self._cancelled

    # What the server does.

    def answer(self, request: dict[str, Any], result: object) -> None:
        self._pending.pop(request["id"], None)
        self._send({"id": request["id"], "result": result})

    def suggest(self, request: dict[str, Any], *texts: str, **options: Any) -> None:
        """Answers a request with these texts at the place that was asked about."""
        self.answer(request, items(request, *texts, **options))

    def refuse(self, number: Any, code: int, message: str) -> None:
        self._pending.pop(number, None)
        self._send({"id": number, "error": {"code": code, "message": message}})

    def notify(self, method: str, params: object) -> None:
        self._send({"method": method, "params": params})

    def status(self, state: str = "ready", **fields: Any) -> None:
        """Sends a `dlm/status`."""
        known = {
            "state": state,
            "message": "",
            "reason": None,
            "mode": "block",
            "model": "scripted",
            "device": "cpu",
            "lastMs": None,
            "tokensPerForward": None,
            "snoozedUntil": None,
            "documentsOff": [],
        }
        self.notify("dlm/status", {**known, **fields})

    def draft(
        self,
        request: dict[str, Any],
        committed: str,
        draft: str = "",
        *,
        sequence: int = 1,
        final: bool = False,
        changes: dict[str, Any] | None = None,
    ) -> None:
        """Sends a `dlm/draft` for a request; `changes` replaces fields of it."""
        position = request["params"]["position"]
        message = {
            **self.about(request, sequence),
            "position": position,
            "range": empty_at(position),
            "committed": committed,
            "draft": draft,
            "spans": [],
            "final": final,
            **(changes or {}),
        }
        self.notify("dlm/draft", message)

    def about(self, request: dict[str, Any], sequence: int) -> dict[str, Any]:
        """The fields that every message about a request begins with."""
        params = request["params"]
        argument = params.get("arguments", [{}])[0]
        document = params.get("textDocument") or argument.get("textDocument") or argument
        return {
            "token": params.get("workDoneToken"),
            "textDocument": {"uri": document["uri"], "version": self.version(document["uri"])},
            "sequence": sequence,
        }

    def version(self, uri: str) -> int:
        """The document's version as the editor has told it last."""
        found = 0
        for message in list(self._documents):
            document = message["params"]["textDocument"]
            if document["uri"] == uri:
                found = document["version"]
        return found

    def crash(self) -> None:
        """Ends as a process does that is killed."""
        assert self._connection is not None
        os.kill(self._connection.hello["pid"], signal.SIGKILL)
        wait_for(lambda: not self.is_up, "the server has gone")

    def _end(self, status: int) -> None:
        assert self._connection is not None
        self._connection.send({"exit": status})

    # How it is connected.

    def _send(self, message: dict[str, Any]) -> None:
        if self._connection is not None:
            self._connection.send({"send": {"jsonrpc": "2.0", **message}})

    def _serve(self, connection: Connection) -> None:
        self._connection = connection
        self._pending.clear()
        self._documents = []
        self.starts += 1
        connection.read(self._got)

    def _got(self, told: dict[str, Any]) -> None:
        message = told["got"]
        method, number = message.get("method"), message.get("id")
        if method in ("textDocument/didOpen", "textDocument/didChange"):
            self._documents.append(message)
        self.log.append(message)
        if method == "$/cancelRequest":
            cancelled = message["params"]["id"]
            self._cancelled.add(cancelled)
            if self.answers_cancelled and cancelled in self._pending:
                self.refuse(cancelled, -32800, "cancelled")
        elif method == "initialize" and self.dies_early:
            self._end(1)
        elif method == "initialize":
            self.settings = message["params"].get("initializationOptions") or {}
            self.answer(message, {"capabilities": CAPABILITIES, "serverInfo": {"name": "stub"}})
        elif method == "initialized":
            # Each start says a name of its own: what is on the screen tells which process runs.
            self.status(model=f"scripted {self.starts}")
        elif method == "shutdown":
            self.answer(message, None)
        elif method == "exit":
            self._end(0)
        elif method is not None and number is not None:
            self._asked(message)

    def _asked(self, message: dict[str, Any]) -> None:
        key = message["method"]
        if key == "workspace/executeCommand":
            key = message["params"]["command"]
        if key in self.auto:
            self.answer(message, self.auto[key])
        else:
            self._pending[message["id"]] = message


def empty_at(position: dict[str, int]) -> dict[str, Any]:
    return {"start": position, "end": position}


def items(
    request: dict[str, Any], *texts: str, replaced: int = 0, at: int | None = None
) -> list[dict[str, Any]]:
    """Suggestions with these texts at the place that was asked about.

    Args:
        replaced: how many characters after the cursor the texts replace.
        at: the character where the range begins, if not at the cursor.
    """
    position = request["params"]["position"]
    start = {**position, "character": position["character"] if at is None else at}
    end = {**position, "character": position["character"] + replaced}
    return [
        {
            "insertText": text,
            "range": {"start": start, "end": end},
            "command": {
                "title": "Suggestion accepted",
                "command": "dlm.accepted",
                "arguments": [{"id": f"{number}", "kind": "full"}],
            },
        }
        for number, text in enumerate(texts, 1)
    ]


def edit(uri: str, version: int, *changes: tuple[Sequence[int], str]) -> dict[str, Any]:
    """A workspace edit of one document; each change is (line, character, line, character), text."""
    return {
        "documentChanges": [
            {
                "textDocument": {"uri": uri, "version": version},
                "edits": [
                    {
                        "range": {
                            "start": {"line": place[0], "character": place[1]},
                            "end": {"line": place[2], "character": place[3]},
                        },
                        "newText": text,
                    }
                    for place, text in changes
                ],
            }
        ]
    }

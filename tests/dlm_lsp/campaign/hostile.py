"""Messages that no editor should send, and that a server must survive."""

from __future__ import annotations

import random
from typing import Any

from tests.dlm_lsp.campaign.wires import Message, Peer

START = {"line": 0, "character": 0}
# Edits that cannot be applied, after which a document is out of step.
CHANGES: list[Message] = [
    {"range": {"start": {"line": 3, "character": 0}, "end": START}, "text": "x"},
    {"range": {"start": {"line": -1, "character": 0}, "end": START}, "text": "x"},
    {"range": {"start": START}, "text": "x"},
    {"range": {"start": START, "end": START}, "text": 3},
    {"range": "all", "text": "x"},
]
BODIES = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"[1, 2]",
    b'"text"',
    b"\xff\xfe\x00",
    b"[" * 5000,
    b'{"jsonrpc": "1.0", "method": "initialized"}',
    b'{"jsonrpc": "2.0", "method": 3}',
    b'{"jsonrpc": "2.0", "id": null, "method": "shutdown"}',
    b'{"jsonrpc": "2.0", "id": 1.5, "method": "shutdown"}',
    b'{"jsonrpc": "2.0", "id": {"a": 1}, "method": "shutdown"}',
    b'{"jsonrpc": "2.0", "id": "never asked", "result": 3}',
    b'{"jsonrpc": "2.0", "id": "never asked", "error": 3}',
    b'{"jsonrpc": "2.0", "method": "exit ", "params": null}',
    b'{"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": [1]}}',
    b'{"jsonrpc": "2.0", "method": "$/setTrace", "params": {"value": "verbose"}}',
    b'{"jsonrpc": "2.0", "method": "window/workDoneProgress/cancel", "params": {"token": "x"}}',
    b'{"jsonrpc": "2.0", "method": "workspace/didChangeConfiguration", "params": 3}',
    b'{"jsonrpc": "2.0", "method": "workspace/didChangeWatchedFiles", "params": {"changes": 3}}',
    b'{"jsonrpc": "2.0", "method": "workspace/didChangeWorkspaceFolders", "params": {"event": 3}}',
    b'{"jsonrpc": "2.0", "method": "textDocument/didSave", "params": {}}',
]
RAW = [
    b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"Content-Length: 99999999999999999999\r\n\r\n",
    b"Content-Length: -4\r\n\r\n",
    b"Content-Type: a\r\n\r\n",
    b"garbage\xff\x00\n\n",
]
UNKNOWN = "file:///nowhere/never opened.py"
PLACES: list[Any] = [
    {"line": 1 << 40, "character": 0},
    {"line": 0, "character": 1 << 31},
    {"line": -1, "character": -1},
    {"line": "0", "character": 0},
    {"line": 0.5, "character": 0},
    {"line": None},
    None,
    [],
]


def send(peer: Peer, rng: random.Random, uri: str) -> None:
    """Sends one hostile message; requests are answered once, with whatever there is to say."""
    kind = rng.randrange(5)
    if kind == 0:
        peer.send_body(rng.choice(BODIES))
    elif kind == 1:
        peer.wire.write(rng.choice(RAW))
    elif kind == 2:
        place = rng.choice(PLACES)
        params = {"textDocument": {"uri": rng.choice((uri, UNKNOWN, "", 3))}, "position": place}
        method = rng.choice(("textDocument/inlineCompletion", "textDocument/codeAction"))
        peer.ask(method, {**params, "context": {"triggerKind": 1}}, _ignore)
        peer.notify("dlm/warm", params)
    elif kind == 3:
        method = rng.choice(("no/such", "initialize", "textDocument/hover", "dlm/warm", "exit2"))
        peer.ask(method, rng.choice((None, [], {}, 3, {"a": "\ud800"})), _ignore)
    else:
        command = rng.choice(("dlm.toggle", "dlm.snooze", "dlm.fill", "dlm.accepted", "rm", "", 3))
        arguments = rng.choice((None, [], [3], [{"uri": 3}], [{"minutes": -1}], "all", [{}, {}]))
        params = {"command": command, "arguments": arguments}
        peer.ask("workspace/executeCommand", params, _ignore)


def _ignore(answer: Message) -> None:
    del answer

"""A language server that does what a test tells it: `DLM_TEST_SOCKET=... python stub_server.py`.

It hands every message of the editor to the test and every message of the test to the editor, and
knows nothing of either. Standard library only, so that it starts at once.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from typing import BinaryIO


def read_message(stream: BinaryIO) -> bytes | None:
    """The body of the next message; None at the end."""
    length = 0
    while (line := stream.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return stream.read(length) if line else None


def obey(lines: BinaryIO, output: BinaryIO) -> None:
    """Does what the test says until it ends."""
    for line in lines:
        order = json.loads(line)
        if "exit" in order:
            os._exit(order["exit"])
        body = json.dumps(order["send"]).encode()
        output.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        output.flush()
    os._exit(0)


def main() -> None:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ["DLM_TEST_SOCKET"])
    connection.sendall(json.dumps({"hello": "server", "pid": os.getpid()}).encode() + b"\n")
    lines = connection.makefile("rb")
    threading.Thread(target=obey, args=(lines, sys.stdout.buffer), daemon=True).start()
    while (body := read_message(sys.stdin.buffer)) is not None:
        connection.sendall(json.dumps({"got": json.loads(body)}).encode() + b"\n")


if __name__ == "__main__":
    main()

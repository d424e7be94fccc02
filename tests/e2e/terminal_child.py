"""A command whose output is a terminal: a pseudo-terminal of a fixed size, read to its end."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios

from tests.e2e.conftest import Home

SECONDS_MAX = 300


def run_in_terminal(command: list[str], home: Home) -> tuple[int, str]:
    """Runs a command in a terminal of 100 by 40; returns its exit code and output."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        ["timeout", str(SECONDS_MAX), *command],
        env=home.environment,
        cwd=home.folder,
        stdin=slave,
        stdout=slave,
        stderr=subprocess.STDOUT,
    )
    os.close(slave)
    written = b""
    while True:
        try:
            data = os.read(master, 65_536)
        except OSError:  # Linux raises this after the last writer has gone.
            break
        written += data
    os.close(master)
    return process.wait(), written.decode()

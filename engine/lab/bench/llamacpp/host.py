"""The real host process, to measure how long it takes to be ready, and its memory.

Starts `dlm-lsp serve` on a local port with a token and a temporary cache folder, and asks it over
HTTP.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.error
from pathlib import Path
from typing import Any

from engine.errors import EngineFailure
from engine.lab.bench.llamacpp.channel import OwnProcess, ask

_READY_SECONDS_MAX = 300.0
_POLL_SECONDS = 0.02


class HostProcess(OwnProcess):
    """One host that is ready, as a context that ends it.

    Attributes:
        address, token: its URL, and the bearer token that it asks for.
        start_seconds: the time from starting the process until /health said that it is ready.
    """

    def __init__(self, checkpoint: Path, threads: int, graphs: Path) -> None:
        """
        Args:
            graphs: the folder of prepared graphs, `graphs` in the model store.

        Raises:
            EngineFailure: It cannot load the checkpoint, or was not ready in time.
        """
        self.token = secrets.token_urlsafe(32)
        self._folder = tempfile.TemporaryDirectory(prefix="dlm-lsp-bench-")
        self._log = Path(self._folder.name) / "host.log"
        environment = {
            **os.environ,
            "DLM_LSP_TOKEN": self.token,
            "DLM_LSP_MODELS": str(graphs.parent),
            "XDG_CACHE_HOME": self._folder.name,
        }
        words = ["serve", "--checkpoint", str(checkpoint), "--threads", str(threads)]
        words += ["--device", "cpu", "--backend", "onnx"]
        words += ["--host", "127.0.0.1", "--port", "0", "--log-file", str(self._log)]
        began = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dlm_lsp", *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            self.address = self._listening()
            self._wait(began + _READY_SECONDS_MAX)
        except BaseException:
            self.close()
            raise
        self.start_seconds = time.monotonic() - began

    def complete(self, prefix: str, suffix: str, tokens: int) -> None:
        """Waits for one completion. Raises EngineFailure if it fails."""
        body = {"prefix": prefix, "suffix": suffix, "limits": {"tokensMax": tokens}}
        last = self._ask("/v1/generate", body).decode().strip().rsplit("\n", 1)[-1]
        if json.loads(last).get("event") == "error":
            raise EngineFailure(f"The host answered {last}.")

    def measured(self) -> None:
        """Waits until the host has measured its step times, as every idle host does."""
        give_up = time.monotonic() + _READY_SECONDS_MAX
        while time.monotonic() < give_up:
            if json.loads(self._ask("/health"))["stepTimes"] is not None:
                return
            time.sleep(0.2)

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def _listening(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        _, found, address = line.strip().partition("listening on ")
        if not found:
            raise EngineFailure(f"The host did not start: exit status {self._process.wait()}.")
        return address

    def _wait(self, until: float) -> None:
        while time.monotonic() < until:
            try:
                self._ask("/health")
                return
            except urllib.error.HTTPError as error:
                message = json.load(error)["error"]
                if message["type"] == "load_error":
                    raise EngineFailure(
                        message["message"], remedy=message.get("remedy", "")
                    ) from None
            except OSError as error:
                if self._process.poll() is not None:
                    raise EngineFailure(f"The host ended: {error}.") from None
            time.sleep(_POLL_SECONDS)
        raise EngineFailure("The host was not ready in time.")

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        return ask(self.address + path, body, token=self.token)

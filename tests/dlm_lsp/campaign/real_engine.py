"""A campaign over LSP's bytes against a real engine host, which is killed now and then.

The server starts the host itself, with the bundled model. What reaches the engine cannot be looked
at here; `over_lsp.py` does that with a host of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.dlm_lsp.campaign.buffers import Buffer
from tests.dlm_lsp.campaign.over_lsp import LspCampaign
from tests.dlm_lsp.campaign.wires import Message, Wire
from tests.dlm_lsp.lsp_client import TEXT

KILLS = 5
RECOVERY_SECONDS_MAX = 60.0  # A bound that only a hang exceeds; the figures are in the report.
_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Recovery:
    """The seconds from a kill until a new host had loaded, and until the next answer."""

    ready: float
    answered: float


class RealCampaign(LspCampaign):
    """A campaign whose server starts the host. Call `end_host` after it.

    Args:
        runtime: the folder of the host's socket (XDG_RUNTIME_DIR).
        events: how many are planned, among which the kills are spread.
    """

    def __init__(self, wire: Wire, folder: Path, seed: int, runtime: Path, events: int) -> None:
        super().__init__(wire, folder, seed)
        self.recoveries: list[Recovery] = []
        self._runtime = runtime
        self._every = max(1, events // (KILLS + 1))
        self._probe = Buffer((folder / "probe.py").as_uri(), "python", None, TEXT)
        # Otherwise it would be waited for in vain, and nothing would start a host again.
        self.never_silenced = frozenset({self._probe.language})

    def kinds(self) -> dict[Callable[[], Any], int]:
        kinds = super().kinds()
        kinds[self.rest] = 40  # An engine that computes is slower than one that invents.
        return kinds

    async def start(self, url: str | None = None) -> None:
        await super().start(url)
        self._open(self._probe)
        await self._answered()

    async def _between(self, number: int) -> None:
        await super()._between(number)
        await asyncio.sleep(0.01)
        if number % self._every == self._every - 1 and len(self.recoveries) < KILLS:
            if self.rng.random() < 0.5:
                await self.ask()  # So that it dies at work.
            self.recoveries.append(await self._kill())

    async def _kill(self) -> Recovery:
        """Kills the host, and measures how long the next answer takes."""
        found = await self._health()
        while found is None or found.get("status") != "ok":
            await asyncio.sleep(_POLL_SECONDS)
            found = await self._health()
        os.kill(found["pid"], signal.SIGKILL)
        began = time.monotonic()
        both = [asyncio.ensure_future(self._loaded(found["pid"]))]
        both.append(asyncio.ensure_future(self._answered()))
        _, late = await asyncio.wait(both, timeout=RECOVERY_SECONDS_MAX)
        if late:
            names = [
                name for name, one in zip(("loaded", "answered"), both, strict=True) if one in late
            ]
            for one in late:
                one.cancel()
            said = self.counts, await self._health(), self._log()
            raise AssertionError(f"not {names} after kill {len(self.recoveries) + 1}: {said}")
        ready, answered = (one.result() for one in both)
        self.counts["hosts killed"] += 1
        return Recovery(ready - began, answered - began)

    async def _loaded(self, old: int) -> float:
        while True:
            found = await self._health()
            if found is not None and found["pid"] != old and found.get("status") == "ok":
                return time.monotonic()
            await asyncio.sleep(_POLL_SECONDS)

    async def _answered(self) -> float:
        """Asks at a place where the model always suggests something, until it does."""
        while True:
            params = {
                "textDocument": {"uri": self._probe.uri},
                "position": {"line": 1, "character": 11},
                "context": {"triggerKind": 1},
            }
            answer: Message = await self.peer.request("textDocument/inlineCompletion", params)
            if answer.get("result"):
                return time.monotonic()
            await asyncio.sleep(_POLL_SECONDS)

    async def _health(self) -> dict[str, Any] | None:
        """What the host says of itself; None while there is none."""
        for path in self._runtime.glob("dlm-lsp/*.sock"):
            try:
                return await _get(path, "GET /health")
            except (OSError, ValueError, asyncio.IncompleteReadError):
                continue
        return None

    def _log(self) -> str:
        """The last lines of the hosts' logs."""
        folder = self._runtime.parent
        logs = [path.read_text("utf-8", "replace")[-1500:] for path in folder.rglob("*.log")]
        return "\n".join(logs)

    async def end_host(self) -> None:
        for path in self._runtime.glob("dlm-lsp/*.sock"):
            try:
                await _get(path, "POST /v1/shutdown")
            except (OSError, ValueError):
                continue

    def notes(self) -> list[str]:
        """The recoveries, for the report."""
        ready = [one.ready for one in self.recoveries]
        late = [max(0.0, one.answered - one.ready) for one in self.recoveries]
        if not ready:
            return ["no host was killed"]
        return [
            f"kill -9 to a loaded model: median {statistics.median(ready):.2f} s, "
            f"most {max(ready):.2f} s",
            f"loaded model to the next answer: median {statistics.median(late):.2f} s, "
            f"most {max(late):.2f} s",
        ]


async def _get(path: Path, request: str) -> dict[str, Any]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(f"{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
    finally:
        writer.close()
    return json.loads(answer.partition(b"\r\n\r\n")[2])

"""`dlm-lsp demo`: fills the holes of a real file as an editor would, and shows the drafts.

Starts the language server as a process and uses server, host and engine only through LSP. Owns the
conversation and the pace of drawing. The file on disk is not changed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.text import Text

from dlm_lsp.cli.model import run as pull_model
from dlm_lsp.cli.terminal import GUTTER, LiveView, ShownState, TerminalHole, hole_at
from dlm_lsp.client.messages import SpanBody
from dlm_lsp.lsp.lsp_client import LspClient, LspClientError
from dlm_lsp.store.choice import choose
from dlm_lsp.store.errors import StoreError
from dlm_lsp.version import VERSION

FILES = Path(__file__).resolve().parent.parent / "assets"
HOLE = "‸"  # Marks a hole in the demo's files.
MODEL = "qwen2.5-coder-0.5b"  # `--pull` downloads this model within about a minute.
HEALING_SECONDS_MAX = 2.0
SECONDS_MAX = 300.0  # For the whole conversation; a slow machine loads for minutes.
# The shortest times that each draft and each filled hole stay on the screen.
FRAME_SECONDS, HOLE_SECONDS = 0.12, 0.6
TOKEN = "demo"
AUTOMATIC = 2  # LSP's InlineCompletionTriggerKind


@dataclass(slots=True)
class Conversation:
    """The server's messages to the editor."""

    drafts: asyncio.Queue[ShownState | None] = field(default_factory=asyncio.Queue)
    status: dict[str, Any] = field(default_factory=dict)
    has_status: asyncio.Event = field(default_factory=asyncio.Event)
    asked_at: float = 0.0
    first_draft_ms: float | None = None
    num_drafts: int = 0

    def ask(self) -> None:
        """Records that a request is sent."""
        self.asked_at, self.first_draft_ms, self.num_drafts = time.monotonic(), None, 0

    def hear(self, method: str, params: dict[str, Any]) -> None:
        """Handles a notification."""
        if method == "dlm/status":
            self.status = params
            self.has_status.set()
        elif method == "dlm/draft" and params["token"] == TOKEN:
            if self.first_draft_ms is None:
                self.first_draft_ms = (time.monotonic() - self.asked_at) * 1000
            self.num_drafts += 1
            self.drafts.put_nowait(_state(params))


@dataclass(frozen=True, slots=True)
class DemoAnswer:
    """The answer to a request; `text` is empty without a suggestion.

    Times are milliseconds, measured by the editor.
    """

    text: str
    replaced: int
    num_drafts: int
    first_draft_ms: float | None
    total_ms: float


@dataclass(frozen=True, slots=True)
class DemoScript:
    """A file with holes and the default mode for filling them."""

    file: str
    mode: str

    @property
    def name(self) -> str:
        """The file's name in a project."""
        return self.file.removesuffix(".txt")

    @property
    def uri(self) -> str:
        """The URI of the file, which exists only in the editor."""
        return (FILES / self.name).as_uri()

    def open(self) -> tuple[str, tuple[int, ...]]:
        """Returns the text without marks, and the offsets of its holes."""
        parts = (FILES / self.file).read_text("utf-8").split(HOLE)
        ends = itertools.accumulate(len(part) for part in parts[:-1])
        return "".join(parts), tuple(ends)


SCRIPT = DemoScript("settings_store.py.txt", "auto")
# The mode "block" shows best how a model fills masks.
BUNDLED_SCRIPT = DemoScript("inventory.py.txt", "block")


@dataclass(slots=True)
class Buffer:
    """The edited file; `filled` holds the ranges that were completed."""

    script: DemoScript
    text: str
    version: int = 1
    filled: list[tuple[int, int]] = field(default_factory=list)

    def position(self, offset: int) -> dict[str, int]:
        """Returns the LSP position of an offset."""
        start = self.text.rfind("\n", 0, offset) + 1
        return {"line": self.text.count("\n", 0, offset), "character": offset - start}

    def hole(self, offset: int) -> TerminalHole:
        """Returns the hole at an offset, with the whole file around it."""
        line, column = (count + 1 for count in self.position(offset).values())
        title = f"{self.script.name}:{line}:{column}"
        return hole_at(title, self.text, offset, self.text.count("\n"), self.filled)

    def accept(self, offset: int, answer: DemoAnswer) -> dict[str, Any]:
        """Inserts an answer; returns the content change for LSP's didChange."""
        end = offset + answer.replaced
        edges = {"start": self.position(offset), "end": self.position(end)}
        self.text = self.text[:offset] + answer.text + self.text[end:]
        self.version += 1
        self.filled.append((offset, offset + len(answer.text)))
        return {
            "textDocument": {"uri": self.script.uri, "version": self.version},
            "contentChanges": [{"range": edges, "text": answer.text}],
        }


def run(settings: dict[str, object], *, pulls: bool = False) -> int:
    """Runs the demo with these client settings; returns 0 if every hole was filled, otherwise 1.

    Args:
        pulls: whether to try to download a real model first if only the bundled one is there.
    """
    if pulls and _is_bundled(settings):
        asked = argparse.Namespace(action="pull", name=MODEL, yes=True, json=False)
        if pull_model(asked):
            print("Going on with the small bundled model, whose suggestions are mostly wrong.\n")
    script = BUNDLED_SCRIPT if _is_bundled(settings) else SCRIPT
    try:
        return asyncio.run(_run(Console(highlight=False), script, settings))
    except (LspClientError, TimeoutError) as error:
        reason = str(error) or f"No answer within {SECONDS_MAX:.0f} s."
        print(f"dlm-lsp demo: {reason} 'dlm-lsp doctor' may know why.", file=sys.stderr)
        return 1


def _is_bundled(settings: dict[str, object]) -> bool:
    """Returns whether the bundled model would be used."""
    engine = settings.get("engine")
    checkpoint = engine.get("checkpoint") if isinstance(engine, dict) else None
    try:
        return choose(checkpoint).path is None
    except StoreError:  # The server reports this error.
        return False


async def _run(console: Console, script: DemoScript, settings: dict[str, object]) -> int:
    text, places = script.open()
    # It shows what the model writes, sure or not.
    settings = {"mode": script.mode, "silence": {"confidence": 0}, **settings}
    settings["statistics"] = {"enabled": False}  # Nobody decides here what is accepted.
    heard, buffer = Conversation(), Buffer(script, text)
    editor = LspClient(heard.hear)
    try:
        async with asyncio.timeout(SECONDS_MAX):
            with console.status("Starting the language server …") as spinner:
                await editor.start([sys.executable, "-P", "-m", "dlm_lsp", "--stdio"])
                await _open(editor, buffer, settings)
                await _wait_for_engine(spinner, editor, heard)
            with LiveView(console) if console.is_terminal else nullcontext() as view:
                answers = await _fill_all(editor, heard, buffer, places, view)
    finally:
        await editor.close()
    if not console.is_terminal:
        console.print(buffer.text, markup=False, soft_wrap=True)
    return _conclude(console, heard.status, answers)


async def _fill_all(
    editor: LspClient,
    heard: Conversation,
    buffer: Buffer,
    places: Sequence[int],
    view: LiveView | None,
) -> list[DemoAnswer]:
    """Fills every hole and accepts the answer before it fills the next hole."""
    answers: list[DemoAnswer] = []
    for place in places:
        offset = place + sum(len(answer.text) - answer.replaced for answer in answers)
        asking = asyncio.create_task(
            _ask(editor, heard, buffer.script.uri, buffer.position(offset))
        )
        if view is not None:
            await _watch(view, buffer.hole(offset), heard)
        answer = await asking
        answers.append(answer)
        if view is not None:
            view.show(buffer.hole(offset), ShownState(answer.text, replaced=answer.replaced))
            await asyncio.sleep(HOLE_SECONDS)
        editor.notify("textDocument/didChange", buffer.accept(offset, answer))
    return answers


async def _open(editor: LspClient, buffer: Buffer, settings: dict[str, object]) -> None:
    """Initializes the server with support for drafts, and opens the file."""
    dlm = {"drafts": True, "statusNotifications": True, **settings}
    await editor.request(
        "initialize",
        {
            "processId": os.getpid(),
            "clientInfo": {"name": "dlm-lsp demo", "version": VERSION},
            "rootUri": FILES.as_uri(),
            "capabilities": {
                # UTF-32 counts code points, as Python does.
                "general": {"positionEncodings": ["utf-32"]},
                "textDocument": {"inlineCompletion": {}},
                "window": {"workDoneProgress": True},
            },
            "initializationOptions": {"dlm": dlm},
        },
    )
    editor.notify("initialized", {})
    document = {
        "uri": buffer.script.uri,
        "languageId": "python",
        "version": buffer.version,
        "text": buffer.text,
    }
    editor.notify("textDocument/didOpen", {"textDocument": document})


async def _wait_for_engine(spinner: Status, editor: LspClient, heard: Conversation) -> None:
    """Waits until the model is loaded. Raises LspClientError if loading fails."""
    while heard.status.get("state") not in ("ready", "busy"):
        has_failed = heard.status.get("state") in ("error", "off")
        heard.has_status.clear()
        try:
            # After a temporary error, the status "loading" follows at once.
            async with asyncio.timeout(HEALING_SECONDS_MAX if has_failed else None):
                await editor.until(heard.has_status)
        except TimeoutError:
            raise LspClientError(str(heard.status.get("message"))) from None
        spinner.update(str(heard.status.get("message")))


async def _ask(
    editor: LspClient, heard: Conversation, uri: str, position: dict[str, int]
) -> DemoAnswer:
    """Asks for a completion as an editor does while its user types."""
    heard.ask()
    try:
        items = await editor.request(
            "textDocument/inlineCompletion",
            {
                "textDocument": {"uri": uri},
                "position": position,
                "context": {"triggerKind": AUTOMATIC},
                "workDoneToken": TOKEN,
            },
        )
    finally:
        heard.drafts.put_nowait(None)  # No draft follows the answer.
    total_ms = (time.monotonic() - heard.asked_at) * 1000
    text, replaced = "", 0
    if items:
        text = items[0]["insertText"]
        replaced = items[0]["range"]["end"]["character"] - position["character"]
    return DemoAnswer(text, replaced, heard.num_drafts, heard.first_draft_ms, total_ms)


async def _watch(view: LiveView, hole: TerminalHole, heard: Conversation) -> None:
    """Draws every draft until the answer arrives."""
    view.show(hole, ShownState())
    while (state := await heard.drafts.get()) is not None:
        view.show(hole, state)
        await asyncio.sleep(FRAME_SECONDS)


def _state(params: dict[str, Any]) -> ShownState:
    position, end = params["position"], params["range"]["end"]
    return ShownState(
        committed=params["committed"],
        draft=params["draft"],
        spans=tuple(SpanBody(**span) for span in params["spans"]),
        replaced=end["character"] - position["character"],
    )


def _conclude(console: Console, status: dict[str, Any], answers: Sequence[DemoAnswer]) -> int:
    """Prints the figures, and the reason if there is no suggestion; returns the exit code."""
    if not answers or not all(answer.text.strip() for answer in answers):
        reason = status.get("reason") or status.get("message") or "No reason given."
        print(f"dlm-lsp demo: a hole was not filled: {reason}", file=sys.stderr)
        return 1
    first = [answer.first_draft_ms for answer in answers if answer.first_draft_ms is not None]
    facts = [
        f"{len(answers)} holes filled in {sum(answer.total_ms for answer in answers):.0f} ms",
        f"{sum(answer.num_drafts for answer in answers)} drafts",
        f"{Path(str(status.get('model'))).name} on {status.get('device')}",
    ]
    if first:
        facts.insert(1, f"first drafts after {', '.join(f'{ms:.0f}' for ms in first)} ms")
    console.print(Text(" " + " · ".join(facts), GUTTER), soft_wrap=True)
    if console.is_terminal:
        program = Path(sys.executable).parent / "dlm-lsp"
        console.print(f"\n In a file of yours: {program} complete FILE:LINE:COL", soft_wrap=True)
        console.print(" In your editor:     editors/nvim/README.md")
    return 0

"""`dlm-lsp demo`: fills a hole in a real file as an editor would, and shows the draft refining.

Starts the language server as its own process and speaks LSP with it; nothing of the server, the
host or the engine is reached in any other way. Owns the conversation and the pace at which drafts
are drawn. The file on disk is not changed.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.text import Text

from dlm_lsp.editor_peer import EditorPeer, PeerError
from dlm_lsp.messages import SpanBody
from dlm_lsp.terminal import GUTTER, Hole, LiveView, State, hole_at
from dlm_lsp.version import VERSION

FILE = Path(__file__).parent.parent / "fixtures" / "demo" / "inventory.py"
HOLE = "pass  # hole"  # stands in the file, so that it is valid; the editor opens it without
SECONDS_MAX = 300.0  # for the whole conversation: a slow machine loads for minutes
FRAME_SECONDS = 0.09  # each draft stays on the screen at least so long: eyes are slower
_TOKEN = "demo"
AUTOMATIC = 2  # LSP's InlineCompletionTriggerKind


@dataclass(slots=True)
class Conversation:
    """What the editor has heard from the server."""

    drafts: asyncio.Queue[State | None] = field(default_factory=asyncio.Queue)
    status: dict[str, Any] = field(default_factory=dict)
    has_status: asyncio.Event = field(default_factory=asyncio.Event)
    asked_at: float = 0.0
    first_draft_ms: float | None = None
    num_drafts: int = 0

    def hear(self, method: str, params: dict[str, Any]) -> None:
        """Takes a notification."""
        if method == "dlm/status":
            self.status = params
            self.has_status.set()
        elif method == "dlm/draft" and params["token"] == _TOKEN:
            if self.first_draft_ms is None:
                self.first_draft_ms = (time.monotonic() - self.asked_at) * 1000
            self.num_drafts += 1
            self.drafts.put_nowait(_state(params))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the request brought; `text` is empty where there was no suggestion."""

    text: str
    replaced: int
    total_ms: float


def run(settings: dict[str, object]) -> int:
    """Runs the demo with these client settings; 0 if the hole was filled, 1 if not."""
    try:
        source = FILE.read_text("utf-8")
    except OSError as error:
        print(
            f"dlm-lsp demo: {FILE} cannot be read ({error.strerror}). The demo runs in a checkout "
            "of dlm-lsp; elsewhere try 'dlm-lsp complete FILE:LINE:COL'.",
            file=sys.stderr,
        )
        return 2
    offset = source.index(HOLE)
    text = source.replace(HOLE, "", 1)
    try:
        return asyncio.run(_run(Console(highlight=False), text, offset, settings))
    except (PeerError, TimeoutError) as error:
        reason = str(error) or f"No answer within {SECONDS_MAX:.0f} s."
        print(f"dlm-lsp demo: {reason} 'dlm-lsp doctor' may know why.", file=sys.stderr)
        return 1


async def _run(console: Console, text: str, offset: int, settings: dict[str, object]) -> int:
    line, column = text.count("\n", 0, offset), offset - (text.rfind("\n", 0, offset) + 1)
    hole = hole_at(f"fixtures/demo/{FILE.name}:{line + 1}:{column + 1}", text, offset)
    heard = Conversation()
    editor = EditorPeer(heard.hear)
    try:
        async with asyncio.timeout(SECONDS_MAX):
            with console.status("Starting the language server …") as spinner:
                await editor.start([sys.executable, "-P", "-m", "dlm_lsp", "--stdio"])
                await _open(editor, text, settings)
                await _wait_for_engine(spinner, editor, heard)
            asking = asyncio.create_task(_ask(editor, heard, line, column))
            if console.is_terminal:
                await _watch(console, hole, heard, asking)
            answer = await asking
    finally:
        await editor.close()
    if not console.is_terminal:
        console.print(f"{hole.title}\n{answer.text}", markup=False, soft_wrap=True)
    return _conclude(console, heard, answer)


async def _open(editor: EditorPeer, text: str, settings: dict[str, object]) -> None:
    """Introduces the editor and opens the file; the server is told that drafts are wanted."""
    dlm = {"version": 1, "drafts": True, "statusNotifications": True, **settings}
    await editor.request(
        "initialize",
        {
            "processId": os.getpid(),
            "clientInfo": {"name": "dlm-lsp demo", "version": VERSION},
            "rootUri": FILE.parent.as_uri(),
            "capabilities": {
                # Offsets in code points, as Python counts.
                "general": {"positionEncodings": ["utf-32"]},
                "textDocument": {"inlineCompletion": {}},
                "window": {"workDoneProgress": True},
            },
            "initializationOptions": {"dlm": dlm},
        },
    )
    editor.notify("initialized", {})
    document = {"uri": FILE.as_uri(), "languageId": "python", "version": 1, "text": text}
    editor.notify("textDocument/didOpen", {"textDocument": document})


async def _wait_for_engine(spinner: Status, editor: EditorPeer, heard: Conversation) -> None:
    """Returns when the model is loaded. Raises PeerError if it cannot be."""
    while heard.status.get("state") not in ("ready", "busy"):
        if heard.status.get("state") in ("error", "off"):
            raise PeerError(str(heard.status.get("message")))
        heard.has_status.clear()
        await editor.until(heard.has_status)
        spinner.update(str(heard.status.get("message")))


async def _ask(editor: EditorPeer, heard: Conversation, line: int, column: int) -> Answer:
    """Asks for a completion as an editor does while somebody types."""
    heard.asked_at = time.monotonic()
    try:
        result = await editor.request(
            "textDocument/inlineCompletion",
            {
                "textDocument": {"uri": FILE.as_uri()},
                "position": {"line": line, "character": column},
                "context": {"triggerKind": AUTOMATIC},
                "workDoneToken": _TOKEN,
            },
        )
        total_ms = (time.monotonic() - heard.asked_at) * 1000
        items = (result or {}).get("items", []) if not isinstance(result, list) else result
        if not items:
            return Answer("", 0, total_ms)
        end = items[0].get("range", {}).get("end", {"character": column})
        return Answer(items[0]["insertText"], end["character"] - column, total_ms)
    finally:
        heard.drafts.put_nowait(None)  # nothing follows the answer


async def _watch(
    console: Console, hole: Hole, heard: Conversation, asking: asyncio.Task[Answer]
) -> None:
    """Draws every draft, and the answer last."""
    with LiveView(console, hole) as view:
        view.show(State())
        while (state := await heard.drafts.get()) is not None:
            view.show(state)
            await asyncio.sleep(FRAME_SECONDS)
        answer = await asking
        view.show(State(committed=answer.text, replaced=answer.replaced))


def _state(params: dict[str, Any]) -> State:
    position, end = params["position"], params["range"]["end"]
    return State(
        committed=params["committed"],
        draft=params["draft"],
        spans=tuple(SpanBody(**span) for span in params["spans"]),
        replaced=end["character"] - position["character"],
    )


def _conclude(console: Console, heard: Conversation, answer: Answer) -> int:
    """Prints the figures, and why there is no suggestion where there is none."""
    if not answer.text.strip():
        reason = heard.status.get("reason") or heard.status.get("message") or "No reason given."
        print(f"dlm-lsp demo: the hole was not filled: {reason}", file=sys.stderr)
        return 1
    status = heard.status
    count = len(answer.text.splitlines())
    facts = [f"{count} line{'' if count == 1 else 's'} in {answer.total_ms:.0f} ms"]
    if heard.first_draft_ms is not None:
        facts.append(f"first draft after {heard.first_draft_ms:.0f} ms, {heard.num_drafts} drafts")
    if status.get("tokensPerForward"):
        facts.append(f"{status['tokensPerForward']:.1f} tokens per forward")
    facts.append(f"{Path(str(status.get('model'))).name} on {status.get('device')}")
    console.print(Text(" " + " · ".join(facts), GUTTER), soft_wrap=True)
    if console.is_terminal:
        program = Path(sys.executable).parent / "dlm-lsp"
        console.print(f"\n In a file of yours: {program} complete FILE:LINE:COL", soft_wrap=True)
        console.print(" In your editor:     editors/nvim/README.md")
    return 0

"""A campaign over LSP's bytes: an editor that types, asks, cancels, and changes its settings.

The rules that are checked after each event: the server's text is the editor's, every request gets
one answer, an answer fits the text at its moment, and the secret of quiet documents is never sent.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dlm_lsp.client.messages import GenerateBody
from tests.dlm_lsp.campaign import hostile
from tests.dlm_lsp.campaign.buffers import IGNORED, SECRET, SETTINGS, Buffer, make_buffers
from tests.dlm_lsp.campaign.client import initialize_params
from tests.dlm_lsp.campaign.played import resident
from tests.dlm_lsp.campaign.texts import (
    offset_of,
    outside_line_end,
    place,
    random_pieces,
)
from tests.dlm_lsp.campaign.wires import InProcess, Message, Peer, Wire

CLIENTS = (None, {"name": "Neovim"}, {"name": "helix"})
CANCELLED, CONTENT_MODIFIED, INVALID_PARAMS = -32800, -32801, -32602
_SAMPLES = 200


class LspCampaign:
    """One editor with a server. Events are drawn by a seed, which also chooses the client's kind.

    Attributes:
        resident_bytes: the server's memory at equal distances of events.
    """

    def __init__(self, wire: Wire, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.peer = Peer(wire)
        self.counts = self.peer.counts
        self.resident_bytes: list[int] = []
        self.encoding = ("utf-16", "utf-8", "utf-32")[seed % 3]
        self.client = CLIENTS[seed // 3 % 3]
        self.pulls_settings = seed % 2 == 0
        self.is_popup = seed % 7 == 5
        self.dlm: dict[str, Any] = {"statusNotifications": True, "drafts": seed % 4 < 2, "delay": 0}
        self.dlm |= {"silence": {"confidence": 0}, "limits": {"tokensMax": 16}}
        self.dlm |= {"followUp": seed % 3 > 0}
        self.folder = folder
        self.buffers = make_buffers(folder, self.rng)
        # The documents that are always quiet come last.
        self._num_plain = sum(not buffer.is_quiet for buffer in self.buffers)
        self._shown: tuple[Buffer, int, Message] | None = None
        self._wire = wire
        self.never_silenced: frozenset[str] = frozenset()  # Languages, for `configure`.
        self._is_snoozed = False
        self._latest: deque[str] = deque(maxlen=12)  # Events, for the message of a fault.

    def kinds(self) -> dict[Callable[[], Any], int]:
        """The events, and how often each comes."""
        return {
            self.edit: 40,
            self.ask: 30,
            self.cancel: 5,
            self.whole: 3,
            self.reopen: 3,
            self.accept: 5,
            self.type_shown: 6,
            self.warm: 4,
            self.set_files: 3,
            self.rest: 12,
            self.configure: 1,
            self.toggle: 2,
            self.snooze: 1,
            self.folders: 1,
            self.lose: 1,
            self.hostile: 3,
            self.fill: 1,
            self.many_edits: 4,
            self.command: 1,
        }

    async def start(self, url: str | None) -> None:
        """Initialises the server, for the engine host at a URL or one that it starts itself."""
        self.dlm |= {"engine": {"url": url}} if url else {}
        self.peer.handlers = {
            "workspace/configuration": lambda params: [self.dlm],
            "workspace/applyEdit": self._apply_edit,
        }
        params = initialize_params(
            self.folder, self.encoding, self.client, self.is_popup, self.pulls_settings
        )
        params["initializationOptions"] = None if self.pulls_settings else {"dlm": self.dlm}
        answer = await self.peer.request("initialize", params)
        assert "result" in answer, answer
        assert answer["result"]["capabilities"]["positionEncoding"] == self.encoding, answer
        self.peer.notify("initialized", {})
        if isinstance(self._wire, InProcess):
            self._wire.rest_seconds(0.002)
        for buffer in self.buffers:
            self._open(buffer)
        await self.peer.run("dlm.stats")

    async def run(self, events: int) -> None:
        """Plays events, then waits for what is in flight and leaves. Raises AssertionError."""
        kinds = self.kinds()
        for number in range(events):
            (kind,) = self.rng.choices(list(kinds), list(kinds.values()))
            self.counts[kind.__name__] += 1
            self._latest.append(kind.__name__)
            await kind()
            await self._between(number)
            assert not self.peer.faults, f"{number}, {list(self._latest)}: {self.peer.faults}"
            if number % max(1, events // _SAMPLES) == 0:
                self.resident_bytes.append(resident(self._wire.process_id))
        await self.leave()

    async def leave(self) -> None:
        """Waits for all answers and ends the server."""
        await self.peer.all_answered()
        answer = await self.peer.request("shutdown")
        assert answer["result"] is None
        self.peer.notify("exit", None)
        assert await self._wire.close() == 0
        assert not self.peer.faults, self.peer.faults
        assert self.counts["requests"] == self.counts["answers"]

    async def _between(self, number: int) -> None:
        if isinstance(self._wire, InProcess):
            self._compare_texts(self._wire)
            await asyncio.sleep(0)
        elif number % 10 == 0:  # So that the server keeps up.
            await self._wire.drain()
            await self.peer.run("dlm.stats")

    def _compare_texts(self, wire: InProcess) -> None:
        for buffer in self.buffers:
            wanted = None if buffer.is_lost else buffer.text
            if wire.text_of(buffer.uri) != wanted:
                self.peer.faults.append(f"{buffer.uri} differs from the editor's text")

    def look(self, body: GenerateBody) -> None:
        """Checks what reaches the engine."""
        text = body.prefix + body.suffix
        if SECRET in body.model_dump_json():  # Also as the context of another document.
            known = [one for one in self.buffers if one.uri == body.document]
            self.peer.faults.append(f"the text of a quiet document was sent: {known}")
        if self.dlm["followUp"]:  # What follows a suggestion is asked before it is in the text.
            return
        known = [b for b in self.buffers if b.uri == body.document]
        if not any(text == one for buffer in known for one in buffer.since(0)):
            self.peer.faults.append(f"a text that never was is sent: {body.document}")

    # Documents.

    def _buffer(self, may_be_lost: bool = False) -> Buffer:
        num_sent = len(self.buffers) if self.rng.random() < 0.1 else self._num_plain
        while True:
            buffer = self.rng.choice(self.buffers[:num_sent])
            if may_be_lost or not buffer.is_lost:
                return buffer

    def _offset(self, buffer: Buffer) -> int:
        return outside_line_end(buffer.text, self.rng.randrange(len(buffer.text) + 1))

    def _place(self, text: str, offset: int) -> dict[str, int]:
        line, character = place(text, offset, self.encoding)
        return {"line": line, "character": character}

    def _open(self, buffer: Buffer) -> None:
        buffer.is_lost = False
        buffer.became(buffer.text)
        item = {"uri": buffer.uri, "languageId": buffer.language, "version": buffer.number}
        self.peer.notify("textDocument/didOpen", {"textDocument": {**item, "text": buffer.text}})

    def _change(self, buffer: Buffer, text: str, changes: list[Message]) -> None:
        buffer.became(text)
        item = {"uri": buffer.uri, "version": buffer.number}
        params = {"textDocument": item, "contentChanges": changes}
        self.peer.notify("textDocument/didChange", params)

    def _replace(self, buffer: Buffer, start: int, end: int, new: str) -> None:
        change, text = self._splice(buffer.text, start, end, new)
        self._change(buffer, text, [change])

    def _splice(self, text: str, start: int, end: int, new: str) -> tuple[Message, str]:
        start, end = outside_line_end(text, start), outside_line_end(text, end)
        places = {"start": self._place(text, start), "end": self._place(text, end)}
        return {"range": places, "text": new}, text[:start] + new + text[end:]

    def _renew(self, buffer: Buffer) -> None:
        """Replaces the whole text, which also finds a document again that was lost."""
        buffer.is_lost = False
        text = buffer.fresh_text(self.rng)
        self._change(buffer, text, [{"text": text}])

    def _random_splice(self, text: str) -> tuple[Message, str]:
        start = self.rng.randrange(len(text) + 1)
        end = min(len(text), start + self.rng.choice((0, 0, 0, 1, 2, 9, 200)))
        return self._splice(
            text, start, end, random_pieces(self.rng, self.rng.choice((0, 1, 1, 3)))
        )

    # Events.

    async def edit(self) -> None:
        buffer = self._buffer()
        change, text = self._random_splice(buffer.text)
        self._change(buffer, text, [change])

    async def many_edits(self) -> None:
        """Several edits in one message, each in the text that the one before has left."""
        buffer = self._buffer()
        text, changes = buffer.text, []
        for _ in range(self.rng.randrange(2, 6)):
            change, text = self._random_splice(text)
            changes.append(change)
        self._change(buffer, text, changes)

    async def whole(self) -> None:
        self._renew(self._buffer(may_be_lost=True))

    async def reopen(self) -> None:
        buffer = self._buffer(may_be_lost=True)
        self.peer.notify("textDocument/didClose", {"textDocument": {"uri": buffer.uri}})
        buffer.text = buffer.fresh_text(self.rng)
        self._open(buffer)

    async def lose(self) -> None:
        """Sends an edit that no server can apply."""
        buffer = self._buffer()
        buffer.is_lost = True
        change = self.rng.choice(hostile.CHANGES)
        item = {"uri": buffer.uri, "version": buffer.number + 1}
        buffer.number += 1
        self.peer.notify(
            "textDocument/didChange", {"textDocument": item, "contentChanges": [change]}
        )

    async def ask(self) -> None:
        """Asks, and often waits for the answer, as people do who read it."""
        buffer = self._buffer(may_be_lost=True)
        self._ask(buffer, self._offset(buffer), self.rng.random() < 0.8)
        if self.rng.random() < 0.3:
            for _ in range(100):
                if not self.peer.open_ids:
                    break
                await asyncio.sleep(0.001)

    def _ask(self, buffer: Buffer, offset: int, is_automatic: bool) -> None:
        method = "completion" if self.is_popup else "inlineCompletion"
        number, was_quiet = buffer.number, buffer.is_quiet or (self._is_snoozed and is_automatic)
        params = {
            "textDocument": {"uri": buffer.uri},
            "position": self._place(buffer.text, offset),
            "context": {"triggerKind": 2 if is_automatic and not self.is_popup else 1},
            "workDoneToken": f"{buffer.uri}-{number}",
        }

        def check(answer: Message) -> None:
            self._check_answer(buffer, number, offset, answer, was_quiet)

        self.peer.ask(f"textDocument/{method}", params, check)

    def _check_answer(
        self, buffer: Buffer, number: int, offset: int, answer: Message, was_quiet: bool
    ) -> None:
        if "error" in answer:
            if answer["error"]["code"] != CANCELLED:
                self.peer.faults.append(f"{buffer.uri}: {answer['error']}")
            return
        items = answer["result"] or []
        items = items["items"] if isinstance(items, dict) else items
        self.counts["answers with text" if items else "answers without text"] += 1
        if not items:
            return
        is_now = isinstance(self._wire, InProcess)
        texts = [buffer.text] if is_now else buffer.since(number)
        if was_quiet or (is_now and (buffer.is_quiet or buffer.is_lost)):
            self.peer.faults.append(f"{buffer.uri} is quiet, but got a suggestion")
        if not any(self._fits(buffer, number, offset, text, items) for text in texts):
            self.peer.faults.append(f"{buffer.uri}: an answer fits no text: {items} at {offset}")
        self._shown = (buffer, buffer.number, items[0])

    def _fits(self, buffer: Buffer, number: int, offset: int, text: str, items: list) -> bool:
        """Whether items fit a text: it is the one of the request, with typing at its cursor."""
        asked = next((old for at, old in buffer.texts if at == number), None)
        if asked is not None:
            before, after = asked[:offset], asked[offset:]
            if not (text.startswith(before) and text[offset:].endswith(after)):
                return False
        ranges = [self._range(text, item) for item in items]
        return all(found is not None and found[0] <= found[1] for found in ranges)

    def _range(self, text: str, item: Message) -> tuple[int, int] | None:
        places = item["textEdit"]["range"] if self.is_popup else item["range"]
        found = [
            offset_of(text, one["line"], one["character"], self.encoding)
            for one in (places["start"], places["end"])
        ]
        start, end = found
        return None if start is None or end is None else (start, end)

    async def accept(self) -> None:
        """Takes the latest suggestion, as long as its text is the current one."""
        if self._shown is None:
            return
        buffer, number, item = self._shown
        self._shown = None
        if (
            buffer.number != number
            or buffer.is_lost
            or (found := self._range(buffer.text, item)) is None
        ):
            return
        text = item["textEdit"]["newText"] if self.is_popup else item["insertText"]
        self._replace(buffer, *found, self._written(buffer, text))
        self.peer.ask(
            "workspace/executeCommand",
            {"command": "dlm.accepted", "arguments": item["command"]["arguments"]},
            lambda answer: None,
        )
        self._ask(buffer, outside_line_end(buffer.text, found[0] + len(text)), True)

    def _written(self, buffer: Buffer, text: str) -> str:
        """A text as the editor inserts it: some give it the line ends of the document."""
        if "\r" in text and self.client == {"name": "Neovim"}:
            self.peer.faults.append(f"{buffer.uri}: \\r for an editor that owns line ends")
        return text.replace("\n", buffer.line_end) if "\r" not in text else text

    async def type_shown(self) -> None:
        """Types the beginning of the latest suggestion, key by key."""
        if self._shown is None or self.is_popup:
            return
        buffer, number, item = self._shown
        found = (
            None if buffer.number != number or buffer.is_lost else self._range(buffer.text, item)
        )
        if found is None or found[0] != found[1]:
            return
        at = found[0]
        for key in self._written(buffer, item["insertText"])[: self.rng.randrange(1, 8)]:
            if buffer.text[:at].endswith("\r") or key == "\r":
                break
            self._replace(buffer, at, at, key)
            at += 1
            self._ask(buffer, at, True)
            await asyncio.sleep(0)

    async def warm(self) -> None:
        buffer = self._buffer(may_be_lost=True)
        position = self._place(buffer.text, self._offset(buffer))
        self.peer.notify("dlm/warm", {"textDocument": {"uri": buffer.uri}, "position": position})

    async def cancel(self) -> None:
        """Cancels a request, or a request that is long answered."""
        ids = self.peer.open_ids or [1]
        self.peer.notify("$/cancelRequest", {"id": self.rng.choice(ids)})

    async def rest(self) -> None:
        for _ in range(self.rng.randrange(8)):
            await asyncio.sleep(0)
        # After the longest rest the server works ahead.
        await asyncio.sleep(self.rng.choice((0, 0, 0, 0, 0.003, 0.03)))

    def _becomes(self, reason: str, quiet: set[str], tell: Callable[[], None]) -> None:
        """Tells the server of settings by which these documents, and no others, are quiet."""
        for buffer in self.buffers:
            if reason in buffer.reasons and buffer.uri not in quiet:
                buffer.reasons.discard(reason)
                if not buffer.is_quiet:
                    buffer.reasons.clear()
                    self._renew(buffer)
        tell()
        self._latest.append(f"{reason}: {quiet}")
        for buffer in self.buffers:
            if buffer.uri in quiet and reason not in buffer.reasons:
                was_quiet = buffer.is_quiet
                buffer.reasons.add(reason)
                if not was_quiet:
                    self._renew(buffer)

    async def set_files(self) -> None:
        """Writes a settings and an ignore file into one folder, of which the server is told."""
        buffer = self._buffer(may_be_lost=True)
        folder = buffer.folder
        if folder is None:
            return
        content = self.rng.choice(["", "", "", *SETTINGS])
        ignored, name = (
            self.rng.choice(["", "", *IGNORED]),
            self.rng.choice([".dlmignore", ".gitignore"]),
        )
        changed = [{"uri": (folder / one).as_uri(), "type": 2} for one in ("dlm-lsp.toml", name)]

        def tell() -> None:
            text = content.replace("LANGUAGE", buffer.language)
            (folder / "dlm-lsp.toml").write_bytes(text.encode())
            for one in (".dlmignore", ".gitignore"):
                (folder / one).write_text(ignored if one == name else "")
            self.peer.notify("workspace/didChangeWatchedFiles", {"changes": changed})

        is_quiet = SETTINGS[content] or IGNORED[ignored]
        self._becomes(str(folder), {buffer.uri} if is_quiet else set(), tell)

    async def configure(self) -> None:
        """Changes the editor's own settings, which the server pulls or is sent."""
        languages = [buffer.language for buffer in self.buffers]
        spared = [language for language in languages if language not in self.never_silenced]
        language = self.rng.choice([None, None, *spared])
        silence: dict[str, Any] = {"confidence": 0, "languages": [language] if language else []}
        quiet = {buffer.uri for buffer in self.buffers if buffer.language == language}

        def tell() -> None:
            self.dlm = {**self.dlm, "silence": silence}
            sent = None if self.pulls_settings else {"dlm": self.dlm}
            self.peer.notify("workspace/didChangeConfiguration", {"settings": sent})

        self._becomes("settings", quiet, tell)

    async def toggle(self) -> None:
        """Switches one document off or on, and waits until that is done."""
        buffer = self._buffer(may_be_lost=True)
        is_on = "toggle" in buffer.reasons
        if is_on:
            self._becomes("toggle", self._toggled() - {buffer.uri}, lambda: None)
        result = await self.peer.run("dlm.toggle", uri=buffer.uri, on=is_on)
        assert result == {"uri": buffer.uri, "on": is_on}
        if not is_on:
            self._becomes("toggle", self._toggled() | {buffer.uri}, lambda: None)

    def _toggled(self) -> set[str]:
        return {buffer.uri for buffer in self.buffers if "toggle" in buffer.reasons}

    async def snooze(self) -> None:
        """Asks while suggestions are snoozed, which a minute later they would not be."""
        await self.peer.run("dlm.snooze", minutes=1)
        self._is_snoozed = True
        for _ in range(3):
            await self.ask()
            await self.edit()
        self._is_snoozed = False
        await self.peer.run("dlm.snooze", minutes=0)

    async def folders(self) -> None:
        """Adds or removes workspace folders; the nearest settings file counts all the same."""
        every = [
            {"uri": buffer.folder.as_uri(), "name": buffer.language}
            for buffer in self.buffers
            if buffer.folder is not None
        ]
        event = {"added": self.rng.sample(every, 2), "removed": self.rng.sample(every, 2)}
        self.peer.notify("workspace/didChangeWorkspaceFolders", {"event": event})

    async def command(self) -> None:
        mode = self.rng.choice(["auto", "ar", "block"])
        await self.peer.run("dlm.setMode", mode=mode)
        await self.peer.run("dlm.stats")

    async def fill(self) -> None:
        """Fills a hole by the command, whose edit comes as a request of the server."""
        buffer = self._buffer()
        fields = {"uri": buffer.uri, "position": self._place(buffer.text, self._offset(buffer))}

        def check(answer: Message) -> None:
            code = answer.get("error", {}).get("code")
            if code not in (None, CANCELLED, CONTENT_MODIFIED):
                self.peer.faults.append(f"dlm.fill: {answer['error']}")

        params = {"command": "dlm.fill", "arguments": [fields]}
        self.peer.ask("workspace/executeCommand", params, check)

    def _apply_edit(self, params: Message) -> Message:
        (change,) = params["edit"]["documentChanges"]
        item, (edit,) = change["textDocument"], change["edits"]
        buffer = next(one for one in self.buffers if one.uri == item["uri"])
        if buffer.number != item["version"] or buffer.is_lost:
            return {"applied": False}
        found = self._range(buffer.text, {"range": edit["range"], "textEdit": edit})
        if found is None:
            self.peer.faults.append(f"{buffer.uri}: an edit outside of the text: {edit}")
            return {"applied": False}
        self.counts["edits applied"] += 1
        self._replace(buffer, *found, self._written(buffer, edit["newText"]))
        return {"applied": True}

    async def hostile(self) -> None:
        """Sends what no editor should: it is answered once if it has an id, and changes nothing."""
        hostile.send(self.peer, self.rng, self._buffer(may_be_lost=True).uri)

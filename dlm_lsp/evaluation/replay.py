"""Typing replay: a simulated typist works on real files with a session of the language server.

After every key that changes the text, the session is asked as by an editor while its user types,
and answers before the next key. A suggestion is right if all of its text comes next and no closer
remains too many; the typist then accepts it with one key. Owns the counts; the session is the
editor's own, with its cache, marks and shaping.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dlm_lsp.evaluation.options import REPLAY
from dlm_lsp.evaluation.shown import Shown, ShownInFile, Verdict, place_kind
from dlm_lsp.evaluation.typist import (
    Manuscript,
    Splice,
    accept,
    continues,
    keys_to,
    open_manuscript,
    press,
)
from dlm_lsp.session.document import Change, Document, Encoding
from dlm_lsp.session.engine_link import EngineLink
from dlm_lsp.session.requests import Ask, DraftNotice, Offer, RefinementNotice, Status
from dlm_lsp.session.session import Session
from engine.errors import EngineFailure
from engine.lab.evaluation.records import ReplayRecord

ENCODING = Encoding.UTF16
ACCEPTED_CHARS_MIN = 2  # Typing one character is as fast as accepting it.
# The shares of lines after which the typist goes to another missing part, and of keys before which
# the typist looks at another line.
JUMP_SHARE, LOOK_SHARE = 0.15, 0.01


@dataclass(frozen=True, slots=True)
class TypingScript:
    """One file to be typed, with the same keys for every mode except for accepted suggestions."""

    id: str
    text: str
    seed: int


@dataclass(slots=True)
class Deaf:
    """An editor that keeps only errors and log lines."""

    errors: list[str] = field(default_factory=list)

    def draft(self, notice: DraftNotice) -> None:
        """Ignores drafts."""

    def refinement(self, notice: RefinementNotice) -> None:
        """Ignores refinements, which a typist does not ask for."""

    def status(self, status: Status) -> None:
        """Ignores the status."""

    def log(self, message: str) -> None:
        """Keeps a log line, which is reported if the replay fails."""
        self.errors.append(message)

    def show_error(self, message: str) -> None:
        """Keeps an error."""
        self.errors.append(message)

    def loading(self, message: str | None) -> None:
        """Ignores loading, which ends before the first key."""


@dataclass(slots=True)
class Counts:
    """The counts of a `ReplayRecord`."""

    right: int = 0
    partly: int = 0
    wrong: int = 0
    silent: int = 0
    accepted: int = 0
    keys: int = 0
    keys_without: int = 0
    elsewhere: int = 0
    unwanted: int = 0
    ms: list[float] = field(default_factory=list)
    new: int = 0
    new_right: int = 0

    def judge(self, verdict: Verdict, *, is_new: bool) -> None:
        """Counts a suggestion where something was to be typed."""
        self.right += verdict == "right"
        self.partly += verdict == "partly"
        self.wrong += verdict == "wrong"
        self.new += is_new
        self.new_right += is_new and verdict != "wrong"


def draw_scripts(sources: Sequence[tuple[str, str]], count: int, seed: int) -> list[TypingScript]:
    """Draws at most `count` of the (name, text) files that are long enough, by the seed.

    Each first part of the names ("package/...") has the same weight.
    """
    rng = np.random.default_rng([seed, len(sources)])
    groups: dict[str, list[tuple[str, str]]] = {}
    for index in rng.permutation(len(sources)):
        groups.setdefault(sources[index][0].partition("/")[0], []).append(sources[index])
    scripts: list[TypingScript] = []
    names = sorted(groups)
    while len(scripts) < count and names:
        for name in list(names):
            if not groups[name]:
                names.remove(name)
                continue
            path, text = groups[name].pop()
            script = TypingScript(path, text, seed + len(scripts))
            if open_manuscript(text, np.random.default_rng(script.seed)) is not None:
                scripts.append(script)
            if len(scripts) == count:
                break
    return scripts


async def replay(
    script: TypingScript,
    mode: str,
    client_settings: dict[str, object],
    keys_max: int,
    make_link: Callable[[Deaf], EngineLink] = EngineLink,
    keep: Callable[[ShownInFile], None] | None = None,
) -> ReplayRecord:
    """Types a file in one mode, with at most `keys_max` keys.

    Args:
        client_settings: the settings that an editor would send.
        make_link: makes the link to the host; tests replace it.
        keep: is told the suggestions that were shown, once the file has been typed.

    Raises:
        EngineFailure: the session reported an error.
    """
    editor = Deaf()
    # The typist presses the next key after the answer, so that a delay would only take time.
    session = Session(editor, ENCODING, make_link(editor), {**client_settings, "delay": 0})
    try:
        await session.start()
        desk = _Desk(script, session, editor)
        counts = await desk.work(keys_max)
    finally:
        await session.close()
    asks = counts.right + counts.partly + counts.wrong + counts.silent
    if keep is not None:
        keep(ShownInFile(script.id, mode, asks, counts.elsewhere, desk.shown))
    return ReplayRecord(
        suite=REPLAY,
        id=script.id,
        mode=mode,
        asks=asks,
        right=counts.right,
        partly=counts.partly,
        wrong=counts.wrong,
        silent=counts.silent,
        accepted=counts.accepted,
        keys=counts.keys,
        keys_without=counts.keys_without,
        elsewhere=counts.elsewhere,
        unwanted=counts.unwanted,
        ms=tuple(counts.ms),
        new=counts.new,
        new_right=counts.new_right,
    )


class _Desk:
    """One file in one session, which has the same text as the typist.

    Attributes:
        shown: the suggestions shown so far, but not those after a typo.
    """

    def __init__(self, script: TypingScript, session: Session, editor: Deaf) -> None:
        self._rng = np.random.default_rng(script.seed)
        manuscript = open_manuscript(script.text, self._rng)
        assert manuscript is not None, "draw_scripts gives only files that can be opened"
        self._manuscript: Manuscript = manuscript
        self._session = session
        self._editor = editor
        self._counts = Counts()
        self.shown: list[Shown] = []
        self._is_cached = False
        uri = f"file:///replay/{script.id}"
        self._document = Document(uri, _language(script.id), 1, manuscript.text)

    async def work(self, keys_max: int) -> Counts:
        """Types until the file is complete or `keys_max` keys were pressed."""
        self._session.open(self._document)
        counts, manuscript = self._counts, self._manuscript
        while counts.keys < keys_max and self._choose_part():
            if self._rng.random() < LOOK_SHARE:
                await self._look_elsewhere()
            keys, splice = press(manuscript, self._rng)
            counts.keys += keys
            counts.keys_without += keys
            if splice is not None:
                self._change(splice)
                await self._take_suggestion()
            if splice is not None and splice.text.startswith("\n"):
                self._maybe_jump()
        return counts

    def _choose_part(self) -> bool:
        """Goes to the next part if this one is complete; returns whether a part is left."""
        manuscript = self._manuscript
        if manuscript.part.is_complete:
            left = [i for i, part in enumerate(manuscript.parts) if not part.is_complete]
            if not left:
                return False
            manuscript.at = left[0]
        return True

    def _maybe_jump(self) -> None:
        manuscript = self._manuscript
        others = [
            index
            for index, part in enumerate(manuscript.parts)
            if index != manuscript.at and not part.is_complete
        ]
        if others and self._rng.random() < JUMP_SHARE:
            manuscript.at = others[self._rng.integers(len(others))]

    async def _look_elsewhere(self) -> None:
        """Looks at the end of another, complete line, where every suggestion is unwanted."""
        line = int(self._rng.integers(self._document.line_count))
        offset = self._document.line_end(line)
        if self._document.line_of(self._manuscript.cursor) == line or any(
            self._near(offset, index) for index in range(len(self._manuscript.parts))
        ):
            return
        self._counts.elsewhere += 1
        offer = await self._ask(offset)
        self._counts.unwanted += offer is not None
        if offer is not None:
            self._note(offer, offset, "unwanted")

    def _near(self, offset: int, index: int) -> bool:
        """Returns whether text is missing near an offset."""
        manuscript, at = self._manuscript, self._manuscript.at
        manuscript.at = index
        cursor, manuscript.at = manuscript.cursor, at
        return self._document.line_of(cursor) == self._document.line_of(offset)

    async def _take_suggestion(self) -> None:
        """Asks at the cursor, judges the answer and accepts a right one."""
        manuscript, counts = self._manuscript, self._counts
        part = manuscript.part
        offer = await self._ask(manuscript.cursor)
        if part.surplus.strip():
            return  # After a typo no suggestion is right.
        if not part.rest:
            counts.elsewhere += 1
            counts.unwanted += offer is not None
            if offer is not None:
                self._note(offer, manuscript.cursor, "unwanted")
            return
        if offer is None:
            counts.silent += 1
            return
        replaced = offer.end - manuscript.cursor
        if not continues(part, offer.text, replaced):
            first = offer.text.split("\n", 1)[0]
            is_partly = bool(first.strip()) and continues(
                part, first, min(replaced, len(part.pending))
            )
            verdict: Verdict = "partly" if is_partly else "wrong"
            counts.judge(verdict, is_new=not self._is_cached)
            self._note(offer, manuscript.cursor, verdict, part.rest)
            return
        counts.judge("right", is_new=not self._is_cached)
        self._note(offer, manuscript.cursor, "right", part.rest)
        if len(offer.text) >= ACCEPTED_CHARS_MIN:
            counts.accepted += 1
            counts.keys += 1
            counts.keys_without += keys_to(manuscript, part.done + len(offer.text))
            self._change(accept(manuscript, offer.text, replaced))

    def _note(self, offer: Offer, offset: int, verdict: Verdict, rest: str = "") -> None:
        """Notes a suggestion that was shown at an offset; `rest` is what comes next there."""
        text, document = offer.text, self._document
        line = document.line_of(offset)
        pairs = enumerate(zip(text, rest, strict=False))
        same = next((at for at, (one, other) in pairs if one != other), min(len(text), len(rest)))
        lines = rest.split("\n", 1)[0], text.split("\n", 1)[0]
        self.shown.append(
            Shown(
                verdict=verdict,
                kind=place_kind(
                    document.text[document.line_start(line) : offset],
                    document.text[offset : document.line_end(line)],
                ),
                text=text,
                logprobs=offer.logprobs,
                same=same,
                is_line=lines[0] == lines[1],
                is_cached=self._is_cached,
            )
        )

    async def _ask(self, offset: int) -> Offer | None:
        """Returns the offer that an editor would show at an offset."""
        position = self._document.position_at(offset, ENCODING)
        before = self._session.counts["from_cache"]
        began = time.perf_counter()
        answer = await self._session.complete(Ask(self._document.uri, position))
        self._counts.ms.append(round((time.perf_counter() - began) * 1000, 2))
        self._is_cached = self._session.counts["from_cache"] > before
        if self._editor.errors or answer is None:
            raise EngineFailure("; ".join(self._editor.errors) or "A request was not answered.")
        return answer.offers[0] if answer.offers else None

    def _change(self, splice: Splice) -> None:
        document = self._document
        start = document.position_at(splice.start, ENCODING)
        end = document.position_at(splice.start + splice.removed, ENCODING)
        changes = [Change(start, end, splice.text)]
        self._document, _ = document.apply(changes, document.version + 1, ENCODING)
        self._session.change(document.uri, self._document.version, changes)
        assert self._document.text == self._manuscript.text, "the typist lost track of the text"


def _language(path: str) -> str:
    names = {".js": "javascript", ".ts": "typescript", ".c": "c", ".h": "c", ".lua": "lua"}
    names |= {".go": "go", ".rs": "rust", ".java": "java"}
    return names.get("." + path.rpartition(".")[2], "python")

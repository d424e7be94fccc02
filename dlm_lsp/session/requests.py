"""The types that pass between a session and the language server.

Requests and answers count in offsets; `Editor` is what a session can tell the editor, and tests
replace it with a recorder. Owns no state and knows no LSP. This module is imported before
`initialize` is answered, so it imports nothing slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from dlm_lsp.session.document import Document, Position
from engine.api import AskedMode, LogProbs

if TYPE_CHECKING:
    from dlm_lsp.session.pipeline import Suggestion
    from dlm_lsp.session.refine import Refined


@dataclass(frozen=True, slots=True)
class Selected:
    """The entry of the editor's popup menu that would replace start..end by `text`."""

    start: Position
    end: Position
    text: str


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for a completion.

    Attributes:
        automatic: whether a keystroke and not the user's explicit wish caused the request.
        count: the largest number of answers.
        selected: the popup menu's entry that every answer must extend.
        token: the name of the request in drafts and in `dlm.cancel`; None means no drafts.
        tokens_max: the limit that overrides the settings' limit.
        mode: the decoding mode that overrides the settings' mode.
    """

    uri: str
    position: Position
    automatic: bool = True
    count: int = 1
    selected: Selected | None = None
    token: str | int | None = None
    tokens_max: int | None = None
    mode: AskedMode | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the request has no options of its own, so that its answer can be shared."""
        return self.selected is None and self.tokens_max is None and self.mode is None


@dataclass(frozen=True, slots=True)
class RefineAsk:
    """A request to refine the text from `start` to `end`.

    Attributes:
        token: the name of the request in its notices and in `dlm.cancel`; None means no notices.
        threshold: the probability below which a token is doubted; None means the default.
    """

    uri: str
    start: Position
    end: Position
    token: str | int | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class NextEditAsk:
    """A request for the next edit that the last changes of a document ask for.

    Attributes:
        position: the cursor; nearer places come first.
        token: the name of the request in `dlm.cancel`.
    """

    uri: str
    position: Position
    token: str | int | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer to replace `document.text[start:end]` with `text`, as it was shown.

    `logprobs` are the tokens of `text`, after the popup menu's entry; empty if unknown.
    """

    id: str
    text: str
    start: int
    end: int
    logprobs: LogProbs = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """Offers for one document version, best first; `reason` says why there are none."""

    document: Document
    offers: tuple[Offer, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """The server's status, which is sent to editors that asked for it.

    Attributes:
        state: "off" if a setting switches the server off, "error" if the engine cannot be used.
        message: one sentence for the user.
        reason: why the last request showed nothing; None if it showed something.
        last_ms: the time from the last request to its answer, in milliseconds.
        tokens_per_forward: the tokens per forward of the last request that the engine finished.
        snoozed_until: the time of `time.time` up to which suggestions are snoozed; None if not.
        documents_off: the URIs of documents whose suggestions the user has switched off.
    """

    state: Literal["loading", "ready", "busy", "off", "error"]
    message: str
    reason: str | None = None
    mode: str = "auto"
    model: str | None = None
    device: str | None = None
    last_ms: float | None = None
    tokens_per_forward: float | None = None
    snoozed_until: float | None = None
    documents_off: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DraftNotice:
    """A draft to show for the request with this `token`.

    Attributes:
        document: the snapshot in which the request was made.
        position: the request's cursor in the snapshot, in the editor's encoding.
        start, end: the range that the text would replace, in the editor's encoding.
        lead: the text of the popup menu's entry with which the completion begins.
        state: the whole completion so far; its `committed` starts with that of the previous
            notice, and undecided places of its `draft` are `engine.api.MASKED`.
        sequence: the number of the draft, counting from 1.
    """

    token: str | int
    document: Document
    position: Position
    start: Position
    end: Position
    lead: str
    state: Suggestion
    sequence: int

    @property
    def committed(self) -> str:
        """The text that no longer changes, including the lead."""
        return self.lead + self.state.committed


@dataclass(frozen=True, slots=True)
class RefinementNotice:
    """The state of a selection that is refined, for the request with this `token`.

    Attributes:
        document: the snapshot in which the request was made.
        start, end: the selection in the snapshot, in the editor's encoding.
        state: the whole selection so far.
        sequence: the number of the notice, counting from 1.
    """

    token: str | int
    document: Document
    start: Position
    end: Position
    state: Refined
    sequence: int


class Editor(Protocol):
    """The editor as a session sees it. No method waits, returns anything or raises."""

    def draft(self, notice: DraftNotice) -> None:
        """Shows a draft."""
        ...

    def refinement(self, notice: RefinementNotice) -> None:
        """Shows a selection that is refined."""
        ...

    def status(self, status: Status) -> None:
        """Sends the status to an editor that asked for it."""
        ...

    def log(self, message: str) -> None:
        """Writes a line into the editor's log of this server."""
        ...

    def show_error(self, message: str) -> None:
        """Shows an error that the user must act on."""
        ...

    def loading(self, message: str | None) -> None:
        """Shows the progress of loading; None means that loading has ended, well or badly."""
        ...

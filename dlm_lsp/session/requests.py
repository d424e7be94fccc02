"""What passes between a session and the server that speaks LSP for it.

The seam between the two: requests and answers in offsets, and what a session may tell the editor;
tests stand a recorder in the editor's place. Owns no state and knows no LSP. Imported before
`initialize` is answered, so it pulls in nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from dlm_lsp.session.document import Document, Position

if TYPE_CHECKING:
    from dlm_lsp.session.pipeline import Suggestion


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
        automatic: it came with a keystroke, not by the user's wish.
        count: most answers wanted.
        selected: what every answer must extend.
        token: names the request in drafts and in `dlm.cancel`; None: no drafts.
        tokens_max: overrides the settings' limit.
    """

    uri: str
    position: Position
    automatic: bool = True
    count: int = 1
    selected: Selected | None = None
    token: str | int | None = None
    tokens_max: int | None = None

    @property
    def is_plain(self) -> bool:
        """Whether any other request at the same place would be answered alike."""
        return self.selected is None and self.tokens_max is None


@dataclass(frozen=True, slots=True)
class Offer:
    """Replace `document.text[start:end]` by `text`, and that is what was shown."""

    id: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Offers for one document version, best first; without any, `reason` says why."""

    document: Document
    offers: tuple[Offer, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """How the server is; sent to editors that asked for it.

    Attributes:
        state: "off" means switched off by a setting, "error" that the engine cannot be used.
        message: one sentence for people.
        reason: why the last request showed nothing; None where it showed something.
        last_ms: from the last request to its answer, in milliseconds.
        tokens_per_forward: of the last request that the engine ran to its end.
    """

    state: Literal["loading", "ready", "busy", "off", "error"]
    message: str
    reason: str | None = None
    mode: str = "auto"
    model: str | None = None
    device: str | None = None
    last_ms: float | None = None
    tokens_per_forward: float | None = None


@dataclass(frozen=True, slots=True)
class DraftNotice:
    """A draft to be shown, for the request with this `token`.

    Attributes:
        document: the snapshot that the request was made on.
        position: of the request's cursor in it, as the editor counts.
        start, end: what the text would replace, as the editor counts.
        lead: text of the editor's own with which the completion begins.
        state: the whole completion as it is now; its `committed` starts with that of the notice
            before, and undecided places of its `draft` are `engine.api.MASKED`.
        sequence: from 1, grows by one.
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
        """What will not change, the lead included."""
        return self.lead + self.state.committed


class Editor(Protocol):
    """The editor's side. Nothing here waits, answers or raises."""

    def draft(self, notice: DraftNotice) -> None:
        """Shows a draft."""
        ...

    def status(self, status: Status) -> None:
        """Tells the status, where the editor wants to know it."""
        ...

    def log(self, message: str) -> None:
        """Writes a line into the editor's log of this server."""
        ...

    def show_error(self, message: str) -> None:
        """Shows what the user must act on."""
        ...

    def loading(self, message: str | None) -> None:
        """Tells how loading goes on; None when it is over, for better or worse."""
        ...

"""Converts between LSP's types and ours: positions to offsets, and answers to LSP items.

Owns every message shape (ARCHITECTURE.md describes those that LSP does not define) and accepts
some client messages that lsprotocol would refuse. Decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Union

import cattrs
from lsprotocol import types
from pygls.protocol import default_converter

from dlm_lsp.session.document import Change, Document, Encoding, Position
from dlm_lsp.session.requests import (
    Answer,
    DraftNotice,
    Offer,
    RefinementNotice,
    Selected,
    Status,
)

if TYPE_CHECKING:  # It takes too long to import before `initialize` is answered.
    from dlm_lsp.client.messages import SpanBody

ACCEPTED = "dlm.accepted"
FILL = "dlm.fill"
REFINE = "dlm.refine"
NEXT_EDIT = "dlm.nextEdit"
LABEL_CHARS_MAX = 60

# Editors whose buffers know their line ends: they put \n for any line end that they are sent to
# insert, or split the text at \n alone and keep a \r in it (Neovim 0.12).
_OWN_LINE_ENDS = (
    *("neovim", "vim", "coc", "visual studio code", "vscode", "vscodium", "code", "cursor"),
    *("windsurf", "emacs", "eglot", "lsp-mode", "zed", "sublime"),
)
_WORD_END = re.compile(r"\w*\Z")

# vscode-languageclient up to 9.0.1 forwards VS Code's own numbers: 0 for an explicit request and 1
# for an automatic one. lsprotocol knows only 1 (invoked) and 2 (automatic).
KIND_ZERO = 0


def make_converter() -> cattrs.Converter:
    """Returns pygls' converter, extended to accept what real clients send, and to refuse values of
    a wrong type, which it would convert: a text of null would become "None"."""
    converter = default_converter()
    converter.register_structure_hook(types.InlineCompletionTriggerKind, _to_trigger_kind)
    converter.register_structure_hook(str, _to_text)
    converter.register_structure_hook(int, _to_integer)
    # As lsprotocol names it: its own `TextDocumentContentChangeEvent` holds unresolved names.
    content_change = Union[  # noqa: UP007
        types.TextDocumentContentChangePartial, types.TextDocumentContentChangeWholeDocument
    ]
    structured = converter.get_structure_hook(content_change)

    def to_content_change(value: Any, kind: type) -> Any:
        if isinstance(value, dict) and value.get("range", 0) is None:
            value = {"text": value.get("text")}  # The whole text, from a client that writes nulls.
        return structured(value, kind)

    converter.register_structure_hook(content_change, to_content_change)
    return converter


def _to_trigger_kind(value: Any, _: type) -> Any:
    return KIND_ZERO if value == KIND_ZERO else types.InlineCompletionTriggerKind(value)


def _to_text(value: Any, kind: type) -> Any:
    if kind is not str:  # The hook is used for subclasses as well, which are enumerations.
        return kind(value)
    if not isinstance(value, str):
        raise ValueError(f"a text was expected, not {type(value).__name__}")
    return value


def _to_integer(value: Any, kind: type) -> Any:
    if kind is not int:  # An enumeration, or `bool`.
        return kind(value)
    is_whole = isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0
    if not is_whole:  # Some JSON libraries write whole numbers as 1.0.
        raise ValueError(f"an integer was expected, not {value!r}"[:80])
    return int(value)


def to_position(position: types.Position) -> Position:
    """Converts a position, which stays in the client's encoding."""
    return Position(position.line, position.character)


def to_changes(changes: Sequence[types.TextDocumentContentChangeEvent]) -> list[Change]:
    """Converts content changes, in the order in which they apply."""
    return [
        Change(to_position(change.range.start), to_position(change.range.end), change.text)
        if isinstance(change, types.TextDocumentContentChangePartial)
        else Change(None, None, change.text)
        for change in changes
    ]


def to_selected(info: types.SelectedCompletionInfo | None) -> Selected | None:
    """Returns the popup menu's entry of a request, or None."""
    if info is None:
        return None
    start, end = to_position(info.range.start), to_position(info.range.end)
    return Selected(start, end, info.text)


def to_range(document: Document, start: int, end: int, encoding: Encoding) -> types.Range:
    """Converts two offsets of a document to an LSP range."""
    first, last = document.position_at(start, encoding), document.position_at(end, encoding)
    return types.Range(
        types.Position(first.line, first.character), types.Position(last.line, last.character)
    )


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a client writes text.

    Attributes:
        encoding: the unit in which it counts characters.
        owns_line_ends: whether it gives inserted text the document's line ends itself, so that it
            must be sent \\n: another \\r would be kept as a character.
    """

    encoding: Encoding
    owns_line_ends: bool = False

    def written(self, text: str) -> str:
        """Returns a text as the client is to be sent it."""
        return re.sub(r"\r\n?", "\n", text) if self.owns_line_ends else text

    def units(self, text: str, offset: int) -> int:
        """Converts an offset into a text without lines to units of the text as it is sent."""
        before = text[:offset]
        if offset < len(text) and text[offset - 1 : offset + 1] == "\r\n":
            before = text[: offset - 1]  # Half a line end is none.
        return _in_units(self.written(before), self.encoding)


def dialect_of(client: types.InitializeParams | None, encoding: Encoding) -> Dialect:
    """Returns the dialect of a client by the name that it gives itself."""
    info = client.client_info if client is not None else None
    name = info.name.lower() if info is not None and isinstance(info.name, str) else ""
    return Dialect(encoding, name.startswith(_OWN_LINE_ENDS))


def to_inline_items(answer: Answer, dialect: Dialect) -> list[types.InlineCompletionItem]:
    """Converts an answer to that of `textDocument/inlineCompletion`."""
    return [
        types.InlineCompletionItem(
            insert_text=dialect.written(offer.text),
            range=to_range(answer.document, offer.start, offer.end, dialect.encoding),
            command=_accepted(offer),
        )
        for offer in answer.offers
    ]


def to_completion_item(answer: Answer, offer: Offer, dialect: Dialect) -> types.CompletionItem:
    """Converts an answer to that of `textDocument/completion`.

    The range and the filter text begin with the word before the cursor, so that an editor that
    filters by this word keeps the item. The item is not preselected, because an accidental Enter
    would insert many lines.
    """
    document = answer.document
    before = document.text[document.line_start(document.line_of(offer.start)) : offer.start]
    word = _WORD_END.findall(before)[0]
    text = dialect.written(word + offer.text)
    label = " ".join(text.split())
    return types.CompletionItem(
        label=label if len(label) <= LABEL_CHARS_MAX else f"{label[: LABEL_CHARS_MAX - 1]}…",
        kind=types.CompletionItemKind.Snippet,
        detail="dlm-lsp",
        documentation=text,
        filter_text=text,
        sort_text="\x7f",  # This sorts after the items of the language's server.
        preselect=False,
        insert_text_format=types.InsertTextFormat.PlainText,
        insert_text_mode=types.InsertTextMode.AsIs,
        text_edit=types.TextEdit(
            range=to_range(document, offer.start - len(word), offer.end, dialect.encoding),
            new_text=text,
        ),
        command=_accepted(offer),
    )


def to_workspace_edit(
    answer: Answer, offer: Offer, dialect: Dialect, *, versioned: bool
) -> types.WorkspaceEdit:
    """Converts an offer to an edit, with the document's version if the client supports that."""
    document = answer.document
    place = to_range(document, offer.start, offer.end, dialect.encoding)
    edit = types.TextEdit(place, dialect.written(offer.text))
    if not versioned:
        return types.WorkspaceEdit(changes={document.uri: [edit]})
    identifier = types.OptionalVersionedTextDocumentIdentifier(document.uri, document.version)
    return types.WorkspaceEdit(document_changes=[types.TextDocumentEdit(identifier, [edit])])


def to_fill_action(document: Document, position: Position, *, tagged: bool) -> types.CodeAction:
    """Returns the code action `Fill here`."""
    arguments = {
        "uri": document.uri,
        "version": document.version,
        "position": {"line": position.line, "character": position.character},
    }
    return types.CodeAction(
        title="Fill here",
        kind=types.CodeActionKind.RefactorRewrite,
        command=types.Command(title="Fill here", command=FILL, arguments=[arguments]),
        tags=[types.CodeActionTag.LlmGenerated] if tagged else None,
    )


def to_next_edit_action(
    document: Document, position: Position, *, tagged: bool
) -> types.CodeAction:
    """Returns the code action `Next edit`."""
    arguments = {
        "textDocument": {"uri": document.uri, "version": document.version},
        "position": _plain(position),
    }
    return types.CodeAction(
        title="Next edit",
        kind=types.CodeActionKind.RefactorRewrite,
        command=types.Command(title="Next edit", command=NEXT_EDIT, arguments=[arguments]),
        tags=[types.CodeActionTag.LlmGenerated] if tagged else None,
    )


def to_refine_action(
    document: Document, start: Position, end: Position, *, tagged: bool
) -> types.CodeAction:
    """Returns the code action `Refine selection`."""
    arguments = {
        "textDocument": {"uri": document.uri, "version": document.version},
        "range": {"start": _plain(start), "end": _plain(end)},
    }
    return types.CodeAction(
        title="Refine selection",
        kind=types.CodeActionKind.RefactorRewrite,
        command=types.Command(title="Refine selection", command=REFINE, arguments=[arguments]),
        tags=[types.CodeActionTag.LlmGenerated] if tagged else None,
    )


def to_draft_params(notice: DraftNotice, dialect: Dialect) -> dict[str, Any]:
    """Returns the parameters of `dlm/draft`."""
    document, state = notice.document, notice.state
    return {
        "token": notice.token,
        "textDocument": {"uri": document.uri, "version": document.version},
        "position": _plain(notice.position),
        "range": {"start": _plain(notice.start), "end": _plain(notice.end)},
        "committed": dialect.written(notice.committed),
        "draft": dialect.written(state.draft),
        "spans": _spans(state.draft, state.spans, dialect),
        "sequence": notice.sequence,
        "final": state.final,
    }


def to_refinement_params(notice: RefinementNotice, dialect: Dialect) -> dict[str, Any]:
    """Returns the parameters of `dlm/refinement`."""
    document, state = notice.document, notice.state
    return {
        "token": notice.token,
        "textDocument": {"uri": document.uri, "version": document.version},
        "range": {"start": _plain(notice.start), "end": _plain(notice.end)},
        "text": dialect.written(state.text),
        "spans": _spans(state.text, state.spans, dialect),
        "sequence": notice.sequence,
        "final": state.final,
    }


def _spans(text: str, spans: Sequence[SpanBody], dialect: Dialect) -> list[dict[str, Any]]:
    """Returns the confidences of parts of a text, in units of the text as it is sent."""
    return [
        {
            "start": dialect.units(text, span.start),
            "end": dialect.units(text, span.end),
            "confidence": round(span.confidence, 4),
        }
        for span in spans
    ]


def to_status_params(status: Status) -> dict[str, Any]:
    """Returns the parameters of `dlm/status`."""
    return {
        "state": status.state,
        "message": status.message,
        "reason": status.reason,
        "mode": status.mode,
        "model": status.model,
        "device": status.device,
        "lastMs": status.last_ms,
        "tokensPerForward": status.tokens_per_forward,
        "snoozedUntil": _in_words(status.snoozed_until),
        "documentsOff": list(status.documents_off),
    }


def _accepted(offer: Offer) -> types.Command:
    """Returns the command that the editor runs after it has inserted the offer."""
    arguments = [{"id": offer.id, "kind": "full"}]
    return types.Command(title="Suggestion accepted", command=ACCEPTED, arguments=arguments)


def _plain(position: Position) -> dict[str, int]:
    return {"line": position.line, "character": position.character}


def _in_words(moment: float | None) -> str | None:
    """Returns a time of `time.time` in ISO 8601, in UTC."""
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def _in_units(text: str, encoding: Encoding) -> int:
    """Returns the length of a text in units of the encoding."""
    if encoding is Encoding.UTF32:
        return len(text)
    if encoding is Encoding.UTF8:
        return len(text.encode())
    return len(text.encode("utf-16-le")) // 2
